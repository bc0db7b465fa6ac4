/* SPDX-License-Identifier: MIT */
#include "bt/cache.h"
#include "bt/jump_map.h"
#include "bt/landing.h"
#include "bt/move.h"
#include "bt/window.h"

#include "bt/perf_map.h"
#include "bt/profile.h"
#include "shadowmmu/reserve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { GLUE_BYTES = 3 * PAGE_SIZE, PAGE_MAX = 1 << 16 };

static const uintptr_t LOW_START = 0x10000000, LOW_END = 0x7f000000, LOW_STEP = 0x1000000;

/* A free range of the low 2 GiB. */
static uint8_t *reserve_low(size_t size)
{
    uint8_t *p = NULL;
    for (uintptr_t at = LOW_START; !p && at + size <= LOW_END; at += LOW_STEP)
        p = reserve_at(at, size);
    return p;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

enum { FILLED_MAX = 1 << 20 };

static size_t slot_table_size(const struct bt_cache *c)
{
    return (c->wide ? 1ull << 36 : 1ull << 20) * sizeof(uint32_t);
}

static bool tables_allocate(struct bt_cache *c)
{
    c->block_max = (uint32_t)(c->size / 160);
    c->page_max = PAGE_MAX;
    c->frame_max = 1 << 15;
    c->exit_max = c->block_max * 3;
    c->record_max = (uint32_t)(c->size / 24);
    c->constant_max = (uint32_t)(c->size / 8);
    c->site_max = 1 << 18;
    c->blocks = reserve(c->block_max * sizeof *c->blocks);
    c->pages = reserve(c->page_max * sizeof *c->pages);
    c->starts = reserve(c->page_max * sizeof *c->starts);
    c->frames = reserve(c->frame_max * sizeof *c->frames);
    c->exits = reserve(c->exit_max * sizeof *c->exits);
    c->records = reserve(c->record_max * sizeof *c->records);
    c->constants = reserve(c->constant_max * sizeof *c->constants);
    c->sites = reserve(c->site_max * sizeof *c->sites);
    c->landings = reserve(c->block_max * sizeof *c->landings);
    c->decoded = insn_cache_create();
    c->builder = reserve(bt_builder_size());
    bool ok = c->builder && c->blocks && c->pages && c->starts && c->frames && c->exits && c->records && c->constants &&
              c->sites && c->landings && c->decoded;
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++) {
        c->slots[i].table = reserve(slot_table_size(c));
        c->slots[i].filled = reserve(FILLED_MAX * sizeof(uint64_t));
        c->slots[i].global = reserve(FILLED_MAX * sizeof(uint64_t));
        c->slots[i].maps = c->maps[i];
        ok = ok && c->slots[i].table && c->slots[i].filled && c->slots[i].global && landing_open(&c->slots[i]);
    }
    for (size_t i = 0; i < sizeof c->parked / sizeof c->parked[0]; i++)
        ok = (c->parked[i] = reserve(sizeof *c->parked[i])) && ok;
    return ok;
}

static void counters_reset(struct bt_cache *c)
{
    /* index 0 is "none" everywhere */
    c->block_count = c->page_count = c->frame_count = c->exit_count = c->record_count = c->site_count = 1;
    c->constant_count = c->landing_count = 1;
    c->used = c->glue_size;
}

/* The code's memory twice: to write and, at a fixed address, to execute. Shared anonymous memory, which mremap doubles,
 * and not a memfd: only executable mappings that it takes for anonymous does perf(1) look up in /tmp/perf-PID.map. */
static bool map_views(struct bt_cache *c, uint8_t *at, size_t size)
{
    c->write_view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (c->write_view == MAP_FAILED)
        return false;
    c->exec_view = mremap(c->write_view, 0, size, MREMAP_MAYMOVE | MREMAP_FIXED, at);
    return c->exec_view != MAP_FAILED && !mprotect(c->exec_view, size, PROT_READ | PROT_EXEC);
}

