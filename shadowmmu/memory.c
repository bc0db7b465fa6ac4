/* SPDX-License-Identifier: MIT */
#include "shadowmmu/memory.h"

#include "shadowmmu/reserve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

/* RAM from base on, at host memory: whole MiB need no entries. */
static void map_plain(struct memory *m, gpa_t base, uint64_t size, uint8_t *host)
{
    enum { BLOCK = 1 << (MEMORY_BLOCK_SHIFT + PAGE_SHIFT) };
    uint64_t at = 0;
    for (; at + BLOCK <= size; at += BLOCK) {
        uint64_t block = (base.v + at) / BLOCK;
        atomic_store(&m->plain[block], host + at);
        m->blocks[block] = 1;
    }
    if (at < size)
        memory_map(m, gpa_add(base, at), size - at, host + at, host + at);
}

static void map_pool(struct memory *m)
{
    map_plain(m, gpa(0), m->low_size, m->ram);
    if (m->ram_size > m->low_size)
        map_plain(m, gpa(MEMORY_4G), m->ram_size - m->low_size, m->ram + m->low_size);
}

/* Something else is to be mapped in this MiB: it gets entries. Who reads meanwhile finds the same pages either way. */
static void enter_block(struct memory *m, uint64_t block)
{
    uint8_t *host = atomic_load(&m->plain[block]);
    struct memory_page *p = &m->pages[block << MEMORY_BLOCK_SHIFT];
    if (!host)
        return;
    for (uint64_t i = 0; i < 1u << MEMORY_BLOCK_SHIFT; i++)
        p[i] = (struct memory_page){host + (i << PAGE_SHIFT), host + (i << PAGE_SHIFT)};
    atomic_store(&m->plain[block], NULL);
}

void memory_replace_pool(struct memory *m, uint8_t *ram, uint64_t size, int fd)
{
    munmap(m->ram, m->pool_size);
    close(m->ram_fd);
    m->ram = ram;
    m->pool_size = size;
    m->ram_fd = fd;
    map_pool(m);
}

int memory_init(struct memory *m, uint64_t ram_size, char *err, size_t err_len)
{
    memset(m, 0, sizeof *m);
    m->ram_fd = -1;
    m->ram_size = ram_size;
    m->low_size = ram_size < MEMORY_LOW_RAM_LIMIT ? ram_size : MEMORY_LOW_RAM_LIMIT;
    m->page_count = (MEMORY_4G + (ram_size - m->low_size)) >> PAGE_SHIFT;
    m->pages = reserve(m->page_count * sizeof *m->pages);
    m->flags = reserve(m->page_count);
    m->blocks = reserve((m->page_count >> MEMORY_BLOCK_SHIFT) + 1);
    m->plain = reserve(((m->page_count >> MEMORY_BLOCK_SHIFT) + 1) * sizeof *m->plain);
    if (!m->pages || !m->flags || !m->blocks || !m->plain) {
        snprintf(err, err_len, "guest memory: cannot reserve the page map: %s", strerror(errno));
        goto fail;
    }
    m->ram_fd = memfd_create("ringfold-ram", MFD_CLOEXEC);
    if (m->ram_fd < 0 || ftruncate(m->ram_fd, (off_t)ram_size) < 0) {
        snprintf(err, err_len, "guest memory: %llu MiB: %s", (unsigned long long)(ram_size >> 20), strerror(errno));
        goto fail;
    }
    m->ram = mmap(NULL, ram_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->ram_fd, 0);
    if (m->ram == MAP_FAILED) {
        m->ram = NULL;
        snprintf(err, err_len, "guest memory: cannot map %llu MiB: %s", (unsigned long long)(ram_size >> 20),
                 strerror(errno));
        goto fail;
    }
    m->pool_size = ram_size;
    map_pool(m);
    return 0;
fail:;
    int e = errno ? errno : ENOMEM;
    memory_destroy(m);
    return -e;
}

void memory_destroy(struct memory *m)
{
    if (m->ram)
        munmap(m->ram, m->pool_size);
    if (m->pages)
        munmap(m->pages, m->page_count * sizeof *m->pages);
    if (m->flags)
        munmap((void *)m->flags, m->page_count);
    if (m->blocks)
        munmap(m->blocks, (m->page_count >> MEMORY_BLOCK_SHIFT) + 1);
    if (m->plain)
        munmap((void *)m->plain, ((m->page_count >> MEMORY_BLOCK_SHIFT) + 1) * sizeof *m->plain);
    if (m->ram_fd >= 0)
        close(m->ram_fd);
    memset(m, 0, sizeof *m);
    m->ram_fd = -1;
}

