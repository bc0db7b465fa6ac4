/* SPDX-License-Identifier: MIT */
#include "shadowmmu/window.h"

#include "shadowmmu/parallel.h"
#include "shadowmmu/region.h"
#include "shadowmmu/reserve.h"
#include "shadowmmu/walk.h"

#include <stdlib.h>
#include <sys/mman.h>

enum { RIGHT_NONE, RIGHT_READ, RIGHT_WRITE, RIGHT_LATE /* still mapped, and to be taken out */ };
enum {
    REGION_PAGES = 1 << 20,
    REGIONS = 1 << 16,
    RUN_MAX = 256,         /* pages entered at once, when their table entries say that they are neighbours in RAM too */
    LOOK_USER = 16,        /* of them, those that are looked up ahead of their use on either side */
    LOOK_SUPERVISOR = 128, /* kernels map RAM as it lies */
    MAPPINGS_MAX = 10000   /* a third of what Linux allows a process by default, two for each */
};
#define CR4_SMAP_BIT (1u << 21)
#define CR4_PGE_BIT (1u << 7)
static const uint64_t REGION_SIZE = 4ull << 30;
static const uint64_t SLOT_STRIDE = 128ull << 30; /* a slot and the guard between two */

static unsigned slot_count(const struct mmu *mmu)
{
    return mmu->wide ? MMU_WINDOW_SLOTS : 1;
}

/* The slots lie downwards from slot 0, behind which is the wide guard. This is what lies before it. */
static uint64_t before_base(const struct mmu *mmu)
{
    return mmu->wide ? (MMU_WINDOW_SLOTS - 1) * SLOT_STRIDE + MMU_WINDOW_GUARD : MMU_WINDOW_BELOW;
}

/* Behind the user's slot 0 is the low side's stretch of parallel regions. */
static uint64_t window_size(const struct mmu *mmu, enum mmu_window_kind kind)
{
    uint64_t size = kind == MMU_WINDOW_USER && mmu->wide ? 1ull << MMU_STRETCH_SHIFT : REGION_SIZE;
    return before_base(mmu) + size + (mmu->wide ? MMU_WINDOW_GUARD : MMU_WINDOW_ABOVE);
}

static uint8_t *slot_base(const struct mmu_window *w, unsigned slot)
{
    return w->slot[slot].base;
}

/* The entry of a region (bits 32-47 of its addresses) in the region table. */
static uint64_t *region_entry(const struct mmu_window *w, unsigned region)
{
    return &w->regions[(uint32_t)(int32_t)(int16_t)region];
}

static void slot_give(struct mmu_window *w, unsigned slot, unsigned region)
{
    uint64_t first = (uint64_t)(int64_t)(int16_t)region << MMU_REGION_SHIFT;
    uint8_t *parallel = mmu_parallel_place(w, region);
    w->slot[slot] = (struct mmu_window_slot){
        .base = parallel ? parallel : w->base - slot * SLOT_STRIDE, .region = (uint16_t)region, .used = true};
    w->slot_of[region] = (uint8_t)(slot + 1);
    *region_entry(w, region) = (uint64_t)(uintptr_t)slot_base(w, slot) - first + MMU_REGION_BIAS;
}

static void slot_release(struct mmu_window *w, unsigned slot)
{
    unsigned region = w->slot[slot].region;
    w->slot_of[region] = 0;
    *region_entry(w, region) = MMU_REGION_NONE;
    w->slot[slot].used = false;
    w->releases++;
}

static void open_regions(struct mmu_window *w)
{
    w->slot_of = reserve(REGIONS);
    w->regions = w->slot_of ? mmu_regions_create() : NULL;
    if (w->regions)
        slot_give(w, 0, 0);
}

