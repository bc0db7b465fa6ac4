/* SPDX-License-Identifier: MIT */
/* Region tables: where the windows of a 64-bit guest's memory are, by bits 32-63 of the address.
 *
 * A region is 4 GiB of guest-virtual addresses. table[gva >> 32], an unsigned 32-bit index, is the host address of the
 * region's slot (shadowmmu/window.h) less that of the region, and MMU_REGION_BIAS; where there is no slot it is
 * MMU_REGION_NONE, which makes every address of the region non-canonical. A table is 32 GiB of address space, of which
 * only the pages for canonical addresses may be read: the index of any other address is a host page fault. It begins
 * below 2 GiB, so that its address is a 32-bit displacement.
 *
 * Others find code by address likewise (bt/jump_map.h): four bytes for each byte of the guest's, so that an entry is
 * the host's address less four times the region's, and the bias.
 *
 * Tables of one process overlap, 2 MiB from each other, since they are sparse: an address that is not canonical may
 * meet an entry of another table, of the one kind or the other. That leads to a non-canonical host address, too: the
 * distance is a multiple of 2^50 in guest addresses, and what an entry and such an address differ in beside that is
 * less than 2^49 + 2^48. */
#ifndef RINGFOLD_SHADOWMMU_REGION_H
#define RINGFOLD_SHADOWMMU_REGION_H

#include <stdbool.h>
#include <stdint.h>

/* Host addresses are page-aligned: the low six bits of every entry are 32, and the register that holds one is SHRX's
 * count, too. Every access subtracts it again. */
enum { MMU_REGION_SHIFT = 32, MMU_REGION_BIAS = 32 };
#define MMU_REGION_NONE ((1ull << 62) + MMU_REGION_BIAS)

/* A table without slots. NULL when there is no address space. */
uint64_t *mmu_regions_create(void);
/* One of which nothing may be read yet. */
uint64_t *mmu_regions_create_closed(void);
void mmu_regions_destroy(uint64_t *table);

/* Is the host address in the table, pages without access included? */
bool mmu_regions_hold(const uint64_t *table, uintptr_t host);

/* What an address would find in a table if the page was there: its sum with the address is never canonical. */
static inline uint64_t mmu_region_nowhere(uint64_t gva)
{
    return MMU_REGION_NONE - (gva >> MMU_REGION_SHIFT << MMU_REGION_SHIFT);
}

/* The last page of the lower half: an access that begins here may end where it is #GP, whether the page is there or
 * not. */
static inline bool mmu_ends_lower_half(uint64_t gva)
{
    return gva >> 12 == (1ull << 47 >> 12) - 1;
}

static inline bool mmu_canonical(uint64_t gva)
{
    return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}

#endif
