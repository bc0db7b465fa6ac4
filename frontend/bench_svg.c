/* SPDX-License-Identifier: MIT */
/* The results as a chart: a panel for each suite, a row for each item, a mark for each engine on a logarithmic axis of
 * time relative to the panel's base: native where it was measured, else bt. Further left is faster. An item that the
 * base does not have (a boot has no native time) is told in words. */
#include "frontend/bench.h"

#include <math.h>

enum { WIDTH = 760, LABELS = 170, RIGHT = 70, ROW = 18, HEAD = 48, FOOT = 34, TOP = 44, MARK = 5 };

static const char *const colours[BENCH_ENGINES] = {"#777777", "#1565c0", "#2e7d32", "#e65100", "#8e24aa"};

struct axis {
    double low, high; /* log10 of the ratio at the ends */
};

static double position(const struct axis *a, double ratio)
{
    double at = (log10(ratio) - a->low) / (a->high - a->low);
    return LABELS + fmin(fmax(at, 0), 1) * (WIDTH - LABELS - RIGHT);
}

static enum bench_engine base_of(const struct bench_suite_results *s)
{
    for (int e = 0; e < BENCH_ENGINES; e++)
        for (unsigned i = 0; i < s->count; i++)
            if (s->items[i].engine[e].count)
                return e;
    return BENCH_NATIVE;
}

/* The engine whose ratio to the base stands as a number behind the row. */
static enum bench_engine shown_with(enum bench_engine base)
{
    return base == BENCH_BT ? BENCH_TCG : BENCH_BT;
}

static bool measured(const struct bench_results *r, enum bench_engine e)
{
    for (int s = 0; s < BENCH_SUITES; s++)
        for (unsigned i = 0; i < r->suite[s].count; i++)
            if (r->suite[s].items[i].engine[e].count)
                return true;
    return false;
}

static struct axis axis_of(const struct bench_suite_results *s, enum bench_engine base)
{
    double low = 0, high = log10(2);
    for (unsigned i = 0; i < s->count; i++)
        for (int e = 0; e < BENCH_ENGINES; e++) {
            double ratio = bench_ratio(&s->items[i], e, base);
            if (isnan(ratio))
                continue;
            low = fmin(low, log10(ratio));
            high = fmax(high, log10(ratio));
        }
    return (struct axis){floor(low * 4 - 0.2) / 4, ceil(high * 4 + 0.2) / 4};
}

static void draw_grid(const struct axis *a, unsigned top, unsigned bottom, FILE *out)
{
    static const double steps[] = {1, 2, 5};
    for (int decade = -6; decade < 7; decade++)
        for (unsigned k = 0; k < 3; k++) {
            double v = steps[k] * pow(10, decade);
            if (log10(v) < a->low - 1e-9 || log10(v) > a->high + 1e-9 || (a->high - a->low > 3 && k))
                continue;
            double x = position(a, v);
            bool one = decade == 0 && k == 0;
            fprintf(out, "<line x1=\"%.1f\" y1=\"%u\" x2=\"%.1f\" y2=\"%u\" stroke=\"%s\"/>\n", x, top, x, bottom,
                    one ? "#777777" : "#dddddd");
            fprintf(out, "<text x=\"%.1f\" y=\"%u\" text-anchor=\"middle\" fill=\"#555555\">%gx</text>\n", x,
                    bottom + 14, v);
        }
}

/* In a row without marks: how the others compare with bt. */
static void draw_without_base(const struct bench_item *item, enum bench_engine base, const struct axis *a, unsigned y,
                              FILE *out)
{
    fprintf(out, "<text x=\"%.1f\" y=\"%u\" fill=\"#555555\">no %s time", position(a, 1) + 10, y + 4,
            bench_engine_names[base]);
    for (int e = 0; e < BENCH_ENGINES; e++) {
        double ratio = bench_ratio(item, e, BENCH_BT);
        if (e != BENCH_BT && !isnan(ratio))
            fprintf(out, "; <tspan fill=\"%s\">%s %.3gx bt</tspan>", colours[e], bench_engine_names[e], ratio);
    }
    fputs("</text>\n", out);
}

