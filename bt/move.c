/* SPDX-License-Identifier: MIT */
#include "bt/move.h"

#include "bt/landing.h"
#include "bt/verify.h"
#include "shadowmmu/region.h"

static const uint64_t QUIET = 1000000; /* cycles that a page has not entered a code map for */

/* User code whose instruction pointers are linear addresses. */
static bool movable(uint32_t mode)
{
    return bt_mode_user(mode) && (mode & BT_MODE_FLAT_CS) && !(mode & (BT_MODE_SINGLE | BT_MODE_WATCH)) &&
           (mode & BT_MODE_CODE_MASK) != INSN_MODE_16;
}

/* The page to move: the one that was left alone for longest. */
static uint32_t choose(struct bt_cache *c, uint64_t gfn, uint64_t lin)
{
    const struct bt_vcpu *v = c->vcpu;
    const struct bt_frame *f = bt_cache_frame(c, gfn);
    uint32_t found = 0;
    for (uint32_t i = f ? f->pages : 0; i; i = c->pages[i].next_frame) {
        struct bt_page *p = &c->pages[i];
        if (p->mode != v->mode || p->code_base != v->code_base || p->code_limit != v->code_limit)
            continue;
        if (p->lin_before == lin) {
            p->lin_before = BT_NOWHERE;
            return 0;
        }
        if (!found || p->used < c->pages[found].used)
            found = i;
    }
    return found && __builtin_ia32_rdtsc() - c->pages[found].used > QUIET ? found : 0;
}

/* ---- constants ---- */

struct distance {
    uint64_t pages; /* modulo 2^64 */
    bool wide;      /* 64-bit code */
};

static uint64_t moved_address(uint64_t n, const struct distance *d)
{
    n += d->pages << PAGE_SHIFT;
    return d->wide ? n : (uint32_t)n;
}

/* address: the BT_ADDRESS before, as it was. */
static uint64_t moved(uint64_t n, unsigned unit, const struct distance *d, uint64_t address)
{
    uint64_t indices = d->wide ? (1ull << 36) - 1 : (1ull << 20) - 1; /* mmu_table_index */
    switch (unit) {
    case BT_PAGE_INDEX:
        return (n + d->pages) & indices;
    case BT_REGION_ENTRY:
        return n + ((moved_address(address, d) >> MMU_REGION_SHIFT) - (address >> MMU_REGION_SHIFT)) * sizeof(uint64_t);
    default:
        return moved_address(n, d);
    }
}

static uint64_t read_constant(const uint8_t *at, unsigned form)
{
    uint64_t n = 0;
    int32_t low;
    __builtin_memcpy(&low, at, 4);
    if (form == BT_CONSTANT_64)
        __builtin_memcpy(&n, at, 8);
    return form == BT_CONSTANT_64 ? n : form == BT_CONSTANT_S32 ? (uint64_t)low : (uint32_t)low;
}

static void write_constant(uint8_t *at, unsigned form, uint64_t n)
{
    if (form == BT_CONSTANT_64)
        __builtin_memcpy(at, &n, 8);
    else
        __builtin_memcpy(at, &n, 4);
}

static bool has_room(unsigned form, uint64_t n)
{
    return form == BT_CONSTANT_64 || n == (form == BT_CONSTANT_S32 ? (uint64_t)(int32_t)n : (uint32_t)n);
}

/* False: a number has no room for its new value, or that is not the user's: code for such an address looks different,
 * and the block, half changed, is of no use. */
static bool change_all(struct bt_cache *c, const struct bt_block *b, const struct distance *d)
{
    uint8_t *code = c->write_view + (b->entry - (uintptr_t)c->exec_view);
    uint64_t address = 0;
    for (const struct bt_constant *k = &c->constants[b->first_constant]; k->form; k++) {
        if (k->form == BT_CONSTANT_PINNED)
            return false;
        uint64_t before = read_constant(code + k->host_offset, k->form), now = moved(before, k->unit, d, address);
        if (!has_room(k->form, now) || (k->unit == BT_ADDRESS && now >> 47))
            return false;
        if (k->unit == BT_ADDRESS)
            address = before;
        write_constant(code + k->host_offset, k->form, now);
    }
    return true;
}

/* ---- blocks ---- */

/* Exits between this page and its counterpart in BT_MODE_PLAIN, those by the jump table, and those by landings, which
 * page-crossing blocks use within the page, too. */
static void detach(struct bt_cache *c, struct bt_block *b)
{
    struct assembler a = bt_assembler(c);
    for (uint32_t i = b->incoming; i; i = c->exits[i].next)
        if (c->exits[i].far || c->blocks[c->exits[i].block].page != b->page)
            bt_cache_unlink(c, i);
    for (uint32_t i = b->first_exit; i < b->first_exit + b->exit_count; i++) {
        struct bt_exit_record *e = &c->exits[i];
        if (e->linked && (e->far || c->blocks[e->target].page != b->page))
            bt_cache_unlink(c, i);
        else if (!e->linked)
            asm_patch32(&a, c->write_view + e->site, e->stub); /* see bt_exit_by_table */
    }
}

static void move_block(struct bt_cache *c, struct bt_block *b, const struct distance *d)
{
    if (!change_all(c, b, d)) {
        bt_cache_kill(c, b);
        return;
    }
    detach(c, b);
    landing_move(c, b, moved_address(b->eip, d));
    b->eip = moved_address(b->eip, d);
    for (uint32_t i = b->first_exit; i < b->first_exit + b->exit_count; i++)
        c->exits[i].target_eip = moved_address(c->exits[i].target_eip, d);
    c->vcpu->stats.moved_blocks++;
    /* bt_window_divert leaves half an instruction behind a jump, which the verifier cannot read */
    if (c->vcpu->options.verify_code && !(c->vcpu->mode & BT_MODE_WINDOW)) {
        cpu_fpu_unload(&c->vcpu->cpu);
        bt_verify_block(c, b);
    }
}

uint32_t bt_move_page(struct bt_cache *c, uint64_t gfn, uint64_t lin)
{
    struct bt_vcpu *v = c->vcpu;
    if (!movable(v->mode))
        return 0;
    uint32_t page = choose(c, gfn, lin);
    if (!page)
        return 0;
    struct bt_page *p = &c->pages[page];
    struct distance d = {.pages = lin - p->lin, .wide = (p->mode & BT_MODE_CODE_MASK) == INSN_MODE_64};
    bt_cache_unmap(c, MMU_FLUSH_PAGE, p->lin << PAGE_SHIFT);
    for (uint32_t i = p->blocks, next; i; i = next) {
        next = c->blocks[i].next;
        move_block(c, &c->blocks[i], &d);
    }
    p->lin_before = p->lin;
    bt_cache_refile(c, page, lin);
    p->used = __builtin_ia32_rdtsc();
    v->stats.moved_pages++;
    return page;
}

void bt_move_arrived(struct bt_cache *c, uint32_t page)
{
    for (uint32_t n = c->pages[page].blocks; n; n = c->blocks[n].next) {
        struct bt_block *b = &c->blocks[n];
        for (uint32_t i = b->incoming; i; i = c->exits[i].next)
            bt_cache_link_again(c, i);
        for (uint32_t i = b->first_exit; i < b->first_exit + b->exit_count; i++)
            bt_cache_link_again(c, i);
        if (b->jump_target && b->fits)
            landing_enter_target(c, b);
    }
}
