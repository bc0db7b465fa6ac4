/* SPDX-License-Identifier: MIT */
/* The CPU model the guest sees: one named, documented model with the host's features masked to what is virtualised. */
#ifndef RINGFOLD_CPU_CPUID_H
#define RINGFOLD_CPU_CPUID_H

#include <stdbool.h>
#include <stdint.h>

struct cpu_model {
    bool long_mode;           /* --cpu 64 */
    bool apic;                /* a local APIC is on the board */
    bool tsc_deadline;        /* its timer knows TSC deadlines (leaf 1, ECX bit 24) */
    bool amd;                 /* vendor "AuthenticAMD": SYSCALL, SYSENTER and the MSRs behave as AMD's */
    bool avx, avx2, bmi, fma; /* the host has them and so has the guest */
    uint32_t tsc_khz;         /* of a model that was made repeatable; 0: the host's. cpu_model_tsc_khz tells it */
    unsigned phys_bits;
    uint64_t xcr0_mask;         /* XSAVE components the guest may enable */
    uint32_t host_features[16]; /* private to cpuid.c */
};

/* The local APIC's timer counts at this rate before its divider (CPUID leaf 15h, ECX). That of processors since
 * Skylake, and low enough to give the TSC's rate as a fraction of it. */
#define CPU_BUS_HZ 25000000u

/* Probes the host. long_mode: offer it to the guest. */
void cpu_model_init(struct cpu_model *model, bool long_mode, bool apic);

/* The rate of the time stamp counter. Where the host does not tell it, the first call measures it: over the time since
 * cpu_tsc_begin, but at least two milliseconds, which a late first call need not wait for. Any thread, also while the
 * guest's vector state is live. */
uint32_t cpu_model_tsc_khz(const struct cpu_model *model);
/* The measurement begins; early in the process, before it has threads. */
void cpu_tsc_begin(void);
/* The host's kernel tells the rate: taken in place of a measurement that was not made yet, if what passed since
 * cpu_tsc_begin does not contradict it. */
void cpu_tsc_told(uint32_t khz);

/* For a machine whose run is to be repeatable: no random numbers (RDRAND, RDSEED), and a time stamp counter of 1 GHz
 * whatever the host's is; the board must then count it (struct cpu_board, tsc). */
void cpu_model_make_repeatable(struct cpu_model *model);

/* Where the manuals leave the choice to the processor and ringfold's C must make it, the model does as its vendor's
 * processors do:
 * - PUSH of a selector with a 32-bit operand (SDM vol. 2, PUSH): Intel's write the low word and leave the rest of the
 *   slot as it was, AMD's extend it by zeros. The bytes written of an operand of opsize bytes. */
static inline unsigned cpu_model_pushed_selector_size(const struct cpu_model *model, unsigned opsize)
{
    return opsize == 4 && !model->amd ? 2 : opsize;
}
/* - A fault in a repeated CMPS or SCAS: Intel's put the flags back to what they were before it (SDM vol. 2, REP), AMD's
 *   leave those of the last comparison. */
static inline bool cpu_model_string_fault_restores_flags(const struct cpu_model *model)
{
    return !model->amd;
}
/* - A repeated string instruction with 32-bit addresses in 64-bit code, when its count is zero or its first element
 *   faults: Intel's have cleared the upper half of RCX by then, and with MOVS and STOS those of RDI and RSI (as far as
 *   used); AMD's have not. */
static inline bool cpu_model_string_start_clears_upper(const struct cpu_model *model)
{
    return !model->amd;
}

/* CPUID leaf. out: eax, ebx, ecx, edx. cr4/xcr0: for OSXSAVE and the XSAVE sizes; index: initial APIC id. */
void cpu_model_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint64_t cr4, uint64_t xcr0,
                    unsigned index, uint32_t out[4]);

#endif
