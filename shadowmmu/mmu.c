/* SPDX-License-Identifier: MIT */
/* The shadow fill: one miss from end to end.
 *
 * Translated code loads table[gva >> 12], finds 0 and calls out; the translator's slow path calls mmu_access. That
 * walks the guest's tables (walk.c), which either gives a guest #PF or a guest-physical address. The pmap tells which
 * host page stands behind it for reads and for writes. When the page's state allows direct access, the delta (host page
 * - guest page) goes into the table of the view whose rights the access had, and a record remembers the entry
 * (space.h), so that a flush touches only what was filled. Write entries are given only for pages whose writes nobody
 * wants to see: not for pages with translated code, traced pages, ROM, or pages whose D bit the guest has not yet had
 * set. */
#include "shadowmmu/mmu.h"

#include "shadowmmu/reserve.h"
#include "shadowmmu/space.h"
#include "shadowmmu/walk.h"
#include "shadowmmu/window.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define CR0_PG_BIT (1u << 31)
#define CR0_WP_BIT (1u << 16)
#define CR0_PE_BIT 1u
#define CR4_PAE_BIT (1u << 5)
#define CR4_PCIDE_BIT (1u << 17)
#define CR4_FLUSH_BITS ((1u << 4) | (1u << 5) | (1u << 7) | (1u << 20) | (1u << 21) | CR4_PCIDE_BIT)
#define EFER_FLUSH_BITS ((1u << 10) | (1u << 11))

static const uint64_t TABLE_32 = 8ull << 20;
static const uint64_t TABLE_48 = 512ull << 30;

/* Tables begin at different offsets of their mappings: entries for one page at equal offsets of several large mappings
 * fall into one cache set, and on AMD processors also into one way of its linear-address predictor (measured: quicksort
 * 2.3x native with 48-bit tables at equal offsets, 1.5x like this). */
enum { STAGGER = PAGE_SIZE + 5 * 64, STAGGER_ROOM = 64 << 10 };

static uint64_t *table_reserve(bool wide, unsigned n)
{
    uint64_t size = (wide ? TABLE_48 : TABLE_32) + STAGGER_ROOM;
    uint8_t *p = reserve(size);
    return p ? (uint64_t *)(p + n * STAGGER) : NULL;
}

static void table_release(uint64_t *t, bool wide, unsigned n)
{
    if (t)
        munmap((uint8_t *)t - n * STAGGER, (wide ? TABLE_48 : TABLE_32) + STAGGER_ROOM);
}

static uint64_t large_size(bool wide)
{
    return (wide ? TABLE_48 : TABLE_32) / sizeof(uint64_t) >> MMU_LARGE_SHIFT;
}

static uint8_t *large_reserve(bool wide)
{
    return reserve(large_size(wide));
}

int mmu_init(struct mmu *mmu, struct memory *mem, bool wide, unsigned phys_bits)
{
    *mmu = (struct mmu){.mem = mem, .wide = wide, .phys_bits = phys_bits, .a20_mask = ~0ull};
    bool ok = true;
    for (int v = 0; v < MMU_VIEW_COUNT; v++) {
        mmu->view[v].read = table_reserve(wide, 2 * (unsigned)v);
        mmu->view[v].write = table_reserve(wide, 2 * (unsigned)v + 1);
        ok = ok && mmu->view[v].read && mmu->view[v].write;
    }
    mmu->large = large_reserve(wide);
    if (mmu_space_init(mmu) || !ok || !mmu->large) {
        mmu_destroy(mmu);
        return -ENOMEM;
    }
    return 0;
}

void mmu_destroy(struct mmu *mmu)
{
    for (int v = 0; v < MMU_VIEW_COUNT; v++) {
        table_release(mmu->view[v].read, mmu->wide, 2 * (unsigned)v);
        table_release(mmu->view[v].write, mmu->wide, 2 * (unsigned)v + 1);
        mmu->view[v] = (struct mmu_table_set){0};
    }
    mmu_window_close(mmu, MMU_WINDOW_USER);
    mmu_window_close(mmu, MMU_WINDOW_SUPERVISOR);
    if (mmu->large)
        munmap(mmu->large, large_size(mmu->wide));
    mmu->large = NULL;
    mmu_space_destroy(mmu);
}

static void notify(struct mmu *mmu, enum mmu_flush_kind kind, uint64_t gva)
{
    if (mmu->flushed)
        mmu->flushed(mmu->opaque, kind, gva);
}

/* What windows hold of the current address space. */
static void clear_windows(struct mmu *mmu)
{
    mmu_window_clear(mmu, MMU_WINDOW_USER);
    if (mmu->window[MMU_WINDOW_SUPERVISOR].local)
        mmu_window_clear(mmu, MMU_WINDOW_SUPERVISOR);
}

