/* SPDX-License-Identifier: MIT */
/* The dispatcher: engine_bt. Finds or makes the block for cpu->rip, enters it, and handles what it came back for. */
#include "bt/fault.h"
#include "bt/landing.h"
#include "bt/move.h"
#include "bt/perf_map.h"
#include "bt/profile.h"
#include "bt/slow.h"
#include "bt/stats.h"
#include "bt/translate.h"
#include "bt/verify.h"
#include "bt/window.h"
#include "devices/log.h"
#include "shadowmmu/walk.h"

#include <stdio.h>
#include <string.h>

/* Offsets that translated code and glue rely on are addresses; what must hold is that the whole struct is in reach. */
_Static_assert(sizeof(struct bt_vcpu) < 1 << 16, "the vCPU must stay within RIP reach and one small mapping");

/* ---- mode ---- */

enum { DR7_ENABLES = 0xff };

static inline bool data_breakpoints(const struct cpu *cpu)
{
    if (__builtin_expect(!(cpu->dr[7] & DR7_ENABLES), 1))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr[7] >> 2 * i & 3) && (cpu->dr[7] >> (16 + 4 * i) & 1))
            return true;
    return false;
}

static inline bool code_breakpoints(const struct cpu *cpu)
{
    if (__builtin_expect(!(cpu->dr[7] & DR7_ENABLES), 1))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr[7] >> 2 * i & 3) && !(cpu->dr[7] >> (16 + 4 * i) & 3))
            return true;
    return false;
}

static void seg_cache_limits(struct bt_seg_limits *c, const struct segment *s, bool checked)
{
    enum { SLACK = BT_BOUNCE_SIZE - 1 };
    bool code = s->attr & SEG_CODE, present = (s->attr & SEG_P) && !(s->attr & SEG_UNUSABLE);
    int64_t limit = s->limit == 0xffffffff ? 0xffffffffll : (int64_t)s->limit - SLACK;
    if (limit < 0 || !present || (checked && !code && (s->attr & SEG_E)))
        limit = -1;
    c->read = checked && code && !(s->attr & SEG_W) ? -1 : limit;
    c->write = checked && (code || !(s->attr & SEG_W)) ? -1 : limit;
}

/* Volatile: the two fields were often written one by one shortly before, and reading both at once would wait for that
 * (see segment_copy). */
static inline uint64_t seg_cache_key(const struct segment *s, bool checked)
{
    uint32_t limit = *(const volatile uint32_t *)&s->limit, attr = *(const volatile uint32_t *)&s->attr;
    return (limit | (uint64_t)attr << 32) ^ (uint64_t)checked << 63;
}

/* Ring transitions go to and fro between two CSs and two SSs: the limits of the key before are kept. */
static __attribute__((noinline)) void seg_cache_exchange(struct bt_seg_cache *c, const struct segment *s, uint64_t key,
                                                         bool checked)
{
    struct bt_seg_limits last = c->now;
    c->base = s->base;
    if (key == last.key)
        return;
    c->now = c->before;
    c->before = last;
    if (c->now.key == key)
        return;
    c->now.key = key;
    seg_cache_limits(&c->now, s, checked);
}

static inline void seg_cache_update(struct bt_seg_cache *c, const struct segment *s, bool checked)
{
    uint64_t key = seg_cache_key(s, checked);
    if (__builtin_expect((key ^ c->now.key) | (c->base ^ s->base), 0))
        seg_cache_exchange(c, s, key, checked);
}

static inline bool flat_data(const struct bt_seg_cache *c)
{
    return !c->base & (c->now.read == 0xffffffffll) & (c->now.write == 0xffffffffll);
}

static uint32_t fpu_bits(const struct cpu *cpu)
{
    uint32_t bits = 0;
    if (cpu->mmu.cr0 & (CR0_EM | CR0_TS))
        bits |= BT_MODE_NO_X87 | BT_MODE_NO_SSE;
    if (!(cpu->mmu.cr4 & CR4_OSFXSR))
        bits |= BT_MODE_NO_SSE;
    if ((cpu->mmu.cr0 & CR0_TS) || !(cpu->mmu.cr4 & CR4_OSXSAVE) || (cpu->xcr0 & 6) != 6)
        bits |= BT_MODE_NO_AVX;
    return bits;
}

