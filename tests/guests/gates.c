/* SPDX-License-Identifier: MIT */
/* Transfers between rings: far calls, jumps and returns, call gates with parameters, conforming code, interrupts from
 * ring 1-3, IRET outwards, and what happens to the data segment registers (SDM volume 3, 5.8, 6.12). */
#include "lib/guest.h"

enum { RING1_CODE = 0x50 | 1, RING1_DATA = 0x58 | 1, CONFORMING = 0x60, GATE = 0x68, TARGET = 0x70, CODE16 = 0x78 };

static uint8_t ring1_stack[4096] __attribute__((aligned(16)));
static uint32_t seen[40];

#define BARE(name, insn)                                                                                               \
    void name(void);                                                                                                   \
    __asm__(".globl " #name "\n" #name ":\n" insn "\n")

/* The gate's target: copies its stack to seen[], notes CS, and returns with the parameters removed. */
#define TARGET_CODE(name, parameters)                                                                                  \
    BARE(name, "pushal; mov %cs, %eax; mov %eax, seen+144; mov %ss, %eax; mov %eax, seen+148\n"                        \
               "lea 32(%esp), %esi; mov $seen, %edi; mov $36, %ecx; push %ds; push %es; mov $0x20|3, %eax\n"           \
               "1: mov %ss:(%esi), %eax; mov %eax, (%edi); add $4, %esi; add $4, %edi; loop 1b\n"                      \
               "pop %es; pop %ds; popal; lret $4*" #parameters)
TARGET_CODE(target0, 0);
TARGET_CODE(target1, 1);
TARGET_CODE(target5, 5);
TARGET_CODE(target31, 31);

BARE(call_gate, "mov %esp, %ebx; lcall $0x68|3, $0xdeadbeef\ncall_gate_back: int $0x80");
BARE(call_gate_rpl0, "lcall $0x68, $0\nint $0x80");
BARE(jump_gate, "ljmp $0x68|3, $0\nint $0x80");
BARE(call_direct_0, "lcall $0x08, $direct_target\nint $0x80");
BARE(call_direct_same, "lcall $0x18|3, $direct_target\nint $0x80");
BARE(call_conforming, "lcall $0x60, $direct_target\nint $0x80");
BARE(jump_conforming, "ljmp $0x60|3, $conforming_target\nconforming_target: mov %cs, %eax; int $0x80");
BARE(call_target, "lcall $0x70|3, $direct_target\nint $0x80");
BARE(call_null, "lcall $3, $0\nint $0x80");
BARE(direct_target, "mov %cs, %eax; mov (%esp), %ecx; mov 4(%esp), %edx; lret");
BARE(return_inner, "push $0x08; push $direct_target; lret");
BARE(return_same, "push $0x18|3; push $return_done; lret; return_done: int $0x80");
BARE(iret_inner, "push $2; push $0x08; push $direct_target; iret");
BARE(show_segments, "mov %ds, %eax; mov %es, %ecx; mov %fs, %edx; mov %gs, %ebx; int $0x80");
BARE(int_80, "int $0x80");
BARE(set_flags_iret,
     "pushf; orl $0x3200, (%esp); push %cs; push $flags_done; iret; flags_done: pushf; pop %eax; int $0x80");
BARE(set_flags_popf, "pushf; orl $0x3300-0x100, (%esp); popf; pushf; pop %eax; int $0x80");
extern char call_gate_back[];

static int run(unsigned ring, void (*code)(void), struct trap *frame)
{
    frame->eip = (uint32_t)code;
    if (ring == 1) {
        frame->cs = RING1_CODE;
        frame->ss = frame->ds = frame->es = RING1_DATA;
    }
    return frame_call(frame);
}

static int run3(void (*code)(void))
{
    struct trap frame;
    frame_flat(&frame);
    return run(3, code, &frame);
}

static void parameters(void)
{
    static const struct {
        void (*target)(void);
        unsigned count;
    } cases[] = {{target0, 0}, {target1, 1}, {target5, 5}, {target31, 31}};
    for (unsigned ring = 0; ring < 2; ring++)
        for (unsigned i = 0; i < 4; i++) {
            unsigned code = ring ? RING1_CODE : SEL_CODE, n = cases[i].count;
            gdt_set(GATE, gate(code, (uint32_t)cases[i].target, 0xec, n));
            struct trap frame;
            frame_flat(&frame);
            frame.esp -= 256;
            uint32_t *stack = (uint32_t *)frame.esp, esp = frame.esp;
            for (unsigned p = 0; p < 31; p++)
                stack[p] = 0x1000 + p;
            memset(seen, 0, sizeof seen);
            int got = run(3, call_gate, &frame);
            bool right = got == NO_TRAP && seen[0] == (uint32_t)call_gate_back && (seen[1] & 0xffff) == SEL_USER_CODE;
            for (unsigned p = 0; p < n; p++)
                right = right && seen[2 + p] == 0x1000 + p;
            right = right && seen[2 + n] == esp && (seen[3 + n] & 0xffff) == SEL_USER_DATA;
            right = right && seen[36] == (code & ~3u) + ring && (seen[37] & 0xffff) == (ring ? RING1_DATA : SEL_DATA);
            /* The return removed the parameters from the outer stack too. */
            right = right && trap.esp == esp + 4 * n;
            tally(right, "call gate", "to ring %u with %u parameters: got #%d error %x eip %x esp %x (was %x) ss %x",
                  ring, n, got, trap.error, seen[0], seen[2 + n], esp, seen[3 + n]);
        }
    tally_end("call gates with parameters");
}

static void gate_checks(void)
{
    gdt_set(GATE, gate(SEL_CODE, (uint32_t)target0, 0x8c, 0));
    check_trap("call gate of DPL 0 from ring 3", run3(call_gate), GP, GATE);
    gdt_set(GATE, gate(SEL_CODE, (uint32_t)target0, 0x6c, 0));
    check_trap("call gate not present", run3(call_gate), NP, GATE);
    gdt_set(GATE, gate(SEL_DATA, (uint32_t)target0, 0xec, 0));
    check_trap("call gate to data", run3(call_gate), GP, SEL_DATA);
    gdt_set(GATE, gate(0, (uint32_t)target0, 0xec, 0));
    check_trap("call gate to null", run3(call_gate), GP, 0);
    gdt_set(TARGET, descriptor(0, 0xfffff, 0x1b, SEG_G | SEG_D));
    gdt_set(GATE, gate(TARGET, (uint32_t)target0, 0xec, 0));
    check_trap("call gate to code not present", run3(call_gate), NP, TARGET);
    gdt_set(GATE, gate(SEL_CODE, (uint32_t)target0, 0xec, 0));
    check_trap("jump through a gate to an inner ring", run3(jump_gate), GP, SEL_CODE);
    check_trap("RPL of a gate selector that is lower than CPL", run3(call_gate_rpl0), NO_TRAP, 0);
    gdt_set(GATE, gate(SEL_CODE, (uint32_t)target0, 0xcc, 0));
    check_trap("gate of DPL 2 from ring 3", run3(call_gate), GP, GATE);
    /* A bad stack of the inner ring. */
    gdt_set(GATE, gate(RING1_CODE, (uint32_t)target0, 0xec, 0));
    tss.ss1 = SEL_DATA;
    check_trap("#TS inner SS of another ring", run3(call_gate), TS, SEL_DATA);
    tss.ss1 = 0;
    check_trap("#TS inner SS null", run3(call_gate), TS, 0);
    tss.ss1 = RING1_CODE;
    check_trap("#TS inner SS is code", run3(call_gate), TS, RING1_CODE & ~3);
    gdt_set(TARGET, descriptor(0, 0xfffff, 0x33, SEG_G | SEG_D));
    tss.ss1 = TARGET | 1;
    check_trap("#SS inner SS not present", run3(call_gate), SS, TARGET);
    gdt_set(TARGET, descriptor(0, 0, 0xb3, SEG_D));
    tss.ss1 = TARGET | 1;
    tss.esp1 = 0;
    check_trap("#SS no room on the inner stack", run3(call_gate), SS, TARGET);
    tss.ss1 = RING1_DATA;
    tss.esp1 = (uint32_t)ring1_stack + sizeof ring1_stack;
}

static void direct(void)
{
    check_trap("far call to ring 0 code", run3(call_direct_0), GP, SEL_CODE);
    check_trap("far call to the same ring", run3(call_direct_same), NO_TRAP, 0);
    check_equal("CS pushed by the far call", trap.edx & 0xffff, SEL_USER_CODE);
    check_trap("far call to conforming code", run3(call_conforming), NO_TRAP, 0);
    check_equal("conforming code runs in the caller's ring", trap.eax & 0xffff, CONFORMING | 3);
    check_trap("far jump to conforming code", run3(jump_conforming), NO_TRAP, 0);
    check_equal("CS after the jump", trap.eax & 0xffff, CONFORMING | 3);
    check_trap("far call to null", run3(call_null), GP, 0);
    gdt_set(TARGET, descriptor(0, 0xfffff, 0x7b, SEG_G | SEG_D));
    check_trap("far call to code not present", run3(call_target), NP, TARGET);
    gdt_set(TARGET, descriptor(0, 0xfff, 0xfb, SEG_D));
    check_trap("far call beyond the limit", run3(call_target), GP, 0);
    gdt_set(TARGET, descriptor(0, 0xfffff, 0xf3, SEG_G | SEG_D));
    check_trap("far call to data", run3(call_target), GP, TARGET);
    gdt_set(TARGET, descriptor(0, 0xfffff, 0xdf, SEG_G | SEG_D));
    struct trap frame;
    frame_flat(&frame);
    check_trap("far return to an inner ring", run3(return_inner), GP, SEL_CODE);
    check_trap("far return to the same ring", run3(return_same), NO_TRAP, 0);
    check_trap("iret to an inner ring", run3(iret_inner), GP, SEL_CODE);
}

static void data_segments(void)
{
    /* IRET outwards makes null what the outer ring may not have. frame.ds etc. are loaded in ring 0 first. */
    struct trap frame;
    frame_flat(&frame);
    frame.ds = SEL_DATA;
    frame.es = SEL_USER_DATA;
    frame.fs = CONFORMING;
    frame.gs = SEL_CODE;
    check_trap("segments after iret outwards", run(3, show_segments, &frame), NO_TRAP, 0);
    check_equal("DS of ring 0 becomes null", trap.eax & 0xffff, 0);
    check_equal("ES of ring 3 stays", trap.ecx & 0xffff, SEL_USER_DATA);
    check_equal("FS conforming stays", trap.edx & 0xffff, CONFORMING);
    check_equal("GS of ring 0 code becomes null", trap.ebx & 0xffff, 0);
}

static void rings(void)
{
    struct trap frame;
    frame_flat(&frame);
    uint32_t esp = frame.esp;
    check_trap("int from ring 3", run(3, int_80, &frame), NO_TRAP, 0);
    check(trap.esp == esp && (trap.ss & 0xffff) == SEL_USER_DATA && (trap.cs & 0xffff) == SEL_USER_CODE,
          "frame of an interrupt from ring 3", "esp %x ss %x cs %x", trap.esp, trap.ss, trap.cs);
    check_equal("it starts at TSS.ESP0", trap_frame + offsetof(struct trap, v86_es), tss.esp0);
    frame_flat(&frame);
    check_trap("int from ring 1", run(1, int_80, &frame), NO_TRAP, 0);
    check_equal("CS of ring 1", trap.cs & 0xffff, RING1_CODE);
    /* Flags: ring 3 with IOPL 0 changes neither IF nor IOPL. */
    check_trap("iret in ring 3", run3(set_flags_iret), NO_TRAP, 0);
    check_equal("iret in ring 3 leaves IOPL and IF", trap.eax & 0x3200, 0);
    check_trap("popf in ring 3", run3(set_flags_popf), NO_TRAP, 0);
    check_equal("popf in ring 3 leaves IOPL and IF", trap.eax & 0x3200, 0);
    frame_flat(&frame);
    frame.eflags = 0x3002;
    check_trap("popf in ring 3 with IOPL 3", run(3, set_flags_popf, &frame), NO_TRAP, 0);
    check_equal("popf in ring 3 with IOPL 3 sets IF", trap.eax & 0x3200, 0x3200);
    frame_flat(&frame);
    frame.eflags = 0x1002;
    check_trap("popf in ring 1 with IOPL 1", run(1, set_flags_popf, &frame), NO_TRAP, 0);
    check_equal("popf in ring 1 with IOPL 1 sets IF, not IOPL", trap.eax & 0x3200, 0x1200);
    check_trap("popf in ring 0", trap_call((void (*)(void *))set_flags_popf, 0), 0x80, 0);
    check_equal("popf in ring 0 sets IF and IOPL", trap.eax & 0x3200, 0x3200);
}

void guest_main(void)
{
    gdt_set(RING1_CODE, descriptor(0, 0xfffff, 0xbb, SEG_G | SEG_D));
    gdt_set(RING1_DATA, descriptor(0, 0xfffff, 0xb3, SEG_G | SEG_D));
    gdt_set(CONFORMING, descriptor(0, 0xfffff, 0x9f, SEG_G | SEG_D));
    tss.ss1 = RING1_DATA;
    tss.esp1 = (uint32_t)ring1_stack + sizeof ring1_stack;
    parameters();
    gate_checks();
    direct();
    data_segments();
    rings();
}
