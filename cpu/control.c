/* SPDX-License-Identifier: MIT */
/* Control and debug registers, cache and TLB instructions, XCR0, and the flags with rules of their own.
 * SDM vol. 3, 2.5 and 17.2; vol. 2, MOV CR, MOV DR, LMSW, INVPCID, XSETBV, PUSHF, POPF, CLI, STI. */
#include "cpu/internal.h"

#define CR0_WRITABLE (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | (uint64_t)CR0_PG)

static int check_cpl0(struct cpu *cpu)
{
    return cpu->cpl ? fault_gp(cpu, 0) : CPU_OK;
}

int cpu_read_cr(struct cpu *cpu, unsigned n, uint64_t *value)
{
    if (n == 1 || (n > 4 && n != 8) || (n == 8 && !cpu->wide))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (check_cpl0(cpu))
        return CPU_FAULT;
    switch (n) {
    case 0:
        *value = cpu->mmu.cr0;
        break;
    case 2:
        *value = cpu->cr2;
        break;
    case 3:
        *value = cpu->mmu.cr3;
        break;
    case 4:
        *value = cpu->mmu.cr4;
        break;
    default:
        if (cpu->board && cpu->board->cr8_read) {
            cpu_fpu_park(cpu);
            cpu->cr8 = cpu->board->cr8_read(cpu->board->opaque) & 15;
            cpu_fpu_unpark(cpu);
        }
        *value = cpu->cr8;
    }
    return done(cpu);
}

static bool pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(efer & EFER_LMA);
}

/* What CR0.PG does to EFER.LMA, SDM vol. 3, 9.8.5. */
static int switch_long_mode(struct cpu *cpu, uint64_t cr0, uint64_t *efer)
{
    unsigned tss = cpu->tr.attr & SEG_TYPE;
    if ((cr0 & CR0_PG) && !(cpu->mmu.cr0 & CR0_PG) && (*efer & EFER_LME)) {
        if (!(cpu->mmu.cr4 & CR4_PAE) || (cpu->seg[SEG_CS].attr & SEG_L) || tss == SYS_TSS16 || tss == SYS_TSS16_BUSY)
            return fault_gp(cpu, 0);
        *efer |= EFER_LMA;
    } else if (!(cr0 & CR0_PG) && (cpu->mmu.cr0 & CR0_PG)) {
        if (cpu_code64(cpu) || (cpu->mmu.cr4 & CR4_PCIDE))
            return fault_gp(cpu, 0);
        *efer &= ~(uint64_t)EFER_LMA;
    }
    return CPU_OK;
}

static int write_cr0(struct cpu *cpu, uint64_t value)
{
    uint64_t efer = cpu->mmu.efer, old = cpu->mmu.cr0;
    if (cpu_code64(cpu) ? value >> 32 != 0 : false)
        return fault_gp(cpu, 0);
    value = (value & CR0_WRITABLE) | CR0_ET;
    if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
        return fault_gp(cpu, 0);
    if (switch_long_mode(cpu, value, &efer))
        return CPU_FAULT;
    if (pae_paging(value, cpu->mmu.cr4, efer) && ((value ^ old) & (CR0_PG | CR0_CD | CR0_NW)) &&
        !mmu_load_pdptes(&cpu->mmu, cpu->mmu.cr3))
        return fault_gp(cpu, 0);
    mmu_set_paging(&cpu->mmu, value, cpu->mmu.cr4, efer);
    cpu->cpl = 0;
    notify_mode_changed(cpu);
    return done(cpu);
}

static int write_cr3(struct cpu *cpu, uint64_t value)
{
    uint64_t address = cpu->mmu.cr4 & CR4_PCIDE ? value & ~(1ull << 63) : value;
    if (cpu_code64(cpu)) {
        if (address >> cpu->mmu.phys_bits)
            return fault_gp(cpu, 0);
    } else {
        value = (uint32_t)value;
    }
    if (!mmu_set_cr3(&cpu->mmu, value))
        return fault_gp(cpu, 0);
    return done(cpu);
}

static int write_cr4(struct cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->mmu.cr4, changed = old ^ value;
    if (value & ~cpu_model_cr4_mask(cpu->model))
        return fault_gp(cpu, 0);
    if (cpu_long_mode(cpu) && !(value & CR4_PAE))
        return fault_gp(cpu, 0);
    if ((value & CR4_PCIDE) && !(old & CR4_PCIDE) && (!cpu_long_mode(cpu) || (cpu->mmu.cr3 & 0xfff)))
        return fault_gp(cpu, 0);
    if (pae_paging(cpu->mmu.cr0, value, cpu->mmu.efer) && (changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) &&
        !mmu_load_pdptes(&cpu->mmu, cpu->mmu.cr3))
        return fault_gp(cpu, 0);
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0, value, cpu->mmu.efer);
    notify_mode_changed(cpu);
    return done(cpu);
}

