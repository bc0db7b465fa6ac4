/* SPDX-License-Identifier: MIT */
/* Guest registers that stay in memory, held in scratch registers from one instruction to the next: code of 64-bit
 * windows. Three host registers for guest R12-R15, and only where the instructions' own work leaves them alone. Of
 *
 *     rol r13d, 14 ; xor r13d, r8d ; mov r15d, r9d ; mov [rsp], r13d
 *
 * becomes
 *
 *     mov r12, [r13] ; rol r12d, 14 ; xor r12d, r8d ; mov r10d, r9d ; mov [r13], r12 ; mov [r15], r10
 *     mov [rsp], r12d
 *
 * with [r13] for where guest R13 stays. A register that was written is stored before the next instruction that may
 * fault or leave the block: what memory holds is what the guest has whenever anything but the block itself can look.
 * Nothing is held at a block's start, and nothing across an instruction that is not known here to leave the scratch
 * registers alone (held_manages). Host faults that run an instruction again keep all registers.
 *
 * Which host register: r12 is nobody else's; r10 is lost at the next operand whose address is computed, r11 at the next
 * one through the window but for the stack's. A pass over the block finds for each instruction when a guest register is
 * read next and when r10 and r11 go. */
#include "bt/translate.h"

#include <Zydis/Zydis.h>

enum { NEVER = 0xff, FIRST_HELD = 12 };
/* Host registers, as indices of held.guest. */
enum { H10, H11, H12, HOSTS };

static unsigned host_of(unsigned h)
{
    return R10 + h;
}

static bool stays_in_memory(const struct builder *b, unsigned guest)
{
    return guest < GPR_COUNT && guest != GPR_SP && host_gpr(b, guest) == NO_REG;
}

/* ---- which instructions ---- */

static bool names_high_byte(const struct insn *in)
{
    return in->reg.cls == REGCLASS_GPR8H || in->rm.cls == REGCLASS_GPR8H || in->opreg.cls == REGCLASS_GPR8H;
}

/* Different guest registers in memory among the operands that are not part of an address. */
static unsigned operands_in_memory(const struct builder *b, const struct insn *in)
{
    const struct insn_reg *all[] = {&in->reg, &in->rm, &in->vvvv, &in->opreg};
    unsigned set = 0;
    for (unsigned i = 0; i < 4; i++)
        if (all[i]->cls == REGCLASS_GPR && stays_in_memory(b, all[i]->num))
            set |= 1u << all[i]->num;
    return (unsigned)__builtin_popcount(set);
}

/* RSP as a value, which is for others to make. */
static bool names_stack_pointer(const struct insn *in)
{
    const struct insn_reg *all[] = {&in->reg, &in->rm, &in->vvvv, &in->opreg};
    for (unsigned i = 0; i < 4; i++)
        if (all[i]->cls == REGCLASS_GPR && all[i]->num == GPR_SP)
            return true;
    if (!in->mem.present || in->mem.base != GPR_SP)
        return false;
    bool indexed_lea = in->mnemonic == ZYDIS_MNEMONIC_LEA && in->mem.index != GPR_NONE;
    return indexed_lea || in->addrsize != 8 || in->mem.disp != (int16_t)in->mem.disp;
}

static bool manages_plain(const struct builder *b, const struct insn *in)
{
    if (names_stack_pointer(in) || in->mnemonic == ZYDIS_MNEMONIC_DIV || in->mnemonic == ZYDIS_MNEMONIC_IDIV)
        return false;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA)
        return in->opsize != 2;
    if (!in->mem.present || in->mem.size == 0)
        return true;
    return window_takes_operand(b) && !names_high_byte(in) && operands_in_memory(b, in) <= 1;
}

static bool manages(const struct builder *b, unsigned i)
{
    const struct insn *in = &b->insns[i];
    switch (b->way[i]) {
    case WAY_PLAIN:
        return manages_plain(b, in);
    case WAY_CONTROL:
        return branch_goes_on(b, in);
    default:
        return false;
    }
}

/* May it fault, or leave the block? */
static bool shows_registers(const struct builder *b, unsigned i)
{
    const struct insn *in = &b->insns[i];
    return b->way[i] != WAY_PLAIN || in->mem.present || in->may_fault || in->x87 || in->mmx || in->vector;
}

static bool loses_r11(const struct insn *in)
{
    return in->mem.present && in->mem.size && in->mnemonic != ZYDIS_MNEMONIC_LEA &&
           (in->mem.base != GPR_SP || in->mem.index != GPR_NONE);
}

/* Parallel regions leave r10 to an index. */
static bool loses_r10(const struct builder *b, const struct insn *in)
{
    bool indexed = in->mem.index != GPR_NONE && (!b->parallel.possible || in->mem.base == GPR_SP);
    return loses_r11(in) && (indexed || in->mem.base >= GPR_COUNT || in->addrsize != 8 || in->mem.seg == SEG_FS ||
                             in->mem.seg == SEG_GS || in->mem.disp != (int16_t)in->mem.disp);
}

