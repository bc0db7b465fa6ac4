/* SPDX-License-Identifier: MIT */
#include "devices/i8254.h"
#include "tests/test.h"

static struct i8254 pit;
static struct bus *ports;
static struct clock *clk;
static int level;
static unsigned edges;

static void on_irq(void *opaque, int n, int l)
{
    edges += l && !level;
    level = l;
}

static void out(uint16_t port, uint8_t value)
{
    bus_write(ports, port, value, 1);
}

static uint8_t in(uint16_t port)
{
    return (uint8_t)bus_read(ports, port, 1);
}

static uint64_t tick(void)
{
    return clock_ns_to_ticks(clock_now(clk), I8254_HZ);
}

static void to_tick(uint64_t t)
{
    clock_advance(clk, clock_ticks_to_ns(t, I8254_HZ) - clock_now(clk));
}

static uint16_t count(unsigned n)
{
    out(0x43, (uint8_t)(n << 6));
    uint8_t low = in((uint16_t)(0x40 + n));
    return (uint16_t)(low | in((uint16_t)(0x40 + n)) << 8);
}

static uint8_t status(unsigned n)
{
    out(0x43, (uint8_t)(0xe0 | 2u << n));
    return in((uint16_t)(0x40 + n));
}

static void set(unsigned n, unsigned mode, uint16_t value)
{
    out(0x43, (uint8_t)(n << 6 | 0x30 | mode << 1));
    out((uint16_t)(0x40 + n), (uint8_t)value);
    out((uint16_t)(0x40 + n), (uint8_t)(value >> 8));
}

static void start(void)
{
    edges = 0, level = 0;
    ports = bus_create("ports", 65536);
    clk = clock_create(true);
    clock_advance(clk, 12345678);
    CU_ASSERT_EQUAL(i8254_init(&pit, ports, clk, (struct irq_line){on_irq, NULL, 0}), 0);
}

static void stop(void)
{
    clock_destroy(clk);
    bus_destroy(ports);
}

static void one_shot(void)
{
    start();
    set(0, 0, 1000);
    uint64_t t = tick() + 1;                 /* loaded with the next pulse */
    CU_ASSERT_EQUAL(status(0) & 0xc0, 0x40); /* OUT low, null count */
    to_tick(t + 400);
    CU_ASSERT_EQUAL(count(0), 600);
    CU_ASSERT_EQUAL(status(0), 0x30);
    to_tick(t + 999);
    CU_ASSERT_EQUAL(edges, 0);
    to_tick(t + 1000);
    CU_ASSERT_EQUAL(edges, 1);
    CU_ASSERT_EQUAL(status(0), 0xb0);
    to_tick(t + 1003);
    CU_ASSERT_EQUAL(count(0), 0xfffd); /* counts on */
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(edges, 1);
    set(0, 4, 10); /* strobe */
    CU_ASSERT_EQUAL(edges, 1);
    t = tick() + 1;
    to_tick(t + 10);
    CU_ASSERT_EQUAL(status(0) & 0x80, 0);
    to_tick(t + 11);
    CU_ASSERT_EQUAL(status(0) & 0x80, 0x80);
    CU_ASSERT_EQUAL(edges, 2);
    stop();
}

static void periodic(void)
{
    start();
    set(0, 2, 1000);
    uint64_t t = tick() + 1;
    edges = 0;
    to_tick(t + 10 * 1000 - 1);
    CU_ASSERT_EQUAL(edges, 9);
    CU_ASSERT_EQUAL(status(0) & 0x80, 0); /* the last tick of a period */
    CU_ASSERT_EQUAL(count(0), 1);
    to_tick(t + 10 * 1000);
    CU_ASSERT_EQUAL(edges, 10);
    CU_ASSERT_EQUAL(count(0), 1000);
    /* A new count takes over at the end of the period. */
    to_tick(t + 10 * 1000 + 10);
    out(0x40, 200), out(0x40, 0);
    CU_ASSERT_EQUAL(count(0), 990);
    CU_ASSERT_EQUAL(status(0) & 0x40, 0x40);
    to_tick(t + 11 * 1000 + 50);
    CU_ASSERT_EQUAL(count(0), 150);
    CU_ASSERT_EQUAL(edges, 11);
    to_tick(t + 11 * 1000 + 2000);
    CU_ASSERT_EQUAL(edges, 21);
    set(0, 2, 0); /* 65536 */
    edges = 0;
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(edges, 18);
    stop();
}

