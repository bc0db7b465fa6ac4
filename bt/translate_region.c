/* SPDX-License-Identifier: MIT */
/* What a block of 64-bit window code knows about regions (translate_window.c), so that it looks up few of them:
 *
 *   r11 is the entry of a region, and which registers are near that region: the one that it was looked up for, copies
 * of it, and what became of them by constants and by numbers of 32 bits (translate_narrow.c). An access by any of these
 *   goes by r11 as it is. It may be outside the region by as much as is kept here, which ends in the slot's guards,
 *   where bt/fault_window.c gives r11 what the access needs.
 *
 *   r12 likewise, of another region perhaps, unless it holds a guest register (translate_held.c): for code that goes by
 *   two pointers in turn. Addresses in r10 go by r11 only, so that the fault handler can tell an entry from an index.
 *
 *   r10 is the host's address for a register: for `[rbx + rcx*8]` with an rcx of 32 bits. A constant that was added to
 *   the register since then goes to the displacement.
 *
 * Nothing is known at a block's start, where control may come from anywhere. */
#include "bt/translate.h"

#include "shadowmmu/region.h"
#include "shadowmmu/window.h"

#include <Zydis/Zydis.h>

/* Behind this an index of 32 bits, times 8, and a displacement still end in the guards. */
static const uint64_t OUTSIDE_MAX = 20ull << 30, NARROW_SPAN = 1ull << 32;
_Static_assert((20ull << 30) + (8ull << 32) + (2ull << 30) < MMU_WINDOW_GUARD, "a slot's guards");
enum { BASED_MAX = 1 << 20 };

static const uint64_t *regions(const struct builder *b)
{
    bool user = (b->mode >> BT_MODE_VIEW_SHIFT & 3) == MMU_VIEW_USER;
    return b->v->cpu.mmu.window[user ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR].regions;
}

static struct region_entry *entry_in(struct builder *b, unsigned host)
{
    return host == R11 ? &b->region.entry[0] : host == R12 ? &b->region.entry[1] : NULL;
}

static void forget_entry(struct region_entry *e)
{
    e->known = false;
    e->constant = 0;
    for (unsigned i = 0; i < 16; i++)
        e->near[i] = 0;
}

void region_forget(struct builder *b)
{
    forget_entry(&b->region.entry[0]);
    forget_entry(&b->region.entry[1]);
    b->region.based = 0;
}

void region_lose(struct builder *b, unsigned host)
{
    struct region_facts *f = &b->region;
    struct region_entry *e = entry_in(b, host);
    f->entry[0].near[host] = f->entry[1].near[host] = 0;
    if (e)
        forget_entry(e);
    if (host == R10)
        f->based = 0;
}

bool region_is(const struct builder *b, unsigned host)
{
    const struct region_facts *f = &b->region;
    return host == R10 ? f->based != 0 : host == R11 ? f->entry[0].known : host == R12 && f->entry[1].known;
}

static bool in_memory(const struct builder *b, uint8_t guest)
{
    return guest < GPR_COUNT && host_gpr(b, guest) == NO_REG;
}

/* Operands for which the translator takes scratch registers that it does not ask translate_held.c for. */
static bool names_away(const struct builder *b)
{
    const struct insn_reg *all[] = {&b->in->reg, &b->in->rm, &b->in->vvvv, &b->in->opreg};
    for (unsigned i = 0; i < 4; i++)
        if (all[i]->cls == REGCLASS_GPR8H || (all[i]->cls == REGCLASS_GPR && in_memory(b, all[i]->num)))
            return true;
    return in_memory(b, b->in->mem.index) || in_memory(b, b->in->mem.base);
}

/* May the current instruction's access go by r12? */
static bool may_take_r12(const struct builder *b, unsigned base)
{
    return base != R10 && b->way[b->cur] == WAY_PLAIN && (b->held.on || !names_away(b));
}

/* Which of the two is to hold another entry. */
static unsigned choose(const struct builder *b, unsigned base)
{
    const struct region_facts *f = &b->region;
    if (!may_take_r12(b, base) || held_is(b, R12))
        return R11;
    if (!f->entry[0].known || !f->entry[1].known)
        return f->entry[0].known ? R12 : R11;
    return f->recent ? R11 : R12;
}

