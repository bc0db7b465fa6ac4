/* SPDX-License-Identifier: MIT */
/* Where a vCPU's time goes, by sampling: a thread interrupts the vCPU's about a thousand times a second (not evenly, so
 * as not to beat with the guest's own timer) while it is inside the engine, and the signal handler looks at where it
 * is: in which block, or in C called from which block, and in which phase. Nothing is measured while no profile is
 * asked for, and translated code is the same with and without one.
 *
 * Threads: the sampler's, the vCPU's (enter, leave, flushed, the handler), and whoever asks for the results. */
#ifndef RINGFOLD_BT_PROFILE_H
#define RINGFOLD_BT_PROFILE_H

#include "bt/cache.h"

enum bt_phase {
    BT_PHASE_EXECUTE,   /* translated code and the glue around it */
    BT_PHASE_TRANSLATE, /* making blocks */
    BT_PHASE_EMULATE,   /* C called from translated code: system instructions, shadow fills, device memory */
    BT_PHASE_DEVICES,   /* the board: chips, and waiting for the machine lock */
    BT_PHASE_DISPATCH,  /* finding blocks, chaining, delivering exceptions and interrupts */
    BT_PHASES
};

struct bt_profile;

/* Starts sampling. 0 or -errno; v->profile is NULL then. The board is replaced by one that notes its use. */
int bt_profile_create(struct bt_vcpu *v);
/* The vCPU's thread does not run any more. v->profile may be NULL. */
void bt_profile_destroy(struct bt_vcpu *v);
/* The vCPU's thread enters and leaves engine.run; v->profile is not NULL. */
void bt_profile_enter(struct bt_vcpu *v);
void bt_profile_leave(struct bt_vcpu *v);
/* Before the code cache is flushed: what was seen in its blocks is kept by guest address. */
void bt_profile_flushed(struct bt_vcpu *v);
/* Appends members of a JSON object, each with a comma in front: "time", in nanoseconds by phase, and "board", how often
 * each part of it was used. Nothing when p is NULL. */
void bt_profile_stats(struct bt_profile *p, FILE *out);
/* The blocks with the most samples, guest and host code side by side. The vCPU must not run. Nothing without a profile.
 */
void bt_profile_report(struct bt_vcpu *v, FILE *out, unsigned count);

#endif
