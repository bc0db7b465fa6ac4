/* SPDX-License-Identifier: MIT */
/* A flat 32-bit machine with the layout of native.h: the same code and data pages with the same protections at the
 * same linear addresses, at ring 3 with Linux's selectors. Every exception ends in a HLT at ring 0. Runs on an engine,
 * or by cpu_execute alone. */
#ifndef RINGFOLD_TESTS_FLAT_MACHINE_H
#define RINGFOLD_TESTS_FLAT_MACHINE_H

#include "cpu/cpu.h"
#include "cpu/engine.h"
#include "tests/insn_generator.h"
#include "tests/native.h"

/* Its supervisor pages, in 32-bit code: at no multiple of the data address, which random scaled addresses would hit. */
#define FLAT_MACHINE_KERNEL32 0xf5400000u
enum { FLAT_MACHINE_KERNEL_PAGES = 16 };

struct flat_machine {
    unsigned bits; /* 32, or 64 for long mode */
    struct memory mem;
    struct cpu *cpu;
    const struct engine *engine; /* NULL: cpu_execute */
    struct cpu_model model;
    struct cpu_board board;
};

/* NULL with a reason in *why. */
struct flat_machine *flat_machine_create(unsigned bits, const struct engine *engine,
                                         const struct engine_options *options, const char **why);
void flat_machine_destroy(struct flat_machine *m);
/* Replaces all code pages, as DMA does: translations of the old code go. */
void flat_machine_write_code(struct flat_machine *m, const uint8_t *code);
/* A writable data page, or none any more, as the guest might write its table: what was known of the page stays. */
void flat_machine_map_data(struct flat_machine *m, unsigned page, bool present);
/* The handler of an exception or interrupt becomes this code and an IRET behind it, at most 16 bytes in all. */
void flat_machine_write_handler(struct flat_machine *m, unsigned vector, const char *code, unsigned len);
uint8_t *flat_machine_data(struct flat_machine *m);
/* Ring 3 with this state. Code and data were written before. */
void flat_machine_load(struct flat_machine *m, const struct native_state *in);
/* The same without a word to the engine: translations stay. */
void flat_machine_load_again(struct flat_machine *m, const struct native_state *in);
/* Maps the code pages a second time, this much higher (32-bit code; a multiple of 4 MiB). */
void flat_machine_map_code_again(struct flat_machine *m, uint32_t higher);
/* The state a native run would have shown. False: the machine did not end in an exception. */
bool flat_machine_run(struct flat_machine *m, struct native_result *out);
/* The same by cpu_execute, for cases made of its classes only. */
bool flat_machine_execute(struct flat_machine *m, const struct generator_case *c, struct native_result *out);
/* A count of the engine's statistics by its name in them; 0 for one that they do not have. */
unsigned long flat_machine_statistic(const struct flat_machine *m, const char *name);

/* Compares the two results and the data pages. undefined: flags left out. Returns NULL, or what differs. */
const char *flat_machine_compare(const struct native_result *a, const struct native_result *b, const uint8_t *data_a,
                                 const uint8_t *data_b, uint32_t undefined, bool avx);
void flat_machine_print(const char *title, const struct native_result *r, bool avx);
void flat_machine_print_case(const struct generator_case *c);

#endif
