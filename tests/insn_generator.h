/* SPDX-License-Identifier: MIT */
/* Random sequences of 32- or 64-bit user-mode instructions for runs that are compared with the processor's own
 * (native.h). Bytes are drawn at random, biased towards what is interesting, and insn_decode says what may stay:
 * everything a user program may do but leave the test (far transfers, system instructions, loads of segment registers),
 * and nothing that is not the same twice (rdrand, addresses in x87 environments). Most memory operands are steered into
 * the test's pages by a mov in front of the instruction. */
#ifndef RINGFOLD_TESTS_INSN_GENERATOR_H
#define RINGFOLD_TESTS_INSN_GENERATOR_H

#include "decoder/insn.h"
#include "tests/native.h"

enum { GENERATOR_MAX_INSNS = 48 };
enum { EFLAGS_USER = 0x202 }; /* IF and the bit that is always set */

struct generator_insn {
    struct insn insn;  /* bytes as generated; a branch displacement is filled in by generator_assemble */
    bool branch;       /* direct */
    bool code_address; /* a mov that loads the address of the target for ... */
    bool indirect;     /* ... an indirect jump or call, or a return */
    uint8_t target;    /* index of the instruction these three go to, may be one past the last */
    uint64_t address;  /* of a RIP-relative operand, whose displacement is filled in by generator_assemble; else 0 */
};

struct generator_case {
    uint64_t seed;
    unsigned bits; /* 32, 64 */
    uint64_t base; /* 0 or NATIVE_HIGH: where the code pages run and most pointers point */
    struct native_state state;
    uint64_t memory_seed; /* generator_fill_memory */
    uint32_t start;       /* offset of the first instruction in the code pages */
    unsigned count;
    struct generator_insn insns[GENERATOR_MAX_INSNS];
    unsigned counter;            /* of a loop: the register */
    uint8_t loop_head, loop_end; /* ... and its first instruction, and behind those that are run again; 0: no loop */
    /* filled in by generator_assemble */
    uint16_t offset[GENERATOR_MAX_INSNS + 1]; /* of each instruction from start; the last one is the int3 at the end */
    uint16_t dead[GENERATOR_MAX_INSNS + 1];   /* FLAG_*: overwritten from here on before anything reads them */
    uint16_t undefined[GENERATOR_MAX_INSNS + 1]; /* FLAG_*: open before the instruction with this index */
};

struct generator_options {
    unsigned bits;      /* 32, 64 */
    unsigned length;    /* instructions, before steering ones are added */
    uint32_t classes;   /* bit mask of 1 << enum insn_class that may appear; 0: all that are possible */
    uint16_t registers; /* most instructions name one of these general registers, bit mask; 0: as it comes */
    bool no_branches;
    bool loop;       /* the last ones of the instructions are run several times */
    bool stack;      /* more than half of the instructions are about RSP; 64 bits */
    bool state_only; /* nothing but masked moves and what saves and restores x87/SSE/AVX state */
};

uint64_t generator_random(uint64_t *state);
void generator_make(struct generator_case *c, uint64_t seed, const struct generator_options *options);
/* Writes the code (with int3 behind it) to the NATIVE_CODE pages and computes offsets. False: does not fit. */
bool generator_assemble(struct generator_case *c, uint8_t *code);
void generator_fill_memory(const struct generator_case *c, uint8_t *data);
/* The instruction an address lies at, count for the end, -1 for none. */
int generator_index(const struct generator_case *c, uint64_t rip);

#endif