void mmu_flush(struct mmu *mmu, bool global_too)
{
    clear_windows(mmu);
    if (global_too) {
        mmu_window_clear(mmu, MMU_WINDOW_SUPERVISOR);
        mmu->stats.flush_all++;
        mmu_space_drop_all(mmu);
    } else {
        mmu->stats.flush_cr3++;
        mmu_space_drop_spaces(mmu);
    }
    notify(mmu, global_too ? MMU_FLUSH_ALL : MMU_FLUSH_NONGLOBAL, 0);
}

static void flush_current(struct mmu *mmu)
{
    mmu->stats.flush_cr3++;
    clear_windows(mmu);
    mmu_space_drop_current(mmu);
    notify(mmu, MMU_FLUSH_SPACE, 0);
}

static uint64_t current_pcid(const struct mmu *mmu)
{
    return mmu->cr4 & CR4_PCIDE_BIT ? mmu->cr3 & 0xfff : 0;
}

void mmu_flush_pcid(struct mmu *mmu, uint64_t pcid)
{
    if (pcid == current_pcid(mmu))
        flush_current(mmu);
    else
        mmu_space_drop_pcid(mmu, pcid);
}

void mmu_invlpg_pcid(struct mmu *mmu, uint64_t pcid, uint64_t gva)
{
    if (pcid == current_pcid(mmu))
        mmu_invlpg(mmu, gva);
    else
        mmu_space_drop_pcid(mmu, pcid); /* more than was asked for */
}

/* Without a write where nothing is: most of a table has no memory. */
static void clear_entry(struct mmu_table_set *t, uint64_t page)
{
    if (t->read[page])
        t->read[page] = 0;
    if (t->write[page])
        t->write[page] = 0;
}

/* Drops all entries of a 2 MiB region that larger pages left some in; returns what they were (enum mmu_large). */
static unsigned drop_large(struct mmu *mmu, uint64_t region)
{
    unsigned flags = mmu->large[region];
    if (!flags)
        return 0;
    mmu->large[region] = 0;
    if (!(flags & MMU_LARGE_FILLED))
        return 0;
    for (int v = 0; v < MMU_VIEW_COUNT; v++)
        for (uint64_t i = region << MMU_LARGE_SHIFT; i < (region + 1) << MMU_LARGE_SHIFT; i++)
            clear_entry(&mmu->view[v], i);
    return flags;
}

/* SDM vol. 3, 4.10.4.1: of a page larger than 4 KiB all entries go. */
static unsigned invlpg_large(struct mmu *mmu, uint64_t region)
{
    uint64_t count = !(mmu->large[region] & MMU_LARGE_PART) ? 1 : mmu->cr4 & CR4_PAE_BIT ? 512 : 2;
    uint64_t first = region & ~(count - 1);
    unsigned flags = 0;
    for (uint64_t i = 0; i < count; i++)
        flags |= drop_large(mmu, first + i);
    mmu_window_clear(mmu, MMU_WINDOW_USER);
    mmu_window_clear(mmu, MMU_WINDOW_SUPERVISOR);
    return flags;
}

void mmu_invlpg(struct mmu *mmu, uint64_t gva)
{
    uint64_t page = mmu_table_index(mmu, gva), region = page >> MMU_LARGE_SHIFT;
    unsigned large = mmu->large[region] ? invlpg_large(mmu, region) : 0;
    mmu->stats.invlpg++;
    mmu->stats.invlpg_large += large != 0;
    for (int v = 0; v < MMU_VIEW_COUNT; v++)
        clear_entry(&mmu->view[v], page);
    mmu_window_drop_later(mmu, page);
    mmu_window_drop(mmu, MMU_WINDOW_SUPERVISOR, page, false);
    if (large & MMU_LARGE_EXEC)
        notify(mmu, MMU_FLUSH_ALL, 0);
    else
        notify(mmu, MMU_FLUSH_PAGE, gva);
}

void mmu_drop_gfn(struct mmu *mmu, uint64_t gfn, bool writes_only)
{
    mmu->stats.gfn_drops++;
    mmu_space_drop_gfn(mmu, gfn, writes_only);
}

void mmu_set_paging(struct mmu *mmu, uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    uint64_t d0 = cr0 ^ mmu->cr0, d4 = cr4 ^ mmu->cr4, de = efer ^ mmu->efer;
    mmu->cr0 = cr0;
    mmu->cr4 = cr4;
    mmu->efer = efer;
    if ((d0 & (CR0_PG_BIT | CR0_WP_BIT | CR0_PE_BIT)) || (d4 & CR4_FLUSH_BITS) || (de & EFER_FLUSH_BITS)) {
        mmu->stats.flush_paging++;
        mmu_flush(mmu, true);
    }
}