static void draw_row(const struct bench_item *item, enum bench_engine base, const struct axis *a, unsigned y, FILE *out)
{
    double first = INFINITY, last = -INFINITY;
    fprintf(out, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\">%s</text>\n", LABELS - 10, y + 4, item->name);
    for (int e = 0; e < BENCH_ENGINES; e++) {
        double ratio = bench_ratio(item, e, base);
        if (!isnan(ratio)) {
            first = fmin(first, position(a, ratio));
            last = fmax(last, position(a, ratio));
        }
    }
    if (!item->engine[base].count)
        draw_without_base(item, base, a, y, out);
    if (first < last)
        fprintf(out, "<line x1=\"%.1f\" y1=\"%u\" x2=\"%.1f\" y2=\"%u\" stroke=\"#bbbbbb\" stroke-width=\"2\"/>\n",
                first, y, last, y);
    for (int e = 0; e < BENCH_ENGINES; e++) {
        double ratio = bench_ratio(item, e, base);
        if (isnan(ratio))
            continue;
        fprintf(out,
                "<circle cx=\"%.1f\" cy=\"%u\" r=\"%d\" fill=\"%s\" fill-opacity=\"0.85\"><title>%s %s: "
                "%.3gx</title></circle>\n",
                position(a, ratio), y, MARK, colours[e], bench_engine_names[e], item->name, ratio);
    }
    enum bench_engine shown = shown_with(base);
    double ratio = bench_ratio(item, shown, base);
    if (!isnan(ratio))
        fprintf(out, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\" fill=\"%s\">%.*fx</text>\n", WIDTH - 10, y + 4,
                colours[shown], ratio < 10 ? 2 : 0, ratio);
}

/* The items' names come from a guest's console: only those that need no escaping are drawn. */
static bool plain(const char *name)
{
    for (; *name; name++)
        if (*name <= ' ' || *name > '~' || *name == '<' || *name == '>' || *name == '&')
            return false;
    return true;
}

static unsigned draw_suite(const struct bench_suite_results *s, enum bench_suite suite, unsigned top, FILE *out)
{
    enum bench_engine base = base_of(s);
    struct axis a = axis_of(s, base);
    unsigned rows = top + HEAD, bottom = rows + s->count * ROW;
    fprintf(out, "<text x=\"10\" y=\"%u\" font-size=\"15\" font-weight=\"bold\">%s</text>\n", top + 16,
            bench_suite_names[suite]);
    fprintf(out, "<text x=\"%d\" y=\"%u\" fill=\"#555555\">%s relative to %s, logarithmic; left is faster</text>\n",
            LABELS, top + 16, suite == BENCH_NANO ? "cycles" : "time", bench_engine_names[base]);
    enum bench_engine shown = shown_with(base);
    bool any = false;
    for (unsigned i = 0; i < s->count; i++)
        any |= !isnan(bench_ratio(&s->items[i], shown, base));
    if (any && shown != base)
        fprintf(out, "<text x=\"%d\" y=\"%u\" text-anchor=\"end\" font-weight=\"bold\" fill=\"%s\">%s</text>\n",
                WIDTH - 10, top + 16, colours[shown], bench_engine_names[shown]);
    draw_grid(&a, rows - ROW / 2, bottom - ROW / 2, out);
    for (unsigned i = 0; i < s->count; i++)
        if (plain(s->items[i].name))
            draw_row(&s->items[i], base, &a, rows + i * ROW, out);
    return bottom + FOOT;
}

void bench_write_svg(const struct bench_results *r, FILE *out)
{
    unsigned height = TOP;
    for (int s = 0; s < BENCH_SUITES; s++)
        if (r->suite[s].count)
            height += HEAD + FOOT + r->suite[s].count * ROW;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%u\" viewBox=\"0 0 %d %u\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
            WIDTH, height, WIDTH, height);
    unsigned x = 10;
    for (int e = 0; e < BENCH_ENGINES; e++) {
        if (!measured(r, e))
            continue;
        fprintf(out, "<circle cx=\"%u\" cy=\"18\" r=\"%d\" fill=\"%s\"/><text x=\"%u\" y=\"22\">%s</text>\n", x + MARK,
                MARK, colours[e], x + 16, bench_engine_names[e]);
        x += 80;
    }
    fprintf(out, "<text x=\"%d\" y=\"22\" text-anchor=\"end\" fill=\"#555555\">%u-bit guest, ", WIDTH - 10, r->bits);
    fprintf(out, r->runs == 1 ? "one run</text>\n" : "medians of %u runs</text>\n", r->runs);
    unsigned top = TOP;
    for (int s = 0; s < BENCH_SUITES; s++)
        if (r->suite[s].count)
            top = draw_suite(&r->suite[s], s, top, out);
    fputs("</svg>\n", out);
}
