/* SPDX-License-Identifier: MIT */
#include "bt/window.h"
#include "bt/window.h"

#include "bt/cache.h"

#include <asm/prctl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In cycles of the time stamp counter; a page's price is what it was measured to take, with the signal that asks for it
 * and its removal. */
static const uint64_t PAGE_PRICE = 20000;
static const uint64_t WAIT_MIN = 2000000;       /* less than a millisecond */
static const uint64_t WAIT_MAX = 3000000000ull; /* about a second */
static const uint64_t CREDIT = 30000000;        /* what loading a working set may take before it is judged */
enum { FILLS_BETWEEN_CHECKS = 64 };
enum { TIMER_NS = 700000, TIMER_MAX_NS = 200000000 };

static uint64_t now(void)
{
    return __builtin_ia32_rdtsc();
}

static void set_gs(const struct bt_vcpu *v)
{
    if (v->cpu.mmu.window.base)
        syscall(SYS_arch_prctl, ARCH_SET_GS, v->cpu.mmu.window.base);
}

void bt_window_attach(struct bt_vcpu *v)
{
    struct bt_window *w = &v->window;
    struct sigevent to_this_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = BT_WINDOW_SIGNAL};
    to_this_thread._sigev_un._tid = gettid();
    set_gs(v);
    w->has_timer = timer_create(CLOCK_MONOTONIC, &to_this_thread, &w->timer) == 0;
    w->timer_armed = false;
}

void bt_window_detach(struct bt_vcpu *v)
{
    if (v->window.has_timer)
        timer_delete(v->window.timer);
    v->window.has_timer = false;
}

static void begin(struct bt_vcpu *v)
{
    struct bt_window *w = &v->window;
    if (w->unavailable)
        return;
    if (!v->cpu.mmu.window.base) {
        if (!mmu_window_open(&v->cpu.mmu)) {
            w->unavailable = true;
            return;
        }
        set_gs(v);
    }
    w->active = true;
    w->timer_armed = false;
    w->began = now();
    w->entered = 0;
    w->faulted = false;
    v->mode_stale = true;
}

static void end(struct bt_vcpu *v, bool paid)
{
    struct bt_window *w = &v->window;
    w->active = false;
    w->since = now();
    w->wait = paid ? WAIT_MIN : w->wait * 4 < WAIT_MAX ? w->wait * 4 : WAIT_MAX;
    v->mode_stale = true;
}

/* The guest's own interrupts come too seldom to notice short work. */
void bt_window_user(struct bt_vcpu *v)
{
    struct bt_window *w = &v->window;
    if (v->options.window_always && !w->active)
        begin(v);
    if (w->active) {
        if (w->faulted)
            mmu_window_prefill(&v->cpu.mmu, w->fault_gva, w->fault_writes);
        w->faulted = false;
        return;
    }
    if (w->timer_armed || !w->has_timer || w->unavailable)
        return;
    struct itimerspec once = {.it_value = {.tv_sec = 0, .tv_nsec = TIMER_NS}};
    for (uint64_t wait = WAIT_MIN; wait < w->wait && once.it_value.tv_nsec < TIMER_MAX_NS; wait *= 2)
        once.it_value.tv_nsec *= 2;
    w->timer_armed = timer_settime(w->timer, 0, &once, NULL) == 0;
}

void bt_window_give_up(struct bt_vcpu *v)
{
    v->window.active = false;
    v->window.unavailable = true;
    v->mode_stale = true;
}

static uint64_t flush_count(const struct bt_vcpu *v)
{
    return v->cpu.mmu.stats.flush_cr3 + v->cpu.mmu.stats.flush_all + v->cpu.mmu.stats.switches;
}

void bt_window_sample(struct bt_vcpu *v)
{
    struct bt_window *w = &v->window;
    const struct cpu *cpu = &v->cpu;
    if (w->active || !bt_window_suits(cpu))
        return;
    uint64_t t = now(), undisturbed = t - w->since;
    if (w->wait < WAIT_MIN)
        w->wait = WAIT_MIN;
    if (w->flushes == flush_count(v) && undisturbed < w->wait)
        return;
    uint64_t new_pages = cpu->mmu.stats.fills - w->fills;
    if (w->flushes == flush_count(v) && new_pages * PAGE_PRICE < undisturbed / 2)
        begin(v);
    w->flushes = flush_count(v);
    w->fills = cpu->mmu.stats.fills;
    w->since = t;
}

/* Does the window earn what its pages cost? */
static bool pays(const struct bt_window *w)
{
    return w->entered * PAGE_PRICE < CREDIT + (now() - w->began) / 2;
}

enum bt_window_action bt_window_fault(struct bt_vcpu *v, uint64_t gva, bool write)
{
    struct bt_window *w = &v->window;
    struct mmu_fault fault;
    v->stats.host_signals++;
    if (!w->active || gva != (uint32_t)gva) /* it has just been given up; or the access wraps at 4 GiB */
        return BT_WINDOW_DETOUR;
    switch (mmu_window_fill(&v->cpu.mmu, (uint32_t)gva, write, &fault)) {
    case MMU_WINDOW_OK:
        if (++w->entered % FILLS_BETWEEN_CHECKS == 0 && !pays(w)) {
            end(v, false);
            cpu_raise(&v->cpu, CPU_EVENT_CODE); /* out of the window's blocks */
        }
        return BT_WINDOW_RETRY;
    case MMU_WINDOW_FAULT:
        cpu_raise_page_fault(&v->cpu, &fault);
        w->faulted = true;
        w->fault_gva = (uint32_t)gva;
        w->fault_writes = write;
        return BT_WINDOW_FAULT;
    case MMU_WINDOW_TABLE:
        v->stats.window_detours++;
        return BT_WINDOW_DETOUR_ALWAYS;
    default:
        mmu_window_clear(&v->cpu.mmu);
        end(v, false);
        cpu_raise(&v->cpu, CPU_EVENT_CODE);
        return BT_WINDOW_DETOUR;
    }
}

void bt_window_divert(struct bt_vcpu *v, uintptr_t at, uintptr_t detour)
{
    struct bt_cache *c = v->cache;
    struct assembler a = {.p = c->write_view + (at - (uintptr_t)c->exec_view),
                          .end = c->write_view + c->size,
                          .to_exec = c->exec_view - c->write_view};
    asm_jmp32(&a, detour);
}

void bt_window_flushed(struct bt_vcpu *v, enum mmu_flush_kind kind)
{
    struct bt_window *w = &v->window;
    if (!w->active || kind == MMU_FLUSH_PAGE)
        return;
    end(v, now() - w->began > 4 * w->entered * PAGE_PRICE);
}
