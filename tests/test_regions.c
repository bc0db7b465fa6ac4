/* SPDX-License-Identifier: MIT */
/* Windows of 64-bit code: region tables keep a guest to its own slots whatever its registers hold. What the verifier
 * takes of them is in test_verify_window.c. */
#include "shadowmmu/region.h"
#include "shadowmmu/window.h"
#include "tests/test.h"

#include <string.h>

static bool canonical(uint64_t address)
{
    return mmu_canonical(address);
}

/* ---- region tables ---- */

/* What an access through table `a` meets where table `b` has an entry is not canonical. */
static bool overlap_is_safe(const uint64_t *a, const uint64_t *b, uint32_t entry)
{
    int64_t index = (int64_t)entry + (b - a);
    if (index < 0 || index > UINT32_MAX)
        return true;
    for (uint64_t offset = 0; offset < 1ull << 32; offset += 0xfffffff)
        if (canonical(((uint64_t)index << 32) + offset + b[entry]) || canonical(((uint64_t)index << 32) + offset + 8))
            return false;
    return true;
}

static void region_tables(void)
{
    enum { TABLES = 4 };
    static const uint32_t entries[] = {0, 1, 0x5555, 0x7fff, 0xffff8000, 0xffff8881, 0xffffffff};
    uint64_t *table[TABLES], slot = 0x7f1200000000;
    for (unsigned i = 0; i < TABLES; i++) {
        table[i] = mmu_regions_create();
        if (!table[i]) {
            test_skip("no address space for region tables here");
            return;
        }
        CU_ASSERT((uintptr_t)table[i] < 1u << 31);
        for (unsigned k = 0; k < sizeof entries / sizeof entries[0]; k++) {
            CU_ASSERT_EQUAL(table[i][entries[k]], MMU_REGION_NONE);
            CU_ASSERT_FALSE(canonical(((uint64_t)entries[k] << 32) + 0x12345678 + MMU_REGION_NONE));
            table[i][entries[k]] = slot - ((uint64_t)entries[k] << 32) + MMU_REGION_BIAS;
        }
    }
    for (unsigned i = 0; i < TABLES; i++)
        for (unsigned j = 0; j < TABLES; j++)
            for (unsigned k = 0; i != j && k < sizeof entries / sizeof entries[0]; k++)
                CU_ASSERT(overlap_is_safe(table[i], table[j], entries[k]));
    for (unsigned bit = 0; bit < 64; bit++)
        for (uint64_t low = 0; low < 3; low++)
            CU_ASSERT_FALSE(canonical((1ull << bit) - low + mmu_region_nowhere((1ull << bit) - low)));
    for (unsigned i = 0; i < TABLES; i++) {
        CU_ASSERT(mmu_regions_hold(table[i], (uintptr_t)&table[i][0xffffffff]));
        mmu_regions_destroy(table[i]);
    }
}

/* ---- slots ---- */

enum { FRAMES = 64 };

/* Flat 64-bit paging: everything that the guest's tables map is where the window says it is. */
struct world {
    struct memory mem;
    struct mmu mmu;
};

static uint64_t *word(struct world *w, uint64_t gpa)
{
    return (uint64_t *)(w->mem.ram + gpa);
}

/* Page i of region n at n * 4 GiB + i pages: frames from 2 MiB on, by tables from 1 MiB on. */
static void open_world(struct world *w, bool pge)
{
    enum { ENTRY = 3 | 0x20 | 0x40 | 0x100 };
    char err[200];
    CU_ASSERT_FATAL(!memory_init(&w->mem, 8 << 20, err, sizeof err));
    if (mmu_init(&w->mmu, &w->mem, true, 40))
        test_leave_without_tables();
    *word(w, 0x100000) = 0x101000 | ENTRY; /* PML4, then one page directory for every GiB of 512 */
    for (unsigned i = 0; i < 512; i++)
        *word(w, 0x101000 + i * 8) = 0x102000 | ENTRY;
    *word(w, 0x102000) = 0x103000 | ENTRY;
    for (unsigned i = 0; i < FRAMES; i++)
        *word(w, 0x103000 + i * 8) = (0x200000 + (uint64_t)i * PAGE_SIZE) | ENTRY;
    mmu_set_paging(&w->mmu, 0x80000001, 1 << 5 | (pge ? 1 << 7 : 0), 0x500);
    mmu_set_cr3(&w->mmu, 0x100000);
}

static void close_world(struct world *w)
{
    mmu_destroy(&w->mmu);
    memory_destroy(&w->mem);
}

static bool enter_page(struct world *w, uint64_t gva)
{
    struct mmu_fault fault;
    return mmu_window_take_region(&w->mmu, MMU_WINDOW_SUPERVISOR, gva, MMU_SUPERVISOR) == MMU_WINDOW_OK &&
           mmu_window_fill(&w->mmu, MMU_WINDOW_SUPERVISOR, gva, MMU_SUPERVISOR | MMU_WRITE, &fault) == MMU_WINDOW_OK;
}

