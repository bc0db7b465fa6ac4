/* SPDX-License-Identifier: MIT */
/* The MC146818 real-time clock and its CMOS memory: 128 bytes behind index port 0x70 (bit 7: NMI off) and data port
 * 0x71. Motorola MC146818A data sheet; PIIX4 data sheet, "Real time clock registers".
 *
 * The time of day is the machine's wall clock (UTC) plus the offset that the guest makes when it sets the clock. Flags
 * of register C that would interrupt nobody are worked out when the guest looks; a timer runs only while an interrupt
 * is enabled and its flag is clear, so a guest that does not serve the interrupt costs nothing.
 * The day of the week is computed, not stored; daylight saving (register B, DSE) is not done, as in the PIIX4.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_MC146818_H
#define RINGFOLD_DEVICES_MC146818_H

#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/irq.h"

enum { MC146818_CENTURY = 0x32 };

struct mc146818 {
    uint8_t ram[128]; /* registers A and B, alarm bytes and memory; time bytes only while the time stands still */
    uint8_t index;
    bool nmi_off;
    uint8_t flags;          /* register C: PF, AF, UF */
    int64_t offset_seconds; /* guest time - the machine's wall clock: seconds, and 0-999999999 ns */
    int64_t offset_ns;
    bool frozen;                         /* SET, or the divider is held in reset */
    uint64_t periodic_seen, second_seen; /* flags are worked out up to this period / this second */
    struct clock *clock;
    struct irq_line irq;
    struct timer timer;
    struct bus_range ports;
};

int mc146818_init(struct mc146818 *rtc, struct bus *ports, struct clock *clock, struct irq_line irq);
/* The RESET pin: interrupts off, flags clear. Time and memory stay. */
void mc146818_reset(struct mc146818 *rtc);
/* For the board: what the set-up program would have stored. Time, registers A-D and out-of-range indexes are refused.
 */
void mc146818_set(struct mc146818 *rtc, unsigned index, uint8_t value);
uint8_t mc146818_get(const struct mc146818 *rtc, unsigned index);
/* True while port 0x70 bit 7 keeps NMIs from the processor. */
static inline bool mc146818_nmi_off(const struct mc146818 *rtc)
{
    return rtc->nmi_off;
}

#endif
