/* SPDX-License-Identifier: MIT */
/* The I/O APIC with two local ones, and the tables that describe them. */
#include "devices/acpi.h"
#include "devices/ioapic.h"
#include "devices/lapic.h"
#include "devices/pci.h"
#include "tests/test.h"

#include <string.h>

static struct clock *clk;
static struct bus *memory_bus;
static struct apic_bus bus;
static struct lapic apic[2];
static struct ioapic io;
static int nmis, inits;

static void on_intr(void *opaque, unsigned n, int level)
{
}
static void on_nmi(void *opaque, unsigned n)
{
    nmis++;
}
static void on_init(void *opaque, unsigned n)
{
    inits++;
}
static void on_startup(void *opaque, unsigned n, uint8_t vector)
{
    CU_FAIL("startup message by an I/O APIC");
}
static uint64_t on_tsc(void *opaque)
{
    return 0;
}
static uint64_t on_tsc_hz(void *opaque)
{
    return 1000000000;
}

static void build(void)
{
    static const struct lapic_signals signals = {on_intr, on_nmi, on_nmi, on_init, on_startup, on_tsc, on_tsc_hz, NULL};
    clk = clock_create(true);
    memory_bus = bus_create("memory", UINT64_MAX);
    memset(&bus, 0, sizeof bus);
    nmis = inits = 0;
    for (unsigned i = 0; i < 2; i++) {
        lapic_init(&apic[i], &bus, clk, i, 1000000000, &signals);
        lapic_write(&apic[i], LAPIC_SVR, 0x1ff, 4);
    }
    CU_ASSERT_EQUAL_FATAL(ioapic_init(&io, memory_bus, &bus, 9), 0);
}

static void take_apart(void)
{
    bus_destroy(memory_bus);
    clock_destroy(clk);
}

static uint32_t rd(unsigned index)
{
    bus_write(memory_bus, IOAPIC_BASE, index, 4);
    return (uint32_t)bus_read(memory_bus, IOAPIC_BASE + IOAPIC_WINDOW, 4);
}
static void wr(unsigned index, uint32_t value)
{
    bus_write(memory_bus, IOAPIC_BASE, index, 4);
    bus_write(memory_bus, IOAPIC_BASE + IOAPIC_WINDOW, value, 4);
}
static void route(unsigned pin, uint32_t low, unsigned destination)
{
    wr(IOAPIC_REDIRECTION + pin * 2 + 1, destination << 24);
    wr(IOAPIC_REDIRECTION + pin * 2, low);
}
static void line(unsigned pin, int level)
{
    struct irq_line l = ioapic_input(&io, pin);
    irq_set(&l, level);
}
static int taken(unsigned n)
{
    return lapic_acknowledge(&apic[n]);
}
static void eoi(unsigned n)
{
    lapic_write(&apic[n], LAPIC_EOI, 0, 4);
}

static void registers(void)
{
    build();
    CU_ASSERT_EQUAL(rd(IOAPIC_ID), 0);
    CU_ASSERT_EQUAL(rd(IOAPIC_VERSION), 0x170011);
    wr(IOAPIC_ID, 0xffffffff);
    wr(IOAPIC_VERSION, 0xffffffff);
    CU_ASSERT_EQUAL(rd(IOAPIC_ID), 0x0f000000);
    CU_ASSERT_EQUAL(rd(IOAPIC_ARBITRATION), 0x0f000000);
    CU_ASSERT_EQUAL(rd(IOAPIC_VERSION), 0x170011);
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + pin * 2), 0x10000);
        CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + pin * 2 + 1), 0);
        wr(IOAPIC_REDIRECTION + pin * 2, 0xffffffff);
        wr(IOAPIC_REDIRECTION + pin * 2 + 1, 0xffffffff);
        CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + pin * 2), 0x1afff);
        CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + pin * 2 + 1), 0xff000000);
    }
    CU_ASSERT_EQUAL(rd(0x40), 0); /* reserved ones, then every index and every address */
    for (unsigned index = 0; index < 256; index++) {
        wr(index, 0x10000);
        rd(index);
    }
    bus_write(memory_bus, IOAPIC_BASE, IOAPIC_VERSION, 1);
    CU_ASSERT_EQUAL(bus_read(memory_bus, IOAPIC_BASE + IOAPIC_WINDOW, 1), 0x11);
    for (unsigned offset = 0; offset < IOAPIC_SIZE; offset++)
        for (unsigned size = 1; size <= 8; size *= 2) {
            bus_read(memory_bus, IOAPIC_BASE + offset, size);
            bus_write(memory_bus, IOAPIC_BASE + offset, 0x5a5a5a5a5a5a5a5aull * offset, size);
        }
    ioapic_reset(&io);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION), 0x10000);
    take_apart();
}

