/* SPDX-License-Identifier: MIT */
/* Delivery of interrupts and exceptions in every mode, their frames and error codes, double and triple faults. */
#include "tests/cpu_world.h"
#include "tests/test.h"

enum { HANDLER = 0x31234 };

static uint64_t sp(const struct world *w)
{
    return w->cpu->gpr[GPR_SP];
}

static void same_level(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x80, CODE0, HANDLER, GATE_INT32);
    world_idt(w, 0x81, CODE0, HANDLER, GATE_TRAP32);
    cpu->rflags |= FLAG_IF | FLAG_TF | EFLAGS_NT | FLAG_CF;
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x80, false), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x800 - 12);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), AT_CODE + 2);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), CODE0);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 8, 4), 0x4303);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_CF | EFLAGS_FIXED);
    cpu->rflags |= FLAG_IF;
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x81, false), CPU_OK);
    CU_ASSERT_TRUE(cpu->rflags & FLAG_IF);
    world_destroy(w);
}

static void inner_level(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x80, CODE0, HANDLER, GATE_INT32 | DPL3);
    cpu->rflags |= FLAG_IF;
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x80, false), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, CODE0);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, DATA0);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x1000 - 20);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), CODE3);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 12, 4), AT_STACK3 + 0x800);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 16, 4), DATA3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].selector, DATA3); /* data segments stay */
    CU_ASSERT_EQUAL(cpu_iret(cpu, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(sp(w), AT_STACK3 + 0x800);
    CU_ASSERT_TRUE(cpu->rflags & FLAG_IF);
    world_destroy(w);
}

static void gate_errors(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x20, CODE0, HANDLER, GATE_INT32);
    ASSERT_FAULT(w, cpu_int(cpu, 0x20, false), VECTOR_GP, 0x20 * 8 + 2); /* DPL */
    world_idt(w, VECTOR_BP, CODE0, HANDLER, GATE_INT32);
    ASSERT_FAULT(w, cpu_int(cpu, VECTOR_BP, true), VECTOR_GP, VECTOR_BP * 8 + 2);
    world_idt(w, 0x21, CODE0, HANDLER, (GATE_INT32 | DPL3) & ~SEG_P);
    ASSERT_FAULT(w, cpu_int(cpu, 0x21, false), VECTOR_NP, 0x21 * 8 + 2);
    world_idt(w, 0x22, CODE0, HANDLER, GATE_CALL32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x22, false), VECTOR_GP, 0x22 * 8 + 2);
    cpu->idtr.limit = 0x23 * 8 + 6;
    ASSERT_FAULT(w, cpu_int(cpu, 0x23, false), VECTOR_GP, 0x23 * 8 + 2);
    cpu->idtr.limit = 0x7ff;
    world_idt(w, 0x24, 0, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x24, false), VECTOR_GP, 0);
    world_idt(w, 0x24, DATA0, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x24, false), VECTOR_GP, DATA0);
    world_idt(w, 0x24, ABSENT_CODE, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x24, false), VECTOR_NP, ABSENT_CODE);
    world_idt(w, 0x24, CODE16, 0x12345, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x24, false), VECTOR_GP, 0); /* beyond the limit */
    world_destroy(w);
}

static void new_stack_errors(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x80, CODE0, HANDLER, GATE_INT32 | DPL3);
    poke(w, AT_TSS + 8, 0, 4);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_TS, 0);
    poke(w, AT_TSS + 8, DATA3, 4);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_TS, DATA3 & ~3);
    poke(w, AT_TSS + 8, READ_ONLY, 4);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_TS, READ_ONLY);
    world_descriptor(w, AT_GDT + SPARE, 0, 0xfffff, ATTR_DATA32 & ~SEG_P);
    poke(w, AT_TSS + 8, SPARE, 4);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_SS, SPARE);
    world_descriptor(w, AT_GDT + SPARE, 0, 0xff, ATTR_DATA32 & ~SEG_G);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_SS, SPARE); /* no room */
    cpu->tr.limit = 8;
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_TS, TSS_A);
    world_destroy(w);
}

static void exception_frames(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    world_idt(w, VECTOR_GP, CODE0, HANDLER, GATE_INT32);
    world_idt(w, VECTOR_UD, CODE0, HANDLER, GATE_INT32);
    cpu_raise_fault_error(cpu, VECTOR_GP, 0x1234);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), 0x1234);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), AT_CODE);
    CU_ASSERT_TRUE(peek(w, sp(w) + 12, 4) & EFLAGS_RF);
    cpu->rip = 0x77;
    cpu_raise_fault(cpu, VECTOR_UD);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), 0x77);
    world_destroy(w);
}

