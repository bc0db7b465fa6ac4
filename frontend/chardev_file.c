/* SPDX-License-Identifier: MIT */
/* The serial port's output into a file; there is no input. */
#include "frontend/backend.h"

#include "frontend/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct file_backend {
    struct backend base;
    struct writer *writer;
    int fd;
    char *path;
};

static void file_write(void *opaque, const uint8_t *buf, size_t len)
{
    struct file_backend *f = opaque;
    writer_put(f->writer, buf, len);
}

static void file_failed(void *opaque, int error)
{
    struct file_backend *f = opaque;
    if (f->base.events.failed)
        f->base.events.failed(f->base.events.opaque, f->path, error);
}

static size_t file_close(struct backend *b, unsigned patience_ms)
{
    struct file_backend *f = (struct file_backend *)b;
    size_t lost = writer_destroy(f->writer, patience_ms);
    close(f->fd);
    free(f->path);
    free(f);
    return lost;
}

struct backend *backend_open_file(const char *path, char *err, size_t err_len)
{
    /* O_NONBLOCK: a FIFO without a reader is an error, not a wait. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0666);
    if (fd < 0) {
        snprintf(err, err_len, "--serial file:%s: %s", path, errno == ENXIO ? "nobody reads it" : strerror(errno));
        return NULL;
    }
    struct file_backend *f = calloc(1, sizeof *f);
    if (f) {
        f->path = strdup(path);
        f->writer = writer_create(fd, file_failed, f);
    }
    if (!f || !f->path || !f->writer) {
        snprintf(err, err_len, "--serial file:%s: %s", path, strerror(ENOMEM));
        if (f) {
            writer_destroy(f->writer, 0);
            free(f->path);
        }
        free(f);
        close(fd);
        return NULL;
    }
    f->fd = fd;
    f->base.chardev = (struct chardev){.write = file_write, .backend = f};
    f->base.close = file_close;
    return &f->base;
}
