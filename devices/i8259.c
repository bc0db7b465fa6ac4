/* SPDX-License-Identifier: MIT */
#include "devices/i8259.h"

#include "devices/log.h"

#include <string.h>

enum { MASTER, SLAVE, CASCADE_PIN = 2, NO_PIN = -1 };

/* 0 is the highest priority. */
static unsigned priority(const struct i8259_chip *c, unsigned pin)
{
    return (pin - c->lowest - 1) & 7;
}

static int highest(const struct i8259_chip *c, uint8_t pins)
{
    for (unsigned p = 0; p < 8; p++) {
        unsigned pin = (c->lowest + 1 + p) & 7;
        if (pins >> pin & 1)
            return (int)pin;
    }
    return NO_PIN;
}

/* The pin whose request the chip would put through now, or NO_PIN: unmasked, and above what is in service. */
static int request(const struct i8259_chip *c, bool is_master)
{
    uint8_t in_service = c->special_mask ? c->isr & ~c->imr : c->isr;
    int pin = highest(c, c->irr & ~c->imr);
    int serving = highest(c, in_service);
    if (pin == NO_PIN || serving == NO_PIN)
        return pin;
    unsigned p = priority(c, (unsigned)pin), s = priority(c, (unsigned)serving);
    /* Special fully nested: the slave may interrupt itself with one of its higher pins. */
    if (p == s && is_master && c->special_fully_nested && pin == CASCADE_PIN)
        return pin;
    return p < s ? pin : NO_PIN;
}

static void set_pin(struct i8259_chip *c, unsigned pin, bool level)
{
    uint8_t bit = (uint8_t)(1u << pin);
    bool was = c->lines & bit;
    c->lines = (uint8_t)(level ? c->lines | bit : c->lines & ~bit);
    if (!level)
        c->irr &= (uint8_t)~bit;
    else if (!was || (c->elcr & bit))
        c->irr |= bit;
}

static void update(struct i8259 *pic)
{
    set_pin(&pic->chip[MASTER], CASCADE_PIN, request(&pic->chip[SLAVE], false) != NO_PIN);
    int level = request(&pic->chip[MASTER], true) != NO_PIN;
    if (level != pic->intr_level) {
        pic->intr_level = level;
        irq_set(&pic->intr, level);
    }
}

static void held_pin(struct i8259 *pic, unsigned pin, bool level)
{
    struct i8259_chip *c = &pic->chip[pin >> 3];
    uint8_t bit = (uint8_t)(1u << (pin & 7));
    if (level == !!(c->lines & bit))
        return;
    c->lines ^= bit;
    if (pic->held_pins.set)
        pic->held_pins.set(pic->held_pins.opaque, (int)pin, level);
}

static void on_pin(void *opaque, int n, int level)
{
    struct i8259 *pic = opaque;
    if (n == CASCADE_PIN)
        return;
    if (pic->held) {
        held_pin(pic, (unsigned)n & 15, level != 0);
        return;
    }
    set_pin(&pic->chip[n >> 3 & 1], (unsigned)n & 7, level != 0);
    update(pic);
}

struct irq_line i8259_input(struct i8259 *pic, unsigned pin)
{
    return (struct irq_line){.set = on_pin, .opaque = pic, .n = (int)(pin & 15)};
}

bool i8259_waiting(const struct i8259 *pic, unsigned pin)
{
    const struct i8259_chip *c = &pic->chip[pin >> 3 & 1];
    bool cascade_masked = pin >= 8 && (pic->chip[MASTER].imr >> CASCADE_PIN & 1);
    return !cascade_masked && (c->irr & ~c->imr) >> (pin & 7) & 1;
}

bool i8259_pending(const struct i8259 *pic)
{
    return pic->intr_level != 0;
}

static void acknowledge_pin(struct i8259_chip *c, unsigned pin)
{
    uint8_t bit = (uint8_t)(1u << pin);
    if (!(c->elcr & bit))
        c->irr &= (uint8_t)~bit;
    if (!c->auto_eoi)
        c->isr |= bit;
    else if (c->rotate_on_auto_eoi)
        c->lowest = (uint8_t)pin;
}

