/* SPDX-License-Identifier: MIT */
#include "frontend/lockstep_internal.h"

#include "bt/inspect.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What a step holds at the most: the instructions of a page, which forward chains stay in, and some for exceptions. */
enum {
    STEP_MAX = PAGE_SIZE + 64,
    REPEATS_MAX = 1 << 24,
    MERGED_MAX = 4096,
    DEVICES_EVERY = 32,
    EMPTY_STEP = 4,
    COMPARE_ALL_EVERY = 1 << 22
};

static const uint64_t IDLE_WAIT_NS = 20 * NS_PER_MS; /* of the host's time, for a disk worker */
enum { IDLE_ROUNDS = 50 };                           /* so often without a timer: nothing will come any more */

/* ---- creation ---- */

static int make_follower(struct lockstep *l)
{
    if (reference_create(l))
        return -1;
    l->start = aligned_alloc(64, (sizeof *l->start + 63) & ~(size_t)63);
    if (!l->start)
        snprintf(l->err, l->err_len, "out of memory");
    return l->start ? 0 : -1;
}

/* The follower becomes what the leader is. */
static void copy_leader(struct lockstep *l)
{
    cpu_state_copy(l->follower, l->leader);
    reference_replaced(l);
    mirror_copy(l);
    record_reset(&l->record);
}

static void destroy(struct lockstep *l)
{
    if (l->inner) {
        memory_remove_listener(l->memory, &l->listener);
        l->leader->board = l->inner;
    }
    reference_destroy(l);
    mirror_destroy(l);
    record_free(&l->record);
    free(l->start);
}

/* ---- the follower ---- */

bool follower_step(struct lockstep *l)
{
    enum engine_exit how;
    record_drain(l);
    uint32_t events = l->start_nmi ? CPU_EVENT_NMI : 0;
    l->start_nmi = false;
    if (record_next_interrupt(l) >= 0 && (l->follower->rflags & FLAG_IF))
        events |= CPU_EVENT_INTR;
    return reference_run(l, events, &how) && how == ENGINE_EXIT_KICK && !l->mismatch[0];
}

/* The flags may differ where the leader's were dead: when it showed an exception, or when what comes next overwrites
 * them before it reads them. */
static bool flags_same(struct lockstep *l, bool exception, uint64_t undefined)
{
    uint64_t difference = l->leader->rflags ^ l->follower->rflags;
    if (difference & undefined)
        l->outcome->undefined_flags++;
    difference &= ~undefined;
    return !difference || exception || !(difference & ~code_dead_flags(l, l->follower));
}

/* Steps the follower to where the leader is. */
static bool follow(struct lockstep *l, bool exception)
{
    uint64_t undefined = 0;
    reference_stop_at(l, exception ? l->leader : NULL);
    uint64_t rip = l->follower->rip;
    for (unsigned n = 0, all = 0; n < STEP_MAX && all < REPEATS_MAX; n += l->follower->rip != rip || !n, all++) {
        rip = l->follower->rip; /* a repeated string instruction may be many steps */
        l->outcome->instructions++;
        l->follower_steps++;
        undefined = reference_undefined_flags(l, undefined);
        bool on = follower_step(l);
        if (exception)
            reference_even_out_stack(l);
        if (!l->mismatch[0] && state_quick_same(l->leader, l->follower, FLAGS_ARITH) && record_used_up(l)) {
            record_drain(l);
            return flags_same(l, exception, undefined);
        }
        if (!on)
            break;
    }
    return false;
}

/* Nothing happened in the step: it ended before its first instruction, or was a round of a loop that waits. Dead flags
 * may be gone. */
static bool empty_step(struct lockstep *l)
{
    uint64_t flags = l->leader->rflags ^ l->start->rflags;
    if (l->record.count || l->leader_journal.count || !state_quick_same(l->leader, l->start, FLAGS_ARITH) ||
        !state_same(l->leader, l->start, FLAGS_ARITH, NULL, "", "") ||
        (flags && (flags & ~code_dead_flags(l, l->follower))))
        return false;
    l->leader->rflags = l->start->rflags;
    l->follower->interrupt_shadow = l->leader->interrupt_shadow; /* a round of a loop is over in any case */
    return true;
}

