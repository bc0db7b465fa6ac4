/* SPDX-License-Identifier: MIT */
#include "devices/pci.h"

#include "devices/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CONFIG_ADDRESS_PORT = 0xcf8, CONFIG_DATA_PORT = 0xcfc };
#define CONFIG_ADDRESS_ENABLE 0x80000000u
#define CONFIG_ADDRESS_BITS 0x80fffffcu

struct pci_bus {
    struct bus *ports, *memory_bus;
    struct memory *memory;
    struct irq_line pirq[PCI_PIRQ_COUNT];
    unsigned pirq_pins[PCI_PIRQ_COUNT]; /* how many pins pull each line */
    struct pci_function *functions[PCI_DEVICE_COUNT][PCI_FUNCTION_COUNT];
    uint32_t config_address;
    struct bus_range address_range, data_range;
    uint8_t (*passed_read)(void *opaque, unsigned offset);
    void (*passed_write)(void *opaque, unsigned offset, uint8_t value);
    void *passed_opaque;
};

/* ---- a function's header ---- */

void pci_function_init(struct pci_function *f, const char *name, uint16_t vendor_id, uint16_t device_id,
                       uint32_t class_code, uint8_t revision)
{
    memset(f, 0, sizeof *f);
    f->name = name;
    pci_put16(f->config, PCI_VENDOR_ID, vendor_id);
    pci_put16(f->config, PCI_DEVICE_ID, device_id);
    f->config[PCI_REVISION_ID] = revision;
    f->config[PCI_CLASS_CODE] = (uint8_t)class_code;
    f->config[PCI_CLASS_CODE + 1] = (uint8_t)(class_code >> 8);
    f->config[PCI_CLASS_CODE + 2] = (uint8_t)(class_code >> 16);
    f->write_mask[PCI_COMMAND] = PCI_COMMAND_MASTER;
    f->write_mask[PCI_CACHE_LINE_SIZE] = 0xff;
    f->write_mask[PCI_LATENCY_TIMER] = 0xff;
    f->write_mask[PCI_INTERRUPT_LINE] = 0xff;
    f->next_capability = 0x40;
}

void pci_set_subsystem(struct pci_function *f, uint16_t vendor_id, uint16_t id)
{
    pci_put16(f->config, PCI_SUBSYSTEM_VENDOR_ID, vendor_id);
    pci_put16(f->config, PCI_SUBSYSTEM_ID, id);
}

void pci_set_interrupt_pin(struct pci_function *f, unsigned pin)
{
    f->config[PCI_INTERRUPT_PIN] = (uint8_t)(pin <= 4 ? pin : 0);
}

static unsigned region_register(unsigned index)
{
    return index == PCI_REGION_ROM ? PCI_ROM_ADDRESS : PCI_BASE_ADDRESS + index * 4;
}

static struct pci_region *region_init(struct pci_function *f, unsigned index, enum pci_region_kind kind, uint64_t size)
{
    struct pci_region *r = &f->regions[index % PCI_REGION_COUNT];
    r->kind = kind;
    r->size = size;
    unsigned reg = region_register(index);
    uint32_t fixed = kind == PCI_REGION_IO ? 1 : kind == PCI_REGION_PREFETCH ? 8 : 0;
    uint32_t mask = ~(uint32_t)(size - 1);
    if (index == PCI_REGION_ROM) {
        fixed = 0;
        mask |= 1; /* decoder enable */
    }
    pci_put32(f->config, reg, fixed);
    pci_put32(f->write_mask, reg, mask);
    f->write_mask[PCI_COMMAND] |= kind == PCI_REGION_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    return r;
}

void pci_region_handlers(struct pci_function *f, unsigned index, enum pci_region_kind kind,
                         const struct bus_range *range)
{
    struct pci_region *r = region_init(f, index, kind, range->size);
    r->range = *range;
    r->range.mapped = false;
    if (!r->range.name)
        r->range.name = f->name;
}

void pci_region_host(struct pci_function *f, unsigned index, enum pci_region_kind kind, uint8_t *host, uint64_t size)
{
    region_init(f, index, kind, size)->host = host;
}

int pci_region_rom(struct pci_function *f, const void *image, size_t size)
{
    uint64_t rounded = PAGE_SIZE;
    while (rounded < size)
        rounded <<= 1;
    uint8_t *copy = aligned_alloc(PAGE_SIZE, rounded);
    if (!copy)
        return -ENOMEM;
    memset(copy, 0xff, rounded);
    memcpy(copy, image, size);
    struct pci_region *r = region_init(f, PCI_REGION_ROM, PCI_REGION_MEMORY, rounded);
    free(r->host);
    r->host = copy;
    r->host_readonly = true;
    return 0;
}

unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned size)
{
    unsigned at = f->next_capability;
    if (size < 2 || at + size > PCI_CONFIG_SIZE)
        return 0;
    f->next_capability = (at + size + 3) & ~3u;
    f->config[at] = id;
    f->config[at + 1] = f->config[PCI_CAPABILITY_POINTER]; /* the newest comes first */
    f->config[PCI_CAPABILITY_POINTER] = (uint8_t)at;
    f->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
    return at;
}

/* ---- regions ---- */

/* Where the guest wants the region, or 0 when its decoder is off. Address 0 is "not assigned"
 * (specification 2.2, 6.2.5.1 leaves it to the software; PC firmware and systems treat it so). */
static uint64_t region_wanted(const struct pci_function *f, unsigned index)
{
    const struct pci_region *r = &f->regions[index];
    if (r->kind == PCI_REGION_NONE)
        return 0;
    uint32_t reg = pci_get32(f, region_register(index));
    if (!(f->config[PCI_COMMAND] & (r->kind == PCI_REGION_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
        return 0;
    if (index == PCI_REGION_ROM && !(reg & 1))
        return 0;
    return reg & ~(uint32_t)(r->size - 1);
}

/* Host memory may only appear where nothing is: RAM (also where a PAM or SMRAM register hides it at the moment),
 * firmware and other regions win, as the chip set's own decoding does. */
static bool host_place_free(struct pci_bus *bus, uint64_t base, uint64_t size)
{
    for (uint64_t at = base; at < base + size; at += PAGE_SIZE) {
        if (at >> PAGE_SHIFT >= bus->memory->page_count || memory_ram_hva(bus->memory, gpa(at)))
            return false;
        struct memory_page page = memory_page(bus->memory, at >> PAGE_SHIFT);
        if (page.read || page.write)
            return false;
    }
    return true;
}

static void region_unmap(struct pci_function *f, unsigned index)
{
    struct pci_region *r = &f->regions[index];
    if (!r->mapped)
        return;
    if (r->host)
        memory_unmap(f->bus->memory, gpa(r->base), r->size);
    else
        bus_remove(r->kind == PCI_REGION_IO ? f->bus->ports : f->bus->memory_bus, &r->range);
    r->mapped = false;
    if (f->region_changed)
        f->region_changed(f->opaque, index);
}

static void region_map(struct pci_function *f, unsigned index, uint64_t base)
{
    struct pci_region *r = &f->regions[index];
    struct pci_bus *bus = f->bus;
    if (r->host) {
        if (!bus->memory || !host_place_free(bus, base, r->size) ||
            memory_map(bus->memory, gpa(base), r->size, r->host, r->host_readonly ? NULL : r->host))
            return;
    } else {
        bool io = r->kind == PCI_REGION_IO;
        if (io && base + r->size > 0x10000)
            return;
        r->range.base = base;
        if (bus_add(io ? bus->ports : bus->memory_bus, &r->range))
            return;
    }
    r->base = base;
    r->mapped = true;
    if (f->region_changed)
        f->region_changed(f->opaque, index);
}

/* Brings all regions of all functions to where they should be: first everything that moved goes away, then whatever can
 * appear does. So a region that found its place taken comes up as soon as the place is free. */
static void update_all(struct pci_bus *bus)
{
    for (int map = 0; map < 2; map++)
        for (unsigned slot = 0; slot < PCI_DEVICE_COUNT * PCI_FUNCTION_COUNT; slot++) {
            struct pci_function *f = bus->functions[slot / PCI_FUNCTION_COUNT][slot % PCI_FUNCTION_COUNT];
            for (unsigned i = 0; f && i < PCI_REGION_COUNT; i++) {
                uint64_t wanted = region_wanted(f, i);
                if (!map && f->regions[i].mapped && f->regions[i].base != wanted)
                    region_unmap(f, i);
                else if (map && wanted && !f->regions[i].mapped)
                    region_map(f, i, wanted);
            }
        }
}

void pci_update_regions(struct pci_function *f)
{
    if (f->bus)
        update_all(f->bus);
}

/* ---- interrupts ---- */

unsigned pci_pirq_of(unsigned device, unsigned pin)
{
    return (device + pin - 1) & (PCI_PIRQ_COUNT - 1);
}

static void drive_pirq(struct pci_function *f, int level)
{
    unsigned pin = f->config[PCI_INTERRUPT_PIN];
    if (!f->bus || !pin || f->interrupt_level == level)
        return;
    f->interrupt_level = level;
    unsigned n = pci_pirq_of(f->device, pin);
    f->bus->pirq_pins[n] += level ? 1u : -1u;
    irq_set(&f->bus->pirq[n], f->bus->pirq_pins[n] != 0);
}

void pci_set_interrupt(struct pci_function *f, int level)
{
    if (level)
        f->config[PCI_STATUS] |= PCI_STATUS_INTERRUPT;
    else
        f->config[PCI_STATUS] &= (uint8_t)~PCI_STATUS_INTERRUPT;
    bool disabled = pci_get16(f, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
    drive_pirq(f, level && !disabled);
}

/* ---- configuration accesses ---- */

struct pci_function *pci_find(struct pci_bus *bus, unsigned device, unsigned function)
{
    return device < PCI_DEVICE_COUNT && function < PCI_FUNCTION_COUNT ? bus->functions[device][function] : NULL;
}

static bool touches(unsigned reg, unsigned size, unsigned first, unsigned count)
{
    return reg < first + count && first < reg + size;
}

uint32_t pci_config_read(struct pci_bus *bus, unsigned bus_number, unsigned device, unsigned function, unsigned reg,
                         unsigned size)
{
    struct pci_function *f = bus_number == 0 ? pci_find(bus, device, function) : NULL;
    uint32_t ones = size >= 4 ? 0xffffffffu : (1u << size * 8) - 1;
    if (!f || size > 4 || reg + size > PCI_CONFIG_SIZE)
        return ones;
    if (f->config_reading)
        f->config_reading(f->opaque, reg, size);
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)f->config[reg + i] << i * 8;
    return value;
}

void pci_config_write(struct pci_bus *bus, unsigned bus_number, unsigned device, unsigned function, unsigned reg,
                      uint32_t value, unsigned size)
{
    struct pci_function *f = bus_number == 0 ? pci_find(bus, device, function) : NULL;
    if (!f || size > 4 || reg + size > PCI_CONFIG_SIZE)
        return;
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> i * 8), *at = &f->config[reg + i];
        /* 0xff means "not connected or unknown". Firmware that does not know this board's routing writes it; the value
         * that the board has preset is right, and stays. */
        if (reg + i == PCI_INTERRUPT_LINE && byte == 0xff)
            continue;
        uint8_t mask = f->write_mask[reg + i];
        *at = (uint8_t)((*at & ~mask) | (byte & mask));
        *at &= (uint8_t) ~(byte & f->clear_mask[reg + i]);
    }
    if (touches(reg, size, PCI_COMMAND, 2)) {
        pci_set_interrupt(f, (f->config[PCI_STATUS] & PCI_STATUS_INTERRUPT) != 0);
        update_all(bus);
    } else if (touches(reg, size, PCI_BASE_ADDRESS, PCI_BAR_COUNT * 4) || touches(reg, size, PCI_ROM_ADDRESS, 4)) {
        update_all(bus);
    }
    if (f->config_written)
        f->config_written(f->opaque, reg, size);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = opaque;
    uint32_t a = bus->config_address;
    if (!(a & CONFIG_ADDRESS_ENABLE))
        return UINT64_MAX;
    return pci_config_read(bus, a >> 16 & 0xff, a >> 11 & 31, a >> 8 & 7, (a & 0xfc) + ((unsigned)offset & 3), size);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_bus *bus = opaque;
    uint32_t a = bus->config_address;
    if (!(a & CONFIG_ADDRESS_ENABLE))
        return;
    pci_config_write(bus, a >> 16 & 0xff, a >> 11 & 31, a >> 8 & 7, (a & 0xfc) + ((unsigned)offset & 3),
                     (uint32_t)value, size);
}

/* CONFIG_ADDRESS takes whole doublewords only; anything narrower goes on to the devices behind the bridge. */
static uint64_t address_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_bus *bus = opaque;
    if (size == 4)
        return bus->config_address;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = bus->passed_read ? bus->passed_read(bus->passed_opaque, (unsigned)offset + i) : 0xff;
        value |= (uint64_t)byte << i * 8;
    }
    return value;
}

