/* SPDX-License-Identifier: MIT */
/* A CD-ROM drive's packet commands (SFF-8020i, MMC-3; ATA/ATAPI-6 clause 9.8 for how a packet travels).
 *
 * A command goes: PACKET -> the host writes 12 bytes -> execute() -> a reply from the buffer, or sectors of the medium
 * in runs of at most ATAPI_BUFFER_SECTORS, in blocks of at most the host's byte count limit (PIO) or whole (DMA) ->
 * finish() or fail(), with the interrupt reason "command, to host". */
#include "devices/ata.h"
#include "devices/cd_sector.h"
#include "devices/log.h"

#include <errno.h>
#include <string.h>

enum sense_key { NO_SENSE = 0, NOT_READY = 2, MEDIUM_ERROR = 3, ILLEGAL_REQUEST = 5, UNIT_ATTENTION = 6 };

/* Additional sense codes */
enum {
    ASC_READ_ERROR = 0x11,
    ASC_INVALID_COMMAND = 0x20,
    ASC_ADDRESS_OUT_OF_RANGE = 0x21,
    ASC_INVALID_FIELD = 0x24,
    ASC_MEDIUM_CHANGED = 0x28,
    ASC_NO_SAVED_PARAMETERS = 0x39,
    ASC_NO_MEDIUM = 0x3a,
    ASC_REMOVAL_PREVENTED = 0x53,
    ASC_WRONG_TRACK_MODE = 0x64
};

enum media_event { EVENT_NONE, EVENT_EJECT_REQUEST, EVENT_NEW_MEDIUM, EVENT_REMOVAL };

enum { READY = ATA_STATUS_DRDY | ATA_STATUS_DSC, CD_LAST_SECTOR = 449999 /* 99:59:74 */ };

static unsigned get16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

/* ---- ends ---- */

static void finish(struct ata_drive *d)
{
    d->atapi.sense_key = d->atapi.additional = d->atapi.qualifier = 0;
    d->count[0] = ATAPI_REASON_CD | ATAPI_REASON_IO;
    ata_finish(d, READY, 0);
}

static void fail(struct ata_drive *d, enum sense_key key, uint8_t additional, uint8_t qualifier)
{
    d->atapi.sense_key = (uint8_t)key;
    d->atapi.additional = additional;
    d->atapi.qualifier = qualifier;
    d->count[0] = ATAPI_REASON_CD | ATAPI_REASON_IO;
    ata_finish(d, READY | ATA_STATUS_ERR, (uint8_t)(key << 4 | (key == ILLEGAL_REQUEST ? ATA_ERROR_ABRT : 0)));
}

static void invalid_field(struct ata_drive *d)
{
    fail(d, ILLEGAL_REQUEST, ASC_INVALID_FIELD, 0);
}

/* ---- data ---- */

/* Puts the next block before the data port; from is where it starts in the buffer. */
static void offer_block(struct ata_drive *d, bool in, uint32_t from)
{
    uint32_t rest = d->filled - from, len = rest;
    if (d->atapi.dma) {
        ata_offer(d, in ? ATA_PHASE_DMA_IN : ATA_PHASE_DMA_OUT, from, rest);
        return;
    }
    if (len > d->atapi.limit)
        len = d->atapi.limit;
    d->lba_mid[0] = (uint8_t)len;
    d->lba_high[0] = (uint8_t)(len >> 8);
    d->count[0] = in ? ATAPI_REASON_IO : 0;
    ata_offer(d, in ? ATA_PHASE_PIO_IN : ATA_PHASE_PIO_OUT, from, len);
    ata_raise(d);
}

/* len bytes of the buffer are the answer; the host allocated so many. */
static void reply(struct ata_drive *d, uint32_t len, uint32_t allocated)
{
    d->filled = len < allocated ? len : allocated;
    if (!d->filled) {
        finish(d);
        return;
    }
    d->atapi.sense_key = d->atapi.additional = d->atapi.qualifier = 0;
    d->activity = ATA_ACTIVITY_PACKET_IN;
    offer_block(d, true, 0);
}

