/* SPDX-License-Identifier: MIT */
/* One vCPU's memory management unit: guest page walks and the flat shadow tables.
 *
 * A shadow table holds, for each guest-virtual page, the host delta (hva - gva of the page), or 0 for "not here". It is
 * reserved, not allocated: the host's demand-zero paging makes it sparse. Index: bits 12-31 of the address, or bits
 * 12-47 for a CPU with long mode (mmu_table_index).
 *
 * Tables are kept per access (read, write, execute) and per view (user, supervisor, supervisor that may not touch user
 * pages: SMAP). "Write not here" is how every trap is taken: dirty tracking, code pages, ROM, MMIO, traced pages.
 *
 * Threads: everything here belongs to the vCPU's thread, but mmu_request_flush. Built without vector registers, since
 * translated code calls it with the guest's vector state live in the host's registers. */
#ifndef RINGFOLD_SHADOWMMU_MMU_H
#define RINGFOLD_SHADOWMMU_MMU_H

#include "shadowmmu/memory.h"

enum mmu_access {
    MMU_READ = 0,
    MMU_WRITE = 1,
    MMU_EXEC = 2,
    MMU_ACCESS_MASK = 3,
    MMU_SUPERVISOR = 4,  /* the access is made with supervisor rights (CPL < 3, or implicit: descriptor tables) */
    MMU_SMAP_EXEMPT = 8, /* explicit supervisor access with EFLAGS.AC set; never for implicit ones */
    MMU_PROBE = 16       /* do not set A/D bits, do not report: a debugger's look */
};

/* #PF error code bits, SDM vol. 3, 4.7 */
enum mmu_pf { MMU_PF_P = 1, MMU_PF_W = 2, MMU_PF_U = 4, MMU_PF_RSVD = 8, MMU_PF_I = 16 };

struct mmu_fault {
    uint64_t gva;   /* CR2 */
    uint32_t error; /* enum mmu_pf */
};

/* A table set: which rights its entries were filled with. */
enum mmu_view { MMU_VIEW_USER, MMU_VIEW_SUPERVISOR, MMU_VIEW_SMAP, MMU_VIEW_COUNT };

struct mmu_table_set {
    uint64_t *read; /* host delta, 0: not here */
    uint64_t *write;
};

enum mmu_flush_kind {
    MMU_FLUSH_ALL,       /* everything */
    MMU_FLUSH_NONGLOBAL, /* of every address space what is not global */
    MMU_FLUSH_SPACE,     /* of the current address space what is not global */
    MMU_FLUSH_PAGE       /* one page, of the current address space and global */
};

/* An address space's entries: those that are not global. See shadowmmu/space.h. */
struct mmu_space {
    uint64_t cr3;          /* with the PCID */
    uint32_t first, count; /* fill records */
    uint64_t used;         /* when it was parked, 0: this place is empty */
};
enum { MMU_PARKED = 12 }; /* address spaces that are not forgotten; Linux uses 6 PCIDs */

struct mmu_fill;

enum mmu_large {
    MMU_LARGE_FILLED = 1, /* entries here may come from a larger page */
    MMU_LARGE_EXEC = 2,   /* code was looked up in one */
    MMU_LARGE_PART = 4    /* there is one that is larger than 2 MiB: look at its other parts too */
};
enum { MMU_LARGE_SHIFT = 9 };

/* See shadowmmu/window.h. */
enum mmu_window_kind { MMU_WINDOW_USER, MMU_WINDOW_SUPERVISOR };

enum { MMU_WINDOW_SLOTS = 16 };

/* See shadowmmu/parallel.h. */
enum mmu_side { MMU_SIDE_LOW, MMU_SIDE_HIGH };
struct mmu_parallel {
    uint64_t *table;      /* a region table in which the page of a stretch may be read while the stretch is parallel;
                             NULL: there is none */
    uint64_t distance[2]; /* by enum mmu_side: from the guest's address to the host's */
    uint64_t reserved;    /* stretches, by bit, that have their place in the host's address space */
    enum mmu_side side;   /* in force */
    uint64_t entry;       /* what the region table would say of a parallel region */
};

struct mmu_window {
    uint8_t *base;     /* of slot 0, which is region 0's for ever; NULL: not open */
    uint8_t *rights;   /* by page of each slot: what is mapped */
    uint32_t mappings; /* made since it was last empty */
    uint64_t cycles;   /* of the time stamp counter, spent on its pages so far */
    /* a CPU with long mode: */
    uint64_t *regions; /* see shadowmmu/region.h; NULL: there was no address space for it */
    uint8_t *slot_of;  /* by bits 32-47 of the address: slot + 1, 0: none */
    struct mmu_window_slot {
        uint8_t *base;     /* where it is mapped */
        uint16_t region;   /* bits 32-47 */
        uint32_t mappings; /* of these */
        bool used;
    } slot[MMU_WINDOW_SLOTS];
    unsigned slot_count, next_slot;
    uint64_t releases; /* how often a region has lost its slot */
    bool local;        /* the supervisor's: holds pages that are not global */
    uint64_t late[64]; /* the user's: table indices of pages that are to go (mmu_window_drop_later) */
    unsigned late_count;
    struct mmu_parallel parallel; /* the user's (shadowmmu/parallel.h) */
};

struct mmu {
    /* hot: read by translated code */
    struct mmu_table_set view[MMU_VIEW_COUNT];

