/* SPDX-License-Identifier: MIT */
/* The clock's deadlines come to the vCPU's own thread: a host timer sends it a signal when the earliest one is due, and
 * the thread runs the clock. A tick of the guest's timer then costs no switch to the event loop's thread and back,
 * whether the vCPU sleeps in HLT (most of what an idle guest takes) or runs. */
#ifndef RINGFOLD_DEVICES_VCPU_ALARM_H
#define RINGFOLD_DEVICES_VCPU_ALARM_H

#include "devices/loop.h"

#include <signal.h>
#include <time.h>

#define VCPU_ALARM_SIGNAL (SIGRTMIN + 4)

struct vcpu_alarm {
    struct clock *clock;
    struct loop *loop;
    timer_t timer;
    bool open;
    uint64_t at; /* what the timer is set to in the clock's time; CLOCK_NEVER: it is not set */
};

/* In the vCPU's thread, under the machine lock. From now on this thread runs the clock (vcpu_alarm_attend), the loop
 * does not. handler: in signal context, gets opaque. Where the host has no timer left, the loop goes on doing it. */
void vcpu_alarm_open(struct vcpu_alarm *a, struct clock *clock, struct loop *loop, void (*handler)(void *opaque),
                     void *opaque);
/* The loop does it again. */
void vcpu_alarm_close(struct vcpu_alarm *a);
/* After the signal, or when time has stood still: runs what is due and sets the timer to what comes next. */
void vcpu_alarm_attend(struct vcpu_alarm *a);

#endif
