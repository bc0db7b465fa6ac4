/* SPDX-License-Identifier: MIT */
/* The shadow tables under four-level paging: what stays and what goes when the guest changes address spaces and drops
 * translations. SDM vol. 3, 4.10. */
#include "shadowmmu/mmu.h"
#include "shadowmmu/window.h"
#include "tests/test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PML4 = 0x100000, PDPT = 0x101000, PD = 0x102000, PT = 0x103000, FRAMES = 0x200000, GVA = 0x400000, PAGES = 64 };
enum { P = 1, W = 2, U = 4, PS = 0x80, G = 0x100, D = 0x40, A = 0x20 };
#define ALL (P | W | A | D)
#define NO_FLUSH (1ull << 63)

struct world {
    struct memory mem;
    struct mmu mmu;
};

static uint64_t *at(struct world *w, uint64_t gpa)
{
    return (uint64_t *)memory_page(&w->mem, gpa >> PAGE_SHIFT).write + (gpa & PAGE_MASK) / 8;
}

static bool open_world(struct world *w)
{
    char err[200];
    if (memory_init(&w->mem, 8 << 20, err, sizeof err)) {
        CU_FAIL("no memory");
        return false;
    }
    if (mmu_init(&w->mmu, &w->mem, true, 40))
        test_leave_without_tables();
    *at(w, PML4) = PDPT | ALL;
    *at(w, PDPT) = PD | ALL;
    *at(w, PD + 8 * (GVA >> 21)) = PT | ALL;
    for (unsigned i = 0; i < PAGES; i++) {
        *at(w, PT + 8 * i) = (FRAMES + i * PAGE_SIZE) | ALL;
        *at(w, FRAMES + i * PAGE_SIZE) = i;
    }
    mmu_set_paging(&w->mmu, 1u << 31 | 1u << 16 | 1, 1u << 5 | 1u << 7 | 1u << 17, 1u << 10);
    mmu_set_cr3(&w->mmu, PML4 | 1);
    return true;
}

static void close_world(struct world *w)
{
    mmu_destroy(&w->mmu);
    memory_destroy(&w->mem);
}

static uint64_t entry(struct world *w, bool write, unsigned page)
{
    const struct mmu_table_set *t = &w->mmu.view[MMU_VIEW_SUPERVISOR];
    return (write ? t->write : t->read)[mmu_table_index(&w->mmu, GVA + page * PAGE_SIZE)];
}

/* As translated code does: the table's entry, or the slow path. */
static uint64_t look(struct world *w, bool write, uint64_t gva)
{
    const struct mmu_table_set *t = &w->mmu.view[MMU_VIEW_SUPERVISOR];
    uint64_t delta = (write ? t->write : t->read)[mmu_table_index(&w->mmu, gva)];
    uint8_t *hva = (uint8_t *)(uintptr_t)(gva + delta);
    gpa_t addr;
    struct mmu_fault fault;
    if (!delta &&
        mmu_access(&w->mmu, gva, MMU_SUPERVISOR | (write ? MMU_WRITE : MMU_READ), &hva, &addr, &fault) != MMU_OK)
        return ~0ull;
    return *(uint64_t *)hva;
}

static void kept_across_switches(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    *at(&w, PT + 8) &= ~(uint64_t)D;
    look(&w, true, GVA);
    look(&w, false, GVA + PAGE_SIZE);
    mmu_set_cr3(&w.mmu, PML4 | 2 | NO_FLUSH);
    CU_ASSERT_EQUAL(entry(&w, false, 0), 0);
    CU_ASSERT_EQUAL(entry(&w, true, 0), 0);
    mmu_set_cr3(&w.mmu, PML4 | 1 | NO_FLUSH);
    CU_ASSERT(entry(&w, true, 0) && entry(&w, true, 0) == entry(&w, false, 0));
    CU_ASSERT(entry(&w, false, 1) && !entry(&w, true, 1));
    CU_ASSERT_EQUAL(w.mmu.stats.resumed, 1);
    mmu_set_cr3(&w.mmu, PML4 | 2 | NO_FLUSH);
    mmu_set_cr3(&w.mmu, PML4 | 1);
    CU_ASSERT_EQUAL(entry(&w, false, 0), 0);
    close_world(&w);
}