struct bt_vcpu *bt_cache_create(size_t cache_size, bool wide, char *err, size_t err_len)
{
    size_t code = round_up(cache_size ? cache_size : 96u << 20, PAGE_SIZE);
    size_t state = round_up(sizeof(struct bt_vcpu), PAGE_SIZE);
    size_t invalid = PAGE_MAX * sizeof(uint32_t);
    size_t total = state + code + invalid;
    uint8_t *low = reserve_low(total);
    if (!low) {
        snprintf(err, err_len, "bt: no %zu MiB of address space free below 2 GiB for the code cache", total >> 20);
        return NULL;
    }
    void *v = mmap(low, state, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    struct bt_cache *c = reserve(sizeof *c);
    if (v == MAP_FAILED || !c)
        goto fail;
    struct bt_vcpu *vcpu = v;
    vcpu->cache = c;
    c->vcpu = vcpu;
    c->wide = wide;
    c->size = code;
    if (!map_views(c, low + state, code))
        goto fail;
    c->invalid = mmap(low + state + code, invalid, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (c->invalid == MAP_FAILED || !tables_allocate(c))
        goto fail;
    c->glue_size = GLUE_BYTES;
    bt_glue_emit(c);
    counters_reset(c);
    return vcpu;
fail:
    snprintf(err, err_len, "bt: cannot map a code cache of %zu MiB and its tables: %s%s", code >> 20, strerror(errno),
             wide ? " (a machine with --cpu 32 needs less address space)" : "");
    munmap(low, total);
    return NULL;
}

void bt_cache_destroy(struct bt_vcpu *v)
{
    struct bt_cache *c = v->cache;
    unreserve(c->blocks, c->block_max * sizeof *c->blocks);
    unreserve(c->pages, c->page_max * sizeof *c->pages);
    unreserve(c->starts, c->page_max * sizeof *c->starts);
    unreserve(c->frames, c->frame_max * sizeof *c->frames);
    unreserve(c->exits, c->exit_max * sizeof *c->exits);
    unreserve(c->records, c->record_max * sizeof *c->records);
    unreserve(c->constants, c->constant_max * sizeof *c->constants);
    unreserve(c->sites, c->site_max * sizeof *c->sites);
    unreserve(c->landings, c->block_max * sizeof *c->landings);
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++) {
        unreserve(c->slots[i].table, slot_table_size(c));
        unreserve(c->slots[i].filled, FILLED_MAX * sizeof(uint64_t));
        landing_close(&c->slots[i]);
        unreserve(c->slots[i].global, FILLED_MAX * sizeof(uint64_t));
    }
    jump_map_close(c);
    for (size_t i = 0; i < sizeof c->parked / sizeof c->parked[0]; i++)
        unreserve(c->parked[i], sizeof *c->parked[i]);
    insn_cache_destroy(c->decoded);
    unreserve(c->builder, bt_builder_size());
    munmap(c->write_view, c->size);
    size_t state = (size_t)(c->exec_view - (uint8_t *)v), total = state + c->size + PAGE_MAX * sizeof *c->invalid;
    munmap(c, sizeof *c);
    munmap(v, total);
}

/* ---- exec slots ---- */

/* The page leaves the code map: no exit of another page leads to its blocks any more. */
static void unlink_far_exits(struct bt_cache *c, struct bt_page *p)
{
    for (uint32_t i = p->far_exits; i; i = c->exits[i].next_far) {
        c->exits[i].far_page = 0;
        bt_cache_unlink(c, i);
    }
    p->far_exits = 0;
}

/* A page leaves the code map: invalid[0] is nobody's. */
static void map_leave(struct bt_cache *c, struct bt_exec_slot *s, uint64_t page)
{
    c->invalid[s->table[page]] = 1;
    unlink_far_exits(c, &c->pages[s->table[page]]);
    s->table[page] = 0;
    jump_map_forget_page(s, page);
}

static void list_clear(struct bt_cache *c, struct bt_exec_slot *s, const uint64_t *pages, uint32_t *count)
{
    for (uint32_t i = 0; i < *count; i++)
        map_leave(c, s, pages[i]);
    *count = 0;
}

/* The slot's table has none but global pages. Every process of a guest that randomizes addresses is somewhere else: the
 * host's memory for those that may have ended goes back now and then. */
static void slot_trim(struct bt_cache *c, struct bt_exec_slot *s)
{
    enum { ENTERED_MAX = 4096 };
    if (s->global_count)
        return;
    if (s->map_count)
        jump_map_release(c, s);
    if (!c->wide || s->entered < ENTERED_MAX)
        return;
    reserve_again(s->table, (uint8_t *)s->table + slot_table_size(c));
    s->entered = 0;
}

static void slot_clear(struct bt_cache *c, struct bt_exec_slot *s, bool keep_global)
{
    jump_map_empty(s);
    list_clear(c, s, s->filled, &s->filled_count);
    if (!keep_global)
        list_clear(c, s, s->global, &s->global_count);
    slot_trim(c, s);
}

static bool slot_fits(const struct bt_exec_slot *s, const struct bt_vcpu *v)
{
    return s->used && s->mode == v->mode && s->code_base == v->code_base && s->code_limit == v->code_limit;
}

static struct bt_exec_slot **slot_hint(struct bt_cache *c, uint32_t mode)
{
    return &c->slot_hints[(mode ^ mode >> 5 ^ mode >> 11 ^ mode >> 15) %
                          (sizeof c->slot_hints / sizeof c->slot_hints[0])];
}

static void slot_use(struct bt_cache *c, struct bt_exec_slot *s)
{
    s->used = ++c->slot_tick;
    c->slot = s;
    c->vcpu->jump = s->jump;
    if (bt_mode_jump_map(s->mode))
        jump_map_use(c, s);
}

void bt_cache_select(struct bt_cache *c)
{
    struct bt_vcpu *v = c->vcpu;
    struct bt_exec_slot **hint = slot_hint(c, v->mode);
    if (*hint && slot_fits(*hint, v)) {
        slot_use(c, *hint);
        return;
    }
    struct bt_exec_slot *oldest = &c->slots[0];
    struct bt_exec_slot *s = NULL;
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++) {
        struct bt_exec_slot *t = &c->slots[i];
        if (slot_fits(t, v)) {
            s = t;
            break;
        }
        if (t->used < oldest->used)
            oldest = t;
    }
    if (!s) {
        s = oldest;
        slot_clear(c, s, false);
        landing_clear(s);
        jump_map_reset(c, s);
        s->generation++;
        s->mode = v->mode;
        s->code_base = v->code_base;
        s->code_limit = v->code_limit;
    }
    if (bt_mode_jump_map(v->mode) && !jump_map_open(c, s)) {
        bt_window_give_up(v);
        v->mode &= ~(uint32_t)BT_MODE_WINDOW;
        bt_cache_select(c);
        return;
    }
    *hint = s;
    slot_use(c, s);
}

