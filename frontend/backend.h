/* SPDX-License-Identifier: MIT */
/* Back ends of serial ports: stdio, file:PATH, unix:PATH, pty, none. One is opened before the machine exists (so that a
 * busy socket is found out early), attached to the machine's loop once there is one, and closed after the machine
 * ended.
 *
 * Threads: open, attach and close in the main thread; the chardev's functions under the machine lock. */
#ifndef RINGFOLD_FRONTEND_BACKEND_H
#define RINGFOLD_FRONTEND_BACKEND_H

#include "devices/chardev.h"
#include "devices/loop.h"

#include <stdbool.h>

/* What a back end tells its owner; any thread. */
struct backend_events {
    void (*failed)(void *opaque, const char *what, int error); /* output is lost: EPIPE, ENOSPC, ... */
    void (*quit)(void *opaque);                                /* Ctrl-A x */
    void *opaque;
};

struct backend {
    struct chardev chardev; /* for machine_config.serial */
    struct loop *loop;
    struct backend_events events;
    int (*attach)(struct backend *b); /* 0 or -errno */
    /* Lets output go out as long as there is progress every patience_ms. Bytes lost. Frees. */
    size_t (*close)(struct backend *b, unsigned patience_ms);
    void (*continued)(struct backend *b); /* the process came back from the background; NULL: nothing to do */
};

/* spec as in --serial. *out NULL for "none". 0, or -1 with one line in err. */
int backend_open(struct backend **out, const char *spec, char *err, size_t err_len);
int backend_attach(struct backend *b, struct loop *loop, const struct backend_events *events);
size_t backend_close(struct backend *b, unsigned patience_ms);

/* One per file chardev_NAME.c. */
struct backend *backend_open_stdio(char *err, size_t err_len);
struct backend *backend_open_file(const char *path, char *err, size_t err_len);
struct backend *backend_open_unix(const char *path, char *err, size_t err_len);
struct backend *backend_open_pty(char *err, size_t err_len);

#endif
