/* SPDX-License-Identifier: MIT */
/* One drive on an IDE cable: its registers, its buffer and its commands (ATA/ATAPI-4 to -6, T13 1153D, 1321D, 1410D).
 * ata.c has what all drives share and the disk's data path, ata_identify.c what the drive says about itself, atapi.c
 * the packet commands of a CD-ROM drive. The cable (two drives, selection, bus master) is ide.c.
 *
 * Data always moves through the drive's own buffer, never straight between medium and guest memory: a reset, a stopped
 * bus master or a guest that rewrites its tables in mid-transfer can therefore not make host I/O touch guest memory.
 *
 * Threads: under the machine lock. Nothing here is undone by a pointer into the stack; all state is in the struct. */
#ifndef RINGFOLD_DEVICES_ATA_H
#define RINGFOLD_DEVICES_ATA_H

#include "devices/block.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum ata_kind { ATA_NONE, ATA_DISK, ATA_CDROM };

enum ata_status {
    ATA_STATUS_ERR = 0x01, /* CHK for packet commands */
    ATA_STATUS_DRQ = 0x08,
    ATA_STATUS_DSC = 0x10, /* SERV for packet commands */
    ATA_STATUS_DF = 0x20,
    ATA_STATUS_DRDY = 0x40,
    ATA_STATUS_BSY = 0x80
};

enum ata_error { ATA_ERROR_ABRT = 0x04, ATA_ERROR_IDNF = 0x10, ATA_ERROR_UNC = 0x40 };

enum ata_register {
    ATA_DATA,
    ATA_ERROR_FEATURES,
    ATA_SECTOR_COUNT,
    ATA_LBA_LOW,
    ATA_LBA_MID,
    ATA_LBA_HIGH,
    ATA_DEVICE,
    ATA_STATUS_COMMAND
};

enum { ATA_DEVICE_DEV = 0x10, ATA_DEVICE_LBA = 0x40 };
enum { ATA_CONTROL_NIEN = 0x02, ATA_CONTROL_SRST = 0x04, ATA_CONTROL_HOB = 0x80 };

/* Interrupt reason, in the sector count register of packet commands */
enum { ATAPI_REASON_CD = 1, ATAPI_REASON_IO = 2 };

enum {
    ATA_SECTOR = 512,
    ATAPI_SECTOR = 2048,
    ATAPI_RAW_SECTOR = 2352,
    ATA_BUFFER_SECTORS = 256,
    ATAPI_BUFFER_SECTORS = 64,
    ATA_BUFFER_SIZE = ATAPI_BUFFER_SECTORS * ATAPI_RAW_SECTOR, /* the larger of the two */
    ATA_MAX_MULTIPLE = 16,
    ATAPI_PACKET_SIZE = 12
};

/* What the host may do with data[pos, end) */
enum ata_phase { ATA_PHASE_NONE, ATA_PHASE_PIO_IN, ATA_PHASE_PIO_OUT, ATA_PHASE_DMA_IN, ATA_PHASE_DMA_OUT };

/* What the drive is at */
enum ata_activity {
    ATA_ACTIVITY_NONE,
    ATA_ACTIVITY_READ,
    ATA_ACTIVITY_WRITE,
    ATA_ACTIVITY_VERIFY,
    ATA_ACTIVITY_FLUSH,
    ATA_ACTIVITY_REPLY,      /* data of the drive itself (IDENTIFY, SMART) */
    ATA_ACTIVITY_PACKET,     /* takes the command packet */
    ATA_ACTIVITY_PACKET_IN,  /* reply to a packet command from the buffer */
    ATA_ACTIVITY_PACKET_OUT, /* parameter list of a packet command */
    ATA_ACTIVITY_PACKET_READ /* sectors of the medium */
};

/* What the drive drives on the cable; the channel fills it in. */
struct ata_host {
    void (*intrq)(void *opaque, unsigned unit); /* drive->intrq changed */
    void (*dmarq)(void *opaque, unsigned unit); /* data[pos, end) may now move by DMA */
    void *opaque;
};

/* The CD-ROM side of a drive */
struct atapi_state {
    uint8_t packet[ATAPI_PACKET_SIZE];
    uint8_t sense_key, additional, qualifier;
    uint8_t unit_attention; /* additional sense code of the pending unit attention, 0: none */
    uint8_t media_event;    /* for GET EVENT STATUS NOTIFICATION */
    bool locked;            /* PREVENT ALLOW MEDIUM REMOVAL */
    bool tray_open;
    bool dma;
    uint32_t limit;       /* bytes a PIO block may have */
    uint32_t sector_size; /* of the READ under way: 2048, or as READ CD puts sectors together */
    uint8_t fields;       /* READ CD, byte 9 */
    uint32_t start_lba;   /* first sector in the buffer */
};

struct ata_drive {
    /* Hot: the data port */
    uint8_t *data; /* ATA_BUFFER_SIZE bytes */
    uint32_t pos, end;
    enum ata_phase phase;