/* The page's entry, and that of the page before, whose last instruction may reach into it. */
static void slot_clear_page(struct bt_cache *c, struct bt_exec_slot *s, uint64_t gva)
{
    for (uint64_t at = gva - PAGE_SIZE;; at = gva) {
        uint64_t page = mmu_table_index(&c->vcpu->cpu.mmu, at);
        if (s->table[page]) /* no write where nothing is: most of a table has no memory */
            map_leave(c, s, page);
        if (at == gva)
            break;
    }
}

void bt_cache_unmap(struct bt_cache *c, enum mmu_flush_kind kind, uint64_t gva)
{
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++) {
        if (!c->slots[i].filled_count && !c->slots[i].global_count)
            continue;
        if (kind == MMU_FLUSH_PAGE)
            slot_clear_page(c, &c->slots[i], gva);
        else
            slot_clear(c, &c->slots[i], kind != MMU_FLUSH_ALL);
    }
    if (kind == MMU_FLUSH_ALL || kind == MMU_FLUSH_NONGLOBAL)
        for (size_t i = 0; i < sizeof c->parked / sizeof c->parked[0]; i++)
            c->parked[i]->count = 0;
}

/* A page that became global is no longer the address space's. */
static void forget_local(struct bt_exec_slot *s, uint64_t page)
{
    for (uint32_t i = 0; i < s->filled_count; i++)
        if (s->filled[i] == page)
            s->filled[i--] = s->filled[--s->filled_count];
}

