/* SPDX-License-Identifier: MIT */
/* A read of 3 sectors by PIO, from end to end: ata_write_command -> start_sectors checks the address and asks for the
 * data (BSY) -> ata_io_done puts the first sector before the data port (DRQ, INTRQ) -> the host reads 256 words ->
 * ata_data_exhausted offers the next sector, until the buffer is used up and either more is fetched or the command
 * ends. DMA is the same with the whole buffer as one block and the bus master in the place of the data port. */
#include "devices/ata.h"
#include "devices/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { READY = ATA_STATUS_DRDY | ATA_STATUS_DSC };

/* ---- what the drive shows ---- */

static void set_intrq(struct ata_drive *d, bool level)
{
    if (d->intrq == level)
        return;
    d->intrq = level;
    d->host.intrq(d->host.opaque, d->unit);
}

void ata_raise(struct ata_drive *d)
{
    set_intrq(d, true);
}

void ata_busy(struct ata_drive *d)
{
    d->phase = ATA_PHASE_NONE;
    d->pos = d->end = 0;
    d->status = (uint8_t)((d->status & ~(ATA_STATUS_DRQ | ATA_STATUS_ERR | ATA_STATUS_DF)) | ATA_STATUS_BSY);
}

static void end_command(struct ata_drive *d, uint8_t status, uint8_t error)
{
    d->activity = ATA_ACTIVITY_NONE;
    d->phase = ATA_PHASE_NONE;
    d->pos = d->end = 0;
    d->status = status;
    d->error = error;
}

void ata_finish(struct ata_drive *d, uint8_t status, uint8_t error)
{
    end_command(d, status, error);
    ata_raise(d);
}

void ata_abort_command(struct ata_drive *d)
{
    ata_finish(d, READY | ATA_STATUS_ERR, ATA_ERROR_ABRT);
}

void ata_offer(struct ata_drive *d, enum ata_phase phase, uint32_t from, uint32_t len)
{
    d->phase = phase;
    d->pos = from;
    d->end = from + len;
    d->status = READY | ATA_STATUS_DRQ;
    if (phase == ATA_PHASE_DMA_IN || phase == ATA_PHASE_DMA_OUT)
        d->host.dmarq(d->host.opaque, d->unit);
}

/* Signature of a drive without and with the packet commands, ATA-6 9.12 */
void ata_set_signature(struct ata_drive *d)
{
    bool packet = d->kind == ATA_CDROM;
    d->count[0] = d->lba_low[0] = 1;
    d->lba_mid[0] = packet ? 0x14 : 0;
    d->lba_high[0] = packet ? 0xeb : 0;
    d->count[1] = d->lba_low[1] = d->lba_mid[1] = d->lba_high[1] = 0;
    d->device = 0;
}

/* ---- host I/O ---- */

static void sectors_io_done(struct ata_drive *d, int error);

static void on_request_done(void *opaque, int error)
{
    struct ata_drive *d = opaque;
    if (d->activity >= ATA_ACTIVITY_PACKET)
        atapi_io_done(d, error);
    else
        sectors_io_done(d, error);
}

void ata_submit(struct ata_drive *d, enum block_op op, uint64_t sector, uint32_t count)
{
    d->request = (struct block_request){
        .op = op, .sector = sector, .count = count, .buf = d->data, .done = on_request_done, .opaque = d};
    block_submit(d->block, &d->request);
}

/* ---- sectors ---- */

