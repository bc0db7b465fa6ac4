/* SPDX-License-Identifier: MIT */
/* A thread that waits for signals and for the end of --timeout, so that neither depends on the machine making progress:
 * it ends the machine, and the process when the machine does not follow within the grace period. */
#ifndef RINGFOLD_FRONTEND_SUPERVISOR_H
#define RINGFOLD_FRONTEND_SUPERVISOR_H

#include <stdint.h>

struct supervisor_hooks {
    void (*timed_out)(void *opaque);
    void (*signalled)(void *opaque, int signal);
    void (*continued)(void *opaque); /* SIGCONT, after the terminal is raw again */
    void *opaque;
};

/* Blocks the signals in this thread and all that it creates from now on. Call it before the first thread is made. */
void supervisor_block_signals(void);
/* Time counts from here; timeout_ns 0: none. 0 or -errno. */
int supervisor_start(uint64_t timeout_ns, const struct supervisor_hooks *hooks);
/* The machine has ended: from now on a signal ends the process at once. */
void supervisor_machine_ended(void);
void supervisor_stop(void);

#endif
