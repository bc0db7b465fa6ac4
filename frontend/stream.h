/* SPDX-License-Identifier: MIT */
/* A two-way, non-blocking descriptor (socket, pty master) between the machine's loop and a chip. Output that the other
 * side does not take waits in a buffer of limited size, then is dropped. Everything under the machine lock. */
#ifndef RINGFOLD_FRONTEND_STREAM_H
#define RINGFOLD_FRONTEND_STREAM_H

#include "devices/chardev.h"
#include "devices/loop.h"

#include <stdbool.h>

enum { STREAM_INPUT_MAX = 512, STREAM_OUTPUT_MAX = 1 << 20, STREAM_BACKLOG_MAX = 64 << 10 };

struct stream {
    int fd; /* -1: nobody is connected; output is then kept up to STREAM_BACKLOG_MAX, the oldest bytes go first */
    struct loop *loop;
    struct chardev *chardev;
    void (*closed)(void *opaque); /* the other side has gone; fd is still open for the owner to close */
    void *opaque;
    uint8_t input[STREAM_INPUT_MAX];
    size_t input_start, input_end;
    uint8_t *output;
    size_t output_len, output_room, dropped;
    bool reading;
};

/* Starts on fd (non-blocking), sends what was kept. */
void stream_open(struct stream *s, int fd);
/* Stops watching; returns the descriptor, which the caller closes, or -1. */
int stream_detach(struct stream *s);
void stream_write(struct stream *s, const uint8_t *buf, size_t len);
void stream_accept_input(struct stream *s);
/* Without the loop: tries to send the rest as long as there is progress every patience_ms; bytes lost. Frees buffers.
 */
size_t stream_finish(struct stream *s, unsigned patience_ms);

#endif