static void address_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_bus *bus = opaque;
    if (size == 4) {
        bus->config_address = (uint32_t)value & CONFIG_ADDRESS_BITS;
        return;
    }
    for (unsigned i = 0; bus->passed_write && i < size; i++)
        bus->passed_write(bus->passed_opaque, (unsigned)offset + i, (uint8_t)(value >> i * 8));
}

void pci_set_passed_ports(struct pci_bus *bus, uint8_t (*read)(void *opaque, unsigned offset),
                          void (*write)(void *opaque, unsigned offset, uint8_t value), void *opaque)
{
    bus->passed_read = read;
    bus->passed_write = write;
    bus->passed_opaque = opaque;
}

/* ---- life cycle ---- */

int pci_add(struct pci_bus *bus, struct pci_function *f, unsigned device, unsigned function)
{
    if (device >= PCI_DEVICE_COUNT || function >= PCI_FUNCTION_COUNT)
        return -EINVAL;
    if (bus->functions[device][function])
        return -EEXIST;
    f->bus = bus;
    f->device = device;
    f->function = function;
    if (function) {
        /* Software looks at functions 1-7 only when function 0 says that the device has several. */
        struct pci_function *first = bus->functions[device][0];
        if (first)
            first->config[PCI_HEADER_TYPE] |= 0x80, first->reset_config[PCI_HEADER_TYPE] |= 0x80;
    } else {
        for (unsigned i = 1; i < PCI_FUNCTION_COUNT; i++)
            if (bus->functions[device][i])
                f->config[PCI_HEADER_TYPE] |= 0x80;
    }
    memcpy(f->reset_config, f->config, sizeof f->reset_config);
    bus->functions[device][function] = f;
    update_all(bus);
    return 0;
}

