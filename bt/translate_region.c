/* SPDX-License-Identifier: MIT */
/* What a block of 64-bit window code knows about regions (translate_window.c), so that it looks up few of them. Each of
 * r10, r11 and r12, while no guest register is held in it (translate_held.c), may be
 *
 *   an *entry*, that of the region of some value: an access at an address that is near that value goes by it as it is,
 *   [rbx + r11 + d];
 *
 *   the *host's address* for a guest register, by the entry of a region: [r10 + rcx*8 + d] for [rbx + rcx*8 + d].
 *
 * Near means that the difference is known (bt/value.h) and ends in the slot's guards, where bt/fault_window.c gives r11
 * what the access needs. Where rcx is known to be a number of about 32 bits (translate_narrow.c), the entry of a host's
 * address is that of rbx; else that of the whole sum, which is looked up once and then serves the sums that are near
 * it. A constant that was added to rbx since then goes to the displacement.
 *
 * Of two scratch registers in an access the fault handler must tell which is which: an entry in r10 or r12 is for guest
 * registers with a host register of their own only, and an index is never in r10 or r11.
 *
 * Nothing is known at a block's start, where control may come from anywhere. */
#include "bt/translate.h"

#include "shadowmmu/region.h"
#include "shadowmmu/window.h"

#include <Zydis/Zydis.h>

_Static_assert(REGION_REACH + (2ull << 30) < MMU_WINDOW_GUARD, "a slot's guards, and a displacement");
_Static_assert(REGION_REACH_BEFORE_INDEX + (8ull << 32) + (2ull << 30) < MMU_WINDOW_GUARD, "the same with an index");
static const struct value_range NARROW = {true, -(1ll << 31), (1ull << 31) + (1ull << 32)};
enum { AT_MAX = 1 << 20 };

static bool is_scratch(unsigned host)
{
    return host >= R10 && host <= R12;
}

static struct region_fact *fact_in(struct builder *b, unsigned host)
{
    return &b->region.in[host - R10];
}

static void used(struct builder *b, struct region_fact *f)
{
    f->used = ++b->region.uses;
}

/* What is equal to a number that has a name, without a span, goes by that. */
static struct region_exact exact_of(struct builder *b, struct value x)
{
    return x.name && !x.span ? (struct region_exact){x.name, x.at}
                             : (struct region_exact){.id = VALUE_NAMES + ++b->region.ids};
}

void region_forget(struct builder *b)
{
    struct region_facts *r = &b->region;
    values_begin(&r->values, GPR_COUNT);
    parallel_forget(b);
    r->ids = 0;
    for (unsigned h = 0; h < 3; h++)
        r->in[h].kind = REGION_NOTHING;
    for (uint32_t i = 0; i < GPR_COUNT; i++) {
        r->value[i] = (struct value){.name = i + 1};
        r->exact[i] = (struct region_exact){.id = i + 1};
    }
}

void region_begin(struct builder *b)
{
    b->region.last = 0;
    if (!has_regions(b))
        return;
    for (unsigned i = 0; i < b->count; i++)
        if (b->insns[i].mem.present || b->way[i] == WAY_STACK || b->way[i] == WAY_STRING)
            b->region.last = i;
    region_forget(b);
}

void region_lose(struct builder *b, unsigned host)
{
    if (is_scratch(host))
        fact_in(b, host)->kind = REGION_NOTHING;
}

bool region_is(const struct builder *b, unsigned host)
{
    return b->region.in[host - R10].kind != REGION_NOTHING;
}

/* ---- scratch registers ---- */

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
static bool may_take_r12(const struct builder *b)
{
    return b->way[b->cur] == WAY_PLAIN && (b->held.on || !names_away(b));
}

/* One of the allowed scratch registers for another fact: a free one, else the one that was not used for longest. r12 is
 * for guest registers first, and r10, which goes with each address that is computed, holds no entry. */
