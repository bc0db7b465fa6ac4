/* SPDX-License-Identifier: MIT */
#include "bt/verify_window.h"

#include "shadowmmu/region.h"
#include "shadowmmu/window.h"

#include <stdlib.h>

enum {
    ENTRY_DRIFT = 256 << 10, /* a return may add 64 KiB to what pushes and pops and small constants did */
    ACCESS_DRIFT = 1 << 20,  /* displacements reach 2 GiB, guards 4 */
    DETOUR_DRIFT = ACCESS_DRIFT,
    NEAR_BYTES = 64 << 10, /* an access as near to RSP says where RSP is */
    ACCESS_BYTES = 512,
    CONSTANT_REGIONS = 1 << 15,
    SLOTS = 4, /* guest R12-R15 in cpu->gpr */
    SLOT_BYTES = sizeof(uint64_t)
};
static const uint64_t UNKNOWN = 1ull << 40;

static const x86_reg names[16][4] = {
    {X86_REG_RAX, X86_REG_EAX, X86_REG_AX, X86_REG_AL},      {X86_REG_RCX, X86_REG_ECX, X86_REG_CX, X86_REG_CL},
    {X86_REG_RDX, X86_REG_EDX, X86_REG_DX, X86_REG_DL},      {X86_REG_RBX, X86_REG_EBX, X86_REG_BX, X86_REG_BL},
    {X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL},     {X86_REG_RBP, X86_REG_EBP, X86_REG_BP, X86_REG_BPL},
    {X86_REG_RSI, X86_REG_ESI, X86_REG_SI, X86_REG_SIL},     {X86_REG_RDI, X86_REG_EDI, X86_REG_DI, X86_REG_DIL},
    {X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B},     {X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B},
    {X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B}, {X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B},
    {X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B}, {X86_REG_R13, X86_REG_R13D, X86_REG_R13W, X86_REG_R13B},
    {X86_REG_R14, X86_REG_R14D, X86_REG_R14W, X86_REG_R14B}, {X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B}};

/* The whole register that one is a part of. */
static x86_reg whole(x86_reg r)
{
    static const x86_reg high[4] = {X86_REG_AH, X86_REG_CH, X86_REG_DH, X86_REG_BH};
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 4; k++)
            if (names[i][k] == r)
                return names[i][0];
    for (unsigned i = 0; i < 4; i++)
        if (high[i] == r)
            return names[i][0];
    return r;
}

bool verify_window_begin(struct verify_window *w, const struct bt_cache *c, uint32_t mode, uintptr_t start, size_t size)
{
    *w = (struct verify_window){.start = start, .size = size};
    if (!(mode & BT_MODE_WINDOW) || (mode & BT_MODE_CODE_MASK) != INSN_MODE_64)
        return true;
    w->regions = bt_regions(c->vcpu, mode);
    w->vcpu = c->vcpu;
    w->parallel = c->vcpu->cpu.mmu.window[bt_mode_window(mode)].parallel.table;
    w->label = calloc(size, sizeof *w->label);
    return w->label;
}

void verify_window_end(struct verify_window *w)
{
    free(w->label);
}

/* What a branch from elsewhere need not come with. */
static void forget_facts(struct verify_window *w)
{
    values_begin(&w->values, 0);
    for (unsigned i = 0; i < 3; i++)
        w->fact[i].kind = VERIFY_NOTHING;
    for (unsigned i = 0; i < 16; i++)
        w->value[i] = value_fresh(&w->values);
    for (unsigned i = 0; i < SLOTS; i++)
        w->slot[i] = value_fresh(&w->values);
    w->r10_known = false;
    w->narrow = 0;
    w->looks = 0;
}

static void forget(struct verify_window *w)
{
    w->index_in = X86_REG_INVALID;
    forget_facts(w);
}

void verify_window_pass(struct verify_window *w)
{
    forget(w);
    w->called = w->changed = false;
    w->step = STEP_NONE;
    w->drift = ENTRY_DRIFT;
}

bool verify_window_settled(const struct verify_window *w)
{
    return !w->changed;
}