static void frames_are_dropped_everywhere(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    for (unsigned i = 0; i < 3; i++)
        look(&w, true, GVA + i * PAGE_SIZE);
    mmu_set_cr3(&w.mmu, PML4 | 2 | NO_FLUSH);
    mmu_drop_gfn(&w.mmu, FRAMES >> PAGE_SHIFT, true);
    mmu_drop_gfn(&w.mmu, (FRAMES >> PAGE_SHIFT) + 1, false);
    mmu_set_cr3(&w.mmu, PML4 | 1 | NO_FLUSH);
    CU_ASSERT(entry(&w, false, 0) && !entry(&w, true, 0));
    CU_ASSERT(!entry(&w, false, 1) && !entry(&w, true, 1));
    CU_ASSERT(entry(&w, false, 2) && entry(&w, true, 2));
    close_world(&w);
}

/* The page is remapped and used again before its space is left: the old record must not bring the new entry back after
 * the new frame was dropped. */
static void stale_records_stay_stale(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    look(&w, true, GVA);
    *at(&w, PT) = (FRAMES + 5 * PAGE_SIZE) | ALL;
    mmu_invlpg(&w.mmu, GVA);
    CU_ASSERT_EQUAL(look(&w, true, GVA), 5);
    mmu_set_cr3(&w.mmu, PML4 | 2 | NO_FLUSH);
    mmu_drop_gfn(&w.mmu, (FRAMES >> PAGE_SHIFT) + 5, false);
    mmu_set_cr3(&w.mmu, PML4 | 1 | NO_FLUSH);
    CU_ASSERT(!entry(&w, false, 0) && !entry(&w, true, 0));
    close_world(&w);
}

/* Without INVLPG: the slow path met another frame than the table holds. */
static void changed_frame_is_noted(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    *at(&w, PT) = FRAMES | P | A;
    look(&w, false, GVA);
    *at(&w, PT) = (FRAMES + 5 * PAGE_SIZE) | ALL;
    CU_ASSERT_EQUAL(look(&w, true, GVA), 5);
    CU_ASSERT(entry(&w, true, 0));
    mmu_drop_gfn(&w.mmu, (FRAMES >> PAGE_SHIFT) + 5, true);
    CU_ASSERT(!entry(&w, true, 0));
    close_world(&w);
}

static void global_entries(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    look(&w, true, GVA); /* first as a page of its own */
    *at(&w, PT) |= G;
    mmu_invlpg(&w.mmu, GVA);
    look(&w, true, GVA);
    mmu_set_cr3(&w.mmu, PML4 | 2);
    CU_ASSERT(entry(&w, true, 0) != 0);
    *at(&w, PT) = (FRAMES + 5 * PAGE_SIZE) | ALL | G;
    mmu_invlpg(&w.mmu, GVA);
    mmu_set_cr3(&w.mmu, PML4 | 1 | NO_FLUSH);
    CU_ASSERT_EQUAL(look(&w, false, GVA), 5);
    mmu_flush(&w.mmu, false);
    CU_ASSERT(entry(&w, false, 0) != 0);
    mmu_flush(&w.mmu, true);
    CU_ASSERT(entry(&w, false, 0) == 0);
    close_world(&w);
}

/* A guest that changes a page's rights again and again must not make every later drop of its frame slower. */
static void records_are_reused(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    for (unsigned i = 0; i < 1000; i++) {
        *at(&w, PT) = FRAMES | (i & 1 ? ALL : ALL | G);
        mmu_invlpg(&w.mmu, GVA);
        look(&w, true, GVA);
    }
    CU_ASSERT(w.mmu.fill_count < 8);
    mmu_drop_gfn(&w.mmu, FRAMES >> PAGE_SHIFT, false);
    CU_ASSERT(!entry(&w, false, 0) && !entry(&w, true, 0));
    close_world(&w);
}

static void many_spaces(void)
{
    struct world w;
    unsigned right = 0;
    if (!open_world(&w))
        return;
    for (unsigned i = 0; i < 500; i++) {
        mmu_set_cr3(&w.mmu, PML4 | (i * 7 % (2 * MMU_PARKED)) | (i < 2 * MMU_PARKED ? 0 : NO_FLUSH));
        for (unsigned k = 0; k < PAGES; k++)
            right += look(&w, k & 1, GVA + k * PAGE_SIZE) == k;
    }
    CU_ASSERT_EQUAL(right, 500 * PAGES);
    mmu_flush(&w.mmu, true);
    for (unsigned k = 0; k < PAGES; k++)
        CU_ASSERT(!entry(&w, false, k));
    close_world(&w);
}

