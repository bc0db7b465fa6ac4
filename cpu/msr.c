/* SPDX-License-Identifier: MIT */
/* Model-specific registers, the time-stamp counter and performance counters. SDM vol. 4, table 2-2; AMD APM vol. 2,
 * appendix A. An unknown register gives #GP(0), as on the hardware, and a line in the log. */
#include "cpu/internal.h"

#include "devices/log.h"

enum msr {
    MSR_P5_MC_ADDR = 0x0,
    MSR_P5_MC_TYPE = 0x1,
    MSR_TSC = 0x10,
    MSR_PLATFORM_ID = 0x17,
    MSR_APIC_BASE = 0x1b,
    MSR_EBL_CR_POWERON = 0x2a,
    MSR_FEATURE_CONTROL = 0x3a,
    MSR_UCODE_WRITE = 0x79,
    MSR_UCODE_REV = 0x8b,
    MSR_PLATFORM_INFO = 0xce,
    MSR_MTRRCAP = 0xfe,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_MCG_CAP = 0x179,
    MSR_MCG_STATUS = 0x17a,
    MSR_PERF_STATUS = 0x198,
    MSR_PERF_CTL = 0x199,
    MSR_MISC_ENABLE = 0x1a0,
    MSR_DEBUGCTL = 0x1d9,
    MSR_LAST_BRANCH = 0x1db,
    MSR_LAST_INT_TO = 0x1de,
    MSR_MTRR_PHYS = 0x200,
    MSR_MTRR_PHYS_END = 0x20f,
    MSR_PAT = 0x277,
    MSR_MTRR_DEF_TYPE = 0x2ff,
    MSR_TSC_DEADLINE = 0x6e0
};
#define MSR_EFER 0xc0000080u
#define MSR_STAR 0xc0000081u
#define MSR_LSTAR 0xc0000082u
#define MSR_CSTAR 0xc0000083u
#define MSR_SFMASK 0xc0000084u
#define MSR_FS_BASE 0xc0000100u
#define MSR_GS_BASE 0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX 0xc0000103u
/* AMD */
#define MSR_SYSCFG 0xc0010010u
#define MSR_HWCR 0xc0010015u
#define MSR_TOP_MEM 0xc001001au
#define MSR_TOP_MEM2 0xc001001du
#define MSR_NB_CFG 0xc001001fu
#define MSR_PATCH_LOADER 0xc0010020u
#define MSR_INT_PENDING 0xc0010055u
#define MSR_MMIO_CONF_BASE 0xc0010058u
#define MSR_VM_CR 0xc0010114u
#define MSR_LS_CFG 0xc0011020u
#define MSR_IC_CFG 0xc0011021u
#define MSR_DC_CFG 0xc0011022u
#define MSR_BU_CFG 0xc0011023u
#define MSR_DE_CFG 0xc0011029u
#define MSR_BU_CFG2 0xc001102au

enum { MSR_OK, MSR_UNKNOWN, MSR_REFUSED };

/* RDCL_NO, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, GDS_NO,
 * RFDS_NO; cpuid.c says why this is true. */
#define ARCH_CAPABILITIES                                                                                              \
    (1u << 0 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 13 | 1u << 14 | 1u << 15 | 1u << 26 | 1u << 27)
#define MTRRCAP (8u | 1u << 8 | 1u << 10) /* eight variable ranges, fixed ranges, write combining */

/* ---- MTRRs and PAT: they are kept and checked; memory here has one type ---- */