void bt_mode_update(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    const struct segment *cs = &cpu->seg[SEG_CS];
    bool checked = cpu_protected(cpu), data_watched = data_breakpoints(cpu);
    for (int i = 0; i < SEG_COUNT; i++)
        seg_cache_update(&v->seg[i], &cpu->seg[i], checked);
    uint32_t mode = cs->attr & SEG_DB ? INSN_MODE_32 : INSN_MODE_16;
    if (cpu->seg[SEG_SS].attr & SEG_DB)
        mode |= BT_MODE_STACK32;
    unsigned rights = cpu->cpl == 3 ? 0 : MMU_SUPERVISOR | (cpu->rflags & EFLAGS_AC ? MMU_SMAP_EXEMPT : 0);
    enum mmu_view view = mmu_view(&cpu->mmu, rights);
    /* the two supervisor views differ in their tables only, which CLAC and STAC exchange in translated code */
    mode |= (uint32_t)(view == MMU_VIEW_USER ? MMU_VIEW_USER : MMU_VIEW_SUPERVISOR) << BT_MODE_VIEW_SHIFT;
    mode |= cpu->rflags & FLAG_DF ? BT_MODE_DF : 0;
    if (cs->base == 0 && cs->limit == 0xffffffff)
        mode |= BT_MODE_FLAT_CS;
    mode |= flat_data(&v->seg[SEG_DS]) ? BT_MODE_FLAT_DS : 0;
    mode |= flat_data(&v->seg[SEG_ES]) ? BT_MODE_FLAT_ES : 0;
    mode |= flat_data(&v->seg[SEG_SS]) ? BT_MODE_FLAT_SS : 0;
    mode |= fpu_bits(cpu);
    mode |= cpu->cpl == 0 ? BT_MODE_CPL0 : 0;
    if ((cpu->rflags & FLAG_TF) || v->want_single || code_breakpoints(cpu) || data_watched)
        mode |= BT_MODE_SINGLE;
    mode |= data_watched ? BT_MODE_WATCH : 0;
    if (cpu->cpl == 3 && (cpu->mmu.cr0 & CR0_AM) && (cpu->rflags & EFLAGS_AC))
        mode |= BT_MODE_ALIGN;
    if (!(mode & (BT_MODE_SINGLE | BT_MODE_WATCH | BT_MODE_ALIGN)))
        mode |= bt_window_mode(v);
    v->r15 = mode & BT_MODE_WINDOW
                 ? (uintptr_t)cpu->mmu.window[cpu->cpl == 3 ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR].base
                 : PAGE_SHIFT;
    cpu->accessed = data_watched ? bt_watch : NULL;
    v->mode_stale = false;
    v->read_table = cpu->mmu.view[view].read;
    v->write_table = cpu->mmu.view[view].write;
    v->ac_clear = cpu->mmu.view[mmu_view(&cpu->mmu, MMU_SUPERVISOR)];
    v->ac_set = cpu->mmu.view[MMU_VIEW_SUPERVISOR];
    uint64_t base = cs->base, limit = cs->limit;
    if (cpu_code64(cpu)) {
        mode = (mode & ~(uint32_t)BT_MODE_CODE_MASK) | INSN_MODE_64 | BT_MODE_STACK32 | BT_MODE_FLAT_CS |
               BT_MODE_FLAT_DS | BT_MODE_FLAT_ES | BT_MODE_FLAT_SS;
        base = 0;
        limit = ~0ull;
    } else if ((v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64) {
        for (int i = 0; i < 8;
             i++) /* what translated 32-bit code relies on; undefined after the switch (SDM vol. 1, 3.4.1.1) */
            cpu->gpr[i] = (uint32_t)cpu->gpr[i];
    }
    if (mode != v->mode || base != v->code_base || limit != v->code_limit || !v->jump) {
        v->mode = mode;
        v->code_base = base;
        v->code_limit = limit;
        bt_cache_select(v->cache);
    }
}

bool bt_mode_follow_segment(struct bt_vcpu *v, unsigned seg)
{
    static const uint32_t flat_bit[SEG_COUNT] = {[SEG_DS] = BT_MODE_FLAT_DS, [SEG_ES] = BT_MODE_FLAT_ES};
    struct cpu *cpu = &v->cpu;
    seg_cache_update(&v->seg[seg], &cpu->seg[seg], true);
    bool same = !flat_bit[seg] || (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64 ||
                flat_data(&v->seg[seg]) == !!(v->mode & flat_bit[seg]);
    v->mode_stale |= !same;
    return same;
}

static void on_mode_changed(struct cpu *cpu)
{
    bt_of(cpu)->mode_stale = true;
}

static void on_flushed(void *opaque, enum mmu_flush_kind kind, uint64_t gva)
{
    struct bt_vcpu *v = opaque;
    v->device_page[0].key = v->device_page[1].key = 0;
    bt_window_flushed(v, kind);
    bt_cache_unmap(v->cache, kind, gva);
}

static void on_switched(void *opaque, int parked, int resumed)
{
    struct bt_vcpu *v = opaque;
    v->device_page[0].key = v->device_page[1].key = 0;
    bt_window_flushed(v, MMU_FLUSH_SPACE);
    bt_cache_switch(v->cache, parked, resumed);
}

/* ---- what other threads ask for ---- */

static void request(struct bt_vcpu *v, uint32_t event)
{
    cpu_raise(&v->cpu, event);
}

static void widen(uint64_t *first, uint64_t *last, uint64_t gfn, uint64_t count)
{
    if (gfn < *first)
        *first = gfn;
    if (gfn + count - 1 > *last)
        *last = gfn + count - 1;
}

static void listen_map_changed(void *opaque, uint64_t gfn, uint64_t count)
{
    struct bt_vcpu *v = opaque;
    pthread_mutex_lock(&v->dma_lock);
    widen(&v->map_first, &v->map_last, gfn, count);
    pthread_mutex_unlock(&v->dma_lock);
    request(v, CPU_EVENT_FLUSH);
}

static void listen_log_started(void *opaque, uint64_t gfn, uint64_t count)
{
    struct bt_vcpu *v = opaque;
    pthread_mutex_lock(&v->dma_lock);
    widen(&v->log_first, &v->log_last, gfn, count);
    pthread_mutex_unlock(&v->dma_lock);
    request(v, CPU_EVENT_CODE);
}

static void listen_code_written(void *opaque, gpa_t addr, uint64_t len)
{
    struct bt_vcpu *v = opaque;
    pthread_mutex_lock(&v->dma_lock);
    if (v->dma_count == sizeof v->dma_writes / sizeof v->dma_writes[0]) {
        v->dma_overflow = true;
    } else {
        v->dma_writes[v->dma_count].addr = addr;
        v->dma_writes[v->dma_count++].len = len;
    }
    pthread_mutex_unlock(&v->dma_lock);
    request(v, CPU_EVENT_CODE);
}

static void apply_requests(struct bt_vcpu *v)
{
    cpu_fpu_unload(&v->cpu);
    pthread_mutex_lock(&v->dma_lock);
    if (v->map_first <= v->map_last) {
        bt_cache_drop_frames(v->cache, v->map_first, v->map_last);
        mmu_flush(&v->cpu.mmu, true);
    }
    if (v->dma_overflow)
        bt_cache_flush(v->cache);
    for (unsigned i = 0; i < v->dma_count; i++)
        bt_cache_written(v->cache, gpa_gfn(v->dma_writes[i].addr), v->dma_writes[i].addr.v & PAGE_MASK,
                         (unsigned)v->dma_writes[i].len);
    if (v->remake.v)
        bt_cache_written(v->cache, gpa_gfn(v->remake), v->remake.v & PAGE_MASK, 1);
    v->remake.v = 0;
    /* Writes that slipped through between the display's look and this moment show as one more dirty page. */
    for (uint64_t gfn = v->log_first; gfn <= v->log_last && gfn < v->mem->page_count; gfn++)
        mmu_drop_gfn(&v->cpu.mmu, gfn, true);
    v->map_first = v->log_first = ~0ull;
    v->map_last = v->log_last = 0;
    v->dma_count = 0;
    v->dma_overflow = false;
    pthread_mutex_unlock(&v->dma_lock);
}

static void on_code_written(struct cpu *cpu, gpa_t addr, unsigned len)
{
    struct bt_vcpu *v = bt_of(cpu);
    v->stats.smc_writes++;
    bt_cache_written(v->cache, gpa_gfn(addr), addr.v & PAGE_MASK, len);
}

/* Handles cpu->events. Returns true when run must return *how. */
static bool handle_events(struct bt_vcpu *v, enum engine_exit *how)
{
    struct cpu *cpu = &v->cpu;
    uint32_t events = atomic_load(&cpu->events);
    if (events & CPU_EVENT_RESET) {
        cpu_lower(cpu, CPU_EVENT_RESET);
        *how = ENGINE_EXIT_RESET;
        return true;
    }
    if (events & CPU_EVENT_KICK) {
        cpu_lower(cpu, CPU_EVENT_KICK);
        *how = ENGINE_EXIT_KICK;
        return true;
    }
    if (events & (CPU_EVENT_FLUSH | CPU_EVENT_CODE)) {
        cpu_lower(cpu, CPU_EVENT_FLUSH | CPU_EVENT_CODE);
        apply_requests(v);
        bt_window_timer(v);
    }
    if (events & (CPU_EVENT_SMI | CPU_EVENT_INIT)) /* one vCPU and no SMM: nobody sends them but a guest mistake */
        cpu_lower(cpu, CPU_EVENT_SMI | CPU_EVENT_INIT);
    return false;
}

static void take_interrupts(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    bool enabled = cpu->rflags & FLAG_IF;
    if (v->held_events && enabled) {
        atomic_fetch_or(&cpu->events, v->held_events);
        v->held_events = 0;
    }
    uint32_t events = atomic_load(&cpu->events);
    if (!(events & (CPU_EVENT_INTR | CPU_EVENT_NMI)))
        return;
    bt_window_sample(v);
    if (cpu_take_interrupt(cpu)) {
        v->stats.interrupts++;
        v->mode_stale = true;
        return;
    }
    if ((events & CPU_EVENT_INTR) && !enabled) {
        atomic_fetch_and(&cpu->events, ~(uint32_t)CPU_EVENT_INTR);
        v->held_events |= CPU_EVENT_INTR;
    }
}

/* ---- finding code ---- */

static struct bt_block *translate(struct bt_vcpu *v, gpa_t at, uint32_t page)
{
    v->translating = true;
    struct bt_block *b = bt_translate(v, at, page);
    if (v->options.verify_code || v->perf_map)
        cpu_fpu_unload(&v->cpu);
    if (b && v->options.verify_code)
        bt_verify_block(v->cache, b);
    if (b && v->perf_map)
        bt_perf_map_add(v, b);
    if (b)
        bt_link_known(v, b);
    v->translating = false;
    return b;
}

/* Is the page behind a page-crossing block the frame it was made from? */
static bool second_page_is(struct bt_vcpu *v, const struct bt_block *b, bool *global)
{
    struct walk second;
    struct mmu_fault fault;
    uint64_t next = bt_linear(v, b->eip + PAGE_SIZE - b->offset);
    if (walk_guest(&v->cpu.mmu, next, MMU_EXEC | (v->cpu.cpl == 3 ? 0 : MMU_SUPERVISOR), &second, &fault))
        return false;
    if (global)
        *global &= second.global;
    return gpa_gfn(second.addr) == b->second_gfn;
}

/* The page enters the code map: its page-crossing blocks are found exactly when they fit what comes behind it now.
 * Returns whether that stays true across a CR3 load. */
static bool look_at_crossing_blocks(struct bt_vcpu *v, uint32_t page)
{
    struct bt_cache *c = v->cache;
    bool global = true;
    for (uint32_t i = c->pages[page].crossing; i; i = c->blocks[i].next_crossing) {
        c->blocks[i].fits = second_page_is(v, &c->blocks[i], &global);
        if (!c->blocks[i].fits)
            landing_forget(c, &c->blocks[i]);
    }
    return global;
}

/* The block for cpu->rip whose page is in the code map, or NULL. */
static struct bt_block *mapped_block(const struct bt_vcpu *v)
{
    uint64_t lin = bt_linear(v, v->cpu.rip);
    uint32_t page = bt_cache_mapped(v->cache, lin);
    return page && bt_target_good(v, v->cpu.rip) ? bt_cache_find(v->cache, page, lin & PAGE_MASK) : NULL;
}

static int walk_code(struct bt_vcpu *v, uint64_t lin, struct walk *at, struct mmu_fault *fault)
{
    return walk_guest(&v->cpu.mmu, lin, MMU_EXEC | (v->cpu.cpl == 3 ? 0 : MMU_SUPERVISOR), at, fault);
}

/* The page at lin was found in frame at->addr: its record enters the code map. */
static uint32_t map_page(struct bt_vcpu *v, uint64_t lin, const struct walk *at)
{
    struct bt_cache *c = v->cache;
    uint64_t moved = v->stats.moved_pages;
    uint32_t page = bt_cache_page(c, gpa_gfn(at->addr), lin >> PAGE_SHIFT);
    bool global = at->global & look_at_crossing_blocks(v, page);
    bt_cache_map_page(c, lin >> PAGE_SHIFT, page, global);
    if (v->stats.moved_pages != moved)
        bt_move_arrived(c, page);
    return page;
}

/* Host address to enter for cpu->rip, 0 with cpu->fault set. *block: it. */
static uintptr_t find(struct bt_vcpu *v, struct bt_block **block)
{
    struct cpu *cpu = &v->cpu;
    struct bt_cache *c = v->cache;
    uint64_t lin = bt_linear(v, cpu->rip);
    struct bt_block *b = mapped_block(v);
    *block = b;
    if (b && !(v->mode & BT_MODE_SINGLE))
        return b->entry;
    struct walk at;
    struct mmu_fault fault;
    if (!bt_target_good(v, cpu->rip)) {
        cpu_raise_fault_error(cpu, VECTOR_GP, 0);
        return 0;
    }
    if (walk_code(v, lin, &at, &fault)) {
        cpu_raise_page_fault(cpu, &fault);
        return 0;
    }
    if (bt_cache_full(c)) {
        cpu_fpu_unload(cpu);
        bt_cache_flush(c);
    }
    uint32_t page;
    if (v->mode & BT_MODE_SINGLE) {
        page = bt_cache_page(c, gpa_gfn(at.addr), lin >> PAGE_SHIFT);
        b = bt_cache_find(c, page, lin & PAGE_MASK);
        if (b && b->second_gfn != ~0ull && !second_page_is(v, b, NULL))
            b = NULL;
    } else {
        page = bt_cache_mapped(c, lin);
        if (!page || c->pages[page].gfn != gpa_gfn(at.addr))
            page = map_page(v, lin, &at);
        b = bt_cache_find(c, page, lin & PAGE_MASK);
        *block = b;
        if (b)
            return b->entry;
    }
    if (!b && !(b = translate(v, at.addr, page)))
        return 0;
    *block = b;
    return b->entry + b->body;
}

static void enter(struct bt_vcpu *v, uintptr_t host)
{
    void (*go)(uintptr_t) = (void (*)(uintptr_t))bt_glue_of(v->cache, v->mode)->enter;
    bt_flags_to_image(v);
    bt_load_vectors(v);
    v->stats.enters++;
    v->in_blocks = true;
    go(host);
    v->in_blocks = false;
    if (v->exit_reason == BT_EXIT_CHAIN)
        v->cpu.rip = v->cache->exits[v->exit_index].target_eip;
    else if (v->exit_reason == BT_EXIT_EVENT)
        v->cpu.rip = bt_cache_block_at(v->cache, v->event_from - 1)->eip;
    v->stats.exits[v->exit_reason]++;
    bt_flags_from_image(v);
}

static bool took_plain_exit(const struct bt_vcpu *v)
{
    return v->exit_reason == BT_EXIT_PLAIN || (v->exit_reason == BT_EXIT_CHAIN && v->cache->exits[v->exit_index].plain);
}

/* An access group's check failed, or a window does not have a page: goes on in the translation without those, to which
 * the exit, if it was one, is linked. False with cpu->fault set when there is no code any more. */
static bool enter_plain(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    struct bt_cache *c = v->cache;
    struct walk at;
    struct mmu_fault fault;
    uint32_t exit = v->exit_reason == BT_EXIT_CHAIN ? v->exit_index : 0, mode = v->mode;
    uint64_t lin = bt_linear(v, cpu->rip), flushes = v->stats.cache_flushes;
    if (walk_code(v, lin, &at, &fault)) {
        cpu_raise_page_fault(cpu, &fault);
        return false;
    }
    if (bt_cache_full(c)) {
        cpu_fpu_unload(cpu);
        bt_cache_flush(c);
    }
    v->mode = mode | BT_MODE_PLAIN;
    uint32_t page = bt_cache_page(c, gpa_gfn(at.addr), lin >> PAGE_SHIFT);
    struct bt_block *b = bt_cache_find(c, page, lin & PAGE_MASK);
    if (!b)
        b = translate(v, at.addr, page);
    v->mode = mode;
    if (!b)
        return false;
    if (exit && v->stats.cache_flushes == flushes &&
        !v->options.step) /* a linked one polls: that would be a step of nothing */
        bt_cache_link(c, exit, b);
    enter(v, b->entry + b->body);
    return true;
}

/* Links the exit that was just taken to the block at cpu->rip. */
static void chain(struct bt_vcpu *v)
{
    struct bt_cache *c = v->cache;
    uint32_t exit = v->exit_index;
    uint64_t flushes = v->stats.cache_flushes;
    struct bt_block *b;
    uintptr_t host = find(v, &b);
    if (!host || v->stats.cache_flushes != flushes)
        return;
    if (!b)
        b = bt_cache_block_at(c, host);
    if (!b || (v->mode & BT_MODE_SINGLE) || v->options.one_insn_blocks)
        return;
    if (b->second_gfn == ~0ull)
        bt_cache_link(c, exit, b);
    else
        bt_exit_by_table(v, exit);
}

/* ---- debug ---- */

/* Code breakpoints, before the instruction (fault). True when one hit. */
static bool code_breakpoint_hit(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    uint64_t hits = 0, lin = bt_linear(v, cpu->rip);
    if (!(v->mode & BT_MODE_SINGLE) || (cpu->rflags & EFLAGS_RF))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr[7] >> 2 * i & 3) && !(cpu->dr[7] >> (16 + 4 * i) & 3) && cpu->dr[i] == lin)
            hits |= 1u << i;
    if (!hits)
        return false;
    cpu_raise_fault(cpu, VECTOR_DB);
    cpu->fault.dr6 = hits;
    return true;
}

