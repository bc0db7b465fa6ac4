/* SPDX-License-Identifier: MIT */
#include "devices/cd_sector.h"
#include "tests/ide_bench.h"

#include <errno.h>
#include <stdio.h>

/* Sends a packet; limit: byte count limit. */
static void packet(struct bench *t, const uint8_t *bytes, unsigned limit, bool dma)
{
    out(t, DEVICE, 0xa0);
    out(t, FEATURES, dma);
    out(t, MID, (uint8_t)limit);
    out(t, HIGH, (uint8_t)(limit >> 8));
    out(t, COMMAND, 0xa0);
    CU_ASSERT(t->irq == 0 && in(t, STATUS) == 0x58 && in(t, COUNT) == ATAPI_REASON_CD);
    write_words(t, bytes, 6);
}

/* Takes the whole reply by PIO; returns its length, or minus (key, additional, qualifier) as 0xkkaaqq. */
static int take(struct bench *t, uint8_t *buf, unsigned limit)
{
    unsigned len = 0;
    for (;;) {
        CU_ASSERT(t->irq == 1);
        uint8_t status = in(t, STATUS);
        if (!(status & 8)) {
            CU_ASSERT(in(t, COUNT) == (ATAPI_REASON_CD | ATAPI_REASON_IO));
            if (status == 0x50)
                return (int)len;
            CU_ASSERT(status == 0x51);
            uint8_t sense[18];
            packet(t, (const uint8_t[12]){0x03, 0, 0, 0, 18}, 18, false);
            CU_ASSERT(take(t, sense, 18) == 18 && sense[0] == 0x70);
            CU_ASSERT(sense[2] == in(t, ERROR) >> 4 || in(t, ERROR) == 0);
            return -(sense[2] << 16 | sense[12] << 8 | sense[13]);
        }
        unsigned n = in(t, MID) | (unsigned)in(t, HIGH) << 8;
        CU_ASSERT_FATAL(status == 0x58 && in(t, COUNT) == ATAPI_REASON_IO && n > 0 && n <= limit);
        read_words(t, buf + len, (n + 1) / 2);
        len += n;
    }
}

static uint8_t reply[300000];

#define DO(t, ...) (packet(t, (const uint8_t[12]){__VA_ARGS__}, 0xfffe, false), take(t, reply, 0xfffe))

enum { NO_MEDIUM = -0x023a01, MEDIUM_CHANGED = -0x062800, INVALID_FIELD = -0x052400, INVALID_COMMAND = -0x052000 };

static void identify(void)
{
    struct bench *t = set_up(ATA_CDROM, 4000);
    uint8_t id[512];
    CU_ASSERT(in(t, STATUS) == 0 && in(t, MID) == 0x14 && in(t, HIGH) == 0xeb && in(t, COUNT) == 1);
    static const uint8_t refused[] = {0xec, 0x20};
    for (unsigned i = 0; i < 2; i++) {
        out(t, MID, 0);
        out(t, COMMAND, refused[i]);
        CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x51 && in(t, ERROR) == ATA_ERROR_ABRT);
        CU_ASSERT(in(t, MID) == 0x14 && in(t, HIGH) == 0xeb);
    }
    out(t, COMMAND, 0xa1);
    CU_ASSERT(in(t, STATUS) == 0x58);
    read_words(t, id, 256);
    CU_ASSERT(id[0] == 0xc0 && id[1] == 0x85 && in(t, STATUS) == 0x50);
    packet(t, (const uint8_t[12]){0x12, 0, 0, 0, 36}, 36, false);
    out(t, COMMAND, 0x08); /* DEVICE RESET in mid-command */
    CU_ASSERT(in(t, STATUS) == 0 && t->irq == 0 && in(t, MID) == 0x14 && in16(t) == 0);
    tear_down(t);
}

