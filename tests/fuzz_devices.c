/* SPDX-License-Identifier: MIT */
/* Random programs of port, memory, configuration and DMA accesses against a board of all the chips, as a guest that is
 * out of its mind would make them. What must hold: nothing crashes (run it under MODE=asan and MODE=ubsan), no single
 * access takes seconds, and the low megabyte never shows host memory that is not the machine's.
 *
 * A bounded part runs with the unit tests. Longer runs:
 *     RINGFOLD_FUZZ_STEPS=5000000 RINGFOLD_FUZZ_SEED=7 build-asan/tests/unit fuzz_devices
 * RINGFOLD_FUZZ_TRACE=1 prints every step, so that the last line before a crash names it. A program depends on the seed
 * alone: the clock is stepped and the disks are in memory. */
#include "devices/debugport.h"
#include "devices/fwcfg.h"
#include "devices/i440bx.h"
#include "devices/i82077.h"
#include "devices/i8042.h"
#include "devices/i8237.h"
#include "devices/i8254.h"
#include "devices/i8259.h"
#include "devices/ide_pci.h"
#include "devices/mc146818.h"
#include "devices/piix4.h"
#include "devices/port92.h"
#include "devices/uart16550.h"
#include "devices/vga_pci.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    RAM_SIZE = 4 << 20,
    ROM_SIZE = 128 << 10,
    DEFAULT_STEPS = 150000,
    ROUND_STEPS = 3000, /* then the board is built anew */
    SLOW_SECONDS = 3
};

struct board {
    struct memory memory;
    struct bus *ports, *memory_bus;
    struct clock *clock;
    struct pci_bus *pci;
    struct i440bx bridge;
    struct piix4 south;
    struct i8259 pic;
    struct i8254 pit;
    struct mc146818 rtc;
    struct i8237 dma;
    struct i82077 fdc;
    struct ide_controller ide;
    struct vga_pci vga;
    struct fwcfg fwcfg;
    struct uart16550 uart[2];
    struct chardev line; /* plugged into the first */
    struct i8042 keyboard;
    struct port92 port92;
    struct debugport debug;
    struct block *disk, *cd[2], *floppy[2];
    bool reset_wanted;
    uint8_t rom[ROM_SIZE];
};

static uint64_t random_state;
static bool trace;
static uint64_t step_number;

static uint32_t random32(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 16);
}

static uint32_t below(uint32_t limit)
{
    return random32() % limit;
}

/* Values that guests get wrong: limits, single bits, small numbers, addresses in RAM; or anything. */
static uint32_t odd_value(void)
{
    switch (below(8)) {
    case 0:
        return 0;
    case 1:
        return 0xffffffff;
    case 2:
        return 1u << below(32);
    case 3:
        return below(16);
    case 4:
        return below(RAM_SIZE + 0x10000);
    case 5:
        return (1u << below(32)) - 1;
    default:
        return random32();
    }
}

static void say(const char *what, uint64_t a, uint64_t b, unsigned size)
{
    if (trace)
        fprintf(stderr, "%llu: %s %llx %llx %u\n", (unsigned long long)step_number, what, (unsigned long long)a,
                (unsigned long long)b, size);
}

static void out(struct board *b, uint32_t port, uint32_t value, unsigned size)
{
    say("out", port, value, size);
    bus_write(b->ports, port, value, size);
}

static uint32_t in(struct board *b, uint32_t port, unsigned size)
{
    say("in", port, 0, size);
    return (uint32_t)bus_read(b->ports, port, size);
}

/* ---- the board ---- */

static void on_reset(void *opaque)
{
    ((struct board *)opaque)->reset_wanted = true;
}

static void on_window(void *opaque, bool display)
{
    vga_set_window_enabled(&((struct board *)opaque)->vga.vga, display);
}

static void ignore(void *opaque)
{
}

static void ignore_line(void *opaque, int n, int level)
{
}

static void ignore_status(void *opaque, int status)
{
}

