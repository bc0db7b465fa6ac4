/* SPDX-License-Identifier: MIT */
/* After a divergence: which instruction did it.
 *
 * The follower's memory is brought back to the step's start. The reference runs the step again and leaves a trail of
 * its states. Then a third vCPU, the suspect, which translates as the leader does, runs from a state of the trail, in
 * that memory, one block; the reference runs from the same state until it is where the suspect went, and the pages that
 * either wrote are compared. The first block that comes out different is then translated with one instruction, with
 * two, and so on: the last instruction of the first one that is wrong is the one to name. */
#include "frontend/lockstep_internal.h"

#include "bt/inspect.h"
#include "decoder/listing.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { TRAIL_MAX = 512, AROUND = 4, EMPTY_MAX = 4 };

struct mark {
    struct cpu *cpu;    /* a copy of the state */
    size_t record_next; /* what it had met */
};

struct trail {
    struct lockstep *l;
    struct cpu *suspect;
    struct mark marks[TRAIL_MAX + 1];
    unsigned count; /* instructions; marks has one more */
    uint8_t *after; /* what a run left in the journal's pages */
    uint32_t after_count;
};

static struct cpu *copy_of(const struct cpu *cpu)
{
    struct cpu *copy = aligned_alloc(64, (sizeof *copy + 63) & ~(size_t)63);
    if (copy)
        memcpy(copy, cpu, sizeof *copy);
    return copy;
}

static bool add_mark(struct trail *t, unsigned n)
{
    t->marks[n] = (struct mark){copy_of(t->l->follower), t->l->record.next};
    return t->marks[n].cpu;
}

static void put_state(struct lockstep *l, struct cpu *to, struct cpu *from)
{
    cpu_state_copy(to, from);
    to->interrupt_shadow = from->interrupt_shadow;
    if (to == l->follower)
        reference_replaced(l);
    else
        engine_bt.state_replaced(to);
}

/* Reference and memory to mark n, by running from the start. */
static void go_to(struct trail *t, unsigned n)
{
    struct lockstep *l = t->l;
    reference_collect(l);
    mirror_rewind(l);
    l->record.next = 0;
    l->mismatch[0] = 0;
    put_state(l, l->follower, l->start);
    for (unsigned i = 0; i < n; i++)
        follower_step(l);
}

static bool make_trail(struct trail *t)
{
    struct lockstep *l = t->l;
    bool on = true;
    go_to(t, 0);
    if (!add_mark(t, 0))
        return false;
    while (t->count < TRAIL_MAX && on) {
        on = follower_step(l);
        if (!add_mark(t, ++t->count))
            return false;
        if (state_quick_same(l->leader, l->follower, FLAGS_ARITH) && record_used_up(l))
            break;
    }
    return true;
}

/* ---- suspect and reference from the same place ---- */

static void keep_pages(struct trail *t)
{
    struct memory_journal *j = &t->l->follower_journal;
    t->after_count = j->count < j->room ? j->count : j->room;
    for (uint32_t i = 0; i < t->after_count; i++) {
        const uint8_t *page = memory_page(&t->l->mirror, j->gfns[i]).write;
        if (page)
            memcpy(t->after + (size_t)i * PAGE_SIZE, page, PAGE_SIZE);
    }
}

/* Do they hold now what keep_pages saw? Pages that were entered since were not written then. */
static bool pages_same(struct trail *t, gpa_t *at)
{
    struct memory_journal *j = &t->l->follower_journal;
    for (uint32_t i = 0; i < j->count && i < j->room; i++) {
        const uint8_t *page = memory_page(&t->l->mirror, j->gfns[i]).write;
        const uint8_t *was = (i < t->after_count ? t->after : j->before) + (size_t)i * PAGE_SIZE;
        for (unsigned k = 0; page && k < PAGE_SIZE; k++)
            if (page[k] != was[k] && ((page[k] ^ was[k]) & ~0x60)) {
                *at = gpa((j->gfns[i] << PAGE_SHIFT) + k);
                return false;
            }
    }
    return true;
}