int i8259_acknowledge(struct i8259 *pic)
{
    struct i8259_chip *master = &pic->chip[MASTER], *slave = &pic->chip[SLAVE];
    int pin = request(master, true);
    int vector = master->vector_base | 7;
    if (pin != NO_PIN) {
        acknowledge_pin(master, (unsigned)pin);
        vector = master->vector_base | pin;
    }
    if (pin == CASCADE_PIN && !master->single) {
        pin = request(slave, false);
        vector = slave->vector_base | 7;
        if (pin != NO_PIN) {
            acknowledge_pin(slave, (unsigned)pin);
            vector = slave->vector_base | pin;
        }
        /* The slave's INT falls with the first INTA pulse; a further request of it is a new edge. */
        set_pin(master, CASCADE_PIN, false);
    }
    update(pic);
    return vector;
}

/* ICW1 clears the edge sense circuit: what is latched is gone, level pins still show. */
static void write_icw1(struct i8259_chip *c, uint8_t value)
{
    c->irr = c->lines & c->elcr;
    c->isr = c->imr = 0;
    c->lowest = 7;
    c->special_mask = c->poll = c->read_isr = c->rotate_on_auto_eoi = false;
    c->auto_eoi = c->special_fully_nested = false;
    c->icw4_needed = value & 1;
    c->single = value & 2;
    c->icw_expected = 2;
}

static void write_icw_or_mask(struct i8259_chip *c, uint8_t value)
{
    switch (c->icw_expected) {
    case 2:
        c->vector_base = value & 0xf8;
        c->icw_expected = !c->single ? 3 : c->icw4_needed ? 4 : 0;
        break;
    case 3:
        c->icw_expected = c->icw4_needed ? 4 : 0;
        break;
    case 4:
        c->special_fully_nested = value & 0x10;
        c->auto_eoi = value & 0x02;
        if (!(value & 1))
            log_msg(LOG_GUEST_ERROR, "8259: 8080 mode asked for by ICW4 0x%02x", value);
        c->icw_expected = 0;
        break;
    default:
        c->imr = value;
        break;
    }
}

static void end_of_interrupt(struct i8259_chip *c, int pin, bool rotate)
{
    if (pin == NO_PIN)
        return;
    c->isr &= (uint8_t) ~(1u << pin);
    if (rotate)
        c->lowest = (uint8_t)pin;
}

static void write_ocw2(struct i8259_chip *c, uint8_t value)
{
    int level = value & 7;
    /* A masked pin in service is left alone by the non-specific EOI in special mask mode. */
    int serving = highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
    switch (value >> 5) {
    case 0:
    case 4:
        c->rotate_on_auto_eoi = value & 0x80;
        break;
    case 1:
    case 5:
        end_of_interrupt(c, serving, value & 0x80);
        break;
    case 3:
    case 7:
        end_of_interrupt(c, level, value & 0x80);
        break;
    case 6:
        c->lowest = (uint8_t)level;
        break;
    }
}

static void write_ocw3(struct i8259_chip *c, uint8_t value)
{
    if (value & 0x40)
        c->special_mask = value & 0x20;
    c->poll = value & 0x04;
    if (!c->poll && (value & 0x02))
        c->read_isr = value & 0x01;
}

static void port_write(struct i8259 *pic, struct i8259_chip *c, uint64_t offset, uint8_t value)
{
    if (offset)
        write_icw_or_mask(c, value);
    else if (value & 0x10)
        write_icw1(c, value);
    else if (value & 0x08)
        write_ocw3(c, value);
    else
        write_ocw2(c, value);
    update(pic);
}

/* The read after a poll command is an acknowledge. */
static uint8_t poll_read(struct i8259 *pic, struct i8259_chip *c)
{
    c->poll = false;
    int pin = request(c, c == &pic->chip[MASTER]);
    if (pin == NO_PIN)
        return 7;
    acknowledge_pin(c, (unsigned)pin);
    if (c == &pic->chip[SLAVE])
        set_pin(&pic->chip[MASTER], CASCADE_PIN, false); /* a further request of the slave is a new edge */
    update(pic);
    return (uint8_t)(0x80 | pin);
}

static uint8_t port_read(struct i8259 *pic, struct i8259_chip *c, uint64_t offset)
{
    if (c->poll)
        return poll_read(pic, c);
    if (offset)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static uint64_t master_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8259 *pic = opaque;
    return port_read(pic, &pic->chip[MASTER], offset);
}

static void master_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8259 *pic = opaque;
    port_write(pic, &pic->chip[MASTER], offset, (uint8_t)value);
}

static uint64_t slave_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8259 *pic = opaque;
    return port_read(pic, &pic->chip[SLAVE], offset);
}

static void slave_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8259 *pic = opaque;
    port_write(pic, &pic->chip[SLAVE], offset, (uint8_t)value);
}

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8259 *pic = opaque;
    return pic->chip[offset & 1].elcr;
}

