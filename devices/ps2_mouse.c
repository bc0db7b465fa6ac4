/* SPDX-License-Identifier: MIT */
#include "devices/ps2.h"

#include <string.h>

enum {
    SCALING_1_1 = 0xe6,
    SCALING_2_1 = 0xe7,
    SET_RESOLUTION = 0xe8,
    STATUS_REQUEST = 0xe9,
    SET_STREAM = 0xea,
    READ_DATA = 0xeb,
    RESET_WRAP = 0xec,
    SET_WRAP = 0xee,
    SET_REMOTE = 0xf0,
    IDENTIFY = 0xf2,
    SET_RATE = 0xf3,
    ENABLE = 0xf4,
    DISABLE = 0xf5,
    SET_DEFAULT = 0xf6,
    RESEND = 0xfe,
    RESET = 0xff
};
enum { ACK = 0xfa, BAT_OK = 0xaa };
enum { ID_PLAIN = 0, ID_WHEEL = 3, ID_EXPLORER = 4 };
enum { MOTION_LIMIT = 32767, PACKET_LIMIT = 255 };

bool ps2_mouse_has_data(const struct ps2_mouse *m)
{
    return m->replies.count || m->count;
}

static void tell(struct ps2_mouse *m)
{
    irq_set(&m->data, ps2_mouse_has_data(m));
}

static void reply(struct ps2_mouse *m, uint8_t byte)
{
    struct ps2_replies *r = &m->replies;
    if (r->count < PS2_REPLIES)
        r->bytes[(r->head + r->count++) % PS2_REPLIES] = byte;
}

static int clamp(int v, int low, int high)
{
    return v < low ? low : v > high ? high : v;
}

/* 2:1 scaling, for stream mode: small movements shrink, large ones double. */
static int scale(const struct ps2_mouse *m, int v)
{
    static const uint8_t table[6] = {0, 1, 1, 3, 6, 9};
    int size = v < 0 ? -v : v;
    if (!m->scaling_2_1)
        return v;
    size = size < 6 ? table[size] : size * 2;
    return v < 0 ? -size : size;
}

static unsigned visible_buttons(const struct ps2_mouse *m, uint8_t buttons)
{
    return buttons & (m->id == ID_EXPLORER ? 0x1f : 0x07);
}

static bool has_news(const struct ps2_mouse *m)
{
    return m->dx || m->dy || (m->id != ID_PLAIN && m->dz) ||
           visible_buttons(m, m->buttons) != visible_buttons(m, m->reported_buttons);
}

/* Takes one packet's worth out of what has gathered. Returns its length, at most 4 (so a remote read fits the replies).
 */
static unsigned make_packet(struct ps2_mouse *m, uint8_t packet[4], bool scaled)
{
    int half = scaled && m->scaling_2_1 ? PACKET_LIMIT / 2 : PACKET_LIMIT;
    int dx = clamp(m->dx, -half, half), dy = clamp(m->dy, -half, half);
    int dz = m->id == ID_EXPLORER ? clamp(m->dz, -7, 7) : clamp(m->dz, -127, 127);
    m->dx -= dx;
    m->dy -= dy;
    m->dz = m->id == ID_PLAIN ? 0 : m->dz - dz;
    m->reported_buttons = m->buttons;
    if (scaled) {
        dx = scale(m, dx);
        dy = scale(m, dy);
    }
    packet[0] = (uint8_t)(0x08 | (m->buttons & 7) | (dx < 0 ? 0x10 : 0) | (dy < 0 ? 0x20 : 0));
    packet[1] = (uint8_t)dx;
    packet[2] = (uint8_t)dy;
    /* The wheel counts up towards the user. */
    if (m->id == ID_WHEEL)
        packet[3] = (uint8_t)-dz;
    else if (m->id == ID_EXPLORER)
        packet[3] = (uint8_t)((-dz & 0x0f) | (m->buttons & 0x18) << 1);
    return m->id == ID_PLAIN ? 3 : 4;
}

static void enqueue_packet(struct ps2_mouse *m)
{
    uint8_t packet[4];
    if (m->count + sizeof packet > PS2_MOUSE_FIFO)
        return; /* it stays gathered */
    unsigned len = make_packet(m, packet, true);
    for (unsigned i = 0; i < len; i++)
        m->fifo[(m->head + m->count++) % PS2_MOUSE_FIFO] = packet[i];
    m->next_sample = clock_now(m->clock) + NS_PER_SEC / (m->rate ? m->rate : 100);
    tell(m);
}

/* Stream mode: one packet per sample period, and none while the last one waits to be read. */
static void stream(struct ps2_mouse *m)
{
    if (!m->enabled || m->remote || m->wrap || m->count || !has_news(m))
        return;
    if (clock_now(m->clock) < m->next_sample) {
        if (!timer_armed(&m->sample))
            timer_arm(&m->sample, m->next_sample);
        return;
    }
    enqueue_packet(m);
}

static void on_sample(void *opaque)
{
    stream(opaque);
}

void ps2_mouse_move(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons)
{
    bool streaming = m->enabled && !m->remote && !m->wrap;
    if (!streaming && !m->remote) { /* a disabled mouse does not gather */
        m->buttons = m->reported_buttons = (uint8_t)(buttons & 0x1f);
        return;
    }
    /* A click that waits for its packet is sent before the next one changes it, or it would never have been. */
    if (streaming && (buttons & 0x1f) != m->buttons && m->buttons != m->reported_buttons)
        enqueue_packet(m);
    m->dx = clamp(m->dx + clamp(dx, -MOTION_LIMIT, MOTION_LIMIT), -MOTION_LIMIT, MOTION_LIMIT);
    m->dy = clamp(m->dy - clamp(dy, -MOTION_LIMIT, MOTION_LIMIT), -MOTION_LIMIT, MOTION_LIMIT);
    m->dz = clamp(m->dz + clamp(dz, -MOTION_LIMIT, MOTION_LIMIT), -MOTION_LIMIT, MOTION_LIMIT);
    m->buttons = buttons & 0x1f;
    stream(m);
}

