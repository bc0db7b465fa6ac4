/* SPDX-License-Identifier: MIT */
/* Control and debug registers, flags, ports, MSRs, CPUID, x87 availability, reset. */
#include "tests/cpu_world.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

static void control_registers(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    uint64_t v = 0, cr0 = cpu->mmu.cr0;
    ASSERT_FAULT(w, cpu_write_cr(cpu, 1, 0), VECTOR_UD, 0);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 8, 0), VECTOR_UD, 0); /* no long mode in this model */
    ASSERT_FAULT(w, cpu_write_cr(cpu, 0, CR0_PG), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 0, cr0 | CR0_NW), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 0, cr0 | CR0_MP | 1u << 28 | 1u << 7), CPU_OK);
    CU_ASSERT_EQUAL(cpu->mmu.cr0, cr0 | CR0_MP); /* reserved bits are dropped */
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 4, 1u << 13), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 4, CR4_PAE | CR4_PGE), CPU_OK);
    CU_ASSERT_EQUAL(cpu_read_cr(cpu, 4, &v), CPU_OK);
    CU_ASSERT_EQUAL(v, CR4_PAE | CR4_PGE);
    /* PAE: reserved bits in a PDPTE */
    poke(w, AT_PAGES, 0x1e6 | 1, 8);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 3, AT_PAGES), CPU_OK);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 0, cr0 | CR0_PG), VECTOR_GP, 0);
    /* lmsw cannot clear PE */
    CU_ASSERT_EQUAL(cpu_lmsw(cpu, CR0_TS), CPU_OK);
    CU_ASSERT_EQUAL(cpu->mmu.cr0 & 15, CR0_PE | CR0_TS);
    CU_ASSERT_EQUAL(cpu_clts(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->mmu.cr0 & 15, CR0_PE);
    world_destroy(w);
    w = world_protected(3);
    ASSERT_FAULT(w, cpu_read_cr(w->cpu, 0, &v), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_clts(w->cpu), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_hlt(w->cpu), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_invlpg(w->cpu, 0), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_wbinvd(w->cpu), VECTOR_GP, 0);
    world_destroy(w);
}

static void long_mode_switches(void)
{
    struct world *w = world_long(0);
    struct cpu *cpu = w->cpu;
    ASSERT_FAULT(w, cpu_write_cr(cpu, 4, 0), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 0, CR0_PE), VECTOR_GP, 0); /* from 64-bit code */
    ASSERT_FAULT(w, cpu_write_cr(cpu, 0, cpu->mmu.cr0 | 1ull << 32), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 3, 1ull << 52), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 8, 16), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 8, 5), CPU_OK);
    /* down through compatibility mode and up again */
    cpu->gpr[GPR_SP] = AT_STACK0 + 0x100;
    poke(w, AT_STACK0 + 0x100, AT_CODE, 8);
    poke(w, AT_STACK0 + 0x108, CODE0, 8);
    CU_ASSERT_EQUAL(cpu_far_ret(cpu, 8, 0), CPU_OK);
    CU_ASSERT_FALSE(cpu_code64(cpu));
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 0, cpu->mmu.cr0 & ~(uint64_t)CR0_PG), CPU_OK);
    CU_ASSERT_FALSE(cpu_long_mode(cpu));
    CU_ASSERT_TRUE(cpu->mmu.efer & EFER_LME);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 4, 0), CPU_OK);
    ASSERT_FAULT(w, cpu_write_cr(cpu, 0, cpu->mmu.cr0 | CR0_PG), VECTOR_GP, 0); /* without PAE */
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 4, CR4_PAE), CPU_OK);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 0, cpu->mmu.cr0 | CR0_PG), CPU_OK);
    CU_ASSERT_TRUE(cpu_long_mode(cpu));
    world_destroy(w);
}

