/* SPDX-License-Identifier: MIT */
/* Parallel regions (shadowmmu/parallel.h): where stretches lie, which of them may be reached, and that pages of the
 * guest are where their addresses say. What the verifier takes of them is in test_verify_parallel.c. */
#include "shadowmmu/parallel.h"
#include "shadowmmu/region.h"
#include "shadowmmu/reserve.h"
#include "shadowmmu/window.h"
#include "tests/test.h"

#include <string.h>
#include <unistd.h>

enum { FRAMES = 64, US = 4 };
#define REGION (1ull << MMU_REGION_SHIFT)
#define STRETCH (1ull << MMU_STRETCH_SHIFT)
#define HALF_END (1ull << 47)

/* Flat 64-bit paging for user code: page i of every region n below 2^47 at n * 4 GiB + i pages is frame 2 MiB + i
 * pages, but that the second gigabyte of each lacks them. */
struct world {
    struct memory mem;
    struct mmu mmu;
    struct mmu_window *w;
};

static uint64_t *word(struct world *w, uint64_t gpa)
{
    return (uint64_t *)(w->mem.ram + gpa);
}

static void close_world(struct world *w)
{
    mmu_destroy(&w->mmu);
    memory_destroy(&w->mem);
}

/* False: not here. */
static bool open_world(struct world *w)
{
    enum { ENTRY = 3 | US | 0x20 | 0x40 };
    char err[200];
    memset(w, 0, sizeof *w);
    CU_ASSERT_FATAL(!memory_init(&w->mem, 8 << 20, err, sizeof err));
    if (mmu_init(&w->mmu, &w->mem, true, 40))
        test_leave_without_tables();
    for (unsigned i = 0; i < 256; i++)
        *word(w, 0x100000 + i * 8) = 0x101000 | ENTRY;
    for (unsigned i = 0; i < 512; i++)
        if (i % 4 != 1)
            *word(w, 0x101000 + i * 8) = 0x102000 | ENTRY;
    *word(w, 0x102000) = 0x103000 | ENTRY;
    *word(w, 0x102000 + 511 * 8) = 0x104000 | ENTRY;
    for (unsigned i = 0; i < FRAMES; i++) {
        *word(w, 0x103000 + i * 8) = (0x200000 + (uint64_t)i * PAGE_SIZE) | ENTRY;
        *word(w, 0x104000 + (511 - i) * 8) = (0x300000 - (uint64_t)(i + 1) * PAGE_SIZE) | ENTRY;
    }
    mmu_set_paging(&w->mmu, 0x80000001, 1 << 5, 0x500);
    mmu_set_cr3(&w->mmu, 0x100000);
    w->w = &w->mmu.window[MMU_WINDOW_USER];
    if (mmu_window_open(&w->mmu, MMU_WINDOW_USER) && w->w->parallel.table)
        return true;
    test_skip("no address space for parallel regions here");
    close_world(w);
    return false;
}

/* May the host's address be read? */
static bool readable(const volatile void *at)
{
    static int ends[2];
    char byte;
    if (!ends[1] && pipe(ends))
        return false;
    bool can = write(ends[1], (const void *)(uintptr_t)at, 1) == 1;
    return can && read(ends[0], &byte, 1) == 1;
}

/* What translated code's look does. */
static bool passes(const struct world *w, uint64_t gva)
{
    return readable(&w->w->parallel.table[gva >> 32]);
}

static uint64_t distance(const struct world *w, uint64_t gva)
{
    return w->w->parallel.distance[gva < STRETCH ? MMU_SIDE_LOW : MMU_SIDE_HIGH];
}

/* Is address space taken there? */
static bool taken(uintptr_t at)
{
    void *p = reserve_at(at, PAGE_SIZE);
    if (p)
        munmap(p, PAGE_SIZE);
    return !p;
}

static bool fill(struct world *w, uint64_t gva)
{
    struct mmu_fault fault;
    return mmu_window_fill(&w->mmu, MMU_WINDOW_USER, gva, MMU_WRITE, &fault) == MMU_WINDOW_OK;
}

static uint64_t *by_gs(const struct world *w, uint64_t gva)
{
    return (uint64_t *)(uintptr_t)(gva + distance(w, gva));
}

