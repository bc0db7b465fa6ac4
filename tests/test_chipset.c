/* SPDX-License-Identifier: MIT */
/* 440BX and PIIX4: shadow RAM, SMRAM, interrupt routing, reset control, ACPI registers, SMBus. */
#include "devices/i440bx.h"
#include "devices/piix4.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

struct world {
    struct bus *ports, *memory_bus;
    struct memory memory;
    struct clock *clock;
    struct pci_bus *pci;
    struct i440bx bx;
    struct piix4 piix4;
    uint8_t *rom;
    int pin[16];
    int io_apic[24]; /* ISA lines, then PIRQs at 16 */
    unsigned resets, inits, power_offs, windows;
};

static void pin_set(void *opaque, int n, int level)
{
    ((struct world *)opaque)->pin[n] = level;
}
static void io_apic_set(void *opaque, int n, int level)
{
    ((struct world *)opaque)->io_apic[n] = level;
}
static void on_reset(void *opaque)
{
    ((struct world *)opaque)->resets++;
}
static void on_init(void *opaque)
{
    ((struct world *)opaque)->inits++;
}
static void on_power_off(void *opaque)
{
    ((struct world *)opaque)->power_offs++;
}
static void on_window(void *opaque, bool display)
{
    ((struct world *)opaque)->windows++;
}

static void build(struct world *w)
{
    char err[200];
    struct irq_line pins[16], pirq[4];
    memset(w, 0, sizeof *w);
    w->ports = bus_create("ports", 65536);
    w->memory_bus = bus_create("memory", UINT64_MAX);
    w->clock = clock_create(true);
    w->rom = aligned_alloc(PAGE_SIZE, 0x20000);
    memset(w->rom, 0xbb, 0x20000);
    CU_ASSERT_EQUAL_FATAL(memory_init(&w->memory, 32 << 20, err, sizeof err), 0);
    for (int i = 0; i < 16; i++)
        pins[i] = (struct irq_line){pin_set, w, i};
    for (int i = 0; i < 4; i++)
        pirq[i] = piix4_pirq(&w->piix4, i);
    struct piix4_signals signals = {on_reset, on_init, on_power_off, w};
    w->pci = pci_bus_create(w->ports, w->memory_bus, &w->memory, pirq);
    CU_ASSERT_EQUAL_FATAL(i440bx_init(&w->bx, w->pci, &w->memory, w->rom), 0);
    CU_ASSERT_EQUAL_FATAL(piix4_init(&w->piix4, w->pci, w->ports, w->clock, pins, &signals), 0);
    w->bx.window_changed = on_window;
    w->bx.window_opaque = w;
}

static void take_apart(struct world *w)
{
    piix4_destroy(&w->piix4);
    i440bx_destroy(&w->bx);
    pci_bus_destroy(w->pci);
    bus_destroy(w->ports);
    bus_destroy(w->memory_bus);
    clock_destroy(w->clock);
    memory_destroy(&w->memory);
    free(w->rom);
}

static void bridge_write(struct world *w, unsigned reg, unsigned value)
{
    pci_config_write(w->pci, 0, 0, 0, reg, value, 1);
}

static unsigned bridge_read(struct world *w, unsigned reg)
{
    return pci_config_read(w->pci, 0, 0, 0, reg, 1);
}

