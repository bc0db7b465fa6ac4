/* SPDX-License-Identifier: MIT */
/* Which guest registers hold a number of 32 bits, zero- or sign-extended, as far as the block itself says so: an index
 * of an array in most code. 64-bit windows: the address of `mov eax, [rbx+rcx*8]` is at most 16 GiB below rbx or 32 GiB
 * above it then, and a slot's guards are wider than that (shadowmmu/window.h), so that the access may go by the region
 * of rbx (translate_window.c). That is there early, where the sum of both is often what the code waits for. */
#include "bt/translate.h"

#include <Zydis/Zydis.h>

static bool is_cmov(const struct insn *in)
{
    return in->map == MAP_0F && (in->opcode & 0xf0) == 0x40;
}

/* Instructions that write all of a 32-bit register operand whatever their operands are, and with that clear the upper
 * half. (Shifts by nothing may write nothing.) */
static bool writes_whole(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
        return true;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
        return in->imm_len && (in->imm & 31);
    case ZYDIS_MNEMONIC_IMUL:
        return in->reg.cls == REGCLASS_GPR; /* not the one whose result is EDX:EAX */
    default:
        return is_cmov(in); /* the upper half is clear if the condition is false, too (SDM vol. 2, CMOVcc) */
    }
}

/* 64 bits whose value is one of 32, extended. */
static bool is_extended(const struct builder *b, const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return true;
    case ZYDIS_MNEMONIC_MOV:
        if (in->imm_len)
            return (int64_t)in->imm == (int32_t)in->imm;
        if (in->reg.cls != REGCLASS_GPR || in->rm.cls != REGCLASS_GPR)
            return false;
        return b->narrow >> (in->reg.write ? in->rm.num : in->reg.num) & 1;
    case ZYDIS_MNEMONIC_AND:
        return in->imm_len && (int64_t)in->imm >= 0;
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
        return in->imm_len && (in->imm & 63) >= 32;
    default:
        return is_cmov(in) && in->rm.cls == REGCLASS_GPR && (b->narrow >> in->rm.num & 1) &&
               (b->narrow >> in->reg.num & 1);
    }
}

/* add, or, adc, sbb, and, sub, xor of rAX and an immediate operand, which have no register field. */
static bool is_accumulator_form(const struct insn *in)
{
    return in->encoding == ENCODING_LEGACY && in->map == MAP_PRIMARY && in->opcode < 0x38 && (in->opcode & 7) == 5;
}

const struct insn_reg *written_register(const struct insn *in)
{
    static const struct insn_reg accumulator[9] = {
        [4] = {.cls = REGCLASS_GPR, .num = GPR_AX, .size = 4, .write = true},
        [8] = {.cls = REGCLASS_GPR, .num = GPR_AX, .size = 8, .write = true}};
    const struct insn_reg *all[] = {&in->reg, &in->rm, &in->opreg};
    for (unsigned i = 0; i < 3; i++)
        if (all[i]->cls == REGCLASS_GPR && all[i]->write)
            return all[i];
    return is_accumulator_form(in) && in->opsize >= 4 ? &accumulator[in->opsize] : NULL;
}

bool narrow_is_made(const struct builder *b)
{
    const struct insn *in = b->in;
    bool plain = b->way[b->cur] == WAY_PLAIN;
    const struct insn_reg *r = plain && in->encoding == ENCODING_LEGACY ? written_register(in) : NULL;
    if (plain && in->mnemonic == ZYDIS_MNEMONIC_CDQE)
        return true;
    return r && __builtin_popcount(in->gpr_write) == 1 &&
           ((r->size == 4 && writes_whole(in)) || (r->size == 8 && is_extended(b, in)));
}

void narrow_follow(struct builder *b, bool made)
{
    const struct insn *in = b->in;
    bool plain = b->way[b->cur] == WAY_PLAIN;
    if ((plain && in->mem.present && in->mem.size && !window_takes_operand(b)) ||
        (!plain && !branch_goes_on(b, in) && b->way[b->cur] != WAY_STACK)) {
        b->narrow = 0; /* it may come back from a cold part, for which the verifier knows nothing */
        return;
    }
    b->narrow &= (uint16_t)~in->gpr_write;
    for (unsigned i = 0; made && i < GPR_COUNT; i++)
        /* what is not in a register now is not known to be the same when it comes back */
        if ((in->gpr_write >> i & 1) && (host_gpr(b, i) != NO_REG || held_has(b, i)))
            b->narrow |= (uint16_t)(1u << i);
}
