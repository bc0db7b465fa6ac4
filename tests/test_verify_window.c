/* SPDX-License-Identifier: MIT */
/* The verifier on windows of 64-bit code (bt/verify_window.h): it takes the forms that keep an access to the region
 * that was looked up, and nothing that is nearly one of them. */
#include "shadowmmu/region.h"
#include "shadowmmu/window.h"
#include "tests/test.h"
#include "tests/verify_rig.h"

#include <stdio.h>

static uint64_t *table_of(const struct bench *b)
{
    return window_of(b)->regions;
}

static void index_of(struct bench *b, unsigned reg)
{
    asm_shrx(&b->a, true, R11, reg, R15);
}
static void entry_of_index(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, R11, 8, (int32_t)(intptr_t)table_of(b)), 0);
}
static void region(struct bench *b, unsigned reg)
{
    bt_emit_region(&b->a, table_of(b), R11, reg);
}
static void load(struct bench *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV | OP_W, RCX, rm, 0);
}
static void add_imm(struct bench *b, unsigned reg, int32_t n)
{
    asm_group1_imm(&b->a, true, GROUP1_ADD, rm_reg(reg), n);
}

static void leave_for_c(struct bench *b)
{
    bt_emit_stack_pointer(&b->a, RSP, 0);
    asm_op(&b->a, OP_MOV_TO | OP_W, RSP, rm_at(&b->cpu->gpr[GPR_SP]), 0);
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&bt_of(b->cpu)->host_rsp), 0);
}

static void add_unknown(struct bench *b, unsigned reg)
{
    asm_op(&b->a, 0x01 | OP_W, RSI, rm_reg(reg), 0);
}
/* lea r10, [from + by*scale + 8] ; mov rcx, [r10 + r11 - 32] */
static void indexed(struct bench *b, unsigned from, unsigned by, unsigned scale)
{
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib((uint8_t)from, (uint8_t)by, (uint8_t)scale, 8), 0);
    load(b, rm_region(R10, R11, -MMU_REGION_BIAS));
}
/* lea r10, [reg + r11] */
static void base_on(struct bench *b, unsigned reg)
{
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib((uint8_t)reg, R11, 1, 0), 0);
}
static void base_on_by(struct bench *b, unsigned reg, unsigned entry)
{
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib((uint8_t)reg, (uint8_t)entry, 1, 0), 0);
}
static void extend(struct bench *b, unsigned reg)
{
    asm_op(&b->a, 0x63 | OP_W, reg, rm_reg(reg), 0); /* movsxd */
}

/* Guest R12 and its neighbours, and by bytes. */
static uint8_t *slot_byte(struct bench *b, int n)
{
    return (uint8_t *)&b->cpu->gpr[12] + n;
}
static uint8_t *slot_of(struct bench *b, int n)
{
    return slot_byte(b, 8 * n);
}
static void put(struct bench *b, unsigned reg, struct rm rm)
{
    asm_op(&b->a, OP_MOV_TO | OP_W, reg, rm, 0);
}
/* mov rsi, [guest R12] ; mov rcx, [rsi + r11 - 32] */
static void by_slot(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, RSI, rm_absolute(slot_of(b, 0)), 0);
    load(b, rm_region(RSI, R11, -MMU_REGION_BIAS));
}

