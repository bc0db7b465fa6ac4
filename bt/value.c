/* SPDX-License-Identifier: MIT */
#include "bt/value.h"

#include <stddef.h>

/* Beyond this nobody asks. */
static const int64_t AT_MAX = 1ll << 44;
static const uint64_t SPAN_MAX = 1ull << 44;
static const struct value NOTHING = {0};

struct value value_fresh(struct values *v)
{
    if (v->count == VALUE_NAMES)
        return NOTHING;
    v->is[++v->count] = 0;
    return (struct value){.name = v->count};
}

struct value value_within(struct values *v, struct value_range range)
{
    struct value x = value_fresh(v);
    if (x.name && v->ranges < VALUE_RANGES) {
        v->is[x.name] = (uint16_t)(VALUE_IS_RANGE + v->ranges);
        v->range[v->ranges++] = range;
    }
    return x;
}

static const struct value_sum *sum_of(const struct values *v, uint32_t name)
{
    unsigned is = v->is[name];
    return is && is < VALUE_IS_RANGE ? &v->sum[is - 1] : NULL;
}

static struct value_range name_range(const struct values *v, uint32_t name)
{
    return v->is[name] >= VALUE_IS_RANGE ? v->range[v->is[name] - VALUE_IS_RANGE] : (struct value_range){0};
}

struct value_range value_range_of(const struct values *v, struct value x)
{
    struct value_range r = {0};
    if (x.name)
        r = name_range(v, x.name);
    r.low += x.at;
    r.span += x.span;
    return r;
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

static uint32_t sum_name(struct values *v, uint32_t a, uint32_t b, int scale)
{
    for (unsigned i = 0; i < v->sums; i++)
        if (v->sum[i].a == a && v->sum[i].b == b && v->sum[i].scale == scale)
            return v->sum[i].name;
    if (v->sums == VALUE_SUMS)
        return 0;
    struct value x = value_fresh(v);
    if (x.name) {
        v->sum[v->sums] = (struct value_sum){x.name, a, b, scale, name_range(v, a), name_range(v, b)};
        v->is[x.name] = (uint16_t)(++v->sums);
    }
    return x.name;
}

struct value value_sum(struct values *v, struct value x, struct value y, int scale)
{
    if (!x.name || !y.name)
        return NOTHING;
    bool turn = scale == 1 && x.name > y.name;
    uint32_t name = turn ? sum_name(v, y.name, x.name, 1) : sum_name(v, x.name, y.name, scale);
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
    const struct value_sum *s = sum_of(v, x.name);
    if (s && s->of_b.known) {
        int64_t n = s->scale;
        int64_t low = n < 0 ? -(s->of_b.low + (int64_t)s->of_b.span) : s->of_b.low * n;
        struct value part =
            bounded((struct value){s->a, x.at + low, x.span + s->of_b.span * (uint64_t)(n < 0 ? 1 : n)});
        if (near_by_sums(v, part, y, limit, depth + 1, turned))
            return true;
    }
    if (s && s->of_a.known && s->scale == 1) {
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
