/* SPDX-License-Identifier: MIT */
/* Two locks: the machine lock is held around every callback; loop->mutex guards the loop's own lists and is never held
 * while a callback or the machine lock is taken. An eventfd wakes the sleeper. */
#include "devices/loop.h"

#include "devices/log.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

struct watch {
    int fd;
    unsigned events;
    uint64_t serial; /* tells a watch from a later one of the same fd number */
    void (*fn)(void *opaque, int fd, unsigned events);
    void *opaque;
};

struct work {
    void (*fn)(void *opaque);
    void *opaque;
    struct work *next;
};

struct loop {
    struct clock *clock;
    pthread_mutex_t *lock;
    pthread_mutex_t mutex;
    int wake_fd;
    bool keeps_time;
    _Atomic bool quit;
    _Atomic bool awake; /* the loop's thread will look at everything again before it sleeps */
    struct watch *watches;
    size_t watch_count, watch_room;
    uint64_t next_serial;
    struct work *posted, **posted_tail;
    /* Only the loop's thread: */
    struct pollfd *polls;
    uint64_t *serials;
    size_t poll_room;
};

/* Async-signal-safe. */
static void wake(struct loop *loop)
{
    int saved = errno;
    uint64_t one = 1;
    ssize_t n = write(loop->wake_fd, &one, sizeof one);
    (void)n; /* only fails when the counter is full, and then the loop is awake */
    errno = saved;
}

static void on_rearm(void *opaque)
{
    struct loop *loop = opaque;
    if (!loop->awake)
        wake(loop);
}

struct loop *loop_create(struct clock *clock, pthread_mutex_t *lock)
{
    struct loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->clock = clock;
    loop->lock = lock;
    loop->posted_tail = &loop->posted;
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->wake_fd < 0) {
        free(loop);
        return NULL;
    }
    pthread_mutex_init(&loop->mutex, NULL);
    loop_keep_time(loop, clock != NULL);
    return loop;
}

void loop_keep_time(struct loop *loop, bool keep)
{
    loop->keeps_time = keep;
    if (!keep)
        return;
    clock_set_rearm_hook(loop->clock, on_rearm, loop);
    on_rearm(loop);
}

void loop_destroy(struct loop *loop)
{
    if (!loop)
        return;
    if (loop->clock)
        clock_set_rearm_hook(loop->clock, NULL, NULL);
    while (loop->posted) {
        struct work *w = loop->posted;
        loop->posted = w->next;
        free(w);
    }
    close(loop->wake_fd);
    pthread_mutex_destroy(&loop->mutex);
    free(loop->watches);
    free(loop->polls);
    free(loop->serials);
    free(loop);
}

