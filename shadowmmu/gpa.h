/* SPDX-License-Identifier: MIT */
/* Address types shared by every part of the monitor.
 *
 * gva: guest virtual (linear) address, a plain uint64_t.
 * gpa: guest physical address, a type of its own so that nobody can dereference it by mistake.
 * gfn: guest frame number, gpa >> 12.
 * hva: host virtual address, an ordinary pointer. */
#ifndef RINGFOLD_SHADOWMMU_GPA_H
#define RINGFOLD_SHADOWMMU_GPA_H

#include <stdint.h>

enum { PAGE_SHIFT = 12, PAGE_SIZE = 1 << PAGE_SHIFT, PAGE_MASK = PAGE_SIZE - 1 };

typedef struct {
    uint64_t v;
} gpa_t;

static inline gpa_t gpa(uint64_t v)
{
    return (gpa_t){v};
}

static inline gpa_t gpa_add(gpa_t a, uint64_t n)
{
    return (gpa_t){a.v + n};
}

static inline uint64_t gpa_gfn(gpa_t a)
{
    return a.v >> PAGE_SHIFT;
}

#endif
