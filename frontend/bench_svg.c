/* SPDX-License-Identifier: MIT */
/* The results as a chart: a panel for each suite, a row for each item, a mark for each engine on a logarithmic axis of
 * time relative to the panel's base: native where it was measured, else bt. Further left is faster. */
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
    if (first < last)
        fprintf(out, "<line x1=\"%.1f\" y1=\"%u\" x2=\"%.1f\" y2=\"%u\" stroke=\"#bbbbbb\" stroke-width=\"2\"/>\n",
                first, y, last, y);
    for (int e = 0; e < BENCH_ENGINES; e++) {
        double ratio = bench_ratio(item, e, base);
        if (isnan(ratio))
            continue;
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%u\" r=\"%d\" fill=\"%s\"><title>%s %s: %.3gx</title></circle>\n",
                position(a, ratio), y, MARK, colours[e], bench_engine_names[e], item->name, ratio);
    }
    enum bench_engine shown = base == BENCH_BT ? BENCH_TCG : BENCH_BT;
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
        if (!r->engine_wanted[e])
            continue;
        fprintf(out, "<circle cx=\"%u\" cy=\"18\" r=\"%d\" fill=\"%s\"/><text x=\"%u\" y=\"22\">%s</text>\n", x + MARK,
                MARK, colours[e], x + 16, bench_engine_names[e]);
        x += 80;
    }
    fprintf(out, "<text x=\"%d\" y=\"22\" text-anchor=\"end\" fill=\"#555555\">%u-bit guest, medians of %u</text>\n",
            WIDTH - 10, r->bits, r->runs);
    unsigned top = TOP;
    for (int s = 0; s < BENCH_SUITES; s++)
        if (r->suite[s].count)
            top = draw_suite(&r->suite[s], s, top, out);
    fputs("</svg>\n", out);
}
