/* SPDX-License-Identifier: MIT */
/* What the doctor says about KVM: hw-assist/kvm_probe in words. */
#include "frontend/doctor.h"

#include "hw-assist/kvm_probe.h"

#include <string.h>

static void print_mode(const struct kvm_probe *p, enum kvm_mode mode)
{
    doctor_line(p->works[mode] ? MARK_OK : MARK_NOTE, kvm_mode_name(mode), "%s",
                p->works[mode] ? "runs" : p->why[mode]);
}

/* What ringfold verify can use as a reference. */
static void print_steps(const struct kvm_probe *p)
{
    char text[256] = "";
    for (enum kvm_mode mode = 0; mode < KVM_MODE_COUNT; mode++)
        if (p->steps[mode])
            snprintf(text + strlen(text), sizeof text - strlen(text), "%s%s", *text ? ", " : "", kvm_mode_name(mode));
    doctor_line(*text ? MARK_OK : MARK_NOTE, "single steps", "%s", *text ? text : "in no mode");
}

static void print_chips(const struct kvm_probe *p)
{
    static const char what[] = "interrupt chips";
    if (!p->chips_work)
        doctor_line(MARK_NOTE, what, "the board's own; the kernel's cannot be used: %s", p->chips_why);
    else if (!p->lapic_works)
        doctor_line(MARK_NOTE, what, "the board's own; the kernel's work in part: %s", p->lapic_why);
    else
        doctor_line(MARK_OK, what, "in the kernel: %.1f ms from a count of 0.5 to its handler", p->chips_ms);
}

void doctor_check_kvm(void)
{
    const struct kvm_probe *p = kvm_probe();
    char why[256];
    printf("KVM:\n");
    doctor_line(p->node == KVM_NODE_PRESENT ? MARK_OK : MARK_NOTE, "/dev/kvm", "%s", p->node_text);
    if (p->node == KVM_NODE_FORBIDDEN)
        doctor_line(MARK_NOTE, "to mend it", "sudo adduser $USER kvm, then log in again");
    if (p->node == KVM_NODE_PRESENT && !p->usable)
        doctor_line(MARK_NOTE, "a tiny guest", "%s", p->reason);
    if (p->usable) {
        for (enum kvm_mode mode = 0; mode < KVM_MODE_COUNT; mode++)
            print_mode(p, mode);
        doctor_line(p->software ? MARK_NOTE : MARK_OK, "speed",
                    "%.2f ns for an instruction in real mode, %.2f in protected mode%s", p->real_ns, p->protected_ns,
                    p->software ? ": a software KVM, not the processor's" : "");
        doctor_line(p->exact_windows ? MARK_OK : MARK_NOTE, "interrupt windows", "%s",
                    p->exact_windows ? "exact" : "missed when short: the guest is stepped to them");
        print_chips(p);
        print_steps(p);
        doctor_line(MARK_OK, "the probe", "took %.1f ms", p->milliseconds);
    }
    bool suffices = kvm_probe_suffices(p, false, why, sizeof why);
    doctor_line(suffices ? MARK_OK : MARK_NOTE, "--engine=auto", "takes %s: %s", suffices ? "kvm" : "bt", why);
}
