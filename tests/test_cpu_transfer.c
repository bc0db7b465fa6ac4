/* SPDX-License-Identifier: MIT */
/* Far jumps, calls, returns, call gates, IRET, fast system calls, task switches. */
#include "tests/cpu_world.h"
#include "tests/test.h"

enum { TARGET = 0x31234 };

static uint64_t sp(const struct world *w)
{
    return w->cpu->gpr[GPR_SP];
}

/* Puts values of size bytes on the stack, the last one on top. */
static void push(struct world *w, unsigned size, uint64_t value)
{
    w->cpu->gpr[GPR_SP] -= size;
    poke(w, w->cpu->seg[SEG_SS].base + sp(w), value, size);
}

static void far_jumps(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, CODE16, 0x11234, 2), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0x1234);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, CODE16);
    CU_ASSERT_FALSE(cpu->seg[SEG_CS].attr & SEG_DB);
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, CONFORMING, TARGET, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, CONFORMING);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, 0, 0, 4), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, CODE0 | 1, 0, 4), VECTOR_GP, CODE0);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, CODE3, 0, 4), VECTOR_GP, CODE3 & ~3);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, DATA0, 0, 4), VECTOR_GP, DATA0);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, ABSENT_CODE, 0, 4), VECTOR_NP, ABSENT_CODE);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, CODE16, 0x10000, 4), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, LDT_A, 0, 4), VECTOR_GP, LDT_A);
    world_destroy(w);
    w = world_protected(3);
    CU_ASSERT_EQUAL(cpu_far_jmp(w->cpu, CONFORMING, TARGET, 4), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->seg[SEG_CS].selector, CONFORMING | 3);
    CU_ASSERT_EQUAL(w->cpu->cpl, 3);
    world_destroy(w);
    w = world_real();
    CU_ASSERT_EQUAL(cpu_far_jmp(w->cpu, 0xf000, 0xfff0, 2), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->seg[SEG_CS].base, 0xf0000);
    ASSERT_FAULT(w, cpu_far_jmp(w->cpu, 0xf000, 0x10000, 4), VECTOR_GP, 0);
    world_destroy(w);
}

static void far_calls_and_returns(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    CU_ASSERT_EQUAL(cpu_far_call(cpu, CODE0, TARGET, 4), CPU_OK);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), AT_CODE + 2);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), CODE0);
    CU_ASSERT_EQUAL(cpu_far_ret(cpu, 4, 12), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x800 + 12);
    push(w, 4, 0);
    push(w, 4, 0x1234);
    ASSERT_FAULT(w, cpu_far_ret(cpu, 4, 0), VECTOR_GP, 0);
    poke(w, sp(w) + 4, DATA0, 4);
    ASSERT_FAULT(w, cpu_far_ret(cpu, 4, 0), VECTOR_GP, DATA0);
    poke(w, sp(w) + 4, ABSENT_CODE, 4);
    ASSERT_FAULT(w, cpu_far_ret(cpu, 4, 0), VECTOR_NP, ABSENT_CODE);
    poke(w, sp(w) + 4, CODE3 & ~3, 4);
    ASSERT_FAULT(w, cpu_far_ret(cpu, 4, 0), VECTOR_GP, CODE3 & ~3);
    cpu->seg[SEG_SS].limit = 0x10;
    ASSERT_FAULT(w, cpu_far_ret(cpu, 4, 0), VECTOR_SS, 0);
    ASSERT_FAULT(w, cpu_far_call(cpu, CODE0, TARGET, 4), VECTOR_SS, 0);
    world_destroy(w);
    w = world_real();
    CU_ASSERT_EQUAL(cpu_far_call(w->cpu, 0x1234, 0x5678, 2), CPU_OK);
    CU_ASSERT_EQUAL(sp(w), 0xabcd07fc);
    CU_ASSERT_EQUAL(cpu_far_ret(w->cpu, 2, 2), CPU_OK);
    CU_ASSERT_EQUAL(sp(w), 0xabcd0802);
    CU_ASSERT_EQUAL(w->cpu->rip, 0x12);
    world_destroy(w);
}

