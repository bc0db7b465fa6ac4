/* SPDX-License-Identifier: MIT */
/* How long an instruction is, from a byte for each opcode. Right for what compilers make; who uses it must bear with a
 * wrong answer for the rest. Few branches, since nobody could predict them. Private to decoder/. */
#ifndef RINGFOLD_DECODER_OUTLINE_H
#define RINGFOLD_DECODER_OUTLINE_H

#include "decoder/insn.h"

struct insn_outline {
    unsigned head; /* bytes of prefixes, opcode, ModRM and SIB */
    unsigned tail; /* of displacement and immediates */
    bool leaves;   /* nothing that begins behind the instruction is run after it */
};

enum {
    OUTLINE_PREFIX = 0x80,
    OUTLINE_LEAVES = 0x40, /* jmp, call, ret */
    OUTLINE_MODRM = 0x20,
    OUTLINE_IMMEDIATE = 0x0f, /* what is behind it: */
    /* 0 to 3: so many bytes */
    OUTLINE_Z = 4, /* as wide as the operand, four bytes at most */
    OUTLINE_V,     /* as wide as the operand */
    OUTLINE_REL,   /* as Z, but always four bytes in 64-bit code */
    OUTLINE_FAR,   /* as Z, and a selector */
    OUTLINE_MOFFS, /* as wide as an address */
    OUTLINE_TEST1, /* one byte when ModRM.reg is 0 or 1 */
    OUTLINE_TESTZ  /* the same with Z */
};

/* Eight opcodes of the arithmetic instructions' part, where prefixes are in between. */
#define OUTLINE_ROW(seventh) OUTLINE_MODRM, OUTLINE_MODRM, OUTLINE_MODRM, OUTLINE_MODRM, 1, OUTLINE_Z, seventh, 0
/* SDM vol. 2, tables. */
static const uint8_t outline_primary[256] = {OUTLINE_ROW(0),
                                             OUTLINE_ROW(0),
                                             OUTLINE_ROW(0),
                                             OUTLINE_ROW(0),
                                             OUTLINE_ROW(OUTLINE_PREFIX),
                                             OUTLINE_ROW(OUTLINE_PREFIX),
                                             OUTLINE_ROW(OUTLINE_PREFIX),
                                             OUTLINE_ROW(OUTLINE_PREFIX),
                                             [0x62 ... 0x63] = OUTLINE_MODRM,
                                             [0x64 ... 0x67] = OUTLINE_PREFIX,
                                             [0x68] = OUTLINE_Z,
                                             [0x69] = OUTLINE_MODRM | OUTLINE_Z,
                                             [0x6a] = 1,
                                             [0x6b] = OUTLINE_MODRM | 1,
                                             [0x70 ... 0x7f] = 1,
                                             [0x80] = OUTLINE_MODRM | 1,
                                             [0x81] = OUTLINE_MODRM | OUTLINE_Z,
                                             [0x82 ... 0x83] = OUTLINE_MODRM | 1,
                                             [0x84 ... 0x8f] = OUTLINE_MODRM,
                                             [0x9a] = OUTLINE_FAR,
                                             [0xa0 ... 0xa3] = OUTLINE_MOFFS,
                                             [0xa8] = 1,
                                             [0xa9] = OUTLINE_Z,
                                             [0xb0 ... 0xb7] = 1,
                                             [0xb8 ... 0xbf] = OUTLINE_V,
                                             [0xc0 ... 0xc1] = OUTLINE_MODRM | 1,
                                             [0xc2] = OUTLINE_LEAVES | 2,
                                             [0xc3] = OUTLINE_LEAVES,
                                             [0xc4 ... 0xc5] = OUTLINE_MODRM,
                                             [0xc6] = OUTLINE_MODRM | 1,
                                             [0xc7] = OUTLINE_MODRM | OUTLINE_Z,
                                             [0xc8] = 3,
                                             [0xca] = OUTLINE_LEAVES | 2,
                                             [0xcb] = OUTLINE_LEAVES,
                                             [0xcd] = 1,
                                             [0xd0 ... 0xd3] = OUTLINE_MODRM,
                                             [0xd4 ... 0xd5] = 1,
                                             [0xd8 ... 0xdf] = OUTLINE_MODRM,
                                             [0xe0 ... 0xe7] = 1,
                                             [0xe8 ... 0xe9] = OUTLINE_LEAVES | OUTLINE_REL,
                                             [0xea] = OUTLINE_LEAVES | OUTLINE_FAR,
                                             [0xeb] = OUTLINE_LEAVES | 1,
                                             [0xf0] = OUTLINE_PREFIX,
                                             [0xf2 ... 0xf3] = OUTLINE_PREFIX,
                                             [0xf6] = OUTLINE_MODRM | OUTLINE_TEST1,
                                             [0xf7] = OUTLINE_MODRM | OUTLINE_TESTZ,
                                             [0xfe ... 0xff] = OUTLINE_MODRM};
