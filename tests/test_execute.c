/* SPDX-License-Identifier: MIT */
/* cpu_execute against the processor: instructions of its classes, carried out in C on the saved state and natively by
 * the helper, from the same state on the same memory. RINGFOLD_DIFF_COUNT and RINGFOLD_DIFF_SEED as in
 * test_differential.c. */
#include "tests/flat_machine.h"
#include "tests/test.h"
#include "tests/tolerance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = NATIVE_DATA_PAGES * NATIVE_PAGE };

static unsigned long setting(const char *name, unsigned long otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoul(s, NULL, 0) : otherwise;
}

static bool run_case(struct flat_machine *m, struct native *n, struct generator_case *c)
{
    struct native_result real, ours;
    bool avx = m->model.xcr0_mask & 4;

    if (!generator_assemble(c, native_code(n)))
        return true;
    flat_machine_write_code(m, native_code(n));
    generator_fill_memory(c, native_data(n));
    memcpy(flat_machine_data(m), native_data(n), DATA_BYTES);
    flat_machine_load(m, &c->state);
    if (!native_run(n, &c->state, &real) || !flat_machine_execute(m, c, &ours))
        return false;
    int at = generator_index(c, real.vector == VECTOR_BP ? real.state.rip - 1 : real.state.rip);
    uint32_t undefined = at < 0 ? FLAGS_ARITH : c->undefined[at];
    if (tolerance_apply(c, &real, &ours, native_data(n), flat_machine_data(m)) == TOLERANCE_ALL)
        return true;
    const char *differs = flat_machine_compare(&real, &ours, native_data(n), flat_machine_data(m), undefined, avx);
    if (!differs)
        return true;
    printf("execute: %s differs\n", differs);
    flat_machine_print_case(c);
    flat_machine_print("processor", &real, avx);
    flat_machine_print("cpu_execute", &ours, avx);
    for (unsigned i = 0, shown = 0; i < DATA_BYTES && shown < 16; i++)
        if (native_data(n)[i] != flat_machine_data(m)[i] && ++shown)
            printf("    [%08x] processor %02x, cpu_execute %02x\n", NATIVE_DATA + i, native_data(n)[i],
                   flat_machine_data(m)[i]);
    return false;
}

static void run_many(const struct generator_options *options, unsigned long otherwise)
{
    unsigned long count = setting("RINGFOLD_DIFF_COUNT", otherwise), seed = setting("RINGFOLD_DIFF_SEED", 1);
    const char *why;
    unsigned bits = options->bits;
    struct native *n = native_start(bits, &why);

    if (!n) {
        test_skip(why);
        return;
    }
    struct flat_machine *m = flat_machine_create(bits, NULL, NULL, &why);
    if (!m && bits == 64) {
        native_stop(n);
        test_leave_without_tables();
    }
    CU_ASSERT_FATAL(m != NULL);
    unsigned failures = 0;
    for (unsigned long i = 0; i < count && failures < 3; i++) {
        struct generator_case c;
        generator_make(&c, seed + i, options);
        if (!run_case(m, n, &c))
            failures++;
    }
    CU_ASSERT(failures == 0);
    flat_machine_destroy(m);
    native_stop(n);
}

static void user_classes(unsigned bits)
{
    run_many(&(struct generator_options){.bits = bits,
                                         .length = 3,
                                         .classes = 1u << INSN_MOVE | 1u << INSN_STACK | 1u << INSN_STRING |
                                                    1u << INSN_JCC | 1u << INSN_JMP | 1u << INSN_CALL |
                                                    1u << INSN_SEGMENT | 1u << INSN_FLAGS},
             1500);
}

static void user_classes32(void)
{
    user_classes(32);
}

static void user_classes64(void)
{
    user_classes(64);
}

static void saved_state32(void)
{
    run_many(&(struct generator_options){.bits = 32, .length = 1, .no_branches = true, .state_only = true}, 400);
}

static void saved_state64(void)
{
    run_many(&(struct generator_options){.bits = 64, .length = 1, .no_branches = true, .state_only = true}, 400);
}

static void append_insn(struct generator_case *c, const uint8_t *bytes, unsigned len)
{
    struct generator_insn *g = &c->insns[c->count++];
    g->branch = false;
    CU_ASSERT(insn_decode(&g->insn, bytes, len, c->bits == 64 ? INSN_MODE_64 : INSN_MODE_32) == (int)len);
}

/* xsave, then a change of everything that this leaves valid, then xrstor of what EAX selects. */
static void xsave_and_back_at(unsigned bits)
{
    static const uint8_t code[][8] = {{3, 0x0f, 0xae, 0x27},     /* xsave [edi] */
                                      {2, 0xdd, 0x36},           /* fnsave [esi] */
                                      {5, 0xb8, 0, 0, 0, 0},     /* mov eax, what to restore */
                                      {3, 0x0f, 0xae, 0x2f},     /* xrstor [edi] */
                                      {4, 0x0f, 0xae, 0x47, 64}, /* fxsave [edi+64] */
                                      {2, 0xd9, 0x36}};          /* fnstenv [esi] */
    const char *why;
    struct native *n = native_start(bits, &why);

    if (!n) {
        test_skip(why);
        return;
    }
    struct flat_machine *m = flat_machine_create(bits, NULL, NULL, &why);
    if (!m && bits == 64) {
        native_stop(n);
        test_leave_without_tables();
    }
    CU_ASSERT_FATAL(m != NULL);
    for (unsigned i = 0; i < 64; i++) {
        struct generator_case c;
        generator_make(&c, i, &(struct generator_options){.bits = bits, .length = 0});
        c.state.gpr[GPR_AX] = i & 7;
        c.state.gpr[GPR_DX] = 0;
        c.state.gpr[GPR_DI] = NATIVE_DATA + (i & 1 ? NATIVE_PAGE - 64 : 128);
        c.state.gpr[GPR_SI] = NATIVE_DATA + 2 * NATIVE_PAGE - 20;
        c.count = 0;
        for (unsigned k = 0; k < 6; k++) { /* mov dword [edi + ...], 0: a header to start with */
            const uint8_t clear[10] = {0xc7, 0x87, (uint8_t)(4 * k), 2};
            append_insn(&c, clear, sizeof clear);
        }
        for (unsigned k = 0; k < sizeof code / sizeof code[0]; k++) {
            uint8_t bytes[8] = {0};
            memcpy(bytes, code[k] + 1, 7);
            if (k == 2)
                bytes[1] = (uint8_t)(i >> 3);
            append_insn(&c, bytes, code[k][0]);
        }
        CU_ASSERT(run_case(m, n, &c));
    }
    flat_machine_destroy(m);
    native_stop(n);
}

static void xsave_and_back32(void)
{
    xsave_and_back_at(32);
}

static void xsave_and_back64(void)
{
    xsave_and_back_at(64);
}

TEST_SUITE(execute, {"cpu_execute does what the processor does", user_classes32},
           {"masked moves, saved and restored x87/SSE/AVX state", saved_state32},
           {"xsave and xrstor by components", xsave_and_back32})
TEST_SUITE(execute64, {"cpu_execute does what the processor does in 64-bit code", user_classes64},
           {"masked moves, saved and restored x87/SSE/AVX state, 64 bits", saved_state64},
           {"xsave and xrstor by components, 64 bits", xsave_and_back64})
