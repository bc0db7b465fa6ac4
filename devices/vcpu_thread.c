/* SPDX-License-Identifier: MIT */
/* A vCPU's thread: runs the engine, sleeps in HLT, stands still while the machine is stopped, carries out resets. */
#include "devices/machine_internal.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- the state in which a machine starts ---- */

static void load_segment(struct segment *to, const struct loader_segment *from)
{
    *to = (struct segment){.base = from->base, .limit = from->limit, .attr = from->attr, .selector = from->selector};
}

/* The processor as a boot loader leaves it. */
static void enter_kernel(struct cpu *cpu, const struct loader_entry *e)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = e->gpr[i];
    cpu->rip = cpu->next_rip = e->rip;
    load_segment(&cpu->seg[SEG_CS], &e->cs);
    load_segment(&cpu->seg[SEG_SS], &e->ss);
    load_segment(&cpu->seg[SEG_DS], &e->data);
    load_segment(&cpu->seg[SEG_ES], &e->data);
    load_segment(&cpu->seg[SEG_FS], &e->data);
    load_segment(&cpu->seg[SEG_GS], &e->data);
    if (e->mode == 16)
        return;
    cpu->gdtr = (struct table_register){.base = e->gdt_base, .limit = e->gdt_limit};
    if (e->mode == 64) {
        mmu_set_paging(&cpu->mmu, CR0_PE | CR0_ET | CR0_PG, CR4_PAE, EFER_LME | EFER_LMA);
        mmu_set_cr3(&cpu->mmu, e->cr3);
    } else {
        mmu_set_paging(&cpu->mmu, CR0_PE | CR0_ET, 0, 0);
    }
}

int machine_power_on(struct machine *m, char *err, size_t err_len)
{
    struct cpu *cpu = m->vcpu.cpu;
    struct loader_board board = {0};
    struct loader_entry entry = {0};
    int r = 0;
    board_reset(&m->board, &board);
    cpu_reset(cpu);
    if (m->config.kernel) {
        r = loader_load(&m->memory, &m->config, &board, &entry, err, err_len);
        if (!r)
            enter_kernel(cpu, &entry);
    }
    vcpu_apply_a20(&m->vcpu);
    m->vcpu.engine->state_replaced(cpu);
    return r;
}

/* INIT keeps what a reset would clear: MSRs, the TSC, the x87 and vector state. A20 opens, else the CPU would not find
 * its first instruction. */
static void init_processor(struct machine *m)
{
    struct cpu *cpu = m->vcpu.cpu;
    static const size_t kept = sizeof cpu->msr;
    unsigned char msr[kept], xsave[CPU_XSAVE_SIZE];
    uint64_t tsc_offset = cpu->tsc_offset, xcr0 = cpu->xcr0;
    cpu_fpu_unload(cpu);
    __builtin_memcpy(msr, &cpu->msr, kept);
    __builtin_memcpy(xsave, cpu->xsave, sizeof xsave);
    cpu_reset(cpu);
    __builtin_memcpy(&cpu->msr, msr, kept);
    __builtin_memcpy(cpu->xsave, xsave, sizeof xsave);
    cpu->tsc_offset = tsc_offset;
    cpu->xcr0 = xcr0;
    port92_reset(&m->board.port92);
    if (m->board.has_apic)
        lapic_reset_by_init(&m->board.lapic[0]);
    vcpu_apply_a20(&m->vcpu);
    m->vcpu.engine->state_replaced(cpu);
}

