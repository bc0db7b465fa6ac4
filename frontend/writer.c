/* SPDX-License-Identifier: MIT */
#include "frontend/writer.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* A pipe that poll calls writable takes 4096 bytes without blocking. */
enum { PIPE_CHUNK = 4096, FILE_CHUNK = 65536, BATCH_NS = 500000, STACK_SIZE = 256 << 10 };

struct writer {
    int fd;
    size_t chunk;
    void (*failed)(void *opaque, int error);
    void *opaque;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* bytes came or closing was set */
    pthread_cond_t drained; /* bytes went out or the thread ended */
    /* Guarded by mutex: */
    uint8_t *queue; /* bytes [start, end) wait */
    size_t start, end, room;
    size_t dropped;
    uint64_t written;
    bool closing, dead, ended;
};

static struct timespec after_ns(uint64_t ns)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    ns += (uint64_t)ts.tv_nsec;
    ts.tv_sec += (time_t)(ns / 1000000000);
    ts.tv_nsec = (long)(ns % 1000000000);
    return ts;
}

/* Writes some of buf; the mutex is not held. 0 to errno. */
static int write_some(struct writer *w, const uint8_t *buf, size_t len, size_t *done)
{
    struct pollfd p = {.fd = w->fd, .events = POLLOUT};
    *done = 0;
    if (poll(&p, 1, -1) < 0)
        return errno == EINTR ? 0 : errno;
    ssize_t n = write(w->fd, buf, len);
    if (n < 0)
        return errno == EINTR || errno == EAGAIN ? 0 : errno;
    *done = (size_t)n;
    return 0;
}

/* One piece off the queue. Called and returns with the mutex held. */
static void step(struct writer *w, uint8_t *piece)
{
    size_t len = w->end - w->start < w->chunk ? w->end - w->start : w->chunk, done = 0;
    memcpy(piece, w->queue + w->start, len);
    pthread_mutex_unlock(&w->mutex);
    int error = write_some(w, piece, len, &done);
    if (error && w->failed)
        w->failed(w->opaque, error);
    pthread_mutex_lock(&w->mutex);
    w->start += done;
    w->written += done;
    if (w->start == w->end)
        w->start = w->end = 0;
    if (error) {
        w->dead = true;
        w->dropped += w->end - w->start;
        w->start = w->end = 0;
    }
    pthread_cond_broadcast(&w->drained);
}

static void *writer_thread(void *arg)
{
    struct writer *w = arg;
    uint8_t *piece = malloc(w->chunk);
    pthread_cleanup_push(free, piece);
    pthread_mutex_lock(&w->mutex);
    if (!piece)
        w->dead = true;
    while (!w->dead && !(w->closing && w->start == w->end)) {
        if (w->start == w->end) {
            pthread_cond_wait(&w->changed, &w->mutex);
            /* A UART sends byte by byte: collect for a moment. */
            if (!w->closing && w->end - w->start < w->chunk) {
                struct timespec until = after_ns(BATCH_NS);
                while (!w->closing && w->end - w->start < w->chunk &&
                       pthread_cond_timedwait(&w->changed, &w->mutex, &until) == 0)
                    ;
            }
            continue;
        }
        step(w, piece);
    }
    w->ended = true;
    pthread_cond_broadcast(&w->drained);
    pthread_mutex_unlock(&w->mutex);
    pthread_cleanup_pop(1);
    return NULL;
}

struct writer *writer_create(int fd, void (*failed)(void *opaque, int error), void *opaque)
{
    struct writer *w = calloc(1, sizeof *w);
    struct stat st;
    if (!w)
        return NULL;
    *w = (struct writer){.fd = fd, .failed = failed, .opaque = opaque};
    w->chunk = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? FILE_CHUNK : PIPE_CHUNK;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &monotonic);
    pthread_cond_init(&w->drained, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    int error = pthread_create(&w->thread, &attr, writer_thread, w);
    pthread_attr_destroy(&attr);
    if (error) {
        free(w);
        return NULL;
    }
    return w;
}

/* Room for len more bytes behind end. */
static bool make_room(struct writer *w, size_t len)
{
    if (w->start && w->room - w->end < len) {
        memmove(w->queue, w->queue + w->start, w->end - w->start);
        w->end -= w->start;
        w->start = 0;
    }
    if (w->room - w->end >= len)
        return true;
    size_t room = w->room ? w->room : 16384;
    while (room - w->end < len)
        room *= 2;
    if (room > WRITER_QUEUE_MAX)
        return false;
    uint8_t *grown = realloc(w->queue, room);
    if (!grown)
        return false;
    w->queue = grown;
    w->room = room;
    return true;
}

void writer_put(struct writer *w, const uint8_t *buf, size_t len)
{
    pthread_mutex_lock(&w->mutex);
    if (w->dead || !make_room(w, len)) {
        w->dropped += len;
    } else {
        bool was_empty = w->start == w->end;
        memcpy(w->queue + w->end, buf, len);
        w->end += len;
        if (was_empty || w->end - w->start >= w->chunk)
            pthread_cond_signal(&w->changed);
    }
    pthread_mutex_unlock(&w->mutex);
}

size_t writer_destroy(struct writer *w, unsigned patience_ms)
{
    if (!w)
        return 0;
    pthread_mutex_lock(&w->mutex);
    w->closing = true;
    pthread_cond_signal(&w->changed);
    while (!w->ended) {
        uint64_t before = w->written;
        struct timespec until = after_ns(patience_ms * 1000000ull);
        if (pthread_cond_timedwait(&w->drained, &w->mutex, &until) == ETIMEDOUT && w->written == before && !w->ended)
            break;
    }
    bool stuck = !w->ended;
    pthread_mutex_unlock(&w->mutex);
    if (stuck)
        pthread_cancel(w->thread); /* it hangs in poll or write, which are cancellation points, without the mutex */
    pthread_join(w->thread, NULL);
    size_t lost = w->dropped + (w->end - w->start);
    pthread_mutex_destroy(&w->mutex);
    pthread_cond_destroy(&w->changed);
    pthread_cond_destroy(&w->drained);
    free(w->queue);
    free(w);
    return lost;
}
