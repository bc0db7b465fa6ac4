/* SPDX-License-Identifier: MIT */
/* Life cycle of a vCPU: creation, power-up and INIT state (SDM vol. 3, table 10-1), and the register dump. */
#include "cpu/internal.h"

#include <stdio.h>

static void reset_segments(struct cpu *cpu)
{
    uint32_t data = SEG_P | SEG_S | SEG_W | SEG_A;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){.limit = 0xffff, .attr = data};
    cpu->seg[SEG_CS].selector = 0xf000;
    cpu->seg[SEG_CS].base = 0xffff0000;
    cpu->ldtr = (struct segment){.limit = 0xffff, .attr = SEG_P | SYS_LDT};
    cpu->tr = (struct segment){.limit = 0xffff, .attr = SEG_P | SYS_TSS32_BUSY};
    cpu->gdtr = cpu->idtr = (struct table_register){.limit = 0xffff};
}

/* What both kinds of reset set. */
static void reset_common(struct cpu *cpu, uint64_t cr0)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = 0;
    cpu->gpr[GPR_DX] = cpu->model ? cpu_model_signature(cpu->model) : 0;
    cpu->rip = cpu->next_rip = 0xfff0;
    cpu->rflags = EFLAGS_FIXED;
    cpu->cpl = 0;
    cpu->interrupt_shadow = cpu->halted = cpu->shutdown = cpu->nmi_blocked = cpu->smm = false;
    reset_segments(cpu);
    cpu->cr2 = 0;
    cpu->cr8 = 0;
    for (unsigned i = 0; i < 4; i++)
        cpu->dr[i] = 0;
    cpu->dr[6] = 0xffff0ff0;
    cpu->dr[7] = 0x400;
    cpu->fault = (struct cpu_fault){0};
    mmu_set_paging(&cpu->mmu, cr0, 0, 0);
    mmu_set_cr3(&cpu->mmu, 0);
    mmu_flush(&cpu->mmu, true);
}

static void reset_fpu(struct cpu *cpu)
{
    static const uint16_t fcw = 0x0040;
    static const uint32_t mxcsr = 0x1f80;
    cpu_fpu_unload(cpu);
    for (unsigned i = 0; i < CPU_XSAVE_SIZE; i++)
        cpu->xsave[i] = 0;
    __builtin_memcpy(cpu->xsave, &fcw, 2);
    cpu->xsave[4] = 0xff; /* abridged tag word: 5555h, every register holds +0.0 */
    __builtin_memcpy(cpu->xsave + 24, &mxcsr, 4);
    cpu->xsave[512] = 3; /* XSTATE_BV: x87 and SSE are in the image */
    cpu->xcr0 = 1;
}

static void reset_msrs(struct cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->msr.mtrr_phys[i] = 0;
    for (unsigned i = 0; i < 11; i++)
        cpu->msr.mtrr_fixed[i] = 0;
    cpu->msr.mtrr_def_type = 0;
    cpu->msr.sysenter_cs = cpu->msr.sysenter_esp = cpu->msr.sysenter_eip = 0;
    cpu->msr.star = cpu->msr.lstar = cpu->msr.cstar = cpu->msr.sfmask = cpu->msr.kernel_gs_base = 0;
    cpu->msr.tsc_aux = cpu->msr.mcg_status = cpu->msr.tsc_deadline = 0;
    cpu->msr.pat = 0x0007040600070406ull;
    cpu->msr.misc_enable = 1u << 0 | 1u << 11 | 1u << 12; /* fast strings; no BTS, no PEBS */
    cpu->msr.apic_base = 0xfee00800u | (cpu->index ? 0 : 1u << 8);
    cpu->msr.amd_hwcr = 1u << 24;  /* the TSC counts at the P0 rate */
    cpu->msr.amd_de_cfg = 1u << 1; /* LFENCE is dispatch serializing */
    cpu->tsc_offset = 0 - cpu_base_tsc(cpu);
}

void cpu_reset(struct cpu *cpu)
{
    reset_fpu(cpu);
    reset_common(cpu, CR0_CD | CR0_NW | CR0_ET);
    reset_msrs(cpu);
    atomic_fetch_and(&cpu->events, ~(uint32_t)(CPU_EVENT_NMI | CPU_EVENT_SMI | CPU_EVENT_INIT));
    notify_mode_changed(cpu);
}

void cpu_reset_by_init(struct cpu *cpu)
{
    /* INIT keeps the caches' state, the x87 and vector state, the TSC and most MSRs. */
    reset_common(cpu, (cpu->mmu.cr0 & (CR0_CD | CR0_NW)) | CR0_ET);
    notify_mode_changed(cpu);
}

