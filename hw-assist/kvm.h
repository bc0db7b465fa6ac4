/* SPDX-License-Identifier: MIT */
/* The KVM engine: the same board on VT-x or AMD-V, through /dev/kvm.
 *
 * engine_kvm (cpu/engine.h) runs a vCPU by KVM_RUN; every port, every device's memory and every HLT comes back to the
 * vCPU's thread, which serves them by struct cpu_board exactly as translated code does. Guest memory is the pmap's
 * (kvm_memory.c); the state is struct cpu's (kvm_state.c): newest in KVM while the guest runs, and in the struct
 * whenever run returns. After ENGINE_EXIT_HALT only registers, segments and control registers are up to date (a
 * sleeping HLT is woken by the next call of run, which is what makes it whole).
 *
 * The interrupt controllers, the timers and everything else of the board stay in user space also where KVM offers its
 * own (KVM_CREATE_IRQCHIP, KVM_CREATE_PIT2): the board is the same 8259s, 8254 and clock under both engines, so that
 * they can be compared, a machine can change engines while it runs, and no state is in two places. The price is two
 * exits for an interrupt (window, end of interrupt) that a local APIC in the kernel would save; the board's own runs in
 * user space so far. Without KVM's chips there is no irqfd; and ioeventfd carries notifications past the vCPU's thread,
 * but no device of this board has a doorbell that would gain from it.
 *
 * Coalesced MMIO is used for device memory whose owner says that writes may come late (memory_post_writes): KVM enters
 * them into a ring, which is emptied after each exit, and when somebody looks at the memory.
 *
 * What the guest sees of the processor is the model of cpu/cpuid.h. */
#ifndef RINGFOLD_HW_ASSIST_KVM_H
#define RINGFOLD_HW_ASSIST_KVM_H

#include "cpu/engine.h"

/* Why a KVM cannot be used by engine_kvm at all: one line. False: it can. */
bool kvm_lacks(int kvm_fd, char *reason, size_t len);

#endif
