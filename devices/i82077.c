/* SPDX-License-Identifier: MIT */
#include "devices/i82077_internal.h"
#include "devices/log.h"

#include <errno.h>
#include <string.h>

enum { COMMAND_DELAY = 20 * NS_PER_US, STEP_DELAY = 10 * NS_PER_US, RESET_DELAY = 100 * NS_PER_US };

/* Offsets from 3f0h; 6 is the IDE controller's */
enum { PORT_STATUS_A, PORT_STATUS_B, PORT_DOR, PORT_TAPE, PORT_MAIN_STATUS, PORT_FIFO, PORT_CHANGE = 7 };

enum { MSR_RQM = 0x80, MSR_DIO = 0x40, MSR_NON_DMA = 0x20, MSR_BUSY = 0x10 };
enum { RATE_500, RATE_300, RATE_250, RATE_1000 };

enum { DOUBLE_DENSITY = 1 << RATE_250 | 1 << RATE_300, HIGH_DENSITY = 1 << RATE_500, EXTRA_DENSITY = 1 << RATE_1000 };

/* ---- media ---- */

static const struct i82077_geometry geometries[] = {
    {40, 1, 8, DOUBLE_DENSITY, 1},                                                                /* 160K */
    {40, 1, 9, DOUBLE_DENSITY, 1},                                                                /* 180K */
    {40, 2, 8, DOUBLE_DENSITY, 1},                                                                /* 320K */
    {40, 2, 9, DOUBLE_DENSITY, 1},                                                                /* 360K */
    {80, 2, 8, DOUBLE_DENSITY, 4},                                                                /* 640K */
    {80, 2, 9, DOUBLE_DENSITY, 4},                                                                /* 720K */
    {80, 2, 10, DOUBLE_DENSITY, 4}, {82, 2, 10, DOUBLE_DENSITY, 4}, {80, 2, 15, HIGH_DENSITY, 2}, /* 1.2M */
    {80, 2, 18, HIGH_DENSITY, 4},                                                                 /* 1.44M */
    {80, 2, 20, HIGH_DENSITY, 4},   {80, 2, 21, HIGH_DENSITY, 4},                                 /* 1.68M, DMF */
    {82, 2, 21, HIGH_DENSITY, 4},                                                                 /* 1.72M */
    {83, 2, 21, HIGH_DENSITY, 4},   {80, 2, 22, HIGH_DENSITY, 4},   {80, 2, 24, HIGH_DENSITY, 5},
    {80, 2, 36, EXTRA_DENSITY, 5}, /* 2.88M */
};

static struct i82077_geometry geometry_of(struct block *medium)
{
    static const struct i82077_geometry usual = {80, 2, 18, HIGH_DENSITY, 4}, largest = {80, 2, 36, EXTRA_DENSITY, 5};
    uint64_t size = medium ? block_sectors(medium) : 0;
    for (size_t i = 0; i < sizeof geometries / sizeof geometries[0]; i++) {
        const struct i82077_geometry *g = &geometries[i];
        if (size == (uint64_t)g->tracks * g->heads * g->sectors)
            return *g;
    }
    return size > 2880 ? largest : usual;
}

static void insert(struct i82077_drive *d, struct block *medium)
{
    d->medium = medium;
    d->geometry = geometry_of(medium);
    d->changed = true;
    d->id_sector = 0;
}

void i82077_attach(struct i82077 *fdc, unsigned n, struct block *medium)
{
    if (n >= I82077_DRIVES)
        return;
    fdc->drives[n].present = true;
    insert(&fdc->drives[n], medium);
    fdc->drives[n].type = fdc->drives[n].geometry.drive_type;
}

unsigned i82077_drive_type(const struct i82077 *fdc, unsigned n)
{
    return n < I82077_DRIVES && fdc->drives[n].present ? fdc->drives[n].type : 0;
}

/* ---- interrupt, phases ---- */

bool i82077_uses_dma(const struct i82077 *fdc)
{
    return fdc->dma && !(fdc->specify[1] & 1);
}

void i82077_update_irq(struct i82077 *fdc)
{
    bool pending = fdc->result_interrupt || fdc->sense_interrupt;
    /* Without DMA each service request of the FIFO is an interrupt, until the host takes the first byte. */
    if ((fdc->phase == I82077_HOST_READS || fdc->phase == I82077_HOST_WRITES) && fdc->pos == 0)
        pending = true;
    int level = pending && (fdc->dor & DOR_DMAGATE) && (fdc->dor & DOR_RESET);
    if (level == fdc->irq_level)
        return;
    fdc->irq_level = level;
    irq_set(&fdc->irq, level);
}

