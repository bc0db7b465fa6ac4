/* SPDX-License-Identifier: MIT */
/* The block builder: one block from end to end.
 *
 * The dispatcher (run.c) finds no translation for cpu->rip and calls bt_translate. The guest's bytes are decoded up to
 * a control transfer (but see branch_goes_on), the end of the page or BT_BLOCK_INSNS. A backward pass over the
 * decoded instructions finds which arithmetic flags are still needed behind each of them. Then each instruction is
 * emitted:
 *
 *   translate_insn.c     plain instructions, re-encoded with host registers; calls into C for system instructions
 *   translate_memory.c   the shadow-table access around a memory operand
 *   translate_group.c    one table look-up for several of them
 *   translate_window.c   the access by the host's page tables instead, for code that runs long
 *   translate_region.c   whose window that is, without looking it up each time
 *   translate_parallel.c user code's windows, without that
 *   translate_narrow.c   what indices are known to be short
 *   translate_held.c     registers without one of the host's, for as long as a scratch register is free
 *   translate_system.c   the time stamp counter, control registers
 *   translate_control.c  branches, calls, returns, push and pop, and the block's exits
 *   translate_unroll.c   several rounds of a short loop, before all of these
 *
 * The flags live in EFLAGS between instructions. The translator's own tests (table entry, page crossing) destroy
 * EFLAGS; when something behind still needs them they are saved to the image once (flags_clobber) and brought back only
 * when an instruction reads them or leaves some of them alone (flags_prepare). At a block's end all flags count as
 * needed; an exit taken with the flags in the image enters the target through its flag-restoring entry, or directly
 * when the target does not need them. Flags that are overwritten before anything reads them are not kept: the EFLAGS
 * image that a page fault pushes may differ from the hardware's in such dead bits, and in nothing else.
 *
 * What does not fit the hot path (table misses, page crossings, calls to C, unlinked exits) is emitted behind the block
 * as "cold" records. */
#include "bt/translate.h"

#include "bt/inspect.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

struct cold *builder_cold(struct builder *b, void (*emit)(struct builder *, struct cold *))
{
    if (b->cold_count == sizeof b->cold / sizeof b->cold[0])
        abort(); /* five an instruction is the design limit: push [mem] through a window */
    struct cold *c = &b->cold[b->cold_count++];
    *c = (struct cold){.emit = emit, .insn = b->cur, .eflags_valid = b->eflags_valid, .image_valid = b->image_valid};
    return c;
}

/* ---- flags ---- */

uint16_t flags_needed(const struct builder *b)
{
    return (uint16_t)((b->live_out[b->cur] & ~b->in->flags_written) | b->in->flags_read);
}

void flags_clobber(struct builder *b)
{
    if (!b->eflags_valid)
        return;
    if (flags_needed(b) && !b->image_valid) {
        bt_emit_save_flags(&b->a, flags_image(b));
        b->image_valid = true;
    }
    b->eflags_valid = false;
}

void flags_prepare(struct builder *b)
{
    bool keeps = (b->in->flags_written | b->in->flags_maybe) && (b->live_out[b->cur] & ~b->in->flags_written);
    if (!b->eflags_valid && b->image_valid && (b->in->flags_read || keeps)) {
        bt_emit_restore_flags(&b->a, flags_image(b), R12);
        region_lose(b, R12);
        b->eflags_valid = true;
    }
}

void flags_after(struct builder *b)
{
    if ((b->in->flags_written | b->in->flags_maybe) & FLAGS_ARITH) {
        b->eflags_valid = true;
        b->image_valid = false;
    }
}

void call_glue(struct builder *b, uintptr_t glue)
{
    uint64_t *rsp = &b->v->cpu.gpr[GPR_SP];
    if (has_regions(b))
        bt_emit_stack_pointer(&b->a, RSP, 0);
    if (b->wide) {
        asm_op(&b->a, OP_MOV_TO | OP_W, RSP, rm_at(rsp), 0);
        asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&b->v->host_rsp), 0);
    }
    asm_call32(&b->a, glue);
    if (b->wide)
        asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(has_regions(b) ? &b->v->window_rsp : rsp), 0);
}

enum insn_way insn_way_of(const struct builder *b, const struct insn *in)
{
    if (translate_is_inline(b, in))
        return WAY_PLAIN;
    if (control_is_inline(b, in))
        return WAY_CONTROL;
    if (flags_insn_is_inline(b, in))
        return WAY_FLAGS;
    if (stack_is_inline(b, in))
        return WAY_STACK;
    if (string_is_inline(b, in))
        return WAY_STRING;
    return system_insn_is_inline(b, in) ? WAY_SYSTEM : WAY_C;
}

