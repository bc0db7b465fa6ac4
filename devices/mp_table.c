/* SPDX-License-Identifier: MIT */
#include "devices/mp_table.h"

#include "devices/ioapic.h"
#include "devices/lapic.h"
#include "devices/piix4.h"

#include <endian.h>
#include <string.h>

/* Specification, chapter 4. */
enum { HEADER_SIZE = 44, HEADER_LENGTH = 4, HEADER_CHECKSUM = 7, HEADER_COUNT = 34 };
enum { ENTRY_PROCESSOR, ENTRY_BUS, ENTRY_IO_APIC, ENTRY_IO_INTERRUPT, ENTRY_LOCAL_INTERRUPT };
enum { INTERRUPT_VECTORED, INTERRUPT_NMI, INTERRUPT_SMI, INTERRUPT_EXTINT };
enum { CONFORMS = 0, LOW_LEVEL = 0xf };
enum { ENABLED = 1, BOOT_PROCESSOR = 2 };
enum { BUS_PCI_0 = 0, BUS_PCI_1 = 1, BUS_ISA = 2 };

static void put16(uint8_t *at, unsigned v)
{
    uint16_t le = htole16((uint16_t)v);
    memcpy(at, &le, sizeof le);
}

static void put32(uint8_t *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

static uint8_t sum_of(const uint8_t *at, unsigned size)
{
    uint8_t sum = 0;
    while (size--)
        sum = (uint8_t)(sum + *at++);
    return sum;
}

/* An entry of 8 bytes, or 20 for a processor, zeroed behind its type. */
static uint8_t *add_entry(struct mp_table *t, unsigned type)
{
    static uint8_t nowhere[20];
    unsigned size = type == ENTRY_PROCESSOR ? 20 : 8;
    if (t->size + size > MP_TABLE_MAX)
        return nowhere;
    uint8_t *at = t->data + t->size, *header = t->data + MP_FLOATING_SIZE;
    t->size += size;
    at[0] = (uint8_t)type;
    put16(header + HEADER_COUNT, header[HEADER_COUNT] + 256u * header[HEADER_COUNT + 1] + 1);
    return at;
}

static void add_interrupt(struct mp_table *t, unsigned entry, unsigned type, unsigned flags, unsigned bus,
                          unsigned source, unsigned to, unsigned pin)
{
    uint8_t *at = add_entry(t, entry);
    at[1] = (uint8_t)type;
    put16(at + 2, flags);
    at[4] = (uint8_t)bus;
    at[5] = (uint8_t)source;
    at[6] = (uint8_t)to;
    at[7] = (uint8_t)pin;
}

static void add_processors(struct mp_table *t, const struct mp_config *config)
{
    for (unsigned i = 0; i < config->cpus && i < 16; i++) {
        uint8_t *at = add_entry(t, ENTRY_PROCESSOR);
        at[1] = (uint8_t)i;
        at[2] = 0x14;
        at[3] = (uint8_t)(ENABLED | (i ? 0 : BOOT_PROCESSOR));
        put32(at + 4, config->signature);
        put32(at + 8, config->features);
    }
}

static void add_buses(struct mp_table *t)
{
    static const char names[][7] = {[BUS_PCI_0] = "PCI   ", [BUS_PCI_1] = "PCI   ", [BUS_ISA] = "ISA   "};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint8_t *at = add_entry(t, ENTRY_BUS);
        at[1] = (uint8_t)i;
        memcpy(at + 2, names[i], 6);
    }
}

static void add_interrupts(struct mp_table *t, unsigned io)
{
    /* ExtINT at pin 0 is left out: nobody has set it up there, and virtual wire mode goes by LINT0. */
    for (unsigned irq = 0; irq < 16; irq++)
        if (irq != 2)
            add_interrupt(t, ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, irq == PIIX4_SCI_IRQ ? LOW_LEVEL : CONFORMS,
                          BUS_ISA, irq, io, irq ? irq : 2);
    for (unsigned device = 1; device < PCI_DEVICE_COUNT; device++)
        for (unsigned pin = 1; pin <= 4; pin++)
            add_interrupt(t, ENTRY_IO_INTERRUPT, INTERRUPT_VECTORED, LOW_LEVEL, BUS_PCI_0, device << 2 | (pin - 1), io,
                          IOAPIC_PIRQ_PIN + pci_pirq_of(device, pin));
    add_interrupt(t, ENTRY_LOCAL_INTERRUPT, INTERRUPT_EXTINT, CONFORMS, BUS_ISA, 0, 0, 0);
    add_interrupt(t, ENTRY_LOCAL_INTERRUPT, INTERRUPT_NMI, CONFORMS, BUS_ISA, 0, APIC_BROADCAST, 1);
}

void mp_table_build(struct mp_table *t, const struct mp_config *config)
{
    memset(t, 0, sizeof *t);
    memcpy(t->data, "_MP_", 4);
    put32(t->data + MP_FLOATING_POINTER, MP_FLOATING_SIZE);
    t->data[8] = MP_FLOATING_SIZE / 16;
    t->data[9] = 4; /* version 1.4 */

    uint8_t *header = t->data + MP_FLOATING_SIZE;
    memcpy(header, "PCMP", 4);
    header[6] = 4;
    memcpy(header + 8, "RINGFOLD440BX       ", 20);
    put32(header + 36, LAPIC_DEFAULT_BASE);
    t->size = MP_FLOATING_SIZE + HEADER_SIZE;
    add_processors(t, config);
    add_buses(t);
    uint8_t *io = add_entry(t, ENTRY_IO_APIC);
    io[1] = (uint8_t)config->cpus;
    io[2] = 0x11;
    io[3] = ENABLED;
    put32(io + 4, IOAPIC_BASE);
    add_interrupts(t, config->cpus);
    put16(header + HEADER_LENGTH, t->size - MP_FLOATING_SIZE);
    header[HEADER_CHECKSUM] = (uint8_t)-sum_of(header, t->size - MP_FLOATING_SIZE);
}

void mp_table_place(struct mp_table *t, uint32_t address)
{
    put32(t->data + MP_FLOATING_POINTER, address + MP_FLOATING_SIZE);
    t->data[MP_FLOATING_CHECKSUM] = 0;
    t->data[MP_FLOATING_CHECKSUM] = (uint8_t)-sum_of(t->data, MP_FLOATING_SIZE);
}