static void after_instruction(struct bt_vcpu *v, bool stepping)
{
    struct cpu *cpu = &v->cpu;
    uint64_t bits = v->watch_hits;
    v->watch_hits = 0;
    if (stepping && !v->int_delivered && !cpu->interrupt_shadow)
        bits |= 1u << 14;
    v->int_delivered = false;
    if (bits) {
        cpu_deliver_debug_trap(cpu, bits);
        v->mode_stale = true;
    }
}

static void deliver_fault(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    v->stats.exceptions++;
    bt_window_sample(v);
    if (cpu->fault.vector == VECTOR_MF && !(cpu->mmu.cr0 & CR0_NE) && cpu_fpu_pending_error(cpu) == CPU_OK)
        return; /* the error is dropped, the instruction runs again */
    if (cpu->fault.vector == VECTOR_XM && !(cpu->mmu.cr4 & CR4_OSXMMEXCPT))
        cpu_raise_fault(cpu, VECTOR_UD);
    cpu_deliver_fault(cpu);
    v->mode_stale = true;
}

/* ---- from block to block without the dispatcher ---- */

/* Does something wait that only the loop in run can do? */
static bool dispatcher_wanted(const struct bt_vcpu *v)
{
    const struct cpu *cpu = &v->cpu;
    return atomic_load_explicit(&cpu->events, memory_order_relaxed) || (v->held_events && (cpu->rflags & FLAG_IF)) ||
           cpu->halted || cpu->shutdown || (v->mode & BT_MODE_SINGLE);
}

