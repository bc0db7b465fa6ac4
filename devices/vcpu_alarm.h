/* SPDX-License-Identifier: MIT */
/* The clock's deadlines come to the vCPU's own thread: a host timer sends it a signal when the earliest one is due, and
 * the thread runs the clock. A tick of a sleeping guest's timer then costs no switch to the event loop's thread and
 * back, which is most of what an idle guest takes. For a vCPU that runs, the loop's thread does it, on another
 * processor: the signal would take 30 us from the guest where the loop's event takes 3. */
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
    bool keeps;  /* this thread runs the clock now, not the loop */
    uint64_t at; /* what the timer is set to in the clock's time; CLOCK_NEVER: it is not set */
};

/* All in the vCPU's thread, under the machine lock. handler: in signal context, gets opaque. */
void vcpu_alarm_open(struct vcpu_alarm *a, struct clock *clock, struct loop *loop, void (*handler)(void *opaque),
                     void *opaque);
void vcpu_alarm_close(struct vcpu_alarm *a);
/* Who runs the clock: this thread (vcpu_alarm_attend), or the loop, as after opening and closing. Where the host has no
 * timer left, it is always the loop. */
void vcpu_alarm_keep(struct vcpu_alarm *a, bool keep);
/* After the signal, or when time has stood still: runs what is due and sets the timer to what comes next. */
void vcpu_alarm_attend(struct vcpu_alarm *a);

#endif
