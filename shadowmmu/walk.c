/* SPDX-License-Identifier: MIT */
#include "shadowmmu/walk.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 0x20, PTE_D = 0x40, PTE_PS = 0x80, PTE_G = 0x100 };
#define PTE_NX (1ull << 63)
#define CR0_WP_BIT (1u << 16)
#define CR0_PG_BIT (1u << 31)
#define CR4_PSE_BIT (1u << 4)
#define CR4_PAE_BIT (1u << 5)
#define CR4_PGE_BIT (1u << 7)
#define CR4_SMEP_BIT (1u << 20)
#define CR4_SMAP_BIT (1u << 21)
#define EFER_LMA_BIT (1u << 10)
#define EFER_NXE_BIT (1u << 11)

/* One paging-structure entry and where it lives, so that A and D can be set there. */
struct entry {
    uint8_t *hva;
    uint64_t value;
};

static bool entry_load(struct mmu *mmu, uint64_t addr, bool wide, struct entry *e)
{
    addr &= mmu->a20_mask;
    uint8_t *page = memory_page(mmu->mem, addr >> PAGE_SHIFT).read;
    if (!page)
        return false;
    e->hva = page + (addr & PAGE_MASK);
    e->value = wide ? __atomic_load_n((uint64_t *)e->hva, __ATOMIC_RELAXED)
                    : __atomic_load_n((uint32_t *)e->hva, __ATOMIC_RELAXED);
    return true;
}

/* A and D are set with a locked operation, as the CPU does. ROM keeps what it is. */
static void entry_set(struct mmu *mmu, uint64_t addr, struct entry *e, uint64_t bits)
{
    if ((e->value & bits) == bits)
        return;
    uint64_t gfn = (addr & mmu->a20_mask) >> PAGE_SHIFT;
    struct memory_page page = memory_page(mmu->mem, gfn);
    if (page.write != page.read)
        return;
    if (!(mmu->mem->flags[gfn] & MEMORY_PAGE_DIRTY))
        memory_mark_dirty(mmu->mem, gfn);
    __atomic_fetch_or((uint32_t *)e->hva, (uint32_t)bits, __ATOMIC_RELAXED);
    e->value |= bits;
}

static int walk_fault(struct mmu *mmu, uint64_t gva, unsigned access, uint32_t error, struct mmu_fault *fault)
{
    if ((access & MMU_ACCESS_MASK) == MMU_WRITE)
        error |= MMU_PF_W;
    if (!(access & MMU_SUPERVISOR))
        error |= MMU_PF_U;
    if ((access & MMU_ACCESS_MASK) == MMU_EXEC) {
        bool nx = (mmu->efer & EFER_NXE_BIT) && (mmu->cr4 & CR4_PAE_BIT);
        if (nx || (mmu->cr4 & CR4_SMEP_BIT))
            error |= MMU_PF_I;
    }
    fault->gva = gva;
    fault->error = error;
    return -1;
}

/* SDM vol. 3, 4.6.1 */
static bool rights_allow(const struct mmu *mmu, const struct walk *w, unsigned access)
{
    unsigned kind = access & MMU_ACCESS_MASK;
    if (kind == MMU_EXEC && w->no_execute)
        return false;
    if (!(access & MMU_SUPERVISOR))
        return w->user && (kind != MMU_WRITE || w->write);
    if (w->user) {
        if (kind == MMU_EXEC && (mmu->cr4 & CR4_SMEP_BIT))
            return false;
        if (kind != MMU_EXEC && (mmu->cr4 & CR4_SMAP_BIT) && !(access & MMU_SMAP_EXEMPT))
            return false;
    }
    return kind != MMU_WRITE || w->write || !(mmu->cr0 & CR0_WP_BIT);
}

enum { MAX_LEVELS = 4 };

/* The levels of the current paging mode, highest first: index shift, entry size, top table. */
struct shape {
    unsigned levels;
    bool wide_entries;
    unsigned index_bits;
    uint64_t top;
};

static struct shape walk_shape(const struct mmu *mmu)
{
    if (!(mmu->cr4 & CR4_PAE_BIT))
        return (struct shape){2, false, 10, mmu->cr3 & 0xfffff000u};
    if (mmu->efer & EFER_LMA_BIT)
        return (struct shape){4, true, 9, mmu->cr3 & 0x000ffffffffff000ull};
    return (struct shape){2, true, 9, 0}; /* the PDPTEs are in registers */
}

static uint64_t reserved_bits(const struct mmu *mmu, const struct shape *s, unsigned level, bool large)
{
    if (!s->wide_entries)
        return large ? 1u << 21 : 0;
    uint64_t r = 0x000fffffffffffffull & ~((1ull << mmu->phys_bits) - 1);
    if (!(mmu->efer & EFER_NXE_BIT))
        r |= PTE_NX;
    if (!(mmu->efer & EFER_LMA_BIT))
        r |= 0x7ff0000000000000ull;
    if (large)
        r |= ((1ull << (PAGE_SHIFT + 9 * (level - 1))) - 1) & ~0x1fffull;
    if (level == 4)
        r |= PTE_PS;
    return r;
}

