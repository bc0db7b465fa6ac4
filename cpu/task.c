/* SPDX-License-Identifier: MIT */
/* Task switches. SDM vol. 3, chapter 7 (7.3 gives the steps, table 7-1 the checks, table 7-2 NT, busy and link).
 *
 * Up to the moment when the new task's registers are loaded a fault belongs to the old task and nothing has changed:
 * both TSSs and both descriptors are read or probed before the first byte is written. What is wrong with the new task's
 * segments belongs to the new task: the fault is raised with its state loaded. */
#include "cpu/internal.h"

/* The parts of both TSS formats in one form. */
struct task_state {
    uint64_t cr3;
    uint64_t rip, flags;
    uint64_t gpr[8];
    uint16_t seg[SEG_COUNT]; /* in the TSS's order, which is enum seg's: ES CS SS DS FS GS */
    uint16_t ldt;
    bool wide; /* 32-bit TSS */
    bool trap;
};

enum {
    TSS32_CR3 = 28,
    TSS32_EIP = 32,
    TSS32_GPR = 40,
    TSS32_SEG = 72,
    TSS32_LDT = 96,
    TSS32_TRAP = 100,
    TSS32_SIZE = 104,
    TSS16_IP = 14,
    TSS16_GPR = 18,
    TSS16_SEG = 34,
    TSS16_LDT = 42,
    TSS16_SIZE = 44
};

static uint32_t get16(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | get16(p + 2) << 16;
}

static bool tss_is_wide(uint32_t attr)
{
    return (attr & SEG_TYPE) >= SYS_TSS32;
}

static int read_state(struct cpu *cpu, const struct descriptor *d, struct task_state *n)
{
    uint8_t b[TSS32_SIZE];
    n->wide = tss_is_wide(d->seg.attr);
    n->cr3 = 0;
    n->trap = false;
    if (cpu_read_system(cpu, d->seg.base, b, n->wide ? TSS32_SIZE : TSS16_SIZE))
        return CPU_FAULT;
    if (n->wide) {
        n->cr3 = get32(b + TSS32_CR3);
        n->rip = get32(b + TSS32_EIP);
        n->flags = get32(b + TSS32_EIP + 4);
        for (unsigned i = 0; i < 8; i++)
            n->gpr[i] = get32(b + TSS32_GPR + i * 4);
        for (unsigned i = 0; i < SEG_COUNT; i++)
            n->seg[i] = (uint16_t)get16(b + TSS32_SEG + i * 4);
        n->ldt = (uint16_t)get16(b + TSS32_LDT);
        n->trap = b[TSS32_TRAP] & 1;
        return CPU_OK;
    }
    n->rip = get16(b + TSS16_IP);
    n->flags = get16(b + TSS16_IP + 2);
    for (unsigned i = 0; i < 8; i++)
        n->gpr[i] = get16(b + TSS16_GPR + i * 2) | 0xffff0000u;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        n->seg[i] = i < SEG_FS ? (uint16_t)get16(b + TSS16_SEG + i * 2) : 0;
    n->ldt = (uint16_t)get16(b + TSS16_LDT);
    return CPU_OK;
}

/* The old task's dynamic fields: one run of bytes in each format, but for the reserved halves behind selectors, which
 * are kept. */
static int save_state(struct cpu *cpu, const struct task_switch *t)
{
    uint8_t b[TSS32_LDT - TSS32_EIP];
    uint64_t flags = t->reason == TASK_IRET ? t->flags & ~(uint64_t)EFLAGS_NT : t->flags;
    bool wide = tss_is_wide(cpu->tr.attr);
    unsigned slot = wide ? 4 : 2, at = wide ? TSS32_EIP : TSS16_IP;
    unsigned segments = wide ? 6 : 4, size = slot * (10 + segments);
    if (cpu_read_system(cpu, cpu->tr.base + at, b, size))
        return CPU_FAULT;
    for (unsigned i = 0; i < 10 + segments; i++) {
        uint64_t v = i == 0 ? t->rip : i == 1 ? flags : i < 10 ? cpu->gpr[i - 2] : cpu->seg[i - 10].selector;
        if (wide && i < 10)
            __builtin_memcpy(b + i * slot, &v, 4);
        else
            __builtin_memcpy(b + i * slot, &v, 2);
    }
    return cpu_write_system(cpu, cpu->tr.base + at, b, size);
}

static bool nests(const struct task_switch *t)
{
    return t->reason == TASK_CALL || t->reason == TASK_INT;
}

