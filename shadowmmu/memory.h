/* SPDX-License-Identifier: MIT */
/* Guest-physical memory: the pmap (guest frame -> host page) and the one accessor for DMA.
 *
 * Every guest frame has two host pages, one for reads and one for writes, either of which may be absent.
 *   both present and equal  RAM
 *   read only               ROM, or shadow RAM with writes disabled (writes go to the memory bus)
 *   write only              shadow RAM being filled while reads still come from ROM
 *   none                    a device, or nothing: the memory bus decides
 * Nothing here assumes that guest memory is contiguous on the host.
 *
 * Threads: the map is changed under the machine lock; reads of it by the vCPU threads need no lock because a change
 * is announced to every listener, which flushes what it derived before the vCPU runs its next instruction. */
#ifndef RINGFOLD_SHADOWMMU_MEMORY_H
#define RINGFOLD_SHADOWMMU_MEMORY_H

#include "shadowmmu/gpa.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Guest RAM below 4 GiB ends here at the latest; the rest continues at 4 GiB (440BX memory map as PC firmware knows
 * it). */
#define MEMORY_LOW_RAM_LIMIT 0xc0000000ull
#define MEMORY_4G 0x100000000ull

enum { MEMORY_BLOCK_SHIFT = 8 }; /* frames to a MiB, see struct memory's blocks */

enum memory_page_flags {
    MEMORY_PAGE_CODE = 1,   /* translated code was made from this page: writes must go through memory_code_written */
    MEMORY_PAGE_DIRTY = 2,  /* written since memory_dirty_clear */
    MEMORY_PAGE_TRACED = 4, /* a paging structure with a write trace */
    MEMORY_PAGE_LOG = 8     /* writes must be noticed again: dirty logging for the display */
};

struct memory_page {
    uint8_t *read;  /* host page read by guest and DMA, NULL: memory bus */
    uint8_t *write; /* host page written by guest and DMA, NULL: memory bus */
};

/* Told about changes of the map and about writes by DMA to pages that hold translated code. Called in the thread that
 * makes the change, under the machine lock. */
struct memory_listener {
    void (*map_changed)(void *opaque, uint64_t gfn, uint64_t count);
    void (*code_written)(void *opaque, gpa_t addr, uint64_t len);
    void (*log_started)(void *opaque, uint64_t gfn, uint64_t count);
    /* Writes that only the listener knows of so far: set MEMORY_PAGE_DIRTY for them. */
    void (*log_sync)(void *opaque, uint64_t gfn, uint64_t count);
    /* DMA wrote, to whatever page. May be NULL. */
    void (*written)(void *opaque, gpa_t addr, const void *buf, uint64_t len);
    void *opaque;
    struct memory_listener *next;
};

/* The pages that were written first since somebody last looked, with what they held before: for lockstep. A page is
 * entered when its MEMORY_PAGE_DIRTY is clear, so who uses a journal clears that bit and drops the write entries. */
struct memory_journal {
    uint32_t count, room; /* count may exceed room: the rest was not entered */
    uint64_t *gfns;       /* room of them */
    uint8_t *before;      /* room pages */
};

/* Device memory where a write does nothing that anybody but the device can see: an engine may hold writes back, in
 * their order, until the vCPU's next access to any other device at the latest, or until a look at it (memory_log_sync).
 */
struct memory_posted {
    uint64_t base, size;
};
enum { MEMORY_MAX_POSTED = 2 };

struct memory {
    struct memory_page *pages; /* indexed by gfn, page_count entries, demand-zero: memory_page looks */
    uint8_t *_Atomic *plain;   /* indexed by MiB: host memory that all of it is, read and written; NULL: see pages */
    _Atomic uint8_t *flags;    /* enum memory_page_flags, indexed by gfn */
    uint8_t *blocks; /* for each MiB: was anything ever mapped in it? Spares a look at every frame of an empty space */
    uint64_t page_count; /* frames the map can hold: the guest-physical space in use */
    uint8_t *ram;        /* the pool: ram_size bytes of a shared memfd */
    uint64_t ram_size;   /* bytes of guest RAM */
    uint64_t low_size;   /* bytes of it that start at gpa 0; the rest starts at 4 GiB */
    int ram_fd;
    uint64_t pool_size; /* bytes that are mapped at ram: ram_size, or more with huge pages */
    struct memory_posted posted[MEMORY_MAX_POSTED];
    unsigned posted_count;
    struct memory_listener *listeners;
    struct memory_journal *journal; /* NULL: none */
};