/* By the region table; NULL: no slot. */
static uint64_t *by_entry(const struct world *w, uint64_t gva)
{
    uint64_t entry = w->w->regions[gva >> 32];
    return entry == MMU_REGION_NONE ? NULL : (uint64_t *)(uintptr_t)(gva + entry - MMU_REGION_BIAS);
}

/* A stretch without anything of this process's, guards included, none of its neighbours' neither, or 0. */
static uint64_t free_stretch(const struct world *w, unsigned neighbours)
{
    for (uint64_t s = 2; s + neighbours + 1 < MMU_STRETCHES; s++) {
        uint64_t from = (s << MMU_STRETCH_SHIFT) + w->w->parallel.distance[MMU_SIDE_HIGH] - MMU_WINDOW_GUARD;
        uint64_t size = (1 + neighbours) * STRETCH + 2 * MMU_WINDOW_GUARD;
        void *p = from < HALF_END ? reserve_at(from, size) : NULL;
        if (!p)
            continue;
        munmap(p, size);
        return s << MMU_STRETCH_SHIFT;
    }
    return 0;
}

/* ---- stretches ---- */

static void sides(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t high = free_stretch(&w, 1);
    CU_ASSERT_FATAL(high != 0);
    /* at first the low side, which needs no place */
    CU_ASSERT(passes(&w, 0) && passes(&w, STRETCH - 1));
    CU_ASSERT_FALSE(passes(&w, STRETCH) || passes(&w, high) || passes(&w, HALF_END) || passes(&w, ~0ull));
    CU_ASSERT_FALSE(mmu_parallel_take(w.w, high));
    CU_ASSERT(mmu_parallel_take(w.w, 5 * REGION));
    CU_ASSERT_EQUAL(w.w->parallel.distance[MMU_SIDE_LOW], (uintptr_t)w.w->base);
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FALSE(passes(&w, 0) || passes(&w, high));
    CU_ASSERT_FALSE(mmu_parallel_take(w.w, 0) || mmu_parallel_take(w.w, STRETCH - 1));
    CU_ASSERT(mmu_parallel_take(w.w, high + 77 * REGION + 5));
    CU_ASSERT(passes(&w, high) && passes(&w, high + STRETCH - 1));
    CU_ASSERT_FALSE(passes(&w, high - 1) || passes(&w, high + STRETCH) || passes(&w, 0));
    /* and what was taken stays where it is, closed and opened with its side */
    mmu_parallel_use(w.w, MMU_SIDE_LOW);
    CU_ASSERT(passes(&w, 0));
    CU_ASSERT_FALSE(passes(&w, high));
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT(passes(&w, high));
    CU_ASSERT_FALSE(passes(&w, 0));
    CU_ASSERT_EQUAL(w.w->parallel.entry, w.w->parallel.distance[MMU_SIDE_HIGH] + MMU_REGION_BIAS);
    mmu_parallel_use(w.w, MMU_SIDE_LOW);
    CU_ASSERT_EQUAL(w.w->parallel.entry, w.w->parallel.distance[MMU_SIDE_LOW] + MMU_REGION_BIAS);
    /* never: what is not of the lower half */
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FALSE(mmu_parallel_take(w.w, HALF_END) || mmu_parallel_take(w.w, 0xffff800000000000) ||
                    mmu_parallel_take(w.w, ~0ull) || mmu_parallel_take(w.w, HALF_END + 5 * STRETCH));
    close_world(&w);
}

/* Address space of a stretch and its guards is kept; above an end there is more of it. */
static void check_guards(const struct world *w, uint64_t first, uint64_t last)
{
    uintptr_t from = first + distance(w, first), end = last + STRETCH + distance(w, last);
    CU_ASSERT(taken(from - MMU_WINDOW_GUARD) && taken(from - PAGE_SIZE) && taken(from) && taken(end - PAGE_SIZE));
    CU_ASSERT(taken(end) && taken(end + MMU_WINDOW_GUARD - PAGE_SIZE));
    CU_ASSERT(mmu_parallel_owns(w->w, from - MMU_WINDOW_GUARD) && mmu_parallel_owns(w->w, from) &&
              mmu_parallel_owns(w->w, end + MMU_WINDOW_GUARD - 1));
    CU_ASSERT_FALSE(mmu_parallel_owns(w->w, from - MMU_WINDOW_GUARD - 1) ||
                    mmu_parallel_owns(w->w, end + MMU_WINDOW_GUARD));
    CU_ASSERT_FALSE(readable((void *)(from - PAGE_SIZE)) || readable((void *)from) || readable((void *)end));
}