static void inquiry_and_pages(void)
{
    struct bench *t = set_up(ATA_CDROM, 4000);
    CU_ASSERT(DO(t, 0x12, 0, 0, 0, 36) == 36 && reply[0] == 5 && reply[1] == 0x80 && !memcmp(reply + 8, "RINGFOLD", 8));
    CU_ASSERT(DO(t, 0x12, 0, 0, 0, 5) == 5); /* an odd length */
    CU_ASSERT(DO(t, 0x12, 0, 0, 0, 0) == 0);
    CU_ASSERT(DO(t, 0x12, 1, 0, 0, 36) == INVALID_FIELD);
    CU_ASSERT(DO(t, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255) == 30 && reply[1] == 28 && reply[8] == 0x2a);
    CU_ASSERT(DO(t, 0x5a, 0, 0x01, 0, 0, 0, 0, 0, 255) == 16);
    CU_ASSERT(DO(t, 0x5a, 0, 0x3f, 0, 0, 0, 0, 255, 255) == 8 + 8 + 8 + 16 + 22);
    CU_ASSERT(DO(t, 0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 7) == 7);
    CU_ASSERT(DO(t, 0x5a, 0, 0x33, 0, 0, 0, 0, 0, 255) == INVALID_FIELD);
    CU_ASSERT(DO(t, 0x5a, 0, 0xff, 0, 0, 0, 0, 0, 255) == -0x053900);
    CU_ASSERT(DO(t, 0x46, 0, 0, 0, 0, 0, 0, 1, 0) == 8 + 12 + 8 + 8 + 12 + 4 + 4 && reply[7] == 8);
    CU_ASSERT(DO(t, 0x46, 2, 0, 3, 0, 0, 0, 1, 0) == 16 && reply[9] == 3);
    CU_ASSERT(DO(t, 0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8) == 8);
    CU_ASSERT(DO(t, 0x51, 0, 0, 0, 0, 0, 0, 0, 34) == 34 && reply[1] == 32);
    CU_ASSERT(DO(t, 0x42, 2, 0x40, 1, 0, 0, 0, 0, 16) == 16 && reply[3] == 12);
    CU_ASSERT(DO(t, 0xf7) == INVALID_COMMAND);
    /* MODE SELECT takes its list and changes nothing */
    packet(t, (const uint8_t[12]){0x55, 0x10, 0, 0, 0, 0, 0, 0, 16}, 10, false);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x58 && in(t, COUNT) == 0 && in(t, MID) == 10);
    write_words(t, reply, 5);
    CU_ASSERT(in(t, STATUS) == 0x58 && in(t, MID) == 6);
    write_words(t, reply, 3);
    CU_ASSERT(take(t, reply, 0) == 0);
    tear_down(t);
}

static void capacity_and_toc(void)
{
    struct bench *t = set_up(ATA_CDROM, 4001); /* 1001 sectors, the last one partial */
    CU_ASSERT(DO(t, 0x00) == 0);
    CU_ASSERT(DO(t, 0x25) == 8);
    CU_ASSERT(!memcmp(reply, "\0\0\x03\xe8\0\0\x08\0", 8));
    CU_ASSERT(DO(t, 0x43, 0, 0, 0, 0, 0, 0, 3, 0) == 20);
    CU_ASSERT(!memcmp(reply, "\0\x12\1\1\0\x14\1\0\0\0\0\0\0\x14\xaa\0\0\0\x03\xe9", 20));
    CU_ASSERT(DO(t, 0x43, 2, 0, 0, 0, 0, 0xaa, 3, 0) == 12);
    CU_ASSERT(!memcmp(reply + 8, "\0\0\x0f\x1a", 4)); /* 1001 + 150 frames: 00:15:26 */
    CU_ASSERT(DO(t, 0x43, 0, 1, 0, 0, 0, 0, 3, 0) == 12 && reply[2] == 1 && reply[3] == 1);
    CU_ASSERT(DO(t, 0x43, 2, 0, 0, 0, 0, 0, 3, 0, 0x80) == 48 && reply[7] == 0xa0); /* format 2, the old way */
    CU_ASSERT(DO(t, 0x43, 2, 2, 0, 0, 0, 0, 0, 12) == 12);
    CU_ASSERT(DO(t, 0x43, 0, 0, 0, 0, 0, 2, 3, 0) == INVALID_FIELD);
    CU_ASSERT(DO(t, 0x43, 0, 7, 0, 0, 0, 0, 3, 0) == INVALID_FIELD);
    tear_down(t);
}

