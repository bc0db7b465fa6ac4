/* SPDX-License-Identifier: MIT */
/* The serial port on stdin and stdout. On a terminal Ctrl-A is the escape key; piped input passes through unchanged. */
#include "frontend/backend.h"

#include "frontend/cleanup.h"
#include "frontend/terminal.h"
#include "frontend/writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INPUT_MAX = 512, ESCAPE = 1 /* Ctrl-A */ };

struct stdio_backend {
    struct backend base;
    struct writer *writer;
    uint8_t input[INPUT_MAX]; /* read from stdin, not yet taken by the chip: [input_start, input_end) */
    size_t input_start, input_end;
    bool terminal, escaped, eof, watching;
};

static void stdio_write(void *opaque, const uint8_t *buf, size_t len)
{
    struct stdio_backend *s = opaque;
    writer_put(s->writer, buf, len);
}

static void stdio_failed(void *opaque, int error)
{
    struct stdio_backend *s = opaque;
    if (s->base.events.failed)
        s->base.events.failed(s->base.events.opaque, "stdout", error);
}

/* Handles one byte of terminal input; true when it is for the guest. */
static bool filter(struct stdio_backend *s, uint8_t byte)
{
    if (!s->escaped) {
        s->escaped = byte == ESCAPE;
        return byte != ESCAPE;
    }
    s->escaped = false;
    switch (byte) {
    case ESCAPE:
        return true;
    case 'x':
    case 'X':
        if (s->base.events.quit)
            s->base.events.quit(s->base.events.opaque);
        return false;
    case 'h':
    case 'H':
    case '?':
        complain("Ctrl-A x ends the machine, Ctrl-A Ctrl-A sends one Ctrl-A, Ctrl-A h shows this");
        return false;
    default:
        return false;
    }
}

static void stdin_ready(void *opaque, int fd, unsigned events);

static void watch(struct stdio_backend *s, bool on)
{
    if (s->watching != on && s->base.loop)
        loop_watch(s->base.loop, STDIN_FILENO, on ? LOOP_READ : 0, stdin_ready, s);
    s->watching = on;
}

/* Hands waiting input to the chip; stdin is only watched while there is none, so that a fast sender waits. */
static void pump(struct stdio_backend *s)
{
    struct chardev *c = &s->base.chardev;
    while (s->input_start < s->input_end && c->receive) {
        size_t room = c->can_receive ? c->can_receive(c->chip) : 0, len = s->input_end - s->input_start;
        if (!room)
            break;
        if (len > room)
            len = room;
        s->input_start += len; /* first: the chip may call accept_input from inside */
        c->receive(c->chip, s->input + s->input_start - len, len);
    }
    watch(s, s->input_start == s->input_end && !s->eof);
}

static void stdin_ready(void *opaque, int fd, unsigned events)
{
    struct stdio_backend *s = opaque;
    uint8_t buf[INPUT_MAX];
    if (s->input_start < s->input_end)
        return pump(s);
    if (!terminal_may_read())
        return watch(s, false); /* until SIGCONT finds us in the foreground */
    ssize_t n = read(fd, buf, sizeof buf);
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (n <= 0)
        s->eof = true;
    s->input_start = s->input_end = 0;
    for (ssize_t i = 0; i < n; i++)
        if (!s->terminal || filter(s, buf[i]))
            s->input[s->input_end++] = buf[i];
    pump(s);
}

static void stdio_accept_input(void *opaque)
{
    pump(opaque);
}

static int stdio_attach(struct backend *b)
{
    struct stdio_backend *s = (struct stdio_backend *)b;
    if (terminal_may_read())
        watch(s, true);
    return 0;
}

static void stdio_continued(struct backend *b)
{
    struct stdio_backend *s = (struct stdio_backend *)b;
    if (terminal_may_read())
        pump(s);
}

static size_t stdio_close(struct backend *b, unsigned patience_ms)
{
    struct stdio_backend *s = (struct stdio_backend *)b;
    size_t lost = writer_destroy(s->writer, patience_ms);
    free(s);
    return lost;
}

struct backend *backend_open_stdio(char *err, size_t err_len)
{
    if (terminal_was_closed(STDOUT_FILENO)) {
        snprintf(err, err_len, "stdout: is closed, and the serial port leads there (see --serial)");
        return NULL;
    }
    struct stdio_backend *s = calloc(1, sizeof *s);
    if (s)
        s->writer = writer_create(STDOUT_FILENO, stdio_failed, s);
    if (!s || !s->writer) {
        snprintf(err, err_len, "serial port on stdio: %s", strerror(ENOMEM));
        free(s);
        return NULL;
    }
    s->terminal = terminal_present();
    s->base.chardev = (struct chardev){.write = stdio_write, .backend = s, .accept_input = stdio_accept_input};
    s->base.attach = stdio_attach;
    s->base.close = stdio_close;
    s->base.continued = stdio_continued;
    return &s->base;
}
