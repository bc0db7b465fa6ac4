/* SPDX-License-Identifier: MIT */
/* Numbers that are not known but have names: what the translator and its verifier know of addresses within a block.
 *
 * A value is what its name stands for, plus a number between `at` and `at + span`, all modulo 2^64. A name stands for a
 * number that nothing is known of (a register at the block's start, what was loaded from memory), for one of a known
 * range (what was written as 32 bits), or for the sum a + scale * b of two others. So `mov rcx, rax ; sub rcx, r8 ; add
 * rax, 64 ; mov rdx, rax ; sub rdx, r8` makes an RDX that is 64 more than RCX. Where one of the two has a known range,
 * the sum is near the other. */
#ifndef RINGFOLD_BT_VALUE_H
#define RINGFOLD_BT_VALUE_H

#include <stdbool.h>
#include <stdint.h>

struct value {
    uint32_t name; /* 0: nothing is known, not even that it is itself */
    int64_t at;
    uint64_t span;
};

/* A number from low to low + span. */
struct value_range {
    bool known;
    int64_t low;
    uint64_t span;
};

/* Enough for a block of BT_BLOCK_MAX_INSNS: beyond them nothing is known. The verifier reads several host instructions
 * for one of the guest's, and gives names to sums that the translator need not ask about: it must not be the first to
 * run out. */
enum { VALUE_NAMES = 2048, VALUE_SUMS = 512, VALUE_RANGES = 512 };

struct values {
    uint32_t count; /* names given, from 1 */
    unsigned sums, ranges;
    uint16_t is[VALUE_NAMES + 1]; /* what a name is: nothing known (0), 1 + a sum, or VALUE_IS_RANGE + a range */
    struct value_range range[VALUE_RANGES];
    struct value_sum {
        uint32_t name, a, b; /* names, a <= b where scale is 1 */
        int32_t scale;       /* 1, 2, 4, 8, -1 */
        struct value_range of_a, of_b;
    } sum[VALUE_SUMS];
};
enum { VALUE_IS_RANGE = VALUE_SUMS + 1 };

/* Begins with `count` names of which nothing is known. */
static inline void values_begin(struct values *v, uint32_t count)
{
    v->count = count;
    v->sums = v->ranges = 0;
    for (uint32_t i = 1; i <= count; i++)
        v->is[i] = 0;
}

/* A value of its own, and one that is known to be in the range. */
struct value value_fresh(struct values *v);
struct value value_within(struct values *v, struct value_range range);
struct value_range value_range_of(const struct values *v, struct value x);
/* x + n, and x plus a number from low to low + span. */
struct value value_plus(struct value x, int64_t n);
struct value value_spread(struct value x, int64_t low, uint64_t span);
/* x + scale * y. */
struct value value_sum(struct values *v, struct value x, struct value y, int scale);
/* Are x and y surely less than limit bytes (below 2^62) from each other? */
bool value_near(const struct values *v, struct value x, struct value y, uint64_t limit);

#endif
