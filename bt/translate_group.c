/* SPDX-License-Identifier: MIT */
/* One look-up for several accesses: a group is made of the accesses of a block whose addresses differ by known numbers
 * and lie close together (a frame's slots, a run of pushes or pops, the fields of a structure). Its first access,
 * `mov eax, [rbx+8]` with `mov [rbx+0x10], ecx` to follow, checks for all of them:
 *
 *     lea  r10, [rbx+8]             the lowest address of the group
 *     ...  r11 = table entry        of the write table, since one of them writes
 *     lea  r12d, [r10 + length-1] ; and r12d, 0xfff ; cmp r12d, length-1 ; jb plain       in one page?
 *     test r11, r11 ; jz fill
 *  L: add  r11, r10 ; mov [rip + slot], r11                                               the host address of it
 *     mov  eax, [r11]
 *
 * and the others are free of tests and leave EFLAGS alone:
 *
 *     mov  r11, [rip + slot]
 *     mov  [r11 + 8], ecx
 *
 * Behind the block
 *
 *  fill:  the slow path makes the table's entry for the first access, or raises its exception; then L
 *  plain: the entry stays out (a device, a page with code), or the group crosses into another page: an exit to a
 *         translation of the rest of the block that makes no groups (BT_MODE_PLAIN), made when first needed
 *
 * so that each access that can fault does so by itself, in program order. Nothing between a check and the last access
 * of its group may invalidate the entry: entries go when the dispatcher or an instruction in C says so, and groups end
 * before every call into C that may do so. The slow path of an access between does not: it fills entries, and the
 * changes that a device asks for wait for the dispatcher. */
#include "bt/translate.h"

#include <Zydis/Zydis.h>

enum { SPAN_MAX = 512, MEMBERS_MIN = 2, ROOT_NONE = 0xffff };

/* What is known of a register: it was equal to `root`, an unknown number, and has moved by `offset` since. */
struct named {
    uint16_t root;
    int64_t offset;
};

struct analysis {
    struct builder *b;
    struct named gpr[16];
    uint16_t roots;
    unsigned open; /* groups before this one take no more members */
};

static unsigned word(const struct builder *b)
{
    return b->wide ? 8 : 4;
}

static void forget(struct analysis *a, unsigned reg)
{
    a->gpr[reg] = (struct named){.root = a->roots++};
}

static void forget_all(struct analysis *a)
{
    a->open = a->b->group_count;
    for (unsigned i = 0; i < 16; i++)
        forget(a, i);
}

static bool fits(const struct access_group *g, const struct group_address *at, unsigned size)
{
    int64_t low = at->offset < g->low ? at->offset : g->low;
    int64_t high = at->offset + size > g->high ? at->offset + size : g->high;
    uint64_t span = (uint64_t)high - (uint64_t)low; /* absolute addresses may be half of all apart */
    return g->base == at->base && g->index == at->index && g->scale == at->scale && span <= SPAN_MAX;
}

/* The access joins a group, or begins one. */
static void join(struct analysis *a, unsigned n, unsigned which, const struct group_address *at, unsigned size,
                 bool write)
{
    struct builder *b = a->b;
    struct group_member *m = &b->members[n][which];
    struct access_group *g = NULL;
    for (unsigned i = b->group_count; i-- > a->open && !g;)
        if (fits(&b->groups[i], at, size))
            g = &b->groups[i];
    if (!g) {
        if (b->group_count == BT_GROUPS)
            return;
        g = &b->groups[b->group_count++];
        *g = (struct access_group){
            .base = at->base, .index = at->index, .scale = at->scale, .low = at->offset, .high = at->offset + size};
    }
    g->low = at->offset < g->low ? at->offset : g->low;
    g->high = at->offset + size > g->high ? at->offset + size : g->high;
    g->write |= write;
    g->members++;
    m->group = (uint8_t)(g - b->groups + 1);
    m->size = (uint8_t)size;
    m->offset = at->offset;
}