static void on_reset_line(void *opaque, int n, int level)
{
    if (level)
        on_reset(opaque);
}

static bool board_create_legacy(struct board *b)
{
    struct irq_line a20 = {ignore_line, b, 0}, reset = {on_reset_line, b, 0};
    return uart16550_init(&b->uart[0], b->ports, 0x3f8, b->clock, piix4_isa_irq(&b->south, 4), &b->line) == 0 &&
           uart16550_init(&b->uart[1], b->ports, 0x2f8, b->clock, piix4_isa_irq(&b->south, 3), NULL) == 0 &&
           port92_init(&b->port92, b->ports, a20, reset) == 0 &&
           i8042_init(&b->keyboard, b->ports, b->clock, piix4_isa_irq(&b->south, 1), piix4_isa_irq(&b->south, 12),
                      port92_keyboard_a20(&b->port92), reset) == 0 &&
           debugport_init(&b->debug, b->ports, DEBUGPORT_EXIT_QEMU, ignore_status, b, NULL) == 0;
}

static bool board_create_chips(struct board *b)
{
    char err[160];
    struct irq_line pic[16], pirq[PCI_PIRQ_COUNT];
    struct piix4_signals signals = {on_reset, ignore, ignore, b};
    if (i8259_init(&b->pic, b->ports, (struct irq_line){0}) != 0)
        return false;
    for (unsigned i = 0; i < 16; i++)
        pic[i] = i8259_input(&b->pic, i);
    for (int i = 0; i < PCI_PIRQ_COUNT; i++)
        pirq[i] = piix4_pirq(&b->south, i);
    b->pci = pci_bus_create(b->ports, b->memory_bus, &b->memory, pirq);
    if (!b->pci || i440bx_init(&b->bridge, b->pci, &b->memory, b->rom) != 0 ||
        piix4_init(&b->south, b->pci, b->ports, b->clock, pic, &signals) != 0)
        return false;
    b->bridge.window_changed = on_window;
    b->bridge.window_opaque = b;
    ide_controller_init(&b->ide, b->ports, &b->memory, piix4_isa_irq(&b->south, 14), piix4_isa_irq(&b->south, 15));
    return i8254_init(&b->pit, b->ports, b->clock, piix4_isa_irq(&b->south, 0)) == 0 &&
           mc146818_init(&b->rtc, b->ports, b->clock, piix4_isa_irq(&b->south, 8)) == 0 &&
           i8237_init(&b->dma, b->ports, &b->memory) == 0 &&
           i82077_init(&b->fdc, b->ports, piix4_isa_irq(&b->south, 6), b->clock, &b->dma) == 0 &&
           ide_channel_attach(&b->ide.channels[0], 0, ATA_DISK, b->disk, "1") == 0 &&
           ide_channel_attach(&b->ide.channels[1], 0, ATA_CDROM, b->cd[0], "2") == 0 &&
           ide_controller_add(&b->ide, b->pci, PIIX4_DEVICE, 1) == 0 &&
           vga_pci_init(&b->vga, b->pci, 2, 0, b->ports, b->memory_bus, &b->memory, b->clock, "", err, sizeof err) ==
               0 &&
           fwcfg_init(&b->fwcfg, b->ports, &b->memory) == 0 && board_create_legacy(b);
}

static struct board *board_create(void)
{
    char err[160];
    struct board *b = calloc(1, sizeof *b);
    if (!b || memory_init(&b->memory, RAM_SIZE, err, sizeof err) != 0) {
        free(b);
        return NULL;
    }
    b->ports = bus_create("ports", 65536);
    b->memory_bus = bus_create("memory", UINT64_MAX);
    b->clock = clock_create(true);
    b->disk = block_open_memory(4 << 20);
    for (unsigned i = 0; i < 2; i++) {
        b->cd[i] = block_open_memory(i ? 2048 * 3 : 1 << 20);
        b->floppy[i] = block_open_memory(i ? 368640 : 1474560);
    }
    CU_ASSERT_FATAL(board_create_chips(b));
    i82077_attach(&b->fdc, 0, b->floppy[0]);
    i82077_attach(&b->fdc, 1, NULL);
    fwcfg_add_file(&b->fwcfg, "etc/test", "0123456789", 10);
    return b;
}

