/* SPDX-License-Identifier: MIT */
/* Chips whose work somebody else does for a while (cpu/chips.h): given away and taken back they are as they were, lines
 * that move meanwhile are passed on, and the 8254 counts on. */
#include "cpu/chips.h"
#include "devices/i8254.h"
#include "devices/i8259.h"
#include "devices/ioapic.h"
#include "devices/lapic.h"
#include "tests/test.h"

#include <string.h>

static struct bus *ports, *memory_bus;
static struct clock *clk;
static struct i8259 pic;
static struct i8254 pit;
static struct apic_bus apic_bus;
static struct lapic apic;
static struct ioapic io;
static int intr, cpu_intr;
static uint64_t tsc;

static struct {
    unsigned count;
    int pin, level;
} passed; /* lines that went to the holder */

static void on_intr(void *opaque, int n, int level)
{
    intr = level;
}
static void on_cpu_intr(void *opaque, unsigned n, int level)
{
    cpu_intr = level;
}
static void on_other(void *opaque, unsigned n)
{
}
static void on_startup(void *opaque, unsigned n, uint8_t vector)
{
}
static uint64_t read_tsc(void *opaque)
{
    return tsc;
}
static uint64_t tsc_hz(void *opaque)
{
    return 1000000000;
}
static void on_passed(void *opaque, int n, int level)
{
    passed.count++;
    passed.pin = n;
    passed.level = level;
}
static const struct irq_line holder = {on_passed, NULL, 0};

static void out(uint16_t port, uint8_t value)
{
    bus_write(ports, port, value, 1);
}
static uint8_t in(uint16_t port)
{
    return (uint8_t)bus_read(ports, port, 1);
}

static void start(void)
{
    static const struct lapic_signals signals = {on_cpu_intr, on_other, on_other, on_other,
                                                 on_startup,  read_tsc, tsc_hz,   NULL};
    ports = bus_create("ports", 65536);
    memory_bus = bus_create("memory", UINT64_MAX);
    clk = clock_create(true);
    clock_advance(clk, 12345678);
    memset(&apic_bus, 0, sizeof apic_bus);
    memset(&passed, 0, sizeof passed);
    intr = cpu_intr = 0;
    CU_ASSERT_EQUAL(i8259_init(&pic, ports, (struct irq_line){on_intr, NULL, 0}), 0);
    CU_ASSERT_EQUAL(i8254_init(&pit, ports, clk, i8259_input(&pic, 0)), 0);
    CU_ASSERT_EQUAL(lapic_init(&apic, &apic_bus, clk, 0, 1000000000, &signals), 0);
    CU_ASSERT_EQUAL(ioapic_init(&io, memory_bus, &apic_bus, 9), 0);
    static const uint8_t words[2][4] = {{0x11, 0x20, 0x04, 0x01}, {0x11, 0x28, 0x02, 0x01}};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned n = 0; n < 4; n++)
            out((uint16_t)((i ? 0xa0 : 0x20) + (n > 0)), words[i][n]);
    lapic_write(&apic, LAPIC_SVR, 0x1ff, 4);
}

static void stop(void)
{
    lapic_destroy(&apic);
    clock_destroy(clk);
    bus_destroy(ports);
    bus_destroy(memory_bus);
}

static void set_pin(unsigned pin, int level)
{
    struct irq_line line = i8259_input(&pic, pin);
    irq_set(&line, level);
}

/* ---- 8259 pair ---- */

