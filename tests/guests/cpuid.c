/* SPDX-License-Identifier: MIT */
/* The processor's identity: CPUID says nothing that does not work, CR4 and MSRs agree with it, the time-stamp counter
 * runs, SYSENTER and SYSEXIT carry a ring 3 program over and back. */
#include "lib/guest.h"

enum {
    MSR_TSC = 0x10,
    MSR_APIC_BASE = 0x1b,
    MSR_SYSENTER_CS = 0x174,
    MSR_SYSENTER_ESP = 0x175,
    MSR_SYSENTER_EIP = 0x176,
    MSR_PAT = 0x277,
    MSR_EFER = 0xc0000080
};
enum {
    FPU = 1 << 0,
    VME = 1 << 1,
    DE_ = 1 << 2,
    PSE = 1 << 3,
    TSC = 1 << 4,
    MSR = 1 << 5,
    PAE = 1 << 6,
    CX8 = 1 << 8,
    SEP = 1 << 11,
    PGE = 1 << 13,
    CMOV = 1 << 15,
    PAT = 1 << 16,
    MMX = 1 << 23,
    FXSR = 1 << 24,
    SSE = 1 << 25,
    SSE2 = 1 << 26
};

static void identity(void)
{
    uint32_t r[4], f;
    __asm__ volatile("pushf; xorl $0x200000, (%%esp); popf; pushf; pop %0; push $2; popf" : "=r"(f)::"memory", "cc");
    check(f & FLAG_ID, "EFLAGS.ID can be set", "%x", f);
    cpuid(0, 0, r);
    char name[49] = {0};
    memcpy(name, &r[1], 4);
    memcpy(name + 4, &r[3], 4);
    memcpy(name + 8, &r[2], 4);
    printf("   vendor %s, leaves to %u\n", name, r[0]);
    check(r[0] >= 1, "leaf 1 exists", "%u", r[0]);
    cpuid(0x80000000, 0, r);
    if (r[0] >= 0x80000004) {
        for (unsigned i = 0; i < 3; i++) {
            cpuid(0x80000002 + i, 0, r);
            memcpy(name + 16 * i, r, 16);
        }
        printf("   %s\n", name);
    }
    cpuid(1, 0, r);
    printf("   signature %x features %x %x\n", r[0], r[3], r[2]);
    uint32_t needed = FPU | PSE | TSC | MSR | CX8 | CMOV | PGE | MMX | FXSR | SSE | SSE2;
    check((r[3] & needed) == needed, "the features of an i686 with SSE2", "missing %x", needed & ~r[3]);
}

static void set_cr4(void *arg)
{
    __asm__ volatile("mov %0, %%cr4" ::"r"(arg));
}

static void control_bits(void)
{
    static const struct {
        uint32_t feature, bit;
        const char *name;
    } pairs[] = {{VME, CR4_VME, "VME"}, {VME, CR4_PVI, "PVI"},        {TSC, CR4_TSD, "TSD"},
                 {DE_, CR4_DE, "DE"},   {PSE, CR4_PSE, "PSE"},        {PAE, CR4_PAE, "PAE"},
                 {PGE, CR4_PGE, "PGE"}, {FXSR, CR4_OSFXSR, "OSFXSR"}, {SSE, CR4_OSXMMEXCPT, "OSXMMEXCPT"}};
    uint32_t r[4];
    cpuid(1, 0, r);
    for (unsigned i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        uint32_t before = read_cr4();
        int got = trap_call(set_cr4, (void *)(before | pairs[i].bit));
        bool set = read_cr4() & pairs[i].bit;
        bool has = r[3] & pairs[i].feature;
        tally(has ? got == NO_TRAP && set : got == GP, pairs[i].name, "feature %d: #%d, set %d", has, got, set);
        trap_call(set_cr4, (void *)before);
    }
    tally_end("CR4 bits and CPUID agree");
}

