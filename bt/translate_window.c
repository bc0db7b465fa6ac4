/* SPDX-License-Identifier: MIT */
/* Memory operands through a window (shadowmmu/window.h): `mov eax, [ebx+8]` of flat 32-bit code becomes
 *
 *     mov  eax, gs:[ebx+8]
 *
 * with the 32-bit address size, so that it cannot leave the window. No flag is touched and nothing is tested: a page
 * that is not there is a host page fault (bt/fault.c), which enters it and runs the instruction again, or raises the
 * guest's #PF, or, for a page that is not for windows (a device, one with translated code, the user's in the kernel),
 * takes the detour behind the block: the same operation by the tables. An access that keeps taking it gets a jump to it
 * in place of the instruction, which is why one through the window is never shorter than a jump. */
#include "bt/translate.h"

static bool window_mode(const struct builder *b)
{
    return b->mode & BT_MODE_WINDOW;
}

bool window_takes_operand(const struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    return window_mode(b) && segment_is_flat(b, m->seg) && !m->vsib && !m->implicit && !m->masked &&
           !memory_is_bit_string(b->in) &&
           b->in->cls != INSN_STRING; /* the detour could not tell its two operands apart */
}

bool window_takes_stack(const struct builder *b)
{
    return window_mode(b) && (b->mode & BT_MODE_STACK32) && segment_is_flat(b, SEG_SS);
}

static struct rm window_rm(struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    if (b->in->addrsize != 4) {
        memory_offset(b, R10);
        return rm_window(R10, NO_REG, 1, 0);
    }
    uint8_t base = m->base == GPR_NONE ? NO_REG : (uint8_t)host_gpr(b, m->base);
    uint8_t index = m->index == GPR_NONE ? NO_REG : (uint8_t)host_gpr(b, m->index);
    return rm_window(base, index, index == NO_REG ? 1 : m->scale, (int32_t)m->disp);
}

/* The hot path's way of holding the flags, from the detour's. */
static void match_flags(struct builder *b, bool eflags_valid)
{
    if (eflags_valid && !b->eflags_valid && b->image_valid)
        bt_emit_restore_flags(&b->a, flags_image(b), R11); /* what the operation loaded may be in r10 or r12 */
}

static void set_detour(struct builder *b, const struct cold *c)
{
    b->c->records[c->record].detour = (uint16_t)(asm_here(&b->a) - b->block->entry);
}

/* from[] are not used: the way here is bt/fault.c's. back[0]: the hot path has the flags in EFLAGS behind the
 * operation; back[1]: behind it. */
static void cold_window(struct builder *b, struct cold *c)
{
    bool eflags_after = c->back[0];
    set_detour(b, c);
    table_operand(b, c->size, c->info & BT_INFO_READ, c->write, c->op);
    match_flags(b, eflags_after);
    asm_jmp32(&b->a, c->back[1]);
}

static uint32_t last_record(const struct builder *b)
{
    return b->c->record_count - 1;
}

void window_operand(struct builder *b, unsigned size, bool read, bool write, void (*op)(struct builder *, struct rm))
{
    const struct insn_mem *m = &b->in->mem;
    flags_prepare(b);
    struct cold *c = builder_cold(b, cold_window);
    c->size = size ? size : m->size;
    c->write = write;
    c->op = op;
    c->info = c->size | (read ? BT_INFO_READ : 0) | (write ? BT_INFO_WRITE : 0) |
              (unsigned)m->seg << BT_INFO_SEG_SHIFT | (m->aligned ? BT_INFO_ALIGNED : 0);
    struct rm rm = window_rm(b);
    builder_record(b);
    c->record = last_record(b);
    op(b, rm);
    flags_after(b);
    c->back[0] = b->eflags_valid;
    c->back[1] = asm_here(&b->a);
}

/* ---- the stack ---- */

/* back[0]: behind the access; back[1] is the caller's, as in translate_memory.c. */
static void cold_window_stack(struct builder *b, struct cold *c)
{
    bool eflags_after = b->eflags_valid;
    set_detour(b, c);
    struct cold *in_c = table_stack(b, (int)(int64_t)c->eip, c->size, c->write, c->op);
    if (c->write)
        in_c->back[1] = c->back[1];
    match_flags(b, eflags_after);
    asm_jmp32(&b->a, c->back[0]);
}

struct cold *window_stack(struct builder *b, int delta, unsigned size, bool write,
                          void (*op)(struct builder *, struct rm))
{
    struct cold *c = builder_cold(b, cold_window_stack);
    c->size = size;
    c->write = write;
    c->op = op;
    c->info = size | (write ? BT_INFO_WRITE : BT_INFO_READ) | SEG_SS << BT_INFO_SEG_SHIFT;
    c->eip = (uint64_t)(int64_t)delta;
    builder_record(b);
    c->record = last_record(b);
    op(b, rm_window(R14, NO_REG, 1, delta));
    c->back[0] = asm_here(&b->a);
    return c;
}
