/* SPDX-License-Identifier: MIT */
#include "bt/emit.h"

#include <assert.h>
#include <string.h>

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

static inline uint8_t *put_rip(const struct assembler *a, uint8_t *p, unsigned reg, uintptr_t address, unsigned imm_len)
{
    *p++ = (uint8_t)((reg & 7) << 3 | 5);
    int64_t rel = (int64_t)(address - ((uintptr_t)p + (uintptr_t)a->to_exec + 4 + imm_len));
    assert(rel == (int32_t)rel);
    return put32(p, (uint32_t)rel);
}

static inline uint8_t *put_memory(uint8_t *p, unsigned reg, struct rm rm)
{
    unsigned field = (reg & 7) << 3, base = rm.base & 7;
    unsigned index = rm.index == NO_REG ? 4 : (unsigned)__builtin_ctz(rm.scale) << 6 | (rm.index & 7) << 3;
    if (rm.base == NO_REG) { /* [index*scale + disp32] or [disp32] */
        *p++ = (uint8_t)(field | 4);
        *p++ = (uint8_t)(rm.index == NO_REG ? 0x25 : index | 5);
        return put32(p, (uint32_t)rm.disp);
    }
    unsigned mod = rm.disp == 0 && base != RBP && !rm.window && !rm.region ? 0
                   : rm.disp == (int8_t)rm.disp                            ? 0x40
                                                                           : 0x80;
    if (rm.index != NO_REG) {
        *p++ = (uint8_t)(mod | field | 4);
        *p++ = (uint8_t)(index | base);
    } else if (base == RSP || rm.region) {
        *p++ = (uint8_t)(mod | field | 4);
        *p++ = (uint8_t)(0x20 | base);
    } else {
        *p++ = (uint8_t)(mod | field | base);
    }
    if (mod == 0x40)
        *p++ = (uint8_t)rm.disp;
    else if (mod)
        p = put32(p, (uint32_t)rm.disp);
    return p;
}

static inline uint8_t *put_window(uint8_t *p, struct rm rm)
{
    if (rm.gs) {
        *p++ = 0x65; /* gs: */
        *p++ = 0x67; /* address size */
    }
    if (rm.parallel)
        *p++ = 0x65;
    return p;
}

static uint8_t *put_prefixes(uint8_t *p, uint32_t op)
{
    if (op & OP_LOCK)
        *p++ = 0xf0;
    if (op & OP_66)
        *p++ = 0x66;
    if (op & OP_F2)
        *p++ = 0xf2;
    if (op & OP_F3)
        *p++ = 0xf3;
    return p;
}

/* Everything before ModRM. xb: REX.X and REX.B. */
static inline uint8_t *put_opcode(uint8_t *p, uint32_t op, unsigned reg, unsigned xb, bool always_rex)
{
    unsigned rex = (op & OP_W ? 8 : 0) | (reg & 8) >> 1 | xb, map = op >> 8 & 0xff;
    bool force = always_rex || ((op & OP_BYTE_REG) && (reg & ~3u) == 4);
    assert(!(op & (OP_HIGH_REG | OP_HIGH_RM)) || (!rex && !force));
    if (op & (OP_LOCK | OP_66 | OP_F2 | OP_F3))
        p = put_prefixes(p, op);
    if (rex || force)
        *p++ = (uint8_t)(0x40 | rex);
    if (map) {
        *p++ = 0x0f;
        if (map >= 2)
            *p++ = map == 2 ? 0x38 : 0x3a;
    }
    *p++ = (uint8_t)op;
    return p;
}

static inline unsigned memory_xb(struct rm rm)
{
    return (rm.base == NO_REG ? 0 : rm.base >> 3 & 1) | (rm.index == NO_REG ? 0 : rm.index >> 2 & 2);
}

void asm_op_reg(struct assembler *a, uint32_t op, unsigned reg, unsigned rm)
{
    if (!asm_room(a))
        return;
    uint8_t *p = put_opcode(a->p, op, reg, rm >> 3 & 1, (op & OP_BYTE_RM) && (rm & ~3u) == 4);
    *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    a->p = p;
}

void asm_op_mem(struct assembler *a, uint32_t op, unsigned reg, struct rm rm)
{
    if (asm_room(a))
        a->p = put_memory(put_opcode(put_window(a->p, rm), op, reg, memory_xb(rm), rm.region), reg, rm);
}