static void board_reset(struct board *b)
{
    say("reset", 0, 0, 0);
    b->reset_wanted = false;
    pci_bus_reset(b->pci);
    i440bx_reset(&b->bridge);
    piix4_reset(&b->south);
    ide_controller_reset(&b->ide);
    i8259_reset(&b->pic);
    i8254_reset(&b->pit);
    mc146818_reset(&b->rtc);
    i8237_reset(&b->dma);
    i82077_reset(&b->fdc);
    vga_reset(&b->vga.vga);
    fwcfg_reset(&b->fwcfg);
    uart16550_reset(&b->uart[0]);
    uart16550_reset(&b->uart[1]);
    i8042_reset(&b->keyboard);
    port92_reset(&b->port92);
    debugport_reset(&b->debug);
}

static void board_destroy(struct board *b)
{
    vga_pci_destroy(&b->vga);
    ide_controller_destroy(&b->ide);
    i82077_destroy(&b->fdc, b->ports);
    fwcfg_destroy(&b->fwcfg);
    piix4_destroy(&b->south);
    i440bx_destroy(&b->bridge);
    pci_bus_destroy(b->pci);
    block_close(b->disk);
    for (unsigned i = 0; i < 2; i++) {
        block_close(b->cd[i]);
        block_close(b->floppy[i]);
    }
    clock_destroy(b->clock);
    bus_destroy(b->memory_bus);
    bus_destroy(b->ports);
    memory_destroy(&b->memory);
    free(b);
}

/* ---- steps ---- */

static void any_port(struct board *b)
{
    static const struct {
        uint16_t base, size;
    } chips[] = {{0x00, 0x20}, {0x20, 2},    {0x40, 4},  {0x61, 1},   {0x70, 4},     {0x80, 16},   {0xa0, 2},
                 {0xb2, 2},    {0xc0, 0x20}, {0x170, 8}, {0x1ce, 4},  {0x1f0, 8},    {0x376, 1},   {0x3b0, 12},
                 {0x3c0, 32},  {0x3f0, 8},   {0x4d0, 2}, {0x510, 12}, {0x600, 0x40}, {0x700, 16},  {0x60, 5},
                 {0x92, 1},    {0x2f8, 8},   {0x3f8, 8}, {0xf4, 1},   {0x402, 1},    {0xc000, 16}, {0xcf8, 8},
                 {0x3f2, 4},   {0x1f0, 8},   {0x170, 8}, {0x3c0, 32}, {0, 0xffff}};
    unsigned chip = below(sizeof chips / sizeof chips[0]);
    uint32_t port = chips[chip].base + below(chips[chip].size);
    unsigned size = 1u << (below(4) ? 0 : below(3));
    if (below(3))
        out(b, port, odd_value(), size);
    else
        in(b, port, size);
}

static void any_config(struct board *b)
{
    static const uint8_t devices[] = {0, 1, 2, 7, 7, 7, 3};
    unsigned device = devices[below(sizeof devices)], function = below(8) ? below(4) : below(8);
    unsigned size = 1u << below(3), reg = below(2) ? below(0x40) : below(256);
    uint32_t value = odd_value();
    say("config", device << 16 | function << 8 | reg, value, size);
    if (below(4))
        pci_config_write(b->pci, 0, device, function, reg, value, size);
    else
        pci_config_read(b->pci, 0, device, function, reg, size);
}

