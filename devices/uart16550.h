/* SPDX-License-Identifier: MIT */
/* A 16550A UART on a character back end. National PC16550D data sheet.
 *
 * Bytes are sent at once, whatever the divisor says: the transmitter is always empty again when the guest looks, and
 * its interrupt falls and rises with each byte. Input is taken only while the guest takes part (RTS is up, the receive
 * interrupt is enabled, or it polls the line status), so that nothing typed early is lost when a driver clears the
 * FIFO. The divisor only sets how long the FIFO waits before its time-out interrupt. As on a PC, OUT2 connects the
 * interrupt to the bus.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_UART16550_H
#define RINGFOLD_DEVICES_UART16550_H

#include "devices/bus.h"
#include "devices/chardev.h"
#include "devices/clock.h"
#include "devices/irq.h"

enum { UART16550_FIFO = 16 };

struct uart16550 {
    uint8_t ier, fcr, lcr, mcr, lsr, msr, scratch;
    uint16_t divisor;
    uint8_t fifo[UART16550_FIFO];
    uint8_t fifo_errors[UART16550_FIFO]; /* LSR bits that arrived with the byte */
    unsigned head, count;
    bool thre_pending, timeout_pending;
    unsigned status_polls; /* reads of LSR with nothing in between */
    struct chardev *chardev;
    struct clock *clock;
    struct irq_line irq;
    struct timer timeout;
    struct bus_range ports;
};

/* base: 0x3f8 ... chardev: NULL when nothing is plugged in; its chip side is filled in. 0 or -errno. */
int uart16550_init(struct uart16550 *uart, struct bus *ports, uint16_t base, struct clock *clock, struct irq_line irq,
                   struct chardev *chardev);
void uart16550_reset(struct uart16550 *uart);
/* The other side holds the line low for longer than a character. */
void uart16550_receive_break(struct uart16550 *uart);

#endif
