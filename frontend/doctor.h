/* SPDX-License-Identifier: MIT */
/* The doctor's look at KVM: builds a VM with one vCPU and runs a few bytes of guest code in it. */
#ifndef RINGFOLD_FRONTEND_DOCTOR_H
#define RINGFOLD_FRONTEND_DOCTOR_H

#include <stdbool.h>

struct kvm_report {
    bool failed;   /* it cannot even run a few instructions; text says which step */
    bool software; /* the guest ran, but as slowly as only an emulator does */
    bool paging;   /* a 32-bit guest with paging ran too */
    char text[256];
};
void doctor_probe_kvm(struct kvm_report *report);

#endif
