/* SPDX-License-Identifier: MIT */
/* The one place where exceptions are raised, and the rules for faults during the delivery of faults.
 * SDM vol. 3, 6.15: interrupt 8, tables 6-4 and 6-5. */
#include "cpu/internal.h"

int cpu_raise_fault(struct cpu *cpu, unsigned vector)
{
    cpu->fault = (struct cpu_fault){.vector = (uint8_t)vector};
    return CPU_FAULT;
}

int cpu_raise_fault_error(struct cpu *cpu, unsigned vector, uint32_t error)
{
    cpu->fault = (struct cpu_fault){.vector = (uint8_t)vector, .has_error = true, .error = error};
    return CPU_FAULT;
}

int cpu_raise_page_fault(struct cpu *cpu, const struct mmu_fault *f)
{
    cpu->fault = (struct cpu_fault){.vector = VECTOR_PF, .has_error = true, .error = f->error, .cr2 = f->gva};
    return CPU_FAULT;
}

enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

static enum fault_class fault_class(unsigned vector)
{
    switch (vector) {
    case VECTOR_DE:
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP:
        return CLASS_CONTRIBUTORY;
    case VECTOR_PF:
        return CLASS_PAGE_FAULT;
    case VECTOR_DF:
        return CLASS_DOUBLE_FAULT;
    default:
        return CLASS_BENIGN;
    }
}

static bool makes_double_fault(enum fault_class first, enum fault_class second)
{
    if (first == CLASS_CONTRIBUTORY)
        return second == CLASS_CONTRIBUTORY;
    return first == CLASS_PAGE_FAULT && (second == CLASS_CONTRIBUTORY || second == CLASS_PAGE_FAULT);
}

/* CR2 and DR6 are loaded even when the delivery then fails. */
static void load_fault_registers(struct cpu *cpu, const struct cpu_fault *f)
{
    if (f->vector == VECTOR_PF)
        cpu->cr2 = f->cr2;
    if (f->vector == VECTOR_DB) {
        cpu->dr[6] |= f->dr6;
        cpu->dr[7] &= ~(1ull << 13); /* GD, so that the handler may use the debug registers */
    }
}

/* The exception in cpu->fault as an event that returns to the instruction. */
static struct event fault_event(const struct cpu *cpu)
{
    const struct cpu_fault *f = &cpu->fault;
    struct event e = {.vector = f->vector,
                      .kind = EVENT_EXCEPTION,
                      .has_error = f->has_error,
                      .error = f->error,
                      .rip = cpu->rip,
                      .flags = cpu->rflags};
    /* Faults push RF set, so that an instruction breakpoint on the instruction does not hit again; only that breakpoint
     * itself (#DB with B0-B3) leaves it to the handler. #DF and #MC are aborts. */
    bool breakpoint = f->vector == VECTOR_DB && !(f->dr6 & 1u << 13);
    if (!breakpoint && f->vector != VECTOR_DF && f->vector != VECTOR_MC)
        e.flags |= EFLAGS_RF;
    return e;
}

void event_deliver_or_escalate(struct cpu *cpu, struct event e)
{
    while (event_deliver(cpu, &e)) {
        enum fault_class first = e.kind == EVENT_EXCEPTION ? fault_class(e.vector) : CLASS_BENIGN;
        load_fault_registers(cpu, &cpu->fault);
        if (first == CLASS_DOUBLE_FAULT) {
            cpu->shutdown = true;
            return;
        }
        if (makes_double_fault(first, fault_class(cpu->fault.vector)))
            cpu_raise_fault_error(cpu, VECTOR_DF, 0);
        e = fault_event(cpu);
    }
}

void cpu_deliver_fault(struct cpu *cpu)
{
    if (cpu->fault.vector == FAULT_WAIT) {
        cpu->halted = true;
        return;
    }
    load_fault_registers(cpu, &cpu->fault);
    event_deliver_or_escalate(cpu, fault_event(cpu));
}

int cpu_int(struct cpu *cpu, unsigned vector, bool int3_or_into)
{
    struct event e = {.vector = (uint8_t)vector,
                      .kind = int3_or_into ? EVENT_INT3_INTO : EVENT_INT_N,
                      .rip = cpu->next_rip,
                      .flags = cpu->rflags};
    return event_deliver(cpu, &e);
}

int cpu_int1(struct cpu *cpu)
{
    struct event e = {.vector = VECTOR_DB, .kind = EVENT_EXCEPTION, .rip = cpu->next_rip, .flags = cpu->rflags};
    return event_deliver(cpu, &e);
}

void cpu_deliver_debug_trap(struct cpu *cpu, uint64_t dr6_bits)
{
    struct event e = {.vector = VECTOR_DB, .kind = EVENT_EXCEPTION, .rip = cpu->rip, .flags = cpu->rflags};
    cpu->fault = (struct cpu_fault){.vector = VECTOR_DB, .dr6 = dr6_bits};
    load_fault_registers(cpu, &cpu->fault);
    event_deliver_or_escalate(cpu, e);
}
