/* SPDX-License-Identifier: MIT */
#include "devices/i82077.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DOR = 0x3f2, MSR = 0x3f4, FIFO = 0x3f5, CCR = 0x3f7, ADDRESS = 0x20000 };

struct bench {
    struct bus *ports;
    struct clock *clock;
    struct memory memory;
    struct i8237 dma;
    struct i82077 fdc;
    struct block *medium;
    int irq, edges;
};

static void on_irq(void *opaque, int n, int level)
{
    struct bench *t = opaque;
    if (level && !t->irq)
        t->edges++;
    t->irq = level;
}

static uint8_t in(struct bench *t, uint16_t port)
{
    return (uint8_t)bus_read(t->ports, port, 1);
}

static void out(struct bench *t, uint16_t port, uint8_t v)
{
    bus_write(t->ports, port, v, 1);
}

static void on_done(void *opaque, int error)
{
    CU_ASSERT(error == 0);
}

static void fill(struct block *b)
{
    static uint8_t data[5760 * 512];
    uint64_t n = block_sectors(b);
    struct block_request r = {.op = BLOCK_WRITE, .count = (uint32_t)n, .buf = data, .done = on_done};
    for (uint64_t i = 0; i < n; i++) {
        memset(data + i * 512, (int)(i * 7 + 1), 512);
        data[i * 512] = (uint8_t)i;
        data[i * 512 + 1] = (uint8_t)(i >> 8);
    }
    block_submit(b, &r);
}

static void peek(struct block *b, uint64_t sector, uint8_t *buf)
{
    struct block_request r = {.op = BLOCK_READ, .sector = sector, .count = 1, .buf = buf, .done = on_done};
    block_submit(b, &r);
}

static void leave_reset(struct bench *t)
{
    out(t, DOR, 0x1c);
    CU_ASSERT(t->irq == 0);
    clock_advance(t->clock, NS_PER_MS);
    CU_ASSERT(t->irq == 1);
    for (unsigned i = 0; i < 4; i++) {
        out(t, FIFO, 0x08);
        CU_ASSERT(t->irq == 0);
        CU_ASSERT(in(t, FIFO) == 0xc0 + i);
        in(t, FIFO);
    }
    CU_ASSERT(in(t, MSR) == 0x80);
}

static struct bench *set_up(uint64_t size)
{
    char err[256];
    struct bench *t = calloc(1, sizeof *t);
    t->ports = bus_create("ports", 65536);
    t->clock = clock_create(true);
    CU_ASSERT_FATAL(memory_init(&t->memory, 1 << 20, err, sizeof err) == 0);
    CU_ASSERT_FATAL(i8237_init(&t->dma, t->ports, &t->memory) == 0);
    CU_ASSERT_FATAL(i82077_init(&t->fdc, t->ports, (struct irq_line){on_irq, t, 6}, t->clock, &t->dma) == 0);
    if (size) {
        t->medium = block_open_memory(size);
        fill(t->medium);
    }
    i82077_attach(&t->fdc, 0, t->medium);
    leave_reset(t);
    out(t, CCR, 0);
    out(t, FIFO, 0x03); /* SPECIFY: DMA */
    out(t, FIFO, 0xdf);
    out(t, FIFO, 0x02);
    return t;
}

static void tear_down(struct bench *t)
{
    i82077_destroy(&t->fdc, t->ports);
    bus_destroy(t->ports);
    clock_destroy(t->clock);
    memory_destroy(&t->memory);
    block_close(t->medium);
    free(t);
}

static void send(struct bench *t, const char *bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        CU_ASSERT((in(t, MSR) & 0xc0) == 0x80);
        out(t, FIFO, (uint8_t)bytes[i]);
    }
}

#define SEND(t, ...) send(t, (const char[]){__VA_ARGS__}, sizeof((const char[]){__VA_ARGS__}))

static void wait_end(struct bench *t)
{
    CU_ASSERT(t->irq == 0); /* never from inside the port write */
    clock_advance(t->clock, 10 * NS_PER_MS);
    CU_ASSERT(t->irq == 1);
}

