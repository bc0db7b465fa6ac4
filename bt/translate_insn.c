/* SPDX-License-Identifier: MIT */
/* Plain instructions: the guest's encoding written again with host registers and the shadow-table operand; and calls
 * into C for everything that is not plain. */
#include "bt/quick.h"
#include "bt/translate.h"

#include <Zydis/Zydis.h>

/* Stands in for AH..BH where REX forbids them; r12 may do so for RSP, the other operand. */
static unsigned temp_high(const struct insn *in)
{
    return in->mem.present ? R12 : R10;
}

/* ---- which instructions run on the host ---- */

static bool unavailable(const struct builder *b, const struct insn *in)
{
    if (in->vex && in->vector)
        return b->mode & BT_MODE_NO_AVX;
    if (in->vector)
        return b->mode & BT_MODE_NO_SSE;
    return (in->x87 || in->mmx) && (b->mode & BT_MODE_NO_X87);
}

/* Legacy instructions without a 64-bit encoding, and operands that are not one memory access. */
static bool needs_c(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
    case ZYDIS_MNEMONIC_SALC:
        return true;
    case ZYDIS_MNEMONIC_NOP: /* the register form of PREFETCHW: a NOP for Intel, #UD for AMD */
        return in->map == MAP_0F && in->opcode == 0x0d;
    default:
        return in->mem.vsib || in->mem.masked;
    }
}

bool translate_is_inline(const struct builder *b, const struct insn *in)
{
    return (in->cls == INSN_GENERIC || in->cls == INSN_MOVE) && !needs_c(in) && !unavailable(b, in);
}

/* ---- re-encoding ---- */

/* The operand names AH..BH and cannot, because another part of the instruction needs REX. */
static bool high_conflict(const struct builder *b)
{
    const struct insn *in = b->in;
    bool high = in->reg.cls == REGCLASS_GPR8H || in->rm.cls == REGCLASS_GPR8H || in->opreg.cls == REGCLASS_GPR8H;
    bool rex = in->mem.present || (in->reg.cls == REGCLASS_GPR && host_gpr(b, in->reg.num) >= 8) ||
               (in->rm.cls == REGCLASS_GPR && host_gpr(b, in->rm.num) >= 8);
    return high && rex;
}

struct fields {
    unsigned reg, rm_register, opreg, vvvv;
    bool high_reg, high_rm;
};

/* The host's number for a register field; stand_in for a guest register that stays in memory. */
static unsigned field(const struct builder *b, const struct insn_reg *r, unsigned stand_in)
{
    if (r->cls == REGCLASS_GPR) {
        unsigned host = host_gpr(b, r->num);
        return host == NO_REG ? stand_in : host;
    }
    return r->cls == REGCLASS_GPR8H ? r->num + 4u : r->num;
}

/* Scratch registers for operands that stay in memory. With a memory operand r10 and r11 hold its address, but an
 * operand that is only written may replace the delta (MULX), and one that is only read may share r12 with one that is
 * only written (ANDN). */
enum { STAND_IN_REG = R12, STAND_IN_RM = R10 };
static unsigned stand_in_vvvv(const struct insn *in)
{
    return in->mem.present && !in->vvvv.write ? R12 : R11;
}

static struct fields host_fields(const struct builder *b, bool conflict)
{
    const struct insn *in = b->in;
    struct fields f = {.reg = in->reg.cls == REGCLASS_NONE ? in->modrm_reg : field(b, &in->reg, STAND_IN_REG),
                       .rm_register = in->rm.cls == REGCLASS_NONE ? in->modrm_rm : field(b, &in->rm, STAND_IN_RM),
                       .opreg = field(b, &in->opreg, STAND_IN_REG),
                       .vvvv = in->vvvv.cls == REGCLASS_NONE ? 0 : field(b, &in->vvvv, stand_in_vvvv(in)),
                       .high_reg = in->reg.cls == REGCLASS_GPR8H,
                       .high_rm = in->rm.cls == REGCLASS_GPR8H};
    if (conflict && f.high_reg) {
        f.reg = temp_high(in);
        f.high_reg = false;
    }
    if (conflict && f.high_rm) {
        f.rm_register = temp_high(in);
        f.high_rm = false;
    }
    return f;
}