static void neighbours(void)
{
    static const unsigned orders[][3] = {{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}};
    for (unsigned n = 0; n < sizeof orders / sizeof orders[0]; n++) {
        struct world w;
        if (!open_world(&w))
            return;
        uint64_t first = free_stretch(&w, 2);
        CU_ASSERT_FATAL(first != 0);
        uintptr_t from = first + w.w->parallel.distance[MMU_SIDE_HIGH];
        mmu_parallel_use(w.w, MMU_SIDE_HIGH);
        CU_ASSERT(mmu_parallel_take(w.w, first + orders[n][0] * STRETCH));
        check_guards(&w, first + orders[n][0] * STRETCH, first + orders[n][0] * STRETCH);
        CU_ASSERT_FALSE(taken(from + orders[n][2] * STRETCH + STRETCH / 2));
        for (unsigned i = 1; i < 3; i++) {
            CU_ASSERT(mmu_parallel_take(w.w, first + orders[n][i] * STRETCH));
            CU_ASSERT(passes(&w, first + orders[n][i] * STRETCH));
        }
        check_guards(&w, first, first + 2 * STRETCH);
        CU_ASSERT(taken(from + STRETCH - PAGE_SIZE) && taken(from + STRETCH) && taken(from + 2 * STRETCH));
        close_world(&w); /* all address space is free again */
        uint64_t size = 3 * STRETCH + 2 * MMU_WINDOW_GUARD;
        void *p = reserve_at(from - MMU_WINDOW_GUARD, size);
        CU_ASSERT_PTR_NOT_NULL(p);
        unreserve(p, size);
    }
}

/* Something of the host's is in the way: in the place, or in a guard. */
static void occupied(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t gva = free_stretch(&w, 0);
    CU_ASSERT_FATAL(gva != 0);
    uintptr_t from = gva + w.w->parallel.distance[MMU_SIDE_HIGH];
    const uintptr_t at[] = {from - MMU_WINDOW_GUARD, from, from + STRETCH / 2, from + STRETCH - PAGE_SIZE,
                            from + STRETCH + MMU_WINDOW_GUARD - PAGE_SIZE};
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++) {
        void *page = mmap((void *)at[i], PAGE_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        CU_ASSERT_FATAL(page == (void *)at[i]);
        *(uint64_t *)page = i;
        for (unsigned n = 0; n < 3; n++)
            CU_ASSERT_FALSE(mmu_window_take_stretch(&w.mmu, gva + n * REGION));
        CU_ASSERT_FALSE(passes(&w, gva));
        CU_ASSERT_PTR_NULL(mmu_parallel_place(w.w, (unsigned)(gva >> 32)));
        CU_ASSERT_EQUAL(*(uint64_t *)page, i);
        munmap(page, PAGE_SIZE);
        for (unsigned k = 0; k < sizeof at / sizeof at[0]; k++)
            CU_ASSERT_FALSE(taken(at[k]));
    }
    CU_ASSERT(mmu_window_take_stretch(&w.mmu, gva));
    CU_ASSERT(passes(&w, gva));
    close_world(&w);
}

/* ---- places and addresses ---- */