unsigned region_load(struct builder *b, unsigned base)
{
    struct region_facts *f = &b->region;
    for (unsigned i = 0; i < 2; i++)
        if (f->entry[i].known && f->entry[i].near[base] && (i == 0 || may_take_r12(b, base))) {
            f->recent = (uint8_t)i;
            return i ? R12 : R11;
        }
    unsigned to = choose(b, base);
    struct region_entry *e = entry_in(b, to);
    held_lose(b, to);
    bt_emit_region(&b->a, regions(b), to, base);
    forget_entry(e);
    e->known = true;
    e->near[base] = 1;
    f->recent = to == R12;
    return to;
}

bool region_load_constant(struct builder *b, uint64_t address)
{
    struct region_entry *e = &b->region.entry[0];
    uint64_t entry = (uintptr_t)regions(b) + (address >> MMU_REGION_SHIFT) * sizeof(uint64_t);
    if (address >> 47) /* the table's end is not within a displacement */
        return false;
    if (e->known && e->constant == 1 + (address >> MMU_REGION_SHIFT))
        return true;
    held_lose(b, R11);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)entry), 0);
    if (b->in->mem.base == GPR_IP)
        builder_constant(b, BT_CONSTANT_S32, BT_REGION_ENTRY);
    forget_entry(e);
    e->known = true;
    e->constant = 1 + (address >> MMU_REGION_SHIFT);
    b->region.recent = 0;
    return true;
}

bool region_has_base(const struct builder *b, unsigned guest, int64_t *at)
{
    *at = b->region.based_at;
    return b->region.based == guest + 1;
}

void region_load_base(struct builder *b, unsigned guest, unsigned base)
{
    unsigned entry = region_load(b, base);
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib((uint8_t)base, (uint8_t)entry, 1, 0), 0);
    held_lose(b, R10);
    b->region.based = (uint8_t)(guest + 1);
    b->region.based_at = 0;
}

/* ---- behind each instruction ---- */

/* Does the current instruction, which no held register is for, leave r11 alone, but for its access through the window?
 */
static bool keeps_r11(const struct builder *b)
{
    const struct insn *in = b->in;
    if (b->way[b->cur] == WAY_CONTROL)
        return branch_goes_on(b, in);
    if (b->way[b->cur] == WAY_STACK)
        return window_pushes(b) && !in->mem.present && in->mnemonic != ZYDIS_MNEMONIC_LEAVE && in->cls != INSN_SEGMENT;
    if (b->way[b->cur] != WAY_PLAIN || in->vvvv.cls == REGCLASS_GPR || in->mnemonic == ZYDIS_MNEMONIC_DIV ||
        in->mnemonic == ZYDIS_MNEMONIC_IDIV)
        return false;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA)
        return !in_memory(b, in->mem.index);
    return !in->mem.present || window_takes_operand(b);
}

/* And r10 and r12? */
static bool keeps_others(const struct builder *b)
{
    const struct insn *in = b->in;
    if (b->way[b->cur] == WAY_CONTROL)
        return true;
    return !names_away(b) && !(in->mnemonic == ZYDIS_MNEMONIC_LEA && in->opsize == 2);
}

static uint64_t farther(uint64_t near, uint64_t bytes)
{
    return near && bytes <= OUTSIDE_MAX && near + bytes <= OUTSIDE_MAX ? near + bytes : 0;
}

static uint64_t magnitude(int64_t n)
{
    return n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
}

static uint64_t near_of(const struct builder *b, unsigned e, unsigned guest)
{
    unsigned host = guest < GPR_COUNT ? held_host(b, guest) : NO_REG;
    return host == NO_REG ? 0 : b->region.entry[e].near[host];
}

static bool is_narrow(const struct builder *b, unsigned guest)
{
    return guest < GPR_COUNT && (b->narrow >> guest & 1);
}

/* The sum of two registers, one of them times scale. */
static uint64_t near_sum(const struct builder *b, unsigned e, unsigned base, unsigned index, unsigned scale)
{
    if (index == GPR_NONE)
        return near_of(b, e, base);
    if (base == GPR_NONE)
        return 0;
    if (is_narrow(b, index))
        return farther(near_of(b, e, base), NARROW_SPAN * scale);
    return scale == 1 && is_narrow(b, base) ? farther(near_of(b, e, index), NARROW_SPAN) : 0;
}