void i82077_give_result(struct i82077 *fdc, unsigned n, bool interrupt)
{
    fdc->phase = I82077_RESULT;
    fdc->result_length = n;
    fdc->result_pos = 0;
    fdc->result_interrupt = interrupt;
    fdc->command_pos = 0;
    fdc->pos = fdc->end = 0;
    i82077_update_irq(fdc);
}

static void await_command(struct i82077 *fdc)
{
    fdc->phase = I82077_COMMAND;
    fdc->command_pos = 0;
    i82077_update_irq(fdc);
}

static void result_byte(struct i82077 *fdc, uint8_t value)
{
    fdc->result[0] = value;
    i82077_give_result(fdc, 1, false);
}

/* ---- head movement ---- */

void i82077_step(struct i82077_drive *d, uint8_t track)
{
    if (d->track != track && d->present && d->medium)
        d->changed = false;
    d->track = track;
}

static void on_seek_end(void *opaque)
{
    struct i82077_drive *d = opaque;
    i82077_step(d, d->seek_target);
    d->interrupt = true;
    d->status = d->seek_status;
    d->controller->sense_interrupt = true;
    i82077_update_irq(d->controller);
}

static void start_seek(struct i82077 *fdc, uint8_t select, uint8_t target, uint8_t status)
{
    struct i82077_drive *d = &fdc->drives[select & 3];
    unsigned distance = d->track > target ? d->track - target : target - d->track;
    d->interrupt = false;
    d->seek_target = target;
    d->seek_status = (uint8_t)(status | (select & 7));
    timer_arm(&d->seek_timer, clock_now(d->seek_timer.clock) + COMMAND_DELAY + distance * STEP_DELAY);
    await_command(fdc);
}

/* Steps outwards until track 0 shows, 79 times at most; a drive that is not there never shows it. */
static void run_recalibrate(struct i82077 *fdc)
{
    uint8_t select = fdc->command[1] & 3;
    const struct i82077_drive *d = &fdc->drives[select];
    if (!d->present)
        start_seek(fdc, select, 0, ST0_ABNORMAL | ST0_SEEK_END | ST0_EQUIPMENT);
    else if (d->track > 79)
        start_seek(fdc, select, (uint8_t)(d->track - 79), ST0_ABNORMAL | ST0_SEEK_END | ST0_EQUIPMENT);
    else
        start_seek(fdc, select, 0, ST0_SEEK_END);
}

static void run_seek(struct i82077 *fdc)
{
    start_seek(fdc, fdc->command[1] & 7, fdc->command[2], ST0_SEEK_END);
}

static void run_relative_seek(struct i82077 *fdc)
{
    const struct i82077_drive *d = &fdc->drives[fdc->command[1] & 3];
    int target = fdc->command[0] & 0x40 ? d->track + fdc->command[2] : d->track - fdc->command[2];
    start_seek(fdc, fdc->command[1] & 7, (uint8_t)(target < 0 ? 0 : target > 255 ? 255 : target), ST0_SEEK_END);
}

/* ---- control commands ---- */

/* Takes the interrupt back even where more is to be sensed, so that the next one makes an edge; the other seeks that
 * have ended ask again at once, the polling results after a reset do not. */
static void run_sense_interrupt(struct i82077 *fdc)
{
    fdc->sense_interrupt = false;
    i82077_update_irq(fdc);
    for (unsigned i = 0; i < I82077_SELECTS; i++) {
        struct i82077_drive *d = &fdc->drives[i];
        if (!d->interrupt)
            continue;
        d->interrupt = false;
        fdc->result[0] = d->status;
        fdc->result[1] = d->track;
        for (unsigned other = 0; other < I82077_SELECTS; other++)
            if (fdc->drives[other].interrupt && (fdc->drives[other].status & ST0_POLLING) != ST0_POLLING)
                fdc->sense_interrupt = true;
        i82077_give_result(fdc, 2, false);
        return;
    }
    result_byte(fdc, ST0_INVALID);
}

static void run_sense_drive(struct i82077 *fdc)
{
    uint8_t select = fdc->command[1] & 7;
    const struct i82077_drive *d = &fdc->drives[select & 3];
    uint8_t st3 = 0x28 | select; /* two bits that are always one */
    if (d->present && d->track == 0)
        st3 |= 0x10;
    if (d->medium && block_readonly(d->medium))
        st3 |= 0x40;
    result_byte(fdc, st3);
}

static void run_specify(struct i82077 *fdc)
{
    fdc->specify[0] = fdc->command[1];
    fdc->specify[1] = fdc->command[2];
    await_command(fdc);
}

