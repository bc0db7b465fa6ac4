/* SPDX-License-Identifier: MIT */
#include "devices/ps2.h"

#include <string.h>

enum {
    SET_LEDS = 0xed,
    ECHO = 0xee,
    SELECT_SET = 0xf0,
    IDENTIFY = 0xf2,
    SET_TYPEMATIC = 0xf3,
    ENABLE = 0xf4,
    DISABLE = 0xf5,
    SET_DEFAULT = 0xf6,
    ALL_TYPEMATIC = 0xf7,
    ALL_TYPEMATIC_MAKE_BREAK = 0xfa,
    KEY_TYPEMATIC = 0xfb,
    KEY_MAKE_BREAK = 0xfc,
    KEY_MAKE_ONLY = 0xfd,
    RESEND = 0xfe,
    RESET = 0xff
};
enum { ACK = 0xfa, BAT_OK = 0xaa, BREAK_PREFIX = 0xf0 };
enum { TYPE_TYPEMATIC, TYPE_MAKE_BREAK, TYPE_MAKE_ONLY };
enum { KEY_CTRL = 0x1d, KEY_SHIFT_LEFT = 0x2a, KEY_SHIFT_RIGHT = 0x36, KEY_ALT = 0x38, EXTENDED = 0x80 };
enum { KEY_PRINT_SCREEN = EXTENDED | 0x37, KEY_BREAK = EXTENDED | 0x46, KEY_PAUSE = 0x61, KEY_SYSRQ = 0x54 };
enum { DEFAULT_TYPEMATIC = 0x2b }; /* 500 ms, then 10.9 a second */

static void tell(struct ps2_keyboard *k)
{
    irq_set(&k->data, ps2_keyboard_has_data(k));
}

bool ps2_keyboard_has_data(const struct ps2_keyboard *k)
{
    return k->replies.count || k->count;
}

static void reply(struct ps2_keyboard *k, uint8_t byte)
{
    struct ps2_replies *r = &k->replies;
    if (r->count < PS2_REPLIES)
        r->bytes[(r->head + r->count++) % PS2_REPLIES] = byte;
}

static void clear_fifo(struct ps2_keyboard *k)
{
    k->head = k->count = 0;
}

/* A key's bytes go in together or not at all; the place behind the sixteenth holds the overrun code. */
static void enqueue(struct ps2_keyboard *k, const uint8_t *bytes, unsigned len)
{
    enum { PLACES = PS2_KEYBOARD_FIFO + 1 };
    if (k->count > PS2_KEYBOARD_FIFO)
        return;
    if (k->count + len > PS2_KEYBOARD_FIFO) {
        k->fifo[(k->head + k->count++) % PLACES] = k->scan_set == 1 ? 0xff : 0x00;
        return;
    }
    for (unsigned i = 0; i < len; i++)
        k->fifo[(k->head + k->count++) % PLACES] = bytes[i];
}

uint8_t ps2_keyboard_read(struct ps2_keyboard *k)
{
    if (k->replies.count) {
        k->last = k->replies.bytes[k->replies.head];
        k->replies.head = (k->replies.head + 1) % PS2_REPLIES;
        k->replies.count--;
    } else if (k->count) {
        k->last = k->fifo[k->head];
        k->head = (k->head + 1) % (PS2_KEYBOARD_FIFO + 1);
        k->count--;
    }
    tell(k);
    return k->last;
}

static bool modifier_down(const struct ps2_keyboard *k, unsigned key)
{
    return k->down[key] || k->down[EXTENDED | key];
}

/* One code of sets 1 and 2, with its prefixes. */
static void enqueue_code(struct ps2_keyboard *k, unsigned key, bool down)
{
    uint8_t bytes[3];
    unsigned n = 0;
    if (key & EXTENDED)
        bytes[n++] = 0xe0;
    if (k->scan_set == 1) {
        bytes[n++] = (uint8_t)((key & 0x7f) | (down ? 0 : 0x80));
    } else {
        if (!down)
            bytes[n++] = BREAK_PREFIX;
        bytes[n++] = ps2_set1_to_set2[key & 0x7f];
    }
    enqueue(k, bytes, n);
}

