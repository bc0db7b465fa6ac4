/* SPDX-License-Identifier: MIT */
/* When code reaches memory through a window (shadowmmu/window.h) instead of the tables.
 *
 * Entering a page costs some thousand cycles, so it pays for code that stays on the processor: a window is taken into
 * use when code of its kind is seen running (at an interrupt, an exception, or the timer here) and its address space
 * has been left alone for a while, with few new pages; and given up when the address space is flushed, or when entering
 * pages takes up too much of the time. Each time it did not pay, the next attempt has to wait longer, and at least for
 * as long as it would take to enter the pages that are in use by then, which it then may.
 *
 * User code (CPL 3, paging) uses the user window. Code at CPL 0 uses the supervisor window: 32-bit code when its pages
 * are global or paging is off, and when this process may write GS by itself, which every system call then does twice;
 * 64-bit code always, with pages that are not global where CR4.PGE is clear. */
#ifndef RINGFOLD_BT_WINDOW_H
#define RINGFOLD_BT_WINDOW_H

#include "bt/vcpu.h"
#include "shadowmmu/window.h"

struct bt_insn_record;

enum bt_window_action {
    BT_WINDOW_NOT,           /* it is no window's access */
    BT_WINDOW_RETRY,         /* the page is there */
    BT_WINDOW_FAULT,         /* deliver cpu->fault */
    BT_WINDOW_DETOUR,        /* this time by the tables */
    BT_WINDOW_DETOUR_ALWAYS, /* this instruction belongs to the tables */
};

/* The thread that will run translated code: GS, and the timer that looks at the guest now and then, by signal
 * BT_WINDOW_SIGNAL, whose handler raises CPU_EVENT_CODE. */
#define BT_WINDOW_SIGNAL (SIGRTMIN + 3)
void bt_window_attach(struct bt_vcpu *v);
void bt_window_detach(struct bt_vcpu *v);
/* Code that would have this mode is about to run: BT_MODE_WINDOW when it uses its window, with GS set, or
 * 0. */
uint32_t bt_window_mode(struct bt_vcpu *v);
/* The host has no room for what window code needs. */
void bt_window_give_up(struct bt_vcpu *v);
/* Something interrupts the guest: shall the code that runs use its window? Sets mode_stale when yes. */
void bt_window_sample(struct bt_vcpu *v);
/* The timer's event. */
void bt_window_timer(struct bt_vcpu *v);
/* A host signal was code's of the window, whatever came of it: too many of them end the window. In a signal handler. */
void bt_window_signal(struct bt_vcpu *v, enum mmu_window_kind kind);
/* A host page fault at a window's address. In a signal handler, called for translated code only. */
enum bt_window_action bt_window_fault(struct bt_vcpu *v, enum mmu_window_kind kind, uint64_t gva, bool write);
/* 64-bit code met a region without a slot. In a signal handler, too. */
enum bt_window_action bt_window_take_region(struct bt_vcpu *v, enum mmu_window_kind kind, uint64_t gva);
/* The instruction of a record of block b looked whether a region (bits 32-63 of an address) is parallel, and it is not.
 * In a signal handler: RETRY when it is now. */
enum bt_window_action bt_window_take_stretch(struct bt_vcpu *v, const struct bt_block *b,
                                             const struct bt_insn_record *r, uint64_t region);
/* Puts an exit to the translation by the tables in the place of the host instruction of a record of block b, if there
 * is room. */
void bt_window_divert(struct bt_vcpu *v, uintptr_t at, const struct bt_block *b, const struct bt_insn_record *r);
/* Entries of the tables were dropped. */
void bt_window_flushed(struct bt_vcpu *v, enum mmu_flush_kind kind);

#endif
