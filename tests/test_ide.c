/* SPDX-License-Identifier: MIT */
#include "devices/ide_pci.h"
#include "tests/ide_bench.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static void signatures(void)
{
    struct bench *t = set_up(ATA_DISK, 2048);
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, ERROR) == 1);
    CU_ASSERT(in(t, COUNT) == 1 && in(t, LOW) == 1 && in(t, MID) == 0 && in(t, HIGH) == 0);
    CU_ASSERT(in(t, CONTROL) == 0x50);
    out(t, DEVICE, 0xb0); /* no drive 1 */
    CU_ASSERT(in(t, STATUS) == 0 && in(t, CONTROL) == 0 && in(t, COUNT) == 0 && in(t, DEVICE) == 0xb0);
    out(t, COMMAND, 0xec);
    CU_ASSERT(in(t, STATUS) == 0 && t->irq == 0);
    out(t, COUNT, 0x55);
    out(t, LOW, 0xaa);
    CU_ASSERT(in(t, COUNT) == 0 && in(t, LOW) == 0);
    out(t, COMMAND, 0x90); /* EXECUTE DEVICE DIAGNOSTIC reaches drive 0 all the same */
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50 && t->irq == 0 && in(t, ERROR) == 1 && in(t, COUNT) == 1);
    tear_down(t);
    t = set_up(ATA_NONE, 0);
    for (uint16_t port = 0x1f0; port < 0x1f8; port++) {
        out(t, port, 0xec);
        CU_ASSERT(in(t, port) == 0);
    }
    out(t, CONTROL, 4);
    out(t, CONTROL, 0);
    tear_down(t);
}

static unsigned word(const uint8_t *p, unsigned n)
{
    return p[n * 2] | (unsigned)p[n * 2 + 1] << 8;
}

static void identify(void)
{
    struct bench *t = set_up(ATA_DISK, 20 * 16 * 63);
    uint8_t id[512], sum = 0;
    out(t, DEVICE, 0xa0);
    out(t, COMMAND, 0xec);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x58 && t->irq == 0);
    read_words(t, id, 256);
    CU_ASSERT(in(t, STATUS) == 0x50);
    CU_ASSERT(word(id, 0) == 0x40 && word(id, 1) == 20 && word(id, 3) == 16 && word(id, 6) == 63);
    CU_ASSERT(word(id, 47) == 0x8010 && (word(id, 49) & 0x300) == 0x300 && word(id, 53) == 7);
    CU_ASSERT(word(id, 60) == 20160 && word(id, 61) == 0 && word(id, 100) == 20160 && (word(id, 83) & 0x400));
    CU_ASSERT(!memcmp(id + 54, "IRGNOFDLH RADDSI K  ", 20));
    for (unsigned i = 0; i < 512; i++)
        sum += id[i];
    CU_ASSERT(sum == 0 && id[510] == 0xa5);
    /* with 32-bit accesses */
    uint32_t id32[128];
    out(t, COMMAND, 0xec);
    for (unsigned i = 0; i < 128; i++)
        id32[i] = (uint32_t)bus_read(t->ports, DATA, 4);
    CU_ASSERT(!memcmp(id, id32, 512) && in(t, STATUS) == 0x50);
    CU_ASSERT(in16(t) == 0 && in(t, STATUS) == 0x50); /* nothing more to read */
    tear_down(t);
}

