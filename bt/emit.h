/* SPDX-License-Identifier: MIT */
/* Host instruction encoding: one function for every ModRM form, opcode constants beside it.
 *
 * An assembler buffer writes through the writable view of the code cache; addresses are those of the executable view.
 * Context fields and glue lie within 2 GiB of the code, so that they are addressed relative to RIP. */
#ifndef RINGFOLD_BT_EMIT_H
#define RINGFOLD_BT_EMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum host_reg { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, NO_REG = 0xff };

struct assembler {
    uint8_t *p;       /* next byte, writable view */
    uint8_t *end;     /* no emission may pass this; overflow is set instead */
    intptr_t to_exec; /* executable address - writable address */
    bool overflow;
};

enum rm_kind { RM_REG, RM_MEM, RM_RIP };
/* The r/m operand. */
struct rm {
    uint8_t kind;
    uint8_t base, index, scale; /* NO_REG: absent; scale 1, 2, 4, 8 */
    bool window;                /* RM_MEM: the instruction has at least WINDOW_OP_BYTES bytes */
    bool gs;                    /* RM_MEM: gs:, by a 32-bit address */
    bool region;                /* RM_MEM: of a 64-bit window: the same length */
    bool parallel;              /* RM_MEM: gs:, by a 64-bit address */
    int64_t disp;               /* RM_RIP: the absolute address */
};
enum { WINDOW_OP_BYTES = 5 };

static inline struct rm rm_reg(enum host_reg r)
{
    return (struct rm){.kind = RM_REG, .base = (uint8_t)r};
}
static inline struct rm rm_mem(enum host_reg base, int32_t disp)
{
    return (struct rm){.kind = RM_MEM, .base = (uint8_t)base, .index = NO_REG, .scale = 1, .disp = disp};
}
static inline struct rm rm_sib(uint8_t base, uint8_t index, uint8_t scale, int32_t disp)
{
    return (struct rm){.kind = RM_MEM, .base = base, .index = index, .scale = scale, .disp = disp};
}
/* The two forms of an access through the window of 32-bit code: see translate_window.c. */
static inline struct rm rm_window_gs(uint8_t base, uint8_t index, uint8_t scale, int32_t disp)
{
    return (struct rm){
        .kind = RM_MEM, .base = base, .index = index, .scale = scale, .disp = disp, .window = true, .gs = true};
}
static inline struct rm rm_window(uint8_t reg, uint8_t scale, int32_t disp)
{
    return (struct rm){.kind = RM_MEM, .base = R15, .index = reg, .scale = scale, .disp = disp, .window = true};
}
/* The two forms of an access through a window of 64-bit code; the index is r8 or above. */
static inline struct rm rm_region(uint8_t base, uint8_t index, int32_t disp)
{
    return (struct rm){.kind = RM_MEM, .base = base, .index = index, .scale = 1, .disp = disp, .region = true};
}
/* [base + disp], or [base + index*scale + disp], with a SIB byte in any case; the base is one of r10-r12. */
static inline struct rm rm_based(uint8_t base, uint8_t index, uint8_t scale, int32_t disp)
{
    return (struct rm){.kind = RM_MEM, .base = base, .index = index, .scale = scale, .disp = disp, .region = true};
}
/* gs:[base + index*scale + disp], of a parallel region. */
static inline struct rm rm_parallel(uint8_t base, uint8_t index, uint8_t scale, int32_t disp)
{
    return (struct rm){
        .kind = RM_MEM, .base = base, .index = index, .scale = scale, .disp = disp, .region = true, .parallel = true};
}
static inline struct rm rm_stack(int32_t disp)
{
    return (struct rm){.kind = RM_MEM, .base = RSP, .index = NO_REG, .scale = 1, .disp = disp, .region = true};
}
static inline struct rm rm_at(const volatile void *address)
{
    return (struct rm){.kind = RM_RIP, .disp = (int64_t)(uintptr_t)address};
}
/* The same by its absolute address, in the low 2 GiB: a byte longer, but for what is written and soon read again.
 * Processors of today then forward the value without any latency, which they do not for RIP-relative forms (measured
 * on Ice Lake's core: a chain of store and load takes 0.4 cycles a round, or 4.0). */
static inline struct rm rm_absolute(const volatile void *address)
{
    return rm_sib(NO_REG, NO_REG, 1, (int32_t)(uintptr_t)address);
}

