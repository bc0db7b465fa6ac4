/* SPDX-License-Identifier: MIT */
/* The one interface between a machine and what runs its CPUs: bt/ (translation) and hw-assist/ (KVM). */
#ifndef RINGFOLD_CPU_ENGINE_H
#define RINGFOLD_CPU_ENGINE_H

#include "cpu/cpu.h"
#include "cpu/cpuid.h"

#include <stdio.h>

enum engine_exit {
    ENGINE_EXIT_KICK,     /* CPU_EVENT_KICK was seen (and cleared) */
    ENGINE_EXIT_HALT,     /* HLT with nothing pending */
    ENGINE_EXIT_SHUTDOWN, /* triple fault; the state shows where */
    ENGINE_EXIT_RESET,    /* CPU_EVENT_RESET was seen (and cleared) */
    ENGINE_EXIT_ERROR,    /* the host side failed; reason in engine_error */
    ENGINE_EXIT_UNABLE    /* engine_options.step: the engine cannot do this step, and has changed nothing; see unable */
};

struct engine_options {
    bool verify_code; /* check every emitted block against the safe grammar */
    bool perf_map;    /* write /tmp/perf-PID.map */
    bool profile;     /* sample where the time goes, for stats and hot_blocks */
    /* When code reaches memory through the host's page tables (bt/window.h). bt only. */
    enum { WINDOW_AUTO, WINDOW_ALWAYS, WINDOW_NEVER } window;
    bool one_insn_blocks; /* research: a block is one instruction, no chaining */
    /* For lockstep (frontend/verify.h): run returns ENGINE_EXIT_KICK after each block (with those that are chained
     * behind it, forwards and inside its page), and after each delivery of an interrupt; kvm after each instruction. */
    bool step;
    unsigned block_insns; /* research: the most instructions in a block, 0: as many as fit. bt only */
    /* For tests of that: one operation emitted for the guest instruction at rip damage_at is turned into another. */
    bool damage;
    uint64_t damage_at;
    /* Who runs the interrupt controllers and timers of the board, if they can be had in the host's kernel. kvm only. */
    enum { KERNEL_IRQCHIP_AUTO, KERNEL_IRQCHIP_ON, KERNEL_IRQCHIP_OFF } kernel_irqchip;
    bool host_cpu;     /* the guest sees the host's processor instead of the model: kvm only */
    size_t cache_size; /* bytes of code cache, 0: default */
};

struct engine {
    const char *name; /* "bt", "kvm" */
    /* To leave run and come back costs much more than to change threads: the clock's timers run in another thread also
     * while the vCPU sleeps; their interrupts reach the guest by events or a chip_holder (cpu/chips.h). */
    bool costly_exit;
    /* Makes a vCPU. The struct cpu is allocated by the engine (bt wants it beside its code cache). NULL with a reason
     * in err on failure. */
    struct cpu *(*vcpu_create)(const struct engine_options *options, struct memory *mem, const struct cpu_model *model,
                               const struct cpu_board *board, unsigned index, char *err, size_t err_len);
    void (*vcpu_destroy)(struct cpu *cpu);
    /* Runs the vCPU in the calling thread (always the same one). The full state is in *cpu when it returns. */
    enum engine_exit (*run)(struct cpu *cpu);
    /* The state in *cpu was replaced from outside (reset, snapshot, direct kernel boot): forget what was derived. */
    void (*state_replaced)(struct cpu *cpu);
    /* Counters as a JSON object text of name: number pairs, appended to out without braces. May be NULL. */
    void (*stats)(const struct cpu *cpu, FILE *out);
    /* The hottest blocks, at most count, guest and host code side by side, as text; the vCPU must not run. Of a vCPU
     * made with engine_options.profile. NULL: the engine has no blocks. */
    void (*hot_blocks)(struct cpu *cpu, FILE *out, unsigned count);
    /* Of a vCPU made with engine_options.step; NULL: the engine ends its steps exactly, and can do them all.
     * An exception is delivered in the step of its instruction, and the engine may run into the handler if it is not
     * told where that begins: at the CS:RIP of at (NULL: no such place). */
    void (*step_stop)(struct cpu *cpu, const struct cpu *at);
    /* After ENGINE_EXIT_UNABLE: why, in a few words. */
    const char *(*unable)(const struct cpu *cpu);
    /* From any thread, after cpu->events changed: makes run look at them when it cannot see them by itself. May be
     * NULL. */
    void (*kick)(struct cpu *cpu);
};

extern const struct engine engine_bt;
extern const struct engine engine_kvm;

#endif