static bool in_sequence(const struct verify_window *w)
{
    return w->index_in != X86_REG_INVALID || w->step;
}

const char *verify_window_before(struct verify_window *w, const cs_insn *i)
{
    uint32_t label = w->regions ? w->label[i->address - w->start] : 0;
    if (!w->regions)
        return NULL;
    w->touch = UNKNOWN;
    if (label && in_sequence(w))
        return "branch into an access through the window";
    if (label && label - 1 > w->drift)
        w->drift = label - 1;
    if (label)
        forget_facts(w);
    return NULL;
}

/* ---- registers of 32 bits, extended (translate_narrow.c) ---- */

static unsigned number_of(x86_reg r)
{
    unsigned i = 0;
    while (i < 16 && names[i][0] != r)
        i++;
    return i;
}

static bool is_narrow(const struct verify_window *w, x86_reg r)
{
    unsigned i = number_of(r);
    return i < 16 && (w->narrow >> i & 1);
}

static bool is_cmov(unsigned id)
{
    switch (id) {
    case X86_INS_CMOVA:
    case X86_INS_CMOVAE:
    case X86_INS_CMOVB:
    case X86_INS_CMOVBE:
    case X86_INS_CMOVE:
    case X86_INS_CMOVG:
    case X86_INS_CMOVGE:
    case X86_INS_CMOVL:
    case X86_INS_CMOVLE:
    case X86_INS_CMOVNE:
    case X86_INS_CMOVNO:
    case X86_INS_CMOVNP:
    case X86_INS_CMOVNS:
    case X86_INS_CMOVO:
    case X86_INS_CMOVP:
    case X86_INS_CMOVS:
        return true;
    default:
        return false;
    }
}

static bool writes_32_bits(const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    switch (i->id) {
    case X86_INS_MOV:
    case X86_INS_MOVZX:
    case X86_INS_MOVSX:
    case X86_INS_LEA:
    case X86_INS_ADD:
    case X86_INS_ADC:
    case X86_INS_SUB:
    case X86_INS_SBB:
    case X86_INS_AND:
    case X86_INS_OR:
    case X86_INS_XOR:
    case X86_INS_INC:
    case X86_INS_DEC:
    case X86_INS_NEG:
    case X86_INS_NOT:
        return true;
    case X86_INS_SHL:
    case X86_INS_SHR:
    case X86_INS_SAR:
    case X86_INS_ROL:
    case X86_INS_ROR:
        return x->op_count == 2 && x->operands[1].type == X86_OP_IMM && (x->operands[1].imm & 31);
    case X86_INS_IMUL:
        return x->op_count > 1;
    default:
        return is_cmov(i->id);
    }
}

/* Does the instruction make its first operand, a 64-bit register, one of those? */
static bool extends(const struct verify_window *w, const cs_insn *i)
{
    const cs_x86_op *from = &i->detail->x86.operands[1];
    switch (i->id) {
    case X86_INS_MOVZX:
    case X86_INS_MOVSX:
    case X86_INS_MOVSXD:
        return true;
    case X86_INS_MOV:
    case X86_INS_MOVABS:
        return (from->type == X86_OP_IMM && from->imm == (int32_t)from->imm) ||
               (from->type == X86_OP_REG && is_narrow(w, from->reg));
    case X86_INS_AND:
        return from->type == X86_OP_IMM && from->imm >= 0;
    case X86_INS_SHR:
    case X86_INS_SAR:
        return from->type == X86_OP_IMM && (from->imm & 63) >= 32;
    default:
        return is_cmov(i->id) && from->type == X86_OP_REG && is_narrow(w, from->reg) &&
               is_narrow(w, i->detail->x86.operands[0].reg);
    }
}

/* Of an instruction that writes its first operand. */
static bool makes_narrow(const struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    if (x->operands[0].type != X86_OP_REG)
        return x->operands[0].type == X86_OP_MEM && x->operands[0].size == 8 && extends(w, i);
    return x->operands[0].size == 4 ? writes_32_bits(i) : x->operands[0].size == 8 && extends(w, i);
}

/* ---- what registers are worth (translate_region.c) ---- */