static bool memory_type_ok(unsigned type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

static uint64_t *mtrr_fixed(struct cpu *cpu, uint32_t n)
{
    if (n == 0x250)
        return &cpu->msr.mtrr_fixed[0];
    if (n == 0x258 || n == 0x259)
        return &cpu->msr.mtrr_fixed[n - 0x258 + 1];
    if (n >= 0x268 && n <= 0x26f)
        return &cpu->msr.mtrr_fixed[n - 0x268 + 3];
    return NULL;
}

static bool types_ok(uint64_t value, bool pat)
{
    for (unsigned i = 0; i < 64; i += 8) {
        unsigned type = value >> i & 0xff;
        if (!memory_type_ok(type) && !(pat && type == 7))
            return false;
    }
    return true;
}

static bool mtrr_phys_ok(const struct cpu *cpu, uint32_t n, uint64_t value)
{
    if (value >> cpu->mmu.phys_bits)
        return false;
    if (n & 1) /* mask: valid bit 11 */
        return !(value & 0x7ff);
    return !(value & 0xf00) && memory_type_ok(value & 0xff);
}

static int write_memory_types(struct cpu *cpu, uint32_t n, uint64_t value)
{
    uint64_t *fixed = mtrr_fixed(cpu, n);
    if (fixed) {
        if (!types_ok(value, false))
            return MSR_REFUSED;
        *fixed = value;
        return MSR_OK;
    }
    if (n >= MSR_MTRR_PHYS && n <= MSR_MTRR_PHYS_END) {
        if (!mtrr_phys_ok(cpu, n, value))
            return MSR_REFUSED;
        cpu->msr.mtrr_phys[n - MSR_MTRR_PHYS] = value;
        return MSR_OK;
    }
    if (n == MSR_MTRR_DEF_TYPE) {
        if ((value & ~0xcffull) || !memory_type_ok(value & 0xff))
            return MSR_REFUSED;
        cpu->msr.mtrr_def_type = value;
        return MSR_OK;
    }
    if (n == MSR_PAT) {
        if (!types_ok(value, true))
            return MSR_REFUSED;
        cpu->msr.pat = value;
        return MSR_OK;
    }
    return n == MSR_MTRRCAP ? MSR_REFUSED : MSR_UNKNOWN;
}

static int read_memory_types(struct cpu *cpu, uint32_t n, uint64_t *value)
{
    const uint64_t *fixed = mtrr_fixed(cpu, n);
    if (fixed)
        *value = *fixed;
    else if (n >= MSR_MTRR_PHYS && n <= MSR_MTRR_PHYS_END)
        *value = cpu->msr.mtrr_phys[n - MSR_MTRR_PHYS];
    else if (n == MSR_MTRR_DEF_TYPE)
        *value = cpu->msr.mtrr_def_type;
    else if (n == MSR_PAT)
        *value = cpu->msr.pat;
    else if (n == MSR_MTRRCAP)
        *value = MTRRCAP;
    else
        return MSR_UNKNOWN;
    return MSR_OK;
}

/* ---- EFER, system call registers, bases ---- */

static int write_efer(struct cpu *cpu, uint64_t value)
{
    uint64_t old = cpu->mmu.efer;
    if (value & ~cpu_model_efer_mask(cpu->model))
        return MSR_REFUSED;
    if (((value ^ old) & EFER_LME) && (cpu->mmu.cr0 & CR0_PG))
        return MSR_REFUSED;
    value = (value & ~(uint64_t)EFER_LMA) | (old & EFER_LMA);
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0, cpu->mmu.cr4, value);
    notify_mode_changed(cpu);
    return MSR_OK;
}

static int write_base(struct cpu *cpu, uint64_t *base, uint64_t value)
{
    if (!canonical(value))
        return MSR_REFUSED;
    bool flatness = !*base != !value;
    *base = value;
    if (flatness)
        notify_mode_changed(cpu);
    return MSR_OK;
}

static int write_canonical(uint64_t *reg, uint64_t value)
{
    if (!canonical(value))
        return MSR_REFUSED;
    *reg = value;
    return MSR_OK;
}

static int write_long_mode(struct cpu *cpu, uint32_t n, uint64_t value)
{
    switch (n) {
    case MSR_STAR:
        cpu->msr.star = value;
        return MSR_OK;
    case MSR_LSTAR:
        return write_canonical(&cpu->msr.lstar, value);
    case MSR_CSTAR:
        return write_canonical(&cpu->msr.cstar, value);
    case MSR_SFMASK:
        cpu->msr.sfmask = (uint32_t)value;
        return MSR_OK;
    case MSR_FS_BASE:
        return write_base(cpu, &cpu->seg[SEG_FS].base, value);
    case MSR_GS_BASE:
        return write_base(cpu, &cpu->seg[SEG_GS].base, value);
    case MSR_KERNEL_GS_BASE:
        return write_canonical(&cpu->msr.kernel_gs_base, value);
    }
    return MSR_UNKNOWN;
}