static void invpcid(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    for (unsigned how = 0; how < 2; how++) {
        mmu_set_cr3(&w.mmu, PML4 | 1);
        *at(&w, PT) = FRAMES | ALL;
        CU_ASSERT_EQUAL(look(&w, false, GVA), 0);
        mmu_set_cr3(&w.mmu, PML4 | 2 | NO_FLUSH);
        *at(&w, PT) = (FRAMES + 5 * PAGE_SIZE) | ALL;
        look(&w, false, GVA + PAGE_SIZE);
        if (how)
            mmu_flush_pcid(&w.mmu, 1);
        else
            mmu_invlpg_pcid(&w.mmu, 1, GVA);
        CU_ASSERT(entry(&w, false, 1) != 0);
        mmu_set_cr3(&w.mmu, PML4 | 1 | NO_FLUSH);
        CU_ASSERT_EQUAL(look(&w, false, GVA), 5);
    }
    look(&w, false, GVA);
    mmu_flush_pcid(&w.mmu, 1);
    CU_ASSERT(!entry(&w, false, 0));
    close_world(&w);
}

static void invlpg_of_large_pages(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t *pde = at(&w, PD + 8 * (GVA >> 21));
    for (unsigned global = 0; global < 2; global++) {
        *pde = FRAMES | ALL | PS | (global ? G : 0);
        mmu_flush(&w.mmu, true);
        for (unsigned i = 0; i < PAGES; i++)
            CU_ASSERT_EQUAL(look(&w, true, GVA + i * PAGE_SIZE), i);
        mmu_set_cr3(&w.mmu, PML4 | 2 | NO_FLUSH);
        mmu_set_cr3(&w.mmu, PML4 | 1 | NO_FLUSH);
        *pde = 0x400000 | ALL | PS | (global ? G : 0);
        mmu_invlpg(&w.mmu, GVA + 0x12345);
        for (unsigned i = 0; i < PAGES; i++)
            CU_ASSERT_EQUAL(look(&w, false, GVA + i * PAGE_SIZE), 0);
    }
    uint64_t *pdpte = at(&w, PDPT);
    *pdpte = ALL | PS; /* 1 GiB */
    mmu_flush(&w.mmu, true);
    CU_ASSERT_EQUAL(look(&w, false, FRAMES + PAGE_SIZE), 1);
    *pdpte = PD | ALL;
    *at(&w, PD + 8 * (FRAMES >> 21)) = 0x400000 | ALL | PS;
    mmu_invlpg(&w.mmu, 0x12345);
    CU_ASSERT_EQUAL(look(&w, false, FRAMES + PAGE_SIZE), 0);
    close_world(&w);
}

/* What the host's page tables say at the user window's place for a page; ~0: nothing. */
static uint64_t through_window(struct world *w, unsigned page)
{
    uint64_t value = ~0ull;
    int ends[2];
    if (pipe(ends))
        return ~1ull;
    if (write(ends[1], w->mmu.window[MMU_WINDOW_USER].base + GVA + page * PAGE_SIZE, sizeof value) == sizeof value &&
        read(ends[0], &value, sizeof value) != sizeof value)
        value = ~1ull;
    close(ends[0]);
    close(ends[1]);
    return value;
}

static void invlpg_and_the_window(void)
{
    struct world w;
    struct mmu_fault fault;
    if (!open_world(&w))
        return;
    *at(&w, PML4) |= U;
    *at(&w, PDPT) |= U;
    *at(&w, PD + 8 * (GVA >> 21)) |= U;
    for (unsigned i = 0; i < PAGES; i++)
        *at(&w, PT + 8 * i) |= U;
    CU_ASSERT(mmu_window_open(&w.mmu, MMU_WINDOW_USER));
    for (unsigned i = 0; i < PAGES; i += 2) { /* each by itself */
        *at(&w, PT + 8 * (i + 1)) = 0;
        CU_ASSERT_EQUAL(mmu_window_fill(&w.mmu, MMU_WINDOW_USER, GVA + i * PAGE_SIZE, MMU_WRITE, &fault),
                        MMU_WINDOW_OK);
        CU_ASSERT_EQUAL(through_window(&w, i), i);
    }
    *at(&w, PT) = (FRAMES + 5 * PAGE_SIZE) | ALL | U; /* another page in its place before user code runs */
    mmu_invlpg(&w.mmu, GVA);
    mmu_window_prefill(&w.mmu, GVA, true);
    mmu_window_settle(&w.mmu);
    CU_ASSERT_EQUAL(through_window(&w, 0), 5);
    CU_ASSERT_EQUAL(w.mmu.stats.window_drops, 0);
    for (unsigned i = 2; i < PAGES; i += 2) { /* none, and twice */
        *at(&w, PT + 8 * i) = 0;
        mmu_invlpg(&w.mmu, GVA + i * PAGE_SIZE);
        mmu_invlpg(&w.mmu, GVA + i * PAGE_SIZE);
    }
    mmu_window_settle(&w.mmu);
    CU_ASSERT_EQUAL(through_window(&w, 0), 5);
    for (unsigned i = 2; i < PAGES; i++)
        CU_ASSERT_EQUAL(through_window(&w, i), ~0ull);
    CU_ASSERT_EQUAL(w.mmu.stats.window_drops, PAGES / 2 - 1);
    for (unsigned i = 0; i < PAGES; i++) /* a run of them: more than are kept */
        *at(&w, PT + 8 * i) = (FRAMES + i * PAGE_SIZE) | ALL | U;
    for (unsigned i = 1; i < PAGES; i++)
        mmu_window_fill(&w.mmu, MMU_WINDOW_USER, GVA + i * PAGE_SIZE, MMU_WRITE, &fault);
    for (unsigned i = 0; i < PAGES; i++) {
        *at(&w, PT + 8 * i) = 0;
        mmu_invlpg(&w.mmu, GVA + i * PAGE_SIZE);
    }
    mmu_window_fill(&w.mmu, MMU_WINDOW_USER, GVA + (PAGES - 1) * PAGE_SIZE, MMU_WRITE, &fault);
    mmu_window_settle(&w.mmu);
    for (unsigned i = 0; i < PAGES; i++)
        CU_ASSERT_EQUAL(through_window(&w, i), ~0ull);
    close_world(&w);
}