static void pio_reads(void)
{
    struct bench *t = set_up(ATA_DISK, 2048);
    static uint8_t buf[256 * 512];
    command28(t, 0x20, 7, 3);
    for (unsigned i = 0; i < 3; i++) {
        CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x58 && t->irq == 0);
        read_words(t, buf, 256);
        CU_ASSERT(holds_sector(buf, 7 + i));
    }
    CU_ASSERT(in(t, CONTROL) == 0x50 && t->irq == 0);
    CU_ASSERT(in(t, LOW) == 9 && in(t, COUNT) == 0);
    /* 256 sectors, as blocks of string I/O */
    command28(t, 0x20, 100, 0);
    for (unsigned i = 0; i < 256; i++)
        CU_ASSERT(ide_channel_read_block(&t->channel, buf + i * 512, sizeof buf) == 512);
    CU_ASSERT(ide_channel_read_block(&t->channel, buf, 4) == 0 && in(t, STATUS) == 0x50);
    CU_ASSERT(holds_sector(buf, 100) && holds_sector(buf + 255 * 512, 355));
    /* READ MULTIPLE: 10 sectors in blocks of 4 */
    out(t, COUNT, 4);
    out(t, COMMAND, 0xc6);
    CU_ASSERT(in(t, STATUS) == 0x50);
    t->edges = 0;
    command28(t, 0xc4, 20, 10);
    for (unsigned i = 0; i < 10; i++) {
        in(t, STATUS);
        read_words(t, buf, 256);
        CU_ASSERT(holds_sector(buf, 20 + i));
    }
    CU_ASSERT(t->edges == 3 && in(t, STATUS) == 0x50);
    /* 48-bit, more than the buffer holds */
    command48(t, 0x24, 1000, 700);
    for (unsigned i = 0; i < 700; i++) {
        CU_ASSERT_FATAL(in(t, STATUS) == 0x58);
        read_words(t, buf, 256);
        CU_ASSERT(holds_sector(buf, 1000 + i));
    }
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, LOW) == (1699 & 0xff) && in(t, MID) == 1699 >> 8);
    tear_down(t);
}

static void cylinders_heads_sectors(void)
{
    struct bench *t = set_up(ATA_DISK, 2048);
    uint8_t buf[512];
    out(t, DEVICE, 0xa3); /* 4 heads */
    out(t, COUNT, 8);
    out(t, COMMAND, 0x91);
    CU_ASSERT(in(t, STATUS) == 0x50);
    out(t, DEVICE, 0xa2);
    out(t, COUNT, 1);
    out(t, LOW, 5);
    out(t, MID, 3);
    out(t, HIGH, 0);
    out(t, COMMAND, 0x20);
    CU_ASSERT(in(t, STATUS) == 0x58);
    read_words(t, buf, 256);
    CU_ASSERT(holds_sector(buf, (3 * 4 + 2) * 8 + 4));
    CU_ASSERT(in(t, LOW) == 5 && in(t, MID) == 3 && (in(t, DEVICE) & 0xf) == 2);
    static const uint8_t bad[][3] = {{0, 3, 0xa2}, {9, 3, 0xa2}, {5, 3, 0xa4}, {5, 200, 0xa0}};
    for (unsigned i = 0; i < 4; i++) {
        out(t, DEVICE, bad[i][2]);
        out(t, COUNT, 1);
        out(t, LOW, bad[i][0]);
        out(t, MID, bad[i][1]);
        out(t, COMMAND, 0x20);
        CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_IDNF);
    }
    out(t, COUNT, 0);
    out(t, COMMAND, 0x91);
    CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_ABRT);
    out(t, COMMAND, 0x24); /* 48-bit commands know no cylinders */
    CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_IDNF);
    tear_down(t);
}

static void pio_writes(void)
{
    struct bench *t = set_up(ATA_DISK, 2048);
    uint8_t buf[512], back[512];
    command28(t, 0x30, 50, 2);
    CU_ASSERT(t->irq == 0 && in(t, STATUS) == 0x58); /* the first block comes without an interrupt */
    memset(buf, 0x11, sizeof buf);
    write_words(t, buf, 256);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x58);
    CU_ASSERT(ide_channel_write_block(&t->channel, buf, 512) == 512);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50);
    medium_io(t->disk, BLOCK_READ, 51, 1, back);
    CU_ASSERT(!memcmp(buf, back, 512) && !medium_holds(t->disk, 50) && medium_holds(t->disk, 52));
    command48(t, 0x39, 1300, 600); /* WRITE MULTIPLE EXT */
    for (unsigned i = 0; i < 600; i++)
        write_words(t, buf, 256);
    CU_ASSERT(in(t, STATUS) == 0x50);
    CU_ASSERT(medium_holds(t->disk, 1299) && !medium_holds(t->disk, 1300) && !medium_holds(t->disk, 1899) &&
              medium_holds(t->disk, 1900));
    out(t, COMMAND, 0xe7);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50);
    out(t, COMMAND, 0xea);
    CU_ASSERT(in(t, STATUS) == 0x50);
    tear_down(t);
}