static void places(void)
{
    struct world w;
    uint64_t gva, last = HALF_END - STRETCH;
    if (!open_world(&w))
        return;
    uint64_t high = free_stretch(&w, 0);
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FATAL(high && mmu_parallel_take(w.w, high));
    const uint64_t all[] = {0, PAGE_SIZE - 1, REGION, STRETCH - 1, high, high + 3 * REGION + 12345, high + STRETCH - 1};
    for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
        uint8_t *place = mmu_parallel_place(w.w, (unsigned)(all[i] >> 32));
        CU_ASSERT_PTR_EQUAL(place, (uint8_t *)by_gs(&w, all[i] & ~(REGION - 1)));
        CU_ASSERT(mmu_parallel_address(w.w, (uintptr_t)by_gs(&w, all[i]), &gva) && gva == all[i]);
        CU_ASSERT(mmu_parallel_owns(w.w, (uintptr_t)by_gs(&w, all[i])));
        CU_ASSERT(mmu_window_owns(&w.mmu, MMU_WINDOW_USER, (uintptr_t)by_gs(&w, all[i])));
        CU_ASSERT(mmu_window_guest_address(&w.mmu, MMU_WINDOW_USER, (uintptr_t)by_gs(&w, all[i]), &gva) &&
                  gva == all[i]);
    }
    /* guards, and what has no place */
    CU_ASSERT_FALSE(mmu_parallel_address(w.w, (uintptr_t)by_gs(&w, 0) - 1, &gva));
    CU_ASSERT_FALSE(mmu_parallel_address(w.w, (uintptr_t)w.w->base + STRETCH, &gva));
    CU_ASSERT_FALSE(mmu_parallel_address(w.w, (uintptr_t)by_gs(&w, high) - 1, &gva));
    CU_ASSERT_FALSE(mmu_parallel_address(w.w, (uintptr_t)by_gs(&w, high) + STRETCH, &gva));
    CU_ASSERT_PTR_NULL(mmu_parallel_place(w.w, (unsigned)((high + STRETCH) >> 32)));
    CU_ASSERT_PTR_NULL(mmu_parallel_place(w.w, 0x8000));
    CU_ASSERT_PTR_NULL(mmu_parallel_place(w.w, 0xffff));
    CU_ASSERT_FALSE(mmu_parallel_address(w.w, (uintptr_t)&w, &gva));
    CU_ASSERT_FALSE(mmu_parallel_owns(w.w, (uintptr_t)&w));
    /* the last page: what begins there may end where #GP is to be raised */
    if (mmu_parallel_take(w.w, last)) {
        uintptr_t end = (uintptr_t)by_gs(&w, last) + STRETCH;
        CU_ASSERT(mmu_parallel_address(w.w, end - PAGE_SIZE - 1, &gva) && gva == HALF_END - PAGE_SIZE - 1);
        CU_ASSERT_FALSE(mmu_parallel_address(w.w, end - PAGE_SIZE, &gva) || mmu_parallel_address(w.w, end - 1, &gva) ||
                        mmu_parallel_address(w.w, end, &gva));
        CU_ASSERT(mmu_parallel_owns(w.w, end - 1) && mmu_parallel_owns(w.w, end));
    }
    close_world(&w);
}

/* ---- tables ---- */

/* An address that finds an entry of the page in another table, or a page of another's in this one, leads nowhere. */
static void tables_overlap(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t high = free_stretch(&w, 0);
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FATAL(high && mmu_parallel_take(w.w, high));
    const uint64_t *table = w.w->parallel.table, *others[4] = {w.w->regions};
    unsigned count = 1;
    while (count < 4 && (others[count] = mmu_regions_create()))
        count++;
    for (unsigned side = 0; side < 2; side++) {
        uint64_t first = side == MMU_SIDE_LOW ? 0 : high >> 32;
        mmu_parallel_use(w.w, (enum mmu_side)side);
        CU_ASSERT_FATAL(readable(&table[first]));
        for (uint64_t i = first; i < first + 512; i++)
            CU_ASSERT_EQUAL(table[i], MMU_REGION_NONE);
        for (unsigned k = 0; k < count; k++)
            for (uint64_t i = 0; i < 0x8000; i += 0x7f) {
                int64_t number = others[k] + i - table; /* a look at these addresses passes, by the other's page */
                uint64_t gva = (uint64_t)number << 32;
                for (uint64_t d = 0; number >= 0 && number <= UINT32_MAX && d < REGION; d += 0xfffffff)
                    for (unsigned s = 0; s < 2; s++)
                        CU_ASSERT_FALSE(mmu_canonical(gva + d + w.w->parallel.distance[s]) ||
                                        mmu_canonical(gva + d + w.w->parallel.distance[s] + MMU_WINDOW_GUARD) ||
                                        mmu_canonical(gva + d + w.w->parallel.distance[s] - MMU_WINDOW_GUARD));
            }
    }
    for (unsigned k = 1; k < count; k++)
        mmu_regions_destroy((uint64_t *)(uintptr_t)others[k]);
    close_world(&w);
}

