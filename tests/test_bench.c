/* SPDX-License-Identifier: MIT */
/* `ringfold bench`: lines from the console, medians and means, the chart and the JSON, runs that fail. */
#include "tests/test.h"

#include "frontend/bench.h"
#include "frontend/commands.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static enum bench_line parse(const char *text, struct bench_parsed *p)
{
    memset(p, 0xaa, sizeof *p);
    return bench_parse_line(text, p);
}

static void item_lines(void)
{
    struct bench_parsed p;
    CU_ASSERT_EQUAL(parse("bench crc-32 123456789012 79e7ab00", &p), BENCH_LINE_ITEM);
    CU_ASSERT_STRING_EQUAL(p.name, "crc-32");
    CU_ASSERT_EQUAL(p.value, 123456789012.0);
    CU_ASSERT(p.have_checksum);
    CU_ASSERT_EQUAL(p.checksum, 0x79e7ab00);
    CU_ASSERT_EQUAL(parse("bench sort 5\r\n", &p), BENCH_LINE_ITEM);
    CU_ASSERT(!p.have_checksum);
    CU_ASSERT_EQUAL(parse("\033c\033[?7l\033[2Jbench sort 5 00000001\r", &p), BENCH_LINE_ITEM);
    CU_ASSERT_EQUAL(parse("nano cli-sti 9.4", &p), BENCH_LINE_ITEM);
    CU_ASSERT_STRING_EQUAL(p.name, "cli-sti");
    CU_ASSERT_EQUAL(p.value, 9.4);
    CU_ASSERT_EQUAL(parse("bench-end", &p), BENCH_LINE_END);
    CU_ASSERT_EQUAL(parse("bench-start", &p), BENCH_LINE_START);
    CU_ASSERT_EQUAL(parse("bench-stop\r", &p), BENCH_LINE_STOP);
    CU_ASSERT_EQUAL(parse("bench-error mmap", &p), BENCH_LINE_ERROR);
    CU_ASSERT_EQUAL(parse("\033cbench-skip dot-avx2 no AVX2 with FMA\r\n", &p), BENCH_LINE_SKIP);
    CU_ASSERT_STRING_EQUAL(p.name, "dot-avx2");
    CU_ASSERT_STRING_EQUAL(p.reason, "no AVX2 with FMA");
    CU_ASSERT_EQUAL(parse("bench-skip dot-avx2 a reason that is very much longer than any reason may ever be", &p),
                    BENCH_LINE_SKIP);
    CU_ASSERT_EQUAL(strlen(p.reason), BENCH_REASON_LEN - 1);
    CU_ASSERT_EQUAL(parse("bench dot-avx2 5 00000001", &p), BENCH_LINE_ITEM);
    CU_ASSERT_STRING_EQUAL(p.reason, "");
}

static void other_lines(void)
{
    static const char *const lines[] = {"",
                                        "bench",
                                        "bench ",
                                        "bench sort",
                                        "bench sort ",
                                        "bench sort x",
                                        "bench sort -5",
                                        "bench sort 5 12",
                                        "bench sort 5 0000000g",
                                        "bench sort 5 000000001",
                                        "bench sort 5 00000001 more",
                                        "bench sort nan",
                                        "bench sort inf",
                                        "bench  5",
                                        "bench sort 1e999",
                                        "bench sort 5x",
                                        "nano in 5 00000001",
                                        "bench-skip",
                                        "bench-skip dot-avx2",
                                        "bench-skip dot-avx2 ",
                                        "bench-skip dot-avx2 \r\n",
                                        "bench-skip  no AVX2",
                                        "[    0.1] a line",
                                        "bench a-name-that-is-much-longer-than-any-name-may-ever-be 5 00000001"};
    struct bench_parsed p;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (parse(lines[i], &p) != BENCH_LINE_OTHER)
            CU_FAIL(lines[i]);
    }
    CU_PASS("");
}

static struct bench_suite_results *new_suite(void)
{
    struct bench_suite_results *s = calloc(1, sizeof *s);
    CU_ASSERT_PTR_NOT_NULL_FATAL(s);
    s->wanted = true;
    return s;
}

static void fill(struct bench_item *item, enum bench_engine e, double a, double b, double c)
{
    bench_add(item, e, a);
    bench_add(item, e, b);
    bench_add(item, e, c);
}