static void return_to_outer_level(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    cpu_load_segment(cpu, SEG_ES, DATA3);
    cpu_load_segment(cpu, SEG_FS, CONFORMING);
    push(w, 4, DATA3);
    push(w, 4, AT_STACK3 + 0x100);
    push(w, 4, 0xaaaa); /* a parameter */
    push(w, 4, CODE3);
    push(w, 4, TARGET);
    CU_ASSERT_EQUAL(cpu_far_ret(cpu, 4, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(cpu->rip, TARGET);
    CU_ASSERT_EQUAL(sp(w), AT_STACK3 + 0x104);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, DATA3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_ES].selector, DATA3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_FS].selector, CONFORMING);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].selector, 0); /* DPL 0 */
    CU_ASSERT_TRUE(cpu->seg[SEG_DS].attr & SEG_UNUSABLE);
    world_destroy(w);
    w = world_protected(0);
    push(w, 4, DATA0);
    push(w, 4, 0);
    push(w, 4, CODE3);
    push(w, 4, TARGET);
    ASSERT_FAULT(w, cpu_far_ret(w->cpu, 4, 0), VECTOR_GP, DATA0);
    poke(w, sp(w) + 12, 0, 4);
    ASSERT_FAULT(w, cpu_far_ret(w->cpu, 4, 0), VECTOR_GP, 0);
    poke(w, sp(w) + 12, ABSENT | 3, 4);
    ASSERT_FAULT(w, cpu_far_ret(w->cpu, 4, 0), VECTOR_SS, ABSENT);
    world_destroy(w);
}

static void call_gates(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    world_gate(w, AT_GDT + CALL_GATE, CODE0, TARGET, GATE_CALL32 | DPL3, 2);
    push(w, 4, 0x2222);
    push(w, 4, 0x1111);
    CU_ASSERT_EQUAL(cpu_far_call(cpu, CALL_GATE | 3, 0xdead, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_EQUAL(cpu->rip, TARGET);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, CODE0);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x1000 - 24);
    CU_ASSERT_EQUAL(peek(w, sp(w), 4), AT_CODE + 2);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 4, 4), CODE3);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 8, 4), 0x1111);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 12, 4), 0x2222);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 16, 4), AT_STACK3 + 0x800 - 8);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 20, 4), DATA3);
    CU_ASSERT_EQUAL(cpu_far_ret(cpu, 4, 8), CPU_OK);
    CU_ASSERT_EQUAL(sp(w), AT_STACK3 + 0x800);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, CALL_GATE | 3, 0, 4), VECTOR_GP, CODE0); /* jmp may not change the level */
    world_gate(w, AT_GDT + CALL_GATE, CONFORMING, TARGET, GATE_CALL16 | DPL3, 0);
    CU_ASSERT_EQUAL(cpu_far_call(cpu, CALL_GATE | 3, 0, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, TARGET & 0xffff);
    CU_ASSERT_EQUAL(sp(w), AT_STACK3 + 0x800 - 4);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    world_gate(w, AT_GDT + CALL_GATE, CODE0, TARGET, GATE_CALL32, 0);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 4), VECTOR_GP, CALL_GATE);
    world_gate(w, AT_GDT + CALL_GATE, CODE0, TARGET, (GATE_CALL32 | DPL3) & ~SEG_P, 0);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 4), VECTOR_NP, CALL_GATE);
    world_gate(w, AT_GDT + CALL_GATE, 0, TARGET, GATE_CALL32 | DPL3, 0);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 4), VECTOR_GP, 0);
    world_gate(w, AT_GDT + CALL_GATE, ABSENT_CODE, TARGET, GATE_CALL32 | DPL3, 0);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 4), VECTOR_NP, ABSENT_CODE);
    world_gate(w, AT_GDT + CALL_GATE, CODE0, TARGET, GATE_CALL32 | DPL3, 0);
    poke(w, AT_TSS + 8, DATA3, 4);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 4), VECTOR_TS, DATA3 & ~3);
    cpu->tr.limit = 4;
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 4), VECTOR_TS, TSS_A);
    world_destroy(w);
}

