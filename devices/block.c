/* SPDX-License-Identifier: MIT */
/* The request queue of a disk. With a loop, a few worker threads (started when first needed) do the I/O and hand
 * finished requests back by an eventfd that the loop watches; the loop then calls done under the machine lock. A
 * request is in exactly one place: queue, a worker, or the finished list; r->block is NULL everywhere else. */
#include "devices/block.h"
#include "devices/block_store.h"
#include "devices/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MAX_WORKERS = 4, WORKER_STACK = 256 * 1024 };

struct request_list {
    struct block_request *head, *tail;
};

struct block {
    char *path;
    bool readonly;
    bool wrote; /* since the last flush */
    struct block_store *store;
    struct loop *loop;
    int event_fd;
    pthread_mutex_t mutex;   /* guards what follows */
    pthread_cond_t work;     /* queue grew, or stopping */
    pthread_cond_t progress; /* a worker finished a request */
    struct request_list queue, finished;
    unsigned running, worker_count;
    bool stopping;
    pthread_t workers[MAX_WORKERS];
};

static void list_append(struct request_list *l, struct block_request *r)
{
    r->next = NULL;
    if (l->tail)
        l->tail->next = r;
    else
        l->head = r;
    l->tail = r;
}

static struct block_request *list_pop(struct request_list *l)
{
    struct block_request *r = l->head;
    if (r && !(l->head = r->next))
        l->tail = NULL;
    return r;
}

static bool list_remove(struct request_list *l, struct block_request *r)
{
    struct block_request *before = NULL;
    for (struct block_request *i = l->head; i; before = i, i = i->next) {
        if (i != r)
            continue;
        if (before)
            before->next = r->next;
        else
            l->head = r->next;
        if (l->tail == r)
            l->tail = before;
        return true;
    }
    return false;
}

static int perform(struct block *b, const struct block_request *r)
{
    switch (r->op) {
    case BLOCK_READ:
        return b->store->ops->read(b->store, r->sector, r->count, r->buf);
    case BLOCK_WRITE:
        return b->store->ops->write(b->store, r->sector, r->count, r->buf);
    case BLOCK_FLUSH:
        return b->store->ops->flush(b->store);
    }
    return -EINVAL;
}

static int check(const struct block *b, const struct block_request *r)
{
    uint64_t sectors = b->store->sectors;
    if (r->op == BLOCK_FLUSH)
        return 0;
    if (r->op != BLOCK_READ && r->op != BLOCK_WRITE)
        return -EINVAL;
    if (r->op == BLOCK_WRITE && b->readonly)
        return -EROFS;
    return r->sector > sectors || r->count > sectors - r->sector ? -EINVAL : 0;
}

static void complete(struct block *b, struct block_request *r, int error)
{
    if (error)
        log_msg(LOG_DISK, "%s: %s of %u sectors at %llu: %s", b->path,
                r->op == BLOCK_READ    ? "read"
                : r->op == BLOCK_WRITE ? "write"
                                       : "flush",
                r->count, (unsigned long long)r->sector, strerror(-error));
    r->block = NULL;
    r->done(r->opaque, error);
}

/* ---- workers ---- */

static void *worker(void *opaque)
{
    struct block *b = opaque;
    pthread_mutex_lock(&b->mutex);
    for (;;) {
        struct block_request *r = list_pop(&b->queue);
        if (!r) {
            if (b->stopping)
                break;
            pthread_cond_wait(&b->work, &b->mutex);
            continue;
        }
        b->running++;
        pthread_mutex_unlock(&b->mutex);
        int error = perform(b, r);
        pthread_mutex_lock(&b->mutex);
        b->running--;
        if (r->cancelled) {
            r->block = NULL;
        } else {
            r->error = error;
            list_append(&b->finished, r);
            uint64_t one = 1;
            ssize_t n = write(b->event_fd, &one, sizeof one);
            (void)n; /* it fails only when the counter is full, and then the loop wakes anyway */
        }
        pthread_cond_broadcast(&b->progress);
    }
    pthread_mutex_unlock(&b->mutex);
    return NULL;
}

/* Signals belong to the threads that expect them. */
static bool start_worker(struct block *b)
{
    sigset_t all, old;
    pthread_attr_t attributes;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, WORKER_STACK);
    bool started = !pthread_create(&b->workers[b->worker_count], &attributes, worker, b);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (started)
        b->worker_count++;
    return started;
}