static void debug_registers(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    uint64_t v = 0;
    CU_ASSERT_EQUAL(cpu_write_dr(cpu, 6, 0), CPU_OK);
    CU_ASSERT_EQUAL(cpu->dr[6], 0xffff0ff0);
    CU_ASSERT_EQUAL(cpu_write_dr(cpu, 7, 0xffffdfff), CPU_OK);
    CU_ASSERT_EQUAL(cpu->dr[7], 0xffff07ff);
    CU_ASSERT_EQUAL(cpu_read_dr(cpu, 5, &v), CPU_OK);
    CU_ASSERT_EQUAL(v, 0xffff07ff);
    CU_ASSERT_EQUAL(cpu_write_cr(cpu, 4, CR4_DE), CPU_OK);
    ASSERT_FAULT(w, cpu_read_dr(cpu, 5, &v), VECTOR_UD, 0);
    world_destroy(w);
    w = world_protected(3);
    ASSERT_FAULT(w, cpu_write_dr(w->cpu, 0, 0), VECTOR_GP, 0);
    world_destroy(w);
}

static void flags(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    uint64_t v = 0;
    ASSERT_FAULT(w, cpu_cli(cpu), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_sti(cpu), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_popf_value(cpu, 4, FLAG_IF | FLAG_CF | EFLAGS_IOPL | EFLAGS_ID | EFLAGS_VM | EFLAGS_VIF),
                    CPU_OK);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_CF | EFLAGS_ID | EFLAGS_FIXED);
    cpu->rflags |= EFLAGS_IOPL | EFLAGS_RF;
    CU_ASSERT_EQUAL(cpu_popf_value(cpu, 4, FLAG_IF), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_IF | EFLAGS_IOPL | EFLAGS_FIXED);
    CU_ASSERT_EQUAL(cpu_cli(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu_pushf_value(cpu, 4, &v), CPU_OK);
    CU_ASSERT_EQUAL(v, EFLAGS_IOPL | EFLAGS_FIXED);
    /* PVI */
    cpu->rflags &= ~(uint64_t)EFLAGS_IOPL;
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0, CR4_PVI, 0);
    CU_ASSERT_EQUAL(cpu_sti(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rflags, EFLAGS_VIF | EFLAGS_FIXED);
    CU_ASSERT_EQUAL(cpu_cli(cpu), CPU_OK);
    cpu->rflags |= EFLAGS_VIP;
    ASSERT_FAULT(w, cpu_sti(cpu), VECTOR_GP, 0);
    world_destroy(w);
    w = world_v8086(0, false);
    ASSERT_FAULT(w, cpu_pushf_value(w->cpu, 2, &v), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_popf_value(w->cpu, 2, 0), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_cli(w->cpu), VECTOR_GP, 0);
    world_destroy(w);
    w = world_v8086(0, true);
    w->cpu->rflags |= FLAG_IF;
    CU_ASSERT_EQUAL(cpu_pushf_value(w->cpu, 2, &v), CPU_OK);
    CU_ASSERT_EQUAL(v, EFLAGS_IOPL | EFLAGS_FIXED); /* IF shows VIF */
    ASSERT_FAULT(w, cpu_pushf_value(w->cpu, 4, &v), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_sti(w->cpu), CPU_OK);
    CU_ASSERT_TRUE(w->cpu->rflags & EFLAGS_VIF);
    world_destroy(w);
    w = world_real();
    w->cpu->next_rip = 1;
    CU_ASSERT_EQUAL(cpu_sti(w->cpu), CPU_OK);
    CU_ASSERT_TRUE(w->cpu->interrupt_shadow);
    w->cpu->interrupt_shadow = false;
    CU_ASSERT_EQUAL(cpu_sti(w->cpu), CPU_OK);
    CU_ASSERT_FALSE(w->cpu->interrupt_shadow); /* IF was set already */
    world_destroy(w);
}

