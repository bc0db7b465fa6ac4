/* SPDX-License-Identifier: MIT */
#include "shadowmmu/parallel.h"

#include "shadowmmu/region.h"
#include "shadowmmu/reserve.h"
#include "shadowmmu/space.h"
#include "shadowmmu/window.h"

#include <sys/mman.h>

#define STRETCH_BYTES (1ull << MMU_STRETCH_SHIFT)
enum { REGIONS_PER_STRETCH = 1 << (MMU_STRETCH_SHIFT - MMU_REGION_SHIFT) };
/* The high side's: the monitor and its libraries are where a guest's programs and libraries are, too, and 16 TiB below
 * there is room. */
static const uint64_t HIGH_DISTANCE = 0 - (16ull << 40);
_Static_assert(REGIONS_PER_STRETCH * sizeof(uint64_t) == PAGE_SIZE, "a stretch is a page of the table");

static uintptr_t place_of(const struct mmu_parallel *p, unsigned stretch)
{
    return (uintptr_t)(((uint64_t)stretch << MMU_STRETCH_SHIFT) + p->distance[stretch ? MMU_SIDE_HIGH : MMU_SIDE_LOW]);
}

void mmu_parallel_close(struct mmu_window *w)
{
    struct mmu_parallel *p = &w->parallel;
    if (!p->table)
        return;
    for (unsigned s = 1; s < MMU_STRETCHES; s++) /* the low one is the window's */
        if (p->reserved >> s & 1)
            munmap((void *)(place_of(p, s) - MMU_WINDOW_GUARD), STRETCH_BYTES + 2 * MMU_WINDOW_GUARD);
    mmu_regions_destroy(p->table);
    p->table = NULL;
}

static uint8_t *page_of(const struct mmu_parallel *p, unsigned stretch)
{
    return (uint8_t *)p->table + (size_t)stretch * PAGE_SIZE;
}

/* Other tables' look-ups may meet the page: what they find there leads nowhere. */
static bool open_page(const struct mmu_parallel *p, unsigned stretch)
{
    uint64_t *page = (uint64_t *)(void *)page_of(p, stretch);
    if (mprotect(page, PAGE_SIZE, PROT_READ | PROT_WRITE))
        return false;
    for (volatile uint64_t *e = page; e < page + PAGE_SIZE / sizeof *page; e++)
        *e = MMU_REGION_NONE;
    return !mprotect(page, PAGE_SIZE, PROT_NONE);
}

/* The pages of one side's stretches. */
static bool protect_side(const struct mmu_parallel *p, enum mmu_side side, int protection)
{
    for (unsigned s = 0; s < MMU_STRETCHES; s++)
        if ((p->reserved >> s & 1) && (s != 0) == (side == MMU_SIDE_HIGH) &&
            mprotect(page_of(p, s), PAGE_SIZE, protection))
            return false;
    return true;
}

void mmu_parallel_use(struct mmu_window *w, enum mmu_side side)
{
    struct mmu_parallel *p = &w->parallel;
    if (!p->table || p->side == side || !protect_side(p, p->side, PROT_NONE)) /* what was closed is taken again */
        return;
    p->side = side;
    p->entry = p->distance[side] + MMU_REGION_BIAS;
    protect_side(p, side, PROT_READ);
}

void mmu_parallel_choose(struct mmu *mmu)
{
    enum { LOOK = 256 };
    bool low = mmu_space_is_below(mmu, STRETCH_BYTES, LOOK);
    mmu_parallel_use(&mmu->window[MMU_WINDOW_USER], low ? MMU_SIDE_LOW : MMU_SIDE_HIGH);
}

void mmu_parallel_open(struct mmu_window *w)
{
    struct mmu_parallel *p = &w->parallel;
    p->table = mmu_regions_create_closed();
    if (!p->table)
        return;
    p->distance[MMU_SIDE_LOW] = (uintptr_t)w->base;
    p->distance[MMU_SIDE_HIGH] = HIGH_DISTANCE;
    if (!open_page(p, 0)) {
        mmu_regions_destroy(p->table);
        p->table = NULL;
        return;
    }
    p->reserved = 1;
    p->side = MMU_SIDE_HIGH;
    mmu_parallel_use(w, MMU_SIDE_LOW);
}

/* With its guards; a neighbour's reach into it, and what is behind them there needs none. */
static bool reserve_place(struct mmu_parallel *p, unsigned stretch)
{
    uintptr_t at = place_of(p, stretch), end = at + STRETCH_BYTES;
    if (end > 1ull << 47 || end < at)
        return false;
    at = stretch > 1 && (p->reserved >> (stretch - 1) & 1) ? at + MMU_WINDOW_GUARD : at - MMU_WINDOW_GUARD;
    end = stretch + 1 < MMU_STRETCHES && (p->reserved >> (stretch + 1) & 1) ? end - MMU_WINDOW_GUARD
                                                                            : end + MMU_WINDOW_GUARD;
    if (!open_page(p, stretch) || !reserve_at(at, end - at))
        return false;
    p->reserved |= 1ull << stretch;
    return true;
}

bool mmu_parallel_take(struct mmu_window *w, uint64_t gva)
{
    struct mmu_parallel *p = &w->parallel;
    uint64_t stretch = gva >> MMU_STRETCH_SHIFT;
    if (!p->table || stretch >= MMU_STRETCHES || mmu_parallel_side(gva) != p->side)
        return false;
    if (!(p->reserved >> stretch & 1) && !reserve_place(p, (unsigned)stretch))
        return false;
    return !mprotect(page_of(p, (unsigned)stretch), PAGE_SIZE, PROT_READ);
}

uint8_t *mmu_parallel_place(const struct mmu_window *w, unsigned region)
{
    const struct mmu_parallel *p = &w->parallel;
    unsigned stretch = region / REGIONS_PER_STRETCH;
    if (!p->table || stretch >= MMU_STRETCHES || !(p->reserved >> stretch & 1))
        return NULL;
    return (uint8_t *)place_of(p, stretch) + ((uint64_t)(region % REGIONS_PER_STRETCH) << MMU_REGION_SHIFT);
}

bool mmu_parallel_address(const struct mmu_window *w, uintptr_t host, uint64_t *gva)
{
    const struct mmu_parallel *p = &w->parallel;
    for (unsigned side = 0; side < 2; side++) {
        *gva = host - p->distance[side];
        uint64_t stretch = *gva >> MMU_STRETCH_SHIFT;
        if (p->table && stretch < MMU_STRETCHES && !mmu_ends_lower_half(*gva) && mmu_parallel_side(*gva) == side &&
            (p->reserved >> stretch & 1))
            return true;
    }
    return false;
}

bool mmu_parallel_owns(const struct mmu_window *w, uintptr_t host)
{
    const struct mmu_parallel *p = &w->parallel;
    for (unsigned s = 0; p->table && s < MMU_STRETCHES; s++)
        if ((p->reserved >> s & 1) && host - (place_of(p, s) - MMU_WINDOW_GUARD) < STRETCH_BYTES + 2 * MMU_WINDOW_GUARD)
            return true;
    return false;
}