    /* the guest's paging state, set by mmu_set_paging and mmu_set_cr3 */
    uint64_t cr0, cr3, cr4, efer;
    uint64_t pdpte[4]; /* PAE: loaded by mmu_set_cr3 */
    uint64_t a20_mask; /* ~0, or ~(1 << 20) while A20 is off */
    unsigned phys_bits;
    bool wide; /* tables cover 48-bit spaces; else 32-bit */
    struct memory *mem;

    /* where the filled entries are, for flushes */
    struct mmu_fill *fills;
    uint32_t fill_count, fill_free; /* how many were ever in use; the first one that is free again */
    uint32_t *fill_hash;            /* by gfn: first fill record, for dropping a page's entries */
    uint32_t global_fills;          /* the list of global pages' */
    struct mmu_space space, parked[MMU_PARKED];
    uint64_t space_tick;
    /* Places (indices of large) in the lower half of the tables where entries were made since it had no memory, those
     * seen lately not counted again; global_low: there may be global entries. */
    uint32_t spread;
    uint32_t spread_seen[64];
    bool global_low;
    /* enum mmu_large, by 512 table entries, 2 MiB. INVLPG of any address in a large page is for all of it. */
    uint8_t *large;
    struct mmu_window window[2]; /* enum mmu_window_kind */
    /* a flush by the engine: code map and block chains derived from the address space must go */
    void (*flushed)(void *opaque, enum mmu_flush_kind kind, uint64_t gva);
    /* CR3 has another PCID: what the engine derived from the current address space is to be kept as number parked (-1:
     * dropped), replacing what is kept there, and what it kept as number resumed (-1: nothing) is in force again. */
    void (*switched)(void *opaque, int parked, int resumed);
    void *opaque;

    struct {
        uint64_t fill_kinds[MMU_VIEW_COUNT][2];       /* by view; made for a read, for a write */
        uint64_t flush_paging, flush_a20, flush_full; /* the part of flush_all: CR0/CR4/EFER, A20, too many fills */
        uint64_t fills, walks, flush_cr3, flush_all, invlpg, gfn_drops, window_fills, window_drops, window_clears,
            switches, parked, resumed, trims, invlpg_large; /* of a large page */
    } stats;
};

/* wide: the guest may enter long mode. Returns 0 or -errno. */
int mmu_init(struct mmu *mmu, struct memory *mem, bool wide, unsigned phys_bits);
void mmu_destroy(struct mmu *mmu);

/* Control-register changes. Flush what SDM vol. 3, 4.10.4 asks for. mmu_set_cr3 returns false when a PAE PDPTE has
 * reserved bits set (#GP(0) for the guest; nothing changed). Bit 63 with CR4.PCIDE: the PCID's entries stay good; they
 * are kept for MMU_PARKED PCIDs, and for the CR3 they were made with. */
void mmu_set_paging(struct mmu *mmu, uint64_t cr0, uint64_t cr4, uint64_t efer);
bool mmu_set_cr3(struct mmu *mmu, uint64_t cr3);
bool mmu_load_pdptes(struct mmu *mmu, uint64_t cr3);
void mmu_set_a20(struct mmu *mmu, bool enabled);
void mmu_invlpg(struct mmu *mmu, uint64_t gva);
/* Of every address space. */
void mmu_flush(struct mmu *mmu, bool global_too);
/* INVPCID of a PCID (0 without CR4.PCIDE), or of one page of it: what is not global. May take more. */
void mmu_flush_pcid(struct mmu *mmu, uint64_t pcid);
void mmu_invlpg_pcid(struct mmu *mmu, uint64_t pcid, uint64_t gva);
/* Drops every entry that maps guest frame gfn (writes_only: just the write entries). */
void mmu_drop_gfn(struct mmu *mmu, uint64_t gfn, bool writes_only);

/* Walks the guest's tables for one access: sets A/D bits, checks rights, gives the guest-physical address.
 * Returns 0, or -1 with *fault filled. access: enum mmu_access bits. */
int mmu_translate(struct mmu *mmu, uint64_t gva, unsigned access, gpa_t *out, struct mmu_fault *fault);

/* What an access by translated code found behind a table entry that is not there. */
enum mmu_result {
    MMU_OK,    /* *hva is valid for this access (the entry may or may not have been filled) */
    MMU_FAULT, /* *fault is filled */
    MMU_DEVICE /* *addr is a guest-physical address of the memory bus */
};
/* One access inside one page. Fills the table entry when the page's state allows direct access. A write to a page with
 * MEMORY_PAGE_CODE gives MMU_OK without a fill; the caller must report the write to the translator. */
enum mmu_result mmu_access(struct mmu *mmu, uint64_t gva, unsigned access, uint8_t **hva, gpa_t *addr,
                           struct mmu_fault *fault);

/* Where a page's entries are. Bits 48-63 do not count: who may pass addresses that are not canonical checks them, or
 * lets the host do it: hva - gva + such an address is not canonical either. */
static inline uint64_t mmu_table_index(const struct mmu *mmu, uint64_t gva)
{
    return mmu->wide ? gva << 16 >> 28 : (uint32_t)gva >> PAGE_SHIFT;
}

/* The view an access with these rights uses. */
static inline enum mmu_view mmu_view(const struct mmu *mmu, unsigned access)
{
    if (!(access & MMU_SUPERVISOR))
        return MMU_VIEW_USER;
    return (mmu->cr4 & (1u << 21)) && !(access & MMU_SMAP_EXEMPT) ? MMU_VIEW_SMAP : MMU_VIEW_SUPERVISOR;
}

#endif
