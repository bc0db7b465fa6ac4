/* SPDX-License-Identifier: MIT */
#include "devices/ide.h"
#include "devices/log.h"

#include <errno.h>
#include <string.h>

static struct ata_drive *selected(struct ide_channel *ch)
{
    return &ch->drives[ch->selected];
}

/* ---- interrupt ---- */

/* Only the selected drive drives INTRQ, and only with nIEN clear. The bus master notes the rising edge. */
static void update_irq(struct ide_channel *ch)
{
    int level = selected(ch)->intrq && !(ch->control & ATA_CONTROL_NIEN);
    if (level == ch->irq_level)
        return;
    ch->irq_level = level;
    if (level)
        ch->bus_master.status |= IDE_BM_INTERRUPT;
    irq_set(&ch->irq, level);
}

static void on_intrq(void *opaque, unsigned unit)
{
    update_irq(opaque);
}

/* A guest that polls takes what its drive has finished, after the read that still says busy: so the interrupt stays up
 * until the next read of Status. */
static void poll_drive(struct ide_channel *ch)
{
    const struct ata_drive *d = selected(ch);
    if ((d->status & ATA_STATUS_BSY) && d->block)
        block_poll(d->block);
}

/* ---- bus master ---- */

static void stop_engine(struct ide_bus_master *bm, uint8_t why)
{
    bm->status = (uint8_t)((bm->status & ~IDE_BM_ACTIVE) | why);
}

/* The next descriptor; false: the table has ended or cannot be read, and the engine stands. The table may not cross a
 * 64 KiB boundary: the counter does not carry over it. */
static bool next_region(struct ide_channel *ch)
{
    struct ide_bus_master *bm = &ch->bus_master;
    uint8_t raw[8];
    if (memory_read(ch->memory, gpa(bm->next), raw, sizeof raw) != sizeof raw) {
        log_msg(LOG_GUEST_ERROR, "%s: descriptor table at %08xh is not in memory", ch->name, bm->next);
        stop_engine(bm, IDE_BM_ERROR);
        return false;
    }
    bm->next = (bm->next & 0xffff0000u) | ((bm->next + 8) & 0xffffu);
    bm->address = (uint32_t)(raw[0] & 0xfe) | (uint32_t)raw[1] << 8 | (uint32_t)raw[2] << 16 | (uint32_t)raw[3] << 24;
    bm->left = (uint32_t)(raw[4] & 0xfe) | (uint32_t)raw[5] << 8;
    if (!bm->left)
        bm->left = 0x10000;
    bm->last = raw[7] & 0x80;
    return true;
}

/* Moves what fits into the region under way. */
static bool move(struct ide_channel *ch, struct ata_drive *d)
{
    struct ide_bus_master *bm = &ch->bus_master;
    uint32_t len = d->end - d->pos;
    if (len > bm->left)
        len = bm->left;
    uint64_t met = d->phase == ATA_PHASE_DMA_IN ? memory_write(ch->memory, gpa(bm->address), d->data + d->pos, len)
                                                : memory_read(ch->memory, gpa(bm->address), d->data + d->pos, len);
    if (met != len) {
        log_msg(LOG_GUEST_ERROR, "%s: DMA at %08xh (%u bytes) is not in memory", ch->name, bm->address, len);
        stop_engine(bm, IDE_BM_ERROR);
        return false;
    }
    d->pos += len;
    bm->address += len;
    bm->left -= len;
    if (!bm->left && bm->last)
        stop_engine(bm, 0);
    return true;
}

/* Runs while the engine is started and the selected drive has or wants data. It stands when either gives out; the other
 * then waits, as on the cable: a table that ends early leaves the drive busy until it is reset. Entered from the
 * drive's DMARQ and from the start bit; a drive that goes on at once (synchronous disks) is served by the loop, not by
 * recursion. */