/* ---- one step of both ---- */

/* The follower does the step; then both are compared. at: where memory differs, else *differs stays NULL. */
static bool agree(struct lockstep *l, bool exception, gpa_t *at, gpa_t **differs)
{
    bool all = l->outcome->steps % COMPARE_ALL_EVERY == 0;
    bool followed = follow(l, exception);
    *differs = NULL;
    reference_collect(l);
    if (l->refused)
        return false;
    reference_even_out(l);
    if (!followed || !state_same(l->leader, l->follower, FLAGS_ARITH, NULL, "", ""))
        return false;
    if (l->leader->rflags != l->follower->rflags) {
        l->leader->rflags = l->follower->rflags;
        l->outcome->dead_flags++;
    }
    if (memory_same(l, all, exception, at))
        return true;
    *differs = at;
    return false;
}

/* KVM came to something else. One that lacks modes is a program, with mistakes of its own: is the translator's
 * reference with the leader? */
static bool second_opinion(struct lockstep *l, bool exception, bool nmi, gpa_t *at, gpa_t **differs)
{
    uint64_t instructions = l->outcome->instructions;
    if (!reference_doubtful(l))
        return false;
    mirror_rewind(l);
    l->record.next = 0;
    l->mismatch[0] = 0;
    l->start_nmi = nmi;
    reference_begin_again(l);
    bool right = agree(l, exception, at, differs);
    l->outcome->instructions = instructions;
    if (right)
        reference_was_wrong(l);
    return right;
}

/* True when they agree. */
static bool compare_step(struct lockstep *l, bool exception)
{
    gpa_t at, *differs;
    bool nmi = l->start_nmi;
    if (!agree(l, exception, &at, &differs) && (l->refused || !second_opinion(l, exception, nmi, &at, &differs))) {
        if (!l->refused)
            report_divergence(l, differs);
        return false;
    }
    reference_step_done(l);
    l->follower->interrupt_shadow = l->leader->interrupt_shadow;
    journals_reset(l);
    return true;
}

static void advance(struct lockstep *l, bool now)
{
    uint64_t ns = l->follower_steps * l->config->ns_per_insn;
    if (!now && l->outcome->steps % DEVICES_EVERY)
        return;
    l->follower_steps = 0;
    record_reset(&l->record);
    machine_step_devices(l->machine, ns, 0);
    record_drain(l);
    record_reset(&l->record);
}

/* The guest waits in HLT. False: for ever. */
static bool idle(struct lockstep *l)
{
    advance(l, true);
    record_reset(&l->record);
    for (unsigned i = 0; i < IDLE_ROUNDS && !cpu_has_work(l->leader) && !atomic_load(&l->leader->events); i++) {
        uint64_t ns = machine_step_idle_ns(l->machine);
        if (machine_how(l->machine) != MACHINE_RUNNING)
            break;
        machine_step_devices(l->machine, ns == CLOCK_NEVER ? 0 : ns, ns == CLOCK_NEVER ? IDLE_WAIT_NS : 0);
        if (ns != CLOCK_NEVER)
            i = 0; /* a timer that wakes nobody may be armed again for ever: --timeout ends that */
    }
    record_drain(l);
    record_reset(&l->record);
    return cpu_has_work(l->leader) || atomic_load(&l->leader->events);
}

static bool stopped_from_outside(const struct lockstep *l)
{
    enum machine_end how = machine_how(l->machine);
    return how == MACHINE_TIMEOUT || how == MACHINE_SIGNAL;
}

enum step { STEP_ON, STEP_ENDED, STEP_DIVERGED, STEP_FAILED };

