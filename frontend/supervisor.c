/* SPDX-License-Identifier: MIT */
#include "frontend/supervisor.h"

#include "frontend/cleanup.h"
#include "frontend/terminal.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

enum { GRACE_SECONDS = 10, STATUS_TIMEOUT = 124, STACK_SIZE = 256 << 10 };
#define NEVER UINT64_MAX

/* One per process, as signals are. */
static struct supervisor_hooks hooks;
static sigset_t watched;
static volatile sig_atomic_t came[NSIG]; /* by number; only the supervisor's thread and its handler touch it */
static pthread_t thread;
static bool started;
static _Atomic bool ended, stopping;
static uint64_t deadline = NEVER;

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void supervisor_block_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGPIPE, SIGTSTP, SIGCONT, SIGTTOU, SIGTTIN};
    struct sigaction hup;
    sigemptyset(&watched);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(&watched, signals[i]);
    /* nohup: whoever had SIGHUP ignored wants to outlive the terminal. */
    if (sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler != SIG_IGN)
        sigaddset(&watched, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &watched, NULL);
    signal(SIGXFSZ, SIG_IGN); /* "ulimit -f": the write fails with EFBIG, and says so */
}

/* Handlers, and a mask that opens for the supervisor's sleep alone: with a signalfd every signal that any thread gets
 * wakes the sleeper, and the translator's faults and timers are many; and sigtimedwait would leave SIGTSTP its default
 * action. */
static void on_signal(int signal)
{
    came[signal] = 1;
}

static void catch_signals(void)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_mask = watched, .sa_flags = SA_RESTART | SA_ONSTACK};
    for (int signal = 1; signal < NSIG; signal++)
        if (sigismember(&watched, signal) == 1)
            sigaction(signal, &act, NULL);
}

static int take_signal(void)
{
    for (int signal = 1; signal < NSIG; signal++)
        if (came[signal]) {
            came[signal] = 0;
            return signal;
        }
    return 0;
}

static void die(int status)
{
    cleanup_run();
    _exit(status);
}

/* Waits for a signal until the deadline; 0 when that has come. */
static int wait_signal(void)
{
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    for (int signal = 1; signal < NSIG; signal++)
        if (sigismember(&watched, signal) == 1)
            sigdelset(&mask, signal);
    for (;;) {
        uint64_t now = now_ns();
        int signal = take_signal();
        if (signal || now >= deadline)
            return signal;
        uint64_t left = deadline == NEVER ? 3600000000000u : deadline - now;
        struct timespec ts = {.tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000)};
        ppoll(NULL, 0, &ts, &mask);
    }
}

static void *supervise(void *arg)
{
    int status = 0; /* of the end that was asked for; 0: none yet */
    for (;;) {
        int signal = wait_signal();
        if (stopping)
            return arg;
        switch (signal) {
        case 0:
            if (status && !ended) {
                complain("the machine did not end within %d s", GRACE_SECONDS);
                die(status);
            }
            deadline = NEVER;
            if (!ended) {
                status = STATUS_TIMEOUT;
                deadline = now_ns() + GRACE_SECONDS * 1000000000ull;
                hooks.timed_out(hooks.opaque);
            }
            break;
        case SIGTSTP:
            terminal_suspend();
            break;
        case SIGCONT:
            if (hooks.continued)
                hooks.continued(hooks.opaque);
            break;
        case SIGTTOU:
        case SIGTTIN:
            break;
        default:
            if (ended || status)
                die(128 + signal);
            status = 128 + signal;
            deadline = now_ns() + GRACE_SECONDS * 1000000000ull;
            hooks.signalled(hooks.opaque, signal);
        }
    }
}

int supervisor_start(uint64_t timeout_ns, const struct supervisor_hooks *h)
{
    hooks = *h;
    stopping = false;
    catch_signals();
    if (timeout_ns)
        deadline = now_ns() + timeout_ns;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    int error = pthread_create(&thread, &attr, supervise, NULL);
    pthread_attr_destroy(&attr);
    started = !error;
    return -error;
}

void supervisor_machine_ended(void)
{
    ended = true;
}

void supervisor_stop(void)
{
    if (!started)
        return;
    stopping = true;
    pthread_kill(thread, SIGPIPE); /* no pthread_cancel: its signal is one of those that "ulimit -i" may lose */
    pthread_join(thread, NULL);
    started = false;
}
