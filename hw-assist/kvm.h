/* SPDX-License-Identifier: MIT */
/* The KVM engine: the same board on VT-x or AMD-V, through /dev/kvm.
 *
 * engine_kvm (cpu/engine.h) runs a vCPU by KVM_RUN; every port, every device's memory and every HLT comes back to the
 * vCPU's thread, which serves them by struct cpu_board exactly as translated code does. Guest memory is the pmap's
 * (kvm_memory.c); the state is struct cpu's (kvm_state.c): newest in KVM while the guest runs, and in the struct
 * whenever run returns. After ENGINE_EXIT_HALT only registers, segments and control registers are up to date (a
 * sleeping HLT is woken by the next call of run, which is what makes it whole).
 *
 * The interrupt controllers (8259 pair, I/O APIC, local APIC) and the 8254 are KVM's own while run is being executed,
 * if KVM has them and engine_options.kernel_irqchip says so: then an interrupt, its end, HLT and the reading of a
 * counter leave the guest for nobody. Outside run they are the board's, whose chips take the state over as bt or a
 * stopped machine needs it (cpu/chips.h, kvm_chips.c). With the board's, each interrupt costs an exit for HLT or a
 * window and one for its end. They stay the board's when the machine is stepped (engine_options.step), when the board
 * has no APICs, and where KVM cannot let the local APIC's timer count at the model's 25 MHz
 * (KVM_CAP_X86_APIC_BUS_CYCLES_NS, Linux 6.10), since a guest that has measured it would be misled. What KVM's chips do
 * otherwise than the board's: the I/O APIC takes no notice of polarity, and its pin 0 gets no INTR; a request of the
 * 8259 in edge mode outlives its line; LINT0 passes the 8259 on as ExtINT only; bits 2 and 3 of port 61h read as 0; the
 * 8254 counts in binary, whatever the gate of modes 0 and 4 says, and a new count takes effect at once; INIT by a local
 * APIC resets the processor and nothing else.
 *
 * The lines of devices are set by KVM_IRQ_LINE, under the machine lock under which they move anyway. An irqfd for each
 * would save nothing: 0.2 us for one, 0.2 to 1.8 us for a write to the other's eventfd (software KVM, Linux 6.18), it
 * makes edges, or levels that the guest's EOI takes back, and no interrupt of this board begins as an event of the
 * host. Nor is there an ioeventfd: it tells another thread that a register was written, for a device that does not need
 * the value, and no device here has such a doorbell.
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