static void map_enter(struct bt_cache *c, struct bt_exec_slot *s, uint64_t page, uint32_t record, bool global)
{
    uint32_t *count = global ? &s->global_count : &s->filled_count;
    if (*count == FILLED_MAX)
        slot_clear(c, s, false);
    if (global)
        forget_local(s, page);
    (global ? s->global : s->filled)[(*count)++] = page;
    map_leave(c, s, page);
    s->table[page] = record;
    c->invalid[record] = 0;
}

/* Takes the current address space's entries out of the code map. What INVLPG of a large page would have to find is not
 * kept. */
static void park(struct bt_cache *c, struct bt_parked *to)
{
    const uint8_t *large = c->vcpu->cpu.mmu.large;
    to->count = 0;
    for (uint32_t n = 0; n < sizeof c->slots / sizeof c->slots[0]; n++) {
        struct bt_exec_slot *s = &c->slots[n];
        jump_map_empty(s);
        for (uint32_t i = 0; i < s->filled_count; i++) {
            uint64_t page = s->filled[i];
            if (s->table[page] && !(large[page >> MMU_LARGE_SHIFT] & MMU_LARGE_EXEC) &&
                to->count < sizeof to->entry / sizeof to->entry[0])
                to->entry[to->count++] = (struct bt_parked_entry){page, s->table[page], n, s->generation};
            map_leave(c, s, page);
        }
        s->filled_count = 0;
        slot_trim(c, s);
    }
}

/* Pages with page-crossing blocks stay out: what is behind them must be looked at as they enter the code map. So do
 * those that have moved away. */
static void resume(struct bt_cache *c, const struct bt_parked *from)
{
    uint64_t now = __builtin_ia32_rdtsc();
    for (uint32_t i = 0; i < from->count; i++) {
        const struct bt_parked_entry *e = &from->entry[i];
        struct bt_exec_slot *s = &c->slots[e->slot];
        struct bt_page *p = &c->pages[e->record];
        if (s->generation != e->generation || s->table[e->page] || p->crossing ||
            mmu_table_index(&c->vcpu->cpu.mmu, p->lin << PAGE_SHIFT) != e->page)
            continue;
        map_enter(c, s, e->page, e->record, false);
        p->used = now;
    }
}

void bt_cache_switch(struct bt_cache *c, int parked, int resumed)
{
    struct bt_parked *left = c->parked[MMU_PARKED];
    park(c, left);
    if (resumed >= 0)
        resume(c, c->parked[resumed]);
    if (parked >= 0) {
        c->parked[MMU_PARKED] = c->parked[parked];
        c->parked[parked] = left;
    }
}

void bt_cache_map_page(struct bt_cache *c, uint64_t lin, uint32_t page, bool global)
{
    struct bt_exec_slot *s = c->slot;
    uint64_t index = mmu_table_index(&c->vcpu->cpu.mmu, lin << PAGE_SHIFT);
    c->pages[page].used = __builtin_ia32_rdtsc();
    if (s->table[index] != page)
        map_enter(c, s, index, page, global);
    s->entered++;
    c->vcpu->stats.map_fills++;
}

/* ---- pages, frames, blocks ---- */

static uint32_t hash(uint64_t a, uint64_t b)
{
    return (uint32_t)((a * 0x9e3779b97f4a7c15ull + b * 0xc2b2ae3d27d4eb4full) >> 48) & (BT_HASH - 1);
}

struct bt_frame *bt_cache_frame(struct bt_cache *c, uint64_t gfn)
{
    for (uint32_t i = c->frame_hash[hash(gfn, 0)]; i; i = c->frames[i].next_hash)
        if (c->frames[i].gfn == gfn)
            return &c->frames[i];
    return NULL;
}

static struct bt_frame *frame_make(struct bt_cache *c, uint64_t gfn)
{
    struct bt_frame *f = bt_cache_frame(c, gfn);
    if (f)
        return f;
    uint32_t n = c->frame_count++;
    f = &c->frames[n];
    bt_clear(f, sizeof *f);
    f->gfn = gfn;
    uint32_t *head = &c->frame_hash[hash(gfn, 0)];
    f->next_hash = *head;
    *head = n;
    return f;
}

