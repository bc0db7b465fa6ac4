/* SPDX-License-Identifier: MIT */
/* Accesses to parallel regions (shadowmmu/parallel.h): user code in 64-bit windows. `mov eax, [rbx + rcx*8 + 8]`
 * becomes
 *
 *     lea  r11, [rbx + rcx*8 + 8]   for a register and a small displacement, nothing: shrx is from that
 *     shrx r11, r11, r15
 *     mov  r11d, [table + r11*8]    a host page fault unless it is in a parallel stretch
 *     mov  eax, gs:[rbx + rcx*8 + 8]
 *
 * and what is known to be near (bt/value.h) needs the last line only: a check holds for the rest of the block, takes no
 * register, and nothing waits for what it loads. What is near but behind the stretch's end meets a guard, or another
 * place where it should be. Where the check keeps failing (addresses of the other side, or none at all) the page's code
 * is made again with entries of the region table (translate_region.c). */
#include "bt/translate.h"

#include "shadowmmu/parallel.h"
#include "shadowmmu/region.h"
#include "shadowmmu/window.h"

void parallel_begin(struct builder *b)
{
    b->parallel.possible = has_regions(b) && b->v->can_write_gs && !(b->mode & BT_MODE_PLAIN) &&
                           bt_mode_user(b->mode) && b->v->cpu.mmu.window[MMU_WINDOW_USER].parallel.table;
    parallel_forget(b);
}

bool parallel_is_used(const struct builder *b)
{
    unsigned part = (unsigned)((b->eip_at[b->cur] & PAGE_MASK) / BT_NEAR);
    enum mmu_side side = b->v->cpu.mmu.window[MMU_WINDOW_USER].parallel.side;
    return b->parallel.possible && !(b->c->pages[b->block->page].by_entries[side] >> part & 1);
}

void parallel_forget(struct builder *b)
{
    b->parallel.count = 0;
}

static bool is_near(const struct builder *b, struct value x, uint64_t reach)
{
    const struct parallel_facts *p = &b->parallel;
    for (unsigned i = 0; i < p->count && i < PARALLEL_FACTS; i++)
        if (value_near(&b->region.values, x, p->near[i], reach))
            return true;
    return false;
}

/* Looks whether what `at` holds, which is x, is in a parallel stretch. */
static void look(struct builder *b, unsigned at, struct value x)
{
    struct parallel_facts *p = &b->parallel;
    const uint64_t *table = b->v->cpu.mmu.window[MMU_WINDOW_USER].parallel.table;
    held_lose(b, R11);
    asm_shrx(&b->a, true, R11, at, R15);
    asm_op(&b->a, OP_MOV, R11, rm_sib(NO_REG, R11, 8, (int32_t)(uintptr_t)table), 0);
    if (x.name)
        p->near[p->count++ % PARALLEL_FACTS] = x;
}

/* The same of a sum, or of a register and a displacement that may lead far. */
static void look_at_sum(struct builder *b, struct rm sum, struct value x)
{
    held_lose(b, R11);
    asm_op(&b->a, OP_LEA | OP_W, R11, sum, 0);
    look(b, R11, x);
}

struct rm parallel_passing(struct builder *b, int32_t disp)
{
    region_lose(b, R10);
    look(b, R10, (struct value){0});
    return rm_parallel(R10, NO_REG, 1, disp);
}

bool parallel_single(struct builder *b, unsigned guest, int32_t disp, struct value x, struct rm *rm)
{
    bool near = is_near(b, x, REGION_REACH);
    unsigned base = region_gpr(b, guest, near ? HELD_ANY : HELD_BASE);
    if (base == NO_REG)
        return false;
    if (!near && !bt_region_near(disp))
        look_at_sum(b, rm_mem(base, disp), x);
    else if (!near)
        look(b, base, x);
    *rm = rm_parallel((uint8_t)base, NO_REG, 1, disp);
    return true;
}

/* `index` is short: the other register decides. Where its operand comes again a scratch register becomes the host's
 * address for it. (A segment with a base makes a load two cycles longer, which is what chains of loads from a table are
 * made of.) */
static bool by_base(struct builder *b, unsigned base, unsigned index, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    struct value x = b->region.value[base];
    int64_t at = 0;
    unsigned by = region_gpr(b, index, HELD_BASE), host = NO_REG;
    if (by == NO_REG)
        return false;
    if (by != R10) /* the fault handler would take that for the base */
        host = region_find_host(b, base, x, REGION_REACH_BEFORE_INDEX, &at);
    unsigned from = host != NO_REG ? host : base == index ? by : region_gpr(b, base, HELD_BASE & ~(1u << by));
    if (from == NO_REG)
        return false;
    if (host == NO_REG && !is_near(b, x, REGION_REACH_BEFORE_INDEX))
        look(b, from, x);
    if (host == NO_REG && by != R10 && region_comes_again(b))
        host = region_make_host(b, base, from, &b->v->cpu.mmu.window[MMU_WINDOW_USER].parallel.entry, x);
    *rm = host == NO_REG ? rm_parallel((uint8_t)from, (uint8_t)by, m->scale, (int32_t)m->disp)
                         : rm_based((uint8_t)host, (uint8_t)by, m->scale, (int32_t)(m->disp + at) - MMU_REGION_BIAS);
    return true;
}

static bool by_sum(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    struct value x = region_operand_value(b, m->base, m->index, m->scale, m->disp);
    unsigned index = region_gpr(b, m->index, HELD_BASE), base = index;
    if (index != NO_REG && m->base != m->index)
        base = region_gpr(b, m->base, HELD_BASE & ~(1u << index));
    if (index == NO_REG || base == NO_REG)
        return false;
    if (!is_near(b, x, REGION_REACH))
        look_at_sum(b, rm_sib((uint8_t)base, (uint8_t)index, m->scale, (int32_t)m->disp), x);
    *rm = rm_parallel((uint8_t)base, (uint8_t)index, m->scale, (int32_t)m->disp);
    return true;
}

bool parallel_indexed(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    if (m->base >= GPR_COUNT || m->index >= GPR_COUNT || m->base == GPR_SP || m->index == GPR_SP)
        return false;
    if (region_is_short(b, m->index, m->scale))
        return by_base(b, m->base, m->index, rm);
    if (m->scale == 1 && region_is_short(b, m->base, 1))
        return by_base(b, m->index, m->base, rm);
    return by_sum(b, rm);
}
