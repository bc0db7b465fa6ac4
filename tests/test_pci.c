/* SPDX-License-Identifier: MIT */
/* PCI: configuration mechanism, masks, regions that move and collide, interrupt pins. */
#include "devices/pci.h"
#include "tests/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct world {
    struct bus *ports, *memory_bus;
    struct memory memory;
    struct pci_bus *pci;
    int pirq[4];
    struct pci_function a, b;
    uint8_t *frame_buffer;
    unsigned changes;
    uint32_t passed;
};

static void pirq_set(void *opaque, int n, int level)
{
    ((struct world *)opaque)->pirq[n] = level;
}

static uint64_t read_42(void *opaque, uint64_t offset, unsigned size)
{
    return 0x42 + offset;
}

static void count_change(void *opaque, unsigned index)
{
    ((struct world *)opaque)->changes++;
}

static uint8_t passed_read(void *opaque, unsigned offset)
{
    return (uint8_t)(0xa0 + offset);
}

static void passed_write(void *opaque, unsigned offset, uint8_t value)
{
    ((struct world *)opaque)->passed |= (uint32_t)value << offset * 8;
}

static void build(struct world *w)
{
    char err[200];
    memset(w, 0, sizeof *w);
    w->ports = bus_create("ports", 65536);
    w->memory_bus = bus_create("memory", UINT64_MAX);
    CU_ASSERT_EQUAL_FATAL(memory_init(&w->memory, 4 << 20, err, sizeof err), 0);
    struct irq_line pirq[4];
    for (int i = 0; i < 4; i++)
        pirq[i] = (struct irq_line){pirq_set, w, i};
    w->pci = pci_bus_create(w->ports, w->memory_bus, &w->memory, pirq);
    CU_ASSERT_PTR_NOT_NULL_FATAL(w->pci);
    w->frame_buffer = aligned_alloc(PAGE_SIZE, 1 << 20);
    memset(w->frame_buffer, 0x5a, 1 << 20);

    struct bus_range io = {.size = 16, .max_access = 4, .read = read_42};
    struct bus_range mem = {.size = 4096, .max_access = 4, .read = read_42};
    pci_function_init(&w->a, "a", 0x1234, 0x5678, 0x020000, 7);
    pci_region_handlers(&w->a, 0, PCI_REGION_IO, &io);
    pci_region_handlers(&w->a, 1, PCI_REGION_MEMORY, &mem);
    pci_set_interrupt_pin(&w->a, 1);
    w->a.region_changed = count_change;
    w->a.opaque = w;
    CU_ASSERT_EQUAL(pci_add(w->pci, &w->a, 3, 0), 0);
    pci_function_init(&w->b, "b", 0x1234, 0x9abc, 0x030000, 1);
    pci_region_host(&w->b, 0, PCI_REGION_PREFETCH, w->frame_buffer, 1 << 20);
    CU_ASSERT_EQUAL(pci_region_rom(&w->b, "\x55\xaa\x03", 3), 0);
    pci_set_interrupt_pin(&w->b, 2);
    CU_ASSERT_EQUAL(pci_add(w->pci, &w->b, 3, 1), 0);
    CU_ASSERT_EQUAL(pci_add(w->pci, &w->b, 3, 1), -EEXIST);
    CU_ASSERT_EQUAL(pci_add(w->pci, &w->b, 32, 0), -EINVAL);
}

static void take_apart(struct world *w)
{
    pci_bus_destroy(w->pci);
    bus_destroy(w->ports);
    bus_destroy(w->memory_bus);
    memory_destroy(&w->memory);
    free(w->frame_buffer);
}

static uint32_t get(struct world *w, unsigned function, unsigned reg, unsigned size)
{
    bus_write(w->ports, 0xcf8, 0x80000000u | 3 << 11 | function << 8 | (reg & 0xfc), 4);
    return (uint32_t)bus_read(w->ports, 0xcfc + (reg & 3), size);
}

static void put(struct world *w, unsigned function, unsigned reg, uint32_t value, unsigned size)
{
    bus_write(w->ports, 0xcf8, 0x80000000u | 3 << 11 | function << 8 | (reg & 0xfc), 4);
    bus_write(w->ports, 0xcfc + (reg & 3), value, size);
}

