/* SPDX-License-Identifier: MIT */
/* The pmap as KVM memory slots.
 *
 * A slot is a run of frames of one kind whose host pages follow each other:
 *   read == write             RAM: an ordinary slot (with the dirty log where a display asked for it)
 *   read, other or no write   ROM, or shadow RAM in one direction: a read-only slot. Reads and instruction fetches go
 * to the read page, writes leave the guest (kvm_exit.c stores them where the pmap says) no read                   no
 * slot: every access leaves the guest Host pages that are not page-aligned get no slot either.
 *
 * Runs do not cross 1 MiB, so that the chipset's PAM registers (C0000h-FFFFFh) remake small slots: KVM cannot change a
 * slot, only delete it (and everything it derived from it) and make another.
 *
 * A20 closed: the slots of 1M-2M show 0-1M. The other odd megabytes are not aliased; programs that depend on the wrap
 * (8086 code at FFFF:0010 and up) reach 1M-2M only, and the translator does it all.
 *
 * A change of the map is noted by the listener and carried out by the vCPU's thread before its next instruction. With
 * several vCPUs all of them will have to stand still for that. */
#include "hw-assist/kvm_internal.h"

#include "devices/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { FRAMES_PER_MIB = 256 };

/* ---- runs ---- */

struct run {
    uint64_t gfn, count;
    uint8_t *hva;
    uint32_t flags;
};

static uint64_t aliased(const struct kvm_memory *m, uint64_t gfn)
{
    return m->a20_off && gfn >= FRAMES_PER_MIB && gfn < 2 * FRAMES_PER_MIB ? gfn - FRAMES_PER_MIB : gfn;
}

/* False: the frame has no slot. */
static bool frame_kind(const struct kvm_memory *m, uint64_t gfn, struct run *out)
{
    gfn = aliased(m, gfn);
    struct memory_page page = memory_page(m->mem, gfn);
    if (!page.read || ((uintptr_t)page.read & PAGE_MASK))
        return false;
    out->hva = page.read;
    out->flags = 0;
    if (page.read != page.write)
        out->flags = m->read_only_slots ? KVM_MEM_READONLY : 0;
    else if (m->mem->flags[gfn] & MEMORY_PAGE_LOG)
        out->flags = KVM_MEM_LOG_DIRTY_PAGES;
    return true;
}

/* The run that starts at gfn and ends before limit; the next frame that has one. */
static bool next_run(const struct kvm_memory *m, uint64_t *gfn, uint64_t limit, struct run *out)
{
    while (*gfn < limit) {
        if (!m->mem->blocks[aliased(m, *gfn) >> MEMORY_BLOCK_SHIFT])
            *gfn = (*gfn | (FRAMES_PER_MIB - 1)) + 1;
        else if (frame_kind(m, *gfn, out))
            break;
        else
            ++*gfn;
    }
    if (*gfn >= limit)
        return false;
    out->gfn = *gfn;
    out->count = 1;
    for (uint64_t at = *gfn + 1; at < limit && at != FRAMES_PER_MIB && at != 2 * FRAMES_PER_MIB; at++) {
        struct run next;
        if (!frame_kind(m, at, &next) || next.flags != out->flags || next.hva != out->hva + (out->count << PAGE_SHIFT))
            break;
        out->count++;
    }
    *gfn += out->count;
    return true;
}

/* ---- slots ---- */

static int set_slot(struct kvm_memory *m, unsigned number, const struct kvm_slot *s)
{
    struct kvm_userspace_memory_region region = {.slot = number,
                                                 .flags = s->flags,
                                                 .guest_phys_addr = s->gfn << PAGE_SHIFT,
                                                 .memory_size = s->count << PAGE_SHIFT,
                                                 .userspace_addr = (uintptr_t)s->hva};
    m->slot_changes++;
    return ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) ? -errno : 0;
}

static bool overlaps(const struct kvm_slot *s, uint64_t first, uint64_t last)
{
    return s->count && s->gfn <= last && s->gfn + s->count - 1 >= first;
}

/* Marks what was written through the slot since the last look. */
static void sync_slot(struct kvm_memory *m, unsigned number)
{
    const struct kvm_slot *s = &m->slots[number];
    size_t words = (s->count + 63) / 64;
    uint64_t *bitmap = calloc(words, 8);
    struct kvm_dirty_log log = {.slot = number, .dirty_bitmap = bitmap};
    bool all = !bitmap || ioctl(m->vm_fd, KVM_GET_DIRTY_LOG, &log);
    for (uint64_t i = 0; i < s->count; i++) {
        uint64_t gfn = aliased(m, s->gfn + i);
        if (!all && !(i % 64) && !bitmap[i / 64]) {
            i += 63;
            continue;
        }
        if ((all || (bitmap[i / 64] >> (i % 64) & 1)) && gfn < m->mem->page_count)
            atomic_fetch_or(&m->mem->flags[gfn], MEMORY_PAGE_DIRTY);
    }
    free(bitmap);
}

