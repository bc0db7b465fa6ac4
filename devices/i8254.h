/* SPDX-License-Identifier: MIT */
/* The 8254 programmable interval timer at ports 0x40-0x43 and the system control port 0x61 (gate and output of
 * counter 2, speaker, refresh toggle). Intel 8254 data sheet (order 231164); PIIX4 data sheet, "Counter/timer" and
 * "NMI status and control".
 *
 * Nothing counts: a counter's value and output are computed from the clock, exactly, whenever somebody looks. The only
 * event is the next rising edge of OUT0. In the periodic modes OUT0's line is shown high for the whole period, pulsed
 * low at its end, so that there is one event per period and a slow guest's request does not evaporate half-way.
 * When the host was late, the periods missed are made up at twice the rate, up to a bound; the counters never drift.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_I8254_H
#define RINGFOLD_DEVICES_I8254_H

#include "cpu/chips.h"
#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/irq.h"

#define I8254_HZ CHIPS_PIT_HZ

struct i8254_counter {
    uint8_t mode;   /* 0-5 */
    uint8_t access; /* control word RW bits: 1 low byte, 2 high byte, 3 low then high */
    bool bcd;
    bool gate;
    bool write_high, read_high; /* the next byte of a two-byte access is the high one */
    uint8_t write_low;
    uint32_t count_register; /* as the guest wrote it, 1..65536 */
    bool programmed;         /* a count was written since the control word */
    /* The running count: loaded with `loaded` at tick `start` (which may be one tick ahead: the load pulse). */
    bool running; /* false: not triggered, or stopped by gate or a half-written count; then `held` is the count */
    uint32_t loaded;
    int64_t start;
    uint64_t held_elapsed; /* ticks counted before a gate pause (modes 0, 4) */
    uint16_t held;
    bool held_out;
    /* Modes 2 and 3: a new count takes over at a tick. */
    bool next_pending;
    uint32_t next_loaded;
    int64_t next_start;
    uint64_t next_at;
    /* Latches */
    bool count_latched, status_latched;
    uint16_t latched_count;
    uint8_t latched_status;
};

struct i8254 {
    struct i8254_counter counter[3];
    uint8_t port61; /* bits 3-0 */
    struct clock *clock;
    struct irq_line irq0;
    struct timer edge;
    bool periodic;
    uint64_t edge_tick; /* the next rising edge of OUT0 */
    unsigned backlog;   /* edges missed and still to be made up */
    bool held;          /* somebody else does the work: there are no events */
    /* Is the edge before still waiting for the processor? Set by the board after init; NULL: never. */
    bool (*irq0_waiting)(void *opaque);
    void *irq0_waiting_opaque;
    struct bus_range ports, port61_range;
};

int i8254_init(struct i8254 *pit, struct bus *ports, struct clock *clock, struct irq_line irq0);
void i8254_reset(struct i8254 *pit);
/* Hand-over of the chip's work (cpu/chips.h). give: the state; irq0 falls. take: to work again from that state; irq0
 * shows OUT0. */
void i8254_give(struct i8254 *pit, struct chips_pit *chips);
void i8254_take(struct i8254 *pit, const struct chips_pit *chips);
/* Output level of counter 0-2 now; counter 2's with port 0x61 bit 1 drives the speaker. */
bool i8254_output(struct i8254 *pit, unsigned n);

#endif