static void run_configure(struct i82077 *fdc)
{
    fdc->configuration = fdc->command[2] & 0x7f;
    fdc->precompensation_track = fdc->command[3];
    await_command(fdc);
}

static void run_perpendicular(struct i82077 *fdc)
{
    /* Without OW the drive bits stay */
    fdc->perpendicular = (uint8_t)(fdc->command[1] & 0x80 ? fdc->command[1] & 0x3f
                                                          : (fdc->perpendicular & 0x3c) | (fdc->command[1] & 3));
    await_command(fdc);
}

static void run_lock(struct i82077 *fdc)
{
    fdc->lock = fdc->command[0] & 0x80;
    result_byte(fdc, fdc->lock ? 0x10 : 0);
}

static void run_dump_registers(struct i82077 *fdc)
{
    for (unsigned i = 0; i < I82077_SELECTS; i++)
        fdc->result[i] = fdc->drives[i].track;
    fdc->result[4] = fdc->specify[0];
    fdc->result[5] = fdc->specify[1];
    fdc->result[6] = fdc->last_end_of_track;
    fdc->result[7] = (uint8_t)((fdc->lock ? 0x80 : 0) | fdc->perpendicular);
    fdc->result[8] = fdc->configuration;
    fdc->result[9] = fdc->precompensation_track;
    i82077_give_result(fdc, 10, false);
}

static void run_version(struct i82077 *fdc)
{
    result_byte(fdc, 0x90);
}

static void run_invalid(struct i82077 *fdc)
{
    log_msg(LOG_GUEST_ERROR, "i82077: invalid command %02xh", fdc->command[0]);
    result_byte(fdc, ST0_INVALID);
}

/* ---- command phase ---- */

/* Data sheet table 5-1; bits that are fixed there are in the mask. */
static const struct i82077_operation operations[] = {
    {0x1f, 0x06, 9, true, i82077_run_transfer},  /* READ DATA */
    {0x1f, 0x0c, 9, true, i82077_run_transfer},  /* READ DELETED DATA */
    {0x3f, 0x05, 9, true, i82077_run_transfer},  /* WRITE DATA */
    {0x3f, 0x09, 9, true, i82077_run_transfer},  /* WRITE DELETED DATA */
    {0x9f, 0x02, 9, true, i82077_run_transfer},  /* READ TRACK */
    {0x1f, 0x16, 9, true, i82077_run_transfer},  /* VERIFY */
    {0xbf, 0x0d, 6, true, i82077_run_format},    /* FORMAT TRACK */
    {0xbf, 0x0a, 2, true, i82077_run_read_id},   /* READ ID */
    {0xff, 0x07, 2, false, run_recalibrate},     /* RECALIBRATE */
    {0xff, 0x08, 1, false, run_sense_interrupt}, /* SENSE INTERRUPT STATUS */
    {0xff, 0x03, 3, false, run_specify},         /* SPECIFY */
    {0xff, 0x04, 2, false, run_sense_drive},     /* SENSE DRIVE STATUS */
    {0xff, 0x0f, 3, false, run_seek},            /* SEEK */
    {0xbf, 0x8f, 3, false, run_relative_seek},   /* RELATIVE SEEK */
    {0xff, 0x10, 1, false, run_version},         /* VERSION */
    {0xff, 0x13, 4, false, run_configure},       /* CONFIGURE */
    {0xff, 0x0e, 1, false, run_dump_registers},  /* DUMPREG */
    {0xff, 0x12, 2, false, run_perpendicular},   /* PERPENDICULAR MODE */
    {0x7f, 0x14, 1, false, run_lock},            /* LOCK, UNLOCK */
    {0x00, 0x00, 1, false, run_invalid},         /* everything else */
};

static const struct i82077_operation *find_operation(uint8_t command)
{
    const struct i82077_operation *o = operations;
    while ((command & o->mask) != o->code)
        o++;
    return o;
}

static void on_command_timer(void *opaque)
{
    struct i82077 *fdc = opaque;
    if (fdc->phase == I82077_EXECUTION && fdc->operation)
        fdc->operation->run(fdc);
}

static void take_command_byte(struct i82077 *fdc, uint8_t value)
{
    if (fdc->command_pos == 0) {
        fdc->operation = find_operation(value);
        fdc->command_length = fdc->operation->length;
    }
    fdc->command[fdc->command_pos++] = value;
    if (fdc->command_pos < fdc->command_length)
        return;
    fdc->command_pos = 0;
    fdc->pos = fdc->end = 0;
    if (!fdc->operation->timed) {
        fdc->operation->run(fdc);
        return;
    }
    fdc->phase = I82077_EXECUTION;
    timer_arm(&fdc->command_timer, clock_now(fdc->command_timer.clock) + COMMAND_DELAY);
}

