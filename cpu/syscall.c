/* SPDX-License-Identifier: MIT */
/* SYSENTER/SYSEXIT, SYSCALL/SYSRET, SWAPGS: fast transfers that load fixed, flat segments without descriptors.
 * SDM vol. 2; where the vendors differ (AMD APM vol. 3, SYSCALL, SYSENTER) the model's vendor decides: Intel has
 * SYSCALL in 64-bit code only, AMD has SYSENTER in legacy mode only. */
#include "cpu/internal.h"

struct segment segment_flat(uint16_t selector, uint32_t attr)
{
    return (struct segment){.limit = 0xffffffff, .attr = attr | SEG_G | SEG_S | SEG_P, .selector = selector};
}

static bool is_amd(const struct cpu *cpu)
{
    return cpu->model && cpu->model->amd;
}

static inline void set_flat(struct segment *s, uint16_t selector, uint32_t attr)
{
    s->base = 0;
    s->limit = 0xffffffff;
    s->attr = attr | SEG_G | SEG_S | SEG_P;
    s->selector = selector;
}

/* Flat code and stack at a privilege level; wide: 64-bit code. */
static inline void load_flat(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool wide)
{
    uint32_t dpl = cpl << SEG_DPL_SHIFT;
    set_flat(&cpu->seg[SEG_CS], cs, SEG_CODE | SEG_W | SEG_A | dpl | (wide ? SEG_L : SEG_DB));
    set_flat(&cpu->seg[SEG_SS], ss, SEG_W | SEG_A | dpl | SEG_DB);
    cpu->cpl = (uint8_t)cpl;
}

int cpu_sysenter(struct cpu *cpu)
{
    uint16_t cs = cpu->msr.sysenter_cs & 0xfffc;
    bool wide = cpu_long_mode(cpu);
    if (wide && is_amd(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (cpu_real_mode(cpu) || !cs)
        return fault_gp(cpu, 0);
    cpu->rflags &= ~(uint64_t)(EFLAGS_VM | FLAG_IF | EFLAGS_RF);
    load_flat(cpu, cs, (uint16_t)(cs + 8), 0, wide);
    cpu->gpr[GPR_SP] = wide ? cpu->msr.sysenter_esp : (uint32_t)cpu->msr.sysenter_esp;
    cpu->rip = wide ? cpu->msr.sysenter_eip : (uint32_t)cpu->msr.sysenter_eip;
    notify_mode_changed(cpu);
    return CPU_OK;
}

int cpu_sysexit(struct cpu *cpu, unsigned opsize)
{
    uint16_t cs = cpu->msr.sysenter_cs & 0xfffc;
    bool wide = opsize == 8;
    if (cpu_long_mode(cpu) && is_amd(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (cpu_real_mode(cpu) || cpu->cpl || !cs)
        return fault_gp(cpu, 0);
    uint64_t sp = cpu->gpr[GPR_CX], rip = cpu->gpr[GPR_DX];
    if (wide && (!canonical(sp) || !canonical(rip)))
        return fault_gp(cpu, 0);
    cs = (uint16_t)((cs + (wide ? 32 : 16)) | 3);
    load_flat(cpu, cs, (uint16_t)(cs + 8), 3, wide);
    cpu->gpr[GPR_SP] = wide ? sp : (uint32_t)sp;
    cpu->rip = wide ? rip : (uint32_t)rip;
    notify_mode_changed(cpu);
    return CPU_OK;
}

int cpu_syscall(struct cpu *cpu)
{
    uint16_t cs = cpu->msr.star >> 32 & 0xfffc;
    bool wide = cpu_long_mode(cpu);
    if (!(cpu->mmu.efer & EFER_SCE) || cpu_real_mode(cpu) || (!cpu_code64(cpu) && !is_amd(cpu)))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (wide) {
        cpu->gpr[GPR_CX] = cpu->next_rip;
        cpu->gpr[11] = cpu->rflags & ~(uint64_t)EFLAGS_RF;
        cpu->rip = cpu_code64(cpu) ? cpu->msr.lstar : cpu->msr.cstar;
        cpu->rflags &= ~(cpu->msr.sfmask & 0xffffffff) & ~(uint64_t)EFLAGS_RF;
        cpu->rflags |= EFLAGS_FIXED;
    } else {
        cpu->gpr[GPR_CX] = (uint32_t)cpu->next_rip;
        cpu->rip = (uint32_t)cpu->msr.star;
        cpu->rflags &= ~(uint64_t)(EFLAGS_VM | FLAG_IF | EFLAGS_RF);
    }
    load_flat(cpu, cs, (uint16_t)(cs + 8), 0, wide);
    notify_mode_changed(cpu);
    return CPU_OK;
}

int cpu_sysret(struct cpu *cpu, unsigned opsize)
{
    uint16_t base = (uint16_t)(cpu->msr.star >> 48);
    bool wide = opsize == 8;
    if (!(cpu->mmu.efer & EFER_SCE) || cpu_real_mode(cpu) || (!cpu_code64(cpu) && !is_amd(cpu)))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (cpu->cpl || (wide && !canonical(cpu->gpr[GPR_CX])))
        return fault_gp(cpu, 0);
    if (cpu_long_mode(cpu))
        cpu->rflags = (cpu->gpr[11] & 0x3c7fd7) | EFLAGS_FIXED;
    else
        cpu->rflags |= FLAG_IF;
    load_flat(cpu, (uint16_t)((base + (wide ? 16 : 0)) | 3), (uint16_t)((base + 8) | 3), 3, wide);
    cpu->rip = wide ? cpu->gpr[GPR_CX] : (uint32_t)cpu->gpr[GPR_CX];
    notify_mode_changed(cpu);
    return CPU_OK;
}

int cpu_swapgs(struct cpu *cpu)
{
    if (!cpu_code64(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (cpu->cpl)
        return fault_gp(cpu, 0);
    uint64_t base = cpu->seg[SEG_GS].base;
    cpu->seg[SEG_GS].base = cpu->msr.kernel_gs_base;
    cpu->msr.kernel_gs_base = base;
    if (!cpu->seg[SEG_GS].base != !base)
        notify_mode_changed(cpu);
    return done(cpu);
}