/* The address in the registers, or -1: no such sector. */
static int64_t register_lba(const struct ata_drive *d)
{
    if (d->ext) {
        if (!(d->device & ATA_DEVICE_LBA))
            return -1;
        return (int64_t)((uint64_t)d->lba_high[1] << 40 | (uint64_t)d->lba_mid[1] << 32 |
                         (uint64_t)d->lba_low[1] << 24 | (uint64_t)d->lba_high[0] << 16 | (uint64_t)d->lba_mid[0] << 8 |
                         d->lba_low[0]);
    }
    if (d->device & ATA_DEVICE_LBA)
        return (d->device & 0xf) << 24 | d->lba_high[0] << 16 | d->lba_mid[0] << 8 | d->lba_low[0];
    unsigned cylinder = (unsigned)d->lba_high[0] << 8 | d->lba_mid[0], head = d->device & 0xf;
    if (d->lba_low[0] == 0 || d->lba_low[0] > d->current_sectors_per_track || head >= d->current_heads)
        return -1;
    return ((int64_t)cylinder * d->current_heads + head) * d->current_sectors_per_track + d->lba_low[0] - 1;
}

/* Leaves an address in the registers: of the last sector moved, or of the one that failed. */
static void set_register_lba(struct ata_drive *d, uint64_t lba)
{
    if (!d->ext && !(d->device & ATA_DEVICE_LBA)) {
        unsigned per_cylinder = (unsigned)d->current_heads * d->current_sectors_per_track;
        unsigned cylinder = (unsigned)(lba / per_cylinder), rest = (unsigned)(lba % per_cylinder);
        d->lba_high[0] = (uint8_t)(cylinder >> 8);
        d->lba_mid[0] = (uint8_t)cylinder;
        d->device = (uint8_t)((d->device & 0xf0) | rest / d->current_sectors_per_track);
        d->lba_low[0] = (uint8_t)(rest % d->current_sectors_per_track + 1);
        return;
    }
    d->lba_low[0] = (uint8_t)lba;
    d->lba_mid[0] = (uint8_t)(lba >> 8);
    d->lba_high[0] = (uint8_t)(lba >> 16);
    if (d->ext) {
        d->lba_low[1] = (uint8_t)(lba >> 24);
        d->lba_mid[1] = (uint8_t)(lba >> 32);
        d->lba_high[1] = (uint8_t)(lba >> 40);
    } else {
        d->device = (uint8_t)((d->device & 0xf0) | (lba >> 24 & 0xf));
    }
}

static void fail_sectors(struct ata_drive *d, uint64_t lba, uint8_t status, uint8_t error)
{
    set_register_lba(d, lba);
    ata_finish(d, (uint8_t)(READY | ATA_STATUS_ERR | status), error);
}

/* The sector after the last one has been moved; the interrupt is the caller's business where PIO reads have none. */
static void end_sectors(struct ata_drive *d, bool interrupt)
{
    set_register_lba(d, d->lba - 1);
    d->count[0] = d->count[1] = 0;
    end_command(d, READY, 0);
    if (interrupt)
        ata_raise(d);
}

static void fetch_chunk(struct ata_drive *d)
{
    ata_busy(d);
    d->chunk = d->left < d->chunk_limit ? d->left : d->chunk_limit;
    ata_submit(d, BLOCK_READ, d->lba, d->chunk);
}

/* Makes room for the next sectors that the host writes. */
static void take_chunk(struct ata_drive *d, bool interrupt)
{
    d->chunk = d->left < ATA_BUFFER_SECTORS ? d->left : ATA_BUFFER_SECTORS;
    d->filled = d->chunk * ATA_SECTOR;
    if (d->dma) {
        ata_offer(d, ATA_PHASE_DMA_OUT, 0, d->filled);
        return;
    }
    ata_offer(d, ATA_PHASE_PIO_OUT, 0, d->drq_block < d->filled ? d->drq_block : d->filled);
    if (interrupt)
        ata_raise(d);
}