/* ---- pages ---- */

static void pages_are_in_parallel(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t high = free_stretch(&w, 1);
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FATAL(high && mmu_window_take_stretch(&w.mmu, high) && mmu_window_take_stretch(&w.mmu, high + STRETCH));
    const uint64_t all[] = {high,
                            high + 9 * PAGE_SIZE,
                            high + STRETCH - 3 * PAGE_SIZE, /* by tables for the end of a gigabyte */
                            high + STRETCH - PAGE_SIZE,
                            high + STRETCH,
                            high + STRETCH + 300 * REGION + PAGE_SIZE,
                            2 * PAGE_SIZE,
                            11 * REGION + 2 * PAGE_SIZE};
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
            CU_ASSERT_FATAL(fill(&w, all[i]));
            CU_ASSERT_PTR_EQUAL(by_entry(&w, all[i]), by_gs(&w, all[i]));
            *by_gs(&w, all[i]) = 1000 + i;
            uint64_t page = all[i] % (1 << 30) >> PAGE_SHIFT;
            CU_ASSERT_EQUAL(
                *word(&w, page < FRAMES ? 0x200000 + page * PAGE_SIZE : 0x300000 - ((1 << 18) - page) * PAGE_SIZE),
                1000 + i);
        }
    /* more regions than slots: those that gave theirs away hold nothing */
    for (unsigned n = 1; n <= MMU_WINDOW_SLOTS; n++)
        CU_ASSERT_FATAL(fill(&w, high + n * REGION));
    CU_ASSERT_FALSE(readable(by_gs(&w, high)));
    CU_ASSERT(readable(by_gs(&w, high + MMU_WINDOW_SLOTS * REGION)));
    CU_ASSERT_FATAL(fill(&w, high));
    CU_ASSERT(readable(by_gs(&w, high)));
    mmu_window_drop(&w.mmu, MMU_WINDOW_USER, mmu_table_index(&w.mmu, high), false);
    CU_ASSERT_FALSE(readable(by_gs(&w, high)));
    CU_ASSERT_FATAL(fill(&w, high));
    mmu_set_cr3(&w.mmu, 0x100000);
    CU_ASSERT_FALSE(readable(by_gs(&w, high)) || readable(by_gs(&w, high + MMU_WINDOW_SLOTS * REGION)));
    close_world(&w);
}

/* A region that had a slot before its stretch had a place. */
static void slots_move(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t high = free_stretch(&w, 1), gva = high + 4 * REGION + 3 * PAGE_SIZE, other = gva + STRETCH, at;
    CU_ASSERT_FATAL(high != 0);
    CU_ASSERT_EQUAL(mmu_window_take_region(&w.mmu, MMU_WINDOW_USER, gva, 0), MMU_WINDOW_OK);
    CU_ASSERT_EQUAL(mmu_window_take_region(&w.mmu, MMU_WINDOW_USER, other, 0), MMU_WINDOW_OK);
    CU_ASSERT_FATAL(fill(&w, gva) && fill(&w, other));
    uint64_t *before = by_entry(&w, gva), *stays = by_entry(&w, other), releases = w.w->releases;
    CU_ASSERT_FATAL(before && stays && readable(before) && readable(stays));
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FATAL(mmu_window_take_stretch(&w.mmu, high));
    CU_ASSERT(w.w->releases > releases);
    CU_ASSERT_PTR_NULL(by_entry(&w, gva));
    CU_ASSERT_FALSE(readable(before));
    CU_ASSERT(readable(stays) && by_entry(&w, other) == stays);
    CU_ASSERT_FATAL(fill(&w, gva));
    CU_ASSERT_PTR_EQUAL(by_entry(&w, gva), by_gs(&w, gva));
    CU_ASSERT(readable(by_gs(&w, gva)));
    CU_ASSERT_FALSE(readable(before) || mmu_window_guest_address(&w.mmu, MMU_WINDOW_USER, (uintptr_t)before, &at));
    /* once more changes nothing, nor does the other side */
    releases = w.w->releases;
    CU_ASSERT(mmu_window_take_stretch(&w.mmu, gva));
    mmu_parallel_use(w.w, MMU_SIDE_LOW);
    CU_ASSERT_FALSE(mmu_window_take_stretch(&w.mmu, gva));
    CU_ASSERT_EQUAL(w.w->releases, releases);
    CU_ASSERT(readable(by_gs(&w, gva)));
    close_world(&w);
}