static void deliver(struct block *b)
{
    struct block_request *r;
    pthread_mutex_lock(&b->mutex);
    while ((r = list_pop(&b->finished))) {
        pthread_mutex_unlock(&b->mutex);
        complete(b, r, r->error);
        pthread_mutex_lock(&b->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
}

static void on_event(void *opaque, int fd, unsigned events)
{
    struct block *b = opaque;
    uint64_t count;
    ssize_t n = read(b->event_fd, &count, sizeof count);
    (void)n;
    deliver(b);
}

void block_submit(struct block *b, struct block_request *r)
{
    r->cancelled = false;
    r->next = NULL;
    r->block = b;
    int error = check(b, r);
    if (!error && r->op == BLOCK_WRITE)
        b->wrote = true;
    if (error || !b->loop) {
        complete(b, r, error ? error : perform(b, r));
        return;
    }
    pthread_mutex_lock(&b->mutex);
    list_append(&b->queue, r);
    unsigned waiting = 0;
    for (struct block_request *i = b->queue.head; i; i = i->next)
        waiting++;
    if (b->running + waiting > b->worker_count && b->worker_count < MAX_WORKERS)
        start_worker(b);
    bool nobody = b->worker_count == 0;
    if (nobody)
        list_remove(&b->queue, r);
    else
        pthread_cond_signal(&b->work);
    pthread_mutex_unlock(&b->mutex);
    if (nobody) /* the host gives no thread: slower, but right */
        complete(b, r, perform(b, r));
}

void block_poll(struct block *b)
{
    if (b->loop)
        deliver(b);
}

void block_cancel(struct block_request *r)
{
    struct block *b = r->block;
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    if (list_remove(&b->queue, r) || list_remove(&b->finished, r)) {
        r->block = NULL;
    } else if (b->loop) {
        r->cancelled = true;
        while (r->block)
            pthread_cond_wait(&b->progress, &b->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
}

/* ---- open and close ---- */

static struct block *create(struct block_store *store, const char *path, bool readonly)
{
    struct block *b = calloc(1, sizeof *b);
    if (!b || !(b->path = strdup(path))) {
        free(b);
        return NULL;
    }
    b->store = store;
    b->readonly = readonly;
    b->event_fd = -1;
    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->work, NULL);
    pthread_cond_init(&b->progress, NULL);
    return b;
}

static int attach_loop(struct block *b, struct loop *loop)
{
    if (!loop)
        return 0;
    b->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (b->event_fd < 0)
        return -errno;
    int error = loop_watch(loop, b->event_fd, LOOP_READ, on_event, b);
    if (error) {
        close(b->event_fd);
        b->event_fd = -1;
        return error;
    }
    b->loop = loop;
    return 0;
}

int block_open(struct block **out, const struct block_options *options, struct loop *loop, char *err, size_t err_len)
{
    const char *path = options->path ? options->path : "";
    struct block_store *store = NULL, *overlay = NULL;
    bool writable = !options->readonly && !options->snapshot;
    *out = NULL;
    if (!*path) {
        snprintf(err, err_len, "disk: the file name is empty");
        return -EINVAL;
    }
    int error = block_store_open_file(&store, path, options->format, writable, err, err_len);
    if (error)
        return error;
    if (options->snapshot && !options->readonly) {
        error = block_store_open_overlay(&overlay, store, err, err_len);
        if (error) {
            store->ops->close(store);
            return error;
        }
        store = overlay;
    }
    struct block *b = create(store, path, options->readonly);
    if (!b) {
        store->ops->close(store);
        snprintf(err, err_len, "%s: out of memory", path);
        return -ENOMEM;
    }
    error = attach_loop(b, loop);
    if (error) {
        snprintf(err, err_len, "%s: %s", path, strerror(-error));
        block_close(b);
        return error;
    }
    *out = b;
    return 0;
}

struct block *block_open_memory(uint64_t size)
{
    struct block_store *store = block_store_open_memory(size);
    if (!store)
        return NULL;
    struct block *b = create(store, "(memory)", false);
    if (!b)
        store->ops->close(store);
    return b;
}

void block_close(struct block *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    while (b->queue.head || b->running)
        pthread_cond_wait(&b->progress, &b->mutex);
    b->stopping = true;
    pthread_cond_broadcast(&b->work);
    pthread_mutex_unlock(&b->mutex);
    for (unsigned i = 0; i < b->worker_count; i++)
        pthread_join(b->workers[i], NULL);
    if (b->loop) {
        struct loop *loop = b->loop;
        b->loop = NULL; /* a done that submits again is served at once */
        loop_watch(loop, b->event_fd, 0, NULL, NULL);
        close(b->event_fd);
        deliver(b);
    }
    if (b->wrote) {
        int error = b->store->ops->flush(b->store);
        if (error)
            log_msg(LOG_DISK, "%s: flush: %s", b->path, strerror(-error));
    }
    b->store->ops->close(b->store);
    pthread_cond_destroy(&b->work);
    pthread_cond_destroy(&b->progress);
    pthread_mutex_destroy(&b->mutex);
    free(b->path);
    free(b);
}

uint64_t block_sectors(const struct block *b)
{
    return b->store->sectors;
}

bool block_readonly(const struct block *b)
{
    return b->readonly;
}

const char *block_path(const struct block *b)
{
    return b->path;
}