static void gates_of_16_bits(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    world_idt(w, VECTOR_GP, CODE16, 0x5678, GATE_INT16);
    poke(w, AT_TSS + 4, 0x1000, 4);
    poke(w, AT_TSS + 8, STACK16, 4);
    cpu->gpr[GPR_SP] = 0x12345678;
    cpu_raise_fault_error(cpu, VECTOR_GP, 0x48);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, 0x5678);
    CU_ASSERT_EQUAL(sp(w), 0x1000 - 12);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + sp(w), 2), 0x48);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + sp(w) + 2, 2), AT_CODE & 0xffff);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + sp(w) + 4, 2), CODE3);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + sp(w) + 8, 2), 0x5678);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + sp(w) + 10, 2), DATA3);
    world_destroy(w);
}

static void double_and_triple_faults(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    world_idt(w, VECTOR_GP, DATA0, HANDLER, GATE_INT32); /* #GP while delivering #GP */
    world_idt(w, VECTOR_DF, CODE0, HANDLER, GATE_INT32);
    cpu_raise_fault_error(cpu, VECTOR_GP, 0x1234);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), 0);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), AT_CODE);
    /* benign first: the second is delivered as itself, with EXT set */
    world_idt(w, VECTOR_GP, CODE0, HANDLER + 8, GATE_INT32);
    world_idt(w, VECTOR_UD, DATA0, HANDLER, GATE_INT32);
    cpu_raise_fault(cpu, VECTOR_UD);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER + 8);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), DATA0 | 1);
    /* nobody handles the double fault */
    world_idt(w, VECTOR_DF, 0, 0, 0);
    world_idt(w, VECTOR_GP, 0, 0, 0);
    uint64_t rip = cpu->rip;
    cpu_raise_fault_error(cpu, VECTOR_GP, 0);
    cpu_deliver_fault(cpu);
    CU_ASSERT_TRUE(cpu->shutdown);
    CU_ASSERT_EQUAL(cpu->rip, rip);
    world_destroy(w);
}

static void page_fault_during_delivery(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    for (unsigned i = 0; i < 1024; i++)
        poke(w, AT_PAGES + 0x1000 + i * 4, i << 12 | 7, 4);
    poke(w, AT_PAGES, (AT_PAGES + 0x1000) | 7, 4);
    poke(w, AT_PAGES + 0x1000 + (AT_STACK0 >> 12) * 4, 0, 4);
    mmu_set_cr3(&cpu->mmu, AT_PAGES);
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0 | CR0_PG, 0, 0);
    world_idt(w, 0x80, CODE0, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_PF, 2); /* a supervisor write */
    CU_ASSERT_EQUAL(cpu->fault.cr2, AT_STACK0 + 0x1000 - 20);
    /* #PF during #GP is a #PF; that one cannot be delivered either: #DF by a task gate */
    world_idt(w, VECTOR_GP, CODE0, HANDLER, GATE_INT32);
    world_idt(w, VECTOR_PF, CODE0, HANDLER, GATE_INT32);
    world_idt(w, VECTOR_DF, TSS_B, 0, GATE_TASK);
    poke(w, AT_TSS_B + 28, AT_PAGES, 4);
    poke(w, AT_TSS_B + 32, 0x5555, 4);
    poke(w, AT_TSS_B + 56, AT_STACK1 + 0x100, 4);
    poke(w, AT_TSS_B + 76, CODE0, 2);
    poke(w, AT_TSS_B + 80, DATA0, 2);
    cpu_raise_fault_error(cpu, VECTOR_GP, 0);
    cpu_deliver_fault(cpu);
    CU_ASSERT_FALSE(cpu->shutdown);
    CU_ASSERT_EQUAL(cpu->rip, 0x5555);
    CU_ASSERT_EQUAL(cpu->tr.selector, TSS_B);
    CU_ASSERT_EQUAL(cpu->cr2, AT_STACK0 + 0x1000 - 24);
    CU_ASSERT_EQUAL(sp(w), AT_STACK1 + 0x100 - 4); /* error code 0 */
    CU_ASSERT_EQUAL(peek(w, AT_TSS + 32, 4), AT_CODE);
    world_destroy(w);
}

