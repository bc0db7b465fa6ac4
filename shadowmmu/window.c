/* SPDX-License-Identifier: MIT */
#include "shadowmmu/window.h"

#include "shadowmmu/reserve.h"
#include "shadowmmu/walk.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { RIGHT_NONE, RIGHT_READ, RIGHT_WRITE };
enum {
    PAGES = 1 << 20,
    RUN_MAX = 256,         /* pages entered at once, when their table entries say that they are neighbours in RAM too */
    LOOK_USER = 16,        /* of them, those that are looked up ahead of their use on either side */
    LOOK_SUPERVISOR = 128, /* kernels map RAM as it lies */
    MAPPINGS_MAX = 10000   /* a third of what Linux allows a process by default, two for each */
};
#define CR4_SMAP_BIT (1u << 21)
static const uint64_t WINDOW_SIZE = 4ull << 30;
static const uint64_t GUARD_SIZE = 64 << 10;

static bool protect_all(struct mmu_window *w)
{
    return mmap(w->base, WINDOW_SIZE + GUARD_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED,
                -1, 0) != MAP_FAILED;
}

bool mmu_window_open(struct mmu *mmu, enum mmu_window_kind kind)
{
    struct mmu_window *w = &mmu->window[kind];
    if (w->base)
        return true;
    void *base = mmap(NULL, WINDOW_SIZE + GUARD_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void *rights = reserve(PAGES);
    if (base == MAP_FAILED || !rights) {
        if (base != MAP_FAILED)
            munmap(base, WINDOW_SIZE + GUARD_SIZE);
        unreserve(rights, PAGES);
        return false;
    }
    *w = (struct mmu_window){.base = base, .rights = rights};
    return true;
}

void mmu_window_close(struct mmu *mmu, enum mmu_window_kind kind)
{
    struct mmu_window *w = &mmu->window[kind];
    if (!w->base)
        return;
    munmap(w->base, WINDOW_SIZE + GUARD_SIZE);
    munmap(w->rights, PAGES);
    *w = (struct mmu_window){0};
}

bool mmu_window_holds(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host, uint64_t *gva)
{
    const struct mmu_window *w = &mmu->window[kind];
    *gva = host - (uintptr_t)w->base;
    return w->base && *gva < WINDOW_SIZE + GUARD_SIZE;
}

/* ---- entering pages ---- */

/* One page to be entered, and what its neighbours must be like. */
struct entering {
    struct mmu *mmu;
    struct mmu_window *window;
    enum mmu_window_kind kind;
    const struct mmu_table_set *tables;
    unsigned access; /* enum mmu_access */
};

static bool writes(const struct entering *e)
{
    return (e->access & MMU_ACCESS_MASK) == MMU_WRITE;
}

/* What the tables allow on a page. */
static unsigned table_right(const struct mmu_table_set *t, uint64_t index)
{
    return !t->read[index] ? RIGHT_NONE : t->write[index] == t->read[index] ? RIGHT_WRITE : RIGHT_READ;
}

/* May the page be in this window at all? */
static bool belongs(const struct entering *e, const struct walk *w)
{
    return e->kind == MMU_WINDOW_USER || (w->global && !(w->user && (e->mmu->cr4 & CR4_SMAP_BIT)));
}

/* The page at gva is mapped by the guest, and used as it will be if the last access is repeated. */
static bool in_use(const struct entering *e, uint32_t gva, struct walk *w)
{
    struct mmu_fault ignored;
    return !walk_guest(e->mmu, gva, MMU_PROBE | e->access, w, &ignored) && (!writes(e) || w->dirty) && belongs(e, w);
}

/* Fills table entries beside one that is new, as long as neighbours in the address space are neighbours in RAM: they
 * cost little more in the same mapping, and a host page fault each by themselves. */
static void look_ahead(const struct entering *e, uint32_t gva, gpa_t addr, int step)
{
    int most = e->kind == MMU_WINDOW_USER ? LOOK_USER : LOOK_SUPERVISOR;
    for (int i = 1; i <= most; i++) {
        uint32_t next = gva + (uint32_t)(i * step * PAGE_SIZE);
        struct walk w;
        struct mmu_fault ignored;
        uint8_t *hva;
        gpa_t at;
        if ((next ^ gva) / (RUN_MAX * PAGE_SIZE) || e->tables->read[next >> PAGE_SHIFT])
            break;
        if (!in_use(e, next, &w) || gpa_gfn(w.addr) != gpa_gfn(addr) + (uint64_t)(int64_t)(i * step))
            break;
        if (mmu_access(e->mmu, next, e->access, &hva, &at, &ignored) != MMU_OK)
            break;
    }
}

/* May the page at index be entered together with the one whose entry is delta? */
static bool continues(const struct entering *e, uint64_t index, uint64_t delta, unsigned right)
{
    struct walk w;
    if (e->tables->read[index] != delta || table_right(e->tables, index) != right || e->window->rights[index])
        return false;
    return e->kind == MMU_WINDOW_USER || in_use(e, (uint32_t)(index << PAGE_SHIFT), &w);
}

static bool map_run(const struct entering *e, uint64_t index, unsigned right)
{
    struct mmu_window *w = e->window;
    const struct memory *mem = e->mmu->mem;
    uint64_t delta = e->tables->read[index], first = index, last = index, low = index & ~(uint64_t)(RUN_MAX - 1);
    while (first > low && continues(e, first - 1, delta, right))
        first--;
    while (last + 1 < low + RUN_MAX && continues(e, last + 1, delta, right))
        last++;
    uint8_t *hva = (uint8_t *)(uintptr_t)(delta + (first << PAGE_SHIFT));
    uint64_t count = last - first + 1;
    void *at = w->base + (first << PAGE_SHIFT);
    if (mmap(at, count << PAGE_SHIFT, right == RIGHT_WRITE ? PROT_READ | PROT_WRITE : PROT_READ,
             MAP_SHARED | MAP_FIXED | MAP_POPULATE, mem->ram_fd, hva - mem->ram) == MAP_FAILED)
        return false;
    for (uint64_t i = first; i <= last; i++)
        w->rights[i] = (uint8_t)right;
    w->mappings++;
    e->mmu->stats.window_fills++;
    return true;
}

static struct entering entering(struct mmu *mmu, enum mmu_window_kind kind, unsigned access)
{
    enum mmu_view view = kind == MMU_WINDOW_USER ? MMU_VIEW_USER : mmu_view(mmu, access);
    return (struct entering){mmu, &mmu->window[kind], kind, &mmu->view[view], access};
}

static enum mmu_window_result enter(struct mmu *mmu, enum mmu_window_kind kind, uint32_t gva, unsigned access,
                                    struct mmu_fault *fault)
{
    struct entering e = entering(mmu, kind, access);
    struct walk w;
    uint8_t *hva;
    gpa_t addr;
    switch (mmu_access(mmu, gva, access, &hva, &addr, fault)) {
    case MMU_FAULT:
        return MMU_WINDOW_FAULT;
    case MMU_DEVICE:
        return MMU_WINDOW_TABLE;
    default:
        break;
    }
    uint64_t index = gva >> PAGE_SHIFT;
    unsigned right = table_right(e.tables, index);
    uint64_t offset = (uint64_t)(hva - mmu->mem->ram); /* wraps for a page outside the pool */
    if (right < (writes(&e) ? RIGHT_WRITE : RIGHT_READ) || offset >= mmu->mem->ram_size || !in_use(&e, gva, &w))
        return MMU_WINDOW_TABLE;
    look_ahead(&e, gva, addr, 1);
    look_ahead(&e, gva, addr, -1);
    if (e.window->rights[index] && e.window->rights[index] != right)
        mmu_window_drop(mmu, kind, index, false);
    if (e.window->mappings >= MAPPINGS_MAX || !map_run(&e, index, right))
        return MMU_WINDOW_FULL;
    return MMU_WINDOW_OK;
}

enum mmu_window_result mmu_window_fill(struct mmu *mmu, enum mmu_window_kind kind, uint32_t gva, unsigned access,
                                       struct mmu_fault *fault)
{
    uint64_t began = __builtin_ia32_rdtsc();
    enum mmu_window_result r = enter(mmu, kind, gva, access, fault);
    mmu->window[kind].cycles += __builtin_ia32_rdtsc() - began;
    return r;
}

void mmu_window_prefill(struct mmu *mmu, uint32_t gva, bool write)
{
    struct entering e = entering(mmu, MMU_WINDOW_USER, write ? MMU_WRITE : MMU_READ);
    struct walk w;
    struct mmu_fault ignored;
    if (in_use(&e, gva, &w))
        mmu_window_fill(mmu, MMU_WINDOW_USER, gva, e.access, &ignored);
}

/* ---- taking them out ---- */

static bool drop_write(struct mmu_window *w, uint64_t index)
{
    if (w->rights[index] == RIGHT_WRITE && !mprotect(w->base + (index << PAGE_SHIFT), PAGE_SIZE, PROT_READ))
        w->rights[index] = RIGHT_READ;
    return w->rights[index] == RIGHT_READ;
}

/* False: the host has no more mappings for the split. */
static bool drop_page(struct mmu_window *w, uint64_t index)
{
    w->rights[index] = RIGHT_NONE;
    return mmap(w->base + (index << PAGE_SHIFT), PAGE_SIZE, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

void mmu_window_drop(struct mmu *mmu, enum mmu_window_kind kind, uint64_t index, bool writes_only)
{
    struct mmu_window *w = &mmu->window[kind];
    if (!w->mappings || index >= PAGES || !w->rights[index])
        return;
    uint64_t began = __builtin_ia32_rdtsc();
    if (!writes_only || !drop_write(w, index)) {
        mmu->stats.window_drops++;
        if (!drop_page(w, index))
            mmu_window_clear(mmu, kind);
    }
    w->cycles += __builtin_ia32_rdtsc() - began;
}

void mmu_window_clear(struct mmu *mmu, enum mmu_window_kind kind)
{
    struct mmu_window *w = &mmu->window[kind];
    if (!w->mappings)
        return;
    uint64_t began = __builtin_ia32_rdtsc();
    mmu->stats.window_clears++;
    if (!protect_all(w))
        abort(); /* one mapping in place of many: the host is out of memory, and the guest must not see stale pages */
    madvise(w->rights, PAGES, MADV_DONTNEED);
    w->mappings = 0;
    w->cycles += __builtin_ia32_rdtsc() - began;
}