static bool has_medium(const struct ata_drive *d)
{
    return d->block && !d->atapi.tray_open;
}

/* Sectors of 2048 bytes; a partial last one counts. */
static uint32_t capacity(const struct ata_drive *d)
{
    uint64_t n = has_medium(d) ? (block_sectors(d->block) + 3) / 4 : 0;
    return n > 0xfffffffe ? 0xfffffffe : (uint32_t)n;
}

static void fetch_sectors(struct ata_drive *d)
{
    uint64_t at = d->lba * 4, rest = block_sectors(d->block) - at;
    ata_busy(d);
    d->chunk = d->left < d->chunk_limit ? d->left : d->chunk_limit;
    uint32_t count = d->chunk * 4;
    if (count > rest) { /* the image ends within a sector */
        memset(d->data + rest * ATA_SECTOR, 0, (count - rest) * ATA_SECTOR);
        count = (uint32_t)rest;
    }
    ata_submit(d, BLOCK_READ, at, count);
}

/* Spreads the 2048-byte sectors in the buffer to what READ CD asked for, last one first so that none is overwritten. */
static void assemble_sectors(struct ata_drive *d)
{
    uint8_t raw[CD_RAW_SIZE], fields = d->atapi.fields;
    for (uint32_t i = d->chunk; i-- > 0;) {
        uint8_t *out = d->data + i * d->atapi.sector_size;
        memcpy(raw + CD_DATA, d->data + i * ATAPI_SECTOR, ATAPI_SECTOR);
        cd_encode_mode1(raw, (uint32_t)d->lba + i);
        const struct {
            uint8_t field;
            unsigned from, len;
        } parts[] = {{0x80, CD_SYNC, 12}, {0x20, CD_HEADER, 4}, {0x10, CD_DATA, ATAPI_SECTOR}, {0x08, CD_EDC, 288}};
        for (unsigned p = 0; p < 4; p++)
            if (fields & parts[p].field) {
                memcpy(out, raw + parts[p].from, parts[p].len);
                out += parts[p].len;
            }
    }
}

static void read_sectors(struct ata_drive *d, uint64_t lba, uint32_t count)
{
    if (lba > capacity(d) || count > capacity(d) - lba) {
        fail(d, ILLEGAL_REQUEST, ASC_ADDRESS_OUT_OF_RANGE, 0);
        return;
    }
    if (!count) {
        finish(d);
        return;
    }
    d->lba = lba;
    d->left = count;
    d->chunk_limit = ATAPI_BUFFER_SECTORS;
    d->activity = ATA_ACTIVITY_PACKET_READ;
    fetch_sectors(d);
}

void atapi_io_done(struct ata_drive *d, int error)
{
    if (d->activity != ATA_ACTIVITY_PACKET_READ)
        return;
    if (error && d->chunk > 1) { /* what comes before the bad sector is good */
        d->chunk_limit = 1;
        fetch_sectors(d);
        return;
    }
    if (error) {
        fail(d, MEDIUM_ERROR, ASC_READ_ERROR, 0);
        return;
    }
    if (d->atapi.fields != 0x10)
        assemble_sectors(d);
    d->lba += d->chunk;
    d->left -= d->chunk;
    d->filled = d->chunk * d->atapi.sector_size;
    offer_block(d, true, 0);
}

/* ---- commands that answer from the drive ---- */

static void request_sense(struct ata_drive *d)
{
    struct atapi_state *a = &d->atapi;
    uint8_t key = a->sense_key, additional = a->additional, qualifier = a->qualifier;
    if (!key && a->unit_attention) {
        key = UNIT_ATTENTION;
        additional = a->unit_attention;
        qualifier = 0;
        a->unit_attention = 0;
    }
    memset(d->data, 0, 18);
    d->data[0] = 0x70;
    d->data[2] = key;
    d->data[7] = 10;
    d->data[12] = additional;
    d->data[13] = qualifier;
    reply(d, 18, a->packet[4]);
}

