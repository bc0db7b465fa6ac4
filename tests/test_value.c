/* SPDX-License-Identifier: MIT */
/* bt/value.h against numbers: what is said to be near, is. */
#include "bt/value.h"

#include "tests/test.h"

#include <stdlib.h>

enum { REGISTERS = 6 };
static const struct value_range NARROW = {true, -(1ll << 31), (1ull << 31) + (1ull << 32)};

static uint64_t seed;
static uint64_t number(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static bool is_narrow(uint64_t x)
{
    return x == (uint32_t)x || (int64_t)x == (int32_t)x;
}

static uint64_t some_number(void)
{
    uint64_t x = number();
    switch (number() % 4) {
    case 0:
        return x;
    case 1:
        return (uint32_t)x;
    case 2:
        return (uint64_t)(int64_t)(int32_t)x;
    default:
        return x >> 17;
    }
}

/* One step of a program on registers, in numbers and in values. */
static void step(struct values *v, uint64_t *is, struct value *said)
{
    static const int scales[5] = {1, 2, 4, 8, -1};
    unsigned to = number() % REGISTERS, a = number() % REGISTERS, b = number() % REGISTERS;
    int scale = scales[number() % 5];
    int64_t n = (int32_t)number();
    switch (number() % 6) {
    case 0:
        is[to] = some_number();
        said[to] = is_narrow(is[to]) && number() % 2 ? value_within(v, NARROW) : value_fresh(v);
        break;
    case 1:
        is[to] = is[a];
        said[to] = said[a];
        break;
    case 2:
        is[to] += (uint64_t)n;
        said[to] = value_plus(said[to], n);
        break;
    case 3: { /* as `and` with a mask */
        uint64_t low = number() & 0xfff;
        is[to] = is[a] & ~low;
        said[to] = value_spread(said[a], -(int64_t)low, low);
        break;
    }
    default: {
        struct value sum = value_sum(v, said[a], said[b], scale);
        is[to] = is[a] + is[b] * (uint64_t)(int64_t)scale;
        said[to] = sum;
        break;
    }
    }
}

static bool in_range(const struct values *v, struct value x, uint64_t n)
{
    struct value_range r = value_range_of(v, x);
    return !r.known || n - (uint64_t)r.low <= r.span;
}

static void near_is_near(void)
{
    static struct values v;
    unsigned long near = 0, wrong = 0;
    for (seed = 1; seed < 200000; seed += 7) {
        uint64_t keep = seed, is[REGISTERS];
        struct value said[REGISTERS];
        values_begin(&v, 0);
        for (unsigned i = 0; i < REGISTERS; i++) {
            is[i] = some_number();
            said[i] = is_narrow(is[i]) ? value_within(&v, NARROW) : value_fresh(&v);
        }
        for (unsigned n = 0; n < 12; n++) {
            uint64_t was[REGISTERS];
            struct value then[REGISTERS];
            for (unsigned i = 0; i < REGISTERS; i++) {
                was[i] = is[i];
                then[i] = said[i];
            }
            step(&v, is, said);
            for (unsigned i = 0; i < REGISTERS; i++)
                wrong += !in_range(&v, said[i], is[i]);
            for (unsigned i = 0; i < REGISTERS; i++)
                for (unsigned k = 0; k < REGISTERS; k++) {
                    uint64_t limit = 1ull << number() % 40;
                    if (!value_near(&v, said[i], then[k], limit))
                        continue;
                    int64_t by = (int64_t)(is[i] - was[k]);
                    near++;
                    wrong += by <= -(int64_t)limit || by >= (int64_t)limit;
                }
        }
        seed = keep;
    }
    CU_ASSERT_EQUAL(wrong, 0);
    CU_ASSERT(near > 100000);
}

static void sums_are_known_again(void)
{
    static struct values v;
    values_begin(&v, 0);
    struct value rax = value_fresh(&v), r8 = value_fresh(&v), rdi = value_fresh(&v), rcx = value_fresh(&v);
    struct value first = value_sum(&v, value_sum(&v, rax, r8, -1), rdi, 1);
    rax = value_plus(rax, 0x500);
    struct value next = value_sum(&v, rdi, value_sum(&v, rax, r8, -1), 1);
    CU_ASSERT(value_near(&v, next, first, 0x501));
    CU_ASSERT_FALSE(value_near(&v, next, first, 0x500));
    CU_ASSERT_FALSE(value_near(&v, next, rax, 1ull << 60));
    /* rax + 8 * rcx */
    struct value array = value_sum(&v, rax, rcx, 8);
    CU_ASSERT_FALSE(value_near(&v, array, rax, 1ull << 40));
    array = value_sum(&v, rax, value_plus(value_within(&v, NARROW), 0x3320), 8);
    CU_ASSERT(value_near(&v, array, rax, 33ull << 30));
    CU_ASSERT(value_near(&v, rax, array, 33ull << 30));
    struct value nothing = {0};
    CU_ASSERT_FALSE(value_near(&v, nothing, nothing, 1ull << 40));
    CU_ASSERT_EQUAL(value_plus(rax, 1ll << 50).name, 0);
    CU_ASSERT_EQUAL(value_sum(&v, nothing, rax, 1).name, 0);
}

static void names_run_out(void)
{
    static struct values v;
    values_begin(&v, 0);
    struct value a = value_fresh(&v), b = value_fresh(&v);
    for (unsigned i = 2; i < VALUE_NAMES; i++)
        CU_ASSERT(value_fresh(&v).name != 0);
    CU_ASSERT_EQUAL(value_fresh(&v).name, 0);
    CU_ASSERT_EQUAL(value_sum(&v, a, b, 1).name, 0);
    values_begin(&v, 3);
    a = value_fresh(&v);
    CU_ASSERT_EQUAL(a.name, 4);
    for (unsigned i = 0; i < VALUE_SUMS; i++)
        CU_ASSERT(value_sum(&v, a, value_fresh(&v), 1).name != 0);
    CU_ASSERT_EQUAL(value_sum(&v, a, value_fresh(&v), 1).name, 0);
    for (unsigned i = 0; i < VALUE_RANGES; i++)
        CU_ASSERT(value_range_of(&v, value_within(&v, NARROW)).known);
    CU_ASSERT_FALSE(value_range_of(&v, value_within(&v, NARROW)).known);
}

TEST_SUITE(value, {"what is said to be near, is", near_is_near},
           {"sums of the same parts are known again", sums_are_known_again}, {"names run out", names_run_out})