static void ports(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    for (unsigned i = 0; i < 0x300; i += 4)
        poke(w, AT_TSS + 0x88 + i, 0, 4);
    cpu->gpr[GPR_AX] = 0x1122334455667788;
    w->port_value = 0xaabbccdd;
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x60, 1), CPU_OK);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_AX], 0x11223344556677dd);
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x60, 2), CPU_OK);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_AX], 0x112233445566ccdd);
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x60, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_AX], 0xaabbccdd);
    CU_ASSERT_EQUAL(cpu_out(cpu, 0x80, 1), CPU_OK);
    CU_ASSERT_EQUAL(w->port_value, 0xdd);
    poke(w, AT_TSS + 0x88 + 8, 0x80, 1); /* port 47h */
    ASSERT_FAULT(w, cpu_in(cpu, 0x47, 1), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_in(cpu, 0x46, 2), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_in(cpu, 0x44, 4), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x46, 1), CPU_OK);
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x48, 4), CPU_OK);
    poke(w, AT_TSS + 0x88 + 9, 1, 1); /* port 48h, by a map byte further on */
    ASSERT_FAULT(w, cpu_in(cpu, 0x46, 4), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_in(cpu, 0xffff, 1), VECTOR_GP, 0); /* beyond the TSS */
    uint32_t last = (0x3ff - 0x88) * 8;                    /* its second map byte would be outside */
    ASSERT_FAULT(w, cpu_in(cpu, (uint16_t)last, 1), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_in(cpu, (uint16_t)(last - 8), 1), CPU_OK);
    cpu->rflags |= EFLAGS_IOPL;
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x47, 1), CPU_OK);
    cpu->tr.attr = SEG_P | 3;
    cpu->rflags &= ~(uint64_t)EFLAGS_IOPL;
    ASSERT_FAULT(w, cpu_in(cpu, 0x60, 1), VECTOR_GP, 0); /* 16-bit TSSs have no map */
    world_destroy(w);
    w = world_v8086(3, false);
    poke(w, AT_TSS + 0x88 + 8, 0x80, 1);
    ASSERT_FAULT(w, cpu_in(w->cpu, 0x47, 1), VECTOR_GP, 0); /* IOPL does not help in v8086 mode */
    world_destroy(w);
}