/* op word: opcode byte, map << 8 (0: one byte, 1: 0F, 2: 0F38, 3: 0F3A), and these */
enum {
    OP_66 = 1 << 16,
    OP_F2 = 1 << 17,
    OP_F3 = 1 << 18,
    OP_W = 1 << 19,        /* REX.W */
    OP_BYTE_REG = 1 << 20, /* the reg field is an 8-bit register: 4-7 mean SPL..DIL and need REX */
    OP_BYTE_RM = 1 << 21,
    OP_LOCK = 1 << 22,
    OP_HIGH_REG = 1 << 23, /* the reg field names AH..BH (given as 4-7): REX must not be emitted */
    OP_HIGH_RM = 1 << 24
};
enum {
    OP_ADD = 0x03,
    OP_ADD_TO = 0x01,
    OP_OR = 0x0b,
    OP_AND = 0x23,
    OP_SUB = 0x2b,
    OP_XOR = 0x33,
    OP_CMP = 0x3b,
    OP_CMP_TO = 0x39,
    OP_MOV = 0x8b,
    OP_MOV_TO = 0x89,
    OP_MOV8 = 0x8a,
    OP_MOV8_TO = 0x88,
    OP_LEA = 0x8d,
    OP_TEST = 0x85,
    OP_XCHG = 0x87,
    OP_GROUP1_IMM32 = 0x81,
    OP_GROUP1_IMM8 = 0x83,
    OP_MOV_IMM = 0xc7,
    OP_GROUP5 = 0xff,
    OP_TEST_IMM8 = 0xf6,
    OP_TEST_IMM = 0xf7,
    OP_SHIFT_IMM = 0xc1,
    OP_MOVZX8 = 0x1b6,
    OP_MOVZX16 = 0x1b7,
    OP_CMP8_IMM = 0x80
};
enum { GROUP1_ADD, GROUP1_OR, GROUP1_ADC, GROUP1_SBB, GROUP1_AND, GROUP1_SUB, GROUP1_XOR, GROUP1_CMP };
enum { CC_O, CC_NO, CC_B, CC_AE, CC_Z, CC_NZ, CC_BE, CC_A, CC_S, CC_NS, CC_P, CC_NP, CC_L, CC_GE, CC_LE, CC_G };

static inline uintptr_t asm_here(const struct assembler *a)
{
    return (uintptr_t)a->p + (uintptr_t)a->to_exec;
}

enum { ASM_INSN_MAX = 16 };
/* Room for one instruction? Sets overflow when not. */
static inline bool asm_room(struct assembler *a)
{
    if (a->end - a->p >= ASM_INSN_MAX)
        return true;
    a->overflow = true;
    return false;
}
static inline void asm_bytes(struct assembler *a, const void *from, unsigned n)
{
    if (!asm_room(a))
        return;
    __builtin_memcpy(a->p, from, n);
    a->p += n;
}
static inline void asm_byte(struct assembler *a, uint8_t b)
{
    asm_bytes(a, &b, 1);
}
static inline void asm_u32(struct assembler *a, uint32_t v)
{
    asm_bytes(a, &v, 4);
}
static inline void asm_u64(struct assembler *a, uint64_t v)
{
    asm_bytes(a, &v, 8);
}
/* asm_op for the three kinds of operand. */
void asm_op_reg(struct assembler *a, uint32_t op, unsigned reg, unsigned rm);
void asm_op_mem(struct assembler *a, uint32_t op, unsigned reg, struct rm rm);
void asm_op_rip(struct assembler *a, uint32_t op, unsigned reg, uintptr_t address, unsigned imm_len);
/* Prefixes, REX, opcode, ModRM, SIB and displacement. imm_len: bytes of immediate that follow (RIP-relative forms). */
static inline void asm_op(struct assembler *a, uint32_t op, unsigned reg, struct rm rm, unsigned imm_len)
{
    if (rm.kind == RM_REG)
        asm_op_reg(a, op, reg, rm.base);
    else if (rm.kind == RM_MEM)
        asm_op_mem(a, op, reg, rm);
    else
        asm_op_rip(a, op, reg, (uintptr_t)rm.disp, imm_len);
}
/* Three-byte VEX form. pp: 0, 1 (66), 2 (F3), 3 (F2). */
void asm_vex(struct assembler *a, unsigned map, unsigned pp, bool w, bool l, uint8_t opcode, unsigned reg,
             unsigned vvvv, struct rm rm, unsigned imm_len);
/* SHRX/SHLX/SARX reg, rm, count (flag-free). */
void asm_shrx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count);
void asm_shlx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count);
/* BEXTR reg, src, control: bits (control & 255) up, (control >> 8 & 255) of them. */
void asm_bextr(struct assembler *a, unsigned reg, unsigned src, unsigned control);
void asm_rorx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count);
void asm_mov_imm32(struct assembler *a, unsigned reg, uint32_t v);
void asm_mov_imm64(struct assembler *a, unsigned reg, uint64_t v);
/* mov qword [address], v: in one store, which a load soon after may depend on; r11 may be lost. */
void asm_store_imm64(struct assembler *a, const volatile void *address, uint64_t v);
void asm_group1_imm(struct assembler *a, bool w, unsigned ext, struct rm rm, int32_t imm);
/* The whole register, in WINDOW_OP_BYTES bytes; and a number, sign-extended, which lies behind so many bytes: it may
 * change when a jump is in their place (builder_constant, bt_window_divert). */
void asm_push(struct assembler *a, unsigned reg);
void asm_pop(struct assembler *a, unsigned reg);
void asm_push_imm32(struct assembler *a, int32_t v);

/* Branches. asm_jmp32/asm_jcc32/asm_call return the place of the rel32 (writable view) for asm_patch32. */
uint8_t *asm_jmp32(struct assembler *a, uintptr_t target);
uint8_t *asm_jcc32(struct assembler *a, unsigned cc, uintptr_t target);
uint8_t *asm_call32(struct assembler *a, uintptr_t target);
uint8_t *asm_jcc8(struct assembler *a, unsigned cc);
uint8_t *asm_jmp8(struct assembler *a);
uint8_t *asm_jrcxz(struct assembler *a);
/* Points a short branch here; points a rel32 at an executable address. */
void asm_land8(struct assembler *a, uint8_t *at);
void asm_patch32(const struct assembler *a, uint8_t *at, uintptr_t target);
void asm_land32(struct assembler *a, uint8_t *at);
void asm_nop(struct assembler *a, unsigned bytes);

#endif