static long resident_pages(void)
{
    long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (!f || fscanf(f, "%ld %ld", &size, &resident) != 2)
        CU_FAIL("no /proc/self/statm");
    if (f)
        fclose(f);
    return resident;
}

/* Processes that each are somewhere else: 16000 places, 32000 pages of the tables. */
static void spread_spaces_leave_no_memory(void)
{
    enum { PLACES = 16000, PLACES_OF_ONE = 250, RESIDENT_MAX = 12000 };
    struct world w;
    if (!open_world(&w))
        return;
    for (unsigned i = 0; i < 512; i++) {
        *at(&w, PML4 + 8 * i) = PDPT | ALL;
        *at(&w, PDPT + 8 * i) = PD | ALL;
        *at(&w, PD + 8 * i) = PT | ALL;
    }
    long before = resident_pages();
    for (uint64_t i = 0; i < PLACES; i++) {
        if (i % PLACES_OF_ONE == 0)
            mmu_set_cr3(&w.mmu, PML4 | (i / PLACES_OF_ONE % 3) | (i % 7 ? 0 : NO_FLUSH));
        unsigned page = (unsigned)(i % PAGES);
        CU_ASSERT(look(&w, true, (i * 37 << 21) + page * PAGE_SIZE) == page);
    }
    CU_ASSERT(w.mmu.stats.trims > 2);
    CU_ASSERT(resident_pages() - before < RESIDENT_MAX);
    close_world(&w);
}

/* Global pages of the lower half stay where they are. */
static void spread_spaces_and_global_pages(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    *at(&w, PT) |= G;
    look(&w, true, GVA);
    for (unsigned i = 1; i < 512; i++)
        *at(&w, PDPT + 8 * i) = PD | ALL;
    for (uint64_t i = 1; i < 6000; i++) {
        if (i % 500 == 0)
            mmu_set_cr3(&w.mmu, PML4 | 1);
        look(&w, false, (i % 512 << 30) + GVA + PAGE_SIZE);
    }
    CU_ASSERT(entry(&w, true, 0));
    mmu_flush(&w.mmu, true);
    CU_ASSERT_EQUAL(entry(&w, true, 0), 0);
    CU_ASSERT_EQUAL(w.mmu.stats.trims, 1);
    close_world(&w);
}

TEST_SUITE(mmu, {"entries of two PCIDs stay across loads of CR3 with bit 63", kept_across_switches},
           {"dropping a frame reaches spaces that are not current", frames_are_dropped_everywhere},
           {"a remapped page's old record brings nothing back", stale_records_stay_stale},
           {"a frame that changed without INVLPG is noted", changed_frame_is_noted},
           {"global entries: in every space, INVLPG from any", global_entries},
           {"records of a page that is entered again", records_are_reused}, {"more PCIDs than are kept", many_spaces},
           {"INVPCID of a space that is not current", invpcid},
           {"INVLPG of one address in a large page is for all of it", invlpg_of_large_pages},
           {"INVLPG takes a page out of the window before user code runs", invlpg_and_the_window},
           {"address spaces all over the place leave no memory behind", spread_spaces_leave_no_memory},
           {"and what they leave behind takes no global page with it", spread_spaces_and_global_pages})
