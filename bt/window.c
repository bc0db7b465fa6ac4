/* SPDX-License-Identifier: MIT */
#include "bt/window.h"

#include "bt/cache.h"
#include "shadowmmu/parallel.h"
#include "shadowmmu/region.h"

#include <asm/hwcap2.h>
#include <asm/prctl.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In cycles of the time stamp counter. */
static const uint64_t PAGE_PRICE = 20000;       /* to enter a page and to take it out, as measured */
static const uint64_t SIGNAL_PRICE = 12000;     /* of a host page fault, beside what the mmu does */
static const uint64_t WAIT_MIN = 3000000;       /* about a millisecond: many processes are done by then */
static const uint64_t WAIT_MAX = 3000000000ull; /* about a second */
/* What loading a working set may take before it is judged. Programs that run long begin by touching much memory. */
static const uint64_t CREDIT[2] = {[MMU_WINDOW_USER] = 24000000, [MMU_WINDOW_SUPERVISOR] = 6000000};
enum { FAULTS_BETWEEN_CHECKS = 32, SHARE = 2 /* of the time that may go into pages */ };
enum { TIMER_NS = 1050000, TIMER_MAX_NS = 200000000 };
enum { REFUSED_MAX = 1024 };

static uint64_t now(void)
{
    return __builtin_ia32_rdtsc();
}

/* ---- GS ---- */

static void set_gs(struct bt_vcpu *v, uintptr_t base)
{
    if (v->gs == base)
        return;
    v->gs = base;
    if (v->can_write_gs)
        __asm__ volatile("wrgsbase %0" : : "r"(base));
    else
        syscall(SYS_arch_prctl, ARCH_SET_GS, base);
}

void bt_window_detach(struct bt_vcpu *v)
{
    if (v->watch.has_timer)
        timer_delete(v->watch.timer);
    v->watch.has_timer = false;
}

void bt_window_attach(struct bt_vcpu *v)
{
    struct bt_window_watch *t = &v->watch;
    struct sigevent to_this_thread = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = BT_WINDOW_SIGNAL};
    to_this_thread._sigev_un._tid = gettid();
    bt_window_detach(v);
    v->gs = 0;
    v->can_write_gs = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
    v->no_gs = !v->can_write_gs && syscall(SYS_arch_prctl, ARCH_SET_GS, 0);
    t->has_timer = timer_create(CLOCK_MONOTONIC, &to_this_thread, &t->timer) == 0;
    t->armed = false;
}

/* ---- what code there is ---- */

/* Is the current code of the kind that can use a window? Then which. */
static bool suits(const struct bt_vcpu *v, enum mmu_window_kind *kind)
{
    const struct cpu *cpu = &v->cpu;
    const struct segment *cs = &cpu->seg[SEG_CS];
    bool paging = cpu->mmu.cr0 & CR0_PG;
    *kind = cpu->cpl == 3 ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR;
    if (cpu_code64(cpu))
        return !v->no_regions && (cpu->cpl == 3 || cpu->cpl == 0);
    if (v->no_gs || cpu_v8086(cpu) || !(cs->attr & SEG_DB) || cs->base || cs->limit != 0xffffffff)
        return false;
    if (cpu->cpl == 3)
        return paging;
    return cpu->cpl == 0 && v->can_write_gs && (!paging || (cpu->mmu.cr4 & CR4_PGE));
}

/* Does the window go with the address space? */
static bool is_local(const struct bt_vcpu *v, enum mmu_window_kind kind)
{
    return kind == MMU_WINDOW_USER || ((v->cpu.mmu.cr0 & CR0_PG) && !(v->cpu.mmu.cr4 & CR4_PGE));
}

/* Flushes that empty the window. */
static uint64_t flush_count(const struct bt_vcpu *v, enum mmu_window_kind kind)
{
    uint64_t all = v->cpu.mmu.stats.flush_all;
    return is_local(v, kind) ? all + v->cpu.mmu.stats.flush_cr3 + v->cpu.mmu.stats.switches : all;
}

/* What it may cost to enter the pages that the tables have of this address space. */
static uint64_t load_price(const struct bt_vcpu *v, enum mmu_window_kind kind)
{
    return kind == MMU_WINDOW_USER ? v->cpu.mmu.space.count * PAGE_PRICE : 0;
}

