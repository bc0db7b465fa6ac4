/* SPDX-License-Identifier: MIT */
#include "shadowmmu/space.h"

#include "shadowmmu/reserve.h"
#include "shadowmmu/window.h"

#include <errno.h>

enum {
    FILL_MAX = 1 << 18,
    FILL_HASH = 1 << 14,
    LOOK_BACK = 8,   /* records of a chain among which one is looked for: that of the zero page is long */
    PARK_MAX = 4096, /* a space with more entries is dropped: to carry them all costs more than to fill what is used */
    SPREAD_MAX = 512 /* some MiB */
};
static const uint64_t LOWER_HALF = 1ull << 35; /* table entries */

#define STALE 1 /* a delta that no entry has: those are multiples of the page size */

struct mmu_fill {
    uint64_t page; /* table index */
    uint64_t gfn;
    uint64_t delta;              /* as it was entered */
    uint32_t next;               /* in the list of its space, of global ones, or of free ones; 0: end */
    uint32_t gfn_next, gfn_prev; /* in the gfn's chain, 0: end and head */
    uint8_t view;
    uint8_t large; /* see mmu->large */
    bool global;
    bool parked;      /* not in the tables: */
    bool read, write; /* what is to be put back */
};

int mmu_space_init(struct mmu *mmu)
{
    mmu->fills = reserve(FILL_MAX * sizeof *mmu->fills);
    mmu->fill_hash = reserve(FILL_HASH * sizeof *mmu->fill_hash);
    mmu->fill_count = 1; /* record 0 is "none" */
    return mmu->fills && mmu->fill_hash ? 0 : -ENOMEM;
}

void mmu_space_destroy(struct mmu *mmu)
{
    unreserve(mmu->fills, FILL_MAX * sizeof *mmu->fills);
    unreserve(mmu->fill_hash, FILL_HASH * sizeof *mmu->fill_hash);
    mmu->fills = NULL;
    mmu->fill_hash = NULL;
}

/* ---- records ---- */

static uint32_t *gfn_head(struct mmu *mmu, uint64_t gfn)
{
    return &mmu->fill_hash[(uint32_t)(gfn * 0x9e3779b97f4a7c15ull >> 50) & (FILL_HASH - 1)];
}

static uint32_t record_take(struct mmu *mmu)
{
    uint32_t n = mmu->fill_free;
    if (n) {
        mmu->fill_free = mmu->fills[n].next;
        return n;
    }
    return mmu->fill_count < FILL_MAX ? mmu->fill_count++ : 0;
}

static void record_free(struct mmu *mmu, uint32_t n)
{
    struct mmu_fill *f = &mmu->fills[n];
    if (f->gfn_next)
        mmu->fills[f->gfn_next].gfn_prev = f->gfn_prev;
    if (f->gfn_prev)
        mmu->fills[f->gfn_prev].gfn_next = f->gfn_next;
    else
        *gfn_head(mmu, f->gfn) = f->gfn_next;
    f->next = mmu->fill_free;
    mmu->fill_free = n;
}

/* Without a write where nothing is: most of a table has no memory. */
static void clear(uint64_t *entry)
{
    if (*entry)
        *entry = 0;
}

/* Frees a list, with the table entries of the records that are not parked. */
static void list_drop(struct mmu *mmu, uint32_t *list)
{
    for (uint32_t i = *list, next; i; i = next) {
        struct mmu_fill *f = &mmu->fills[i];
        next = f->next;
        if (!f->parked) {
            clear(&mmu->view[f->view].read[f->page]);
            clear(&mmu->view[f->view].write[f->page]);
        }
        record_free(mmu, i);
    }
    *list = 0;
}

static void space_drop(struct mmu *mmu, struct mmu_space *s)
{
    list_drop(mmu, &s->first);
    s->count = 0;
    s->used = 0;
}

/* A page that becomes global after INVLPG may have an old record of the current space's, which must not take the entry
 * for its own. */
static void forget_local(struct mmu *mmu, uint32_t first, const struct mmu_fill *g)
{
    for (uint32_t i = first; i; i = mmu->fills[i].gfn_next) {
        struct mmu_fill *f = &mmu->fills[i];
        if (f->page == g->page && f->view == g->view && !f->parked && !f->global)
            f->delta = STALE;
    }
}