static void edges(void)
{
    build();
    route(4, 0x44, 1);
    line(4, 1);
    CU_ASSERT_EQUAL(taken(0), LAPIC_NONE);
    CU_ASSERT_EQUAL(taken(1), 0x44);
    eoi(1);
    CU_ASSERT_EQUAL(taken(1), LAPIC_NONE);
    line(4, 1); /* no edge */
    line(4, 0);
    CU_ASSERT_EQUAL(taken(1), LAPIC_NONE);
    route(4, 0x10044, 1); /* a masked edge is lost */
    line(4, 1);
    route(4, 0x44, 1);
    CU_ASSERT_EQUAL(taken(1), LAPIC_NONE);
    line(4, 0);
    route(5, 0x45 | IOAPIC_ACTIVE_LOW, 0); /* upside down: the falling edge counts */
    line(5, 1);
    CU_ASSERT_EQUAL(taken(0), LAPIC_NONE);
    line(5, 0);
    CU_ASSERT_EQUAL(taken(0), 0x45);
    take_apart();
}

static void levels(void)
{
    build();
    route(16, 0x51 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW, 0);
    CU_ASSERT_EQUAL(taken(0), LAPIC_NONE);
    line(16, 1);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 32), 0x51 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW | IOAPIC_REMOTE_IRR);
    CU_ASSERT_EQUAL(taken(0), 0x51);
    eoi(0);
    CU_ASSERT_EQUAL(taken(0), 0x51); /* the line is still up */
    line(16, 0);
    eoi(0);
    CU_ASSERT_EQUAL(taken(0), LAPIC_NONE);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 32), 0x51 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
    /* Masked while up: sent when unmasked. */
    route(16, 0x10051 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW, 0);
    line(16, 1);
    CU_ASSERT_EQUAL(taken(0), LAPIC_NONE);
    route(16, 0x51 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW, 0);
    CU_ASSERT_EQUAL(taken(0), 0x51);
    /* Masked in service: the EOI clears Remote IRR and sends nothing. */
    route(16, 0x10051 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW, 0);
    eoi(0);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 32) & IOAPIC_REMOTE_IRR, 0);
    CU_ASSERT_EQUAL(taken(0), LAPIC_NONE);
    /* A guest cannot write Remote IRR; switching to edge and back clears it. */
    route(16, 0x51 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW, 0);
    CU_ASSERT_EQUAL(taken(0), 0x51);
    route(16, 0x10051 | IOAPIC_ACTIVE_LOW, 0);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 32) & IOAPIC_REMOTE_IRR, 0);
    line(16, 0);
    route(16, 0x51 | IOAPIC_LEVEL | IOAPIC_REMOTE_IRR | IOAPIC_SENDING | IOAPIC_ACTIVE_LOW, 0);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 32), 0x51 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
    eoi(0);
    /* Nobody there: Remote IRR stays clear. The wrong polarity: the idle line asks. */
    route(17, 0x52 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW, 77);
    line(17, 1);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 34) & IOAPIC_REMOTE_IRR, 0);
    route(9, 0x59 | IOAPIC_LEVEL, 0);
    CU_ASSERT_EQUAL(taken(0), 0x59);
    take_apart();
}

