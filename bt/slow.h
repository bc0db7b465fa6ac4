/* SPDX-License-Identifier: MIT */
/* The C functions that translated code calls through the glue. All run with the guest's registers saved in the vCPU
 * and, unless they unload it, the guest's vector state in the host's registers (but see BT_VECTORS_STAY). */
#ifndef RINGFOLD_BT_SLOW_H
#define RINGFOLD_BT_SLOW_H

#include "bt/cache.h"

/* Does the guest's vector state stay in the host's registers while C runs? The C between two blocks is compiled without
 * vector registers, but a sanitizer's run-time functions use them, and the compiler may call those anywhere: at a
 * function's entry, at an access, to copy a struct. In builds with a sanitizer the glue unloads the state as the first
 * thing on every way into C and loads it as the last on every way back, by functions compiled without the sanitizer
 * (Makefile): there it is live in translated code only. Signal handlers are the same in all builds: what they do to the
 * registers is undone behind them. */
#ifdef RINGFOLD_SANITIZE
enum { BT_VECTORS_STAY = false };
#else
enum { BT_VECTORS_STAY = true };
#endif

/* At the end of what goes to translated code. */
static inline void bt_load_vectors(struct bt_vcpu *v)
{
    if (BT_VECTORS_STAY && __builtin_expect(!v->cpu.fpu_live, 0))
        cpu_fpu_load(&v->cpu);
}

/* slow_info: what the access is */
enum {
    BT_INFO_SIZE = 0xff,   /* bytes; at most BT_BOUNCE_SIZE */
    BT_INFO_READ = 1 << 8, /* the instruction reads the operand (also when it writes it) */
    BT_INFO_WRITE = 1 << 9,
    BT_INFO_OFFSET = 1 << 10,  /* slow_addr is an offset in segment BT_INFO_SEG, not yet a linear address */
    BT_INFO_SEG_SHIFT = 11,    /* three bits */
    BT_INFO_ALIGNED = 1 << 14, /* the instruction demands natural alignment: #GP(0) */
    BT_INFO_FILL = 1 << 15     /* only make the table's entry, or raise the exception; the access comes after it */
};

/* One memory operand whose fast path failed. 0: slow_addr is linear and slow_delta + slow_addr a good host address for
 * slow_info's access; a bounce buffer may stand in, and then post must be called after the instruction. Else the access
 * faults: what bt_go_on_fault says. */
uintptr_t bt_slow_access(struct bt_vcpu *v);
/* After a write through bt_slow_access when post_pending is set. Nonzero: leave the block (cpu->rip is the next insn).
 */
int bt_slow_post(struct bt_vcpu *v);
/* Carries out one decoded instruction in C. 0: go on in the block; else an enum bt_exit + 1, or glue to go to. */
uintptr_t bt_callout(struct bt_vcpu *v, const struct bt_site *site);

/* Notes data breakpoints that the access meets; they trap after the instruction. */
void bt_watch(struct cpu *cpu, uint64_t gva, unsigned size, bool write);

/* flags image <-> rflags */
void bt_flags_from_image(struct bt_vcpu *v);
void bt_flags_to_image(struct bt_vcpu *v);

#endif
