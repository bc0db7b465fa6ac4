/* SPDX-License-Identifier: MIT */
/* Branches, calls, returns, the stack instructions, and the ways out of a block. */
#include "bt/landing.h"
#include "bt/translate.h"
#include "shadowmmu/region.h"

#include <Zydis/Zydis.h>

static bool single(const struct builder *b)
{
    return b->mode & BT_MODE_SINGLE || b->v->options.one_insn_blocks;
}

/* ---- exits ---- */

/* The guest flags are where an exit may leave them: EFLAGS, or the image with the saved entries. */
static bool exit_saved(const struct builder *b)
{
    return !b->eflags_valid && b->image_valid;
}

/* eip is stored: to the dispatcher. */
static void exit_dispatch(struct builder *b)
{
    asm_mov_imm32(&b->a, R11, BT_EXIT_DISPATCH);
    asm_jmp32(&b->a, exit_saved(b) ? b->glue->exit_saved : b->glue->exit);
}

static bool same_page(const struct builder *b, uint64_t target)
{
    return bt_linear(b->v, target) >> PAGE_SHIFT == b->lin && bt_target_good(b->v, target) && b->second_gfn == ~0ull;
}

static void cold_chain(struct builder *b, struct cold *c)
{
    struct bt_exit_record *e = &b->c->exits[c->info];
    e->stub = (uint32_t)asm_here(&b->a);
    e->site = (uint32_t)(c->from[0] - b->c->write_view);
    e->far_page = 0;
    e->block = (uint32_t)(b->block - b->c->blocks);
    e->target = 0;
    e->linked = false;
    e->target_eip = c->eip;
    e->plain = false;
    e->far = !same_page(b, c->eip);
    /* a step ends at each polling entry, and is not to become long */
    e->backward = c->eip <= b->eip_at[b->cur] || (e->far && b->v->options.step);
    e->flags_saved = exit_saved(b);
    asm_land32(&b->a, c->from[0]);
    asm_mov_imm32(&b->a, R11, c->info);
    asm_jmp32(&b->a, e->flags_saved ? b->glue->chain_saved : b->glue->chain);
}

/* Goes on where r11, the entry of a jump table or a jump map, says; `saved`: to its form for saved flags. No flag is
 * touched by any of these. */
static void jump_to_entry(struct builder *b, int saved)
{
    uintptr_t miss = b->glue->miss + (uintptr_t)(exit_saved(b) ? saved : 0);
    asm_op(&b->a, OP_LEA, R11, rm_mem(R11, (int32_t)miss), 0);
    asm_op(&b->a, OP_GROUP5, 4, rm_reg(R11), 0);
}

static void jump_by_table(struct builder *b, struct rm entry)
{
    asm_op(&b->a, OP_MOV, R11, entry, 0);
    jump_to_entry(b, LANDING_SAVED);
}

/* The jump map's entry for the guest address in r10 to r11. */
static void map_load(struct builder *b)
{
    if (b->wide)
        bt_emit_region(&b->a, b->v->jump_regions[bt_mode_window(b->mode)], R11, R10);
    else
        asm_op(&b->a, OP_MOV | OP_W, R11, rm_at(&b->v->jump_map), 0);
    asm_op(&b->a, OP_MOV, R11, rm_sib(R11, R10, sizeof *b->v->jump_map, b->wide ? -MMU_REGION_BIAS : 0), 0);
}

static void jump_by_map(struct builder *b)
{
    map_load(b);
    jump_to_entry(b, -BT_ENTRY_SAVED);
}

/* To a page-crossing block, which no exit may be linked to. */
static void exit_by_table(struct builder *b, uint64_t target)
{
    asm_mov_imm64(&b->a, R10, target);
    if (bt_mode_jump_map(b->mode)) {
        jump_by_map(b);
        return;
    }
    asm_op(&b->a, OP_MOV | OP_W, R12, rm_at(&b->v->jump), 0);
    jump_by_table(b, rm_mem(R12, (int32_t)((target & (LANDING_INDICES - 1)) * sizeof *b->v->jump)));
}

