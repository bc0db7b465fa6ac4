/* SPDX-License-Identifier: MIT */
#include "bt/fault.h"
#include "bt/fault_window.h"
#include "bt/window.h"
#include "shadowmmu/region.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1u << 31)
#endif

enum { STACK_BYTES = 256 << 10 };

static _Thread_local struct bt_vcpu *current;
static _Thread_local void *alternate_stack;
static struct sigaction previous[NSIG];

static const struct bt_insn_record *record_at(struct bt_cache *c, const struct bt_block *b, uintptr_t host)
{
    const struct bt_insn_record *found = NULL;
    for (uint32_t i = 0; i < b->record_count; i++) {
        const struct bt_insn_record *r = &c->records[b->first_record + i];
        if (b->entry + r->host_offset > host)
            break;
        found = r;
    }
    return found;
}

/* The guest's exception is the one the host's CPU raised; a page fault would be the monitor's own mistake. Which of #GP
 * and #SS an address that is not canonical raises depends on the registers that it was made of: here it is #GP. */
static int vector_of(const ucontext_t *uc)
{
    switch (uc->uc_mcontext.gregs[REG_TRAPNO]) {
    case VECTOR_SS:
        return VECTOR_GP;
    case VECTOR_DE:
    case VECTOR_UD:
    case VECTOR_GP:
    case VECTOR_MF:
    case VECTOR_XM:
        return (int)uc->uc_mcontext.gregs[REG_TRAPNO];
    default:
        return -1;
    }
}

/* The context leads to the delivery of cpu->fault at the record's instruction. RSP stays what it is: the host's, or in
 * 64-bit code the guest's, or what leads to that, which the glue puts away. */
static void leave_for_fault(struct bt_vcpu *v, ucontext_t *uc, const struct bt_block *b, const struct bt_insn_record *r)
{
    const struct bt_glue *g = bt_glue_of(v->cache, v->cache->pages[b->page].mode);
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(r->flags_saved ? g->fault_saved : g->fault);
}

/* It leads to the record's instruction in a translation that goes by the tables. Nothing of the instruction has
 * happened yet that would not be the same again: else it could not have faulted there either. */
static void leave_for_tables(struct bt_vcpu *v, ucontext_t *uc, const struct bt_block *b,
                             const struct bt_insn_record *r)
{
    const struct bt_glue *g = bt_glue_of(v->cache, v->cache->pages[b->page].mode);
    v->cpu.rip = b->eip + r->guest_offset;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(r->flags_saved ? g->plain_saved : g->plain);
}

/* A page fault in the window of 32-bit code. */
static enum bt_window_action flat_fault(struct bt_vcpu *v, enum mmu_window_kind kind, const siginfo_t *info,
                                        const ucontext_t *uc)
{
    uint64_t gva;
    if (uc->uc_mcontext.gregs[REG_TRAPNO] != TRAP_PAGE_FAULT ||
        !mmu_window_holds(&v->cpu.mmu, kind, (uintptr_t)info->si_addr, &gva))
        return BT_WINDOW_NOT;
    return bt_window_fault(v, kind, gva, uc->uc_mcontext.gregs[REG_ERR] & ERROR_WRITE);
}