static void medians(void)
{
    struct bench_samples s = {{5, 1, 9}, 3};
    CU_ASSERT_EQUAL(bench_median(&s), 5);
    CU_ASSERT_EQUAL(bench_minimum(&s), 1);
    CU_ASSERT_DOUBLE_EQUAL(bench_spread(&s), 0.8, 1e-9);
    s = (struct bench_samples){{4, 1, 9, 6}, 4};
    CU_ASSERT_EQUAL(bench_median(&s), 5);
    s.count = 0;
    CU_ASSERT(isnan(bench_median(&s)));
    CU_ASSERT(isnan(bench_minimum(&s)));
    CU_ASSERT(isnan(bench_spread(&s)));
    s = (struct bench_samples){{0}, 1};
    CU_ASSERT_EQUAL(bench_median(&s), 0);
    CU_ASSERT(isnan(bench_spread(&s)));
}

static void too_many(void)
{
    struct bench_suite_results *s = new_suite();
    char name[80];
    for (unsigned i = 0; i < BENCH_MAX_ITEMS; i++) {
        snprintf(name, sizeof name, "item-%u", i);
        CU_ASSERT_PTR_NOT_NULL(bench_item(s, name));
    }
    CU_ASSERT_PTR_NULL(bench_item(s, "one-more"));
    CU_ASSERT_PTR_EQUAL(bench_item(s, "item-3"), &s->items[3]);
    for (unsigned i = 0; i < BENCH_MAX_RUNS + 10; i++)
        bench_add(&s->items[0], BENCH_BT, i);
    CU_ASSERT_EQUAL(s->items[0].engine[BENCH_BT].count, BENCH_MAX_RUNS);
    free(s);
    s = new_suite();
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = 0;
    CU_ASSERT_PTR_NULL(bench_item(s, name));
    free(s);
}

static void means(void)
{
    struct bench_suite_results *s = new_suite();
    unsigned n;
    fill(bench_item(s, "a"), BENCH_NATIVE, 10, 10, 10);
    fill(bench_item(s, "a"), BENCH_BT, 20, 19, 21);
    fill(bench_item(s, "b"), BENCH_NATIVE, 10, 10, 10);
    fill(bench_item(s, "b"), BENCH_BT, 80, 80, 1);
    fill(bench_item(s, "only-bt"), BENCH_BT, 1, 1, 1);
    struct bench_item *wall = bench_item(s, "wall");
    wall->wall = true;
    fill(wall, BENCH_NATIVE, 1, 1, 1);
    fill(wall, BENCH_BT, 1000, 1000, 1000);
    CU_ASSERT_DOUBLE_EQUAL(bench_geometric_mean(s, BENCH_BT, BENCH_NATIVE, &n), 4, 1e-9);
    CU_ASSERT_EQUAL(n, 2);
    CU_ASSERT(isnan(bench_geometric_mean(s, BENCH_TCG, BENCH_BT, &n)));
    CU_ASSERT_EQUAL(n, 0);
    CU_ASSERT(isnan(bench_ratio(bench_item(s, "only-bt"), BENCH_BT, BENCH_NATIVE)));
    free(s);
}

static void checksums(void)
{
    struct bench_suite_results *s = new_suite();
    struct bench_item *item = bench_item(s, "sort");
    bench_check(item, BENCH_NATIVE, 0x1234);
    bench_check(item, BENCH_BT, 0x1234);
    CU_ASSERT_EQUAL(item->wrong, 0);
    bench_check(item, BENCH_TCG, 0x1235);
    CU_ASSERT_EQUAL(item->wrong, 1u << BENCH_TCG);
    free(s);
}

static struct bench_results *example(void)
{
    struct bench_results *r = calloc(1, sizeof *r);
    CU_ASSERT_PTR_NOT_NULL_FATAL(r);
    r->runs = 3;
    r->bits = 32;
    strcpy(r->host, "a \"processor\"");
    struct bench_suite_results *s = &r->suite[BENCH_COMPUTE];
    s->wanted = r->suite[BENCH_NANO].wanted = true;
    r->engine_wanted[BENCH_NATIVE] = r->engine_wanted[BENCH_BT] = true;
    fill(bench_item(s, "sort"), BENCH_NATIVE, 1e6, 2e6, 3e6);
    fill(bench_item(s, "sort"), BENCH_BT, 3e6, 3e6, 3e6);
    fill(bench_item(s, "<evil>&\""), BENCH_NATIVE, 1, 1, 1);
    strcpy(s->skipped[BENCH_KVM], "no /dev/kvm");
    fill(bench_item(&r->suite[BENCH_NANO], "in"), BENCH_BT, 216, 216, 216);
    bench_check(&s->items[0], BENCH_NATIVE, 1);
    bench_check(&s->items[0], BENCH_BT, 2);
    strcpy(bench_item(s, "dot-avx2")->skipped[BENCH_BT], "no AVX2");
    return r;
}

static char *text_of(void (*write)(const struct bench_results *, FILE *), const struct bench_results *r)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    write(r, f);
    fclose(f);
    return text;
}

