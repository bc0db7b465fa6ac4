/* SPDX-License-Identifier: MIT */
/* The x87, MMX, SSE and AVX state between the host's registers and struct cpu, and the checks before its use.
 * SDM vol. 1, chapter 13 (XSAVE); vol. 3, 2.5 (CR0.EM, MP, TS), tables 11-1 and 13-1, 14.3 (AVX).
 *
 * Standard (not compacted) format, so that the image is the same whether the host used FXSAVE or XSAVE. Built without
 * vector registers: everything here is inline assembly. */
#include "cpu/internal.h"

/* XSAVE components to move, 0: the host has no XSAVE. A property of the host, found once. */
static uint32_t host_components;

__attribute__((constructor)) static void probe_host(void)
{
    uint32_t a = 1, b, c = 0, d;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(c & 1u << 27))
        return;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    host_components = a & 7;
}

/* So that host code finds what the ABI promises: exceptions masked, x87 stack empty, no dirty upper halves. */
static const uint32_t host_mxcsr = 0x1f80;
enum { MXCSR_FLAGS = 0x3f };
enum { IMAGE_XSTATE_BV = 512, IMAGE_YMM_HIGH = 576, YMM_HIGH_BYTES = 256, XSTATE_AVX = 4 };

static void clean_host_state(void)
{
    if (host_components & XSTATE_AVX)
        __asm__ volatile("vzeroupper");
    __asm__ volatile("fninit\n\tldmxcsr %0" : : "m"(host_mxcsr));
}

#define PARK(op, r, n) op " %%" r #n ", 32*" #n "(%1)\n\t"
#define UNPARK(op, r, n) op " 32*" #n "(%0), %%" r #n "\n\t"
#define JOIN(op, r, n) op " %%" r #n ", %%" r "0, %%" r "0\n\t"
#define PARK_TEST "vextractf128 $1, %%ymm0, %%xmm0\n\tvptest %%xmm0, %%xmm0\n\tsetnz %0\n\tvzeroupper"
#define ALL_16(m, op, r)                                                                                               \
    m(op, r, 0) m(op, r, 1) m(op, r, 2) m(op, r, 3) m(op, r, 4) m(op, r, 5) m(op, r, 6) m(op, r, 7) m(op, r, 8)        \
        m(op, r, 9) m(op, r, 10) m(op, r, 11) m(op, r, 12) m(op, r, 13) m(op, r, 14) m(op, r, 15)

void cpu_fpu_park(struct cpu *cpu)
{
    uint32_t mxcsr;
    if (!cpu->fpu_live)
        return;
    if (host_components & XSTATE_AVX)
        __asm__ volatile(ALL_16(PARK, "vmovaps", "ymm") ALL_16(JOIN, "vorps", "ymm") PARK_TEST
                         : "=m"(cpu->parked_halves)
                         : "r"(cpu->parked)
                         : "memory", "cc");
    else
        __asm__ volatile(ALL_16(PARK, "movaps", "xmm") : "+m"(cpu->parked_halves) : "r"(cpu->parked) : "memory");
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    cpu->parked_mxcsr = mxcsr;
    if ((mxcsr & ~(uint32_t)MXCSR_FLAGS) != host_mxcsr)
        __asm__ volatile("ldmxcsr %0" : : "m"(host_mxcsr));
    cpu->fpu_live = false;
    cpu->fpu_parked = true;
}

void cpu_fpu_unpark(struct cpu *cpu)
{
    uint32_t mxcsr;
    if (!cpu->fpu_parked)
        return;
    if (cpu->parked_halves)
        __asm__ volatile(ALL_16(UNPARK, "vmovaps", "ymm") : : "r"(cpu->parked) : "memory");
    else if (host_components & XSTATE_AVX) /* and clean upper halves, see drop_clean_upper_halves */
        __asm__ volatile("vzeroupper\n\t" ALL_16(UNPARK, "movaps", "xmm") : : "r"(cpu->parked) : "memory");
    else
        __asm__ volatile(ALL_16(UNPARK, "movaps", "xmm") : : "r"(cpu->parked) : "memory");
    __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
    if (mxcsr != cpu->parked_mxcsr)
        __asm__ volatile("ldmxcsr %0" : : "m"(cpu->parked_mxcsr));
    cpu->fpu_parked = false;
    cpu->fpu_live = true;
}

