/* SPDX-License-Identifier: MIT */
#include "devices/ioapic.h"

#include "devices/log.h"

#include <string.h>

enum { VERSION = 0x11 | (IOAPIC_PINS - 1) << 16 };
#define WRITABLE_LOW 0x0001afffu
#define WRITABLE_HIGH 0xff000000u

static unsigned delivery_of(uint64_t entry)
{
    return entry >> 8 & 7;
}

/* Only these two know levels; the others are sent once for each edge, whatever the trigger bit says. */
static bool level_triggered(uint64_t entry)
{
    return (entry & IOAPIC_LEVEL) && delivery_of(entry) <= APIC_LOWEST_PRIORITY;
}

/* What the entry makes of the pin. */
static bool active(const struct ioapic *io, unsigned pin)
{
    bool low = io->asserted >> pin & 1 ? io->wired_low >> pin & 1 : !(io->wired_low >> pin & 1);
    return low == !!(io->redirection[pin] & IOAPIC_ACTIVE_LOW);
}

static bool send(struct ioapic *io, unsigned pin)
{
    uint64_t entry = io->redirection[pin];
    struct apic_message message = {
        .vector = (uint8_t)entry,
        .destination = (uint8_t)(entry >> 56),
        .logical = entry & IOAPIC_LOGICAL,
        .level = level_triggered(entry),
        .delivery = delivery_of(entry),
    };
    if (message.delivery == APIC_RESERVED_3 || message.delivery == APIC_STARTUP) {
        log_msg(LOG_GUEST_ERROR, "ioapic: pin %u has delivery mode %u", pin, message.delivery);
        return false;
    }
    return apic_bus_send(io->apic_bus, &message, NULL);
}

/* A level that nobody has taken yet. */
static void service_level(struct ioapic *io, unsigned pin)
{
    uint64_t entry = io->redirection[pin];
    if ((entry & (IOAPIC_MASKED | IOAPIC_REMOTE_IRR)) || !level_triggered(entry) || !active(io, pin))
        return;
    /* Before sending: who takes it may end it at once. */
    io->redirection[pin] |= IOAPIC_REMOTE_IRR;
    if (!send(io, pin))
        io->redirection[pin] &= ~(uint64_t)IOAPIC_REMOTE_IRR;
}

static void on_pin(void *opaque, int n, int level)
{
    struct ioapic *io = opaque;
    unsigned pin = (unsigned)n % IOAPIC_PINS;
    uint32_t bit = 1u << pin;
    if (!(io->asserted & bit) == !level)
        return;
    io->asserted ^= bit;
    if (io->held) {
        if (pin && io->held_pins.set)
            io->held_pins.set(io->held_pins.opaque, (int)pin, level != 0);
        return;
    }
    uint64_t entry = io->redirection[pin];
    if (level_triggered(entry))
        service_level(io, pin);
    else if (!(entry & IOAPIC_MASKED) && active(io, pin))
        send(io, pin);
}

struct irq_line ioapic_input(struct ioapic *io, unsigned pin)
{
    return (struct irq_line){on_pin, io, (int)(pin % IOAPIC_PINS)};
}

static void end_of_interrupt(void *opaque, uint8_t vector)
{
    struct ioapic *io = opaque;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t entry = io->redirection[pin];
        if ((uint8_t)entry != vector || !(entry & IOAPIC_REMOTE_IRR))
            continue;
        io->redirection[pin] &= ~(uint64_t)IOAPIC_REMOTE_IRR;
        service_level(io, pin);
    }
}

/* ---- registers ---- */

static uint32_t register_read(const struct ioapic *io)
{
    unsigned pin = (io->index - IOAPIC_REDIRECTION) >> 1;
    if (io->index >= IOAPIC_REDIRECTION && pin < IOAPIC_PINS)
        return (uint32_t)(io->redirection[pin] >> (io->index & 1 ? 32 : 0));
    switch (io->index) {
    case IOAPIC_ID:
        return (uint32_t)io->id << 24;
    case IOAPIC_VERSION:
        return VERSION;
    case IOAPIC_ARBITRATION:
        return (uint32_t)io->arbitration << 24;
    }
    log_msg(LOG_GUEST_ERROR, "ioapic: read of reserved register 0x%02x", io->index);
    return 0;
}