static void pic_round_trip(void)
{
    struct chips_pic chips[2];
    start();
    out(0x4d1, 0x02); /* pin 9 by level */
    set_pin(9, 1);
    set_pin(5, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x29);
    out(0x21, 0x40);
    out(0x0a1, 0x81);
    out(0x20, 0x0b); /* read ISR */
    struct i8259 before = pic;
    i8259_give(&pic, chips);
    CU_ASSERT_EQUAL(chips[0].irr, 0x20); /* without the cascade */
    CU_ASSERT_EQUAL(chips[0].isr, 0x04);
    CU_ASSERT_EQUAL(chips[1].isr, 0x02);
    CU_ASSERT_EQUAL(chips[1].irr, 0x02);
    CU_ASSERT_EQUAL(chips[1].lines, 0x02);
    CU_ASSERT_EQUAL(chips[1].elcr, 0x02);
    i8259_take(&pic, chips);
    CU_ASSERT_EQUAL(memcmp(pic.chip, before.chip, sizeof pic.chip), 0);
    out(0xa0, 0x20);
    out(0x20, 0x20);
    CU_ASSERT_EQUAL(intr, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x29); /* asks again */
    stop();
}

static void pic_lines_meanwhile(void)
{
    struct chips_pic chips[2];
    start();
    set_pin(4, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x24);
    out(0x20, 0x20);
    i8259_give(&pic, chips);
    set_pin(6, 1); /* nobody to tell yet */
    CU_ASSERT_EQUAL(passed.count, 0);
    i8259_forward(&pic, holder);
    set_pin(12, 1);
    CU_ASSERT(passed.count == 1 && passed.pin == 12 && passed.level == 1);
    set_pin(12, 1);
    CU_ASSERT_EQUAL(passed.count, 1);
    set_pin(4, 0);
    CU_ASSERT(passed.count == 2 && passed.pin == 4 && passed.level == 0);
    set_pin(4, 1);
    CU_ASSERT_EQUAL(intr, 0);
    chips[1].irr = 0x10; /* the holder saw the edge of pin 12, and has had that of pin 4 served */
    i8259_take(&pic, chips);
    CU_ASSERT_EQUAL(intr, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2c);
    out(0xa0, 0x20);
    out(0x20, 0x20);
    CU_ASSERT_EQUAL(intr, 0); /* pins 4, 6 and 12 are high, but that is no edge */
    set_pin(6, 0);
    set_pin(6, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x26);
    CU_ASSERT_EQUAL(passed.count, 3);
    stop();
}

/* ---- APICs ---- */

static void redirect(unsigned pin, uint32_t low)
{
    bus_write(memory_bus, IOAPIC_BASE + IOAPIC_INDEX, IOAPIC_REDIRECTION + 2 * pin, 4);
    bus_write(memory_bus, IOAPIC_BASE + IOAPIC_WINDOW, low, 4);
}