void cpu_fpu_unload(struct cpu *cpu)
{
    cpu_fpu_unpark(cpu);
    if (!cpu->fpu_live)
        return;
    if (host_components)
        __asm__ volatile("xsave64 %0" : "+m"(cpu->xsave) : "a"(host_components), "d"(0) : "memory");
    else
        __asm__ volatile("fxsave64 %0" : "+m"(cpu->xsave) : : "memory");
    clean_host_state();
    cpu->fpu_live = false;
}

/* Upper halves that are all zero are left in their initial state rather than loaded: Intel's processors would take
 * loaded ones for dirty, and make every SSE instruction wait for what its destination held before (measured: a matrix
 * product twice as slow). */
static void drop_clean_upper_halves(uint8_t *image)
{
    const uint64_t *half = (const uint64_t *)(image + IMAGE_YMM_HIGH);
    uint64_t any = 0;
    if (!(image[IMAGE_XSTATE_BV] & XSTATE_AVX))
        return;
    for (unsigned i = 0; i < YMM_HIGH_BYTES / sizeof any; i++)
        any |= half[i];
    if (!any)
        image[IMAGE_XSTATE_BV] &= (uint8_t)~XSTATE_AVX;
}

void cpu_fpu_load(struct cpu *cpu)
{
    cpu_fpu_unpark(cpu);
    if (cpu->fpu_live)
        return;
    if (host_components & XSTATE_AVX)
        drop_clean_upper_halves(cpu->xsave);
    if (host_components)
        __asm__ volatile("xrstor64 %0" : : "m"(cpu->xsave), "a"(host_components), "d"(0) : "memory");
    else
        __asm__ volatile("fxrstor64 %0" : : "m"(cpu->xsave) : "memory");
    cpu->fpu_live = true;
}

/* ---- the x87 error of an earlier instruction ---- */

static uint16_t status_word(const struct cpu *cpu)
{
    uint16_t fsw;
    if (cpu->fpu_live)
        __asm__ volatile("fnstsw %0" : "=a"(fsw));
    else
        __builtin_memcpy(&fsw, cpu->xsave + 2, 2);
    return fsw;
}

/* FNINIT, FNCLEX, FNSTSW, FNSTCW, FNSTENV, FNSAVE and the 8087/287 relics do not look at pending errors. */
static bool waits(const struct insn *insn)
{
    unsigned op = insn->opcode, reg = insn->modrm_reg, rm = insn->modrm_rm;
    if (insn->map != MAP_PRIMARY || op < 0xd8 || op > 0xdf)
        return true; /* FWAIT, MMX */
    if (insn->modrm_mod != 3)
        return !((op == 0xd9 || op == 0xdd) && reg >= 6);
    if (op == 0xdb && reg == 4)
        return rm > 5;
    return !(op == 0xdf && reg == 4 && rm == 0);
}

static void drop_pending_errors(struct cpu *cpu)
{
    uint16_t fsw = status_word(cpu) & 0x7f00;
    cpu_fpu_unload(cpu);
    __builtin_memcpy(cpu->xsave + 2, &fsw, 2);
}

/* CR0.NE clear, the PC way: FERR# raises IRQ 13 and the instruction waits for an interrupt. A handler that runs with
 * interrupts off gets what IGNNE# (asserted by its write to port F0h) would give it: the errors are ignored. */
