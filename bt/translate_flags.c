/* SPDX-License-Identifier: MIT */
/* CLI, STI, CLD, STD, CLAC, STAC, PUSHF and POPF at CPL 0 against the context: a handful of host instructions where a
 * call into C would cost a hundred cycles. IF, DF and AC live in cpu->rflags, never in the host's EFLAGS. */
#include "bt/translate.h"

#include <Zydis/Zydis.h>

enum { BYTE1_IF = 2 }; /* of EFLAGS bits 8-15 */
enum { BYTE2_AC = 4 }; /* of EFLAGS bits 16-23 */

bool flags_insn_is_inline(const struct builder *b, const struct insn *in)
{
    if (b->mode & BT_MODE_SINGLE)
        return false;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_CLD: /* nothing to do, or a change of mode */
        return !(b->mode & BT_MODE_DF);
    case ZYDIS_MNEMONIC_STD:
        return b->mode & BT_MODE_DF;
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_STAC:
        return (b->mode & BT_MODE_CPL0) && (b->mode & BT_MODE_CODE_MASK) != INSN_MODE_16;
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
        return b->mode & BT_MODE_CPL0;
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_POPFD:
        return (b->mode & BT_MODE_CPL0) && in->opsize == 4;
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPFQ:
        return b->mode & BT_MODE_CPL0;
    default:
        return false;
    }
}

/* and / or byte [rflags + n], imm8 */
static void change_byte(struct builder *b, unsigned n, unsigned group1, uint8_t imm)
{
    flags_clobber(b);
    asm_op(&b->a, OP_CMP8_IMM, group1, rm_at((uint8_t *)&b->v->cpu.rflags + n), 1);
    asm_byte(&b->a, imm);
}

/* CLAC, STAC: which pages the supervisor may touch is a matter of tables. */
static void translate_ac(struct builder *b, bool set)
{
    struct bt_vcpu *v = b->v;
    const struct mmu_table_set *tables = set ? &v->ac_set : &v->ac_clear;
    if (set)
        change_byte(b, 2, GROUP1_OR, BYTE2_AC);
    else
        change_byte(b, 2, GROUP1_AND, (uint8_t)~BYTE2_AC);
    unsigned read = b->wide ? R10 : R8, write = b->wide ? R11 : R9;
    asm_op(&b->a, OP_MOV | OP_W, read, rm_at(&tables->read), 0);
    asm_op(&b->a, OP_MOV_TO | OP_W, read, rm_at(&v->read_table), 0);
    asm_op(&b->a, OP_MOV | OP_W, write, rm_at(&tables->write), 0);
    asm_op(&b->a, OP_MOV_TO | OP_W, write, rm_at(&v->write_table), 0);
}

/* The whole instruction in C; its flags are then where the hot path has them. */
static void cold_in_c(struct builder *b, struct cold *c)
{
    for (int i = 0; i < 3; i++)
        if (c->from[i])
            asm_land32(&b->a, c->from[i]);
    callout_emit(b, 0);
    if (c->write) /* popf: the image is the flags from here on */
        bt_emit_save_flags(&b->a, flags_image(b));
    asm_jmp32(&b->a, c->back[0]);
}

static void translate_sti(struct builder *b)
{
    flags_clobber(b);
    struct cold *c = builder_cold(b, cold_in_c);
    asm_op(&b->a, OP_GROUP1_IMM8, GROUP1_CMP, rm_at(&b->v->held_events), 1);
    asm_byte(&b->a, 0);
    c->from[0] = asm_jcc32(&b->a, CC_NZ, 0);
    change_byte(b, 1, GROUP1_OR, BYTE1_IF);
    c->back[0] = asm_here(&b->a);
}

static void and_imm(struct builder *b, unsigned reg, uint32_t imm)
{
    asm_op(&b->a, OP_GROUP1_IMM32, GROUP1_AND, rm_reg(reg), 4);
    asm_u32(&b->a, imm);
}

static void shift(struct builder *b, unsigned ext, unsigned reg, uint8_t count)
{
    asm_op(&b->a, OP_SHIFT_IMM, ext, rm_reg(reg), 1);
    asm_byte(&b->a, count);
}