static void io_breakpoints(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    world_idt(w, VECTOR_DB, CODE0, 0x7777, GATE_INT32);
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0, CR4_DE, 0);
    cpu->dr[1] = 0x64;
    cpu->dr[7] = 0x400 | 1 << 2 | 2 << 20; /* L1, I/O, one byte */
    CU_ASSERT_EQUAL(cpu_in(cpu, 0x60, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(cpu_out(cpu, 0x62, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0x7777);
    CU_ASSERT_EQUAL(cpu->dr[6] & 15, 2);
    world_destroy(w);
}

static int wrmsr(struct world *w, uint32_t n, uint64_t value)
{
    w->cpu->gpr[GPR_CX] = n;
    w->cpu->gpr[GPR_AX] = (uint32_t)value;
    w->cpu->gpr[GPR_DX] = value >> 32;
    return cpu_wrmsr(w->cpu);
}

static uint64_t rdmsr(struct world *w, uint32_t n)
{
    w->cpu->gpr[GPR_CX] = n;
    CU_ASSERT_EQUAL(cpu_rdmsr(w->cpu), CPU_OK);
    return w->cpu->gpr[GPR_AX] | w->cpu->gpr[GPR_DX] << 32;
}

static bool refused(struct world *w, uint32_t n, uint64_t value)
{
    return wrmsr(w, n, value) == CPU_FAULT && w->cpu->fault.vector == VECTOR_GP && !w->cpu->fault.error;
}

static void msrs(void)
{
    struct world *w = world_protected(0);
    CU_ASSERT_EQUAL(wrmsr(w, 0x174, 0x60), CPU_OK);
    CU_ASSERT_EQUAL(rdmsr(w, 0x174), 0x60);
    CU_ASSERT_EQUAL(rdmsr(w, 0x277), 0x0007040600070406ull);
    CU_ASSERT_TRUE(refused(w, 0x277, 2));
    CU_ASSERT_EQUAL(wrmsr(w, 0x277, 0x0106070501040600ull), CPU_OK);
    CU_ASSERT_EQUAL(rdmsr(w, 0xfe), 0x508);
    CU_ASSERT_EQUAL(wrmsr(w, 0x200, 0x80000006), CPU_OK);
    CU_ASSERT_TRUE(refused(w, 0x200, 2));
    CU_ASSERT_TRUE(refused(w, 0x201, 1ull << 50));
    CU_ASSERT_EQUAL(wrmsr(w, 0x20f, 0x800), CPU_OK);
    CU_ASSERT_TRUE(refused(w, 0x210, 0));
    CU_ASSERT_EQUAL(wrmsr(w, 0x26f, 0x0606060606060606), CPU_OK);
    CU_ASSERT_EQUAL(rdmsr(w, 0x26f), 0x0606060606060606);
    CU_ASSERT_TRUE(refused(w, 0x250, 0x07));
    CU_ASSERT_EQUAL(wrmsr(w, 0x2ff, 0xc06), CPU_OK);
    CU_ASSERT_TRUE(refused(w, 0x2ff, 0x1000));
    CU_ASSERT_TRUE(refused(w, 0x12345678, 0));
    CU_ASSERT_TRUE(refused(w, 0xc0000080, EFER_LME)); /* long mode is hidden */
    CU_ASSERT_TRUE(refused(w, 0xc0000082, 0));
    CU_ASSERT_EQUAL(wrmsr(w, 0xc0000080, EFER_NXE), CPU_OK);
    CU_ASSERT_EQUAL(wrmsr(w, 0x10, 1ull << 40), CPU_OK);
    CU_ASSERT_TRUE(rdmsr(w, 0x10) - (1ull << 40) < 10000000000ull);
    w->cpu->cpl = 3;
    CU_ASSERT_TRUE(refused(w, 0x174, 0));
    mmu_set_paging(&w->cpu->mmu, w->cpu->mmu.cr0, CR4_TSD, 0);
    ASSERT_FAULT(w, cpu_rdtsc(w->cpu, false), VECTOR_GP, 0);
    world_destroy(w);
    w = world_long(0);
    CU_ASSERT_TRUE(refused(w, 0xc0000080, EFER_SCE)); /* LME with paging on */
    CU_ASSERT_TRUE(refused(w, 0xc0000082, 0x800000000000));
    CU_ASSERT_TRUE(refused(w, 0xc0000101, 0x800000000000));
    CU_ASSERT_EQUAL(wrmsr(w, 0xc0000100, 0xffff800000001000), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->seg[SEG_FS].base, 0xffff800000001000);
    world_destroy(w);
}

static void cpuid_is_consistent(void)
{
    for (int wide = 0; wide < 2; wide++) {
        struct cpu_model m;
        uint32_t r[4], x[4];
        char brand[49] = {0};
        cpu_model_init(&m, wide, false);
        cpu_model_leaf(&m, 0, 0, 0, 0, 0, r);
        CU_ASSERT_TRUE(!memcmp(&r[1], m.amd ? "AuthcAMDenti" : "GenuntelineI", 12));
        cpu_model_leaf(&m, 1, 0, 0, 1, 3, r);
        CU_ASSERT_EQUAL(r[1] >> 24, 3);
        CU_ASSERT_EQUAL(r[3], 0x078bf9ff);
        CU_ASSERT_TRUE(r[3] & 1 << 15);   /* CMOV: Debian's 686 kernels */
        CU_ASSERT_FALSE(r[3] & 1 << 9);   /* no APIC */
        CU_ASSERT_FALSE(r[2] & 1u << 31); /* no hypervisor */
        CU_ASSERT_FALSE(r[2] & 1 << 27);  /* OSXSAVE follows CR4 */
        CU_ASSERT_FALSE(r[2] & (1 << 3 | 1 << 5 | 1 << 21 | 1 << 24));
        if (r[2] & 1 << 26) {
            cpu_model_leaf(&m, 1, 0, CR4_OSXSAVE, 1, 0, x);
            CU_ASSERT_TRUE(x[2] & 1 << 27);
            cpu_model_leaf(&m, 0xd, 0, 0, 1, 0, x);
            CU_ASSERT_EQUAL(x[0], m.xcr0_mask);
            CU_ASSERT_EQUAL(x[1], 576);
            CU_ASSERT_TRUE(x[2] <= CPU_XSAVE_SIZE);
        }
        CU_ASSERT_EQUAL(m.avx, (r[2] >> 28 & 1));
        cpu_model_leaf(&m, 0x80000001, 0, 0, 1, 0, x);
        CU_ASSERT_EQUAL(x[3] >> 29 & 1, wide);
        CU_ASSERT_EQUAL(x[3] >> 11 & 1, wide);
        CU_ASSERT_EQUAL(r[2] >> 17 & 1 & !wide, 0);
        cpu_model_leaf(&m, 0x80000008, 0, 0, 1, 0, x);
        CU_ASSERT_EQUAL(x[0], m.phys_bits | (wide ? 48 : 32) << 8);
        for (unsigned i = 0; i < 3; i++)
            cpu_model_leaf(&m, 0x80000002 + i, 0, 0, 1, 0, (uint32_t *)(void *)(brand + i * 16));
        CU_ASSERT_STRING_EQUAL(brand, "ringfold virtual CPU");
        CU_ASSERT_TRUE(cpu_model_tsc_khz(&m) > 100000);
        for (uint32_t khz = 1000000; khz < 4200000; khz += 9991) { /* as Linux computes it, in 32 bits */
            m.tsc_khz = khz;
            cpu_model_leaf(&m, 0x15, 0, 0, 1, 0, x);
            uint32_t product = x[2] / 1000 * x[1];
            CU_ASSERT_TRUE(abs((int)(product / x[0] - khz)) <= (int)(khz / 500000 + 1));
        }
    }
}

static void cpuid_instruction(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    cpu->gpr[GPR_AX] = 0xffffffff00000001;
    cpu->gpr[GPR_BX] = ~0ull;
    CU_ASSERT_EQUAL(cpu_cpuid(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_AX], w->model.amd ? 0x300f10 : 0x206a7);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_BX] >> 32, 0);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    world_destroy(w);
}