static void reads(void)
{
    struct bench *t = set_up(ATA_CDROM, 4001);
    CU_ASSERT(DO(t, 0x28, 0, 0, 0, 0, 16, 0, 0, 100) == 204800); /* more than the buffer holds */
    for (unsigned i = 0; i < 400; i++)
        CU_ASSERT(holds_sector(reply + i * 512, 64 + i));
    packet(t, (const uint8_t[12]){0xa8, 0, 0, 0, 0, 3, 0, 0, 0, 2}, 2047, false); /* an odd limit */
    CU_ASSERT(take(t, reply, 2046) == 4096 && holds_sector(reply, 12) && holds_sector(reply + 3584, 19));
    CU_ASSERT(DO(t, 0x28, 0, 0, 0, 0x03, 0xe8, 0, 0, 1) == 2048 && holds_sector(reply, 4000) && reply[512] == 0);
    CU_ASSERT(DO(t, 0x28, 0, 0, 0, 0x03, 0xe8, 0, 0, 2) == -0x052100);
    CU_ASSERT(DO(t, 0xa8, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff) == -0x052100);
    CU_ASSERT(DO(t, 0x28, 0, 0, 0, 0, 0, 0, 0, 0) == 0);
    CU_ASSERT(DO(t, 0x2b, 0, 0, 0, 0x03, 0xe8) == 0);
    CU_ASSERT(DO(t, 0x2b, 0, 0, 0, 0x03, 0xe9) == -0x052100);
    CU_ASSERT(DO(t, 0x47, 0, 0, 0, 2, 0, 0, 3, 0) == -0x056400);
    /* by DMA, 70 sectors: two fills of the buffer */
    for (unsigned i = 0; i < 3; i++)
        put_prd(t, i, 0x100000 + i * 0x10000, 0, i == 2);
    packet(t, (const uint8_t[12]){0x28, 0, 0, 0, 0, 1, 0, 0, 70}, 0, true);
    CU_ASSERT(t->irq == 0);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    CU_ASSERT(t->irq == 1 && bus_master_status(t) == (IDE_BM_INTERRUPT | IDE_BM_ACTIVE) && in(t, STATUS) == 0x50);
    stop_bus_master(t);
    memory_read(&t->memory, gpa(0x100000), reply, 70 * 2048);
    for (unsigned i = 0; i < 280; i++)
        CU_ASSERT(holds_sector(reply + i * 512, 4 + i));
    /* replies by DMA, in regions that are no multiple of anything */
    put_prd(t, 0, BUFFER, 10, false);
    put_prd(t, 1, BUFFER + 10, 100, true);
    packet(t, (const uint8_t[12]){0x12, 0, 0, 0, 36}, 0, true);
    start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
    memory_read(&t->memory, gpa(BUFFER), reply, 36);
    CU_ASSERT(t->irq == 1 && in(t, STATUS) == 0x50 && !memcmp(reply + 8, "RINGFOLD", 8));
    tear_down(t);
}

/* Parity sums and the error detection code of ECMA-130 checked from their definition. */
static void raw_sectors(void)
{
    struct bench *t = set_up(ATA_CDROM, 4000);
    CU_ASSERT(DO(t, 0xbe, 0, 0, 0, 0, 5, 0, 0, 2, 0x10) == 4096 && holds_sector(reply, 20));
    CU_ASSERT(DO(t, 0xbe, 0, 0, 0, 0, 5, 0, 0, 70, 0xf8) == 70 * 2352);
    for (unsigned i = 0; i < 70; i++) {
        const uint8_t *s = reply + i * 2352;
        unsigned frame = 5 + i + 150;
        CU_ASSERT(!memcmp(s, "\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", 12));
        CU_ASSERT(s[12] == 0 && s[13] == 2 + (frame - 150) / 75 && s[14] == ((frame % 75) / 10 << 4 | frame % 75 % 10));
        CU_ASSERT(s[15] == 1 && holds_sector(s + 16, 20 + i * 4));
        uint32_t edc = 0; /* over data and code it is zero */
        for (unsigned n = 0; n < 2068; n++) {
            edc ^= s[n];
            for (unsigned bit = 0; bit < 8; bit++)
                edc = edc >> 1 ^ (edc & 1 ? 0xd8018001 : 0);
        }
        CU_ASSERT(edc == 0);
        for (unsigned column = 0; column < 86; column++) { /* the P vectors add up to zero */
            uint8_t sum = 0;
            for (unsigned row = 0; row < 26; row++)
                sum ^= s[12 + column + 86 * row];
            CU_ASSERT(sum == 0);
        }
    }
    CU_ASSERT(DO(t, 0xb9, 0, 0, 0, 2, 5, 0, 2, 6, 0x10) == 2048 && holds_sector(reply, 20));
    CU_ASSERT(DO(t, 0xb9, 0, 0, 0, 0, 5, 0, 2, 6, 0x10) == INVALID_FIELD);
    CU_ASSERT(DO(t, 0xbe, 4, 0, 0, 0, 5, 0, 0, 1, 0x10) == -0x056400); /* no audio there */
    CU_ASSERT(DO(t, 0xbe, 0, 0, 0, 0, 5, 0, 0, 1, 0x10, 1) == INVALID_FIELD);
    CU_ASSERT(DO(t, 0xbe, 0, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xf8) == -0x052100);
    CU_ASSERT(DO(t, 0xbe, 0, 0, 0, 0, 5, 0, 0, 1, 0) == 0);
    tear_down(t);
}

