/* SPDX-License-Identifier: MIT */
/* One IDE channel at 1f0h on a bench: memory, port bus, a fake interrupt line. */
#ifndef RINGFOLD_TESTS_IDE_BENCH_H
#define RINGFOLD_TESTS_IDE_BENCH_H

#include "devices/ide.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

enum { DATA = 0x1f0, FEATURES = 0x1f1, COUNT = 0x1f2, LOW = 0x1f3, MID = 0x1f4, HIGH = 0x1f5, DEVICE = 0x1f6 };
enum { COMMAND = 0x1f7, STATUS = 0x1f7, CONTROL = 0x3f6, ERROR = 0x1f1 };
enum { PRD_TABLE = 0x10000, BUFFER = 0x20000 };

struct bench {
    struct bus *ports;
    struct memory memory;
    struct ide_channel channel;
    struct block *disk;
    int irq, edges;
};

static inline void bench_irq(void *opaque, int n, int level)
{
    struct bench *t = opaque;
    if (level && !t->irq)
        t->edges++;
    t->irq = level;
}

static inline uint8_t in(struct bench *t, uint16_t port)
{
    return (uint8_t)bus_read(t->ports, port, 1);
}

static inline uint16_t in16(struct bench *t)
{
    return (uint16_t)bus_read(t->ports, DATA, 2);
}

static inline void out(struct bench *t, uint16_t port, uint8_t v)
{
    bus_write(t->ports, port, v, 1);
}

static inline void bench_done(void *opaque, int error)
{
    CU_ASSERT(error == 0);
}

static inline void medium_io(struct block *b, enum block_op op, uint64_t sector, uint32_t count, void *buf)
{
    struct block_request r = {.op = op, .sector = sector, .count = count, .buf = buf, .done = bench_done};
    block_submit(b, &r);
}

/* Every sector holds its number and a byte made of it. */
static inline void fill_medium(struct block *b)
{
    uint8_t sector[512];
    for (uint64_t i = 0; i < block_sectors(b); i++) {
        memset(sector, (int)(i * 7 + 1), sizeof sector);
        memcpy(sector, &i, 4);
        medium_io(b, BLOCK_WRITE, i, 1, sector);
    }
}

static inline bool holds_sector(const void *data, uint32_t lba)
{
    const uint8_t *p = data;
    return !memcmp(p, &lba, 4) && p[4] == (uint8_t)(lba * 7 + 1) && p[511] == p[4];
}

static inline bool medium_holds(struct block *b, uint32_t lba)
{
    uint8_t sector[512];
    medium_io(b, BLOCK_READ, lba, 1, sector);
    return holds_sector(sector, lba);
}

/* kind of drive 0; sectors of 512 bytes of its medium, 0: none. */
static inline struct bench *set_up(enum ata_kind kind, uint64_t sectors)
{
    char err[256];
    struct bench *t = calloc(1, sizeof *t);
    t->ports = bus_create("ports", 65536);
    CU_ASSERT_FATAL(memory_init(&t->memory, 4 << 20, err, sizeof err) == 0);
    ide_channel_init(&t->channel, "ide", &t->memory, (struct irq_line){bench_irq, t, 14});
    if (sectors) {
        t->disk = block_open_memory(sectors * 512);
        fill_medium(t->disk);
    }
    CU_ASSERT(ide_channel_attach(&t->channel, 0, kind, t->disk, "RF0001") == 0);
    CU_ASSERT_FATAL(ide_channel_map(&t->channel, t->ports, 0x1f0, 0x3f6) == 0);
    return t;
}

static inline void tear_down(struct bench *t)
{
    ide_channel_unmap(&t->channel, t->ports);
    ide_channel_destroy(&t->channel);
    bus_destroy(t->ports);
    memory_destroy(&t->memory);
    block_close(t->disk);
    free(t);
}

/* Loads an LBA28 task file and gives the command. */
static inline void command28(struct bench *t, uint8_t command, uint32_t lba, uint8_t count)
{
    out(t, DEVICE, (uint8_t)(0xe0 | lba >> 24));
    out(t, COUNT, count);
    out(t, LOW, (uint8_t)lba);
    out(t, MID, (uint8_t)(lba >> 8));
    out(t, HIGH, (uint8_t)(lba >> 16));
    out(t, COMMAND, command);
}

static inline void command48(struct bench *t, uint8_t command, uint64_t lba, uint16_t count)
{
    out(t, DEVICE, 0xe0);
    out(t, COUNT, (uint8_t)(count >> 8));
    out(t, LOW, (uint8_t)(lba >> 24));
    out(t, MID, (uint8_t)(lba >> 32));
    out(t, HIGH, (uint8_t)(lba >> 40));
    out(t, COUNT, (uint8_t)count);
    out(t, LOW, (uint8_t)lba);
    out(t, MID, (uint8_t)(lba >> 8));
    out(t, HIGH, (uint8_t)(lba >> 16));
    out(t, COMMAND, command);
}

static inline void read_words(struct bench *t, void *buf, unsigned words)
{
    uint16_t *p = buf;
    for (unsigned i = 0; i < words; i++)
        p[i] = in16(t);
}

static inline void write_words(struct bench *t, const void *buf, unsigned words)
{
    const uint16_t *p = buf;
    for (unsigned i = 0; i < words; i++)
        bus_write(t->ports, DATA, p[i], 2);
}

/* A descriptor; bytes 0 means 64 KiB. */
static inline void put_prd(struct bench *t, unsigned n, uint32_t address, uint16_t bytes, bool last)
{
    memory_write32(&t->memory, gpa(PRD_TABLE + 8 * n), address);
    memory_write32(&t->memory, gpa(PRD_TABLE + 8 * n + 4), bytes | (last ? 0x80000000u : 0));
}

static inline void start_bus_master(struct bench *t, uint32_t table, uint8_t direction)
{
    ide_bus_master_write(&t->channel, IDE_BM_TABLE, table, 4);
    ide_bus_master_write(&t->channel, IDE_BM_STATUS, 6, 1);
    ide_bus_master_write(&t->channel, IDE_BM_COMMAND, direction, 1);
    ide_bus_master_write(&t->channel, IDE_BM_COMMAND, direction | IDE_BM_START, 1);
}

static inline void stop_bus_master(struct bench *t)
{
    ide_bus_master_write(&t->channel, IDE_BM_COMMAND, 0, 1);
}

static inline uint8_t bus_master_status(struct bench *t)
{
    return (uint8_t)ide_bus_master_read(&t->channel, IDE_BM_STATUS, 1) & 7;
}

#endif
