/* SPDX-License-Identifier: MIT */
/* cpu_execute against the processor: instructions of its classes, carried out in C on the saved state and natively by
 * the 32-bit helper, from the same state on the same memory. RINGFOLD_DIFF_COUNT and RINGFOLD_DIFF_SEED as in
 * test_differential.c. */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = NATIVE32_DATA_PAGES * NATIVE32_PAGE };

static unsigned long setting(const char *name, unsigned long otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoul(s, NULL, 0) : otherwise;
}

static bool run_case(struct flat_machine *m, struct native32 *n, struct generator_case *c)
{
    struct native32_result real, ours;
    bool avx = m->model.xcr0_mask & 4;

    if (!generator_assemble(c, native32_code(n)))
        return true;
    flat_machine_write_code(m, native32_code(n));
    generator_fill_memory(c, native32_data(n));
    memcpy(flat_machine_data(m), native32_data(n), DATA_BYTES);
    flat_machine_load(m, &c->state);
    if (!native32_run(n, &c->state, &real) || !flat_machine_execute(m, c, &ours))
        return false;
    int at = generator_index(c, real.vector == VECTOR_BP ? real.state.eip - 1 : real.state.eip);
    uint32_t undefined = at < 0 ? FLAGS_ARITH : c->undefined[at];
    if (at >= 0 && generator_leaves_traces(c, (unsigned)at) && real.vector != VECTOR_BP)
        return true;
    const char *differs = flat_machine_compare(&real, &ours, native32_data(n), flat_machine_data(m), undefined, avx);
    if (!differs)
        return true;
    printf("execute: %s differs\n", differs);
    flat_machine_print_case(c);
    flat_machine_print("processor", &real, false);
    flat_machine_print("cpu_execute", &ours, false);
    return false;
}

static void against_processor(void)
{
    const struct generator_options options = {
        .length = 3,
        .classes = 1u << INSN_MOVE | 1u << INSN_STACK | 1u << INSN_STRING | 1u << INSN_JCC | 1u << INSN_JMP |
                   1u << INSN_CALL | 1u << INSN_SEGMENT | 1u << INSN_FLAGS,
    };
    unsigned long count = setting("RINGFOLD_DIFF_COUNT", 1500), seed = setting("RINGFOLD_DIFF_SEED", 1);
    const char *why;
    struct native32 *n = native32_start(&why);

    if (!n) {
        test_skip(why);
        return;
    }
    struct flat_machine *m = flat_machine_create(NULL, NULL, &why);
    CU_ASSERT_FATAL(m != NULL);
    unsigned failures = 0;
    for (unsigned long i = 0; i < count && failures < 3; i++) {
        struct generator_case c;
        generator_make(&c, seed + i, &options);
        if (!run_case(m, n, &c))
            failures++;
    }
    CU_ASSERT(failures == 0);
    flat_machine_destroy(m);
    native32_stop(n);
}

TEST_SUITE(execute, {"cpu_execute does what the processor does", against_processor})
