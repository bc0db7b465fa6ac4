/* SPDX-License-Identifier: MIT */
/* Where a disk's sectors are: a raw file, memory, or an overlay over another store. block.c puts the queue, the worker
 * threads and the checks of range and write access in front of it.
 *
 * Threads: every operation may run in several threads at once; the machine lock is not held. Errors are -errno. */
#ifndef RINGFOLD_DEVICES_BLOCK_STORE_H
#define RINGFOLD_DEVICES_BLOCK_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { BLOCK_SECTOR_SIZE = 512 };

struct block_store;

struct block_store_ops {
    int (*read)(struct block_store *s, uint64_t sector, uint32_t count, uint8_t *buf);
    int (*write)(struct block_store *s, uint64_t sector, uint32_t count, const uint8_t *buf);
    int (*flush)(struct block_store *s);
    void (*close)(struct block_store *s);
};

struct block_store {
    const struct block_store_ops *ops;
    uint64_t sectors;
};

/* Opens, locks and checks a file or block device. format as in struct block_options. err gets one line naming the file
 * and the reason. */
int block_store_open_file(struct block_store **out, const char *path, const char *format, bool writable, char *err,
                          size_t err_len);
/* Writes stay in an unlinked temporary file. Takes base over when it succeeds. */
int block_store_open_overlay(struct block_store **out, struct block_store *base, char *err, size_t err_len);
/* NULL when there is not enough memory. */
struct block_store *block_store_open_memory(uint64_t size);

#endif