static unsigned choose(const struct builder *b, unsigned allowed)
{
    unsigned oldest = NO_REG, held = NO_REG;
    if (!may_take_r12(b) || held_is(b, R12))
        allowed &= ~(1u << R12);
    for (unsigned h = R10; h <= R12; h++) {
        if (!(allowed >> h & 1))
            continue;
        if (held_is(b, h))
            held = held == NO_REG ? h : held;
        else if (!region_is(b, h))
            return h;
        else if (oldest == NO_REG || b->region.in[h - R10].used < b->region.in[oldest - R10].used)
            oldest = h;
    }
    return oldest == NO_REG ? held : oldest;
}

/* Does the scratch register hold a fact of that kind about what is near x, and may the current access go by it? */
static bool serves(struct builder *b, unsigned host, enum region_kind kind, struct value x, uint64_t reach)
{
    const struct region_fact *f = fact_in(b, host);
    return f->kind == kind && !f->constant && (host != R12 || may_take_r12(b)) &&
           value_near(&b->region.values, x, f->of, reach);
}

static struct region_fact *set_fact(struct builder *b, unsigned host, enum region_kind kind, struct value of)
{
    struct region_fact *f = fact_in(b, host);
    *f = (struct region_fact){.kind = of.name ? kind : REGION_NOTHING, .of = of};
    used(b, f);
    return f;
}

/* ---- entries ---- */

/* The scratch register with an entry for the value. */
static unsigned find_entry(struct builder *b, struct value x, uint64_t reach, unsigned allowed)
{
    for (unsigned h = R10; h <= R12; h++) {
        if (!(allowed >> h & 1) || !serves(b, h, REGION_ENTRY, x, reach))
            continue;
        used(b, fact_in(b, h));
        return h;
    }
    return NO_REG;
}

/* Looks up the region of what the host register holds, x. */
static unsigned load_entry(struct builder *b, unsigned base, struct value x, unsigned allowed)
{
    unsigned to = choose(b, allowed);
    held_lose(b, to);
    bt_emit_region(&b->a, bt_regions(b->v, b->mode), to, base);
    set_fact(b, to, REGION_ENTRY, x);
    return to;
}

bool region_load_constant(struct builder *b, uint64_t address)
{
    struct region_fact *f = fact_in(b, R11);
    uint64_t entry = (uintptr_t)bt_regions(b->v, b->mode) + (address >> MMU_REGION_SHIFT) * sizeof(uint64_t);
    if (address >> 47) /* the table's end is not within a displacement */
        return false;
    if (f->kind == REGION_ENTRY && f->constant == 1 + (address >> MMU_REGION_SHIFT))
        return true;
    held_lose(b, R11);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)entry), 0);
    if (b->in->mem.base == GPR_IP)
        builder_constant(b, BT_CONSTANT_S32, BT_REGION_ENTRY);
    *f = (struct region_fact){.kind = REGION_ENTRY, .constant = 1 + (address >> MMU_REGION_SHIFT)};
    used(b, f);
    return true;
}

struct rm region_passing(struct builder *b, int32_t disp)
{
    if (parallel_is_used(b))
        return parallel_passing(b, disp);
    region_lose(b, R10);
    held_lose(b, R11);
    bt_emit_region(&b->a, bt_regions(b->v, b->mode), R11, R10);
    return rm_region(R10, R11, disp - MMU_REGION_BIAS);
}

/* ---- operands ---- */

bool region_is_short(const struct builder *b, unsigned guest, int scale)
{
    const struct value_range *n = &NARROW;
    if (guest >= GPR_COUNT || guest == GPR_SP)
        return false;
    struct value_range r = value_range_of(&b->region.values, b->region.value[guest]);
    int64_t most = (n->low + (int64_t)n->span) * 8;
    return r.known && r.low * scale >= -most && (r.low + (int64_t)r.span) * scale <= most;
}

struct value region_operand_value(struct builder *b, unsigned base, unsigned index, int scale, int64_t disp)
{
    struct region_facts *r = &b->region;
    return value_plus(
        index == GPR_NONE ? r->value[base] : value_sum(&r->values, r->value[base], r->value[index], scale), disp);
}

