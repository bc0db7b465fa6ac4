/* SPDX-License-Identifier: MIT */
/* Compatibility mode and the ways between code segments of different width: far jumps, calls and returns, call gates,
 * interrupts out of 32-bit code, a way out of long mode and back. SDM vol. 3, 5.8.3.1, 9.8.5. */
#include "lib64/guest.h"

extern char gate_target[], compat_ring3[], compat_far_user[], compat_16[];
extern uint64_t compat_seen[8];

__asm__(".bss\n .balign 8\n .globl compat_seen\n compat_seen: .skip 64\n .text\n"
        /* In ring 3, 32-bit: what 64-bit mode does not know works here. */
        ".code32\n"
        "compat_ring3:\n"
        "mov $0x80000000, %eax\n"
        "add %eax, %eax\n" /* 32-bit flags: CF, ZF, OF */
        "pushf\n pop compat_seen\n"
        "mov $0x7fffffff, %eax\n inc %eax\n" /* 40 */
        "mov %eax, compat_seen + 8\n"
        "mov $0x15, %al\n mov $0x27, %cl\n add %cl, %al\n daa\n"
        "movzbl %al, %eax\n mov %eax, compat_seen + 16\n"
        "mov %esp, %ecx\n pusha\n sub %esp, %ecx\n add $32, %esp\n mov %ecx, compat_seen + 24\n"
        "push %ds\n pop %eax\n mov %eax, compat_seen + 32\n"
        /* an offset that wraps at 4 GiB */
        "mov $compat_seen + 4, %ebx\n mov -4(%ebx), %edx\n mov %edx, compat_seen + 40\n"
        "push $0x1234\n pop %edx\n mov %edx, compat_seen + 48\n"
        "int $0x80\n"
        /* Ring 3, 64-bit -> 32-bit -> 64-bit by far transfers. */
        ".code64\n"
        "compat_far_user:\n"
        "mov $0xfedcba9876543210, %r15\n"
        "mov $0x1111111122222222, %rbx\n"
        "pushq $0x1b\n pushq $1f\n lretq\n"
        ".code32\n"
        "1: mov %cs, %eax\n mov %eax, compat_seen\n"
        "inc %ebx\n" /* clears the upper half */
        "ljmp $0x2b, $2f\n"
        ".code64\n"
        "2: mov %cs, %eax\n mov %rax, compat_seen + 8\n"
        "mov %r15, compat_seen + 16\n"
        "mov %rbx, compat_seen + 24\n"
        "int $0x80\n"
        /* 16-bit code under long mode. */
        ".code16\n"
        "compat_16:\n"
        "mov $0x1234, %ax\n push %ax\n pop %bx\n int $0x80\n"
        ".code64\n"
        /* Targets of call gates. */
        "gate_target:\n"
        "mov %rsp, compat_seen\n"
        "mov %cs, %eax\n mov %rax, compat_seen + 8\n"
        "mov %ss, %eax\n mov %rax, compat_seen + 16\n"
        "mov 0(%rsp), %rax\n mov %rax, compat_seen + 24\n"
        "mov 8(%rsp), %rax\n mov %rax, compat_seen + 32\n"
        "mov 16(%rsp), %rax\n mov %rax, compat_seen + 40\n"
        "mov 24(%rsp), %rax\n mov %rax, compat_seen + 48\n"
        "lretq\n");

static struct {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed)) far32;
static struct {
    uint64_t offset;
    uint16_t selector;
} __attribute__((packed)) far64;

static void call_far(void *arg)
{
    __asm__ volatile(AT_HERE "lcall *%0" ::"m"(far32) : "rax", "memory");
}
static void call_far_wide(void *arg)
{
    __asm__ volatile("movq $772f, trap_expected_rip\n772: rex.w lcall *%0" ::"m"(far64) : "rax", "memory");
}
static void jump_far(void *arg)
{
    __asm__ volatile(AT_HERE "ljmp *%0" ::"m"(far32) : "rax", "memory");
}

/* Down to 32-bit ring 0 code and back, with what a far call pushes there. */
static void __attribute__((naked)) kernel_compat(void *arg)
{
    __asm__("push %rbx\n"
            "push $0x40\n push $1f\n lretq\n"
            ".code32\n"
            "1: mov %cs, %eax\n mov %eax, compat_seen\n"
            "mov %esp, %ecx\n"
            "push $0x1234\n sub %esp, %ecx\n mov %ecx, compat_seen + 8\n pop %ecx\n"
            "mov %cr0, %eax\n mov %eax, compat_seen + 16\n"
            "int $0x42\n"
            "mov %ecx, compat_seen + 24\n"
            "ljmp $0x08, $2f\n"
            ".code64\n"
            "2: pop %rbx\n ret\n");
}

