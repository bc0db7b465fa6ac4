/* SPDX-License-Identifier: MIT */
/* Which image is in which drive, and changing it. Disks take the IDE places in the order primary master, primary slave,
 * secondary slave, secondary master; CD-ROMs begin at the secondary master. */
#include "devices/board.h"

#include <errno.h>
#include <stdio.h>

static const unsigned disk_places[BOARD_IDE_PLACES] = {0, 1, 3, 2}, cdrom_places[BOARD_IDE_PLACES] = {2, 3, 1, 0};

static int open_ide(struct board *b, const struct drive_config *drive, char *err, size_t err_len)
{
    const unsigned *places = drive->kind == DRIVE_CDROM ? cdrom_places : disk_places;
    if (drive->bus == DRIVE_BUS_SCSI) {
        snprintf(err, err_len, "%s: the machine has no SCSI adapter, use bus=ide", drive->block.path);
        return -ENOTSUP;
    }
    for (unsigned i = 0; i < BOARD_IDE_PLACES; i++) {
        unsigned place = places[i];
        if (b->ide_kind[place] != ATA_NONE)
            continue;
        struct block_options options = drive->block;
        options.readonly |= drive->kind == DRIVE_CDROM;
        int r = block_open(&b->ide_media[place], &options, b->loop, err, err_len);
        if (r)
            b->ide_media[place] = NULL;
        else
            b->ide_kind[place] = drive->kind == DRIVE_CDROM ? ATA_CDROM : ATA_DISK;
        return r;
    }
    snprintf(err, err_len, "%s: all %d places for IDE drives are taken", drive->block.path, BOARD_IDE_PLACES);
    return -ENOSPC;
}

static int open_floppy(struct board *b, const struct drive_config *drive, char *err, size_t err_len)
{
    for (unsigned i = 0; i < BOARD_FLOPPIES; i++) {
        if (b->floppy_present[i])
            continue;
        int r = block_open(&b->floppy_media[i], &drive->block, b->loop, err, err_len);
        if (r)
            b->floppy_media[i] = NULL;
        b->floppy_present[i] = r == 0;
        return r;
    }
    snprintf(err, err_len, "%s: there are only %d floppy drives", drive->block.path, BOARD_FLOPPIES);
    return -ENOSPC;
}

int board_open_drives(struct board *b, char *err, size_t err_len)
{
    static const enum drive_kind order[] = {DRIVE_DISK, DRIVE_CDROM, DRIVE_FLOPPY};
    for (unsigned k = 0; k < 3; k++)
        for (unsigned i = 0; i < b->config->drive_count && i < MACHINE_MAX_DRIVES; i++) {
            const struct drive_config *drive = &b->config->drives[i];
            if (drive->kind != order[k])
                continue;
            int r =
                drive->kind == DRIVE_FLOPPY ? open_floppy(b, drive, err, err_len) : open_ide(b, drive, err, err_len);
            if (r)
                return r;
        }
    return 0;
}

int board_attach_drives(struct board *b, char *err, size_t err_len)
{
    for (unsigned place = 0; place < BOARD_IDE_PLACES; place++) {
        char serial[21];
        if (b->ide_kind[place] == ATA_NONE)
            continue;
        snprintf(serial, sizeof serial, "RF%05u", place + 1);
        int r =
            ide_channel_attach(&b->ide.channels[place / 2], place % 2, b->ide_kind[place], b->ide_media[place], serial);
        if (r) {
            snprintf(err, err_len, "IDE drive %u: cannot be attached", place);
            return r;
        }
    }
    for (unsigned i = 0; i < BOARD_FLOPPIES; i++)
        if (b->floppy_present[i])
            i82077_attach(&b->fdc, i, b->floppy_media[i]);
    return 0;
}

void board_close_drives(struct board *b)
{
    for (unsigned i = 0; i < BOARD_IDE_PLACES; i++) {
        if (b->ide_media[i])
            block_close(b->ide_media[i]);
        b->ide_media[i] = NULL;
    }
    for (unsigned i = 0; i < BOARD_FLOPPIES; i++) {
        if (b->floppy_media[i])
            block_close(b->floppy_media[i]);
        b->floppy_media[i] = NULL;
    }
}

/* The place of the slot-th CD-ROM drive, in the order they were given; -1: there is none. */
static int cdrom_place(const struct board *b, unsigned slot)
{
    for (unsigned i = 0; i < BOARD_IDE_PLACES; i++)
        if (b->ide_kind[cdrom_places[i]] == ATA_CDROM && slot-- == 0)
            return (int)cdrom_places[i];
    return -1;
}

int board_change_medium(struct board *b, enum drive_kind kind, unsigned slot, const struct block_options *options,
                        char *err, size_t err_len)
{
    int place = kind == DRIVE_CDROM ? cdrom_place(b, slot) : -1;
    bool floppy = kind == DRIVE_FLOPPY && slot < BOARD_FLOPPIES && b->floppy_present[slot];
    if (place < 0 && !floppy) {
        snprintf(err, err_len, "there is no such removable drive");
        return -ENODEV;
    }
    struct block *medium = NULL, **at = floppy ? &b->floppy_media[slot] : &b->ide_media[place];
    if (options) {
        struct block_options open = *options;
        open.readonly |= !floppy;
        int r = block_open(&medium, &open, b->loop, err, err_len);
        if (r)
            return r;
    }
    int r = floppy ? i82077_change_medium(&b->fdc, slot, medium)
                   : ide_channel_change_medium(&b->ide.channels[place / 2], (unsigned)place % 2, medium, true);
    if (r) {
        snprintf(err, err_len, "the drive does not take the medium");
        if (medium)
            block_close(medium);
        return r;
    }
    if (*at)
        block_close(*at);
    *at = medium;
    return 0;
}