static int read_long_mode(struct cpu *cpu, uint32_t n, uint64_t *value)
{
    switch (n) {
    case MSR_STAR:
        *value = cpu->msr.star;
        return MSR_OK;
    case MSR_LSTAR:
        *value = cpu->msr.lstar;
        return MSR_OK;
    case MSR_CSTAR:
        *value = cpu->msr.cstar;
        return MSR_OK;
    case MSR_SFMASK:
        *value = cpu->msr.sfmask;
        return MSR_OK;
    case MSR_FS_BASE:
        *value = cpu->seg[SEG_FS].base;
        return MSR_OK;
    case MSR_GS_BASE:
        *value = cpu->seg[SEG_GS].base;
        return MSR_OK;
    case MSR_KERNEL_GS_BASE:
        *value = cpu->msr.kernel_gs_base;
        return MSR_OK;
    }
    return MSR_UNKNOWN;
}

/* ---- what only one vendor has ---- */

static int read_amd(struct cpu *cpu, uint32_t n, uint64_t *value)
{
    const struct memory *mem = cpu->mmu.mem;
    *value = 0;
    switch (n) {
    case MSR_HWCR:
        *value = cpu->msr.amd_hwcr;
        return MSR_OK;
    case MSR_DE_CFG:
        *value = cpu->msr.amd_de_cfg;
        return MSR_OK;
    case MSR_TOP_MEM:
        *value = mem->low_size;
        return MSR_OK;
    case MSR_TOP_MEM2:
        *value = mem->ram_size > mem->low_size ? MEMORY_4G + mem->ram_size - mem->low_size : 0;
        return MSR_OK;
    case MSR_VM_CR:
        *value = 1u << 4; /* SVMDIS */
        return MSR_OK;
    case MSR_UCODE_REV:
        *value = 0x03000027;
        return MSR_OK;
    case MSR_SYSCFG:
    case MSR_NB_CFG:
    case MSR_INT_PENDING:
    case MSR_MMIO_CONF_BASE:
    case MSR_LS_CFG:
    case MSR_IC_CFG:
    case MSR_DC_CFG:
    case MSR_BU_CFG:
    case MSR_BU_CFG2:
        return MSR_OK;
    }
    return MSR_UNKNOWN;
}

static int write_amd(struct cpu *cpu, uint32_t n, uint64_t value)
{
    switch (n) {
    case MSR_HWCR:
        cpu->msr.amd_hwcr = value | 1u << 24;
        return MSR_OK;
    case MSR_DE_CFG:
        cpu->msr.amd_de_cfg = value;
        return MSR_OK;
    case MSR_UCODE_REV:
    case MSR_PATCH_LOADER:
    case MSR_SYSCFG:
    case MSR_TOP_MEM:
    case MSR_TOP_MEM2:
    case MSR_NB_CFG:
    case MSR_INT_PENDING:
    case MSR_MMIO_CONF_BASE:
    case MSR_VM_CR:
    case MSR_LS_CFG:
    case MSR_IC_CFG:
    case MSR_DC_CFG:
    case MSR_BU_CFG:
    case MSR_BU_CFG2:
        return MSR_OK; /* chip set-up without an effect here */
    }
    return MSR_UNKNOWN;
}

static int read_intel(struct cpu *cpu, uint32_t n, uint64_t *value)
{
    uint64_t ratio = cpu_model_tsc_khz(cpu->model) / 100000;
    *value = 0;
    switch (n) {
    case MSR_FEATURE_CONTROL:
        *value = 1; /* locked, no VMX */
        return MSR_OK;
    case MSR_UCODE_REV:
        *value = 0x2full << 32;
        return MSR_OK;
    case MSR_PLATFORM_INFO:
        *value = ratio << 8 | ratio << 40;
        return MSR_OK;
    case MSR_PERF_STATUS:
        *value = ratio << 8;
        return MSR_OK;
    case MSR_ARCH_CAPABILITIES:
        *value = ARCH_CAPABILITIES;
        return MSR_OK;
    case MSR_MISC_ENABLE:
        *value = cpu->msr.misc_enable;
        return MSR_OK;
    case MSR_PLATFORM_ID:
    case MSR_EBL_CR_POWERON:
    case MSR_PERF_CTL:
        return MSR_OK;
    }
    return MSR_UNKNOWN;
}

static int write_intel(struct cpu *cpu, uint32_t n, uint64_t value)
{
    switch (n) {
    case MSR_MISC_ENABLE:
        /* fast strings and "limit CPUID" are writable */
        cpu->msr.misc_enable = (cpu->msr.misc_enable & ~0x400001ull) | (value & 0x400001);
        return MSR_OK;
    case MSR_UCODE_REV:
    case MSR_UCODE_WRITE:
    case MSR_EBL_CR_POWERON:
    case MSR_PERF_CTL:
        return MSR_OK;
    case MSR_FEATURE_CONTROL:
    case MSR_PLATFORM_ID:
    case MSR_PLATFORM_INFO:
    case MSR_PERF_STATUS:
    case MSR_ARCH_CAPABILITIES:
        return MSR_REFUSED;
    }
    return MSR_UNKNOWN;
}

