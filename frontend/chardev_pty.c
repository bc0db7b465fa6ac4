/* SPDX-License-Identifier: MIT */
/* The serial port on a new pseudo-terminal, whose name goes to stderr. The slave side is kept open, so that a program
 * that leaves it is no hang-up; what nobody reads is dropped once the terminal's buffer and ours are full. */
#include "frontend/backend.h"

#include "frontend/cleanup.h"
#include "frontend/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

struct pty_backend {
    struct backend base;
    struct stream stream;
    int master, slave;
};

static void pty_hung_up(void *opaque)
{
    struct pty_backend *p = opaque;
    stream_detach(&p->stream);
}

static void pty_write(void *opaque, const uint8_t *buf, size_t len)
{
    struct pty_backend *p = opaque;
    stream_write(&p->stream, buf, len);
}

static void pty_accept_input(void *opaque)
{
    struct pty_backend *p = opaque;
    stream_accept_input(&p->stream);
}

static int pty_attach(struct backend *b)
{
    struct pty_backend *p = (struct pty_backend *)b;
    p->stream.loop = b->loop;
    stream_open(&p->stream, p->master);
    return 0;
}

static size_t pty_close(struct backend *b, unsigned patience_ms)
{
    struct pty_backend *p = (struct pty_backend *)b;
    stream_finish(&p->stream, 0); /* most often nobody reads */
    close(p->master);
    close(p->slave);
    free(p);
    return 0;
}

static int open_pair(int *master, int *slave, char *name, size_t name_len)
{
    struct termios t;
    *slave = -1;
    *master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (*master < 0 || grantpt(*master) || unlockpt(*master) || ptsname_r(*master, name, name_len))
        return -1;
    *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*slave < 0 || tcgetattr(*slave, &t))
        return -1;
    cfmakeraw(&t);
    return tcsetattr(*slave, TCSANOW, &t);
}

struct backend *backend_open_pty(char *err, size_t err_len)
{
    char name[128];
    struct pty_backend *p = calloc(1, sizeof *p);
    if (!p || open_pair(&p->master, &p->slave, name, sizeof name)) {
        snprintf(err, err_len, "--serial pty: %s", strerror(p ? errno : ENOMEM));
        if (p && p->master >= 0)
            close(p->master);
        if (p && p->slave >= 0)
            close(p->slave);
        free(p);
        return NULL;
    }
    complain("serial port: %s", name);
    p->stream = (struct stream){.fd = -1, .chardev = &p->base.chardev, .closed = pty_hung_up, .opaque = p};
    p->base.chardev = (struct chardev){.write = pty_write, .backend = p, .accept_input = pty_accept_input};
    p->base.attach = pty_attach;
    p->base.close = pty_close;
    return &p->base;
}
