/* SPDX-License-Identifier: MIT */
/* Host signals that translated code causes on behalf of the guest: divide errors, x87 and SIMD exceptions, misaligned
 * vector accesses, instructions that the host lacks. */
#ifndef RINGFOLD_BT_FAULT_H
#define RINGFOLD_BT_FAULT_H

#include "bt/cache.h"

/* Makes the calling thread v's: signal handlers (once for the process) and an alternate stack (with SS_AUTODISARM,
 * since the guest may load any value into the register that the kernel takes for a stack pointer). 0 or -errno. */
int bt_fault_attach(struct bt_vcpu *v);
void bt_fault_detach(struct bt_vcpu *v);

#endif