static void read_done(struct ata_drive *d, int error)
{
    if (error && d->chunk > 1) { /* everything before the bad sector is good: find it */
        d->chunk_limit = 1;
        fetch_chunk(d);
        return;
    }
    if (error) {
        fail_sectors(d, d->lba, 0, ATA_ERROR_UNC);
        return;
    }
    d->lba += d->chunk;
    d->left -= d->chunk;
    if (d->activity == ATA_ACTIVITY_VERIFY) {
        if (d->left)
            fetch_chunk(d);
        else
            end_sectors(d, true);
        return;
    }
    d->filled = d->chunk * ATA_SECTOR;
    if (d->dma) {
        ata_offer(d, ATA_PHASE_DMA_IN, 0, d->filled);
        return;
    }
    ata_offer(d, ATA_PHASE_PIO_IN, 0, d->drq_block < d->filled ? d->drq_block : d->filled);
    ata_raise(d);
}

static void write_done(struct ata_drive *d, int error)
{
    if (error) {
        fail_sectors(d, d->lba, error == -EROFS ? 0 : ATA_STATUS_DF, ATA_ERROR_ABRT);
        return;
    }
    d->lba += d->chunk;
    d->left -= d->chunk;
    if (d->left)
        take_chunk(d, true);
    else
        end_sectors(d, true);
}

static void sectors_io_done(struct ata_drive *d, int error)
{
    switch (d->activity) {
    case ATA_ACTIVITY_READ:
    case ATA_ACTIVITY_VERIFY:
        read_done(d, error);
        break;
    case ATA_ACTIVITY_WRITE:
        write_done(d, error);
        break;
    case ATA_ACTIVITY_FLUSH:
        if (error)
            ata_finish(d, READY | ATA_STATUS_ERR | ATA_STATUS_DF, ATA_ERROR_ABRT);
        else
            ata_finish(d, READY, 0);
        break;
    default:
        break;
    }
}

void ata_data_exhausted(struct ata_drive *d)
{
    uint32_t at = d->end, rest = d->filled > at ? d->filled - at : 0;
    uint32_t next = rest < d->drq_block ? rest : d->drq_block;
    switch (d->activity) {
    case ATA_ACTIVITY_READ:
        if (rest && !d->dma) {
            ata_offer(d, ATA_PHASE_PIO_IN, at, next);
            ata_raise(d);
        } else if (d->left) {
            fetch_chunk(d);
        } else {
            end_sectors(d, d->dma);
        }
        break;
    case ATA_ACTIVITY_WRITE:
        if (rest && !d->dma) {
            ata_offer(d, ATA_PHASE_PIO_OUT, at, next);
            ata_raise(d);
        } else {
            ata_busy(d);
            ata_submit(d, BLOCK_WRITE, d->lba, d->chunk);
        }
        break;
    case ATA_ACTIVITY_REPLY:
        end_command(d, READY, 0);
        break;
    default:
        atapi_data_exhausted(d);
        break;
    }
}

/* Common part of READ, WRITE and VERIFY. drq_sectors: sectors per DRQ block of a PIO command, 0: DMA. */
static void start_sectors(struct ata_drive *d, enum ata_activity activity, bool ext, unsigned drq_sectors)
{
    d->ext = ext;
    d->dma = drq_sectors == 0;
    d->drq_block = drq_sectors * ATA_SECTOR;
    d->chunk_limit = ATA_BUFFER_SECTORS;
    uint32_t count = ext ? (uint32_t)d->count[1] << 8 | d->count[0] : d->count[0];
    if (count == 0)
        count = ext ? 65536 : 256;
    if (activity == ATA_ACTIVITY_WRITE && block_readonly(d->block)) {
        ata_abort_command(d);
        return;
    }
    int64_t lba = register_lba(d);
    if (lba < 0 || (uint64_t)lba >= d->sectors || count > d->sectors - (uint64_t)lba) {
        if (lba >= 0 && (uint64_t)lba < d->sectors)
            set_register_lba(d, d->sectors);
        ata_finish(d, READY | ATA_STATUS_ERR, ATA_ERROR_IDNF);
        return;
    }
    d->lba = (uint64_t)lba;
    d->left = count;
    d->activity = activity;
    if (activity == ATA_ACTIVITY_WRITE)
        take_chunk(d, false);
    else
        fetch_chunk(d);
}

