/* SPDX-License-Identifier: MIT */
/* Two processors in lockstep: the one of a machine, which runs translated code in blocks of full size, and a reference
 * that runs one instruction at a time.
 *
 * There is one board. The machine's processor (the leader) drives it; what passes between them is recorded: port and
 * memory reads with their results, writes, interrupt vectors, DMA, changes of the memory map. The reference (the
 * follower) has memory of its own and gets the same from the record; an access that the leader did not make there is a
 * divergence itself. Time stands still during a step and moves by a fixed amount for each instruction in between, when
 * the devices, timers and disk workers have their turn as well: both processors meet every interrupt and every byte of
 * DMA at the same instruction, and a second run of the same guest goes the same way.
 *
 * A step is one block of the leader, with the blocks that are chained behind it inside its page, or one delivery of an
 * interrupt. The follower then steps until its registers are the leader's; when they are not within what a step can
 * hold, or anything else of the state or of the pages that either wrote differs, that is a divergence. The step is then
 * run again from its beginning, on the follower's memory, block by block and with blocks cut shorter, to find the first
 * instruction that does it.
 *
 * With KVM as the reference (lockstep_reference.c) a step goes on while the leader stands inside a repeated string
 * instruction, since KVM may do many repetitions at once; and arithmetic flags that the manual leaves open may differ.
 *
 * Two differences are none, and only counted: accessed and dirty bits in paging structures that were set earlier by one
 * side (SDM vol. 3, 4.10.2.3: the processor may cache them), and arithmetic flags that are dead, because the code ahead
 * overwrites them before it reads them or because an exception shows them there (bt/translate.c). The leader gets the
 * reference's. */
#ifndef RINGFOLD_FRONTEND_LOCKSTEP_H
#define RINGFOLD_FRONTEND_LOCKSTEP_H

#include "devices/machine.h"

#include <stdio.h>

enum lockstep_reference {
    LOCKSTEP_REFERENCE_AUTO, /* KVM where it can be stepped, bt elsewhere */
    LOCKSTEP_REFERENCE_KVM,  /* what KVM cannot do ends the run */
    LOCKSTEP_REFERENCE_BT
};

struct lockstep_config {
    enum lockstep_reference reference;
    uint64_t skip;        /* so many steps of the leader, before all that, are not compared */
    uint64_t count;       /* end after so many instructions of the reference; 0: when the guest ends */
    uint64_t ns_per_insn; /* how fast time goes */
    FILE *report;         /* where a divergence is described */
};

enum lockstep_result {
    LOCKSTEP_ENDED,    /* the guest ended, or stood still for ever, without a divergence */
    LOCKSTEP_COUNT,    /* config.count was reached without one */
    LOCKSTEP_DIVERGED, /* described in the report */
    LOCKSTEP_STOPPED,  /* machine_end from another thread: time-out or signal */
    LOCKSTEP_FAILED    /* the host side failed; the reason is in err */
};

struct lockstep_outcome {
    uint64_t instructions, steps;       /* of the reference, of the leader */
    uint64_t interrupts, exceptions;    /* that the leader took */
    uint64_t accessed_bits, dead_flags; /* tolerated differences */
    uint64_t by_kvm;                    /* instructions, of the reference's, that KVM ran */
    uint64_t kvm_differs;               /* steps in which a software KVM alone came to something else */
    uint64_t undefined_flags;           /* steps with a difference that the manual leaves open; KVM only */
    bool found;                         /* of a divergence: the instruction is known */
    uint64_t rip;                       /* its address (offset in CS), or the first of the step */
    char text[96];                      /* its listing */
};

/* machine: made with config.stepped and engine_options.step, engine_bt, nothing run yet. Runs in the calling thread. */
enum lockstep_result lockstep_run(struct machine *machine, const struct lockstep_config *config,
                                  struct lockstep_outcome *outcome, char *err, size_t err_len);

#endif