static void apics_round_trip(void)
{
    struct chips_ioapic given;
    struct chips_lapic local;
    struct irq_line edge = ioapic_input(&io, 20), level = ioapic_input(&io, 16);
    start();
    lapic_write(&apic, LAPIC_LVT_TIMER, 0x20050, 4); /* periodic */
    lapic_write(&apic, LAPIC_DIVIDE, 0xb, 4);
    lapic_write(&apic, LAPIC_INITIAL_COUNT, 1000000, 4);
    lapic_write(&apic, LAPIC_TPR, 0x10, 4);
    redirect(20, 0x61 | IOAPIC_ACTIVE_LOW);
    redirect(16, 0x62 | IOAPIC_LEVEL | IOAPIC_ACTIVE_LOW);
    irq_set(&edge, 1);
    irq_set(&level, 1);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic), 0x62);
    clock_advance(clk, 400000);
    CU_ASSERT_EQUAL(lapic_read(&apic, LAPIC_CURRENT_COUNT, 4), 600000);
    struct ioapic io_before = io;
    struct lapic before = apic;
    ioapic_give(&io, &given);
    lapic_give(&apic, &local);
    CU_ASSERT_EQUAL(cpu_intr, 0);
    CU_ASSERT_FALSE(lapic_maps(&apic, LAPIC_DEFAULT_BASE));
    CU_ASSERT_FALSE(timer_armed(&apic.timer));
    CU_ASSERT_EQUAL(given.lines, 1 << 20 | 1 << 16);
    CU_ASSERT_EQUAL(local.registers[LAPIC_CURRENT_COUNT >> 4], 600000);
    CU_ASSERT_EQUAL(local.registers[(LAPIC_ISR >> 4) + 3], 4);
    CU_ASSERT_EQUAL(local.registers[(LAPIC_IRR >> 4) + 3], 2);
    clock_advance(clk, 10000000); /* the holder says where it is */
    local.registers[LAPIC_CURRENT_COUNT >> 4] = 250000;
    lapic_take(&apic, &local, 0);
    ioapic_take(&io, &given);
    CU_ASSERT_EQUAL(memcmp(apic.isr, before.isr, sizeof apic.isr), 0);
    CU_ASSERT_EQUAL(memcmp(apic.irr, before.irr, sizeof apic.irr), 0);
    CU_ASSERT_EQUAL(memcmp(apic.tmr, before.tmr, sizeof apic.tmr), 0);
    CU_ASSERT_EQUAL(memcmp(apic.lvt, before.lvt, sizeof apic.lvt), 0);
    CU_ASSERT(apic.svr == before.svr && apic.dfr == before.dfr && apic.id == before.id && apic.base == before.base);
    CU_ASSERT_EQUAL(lapic_tpr(&apic), 0x10);
    CU_ASSERT_EQUAL(memcmp(io.redirection, io_before.redirection, sizeof io.redirection), 0);
    CU_ASSERT_EQUAL(io.asserted, io_before.asserted);
    lapic_write(&apic, LAPIC_EOI, 0, 4); /* the level is up: it asks again; both wait */
    CU_ASSERT_EQUAL(cpu_intr, 1);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic), 0x62);
    clock_advance(clk, 249999);
    CU_ASSERT_EQUAL(apic.irr[2], 0);
    clock_advance(clk, 1);
    CU_ASSERT_EQUAL(apic.irr[2], 1 << 16); /* vector 50h */
    stop();
}

static void apic_timer_ends(void)
{
    struct chips_lapic local;
    start();
    lapic_write(&apic, LAPIC_DIVIDE, 0xb, 4);
    lapic_write(&apic, LAPIC_LVT_TIMER, 0x50, 4); /* a count that has ended does not end again */
    lapic_write(&apic, LAPIC_INITIAL_COUNT, 1000, 4);
    clock_advance(clk, 5000);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic), 0x50);
    lapic_give(&apic, &local);
    lapic_take(&apic, &local, 0);
    clock_advance(clk, 5000);
    CU_ASSERT_EQUAL(apic.irr[2], 0);
    CU_ASSERT_EQUAL(lapic_read(&apic, LAPIC_INITIAL_COUNT, 4), 1000);
    lapic_write(&apic, LAPIC_EOI, 0, 4);
    lapic_write(&apic, LAPIC_LVT_TIMER, 0x40051, 4); /* a TSC deadline */
    tsc = 1000000;
    lapic_set_tsc_deadline(&apic, 1500000, 0);
    lapic_give(&apic, &local);
    CU_ASSERT_EQUAL(local.tsc_deadline, 1500000);
    lapic_take(&apic, &local, 0);
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic), 1500000);
    tsc = 1500000;
    clock_advance(clk, 500000);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic), 0x51);
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic), 0);
    stop();
}

/* ---- 8254 ---- */

static uint64_t tick(void)
{
    return clock_ns_to_ticks(clock_now(clk), I8254_HZ);
}
static void to_tick(uint64_t t)
{
    clock_advance(clk, clock_ticks_to_ns(t, I8254_HZ) - clock_now(clk));
}
static void set(unsigned n, unsigned mode, uint16_t value)
{
    out(0x43, (uint8_t)(n << 6 | 0x30 | mode << 1));
    out((uint16_t)(0x40 + n), (uint8_t)value);
    out((uint16_t)(0x40 + n), (uint8_t)(value >> 8));
}
static uint16_t count(unsigned n)
{
    out(0x43, (uint8_t)(n << 6));
    uint8_t low = in((uint16_t)(0x40 + n));
    return (uint16_t)(low | in((uint16_t)(0x40 + n)) << 8);
}
static bool irq0(void)
{
    return pic.chip[0].irr & 1;
}
static void give_and_take(void)
{
    struct chips_pit chips;
    i8254_give(&pit, &chips);
    CU_ASSERT_FALSE(timer_armed(&pit.edge));
    i8254_take(&pit, &chips);
}