void exit_plain(struct builder *b)
{
    struct cold c = {.info = b->c->exit_count++, .eip = b->eip_at[b->cur], .from = {asm_jmp32(&b->a, 0)}};
    cold_chain(b, &c);
    b->c->exits[c.info].plain = true;
    b->c->exits[c.info].far = false;
}

void bt_exit_by_table(struct bt_vcpu *v, uint32_t exit)
{
    struct bt_cache *c = v->cache;
    struct bt_exit_record *e = &c->exits[exit];
    struct builder *b = c->builder;
    if (bt_cache_full(c) || e->linked || c->blocks[e->block].dead)
        return;
    b->v = v;
    b->c = c;
    b->wide = (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
    b->glue = bt_glue_of(c, v->mode);
    b->eflags_valid = !e->flags_saved;
    b->image_valid = e->flags_saved;
    b->a = bt_assembler(c);
    b->mode = v->mode;
    asm_patch32(&b->a, c->write_view + e->site, asm_here(&b->a));
    exit_by_table(b, e->target_eip); /* when the page moves the exit gets its stub again */
    bt_cache_written_to(c, b->a.p);
}

static void cold_dispatch(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[0]);
    guest_store_rip(b, c->eip);
    exit_dispatch(b);
}

/* A branch whose rel32 is at `site` goes to guest address target. */
static void exit_branch(struct builder *b, uint8_t *site, uint64_t target)
{
    bool chain = bt_target_good(b->v, target) && !single(b);
    struct cold *c = builder_cold(b, chain ? cold_chain : cold_dispatch);
    c->from[0] = site;
    c->eip = target;
    if (chain)
        c->info = b->c->exit_count++;
}

void exit_direct(struct builder *b, uint64_t target)
{
    exit_branch(b, asm_jmp32(&b->a, 0), target);
}

/* The flags go to the image, so that what follows may destroy EFLAGS and leave through a saved entry. */
static void exit_save_flags(struct builder *b)
{
    if (b->eflags_valid && !b->image_valid)
        bt_emit_save_flags(&b->a, flags_image(b));
    b->image_valid = true;
    b->eflags_valid = false;
}

static void cold_in_c(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[0]);
    callout_emit(b, BT_SITE_ENDS_BLOCK);
}

/* User code: bits 47-63 of r10 are not all clear. */
static void cold_upper_half(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[0]);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_reg(R10), 0);
    asm_op(&b->a, OP_SHIFT_IMM | OP_W, 7, rm_reg(R11), 1);
    asm_byte(&b->a, 47);
    asm_group1_imm(&b->a, true, GROUP1_ADD, rm_reg(R11), 1);
    asm_jcc32(&b->a, CC_Z, c->back[0]);
    callout_emit(b, BT_SITE_ENDS_BLOCK);
}

/* 64-bit code: a target (in r10) that is not canonical faults at the branch, which C then carries out as a whole;
 * nothing has changed yet. r11 is lost, the flags go to the image. */
static void check_target(struct builder *b)
{
    struct assembler *a = &b->a;
    bool user = bt_mode_user(b->mode);
    if (!b->wide)
        return;
    exit_save_flags(b);
    struct cold *c = builder_cold(b, user ? cold_upper_half : cold_in_c);
    asm_op(a, OP_MOV | OP_W, R11, rm_reg(R10), 0); /* bits 47-63 all alike? */
    if (user) {
        asm_op(a, OP_SHIFT_IMM | OP_W, 5, rm_reg(R11), 1);
        asm_byte(a, 47);
        c->from[0] = asm_jcc32(a, CC_NZ, 0);
        c->back[0] = asm_here(a);
        return;
    }
    asm_op(a, OP_SHIFT_IMM | OP_W, 7, rm_reg(R11), 1);
    asm_byte(a, 47);
    asm_group1_imm(a, true, GROUP1_ADD, rm_reg(R11), 1);
    asm_group1_imm(a, true, GROUP1_CMP, rm_reg(R11), 1);
    c->from[0] = asm_jcc32(a, CC_A, 0);
}

/* ---- by the jump map of 64-bit code ---- */

/* Is the target looked up before the instruction does anything? A look-up for one that is not canonical is a fault. */
static bool looks_first(const struct builder *b)
{
    return window_pushes(b) && bt_mode_jump_map(b->mode) && !single(b);
}

