/* SPDX-License-Identifier: MIT */
/* A READ of some sectors by DMA: run_transfer looks for the first sector and asks the image for the span from it to the
 * end of this side of the track -> on_done -> DMA takes what it wants -> after_span advances the sector number, over to
 * the other side with MT, and either ends the command (terminal count, EOT, sector not found) or asks for the next
 * span. WRITE fetches from the host first. Without DMA the host moves the span through the FIFO port in between. */
#include "devices/i82077_internal.h"
#include "devices/log.h"

#include <string.h>

enum operation { OP_READ, OP_READ_DELETED, OP_READ_TRACK, OP_VERIFY, OP_WRITE, OP_FORMAT };

static enum operation operation_of(const struct i82077 *fdc)
{
    switch (fdc->command[0] & 0x1f) {
    case 0x05:
    case 0x09:
        return OP_WRITE;
    case 0x0c:
        return OP_READ_DELETED;
    case 0x0d:
        return OP_FORMAT;
    case 0x02:
        return OP_READ_TRACK;
    case 0x16:
        return OP_VERIFY;
    default:
        return OP_READ;
    }
}

static struct i82077_drive *drive_of(struct i82077 *fdc)
{
    return &fdc->drives[fdc->drive & 3];
}

void i82077_end_transfer(struct i82077 *fdc, uint8_t st0, uint8_t st1, uint8_t st2)
{
    const uint8_t result[] = {(uint8_t)(st0 | fdc->head << 2 | fdc->drive),
                              (uint8_t)(st1 | fdc->st1),
                              (uint8_t)(st2 | fdc->st2),
                              fdc->cylinder,
                              fdc->id_head,
                              fdc->sector,
                              2};
    memcpy(fdc->result, result, sizeof result);
    i82077_give_result(fdc, sizeof result, true);
}

/* Does anything that this data rate and encoding can read pass under the head? */
static bool readable(struct i82077 *fdc)
{
    const struct i82077_drive *d = drive_of(fdc);
    return d->present && d->medium && (fdc->command[0] & COMMAND_MFM) && (d->geometry.rates >> fdc->rate & 1) &&
           d->track < d->geometry.tracks && fdc->head < d->geometry.heads;
}

/* Looks for the sector in the ID fields of the track; ends the command when it is not there. */
static bool find_sector(struct i82077 *fdc, uint8_t size_code)
{
    const struct i82077_drive *d = drive_of(fdc);
    if (!readable(fdc)) {
        i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_MISSING_ADDRESS, 0);
        return false;
    }
    if (fdc->cylinder != d->track) {
        i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_NO_DATA,
                            (uint8_t)(ST2_WRONG_CYLINDER | (fdc->cylinder == 0xff ? ST2_BAD_CYLINDER : 0)));
        return false;
    }
    if (fdc->id_head != fdc->head || size_code != 2 || fdc->sector == 0 || fdc->sector > d->geometry.sectors) {
        i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_NO_DATA, 0);
        return false;
    }
    return true;
}

static uint64_t image_sector(struct i82077 *fdc, unsigned sector)
{
    const struct i82077_drive *d = drive_of(fdc);
    return ((uint64_t)d->track * d->geometry.heads + fdc->head) * d->geometry.sectors + sector - 1;
}

/* Sectors from the current one that can go in one piece: to EOT or the end of this side. */
static uint32_t span_length(struct i82077 *fdc)
{
    uint32_t last = drive_of(fdc)->geometry.sectors, n;
    if (fdc->end_of_track >= fdc->sector && fdc->end_of_track < last)
        last = fdc->end_of_track;
    n = last - fdc->sector + 1;
    if (n > fdc->span_limit)
        n = fdc->span_limit;
    if (operation_of(fdc) == OP_VERIFY && fdc->sectors_left && n > fdc->sectors_left)
        n = fdc->sectors_left;
    if (i82077_uses_dma(fdc) && operation_of(fdc) != OP_VERIFY) {
        size_t wanted = (i8237_left(fdc->dma, 2) + I82077_SECTOR - 1) / I82077_SECTOR;
        if (wanted && n > wanted)
            n = (uint32_t)wanted;
    }
    return n;
}

/* Moves the sector number past one sector; true: that was the last one that EOT (and MT) allow. */
static bool next_sector(struct i82077 *fdc)
{
    bool multi_track = fdc->command[0] & COMMAND_MT;
    if (fdc->sector != fdc->end_of_track) {
        fdc->sector++;
        return false;
    }
    fdc->sector = 1;
    if (multi_track && !fdc->head) {
        fdc->head = fdc->id_head = 1;
        return false;
    }
    fdc->cylinder++;
    if (multi_track)
        fdc->id_head = 0;
    return true;
}

static void start_span(struct i82077 *fdc);

