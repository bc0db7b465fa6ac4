/* SPDX-License-Identifier: MIT */
/* The fixed code at the start of every code cache: the way in, the ways out, and the calls into C. */
#include "bt/landing.h"
#include "bt/slow.h"
#include "shadowmmu/region.h"

#include <stdlib.h>

static void store(struct assembler *a, const volatile void *to, unsigned reg)
{
    asm_op(a, OP_MOV_TO | OP_W, reg, rm_at(to), 0);
}

static void load(struct assembler *a, unsigned reg, const volatile void *from)
{
    asm_op(a, OP_MOV | OP_W, reg, rm_at(from), 0);
}

static void store32(struct assembler *a, const volatile void *to, unsigned reg)
{
    asm_op(a, OP_MOV_TO, reg, rm_at(to), 0);
}

static void load32(struct assembler *a, unsigned reg, const volatile void *from)
{
    asm_op(a, OP_MOV, reg, rm_at(from), 0);
}

static void move64(struct assembler *a, unsigned to, unsigned from)
{
    asm_op(a, OP_MOV | OP_W, to, rm_reg(from), 0);
}

/* The same in four bytes: with a segment prefix, which registers do not care about. */
static void move64_long(struct assembler *a, unsigned to, unsigned from)
{
    asm_byte(a, 0x3e);
    move64(a, to, from);
}

/* lahf; seto al: EFLAGS -> image in eax */
static void flags_to_eax(struct assembler *a)
{
    asm_byte(a, 0x9f);
    asm_op(a, 0x190 | OP_BYTE_RM, 0, rm_reg(RAX), 0);
}

/* cmp al, 0x81; sahf: image in eax -> EFLAGS (0x81: al - (-127) overflows for al = 1 only) */
static void eax_to_flags(struct assembler *a)
{
    asm_byte(a, 0x3c);
    asm_byte(a, 0x81);
    asm_byte(a, 0x9e);
}

/* By moves, which processors carry out by renaming: an exchange is three operations, and RAX would wait for it. */
void bt_emit_restore_flags(struct assembler *a, const uint32_t *image, unsigned scratch)
{
    if (image) {
        move64(a, scratch, RAX);
        load32(a, RAX, image);
        eax_to_flags(a);
        move64(a, RAX, scratch);
        return;
    }
    move64_long(a, scratch, RAX);
    move64_long(a, RAX, R13);
    eax_to_flags(a);
    move64_long(a, RAX, scratch);
}

void bt_emit_save_flags(struct assembler *a, const uint32_t *image)
{
    move64(a, R11, RAX);
    flags_to_eax(a);
    if (image)
        store32(a, image, RAX);
    else
        move64(a, R13, RAX);
    move64(a, RAX, R11);
}

/* What differs between the glue of 16/32-bit and of 64-bit code: which registers are the guest's. */
struct glue_form {
    struct bt_vcpu *v;
    bool wide;
    const uint64_t *regions; /* of the window; else NULL */
};

/* Translated code with the flags in the image leaves: the image goes to memory, where that of 64-bit code is always. */
static void store_image(struct assembler *a, const struct glue_form *f)
{
    if (!f->wide)
        store32(a, &f->v->flags_image, R13);
}

/* From where to where the glue leads: for a call, 64-bit code itself puts RSP away before and fetches it behind. */
enum glue_way { WAY_ONE, WAY_CALL };

static bool glue_moves(const struct glue_form *f, unsigned guest, enum glue_way way)
{
    unsigned host = bt_host_gpr(f->wide, guest);
    return host != NO_REG && !(host == RSP && way == WAY_CALL);
}

static void save_guest_but_rax(struct assembler *a, const struct glue_form *f, enum glue_way way)
{
    if (f->regions && way == WAY_ONE)
        bt_emit_stack_pointer(a, RSP, 0);
    for (unsigned i = 1; i < (f->wide ? 16 : 8); i++)
        if (glue_moves(f, i, way))
            store(a, &f->v->cpu.gpr[i], bt_host_gpr(f->wide, i));
}