/* ---- common ---- */

static int read_apic_base(struct cpu *cpu, uint64_t *value)
{
    if (!cpu->model->apic)
        return MSR_UNKNOWN;
    *value = cpu->msr.apic_base;
    if (cpu->board && cpu->board->apic_base_read) {
        cpu_fpu_park(cpu);
        *value = cpu->board->apic_base_read(cpu->board->opaque);
        cpu_fpu_unpark(cpu);
    }
    return MSR_OK;
}

static int write_apic_base(struct cpu *cpu, uint64_t value)
{
    if (!cpu->model->apic)
        return MSR_UNKNOWN;
    if ((value >> cpu->mmu.phys_bits) || (value & 0x6ff)) /* bit 10: x2APIC, not in the model */
        return MSR_REFUSED;
    if (cpu->board && cpu->board->apic_base_write) {
        cpu_fpu_unload(cpu);
        if (cpu->board->apic_base_write(cpu->board->opaque, value))
            return MSR_REFUSED;
    }
    cpu->msr.apic_base = value;
    return MSR_OK;
}

/* ---- the TSC and the deadline on it ---- */

static int read_tsc_deadline(struct cpu *cpu, uint64_t *value)
{
    if (!cpu->model->tsc_deadline)
        return MSR_UNKNOWN;
    *value = cpu->msr.tsc_deadline;
    if (cpu->board && cpu->board->tsc_deadline_read) {
        cpu_fpu_park(cpu);
        *value = cpu->board->tsc_deadline_read(cpu->board->opaque);
        cpu_fpu_unpark(cpu);
    }
    return MSR_OK;
}

static int write_tsc_deadline(struct cpu *cpu, uint64_t value)
{
    if (!cpu->model->tsc_deadline)
        return MSR_UNKNOWN;
    cpu->msr.tsc_deadline = value;
    if (cpu->board && cpu->board->tsc_deadline) {
        cpu_fpu_park(cpu);
        cpu->board->tsc_deadline(cpu->board->opaque, value);
        cpu_fpu_unpark(cpu);
    }
    return MSR_OK;
}

/* A deadline that waits moves with it. */
static int write_tsc(struct cpu *cpu, uint64_t value)
{
    uint64_t deadline = 0;
    read_tsc_deadline(cpu, &deadline);
    cpu->tsc_offset = value - cpu_base_tsc(cpu);
    if (deadline)
        write_tsc_deadline(cpu, deadline);
    return MSR_OK;
}

static int read_common(struct cpu *cpu, uint32_t n, uint64_t *value)
{
    *value = 0;
    switch (n) {
    case MSR_TSC:
        *value = cpu_base_tsc(cpu) + cpu->tsc_offset;
        return MSR_OK;
    case MSR_TSC_DEADLINE:
        return read_tsc_deadline(cpu, value);
    case MSR_APIC_BASE:
        return read_apic_base(cpu, value);
    case MSR_SYSENTER_CS:
        *value = cpu->msr.sysenter_cs;
        return MSR_OK;
    case MSR_SYSENTER_ESP:
        *value = cpu->msr.sysenter_esp;
        return MSR_OK;
    case MSR_SYSENTER_EIP:
        *value = cpu->msr.sysenter_eip;
        return MSR_OK;
    case MSR_MCG_STATUS:
        *value = cpu->msr.mcg_status;
        return MSR_OK;
    case MSR_EFER:
        *value = cpu->mmu.efer;
        return cpu_model_efer_mask(cpu->model) ? MSR_OK : MSR_UNKNOWN;
    case MSR_TSC_AUX:
        *value = cpu->msr.tsc_aux;
        return cpu_model_has_rdtscp(cpu->model) ? MSR_OK : MSR_UNKNOWN;
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_MCG_CAP: /* no banks */
    case MSR_DEBUGCTL:
        return MSR_OK;
    }
    return n >= MSR_LAST_BRANCH && n <= MSR_LAST_INT_TO ? MSR_OK : MSR_UNKNOWN;
}