static void start_multiple(struct ata_drive *d, enum ata_activity activity, bool ext)
{
    if (d->multiple)
        start_sectors(d, activity, ext, d->multiple);
    else
        ata_abort_command(d);
}

static void start_flush(struct ata_drive *d)
{
    d->activity = ATA_ACTIVITY_FLUSH;
    ata_busy(d);
    ata_submit(d, BLOCK_FLUSH, 0, 0);
}

/* data[0, 512) goes to the host. */
static void reply_sector(struct ata_drive *d)
{
    d->activity = ATA_ACTIVITY_REPLY;
    d->dma = false;
    d->filled = d->drq_block = ATA_SECTOR;
    ata_offer(d, ATA_PHASE_PIO_IN, 0, ATA_SECTOR);
    ata_raise(d);
}

/* ---- settings ---- */

static void set_geometry(struct ata_drive *d, unsigned heads, unsigned sectors)
{
    uint64_t cylinders = d->sectors / (heads * sectors);
    d->current_heads = (uint8_t)heads;
    d->current_sectors_per_track = (uint8_t)sectors;
    d->current_cylinders = (uint16_t)(cylinders > 65535 ? 65535 : cylinders < 1 ? 1 : cylinders);
}

static void default_settings(struct ata_drive *d)
{
    d->write_cache = d->look_ahead = true;
    d->multiple = ATA_MAX_MULTIPLE;
    d->transfer_mode = 0x42; /* Ultra DMA 2, all that the PIIX4 can do */
    if (d->kind == ATA_DISK)
        set_geometry(d, d->heads, d->sectors_per_track);
}

/* SET FEATURES 03h: transfer mode in the count register, ATA-6 table 43 */
static bool set_transfer_mode(struct ata_drive *d, uint8_t mode)
{
    unsigned n = mode & 7;
    switch (mode >> 3) {
    case 0: /* PIO default mode, with or without IORDY */
        return n <= 1;
    case 1:
        return n <= 4;
    case 4:
        if (n > 2)
            return false;
        break;
    case 8:
        if (n > 5)
            return false;
        break;
    default:
        return false;
    }
    d->transfer_mode = mode;
    return true;
}

static bool set_features(struct ata_drive *d)
{
    switch (d->features[0]) {
    case 0x02:
    case 0x82:
        if (d->kind != ATA_DISK)
            return false;
        d->write_cache = d->features[0] == 0x02;
        return true;
    case 0x03:
        return set_transfer_mode(d, d->count[0]);
    case 0x55:
    case 0xaa:
        d->look_ahead = d->features[0] == 0xaa;
        return true;
    case 0x66: /* settings survive a soft reset or do not: either way they do here */
    case 0xcc:
        return true;
    default:
        return false;
    }
}

static bool set_multiple(struct ata_drive *d)
{
    uint8_t n = d->count[0];
    if (n > ATA_MAX_MULTIPLE || (n & (n - 1)))
        return false;
    d->multiple = n;
    return true;
}

static void smart(struct ata_drive *d)
{
    uint8_t subcommand = d->features[0];
    if (d->lba_mid[0] != 0x4f || d->lba_high[0] != 0xc2 || (!d->smart && subcommand != 0xd8)) {
        ata_abort_command(d);
        return;
    }
    switch (subcommand) {
    case 0xd8: /* enable, disable operations */
    case 0xd9:
        d->smart = subcommand == 0xd8;
        ata_finish(d, READY, 0);
        return;
    case 0xd2: /* attribute autosave */
    case 0xd3: /* save attributes */
    case 0xd4: /* off-line test: passes at once */
    case 0xda: /* return status: 4Fh and C2h left as they are mean healthy */
        ata_finish(d, READY, 0);
        return;
    default:
        if (ata_smart_data(d, subcommand, d->lba_low[0]))
            reply_sector(d);
        else
            ata_abort_command(d);
    }
}

