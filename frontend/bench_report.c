/* SPDX-License-Identifier: MIT */
/* The results as a table and as JSON. */
#include "frontend/bench.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

static bool has_numbers(const struct bench_suite_results *s, enum bench_engine e)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->items[i].engine[e].count)
            return true;
    return false;
}

static void print_value(FILE *out, double v, bool cycles)
{
    if (isnan(v))
        fprintf(out, " %11s", "-");
    else if (cycles)
        fprintf(out, " %11.*f", v < 100 ? 1 : 0, v);
    else
        fprintf(out, " %11.*f", v < 1e8 ? 2 : 1, v / 1e6);
}

static void print_ratio(FILE *out, double v)
{
    if (isnan(v))
        fprintf(out, " %9s", "-");
    else
        fprintf(out, " %8.*fx", v < 10 ? 2 : 1, v);
}

/* The columns of ratios: the first over the second, when both were asked for and have numbers. */
static const struct {
    enum bench_engine over, under;
} ratios[] = {{BENCH_BT, BENCH_NATIVE}, {BENCH_TCG, BENCH_BT}, {BENCH_KVM, BENCH_NATIVE}, {BENCH_BOCHS, BENCH_BT}};
enum { RATIOS = sizeof ratios / sizeof *ratios };

/* Of the smallest samples instead of the medians: on a busy host the better of the two numbers. */
static double mean_of_minima(const struct bench_suite_results *s, enum bench_engine a, enum bench_engine b)
{
    double sum = 0;
    unsigned n = 0;
    for (unsigned i = 0; i < s->count; i++) {
        double x = bench_minimum(&s->items[i].engine[a]), y = bench_minimum(&s->items[i].engine[b]);
        if (s->items[i].wall || !(x > 0) || !(y > 0))
            continue;
        sum += log(x / y);
        n++;
    }
    return n ? exp(sum / n) : NAN;
}

static void print_mean(const char *title, const struct bench_suite_results *s, const bool *engine, const bool *ratio,
                       double (*mean)(const struct bench_suite_results *, enum bench_engine, enum bench_engine),
                       FILE *out)
{
    fprintf(out, "%-22s", title);
    for (int e = 0; e < BENCH_ENGINES; e++)
        if (engine[e])
            fprintf(out, " %11s", "");
    for (unsigned k = 0; k < RATIOS; k++)
        if (ratio[k])
            print_ratio(out, mean(s, ratios[k].over, ratios[k].under));
    fputc('\n', out);
}

static double mean_of_medians(const struct bench_suite_results *s, enum bench_engine a, enum bench_engine b)
{
    return bench_geometric_mean(s, a, b, NULL);
}

static void print_item(const struct bench_item *item, const bool *engine, const bool *ratio, bool cycles, FILE *out)
{
    fprintf(out, "%-22s", item->name);
    for (int e = 0; e < BENCH_ENGINES; e++)
        if (engine[e])
            print_value(out, bench_median(&item->engine[e]), cycles);
    for (unsigned k = 0; k < RATIOS; k++)
        if (ratio[k])
            print_ratio(out, bench_ratio(item, ratios[k].over, ratios[k].under));
    for (int e = 0; e < BENCH_ENGINES; e++) {
        if (item->wrong >> e & 1)
            fprintf(out, "  WRONG RESULT under %s", bench_engine_names[e]);
        if (*item->skipped[e])
            fprintf(out, "  %s: %s", bench_engine_names[e], item->skipped[e]);
    }
    fputc('\n', out);
}

static void print_suite(const struct bench_results *r, enum bench_suite suite, FILE *out)
{
    const struct bench_suite_results *s = &r->suite[suite];
    bool engine[BENCH_ENGINES], ratio[RATIOS], cycles = suite == BENCH_NANO;
    for (int e = 0; e < BENCH_ENGINES; e++)
        engine[e] = has_numbers(s, e);
    for (unsigned k = 0; k < RATIOS; k++)
        ratio[k] = engine[ratios[k].over] && engine[ratios[k].under];

    char title[32];
    snprintf(title, sizeof title, "%s (%s)", bench_suite_names[suite], cycles ? "cycles" : "ms");
    fprintf(out, "\n%-22s", title);
    for (int e = 0; e < BENCH_ENGINES; e++)
        if (engine[e])
            fprintf(out, " %11s", bench_engine_names[e]);
    for (unsigned k = 0; k < RATIOS; k++)
        if (ratio[k]) {
            snprintf(title, sizeof title, "%s/%s", bench_engine_names[ratios[k].over],
                     bench_engine_names[ratios[k].under]);
            fprintf(out, " %9s", title);
        }
    fputc('\n', out);
    for (unsigned i = 0; i < s->count; i++)
        print_item(&s->items[i], engine, ratio, cycles, out);
    if (s->count) {
        print_mean("geometric mean", s, engine, ratio, mean_of_medians, out);
        print_mean("  of the minima", s, engine, ratio, mean_of_minima, out);
    }
    for (int e = 0; e < BENCH_ENGINES; e++)
        if (*s->skipped[e])
            fprintf(out, "%s: skipped: %s\n", bench_engine_names[e], s->skipped[e]);
}