static const struct value_range NARROW = {true, -(1ll << 31), (1ull << 31) + (1ull << 32)};

/* Is a memory operand's address a constant one? Then *at, as absolute and RIP-relative forms have it. */
static bool is_constant(const cs_insn *i, const cs_x86_op *op, uint64_t *at)
{
    const x86_op_mem *m = &op->mem;
    if (op->type != X86_OP_MEM || m->segment != X86_REG_INVALID ||
        (m->index != X86_REG_INVALID && m->index != X86_REG_RIZ) ||
        (m->base != X86_REG_INVALID && m->base != X86_REG_RIP))
        return false;
    *at = (uint64_t)m->disp + (m->base == X86_REG_RIP ? i->address + i->size : 0);
    return true;
}

static uint64_t slot_offset(const struct verify_window *w, uint64_t at)
{
    return at - (uintptr_t)&w->vcpu->cpu.gpr[12];
}

/* The field of guest R12-R15 that a whole operand is, or NULL. */
static struct value *slot_of(struct verify_window *w, const cs_insn *i, const cs_x86_op *op)
{
    uint64_t at;
    if (op->size != SLOT_BYTES || !is_constant(i, op, &at))
        return NULL;
    uint64_t offset = slot_offset(w, at);
    return offset < SLOTS * SLOT_BYTES && offset % SLOT_BYTES == 0 ? &w->slot[offset / SLOT_BYTES] : NULL;
}

/* Bytes that the instruction may write at its operand k. Capstone's size is believed beside general registers and
 * constants only. */
static uint64_t written_bytes(const cs_insn *i, unsigned k)
{
    const cs_x86 *x = &i->detail->x86;
    const uint8_t *opcode = x->opcode;
    bool x87 = opcode[0] >= 0xd8 && opcode[0] <= 0xdf;
    bool saves = opcode[0] == 0x0f && (opcode[1] == 0xae || opcode[1] == 0xc7);
    for (unsigned n = 0; n < x->op_count; n++)
        if (n != k && x->operands[n].type == X86_OP_REG && number_of(whole(x->operands[n].reg)) == 16)
            return ACCESS_BYTES;
    return x87 || saves ? ACCESS_BYTES : x->operands[k].size;
}

/* Fields of guest R12-R15 that the instruction may have written, in whole or in part, are not known any more. */
static void forget_written(struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    for (unsigned k = 0; k < x->op_count; k++) {
        bool may_write = k == 0 || i->id == X86_INS_XCHG || (x->operands[k].access & CS_AC_WRITE);
        uint64_t at;
        if (!may_write || verify_only_compares(i->id) || !is_constant(i, &x->operands[k], &at))
            continue;
        int64_t first = (int64_t)slot_offset(w, at), end = first + (int64_t)written_bytes(i, k);
        for (int64_t n = 0; n < SLOTS; n++)
            if (first < (n + 1) * SLOT_BYTES && end > n * SLOT_BYTES)
                w->slot[n] = value_fresh(&w->values);
    }
}

static struct value register_value(const struct verify_window *w, x86_reg r)
{
    unsigned i = number_of(r);
    return i < 16 ? w->value[i] : (struct value){0};
}

static struct value operand_value(struct verify_window *w, const cs_insn *i, const cs_x86_op *op)
{
    const struct value *slot = slot_of(w, i, op);
    if (op->size != 8)
        return (struct value){0};
    return slot ? *slot : op->type == X86_OP_REG ? register_value(w, op->reg) : (struct value){0};
}

/* base + index * scale + disp */
static struct value sum_of(struct verify_window *w, struct value base, x86_reg index, int scale, int64_t disp)
{
    if (index == X86_REG_INVALID || index == X86_REG_RIZ)
        return value_plus(base, disp);
    return value_plus(value_sum(&w->values, base, register_value(w, index), scale), disp);
}