static unsigned results(struct bench *t, uint8_t *r)
{
    unsigned n = 0;
    while ((in(t, MSR) & 0xd0) == 0xd0 && n < 16)
        r[n++] = in(t, FIFO);
    CU_ASSERT(t->irq == 0);
    return n;
}

static bool got(struct bench *t, const uint8_t *expected)
{
    uint8_t r[16] = {0};
    bool good = results(t, r) == 7 && !memcmp(r, expected, 7);
    if (!good)
        printf("result %02x %02x %02x  %02x %02x %02x %02x\n", r[0], r[1], r[2], r[3], r[4], r[5], r[6]);
    return good;
}

#define GOT(t, ...) CU_ASSERT(got(t, (const uint8_t[]){__VA_ARGS__}))

static void program_dma(struct bench *t, uint8_t mode, unsigned bytes)
{
    out(t, 0x0a, 6);
    out(t, 0x0c, 0);
    out(t, 0x0b, mode | 2);
    out(t, 0x04, ADDRESS & 0xff);
    out(t, 0x04, ADDRESS >> 8 & 0xff);
    out(t, 0x81, ADDRESS >> 16);
    out(t, 0x05, (uint8_t)(bytes - 1));
    out(t, 0x05, (uint8_t)((bytes - 1) >> 8));
    out(t, 0x0a, 2);
}

enum { DMA_IN = 0x44, DMA_OUT = 0x48 };

static void seek(struct bench *t, uint8_t cylinder)
{
    SEND(t, 0x0f, 0, (char)cylinder);
    wait_end(t);
    SEND(t, 0x08);
    CU_ASSERT(in(t, FIFO) == 0x20 && in(t, FIFO) == cylinder);
}

static bool holds_sector(const uint8_t *p, unsigned lba)
{
    return p[0] == (uint8_t)lba && p[1] == (uint8_t)(lba >> 8) && p[2] == (uint8_t)(lba * 7 + 1) && p[511] == p[2];
}

static void reads(void)
{
    struct bench *t = set_up(1474560);
    static uint8_t buf[36 * 512];
    program_dma(t, DMA_IN, 512);
    SEND(t, 0x46, 0, 0, 0, 1, 2, 18, 0x1b, (char)0xff);
    CU_ASSERT(in(t, MSR) == 0x10);
    wait_end(t);
    GOT(t, 0, 0, 0, 0, 0, 2, 2);
    memory_read(&t->memory, gpa(ADDRESS), buf, 512);
    CU_ASSERT(holds_sector(buf, 0));
    /* a whole cylinder by MT */
    seek(t, 3);
    program_dma(t, DMA_IN, sizeof buf);
    SEND(t, (char)0xc6, 0, 3, 0, 1, 2, 18, 0x1b, (char)0xff);
    wait_end(t);
    GOT(t, 4, 0, 0, 4, 0, 1, 2);
    memory_read(&t->memory, gpa(ADDRESS), buf, sizeof buf);
    for (unsigned i = 0; i < 36; i++)
        CU_ASSERT(holds_sector(buf + i * 512, 3 * 36 + i));
    /* over the end of track without terminal count */
    program_dma(t, DMA_IN, 2048);
    SEND(t, 0x46, 4, 3, 1, 17, 2, 18, 0x1b, (char)0xff);
    wait_end(t);
    GOT(t, 0x44, 0x80, 0, 4, 1, 1, 2);
    /* MT crosses to the other side in mid-transfer */
    program_dma(t, DMA_IN, 1024);
    SEND(t, (char)0xe6, 0, 3, 0, 18, 2, 18, 0x1b, (char)0xff);
    wait_end(t);
    GOT(t, 4, 0, 0, 3, 1, 2, 2);
    memory_read(&t->memory, gpa(ADDRESS), buf, 1024);
    CU_ASSERT(holds_sector(buf, 3 * 36 + 17) && holds_sector(buf + 512, 3 * 36 + 18));
    tear_down(t);
}