static int set_watch(struct loop *loop, const struct watch *w)
{
    size_t i = 0;
    while (i < loop->watch_count && loop->watches[i].fd != w->fd)
        i++;
    if (!w->events) {
        if (i < loop->watch_count)
            loop->watches[i] = loop->watches[--loop->watch_count];
        return 0;
    }
    if (i == loop->watch_room) {
        size_t room = loop->watch_room ? loop->watch_room * 2 : 16;
        struct watch *grown = realloc(loop->watches, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        loop->watches = grown;
        loop->watch_room = room;
    }
    if (i == loop->watch_count)
        loop->watch_count++;
    loop->watches[i] = *w;
    loop->watches[i].serial = ++loop->next_serial;
    return 0;
}

int loop_watch(struct loop *loop, int fd, unsigned events, void (*fn)(void *opaque, int fd, unsigned events),
               void *opaque)
{
    if (fd < 0)
        return -EBADF;
    struct watch w = {.fd = fd, .events = fn ? events : 0, .fn = fn, .opaque = opaque};
    pthread_mutex_lock(&loop->mutex);
    int err = set_watch(loop, &w);
    pthread_mutex_unlock(&loop->mutex);
    if (!loop->awake)
        wake(loop);
    return err;
}

int loop_post(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
    struct work *w = malloc(sizeof *w);
    if (!w)
        return -ENOMEM;
    *w = (struct work){.fn = fn, .opaque = opaque};
    pthread_mutex_lock(&loop->mutex);
    *loop->posted_tail = w;
    loop->posted_tail = &w->next;
    pthread_mutex_unlock(&loop->mutex);
    wake(loop);
    return 0;
}

void loop_quit(struct loop *loop)
{
    loop->quit = true;
    wake(loop);
}

/* Runs what was posted before the call; work that posts itself again waits for the next round. */
static void run_posted(struct loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    struct work *w = loop->posted;
    loop->posted = NULL;
    loop->posted_tail = &loop->posted;
    pthread_mutex_unlock(&loop->mutex);
    while (w) {
        struct work *next = w->next;
        pthread_mutex_lock(loop->lock);
        w->fn(w->opaque);
        pthread_mutex_unlock(loop->lock);
        free(w);
        w = next;
    }
}

/* Fills polls from the watches; polls[0] is the eventfd. Returns how many, 0 when out of memory. */
static size_t collect(struct loop *loop)
{
    pthread_mutex_lock(&loop->mutex);
    size_t n = loop->watch_count + 1;
    if (n > loop->poll_room) {
        struct pollfd *polls = realloc(loop->polls, n * 2 * sizeof *polls);
        if (polls)
            loop->polls = polls;
        uint64_t *serials = realloc(loop->serials, n * 2 * sizeof *serials);
        if (serials)
            loop->serials = serials;
        if (!polls || !serials) {
            pthread_mutex_unlock(&loop->mutex);
            return 0;
        }
        loop->poll_room = n * 2;
    }
    loop->polls[0] = (struct pollfd){.fd = loop->wake_fd, .events = POLLIN};
    for (size_t i = 1; i < n; i++) {
        const struct watch *w = &loop->watches[i - 1];
        short events = (short)((w->events & LOOP_READ ? POLLIN : 0) | (w->events & LOOP_WRITE ? POLLOUT : 0));
        loop->polls[i] = (struct pollfd){.fd = w->fd, .events = events};
        loop->serials[i] = w->serial;
    }
    pthread_mutex_unlock(&loop->mutex);
    return n;
}

static void dispatch(struct loop *loop, const struct pollfd *p, uint64_t serial)
{
    struct watch found = {0};
    pthread_mutex_lock(&loop->mutex);
    for (size_t i = 0; i < loop->watch_count; i++) {
        if (loop->watches[i].fd == p->fd && loop->watches[i].serial == serial) {
            found = loop->watches[i];
            if (p->revents & POLLNVAL)
                loop->watches[i] = loop->watches[--loop->watch_count];
            break;
        }
    }
    pthread_mutex_unlock(&loop->mutex);
    if (!found.fn)
        return; /* removed or replaced by an earlier callback of this round */
    if (p->revents & POLLNVAL) {
        log_msg(LOG_DEVICE, "loop: fd %d was closed while it was watched", p->fd);
        return;
    }
    unsigned events = 0;
    if (p->revents & (POLLIN | POLLHUP | POLLERR))
        events |= LOOP_READ;
    if ((p->revents & POLLOUT) || ((p->revents & (POLLHUP | POLLERR)) && (found.events & LOOP_WRITE)))
        events |= LOOP_WRITE;
    pthread_mutex_lock(loop->lock);
    found.fn(found.opaque, p->fd, events);
    pthread_mutex_unlock(loop->lock);
}

/* How long to sleep; NULL: until something happens. */
static const struct timespec *sleep_time(struct loop *loop, struct timespec *ts)
{
    if (!loop->keeps_time)
        return NULL;
    uint64_t deadline = clock_next_deadline(loop->clock);
    if (deadline == CLOCK_NEVER)
        return NULL;
    uint64_t now = clock_now(loop->clock);
    uint64_t left = deadline > now ? deadline - now : 0;
    *ts = (struct timespec){.tv_sec = (time_t)(left / NS_PER_SEC), .tv_nsec = (long)(left % NS_PER_SEC)};
    return ts;
}

static void one_round(struct loop *loop, const struct timespec *most)
{
    run_posted(loop);
    /* From here on a change has to wake the sleeper; the deadline is read after that, under the lock. */
    struct timespec ts;
    pthread_mutex_lock(loop->lock);
    loop->awake = false;
    const struct timespec *timeout = most ? most : sleep_time(loop, &ts);
    pthread_mutex_unlock(loop->lock);
    size_t n = collect(loop);
    if (!n) {
        log_msg(LOG_DEVICE, "loop: out of memory");
        usleep(1000);
        return;
    }
    int ready = loop->quit ? 0 : ppoll(loop->polls, n, timeout, NULL);
    loop->awake = true;
    if (ready > 0 && loop->polls[0].revents) {
        uint64_t count;
        ssize_t r = read(loop->wake_fd, &count, sizeof count);
        (void)r;
    }
    pthread_mutex_lock(loop->lock);
    if (loop->keeps_time)
        clock_run(loop->clock);
    pthread_mutex_unlock(loop->lock);
    for (size_t i = 1; ready > 0 && i < n && !loop->quit; i++)
        if (loop->polls[i].revents)
            dispatch(loop, &loop->polls[i], loop->serials[i]);
}

void loop_round(struct loop *loop, uint64_t wait_ns)
{
    struct timespec ts = {.tv_sec = (time_t)(wait_ns / NS_PER_SEC), .tv_nsec = (long)(wait_ns % NS_PER_SEC)};
    one_round(loop, &ts);
}

void loop_run(struct loop *loop)
{
    /* The default slack of 50 us would show as jitter in the guest's timer interrupts. */
    prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    while (!loop->quit)
        one_round(loop, NULL);
    loop->awake = false;
    loop->quit = false;
}
