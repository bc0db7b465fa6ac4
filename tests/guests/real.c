/* SPDX-License-Identifier: MIT */
/* From protected mode down to real mode and back, many times, without a BIOS: the vector table, exceptions in real
 * mode, 32-bit operands and addresses, limits that stay ("unreal mode"), and the A20 gate (SDM volume 3, chapter 20.1).
 */
#include "lib/guest.h"

/* Linear addresses: the block runs at 8000h (segment 800h), results go to 7000h, the way back is kept at 7ff0h. */
enum { BLOCK = 0x8000, RESULTS = 0x7000, SEL_CODE16 = SEL_SPARE, SEL_DATA16 = SEL_SPARE + 8 };
static volatile uint32_t *const results = (uint32_t *)RESULTS;

extern char real_start[], real_end[], on_divide[], on_gp[], on_ud[], on_60[], on_step[], divide_at[], limit_at[],
    ud_at[];
extern char basic[], divide[], limit[], undefined[], software[], unreal[], high[], moves[], flags16[], step[],
    sixteen[];
void real_entry(uint32_t offset);

__asm__(
    ".globl real_start, real_end, real_entry, on_divide, on_gp, on_ud, on_60, on_step, divide_at, limit_at, ud_at\n"
    ".globl basic, divide, limit, undefined, software, unreal, high, moves, flags16, step, sixteen\n"
    "real_entry: pushal; mov 36(%esp), %eax; mov %eax, 0x7ff0; mov %esp, 0x7ff4; sidt 0x7ff8\n"
    "ljmp $0x40, $(enter16 - real_start)\n"
    "back32: mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss; mov 0x7ff4, %esp; lidt 0x7ff8\n"
    "xor %eax, %eax; mov %eax, %fs; mov %eax, %gs; popal; ret\n"
    ".code16\n"
    "real_start:\n"
    "enter16: mov $0x10, %ax; mov %ax, %gs; mov $0x48, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs\n"
    "lidtl %cs:(real_idt - real_start)\n"
    "mov %cr0, %eax; and $0xfe, %al; mov %eax, %cr0; ljmp $0x800, $(1f - real_start)\n"
    "1: xor %ax, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov %ax, %fs; mov $0x7e00, %sp\n"
    "mov 0x7ff0, %bx; call *%bx\n"
    "cli; mov %cr0, %eax; or $1, %al; mov %eax, %cr0; ljmpl $0x08, $back32\n"
    "real_idt: .word 0x3ff; .long 0\n"
    /* Segments are paragraphs; 32-bit operands; the stack pointer. */
    "basic: mov $0x1234, %ax; mov %ax, %es; movw $0xabcd, %es:4; movl $0x55667788, %eax; mov %eax, 0x7000\n"
    "pushl %eax; popw %ax; popw %bx; mov %ax, 0x7004; mov %bx, 0x7006; mov %sp, 0x7008; mov %cs, 0x700a; xor %ax, %ax\n"
    "mov %ax, %es; ret\n"
    /* Handlers note the pushed IP and go behind the instruction. */
    "on_divide: push %bp; mov %sp, %bp; mov 2(%bp), %ax; mov %ax, 0x7000; addw $2, 2(%bp); mov 4(%bp), %ax\n"
    "mov %ax, 0x7002; pop %bp; iret\n"
    "on_gp: push %bp; mov %sp, %bp; mov 2(%bp), %ax; mov %ax, 0x7000; addw $3, 2(%bp); pop %bp; iret\n"
    "on_ud: push %bp; mov %sp, %bp; mov 2(%bp), %ax; mov %ax, 0x7000; addw $2, 2(%bp); pop %bp; iret\n"
    "on_60: pushf; popw 0x7000; push %bp; mov %sp, %bp; mov 6(%bp), %ax; mov %ax, 0x7002; pop %bp; iret\n"
    "on_step: incw %cs:(steps - real_start); iret\n"
    "steps: .word 0\n"
    "divide: xor %cx, %cx; mov $7, %ax; xor %dx, %dx; divide_at: div %cx; movw $0x600d, 0x7004; ret\n"
    "limit: limit_at: mov 0xffff, %ax; movw $0x600d, 0x7004; ret\n"
    "undefined: ud_at: ud2; movw $0x600d, 0x7004; ret\n"
    "software: sti; int $0x60; cli; pushf; popw 0x7004; ret\n"
    /* GS keeps the 4 GiB limit it had in protected mode, also over a load of another paragraph. */
    "unreal: mov $0x200000, %ebx; addr32 mov %gs:(%ebx), %eax; mov %eax, 0x7000\n"
    "xor %ax, %ax; mov %ax, %gs; movl $0x200004, %ebx; addr32 mov %gs:(%ebx), %eax; mov %eax, 0x7004\n"
    "addr32 movl $0x13579bdf, %gs:(%ebx); ret\n"
    /* ffff:0010 and 0000:0000. */
    "high: mov $0xffff, %ax; mov %ax, %es; mov %es:0x10, %eax; mov %eax, 0x7000; mov 0, %eax; mov %eax, 0x7004\n"
    "in $0x92, %al; and $0xfc, %al; out %al, $0x92; mov %es:0x10, %eax; mov %eax, 0x7008\n"
    "in $0x92, %al; and $0xfe, %al; or $2, %al; out %al, $0x92; mov %es:0x10, %eax; mov %eax, 0x700c\n"
    "xor %ax, %ax; mov %ax, %es; ret\n"
    "moves: push %es; push $0x900; pop %es; xor %di, %di; mov $0x7100, %si; mov $8, %cx; cld; rep movsw; pop %es\n"
    "mov %si, 0x7000; mov %di, 0x7002; mov %cx, 0x7004; lds %cs:(pointer - real_start), %bx; mov %ds, %ax\n"
    "xor %dx, %dx; mov %dx, %ds; mov %ax, 0x7006; mov %bx, 0x7008; lcallw $0x800, $(far_target - real_start)\n"
    "mov %cx, 0x700a; ret\n"
    "pointer: .word 0x4444, 0x1357\n"
    "far_target: mov $0x2468, %cx; lret\n"
    "flags16: pushl $0x3000; popfl; pushfl; popl 0x7000; pushw $0; popfw; pushfw; popw 0x7004; smsw %ax; mov %ax, "
    "0x7006\n"
    "mov %cr0, %eax; mov %eax, 0x7008; ret\n"
    "step: movw $0, %cs:(steps - real_start); pushf; push %bp; mov %sp, %bp; orw $0x100, 2(%bp); pop %bp; popf; nop; "
    "nop\n"
    "pushf; push %bp; mov %sp, %bp; andw $~0x100, 2(%bp); pop %bp; popf; nop; mov %cs:(steps - real_start), %ax\n"
    "mov %ax, 0x7000; ret\n"
    /* 16-bit address wrap, and a jump that wraps IP is left to the segment tests. */
    "sixteen: movb $0x5a, 0x10; mov $0xfff0, %bx; mov $0x20, %si; mov (%bx,%si), %al; mov %al, 0x7000\n"
    "mov $0x1111, %ax; aam; mov %ax, 0x7002; mov $0x12345678, %eax; bswap %eax; mov %eax, 0x7004\n"
    "mov $3, %cx; xor %ax, %ax; 1: inc %ax; loop 1b; mov %ax, 0x7008; mov $5, %ax; imul $7, %ax, %dx; mov %dx, 0x700a; "
    "ret\n"
    "real_end:\n.code32\n");