static void run_engine(struct ide_channel *ch)
{
    struct ide_bus_master *bm = &ch->bus_master;
    if (bm->running)
        return;
    bm->running = true;
    while (bm->status & IDE_BM_ACTIVE) {
        struct ata_drive *d = selected(ch);
        if ((d->phase != ATA_PHASE_DMA_IN && d->phase != ATA_PHASE_DMA_OUT) ||
            (ch->may_master && !ch->may_master(ch->may_master_opaque)))
            break;
        if (!bm->left && !next_region(ch))
            break;
        if (!move(ch, d))
            break;
        if (d->pos == d->end) {
            d->phase = ATA_PHASE_NONE;
            ata_data_exhausted(d);
        }
    }
    bm->running = false;
}

static void on_dmarq(void *opaque, unsigned unit)
{
    struct ide_channel *ch = opaque;
    if (ch->memory && unit == ch->selected)
        run_engine(ch);
}

static void write_bm_command(struct ide_channel *ch, uint8_t value)
{
    struct ide_bus_master *bm = &ch->bus_master;
    bool was_started = bm->command & IDE_BM_START;
    bm->command = value & (IDE_BM_START | IDE_BM_TO_MEMORY);
    if (!(value & IDE_BM_START)) {
        bm->status &= (uint8_t)~IDE_BM_ACTIVE;
    } else if (!was_started) {
        bm->status |= IDE_BM_ACTIVE;
        bm->next = bm->table;
        bm->left = 0;
        bm->last = false;
        if (ch->memory)
            run_engine(ch);
    }
}

static void write_bm_byte(struct ide_channel *ch, unsigned offset, uint8_t value)
{
    struct ide_bus_master *bm = &ch->bus_master;
    unsigned shift = (offset & 3) * 8;
    switch (offset & 7) {
    case IDE_BM_COMMAND:
        write_bm_command(ch, value);
        break;
    case IDE_BM_STATUS:
        bm->status = (uint8_t)((bm->status & (IDE_BM_ACTIVE | IDE_BM_ERROR | IDE_BM_INTERRUPT) &
                                ~(value & (IDE_BM_ERROR | IDE_BM_INTERRUPT))) |
                               (value & 0x60));
        break;
    case 4:
    case 5:
    case 6:
    case 7:
        bm->table = ((bm->table & ~(0xffu << shift)) | (uint32_t)value << shift) & ~3u;
        break;
    default:
        break;
    }
}

uint64_t ide_bus_master_read(struct ide_channel *ch, unsigned offset, unsigned size)
{
    const struct ide_bus_master *bm = &ch->bus_master;
    const uint8_t bytes[8] = {bm->command,
                              0,
                              bm->status,
                              0,
                              (uint8_t)bm->table,
                              (uint8_t)(bm->table >> 8),
                              (uint8_t)(bm->table >> 16),
                              (uint8_t)(bm->table >> 24)};
    uint64_t value = 0;
    for (unsigned i = 0; i < size && i < 8; i++)
        value |= (uint64_t)bytes[(offset + i) & 7] << (8 * i);
    poll_drive(ch);
    return value;
}

void ide_bus_master_write(struct ide_channel *ch, unsigned offset, uint64_t value, unsigned size)
{
    for (unsigned i = 0; i < size && i < 8; i++)
        write_bm_byte(ch, offset + i, (uint8_t)(value >> (8 * i)));
}

/* ---- data port ---- */

static void advance(struct ata_drive *d)
{
    if (d->pos < d->end)
        return;
    d->phase = ATA_PHASE_NONE;
    ata_data_exhausted(d);
}

static uint32_t read_data(struct ide_channel *ch, unsigned size)
{
    struct ata_drive *d = selected(ch);
    uint32_t value = 0;
    if (d->phase != ATA_PHASE_PIO_IN)
        return 0;
    uint32_t rest = d->end - d->pos;
    memcpy(&value, d->data + d->pos, rest < size ? rest : size);
    if (size == 1) /* the drive always moves a word */
        size = 2;
    d->pos += rest < size ? rest : size;
    advance(d);
    return value;
}