static void writes(void)
{
    struct bench *t = set_up(1474560);
    uint8_t buf[1024];
    memset(buf, 0xa5, sizeof buf);
    memory_write(&t->memory, gpa(ADDRESS), buf, sizeof buf);
    program_dma(t, DMA_OUT, 700); /* the second sector is filled up with zeros */
    SEND(t, 0x45, 0, 0, 0, 5, 2, 18, 0x1b, (char)0xff);
    wait_end(t);
    GOT(t, 0, 0, 0, 0, 0, 7, 2);
    peek(t->medium, 4, buf);
    CU_ASSERT(buf[0] == 0xa5 && buf[511] == 0xa5);
    peek(t->medium, 5, buf);
    CU_ASSERT(buf[187] == 0xa5 && buf[188] == 0 && buf[511] == 0);
    peek(t->medium, 6, buf);
    CU_ASSERT(holds_sector(buf, 6));
    tear_down(t);
}

static void without_dma(void)
{
    struct bench *t = set_up(1474560);
    uint8_t buf[512];
    SEND(t, 0x03, (char)0xdf, 0x03);
    SEND(t, 0x46, 0, 0, 0, 2, 2, 3, 0x1b, (char)0xff); /* two sectors, ends at EOT */
    CU_ASSERT(in(t, MSR) == 0x30);
    wait_end(t);
    for (unsigned s = 1; s < 3; s++) {
        for (unsigned i = 0; i < 512; i++) {
            CU_ASSERT_FATAL(in(t, MSR) == 0xf0);
            buf[i] = in(t, FIFO);
        }
        CU_ASSERT(holds_sector(buf, s));
    }
    CU_ASSERT(t->irq == 1);
    GOT(t, 0x40, 0x80, 0, 1, 0, 1, 2);
    SEND(t, 0x45, 0, 0, 0, 9, 2, 9, 0x1b, (char)0xff);
    wait_end(t);
    for (unsigned i = 0; i < 512; i++) {
        CU_ASSERT_FATAL(in(t, MSR) == 0xb0);
        out(t, FIFO, (uint8_t)i);
    }
    GOT(t, 0x40, 0x80, 0, 1, 0, 1, 2);
    peek(t->medium, 8, buf);
    CU_ASSERT(buf[1] == 1 && buf[255] == 255 && buf[511] == 255);
    tear_down(t);
}

static void formats(void)
{
    struct bench *t = set_up(737280);
    uint8_t buf[512];
    out(t, CCR, 2);
    seek(t, 1);
    for (unsigned i = 0; i < 9; i++)
        memory_write(&t->memory, gpa(ADDRESS + 4 * i), (uint8_t[]){1, 1, (uint8_t)((i * 2) % 9 + 1), 2}, 4);
    program_dma(t, DMA_OUT, 36);
    SEND(t, 0x4d, 4, 2, 9, 0x50, (char)0xf6);
    wait_end(t);
    GOT(t, 4, 0, 0, 1, 1, 1, 2);
    for (unsigned i = 27; i < 36; i++) {
        peek(t->medium, i, buf);
        CU_ASSERT(buf[0] == 0xf6 && buf[511] == 0xf6);
    }
    peek(t->medium, 36, buf);
    CU_ASSERT(holds_sector(buf, 36));
    peek(t->medium, 26, buf);
    CU_ASSERT(holds_sector(buf, 26));
    /* IDs that the image cannot hold, and the most that a command can ask for */
    for (unsigned i = 0; i < 255; i++)
        memory_write(&t->memory, gpa(ADDRESS + 4 * i), (uint8_t[]){1, 1, (uint8_t)i, 7}, 4);
    program_dma(t, DMA_OUT, 255 * 4);
    SEND(t, 0x4d, 4, 7, (char)0xff, 0x50, 0);
    wait_end(t);
    GOT(t, 0x44, 4, 0, 1, 1, 1, 2);
    tear_down(t);
}