static void elcr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8259 *pic = opaque;
    struct i8259_chip *c = &pic->chip[offset & 1];
    uint8_t before = c->elcr;
    c->elcr = (uint8_t)value & c->elcr_mask;
    uint8_t changed = before ^ c->elcr;
    c->irr = (uint8_t)((c->irr & ~changed) | (c->lines & c->elcr));
    update(pic);
}

/* ---- hand-over ---- */

void i8259_give(struct i8259 *pic, struct chips_pic chips[2])
{
    pic->chip[MASTER].lines &= (uint8_t) ~(1u << CASCADE_PIN);
    pic->chip[MASTER].irr &= (uint8_t) ~(1u << CASCADE_PIN);
    for (unsigned i = 0; i < 2; i++) {
        const struct i8259_chip *c = &pic->chip[i];
        chips[i] = (struct chips_pic){.irr = c->irr,
                                      .isr = c->isr,
                                      .imr = c->imr,
                                      .lines = c->lines,
                                      .elcr = c->elcr,
                                      .vector_base = c->vector_base,
                                      .lowest = c->lowest,
                                      .icw_expected = c->icw_expected,
                                      .icw4_needed = c->icw4_needed,
                                      .auto_eoi = c->auto_eoi,
                                      .rotate_on_auto_eoi = c->rotate_on_auto_eoi,
                                      .special_fully_nested = c->special_fully_nested,
                                      .special_mask = c->special_mask,
                                      .poll = c->poll,
                                      .read_isr = c->read_isr};
    }
    pic->intr_level = 0;
    pic->held_pins = (struct irq_line){0};
    pic->held = true;
}

void i8259_forward(struct i8259 *pic, struct irq_line pins)
{
    pic->held_pins = pins;
}

void i8259_take(struct i8259 *pic, const struct chips_pic chips[2])
{
    for (unsigned i = 0; i < 2; i++) {
        struct i8259_chip *c = &pic->chip[i];
        const struct chips_pic *from = &chips[i];
        c->elcr = from->elcr & c->elcr_mask;
        /* Level pins show what they are; a latched edge stays, even if the pin has fallen meanwhile. */
        c->irr = (uint8_t)((from->irr & ~c->elcr) | (c->lines & c->elcr));
        c->isr = from->isr;
        c->imr = from->imr;
        c->vector_base = from->vector_base & 0xf8;
        c->lowest = from->lowest & 7;
        c->icw_expected = from->icw_expected;
        c->icw4_needed = from->icw4_needed;
        c->auto_eoi = from->auto_eoi;
        c->rotate_on_auto_eoi = from->rotate_on_auto_eoi;
        c->special_fully_nested = from->special_fully_nested;
        c->special_mask = from->special_mask;
        c->poll = from->poll;
        c->read_isr = from->read_isr;
    }
    pic->chip[MASTER].irr &= (uint8_t) ~(1u << CASCADE_PIN);
    pic->held = false;
    pic->held_pins = (struct irq_line){0};
    update(pic);
}

void i8259_reset(struct i8259 *pic)
{
    for (int i = 0; i < 2; i++) {
        struct i8259_chip *c = &pic->chip[i];
        uint8_t lines = c->lines;
        *c = (struct i8259_chip){.lines = lines, .lowest = 7, .elcr_mask = i == MASTER ? 0xf8 : 0xde};
    }
    /* The slave requests nothing now, so its INT is low. */
    pic->chip[MASTER].lines &= (uint8_t) ~(1u << CASCADE_PIN);
    update(pic);
}

int i8259_init(struct i8259 *pic, struct bus *ports, struct irq_line intr)
{
    memset(pic, 0, sizeof *pic);
    pic->intr = intr;
    pic->ports[MASTER] = (struct bus_range){"8259 master", 0x20, 2, 1, 1, master_read, master_write, pic, false};
    pic->ports[SLAVE] = (struct bus_range){"8259 slave", 0xa0, 2, 1, 1, slave_read, slave_write, pic, false};
    pic->elcr_ports = (struct bus_range){"8259 ELCR", 0x4d0, 2, 1, 1, elcr_read, elcr_write, pic, false};
    i8259_reset(pic);
    int err = bus_add(ports, &pic->ports[MASTER]);
    if (!err)
        err = bus_add(ports, &pic->ports[SLAVE]);
    if (!err)
        err = bus_add(ports, &pic->elcr_ports);
    return err;
}