struct trial {
    bool same;
    unsigned reached; /* mark */
    bool wrong_memory;
    gpa_t at;
};

/* The suspect runs one block of at most limit instructions (0: full size) from mark n. */
static struct trial try_block(struct trail *t, unsigned n, unsigned limit)
{
    struct lockstep *l = t->l;
    struct trial r = {0};
    go_to(t, n);
    bt_of(t->suspect)->options.block_insns = limit;
    put_state(l, t->suspect, t->marks[n].cpu);
    int vector = record_next_interrupt(l);
    if (vector >= 0)
        return (struct trial){.same = true, .reached = n + 1}; /* a delivery: in C on both sides */
    struct cpu *reference = l->follower;
    l->follower = t->suspect; /* what the record gives, it gets */
    for (unsigned i = 0; i < EMPTY_MAX && state_quick_same(t->suspect, t->marks[n].cpu, FLAGS_ARITH); i++)
        engine_bt.run(t->suspect); /* a block may be left before its first instruction */
    l->follower = reference;
    keep_pages(t);
    bool asked = l->mismatch[0];
    for (unsigned i = n + 1; i <= t->count && !asked; i++) {
        if (!state_quick_same(t->suspect, t->marks[i].cpu, FLAGS_ARITH))
            continue;
        go_to(t, i);
        r.reached = i;
        r.wrong_memory = !pages_same(t, &r.at);
        r.same = !r.wrong_memory && state_same(t->suspect, t->marks[i].cpu, 0, NULL, "", "");
        break;
    }
    return r;
}

/* ---- what to say ---- */

/* The instruction that a state is about to run, into text. */
static void name_insn(struct trail *t, const struct cpu *state, char *text, size_t len)
{
    uint8_t bytes[15];
    struct insn in;
    go_to(t, 0);
    if (insn_decode(&in, bytes, code_peek(t->l, state, state->rip, bytes), code_mode(state)) > 0)
        insn_format(&in, state->rip, text, len);
    else
        snprintf(text, len, "(bytes that cannot be read)");
}

static void list_around(struct trail *t, unsigned n)
{
    FILE *out = t->l->config->report;
    unsigned first = n > AROUND ? n - AROUND : 0, last = n + AROUND < t->count ? n + AROUND : t->count - 1;
    fprintf(out, "the reference's way there and on:\n");
    for (unsigned i = first; t->count && i <= last; i++) {
        char text[96];
        name_insn(t, t->marks[i].cpu, text, sizeof text);
        fprintf(out, "%s %08" PRIx64 "  %s\n", i == n ? "->" : "  ", t->marks[i].cpu->rip, text);
    }
}

static void list_host_code(struct trail *t, uint64_t rip)
{
    FILE *out = t->l->config->report;
    struct bt_translation code;
    struct cpu *const from[] = {t->suspect, t->l->leader};
    for (unsigned i = 0; i < 2; i++) {
        if (!bt_inspect(from[i], rip, &code))
            continue;
        fprintf(out, "host code for it%s:\n", i ? " (in the machine's own translation)" : "");
        listing_host(out, code.code, code.code_len, code.code_at);
        return;
    }
}

static void dump(FILE *out, const char *title, const struct cpu *cpu)
{
    static char text[8192];
    cpu_dump(cpu, text, sizeof text);
    fprintf(out, "%s:\n%s", title, text);
}

