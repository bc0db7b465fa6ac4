/* SPDX-License-Identifier: MIT */
#include "bt/slow.h"

#include "bt/legacy.h"
#include "cpu/execute.h"

#define AH_FLAGS 0xd5u /* SF ZF AF PF CF in LAHF's byte */

void bt_flags_from_image(struct bt_vcpu *v)
{
    uint32_t image = v->flags_image;
    v->cpu.rflags = (v->cpu.rflags & ~(uint64_t)FLAGS_ARITH) | (image >> 8 & AH_FLAGS) | (image & 1 ? FLAG_OF : 0);
}

void bt_flags_to_image(struct bt_vcpu *v)
{
    v->flags_image = (uint32_t)((v->cpu.rflags & AH_FLAGS) << 8 | (v->cpu.rflags & FLAG_OF ? 1 : 0));
}

/* ---- one memory operand ---- */

void bt_watch(struct cpu *cpu, uint64_t gva, unsigned size, bool write)
{
    struct bt_vcpu *v = bt_of(cpu);
    for (unsigned i = 0; i < 4; i++) {
        unsigned kind = cpu->dr[7] >> (16 + 4 * i) & 3;
        static const uint8_t lengths[] = {1, 2, 8, 4};
        unsigned len = lengths[cpu->dr[7] >> (18 + 4 * i) & 3];
        uint64_t at = cpu->dr[i] & ~(uint64_t)(len - 1);
        if (!(cpu->dr[7] >> 2 * i & 3) || (kind != 1 && kind != 3) || (kind == 1 && !write))
            continue;
        if (gva < at + len && at < gva + size)
            v->watch_hits |= 1u << i;
    }
}

enum { DEVICE_PAGE_VALID = 1 << 11 }; /* beside the rights, in the low bits of a page's address */

/* The part of an access that lies in one page. */
static int access_part(struct bt_vcpu *v, int part, uint64_t gva, unsigned len, bool read, bool write)
{
    struct bt_bounce *b = &v->bounce;
    struct mmu_fault fault;
    unsigned rights = cpu_access_rights(&v->cpu);
    b->gva[part] = gva;
    b->len[part] = len;
    uint64_t key = (gva & ~(uint64_t)PAGE_MASK) | rights | DEVICE_PAGE_VALID;
    if (v->device_page[write].key == key) {
        b->addr[part] = gpa_add(v->device_page[write].addr, gva & PAGE_MASK);
        b->device[part] = true;
        return CPU_OK;
    }
    enum mmu_result r =
        mmu_access(&v->cpu.mmu, gva, (write ? MMU_WRITE : MMU_READ) | rights, &b->hva[part], &b->addr[part], &fault);
    if (r == MMU_FAULT)
        return cpu_raise_page_fault(&v->cpu, &fault);
    b->device[part] = r == MMU_DEVICE;
    if (r == MMU_DEVICE) {
        v->device_page[write].key = key;
        v->device_page[write].addr = (gpa_t){b->addr[part].v & ~(uint64_t)PAGE_MASK};
    }
    struct memory_page page = memory_page(v->mem, gpa_gfn(b->addr[part]));
    if (!b->device[part] && read && write && page.read != page.write)
        b->device[part] = true; /* reads and writes go to different places: by way of the bounce buffer */
    return CPU_OK;
}

static unsigned chunk(uint64_t addr, unsigned len)
{
    unsigned n = len >= 8 ? 8 : len >= 4 ? 4 : len >= 2 ? 2 : 1;
    return addr & (n - 1) && n > 1 && (addr & PAGE_MASK) + n > PAGE_SIZE ? 1 : n;
}