/* Everything that will be written can be written. */
static int probe_writes(struct cpu *cpu, const struct descriptor *d, const struct task_switch *t)
{
    unsigned w = MMU_WRITE | MMU_SUPERVISOR;
    bool wide = tss_is_wide(cpu->tr.attr);
    uint64_t at = cpu->tr.base + (wide ? TSS32_EIP : TSS16_IP);
    unsigned size = wide ? TSS32_LDT - TSS32_EIP : TSS16_LDT - TSS16_IP;
    if (cpu_probe_linear(cpu, at, size, w))
        return CPU_FAULT;
    if (nests(t) && cpu_probe_linear(cpu, d->seg.base, 2, w))
        return CPU_FAULT;
    return t->reason == TASK_IRET ? CPU_OK : cpu_probe_linear(cpu, d->gva + 5, 1, w);
}

/* The state that needs no check. Segments get their selectors only. */
static void load_registers(struct cpu *cpu, const struct task_state *n, const struct task_switch *t)
{
    cpu->mmu.cr0 |= CR0_TS;
    cpu->rip = n->rip;
    cpu->rflags = (n->flags & (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | EFLAGS_IOPL | EFLAGS_NT | EFLAGS_RF |
                               EFLAGS_VM | EFLAGS_AC | EFLAGS_VIF | EFLAGS_VIP | EFLAGS_ID)) |
                  EFLAGS_FIXED;
    if (nests(t))
        cpu->rflags |= EFLAGS_NT;
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = n->gpr[i];
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = cpu->rflags & EFLAGS_VM ? segment_v8086(n->seg[i]) : segment_null(n->seg[i], 0);
    cpu->cpl = cpu->rflags & EFLAGS_VM ? 3 : n->seg[SEG_CS] & 3;
    cpu->ldtr = segment_null(n->ldt, 0);
    cpu->dr[7] &= ~0x155ull; /* L0-L3, LE */
    cpu->halted = false;
    cpu->interrupt_shadow = false;
}

static int task_fault(struct cpu *cpu, unsigned vector, uint16_t selector, unsigned ext)
{
    return fault_error(cpu, vector, selector_error(selector, ext));
}

static int load_ldt(struct cpu *cpu, uint16_t selector, unsigned ext)
{
    struct descriptor d;
    if (selector_is_null(selector))
        return CPU_OK;
    if (selector & 4)
        return task_fault(cpu, VECTOR_TS, selector, ext);
    if (descriptor_read(cpu, selector, VECTOR_TS, selector_error(selector, ext), &d))
        return CPU_FAULT;
    if ((d.seg.attr & SEG_KIND) != SYS_LDT || !(d.seg.attr & SEG_P))
        return task_fault(cpu, VECTOR_TS, selector, ext);
    cpu->ldtr = d.seg;
    return CPU_OK;
}

static int load_code(struct cpu *cpu, uint16_t selector, unsigned ext)
{
    struct descriptor d;
    if (selector_is_null(selector))
        return task_fault(cpu, VECTOR_TS, 0, ext);
    if (descriptor_read(cpu, selector, VECTOR_TS, selector_error(selector, ext), &d))
        return CPU_FAULT;
    unsigned dpl = attr_dpl(d.seg.attr), rpl = selector & 3;
    if (!attr_is_code(d.seg.attr) || (attr_is_conforming(d.seg.attr) ? dpl > rpl : dpl != rpl))
        return task_fault(cpu, VECTOR_TS, selector, ext);
    if (!(d.seg.attr & SEG_P))
        return task_fault(cpu, VECTOR_NP, selector, ext);
    if (descriptor_set_accessed(cpu, &d))
        return CPU_FAULT;
    cpu->seg[SEG_CS] = d.seg;
    return CPU_OK;
}

static int load_data(struct cpu *cpu, enum seg seg, uint16_t selector, unsigned ext)
{
    struct descriptor d;
    if (selector_is_null(selector))
        return CPU_OK;
    if (descriptor_read(cpu, selector, VECTOR_TS, selector_error(selector, ext), &d))
        return CPU_FAULT;
    uint32_t attr = d.seg.attr;
    if (!(attr & SEG_S) || (attr & (SEG_CODE | SEG_W)) == SEG_CODE)
        return task_fault(cpu, VECTOR_TS, selector, ext);
    if (!attr_is_conforming(attr) && ((selector & 3u) > attr_dpl(attr) || cpu->cpl > attr_dpl(attr)))
        return task_fault(cpu, VECTOR_TS, selector, ext);
    if (!(attr & SEG_P))
        return task_fault(cpu, VECTOR_NP, selector, ext);
    if (descriptor_set_accessed(cpu, &d))
        return CPU_FAULT;
    cpu->seg[seg] = d.seg;
    return CPU_OK;
}

static int load_segments(struct cpu *cpu, const struct task_state *n, unsigned ext)
{
    static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    struct descriptor ss;
    if (load_ldt(cpu, n->ldt, ext))
        return CPU_FAULT;
    if (cpu_v8086(cpu))
        return CPU_OK;
    if (load_code(cpu, n->seg[SEG_CS], ext))
        return CPU_FAULT;
    if (descriptor_read_stack(cpu, n->seg[SEG_SS], cpu->cpl, VECTOR_TS, ext, &ss) || descriptor_set_accessed(cpu, &ss))
        return CPU_FAULT;
    cpu->seg[SEG_SS] = ss.seg;
    for (unsigned i = 0; i < sizeof data; i++)
        if (load_data(cpu, data[i], n->seg[data[i]], ext))
            return CPU_FAULT;
    return CPU_OK;
}