static void note_spread(struct mmu *mmu, uint64_t page, bool global)
{
    enum { SEEN = sizeof mmu->spread_seen / sizeof mmu->spread_seen[0] };
    uint32_t place = (uint32_t)(page >> MMU_LARGE_SHIFT), *seen = &mmu->spread_seen[place % SEEN];
    if (page >= LOWER_HALF)
        return;
    mmu->global_low |= global;
    mmu->spread += *seen != place;
    *seen = place;
}

/* No space's entries are in the tables. */
static void trim(struct mmu *mmu)
{
    if (!mmu->wide || mmu->spread < SPREAD_MAX || mmu->global_low)
        return;
    for (int v = 0; v < MMU_VIEW_COUNT; v++) {
        reserve_again(mmu->view[v].read, mmu->view[v].read + LOWER_HALF);
        reserve_again(mmu->view[v].write, mmu->view[v].write + LOWER_HALF);
    }
    mmu->spread = 0;
    mmu->stats.trims++;
}

/* A record that is the current space's or global, put into its two lists. */
static void record_add(struct mmu *mmu, const struct mmu_fill *fields)
{
    uint32_t n = record_take(mmu);
    if (!n) {
        mmu->stats.flush_full++;
        mmu_flush(mmu, true);
        n = record_take(mmu);
    }
    note_spread(mmu, fields->page, fields->global);
    struct mmu_fill *f = &mmu->fills[n];
    uint32_t *list = fields->global ? &mmu->global_fills : &mmu->space.first, *head = gfn_head(mmu, fields->gfn);
    *f = *fields;
    f->next = *list;
    f->gfn_next = *head;
    *list = n;
    if (*head)
        mmu->fills[*head].gfn_prev = n;
    *head = n;
    mmu->space.count += !f->global;
}

/* A page comes back to the same place after INVLPG again and again when its rights change: its record serves again. */
static struct mmu_fill *record_again(struct mmu *mmu, const struct mmu_fill *fields)
{
    uint32_t n = *gfn_head(mmu, fields->gfn);
    for (int i = 0; n && i < LOOK_BACK; i++, n = mmu->fills[n].gfn_next) {
        struct mmu_fill *f = &mmu->fills[n];
        if (f->page == fields->page && f->gfn == fields->gfn && f->view == fields->view &&
            f->global == fields->global && !f->parked)
            return f;
    }
    return NULL;
}

void mmu_space_enter(struct mmu *mmu, enum mmu_view view, uint64_t page, uint64_t gfn, uint64_t delta, bool global)
{
    struct mmu_fill fields = {.page = page,
                              .gfn = gfn,
                              .delta = delta,
                              .view = (uint8_t)view,
                              .global = global,
                              .large = mmu->large[page >> MMU_LARGE_SHIFT]};
    struct mmu_fill *again = record_again(mmu, &fields);
    if (again) {
        again->delta = delta;
        again->large = fields.large;
    } else {
        record_add(mmu, &fields);
    }
    if (global)
        forget_local(mmu, *gfn_head(mmu, gfn), &fields);
    mmu->view[view].read[page] = delta;
    clear(&mmu->view[view].write[page]);
}

/* ---- spaces ---- */

void mmu_space_drop_current(struct mmu *mmu)
{
    space_drop(mmu, &mmu->space);
    trim(mmu);
}

void mmu_space_drop_pcid(struct mmu *mmu, uint64_t pcid)
{
    for (unsigned i = 0; i < MMU_PARKED; i++)
        if (mmu->parked[i].used && (mmu->parked[i].cr3 & 0xfff) == pcid)
            space_drop(mmu, &mmu->parked[i]);
}

void mmu_space_drop_spaces(struct mmu *mmu)
{
    space_drop(mmu, &mmu->space);
    for (unsigned i = 0; i < MMU_PARKED; i++)
        if (mmu->parked[i].used)
            space_drop(mmu, &mmu->parked[i]);
}

void mmu_space_drop_all(struct mmu *mmu)
{
    mmu_space_drop_spaces(mmu);
    list_drop(mmu, &mmu->global_fills);
    mmu->global_low = false;
    trim(mmu);
}

