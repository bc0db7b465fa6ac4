/* SPDX-License-Identifier: MIT */
/* 8042, PS/2 keyboard and mouse, port 92, debug ports. */
#include "devices/debugport.h"
#include "devices/i8042.h"
#include "devices/port92.h"
#include "tests/test.h"

#include <string.h>

enum { IRQ1, IRQ12, A20, RESET, LINES };
static struct i8042 kbc;
static struct bus *ports;
static struct clock *clk;
static int level[LINES];
static unsigned rises[LINES];

static void on_line(void *opaque, int n, int l)
{
    rises[n] += l && !level[n];
    level[n] = l;
}

static struct irq_line line(int n)
{
    return (struct irq_line){on_line, NULL, n};
}

static void start(void)
{
    memset(level, 0, sizeof level);
    memset(rises, 0, sizeof rises);
    ports = bus_create("ports", 65536);
    clk = clock_create(true);
    CU_ASSERT_EQUAL(i8042_init(&kbc, ports, clk, line(IRQ1), line(IRQ12), line(A20), line(RESET)), 0);
}

static void stop(void)
{
    clock_destroy(clk);
    bus_destroy(ports);
}

static uint8_t status(void)
{
    return (uint8_t)bus_read(ports, 0x64, 1);
}

static void command(uint8_t value)
{
    bus_write(ports, 0x64, value, 1);
}

static void data(uint8_t value)
{
    bus_write(ports, 0x60, value, 1);
}

/* The next byte; -1: none comes. With 0x100 set when it is the mouse's. */
static int get(void)
{
    clock_advance(clk, NS_PER_MS);
    uint8_t s = status();
    if (!(s & 1))
        return -1;
    return (int)bus_read(ports, 0x60, 1) | (s & 0x20 ? 0x100 : 0);
}

static void expect(const char *file_line, const int *bytes, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        int got = get();
        if (got != bytes[i])
            printf("%s: byte %u is %x, not %x\n", file_line, i, (unsigned)got, (unsigned)bytes[i]);
        CU_ASSERT_EQUAL(got, bytes[i]);
    }
    CU_ASSERT_EQUAL(get(), -1);
}
#define STRING2(x) #x
#define STRING(x) STRING2(x)
#define EXPECT(...)                                                                                                    \
    do {                                                                                                               \
        static const int bytes[] = {__VA_ARGS__};                                                                      \
        expect("line " STRING(__LINE__), bytes, sizeof bytes / sizeof bytes[0]);                                       \
    } while (0)

static void mouse_command(uint8_t byte)
{
    command(0xd4);
    data(byte);
}

static void tap(unsigned key)
{
    ps2_keyboard_key(&kbc.keyboard, key, true);
    ps2_keyboard_key(&kbc.keyboard, key, false);
}

static void controller(void)
{
    start();
    CU_ASSERT_EQUAL(status(), 0x10);
    command(0xaa);
    EXPECT(0x55);
    CU_ASSERT_EQUAL(status() & 4, 4);
    command(0x20);
    EXPECT(0x47);
    command(0x60), data(0x74);
    command(0x20);
    EXPECT(0x74);
    command(0xab);
    EXPECT(0);
    command(0xa9);
    EXPECT(0);
    command(0xa8), command(0xae), command(0x20);
    EXPECT(0x44);
    command(0xd0);
    CU_ASSERT_EQUAL(get() & 3, 3);
    CU_ASSERT_EQUAL(level[A20], 1);
    command(0xd1), data(0xdd);
    CU_ASSERT_EQUAL(level[A20], 0);
    command(0xdf);
    CU_ASSERT_EQUAL(level[A20], 1);
    command(0xdd);
    CU_ASSERT_EQUAL(level[A20], 0);
    CU_ASSERT_EQUAL(rises[RESET], 0);
    command(0xff);
    CU_ASSERT_EQUAL(rises[RESET], 0);
    command(0xfe);
    CU_ASSERT_EQUAL(rises[RESET], 1);
    command(0xd1), data(0x02);
    CU_ASSERT_EQUAL(rises[RESET], 2);
    command(0xd3), data(0x42);
    EXPECT(0x142);
    command(0xd2), data(0x43);
    EXPECT(0x43);
    stop();
}