unsigned region_find_host(struct builder *b, unsigned guest, struct value x, uint64_t reach, int64_t *at)
{
    const struct region_exact *now = &b->region.exact[guest];
    for (unsigned h = R10; h <= R12; h++) {
        struct region_fact *f = fact_in(b, h);
        if (f->base.id != now->id || !serves(b, h, REGION_HOST, x, reach))
            continue;
        *at = now->at - f->base.at;
        if (*at < -AT_MAX || *at > AT_MAX)
            continue;
        used(b, f);
        return h;
    }
    return NO_REG;
}

/* The scratch register has become that. */
static void set_host(struct builder *b, unsigned host, unsigned guest, struct value x)
{
    struct region_fact *f = set_fact(b, host, REGION_HOST, x);
    f->base = b->region.exact[guest];
    f->guest = (uint8_t)guest;
}

unsigned region_host_of(const struct builder *b, unsigned host)
{
    const struct region_fact *f = &b->region.in[host - R10];
    return f->kind == REGION_HOST ? f->guest : GPR_NONE;
}

/* Makes a scratch register that: what the guest register holds is in `base`, the entry for x in `entry`. */
static unsigned make_host(struct builder *b, unsigned guest, unsigned base, unsigned entry, struct value x)
{
    unsigned to = choose(b, base == R10 ? 1u << R10 : HELD_ANY & ~(1u << entry));
    asm_op(&b->a, OP_LEA | OP_W, to, rm_sib((uint8_t)base, (uint8_t)entry, 1, 0), 0);
    held_lose(b, to);
    fact_in(b, entry)->used = 0; /* the next one that is needed may go there: this one serves the same */
    set_host(b, to, guest, x);
    return to;
}

unsigned region_make_host(struct builder *b, unsigned guest, unsigned base, const void *entry, struct value x)
{
    unsigned to = choose(b, 1 << R10 | 1 << R12);
    if (to == NO_REG || to == base || held_is(b, to))
        return NO_REG;
    held_lose(b, to);
    asm_op(&b->a, OP_MOV | OP_W, to, rm_at(entry), 0);
    asm_op(&b->a, OP_LEA | OP_W, to, rm_sib((uint8_t)base, (uint8_t)to, 1, 0), 0);
    set_host(b, to, guest, x);
    return to;
}

/* The same without an entry that is known: all in the one scratch register. sum: the address whose region is looked up,
 * if that is not the one in `base`. */
static unsigned look_up_host(struct builder *b, unsigned guest, unsigned base, const struct rm *sum, struct value x)
{
    unsigned to = choose(b, is_scratch(base) ? HELD_ANY & ~(1u << base) : HELD_ANY);
    held_lose(b, to);
    if (sum)
        asm_op(&b->a, OP_LEA | OP_W, to, *sum, 0);
    bt_emit_region(&b->a, bt_regions(b->v, b->mode), to, sum ? to : base);
    asm_op(&b->a, OP_LEA | OP_W, to, rm_sib((uint8_t)base, (uint8_t)to, 1, 0), 0);
    set_host(b, to, guest, x);
    return to;
}

unsigned region_gpr(struct builder *b, unsigned guest, unsigned allowed)
{
    unsigned host = host_gpr(b, guest);
    return host == NO_REG && b->held.on ? held_use(b, guest, true, false, allowed) : host;
}

unsigned region_index(struct builder *b, unsigned guest)
{
    return region_gpr(b, guest, 1 << R12);
}

/* [guest + disp]. Where disp may lead out of the register's region, that of the sum is looked up. */
bool region_single(struct builder *b, unsigned guest, int32_t disp, struct rm *rm)
{
    bool far = !bt_region_near(disp);
    struct value x = value_plus(b->region.value[guest], far ? disp : 0);
    int64_t at;
    unsigned host = region_find_host(b, guest, x, REGION_REACH, &at);
    if (host != NO_REG) {
        *rm = rm_based((uint8_t)host, NO_REG, 1, (int32_t)(disp + at) - MMU_REGION_BIAS);
        return true;
    }
    if (parallel_is_used(b))
        return parallel_single(b, guest, disp, x, rm);
    unsigned base = region_gpr(b, guest, HELD_BASE);
    if (far && (base == NO_REG || base == R10))
        return false;
    if (base == NO_REG) {
        held_lose(b, R10);
        gpr_load(b, R10, guest);
        *rm = region_passing(b, disp);
        return true;
    }
    unsigned allowed = is_scratch(base) ? 1u << R11 : HELD_ANY & ~(1u << R10),
             entry = find_entry(b, x, REGION_REACH, allowed);
    if (entry == NO_REG && far) {
        held_lose(b, R10);
        asm_op(&b->a, OP_LEA | OP_W, R10, rm_mem(base, disp), 0);
        entry = load_entry(b, R10, x, 1u << R11);
    } else if (entry == NO_REG) {
        entry = load_entry(b, base, x, allowed);
    }
    *rm = rm_region((uint8_t)base, (uint8_t)entry, disp - MMU_REGION_BIAS);
    return true;
}