static void pam(void)
{
    struct world w;
    build(&w);
    CU_ASSERT_EQUAL(pci_config_read(w.pci, 0, 0, 0, 0, 4), 0x71908086);
    CU_ASSERT_EQUAL(pci_config_read(w.pci, 0, 1, 0, 0, 4), 0x71918086);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf0000)), 0xbbbbbbbb); /* after reset: ROM */
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xc0000)), 0xffffffff); /* nothing */
    memory_write32(&w.memory, gpa(0xf0000), 1);
    bridge_write(&w, 0x59, 0x20); /* writes to RAM, reads from ROM */
    memory_write32(&w.memory, gpa(0xf0000), 0x12345678);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf0000)), 0xbbbbbbbb);
    bridge_write(&w, 0x59, 0x10); /* reads from RAM, write-protected */
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf0000)), 0x12345678);
    memory_write32(&w.memory, gpa(0xf0000), 9);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf0000)), 0x12345678);
    /* Every 16K segment by its own nibble. */
    for (unsigned n = 0; n < 12; n++) {
        for (unsigned reg = 0x5a; reg <= 0x5f; reg++)
            bridge_write(&w, reg, 0);
        bridge_write(&w, 0x5a + n / 2, n & 1 ? 0x30 : 0x03);
        for (unsigned s = 0; s < 12; s++) {
            struct memory_page p = memory_page(&w.memory, 0xc0 + s * 4 + 3);
            CU_ASSERT_EQUAL(p.write != NULL, s == n);
        }
    }
    bridge_write(&w, 0x5a, 0xff); /* reserved bits do not stick */
    CU_ASSERT_EQUAL(bridge_read(&w, 0x5a), 0x33);
    pci_bus_reset(w.pci);
    i440bx_reset(&w.bx);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf0000)), 0xbbbbbbbb);
    take_apart(&w);
}

static void smram(void)
{
    struct world w;
    build(&w);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xa0000)), 0xffffffff);
    bridge_write(&w, 0x72, 0x4a); /* D_OPEN, G_SMRAME */
    CU_ASSERT_EQUAL(bridge_read(&w, 0x72), 0x4a);
    memory_write32(&w.memory, gpa(0xa0000), 5);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xa0000)), 5);
    CU_ASSERT_EQUAL(w.windows, 1);
    bridge_write(&w, 0x72, 0x1a); /* D_LCK closes and locks */
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xa0000)), 0xffffffff);
    bridge_write(&w, 0x72, 0x4a);
    CU_ASSERT_EQUAL(bridge_read(&w, 0x72), 0x1a);
    pci_bus_reset(w.pci);
    i440bx_reset(&w.bx);
    bridge_write(&w, 0x72, 0x4a);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xa0000)), 5);
    bridge_write(&w, 0x68, 0x80); /* hole at 15M-16M */
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf00000)), 0xffffffff);
    bridge_write(&w, 0x68, 0x00);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0xf00000)), 0);
    take_apart(&w);
}

static void isa_write(struct world *w, unsigned reg, unsigned value)
{
    pci_config_write(w->pci, 0, PIIX4_DEVICE, 0, reg, value, 1);
}

static void routing(void)
{
    struct world w;
    build(&w);
    struct irq_line pirq_a = piix4_pirq(&w.piix4, 0), irq10 = piix4_isa_irq(&w.piix4, 10);
    irq_set(&pirq_a, 1);
    for (int i = 0; i < 16; i++)
        CU_ASSERT_EQUAL(w.pin[i], 0); /* not routed after reset */
    isa_write(&w, PIIX4_PIRQRC, 10);
    CU_ASSERT_EQUAL(w.pin[10], 1);
    isa_write(&w, PIIX4_PIRQRC, 11);
    CU_ASSERT_EQUAL(w.pin[10], 0);
    CU_ASSERT_EQUAL(w.pin[11], 1);
    isa_write(&w, PIIX4_PIRQRC, 10);
    irq_set(&irq10, 1);
    irq_set(&pirq_a, 0);
    CU_ASSERT_EQUAL(w.pin[10], 1); /* an ISA device still drives it */
    irq_set(&irq10, 0);
    CU_ASSERT_EQUAL(w.pin[10], 0);
    irq_set(&pirq_a, 1);
    isa_write(&w, PIIX4_PIRQRC, 13); /* reserved */
    CU_ASSERT_EQUAL(w.pin[13], 0);
    isa_write(&w, PIIX4_PIRQRC, 0x8a); /* disabled */
    CU_ASSERT_EQUAL(w.pin[10], 0);
    take_apart(&w);
}

