/* SPDX-License-Identifier: MIT */
#include "devices/i8254.h"

#include "devices/log.h"

#include <string.h>

enum { ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };
/* The host may hold up this thread or the processor's for many periods. A guest that counts its timer interrupts would
 * lose time (Linux then distrusts the TSC), so they are made up: so many at most, so much faster than the period. */
enum { BACKLOG_MAX = 256, BACKLOG_SPEED = 8 };
/* The shortest distance between two events: a guest that asks for megahertz gets what a processor could take. */
#define EVENT_DISTANCE_NS (10 * NS_PER_US)
#define BACKLOG_PERIOD_NS (100 * NS_PER_US)
/* The refresh request toggles at counter 1's usual rate, 18 ticks, whether it is programmed or not. */
#define REFRESH_NS 15086

static uint64_t ticks_now(const struct i8254 *pit)
{
    return clock_ns_to_ticks(clock_now(pit->clock), I8254_HZ);
}

static uint32_t modulus(const struct i8254_counter *c)
{
    return c->bcd ? 10000 : 65536;
}

static uint16_t to_bcd(uint32_t v)
{
    return (uint16_t)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static uint32_t from_guest(const struct i8254_counter *c, uint16_t v)
{
    uint32_t n = v;
    if (c->bcd) /* digits above 9 count as what they weigh */
        n = (v & 15) + (v >> 4 & 15) * 10u + (v >> 8 & 15) * 100u + (v >> 12) * 1000u;
    return n ? n : modulus(c);
}

/* Mode 3: the number of ticks for which OUT is high in a period of n. */
static uint32_t high_ticks(uint32_t n)
{
    return (n + 1) / 2;
}

static bool is_periodic(const struct i8254_counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

static bool is_triggered(const struct i8254_counter *c)
{
    return c->mode == 1 || c->mode == 5;
}

/* A new count of a periodic mode takes over once its moment has come. */
static void take_over(struct i8254_counter *c, uint64_t tick)
{
    if (c->next_pending && tick >= c->next_at) {
        c->next_pending = false;
        c->loaded = c->next_loaded;
        c->start = c->next_start;
    }
}

static uint64_t elapsed(const struct i8254_counter *c, uint64_t tick)
{
    return (int64_t)tick > c->start ? tick - (uint64_t)c->start : 0;
}

/* The counting element, in the guest's notation. */
static uint16_t count_at(struct i8254_counter *c, uint64_t tick)
{
    take_over(c, tick);
    if (!c->running)
        return c->held;
    uint64_t e = elapsed(c, tick);
    uint32_t n = c->loaded, value;
    if (c->mode == 2) {
        value = n - (uint32_t)(e % n);
    } else if (c->mode == 3) {
        uint32_t at = (uint32_t)(e % n), high = high_ticks(n);
        uint32_t half = at < high ? at : at - high;
        uint32_t top = n & ~1u;
        value = top > 2 * half ? top - 2 * half : 0;
    } else {
        uint32_t m = modulus(c);
        value = (uint32_t)((n + m - e % m) % m);
    }
    return c->bcd ? to_bcd(value % 10000) : (uint16_t)value;
}

static bool out_at(struct i8254_counter *c, uint64_t tick)
{
    take_over(c, tick);
    if (!c->running)
        return c->held_out;
    uint64_t e = elapsed(c, tick);
    switch (c->mode) {
    case 0:
    case 1:
        return e >= c->loaded;
    case 2:
        return e % c->loaded != c->loaded - 1;
    case 3:
        return e % c->loaded < high_ticks(c->loaded);
    default:
        return e != c->loaded;
    }
}

static bool null_count(const struct i8254_counter *c, uint64_t tick)
{
    if (!c->programmed || c->next_pending)
        return true;
    if (!c->running)
        return c->loaded != c->count_register;
    return (int64_t)tick < c->start || c->loaded != c->count_register;
}

static void hold(struct i8254_counter *c, uint64_t tick, bool out)
{
    c->held = count_at(c, tick);
    c->held_elapsed = c->running ? elapsed(c, tick) : c->held_elapsed;
    c->running = false;
    c->next_pending = false;
    c->held_out = out;
}

/* Loads the count with the next clock pulse. */
static void load(struct i8254_counter *c, uint64_t tick)
{
    c->loaded = c->count_register;
    c->start = (int64_t)tick + 1;
    c->held_elapsed = 0;
    c->running = true;
    c->next_pending = false;
}

bool i8254_output(struct i8254 *pit, unsigned n)
{
    return out_at(&pit->counter[n % 3], ticks_now(pit));
}

/* Finds the next rising edge of OUT0 after tick; false: there is none. */
static bool next_edge(struct i8254 *pit, uint64_t tick)
{
    struct i8254_counter *c = &pit->counter[0];
    take_over(c, tick);
    pit->periodic = is_periodic(c);
    if (!c->running)
        return false;
    uint64_t end = (uint64_t)c->start + c->loaded + (c->mode >= 4 ? 1 : 0);
    if (pit->periodic)
        end = (uint64_t)c->start + (elapsed(c, tick) / c->loaded + 1) * c->loaded;
    /* A count that takes over in mid-period moves the edge; it is looked at when its time comes. */
    if (c->next_pending && c->next_at < end)
        end = (uint64_t)c->next_start + c->next_loaded;
    pit->edge_tick = end;
    return end > tick;
}

static void schedule(struct i8254 *pit)
{
    uint64_t now = clock_now(pit->clock);
    uint64_t at = clock_ticks_to_ns(pit->edge_tick, I8254_HZ);
    if (pit->backlog) {
        uint64_t soon = clock_ticks_to_ns(pit->counter[0].loaded, I8254_HZ) / BACKLOG_SPEED;
        if (now + soon < at)
            at = now + soon;
    }
    if (pit->periodic && at < now + EVENT_DISTANCE_NS)
        at = now + EVENT_DISTANCE_NS;
    timer_arm(&pit->edge, at);
}

static void on_edge(void *opaque)
{
    struct i8254 *pit = opaque;
    struct i8254_counter *c = &pit->counter[0];
    uint64_t tick = ticks_now(pit);
    if (!pit->periodic) {
        irq_set(&pit->irq0, 0); /* mode 4's strobe; in mode 0 the line is low already */
        irq_set(&pit->irq0, 1);
        return;
    }
    take_over(c, tick);
    bool waiting = pit->irq0_waiting && pit->irq0_waiting(pit->irq0_waiting_opaque);
    if (tick >= pit->edge_tick) {
        uint64_t missed = (tick - pit->edge_tick) / c->loaded + waiting;
        if (clock_ticks_to_ns(c->loaded, I8254_HZ) >= BACKLOG_PERIOD_NS)
            pit->backlog = missed + pit->backlog > BACKLOG_MAX ? BACKLOG_MAX : (unsigned)missed + pit->backlog;
        if (!next_edge(pit, tick))
            return;
    } else if (pit->backlog && !waiting) {
        pit->backlog--;
    }
    irq_set(&pit->irq0, 0);
    irq_set(&pit->irq0, 1);
    schedule(pit);
}

/* After any change to counter 0, which was made at tick: the line shows OUT, the timer the next edge. The time is not
 * read again: a short count may have run out meanwhile (the host can hold this thread up anywhere), and its edge would
 * be looked for in the future and lost. */
static void update_irq0(struct i8254 *pit, uint64_t tick)
{
    timer_cancel(&pit->edge);
    pit->backlog = 0;
    irq_set(&pit->irq0, is_periodic(&pit->counter[0]) || out_at(&pit->counter[0], tick));
    if (next_edge(pit, tick))
        schedule(pit);
}

static void set_gate(struct i8254 *pit, unsigned n, bool gate)
{
    struct i8254_counter *c = &pit->counter[n];
    uint64_t tick = ticks_now(pit);
    if (gate == c->gate)
        return;
    c->gate = gate;
    if (!c->programmed)
        return;
    if (is_triggered(c)) {
        if (gate)
            load(c, tick);
    } else if (is_periodic(c)) {
        if (gate)
            load(c, tick);
        else
            hold(c, tick, true);
    } else if (!gate) {
        hold(c, tick, out_at(c, tick));
    } else if (!c->running && !(c->mode == 0 && c->write_high)) {
        c->running = true;
        c->start = (int64_t)(tick - c->held_elapsed);
    }
}

static uint32_t legal_count(const struct i8254_counter *c, uint32_t n)
{
    if (n > 1 || !is_periodic(c))
        return n;
    log_msg(LOG_GUEST_ERROR, "8254: count 1 in mode %u", c->mode);
    return 2;
}

static void count_written(struct i8254 *pit, struct i8254_counter *c, uint16_t value)
{
    uint64_t tick = ticks_now(pit);
    take_over(c, tick);
    c->count_register = legal_count(c, from_guest(c, value));
    bool first = !c->programmed;
    c->programmed = true;
    if (is_triggered(c)) {
        /* Waits for the next trigger. */
    } else if (is_periodic(c) && c->running && !first) {
        uint64_t e = elapsed(c, tick);
        uint64_t period_start = (uint64_t)c->start + e / c->loaded * c->loaded;
        uint32_t high = high_ticks(c->loaded);
        c->next_loaded = c->count_register;
        c->next_pending = true;
        if (c->mode == 3 && e % c->loaded < high) {
            /* At the end of this half: as if the new count's high half had just gone by. */
            c->next_at = period_start + high;
            c->next_start = (int64_t)c->next_at - high_ticks(c->next_loaded);
        } else {
            c->next_at = period_start + c->loaded;
            c->next_start = (int64_t)c->next_at;
        }
    } else if (c->gate) {
        load(c, tick);
    } else {
        /* Modes 0 and 4 load and wait; modes 2 and 3 load with the gate. */
        load(c, tick);
        hold(c, tick, c->mode != 0);
    }
    if (c == &pit->counter[0])
        update_irq0(pit, tick);
}

static void write_count(struct i8254 *pit, struct i8254_counter *c, uint8_t value)
{
    if (c->access == ACCESS_LOW) {
        count_written(pit, c, value);
    } else if (c->access == ACCESS_HIGH) {
        count_written(pit, c, (uint16_t)(value << 8));
    } else if (c->write_high) {
        c->write_high = false;
        count_written(pit, c, (uint16_t)(value << 8 | c->write_low));
    } else {
        c->write_high = true;
        c->write_low = value;
        if (c->mode == 0) { /* the first byte stops the count */
            uint64_t tick = ticks_now(pit);
            hold(c, tick, false);
            c->held_elapsed = 0;
            if (c == &pit->counter[0])
                update_irq0(pit, tick);
        }
    }
}

static void latch_count(struct i8254 *pit, struct i8254_counter *c)
{
    if (c->count_latched)
        return;
    c->count_latched = true;
    c->latched_count = count_at(c, ticks_now(pit));
}

static void latch_status(struct i8254 *pit, struct i8254_counter *c)
{
    if (c->status_latched)
        return;
    uint64_t tick = ticks_now(pit);
    c->status_latched = true;
    c->latched_status = (uint8_t)((out_at(c, tick) ? 0x80 : 0) | (null_count(c, tick) ? 0x40 : 0) | c->access << 4 |
                                  c->mode << 1 | (c->bcd ? 1 : 0));
}

static void write_control(struct i8254 *pit, uint8_t value)
{
    if (value >> 6 == 3) { /* read-back command */
        for (unsigned i = 0; i < 3; i++) {
            if (!(value >> (i + 1) & 1))
                continue;
            if (!(value & 0x20))
                latch_count(pit, &pit->counter[i]);
            if (!(value & 0x10))
                latch_status(pit, &pit->counter[i]);
        }
        return;
    }
    struct i8254_counter *c = &pit->counter[value >> 6];
    if (!(value & 0x30)) {
        latch_count(pit, c);
        return;
    }
    unsigned mode = value >> 1 & 7;
    uint64_t tick = ticks_now(pit);
    hold(c, tick, true);
    c->mode = (uint8_t)(mode > 5 ? mode - 4 : mode);
    c->held_out = c->mode != 0;
    c->access = value >> 4 & 3;
    c->bcd = value & 1;
    c->write_high = c->read_high = false;
    c->count_latched = c->status_latched = false;
    c->programmed = false;
    c->held_elapsed = 0;
    if (c == &pit->counter[0])
        update_irq0(pit, tick);
}

static uint8_t read_count(struct i8254 *pit, struct i8254_counter *c)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->latched_status;
    }
    uint16_t value = c->count_latched ? c->latched_count : count_at(c, ticks_now(pit));
    bool high = c->access == ACCESS_HIGH || (c->access == ACCESS_BOTH && c->read_high);
    if (c->access == ACCESS_BOTH)
        c->read_high = !c->read_high;
    if (c->access != ACCESS_BOTH || high)
        c->count_latched = false;
    return (uint8_t)(high ? value >> 8 : value);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8254 *pit = opaque;
    return offset < 3 ? read_count(pit, &pit->counter[offset]) : 0xff;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8254 *pit = opaque;
    if (offset < 3)
        write_count(pit, &pit->counter[offset], (uint8_t)value);
    else
        write_control(pit, (uint8_t)value);
}