static void errors(void)
{
    struct bench *t = set_up(ATA_DISK, 2048);
    static const uint8_t sector_commands[] = {0x20, 0x30, 0x40, 0xc4, 0xc5, 0xc8, 0xca};
    for (size_t i = 0; i < sizeof sector_commands; i++) {
        command28(t, sector_commands[i], 2047, 2);
        CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_IDNF);
        command28(t, sector_commands[i], 0xfffffff, 0);
        CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_IDNF);
        CU_ASSERT(in(t, LOW) == 0xff && (in(t, DEVICE) & 0xf) == 0xf);
    }
    command48(t, 0x25, 0xffffffffffff, 0);
    CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_IDNF);
    static const uint8_t unknown[] = {0x00, 0x08, 0x22, 0x92, 0xa0, 0xa1, 0xb1, 0xf1, 0xff, 0x80};
    for (size_t i = 0; i < sizeof unknown; i++) {
        out(t, COMMAND, unknown[i]);
        CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_ABRT);
    }
    out(t, COUNT, 3);
    out(t, COMMAND, 0xc6); /* not a power of two */
    CU_ASSERT(in(t, STATUS) == 0x51);
    out(t, COUNT, 0);
    out(t, COMMAND, 0xc6); /* switches MULTIPLE off */
    CU_ASSERT(in(t, STATUS) == 0x50);
    command28(t, 0xc4, 0, 1);
    CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_ABRT);
    tear_down(t);
}

static void small_commands(void)
{
    struct bench *t = set_up(ATA_DISK, 0x12345);
    uint8_t buf[512];
    out(t, COMMAND, 0xe5);
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, COUNT) == 0xff);
    out(t, COMMAND, 0xe0);
    out(t, COMMAND, 0xe5);
    CU_ASSERT(in(t, COUNT) == 0);
    out(t, COMMAND, 0xf8);
    CU_ASSERT(in(t, LOW) == 0x44 && in(t, MID) == 0x23 && in(t, HIGH) == 0x01);
    out(t, COMMAND, 0x27);
    CU_ASSERT(in(t, LOW) == 0x44);
    out(t, CONTROL, 0x80);
    CU_ASSERT(in(t, LOW) == 0); /* HOB */
    out(t, COUNT, 0x12);        /* clears HOB */
    out(t, COUNT, 0x34);
    CU_ASSERT(in(t, COUNT) == 0x34);
    out(t, CONTROL, 0x80);
    CU_ASSERT(in(t, COUNT) == 0x12);
    out(t, CONTROL, 0);
    out(t, FEATURES, 0x03);
    out(t, COUNT, 0x45); /* Ultra DMA 5 */
    out(t, COMMAND, 0xef);
    CU_ASSERT(in(t, STATUS) == 0x50);
    out(t, COMMAND, 0xec);
    read_words(t, buf, 256);
    CU_ASSERT(word(buf, 88) == 0x203f);
    out(t, COUNT, 0x47);
    out(t, COMMAND, 0xef);
    CU_ASSERT(in(t, STATUS) == 0x51);
    command28(t, 0x40, 0, 0); /* VERIFY */
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, LOW) == 255);
    command28(t, 0x70, 5, 0);
    CU_ASSERT(in(t, STATUS) == 0x50);
    out(t, COMMAND, 0x10);
    CU_ASSERT(in(t, STATUS) == 0x50);
    /* SMART */
    out(t, MID, 0x4f);
    out(t, HIGH, 0xc2);
    out(t, FEATURES, 0xda);
    out(t, COMMAND, 0xb0);
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, MID) == 0x4f && in(t, HIGH) == 0xc2);
    out(t, FEATURES, 0xd0);
    out(t, COMMAND, 0xb0);
    uint8_t sum = 0;
    read_words(t, buf, 256);
    for (unsigned i = 0; i < 512; i++)
        sum += buf[i];
    CU_ASSERT(sum == 0 && in(t, STATUS) == 0x50);
    out(t, MID, 0);
    out(t, COMMAND, 0xb0);
    CU_ASSERT(in(t, STATUS) == 0x51);
    /* SLEEP: deaf until a reset */
    out(t, COMMAND, 0xe6);
    in(t, STATUS);
    out(t, COMMAND, 0xec);
    CU_ASSERT(t->irq == 0 && in(t, STATUS) == 0x50);
    out(t, CONTROL, 4);
    CU_ASSERT(in(t, STATUS) == 0x80);
    out(t, CONTROL, 0);
    out(t, COMMAND, 0xec);
    CU_ASSERT(in(t, STATUS) == 0x58);
    tear_down(t);
}