static void native_max(struct ata_drive *d, bool ext)
{
    uint64_t last = d->sectors - 1;
    d->ext = ext;
    if (!ext && last > 0xfffffff)
        last = 0xfffffff;
    d->device |= ATA_DEVICE_LBA;
    set_register_lba(d, last);
    ata_finish(d, READY, 0);
}

static void set_power(struct ata_drive *d, uint8_t power)
{
    d->power = power;
    ata_finish(d, READY, 0);
}

/* ---- commands ---- */

static void done_if(struct ata_drive *d, bool good)
{
    if (good)
        ata_finish(d, READY, 0);
    else
        ata_abort_command(d);
}

/* Those that disks and CD-ROM drives share. */
static bool common_command(struct ata_drive *d, uint8_t command)
{
    switch (command) {
    case 0x00: /* NOP always ends aborted */
        ata_abort_command(d);
        return true;
    case 0x94: /* STANDBY IMMEDIATE, STANDBY */
    case 0x96:
    case 0xe0:
    case 0xe2:
        set_power(d, ATA_POWER_STANDBY);
        return true;
    case 0x95: /* IDLE IMMEDIATE, IDLE */
    case 0x97:
    case 0xe1:
    case 0xe3:
        set_power(d, ATA_POWER_IDLE);
        return true;
    case 0x98: /* CHECK POWER MODE */
    case 0xe5:
        d->count[0] = d->power;
        ata_finish(d, READY, 0);
        return true;
    case 0x99: /* SLEEP */
    case 0xe6:
        set_power(d, ATA_POWER_SLEEP);
        return true;
    case 0xef: /* SET FEATURES */
        done_if(d, set_features(d));
        return true;
    default:
        return false;
    }
}

static void cdrom_command(struct ata_drive *d, uint8_t command)
{
    switch (command) {
    case 0xa0: /* PACKET */
        atapi_command(d);
        break;
    case 0xa1: /* IDENTIFY PACKET DEVICE */
        ata_identify_packet(d);
        reply_sector(d);
        break;
    case 0xe7: /* FLUSH CACHE: there is nothing to flush */
        ata_finish(d, READY, 0);
        break;
    case 0x20: /* READ SECTORS, IDENTIFY DEVICE: how hosts notice a packet drive, ATA-6 8.15.5, 8.34.5 */
    case 0x21:
    case 0xec: {
        uint8_t device = d->device;
        ata_set_signature(d);
        d->device = device;
        ata_abort_command(d);
        break;
    }
    default:
        ata_abort_command(d);
    }
}

static bool transfer_command(struct ata_drive *d, uint8_t command)
{
    static const struct {
        uint8_t command, activity;
        bool ext;
        enum { SINGLE, MULTIPLE, DMA } how;
    } table[] = {
        {0x20, ATA_ACTIVITY_READ, false, SINGLE},   {0x21, ATA_ACTIVITY_READ, false, SINGLE},
        {0x24, ATA_ACTIVITY_READ, true, SINGLE},    {0x25, ATA_ACTIVITY_READ, true, DMA},
        {0x29, ATA_ACTIVITY_READ, true, MULTIPLE},  {0x30, ATA_ACTIVITY_WRITE, false, SINGLE},
        {0x31, ATA_ACTIVITY_WRITE, false, SINGLE},  {0x34, ATA_ACTIVITY_WRITE, true, SINGLE},
        {0x35, ATA_ACTIVITY_WRITE, true, DMA},      {0x39, ATA_ACTIVITY_WRITE, true, MULTIPLE},
        {0x3c, ATA_ACTIVITY_WRITE, false, SINGLE},  {0x40, ATA_ACTIVITY_VERIFY, false, SINGLE},
        {0x41, ATA_ACTIVITY_VERIFY, false, SINGLE}, {0x42, ATA_ACTIVITY_VERIFY, true, SINGLE},
        {0xc4, ATA_ACTIVITY_READ, false, MULTIPLE}, {0xc5, ATA_ACTIVITY_WRITE, false, MULTIPLE},
        {0xc8, ATA_ACTIVITY_READ, false, DMA},      {0xc9, ATA_ACTIVITY_READ, false, DMA},
        {0xca, ATA_ACTIVITY_WRITE, false, DMA},     {0xcb, ATA_ACTIVITY_WRITE, false, DMA},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].command != command)
            continue;
        if (table[i].how == MULTIPLE)
            start_multiple(d, table[i].activity, table[i].ext);
        else
            start_sectors(d, table[i].activity, table[i].ext, table[i].how == SINGLE);
        return true;
    }
    return false;
}

