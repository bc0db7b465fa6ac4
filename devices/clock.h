/* SPDX-License-Identifier: MIT */
/* The machine's one clock and its event queue. Time is in nanoseconds since the machine started, stands still while the
 * machine is stopped, and is stepped by hand in unit tests.
 *
 * Threads: under the machine lock, but clock_now, which any thread may call. */
#ifndef RINGFOLD_DEVICES_CLOCK_H
#define RINGFOLD_DEVICES_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define CLOCK_NEVER UINT64_MAX
#define CLOCK_MANUAL_START 1704067200ull /* the wall clock of a manual clock starts at 2024-01-01 00:00:00 UTC */
#define NS_PER_SEC 1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

struct clock;

/* Intrusive: lives in the device's struct. */
struct timer {
    struct clock *clock;
    uint64_t deadline; /* CLOCK_NEVER: not armed */
    void (*fire)(void *opaque);
    void *opaque;
    struct timer *next; /* private: sorted list */
};

/* manual: time moves only by clock_advance (unit tests). */
struct clock *clock_create(bool manual);
void clock_destroy(struct clock *clock);
uint64_t clock_now(const struct clock *clock);
/* When a moment of a running clock comes, in nanoseconds of the host's CLOCK_MONOTONIC. Under the machine lock. */
uint64_t clock_host_ns(const struct clock *clock, uint64_t at);
/* Stops and continues time (QMP stop / cont). */
void clock_stop(struct clock *clock);
void clock_continue(struct clock *clock);
/* Wall-clock seconds since the epoch plus nanoseconds, for the RTC: start time of the machine + clock_now. */
uint64_t clock_wall_ns(const struct clock *clock);

void timer_init(struct timer *t, struct clock *clock, void (*fire)(void *opaque), void *opaque);
/* deadline: absolute; a past one fires at the next run. Re-arms when armed. */
void timer_arm(struct timer *t, uint64_t deadline);
void timer_cancel(struct timer *t);
static inline bool timer_armed(const struct timer *t)
{
    return t->deadline != CLOCK_NEVER;
}

/* The earliest deadline, or CLOCK_NEVER. */
uint64_t clock_next_deadline(const struct clock *clock);
/* Fires everything that is due, in order of deadline. */
void clock_run(struct clock *clock);
/* Manual clocks: moves time forward by ns, firing each timer at its own moment. */
void clock_advance(struct clock *clock, uint64_t ns);
/* Called when the earliest deadline moves nearer, so that the event loop can shorten its sleep. */
void clock_set_rearm_hook(struct clock *clock, void (*hook)(void *opaque), void *opaque);

/* now * hz without overflow, and back: for counters that run at a frequency. */
uint64_t clock_ns_to_ticks(uint64_t ns, uint64_t hz);
uint64_t clock_ticks_to_ns(uint64_t ticks, uint64_t hz); /* rounded up: the first ns at which the count is reached */

#endif
