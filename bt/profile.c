/* SPDX-License-Identifier: MIT */
/* The sampler and its counts; profile_report.c makes the listing. */
#include "bt/profile_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

enum { PERIOD_NS = 1000000, JITTER_NS = 600000 };

static _Thread_local struct bt_vcpu *sampled;

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- one sample; in the signal handler ---- */

static void count_hit(struct bt_profile *p, size_t at, bool called)
{
    uint32_t n = (uint32_t)(at * 0x9e3779b1u) >> (32 - PROFILE_HIT_BITS);
    for (unsigned tries = 0; tries < 64; tries++, n = (n + 1) & (PROFILE_HITS - 1)) {
        struct profile_hit *h = &p->hits[n];
        if (h->at && h->at != at)
            continue;
        h->at = (uint32_t)at;
        if (called)
            h->called++;
        else
            h->own++;
        return;
    }
    p->lost++;
}

/* C code and glue run on behalf of the block whose return address is the first thing on the host stack. Not so in a
 * signal handler of the translator's, which has a stack of its own. */
static void count_caller(struct bt_vcpu *v, uintptr_t rsp)
{
    enum { DEEPEST = 256 << 10 };
    const struct bt_cache *c = v->cache;
    if (rsp >= v->host_rsp || v->host_rsp - rsp > DEEPEST)
        return;
    size_t at = *(const uintptr_t *)(v->host_rsp - sizeof(uintptr_t)) - (uintptr_t)c->exec_view;
    if (at >= c->glue_size && at < c->used)
        count_hit(v->profile, at, true);
}

static void on_sample(int signal, siginfo_t *info, void *context)
{
    struct bt_vcpu *v = sampled;
    if (!v || !v->profile)
        return;
    const ucontext_t *uc = context;
    struct bt_profile *p = v->profile;
    const struct bt_cache *c = v->cache;
    size_t at = (size_t)uc->uc_mcontext.gregs[REG_RIP] - (uintptr_t)c->exec_view;
    uintptr_t rsp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    enum bt_phase phase = v->translating ? BT_PHASE_TRANSLATE
                          : p->in_board  ? BT_PHASE_DEVICES
                          : at < c->used ? BT_PHASE_EXECUTE
                          : v->in_blocks ? BT_PHASE_EMULATE
                                         : BT_PHASE_DISPATCH;
    p->samples[phase]++;
    if (at < c->used && at >= c->glue_size)
        count_hit(p, at, false);
    else if (v->in_blocks)
        count_caller(v, rsp);
}

/* ---- the sampler ---- */

static void *sampler(void *opaque)
{
    struct bt_profile *p = opaque;
    uint32_t random = 1;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        while (!p->running && !p->stop)
            pthread_cond_wait(&p->wake, &p->lock);
        pthread_mutex_unlock(&p->lock);
        random = random * 1664525 + 1013904223;
        struct timespec pause = {.tv_nsec = PERIOD_NS - JITTER_NS / 2 + (random >> 8) % JITTER_NS};
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&p->lock);
        if (p->running && !p->stop)
            pthread_kill(p->thread, SIGPROF);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void bt_profile_enter(struct bt_vcpu *v)
{
    struct bt_profile *p = v->profile;
    sampled = v;
    pthread_mutex_lock(&p->lock);
    p->thread = pthread_self();
    p->entered_ns = now_ns();
    if (p->left_ns)
        p->outside_ns += p->entered_ns - p->left_ns;
    p->running = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void bt_profile_leave(struct bt_vcpu *v)
{
    struct bt_profile *p = v->profile;
    pthread_mutex_lock(&p->lock);
    p->running = false;
    p->left_ns = now_ns();
    p->inside_ns += p->left_ns - p->entered_ns;
    pthread_mutex_unlock(&p->lock);
}

/* ---- the board, watched ---- */

#define WATCHED(counter)                                                                                               \
    struct bt_profile *p = opaque;                                                                                     \
    const struct cpu_board *board = p->board;                                                                          \
    p->uses.counter++;                                                                                                 \
    p->in_board = true

static uint64_t port_read(void *opaque, uint16_t port, unsigned size)
{
    WATCHED(port_reads);
    uint64_t value = board->port_read(board->opaque, port, size);
    p->in_board = false;
    return value;
}

static void port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    WATCHED(port_writes);
    board->port_write(board->opaque, port, value, size);
    p->in_board = false;
}

static uint64_t mem_read(void *opaque, gpa_t addr, unsigned size)
{
    WATCHED(memory_reads);
    uint64_t value = board->mem_read(board->opaque, addr, size);
    p->in_board = false;
    return value;
}

static void mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    WATCHED(memory_writes);
    board->mem_write(board->opaque, addr, value, size);
    p->in_board = false;
}

static int interrupt_ack(void *opaque)
{
    WATCHED(interrupt_acks);
    int vector = board->interrupt_ack(board->opaque);
    p->in_board = false;
    return vector;
}

/* From any thread: not the vCPU's time. */
static void kick(void *opaque)
{
    struct bt_profile *p = opaque;
    p->board->kick(p->board->opaque);
}