static void finds_errors(void)
{
    struct bench *t = set_up(1474560);
    static const struct {
        char command[9];
        uint8_t result[7];
    } cases[] = {
        {{0x46, 0, 0, 0, 19, 2, 18, 0, 0}, {0x40, 4, 0, 0, 0, 19, 2}}, /* no such sector */
        {{0x46, 0, 0, 0, 0, 2, 18, 0, 0}, {0x40, 4, 0, 0, 0, 0, 2}},
        {{0x46, 0, 5, 0, 1, 2, 18, 0, 0}, {0x40, 4, 0x10, 5, 0, 1, 2}}, /* another cylinder in the ID */
        {{0x46, 0, (char)0xff, 0, 1, 2, 18, 0, 0}, {0x40, 4, 0x12, 0xff, 0, 1, 2}},
        {{0x46, 0, 0, 1, 1, 2, 18, 0, 0}, {0x40, 4, 0, 0, 1, 1, 2}}, /* another head */
        {{0x46, 0, 0, 0, 1, 3, 18, 0, 0}, {0x40, 4, 0, 0, 0, 1, 2}}, /* another size */
        {{0x46, 0, 0, 0, 1, 0, 18, 0, 1}, {0x40, 4, 0, 0, 0, 1, 2}},
        {{0x06, 0, 0, 0, 1, 2, 18, 0, 0}, {0x40, 1, 0, 0, 0, 1, 2}}, /* FM */
        {{0x46, 1, 0, 0, 1, 2, 18, 0, 0}, {0x41, 1, 0, 0, 0, 1, 2}}, /* no such drive */
        {{0x46, 7, 0, 0, 1, 2, 18, 0, 0}, {0x47, 1, 0, 0, 0, 1, 2}},
        {{0x45, 2, 0, 0, 1, 2, 18, 0, 0}, {0x42, 1, 0, 0, 0, 1, 2}},
        {{0x4c, 0, 0, 0, 1, 2, 18, 0, 0}, {0x00, 0, 0x40, 0, 0, 2, 2}},              /* deleted data: there is none */
        {{0x56, 0, 0, 0, 1, 2, 18, 0, 0}, {0x00, 0, 0, 1, 0, 1, 2}},                 /* VERIFY a track */
        {{(char)0xd6, (char)0x80, 0, 0, 5, 2, 18, 0, 20}, {0x04, 0, 0, 0, 1, 7, 2}}, /* VERIFY 20 sectors */
        {{0x56, 0, 0, 0, 1, 2, (char)0xff, 0, 0}, {0x40, 4, 0, 0, 0, 19, 2}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        program_dma(t, (cases[i].command[0] & 0x1f) == 5 ? DMA_OUT : DMA_IN, 4096);
        send(t, cases[i].command, 9);
        wait_end(t);
        CU_ASSERT(got(t, cases[i].result));
    }
    out(t, CCR, 2); /* the wrong data rate finds nothing */
    SEND(t, 0x4a, 0);
    wait_end(t);
    GOT(t, 0x40, 1, 0, 0, 0, 0, 2);
    out(t, CCR, 0);
    SEND(t, 0x4a, 4);
    wait_end(t);
    GOT(t, 4, 0, 0, 0, 1, 1, 2);
    seek(t, 83);
    SEND(t, 0x4a, 0);
    wait_end(t);
    GOT(t, 0x40, 1, 0, 0, 0, 0, 2);
    tear_down(t);
}

static void dma_trouble(void)
{
    struct bench *t = set_up(1474560);
    uint8_t buf[512];
    program_dma(t, DMA_IN, 512);
    out(t, 0x0a, 6); /* masked: overrun */
    SEND(t, 0x46, 0, 0, 0, 1, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0x40, 0x10, 0, 0, 0, 1, 2);
    SEND(t, 0x45, 0, 0, 0, 1, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0x40, 0x10, 0, 0, 0, 1, 2);
    peek(t->medium, 0, buf);
    CU_ASSERT(holds_sector(buf, 0));
    tear_down(t);
}

static void control_commands(void)
{
    struct bench *t = set_up(1474560);
    uint8_t r[16];
    SEND(t, 0x10);
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x90);
    SEND(t, 0x18); /* PART ID is the 82078's */
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x80);
    SEND(t, 0x08); /* nothing to sense */
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x80);
    SEND(t, 0x13, 0, 0x57, 0x11);
    SEND(t, (char)0x94);
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x10);
    SEND(t, 0x12, (char)0x84);
    seek(t, 7);
    SEND(t, 0x0e);
    CU_ASSERT(results(t, r) == 10);
    CU_ASSERT(r[0] == 7 && r[4] == 0xdf && r[5] == 2 && r[7] == 0x84 && r[8] == 0x57 && r[9] == 0x11);
    SEND(t, 0x04, 0);
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x28);
    SEND(t, (char)0x8f, 0, 3); /* outwards */
    wait_end(t);
    SEND(t, 0x08);
    CU_ASSERT(results(t, r) == 2 && r[0] == 0x20 && r[1] == 4);
    SEND(t, 0x07, 0);
    CU_ASSERT(in(t, MSR) == 0x81);
    wait_end(t);
    SEND(t, 0x08);
    CU_ASSERT(results(t, r) == 2 && r[0] == 0x20 && r[1] == 0);
    SEND(t, 0x04, 0);
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x38);
    SEND(t, 0x07, 1); /* a drive that is not there never shows track 0 */
    wait_end(t);
    SEND(t, 0x08);
    CU_ASSERT(results(t, r) == 2 && r[0] == 0x71);
    /* LOCK keeps the FIFO's set-up over a software reset */
    out(t, MSR, 0x80);
    clock_advance(t->clock, NS_PER_MS);
    for (unsigned i = 0; i < 4; i++) {
        SEND(t, 0x08);
        CU_ASSERT(results(t, r) == 2 && r[0] == 0xc0 + i);
    }
    SEND(t, 0x0e);
    CU_ASSERT(results(t, r) == 10 && r[8] == 0x07 && r[9] == 0x11);
    SEND(t, 0x14);
    CU_ASSERT(results(t, r) == 1 && r[0] == 0);
    tear_down(t);
}