static void interrupts(void)
{
    struct bench *t = set_up(ATA_DISK, 2048);
    struct block *second = block_open_memory(1 << 20);
    CU_ASSERT(ide_channel_attach(&t->channel, 1, ATA_DISK, second, "") == 0);
    CU_ASSERT(ide_channel_attach(&t->channel, 1, ATA_DISK, second, "") == -EBUSY);
    out(t, CONTROL, 2); /* nIEN */
    out(t, COMMAND, 0xe7);
    CU_ASSERT(t->irq == 0);
    out(t, CONTROL, 0);
    CU_ASSERT(t->irq == 1); /* it was only masked */
    out(t, DEVICE, 0xb0);   /* the other drive does not drive the line */
    CU_ASSERT(t->irq == 0);
    out(t, DEVICE, 0xa0);
    CU_ASSERT(t->irq == 1);
    in(t, CONTROL);
    CU_ASSERT(t->irq == 1);
    in(t, STATUS);
    CU_ASSERT(t->irq == 0);
    command28(t, 0x20, 0, 1);
    out(t, DEVICE, 0xb0); /* ignored in mid-transfer, like a second command */
    out(t, COMMAND, 0xec);
    out(t, COUNT, 0x77);
    uint8_t buf[512];
    read_words(t, buf, 256);
    CU_ASSERT(holds_sector(buf, 0) && (in(t, DEVICE) & 0x10) == 0 && in(t, COUNT) == 0);
    out(t, DEVICE, 0xb0);
    out(t, COMMAND, 0xec);
    CU_ASSERT(in(t, STATUS) == 0x58);
    ide_channel_reset(&t->channel);
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, DEVICE) == 0xa0);
    ide_channel_destroy(&t->channel);
    block_close(second);
    tear_down(t);
}

static void dma_reads(void)
{
    struct bench *t = set_up(ATA_DISK, 4096);
    static uint8_t buf[600 * 512];
    put_prd(t, 0, BUFFER, 100, false); /* regions need not be whole sectors */
    put_prd(t, 1, BUFFER + 0x10000, 1436, true);
    command28(t, 0xc8, 30, 3);
    CU_ASSERT(t->irq == 0);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 1 && bus_master_status(t) == IDE_BM_INTERRUPT);
    CU_ASSERT(in(t, STATUS) == 0x50 && t->irq == 0);
    stop_bus_master(t);
    memory_read(&t->memory, gpa(BUFFER), buf, 100);
    memory_read(&t->memory, gpa(BUFFER + 0x10000), buf + 100, 1436);
    CU_ASSERT(holds_sector(buf, 30) && holds_sector(buf + 512, 31) && holds_sector(buf + 1024, 32));
    /* bus master first, command later; more than the drive's buffer; regions of 64 KiB */
    for (unsigned i = 0; i < 5; i++)
        put_prd(t, i, 0x100000 + i * 0x10000, 0, i == 4);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(bus_master_status(t) == IDE_BM_ACTIVE);
    command48(t, 0x25, 2000, 600);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50);
    CU_ASSERT(bus_master_status(t) == (IDE_BM_ACTIVE | IDE_BM_INTERRUPT)); /* the table was longer */
    stop_bus_master(t);
    CU_ASSERT(bus_master_status(t) == IDE_BM_INTERRUPT);
    memory_read(&t->memory, gpa(0x100000), buf, sizeof buf);
    for (unsigned i = 0; i < 600; i++)
        CU_ASSERT(holds_sector(buf + i * 512, 2000 + i));
    ide_bus_master_write(&t->channel, IDE_BM_STATUS, 0x64, 1);
    CU_ASSERT(ide_bus_master_read(&t->channel, IDE_BM_STATUS, 1) == 0x60);
    tear_down(t);
}