/* Puts the functions where the other steps expect them. */
static void sane_config(struct board *b)
{
    say("sane config", 0, 0, 0);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 1, 0x20, 0xc000, 4);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 1, 0x40, 0x80008000, 4);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 1, PCI_COMMAND, 5, 2);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 3, 0x40, PIIX4_PM_PORT, 4);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 3, 0x80, 1, 1);
    pci_config_write(b->pci, 0, 2, 0, PCI_BASE_ADDRESS, 0xe0000000, 4);
    pci_config_write(b->pci, 0, 2, 0, PCI_BASE_ADDRESS + 8, 0xfebf0000, 4);
    pci_config_write(b->pci, 0, 2, 0, PCI_COMMAND, 3, 2);
}

static void any_memory(struct board *b)
{
    static const struct {
        uint64_t base, size;
    } places[] = {{0, 0x10000},         {0xa0000, 0x20000},    {0xc0000, 0x40000}, {0xe0000000, VGA_MEMORY_SIZE},
                  {0xfebf0000, 0x1000}, {0xfffe0000, 0x20000}, {RAM_SIZE - 8, 16}, {0xfffffff8, 16},
                  {0, UINT32_MAX}};
    unsigned place = below(sizeof places / sizeof places[0]);
    uint64_t at = places[place].base + random32() % places[place].size,
             value = (uint64_t)odd_value() << 32 | odd_value();
    unsigned size = 1u << below(4);
    say("memory", at, value, size);
    if (below(2)) { /* as a processor would: the map first, then the bus */
        if (!memory_page(&b->memory, at >> PAGE_SHIFT).write)
            bus_write(b->memory_bus, at, value, size);
        else
            memory_write(&b->memory, gpa(at), &value, size);
    } else if (!memory_page(&b->memory, at >> PAGE_SHIFT).read) {
        bus_read(b->memory_bus, at, size);
    } else {
        memory_read(&b->memory, gpa(at), &value, size);
    }
}

/* A table of region descriptors, good and bad ones, and a transfer with it. */
static void ide_transfer(struct board *b)
{
    static const uint8_t commands[] = {0x20, 0x24, 0x30, 0x34, 0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0x25, 0x35, 0xec,
                                       0xa1, 0xa0, 0x90, 0x91, 0xef, 0xe7, 0xea, 0x40, 0x08, 0xe5, 0xf8, 0x27};
    static const uint8_t packets[] = {0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x42, 0x43, 0x46,
                                      0x4a, 0x51, 0x52, 0x5a, 0xa8, 0xad, 0xb9, 0xbe, 0xbd, 0x35, 0x2b};
    unsigned channel = below(2), base = channel ? 0x170 : 0x1f0, master = 0xc000 + channel * 8;
    uint32_t table = below(4) ? below(0x8000) & ~3u : odd_value();
    for (unsigned i = 0; i < 6; i++) {
        uint32_t address = below(4) ? below(RAM_SIZE) & ~1u : odd_value();
        uint32_t length = (below(4) ? below(128) * 512 : odd_value() & 0xffff) | (below(4) ? 0 : 0x80000000);
        memory_write32(&b->memory, gpa(table + i * 8ull), address);
        memory_write32(&b->memory, gpa(table + i * 8ull + 4), length);
    }
    out(b, master + 4, table, 4);
    out(b, master, below(2) ? IDE_BM_TO_MEMORY : 0, 1);
    out(b, base + 6, 0xa0 | (below(4) ? 0x40 : 0) | (below(8) ? 0 : 0x10), 1);
    for (unsigned i = 1; i < 6; i++)
        out(b, base + i, below(3) ? below(8) : odd_value(), 1);
    out(b, base + 7, channel && below(2) ? 0xa0 : commands[below(sizeof commands)], 1);
    if (channel && below(4)) {
        uint8_t packet[12];
        for (unsigned i = 0; i < 12; i++)
            packet[i] = below(3) ? 0 : (uint8_t)odd_value();
        packet[0] = packets[below(sizeof packets)];
        for (unsigned i = 0; i < 12; i += 2)
            out(b, base, packet[i] | packet[i + 1] << 8, 2);
    }
    out(b, master, IDE_BM_START | (below(2) ? IDE_BM_TO_MEMORY : 0), 1);
    for (unsigned i = below(600); i > 0; i--) {
        if (below(2))
            bus_read(b->ports, base, 2);
        else
            bus_write(b->ports, base, i, 4);
    }
    if (!below(3))
        out(b, channel ? 0x376 : 0x3f6, 4, 1); /* SRST in mid-transfer */
    if (!below(3))
        out(b, channel ? 0x376 : 0x3f6, 0, 1);
    in(b, base + 7, 1);
}

