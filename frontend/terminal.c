/* SPDX-License-Identifier: MIT */
#include "frontend/terminal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

/* Process-wide because the terminal is. */
static struct termios saved;
static bool have_saved;
static _Atomic bool raw;
static bool closed_at_start[3];
static struct sigaction previous[NSIG];

void terminal_reserve_stdio(void)
{
    for (int fd = 0; fd < 3; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue;
        closed_at_start[fd] = true;
        if (open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
            _exit(125); /* without /dev/null there is not even a way to say so */
    }
}

bool terminal_was_closed(int fd)
{
    return fd >= 0 && fd < 3 && closed_at_start[fd];
}

bool terminal_present(void)
{
    return isatty(STDIN_FILENO);
}

bool terminal_is_raw(void)
{
    return raw;
}

bool terminal_may_read(void)
{
    if (!terminal_present())
        return true;
    pid_t foreground = tcgetpgrp(STDIN_FILENO);
    return foreground < 0 || foreground == getpgrp();
}

void terminal_restore(void)
{
    if (!atomic_exchange(&raw, false))
        return;
    /* From the background tcsetattr would stop the process. */
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &block, &old);
    tcsetattr(STDIN_FILENO, TCSANOW, &saved);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

/* A fault of our own, or a signal nobody handles: leave the terminal usable, then go on as before. */
static void on_fatal(int signal)
{
    terminal_restore();
    sigaction(signal, &previous[signal], NULL);
    raise(signal); /* blocked until the handler returns; a fault comes again anyway */
}

static void catch_one(int signal)
{
    struct sigaction now, act = {.sa_handler = on_fatal, .sa_flags = SA_ONSTACK};
    sigemptyset(&act.sa_mask);
    /* Somebody else's handler (the translator's for guest faults) is left alone. */
    if (sigaction(signal, NULL, &now) == 0 && now.sa_handler == SIG_DFL)
        sigaction(signal, &act, &previous[signal]);
}

/* All that end a process and that the supervisor does not watch. */
static void catch_fatal(void)
{
    static const int signals[] = {
        SIGQUIT, SIGABRT,
#ifndef RINGFOLD_SANITIZE
        SIGILL,  SIGBUS,  SIGSEGV,   SIGFPE,  SIGSYS,
#endif
        SIGXCPU, SIGXFSZ, SIGVTALRM, SIGUSR1, SIGUSR2, SIGALRM, SIGPROF, SIGIO, SIGTRAP, SIGSTKFLT, SIGPWR,
    };
    for (unsigned i = 0; i < sizeof signals / sizeof *signals; i++)
        catch_one(signals[i]);
    for (int signal = SIGRTMIN; signal <= SIGRTMAX; signal++)
        catch_one(signal);
}

void terminal_enter_raw(void)
{
    if (!terminal_present() || !terminal_may_read() || raw)
        return;
    if (!have_saved) {
        if (tcgetattr(STDIN_FILENO, &saved))
            return;
        have_saved = true;
        atexit(terminal_restore);
        catch_fatal();
    }
    struct termios t = saved;
    cfmakeraw(&t);
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    raw = true; /* before the change, so that a signal in between undoes it */
    if (tcsetattr(STDIN_FILENO, TCSANOW, &t))
        raw = false;
}

void terminal_suspend(void)
{
    bool was_raw = raw;
    terminal_restore();
    raise(SIGSTOP); /* to this thread: kill would let it run on, into raw mode, before the process stops */
    if (was_raw)
        terminal_enter_raw();
}