/* In the same places of the count as if nothing had happened. */
static void pit_counts_on(void)
{
    start();
    for (unsigned mode = 0; mode < 5; mode++) {
        if (mode == 1)
            continue;
        set(0, mode, 1000);
        uint64_t t = tick() + 1;
        to_tick(t + 400);
        uint16_t before = count(0);
        give_and_take();
        CU_ASSERT_EQUAL(count(0), before);
        to_tick(t + 700);
        give_and_take();
        CU_ASSERT_EQUAL(count(0), mode == 3 ? 600 : 300);
        i8259_reset(&pic);
        to_tick(t + 1000 + (mode == 4) - 2);
        CU_ASSERT_FALSE(irq0());
        to_tick(t + 1000 + (mode == 4));
        CU_ASSERT(irq0());
        if (mode == 2 || mode == 3) {
            to_tick(t + 5300);
            give_and_take();
            CU_ASSERT_EQUAL(count(0), mode == 3 ? 400 : 700);
        } else {
            to_tick(t + 1100);
            give_and_take();
            CU_ASSERT_EQUAL(count(0), (uint16_t)-100);
            CU_ASSERT(i8254_output(&pit, 0));
        }
    }
    stop();
}

/* A new count that waits for the period's end; counter 2 with its gate; nothing programmed at all. */
static void pit_other_states(void)
{
    struct chips_pit chips;
    start();
    give_and_take();
    CU_ASSERT_FALSE(timer_armed(&pit.edge));
    CU_ASSERT_FALSE(pit.counter[0].programmed || pit.counter[0].running);
    set(0, 2, 1000);
    uint64_t t = tick() + 1;
    to_tick(t + 400);
    out(0x40, 0xd0); /* 2000 */
    out(0x40, 0x07);
    i8254_give(&pit, &chips);
    CU_ASSERT(chips.counter[0].loaded == 2000 && chips.counter[0].left == 600);
    i8254_take(&pit, &chips);
    i8259_reset(&pic);
    to_tick(t + 998);
    CU_ASSERT_FALSE(irq0());
    to_tick(t + 1000);
    CU_ASSERT(irq0());
    to_tick(t + 1500);
    CU_ASSERT_EQUAL(count(0), 1500);
    i8254_give(&pit, &chips); /* what is to be made up for comes eight times as fast */
    chips.missed = 2;
    i8254_take(&pit, &chips);
    CU_ASSERT_EQUAL(pit.backlog, 2);
    to_tick(t + 1800);
    CU_ASSERT_EQUAL(pit.backlog, 1);
    i8254_give(&pit, &chips);
    CU_ASSERT_EQUAL(chips.missed, 1);
    i8254_take(&pit, &chips);
    out(0x61, 0);
    set(2, 0, 500); /* the gate is low: it waits */
    give_and_take();
    CU_ASSERT_EQUAL(count(2), 500);
    out(0x61, 1);
    to_tick(tick() + 600);
    CU_ASSERT_EQUAL(in(0x61) & 0x21, 0x21);
    give_and_take();
    CU_ASSERT_EQUAL(in(0x61) & 0x21, 0x21);
    stop();
}

TEST_SUITE(chips, {"the 8259s, given away and taken back", pic_round_trip},
           {"lines of the 8259s that move meanwhile", pic_lines_meanwhile}, {"both APICs", apics_round_trip},
           {"the local APIC's single counts and deadlines", apic_timer_ends},
           {"the 8254 counts on, in every mode", pit_counts_on}, {"other states of the 8254", pit_other_states})
