/* SPDX-License-Identifier: MIT */
/* The verifier of translated code (bt/verify.h) on code made by hand, of 64-bit user code through a window. */
#ifndef RINGFOLD_TESTS_VERIFY_RIG_H
#define RINGFOLD_TESTS_VERIFY_RIG_H

#include "bt/cache.h"

enum { MODE = INSN_MODE_64 | BT_MODE_STACK32 | MMU_VIEW_USER << BT_MODE_VIEW_SHIFT | BT_MODE_WINDOW };

struct bench {
    struct memory mem;
    struct cpu *cpu;
    struct assembler a; /* where the code is made */
    uint8_t code[8192];
};

/* False when the host has no address space for the window. Either way close_bench; b is zero before. */
bool open_bench(struct bench *b);
void close_bench(struct bench *b);

struct mmu_window *window_of(const struct bench *b);
const struct bt_glue *glue_of(const struct bench *b);

/* New code. */
void begin(struct bench *b);
/* Puts an exit behind it: does the verifier take it? */
bool good(struct bench *b);

#endif