/* 32-bit code's addresses wrap at 4 GiB: nothing is behind them, as far as they lead. */
static void guard_of_32_bits(void)
{
    struct world w;
    if (!open_world(&w))
        return;
    uint64_t high = free_stretch(&w, 0), far = MMU_WINDOW_ABOVE + 2 * REGION;
    mmu_parallel_use(w.w, MMU_SIDE_HIGH);
    CU_ASSERT_FATAL(high && mmu_window_take_stretch(&w.mmu, high));
    CU_ASSERT_FATAL(fill(&w, 0) && fill(&w, REGION) && fill(&w, 8 * REGION) && fill(&w, far) && fill(&w, high));
    CU_ASSERT(readable(by_gs(&w, REGION)) && readable(by_gs(&w, 8 * REGION)));
    mmu_window_guard_32(&w.mmu);
    CU_ASSERT_FALSE(readable(by_gs(&w, REGION)) || readable(by_gs(&w, 8 * REGION)));
    CU_ASSERT_PTR_NULL(by_entry(&w, REGION));
    CU_ASSERT(readable(by_gs(&w, 0)) && readable(by_gs(&w, far)) && readable(by_gs(&w, high)));
    CU_ASSERT_FATAL(fill(&w, REGION));
    CU_ASSERT(readable(by_gs(&w, REGION)));
    close_world(&w);
}

/* The side is that of most pages of the address space. */
static void side_of_the_space(void)
{
    struct world w;
    struct mmu_fault fault;
    gpa_t addr;
    uint8_t *hva;
    if (!open_world(&w))
        return;
    mmu_parallel_choose(&w.mmu);
    for (unsigned i = 0; i < 8; i++) {
        CU_ASSERT_EQUAL(mmu_access(&w.mmu, i * PAGE_SIZE, MMU_READ, &hva, &addr, &fault), MMU_OK);
        CU_ASSERT_EQUAL(mmu_access(&w.mmu, i * PAGE_SIZE + 5 * STRETCH, MMU_READ | MMU_SUPERVISOR, &hva, &addr, &fault),
                        MMU_OK);
        mmu_parallel_choose(&w.mmu);
        CU_ASSERT_EQUAL(w.w->parallel.side, MMU_SIDE_LOW);
        CU_ASSERT(passes(&w, 0));
    }
    for (unsigned i = 0; i < 9; i++)
        CU_ASSERT_EQUAL(mmu_access(&w.mmu, STRETCH + i * PAGE_SIZE, MMU_READ, &hva, &addr, &fault), MMU_OK);
    mmu_parallel_choose(&w.mmu);
    CU_ASSERT_EQUAL(w.w->parallel.side, MMU_SIDE_HIGH);
    CU_ASSERT_FALSE(passes(&w, 0));
    close_world(&w);
}

/* What a 64-bit guest without address space for tables, and a 32-bit one, have. */
static void none(void)
{
    struct mmu_window w = {0};
    uint64_t gva;
    mmu_parallel_use(&w, MMU_SIDE_HIGH);
    CU_ASSERT_FALSE(mmu_parallel_take(&w, 0) || mmu_parallel_take(&w, STRETCH) ||
                    mmu_parallel_address(&w, 0x1000, &gva) || mmu_parallel_owns(&w, 0x1000));
    CU_ASSERT_PTR_NULL(mmu_parallel_place(&w, 0));
    mmu_parallel_close(&w);
}

TEST_SUITE(parallel, {"one side is in force", sides}, {"neighbours share guards, and all goes back", neighbours},
           {"what is the host's stays the host's", occupied}, {"places and addresses", places},
           {"other tables lead nowhere", tables_overlap}, {"pages are in parallel", pages_are_in_parallel},
           {"slots move", slots_move}, {"nothing behind 32-bit code", guard_of_32_bits},
           {"the side of the address space", side_of_the_space}, {"no table", none})