static void write_data(struct ide_channel *ch, uint32_t value, unsigned size)
{
    struct ata_drive *d = selected(ch);
    if (d->phase != ATA_PHASE_PIO_OUT)
        return;
    if (size == 1)
        size = 2;
    uint32_t rest = d->end - d->pos;
    memcpy(d->data + d->pos, &value, rest < size ? rest : size);
    d->pos += rest < size ? rest : size;
    advance(d);
}

size_t ide_channel_read_block(struct ide_channel *ch, void *buf, size_t len)
{
    struct ata_drive *d = selected(ch);
    if (d->phase != ATA_PHASE_PIO_IN)
        return 0;
    uint32_t n = d->end - d->pos;
    if (n > len)
        n = (uint32_t)len;
    n &= ~3u;
    memcpy(buf, d->data + d->pos, n);
    d->pos += n;
    advance(d);
    return n;
}

size_t ide_channel_write_block(struct ide_channel *ch, const void *buf, size_t len)
{
    struct ata_drive *d = selected(ch);
    if (d->phase != ATA_PHASE_PIO_OUT)
        return 0;
    uint32_t n = d->end - d->pos;
    if (n > len)
        n = (uint32_t)len;
    n &= ~3u;
    memcpy(d->data + d->pos, buf, n);
    d->pos += n;
    advance(d);
    return n;
}

/* ---- registers ---- */

/* A place without a drive reads as zeros but for the device register of the other drive, so that neither a status poll
 * nor a signature check takes it for a drive. */
static uint8_t read_register(struct ide_channel *ch, enum ata_register reg)
{
    struct ata_drive *d = selected(ch);
    if (!ata_present(d)) {
        const struct ata_drive *other = &ch->drives[!ch->selected];
        return reg == ATA_DEVICE && ata_present(other) ? ata_read_register(other, ATA_DEVICE, false) : 0;
    }
    if (reg == ATA_STATUS_COMMAND) {
        uint8_t status = ata_read_status(d);
        poll_drive(ch);
        return status;
    }
    return ata_read_register(d, reg, ch->control & ATA_CONTROL_HOB);
}

static void write_command(struct ide_channel *ch, uint8_t command)
{
    struct ata_drive *d = selected(ch);
    if (command == 0x90 && !(d->status & (ATA_STATUS_BSY | ATA_STATUS_DRQ))) { /* EXECUTE DEVICE DIAGNOSTIC */
        ch->selected = 0;
        for (unsigned unit = 0; unit < 2; unit++)
            if (ata_present(&ch->drives[unit]))
                ata_diagnose(&ch->drives[unit]);
        update_irq(ch);
    } else if (ata_present(d)) {
        ata_write_command(d, command);
    }
}

/* Both drives take every register write; one that is busy or moves data ignores it, and so does the selection. */
static void write_register(struct ide_channel *ch, enum ata_register reg, uint8_t value)
{
    ch->control &= (uint8_t)~ATA_CONTROL_HOB;
    if (reg == ATA_STATUS_COMMAND) {
        write_command(ch, value);
        return;
    }
    if (selected(ch)->status & (ATA_STATUS_BSY | ATA_STATUS_DRQ))
        return;
    for (unsigned unit = 0; unit < 2; unit++)
        if (ata_present(&ch->drives[unit]))
            ata_write_register(&ch->drives[unit], reg, value);
    if (reg == ATA_DEVICE) {
        ch->selected = value & ATA_DEVICE_DEV ? 1 : 0;
        update_irq(ch);
    }
}

uint64_t ide_channel_read(struct ide_channel *ch, uint64_t offset, unsigned size)
{
    if ((offset & 7) == ATA_DATA)
        return read_data(ch, size < 4 ? size : 4);
    uint64_t value = 0;
    for (unsigned i = 0; i < size && i < 8; i++)
        value |= (uint64_t)read_register(ch, (enum ata_register)((offset + i) & 7)) << (8 * i);
    return value;
}

