/* SPDX-License-Identifier: MIT */
#include "devices/mc146818.h"
#include "tests/test.h"

static struct mc146818 rtc;
static struct bus *ports;
static struct clock *clk;
static int level;
static unsigned edges;

static void on_irq(void *opaque, int n, int l)
{
    edges += l && !level;
    level = l;
}

static uint8_t get(uint8_t index)
{
    bus_write(ports, 0x70, index, 1);
    return (uint8_t)bus_read(ports, 0x71, 1);
}

static void set(uint8_t index, uint8_t value)
{
    bus_write(ports, 0x70, index, 1);
    bus_write(ports, 0x71, value, 1);
}

static void start(void)
{
    edges = 0, level = 0;
    ports = bus_create("ports", 65536);
    clk = clock_create(true);
    CU_ASSERT_EQUAL(mc146818_init(&rtc, ports, clk, (struct irq_line){on_irq, NULL, 0}), 0);
}

static void stop(void)
{
    clock_destroy(clk);
    bus_destroy(ports);
}

static void set_date(uint8_t century, uint8_t year, uint8_t month, uint8_t day, uint8_t hour, uint8_t minute,
                     uint8_t second)
{
    uint8_t b = get(11);
    set(11, b | 0x80);
    set(0x32, century), set(9, year), set(8, month), set(7, day), set(4, hour), set(2, minute), set(0, second);
    set(11, b);
}

