/* SPDX-License-Identifier: MIT */
/* Samples, their lines on the console, medians and means. */
#include "frontend/bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const bench_engine_names[BENCH_ENGINES] = {"native", "bt", "kvm", "tcg", "bochs"};
const char *const bench_suite_names[BENCH_SUITES] = {"compute", "vector", "kernel", "nano"};

struct bench_item *bench_item(struct bench_suite_results *s, const char *name)
{
    for (unsigned i = 0; i < s->count; i++)
        if (!strcmp(s->items[i].name, name))
            return &s->items[i];
    if (s->count == BENCH_MAX_ITEMS || strlen(name) >= BENCH_NAME_LEN)
        return NULL;
    struct bench_item *item = &s->items[s->count++];
    memset(item, 0, sizeof *item);
    strcpy(item->name, name);
    return item;
}

void bench_add(struct bench_item *item, enum bench_engine engine, double value)
{
    struct bench_samples *s = &item->engine[engine];
    if (s->count < BENCH_MAX_RUNS)
        s->value[s->count++] = value;
}

void bench_check(struct bench_item *item, enum bench_engine engine, uint32_t checksum)
{
    if (!item->have_checksum) {
        item->checksum = checksum;
        item->have_checksum = true;
    } else if (item->checksum != checksum) {
        item->wrong |= 1u << engine;
    }
}

/* The text behind the last "word " in the line that starts a word; NULL: none. */
static const char *behind(const char *line, const char *word)
{
    const char *found = NULL;
    size_t len = strlen(word);
    for (const char *p = line; (p = strstr(p, word)); p += len)
        found = p + len;
    return found;
}

/* The name that the text begins with. Returns what is behind it and its blank; NULL: there is none, or it is too long.
 */
static const char *take_name(const char *text, struct bench_parsed *out)
{
    size_t len = strcspn(text, " \r\n");
    if (!len || len >= BENCH_NAME_LEN || text[len] != ' ')
        return NULL;
    memset(out, 0, sizeof *out);
    memcpy(out->name, text, len);
    return text + len + 1;
}

static enum bench_line parse_skip(const char *text, struct bench_parsed *out)
{
    const char *reason = take_name(text, out);
    size_t len = reason ? strcspn(reason, "\r\n") : 0;
    if (!len)
        return BENCH_LINE_OTHER;
    snprintf(out->reason, sizeof out->reason, "%.*s", (int)len, reason);
    return BENCH_LINE_SKIP;
}

enum bench_line bench_parse_line(const char *line, struct bench_parsed *out)
{
    if (strstr(line, "bench-end"))
        return BENCH_LINE_END;
    if (strstr(line, "bench-start"))
        return BENCH_LINE_START;
    if (strstr(line, "bench-stop"))
        return BENCH_LINE_STOP;
    if (strstr(line, "bench-error "))
        return BENCH_LINE_ERROR;
    const char *p = behind(line, "bench-skip ");
    if (p)
        return parse_skip(p, out);
    p = behind(line, "bench ");
    bool nano = false;
    if (!p) {
        p = behind(line, "nano ");
        nano = true;
    }
    if (!p)
        return BENCH_LINE_OTHER;
    char *end;
    errno = 0;
    p = take_name(p, out);
    if (!p || *p < '0' || *p > '9')
        return BENCH_LINE_OTHER;
    out->value = strtod(p, &end);
    if (end == p || errno || !isfinite(out->value))
        return BENCH_LINE_OTHER;
    if (!nano && *end == ' ') {
        const char *sum = end + 1;
        out->checksum = (uint32_t)strtoul(sum, &end, 16);
        out->have_checksum = end == sum + 8;
        if (!out->have_checksum)
            return BENCH_LINE_OTHER;
    }
    return *end && *end != '\r' && *end != '\n' ? BENCH_LINE_OTHER : BENCH_LINE_ITEM;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(const struct bench_samples *s)
{
    double sorted[BENCH_MAX_RUNS];
    if (!s->count)
        return NAN;
    memcpy(sorted, s->value, s->count * sizeof *sorted);
    qsort(sorted, s->count, sizeof *sorted, compare);
    unsigned middle = s->count / 2;
    return s->count & 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

double bench_minimum(const struct bench_samples *s)
{
    double minimum = NAN;
    for (unsigned i = 0; i < s->count; i++)
        minimum = fmin(minimum, s->value[i]); /* the number, where one of them is none */
    return minimum;
}

double bench_spread(const struct bench_samples *s)
{
    double median = bench_median(s), spread = 0;
    if (!(median > 0))
        return NAN;
    for (unsigned i = 0; i < s->count; i++)
        spread = fmax(spread, fabs(s->value[i] - median));
    return spread / median;
}

double bench_ratio(const struct bench_item *item, enum bench_engine a, enum bench_engine b)
{
    double x = bench_median(&item->engine[a]), y = bench_median(&item->engine[b]);
    return x > 0 && y > 0 ? x / y : NAN;
}

double bench_geometric_mean(const struct bench_suite_results *s, enum bench_engine a, enum bench_engine b,
                            unsigned *count)
{
    double sum = 0;
    unsigned n = 0;
    for (unsigned i = 0; i < s->count; i++) {
        double ratio = bench_ratio(&s->items[i], a, b);
        if (s->items[i].wall || isnan(ratio))
            continue;
        sum += log(ratio);
        n++;
    }
    if (count)
        *count = n;
    return n ? exp(sum / n) : NAN;
}