static void join_stack(struct analysis *a, unsigned n, int delta, unsigned size, bool write)
{
    const struct named *sp = &a->gpr[GPR_SP];
    struct group_address at = {.base = sp->root, .index = ROOT_NONE, .scale = 1, .offset = sp->offset + delta};
    if (segment_is_flat(a->b, SEG_SS))
        join(a, n, GROUP_STACK, &at, size, write);
}

static void join_operand(struct analysis *a, unsigned n, unsigned size, bool write)
{
    struct builder *b = a->b;
    const struct insn *in = &b->insns[n];
    const struct insn_mem *m = &in->mem;
    struct group_address at = {.base = ROOT_NONE, .index = ROOT_NONE, .scale = 1, .offset = m->disp};
    if (in->addrsize != word(b) || m->vsib || m->implicit || m->masked || !size || size > 64 ||
        !segment_is_flat(b, m->seg) || memory_is_bit_string(in))
        return;
    if (m->base == GPR_IP) {
        at.offset = (int64_t)(builder_next(b, n) + (uint64_t)m->disp);
    } else if (m->base != GPR_NONE) {
        at.base = a->gpr[m->base].root;
        at.offset += a->gpr[m->base].offset;
    }
    if (m->index != GPR_NONE) {
        at.index = a->gpr[m->index].root;
        at.scale = m->scale;
        at.offset += a->gpr[m->index].offset * m->scale;
    }
    join(a, n, GROUP_OPERAND, &at, size, write);
}

static bool whole_register(const struct builder *b, const struct insn_reg *r)
{
    return r->cls == REGCLASS_GPR && r->size == word(b);
}

/* Instructions that move a register by a known number, or copy one. */
static bool follow(struct analysis *a, const struct insn *in)
{
    const struct builder *b = a->b;
    const struct insn_reg *to = in->rm.write ? &in->rm : in->reg.write ? &in->reg : &in->opreg;
    if (in->opsize != word(b) || !whole_register(b, to))
        return false;
    struct named *v = &a->gpr[to->num];
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV: {
        const struct insn_reg *from = to == &in->rm ? &in->reg : &in->rm;
        if (!in->has_modrm || in->mem.present || !whole_register(b, from) || in->imm_len)
            return false;
        *v = a->gpr[from->num];
        return true;
    }
    case ZYDIS_MNEMONIC_LEA:
        if (in->addrsize != word(b) || in->mem.base >= 16 || in->mem.index != GPR_NONE)
            return false;
        *v = a->gpr[in->mem.base];
        v->offset += in->mem.disp;
        return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        if (in->mem.present || !in->imm_len || !in->has_modrm)
            return false;
        v->offset += in->mnemonic == ZYDIS_MNEMONIC_ADD ? (int32_t)in->imm : -(int64_t)(int32_t)in->imm;
        return true;
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
        if (in->mem.present)
            return false;
        v->offset += in->mnemonic == ZYDIS_MNEMONIC_INC ? 1 : -1;
        return true;
    default:
        return false;
    }
}

static void forget_written(struct analysis *a, const struct insn *in, unsigned but)
{
    for (unsigned i = 0; i < 16; i++)
        if (in->gpr_write >> i & 1 && i != but)
            forget(a, i);
}

/* push, pop, leave */
static void look_at_stack(struct analysis *a, unsigned n)
{
    const struct insn *in = &a->b->insns[n];
    int size = in->opsize;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        if (in->mem.present)
            join_operand(a, n, (unsigned)size, false);
        join_stack(a, n, -size, (unsigned)size, true);
        a->gpr[GPR_SP].offset -= size;
        break;
    case ZYDIS_MNEMONIC_POP:
        join_stack(a, n, 0, (unsigned)size, false);
        a->gpr[GPR_SP].offset += size;
        forget(a, in->opreg.cls == REGCLASS_GPR ? in->opreg.num : in->rm.num);
        break;
    default: /* leave */
    {
        struct group_address at = {
            .base = a->gpr[GPR_BP].root, .index = ROOT_NONE, .scale = 1, .offset = a->gpr[GPR_BP].offset};
        join(a, n, GROUP_OPERAND, &at, (unsigned)size, false);
        a->gpr[GPR_SP] = a->gpr[GPR_BP];
        a->gpr[GPR_SP].offset += size;
        forget(a, GPR_BP);
        break;
    }
    }
}