static void space_park(struct mmu *mmu, struct mmu_space *s)
{
    uint32_t *link = &s->first;
    for (uint32_t i = s->first, next; i; i = next) {
        struct mmu_fill *f = &mmu->fills[i];
        uint64_t *read = &mmu->view[f->view].read[f->page], *write = &mmu->view[f->view].write[f->page];
        next = f->next;
        if (*read != f->delta) {
            *link = next;
            s->count--;
            record_free(mmu, i);
            continue;
        }
        f->parked = f->read = true;
        f->write = *write == f->delta;
        *read = 0;
        clear(write);
        link = &f->next;
    }
}

static void space_resume(struct mmu *mmu, struct mmu_space *s)
{
    uint32_t *link = &s->first;
    for (uint32_t i = s->first, next; i; i = next) {
        struct mmu_fill *f = &mmu->fills[i];
        uint64_t *read = &mmu->view[f->view].read[f->page], *write = &mmu->view[f->view].write[f->page];
        next = f->next;
        if (!f->read || *read) { /* dropped meanwhile, or a global page is there now */
            *link = next;
            s->count--;
            record_free(mmu, i);
            continue;
        }
        *read = f->delta;
        mmu->large[f->page >> MMU_LARGE_SHIFT] |= f->large;
        if (f->write)
            *write = f->delta;
        f->parked = false;
        link = &f->next;
    }
}

/* Where the space that is left goes: a free place, or that of the one that was left longest ago. */
static struct mmu_space *parking_place(struct mmu *mmu)
{
    struct mmu_space *oldest = &mmu->parked[0];
    for (unsigned i = 0; i < MMU_PARKED; i++)
        if (mmu->parked[i].used < oldest->used)
            oldest = &mmu->parked[i];
    if (oldest->used)
        space_drop(mmu, oldest);
    return oldest;
}

void mmu_space_switch(struct mmu *mmu, uint64_t cr3, bool keep)
{
    struct mmu_space to = {.cr3 = cr3}, from = mmu->space;
    int resumed = -1, parked = -1;
    for (int i = 0; i < MMU_PARKED; i++) {
        struct mmu_space *s = &mmu->parked[i];
        if (!s->used || ((s->cr3 ^ cr3) & 0xfff))
            continue;
        if (keep && s->cr3 == cr3) {
            to = *s;
            resumed = i;
            *s = (struct mmu_space){0};
        } else {
            space_drop(mmu, s);
        }
    }
    from.cr3 = mmu->cr3;
    if (from.count <= PARK_MAX) {
        struct mmu_space *place = resumed >= 0 ? &mmu->parked[resumed] : parking_place(mmu);
        space_park(mmu, &from);
        from.used = ++mmu->space_tick;
        *place = from;
        parked = (int)(place - mmu->parked);
        mmu->stats.parked++;
    } else {
        space_drop(mmu, &from);
    }
    trim(mmu);
    mmu->space = to;
    if (resumed >= 0) {
        space_resume(mmu, &mmu->space);
        mmu->stats.resumed++;
    }
    if (mmu->switched)
        mmu->switched(mmu->opaque, parked, resumed);
}

/* ---- one page's ---- */

void mmu_space_drop_gfn(struct mmu *mmu, uint64_t gfn, bool writes_only)
{
    for (uint32_t i = *gfn_head(mmu, gfn); i; i = mmu->fills[i].gfn_next) {
        struct mmu_fill *f = &mmu->fills[i];
        if (f->gfn != gfn)
            continue;
        if (f->parked) {
            f->write = false;
            f->read = f->read && writes_only;
            continue;
        }
        clear(&mmu->view[f->view].write[f->page]);
        if (!writes_only)
            clear(&mmu->view[f->view].read[f->page]);
        mmu_window_drop(mmu, f->view == MMU_VIEW_USER ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR, f->page, writes_only);
    }
}

bool mmu_space_is_below(const struct mmu *mmu, uint64_t limit, unsigned most)
{
    unsigned below = 0, all = 0;
    for (uint32_t n = mmu->space.first; n && all < most; n = mmu->fills[n].next)
        if (mmu->fills[n].view == MMU_VIEW_USER) {
            all++;
            below += mmu->fills[n].page < limit >> PAGE_SHIFT;
        }
    return 2 * below > all;
}