static void liveness(struct builder *b)
{
    uint16_t live = FLAGS_ARITH;
    for (unsigned i = b->count; i-- > 0;) {
        const struct insn *in = &b->insns[i];
        if (in->cls == INSN_JCC) /* in the middle of the block it may lead elsewhere, too */
            live = FLAGS_ARITH;
        b->live_out[i] = live;
        live = (uint16_t)((live & ~in->flags_written) | (in->flags_read & FLAGS_ARITH));
        b->way[i] = insn_way_of(b, in);
        if (b->way[i] == WAY_C)
            live = FLAGS_ARITH;
    }
    b->live_in = live;
}

/* ---- fetch and decode ---- */

/* The guest's bytes from rip on: up to 15 beyond the page's end are looked at only when an instruction crosses it. */
struct fetch {
    uint8_t bytes[32]; /* for the page-crossing instruction */
    uint8_t *page;     /* host page, NULL: not memory */
    unsigned offset;
};

static int fetch_address(struct bt_vcpu *v, uint64_t eip, gpa_t *out)
{
    struct cpu *cpu = &v->cpu;
    struct mmu_fault fault;
    uint64_t lin = bt_linear(v, eip);
    unsigned access = MMU_EXEC | (cpu->cpl == 3 ? 0 : MMU_SUPERVISOR);
    if (!bt_target_good(v, eip))
        return cpu_raise_fault_error(cpu, VECTOR_GP, 0);
    if (mmu_translate(&cpu->mmu, lin, access, out, &fault))
        return cpu_raise_page_fault(cpu, &fault);
    return CPU_OK;
}

static uint8_t fetch_byte(struct bt_vcpu *v, gpa_t at)
{
    uint8_t *page = memory_page(v->mem, gpa_gfn(at)).read;
    if (page)
        return page[at.v & PAGE_MASK];
    cpu_fpu_unload(&v->cpu);
    return (uint8_t)v->cpu.board->mem_read(v->cpu.board->opaque, at, 1);
}

/* insn_decode by way of what is known already. head: of insn_cache_look_ahead, or NULL. */
static int decode(struct builder *b, struct insn *in, const struct insn_head *head, const uint8_t *bytes, size_t avail)
{
    enum insn_mode mode = b->mode & BT_MODE_CODE_MASK;
    int len = head ? insn_cache_find_head(b->c->decoded, in, head, bytes, avail, mode)
                   : insn_cache_find(b->c->decoded, in, bytes, avail, mode);
    if (len)
        return len;
    cpu_fpu_unload(&b->v->cpu);
    return insn_cache_decode(b->c->decoded, in, bytes, avail, mode);
}

/* Decodes the instruction at eip, byte by byte across the page's end. *crossed: the second page was needed. */
static int decode_crossing(struct builder *b, uint64_t eip, gpa_t at, struct insn *in, bool *crossed)
{
    uint8_t bytes[16];
    unsigned have = 0, room = PAGE_SIZE - (at.v & PAGE_MASK);
    gpa_t second = {0};
    *crossed = false;
    for (; have < room && have < 15; have++)
        bytes[have] = fetch_byte(b->v, gpa_add(at, have));
    int len = decode(b, in, NULL, bytes, have);
    if (len == 0 && have < 15) {
        if (fetch_address(b->v, next_eip(b, eip, room), &second))
            return CPU_FAULT;
        b->second_gfn = gpa_gfn(second);
        *crossed = true;
        for (; have < 15; have++)
            bytes[have] = fetch_byte(b->v, gpa_add(second, have - room));
        len = decode(b, in, NULL, bytes, have);
    }
    if (len <= 0)
        return cpu_raise_fault_error(&b->v->cpu, VECTOR_GP, 0);
    return CPU_OK;
}

/* Loads of a data segment register: translated code finds its base and limits in the vCPU, and when a load changes the
 * mode, the call into C does not come back. (SS holds interrupts off for an instruction.) CR8 is the interrupt
 * controller's; when it lets an interrupt through, C does not come back either. */
