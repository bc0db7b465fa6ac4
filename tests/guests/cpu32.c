/* SPDX-License-Identifier: MIT */
/* The machine without long mode: CPUID shows none of it, and nothing of it works. */
#include "lib/guest.h"

enum { MSR_EFER = 0xc0000080, CR4_FSGSBASE = 1 << 16, CR4_PCIDE = 1 << 17 };

#define CODE(name, text)                                                                                               \
    static void name(void *arg)                                                                                        \
    {                                                                                                                  \
        __asm__ volatile(text ::: "eax", "ecx", "edx", "memory");                                                      \
    }
CODE(set_lme, "mov $0xc0000080, %%ecx; rdmsr; or $0x100, %%eax\n" AT_HERE "wrmsr")
CODE(read_kernel_gs, "mov $0xc0000102, %%ecx\n" AT_HERE "rdmsr")
CODE(read_lstar, "mov $0xc0000082, %%ecx\n" AT_HERE "rdmsr")
CODE(set_pcide, "mov %%cr4, %%eax; or $0x20000, %%eax\n" AT_HERE "mov %%eax, %%cr4")
CODE(set_fsgsbase, "mov %%cr4, %%eax; or $0x10000, %%eax\n" AT_HERE "mov %%eax, %%cr4")
CODE(swapgs, AT_HERE ".byte 0x0f, 0x01, 0xf8")

void guest_main(void)
{
    uint32_t r[4], v;

    cpuid(0x80000000, 0, r);
    check(r[0] >= 0x80000001, "extended leaves", "%x", r[0]);
    cpuid(0x80000001, 0, r);
    check(!(r[3] & 1 << 29), "CPUID: no LM", "edx %x", r[3]);
    check(!(r[3] & 1 << 11), "CPUID: no SYSCALL", "edx %x", r[3]);
    check(!(r[3] & 1 << 26), "CPUID: no 1 GiB pages", "edx %x", r[3]);
    check(!(r[2] & 1), "CPUID: no LAHF in 64-bit mode", "ecx %x", r[2]);
    cpuid(1, 0, r);
    check(!(r[2] & (1 << 13 | 1 << 17)), "CPUID: no CMPXCHG16B, no PCID", "ecx %x", r[2]);
    cpuid(7, 0, r);
    check(!(r[1] & (1 << 0 | 1 << 10)), "CPUID: no FSGSBASE, no INVPCID", "ebx %x", r[1]);
    cpuid(0x80000000, 0, r);
    if (r[0] >= 0x80000008) {
        cpuid(0x80000008, 0, r);
        check((r[0] >> 8 & 0xff) == 32, "CPUID: linear addresses of 32 bits", "eax %x", r[0]);
    }
    check_trap("#GP EFER.LME", trap_call(set_lme, 0), GP, 0);
    check_trap("#GP kernel GS base", trap_call(read_kernel_gs, 0), GP, 0);
    check_trap("#GP LSTAR", trap_call(read_lstar, 0), GP, 0);
    check_trap("#GP CR4.PCIDE", trap_call(set_pcide, 0), GP, 0);
    check_trap("#GP CR4.FSGSBASE", trap_call(set_fsgsbase, 0), GP, 0);
    check_trap("#UD swapgs", trap_call(swapgs, 0), UD, 0);
    __asm__("mov $5, %0; .byte 0x48" : "=a"(v)); /* dec eax, not REX.W */
    check_equal("48 is dec eax", v, 4);
}