static uint64_t port61_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8254 *pit = opaque;
    unsigned refresh = clock_now(pit->clock) / REFRESH_NS & 1;
    return pit->port61 | refresh << 4 | (i8254_output(pit, 2) ? 0x20u : 0);
}

static void port61_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8254 *pit = opaque;
    pit->port61 = value & 0x0f;
    set_gate(pit, 2, value & 1);
}

/* ---- hand-over ---- */

static struct chips_counter give_counter(struct i8254_counter *c, uint64_t tick)
{
    take_over(c, tick);
    struct chips_counter to = {.mode = c->mode,
                               .access = c->access,
                               .bcd = c->bcd,
                               .gate = c->gate,
                               .write_high = c->write_high,
                               .read_high = c->read_high,
                               .write_low = c->write_low,
                               .count_latched = c->count_latched,
                               .status_latched = c->status_latched,
                               .latched_count = c->latched_count,
                               .latched_status = c->latched_status,
                               .count = c->count_register,
                               .programmed = c->programmed,
                               .running = c->running,
                               .loaded = c->loaded};
    if (!c->running)
        return to;
    uint64_t e = elapsed(c, tick), wait = (int64_t)tick < c->start ? (uint64_t)c->start - tick : 0;
    if (!is_periodic(c)) {
        to.left = (uint32_t)(e < c->loaded ? c->loaded - e + wait : 0);
        to.past = e < c->loaded ? 0 : e - c->loaded;
    } else if (c->next_pending) { /* the other side has one period: the new one, once this one has ended */
        uint64_t end = (uint64_t)c->next_start;
        while (end <= tick)
            end += c->next_loaded;
        to.loaded = c->next_loaded;
        to.left = (uint32_t)(end - tick);
    } else {
        to.left = (uint32_t)(c->loaded - e % c->loaded + wait);
    }
    return to;
}

