/* SPDX-License-Identifier: MIT */
/* A PS/2 keyboard and a PS/2 mouse (plain, IntelliMouse, IntelliMouse Explorer), as the keyboard controller sees them:
 * a device takes command bytes and offers bytes. IBM PS/2 hardware interface technical reference, "Keyboard" and
 * "Mouse"; Microsoft's description of the wheel mouse protocol.
 *
 * Answers to commands come before scan codes and packets that wait. Not done: the shift codes that a keyboard puts
 * around the grey keys while Num Lock or Shift is on (sets 1 and 2), which nothing needs to tell the keys apart.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_PS2_H
#define RINGFOLD_DEVICES_PS2_H

#include "devices/clock.h"
#include "devices/irq.h"

#include <stddef.h>

enum { PS2_KEYBOARD_FIFO = 16, PS2_MOUSE_FIFO = 64, PS2_REPLIES = 8 };

struct ps2_replies {
    uint8_t bytes[PS2_REPLIES];
    unsigned head, count;
};

struct ps2_keyboard {
    uint8_t fifo[PS2_KEYBOARD_FIFO + 1]; /* the last place is for the overrun code */
    unsigned head, count;
    struct ps2_replies replies;
    uint8_t last;     /* for Resend */
    uint8_t pending;  /* command that waits for its argument, or 0 */
    uint8_t scan_set; /* 1-3 */
    uint8_t leds;     /* bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock */
    uint8_t typematic;
    bool enabled;
    bool down[256];        /* by set-1 code, extended keys at 128 and up */
    uint8_t key_type[256]; /* set 3, by its code: 0 typematic, 1 make/break, 2 make only */
    unsigned repeating;    /* key that repeats, or 0 */
    struct timer repeat;
    struct clock *clock;
    struct irq_line data; /* level 1: there is a byte to take */
};

/* data: told whenever the keyboard gets or runs out of bytes. */
void ps2_keyboard_init(struct ps2_keyboard *k, struct clock *clock, struct irq_line data);
/* Power-on. */
void ps2_keyboard_reset(struct ps2_keyboard *k);
/* From the host. key: the set-1 make code, 0xe0xx for an extended key, 0xe1 for Pause. Repeats of a key that is down
 * are ignored: the keyboard repeats by itself. Unknown keys are ignored. */
void ps2_keyboard_key(struct ps2_keyboard *k, unsigned key, bool down);
bool ps2_keyboard_has_data(const struct ps2_keyboard *k);
uint8_t ps2_keyboard_read(struct ps2_keyboard *k); /* the next byte; the last one again when there is none */
void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte);

struct ps2_mouse {
    uint8_t fifo[PS2_MOUSE_FIFO];
    unsigned head, count;
    struct ps2_replies replies;
    uint8_t last, pending;
    uint8_t id;       /* 0, 3 (wheel), 4 (wheel and five buttons) */
    uint8_t knock[3]; /* the last three sample rates set */
    uint8_t rate, resolution;
    bool enabled, remote, wrap, scaling_2_1;
    int dx, dy, dz;                    /* motion not yet reported; y grows upwards, as the protocol has it */
    uint8_t buttons, reported_buttons; /* bit 0 left, 1 right, 2 middle, 3 fourth, 4 fifth */
    struct timer sample;
    uint64_t next_sample;
    struct clock *clock;
    struct irq_line data;
};

void ps2_mouse_init(struct ps2_mouse *m, struct clock *clock, struct irq_line data);
void ps2_mouse_reset(struct ps2_mouse *m);
/* From the host. Motion in mickeys, y grows downwards; dz: wheel clicks, positive away from the user; buttons as in the
 * struct, as they are now. */
void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons);
bool ps2_mouse_has_data(const struct ps2_mouse *m);
uint8_t ps2_mouse_read(struct ps2_mouse *m);
void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte);

/* Scan code tables (ps2_codes.c). key: set-1 code, extended keys with bit 7. 0: no such key. */
extern const uint8_t ps2_set2_to_set1[256]; /* the keyboard controller's translation */
extern const uint8_t ps2_set1_to_set2[128];
uint8_t ps2_set3_code(unsigned key);
uint8_t ps2_set3_type(uint8_t code);

#endif
