/* SPDX-License-Identifier: MIT */
/* Guest memory by linear address: page crossings, devices and translated pages are handled here and nowhere else.
 *
 * An access first finds out what stands behind each of its (at most two) pages, and only then moves bytes, so a fault
 * on the second page leaves the first one untouched. No libc: the guest's vector state may be live. */
#include "cpu/internal.h"

void (*cpu_code_written_hook)(struct cpu *cpu, gpa_t addr, unsigned len);

struct piece {
    uint8_t *hva; /* NULL: device */
    gpa_t addr;
    unsigned len;
    bool code; /* a write must be reported to the translator */
};

static inline void copy_bytes(void *to, const void *from, unsigned len)
{
    switch (len) {
    case 1:
        __builtin_memcpy(to, from, 1);
        return;
    case 2:
        __builtin_memcpy(to, from, 2);
        return;
    case 4:
        __builtin_memcpy(to, from, 4);
        return;
    case 8:
        __builtin_memcpy(to, from, 8);
        return;
    }
    size_t n = len;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

unsigned cpu_access_rights(const struct cpu *cpu)
{
    return access_rights_at(cpu, cpu->cpl);
}

/* The address as the paging unit sees it. Long mode demands canonical form, everything else wraps at 4 GiB. */
static inline uint64_t linear(const struct cpu *cpu, uint64_t gva)
{
    return cpu_long_mode(cpu) ? gva : (uint32_t)gva;
}

/* The host address when the shadow table already knows the page. */
static inline uint8_t *table_lookup(const struct cpu *cpu, uint64_t gva, unsigned access)
{
    if (access & MMU_PROBE)
        return NULL;
    const struct mmu_table_set *t = &cpu->mmu.view[mmu_view(&cpu->mmu, access)];
    const uint64_t *table = (access & MMU_ACCESS_MASK) == MMU_WRITE ? t->write : t->read;
    uint64_t delta = table[mmu_table_index(&cpu->mmu, gva)];
    return delta ? (uint8_t *)(uintptr_t)(gva + delta) : NULL;
}

static int find_piece(struct cpu *cpu, uint64_t gva, unsigned len, unsigned access, struct piece *p)
{
    struct mmu_fault fault;
    *p = (struct piece){.len = len};
    if (cpu_long_mode(cpu) && !canonical(gva))
        return fault_gp(cpu, 0);
    if ((access & MMU_ACCESS_MASK) != MMU_EXEC && (p->hva = table_lookup(cpu, gva, access)))
        return CPU_OK;
    switch (mmu_access(&cpu->mmu, gva, access, &p->hva, &p->addr, &fault)) {
    case MMU_FAULT:
        return cpu_raise_page_fault(cpu, &fault);
    case MMU_DEVICE:
        p->hva = NULL;
        break;
    case MMU_OK:
        p->code = (access & MMU_ACCESS_MASK) == MMU_WRITE && gpa_gfn(p->addr) < cpu->mmu.mem->page_count &&
                  (cpu->mmu.mem->flags[gpa_gfn(p->addr)] & MEMORY_PAGE_CODE);
        break;
    }
    return CPU_OK;
}

/* Splits at the page boundary. Returns the number of pieces, or 0 after a fault. */
static unsigned find_pieces(struct cpu *cpu, uint64_t gva, unsigned size, unsigned access, struct piece p[2])
{
    unsigned first = PAGE_SIZE - (unsigned)(gva & PAGE_MASK);
    if (first >= size)
        return find_piece(cpu, linear(cpu, gva), size, access, &p[0]) ? 0 : 1;
    if (find_piece(cpu, linear(cpu, gva), first, access, &p[0]) ||
        find_piece(cpu, linear(cpu, gva + first), size - first, access, &p[1]))
        return 0;
    return 2;
}

/* The widest access a device gets for the bytes that are left: naturally aligned, as the bus would split it, but an
 * access that is a scalar as a whole stays whole. */
static unsigned device_chunk(uint64_t addr, unsigned left)
{
    if (left == 1 || left == 2 || left == 4 || left == 8)
        return left;
    for (unsigned n = 8; n > 1; n /= 2)
        if (left >= n && !(addr & (n - 1)))
            return n;
    return 1;
}

static void piece_read(struct cpu *cpu, const struct piece *p, uint8_t *to)
{
    if (p->hva) {
        copy_bytes(to, p->hva, p->len);
        return;
    }
    cpu_fpu_park(cpu);
    for (unsigned i = 0; i < p->len;) {
        unsigned n = device_chunk(p->addr.v + i, p->len - i);
        uint64_t v = cpu->board ? cpu->board->mem_read(cpu->board->opaque, gpa_add(p->addr, i), n) : ~0ull;
        copy_bytes(to + i, &v, n);
        i += n;
    }
    cpu_fpu_unpark(cpu);
}

static void piece_write(struct cpu *cpu, const struct piece *p, const uint8_t *from)
{
    if (p->hva) {
        copy_bytes(p->hva, from, p->len);
        if (p->code && cpu_code_written_hook)
            cpu_code_written_hook(cpu, p->addr, p->len);
        return;
    }
    cpu_fpu_park(cpu);
    for (unsigned i = 0; i < p->len;) {
        unsigned n = device_chunk(p->addr.v + i, p->len - i);
        uint64_t v = 0;
        copy_bytes(&v, from + i, n);
        if (cpu->board)
            cpu->board->mem_write(cpu->board->opaque, gpa_add(p->addr, i), v, n);
        i += n;
    }
    cpu_fpu_unpark(cpu);
}

int cpu_read_linear(struct cpu *cpu, uint64_t gva, void *buf, unsigned size, unsigned access)
{
    struct piece p[2];
    unsigned n = find_pieces(cpu, gva, size, access, p);
    if (!n)
        return CPU_FAULT;
    piece_read(cpu, &p[0], buf);
    if (n == 2)
        piece_read(cpu, &p[1], (uint8_t *)buf + p[0].len);
    return CPU_OK;
}

int cpu_write_linear(struct cpu *cpu, uint64_t gva, const void *buf, unsigned size, unsigned access)
{
    struct piece p[2];
    unsigned n = find_pieces(cpu, gva, size, (access & ~MMU_ACCESS_MASK) | MMU_WRITE, p);
    if (!n)
        return CPU_FAULT;
    piece_write(cpu, &p[0], buf);
    if (n == 2)
        piece_write(cpu, &p[1], (const uint8_t *)buf + p[0].len);
    return CPU_OK;
}

int cpu_probe_linear(struct cpu *cpu, uint64_t gva, unsigned size, unsigned access)
{
    struct piece p[2];
    return find_pieces(cpu, gva, size, access, p) ? CPU_OK : CPU_FAULT;
}

int cpu_read_system_slowly(struct cpu *cpu, uint64_t gva, void *buf, unsigned size)
{
    return cpu_read_linear(cpu, gva, buf, size, MMU_READ | MMU_SUPERVISOR);
}

int cpu_write_system(struct cpu *cpu, uint64_t gva, const void *buf, unsigned size)
{
    return cpu_write_linear(cpu, gva, buf, size, MMU_WRITE | MMU_SUPERVISOR);
}

bool segment_limit_ok(const struct segment *s, uint64_t off, unsigned size)
{
    uint64_t last = off + size - 1;
    if (last < off)
        return false;
    if ((s->attr & (SEG_CODE | SEG_E)) == SEG_E)
        return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffull : 0xffffull);
    return last <= s->limit;
}