static int delete_slot(struct kvm_memory *m, unsigned number)
{
    struct kvm_slot *s = &m->slots[number];
    if (s->flags & KVM_MEM_LOG_DIRTY_PAGES)
        sync_slot(m, number);
    s->count = 0;
    return set_slot(m, number, s);
}

static int add_slot(struct kvm_memory *m, const struct run *r)
{
    unsigned n = 0;
    while (n < m->slot_count && m->slots[n].count)
        n++;
    if (n == m->slot_room) {
        unsigned room = m->slot_room ? 2 * m->slot_room : 32;
        if (n >= m->slot_max)
            return -ENOSPC;
        struct kvm_slot *slots = realloc(m->slots, room * sizeof *slots);
        if (!slots)
            return -ENOMEM;
        m->slots = slots;
        m->slot_room = room;
    }
    if (n == m->slot_count)
        m->slot_count++;
    m->slots[n] = (struct kvm_slot){r->gfn, r->count, r->hva, r->flags, false};
    int error = set_slot(m, n, &m->slots[n]);
    if (error)
        m->slots[n].count = 0;
    return error;
}

static struct kvm_slot *find_slot(struct kvm_memory *m, const struct run *r)
{
    for (unsigned i = 0; i < m->slot_count; i++) {
        struct kvm_slot *s = &m->slots[i];
        if (s->count && s->gfn == r->gfn && s->count == r->count && s->hva == r->hva && s->flags == r->flags)
            return s;
    }
    return NULL;
}

/* The range grows until no slot crosses its ends, and to its neighbours, which the changed frames may now join. */
static void widen_to_slots(struct kvm_memory *m, uint64_t *first, uint64_t *last)
{
    uint64_t low = *first ? *first - 1 : 0, high = *last + 1;
    for (unsigned i = 0; i < m->slot_count; i++) {
        const struct kvm_slot *s = &m->slots[i];
        if (!overlaps(s, low, high))
            continue;
        if (s->gfn < *first)
            *first = s->gfn;
        if (s->gfn + s->count - 1 > *last)
            *last = s->gfn + s->count - 1;
    }
}

static int delete_changed(struct kvm_memory *m, uint64_t first, uint64_t last)
{
    int error = 0;
    for (unsigned i = 0; !error && i < m->slot_count; i++) {
        if (overlaps(&m->slots[i], first, last) && !m->slots[i].keep)
            error = delete_slot(m, i);
        m->slots[i].keep = false;
    }
    return error;
}

static int remake(struct kvm_memory *m, uint64_t first, uint64_t last)
{
    struct run r;
    if (last >= m->mem->page_count)
        last = m->mem->page_count - 1;
    widen_to_slots(m, &first, &last);
    for (uint64_t at = first; next_run(m, &at, last + 1, &r);) {
        struct kvm_slot *s = find_slot(m, &r);
        if (s)
            s->keep = true;
    }
    int error = delete_changed(m, first, last);
    for (uint64_t at = first; !error && next_run(m, &at, last + 1, &r);)
        if (!find_slot(m, &r))
            error = add_slot(m, &r);
    return error;
}

/* ---- changes ---- */

static void note(struct kvm_memory *m, uint64_t gfn, uint64_t count)
{
    if (!count)
        return;
    pthread_mutex_lock(&m->lock);
    if (gfn < m->stale_first)
        m->stale_first = gfn;
    if (gfn + count - 1 > m->stale_last)
        m->stale_last = gfn + count - 1;
    atomic_store(&m->stale, true);
    for (struct kvm_vcpu *v = m->vcpus; v; v = v->next)
        cpu_raise(&v->cpu, CPU_EVENT_FLUSH);
    pthread_mutex_unlock(&m->lock);
}

void kvm_memory_post(struct kvm_memory *m, unsigned ring_page)
{
    for (unsigned i = 0; ring_page && i < m->mem->posted_count; i++) {
        struct kvm_coalesced_mmio_zone zone = {.addr = m->mem->posted[i].base,
                                               .size = (uint32_t)m->mem->posted[i].size};
        if (ioctl(m->vm_fd, KVM_REGISTER_COALESCED_MMIO, &zone) == 0)
            m->ring_page = ring_page;
    }
}