/* A register plus a constant. */
static bool only_steps(const struct insn *in)
{
    bool by_constant = in->imm_len && (in->mnemonic == ZYDIS_MNEMONIC_ADD || in->mnemonic == ZYDIS_MNEMONIC_SUB);
    return by_constant || in->mnemonic == ZYDIS_MNEMONIC_INC || in->mnemonic == ZYDIS_MNEMONIC_DEC;
}

/* Where accesses go by parallel regions, r11 goes with the first one by each register only. */
static void plan_looks(struct builder *b)
{
    uint16_t seen = 0;
    for (unsigned i = 0; i < b->count; i++) {
        const struct insn *in = &b->insns[i];
        bool loses = loses_r11(in), by_register = in->mem.base < GPR_COUNT && b->parallel.possible;
        b->held.plan[i].loses_r11 = loses && !(by_register && (seen >> in->mem.base & 1));
        if (loses && by_register)
            seen |= (uint16_t)(1u << in->mem.base);
        if (!only_steps(in))
            seen &= (uint16_t)~in->gpr_write;
    }
}

/* ---- the plan ---- */

void held_plan(struct builder *b)
{
    struct held *held = &b->held;
    unsigned next[4] = {NEVER, NEVER, NEVER, NEVER}, lost[2] = {NEVER, NEVER};
    held->used = held->on = false;
    held->guest[H10] = held->guest[H11] = held->guest[H12] = GPR_NONE;
    held->dirty = 0;
    if (!has_regions(b) || (b->mode & BT_MODE_PLAIN))
        return;
    uint16_t named = 0;
    for (unsigned i = 0; i < b->count; i++)
        named |= b->insns[i].gpr_read | b->insns[i].gpr_write;
    if (!(named >> FIRST_HELD))
        return;
    held->used = true;
    plan_looks(b);
    for (unsigned i = b->count; i-- > 0;) {
        const struct insn *in = b->in = &b->insns[i];
        struct held_plan *p = &held->plan[i];
        for (unsigned g = 0; g < 4; g++)
            p->next[g] = (uint8_t)next[g];
        p->lost[H10] = (uint8_t)lost[H10];
        p->lost[H11] = (uint8_t)lost[H11];
        p->managed = manages(b, i);
        for (unsigned g = 0; g < 4; g++) {
            if (!p->managed)
                next[g] = NEVER;
            else if (in->gpr_read >> (FIRST_HELD + g) & 1)
                next[g] = i;
            else if (in->gpr_write >> (FIRST_HELD + g) & 1)
                next[g] = NEVER;
        }
        if (!p->managed || loses_r10(b, in))
            lost[H10] = i;
        if (!p->managed || p->loses_r11)
            lost[H11] = i;
    }
}

static const struct held_plan *plan(const struct builder *b)
{
    return &b->held.plan[b->cur];
}

static unsigned lost_at(const struct builder *b, unsigned h)
{
    return h == H12 ? NEVER : plan(b)->lost[h];
}

/* ---- what is held ---- */

static unsigned find(const struct builder *b, unsigned guest)
{
    unsigned h = 0;
    while (h < HOSTS && b->held.guest[h] != guest)
        h++;
    return h;
}

static void store(struct builder *b, unsigned h)
{
    if (b->held.dirty >> h & 1)
        gpr_store(b, b->held.guest[h], host_of(h));
    b->held.dirty &= (uint8_t) ~(1u << h);
}

static void store_all(struct builder *b)
{
    for (unsigned h = 0; h < HOSTS; h++)
        store(b, h);
}

/* The host register gets another value. */
static void vacate(struct builder *b, unsigned h)
{
    if (b->held.guest[h] != GPR_NONE)
        b->narrow &= (uint16_t) ~(1u << b->held.guest[h]);
    b->held.guest[h] = GPR_NONE;
    region_lose(b, host_of(h));
}

void held_lose(struct builder *b, unsigned host)
{
    if (held_is(b, host))
        vacate(b, host - R10);
    else
        region_lose(b, host);
}

void held_end(struct builder *b)
{
    if (!b->held.used)
        return;
    store_all(b);
    for (unsigned h = 0; h < HOSTS; h++)
        if (b->held.guest[h] != GPR_NONE)
            vacate(b, h);
    b->held.on = false;
}

void held_before_insn(struct builder *b)
{
    struct held *held = &b->held;
    if (!held->used)
        return;
    held->on = plan(b)->managed && b->eflags_valid;
    held->busy = 0;
    if (!held->on)
        held_end(b);
    else if (shows_registers(b, b->cur))
        store_all(b);
}

/* ---- choice ---- */