#undef OUTLINE_ROW
static const uint8_t outline_0f[256] = {
    [0x00 ... 0x03] = OUTLINE_MODRM, [0x0d] = OUTLINE_MODRM,          [0x0f] = OUTLINE_MODRM | 1,
    [0x10 ... 0x2f] = OUTLINE_MODRM, [0x40 ... 0x6f] = OUTLINE_MODRM, [0x70 ... 0x73] = OUTLINE_MODRM | 1,
    [0x74 ... 0x76] = OUTLINE_MODRM, [0x78 ... 0x7f] = OUTLINE_MODRM, [0x80 ... 0x8f] = OUTLINE_REL,
    [0x90 ... 0x9f] = OUTLINE_MODRM, [0xa3] = OUTLINE_MODRM,          [0xa4] = OUTLINE_MODRM | 1,
    [0xa5] = OUTLINE_MODRM,          [0xab] = OUTLINE_MODRM,          [0xac] = OUTLINE_MODRM | 1,
    [0xad ... 0xb9] = OUTLINE_MODRM, [0xba] = OUTLINE_MODRM | 1,      [0xbb ... 0xc1] = OUTLINE_MODRM,
    [0xc2] = OUTLINE_MODRM | 1,      [0xc3] = OUTLINE_MODRM,          [0xc4 ... 0xc6] = OUTLINE_MODRM | 1,
    [0xc7] = OUTLINE_MODRM,          [0xd0 ... 0xff] = OUTLINE_MODRM};

/* Bytes of the displacement that ModRM asks for, by bits 7, 6, 2, 1, 0 of it. */
static const uint8_t outline_displacement[2][32] = {
    {0, 0, 0, 0, 0, 4, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 4, 4, 4, 4, 4, 4},
    {0, 0, 0, 0, 0, 0, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2}};

static inline unsigned outline_immediate(unsigned kind, unsigned modrm, bool narrow, bool wide_operand,
                                         bool narrow_address, enum insn_mode mode)
{
    unsigned z = narrow ? 2 : 4;
    switch (kind) {
    case OUTLINE_Z:
        return z;
    case OUTLINE_V:
        return wide_operand ? 8 : z;
    case OUTLINE_REL:
        return mode == INSN_MODE_64 ? 4 : z;
    case OUTLINE_FAR:
        return z + 2;
    case OUTLINE_MOFFS:
        return mode == INSN_MODE_64 ? 8 : narrow_address ? 2 : 4;
    case OUTLINE_TEST1:
        return !(modrm & 0x30);
    case OUTLINE_TESTZ:
        return modrm & 0x30 ? 0 : z;
    default:
        return kind;
    }
}

/* 16 bytes can be read; those behind the instruction may be any. */
static inline struct insn_outline outline(const uint8_t *bytes, enum insn_mode mode)
{
    unsigned i = 0, kind;
    bool narrow_address = mode == INSN_MODE_16, narrow = mode == INSN_MODE_16, wide_operand = false;
    for (; i < 8 && (outline_primary[bytes[i]] & OUTLINE_PREFIX); i++) {
        narrow_address ^= bytes[i] == 0x67 && mode != INSN_MODE_64;
        narrow ^= bytes[i] == 0x66;
    }
    if (mode == INSN_MODE_64 && (bytes[i] & 0xf0) == 0x40)
        wide_operand = bytes[i++] & 8;
    unsigned opcode = bytes[i++];
    kind = outline_primary[opcode];
    if (opcode == 0x0f) {
        opcode = bytes[i++];
        kind = outline_0f[opcode];
        if (opcode == 0x38 || opcode == 0x3a) {
            kind = OUTLINE_MODRM | (opcode == 0x3a);
            i++;
        }
    } else if ((opcode & 0xfe) == 0xc4 && (mode == INSN_MODE_64 || bytes[i] >> 6 == 3)) { /* VEX */
        unsigned map = opcode == 0xc5 ? 1 : bytes[i] & 3;
        i += opcode == 0xc4 ? 2 : 1;
        kind = map == 1 ? outline_0f[bytes[i]] : OUTLINE_MODRM | (map == 3);
        i++;
    }
    bool has_modrm = kind & OUTLINE_MODRM;
    unsigned modrm = has_modrm ? bytes[i] : 0xc0, mod = modrm >> 6;
    i += has_modrm;
    bool has_sib = !narrow_address & (mod != 3) & ((modrm & 7) == 4);
    unsigned tail = outline_displacement[narrow_address][mod << 3 | (modrm & 7)];
    tail += (has_sib & (mod == 0) & ((bytes[i] & 7) == 5)) ? 4 : 0;
    i += has_sib;
    tail += outline_immediate(kind & OUTLINE_IMMEDIATE, modrm, narrow, wide_operand, narrow_address, mode);
    bool jumps = opcode == 0xff && (modrm >> 3 & 7) - 2u <= 2; /* by call and jmp through a register or memory */
    return (struct insn_outline){.head = i, .tail = tail, .leaves = kind & OUTLINE_LEAVES || jumps};
}

#endif