bool mmu_window_open(struct mmu *mmu, enum mmu_window_kind kind)
{
    struct mmu_window *w = &mmu->window[kind];
    if (w->base)
        return true;
    uint64_t size = window_size(mmu, kind), pages = (uint64_t)slot_count(mmu) * REGION_PAGES;
    uint8_t *space = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint8_t *rights = reserve(pages);
    if (space == MAP_FAILED || !rights) {
        if (space != MAP_FAILED)
            munmap(space, size);
        unreserve(rights, pages);
        return false;
    }
    *w = (struct mmu_window){.base = space + before_base(mmu), .rights = rights, .slot_count = slot_count(mmu)};
    w->slot[0] = (struct mmu_window_slot){.base = w->base, .used = true};
    if (mmu->wide)
        open_regions(w);
    if (w->regions && kind == MMU_WINDOW_USER)
        mmu_parallel_open(w);
    return true;
}

void mmu_window_close(struct mmu *mmu, enum mmu_window_kind kind)
{
    struct mmu_window *w = &mmu->window[kind];
    if (!w->base)
        return;
    mmu_parallel_close(w);
    munmap(w->base - before_base(mmu), window_size(mmu, kind));
    unreserve(w->rights, (uint64_t)slot_count(mmu) * REGION_PAGES);
    unreserve(w->slot_of, REGIONS);
    mmu_regions_destroy(w->regions);
    *w = (struct mmu_window){0};
}

bool mmu_window_holds(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host, uint64_t *gva)
{
    const struct mmu_window *w = &mmu->window[kind];
    *gva = host - (uintptr_t)w->base;
    return w->base && *gva + MMU_WINDOW_BELOW < MMU_WINDOW_BELOW + REGION_SIZE + MMU_WINDOW_ABOVE;
}

bool mmu_window_owns(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host)
{
    const struct mmu_window *w = &mmu->window[kind];
    return w->base &&
           (host - ((uintptr_t)w->base - before_base(mmu)) < window_size(mmu, kind) || mmu_parallel_owns(w, host));
}

bool mmu_window_guest_address(const struct mmu *mmu, enum mmu_window_kind kind, uintptr_t host, uint64_t *gva)
{
    const struct mmu_window *w = &mmu->window[kind];
    uint64_t below = (uintptr_t)w->base + REGION_SIZE - 1 - host; /* from the end of slot 0 downwards */
    if (mmu_parallel_address(w, host, gva))
        return true;
    unsigned slot = (unsigned)(below / SLOT_STRIDE);
    if (!w->base || below / SLOT_STRIDE >= w->slot_count || below % SLOT_STRIDE >= REGION_SIZE || !w->slot[slot].used ||
        host - (uintptr_t)w->slot[slot].base >= REGION_SIZE)
        return false;
    uint64_t first = (uint64_t)(int64_t)(int16_t)w->slot[slot].region << MMU_REGION_SHIFT;
    *gva = first + (host - (uintptr_t)slot_base(w, slot));
    return true;
}

/* ---- slots ---- */

/* Where a page (its table index) is in the window. */
struct place {
    unsigned slot;
    uint8_t *right, *at;
};

/* False: its region has no slot. */
static bool locate(const struct mmu_window *w, uint64_t index, struct place *p)
{
    uint64_t region = index / REGION_PAGES, page = index % REGION_PAGES;
    p->slot = 0;
    if (region && (!w->slot_of || !w->slot_of[region]))
        return false;
    if (region)
        p->slot = w->slot_of[region] - 1u;
    p->right = &w->rights[(uint64_t)p->slot * REGION_PAGES + page];
    p->at = slot_base(w, p->slot) + (page << PAGE_SHIFT);
    return true;
}

/* Takes everything out of a slot. */
static void slot_empty(struct mmu_window *w, unsigned slot)
{
    if (!w->slot[slot].mappings)
        return;
    if (mmap(slot_base(w, slot), REGION_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) == MAP_FAILED)
        abort(); /* one mapping in place of many: the host is out of memory, and the guest must not see stale pages */
    madvise(w->rights + (uint64_t)slot * REGION_PAGES, REGION_PAGES, MADV_DONTNEED);
    w->mappings -= w->slot[slot].mappings;
    w->slot[slot].mappings = 0;
}

static void slot_take_away(struct mmu_window *w, unsigned slot)
{
    slot_empty(w, slot);
    slot_release(w, slot);
}