/* A command that moves data, with a sector address that exists, or nearly. */
static void floppy_transfer(struct board *b)
{
    static const uint8_t commands[] = {0xe6, 0x66, 0xc5, 0x45, 0x4d, 0x42, 0x4a, 0xcc, 0x16, 0x51};
    out(b, 0x3f2, 0x0c, 1);
    out(b, 0x3f7, 0, 1);
    clock_advance(b->clock, NS_PER_MS);
    for (unsigned i = 0; i < 16; i++) /* results of before */
        bus_read(b->ports, 0x3f5, 1);
    if (below(2)) {
        out(b, 0x3f5, 0x03, 1); /* SPECIFY */
        out(b, 0x3f5, 0xdf, 1);
        out(b, 0x3f5, below(3) ? 2 : 3, 1); /* with or without DMA */
    }
    uint32_t head = below(2), track = below(3);
    if (track && below(2)) {
        out(b, 0x3f5, 0x0f, 1); /* SEEK */
        out(b, 0x3f5, head << 2, 1);
        out(b, 0x3f5, track, 1);
        clock_advance(b->clock, 100 * NS_PER_MS);
        out(b, 0x3f5, 0x08, 1);
        bus_read(b->ports, 0x3f5, 1);
        bus_read(b->ports, 0x3f5, 1);
    }
    const uint32_t bytes[] = {
        commands[below(sizeof commands)], head << 2, track, head, below(20), 2, below(40), 0x1b, 0xff};
    for (unsigned i = 0; i < 9; i++)
        out(b, 0x3f5, below(40) ? bytes[i] : odd_value(), 1);
}

static void floppy_command(struct board *b)
{
    static const uint8_t commands[] = {0x03, 0x04, 0x07, 0x08, 0x0a, 0x0e, 0x0f, 0x10, 0x12, 0x13, 0x14, 0x18,
                                       0x33, 0x45, 0xc5, 0xe6, 0x66, 0x4d, 0x42, 0x49, 0x4c, 0x16, 0x8e, 0x11};
    out(b, 0x3f2, below(4) ? 0x1c : odd_value(), 1);
    out(b, 0x0b, 0x42 | (below(2) ? 4 : 8) | (below(4) ? 0 : 0x10), 1); /* channel 2 */
    for (unsigned i = 0; i < 4; i++)
        out(b, below(2) ? 4 : 5, odd_value(), 1);
    out(b, 0x0a, 2, 1);
    out(b, 0x81, below(4) ? 1 : odd_value(), 1);
    if (below(2)) {
        floppy_transfer(b);
    } else {
        out(b, 0x3f5, commands[below(sizeof commands)], 1);
        for (unsigned i = below(10); i > 0; i--)
            out(b, 0x3f5, below(3) ? below(20) : odd_value(), 1);
    }
    clock_advance(b->clock, below(1 << 24));
    for (unsigned i = below(3) ? below(16) : below(1200); i > 0; i--) {
        if (below(8))
            bus_read(b->ports, 0x3f5, 1);
        else
            bus_write(b->ports, 0x3f5, i, 1);
    }
}