static void inquiry(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    if ((p[1] & 1) || p[2]) {
        invalid_field(d);
        return;
    }
    memset(d->data, ' ', 36);
    memcpy(d->data, "\x05\x80\x00\x21\x1f\0\0\0", 8);
    memcpy(d->data + 8, "RINGFOLDCD-ROM", 14);
    memcpy(d->data + 32, "1.0 ", 4);
    reply(d, 36, p[4]);
}

static void put_address(uint8_t *p, uint32_t lba, bool msf)
{
    if (!msf) {
        put32(p, lba);
        return;
    }
    p[0] = 0;
    cd_lba_to_msf(lba, p + 1);
}

static unsigned toc_tracks(struct ata_drive *d, bool msf, unsigned first)
{
    uint8_t *p = d->data + 4;
    d->data[2] = d->data[3] = 1;
    if (first <= 1) {
        memcpy(p, "\0\x14\x01", 4);
        put_address(p + 4, 0, msf);
        p += 8;
    }
    memcpy(p, "\0\x14\xaa", 4);
    put_address(p + 4, capacity(d), msf);
    return (unsigned)(p + 8 - d->data);
}

/* Full TOC: points A0h, A1h, A2h and the track, always as minutes, seconds, frames (MMC-3 table 239). */
static unsigned toc_full(struct ata_drive *d)
{
    uint8_t *p = d->data + 4;
    static const uint8_t points[] = {0xa0, 0xa1, 0xa2, 1};
    d->data[2] = d->data[3] = 1;
    for (unsigned i = 0; i < 4; i++, p += 11) {
        memset(p, 0, 11);
        p[0] = 1;
        p[1] = 0x14;
        p[3] = points[i];
        if (i < 2)
            p[8] = 1;
        else
            cd_lba_to_msf(i == 2 ? capacity(d) : 0, p + 8);
    }
    return (unsigned)(p - d->data);
}

static void read_toc(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    unsigned format = p[2] & 0xf ? p[2] & 0xf : p[9] >> 6, len = 0;
    bool msf = p[1] & 2;
    memset(d->data, 0, 64);
    if (format == 0 && (p[6] <= 1 || p[6] == 0xaa)) {
        len = toc_tracks(d, msf, p[6]);
    } else if (format == 1) { /* first and last session are 1, its first track */
        d->data[2] = d->data[3] = 1;
        memcpy(d->data + 4, "\0\x14\x01", 4);
        put_address(d->data + 8, 0, msf);
        len = 12;
    } else if (format == 2) {
        len = toc_full(d);
    }
    if (!len) {
        invalid_field(d);
        return;
    }
    put16(d->data, len - 2);
    reply(d, len, get16(p + 7));
}

/* ---- mode pages ---- */

static unsigned page_error_recovery(const struct ata_drive *d, uint8_t *p, bool mask)
{
    memset(p, 0, 8);
    p[0] = 0x01;
    p[1] = 6;
    p[3] = mask ? 0 : 5; /* retries */
    return 8;
}

static unsigned page_cd_parameters(const struct ata_drive *d, uint8_t *p, bool mask)
{
    memcpy(p, "\x0d\x06\0\0\0\x3c\0\x4b", 8); /* 60 seconds a minute, 75 frames a second */
    if (mask)
        memset(p + 2, 0, 6);
    return 8;
}

static unsigned page_audio(const struct ata_drive *d, uint8_t *p, bool mask)
{
    memset(p, 0, 16);
    p[0] = 0x0e;
    p[1] = 14;
    if (!mask)
        memcpy(p + 2, "\x04\0\0\0\0\0\x01\xff\x02\xff", 10);
    return 16;
}

