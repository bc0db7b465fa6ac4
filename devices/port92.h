/* SPDX-License-Identifier: MIT */
/* System control port A (0x92): fast A20 gate (bit 1) and fast reset (bit 0). PIIX4 data sheet, "Port 92".
 *
 * Two sources move the one A20 gate, this port and the keyboard controller: whoever wrote last wins, which is what
 * software written for either expects. The keyboard controller's A20 output is therefore wired through
 * port92_keyboard_a20, and bit 1 reads as the gate is.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_PORT92_H
#define RINGFOLD_DEVICES_PORT92_H

#include "devices/bus.h"
#include "devices/irq.h"

struct port92 {
    uint8_t value;
    struct irq_line a20, reset;
    struct bus_range port;
};

/* a20: level 1 lets address line 20 through. reset: pulsed 1, 0. */
int port92_init(struct port92 *p, struct bus *ports, struct irq_line a20, struct irq_line reset);
/* A20 is on after a reset, as firmware needs it to fetch its first instruction. */
void port92_reset(struct port92 *p);
struct irq_line port92_keyboard_a20(struct port92 *p);

#endif