static void keys_translated(void)
{
    start();
    tap(0x1e);
    CU_ASSERT_EQUAL(level[IRQ1], 1);
    EXPECT(0x1e, 0x9e);
    CU_ASSERT_EQUAL(rises[IRQ1], 2);
    tap(0xe048);
    EXPECT(0xe0, 0x48, 0xe0, 0xc8);
    tap(0xe1);
    EXPECT(0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5);
    tap(0xe037);
    EXPECT(0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa);
    tap(0x41); /* F7: two set-2 codes translate to it */
    EXPECT(0x41, 0xc1);
    ps2_keyboard_key(&kbc.keyboard, 0x1d, true);
    EXPECT(0x1d);
    tap(0xe1);
    EXPECT(0xe0, 0x46, 0xe0, 0xc6);
    ps2_keyboard_key(&kbc.keyboard, 0x1d, false);
    EXPECT(0x9d);
    /* Every key of set 1 comes back as itself. */
    for (unsigned key = 1; key < 0x80; key++) {
        if (key == 0x61)
            continue;
        tap(key);
        CU_ASSERT_EQUAL(get(), (int)key);
        CU_ASSERT_EQUAL(get(), (int)(key | 0x80));
    }
    /* A byte stays readable until the wire brings the next. */
    clock_advance(clk, NS_PER_MS);
    tap(0x10);
    CU_ASSERT_EQUAL(bus_read(ports, 0x60, 1), 0x10);
    CU_ASSERT_EQUAL(status() & 1, 0);
    CU_ASSERT_EQUAL(bus_read(ports, 0x60, 1), 0x10);
    EXPECT(0x90);
    /* Interface off: the keyboard keeps it. */
    command(0xad);
    tap(0x11);
    CU_ASSERT_EQUAL(get(), -1);
    command(0xae);
    EXPECT(0x11, 0x91);
    /* Unknown keys. */
    tap(0), tap(0x1ff), tap(0xe000), tap(0xffffffff);
    CU_ASSERT_EQUAL(get(), -1);
    stop();
}

static void keyboard_commands(void)
{
    start();
    command(0x60), data(0x05); /* no translation */
    data(0xff);
    EXPECT(0xfa, 0xaa);
    data(0xf2);
    EXPECT(0xfa, 0xab, 0x83);
    data(0xee);
    EXPECT(0xee);
    data(0xed);
    EXPECT(0xfa);
    data(0x05);
    EXPECT(0xfa);
    CU_ASSERT_EQUAL(kbc.keyboard.leds, 5);
    data(0xfe);
    EXPECT(0xfa);
    data(0xed);
    EXPECT(0xfa);
    data(0xf4); /* a command instead of the argument */
    EXPECT(0xfa);
    CU_ASSERT_EQUAL(kbc.keyboard.leds, 5);
    data(0x00);
    EXPECT(0xfe);
    tap(0x1e);
    EXPECT(0x1c, 0xf0, 0x1c);
    tap(0xe1);
    EXPECT(0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77);
    data(0xf0), (void)get(), data(1);
    EXPECT(0xfa);
    tap(0xe04d);
    EXPECT(0xe0, 0x4d, 0xe0, 0xcd);
    data(0xf0), (void)get(), data(3);
    EXPECT(0xfa);
    tap(0x1e); /* typematic keys break, make-only keys do not */
    EXPECT(0x1c, 0xf0, 0x1c);
    tap(0x3b);
    EXPECT(0x07);
    data(0xf8);
    EXPECT(0xfa);
    tap(0x3b);
    EXPECT(0x07, 0xf0, 0x07);
    data(0xfd), (void)get(), data(0x1c);
    EXPECT(0xfa);
    data(0xf4);
    EXPECT(0xfa);
    tap(0x1e);
    EXPECT(0x1c);
    data(0xf0), (void)get(), data(0);
    EXPECT(0xfa, 0x03);
    data(0xf0), (void)get(), data(9);
    EXPECT(0xfe);
    data(0xf5);
    EXPECT(0xfa);
    tap(0x1e);
    CU_ASSERT_EQUAL(get(), -1);
    data(0xf4);
    EXPECT(0xfa);
    tap(0x1e);
    EXPECT(0x1c, 0xf0, 0x1c);
    stop();
}