static void dma_writes(void)
{
    struct bench *t = set_up(ATA_DISK, 4096);
    uint8_t sector[512];
    memset(sector, 0xee, sizeof sector);
    for (unsigned i = 0; i < 600; i++)
        memory_write(&t->memory, gpa(0x100000 + i * 512), sector, 512);
    for (unsigned i = 0; i < 5; i++)
        put_prd(t, i, 0x100000 + i * 0x10000, 0, i == 4);
    command48(t, 0x35, 1000, 600);
    CU_ASSERT(in(t, CONTROL) == 0x58);
    start_bus_master(t, PRD_TABLE, 0);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50);
    CU_ASSERT(medium_holds(t->disk, 999) && medium_holds(t->disk, 1600));
    medium_io(t->disk, BLOCK_READ, 1599, 1, sector);
    CU_ASSERT(sector[0] == 0xee && sector[511] == 0xee);
    tear_down(t);
}

/* Tables that are too short, empty in effect, out of memory, in themselves, endless. CVE-2014-9718, CVE-2019-20175 */
static void bad_tables(void)
{
    struct bench *t = set_up(ATA_DISK, 4096);
    uint8_t buf[1024];
    /* no complete sector: the table ends, the drive waits, no interrupt; a reset gets it back */
    put_prd(t, 0, BUFFER, 2, true);
    command28(t, 0xc8, 3, 1);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 0 && bus_master_status(t) == 0 && in(t, CONTROL) == 0x58);
    stop_bus_master(t);
    out(t, CONTROL, 4);
    out(t, CONTROL, 0);
    CU_ASSERT(in(t, STATUS) == 0x50);
    /* the same for a write: nothing reaches the disk */
    command28(t, 0xca, 3, 1);
    start_bus_master(t, PRD_TABLE, 0);
    CU_ASSERT(t->irq == 0 && in(t, CONTROL) == 0x58 && medium_holds(t->disk, 3));
    stop_bus_master(t);
    out(t, CONTROL, 4);
    out(t, CONTROL, 0);
    CU_ASSERT(medium_holds(t->disk, 3));
    /* a second table goes on where the first ended */
    command28(t, 0xc8, 3, 1);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    stop_bus_master(t);
    put_prd(t, 0, BUFFER + 2, 510, true);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50);
    memory_read(&t->memory, gpa(BUFFER), buf, 512);
    CU_ASSERT(holds_sector(buf, 3));
    stop_bus_master(t);
    /* tables and regions where there is no memory, over the end of RAM, at the top of the address space */
    static const uint32_t places[] = {0x3ffffc, 0x400000, 0xfffffff8, 0xfffffffc, 0xa0000000};
    for (unsigned i = 0; i < 5; i++) {
        for (int region = 0; region < 2; region++) {
            put_prd(t, 0, places[i] & ~1u, 0, true);
            command28(t, i & 1 ? 0xca : 0xc8, 3, 16);
            start_bus_master(t, region ? PRD_TABLE : places[i], i & 1 ? 0 : IDE_BM_TO_MEMORY);
            CU_ASSERT(bus_master_status(t) == IDE_BM_ERROR && t->irq == 0);
            stop_bus_master(t);
            out(t, CONTROL, 4);
            out(t, CONTROL, 0);
            CU_ASSERT(medium_holds(t->disk, 3));
        }
    }
    /* read-only memory as the target: the bus error is reported, the memory stays as it is */
    memory_map(&t->memory, gpa(0xc0000), 0x1000, memory_ram_hva(&t->memory, gpa(0xc0000)), NULL);
    put_prd(t, 0, 0xc0000, 512, true);
    command28(t, 0xc8, 3, 1);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(bus_master_status(t) == IDE_BM_ERROR && memory_read32(&t->memory, gpa(0xc0000)) == 0);
    stop_bus_master(t);
    ide_channel_reset(&t->channel);
    /* the disk overwrites the table it is moved by */
    put_prd(t, 0, PRD_TABLE, 0, false);
    command28(t, 0xc8, 0, 0);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    stop_bus_master(t);
    ide_channel_reset(&t->channel);
    /* a table without an end, of the smallest regions: it ends with the transfer */
    for (unsigned i = 0; i < 8192; i++)
        put_prd(t, i, BUFFER, 2, false);
    command28(t, 0xc8, 0, 0);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50);
    tear_down(t);
}

static bool no_master(void *opaque)
{
    return false;
}

static void not_master(void)
{
    struct bench *t = set_up(ATA_DISK, 64);
    t->channel.may_master = no_master;
    put_prd(t, 0, BUFFER, 512, true);
    command28(t, 0xc8, 0, 1);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 0 && memory_read32(&t->memory, gpa(BUFFER + 4)) == 0);
    t->channel.memory = NULL; /* a channel without a bus master at all */
    stop_bus_master(t);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 0);
    tear_down(t);
}