static void load_guest(struct assembler *a, const struct glue_form *f, enum glue_way way)
{
    for (unsigned i = 0; i < (f->wide ? 16 : 8); i++)
        if (glue_moves(f, i, way))
            load(a, bt_host_gpr(f->wide, i), &f->v->cpu.gpr[i]);
    if (f->wide)
        return;
    load(a, R8, &f->v->read_table);
    load(a, R9, &f->v->write_table);
}

void bt_emit_region(struct assembler *a, const uint64_t *regions, unsigned to, unsigned address)
{
    asm_shrx(a, true, to, address, R15);
    asm_op(a, OP_MOV | OP_W, to, rm_sib(NO_REG, (uint8_t)to, 8, (int32_t)(intptr_t)regions), 0);
}

void bt_emit_stack_pointer(struct assembler *a, unsigned to, int32_t n)
{
    asm_op(a, OP_LEA | OP_W, to, rm_sib(RSP, R15, 1, n - MMU_REGION_BIAS), 0);
}

void bt_emit_stack(struct assembler *a, const uint64_t *regions, unsigned to, unsigned from)
{
    bt_emit_region(a, regions, R15, from);
    asm_op(a, OP_LEA | OP_W, to, rm_sib((uint8_t)from, R15, 1, -MMU_REGION_BIAS), 0);
    asm_op(a, OP_TEST_IMM | OP_W, 2, rm_reg(R15), 0); /* not */
    asm_op(a, OP_LEA | OP_W, R15, rm_mem(R15, 2 * MMU_REGION_BIAS + 1), 0);
}

/* What RSP and r15 hold while translated code runs; the guest's registers are loaded. r12 may be lost. */
static void load_r15(struct assembler *a, const struct glue_form *f, enum glue_way way)
{
    unsigned sp = way == WAY_CALL ? R12 : bt_host_gpr(true, GPR_SP);
    if (!f->wide)
        load(a, R15, &f->v->r15);
    else
        asm_mov_imm32(a, R15, f->regions ? MMU_REGION_SHIFT : BT_PAGE_INDEX_CONTROL);
    if (!f->regions)
        return;
    if (way == WAY_CALL)
        load(a, R12, &f->v->cpu.gpr[GPR_SP]);
    bt_emit_stack(a, f->regions, sp, sp);
    if (way == WAY_CALL)
        store(a, &f->v->window_rsp, R12);
}

/* The way back from C: the guest's stack may be elsewhere, and regions may have other slots. */
static void load_guest_again(struct assembler *a, const struct glue_form *f)
{
    load_guest(a, f, WAY_CALL);
    if (f->regions)
        load_r15(a, f, WAY_CALL);
}

static void call_c(struct assembler *a, struct bt_vcpu *v, uintptr_t fn)
{
    asm_mov_imm32(a, RDI, (uint32_t)(uintptr_t)v);
    asm_mov_imm64(a, RAX, fn);
    asm_op(a, OP_GROUP5, 2, rm_reg(RAX), 0);
}

/* See BT_VECTORS_STAY. Keeps r11 and what C keeps; RSP is as behind a call of the glue. */
static void move_vectors(struct assembler *a, struct bt_vcpu *v, void (*fn)(struct cpu *))
{
    if (BT_VECTORS_STAY)
        return;
    asm_push(a, R11);
    call_c(a, v, (uintptr_t)fn);
    asm_pop(a, R11);
}