/* Pause has no break code; with Ctrl it is Break. */
static void enqueue_pause(struct ps2_keyboard *k, bool down)
{
    static const uint8_t set1[] = {0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5};
    static const uint8_t set2[] = {0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77};
    if (!down)
        return;
    if (modifier_down(k, KEY_CTRL)) {
        enqueue_code(k, KEY_BREAK, true);
        enqueue_code(k, KEY_BREAK, false);
    } else if (k->scan_set == 1) {
        enqueue(k, set1, sizeof set1);
    } else {
        enqueue(k, set2, sizeof set2);
    }
}

/* Print Screen comes wrapped in a shift, unless a Shift or Ctrl is down; with Alt it is SysRq. */
static void enqueue_print_screen(struct ps2_keyboard *k, bool down)
{
    bool wrapped = !modifier_down(k, KEY_CTRL) && !k->down[KEY_SHIFT_LEFT] && !k->down[KEY_SHIFT_RIGHT];
    if (modifier_down(k, KEY_ALT)) {
        enqueue_code(k, KEY_SYSRQ, down);
        return;
    }
    if (wrapped && down)
        enqueue_code(k, EXTENDED | KEY_SHIFT_LEFT, true);
    enqueue_code(k, KEY_PRINT_SCREEN, down);
    if (wrapped && !down)
        enqueue_code(k, EXTENDED | KEY_SHIFT_LEFT, false);
}

static uint8_t set3_code(unsigned key)
{
    return key == KEY_PAUSE ? ps2_set3_code(KEY_BREAK) : ps2_set3_code(key);
}

static void enqueue_set3(struct ps2_keyboard *k, unsigned key, bool down)
{
    uint8_t bytes[2] = {BREAK_PREFIX, set3_code(key)};
    if (!bytes[1])
        return;
    if (down)
        enqueue(k, &bytes[1], 1);
    else if (k->key_type[bytes[1]] != TYPE_MAKE_ONLY)
        enqueue(k, bytes, 2);
}

static void enqueue_key(struct ps2_keyboard *k, unsigned key, bool down)
{
    if (k->scan_set == 3)
        enqueue_set3(k, key, down);
    else if (key == KEY_PAUSE)
        enqueue_pause(k, down);
    else if (key == KEY_PRINT_SCREEN)
        enqueue_print_screen(k, down);
    else
        enqueue_code(k, key, down);
    tell(k);
}

static bool repeats(const struct ps2_keyboard *k, unsigned key)
{
    if (k->scan_set == 3)
        return k->key_type[set3_code(key)] == TYPE_TYPEMATIC;
    return key != KEY_PAUSE;
}

static void stop_repeat(struct ps2_keyboard *k)
{
    k->repeating = 0;
    timer_cancel(&k->repeat);
}

static void on_repeat(void *opaque)
{
    struct ps2_keyboard *k = opaque;
    /* A guest that does not keep up is not flooded: the repeat waits until it has taken what is there. */
    if (k->enabled && !k->count)
        enqueue_key(k, k->repeating, true);
    /* period = (8 + bits 2-0) * 2^(bits 4-3) * 4.17 ms */
    uint64_t period = (8ull + (k->typematic & 7)) * (1ull << (k->typematic >> 3 & 3)) * 4170 * NS_PER_US;
    timer_arm(&k->repeat, clock_now(k->clock) + period);
}

void ps2_keyboard_key(struct ps2_keyboard *k, unsigned key, bool down)
{
    unsigned index = key & 0x7f;
    if (key == 0xe1 || key == 0xe11d45)
        index = KEY_PAUSE;
    else if ((key & ~0x7fu) == 0xe000)
        index |= EXTENDED;
    else if (key > 0x7f)
        return;
    if (!(index & 0x7f) || k->down[index] == down)
        return;
    k->down[index] = down;
    if (!k->enabled)
        return;
    enqueue_key(k, index, down);
    if (down && repeats(k, index)) {
        k->repeating = index;
        timer_arm(&k->repeat, clock_now(k->clock) + ((k->typematic >> 5 & 3) + 1) * 250 * NS_PER_MS);
    } else if (down || k->repeating == index) {
        stop_repeat(k);
    }
}