gpa_t memory_ram_gpa(const struct memory *m, uint64_t off)
{
    return gpa(off < m->low_size ? off : MEMORY_4G + (off - m->low_size));
}

uint8_t *memory_ram_hva(const struct memory *m, gpa_t addr)
{
    if (addr.v < m->low_size)
        return m->ram + addr.v;
    if (addr.v >= MEMORY_4G && addr.v - MEMORY_4G < m->ram_size - m->low_size)
        return m->ram + m->low_size + (addr.v - MEMORY_4G);
    return NULL;
}

int memory_map(struct memory *m, gpa_t base, uint64_t size, uint8_t *read, uint8_t *write)
{
    uint64_t gfn = gpa_gfn(base), count = size >> PAGE_SHIFT;
    if ((base.v | size) & PAGE_MASK)
        return -EINVAL;
    if (gfn > m->page_count || count > m->page_count - gfn)
        return -ERANGE;
    bool changed = false;
    for (uint64_t i = 0; i < count; i++) {
        struct memory_page page = {read ? read + (i << PAGE_SHIFT) : NULL, write ? write + (i << PAGE_SHIFT) : NULL};
        struct memory_page *p = &m->pages[gfn + i];
        enter_block(m, (gfn + i) >> MEMORY_BLOCK_SHIFT);
        if (p->read != page.read || p->write != page.write) {
            *p = page;
            m->blocks[(gfn + i) >> MEMORY_BLOCK_SHIFT] = 1;
            changed = true;
        }
    }
    if (changed)
        for (struct memory_listener *l = m->listeners; l; l = l->next)
            if (l->map_changed)
                l->map_changed(l->opaque, gfn, count);
    return 0;
}

int memory_unmap(struct memory *m, gpa_t base, uint64_t size)
{
    return memory_map(m, base, size, NULL, NULL);
}

/* Bytes of [addr, addr+len) that lie in addr's page; 0 at the end of the address space. */
static uint64_t page_part(gpa_t addr, uint64_t len)
{
    uint64_t room = PAGE_SIZE - (addr.v & PAGE_MASK);
    return len < room ? len : room;
}

uint64_t memory_read(struct memory *m, gpa_t addr, void *buf, uint64_t len)
{
    uint8_t *out = buf;
    uint64_t met = 0;
    while (len) {
        uint64_t n = page_part(addr, len);
        uint8_t *hva = memory_page(m, gpa_gfn(addr)).read;
        if (hva) {
            memcpy(out, hva + (addr.v & PAGE_MASK), n);
            met += n;
        } else {
            memset(out, 0xff, n);
        }
        out += n;
        len -= n;
        if (addr.v + n < addr.v) {
            memset(out, 0xff, len);
            break;
        }
        addr = gpa_add(addr, n);
    }
    return met;
}

uint64_t memory_write(struct memory *m, gpa_t addr, const void *buf, uint64_t len)
{
    const uint8_t *in = buf;
    uint64_t met = 0;
    while (len) {
        uint64_t n = page_part(addr, len), gfn = gpa_gfn(addr);
        uint8_t *hva = memory_page(m, gfn).write;
        if (hva) {
            memory_journal_enter(m, gfn);
            memcpy(hva + (addr.v & PAGE_MASK), in, n);
            met += n;
            uint8_t flags = atomic_fetch_or_explicit(&m->flags[gfn], MEMORY_PAGE_DIRTY, memory_order_acq_rel);
            if (flags & (MEMORY_PAGE_CODE | MEMORY_PAGE_TRACED))
                for (struct memory_listener *l = m->listeners; l; l = l->next)
                    if (l->code_written)
                        l->code_written(l->opaque, addr, n);
            for (struct memory_listener *l = m->listeners; l; l = l->next)
                if (l->written)
                    l->written(l->opaque, addr, in, n);
        }
        in += n;
        len -= n;
        if (addr.v + n < addr.v)
            break;
        addr = gpa_add(addr, n);
    }
    return met;
}

