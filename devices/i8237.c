/* SPDX-License-Identifier: MIT */
#include "devices/i8237.h"

#include "devices/log.h"

#include <string.h>

enum { COMMAND_MEMORY_TO_MEMORY = 0x01, COMMAND_DISABLE = 0x04 };
enum {
    MODE_TYPE = 0x0c,
    MODE_VERIFY = 0,
    MODE_WRITE = 0x04,
    MODE_READ = 0x08,
    MODE_AUTOINIT = 0x10,
    MODE_DECREMENT = 0x20
};
enum { MODE_CASCADE = 0xc0 };

/* Where each channel's page register is among ports 0x80-0x8f. */
static const uint8_t page_index[8] = {0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa};

static bool is_word(unsigned channel)
{
    return channel & 4;
}

bool i8237_ready(const struct i8237 *dma, unsigned channel)
{
    const struct i8237_chip *c = &dma->chip[channel >> 2 & 1];
    unsigned n = channel & 3;
    return !(c->mask >> n & 1) && !(c->command & COMMAND_DISABLE) &&
           (c->channel[n].mode & MODE_CASCADE) != MODE_CASCADE;
}

void i8237_request(struct i8237 *dma, unsigned channel, bool level)
{
    struct i8237_chip *c = &dma->chip[channel >> 2 & 1];
    uint8_t bit = (uint8_t)(1u << (channel & 3));
    c->request = (uint8_t)(level ? c->request | bit : c->request & ~bit);
}

size_t i8237_left(const struct i8237 *dma, unsigned channel)
{
    const struct i8237_channel *c = &dma->chip[channel >> 2 & 1].channel[channel & 3];
    return ((size_t)c->count + 1) << (is_word(channel) ? 1 : 0);
}

/* Word channels drive address lines 16-1 and take seven bits of the page. The counter never carries into the page. */
static gpa_t physical(const struct i8237 *dma, unsigned channel, uint16_t address)
{
    uint64_t page = dma->page[page_index[channel & 7]];
    if (is_word(channel))
        return gpa((page & 0xfe) << 16 | (uint64_t)address << 1);
    return gpa(page << 16 | address);
}

/* Moves `units` bytes or words that lie in one piece of memory: at most up to the wrap of the address. */
static void move_piece(struct i8237 *dma, unsigned channel, uint8_t *buf, size_t units, bool to_memory)
{
    const struct i8237_channel *c = &dma->chip[channel >> 2 & 1].channel[channel & 3];
    unsigned unit = is_word(channel) ? 2 : 1;
    unsigned type = c->mode & MODE_TYPE;
    if (type != (to_memory ? MODE_WRITE : MODE_READ)) {
        if (!to_memory)
            memset(buf, 0xff, units * unit);
        return;
    }
    if (!(c->mode & MODE_DECREMENT)) {
        gpa_t addr = physical(dma, channel, c->address);
        if (to_memory)
            memory_write(dma->memory, addr, buf, units * unit);
        else
            memory_read(dma->memory, addr, buf, units * unit);
        return;
    }
    for (size_t i = 0; i < units; i++) {
        gpa_t addr = physical(dma, channel, (uint16_t)(c->address - i));
        if (to_memory)
            memory_write(dma->memory, addr, buf + i * unit, unit);
        else
            memory_read(dma->memory, addr, buf + i * unit, unit);
    }
}

/* The count went from 0 to 0xffff. */
static void reach_terminal_count(struct i8237_chip *chip, unsigned n)
{
    struct i8237_channel *c = &chip->channel[n];
    uint8_t bit = (uint8_t)(1u << n);
    chip->terminal_count |= bit;
    chip->software_request &= (uint8_t)~bit;
    if (c->mode & MODE_AUTOINIT) {
        c->address = c->base_address;
        c->count = c->base_count;
    } else {
        chip->mask |= bit;
    }
}

static size_t transfer(struct i8237 *dma, unsigned channel, uint8_t *buf, size_t len, bool to_memory,
                       bool *terminal_count)
{
    struct i8237_chip *chip = &dma->chip[channel >> 2 & 1];
    struct i8237_channel *c = &chip->channel[channel & 3];
    unsigned unit = is_word(channel) ? 2 : 1;
    size_t units = len / unit, done = 0;
    *terminal_count = false;
    if (!i8237_ready(dma, channel))
        return 0;
    while (done < units) {
        bool down = c->mode & MODE_DECREMENT;
        size_t piece = down ? (size_t)c->address + 1 : 0x10000 - (size_t)c->address;
        if (piece > units - done)
            piece = units - done;
        bool last = piece >= (size_t)c->count + 1;
        if (last)
            piece = (size_t)c->count + 1;
        move_piece(dma, channel, buf + done * unit, piece, to_memory);
        c->address = (uint16_t)(down ? c->address - piece : c->address + piece);
        c->count = (uint16_t)(c->count - piece);
        done += piece;
        if (last) {
            reach_terminal_count(chip, channel & 3);
            *terminal_count = true;
            break;
        }
    }
    return done * unit;
}