uint8_t ps2_mouse_read(struct ps2_mouse *m)
{
    if (m->replies.count) {
        m->last = m->replies.bytes[m->replies.head];
        m->replies.head = (m->replies.head + 1) % PS2_REPLIES;
        m->replies.count--;
    } else if (m->count) {
        m->last = m->fifo[m->head];
        m->head = (m->head + 1) % PS2_MOUSE_FIFO;
        m->count--;
    }
    stream(m);
    tell(m);
    return m->last;
}

static void forget_motion(struct ps2_mouse *m)
{
    m->head = m->count = 0;
    m->dx = m->dy = m->dz = 0;
    m->reported_buttons = m->buttons;
}

static void set_defaults(struct ps2_mouse *m)
{
    m->rate = 100;
    m->resolution = 2;
    m->scaling_2_1 = m->enabled = m->remote = m->wrap = false;
    forget_motion(m);
}

static void reset_by_command(struct ps2_mouse *m)
{
    set_defaults(m);
    m->id = ID_PLAIN;
    memset(m->knock, 0, sizeof m->knock);
}

static void reply_status(struct ps2_mouse *m)
{
    reply(m, ACK);
    reply(m, (uint8_t)((m->remote ? 0x40 : 0) | (m->enabled ? 0x20 : 0) | (m->scaling_2_1 ? 0x10 : 0) |
                       (m->buttons & 1 ? 4 : 0) | (m->buttons & 4 ? 2 : 0) | (m->buttons & 2 ? 1 : 0)));
    reply(m, m->resolution);
    reply(m, m->rate);
}

/* Sample rates 200, 100, 80 turn the wheel on, 200, 200, 80 the five buttons as well. */
static void set_rate(struct ps2_mouse *m, uint8_t rate)
{
    m->rate = rate;
    m->knock[0] = m->knock[1];
    m->knock[1] = m->knock[2];
    m->knock[2] = rate;
    if (m->knock[0] == 200 && m->knock[2] == 80) {
        if (m->knock[1] == 100 && m->id == ID_PLAIN)
            m->id = ID_WHEEL;
        else if (m->knock[1] == 200)
            m->id = ID_EXPLORER;
    }
}

static bool take_argument(struct ps2_mouse *m, uint8_t byte)
{
    uint8_t command = m->pending;
    m->pending = 0;
    if (command == SET_RATE && byte && byte <= 200) {
        set_rate(m, byte);
        return true;
    }
    if (command == SET_RESOLUTION && byte <= 3) {
        m->resolution = byte;
        return true;
    }
    return false;
}

static void read_data(struct ps2_mouse *m)
{
    uint8_t packet[4];
    unsigned len = make_packet(m, packet, false);
    reply(m, ACK);
    for (unsigned i = 0; i < len; i++)
        reply(m, packet[i]);
}

static void take_command(struct ps2_mouse *m, uint8_t command)
{
    switch (command) {
    case SCALING_1_1:
    case SCALING_2_1:
        m->scaling_2_1 = command == SCALING_2_1;
        break;
    case SET_RESOLUTION:
    case SET_RATE:
        m->pending = command;
        break;
    case STATUS_REQUEST:
        reply_status(m);
        return;
    case READ_DATA:
        read_data(m);
        return;
    case SET_STREAM:
    case SET_REMOTE:
        m->remote = command == SET_REMOTE;
        forget_motion(m);
        break;
    case SET_WRAP:
        m->wrap = true;
        break;
    case RESET_WRAP:
        m->wrap = false;
        break;
    case IDENTIFY:
        reply(m, ACK);
        reply(m, m->id);
        return;
    case ENABLE:
    case DISABLE:
        m->enabled = command == ENABLE;
        forget_motion(m);
        break;
    case SET_DEFAULT:
        set_defaults(m);
        break;
    case RESEND:
        reply(m, m->last);
        return;
    case RESET:
        reset_by_command(m);
        reply(m, ACK);
        reply(m, BAT_OK);
        reply(m, ID_PLAIN);
        return;
    default:
        reply(m, RESEND);
        return;
    }
    reply(m, ACK);
}

void ps2_mouse_write(struct ps2_mouse *m, uint8_t byte)
{
    m->head = m->count = 0; /* a packet in the queue is dropped by a command */
    if (byte != RESEND)
        m->replies.count = 0;
    if (m->wrap && byte != RESET && byte != RESET_WRAP)
        reply(m, byte);
    else if (m->pending)
        reply(m, take_argument(m, byte) ? ACK : RESEND);
    else
        take_command(m, byte);
    tell(m);
}

void ps2_mouse_reset(struct ps2_mouse *m)
{
    reset_by_command(m);
    timer_cancel(&m->sample);
    m->replies.head = m->replies.count = 0;
    m->pending = m->last = 0;
    m->next_sample = 0;
    tell(m);
}

void ps2_mouse_init(struct ps2_mouse *m, struct clock *clock, struct irq_line data)
{
    memset(m, 0, sizeof *m);
    m->clock = clock;
    m->data = data;
    timer_init(&m->sample, clock, on_sample, m);
    ps2_mouse_reset(m);
}