static void time_of_day(void)
{
    start(); /* 2024-01-01 00:00:00, a Monday */
    CU_ASSERT_EQUAL(get(0x32), 0x20);
    CU_ASSERT_EQUAL(get(9), 0x24);
    CU_ASSERT_EQUAL(get(8), 1);
    CU_ASSERT_EQUAL(get(7), 1);
    CU_ASSERT_EQUAL(get(6), 2);
    clock_advance(clk, (13 * 3600 + 45 * 60 + 59) * NS_PER_SEC);
    CU_ASSERT_EQUAL(get(4), 0x13);
    CU_ASSERT_EQUAL(get(2), 0x45);
    CU_ASSERT_EQUAL(get(0), 0x59);
    set(11, 0x04); /* binary, 12 hours */
    CU_ASSERT_EQUAL(get(4), 0x81);
    CU_ASSERT_EQUAL(get(2), 45);
    set(11, 0x02);
    set_date(0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
    clock_advance(clk, 3 * NS_PER_SEC);
    CU_ASSERT_EQUAL(get(0x32), 0x20);
    CU_ASSERT_EQUAL(get(9), 0x00);
    CU_ASSERT_EQUAL(get(8), 0x01);
    CU_ASSERT_EQUAL(get(7), 0x01);
    CU_ASSERT_EQUAL(get(0), 0x01);
    CU_ASSERT_EQUAL(get(6), 7); /* a Saturday */
    set_date(0x20, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59);
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(get(7), 0x29);
    /* Without SET as well; and 12-hour midnight. */
    set(4, 0x12);
    CU_ASSERT_EQUAL(get(4), 0x12);
    set(11, 0x00);
    CU_ASSERT_EQUAL(get(4), 0x92);
    set(4, 0x12);
    set(11, 0x02);
    CU_ASSERT_EQUAL(get(4), 0x00);
    stop();
}

static void standing_still(void)
{
    start();
    set(11, 0x82);
    clock_advance(clk, 10 * NS_PER_SEC);
    CU_ASSERT_EQUAL(get(0), 0);
    CU_ASSERT_EQUAL(get(10) & 0x80, 0);
    set(0, 0x30);
    CU_ASSERT_EQUAL(get(0), 0x30);
    set(11, 0x02);
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(get(0), 0x31);
    /* Divider in reset; half a second to the first update when it leaves. */
    set(10, 0x76);
    clock_advance(clk, 5 * NS_PER_SEC);
    CU_ASSERT_EQUAL(get(0), 0x31);
    set(10, 0x26);
    clock_advance(clk, NS_PER_SEC / 2 - 1);
    CU_ASSERT_EQUAL(get(0), 0x31);
    CU_ASSERT_EQUAL(get(10), 0xa6); /* UIP */
    clock_advance(clk, 1);
    CU_ASSERT_EQUAL(get(0), 0x32);
    CU_ASSERT_EQUAL(get(10), 0x26);
    stop();
}

static void interrupts(void)
{
    start();
    get(12);
    set(11, 0x42); /* periodic, 1024 Hz */
    clock_advance(clk, NS_PER_MS);
    CU_ASSERT_EQUAL(level, 1);
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(edges, 1); /* nothing more until C is read */
    CU_ASSERT_EQUAL(get(12), 0xd0);
    CU_ASSERT_EQUAL(level, 0);
    edges = 0;
    for (unsigned i = 0; i < 1024 * 2; i++) {
        clock_advance(clk, NS_PER_SEC / 1024 + 1);
        (void)get(12);
    }
    CU_ASSERT_TRUE(edges >= 2047 && edges <= 2048);
    set(11, 0x12); /* update ended */
    (void)get(12);
    edges = 0;
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(edges, 1);
    CU_ASSERT_EQUAL(get(12) & 0x90, 0x90);
    CU_ASSERT_EQUAL(get(12), 0);
    CU_ASSERT_EQUAL(get(13), 0x80);
    set(11, 0x92);
    CU_ASSERT_EQUAL(get(11), 0x82); /* SET clears UIE */
    stop();
}

static void alarm_clock(void)
{
    start();
    set(1, 0x10), set(3, 0xc0), set(5, 0xff); /* second 10 of every minute */
    set(11, 0x22);
    for (unsigned i = 0; i < 5; i++) {
        clock_advance(clk, 9 * NS_PER_SEC);
        CU_ASSERT_EQUAL(level, 0);
        clock_advance(clk, 2 * NS_PER_SEC);
        CU_ASSERT_EQUAL(level, 1);
        CU_ASSERT_EQUAL(get(12) & 0xa0, 0xa0);
        clock_advance(clk, 49 * NS_PER_SEC);
    }
    CU_ASSERT_EQUAL(edges, 5);
    /* Flags appear without being enabled, too. */
    set(11, 0x02);
    (void)get(12);
    clock_advance(clk, 60 * NS_PER_SEC);
    CU_ASSERT_EQUAL(get(12) & 0xb0, 0x30);
    stop();
}

static void memory_bytes(void)
{
    start();
    mc146818_set(&rtc, 0x5b, 0x77);
    mc146818_set(&rtc, 9, 0x77);
    mc146818_set(&rtc, 1000, 0x77);
    CU_ASSERT_EQUAL(get(0x5b), 0x77);
    CU_ASSERT_EQUAL(get(9), 0x24);
    bus_write(ports, 0x70, 0x8f, 1);
    CU_ASSERT_TRUE(mc146818_nmi_off(&rtc));
    bus_write(ports, 0x71, 0x0a, 1);
    mc146818_reset(&rtc);
    CU_ASSERT_FALSE(mc146818_nmi_off(&rtc));
    CU_ASSERT_EQUAL(get(0x0f), 0x0a);
    /* Nonsense in every register. */
    for (unsigned round = 0; round < 256; round++) {
        for (unsigned i = 0; i < 128; i++)
            set((uint8_t)i, (uint8_t)(round * 31 + i * 7));
        clock_advance(clk, NS_PER_SEC);
        for (unsigned i = 0; i < 128; i++)
            (void)get((uint8_t)i);
    }
    stop();
}

TEST_SUITE(mc146818, {"time of day, formats, century", time_of_day}, {"SET, divider, UIP", standing_still},
           {"periodic and update interrupts", interrupts}, {"alarm", alarm_clock},
           {"memory, NMI mask, nonsense", memory_bytes})