static void disk_command(struct ata_drive *d, uint8_t command)
{
    if (transfer_command(d, command))
        return;
    switch (command) {
    case 0x27: /* READ NATIVE MAX ADDRESS EXT */
    case 0xf8:
        native_max(d, command == 0x27);
        break;
    case 0x91: /* INITIALIZE DEVICE PARAMETERS */
        if (d->count[0] == 0) {
            ata_abort_command(d);
        } else {
            set_geometry(d, (d->device & 0xfu) + 1, d->count[0]);
            ata_finish(d, READY, 0);
        }
        break;
    case 0xb0:
        smart(d);
        break;
    case 0xc6: /* SET MULTIPLE MODE */
        done_if(d, set_multiple(d));
        break;
    case 0xe7: /* FLUSH CACHE, FLUSH CACHE EXT */
    case 0xea:
        start_flush(d);
        break;
    case 0xec: /* IDENTIFY DEVICE */
        ata_identify(d);
        reply_sector(d);
        break;
    default:
        if ((command & 0xf0) == 0x10) { /* RECALIBRATE */
            ata_finish(d, READY, 0);
        } else if ((command & 0xf0) == 0x70) { /* SEEK */
            d->ext = false;
            int64_t lba = register_lba(d);
            ata_finish(d, lba < 0 || (uint64_t)lba >= d->sectors ? READY | ATA_STATUS_ERR : READY,
                       lba < 0 || (uint64_t)lba >= d->sectors ? ATA_ERROR_IDNF : 0);
        } else {
            log_msg(LOG_DEVICE, "ata: command %02xh is not implemented by this drive", command);
            ata_abort_command(d);
        }
    }
}

static void stop_activity(struct ata_drive *d)
{
    block_cancel(&d->request);
    d->activity = ATA_ACTIVITY_NONE;
    d->phase = ATA_PHASE_NONE;
    d->pos = d->end = d->filled = d->left = 0;
}

/* DEVICE RESET (packet devices only): like SRST for one drive, without an interrupt */
static void device_reset(struct ata_drive *d)
{
    uint8_t device = d->device & ATA_DEVICE_DEV;
    ata_soft_reset(d, true);
    ata_soft_reset(d, false);
    d->device = device;
}

void ata_write_command(struct ata_drive *d, uint8_t command)
{
    set_intrq(d, false);
    if (command == 0x08 && d->kind == ATA_CDROM) {
        device_reset(d);
        return;
    }
    if (d->status & (ATA_STATUS_BSY | ATA_STATUS_DRQ)) {
        log_msg(LOG_GUEST_ERROR, "ata: command %02xh while %02xh is under way, ignored", command, d->command);
        return;
    }
    if (d->power == ATA_POWER_SLEEP) /* only a reset wakes it */
        return;
    d->command = command;
    d->error = 0;
    d->status = READY;
    if (command != 0x98 && command != 0xe5 && command != 0xef)
        d->power = ATA_POWER_ACTIVE;
    if (common_command(d, command))
        return;
    if (d->kind == ATA_CDROM)
        cdrom_command(d, command);
    else
        disk_command(d, command);
}