/* The host's view of a guest address that is in the window, NULL without a slot. */
static uint64_t *seen(const struct world *w, uint64_t gva)
{
    uint64_t entry = w->mmu.window[MMU_WINDOW_SUPERVISOR].regions[gva >> 32];
    return entry == MMU_REGION_NONE ? NULL : (uint64_t *)(uintptr_t)(gva + entry - MMU_REGION_BIAS);
}

static void slots(void)
{
    struct world w;
    open_world(&w, true);
    if (!mmu_window_open(&w.mmu, MMU_WINDOW_SUPERVISOR) || !w.mmu.window[MMU_WINDOW_SUPERVISOR].regions) {
        test_skip("no address space for region tables here");
        close_world(&w);
        return;
    }
    /* one region after the other; the ones before keep their slots while there are some */
    for (uint64_t region = 1; region <= 40; region++) {
        uint64_t gva = (region << 32) + 5 * PAGE_SIZE;
        CU_ASSERT_FATAL(enter_page(&w, gva));
        *word(&w, 0x205000) = 1000 + region;
        CU_ASSERT(seen(&w, gva) && *seen(&w, gva) == 1000 + region);
        *seen(&w, gva) = region;
        CU_ASSERT_EQUAL(*word(&w, 0x205000), region);
        if (region > 1 && region < MMU_WINDOW_SLOTS)
            CU_ASSERT_EQUAL(*seen(&w, (1ull << 32) + 5 * PAGE_SIZE), region);
    }
    unsigned used = 0;
    for (uint64_t region = 1; region <= 40; region++)
        used += seen(&w, region << 32) != NULL;
    CU_ASSERT_EQUAL(used, MMU_WINDOW_SLOTS - 1);
    /* global pages outlive CR3, and nothing outlives the rest */
    uint64_t last = (40ull << 32) + 5 * PAGE_SIZE;
    mmu_set_cr3(&w.mmu, 0x100000);
    CU_ASSERT_PTR_NOT_NULL(seen(&w, last));
    mmu_flush(&w.mmu, true);
    CU_ASSERT_PTR_NULL(seen(&w, last));
    /* no page, no slot */
    CU_ASSERT_EQUAL(
        mmu_window_take_region(&w.mmu, MMU_WINDOW_SUPERVISOR, (7ull << 32) + FRAMES * PAGE_SIZE, MMU_SUPERVISOR),
        MMU_WINDOW_FAULT);
    close_world(&w);
}

static void local_pages(void)
{
    struct world w;
    open_world(&w, false);
    if (mmu_window_open(&w.mmu, MMU_WINDOW_SUPERVISOR) && w.mmu.window[MMU_WINDOW_SUPERVISOR].regions) {
        uint64_t gva = (3ull << 32) + PAGE_SIZE;
        CU_ASSERT(enter_page(&w, gva));
        CU_ASSERT_PTR_NOT_NULL(seen(&w, gva));
        mmu_set_cr3(&w.mmu, 0x100000);
        CU_ASSERT_PTR_NULL(seen(&w, gva));
    }
    close_world(&w);
}

/* A guest kernel below a hypervisor is user code in the upper half. */
static void user_code_in_the_upper_half(void)
{
    enum { US = 4 };
    struct world w;
    struct mmu_fault fault;
    open_world(&w, true);
    *word(&w, 0x100000 + 256 * 8) = *word(&w, 0x100000);
    for (uint64_t at = 0x100000; at < 0x104000; at += 8)
        *word(&w, at) |= *word(&w, at) ? US : 0;
    if (mmu_window_open(&w.mmu, MMU_WINDOW_USER) && w.mmu.window[MMU_WINDOW_USER].regions) {
        uint64_t gva = 0xffff800300000000 + 2 * PAGE_SIZE;
        CU_ASSERT_EQUAL(mmu_window_take_region(&w.mmu, MMU_WINDOW_USER, gva, 0), MMU_WINDOW_OK);
        CU_ASSERT_EQUAL(mmu_window_fill(&w.mmu, MMU_WINDOW_USER, gva, MMU_WRITE, &fault), MMU_WINDOW_OK);
        uint64_t entry = w.mmu.window[MMU_WINDOW_USER].regions[gva >> 32];
        *(uint64_t *)(uintptr_t)(gva + entry - MMU_REGION_BIAS) = 77;
        CU_ASSERT_EQUAL(*word(&w, 0x202000), 77);
    }
    close_world(&w);
}

TEST_SUITE(regions, {"region tables lead nowhere but to slots", region_tables},
           {"regions share slots, global pages outlive CR3", slots},
           {"pages that are not global go with CR3", local_pages},
           {"user code in the upper half", user_code_in_the_upper_half})