static void deliveries(void)
{
    build();
    lapic_write(&apic[0], LAPIC_LDR, 1u << 24, 4);
    lapic_write(&apic[1], LAPIC_LDR, 2u << 24, 4);
    route(3, 0x60 | IOAPIC_LOGICAL, 3);
    line(3, 1);
    CU_ASSERT(taken(0) == 0x60 && taken(1) == 0x60);
    route(5, 0x70 | APIC_LOWEST_PRIORITY << 8 | IOAPIC_LOGICAL, 3);
    line(5, 1);
    int first = taken(0), second = taken(1);
    CU_ASSERT((first == 0x70) != (second == 0x70));
    route(6, APIC_NMI << 8 | IOAPIC_LEVEL, 1); /* always an edge */
    line(6, 1);
    line(6, 0);
    line(6, 1);
    CU_ASSERT_EQUAL(nmis, 2);
    route(7, APIC_INIT << 8, 1);
    line(7, 1);
    CU_ASSERT_EQUAL(inits, 1);
    route(0, APIC_EXTINT << 8, 0);
    line(0, 1);
    CU_ASSERT_EQUAL(taken(0), LAPIC_ASK_8259);
    route(8, APIC_STARTUP << 8, 0); /* reserved */
    line(8, 1);
    route(10, APIC_RESERVED_3 << 8, 0);
    line(10, 1);
    route(11, 0x05 | IOAPIC_LEVEL, 0); /* an illegal vector, level-triggered */
    line(11, 1);
    CU_ASSERT_EQUAL(rd(IOAPIC_REDIRECTION + 22) & IOAPIC_REMOTE_IRR, 0);
    lapic_write(&apic[0], LAPIC_ESR, 0, 4);
    CU_ASSERT_EQUAL(lapic_read(&apic[0], LAPIC_ESR, 4), LAPIC_ERROR_RECEIVE_ILLEGAL);
    take_apart();
}

/* ---- tables ---- */

static uint8_t sum(const uint8_t *at, size_t size)
{
    uint8_t s = 0;
    while (size--)
        s = (uint8_t)(s + *at++);
    return s;
}

static uint32_t get32(const uint8_t *at)
{
    return at[0] | at[1] << 8 | at[2] << 16 | (uint32_t)at[3] << 24;
}

static void mp_table(void)
{
    static struct mp_table t;
    struct mp_config config = {.cpus = 2, .signature = 0x206a7, .features = 0x1234};
    mp_table_build(&t, &config);
    mp_table_place(&t, 0xf0800);
    CU_ASSERT_EQUAL(memcmp(t.data, "_MP_", 4), 0);
    CU_ASSERT_EQUAL(sum(t.data, 16), 0);
    CU_ASSERT_EQUAL(get32(t.data + 4), 0xf0810);
    const uint8_t *table = t.data + 16, *at = table + 44;
    unsigned length = table[4] | table[5] << 8, entries = table[34] | table[35] << 8, kinds[5] = {0}, pci = 0;
    CU_ASSERT_EQUAL(memcmp(table, "PCMP", 4), 0);
    CU_ASSERT_EQUAL(length + 16, t.size);
    CU_ASSERT_EQUAL(sum(table, length), 0);
    CU_ASSERT_EQUAL(get32(table + 36), 0xfee00000);
    for (unsigned i = 0; i < entries; i++) {
        CU_ASSERT_FATAL(at[0] <= 4);
        kinds[at[0]]++;
        if (at[0] == 2) {
            CU_ASSERT_EQUAL(at[1], 2);
            CU_ASSERT_EQUAL(get32(at + 4), 0xfec00000);
        }
        if (at[0] == 3 && at[4] == 0) {
            CU_ASSERT_EQUAL(at[2], 0xf);
            CU_ASSERT_EQUAL(at[7], 16 + pci_pirq_of(at[5] >> 2, (at[5] & 3) + 1));
            pci++;
        }
        if (at[0] == 3 && at[4] == 2 && at[5] == 0 && at[1] == 0)
            CU_ASSERT_EQUAL(at[7], 2);
        at += at[0] ? 8 : 20;
    }
    CU_ASSERT_PTR_EQUAL(at, table + length);
    CU_ASSERT(kinds[0] == 2 && kinds[1] == 3 && kinds[2] == 1 && kinds[3] == 15 + 124 && kinds[4] == 2);
    CU_ASSERT_EQUAL(pci, 124);
    config.cpus = 255; /* at most 16 are listed */
    mp_table_build(&t, &config);
    CU_ASSERT_EQUAL(t.data[16 + 44 + 16 * 20], 1);
}

