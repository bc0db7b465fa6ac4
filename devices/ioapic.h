/* SPDX-License-Identifier: MIT */
/* Intel 82093AA I/O APIC (data sheet 290566): 24 pins at 0xfec00000, with eight-bit physical destinations as xAPIC
 * software writes them.
 *
 * Lines carry "asserted or not" as everywhere on this board. The pins are wired as on real boards: 16-23 and the SCI
 * pin are low when asserted, the others high, and an entry with the wrong polarity sees the line upside down.
 *
 * A masked edge is lost. A level-triggered pin sets Remote IRR when a local APIC takes it and is looked at again at the
 * EOI. Registers are selected by index and reached through the window; other addresses of the page give zeros.
 *
 * The address is fixed: the PIIX4's chip select for it (XBCS bit 8, APICBASE) is not wired.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_IOAPIC_H
#define RINGFOLD_DEVICES_IOAPIC_H

#include "cpu/chips.h"
#include "devices/apic_bus.h"
#include "devices/bus.h"
#include "devices/irq.h"

enum { IOAPIC_PINS = 24, IOAPIC_PIRQ_PIN = 16, IOAPIC_SIZE = 4096 };
#define IOAPIC_BASE 0xfec00000u

enum {
    IOAPIC_INDEX = 0x00, /* offsets in the page */
    IOAPIC_WINDOW = 0x10,
    IOAPIC_ID = 0, /* indexed registers */
    IOAPIC_VERSION = 1,
    IOAPIC_ARBITRATION = 2,
    IOAPIC_REDIRECTION = 0x10 /* two per pin, low half first */
};
enum {
    IOAPIC_LOGICAL = 1 << 11,
    IOAPIC_SENDING = 1 << 12,
    IOAPIC_ACTIVE_LOW = 1 << 13,
    IOAPIC_REMOTE_IRR = 1 << 14,
    IOAPIC_LEVEL = 1 << 15,
    IOAPIC_MASKED = 1 << 16
};

struct ioapic {
    struct apic_bus *apic_bus;
    struct bus_range range;
    uint8_t index, id, arbitration;
    uint32_t asserted;  /* levels of the lines */
    uint32_t wired_low; /* pins that are electrically low when asserted */
    uint64_t redirection[IOAPIC_PINS];
    bool held; /* somebody else does the work: pins only go to held_pins, n: the pin */
    struct irq_line held_pins;
};
_Static_assert((int)IOAPIC_PINS == (int)CHIPS_IOAPIC_PINS, "the same chip");

/* sci_pin: the pin with PIIX4's IRQ9OUT#. Adds it to both buses. 0 or -errno. */
int ioapic_init(struct ioapic *io, struct bus *memory_bus, struct apic_bus *apic_bus, unsigned sci_pin);
void ioapic_reset(struct ioapic *io);
/* The line of pin 0-23; one driver each. */
struct irq_line ioapic_input(struct ioapic *io, unsigned pin);

/* Hand-over of the chip's work, as for the 8259s (devices/i8259.h). Pin 0 is theirs and goes to nobody. */
void ioapic_give(struct ioapic *io, struct chips_ioapic *chips);
void ioapic_forward(struct ioapic *io, struct irq_line pins);
void ioapic_take(struct ioapic *io, const struct chips_ioapic *chips);

#endif
