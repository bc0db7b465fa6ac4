/* SPDX-License-Identifier: MIT */
#include "devices/uart16550.h"
#include "tests/test.h"

#include <string.h>

static struct uart16550 uart;
static struct bus *ports;
static struct clock *clk;
static struct chardev dev;
static int level;
static unsigned edges;
static char sent[256];
static unsigned sent_count;
static const char *input; /* what the back end still has */

static void on_irq(void *opaque, int n, int l)
{
    edges += l && !level;
    level = l;
}

static void backend_write(void *backend, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len && sent_count < sizeof sent; i++)
        sent[sent_count++] = (char)buf[i];
}

/* Gives the chip as much as it takes. */
static void backend_feed(void *backend)
{
    while (input && *input) {
        size_t room = dev.can_receive(dev.chip), len = strlen(input);
        if (!room)
            return;
        len = len < room ? len : room;
        const char *from = input;
        input += len;
        dev.receive(dev.chip, (const uint8_t *)from, len);
    }
}

static void out(unsigned reg, uint8_t value)
{
    bus_write(ports, 0x3f8 + reg, value, 1);
}

static uint8_t in(unsigned reg)
{
    return (uint8_t)bus_read(ports, 0x3f8 + reg, 1);
}

static void start(void)
{
    edges = 0, level = 0, sent_count = 0, input = NULL;
    ports = bus_create("ports", 65536);
    clk = clock_create(true);
    dev = (struct chardev){.write = backend_write, .accept_input = backend_feed};
    CU_ASSERT_EQUAL(uart16550_init(&uart, ports, 0x3f8, clk, (struct irq_line){on_irq, NULL, 0}, &dev), 0);
    out(3, 0x83), out(0, 1), out(1, 0), out(3, 3); /* 115200 8N1 */
}

static void stop(void)
{
    clock_destroy(clk);
    bus_destroy(ports);
}

static void transmit(void)
{
    start();
    CU_ASSERT_EQUAL(in(5), 0x60);
    out(0, 'H'), out(0, 'i');
    CU_ASSERT_EQUAL(sent_count, 2);
    CU_ASSERT_EQUAL(memcmp(sent, "Hi", 2), 0);
    CU_ASSERT_EQUAL(in(2), 1);
    out(4, 8);
    out(1, 2);
    CU_ASSERT_EQUAL(level, 1); /* the transmitter is empty */
    CU_ASSERT_EQUAL(in(2), 2);
    CU_ASSERT_EQUAL(level, 0); /* reading IIR took it back */
    CU_ASSERT_EQUAL(in(2), 1);
    edges = 0;
    out(0, 'x'), out(0, 'y');
    CU_ASSERT_EQUAL(edges, 2); /* an edge for every byte */
    CU_ASSERT_EQUAL(in(2), 2);
    out(1, 0), out(1, 2);
    CU_ASSERT_EQUAL(level, 1); /* enabling asks again */
    out(4, 0);
    CU_ASSERT_EQUAL(level, 0); /* OUT2 disconnects */
    out(7, 0x5a);
    CU_ASSERT_EQUAL(in(7), 0x5a);
    out(3, 2); /* seven bits */
    sent_count = 0;
    out(0, 0xc1);
    CU_ASSERT_EQUAL(sent[0], 0x41);
    stop();
}

static void receive(void)
{
    start();
    out(2, 0x81); /* FIFO, trigger 8 */
    out(1, 5), out(4, 0x0b);
    input = "1234567";
    backend_feed(NULL);
    CU_ASSERT_EQUAL(level, 0);
    CU_ASSERT_EQUAL(in(5), 0x61);
    clock_advance(clk, 400 * NS_PER_US); /* four characters at 115200 */
    CU_ASSERT_EQUAL(level, 1);
    CU_ASSERT_EQUAL(in(2), 0xcc);
    CU_ASSERT_EQUAL(in(0), '1');
    CU_ASSERT_EQUAL(level, 0);
    input = "ab";
    backend_feed(NULL);
    CU_ASSERT_EQUAL(in(2), 0xc4);
    CU_ASSERT_EQUAL(in(0), '2');
    CU_ASSERT_EQUAL(in(2), 0xc1);
    uart16550_receive_break(&uart);
    CU_ASSERT_EQUAL(in(5), 0xe1); /* an error waits in the FIFO */
    for (unsigned i = 0; i < 7; i++)
        (void)in(0);
    CU_ASSERT_EQUAL(in(2), 0xc6);
    CU_ASSERT_EQUAL(in(5) & 0x1f, 0x11);
    CU_ASSERT_EQUAL(in(0), 0);
    CU_ASSERT_EQUAL(in(5), 0x60);
    out(2, 0);
    input = "AB"; /* no FIFO: one at a time */
    backend_feed(NULL);
    CU_ASSERT_EQUAL(in(2), 4);
    CU_ASSERT_EQUAL(in(0), 'A');
    CU_ASSERT_EQUAL(in(0), 'B');
    CU_ASSERT_EQUAL(in(0), 'B');
    stop();
}