/* Registers and word counts at random, on two drives. CVE-2020-29443 and kin */
static void random_programs(void)
{
    struct bench *t = set_up(ATA_DISK, 1024);
    struct block *cd = block_open_memory(1 << 20);
    CU_ASSERT(ide_channel_attach(&t->channel, 1, ATA_CDROM, cd, "") == 0);
    uint32_t seed = 7;
    for (unsigned i = 0; i < 300000; i++) {
        seed = seed * 1664525 + 1013904223;
        unsigned what = seed >> 27, value = seed >> 8 & 0xffff;
        if (what < 8)
            bus_write(t->ports, 0x1f0 + (value & 7), seed >> 16, 1);
        else if (what < 12)
            bus_read(t->ports, 0x1f0 + (value & 7), 1u << (value >> 4 & 3));
        else if (what < 20)
            for (unsigned n = 0; n < 64; n++)
                bus_write(t->ports, DATA, seed >> (n & 15) & 0x00ff00ff, 1u << (value % 3));
        else if (what < 24)
            for (unsigned n = 0; n < 64; n++)
                bus_read(t->ports, DATA, 1u << (value % 3));
        else if (what == 24)
            out(t, CONTROL, (uint8_t)value);
        else if (what == 25)
            out(t, COMMAND, 0xa0);
        else if (what == 26)
            put_prd(t, value & 3, seed & 0x3fffffu, (uint16_t)value, value & 4);
        else if (what < 30)
            ide_bus_master_write(&t->channel, value & 7, value & 8 ? PRD_TABLE : seed >> 12, 1u << (value >> 4 & 3));
        else if (what == 30)
            ide_channel_change_medium(&t->channel, value & 3, value & 4 ? cd : NULL, value & 8);
        else if (value < 2000)
            ide_channel_reset(&t->channel);
    }
    ide_channel_destroy(&t->channel);
    block_close(cd);
    tear_down(t);
}

/* ---- the PCI function ---- */

static void pci_function(void)
{
    struct bench *t = set_up(ATA_NONE, 0);
    struct bus *space = bus_create("memory", UINT64_MAX);
    struct irq_line pirq[PCI_PIRQ_COUNT] = {{0}};
    struct pci_bus *pci = pci_bus_create(t->ports, space, NULL, pirq);
    struct ide_controller *c = calloc(1, sizeof *c);
    struct block *disk = block_open_memory(1 << 20);
    uint8_t buf[512];
    fill_medium(disk);
    ide_channel_unmap(&t->channel, t->ports);
    ide_controller_init(c, t->ports, &t->memory, (struct irq_line){bench_irq, t, 14}, (struct irq_line){0});
    CU_ASSERT(ide_channel_attach(&c->channels[0], 0, ATA_DISK, disk, "") == 0);
    CU_ASSERT_FATAL(ide_controller_add(c, pci, 7, 1) == 0);
    CU_ASSERT(pci_config_read(pci, 0, 7, 1, 0, 4) == 0x71118086);
    CU_ASSERT(pci_config_read(pci, 0, 7, 1, 8, 4) >> 8 == 0x010180);
    CU_ASSERT(in(t, STATUS) == 0x50 && in(t, 0x177) == 0);
    pci_config_write(pci, 0, 7, 1, 0x41, 0, 1); /* the channel's decoder off and on again */
    CU_ASSERT(in(t, STATUS) == 0xff && in(t, CONTROL) == 0xff);
    pci_config_write(pci, 0, 7, 1, 0x40, 0x8000, 2);
    CU_ASSERT(in(t, STATUS) == 0x50);
    pci_config_write(pci, 0, 7, 1, 0x20, 0xc000, 4);
    pci_config_write(pci, 0, 7, 1, 4, 1, 2); /* ports, not yet bus master */
    put_prd(t, 0, BUFFER, 512, true);
    memory_write32(&t->memory, gpa(BUFFER), 0);
    bus_write(t->ports, 0xc004, PRD_TABLE, 4);
    command28(t, 0xc8, 77, 1);
    bus_write(t->ports, 0xc000, 9, 1);
    CU_ASSERT(t->irq == 0 && bus_read(t->ports, 0xc002, 1) == 1 && bus_read(t->ports, 0xc00a, 1) == 0);
    bus_write(t->ports, 0xc000, 0, 1);
    pci_config_write(pci, 0, 7, 1, 4, 5, 2);
    bus_write(t->ports, 0xc000, 9, 1);
    CU_ASSERT(t->irq == 1 && bus_read(t->ports, 0xc002, 1) == 4 && bus_read(t->ports, 0xc004, 4) == PRD_TABLE);
    memory_read(&t->memory, gpa(BUFFER), buf, 512);
    CU_ASSERT(holds_sector(buf, 77));
    pci_bus_reset(pci);
    ide_controller_reset(c);
    CU_ASSERT(t->irq == 0 && in(t, STATUS) == 0x50 && bus_read(t->ports, 0xc002, 1) == 0xff);
    ide_controller_destroy(c);
    CU_ASSERT(in(t, STATUS) == 0xff);
    pci_bus_destroy(pci);
    bus_destroy(space);
    block_close(disk);
    free(c);
    tear_down(t);
}