static void long_mode_transfers(void)
{
    struct world *w = world_long(3);
    struct cpu *cpu = w->cpu;
    world_gate(w, AT_GDT + CALL_GATE, WIDE0, TARGET, GATE_CALL32 | DPL3, 0);
    poke(w, AT_GDT + CALL_GATE + 8, 0xffffffff, 8);
    CU_ASSERT_EQUAL(cpu_far_call(cpu, CALL_GATE, 0, 8), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0xffffffff00031234);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x1008 - 32);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, 0);
    CU_ASSERT_EQUAL(peek(w, sp(w) + 24, 8), DATA3);
    CU_ASSERT_EQUAL(cpu_far_ret(cpu, 8, 0), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(sp(w), AT_STACK3 + 0x800);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, TSS_B, 0, 8), VECTOR_GP, TSS_B);
    world_gate(w, AT_GDT + CALL_GATE, CODE0, TARGET, GATE_CALL32 | DPL3, 0);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 8), VECTOR_GP, CODE0);
    poke(w, AT_GDT + CALL_GATE + 8, 0x1f00ull << 32, 8);
    ASSERT_FAULT(w, cpu_far_call(cpu, CALL_GATE, 0, 8), VECTOR_GP, CALL_GATE);
    /* to compatibility mode and back */
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, CODE3, TARGET, 4), CPU_OK);
    CU_ASSERT_FALSE(cpu_code64(cpu));
    CU_ASSERT_EQUAL(cpu_stack_mask(cpu), 0xffffffff);
    CU_ASSERT_EQUAL(cpu_far_jmp(cpu, WIDE3, TARGET, 4), CPU_OK);
    CU_ASSERT_TRUE(cpu_code64(cpu));
    ASSERT_FAULT(w, cpu_far_jmp(cpu, WIDE3, 0x800000000000, 8), VECTOR_GP, 0);
    world_descriptor(w, AT_GDT + SPARE, 0, 0xfffff, ATTR_CODE64 | SEG_DB | DPL3);
    ASSERT_FAULT(w, cpu_far_jmp(cpu, SPARE | 3, 0, 8), VECTOR_GP, SPARE);
    world_destroy(w);
}

static void iret_forms(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    push(w, 4, FLAG_IF | FLAG_CF | EFLAGS_AC | EFLAGS_ID | 1 << EFLAGS_IOPL_SHIFT | 1 << 15 | 1 << 3);
    push(w, 4, CODE0);
    push(w, 4, TARGET);
    CU_ASSERT_EQUAL(cpu_iret(cpu, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, TARGET);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_IF | FLAG_CF | EFLAGS_AC | EFLAGS_ID | 1 << EFLAGS_IOPL_SHIFT | EFLAGS_FIXED);
    CU_ASSERT_EQUAL(sp(w), AT_STACK0 + 0x800);
    push(w, 2, FLAG_ZF);
    push(w, 2, CODE0);
    push(w, 2, 0x5678);
    CU_ASSERT_EQUAL(cpu_iret(cpu, 2), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0x5678);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_ZF | EFLAGS_AC | EFLAGS_ID | EFLAGS_FIXED);
    world_destroy(w);
    /* CPL 3 changes neither IF nor IOPL; the same level does not load SS */
    w = world_protected(3);
    w->cpu->rflags |= FLAG_IF;
    push(w, 4, EFLAGS_IOPL | EFLAGS_VM);
    push(w, 4, CODE3);
    push(w, 4, TARGET);
    CU_ASSERT_EQUAL(cpu_iret(w->cpu, 4), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->rflags, FLAG_IF | EFLAGS_FIXED);
    world_destroy(w);
    /* a 16-bit stack outside keeps the upper half of ESP */
    w = world_protected(0);
    world_descriptor(w, AT_GDT + SPARE, AT_STACK3, 0xffff, (ATTR_DATA32 | DPL3) & ~SEG_G & ~SEG_DB);
    push(w, 4, SPARE | 3);
    push(w, 4, 0x12345678);
    push(w, 4, FLAG_IF);
    push(w, 4, CODE3);
    push(w, 4, TARGET);
    CU_ASSERT_EQUAL(cpu_iret(w->cpu, 4), CPU_OK);
    CU_ASSERT_EQUAL(sp(w), (AT_STACK0 & 0xffff0000) | 0x5678);
    CU_ASSERT_TRUE(w->cpu->rflags & FLAG_IF);
    world_destroy(w);
    /* v8086 mode without the right */
    w = world_v8086(0, false);
    ASSERT_FAULT(w, cpu_iret(w->cpu, 2), VECTOR_GP, 0);
    world_destroy(w);
    /* IOPL 3: IOPL itself stays */
    w = world_v8086(3, false);
    push(w, 2, FLAG_IF);
    push(w, 2, 0x1000);
    push(w, 2, 0x22);
    w->cpu->gpr[GPR_SP] &= 0xffff;
    CU_ASSERT_EQUAL(cpu_iret(w->cpu, 2), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->rflags, FLAG_IF | EFLAGS_IOPL | EFLAGS_VM | EFLAGS_FIXED);
    CU_ASSERT_EQUAL(w->cpu->seg[SEG_CS].base, 0x10000);
    world_destroy(w);
    w = world_long(0);
    w->cpu->rflags |= EFLAGS_NT;
    ASSERT_FAULT(w, cpu_iret(w->cpu, 8), VECTOR_GP, 0);
    world_destroy(w);
}