/* What the first operand, a whole register or field, is when the instruction has written it; name 0: unknown. */
static struct value result(struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    const cs_x86_op *to = &x->operands[0], *by = &x->operands[1];
    struct value was = x->op_count ? operand_value(w, i, to) : (struct value){0};
    if (!x->op_count || to->size != 8)
        return (struct value){0};
    bool two = x->op_count == 2, imm = two && by->type == X86_OP_IMM, less = i->id == X86_INS_SUB;
    switch (i->id) {
    case X86_INS_MOV:
        return two ? operand_value(w, i, by) : (struct value){0};
    case X86_INS_INC:
    case X86_INS_DEC:
        return value_plus(was, i->id == X86_INS_INC ? 1 : -1);
    case X86_INS_AND:
        return imm && by->imm < 0 ? value_spread(was, by->imm, 0 - (uint64_t)by->imm) : (struct value){0};
    case X86_INS_ADD:
    case X86_INS_SUB:
        if (imm)
            return value_plus(was, less ? -by->imm : by->imm);
        return two ? value_sum(&w->values, was, operand_value(w, i, by), less ? -1 : 1) : (struct value){0};
    case X86_INS_LEA:
        return x->addr_size == 8 && by->mem.segment == X86_REG_INVALID && by->mem.base != X86_REG_RIP
                   ? sum_of(w, register_value(w, by->mem.base), by->mem.index, by->mem.scale, by->mem.disp)
                   : (struct value){0};
    default:
        return (struct value){0};
    }
}

static struct verify_fact *fact_in(struct verify_window *w, x86_reg r)
{
    return r >= X86_REG_R10 && r <= X86_REG_R12 ? &w->fact[r - X86_REG_R10] : NULL;
}

/* A value near which x is, and that is in a parallel stretch; name 0: none. */
static struct value looked_at(const struct verify_window *w, struct value x, uint64_t limit)
{
    for (unsigned n = 0; n < w->looks && n < VERIFY_LOOKS; n++)
        if (value_near(&w->values, x, w->parallel_near[n], limit))
            return w->parallel_near[n];
    return (struct value){0};
}

/* lea r10, [X + r11] */
static struct verify_fact host_address(struct verify_window *w, const cs_insn *i)
{
    static const uint64_t BEFORE_INDEX = 20ull << 30;
    const cs_x86 *x = &i->detail->x86;
    const x86_op_mem *m = &x->operands[1].mem;
    struct verify_fact none = {0};
    if (i->id != X86_INS_LEA || !fact_in(w, x->operands[0].reg) || x->addr_size != 8 || m->scale != 1 || m->disp)
        return none;
    const struct verify_fact *e = fact_in(w, m->index);
    struct value base = register_value(w, m->base);
    if (e && e->kind == VERIFY_PARALLEL) {
        struct value of = looked_at(w, base, BEFORE_INDEX);
        return of.name ? (struct verify_fact){.kind = VERIFY_HOST, .of = of, .base = base} : none;
    }
    if (!e || e->kind != VERIFY_ENTRY || e->constant)
        return none;
    return (struct verify_fact){.kind = VERIFY_HOST, .of = e->of, .base = base};
}

static bool register_operand(const cs_x86_op *op, x86_reg reg)
{
    return op->type == X86_OP_REG && op->reg == reg;
}

static bool is_load_to(const cs_insn *i, x86_reg reg)
{
    const cs_x86 *x = &i->detail->x86;
    return i->id == X86_INS_MOV && x->op_count == 2 && register_operand(&x->operands[0], reg);
}

/* shrx to, from, r15 */
static bool is_index(const cs_insn *i, x86_reg to, x86_reg *from)
{
    const cs_x86 *x = &i->detail->x86;
    if (i->id != X86_INS_SHRX || !register_operand(&x->operands[0], to) || x->operands[1].type != X86_OP_REG ||
        !register_operand(&x->operands[2], X86_REG_R15))
        return false;
    *from = x->operands[1].reg;
    return true;
}

static bool is_entry(const struct verify_window *w, const x86_op_mem *m, x86_reg index)
{
    return m->base == X86_REG_INVALID && m->index == index && m->scale == 8 && m->disp == (intptr_t)w->regions;
}

static bool is_constant_entry(const struct verify_window *w, const x86_op_mem *m)
{
    int64_t offset = m->disp - (intptr_t)w->regions;
    bool plain = m->base == X86_REG_INVALID && (m->index == X86_REG_INVALID || m->index == X86_REG_RIZ);
    return plain && offset >= 0 && offset % 8 == 0 && offset / 8 < CONSTANT_REGIONS;
}

