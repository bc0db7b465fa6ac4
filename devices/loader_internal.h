/* SPDX-License-Identifier: MIT */
/* Shared by the files of the kernel loader: one load under way, checked file access, and where guest memory is free. */
#ifndef RINGFOLD_DEVICES_LOADER_INTERNAL_H
#define RINGFOLD_DEVICES_LOADER_INTERNAL_H

#include "devices/loader.h"

enum { LOADER_USED_MAX = 80 };

struct loader_file {
    const char *role; /* "kernel", "initrd": first word of every message */
    const char *path;
    int fd;
    uint64_t size;
};

struct loader_range {
    uint64_t base, end;
};

struct loader_job {
    struct memory *mem;
    const struct machine_config *config;
    const struct loader_board *board;
    struct loader_entry *entry;
    struct loader_range used[LOADER_USED_MAX];
    unsigned used_count;
    char *err;
    size_t err_len;
};

/* Puts one line "ROLE PATH: reason" into job->err and returns code (-errno). */
int loader_fail(struct loader_job *job, const struct loader_file *file, int code, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Opens a regular, non-empty file. 0 or -errno; close with loader_file_close. */
int loader_file_open(struct loader_job *job, struct loader_file *file, const char *role, const char *path);
void loader_file_close(struct loader_file *file);
/* Exactly len bytes at offset into buf; a range beyond the end is an error. */
int loader_file_read(struct loader_job *job, const struct loader_file *file, uint64_t offset, void *buf, uint64_t len);
/* The same into guest memory, which must be RAM. */
int loader_file_copy(struct loader_job *job, const struct loader_file *file, uint64_t offset, uint64_t dest,
                     uint64_t len);

int loader_write(struct loader_job *job, const struct loader_file *file, uint64_t dest, const void *buf, uint64_t len);
int loader_zero(struct loader_job *job, const struct loader_file *file, uint64_t dest, uint64_t len);

/* True when every byte is RAM by the E820 map. A range that wraps is not. */
bool loader_is_ram(const struct loader_board *board, uint64_t base, uint64_t size);
/* The end of the RAM that runs without a hole from base; base itself when that is not RAM. */
uint64_t loader_ram_end(const struct loader_board *board, uint64_t base);

/* Records a range as taken. False when the table is full. */
bool loader_use(struct loader_job *job, uint64_t base, uint64_t size);
/* The lowest free place of size bytes in [min, max), or the highest one; UINT64_MAX when there is none. Not recorded.
 */
uint64_t loader_find_low(const struct loader_job *job, uint64_t size, uint64_t align, uint64_t min, uint64_t max);
uint64_t loader_find_high(const struct loader_job *job, uint64_t size, uint64_t align, uint64_t min, uint64_t max);

/* Fills the segments of a flat 32-bit entry, or a 64-bit one, and writes the GDT that holds them to guest memory at
 * gdt_base. Code selector code_selector, data right behind it. */
int loader_enter_flat(struct loader_job *job, const struct loader_file *file, unsigned mode, uint64_t gdt_base,
                      uint16_t code_selector);

/* The formats. header: the first header_len bytes of the file. */
int loader_load_linux(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header,
                      size_t header_len);
/* True when a multiboot header is there; *offset where. */
bool loader_find_multiboot(const uint8_t *header, size_t header_len, uint32_t *offset);
int loader_load_multiboot(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header,
                          size_t header_len, uint32_t offset);

static inline uint16_t loader_get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t loader_get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t loader_get64(const uint8_t *p)
{
    return loader_get32(p) | (uint64_t)loader_get32(p + 4) << 32;
}
static inline void loader_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void loader_put32(uint8_t *p, uint32_t v)
{
    loader_put16(p, (uint16_t)v);
    loader_put16(p + 2, (uint16_t)(v >> 16));
}
static inline void loader_put64(uint8_t *p, uint64_t v)
{
    loader_put32(p, (uint32_t)v);
    loader_put32(p + 4, (uint32_t)(v >> 32));
}

#endif
