/* SPDX-License-Identifier: MIT */
#include "bt/emit.h"

#include <assert.h>
#include <string.h>

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
    return p + 4;
}

/* ModRM, SIB and displacement at p. */
static inline uint8_t *modrm(const struct assembler *a, uint8_t *p, unsigned reg, struct rm rm, unsigned imm_len)
{
    unsigned field = (reg & 7) << 3;
    if (rm.kind == RM_REG) {
        *p++ = (uint8_t)(0xc0 | field | (rm.base & 7));
        return p;
    }
    if (rm.kind == RM_RIP) {
        *p++ = (uint8_t)(field | 5);
        int64_t rel = rm.disp - (int64_t)((uintptr_t)p + (uintptr_t)a->to_exec + 4 + imm_len);
        assert(rel == (int32_t)rel);
        return put32(p, (uint32_t)rel);
    }
    if (rm.base == NO_REG) { /* [index*scale + disp32] or [disp32] */
        unsigned scale = rm.index == NO_REG ? 0 : (unsigned)__builtin_ctz(rm.scale);
        *p++ = (uint8_t)(field | 4);
        *p++ = (uint8_t)(scale << 6 | (rm.index == NO_REG ? 4 : rm.index & 7) << 3 | 5);
        return put32(p, (uint32_t)rm.disp);
    }
    unsigned mod = rm.disp == 0 && (rm.base & 7) != RBP && !rm.window ? 0 : rm.disp == (int8_t)rm.disp ? 1 : 2;
    if (rm.index != NO_REG || (rm.base & 7) == RSP) {
        *p++ = (uint8_t)(mod << 6 | field | 4);
        *p++ = (uint8_t)((unsigned)__builtin_ctz(rm.scale) << 6 | (rm.index == NO_REG ? 4 : rm.index & 7) << 3 |
                         (rm.base & 7));
    } else {
        *p++ = (uint8_t)(mod << 6 | field | (rm.base & 7));
    }
    if (mod == 1)
        *p++ = (uint8_t)rm.disp;
    else if (mod == 2)
        p = put32(p, (uint32_t)rm.disp);
    return p;
}

static unsigned rex_of(uint32_t op, unsigned reg, struct rm rm)
{
    unsigned rex = (op & OP_W ? 8 : 0) | (reg & 8 ? 4 : 0);
    bool force = (op & OP_BYTE_REG) && reg >= 4 && reg < 8;
    if (rm.kind != RM_RIP) {
        if (rm.base != NO_REG)
            rex |= rm.base & 8 ? 1 : 0;
        if (rm.kind == RM_MEM && rm.index != NO_REG)
            rex |= rm.index & 8 ? 2 : 0;
        force = force || ((op & OP_BYTE_RM) && rm.kind == RM_REG && rm.base >= 4 && rm.base < 8);
    }
    assert(!(op & (OP_HIGH_REG | OP_HIGH_RM)) || (!rex && !force));
    return rex || force ? 0x40 | rex : 0;
}

static inline uint8_t *window_prefixes(uint8_t *p, struct rm rm)
{
    if (rm.window) {
        *p++ = 0x65; /* gs: */
        *p++ = 0x67; /* address size */
    }
    return p;
}

static uint8_t *prefixes(uint8_t *p, uint32_t op)
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

void asm_op(struct assembler *a, uint32_t op, unsigned reg, struct rm rm, unsigned imm_len)
{
    uint8_t *p = a->p;
    unsigned rex = rex_of(op, reg, rm), map = op >> 8 & 0xff;
    if (!asm_room(a))
        return;
    p = window_prefixes(p, rm);
    if (op & (OP_LOCK | OP_66 | OP_F2 | OP_F3))
        p = prefixes(p, op);
    if (rex)
        *p++ = (uint8_t)rex;
    if (map) {
        *p++ = 0x0f;
        if (map >= 2)
            *p++ = map == 2 ? 0x38 : 0x3a;
    }
    *p++ = (uint8_t)op;
    a->p = modrm(a, p, reg, rm, imm_len);
}

void asm_vex(struct assembler *a, unsigned map, unsigned pp, bool w, bool l, uint8_t opcode, unsigned reg,
             unsigned vvvv, struct rm rm, unsigned imm_len)
{
    bool r = reg & 8, x = rm.kind == RM_MEM && rm.index != NO_REG && (rm.index & 8),
         b = rm.kind != RM_RIP && rm.base != NO_REG && (rm.base & 8);
    uint8_t *p = a->p;
    if (!asm_room(a))
        return;
    p = window_prefixes(p, rm);
    *p++ = 0xc4;
    *p++ = (uint8_t)((r ? 0 : 0x80) | (x ? 0 : 0x40) | (b ? 0 : 0x20) | map);
    *p++ = (uint8_t)((w ? 0x80 : 0) | (~vvvv & 15) << 3 | (l ? 4 : 0) | pp);
    *p++ = opcode;
    a->p = modrm(a, p, reg, rm, imm_len);
}

void asm_shrx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count)
{
    asm_vex(a, 2, 3, w, false, 0xf7, reg, count, rm_reg(src), 0);
}

void asm_shlx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count)
{
    asm_vex(a, 2, 1, w, false, 0xf7, reg, count, rm_reg(src), 0);
}

void asm_bextr(struct assembler *a, unsigned reg, unsigned src, unsigned control)
{
    asm_vex(a, 2, 0, true, false, 0xf7, reg, control, rm_reg(src), 0);
}

void asm_rorx(struct assembler *a, bool w, unsigned reg, unsigned src, unsigned count)
{
    asm_vex(a, 3, 3, w, false, 0xf0, reg, 0, rm_reg(src), 1);
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

void asm_store_imm32(struct assembler *a, const volatile void *address, uint32_t v)
{
    asm_op(a, OP_MOV_IMM, 0, rm_at(address), 4);
    asm_u32(a, v);
}

void asm_store_imm64(struct assembler *a, const volatile void *address, uint64_t v)
{
    if ((int64_t)v == (int32_t)v) {
        asm_op(a, OP_MOV_IMM | OP_W, 0, rm_at(address), 4);
        asm_u32(a, (uint32_t)v);
        return;
    }
    asm_store_imm32(a, address, (uint32_t)v);
    asm_store_imm32(a, (const volatile uint8_t *)address + 4, (uint32_t)(v >> 32));
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