static void real_mode(void)
{
    struct world *w = world_real();
    struct cpu *cpu = w->cpu;
    poke(w, 0x21 * 4, 0x44440555, 4);
    cpu->rflags |= FLAG_IF | FLAG_TF | EFLAGS_AC;
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x21, false), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0x555);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].base, 0x44440);
    CU_ASSERT_EQUAL(sp(w), 0xabcd0800 - 6);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + 0x7fa, 2), 0x12);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + 0x7fc, 2), AT_CODE >> 4);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + 0x7fe, 2), 0x302);
    CU_ASSERT_EQUAL(cpu->rflags, EFLAGS_FIXED);
    cpu->rflags |= EFLAGS_NT;
    CU_ASSERT_EQUAL(cpu_iret(cpu, 2), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0x12);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, AT_CODE >> 4);
    CU_ASSERT_EQUAL(cpu->rflags, 0x302);
    /* error codes are not pushed; the stack pointer wraps between words but a word may not */
    poke(w, VECTOR_GP * 4, 0x10000666, 4);
    cpu->gpr[GPR_SP] = 4;
    cpu_raise_fault_error(cpu, VECTOR_GP, 0x77);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, 0x666);
    CU_ASSERT_EQUAL(sp(w), 0xfffe);
    CU_ASSERT_EQUAL(peek(w, AT_STACK0 + 0xfffe, 2), 0x12);
    cpu->gpr[GPR_SP] = 5;
    ASSERT_FAULT(w, cpu_int(cpu, 0x21, false), VECTOR_SS, 0);
    cpu->idtr.limit = 0x21 * 4 + 2;
    ASSERT_FAULT(w, cpu_int(cpu, 0x21, false), VECTOR_GP, 0x21 * 8 + 2);
    cpu->idtr.limit = 0;
    cpu_deliver_fault(cpu);
    CU_ASSERT_TRUE(cpu->shutdown);
    world_destroy(w);
}

static void v8086_to_monitor(void)
{
    struct world *w = world_v8086(3, false);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x21, CODE0, HANDLER, GATE_INT32 | DPL3);
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x21, false), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_FALSE(cpu->rflags & EFLAGS_VM);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x1000 - 36);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), 0x12);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), AT_CODE >> 4);
    CU_ASSERT_TRUE(peek(w, sp(w) + 8, 4) & EFLAGS_VM);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 12, 4), 0x800);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 16, 4), AT_STACK3 >> 4);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 20, 4), 0x2222);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 24, 4), 0x1111);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 28, 4), 0x3333);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 32, 4), 0x4444);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].selector, 0);
    CU_ASSERT_TRUE(cpu->seg[SEG_DS].attr & SEG_UNUSABLE);
    CU_ASSERT_EQUAL(cpu_iret(cpu, 4), CPU_OK);
    CU_ASSERT_TRUE(cpu->rflags & EFLAGS_VM);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(cpu->rip, 0x12);
    CU_ASSERT_EQUAL(sp(w), 0x800);
    CU_ASSERT_EQUAL(cpu->seg[SEG_GS].base, 0x44440);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].limit, 0xffff);
    world_idt(w, 0x22, CONFORMING, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x22, false), VECTOR_GP, CONFORMING);
    world_idt(w, 0x22, CODE1, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x22, false), VECTOR_GP, CODE1 & ~3);
    world_destroy(w);
    w = world_v8086(0, false);
    ASSERT_FAULT(w, cpu_int(w->cpu, 0x21, false), VECTOR_GP, 0);
    world_idt(w, VECTOR_BP, CODE0, HANDLER, GATE_INT32 | DPL3);
    CU_ASSERT_EQUAL(cpu_int(w->cpu, VECTOR_BP, true), CPU_OK); /* int3 does not look at IOPL */
    world_destroy(w);
}