static bool load_goes_on(const struct builder *b, const struct insn *in)
{
    if (in->interrupt_shadow || in->mem.present || (b->mode & BT_MODE_SINGLE))
        return false;
    if (in->cls == INSN_SYSTEM)
        return in->mnemonic == ZYDIS_MNEMONIC_MOV && in->reg.cls == REGCLASS_CONTROL && in->reg.num == 8;
    return in->cls == INSN_SEGMENT &&
           (in->mnemonic == ZYDIS_MNEMONIC_MOV || in->mnemonic == ZYDIS_MNEMONIC_POP ||
            in->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || in->mnemonic == ZYDIS_MNEMONIC_WRGSBASE);
}

/* Ends the block before an instruction that one of its own branches leads to: a loop's head, which is worth a block of
 * its own, or what follows both ways of an if, which would be translated twice. */
static void cut_at_targets(struct builder *b)
{
    for (unsigned i = 0; i < b->count; i++) {
        if (b->insns[i].cls != INSN_JCC && b->insns[i].cls != INSN_JMP)
            continue;
        uint64_t target = branch_target(b, i);
        for (unsigned j = 1; j < b->count; j++)
            if (b->eip_at[j] == target)
                b->count = j;
    }
}

static int decode_block(struct builder *b, gpa_t at)
{
    enum { AHEAD = 8 }; /* instructions: more than a block has, most often */
    const uint8_t *page = memory_page(b->v->mem, gpa_gfn(at)).read;
    struct insn_head ahead[AHEAD];
    unsigned offset = at.v & PAGE_MASK, first = offset, known = 0;
    uint64_t eip = b->eip;
    unsigned max = (b->mode & BT_MODE_SINGLE) || b->v->options.one_insn_blocks ? 1 : BT_BLOCK_INSNS;
    if (b->v->options.block_insns && b->v->options.block_insns < max)
        max = b->v->options.block_insns;
    if (page)
        known = insn_cache_look_ahead(b->c->decoded, page + offset, PAGE_SIZE - offset, b->mode & BT_MODE_CODE_MASK,
                                      ahead, max < AHEAD ? max : AHEAD);
    while (b->count < max && offset < PAGE_SIZE) {
        struct insn *in = &b->insns[b->count];
        const struct insn_head *head =
            b->count < known && ahead[b->count].at == offset - first ? &ahead[b->count] : NULL;
        int len = page ? decode(b, in, head, page + offset, PAGE_SIZE - offset) : 0;
        if (len <= 0) {
            bool crossed;
            if (b->count) /* it begins a block of its own */
                break;
            if (decode_crossing(b, eip, at, in, &crossed))
                return CPU_FAULT;
            max = 1;
        }
        if (!b->wide && eip + in->len - 1 > b->v->code_limit && b->count)
            break;
        if (!b->wide && eip + in->len - 1 > b->v->code_limit)
            return cpu_raise_fault_error(&b->v->cpu, VECTOR_GP, 0);
        b->eip_at[b->count++] = eip;
        offset += in->len;
        eip = next_eip(b, eip, in->len);
        if (branch_goes_on(b, in))
            continue;
        if (in->ends_block && !flags_insn_is_inline(b, in) && !load_goes_on(b, in) && !system_insn_is_inline(b, in))
            break;
    }
    b->eip_at[b->count] = eip;
    cut_at_targets(b);
    return CPU_OK;
}

/* ---- emission ---- */

static void record(struct builder *b, bool stack_operand)
{
    struct bt_insn_record *next = &b->c->records[b->c->record_count], *last = next - 1;
    uint16_t guest_offset = (uint16_t)(b->eip_at[b->cur] - b->eip);
    bool flags_saved = !b->eflags_valid && b->image_valid;
    /* The record before says the same already? (Not so with the window: each access is one of its own.) */
    if (b->block->record_count && !(b->mode & BT_MODE_WINDOW) && last->guest_offset == guest_offset &&
        last->flags_saved == flags_saved && last->stack_operand == stack_operand)
        return;
    *next = (struct bt_insn_record){.host_offset = (uint16_t)(asm_here(&b->a) - b->block->entry),
                                    .guest_offset = guest_offset & 0x3fff,
                                    .flags_saved = flags_saved,
                                    .stack_operand = stack_operand};
    b->c->record_count++;
    b->block->record_count++;
}

void builder_record(struct builder *b)
{
    /* Of aligned operands and MXCSR values there are other reasons for #GP, which the processor sees first. */
    bool mxcsr = b->in->mnemonic == ZYDIS_MNEMONIC_LDMXCSR || b->in->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR;
    record(b, b->wide && (b->in->cls == INSN_STACK || b->in->mem.present) && b->in->mem.seg == SEG_SS &&
                  !b->in->mem.aligned && !mxcsr);
}

