/* SPDX-License-Identifier: MIT */
/* PCI: configuration mechanism #1, functions, base address registers and interrupt pins (PCI Local Bus
 * Specification 2.2, chapters 3.2.2.3, 6; PCI-to-PCI bridge header: PCI-to-PCI Bridge Architecture 1.1).
 *
 * A chip embeds a struct pci_function, calls pci_function_init, sets masks and regions, and hands it to pci_add:
 *
 *     pci_function_init(&ide->pci, "piix4-ide", 0x8086, 0x7111, 0x010180, 0x01);
 *     pci_region_handlers(&ide->pci, 4, PCI_REGION_IO, &(struct bus_range){.size = 16, .max_access = 4, .read = ...});
 *     ide->pci.write_mask[0x41] = 0xff;
 *     pci_add(bus, &ide->pci, 7, 1);
 *
 * Regions appear on the two buses when the guest has set a base address and enabled the decoder in the command
 * register. A region whose place is taken (other ranges, RAM, firmware: the guest is sizing, or made a mistake) just
 * does not answer; it is tried again whenever another region moves.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_PCI_H
#define RINGFOLD_DEVICES_PCI_H

#include "devices/bus.h"
#include "devices/irq.h"
#include "shadowmmu/memory.h"

enum {
    PCI_CONFIG_SIZE = 256,
    PCI_DEVICE_COUNT = 32,
    PCI_FUNCTION_COUNT = 8,
    PCI_BAR_COUNT = 6,
    PCI_REGION_ROM = 6, /* index of the expansion ROM among the regions */
    PCI_REGION_COUNT = 7,
    PCI_PIRQ_COUNT = 4
};

/* Configuration space header, specification chapter 6.1 */
enum pci_register {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_CODE = 0x09, /* three bytes: programming interface, subclass, base class */
    PCI_CACHE_LINE_SIZE = 0x0c,
    PCI_LATENCY_TIMER = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BASE_ADDRESS = 0x10, /* six of them */
    PCI_PRIMARY_BUS = 0x18,  /* header type 1 */
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_ROM_ADDRESS = 0x30,
    PCI_CAPABILITY_POINTER = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d
};

enum pci_command {
    PCI_COMMAND_IO = 1,
    PCI_COMMAND_MEMORY = 2,
    PCI_COMMAND_MASTER = 4,
    PCI_COMMAND_INTX_DISABLE = 0x400 /* PCI 2.3; only if the function's write_mask lets it through */
};

enum pci_status { PCI_STATUS_INTERRUPT = 0x08, PCI_STATUS_CAPABILITIES = 0x10 };

enum pci_region_kind { PCI_REGION_NONE, PCI_REGION_IO, PCI_REGION_MEMORY, PCI_REGION_PREFETCH };

struct pci_region {
    enum pci_region_kind kind;
    uint64_t size;          /* power of two; I/O at least 4, memory at least 16 (host memory and ROM at least 4096) */
    struct bus_range range; /* handlers, when host is NULL; base and size are set by pci.c */
    uint8_t *host;          /* or size bytes of host memory that the guest reads and writes directly */
    bool host_readonly;     /* guest writes go to the memory bus, that is nowhere */
    bool mapped;            /* answers now, at base */
    uint64_t base;
};

struct pci_bus;

struct pci_function {
    const char *name;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t write_mask[PCI_CONFIG_SIZE]; /* bits that a guest's write changes */
    uint8_t clear_mask[PCI_CONFIG_SIZE]; /* bits that a guest clears by writing 1 */
    struct pci_region regions[PCI_REGION_COUNT];

    /* Hooks, each may be NULL; opaque is the chip. */
    void *opaque;
    /* Before the guest reads [reg, reg+size): bring config up to date when registers show changing state. */
    void (*config_reading)(void *opaque, unsigned reg, unsigned size);
    /* After the guest wrote to [reg, reg+size) and the masks were applied; regions have already moved. */
    void (*config_written)(void *opaque, unsigned reg, unsigned size);
    /* A region starts or stops to answer (regions[index].mapped and base tell). */
    void (*region_changed)(void *opaque, unsigned index);

    /* Private to pci.c */
    struct pci_bus *bus;
    unsigned device, function;
    int interrupt_level;
    unsigned next_capability;
    uint8_t reset_config[PCI_CONFIG_SIZE];
};

/* Zeroes f and fills in the header; class_code is the 24-bit code (0x010180), header type 0, no regions. Writable:
 * command bits I/O, memory and master as far as regions exist (master always), cache line, latency, interrupt line. */
void pci_function_init(struct pci_function *f, const char *name, uint16_t vendor_id, uint16_t device_id,
                       uint32_t class_code, uint8_t revision);
