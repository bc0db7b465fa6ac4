/* SPDX-License-Identifier: MIT */
/* The verifier on parallel regions (bt/verify_window.h, shadowmmu/parallel.h): it takes accesses by GS near an address
 * that was looked at, and nothing that is nearly one. */
#include "shadowmmu/region.h"
#include "shadowmmu/window.h"
#include "tests/test.h"
#include "tests/verify_rig.h"

#include <stdio.h>

/* ---- pieces of code ---- */

static void load(struct bench *b, struct rm rm)
{
    asm_op(&b->a, OP_MOV | OP_W, RCX, rm, 0);
}
static void by_gs(struct bench *b, unsigned base, int32_t disp)
{
    load(b, rm_parallel((uint8_t)base, NO_REG, 1, disp));
}
static void by_gs_indexed(struct bench *b, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    load(b, rm_parallel((uint8_t)base, (uint8_t)index, (uint8_t)scale, disp));
}
static void number_of(struct bench *b, unsigned reg)
{
    asm_shrx(&b->a, true, R11, reg, R15);
}
static void look_in(struct bench *b, const uint64_t *table)
{
    asm_op(&b->a, OP_MOV, R11, rm_sib(NO_REG, R11, 8, (int32_t)(intptr_t)table), 0);
}
static void look_at_number(struct bench *b)
{
    look_in(b, window_of(b)->parallel.table);
}
static void look(struct bench *b, unsigned reg)
{
    number_of(b, reg);
    look_at_number(b);
}
/* lea r11, [base + index*scale + disp], and that */
static void look_at_sum(struct bench *b, unsigned base, unsigned index, unsigned scale, int32_t disp)
{
    asm_op(&b->a, OP_LEA | OP_W, R11, rm_sib((uint8_t)base, (uint8_t)index, (uint8_t)scale, disp), 0);
    look(b, R11);
}
static void add_imm(struct bench *b, unsigned reg, int32_t n)
{
    asm_group1_imm(&b->a, true, GROUP1_ADD, rm_reg(reg), n);
}
static void add_unknown(struct bench *b, unsigned reg)
{
    asm_op(&b->a, 0x01 | OP_W, RSI, rm_reg(reg), 0);
}
static void copy(struct bench *b, unsigned to, unsigned from)
{
    asm_op(&b->a, OP_MOV | OP_W, to, rm_reg((uint8_t)from), 0);
}
static void extend(struct bench *b, unsigned reg)
{
    asm_op(&b->a, 0x63 | OP_W, reg, rm_reg((uint8_t)reg), 0); /* movsxd */
}
static void load_parallel_entry(struct bench *b, unsigned to)
{
    asm_op(&b->a, OP_MOV | OP_W, to, rm_at(&window_of(b)->parallel.entry), 0);
}
/* to: the host's address for what reg holds */
static void base_on(struct bench *b, unsigned to, unsigned reg)
{
    load_parallel_entry(b, to);
    asm_op(&b->a, OP_LEA | OP_W, to, rm_sib((uint8_t)reg, (uint8_t)to, 1, 0), 0);
}
static void call_slow(struct bench *b)
{
    bt_emit_stack_pointer(&b->a, RSP, 0);
    asm_op(&b->a, OP_MOV_TO | OP_W, RSP, rm_at(&b->cpu->gpr[GPR_SP]), 0);
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&bt_of(b->cpu)->host_rsp), 0);
    asm_call32(&b->a, glue_of(b)->slow);
    asm_op(&b->a, OP_MOV | OP_W, RSP, rm_at(&bt_of(b->cpu)->window_rsp), 0);
}

/* ---- what is taken ---- */