static int write_common(struct cpu *cpu, uint32_t n, uint64_t value)
{
    switch (n) {
    case MSR_TSC:
        return write_tsc(cpu, value);
    case MSR_TSC_DEADLINE:
        return write_tsc_deadline(cpu, value);
    case MSR_APIC_BASE:
        return write_apic_base(cpu, value);
    case MSR_SYSENTER_CS:
        cpu->msr.sysenter_cs = (uint32_t)value;
        return MSR_OK;
    case MSR_SYSENTER_ESP:
        return write_canonical(&cpu->msr.sysenter_esp, cpu->wide ? value : (uint32_t)value);
    case MSR_SYSENTER_EIP:
        return write_canonical(&cpu->msr.sysenter_eip, cpu->wide ? value : (uint32_t)value);
    case MSR_MCG_STATUS:
        if (value)
            return MSR_REFUSED;
        cpu->msr.mcg_status = 0;
        return MSR_OK;
    case MSR_EFER:
        return cpu_model_efer_mask(cpu->model) ? write_efer(cpu, value) : MSR_UNKNOWN;
    case MSR_TSC_AUX:
        if (!cpu_model_has_rdtscp(cpu->model))
            return MSR_UNKNOWN;
        cpu->msr.tsc_aux = (uint32_t)value;
        return MSR_OK;
    case MSR_P5_MC_ADDR:
    case MSR_P5_MC_TYPE:
    case MSR_DEBUGCTL: /* no branch records and no single-step on branches: reads back 0 */
        return MSR_OK;
    case MSR_MCG_CAP:
        return MSR_REFUSED;
    }
    return MSR_UNKNOWN;
}

static int refuse(struct cpu *cpu, int why, const char *what, uint32_t n)
{
    if (why == MSR_UNKNOWN && log_enabled[LOG_GUEST_ERROR]) {
        cpu_fpu_unload(cpu);
        log_write(LOG_GUEST_ERROR, "cpu: %s of unknown MSR %08x at %llx", what, n, (unsigned long long)cpu->rip);
    }
    return fault_gp(cpu, 0);
}

int cpu_rdmsr(struct cpu *cpu)
{
    uint32_t n = (uint32_t)cpu->gpr[GPR_CX];
    uint64_t value = 0;
    if (cpu->cpl)
        return fault_gp(cpu, 0);
    int r = read_common(cpu, n, &value);
    if (r == MSR_UNKNOWN)
        r = read_memory_types(cpu, n, &value);
    if (r == MSR_UNKNOWN && cpu->wide)
        r = read_long_mode(cpu, n, &value);
    if (r == MSR_UNKNOWN)
        r = cpu->model->amd ? read_amd(cpu, n, &value) : read_intel(cpu, n, &value);
    if (r != MSR_OK)
        return refuse(cpu, r, "read", n);
    cpu->gpr[GPR_AX] = (uint32_t)value;
    cpu->gpr[GPR_DX] = value >> 32;
    return done(cpu);
}

int cpu_wrmsr(struct cpu *cpu)
{
    uint32_t n = (uint32_t)cpu->gpr[GPR_CX];
    uint64_t value = (uint32_t)cpu->gpr[GPR_AX] | cpu->gpr[GPR_DX] << 32;
    if (cpu->cpl)
        return fault_gp(cpu, 0);
    int r = write_common(cpu, n, value);
    if (r == MSR_UNKNOWN)
        r = write_memory_types(cpu, n, value);
    if (r == MSR_UNKNOWN && cpu->wide)
        r = write_long_mode(cpu, n, value);
    if (r == MSR_UNKNOWN)
        r = cpu->model->amd ? write_amd(cpu, n, value) : write_intel(cpu, n, value);
    return r == MSR_OK ? done(cpu) : refuse(cpu, r, "write", n);
}

int cpu_rdtsc(struct cpu *cpu, bool with_aux)
{
    if ((cpu->mmu.cr4 & CR4_TSD) && cpu->cpl)
        return fault_gp(cpu, 0);
    uint64_t tsc = cpu_base_tsc(cpu) + cpu->tsc_offset;
    cpu->gpr[GPR_AX] = (uint32_t)tsc;
    cpu->gpr[GPR_DX] = tsc >> 32;
    if (with_aux)
        cpu->gpr[GPR_CX] = (uint32_t)cpu->msr.tsc_aux;
    return done(cpu);
}

int cpu_rdpmc(struct cpu *cpu)
{
    return fault_gp(cpu, 0); /* no counter has a valid number */
}