static void part_read(struct bt_vcpu *v, int part, uint8_t *to)
{
    struct bt_bounce *b = &v->bounce;
    struct memory_page page = memory_page(v->mem, gpa_gfn(b->addr[part]));
    for (unsigned i = 0, n; i < b->len[part]; i += n) {
        gpa_t at = gpa_add(b->addr[part], i);
        uint64_t value;
        n = 1;
        if (page.read) {
            value = page.read[at.v & PAGE_MASK];
        } else {
            n = chunk(at.v, b->len[part] - i);
            cpu_fpu_park(&v->cpu);
            value = v->cpu.board->mem_read(v->cpu.board->opaque, at, n);
            cpu_fpu_unpark(&v->cpu);
            v->stats.device_accesses++;
        }
        for (unsigned k = 0; k < n; k++)
            to[i + k] = (uint8_t)(value >> 8 * k);
    }
}

static void part_write(struct bt_vcpu *v, int part, const uint8_t *from)
{
    struct bt_bounce *b = &v->bounce;
    struct memory_page page = memory_page(v->mem, gpa_gfn(b->addr[part]));
    for (unsigned i = 0, n; i < b->len[part]; i += n) {
        gpa_t at = gpa_add(b->addr[part], i);
        n = 1;
        if (page.write) {
            page.write[at.v & PAGE_MASK] = from[i];
            continue;
        }
        n = chunk(at.v, b->len[part] - i);
        uint64_t value = 0;
        for (unsigned k = 0; k < n; k++)
            value |= (uint64_t)from[i + k] << 8 * k;
        cpu_fpu_park(&v->cpu);
        v->cpu.board->mem_write(v->cpu.board->opaque, at, value, n);
        cpu_fpu_unpark(&v->cpu);
        v->stats.device_accesses++;
    }
}

