/* SPDX-License-Identifier: MIT */
#include "devices/i8259.h"
#include "tests/test.h"

static struct i8259 pic;
static struct bus *ports;
static int intr;

static void on_intr(void *opaque, int n, int level)
{
    intr = level;
}

static void out(uint16_t port, uint8_t value)
{
    bus_write(ports, port, value, 1);
}

static uint8_t in(uint16_t port)
{
    return (uint8_t)bus_read(ports, port, 1);
}

static void pin(unsigned n, int level)
{
    struct irq_line line = i8259_input(&pic, n);
    irq_set(&line, level);
}

/* Both chips as a BIOS programs them: vectors 0x20 and 0x28. */
static void start(uint8_t master_icw4)
{
    intr = 0;
    ports = bus_create("ports", 65536);
    CU_ASSERT_EQUAL(i8259_init(&pic, ports, (struct irq_line){on_intr, NULL, 0}), 0);
    out(0x20, 0x11), out(0x21, 0x20), out(0x21, 4), out(0x21, master_icw4);
    out(0xa0, 0x11), out(0xa1, 0x28), out(0xa1, 2), out(0xa1, 1);
}

static void stop(void)
{
    bus_destroy(ports);
}

static void priorities(void)
{
    start(1);
    pin(3, 1), pin(1, 1);
    CU_ASSERT_EQUAL(intr, 1);
    CU_ASSERT_EQUAL(in(0x20), 0x0a);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x21);
    CU_ASSERT_EQUAL(intr, 0); /* 3 waits behind 1 */
    out(0x20, 0x0b);
    CU_ASSERT_EQUAL(in(0x20), 0x02);
    pin(0, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x20); /* nested */
    out(0x20, 0x20);
    CU_ASSERT_EQUAL(in(0x20), 0x02);
    out(0x20, 0x61);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x23);
    out(0x20, 0x20);
    CU_ASSERT_EQUAL(intr, 0); /* all lines still high: edges were taken */
    out(0x21, 0xff);
    pin(4, 1);
    CU_ASSERT_EQUAL(intr, 0);
    out(0x21, 0xef);
    CU_ASSERT_EQUAL(intr, 1);
    CU_ASSERT_EQUAL(in(0x21), 0xef);
    stop();
}

static void cascade(void)
{
    start(1);
    pin(12, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2c);
    pin(14, 1);
    CU_ASSERT_EQUAL(intr, 0);
    pin(8, 1); /* above 12 on the slave, but the master is serving pin 2 */
    CU_ASSERT_EQUAL(intr, 0);
    out(0xa0, 0x20), out(0x20, 0x20);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x28);
    out(0xa0, 0x20), out(0x20, 0x20);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2e);
    stop();
}

static void special_fully_nested(void)
{
    start(0x11);
    pin(12, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2c);
    pin(5, 1);
    CU_ASSERT_EQUAL(intr, 0);
    pin(8, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x28);
    stop();
}

static void spurious(void)
{
    start(1);
    pin(5, 1), pin(5, 0);
    CU_ASSERT_EQUAL(intr, 0);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x27);
    out(0x20, 0x0b);
    CU_ASSERT_EQUAL(in(0x20), 0); /* not in service */
    /* A slave request that goes away between the two INTA pulses. */
    pin(10, 1);
    pic.chip[1].irr = 0;
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2f);
    CU_ASSERT_EQUAL(in(0x20), 4);
    stop();
}

static void level_pins(void)
{
    start(1);
    out(0x4d0, 0xff), out(0x4d1, 0xff);
    CU_ASSERT_EQUAL(in(0x4d0), 0xf8);
    CU_ASSERT_EQUAL(in(0x4d1), 0xde);
    pin(11, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2b);
    out(0xa0, 0x20), out(0x20, 0x20);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2b); /* still asserted */
    pin(11, 0);
    out(0xa0, 0x20), out(0x20, 0x20);
    CU_ASSERT_EQUAL(intr, 0);
    stop();
}

static void modes(void)
{
    start(3); /* automatic EOI */
    pin(6, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x26);
    out(0x20, 0x0b);
    CU_ASSERT_EQUAL(in(0x20), 0);
    out(0x20, 0x80); /* rotate on automatic EOI */
    pin(6, 0), pin(6, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x26);
    pin(5, 1), pin(7, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x27); /* 6 went to the bottom: 7 is the highest */
    stop();

    start(1);
    out(0x20, 0xc3); /* 3 lowest */
    pin(0, 1), pin(4, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x24);
    out(0x20, 0xa0); /* rotate on non-specific EOI */
    CU_ASSERT_EQUAL(pic.chip[0].lowest, 4);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x20);
    /* Special mask: a masked pin in service lets the others through. */
    pin(4, 0), pin(4, 1);
    out(0x20, 0xc7);
    CU_ASSERT_EQUAL(intr, 0);
    out(0x21, 1), out(0x20, 0x68);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x24);
    out(0x20, 0x20);
    out(0x20, 0x0b);
    CU_ASSERT_EQUAL(in(0x20), 1); /* the masked one is left in service */
    stop();

    start(1);
    out(0x20, 0x0c); /* poll */
    CU_ASSERT_EQUAL(in(0x20) & 0x80, 0);
    pin(1, 1);
    out(0x20, 0x0c);
    CU_ASSERT_EQUAL(in(0x20), 0x81);
    CU_ASSERT_EQUAL(intr, 0);
    out(0x20, 0x20);
    pin(9, 1), pin(10, 1);
    out(0x20, 0x0c);
    CU_ASSERT_EQUAL(in(0x20), 0x82);
    out(0xa0, 0x0c);
    CU_ASSERT_EQUAL(in(0xa0), 0x81);
    out(0xa0, 0x20), out(0x20, 0x20);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x2a);
    /* ICW1 forgets edges and masks. */
    out(0x21, 0xff);
    pin(3, 1);
    out(0x20, 0x13), out(0x21, 0x40), out(0x21, 1); /* single: no ICW3 */
    CU_ASSERT_EQUAL(in(0x21), 0);
    CU_ASSERT_EQUAL(intr, 0);
    pin(3, 0), pin(3, 1);
    CU_ASSERT_EQUAL(i8259_acknowledge(&pic), 0x43);
    stop();
}

TEST_SUITE(i8259, {"fully nested priorities, EOI, mask", priorities}, {"the slave", cascade},
           {"special fully nested", special_fully_nested}, {"spurious requests", spurious},
           {"level triggered pins", level_pins}, {"AEOI, rotation, special mask, poll, ICW1", modes})
