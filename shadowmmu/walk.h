/* SPDX-License-Identifier: MIT */
/* The guest page walk: two-level, PAE and four-level paging (SDM vol. 3, 4.3-4.6). */
#ifndef RINGFOLD_SHADOWMMU_WALK_H
#define RINGFOLD_SHADOWMMU_WALK_H

#include "shadowmmu/mmu.h"

struct walk {
    gpa_t addr; /* of the byte asked for */
    bool user;  /* U/S set at every level */
    bool write; /* R/W set at every level */
    bool no_execute;
    bool dirty;  /* D of the leaf, after this access */
    bool global; /* G of the leaf, and CR4.PGE */
};

/* Walks for one access, checks its rights, sets A and D. 0, or -1 with *fault filled. */
int walk_guest(struct mmu *mmu, uint64_t gva, unsigned access, struct walk *out, struct mmu_fault *fault);

#endif