static void begin(struct bt_vcpu *v, enum mmu_window_kind kind)
{
    struct bt_window *w = &v->window[kind];
    if (w->wait < WAIT_MIN)
        w->wait = WAIT_MIN;
    w->unavailable |= !mmu_window_open(&v->cpu.mmu, kind);
    v->no_regions |= cpu_code64(&v->cpu) && !v->cpu.mmu.window[kind].regions;
    if (w->unavailable || (cpu_code64(&v->cpu) && v->no_regions))
        return;
    if (kind == MMU_WINDOW_USER && cpu_code64(&v->cpu))
        mmu_parallel_choose(&v->cpu.mmu);
    w->active = true;
    w->began = now();
    w->credit = CREDIT[kind] * WAIT_MIN / w->wait + load_price(v, kind);
    w->signals = 0;
    w->spent = v->cpu.mmu.window[kind].cycles;
    v->refault.pending = false;
    v->mode_stale = true;
}

static void end(struct bt_vcpu *v, enum mmu_window_kind kind, bool paid)
{
    struct bt_window *w = &v->window[kind];
    w->active = false;
    w->since = now();
    w->wait = paid ? WAIT_MIN : w->wait * 2 < WAIT_MAX ? w->wait * 2 : WAIT_MAX;
    v->mode_stale = true;
}

/* The guest's own interrupts come too seldom to notice short work. */
static void watch(struct bt_vcpu *v, const struct bt_window *w)
{
    struct bt_window_watch *t = &v->watch;
    if (t->armed || !t->has_timer || w->unavailable)
        return;
    struct itimerspec once = {.it_value = {.tv_sec = 0, .tv_nsec = TIMER_NS}};
    for (uint64_t wait = WAIT_MIN; wait < w->wait && once.it_value.tv_nsec < TIMER_MAX_NS; wait *= 2)
        once.it_value.tv_nsec *= 2;
    t->armed = timer_settime(t->timer, 0, &once, NULL) == 0;
}

uint32_t bt_window_mode(struct bt_vcpu *v)
{
    enum mmu_window_kind kind;
    if (v->options.window == WINDOW_NEVER || !suits(v, &kind))
        return 0;
    struct bt_window *w = &v->window[kind];
    if (v->options.window == WINDOW_ALWAYS && !w->active)
        begin(v, kind);
    if (!w->active) {
        watch(v, w);
        return 0;
    }
    if (kind == MMU_WINDOW_USER && v->refault.pending) {
        v->refault.pending = false;
        mmu_window_prefill(&v->cpu.mmu, v->refault.gva, v->refault.writes);
        if (!w->active) /* there was no room in the tables: all was flushed */
            return 0;
    }
    if (kind == MMU_WINDOW_USER)
        mmu_window_settle(&v->cpu.mmu);
    if (cpu_code64(&v->cpu) && !v->cpu.mmu.window[kind].regions) { /* 32-bit code brought it into use */
        v->no_regions = true;
        return 0;
    }
    const struct mmu_window *window = &v->cpu.mmu.window[kind];
    if (cpu_code64(&v->cpu)) {
        bt_glue_emit_window(v->cache, kind);
        v->wide_user |= kind == MMU_WINDOW_USER;
        if (window->parallel.table && v->can_write_gs) /* the system call takes no distance downwards */
            set_gs(v, window->parallel.distance[window->parallel.side]);
        return BT_MODE_WINDOW;
    }
    if (kind == MMU_WINDOW_USER && v->wide_user) {
        mmu_window_guard_32(&v->cpu.mmu);
        v->wide_user = false;
    }
    set_gs(v, (uintptr_t)window->base);
    return BT_MODE_WINDOW;
}

void bt_window_give_up(struct bt_vcpu *v)
{
    for (int kind = 0; kind < 2; kind++) {
        v->window[kind].active = false;
        v->window[kind].unavailable = true;
    }
    v->mode_stale = true;
}

void bt_window_sample(struct bt_vcpu *v)
{
    enum mmu_window_kind kind;
    if (v->options.window != WINDOW_AUTO || !suits(v, &kind) || v->window[kind].active || v->window[kind].unavailable)
        return;
    struct bt_window *w = &v->window[kind];
    uint64_t t = now(), undisturbed = t - w->since, flushes = flush_count(v, kind);
    if (w->wait < WAIT_MIN)
        w->wait = WAIT_MIN;
    if (w->flushes == flushes && undisturbed < w->wait)
        return;
    if (w->flushes == flushes && w->wait > WAIT_MIN && undisturbed < load_price(v, kind))
        return; /* once more, and most of that again */
    uint64_t new_pages = v->cpu.mmu.stats.fills - w->fills;
    /* the supervisor's pages come in long runs */
    bool settled = kind == MMU_WINDOW_SUPERVISOR || new_pages * PAGE_PRICE < undisturbed / SHARE;
    if (w->flushes == flushes && settled)
        begin(v, kind);
    w->flushes = flushes;
    w->fills = v->cpu.mmu.stats.fills;
    w->since = t;
}