static int write_cr8(struct cpu *cpu, uint64_t value)
{
    if (value > 15)
        return fault_gp(cpu, 0);
    cpu->cr8 = (uint8_t)value;
    if (cpu->board && cpu->board->cr8_write) {
        cpu_fpu_park(cpu);
        cpu->board->cr8_write(cpu->board->opaque, (unsigned)value);
        cpu_fpu_unpark(cpu);
    }
    return done(cpu);
}

int cpu_write_cr(struct cpu *cpu, unsigned n, uint64_t value)
{
    if (n == 1 || (n > 4 && n != 8) || (n == 8 && !cpu->wide))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (check_cpl0(cpu))
        return CPU_FAULT;
    switch (n) {
    case 0:
        return write_cr0(cpu, value);
    case 2:
        cpu->cr2 = cpu_code64(cpu) ? value : (uint32_t)value;
        return done(cpu);
    case 3:
        return write_cr3(cpu, value);
    case 4:
        return write_cr4(cpu, value);
    default:
        return write_cr8(cpu, value);
    }
}

int cpu_lmsw(struct cpu *cpu, uint16_t value)
{
    const uint64_t mask = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
    if (check_cpl0(cpu))
        return CPU_FAULT;
    /* PE can be set, never cleared. */
    return write_cr0(cpu, (cpu->mmu.cr0 & ~(mask & ~(uint64_t)CR0_PE)) | (value & mask));
}

int cpu_clts(struct cpu *cpu)
{
    if (check_cpl0(cpu))
        return CPU_FAULT;
    cpu->mmu.cr0 &= ~(uint64_t)CR0_TS;
    notify_mode_changed(cpu);
    return done(cpu);
}

/* DR4 and DR5 are the old names of DR6 and DR7. */
static int debug_register(struct cpu *cpu, unsigned *n)
{
    if (*n > 7 || ((*n == 4 || *n == 5) && (cpu->mmu.cr4 & CR4_DE)))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (check_cpl0(cpu))
        return CPU_FAULT;
    if (cpu->dr[7] & 1u << 13) {
        cpu_raise_fault(cpu, VECTOR_DB);
        cpu->fault.dr6 = 1u << 13;
        return CPU_FAULT;
    }
    if (*n == 4 || *n == 5)
        *n += 2;
    return CPU_OK;
}

int cpu_read_dr(struct cpu *cpu, unsigned n, uint64_t *value)
{
    if (debug_register(cpu, &n))
        return CPU_FAULT;
    *value = cpu->dr[n];
    return done(cpu);
}

int cpu_write_dr(struct cpu *cpu, unsigned n, uint64_t value)
{
    if (debug_register(cpu, &n))
        return CPU_FAULT;
    if (!cpu_code64(cpu))
        value = (uint32_t)value;
    if (n >= 6 && value >> 32)
        return fault_gp(cpu, 0);
    if (n == 6)
        value = (value & 0xe00f) | 0xffff0ff0;
    else if (n == 7)
        value = (value & 0xffff23ff) | 0x400;
    cpu->dr[n] = value;
    notify_mode_changed(cpu);
    return done(cpu);
}

int cpu_invlpg(struct cpu *cpu, uint64_t gva)
{
    if (check_cpl0(cpu))
        return CPU_FAULT;
    if (!cpu_long_mode(cpu))
        gva = (uint32_t)gva;
    if (canonical(gva))
        mmu_invlpg(&cpu->mmu, gva);
    return done(cpu);
}

