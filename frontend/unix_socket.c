/* SPDX-License-Identifier: MIT */
#include "frontend/unix_socket.h"

#include "frontend/cleanup.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(char *err, size_t err_len, const char *reason)
{
    snprintf(err, err_len, "%s", reason);
    return -1;
}

static int make_address(struct sockaddr_un *a, const char *path, char *err, size_t err_len)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof a->sun_path)
        return fail(err, err_len, "the path is too long for a socket (107 bytes at most)");
    strcpy(a->sun_path, path);
    return 0;
}

/* 0: the path is free (now). */
static int clear_path(const struct sockaddr_un *a, char *err, size_t err_len)
{
    struct stat st;
    if (lstat(a->sun_path, &st))
        return errno == ENOENT ? 0 : fail(err, err_len, strerror(errno));
    if (!S_ISSOCK(st.st_mode))
        return fail(err, err_len, "exists and is not a socket");
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(err, err_len, strerror(errno));
    int error = connect(fd, (const struct sockaddr *)a, sizeof *a) ? errno : 0;
    close(fd);
    if (error == 0 || error == EAGAIN)
        return fail(err, err_len, "the socket is in use by another process");
    if (error != ECONNREFUSED)
        return fail(err, err_len, strerror(error));
    if (unlink(a->sun_path))
        return fail(err, err_len, strerror(errno));
    return 0;
}

int unix_listen(struct unix_listener *l, const char *path, char *err, size_t err_len)
{
    struct sockaddr_un a;
    *l = (struct unix_listener){.fd = -1, .cleanup = -1};
    if (make_address(&a, path, err, err_len) || clear_path(&a, err, err_len))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return fail(err, err_len, strerror(errno));
    /* Whoever can connect commands the machine. */
    mode_t mask = umask(077);
    bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    int error = errno;
    umask(mask);
    if (ok && listen(fd, 16)) {
        error = errno;
        unlink(path);
        ok = false;
    }
    if (!ok) {
        close(fd);
        return fail(err, err_len, strerror(error));
    }
    l->fd = fd;
    strcpy(l->path, path);
    l->cleanup = cleanup_add(path);
    return 0;
}

void unix_listener_close(struct unix_listener *l)
{
    if (l->fd < 0)
        return;
    close(l->fd);
    unlink(l->path);
    cleanup_forget(l->cleanup);
    l->fd = -1;
}

int unix_accept(struct unix_listener *l)
{
    for (;;) {
        char byte;
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        struct pollfd p = {.fd = fd, .events = POLLIN};
        /* Somebody who only looked whether the socket is in use (clear_path) has gone again. */
        if (fd < 0 || poll(&p, 1, 0) <= 0 || !(p.revents & POLLHUP) || recv(fd, &byte, 1, MSG_PEEK) > 0)
            return fd;
        close(fd);
    }
}

int unix_connect(const char *path, char *err, size_t err_len)
{
    struct sockaddr_un a;
    if (make_address(&a, path, err, err_len))
        return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return fail(err, err_len, strerror(errno));
    if (connect(fd, (struct sockaddr *)&a, sizeof a)) {
        int error = errno;
        close(fd);
        return fail(err, err_len, error == ECONNREFUSED ? "nobody listens there" : strerror(error));
    }
    return fd;
}