bool region_comes_again(const struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    for (unsigned i = b->cur + 1; i < b->count; i++) {
        const struct insn_mem *n = &b->insns[i].mem;
        if (n->present && n->base == m->base && n->index == m->index && n->scale == m->scale)
            return true;
        if (b->way[i] != WAY_PLAIN && !branch_goes_on(b, &b->insns[i]))
            return false;
    }
    return false;
}

/* By the region of base, since the index is narrow. */
static bool by_base(struct builder *b, unsigned base, unsigned index, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    struct value x = b->region.value[base];
    int64_t at = 0;
    unsigned by = region_index(b, index), host = region_find_host(b, base, x, REGION_REACH_BEFORE_INDEX, &at);
    if (by == NO_REG)
        return false;
    if (host == NO_REG) {
        unsigned from = region_gpr(b, base, HELD_BASE);
        if (from == NO_REG)
            return false;
        unsigned entry = find_entry(b, x, REGION_REACH_BEFORE_INDEX, HELD_ANY & ~(1u << R10));
        host = entry == NO_REG ? look_up_host(b, base, from, NULL, x) : make_host(b, base, from, entry, x);
    }
    *rm = rm_based((uint8_t)host, (uint8_t)by, m->scale, (int32_t)(m->disp + at) - MMU_REGION_BIAS);
    return true;
}

/* By the region of the sum. */
static bool by_sum(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    struct value x = region_operand_value(b, m->base, m->index, m->scale, m->disp);
    unsigned base = m->base, index = m->index;
    int64_t at = 0;
    unsigned host = region_find_host(b, base, x, REGION_REACH, &at);
    if (host == NO_REG && m->scale == 1) {
        host = region_find_host(b, index, x, REGION_REACH, &at);
        if (host != NO_REG) {
            base = m->index;
            index = m->base;
        }
    }
    if (!x.name || (host == NO_REG && !region_comes_again(b)))
        return false;
    unsigned by = region_index(b, index), from = NO_REG;
    if (by == NO_REG)
        return false;
    if (host == NO_REG || !region_is(b, host)) { /* that may have gone for the index */
        from = region_gpr(b, base, HELD_BASE);
        if (from == NO_REG || is_scratch(from) || is_scratch(by))
            return false;
        struct rm sum = rm_sib((uint8_t)from, (uint8_t)by, m->scale, (int32_t)m->disp);
        unsigned entry = find_entry(b, x, REGION_REACH, HELD_ANY & ~(1u << R10));
        host = entry == NO_REG ? look_up_host(b, base, from, &sum, x) : make_host(b, base, from, entry, x);
        at = 0;
    }
    *rm = rm_based((uint8_t)host, (uint8_t)by, m->scale, (int32_t)(m->disp + at) - MMU_REGION_BIAS);
    return true;
}

bool region_indexed(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    bool short_index = region_is_short(b, m->index, m->scale),
         short_base = m->scale == 1 && region_is_short(b, m->base, 1);
    bool stack = m->base == GPR_SP || m->index == GPR_SP;
    if (m->base == GPR_IP || m->index == GPR_NONE)
        return false;
    if (m->base == GPR_NONE) { /* that of the lowest region, the host's address for 0; not within reach of others */
        unsigned by = short_index && m->disp >= 0 ? region_index(b, m->index) : NO_REG;
        if (by == NO_REG)
            return false;
        region_load_constant(b, 0);
        *rm = rm_based(R11, (uint8_t)by, m->scale, (int32_t)m->disp - MMU_REGION_BIAS);
        return true;
    }
    if (stack)
        return false;
    if (parallel_is_used(b))
        return parallel_indexed(b, rm);
    if (short_index)
        return by_base(b, m->base, m->index, rm);
    return short_base ? by_base(b, m->index, m->base, rm) : by_sum(b, rm);
}