static void table(void)
{
    struct bench_results *r = example();
    char *text = text_of(bench_print_table, r);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "1.50x"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "WRONG RESULT under bt"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "kvm: skipped: no /dev/kvm"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "216"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "compute (ms) "));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "nano (cycles) "));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, " -         -  bt: no AVX2\n"));
    CU_ASSERT_PTR_NULL(strstr(text, " nan"));
    free(text);
    free(r);
}

static void json(void)
{
    struct bench_results *r = example();
    char *text = bench_json(r);
    cJSON *root = cJSON_Parse(text);
    CU_ASSERT_PTR_NOT_NULL_FATAL(root);
    CU_ASSERT_STRING_EQUAL(cJSON_GetObjectItem(root, "host")->valuestring, "a \"processor\"");
    cJSON *suite = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "suites"), 0);
    CU_ASSERT_STRING_EQUAL(cJSON_GetObjectItem(suite, "unit")->valuestring, "ns");
    cJSON *item = cJSON_GetArrayItem(cJSON_GetObjectItem(suite, "items"), 0);
    cJSON *bt = cJSON_GetObjectItem(cJSON_GetObjectItem(item, "engines"), "bt");
    CU_ASSERT_EQUAL(cJSON_GetObjectItem(bt, "median")->valuedouble, 3e6);
    CU_ASSERT_EQUAL(cJSON_GetArraySize(cJSON_GetObjectItem(bt, "samples")), 3);
    CU_ASSERT(cJSON_IsFalse(cJSON_GetObjectItem(bt, "right")));
    CU_ASSERT_DOUBLE_EQUAL(cJSON_GetObjectItem(cJSON_GetObjectItem(item, "ratios"), "bt/native")->valuedouble, 1.5,
                           1e-9);
    CU_ASSERT_STRING_EQUAL(cJSON_GetObjectItem(cJSON_GetObjectItem(suite, "skipped"), "kvm")->valuestring,
                           "no /dev/kvm");
    item = cJSON_GetArrayItem(cJSON_GetObjectItem(suite, "items"), 2);
    CU_ASSERT_STRING_EQUAL(cJSON_GetObjectItem(cJSON_GetObjectItem(item, "skipped"), "bt")->valuestring, "no AVX2");
    CU_ASSERT_PTR_NULL(cJSON_GetObjectItem(cJSON_GetObjectItem(item, "engines"), "bt"));
    cJSON_Delete(root);
    free(text);
    free(r);
}

static void chart(void)
{
    struct bench_results *r = example();
    r->engine_wanted[BENCH_KVM] = true;
    fill(bench_item(&r->suite[BENCH_COMPUTE], "boot"), BENCH_BT, 10, 10, 10);
    fill(bench_item(&r->suite[BENCH_COMPUTE], "boot"), BENCH_TCG, 25, 25, 25);
    char *text = text_of(bench_write_svg, r);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "no native time"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "tcg 2.5x bt"));
    CU_ASSERT_PTR_NULL(strstr(text, ">kvm<")); /* nothing of it to show */
    CU_ASSERT_EQUAL(strncmp(text, "<svg ", 5), 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "</svg>"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, ">sort<"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "bt sort: 1.5x"));
    CU_ASSERT_PTR_NULL(strstr(text, "evil"));
    CU_ASSERT_PTR_NULL(strstr(text, "nan\""));
    CU_ASSERT_PTR_NULL(strstr(text, "inf"));
    free(text);
    memset(r->suite, 0, sizeof r->suite);
    text = text_of(bench_write_svg, r);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "</svg>"));
    free(text);
    free(r);
}

/* Runs of a script in the place of the native program. */

static char folder[] = "/tmp/ringfold-bench-XXXXXX";

static int run_script(const char *script, uint64_t timeout_ns, struct bench_suite_results *s, char *why, size_t why_len)
{
    char path[64];
    snprintf(path, sizeof path, "%s/program", folder);
    FILE *f = fopen(path, "w");
    fprintf(f, "#!/bin/sh\n%s\n", script);
    fclose(f);
    chmod(path, 0700);
    struct bench_material m = {.folder = folder, .ringfold = "/nowhere", .bits = 32, .timeout_ns = timeout_ns};
    int result = bench_run(&m, BENCH_NATIVE, BENCH_COMPUTE, s, why, why_len);
    unlink(path);
    return result;
}

