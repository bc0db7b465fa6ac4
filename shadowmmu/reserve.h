/* SPDX-License-Identifier: MIT */
/* Host memory for tables that are mostly empty: address space now, a page of memory when it is first written. */
#ifndef RINGFOLD_SHADOWMMU_RESERVE_H
#define RINGFOLD_SHADOWMMU_RESERVE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

/* size bytes of zeroes, page-aligned. NULL with errno set: no address space. */
static inline void *reserve(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Address space without memory at a page-aligned host address; NULL when something is there. */
static inline void *reserve_at(uintptr_t at, uint64_t size)
{
    void *p =
        mmap((void *)at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (p == (void *)at)
        return p;
    if (p != MAP_FAILED) /* before Linux 4.17: a hint */
        munmap(p, size);
    return NULL;
}

/* Gives it back; NULL: nothing to give. */
static inline void unreserve(void *p, uint64_t size)
{
    if (p)
        munmap(p, size);
}

/* The bytes [from, to) of what was reserved hold zeroes: gives the memory of whole pages back, and that of the host's
 * page tables for them. */
static inline void reserve_again(void *from, void *to)
{
    uintptr_t first = ((uintptr_t)from + 4095) & ~(uintptr_t)4095, end = (uintptr_t)to & ~(uintptr_t)4095;
    if (first < end && mmap((void *)first, end - first, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        madvise((void *)first, end - first, MADV_DONTNEED); /* no room for one more mapping */
}

/* A table that is filled from its beginning: memory for what comes next, many pages at once, where the first touch of
 * each would be a page fault. used, size: bytes in use and reserved; *have: there is memory for so many. A kernel that
 * does not know this (before Linux 5.14) does no harm. */
static inline void reserve_ahead(void *table, uint64_t used, uint64_t size, uint64_t *have, uint64_t step)
{
    if (used + step / 2 <= *have || size < *have + step)
        return;
    madvise((uint8_t *)table + *have, step, MADV_POPULATE_WRITE);
    *have += step;
}

#endif
