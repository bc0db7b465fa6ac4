/* SPDX-License-Identifier: MIT */
/* What the decoder looks up by Zydis's numbers. Filled or completed once, before main. Private to decoder/. */
#ifndef RINGFOLD_DECODER_TABLES_H
#define RINGFOLD_DECODER_TABLES_H

#include "decoder/insn.h"

#include <Zydis/Zydis.h>

struct decoder_register {
    uint8_t cls, num, size;
};
extern struct decoder_register decoder_registers[ZYDIS_REGISTER_MAX_VALUE + 1];

/* Instruction sets that the host has and a guest may use. */
extern bool decoder_isa[ZYDIS_ISA_SET_MAX_VALUE + 1];

/* enum insn_class by mnemonic, where the mnemonic alone decides. */
enum { DECODER_CLASS_GENERIC = 0, DECODER_CLASS_UNDEFINED = 0xff };
extern const uint8_t decoder_classes[ZYDIS_MNEMONIC_MAX_VALUE + 1];

enum decoder_trait {
    TRAIT_ENDS_BLOCK = 1, /* changes what the translator assumes */
    TRAIT_HINT = 2,       /* the memory operand is not accessed */
    TRAIT_CACHE_LINE = 4, /* acts on the line, faults like a one-byte read */
    TRAIT_SHIFT = 8,      /* the count decides about flags */
    TRAIT_FAULTS = 16,    /* faults for reasons of its own */
    TRAIT_ALIGNED = 32,   /* VEX form that demands alignment */
    TRAIT_UNALIGNED = 64, /* legacy vector form that does not */
    TRAIT_MASKED = 128,   /* accesses only what a mask selects */
    TRAIT_SSE = 256       /* uses MXCSR without naming a vector register */
};
extern const uint16_t decoder_traits[ZYDIS_MNEMONIC_MAX_VALUE + 1];

void decoder_tables_init(void);

#endif