/* Creates guest memory of ram_size bytes (a multiple of 4 KiB, at least 1 MiB) and maps all of it as RAM, including
 * 640K-1M, which the host bridge then re-maps by its PAM registers. Returns 0 or -errno with a reason in err. */
int memory_init(struct memory *m, uint64_t ram_size, char *err, size_t err_len);
void memory_destroy(struct memory *m);
/* Other host memory (a mapping of size >= ram_size bytes of fd) becomes the pool. Only directly after memory_init. */
void memory_replace_pool(struct memory *m, uint8_t *ram, uint64_t size, int fd);

/* The guest-physical address of byte off of guest RAM, and back (NULL when the address is not in the pool's layout;
 * it ignores what is currently mapped there). */
gpa_t memory_ram_gpa(const struct memory *m, uint64_t off);
uint8_t *memory_ram_hva(const struct memory *m, gpa_t addr);

/* Maps [base, base+size) to host memory, page by page. read and write point to size bytes each or are NULL. Base and
 * size are multiples of 4 KiB. Returns 0 or -errno (-ERANGE: beyond the guest-physical space). */
int memory_map(struct memory *m, gpa_t base, uint64_t size, uint8_t *read, uint8_t *write);
/* Back to the memory bus. */
int memory_unmap(struct memory *m, gpa_t base, uint64_t size);

/* DMA. Reads from unmapped pages give 0xff bytes, writes to unmapped or read-only pages are dropped; both return the
 * number of bytes that met memory, so that a device can report a bus error. Any address and length is safe; a range
 * that wraps the 64-bit space stops there. Writes mark pages dirty and invalidate translated code. */
uint64_t memory_read(struct memory *m, gpa_t addr, void *buf, uint64_t len);
uint64_t memory_write(struct memory *m, gpa_t addr, const void *buf, uint64_t len);

/* For loading files while no vCPU runs: len bytes of file fd from offset on go to addr, inside the host's kernel and
 * without a page fault for each page. False with nothing said about what was written: they do not lie together in RAM,
 * translations were made from them, or the host cannot; memory_write does it then. Listeners are not told. */
bool memory_load_file(struct memory *m, gpa_t addr, uint64_t len, int fd, uint64_t offset);

/* Little-endian scalars by DMA. */
static inline uint32_t memory_read32(struct memory *m, gpa_t addr)
{
    uint32_t v = 0xffffffff;
    memory_read(m, addr, &v, sizeof v);
    return v;
}
static inline void memory_write32(struct memory *m, gpa_t addr, uint32_t v)
{
    memory_write(m, addr, &v, sizeof v);
}

/* Dirty logging for a display: starts to notice writes to [base, base+size); brings the dirty bits of the range up to
 * date (before a look at its pages); reads and clears the dirty bit of one page. The log is re-armed by the clear. */
void memory_log_start(struct memory *m, gpa_t base, uint64_t size);
void memory_log_sync(struct memory *m, gpa_t base, uint64_t size);
bool memory_log_test_clear(struct memory *m, uint64_t gfn);

/* Before a vCPU is made. More than there is room for are not posted, which is only slower. */
void memory_post_writes(struct memory *m, gpa_t base, uint64_t size);

void memory_add_listener(struct memory *m, struct memory_listener *l);
void memory_remove_listener(struct memory *m, struct memory_listener *l);

/* Before a write by the CPU to a page that is not dirty yet. */
void memory_mark_dirty(struct memory *m, uint64_t gfn);
/* Enters a page into the journal, when there is one and the page is not dirty yet. */
void memory_journal_enter(struct memory *m, uint64_t gfn);

static inline struct memory_page memory_page(const struct memory *m, uint64_t gfn)
{
    if (gfn >= m->page_count)
        return (struct memory_page){0};
    uint8_t *plain = atomic_load_explicit(&m->plain[gfn >> MEMORY_BLOCK_SHIFT], memory_order_acquire);
    if (!plain)
        return m->pages[gfn];
    uint8_t *page = plain + ((gfn & ((1u << MEMORY_BLOCK_SHIFT) - 1)) << PAGE_SHIFT);
    return (struct memory_page){page, page};
}

#endif
