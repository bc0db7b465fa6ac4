/* SPDX-License-Identifier: MIT */
/* Disk images as seen by a controller: sectors of 512 bytes, asynchronous. Formats are told apart by content.
 *
 * Threads: submit and completion under the machine lock; the I/O itself may run in a worker thread. */
#ifndef RINGFOLD_DEVICES_BLOCK_H
#define RINGFOLD_DEVICES_BLOCK_H

#include "devices/loop.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum block_op { BLOCK_READ, BLOCK_WRITE, BLOCK_FLUSH };

struct block;

struct block_options {
    const char *path;
    /* NULL: by content ("raw" is the only one that is never guessed for a file with a known magic) */
    const char *format;
    bool readonly;
    bool snapshot; /* writes go to a temporary overlay that disappears with the machine */
};

/* loop NULL: every request completes inside block_submit (unit tests). err gets one line naming the file and the
 * reason. */
int block_open(struct block **out, const struct block_options *options, struct loop *loop, char *err, size_t err_len);
/* A disk of size bytes in memory, for tests. */
struct block *block_open_memory(uint64_t size);
/* Waits for requests under way, flushes, closes. */
void block_close(struct block *b);
uint64_t block_sectors(const struct block *b); /* of 512 bytes; a partial last sector counts, zero-filled */
bool block_readonly(const struct block *b);
const char *block_path(const struct block *b);

struct block_request {
    enum block_op op;
    uint64_t sector;
    uint32_t count;                        /* sectors */
    uint8_t *buf;                          /* count * 512 bytes, owned by the caller until done */
    void (*done)(void *opaque, int error); /* 0 or -errno; may be called before block_submit returns */
    void *opaque;
    struct block *block; /* private from here */
    struct block_request *next;
    int error;
    bool cancelled;
};
/* Out-of-range requests complete with -EINVAL, writes to a read-only disk with -EROFS. */
void block_submit(struct block *b, struct block_request *r);
/* After it done is not called any more for r and buf is no longer touched (waits if the I/O runs right now). */
void block_cancel(struct block_request *r);
/* Calls done for whatever has finished, without waiting for the loop to come round: for a guest that polls. */
void block_poll(struct block *b);

#endif