static unsigned page_capabilities(const struct ata_drive *d, uint8_t *p, bool mask)
{
    memset(p, 0, 22);
    p[0] = 0x2a;
    p[1] = 20;
    if (mask)
        return 22;
    p[2] = 0x08;                                        /* reads DVD-ROM; CD-R and -RW need not be said of an image */
    p[4] = 0x70;                                        /* mode 2 form 1 and 2, multisession */
    p[6] = (uint8_t)(0x29 | (d->atapi.locked ? 2 : 0)); /* tray, ejects, locks; locked now */
    put16(p + 8, 8448);                                 /* kB/s at most: 48x */
    put16(p + 10, 2);
    put16(p + 12, 512); /* kB of buffer */
    put16(p + 14, 8448);
    return 22;
}

static void mode_sense(struct ata_drive *d)
{
    static const struct {
        uint8_t code;
        unsigned (*fill)(const struct ata_drive *d, uint8_t *p, bool mask);
    } pages[] = {
        {0x01, page_error_recovery}, {0x0d, page_cd_parameters}, {0x0e, page_audio}, {0x2a, page_capabilities}};
    const uint8_t *p = d->atapi.packet;
    uint8_t wanted = p[2] & 0x3f, control = p[2] >> 6;
    unsigned len = 8;
    if (control == 3) {
        fail(d, ILLEGAL_REQUEST, ASC_NO_SAVED_PARAMETERS, 0);
        return;
    }
    memset(d->data, 0, 8);
    d->data[2] = d->atapi.tray_open ? 0x71 : has_medium(d) ? 0x01 : 0x70;
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++)
        if (wanted == 0x3f || wanted == pages[i].code)
            len += pages[i].fill(d, d->data + len, control == 1);
    if (len == 8) {
        invalid_field(d);
        return;
    }
    put16(d->data, len - 2);
    reply(d, len, get16(p + 7));
}

static void mode_select(struct ata_drive *d)
{
    d->filled = get16(d->atapi.packet + 7);
    if (!d->filled) {
        finish(d);
        return;
    }
    d->activity = ATA_ACTIVITY_PACKET_OUT;
    offer_block(d, false, 0);
}

/* ---- MMC ---- */

static void get_configuration(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    bool dvd = capacity(d) > CD_LAST_SECTOR, medium = has_medium(d);
    uint8_t *out = d->data, *at = out + 8;
    const struct {
        uint16_t feature;
        uint8_t flags, len; /* flags: version << 2, persistent, current */
        uint8_t bytes[8];
    } features[] = {
        {0x0000, 0x03, 8, {0x00, 0x10, dvd, 0, 0x00, 0x08, medium && !dvd, 0}},
        {0x0001, 0x03, 4, {0, 0, 0, 2}},                  /* core: ATAPI */
        {0x0003, 0x03, 4, {0x29, 0, 0, 0}},               /* removable medium: tray, eject, lock */
        {0x0010, medium, 8, {0, 0, 0x08, 0, 0, 1, 0, 0}}, /* random readable, 2048 bytes a block */
        {0x001e, medium && !dvd, 0, {0}},                 /* CD read */
        {0x001f, dvd, 0, {0}},                            /* DVD read */
    };
    unsigned request = p[1] & 3, first = get16(p + 2);
    memset(out, 0, 8);
    put16(out + 6, !medium ? 0 : dvd ? 0x10 : 0x08);
    for (unsigned i = 0; i < sizeof features / sizeof features[0]; i++) {
        if (features[i].feature < first || (request == 2 && features[i].feature != first) ||
            (request == 1 && !(features[i].flags & 1)))
            continue;
        put16(at, features[i].feature);
        at[2] = features[i].flags;
        at[3] = features[i].len;
        memcpy(at + 4, features[i].bytes, features[i].len);
        at += 4 + features[i].len;
    }
    if (request == 3) {
        invalid_field(d);
        return;
    }
    put32(out, (uint32_t)(at - out) - 4);
    reply(d, (uint32_t)(at - out), get16(p + 7));
}