/* How near the entry's region the result of the current instruction is, a 64-bit register: from the operands that it
 * had. */
static uint64_t result_near(const struct builder *b, unsigned e)
{
    const struct insn *in = b->in;
    const struct insn_mem *m = &in->mem;
    if (b->way[b->cur] != WAY_PLAIN || in->encoding != ENCODING_LEGACY || in->opsize != 8)
        return 0;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA)
        return in->addrsize == 8 && m->base != GPR_IP && m->base != GPR_SP
                   ? farther(near_sum(b, e, m->base, m->index, m->scale), magnitude(m->disp))
                   : 0;
    if (m->present || in->rm.cls != REGCLASS_GPR)
        return 0;
    const struct insn_reg *to = in->rm.write ? &in->rm : &in->reg, *from = in->rm.write ? &in->reg : &in->rm;
    bool two = in->reg.cls == REGCLASS_GPR;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return two ? near_of(b, e, from->num) : 0;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        return farther(near_of(b, e, to->num), 1);
    case ZYDIS_MNEMONIC_AND:
        return in->imm_len && (int64_t)in->imm < 0 ? farther(near_of(b, e, to->num), magnitude((int64_t)in->imm)) : 0;
    case ZYDIS_MNEMONIC_ADD:
        return in->imm_len ? farther(near_of(b, e, to->num), magnitude((int64_t)in->imm))
               : two       ? near_sum(b, e, to->num, from->num, 1)
                           : 0;
    case ZYDIS_MNEMONIC_SUB:
        if (in->imm_len)
            return farther(near_of(b, e, to->num), magnitude((int64_t)in->imm));
        return two && is_narrow(b, from->num) ? farther(near_of(b, e, to->num), NARROW_SPAN) : 0;
    default:
        return 0;
    }
}

/* Does the current instruction add a small constant to the register? */
static bool adds_constant(const struct builder *b, unsigned guest, int64_t *n)
{
    const struct insn *in = b->in;
    if (b->way[b->cur] != WAY_PLAIN || in->encoding != ENCODING_LEGACY || in->opsize != 8)
        return false;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA) {
        *n = in->mem.disp;
        return in->addrsize == 8 && in->mem.base == guest && in->mem.index == GPR_NONE;
    }
    if (in->mem.present || in->rm.cls != REGCLASS_GPR || in->rm.num != guest)
        return false;
    *n = in->mnemonic == ZYDIS_MNEMONIC_INC || in->mnemonic == ZYDIS_MNEMONIC_DEC ? 1 : (int64_t)in->imm;
    if (in->mnemonic == ZYDIS_MNEMONIC_SUB || in->mnemonic == ZYDIS_MNEMONIC_DEC)
        *n = -*n;
    return in->mnemonic == ZYDIS_MNEMONIC_INC || in->mnemonic == ZYDIS_MNEMONIC_DEC ||
           (in->imm_len && (in->mnemonic == ZYDIS_MNEMONIC_ADD || in->mnemonic == ZYDIS_MNEMONIC_SUB));
}

static void follow_base(struct builder *b, unsigned guest)
{
    struct region_facts *f = &b->region;
    int64_t n;
    if (f->based != guest + 1)
        return;
    if (adds_constant(b, guest, &n) && magnitude(n) < BASED_MAX && magnitude(f->based_at + n) < BASED_MAX)
        f->based_at += n;
    else
        f->based = 0;
}

void region_follow(struct builder *b)
{
    struct region_facts *f = &b->region;
    uint16_t written = b->in->gpr_write;
    if (!b->held.on && !keeps_r11(b)) {
        region_forget(b);
        return;
    }
    if (!b->held.on && !keeps_others(b)) {
        region_lose(b, R10);
        region_lose(b, R12);
    }
    uint64_t near[2] = {0, 0};
    for (unsigned e = 0; e < 2; e++)
        if (f->entry[e].known && __builtin_popcount(written) == 1)
            near[e] = result_near(b, e);
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (!(written >> i & 1))
            continue;
        follow_base(b, i);
        unsigned host = held_host(b, i);
        if (host == NO_REG)
            continue;
        f->entry[0].near[host] = near[0];
        f->entry[1].near[host] = near[1];
    }
}
