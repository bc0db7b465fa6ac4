/* SPDX-License-Identifier: MIT */
#include "devices/machine_step.h"

#include "devices/machine_internal.h"

enum engine_exit machine_step(struct machine *m)
{
    struct vcpu *v = &m->vcpu;
    vcpu_apply_a20(v);
    return v->engine->run(v->cpu);
}

void machine_step_reset(struct machine *m)
{
    machine_carry_out_reset(m);
}

void machine_step_devices(struct machine *m, uint64_t ns, uint64_t wait_ns)
{
    pthread_mutex_lock(&m->lock);
    clock_advance(m->clock, ns);
    pthread_mutex_unlock(&m->lock);
    loop_round(m->loop, wait_ns);
}

uint64_t machine_step_idle_ns(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
    uint64_t now = clock_now(m->clock), deadline = clock_next_deadline(m->clock);
    pthread_mutex_unlock(&m->lock);
    return deadline == CLOCK_NEVER ? CLOCK_NEVER : deadline > now ? deadline - now : 0;
}

bool machine_step_a20(const struct machine *m)
{
    return atomic_load(&m->a20);
}

const struct cpu_model *machine_step_model(const struct machine *m)
{
    return &m->model;
}

int machine_step_status(const struct machine *m)
{
    return atomic_load(&m->end_status);
}
