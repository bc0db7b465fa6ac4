/* SPDX-License-Identifier: MIT */
/* Parallel regions: those of user code whose slots (shadowmmu/window.h) all lie at one distance from the guest's
 * addresses, so that code which knows that an address is in one of them needs no entry of the region table: the host's
 * address is the guest's plus that distance, which is in GS while such code runs (where the host's FSGSBASE lets it).
 *
 * There are two distances, because the host's address space is no larger than the guest's: the *low side* is that of
 * addresses below 2 TiB (programs that are not position-independent, their heaps), the *high side* that of those above.
 * One of them is in force at a time. What is made parallel is a *stretch*, 2 TiB of addresses, whose place is reserved
 * for good when it is first wanted, with a slot's guard on either side; if something of the monitor's is there, the
 * stretch cannot be parallel.
 *
 * The table tells which stretches are parallel now: by bits 32-63 of an address, eight bytes each as in a region table
 * (shadowmmu/region.h), it may be read where they are. All that is wanted of it is whether it can be read:
 *
 *     shrx r11, rbx, r15 ; mov r11d, [table + r11*8]       a host page fault, or rbx is in a parallel stretch
 *
 * Nothing waits for what is loaded. That region tables overlap is no matter here either: what another table's page
 * would let pass is 2^50 or more from any canonical address, and stays not canonical at either distance. */
#ifndef RINGFOLD_SHADOWMMU_PARALLEL_H
#define RINGFOLD_SHADOWMMU_PARALLEL_H

#include "shadowmmu/mmu.h"

enum { MMU_STRETCH_SHIFT = 41, MMU_STRETCHES = 1 << (47 - MMU_STRETCH_SHIFT) };

/* Of the user's window w, behind whose base the low side's stretch and a guard have been reserved. The table stays NULL
 * when there is no address space for it. */
void mmu_parallel_open(struct mmu_window *w);
void mmu_parallel_close(struct mmu_window *w);

/* Brings the side into force where most of the pages are that the current address space came to last. */
void mmu_parallel_choose(struct mmu *mmu);
/* Brings a side into force. */
void mmu_parallel_use(struct mmu_window *w, enum mmu_side side);
/* The side that an address is on. */
static inline enum mmu_side mmu_parallel_side(uint64_t gva)
{
    return gva >> MMU_STRETCH_SHIFT ? MMU_SIDE_HIGH : MMU_SIDE_LOW;
}
/* Makes the stretch of an address parallel, if it can be with the side that is in force. */
bool mmu_parallel_take(struct mmu_window *w, uint64_t gva);

/* Where a region (bits 32-47 of its addresses) lies in parallel, or NULL: its stretch has no place. */
uint8_t *mmu_parallel_place(const struct mmu_window *w, unsigned region);
/* Which guest address a host address is for, if it lies in a stretch's place; not in the last page of the lower half,
 * where an access may end beyond what is canonical. */
bool mmu_parallel_address(const struct mmu_window *w, uintptr_t host, uint64_t *gva);
/* Is it in one or in its guards? */
bool mmu_parallel_owns(const struct mmu_window *w, uintptr_t host);

#endif