/* That for the target in r10. popped: which is the only thing that has happened. */
static void look_up_target(struct builder *b, bool popped)
{
    builder_record(b);
    b->c->records[b->c->record_count - 1].window = popped ? BT_RECORD_POPPED_TARGET : BT_RECORD_TARGET;
    map_load(b);
}

static void return_by_map(struct builder *b)
{
    int more = (int)(b->in->imm & 0xffff);
    window_pop(b, R10);
    look_up_target(b, true);
    if (more)
        stack_adjust(b, more);
    jump_to_entry(b, -BT_ENTRY_SAVED);
}

/* To the guest address in r10, which is canonical. No flag is touched. */
static void exit_indirect(struct builder *b)
{
    struct assembler *a = &b->a;
    if (single(b)) {
        asm_jmp32(a, b->glue->miss + (exit_saved(b) ? LANDING_SAVED : 0));
        return;
    }
    if (bt_mode_jump_map(b->mode)) {
        jump_by_map(b);
        return;
    }
    asm_op(a, OP_MOVZX16, R11, rm_reg(R10), 0);
    asm_op(a, OP_MOV | OP_W, R12, rm_at(&b->v->jump), 0);
    jump_by_table(b, rm_sib(R12, R11, sizeof *b->v->jump, 0));
}

/* ---- branches ---- */

uint64_t branch_target(const struct builder *b, unsigned n)
{
    uint64_t target = builder_next(b, n) + b->insns[n].imm;
    if (b->wide)
        return target;
    return b->insns[n].opsize == 2 ? target & 0xffff : target & 0xffffffff;
}

bool branch_is_counted(const struct insn *in)
{
    return in->map == MAP_PRIMARY && in->opcode >= 0xe0 && in->opcode <= 0xe3;
}

bool branch_goes_on(const struct builder *b, const struct insn *in)
{
    if ((size_t)(in - b->insns) < b->rounds_end)
        return in->cls == INSN_JCC || in->cls == INSN_JMP;
    bool user = bt_mode_user(b->mode);
    return in->cls == INSN_JCC && !branch_is_counted(in) && (b->mode & BT_MODE_WINDOW) && user && !single(b) &&
           control_is_inline(b, in);
}

/* loop, loope, loopne, jcxz: flag-free but for reading ZF. */
static void translate_counted(struct builder *b, uint64_t target)
{
    const struct insn *in = b->in;
    struct assembler *a = &b->a;
    bool narrow = in->addrsize == 2;
    uint32_t width = in->addrsize == 8 ? OP_W : narrow ? OP_66 : 0;
    uint8_t *zero_flag = NULL;
    flags_prepare(b);
    if (in->opcode != 0xe3) {
        asm_op(a, OP_LEA | (width & OP_W), R12, rm_mem(RCX, -1), 0);
        asm_op(a, OP_MOV | width, RCX, rm_reg(R12), 0);
    }
    if (in->opcode == 0xe0)
        zero_flag = asm_jcc8(a, CC_Z);
    if (in->opcode == 0xe1)
        zero_flag = asm_jcc8(a, CC_NZ);
    asm_op(a, OP_MOV | OP_W, R12, rm_reg(RCX), 0);
    if (narrow)
        asm_op(a, OP_MOVZX16, RCX, rm_reg(RCX), 0);
    else if (b->wide && in->addrsize == 4)
        asm_op(a, OP_MOV, RCX, rm_reg(RCX), 0);
    uint8_t *is_zero = asm_jrcxz(a);
    asm_op(a, OP_MOV | OP_W, RCX, rm_reg(R12), 0);
    if (in->opcode == 0xe3) { /* jcxz: not zero goes on */
        uint8_t *next = asm_jmp32(a, 0);
        asm_land8(a, is_zero);
        asm_op(a, OP_MOV | OP_W, RCX, rm_reg(R12), 0);
        exit_branch(b, asm_jmp32(a, 0), target);
        exit_branch(b, next, builder_next(b, b->cur));
        return;
    }
    exit_branch(b, asm_jmp32(a, 0), target);
    asm_land8(a, is_zero);
    asm_op(a, OP_MOV | OP_W, RCX, rm_reg(R12), 0);
    if (zero_flag)
        asm_land8(a, zero_flag);
    exit_branch(b, asm_jmp32(a, 0), builder_next(b, b->cur));
}

