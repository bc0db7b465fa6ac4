/* SPDX-License-Identifier: MIT */
/* Between the lockstep_*.c files. */
#ifndef RINGFOLD_FRONTEND_LOCKSTEP_INTERNAL_H
#define RINGFOLD_FRONTEND_LOCKSTEP_INTERNAL_H

#include "devices/machine_step.h"
#include "frontend/lockstep.h"

/* ---- the record of what passed between leader and board in one step: lockstep_board.c ---- */

enum record_kind {
    RECORD_PORT_READ,
    RECORD_PORT_WRITE,
    RECORD_MEM_READ,
    RECORD_MEM_WRITE,
    RECORD_ACK,
    RECORD_APIC_BASE_READ,
    RECORD_APIC_BASE_WRITE,
    RECORD_CR8_READ,
    RECORD_CR8_WRITE,
    RECORD_FERR,
    RECORD_DEADLINE,
    RECORD_DEADLINE_READ,
    RECORD_DMA, /* addr, size bytes of data */
    RECORD_MAP  /* addr: first frame, value: how many */
};

struct record_item {
    enum record_kind kind;
    uint64_t addr, value, size;
    uint64_t result;
    size_t data; /* DMA: offset in record.data */
    bool a20;    /* the gate behind it */
};

struct record {
    struct record_item *items;
    size_t count, room, next; /* next: what the follower meets next */
    uint8_t *data;
    size_t data_len, data_room;
    bool failed; /* out of memory */
};

enum { REFERENCE_REASONS = 12 };

struct reference_key {
    uint64_t flags, dr7, cr4, mode;
};

/* lockstep_reference.c */
struct reference {
    struct cpu *bt, *kvm;                 /* kvm: NULL when it is not used */
    bool uncollected;                     /* KVM may have written since reference_collect */
    bool off;                             /* for the rest of this step KVM is not asked */
    bool by_kvm;                          /* KVM had a part in this step */
    char reasons[REFERENCE_REASONS][128]; /* why bt took its place: said already */
    unsigned reason_count;
    bool has_refused;
    struct reference_key refused;
};

struct lockstep {
    struct machine *machine;
    const struct lockstep_config *config;
    struct lockstep_outcome *outcome;
    struct cpu *leader, *follower; /* follower: the reference's vCPU that has the state */
    struct reference reference;
    bool refused;                  /* KVM cannot go on, and nobody else is to; the reason is in err */
    const struct cpu_board *inner; /* the machine's own */
    struct cpu_board recording, replaying;
    struct memory *memory; /* the machine's */
    struct memory mirror;  /* the follower's */
    bool has_mirror;
    struct memory_listener listener;
    struct foreign *foreign; /* lockstep_memory.c */
    size_t foreign_count;
    struct memory_journal leader_journal, follower_journal;
    struct record record;
    struct cpu *start; /* a copy of the state before the step; no engine's */
    bool start_nmi;    /* the step begins with an NMI */
    uint64_t follower_steps;
    uint64_t waiting_ns; /* time that the devices have not seen yet */
    char mismatch[256];  /* the follower asked for something else than the leader; empty: no */
    char *err;
    size_t err_len;
};

void record_init(struct lockstep *l);
void record_free(struct record *r);
void record_reset(struct record *r);
/* DMA and changes of the map that come next reach the follower. */
void record_drain(struct lockstep *l);
/* True when the follower has met everything. */
bool record_used_up(const struct lockstep *l);
/* The vector of the interrupt that comes next, or -1. */
int record_next_interrupt(const struct lockstep *l);

/* ---- lockstep_reference.c ---- */

/* Makes l->follower. 0, or -1 with the reason in l->err. */
int reference_create(struct lockstep *l);
void reference_destroy(struct lockstep *l);
/* One step of the follower, with interrupts due (CPU_EVENT_INTR, CPU_EVENT_NMI). False: l->refused. */
bool reference_run(struct lockstep *l, uint32_t events, enum engine_exit *how);
/* Arithmetic flags whose values the manual leaves open behind the instruction at hand; before: those in front of it.
 * Only where KVM runs it: the translator leaves them as the host does on both sides. */
uint64_t reference_undefined_flags(struct lockstep *l, uint64_t before);
/* The follower's state was replaced. */
void reference_replaced(struct lockstep *l);
/* The follower's state where the manual leaves it to the processor, and no program can see it: as the leader's. */
void reference_even_out(struct lockstep *l);
void reference_even_out_stack(struct lockstep *l); /* after a step that may have ended with an exception */
/* Where a step that raises an exception ends: at's CS:RIP; NULL: none does. */
void reference_stop_at(struct lockstep *l, const struct cpu *at);
/* The leader stands inside a repeated string instruction, where KVM need not stop: its step is to go on. */
bool reference_passes_by(struct lockstep *l);
/* KVM had a part in this step, and is one whose results need not be the processor's. */
bool reference_doubtful(const struct lockstep *l);
/* The step is done again from its start, by the translator alone: the follower's state. */
void reference_begin_again(struct lockstep *l);
/* The translator agreed with itself: counted, and said. */
void reference_was_wrong(struct lockstep *l);
void reference_step_done(struct lockstep *l);
/* Pages that KVM wrote come into the follower's journal. Before the leader's next step. */
void reference_collect(struct lockstep *l);

/* ---- lockstep_memory.c ---- */

int mirror_create(struct lockstep *l);
void mirror_destroy(struct lockstep *l);
/* Everything anew from the leader's memory. */
void mirror_copy(struct lockstep *l);
/* The map of these frames follows the leader's. */
void mirror_map(struct lockstep *l, uint64_t gfn, uint64_t count);
/* From now on the first write to each page is entered again. */
void journals_reset(struct lockstep *l);
/* The follower's memory as it was at the step's start. */
void mirror_rewind(struct lockstep *l);
/* Compares the pages that either side wrote, or all. False with the place in *at. Tolerated differences are evened out.
 * flags_dead: EFLAGS images on the stack may differ in arithmetic flags. */
bool memory_same(struct lockstep *l, bool all, bool flags_dead, gpa_t *at);

/* ---- lockstep_compare.c ---- */

/* Registers, flags and instruction pointer. ignored: bits of RFLAGS that do not count. */
bool state_quick_same(const struct cpu *a, const struct cpu *b, uint64_t ignored);
/* Everything else. out: what differs, a line each, with the two names; NULL: only the answer. */
bool state_same(const struct cpu *a, const struct cpu *b, uint64_t ignored, FILE *out, const char *name_a,
                const char *name_b);

/* Up to 15 bytes of the code that a state is about to run, from the follower's memory. How many can be read. */
unsigned code_peek(struct lockstep *l, const struct cpu *cpu, uint64_t rip, uint8_t bytes[15]);
/* One byte of data at a linear address. */
bool code_peek_byte(struct lockstep *l, const struct cpu *cpu, uint64_t at, uint8_t *byte);
enum insn_mode code_mode(const struct cpu *cpu);
/* Arithmetic flags that the code ahead overwrites before anything reads them. cpu: the follower. */
uint64_t code_dead_flags(struct lockstep *l, const struct cpu *cpu);

/* ---- lockstep.c ---- */

/* One step of the follower. False: it cannot go on. */
bool follower_step(struct lockstep *l);

/* ---- lockstep_report.c ---- */

/* The step that begins at l->start came out different: finds the instruction and describes it. at: where memory
 * differs, or NULL. */
void report_divergence(struct lockstep *l, const gpa_t *at);

#endif