void ata_diagnose(struct ata_drive *d)
{
    set_intrq(d, false);
    stop_activity(d);
    ata_set_signature(d);
    d->power = ATA_POWER_ACTIVE;
    d->error = 1; /* passed */
    d->status = d->kind == ATA_CDROM ? 0 : READY;
    if (d->unit == 0)
        ata_raise(d);
}

/* ---- registers ---- */

void ata_write_register(struct ata_drive *d, enum ata_register reg, uint8_t value)
{
    uint8_t *const pairs[] = {NULL, d->features, d->count, d->lba_low, d->lba_mid, d->lba_high};
    if (d->status & (ATA_STATUS_BSY | ATA_STATUS_DRQ))
        return;
    if (reg == ATA_DEVICE) {
        d->device = value;
    } else if (reg >= ATA_ERROR_FEATURES && reg <= ATA_LBA_HIGH) {
        pairs[reg][1] = pairs[reg][0];
        pairs[reg][0] = value;
    }
}

uint8_t ata_read_register(const struct ata_drive *d, enum ata_register reg, bool hob)
{
    switch (reg) {
    case ATA_ERROR_FEATURES:
        return d->error;
    case ATA_SECTOR_COUNT:
        return d->count[hob];
    case ATA_LBA_LOW:
        return d->lba_low[hob];
    case ATA_LBA_MID:
        return d->lba_mid[hob];
    case ATA_LBA_HIGH:
        return d->lba_high[hob];
    case ATA_DEVICE:
        return d->device | 0xa0; /* obsolete bits that read as ones on every drive */
    default:
        return d->status;
    }
}

uint8_t ata_read_status(struct ata_drive *d)
{
    set_intrq(d, false);
    return d->status;
}

/* ---- life ---- */

void ata_soft_reset(struct ata_drive *d, bool asserted)
{
    if (!ata_present(d))
        return;
    stop_activity(d);
    set_intrq(d, false);
    if (asserted) {
        d->status = ATA_STATUS_BSY;
        return;
    }
    ata_set_signature(d);
    d->power = ATA_POWER_ACTIVE;
    d->error = 1;
    d->status = d->kind == ATA_CDROM ? 0 : READY;
}

void ata_drive_reset(struct ata_drive *d)
{
    if (!ata_present(d))
        return;
    ata_soft_reset(d, true);
    ata_soft_reset(d, false);
    d->features[0] = d->features[1] = 0;
    d->smart = true;
    default_settings(d);
    if (d->kind == ATA_CDROM)
        atapi_reset(d);
}

int ata_drive_init(struct ata_drive *d, enum ata_kind kind, unsigned unit, struct block *block, const char *serial,
                   const struct ata_host *host)
{
    memset(d, 0, sizeof *d);
    d->kind = kind == ATA_DISK && !block ? ATA_NONE : kind;
    d->unit = unit & 1;
    d->host = *host;
    if (!ata_present(d))
        return 0;
    d->data = calloc(1, ATA_BUFFER_SIZE);
    if (!d->data) {
        d->kind = ATA_NONE;
        return -ENOMEM;
    }
    d->block = block;
    snprintf(d->serial, sizeof d->serial, "%s", serial ? serial : "");
    if (kind == ATA_DISK) {
        /* 28 + 20 bits are more than any file has; the default translation of IDENTIFY is 16 heads, 63 sectors */
        d->sectors = block_sectors(block);
        uint64_t cylinders = d->sectors / (16 * 63);
        d->heads = 16;
        d->sectors_per_track = 63;
        d->cylinders = (uint16_t)(cylinders > 16383 ? 16383 : cylinders < 1 ? 1 : cylinders);
    }
    ata_drive_reset(d);
    return 0;
}

void ata_drive_destroy(struct ata_drive *d)
{
    if (!ata_present(d))
        return;
    stop_activity(d);
    free(d->data);
    memset(d, 0, sizeof *d);
}