bool bt_cache_full(const struct bt_cache *c)
{
    return c->size - c->used < 128 << 10 || c->block_max - c->block_count < 8 || c->page_max - c->page_count < 8 ||
           c->frame_max - c->frame_count < 8 || c->exit_max - c->exit_count < 2 * BT_BLOCK_MAX_INSNS ||
           c->record_max - c->record_count < 4 * BT_BLOCK_MAX_INSNS ||
           c->constant_max - c->constant_count < 16 * BT_BLOCK_MAX_INSNS ||
           c->site_max - c->site_count < 4 * BT_BLOCK_MAX_INSNS;
}

void bt_cache_refile(struct bt_cache *c, uint32_t page, uint64_t lin)
{
    struct bt_page *p = &c->pages[page];
    for (uint32_t *i = &c->page_hash[hash(p->gfn, p->lin ^ p->mode)]; *i; i = &c->pages[*i].next_hash)
        if (*i == page) {
            *i = p->next_hash;
            break;
        }
    uint32_t *head = &c->page_hash[hash(p->gfn, lin ^ p->mode)];
    p->lin = lin;
    p->next_hash = *head;
    *head = page;
}

uint32_t bt_cache_page(struct bt_cache *c, uint64_t gfn, uint64_t lin)
{
    struct bt_vcpu *v = c->vcpu;
    uint32_t *head = &c->page_hash[hash(gfn, lin ^ v->mode)];
    for (uint32_t i = *head; i; i = c->pages[i].next_hash) {
        const struct bt_page *p = &c->pages[i];
        if (p->gfn == gfn && p->lin == lin && p->mode == v->mode && p->code_base == v->code_base &&
            p->code_limit == v->code_limit)
            return i;
    }
    uint32_t moved = bt_move_page(c, gfn, lin);
    if (moved)
        return moved;
    uint32_t n = c->page_count++;
    struct bt_frame *f = frame_make(c, gfn);
    c->pages[n] = (struct bt_page){.gfn = gfn,
                                   .lin = lin,
                                   .code_base = v->code_base,
                                   .code_limit = v->code_limit,
                                   .mode = v->mode,
                                   .used = __builtin_ia32_rdtsc(),
                                   .lin_before = BT_NOWHERE,
                                   .frame = (uint32_t)(f - c->frames),
                                   .next_hash = *head,
                                   .next_frame = f->pages};
    bt_clear(c->starts[n], sizeof c->starts[n]);
    c->invalid[n] = 1;
    *head = n;
    f->pages = n;
    return n;
}

/* Memory for the next blocks. A page of the executable view finds its neighbours there at its own first touch. */
static void allocate_ahead(struct bt_cache *c)
{
    enum { CODE_STEP = 128 << 10, STEP = 64 << 10 };
    reserve_ahead(c->write_view, c->used, c->size, &c->allocated, CODE_STEP);
#define TABLE_AHEAD(table, n, max)                                                                                     \
    reserve_ahead(c->table, n * sizeof *c->table, c->max * sizeof *c->table, &c->allocated_of.table, STEP)
    TABLE_AHEAD(blocks, c->block_count, block_max);
    TABLE_AHEAD(exits, c->exit_count, exit_max);
    TABLE_AHEAD(records, c->record_count, record_max);
    TABLE_AHEAD(constants, c->constant_count, constant_max);
    TABLE_AHEAD(starts, c->page_count, page_max);
#undef TABLE_AHEAD
}

void bt_cache_written_to(struct bt_cache *c, const uint8_t *end)
{
    enum { PART = 1 << 20 };
    size_t before = c->used / PART;
    c->used = round_up((size_t)(end - c->write_view), 16);
    size_t now = c->used / PART;
    /* What is complete is rarely written again, by chaining: it need not be resident in the writable view, too. */
    if (now != before && now >= 2)
        madvise(c->write_view, (now - 1) * PART, MADV_DONTNEED);
    allocate_ahead(c);
}