/* A slot for another region: a free one, or in turn one of those in use. */
static unsigned slot_for_new_region(struct mmu_window *w)
{
    for (unsigned i = 1; i < w->slot_count; i++)
        if (!w->slot[i].used)
            return i;
    unsigned slot = 1 + w->next_slot++ % (w->slot_count - 1);
    slot_take_away(w, slot);
    return slot;
}

/* Bits 32-47. */
static unsigned region_of(uint64_t gva)
{
    return gva >> MMU_REGION_SHIFT & (REGIONS - 1);
}

static bool has_slot(const struct mmu *mmu, const struct mmu_window *w, uint64_t gva)
{
    struct place p;
    return locate(w, mmu_table_index(mmu, gva), &p);
}

static void take_region(const struct mmu *mmu, struct mmu_window *w, uint64_t gva)
{
    if (!has_slot(mmu, w, gva))
        slot_give(w, slot_for_new_region(w), region_of(gva));
}

/* Does its region need no entry of the region table to be reached? */
static bool is_parallel(const struct mmu_window *w, uint64_t gva)
{
    return mmu_parallel_place(w, region_of(gva));
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
    uint64_t cr4 = e->mmu->cr4;
    return e->kind == MMU_WINDOW_USER || ((w->global || !(cr4 & CR4_PGE_BIT)) && !(w->user && (cr4 & CR4_SMAP_BIT)));
}

/* The page at gva is mapped by the guest, and used as it will be if the last access is repeated. */
static bool in_use(const struct entering *e, uint64_t gva, struct walk *w)
{
    struct mmu_fault ignored;
    return !walk_guest(e->mmu, gva, MMU_PROBE | e->access, w, &ignored) && (!writes(e) || w->dirty) && belongs(e, w);
}

/* Fills table entries beside one that is new, as long as neighbours in the address space are neighbours in RAM: they
 * cost little more in the same mapping, and a host page fault each by themselves. */
static void look_ahead(const struct entering *e, uint64_t gva, gpa_t addr, int step)
{
    int most = e->kind == MMU_WINDOW_USER ? LOOK_USER : LOOK_SUPERVISOR;
    for (int i = 1; i <= most; i++) {
        uint64_t next = gva + (uint64_t)((int64_t)i * step * PAGE_SIZE);
        struct walk w;
        struct mmu_fault ignored;
        uint8_t *hva;
        gpa_t at;
        if ((next ^ gva) / (RUN_MAX * PAGE_SIZE) || e->tables->read[mmu_table_index(e->mmu, next)])
            break;
        if (!in_use(e, next, &w) || gpa_gfn(w.addr) != gpa_gfn(addr) + (uint64_t)(int64_t)(i * step))
            break;
        if (mmu_access(e->mmu, next, e->access, &hva, &at, &ignored) != MMU_OK)
            break;
    }
}

static uint64_t address_of(const struct mmu *mmu, uint64_t index)
{
    return mmu->wide ? (uint64_t)((int64_t)(index << 28) >> 16) : index << PAGE_SHIFT;
}

/* May the page at index be entered together with the one whose entry is delta? right_now: the window's, of it. */
static bool continues(const struct entering *e, uint64_t index, uint64_t delta, unsigned right, uint8_t right_now)
{
    struct walk w;
    if (e->tables->read[index] != delta || table_right(e->tables, index) != right || right_now)
        return false;
    return e->kind == MMU_WINDOW_USER || in_use(e, address_of(e->mmu, index), &w);
}

static bool map_run(const struct entering *e, uint64_t index, const struct place *p, unsigned right)
{
    struct mmu_window *w = e->window;
    const struct memory *mem = e->mmu->mem;
    uint64_t delta = e->tables->read[index], low = index & ~(uint64_t)(RUN_MAX - 1);
    int64_t before = 0, behind = 0; /* pages of the run */
    while (index - (uint64_t)before > low &&
           continues(e, index - (uint64_t)before - 1, delta, right, p->right[-before - 1]))
        before++;
    while (index + (uint64_t)behind + 1 < low + RUN_MAX &&
           continues(e, index + (uint64_t)behind + 1, delta, right, p->right[behind + 1]))
        behind++;
    uint8_t *hva = (uint8_t *)(uintptr_t)(delta + address_of(e->mmu, index - (uint64_t)before));
    if (mmap(p->at - before * PAGE_SIZE, (size_t)(before + behind + 1) * PAGE_SIZE,
             right == RIGHT_WRITE ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
             mem->ram_fd, hva - mem->ram) == MAP_FAILED)
        return false;
    for (int64_t i = -before; i <= behind; i++)
        p->right[i] = (uint8_t)right;
    w->mappings++;
    w->slot[p->slot].mappings++;
    e->mmu->stats.window_fills++;
    return true;
}