static void vme_redirection(void)
{
    struct world *w = world_v8086(0, true);
    struct cpu *cpu = w->cpu;
    poke(w, 0x21 * 4, 0x44440555, 4);
    cpu->rflags |= EFLAGS_VIF;
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x21, false), CPU_OK); /* method 6 */
    CU_ASSERT_EQUAL(cpu->rip, 0x555);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].base, 0x44440);
    CU_ASSERT_FALSE(cpu->rflags & EFLAGS_VIF);
    CU_ASSERT_EQUAL(peek(w, AT_STACK3 + 0x7fe, 2), 0x3202); /* IOPL 3, IF from VIF */
    CU_ASSERT_EQUAL(cpu_iret(cpu, 2), CPU_OK);
    CU_ASSERT_TRUE(cpu->rflags & EFLAGS_VIF);
    CU_ASSERT_FALSE(cpu->rflags & EFLAGS_IOPL);
    poke(w, AT_TSS + 0x88 - 32 + 0x21 / 8, 1 << (0x21 & 7), 1);
    cpu->next_rip = cpu->rip + 2;
    ASSERT_FAULT(w, cpu_int(cpu, 0x21, false), VECTOR_GP, 0); /* method 4 */
    cpu->rflags |= EFLAGS_IOPL;
    world_idt(w, 0x21, CODE0, HANDLER, GATE_INT32 | DPL3);
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x21, false), CPU_OK); /* method 3 */
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    world_destroy(w);
    w = world_v8086(0, true);
    cpu = w->cpu;
    cpu->rflags |= EFLAGS_VIP;
    ASSERT_FAULT(w, cpu_sti(cpu), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_popf_value(cpu, 2, FLAG_IF), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_popf_value(cpu, 2, FLAG_TF), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(cpu_popf_value(cpu, 2, FLAG_CF), CPU_OK);
    ASSERT_FAULT(w, cpu_popf_value(cpu, 4, 0), VECTOR_GP, 0);
    world_destroy(w);
}

static void long_mode(void)
{
    struct world *w = world_long(3);
    struct cpu *cpu = w->cpu;
    uint64_t far_handler = 0xffffffff80001234;
    world_idt(w, 0x80, WIDE0, far_handler, GATE_INT32 | DPL3);
    CU_ASSERT_EQUAL(cpu_int(cpu, 0x80, false), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, far_handler);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x1000 - 40); /* aligned down to 16 */
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, 0);
    CU_ASSERT_EQUAL(peek(w, sp(w), 8), AT_CODE + 2);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 8, 8), WIDE3);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 24, 8), AT_STACK3 + 0x800);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 32, 8), DATA3);
    /* IST, and the same level pushes SS:RSP as well */
    world_idt(w, VECTOR_GP, WIDE0, HANDLER, GATE_INT32);
    poke(w, AT_IDT + VECTOR_GP * 16 + 4, 1, 1);
    uint64_t before = sp(w);
    cpu_raise_fault_error(cpu, VECTOR_GP, 0x99);
    cpu_deliver_fault(cpu);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER);
    CU_ASSERT_EQUAL(sp(w), AT_STACK1 + 0x1000 - 48);
    CU_ASSERT_EQUAL(peek(w, sp(w), 8), 0x99);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 32, 8), before);
    cpu->gpr[GPR_SP] += 8;
    CU_ASSERT_EQUAL(cpu_iret(cpu, 8), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, far_handler);
    CU_ASSERT_EQUAL(sp(w), before);
    CU_ASSERT_EQUAL(cpu_iret(cpu, 8), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(sp(w), AT_STACK3 + 0x800);
    world_destroy(w);
}

static void long_mode_errors(void)
{
    struct world *w = world_long(3);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x80, CODE0, HANDLER, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_GP, CODE0); /* not 64-bit code */
    world_idt(w, 0x80, WIDE0, 0x800000000000, GATE_INT32 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_GP, 0);
    world_idt(w, 0x80, WIDE0, HANDLER, GATE_INT16 | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_GP, 0x80 * 8 + 2);
    world_idt(w, 0x80, TSS_B, 0, GATE_TASK | DPL3);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_GP, 0x80 * 8 + 2);
    world_idt(w, 0x80, WIDE0, HANDLER, GATE_INT32 | DPL3);
    poke(w, AT_TSS + 4, 0x800000000000, 8);
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_SS, 0);
    cpu->tr.limit = 10;
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_TS, TSS_A);
    cpu->idtr.limit = 0x80 * 16 + 14;
    ASSERT_FAULT(w, cpu_int(cpu, 0x80, false), VECTOR_GP, 0x80 * 8 + 2);
    world_destroy(w);
}