static void runs(void)
{
    char why[160];
    struct bench_suite_results *s = new_suite();
    CU_ASSERT_PTR_NOT_NULL_FATAL(mkdtemp(folder));
    const uint64_t second = 1000000000;
    CU_ASSERT_EQUAL(run_script("echo bench a 5 00000001; echo \"bench b 7 00000002\"; echo bench-end", 20 * second, s,
                               why, sizeof why),
                    0);
    CU_ASSERT_EQUAL(s->count, 2);
    CU_ASSERT_EQUAL(bench_median(&s->items[1].engine[BENCH_NATIVE]), 7);
    /* Marked parts are measured by the clock of the host. */
    CU_ASSERT_EQUAL(
        run_script("echo bench-start; sleep 0.2; echo bench-stop; echo bench c 5 00000001; echo bench d 6 00000001; "
                   "echo bench-end",
                   20 * second, s, why, sizeof why),
        0);
    double marked = bench_median(&bench_item(s, "c")->engine[BENCH_NATIVE]);
    CU_ASSERT(marked > 1e8 && marked < 1e10);
    CU_ASSERT_EQUAL(bench_median(&bench_item(s, "d")->engine[BENCH_NATIVE]), 6);
    /* What the processor lacks is noted. */
    CU_ASSERT_EQUAL(run_script("echo bench-skip e no such thing; echo bench-end", 20 * second, s, why, sizeof why), 0);
    CU_ASSERT_STRING_EQUAL(bench_item(s, "e")->skipped[BENCH_NATIVE], "no such thing");
    CU_ASSERT_EQUAL(bench_item(s, "e")->engine[BENCH_NATIVE].count, 0);
    /* What failed leaves no samples. */
    CU_ASSERT_EQUAL(
        run_script("echo bench a 6 00000001; echo one >&2; echo two >&2; exit 3", 20 * second, s, why, sizeof why), -1);
    CU_ASSERT_STRING_EQUAL(why, "two");
    CU_ASSERT_EQUAL(run_script("exit 3", 20 * second, s, why, sizeof why), -1);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "status 3"));
    CU_ASSERT_EQUAL(run_script("echo bench-error mmap; exit 1", 20 * second, s, why, sizeof why), -1);
    CU_ASSERT_STRING_EQUAL(why, "failed: mmap");
    CU_ASSERT_EQUAL(run_script("echo bench a 6 00000001; exec sleep 60", second / 5, s, why, sizeof why), -1);
    CU_ASSERT_PTR_NOT_NULL(strstr(why, "not done"));
    CU_ASSERT_EQUAL(s->items[0].engine[BENCH_NATIVE].count, 1);
    rmdir(folder);
    free(s);
}

static void what_is_missing(void)
{
    char why[160];
    struct bench_material m = {.folder = "/nowhere", .bits = 32};
    for (int e = 0; e < BENCH_ENGINES; e++)
        for (int s = 0; s < BENCH_SUITES; s++)
            CU_ASSERT_PTR_NOT_NULL(bench_missing(&m, e, s, why, sizeof why));
}

static int bench(const char *a, const char *b)
{
    char *argv[] = {"bench", (char *)a, (char *)b, NULL};
    int fd = dup(2), status;
    FILE *unused = freopen("/dev/null", "w", stderr);
    (void)unused;
    status = command_bench(b ? 3 : 2, argv);
    fflush(stderr);
    dup2(fd, 2);
    close(fd);
    return status;
}

static void command_line(void)
{
    CU_ASSERT_EQUAL(bench("--suite", "compute,fast"), 64);
    CU_ASSERT_EQUAL(bench("--suite", ""), 64);
    CU_ASSERT_EQUAL(bench("--engines", "bt,,tcg"), 64);
    CU_ASSERT_EQUAL(bench("--runs", "0"), 64);
    CU_ASSERT_EQUAL(bench("--runs", "100"), 64);
    CU_ASSERT_EQUAL(bench("--runs", "5x"), 64);
    CU_ASSERT_EQUAL(bench("--bits", "33"), 64);
    CU_ASSERT_EQUAL(bench("--items", "crc-32"), 64);
    CU_ASSERT_EQUAL(bench("--suite=compute,vector", "--items=crc-32"), 64);
    CU_ASSERT_EQUAL(bench("--suite=nano", "--items=in"), 64);
    CU_ASSERT_EQUAL(bench("--timeout", "0"), 64);
    CU_ASSERT_EQUAL(bench("--json", NULL), 64);
    CU_ASSERT_EQUAL(bench("--frobnicate", NULL), 64);
    CU_ASSERT_EQUAL(bench("--json=/nowhere/x.json", NULL), 125);
}

TEST_SUITE(bench, {"a line with a result is read, whatever stands in front of it", item_lines},
           {"other lines are not taken for one", other_lines}, {"median and spread", medians},
           {"tables that are full", too_many}, {"ratios and geometric means", means},
           {"a wrong checksum is noted", checksums}, {"the table", table}, {"JSON", json}, {"the chart", chart},
           {"a run's lines, its failures and its time limit", runs}, {"what is not here is said", what_is_missing},
           {"bad command lines", command_line})
