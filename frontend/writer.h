/* SPDX-License-Identifier: MIT */
/* Output to a descriptor that may be slow (stdout, a file): a thread writes what others put into a queue, so that
 * nobody who holds the machine lock waits for a pipe. Nothing is lost as long as the reader reads: a full queue drops
 * the newest bytes, and the end waits for the queue to drain. */
#ifndef RINGFOLD_FRONTEND_WRITER_H
#define RINGFOLD_FRONTEND_WRITER_H

#include <stddef.h>
#include <stdint.h>

struct writer;

enum { WRITER_QUEUE_MAX = 64 << 20 };

/* failed: called once, from the writer's thread, when a write fails (EPIPE, ENOSPC, ...); everything later is dropped.
 * The descriptor stays the caller's. NULL when out of memory or threads. */
struct writer *writer_create(int fd, void (*failed)(void *opaque, int error), void *opaque);
/* Any thread; never blocks. */
void writer_put(struct writer *w, const uint8_t *buf, size_t len);
/* Writes the rest as long as there is progress at least every patience_ms; returns how many bytes were lost. */
size_t writer_destroy(struct writer *w, unsigned patience_ms);

#endif
