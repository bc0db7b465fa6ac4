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
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum { GRACE_SECONDS = 10, STATUS_TIMEOUT = 124, STACK_SIZE = 256 << 10 };
#define NEVER UINT64_MAX

/* One per process, as signals are. */
static struct supervisor_hooks hooks;
static sigset_t watched;
static int signal_fd = -1;
static pthread_t thread;
static bool started;
static _Atomic bool ended;
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

static void die(int status)
{
    cleanup_run();
    _exit(status);
}

/* Waits for a signal until the deadline; 0 when that has come. */
static int wait_signal(void)
{
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline)
            return 0;
        uint64_t left = deadline == NEVER ? 3600000000000u : deadline - now;
        struct timespec ts = {.tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000)};
        struct pollfd p = {.fd = signal_fd, .events = POLLIN};
        struct signalfd_siginfo info;
        pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, NULL); /* nowhere else: a hook may hold the machine lock */
        bool came = ppoll(&p, 1, &ts, NULL) > 0 && read(signal_fd, &info, sizeof info) == sizeof info;
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
        if (came)
            return (int)info.ssi_signo;
    }
}

static void *supervise(void *arg)
{
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    int status = 0; /* of the end that was asked for; 0: none yet */
    for (;;) {
        int signal = wait_signal();
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
    return arg;
}

int supervisor_start(uint64_t timeout_ns, const struct supervisor_hooks *h)
{
    hooks = *h;
    /* Unlike sigtimedwait this never unblocks the signals, so that no default action (SIGTSTP's) slips through. */
    signal_fd = signalfd(-1, &watched, SFD_CLOEXEC);
    if (signal_fd < 0)
        return -errno;
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
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    close(signal_fd);
    started = false;
}
