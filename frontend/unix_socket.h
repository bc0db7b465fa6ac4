/* SPDX-License-Identifier: MIT */
/* Listening and connecting on UNIX sockets by path. */
#ifndef RINGFOLD_FRONTEND_UNIX_SOCKET_H
#define RINGFOLD_FRONTEND_UNIX_SOCKET_H

#include <stddef.h>

struct unix_listener {
    int fd;      /* non-blocking */
    int cleanup; /* removes the path at the end */
    char path[108];
};

/* Replaces a socket file that nobody listens on; refuses one that is in use and any other file. Only the owner may
 * connect. 0, or -1 with the reason (without the path) in err. */
int unix_listen(struct unix_listener *l, const char *path, char *err, size_t err_len);
void unix_listener_close(struct unix_listener *l);
/* A connected client, non-blocking, or -1. */
int unix_accept(struct unix_listener *l);
/* Blocking connection, or -1 with the reason in err. */
int unix_connect(const char *path, char *err, size_t err_len);

#endif