/* A register without one of the host's: RSP of window code is to be computed, the others stay in memory. */
static bool stays_away(const struct builder *b, const struct insn_reg *r)
{
    return r->cls == REGCLASS_GPR && host_gpr(b, r->num) == NO_REG;
}

static bool stays_in_memory(const struct builder *b, const struct insn_reg *r)
{
    return stays_away(b, r) && !(r->num == GPR_SP && has_regions(b));
}

/* Does the instruction need the value that the register had? A narrow write keeps the rest; CMOV, BSF and others may
 * write nothing at all. */
static bool stand_in_reads(const struct builder *b, const struct insn_reg *r)
{
    if (b->in->encoding == ENCODING_VEX)
        return r->read;
    return r->read || r->size < 4 || b->in->cls != INSN_MOVE;
}

static void stand_in_load(struct builder *b, const struct insn_reg *r, unsigned scratch)
{
    if (stays_away(b, r) && stand_in_reads(b, r)) /* else the scratch may hold the address until it is written */
        gpr_load(b, scratch, r->num);
}

static void stand_in_store(struct builder *b, const struct insn_reg *r, unsigned scratch)
{
    if (stays_away(b, r) && r->write)
        gpr_store(b, r->num, scratch);
}

static void emit_immediates(struct builder *b)
{
    const struct insn *in = b->in;
    for (unsigned i = 0; i < in->imm_len; i++)
        asm_byte(&b->a, in->bytes[in->len - in->imm_len + i]);
}

/* VEX.W means nothing outside 64-bit mode where it would widen a general register or a scalar of the same name. */
static bool vex_w(const struct insn *in)
{
    bool general = in->reg.cls == REGCLASS_GPR || in->rm.cls == REGCLASS_GPR || in->vvvv.cls == REGCLASS_GPR;
    return in->rex_w && (in->mode == INSN_MODE_64 || (!general && !(in->mem.present && in->mem.size == 4)));
}

static void emit_vex(struct builder *b, struct rm rm, const struct fields *f)
{
    static const uint8_t pp[] = {[0] = 0, [0x66 & 0xf] = 1, [3] = 2, [2] = 3};
    const struct insn *in = b->in;
    if (!in->has_modrm) { /* vzeroupper, vzeroall */
        asm_byte(&b->a, 0xc5);
        asm_byte(&b->a, in->vex_l ? 0xfc : 0xf8);
        asm_byte(&b->a, in->opcode);
        return;
    }
    /* vbroadcasti128 as vbroadcastf128, which does the same: Capstone 4 does not know the former */
    uint8_t opcode = in->map == MAP_0F38 && in->opcode == 0x5a ? 0x1a : in->opcode;
    asm_vex(&b->a, in->map, pp[in->mandatory & 0xf], vex_w(in), in->vex_l, opcode, f->reg, f->vvvv, rm, in->imm_len);
    emit_immediates(b);
}

static uint32_t legacy_prefixes(const struct insn *in)
{
    uint32_t op = 0;
    if (in->has_66)
        op |= OP_66;
    if (in->mandatory == 0x66)
        op |= OP_66;
    if (in->mandatory == 0xf2)
        op |= OP_F2;
    if (in->mandatory == 0xf3)
        op |= OP_F3;
    if (in->lock)
        op |= OP_LOCK;
    /* movq xmm, m64 does without: Capstone 4 takes it with REX.W for a movd that stores. */
    if (in->rex_w && !(in->map == MAP_0F && in->opcode == 0x7e && in->mandatory == 0xf3))
        op |= OP_W;
    return op;
}

/* Opcodes that mean something else in 64-bit mode, as an equivalent ModRM form. Returns the opcode, *reg the field. */
static uint8_t opcode_without_short_forms(const struct insn *in, unsigned *reg, bool *modrm_form)
{
    *modrm_form = in->has_modrm;
    if (in->map != MAP_PRIMARY || in->encoding != ENCODING_LEGACY)
        return in->opcode;
    if (in->mode != INSN_MODE_64 && in->opcode >= 0x40 && in->opcode <= 0x4f) { /* inc, dec r */
        *reg = in->opcode >= 0x48;
        *modrm_form = true;
        return 0xff;
    }
    if (in->opcode == 0x82) /* alias of 80 */
        return 0x80;
    if (in->mem.moffs) { /* a0-a3 */
        static const uint8_t forms[] = {0x8a, 0x8b, 0x88, 0x89};
        *reg = RAX;
        *modrm_form = true;
        return forms[in->opcode & 3];
    }
    return in->opcode;
}

