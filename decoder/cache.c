/* SPDX-License-Identifier: MIT */
/* Templates, found by a hash of the head's bytes. How long the head is says outline.h, which knows less than the
 * library: where the two disagree, an instruction is decoded anew each time. What is found is right in any case: its
 * template was made from an instruction that begins with the same bytes.
 *
 * insn_cache_find and what it calls are built without vector registers (Makefile); so is the rest of this file, which
 * calls the library by way of insn_decode_shape. */
#include "decoder/cache.h"

#include "decoder/outline.h"
#include "decoder/shape.h"

#include <stdlib.h>

enum { MODES = 3, TEMPLATES = 1 << 14, SLOTS = 2 * TEMPLATES, LONGEST = 15 };

/* Two cache lines side by side, which processors fetch together. */
struct template
{
    _Alignas(128) struct insn insn; /* the tail's values and bytes zero */
    struct insn_shape shape;
};
_Static_assert(sizeof(struct template) == 128, "what is not in the caches any more is what a look-up costs");

struct slot {
    uint16_t check; /* bits of the hash that do not say which slot it is */
    uint16_t index; /* of the template, 0: none */
};
_Static_assert(TEMPLATES < 1 << 16, "an index has 16 bits");

struct insn_cache {
    struct slot slots[SLOTS];
    struct template *templates;
    uint32_t template_count;
    uint8_t sure[MODES][2][4][256]; /* see sure_of */
};

static void start(struct insn_cache *c)
{
    for (unsigned i = 0; i < SLOTS; i++)
        *(volatile uint16_t *)&c->slots[i].index = 0; /* not by memset, which uses vector registers */
    c->template_count = 1;
}

struct insn_cache *insn_cache_create(void)
{
    struct insn_cache *c = calloc(1, sizeof *c);
    if (c && !(c->templates = aligned_alloc(_Alignof(struct template), TEMPLATES * sizeof *c->templates))) {
        free(c);
        return NULL;
    }
    if (c)
        c->template_count = 1;
    return c;
}

void insn_cache_destroy(struct insn_cache *c)
{
    if (!c)
        return;
    free(c->templates);
    free(c);
}

/* ---- heads ---- */

/* 16 bytes can be read. */
static void head_set(struct insn_head *h, const uint8_t *bytes, unsigned length, enum insn_mode mode)
{
    __builtin_memcpy(&h->low, bytes, 8);
    __builtin_memcpy(&h->high, bytes + 8, 8);
    h->high = length <= 8 ? 0 : h->high & ~0ull >> (128 - 8 * length);
    h->low = length >= 8 ? h->low : h->low & ~0ull >> (64 - 8 * length);
    h->length = (uint8_t)length;
    uint64_t mixed = h->low ^ h->high * 0xc2b2ae3d27d4eb4full ^ length ^ (uint64_t)mode << 4;
    mixed *= 0x9e3779b97f4a7c15ull;
    h->slot = (uint32_t)(mixed >> 32) % SLOTS;
    h->check = (uint16_t)(mixed >> 48);
}

static bool head_is(const struct insn_head *h, const struct template *t, enum insn_mode mode)
{
    uint64_t low, high;
    __builtin_memcpy(&low, t->insn.bytes, 8);
    __builtin_memcpy(&high, t->insn.bytes + 7, 8); /* the tail is zero */
    return low == h->low && high >> 8 == h->high && t->shape.head == h->length && t->insn.mode == mode;
}

static const struct template *find_template(const struct insn_cache *c, const struct insn_head *h, enum insn_mode mode)
{
    for (uint32_t i = h->slot; c->slots[i].index; i = (i + 1) % SLOTS) {
        const struct template *t = &c->templates[c->slots[i].index];
        if (c->slots[i].check == h->check && head_is(h, t, mode))
            return t;
    }
    return NULL;
}

/* ---- tails ---- */

/* One field of the tail, of 1, 2, 4 or 8 bytes, copied on the way. */
static uint64_t take_field(uint8_t *to, const uint8_t *from, unsigned len, bool is_signed)
{
    int64_t v = 0;
    switch (len) {
    case 1:
        v = (int8_t)(*to = *from);
        return is_signed ? (uint64_t)v : (uint8_t)v;
    case 2:
        __builtin_memcpy(&v, from, 2);
        __builtin_memcpy(to, &v, 2);
        return is_signed ? (uint64_t)(int16_t)v : (uint64_t)v;
    case 4:
        __builtin_memcpy(&v, from, 4);
        __builtin_memcpy(to, &v, 4);
        return is_signed ? (uint64_t)(int32_t)v : (uint64_t)v;
    default:
        __builtin_memcpy(&v, from, 8);
        __builtin_memcpy(to, &v, 8);
        return (uint64_t)v;
    }
}

/* The template with the tail that is in bytes. False: the values change more than themselves. */
static bool complete(struct insn *out, const struct template *t, const uint8_t *bytes)
{
    const struct insn_shape *s = &t->shape;
    unsigned at = s->head;
    *out = t->insn;
    if (s->disp_len) {
        out->mem.disp = (int64_t)take_field(out->bytes + at, bytes + at, s->disp_len, true);
        at += s->disp_len;
    }
    if (!s->imm_len)
        return true;
    out->imm = take_field(out->bytes + at, bytes + at, s->imm_len, s->imm_signed);
    return !s->shift || (out->imm & (out->opsize == 8 ? 0x3f : 0x1f));
}