static struct entering entering(struct mmu *mmu, enum mmu_window_kind kind, unsigned access)
{
    enum mmu_view view = kind == MMU_WINDOW_USER ? MMU_VIEW_USER : mmu_view(mmu, access);
    return (struct entering){mmu, &mmu->window[kind], kind, &mmu->view[view], access};
}

/* Is the host page one that guest RAM's file has? */
static bool mappable(const struct mmu *mmu, const uint8_t *hva)
{
    return (uint64_t)(hva - mmu->mem->ram) < mmu->mem->ram_size; /* the difference wraps for a page outside */
}

static enum mmu_window_result enter(struct mmu *mmu, enum mmu_window_kind kind, uint64_t gva, unsigned access,
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
    uint64_t index = mmu_table_index(mmu, gva);
    unsigned right = table_right(e.tables, index);
    if (right < (writes(&e) ? RIGHT_WRITE : RIGHT_READ) || !mappable(mmu, hva) || !in_use(&e, gva, &w))
        return MMU_WINDOW_TABLE;
    look_ahead(&e, gva, addr, 1);
    look_ahead(&e, gva, addr, -1);
    struct place p;
    if (is_parallel(e.window, gva))
        take_region(mmu, e.window, gva);
    if (table_right(e.tables, index) != right || !locate(e.window, index, &p)) /* new entries made all others go */
        return MMU_WINDOW_OK;
    e.window->local |= kind == MMU_WINDOW_SUPERVISOR && !w.global;
    if (e.window->mappings >= MAPPINGS_MAX || !map_run(&e, index, &p, right))
        return MMU_WINDOW_FULL;
    return MMU_WINDOW_OK;
}

enum mmu_window_result mmu_window_fill(struct mmu *mmu, enum mmu_window_kind kind, uint64_t gva, unsigned access,
                                       struct mmu_fault *fault)
{
    uint64_t began = __builtin_ia32_rdtsc();
    enum mmu_window_result r = enter(mmu, kind, gva, access, fault);
    mmu->window[kind].cycles += __builtin_ia32_rdtsc() - began;
    return r;
}

enum mmu_window_result mmu_window_take_region(struct mmu *mmu, enum mmu_window_kind kind, uint64_t gva, unsigned access)
{
    struct entering e = entering(mmu, kind, access | MMU_READ);
    uint64_t began = __builtin_ia32_rdtsc();
    struct walk w;
    struct mmu_fault ignored;
    if (walk_guest(mmu, gva, MMU_PROBE | e.access, &w, &ignored))
        return MMU_WINDOW_FAULT;
    if (!belongs(&e, &w) || !mappable(mmu, memory_page(mmu->mem, gpa_gfn(w.addr)).read))
        return MMU_WINDOW_TABLE;
    take_region(mmu, e.window, gva);
    e.window->cycles += __builtin_ia32_rdtsc() - began;
    return MMU_WINDOW_OK;
}

bool mmu_window_take_stretch(struct mmu *mmu, uint64_t gva)
{
    struct mmu_window *w = &mmu->window[MMU_WINDOW_USER];
    if (!mmu_parallel_take(w, gva))
        return false;
    for (unsigned i = 1; i < w->slot_count; i++) { /* those that are elsewhere */
        uint8_t *place = w->slot[i].used ? mmu_parallel_place(w, w->slot[i].region) : NULL;
        if (place && place != w->slot[i].base)
            slot_take_away(w, i);
    }
    return true;
}

void mmu_window_guard_32(struct mmu *mmu)
{
    struct mmu_window *w = &mmu->window[MMU_WINDOW_USER];
    for (unsigned i = 1; i < w->slot_count; i++)
        if (w->slot[i].used && (uintptr_t)w->slot[i].base - (uintptr_t)w->base < REGION_SIZE + MMU_WINDOW_ABOVE)
            slot_take_away(w, i);
}