static void xcr0(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    if (!w->model.xcr0_mask) {
        world_destroy(w);
        test_skip("no XSAVE on this host");
        return;
    }
    cpu->gpr[GPR_CX] = 0;
    ASSERT_FAULT(w, cpu_xgetbv(cpu), VECTOR_UD, 0);
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0, CR4_OSXSAVE, 0);
    cpu->gpr[GPR_AX] = 3;
    cpu->gpr[GPR_DX] = 0;
    CU_ASSERT_EQUAL(cpu_xsetbv(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->xcr0, 3);
    cpu->gpr[GPR_AX] = 2;
    ASSERT_FAULT(w, cpu_xsetbv(cpu), VECTOR_GP, 0);
    cpu->gpr[GPR_AX] = 5;
    ASSERT_FAULT(w, cpu_xsetbv(cpu), VECTOR_GP, 0);
    cpu->gpr[GPR_AX] = 0x207;
    ASSERT_FAULT(w, cpu_xsetbv(cpu), VECTOR_GP, 0);
    cpu->gpr[GPR_CX] = 1;
    ASSERT_FAULT(w, cpu_xgetbv(cpu), VECTOR_GP, 0);
    world_destroy(w);
}

/* bytes: one instruction. */
static int fpu(struct world *w, const char *bytes, size_t len)
{
    struct insn insn;
    CU_ASSERT_EQUAL(insn_decode(&insn, (const uint8_t *)bytes, len, INSN_MODE_32), (int)len);
    return cpu_fpu_check(w->cpu, &insn);
}

static void set_cr(struct world *w, uint64_t cr0, uint64_t cr4)
{
    mmu_set_paging(&w->cpu->mmu, CR0_PE | cr0, cr4, 0);
}

#define FPU(w, bytes) fpu(w, bytes, sizeof bytes - 1)