void bt_window_timer(struct bt_vcpu *v)
{
    v->watch.armed = false;
    bt_window_sample(v);
    v->mode_stale = true; /* arms it again */
}

/* ---- page faults ---- */

/* Cycles that the window has cost since it was taken into use. */
static uint64_t cost(const struct bt_vcpu *v, enum mmu_window_kind kind)
{
    const struct bt_window *w = &v->window[kind];
    return v->cpu.mmu.window[kind].cycles - w->spent + w->signals * SIGNAL_PRICE;
}

static bool pays(const struct bt_vcpu *v, enum mmu_window_kind kind)
{
    const struct bt_window *w = &v->window[kind];
    return cost(v, kind) < w->credit + (now() - w->began) / SHARE;
}

/* From a signal handler: out of the window's blocks at their next poll. */
static void end_soon(struct bt_vcpu *v, enum mmu_window_kind kind)
{
    end(v, kind, false);
    cpu_raise(&v->cpu, CPU_EVENT_CODE);
}

void bt_window_signal(struct bt_vcpu *v, enum mmu_window_kind kind)
{
    struct bt_window *w = &v->window[kind];
    v->stats.host_signals++;
    if (++w->signals % FAULTS_BETWEEN_CHECKS == 0 && w->active && v->options.window == WINDOW_AUTO && !pays(v, kind))
        end_soon(v, kind);
}

/* A page that is not for this window. A kernel whose pages are not global (page-table isolation) has few others. */
static enum bt_window_action refused(struct bt_vcpu *v, enum mmu_window_kind kind)
{
    struct bt_window *w = &v->window[kind];
    v->stats.window_detours++;
    w->refused++;
    if (kind == MMU_WINDOW_SUPERVISOR && w->refused > REFUSED_MAX && w->refused / 2 > w->entered &&
        v->options.window == WINDOW_AUTO) {
        w->unavailable = true;
        end_soon(v, kind);
    }
    return BT_WINDOW_DETOUR_ALWAYS;
}