void pci_set_subsystem(struct pci_function *f, uint16_t vendor_id, uint16_t id);
/* pin: 1 = INTA# ... 4 = INTD#; 0 = none. */
void pci_set_interrupt_pin(struct pci_function *f, unsigned pin);
/* A base address register answered by handlers: range gives size, access widths, read, write and opaque. Before
 * pci_add. */
void pci_region_handlers(struct pci_function *f, unsigned index, enum pci_region_kind kind,
                         const struct bus_range *range);
/* A base address register of host memory (frame buffer). size: power of two, at least 4096. The caller owns host. */
void pci_region_host(struct pci_function *f, unsigned index, enum pci_region_kind kind, uint8_t *host, uint64_t size);
/* The expansion ROM: a copy of the image is made and padded with ones to a power of two. Returns 0 or -ENOMEM. */
int pci_region_rom(struct pci_function *f, const void *image, size_t size);
/* Appends a capability of size bytes (with its two header bytes) to the list; returns its offset, 0 when there is no
 * room. Before pci_add; contents and masks are the caller's. */
unsigned pci_add_capability(struct pci_function *f, uint8_t id, unsigned size);

/* Little-endian access to the configuration space by the chip itself: no masks, no hooks. */
static inline uint16_t pci_get16(const struct pci_function *f, unsigned reg)
{
    return (uint16_t)(f->config[reg & 0xff] | f->config[(reg + 1) & 0xff] << 8);
}
static inline uint32_t pci_get32(const struct pci_function *f, unsigned reg)
{
    return pci_get16(f, reg) | (uint32_t)pci_get16(f, reg + 2) << 16;
}
static inline void pci_put16(uint8_t space[PCI_CONFIG_SIZE], unsigned reg, uint16_t v)
{
    space[reg & 0xff] = (uint8_t)v;
    space[(reg + 1) & 0xff] = (uint8_t)(v >> 8);
}
static inline void pci_put32(uint8_t space[PCI_CONFIG_SIZE], unsigned reg, uint32_t v)
{
    pci_put16(space, reg, (uint16_t)v);
    pci_put16(space, reg + 2, (uint16_t)(v >> 16));
}
/* May the function do DMA now? */
static inline bool pci_is_master(const struct pci_function *f)
{
    return f->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

/* Puts the function into its slot; the configuration space as it is now is what a reset restores. -EEXIST, -EINVAL. */
int pci_add(struct pci_bus *bus, struct pci_function *f, unsigned device, unsigned function);
/* Takes it out (its regions, its interrupt) and frees the ROM copy. Does nothing for a function that was not added. */
void pci_remove(struct pci_function *f);
/* Drives the function's interrupt pin. */
void pci_set_interrupt(struct pci_function *f, int level);
/* Re-evaluates where the function's regions are, after the chip itself changed config (a reset of its own). */
void pci_update_regions(struct pci_function *f);

/* ---- the bus ---- */

/* ports, memory_bus: where regions appear; memory: where host-memory regions appear (may be NULL when there are none).
 * pirq: PIRQ A-D, wired-OR of the pins that the swizzle leads there. NULL when out of memory or the ports are taken. */
struct pci_bus *pci_bus_create(struct bus *ports, struct bus *memory_bus, struct memory *memory,
                               const struct irq_line pirq[PCI_PIRQ_COUNT]);
/* Every function must have been removed, or still be alive: they are removed. */
void pci_bus_destroy(struct pci_bus *bus);
/* RST#: every function's configuration space back to what it was at pci_add, interrupts down, CONFIG_ADDRESS 0. */
void pci_bus_reset(struct pci_bus *bus);
/* Which PIRQ (0-3) pin (1-4) of a device is wired to. */
unsigned pci_pirq_of(unsigned device, unsigned pin);
struct pci_function *pci_find(struct pci_bus *bus, unsigned device, unsigned function);
/* Accesses to 0xcf8-0xcfb that are not whole doublewords pass the host bridge; the south bridge has its reset control
 * register at 0xcf9. offset counts from 0xcf8. */
void pci_set_passed_ports(struct pci_bus *bus, uint8_t (*read)(void *opaque, unsigned offset),
                          void (*write)(void *opaque, unsigned offset, uint8_t value), void *opaque);

/* What a guest's configuration access does (also used by the board when it plays firmware). size 1, 2 or 4; reg + size
 * must not cross a doubleword for the data port, other values are safe and give ones. */
uint32_t pci_config_read(struct pci_bus *bus, unsigned bus_number, unsigned device, unsigned function, unsigned reg,
                         unsigned size);
void pci_config_write(struct pci_bus *bus, unsigned bus_number, unsigned device, unsigned function, unsigned reg,
                      uint32_t value, unsigned size);

#endif
