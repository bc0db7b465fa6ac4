/* SPDX-License-Identifier: MIT */
/* Events from outside: the interrupt pins and the requests of other threads. */
#include "cpu/internal.h"

void cpu_raise(struct cpu *cpu, uint32_t events)
{
    atomic_fetch_or_explicit(&cpu->events, events, memory_order_release);
    if (cpu->board && cpu->board->kick)
        cpu->board->kick(cpu->board->opaque);
}

void cpu_lower(struct cpu *cpu, uint32_t events)
{
    atomic_fetch_and_explicit(&cpu->events, ~events, memory_order_release);
}

static bool nmi_deliverable(const struct cpu *cpu, uint32_t events)
{
    return (events & CPU_EVENT_NMI) && !cpu->nmi_blocked && !cpu->interrupt_shadow;
}

static bool intr_deliverable(const struct cpu *cpu, uint32_t events)
{
    return (events & CPU_EVENT_INTR) && (cpu->rflags & FLAG_IF) && !cpu->interrupt_shadow;
}

bool cpu_has_work(const struct cpu *cpu)
{
    uint32_t events = atomic_load_explicit(&cpu->events, memory_order_acquire);
    return (events & CPU_EVENT_INIT) || nmi_deliverable(cpu, events) || intr_deliverable(cpu, events);
}

static void deliver_external(struct cpu *cpu, unsigned vector)
{
    struct event e = {.vector = (uint8_t)vector, .kind = EVENT_EXTERNAL, .rip = cpu->rip, .flags = cpu->rflags};
    cpu->halted = false;
    event_deliver_or_escalate(cpu, e);
}

bool cpu_take_interrupt(struct cpu *cpu)
{
    uint32_t events = atomic_load_explicit(&cpu->events, memory_order_acquire);
    if (cpu->shutdown)
        return false;
    if (events & CPU_EVENT_SMI) /* there is no system management mode on this board */
        cpu_lower(cpu, CPU_EVENT_SMI);
    if (events & CPU_EVENT_INIT) {
        cpu_lower(cpu, CPU_EVENT_INIT);
        cpu_reset_by_init(cpu);
        return true;
    }
    if (nmi_deliverable(cpu, events)) {
        cpu_lower(cpu, CPU_EVENT_NMI);
        cpu->nmi_blocked = true;
        deliver_external(cpu, VECTOR_NMI);
        return true;
    }
    if (!intr_deliverable(cpu, events) || !cpu->board || !cpu->board->interrupt_ack)
        return false;
    cpu_fpu_park(cpu);
    int vector = cpu->board->interrupt_ack(cpu->board->opaque);
    cpu_fpu_unpark(cpu);
    if (vector < 0)
        return false;
    deliver_external(cpu, (unsigned)vector & 0xff);
    return true;
}
