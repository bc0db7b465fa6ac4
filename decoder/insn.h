/* SPDX-License-Identifier: MIT */
/* One decoded guest instruction, with everything the translator asks for precomputed. Made from Zydis; knows nothing of
 * the rest of the monitor. */
#ifndef RINGFOLD_DECODER_INSN_H
#define RINGFOLD_DECODER_INSN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* EFLAGS bits, SDM vol. 1, 3.4.3 */
enum {
    FLAG_CF = 1 << 0,
    FLAG_PF = 1 << 2,
    FLAG_AF = 1 << 4,
    FLAG_ZF = 1 << 6,
    FLAG_SF = 1 << 7,
    FLAG_TF = 1 << 8,
    FLAG_IF = 1 << 9,
    FLAG_DF = 1 << 10,
    FLAG_OF = 1 << 11,
    FLAGS_ARITH = FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF
};

enum { GPR_NONE = 0xff, GPR_IP = 0xfe };
enum gpr { GPR_AX, GPR_CX, GPR_DX, GPR_BX, GPR_SP, GPR_BP, GPR_SI, GPR_DI, GPR_COUNT = 16 };
enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_COUNT };

/* How the decoder reads the bytes: CS.D and CS.L. */
enum insn_mode { INSN_MODE_16, INSN_MODE_32, INSN_MODE_64 };

/* What the translator has to do with an instruction. */
enum insn_class {
    INSN_UNDEFINED, /* #UD: no such instruction, bad LOCK, register form missing, or not in the CPU model */
    INSN_GENERIC,   /* runs on the host as it is once registers and the memory operand are re-encoded */
    INSN_MOVE,      /* near-trivial data moves that the translator may treat specially: mov, movzx, movsx, lea, xchg */
    INSN_STACK,     /* push, pop, pusha, popa, enter, leave, pushf, popf: implicit stack access */
    INSN_STRING,    /* movs, cmps, stos, lods, scas, ins, outs, with or without repeat; xlat */
    INSN_JCC,       /* conditional near branch incl. jcxz, loop, loope, loopne */
    INSN_JMP,       /* near direct jump */
    INSN_CALL,      /* near direct call */
    INSN_JMP_IND,   /* near indirect jump */
    INSN_CALL_IND,  /* near indirect call */
    INSN_RET,       /* near return */
    INSN_FAR, /* far jmp, call, ret, iret, int n, int3, into, int1, sysenter, sysexit, syscall, sysret: ends a block */
    INSN_SEGMENT, /* mov/pop to and from segment registers, push seg, lds.. lgs, rd/wr fs/gs base */
    INSN_FLAGS,   /* cli, sti, cld, std */
    INSN_SYSTEM,  /* everything privileged or virtualised: cr, dr, msr, descriptor tables, cpuid, rdtsc, in, out, hlt,
                     ... */
    INSN_FPU_ENV /* runs on the host but shows guest addresses: fnstenv, fnsave, fxsave, xsave family, fldenv, frstor */
};

/* What one ModRM/opcode register field names. */
enum insn_regclass {
    REGCLASS_NONE,
    REGCLASS_GPR,   /* 16/32/64-bit, or 8-bit low; number 0-15 */
    REGCLASS_GPR8H, /* ah, ch, dh, bh; number 0-3 of the register it is part of */
    REGCLASS_X87,
    REGCLASS_MMX,
    REGCLASS_VECTOR, /* xmm, ymm */
    REGCLASS_SEGMENT,
    REGCLASS_CONTROL,
    REGCLASS_DEBUG
};

struct insn_reg {
    uint8_t cls;  /* enum insn_regclass */
    uint8_t num;  /* 0-15 */
    uint8_t size; /* bytes */
    bool read, write;
};

enum insn_encoding { ENCODING_LEGACY, ENCODING_VEX, ENCODING_3DNOW };
enum insn_map { MAP_PRIMARY, MAP_0F, MAP_0F38, MAP_0F3A };

struct insn_mem {
    bool present;  /* ModRM memory form, or moffs */
    bool moffs;    /* mov al/eax, [disp] without ModRM */
    uint8_t seg;   /* enum seg after overrides and defaults (long mode: only FS/GS matter); also for strings and xlat */
    uint8_t base;  /* register number, GPR_NONE, or GPR_IP (disp is then relative to the next instruction) */
    uint8_t index; /* register number or GPR_NONE; a VSIB index has vsib set */
    uint8_t scale; /* 1, 2, 4, 8 */
    bool vsib;
    bool read, write;
    uint16_t size;   /* bytes accessed; 0: address only (lea, nop, prefetch, invlpg) */
    bool aligned;    /* the instruction itself demands natural alignment (#GP): movaps and kin */
    bool implicit;   /* maskmovq, maskmovdqu: [seg:DI] without ModRM memory form */
    bool masked;     /* only the elements that a mask selects are accessed, others do not fault: v(p)maskmov, maskmov */
    bool bit_string; /* bt, bts, btr, btc mem, reg: the register also moves the address, in units of the operand size */
    int64_t disp;    /* sign-extended */
};