/* A number that, times scale, is far less than a slot's guards. */
static bool is_short(const struct verify_window *w, x86_reg r, int scale)
{
    struct value_range range = value_range_of(&w->values, register_value(w, r));
    int64_t most = (int64_t)(MMU_WINDOW_GUARD - (4ull << 30));
    return range.known && range.low * scale > -most && (range.low + (int64_t)range.span) * scale < most;
}

static bool reaches(struct verify_window *w, struct value x, struct value of)
{
    return value_near(&w->values, x, of, MMU_WINDOW_GUARD - ACCESS_BYTES - MMU_REGION_BIAS);
}

/* By a register that is near the region that r11 or r12 is the entry of. */
static bool is_region_operand(struct verify_window *w, const x86_op_mem *m)
{
    const struct verify_fact *e = fact_in(w, m->index);
    bool told_apart = m->index == X86_REG_R11 || (m->index == X86_REG_R12 && !fact_in(w, m->base));
    if (!e || e->kind != VERIFY_ENTRY || m->scale != 1 || !told_apart)
        return false;
    if (e->constant)
        return m->base == X86_REG_R10 && w->r10_known && (w->r10 >> MMU_REGION_SHIFT) + 1 == e->constant;
    return reaches(w, value_plus(register_value(w, m->base), m->disp), e->of);
}

/* By r10, r11 or r12, which is the host's address for something. */
static bool is_host_operand(struct verify_window *w, const x86_op_mem *m)
{
    const struct verify_fact *h = fact_in(w, m->base);
    if (!h || m->index == X86_REG_R10 || m->index == X86_REG_R11)
        return false;
    if (h->kind == VERIFY_ENTRY && h->constant == 1)
        return m->index == X86_REG_INVALID || is_short(w, m->index, m->scale);
    return h->kind == VERIFY_HOST && reaches(w, sum_of(w, h->base, m->index, m->scale, m->disp), h->of);
}

/* mov r10, [what the region table would say of parallel regions] */
static struct verify_fact *loads_parallel_entry(struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    uint64_t at;
    bool loads = w->parallel && i->id == X86_INS_MOV && x->op_count == 2 && x->operands[0].type == X86_OP_REG &&
                 is_constant(i, &x->operands[1], &at) &&
                 at == (uintptr_t)&w->vcpu->cpu.mmu.window[MMU_WINDOW_USER].parallel.entry;
    return loads ? fact_in(w, x->operands[0].reg) : NULL;
}

/* mov r11d, [parallel + r11*8] */
static bool is_look(const struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    const x86_op_mem *m = &x->operands[1].mem;
    return w->parallel && is_load_to(i, X86_REG_R11D) && x->operands[1].type == X86_OP_MEM &&
           m->segment == X86_REG_INVALID && m->base == X86_REG_INVALID && m->index == X86_REG_R11 && m->scale == 8 &&
           m->disp == (intptr_t)w->parallel;
}

/* gs:, near what was looked at. */
static bool is_parallel_operand(struct verify_window *w, const x86_op_mem *m)
{
    struct value x = sum_of(w, register_value(w, m->base), m->index, m->scale, m->disp);
    return looked_at(w, x, MMU_WINDOW_GUARD - ACCESS_BYTES).name;
}