size_t i8237_write(struct i8237 *dma, unsigned channel, const void *buf, size_t len, bool *terminal_count)
{
    /* Only read from when the direction is to memory. */
    return transfer(dma, channel & 7, (uint8_t *)(uintptr_t)buf, len, true, terminal_count);
}

size_t i8237_read(struct i8237 *dma, unsigned channel, void *buf, size_t len, bool *terminal_count)
{
    return transfer(dma, channel & 7, buf, len, false, terminal_count);
}

static void master_clear(struct i8237_chip *c)
{
    c->command = c->terminal_count = c->software_request = 0;
    c->high_byte = false;
    c->mask = 0x0f;
}

static void write_address_or_count(struct i8237_chip *c, unsigned reg, uint8_t value)
{
    struct i8237_channel *ch = &c->channel[reg >> 1];
    uint16_t *base = reg & 1 ? &ch->base_count : &ch->base_address;
    uint16_t *current = reg & 1 ? &ch->count : &ch->address;
    *base = (uint16_t)(c->high_byte ? (*base & 0x00ff) | value << 8 : (*base & 0xff00) | value);
    *current = *base;
    c->high_byte = !c->high_byte;
}

static uint8_t read_address_or_count(struct i8237_chip *c, unsigned reg)
{
    const struct i8237_channel *ch = &c->channel[reg >> 1];
    uint16_t v = reg & 1 ? ch->count : ch->address;
    bool high = c->high_byte;
    c->high_byte = !high;
    return (uint8_t)(high ? v >> 8 : v);
}

static void write_chip(struct i8237_chip *c, unsigned reg, uint8_t value)
{
    uint8_t bit = (uint8_t)(1u << (value & 3));
    switch (reg) {
    case 0x8:
        c->command = value;
        if (value & COMMAND_MEMORY_TO_MEMORY)
            log_msg(LOG_STUB, "8237: memory-to-memory transfer asked for");
        break;
    case 0x9:
        c->software_request = (uint8_t)(value & 4 ? c->software_request | bit : c->software_request & ~bit);
        break;
    case 0xa:
        c->mask = (uint8_t)(value & 4 ? c->mask | bit : c->mask & ~bit);
        break;
    case 0xb:
        c->channel[value & 3].mode = value & 0xfc;
        break;
    case 0xc:
        c->high_byte = false;
        break;
    case 0xd:
        master_clear(c);
        break;
    case 0xe:
        c->mask = 0;
        break;
    case 0xf:
        c->mask = value & 0x0f;
        break;
    default:
        write_address_or_count(c, reg, value);
        break;
    }
}

static uint8_t read_chip(struct i8237_chip *c, unsigned reg)
{
    uint8_t value = 0;
    switch (reg) {
    case 0x8:
        value = (uint8_t)((c->request | c->software_request) << 4 | c->terminal_count);
        c->terminal_count = 0;
        return value;
    case 0xf:
        return 0xf0 | c->mask;
    case 0xd:
        return 0; /* temporary register: only memory-to-memory fills it */
    default:
        return reg < 8 ? read_address_or_count(c, reg) : 0xff;
    }
}

static uint64_t byte_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8237 *dma = opaque;
    return read_chip(&dma->chip[0], offset & 15);
}

static void byte_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8237 *dma = opaque;
    write_chip(&dma->chip[0], offset & 15, (uint8_t)value);
}

/* The second controller is wired one address line up: every register shows at two ports. */
static uint64_t word_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8237 *dma = opaque;
    return read_chip(&dma->chip[1], offset >> 1 & 15);
}

static void word_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8237 *dma = opaque;
    write_chip(&dma->chip[1], offset >> 1 & 15, (uint8_t)value);
}

static uint64_t page_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8237 *dma = opaque;
    return dma->page[offset & 15];
}

static void page_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8237 *dma = opaque;
    dma->page[offset & 15] = (uint8_t)value;
    if (offset == 0)
        log_msg(LOG_FIRMWARE, "POST code %02x", (unsigned)value & 0xff);
}

void i8237_reset(struct i8237 *dma)
{
    for (int i = 0; i < 2; i++) {
        memset(dma->chip[i].channel, 0, sizeof dma->chip[i].channel);
        master_clear(&dma->chip[i]);
    }
    memset(dma->page, 0, sizeof dma->page);
}

int i8237_init(struct i8237 *dma, struct bus *ports, struct memory *memory)
{
    memset(dma, 0, sizeof *dma);
    dma->memory = memory;
    dma->ports[0] = (struct bus_range){"8237 bytes", 0x00, 16, 1, 1, byte_read, byte_write, dma, false};
    dma->ports[1] = (struct bus_range){"8237 words", 0xc0, 32, 1, 1, word_read, word_write, dma, false};
    dma->page_ports = (struct bus_range){"DMA pages", 0x80, 16, 1, 1, page_read, page_write, dma, false};
    i8237_reset(dma);
    int err = bus_add(ports, &dma->ports[0]);
    if (!err)
        err = bus_add(ports, &dma->ports[1]);
    if (!err)
        err = bus_add(ports, &dma->page_ports);
    return err;
}