static int fault_segment(struct cpu *cpu, enum seg seg)
{
    return fault_error(cpu, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

static bool alignment_checked(const struct cpu *cpu)
{
    return cpu->cpl == 3 && (cpu->rflags & EFLAGS_AC) && (cpu->mmu.cr0 & CR0_AM);
}

static int check_alignment(struct cpu *cpu, uint64_t gva, unsigned size)
{
    bool scalar = size == 2 || size == 4 || size == 8;
    if (__builtin_expect(alignment_checked(cpu), 0) && scalar && (gva & (size - 1)))
        return fault_error(cpu, VECTOR_AC, 0);
    return CPU_OK;
}

static int segment_check_64(struct cpu *cpu, enum seg seg, uint64_t off, unsigned size, uint64_t *gva)
{
    uint64_t a = off + (seg == SEG_FS || seg == SEG_GS ? cpu->seg[seg].base : 0);
    if (!canonical(a) || !canonical(a + size - 1))
        return fault_segment(cpu, seg);
    *gva = a;
    return check_alignment(cpu, a, size);
}

int cpu_segment_check(struct cpu *cpu, enum seg seg, uint64_t off, unsigned size, bool write, uint64_t *gva)
{
    const struct segment *s = &cpu->seg[seg];
    if (cpu_code64(cpu))
        return segment_check_64(cpu, seg, off, size, gva);
    if (s->attr & SEG_UNUSABLE)
        return fault_segment(cpu, seg);
    /* Real mode has no types: CS is writable there, whatever was loaded before. */
    if (!cpu_real_mode(cpu) && (write ? !attr_is_writable_data(s->attr) : (s->attr & (SEG_CODE | SEG_W)) == SEG_CODE))
        return fault_segment(cpu, seg);
    if (!segment_limit_ok(s, off, size))
        return fault_segment(cpu, seg);
    *gva = (uint32_t)(s->base + off);
    return check_alignment(cpu, *gva, size);
}

int cpu_read_seg(struct cpu *cpu, enum seg seg, uint64_t off, void *buf, unsigned size)
{
    uint64_t gva;
    if (cpu_segment_check(cpu, seg, off, size, false, &gva))
        return CPU_FAULT;
    if (cpu_read_linear(cpu, gva, buf, size, MMU_READ | cpu_access_rights(cpu)))
        return CPU_FAULT;
    if (cpu->accessed)
        cpu->accessed(cpu, gva, size, false);
    return CPU_OK;
}

int cpu_write_seg(struct cpu *cpu, enum seg seg, uint64_t off, const void *buf, unsigned size)
{
    uint64_t gva;
    if (cpu_segment_check(cpu, seg, off, size, true, &gva))
        return CPU_FAULT;
    if (cpu_write_linear(cpu, gva, buf, size, MMU_WRITE | cpu_access_rights(cpu)))
        return CPU_FAULT;
    if (cpu->accessed)
        cpu->accessed(cpu, gva, size, true);
    return CPU_OK;
}
