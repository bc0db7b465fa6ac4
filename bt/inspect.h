/* SPDX-License-Identifier: MIT */
/* A look at translations for people, and their damage for tests. Not while translated code runs.
 * Uses libc and vector registers: the guest's vector state must not be live in the host's registers. */
#ifndef RINGFOLD_BT_INSPECT_H
#define RINGFOLD_BT_INSPECT_H

#include "bt/cache.h"

struct bt_translation {
    uint64_t block_eip, eip; /* of the block and of the instruction, as offsets in CS */
    unsigned block_insns;    /* guest instructions in the block */
    const uint8_t *code;     /* the host code made for the instruction, without what lies behind the block */
    size_t code_len;
    uint64_t code_at; /* its address */
};

/* The newest translation of the guest instruction at rip that a vCPU of engine_bt has. False: it has none. */
bool bt_inspect(struct cpu *cpu, uint64_t rip, struct bt_translation *out);

/* Turns the last arithmetic or logic operation (not a comparison) in the host code [start, end) into another one: ADD
 * and SUB, AND and OR, XOR and SBB, INC and DEC change places. False: there is none. */
bool bt_damage(uint8_t *start, uint8_t *end);

#endif
