/* SPDX-License-Identifier: MIT */
/* The serial port on a listening UNIX socket, one client at a time; the next one waits until the first has gone. What
 * the guest sends before anybody connects is kept (the newest 64 KiB). */
#include "frontend/backend.h"

#include "frontend/stream.h"
#include "frontend/unix_socket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct unix_backend {
    struct backend base;
    struct unix_listener listener;
    struct stream stream;
};

static void listener_ready(void *opaque, int fd, unsigned events)
{
    struct unix_backend *u = opaque;
    int client = unix_accept(&u->listener);
    if (client < 0)
        return;
    loop_watch(u->base.loop, u->listener.fd, 0, NULL, NULL);
    stream_open(&u->stream, client);
}

static void client_closed(void *opaque)
{
    struct unix_backend *u = opaque;
    int fd = stream_detach(&u->stream);
    if (fd >= 0)
        close(fd);
    loop_watch(u->base.loop, u->listener.fd, LOOP_READ, listener_ready, u);
}

static void unix_write(void *opaque, const uint8_t *buf, size_t len)
{
    struct unix_backend *u = opaque;
    stream_write(&u->stream, buf, len);
}

static void unix_accept_input(void *opaque)
{
    struct unix_backend *u = opaque;
    stream_accept_input(&u->stream);
}

static int unix_attach(struct backend *b)
{
    struct unix_backend *u = (struct unix_backend *)b;
    u->stream.loop = b->loop;
    return loop_watch(b->loop, u->listener.fd, LOOP_READ, listener_ready, u);
}

static size_t unix_close(struct backend *b, unsigned patience_ms)
{
    struct unix_backend *u = (struct unix_backend *)b;
    size_t lost = stream_finish(&u->stream, patience_ms);
    if (u->stream.fd >= 0)
        close(u->stream.fd);
    unix_listener_close(&u->listener);
    free(u);
    return lost;
}

struct backend *backend_open_unix(const char *path, char *err, size_t err_len)
{
    char reason[160];
    struct unix_backend *u = calloc(1, sizeof *u);
    if (!u || unix_listen(&u->listener, path, reason, sizeof reason)) {
        snprintf(err, err_len, "--serial unix:%s: %s", path, u ? reason : strerror(ENOMEM));
        free(u);
        return NULL;
    }
    u->stream = (struct stream){.fd = -1, .chardev = &u->base.chardev, .closed = client_closed, .opaque = u};
    u->base.chardev = (struct chardev){.write = unix_write, .backend = u, .accept_input = unix_accept_input};
    u->base.attach = unix_attach;
    u->base.close = unix_close;
    return &u->base;
}