static void fpu_availability(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    const char fld1[] = "\xd9\xe8", fwait[] = "\x9b", fnstsw[] = "\xdf\xe0", paddb[] = "\x0f\xfc\xc1";
    const char addps[] = "\x0f\x58\xc1", vaddps[] = "\xc5\xf0\x58\xc1", fxsave[] = "\x0f\xae\x00",
               fnclex[] = "\xdb\xe2";
    set_cr(w, CR0_TS, CR4_OSFXSR);
    ASSERT_FAULT(w, FPU(w, fld1), VECTOR_NM, 0);
    ASSERT_FAULT(w, FPU(w, paddb), VECTOR_NM, 0);
    ASSERT_FAULT(w, FPU(w, addps), VECTOR_NM, 0);
    ASSERT_FAULT(w, FPU(w, fxsave), VECTOR_NM, 0);
    CU_ASSERT_EQUAL(FPU(w, fwait), CPU_OK); /* MP clear */
    set_cr(w, CR0_TS | CR0_MP, CR4_OSFXSR);
    ASSERT_FAULT(w, FPU(w, fwait), VECTOR_NM, 0);
    set_cr(w, CR0_EM, CR4_OSFXSR);
    ASSERT_FAULT(w, FPU(w, fld1), VECTOR_NM, 0);
    ASSERT_FAULT(w, FPU(w, paddb), VECTOR_UD, 0);
    ASSERT_FAULT(w, FPU(w, addps), VECTOR_UD, 0);
    set_cr(w, 0, 0);
    CU_ASSERT_EQUAL(FPU(w, fld1), CPU_OK);
    ASSERT_FAULT(w, FPU(w, addps), VECTOR_UD, 0);
    ASSERT_FAULT(w, FPU(w, vaddps), VECTOR_UD, 0);
    set_cr(w, 0, CR4_OSXSAVE);
    ASSERT_FAULT(w, FPU(w, vaddps), VECTOR_UD, 0);
    cpu->xcr0 = 7;
    CU_ASSERT_EQUAL(FPU(w, vaddps), CPU_OK);
    /* an unmasked error of an earlier instruction */
    cpu->xsave[2] = 0x80;
    set_cr(w, CR0_NE, 0);
    ASSERT_FAULT(w, FPU(w, fld1), VECTOR_MF, 0);
    ASSERT_FAULT(w, FPU(w, paddb), VECTOR_MF, 0);
    ASSERT_FAULT(w, FPU(w, fwait), VECTOR_MF, 0);
    CU_ASSERT_EQUAL(FPU(w, fnstsw), CPU_OK);
    CU_ASSERT_EQUAL(FPU(w, fnclex), CPU_OK);
    /* the PC way: FERR# and wait for IRQ 13 */
    set_cr(w, 0, 0);
    cpu->rflags |= FLAG_IF;
    CU_ASSERT_EQUAL(FPU(w, fld1), CPU_FAULT);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(w->ferr, 1);
    CU_ASSERT_TRUE(cpu->halted);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE);
    cpu->rflags &= ~(uint64_t)FLAG_IF;
    CU_ASSERT_EQUAL(FPU(w, fld1), CPU_OK); /* in the handler: as with IGNNE# */
    world_destroy(w);
}

/* The control words travel through the host's registers and the host gets its own back. */
static void fpu_moves(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    uint32_t mxcsr = 0x1fa0, host = 0;
    uint16_t fcw = 0x027f, host_fcw = 0;
    memcpy(cpu->xsave, &fcw, 2);
    memcpy(cpu->xsave + 24, &mxcsr, 4);
    memset(cpu->xsave + 160 + 16 * 3, 0x5a, 16); /* xmm3 */
    cpu_fpu_load(cpu);
    bool live = cpu->fpu_live;
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(host), "=m"(host_fcw));
    cpu_fpu_unload(cpu);
    CU_ASSERT_TRUE(live);
    CU_ASSERT_FALSE(cpu->fpu_live);
    CU_ASSERT_EQUAL(host, 0x1fa0);
    CU_ASSERT_EQUAL(host_fcw, 0x027f);
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(host), "=m"(host_fcw));
    CU_ASSERT_EQUAL(host, 0x1f80);
    CU_ASSERT_EQUAL(host_fcw, 0x037f);
    CU_ASSERT_EQUAL(cpu->xsave[160 + 16 * 3], 0x5a);
    CU_ASSERT_EQUAL(cpu->xsave[24], 0xa0);
    world_destroy(w);
}

