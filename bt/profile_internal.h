/* SPDX-License-Identifier: MIT */
/* What profile.c counts and profile_report.c prints. */
#ifndef RINGFOLD_BT_PROFILE_INTERNAL_H
#define RINGFOLD_BT_PROFILE_INTERNAL_H

#include "bt/profile.h"

enum { PROFILE_HIT_BITS = 17, PROFILE_HITS = 1 << PROFILE_HIT_BITS };

/* Samples at one address of translated code. */
struct profile_hit {
    uint32_t at;     /* offset in the code cache; 0: free */
    uint32_t own;    /* found there */
    uint32_t called; /* found in C or glue that returns to there */
};

/* Samples of one block. */
struct profile_block {
    uint64_t eip, lin; /* guest address of the first instruction: offset in CS, linear */
    uint32_t mode;     /* enum bt_mode_bits */
    uint32_t block;    /* its index, 0: flushed since */
    uint64_t own, called;
};

struct bt_profile {
    pthread_t sampler;
    pthread_mutex_t lock; /* stop, running, thread, the times */
    pthread_cond_t wake;
    bool stop, running;
    pthread_t thread; /* the vCPU's, while it is in engine.run */
    uint64_t entered_ns, left_ns, inside_ns, outside_ns;

    /* the vCPU's thread alone, handler included */
    volatile bool in_board;
    uint64_t samples[BT_PHASES], lost;
    struct profile_hit hits[PROFILE_HITS];
    struct profile_block *kept; /* of flushed blocks */
    size_t kept_count, kept_max;
    const struct cpu_board *board; /* the real one */
    struct cpu_board watched;
    struct {
        uint64_t port_reads, port_writes, memory_reads, memory_writes, interrupt_acks, apic_registers, tsc_deadlines,
            ferr;
    } uses;
};

#endif
