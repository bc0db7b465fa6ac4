/* SPDX-License-Identifier: MIT */
/* SYSCALL, SYSRET, SWAPGS, FS and GS bases, CR8, EFER and CR4 rules, UMIP. */
#include "lib64/guest.h"

extern char syscall_entry[], syscall_user[], syscall_user_after[], sysret32_user[], sysret32_after[];
extern uint64_t seen_rcx, seen_r11, seen_rsp, seen_flags, seen_gs, seen_cs, seen_ss, sysret_flags, kernel_word[2];

/* The kernel's side: notes what it got and returns with sysret, 64 or 32 bits wide by the last bit of RAX. */
__asm__(".globl syscall_entry\n"
        "syscall_entry:\n"
        "swapgs\n"
        "mov %rsp, seen_rsp\n"
        "mov %rcx, seen_rcx\n"
        "mov %r11, seen_r11\n"
        "mov $start_stack_top - 8192, %rsp\n"
        "pushf\n popq seen_flags\n"
        "mov %gs:0, %rdx\n mov %rdx, seen_gs\n"
        "mov %cs, %edx\n mov %rdx, seen_cs\n"
        "mov %ss, %edx\n mov %rdx, seen_ss\n"
        "mov seen_rsp, %rsp\n"
        "swapgs\n"
        "mov sysret_flags, %r11\n"
        "test $1, %al\n jnz 1f\n"
        "sysretq\n"
        "1: mov $sysret32_after, %ecx\n sysretl\n"
        /* ring 3 */
        "syscall_user:\n"
        "stc\n std\n"
        "syscall\n"
        "syscall_user_after:\n"
        "pushf\n pop %rbx\n"
        "mov %cs, %esi\n mov %ss, %edi\n"
        "mov %gs:0, %r15\n"
        "int $0x80\n"
        ".code32\n"
        "sysret32_after:\n"
        "mov %cs, %esi\n mov %ss, %edi\n"
        "inc %ebp\n" /* REX.B in 64-bit code */
        "mov $0x12345678, %ebx\n"
        "int $0x80\n"
        ".code64\n"
        ".data\n .balign 8\n"
        "seen_rcx: .quad 0\n seen_r11: .quad 0\n seen_rsp: .quad 0\n seen_flags: .quad 0\n seen_gs: .quad 0\n"
        "seen_cs: .quad 0\n seen_ss: .quad 0\n sysret_flags: .quad 0\n"
        "kernel_word: .quad 0x1111, 0x2222\n"
        ".text\n");

CODE(do_syscall, AT_HERE "syscall")
CODE(do_sysret, "mov $1f, %%rcx; xor %%r11, %%r11\n" AT_HERE "sysretq; 1: nop")
CODE(user_sgdt, AT_HERE "sgdt -64(%%rsp)")
CODE(user_sidt, AT_HERE "sidt -64(%%rsp)")
CODE(user_sldt, AT_HERE "sldt %%eax")
CODE(user_str, AT_HERE "str %%eax")
CODE(user_smsw, AT_HERE "smsw %%eax")
CODE(rdfsbase, AT_HERE "rdfsbase %%rax")
CODE(wrgsbase, "mov $0x1234, %%eax\n" AT_HERE "wrgsbase %%rax")
CODE(wrfsbase_bad, "mov $0x800000000000, %%rax\n" AT_HERE "wrfsbase %%rax")
CODE(rdtscp, AT_HERE "rdtscp; movq %%rcx, trap_cr2")

