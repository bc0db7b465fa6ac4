/* SPDX-License-Identifier: MIT */
/* System instructions against the context: RDTSC and RDTSCP, control registers read, CR0 written with what it holds,
 * CLTS with TS clear, SWAPGS. Whatever faults or changes something that others depend on is done in C. */
#include "bt/translate.h"

#include <Zydis/Zydis.h>

enum { SHIFT_LEFT = 4, SHIFT_RIGHT = 5 };

static bool control_register_is_inline(const struct insn *in)
{
    if (in->reg.cls != REGCLASS_CONTROL || in->rm.cls != REGCLASS_GPR)
        return false;
    unsigned n = in->reg.num;
    return in->reg.write ? n == 0 : n == 0 || n == 2 || n == 3 || n == 4;
}

bool system_insn_is_inline(const struct builder *b, const struct insn *in)
{
    if (in->cls != INSN_SYSTEM || b->mode & BT_MODE_SINGLE)
        return false;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP: /* unless the board counts */
        return !b->v->cpu.board || !b->v->cpu.board->tsc;
    case ZYDIS_MNEMONIC_MOV:
        return (b->mode & BT_MODE_CPL0) && control_register_is_inline(in);
    case ZYDIS_MNEMONIC_CLTS:
        return b->mode & BT_MODE_CPL0;
    case ZYDIS_MNEMONIC_SWAPGS:
        return (b->mode & BT_MODE_CPL0) && b->wide;
    default:
        return false;
    }
}

/* The whole instruction in C, which does not come back. */
static void cold_in_c(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[0]);
    callout_emit(b, BT_SITE_ENDS_BLOCK);
}

static void shift64(struct builder *b, unsigned ext, unsigned reg, uint8_t count)
{
    asm_op(&b->a, OP_SHIFT_IMM | OP_W, ext, rm_reg(reg), 1);
    asm_byte(&b->a, count);
}

/* The host's counter and the guest's offset. */
static void translate_tsc(struct builder *b, bool with_aux)
{
    struct assembler *a = &b->a;
    const struct cpu *cpu = &b->v->cpu;
    flags_clobber(b);
    if (!(b->mode & BT_MODE_CPL0)) {
        struct cold *c = builder_cold(b, cold_in_c);
        asm_op(a, OP_TEST_IMM, 0, rm_at(&cpu->mmu.cr4), 4);
        asm_u32(a, CR4_TSD);
        c->from[0] = asm_jcc32(a, CC_NZ, 0);
    }
    asm_byte(a, 0x0f); /* rdtsc, rdtscp: edx:eax */
    asm_byte(a, with_aux ? 0x01 : 0x31);
    if (with_aux)
        asm_byte(a, 0xf9);
    shift64(b, SHIFT_LEFT, RDX, 32);
    asm_op(a, OP_OR | OP_W, RDX, rm_reg(RAX), 0);
    asm_op(a, OP_ADD | OP_W, RDX, rm_at(&cpu->tsc_offset), 0);
    asm_op(a, OP_MOV, RAX, rm_reg(RDX), 0);
    shift64(b, SHIFT_RIGHT, RDX, 32);
    if (with_aux)
        asm_op(a, OP_MOV, RCX, rm_at(&cpu->msr.tsc_aux), 0);
}

static void translate_cr_read(struct builder *b)
{
    const struct cpu *cpu = &b->v->cpu;
    const uint64_t *const from[] = {&cpu->mmu.cr0, NULL, &cpu->cr2, &cpu->mmu.cr3, &cpu->mmu.cr4};
    unsigned guest = b->in->rm.num, host = host_gpr(b, guest), to = host == NO_REG ? R10 : host;
    asm_op(&b->a, OP_MOV | wide_op(b), to, rm_at(from[b->in->reg.num]), 0);
    if (host == NO_REG)
        gpr_store(b, guest, R10);
}

/* With the value that it holds, mov to CR0 does nothing. */
static void translate_cr0_write(struct builder *b)
{
    unsigned guest = b->in->rm.num, host = host_gpr(b, guest);
    flags_clobber(b);
    struct cold *c = builder_cold(b, cold_in_c);
    if (host == NO_REG) {
        gpr_load(b, R10, guest);
        host = R10;
    }
    asm_op(&b->a, OP_CMP | wide_op(b), host, rm_at(&b->v->cpu.mmu.cr0), 0);
    c->from[0] = asm_jcc32(&b->a, CC_NZ, 0);
}

static void translate_clts(struct builder *b)
{
    flags_clobber(b);
    struct cold *c = builder_cold(b, cold_in_c);
    asm_op(&b->a, OP_TEST_IMM8, 0, rm_at(&b->v->cpu.mmu.cr0), 1);
    asm_byte(&b->a, CR0_TS);
    c->from[0] = asm_jcc32(&b->a, CC_NZ, 0);
}

/* The base is in two places: the register's own, and where memory operands find it. */
static void translate_swapgs(struct builder *b)
{
    struct assembler *a = &b->a;
    struct bt_vcpu *v = b->v;
    asm_op(a, OP_MOV | OP_W, R10, rm_at(&v->cpu.seg[SEG_GS].base), 0);
    asm_op(a, OP_MOV | OP_W, R11, rm_at(&v->cpu.msr.kernel_gs_base), 0);
    asm_op(a, OP_MOV_TO | OP_W, R10, rm_at(&v->cpu.msr.kernel_gs_base), 0);
    asm_op(a, OP_MOV_TO | OP_W, R11, rm_at(&v->cpu.seg[SEG_GS].base), 0);
    asm_op(a, OP_MOV_TO | OP_W, R11, rm_at(&v->seg[SEG_GS].base), 0);
}

void translate_system(struct builder *b)
{
    switch (b->in->mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
        translate_tsc(b, b->in->mnemonic == ZYDIS_MNEMONIC_RDTSCP);
        break;
    case ZYDIS_MNEMONIC_CLTS:
        translate_clts(b);
        break;
    case ZYDIS_MNEMONIC_SWAPGS:
        translate_swapgs(b);
        break;
    default:
        if (b->in->reg.write)
            translate_cr0_write(b);
        else
            translate_cr_read(b);
        break;
    }
}