struct insn {
    uint8_t bytes[15];
    uint8_t len;       /* bytes of the instruction */
    uint8_t mode;      /* enum insn_mode it was decoded for */
    uint8_t cls;       /* enum insn_class */
    uint16_t mnemonic; /* ZydisMnemonic */
    uint8_t opsize;    /* effective operand size in bytes: 1, 2, 4, 8 (of the integer operation; 1 for byte forms) */
    uint8_t addrsize;  /* effective address size in bytes: 2, 4, 8 */
    bool lock, rep, repne; /* prefixes that mean what they say (not mandatory ones) */

    /* Raw encoding, so that the instruction can be written again with other registers. */
    uint8_t encoding;  /* enum insn_encoding */
    uint8_t map;       /* enum insn_map */
    uint8_t opcode;    /* last opcode byte */
    uint8_t mandatory; /* 0, 0x66, 0xf2, 0xf3: prefix that is part of the opcode (legacy), or what VEX.pp stands for */
    bool has_66;   /* operand-size prefix with its own meaning: emit it again. Normalised for 32/64-bit code: in 16-bit
                      code it is set where the operation is 16 bits wide, whatever prefixes there were */
    bool rex_w;    /* REX.W or VEX.W; clear outside 64-bit mode where the CPU ignores VEX.W (GPR operands) */
    uint8_t vex_l; /* VEX.L */
    bool has_modrm;
    uint8_t modrm_mod, modrm_reg, modrm_rm; /* raw 3-bit fields (without extensions) */
    struct insn_reg reg;   /* ModRM.reg, when it names a register (else cls NONE: opcode extension in modrm_reg) */
    struct insn_reg rm;    /* ModRM.rm with mod 3 */
    struct insn_reg vvvv;  /* VEX.vvvv */
    struct insn_reg opreg; /* register in the low three opcode bits: push r, bswap, xchg, mov r, imm, inc r */
    uint8_t imm_len;       /* bytes of immediates behind the operands: 0-8; they are the last imm_len bytes. A register
                              in the immediate (vblendvps) has the bit that 32-bit code ignores cleared in bytes[] */
    uint16_t imm2;         /* enter's level, far pointer's selector */
    uint64_t imm;          /* first immediate, sign-extended where the instruction does so; branch: displacement */

    struct insn_mem mem;
    uint16_t gpr_read, gpr_write; /* one bit a register, implicit ones and address registers included; a partial write
                                     (8/16 bit) also counts as a read */
    uint16_t flags_read;          /* FLAG_*; what the result depends on */
    uint16_t flags_written;       /* surely overwritten, undefined ones included */
    uint16_t flags_maybe;         /* written under a condition (shift by CL, repeated string compare): kill nothing */
    uint16_t flags_undefined;     /* of the written ones: the manual leaves the value open */
    uint8_t cc;                   /* Jcc, SETcc, CMOVcc: condition code 0-15 */
    bool ends_block;       /* control does not simply go on behind it, or the translator's assumptions may change */
    bool x87, mmx, vector; /* touches that state (CR0.TS/EM, CR4.OSFXSR, XCR0 checks) */
    bool vex;              /* needs CR4.OSXSAVE and XCR0.AVX */
    bool may_fault;        /* can fault for a reason other than memory: div, fpu, aligned vector accesses */
    bool interrupt_shadow; /* sti, mov ss, pop ss: no interrupt is taken directly behind it */
};

/* The decoder follows the host where makers differ, because the host runs the result: instruction sets that the host
 * does not have are INSN_UNDEFINED, F3 0F BC/BD are tzcnt/lzcnt only where the host has them, and in 64-bit mode an
 * operand-size prefix on a near branch makes it 16 bits wide on AMD and is ignored on Intel. */

/* Calls into libraries that use vector registers: the guest's state must not be live in them.
 *
 * Decodes the instruction at bytes (avail of them can be read). mode: enum insn_mode. Returns its length, 0 when more
 * than avail bytes are needed (out->len is then undefined), or -1 when it is longer than 15 bytes (#GP). An encoding
 * that is no instruction gives class INSN_UNDEFINED and the length read so far. */
int insn_decode(struct insn *out, const uint8_t *bytes, size_t avail, enum insn_mode mode);

/* Does control go, or may it go, anywhere but to the next instruction? What ends blocks for other reasons (STI) is not
 * meant. */
bool insn_transfers(const struct insn *in);

/* The guest listing by Zydis, Intel syntax, into buf. pc: guest address. Returns buf. */
const char *insn_format(const struct insn *insn, uint64_t pc, char *buf, size_t len);

#endif