void builder_record_stack(struct builder *b)
{
    record(b, b->wide);
}

void builder_constant(struct builder *b, enum bt_constant_form form, enum bt_constant_unit unit)
{
    unsigned bytes = form == BT_CONSTANT_64 ? 8 : 4;
    b->c->constants[b->c->constant_count++] = (struct bt_constant){
        .host_offset = (uint16_t)(asm_here(&b->a) - bytes - b->block->entry), .form = form, .unit = unit};
}

void builder_pin(struct builder *b)
{
    builder_constant(b, BT_CONSTANT_PINNED, BT_ADDRESS);
}

void guest_mov(struct builder *b, unsigned reg, uint64_t n, enum bt_constant_unit unit)
{
    asm_mov_imm64(&b->a, reg, n);
    builder_constant(b,
                     n == (uint32_t)n           ? BT_CONSTANT_U32
                     : (int64_t)n == (int32_t)n ? BT_CONSTANT_S32
                                                : BT_CONSTANT_64,
                     unit);
}

void guest_store_rip(struct builder *b, uint64_t eip)
{
    if ((int64_t)eip != (int32_t)eip) {
        guest_mov(b, R11, eip, BT_ADDRESS);
        asm_op(&b->a, OP_MOV_TO | OP_W, R11, rm_at(&b->v->cpu.rip), 0);
        return;
    }
    asm_store_imm64(&b->a, &b->v->cpu.rip, eip);
    builder_constant(b, BT_CONSTANT_S32, BT_ADDRESS);
}

static void cold_poll(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[0]);
    asm_mov_imm32(&b->a, R11, (uint32_t)asm_here(&b->a));
    asm_jmp32(&b->a, b->glue->event);
}

static void emit_entry(struct builder *b)
{
    if (b->live_in)
        bt_emit_restore_flags(&b->a, flags_image(b), R12);
    else
        asm_nop(&b->a, BT_ENTRY_SAVED);
    b->block->entry = (uint32_t)asm_here(&b->a);
    struct cold *c = builder_cold(b, cold_poll);
    if (!b->live_in) {
        asm_op(&b->a, OP_GROUP1_IMM8, GROUP1_CMP, rm_at(&b->v->cpu.events), 1);
        asm_byte(&b->a, 0);
        c->from[0] = asm_jcc32(&b->a, CC_NZ, 0);
    } else {
        asm_op(&b->a, OP_MOV | OP_W, R12, rm_reg(RCX), 0);
        asm_op(&b->a, OP_MOV, RCX, rm_at(&b->v->cpu.events), 0);
        uint8_t *quiet = asm_jrcxz(&b->a);
        asm_op(&b->a, OP_MOV | OP_W, RCX, rm_reg(R12), 0);
        c->from[0] = asm_jmp32(&b->a, 0);
        asm_land8(&b->a, quiet);
        asm_op(&b->a, OP_MOV | OP_W, RCX, rm_reg(R12), 0);
    }
    b->block->body = (uint8_t)(asm_here(&b->a) - b->block->entry);
}

/* STI holds interrupts off for one more instruction: as the last of a block it is left to the dispatcher. */
static bool last_and_shadowing(const struct builder *b)
{
    return b->cur + 1 == b->count && b->in->mnemonic == ZYDIS_MNEMONIC_STI;
}

static void emit_insn(struct builder *b)
{
    switch (last_and_shadowing(b) ? WAY_C : b->way[b->cur]) {
    case WAY_PLAIN:
        translate_generic(b);
        break;
    case WAY_CONTROL:
        translate_control(b);
        b->ended = !branch_goes_on(b, b->in);
        break;
    case WAY_FLAGS:
        translate_flags_insn(b);
        break;
    case WAY_STACK:
        translate_stack(b);
        break;
    case WAY_STRING:
        translate_string(b);
        break;
    case WAY_SYSTEM:
        translate_system(b);
        break;
    case WAY_C: {
        bool ends = b->in->ends_block && !load_goes_on(b, b->in);
        translate_callout(b, ends ? BT_SITE_ENDS_BLOCK : 0);
        b->ended = ends;
        break;
    }
    }
}