static bool site_is(const struct bt_site *s, const struct insn *in, uint32_t flags)
{
    const uint64_t *a = (const uint64_t *)&s->insn, *b = (const uint64_t *)in;
    if (s->flags != flags)
        return false;
    for (size_t i = 0; i < sizeof *in / sizeof *a; i++) /* not memcmp, which uses vector registers */
        if (a[i] != b[i])
            return false;
    return true;
}
_Static_assert(sizeof(struct insn) % sizeof(uint64_t) == 0, "site_is compares whole words");

struct bt_site *bt_cache_site(struct bt_cache *c, const struct bt_site *fields)
{
    const uint64_t *bytes = (const uint64_t *)(const void *)fields->insn.bytes;
    uint32_t *head = &c->site_hash[hash(bytes[0], bytes[1] ^ fields->flags)];
    for (uint32_t i = *head; i; i = c->sites[i].next_hash)
        if (c->sites[i].run == fields->run && site_is(&c->sites[i], &fields->insn, fields->flags))
            return &c->sites[i];
    uint32_t n = c->site_count++;
    bt_copy(&c->sites[n], fields, sizeof *fields);
    c->sites[n].next_hash = *head;
    *head = n;
    return &c->sites[n];
}

static uint32_t *block_head(struct bt_cache *c, uint32_t page, unsigned offset)
{
    return &c->starts[page][offset / BT_NEAR];
}

struct bt_block *bt_cache_find(struct bt_cache *c, uint32_t page, unsigned offset)
{
    for (uint32_t i = *block_head(c, page, offset); i; i = c->blocks[i].next_near) {
        struct bt_block *b = &c->blocks[i];
        if (b->offset == offset && b->fits)
            return b;
    }
    return NULL;
}

static void mark_bytes(struct bt_cache *c, struct bt_frame *f, unsigned from, unsigned to)
{
    uint64_t gfn = f->gfn;
    f->live++;
    for (unsigned i = from, n; i < to; i += n) {
        n = to - i < 64 - i % 64 ? to - i : 64 - i % 64;
        f->bytes[i / 64] |= ~0ull >> (64 - n) << i % 64;
    }
    struct memory *m = c->vcpu->mem;
    if (gfn < m->page_count && !(m->flags[gfn] & MEMORY_PAGE_CODE)) {
        atomic_fetch_or(&m->flags[gfn], MEMORY_PAGE_CODE);
        mmu_drop_gfn(&c->vcpu->cpu.mmu, gfn, true);
    }
}

/* Translations of pages that the code map does not lead to. */
enum { UNMAPPED = BT_MODE_SINGLE | BT_MODE_PLAIN };

void bt_cache_attach(struct bt_cache *c, struct bt_block *b)
{
    struct bt_page *p = &c->pages[b->page];
    unsigned end = b->offset + b->length;
    b->next = p->blocks;
    p->blocks = (uint32_t)(b - c->blocks);
    mark_bytes(c, &c->frames[p->frame], b->offset, end > PAGE_SIZE ? PAGE_SIZE : end);
}

void bt_cache_publish(struct bt_cache *c, struct bt_block *b)
{
    struct bt_page *p = &c->pages[b->page];
    unsigned end = b->offset + b->length;
    uint32_t *head = block_head(c, b->page, b->offset), n = (uint32_t)(b - c->blocks);
    b->next_near = *head;
    *head = n;
    b->fits = true;
    bt_cache_attach(c, b);
    if (end > PAGE_SIZE)
        mark_bytes(c, frame_make(c, b->second_gfn), 0, end - PAGE_SIZE);
    if (end > PAGE_SIZE && !(p->mode & UNMAPPED)) {
        b->next_crossing = p->crossing;
        p->crossing = n;
        b->fits = false;
        bt_cache_unmap(c, MMU_FLUSH_PAGE, p->lin << PAGE_SHIFT); /* so that the second page is looked at */
    }
}

/* ---- chains ---- */

/* An exit is about to be linked to a block of another page. False: it may not be. */
static bool far_exit_noted(struct bt_cache *c, struct bt_exit_record *e, uint32_t page)
{
    if (e->far_page || c->invalid[page])
        return e->far_page == page && !c->invalid[page];
    e->far_page = page;
    e->next_far = c->pages[page].far_exits;
    c->pages[page].far_exits = (uint32_t)(e - c->exits);
    return true;
}