/* Out of long mode to 32-bit protected mode without paging, and back. */
static void __attribute__((naked)) leave_and_return(void *arg)
{
    __asm__("push %rbx\n"
            "sidt leave_idt\n"
            "mov %rsp, compat_seen + 56\n"
            "push $0x40\n push $1f\n lretq\n"
            ".code32\n"
            "1: mov %cr0, %eax\n and $0x7fffffff, %eax\n mov %eax, %cr0\n"
            "mov $0xc0000080, %ecx\n rdmsr\n mov %eax, compat_seen\n"
            "and $~0x100, %eax\n wrmsr\n"
            "mov $0x7fffffff, %eax\n inc %eax\n mov %eax, compat_seen + 8\n"
            "mov %cr4, %eax\n and $~0x20, %eax\n mov %eax, %cr4\n" /* PAE off: fine without paging */
            "or $0x20, %eax\n mov %eax, %cr4\n"
            "mov $start_pml4, %eax\n mov %eax, %cr3\n"
            "mov $0xc0000080, %ecx\n rdmsr\n or $0x100, %eax\n wrmsr\n"
            "rdmsr\n mov %eax, compat_seen + 16\n"
            "mov %cr0, %eax\n or $0x80000000, %eax\n mov %eax, %cr0\n"
            "rdmsr\n mov %eax, compat_seen + 24\n"
            "mov %cs, %eax\n mov %eax, compat_seen + 32\n"
            "ljmp $0x08, $2f\n"
            ".code64\n"
            "2: mov compat_seen + 56, %rsp\n pop %rbx\n ret\n"
            ".data\n leave_idt: .skip 10\n .text\n");
}

static struct trap seen;
static bool note(struct trap *frame)
{
    seen = *frame;
    frame->rcx = 0x11223344aabbccdd;
    return true;
}

/* With a DS that ring 3 keeps: 64-bit code does not need one, 32-bit code does. */
static int user_frame_call(const struct trap *frame)
{
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_USER_DATA));
    int got = frame_call(frame);
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" ::"r"(SEL_DATA));
    return got;
}

static void ring3(void)
{
    struct trap frame;

    frame_flat(&frame);
    frame.cs = SEL_USER_CODE32;
    frame.rip = (uint64_t)compat_ring3;
    int got = user_frame_call(&frame);
    check(got == NO_TRAP, "32-bit code in ring 3", "#%d error %lx at %lx", got, trap.error, trap.rip);
    check_equal("32-bit flags", compat_seen[0] & 0x8d5, FLAG_CF | FLAG_ZF | FLAG_OF | FLAG_PF);
    check_equal("inc by opcode 40", compat_seen[1], 0x80000000);
    check_equal("daa", compat_seen[2], 0x42);
    check_equal("pusha", compat_seen[3], 32);
    check_equal("push ds", compat_seen[4], SEL_USER_DATA);
    check_equal("a 32-bit address", compat_seen[5], compat_seen[0] & 0xffffffff);
    check_equal("push and pop of 4 bytes", compat_seen[6], 0x1234);
    check_equal("the frame's CS", trap.cs, SEL_USER_CODE32);

    frame_flat(&frame);
    frame.rip = (uint64_t)compat_far_user;
    memset(compat_seen, 0, sizeof compat_seen);
    got = user_frame_call(&frame);
    check(got == NO_TRAP, "64 to 32 and back by far transfers", "#%d error %lx at %lx", got, trap.error, trap.rip);
    check_equal("CS in between", compat_seen[0], SEL_USER_CODE32);
    check_equal("CS after", compat_seen[1], SEL_USER_CODE);
    check_equal("R15 survives", compat_seen[2], 0xfedcba9876543210);
    check_equal("a 32-bit write clears the upper half", compat_seen[3], 0x22222223);

    gdt_set(SEL_SPARE, descriptor((uint32_t)(uint64_t)compat_16, 0xffff, 0xfb, 0));
    frame_flat(&frame);
    frame.cs = SEL_SPARE | 3;
    frame.rip = 0;
    frame.rbx = 0xffffffffffff0000;
    got = frame_call(&frame);
    check(got == NO_TRAP && (trap.rbx & 0xffffffff) == 0xffff1234, "16-bit code with a base", "#%d at %lx rbx %lx", got,
          trap.rip, trap.rbx);
    /* QEMU TCG checks no limit here, nor that 32-bit code has a DS. */
    gdt_set(SEL_SPARE, descriptor((uint32_t)(uint64_t)compat_16, 2, 0xfb, 0));
    got = frame_call(&frame);
    check(got == GP && trap.rip == 3, "its limit counts", "#%d at %lx", got, trap.rip);
    gdt_set(SEL_SPARE, 0);
}

