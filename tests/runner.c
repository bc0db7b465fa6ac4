/* SPDX-License-Identifier: MIT */
/* Runs every registered unit test, or the suites named on the command line; the last line is
 * "N passed, M failed, K skipped". With --counts FILE the three numbers also go to FILE. */
#include "tests/test.h"

#include <CUnit/Basic.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

enum { MAX_SUITES = 256 };
static struct {
    const char *name;
    const struct test_case *cases;
    size_t count;
} suites[MAX_SUITES];
static size_t suite_count;
static const char *skip_reason;

void test_register(const char *suite, const struct test_case *cases, size_t count)
{
    if (suite_count == MAX_SUITES)
        return;
    suites[suite_count].name = suite;
    suites[suite_count].cases = cases;
    suites[suite_count++].count = count;
}

void test_skip(const char *reason)
{
    skip_reason = reason;
}

void test_leave_without_tables(void)
{
    test_skip("no address space for the shadow tables of a 64-bit machine");
    longjmp(*CU_get_current_test()->pJumpBuf, 1);
}

static unsigned passed, failed, skipped;

static void on_test_complete(const CU_pTest test, const CU_pSuite suite, const CU_pFailureRecord failures)
{
    if (failures) {
        failed++;
        for (const CU_FailureRecord *f = failures; f; f = f->pNext)
            printf("FAIL %s: %s\n    %s:%u: %s\n", suite->pName, test->pName, f->strFileName, f->uiLineNumber,
                   f->strCondition);
    } else if (skip_reason) {
        skipped++;
        printf("skip %s: %s (%s)\n", suite->pName, test->pName, skip_reason);
    } else {
        passed++;
    }
    skip_reason = NULL;
    fflush(stdout);
}

static int named(int argc, char **argv, const char *suite)
{
    int any = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--counts")) {
            i++;
            continue;
        }
        any = 1;
        if (!strcmp(argv[i], suite))
            return 1;
    }
    return !any;
}

int main(int argc, char **argv)
{
    const char *counts = NULL;
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--counts"))
            counts = argv[i + 1];
    if (CU_initialize_registry() != CUE_SUCCESS)
        return 2;
    for (size_t i = 0; i < suite_count; i++) {
        if (!named(argc, argv, suites[i].name))
            continue;
        CU_pSuite s = CU_add_suite(suites[i].name, NULL, NULL);
        for (size_t j = 0; s && j < suites[i].count; j++)
            CU_add_test(s, suites[i].cases[j].name, suites[i].cases[j].fn);
    }
    CU_set_test_complete_handler(on_test_complete);
    CU_run_all_tests();
    CU_cleanup_registry();
    if (counts) {
        FILE *f = fopen(counts, "w");
        if (f) {
            fprintf(f, "%u %u %u\n", passed, failed, skipped);
            fclose(f);
        }
    }
    printf("%u passed, %u failed, %u skipped\n", passed, failed, skipped);
    return failed ? 1 : 0;
}