static void get_event_status(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    if (!(p[1] & 1)) { /* only polled: there is no tagged queue to wait in */
        invalid_field(d);
        return;
    }
    memset(d->data, 0, 8);
    d->data[3] = 0x10; /* media events are the class there is */
    if (!(p[4] & 0x10)) {
        put16(d->data, 2);
        d->data[2] = 0x80; /* no event available */
        reply(d, 4, get16(p + 7));
        return;
    }
    put16(d->data, 6);
    d->data[2] = 4;
    d->data[4] = d->atapi.media_event;
    d->data[5] = (uint8_t)((d->atapi.tray_open ? 1 : 0) | (has_medium(d) ? 2 : 0));
    if (get16(p + 7) > 4)
        d->atapi.media_event = EVENT_NONE;
    reply(d, 8, get16(p + 7));
}

static void start_stop_unit(struct ata_drive *d)
{
    struct atapi_state *a = &d->atapi;
    bool load_eject = a->packet[4] & 2, start = a->packet[4] & 1;
    if (a->packet[4] >> 4 || !load_eject) { /* power conditions, spinning up and down */
        finish(d);
        return;
    }
    if (!start && a->locked) {
        fail(d, ILLEGAL_REQUEST, ASC_REMOVAL_PREVENTED, 2);
        return;
    }
    if (start && a->tray_open && d->block) {
        a->unit_attention = ASC_MEDIUM_CHANGED;
        a->media_event = EVENT_NEW_MEDIUM;
    } else if (!start && !a->tray_open) {
        a->media_event = d->block ? EVENT_REMOVAL : EVENT_NONE;
    }
    a->tray_open = !start;
    finish(d);
}

static void read_disc_information(struct ata_drive *d)
{
    memset(d->data, 0, 34);
    put16(d->data, 32);
    d->data[2] = 0x0e; /* last session complete, disc finalised */
    d->data[3] = d->data[4] = d->data[5] = d->data[6] = 1;
    d->data[7] = 0x20;             /* unrestricted use */
    memset(d->data + 16, 0xff, 8); /* no lead-in or lead-out to be recorded */
    reply(d, 34, get16(d->atapi.packet + 7));
}

static void read_track_information(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    uint32_t address = get32(p + 2);
    unsigned type = p[1] & 3;
    if ((type == 0 && address >= capacity(d)) || (type && address != 1) || type == 3) {
        invalid_field(d);
        return;
    }
    memset(d->data, 0, 28);
    put16(d->data, 26);
    d->data[2] = d->data[3] = 1;
    d->data[5] = 4; /* data track */
    d->data[6] = 1; /* mode 1 */
    put32(d->data + 24, capacity(d));
    reply(d, 28, get16(p + 7));
}

static void read_sub_channel(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    uint8_t *out = d->data;
    unsigned len = 4;
    memset(out, 0, 24);
    out[1] = 0x15; /* no audio status to tell */
    if (p[2] & 0x40) {
        if (p[3] < 1 || p[3] > 3) {
            invalid_field(d);
            return;
        }
        out[4] = p[3];
        len = p[3] == 1 ? 16 : 24;
        if (p[3] == 1) { /* current position: the start of the track */
            out[5] = 0x14;
            out[6] = out[7] = 1;
            put_address(out + 8, 0, p[1] & 2);
        } /* 2, 3: catalogue number and ISRC, not valid */
    }
    put16(out + 2, len - 4);
    reply(d, len, get16(p + 7));
}

static void mechanism_status(struct ata_drive *d)
{
    memset(d->data, 0, 8);
    d->data[1] = d->atapi.tray_open ? 0x10 : 0;
    reply(d, 8, get16(d->atapi.packet + 8));
}

static void read_capacity(struct ata_drive *d)
{
    put32(d->data, capacity(d) - 1);
    put32(d->data + 4, ATAPI_SECTOR);
    reply(d, 8, 8);
}