static void emit_block(struct builder *b)
{
    b->cur = 0;
    b->in = &b->insns[0];
    b->eflags_valid = true;
    b->image_valid = false;
    window_begin(b);
    held_plan(b);
    b->in = &b->insns[0];
    emit_entry(b);
    for (b->cur = 0; b->cur < b->count; b->cur++) {
        b->in = &b->insns[b->cur];
        builder_record(b);
        held_before_insn(b);
        uint8_t *start = b->a.p;
        emit_insn(b);
        window_after_insn(b);
        if (b->v->options.damage && b->v->options.damage_at == b->eip_at[b->cur]) {
            cpu_fpu_unload(&b->v->cpu);
            bt_damage(start, b->a.p);
        }
    }
    b->cur = b->count - 1;
    b->in = &b->insns[b->cur];
    held_end(b);
    if (!b->ended)
        exit_direct(b, b->eip_at[b->count]);
    for (unsigned i = 0; i < b->cold_count; i++) { /* cold parts may add cold parts */
        struct cold *c = &b->cold[i];
        b->cur = c->insn;
        b->in = &b->insns[b->cur];
        b->eflags_valid = c->eflags_valid;
        b->image_valid = c->image_valid;
        builder_record(b);
        c->emit(b, c);
    }
}

static struct bt_block *finish(struct builder *b)
{
    struct bt_cache *c = b->c;
    struct bt_block *block = b->block;
    block->size = (uint16_t)(asm_here(&b->a) - block->entry);
    block->exit_count = (uint8_t)(c->exit_count - block->first_exit);
    bt_cache_written_to(c, b->a.p);
    c->block_count++;
    c->constants[c->constant_count++] = (struct bt_constant){.form = BT_CONSTANT_END};
    b->v->stats.blocks++;
    b->v->stats.insns += b->count;
    b->v->stats.host_bytes += block->size;
    bt_cache_publish(c, block);
    return block;
}

size_t bt_builder_size(void)
{
    return sizeof(struct builder);
}

struct bt_block *bt_translate(struct bt_vcpu *v, gpa_t at, uint32_t page)
{
    enum { FETCHED = 32 }; /* bytes of code at once: where jumps lead to begins there */
    struct bt_cache *c = v->cache;
    struct builder *b = c->builder;
    uint64_t start = __builtin_ia32_rdtsc();
    b->v = v; /* field by field: clearing the arrays would cost more than a short block's translation */
    b->c = c;
    b->mode = v->mode;
    b->eip = v->cpu.rip;
    b->gfn = gpa_gfn(at);
    b->second_gfn = ~0ull;
    b->count = b->cold_count = b->rounds_end = 0;
    b->ended = false;
    b->wide = (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
    b->glue = bt_glue_of(c, v->mode);
    b->lin = bt_linear(v, b->eip) >> PAGE_SHIFT;
    if (decode_block(b, at))
        return NULL;
    unroll_loop(b);
    liveness(b);
    groups_find(b);
    b->block = &c->blocks[c->block_count];
    *b->block = (struct bt_block){.page = page,
                                  .offset = at.v & PAGE_MASK,
                                  .length = (uint16_t)(b->eip_at[b->count] - b->eip),
                                  .eip = b->eip,
                                  .second_gfn = b->second_gfn,
                                  .first_record = c->record_count,
                                  .first_constant = c->constant_count,
                                  .first_exit = c->exit_count,
                                  .flags_in = b->live_in != 0};
    c->used = ((c->used + BT_ENTRY_SAVED + FETCHED - 1) & ~(size_t)(FETCHED - 1)) - BT_ENTRY_SAVED;
    b->a = bt_assembler(c);
    emit_block(b);
    struct bt_block *block = finish(b);
    v->stats.translate_cycles += __builtin_ia32_rdtsc() - start;
    return block;
}

void bt_link_known(struct bt_vcpu *v, const struct bt_block *b)
{
    struct bt_cache *c = v->cache;
    uint32_t mode = c->pages[b->page].mode;
    if ((mode & (BT_MODE_SINGLE | BT_MODE_PLAIN)) || v->options.one_insn_blocks)
        return;
    for (uint32_t i = b->first_exit; i < b->first_exit + b->exit_count; i++) {
        const struct bt_exit_record *e = &c->exits[i];
        uint64_t lin = bt_linear(v, e->target_eip);
        if (e->plain || !bt_target_good(v, e->target_eip) || (e->far && !(mode & BT_MODE_WINDOW)))
            continue; /* a landing is not worth its memory before it is used */
        uint32_t page = e->far ? bt_cache_mapped(c, lin) : b->page;
        struct bt_block *to = page ? bt_cache_find(c, page, lin & PAGE_MASK) : NULL;
        if (to && to->second_gfn == ~0ull)
            bt_cache_link(c, i, to);
    }
}