/* The exit has no target any more. */
static void forget_target(struct bt_cache *c, uint32_t exit)
{
    struct bt_exit_record *e = &c->exits[exit];
    bt_cache_unlink(c, exit);
    if (!e->target)
        return;
    for (uint32_t *p = &c->blocks[e->target].incoming; *p; p = &c->exits[*p].next)
        if (*p == exit) {
            *p = e->next;
            break;
        }
    e->target = 0;
}

void bt_cache_link(struct bt_cache *c, uint32_t exit, struct bt_block *target)
{
    struct bt_exit_record *e = &c->exits[exit];
    uint32_t index = (uint32_t)(target - c->blocks);
    if (e->linked || c->blocks[e->block].dead || target->dead)
        return;
    bool chained = !e->far || (c->pages[target->page].mode & BT_MODE_WINDOW);
    if (e->far && chained && !far_exit_noted(c, e, target->page))
        return;
    uintptr_t to = e->backward ? target->entry : target->entry + target->body;
    if (!chained)
        to = landing_direct(c, target, e->flags_saved, e->backward);
    else if (e->flags_saved && target->flags_in)
        to = target->entry - BT_ENTRY_SAVED;
    if (!to)
        return;
    struct assembler a = bt_assembler(c);
    asm_patch32(&a, c->write_view + e->site, to);
    if (e->target != index) {
        forget_target(c, exit);
        e->target = index;
        e->next = target->incoming;
        target->incoming = exit;
    }
    e->linked = true;
    c->vcpu->stats.chains++;
}

void bt_cache_unlink(struct bt_cache *c, uint32_t exit)
{
    struct bt_exit_record *e = &c->exits[exit];
    if (!e->linked)
        return;
    e->linked = false;
    struct assembler a = bt_assembler(c);
    asm_patch32(&a, c->write_view + e->site, e->stub);
}

void bt_cache_link_again(struct bt_cache *c, uint32_t exit)
{
    struct bt_exit_record *e = &c->exits[exit];
    if (e->far && !e->linked && e->target && e->target_eip == c->blocks[e->target].eip)
        bt_cache_link(c, exit, &c->blocks[e->target]);
}

/* ---- invalidation ---- */

static void frame_release(struct bt_cache *c, uint64_t gfn)
{
    struct bt_frame *f = bt_cache_frame(c, gfn);
    if (f && f->live && --f->live == 0) {
        for (unsigned i = 0; i < sizeof f->bytes / sizeof f->bytes[0]; i++)
            *(volatile uint64_t *)&f->bytes[i] = 0;
        if (gfn < c->vcpu->mem->page_count)
            atomic_fetch_and(&c->vcpu->mem->flags[gfn], (uint8_t)~MEMORY_PAGE_CODE);
    }
}

void bt_cache_kill(struct bt_cache *c, struct bt_block *b)
{
    struct bt_page *p = &c->pages[b->page];
    b->dead = true;
    for (uint32_t *i = &p->blocks; *i; i = &c->blocks[*i].next)
        if (&c->blocks[*i] == b) {
            *i = b->next;
            break;
        }
    for (uint32_t *i = &p->crossing; *i; i = &c->blocks[*i].next_crossing)
        if (&c->blocks[*i] == b) {
            *i = b->next_crossing;
            break;
        }
    for (uint32_t *i = block_head(c, b->page, b->offset); *i; i = &c->blocks[*i].next_near)
        if (&c->blocks[*i] == b) {
            *i = b->next_near;
            break;
        }
    landing_forget(c, b);
    jump_map_forget(c, p->mode, p->lin << PAGE_SHIFT | b->offset);
    while (b->incoming)
        forget_target(c, b->incoming);
    for (uint32_t i = 0; i < b->exit_count; i++)
        forget_target(c, b->first_exit + i);
    frame_release(c, p->gfn);
    if (b->second_gfn != ~0ull)
        frame_release(c, b->second_gfn);
    c->vcpu->stats.smc_blocks++;
}