static void emit_enter(struct assembler *a, const struct glue_form *f, struct bt_glue *g)
{
    struct bt_vcpu *v = f->v;
    static const uint8_t pushes[] = {0x55, 0x53, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57};
    g->enter = asm_here(a);
    for (size_t i = 0; i < sizeof pushes; i++)
        asm_byte(a, pushes[i]);
    move64(a, R11, RDI);
    move_vectors(a, v, cpu_fpu_load);
    asm_group1_imm(a, true, GROUP1_SUB, rm_reg(RSP), 8);
    store(a, &v->host_rsp, RSP);
    load32(a, RAX, &v->flags_image);
    eax_to_flags(a);
    load_guest(a, f, WAY_ONE);
    load_r15(a, f, WAY_ONE);
    asm_op(a, OP_GROUP5, 4, rm_reg(R11), 0);
}

/* The tail shared by all exits: everything is stored, r11d is the reason. */
static uintptr_t emit_exit_stored(struct assembler *a, struct bt_vcpu *v)
{
    static const uint8_t pops[] = {0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5b, 0x5d, 0xc3};
    uintptr_t here = asm_here(a);
    store32(a, &v->exit_reason, R11);
    load(a, RSP, &v->host_rsp);
    asm_group1_imm(a, true, GROUP1_ADD, rm_reg(RSP), 8);
    move_vectors(a, v, cpu_fpu_unload);
    for (size_t i = 0; i < sizeof pops; i++)
        asm_byte(a, pops[i]);
    return here;
}

static uintptr_t emit_exit(struct assembler *a, const struct glue_form *f, bool saved, uintptr_t stored)
{
    struct bt_vcpu *v = f->v;
    uintptr_t here = asm_here(a);
    store(a, &v->cpu.gpr[0], RAX);
    if (saved) {
        store_image(a, f);
    } else {
        flags_to_eax(a);
        store32(a, &v->flags_image, RAX);
    }
    save_guest_but_rax(a, f, WAY_ONE);
    asm_jmp32(a, stored);
    return here;
}

static uintptr_t emit_reason(struct assembler *a, enum bt_exit reason, uintptr_t exit)
{
    uintptr_t here = asm_here(a);
    asm_mov_imm32(a, R11, reason);
    asm_jmp32(a, exit);
    return here;
}

static uintptr_t emit_chain(struct assembler *a, struct bt_vcpu *v, uintptr_t exit)
{
    uintptr_t here = asm_here(a);
    store32(a, &v->exit_index, R11);
    emit_reason(a, BT_EXIT_CHAIN, exit);
    return here;
}

static uintptr_t emit_event(struct assembler *a, struct bt_vcpu *v, uintptr_t exit)
{
    uintptr_t here = asm_here(a);
    store(a, &v->event_from, R11);
    emit_reason(a, BT_EXIT_EVENT, exit);
    return here;
}

/* One of the two forms of the miss, which is LANDING_SAVED bytes long. The call does not come back here. */
static uintptr_t emit_miss(struct assembler *a, const struct glue_form *f, uintptr_t callout)
{
    struct bt_vcpu *v = f->v;
    uintptr_t here = asm_here(a);
    store(a, &v->cpu.rip, R10);
    if (f->regions)
        bt_emit_stack_pointer(a, RSP, 0);
    if (f->wide) {
        store(a, &v->cpu.gpr[GPR_SP], bt_host_gpr(true, GPR_SP));
        load(a, RSP, &v->host_rsp);
    }
    asm_mov_imm64(a, R11, (uintptr_t)&v->cache->miss_site);
    asm_call32(a, callout);
    while (asm_here(a) < here + LANDING_SAVED)
        asm_nop(a, 1);
    return here;
}

/* Leaves a call made from translated code for the dispatcher. r11d: reason. */
static void emit_leave_if(struct assembler *a, uint8_t *skip, uintptr_t stored)
{
    asm_jmp32(a, stored);
    asm_land8(a, skip);
}