static void fast_system_calls(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    ASSERT_FAULT(w, cpu_sysenter(cpu), VECTOR_GP, 0);
    cpu->msr.sysenter_cs = CODE0;
    cpu->msr.sysenter_esp = 0x7777;
    cpu->msr.sysenter_eip = TARGET;
    cpu->rflags |= FLAG_IF;
    CU_ASSERT_EQUAL(cpu_sysenter(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_EQUAL(cpu->rip, TARGET);
    CU_ASSERT_EQUAL(sp(w), 0x7777);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, CODE0 + 8);
    CU_ASSERT_FALSE(cpu->rflags & FLAG_IF);
    cpu->gpr[GPR_CX] = 0x8888;
    cpu->gpr[GPR_DX] = 0x9999;
    CU_ASSERT_EQUAL(cpu_sysexit(cpu, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->cpl, 3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, (CODE0 + 16) | 3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, (CODE0 + 24) | 3);
    CU_ASSERT_EQUAL(cpu->rip, 0x9999);
    ASSERT_FAULT(w, cpu_sysexit(cpu, 4), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_syscall(cpu), VECTOR_UD, 0);
    ASSERT_FAULT(w, cpu_swapgs(cpu), VECTOR_UD, 0);
    world_destroy(w);
}

static void syscall_in_long_mode(void)
{
    struct world *w = world_long(3);
    struct cpu *cpu = w->cpu;
    cpu->msr.star = (uint64_t)0x1b << 48 | (uint64_t)0x08 << 32;
    cpu->msr.lstar = 0xffffffff81000000;
    cpu->msr.sfmask = FLAG_IF | FLAG_TF;
    cpu->rflags |= FLAG_IF | FLAG_CF;
    CU_ASSERT_EQUAL(cpu_syscall(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, 0xffffffff81000000);
    CU_ASSERT_EQUAL(cpu->gpr[GPR_CX], AT_CODE + 2);
    CU_ASSERT_EQUAL(cpu->gpr[11], FLAG_IF | FLAG_CF | EFLAGS_FIXED);
    CU_ASSERT_EQUAL(cpu->rflags, FLAG_CF | EFLAGS_FIXED);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    CU_ASSERT_TRUE(cpu_code64(cpu));
    cpu->seg[SEG_GS].base = 0x1000;
    cpu->msr.kernel_gs_base = 0x2000;
    cpu->next_rip = cpu->rip + 3;
    CU_ASSERT_EQUAL(cpu_swapgs(cpu), CPU_OK);
    CU_ASSERT_EQUAL(cpu->seg[SEG_GS].base, 0x2000);
    CU_ASSERT_EQUAL(cpu->msr.kernel_gs_base, 0x1000);
    CU_ASSERT_EQUAL(cpu_sysret(cpu, 8), CPU_OK);
    CU_ASSERT_EQUAL(cpu->seg[SEG_CS].selector, 0x2b);
    CU_ASSERT_EQUAL(cpu->seg[SEG_SS].selector, 0x23);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_TRUE(cpu->rflags & FLAG_IF);
    ASSERT_FAULT(w, cpu_sysret(cpu, 8), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_swapgs(cpu), VECTOR_GP, 0);
    world_destroy(w);
    w = world_long(0);
    w->cpu->gpr[GPR_CX] = 0x800000000000;
    ASSERT_FAULT(w, cpu_sysret(w->cpu, 8), VECTOR_GP, 0);
    world_destroy(w);
}

TEST_SUITE(cpu_transfer, {"far jumps", far_jumps}, {"far calls and returns", far_calls_and_returns},
           {"return to an outer level", return_to_outer_level}, {"call gates, 16 and 32 bits", call_gates},
           {"call gates and jumps in long mode", long_mode_transfers}, {"iret", iret_forms},
           {"sysenter and sysexit", fast_system_calls}, {"syscall, sysret, swapgs", syscall_in_long_mode})
