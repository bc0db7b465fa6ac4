/* SPDX-License-Identifier: MIT */
/* Debug registers: instruction and data breakpoints of every length, single step through everything that is special to
 * it, and what DR6 shows (SDM volume 3, chapter 17). */
#include "lib/guest.h"

static volatile uint32_t words[8] __attribute__((aligned(16)));
static unsigned hits;
static uint32_t hit_eip[64], hit_dr6[64], hit_flags[64];
static bool resume_flag;

static bool on_debug(struct trap *frame)
{
    if (hits < 64) {
        hit_eip[hits] = frame->eip;
        hit_dr6[hits] = read_dr6();
        hit_flags[hits] = frame->eflags;
    }
    hits++;
    write_dr6(0xffff0ff0);
    if (resume_flag)
        frame->eflags |= FLAG_RF;
    if (hits > 200) {
        write_dr7(0x400);
        frame->eflags &= ~FLAG_TF;
    }
    return true;
}

static void arm(unsigned n, uint32_t address, unsigned kind, unsigned length)
{
    /* The others out of the way: DR6 may show matches of breakpoints that are not enabled. */
    write_dr0(0xfffffff0);
    write_dr1(0xfffffff0);
    write_dr2(0xfffffff0);
    write_dr3(0xfffffff0);
    switch (n) {
    case 0:
        write_dr0(address);
        break;
    case 1:
        write_dr1(address);
        break;
    case 2:
        write_dr2(address);
        break;
    case 3:
        write_dr3(address);
        break;
    }
    write_dr6(0xffff0ff0);
    write_dr7(0x400 | 2u << n * 2 | (kind | (length - 1) << 2) << (16 + n * 4));
    hits = 0;
}

static void disarm(void)
{
    write_dr7(0x400);
}

enum { EXECUTE = 0, WRITE = 1, ACCESS = 3 };

static void data_breakpoints(void)
{
    uint32_t a = (uint32_t)&words[2];
    for (unsigned n = 0; n < 4; n++)
        for (unsigned kind = WRITE; kind <= ACCESS; kind += 2)
            for (unsigned length = 1; length <= 4; length *= 2)
                for (int at = -4; at < 8; at++)
                    for (unsigned size = 1; size <= 4; size *= 2)
                        for (unsigned write = 0; write < 2; write++) {
                            uint32_t p = a + at;
                            bool overlap = p < a + length && p + size > a;
                            bool expected = overlap && (write || kind == ACCESS);
                            arm(n, a, kind, length);
                            uint32_t after;
#define TOUCH(op) __asm__ volatile("movl $1f, %0\n" op "\n1: nop" : "=&r"(after) : "r"(p) : "eax", "memory")
                            if (write)
                                size == 1   ? ({ TOUCH("movb %%al, (%1)"); })
                                : size == 2 ? ({ TOUCH("movw %%ax, (%1)"); })
                                            : ({ TOUCH("movl %%eax, (%1)"); });
                            else
                                size == 1   ? ({ TOUCH("movb (%1), %%al"); })
                                : size == 2 ? ({ TOUCH("movw (%1), %%ax"); })
                                            : ({ TOUCH("movl (%1), %%eax"); });
                            disarm();
                            bool right = hits == (expected ? 1 : 0);
                            if (expected && hits)
                                right = right && hit_eip[0] == after && (hit_dr6[0] & 0xf) == 1u << n &&
                                        !(hit_dr6[0] & 0x4000);
                            tally(right, "data", "DR%u kind %u length %u: %s %u at %d: hits %u dr6 %x eip %x (%x)", n,
                                  kind, length, write ? "write" : "read", size, at, hits, hit_dr6[0], hit_eip[0],
                                  after);
                        }
    tally_end("data breakpoints");
}

static void special_data(void)
{
    static uint32_t stack[2048] __attribute__((aligned(16)));
    uint32_t a = (uint32_t)&stack[2000];
    arm(0, a, WRITE, 4);
    __asm__ volatile("mov %%esp, %%ecx; lea 4(%0), %%esp; push %%eax; mov %%ecx, %%esp" ::"r"(a) : "ecx", "memory");
    disarm();
    check_equal("push onto a data breakpoint", hits, 1);
    a = (uint32_t)&words[2];
    arm(0, a, WRITE, 4);
    uint32_t edi = (uint32_t)words, ecx = 8;
    __asm__ volatile("rep stosl" : "+D"(edi), "+c"(ecx) : "a"(0) : "memory");
    disarm();
    check_equal("rep stosl over a data breakpoint", hits, 1);
    check_equal("rep stosl ran to its end", ecx, 0);
    arm(0, a, ACCESS, 4);
    __asm__ volatile("lock incl (%0)" ::"r"(a) : "memory", "cc");
    disarm();
    check_equal("lock incl on a data breakpoint", hits, 1);
}

