/* SPDX-License-Identifier: MIT */
/* What a drive says about itself: IDENTIFY (PACKET) DEVICE (ATA-6 8.15, 8.16) and SMART data (ATA-6 8.54; attribute
 * table as drives of the time had it). */
#include "devices/ata.h"

#include <string.h>

static void put(struct ata_drive *d, unsigned word, unsigned value)
{
    d->data[word * 2] = (uint8_t)value;
    d->data[word * 2 + 1] = (uint8_t)(value >> 8);
}

/* Strings are padded with blanks, the first character in the high byte of each word. */
static void put_string(struct ata_drive *d, unsigned word, unsigned words, const char *text)
{
    for (unsigned i = 0; i < words * 2; i++) {
        d->data[word * 2 + (i ^ 1)] = *text ? (uint8_t)*text : ' ';
        if (*text)
            text++;
    }
}

/* The last byte makes the sum of all 512 zero. */
static void checksum(struct ata_drive *d)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 511; i++)
        sum = (uint8_t)(sum + d->data[i]);
    d->data[511] = (uint8_t)-sum;
}

/* Words that disks and packet drives share */
static void identify_common(struct ata_drive *d, const char *model)
{
    unsigned mode = d->transfer_mode, bit = 1u << (mode & 7);
    memset(d->data, 0, ATA_SECTOR);
    put_string(d, 10, 10, d->serial);
    put_string(d, 23, 4, "1.0");
    put_string(d, 27, 20, model);
    put(d, 48, 1);      /* doublewords through the data port */
    put(d, 49, 0x0f00); /* IORDY, may be switched off; LBA; DMA */
    put(d, 51, 0x0200);
    put(d, 52, 0x0200);
    put(d, 53, 6); /* words 64-70 and 88 valid */
    put(d, 63, 0x0007 | (mode >> 3 == 4 ? bit << 8 : 0));
    put(d, 64, 3); /* PIO 3 and 4 */
    for (unsigned word = 65; word <= 68; word++)
        put(d, word, 120); /* ns */
    put(d, 80, 0x007e);    /* ATA-1 to ATA/ATAPI-6 */
    put(d, 88, 0x003f | (mode >> 3 == 8 ? bit << 8 : 0));
    put(d, 93, d->unit ? 0x6b00 : 0x600b); /* hardware reset: 80-wire cable seen, drive passed */
}

void ata_identify(struct ata_drive *d)
{
    uint64_t lba28 = d->sectors > 0xfffffff ? 0xfffffff : d->sectors;
    uint64_t current = (uint64_t)d->current_cylinders * d->current_heads * d->current_sectors_per_track;
    if (current > lba28)
        current = lba28;
    identify_common(d, "RINGFOLD HARDDISK");
    put(d, 0, 0x0040); /* not removable */
    put(d, 1, d->cylinders);
    put(d, 3, d->heads);
    put(d, 4, ATA_SECTOR * d->sectors_per_track);
    put(d, 5, ATA_SECTOR);
    put(d, 6, d->sectors_per_track);
    put(d, 20, 3);
    put(d, 21, 512);
    put(d, 22, 4);
    put(d, 47, 0x8000 | ATA_MAX_MULTIPLE);
    put(d, 50, 0x4000);
    put(d, 53, 7);
    put(d, 54, d->current_cylinders);
    put(d, 55, d->current_heads);
    put(d, 56, d->current_sectors_per_track);
    put(d, 57, (unsigned)current & 0xffff);
    put(d, 58, (unsigned)(current >> 16));
    put(d, 59, d->multiple ? 0x100u | d->multiple : 0);
    put(d, 60, (unsigned)lba28 & 0xffff);
    put(d, 61, (unsigned)(lba28 >> 16));
    put(d, 82, 0x4069); /* NOP, look-ahead, write cache, power management, SMART */
    put(d, 83, 0x7400); /* FLUSH CACHE (EXT), 48-bit addresses */
    put(d, 84, 0x4000);
    put(d, 85, 0x4008u | (d->smart ? 1 : 0) | (d->write_cache ? 0x20 : 0) | (d->look_ahead ? 0x40 : 0));
    put(d, 86, 0x3400);
    put(d, 87, 0x4000);
    for (unsigned i = 0; i < 4; i++)
        put(d, 100 + i, (unsigned)(d->sectors >> (16 * i)) & 0xffff);
    d->data[510] = 0xa5; /* integrity word: signature and checksum */
    checksum(d);
}

void ata_identify_packet(struct ata_drive *d)
{
    identify_common(d, "RINGFOLD CD-ROM");
    put(d, 0, 0x85c0);  /* packet drive, CD-ROM, removable, DRQ within 50 us of PACKET, packets of 12 bytes */
    put(d, 82, 0x4218); /* NOP, DEVICE RESET, PACKET, power management */
    put(d, 83, 0x4000);
    put(d, 84, 0x4000);
    put(d, 85, 0x4218);
    put(d, 86, 0);
    put(d, 87, 0x4000);
    put(d, 126, 0); /* byte count limit 0 is not understood */
}

/* A healthy drive: every attribute at its best, thresholds far below. */
static const uint8_t attributes[][4] = {
    /* id, flags, value and worst, threshold */
    {1, 0x03, 100, 6},  /* raw read error rate */
    {3, 0x03, 100, 16}, /* spin-up time */
    {5, 0x03, 100, 36}, /* reallocated sectors */
    {9, 0x03, 100, 0},  /* power-on hours */
    {12, 0x03, 100, 0}, /* power cycles */
    {190, 0x03, 69, 50} /* air flow temperature */
};

bool ata_smart_data(struct ata_drive *d, uint8_t subcommand, uint8_t log)
{
    memset(d->data, 0, ATA_SECTOR);
    d->data[0] = 1;
    if (subcommand == 0xd0 || subcommand == 0xd1) {
        for (unsigned i = 0; i < sizeof attributes / sizeof attributes[0]; i++) {
            uint8_t *entry = d->data + 2 + i * 12;
            entry[0] = attributes[i][0];
            if (subcommand == 0xd1) {
                entry[1] = attributes[i][3];
                continue;
            }
            entry[1] = attributes[i][1];
            entry[3] = entry[4] = attributes[i][2];
        }
    }
    if (subcommand == 0xd0) {
        d->data[362] = 0x82; /* off-line collection completed */
        d->data[364] = 1;    /* seconds it takes */
        d->data[367] = 0x01; /* EXECUTE OFF-LINE IMMEDIATE */
        d->data[368] = 0x03; /* attributes are saved */
        d->data[372] = 1;    /* minutes of a self-test */
    } else if (subcommand == 0xd5) {
        if (log == 0)
            d->data[1] = 0;            /* directory: version 1, no log has several sectors */
        else if (log != 1 && log != 6) /* summary error log, self-test log: both empty */
            return false;
    } else if (subcommand != 0xd1) {
        return false;
    }
    checksum(d);
    return true;
}