    enum ata_kind kind;
    unsigned unit; /* 0 or 1 */
    struct ata_host host;
    struct block *block; /* NULL: no medium (CD-ROM). Owned by whoever attached it */

    /* Registers; [1] holds the value before the last write (48-bit commands, HOB) */
    uint8_t features[2], count[2], lba_low[2], lba_mid[2], lba_high[2];
    uint8_t device, status, error;
    bool intrq;

    /* The command under way */
    enum ata_activity activity;
    uint8_t command;
    bool ext;             /* 48-bit addresses */
    bool dma;             /* the data of this command goes by DMA */
    uint32_t filled;      /* valid bytes in data */
    uint32_t drq_block;   /* bytes per DRQ block */
    uint64_t lba;         /* next sector between medium and buffer */
    uint32_t left;        /* sectors still to go between medium and buffer */
    uint32_t chunk;       /* sectors of the request under way */
    uint32_t chunk_limit; /* 1 once a read failed, to find the bad sector */
    struct block_request request;

    /* Settings */
    uint64_t sectors;
    uint16_t cylinders, current_cylinders;
    uint8_t heads, sectors_per_track, current_heads, current_sectors_per_track;
    uint8_t multiple;
    uint8_t transfer_mode; /* as SET FEATURES 03h gave it */
    bool write_cache, look_ahead, smart;
    uint8_t power; /* as CHECK POWER MODE says it; ATA_POWER_SLEEP */
    char serial[21];

    struct atapi_state atapi;
};

enum { ATA_POWER_STANDBY = 0x00, ATA_POWER_IDLE = 0x80, ATA_POWER_SLEEP = 0x01, ATA_POWER_ACTIVE = 0xff };

/* kind ATA_NONE, or a disk without block, makes a place without a drive. block: the disk, or the medium of a CD-ROM
 * drive (may be NULL). serial: at most 20 characters. 0 or -ENOMEM. */
int ata_drive_init(struct ata_drive *d, enum ata_kind kind, unsigned unit, struct block *block, const char *serial,
                   const struct ata_host *host);
/* Cancels what is under way. */
void ata_drive_destroy(struct ata_drive *d);
/* Power-on / RESET#: settings back to their defaults. Nothing that was under way touches medium or memory afterwards.
 */
void ata_drive_reset(struct ata_drive *d);
/* SRST going up (BSY until it goes down) and down (signature). */
void ata_soft_reset(struct ata_drive *d, bool asserted);

static inline bool ata_present(const struct ata_drive *d)
{
    return d->kind != ATA_NONE;
}

/* Registers ATA_ERROR_FEATURES to ATA_DEVICE; ignored while the drive is busy or moves data. */
void ata_write_register(struct ata_drive *d, enum ata_register reg, uint8_t value);
uint8_t ata_read_register(const struct ata_drive *d, enum ata_register reg, bool hob);
void ata_write_command(struct ata_drive *d, uint8_t command);
/* Reading Status acknowledges the interrupt; Alternate Status is d->status. */
uint8_t ata_read_status(struct ata_drive *d);
/* EXECUTE DEVICE DIAGNOSTIC goes to both drives, whichever is selected. */
void ata_diagnose(struct ata_drive *d);

/* The host moved data up to pos == end. */
void ata_data_exhausted(struct ata_drive *d);

/* ---- between ata*.c and atapi.c ---- */

void ata_set_signature(struct ata_drive *d);
void ata_raise(struct ata_drive *d);
/* Ends the command: status, phase, interrupt. */
void ata_finish(struct ata_drive *d, uint8_t status, uint8_t error);
void ata_abort_command(struct ata_drive *d);
/* Offers data[from, from + len) to the host. */
void ata_offer(struct ata_drive *d, enum ata_phase phase, uint32_t from, uint32_t len);
void ata_busy(struct ata_drive *d);
/* One request at a time; its end comes to ata_io_done or atapi_io_done by activity. */
void ata_submit(struct ata_drive *d, enum block_op op, uint64_t sector, uint32_t count);

void ata_identify(struct ata_drive *d);        /* fills data[0, 512) */
void ata_identify_packet(struct ata_drive *d); /* same for a CD-ROM drive */
/* SMART data structures (subcommand in features); false: no such subcommand with data. */
bool ata_smart_data(struct ata_drive *d, uint8_t subcommand, uint8_t log);

void atapi_reset(struct ata_drive *d);
void atapi_command(struct ata_drive *d); /* PACKET was written */
void atapi_data_exhausted(struct ata_drive *d);
void atapi_io_done(struct ata_drive *d, int error);

/* A new medium (NULL: none), with the unit attention and event that go with it. What was under way with the old one
 * ends with an error; when it returns the old one is no longer used. -EBUSY when the guest has locked the tray and
 * !force. */
int atapi_change_medium(struct ata_drive *d, struct block *medium, bool force);

#endif