static void instruction_breakpoints(void)
{
    uint32_t at, count = 0;
    __asm__ volatile("movl $1f, %0; jmp 2f; 1: ret; 2:" : "=r"(at));
    for (unsigned n = 0; n < 4; n++) {
        /* Fault class: EIP is the instruction itself; RF lets it pass. */
        resume_flag = true;
        arm(n, at, EXECUTE, 1);
        __asm__ volatile("call *%0" ::"r"(at) : "memory");
        disarm();
        check(hits == 1 && hit_eip[0] == at && (hit_dr6[0] & 0xf) == 1u << n, "instruction breakpoint",
              "DR%u hits %u eip %x dr6 %x", n, hits, hit_eip[0], hit_dr6[0]);
    }
    check(!(hit_flags[0] & FLAG_RF), "an instruction breakpoint pushes RF clear", "%x", hit_flags[0]);
    /* In a loop, each time round: RF holds for one instruction only. */
    arm(1, at, EXECUTE, 1);
    for (unsigned i = 0; i < 10; i++)
        __asm__ volatile("call *%0" ::"r"(at) : "memory");
    disarm();
    check_equal("ten times round", hits, 10);
    /* Newly armed on code that ran before. */
    __asm__ volatile("movl $5, %%ecx; xor %0, %0; 1: inc %0; loop 1b" : "+r"(count)::"ecx");
    check_equal("the same code without a breakpoint", count, 5);
    resume_flag = false;
}

static void single_steps(void)
{
    hits = 0;
    write_dr6(0xffff0ff0);
    __asm__ volatile("pushf; orl $0x100, (%%esp); popf; nop; nop; nop; pushf; andl $~0x100, (%%esp); popf; nop" ::
                         : "memory", "cc");
    check_equal("steps from popf to popf", hits, 6);
    check(hit_dr6[0] & 0x4000, "DR6.BS", "%x", hit_dr6[0]);
    /* Each turn of a repeated string instruction is a step. */
    uint32_t edi = (uint32_t)words, ecx = 8;
    hits = 0;
    __asm__ volatile("pushf; orl $0x100, (%%esp); popf; rep stosl; pushf; andl $~0x100, (%%esp); popf; nop"
                     : "+D"(edi), "+c"(ecx)
                     : "a"(0)
                     : "memory", "cc");
    check(hits == 8 + 3, "rep stosl, step by step", "hits %u", hits);
    /* mov to SS takes the next instruction along. */
    hits = 0;
    __asm__ volatile("mov %%ss, %%ecx; pushf; orl $0x100, (%%esp); popf; mov %%ecx, %%ss; nop; pushf; andl $~0x100, "
                     "(%%esp); popf; nop" ::
                         : "ecx", "memory", "cc");
    check(hits == 4, "mov ss holds the trap off for one instruction", "hits %u", hits);
    /* A taken jump and a call are one step each, EIP where they went. */
    hits = 0;
    uint32_t target;
    __asm__ volatile(
        "movl $2f, %0; pushf; orl $0x100, (%%esp); popf; jmp 2f; nop; 2: pushf; andl $~0x100, (%%esp); popf; nop"
        : "=&r"(target)::"memory", "cc");
    check_equal("EIP after the step over a jump", hit_eip[0], target);
    /* An interrupt clears TF: the handler is not stepped, the step comes behind it. */
    hits = 0;
    __asm__ volatile("pushf; orl $0x100, (%%esp); popf; int $0x42; nop; pushf; andl $~0x100, (%%esp); popf; nop" ::
                         : "memory", "cc");
    check_equal("int n under TF: no step for the int itself, none in the handler", hits, 4);
}

static bool on_42(struct trap *frame)
{
    return true;
}

static void registers(void)
{
    write_dr0(0x12345678);
    write_dr3(0x87654321);
    check_equal("DR0", read_dr0(), 0x12345678);
    check_equal("DR3", read_dr3(), 0x87654321);
    write_dr6(0);
    check_equal("DR6 of 0", read_dr6() & 0xfffe1ff0, 0xfffe0ff0);
    write_dr7(0);
    check_equal("DR7 bit 10 is 1", read_dr7(), 0x400);
    write_dr7(0x400);
    /* Disabled breakpoints: DR6 may show the match, but there is no trap. */
    hits = 0;
    write_dr1((uint32_t)&words[1]);
    words[1] = 1;
    check_equal("no trap without an enable bit", hits, 0);
}

void guest_main(void)
{
    trap_hooks[DB] = on_debug;
    trap_hooks[0x42] = on_42;
    write_cr4(read_cr4() | CR4_DE);
    registers();
    single_steps();
    instruction_breakpoints();
    data_breakpoints();
    special_data();
}