static void implied_seek(void)
{
    struct bench *t = set_up(1474560);
    uint8_t buf[512];
    SEND(t, 0x13, 0, 0x57, 0);
    program_dma(t, DMA_IN, 512);
    SEND(t, 0x46, 0, 40, 0, 1, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0, 0, 0, 40, 0, 2, 2);
    memory_read(&t->memory, gpa(ADDRESS), buf, 512);
    CU_ASSERT(holds_sector(buf, 40 * 36));
    tear_down(t);
}

static void media(void)
{
    static const struct {
        unsigned kilobytes, type, rate, last_cylinder, last_head, last_sector;
    } sizes[] = {{160, 1, 2, 39, 0, 8},   {180, 1, 2, 39, 0, 9},   {320, 1, 2, 39, 1, 8},
                 {360, 1, 1, 39, 1, 9},   {720, 4, 2, 79, 1, 9},   {1200, 2, 0, 79, 1, 15},
                 {1440, 4, 0, 79, 1, 18}, {1680, 4, 0, 79, 1, 21}, {2880, 5, 3, 79, 1, 36}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct bench *t = set_up(sizes[i].kilobytes * 1024);
        uint8_t buf[512];
        char head = (char)sizes[i].last_head, cylinder = (char)sizes[i].last_cylinder;
        CU_ASSERT(i82077_drive_type(&t->fdc, 0) == sizes[i].type && i82077_drive_type(&t->fdc, 1) == 0);
        out(t, CCR, (uint8_t)sizes[i].rate);
        seek(t, (uint8_t)cylinder);
        program_dma(t, DMA_IN, 512);
        SEND(t, 0x46, (char)(head << 2), cylinder, head, (char)sizes[i].last_sector, 2, (char)sizes[i].last_sector, 0,
             0);
        wait_end(t);
        GOT(t, (uint8_t)(head << 2), 0, 0, (uint8_t)(cylinder + 1), (uint8_t)head, 1, 2);
        memory_read(&t->memory, gpa(ADDRESS), buf, 512);
        CU_ASSERT(holds_sector(buf, sizes[i].kilobytes * 2 - 1));
        tear_down(t);
    }
    /* a boot sector alone is the start of a 1.44M floppy */
    struct bench *t = set_up(512);
    uint8_t buf[1024];
    program_dma(t, DMA_IN, 1024);
    SEND(t, 0x46, 0, 0, 0, 1, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0, 0, 0, 0, 0, 3, 2);
    memory_read(&t->memory, gpa(ADDRESS), buf, 1024);
    CU_ASSERT(holds_sector(buf, 0) && buf[512] == 0 && buf[1023] == 0);
    program_dma(t, DMA_IN, 512);
    SEND(t, 0x46, 0, 0, 0, 18, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0, 0, 0, 1, 0, 1, 2);
    program_dma(t, DMA_OUT, 512);
    SEND(t, 0x45, 0, 0, 0, 18, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0x50, 0x20, 0, 0, 0, 18, 2);
    tear_down(t);
}

