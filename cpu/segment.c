/* SPDX-License-Identifier: MIT */
/* Loads of segment registers and of the tables' registers, and the instructions that look at descriptors.
 * SDM vol. 3, chapters 3 and 5; vol. 2, MOV, LDS, LLDT, LTR, LAR, LSL, VERR, VERW, LGDT, LIDT. */
#include "cpu/internal.h"

void cpu_load_segment_real(struct cpu *cpu, enum seg seg, uint16_t selector)
{
    struct segment s = cpu->seg[seg];
    if (cpu_v8086(cpu)) {
        s = segment_v8086(selector);
    } else {
        /* Real mode changes base and rights only: a limit set up in protected mode stays ("unreal" mode). */
        s.base = (uint32_t)selector << 4;
        s.selector = selector;
        s.attr = (s.attr & (SEG_DB | SEG_G | SEG_AVL)) | SEG_P | SEG_S | SEG_W | SEG_A;
    }
    segment_set(cpu, seg, &s);
}

static int load_null(struct cpu *cpu, enum seg seg, uint16_t selector)
{
    struct segment s = segment_null(selector, 0);
    if (seg == SEG_SS) {
        if (!cpu_code64(cpu) || cpu->cpl == 3 || (selector & 3u) != cpu->cpl)
            return fault_gp(cpu, 0);
        s = segment_null(selector, cpu->cpl);
    }
    segment_set(cpu, seg, &s);
    return CPU_OK;
}

static int load_stack_segment(struct cpu *cpu, uint16_t selector)
{
    struct descriptor d;
    if (descriptor_read_stack(cpu, selector, cpu->cpl, VECTOR_GP, 0, &d) || descriptor_set_accessed(cpu, &d))
        return CPU_FAULT;
    segment_set(cpu, SEG_SS, &d.seg);
    return CPU_OK;
}