static unsigned next_use(const struct builder *b, unsigned guest)
{
    return guest == GPR_NONE ? NEVER : plan(b)->next[guest - FIRST_HELD];
}

static bool is_in_address(const struct insn *in, unsigned guest)
{
    return in->mem.present && (in->mem.base == guest || in->mem.index == guest);
}

static bool is_other_operand(const struct insn *in, unsigned guest)
{
    const struct insn_reg *all[] = {&in->reg, &in->rm, &in->vvvv, &in->opreg};
    for (unsigned i = 0; i < 4; i++)
        if (all[i]->cls == REGCLASS_GPR && all[i]->num == guest)
            return true;
    return false;
}

/* The next instruction, not far from here, that names the guest register so. */
static unsigned next_that(const struct builder *b, bool (*names)(const struct insn *in, unsigned guest), unsigned guest)
{
    enum { LOOK = 24 };
    for (unsigned i = b->cur + 1; i < b->count && i <= b->cur + LOOK; i++)
        if (names(&b->insns[i], guest))
            return i;
    return NEVER;
}

/* Is a scratch register the host's address for the guest register? */
static bool has_host_address(const struct builder *b, unsigned guest)
{
    return guest != GPR_NONE &&
           (region_host_of(b, R10) == guest || region_host_of(b, R11) == guest || region_host_of(b, R12) == guest);
}

/* When what the host register holds is wanted again, before it goes anyway. */
static unsigned wanted_at(const struct builder *b, unsigned h)
{
    unsigned next = next_use(b, b->held.guest[h]), lost = lost_at(b, h), guest = region_host_of(b, host_of(h));
    if (guest != GPR_NONE && b->parallel.possible)
        next = next_that(b, is_in_address, guest);
    else if (has_host_address(b, b->held.guest[h]))
        next = next_that(b, is_other_operand, b->held.guest[h]);
    else if (region_is(b, host_of(h)))
        return lost;
    return next > lost ? NEVER : next;
}

/* Later is better; among those that nobody wants, the one that goes soonest behind the new value's next use. */
static unsigned choose(const struct builder *b, unsigned guest, unsigned allowed)
{
    unsigned best = HOSTS, best_wanted = 0, next = next_use(b, guest);
    for (unsigned h = HOSTS; h-- > 0;) {
        if (!(allowed >> host_of(h) & 1) || (b->held.busy >> h & 1))
            continue;
        unsigned wanted = wanted_at(b, h), lost = lost_at(b, h);
        bool keeps = next == NEVER || next <= lost;
        bool better = best == HOSTS || wanted > best_wanted;
        if (best < HOSTS && wanted == best_wanted && keeps) {
            bool best_keeps = next == NEVER || next <= lost_at(b, best);
            better = !best_keeps || lost < lost_at(b, best);
        }
        if (better) {
            best = h;
            best_wanted = wanted;
        }
    }
    return best;
}

bool held_wants(const struct builder *b, unsigned guest)
{
    if (!b->held.on || !stays_in_memory(b, guest))
        return false;
    return find(b, guest) < HOSTS || next_use(b, guest) != NEVER;
}

unsigned held_host(const struct builder *b, unsigned guest)
{
    unsigned host = host_gpr(b, guest), h = b->held.on ? find(b, guest) : HOSTS;
    return host == NO_REG && h < HOSTS ? host_of(h) : host;
}

bool held_has(const struct builder *b, unsigned guest)
{
    return b->held.on && find(b, guest) < HOSTS;
}

void held_keep(struct builder *b, struct rm rm)
{
    if (!b->held.on || rm.kind != RM_MEM)
        return;
    if (rm.base >= R10 && rm.base <= R12)
        b->held.busy |= (uint8_t)(1u << (rm.base - R10));
    if (rm.index >= R10 && rm.index <= R12)
        b->held.busy |= (uint8_t)(1u << (rm.index - R10));
}

unsigned held_use(struct builder *b, unsigned guest, bool load, bool write, unsigned allowed)
{
    unsigned was = find(b, guest), h = was;
    if (h == HOSTS || !(allowed >> host_of(h) & 1)) {
        uint16_t narrow = b->narrow & (uint16_t)(1u << guest);
        h = choose(b, guest, allowed);
        store(b, h);
        vacate(b, h);
        if (was < HOSTS) {
            asm_op(&b->a, OP_MOV | OP_W, host_of(h), rm_reg(host_of(was)), 0);
            b->held.dirty |= (uint8_t)((b->held.dirty >> was & 1) << h);
            b->held.dirty &= (uint8_t) ~(1u << was);
            vacate(b, was);
            b->narrow |= narrow;
        } else if (load) {
            gpr_load(b, host_of(h), guest);
        }
        b->held.guest[h] = (uint8_t)guest;
    }
    b->held.busy |= (uint8_t)(1u << h);
    b->held.dirty |= (uint8_t)(write << h);
    return host_of(h);
}