static void reset_control(void)
{
    struct world w;
    build(&w);
    bus_write(w.ports, 0xcf9, 0x02, 1);
    CU_ASSERT_EQUAL(w.resets, 0);
    bus_write(w.ports, 0xcf9, 0x06, 1);
    CU_ASSERT_EQUAL(w.resets, 1);
    bus_write(w.ports, 0xcf9, 0x06, 1); /* no edge */
    CU_ASSERT_EQUAL(w.resets, 1);
    bus_write(w.ports, 0xcf9, 0x00, 1);
    bus_write(w.ports, 0xcf9, 0x04, 1); /* soft */
    CU_ASSERT_EQUAL(w.inits, 1);
    bus_write(w.ports, 0xcf8, 0x80000600, 4); /* CONFIG_ADDRESS, not the reset port */
    CU_ASSERT_EQUAL(w.resets + w.inits, 2);
    take_apart(&w);
}

static void map_pm(struct world *w, unsigned base)
{
    pci_config_write(w->pci, 0, PIIX4_DEVICE, 3, 0x40, base | 1, 4);
    pci_config_write(w->pci, 0, PIIX4_DEVICE, 3, 0x80, 1, 1);
}

static void pm_timer(void)
{
    struct world w;
    build(&w);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x608, 4), 0xffffffff);
    map_pm(&w, 0x600);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x608, 4), 0);
    clock_advance(w.clock, NS_PER_SEC);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x608, 4), 3579545);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x60a, 1), 3579545 >> 16);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x600, 2), 0);
    clock_advance(w.clock, 2 * NS_PER_SEC); /* bit 23 toggles after 2.34 s */
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x600, 2) & 1, 1);
    bus_write(w.ports, 0x600, 1, 2);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x600, 2) & 1, 0);
    clock_advance(w.clock, 2 * NS_PER_SEC); /* 24 bits: wraps at 4.69 s */
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x608, 4), 5 * 3579545 - (1 << 24));
    /* The interrupt comes by itself. */
    bus_write(w.ports, 0x600, 1, 2);
    bus_write(w.ports, 0x602, 1, 2);
    bus_write(w.ports, 0xb2, PIIX4_ACPI_ENABLE, 1);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x604, 2), 1);
    CU_ASSERT_EQUAL(w.pin[9], 0);
    clock_advance(w.clock, 3 * NS_PER_SEC);
    CU_ASSERT_EQUAL(w.pin[9], 1);
    bus_write(w.ports, 0x600, 1, 2);
    CU_ASSERT_EQUAL(w.pin[9], 0);
    /* Moved onto a taken place and back. */
    map_pm(&w, 0xcc0);
    CU_ASSERT_FALSE(w.piix4.pm_range.mapped);
    map_pm(&w, 0x4000);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x600, 2), 0xffff);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x4004, 2), 1);
    take_apart(&w);
}

static void power(void)
{
    struct world w;
    build(&w);
    map_pm(&w, 0x600);
    piix4_power_button(&w.piix4);
    CU_ASSERT_EQUAL(w.pin[9], 0);
    bus_write(w.ports, 0x602, 0x100, 2);
    CU_ASSERT_EQUAL(w.pin[9], 0); /* ACPI is off */
    bus_write(w.ports, 0xb2, PIIX4_ACPI_ENABLE, 1);
    CU_ASSERT_EQUAL(w.pin[9], 1);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x600, 2), 0x100);
    bus_write(w.ports, 0x600, 0x100, 2);
    CU_ASSERT_EQUAL(w.pin[9], 0);
    bus_write(w.ports, 0x604, 0x0401, 2); /* a sleep type without SLP_EN */
    bus_write(w.ports, 0x604, 0x2401, 2); /* a state the board has not */
    CU_ASSERT_EQUAL(w.power_offs, 0);
    bus_write(w.ports, 0x604, 0x2001, 2);
    CU_ASSERT_EQUAL(w.power_offs, 1);
    bus_write(w.ports, 0x605, 0x20, 1); /* the byte alone */
    CU_ASSERT_EQUAL(w.power_offs, 2);
    bus_write(w.ports, 0xb2, PIIX4_ACPI_DISABLE, 1);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x604, 2) & 1, 0);
    for (unsigned port = 0x600; port < 0x640; port++) { /* every register, every width */
        bus_read(w.ports, port, 1);
        bus_read(w.ports, port, 4);
        bus_write(w.ports, port, 0xdfdfdfdf, 2);
    }
    take_apart(&w);
}

