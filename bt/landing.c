/* SPDX-License-Identifier: MIT */
#include "bt/landing.h"

#include "bt/jump_map.h"
#include "bt/verify.h"
#include "shadowmmu/reserve.h"

enum { TABLE_BYTES = LANDING_INDICES * sizeof(uint32_t), USED_MAX = 1 << 12 };

bool landing_open(struct bt_exec_slot *s)
{
    if (!s->jump)
        s->jump = reserve(TABLE_BYTES);
    if (!s->jump_used)
        s->jump_used = reserve(USED_MAX * sizeof *s->jump_used);
    return s->jump && s->jump_used;
}

void landing_close(struct bt_exec_slot *s)
{
    unreserve(s->jump, TABLE_BYTES);
    unreserve(s->jump_used, USED_MAX * sizeof *s->jump_used);
}

void landing_clear(struct bt_exec_slot *s)
{
    if (!s->jump)
        return;
    if (s->jump_count > USED_MAX)
        madvise(s->jump, TABLE_BYTES, MADV_DONTNEED);
    else
        for (uint32_t i = 0; i < s->jump_count; i++)
            s->jump[s->jump_used[i]] = 0;
    s->jump_count = 0;
}

/* ---- code ---- */

static struct bt_landing *landing_of(struct bt_cache *c, struct bt_block *b)
{
    if (!b->landing) {
        b->landing = c->landing_count++;
        c->landings[b->landing] = (struct bt_landing){0};
    }
    return &c->landings[b->landing];
}

