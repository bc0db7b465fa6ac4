/* SPDX-License-Identifier: MIT */
/* The follower's memory: RAM of its own under the same map, and the comparison of what both sides wrote. */
#include "frontend/lockstep_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { JOURNAL_PAGES = 4096 };

/* Host memory that is no guest RAM (ROM, video memory), and the follower's copy of it: by areas of the host's
 * addresses. */
enum { FOREIGN_AREA = 64 << 20 };
struct foreign {
    uintptr_t area;
    uint8_t *copy;
};

static int journal_create(struct memory_journal *j)
{
    *j = (struct memory_journal){.room = JOURNAL_PAGES};
    j->gfns = malloc(JOURNAL_PAGES * sizeof *j->gfns);
    j->before = malloc((size_t)JOURNAL_PAGES * PAGE_SIZE);
    return j->gfns && j->before ? 0 : -1;
}

int mirror_create(struct lockstep *l)
{
    if (memory_init(&l->mirror, l->memory->ram_size, l->err, l->err_len))
        return -1;
    l->has_mirror = true;
    if (journal_create(&l->leader_journal) || journal_create(&l->follower_journal)) {
        snprintf(l->err, l->err_len, "out of memory");
        return -1;
    }
    l->memory->journal = &l->leader_journal;
    l->mirror.journal = &l->follower_journal;
    return 0;
}

void mirror_destroy(struct lockstep *l)
{
    l->memory->journal = NULL;
    for (size_t i = 0; i < l->foreign_count; i++)
        munmap(l->foreign[i].copy, FOREIGN_AREA);
    free(l->foreign);
    free(l->leader_journal.gfns);
    free(l->leader_journal.before);
    free(l->follower_journal.gfns);
    free(l->follower_journal.before);
    if (l->has_mirror)
        memory_destroy(&l->mirror);
}

/* ---- the map ---- */