/* The span's data has arrived where it should; sectors of it were used. */
static void after_span(struct i82077 *fdc, uint32_t sectors)
{
    enum operation op = operation_of(fdc);
    bool end = false;
    for (uint32_t i = 0; i < sectors && !end; i++)
        end = next_sector(fdc);
    drive_of(fdc)->id_sector = fdc->sector;
    if (op == OP_VERIFY && fdc->sectors_left) {
        fdc->sectors_left -= sectors;
        if (!fdc->sectors_left) {
            i82077_end_transfer(fdc, 0, 0, 0);
            return;
        }
    }
    if (fdc->terminal_count || (end && op == OP_VERIFY))
        i82077_end_transfer(fdc, 0, 0, 0);
    else if (op == OP_READ_DELETED) /* an image has only ordinary data marks: one sector, and stop */
        i82077_end_transfer(fdc, 0, 0, ST2_CONTROL_MARK);
    else if (end)
        i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_END_OF_CYLINDER, 0);
    else
        start_span(fdc);
}

/* ---- host I/O ---- */

static void on_done(void *opaque, int error);

static void submit(struct i82077 *fdc, enum block_op op, uint64_t at, uint32_t count, uint32_t offset)
{
    fdc->request = (struct block_request){
        .op = op, .sector = at, .count = count, .buf = fdc->buffer + offset, .done = on_done, .opaque = fdc};
    block_submit(drive_of(fdc)->medium, &fdc->request);
}

/* What lies past the end of a short image reads as zeros. */
static void read_span(struct i82077 *fdc)
{
    uint64_t at = image_sector(fdc, fdc->sector), size = block_sectors(drive_of(fdc)->medium);
    uint32_t count = at >= size ? 0 : size - at < fdc->span ? (uint32_t)(size - at) : fdc->span;
    memset(fdc->buffer + count * I82077_SECTOR, 0, (fdc->span - count) * I82077_SECTOR);
    submit(fdc, BLOCK_READ, count ? at : 0, count, 0);
}

static void offer_to_host(struct i82077 *fdc, enum i82077_phase phase, uint32_t len)
{
    fdc->phase = phase;
    fdc->pos = 0;
    fdc->end = len;
    i82077_update_irq(fdc);
}

static void read_arrived(struct i82077 *fdc)
{
    enum operation op = operation_of(fdc);
    uint32_t len = fdc->span * I82077_SECTOR;
    if (op == OP_VERIFY) {
        after_span(fdc, fdc->span);
    } else if (i82077_uses_dma(fdc)) {
        size_t n = i8237_write(fdc->dma, 2, fdc->buffer, len, &fdc->terminal_count);
        if (n < len && !fdc->terminal_count)
            i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_OVERRUN, 0);
        else
            after_span(fdc, (uint32_t)(n + I82077_SECTOR - 1) / I82077_SECTOR);
    } else {
        offer_to_host(fdc, I82077_HOST_READS, len);
    }
}

static void write_format_run(struct i82077 *fdc);

static void on_done(void *opaque, int error)
{
    struct i82077 *fdc = opaque;
    enum operation op = operation_of(fdc);
    if (error && op != OP_WRITE && op != OP_FORMAT && fdc->span > 1) {
        fdc->span_limit = 1; /* what comes before the bad sector is good */
        start_span(fdc);
    } else if (error) {
        bool writing = op == OP_WRITE || op == OP_FORMAT;
        i82077_end_transfer(fdc, writing ? ST0_ABNORMAL | ST0_EQUIPMENT : ST0_ABNORMAL, ST1_DATA_ERROR,
                            writing ? 0 : ST2_DATA_ERROR);
    } else if (op == OP_FORMAT) {
        write_format_run(fdc);
    } else if (op == OP_WRITE) {
        after_span(fdc, fdc->span);
    } else {
        read_arrived(fdc);
    }
}

/* The host's data for the span is in the buffer; with DMA, get it. */
static void write_span(struct i82077 *fdc)
{
    if (i82077_uses_dma(fdc)) {
        uint32_t len = fdc->span * I82077_SECTOR;
        size_t n = i8237_read(fdc->dma, 2, fdc->buffer, len, &fdc->terminal_count);
        if (n > len)
            n = len;
        if (n < len && !fdc->terminal_count) {
            i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_OVERRUN, 0);
            return;
        }
        memset(fdc->buffer + n, 0, len - n); /* the rest of the last sector is written as zeros */
        fdc->span = (uint32_t)(n + I82077_SECTOR - 1) / I82077_SECTOR;
    }
    submit(fdc, BLOCK_WRITE, image_sector(fdc, fdc->sector), fdc->span, 0);
}

static void start_span(struct i82077 *fdc)
{
    enum operation op = operation_of(fdc);
    fdc->phase = I82077_EXECUTION;
    if (!find_sector(fdc, fdc->command[5]))
        return;
    fdc->span = span_length(fdc);
    if (op == OP_READ_DELETED)
        fdc->span = 1;
    if (op != OP_WRITE)
        read_span(fdc);
    else if (i82077_uses_dma(fdc))
        write_span(fdc);
    else
        offer_to_host(fdc, I82077_HOST_WRITES, fdc->span * I82077_SECTOR);
}