/* Somebody looks at posted memory: the vCPU's thread is to bring what waits, if anything does. */
static void hurry_posted(struct kvm_memory *m, uint64_t gfn, uint64_t count)
{
    const struct kvm_coalesced_mmio_ring *ring = m->ring;
    bool posted = false;
    for (unsigned i = 0; i < m->mem->posted_count && !posted; i++)
        posted = m->mem->posted[i].base >> PAGE_SHIFT < gfn + count &&
                 gfn < (m->mem->posted[i].base + m->mem->posted[i].size) >> PAGE_SHIFT;
    if (!posted || !ring ||
        __atomic_load_n(&ring->first, __ATOMIC_RELAXED) == __atomic_load_n(&ring->last, __ATOMIC_RELAXED))
        return;
    for (struct kvm_vcpu *v = m->vcpus; v; v = v->next)
        cpu_raise(&v->cpu, CPU_EVENT_FLUSH);
}

void kvm_memory_notify(struct kvm_memory *m, struct kvm_vcpu *v)
{
    pthread_mutex_lock(&m->lock);
    v->next = m->vcpus;
    m->vcpus = v;
    pthread_mutex_unlock(&m->lock);
}

void kvm_memory_forget(struct kvm_memory *m, struct kvm_vcpu *v)
{
    pthread_mutex_lock(&m->lock);
    for (struct kvm_vcpu **p = &m->vcpus; *p; p = &(*p)->next)
        if (*p == v) {
            *p = v->next;
            break;
        }
    pthread_mutex_unlock(&m->lock);
}

static void listen_map_changed(void *opaque, uint64_t gfn, uint64_t count)
{
    note(opaque, gfn, count);
}

/* Also called for each page whose dirty bit was read: KVM re-arms by itself, so only a new range is a change. */
static void listen_log_started(void *opaque, uint64_t gfn, uint64_t count)
{
    struct kvm_memory *m = opaque;
    bool logged = false;
    pthread_mutex_lock(&m->lock);
    for (unsigned i = 0; i < m->slot_count && !logged; i++) {
        const struct kvm_slot *s = &m->slots[i];
        logged = s->count && (s->flags & KVM_MEM_LOG_DIRTY_PAGES) && s->gfn <= gfn && gfn + count <= s->gfn + s->count;
    }
    pthread_mutex_unlock(&m->lock);
    if (!logged)
        note(m, gfn, count);
}

static void listen_log_sync(void *opaque, uint64_t gfn, uint64_t count)
{
    struct kvm_memory *m = opaque;
    pthread_mutex_lock(&m->lock);
    hurry_posted(m, gfn, count);
    for (unsigned i = 0; count && i < m->slot_count; i++)
        if (overlaps(&m->slots[i], gfn, gfn + count - 1) && (m->slots[i].flags & KVM_MEM_LOG_DIRTY_PAGES))
            sync_slot(m, i);
    pthread_mutex_unlock(&m->lock);
}

int kvm_memory_apply(struct kvm_memory *m, uint64_t a20_mask)
{
    bool a20_off = a20_mask != ~0ull;
    if (!atomic_load_explicit(&m->stale, memory_order_acquire) && a20_off == m->a20_off)
        return 0;
    pthread_mutex_lock(&m->lock);
    atomic_store(&m->stale, false);
    int error = 0;
    if (m->stale_first <= m->stale_last)
        error = remake(m, m->stale_first, m->stale_last);
    m->stale_first = ~0ull;
    m->stale_last = 0;
    if (!error && a20_off != m->a20_off) {
        m->a20_off = a20_off;
        error = remake(m, FRAMES_PER_MIB, 2 * FRAMES_PER_MIB - 1);
    } else if (!error && a20_off) {
        error = remake(m, FRAMES_PER_MIB, 2 * FRAMES_PER_MIB - 1); /* what changed below 1M may show there */
    }
    pthread_mutex_unlock(&m->lock);
    log_msg(LOG_KVM, "memory slots: %u, %llu changes so far", m->slot_count, (unsigned long long)m->slot_changes);
    return error;
}

int kvm_memory_init(struct kvm_memory *m, struct memory *mem, int vm_fd, bool read_only_slots, unsigned slot_max)
{
    *m = (struct kvm_memory){.mem = mem,
                             .vm_fd = vm_fd,
                             .read_only_slots = read_only_slots,
                             .slot_max = slot_max,
                             .stale_first = 0,
                             .stale_last = mem->page_count - 1};
    atomic_store(&m->stale, true);
    pthread_mutex_init(&m->lock, NULL);
    m->listener = (struct memory_listener){
        .map_changed = listen_map_changed, .log_started = listen_log_started, .log_sync = listen_log_sync, .opaque = m};
    memory_add_listener(mem, &m->listener);
    return 0;
}

void kvm_memory_destroy(struct kvm_memory *m)
{
    memory_remove_listener(m->mem, &m->listener);
    pthread_mutex_destroy(&m->lock);
    free(m->slots);
}