static void repeat_and_overrun(void)
{
    start();
    ps2_keyboard_key(&kbc.keyboard, 0x1e, true);
    ps2_keyboard_key(&kbc.keyboard, 0x1e, true); /* the host's own repeat */
    EXPECT(0x1e);
    unsigned count = 0;
    for (unsigned i = 0; i < 1490; i++) /* a second after the 500 ms */
        count += get() == 0x1e;
    CU_ASSERT_TRUE(count >= 10 && count <= 12);
    ps2_keyboard_key(&kbc.keyboard, 0x1e, false);
    while (get() != 0x9e && count++ < 100) {
    }
    CU_ASSERT_EQUAL(get(), -1);
    clock_advance(clk, NS_PER_SEC);
    CU_ASSERT_EQUAL(get(), -1);
    /* Sixteen bytes and the overrun code; 0 in set 2 translates to 0xff. */
    for (unsigned i = 0; i < 30; i++)
        tap(0x1e);
    unsigned bytes = 0;
    int last = -1, b;
    while ((b = get()) >= 0 && bytes < 100)
        last = b, bytes++;
    CU_ASSERT_EQUAL(last, 0xff);
    CU_ASSERT_TRUE(bytes >= 10 && bytes <= 18);
    tap(0x1f);
    EXPECT(0x1f, 0x9f);
    stop();
}

static void mouse(void)
{
    start();
    mouse_command(0xff);
    EXPECT(0x1fa, 0x1aa, 0x100);
    CU_ASSERT_EQUAL(rises[IRQ12], 3);
    ps2_mouse_move(&kbc.mouse, 5, 5, 0, 1); /* not enabled */
    CU_ASSERT_EQUAL(get(), -1);
    mouse_command(0xe9);
    EXPECT(0x1fa, 0x104, 0x102, 0x164);
    mouse_command(0xf4);
    EXPECT(0x1fa);
    ps2_mouse_move(&kbc.mouse, 3, 4, 1, 1);
    EXPECT(0x129, 0x103, 0x1fc);
    ps2_mouse_move(&kbc.mouse, 300, 0, 0, 0); /* more than a packet holds */
    clock_advance(clk, 20 * NS_PER_MS);
    EXPECT(0x108, 0x1ff, 0x100, 0x108, 0x12d, 0x100);
    /* Motion gathers while a packet waits; clicks are not lost. */
    clock_advance(clk, 20 * NS_PER_MS);
    ps2_mouse_move(&kbc.mouse, 1, 0, 0, 0);
    ps2_mouse_move(&kbc.mouse, 1, 0, 0, 0);
    ps2_mouse_move(&kbc.mouse, 1, 0, 0, 1);
    ps2_mouse_move(&kbc.mouse, 0, 0, 0, 0);
    clock_advance(clk, 20 * NS_PER_MS);
    static const int clicks[] = {0x108, 0x101, 0x100, 0x109, 0x102, 0x100};
    for (unsigned i = 0; i < 6; i++)
        CU_ASSERT_EQUAL(get(), clicks[i]);
    clock_advance(clk, 20 * NS_PER_MS);
    EXPECT(0x108, 0x100, 0x100);
    /* Knocks: wheel, explorer. */
    static const uint8_t wheel[] = {200, 100, 80}, explorer[] = {200, 200, 80};
    for (unsigned i = 0; i < 3; i++) {
        mouse_command(0xf3), (void)get(), mouse_command(wheel[i]), (void)get();
    }
    mouse_command(0xf2);
    EXPECT(0x1fa, 0x103);
    ps2_mouse_move(&kbc.mouse, 0, 0, 1, 4);
    EXPECT(0x10c, 0x100, 0x100, 0x1ff);
    for (unsigned i = 0; i < 3; i++) {
        mouse_command(0xf3), (void)get(), mouse_command(explorer[i]), (void)get();
    }
    mouse_command(0xf2);
    EXPECT(0x1fa, 0x104);
    ps2_mouse_move(&kbc.mouse, 0, 0, -2, 0x18);
    clock_advance(clk, 20 * NS_PER_MS);
    EXPECT(0x108, 0x100, 0x100, 0x132);
    /* Remote and wrap. */
    mouse_command(0xf0);
    EXPECT(0x1fa);
    ps2_mouse_move(&kbc.mouse, 7, 0, 0, 0);
    CU_ASSERT_EQUAL(get(), -1);
    mouse_command(0xeb);
    EXPECT(0x1fa, 0x108, 0x107, 0x100, 0x100);
    mouse_command(0xee);
    EXPECT(0x1fa);
    mouse_command(0xf4);
    EXPECT(0x1f4);
    mouse_command(0xec);
    EXPECT(0x1fa);
    mouse_command(0xe8), (void)get(), mouse_command(9);
    EXPECT(0x1fe);
    mouse_command(0xff);
    EXPECT(0x1fa, 0x1aa, 0x100);
    mouse_command(0xf2);
    EXPECT(0x1fa, 0x100);
    stop();
}

