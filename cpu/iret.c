/* SPDX-License-Identifier: MIT */
/* IRET in every mode. SDM vol. 2, IRET/IRETD/IRETQ; vol. 3, 20.2 and 20.3 (virtual-8086 mode). */
#include "cpu/internal.h"

enum {
    /* What IRETD takes from the image in real mode; VM, VIF and VIP stay. */
    REAL_FLAGS = 0x257fd5,
    ALWAYS_FLAGS = FLAGS_ARITH | FLAG_TF | FLAG_DF | EFLAGS_NT,
    WIDE_FLAGS = EFLAGS_RF | EFLAGS_AC | EFLAGS_ID
};

static void load_flags(struct cpu *cpu, uint64_t image, uint64_t mask, unsigned opsize)
{
    if (opsize == 2)
        mask &= 0xffff;
    cpu->rflags = (cpu->rflags & ~mask) | (image & mask) | EFLAGS_FIXED;
}

static int iret_real(struct cpu *cpu, unsigned opsize, uint64_t mask)
{
    uint64_t off, selector, flags;
    if (stack_read(cpu, 0, opsize, &off) || stack_read(cpu, opsize, opsize, &selector) ||
        stack_read(cpu, 2 * opsize, opsize, &flags))
        return CPU_FAULT;
    if (off > cpu->seg[SEG_CS].limit)
        return fault_gp(cpu, 0);
    cpu->gpr[GPR_SP] = stack_pointer_add(cpu, 3 * opsize);
    cpu->rip = off;
    load_flags(cpu, flags, mask, opsize);
    cpu_load_segment_real(cpu, SEG_CS, (uint16_t)selector);
    notify_mode_changed(cpu);
    return CPU_OK;
}

/* CR4.VME with IOPL < 3: the image's IF goes to VIF. */
static int iret_vme(struct cpu *cpu)
{
    uint64_t flags;
    if (stack_read(cpu, 4, 2, &flags))
        return CPU_FAULT;
    if ((flags & FLAG_TF) || ((flags & FLAG_IF) && (cpu->rflags & EFLAGS_VIP)))
        return fault_gp(cpu, 0);
    if (iret_real(cpu, 2, REAL_FLAGS & ~(FLAG_IF | EFLAGS_IOPL)))
        return CPU_FAULT;
    cpu->rflags = flags & FLAG_IF ? cpu->rflags | EFLAGS_VIF : cpu->rflags & ~(uint64_t)EFLAGS_VIF;
    return CPU_OK;
}

static int iret_v8086(struct cpu *cpu, unsigned opsize)
{
    if (cpu_iopl(cpu) == 3)
        return iret_real(cpu, opsize, REAL_FLAGS & ~EFLAGS_IOPL);
    if ((cpu->mmu.cr4 & CR4_VME) && opsize == 2)
        return iret_vme(cpu);
    return fault_gp(cpu, 0);
}

static int return_to_v8086(struct cpu *cpu, uint64_t off, uint16_t cs, uint64_t flags)
{
    static const uint8_t order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    uint64_t sp, selector[5];
    if (stack_read(cpu, 12, 4, &sp))
        return CPU_FAULT;
    for (unsigned i = 0; i < 5; i++)
        if (stack_read(cpu, 16 + i * 4, 4, &selector[i]))
            return CPU_FAULT;
    if (off > 0xffff)
        return fault_gp(cpu, 0);
    cpu->rflags = (flags & (FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF | EFLAGS_IOPL | EFLAGS_NT | EFLAGS_RF |
                            EFLAGS_VM | EFLAGS_AC | EFLAGS_VIF | EFLAGS_VIP | EFLAGS_ID)) |
                  EFLAGS_FIXED;
    cpu->seg[SEG_CS] = segment_v8086(cs);
    for (unsigned i = 0; i < 5; i++)
        cpu->seg[order[i]] = segment_v8086((uint16_t)selector[i]);
    cpu->cpl = 3;
    cpu->gpr[GPR_SP] = sp;
    cpu->rip = off;
    notify_mode_changed(cpu);
    return CPU_OK;
}