static void ring0(void)
{
    memset(compat_seen, 0, sizeof compat_seen);
    trap_hooks[0x42] = note;
    int got = trap_call(kernel_compat, 0);
    trap_hooks[0x42] = NULL;
    check(got == NO_TRAP, "32-bit code in ring 0", "#%d error %lx at %lx", got, trap.error, trap.rip);
    check_equal("its CS", compat_seen[0], SEL_CODE32);
    check_equal("pushes 4 bytes", compat_seen[1], 4);
    check_equal("an interrupt out of it has a 64-bit frame", seen.cs, SEL_CODE32);
    check_equal("and comes back with the lower half", compat_seen[3], 0xaabbccdd);
    memset(compat_seen, 0, sizeof compat_seen);
    got = trap_call(leave_and_return, 0);
    check(got == NO_TRAP, "out of long mode and back", "#%d error %lx at %lx", got, trap.error, trap.rip);
    check_equal("LMA went with paging", compat_seen[0] & (EFER_LMA | EFER_LME), EFER_LME);
    check_equal("32-bit code ran", compat_seen[1], 0x80000000);
    check_equal("LME alone is not LMA", compat_seen[2] & (EFER_LMA | EFER_LME), EFER_LME);
    check_equal("LMA came with paging", compat_seen[3] & (EFER_LMA | EFER_LME), EFER_LME | EFER_LMA);
}

static void set_gate(unsigned selector, unsigned target, uint64_t offset, unsigned access)
{
    struct gate64 g = gate(target, offset, access, 0);
    gdt_set(selector, g.low);
    gdt_set(selector + 8, g.high);
}

enum { GATE = SEL_SPARE + 8 };

static void gates(void)
{
    set_gate(GATE, SEL_CODE, (uint64_t)gate_target, 0xec);
    far32.selector = GATE;
    far32.offset = 0xdeadbeef; /* does not count */
    memset(compat_seen, 0, sizeof compat_seen);
    check_trap("call gate from ring 3", user_call(call_far, 0), NO_TRAP, 0);
    trap_expected_rip = 0;
    check_equal("on RSP0", compat_seen[0], tss.rsp[0] - 32);
    check_equal("CS", compat_seen[1], SEL_CODE);
    check_equal("SS is null", compat_seen[2], 0);
    check_equal("pushed CS", compat_seen[4], SEL_USER_CODE);
    check_equal("pushed SS", compat_seen[6], SEL_USER_DATA);
    check_trap("call gate in ring 0", trap_call(call_far, 0), NO_TRAP, 0);
    trap_expected_rip = 0;
    check_equal("SS stays", compat_seen[2], SEL_DATA);
    far64.selector = GATE;
    check_trap("call gate, 64-bit operand", user_call(call_far_wide, 0), NO_TRAP, 0);
    trap_expected_rip = 0;
    set_gate(GATE, SEL_CODE, (uint64_t)gate_target, 0x8c);
    check_trap("#GP gate of DPL 0 from ring 3", user_call(call_far, 0), GP, GATE);
    set_gate(GATE, SEL_CODE, (uint64_t)gate_target, 0x6c);
    check_trap("#NP gate", user_call(call_far, 0), NP, GATE);
    set_gate(GATE, SEL_CODE32, (uint64_t)gate_target, 0xec);
    check_trap("#GP gate to 32-bit code", user_call(call_far, 0), GP, SEL_CODE32);
    set_gate(GATE, SEL_CODE, NOT_CANONICAL, 0xec);
    check(user_call(call_far, 0) == GP && trap.error == 0, "#GP gate to a bad address", "error %lx", trap.error);
    trap_expected_rip = 0;
    set_gate(GATE, SEL_CODE, (uint64_t)gate_target, 0xec);
    gdt[GATE / 8 + 1] |= 1ul << 40; /* a type where there must be zeros */
    check_trap("#GP gate with a type in its upper half", user_call(call_far, 0), GP, GATE);
    set_gate(GATE, SEL_CODE, (uint64_t)gate_target, 0xe4);
    check_trap("#GP 16-bit call gate", user_call(call_far, 0), GP, GATE);
    gdt_set(GATE, descriptor(0, 0x67, 0xe9, 0));
    check_trap("#GP far call to a TSS", user_call(call_far, 0), GP, GATE);
    gdt_set(GATE, (uint64_t)SEL_TSS << 16 | 0xe5ul << 40);
    check_trap("#GP task gate", user_call(call_far, 0), GP, GATE);
    gdt_set(GATE, 0);
    gdt_set(GATE + 8, 0);
    far32.selector = SEL_CODE;
    check_trap("#GP ring 3 jumps to ring 0 code", user_call(jump_far, 0), GP, SEL_CODE);
    far32.selector = 0;
    check_trap("#GP far jump to null", trap_call(jump_far, 0), GP, 0);
    far32.selector = SEL_DATA;
    check_trap("#GP far jump to data", trap_call(jump_far, 0), GP, SEL_DATA);
    gdt_set(GATE, 0);
}

void guest_main(void)
{
    ring3();
    ring0();
    gates();
}
