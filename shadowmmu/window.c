/* SPDX-License-Identifier: MIT */
#include "shadowmmu/window.h"

#include "shadowmmu/walk.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { RIGHT_NONE, RIGHT_READ, RIGHT_WRITE };
enum {
    PAGES = 1 << 20,
    RUN_MAX = 64,        /* pages entered at once, when their table entries say that they are neighbours in RAM too */
    LOOK_MAX = 16,       /* of them, those that are looked up ahead of their use on either side */
    MAPPINGS_MAX = 15000 /* half of what Linux allows a process by default, two for each */
};
static const uint64_t WINDOW_SIZE = 4ull << 30;
static const uint64_t GUARD_SIZE = 64 << 10;

static bool protect_all(struct mmu_window *w)
{
    return mmap(w->base, WINDOW_SIZE + GUARD_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                -1, 0) != MAP_FAILED;
}

bool mmu_window_open(struct mmu *mmu)
{
    struct mmu_window *w = &mmu->window;
    if (w->base)
        return true;
    void *base = mmap(NULL, WINDOW_SIZE + GUARD_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *rights = mmap(NULL, PAGES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || rights == MAP_FAILED) {
        if (base != MAP_FAILED)
            munmap(base, WINDOW_SIZE + GUARD_SIZE);
        if (rights != MAP_FAILED)
            munmap(rights, PAGES);
        return false;
    }
    *w = (struct mmu_window){.base = base, .rights = rights};
    return true;
}

void mmu_window_close(struct mmu *mmu)
{
    struct mmu_window *w = &mmu->window;
    if (!w->base)
        return;
    munmap(w->base, WINDOW_SIZE + GUARD_SIZE);
    munmap(w->rights, PAGES);
    *w = (struct mmu_window){0};
}

bool mmu_window_holds(const struct mmu *mmu, uintptr_t host, uint64_t *gva)
{
    *gva = host - (uintptr_t)mmu->window.base;
    return mmu->window.base && *gva < WINDOW_SIZE + GUARD_SIZE;
}

/* What the user tables allow on a page. */
static unsigned table_right(const struct mmu_table_set *t, uint64_t index)
{
    return !t->read[index] ? RIGHT_NONE : t->write[index] == t->read[index] ? RIGHT_WRITE : RIGHT_READ;
}

/* May the page at index be entered together with the one whose entry is delta? */
static bool continues(const struct mmu *mmu, const struct mmu_table_set *t, uint64_t index, uint64_t delta,
                      unsigned right)
{
    return t->read[index] == delta && table_right(t, index) == right && mmu->window.rights[index] == RIGHT_NONE;
}

static bool map_run(struct mmu *mmu, uint64_t index, unsigned right)
{
    struct mmu_window *w = &mmu->window;
    const struct mmu_table_set *t = &mmu->view[MMU_VIEW_USER];
    uint64_t delta = t->read[index], first = index, last = index, low = index & ~(uint64_t)(RUN_MAX - 1);
    while (first > low && continues(mmu, t, first - 1, delta, right))
        first--;
    while (last + 1 < low + RUN_MAX && continues(mmu, t, last + 1, delta, right))
        last++;
    uint8_t *hva = (uint8_t *)(uintptr_t)(delta + (first << PAGE_SHIFT));
    uint64_t count = last - first + 1;
    void *at = w->base + (first << PAGE_SHIFT);
    if (mmap(at, count << PAGE_SHIFT, right == RIGHT_WRITE ? PROT_READ | PROT_WRITE : PROT_READ,
             MAP_SHARED | MAP_FIXED | MAP_POPULATE, mmu->mem->ram_fd, hva - mmu->mem->ram) == MAP_FAILED)
        return false;
    for (uint64_t i = first; i <= last; i++)
        w->rights[i] = (uint8_t)right;
    w->mappings++;
    mmu->stats.window_fills++;
    return true;
}

/* The page at gva is mapped by the guest for user code, and used as it will be if the last access is repeated. */
static bool in_use(struct mmu *mmu, uint32_t gva, bool write, struct walk *w)
{
    struct mmu_fault ignored;
    return !walk_guest(mmu, gva, MMU_PROBE | (write ? MMU_WRITE : MMU_READ), w, &ignored) && (!write || w->dirty);
}

/* Fills table entries beside one that is new, as long as neighbours in the address space are neighbours in RAM: they
 * cost little more in the same mapping, and a host page fault each by themselves. */
static void look_ahead(struct mmu *mmu, uint32_t gva, gpa_t addr, bool write, int step)
{
    const struct mmu_table_set *t = &mmu->view[MMU_VIEW_USER];
    for (int i = 1; i <= LOOK_MAX; i++) {
        uint32_t next = gva + (uint32_t)(i * step * PAGE_SIZE);
        struct walk w;
        struct mmu_fault ignored;
        uint8_t *hva;
        gpa_t at;
        if ((next ^ gva) / (RUN_MAX * PAGE_SIZE) || t->read[next >> PAGE_SHIFT])
            break;
        if (!in_use(mmu, next, write, &w) || gpa_gfn(w.addr) != gpa_gfn(addr) + (uint64_t)(int64_t)(i * step))
            break;
        if (mmu_access(mmu, next, write ? MMU_WRITE : MMU_READ, &hva, &at, &ignored) != MMU_OK)
            break;
    }
}

void mmu_window_prefill(struct mmu *mmu, uint32_t gva, bool write)
{
    struct walk w;
    struct mmu_fault ignored;
    if (in_use(mmu, gva, write, &w))
        mmu_window_fill(mmu, gva, write, &ignored);
}

enum mmu_window_result mmu_window_fill(struct mmu *mmu, uint32_t gva, bool write, struct mmu_fault *fault)
{
    uint8_t *hva;
    gpa_t addr;
    switch (mmu_access(mmu, gva, write ? MMU_WRITE : MMU_READ, &hva, &addr, fault)) {
    case MMU_FAULT:
        return MMU_WINDOW_FAULT;
    case MMU_DEVICE:
        return MMU_WINDOW_TABLE;
    default:
        break;
    }
    uint64_t index = gva >> PAGE_SHIFT;
    unsigned right = table_right(&mmu->view[MMU_VIEW_USER], index);
    uint64_t offset = (uint64_t)(hva - mmu->mem->ram); /* wraps for a page outside the pool */
    if (right < (write ? RIGHT_WRITE : RIGHT_READ) || offset >= mmu->mem->ram_size)
        return MMU_WINDOW_TABLE;
    look_ahead(mmu, gva, addr, write, 1);
    look_ahead(mmu, gva, addr, write, -1);
    if (mmu->window.rights[index] && mmu->window.rights[index] != right)
        mmu_window_drop(mmu, index, false);
    if (mmu->window.mappings >= MAPPINGS_MAX || !map_run(mmu, index, right))
        return MMU_WINDOW_FULL;
    return MMU_WINDOW_OK;
}

void mmu_window_drop(struct mmu *mmu, uint64_t index, bool writes_only)
{
    struct mmu_window *w = &mmu->window;
    if (!w->mappings || index >= PAGES || !w->rights[index])
        return;
    void *at = w->base + (index << PAGE_SHIFT);
    if (writes_only) {
        if (w->rights[index] == RIGHT_WRITE && !mprotect(at, PAGE_SIZE, PROT_READ))
            w->rights[index] = RIGHT_READ;
        if (w->rights[index] == RIGHT_READ)
            return;
    }
    w->rights[index] = RIGHT_NONE;
    mmu->stats.window_drops++;
    /* The host may be out of mappings for the split: then everything goes. */
    if (mmap(at, PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        mmu_window_clear(mmu);
}

void mmu_window_clear(struct mmu *mmu)
{
    struct mmu_window *w = &mmu->window;
    if (!w->mappings)
        return;
    mmu->stats.window_clears++;
    if (!protect_all(w))
        abort(); /* one mapping in place of many: the host is out of memory, and the guest must not see stale pages */
    madvise(w->rights, PAGES, MADV_DONTNEED);
    w->mappings = 0;
}
