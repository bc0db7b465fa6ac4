/* SPDX-License-Identifier: MIT */
/* The CPU model the guest sees: one named, documented model with the host's features masked to what is virtualised. */
#ifndef RINGFOLD_CPU_CPUID_H
#define RINGFOLD_CPU_CPUID_H

#include <stdbool.h>
#include <stdint.h>

struct cpu_model {
    bool long_mode;   /* --cpu 64 */
    bool apic;        /* a local APIC is on the board */
    bool tsc_deadline; /* its timer knows TSC deadlines (leaf 1, ECX bit 24) */
    bool amd;         /* vendor "AuthenticAMD": SYSCALL, SYSENTER and the MSRs behave as AMD's */
    bool avx, avx2, bmi, fma; /* the host has them and so has the guest */
    uint32_t tsc_khz;
    unsigned phys_bits;
    uint64_t xcr0_mask; /* XSAVE components the guest may enable */
    uint32_t host_features[16]; /* private to cpuid.c */
};

/* The local APIC's timer counts at this rate before its divider (CPUID leaf 15h, ECX). That of processors since Skylake,
 * and low enough to give the TSC's rate as a fraction of it. */
#define CPU_BUS_HZ 25000000u

/* Probes the host. long_mode: offer it to the guest. */
void cpu_model_init(struct cpu_model *model, bool long_mode, bool apic);
/* CPUID leaf. out: eax, ebx, ecx, edx. cr4/xcr0: for OSXSAVE and the XSAVE sizes; index: initial APIC id. */
void cpu_model_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint64_t cr4, uint64_t xcr0,
                    unsigned index, uint32_t out[4]);

#endif