void mmu_window_prefill(struct mmu *mmu, uint64_t gva, bool write)
{
    struct entering e = entering(mmu, MMU_WINDOW_USER, write ? MMU_WRITE : MMU_READ);
    struct walk w;
    struct mmu_fault ignored;
    bool placed = mmu_canonical(gva) && (has_slot(mmu, e.window, gva) || is_parallel(e.window, gva));
    if (placed && in_use(&e, gva, &w))
        mmu_window_fill(mmu, MMU_WINDOW_USER, gva, e.access, &ignored);
}

/* ---- taking them out ---- */

static bool drop_write(const struct place *p)
{
    if (*p->right == RIGHT_WRITE && !mprotect(p->at, PAGE_SIZE, PROT_READ))
        *p->right = RIGHT_READ;
    return *p->right == RIGHT_READ;
}

/* Takes out pages from p on. False: the host has no more mappings for the split. */
static bool drop_pages(const struct place *p, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        p->right[i] = RIGHT_NONE;
    return mmap(p->at, count * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
}

void mmu_window_drop(struct mmu *mmu, enum mmu_window_kind kind, uint64_t index, bool writes_only)
{
    struct mmu_window *w = &mmu->window[kind];
    struct place p;
    if (!w->mappings || !locate(w, index, &p) || !*p.right)
        return;
    uint64_t began = __builtin_ia32_rdtsc();
    if (!writes_only || !drop_write(&p)) {
        mmu->stats.window_drops++;
        if (!drop_pages(&p, 1))
            mmu_window_clear(mmu, kind);
    }
    w->cycles += __builtin_ia32_rdtsc() - began;
}

void mmu_window_drop_later(struct mmu *mmu, uint64_t index)
{
    struct mmu_window *w = &mmu->window[MMU_WINDOW_USER];
    struct place p;
    if (!w->mappings || !locate(w, index, &p) || *p.right == RIGHT_NONE || *p.right == RIGHT_LATE)
        return;
    if (w->late_count == sizeof w->late / sizeof w->late[0])
        mmu_window_settle(mmu);
    if (!*p.right) /* there was no room, all is gone */
        return;
    *p.right = RIGHT_LATE;
    w->late[w->late_count++] = index;
}

/* Pages from number n of the late ones on that lie side by side, in the order in which they came. */
static unsigned late_run(const struct mmu_window *w, unsigned n, const struct place *p)
{
    unsigned count = 0;
    while (n + count < w->late_count && w->late[n + count] == w->late[n] + count && p->right[count] == RIGHT_LATE &&
           (w->late[n] + count) / REGION_PAGES == w->late[n] / REGION_PAGES)
        count++;
    return count;
}

void mmu_window_settle(struct mmu *mmu)
{
    struct mmu_window *w = &mmu->window[MMU_WINDOW_USER];
    if (!w->late_count)
        return;
    uint64_t began = __builtin_ia32_rdtsc();
    for (unsigned n = 0, count; n < w->late_count; n += count ? count : 1) {
        struct place p;
        count = locate(w, w->late[n], &p) ? late_run(w, n, &p) : 0;
        mmu->stats.window_drops += count;
        if (count && !drop_pages(&p, count))
            mmu_window_clear(mmu, MMU_WINDOW_USER);
    }
    w->late_count = 0;
    w->cycles += __builtin_ia32_rdtsc() - began;
}

void mmu_window_clear(struct mmu *mmu, enum mmu_window_kind kind)
{
    struct mmu_window *w = &mmu->window[kind];
    if (!w->mappings)
        return;
    uint64_t began = __builtin_ia32_rdtsc();
    mmu->stats.window_clears++;
    for (unsigned i = 0; i < w->slot_count; i++) {
        slot_empty(w, i);
        if (i && w->slot[i].used) /* what comes next may be at other addresses */
            slot_release(w, i);
    }
    w->local = false;
    w->late_count = 0;
    w->cycles += __builtin_ia32_rdtsc() - began;
}
