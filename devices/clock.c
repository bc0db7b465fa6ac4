/* SPDX-License-Identifier: MIT */
#include "devices/clock.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

struct clock {
    bool manual;
    /* now = stopped ? stopped_at : host time - base. A sequence lock lets any thread read the pair; writers hold the
     * machine lock. */
    _Atomic uint32_t sequence;
    _Atomic bool stopped;
    _Atomic uint64_t stopped_at; /* a manual clock's time as well */
    _Atomic uint64_t base;
    uint64_t wall_start;
    struct timer *armed; /* sorted by deadline; equal deadlines in the order of arming */
    struct timer *due;   /* those that the running clock_run took off */
    void (*rearm)(void *opaque);
    void *rearm_opaque;
};

static uint64_t host_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

struct clock *clock_create(bool manual)
{
    struct clock *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->manual = manual;
    c->base = host_ns(CLOCK_MONOTONIC);
    c->wall_start = manual ? CLOCK_MANUAL_START * NS_PER_SEC : host_ns(CLOCK_REALTIME);
    return c;
}

void clock_destroy(struct clock *c)
{
    free(c);
}

uint64_t clock_now(const struct clock *clock)
{
    struct clock *c = (struct clock *)clock;
    if (c->manual)
        return atomic_load_explicit(&c->stopped_at, memory_order_relaxed);
    for (;;) {
        uint32_t before = atomic_load_explicit(&c->sequence, memory_order_acquire);
        bool stopped = atomic_load_explicit(&c->stopped, memory_order_acquire);
        uint64_t base = atomic_load_explicit(&c->base, memory_order_acquire);
        uint64_t at = atomic_load_explicit(&c->stopped_at, memory_order_acquire);
        uint64_t now = stopped ? at : host_ns(CLOCK_MONOTONIC) - base;
        if (!(before & 1) && before == atomic_load_explicit(&c->sequence, memory_order_acquire))
            return now;
    }
}

uint64_t clock_host_ns(const struct clock *c, uint64_t at)
{
    return c->base + at < at ? UINT64_MAX : c->base + at;
}

void clock_stop(struct clock *c)
{
    if (c->stopped)
        return;
    uint64_t now = clock_now(c);
    atomic_fetch_add(&c->sequence, 1);
    c->stopped_at = now;
    c->stopped = true;
    atomic_fetch_add(&c->sequence, 1);
}

void clock_continue(struct clock *c)
{
    if (!c->stopped)
        return;
    atomic_fetch_add(&c->sequence, 1);
    c->base = host_ns(CLOCK_MONOTONIC) - c->stopped_at;
    c->stopped = false;
    atomic_fetch_add(&c->sequence, 1);
    if (c->rearm)
        c->rearm(c->rearm_opaque);
}

uint64_t clock_wall_ns(const struct clock *c)
{
    return c->wall_start + clock_now(c);
}

void timer_init(struct timer *t, struct clock *clock, void (*fire)(void *opaque), void *opaque)
{
    *t = (struct timer){.clock = clock, .deadline = CLOCK_NEVER, .fire = fire, .opaque = opaque};
}

static bool unlink_from(struct timer **list, struct timer *t)
{
    for (struct timer **p = list; *p; p = &(*p)->next) {
        if (*p == t) {
            *p = t->next;
            t->next = NULL;
            return true;
        }
    }
    return false;
}

void timer_cancel(struct timer *t)
{
    if (!timer_armed(t))
        return;
    if (!unlink_from(&t->clock->armed, t))
        unlink_from(&t->clock->due, t);
    t->deadline = CLOCK_NEVER;
}

void timer_arm(struct timer *t, uint64_t deadline)
{
    struct clock *c = t->clock;
    timer_cancel(t);
    if (deadline == CLOCK_NEVER)
        return;
    t->deadline = deadline;
    struct timer **p = &c->armed;
    while (*p && (*p)->deadline <= deadline)
        p = &(*p)->next;
    t->next = *p;
    *p = t;
    if (c->armed == t && c->rearm)
        c->rearm(c->rearm_opaque);
}

uint64_t clock_next_deadline(const struct clock *c)
{
    return c->armed && !c->stopped ? c->armed->deadline : CLOCK_NEVER;
}

void clock_run(struct clock *c)
{
    if (c->stopped || c->due)
        return; /* time stands still, or called from a timer */
    uint64_t now = clock_now(c);
    /* What is due is taken off first: a timer that re-arms itself in the past fires at the next run and cannot keep
     * this one from ending. */
    struct timer **p = &c->armed;
    while (*p && (*p)->deadline <= now)
        p = &(*p)->next;
    if (p == &c->armed)
        return;
    c->due = c->armed;
    c->armed = *p;
    *p = NULL;
    while (c->due) {
        struct timer *t = c->due;
        c->due = t->next;
        t->next = NULL;
        t->deadline = CLOCK_NEVER;
        t->fire(t->opaque);
    }
}

void clock_advance(struct clock *c, uint64_t ns)
{
    if (c->stopped)
        return;
    uint64_t target = c->stopped_at + ns;
    while (c->armed && c->armed->deadline <= target) {
        if (c->armed->deadline > c->stopped_at)
            c->stopped_at = c->armed->deadline;
        clock_run(c);
    }
    c->stopped_at = target;
}

void clock_set_rearm_hook(struct clock *c, void (*hook)(void *opaque), void *opaque)
{
    c->rearm = hook;
    c->rearm_opaque = opaque;
}

uint64_t clock_ns_to_ticks(uint64_t ns, uint64_t hz)
{
    return (uint64_t)((unsigned __int128)ns * hz / NS_PER_SEC);
}

uint64_t clock_ticks_to_ns(uint64_t ticks, uint64_t hz)
{
    if (!hz)
        return CLOCK_NEVER;
    unsigned __int128 ns = ((unsigned __int128)ticks * NS_PER_SEC + hz - 1) / hz;
    return ns > UINT64_MAX ? CLOCK_NEVER : (uint64_t)ns;
}