int insn_cache_find_head(const struct insn_cache *c, struct insn *out, const struct insn_head *head,
                         const uint8_t *bytes, size_t avail, enum insn_mode mode)
{
    const struct template *t = find_template(c, head, mode);
    return t && t->insn.len <= avail && complete(out, t, bytes) ? t->insn.len : 0;
}

int insn_cache_find(const struct insn_cache *c, struct insn *out, const uint8_t *bytes, size_t avail,
                    enum insn_mode mode)
{
    uint8_t few[16];
    struct insn_head h;
    if (avail < sizeof few) {
        for (size_t i = 0; i < sizeof few; i++)
            few[i] = i < avail ? bytes[i] : 0;
        bytes = few;
    }
    head_set(&h, bytes, outline(bytes, mode).head, mode);
    return insn_cache_find_head(c, out, &h, bytes, avail, mode);
}

unsigned insn_cache_look_ahead(const struct insn_cache *c, const uint8_t *bytes, size_t avail, enum insn_mode mode,
                               struct insn_head *heads, unsigned count)
{
    unsigned n = 0;
    for (size_t at = 0; n < count && at + 16 <= avail;) {
        struct insn_outline o = outline(bytes + at, mode);
        struct insn_head *h = &heads[n++];
        head_set(h, bytes + at, o.head, mode);
        h->at = (uint8_t)at;
        __builtin_prefetch(&c->templates[c->slots[h->slot].index]);
        at += o.head + o.tail;
        if (o.leaves)
            break;
    }
    return n;
}

static void remember(struct insn_cache *c, const struct template *t, enum insn_mode mode)
{
    uint8_t bytes[16] = {0};
    struct insn_head h;
    for (unsigned i = 0; i < t->shape.head; i++)
        bytes[i] = t->insn.bytes[i];
    head_set(&h, bytes, t->shape.head, mode);
    if (find_template(c, &h, mode))
        return;
    if (c->template_count == TEMPLATES)
        start(c);
    uint32_t i = h.slot;
    while (c->slots[i].index)
        i = (i + 1) % SLOTS;
    c->slots[i] = (struct slot){.check = h.check, .index = (uint16_t)c->template_count};
    c->templates[c->template_count++] = *t;
}

static bool same(const struct insn *a, const struct insn *b)
{
    const uint64_t *x = (const uint64_t *)a, *y = (const uint64_t *)b;
    for (size_t i = 0; i < sizeof *a / sizeof *x; i++)
        if (x[i] != y[i])
            return false;
    return true;
}
_Static_assert(sizeof(struct insn) % sizeof(uint64_t) == 0, "same compares whole words");

/* Does the template give what the library gives for another tail? The register in an immediate, for one, it does not:
 * 32-bit code ignores the top bit of that. */
static bool holds(const struct template *t, const uint8_t *bytes, enum insn_mode mode)
{
    struct insn expected, got;
    struct insn_shape shape;
    uint8_t other[LONGEST];
    for (unsigned i = 0; i < t->insn.len; i++)
        other[i] = i < t->shape.head ? bytes[i] : 0xa5;
    return insn_decode_shape(&expected, &shape, other, t->insn.len, mode) == t->insn.len && complete(&got, t, other) &&
           same(&expected, &got);
}

/* Templates of integer instructions that differ in registers only need no second look: by ModRM.reg, a bit for those
 * with the same opcode and the same kind of tail that were seen to hold. NULL: each is looked at. */
static uint8_t *sure_of(struct insn_cache *c, const struct template *t)
{
    const struct insn *in = &t->insn;
    if (in->encoding != ENCODING_LEGACY || in->map > MAP_0F || in->mandatory || in->vector || in->mmx || in->x87)
        return NULL;
    unsigned tail = (t->shape.disp_len ? 1 : 0) | (t->shape.imm_len ? 2 : 0);
    return &c->sure[in->mode][in->map][tail][in->opcode];
}

int insn_cache_decode(struct insn_cache *c, struct insn *out, const uint8_t *bytes, size_t avail, enum insn_mode mode)
{
    struct template t;
    int len = insn_decode_shape(out, &t.shape, bytes, avail, mode);
    if (len <= 0 || !t.shape.fixed)
        return len;
    if (t.shape.shift && !(out->imm & (out->opsize == 8 ? 0x3f : 0x1f)))
        return len;
    t.insn = *out;
    for (int i = t.shape.head; i < len; i++)
        t.insn.bytes[i] = 0;
    t.insn.mem.disp = t.shape.disp_len ? 0 : out->mem.disp;
    t.insn.imm = t.shape.imm_len ? 0 : out->imm;
    uint8_t *sure = sure_of(c, &t), reg = (uint8_t)(1 << out->modrm_reg);
    if (t.shape.head == len || (sure && (*sure & reg)) || holds(&t, bytes, mode)) {
        remember(c, &t, mode);
        if (sure && t.shape.head != len)
            *sure |= reg;
    }
    return len;
}
