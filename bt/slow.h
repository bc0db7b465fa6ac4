/* SPDX-License-Identifier: MIT */
/* The C functions that translated code calls through the glue. All run with the guest's registers saved in the vCPU
 * and, unless they unload it, the guest's vector state in the host's registers. */
#ifndef RINGFOLD_BT_SLOW_H
#define RINGFOLD_BT_SLOW_H

#include "bt/cache.h"

/* At the start of what may run with the guest's vector state live: the sanitizers' run-time functions use vector
 * registers. */
static inline void bt_protect_vectors(struct bt_vcpu *v)
{
#ifdef RINGFOLD_SANITIZE
    cpu_fpu_unload(&v->cpu);
#else
    (void)v;
#endif
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