static void write_redirection(struct ioapic *io, unsigned pin, bool high, uint32_t value)
{
    uint64_t *entry = &io->redirection[pin];
    if (high) {
        *entry = (uint32_t)*entry | (uint64_t)(value & WRITABLE_HIGH) << 32;
        return;
    }
    *entry = (*entry & ~(uint64_t)WRITABLE_LOW) | (value & WRITABLE_LOW);
    /* An edge-triggered entry has no Remote IRR; kernels clear a stuck one by switching to edge and back. */
    if (!(value & IOAPIC_LEVEL))
        *entry &= ~(uint64_t)IOAPIC_REMOTE_IRR;
    service_level(io, pin);
}

static void register_write(struct ioapic *io, uint32_t value)
{
    unsigned pin = (io->index - IOAPIC_REDIRECTION) >> 1;
    if (io->index >= IOAPIC_REDIRECTION && pin < IOAPIC_PINS)
        write_redirection(io, pin, io->index & 1, value);
    else if (io->index == IOAPIC_ID)
        io->id = io->arbitration = value >> 24 & 0xf; /* the arbitration id is loaded with it */
    else
        log_msg(LOG_GUEST_ERROR, "ioapic: write of 0x%x to register 0x%02x", value, io->index);
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ioapic *io = opaque;
    if (offset == IOAPIC_INDEX)
        return io->index;
    return offset == IOAPIC_WINDOW ? register_read(io) : 0;
}

static void page_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *io = opaque;
    if (offset == IOAPIC_INDEX)
        io->index = (uint8_t)value;
    else if (offset == IOAPIC_WINDOW)
        register_write(io, (uint32_t)value);
    else
        log_msg(LOG_GUEST_ERROR, "ioapic: write at 0x%llx", (unsigned long long)offset);
}

/* ---- hand-over ---- */

void ioapic_give(struct ioapic *io, struct chips_ioapic *chips)
{
    *chips = (struct chips_ioapic){.index = io->index, .id = io->id, .lines = io->asserted & ~1u};
    memcpy(chips->redirection, io->redirection, sizeof chips->redirection);
    io->asserted &= ~1u; /* the 8259s are given away too */
    io->held_pins = (struct irq_line){0};
    io->held = true;
}

void ioapic_forward(struct ioapic *io, struct irq_line pins)
{
    io->held_pins = pins;
}

/* Who had the chip knew all levels but that of pin 0, which is the 8259s' business: a level that waits is sent now. */
void ioapic_take(struct ioapic *io, const struct chips_ioapic *chips)
{
    io->index = chips->index;
    io->id = io->arbitration = chips->id & 0xf;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->redirection[pin] = chips->redirection[pin] & ~(uint64_t)IOAPIC_SENDING;
    io->held = false;
    io->held_pins = (struct irq_line){0};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        service_level(io, pin);
}

void ioapic_reset(struct ioapic *io)
{
    io->index = io->id = io->arbitration = 0;
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        io->redirection[pin] = IOAPIC_MASKED;
}

int ioapic_init(struct ioapic *io, struct bus *memory_bus, struct apic_bus *apic_bus, unsigned sci_pin)
{
    memset(io, 0, sizeof *io);
    io->apic_bus = apic_bus;
    io->wired_low = 0xffu << IOAPIC_PIRQ_PIN | 1u << sci_pin % IOAPIC_PINS;
    /* Narrow accesses reach the whole register, as the chip has no byte lanes. */
    io->range = (struct bus_range){
        .name = "ioapic",
        .base = IOAPIC_BASE,
        .size = IOAPIC_SIZE,
        .max_access = 4,
        .min_access = 4,
        .read = page_read,
        .write = page_write,
        .opaque = io,
    };
    ioapic_reset(io);
    int r = apic_bus_add_io(apic_bus, end_of_interrupt, io);
    return r ? r : bus_add(memory_bus, &io->range);
}
