/* SPDX-License-Identifier: MIT */
/* LODS, STOS, MOVS, SCAS and CMPS without a repeat prefix and with DF clear: one or two ordinary memory operands and
 * the moves of ESI and EDI, which belong to the operation so that both its copies (hot and cold) make them. */
#include "bt/translate.h"

enum { STRING_MOVS = 0xa4, STRING_CMPS = 0xa6, STRING_STOS = 0xaa, STRING_LODS = 0xac, STRING_SCAS = 0xae };

bool string_is_inline(const struct builder *b, const struct insn *in)
{
    if (in->cls != INSN_STRING || in->rep || in->repne || (b->mode & (BT_MODE_DF | BT_MODE_SINGLE)))
        return false;
    return in->map == MAP_PRIMARY && in->opcode >= STRING_MOVS && in->opcode <= (STRING_SCAS | 1) &&
           (in->opcode & 0xfe) != 0xa8;
}

static uint32_t width(const struct builder *b)
{
    return b->in->opsize == 2 ? OP_66 : b->in->opsize == 8 ? OP_W : 0;
}

/* op reg, rm with an opcode whose byte form is one less. */
static void sized(struct builder *b, uint32_t opcode, unsigned reg, struct rm rm)
{
    if (b->in->opsize == 1)
        asm_op(&b->a, (opcode - 1) | OP_BYTE_REG, reg, rm, 0);
    else
        asm_op(&b->a, opcode | width(b), reg, rm, 0);
}

/* A pointer moves on by one element, flag-free. */
static void advance(struct builder *b, unsigned reg)
{
    if (b->in->addrsize == 2) {
        asm_op(&b->a, OP_LEA, R11, rm_mem(reg, b->in->opsize), 0);
        asm_op(&b->a, OP_MOV | OP_66, reg, rm_reg(R11), 0);
        return;
    }
    asm_op(&b->a, OP_LEA | (b->in->addrsize == 8 ? OP_W : 0), reg, rm_mem(reg, b->in->opsize), 0);
}

static void op_lods(struct builder *b, struct rm rm)
{
    sized(b, OP_MOV, RAX, rm);
    advance(b, RSI);
}

static void op_stos(struct builder *b, struct rm rm)
{
    sized(b, OP_MOV_TO, RAX, rm);
    advance(b, RDI);
}

static void op_scas(struct builder *b, struct rm rm)
{
    sized(b, OP_CMP, RAX, rm);
    advance(b, RDI);
}

/* The first operand of movs and cmps waits in the vCPU: the second one's check may use every scratch register. */
static void op_keep(struct builder *b, struct rm rm)
{
    sized(b, OP_MOV, R12, rm);
    asm_op(&b->a, OP_MOV_TO | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
}

static void op_movs(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
    sized(b, OP_MOV_TO, R12, rm);
    advance(b, RDI);
    advance(b, RSI);
}

static void op_cmps(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
    sized(b, OP_CMP_TO, R12, rm);
    advance(b, RDI);
    advance(b, RSI);
}

/* Makes the current instruction's operand [seg:pointer]. */
static void operand(struct builder *b, unsigned seg, unsigned pointer, bool write)
{
    struct insn *in = &b->insns[b->cur];
    in->mem = (struct insn_mem){.present = true,
                                .seg = (uint8_t)seg,
                                .base = (uint8_t)pointer,
                                .index = GPR_NONE,
                                .scale = 1,
                                .read = !write,
                                .write = write,
                                .size = in->opsize};
}

void translate_string(struct builder *b)
{
    unsigned size = b->in->opsize, source = b->in->mem.seg, kind = b->in->opcode & 0xfe;
    if (kind == STRING_LODS) {
        operand(b, source, GPR_SI, false);
        memory_operand(b, size, true, false, op_lods);
        return;
    }
    if (kind == STRING_MOVS || kind == STRING_CMPS) {
        /* the load is not the instruction's end: its flags come with the second operand */
        uint16_t written = b->in->flags_written;
        if (kind == STRING_CMPS) /* the processor looks at [EDI] first */
            operand(b, SEG_ES, GPR_DI, false);
        else
            operand(b, source, GPR_SI, false);
        b->insns[b->cur].flags_written = 0;
        uint16_t live = b->live_out[b->cur];
        b->live_out[b->cur] = (uint16_t)(live & ~written);
        memory_operand(b, size, true, false, op_keep);
        b->insns[b->cur].flags_written = written;
        b->live_out[b->cur] = live;
    }
    bool write = kind == STRING_MOVS || kind == STRING_STOS;
    if (kind == STRING_CMPS)
        operand(b, source, GPR_SI, false);
    else
        operand(b, SEG_ES, GPR_DI, write);
    memory_operand(b, size, !write, write,
                   kind == STRING_MOVS   ? op_movs
                   : kind == STRING_STOS ? op_stos
                   : kind == STRING_SCAS ? op_scas
                                         : op_cmps);
}