static void translate_jcc(struct builder *b)
{
    uint64_t target = branch_target(b, b->cur);
    if (branch_is_counted(b->in)) {
        translate_counted(b, target);
        return;
    }
    flags_prepare(b);
    if (ends_round(b)) {
        exit_branch(b, asm_jcc32(&b->a, b->in->cc ^ 1, 0), builder_next(b, b->cur));
        return;
    }
    exit_branch(b, asm_jcc32(&b->a, b->in->cc, 0), target);
    if (!branch_goes_on(b, b->in))
        exit_direct(b, builder_next(b, b->cur));
}

/* ---- operands of the stack instructions ---- */

static uint32_t operand_width(const struct builder *b)
{
    return b->in->opsize == 2 ? OP_66 : b->in->opsize == 8 ? OP_W : 0;
}

/* noted: it depends on the page's address. */
static void store_constant(struct builder *b, struct rm rm, uint64_t value, bool noted)
{
    unsigned n = b->in->opsize == 2 ? 2 : 4;
    if (b->in->opsize == 8 && (int64_t)value != (int32_t)value) {
        if (noted)
            guest_mov(b, R12, value, BT_ADDRESS);
        else
            asm_mov_imm64(&b->a, R12, value);
        asm_op(&b->a, OP_MOV_TO | OP_W, R12, rm, 0);
        return;
    }
    asm_op(&b->a, OP_MOV_IMM | operand_width(b), 0, rm, n);
    for (unsigned i = 0; i < n; i++)
        asm_byte(&b->a, (uint8_t)(value >> 8 * i));
    if (noted && n == 2)
        builder_pin(b);
    else if (noted)
        builder_constant(b, b->in->opsize == 8 ? BT_CONSTANT_S32 : BT_CONSTANT_U32, BT_ADDRESS);
}

static void op_store_imm(struct builder *b, struct rm rm)
{
    store_constant(b, rm, b->in->imm, false);
}

/* The return address is a constant, as the page's address is known. */
static void op_store_next(struct builder *b, struct rm rm)
{
    store_constant(b, rm, builder_next(b, b->cur), true);
}

static unsigned pushed_register(const struct insn *in)
{
    return in->opreg.cls == REGCLASS_GPR ? in->opreg.num : in->rm.num;
}

enum { NO_SEGMENT = 0xff };

/* push es, cs, ss, ds, fs, gs */
static unsigned pushed_segment(const struct insn *in)
{
    if (in->encoding != ENCODING_LEGACY)
        return NO_SEGMENT;
    if (in->map == MAP_0F && (in->opcode == 0xa0 || in->opcode == 0xa8))
        return in->opcode == 0xa0 ? SEG_FS : SEG_GS;
    if (in->map == MAP_PRIMARY && in->opcode < 0x20 && (in->opcode & 7) == 6)
        return in->opcode >> 3;
    return NO_SEGMENT;
}

static void op_store_segment(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOVZX16, R12, rm_at(&b->v->cpu.seg[pushed_segment(b->in)].selector), 0);
    bool word = cpu_model_pushed_selector_size(b->v->cpu.model, b->in->opsize) == 2;
    asm_op(&b->a, OP_MOV_TO | (word ? OP_66 : operand_width(b)), R12, rm, 0);
}

/* The host register with the one to push: its own, or r12. */
static unsigned pushed_host(struct builder *b)
{
    unsigned host = host_gpr(b, pushed_register(b->in));
    if (host != NO_REG)
        return host;
    gpr_load(b, R12, pushed_register(b->in));
    return R12;
}

static void op_store_reg(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV_TO | operand_width(b), pushed_host(b), rm, 0);
}

void op_store_r12(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV_TO | operand_width(b), R12, rm, 0);
}

static void load(struct builder *b, unsigned host, struct rm rm)
{
    asm_op(&b->a, b->in->opsize == 2 ? OP_MOVZX16 : OP_MOV | operand_width(b), host, rm, 0);
}

void op_load_r12(struct builder *b, struct rm rm)
{
    load(b, R12, rm);
}