static uint64_t apic_base_read(void *opaque)
{
    WATCHED(apic_registers);
    uint64_t value = board->apic_base_read(board->opaque);
    p->in_board = false;
    return value;
}

static int apic_base_write(void *opaque, uint64_t value)
{
    WATCHED(apic_registers);
    int r = board->apic_base_write(board->opaque, value);
    p->in_board = false;
    return r;
}

static int cr8_read(void *opaque)
{
    WATCHED(apic_registers);
    int value = board->cr8_read(board->opaque);
    p->in_board = false;
    return value;
}

static void cr8_write(void *opaque, unsigned tpr)
{
    WATCHED(apic_registers);
    board->cr8_write(board->opaque, tpr);
    p->in_board = false;
}

static void ferr(void *opaque, int level)
{
    WATCHED(ferr);
    board->ferr(board->opaque, level);
    p->in_board = false;
}

static int tsc_deadline(void *opaque, uint64_t tsc)
{
    WATCHED(tsc_deadlines);
    int r = board->tsc_deadline(board->opaque, tsc);
    p->in_board = false;
    return r;
}

static uint64_t tsc_deadline_read(void *opaque)
{
    WATCHED(tsc_deadlines);
    uint64_t value = board->tsc_deadline_read(board->opaque);
    p->in_board = false;
    return value;
}

/* What the board lacks stays NULL. */
static void watch_board(struct bt_vcpu *v, struct bt_profile *p)
{
    const struct cpu_board *b = p->board = v->cpu.board;
    if (!b)
        return;
    p->watched = (struct cpu_board){.port_read = b->port_read ? port_read : NULL,
                                    .port_write = b->port_write ? port_write : NULL,
                                    .mem_read = b->mem_read ? mem_read : NULL,
                                    .mem_write = b->mem_write ? mem_write : NULL,
                                    .interrupt_ack = b->interrupt_ack ? interrupt_ack : NULL,
                                    .kick = b->kick ? kick : NULL,
                                    .apic_base_read = b->apic_base_read ? apic_base_read : NULL,
                                    .apic_base_write = b->apic_base_write ? apic_base_write : NULL,
                                    .cr8_read = b->cr8_read ? cr8_read : NULL,
                                    .cr8_write = b->cr8_write ? cr8_write : NULL,
                                    .ferr = b->ferr ? ferr : NULL,
                                    .tsc_deadline = b->tsc_deadline ? tsc_deadline : NULL,
                                    .tsc_deadline_read = b->tsc_deadline_read ? tsc_deadline_read : NULL,
                                    .opaque = p};
    v->cpu.board = &p->watched;
}

/* ---- life ---- */

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_sample, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigaction(SIGPROF, &sa, NULL);
}

int bt_profile_create(struct bt_vcpu *v)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct bt_profile *p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_once(&once, install);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    int r = pthread_create(&p->sampler, NULL, sampler, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r) {
        free(p);
        return -r;
    }
    watch_board(v, p);
    v->profile = p;
    return 0;
}

void bt_profile_destroy(struct bt_vcpu *v)
{
    struct bt_profile *p = v->profile;
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->sampler, NULL);
    v->profile = NULL;
    v->cpu.board = p->board;
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->wake);
    free(p->kept);
    free(p);
}

/* ---- results ---- */

void bt_profile_stats(struct bt_profile *p, FILE *out)
{
    static const char *const names[BT_PHASES] = {
        [BT_PHASE_EXECUTE] = "execute_ns", [BT_PHASE_TRANSLATE] = "translate_ns", [BT_PHASE_EMULATE] = "emulate_ns",
        [BT_PHASE_DEVICES] = "devices_ns", [BT_PHASE_DISPATCH] = "dispatch_ns",
    };
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    uint64_t now = now_ns(), inside = p->inside_ns + (p->running ? now - p->entered_ns : 0);
    uint64_t outside = p->outside_ns + (!p->running && p->left_ns ? now - p->left_ns : 0), total = 0;
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < BT_PHASES; i++)
        total += p->samples[i];
    fprintf(out, ", \"time\": {\"samples\": %llu, \"running_ns\": %llu", (unsigned long long)total,
            (unsigned long long)inside);
    for (unsigned i = 0; i < BT_PHASES; i++)
        fprintf(out, ", \"%s\": %llu", names[i],
                (unsigned long long)(total ? (unsigned __int128)inside * p->samples[i] / total : 0));
    fprintf(out, ", \"idle_ns\": %llu}", (unsigned long long)outside);
#define USE(name) fprintf(out, ", \"" #name "\": %llu", (unsigned long long)p->uses.name)
    fprintf(out, ", \"board\": {\"port_reads\": %llu", (unsigned long long)p->uses.port_reads);
    USE(port_writes);
    USE(memory_reads);
    USE(memory_writes);
    USE(interrupt_acks);
    USE(apic_registers);
    USE(tsc_deadlines);
    USE(ferr);
#undef USE
    fputc('}', out);
}