static void mechanism(void)
{
    struct world w;
    build(&w);
    CU_ASSERT_EQUAL(get(&w, 0, 0, 4), 0x56781234);
    CU_ASSERT_EQUAL(get(&w, 0, 2, 2), 0x5678);
    CU_ASSERT_EQUAL(get(&w, 0, 3, 1), 0x56);
    CU_ASSERT_EQUAL(get(&w, 0, PCI_HEADER_TYPE, 1), 0x80); /* function 1 exists */
    CU_ASSERT_EQUAL(get(&w, 2, 0, 4), 0xffffffff);
    put(&w, 0, 0, 0, 4); /* ids are read-only */
    CU_ASSERT_EQUAL(get(&w, 0, 0, 4), 0x56781234);
    put(&w, 0, PCI_COMMAND, 0xffff, 2);
    CU_ASSERT_EQUAL(get(&w, 0, PCI_COMMAND, 2), 7);
    put(&w, 0, PCI_INTERRUPT_LINE, 10, 1);
    put(&w, 0, PCI_INTERRUPT_LINE, 0xff, 1); /* "unknown": the board's value stays */
    CU_ASSERT_EQUAL(get(&w, 0, PCI_INTERRUPT_LINE, 1), 10);
    bus_write(w.ports, 0xcf8, 0xffffffff, 4);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xcf8, 4), 0x80fffffc);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xcfc, 4), 0xffffffff); /* bus 255 */
    bus_write(w.ports, 0xcf8, 3 << 11, 4);                    /* not enabled */
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xcfc, 4), 0xffffffff);
    /* Crossing the doubleword, and out of the space. */
    CU_ASSERT_EQUAL(pci_config_read(w.pci, 0, 3, 0, 0xfe, 4), 0xffffffff);
    pci_config_write(w.pci, 0, 3, 0, 0xfe, 0, 4);
    CU_ASSERT_EQUAL(pci_config_read(w.pci, 0, 99, 99, 0, 1), 0xff);
    /* Narrow accesses to the address port pass the bridge. */
    pci_set_passed_ports(w.pci, passed_read, passed_write, &w);
    bus_write(w.ports, 0xcf9, 6, 1);
    CU_ASSERT_EQUAL(w.passed, 0x600);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xcf9, 1), 0xa1);
    take_apart(&w);
}

static void regions(void)
{
    struct world w;
    build(&w);
    put(&w, 0, 0x10, 0xffffffff, 4);
    CU_ASSERT_EQUAL(get(&w, 0, 0x10, 4), 0xfffffff1);
    put(&w, 0, 0x14, 0xffffffff, 4);
    CU_ASSERT_EQUAL(get(&w, 0, 0x14, 4), 0xfffff000);
    put(&w, 0, 0x18, 0xffffffff, 4);
    CU_ASSERT_EQUAL(get(&w, 0, 0x18, 4), 0);
    put(&w, 0, 0x10, 0xc000, 4);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xc000, 1), 0xff); /* decoder off */
    put(&w, 0, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY, 2);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xc001, 1), 0x43);
    put(&w, 0, 0x10, 0xd000, 4);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xc001, 1), 0xff);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0xd001, 1), 0x43);
    put(&w, 0, 0x10, 0xcf0, 4); /* over 0xcf8: taken */
    CU_ASSERT_FALSE(w.a.regions[0].mapped);
    CU_ASSERT_EQUAL(get(&w, 0, 0, 4), 0x56781234);
    put(&w, 0, 0x10, 0x1d000, 4); /* beyond 64K */
    CU_ASSERT_FALSE(w.a.regions[0].mapped);
    put(&w, 0, 0x14, 0xe0000000, 4);
    CU_ASSERT_EQUAL(bus_read(w.memory_bus, 0xe0000004, 4), 0x46);
    CU_ASSERT(w.changes >= 4);
    take_apart(&w);
}