static void look_at_control(struct analysis *a, unsigned n)
{
    const struct insn *in = &a->b->insns[n];
    int size = in->opsize;
    if (in->cls == INSN_JMP_IND || in->cls == INSN_CALL_IND)
        join_operand(a, n, in->mem.present ? (unsigned)size : 0, false);
    if (in->cls == INSN_CALL || in->cls == INSN_CALL_IND)
        join_stack(a, n, -size, (unsigned)size, true);
    if (in->cls == INSN_RET)
        join_stack(a, n, 0, (unsigned)size, false);
}

static void look_at(struct analysis *a, unsigned n)
{
    const struct builder *b = a->b;
    const struct insn *in = &b->insns[n];
    if (translate_is_inline(b, in)) {
        if (in->mem.present && in->mnemonic != ZYDIS_MNEMONIC_LEA && in->mnemonic != ZYDIS_MNEMONIC_NOP)
            join_operand(a, n, in->mem.size, in->mem.write);
        if (!follow(a, in))
            forget_written(a, in, GPR_NONE);
    } else if (control_is_inline(b, in)) {
        look_at_control(a, n);
    } else if (flags_insn_is_inline(b, in)) {
        forget_all(a); /* some of them may go to C, or change the tables */
    } else if (stack_is_inline(b, in)) {
        look_at_stack(a, n);
    } else if (string_is_inline(b, in)) {
        forget_written(a, in, GPR_NONE);
    } else {
        forget_all(a);
    }
}

void groups_find(struct builder *b)
{
    struct analysis a;
    b->group_count = 0;
    for (unsigned i = 0; i < b->count; i++)
        b->members[i][GROUP_OPERAND].group = b->members[i][GROUP_STACK].group = 0;
    if (b->count < 2 || (b->mode & (BT_MODE_SINGLE | BT_MODE_WATCH | BT_MODE_ALIGN | BT_MODE_PLAIN | BT_MODE_WINDOW)) ||
        !(b->mode & BT_MODE_STACK32) || (b->mode & BT_MODE_CODE_MASK) == INSN_MODE_16 || b->second_gfn != ~0ull)
        return;
    bt_clear(&a, sizeof a);
    a.b = b;
    forget_all(&a);
    for (unsigned i = 0; i < b->count; i++)
        look_at(&a, i);
}

/* ---- emission ---- */

static struct group_member *member(struct builder *b, unsigned which, unsigned size)
{
    struct group_member *m = &b->members[b->cur][which];
    if (!m->group || b->groups[m->group - 1].members < MEMBERS_MIN || m->size != size)
        return NULL;
    return m;
}

bool group_has_operand(struct builder *b, unsigned size)
{
    return member(b, GROUP_OPERAND, size ? size : b->in->mem.size);
}

bool group_has_stack(struct builder *b, unsigned size)
{
    const struct group_member *m = member(b, GROUP_STACK, size);
    /* push and call with a memory operand may not begin again once that has been read: it may be a device */
    return m && (b->groups[m->group - 1].checked || !b->in->mem.present);
}