/* What a C function asks for: 0 to go on, an exit + 1, or to go to other glue (enum bt_exit and bt_go_on). */
static void emit_result(struct assembler *a, uintptr_t stored)
{
    asm_op(a, OP_TEST | OP_W, RAX, rm_reg(RAX), 0);
    uint8_t *good = asm_jcc8(a, CC_Z);
    asm_group1_imm(a, true, GROUP1_CMP, rm_reg(RAX), BT_EXIT_COUNT);
    uint8_t *leaves = asm_jcc8(a, CC_BE);
    asm_op(a, OP_GROUP5, 4, rm_reg(RAX), 0);
    asm_land8(a, leaves);
    asm_op(a, OP_LEA, R11, rm_mem(RAX, -1), 0);
    emit_leave_if(a, good, stored);
}

/* On to the translated code at resume_to, from a C function that translated code of any mode called. */
static uintptr_t emit_resume(struct assembler *a, const struct glue_form *f)
{
    struct bt_vcpu *v = f->v;
    uintptr_t here = asm_here(a);
    move_vectors(a, v, cpu_fpu_load);
    load(a, RSP, &v->host_rsp);
    load(a, R11, &v->resume_to);
    load32(a, RAX, &v->flags_image);
    eax_to_flags(a);
    load_guest(a, f, WAY_ONE);
    load_r15(a, f, WAY_ONE);
    asm_op(a, OP_GROUP5, 4, rm_reg(R11), 0);
    return here;
}

static uintptr_t emit_slow(struct assembler *a, const struct glue_form *f, uintptr_t stored)
{
    struct bt_vcpu *v = f->v;
    uintptr_t here = asm_here(a);
    store(a, &v->cpu.gpr[0], RAX);
    save_guest_but_rax(a, f, WAY_CALL);
    store(a, &v->slow_addr, R10);
    store32(a, &v->slow_info, R11);
    store(a, &v->scratch[0], R12);
    store_image(a, f);
    move_vectors(a, v, cpu_fpu_unload);
    asm_group1_imm(a, true, GROUP1_SUB, rm_reg(RSP), 8);
    call_c(a, v, (uintptr_t)bt_slow_access);
    asm_group1_imm(a, true, GROUP1_ADD, rm_reg(RSP), 8);
    emit_result(a, stored);
    move_vectors(a, v, cpu_fpu_load);
    load_guest_again(a, f);
    load(a, R10, &v->slow_addr);
    load(a, R11, &v->slow_delta);
    load(a, R12, &v->scratch[0]);
    asm_byte(a, 0xc3);
    return here;
}

/* Keeps EFLAGS and every register. */
static uintptr_t emit_post(struct assembler *a, const struct glue_form *f, bool saved, uintptr_t stored)
{
    struct bt_vcpu *v = f->v;
    uintptr_t here = asm_here(a);
    store(a, &v->cpu.gpr[0], RAX);
    if (!saved) {
        flags_to_eax(a);
        store32(a, &v->flags_image, RAX);
    } else {
        store_image(a, f);
    }
    save_guest_but_rax(a, f, WAY_CALL);
    store(a, &v->scratch[0], R12);
    move_vectors(a, v, cpu_fpu_unload);
    asm_group1_imm(a, true, GROUP1_SUB, rm_reg(RSP), 8);
    call_c(a, v, (uintptr_t)bt_slow_post);
    asm_group1_imm(a, true, GROUP1_ADD, rm_reg(RSP), 8);
    asm_op(a, OP_TEST, RAX, rm_reg(RAX), 0);
    uint8_t *good = asm_jcc8(a, CC_Z);
    asm_mov_imm32(a, R11, BT_EXIT_DISPATCH);
    emit_leave_if(a, good, stored);
    move_vectors(a, v, cpu_fpu_load);
    if (!saved) {
        load32(a, RAX, &v->flags_image);
        eax_to_flags(a);
    }
    load_guest_again(a, f);
    load(a, R12, &v->scratch[0]);
    asm_byte(a, 0xc3);
    return here;
}