static void fwcfg_transfer(struct board *b)
{
    uint32_t at = below(4) ? below(0x8000) : odd_value();
    uint32_t key = below(3) ? below(0x30) : odd_value() & 0xffff;
    memory_write32(&b->memory, gpa(at), __builtin_bswap32(key << 16 | (below(8) ? below(32) : odd_value())));
    memory_write32(&b->memory, gpa(at + 4ull), __builtin_bswap32(below(3) ? below(64) : odd_value()));
    memory_write32(&b->memory, gpa(at + 8ull), __builtin_bswap32(below(8) ? 0 : odd_value()));
    memory_write32(&b->memory, gpa(at + 12ull), __builtin_bswap32(below(4) ? below(RAM_SIZE) : at + below(16)));
    out(b, FWCFG_DMA_PORT, below(16) ? 0 : odd_value(), 4);
    out(b, FWCFG_DMA_PORT + 4, __builtin_bswap32(at), 4);
}

static void display(struct board *b)
{
    static char text[32768];
    struct display_source source = vga_display(&b->vga.vga);
    bool changed;
    if (below(2)) { /* a mode that a guest could mean */
        static const uint16_t depths[] = {4, 8, 15, 16, 24, 32};
        vga_dispi_write(&b->vga.vga, DISPI_ENABLE, 0);
        vga_dispi_write(&b->vga.vga, DISPI_XRES, (uint16_t)below(1600));
        vga_dispi_write(&b->vga.vga, DISPI_YRES, (uint16_t)below(1200));
        vga_dispi_write(&b->vga.vga, DISPI_BPP, depths[below(6)]);
        vga_dispi_write(&b->vga.vga, DISPI_ENABLE, (uint16_t)(below(2) | DISPI_NOCLEARMEM));
    }
    say("draw", 0, 0, 0);
    source.draw(source.chip, below(2), &changed);
    source.text(source.chip, text, below(sizeof text));
}

static void change_media(struct board *b)
{
    unsigned which = below(3);
    say("media", which, 0, 0);
    if (below(2))
        i82077_change_medium(&b->fdc, below(4), which < 2 ? b->floppy[which] : NULL);
    else
        ide_channel_change_medium(&b->ide.channels[1], below(4) ? 0 : 1, which < 2 ? b->cd[which] : NULL, below(2));
}

/* What comes from outside: keys, the mouse, the serial line. */
static void input(struct board *b)
{
    uint8_t bytes[40] = {0};
    unsigned count = below(sizeof bytes);
    say("input", count, 0, 0);
    switch (below(4)) {
    case 0:
        ps2_keyboard_key(&b->keyboard.keyboard, odd_value() & 0xffff, below(2));
        break;
    case 1:
        ps2_mouse_move(&b->keyboard.mouse, (int)odd_value() >> below(32), (int)odd_value() >> below(32),
                       (int)below(9) - 4, below(64));
        break;
    case 2:
        uart16550_receive_break(&b->uart[0]);
        break;
    default:
        if (b->line.receive && b->line.can_receive(b->line.chip) >= count)
            b->line.receive(b->line.chip, bytes, count);
        break;
    }
}

/* Commands of the keyboard controller and its two devices, most of them with their argument. */
static void keyboard_command(struct board *b)
{
    static const uint8_t commands[] = {0x20, 0x60, 0xa7, 0xa8, 0xa9, 0xaa, 0xab, 0xad, 0xae, 0xc0,
                                       0xd0, 0xd1, 0xd2, 0xd3, 0xd4, 0xd4, 0xd4, 0xfe, 0xf0, 0x61};
    static const uint8_t arguments[] = {0xed, 0xee, 0xf0, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xfa, 0xfc, 0xfe, 0xff,
                                        0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xeb, 0xec, 200,  100,  80,   3,    0x47};
    if (below(2))
        out(b, 0x64, commands[below(sizeof commands)], 1);
    out(b, 0x60, below(8) ? arguments[below(sizeof arguments)] : odd_value(), 1);
    clock_advance(b->clock, below(NS_PER_MS * 4));
    for (unsigned i = below(8); i > 0; i--) {
        in(b, below(2) ? 0x60 : 0x64, 1);
        clock_advance(b->clock, below(NS_PER_MS));
    }
}