static void smbus(void)
{
    struct world w;
    build(&w);
    pci_config_write(w.pci, 0, PIIX4_DEVICE, 3, 0x90, 0x701, 4);
    pci_config_write(w.pci, 0, PIIX4_DEVICE, 3, 0xd2, 0x09, 1);
    bus_write(w.ports, 0x704, 0xa1, 1);
    bus_write(w.ports, 0x702, 0x48, 1);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x700, 1), 0x04); /* nobody there */
    bus_write(w.ports, 0x700, 0x1e, 1);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x700, 1), 0);
    bus_write(w.ports, 0x702, 0x49, 1);
    CU_ASSERT_EQUAL(w.pin[9], 1);
    bus_write(w.ports, 0x700, 0xff, 1);
    CU_ASSERT_EQUAL(w.pin[9], 0);
    for (unsigned i = 0; i < 100; i++)
        bus_write(w.ports, 0x707, i, 1);
    bus_read(w.ports, 0x702, 1);
    for (unsigned i = 0; i < 100; i++)
        bus_read(w.ports, 0x707, 1);
    take_apart(&w);
}

/* Beside the 8259s: ISA lines as they are, PIRQs unrouted, SCI by IRQ9OUT#. */
static void io_apic_lines(void)
{
    struct world w;
    struct irq_line isa[16], pirq[4], pirq_a, irq5;
    build(&w);
    for (int i = 0; i < 16; i++)
        isa[i] = (struct irq_line){io_apic_set, &w, i};
    for (int i = 0; i < 4; i++)
        pirq[i] = (struct irq_line){io_apic_set, &w, 16 + i};
    piix4_connect_ioapic(&w.piix4, isa, pirq);
    pirq_a = piix4_pirq(&w.piix4, 0);
    irq5 = piix4_isa_irq(&w.piix4, 5);
    irq_set(&irq5, 1);
    CU_ASSERT(w.pin[5] == 1 && w.io_apic[5] == 1);
    irq_set(&irq5, 0);
    CU_ASSERT(w.pin[5] == 0 && w.io_apic[5] == 0);
    pci_config_write(w.pci, 0, PIIX4_DEVICE, 0, PIIX4_PIRQRC, 9, 1);
    irq_set(&pirq_a, 1);
    CU_ASSERT(w.pin[9] == 1 && w.io_apic[16] == 1 && w.io_apic[9] == 0);
    irq_set(&pirq_a, 0);
    CU_ASSERT(w.pin[9] == 0 && w.io_apic[16] == 0);
    pci_config_write(w.pci, 0, PIIX4_DEVICE, 3, 0x40, PIIX4_PM_PORT | 1, 4);
    pci_config_write(w.pci, 0, PIIX4_DEVICE, 3, 0x80, 1, 1);
    bus_write(w.ports, PIIX4_PM_PORT + 2, 1 << 8, 2); /* power button enabled */
    bus_write(w.ports, PIIX4_PM_PORT + 4, 1, 2);      /* SCI_EN */
    piix4_power_button(&w.piix4);
    CU_ASSERT(w.pin[9] == 1 && w.io_apic[9] == 1);
    bus_write(w.ports, PIIX4_PM_PORT, 1 << 8, 2);
    CU_ASSERT(w.pin[9] == 0 && w.io_apic[9] == 0);
    take_apart(&w);
}

TEST_SUITE(chipset, {"PAM segments", pam}, {"SMRAM and the fixed hole", smram}, {"PIRQ routing", routing},
           {"reset control port", reset_control}, {"PM timer", pm_timer}, {"power button and soft off", power},
           {"SMBus without devices", smbus}, {"lines to an I/O APIC", io_apic_lines})