static bool canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static bool wide_code(const struct bt_vcpu *v)
{
    return (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
}

static int check_alignment(struct bt_vcpu *v, uint64_t gva, unsigned size)
{
    if (v->slow_info & BT_INFO_ALIGNED && gva & (size - 1))
        return cpu_raise_fault_error(&v->cpu, VECTOR_GP, 0);
    if (v->mode & BT_MODE_ALIGN && gva & ((size & -size) - 1))
        return cpu_raise_fault_error(&v->cpu, VECTOR_AC, 0);
    return CPU_OK;
}

static int slow_access(struct bt_vcpu *v)
{
    struct bt_bounce *b = &v->bounce;
    unsigned size = v->slow_info & BT_INFO_SIZE;
    bool read = v->slow_info & BT_INFO_READ, write = v->slow_info & BT_INFO_WRITE;
    uint64_t gva = v->slow_addr;
    if (v->slow_info & BT_INFO_OFFSET &&
        cpu_segment_check(&v->cpu, v->slow_info >> BT_INFO_SEG_SHIFT & 7, v->slow_addr, size, write, &gva))
        return CPU_FAULT;
    v->slow_addr = gva;
    if (wide_code(v) && (!canonical(gva) || !canonical(gva + size - 1)))
        return cpu_raise_fault_error(&v->cpu, (v->slow_info >> BT_INFO_SEG_SHIFT & 7) == SEG_SS ? VECTOR_SS : VECTOR_GP,
                                     0);
    if (check_alignment(v, gva, size))
        return CPU_FAULT;
    unsigned first = PAGE_SIZE - (gva & PAGE_MASK);
    bool crosses = first < size;
    b->len[1] = 0;
    b->pending = false;
    if (access_part(v, 0, gva, crosses ? first : size, read, write))
        return CPU_FAULT;
    if (crosses && access_part(v, 1, wide_code(v) ? gva + first : (uint32_t)(gva + first), size - first, read, write))
        return CPU_FAULT;
    if (v->mode & BT_MODE_WATCH)
        bt_watch(&v->cpu, gva, size, write);
    if (v->slow_info & BT_INFO_FILL)
        return CPU_OK;
    if (!crosses && !b->device[0]) {
        v->slow_delta = (uint64_t)(uintptr_t)b->hva[0] - gva;
        return CPU_OK;
    }
    v->stats.bounces++;
    /* memory is read even for plain stores: an instruction may store less than its size, or nothing at all (masked
     * moves, x87 stores with a pending unmasked error) */
    if (read || !b->device[0])
        part_read(v, 0, b->data);
    if (crosses && (read || !b->device[1]))
        part_read(v, 1, b->data + first);
    b->pending = write;
    v->slow_delta = (uint64_t)(uintptr_t)b->data - gva;
    return CPU_OK;
}

uintptr_t bt_slow_access(struct bt_vcpu *v)
{
    bt_flags_from_image(v);
    if (v->slow_info & BT_INFO_WRITE)
        v->stats.slow_writes++;
    else
        v->stats.slow_reads++;
    if (slow_access(v))
        return bt_go_on_fault(v);
    bt_load_vectors(v);
    return 0;
}

static void code_written(struct bt_vcpu *v, gpa_t addr, unsigned len)
{
    if (!(v->mem->flags[gpa_gfn(addr)] & MEMORY_PAGE_CODE))
        return;
    v->stats.smc_writes++;
    cpu_fpu_unload(&v->cpu);
    bt_cache_written(v->cache, gpa_gfn(addr), addr.v & PAGE_MASK, len);
}

int bt_slow_post(struct bt_vcpu *v)
{
    struct bt_bounce *b = &v->bounce;
    bt_flags_from_image(v);
    v->smc_hit = false;
    if (b->pending) {
        b->pending = false;
        part_write(v, 0, b->data);
        if (b->len[1])
            part_write(v, 1, b->data + b->len[0]);
    }
    for (int part = 0; part < (b->len[1] ? 2 : 1); part++)
        if (gpa_gfn(b->addr[part]) < v->mem->page_count)
            code_written(v, b->addr[part], b->len[part]);
    if (v->smc_hit || (atomic_load_explicit(&v->cpu.events, memory_order_relaxed) & ~(uint32_t)CPU_EVENT_STEP))
        return 1;
    bt_load_vectors(v);
    return 0;
}

/* ---- instructions in C ---- */

static bool is_software_interrupt(const struct insn *in)
{
    return in->cls == INSN_FAR && in->map == MAP_PRIMARY && in->opcode >= 0xcc && in->opcode <= 0xce;
}

static int execute(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    if (site->flags & BT_SITE_FPU_CHECK) {
        if (cpu_fpu_check(cpu, &site->insn))
            return CPU_FAULT;
        cpu->rip = cpu->next_rip;
        return CPU_OK;
    }
    if (site->flags & BT_SITE_DIVIDE_ERROR)
        return cpu_raise_fault(cpu, VECTOR_DE);
    if (site->insn.cls == INSN_GENERIC && !site->insn.mem.masked)
        return bt_legacy_execute(cpu, &site->insn);
    v->int_delivered = is_software_interrupt(&site->insn);
    return cpu_execute(cpu, &site->insn);
}

uintptr_t bt_callout(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    const struct insn *in = &site->insn;
    uint32_t mode = v->mode;
    uint64_t next = wide_code(v) ? cpu->rip + in->len : (uint32_t)(cpu->rip + in->len);
    v->stats.callouts++;
    cpu->next_rip = next;
    v->smc_hit = false;
    bt_flags_from_image(v);
    bool ends = site->flags & BT_SITE_ENDS_BLOCK; /* the site itself may be thrown away by what follows */
    bool modal = site->flags & BT_SITE_MODAL;
    if (execute(v, site))
        return bt_go_on_fault(v);
    if (modal || v->mode_stale)
        bt_mode_update(v);
    if (ends || cpu->rip != next || v->mode != mode || v->smc_hit || cpu->halted ||
        (atomic_load_explicit(&cpu->events, memory_order_relaxed) & ~(uint32_t)CPU_EVENT_STEP) ||
        (v->held_events && (cpu->rflags & FLAG_IF)))
        return bt_go_on(v);
    bt_flags_to_image(v);
    bt_load_vectors(v);
    return 0;
}