static void system_calls(void)
{
    struct trap frame;

    write_msr(MSR_STAR, (uint64_t)(SEL_USER_CODE32) << 48 | (uint64_t)SEL_CODE << 32);
    write_msr(MSR_LSTAR, (uint64_t)syscall_entry);
    write_msr(MSR_SFMASK, FLAG_DF | FLAG_CF | FLAG_TF);
    write_msr(MSR_GS_BASE, (uint64_t)&kernel_word[1]);
    write_msr(MSR_KERNEL_GS_BASE, (uint64_t)&kernel_word[0]);
    sysret_flags = FLAG_ZF | FLAG_RF | FLAG_OF | 2;
    frame_flat(&frame);
    frame.rip = (uint64_t)syscall_user;
    frame.rflags = FLAG_SF | 2;
    int got = frame_call(&frame);
    check(got == NO_TRAP, "syscall and sysret", "got #%d error %lx at %lx", got, trap.error, trap.rip);
    check_equal("RCX is the next instruction", seen_rcx, (uint64_t)syscall_user_after);
    check_equal("R11 is RFLAGS", seen_r11, FLAG_SF | FLAG_CF | FLAG_DF | 2);
    check_equal("RFLAGS without SFMASK", seen_flags & ~(uint64_t)(FLAG_PF | FLAG_AF), FLAG_SF | 2);
    check_equal("RSP stays", seen_rsp, frame.rsp);
    check_equal("CS", seen_cs, SEL_CODE);
    check_equal("SS", seen_ss, SEL_DATA);
    check_equal("swapgs", seen_gs, 0x1111);
    check_equal("swapgs back", trap.r15, 0x2222);
    check_equal("sysret's CS", trap.rsi, SEL_USER_CODE);
    check_equal("sysret's SS", trap.rdi, SEL_USER_DATA);
    check_equal("sysret's RFLAGS, RF clear", trap.rbx, FLAG_ZF | FLAG_OF | 2);
    frame.rax = 1;
    got = frame_call(&frame);
    check(got == NO_TRAP && trap.rsi == SEL_USER_CODE32 && trap.rdi == SEL_USER_DATA && trap.rbx == 0x12345678,
          "sysret to 32-bit code", "got #%d at %lx cs %lx ss %lx", got, trap.rip, trap.rsi, trap.rdi);
    check_equal("its inc", trap.rbp, frame.rbp + 1);
    write_msr(MSR_EFER, read_msr(MSR_EFER) & ~(uint64_t)EFER_SCE);
    check_trap("#UD syscall without SCE", user_call(do_syscall, 0), UD, 0);
    check_trap("#UD sysret without SCE", trap_call(do_sysret, 0), UD, 0);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_SCE);
    write_msr(MSR_GS_BASE, 0);
}

static void task_priority(void)
{
    for (unsigned i = 0; i < 16; i++) {
        write_cr8(i);
        tally(read_cr8() == i, "CR8", "%u: got %lx", i, read_cr8());
    }
    tally_end("CR8 holds four bits");
    write_cr8(0);
    check_equal("#GP reserved bit of CR8", (uint64_t)write_cr_trap(8, 16), GP);
}

static void modes(void)
{
    uint64_t efer = read_msr(MSR_EFER);
    uint32_t r[4];

    check_equal("EFER", efer & (EFER_LME | EFER_LMA | EFER_SCE), EFER_LME | EFER_LMA | EFER_SCE);
    check_equal("#GP EFER.LME cleared with paging", (uint64_t)write_msr_trap(MSR_EFER, efer & ~(uint64_t)EFER_LME), GP);
    check_equal("#GP reserved bit of EFER", (uint64_t)write_msr_trap(MSR_EFER, efer | 1 << 1), GP);
    check_equal("#GP high bit of EFER", (uint64_t)write_msr_trap(MSR_EFER, efer | 1ul << 40), GP);
    check_equal("EFER.LMA written clear", (uint64_t)write_msr_trap(MSR_EFER, efer & ~(uint64_t)EFER_LMA) & 0xffffffff,
                (uint32_t)NO_TRAP);
    check_equal("... stays", read_msr(MSR_EFER), efer);
    check_equal("#GP CR4.PAE cleared", (uint64_t)write_cr_trap(4, read_cr4() & ~(uint64_t)CR4_PAE), GP);
    check_equal("#GP CR0.PG cleared in 64-bit mode", (uint64_t)write_cr_trap(0, read_cr0() & ~CR0_PG), GP);
    check_equal("#GP CR0.PE cleared", (uint64_t)write_cr_trap(0, read_cr0() & ~(uint64_t)CR0_PE), GP);
    check_equal("#GP CR0 bit 32", (uint64_t)write_cr_trap(0, read_cr0() | 1ul << 32), GP);
    check_equal("#GP CR4 bit 32", (uint64_t)write_cr_trap(4, read_cr4() | 1ul << 32), GP);
    check_equal("#GP CR4 bit 15", (uint64_t)write_cr_trap(4, read_cr4() | 1ul << 15), GP);
    check_equal("#GP CR3 bit 62", (uint64_t)write_cr_trap(3, read_cr3() | 1ul << 62), GP);
    cpuid(1, 0, r);
    if (r[2] & 1 << 17) {
        check_equal("#GP CR4.PCIDE with a PCID in CR3", (uint64_t)({
                        write_cr3(read_cr3() | 8);
                        int got = write_cr_trap(4, read_cr4() | CR4_PCIDE);
                        write_cr3(read_cr3() & ~0xffful);
                        got;
                    }),
                    GP);
    }
    check_equal("#GP unknown MSR, read", (uint64_t)read_msr_trap(0x12345), GP);
    check_equal("#GP unknown MSR, written", (uint64_t)write_msr_trap(0x12345, 0), GP);
    write_msr(MSR_SFMASK, 0x47700);
    check_equal("SFMASK", read_msr(MSR_SFMASK), 0x47700);
    write_msr(MSR_TSC_AUX, 0x5a5a);
    check_trap("ring 3 rdtscp", user_call(rdtscp, 0), NO_TRAP, 0);
}