void machine_carry_out_reset(struct machine *m)
{
    char err[512] = "";
    pthread_mutex_lock(&m->lock);
    unsigned requests = m->reset_requests;
    m->reset_requests = 0;
    bool whole = requests & (MACHINE_REQUEST_RESET | MACHINE_REQUEST_GUEST_RESET);
    if (whole && m->config.no_reboot) {
        machine_end(m, MACHINE_RESET_END, 0);
    } else if (whole && machine_power_on(m, err, sizeof err)) {
        fprintf(stderr, "ringfold: reset: %s\n", err);
        machine_end(m, MACHINE_HOST_ERROR, 0);
    } else if (whole && m->config.on_reset) {
        m->config.on_reset(m->config.on_reset_opaque, requests & MACHINE_REQUEST_GUEST_RESET);
    } else if (!whole && requests & MACHINE_REQUEST_INIT) {
        init_processor(m);
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- sleeping and waking ---- */

enum { WAKING_EVENTS = CPU_EVENT_KICK | CPU_EVENT_RESET };

void vcpu_gather_events(struct vcpu *v)
{
    unsigned count = atomic_load(&v->part_count);
    struct cpu *cpu;
    do { /* again when the engine was changed meanwhile */
        cpu = v->cpu;
        for (unsigned i = 0; i < count; i++) {
            struct cpu *other = v->parts[i].cpu;
            if (other != cpu && atomic_load(&other->events))
                atomic_fetch_or(&cpu->events, atomic_exchange(&other->events, 0));
        }
    } while (cpu != v->cpu);
}

void vcpu_kick(void *opaque)
{
    struct vcpu *v = opaque;
    const struct engine *engine = v->engine;
    if (!engine) /* the vCPU is being made */
        return;
    if (atomic_load(&v->part_count) > 1)
        vcpu_gather_events(v);
    if (engine->kick)
        engine->kick(v->cpu);
    /* A read-modify-write, so that it is ordered against the sleeper's: the sleeper sees the event, or this sees it
     * asleep. */
    if (atomic_fetch_or(&v->asleep, 0))
        sem_post(&v->wake);
}

static void sleep_halted(struct vcpu *v)
{
    if (!v->alarm.keeps && !v->engine->costly_exit) {
        pthread_mutex_lock(&v->machine->lock);
        vcpu_alarm_keep(&v->alarm, true);
        pthread_mutex_unlock(&v->machine->lock);
    }
    atomic_exchange(&v->asleep, 1);
    while (!(atomic_load(&v->cpu->events) & WAKING_EVENTS) && !cpu_has_work(v->cpu) &&
           !atomic_load(&v->machine->ending))
        sem_wait(&v->wake); /* also returns for what came while the vCPU was awake */
    atomic_store(&v->asleep, 0);
}

/* In the alarm's signal handler. */
static void alarm_rings(void *opaque)
{
    struct vcpu *v = opaque;
    cpu_raise(v->cpu, CPU_EVENT_KICK);
}

/* Stands still while the machine is stopped, and runs the timers that are due. slept: the vCPU has come out of HLT
 * since this was last called, and may be about to go back; else it is busy, and the loop shall run the clock. */
static void attend(struct vcpu *v, bool slept)
{
    struct machine *m = v->machine;
    pthread_mutex_lock(&m->lock);
    while (m->stopped && !atomic_load(&m->ending)) {
        v->parked = true;
        pthread_cond_broadcast(&m->state_changed);
        pthread_cond_wait(&m->state_changed, &m->lock);
    }
    v->parked = false;
    vcpu_alarm_attend(&v->alarm);
    vcpu_alarm_keep(&v->alarm, slept && !v->engine->costly_exit);
    pthread_mutex_unlock(&m->lock);
}

void vcpu_apply_a20(struct vcpu *v)
{
    bool a20 = atomic_load(&v->machine->a20);
    if ((v->cpu->mmu.a20_mask == ~0ull) != a20)
        mmu_set_a20(&v->cpu->mmu, a20);
}

/* ---- the thread ---- */

static void report_triple_fault(struct vcpu *v)
{
    static char text[4096];
    cpu_dump(v->cpu, text, sizeof text);
    fprintf(stderr, "ringfold: triple fault\n%s", text);
    machine_end(v->machine, MACHINE_TRIPLE_FAULT, 0);
}

static uint64_t read_clock(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * NS_PER_SEC + (uint64_t)t.tv_nsec;
}

static void *run_thread(void *opaque)
{
    struct vcpu *v = opaque;
    struct machine *m = v->machine;
    bool slept = false;
    pthread_mutex_lock(&m->lock);
    vcpu_alarm_open(&v->alarm, m->clock, m->loop, alarm_rings, v);
    pthread_mutex_unlock(&m->lock);
    attend(v, slept);
    atomic_store(&m->entered_cpu_ns, read_clock(CLOCK_PROCESS_CPUTIME_ID));
    atomic_store(&m->entered_at, read_clock(CLOCK_MONOTONIC));
    while (!atomic_load(&m->ending)) {
        vcpu_apply_a20(v);
        const struct engine *engine = v->engine;
        switch (engine->run(v->cpu)) {
        case ENGINE_EXIT_KICK:
            attend(v, slept);
            slept = false;
            break;
        case ENGINE_EXIT_HALT:
            sleep_halted(v);
            slept = true;
            break;
        case ENGINE_EXIT_SHUTDOWN:
            report_triple_fault(v);
            break;
        case ENGINE_EXIT_RESET:
            machine_carry_out_reset(m);
            break;
        case ENGINE_EXIT_UNABLE:
        case ENGINE_EXIT_ERROR:
            fprintf(stderr, "ringfold: engine %s failed\n", engine->name);
            machine_end(m, MACHINE_HOST_ERROR, 0);
            break;
        }
    }
    pthread_mutex_lock(&m->lock);
    vcpu_alarm_close(&v->alarm);
    v->parked = true;
    pthread_cond_broadcast(&m->state_changed);
    pthread_mutex_unlock(&m->lock);
    return NULL;
}

int vcpu_start(struct vcpu *v)
{
    pthread_mutex_lock(&v->machine->lock);
    int r = pthread_create(&v->thread, NULL, run_thread, v);
    v->started = r == 0;
    pthread_mutex_unlock(&v->machine->lock);
    int pinned = v->started ? placement_apply_thread(&v->machine->config.placement, 0, v->thread) : 0;
    if (pinned)
        fprintf(stderr, "ringfold: the virtual CPU's thread cannot be bound: %s\n", strerror(-pinned));
    return -r;
}

void vcpu_join(struct vcpu *v)
{
    cpu_raise(v->cpu, CPU_EVENT_KICK);
    pthread_join(v->thread, NULL);
    pthread_mutex_lock(&v->machine->lock);
    v->started = false;
    pthread_mutex_unlock(&v->machine->lock);
}