static void both_devices(void)
{
    start();
    mouse_command(0xf4);
    EXPECT(0x1fa);
    command(0x20); /* the controller's answer occupies the buffer */
    ps2_mouse_move(&kbc.mouse, 1, 1, 0, 0);
    tap(0x1e);
    EXPECT(0x43, 0x1e, 0x9e, 0x128, 0x101, 0x1ff);
    stop();
}

static void nonsense(void)
{
    start();
    uint32_t random = 12345;
    for (unsigned i = 0; i < 200000; i++) {
        random = random * 1664525 + 1013904223;
        uint8_t value = (uint8_t)(random >> 16);
        switch (random >> 28) {
        case 0 ... 3:
            command(value);
            break;
        case 4 ... 8:
            data(value);
            break;
        case 9:
            ps2_keyboard_key(&kbc.keyboard, random >> 8 & 0xffff, random >> 27 & 1);
            break;
        case 10:
            ps2_mouse_move(&kbc.mouse, (int)(random << 3), (int)(random << 7), (int)(random << 9), value);
            break;
        case 11:
            clock_advance(clk, random >> 12);
            break;
        default:
            (void)status();
            (void)bus_read(ports, 0x60, 1);
        }
    }
    i8042_reset(&kbc);
    CU_ASSERT_EQUAL(status(), 0x10);
    ps2_mouse_move(&kbc.mouse, INT32_MIN, INT32_MAX, INT32_MIN, ~0u);
    stop();
}

static int exit_status;

static void on_exit_port(void *opaque, int value)
{
    exit_status = value;
}

static char console[64];
static unsigned console_count;

static void on_console(void *opaque, const uint8_t *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        console[console_count++ % 64] = (char)buf[i];
}

static void small_ports(void)
{
    struct port92 port92;
    struct debugport debug;
    struct chardev chardev = {.write = on_console};
    start();
    CU_ASSERT_EQUAL(port92_init(&port92, ports, line(A20), line(RESET)), 0);
    CU_ASSERT_EQUAL(bus_read(ports, 0x92, 1), 2);
    bus_write(ports, 0x92, 0, 1);
    CU_ASSERT_EQUAL(level[A20], 0);
    struct irq_line gate = port92_keyboard_a20(&port92);
    irq_set(&gate, 1);
    CU_ASSERT_EQUAL(level[A20], 1);
    CU_ASSERT_EQUAL(bus_read(ports, 0x92, 1), 2);
    bus_write(ports, 0x92, 3, 1);
    CU_ASSERT_EQUAL(rises[RESET], 1);
    bus_write(ports, 0x92, 3, 1);
    CU_ASSERT_EQUAL(rises[RESET], 1);

    CU_ASSERT_EQUAL(debugport_init(&debug, ports, DEBUGPORT_EXIT_EXACT, on_exit_port, NULL, &chardev), 0);
    bus_write(ports, 0xf4, 7, 1);
    CU_ASSERT_EQUAL(exit_status, 7);
    bus_write(ports, 0xf4, 9, 4);
    CU_ASSERT_EQUAL(exit_status, 9);
    debug.exit_mode = DEBUGPORT_EXIT_QEMU;
    bus_write(ports, 0xf4, 0x10, 1);
    CU_ASSERT_EQUAL(exit_status, 0x21);
    CU_ASSERT_EQUAL(bus_read(ports, 0x402, 1), 0xe9);
    bus_write(ports, 0x402, 'o', 1), bus_write(ports, 0x402, 'k', 1);
    CU_ASSERT_EQUAL(memcmp(console, "ok", 2), 0);
    debug.console = NULL; /* to the log: lines of any length */
    for (unsigned i = 0; i < 1000; i++)
        bus_write(ports, 0x402, i, 1);
    debugport_reset(&debug);
    CU_ASSERT_EQUAL(debug.length, 0);
    stop();
}

TEST_SUITE(i8042, {"controller commands, A20, reset", controller}, {"keys, translated", keys_translated},
           {"keyboard commands and scan sets", keyboard_commands}, {"typematic repeat, overrun", repeat_and_overrun},
           {"mouse protocols", mouse}, {"output buffer priority", both_devices}, {"random programs", nonsense},
           {"port 92, debug exit, debug console", small_ports})