static int push_error(struct cpu *cpu, const struct task_switch *t, bool wide)
{
    struct stack_frame f;
    if (!t->has_error)
        return CPU_OK;
    frame_begin(cpu, &f, wide ? 4 : 2);
    f.ss_error = t->ext;
    frame_push(&f, t->error);
    if (frame_check(cpu, &f) || frame_write(cpu, &f))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = f.sp;
    return CPU_OK;
}

/* In the new task: what can go wrong here is its fault. */
static int enter_task(struct cpu *cpu, const struct task_state *n, const struct task_switch *t)
{
    bool paging = (cpu->mmu.cr0 & CR0_PG) && n->wide;
    load_registers(cpu, n, t);
    if (paging && !mmu_set_cr3(&cpu->mmu, n->cr3))
        return fault_gp(cpu, 0);
    if (load_segments(cpu, n, t->ext) || push_error(cpu, t, n->wide))
        return CPU_FAULT;
    if (cpu->rip > cpu->seg[SEG_CS].limit)
        return fault_gp(cpu, t->ext);
    return CPU_OK;
}

int task_switch_to(struct cpu *cpu, struct descriptor *d, const struct task_switch *t)
{
    struct task_state n;
    struct descriptor old;
    uint32_t limit = tss_is_wide(d->seg.attr) ? TSS32_SIZE - 1 : TSS16_SIZE - 1;
    if (d->seg.limit < limit)
        return task_fault(cpu, VECTOR_TS, d->seg.selector, t->ext);
    if (descriptor_read(cpu, cpu->tr.selector, VECTOR_TS, selector_error(cpu->tr.selector, t->ext), &old) ||
        read_state(cpu, d, &n) || probe_writes(cpu, d, t))
        return CPU_FAULT;
    if (!nests(t) && descriptor_set_busy(cpu, &old, false))
        return CPU_FAULT;
    if (save_state(cpu, t))
        return CPU_FAULT;
    if (nests(t) && cpu_write_system(cpu, d->seg.base, &cpu->tr.selector, 2))
        return CPU_FAULT;
    if (t->reason != TASK_IRET && descriptor_set_busy(cpu, d, true))
        return CPU_FAULT;
    cpu->tr = d->seg;
    cpu->tr.attr |= 2; /* busy */
    int result = enter_task(cpu, &n, t);
    notify_mode_changed(cpu);
    if (result == CPU_OK && n.trap)
        cpu_deliver_debug_trap(cpu, 1u << 15); /* BT */
    return result;
}

int task_switch_by_gate(struct cpu *cpu, uint16_t tss_selector, const struct task_switch *t)
{
    struct descriptor d;
    uint32_t error = selector_error(tss_selector, t->ext);
    if (selector_is_null(tss_selector) || (tss_selector & 4))
        return fault_gp(cpu, error);
    if (descriptor_read(cpu, tss_selector, VECTOR_GP, error, &d))
        return CPU_FAULT;
    unsigned kind = d.seg.attr & SEG_KIND;
    if (kind != SYS_TSS16 && kind != SYS_TSS32)
        return fault_gp(cpu, error);
    if (!(d.seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    return task_switch_to(cpu, &d, t);
}

/* Back to the task the link names: it must be busy. */
static int task_return(struct cpu *cpu, uint16_t selector, const struct task_switch *t)
{
    struct descriptor d;
    uint32_t error = selector_error(selector, 0);
    if (selector & 4)
        return fault_error(cpu, VECTOR_TS, error);
    if (descriptor_read(cpu, selector, VECTOR_TS, error, &d))
        return CPU_FAULT;
    unsigned kind = d.seg.attr & SEG_KIND;
    if (kind != SYS_TSS16_BUSY && kind != SYS_TSS32_BUSY)
        return fault_error(cpu, VECTOR_TS, error);
    if (!(d.seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    return task_switch_to(cpu, &d, t);
}

int cpu_task_switch(struct cpu *cpu, uint16_t selector, enum task_switch_reason reason, bool has_error, uint32_t error)
{
    struct task_switch t = {.reason = reason,
                            .ext = reason == TASK_INT,
                            .has_error = has_error,
                            .error = error,
                            .rip = reason == TASK_INT ? cpu->rip : cpu->next_rip,
                            .flags = cpu->rflags};
    if (reason == TASK_IRET)
        return task_return(cpu, selector, &t);
    return task_switch_by_gate(cpu, selector, &t);
}