bool verify_window_accepts(struct verify_window *w, const cs_insn *i, const cs_x86_op *op)
{
    const x86_op_mem *m = &op->mem;
    if (!w->regions || i->id == X86_INS_LEA || i->id == X86_INS_NOP)
        return false;
    if (m->segment == X86_REG_GS)
        return w->parallel && i->detail->x86.addr_size == 8 && is_parallel_operand(w, m);
    if (m->segment != X86_REG_INVALID)
        return false;
    if (is_look(w, i))
        return w->index_in == X86_REG_R11;
    for (x86_reg r = X86_REG_R10; r <= X86_REG_R12; r++)
        if (is_load_to(i, r) && is_entry(w, m, r))
            return w->index_in == r;
    if (is_load_to(i, X86_REG_R11) && is_constant_entry(w, m))
        return true;
    if (is_load_to(i, X86_REG_R15) && is_entry(w, m, X86_REG_R15))
        return w->step == STEP_INDEX;
    if (is_region_operand(w, m) || is_host_operand(w, m))
        return true;
    bool indexed = m->index != X86_REG_INVALID;
    if (m->base != X86_REG_RSP || (indexed && !is_narrow(w, m->index)) || w->step || w->drift > ACCESS_DRIFT)
        return false;
    if (!indexed && m->disp >= -NEAR_BYTES && m->disp <= NEAR_BYTES)
        w->touch = (uint64_t)(m->disp < 0 ? -m->disp : m->disp) + ACCESS_BYTES;
    return true;
}

bool verify_window_pushes(struct verify_window *w, const cs_insn *i)
{
    const cs_x86_op *op = &i->detail->x86.operands[0];
    bool pushes = i->id == X86_INS_PUSH && (op->type == X86_OP_IMM || (op->type == X86_OP_REG && op->size == 8));
    bool pops = i->id == X86_INS_POP && op->type == X86_OP_REG && op->size == 8 && op->reg != X86_REG_RSP;
    if (!w->regions || w->step || w->drift > ACCESS_DRIFT || !(pushes || pops))
        return false;
    w->touch = ACCESS_BYTES;
    return true;
}

/* Is the operand of an instruction this field? */
static bool is_field(const cs_insn *i, const cs_x86_op *op, const void *field)
{
    uint64_t at;
    return is_constant(i, op, &at) && at == (uintptr_t)field;
}

/* lea to, [base + index + disp] */
static bool is_lea(const cs_insn *i, x86_reg to, x86_reg base, x86_reg index, int64_t disp)
{
    const cs_x86 *x = &i->detail->x86;
    const x86_op_mem *m = &x->operands[1].mem;
    return i->id == X86_INS_LEA && register_operand(&x->operands[0], to) && m->base == base && m->index == index &&
           m->scale == 1 && m->disp == disp;
}

/* Is the instruction the next one of a sequence? Then where that is behind it. */
static bool next_step(const struct verify_window *w, const cs_insn *i, enum verify_window_step *step)
{
    const cs_x86 *x = &i->detail->x86;
    const struct bt_vcpu *v = w->vcpu;
    x86_reg from;
    switch (w->step) {
    case STEP_NONE:
        *step = is_index(i, X86_REG_R15, &from)                                      ? STEP_INDEX
                : is_lea(i, X86_REG_RSP, X86_REG_RSP, X86_REG_R15, -MMU_REGION_BIAS) ? STEP_LEAVES
                                                                                     : STEP_NONE;
        return true;
    case STEP_INDEX:
        *step = STEP_ENTRY;
        return is_load_to(i, X86_REG_R15) && x->operands[1].type == X86_OP_MEM &&
               is_entry(w, &x->operands[1].mem, X86_REG_R15);
    case STEP_ENTRY:
        *step = STEP_SET;
        return is_lea(i, X86_REG_RSP, w->stack_of, X86_REG_R15, -MMU_REGION_BIAS);
    case STEP_SET:
        *step = STEP_TURNED;
        return i->id == X86_INS_NOT && register_operand(&x->operands[0], X86_REG_R15);
    case STEP_TURNED:
        *step = STEP_NONE;
        return is_lea(i, X86_REG_R15, X86_REG_R15, X86_REG_INVALID, 2 * MMU_REGION_BIAS + 1);
    case STEP_LEAVES:
        *step = STEP_LEAVES_2;
        return i->id == X86_INS_MOV && is_field(i, &x->operands[0], &v->cpu.gpr[GPR_SP]) &&
               register_operand(&x->operands[1], X86_REG_RSP);
    default: /* STEP_LEAVES_2 */
        *step = STEP_NONE;
        return is_load_to(i, X86_REG_RSP) && is_field(i, &x->operands[1], &v->host_rsp);
    }
}