/* ---- behind each instruction ---- */

/* Does the current instruction, with nothing held, leave r11 alone but for its access through the window? */
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

/* What LEA makes; name 0: nothing that is known. */
static struct value of_lea(struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    bool plain = b->in->addrsize == 8 && m->base < GPR_COUNT && m->base != GPR_SP && m->index != GPR_SP;
    return plain ? region_operand_value(b, m->base, m->index, m->scale, m->disp) : (struct value){0};
}

/* What the current instruction makes of the 64-bit register that it writes, from the values before; name 0: unknown.
 * *from: the register that it is exactly *n more than, or GPR_NONE. */
static struct value result(struct builder *b, unsigned *from, int64_t *n)
{
    const struct insn *in = b->in;
    const struct insn_reg *to = written_register(in), *other = in->rm.write ? &in->reg : &in->rm;
    const struct value unknown = {0};
    *from = GPR_NONE;
    *n = 0;
    if (b->way[b->cur] != WAY_PLAIN || in->encoding != ENCODING_LEGACY || in->opsize != 8)
        return unknown;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA) {
        *from = in->addrsize == 8 && in->mem.index == GPR_NONE ? in->mem.base : GPR_NONE;
        *n = in->mem.disp;
        return of_lea(b);
    }
    if (in->mem.present || !to || to->num == GPR_SP)
        return unknown;
    bool two = in->reg.cls == REGCLASS_GPR && in->rm.cls == REGCLASS_GPR && other->num != GPR_SP,
         less = in->mnemonic == ZYDIS_MNEMONIC_SUB;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        *from = two ? other->num : GPR_NONE;
        return two ? b->region.value[other->num] : unknown;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        *n = in->mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1;
        break;
    case ZYDIS_MNEMONIC_AND:
        return in->imm_len && (int64_t)in->imm < 0
                   ? value_spread(b->region.value[to->num], (int64_t)in->imm, -(uint64_t)in->imm)
                   : unknown;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (!in->imm_len)
            return two ? value_sum(&b->region.values, b->region.value[to->num], b->region.value[other->num],
                                   less ? -1 : 1)
                       : unknown;
        *n = less ? -(int64_t)in->imm : (int64_t)in->imm;
        break;
    default:
        return unknown;
    }
    *from = to->num;
    return value_plus(b->region.value[to->num], *n);
}

/* The guest register that the current instruction writes, and no other. narrow: it makes that a number of 32 bits. */
static void follow_one(struct builder *b, unsigned guest, bool narrow)
{
    struct region_facts *r = &b->region;
    unsigned from;
    int64_t n;
    struct value made = result(b, &from, &n);
    if (!made.name)
        made = narrow ? value_within(&r->values, NARROW) : value_fresh(&r->values);
    r->exact[guest] = made.span && from < GPR_COUNT ? (struct region_exact){r->exact[from].id, r->exact[from].at + n}
                                                    : exact_of(b, made);
    r->value[guest] = made;
}

void region_follow(struct builder *b, bool narrow)
{
    struct region_facts *r = &b->region;
    uint16_t written = b->in->gpr_write;
    if (!b->held.on && !keeps_r11(b)) {
        region_forget(b);
        return;
    }
    if (!b->held.on && !keeps_others(b)) {
        region_lose(b, R10);
        region_lose(b, R12);
    }
    if (__builtin_popcount(written) == 1) {
        follow_one(b, (unsigned)__builtin_ctz(written), narrow);
        return;
    }
    for (unsigned i = 0; i < GPR_COUNT; i++) {
        if (!(written >> i & 1))
            continue;
        r->value[i] = value_fresh(&r->values);
        r->exact[i] = exact_of(b, r->value[i]);
    }
}