static bool byte_register(const struct insn_reg *r)
{
    return r->cls == REGCLASS_GPR && r->size == 1;
}

/* An opcode with the register in its low three bits: bswap, xchg, mov r, imm. */
static void emit_opreg(struct builder *b, uint32_t prefixes, const struct fields *f)
{
    const struct insn *in = b->in;
    if (prefixes & OP_66)
        asm_byte(&b->a, 0x66);
    unsigned rex = (prefixes & OP_W ? 8 : 0) | (f->opreg & 8 ? 1 : 0);
    if (rex || (byte_register(&in->opreg) && f->opreg >= 4))
        asm_byte(&b->a, (uint8_t)(0x40 | rex));
    if (in->map)
        asm_byte(&b->a, 0x0f);
    asm_byte(&b->a, (uint8_t)((in->opcode & 0xf8) | (f->opreg & 7)));
    emit_immediates(b);
}

static void emit_legacy(struct builder *b, struct rm rm, struct fields f)
{
    const struct insn *in = b->in;
    uint32_t op = legacy_prefixes(in);
    unsigned reg = f.reg;
    bool modrm_form;
    uint8_t opcode = opcode_without_short_forms(in, &reg, &modrm_form);
    unsigned imm_len = in->mem.moffs ? 0 : in->imm_len;
    if (in->opreg.cls != REGCLASS_NONE && modrm_form && !in->has_modrm && !in->mem.moffs)
        rm = rm_reg(f.opreg); /* inc, dec */
    else if (in->opreg.cls != REGCLASS_NONE) {
        emit_opreg(b, op, &f);
        return;
    }
    op |= opcode | (uint32_t)in->map << 8;
    if (!modrm_form) { /* no operands to encode: cwd, sahf, al/eax with immediate ... */
        if (op & OP_66)
            asm_byte(&b->a, 0x66);
        if (op & OP_F2)
            asm_byte(&b->a, 0xf2);
        if (op & OP_F3)
            asm_byte(&b->a, 0xf3);
        if (op & OP_W)
            asm_byte(&b->a, 0x48);
        if (in->map)
            asm_byte(&b->a, 0x0f);
        asm_byte(&b->a, opcode);
        emit_immediates(b);
        return;
    }
    op |= (f.high_reg ? OP_HIGH_REG : 0) | (f.high_rm ? OP_HIGH_RM : 0);
    op |= byte_register(&in->reg) ? OP_BYTE_REG : 0;
    op |= byte_register(&in->rm) ? OP_BYTE_RM : 0;
    asm_op(&b->a, op, reg, rm, imm_len);
    if (imm_len)
        emit_immediates(b);
}

static const struct insn_reg *high_operand(const struct insn *in)
{
    return in->reg.cls == REGCLASS_GPR8H ? &in->reg : &in->rm;
}

/* ---- registers that stay in memory, as the host instruction's memory operand ---- */

/* Instructions whose r/m operand may as well be memory of the same size. Not so BT and its kin, exchanges (which lock),
 * and moves from and to vector registers. */
static bool takes_memory_for_rm(const struct insn *in)
{
    uint8_t op = in->opcode;
    if (in->encoding != ENCODING_LEGACY || !in->has_modrm)
        return false;
    if (in->map == MAP_0F)
        return (op & 0xf0) == 0x40 || op == 0xaf || op == 0xb6 || op == 0xb7 || op == 0xbe || op == 0xbf;
    if (in->map != MAP_PRIMARY)
        return false;
    return op < 0x40 || op == 0x63 || op == 0x69 || op == 0x6b || (op >= 0x80 && op <= 0x85) ||
           (op >= 0x88 && op <= 0x8b) || op == 0xc0 || op == 0xc1 || op == 0xc6 || op == 0xc7 ||
           (op >= 0xd0 && op <= 0xd3) || op == 0xf6 || op == 0xf7 || op == 0xfe || op == 0xff;
}

/* Better in a scratch register: it is there, or used again, or both read and written. */
static bool held_takes(const struct builder *b, const struct insn_reg *r)
{
    return b->held.on && (held_wants(b, r->num) || (r->read && r->write));
}

/* A write of 32 bits clears the upper half, and the next load of the whole register would have to wait for a shorter
 * write. */