static void plain(struct bench *b)
{
    look(b, RBX);
    by_gs(b, RBX, 0);
    by_gs(b, RBX, 0x7fffffff);
    asm_op(&b->a, OP_MOV_TO | OP_W, RCX, rm_parallel(RBX, NO_REG, 1, -0x7fffffff), 0);
    asm_op(&b->a, 0x01 | OP_LOCK, RDX, rm_parallel(RBX, NO_REG, 1, 4), 0);
    asm_op(&b->a, 0x110, 3, rm_parallel(RBX, NO_REG, 1, 4), 0); /* movups */
    asm_vex(&b->a, 1, 0, false, true, 0x10, 3, 0, rm_parallel(RBX, NO_REG, 1, 4), 0);
}
static void moved_a_little(struct bench *b)
{
    look(b, RBX);
    add_imm(b, RBX, 0x7fff0000);
    by_gs(b, RBX, 0x7fff0000);
    copy(b, RSI, RBX);
    copy(b, RBX, RCX);
    by_gs(b, RSI, -8);
}
static void two_of_them(struct bench *b)
{
    look(b, RBX);
    look(b, RSI);
    by_gs(b, RBX, 8);
    by_gs(b, RSI, 8);
    look(b, RDI);
    by_gs(b, RBX, 16);
}
/* As many looks as eight rounds of a loop can have. */
static void the_first_of_many(struct bench *b)
{
    look(b, RBX);
    for (unsigned i = 0; i < 40; i++) {
        load(b, rm_at(&bt_of(b->cpu)->cpu.gpr[12]));
        look(b, RCX);
    }
    by_gs(b, RBX, 0);
}
static void narrow_index(struct bench *b)
{
    extend(b, RDX);
    look(b, RBX);
    by_gs_indexed(b, RBX, RDX, 8, 0x1000);
}
static void sum(struct bench *b)
{
    look_at_sum(b, RBX, RDX, 8, 16);
    by_gs_indexed(b, RBX, RDX, 8, 16);
    add_imm(b, RDX, 0x100);
    by_gs_indexed(b, RBX, RDX, 8, 24);
}
static void far_displacement(struct bench *b)
{
    look_at_sum(b, RBX, NO_REG, 1, 0x70000000);
    by_gs(b, RBX, 0x70000000);
}
static void behind_a_branch(struct bench *b)
{
    look(b, RBX);
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    by_gs(b, RBX, 0);
    asm_land8(&b->a, skip);
    look(b, RBX);
    by_gs(b, RBX, 0);
}
static void host_address(struct bench *b)
{
    extend(b, RDX);
    look(b, RBX);
    base_on(b, R10, RBX);
    load(b, rm_based(R10, RDX, 8, 0x1000 - MMU_REGION_BIAS));
    add_imm(b, RBX, 8);
    base_on(b, R12, RBX);
    load(b, rm_based(R12, RDX, 8, 0x1000 - MMU_REGION_BIAS));
    load(b, rm_based(R10, NO_REG, 1, -MMU_REGION_BIAS));
}
static void entry_of_a_region_too(struct bench *b)
{
    look(b, RBX);
    bt_emit_region(&b->a, window_of(b)->regions, R11, RSI);
    load(b, rm_region(RSI, R11, -MMU_REGION_BIAS));
    by_gs(b, RBX, 0);
}

/* ---- what is not ---- */