static void square_wave(void)
{
    start();
    out(0x61, 1);
    set(2, 3, 10);
    uint64_t t = tick() + 1;
    static const uint8_t even[10] = {10, 8, 6, 4, 2, 10, 8, 6, 4, 2};
    for (unsigned i = 0; i < 30; i++) {
        to_tick(t + i);
        CU_ASSERT_EQUAL(count(2), even[i % 10]);
        CU_ASSERT_EQUAL(in(0x61) >> 5 & 1, i % 10 < 5);
    }
    set(2, 3, 5);
    t = tick() + 1;
    static const uint8_t odd[5] = {4, 2, 0, 4, 2};
    for (unsigned i = 0; i < 15; i++) {
        to_tick(t + i);
        CU_ASSERT_EQUAL(count(2), odd[i % 5]);
        CU_ASSERT_EQUAL(in(0x61) >> 5 & 1, i % 5 < 3);
    }
    /* A new count waits for the end of the half. */
    set(2, 3, 100);
    t = tick() + 1;
    to_tick(t + 20);
    out(0x42, 40), out(0x42, 0);
    to_tick(t + 49);
    CU_ASSERT_TRUE(i8254_output(&pit, 2));
    to_tick(t + 50);
    CU_ASSERT_FALSE(i8254_output(&pit, 2));
    to_tick(t + 69);
    CU_ASSERT_FALSE(i8254_output(&pit, 2));
    to_tick(t + 70);
    CU_ASSERT_TRUE(i8254_output(&pit, 2));
    /* Gate low: OUT high, no counting; gate high: from the top. */
    out(0x61, 0);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0x20);
    uint16_t held = count(2);
    to_tick(t + 300);
    CU_ASSERT_EQUAL(count(2), held);
    out(0x61, 1);
    to_tick(tick() + 1);
    CU_ASSERT_EQUAL(count(2), 40);
    stop();
}

static void gates(void)
{
    start();
    /* Mode 0 pauses. */
    out(0x61, 1);
    set(2, 0, 100);
    uint64_t t = tick() + 1;
    to_tick(t + 30);
    out(0x61, 0);
    to_tick(t + 500);
    CU_ASSERT_EQUAL(count(2), 70);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0);
    out(0x61, 1);
    to_tick(t + 569);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0);
    to_tick(t + 570);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0x20);
    /* Mode 1 starts with the gate and can be started again. */
    out(0x61, 0);
    set(2, 1, 50);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0x20);
    out(0x61, 1);
    t = tick() + 1;
    to_tick(t + 40);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0);
    out(0x61, 0), out(0x61, 1);
    to_tick(t + 80);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0);
    to_tick(t + 91);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0x20);
    /* Mode 5: one low tick. */
    out(0x61, 0);
    set(2, 5, 20);
    out(0x61, 1);
    t = tick() + 1;
    to_tick(t + 20);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0);
    to_tick(t + 21);
    CU_ASSERT_EQUAL(in(0x61) & 0x20, 0x20);
    CU_ASSERT_EQUAL(in(0x61) & 0x0f, 1);
    out(0x61, 0xff);
    CU_ASSERT_EQUAL(in(0x61) & 0xcf, 0x0f); /* bits 7-6 are read-only */
    stop();
}

static void reading(void)
{
    start();
    out(0x43, 0x35);                  /* counter 0, mode 2, BCD */
    out(0x40, 0x00), out(0x40, 0x10); /* 1000 */
    uint64_t t = tick() + 1;
    to_tick(t + 1);
    CU_ASSERT_EQUAL(count(0), 0x999);
    /* A latched count stays, and a second latch command does nothing. */
    out(0x43, 0);
    to_tick(t + 500);
    out(0x43, 0);
    CU_ASSERT_EQUAL(in(0x40), 0x99);
    CU_ASSERT_EQUAL(in(0x40), 0x09);
    /* Read-back of both: status first. */
    out(0x43, 0xc2);
    CU_ASSERT_EQUAL(in(0x40), 0xb5);
    CU_ASSERT_EQUAL(in(0x40), 0x00);
    CU_ASSERT_EQUAL(in(0x40), 0x05);
    out(0x43, 0x20 | 0x04), out(0x40, 0x02); /* high byte only: 512 */
    t = tick() + 1;
    to_tick(t + 1);
    CU_ASSERT_EQUAL(in(0x40), 1);
    CU_ASSERT_EQUAL(in(0x43), 0xff);
    stop();
}