/* The drift behind an instruction that writes RSP. */
static uint64_t moved(const struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    const cs_x86_op *by = &x->operands[1];
    int64_t n = 0;
    if (i->id == X86_INS_PUSH || i->id == X86_INS_POP)
        return w->drift + 8;
    if (w->called && is_load_to(i, X86_REG_RSP) && is_field(i, by, &w->vcpu->window_rsp))
        return 0;
    if (x->op_count != 2 || !register_operand(&x->operands[0], X86_REG_RSP))
        return UNKNOWN;
    if (i->id == X86_INS_LEA && by->mem.base == X86_REG_RSP && by->mem.index == X86_REG_INVALID)
        n = by->mem.disp;
    else if ((i->id == X86_INS_ADD || i->id == X86_INS_SUB) && by->type == X86_OP_IMM)
        n = by->imm;
    else if (i->id == X86_INS_AND && by->type == X86_OP_IMM && by->imm < 0)
        n = by->imm;
    else
        return UNKNOWN;
    return w->drift + (uint64_t)(n < 0 ? -n : n);
}

static bool branches(const cs_insn *i)
{
    for (int g = 0; g < i->detail->groups_count; g++)
        if (i->detail->groups[g] == CS_GRP_JUMP || i->detail->groups[g] == CS_GRP_CALL)
            return true;
    return false;
}

static const char *after_branch(struct verify_window *w, const cs_insn *i)
{
    const cs_x86_op *op = &i->detail->x86.operands[0];
    size_t to = op->type == X86_OP_IMM ? (uintptr_t)op->imm - w->start : ~(size_t)0;
    if (i->id == X86_INS_CALL) { /* RSP is the host's until window_rsp is fetched */
        w->drift = UNKNOWN;
    } else if (to < w->size) {
        if (w->drift > DETOUR_DRIFT)
            return "branch with RSP far from its region";
        if (w->label[to] < w->drift + 1) {
            w->label[to] = (uint32_t)w->drift + 1;
            w->changed = true;
        }
    } else if (w->drift > ENTRY_DRIFT) {
        return "exit with RSP far from its region";
    }
    if (i->id == X86_INS_JMP) /* what follows has a label, or is a detour, where the fault handler comes from */
        w->drift = w->label[i->address + i->size - w->start < w->size ? i->address + i->size - w->start : 0]
                       ? 0
                       : DETOUR_DRIFT;
    if (i->id == X86_INS_CALL || i->id == X86_INS_JMP)
        forget(w);
    else
        w->index_in = X86_REG_INVALID;
    return NULL;
}

/* Capstone says that these write the register that they read, too. */
static bool only_extends_to_rdx(unsigned id)
{
    return id == X86_INS_CWD || id == X86_INS_CDQ || id == X86_INS_CQO;
}

/* Registers that the instruction writes. */
static const char *after_writes(struct verify_window *w, csh h, const cs_insn *i, bool sets_r15)
{
    cs_regs read, written;
    uint8_t nread, nwritten;
    const cs_x86 *x = &i->detail->x86;
    if (capstone_load()->regs_access(h, i, read, &nread, written, &nwritten))
        return "registers that are not known";
    for (int k = 0; k < nwritten && !verify_only_compares(i->id); k++) {
        x86_reg r = whole(written[k]);
        if (r == X86_REG_RAX && only_extends_to_rdx(i->id))
            continue;
        if (r == X86_REG_R15 && !sets_r15)
            return "writes r15";
        if (r == X86_REG_RSP)
            w->drift = moved(w, i);
        if (fact_in(w, r))
            fact_in(w, r)->kind = VERIFY_NOTHING;
        unsigned n = number_of(r);
        if (n < 16) {
            w->narrow &= (uint16_t) ~(1u << n);
            w->value[n] = value_fresh(&w->values);
        }
        if (r == X86_REG_R10) {
            bool constant = (i->id == X86_INS_MOV || i->id == X86_INS_MOVABS) && x->operands[1].type == X86_OP_IMM;
            w->r10_known = constant && whole(x->operands[0].reg) == X86_REG_R10;
            w->r10 = constant ? (uint64_t)x->operands[1].imm : 0;
            if (x->operands[0].reg == X86_REG_R10D)
                w->r10 = (uint32_t)w->r10;
        }
    }
    return NULL;
}