uintptr_t bt_go_on(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    if (v->mode_stale)
        bt_mode_update(v);
    const struct bt_block *b = dispatcher_wanted(v) ? NULL : mapped_block(v);
    if (!b) {
        bt_flags_to_image(v);
        return BT_EXIT_DISPATCH + 1;
    }
    cpu->interrupt_shadow = false; /* nothing is pending */
    cpu->rflags &= ~(uint64_t)EFLAGS_RF;
    v->resume_to = b->entry;
    bt_flags_to_image(v);
    bt_load_vectors(v);
    v->stats.resumes++;
    return bt_glue_of(v->cache, v->mode)->resume;
}

uintptr_t bt_landing_miss(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    struct bt_cache *c = v->cache;
    uint64_t lin = bt_linear(v, cpu->rip);
    struct walk at;
    struct mmu_fault fault;
    v->stats.misses++;
    if (dispatcher_wanted(v) || v->mode_stale || v->options.one_insn_blocks || !bt_target_good(v, cpu->rip) ||
        bt_cache_full(c))
        return BT_EXIT_MISS + 1;
    uint32_t page = bt_cache_mapped(c, lin);
    if (!page && !walk_code(v, lin, &at, &fault))
        page = map_page(v, lin, &at);
    struct bt_block *b = page ? bt_cache_find(c, page, lin & PAGE_MASK) : NULL;
    if (!b)
        return BT_EXIT_MISS + 1;
    landing_enter_target(c, b);
    v->resume_to = b->entry + b->body;
    bt_load_vectors(v);
    return bt_glue_of(c, v->mode)->resume;
}

