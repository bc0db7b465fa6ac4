/* SPDX-License-Identifier: MIT */
/* What the files of cpu/ share among themselves: descriptors, the stack frames of calls and interrupts, event delivery.
 * All functions that return int follow cpu.h: CPU_OK, or CPU_FAULT with cpu->fault filled and no architectural state
 * changed (but accessed and busy bits in descriptors, which the hardware also sets before it is sure of success). */
#ifndef RINGFOLD_CPU_INTERNAL_H
#define RINGFOLD_CPU_INTERNAL_H

#include "cpu/cpu.h"
#include "cpu/cpuid.h"

/* Types of system descriptors, SDM vol. 3, table 3-2 */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS32 = 9,
    SYS_TSS32_BUSY = 11,
    SYS_CALL32 = 12,
    SYS_INT32 = 14,
    SYS_TRAP32 = 15
};

/* Type and S bit: what most checks look at. */
enum { SEG_KIND = SEG_TYPE | SEG_S };

struct descriptor {
    struct segment seg;  /* decoded, selector included; for 16-byte system descriptors base is 64 bits wide */
    uint32_t low, high;  /* raw first two doublewords (gates are decoded from these) */
    uint32_t upper, top; /* third and fourth doubleword of 16-byte descriptors */
    uint64_t gva;        /* where it is in memory */
};

/* Field by field: without vector registers the compiler makes REP MOVS of the plain assignment, which takes longer than
 * all the checks before it. Volatile, so that limit and attr, just written one by one, are not read as one: such a load
 * waits until both writes are in the cache. */
static inline void segment_copy(struct segment *to, const struct segment *from)
{
    to->base = from->base;
    to->limit = *(const volatile uint32_t *)&from->limit;
    to->attr = *(const volatile uint32_t *)&from->attr;
    to->selector = from->selector;
}
static inline unsigned attr_dpl(uint32_t attr)
{
    return (attr & SEG_DPL) >> SEG_DPL_SHIFT;
}
static inline bool attr_is_code(uint32_t attr)
{
    return (attr & (SEG_S | SEG_CODE)) == (SEG_S | SEG_CODE);
}
static inline bool attr_is_writable_data(uint32_t attr)
{
    return (attr & (SEG_S | SEG_CODE | SEG_W)) == (SEG_S | SEG_W);
}
static inline bool attr_is_conforming(uint32_t attr)
{
    return attr_is_code(attr) && (attr & SEG_E);
}
static inline bool selector_is_null(uint16_t selector)
{
    return (selector & 0xfffc) == 0;
}
/* Error code that names a selector; ext: 0 or 1. */
static inline uint32_t selector_error(uint16_t selector, unsigned ext)
{
    return (selector & 0xfffcu) | ext;
}
static inline bool canonical(uint64_t gva)
{
    return (uint64_t)((int64_t)(gva << 16) >> 16) == gva;
}
static inline int done(struct cpu *cpu)
{
    cpu->rip = cpu->next_rip;
    return CPU_OK;
}
static inline void notify_mode_changed(struct cpu *cpu)
{
    if (cpu->mode_changed)
        cpu->mode_changed(cpu);
}
/* The same as cpu_raise_fault_error; inline, so that the compiler sees that it never gives CPU_OK. */
static inline int fault_error(struct cpu *cpu, unsigned vector, uint32_t error)
{
    cpu_raise_fault_error(cpu, vector, error);
    return CPU_FAULT;
}
static inline int fault_gp(struct cpu *cpu, uint32_t error)
{
    return fault_error(cpu, VECTOR_GP, error);
}
static inline unsigned cpu_iopl(const struct cpu *cpu)
{
    return (cpu->rflags & EFLAGS_IOPL) >> EFLAGS_IOPL_SHIFT;
}
/* The rights of explicit accesses made at a privilege level that is not the current one yet. */
static inline unsigned access_rights_at(const struct cpu *cpu, unsigned cpl)
{
    if (cpl == 3)
        return 0;
    return MMU_SUPERVISOR | (cpu->rflags & EFLAGS_AC ? MMU_SMAP_EXEMPT : 0);
}