void pci_remove(struct pci_function *f)
{
    struct pci_region *rom = &f->regions[PCI_REGION_ROM];
    if (f->bus) {
        for (unsigned i = 0; i < PCI_REGION_COUNT; i++)
            region_unmap(f, i);
        drive_pirq(f, 0);
        f->bus->functions[f->device][f->function] = NULL;
        update_all(f->bus);
        f->bus = NULL;
    }
    if (rom->host_readonly) {
        free(rom->host);
        rom->host = NULL;
        rom->host_readonly = false;
        rom->kind = PCI_REGION_NONE;
    }
}

void pci_bus_reset(struct pci_bus *bus)
{
    bus->config_address = 0;
    for (unsigned slot = 0; slot < PCI_DEVICE_COUNT * PCI_FUNCTION_COUNT; slot++) {
        struct pci_function *f = bus->functions[slot / PCI_FUNCTION_COUNT][slot % PCI_FUNCTION_COUNT];
        if (!f)
            continue;
        drive_pirq(f, 0);
        memcpy(f->config, f->reset_config, sizeof f->config);
    }
    update_all(bus);
}

struct pci_bus *pci_bus_create(struct bus *ports, struct bus *memory_bus, struct memory *memory,
                               const struct irq_line pirq[PCI_PIRQ_COUNT])
{
    struct pci_bus *bus = calloc(1, sizeof *bus);
    if (!bus)
        return NULL;
    bus->ports = ports;
    bus->memory_bus = memory_bus;
    bus->memory = memory;
    memcpy(bus->pirq, pirq, sizeof bus->pirq);
    bus->address_range = (struct bus_range){.name = "pci-config-address",
                                            .base = CONFIG_ADDRESS_PORT,
                                            .size = 4,
                                            .max_access = 4,
                                            .read = address_read,
                                            .write = address_write,
                                            .opaque = bus};
    bus->data_range = (struct bus_range){.name = "pci-config-data",
                                         .base = CONFIG_DATA_PORT,
                                         .size = 4,
                                         .max_access = 4,
                                         .read = data_read,
                                         .write = data_write,
                                         .opaque = bus};
    if (bus_add(ports, &bus->address_range) || bus_add(ports, &bus->data_range)) {
        bus_remove(ports, &bus->address_range);
        free(bus);
        return NULL;
    }
    return bus;
}

void pci_bus_destroy(struct pci_bus *bus)
{
    if (!bus)
        return;
    for (unsigned slot = 0; slot < PCI_DEVICE_COUNT * PCI_FUNCTION_COUNT; slot++) {
        struct pci_function *f = bus->functions[slot / PCI_FUNCTION_COUNT][slot % PCI_FUNCTION_COUNT];
        if (f)
            pci_remove(f);
    }
    bus_remove(bus->ports, &bus->address_range);
    bus_remove(bus->ports, &bus->data_range);
    free(bus);
}