/* A fault of an access through a window. */
static bool window_fault(struct bt_vcpu *v, const siginfo_t *info, ucontext_t *uc, const struct bt_block *b,
                         const struct bt_insn_record *r)
{
    if (r->window != BT_RECORD_ACCESS)
        return false;
    bool wide = (v->cache->pages[b->page].mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
    enum mmu_window_kind kind = v->cpu.cpl == 3 ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR;
    enum bt_window_action action = wide ? bt_fault_in_region(v, kind, b, r, info, uc) : flat_fault(v, kind, info, uc);
    if (action == BT_WINDOW_NOT)
        return false;
    bt_window_signal(v, kind);
    switch (action) {
    case BT_WINDOW_NOT:
    case BT_WINDOW_RETRY:
        break;
    case BT_WINDOW_FAULT:
        v->cpu.rip = b->eip + r->guest_offset;
        leave_for_fault(v, uc, b, r);
        break;
    case BT_WINDOW_DETOUR_ALWAYS:
        bt_window_divert(v, (uintptr_t)uc->uc_mcontext.gregs[REG_RIP], b, r);
        /* fall through */
    case BT_WINDOW_DETOUR:
        leave_for_tables(v, uc, b, r);
        break;
    }
    return true;
}

/* A branch to an address that is not canonical: #GP before anything has changed. */
static bool target_fault(struct bt_vcpu *v, const siginfo_t *info, ucontext_t *uc, const struct bt_block *b,
                         const struct bt_insn_record *r)
{
    greg_t *g = uc->uc_mcontext.gregs;
    bool not_there =
        g[REG_TRAPNO] == TRAP_PAGE_FAULT &&
        mmu_regions_hold(v->jump_regions[bt_mode_window(v->cache->pages[b->page].mode)], (uintptr_t)info->si_addr);
    if ((r->window != BT_RECORD_TARGET && r->window != BT_RECORD_POPPED_TARGET) ||
        !(not_there || g[REG_TRAPNO] == VECTOR_GP))
        return false;
    if (r->window == BT_RECORD_POPPED_TARGET)
        g[REG_RSP] -= 8;
    v->cpu.rip = b->eip + r->guest_offset;
    v->stats.host_signals++;
    cpu_raise_fault_error(&v->cpu, VECTOR_GP, 0);
    leave_for_fault(v, uc, b, r);
    return true;
}

/* True when the signal was the guest's doing and the context now leads to its delivery. */
static bool guest_fault(const siginfo_t *info, ucontext_t *uc)
{
    struct bt_vcpu *v = current;
    if (!v)
        return false;
    struct bt_cache *c = v->cache;
    uintptr_t host = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    if (host < (uintptr_t)c->exec_view || host >= (uintptr_t)c->exec_view + c->used)
        return false;
    if (bt_fault_in_stack_region(v, info, uc))
        return true;
    if (host < (uintptr_t)c->exec_view + c->glue_size)
        return false;
    const struct bt_block *b = bt_cache_block_at(c, host);
    const struct bt_insn_record *r = b ? record_at(c, b, host) : NULL;
    if (r && (window_fault(v, info, uc, b, r) || target_fault(v, info, uc, b, r)))
        return true;
    int vector = r ? vector_of(uc) : -1;
    if (vector < 0)
        return false;
    v->cpu.rip = b->eip + r->guest_offset;
    v->stats.host_signals++;
    if (vector == VECTOR_GP)
        cpu_raise_fault_error(&v->cpu, r->stack_operand ? VECTOR_SS : VECTOR_GP, 0);
    else
        cpu_raise_fault(&v->cpu, (unsigned)vector);
    leave_for_fault(v, uc, b, r);
    return true;
}

static void handler(int sig, siginfo_t *info, void *context)
{
    if (guest_fault(info, context))
        return;
    const struct sigaction *p = &previous[sig];
    if (p->sa_flags & SA_SIGINFO) {
        p->sa_sigaction(sig, info, context);
    } else if (p->sa_handler != SIG_DFL && p->sa_handler != SIG_IGN) {
        p->sa_handler(sig);
    } else {
        signal(sig, SIG_DFL); /* the instruction runs again and ends the process with its own signal */
    }
}

/* Wakes the dispatcher, which looks what the guest is doing. */
static void look(int sig)
{
    if (current)
        atomic_fetch_or(&current->cpu.events, CPU_EVENT_CODE);
}

static void install(void)
{
    static const int signals[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS};
    struct sigaction sa = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &sa, &previous[signals[i]]);
    struct sigaction timer = {.sa_handler = look, .sa_flags = SA_ONSTACK | SA_RESTART};
    sigaction(BT_WINDOW_SIGNAL, &timer, NULL);
}

int bt_fault_attach(struct bt_vcpu *v)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (current == v)
        return 0;
    pthread_once(&once, install);
    if (current && v->options.step) { /* several stepped vCPUs take turns in one thread */
        current = v;
        return 0;
    }
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED)
        return -errno;
    /* In 64-bit code RSP is the guest's, which may point into this stack: a kernel that does not know SS_AUTODISARM
     * (before Linux 4.7) would take that for a handler's and go on there. */
    stack_t s = {.ss_sp = stack, .ss_size = STACK_BYTES, .ss_flags = (int)SS_AUTODISARM};
    if (sigaltstack(&s, NULL) < 0) {
        s.ss_flags = 0;
        if (v->cache->wide || sigaltstack(&s, NULL) < 0) {
            int e = errno;
            munmap(stack, STACK_BYTES);
            return -e;
        }
    }
    alternate_stack = stack;
    current = v;
    if (!v->options.step)
        bt_window_attach(v);
    return 0;
}

void bt_fault_detach(struct bt_vcpu *v)
{
    if (current != v)
        return;
    stack_t off = {.ss_flags = SS_DISABLE};
    bt_window_detach(v);
    sigaltstack(&off, NULL);
    munmap(alternate_stack, STACK_BYTES);
    current = NULL;
}