/* CVE-2015-6855: ATA commands and packets for a drive without a medium */
static void empty_drive(void)
{
    struct bench *t = set_up(ATA_CDROM, 0);
    static const uint8_t needs[] = {0x00, 0x25, 0x28, 0x2b, 0x42, 0x43, 0x51, 0xa8, 0xbe, 0xb9};
    for (size_t i = 0; i < sizeof needs; i++)
        CU_ASSERT(DO(t, needs[i], 0, 0, 0, 0, 0, 0, 0, 1, 0x10) == NO_MEDIUM);
    CU_ASSERT(DO(t, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8) == 8 && reply[4] == 0 && reply[5] == 0);
    CU_ASSERT(DO(t, 0x46, 0, 0, 0, 0, 0, 0, 1, 0) == 56 && reply[7] == 0);
    CU_ASSERT(DO(t, 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255) == 30 && reply[2] == 0x70);
    for (unsigned command = 0; command < 256; command++) {
        out(t, COUNT, 1);
        out(t, COMMAND, (uint8_t)command);
        start_bus_master(t, PRD_TABLE, IDE_BM_TO_MEMORY);
        stop_bus_master(t);
        out(t, CONTROL, 4);
        out(t, CONTROL, 0);
        CU_ASSERT(in(t, STATUS) == 0);
        packet(t, (const uint8_t[12]){(uint8_t)command, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 1,
               false);
        out(t, CONTROL, 4);
        out(t, CONTROL, 0);
    }
    tear_down(t);
}

static void medium_changes(void)
{
    struct bench *t = set_up(ATA_CDROM, 0);
    struct block *first = block_open_memory(1 << 20), *second = block_open_memory(1 << 19);
    CU_ASSERT(ide_channel_change_medium(&t->channel, 0, first, false) == 0);
    CU_ASSERT(ide_channel_change_medium(&t->channel, 1, first, false) == -ENODEV);
    CU_ASSERT(ide_channel_change_medium(&t->channel, 2, first, false) == -ENODEV);
    CU_ASSERT(DO(t, 0x12, 0, 0, 0, 36) == 36); /* does not take the unit attention */
    CU_ASSERT(DO(t, 0x00) == MEDIUM_CHANGED);
    CU_ASSERT(DO(t, 0x00) == 0);
    CU_ASSERT(DO(t, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8) == 8 && reply[4] == 2 && reply[5] == 2);
    CU_ASSERT(DO(t, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8) == 8 && reply[4] == 0 && reply[5] == 2);
    CU_ASSERT(DO(t, 0x4a, 0, 0, 0, 0x10, 0, 0, 0, 8) == INVALID_FIELD);
    CU_ASSERT(DO(t, 0x4a, 1, 0, 0, 0x02, 0, 0, 0, 8) == 4 && reply[2] == 0x80);
    /* locked: the guest is asked */
    CU_ASSERT(DO(t, 0x1e, 0, 0, 0, 1) == 0);
    CU_ASSERT(ide_channel_change_medium(&t->channel, 0, second, false) == -EBUSY);
    CU_ASSERT(DO(t, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8) == 8 && reply[4] == 1);
    CU_ASSERT(DO(t, 0x1b, 0, 0, 0, 2) == -0x055302);
    CU_ASSERT(DO(t, 0x1e, 0, 0, 0, 0) == 0);
    CU_ASSERT(DO(t, 0x1b, 0, 0, 0, 2) == 0); /* eject */
    CU_ASSERT(DO(t, 0x00) == -0x023a02);
    CU_ASSERT(DO(t, 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8) == 8 && reply[4] == 3 && reply[5] == 1);
    CU_ASSERT(DO(t, 0x1b, 0, 0, 0, 3) == 0); /* load */
    CU_ASSERT(DO(t, 0x00) == MEDIUM_CHANGED && DO(t, 0x00) == 0);
    /* another medium in the middle of a read */
    packet(t, (const uint8_t[12]){0x28, 0, 0, 0, 0, 0, 0, 0, 100}, 2048, false);
    CU_ASSERT(in(t, STATUS) == 0x58);
    in16(t);
    CU_ASSERT(ide_channel_change_medium(&t->channel, 0, second, true) == 0);
    CU_ASSERT(take(t, reply, 2048) == MEDIUM_CHANGED);
    CU_ASSERT(DO(t, 0x25) == 8 && reply[3] == 0xff && reply[2] == 0);
    CU_ASSERT(ide_channel_change_medium(&t->channel, 0, NULL, true) == 0);
    CU_ASSERT(DO(t, 0x00) == MEDIUM_CHANGED && DO(t, 0x00) == NO_MEDIUM);
    ide_channel_destroy(&t->channel);
    block_close(first);
    block_close(second);
    tear_down(t);
}

TEST_SUITE(atapi, {"signature, IDENTIFY PACKET DEVICE, DEVICE RESET", identify},
           {"INQUIRY, mode pages, configuration", inquiry_and_pages},
           {"capacity and table of contents", capacity_and_toc}, {"READ by PIO and DMA", reads},
           {"READ CD", raw_sectors}, {"empty drive", empty_drive}, {"medium change, lock, eject", medium_changes})
