/* SPDX-License-Identifier: MIT */
/* The tree: one table of 256 entries for the first byte in each mode, then two tables of 16 for the two halves of each
 * further byte. An entry is 0, the index of the next table, or LEAF and the index of a template. No head begins another
 * one, because each byte of it says whether more follow.
 *
 * insn_cache_find and what it calls are built without vector registers (Makefile); so is the rest of this file, which
 * calls the library by way of insn_decode_shape. */
#include "decoder/cache.h"

#include "decoder/shape.h"

#include <stdlib.h>

enum { MODES = 3, ROOT = 256, NIBBLE = 16, TABLES = 1 << 13, TEMPLATES = 1 << 14, LONGEST = 15 };
#define LEAF 0x80000000u

struct template
{
    struct insn insn; /* the tail's values and bytes zero */
    struct insn_shape shape;
};

struct insn_cache {
    uint32_t root[MODES][ROOT];
    uint32_t (*tables)[NIBBLE]; /* table 0 is not used */
    struct template *templates;
    uint32_t table_count, template_count;
};

static void clear(uint32_t *entries, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        *(volatile uint32_t *)&entries[i] = 0; /* not by memset, which uses vector registers */
}

static void start(struct insn_cache *c)
{
    clear(&c->root[0][0], MODES * ROOT);
    c->table_count = 1;
    c->template_count = 0;
}

struct insn_cache *insn_cache_create(void)
{
    struct insn_cache *c = malloc(sizeof *c);
    if (!c)
        return NULL;
    c->tables = malloc(TABLES * sizeof *c->tables);
    c->templates = malloc(TEMPLATES * sizeof *c->templates);
    if (!c->tables || !c->templates) {
        insn_cache_destroy(c);
        return NULL;
    }
    start(c);
    return c;
}

void insn_cache_destroy(struct insn_cache *c)
{
    if (!c)
        return;
    free(c->tables);
    free(c->templates);
    free(c);
}

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

int insn_cache_find(const struct insn_cache *c, struct insn *out, const uint8_t *bytes, size_t avail,
                    enum insn_mode mode)
{
    size_t most = avail < LONGEST ? avail : LONGEST;
    if (!most)
        return 0;
    uint32_t e = c->root[mode][bytes[0]];
    for (size_t i = 1; e && !(e & LEAF); i++) {
        if (i == most)
            return 0;
        e = c->tables[e][bytes[i] >> 4];
        if (e)
            e = c->tables[e][bytes[i] & 15];
    }
    if (!e)
        return 0;
    const struct template *t = &c->templates[e & ~LEAF];
    return t->insn.len <= most && complete(out, t, bytes) ? t->insn.len : 0;
}

static bool full(const struct insn_cache *c)
{
    return c->template_count == TEMPLATES || c->table_count + 2 * LONGEST > TABLES;
}

static uint32_t *next_table(struct insn_cache *c, uint32_t *entry)
{
    if (!*entry) {
        *entry = c->table_count++;
        clear(c->tables[*entry], NIBBLE);
    }
    return c->tables[*entry];
}

static void remember(struct insn_cache *c, const struct template *t, const uint8_t *bytes, enum insn_mode mode)
{
    if (full(c))
        start(c);
    uint32_t *entry = &c->root[mode][bytes[0]];
    for (unsigned i = 1; i < t->shape.head; i++) {
        entry = &next_table(c, entry)[bytes[i] >> 4];
        entry = &next_table(c, entry)[bytes[i] & 15];
    }
    c->templates[c->template_count] = *t;
    *entry = LEAF | c->template_count++;
}

static bool same(const struct insn *a, const struct insn *b)
{
    const uint8_t *x = (const uint8_t *)a, *y = (const uint8_t *)b;
    for (size_t i = 0; i < sizeof *a; i++)
        if (x[i] != y[i])
            return false;
    return true;
}

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
    if (t.shape.head == len || holds(&t, bytes, mode))
        remember(c, &t, bytes, mode);
    return len;
}