/* ---- access.c ---- */
/* System structures: always with supervisor rights. */
int cpu_read_system_slowly(struct cpu *cpu, uint64_t gva, void *buf, unsigned size);
static inline int cpu_read_system(struct cpu *cpu, uint64_t gva, void *buf, unsigned size)
{
    /* a copy of unknown size would be a call of libc's, which uses vector registers */
    const uint8_t *known =
        __builtin_constant_p(size) ? cpu_known_host(cpu, gva, size, MMU_READ | MMU_SUPERVISOR) : NULL;
    if (!known)
        return cpu_read_system_slowly(cpu, gva, buf, size);
    __builtin_memcpy(buf, known, size);
    return CPU_OK;
}
int cpu_write_system(struct cpu *cpu, uint64_t gva, const void *buf, unsigned size);
/* Limit check of [off, off+size) against a segment's cached limit, expand-down included. */
bool segment_limit_ok(const struct segment *s, uint64_t off, unsigned size);

/* ---- descriptor.c ---- */
/* Reads the 8-byte descriptor a non-null selector names. Outside its table: vector with error. */
int descriptor_read(struct cpu *cpu, uint16_t selector, unsigned vector, uint32_t error, struct descriptor *d);
/* Adds the upper half of a 16-byte system descriptor (long mode); a reserved type field there: vector with error. */
int descriptor_read_upper(struct cpu *cpu, unsigned vector, uint32_t error, struct descriptor *d);
/* The same as descriptor_read without a fault for a selector outside its table: *found tells. */
int descriptor_probe(struct cpu *cpu, uint16_t selector, struct descriptor *d, bool *found);
void descriptor_decode(struct descriptor *d);
/* Sets the accessed bit in memory and in d, if it is clear. */
int descriptor_set_accessed(struct cpu *cpu, struct descriptor *d);
/* Writes the TSS busy bit of a descriptor. */
int descriptor_set_busy(struct cpu *cpu, struct descriptor *d, bool busy);
/* Stack segment for an inner or outer level: null, limit, RPL, DPL, type against cpl with vector (#TS or #GP), absence
 * with #SS. ext: 0 or 1. */
int descriptor_read_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, unsigned ext,
                          struct descriptor *d);
/* Loads the hidden part and selector, keeping track of mode changes. */
void segment_set(struct cpu *cpu, enum seg seg, const struct segment *s);
/* ES, DS, FS, GS that the new, outer CPL may not keep become null. */
void segments_drop_inner(struct cpu *cpu);
/* The null segment. */
struct segment segment_null(uint16_t selector, unsigned dpl);
/* The segments a v8086 task has. */
struct segment segment_v8086(uint16_t selector);

/* ---- stack.c: pushes of several values that either all happen or none ---- */
enum { FRAME_MAX = 40 };
struct stack_frame {
    struct segment ss;
    uint64_t sp;       /* after the pushes so far */
    uint64_t mask;     /* of the stack pointer */
    bool flat64;       /* no limits, canonical check */
    unsigned access;   /* MMU rights */
    unsigned size;     /* of one push: 2, 4, 8 */
    uint32_t ss_error; /* error code of a #SS */
    unsigned count;
    uint64_t offset[FRAME_MAX];
    uint64_t value[FRAME_MAX];
};
/* A frame on a stack: the current one (ss NULL), or a new one at privilege cpl. */
void frame_begin(struct cpu *cpu, struct stack_frame *f, unsigned size);
void frame_begin_on(struct cpu *cpu, struct stack_frame *f, const struct segment *ss, uint64_t sp, bool flat64,
                    unsigned cpl, unsigned size);
void frame_push(struct stack_frame *f, uint64_t value);
/* Limits or canonical form of everything pushed: #SS(ss_error). */
int frame_check(struct cpu *cpu, const struct stack_frame *f);
/* Stores it; nothing is stored when any part faults. */
int frame_write(struct cpu *cpu, const struct stack_frame *f);
/* Reads size bytes at SS:(SP + off), zero-extended. */
int stack_read(struct cpu *cpu, uint64_t off, unsigned size, uint64_t *value);
/* The host address of that many bytes from the top of the stack on, when they may be read without more ado, or NULL. */
const uint8_t *stack_known(const struct cpu *cpu, unsigned bytes);
/* Slot n of size 2, 4 or 8 of such bytes. */
static inline uint64_t stack_slot(const uint8_t *top, unsigned n, unsigned size)
{
    uint16_t word;
    uint32_t dword;
    uint64_t qword;
    switch (size) {
    case 2:
        __builtin_memcpy(&word, top + n * 2, 2);
        return word;
    case 4:
        __builtin_memcpy(&dword, top + n * 4, 4);
        return dword;
    default:
        __builtin_memcpy(&qword, top + n * 8, 8);
        return qword;
    }
}
/* The stack pointer with off added in the width of the stack. */
uint64_t stack_pointer_add(const struct cpu *cpu, uint64_t off);
/* Loads (R|E)SP for the SS that is loaded now: a 16-bit stack keeps the upper half. */
void stack_pointer_set(struct cpu *cpu, uint64_t sp);
/* SS:SP for a privilege level from the current TSS; errors are #TS. ext: 0 or 1. Long mode: only *sp. */
int tss_read_stack(struct cpu *cpu, unsigned level, unsigned ext, uint16_t *ss, uint64_t *sp);