/* What an instruction makes of the register or the field that it writes. */
struct outcome {
    unsigned to;        /* the register, by index in names[], or 16 */
    struct value *slot; /* the field, or NULL */
    struct value value; /* name 0: unknown */
    bool narrow;
    struct verify_fact host;
};

/* Before anything is forgotten. */
static struct outcome outcome_of(struct verify_window *w, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    const cs_x86_op *op = &x->operands[0];
    struct outcome o = {.to = 16};
    if (i->id == X86_INS_CDQE)
        return (struct outcome){.to = number_of(X86_REG_RAX), .narrow = true};
    if (!x->op_count || verify_only_compares(i->id))
        return o;
    o.slot = slot_of(w, i, op);
    if (op->type == X86_OP_REG)
        o.to = number_of(whole(op->reg));
    o.value = result(w, i);
    o.narrow = makes_narrow(w, i);
    o.host = host_address(w, i);
    return o;
}

static void after_outcome(struct verify_window *w, const struct outcome *o)
{
    struct value *at = o->to < 16 ? &w->value[o->to] : o->slot;
    if (!at)
        return;
    if (o->value.name)
        *at = o->value;
    else if (o->narrow)
        *at = value_within(&w->values, NARROW);
    if (o->narrow && o->to < 16)
        w->narrow |= (uint16_t)(1u << o->to);
    if (o->host.kind)
        *fact_in(w, names[o->to][0]) = o->host;
}

const char *verify_window_after(struct verify_window *w, csh h, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    const x86_op_mem *m = &x->operands[1].mem;
    x86_reg from = X86_REG_INVALID;
    enum verify_window_step step;
    if (!w->regions)
        return NULL;
    if (!next_step(w, i, &step))
        return "RSP and r15 are left apart";
    if (branches(i)) {
        w->called = i->id == X86_INS_CALL;
        return after_branch(w, i);
    }
    bool loads = x->op_count == 2 && x->operands[1].type == X86_OP_MEM;
    bool constant = loads && is_load_to(i, X86_REG_R11) && is_constant_entry(w, m);
    x86_reg index_in = X86_REG_INVALID;
    for (x86_reg r = X86_REG_R10; r <= X86_REG_R12; r++)
        if (is_index(i, r, &from))
            index_in = r;
    x86_reg entry = X86_REG_INVALID;
    struct value index_of = w->index_of, shifted = register_value(w, from);
    if (loads && w->index_in != X86_REG_INVALID && is_load_to(i, w->index_in) && is_entry(w, m, w->index_in))
        entry = w->index_in;
    bool look = loads && w->index_in == X86_REG_R11 && is_look(w, i) && index_of.name;
    struct verify_fact *to_parallel = loads_parallel_entry(w, i);
    bool stack = step >= STEP_INDEX && step <= STEP_TURNED, stack_set = w->step == STEP_TURNED;
    if (step == STEP_INDEX)
        is_index(i, X86_REG_R15, &w->stack_of);
    if (w->touch < w->drift)
        w->drift = w->touch;
    struct outcome outcome = outcome_of(w, i);
    const char *bad = after_writes(w, h, i, stack || stack_set);
    forget_written(w, i);
    after_outcome(w, &outcome);
    w->step = step;
    w->called = false;
    w->index_of = shifted;
    w->index_in = index_in;
    if (entry != X86_REG_INVALID)
        *fact_in(w, entry) = (struct verify_fact){.kind = VERIFY_ENTRY, .of = index_of};
    if (look)
        w->parallel_near[w->looks++ % VERIFY_LOOKS] = index_of;
    if (to_parallel)
        to_parallel->kind = VERIFY_PARALLEL;
    if (constant)
        *fact_in(w, X86_REG_R11) = (struct verify_fact){
            .kind = VERIFY_ENTRY, .constant = 1 + (uint64_t)(m->disp - (intptr_t)w->regions) / sizeof(uint64_t)};
    if (stack_set)
        w->drift = 0;
    return bad;
}
