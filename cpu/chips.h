/* SPDX-License-Identifier: MIT */
/* Interrupt controllers and timer that an engine can run in the board's place, because a processor's virtualisation (or
 * the host's kernel) has its own: the 8259A pair, the 82093AA, the vCPU's local APIC, and the 8254 with port 61h.
 *
 * Like the processor's state, theirs is with the engine only while engine.run is being executed. Entering, the engine
 * calls cpu_board.chips_hold with its struct chip_holder: the board says what state the chips are in, and from then on
 * passes the levels of their pins on. Before run returns, chips_release takes the state back. So stopping, resetting,
 * looking at a machine and changing its engine know nothing of it.
 *
 * Times are relative to the call, in ticks of the chip: machine and engine need no common clock. Only a board with
 * APICs hands its chips over. */
#ifndef RINGFOLD_CPU_CHIPS_H
#define RINGFOLD_CPU_CHIPS_H

#include <stdbool.h>
#include <stdint.h>

enum { CHIPS_IOAPIC_PINS = 24, CHIPS_LAPIC_REGISTERS = 64, CHIPS_PIC_PINS = 16 };
enum { CHIPS_PIT_PIC_PIN = 0, CHIPS_PIT_IOAPIC_PIN = 2 }; /* where OUT0 of the 8254 goes */
#define CHIPS_PIT_HZ 1193182ull

/* One 8259A (data sheet 231468). The slave's INT is not in the master's irr and lines. */
struct chips_pic {
    uint8_t irr, isr, imr;
    uint8_t lines;        /* levels of the input pins */
    uint8_t elcr;         /* 1: level triggered */
    uint8_t vector_base;  /* ICW2, bits 7-3 */
    uint8_t lowest;       /* the pin with the lowest priority */
    uint8_t icw_expected; /* 0: operating; 2, 3, 4: the next write to the odd port is that ICW */
    bool icw4_needed;
    bool auto_eoi, rotate_on_auto_eoi, special_fully_nested, special_mask;
    bool poll, read_isr;
};

/* 82093AA (data sheet 290566). */
struct chips_ioapic {
    uint8_t index, id;
    uint32_t lines; /* asserted or not, whatever the polarity; without pin 0, the 8259s' INTR */
    uint64_t redirection[CHIPS_IOAPIC_PINS];
};

/* SDM vol. 3, chapter 10. */
struct chips_lapic {
    uint64_t base;                             /* IA32_APIC_BASE */
    uint32_t registers[CHIPS_LAPIC_REGISTERS]; /* by offset in the page / 16; the current count is that of now */
    uint64_t tsc_deadline;                     /* in the guest's TSC, 0: not armed */
};

struct chips_counter {
    uint8_t mode;   /* 0-5 */
    uint8_t access; /* 1 low byte, 2 high byte, 3 low then high */
    bool bcd, gate;
    bool write_high, read_high; /* the next byte of a two-byte access is the high one */
    uint8_t write_low;
    bool count_latched, status_latched;
    uint16_t latched_count;
    uint8_t latched_status;
    uint32_t count;  /* as the guest wrote it last, 1..65536 */
    bool programmed; /* a count was written since the control word */
    bool running;    /* false: no count, waiting for the gate, or half a count; nothing below is valid */
    uint32_t loaded; /* the period, or where the count began */
    uint32_t left;   /* ticks until the period or the count ends; 0 (not in modes 2 and 3): it has ended */
    uint64_t past;   /* ticks since then */
};

/* Intel 8254 (data sheet 231164). */
struct chips_pit {
    struct chips_counter counter[3];
    uint8_t port61;  /* bits 1-0: speaker, gate 2 */
    unsigned missed; /* periods of counter 0 whose interrupts are still to be made up for, because the host was late */
};

struct chips {
    struct chips_pic pic[2]; /* master, slave */
    struct chips_ioapic ioapic;
    struct chips_lapic lapic;
    struct chips_pit pit; /* if chip_holder.pit */
};

/* The engine's side. All are called under the board's lock; pins in any thread, load and store in the vCPU's. */
struct chip_holder {
    bool pit; /* the 8254 is taken as well */
    /* The chips are in this state, and run. 0 or -errno: then the board keeps them. */
    int (*load)(void *opaque, const struct chips *chips);
    /* In: as handed to load. Out: as they are now; lines are not looked at. Afterwards they do nothing any more. 0 or
     * -errno: the board gets what is in *chips. */
    int (*store)(void *opaque, struct chips *chips);
    /* A pin's level changed. The 8254's, if that is taken, and the slave's never do. */
    void (*pic_pin)(void *opaque, unsigned pin, int level);
    void (*ioapic_pin)(void *opaque, unsigned pin, int level);
    /* Is pin 0-15 requesting, and not masked? */
    bool (*pic_waiting)(void *opaque, unsigned pin);
    void *opaque;
};

#endif
