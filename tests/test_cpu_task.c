/* SPDX-License-Identifier: MIT */
/* Task switches. */
#include "tests/cpu_world.h"
#include "tests/test.h"

enum { NEW_IP = 0x31234 };

/* Task B, 32 bits: level 0 on the level 0 stack. */
static void make_task_b(struct world *w)
{
    poke(w, AT_TSS_B + 28, 0, 4);
    poke(w, AT_TSS_B + 32, NEW_IP, 4);
    poke(w, AT_TSS_B + 36, FLAG_CF | EFLAGS_FIXED, 4);
    for (unsigned i = 0; i < 8; i++)
        poke(w, AT_TSS_B + 40 + i * 4, 0x1000 + i, 4);
    poke(w, AT_TSS_B + 56, AT_STACK0 + 0x400, 4);
    poke(w, AT_TSS_B + 72, DATA0, 4);
    poke(w, AT_TSS_B + 76, CODE0, 4);
    poke(w, AT_TSS_B + 80, DATA0, 4);
    poke(w, AT_TSS_B + 84, DATA3, 4);
    poke(w, AT_TSS_B + 88, 0, 4);
    poke(w, AT_TSS_B + 92, 0, 4);
    poke(w, AT_TSS_B + 96, LDT_A, 4);
    poke(w, AT_TSS_B + 100, 0, 2);
}

static unsigned type_of(struct world *w, uint16_t selector)
{
    return peek(w, AT_GDT + selector + 5, 1) & 15;
}

static void jump_to_tss(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    make_task_b(w);
    cpu->gpr[GPR_AX] = 0xaaaa5555;
    cpu->dr[7] |= 0x3;
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, TSS_B, 0, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, NEW_IP);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_CX], 0x1001);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_SP], AT_STACK0 + 0x400);
    CU_ASSERT_EQUAL(cpu->tr.selector, TSS_B);
    CU_ASSERT_EQUAL(cpu->ldtr.base, AT_LDT);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].selector, DATA3);
    CU_ASSERT_TRUE(cpu->seg[SEG_FS].attr & SEG_UNUSABLE);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_CF | EFLAGS_FIXED);
    CU_ASSERT_TRUE(cpu->mmu.cr0 & CR0_TS);
    CU_ASSERT_EQUAL(cpu->dr[7] & 3, 2); /* L0 off, G0 stays */
    CU_ASSERT_EQUAL(type_of(w, TSS_A), 9);
    CU_ASSERT_EQUAL(type_of(w, TSS_B), 11);
    CU_ASSERT_EQUAL(peek(w, AT_TSS + 32, 4), AT_CODE + 2);
    CU_ASSERT_EQUAL(peek(w, AT_TSS + 40, 4), 0xaaaa5555);
    CU_ASSERT_EQUAL(peek(w, AT_TSS + 76, 2), CODE0);
    CU_ASSERT_EQUAL(peek(w, AT_TSS_B, 2), 0); /* no link */
    cpu->next_rip = cpu->rip + 2;
    ASSERT_FAULT(w, cpu_far_jmp(cpu, TSS_B, 0, 4), VECTOR_GP, TSS_B); /* busy */
    world_destroy(w);
}

static void call_and_return(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    make_task_b(w);
    CU_ASSERT_EQUAL(cpu_far_call(cpu, TSS_B, 0, 4), CPU_OK);
    CU_ASSERT_TRUE(cpu->rflags & EFLAGS_NT);
    CU_ASSERT_EQUAL(peek(w, AT_TSS_B, 2), TSS_A);
    CU_ASSERT_EQUAL(type_of(w, TSS_A), 11);
    CU_ASSERT_EQUAL(type_of(w, TSS_B), 11);
    cpu->next_rip = NEW_IP + 1;
    poke(w, AT_TSS_B, TSS_16, 2); /* not busy */
    ASSERT_FAULT(w, cpu_iret(cpu, 4), VECTOR_TS, TSS_16);
    poke(w, AT_TSS_B, TSS_A, 2);
    CU_ASSERT_EQUAL(cpu_iret(cpu, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(cpu->tr.selector, TSS_A);
    CU_ASSERT_EQUAL(type_of(w, TSS_A), 11);
    CU_ASSERT_EQUAL(type_of(w, TSS_B), 9);
    CU_ASSERT_EQUAL(peek(w, AT_TSS_B + 32, 4), NEW_IP + 1);
    CU_ASSERT_FALSE(peek(w, AT_TSS_B + 36, 4) & EFLAGS_NT);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_SP], AT_STACK0 + 0x800);
    world_destroy(w);
}

static void gate_from_user_with_error_code(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    make_task_b(w);
    world_idt(w, VECTOR_GP, TSS_B, 0, GATE_TASK);
    cpu_raise_fault_error(cpu, VECTOR_GP, 0x1230);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, NEW_IP);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_SP], AT_STACK0 + 0x400 - 4);
    CU_ASSERT_EQUAL(peek(w, cpu->gpr[GPR_SP], 4), 0x1230);
    CU_ASSERT_EQUAL(peek(w, AT_TSS + 32, 4), AT_CODE);
    CU_ASSERT_TRUE(peek(w, AT_TSS + 36, 4) & EFLAGS_RF);
    CU_ASSERT_TRUE(cpu->rflags & EFLAGS_NT);
    world_destroy(w);
    w = world_protected(3);
    world_gate(w, AT_GDT + TASK_GATE, TSS_A, 0, GATE_TASK | DPL3, 0);
    ASSERT_FAULT(w, cpu_far_call(w->cpu, TASK_GATE | 3, 0, 4), VECTOR_GP, TSS_A); /* busy */
    world_gate(w, AT_GDT + TASK_GATE, CODE0, 0, GATE_TASK | DPL3, 0);
    ASSERT_FAULT(w, cpu_far_call(w->cpu, TASK_GATE | 3, 0, 4), VECTOR_GP, CODE0);
    ASSERT_FAULT(w, cpu_far_jmp(w->cpu, TSS_B, 0, 4), VECTOR_GP, TSS_B); /* DPL 0 */
    world_gate(w, AT_GDT + TASK_GATE, TSS_B, 0, GATE_TASK | DPL3, 0);
    make_task_b(w);
    CU_ASSERT_EQUAL(cpu_far_call(w->cpu, TASK_GATE | 3, 0, 4), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->cpl, 0);
    world_destroy(w);
}

