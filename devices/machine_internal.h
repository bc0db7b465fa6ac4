/* SPDX-License-Identifier: MIT */
/* Between machine.c and vcpu_thread.c. */
#ifndef RINGFOLD_DEVICES_MACHINE_INTERNAL_H
#define RINGFOLD_DEVICES_MACHINE_INTERNAL_H

#include "devices/board.h"
#include "devices/vcpu_alarm.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

enum machine_request {
    MACHINE_REQUEST_RESET = 1,       /* from outside: QMP */
    MACHINE_REQUEST_GUEST_RESET = 2, /* by the guest */
    MACHINE_REQUEST_INIT = 4         /* the processor only */
};

/* An engine and the vCPU it made. */
struct vcpu_part {
    const struct engine *engine;
    struct cpu *cpu;
};

enum { VCPU_MAX_PARTS = 2 };

struct vcpu {
    struct machine *machine;
    /* Changed under the machine lock while the thread stands still (machine_set_engine); both parts live as long as the
     * machine, so that a pointer which another thread just read stays good. */
    struct cpu *_Atomic cpu;
    const struct engine *_Atomic engine;
    struct vcpu_part parts[VCPU_MAX_PARTS];
    _Atomic unsigned part_count;
    struct cpu_board callbacks;
    pthread_t thread;
    bool started;
    bool parked; /* stands still because the machine is stopped, or has left its thread; under the machine lock */
    /* Sleeping in HLT. The sleeper sets asleep, then looks at cpu->events; who raises an event looks at asleep after. A
     * semaphore, because the alarm's signal handler posts it. */
    sem_t wake;
    _Atomic int asleep;
    struct vcpu_alarm alarm; /* under the machine lock */
};

struct machine {
    pthread_mutex_t lock;
    pthread_cond_t state_changed; /* stopped, parked, ending */
    struct machine_config config;
    struct clock *clock;
    struct loop *loop;
    struct memory memory;
    struct board board;
    bool has_memory, has_board;
    struct cpu_model model;
    struct vcpu vcpu;
    _Atomic bool a20; /* where the gate is */
    bool stopped;
    unsigned reset_requests;                     /* enum machine_request, under the lock */
    _Atomic uint64_t entered_at, entered_cpu_ns; /* see machine_entered_at */
    _Atomic int how;                             /* enum machine_end */
    _Atomic int end_status;
    _Atomic bool ending;
};

int vcpu_start(struct vcpu *v); /* 0 or -errno */
void vcpu_join(struct vcpu *v);
/* struct cpu_board's kick: any thread or its signal handler, with or without the machine lock. */
void vcpu_kick(void *opaque);
/* Events that were raised on the vCPU of an engine that no longer runs go to the one that does. */
void vcpu_gather_events(struct vcpu *v);
/* In the vCPU's thread. */
void vcpu_apply_a20(struct vcpu *v);

/* Puts board and processor into the state in which the machine starts, loading the kernel for direct boot. Under the
 * lock. 0 or -errno with one line in err. */
int machine_power_on(struct machine *m, char *err, size_t err_len);

/* Carries out the resets that are asked for. Takes the lock. In the vCPU's thread. */
void machine_carry_out_reset(struct machine *m);
/* What stands for the host's time stamp counter when config.stepped. */
uint64_t machine_stepped_tsc(const struct machine *m);

#endif
