/* SPDX-License-Identifier: MIT */
/* Host faults of 64-bit code's accesses through a window (translate_window.c has their forms). In a signal handler. */
#ifndef RINGFOLD_BT_FAULT_WINDOW_H
#define RINGFOLD_BT_FAULT_WINDOW_H

#include "bt/window.h"

#include <signal.h>
#include <ucontext.h>

enum { TRAP_PAGE_FAULT = VECTOR_PF, ERROR_WRITE = 2 };

/* The access's own instruction faulted, or the region table's load before it. Sets the registers that hold entries of
 * the table right. */
enum bt_window_action bt_fault_in_region(struct bt_vcpu *v, enum mmu_window_kind kind, const struct bt_block *b,
                                         const struct bt_insn_record *r, const siginfo_t *info, ucontext_t *uc);

/* The load of r15 for an RSP that is not canonical, in a block or in glue: r15 becomes an entry that leads nowhere, and
 * the context goes on behind the load. False: it was something else. */
bool bt_fault_in_stack_region(struct bt_vcpu *v, const siginfo_t *info, ucontext_t *uc);

#endif