static void step(struct board *b)
{
    unsigned kind = below(256);
    if (kind < 100) {
        any_port(b);
    } else if (kind < 110) {
        keyboard_command(b);
    } else if (kind < 120) {
        input(b);
    } else if (kind < 150) {
        any_config(b);
    } else if (kind < 154) {
        sane_config(b);
    } else if (kind < 200) {
        any_memory(b);
    } else if (kind < 212) {
        ide_transfer(b);
    } else if (kind < 220) {
        floppy_command(b);
    } else if (kind < 228) {
        fwcfg_transfer(b);
    } else if (kind < 246) {
        uint64_t ns = below(1u << (8 + below(14)));
        say("clock", ns, 0, 0);
        clock_advance(b->clock, ns);
    } else if (kind < 250) {
        i8259_acknowledge(&b->pic);
    } else if (kind < 252) {
        change_media(b);
    } else if (kind < 253) {
        display(b);
    } else if (kind < 254) {
        b->reset_wanted |= !below(8);
    } else {
        i8237_left(&b->dma, below(8));
        i8254_output(&b->pit, below(3));
    }
    if (b->reset_wanted)
        board_reset(b);
}

/* Every mapped page of the low megabyte is RAM, firmware or video memory. */
static bool map_is_sound(const struct board *b)
{
    for (uint64_t gfn = 0; gfn < 256; gfn++) {
        struct memory_page page = memory_page(&b->memory, gfn);
        const uint8_t *hosts[2] = {page.read, page.write};
        for (unsigned i = 0; i < 2; i++) {
            const uint8_t *p = hosts[i], *vram = b->vga.vga.vram;
            bool ram = p >= b->memory.ram && p < b->memory.ram + RAM_SIZE;
            bool rom = p >= b->rom && p < b->rom + ROM_SIZE && i == 0;
            if (p && !ram && !rom && !(p >= vram && p < vram + VGA_MEMORY_SIZE))
                return false;
        }
    }
    return true;
}

/* Of this thread: a busy host takes nothing from it. */
static uint64_t processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec;
}

static uint64_t number_from(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

static void random_programs(void)
{
    uint64_t steps = number_from("RINGFOLD_FUZZ_STEPS", DEFAULT_STEPS);
    uint64_t seed = number_from("RINGFOLD_FUZZ_SEED", 1);
    struct board *b = NULL;
    trace = getenv("RINGFOLD_FUZZ_TRACE");
    for (step_number = 0; step_number < steps; step_number++) {
        if (step_number % ROUND_STEPS == 0) {
            if (b)
                board_destroy(b);
            /* Each round can be repeated alone: its seed is the first one's plus its number. */
            random_state = (seed + step_number / ROUND_STEPS) * 0x9e3779b97f4a7c15ull | 1;
            for (unsigned i = 0; i < 8; i++)
                random32();
            b = board_create();
            CU_ASSERT_FATAL(b != NULL);
            sane_config(b);
        }
        uint64_t before = processor_seconds();
        step(b);
        if (processor_seconds() - before > SLOW_SECONDS) {
            fprintf(stderr, "fuzz_devices: seed %llu: step %llu was slow\n",
                    (unsigned long long)(seed + step_number / ROUND_STEPS),
                    (unsigned long long)step_number % ROUND_STEPS);
            CU_FAIL("a step took seconds");
        }
        if (step_number % 64 == 0 && !map_is_sound(b)) {
            fprintf(stderr, "fuzz_devices: seed %llu: memory map unsound at step %llu\n",
                    (unsigned long long)(seed + step_number / ROUND_STEPS),
                    (unsigned long long)step_number % ROUND_STEPS);
            CU_FAIL("the memory map shows something else");
        }
    }
    if (b)
        board_destroy(b);
}

TEST_SUITE(fuzz_devices, {"random programs against all chips", random_programs})