static void host_regions(void)
{
    struct world w;
    build(&w);
    put(&w, 1, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    put(&w, 1, 0x10, 0x00200000, 4); /* over RAM: RAM wins */
    CU_ASSERT_FALSE(w.b.regions[0].mapped);
    memory_write32(&w.memory, gpa(0x200000), 0x11223344);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0x200000)), 0x11223344);
    put(&w, 1, 0x10, 0xffffffff, 4); /* sizing with the decoder on */
    CU_ASSERT_EQUAL(get(&w, 1, 0x10, 4), 0xfff00008);
    put(&w, 1, 0x10, 0xf0000000, 4);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf0000000)), 0x5a5a5a5a);
    memory_write32(&w.memory, gpa(0xf00ffffc), 7);
    CU_ASSERT_EQUAL(w.frame_buffer[0xffffc], 7);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0x200000)), 0x11223344);
    /* The ROM is on only with its own enable bit, and read-only. */
    put(&w, 1, PCI_ROM_ADDRESS, 0xf1000000, 4);
    CU_ASSERT_FALSE(w.b.regions[PCI_REGION_ROM].mapped);
    put(&w, 1, PCI_ROM_ADDRESS, 0xf1000001, 4);
    memory_write32(&w.memory, gpa(0xf1000000), 0);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf1000000)), 0xff03aa55);
    /* The same place twice: the second does not answer until the first moves away. */
    put(&w, 1, PCI_ROM_ADDRESS, 0xf0000001, 4);
    CU_ASSERT_FALSE(w.b.regions[PCI_REGION_ROM].mapped);
    put(&w, 1, 0x10, 0xf2000000, 4);
    CU_ASSERT_TRUE(w.b.regions[PCI_REGION_ROM].mapped);
    pci_bus_reset(w.pci);
    CU_ASSERT_FALSE(w.b.regions[0].mapped);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf2000000)), 0xffffffff);
    take_apart(&w);
}

static void interrupts(void)
{
    struct world w;
    build(&w);
    CU_ASSERT_EQUAL(pci_pirq_of(3, 1), 3);
    CU_ASSERT_EQUAL(pci_pirq_of(3, 2), 0);
    CU_ASSERT_EQUAL(pci_pirq_of(4, 4), 3);
    struct pci_function c;
    pci_function_init(&c, "c", 1, 2, 0, 0);
    pci_set_interrupt_pin(&c, 4);
    CU_ASSERT_EQUAL(pci_add(w.pci, &c, 4, 0), 0);
    pci_set_interrupt(&w.a, 1);
    pci_set_interrupt(&w.a, 1);
    CU_ASSERT_EQUAL(w.pirq[3], 1);
    pci_set_interrupt(&c, 1); /* shares PIRQ D */
    pci_set_interrupt(&w.a, 0);
    CU_ASSERT_EQUAL(w.pirq[3], 1);
    pci_set_interrupt(&c, 0);
    CU_ASSERT_EQUAL(w.pirq[3], 0);
    pci_set_interrupt(&w.b, 1);
    CU_ASSERT_EQUAL(w.pirq[0], 1);
    pci_bus_reset(w.pci);
    CU_ASSERT_EQUAL(w.pirq[0], 0);
    pci_set_interrupt(&c, 1);
    pci_remove(&c);
    CU_ASSERT_EQUAL(w.pirq[3], 0);
    take_apart(&w);
}

static void capabilities(void)
{
    struct pci_function f;
    pci_function_init(&f, "f", 1, 2, 3, 4);
    unsigned first = pci_add_capability(&f, 1, 8), second = pci_add_capability(&f, 5, 6);
    CU_ASSERT_EQUAL(first, 0x40);
    CU_ASSERT_EQUAL(second, 0x48);
    CU_ASSERT_EQUAL(f.config[PCI_CAPABILITY_POINTER], second);
    CU_ASSERT_EQUAL(f.config[second + 1], first);
    CU_ASSERT_EQUAL(f.config[first + 1], 0);
    CU_ASSERT_EQUAL(pci_add_capability(&f, 9, 200), 0);
}

TEST_SUITE(pci, {"configuration mechanism 1", mechanism}, {"base address registers", regions},
           {"host memory and ROM", host_regions}, {"interrupt pins", interrupts}, {"capability list", capabilities})