static void take_counter(struct i8254_counter *c, const struct chips_counter *from, uint64_t tick)
{
    uint16_t held = c->held;
    bool held_out = c->held_out;
    uint64_t held_elapsed = c->held_elapsed;
    *c = (struct i8254_counter){.mode = from->mode % 6,
                                .access = from->access,
                                .bcd = from->bcd,
                                .gate = from->gate,
                                .write_high = from->write_high,
                                .read_high = from->read_high,
                                .write_low = from->write_low,
                                .count_latched = from->count_latched,
                                .status_latched = from->status_latched,
                                .latched_count = from->latched_count,
                                .latched_status = from->latched_status,
                                .count_register = from->count ? from->count : 65536,
                                .programmed = from->programmed,
                                .running = from->running};
    if (is_periodic(c) && c->count_register == 1)
        c->count_register = 2;
    c->loaded = c->count_register;
    if (!from->running) {
        c->held = held;
        c->held_out = held_out;
        c->held_elapsed = held_elapsed;
        return;
    }
    c->loaded = from->loaded > 1 || !is_periodic(c) ? from->loaded : 2;
    c->start = (int64_t)(tick + from->left) - c->loaded - (int64_t)from->past;
}

void i8254_give(struct i8254 *pit, struct chips_pit *chips)
{
    uint64_t tick = ticks_now(pit);
    for (unsigned i = 0; i < 3; i++)
        chips->counter[i] = give_counter(&pit->counter[i], tick);
    chips->port61 = pit->port61;
    chips->missed = pit->backlog;
    timer_cancel(&pit->edge);
    pit->backlog = 0;
    pit->held = true;
    irq_set(&pit->irq0, 0);
}