static void change_line(void)
{
    struct bench *t = set_up(0);
    uint8_t r[16];
    program_dma(t, DMA_IN, 512);
    SEND(t, 0x46, 0, 0, 0, 1, 2, 18, 0, 0); /* no medium */
    wait_end(t);
    GOT(t, 0x40, 1, 0, 0, 0, 1, 2);
    CU_ASSERT(in(t, CCR) == 0x80);
    seek(t, 1);
    CU_ASSERT(in(t, CCR) == 0x80); /* without a medium it stays */
    t->medium = block_open_memory(1474560);
    CU_ASSERT(i82077_change_medium(&t->fdc, 0, t->medium) == 0);
    CU_ASSERT(i82077_change_medium(&t->fdc, 1, t->medium) == -ENODEV);
    CU_ASSERT(i82077_change_medium(&t->fdc, 9, t->medium) == -ENODEV);
    CU_ASSERT(in(t, CCR) == 0x80);
    seek(t, 0);
    CU_ASSERT(in(t, CCR) == 0);
    out(t, DOR, 0x1d);
    CU_ASSERT(in(t, CCR) == 0); /* drive 1 is not there */
    out(t, DOR, 0x1c);
    /* the medium goes while the host is in mid-transfer */
    SEND(t, 0x03, (char)0xdf, 0x03);
    SEND(t, 0x46, 0, 0, 0, 1, 2, 18, 0, 0);
    wait_end(t);
    in(t, FIFO);
    CU_ASSERT(i82077_change_medium(&t->fdc, 0, NULL) == 0);
    CU_ASSERT(results(t, r) == 7 && r[0] == 0x40);
    CU_ASSERT(in(t, CCR) == 0x80);
    tear_down(t);
}

static void write_protect(void)
{
    char name[] = "/tmp/ringfold-test-XXXXXX", err[256];
    int fd = mkstemp(name);
    CU_ASSERT(fd >= 0 && ftruncate(fd, 1474560) == 0);
    close(fd);
    struct bench *t = set_up(0);
    uint8_t r[16];
    struct block_options options = {.path = name, .readonly = true};
    CU_ASSERT_FATAL(block_open(&t->medium, &options, NULL, err, sizeof err) == 0);
    i82077_change_medium(&t->fdc, 0, t->medium);
    program_dma(t, DMA_OUT, 512);
    SEND(t, 0x45, 0, 0, 0, 1, 2, 18, 0, 0);
    wait_end(t);
    GOT(t, 0x40, 2, 0, 0, 0, 1, 2);
    SEND(t, 0x4d, 0, 2, 18, 0x50, 0);
    wait_end(t);
    GOT(t, 0x40, 2, 0, 0, 0, 1, 2);
    SEND(t, 0x04, 0);
    CU_ASSERT(results(t, r) == 1 && r[0] == 0x78);
    tear_down(t);
    unlink(name);
}

/* CVE-2015-3456: READ ID and DRIVE SPECIFICATION took parameters without end. */
static void endless_parameters(void)
{
    struct bench *t = set_up(1474560);
    uint8_t r[16];
    static const uint8_t commands[] = {0x8e, 0x4a, 0x0a, 0x46, 0x45, 0x4d, 0x18, 0xff, 0x11, 0x0f, 0x12, 0x08, 0x0e};
    for (size_t i = 0; i < sizeof commands; i++) {
        out(t, FIFO, commands[i]);
        for (unsigned n = 0; n < 2000; n++) {
            out(t, FIFO, (uint8_t)(n % 64));
            if (n % 100 == 0)
                clock_advance(t->clock, NS_PER_MS);
        }
        for (unsigned n = 0; n < 2000; n++)
            in(t, FIFO);
        out(t, DOR, 0x18);
        CU_ASSERT(in(t, MSR) == 0);
        leave_reset(t);
    }
    SEND(t, 0x0e);
    CU_ASSERT(results(t, r) == 10);
    tear_down(t);
}