static void op_load_r10(struct builder *b, struct rm rm)
{
    load(b, R10, rm);
}

/* A value that outlives another access's check, which may use every scratch register. */
void op_load_kept(struct builder *b, struct rm rm)
{
    load(b, R12, rm);
    asm_op(&b->a, OP_MOV_TO | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
}

void op_store_kept(struct builder *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
    op_store_r12(b, rm);
}

/* ---- push, pop, leave ---- */

bool stack_is_inline(const struct builder *b, const struct insn *in)
{
    if (in->cls == INSN_SEGMENT)
        return in->mnemonic == ZYDIS_MNEMONIC_PUSH;
    if (in->cls != INSN_STACK)
        return false;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return true;
    case ZYDIS_MNEMONIC_POP:
        return !in->mem.present;
    case ZYDIS_MNEMONIC_LEAVE:
        return (b->mode & BT_MODE_STACK32) && in->opsize == (b->wide ? 8 : 4) && segment_is_flat(b, SEG_SS);
    default:
        return false;
    }
}

/* The push of one whole value. False: it is of another kind. */
static bool push_natively(struct builder *b)
{
    const struct insn *in = b->in;
    unsigned host = R12;
    if (!window_pushes(b) || pushed_segment(in) != NO_SEGMENT)
        return false;
    if (in->mem.present)
        memory_operand(b, 8, true, false, op_load_r12);
    else if (in->opreg.cls == REGCLASS_GPR || in->rm.cls == REGCLASS_GPR)
        host = pushed_host(b);
    else
        host = NO_REG;
    if (host == NO_REG)
        window_push_imm(b, (int32_t)in->imm);
    else
        window_push(b, host);
    return true;
}

static void translate_push(struct builder *b)
{
    const struct insn *in = b->in;
    int size = in->opsize;
    if (push_natively(b))
        return;
    unsigned written = in->opsize;
    void (*op)(struct builder *, struct rm) = op_store_imm;
    if (pushed_segment(in) != NO_SEGMENT) {
        op = op_store_segment;
        written = cpu_model_pushed_selector_size(b->v->cpu.model, written);
    } else if (in->mem.present) {
        memory_operand(b, (unsigned)size, true, false, op_load_kept);
        op = op_store_kept;
    } else if (in->opreg.cls == REGCLASS_GPR || in->rm.cls == REGCLASS_GPR) {
        op = op_store_reg;
    }
    struct cold *c = stack_access(b, -size, written, true, op);
    stack_adjust(b, -size);
    stack_done(b, c);
}

static void translate_pop(struct builder *b)
{
    const struct insn *in = b->in;
    int size = in->opsize;
    unsigned guest = pushed_register(in), to = host_gpr(b, guest);
    if (window_pushes(b)) {
        window_pop(b, to == NO_REG ? R10 : to);
        if (to == NO_REG)
            gpr_store(b, guest, R10);
        return;
    }
    stack_access(b, 0, (unsigned)size, false, op_load_r10);
    stack_adjust(b, size); /* pop esp: the loaded value wins */
    if (to == NO_REG)
        gpr_store_sized(b, guest, R10, in->opsize);
    else
        asm_op(&b->a, OP_MOV | operand_width(b), to, rm_reg(R10), 0);
}

/* leave: the operand is [ebp] */
static void translate_leave(struct builder *b)
{
    struct insn leave = *b->in;
    struct insn operand = leave;
    operand.mem = (struct insn_mem){.present = true,
                                    .seg = SEG_SS,
                                    .base = GPR_BP,
                                    .index = GPR_NONE,
                                    .scale = 1,
                                    .read = true,
                                    .size = leave.opsize};
    operand.addrsize = leave.opsize;
    b->insns[b->cur] = operand; /* the cold part of the operand looks at it again */
    memory_operand(b, leave.opsize, true, false, op_load_r12);
    unsigned sp = host_gpr(b, GPR_SP);
    asm_op(&b->a, OP_LEA | wide_op(b), sp == NO_REG ? R10 : sp, rm_mem(RBP, leave.opsize), 0);
    if (sp == NO_REG)
        gpr_store(b, GPR_SP, R10);
    asm_op(&b->a, OP_MOV | wide_op(b), RBP, rm_reg(R12), 0);
}