/* ---- registers ---- */

static uint8_t main_status(const struct i82077 *fdc)
{
    uint8_t value = 0;
    if (!(fdc->dor & DOR_RESET))
        return 0;
    for (unsigned i = 0; i < I82077_SELECTS; i++)
        if (timer_armed(&fdc->drives[i].seek_timer))
            value |= (uint8_t)(1u << i);
    switch (fdc->phase) {
    case I82077_COMMAND:
        return value | MSR_RQM | (fdc->command_pos ? MSR_BUSY : 0);
    case I82077_EXECUTION:
        return value | MSR_BUSY | (i82077_uses_dma(fdc) ? 0 : MSR_NON_DMA);
    case I82077_HOST_READS:
        return value | MSR_RQM | MSR_DIO | MSR_NON_DMA | MSR_BUSY;
    case I82077_HOST_WRITES:
        return value | MSR_RQM | MSR_NON_DMA | MSR_BUSY;
    case I82077_RESULT:
        break;
    }
    return value | MSR_RQM | MSR_DIO | MSR_BUSY;
}

static uint8_t read_fifo(struct i82077 *fdc)
{
    uint8_t value;
    if (!(fdc->dor & DOR_RESET))
        return 0;
    if (fdc->phase == I82077_HOST_READS) {
        value = fdc->buffer[fdc->pos++];
        i82077_update_irq(fdc);
        if (fdc->pos >= fdc->end)
            i82077_data_exhausted(fdc);
        return value;
    }
    if (fdc->phase != I82077_RESULT)
        return 0;
    value = fdc->result[fdc->result_pos++];
    fdc->result_interrupt = false;
    if (fdc->result_pos >= fdc->result_length)
        await_command(fdc);
    i82077_update_irq(fdc);
    return value;
}

static void write_fifo(struct i82077 *fdc, uint8_t value)
{
    if (!(fdc->dor & DOR_RESET))
        return;
    if (fdc->phase == I82077_COMMAND) {
        take_command_byte(fdc, value);
    } else if (fdc->phase == I82077_HOST_WRITES) {
        fdc->buffer[fdc->pos++] = value;
        i82077_update_irq(fdc);
        if (fdc->pos >= fdc->end)
            i82077_data_exhausted(fdc);
    }
}

/* What both kinds of reset do to the command under way. */
static void abandon(struct i82077 *fdc)
{
    block_cancel(&fdc->request);
    timer_cancel(&fdc->command_timer);
    timer_cancel(&fdc->reset_timer);
    for (unsigned i = 0; i < I82077_SELECTS; i++) {
        timer_cancel(&fdc->drives[i].seek_timer);
        fdc->drives[i].interrupt = false;
    }
    fdc->result_interrupt = fdc->sense_interrupt = false;
    fdc->operation = NULL;
    fdc->command_pos = fdc->command_length = 0;
    fdc->result_pos = fdc->result_length = 0;
    fdc->pos = fdc->end = 0;
    fdc->phase = I82077_COMMAND;
}

static void software_reset(struct i82077 *fdc)
{
    abandon(fdc);
    fdc->perpendicular &= 0x3c;
    fdc->configuration &= CONFIGURE_EFIFO | 0x0f;
    if (!fdc->lock) {
        fdc->configuration = CONFIGURE_EFIFO;
        fdc->precompensation_track = 0;
    }
    i82077_update_irq(fdc);
}

/* Polling finds the ready lines of all four drives changed after a reset: an interrupt, to be sensed four times. */
static void on_reset_end(void *opaque)
{
    struct i82077 *fdc = opaque;
    if (fdc->configuration & CONFIGURE_NO_POLL)
        return;
    for (unsigned i = 0; i < I82077_SELECTS; i++) {
        fdc->drives[i].interrupt = true;
        fdc->drives[i].status = (uint8_t)(ST0_POLLING | i);
    }
    fdc->sense_interrupt = true;
    i82077_update_irq(fdc);
}

static void leave_reset(struct i82077 *fdc)
{
    timer_arm(&fdc->reset_timer, clock_now(fdc->reset_timer.clock) + RESET_DELAY);
}

static void write_dor(struct i82077 *fdc, uint8_t value)
{
    uint8_t old = fdc->dor;
    fdc->dor = value;
    if ((old & DOR_RESET) && !(value & DOR_RESET))
        software_reset(fdc);
    else if (!(old & DOR_RESET) && (value & DOR_RESET))
        leave_reset(fdc);
    i82077_update_irq(fdc);
}