static int iret_nested(struct cpu *cpu)
{
    uint16_t link;
    if (cpu_long_mode(cpu))
        return fault_gp(cpu, 0);
    if (cpu_read_system(cpu, cpu->tr.base, &link, 2))
        return CPU_FAULT;
    return cpu_task_switch(cpu, link, TASK_IRET, false, 0);
}

/* Which flags the CPL that executes IRET may change. */
static uint64_t flags_mask(const struct cpu *cpu)
{
    uint64_t mask = ALWAYS_FLAGS | WIDE_FLAGS;
    if (cpu->cpl <= cpu_iopl(cpu))
        mask |= FLAG_IF;
    if (cpu->cpl == 0)
        mask |= EFLAGS_IOPL | EFLAGS_VIF | EFLAGS_VIP;
    return mask;
}

/* One value of the frame; top: stack_known's. */
static int read_slot(struct cpu *cpu, const uint8_t *top, unsigned n, unsigned opsize, uint64_t *value)
{
    if (!top)
        return stack_read(cpu, n * opsize, opsize, value);
    *value = stack_slot(top, n, opsize);
    return CPU_OK;
}

/* Outer level, or any return by 64-bit code: SS:RSP come from the frame as well. */
static int iret_with_stack(struct cpu *cpu, const uint8_t *top, struct descriptor *cs, uint64_t off, uint64_t flags,
                           unsigned opsize)
{
    struct descriptor ss;
    uint64_t sp, selector;
    if (read_slot(cpu, top, 3, opsize, &sp) || read_slot(cpu, top, 4, opsize, &selector) ||
        return_check_stack(cpu, (uint16_t)selector, cs, &ss))
        return CPU_FAULT;
    if (!code_offset_ok(cpu, &cs->seg, off))
        return fault_gp(cpu, 0);
    if (descriptor_set_accessed(cpu, cs) || descriptor_set_accessed(cpu, &ss))
        return CPU_FAULT;
    load_flags(cpu, flags, flags_mask(cpu), opsize);
    bool outer = (cs->seg.selector & 3) > cpu->cpl;
    segment_copy(&cpu->seg[SEG_CS], &cs->seg);
    segment_copy(&cpu->seg[SEG_SS], &ss.seg);
    cpu->cpl = cs->seg.selector & 3;
    stack_pointer_set(cpu, sp);
    cpu->rip = off;
    if (outer)
        segments_drop_inner(cpu);
    notify_mode_changed(cpu);
    return CPU_OK;
}

static int iret_protected(struct cpu *cpu, unsigned opsize)
{
    struct descriptor cs;
    uint64_t off, selector, flags;
    if (cpu->rflags & EFLAGS_NT)
        return iret_nested(cpu);
    const uint8_t *top = stack_known(cpu, 5 * opsize);
    if (read_slot(cpu, top, 0, opsize, &off) || read_slot(cpu, top, 1, opsize, &selector) ||
        read_slot(cpu, top, 2, opsize, &flags))
        return CPU_FAULT;
    if (opsize == 4 && (flags & EFLAGS_VM) && cpu->cpl == 0 && !cpu_long_mode(cpu))
        return return_to_v8086(cpu, off, (uint16_t)selector, flags);
    if (return_check_code(cpu, (uint16_t)selector, &cs))
        return CPU_FAULT;
    if ((selector & 3) > cpu->cpl || cpu_code64(cpu))
        return iret_with_stack(cpu, top, &cs, off, flags, opsize);
    if (!code_offset_ok(cpu, &cs.seg, off))
        return fault_gp(cpu, 0);
    if (descriptor_set_accessed(cpu, &cs))
        return CPU_FAULT;
    load_flags(cpu, flags, flags_mask(cpu), opsize);
    cpu->gpr[GPR_SP] = stack_pointer_add(cpu, 3 * opsize);
    segment_copy(&cpu->seg[SEG_CS], &cs.seg);
    cpu->rip = off;
    notify_mode_changed(cpu);
    return CPU_OK;
}

int cpu_iret(struct cpu *cpu, unsigned opsize)
{
    /* NMIs are unblocked even when the instruction then faults. */
    cpu->nmi_blocked = false;
    if (cpu_real_mode(cpu))
        return iret_real(cpu, opsize, REAL_FLAGS);
    if (cpu_v8086(cpu))
        return iret_v8086(cpu, opsize);
    return iret_protected(cpu, opsize);
}