static void verifier_takes(void)
{
    struct rm rm;
    struct bench b = {0};
    if (!open_bench(&b)) {
        test_skip("no windows for 64-bit code here");
        close_bench(&b);
        return;
    }
    begin(&b);
    region(&b, RBX);
    load(&b, rm_region(RBX, R11, 8 - MMU_REGION_BIAS));
    region(&b, RBP);
    asm_op(&b.a, OP_MOV_TO, RDX, rm_region(RBP, R11, -1000), 0);
    CU_ASSERT(good(&b));
    begin(&b);
    asm_mov_imm64(&b.a, R10, 0x555512345678);
    asm_op(&b.a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)(intptr_t)&table_of(&b)[0x5555]), 0);
    load(&b, rm_region(R10, R11, -MMU_REGION_BIAS));
    CU_ASSERT(good(&b));
    begin(&b);
    load(&b, rm_stack(0x1000));
    asm_op(&b.a, OP_LEA | OP_W, RSP, rm_mem(RSP, -8), 0);
    load(&b, rm_stack(0));
    asm_push(&b.a, RBX);
    asm_push_imm32(&b.a, -1);
    asm_pop(&b.a, R9);
    bt_emit_stack_pointer(&b.a, RBX, 8);
    bt_emit_stack(&b.a, table_of(&b), RSP, RBX);
    load(&b, rm_stack(0));
    leave_for_c(&b);
    asm_call32(&b.a, glue_of(&b)->slow);
    asm_op(&b.a, OP_MOV | OP_W, RSP, rm_at(&bt_of(b.cpu)->window_rsp), 0);
    load(&b, rm_stack(0));
    CU_ASSERT(good(&b));
    begin(&b); /* indices of 32 bits */
    extend(&b, RDX);
    region(&b, RBX);
    indexed(&b, RBX, RDX, 8);
    asm_op(&b.a, OP_MOV, RSI, rm_reg(RDI), 0);
    load(&b, rm_region(RBX, R11, -MMU_REGION_BIAS));
    indexed(&b, RBX, RSI, 4);
    indexed(&b, RSI, RBX, 1);
    rm = rm_stack(0x20);
    rm.index = RSI;
    rm.scale = 8;
    load(&b, rm);
    CU_ASSERT(good(&b));
    begin(&b); /* by the host's address */
    extend(&b, RDX);
    region(&b, RBX);
    base_on(&b, RBX);
    load(&b, rm_based(R10, RDX, 8, 0x1000));
    add_imm(&b, RBX, 8);
    asm_op(&b.a, OP_MOV_TO | OP_W, RCX, rm_based(R10, NO_REG, 1, 8), 0);
    load(&b, rm_region(RBX, R11, 0)); /* and the region is still known */
    CU_ASSERT(good(&b));
    begin(&b); /* in the lowest region */
    asm_op(&b.a, OP_MOVZX8, RDX, rm_reg(RBX), 0);
    asm_op(&b.a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)(intptr_t)table_of(&b)), 0);
    load(&b, rm_based(R11, RDX, 4, 0x401000));
    load(&b, rm_based(R11, NO_REG, 1, 0x401000));
    CU_ASSERT(good(&b));
    begin(&b); /* registers near a region */
    extend(&b, RDX);
    region(&b, RBX);
    add_imm(&b, RBX, 0x7fff0000);
    load(&b, rm_region(RBX, R11, 0x7fff0000));
    asm_op(&b.a, OP_MOV | OP_W, RSI, rm_reg(RBX), 0);
    asm_op(&b.a, OP_MOV | OP_W, RBX, rm_reg(RCX), 0);
    asm_op(&b.a, 0x01 | OP_W, RDX, rm_reg(RSI), 0); /* add rsi, rdx */
    asm_op(&b.a, 0x29 | OP_W, RDX, rm_reg(RSI), 0); /* sub rsi, rdx */
    asm_op(&b.a, OP_LEA | OP_W, R9, rm_sib(RSI, RDX, 4, -8), 0);
    load(&b, rm_region(R9, R11, 0));
    base_on(&b, RSI);
    load(&b, rm_based(R10, RDX, 8, 0));
    CU_ASSERT(good(&b));
    begin(&b); /* a sum's region, and the host's address for a part of it, in one register */
    asm_op(&b.a, OP_LEA | OP_W, R10, rm_sib(RBX, RDX, 8, 16), 0);
    bt_emit_region(&b.a, table_of(&b), R10, R10);
    base_on_by(&b, RBX, R10);
    load(&b, rm_based(R10, RDX, 8, 16));
    add_imm(&b, RDX, 0x100);
    load(&b, rm_based(R10, RDX, 8, 0x7fff0000));
    CU_ASSERT(good(&b));
    begin(&b); /* two regions */
    region(&b, RBX);
    bt_emit_region(&b.a, table_of(&b), R12, RDX);
    load(&b, rm_region(RBX, R11, 0));
    load(&b, rm_region(RDX, R12, 0));
    add_imm(&b, RDX, 8);
    asm_op(&b.a, OP_LEA | OP_W, R10, rm_sib(RDX, R12, 1, 0), 0);
    load(&b, rm_based(R10, NO_REG, 1, 0));
    load(&b, rm_region(RBX, R11, 0));
    region(&b, RSI);
    load(&b, rm_region(RDX, R12, 0));
    CU_ASSERT(good(&b));
    begin(&b); /* a guest register in memory, beside writes of others */
    region(&b, RBX);
    put(&b, RBX, rm_at(slot_of(&b, 0)));
    put(&b, RDX, rm_absolute(slot_of(&b, 1)));
    put(&b, RDX, rm_at(slot_of(&b, -1)));
    asm_op(&b.a, OP_CMP_TO | OP_W, RDX, rm_absolute(slot_of(&b, 0)), 0);
    by_slot(&b);
    CU_ASSERT(good(&b));
    begin(&b); /* many numbers that no register gets */
    for (unsigned i = 0; i < 520; i++) {
        asm_op(&b.a, OP_MOV_IMM | OP_W, 0, rm_stack(8), 4);
        asm_u32(&b.a, i);
    }
    extend(&b, RDX);
    region(&b, RBX);
    base_on(&b, RBX);
    load(&b, rm_based(R10, RDX, 8, 0));
    CU_ASSERT(good(&b));
    begin(&b); /* what may be changed when the page moves is not where a jump may be */
    asm_push_imm32(&b.a, -1);
    CU_ASSERT(b.a.p - b.code - 4 >= WINDOW_OP_BYTES);
    for (unsigned i = 0; i < 3000; i++) { /* they touch the stack as they go */
        if (i % 80 == 0)
            begin(&b);
        asm_push(&b.a, RBX);
        if (i % 80 == 79)
            CU_ASSERT(good(&b));
    }
    close_bench(&b);
}