enum bt_window_action bt_window_fault(struct bt_vcpu *v, enum mmu_window_kind kind, uint64_t gva, bool write)
{
    struct bt_window *w = &v->window[kind];
    struct mmu_fault fault;
    bool wide = (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
    if (!w->active) /* it has just been given up */
        return BT_WINDOW_DETOUR;
    if (!wide && gva != (uint32_t)gva) { /* the address wraps at 4 GiB, or the access does */
        v->stats.window_detours++;
        return BT_WINDOW_DETOUR_ALWAYS;
    }
    unsigned access = cpu_access_rights(&v->cpu) | (write ? MMU_WRITE : MMU_READ);
    switch (mmu_window_fill(&v->cpu.mmu, kind, gva, access, &fault)) {
    case MMU_WINDOW_OK:
        w->entered++;
        return BT_WINDOW_RETRY;
    case MMU_WINDOW_FAULT:
        if (mmu_ends_lower_half(gva)) /* if the access ends behind it, it is #GP */
            return BT_WINDOW_DETOUR;
        cpu_raise_page_fault(&v->cpu, &fault);
        if (kind == MMU_WINDOW_USER)
            v->refault = (struct bt_window_refault){.pending = true, .writes = write, .gva = gva};
        return BT_WINDOW_FAULT;
    case MMU_WINDOW_TABLE:
        return refused(v, kind);
    default:
        mmu_window_clear(&v->cpu.mmu, kind);
        end_soon(v, kind);
        return BT_WINDOW_DETOUR;
    }
}

enum bt_window_action bt_window_take_region(struct bt_vcpu *v, enum mmu_window_kind kind, uint64_t gva)
{
    if (!v->window[kind].active)
        return BT_WINDOW_DETOUR;
    switch (mmu_window_take_region(&v->cpu.mmu, kind, gva, cpu_access_rights(&v->cpu))) {
    case MMU_WINDOW_OK:
        return BT_WINDOW_RETRY;
    case MMU_WINDOW_TABLE:
        return refused(v, kind);
    default:
        return BT_WINDOW_DETOUR;
    }
}

enum bt_window_action bt_window_take_stretch(struct bt_vcpu *v, const struct bt_block *b,
                                             const struct bt_insn_record *r, uint64_t region)
{
    struct bt_page *p = &v->cache->pages[b->page];
    unsigned offset = (b->offset + r->guest_offset) & PAGE_MASK;
    if (!v->window[MMU_WINDOW_USER].active || !mmu_canonical(region << MMU_REGION_SHIFT))
        return BT_WINDOW_DETOUR;
    if (mmu_window_take_stretch(&v->cpu.mmu, region << MMU_REGION_SHIFT))
        return BT_WINDOW_RETRY;
    p->by_entries[v->cpu.mmu.window[MMU_WINDOW_USER].parallel.side] |= 1ull << offset / BT_NEAR;
    v->remake = (gpa_t){p->gfn << PAGE_SHIFT | offset};
    cpu_raise(&v->cpu, CPU_EVENT_CODE);
    return BT_WINDOW_DETOUR;
}

/* Is a number that moves with the page (bt/move.h) where the jump would be? */
static bool has_constant(const struct bt_cache *c, const struct bt_block *b, uintptr_t at)
{
    uint64_t first = at - b->entry;
    for (const struct bt_constant *k = &c->constants[b->first_constant]; k->form; k++)
        if (k->host_offset >= first && k->host_offset < first + WINDOW_OP_BYTES)
            return true;
    return false;
}

void bt_window_divert(struct bt_vcpu *v, uintptr_t at, const struct bt_block *b, const struct bt_insn_record *r)
{
    struct bt_cache *c = v->cache;
    const struct bt_glue *g = bt_glue_of(c, c->pages[b->page].mode);
    struct assembler a = bt_assembler(c), jump = a;
    if (bt_cache_full(c) || has_constant(c, b, at))
        return;
    a.p += BT_ENTRY_SAVED;
    jump.p = c->write_view + (at - (uintptr_t)c->exec_view);
    uint32_t exit = c->exit_count++, index = c->block_count++, stub = (uint32_t)asm_here(&a);
    uint8_t *site = asm_jmp32(&jump, stub);
    asm_mov_imm32(&a, R11, exit);
    asm_jmp32(&a, r->flags_saved ? g->chain_saved : g->chain);
    c->exits[exit] = (struct bt_exit_record){.site = (uint32_t)(site - c->write_view),
                                             .target_eip = b->eip + r->guest_offset,
                                             .stub = stub,
                                             .block = index,
                                             .flags_saved = r->flags_saved,
                                             .plain = true};
    unsigned room = PAGE_SIZE - b->offset;
    c->blocks[index] = (struct bt_block){.entry = stub,
                                         .first_constant = c->constant_count,
                                         .eip = b->eip,
                                         .second_gfn = ~0ull,
                                         .size = (uint32_t)asm_here(&a) - stub,
                                         .offset = b->offset,
                                         .length = b->length < room ? b->length : (uint16_t)room,
                                         .exit_count = 1,
                                         .page = b->page,
                                         .first_record = c->record_count,
                                         .first_exit = exit};
    c->constants[c->constant_count++] = (struct bt_constant){.form = BT_CONSTANT_END};
    bt_cache_written_to(c, a.p);
    bt_cache_attach(c, &c->blocks[index]);
}

void bt_window_flushed(struct bt_vcpu *v, enum mmu_flush_kind flush)
{
    for (int kind = 0; kind < 2; kind++) {
        struct bt_window *w = &v->window[kind];
        bool hit = flush == MMU_FLUSH_ALL || (flush != MMU_FLUSH_PAGE && is_local(v, (enum mmu_window_kind)kind));
        bool same = kind == MMU_WINDOW_SUPERVISOR || w->cr3 == v->cpu.mmu.cr3;
        if (hit && w->cr3 != v->cpu.mmu.cr3) { /* another process may be another case */
            w->cr3 = v->cpu.mmu.cr3;
            w->wait = WAIT_MIN;
        }
        if (w->active && hit && !(same && pays(v, (enum mmu_window_kind)kind)))
            end(v, (enum mmu_window_kind)kind, now() - w->began > 2 * SHARE * cost(v, (enum mmu_window_kind)kind));
    }
}