void asm_op_rip(struct assembler *a, uint32_t op, unsigned reg, uintptr_t address, unsigned imm_len)
{
    if (asm_room(a))
        a->p = put_rip(a, put_opcode(a->p, op, reg, 0, false), reg, address, imm_len);
}

static inline uint8_t *put_vex(uint8_t *p, unsigned map, unsigned pp, bool w, bool l, uint8_t opcode, unsigned reg,
                               unsigned vvvv, unsigned xb)
{
    uint32_t v = 0xc4u | ((reg & 8 ? 0 : 0x80) | (xb ^ 3) << 5 | map) << 8 |
                 ((w ? 0x80u : 0) | (~vvvv & 15) << 3 | (l ? 4 : 0) | pp) << 16 | (uint32_t)opcode << 24;
    return put32(p, v);
}

void asm_vex(struct assembler *a, unsigned map, unsigned pp, bool w, bool l, uint8_t opcode, unsigned reg,
             unsigned vvvv, struct rm rm, unsigned imm_len)
{
    unsigned xb = rm.kind == RM_REG ? rm.base >> 3 & 1 : rm.kind == RM_MEM ? memory_xb(rm) : 0;
    if (!asm_room(a))
        return;
    uint8_t *p = put_vex(put_window(a->p, rm), map, pp, w, l, opcode, reg, vvvv, xb);
    if (rm.kind == RM_MEM)
        p = put_memory(p, reg, rm);
    else if (rm.kind == RM_RIP)
        p = put_rip(a, p, reg, (uintptr_t)rm.disp, imm_len);
    else
        *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm.base & 7));
    a->p = p;
}

/* The flag-free shifts and kin, register forms. */
static void vex_reg(struct assembler *a, unsigned map, unsigned pp, bool w, uint8_t opcode, unsigned reg, unsigned vvvv,
                    unsigned rm)
{
    if (!asm_room(a))
        return;
    uint8_t *p = put_vex(a->p, map, pp, w, false, opcode, reg, vvvv, rm >> 3 & 1);
    *p++ = (uint8_t)(0xc0 | (reg & 7) << 3 | (rm & 7));
    a->p = p;
}

void asm_shrx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count)
{
    vex_reg(a, 2, 3, w, 0xf7, reg, count, src);
}

void asm_shlx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count)
{
    vex_reg(a, 2, 1, w, 0xf7, reg, count, src);
}

void asm_bextr(struct assembler *a, unsigned reg, unsigned src, unsigned control)
{
    vex_reg(a, 2, 0, true, 0xf7, reg, control, src);
}

void asm_rorx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count)
{
    vex_reg(a, 3, 3, w, 0xf0, reg, 0, src);
    asm_byte(a, (uint8_t)count);
}

void asm_mov_imm32(struct assembler *a, unsigned reg, uint32_t v)
{
    uint8_t *p = a->p;
    if (!asm_room(a))
        return;
    if (reg & 8)
        *p++ = 0x41;
    *p++ = (uint8_t)(0xb8 | (reg & 7));
    a->p = put32(p, v);
}

void asm_mov_imm64(struct assembler *a, unsigned reg, uint64_t v)
{
    if (v == (uint32_t)v) {
        asm_mov_imm32(a, reg, (uint32_t)v);
        return;
    }
    if ((int64_t)v == (int32_t)v) { /* sign-extended */
        asm_op(a, OP_MOV_IMM | OP_W, 0, rm_reg(reg), 4);
        asm_u32(a, (uint32_t)v);
        return;
    }
    asm_byte(a, (uint8_t)(0x48 | (reg & 8 ? 1 : 0)));
    asm_byte(a, (uint8_t)(0xb8 | (reg & 7)));
    asm_u64(a, v);
}

void asm_store_imm64(struct assembler *a, const volatile void *address, uint64_t v)
{
    if ((int64_t)v == (int32_t)v) {
        asm_op(a, OP_MOV_IMM | OP_W, 0, rm_at(address), 4);
        asm_u32(a, (uint32_t)v);
        return;
    }
    asm_mov_imm64(a, R11, v);
    asm_op(a, OP_MOV_TO | OP_W, R11, rm_at(address), 0);
}