/* ---- interrupt.c: carries one event to its handler ---- */
enum event_kind {
    EVENT_EXTERNAL,  /* INTR, NMI */
    EVENT_EXCEPTION, /* faults, traps and aborts found by the processor; int1 */
    EVENT_INT_N,     /* int n: VME redirection, IOPL in v8086 mode, gate DPL */
    EVENT_INT3_INTO  /* int3, into: gate DPL */
};
struct event {
    uint8_t vector;
    uint8_t kind; /* enum event_kind */
    bool has_error;
    uint32_t error;
    uint64_t rip;   /* to return to */
    uint64_t flags; /* RFLAGS to push */
};
/* CPU_FAULT: the event could not be delivered; cpu->fault is the second fault. */
int event_deliver(struct cpu *cpu, const struct event *e);
/* Error codes of what goes wrong underway: 1 unless a software interrupt. */
static inline unsigned event_ext(const struct event *e)
{
    return e->kind == EVENT_EXTERNAL || e->kind == EVENT_EXCEPTION;
}

/* ---- exception.c ---- */
/* Not an exception: "stay at this instruction and wait for an interrupt" (x87 error with CR0.NE clear). */
enum { FAULT_WAIT = 0xff };
/* Delivers an event that is no fault of an instruction, with the double-fault rules. */
void event_deliver_or_escalate(struct cpu *cpu, struct event e);

/* ---- task.c ---- */
struct task_switch {
    enum task_switch_reason reason;
    unsigned ext; /* 0 or 1, for error codes */
    bool has_error;
    uint32_t error; /* pushed on the new task's stack */
    uint64_t rip;   /* saved in the old task */
    uint64_t flags; /* saved in the old task */
};
/* Checks a TSS selector as the target of a switch through a gate: #GP or #NP with its selector; then switches. */
int task_switch_by_gate(struct cpu *cpu, uint16_t tss_selector, const struct task_switch *t);
/* The descriptor was read and checked by the caller. Faults that belong to the new task come after the switch: then
 * CPU_FAULT is returned with the new task's state loaded. */
int task_switch_to(struct cpu *cpu, struct descriptor *d, const struct task_switch *t);

/* ---- transfer.c, shared with iret.c ---- */
/* Is off a place where this code segment can be run: canonical in 64-bit code, inside the limit elsewhere? */
bool code_offset_ok(const struct cpu *cpu, const struct segment *cs, uint64_t off);
/* The code segment a far return or IRET goes to. */
int return_check_code(struct cpu *cpu, uint16_t selector, struct descriptor *cs);
/* The stack segment of an outer level (or of IRET in 64-bit mode), null ones for 64-bit kernels included. */
int return_check_stack(struct cpu *cpu, uint16_t selector, const struct descriptor *cs, struct descriptor *ss);
/* A flat segment as SYSENTER, SYSCALL and kin load them. attr without G, S and P. */
struct segment segment_flat(uint16_t selector, uint32_t attr);

/* ---- cpuid.c ---- */
/* The CR4 bits the model has. */
uint64_t cpu_model_cr4_mask(const struct cpu_model *model);
/* The EFER bits the guest may set. */
uint64_t cpu_model_efer_mask(const struct cpu_model *model);
/* EDX after reset: family, model, stepping. */
uint32_t cpu_model_signature(const struct cpu_model *model);
bool cpu_model_has_rdtscp(const struct cpu_model *model);
bool cpu_model_has_smap(const struct cpu_model *model);
bool cpu_model_has_invpcid(const struct cpu_model *model);
uint64_t cpu_host_tsc(void);
/* The same for this vCPU: a board with a time of its own counts in place of the host. */
static inline uint64_t cpu_base_tsc(const struct cpu *cpu)
{
    return cpu->board && cpu->board->tsc ? cpu->board->tsc(cpu->board->opaque) : cpu_host_tsc();
}

/* ---- reset.c ---- */
/* INIT: as reset, but for what survives it (SDM vol. 3, table 10-1). */
void cpu_reset_by_init(struct cpu *cpu);

#endif