static void counter(void)
{
    uint64_t last = read_tsc();
    bool up = true;
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t t = read_tsc();
        up = up && t >= last;
        last = t;
    }
    check(up && read_tsc() > 0, "the time-stamp counter never goes back", " ");
    write_msr(MSR_TSC, 0x100000000ull);
    uint64_t t = read_tsc();
    check(t >= 0x100000000ull && t < 0x300000000ull, "a write to the counter", "%x:%x", (uint32_t)(t >> 32),
          (uint32_t)t);
}

static void write_bad_pat(void *arg)
{
    write_msr(MSR_PAT, 0x0706050403020100ull);
}

static void msrs(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (r[3] & PAT) {
        uint64_t pat = read_msr(MSR_PAT);
        check(pat == 0x0007040600070406ull, "PAT after reset", "%x:%x", (uint32_t)(pat >> 32), (uint32_t)pat);
        write_msr(MSR_PAT, 0x0007010600070106ull);
        check(read_msr(MSR_PAT) == 0x0007010600070106ull, "PAT can be written", " ");
        check_trap("#GP for a PAT type that does not exist", trap_call(write_bad_pat, 0), GP, 0);
        write_msr(MSR_PAT, pat);
    }
    if (r[3] & 1 << 9) {
        uint64_t base = read_msr(MSR_APIC_BASE);
        check((base & 0xfffff900) == 0xfee00900, "the APIC is on, at fee00000, and this is the boot processor", "%x",
              (uint32_t)base);
    }
}

/* Ring 3 enters by SYSENTER; the entry notes where it is and leaves by SYSEXIT to EDX:ECX. */
void sysenter_entry(void);
void sysenter_user(void);
__asm__(".globl sysenter_entry, sysenter_user\n"
        "sysenter_entry: mov %cs, %eax; mov %ss, %ebx; pushf; pop %esi; mov %esp, %edi; sysexit\n"
        "sysenter_user: mov $1f, %edx; mov %esp, %ecx; sysenter; ud2\n"
        "1: mov %cs, %edx; mov %ss, %ecx; int $0x80\n");
static uint8_t entry_stack[4096] __attribute__((aligned(16)));

static void sysenter(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[3] & SEP))
        return;
    /* CS, CS+8, CS+16, CS+24 as the instructions want them: 8, 10, 18, 20 are exactly so. */
    write_msr(MSR_SYSENTER_CS, SEL_CODE);
    write_msr(MSR_SYSENTER_ESP, (uint32_t)entry_stack + sizeof entry_stack);
    write_msr(MSR_SYSENTER_EIP, (uint32_t)sysenter_entry);
    struct trap frame;
    frame_flat(&frame);
    frame.eip = (uint32_t)sysenter_user;
    frame.eflags = 2 | FLAG_IF;
    int got = frame_call(&frame);
    check(got == NO_TRAP, "sysenter and sysexit", "#%d at %x", got, trap.eip);
    check((trap.eax & 0xffff) == SEL_CODE && (trap.ebx & 0xffff) == SEL_DATA, "CS and SS after sysenter", "%x %x",
          trap.eax, trap.ebx);
    check(!(trap.esi & (FLAG_IF | FLAG_VM)), "sysenter clears IF", "%x", trap.esi);
    check_equal("ESP after sysenter", trap.edi, (uint32_t)entry_stack + sizeof entry_stack - 0);
    check((trap.edx & 0xffff) == SEL_USER_CODE && (trap.ecx & 0xffff) == SEL_USER_DATA, "CS and SS after sysexit",
          "%x %x", trap.edx, trap.ecx);
    write_msr(MSR_SYSENTER_CS, 0);
    got = frame_call(&frame);
    check(got == GP && trap.error == 0, "#GP with SYSENTER_CS 0", "#%d", got);
}

void guest_main(void)
{
    identity();
    control_bits();
    counter();
    msrs();
    sysenter();
}
