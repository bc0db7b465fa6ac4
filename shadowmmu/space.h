/* SPDX-License-Identifier: MIT */
/* What the shadow tables hold, and for whom: a record for each entry, in the list of the address space it was made for.
 *
 * The tables show one address space at a time: entries of global pages, and those of the current space. With CR4.PCIDE
 * the guest switches between spaces and wants to find their entries again. Then the entries of the space it leaves are
 * taken out of the tables and kept in their records ("parked"), and those of the space it comes to are put back: some
 * nanoseconds an entry where a new fill takes a hundred times as long. A space is known by its whole CR3; one without
 * PCID is dropped when it is left.
 *
 * Records are chained by gfn too, parked ones included, so that a page's entries are found wherever they are. A record
 * may be stale (its table entry was cleared or overwritten since): the delta in it tells.
 *
 * Every process of a guest that randomizes addresses is somewhere else. So the host's memory for the lower half of the
 * tables, where 64-bit processes are, is given back now and then, when no space's entries are there.
 *
 * Internal to shadowmmu. Threads: the vCPU's own. */
#ifndef RINGFOLD_SHADOWMMU_SPACE_H
#define RINGFOLD_SHADOWMMU_SPACE_H

#include "shadowmmu/mmu.h"

/* Returns 0 or -ENOMEM. */
int mmu_space_init(struct mmu *mmu);
void mmu_space_destroy(struct mmu *mmu);

/* Enters a delta for a page (its table index) into a view's read table, and notes it. Drops everything first when there
 * is no record left. */
void mmu_space_enter(struct mmu *mmu, enum mmu_view view, uint64_t page, uint64_t gfn, uint64_t delta, bool global);

/* The entries of global pages and of every space; of every space; of the current one. */
void mmu_space_drop_all(struct mmu *mmu);
void mmu_space_drop_spaces(struct mmu *mmu);
void mmu_space_drop_current(struct mmu *mmu);
/* Parked spaces with this PCID. */
void mmu_space_drop_pcid(struct mmu *mmu, uint64_t pcid);

/* CR3 with another PCID: parks the current space and makes cr3's the current one, with the entries it had if keep. */
void mmu_space_switch(struct mmu *mmu, uint64_t cr3, bool keep);

/* Of the current space's user entries, the last `most`: are there more at addresses below the limit than elsewhere? */
bool mmu_space_is_below(const struct mmu *mmu, uint64_t limit, unsigned most);

/* See mmu_drop_gfn. */
void mmu_space_drop_gfn(struct mmu *mmu, uint64_t gfn, bool writes_only);

#endif
