/* SPDX-License-Identifier: MIT */
/* What this host's KVM can really run: found out by running a few instructions in each mode. A KVM need not be
 * hardware: nested clouds offer software ones which accept every call and then shut the guest down in modes they do not
 * know. */
#ifndef RINGFOLD_HW_ASSIST_KVM_PROBE_H
#define RINGFOLD_HW_ASSIST_KVM_PROBE_H

#include <stdbool.h>
#include <stddef.h>

/* What /dev/kvm looks like from here. text: in words. */
enum kvm_node { KVM_NODE_MISSING, KVM_NODE_FORBIDDEN, KVM_NODE_BROKEN, KVM_NODE_PRESENT };
enum kvm_node kvm_probe_node(char *text, size_t len);

enum kvm_mode {
    KVM_MODE_REAL,
    KVM_MODE_FLAT32,
    KVM_MODE_PAGING32,
    KVM_MODE_PAE,
    KVM_MODE_LONG,
    KVM_MODE_RING3,
    KVM_MODE_COUNT
};
const char *kvm_mode_name(enum kvm_mode mode);
struct cpu;
enum kvm_mode kvm_mode_of(const struct cpu *cpu);

enum { KVM_PROBE_TEXT = 128 };

struct kvm_probe {
    enum kvm_node node;
    char node_text[160];
    bool usable;                 /* guests could be made at all */
    char reason[KVM_PROBE_TEXT]; /* why not */
    bool works[KVM_MODE_COUNT];
    char why[KVM_MODE_COUNT][KVM_PROBE_TEXT]; /* what happened instead */
    bool software;                            /* real mode as slow as only an interpreter is */
    bool steps[KVM_MODE_COUNT];               /* KVM_GUESTDBG_SINGLESTEP stops behind an instruction in this mode */
    /* Interrupt controllers and PIT in the kernel (kvm_chips.c): a PIT's interrupt by the 8259 ends HLT; and also one
     * by the I/O APIC does, and shows in the local one as it should. */
    bool chips_work, lapic_works;
    char chips_why[KVM_PROBE_TEXT], lapic_why[KVM_PROBE_TEXT]; /* what happened instead */
    double chips_ms;              /* from loading a count of half a millisecond to its interrupt's handler */
    bool exact_windows;           /* an interrupt window of two instructions is noticed */
    double real_ns, protected_ns; /* for one instruction of a loop; 0: not measured */
    double milliseconds;          /* that the probe took */
};

/* Everything, tried once for the process, within KVM_MODE_COUNT times the limit for one mode. Any thread. */
const struct kvm_probe *kvm_probe(void);
/* As much of it as tells whether a machine can be given to this KVM (kvm_probe_suffices): the modes up to the first
 * that does not work, and the speed when all do. The rest of the struct stays as it is; a later call may fill it in. */
const struct kvm_probe *kvm_probe_choice(bool long_mode);
/* The modes and steps. */
const struct kvm_probe *kvm_probe_steps(void);
/* chips_* and lapic_* alone. */
const struct kvm_probe *kvm_probe_chips(void);
/* exact_windows alone. */
bool kvm_probe_exact_windows(void);

/* Can a machine with or without long mode be given to this KVM with good results? False: why, in a few words. */
bool kvm_probe_suffices(const struct kvm_probe *p, bool long_mode, char *why, size_t len);

#endif
