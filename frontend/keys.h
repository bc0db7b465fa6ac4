/* SPDX-License-Identifier: MIT */
/* Key names of QMP (QKeyCode) and the keys of a US keyboard, as PS/2 set-1 make codes (see machine_key), and a typist
 * who presses them at a pace that guests can follow. */
#ifndef RINGFOLD_FRONTEND_KEYS_H
#define RINGFOLD_FRONTEND_KEYS_H

#include "devices/clock.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code of a key name ("ret", "ctrl_r", "kp_5"), 0 when there is no such key. */
unsigned key_by_name(const char *name, size_t len);
/* The code from QMP's "number" form: bit 7 set means extended. */
unsigned key_by_number(unsigned number);
/* The key that types c (ASCII), and whether with Shift; 0 when none does. */
unsigned key_by_char(unsigned char c, bool *shift);

/* The text with its escapes resolved: \n or \r Enter, \t Tab, \b Backspace, \e Escape, \\ backslash, \xHH a character
 * by its code; any other backslash stands for itself. Real control characters mean the same. Returns a string to free
 * whose every character key_by_char knows, or NULL with the reason in err. */
char *keys_unescape(const char *text, char *err, size_t err_len);

enum {
    KEYS_HOLD_NS = 20000000,    /* how long the typist holds a key */
    KEYS_GAP_NS = 20000000,     /* from a release to the next press: 25 characters a second */
    KEYS_MODIFIER_NS = 5000000, /* between Shift and the key, and between keys of one chord */
    KEYS_PENDING_MAX = 1 << 20  /* events */
};

struct typist;

/* press is called under the machine lock from the clock's timer. */
struct typist *typist_create(struct clock *clock, void (*press)(void *opaque, unsigned key, bool down), void *opaque);
void typist_destroy(struct typist *t); /* releases what is held, drops the rest without calling done */
/* Adds the text (from keys_unescape). done is called when its last key was released, or at once with cancelled true
 * when typist_cancel drops it. -ENOMEM: too much is pending. */
int typist_type(struct typist *t, const char *text, void (*done)(void *opaque, bool cancelled), void *opaque);
/* Presses the keys in order, holds, releases in reverse order. */
int typist_chord(struct typist *t, const unsigned *keys, size_t count, uint64_t hold_ns);
/* Drops everything that waits; keys that are down are released. */
void typist_cancel(struct typist *t);
/* Forgets the callbacks of one client that has gone; its text is still typed. */
void typist_forget(struct typist *t, void *opaque);

#endif