static bool block_touches(const struct bt_cache *c, const struct bt_block *b, uint64_t gfn, unsigned from, unsigned to)
{
    unsigned end = b->offset + b->length;
    if (c->pages[b->page].gfn == gfn && b->offset < to && from < end)
        return true;
    return b->second_gfn == gfn && from < end - PAGE_SIZE;
}

static bool drop_from_page(struct bt_cache *c, struct bt_page *p, uint64_t gfn, unsigned from, unsigned to)
{
    bool hit = false;
    for (uint32_t i = p->blocks, next; i; i = next) {
        next = c->blocks[i].next;
        if (block_touches(c, &c->blocks[i], gfn, from, to)) {
            bt_cache_kill(c, &c->blocks[i]);
            hit = true;
        }
    }
    return hit;
}

/* The same for blocks that begin in another frame: those whose instruction crosses into this one. (Blocks of
 * BT_MODE_SINGLE are not in the list of these.) */
static bool drop_crossing(struct bt_cache *c, struct bt_page *p, uint64_t gfn, unsigned from, unsigned to)
{
    bool hit = false;
    if (p->mode & BT_MODE_SINGLE)
        return drop_from_page(c, p, gfn, from, to);
    for (uint32_t i = p->crossing, next; i; i = next) {
        next = c->blocks[i].next_crossing;
        if (block_touches(c, &c->blocks[i], gfn, from, to)) {
            bt_cache_kill(c, &c->blocks[i]);
            hit = true;
        }
    }
    return hit;
}

static bool bytes_hit(const struct bt_frame *f, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++)
        if (f->bytes[i / 64] >> i % 64 & 1)
            return true;
    return false;
}

bool bt_cache_written(struct bt_cache *c, uint64_t gfn, unsigned offset, unsigned len)
{
    struct bt_frame *f = bt_cache_frame(c, gfn);
    if (!f || !f->live || !bytes_hit(f, offset, offset + len))
        return false;
    bool hit = false;
    for (uint32_t i = f->pages; i; i = c->pages[i].next_frame)
        hit |= drop_from_page(c, &c->pages[i], gfn, offset, offset + len);
    if (bytes_hit(f, 0, 15) && offset < 15)
        for (uint32_t i = 1; i < c->page_count; i++)
            if (c->pages[i].gfn != gfn)
                hit |= drop_crossing(c, &c->pages[i], gfn, offset, offset + len);
    if (hit)
        c->vcpu->smc_hit = true;
    return hit;
}

void bt_cache_drop_frames(struct bt_cache *c, uint64_t first, uint64_t last)
{
    for (uint32_t i = 1; i < c->frame_count; i++)
        if (c->frames[i].live && c->frames[i].gfn >= first && c->frames[i].gfn <= last)
            bt_cache_written(c, c->frames[i].gfn, 0, PAGE_SIZE);
}

struct bt_block *bt_cache_block_at(struct bt_cache *c, uintptr_t host)
{
    uint32_t low = 1, high = c->block_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        struct bt_block *b = &c->blocks[mid];
        if (host < b->entry - BT_ENTRY_SAVED)
            high = mid;
        else if (host >= b->entry + b->size)
            low = mid + 1;
        else
            return b;
    }
    return NULL;
}

void bt_cache_flush(struct bt_cache *c)
{
    struct memory *m = c->vcpu->mem;
    if (c->vcpu->profile)
        bt_profile_flushed(c->vcpu);
    for (uint32_t i = 1; i < c->frame_count; i++)
        if (c->frames[i].gfn < m->page_count)
            atomic_fetch_and(&m->flags[c->frames[i].gfn], (uint8_t)~MEMORY_PAGE_CODE);
    bt_cache_unmap(c, MMU_FLUSH_ALL, 0);
    memset(c->page_hash, 0, sizeof c->page_hash);
    memset(c->frame_hash, 0, sizeof c->frame_hash);
    memset(c->site_hash, 0, sizeof c->site_hash);
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++)
        landing_clear(&c->slots[i]);
    counters_reset(c);
    c->vcpu->smc_hit = true;
    c->vcpu->stats.cache_flushes++;
    if (c->vcpu->perf_map)
        bt_perf_map_flushed(c->vcpu);
}