static uintptr_t emit_callout(struct assembler *a, const struct glue_form *f, bool saved, uintptr_t stored)
{
    struct bt_vcpu *v = f->v;
    uintptr_t here = asm_here(a);
    store(a, &v->cpu.gpr[0], RAX);
    if (saved) {
        store_image(a, f);
    } else {
        flags_to_eax(a);
        store32(a, &v->flags_image, RAX);
    }
    save_guest_but_rax(a, f, WAY_CALL);
    move_vectors(a, v, cpu_fpu_unload);
    move64(a, RSI, R11);
    asm_group1_imm(a, true, GROUP1_SUB, rm_reg(RSP), 8);
    asm_mov_imm32(a, RDI, (uint32_t)(uintptr_t)v);
    asm_op(a, OP_GROUP5, 2, rm_mem(RSI, offsetof(struct bt_site, run)), 0);
    asm_group1_imm(a, true, GROUP1_ADD, rm_reg(RSP), 8);
    emit_result(a, stored);
    move_vectors(a, v, cpu_fpu_load);
    load32(a, RAX, &v->flags_image);
    eax_to_flags(a);
    load_guest_again(a, f);
    asm_byte(a, 0xc3);
    return here;
}

static void emit_form(struct assembler *a, const struct glue_form *f, struct bt_glue *g)
{
    struct bt_vcpu *v = f->v;
    emit_enter(a, f, g);
    uintptr_t stored = emit_exit_stored(a, v);
    g->exit = emit_exit(a, f, false, stored);
    g->exit_saved = emit_exit(a, f, true, stored);
    g->chain = emit_chain(a, v, g->exit);
    g->chain_saved = emit_chain(a, v, g->exit_saved);
    g->event = emit_event(a, v, g->exit);
    g->fault = emit_reason(a, BT_EXIT_FAULT, g->exit);
    g->fault_saved = emit_reason(a, BT_EXIT_FAULT, g->exit_saved);
    g->plain = emit_reason(a, BT_EXIT_PLAIN, g->exit);
    g->plain_saved = emit_reason(a, BT_EXIT_PLAIN, g->exit_saved);
    g->slow = emit_slow(a, f, stored);
    g->post = emit_post(a, f, false, stored);
    g->post_saved = emit_post(a, f, true, stored);
    g->resume = emit_resume(a, f);
    g->callout = emit_callout(a, f, false, stored);
    g->callout_saved = emit_callout(a, f, true, stored);
    bt_emit_restore_flags(a, f->wide ? &v->flags_image : NULL, R12);
    g->miss = emit_miss(a, f, g->callout);
    emit_miss(a, f, g->callout_saved);
}

static struct assembler glue_room(struct bt_cache *c)
{
    return (struct assembler){.p = c->write_view + c->glue_used,
                              .end = c->write_view + c->glue_size,
                              .to_exec = c->exec_view - c->write_view};
}

static void glue_done(struct bt_cache *c, const struct assembler *a)
{
    if (a->overflow)
        abort();
    c->glue_used = (size_t)(a->p - c->write_view);
}

void bt_glue_emit(struct bt_cache *c)
{
    struct assembler a = glue_room(c);
    c->miss_site = (struct bt_site){.run = bt_landing_miss};
    emit_form(&a, &(struct glue_form){.v = c->vcpu, .wide = false}, &c->glue[0]);
    emit_form(&a, &(struct glue_form){.v = c->vcpu, .wide = true}, &c->glue[1]);
    glue_done(c, &a);
}

void bt_glue_emit_window(struct bt_cache *c, enum mmu_window_kind kind)
{
    struct bt_glue *g = &c->glue[kind == MMU_WINDOW_USER ? 2 : 3];
    const uint64_t *regions = c->vcpu->cpu.mmu.window[kind].regions;
    if (g->enter)
        return;
    struct assembler a = glue_room(c);
    emit_form(&a, &(struct glue_form){.v = c->vcpu, .wide = true, .regions = regions}, g);
    glue_done(c, &a);
}