static void bases(void)
{
    uint32_t r[4];
    uint64_t v;

    cpuid(7, 0, r);
    write_msr(MSR_FS_BASE, 0xffff800012345678);
    check_equal("FS base", read_msr(MSR_FS_BASE), 0xffff800012345678);
    __asm__ volatile("mov %0, %%fs" ::"r"(SEL_DATA));
    check_equal("a load of FS replaces the base", read_msr(MSR_FS_BASE), 0);
    write_msr(MSR_FS_BASE, 0x123456789000);
    __asm__ volatile("mov %0, %%es" ::"r"(SEL_DATA));
    check_equal("a load of ES does not", read_msr(MSR_FS_BASE), 0x123456789000);
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 1);
    write_msr(MSR_KERNEL_GS_BASE, 2);
    __asm__ volatile("swapgs");
    check(read_msr(MSR_GS_BASE) == 2 && read_msr(MSR_KERNEL_GS_BASE) == 1, "swapgs exchanges", "%lx %lx",
          read_msr(MSR_GS_BASE), read_msr(MSR_KERNEL_GS_BASE));
    write_cr4(read_cr4() & ~(uint64_t)CR4_FSGSBASE);
    check_trap("#UD rdfsbase without CR4.FSGSBASE", user_call(rdfsbase, 0), UD, 0);
    check_trap("#UD wrgsbase without CR4.FSGSBASE", trap_call(wrgsbase, 0), UD, 0);
    if (!(r[1] & 1))
        return;
    write_cr4(read_cr4() | CR4_FSGSBASE);
    check_trap("ring 3 rdfsbase", user_call(rdfsbase, 0), NO_TRAP, 0);
    check_trap("ring 3 wrgsbase", user_call(wrgsbase, 0), NO_TRAP, 0);
    check_equal("it wrote", read_msr(MSR_GS_BASE), 0x1234);
    check_trap("#GP wrfsbase of a bad address", user_call(wrfsbase_bad, 0), GP, 0);
    __asm__ volatile("mov $-1, %%rax; wrfsbase %%eax; rdfsbase %0" : "=r"(v)::"rax");
    check_equal("wrfsbase of 32 bits", v, 0xffffffff);
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 0);
}

static void information(void)
{
    uint32_t r[4];
    uint64_t v = ~0ul;

    __asm__ volatile("sldt %0" : "+r"(v));
    check_equal("sldt clears the upper bits", v, 0);
    v = ~0ul;
    __asm__ volatile("str %0" : "+r"(v));
    check_equal("str clears the upper bits", v, SEL_TSS);
    struct {
        uint16_t limit;
        uint64_t base;
        uint16_t guard;
    } __attribute__((packed)) table = {.guard = 0x5555};
    __asm__ volatile("sgdt %0" : "+m"(table));
    check(table.limit == sizeof gdt - 1 && table.base == (uint64_t)gdt && table.guard == 0x5555, "sgdt stores 10 bytes",
          "limit %x base %lx", table.limit, table.base);
    check_trap("ring 3 sgdt", user_call(user_sgdt, 0), NO_TRAP, 0);
    cpuid(7, 0, r);
    if (!(r[2] & 4))
        return;
    write_cr4(read_cr4() | CR4_UMIP);
    check_trap("UMIP sgdt", user_call(user_sgdt, 0), GP, 0);
    check_trap("UMIP sidt", user_call(user_sidt, 0), GP, 0);
    check_trap("UMIP sldt", user_call(user_sldt, 0), GP, 0);
    check_trap("UMIP str", user_call(user_str, 0), GP, 0);
    check_trap("UMIP smsw", user_call(user_smsw, 0), GP, 0);
    check_trap("UMIP in ring 0", trap_call(user_sgdt, 0), NO_TRAP, 0);
    write_cr4(read_cr4() & ~(uint64_t)CR4_UMIP);
}

void guest_main(void)
{
    system_calls();
    task_priority();
    modes();
    bases();
    information();
}