static void wide_index(struct bench *b)
{
    region(b, RBX);
    indexed(b, RBX, RDX, 8);
}
static void index_widened(struct bench *b)
{
    extend(b, RDX);
    region(b, RBX);
    add_unknown(b, RDX);
    indexed(b, RBX, RDX, 1);
}
static void index_by_cl(struct bench *b)
{
    asm_op(&b->a, 0xd3, 4, rm_reg(RDX), 0); /* shl edx, cl */
    region(b, RBX);
    indexed(b, RBX, RDX, 1);
}
static void narrow_both(struct bench *b)
{
    extend(b, RDX);
    region(b, RBX);
    indexed(b, RDX, RDX, 8);
}
static void scaled_base(struct bench *b)
{
    extend(b, RDX);
    region(b, RBX);
    indexed(b, RDX, RBX, 2);
}
static void indexed_then_moved(struct bench *b)
{
    extend(b, RDX);
    region(b, RBX);
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib(RBX, RDX, 8, 0), 0);
    add_unknown(b, R10);
    load(b, rm_region(R10, R11, 0));
}
static void indexed_before_region(struct bench *b)
{
    extend(b, RDX);
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib(RBX, RDX, 8, 0), 0);
    region(b, RSI);
    load(b, rm_region(R10, R11, 0));
}
static void indexed_behind_label(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    extend(b, RDX);
    asm_land8(&b->a, skip);
    region(b, RBX);
    indexed(b, RBX, RDX, 8);
}
static void indexed_behind_call(struct bench *b)
{
    extend(b, RDX);
    leave_for_c(b);
    asm_call32(&b->a, glue_of(b)->slow);
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&bt_of(b->cpu)->window_rsp), 0);
    region(b, RBX);
    indexed(b, RBX, RDX, 8);
}
static void based_on_another(struct bench *b)
{
    region(b, RBX);
    base_on(b, RSI);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void based_twice(struct bench *b)
{
    region(b, RBX);
    base_on(b, RBX);
    base_on(b, R10);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void based_after_change(struct bench *b)
{
    region(b, RBX);
    add_unknown(b, RBX);
    base_on(b, RBX);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void based_and_moved(struct bench *b)
{
    region(b, RBX);
    base_on(b, RBX);
    add_imm(b, R10, 8);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void based_wide_index(struct bench *b)
{
    region(b, RBX);
    base_on(b, RBX);
    load(b, rm_based(R10, RDX, 8, 0));
}
static void based_behind_label(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    region(b, RBX);
    base_on(b, RBX);
    asm_land8(&b->a, skip);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void based_and_left(struct bench *b)
{
    region(b, RBX);
    base_on(b, RBX);
    load(b, rm_region(R10, R11, 0));
}
static void based_on_entry_of_another(struct bench *b)
{
    region(b, RBX);
    region(b, RSI);
    base_on(b, RBX);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void based_in_guest_register(struct bench *b)
{
    region(b, RBX);
    asm_op(&b->a, OP_LEA | OP_W, RCX, rm_sib(RBX, R11, 1, 0), 0);
    load(b, rm_based(RCX, NO_REG, 1, 0));
}
static void far_by_indices(struct bench *b)
{
    extend(b, RDX);
    region(b, RBX);
    asm_op(&b->a, OP_LEA | OP_W, RBX, rm_sib(RBX, RDX, 8, 0), 0);
    asm_op(&b->a, OP_LEA | OP_W, RBX, rm_sib(RBX, RDX, 8, 0), 0);
    load(b, rm_region(RBX, R11, 0));
}
static void far_by_wide_index(struct bench *b)
{
    region(b, RBX);
    asm_op(&b->a, OP_LEA | OP_W, RSI, rm_sib(RBX, RDX, 1, 0), 0);
    load(b, rm_region(RSI, R11, 0));
}
static void near_another_entry(struct bench *b)
{
    region(b, RBX);
    asm_op(&b->a, OP_MOV | OP_W, RSI, rm_reg(RBX), 0);
    region(b, RDX);
    load(b, rm_region(RSI, R11, 0));
}
static void near_by_half(struct bench *b)
{
    region(b, RBX);
    asm_op(&b->a, OP_MOV, RSI, rm_reg(RBX), 0);
    load(b, rm_region(RSI, R11, 0));
}
static void near_behind_label(struct bench *b)
{
    region(b, RBX);
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    asm_op(&b->a, OP_MOV | OP_W, RSI, rm_reg(RBX), 0);
    asm_land8(&b->a, skip);
    load(b, rm_region(RSI, R11, 0));
}
static void near_the_other_entry(struct bench *b)
{
    region(b, RBX);
    bt_emit_region(&b->a, table_of(b), R12, RDX);
    load(b, rm_region(RBX, R12, 0));
}
static void index_in_the_other(struct bench *b)
{
    asm_shrx(&b->a, true, R12, RBX, R15);
    entry_of_index(b);
    load(b, rm_region(RBX, R11, 0));
}
static void entry_in_r10(struct bench *b)
{
    bt_emit_region(&b->a, table_of(b), R10, RBX);
    load(b, rm_region(RBX, R10, 0));
}
static void sum_by_another_scale(struct bench *b)
{
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib(RBX, RDX, 8, 0), 0);
    bt_emit_region(&b->a, table_of(b), R10, R10);
    base_on_by(b, RBX, R10);
    load(b, rm_based(R10, RDX, 4, 0));
}
static void sum_of_another(struct bench *b)
{
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib(RBX, RDX, 1, 0), 0);
    bt_emit_region(&b->a, table_of(b), R10, R10);
    base_on_by(b, RSI, R10);
    load(b, rm_based(R10, RDX, 1, 0));
}
static void r10_by_r12(struct bench *b)
{
    bt_emit_region(&b->a, table_of(b), R12, RBX);
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_mem(RBX, 8), 0);
    load(b, rm_region(R10, R12, 0));
}
static void lowest_by_another(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)(intptr_t)(table_of(b) + 1)), 0);
    load(b, rm_based(R11, NO_REG, 1, 0x401000));
}
static void constant_below(struct bench *b)
{
    extend(b, RDX);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)(intptr_t)&table_of(b)[1]), 0);
    indexed(b, NO_REG, RDX, 8);
}
static void no_entry(struct bench *b)
{
    load(b, rm_region(RBX, R11, 0));
}
static void another_base(struct bench *b)
{
    region(b, RBX);
    load(b, rm_region(RDX, R11, 0));
}
static void base_changed(struct bench *b)
{
    region(b, RBX);
    add_unknown(b, RBX);
    load(b, rm_region(RBX, R11, 0));
}
static void low_part_changed(struct bench *b)
{
    region(b, RBX);
    asm_op(&b->a, OP_MOV8, RBX, rm_reg(RAX), 0);
    load(b, rm_region(RBX, R11, 0));
}
static void entry_changed(struct bench *b)
{
    region(b, RBX);
    add_imm(b, R11, 8);
    load(b, rm_region(RBX, R11, 0));
}
static void index_changed(struct bench *b)
{
    index_of(b, RBX);
    add_imm(b, R11, 1);
    entry_of_index(b);
    load(b, rm_region(RBX, R11, 0));
}
static void entry_of_any_index(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_reg(RBX), 0);
    entry_of_index(b);
}
static void scaled(struct bench *b)
{
    region(b, RBX);
    load(b, rm_sib(RBX, R11, 2, 8));
}
static void entry_as_base(struct bench *b)
{
    region(b, RBX);
    load(b, rm_mem(R11, 8));
}
static void beside_the_table(struct bench *b)
{
    asm_mov_imm64(&b->a, R10, 0x555512345678);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)(intptr_t)(table_of(b) - 1)), 0);
}
static void constant_of_another_region(struct bench *b)
{
    asm_mov_imm64(&b->a, R10, 0x555612345678);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, NO_REG, 1, (int32_t)(intptr_t)&table_of(b)[0x5555]), 0);
    load(b, rm_region(R10, R11, 0));
}
static void writes_the_table(struct bench *b)
{
    asm_shrx(&b->a, true, R11, RBX, R15);
    asm_op(&b->a, OP_MOV_TO | OP_W, R11, rm_sib(NO_REG, R11, 8, (int32_t)(intptr_t)table_of(b)), 0);
}
static void jump_between(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    index_of(b, RBX);
    asm_land8(&b->a, skip);
    entry_of_index(b);
    load(b, rm_region(RBX, R11, 0));
}
static void jump_to_access(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    region(b, RBX);
    asm_land8(&b->a, skip);
    load(b, rm_region(RBX, R11, 0));
}
/* The end of bt_emit_stack. */
static void turn(struct bench *b)
{
    asm_op(&b->a, OP_TEST_IMM | OP_W, 2, rm_reg(R15), 0);
    asm_op(&b->a, OP_LEA | OP_W, R15, rm_mem(R15, 2 * MMU_REGION_BIAS + 1), 0);
}
static void r15_set(struct bench *b)
{
    asm_mov_imm32(&b->a, R15, 32);
}
static void r15_of_another(struct bench *b)
{
    bt_emit_region(&b->a, table_of(b), R15, RBX);
}
static void r15_left_alone(struct bench *b)
{
    asm_shrx(&b->a, true, R15, RBX, R15);
}
static void stack_of_another(struct bench *b)
{
    bt_emit_region(&b->a, table_of(b), R15, RBX);
    asm_op(&b->a, OP_LEA | OP_W, RSP, rm_sib(RCX, R15, 1, -MMU_REGION_BIAS), 0);
    turn(b);
}
static void stack_beside(struct bench *b)
{
    bt_emit_region(&b->a, table_of(b), R15, RBX);
    asm_op(&b->a, OP_LEA | OP_W, RSP, rm_sib(RBX, R15, 1, 0), 0);
    turn(b);
}
static void stack_used_too_soon(struct bench *b)
{
    bt_emit_region(&b->a, table_of(b), R15, RBX);
    asm_op(&b->a, OP_LEA | OP_W, RSP, rm_sib(RBX, R15, 1, -MMU_REGION_BIAS), 0);
    load(b, rm_stack(0));
    turn(b);
}
static void jump_to_stack(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    bt_emit_region(&b->a, table_of(b), R15, RBX);
    asm_land8(&b->a, skip);
    asm_op(&b->a, OP_LEA | OP_W, RSP, rm_sib(RBX, R15, 1, -MMU_REGION_BIAS), 0);
    turn(b);
}
static void stack_far(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_reg(RBX), 0);
    load(b, rm_stack(0));
}
static void stack_left_far(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_reg(RBX), 0);
}
static void stack_left_by_steps(struct bench *b)
{
    for (unsigned i = 0; i < 20; i++)
        add_imm(b, RSP, -0x100000);
    load(b, rm_stack(0));
}
static void push_far(struct bench *b)
{
    for (unsigned i = 0; i < 20; i++)
        add_imm(b, RSP, -0x100000);
    asm_push(&b->a, RBX);
}
static void pops_rsp(struct bench *b)
{
    asm_pop(&b->a, RSP);
}
static void pops_r15(struct bench *b)
{
    asm_pop(&b->a, R15);
}
static void pushes_memory(struct bench *b)
{
    asm_op(&b->a, OP_GROUP5, 6, rm_reg(RBX), 0);
    asm_op(&b->a, OP_GROUP5, 6, rm_mem(RBX, 0), 0);
}
static void stack_indexed(struct bench *b)
{
    load(b, rm_sib(RSP, RBX, 1, 8));
}
static void guest_rsp(struct bench *b)
{
    bt_emit_stack_pointer(&b->a, RSP, 0);
    load(b, rm_stack(0));
}
static void guest_rsp_left(struct bench *b)
{
    bt_emit_stack_pointer(&b->a, RSP, 0);
}
static void host_stack(struct bench *b)
{
    leave_for_c(b);
    load(b, rm_stack(0));
}
static void push_on_host_stack(struct bench *b)
{
    leave_for_c(b);
    asm_push(&b->a, RBX);
}
static void host_stack_kept(struct bench *b)
{
    leave_for_c(b);
    asm_call32(&b->a, glue_of(b)->slow);
    load(b, rm_stack(0));
}
static void guest_rsp_fetched(struct bench *b)
{
    leave_for_c(b);
    asm_call32(&b->a, glue_of(b)->slow);
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&b->cpu->gpr[GPR_SP]), 0);
}
static void fetched_without_call(struct bench *b)
{
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&bt_of(b->cpu)->window_rsp), 0);
    load(b, rm_stack(0));
}
static void stack_index(struct bench *b)
{
    load(b, rm_sib(RBX, R15, 1, 8));
}

