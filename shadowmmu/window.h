/* SPDX-License-Identifier: MIT */
/* Windows: host page tables as the shadow of a guest's pages.
 *
 * 4 GiB of host address space in which a guest page is mapped where its address says, from the file behind guest RAM,
 * between guards for addresses that were not reduced to 32 bits. Code that reaches memory through a window needs no
 * table look-up; a page that is not there, or not writable, is a host page fault, which the translator turns into
 * mmu_window_fill. A page costs several microseconds to enter and to remove where a table entry costs a tenth of one,
 * so that windows are for code that stays in one address space for a while (bt/window.h decides).
 *
 * The window of a CPU with long mode has several such ranges, *slots*, each with 60 GiB of guard before and behind.
 * Slot 0 is for addresses below 4 GiB, which is all that 32-bit code sees; the others are given to the regions (4 GiB
 * of addresses each) that 64-bit code uses, and region tables (shadowmmu/region.h) tell which. Of the user window most
 * slots lie at one distance from the guest's addresses (shadowmmu/parallel.h).
 *
 * There are two windows. The user window holds pages that user code may touch, until the address space is flushed. The
 * supervisor window holds global pages (all pages while paging is off), so that it outlives the loads of CR3; where
 * CR4.PGE is clear it holds the current address space's until CR3 is loaded. With SMAP there are none of the user's in
 * it. What is mapped is always a part of what the tables of that view hold, with the same rights: whatever clears a
 * table entry takes the page out of the window.
 *
 * Threads: the vCPU's own. */
#ifndef RINGFOLD_SHADOWMMU_WINDOW_H
#define RINGFOLD_SHADOWMMU_WINDOW_H

#include "shadowmmu/mmu.h"

/* Reserves the address space. False when there is none. Idempotent. window.regions is NULL without long mode, or when
 * there is no address space for a region table: then the window is for 32-bit code only. */
bool mmu_window_open(struct mmu *mmu, enum mmu_window_kind kind);
void mmu_window_close(struct mmu *mmu, enum mmu_window_kind kind);

/* Nothing is ever mapped in so many bytes before and behind the range that 32-bit code sees: an index register, scaled
 * by up to 8, with a displacement of 2 GiB upwards or little downwards ends here. */
enum { MMU_WINDOW_BELOW = 32 << 20 };
#define MMU_WINDOW_ABOVE (30ull << 30)
/* The same before and behind each slot. Where 64-bit code says the region itself, an index of 32 bits, scaled, and a
 * displacement lead up to 18 GiB down or 34 up from it; what it takes for the region may be as far off. */
#define MMU_WINDOW_GUARD (60ull << 30)

/* Is the host address inside the window that 32-bit code sees, or its guards? Then *gva is the guest's; in a guard it
 * is 4 GiB or more. */
bool mmu_window_holds(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host, uint64_t *gva);
/* Is it in any slot or guard? */
bool mmu_window_owns(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host);

/* What of the guest a host address in a slot (not in a guard) is for. False: it is in none that a region has. */
bool mmu_window_guest_address(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host, uint64_t *gva);

enum mmu_window_result {
    MMU_WINDOW_OK,    /* the page is there now: run the instruction again */
    MMU_WINDOW_FAULT, /* the guest's own page fault: *fault */
    MMU_WINDOW_TABLE, /* this access must go through the tables: device, code, ROM */
    MMU_WINDOW_FULL   /* the host takes no more mappings */
};
/* An access to gva (canonical; of a region with a slot, or a parallel one) met a page that the window does not hold
 * with that right. access: enum mmu_access with the rights of the instruction. Slots may belong to other regions
 * afterwards. */
enum mmu_window_result mmu_window_fill(struct mmu *mmu, enum mmu_window_kind kind, uint64_t gva, unsigned access,
                                       struct mmu_fault *fault);

/* Gives the region of gva (canonical) a slot, if there is a page at gva that may be in this window. access: the rights,
 * without the kind. OK: it has one. FAULT: there is no such page now. TABLE: it is not for windows. */
enum mmu_window_result mmu_window_take_region(struct mmu *mmu, enum mmu_window_kind kind, uint64_t gva,
                                              unsigned access);

/* Makes the stretch of regions around gva parallel (shadowmmu/parallel.h) in the user's window. False: it cannot be
 * now. Regions may have lost their slots. */
bool mmu_window_take_stretch(struct mmu *mmu, uint64_t gva);

/* 32-bit user code is about to use the window: takes out what 64-bit code of the same address space has within
 * MMU_WINDOW_ABOVE behind slot 0, since its addresses wrap at 4 GiB. */
void mmu_window_guard_32(struct mmu *mmu);

/* The guest has dealt with its user code's page fault at gva: enters the page before the access that will be repeated,
 * if it is there now. */
void mmu_window_prefill(struct mmu *mmu, uint64_t gva, bool write);

/* Takes out one page (its table index), or only its write right; or everything. */
void mmu_window_drop(struct mmu *mmu, enum mmu_window_kind kind, uint64_t index, bool writes_only);
void mmu_window_clear(struct mmu *mmu, enum mmu_window_kind kind);

/* INVLPG: the page must be out of the user window before user code runs again, which mmu_window_settle sees to. Most
 * often another page takes its place before that, in one mapping instead of two. */
void mmu_window_drop_later(struct mmu *mmu, uint64_t index);
void mmu_window_settle(struct mmu *mmu);

#endif