/* Nothing is lost: not before a driver is there, not when it clears the FIFO, not when there is more than fits. */
static void nothing_lost(void)
{
    static const char text[] = "the quick brown fox jumps over the lazy dog 0123456789";
    start();
    input = text;
    backend_feed(NULL);
    CU_ASSERT_PTR_EQUAL(input, text);
    for (unsigned i = 0; i < 20; i++) { /* an early console only sends */
        (void)in(5);
        out(0, '.');
    }
    out(4, 9); /* DTR */
    out(2, 7), out(2, 0), out(2, 0xc7);
    (void)in(5), (void)in(0);
    CU_ASSERT_PTR_EQUAL(input, text);
    out(4, 0x0b); /* RTS */
    char got[sizeof text] = "";
    unsigned n = 0;
    for (unsigned i = 0; i < 1000 && n < sizeof text - 1; i++)
        if (in(5) & 1)
            got[n++] = (char)in(0);
    CU_ASSERT_STRING_EQUAL(got, text);
    /* A program that polls without ever touching MCR. */
    uart16550_reset(&uart);
    out(3, 3);
    input = text;
    memset(got, 0, sizeof got);
    n = 0;
    for (unsigned i = 0; i < 1000 && n < sizeof text - 1; i++)
        if (in(5) & 1)
            got[n++] = (char)in(0);
    CU_ASSERT_STRING_EQUAL(got, text);
    stop();
}

static void loop_back(void)
{
    start();
    CU_ASSERT_EQUAL(in(6), 0xb0);
    out(4, 0x1a); /* OUT2, RTS */
    CU_ASSERT_EQUAL(in(6) & 0xf0, 0x90);
    CU_ASSERT_EQUAL(in(6) & 0x0f, 0);
    out(4, 0x15);
    CU_ASSERT_EQUAL(in(6), 0x60 | 0x0b);
    out(4, 0x10);
    CU_ASSERT_EQUAL(in(6), 0x06); /* RI fell: TERI */
    sent_count = 0;
    out(0, 0x99);
    CU_ASSERT_EQUAL(sent_count, 0);
    CU_ASSERT_EQUAL(in(5), 0x61);
    out(0, 0x98);
    CU_ASSERT_EQUAL(in(5), 0x63); /* overrun */
    CU_ASSERT_EQUAL(in(5), 0x61);
    CU_ASSERT_EQUAL(in(0), 0x98);
    out(2, 1);
    for (unsigned i = 0; i < 20; i++)
        out(0, (uint8_t)i);
    CU_ASSERT_EQUAL(in(5) & 2, 2);
    for (unsigned i = 0; i < 16; i++)
        CU_ASSERT_EQUAL(in(0), i); /* the FIFO kept the first sixteen */
    CU_ASSERT_EQUAL(in(5), 0x60);
    out(1, 0x0f);
    CU_ASSERT_EQUAL(level, 0);
    stop();
}

/* bad-inputs.md: divisor 0, divisor greater than the base; and every register with every value. */
static void bad_divisors(void)
{
    static const uint16_t divisors[] = {0, 1, 0xffff, 0x8000};
    for (unsigned i = 0; i < sizeof divisors / sizeof divisors[0]; i++) {
        start();
        out(3, 0x83), out(0, (uint8_t)divisors[i]), out(1, (uint8_t)(divisors[i] >> 8));
        CU_ASSERT_EQUAL(in(0) | in(1) << 8, divisors[i]);
        out(3, 3), out(2, 0xc1), out(1, 1), out(4, 0x0b);
        out(0, 'x');
        CU_ASSERT_EQUAL(sent[0], 'x');
        input = "y";
        backend_feed(NULL);
        clock_advance(clk, 20 * NS_PER_MS);
        CU_ASSERT_EQUAL(level, 1);
        CU_ASSERT_EQUAL(in(2), 0xcc);
        stop();
    }
    start();
    for (unsigned value = 0; value < 256; value++) {
        for (unsigned reg = 0; reg < 8; reg++) {
            out(reg, (uint8_t)(value * (reg + 3)));
            (void)in(7 - reg);
        }
        input = "zzzzzzzzzzzzzzzzzzzzzz";
        backend_feed(NULL);
        clock_advance(clk, NS_PER_MS);
    }
    stop();
}

TEST_SUITE(uart16550, {"transmit and its interrupt", transmit}, {"receive, trigger, time-out, break", receive},
           {"no input is lost", nothing_lost}, {"loop-back and modem lines", loop_back},
           {"bad divisors, every value", bad_divisors})