static void read_cd(struct ata_drive *d, uint64_t lba, uint32_t count)
{
    const uint8_t *p = d->atapi.packet;
    unsigned type = p[1] >> 2 & 7;
    uint8_t fields = p[9];
    if ((fields & 0x07) || (p[10] & 7) || type > 5) { /* error flags, sub-channels */
        invalid_field(d);
        return;
    }
    if (type != 0 && type != 2) {
        fail(d, ILLEGAL_REQUEST, ASC_WRONG_TRACK_MODE, 0);
        return;
    }
    fields &= 0xb8; /* a mode 1 sector has no subheader */
    d->atapi.fields = fields;
    d->atapi.sector_size =
        (fields & 0x80 ? 12u : 0) + (fields & 0x20 ? 4u : 0) + (fields & 0x10 ? 2048u : 0) + (fields & 8 ? 288u : 0);
    read_sectors(d, lba, d->atapi.sector_size ? count : 0);
}

static void read_cd_msf(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    int64_t from = ((int64_t)p[3] * 60 + p[4]) * 75 + p[5] - 150, to = ((int64_t)p[6] * 60 + p[7]) * 75 + p[8] - 150;
    if (from < 0 || to < from)
        invalid_field(d);
    else
        read_cd(d, (uint64_t)from, (uint32_t)(to - from));
}

/* ---- dispatch ---- */

enum {
    NEEDS_MEDIUM = 1,
    NO_ATTENTION = 2 /* runs although a unit attention is pending, and leaves it pending */
};

/* Those that come without a function of their own. */
static void execute_small(struct ata_drive *d)
{
    const uint8_t *p = d->atapi.packet;
    switch (p[0]) {
    case 0x1e: /* PREVENT ALLOW MEDIUM REMOVAL */
        d->atapi.locked = p[4] & 1;
        finish(d);
        break;
    case 0x28: /* READ (10) */
    case 0xa8: /* READ (12) */
        d->atapi.fields = 0x10;
        d->atapi.sector_size = ATAPI_SECTOR;
        read_sectors(d, get32(p + 2), p[0] == 0x28 ? get16(p + 7) : get32(p + 6));
        break;
    case 0x2b: /* SEEK */
        if (get32(p + 2) >= capacity(d))
            fail(d, ILLEGAL_REQUEST, ASC_ADDRESS_OUT_OF_RANGE, 0);
        else
            finish(d);
        break;
    case 0x45: /* PLAY AUDIO: a data track plays nothing */
    case 0x47:
    case 0xa5:
        fail(d, ILLEGAL_REQUEST, ASC_WRONG_TRACK_MODE, 0);
        break;
    case 0xbe: /* READ CD */
        read_cd(d, get32(p + 2), (uint32_t)p[6] << 16 | get16(p + 7));
        break;
    default: /* TEST UNIT READY, STOP PLAY/SCAN, SYNCHRONIZE CACHE, SET CD SPEED, VERIFY */
        finish(d);
    }
}

static void execute(struct ata_drive *d)
{
    static const struct {
        uint8_t command, flags;
        void (*run)(struct ata_drive *d);
    } table[] = {
        {0x00, NEEDS_MEDIUM, execute_small},
        {0x03, NO_ATTENTION, request_sense},
        {0x12, NO_ATTENTION, inquiry},
        {0x1b, 0, start_stop_unit},
        {0x1e, 0, execute_small},
        {0x25, NEEDS_MEDIUM, read_capacity},
        {0x28, NEEDS_MEDIUM, execute_small},
        {0x2b, NEEDS_MEDIUM, execute_small},
        {0x2f, NEEDS_MEDIUM, execute_small},
        {0x35, 0, execute_small},
        {0x42, NEEDS_MEDIUM, read_sub_channel},
        {0x43, NEEDS_MEDIUM, read_toc},
        {0x45, NEEDS_MEDIUM, execute_small},
        {0x46, NO_ATTENTION, get_configuration},
        {0x47, NEEDS_MEDIUM, execute_small},
        {0x4a, NO_ATTENTION, get_event_status},
        {0x4e, NEEDS_MEDIUM, execute_small},
        {0x51, NEEDS_MEDIUM, read_disc_information},
        {0x52, NEEDS_MEDIUM, read_track_information},
        {0x55, 0, mode_select},
        {0x5a, 0, mode_sense},
        {0xa5, NEEDS_MEDIUM, execute_small},
        {0xa8, NEEDS_MEDIUM, execute_small},
        {0xb9, NEEDS_MEDIUM, read_cd_msf},
        {0xbb, 0, execute_small},
        {0xbd, 0, mechanism_status},
        {0xbe, NEEDS_MEDIUM, execute_small},
    };
    struct atapi_state *a = &d->atapi;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].command != a->packet[0])
            continue;
        if (a->unit_attention && !(table[i].flags & NO_ATTENTION)) {
            uint8_t attention = a->unit_attention;
            a->unit_attention = 0;
            fail(d, UNIT_ATTENTION, attention, 0);
        } else if ((table[i].flags & NEEDS_MEDIUM) && !capacity(d)) {
            fail(d, NOT_READY, ASC_NO_MEDIUM, a->tray_open ? 2 : 1);
        } else {
            table[i].run(d);
        }
        return;
    }
    log_msg(LOG_DEVICE, "atapi: command %02xh is not implemented by this drive", a->packet[0]);
    fail(d, ILLEGAL_REQUEST, ASC_INVALID_COMMAND, 0);
}

