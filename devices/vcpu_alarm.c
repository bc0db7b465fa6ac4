/* SPDX-License-Identifier: MIT */
#include "devices/vcpu_alarm.h"

#include "devices/log.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Of this thread: a signal may still be on its way when its timer is gone. */
static _Thread_local struct {
    void (*handler)(void *opaque);
    void *opaque;
} mine;

static void on_signal(int sig)
{
    int saved = errno;
    if (mine.handler)
        mine.handler(mine.opaque);
    errno = saved;
}

/* An alarm that comes too early is harmless, so a deadline that moved away, or another one before it that is gone,
 * changes nothing. */
static void set(struct vcpu_alarm *a)
{
    uint64_t deadline = clock_next_deadline(a->clock);
    if (deadline >= a->at)
        return;
    uint64_t host = clock_host_ns(a->clock, deadline);
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(host / NS_PER_SEC), .tv_nsec = (long)(host % NS_PER_SEC)}};
    a->at = deadline;
    timer_settime(a->timer, TIMER_ABSTIME, &when, NULL);
}

static void on_rearm(void *opaque)
{
    set(opaque);
}

void vcpu_alarm_open(struct vcpu_alarm *a, struct clock *clock, struct loop *loop, void (*handler)(void *opaque),
                     void *opaque)
{
    /* The engine's code may have the guest's stack pointer, so the handler has a stack of its own. */
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = VCPU_ALARM_SIGNAL};
    sigset_t signals;
    event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
    *a = (struct vcpu_alarm){.clock = clock, .loop = loop, .at = CLOCK_NEVER};
    mine.handler = handler;
    mine.opaque = opaque;
    sigemptyset(&signals);
    sigaddset(&signals, VCPU_ALARM_SIGNAL);
    if (sigaction(VCPU_ALARM_SIGNAL, &act, NULL) || pthread_sigmask(SIG_UNBLOCK, &signals, NULL) ||
        timer_create(CLOCK_MONOTONIC, &event, &a->timer)) {
        log_msg(LOG_DEVICE, "no timer for the virtual CPU's thread: %s", strerror(errno));
        return;
    }
    a->open = true;
}

void vcpu_alarm_close(struct vcpu_alarm *a)
{
    if (!a->open)
        return;
    vcpu_alarm_keep(a, false);
    a->open = false;
    timer_delete(a->timer);
    mine.handler = NULL;
}

void vcpu_alarm_keep(struct vcpu_alarm *a, bool keep)
{
    if (!a->open || a->keeps == keep)
        return;
    a->keeps = keep;
    loop_keep_time(a->loop, !keep);
    a->at = CLOCK_NEVER;
    if (!keep) {
        static const struct itimerspec never;
        timer_settime(a->timer, 0, &never, NULL);
        return;
    }
    clock_set_rearm_hook(a->clock, on_rearm, a);
    set(a);
}

void vcpu_alarm_attend(struct vcpu_alarm *a)
{
    if (!a->keeps)
        return;
    a->at = CLOCK_NEVER;
    clock_run(a->clock);
    set(a);
}