static void set_defaults(struct ps2_keyboard *k)
{
    clear_fifo(k);
    stop_repeat(k);
    k->typematic = DEFAULT_TYPEMATIC;
    k->scan_set = 2;
    for (unsigned i = 0; i < sizeof k->key_type; i++)
        k->key_type[i] = ps2_set3_type((uint8_t)i);
}

static void set_all_types(struct ps2_keyboard *k, uint8_t command)
{
    static const uint8_t types[3] = {TYPE_TYPEMATIC, TYPE_MAKE_BREAK, TYPE_MAKE_ONLY};
    /* Typematic keys of this model send break codes anyway, so "typematic/make/break" is "typematic". */
    uint8_t type = command == ALL_TYPEMATIC_MAKE_BREAK ? TYPE_TYPEMATIC : types[command - ALL_TYPEMATIC];
    memset(k->key_type, type, sizeof k->key_type);
}

static void take_command(struct ps2_keyboard *k, uint8_t command)
{
    k->pending = 0;
    switch (command) {
    case ECHO:
        reply(k, ECHO);
        return;
    case RESEND:
        reply(k, k->last);
        return;
    case SET_LEDS:
    case SET_TYPEMATIC:
    case SELECT_SET:
    case KEY_TYPEMATIC:
    case KEY_MAKE_BREAK:
    case KEY_MAKE_ONLY:
        k->pending = command;
        reply(k, ACK);
        return;
    case IDENTIFY:
        reply(k, ACK);
        reply(k, 0xab);
        reply(k, 0x83);
        return;
    case ENABLE:
        clear_fifo(k);
        k->enabled = true;
        break;
    case DISABLE:
        set_defaults(k);
        k->enabled = false;
        break;
    case SET_DEFAULT:
        set_defaults(k);
        break;
    case ALL_TYPEMATIC ... ALL_TYPEMATIC_MAKE_BREAK:
        set_all_types(k, command);
        break;
    case RESET:
        set_defaults(k);
        k->enabled = true;
        k->leds = 0;
        reply(k, ACK);
        reply(k, BAT_OK);
        return;
    default:
        reply(k, RESEND);
        return;
    }
    reply(k, ACK);
}

static void take_argument(struct ps2_keyboard *k, uint8_t byte)
{
    uint8_t command = k->pending;
    k->pending = 0;
    switch (command) {
    case SET_LEDS:
        k->leds = byte & 7;
        break;
    case SET_TYPEMATIC:
        k->typematic = byte & 0x7f;
        break;
    case SELECT_SET:
        if (byte > 3) {
            reply(k, RESEND);
            return;
        }
        reply(k, ACK);
        if (byte)
            k->scan_set = byte;
        else
            reply(k, k->scan_set);
        clear_fifo(k);
        return;
    default: /* one key type after the other, until a command comes */
        k->key_type[byte] = command == KEY_TYPEMATIC    ? TYPE_TYPEMATIC
                            : command == KEY_MAKE_BREAK ? TYPE_MAKE_BREAK
                                                        : TYPE_MAKE_ONLY;
        k->pending = command;
        break;
    }
    reply(k, ACK);
}

void ps2_keyboard_write(struct ps2_keyboard *k, uint8_t byte)
{
    if (byte != RESEND)
        k->replies.count = 0; /* a new command ends the answer to the last one */
    /* No argument has the value of a command: then it is one. */
    if (k->pending && byte < SET_LEDS)
        take_argument(k, byte);
    else
        take_command(k, byte);
    tell(k);
}

void ps2_keyboard_reset(struct ps2_keyboard *k)
{
    set_defaults(k);
    k->replies.head = k->replies.count = 0;
    k->pending = k->leds = k->last = 0;
    k->enabled = true;
    tell(k);
}

void ps2_keyboard_init(struct ps2_keyboard *k, struct clock *clock, struct irq_line data)
{
    memset(k, 0, sizeof *k);
    k->clock = clock;
    k->data = data;
    timer_init(&k->repeat, clock, on_repeat, k);
    ps2_keyboard_reset(k);
}
