/* SPDX-License-Identifier: MIT */
/* The terminal on stdin: raw while the guest's serial port is on it, as it was on every way out.
 *
 * terminal_restore and terminal_is_raw are async-signal-safe; everything else belongs to the main thread before the
 * machine runs, or to the supervisor thread. */
#ifndef RINGFOLD_FRONTEND_TERMINAL_H
#define RINGFOLD_FRONTEND_TERMINAL_H

#include <stdbool.h>

/* First thing in main: makes sure that descriptors 0 to 2 are open, so that no file of ours becomes stdout by accident,
 * and remembers which were not. */
void terminal_reserve_stdio(void);
bool terminal_was_closed(int fd);

/* Stdin is a terminal. */
bool terminal_present(void);
/* Makes it raw if it is one and terminal_may_read; also restores it when the process dies by a fault or
 * calls exit. May be called again (after SIGCONT). */
void terminal_enter_raw(void);
void terminal_restore(void);
bool terminal_is_raw(void);
/* Stdin may be read: it is no terminal, or one that this process is not in the background of. A terminal that is not
 * the session's own (su -c, setsid, some containers) has no background. */
bool terminal_may_read(void);
/* SIGTSTP: restores the terminal and stops the process; returns when it goes on. */
void terminal_suspend(void);

#endif