static bool wide(const struct bt_cache *c, const struct bt_block *b)
{
    return (c->pages[b->page].mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
}

static uint32_t end(struct bt_cache *c, const struct bt_block *b, const struct assembler *a)
{
    uint8_t *start = c->write_view + c->used;
    uint32_t here = (uint32_t)((uintptr_t)start + (uintptr_t)a->to_exec);
    if (c->vcpu->options.verify_code) {
        cpu_fpu_unload(&c->vcpu->cpu);
        size_t size = (size_t)(a->p - start), first = size > LANDING_SAVED ? LANDING_SAVED : size;
        bt_verify_landing(c, b, here, first); /* each form has its own entry */
        if (size > first)
            bt_verify_landing(c, b, here + first, size - first);
    }
    bt_cache_written_to(c, a->p);
    return here;
}

static void move(struct assembler *a, unsigned to, unsigned from)
{
    asm_op(a, OP_MOV | OP_W, to, rm_reg(from), 0);
}

/* How many bytes the block's address has in a landing if it can be replaced by another in place, else 0: the forms for
 * small numbers have no room. */
static unsigned address_bytes(const struct bt_block *b, bool wide)
{
    if (wide)
        return b->eip >> 32 ? 8 : 0;
    return (int32_t)-b->eip == (int8_t)-b->eip ? 0 : 4;
}

/* What was just emitted ends with the block's address. */
static void note_address(const struct bt_cache *c, const struct bt_block *b, const struct assembler *a,
                         struct bt_landing_address *at)
{
    at->bytes = (uint8_t)address_bytes(b, wide(c, b));
    at->offset = (uint8_t)(a->p - (c->write_view + c->used) - at->bytes);
}

static void load_guest_address(struct assembler *a, const struct bt_block *b)
{
    asm_mov_imm64(a, R10, b->eip);
}

/* rcx += r10 - the block's address; r11 is lost. */
static void add_difference(struct bt_cache *c, struct assembler *a, const struct bt_block *b,
                           struct bt_landing_address *at)
{
    int64_t minus = -(int64_t)b->eip;
    if (!wide(c, b)) {
        asm_op(a, OP_LEA, RCX, rm_sib(RCX, R10, 1, (int32_t)minus), 0);
        note_address(c, b, a, at);
        return;
    }
    if (minus == (int32_t)minus) {
        asm_op(a, OP_LEA | OP_W, RCX, rm_sib(RCX, R10, 1, (int32_t)minus), 0);
        return;
    }
    asm_mov_imm64(a, R11, (uint64_t)minus);
    note_address(c, b, a, at);
    asm_op(a, OP_LEA | OP_W, RCX, rm_sib(RCX, R11, 1, 0), 0);
    asm_op(a, OP_LEA | OP_W, RCX, rm_sib(RCX, R10, 1, 0), 0);
}

/* rcx, kept in r12, is 0 when all is well. at: of the block's address, which r10 does not hold yet; or NULL. */
static void end_by_jrcxz(struct bt_cache *c, struct assembler *a, const struct bt_block *b, uintptr_t to,
                         uintptr_t miss, struct bt_landing_address *at)
{
    uint8_t *good = asm_jrcxz(a);
    move(a, RCX, R12);
    if (at) {
        load_guest_address(a, b);
        note_address(c, b, a, at);
    }
    asm_jmp32(a, miss);
    asm_land8(a, good);
    move(a, RCX, R12);
    asm_jmp32(a, to);
}

static void emit_jump(struct bt_cache *c, struct assembler *a, const struct bt_block *b, struct bt_landing *l)
{
    bool is_wide = wide(c, b);
    uintptr_t miss = bt_glue_of(c, c->pages[b->page].mode)->miss, to = b->entry + b->body;
    const uint32_t *invalid = &c->invalid[b->page];
    move(a, R12, RCX);
    asm_op(a, OP_MOV, R11, rm_at(&c->vcpu->cpu.events), 0);
    asm_op(a, OP_MOV, RCX, rm_at(invalid), 0);
    asm_op(a, OP_LEA, RCX, rm_sib(RCX, R11, 1, 0), 0);
    add_difference(c, a, b, &l->difference);
    end_by_jrcxz(c, a, b, to, miss, NULL);
    uint8_t *saved = c->write_view + c->used + LANDING_SAVED;
    asm_nop(a, (unsigned)(saved - a->p));
    miss += LANDING_SAVED;
    if (is_wide && (int64_t)b->eip != (int32_t)b->eip) {
        asm_mov_imm64(a, R11, b->eip);
        note_address(c, b, a, &l->saved);
        asm_op(a, OP_CMP | OP_W, R10, rm_reg(R11), 0);
    } else {
        asm_op(a, OP_GROUP1_IMM32 | (is_wide ? OP_W : 0), GROUP1_CMP, rm_reg(R10), 4);
        asm_u32(a, (uint32_t)b->eip);
        note_address(c, b, a, &l->saved);
    }
    asm_jcc32(a, CC_NZ, miss);
    asm_op(a, OP_MOV, R11, rm_at(&c->vcpu->cpu.events), 0);
    asm_op(a, OP_OR, R11, rm_at(invalid), 0);
    asm_jcc32(a, CC_NZ, miss);
    if (b->flags_in)
        bt_emit_restore_flags(a, is_wide ? &c->vcpu->flags_image : NULL, R12);
    asm_jmp32(a, to);
}
_Static_assert(CPU_EVENT_STEP < LANDING_INDICES / 2, "the low bits of the sum tell of events and of the page");

uintptr_t landing_direct(struct bt_cache *c, struct bt_block *b, bool flags_saved, bool backward)
{
    if (bt_cache_full(c))
        return 0;
    unsigned form = (flags_saved ? LANDING_DIRECT_SAVED : 0) | (backward ? LANDING_DIRECT_BACKWARD : 0);
    struct bt_landing *l = landing_of(c, b);
    uint32_t *at = &l->direct[form];
    if (*at)
        return *at;
    struct assembler a = bt_assembler(c);
    uintptr_t miss = bt_glue_of(c, c->pages[b->page].mode)->miss;
    uintptr_t to = flags_saved && b->flags_in ? b->entry - BT_ENTRY_SAVED : backward ? b->entry : b->entry + b->body;
    const uint32_t *invalid = &c->invalid[b->page];
    if (flags_saved) {
        asm_op(&a, OP_GROUP1_IMM8, GROUP1_CMP, rm_at(invalid), 1);
        asm_byte(&a, 0);
        asm_jcc32(&a, CC_Z, to);
        load_guest_address(&a, b);
        note_address(c, b, &a, &l->missed[form]);
        asm_jmp32(&a, miss + LANDING_SAVED);
    } else {
        move(&a, R12, RCX);
        asm_op(&a, OP_MOV, RCX, rm_at(invalid), 0);
        end_by_jrcxz(c, &a, b, to, miss, &l->missed[form]);
    }
    return *at = end(c, b, &a);
}

/* ---- tables ---- */

static void landing_enter(struct bt_cache *c, struct bt_block *b)
{
    struct bt_exec_slot *s = c->slot;
    if (bt_cache_full(c))
        return;
    struct bt_landing *l = landing_of(c, b);
    if (!l->jump) {
        struct assembler a = bt_assembler(c);
        emit_jump(c, &a, b, l);
        l->jump = end(c, b, &a);
    }
    uint16_t index = (uint16_t)b->eip;
    if (!s->jump[index] && s->jump_count <= USED_MAX) {
        if (s->jump_count < USED_MAX)
            s->jump_used[s->jump_count] = index;
        s->jump_count++;
    }
    s->jump[index] = (uint32_t)(l->jump - bt_glue_of(c, s->mode)->miss);
}

void landing_enter_target(struct bt_cache *c, struct bt_block *b)
{
    uint64_t lin = c->pages[b->page].lin << PAGE_SHIFT | b->offset;
    b->jump_target = true;
    if (bt_mode_jump_map(c->slot->mode))
        jump_map_enter(c, lin, (uint32_t)(b->entry - bt_glue_of(c, c->slot->mode)->miss));
    else
        landing_enter(c, b);
}

void landing_forget(struct bt_cache *c, const struct bt_block *b)
{
    const struct bt_page *p = &c->pages[b->page];
    uint32_t jump = b->landing ? c->landings[b->landing].jump : 0;
    if (!jump)
        return;
    uint32_t entry = (uint32_t)(jump - bt_glue_of(c, p->mode)->miss);
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++) {
        uint32_t *table = c->slots[i].jump;
        if (table && c->slots[i].mode == p->mode && table[(uint16_t)b->eip] == entry)
            table[(uint16_t)b->eip] = 0;
    }
}

/* False: there is no room for it. */
static bool write_address(struct bt_cache *c, uint32_t landing, const struct bt_landing_address *at, uint64_t n)
{
    uint8_t *to = c->write_view + (landing - (uintptr_t)c->exec_view) + at->offset;
    if (at->bytes == 8)
        __builtin_memcpy(to, &n, 8);
    else if (at->bytes)
        __builtin_memcpy(to, &n, 4);
    return at->bytes;
}

void landing_move(struct bt_cache *c, const struct bt_block *b, uint64_t eip)
{
    struct bt_landing *l = &c->landings[b->landing];
    landing_forget(c, b);
    if (!b->landing)
        return;
    if (l->jump && !(write_address(c, l->jump, &l->difference, -eip) && write_address(c, l->jump, &l->saved, eip)))
        l->jump = 0;
    for (int i = 0; i < 4; i++)
        if (l->direct[i] && !write_address(c, l->direct[i], &l->missed[i], eip))
            l->direct[i] = 0;
}