void bench_print_table(const struct bench_results *r, FILE *out)
{
    fprintf(out,
            "%s, %s, %s\n%u-bit guest, 256 MB, one vCPU; medians of %u, interleaved; load %.2f before, %.2f after\n",
            r->host, r->kernel, r->date, r->bits, r->runs, r->load_before, r->load_after);
    for (int s = 0; s < BENCH_SUITES; s++)
        if (r->suite[s].wanted)
            print_suite(r, s, out);
}

/* JSON. */

static void add_ratios(cJSON *object, const struct bench_suite_results *s, const struct bench_item *item)
{
    for (unsigned k = 0; k < RATIOS; k++) {
        double v = item ? bench_ratio(item, ratios[k].over, ratios[k].under)
                        : bench_geometric_mean(s, ratios[k].over, ratios[k].under, NULL);
        char name[32];
        snprintf(name, sizeof name, "%s/%s", bench_engine_names[ratios[k].over], bench_engine_names[ratios[k].under]);
        if (!isnan(v))
            cJSON_AddNumberToObject(object, name, v);
    }
}

static void add_item(cJSON *items, const struct bench_suite_results *s, const struct bench_item *item)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(items, object);
    cJSON_AddStringToObject(object, "name", item->name);
    cJSON_AddStringToObject(object, "clock", item->wall ? "host" : "guest");
    cJSON *engines = cJSON_AddObjectToObject(object, "engines");
    for (int e = 0; e < BENCH_ENGINES; e++) {
        const struct bench_samples *samples = &item->engine[e];
        if (!samples->count)
            continue;
        cJSON *engine = cJSON_AddObjectToObject(engines, bench_engine_names[e]);
        cJSON_AddNumberToObject(engine, "median", bench_median(samples));
        cJSON_AddNumberToObject(engine, "minimum", bench_minimum(samples));
        if (!isnan(bench_spread(samples)))
            cJSON_AddNumberToObject(engine, "spread", bench_spread(samples));
        if (item->have_checksum)
            cJSON_AddBoolToObject(engine, "right", !(item->wrong >> e & 1));
        cJSON_AddItemToObject(engine, "samples", cJSON_CreateDoubleArray(samples->value, (int)samples->count));
    }
    add_ratios(cJSON_AddObjectToObject(object, "ratios"), s, item);
    cJSON *skipped = cJSON_AddObjectToObject(object, "skipped");
    for (int e = 0; e < BENCH_ENGINES; e++)
        if (*item->skipped[e])
            cJSON_AddStringToObject(skipped, bench_engine_names[e], item->skipped[e]);
}

static void add_suite(cJSON *suites, const struct bench_results *r, enum bench_suite suite)
{
    const struct bench_suite_results *s = &r->suite[suite];
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToArray(suites, object);
    cJSON_AddStringToObject(object, "name", bench_suite_names[suite]);
    cJSON_AddStringToObject(object, "unit", suite == BENCH_NANO ? "cycles" : "ns");
    cJSON *items = cJSON_AddArrayToObject(object, "items");
    for (unsigned i = 0; i < s->count; i++)
        add_item(items, s, &s->items[i]);
    add_ratios(cJSON_AddObjectToObject(object, "geometric_means"), s, NULL);
    cJSON *skipped = cJSON_AddObjectToObject(object, "skipped");
    for (int e = 0; e < BENCH_ENGINES; e++)
        if (*s->skipped[e])
            cJSON_AddStringToObject(skipped, bench_engine_names[e], s->skipped[e]);
}

char *bench_json(const struct bench_results *r)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "host", r->host);
    cJSON_AddStringToObject(root, "kernel", r->kernel);
    cJSON_AddStringToObject(root, "date", r->date);
    cJSON_AddNumberToObject(root, "bits", r->bits);
    cJSON_AddNumberToObject(root, "runs", r->runs);
    cJSON_AddNumberToObject(root, "load_before", r->load_before);
    cJSON_AddNumberToObject(root, "load_after", r->load_after);
    cJSON *suites = cJSON_AddArrayToObject(root, "suites");
    for (int s = 0; s < BENCH_SUITES; s++)
        if (r->suite[s].wanted)
            add_suite(suites, r, s);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    return text;
}
