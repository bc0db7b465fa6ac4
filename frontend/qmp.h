/* SPDX-License-Identifier: MIT */
/* The control socket: QMP's JSON framing and command names (QEMU's "QMP protocol specification"), several clients at
 * once.
 *
 * The server reaches the machine through struct qmp_target, so that tests hand in a fake one. Everything but qmp_open
 * and qmp_close runs under the machine lock. */
#ifndef RINGFOLD_FRONTEND_QMP_H
#define RINGFOLD_FRONTEND_QMP_H

#include "devices/block.h"
#include "devices/display.h"
#include "devices/loop.h"
#include "frontend/keys.h"

#include <cjson/cJSON.h>

struct qmp_medium {
    bool floppy; /* else a CD */
    unsigned slot;
    const struct block_options *options; /* NULL: eject */
};

struct qmp_target {
    bool (*running)(void *opaque);
    void (*stop)(void *opaque);
    void (*cont)(void *opaque);
    void (*reset)(void *opaque);
    void (*powerdown)(void *opaque);
    void (*quit)(void *opaque);
    void (*key)(void *opaque, unsigned key, bool down);
    void (*mouse)(void *opaque, int dx, int dy, int dz, unsigned buttons);
    const struct display_source *(*display)(void *opaque); /* NULL: none */
    cJSON *(*stats)(void *opaque); /* an object to be freed by the caller, NULL: out of memory */
    /* The hottest blocks as text to be freed by the caller; NULL with the reason in err. */
    char *(*hot_blocks)(void *opaque, unsigned count, char *err, size_t err_len);
    int (*change_medium)(void *opaque, const struct qmp_medium *medium, char *err, size_t err_len);
    /* Another engine, by name. NULL: cannot be changed. */
    int (*set_engine)(void *opaque, const char *name, char *err, size_t err_len);
    void *opaque;
};

struct qmp;

/* Listens on path. NULL with one line in err. */
struct qmp *qmp_open(const char *path, char *err, size_t err_len);
/* Starts to serve. 0 or -errno. */
int qmp_attach(struct qmp *q, struct loop *loop, struct clock *clock, const struct qmp_target *target);
/* Sends an event to every client that has left negotiation. data is consumed, may be NULL. */
void qmp_event(struct qmp *q, const char *name, cJSON *data);
/* Sends what is still queued (for a moment), closes everything and removes the socket. NULL is allowed. */
void qmp_close(struct qmp *q);

/* Serves a descriptor that is already connected (tests). */
int qmp_add_client(struct qmp *q, int fd);

/* ---- between qmp.c and qmp_commands.c ---- */
struct qmp_client;

enum qmp_outcome { QMP_DONE, QMP_FAILED, QMP_LATER /* qmp_finish follows */ };

/* One command under way. */
struct qmp_call {
    struct qmp *qmp;
    struct qmp_client *client;
    const struct qmp_target *target;
    struct typist *typist;
    const cJSON *arguments; /* an object */
    cJSON *result;          /* QMP_DONE: NULL stands for {} */
    char error[512];        /* QMP_FAILED */
    const char *error_class;
};
enum qmp_outcome qmp_command_run(struct qmp_call *call, const char *name);
/* Ends the client's command that gave QMP_LATER. error NULL: success. */
void qmp_finish(struct qmp_client *client, const char *error);
/* Mouse buttons that are down, shared by all clients. */
unsigned *qmp_buttons(struct qmp *q);

#endif