static enum step step(struct lockstep *l)
{
    struct cpu *cpu = l->leader;
    struct bt_stats before = bt_of(cpu)->stats;
    bool nmi = atomic_load(&cpu->events) & CPU_EVENT_NMI;
    record_reset(&l->record);
    memcpy(l->start, cpu, sizeof *cpu);
    enum engine_exit how = machine_step(l->machine);
    for (unsigned n = 0; n < MERGED_MAX && how == ENGINE_EXIT_KICK && reference_passes_by(l); n++)
        how = machine_step(l->machine);
    l->outcome->steps++;
    l->outcome->interrupts += bt_of(cpu)->stats.interrupts - before.interrupts;
    l->outcome->exceptions += bt_of(cpu)->stats.exceptions - before.exceptions;
    l->start_nmi = nmi && !(atomic_load(&cpu->events) & CPU_EVENT_NMI);
    if (how == ENGINE_EXIT_ERROR || l->record.failed) {
        snprintf(l->err, l->err_len, "engine bt failed");
        return STEP_FAILED;
    }
    if (empty_step(l)) /* also a loop that waits for something: time must go on */
        l->follower_steps += EMPTY_STEP;
    else if (!compare_step(l, bt_of(cpu)->stats.exceptions != before.exceptions))
        return l->refused ? STEP_FAILED : STEP_DIVERGED;
    if (cpu->shutdown)
        return STEP_ENDED;
    if (how == ENGINE_EXIT_RESET) {
        machine_step_reset(l->machine);
        copy_leader(l);
    }
    if (cpu->halted && !cpu_has_work(cpu))
        return idle(l) ? STEP_ON : STEP_ENDED;
    advance(l, false);
    return STEP_ON;
}

/* The leader alone, to where it gets interesting. False: it ended. */
static bool skip(struct lockstep *l)
{
    enum { INSNS_IN_STEP = 10 }; /* more or less: for the time that goes by */
    for (uint64_t n = 0; n < l->config->skip && machine_how(l->machine) == MACHINE_RUNNING; n++) {
        enum engine_exit how = machine_step(l->machine);
        l->outcome->steps++;
        l->follower_steps += INSNS_IN_STEP;
        record_reset(&l->record);
        if (l->leader_journal.count)
            journals_reset(l);
        if (how == ENGINE_EXIT_ERROR || l->leader->shutdown)
            return false;
        if (how == ENGINE_EXIT_RESET)
            machine_step_reset(l->machine);
        if (!l->leader->halted || cpu_has_work(l->leader))
            advance(l, false);
        else if (!idle(l))
            return false;
    }
    l->outcome->steps = 0;
    copy_leader(l);
    return true;
}

static enum lockstep_result run(struct lockstep *l)
{
    if (l->config->skip && !skip(l))
        return LOCKSTEP_ENDED;
    while (machine_how(l->machine) == MACHINE_RUNNING) {
        if (l->config->count && l->outcome->instructions >= l->config->count)
            return LOCKSTEP_COUNT;
        switch (step(l)) {
        case STEP_ON:
            break;
        case STEP_ENDED:
            return stopped_from_outside(l) ? LOCKSTEP_STOPPED : LOCKSTEP_ENDED;
        case STEP_DIVERGED:
            return LOCKSTEP_DIVERGED;
        default:
            return LOCKSTEP_FAILED;
        }
    }
    gpa_t at;
    if (stopped_from_outside(l))
        return LOCKSTEP_STOPPED;
    journals_reset(l);
    if (!memory_same(l, true, false, &at)) {
        fprintf(l->config->report, "memory differs at 0x%llx at the guest's end, which no step wrote\n",
                (unsigned long long)at.v);
        return LOCKSTEP_DIVERGED;
    }
    return LOCKSTEP_ENDED;
}

enum lockstep_result lockstep_run(struct machine *machine, const struct lockstep_config *config,
                                  struct lockstep_outcome *outcome, char *err, size_t err_len)
{
    struct lockstep l = {.machine = machine,
                         .config = config,
                         .outcome = outcome,
                         .leader = machine_cpu(machine, 0),
                         .memory = machine_memory(machine),
                         .err = err,
                         .err_len = err_len};
    enum lockstep_result result = LOCKSTEP_FAILED;
    *outcome = (struct lockstep_outcome){0};
    if (!mirror_create(&l)) {
        record_init(&l);
        if (!make_follower(&l)) {
            copy_leader(&l);
            result = run(&l);
        }
    }
    destroy(&l);
    return result;
}
