/* SPDX-License-Identifier: MIT */
/* When user code reaches memory through the window (shadowmmu/window.h) instead of the tables.
 *
 * Entering a page costs some thousand cycles, so it pays for a process that stays on the processor: the window is taken
 * into use when 32-bit user code is seen running (at an interrupt or an exception) and its address space has been left
 * alone for a while, with few new pages; and given up when the address space is flushed, or when entering pages takes
 * up too much of the time. Each time it did not pay, the next process or time slice has to wait longer for it. */
#ifndef RINGFOLD_BT_WINDOW_H
#define RINGFOLD_BT_WINDOW_H

#include "bt/vcpu.h"
#include "shadowmmu/window.h"

enum bt_window_action {
    BT_WINDOW_RETRY,         /* the page is there */
    BT_WINDOW_FAULT,         /* deliver cpu->fault */
    BT_WINDOW_DETOUR,        /* this time by the tables */
    BT_WINDOW_DETOUR_ALWAYS, /* this instruction belongs to the tables */
};

/* The thread that will run translated code: makes GS the window's base, and the timer that looks at the guest now and
 * then one that interrupts this thread, by signal BT_WINDOW_SIGNAL, whose handler raises CPU_EVENT_CODE. */
#define BT_WINDOW_SIGNAL (SIGRTMIN + 3)
void bt_window_attach(struct bt_vcpu *v);
void bt_window_detach(struct bt_vcpu *v);
/* User code of the kind that can use the window is about to run. */
void bt_window_user(struct bt_vcpu *v);
/* The host has no room for what window code needs. */
void bt_window_give_up(struct bt_vcpu *v);
/* Something interrupts the guest: shall the code that runs use the window? Sets mode_stale when yes. */
void bt_window_sample(struct bt_vcpu *v);
/* A host page fault at a window address. In a signal handler, called for translated code only. */
enum bt_window_action bt_window_fault(struct bt_vcpu *v, uint64_t gva, bool write);
/* Puts a jump to the detour in the instruction's place. */
void bt_window_divert(struct bt_vcpu *v, uintptr_t at, uintptr_t detour);
/* Entries of the tables were dropped. */
void bt_window_flushed(struct bt_vcpu *v, enum mmu_flush_kind kind);

/* Is the current code of the kind that can use the window? */
static inline bool bt_window_suits(const struct cpu *cpu)
{
    return cpu->cpl == 3 && !cpu_v8086(cpu) && !cpu_code64(cpu) && (cpu->seg[SEG_CS].attr & SEG_DB) &&
           (cpu->mmu.cr0 & CR0_PG) && cpu->seg[SEG_CS].base == 0 && cpu->seg[SEG_CS].limit == 0xffffffff;
}

#endif