/* bad-inputs.md: read of a counter in a bad mode; divisors 0 and 1; every control word and count. */
static void bad_programs(void)
{
    start();
    for (unsigned control = 0; control < 256; control++) {
        for (unsigned value = 0; value < 4; value++) {
            out(0x43, (uint8_t)control);
            for (unsigned port = 0x40; port < 0x43; port++) {
                (void)in((uint16_t)port);
                out((uint16_t)port, (uint8_t)value);
                (void)in((uint16_t)port);
            }
            out(0x61, (uint8_t)value);
            clock_advance(clk, 100 * NS_PER_US);
        }
    }
    out(0x43, 0x14), out(0x40, 1); /* count 1 in mode 2 */
    edges = 0;
    clock_advance(clk, NS_PER_MS);
    CU_ASSERT_TRUE(edges > 0 && edges <= 100); /* bounded */
    i8254_reset(&pit);
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(level, 0);
    stop();
}

/* The host sleeps for 20 periods: they are made up at twice the rate, not all at once, and the grid stays. */
static void late_host(void)
{
    start();
    set(0, 2, 1193);
    uint64_t t = tick() + 1;
    to_tick(t + 1193);
    edges = 0;
    struct timer *armed = &pit.edge;
    timer_cancel(armed); /* nobody runs the clock */
    to_tick(t + 1193 * 21 + 100);
    timer_arm(armed, clock_ticks_to_ns(t + 1193 * 2, I8254_HZ));
    clock_run(clk);
    CU_ASSERT_EQUAL(edges, 1);
    to_tick(t + 1193 * 61);
    CU_ASSERT_EQUAL(edges, 60);
    to_tick(t + 1193 * 161);
    CU_ASSERT_EQUAL(edges, 160);
    stop();
}

static bool waiting;

static bool irq_waits(void *opaque)
{
    return waiting;
}

/* The processor is held up for 10 periods: what it could not see is made up once it takes interrupts again. */
static void late_processor(void)
{
    start();
    pit.irq0_waiting = irq_waits;
    set(0, 2, 1193);
    uint64_t t = tick() + 1;
    waiting = false;
    to_tick(t + 1193);
    waiting = true;
    to_tick(t + 1193 * 11);
    waiting = false;
    edges = 0;
    to_tick(t + 1193 * 13 + 100);
    CU_ASSERT_EQUAL(edges, 12);
    edges = 0;
    to_tick(t + 1193 * 23 + 100);
    CU_ASSERT_EQUAL(edges, 10);
    stop();
}

/* By the host's clock: the shortest counts run out while they are being written, and none may be lost. */
static void short_counts(void)
{
    ports = bus_create("ports", 65536);
    clk = clock_create(false);
    CU_ASSERT_EQUAL(i8254_init(&pit, ports, clk, (struct irq_line){on_irq, NULL, 0}), 0);
    static const unsigned modes[] = {0, 4};
    for (unsigned m = 0; m < 2; m++) {
        unsigned lost = 0;
        set(0, modes[m], 0x1000);
        for (unsigned i = 0; i < 20000; i++) {
            out(0x40, 1);
            edges = 0;
            out(0x40, 0);
            lost += !edges && !timer_armed(&pit.edge);
        }
        CU_ASSERT_EQUAL(lost, 0);
    }
    stop();
}

TEST_SUITE(i8254, {"modes 0 and 4", one_shot}, {"counts of one tick", short_counts},
           {"ticks that the processor missed", late_processor}, {"mode 2", periodic}, {"mode 3", square_wave},
           {"gates, modes 1 and 5", gates}, {"latches, read-back, BCD", reading},
           {"every control word, bad counts", bad_programs}, {"missed periods are made up", late_host})
