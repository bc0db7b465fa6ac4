/* SPDX-License-Identifier: MIT */
/* The event loop of the machine's I/O thread: file descriptors, the clock's timers, and work posted by other threads.
 * Callbacks run with the machine lock held, in the loop's thread (timers: of who keeps time). */
#ifndef RINGFOLD_DEVICES_LOOP_H
#define RINGFOLD_DEVICES_LOOP_H

#include "devices/clock.h"

#include <pthread.h>
#include <stdbool.h>

struct loop;

enum loop_events { LOOP_READ = 1, LOOP_WRITE = 2 };

/* lock: the machine lock, taken around callbacks. clock: its timers are run. */
struct loop *loop_create(struct clock *clock, pthread_mutex_t *lock);
void loop_destroy(struct loop *loop);
/* Watches fd; a second call for the same fd replaces. events 0 removes it. events passed to fn: enum loop_events (a
 * hang-up shows as LOOP_READ). */
int loop_watch(struct loop *loop, int fd, unsigned events, void (*fn)(void *opaque, int fd, unsigned events),
               void *opaque);
/* From any thread: run fn(opaque) in the loop's thread soon. 0 or -ENOMEM. */
int loop_post(struct loop *loop, void (*fn)(void *opaque), void *opaque);
/* Does the loop run the clock's timers, and get its rearm hook (the default), or somebody else? Under the lock. */
void loop_keep_time(struct loop *loop, bool keep);
/* Runs until loop_quit. Called without the lock. */
void loop_run(struct loop *loop);
/* One round, in the calling thread: what was posted, the files that are ready and the clock's due timers. Waits up to
 * wait_ns for something to come. Called without the lock. */
void loop_round(struct loop *loop, uint64_t wait_ns);
/* From any thread or signal handler. */
void loop_quit(struct loop *loop);

#endif
