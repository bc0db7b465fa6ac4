/* SPDX-License-Identifier: MIT */
/* Intel 82077AA floppy disk controller in AT mode (data sheet 290166), with up to two drives: ports 3f0h-3f5h and 3f7h,
 * IRQ 6, DMA channel 2. Media are images of 512-byte sectors whose size tells the geometry, 160K to 2.88M; an image of
 * any other size is a 1.44M (or, when larger, 2.88M) floppy of which only the beginning is there.
 *
 * Seeks, commands and sectors take a short while of the machine's clock, never the milliseconds of the real drive, but
 * the interrupt never comes from inside the port write that asked for it.
 *
 * Not here: the three SCAN commands (as on later chips of the family they are invalid commands), and sector sizes other
 * than 512 bytes (not found on the medium). PART ID and DRIVE SPECIFICATION belong to the 82078 and are invalid here,
 * too.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_I82077_H
#define RINGFOLD_DEVICES_I82077_H

#include "devices/block.h"
#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/i8237.h"
#include "devices/irq.h"

enum {
    I82077_DRIVES = 2,
    I82077_SELECTS = 4, /* drives the registers can name */
    I82077_SECTOR = 512,
    I82077_MAX_SECTORS = 36, /* on a track */
    I82077_BUFFER = I82077_MAX_SECTORS * I82077_SECTOR,
    I82077_MAX_COMMAND = 9,
    I82077_MAX_RESULT = 10
};

struct i82077;

struct i82077_geometry {
    uint16_t tracks;
    uint8_t heads, sectors;
    uint8_t rates; /* bit n: data rate n of the CCR reads it */
    uint8_t drive_type;
};

struct i82077_drive {
    struct i82077 *controller;
    bool present;
    bool changed; /* DSKCHG */
    struct block *medium;
    struct i82077_geometry geometry;
    uint8_t track;     /* where the head is */
    uint8_t id_sector; /* the sector that passed the head last */
    uint8_t type;      /* for the CMOS */
    uint8_t seek_target;
    uint8_t seek_status; /* ST0 that the seek under way will give */
    bool interrupt;      /* ST0 waits for SENSE INTERRUPT STATUS */
    uint8_t status;      /* that ST0 */
    struct timer seek_timer;
};

enum i82077_phase {
    I82077_COMMAND,
    I82077_EXECUTION,
    I82077_HOST_READS, /* execution without DMA: data from and to the FIFO port */
    I82077_HOST_WRITES,
    I82077_RESULT
};

struct i82077 {
    struct i82077_drive drives[I82077_SELECTS]; /* those past I82077_DRIVES are never present */
    enum i82077_phase phase;
    uint8_t dor, tape, rate;
    uint8_t command[I82077_MAX_COMMAND];
    unsigned command_length, command_pos;
    uint8_t result[I82077_MAX_RESULT];
    unsigned result_length, result_pos;
    bool result_interrupt, sense_interrupt;
    int irq_level;
    /* SPECIFY, CONFIGURE, PERPENDICULAR MODE, LOCK */
    uint8_t specify[2], configuration, precompensation_track, perpendicular;
    bool lock;
    uint8_t last_end_of_track; /* for DUMPREG */

    /* Transfer under way */
    const struct i82077_operation *operation;
    uint8_t drive, head, cylinder, id_head, sector, end_of_track; /* the latter four as results show them */
    uint8_t st1, st2;
    uint32_t sectors_left; /* VERIFY with EC */
    uint32_t span;         /* sectors of the track side that are moved in one go */
    uint32_t span_limit;   /* 1 once a read failed, to find the bad sector */
    bool terminal_count, done;
    uint64_t format_sectors; /* FORMAT: bit n, sector n is still to be written */
    uint32_t pos, end;
    uint8_t buffer[I82077_BUFFER];
    struct block_request request;

    struct irq_line irq;
    struct i8237 *dma; /* may be NULL: then only the FIFO port moves data */
    struct timer command_timer, reset_timer;
    struct bus_range ports, change_port;
};

/* Maps the ports. No drives yet. 0 or -errno as bus_add. */
int i82077_init(struct i82077 *fdc, struct bus *ports, struct irq_line irq, struct clock *clock, struct i8237 *dma);
/* Drive n (0 or 1) exists, with a medium or without (NULL). The medium stays the caller's. */
void i82077_attach(struct i82077 *fdc, unsigned n, struct block *medium);
/* The drive's type as the CMOS (register 10h) says it: 0 none, 1 360K, 2 1.2M, 3 720K, 4 1.44M, 5 2.88M. */
unsigned i82077_drive_type(const struct i82077 *fdc, unsigned n);
/* Another medium, or none. A transfer with the old one ends in error; the old one is not used any more when it returns.
 * -ENODEV: no such drive. */
int i82077_change_medium(struct i82077 *fdc, unsigned n, struct block *medium);
/* RESET pin. Nothing that was under way touches medium or memory afterwards. */
void i82077_reset(struct i82077 *fdc);
/* Cancels what is under way and takes the ports off the bus. */
void i82077_destroy(struct i82077 *fdc, struct bus *ports);

uint8_t i82077_read(struct i82077 *fdc, unsigned offset);
void i82077_write(struct i82077 *fdc, unsigned offset, uint8_t value);

#endif