/* ---- with a loop: I/O under way when something happens ---- */

static struct loop *loop;

static void quit(void *opaque)
{
    if (opaque)
        loop_post(loop, quit, NULL);
    else
        loop_quit(loop);
}

/* Lets everything that the worker threads finish arrive. */
static void run_loop(void)
{
    usleep(5000);
    loop_post(loop, quit, loop);
    loop_run(loop);
}

/* The same, for as long as a busy host may need for what the drive works at. */
static void settle(struct bench *t)
{
    for (unsigned i = 0; i < 2000 && (in(t, CONTROL) & ATA_STATUS_BSY); i++)
        run_loop();
}

struct pending {
    struct bench *t;
    struct clock *clock;
    pthread_mutex_t lock;
    struct block *file;
    char name[32];
};

static void set_up_pending(struct pending *p)
{
    char err[256];
    strcpy(p->name, "/tmp/ringfold-test-XXXXXX");
    pthread_mutex_init(&p->lock, NULL);
    p->clock = clock_create(true);
    loop = loop_create(p->clock, &p->lock);
    int fd = mkstemp(p->name);
    CU_ASSERT_FATAL(fd >= 0 && ftruncate(fd, 4096 * 512) == 0);
    close(fd);
    struct block_options options = {.path = p->name};
    CU_ASSERT_FATAL(block_open(&p->file, &options, NULL, err, sizeof err) == 0);
    fill_medium(p->file);
    block_close(p->file);
    CU_ASSERT_FATAL(block_open(&p->file, &options, loop, err, sizeof err) == 0);
    p->t = set_up(ATA_NONE, 0);
    CU_ASSERT(ide_channel_attach(&p->t->channel, 0, ATA_DISK, p->file, "") == 0);
}

static bool file_holds(struct pending *p, uint32_t lba)
{
    uint8_t sector[512];
    FILE *f = fopen(p->name, "rb");
    bool good = f && !fseek(f, (long)lba * 512, SEEK_SET) && fread(sector, 512, 1, f) == 1 && holds_sector(sector, lba);
    if (f)
        fclose(f);
    return good;
}

static void tear_down_pending(struct pending *p)
{
    tear_down(p->t);
    block_close(p->file);
    loop_destroy(loop);
    clock_destroy(p->clock);
    unlink(p->name);
}

static void asynchronous(void)
{
    struct pending p;
    uint8_t buf[512];
    set_up_pending(&p);
    struct bench *t = p.t;
    command28(t, 0x20, 9, 1);
    CU_ASSERT(t->irq == 0 && in(t, CONTROL) & 0x80);
    for (int i = 0; i < 1000 && !t->irq; i++) /* a loaded host takes its time */
        run_loop();
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x58);
    read_words(t, buf, 256);
    CU_ASSERT(holds_sector(buf, 9));
    tear_down_pending(&p);
}

/* A guest that polls needs no loop at all. */
static void polling(void)
{
    struct pending p;
    uint8_t buf[512], status;
    set_up_pending(&p);
    struct bench *t = p.t;
    unsigned polls = 0;
    command28(t, 0x20, 9, 1);
    while ((status = in(t, STATUS)) & 0x80 && polls++ < 100000000)
        ;
    CU_ASSERT(status == 0x58);
    read_words(t, buf, 256);
    CU_ASSERT(holds_sector(buf, 9));
    tear_down_pending(&p);
}