/* Parked, the vector registers and MXCSR are the host's; afterwards all is as it was, x87 included. */
static void fpu_parks(void)
{
    for (int unload_between = 0; unload_between < 2; unload_between++) {
        struct world *w = world_protected(0);
        struct cpu *cpu = w->cpu;
        uint32_t mxcsr = 0x7fa0, host = 0;
        uint16_t fcw = 0x027f;
        uint8_t before[512], present = 3;
        memcpy(cpu->xsave, &fcw, 2);
        memcpy(cpu->xsave + 24, &mxcsr, 4);
        for (unsigned i = 0; i < 256; i++)
            cpu->xsave[160 + i] = (uint8_t)(i * 7 + 1);
        cpu->xsave[512] |= present;
        memcpy(before, cpu->xsave, sizeof before);
        cpu_fpu_load(cpu);
        cpu_fpu_park(cpu);
        bool parked = cpu->fpu_parked && !cpu->fpu_live;
        __asm__ volatile("stmxcsr %0" : "=m"(host));
        __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tmovdqa %%xmm0, %%xmm15" : : : "xmm0", "xmm15");
        if (unload_between)
            cpu_fpu_unload(cpu);
        cpu_fpu_unpark(cpu);
        bool live = cpu->fpu_live;
        cpu_fpu_unload(cpu);
        CU_ASSERT_TRUE(parked);
        CU_ASSERT_EQUAL(live, !unload_between);
        CU_ASSERT_FALSE(cpu->fpu_parked);
        CU_ASSERT_EQUAL(host, 0x1f80);
        CU_ASSERT_FALSE(memcmp(before + 160, cpu->xsave + 160, 256));
        CU_ASSERT_FALSE(memcmp(before, cpu->xsave, 2));
        CU_ASSERT_FALSE(memcmp(before + 24, cpu->xsave + 24, 4));
        world_destroy(w);
    }
}

static void power_up(void)
{
    struct world *w = world_create(true);
    struct cpu *cpu = w->cpu;
    char text[4096], tiny[8];
    CU_ASSERT_EQUAL(cpu->rip, 0xfff0);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].base, 0xffff0000);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, 0xf000);
    CU_ASSERT_EQUAL(cpu->mmu.cr0, 0x60000010);
    CU_ASSERT_EQUAL(cpu->rflags, 2);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_DX], w->model.amd ? 0x300f10 : 0x206a7);
    CU_ASSERT_EQUAL(cpu->idtr.limit, 0xffff);
    cpu_dump(cpu, text, sizeof text);
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "real mode"));
    CU_ASSERT_PTR_NOT_NULL(strstr(text, "cs   f000 base 00000000ffff0000"));
    cpu_dump(cpu, tiny, sizeof tiny);
    CU_ASSERT_EQUAL(strlen(tiny), 7);
    world_destroy(w);
    w = world_long(3);
    w->cpu->msr.star = 5;
    cpu_raise(w->cpu, CPU_EVENT_INIT);
    CU_ASSERT_TRUE(cpu_take_interrupt(w->cpu));
    CU_ASSERT_EQUAL(w->cpu->rip, 0xfff0);
    CU_ASSERT_TRUE(cpu_real_mode(w->cpu));
    CU_ASSERT_EQUAL(w->cpu->msr.star, 5); /* INIT keeps MSRs */
    CU_ASSERT_EQUAL(w->cpu->cpl, 0);
    cpu_reset(w->cpu);
    CU_ASSERT_EQUAL(w->cpu->msr.star, 0);
    world_destroy(w);
}

TEST_SUITE(cpu_system, {"control registers", control_registers}, {"into and out of long mode", long_mode_switches},
           {"debug registers", debug_registers}, {"pushf, popf, cli, sti", flags},
           {"ports and the permission map", ports}, {"I/O breakpoints", io_breakpoints}, {"MSRs", msrs},
           {"CPUID agrees with itself", cpuid_is_consistent}, {"the CPUID instruction", cpuid_instruction},
           {"XCR0", xcr0}, {"x87, MMX, SSE, AVX availability", fpu_availability},
           {"vector state moves between host and guest", fpu_moves}, {"vector state is parked", fpu_parks},
           {"reset, INIT, dump", power_up})