void i8254_take(struct i8254 *pit, const struct chips_pit *chips)
{
    uint64_t tick = ticks_now(pit);
    for (unsigned i = 0; i < 3; i++)
        take_counter(&pit->counter[i], &chips->counter[i], tick);
    pit->port61 = (pit->port61 & 0x0c) | (chips->port61 & 3);
    pit->held = false;
    update_irq0(pit, tick);
    if (!timer_armed(&pit->edge) || !pit->periodic ||
        clock_ticks_to_ns(pit->counter[0].loaded, I8254_HZ) < BACKLOG_PERIOD_NS)
        return;
    pit->backlog = chips->missed < BACKLOG_MAX ? chips->missed : BACKLOG_MAX;
    schedule(pit);
}

void i8254_reset(struct i8254 *pit)
{
    for (unsigned i = 0; i < 3; i++)
        pit->counter[i] = (struct i8254_counter){.mode = 3,
                                                 .access = ACCESS_BOTH,
                                                 .gate = i != 2,
                                                 .count_register = 65536,
                                                 .loaded = 65536,
                                                 .held_out = true};
    pit->port61 = 0;
    pit->backlog = 0;
    timer_cancel(&pit->edge);
    irq_set(&pit->irq0, 0);
}

int i8254_init(struct i8254 *pit, struct bus *ports, struct clock *clock, struct irq_line irq0)
{
    memset(pit, 0, sizeof *pit);
    pit->clock = clock;
    pit->irq0 = irq0;
    timer_init(&pit->edge, clock, on_edge, pit);
    pit->ports = (struct bus_range){"8254", 0x40, 4, 1, 1, port_read, port_write, pit, false};
    pit->port61_range = (struct bus_range){"port 61", 0x61, 1, 1, 1, port61_read, port61_write, pit, false};
    i8254_reset(pit);
    int err = bus_add(ports, &pit->ports);
    if (!err)
        err = bus_add(ports, &pit->port61_range);
    return err;
}