static void task_of_16_bits(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    poke(w, AT_TSS_16 + 14, 0x2345, 2);
    poke(w, AT_TSS_16 + 16, FLAG_ZF | 2, 2);
    poke(w, AT_TSS_16 + 18, 0x77, 2);
    poke(w, AT_TSS_16 + 26, 0x600, 2);
    poke(w, AT_TSS_16 + 34, DATA0, 2);
    poke(w, AT_TSS_16 + 36, CODE16, 2);
    poke(w, AT_TSS_16 + 38, STACK16, 2);
    poke(w, AT_TSS_16 + 40, DATA0, 2);
    CU_ASSERT_EQUAL(cpu_far_call(cpu, TSS_16, 0, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0x2345);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_AX] & 0xffff, 0x77);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_SP] & 0xffff, 0x600);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, STACK16);
    CU_ASSERT_EQUAL(type_of(w, TSS_16), 3);
    cpu->next_rip = 0x2346;
    CU_ASSERT_EQUAL(cpu_iret(cpu, 2), CPU_OK);
    CU_ASSERT_EQUAL(peek(w, AT_TSS_16 + 14, 2), 0x2346);
    CU_ASSERT_EQUAL(peek(w, AT_TSS_16 + 42, 2), 0); /* the LDT is not saved */
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(type_of(w, TSS_16), 1);
    world_destroy(w);
}

static void faults_of_the_old_task(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    make_task_b(w);
    world_descriptor(w, AT_GDT + TSS_B, AT_TSS_B, 0x66, SEG_P | 9);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, TSS_B, 0, 4), VECTOR_TS, TSS_B);
    world_descriptor(w, AT_GDT + TSS_B, AT_TSS_B, 0x67, 9);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, TSS_B, 0, 4), VECTOR_NP, TSS_B);
    CU_ASSERT_EQUAL(type_of(w, TSS_A), 11);
    CU_ASSERT_EQUAL(peek(w, AT_TSS + 32, 4), 0);
    world_destroy(w);
}

/* What is wrong with the new task is reported in the new task. */
static void new_task_fault(unsigned offset, uint16_t selector, unsigned vector, uint32_t error)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    make_task_b(w);
    poke(w, AT_TSS_B + offset, selector, 2);
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, TSS_B, 0, 4), CPU_FAULT);
    CU_ASSERT_EQUAL(cpu->fault.vector, vector);
    CU_ASSERT_EQUAL(cpu->fault.error, error);
    CU_ASSERT_EQUAL(cpu->tr.selector, TSS_B);
    CU_ASSERT_EQUAL(cpu->rip, NEW_IP);
    world_destroy(w);
}

static void faults_of_the_new_task(void)
{
    new_task_fault(76, 0, VECTOR_TS, 0);
    new_task_fault(76, DATA0, VECTOR_TS, DATA0);
    new_task_fault(76, CODE3 & ~3, VECTOR_TS, CODE3 & ~3);
    new_task_fault(76, ABSENT_CODE, VECTOR_NP, ABSENT_CODE);
    new_task_fault(80, 0, VECTOR_TS, 0);
    new_task_fault(80, DATA3, VECTOR_TS, DATA3 & ~3);
    new_task_fault(84, EXECUTE_ONLY, VECTOR_TS, EXECUTE_ONLY);
    new_task_fault(84, ABSENT, VECTOR_NP, ABSENT);
    new_task_fault(96, TSS_A, VECTOR_TS, TSS_A);
    new_task_fault(96, LDT_A | 4, VECTOR_TS, LDT_A | 4);
}

static void to_a_v8086_task_and_trap(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    make_task_b(w);
    poke(w, AT_TSS_B + 32, 0x100, 4);
    poke(w, AT_TSS_B + 36, EFLAGS_VM | EFLAGS_FIXED, 4);
    poke(w, AT_TSS_B + 76, 0x3000, 2);
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, TSS_B, 0, 4), CPU_OK);
    CU_ASSERT_TRUE(cpu_v8086(cpu));
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].base, 0x30000);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].limit, 0xffff);
    world_destroy(w);
    w = world_protected(0);
    make_task_b(w);
    poke(w, AT_TSS_B + 100, 1, 2);
    world_idt(w, VECTOR_DB, CODE0, 0x7777, GATE_INT32);
    CU_ASSERT_EQUAL(cpu_far_jmp(w->cpu, TSS_B, 0, 4), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->rip, 0x7777);
    CU_ASSERT_TRUE(w->cpu->dr[6] & 1 << 15);
    CU_ASSERT_EQUAL(peek(w, w->cpu->gpr[GPR_SP], 4), NEW_IP);
    world_destroy(w);
}

TEST_SUITE(cpu_task, {"jmp to a TSS", jump_to_tss}, {"call and iret: link, NT, busy", call_and_return},
           {"task gates, error code on the new stack", gate_from_user_with_error_code}, {"16-bit TSS", task_of_16_bits},
           {"faults that belong to the old task", faults_of_the_old_task},
           {"faults that belong to the new task", faults_of_the_new_task},
           {"v8086 task, T bit", to_a_v8086_task_and_trap})