/* Guest R12 is what the entry is for. */
static void keep_in_slot(struct bench *b)
{
    region(b, RBX);
    put(b, RBX, rm_absolute(slot_of(b, 0)));
}
static void slot_written(struct bench *b)
{
    keep_in_slot(b);
    put(b, RDX, rm_at(slot_of(b, 0)));
    by_slot(b);
}
static void slot_half_written(struct bench *b)
{
    keep_in_slot(b);
    asm_op(&b->a, OP_MOV_TO, RDX, rm_absolute(slot_byte(b, 4)), 0);
    by_slot(b);
}
static void slot_overlapped(struct bench *b)
{
    keep_in_slot(b);
    put(b, RDX, rm_absolute(slot_byte(b, -4)));
    by_slot(b);
}
static void slot_overlapped_by_vector(struct bench *b)
{
    keep_in_slot(b);
    asm_op(&b->a, 0x111, 0, rm_absolute(slot_byte(b, -8)), 0); /* movups */
    by_slot(b);
}
static void slot_overlapped_by_x87(struct bench *b)
{
    keep_in_slot(b);
    asm_op(&b->a, 0xd9, 6, rm_absolute(slot_byte(b, -20)), 0); /* fnstenv */
    by_slot(b);
}
static void slot_exchanged(struct bench *b)
{
    keep_in_slot(b);
    asm_op(&b->a, OP_XCHG | OP_W, RDX, rm_at(slot_of(b, 0)), 0);
    by_slot(b);
}
static void slot_read_beside(struct bench *b)
{
    keep_in_slot(b);
    asm_op(&b->a, OP_MOV | OP_W, RSI, rm_absolute(slot_byte(b, 4)), 0);
    load(b, rm_region(RSI, R11, -MMU_REGION_BIAS));
}

