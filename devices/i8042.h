/* SPDX-License-Identifier: MIT */
/* The 8042 keyboard controller with its auxiliary (mouse) port: data at port 0x60, status and commands at 0x64, IRQ1
 * and IRQ12, the A20 gate and the processor's reset. IBM PS/2 technical reference, "Keyboard and auxiliary device
 * controller".
 *
 * A byte that was read stays readable for 0.7 ms, the time a byte takes on the wire, before the next one of a device
 * follows: handlers that chain to the BIOS read the same scan code twice. The controller's own answers come first, then
 * the keyboard's, then the mouse's bytes.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_I8042_H
#define RINGFOLD_DEVICES_I8042_H

#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/irq.h"
#include "devices/ps2.h"

struct i8042 {
    struct ps2_keyboard keyboard;
    struct ps2_mouse mouse;
    uint8_t ram[32]; /* ram[0] is the command byte */
    uint8_t status;
    uint8_t output; /* the output buffer */
    uint8_t output_port;
    uint8_t pending;    /* command that waits for its data byte, or 0 */
    bool delivering;    /* a device says that it has data while a byte of it is being taken */
    bool break_seen;    /* translation: the prefix 0xf0 came */
    uint64_t next_byte; /* no byte of a device before */
    struct clock *clock;
    struct irq_line irq1, irq12, a20, reset;
    struct timer deliver;
    struct bus_range data_port, command_port;
};

/* a20: level 1 lets address line 20 through. reset: pulsed 1, 0. */
int i8042_init(struct i8042 *kbc, struct bus *ports, struct clock *clock, struct irq_line irq1, struct irq_line irq12,
               struct irq_line a20, struct irq_line reset);
void i8042_reset(struct i8042 *kbc);
/* The host's input goes to i8042.keyboard and i8042.mouse by ps2_keyboard_key and ps2_mouse_move. */

#endif