/* ---- called by ata.c ---- */

void atapi_command(struct ata_drive *d)
{
    struct atapi_state *a = &d->atapi;
    if (d->features[0] & 2) { /* overlapped operation */
        ata_abort_command(d);
        return;
    }
    a->dma = d->features[0] & 1;
    d->dma = a->dma;
    /* Zero is not defined for commands with data; drives took it for "as much as you like", and so do we. Blocks but
     * the last must be even. */
    a->limit = (unsigned)d->lba_high[0] << 8 | d->lba_mid[0];
    if (a->limit < 2 || a->limit > 65534)
        a->limit = 65534;
    a->limit &= ~1u;
    d->filled = ATAPI_PACKET_SIZE;
    d->activity = ATA_ACTIVITY_PACKET;
    d->count[0] = ATAPI_REASON_CD;
    ata_offer(d, ATA_PHASE_PIO_OUT, 0, ATAPI_PACKET_SIZE);
}

void atapi_data_exhausted(struct ata_drive *d)
{
    switch (d->activity) {
    case ATA_ACTIVITY_PACKET:
        memcpy(d->atapi.packet, d->data, ATAPI_PACKET_SIZE);
        ata_busy(d);
        execute(d);
        break;
    case ATA_ACTIVITY_PACKET_IN:
        if (d->end < d->filled)
            offer_block(d, true, d->end);
        else
            finish(d);
        break;
    case ATA_ACTIVITY_PACKET_OUT: /* mode pages: nothing in them changes how an image is read */
        if (d->end < d->filled)
            offer_block(d, false, d->end);
        else
            finish(d);
        break;
    case ATA_ACTIVITY_PACKET_READ:
        if (d->end < d->filled)
            offer_block(d, true, d->end);
        else if (d->left)
            fetch_sectors(d);
        else
            finish(d);
        break;
    default:
        break;
    }
}

void atapi_reset(struct ata_drive *d)
{
    memset(&d->atapi, 0, sizeof d->atapi);
}

int atapi_change_medium(struct ata_drive *d, struct block *medium, bool force)
{
    struct atapi_state *a = &d->atapi;
    if (d->kind != ATA_CDROM)
        return -ENODEV;
    if (a->locked && d->block && !force) {
        a->media_event = EVENT_EJECT_REQUEST;
        return -EBUSY;
    }
    bool reading = d->activity == ATA_ACTIVITY_PACKET_READ;
    block_cancel(&d->request);
    bool had = d->block != NULL;
    d->block = medium;
    a->tray_open = false;
    a->locked = false;
    if (medium || had) {
        a->unit_attention = ASC_MEDIUM_CHANGED;
        a->media_event = medium ? EVENT_NEW_MEDIUM : EVENT_REMOVAL;
    }
    if (reading) {
        a->unit_attention = 0;
        fail(d, UNIT_ATTENTION, ASC_MEDIUM_CHANGED, 0);
    }
    return 0;
}