static void verifier_refuses(void)
{
    static void (*const bad[])(struct bench *) = {wide_index,
                                                  index_widened,
                                                  index_by_cl,
                                                  narrow_both,
                                                  scaled_base,
                                                  indexed_then_moved,
                                                  indexed_before_region,
                                                  indexed_behind_label,
                                                  indexed_behind_call,
                                                  based_on_another,
                                                  based_twice,
                                                  based_after_change,
                                                  based_and_moved,
                                                  based_wide_index,
                                                  based_behind_label,
                                                  based_and_left,
                                                  based_on_entry_of_another,
                                                  based_in_guest_register,
                                                  far_by_indices,
                                                  far_by_wide_index,
                                                  near_another_entry,
                                                  near_by_half,
                                                  near_behind_label,
                                                  near_the_other_entry,
                                                  index_in_the_other,
                                                  entry_in_r10,
                                                  sum_by_another_scale,
                                                  sum_of_another,
                                                  r10_by_r12,
                                                  lowest_by_another,
                                                  constant_below,
                                                  no_entry,
                                                  another_base,
                                                  base_changed,
                                                  low_part_changed,
                                                  entry_changed,
                                                  index_changed,
                                                  entry_of_any_index,
                                                  scaled,
                                                  entry_as_base,
                                                  beside_the_table,
                                                  constant_of_another_region,
                                                  writes_the_table,
                                                  jump_between,
                                                  jump_to_access,
                                                  r15_set,
                                                  r15_of_another,
                                                  r15_left_alone,
                                                  stack_of_another,
                                                  stack_beside,
                                                  stack_used_too_soon,
                                                  jump_to_stack,
                                                  push_far,
                                                  pops_rsp,
                                                  pops_r15,
                                                  pushes_memory,
                                                  stack_indexed,
                                                  guest_rsp,
                                                  guest_rsp_left,
                                                  host_stack,
                                                  push_on_host_stack,
                                                  host_stack_kept,
                                                  guest_rsp_fetched,
                                                  fetched_without_call,
                                                  stack_far,
                                                  stack_left_far,
                                                  stack_left_by_steps,
                                                  stack_index,
                                                  slot_written,
                                                  slot_half_written,
                                                  slot_overlapped,
                                                  slot_overlapped_by_vector,
                                                  slot_overlapped_by_x87,
                                                  slot_exchanged,
                                                  slot_read_beside};
    struct bench b = {0};
    if (!open_bench(&b)) {
        test_skip("no windows for 64-bit code here");
        close_bench(&b);
        return;
    }
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        begin(&b);
        bad[i](&b);
        bool taken = good(&b);
        CU_ASSERT_FALSE(taken);
        if (taken)
            printf("window: the verifier takes case %u\n", i);
    }
    close_bench(&b);
}

TEST_SUITE(verify_window, {"the safe forms are taken", verifier_takes},
           {"and nothing that is nearly so", verifier_refuses})
