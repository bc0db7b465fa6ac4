/* SPDX-License-Identifier: MIT */
#include "bt/legacy.h"

#include "cpu/cpuid.h"

#include <Zydis/Zydis.h>

/* SDM vol. 2, AAA, AAS, DAA, DAS, AAM, AAD. Undefined flags: as AMD and Intel CPUs agree where they do, else by the
 * result. */

static uint8_t al_of(const struct cpu *cpu)
{
    return (uint8_t)cpu->gpr[GPR_AX];
}

static uint8_t ah_of(const struct cpu *cpu)
{
    return (uint8_t)(cpu->gpr[GPR_AX] >> 8);
}

static void set_ax(struct cpu *cpu, uint8_t ah, uint8_t al)
{
    cpu->gpr[GPR_AX] = (cpu->gpr[GPR_AX] & ~0xffffull) | (uint64_t)ah << 8 | al;
}

static void set_flag(struct cpu *cpu, uint64_t flag, bool on)
{
    cpu->rflags = on ? cpu->rflags | flag : cpu->rflags & ~flag;
}

static void set_result_flags(struct cpu *cpu, uint8_t al)
{
    set_flag(cpu, FLAG_ZF, al == 0);
    set_flag(cpu, FLAG_SF, al >> 7);
    set_flag(cpu, FLAG_PF, !__builtin_parity(al));
}

static void adjust_ascii(struct cpu *cpu, int sign)
{
    bool carry = (al_of(cpu) & 0xf) > 9 || (cpu->rflags & FLAG_AF);
    if (carry) {
        uint16_t ax = (uint16_t)(cpu->gpr[GPR_AX] + (uint16_t)(sign * 0x106));
        set_ax(cpu, (uint8_t)(ax >> 8), (uint8_t)ax);
    }
    set_flag(cpu, FLAG_AF, carry);
    set_flag(cpu, FLAG_CF, carry);
    set_ax(cpu, ah_of(cpu), al_of(cpu) & 0xf);
    set_result_flags(cpu, al_of(cpu));
}

static void adjust_decimal(struct cpu *cpu, int sign)
{
    uint8_t old = al_of(cpu), al = old;
    bool old_cf = cpu->rflags & FLAG_CF, cf = false;
    bool low = (al & 0xf) > 9 || (cpu->rflags & FLAG_AF);
    if (low) {
        unsigned sum = (unsigned)(al + sign * 6);
        cf = old_cf || (sum & 0x100);
        al = (uint8_t)sum;
    }
    if (old > 0x99 || old_cf) {
        al = (uint8_t)(al + sign * 0x60);
        cf = true;
    }
    set_flag(cpu, FLAG_AF, low);
    set_flag(cpu, FLAG_CF, cf);
    set_ax(cpu, ah_of(cpu), al);
    set_result_flags(cpu, al);
}

static int adjust_multiply(struct cpu *cpu, uint8_t base)
{
    if (base == 0)
        return cpu_raise_fault(cpu, VECTOR_DE);
    uint8_t al = al_of(cpu);
    set_ax(cpu, al / base, al % base);
    set_result_flags(cpu, al_of(cpu));
    return CPU_OK;
}

static void adjust_divide(struct cpu *cpu, uint8_t base)
{
    uint8_t al = (uint8_t)(al_of(cpu) + ah_of(cpu) * base);
    set_ax(cpu, 0, al);
    set_result_flags(cpu, al);
}

/* ---- AVX2 gathers (SDM vol. 2, VPGATHERDD and kin): element by element, the mask shows how far it came ---- */

enum { XSAVE_XMM = 160, XSAVE_YMM_HIGH = 576 };

static uint8_t *vector_byte(struct cpu *cpu, unsigned reg, unsigned byte)
{
    return byte < 16 ? &cpu->xsave[XSAVE_XMM + 16 * reg + byte] : &cpu->xsave[XSAVE_YMM_HIGH + 16 * reg + byte - 16];
}

static uint64_t element_get(struct cpu *cpu, unsigned reg, unsigned index, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)*vector_byte(cpu, reg, index * size + i) << 8 * i;
    return value;
}

static void element_set(struct cpu *cpu, unsigned reg, unsigned index, unsigned size, uint64_t value)
{
    for (unsigned i = 0; i < size; i++)
        *vector_byte(cpu, reg, index * size + i) = (uint8_t)(value >> 8 * i);
}

static int gather(struct cpu *cpu, const struct insn *in)
{
    unsigned data = in->rex_w ? 8 : 4, index = in->opcode & 1 ? 8 : 4, length = in->vex_l ? 32 : 16;
    unsigned wider = data > index ? data : index, count = length / wider;
    unsigned to = in->reg.num, mask = in->vvvv.num, from = in->mem.index;
    if (to == mask || to == from || mask == from)
        return cpu_raise_fault(cpu, VECTOR_UD);
    cpu_fpu_unload(cpu);
    /* XSTATE_BV: the image must be taken as holding these components */
    cpu->xsave[512] |= 7;
    for (unsigned i = 0; i < count; i++) {
        if (element_get(cpu, mask, i, data) >> (8 * data - 1)) {
            uint64_t at = element_get(cpu, from, i, index), value = 0;
            if (index == 4)
                at = (uint64_t)(int64_t)(int32_t)at;
            at = at * in->mem.scale + (uint64_t)in->mem.disp + (in->mem.base == GPR_NONE ? 0 : cpu->gpr[in->mem.base]);
            if (in->addrsize == 4)
                at = (uint32_t)at;
            if (cpu_read_seg(cpu, in->mem.seg, at, &value, data))
                return CPU_FAULT;
            element_set(cpu, to, i, data, value);
        }
        element_set(cpu, mask, i, data, 0);
    }
    for (unsigned i = count * data; i < 32; i++)
        *vector_byte(cpu, to, i) = 0;
    for (unsigned i = count * data; i < 32; i++)
        *vector_byte(cpu, mask, i) = 0;
    return CPU_OK;
}

int bt_legacy_execute(struct cpu *cpu, const struct insn *in)
{
    int r = CPU_OK;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_AAA:
        adjust_ascii(cpu, 1);
        break;
    case ZYDIS_MNEMONIC_AAS:
        adjust_ascii(cpu, -1);
        break;
    case ZYDIS_MNEMONIC_DAA:
        adjust_decimal(cpu, 1);
        break;
    case ZYDIS_MNEMONIC_DAS:
        adjust_decimal(cpu, -1);
        break;
    case ZYDIS_MNEMONIC_AAM:
        r = adjust_multiply(cpu, (uint8_t)in->imm);
        break;
    case ZYDIS_MNEMONIC_AAD:
        adjust_divide(cpu, (uint8_t)in->imm);
        break;
    case ZYDIS_MNEMONIC_SALC:
        set_ax(cpu, ah_of(cpu), cpu->rflags & FLAG_CF ? 0xff : 0);
        break;
    case ZYDIS_MNEMONIC_NOP:
        if (cpu->model->amd)
            r = cpu_raise_fault(cpu, VECTOR_UD);
        break;
    default:
        r = in->mem.vsib ? gather(cpu, in) : cpu_raise_fault(cpu, VECTOR_UD);
        break;
    }
    if (r == CPU_OK)
        cpu->rip = cpu->next_rip;
    return r;
}