static void no_look(struct bench *b)
{
    by_gs(b, RBX, 0);
}
static void number_only(struct bench *b)
{
    number_of(b, RBX);
    by_gs(b, RBX, 0);
}
static void another_register(struct bench *b)
{
    look(b, RBX);
    by_gs(b, RSI, 0);
}
static void beyond_reach(struct bench *b)
{
    look(b, RBX);
    for (unsigned i = 0; i < 31; i++) /* 62 GiB */
        add_imm(b, RBX, 0x7fffffff);
    by_gs(b, RBX, 0);
}
static void below_reach(struct bench *b)
{
    look(b, RBX);
    for (unsigned i = 0; i < 31; i++)
        add_imm(b, RBX, -0x7fffffff);
    by_gs(b, RBX, 0);
}
static void beyond_reach_by_displacement(struct bench *b)
{
    look(b, RBX);
    for (unsigned i = 0; i < 29; i++) /* 58 GiB, and nearly two more */
        add_imm(b, RBX, 0x7fffffff);
    add_imm(b, RBX, 0x7fffff00);
    by_gs(b, RBX, 0x7fffffff);
}
static void register_changed(struct bench *b)
{
    look(b, RBX);
    add_unknown(b, RBX);
    by_gs(b, RBX, 0);
}
static void register_loaded(struct bench *b)
{
    look(b, RBX);
    asm_op(&b->a, OP_MOV | OP_W, RBX, rm_parallel(RBX, NO_REG, 1, 0), 0);
    by_gs(b, RBX, 0);
}
static void low_part_changed(struct bench *b)
{
    look(b, RBX);
    asm_op(&b->a, OP_MOV8, RBX, rm_reg(RAX), 0);
    by_gs(b, RBX, 0);
}
static void half_copied(struct bench *b)
{
    look(b, RBX);
    asm_op(&b->a, OP_MOV, RSI, rm_reg(RBX), 0);
    by_gs(b, RSI, 0);
}
static void changed_between(struct bench *b)
{
    number_of(b, RBX);
    add_unknown(b, RBX);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void something_between(struct bench *b)
{
    number_of(b, RBX);
    add_unknown(b, RCX);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void number_changed(struct bench *b)
{
    number_of(b, RBX);
    add_imm(b, R11, 1);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void any_number(struct bench *b)
{
    copy(b, R11, RBX);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void number_by_another_count(struct bench *b)
{
    asm_shrx(&b->a, true, R11, RBX, RCX);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void number_of_half(struct bench *b)
{
    asm_shrx(&b->a, false, R11, RBX, R15);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void in_the_region_table(struct bench *b)
{
    number_of(b, RBX);
    look_in(b, window_of(b)->regions);
    by_gs(b, RBX, 0);
}
static void beside_the_table(struct bench *b)
{
    number_of(b, RBX);
    look_in(b, window_of(b)->parallel.table + 1);
    by_gs(b, RBX, 0);
}
static void entry_is_no_look(struct bench *b)
{
    bt_emit_region(&b->a, window_of(b)->regions, R11, RBX);
    by_gs(b, RBX, 0);
}
static void look_is_no_entry(struct bench *b)
{
    look(b, RBX);
    load(b, rm_region(RBX, R11, -MMU_REGION_BIAS));
}
static void whole_entry_of_the_table(struct bench *b)
{
    number_of(b, RBX);
    asm_op(&b->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, R11, 8, (int32_t)(intptr_t)window_of(b)->parallel.table), 0);
    load(b, rm_region(RBX, R11, -MMU_REGION_BIAS));
}
static void look_in_another_register(struct bench *b)
{
    asm_shrx(&b->a, true, R10, RBX, R15);
    asm_op(&b->a, OP_MOV, R10, rm_sib(NO_REG, R10, 8, (int32_t)(intptr_t)window_of(b)->parallel.table), 0);
    by_gs(b, RBX, 0);
}
static void writes_the_table(struct bench *b)
{
    number_of(b, RBX);
    asm_op(&b->a, OP_MOV_TO, R11, rm_sib(NO_REG, R11, 8, (int32_t)(intptr_t)window_of(b)->parallel.table), 0);
}
static void label_between(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    look(b, RBX);
    asm_land8(&b->a, skip);
    by_gs(b, RBX, 0);
}
static void label_in_the_look(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    number_of(b, RBX);
    asm_land8(&b->a, skip);
    look_at_number(b);
    by_gs(b, RBX, 0);
}
static void loop_changes_it(struct bench *b)
{
    look(b, RBX);
    uint8_t *again = b->a.p;
    by_gs(b, RBX, 0);
    add_unknown(b, RBX);
    asm_byte(&b->a, 0x75); /* jnz again */
    asm_byte(&b->a, (uint8_t)(again - (b->a.p + 1)));
}
static void behind_call(struct bench *b)
{
    look(b, RBX);
    call_slow(b);
    by_gs(b, RBX, 0);
}
static void narrow_address(struct bench *b)
{
    look(b, RBX);
    load(b, (struct rm){.kind = RM_MEM, .base = RBX, .index = NO_REG, .scale = 1, .gs = true});
}
static void absolute(struct bench *b)
{
    look(b, RBX);
    asm_byte(&b->a, 0x65);
    load(b, rm_sib(NO_REG, NO_REG, 1, 0x1000));
}
static void by_fs(struct bench *b)
{
    look(b, RBX);
    asm_byte(&b->a, 0x64);
    load(b, rm_mem(RBX, 0));
}
static void without_gs(struct bench *b)
{
    look(b, RBX);
    load(b, rm_mem(RBX, 0));
}
static void by_rsp(struct bench *b)
{
    look(b, RBX);
    by_gs(b, RSP, 0);
}
static void by_rsp_that_moved(struct bench *b)
{
    look(b, RSP);
    asm_op(&b->a, 0x29 | OP_W, RCX, rm_reg(RSP), 0);
    by_gs(b, RSP, 0);
}
static void by_r15(struct bench *b)
{
    look(b, RBX);
    by_gs_indexed(b, RBX, R15, 1, 0);
}
static void wide_index(struct bench *b)
{
    look(b, RBX);
    by_gs_indexed(b, RBX, RDX, 1, 0);
}
static void narrow_index_of_a_sum(struct bench *b)
{
    extend(b, RDX);
    look(b, RBX);
    for (unsigned i = 0; i < 20; i++) /* 40 GiB, and the index 32 */
        add_imm(b, RBX, 0x7fffffff);
    by_gs_indexed(b, RBX, RDX, 8, 0);
}
static void sum_by_another_scale(struct bench *b)
{
    look_at_sum(b, RBX, RDX, 8, 0);
    by_gs_indexed(b, RBX, RDX, 4, 0);
}
static void sum_of_another(struct bench *b)
{
    look_at_sum(b, RBX, RDX, 1, 0);
    by_gs_indexed(b, RSI, RDX, 1, 0);
}
static void part_of_a_sum(struct bench *b)
{
    look_at_sum(b, RBX, RDX, 1, 0);
    by_gs(b, RBX, 0);
}
static void host_without_look(struct bench *b)
{
    base_on(b, R10, RBX);
    load(b, rm_based(R10, NO_REG, 1, -MMU_REGION_BIAS));
}
static void host_of_another(struct bench *b)
{
    look(b, RSI);
    base_on(b, R10, RBX);
    load(b, rm_based(R10, NO_REG, 1, -MMU_REGION_BIAS));
}
static void host_looked_at_too_late(struct bench *b)
{
    base_on(b, R10, RBX);
    look(b, RBX);
    load(b, rm_based(R10, NO_REG, 1, -MMU_REGION_BIAS));
}
static void host_by_wide_index(struct bench *b)
{
    look(b, RBX);
    base_on(b, R10, RBX);
    load(b, rm_based(R10, RDX, 1, -MMU_REGION_BIAS));
}
static void host_by_gs(struct bench *b)
{
    look(b, RBX);
    base_on(b, R10, RBX);
    by_gs(b, R10, 0);
}
static void host_in_a_guest_register(struct bench *b)
{
    look(b, RBX);
    base_on(b, RCX, RBX);
    load(b, rm_based(RCX, NO_REG, 1, -MMU_REGION_BIAS));
}
static void host_behind_label(struct bench *b)
{
    uint8_t *skip = asm_jcc8(&b->a, CC_Z);
    look(b, RBX);
    base_on(b, R10, RBX);
    asm_land8(&b->a, skip);
    load(b, rm_based(R10, NO_REG, 1, -MMU_REGION_BIAS));
}
static void host_behind_call(struct bench *b)
{
    look(b, RBX);
    base_on(b, R10, RBX);
    call_slow(b);
    load(b, rm_based(R10, NO_REG, 1, -MMU_REGION_BIAS));
}
static void parallel_entry_as_index(struct bench *b)
{
    load_parallel_entry(b, R12);
    load(b, rm_region(RBX, R12, -MMU_REGION_BIAS));
}
static void parallel_entry_as_address(struct bench *b)
{
    load_parallel_entry(b, R10);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void another_entry(struct bench *b)
{
    look(b, RBX);
    asm_op(&b->a, OP_MOV | OP_W, R10, rm_at(&window_of(b)->parallel.distance[0]), 0);
    asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib(RBX, R10, 1, 0), 0);
    load(b, rm_based(R10, NO_REG, 1, 0));
}
static void by_r15_alone(struct bench *b)
{
    look(b, RBX);
    asm_op(&b->a, OP_MOV_TO | OP_W, RCX, rm_parallel(R15, NO_REG, 1, 0), 0);
}

/* ---- both ---- */

struct piece {
    const char *name;
    void (*emit)(struct bench *);
};
#define PIECE(name)                                                                                                    \
    {                                                                                                                  \
#name, name                                                                                                    \
    }

static void check(const struct piece *pieces, unsigned count, bool expected)
{
    struct bench b = {0};
    if (!open_bench(&b) || !window_of(&b)->parallel.table) {
        test_skip("no parallel regions here");
        close_bench(&b);
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        begin(&b);
        pieces[i].emit(&b);
        bool taken = good(&b);
        CU_ASSERT_EQUAL(taken, expected);
        if (taken != expected)
            printf("parallel: the verifier %s %s\n", taken ? "takes" : "refuses", pieces[i].name);
    }
    close_bench(&b);
}

static void verifier_takes(void)
{
    static const struct piece good_ones[] = {PIECE(plain),
                                             PIECE(the_first_of_many),
                                             PIECE(moved_a_little),
                                             PIECE(two_of_them),
                                             PIECE(narrow_index),
                                             PIECE(sum),
                                             PIECE(far_displacement),
                                             PIECE(behind_a_branch),
                                             PIECE(host_address),
                                             PIECE(entry_of_a_region_too)};
    check(good_ones, sizeof good_ones / sizeof good_ones[0], true);
}

static void verifier_refuses(void)
{
    static const struct piece bad_ones[] = {PIECE(no_look),
                                            PIECE(number_only),
                                            PIECE(another_register),
                                            PIECE(beyond_reach),
                                            PIECE(below_reach),
                                            PIECE(beyond_reach_by_displacement),
                                            PIECE(register_changed),
                                            PIECE(register_loaded),
                                            PIECE(low_part_changed),
                                            PIECE(half_copied),
                                            PIECE(changed_between),
                                            PIECE(something_between),
                                            PIECE(number_changed),
                                            PIECE(any_number),
                                            PIECE(number_by_another_count),
                                            PIECE(number_of_half),
                                            PIECE(in_the_region_table),
                                            PIECE(beside_the_table),
                                            PIECE(entry_is_no_look),
                                            PIECE(look_is_no_entry),
                                            PIECE(whole_entry_of_the_table),
                                            PIECE(look_in_another_register),
                                            PIECE(writes_the_table),
                                            PIECE(label_between),
                                            PIECE(label_in_the_look),
                                            PIECE(loop_changes_it),
                                            PIECE(behind_call),
                                            PIECE(narrow_address),
                                            PIECE(absolute),
                                            PIECE(by_fs),
                                            PIECE(without_gs),
                                            PIECE(by_rsp),
                                            PIECE(by_rsp_that_moved),
                                            PIECE(by_r15),
                                            PIECE(wide_index),
                                            PIECE(narrow_index_of_a_sum),
                                            PIECE(sum_by_another_scale),
                                            PIECE(sum_of_another),
                                            PIECE(part_of_a_sum),
                                            PIECE(host_without_look),
                                            PIECE(host_of_another),
                                            PIECE(host_looked_at_too_late),
                                            PIECE(host_by_wide_index),
                                            PIECE(host_by_gs),
                                            PIECE(host_in_a_guest_register),
                                            PIECE(host_behind_label),
                                            PIECE(host_behind_call),
                                            PIECE(parallel_entry_as_index),
                                            PIECE(parallel_entry_as_address),
                                            PIECE(another_entry),
                                            PIECE(by_r15_alone)};
    check(bad_ones, sizeof bad_ones / sizeof bad_ones[0], false);
}

TEST_SUITE(verify_parallel, {"the safe forms are taken", verifier_takes},
           {"and nothing that is nearly so", verifier_refuses})