uintptr_t bt_go_on_fault(struct bt_vcpu *v)
{
    if (v->mode & BT_MODE_SINGLE) { /* no trap after the instruction: the dispatcher must know */
        bt_flags_to_image(v);
        return BT_EXIT_FAULT + 1;
    }
    deliver_fault(v);
    return bt_go_on(v);
}

/* ---- the loop ---- */

static void run_block(struct bt_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    struct bt_block *b;
    bool stepping = cpu->rflags & FLAG_TF, single = v->mode & BT_MODE_SINGLE;
    if (single && code_breakpoint_hit(v)) {
        deliver_fault(v);
        return;
    }
    uintptr_t host = find(v, &b);
    if (!host) {
        deliver_fault(v);
        return;
    }
    if (v->options.step) { /* behind its own poll; the next one ends the step */
        b = b ? b : bt_cache_block_at(v->cache, host);
        host = b ? b->entry + b->body : host;
        atomic_fetch_or(&cpu->events, CPU_EVENT_STEP);
    }
    cpu->interrupt_shadow = false;
    cpu->rflags &= ~(uint64_t)EFLAGS_RF;
    v->stats.dispatches++;
    enter(v, host);
    bool code = true;
    while (took_plain_exit(v) && !v->mode_stale && code)
        code = enter_plain(v);
    if (v->options.step)
        cpu_lower(cpu, CPU_EVENT_STEP);
    if (!code) {
        deliver_fault(v);
        return;
    }
    if (v->exit_reason == BT_EXIT_CHAIN) {
        if (!v->mode_stale)
            chain(v);
    } else if (v->exit_reason == BT_EXIT_FAULT) {
        deliver_fault(v);
        return;
    }
    if (single)
        after_instruction(v, stepping);
}