static int report_by_ferr(struct cpu *cpu)
{
    if (!cpu->board || !cpu->board->ferr) {
        drop_pending_errors(cpu);
        return CPU_OK;
    }
    cpu_fpu_unload(cpu);
    if (!(cpu->rflags & FLAG_IF)) {
        drop_pending_errors(cpu);
        return CPU_OK;
    }
    cpu->board->ferr(cpu->board->opaque, 1);
    return cpu_raise_fault(cpu, FAULT_WAIT);
}

int cpu_fpu_pending_error(struct cpu *cpu)
{
    if (!(status_word(cpu) & 0x80)) /* ES */
        return CPU_OK;
    if (cpu->mmu.cr0 & CR0_NE)
        return cpu_raise_fault(cpu, VECTOR_MF);
    return report_by_ferr(cpu);
}

/* ---- the checks ---- */

static int check_avx(struct cpu *cpu)
{
    if (!cpu_protected(cpu) || !(cpu->mmu.cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6)
        return cpu_raise_fault(cpu, VECTOR_UD);
    return cpu->mmu.cr0 & CR0_TS ? cpu_raise_fault(cpu, VECTOR_NM) : CPU_OK;
}

static int check_sse(struct cpu *cpu)
{
    if ((cpu->mmu.cr0 & CR0_EM) || !(cpu->mmu.cr4 & CR4_OSFXSR))
        return cpu_raise_fault(cpu, VECTOR_UD);
    return cpu->mmu.cr0 & CR0_TS ? cpu_raise_fault(cpu, VECTOR_NM) : CPU_OK;
}

static int check_mmx(struct cpu *cpu)
{
    if (cpu->mmu.cr0 & CR0_EM)
        return cpu_raise_fault(cpu, VECTOR_UD);
    return cpu->mmu.cr0 & CR0_TS ? cpu_raise_fault(cpu, VECTOR_NM) : CPU_OK;
}

static int check_x87(struct cpu *cpu, bool fwait)
{
    uint64_t cr0 = cpu->mmu.cr0;
    bool unavailable = fwait ? (cr0 & CR0_MP) && (cr0 & CR0_TS) : (cr0 & (CR0_EM | CR0_TS)) != 0;
    return unavailable ? cpu_raise_fault(cpu, VECTOR_NM) : CPU_OK;
}

/* 0F AE with a memory operand: fxsave, fxrstor, ldmxcsr, stmxcsr, xsave, xrstor, xsaveopt, clflush. */
static int check_state_save(struct cpu *cpu, unsigned operation)
{
    switch (operation) {
    case 0:
    case 1:
        return check_x87(cpu, false);
    case 4:
    case 5:
    case 6:
        if (!(cpu->mmu.cr4 & CR4_OSXSAVE))
            return cpu_raise_fault(cpu, VECTOR_UD);
        return cpu->mmu.cr0 & CR0_TS ? cpu_raise_fault(cpu, VECTOR_NM) : CPU_OK;
    case 2:
    case 3:
        return check_sse(cpu);
    default:
        return CPU_OK;
    }
}

int cpu_fpu_check(struct cpu *cpu, const struct insn *insn)
{
    bool fwait = insn->map == MAP_PRIMARY && insn->opcode == 0x9b && insn->encoding == ENCODING_LEGACY;
    if (insn->vex)
        return check_avx(cpu);
    if (insn->map == MAP_0F && insn->opcode == 0xae && insn->encoding == ENCODING_LEGACY && insn->modrm_mod != 3)
        return check_state_save(cpu, insn->modrm_reg);
    if (insn->vector && check_sse(cpu))
        return CPU_FAULT;
    if (insn->mmx && check_mmx(cpu))
        return CPU_FAULT;
    if ((insn->x87 || fwait) && check_x87(cpu, fwait))
        return CPU_FAULT;
    if ((insn->x87 || insn->mmx || fwait) && waits(insn))
        return cpu_fpu_pending_error(cpu);
    return CPU_OK;
}