int cpu_invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, uint64_t gva)
{
    if (!cpu_model_has_invpcid(cpu->model) || cpu_real_mode(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (check_cpl0(cpu))
        return CPU_FAULT;
    bool names_pcid = type < 2;
    if (type > 3 || pcid >> 12 || (names_pcid && pcid && !(cpu->mmu.cr4 & CR4_PCIDE)) || (type == 0 && !canonical(gva)))
        return fault_gp(cpu, 0);
    if (type == 0)
        mmu_invlpg_pcid(&cpu->mmu, pcid, gva);
    else if (type == 1)
        mmu_flush_pcid(&cpu->mmu, pcid);
    else
        mmu_flush(&cpu->mmu, type == 2);
    return done(cpu);
}

int cpu_wbinvd(struct cpu *cpu)
{
    return check_cpl0(cpu) ? CPU_FAULT : done(cpu);
}

int cpu_hlt(struct cpu *cpu)
{
    if (check_cpl0(cpu))
        return CPU_FAULT;
    cpu->halted = true;
    cpu->interrupt_shadow = false; /* HLT was the one instruction after STI */
    return done(cpu);
}

int cpu_monitor(struct cpu *cpu)
{
    return cpu_raise_fault(cpu, VECTOR_UD); /* not in the model's CPUID */
}

int cpu_xsetbv(struct cpu *cpu)
{
    uint64_t value = (uint32_t)cpu->gpr[GPR_AX] | cpu->gpr[GPR_DX] << 32;
    if (!(cpu->mmu.cr4 & CR4_OSXSAVE))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (check_cpl0(cpu))
        return CPU_FAULT;
    if ((uint32_t)cpu->gpr[GPR_CX] || (value & ~cpu->model->xcr0_mask) || !(value & 1) || (value & 6) == 4)
        return fault_gp(cpu, 0);
    cpu->xcr0 = value;
    notify_mode_changed(cpu);
    return done(cpu);
}

int cpu_xgetbv(struct cpu *cpu)
{
    if (!(cpu->mmu.cr4 & CR4_OSXSAVE))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if ((uint32_t)cpu->gpr[GPR_CX])
        return fault_gp(cpu, 0);
    cpu->gpr[GPR_AX] = (uint32_t)cpu->xcr0;
    cpu->gpr[GPR_DX] = cpu->xcr0 >> 32;
    return done(cpu);
}

/* ---- flags ---- */

/* Virtual-8086 mode with IOPL < 3: does VIF stand in for IF? */
static bool virtual_if_v8086(const struct cpu *cpu, unsigned opsize)
{
    return (cpu->mmu.cr4 & CR4_VME) && opsize == 2;
}

int cpu_pushf_value(struct cpu *cpu, unsigned opsize, uint64_t *value)
{
    uint64_t flags = cpu->rflags & ~(uint64_t)(EFLAGS_VM | EFLAGS_RF);
    if (cpu_v8086(cpu) && cpu_iopl(cpu) < 3) {
        if (!virtual_if_v8086(cpu, opsize))
            return fault_gp(cpu, 0);
        flags = (flags & ~(uint64_t)FLAG_IF) | EFLAGS_IOPL | (flags & EFLAGS_VIF ? FLAG_IF : 0);
    }
    *value = opsize == 2 ? flags & 0xffff : flags;
    return CPU_OK;
}

static int popf_vme(struct cpu *cpu, uint64_t value)
{
    const uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | EFLAGS_NT;
    if ((value & FLAG_TF) || ((value & FLAG_IF) && (cpu->rflags & EFLAGS_VIP)))
        return fault_gp(cpu, 0);
    cpu->rflags =
        (cpu->rflags & ~(mask | EFLAGS_VIF | EFLAGS_RF)) | (value & mask) | (value & FLAG_IF ? EFLAGS_VIF : 0);
    notify_mode_changed(cpu);
    return done(cpu);
}

int cpu_popf_value(struct cpu *cpu, unsigned opsize, uint64_t value)
{
    uint64_t mask = FLAGS_ARITH | FLAG_TF | FLAG_DF | EFLAGS_NT | EFLAGS_AC | EFLAGS_ID;
    uint64_t watched = FLAG_TF | EFLAGS_AC;
    if (cpu_v8086(cpu) && cpu_iopl(cpu) < 3)
        return virtual_if_v8086(cpu, opsize) ? popf_vme(cpu, value) : fault_gp(cpu, 0);
    if (cpu->cpl <= cpu_iopl(cpu))
        mask |= FLAG_IF;
    if (cpu->cpl == 0)
        mask |= EFLAGS_IOPL;
    if (opsize == 2)
        mask &= 0xffff;
    uint64_t old = cpu->rflags;
    cpu->rflags = (old & ~(mask | EFLAGS_RF)) | (value & mask) | EFLAGS_FIXED;
    if ((old ^ cpu->rflags) & watched)
        notify_mode_changed(cpu);
    return done(cpu);
}

/* IOPL does not allow it: may VIF be used instead of IF? SDM vol. 3, 20.3 and 20.4. */
static bool virtual_if(const struct cpu *cpu)
{
    if (cpu_v8086(cpu))
        return cpu->mmu.cr4 & CR4_VME;
    return cpu->cpl == 3 && (cpu->mmu.cr4 & CR4_PVI);
}

int cpu_cli(struct cpu *cpu)
{
    if (cpu->cpl <= cpu_iopl(cpu))
        cpu->rflags &= ~(uint64_t)FLAG_IF;
    else if (virtual_if(cpu))
        cpu->rflags &= ~(uint64_t)EFLAGS_VIF;
    else
        return fault_gp(cpu, 0);
    return done(cpu);
}

int cpu_sti(struct cpu *cpu)
{
    if (cpu->cpl <= cpu_iopl(cpu)) {
        if (!(cpu->rflags & FLAG_IF))
            cpu->interrupt_shadow = true;
        cpu->rflags |= FLAG_IF;
    } else if (virtual_if(cpu) && !(cpu->rflags & EFLAGS_VIP)) {
        cpu->rflags |= EFLAGS_VIF;
    } else {
        return fault_gp(cpu, 0);
    }
    return done(cpu);
}

int cpu_clac_stac(struct cpu *cpu, bool ac)
{
    if (cpu->cpl || !cpu_model_has_smap(cpu->model))
        return cpu_raise_fault(cpu, VECTOR_UD);
    cpu->rflags = ac ? cpu->rflags | EFLAGS_AC : cpu->rflags & ~(uint64_t)EFLAGS_AC;
    notify_mode_changed(cpu);
    return done(cpu);
}
