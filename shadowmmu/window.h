/* SPDX-License-Identifier: MIT */
/* Windows: host page tables as the shadow of a 32-bit guest's pages.
 *
 * 4 GiB of host address space (and a guard for accesses that run over its end) in which a guest page is mapped where
 * its address says, from the file behind guest RAM. Code that reaches memory through a window needs no table look-up;
 * a page that is not there, or not writable, is a host page fault, which the translator turns into mmu_window_fill. A
 * page costs several microseconds to enter and to remove where a table entry costs a tenth of one, so that windows are
 * for code that stays in one address space for a while (bt/window.h decides).
 *
 * There are two. The user window holds pages that user code may touch, until the address space is flushed. The
 * supervisor window holds global pages only (all pages while paging is off), so that it outlives the loads of CR3, and
 * with SMAP none of the user's. What is mapped is always a part of what the tables of that view hold, with the same
 * rights: whatever clears a table entry takes the page out of the window.
 *
 * Threads: the vCPU's own. */
#ifndef RINGFOLD_SHADOWMMU_WINDOW_H
#define RINGFOLD_SHADOWMMU_WINDOW_H

#include "shadowmmu/mmu.h"

/* Reserves the address space. False when there is none. Idempotent. */
bool mmu_window_open(struct mmu *mmu, enum mmu_window_kind kind);
void mmu_window_close(struct mmu *mmu, enum mmu_window_kind kind);

/* Is the host address inside the window or its guard? Then *gva is the guest's; in the guard it is 4 GiB or more. */
bool mmu_window_holds(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host, uint64_t *gva);

enum mmu_window_result {
    MMU_WINDOW_OK,    /* the page is there now: run the instruction again */
    MMU_WINDOW_FAULT, /* the guest's own page fault: *fault */
    MMU_WINDOW_TABLE, /* this access must go through the tables: device, code, ROM */
    MMU_WINDOW_FULL   /* the host takes no more mappings */
};
/* An access to gva (below 4 GiB) met a page that the window does not hold with that right. access: enum mmu_access with
 * the rights of the instruction. */
enum mmu_window_result mmu_window_fill(struct mmu *mmu, enum mmu_window_kind kind, uint32_t gva, unsigned access,
                                       struct mmu_fault *fault);

/* The guest has dealt with its user code's page fault at gva: enters the page before the access that will be repeated,
 * if it is there now. */
void mmu_window_prefill(struct mmu *mmu, uint32_t gva, bool write);

/* Takes out one page (its table index), or only its write right; or everything. */
void mmu_window_drop(struct mmu *mmu, enum mmu_window_kind kind, uint64_t index, bool writes_only);
void mmu_window_clear(struct mmu *mmu, enum mmu_window_kind kind);

#endif