void translate_stack(struct builder *b)
{
    switch (b->in->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        translate_push(b);
        break;
    case ZYDIS_MNEMONIC_POP:
        translate_pop(b);
        break;
    default:
        translate_leave(b);
        break;
    }
}

/* ---- jumps, calls, returns ---- */

bool control_is_inline(const struct builder *b, const struct insn *in)
{
    switch (in->cls) {
    case INSN_JCC:
    case INSN_JMP:
    case INSN_CALL: {
        if (b->wide)
            return in->opsize != 2;
        uint64_t limit = b->v->code_limit; /* a target beyond the limit faults at the branch: in C */
        uint64_t next = builder_next(b, (unsigned)(in - b->insns)), target = next + in->imm;
        target &= in->opsize == 2 ? 0xffff : 0xffffffff;
        return target <= limit && next <= limit;
    }
    case INSN_JMP_IND:
    case INSN_CALL_IND:
    case INSN_RET:
        if (b->wide)
            return in->opsize == 8;
        return b->mode & BT_MODE_FLAT_CS || b->v->code_limit == 0xffff;
    default:
        return false;
    }
}

static void push_return(struct builder *b)
{
    int size = b->in->opsize;
    uint64_t next = builder_next(b, b->cur);
    if (!window_pushes(b)) {
        stack_access(b, -size, (unsigned)size, true, op_store_next);
        stack_adjust(b, -size);
    } else if ((int64_t)next == (int32_t)next) {
        window_push_imm(b, (int32_t)next);
        builder_constant(b, BT_CONSTANT_S32, BT_ADDRESS);
    } else {
        guest_mov(b, R12, next, BT_ADDRESS);
        window_push(b, R12);
    }
}

/* The target of an indirect jump or call to r10, and for a call of which the push may lose that to where it does not.
 */
static void load_target(struct builder *b, bool keep)
{
    const struct insn *in = b->in;
    if (in->mem.present) {
        memory_operand(b, in->opsize, true, false, keep ? op_load_kept : op_load_r10);
        if (keep)
            asm_op(&b->a, OP_MOV | OP_W, R10, rm_reg(R12), 0);
        return;
    }
    unsigned from = host_gpr(b, in->rm.num);
    if (from == NO_REG) {
        gpr_load(b, R10, in->rm.num);
        from = R10;
    }
    load(b, R10, rm_reg(from));
    if (keep)
        asm_op(&b->a, OP_MOV_TO | OP_W, R10, rm_absolute(&b->v->scratch[1]), 0);
}

static void translate_indirect(struct builder *b)
{
    bool calls = b->in->cls == INSN_CALL_IND;
    bool keep = calls && !window_pushes(b) && !window_takes_stack(b); /* a push through the window leaves r10 alone */
    load_target(b, keep);
    if (looks_first(b)) {
        look_up_target(b, false);
        if (calls)
            push_return(b);
        jump_to_entry(b, -BT_ENTRY_SAVED);
        return;
    }
    check_target(b);
    if (calls)
        push_return(b);
    if (keep)
        asm_op(&b->a, OP_MOV | OP_W, R10, rm_absolute(&b->v->scratch[1]), 0);
    exit_indirect(b);
}

static void translate_return(struct builder *b)
{
    const struct insn *in = b->in;
    if (looks_first(b)) {
        return_by_map(b);
        return;
    }
    stack_access(b, 0, in->opsize, false, op_load_r10);
    check_target(b);
    stack_adjust(b, in->opsize + (int)(in->imm & 0xffff));
    exit_indirect(b);
}

void translate_control(struct builder *b)
{
    const struct insn *in = b->in;
    switch (in->cls) {
    case INSN_JCC:
        translate_jcc(b);
        break;
    case INSN_JMP:
        if (ends_round(b))
            break;
        exit_direct(b, branch_target(b, b->cur));
        break;
    case INSN_CALL:
        push_return(b);
        exit_direct(b, branch_target(b, b->cur));
        break;
    case INSN_JMP_IND:
    case INSN_CALL_IND:
        translate_indirect(b);
        break;
    default:
        translate_return(b);
        break;
    }
}
