/* SPDX-License-Identifier: MIT */
#include "bt/value.h"

/* Beyond this nobody asks. */
static const int64_t AT_MAX = 1ll << 44;
static const uint64_t SPAN_MAX = 1ull << 44;
static const struct value NOTHING = {0};

struct value value_fresh(struct values *v)
{
    if (v->count == VALUE_NAMES)
        return NOTHING;
    v->sum[++v->count].a = 0;
    return (struct value){.name = v->count};
}

static struct value bounded(struct value x)
{
    return x.name && x.at > -AT_MAX && x.at < AT_MAX && x.span < SPAN_MAX ? x : NOTHING;
}

struct value value_plus(struct value x, int64_t n)
{
    return value_spread(x, n, 0);
}

struct value value_spread(struct value x, int64_t low, uint64_t span)
{
    if (low <= -AT_MAX || low >= AT_MAX || span >= SPAN_MAX)
        return NOTHING;
    x.at += low;
    x.span += span;
    return bounded(x);
}

/* The range of what x's name stands for, from that of x. */
static struct value_range of_name(struct value x, struct value_range of_x)
{
    if (!of_x.known)
        return of_x;
    return (struct value_range){.known = true, .low = of_x.low - x.at - (int64_t)x.span, .span = of_x.span + x.span};
}

static uint32_t sum_name(struct values *v, uint32_t a, uint32_t b, int scale)
{
    for (uint32_t i = 1; i <= v->count; i++)
        if (v->sum[i].a == a && v->sum[i].b == b && v->sum[i].scale == scale)
            return i;
    struct value x = value_fresh(v);
    if (x.name)
        v->sum[x.name] = (struct value_sum){.a = a, .b = b, .scale = scale};
    return x.name;
}

struct value value_sum(struct values *v, struct value x, struct value_range of_x, struct value y,
                       struct value_range of_y, int scale)
{
    if (!x.name || !y.name)
        return NOTHING;
    struct value_range ra = of_name(x, of_x), rb = of_name(y, of_y);
    uint32_t a = x.name, b = y.name;
    if (scale == 1 && a > b) {
        struct value_range r = ra;
        ra = rb;
        rb = r;
        a = y.name;
        b = x.name;
    }
    uint32_t name = sum_name(v, a, b, scale);
    if (!name)
        return NOTHING;
    if (ra.known)
        v->sum[name].of_a = ra;
    if (rb.known)
        v->sum[name].of_b = rb;
    int64_t low = scale < 0 ? -(y.at + (int64_t)y.span) : y.at * scale;
    return bounded((struct value){name, x.at + low, x.span + y.span * (uint64_t)(scale < 0 ? 1 : scale)});
}

/* Looks through the sums that x's name is, along their unknown parts; then through y's. */
static bool near_by_sums(const struct values *v, struct value x, struct value y, uint64_t limit, unsigned depth,
                         bool turned)
{
    enum { DEPTH_MAX = 4 };
    if (!x.name || !y.name || depth == DEPTH_MAX)
        return false;
    if (x.name == y.name) {
        int64_t low = x.at - y.at - (int64_t)y.span, high = x.at + (int64_t)x.span - y.at;
        return low > -(int64_t)limit && high < (int64_t)limit;
    }
    const struct value_sum *s = &v->sum[x.name];
    if (s->a && s->of_b.known) {
        int64_t n = s->scale;
        int64_t low = n < 0 ? -(s->of_b.low + (int64_t)s->of_b.span) : s->of_b.low * n;
        struct value part =
            bounded((struct value){s->a, x.at + low, x.span + s->of_b.span * (uint64_t)(n < 0 ? 1 : n)});
        if (near_by_sums(v, part, y, limit, depth + 1, turned))
            return true;
    }
    if (s->a && s->of_a.known && s->scale == 1) {
        struct value part = bounded((struct value){s->b, x.at + s->of_a.low, x.span + s->of_a.span});
        if (near_by_sums(v, part, y, limit, depth + 1, turned))
            return true;
    }
    return !turned && near_by_sums(v, y, x, limit, depth, true);
}

bool value_near(const struct values *v, struct value x, struct value y, uint64_t limit)
{
    return near_by_sums(v, x, y, limit, 0, false);
}