bool mmu_load_pdptes(struct mmu *mmu, uint64_t cr3)
{
    uint64_t reserved = 0x1e6ull | ~((1ull << mmu->phys_bits) - 1);
    uint64_t pdpte[4];
    for (int i = 0; i < 4; i++) {
        uint64_t at = ((cr3 & 0xffffffe0u) + (uint64_t)i * 8) & mmu->a20_mask;
        uint8_t *page = memory_page(mmu->mem, at >> PAGE_SHIFT).read;
        pdpte[i] = page ? __atomic_load_n((uint64_t *)(page + (at & PAGE_MASK)), __ATOMIC_RELAXED) : 0;
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return false;
    }
    for (int i = 0; i < 4; i++)
        mmu->pdpte[i] = pdpte[i];
    return true;
}

bool mmu_set_cr3(struct mmu *mmu, uint64_t cr3)
{
    bool pae = (mmu->cr0 & CR0_PG_BIT) && (mmu->cr4 & (1u << 5)) && !(mmu->efer & (1u << 10));
    if (pae && !mmu_load_pdptes(mmu, cr3))
        return false;
    bool ids = mmu->cr4 & CR4_PCIDE_BIT, keep = ids && cr3 >> 63;
    if (ids)
        cr3 &= ~(1ull << 63);
    if (!(mmu->cr0 & CR0_PG_BIT)) {
        mmu->cr3 = cr3;
    } else if (ids && (cr3 ^ mmu->cr3) & 0xfff) {
        mmu->stats.switches++;
        clear_windows(mmu);
        mmu_space_switch(mmu, cr3, keep);
        mmu->cr3 = cr3;
    } else {
        bool same = cr3 == mmu->cr3;
        mmu->cr3 = cr3;
        if (!keep || !same)
            flush_current(mmu);
    }
    return true;
}

void mmu_set_a20(struct mmu *mmu, bool enabled)
{
    uint64_t mask = enabled ? ~0ull : ~(1ull << 20);
    if (mask == mmu->a20_mask)
        return;
    mmu->a20_mask = mask;
    mmu->stats.flush_a20++;
    mmu_flush(mmu, true);
}

/* May an access of this view write the page without the guest's knowing? (A clear D bit must be set first.) */
static bool view_may_write(const struct mmu *mmu, const struct walk *w, enum mmu_view view)
{
    if (!w->dirty)
        return false;
    return w->write || (view != MMU_VIEW_USER && !(mmu->cr0 & CR0_WP_BIT));
}

static void fill(struct mmu *mmu, uint64_t gva, enum mmu_view view, const struct walk *w, struct memory_page page,
                 bool writing)
{
    uint64_t gfn = gpa_gfn(w->addr);
    uint64_t index = mmu_table_index(mmu, gva);
    uint64_t gva_page = gva & ~(uint64_t)PAGE_MASK;
    uint64_t *read = &mmu->view[view].read[index], *write = &mmu->view[view].write[index];
    uint8_t flags = mmu->mem->flags[gfn];
    bool writable = page.read == page.write && !(flags & (MEMORY_PAGE_CODE | MEMORY_PAGE_TRACED)) &&
                    view_may_write(mmu, w, view) &&
                    (writing || !(flags & MEMORY_PAGE_LOG) || (flags & MEMORY_PAGE_DIRTY));
    if (!page.read)
        return;
    uint64_t delta = (uint64_t)(uintptr_t)page.read - gva_page;
    if (*read != delta)
        mmu_space_enter(mmu, view, index, gfn, delta, w->global);
    mmu->stats.fills++;
    mmu->stats.fill_kinds[view][writing]++;
    if (writable)
        *write = *read;
}

enum mmu_result mmu_access(struct mmu *mmu, uint64_t gva, unsigned access, uint8_t **hva, gpa_t *addr,
                           struct mmu_fault *fault)
{
    struct walk w;
    if (walk_guest(mmu, gva, access, &w, fault))
        return MMU_FAULT;
    bool writing = (access & MMU_ACCESS_MASK) == MMU_WRITE;
    struct memory_page page = memory_page(mmu->mem, gpa_gfn(w.addr));
    uint8_t *host = writing ? page.write : page.read;
    *addr = w.addr;
    if (!host)
        return MMU_DEVICE;
    if (writing && !(mmu->mem->flags[gpa_gfn(w.addr)] & MEMORY_PAGE_DIRTY))
        memory_mark_dirty(mmu->mem, gpa_gfn(w.addr));
    if ((access & (MMU_ACCESS_MASK | MMU_PROBE)) <= MMU_WRITE)
        fill(mmu, gva, mmu_view(mmu, access), &w, page, writing);
    *hva = host + (w.addr.v & PAGE_MASK);
    return MMU_OK;
}