static enum engine_exit run(struct cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    enum engine_exit how = ENGINE_EXIT_KICK;
    bool stepped = false;
    if (bt_fault_attach(v))
        return ENGINE_EXIT_ERROR;
    if (v->profile)
        bt_profile_enter(v);
    v->mode_stale = true;
    for (;;) {
        if (atomic_load_explicit(&cpu->events, memory_order_relaxed) && handle_events(v, &how))
            break;
        if (stepped)
            break;
        uint64_t interrupts = v->stats.interrupts;
        take_interrupts(v);
        if (v->options.step && v->stats.interrupts != interrupts) {
            stepped = true;
            continue;
        }
        if (cpu->shutdown) {
            how = ENGINE_EXIT_SHUTDOWN;
            break;
        }
        if (cpu->halted) {
            if (cpu_has_work(cpu))
                continue;
            how = ENGINE_EXIT_HALT;
            break;
        }
        bool shadow = cpu->interrupt_shadow && (atomic_load(&cpu->events) || v->held_events);
        if (shadow != v->want_single) {
            v->want_single = shadow;
            v->mode_stale = true;
        }
        if (v->mode_stale)
            bt_mode_update(v);
        run_block(v);
        stepped = v->options.step;
    }
    if (v->held_events) {
        atomic_fetch_or(&cpu->events, v->held_events);
        v->held_events = 0;
    }
    cpu_fpu_unload(cpu);
    if (v->profile)
        bt_profile_leave(v);
    return how;
}