static bool rm_in_place(const struct builder *b)
{
    const struct insn *in = b->in;
    return !in->mem.present && stays_in_memory(b, &in->rm) && takes_memory_for_rm(in) &&
           (!in->rm.write || in->rm.size == 8) && !held_takes(b, &in->rm);
}

/* `op r/m, reg` with a reg that stays in memory: as `op reg, r/m`. TEST is the same both ways. */
static bool reg_in_place(const struct builder *b)
{
    const struct insn *in = b->in;
    uint8_t op = in->opcode;
    bool turns = (op < 0x40 && (op & 7) == 1) || op == 0x85 || op == 0x89;
    return !in->mem.present && in->encoding == ENCODING_LEGACY && in->map == MAP_PRIMARY && turns &&
           stays_in_memory(b, &in->reg) && in->rm.cls == REGCLASS_GPR && !stays_away(b, &in->rm) &&
           !held_takes(b, &in->reg);
}

/* Does so, when that is all there is to do. */
static bool emit_in_place(struct builder *b)
{
    const struct insn *in = b->in;
    if (!reg_in_place(b))
        return false;
    uint32_t op = legacy_prefixes(in) | (in->opcode == 0x85 ? in->opcode : in->opcode | 2);
    asm_op(&b->a, op, host_gpr(b, in->rm.num), gpr_rm(b, in->reg.num), 0);
    return true;
}

/* ---- registers that are held (translate_held.c) ---- */

/* A register written whole needs no old value; nor does what is the same whatever the value is. */
static bool held_reads(const struct builder *b, const struct insn_reg *r)
{
    const struct insn *in = b->in;
    bool cleared = (in->mnemonic == ZYDIS_MNEMONIC_XOR || in->mnemonic == ZYDIS_MNEMONIC_SUB) && !in->mem.present &&
                   in->reg.cls == REGCLASS_GPR && in->rm.cls == REGCLASS_GPR && in->reg.num == in->rm.num &&
                   in->reg.size >= 4;
    return !cleared && stand_in_reads(b, r);
}

static void held_field(struct builder *b, const struct insn_reg *r, unsigned *field)
{
    if (!stays_in_memory(b, r))
        return;
    /* one register in two fields: what either does */
    const struct insn_reg *all[] = {&b->in->reg, &b->in->rm, &b->in->vvvv, &b->in->opreg};
    bool load = false, write = false;
    for (unsigned i = 0; i < 4; i++)
        if (all[i]->cls == REGCLASS_GPR && all[i]->num == r->num) {
            load |= held_reads(b, all[i]);
            write |= all[i]->write;
        }
    *field = held_use(b, r->num, load, write, HELD_ANY);
}

/* op a, b of two general registers, with `a` in memory, as mov scratch, b ; op scratch, [a]: a load and an operation on
 * what it loaded right behind it would lose the processor's forwarding without latency (measured; see rm_absolute). */
static bool emit_commuted(struct builder *b)
{
    const struct insn *in = b->in;
    uint8_t op = in->opcode & ~2;
    bool commutes = op == 0x01 || op == 0x09 || op == 0x11 || op == 0x21 || op == 0x31;
    if (in->encoding != ENCODING_LEGACY || in->map != MAP_PRIMARY || !commutes || in->mem.present || in->opsize < 4)
        return false;
    const struct insn_reg *to = in->opcode & 2 ? &in->reg : &in->rm, *from = in->opcode & 2 ? &in->rm : &in->reg;
    if (!stays_in_memory(b, to) || held_has(b, to->num) || to->num == from->num)
        return false;
    unsigned other = field(b, from, 0);
    held_field(b, from, &other);
    unsigned scratch = held_use(b, to->num, false, true, HELD_ANY);
    asm_op(&b->a, OP_MOV | (in->opsize == 8 ? OP_W : 0), scratch, rm_reg(other), 0);
    asm_op(&b->a, legacy_prefixes(in) | op | 2, scratch, gpr_rm(b, to->num), 0);
    return true;
}