/* Pages that lie together do so in the copy as well: KVM wants few memory slots. */
static uint8_t *foreign_copy(struct lockstep *l, const uint8_t *page)
{
    static const uintptr_t offset_mask = FOREIGN_AREA - 1;
    uintptr_t area = (uintptr_t)page & ~offset_mask;
    size_t i = 0;
    while (i < l->foreign_count && l->foreign[i].area != area)
        i++;
    if (i == l->foreign_count) {
        struct foreign *more = realloc(l->foreign, (i + 1) * sizeof *more);
        if (!more)
            return NULL;
        l->foreign = more;
        void *copy =
            mmap(NULL, FOREIGN_AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (copy == MAP_FAILED)
            return NULL;
        l->foreign[l->foreign_count++] = (struct foreign){area, copy};
    }
    uint8_t *to = l->foreign[i].copy + ((uintptr_t)page & offset_mask);
    memcpy(to, page, PAGE_SIZE);
    return to;
}

static uint8_t *own_page(struct lockstep *l, uint8_t *page)
{
    if (!page)
        return NULL;
    if (page >= l->memory->ram && page < l->memory->ram + l->memory->ram_size)
        return l->mirror.ram + (page - l->memory->ram);
    return foreign_copy(l, page);
}

/* Writes to a page must come to its journal's notice. */
static void watch_page(struct memory *m, uint64_t gfn)
{
    atomic_fetch_or(&m->flags[gfn], MEMORY_PAGE_LOG);
    atomic_fetch_and(&m->flags[gfn], (uint8_t)~MEMORY_PAGE_DIRTY);
}

static void map_page(struct lockstep *l, uint64_t gfn)
{
    struct memory_page page = memory_page(l->memory, gfn), now = memory_page(&l->mirror, gfn);
    uint8_t *read = own_page(l, page.read), *write = page.write == page.read ? read : own_page(l, page.write);
    if (read == now.read && write == now.write)
        return;
    if (read || write)
        memory_map(&l->mirror, gpa(gfn << PAGE_SHIFT), PAGE_SIZE, read, write);
    else
        memory_unmap(&l->mirror, gpa(gfn << PAGE_SHIFT), PAGE_SIZE);
}

void mirror_map(struct lockstep *l, uint64_t gfn, uint64_t count)
{
    for (uint64_t i = gfn; i < gfn + count && i < l->memory->page_count && i < l->mirror.page_count; i++) {
        map_page(l, i);
        if (memory_page(l->memory, i).read || memory_page(l->memory, i).write) {
            watch_page(l->memory, i);
            watch_page(&l->mirror, i);
        }
    }
}

/* Frames of this MiB may be mapped on either side. */
static bool block_used(const struct lockstep *l, uint64_t gfn)
{
    return l->memory->blocks[gfn >> MEMORY_BLOCK_SHIFT] || l->mirror.blocks[gfn >> MEMORY_BLOCK_SHIFT];
}

void mirror_copy(struct lockstep *l)
{
    enum { BLOCK = 1 << MEMORY_BLOCK_SHIFT };
    memcpy(l->mirror.ram, l->memory->ram, l->memory->ram_size);
    for (uint64_t gfn = 0; gfn < l->memory->page_count; gfn += BLOCK)
        if (block_used(l, gfn))
            mirror_map(l, gfn, BLOCK);
    l->leader_journal.count = l->follower_journal.count = 0;
    mmu_flush(&l->leader->mmu, true);
    mmu_flush(&l->follower->mmu, true);
}

/* ---- journals ---- */

static void reset(struct memory *m, struct mmu *mmu)
{
    struct memory_journal *j = m->journal;
    bool whole = j->count > j->room;
    for (uint32_t i = 0; i < j->count && !whole; i++) {
        watch_page(m, j->gfns[i]);
        mmu_drop_gfn(mmu, j->gfns[i], true);
    }
    if (whole) {
        for (uint64_t gfn = 0; gfn < m->page_count; gfn++)
            if (!m->blocks[gfn >> MEMORY_BLOCK_SHIFT])
                gfn |= (1u << MEMORY_BLOCK_SHIFT) - 1;
            else if (m->flags[gfn] & MEMORY_PAGE_DIRTY)
                watch_page(m, gfn);
        mmu_flush(mmu, true);
    }
    j->count = 0;
}

void journals_reset(struct lockstep *l)
{
    if (l->leader_journal.count)
        reset(l->memory, &l->leader->mmu);
    if (l->follower_journal.count)
        reset(&l->mirror, &l->follower->mmu);
}

void mirror_rewind(struct lockstep *l)
{
    const struct memory_journal *j = &l->follower_journal;
    for (uint32_t i = 0; i < j->count && i < j->room; i++) {
        uint8_t *page = memory_page(&l->mirror, j->gfns[i]).write;
        if (page)
            memcpy(page, j->before + (size_t)i * PAGE_SIZE, PAGE_SIZE);
    }
}

/* ---- comparison ---- */

enum { ACCESSED_DIRTY = 0x60, PRESENT = 1 };

/* One differing doubleword; true when the difference may be, and is gone then. */
static bool tolerated(struct lockstep *l, uint32_t *ours, uint32_t *theirs, bool flags_dead)
{
    uint32_t difference = *ours ^ *theirs;
    if (!(difference & ~(uint32_t)ACCESSED_DIRTY) && (*ours & PRESENT) && (l->leader->mmu.cr0 & CR0_PG)) {
        *ours = *theirs = *ours | *theirs;
        l->outcome->accessed_bits++;
        return true;
    }
    uint32_t stepping = l->reference.kvm ? FLAG_TF : 0; /* KVM's own, in the frame of an exception */
    if (flags_dead && !(difference & ~(uint32_t)(FLAGS_ARITH | stepping)) && (*ours & EFLAGS_FIXED)) {
        *theirs = (*theirs & ~stepping) | (*ours & stepping);
        *ours = *theirs; /* the reference's are the ones that the hardware would show */
        l->outcome->dead_flags++;
        return true;
    }
    return false;
}

static bool page_same(struct lockstep *l, uint64_t gfn, bool flags_dead, gpa_t *at)
{
    const struct memory_page a = memory_page(l->memory, gfn), b = memory_page(&l->mirror, gfn);
    uint32_t *ours = (uint32_t *)(a.write ? a.write : a.read), *theirs = (uint32_t *)(b.write ? b.write : b.read);
    if (!ours || !theirs || !memcmp(ours, theirs, PAGE_SIZE))
        return true;
    for (unsigned i = 0; i < PAGE_SIZE / 4; i++)
        if (ours[i] != theirs[i] && !tolerated(l, &ours[i], &theirs[i], flags_dead)) {
            *at = gpa((gfn << PAGE_SHIFT) + i * 4);
            return false;
        }
    return true;
}

static bool journal_same(struct lockstep *l, const struct memory_journal *j, bool flags_dead, gpa_t *at)
{
    for (uint32_t i = 0; i < j->count; i++)
        if (!page_same(l, j->gfns[i], flags_dead, at))
            return false;
    return true;
}

bool memory_same(struct lockstep *l, bool all, bool flags_dead, gpa_t *at)
{
    const struct memory_journal *a = &l->leader_journal, *b = &l->follower_journal;
    if (!all && a->count <= a->room && b->count <= b->room)
        return journal_same(l, a, flags_dead, at) && journal_same(l, b, flags_dead, at);
    for (uint64_t gfn = 0; gfn < l->memory->page_count; gfn++) {
        if (!block_used(l, gfn))
            gfn |= (1u << MEMORY_BLOCK_SHIFT) - 1;
        else if (!page_same(l, gfn, flags_dead, at))
            return false;
    }
    return true;
}
