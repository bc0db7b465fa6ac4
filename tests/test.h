/* SPDX-License-Identifier: MIT */
/* Unit tests on CUnit. A file tests/test_NAME.c defines its cases as `static void name(void)` with CU_ASSERT... and
 * registers them with one TEST_SUITE(NAME, {"what must hold", fn}, ...) at its end. tests/runner.c runs them all.
 * A case that cannot run here calls test_skip(reason) and returns. */
#ifndef RINGFOLD_TESTS_TEST_H
#define RINGFOLD_TESTS_TEST_H

#include <CUnit/CUnit.h>
#include <stddef.h>

struct test_case {
    const char *name;
    void (*fn)(void);
};

void test_register(const char *suite, const struct test_case *cases, size_t count);
void test_skip(const char *reason);
/* The tables of a 64-bit machine could not be made, for which TSan leaves too little address space: skips the case and
 * leaves it as CUnit's fatal assertions do. */
_Noreturn void test_leave_without_tables(void);
#ifdef __SANITIZE_THREAD__
enum { TEST_UNDER_TSAN = 1 };
#else
enum { TEST_UNDER_TSAN = 0 };
#endif

#define TEST_SUITE(suite, ...)                                                                                         \
    static const struct test_case test_cases_##suite[] = {__VA_ARGS__};                                                \
    __attribute__((constructor)) static void test_register_##suite(void)                                               \
    {                                                                                                                  \
        test_register(#suite, test_cases_##suite, sizeof test_cases_##suite / sizeof test_cases_##suite[0]);           \
    }

#endif
