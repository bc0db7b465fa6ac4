/* SPDX-License-Identifier: MIT */
/* A machine that its maker runs step by step in its own thread (machine_config.stepped): nothing happens between steps
 * but what is asked for here, so that a second processor can be led through the same inputs. */
#ifndef RINGFOLD_DEVICES_MACHINE_STEP_H
#define RINGFOLD_DEVICES_MACHINE_STEP_H

#include "devices/machine.h"

/* Runs the engine until it returns. A request for a reset is left to machine_step_reset. */
enum engine_exit machine_step(struct machine *m);
void machine_step_reset(struct machine *m);

/* Lets time go by and lets the devices do what is due, files and disk workers included. When no timer is due in that
 * time, waits up to wait_ns of the host's time for a file or worker. */
void machine_step_devices(struct machine *m, uint64_t ns, uint64_t wait_ns);
/* Time until the next timer, CLOCK_NEVER without one. */
uint64_t machine_step_idle_ns(struct machine *m);

/* Where the A20 gate is; a second processor must be told (mmu_set_a20). */
bool machine_step_a20(const struct machine *m);
/* The processor's own view of the board, to be wrapped; belongs to the machine. */
const struct cpu_model *machine_step_model(const struct machine *m);
int machine_step_status(const struct machine *m); /* the guest's debug exit or the signal */

#endif