int cpu_load_segment(struct cpu *cpu, enum seg seg, uint16_t selector)
{
    struct descriptor d;
    uint32_t error = selector_error(selector, 0);
    if (seg == SEG_CS)
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (!cpu_protected(cpu)) {
        cpu_load_segment_real(cpu, seg, selector);
        return CPU_OK;
    }
    if (selector_is_null(selector))
        return load_null(cpu, seg, selector);
    if (seg == SEG_SS)
        return load_stack_segment(cpu, selector);
    if (descriptor_read(cpu, selector, VECTOR_GP, error, &d))
        return CPU_FAULT;
    uint32_t attr = d.seg.attr;
    if (!(attr & SEG_S) || (attr & (SEG_CODE | SEG_W)) == SEG_CODE)
        return fault_gp(cpu, error);
    if (!attr_is_conforming(attr) && ((selector & 3u) > attr_dpl(attr) || cpu->cpl > attr_dpl(attr)))
        return fault_gp(cpu, error);
    if (!(attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    if (descriptor_set_accessed(cpu, &d))
        return CPU_FAULT;
    segment_set(cpu, seg, &d.seg);
    return CPU_OK;
}

static int check_system_register_load(struct cpu *cpu)
{
    if (!cpu_protected(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    return cpu->cpl ? fault_gp(cpu, 0) : CPU_OK;
}

int cpu_lldt(struct cpu *cpu, uint16_t selector)
{
    struct descriptor d;
    uint32_t error = selector_error(selector, 0);
    if (check_system_register_load(cpu))
        return CPU_FAULT;
    if (selector_is_null(selector)) {
        cpu->ldtr = segment_null(selector, 0);
        return done(cpu);
    }
    if (selector & 4)
        return fault_gp(cpu, error);
    if (descriptor_read(cpu, selector, VECTOR_GP, error, &d))
        return CPU_FAULT;
    if ((d.seg.attr & SEG_KIND) != SYS_LDT)
        return fault_gp(cpu, error);
    if (!(d.seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    if (cpu_long_mode(cpu)) {
        if (descriptor_read_upper(cpu, VECTOR_GP, error, &d))
            return CPU_FAULT;
        if (!canonical(d.seg.base))
            return fault_gp(cpu, error);
    }
    cpu->ldtr = d.seg;
    return done(cpu);
}

int cpu_ltr(struct cpu *cpu, uint16_t selector)
{
    struct descriptor d;
    uint32_t error = selector_error(selector, 0);
    if (check_system_register_load(cpu))
        return CPU_FAULT;
    if (selector_is_null(selector))
        return fault_gp(cpu, 0);
    if (selector & 4)
        return fault_gp(cpu, error);
    if (descriptor_read(cpu, selector, VECTOR_GP, error, &d))
        return CPU_FAULT;
    unsigned kind = d.seg.attr & SEG_KIND;
    if (kind != SYS_TSS32 && (kind != SYS_TSS16 || cpu_long_mode(cpu)))
        return fault_gp(cpu, error);
    if (!(d.seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    if (cpu_long_mode(cpu)) {
        if (descriptor_read_upper(cpu, VECTOR_GP, error, &d))
            return CPU_FAULT;
        if (!canonical(d.seg.base))
            return fault_gp(cpu, error);
    }
    if (descriptor_set_busy(cpu, &d, true))
        return CPU_FAULT;
    cpu->tr = d.seg;
    return done(cpu);
}

static void set_zf(struct cpu *cpu, bool on)
{
    cpu->rflags = on ? cpu->rflags | FLAG_ZF : cpu->rflags & ~(uint64_t)FLAG_ZF;
}

/* Bit n: descriptor type n is one the instruction accepts. */
enum {
    LAR_TYPES = 1 << SYS_TSS16 | 1 << SYS_LDT | 1 << SYS_TSS16_BUSY | 1 << SYS_CALL16 | 1 << SYS_TASK_GATE |
                1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY | 1 << SYS_CALL32,
    LAR_TYPES_LONG = 1 << SYS_LDT | 1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY | 1 << SYS_CALL32,
    LSL_TYPES = 1 << SYS_TSS16 | 1 << SYS_LDT | 1 << SYS_TSS16_BUSY | 1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY,
    LSL_TYPES_LONG = 1 << SYS_LDT | 1 << SYS_TSS32 | 1 << SYS_TSS32_BUSY
};

/* The descriptor for lar, lsl, verr, verw. *visible: it exists, has one of the system types, and CPL and RPL may see
 * it. */
static int look_at(struct cpu *cpu, uint16_t selector, unsigned system_types, struct descriptor *d, bool *visible)
{
    *visible = false;
    if (!cpu_protected(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    bool found = false;
    if (!selector_is_null(selector) && descriptor_probe(cpu, selector, d, &found))
        return CPU_FAULT;
    if (!found)
        return CPU_OK;
    uint32_t attr = d->seg.attr;
    if (!(attr & SEG_S) && !(system_types >> (attr & SEG_TYPE) & 1))
        return CPU_OK;
    *visible = attr_is_conforming(attr) || (cpu->cpl <= attr_dpl(attr) && (selector & 3u) <= attr_dpl(attr));
    return CPU_OK;
}

int cpu_lar(struct cpu *cpu, uint16_t selector, uint32_t *value)
{
    struct descriptor d;
    bool visible;
    if (look_at(cpu, selector, cpu_long_mode(cpu) ? LAR_TYPES_LONG : LAR_TYPES, &d, &visible))
        return CPU_FAULT;
    if (visible)
        *value = d.high & 0x00ffff00;
    set_zf(cpu, visible);
    return done(cpu);
}

int cpu_lsl(struct cpu *cpu, uint16_t selector, uint32_t *value)
{
    struct descriptor d;
    bool visible;
    if (look_at(cpu, selector, cpu_long_mode(cpu) ? LSL_TYPES_LONG : LSL_TYPES, &d, &visible))
        return CPU_FAULT;
    if (visible)
        *value = d.seg.limit;
    set_zf(cpu, visible);
    return done(cpu);
}

int cpu_verify(struct cpu *cpu, uint16_t selector, bool write)
{
    struct descriptor d;
    bool visible;
    if (look_at(cpu, selector, 0, &d, &visible))
        return CPU_FAULT;
    if (visible && write)
        visible = attr_is_writable_data(d.seg.attr);
    else if (visible)
        visible = (d.seg.attr & (SEG_CODE | SEG_W)) != SEG_CODE;
    set_zf(cpu, visible);
    return done(cpu);
}

static int load_table(struct cpu *cpu, struct table_register *t, uint64_t base, uint16_t limit)
{
    if (cpu->cpl)
        return fault_gp(cpu, 0);
    if (cpu_code64(cpu) && !canonical(base))
        return fault_gp(cpu, 0);
    t->base = base;
    t->limit = limit;
    return done(cpu);
}

int cpu_lgdt(struct cpu *cpu, uint64_t base, uint16_t limit)
{
    return load_table(cpu, &cpu->gdtr, base, limit);
}

int cpu_lidt(struct cpu *cpu, uint64_t base, uint16_t limit)
{
    return load_table(cpu, &cpu->idtr, base, limit);
}

int cpu_umip_check(struct cpu *cpu)
{
    return (cpu->mmu.cr4 & CR4_UMIP) && cpu->cpl == 3 ? fault_gp(cpu, 0) : CPU_OK;
}