/* CVE-2023-5088: a DMA write under way, a reset, and the rest of it went to sector 0. */
static void reset_with_dma_pending(void)
{
    for (int how = 0; how < 3; how++) {
        struct pending p;
        uint8_t zeros[512] = {0};
        set_up_pending(&p);
        struct bench *t = p.t;
        for (unsigned i = 0; i < 5; i++)
            put_prd(t, i, 0x100000 + i * 0x10000, 0, i == 4);
        command48(t, 0x35, 1000, 600);     /* zeros to 1000..1599; the first part is under way when the reset comes */
        start_bus_master(t, PRD_TABLE, 0); /* no look at the status: one that is read takes what has been finished */
        if (how == 0) {
            out(t, CONTROL, 4);
            out(t, CONTROL, 0);
        } else if (how == 1) {
            ide_channel_reset(&t->channel);
        } else {
            stop_bus_master(t); /* the drive keeps waiting for the rest, and nobody sends it */
        }
        run_loop();
        settle(t);
        CU_ASSERT(t->irq == 0 && in(t, STATUS) == (how == 2 ? 0x58 : 0x50));
        CU_ASSERT(file_holds(&p, 0) && file_holds(&p, 1) && file_holds(&p, 999));
        CU_ASSERT(file_holds(&p, 1256) && file_holds(&p, 1599)); /* the second part was never sent */
        stop_bus_master(t);
        if (how < 2) { /* and a table that is started now moves nothing */
            start_bus_master(t, PRD_TABLE, 0);
            run_loop();
            CU_ASSERT(t->irq == 0 && file_holds(&p, 0) && file_holds(&p, 1256));
        }
        /* a read that is reset does not reach memory */
        ide_channel_reset(&t->channel);
        put_prd(t, 0, BUFFER, 512, true);
        memory_write(&t->memory, gpa(BUFFER), zeros, 512);
        command28(t, 0xc8, 5, 1);
        start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
        out(t, CONTROL, 4);
        out(t, CONTROL, 0);
        run_loop();
        CU_ASSERT(memory_read32(&t->memory, gpa(BUFFER)) == 0 && t->irq == 0);
        tear_down_pending(&p);
    }
}

static void drive_goes_in_mid_transfer(void)
{
    struct pending p;
    set_up_pending(&p);
    command28(p.t, 0x20, 0, 0);
    tear_down_pending(&p); /* destroys the channel while the worker reads into its buffer */
}

static void bad_sectors(void)
{
    struct pending p;
    uint8_t buf[512];
    set_up_pending(&p);
    struct bench *t = p.t;
    CU_ASSERT(truncate(p.name, 20 * 512) == 0); /* the rest of the disk cannot be read any more */
    command28(t, 0x20, 17, 8);
    settle(t);
    for (unsigned i = 17; i < 20; i++) {
        CU_ASSERT(in(t, STATUS) == 0x58);
        read_words(t, buf, 256);
        CU_ASSERT(holds_sector(buf, i));
        settle(t);
    }
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_UNC && in(t, LOW) == 20);
    command28(t, 0x40, 30, 1);
    settle(t);
    CU_ASSERT(in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_UNC);
    tear_down_pending(&p);
}

TEST_SUITE(ide, {"signatures, absent drives", signatures}, {"IDENTIFY DEVICE", identify}, {"PIO reads", pio_reads},
           {"cylinders, heads, sectors", cylinders_heads_sectors}, {"PIO writes, flush", pio_writes},
           {"errors as the drive reports them", errors}, {"power, features, SMART, HOB, sleep", small_commands},
           {"interrupt line, two drives", interrupts}, {"DMA reads", dma_reads}, {"DMA writes", dma_writes},
           {"bad descriptor tables", bad_tables}, {"bus mastering disabled", not_master},
           {"random programs", random_programs}, {"PCI function", pci_function},
           {"asynchronous completion", asynchronous}, {"polling", polling},
           {"reset with DMA pending writes nothing afterwards", reset_with_dma_pending},
           {"drive destroyed in mid-transfer", drive_goes_in_mid_transfer}, {"unreadable sectors", bad_sectors})
