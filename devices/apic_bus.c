/* SPDX-License-Identifier: MIT */
#include "devices/apic_bus.h"

#include "devices/lapic.h"

#include <errno.h>
#include <stddef.h>

int apic_bus_add_local(struct apic_bus *bus, struct lapic *lapic)
{
    if (bus->local_count == APIC_BUS_MAX_LOCAL)
        return -ENOSPC;
    bus->local[bus->local_count++] = lapic;
    return 0;
}

int apic_bus_add_io(struct apic_bus *bus, void (*end_of_interrupt)(void *opaque, uint8_t vector), void *opaque)
{
    if (bus->io_count == APIC_BUS_MAX_IO)
        return -ENOSPC;
    bus->io[bus->io_count].end_of_interrupt = end_of_interrupt;
    bus->io[bus->io_count++].opaque = opaque;
    return 0;
}

/* The least busy of those addressed; among equals each in turn. */
static bool send_lowest(struct apic_bus *bus, const struct apic_message *message, const struct lapic *except)
{
    struct lapic *best = NULL;
    for (unsigned i = 0; i < bus->local_count; i++) {
        struct lapic *l = bus->local[(bus->next_lowest + i) % bus->local_count];
        if (l == except || !lapic_enabled(l) || !lapic_addressed(l, message))
            continue;
        if (!best || lapic_processor_priority(l) < lapic_processor_priority(best))
            best = l;
    }
    if (!best)
        return false;
    for (unsigned i = 0; i < bus->local_count; i++)
        if (bus->local[i] == best)
            bus->next_lowest = i + 1;
    return lapic_accept(best, message);
}

bool apic_bus_send(struct apic_bus *bus, const struct apic_message *message, const struct lapic *except)
{
    if (message->delivery == APIC_LOWEST_PRIORITY)
        return send_lowest(bus, message, except);
    bool taken = false;
    for (unsigned i = 0; i < bus->local_count; i++)
        if (bus->local[i] != except && lapic_addressed(bus->local[i], message))
            taken |= lapic_accept(bus->local[i], message);
    return taken;
}

void apic_bus_end_of_interrupt(struct apic_bus *bus, uint8_t vector)
{
    for (unsigned i = 0; i < bus->io_count; i++)
        bus->io[i].end_of_interrupt(bus->io[i].opaque, vector);
}