/* from[0]: no entry; from[1]: the group crosses a page. back[0]: the entry is good. */
static void cold_group(struct builder *b, struct cold *c)
{
    const struct access_group *g = &b->groups[c->group];
    asm_land32(&b->a, c->from[0]);
    asm_op(&b->a, OP_LEA | wide_op(b), R10, rm_mem(R10, c->offset), 0);
    guest_store_rip(b, b->eip_at[b->cur]);
    asm_mov_imm32(&b->a, R11, c->info | BT_INFO_FILL);
    call_glue(b, b->glue->slow);
    asm_op(&b->a, OP_LEA | wide_op(b), R10, rm_mem(R10, -c->offset), 0);
    table_load(b, R10, g->write);
    asm_op(&b->a, OP_TEST | OP_W, R11, rm_reg(R11), 0);
    asm_jcc32(&b->a, CC_NZ, c->back[0]);
    asm_land32(&b->a, c->from[1]);
    exit_plain(b);
}

/* r10: the group's lowest address. Leaves r11: its host address, kept in the slot too. */
static void check(struct builder *b, struct group_member *m, uint32_t info)
{
    struct access_group *g = &b->groups[m->group - 1];
    int32_t last = (int32_t)(g->high - g->low) - 1;
    struct cold *c = builder_cold(b, cold_group);
    c->group = (uint8_t)(m->group - 1);
    c->offset = (int32_t)(m->offset - g->low);
    c->info = info;
    table_load(b, R10, g->write);
    asm_op(&b->a, OP_LEA, R12, rm_mem(R10, last), 0);
    asm_group1_imm(&b->a, false, GROUP1_AND, rm_reg(R12), PAGE_MASK);
    asm_group1_imm(&b->a, false, GROUP1_CMP, rm_reg(R12), last);
    c->from[1] = asm_jcc32(&b->a, CC_B, 0);
    asm_op(&b->a, OP_TEST | OP_W, R11, rm_reg(R11), 0);
    c->from[0] = asm_jcc32(&b->a, CC_Z, 0);
    c->back[0] = asm_here(&b->a);
    asm_op(&b->a, OP_ADD | OP_W, R11, rm_reg(R10), 0);
    asm_op(&b->a, OP_MOV_TO | OP_W, R11, rm_at(&b->v->group[m->group - 1]), 0);
    g->checked = true;
}

static struct rm operand(const struct builder *b, const struct group_member *m)
{
    return rm_mem(R11, (int32_t)(m->offset - b->groups[m->group - 1].low));
}

static void load_slot(struct builder *b, const struct group_member *m)
{
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_at(&b->v->group[m->group - 1]), 0);
}

void group_operand(struct builder *b, unsigned size, bool read, bool write, void (*op)(struct builder *, struct rm))
{
    struct insn_mem *m = &b->insns[b->cur].mem;
    size = size ? size : m->size;
    struct group_member *at = member(b, GROUP_OPERAND, size);
    struct access_group *g = &b->groups[at->group - 1];
    if (g->checked) {
        load_slot(b, at);
    } else {
        int64_t disp = m->disp;
        flags_clobber(b);
        m->disp = disp - (at->offset - g->low);
        memory_offset(b, R10);
        m->disp = disp;
        check(b, at,
              size | (read ? BT_INFO_READ : 0) | (write ? BT_INFO_WRITE : 0) | (unsigned)m->seg << BT_INFO_SEG_SHIFT |
                  (m->aligned ? BT_INFO_ALIGNED : 0));
        builder_record(b);
    }
    flags_prepare(b);
    op(b, operand(b, at));
    flags_after(b);
}

void group_stack(struct builder *b, int delta, unsigned size, bool write, void (*op)(struct builder *, struct rm))
{
    struct group_member *at = member(b, GROUP_STACK, size);
    struct access_group *g = &b->groups[at->group - 1];
    if (g->checked) {
        load_slot(b, at);
    } else {
        flags_clobber(b);
        asm_op(&b->a, OP_LEA | wide_op(b), R10, rm_mem(host_gpr(b, GPR_SP), delta - (int32_t)(at->offset - g->low)), 0);
        check(b, at, size | (write ? BT_INFO_WRITE : BT_INFO_READ) | SEG_SS << BT_INFO_SEG_SHIFT);
        builder_record_stack(b);
    }
    op(b, operand(b, at));
}