/* Where in the pool the len bytes at addr are; UINT64_MAX: not together, or not to be written past everybody. */
static uint64_t plain_offset(const struct memory *m, gpa_t addr, uint64_t len)
{
    uint64_t first = gpa_gfn(addr), last = gpa_gfn(gpa_add(addr, len - 1));
    uint8_t *start = memory_page(m, first).write;
    if (!len || last < first || start < m->ram || start + len > m->ram + m->ram_size)
        return UINT64_MAX;
    for (uint64_t gfn = first; gfn <= last; gfn++)
        if (memory_page(m, gfn).write != start + ((gfn - first) << PAGE_SHIFT) ||
            (m->flags[gfn] & (MEMORY_PAGE_CODE | MEMORY_PAGE_TRACED)))
            return UINT64_MAX;
    return (uint64_t)(start - m->ram) + (addr.v & PAGE_MASK);
}

bool memory_load_file(struct memory *m, gpa_t addr, uint64_t len, int fd, uint64_t offset)
{
    uint64_t to = plain_offset(m, addr, len), left = len;
    off_t from = (off_t)offset;
    if (to == UINT64_MAX || lseek(m->ram_fd, (off_t)to, SEEK_SET) < 0)
        return false;
    for (uint64_t gfn = gpa_gfn(addr); gfn <= gpa_gfn(gpa_add(addr, len - 1)); gfn++)
        memory_mark_dirty(m, gfn);
    while (left) {
        ssize_t n = sendfile(m->ram_fd, fd, &from, left);
        if (n <= 0 && !(n < 0 && errno == EINTR))
            return false;
        left -= n > 0 ? (uint64_t)n : 0;
    }
    return true;
}

/* Not by libc: the guest's vector state may be live. */
static void copy_page(uint8_t *to, const uint8_t *from)
{
    size_t count = PAGE_SIZE;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

void memory_journal_enter(struct memory *m, uint64_t gfn)
{
    struct memory_journal *j = m->journal;
    if (!j || (m->flags[gfn] & MEMORY_PAGE_DIRTY))
        return;
    if (j->count < j->room) {
        const uint8_t *page = memory_page(m, gfn).write;
        j->gfns[j->count] = gfn;
        if (page)
            copy_page(j->before + (size_t)j->count * PAGE_SIZE, page);
    }
    j->count++;
}

void memory_mark_dirty(struct memory *m, uint64_t gfn)
{
    memory_journal_enter(m, gfn);
    atomic_fetch_or(&m->flags[gfn], MEMORY_PAGE_DIRTY);
}

void memory_log_start(struct memory *m, gpa_t base, uint64_t size)
{
    uint64_t gfn = gpa_gfn(base), count = size >> PAGE_SHIFT;
    for (uint64_t i = gfn; i < gfn + count && i < m->page_count; i++)
        atomic_fetch_or(&m->flags[i], MEMORY_PAGE_LOG | MEMORY_PAGE_DIRTY);
    for (struct memory_listener *l = m->listeners; l; l = l->next)
        if (l->log_started)
            l->log_started(l->opaque, gfn, count);
}

void memory_log_sync(struct memory *m, gpa_t base, uint64_t size)
{
    for (struct memory_listener *l = m->listeners; l; l = l->next)
        if (l->log_sync)
            l->log_sync(l->opaque, gpa_gfn(base), size >> PAGE_SHIFT);
}

bool memory_log_test_clear(struct memory *m, uint64_t gfn)
{
    if (gfn >= m->page_count || !(m->flags[gfn] & MEMORY_PAGE_DIRTY))
        return false;
    atomic_fetch_and(&m->flags[gfn], (uint8_t)~MEMORY_PAGE_DIRTY);
    for (struct memory_listener *l = m->listeners; l; l = l->next)
        if (l->log_started)
            l->log_started(l->opaque, gfn, 1);
    return true;
}

void memory_post_writes(struct memory *m, gpa_t base, uint64_t size)
{
    if (m->posted_count < MEMORY_MAX_POSTED)
        m->posted[m->posted_count++] = (struct memory_posted){base.v, size};
}

void memory_add_listener(struct memory *m, struct memory_listener *l)
{
    l->next = m->listeners;
    m->listeners = l;
}

void memory_remove_listener(struct memory *m, struct memory_listener *l)
{
    for (struct memory_listener **p = &m->listeners; *p; p = &(*p)->next)
        if (*p == l) {
            *p = l->next;
            return;
        }
}