/* The same for other operations: something between the load and the operation. */
static void part_from_load(struct builder *b)
{
    const struct insn *in = b->in;
    const struct insn_reg *to = in->rm.write ? &in->rm : &in->reg;
    bool alu = in->encoding == ENCODING_LEGACY && in->map == MAP_PRIMARY && in->opcode < 0x40 && !in->mem.present &&
               in->rm.cls == REGCLASS_GPR;
    if (alu && stays_in_memory(b, to) && to->write && !held_has(b, to->num) && held_reads(b, to)) {
        held_use(b, to->num, true, true, HELD_ANY);
        asm_nop(&b->a, 1);
    }
}

static void emit_held(struct builder *b, struct rm rm)
{
    const struct insn *in = b->in;
    b->held.busy = 0;
    held_keep(b, rm);
    if (emit_commuted(b))
        return;
    bool twice = in->reg.cls == REGCLASS_GPR && in->reg.num == in->rm.num;
    bool in_place = rm_in_place(b) && !twice;
    struct fields f = host_fields(b, false);
    if (!in_place)
        part_from_load(b);
    held_field(b, &in->reg, &f.reg);
    held_field(b, &in->vvvv, &f.vvvv);
    held_field(b, &in->opreg, &f.opreg);
    if (in_place) {
        rm = gpr_rm(b, in->rm.num);
    } else if (rm.kind == RM_REG) {
        held_field(b, &in->rm, &f.rm_register);
        rm = rm_reg(f.rm_register);
    }
    if (in->encoding == ENCODING_VEX)
        emit_vex(b, rm, &f);
    else
        emit_legacy(b, rm, f);
}

/* The current instruction with operand rm (memory), or its own registers. */
static void emit_reencoded(struct builder *b, struct rm rm)
{
    const struct insn *in = b->in;
    if (emit_in_place(b))
        return;
    if (b->held.on) {
        emit_held(b, rm);
        return;
    }
    bool in_place = rm_in_place(b);
    bool conflict = high_conflict(b);
    struct fields f = host_fields(b, conflict);
    unsigned high = conflict ? host_gpr(b, high_operand(in)->num) : 0;
    if (conflict)
        asm_rorx(&b->a, true, temp_high(in), high, 8);
    stand_in_load(b, &in->reg, f.reg);
    if (!in_place)
        stand_in_load(b, &in->rm, f.rm_register);
    stand_in_load(b, &in->opreg, f.opreg);
    if (in->vvvv.read) /* MULX writes it whole, and a load would replace the delta of its memory operand */
        stand_in_load(b, &in->vvvv, f.vvvv);
    if (in_place)
        rm = gpr_rm(b, in->rm.num);
    else if (rm.kind == RM_REG)
        rm = rm_reg(f.rm_register);
    if (in->encoding == ENCODING_VEX)
        emit_vex(b, rm, &f);
    else
        emit_legacy(b, rm, f);
    stand_in_store(b, &in->vvvv, f.vvvv);
    if (in->mnemonic == ZYDIS_MNEMONIC_XADD) /* one register twice: the sum wins */
        stand_in_store(b, &in->reg, f.reg);
    if (!in_place)
        stand_in_store(b, &in->rm, f.rm_register);
    stand_in_store(b, &in->opreg, f.opreg);
    if (in->mnemonic != ZYDIS_MNEMONIC_XADD) /* last: MULX with one register twice keeps the high half */
        stand_in_store(b, &in->reg, f.reg);
    if (conflict && high_operand(in)->write) {
        asm_rorx(&b->a, true, high, high, 8);
        asm_op(&b->a, OP_MOV8 | OP_BYTE_REG, high, rm_reg(temp_high(in)), 0);
        asm_rorx(&b->a, true, high, high, 56);
    }
}

/* ---- operands that need more than the plain form ---- */

/* bt [mem], reg with reg inside one operand. */
static void op_bit_string(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
    uint32_t op = legacy_prefixes(b->in) | b->in->opcode | (uint32_t)b->in->map << 8;
    asm_op(&b->a, op, R12, rm, 0);
}

/* maskmovq and maskmovdqu store through [rdi] without saying so. */
static void op_implicit_di(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_LEA | OP_W, R12, rm, 0);
    asm_op(&b->a, OP_XCHG | OP_W, R12, rm_reg(RDI), 0);
    emit_reencoded(b, rm_reg(0));
    asm_op(&b->a, OP_XCHG | OP_W, R12, rm_reg(RDI), 0);
}