static void run(const char *routine)
{
    for (unsigned i = 0; i < 8; i++)
        results[i] = 0;
    real_entry(routine - real_start);
}

static void vector(unsigned n, const char *handler)
{
    /* By hand: C has no object at address 0. */
    __asm__ volatile("movl %0, (%1)" ::"r"(0x800u << 16 | (uint32_t)(handler - real_start)), "r"(n * 4) : "memory");
}

static uint32_t half(unsigned n)
{
    return ((volatile uint16_t *)RESULTS)[n];
}

void guest_main(void)
{
    memcpy((void *)BLOCK, real_start, real_end - real_start);
    gdt_set(SEL_CODE16, descriptor(BLOCK, 0xffff, 0x9b, 0));
    gdt_set(SEL_DATA16, descriptor(0, 0xffff, 0x93, 0));
    outb(0x92, (inb(0x92) & 0xfe) | 2);

    run(basic);
    check_equal("a store at segment * 16 + offset", *(volatile uint16_t *)0x12344, 0xabcd);
    check_equal("a 32-bit operand", results[0], 0x55667788);
    check_equal("pushl, popw, popw", half(2) | half(3) << 16, 0x55667788);
    check_equal("SP", half(4), 0x7dfe);
    check_equal("CS", half(5), 0x800);

    vector(0, on_divide);
    vector(1, on_step);
    vector(6, on_ud);
    vector(13, on_gp);
    vector(0x60, on_60);
    for (unsigned i = 0; i < 50; i++) {
        run(divide);
        tally(half(0) == (uint32_t)(divide_at - real_start) && half(1) == 0x800 && half(2) == 0x600d, "divide",
              "ip %x cs %x", half(0), half(1));
    }
    tally_end("#DE in real mode, over and over");
    run(limit);
    check(half(0) == (uint32_t)(limit_at - real_start) && half(2) == 0x600d, "#GP for a word at ffff", "ip %x",
          half(0));
    run(undefined);
    check(half(0) == (uint32_t)(ud_at - real_start) && half(2) == 0x600d, "#UD in real mode", "ip %x", half(0));
    run(software);
    check(!(half(0) & FLAG_IF) && (half(1) & FLAG_IF) && !(half(2) & FLAG_IF), "int clears IF, iret brings it back",
          "%x %x %x", half(0), half(1), half(2));
    run(step);
    check_equal("single steps in real mode", half(0), 8);

    *(volatile uint32_t *)0x200000 = 0xfeedface;
    *(volatile uint32_t *)0x200004 = 0xdeadbeef;
    run(unreal);
    check(results[0] == 0xfeedface && results[1] == 0xdeadbeef, "limits stay in real mode", "%x %x", results[0],
          results[1]);
    check_equal("a write through the big segment", *(volatile uint32_t *)0x200004, 0x13579bdf);

    uint32_t first = *(volatile uint32_t *)0x100000;
    run(high);
    check_equal("ffff:0010 with A20 on", results[0], first);
    check_equal("ffff:0010 with A20 off is 0", results[2], results[1]);
    check_equal("ffff:0010 with A20 on again", results[3], first);

    for (unsigned i = 0; i < 4; i++)
        ((volatile uint32_t *)0x7100)[i] = 0x01010101 * i;
    run(moves);
    check(!memcmp((void *)0x9000, (void *)0x7100, 16), "rep movsw between segments", " ");
    check(half(0) == 0x7110 && half(1) == 16 && half(2) == 0, "its registers", "%x %x %x", half(0), half(1), half(2));
    check(half(3) == 0x1357 && half(4) == 0x4444, "lds", "%x %x", half(3), half(4));
    check_equal("far call", half(5), 0x2468);
    run(flags16);
    check_equal("popfd in real mode sets IOPL", results[0] & 0x3000, 0x3000);
    check_equal("popf clears it", half(2), 2);
    check(!(half(3) & 1) && !(results[2] & 1), "PE is clear", "%x %x", half(3), results[2]);
    run(sixteen);
    check_equal("16-bit addresses wrap", half(0), 0x5a);
    check_equal("aam", half(1), 0x0107);
    check_equal("bswap", results[1], 0x78563412);
    check_equal("loop", half(4), 3);
    check_equal("imul", half(5), 35);
}