void i82077_data_exhausted(struct i82077 *fdc)
{
    bool writing = fdc->phase == I82077_HOST_WRITES;
    fdc->phase = I82077_EXECUTION;
    i82077_update_irq(fdc);
    if (operation_of(fdc) == OP_FORMAT)
        i82077_run_format(fdc);
    else if (writing)
        write_span(fdc);
    else
        after_span(fdc, fdc->span);
}

/* ---- commands ---- */

static void select_drive(struct i82077 *fdc)
{
    fdc->drive = fdc->command[1] & 3;
    fdc->head = fdc->command[1] >> 2 & 1;
    fdc->st1 = fdc->st2 = 0;
    fdc->terminal_count = false;
    fdc->span_limit = I82077_MAX_SECTORS;
    fdc->sectors_left = 0;
}

static bool write_protected(struct i82077 *fdc)
{
    const struct i82077_drive *d = drive_of(fdc);
    if (!d->medium || !block_readonly(d->medium))
        return false;
    i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_NOT_WRITABLE, 0);
    return true;
}

void i82077_run_transfer(struct i82077 *fdc)
{
    enum operation op = operation_of(fdc);
    select_drive(fdc);
    fdc->cylinder = fdc->command[2];
    fdc->id_head = fdc->command[3];
    fdc->sector = fdc->command[4];
    fdc->end_of_track = fdc->last_end_of_track = fdc->command[6];
    if (op == OP_VERIFY && (fdc->command[1] & 0x80))
        fdc->sectors_left = fdc->command[8];
    if (fdc->configuration & CONFIGURE_EIS)
        i82077_step(drive_of(fdc), fdc->cylinder);
    if (op == OP_WRITE && write_protected(fdc))
        return;
    if (op == OP_READ_TRACK) { /* from the index hole on, whatever the ID fields say */
        if (fdc->sector != 1 || fdc->cylinder != drive_of(fdc)->track || fdc->id_head != fdc->head)
            fdc->st1 |= ST1_NO_DATA;
        fdc->sector = 1;
        fdc->cylinder = drive_of(fdc)->track;
        fdc->id_head = fdc->head;
    }
    if (op == OP_READ_DELETED && (fdc->command[0] & COMMAND_SK)) { /* skips every sector up to EOT */
        if (find_sector(fdc, fdc->command[5]))
            i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_END_OF_CYLINDER, 0);
        return;
    }
    start_span(fdc);
}

void i82077_run_read_id(struct i82077 *fdc)
{
    struct i82077_drive *d;
    select_drive(fdc);
    d = drive_of(fdc);
    fdc->cylinder = fdc->id_head = fdc->sector = 0;
    if (!readable(fdc)) {
        i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_MISSING_ADDRESS, 0);
        return;
    }
    d->id_sector = d->id_sector >= d->geometry.sectors ? 1 : d->id_sector + 1;
    fdc->cylinder = d->track;
    fdc->id_head = fdc->head;
    fdc->sector = d->id_sector;
    i82077_end_transfer(fdc, 0, 0, 0);
}

/* Writes the next run of sectors whose ID fields were given, or ends the command. */
static void write_format_run(struct i82077 *fdc)
{
    if (!fdc->format_sectors) {
        i82077_end_transfer(fdc, 0, 0, 0);
        return;
    }
    unsigned first = (unsigned)__builtin_ctzll(fdc->format_sectors), count = 0;
    while (count < I82077_MAX_SECTORS && (fdc->format_sectors >> (first + count) & 1)) {
        fdc->format_sectors &= ~(1ull << (first + count));
        count++;
    }
    memset(fdc->buffer, fdc->command[5], count * I82077_SECTOR);
    submit(fdc, BLOCK_WRITE, image_sector(fdc, first), count, 0);
}

/* Runs twice without DMA: before and after the host has written the ID fields. */
void i82077_run_format(struct i82077 *fdc)
{
    uint32_t len = fdc->command[3] * 4u;
    bool got = fdc->end != 0;
    if (!got) {
        select_drive(fdc);
        fdc->cylinder = drive_of(fdc)->track;
        fdc->id_head = fdc->head;
        fdc->sector = 1;
        if (!readable(fdc)) {
            i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_MISSING_ADDRESS, 0);
            return;
        }
        if (write_protected(fdc))
            return;
        if (!i82077_uses_dma(fdc) && len) {
            offer_to_host(fdc, I82077_HOST_WRITES, len);
            return;
        }
        if (len && i8237_read(fdc->dma, 2, fdc->buffer, len, &fdc->terminal_count) != len) {
            i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_OVERRUN, 0);
            return;
        }
    }
    const struct i82077_drive *d = drive_of(fdc);
    fdc->end = 0;
    fdc->format_sectors = 0;
    for (const uint8_t *id = fdc->buffer; id < fdc->buffer + len; id += 4) {
        if (fdc->command[2] != 2 || id[0] != d->track || id[1] != fdc->head || id[2] == 0 ||
            id[2] > d->geometry.sectors || id[3] != 2) {
            log_msg(LOG_GUEST_ERROR, "i82077: formatting a track that the image cannot hold");
            i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_NO_DATA, 0);
            return;
        }
        fdc->format_sectors |= 1ull << id[2];
    }
    write_format_run(fdc);
}
