/* SPDX-License-Identifier: MIT */
/* What local APICs and I/O APICs tell each other: interrupt messages and ends of level-triggered interrupts. SDM vol.
 * 3, chapter 10, "Local APIC and I/O APIC interactions"; xAPIC, so physical destinations have eight bits.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_APIC_BUS_H
#define RINGFOLD_DEVICES_APIC_BUS_H

#include <stdbool.h>
#include <stdint.h>

enum { APIC_BUS_MAX_LOCAL = 64, APIC_BUS_MAX_IO = 4, APIC_BROADCAST = 0xff };

enum apic_delivery {
    APIC_FIXED,
    APIC_LOWEST_PRIORITY,
    APIC_SMI,
    APIC_RESERVED_3,
    APIC_NMI,
    APIC_INIT,
    APIC_STARTUP, /* reserved in I/O APICs */
    APIC_EXTINT   /* reserved in the ICR */
};

struct apic_message {
    uint8_t vector;
    uint8_t destination;
    bool logical; /* destination: logical, else physical */
    bool level;   /* trigger mode */
    enum apic_delivery delivery;
};

struct lapic;

struct apic_bus {
    struct lapic *local[APIC_BUS_MAX_LOCAL];
    unsigned local_count;
    struct {
        void (*end_of_interrupt)(void *opaque, uint8_t vector);
        void *opaque;
    } io[APIC_BUS_MAX_IO];
    unsigned io_count;
    unsigned next_lowest; /* lowest priority: where the search for the least busy one starts */
};

/* 0 or -ENOSPC. The APICs stay the caller's. */
int apic_bus_add_local(struct apic_bus *bus, struct lapic *lapic);
int apic_bus_add_io(struct apic_bus *bus, void (*end_of_interrupt)(void *opaque, uint8_t vector), void *opaque);
/* Sends to the local APICs that the destination names, but not to except (may be NULL). True: somebody took it. */
bool apic_bus_send(struct apic_bus *bus, const struct apic_message *message, const struct lapic *except);
/* A level-triggered interrupt has been serviced: told to the I/O APICs. */
void apic_bus_end_of_interrupt(struct apic_bus *bus, uint8_t vector);

#endif
