/* SPDX-License-Identifier: MIT */
/* The local APIC's timer, SDM vol. 3, 10.5.4. The count is computed from the clock whenever somebody looks; the clock's
 * timer is armed only for an end of the count that will interrupt. */
#include "devices/lapic.h"

enum { MODE_SHIFT = 17, MODE_ONE_SHOT = 0, MODE_PERIODIC = 1, MODE_TSC_DEADLINE = 2 };

static unsigned mode(uint32_t lvt)
{
    return lvt >> MODE_SHIFT & 3;
}

/* Bits 3, 1, 0 of the register; 111b divides by one. */
static unsigned divisor_shift(const struct lapic *l)
{
    unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);
    return (code + 1) & 7;
}

/* Ticks of the divided clock since the count started. */
static uint64_t elapsed(const struct lapic *l)
{
    return clock_ns_to_ticks(clock_now(l->timer.clock) - l->start_ns, l->timer_hz) >> divisor_shift(l);
}

uint32_t lapic_timer_count(const struct lapic *l)
{
    if (mode(l->lvt[LVT_TIMER]) == MODE_TSC_DEADLINE || !l->initial_count)
        return 0;
    uint64_t ticks = elapsed(l);
    if (ticks < l->start_count)
        return (uint32_t)(l->start_count - ticks);
    if (mode(l->lvt[LVT_TIMER]) != MODE_PERIODIC)
        return 0;
    return (uint32_t)(l->initial_count - (ticks - l->start_count) % l->initial_count);
}

/* When the count ends after `ticks` of the divided clock. */
static uint64_t time_of(const struct lapic *l, uint64_t ticks)
{
    uint64_t shifted = ticks << divisor_shift(l); /* 32 bits of count and 7 of divisor, or a few periods more */
    uint64_t ns = clock_ticks_to_ns(shifted, l->timer_hz);
    return ns > CLOCK_NEVER - 1 - l->start_ns ? CLOCK_NEVER - 1 : l->start_ns + ns;
}

static void arm_count(struct lapic *l)
{
    uint64_t ticks = elapsed(l), end = l->start_count;
    if (!l->initial_count)
        return;
    if (ticks >= end) {
        if (mode(l->lvt[LVT_TIMER]) != MODE_PERIODIC)
            return; /* it has ended before */
        end += ((ticks - end) / l->initial_count + 1) * l->initial_count;
    }
    timer_arm(&l->timer, time_of(l, end));
}

/* Unsigned, as the processor compares: a deadline in the far future is no past one. */
static uint64_t ticks_left(const struct lapic *l)
{
    uint64_t now = l->signals.tsc(l->signals.opaque) + l->tsc_offset;
    return l->deadline > now ? l->deadline - now : 0;
}

static void arm_deadline(struct lapic *l)
{
    if (!l->deadline)
        return;
    uint64_t at = clock_now(l->timer.clock);
    uint64_t ns = clock_ticks_to_ns(ticks_left(l), l->signals.tsc_hz(l->signals.opaque));
    timer_arm(&l->timer, ns > CLOCK_NEVER - 1 - at ? CLOCK_NEVER - 1 : at + ns);
}

static void arm(struct lapic *l)
{
    timer_cancel(&l->timer);
    uint32_t lvt = l->lvt[LVT_TIMER];
    if (mode(lvt) == MODE_TSC_DEADLINE)
        arm_deadline(l); /* masked ones too: firing disarms, which shows */
    else if (!(lvt & LAPIC_LVT_MASKED))
        arm_count(l);
}

static void fire(void *opaque)
{
    struct lapic *l = opaque;
    switch (mode(l->lvt[LVT_TIMER])) {
    case MODE_TSC_DEADLINE:
        if (ticks_left(l)) { /* the clock runs ahead of the TSC by some millionths */
            arm_deadline(l);
            return;
        }
        l->deadline = 0;
        break;
    case MODE_PERIODIC:
        arm_count(l);
        if (l->timer.deadline < clock_now(l->timer.clock) + LAPIC_SHORTEST_NS)
            timer_arm(&l->timer, clock_now(l->timer.clock) + LAPIC_SHORTEST_NS);
        break;
    default:
        break;
    }
    lapic_deliver_local(l, LVT_TIMER);
}

static void start_count(struct lapic *l, uint32_t count)
{
    l->start_ns = clock_now(l->timer.clock);
    l->start_count = count;
}

void lapic_timer_set_initial(struct lapic *l, uint32_t count)
{
    if (mode(l->lvt[LVT_TIMER]) == MODE_TSC_DEADLINE)
        return;
    l->initial_count = count;
    start_count(l, count);
    arm(l);
}

/* A running count goes on from where it is at the new rate. */
void lapic_timer_set_divide(struct lapic *l, uint8_t divide)
{
    uint32_t count = lapic_timer_count(l);
    start_count(l, count);
    l->divide = divide;
    arm(l);
}

/* Between deadline mode and the counting modes everything is disarmed; between those the count goes on. */
void lapic_timer_lvt_written(struct lapic *l, uint32_t before)
{
    uint32_t now = l->lvt[LVT_TIMER];
    if ((mode(before) == MODE_TSC_DEADLINE) != (mode(now) == MODE_TSC_DEADLINE)) {
        l->initial_count = l->start_count = 0;
        l->deadline = 0;
    } else if (mode(before) != mode(now)) {
        l->lvt[LVT_TIMER] = before;
        uint32_t count = lapic_timer_count(l);
        l->lvt[LVT_TIMER] = now;
        start_count(l, count);
        if (!count && mode(now) == MODE_PERIODIC)
            l->initial_count = 0; /* a count that has ended does not start again by itself */
    }
    arm(l);
}

void lapic_timer_resume(struct lapic *l, uint32_t initial, uint32_t count, uint64_t deadline, uint64_t tsc_offset)
{
    bool counts = mode(l->lvt[LVT_TIMER]) != MODE_TSC_DEADLINE;
    l->initial_count = counts ? initial : 0;
    start_count(l, counts ? count : 0);
    l->deadline = counts ? 0 : deadline;
    l->tsc_offset = tsc_offset;
    arm(l);
}

uint64_t lapic_tsc_deadline(const struct lapic *l)
{
    return mode(l->lvt[LVT_TIMER]) == MODE_TSC_DEADLINE ? l->deadline : 0;
}

void lapic_set_tsc_deadline(struct lapic *l, uint64_t guest_tsc, uint64_t offset)
{
    if (mode(l->lvt[LVT_TIMER]) != MODE_TSC_DEADLINE)
        return;
    l->deadline = guest_tsc;
    l->tsc_offset = offset;
    if (guest_tsc && !ticks_left(l)) {
        timer_cancel(&l->timer);
        l->deadline = 0;
        lapic_deliver_local(l, LVT_TIMER);
        return;
    }
    arm(l);
}

void lapic_timer_init(struct lapic *l, struct clock *clock)
{
    timer_init(&l->timer, clock, fire, l);
}

void lapic_timer_reset(struct lapic *l)
{
    timer_cancel(&l->timer);
    l->divide = 0;
    l->initial_count = l->start_count = 0;
    l->deadline = l->tsc_offset = 0;
}
