/* SPDX-License-Identifier: MIT */
/* `ringfold bench`: the same guest work under several engines, interleaved, with medians and ratios.
 *
 * bench.c reads the command line and takes the runs in turn, bench_run.c starts one run and collects its lines,
 * bench_results.c keeps the samples and computes, bench_report.c and bench_svg.c show them. */
#ifndef RINGFOLD_FRONTEND_BENCH_H
#define RINGFOLD_FRONTEND_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum bench_engine { BENCH_NATIVE, BENCH_BT, BENCH_KVM, BENCH_TCG, BENCH_BOCHS, BENCH_ENGINES };
enum bench_suite { BENCH_COMPUTE, BENCH_VECTOR, BENCH_KERNEL, BENCH_NANO, BENCH_SUITES };
extern const char *const bench_engine_names[BENCH_ENGINES];
extern const char *const bench_suite_names[BENCH_SUITES];

enum { BENCH_MAX_RUNS = 99, BENCH_MAX_ITEMS = 64, BENCH_NAME_LEN = 40, BENCH_REASON_LEN = 40 };

/* Samples are nanoseconds; in the nano suite cycles of the host's time stamp counter. */
struct bench_samples {
    double value[BENCH_MAX_RUNS];
    unsigned count;
};
struct bench_item {
    char name[BENCH_NAME_LEN];
    bool wall; /* measured by the host's clock, from the start of the process */
    struct bench_samples engine[BENCH_ENGINES];
    uint32_t checksum;
    bool have_checksum;
    unsigned wrong;                                /* set of 1 << engine that gave another checksum */
    char skipped[BENCH_ENGINES][BENCH_REASON_LEN]; /* what its processor lacks for this item; empty: nothing */
};
struct bench_suite_results {
    struct bench_item items[BENCH_MAX_ITEMS]; /* in the order of their first appearance */
    unsigned count;
    bool wanted;
    char skipped[BENCH_ENGINES][160]; /* why the engine has no numbers here; empty: it has, or was not asked for */
};
struct bench_results {
    struct bench_suite_results suite[BENCH_SUITES];
    bool engine_wanted[BENCH_ENGINES];
    unsigned runs;
    unsigned bits;
    char host[128], kernel[128], date[32];
    double load_before, load_after;
};

/* The item of that name, made when there is none; NULL when the table is full or the name is too long. */
struct bench_item *bench_item(struct bench_suite_results *s, const char *name);
void bench_add(struct bench_item *item, enum bench_engine engine, double value);
/* The first checksum is the right one (native comes first); every other is noted in item->wrong. */
void bench_check(struct bench_item *item, enum bench_engine engine, uint32_t checksum);

/* A line of console output. Finds "bench NAME NANOSECONDS [CHECKSUM]", "bench-skip NAME REASON" or "nano NAME CYCLES"
 * anywhere in it, for the firmware leaves escape sequences in front. */
enum bench_line {
    BENCH_LINE_OTHER,
    BENCH_LINE_ITEM,
    BENCH_LINE_SKIP, /* name and reason only */
    BENCH_LINE_ERROR,
    BENCH_LINE_END,
    BENCH_LINE_START, /* around the measured part, where the host's clock is to be used: Bochs */
    BENCH_LINE_STOP,
};
struct bench_parsed {
    char name[BENCH_NAME_LEN];
    double value;
    bool have_checksum;
    uint32_t checksum;
    char reason[BENCH_REASON_LEN]; /* cut off where it is longer */
};
enum bench_line bench_parse_line(const char *line, struct bench_parsed *out);

/* NAN when there is nothing to compute with. */
double bench_median(const struct bench_samples *s);
double bench_minimum(const struct bench_samples *s);
/* Spread: the larger distance of minimum and maximum from the median, relative to it. */
double bench_spread(const struct bench_samples *s);
/* Median of a over median of b. */
double bench_ratio(const struct bench_item *item, enum bench_engine a, enum bench_engine b);
/* Geometric mean of the ratios of all items that have both, wall items left out; *count: how many. */
double bench_geometric_mean(const struct bench_suite_results *s, enum bench_engine a, enum bench_engine b,
                            unsigned *count);

void bench_print_table(const struct bench_results *r, FILE *out);
/* Owned by the caller (free); NULL without memory. */
char *bench_json(const struct bench_results *r);
void bench_write_svg(const struct bench_results *r, FILE *out);

/* What one run needs. The strings belong to the caller. */
struct bench_material {
    const char *folder;   /* as tests/bench/prepare makes it */
    const char *ringfold; /* the program to run bt and kvm with */
    const char *items;    /* words for the guest program, NULL: the suite's name */
    unsigned bits;
    uint64_t timeout_ns;
    bool verbose; /* the console goes to stderr */
};
/* Runs the suite once and adds its samples. 0, or -1 with the reason in why (the engine is not here, the run failed);
 * samples of a failed run are not added. */
int bench_run(const struct bench_material *m, enum bench_engine engine, enum bench_suite suite,
              struct bench_suite_results *results, char *why, size_t why_len);
/* The same without running: NULL when everything is there, else the reason. */
const char *bench_missing(const struct bench_material *m, enum bench_engine engine, enum bench_suite suite, char *why,
                          size_t why_len);

#endif