void asm_group1_imm(struct assembler *a, bool w, unsigned ext, struct rm rm, int32_t imm)
{
    bool small = imm == (int8_t)imm;
    asm_op(a, (small ? OP_GROUP1_IMM8 : OP_GROUP1_IMM32) | (w ? OP_W : 0), ext, rm, small ? 1 : 4);
    if (small)
        asm_byte(a, (uint8_t)imm);
    else
        asm_u32(a, (uint32_t)imm);
}

/* Segment prefixes, which do nothing here, make it longer (not slower, as measured). */
static const uint8_t ignored_prefixes[] = {0x3e, 0x3e, 0x3e, 0x3e};

static void push_or_pop(struct assembler *a, unsigned opcode, unsigned reg)
{
    asm_bytes(a, ignored_prefixes, reg & 8 ? 3 : 4);
    if (reg & 8)
        asm_byte(a, 0x41);
    asm_byte(a, (uint8_t)(opcode | (reg & 7)));
}
_Static_assert(WINDOW_OP_BYTES == 5, "four prefixes and an opcode");

void asm_push(struct assembler *a, unsigned reg)
{
    push_or_pop(a, 0x50, reg);
}

void asm_pop(struct assembler *a, unsigned reg)
{
    push_or_pop(a, 0x58, reg);
}

void asm_push_imm32(struct assembler *a, int32_t v)
{
    asm_bytes(a, ignored_prefixes, sizeof ignored_prefixes);
    asm_byte(a, 0x68);
    asm_u32(a, (uint32_t)v);
}

/* An opcode of n bytes (little-endian) and the rel32 of an absolute target. */
static inline uint8_t *branch32(struct assembler *a, unsigned opcode, unsigned n, uintptr_t target)
{
    uint8_t *p = a->p;
    if (!asm_room(a))
        return p;
    *p++ = (uint8_t)opcode;
    if (n == 2)
        *p++ = (uint8_t)(opcode >> 8);
    a->p = put32(p, (uint32_t)(target - ((uintptr_t)p + (uintptr_t)a->to_exec + 4)));
    return p;
}

uint8_t *asm_jmp32(struct assembler *a, uintptr_t target)
{
    return branch32(a, 0xe9, 1, target);
}

uint8_t *asm_jcc32(struct assembler *a, unsigned cc, uintptr_t target)
{
    return branch32(a, 0x800f | cc << 8, 2, target);
}

uint8_t *asm_call32(struct assembler *a, uintptr_t target)
{
    return branch32(a, 0xe8, 1, target);
}

static uint8_t *rel8(struct assembler *a, uint8_t opcode)
{
    asm_byte(a, opcode);
    asm_byte(a, 0);
    return a->p - 1;
}

uint8_t *asm_jcc8(struct assembler *a, unsigned cc)
{
    return rel8(a, (uint8_t)(0x70 | cc));
}

uint8_t *asm_jmp8(struct assembler *a)
{
    return rel8(a, 0xeb);
}

uint8_t *asm_jrcxz(struct assembler *a)
{
    return rel8(a, 0xe3);
}

void asm_land8(struct assembler *a, uint8_t *at)
{
    if (a->overflow)
        return;
    intptr_t rel = a->p - (at + 1);
    assert(rel == (int8_t)rel);
    *at = (uint8_t)rel;
}

void asm_patch32(const struct assembler *a, uint8_t *at, uintptr_t target)
{
    if (a->overflow)
        return;
    uint32_t rel = (uint32_t)(target - ((uintptr_t)at + (uintptr_t)a->to_exec + 4));
    memcpy(at, &rel, 4);
}

void asm_land32(struct assembler *a, uint8_t *at)
{
    asm_patch32(a, at, asm_here(a));
}

void asm_nop(struct assembler *a, unsigned bytes)
{
    static const uint8_t nops[9][9] = {{0x90},
                                       {0x66, 0x90},
                                       {0x0f, 0x1f, 0},
                                       {0x0f, 0x1f, 0x40, 0},
                                       {0x0f, 0x1f, 0x44, 0, 0},
                                       {0x66, 0x0f, 0x1f, 0x44, 0, 0},
                                       {0x0f, 0x1f, 0x80, 0, 0, 0, 0},
                                       {0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0},
                                       {0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0}};
    while (bytes) {
        unsigned n = bytes > 9 ? 9 : bytes;
        for (unsigned i = 0; i < n; i++)
            asm_byte(a, nops[n - 1][i]);
        bytes -= n;
    }
}