/* Mark n's instruction is the one; the suspect stands behind it. */
static void tell_insn(struct trail *t, unsigned n, unsigned limit)
{
    struct lockstep *l = t->l;
    FILE *out = l->config->report;
    struct trial alone = try_block(t, n, 1);
    struct trial r = try_block(t, n + 1 - limit, limit);
    struct cpu *translated = copy_of(t->suspect);
    uint64_t rip = t->marks[n].cpu->rip;
    l->outcome->found = true;
    l->outcome->rip = rip;
    name_insn(t, t->marks[n].cpu, l->outcome->text, sizeof l->outcome->text);
    fprintf(out, "first divergence: instruction at %04x:%" PRIx64 ", %s\n", t->marks[n].cpu->seg[SEG_CS].selector, rip,
            l->outcome->text);
    if (limit > 1)
        fprintf(out, "(number %u of its block; alone it comes out %s)\n", limit, alone.same ? "right" : "wrong too");
    if (translated)
        state_same(translated, t->marks[n + 1].cpu, 0, out, "translated", "reference");
    if (r.wrong_memory)
        fprintf(out, "  memory at 0x%" PRIx64 " differs\n", r.at.v);
    list_around(t, n);
    r = try_block(t, n + 1 - limit, limit); /* its translation again: the listing threw it away */
    list_host_code(t, rip);
    dump(out, "state before it, of both", t->marks[n].cpu);
    dump(out, "state after it, reference", t->marks[n + 1].cpu);
    if (translated)
        dump(out, "state after it, translated", translated);
    free(translated);
}

/* No part of the step does it by itself. said: the access that the reference made and the leader did not, or "". */
static void tell_step(struct trail *t, const gpa_t *at, const char *said)
{
    struct lockstep *l = t->l;
    FILE *out = l->config->report;
    struct cpu *last = t->marks[t->count].cpu;
    l->outcome->rip = t->marks[0].cpu->rip;
    name_insn(t, t->marks[0].cpu, l->outcome->text, sizeof l->outcome->text);
    fprintf(out,
            "divergence in the step of %u instructions that begins at %04x:%" PRIx64
            ", %s; run again in parts it comes out right\n",
            t->count, t->marks[0].cpu->seg[SEG_CS].selector, l->outcome->rip, l->outcome->text);
    state_same(l->leader, last, 0, out, "translated", "reference");
    if (said[0])
        fprintf(out, "  %s\n", said);
    if (at)
        fprintf(out, "  memory at 0x%" PRIx64 " differs\n", at->v);
    list_around(t, 0);
    dump(out, "state before the step, of both", t->marks[0].cpu);
    dump(out, "state after it, reference", last);
    dump(out, "state after it, translated", l->leader);
}

static bool search_block(struct trail *t, unsigned n)
{
    for (unsigned limit = 1; limit <= BT_BLOCK_MAX_INSNS && n + limit <= t->count; limit++) {
        struct trial r = try_block(t, n, limit);
        if (r.same)
            continue;
        tell_insn(t, n + limit - 1, limit);
        return true;
    }
    return false;
}

static bool search(struct trail *t)
{
    for (unsigned n = 0; n < t->count;) {
        struct trial r = try_block(t, n, 0);
        if (!r.same)
            return search_block(t, n);
        n = r.reached;
    }
    return false;
}

void report_divergence(struct lockstep *l, const gpa_t *at)
{
    struct trail *t = calloc(1, sizeof *t);
    struct engine_options options = bt_of(l->leader)->options;
    char said[sizeof l->mismatch];
    memcpy(said, l->mismatch, sizeof said);
    l->outcome->rip = l->start->rip;
    if (!t)
        return;
    t->l = l;
    t->after = malloc((size_t)l->follower_journal.room * PAGE_SIZE);
    t->suspect = engine_bt.vcpu_create(&options, &l->mirror, machine_step_model(l->machine), &l->replaying, 0, l->err,
                                       l->err_len);
    fprintf(l->config->report, "after %" PRIu64 " instructions, in step %" PRIu64 "\n", l->outcome->instructions,
            l->outcome->steps);
    if (t->after && t->suspect && make_trail(t) && !search(t))
        tell_step(t, at, said);
    if (t->suspect)
        engine_bt.vcpu_destroy(t->suspect);
    for (unsigned i = 0; i <= t->count; i++)
        free(t->marks[i].cpu);
    free(t->after);
    free(t);
}