static struct rm image(struct builder *b)
{
    return b->wide ? rm_at(flags_image(b)) : rm_reg(R13);
}

enum { SHIFT_LEFT = 4, SHIFT_RIGHT = 5 };

static void translate_pushf(struct builder *b)
{
    struct assembler *a = &b->a;
    if (b->eflags_valid && !b->image_valid)
        bt_emit_save_flags(a, flags_image(b));
    b->image_valid = true;
    b->eflags_valid = false;
    asm_op(a, OP_MOV, R12, image(b), 0);
    shift(b, SHIFT_RIGHT, R12, 8);
    and_imm(b, R12, 0xd5);
    asm_op(a, OP_MOV, R10, image(b), 0);
    and_imm(b, R10, 1);
    shift(b, SHIFT_LEFT, R10, 11);
    asm_op(a, OP_OR, R12, rm_reg(R10), 0);
    asm_op(a, OP_MOV, R10, rm_at(&b->v->cpu.rflags), 0);
    and_imm(b, R10, ~(uint32_t)(FLAGS_ARITH | EFLAGS_RF | EFLAGS_VM));
    asm_op(a, OP_OR, R12, rm_reg(R10), 0);
    int size = b->in->opsize;
    asm_op(a, OP_MOV_TO | OP_W, R12, rm_at(&b->v->scratch[1]), 0);
    struct cold *c = stack_access(b, -size, (unsigned)size, true, op_store_kept);
    stack_adjust(b, -size);
    stack_done(b, c);
}

/* Inline while only arithmetic flags, IF and ID change and no interrupt waits for IF. */
static void translate_popf(struct builder *b)
{
    struct assembler *a = &b->a;
    int size = b->in->opsize;
    stack_access(b, 0, (unsigned)size, false, op_load_r12);
    struct cold *c = builder_cold(b, cold_in_c);
    c->write = true;
    asm_op(a, OP_MOV, R10, rm_at(&b->v->cpu.rflags), 0);
    asm_op(a, OP_XOR, R10, rm_reg(R12), 0);
    asm_op(a, OP_TEST_IMM, 0, rm_reg(R10), 4);
    asm_u32(a, FLAG_TF | FLAG_DF | EFLAGS_IOPL | EFLAGS_NT | EFLAGS_AC | EFLAGS_VIF | EFLAGS_VIP);
    c->from[0] = asm_jcc32(a, CC_NZ, 0);
    asm_op(a, OP_MOV, R11, rm_at(&b->v->held_events), 0);
    shift(b, SHIFT_LEFT, R11, 9); /* CPU_EVENT_INTR to IF */
    asm_op(a, OP_TEST, R11, rm_reg(R12), 0);
    c->from[1] = asm_jcc32(a, CC_NZ, 0);
    and_imm(b, R10, FLAG_IF | EFLAGS_ID);
    asm_op(a, 0x31, R10, rm_at(&b->v->cpu.rflags), 0); /* xor [rflags], r10d */
    asm_op(a, OP_MOV, R11, rm_reg(R12), 0);
    and_imm(b, R11, 0xd5);
    shift(b, SHIFT_LEFT, R11, 8);
    shift(b, SHIFT_RIGHT, R12, 11);
    and_imm(b, R12, 1);
    asm_op(a, OP_OR, R11, rm_reg(R12), 0);
    asm_op(a, OP_MOV_TO, R11, image(b), 0);
    stack_adjust(b, size);
    c->back[0] = asm_here(a);
    b->eflags_valid = false;
    b->image_valid = true;
}
_Static_assert(CPU_EVENT_INTR == 1 && FLAG_IF == 1 << 9, "translate_popf moves the one to the other");

void translate_flags_insn(struct builder *b)
{
    switch (b->in->mnemonic) {
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_STD:
        break;
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_STAC:
        translate_ac(b, b->in->mnemonic == ZYDIS_MNEMONIC_STAC);
        break;
    case ZYDIS_MNEMONIC_CLI:
        change_byte(b, 1, GROUP1_AND, (uint8_t)~BYTE1_IF);
        break;
    case ZYDIS_MNEMONIC_STI:
        translate_sti(b);
        break;
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        translate_pushf(b);
        break;
    default:
        translate_popf(b);
        break;
    }
}
