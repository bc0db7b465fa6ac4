/* SPDX-License-Identifier: MIT */
#include "frontend/engines.h"

#include "hw-assist/kvm_probe.h"

#include <string.h>

static const struct engine *const engines[] = {&engine_bt, &engine_kvm};

const struct engine *engines_find(const char *name)
{
    for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
        if (!strcmp(engines[i]->name, name))
            return engines[i];
    return NULL;
}

static const struct engine *choose_kvm(bool long_mode, char *note, size_t note_len, char *err, size_t err_len)
{
    const struct kvm_probe *p = kvm_probe_choice(long_mode);
    char why[256];
    bool suffices = kvm_probe_suffices(p, long_mode, why, sizeof why);
    if (!p->usable) {
        snprintf(err, err_len, "--engine kvm: %s; --engine bt works without it", why);
        return NULL;
    }
    snprintf(note, note_len, "asked for%s%s", suffices ? "" : ", though ", suffices ? "" : why);
    return &engine_kvm;
}

const struct engine *engines_choose(enum engine_choice choice, const struct machine_config *config, char *note,
                                    size_t note_len, char *err, size_t err_len)
{
    bool long_mode = config->long_mode;
    switch (choice) {
    case ENGINE_CHOICE_BT:
        snprintf(note, note_len, "asked for");
        return &engine_bt;
    case ENGINE_CHOICE_KVM:
        return choose_kvm(long_mode, note, note_len, err, err_len);
    default:
        break;
    }
    if (kvm_probe_suffices(kvm_probe_choice(long_mode), long_mode, note, note_len))
        return &engine_kvm;
    if (config->engine_options.host_cpu) {
        snprintf(err, err_len, "--cpu-model host: needs the kvm engine, but %s", note);
        return NULL;
    }
    return &engine_bt;
}

bool engines_refuse_now(const struct engine *engine, const struct cpu *cpu, char *err, size_t err_len)
{
    const struct kvm_probe *p;
    if (engine != &engine_kvm)
        return false;
    p = kvm_probe();
    if (!p->usable) {
        kvm_probe_suffices(p, false, err, err_len);
        return true;
    }
    enum kvm_mode mode = cpu_long_mode(cpu)         ? KVM_MODE_LONG
                         : !(cpu->mmu.cr0 & CR0_PG) ? KVM_MODE_REAL
                         : cpu->mmu.cr4 & CR4_PAE   ? KVM_MODE_PAE
                                                    : KVM_MODE_PAGING32;
    if (p->works[mode])
        return false;
    snprintf(err, err_len, "this host's KVM has no %s, which the guest uses now", kvm_mode_name(mode));
    return true;
}
