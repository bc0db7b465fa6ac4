/* SPDX-License-Identifier: MIT */
/* Host memory for tables that are mostly empty: address space now, a page of memory when it is first written. */
#ifndef RINGFOLD_SHADOWMMU_RESERVE_H
#define RINGFOLD_SHADOWMMU_RESERVE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

/* size bytes of zeroes, page-aligned. NULL with errno set: no address space. */
static inline void *reserve(uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

/* Gives it back; NULL: nothing to give. */
static inline void unreserve(void *p, uint64_t size)
{
    if (p)
        munmap(p, size);
}

#endif
