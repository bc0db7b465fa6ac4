/* SPDX-License-Identifier: MIT */
/* The pair of 8259A interrupt controllers of a PC, as the PIIX4 contains them: master at ports 0x20-0x21, slave at
 * 0xa0-0xa1 on the master's pin 2, edge/level control registers (ELCR) at 0x4d0-0x4d1.
 * Intel 8259A data sheet (order 231468); 82371AB (PIIX4) data sheet, section "Interrupt controller registers".
 *
 * As in the PIIX4, ICW1.LTIM and ICW3 have no effect: the ELCR chooses edge or level pin by pin and the slave is on
 * pin 2. A request that falls before it is acknowledged is gone (the acknowledge then gives the spurious vector 7), in
 * edge mode as well, as the data sheet has it; so a device has to hold its line until it is serviced.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_I8259_H
#define RINGFOLD_DEVICES_I8259_H

#include "cpu/chips.h"
#include "devices/bus.h"
#include "devices/irq.h"

struct i8259_chip {
    uint8_t irr, isr, imr;
    uint8_t lines; /* levels of the input pins */
    uint8_t elcr;  /* 1: level triggered */
    uint8_t elcr_mask;
    uint8_t vector_base;  /* ICW2, bits 7-3 */
    uint8_t icw_expected; /* 0: operating; 2, 3, 4: the next write to the odd port is that ICW */
    bool icw4_needed, single;
    bool auto_eoi, rotate_on_auto_eoi, special_fully_nested, special_mask;
    bool poll, read_isr;
    uint8_t lowest; /* the pin with the lowest priority */
};

struct i8259 {
    struct i8259_chip chip[2]; /* master, slave */
    struct irq_line intr;
    int intr_level;
    bool held; /* somebody else does the work: pins only go to held_pins, n: the pin */
    struct irq_line held_pins;
    struct bus_range ports[2], elcr_ports;
};

/* intr: the INTR line to the processor (or to LINT0). 0 or -errno. */
int i8259_init(struct i8259 *pic, struct bus *ports, struct irq_line intr);
void i8259_reset(struct i8259 *pic);
/* The line that drives pin 0-15 (pin 2 is the cascade and goes nowhere). A pin has one driver: sharing is up to the
 * board. */
struct irq_line i8259_input(struct i8259 *pic, unsigned pin);
/* The processor's interrupt acknowledge cycle: the vector. Without a request it is the spurious one of pin 7 (or 15).
 */
int i8259_acknowledge(struct i8259 *pic);
/* Is pin 0-15 requesting, and would the processor see it sooner or later as the masks are now? */
bool i8259_waiting(const struct i8259 *pic, unsigned pin);
/* Hand-over of the chips' work (cpu/chips.h). give: the state, without the slave's INT; INTR is low from now on, though
 * nobody is told. forward: where the pins' levels go; until then they are only remembered. take: to work again from
 * that state, with the pins as they are; INTR is told if it is high. */
void i8259_give(struct i8259 *pic, struct chips_pic chips[2]);
void i8259_forward(struct i8259 *pic, struct irq_line pins);
void i8259_take(struct i8259 *pic, const struct chips_pic chips[2]);
/* The level of INTR. */
bool i8259_pending(const struct i8259 *pic);

#endif