/* Random bytes on all ports with some time in between. */
static void random_programs(void)
{
    struct bench *t = set_up(1474560);
    uint32_t seed = 1;
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 1664525 + 1013904223;
        unsigned what = seed >> 28, value = seed >> 8 & 0xff;
        if (what < 9)
            out(t, FIFO, (uint8_t)value);
        else if (what < 12)
            in(t, FIFO);
        else if (what == 12)
            out(t, (uint16_t)(0x3f0 + (value & 7)), (uint8_t)(seed >> 16 | 0x0c));
        else if (what == 13)
            clock_advance(t->clock, NS_PER_MS);
        else if (what == 14)
            program_dma(t, (uint8_t)(value & 0xfc), 1 + (seed >> 4 & 0xfff));
        else if (value < 8)
            i82077_change_medium(&t->fdc, 0, value & 1 ? t->medium : NULL);
    }
    tear_down(t);
}

/* A reset in mid-command: nothing is read or written afterwards. */
static void reset_in_command(void)
{
    struct bench *t = set_up(1474560);
    uint8_t buf[512];
    program_dma(t, DMA_OUT, 512);
    SEND(t, 0x45, 0, 0, 0, 1, 2, 18, 0, 0);
    out(t, DOR, 0x18);
    clock_advance(t->clock, NS_PER_SEC);
    CU_ASSERT(t->irq == 0);
    peek(t->medium, 0, buf);
    CU_ASSERT(holds_sector(buf, 0));
    out(t, DOR, 0x1c);
    i82077_reset(&t->fdc);
    clock_advance(t->clock, NS_PER_SEC);
    CU_ASSERT(t->irq == 0 && in(t, DOR) == 0 && in(t, MSR) == 0);
    tear_down(t);
}

/* The same with the image's I/O under way in a worker thread; and the drive goes in the middle of it. */
static void reset_with_request_pending(void)
{
    char name[] = "/tmp/ringfold-test-XXXXXX", err[256];
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int fd = mkstemp(name);
    CU_ASSERT(fd >= 0 && ftruncate(fd, 1474560) == 0);
    close(fd);
    struct bench *t = set_up(0);
    struct loop *loop = loop_create(NULL, &lock); /* it never runs */
    struct block_options options = {.path = name};
    CU_ASSERT_FATAL(block_open(&t->medium, &options, loop, err, sizeof err) == 0);
    for (int how = 0; how < 3; how++) {
        i82077_change_medium(&t->fdc, 0, t->medium);
        memory_write(&t->memory, gpa(ADDRESS), "untouched", 9);
        program_dma(t, DMA_IN, 512);
        SEND(t, 0x46, 0, 0, 0, 1, 2, 18, 0, 0);
        clock_advance(t->clock, NS_PER_MS);
        CU_ASSERT(t->irq == 0 && in(t, MSR) == 0x10);
        if (how == 0) {
            out(t, DOR, 0x18);
            leave_reset(t);
            out(t, CCR, 0);
        } else if (how == 1) {
            uint8_t r[16];
            i82077_change_medium(&t->fdc, 0, NULL);
            CU_ASSERT(t->irq == 1 && results(t, r) == 7 && r[0] == 0x40);
        }
    }
    tear_down(t); /* with the last read still under way */
    loop_destroy(loop);
    unlink(name);
}

TEST_SUITE(floppy, {"reads by DMA: sector, cylinder, end of track", reads}, {"writes by DMA, partial sector", writes},
           {"reads and writes without DMA", without_dma}, {"formats a track", formats}, {"error results", finds_errors},
           {"masked DMA channel", dma_trouble}, {"control commands", control_commands}, {"implied seek", implied_seek},
           {"geometry by image size", media}, {"disk change line", change_line}, {"write protection", write_protect},
           {"parameters without end (VENOM)", endless_parameters}, {"random programs", random_programs},
           {"reset in mid-command", reset_in_command}, {"reset with host I/O pending", reset_with_request_pending})