static struct cpu *vcpu_create(const struct engine_options *options, struct memory *mem, const struct cpu_model *model,
                               const struct cpu_board *board, unsigned index, char *err, size_t err_len)
{
    if (!__builtin_cpu_supports("bmi") || !__builtin_cpu_supports("bmi2")) {
        snprintf(err, err_len, "bt: the host CPU lacks BMI1 or BMI2, which translated code is made of");
        return NULL;
    }
    struct bt_vcpu *v = bt_cache_create(options ? options->cache_size : 0, model->long_mode, err, err_len);
    if (!v)
        return NULL;
    int r = cpu_init(&v->cpu, mem, model, board, index);
    if (r) {
        snprintf(err, err_len, "bt: vCPU %u: %s", index, strerror(-r));
        bt_cache_destroy(v);
        return NULL;
    }
    if (options)
        v->options = *options;
    if (v->options.step) /* each step is to see the pages it writes */
        v->options.window = WINDOW_NEVER;
#ifdef RINGFOLD_DEBUG
    v->options.verify_code = true;
#endif
    if (v->options.perf_map)
        bt_perf_map_open(v);
    if (v->options.profile && bt_profile_create(v))
        log_msg(LOG_BT, "no profile: cannot start its thread");
    v->mem = mem;
    v->cpu.engine = v;
    v->cpu.mode_changed = on_mode_changed;
    v->cpu.mmu.flushed = on_flushed;
    v->cpu.mmu.switched = on_switched;
    v->cpu.mmu.opaque = v;
    v->map_first = v->log_first = ~0ull;
    pthread_mutex_init(&v->dma_lock, NULL);
    cpu_code_written_hook = on_code_written;
    v->listener = (struct memory_listener){.map_changed = listen_map_changed,
                                           .code_written = listen_code_written,
                                           .log_started = listen_log_started,
                                           .opaque = v};
    memory_add_listener(mem, &v->listener);
    return &v->cpu;
}

static void vcpu_destroy(struct cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    memory_remove_listener(v->mem, &v->listener);
    bt_profile_destroy(v);
    bt_perf_map_close(v);
    bt_fault_detach(v);
    pthread_mutex_destroy(&v->dma_lock);
    cpu_destroy(cpu);
    bt_cache_destroy(v);
}

static void state_replaced(struct cpu *cpu)
{
    struct bt_vcpu *v = bt_of(cpu);
    bt_cache_flush(v->cache);
    mmu_flush(&cpu->mmu, true);
    v->held_events = 0;
    v->want_single = false;
    v->mode_stale = true;
}

static void hot_blocks(struct cpu *cpu, FILE *out, unsigned count)
{
    bt_profile_report(bt_of(cpu), out, count);
}

const struct engine engine_bt = {.name = "bt",
                                 .vcpu_create = vcpu_create,
                                 .vcpu_destroy = vcpu_destroy,
                                 .run = run,
                                 .state_replaced = state_replaced,
                                 .hot_blocks = hot_blocks,
                                 .stats = bt_stats_print};