int cpu_init(struct cpu *cpu, struct memory *mem, const struct cpu_model *model, const struct cpu_board *board,
             unsigned index)
{
    *cpu = (struct cpu){.model = model, .board = board, .index = index, .wide = model->long_mode};
    int err = mmu_init(&cpu->mmu, mem, model->long_mode, model->phys_bits);
    if (err)
        return err;
    cpu_reset(cpu);
    return 0;
}

void cpu_destroy(struct cpu *cpu)
{
    cpu_fpu_unload(cpu);
    mmu_destroy(&cpu->mmu);
}

/* ---- dump ---- */

struct text {
    char *buf;
    size_t len, used;
};

static __attribute__((format(printf, 2, 3))) void put(struct text *t, const char *fmt, ...)
{
    __builtin_va_list ap;
    if (t->used >= t->len)
        return;
    __builtin_va_start(ap, fmt);
    int n = vsnprintf(t->buf + t->used, t->len - t->used, fmt, ap);
    __builtin_va_end(ap);
    if (n > 0)
        t->used += (size_t)n;
}

static void put_segment(struct text *t, const char *name, const struct segment *s)
{
    put(t, "%-4s %04x base %016llx limit %08x attr %05x%s\n", name, s->selector, (unsigned long long)s->base, s->limit,
        s->attr & 0xffff, s->attr & SEG_UNUSABLE ? " unusable" : "");
}

static void put_code(struct text *t, const struct cpu *cpu)
{
    struct mmu *mmu = (struct mmu *)&cpu->mmu; /* a probe changes nothing */
    uint64_t at = cpu->rip + (cpu_code64(cpu) ? 0 : cpu->seg[SEG_CS].base);
    put(t, "code");
    for (unsigned i = 0; i < 16; i++) {
        struct mmu_fault fault;
        gpa_t a;
        uint64_t gva = cpu_long_mode(cpu) ? at + i : (uint32_t)(at + i);
        uint8_t byte;
        if (!canonical(gva) || mmu_translate(mmu, gva, MMU_EXEC | MMU_SUPERVISOR | MMU_PROBE, &a, &fault))
            break;
        struct memory_page page = memory_page(mmu->mem, gpa_gfn(a));
        if (!page.read)
            break;
        byte = page.read[a.v & PAGE_MASK];
        put(t, " %02x", byte);
    }
    put(t, "\n");
}

void cpu_dump(const struct cpu *cpu, char *buf, size_t len)
{
    static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                        "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const segments[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct text t = {.buf = buf, .len = len};
    if (len)
        buf[0] = 0;
    for (unsigned i = 0; i < (cpu->wide ? 16u : 8u); i++)
        put(&t, "%-3s %016llx%s", names[i], (unsigned long long)cpu->gpr[i], i % 4 == 3 ? "\n" : "  ");
    put(&t, "rip %016llx  rflags %08llx  cpl %u%s%s%s\n", (unsigned long long)cpu->rip, (unsigned long long)cpu->rflags,
        cpu->cpl, cpu->halted ? "  halted" : "", cpu->shutdown ? "  shutdown" : "",
        cpu_real_mode(cpu)   ? "  real mode"
        : cpu_v8086(cpu)     ? "  virtual-8086 mode"
        : cpu_code64(cpu)    ? "  64-bit mode"
        : cpu_long_mode(cpu) ? "  compatibility mode"
                             : "  protected mode");
    for (unsigned i = 0; i < SEG_COUNT; i++)
        put_segment(&t, segments[i], &cpu->seg[i]);
    put_segment(&t, "ldtr", &cpu->ldtr);
    put_segment(&t, "tr", &cpu->tr);
    put(&t, "gdtr base %016llx limit %04x  idtr base %016llx limit %04x\n", (unsigned long long)cpu->gdtr.base,
        cpu->gdtr.limit, (unsigned long long)cpu->idtr.base, cpu->idtr.limit);
    put(&t, "cr0 %08llx  cr2 %016llx  cr3 %016llx  cr4 %08llx  efer %llx\n", (unsigned long long)cpu->mmu.cr0,
        (unsigned long long)cpu->cr2, (unsigned long long)cpu->mmu.cr3, (unsigned long long)cpu->mmu.cr4,
        (unsigned long long)cpu->mmu.efer);
    put(&t, "dr0 %llx  dr1 %llx  dr2 %llx  dr3 %llx  dr6 %08llx  dr7 %08llx\n", (unsigned long long)cpu->dr[0],
        (unsigned long long)cpu->dr[1], (unsigned long long)cpu->dr[2], (unsigned long long)cpu->dr[3],
        (unsigned long long)cpu->dr[6], (unsigned long long)cpu->dr[7]);
    put(&t, "last fault: vector %u error %x%s\n", cpu->fault.vector, cpu->fault.error,
        cpu->fault.has_error ? "" : " (none pushed)");
    put_code(&t, cpu);
}