static void pins(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    world_idt(w, 0x30, CODE0, HANDLER, GATE_INT32);
    world_idt(w, VECTOR_NMI, CODE0, HANDLER + 1, GATE_INT32);
    w->ack = 0x30;
    cpu_hlt(cpu);
    CU_ASSERT_TRUE(cpu->halted);
    cpu_raise(cpu, CPU_EVENT_INTR);
    CU_ASSERT_FALSE(cpu_has_work(cpu));
    CU_ASSERT_FALSE(cpu_take_interrupt(cpu)); /* IF clear */
    cpu->next_rip = cpu->rip;
    cpu_sti(cpu);
    CU_ASSERT_FALSE(cpu_take_interrupt(cpu)); /* the shadow of STI */
    CU_ASSERT_EQUAL(w->acks, 0);
    cpu->interrupt_shadow = false;
    CU_ASSERT_TRUE(cpu_has_work(cpu));
    CU_ASSERT_TRUE(cpu_take_interrupt(cpu));
    CU_ASSERT_FALSE(cpu->halted);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), AT_CODE + 2);
    CU_ASSERT_FALSE(peek(w, sp(w) + 8, 4) & EFLAGS_RF);
    cpu_raise(cpu, CPU_EVENT_NMI);
    CU_ASSERT_TRUE(cpu_take_interrupt(cpu));
    CU_ASSERT_EQUAL(cpu->rip, HANDLER + 1);
    cpu_raise(cpu, CPU_EVENT_NMI);
    CU_ASSERT_FALSE(cpu_take_interrupt(cpu)); /* blocked until IRET */
    CU_ASSERT_EQUAL(cpu_iret(cpu, 4), CPU_OK);
    CU_ASSERT_TRUE(cpu_take_interrupt(cpu));
    CU_ASSERT_EQUAL(cpu->rip, HANDLER + 1);
    w->ack = -1;
    cpu->rflags |= FLAG_IF;
    CU_ASSERT_FALSE(cpu_take_interrupt(cpu)); /* the request has gone away */
    /* an external interrupt that cannot be delivered: EXT is set, no double fault */
    w->ack = 0x31;
    world_idt(w, VECTOR_GP, CODE0, HANDLER + 2, GATE_INT32);
    CU_ASSERT_TRUE(cpu_take_interrupt(cpu));
    CU_ASSERT_EQUAL(cpu->rip, HANDLER + 2);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), 0x31 * 8 + 3);
    world_destroy(w);
}

static void debug_exceptions(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    uint64_t v;
    world_idt(w, VECTOR_DB, CODE0, HANDLER, GATE_INT32);
    cpu->rflags |= FLAG_TF;
    cpu->rip = 0x1111;
    cpu_deliver_debug_trap(cpu, 1 << 14);
    CU_ASSERT_EQUAL(cpu->rip, HANDLER);
    CU_ASSERT_EQUAL(cpu->dr[6], 0xffff4ff0);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), 0x1111);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 8, 4), 0x102); /* TF, no RF */
    CU_ASSERT_FALSE(cpu->rflags & FLAG_TF);
    cpu->dr[7] |= 1 << 13;
    ASSERT_FAULT(w, cpu_read_dr(cpu, 0, &v), VECTOR_DB, 0);
    cpu_deliver_fault(cpu);
    CU_ASSERT_TRUE(cpu->dr[6] & 1 << 13);
    CU_ASSERT_FALSE(cpu->dr[7] & 1 << 13);
    CU_ASSERT_TRUE(peek(w, sp(w) + 8, 4) & EFLAGS_RF);
    /* int1 pushes the next address and does not look at the gate's DPL */
    world_destroy(w);
    w = world_protected(3);
    world_idt(w, VECTOR_DB, CODE0, HANDLER, GATE_INT32);
    CU_ASSERT_EQUAL(cpu_int1(w->cpu), CPU_OK);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), AT_CODE + 2);
    world_destroy(w);
}

TEST_SUITE(cpu_interrupt, {"int n at the same level", same_level}, {"int n to an inner level and back", inner_level},
           {"error codes of bad gates", gate_errors}, {"error codes of bad inner stacks", new_stack_errors},
           {"exceptions push error code and RF", exception_frames}, {"16-bit gates", gates_of_16_bits},
           {"double and triple faults", double_and_triple_faults},
           {"page faults during delivery, #DF by task gate", page_fault_during_delivery}, {"real mode", real_mode},
           {"v8086 mode to its monitor and back", v8086_to_monitor},
           {"VME: redirection and virtual interrupts", vme_redirection}, {"64-bit gates, IST, iretq", long_mode},
           {"64-bit gates: error codes", long_mode_errors}, {"INTR, NMI, HLT and the shadow of STI", pins},
           {"debug exceptions", debug_exceptions})