static bool contains(const uint8_t *at, size_t size, const char *what, size_t length)
{
    for (size_t i = 0; i + length <= size; i++)
        if (!memcmp(at + i, what, length))
            return true;
    return false;
}

static void madt(void)
{
    struct acpi_tables t;
    struct acpi_config config = {.cpus = 2, .low_ram = 64 << 20, .floppy = true, .apic = true};
    struct memory memory;
    char err[200];
    CU_ASSERT_EQUAL_FATAL(memory_init(&memory, 4 << 20, err, sizeof err), 0);
    CU_ASSERT_EQUAL_FATAL(acpi_build(&t, &config), 0);
    acpi_write(&t, &memory, gpa(0x200000), gpa(0xf0440));
    const uint8_t *rsdt = memory_ram_hva(&memory, gpa(get32(memory_ram_hva(&memory, gpa(0xf0440)) + 16)));
    CU_ASSERT_EQUAL_FATAL(get32(rsdt + 4), 44);
    CU_ASSERT_EQUAL(sum(rsdt, 44), 0);
    const uint8_t *apics = memory_ram_hva(&memory, gpa(get32(rsdt + 40))), *at = apics + 44;
    CU_ASSERT_EQUAL(memcmp(apics, "APIC", 4), 0);
    CU_ASSERT_EQUAL(sum(apics, get32(apics + 4)), 0);
    CU_ASSERT_EQUAL(get32(apics + 36), 0xfee00000);
    CU_ASSERT_EQUAL(get32(apics + 40), 1);
    unsigned kinds[5] = {0};
    while (at < apics + get32(apics + 4)) {
        CU_ASSERT_FATAL(at[0] < 5 && at[1] >= 6);
        kinds[at[0]]++;
        if (at[0] == 1)
            CU_ASSERT(at[2] == 2 && get32(at + 4) == 0xfec00000 && get32(at + 8) == 0);
        if (at[0] == 2 && at[3] == 0)
            CU_ASSERT(get32(at + 4) == 2 && at[8] == 0);
        if (at[0] == 2 && at[3] == 9)
            CU_ASSERT(get32(at + 4) == 9 && at[8] == 0xf);
        at += at[1];
    }
    CU_ASSERT_PTR_EQUAL(at, apics + get32(apics + 4));
    CU_ASSERT(kinds[0] == 2 && kinds[1] == 1 && kinds[2] == 2 && kinds[4] == 1);
    CU_ASSERT_TRUE(contains(t.data, t.size, "\\_PIC", 5));
    CU_ASSERT_TRUE(contains(t.data, t.size, "PRTA", 4));
    acpi_free(&t);
    config.apic = false;
    CU_ASSERT_EQUAL_FATAL(acpi_build(&t, &config), 0);
    CU_ASSERT_FALSE(contains(t.data, t.size, "APIC", 4));
    CU_ASSERT_FALSE(contains(t.data, t.size, "\\_PIC", 5));
    acpi_free(&t);
    memory_destroy(&memory);
}

TEST_SUITE(ioapic, {"registers and bad accesses", registers}, {"edges, masks, polarity", edges},
           {"levels, Remote IRR, EOI", levels}, {"delivery modes", deliveries}, {"MP table", mp_table},
           {"MADT, _PIC, _PRT", madt})