uint8_t i82077_read(struct i82077 *fdc, unsigned offset)
{
    const struct i82077_drive *d = &fdc->drives[fdc->dor & 3];
    switch (offset) {
    case PORT_DOR:
        return fdc->dor;
    case PORT_TAPE:
        return fdc->tape;
    case PORT_MAIN_STATUS:
        return main_status(fdc);
    case PORT_FIFO:
        return read_fifo(fdc);
    case PORT_CHANGE: /* DSKCHG; the other seven bits were the fixed disk controller's */
        return d->present && (d->changed || !d->medium) ? 0x80 : 0;
    default: /* status A and B are there in PS/2 mode only */
        return 0xff;
    }
}

void i82077_write(struct i82077 *fdc, unsigned offset, uint8_t value)
{
    switch (offset) {
    case PORT_DOR:
        write_dor(fdc, value);
        break;
    case PORT_TAPE:
        fdc->tape = value & 3;
        break;
    case PORT_MAIN_STATUS: /* DSR */
        fdc->rate = value & 3;
        if ((value & 0x80) && (fdc->dor & DOR_RESET)) {
            software_reset(fdc);
            leave_reset(fdc);
        }
        break;
    case PORT_FIFO:
        write_fifo(fdc, value);
        break;
    case PORT_CHANGE: /* CCR */
        fdc->rate = value & 3;
        break;
    default:
        break;
    }
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    return i82077_read(opaque, (unsigned)offset);
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    i82077_write(opaque, (unsigned)offset, (uint8_t)value);
}

static uint64_t change_read(void *opaque, uint64_t offset, unsigned size)
{
    return i82077_read(opaque, PORT_CHANGE);
}

static void change_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    i82077_write(opaque, PORT_CHANGE, (uint8_t)value);
}

/* ---- life ---- */

int i82077_init(struct i82077 *fdc, struct bus *ports, struct irq_line irq, struct clock *clock, struct i8237 *dma)
{
    memset(fdc, 0, sizeof *fdc);
    fdc->irq = irq;
    fdc->dma = dma;
    timer_init(&fdc->command_timer, clock, on_command_timer, fdc);
    timer_init(&fdc->reset_timer, clock, on_reset_end, fdc);
    for (unsigned i = 0; i < I82077_SELECTS; i++) {
        fdc->drives[i].controller = fdc;
        timer_init(&fdc->drives[i].seek_timer, clock, on_seek_end, &fdc->drives[i]);
    }
    i82077_reset(fdc);
    fdc->ports = (struct bus_range){.name = "floppy",
                                    .base = 0x3f0,
                                    .size = 6,
                                    .max_access = 1,
                                    .read = port_read,
                                    .write = port_write,
                                    .opaque = fdc};
    fdc->change_port = (struct bus_range){.name = "floppy change line",
                                          .base = 0x3f7,
                                          .size = 1,
                                          .max_access = 1,
                                          .read = change_read,
                                          .write = change_write,
                                          .opaque = fdc};
    int error = bus_add(ports, &fdc->ports);
    if (!error)
        error = bus_add(ports, &fdc->change_port);
    if (error)
        bus_remove(ports, &fdc->ports);
    return error;
}

void i82077_reset(struct i82077 *fdc)
{
    fdc->lock = false;
    software_reset(fdc);
    fdc->perpendicular = 0;
    fdc->specify[0] = fdc->specify[1] = 0;
    fdc->last_end_of_track = 0;
    fdc->tape = 0;
    fdc->rate = RATE_250;
    fdc->dor = 0;
    i82077_update_irq(fdc);
}

int i82077_change_medium(struct i82077 *fdc, unsigned n, struct block *medium)
{
    if (n >= I82077_DRIVES || !fdc->drives[n].present)
        return -ENODEV;
    bool busy = fdc->phase == I82077_EXECUTION || fdc->phase == I82077_HOST_READS || fdc->phase == I82077_HOST_WRITES;
    bool waiting = timer_armed(&fdc->command_timer); /* has not looked at the medium yet */
    bool used = busy && !waiting && fdc->drive == n;
    if (used)
        block_cancel(&fdc->request);
    insert(&fdc->drives[n], medium);
    if (used)
        i82077_end_transfer(fdc, ST0_ABNORMAL, ST1_MISSING_ADDRESS, 0);
    return 0;
}

void i82077_destroy(struct i82077 *fdc, struct bus *ports)
{
    abandon(fdc);
    bus_remove(ports, &fdc->ports);
    bus_remove(ports, &fdc->change_port);
}