static void translate_lea(struct builder *b)
{
    const struct insn *in = b->in;
    unsigned to = host_gpr(b, in->reg.num), scratch = to == NO_REG ? R10 : to;
    if (to == NO_REG && b->held.on) /* may be part of the address, too */
        scratch = to = held_use(b, in->reg.num, in->gpr_read >> in->reg.num & 1, true, HELD_ANY);
    if (in->opsize == 2) {
        memory_offset(b, R10);
        if (to == NO_REG)
            gpr_store_sized(b, in->reg.num, R10, 2);
        else
            asm_op(&b->a, OP_MOV | OP_66, to, rm_reg(R10), 0);
        return;
    }
    memory_offset(b, scratch);
    bool one_part = in->mem.index == GPR_NONE && (in->mem.base >= GPR_COUNT || in->mem.base == GPR_SP);
    if (in->opsize == 4 && in->addrsize == 8 && one_part) /* else it is the low half already */
        asm_op(&b->a, OP_MOV, scratch, rm_reg(scratch), 0);
    if (to == NO_REG)
        gpr_store(b, in->reg.num, R10);
}

static void cold_divide_error(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[0]);
    callout_emit(b, BT_SITE_DIVIDE_ERROR | BT_SITE_ENDS_BLOCK);
}

/* A division by a register that is zero goes to C at once: the host's exception would come as a signal, which costs ten
 * times as much. (A quotient that does not fit still does.) */
static void check_divisor(struct builder *b)
{
    const struct insn *in = b->in;
    if ((in->mnemonic != ZYDIS_MNEMONIC_DIV && in->mnemonic != ZYDIS_MNEMONIC_IDIV) || in->rm.cls != REGCLASS_GPR)
        return;
    unsigned divisor = host_gpr(b, in->rm.num);
    flags_clobber(b);
    struct cold *c = builder_cold(b, cold_divide_error);
    if (divisor == NO_REG) {
        gpr_load(b, R10, in->rm.num);
        divisor = R10;
    }
    uint32_t width = in->opsize == 2 ? OP_66 : in->opsize == 8 ? OP_W : 0;
    if (in->opsize == 1)
        asm_op(&b->a, 0x84 | OP_BYTE_REG | OP_BYTE_RM, divisor, rm_reg(divisor), 0);
    else
        asm_op(&b->a, OP_TEST | width, divisor, rm_reg(divisor), 0);
    c->from[0] = asm_jcc32(&b->a, CC_Z, 0);
}

void translate_generic(struct builder *b)
{
    const struct insn *in = b->in;
    if (window_moves_stack(b))
        return;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA) {
        translate_lea(b);
        return;
    }
    if ((in->mem.present && in->mem.size == 0) || in->mnemonic == ZYDIS_MNEMONIC_NOP) /* nop, prefetch */
        return;
    if (in->mem.present) {
        /* a masked store keeps bytes, which a bounce buffer must hold before */
        memory_operand(b, 0, in->mem.read || in->mem.implicit, in->mem.write,
                       in->mem.implicit           ? op_implicit_di
                       : memory_is_bit_string(in) ? op_bit_string
                                                  : emit_reencoded);
        return;
    }
    check_divisor(b);
    flags_prepare(b);
    emit_reencoded(b, rm_reg(0));
    flags_after(b);
}

/* ---- calls into C ---- */

void callout_emit(struct builder *b, uint32_t flags)
{
    struct bt_cache *c = b->c;
    struct bt_site fields = {.insn = *b->in, .flags = flags | (bt_quick_modal(b->in) ? BT_SITE_MODAL : 0)};
    bool leaves = flags == BT_SITE_ENDS_BLOCK && b->in->cls == INSN_FAR;
    fields.run = flags && !leaves ? bt_callout : bt_quick_run(b->in, b->mode, &fields.operand);
    const struct bt_site *site = bt_cache_site(c, &fields);
    guest_store_rip(b, b->eip_at[b->cur]);
    asm_mov_imm64(&b->a, R11, (uintptr_t)site);
    call_glue(b, b->eflags_valid || !b->image_valid ? b->glue->callout : b->glue->callout_saved);
}

void translate_callout(struct builder *b, uint32_t flags)
{
    if (unavailable(b, b->in) && (b->in->cls == INSN_GENERIC || b->in->cls == INSN_MOVE))
        flags |= BT_SITE_FPU_CHECK;
    callout_emit(b, flags);
    b->eflags_valid = true;
    b->image_valid = false;
}