void ide_channel_write(struct ide_channel *ch, uint64_t offset, uint64_t value, unsigned size)
{
    if ((offset & 7) == ATA_DATA) {
        write_data(ch, (uint32_t)value, size < 4 ? size : 4);
        return;
    }
    for (unsigned i = 0; i < size && i < 8; i++)
        if ((offset + i) & 7)
            write_register(ch, (enum ata_register)((offset + i) & 7), (uint8_t)(value >> (8 * i)));
}

uint8_t ide_channel_read_alternate_status(struct ide_channel *ch)
{
    uint8_t status = ata_present(selected(ch)) ? selected(ch)->status : 0;
    poll_drive(ch);
    return status;
}

void ide_channel_write_control(struct ide_channel *ch, uint8_t value)
{
    uint8_t changed = ch->control ^ value;
    ch->control = value & (ATA_CONTROL_NIEN | ATA_CONTROL_SRST | ATA_CONTROL_HOB);
    if (changed & ATA_CONTROL_SRST) {
        ch->selected = 0;
        for (unsigned unit = 0; unit < 2; unit++)
            ata_soft_reset(&ch->drives[unit], value & ATA_CONTROL_SRST);
    }
    update_irq(ch);
}

static uint64_t control_read(void *opaque, uint64_t offset, unsigned size)
{
    return ide_channel_read_alternate_status(opaque);
}

static void control_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    ide_channel_write_control(opaque, (uint8_t)value);
}

static uint64_t command_read(void *opaque, uint64_t offset, unsigned size)
{
    return ide_channel_read(opaque, offset, size);
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    ide_channel_write(opaque, offset, value, size);
}

/* ---- life ---- */

void ide_channel_init(struct ide_channel *ch, const char *name, struct memory *memory, struct irq_line irq)
{
    memset(ch, 0, sizeof *ch);
    ch->name = name;
    ch->memory = memory;
    ch->irq = irq;
    for (unsigned unit = 0; unit < 2; unit++)
        ch->drives[unit].unit = unit;
}

int ide_channel_attach(struct ide_channel *ch, unsigned unit, enum ata_kind kind, struct block *block,
                       const char *serial)
{
    const struct ata_host host = {on_intrq, on_dmarq, ch};
    if (unit > 1 || ata_present(&ch->drives[unit]))
        return -EBUSY;
    return ata_drive_init(&ch->drives[unit], kind, unit, block, serial, &host);
}

void ide_channel_destroy(struct ide_channel *ch)
{
    for (unsigned unit = 0; unit < 2; unit++)
        ata_drive_destroy(&ch->drives[unit]);
}

void ide_channel_reset(struct ide_channel *ch)
{
    bool running = ch->bus_master.running;
    memset(&ch->bus_master, 0, sizeof ch->bus_master);
    ch->bus_master.running = running;
    for (unsigned unit = 0; unit < 2; unit++)
        ata_drive_reset(&ch->drives[unit]);
    ch->selected = 0;
    ch->control = 0;
    update_irq(ch);
}

int ide_channel_map(struct ide_channel *ch, struct bus *ports, uint16_t command_base, uint16_t control_port)
{
    ide_channel_unmap(ch, ports);
    ch->command_range = (struct bus_range){.name = ch->name,
                                           .base = command_base,
                                           .size = 8,
                                           .max_access = 4,
                                           .read = command_read,
                                           .write = command_write,
                                           .opaque = ch};
    ch->control_range = (struct bus_range){.name = ch->name,
                                           .base = control_port,
                                           .size = 1,
                                           .max_access = 1,
                                           .read = control_read,
                                           .write = control_write,
                                           .opaque = ch};
    int error = bus_add(ports, &ch->command_range);
    if (!error)
        error = bus_add(ports, &ch->control_range);
    if (error)
        bus_remove(ports, &ch->command_range);
    return error;
}

void ide_channel_unmap(struct ide_channel *ch, struct bus *ports)
{
    bus_remove(ports, &ch->command_range);
    bus_remove(ports, &ch->control_range);
}

int ide_channel_change_medium(struct ide_channel *ch, unsigned unit, struct block *medium, bool force)
{
    return unit > 1 ? -ENODEV : atapi_change_medium(&ch->drives[unit], medium, force);
}