static bool entry_is_large(const struct mmu *mmu, const struct shape *s, unsigned level, uint64_t value)
{
    if (level == 1 || level == 4 || !(value & PTE_PS))
        return false;
    return s->wide_entries || (mmu->cr4 & CR4_PSE_BIT);
}

static uint64_t leaf_address(const struct shape *s, unsigned level, uint64_t value, uint64_t gva)
{
    if (level == 1)
        return (value & 0x000ffffffffff000ull) | (gva & PAGE_MASK);
    if (!s->wide_entries) /* 4 MiB, with PSE-36: bits 13-20 are address bits 32-39 */
        return (value & 0xffc00000u) | (value & 0x1fe000u) << 19 | (gva & 0x3fffff);
    uint64_t mask = (1ull << (PAGE_SHIFT + 9 * (level - 1))) - 1;
    return (value & 0x000fffffffffffffull & ~mask) | (gva & mask);
}

/* See mmu->large. */
static void note_large(struct mmu *mmu, uint64_t gva, unsigned level, bool exec)
{
    uint64_t region = mmu_table_index(mmu, gva) >> MMU_LARGE_SHIFT;
    uint64_t parts = level == 3 ? 512 : mmu->cr4 & CR4_PAE_BIT ? 1 : 2;
    if (parts > 1 && !(mmu->large[region] & MMU_LARGE_PART))
        for (uint64_t i = 0; i < parts; i++)
            mmu->large[(region & ~(parts - 1)) + i] |= MMU_LARGE_PART;
    mmu->large[region] |= MMU_LARGE_FILLED | (exec ? MMU_LARGE_EXEC : 0);
}

static int walk_levels(struct mmu *mmu, uint64_t gva, unsigned access, struct walk *out, struct mmu_fault *fault)
{
    struct shape s = walk_shape(mmu);
    uint64_t table = s.top;
    struct entry e[MAX_LEVELS + 1];
    uint64_t at[MAX_LEVELS + 1];
    if (s.wide_entries && s.levels == 2) {
        uint64_t pdpte = mmu->pdpte[gva >> 30 & 3];
        if (!(pdpte & PTE_P))
            return walk_fault(mmu, gva, access, 0, fault);
        table = pdpte & 0x000ffffffffff000ull;
    }
    *out = (struct walk){.user = true, .write = true};
    unsigned level = s.levels;
    uint64_t value;
    for (;; level--) {
        unsigned shift = PAGE_SHIFT + s.index_bits * (level - 1);
        uint64_t index = gva >> shift & ((1u << s.index_bits) - 1);
        at[level] = table + index * (s.wide_entries ? 8 : 4);
        if (!entry_load(mmu, at[level], s.wide_entries, &e[level]))
            return walk_fault(mmu, gva, access, 0, fault);
        value = e[level].value;
        if (!(value & PTE_P))
            return walk_fault(mmu, gva, access, 0, fault);
        bool large = entry_is_large(mmu, &s, level, value);
        if (value & reserved_bits(mmu, &s, level, large))
            return walk_fault(mmu, gva, access, MMU_PF_P | MMU_PF_RSVD, fault);
        out->user &= (value & PTE_U) != 0;
        out->write &= (value & PTE_W) != 0;
        out->no_execute |= s.wide_entries && (value & PTE_NX);
        if (large || level == 1)
            break;
        table = value & 0x000ffffffffff000ull;
    }
    if (!rights_allow(mmu, out, access))
        return walk_fault(mmu, gva, access, MMU_PF_P, fault);
    if (!(access & MMU_PROBE)) {
        for (unsigned l = s.levels; l > level; l--)
            entry_set(mmu, at[l], &e[l], PTE_A);
        entry_set(mmu, at[level], &e[level], (access & MMU_ACCESS_MASK) == MMU_WRITE ? PTE_A | PTE_D : PTE_A);
    }
    if (level > 1 && !(access & MMU_PROBE))
        note_large(mmu, gva, level, (access & MMU_ACCESS_MASK) == MMU_EXEC);
    out->dirty = e[level].value & PTE_D;
    out->global = (value & PTE_G) && (mmu->cr4 & CR4_PGE_BIT);
    out->addr = gpa(leaf_address(&s, level, value, gva) & mmu->a20_mask);
    return 0;
}

int walk_guest(struct mmu *mmu, uint64_t gva, unsigned access, struct walk *out, struct mmu_fault *fault)
{
    mmu->stats.walks++;
    if (!(mmu->cr0 & CR0_PG_BIT)) {
        *out =
            (struct walk){.addr = gpa(gva & mmu->a20_mask), .user = true, .write = true, .dirty = true, .global = true};
        return 0;
    }
    return walk_levels(mmu, gva, access, out, fault);
}

int mmu_translate(struct mmu *mmu, uint64_t gva, unsigned access, gpa_t *out, struct mmu_fault *fault)
{
    struct walk w;
    if (walk_guest(mmu, gva, access, &w, fault))
        return -1;
    *out = w.addr;
    return 0;
}
