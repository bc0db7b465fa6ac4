/* SPDX-License-Identifier: MIT */
#include "frontend/stream.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void stream_ready(void *opaque, int fd, unsigned events);

static void update_watch(struct stream *s)
{
    s->reading = s->input_start == s->input_end;
    unsigned events = (s->reading ? LOOP_READ : 0u) | (s->output_len ? LOOP_WRITE : 0u);
    if (s->fd >= 0 && s->loop)
        loop_watch(s->loop, s->fd, events, stream_ready, s);
}

/* Sends what it can. False when the other side has gone. */
static bool send_output(struct stream *s)
{
    size_t done = 0;
    if (!s->output_len)
        return true;
    while (done < s->output_len) {
        ssize_t n = write(s->fd, s->output + done, s->output_len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            s->output_len = 0;
            return false;
        }
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    memmove(s->output, s->output + done, s->output_len - done);
    s->output_len -= done;
    return true;
}

static void pump(struct stream *s)
{
    struct chardev *c = s->chardev;
    while (s->input_start < s->input_end && c->receive) {
        size_t room = c->can_receive ? c->can_receive(c->chip) : 0, len = s->input_end - s->input_start;
        if (!room)
            break;
        if (len > room)
            len = room;
        s->input_start += len; /* first: the chip may call accept_input from inside */
        c->receive(c->chip, s->input + s->input_start - len, len);
    }
}

static void stream_ready(void *opaque, int fd, unsigned events)
{
    struct stream *s = opaque;
    bool gone = false;
    if (events & LOOP_WRITE)
        gone = !send_output(s);
    if ((events & LOOP_READ) && s->input_start == s->input_end) {
        ssize_t n = read(fd, s->input, sizeof s->input);
        s->input_start = 0;
        s->input_end = n > 0 ? (size_t)n : 0;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            gone = true;
    }
    pump(s);
    if (gone)
        s->closed(s->opaque);
    else
        update_watch(s);
}

void stream_open(struct stream *s, int fd)
{
    s->fd = fd;
    s->input_start = s->input_end = 0;
    update_watch(s);
}

int stream_detach(struct stream *s)
{
    int fd = s->fd;
    if (fd >= 0 && s->loop)
        loop_watch(s->loop, fd, 0, NULL, NULL);
    s->fd = -1;
    return fd;
}

void stream_write(struct stream *s, const uint8_t *buf, size_t len)
{
    size_t limit = s->fd >= 0 ? STREAM_OUTPUT_MAX : STREAM_BACKLOG_MAX;
    if (s->fd < 0 && s->output_len + len > limit) {
        size_t excess = s->output_len + len - limit;
        if (excess > s->output_len)
            excess = s->output_len;
        if (excess)
            memmove(s->output, s->output + excess, s->output_len - excess);
        s->output_len -= excess;
    }
    if (len > limit || s->output_len > limit - len) {
        s->dropped += len;
        return;
    }
    if (s->output_len + len > s->output_room) {
        size_t room = s->output_room ? s->output_room : 4096;
        while (room < s->output_len + len)
            room *= 2;
        uint8_t *grown = realloc(s->output, room);
        if (!grown) {
            s->dropped += len;
            return;
        }
        s->output = grown;
        s->output_room = room;
    }
    memcpy(s->output + s->output_len, buf, len);
    bool was_empty = s->output_len == 0;
    s->output_len += len;
    if (was_empty)
        update_watch(s);
}

void stream_accept_input(struct stream *s)
{
    if (s->fd < 0)
        return;
    pump(s);
    if (!s->reading && s->input_start == s->input_end)
        update_watch(s);
}

size_t stream_finish(struct stream *s, unsigned patience_ms)
{
    while (s->fd >= 0 && s->output_len) {
        struct pollfd p = {.fd = s->fd, .events = POLLOUT};
        if (poll(&p, 1, (int)patience_ms) <= 0 || !send_output(s))
            break;
    }
    size_t lost = s->fd >= 0 ? s->output_len + s->dropped : 0;
    free(s->output);
    s->output = NULL;
    s->output_len = s->output_room = 0;
    return lost;
}
