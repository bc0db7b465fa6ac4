/* SPDX-License-Identifier: MIT */
/* Key events wait in a ring; a timer of the machine's clock takes them out one by one. */
#include "frontend/keys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_SHIFT = 0x2a, DOWN_MAX = 32 };

struct event {
    uint32_t delay_ns; /* after it, before the next */
    uint16_t key;      /* 0: only calls done */
    bool down;
    void (*done)(void *opaque, bool cancelled);
    void *opaque;
};

struct typist {
    struct timer timer;
    struct clock *clock;
    void (*press)(void *opaque, unsigned key, bool down);
    void *opaque;
    struct event *events; /* a ring of room entries */
    size_t first, count, room;
    uint16_t down[DOWN_MAX]; /* held keys */
    unsigned down_count;
    bool busy; /* the last event's delay is not over */
};

static void note_down(struct typist *t, uint16_t key, bool down)
{
    for (unsigned i = 0; i < t->down_count; i++) {
        if (t->down[i] == key) {
            if (!down)
                t->down[i] = t->down[--t->down_count];
            return;
        }
    }
    if (down && t->down_count < DOWN_MAX)
        t->down[t->down_count++] = key;
}

/* Carries out events up to the first that has to be waited for. */
static void advance(struct typist *t)
{
    while (!t->busy && t->count) {
        struct event e = t->events[t->first];
        t->first = (t->first + 1) % t->room;
        t->count--;
        if (e.key) {
            note_down(t, e.key, e.down);
            t->press(t->opaque, e.key, e.down);
        }
        if (e.delay_ns) {
            t->busy = true;
            timer_arm(&t->timer, clock_now(t->clock) + e.delay_ns);
        }
        if (e.done)
            e.done(e.opaque, false);
    }
}

static void on_timer(void *opaque)
{
    struct typist *t = opaque;
    t->busy = false;
    advance(t);
}

struct typist *typist_create(struct clock *clock, void (*press)(void *opaque, unsigned key, bool down), void *opaque)
{
    struct typist *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->clock = clock;
    t->press = press;
    t->opaque = opaque;
    timer_init(&t->timer, clock, on_timer, t);
    return t;
}

static void release_all(struct typist *t)
{
    while (t->down_count) {
        uint16_t key = t->down[--t->down_count];
        t->press(t->opaque, key, false);
    }
}

void typist_destroy(struct typist *t)
{
    if (!t)
        return;
    timer_cancel(&t->timer);
    release_all(t);
    free(t->events);
    free(t);
}

static int reserve(struct typist *t, size_t more)
{
    if (more > KEYS_PENDING_MAX || t->count + more > KEYS_PENDING_MAX)
        return -ENOMEM;
    if (t->count + more <= t->room)
        return 0;
    size_t room = t->room ? t->room : 64;
    while (room < t->count + more)
        room *= 2;
    struct event *grown = calloc(room, sizeof *grown);
    if (!grown)
        return -ENOMEM;
    for (size_t i = 0; i < t->count; i++)
        grown[i] = t->events[(t->first + i) % t->room];
    free(t->events);
    t->events = grown;
    t->first = 0;
    t->room = room;
    return 0;
}

static struct event *add(struct typist *t, unsigned key, bool down, uint32_t delay_ns)
{
    struct event *e = &t->events[(t->first + t->count++) % t->room];
    *e = (struct event){.key = (uint16_t)key, .down = down, .delay_ns = delay_ns};
    return e;
}

int typist_type(struct typist *t, const char *text, void (*done)(void *opaque, bool cancelled), void *opaque)
{
    bool shifted = false;
    if (reserve(t, 4 * strlen(text) + 3))
        return -ENOMEM;
    for (const char *p = text; *p; p++) {
        bool shift;
        unsigned key = key_by_char((unsigned char)*p, &shift);
        if (!key)
            continue;
        if (shift != shifted)
            add(t, KEY_SHIFT, shift, KEYS_MODIFIER_NS);
        shifted = shift;
        add(t, key, true, KEYS_HOLD_NS);
        add(t, key, false, KEYS_GAP_NS);
    }
    if (shifted)
        add(t, KEY_SHIFT, false, KEYS_MODIFIER_NS);
    struct event *last = add(t, 0, false, 0);
    last->done = done;
    last->opaque = opaque;
    advance(t);
    return 0;
}

int typist_chord(struct typist *t, const unsigned *keys, size_t count, uint64_t hold_ns)
{
    if (reserve(t, 2 * count))
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        add(t, keys[i], true,
            i + 1 < count ? KEYS_MODIFIER_NS : (uint32_t)(hold_ns < UINT32_MAX ? hold_ns : UINT32_MAX));
    for (size_t i = count; i-- > 0;)
        add(t, keys[i], false, i ? KEYS_MODIFIER_NS : KEYS_GAP_NS);
    advance(t);
    return 0;
}

void typist_cancel(struct typist *t)
{
    timer_cancel(&t->timer);
    t->busy = false;
    release_all(t);
    while (t->count) {
        struct event e = t->events[t->first];
        t->first = (t->first + 1) % t->room;
        t->count--;
        if (e.done)
            e.done(e.opaque, true);
    }
}

void typist_forget(struct typist *t, void *opaque)
{
    for (size_t i = 0; i < t->count; i++) {
        struct event *e = &t->events[(t->first + i) % t->room];
        if (e->opaque == opaque)
            e->done = NULL;
    }
}
