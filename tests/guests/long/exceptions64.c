/* SPDX-License-Identifier: MIT */
/* Exceptions in 64-bit mode: vectors, error codes, the frame, what is undefined there, addresses that are not
 * canonical, IST, delivery faults. SDM vol. 3, 6.14. */
#include "lib64/guest.h"

CODE(div_zero, "xor %%ecx, %%ecx; mov $1, %%eax; cltd\n" AT_HERE "div %%rcx")
CODE(idiv_overflow, "mov $1, %%rax; shl $63, %%rax; cqto; mov $-1, %%rcx\n" AT_HERE "idiv %%rcx")
CODE(ud2, AT_HERE "ud2")
CODE(int3, "movq $772f, trap_expected_rip; int3; 772: nop")
CODE(int1, "movq $772f, trap_expected_rip; .byte 0xf1; 772: nop")
CODE(int_40, "movq $772f, trap_expected_rip; int $0x40; 772: nop")
CODE(int_dpl0, AT_HERE "int $0x40")
CODE(single_step, "movq $772f, trap_expected_rip; pushf; orq $0x100, (%%rsp); popf; nop; 772: nop; nop")
#define BYTES(name, bytes) CODE(name, AT_HERE ".byte " bytes)
BYTES(push_es, "0x06")
BYTES(pop_es, "0x07")
BYTES(push_cs, "0x0e")
BYTES(push_ss, "0x16")
BYTES(push_ds, "0x1e")
BYTES(daa, "0x27")
BYTES(das, "0x2f")
BYTES(aaa, "0x37")
BYTES(aas, "0x3f")
BYTES(pusha, "0x60")
BYTES(popa, "0x61")
BYTES(op_82, "0x82, 0xc0, 0x01")
BYTES(call_far, "0x9a, 0, 0, 0, 0, 8, 0")
BYTES(les_register, "0xc4, 0xc0, 0, 0, 0, 0")
BYTES(into, "0xce")
BYTES(aam, "0xd4, 0x0a")
BYTES(aad, "0xd5, 0x0a")
BYTES(salc, "0xd6")
BYTES(jmp_far, "0xea, 0, 0, 0, 0, 8, 0")
BYTES(lock_nop, "0xf0, 0x90")
BYTES(lock_mov, "0xf0, 0x48, 0x89, 0x04, 0x24")
BYTES(lea_register, "0x48, 0x8d, 0xc0")
BYTES(mov_cr1, "0x0f, 0x20, 0xc8")
BYTES(too_long, "0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x2e, 0x90")
CODE(rex_ignored, ".byte 0x48, 0x66, 0xb8, 1, 0") /* REX in front of a prefix counts for nothing: mov ax, 1 */
CODE(load_bad, "mov $0x800000000000, %%rbx\n" AT_HERE "mov (%%rbx), %%eax")
CODE(store_bad, "mov $0x7fffffffffffffff, %%rbx\n" AT_HERE "mov %%eax, (%%rbx)")
CODE(edge_bad, "mov $0x7fffffffffff, %%rbx\n" AT_HERE "mov %%ax, (%%rbx)")
CODE(stack_bad, "mov $0x800000000100, %%rbx; mov %%rbx, %%rcx; mov %%rsp, %%rdx; mov %%rbx, %%rsp\n" AT_HERE
                "push %%rax; mov %%rdx, %%rsp")
CODE(stack_operand_bad, "mov %%rbp, %%rcx; mov $0x800000000000, %%rbp\n" AT_HERE "mov (%%rbp), %%eax")
CODE(pop_bad, "mov %%rsp, %%rdx; mov $0x800000000000, %%rsp\n" AT_HERE "pop %%rax; mov %%rdx, %%rsp")
CODE(stack_anywhere, "mov %%rdi, %%rsp; mov $1, %%rax; shl $63, %%rax; cqto; mov $-1, %%rcx\n" AT_HERE "idiv %%rcx")
CODE(stack_load_bad, "mov %%rsp, %%rdx; mov $0x40000000000000, %%rcx; add %%rcx, %%rsp\n" AT_HERE
                     "mov (%%rsp), %%rax; mov %%rdx, %%rsp")
CODE(fs_sum_bad, "mov $0x7fffffffffff, %%rbx\n" AT_HERE "mov %%fs:1(%%rbx), %%al")
CODE(jump_bad, "mov $0x800000000000, %%rax; jmp *%%rax")
CODE(ret_bad, "mov $0x800000000000, %%rax; push %%rax; ret")
CODE(string_bad, "mov $0x800000000000, %%rdi; mov $1, %%ecx\n" AT_HERE "rep stosb")
CODE(string_bad_zero, "mov $0x800000000000, %%rdi; xor %%ecx, %%ecx; rep stosb")
CODE(movaps_unaligned, "mov %%rsp, %%rax; and $-16, %%rax\n" AT_HERE "movaps -60(%%rax), %%xmm0")
CODE(invlpg_bad, "mov $0x800000000000, %%rax; invlpg (%%rax)")
CODE(prefetch_bad, "mov $0x800000000000, %%rax; prefetcht0 (%%rax); lea (%%rax), %%rcx; nopl (%%rax)")
CODE(mov_ss_null, "xor %%eax, %%eax; mov %%eax, %%ss; mov $0x10, %%eax; mov %%eax, %%ss")
CODE(mov_ss_null_user, "xor %%eax, %%eax\n" AT_HERE "mov %%eax, %%ss")
CODE(mov_ds_null, "xor %%eax, %%eax; mov %%eax, %%ds; mov trap_cr2, %%rax; mov $0x10, %%eax; mov %%eax, %%ds")
CODE(mov_bad_selector, "mov $0x1f8, %%eax\n" AT_HERE "mov %%eax, %%ds")
CODE(hlt, AT_HERE "hlt")
CODE(cli, AT_HERE "cli")
CODE(in, AT_HERE "in $0x61, %%al")
CODE(read_cr0_user, AT_HERE "mov %%cr0, %%rax")
CODE(read_cr8_user, AT_HERE "mov %%cr8, %%rax")
CODE(rdmsr_user, "mov $0xc0000080, %%ecx\n" AT_HERE "rdmsr")
CODE(swapgs_user, AT_HERE "swapgs")
CODE(lgdt_user, AT_HERE "lgdt trap_cr2")
CODE(sysret_user, AT_HERE "sysretq")
CODE(lgdt_bad_base, "movw $15, trap_cr2; movl $0, trap_cr2+2; movl $0x8000, trap_cr2+6\n" AT_HERE "lgdt trap_cr2")
CODE(x87_tag, "fninit; fldz; fldz")

static void kernel(const char *name, void (*fn)(void *), int vector, uint32_t error)
{
    check_trap(name, trap_call(fn, 0), vector, error);
}

static void user(const char *name, void (*fn)(void *), int vector, uint32_t error)
{
    check_trap(name, user_call(fn, 0), vector, error);
}

static void undefined(void)
{
    static const struct {
        const char *name;
        void (*fn)(void *);
    } list[] = {{"ud2", ud2},
                {"push es", push_es},
                {"pop es", pop_es},
                {"push cs", push_cs},
                {"push ss", push_ss},
                {"push ds", push_ds},
                {"daa", daa},
                {"das", das},
                {"aaa", aaa},
                {"aas", aas},
                {"pusha", pusha},
                {"popa", popa},
                {"82 /0", op_82},
                {"call far immediate", call_far},
                {"les", les_register},
                {"into", into},
                {"aam", aam},
                {"aad", aad},
                {"salc", salc},
                {"jmp far immediate", jmp_far},
                {"lock nop", lock_nop},
                {"lock mov", lock_mov},
                {"lea of a register", lea_register},
                {"mov from CR1", mov_cr1}};
    for (unsigned i = 0; i < sizeof list / sizeof list[0]; i++)
        tally(trap_is(trap_call(list[i].fn, 0), UD, 0), list[i].name, "no #UD there: %ld at %lx", (long)trap.vector,
              trap.rip);
    tally_end("#UD for what 64-bit mode leaves out");
    kernel("#GP instruction of 16 bytes", too_long, GP, 0);
    kernel("REX in front of a prefix", rex_ignored, NO_TRAP, 0);
}

/* Exceptions of instructions that do not touch the stack, with RSP anywhere. */
static void anywhere(void)
{
    static const uint64_t places[] = {0,
                                      1,
                                      0x1000,
                                      0x10000000,
                                      0x10002000,
                                      0x7fffffff,
                                      0x550000000000,
                                      0x7f0000000000,
                                      0x7ffff7ff0000,
                                      0x7fffffffffff,
                                      0x800000000000,
                                      0xdeadbeefdeadbeef,
                                      0xffff800000000000,
                                      0xffffffff81000000,
                                      0xffffffffffffffff};
    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++)
        for (unsigned again = 0; again < 100; again++)
            tally(trap_is(user_call(stack_anywhere, (void *)places[i]), DE, 0) && trap.rsp == places[i], "RSP",
                  "%lx became %lx", places[i], trap.rsp);
    tally_end("#DE with RSP anywhere");
}

static void canonical(void)
{
    kernel("#GP load", load_bad, GP, 0);
    kernel("#GP store", store_bad, GP, 0);
    kernel("#GP store across the edge", edge_bad, GP, 0);
    idt[SS].low |= 1ul << 32; /* the frame needs a good stack */
    kernel("#SS push", stack_bad, SS, 0);
    kernel("#SS pop", pop_bad, SS, 0);
    kernel("#SS load whose page is known", stack_load_bad, SS, 0);
    idt_reset();
    kernel("#SS operand by RBP", stack_operand_bad, SS, 0);
    write_msr(MSR_FS_BASE, 0x1000);
    kernel("#GP FS base and offset", fs_sum_bad, GP, 0);
    write_msr(MSR_FS_BASE, 0);
    kernel("#GP jump", jump_bad, GP, 0);
    kernel("#GP ret", ret_bad, GP, 0);
    user("#GP load, ring 3", load_bad, GP, 0);
    user("#SS push, ring 3", stack_bad, SS, 0);
    kernel("#GP rep stosb", string_bad, GP, 0);
    kernel("rep stosb of nothing", string_bad_zero, NO_TRAP, 0);
    kernel("invlpg does not fault", invlpg_bad, NO_TRAP, 0);
    kernel("nor do prefetch, lea, nop", prefetch_bad, NO_TRAP, 0);
    kernel("#GP lgdt of such a base", lgdt_bad_base, GP, 0);
    static const struct {
        uint32_t msr;
        const char *name;
    } msrs[] = {{MSR_FS_BASE, "FS base"}, {MSR_GS_BASE, "GS base"}, {MSR_KERNEL_GS_BASE, "kernel GS base"},
                {MSR_LSTAR, "LSTAR"},     {MSR_CSTAR, "CSTAR"},     {0x175, "SYSENTER_ESP"},
                {0x176, "SYSENTER_EIP"}};
    for (unsigned i = 0; i < 7; i++) {
        uint64_t old = read_msr(msrs[i].msr);
        /* AMD processors take any value in the two of SYSENTER: they keep 32 bits (APM vol. 2, 6.1.2). */
        if (msrs[i].msr >= MSR_EFER)
            tally(write_msr_trap(msrs[i].msr, NOT_CANONICAL) == GP, msrs[i].name, "takes a bad address");
        tally(write_msr_trap(msrs[i].msr, 0xffff800000000000) == NO_TRAP &&
                  (msrs[i].msr < MSR_EFER || read_msr(msrs[i].msr) == 0xffff800000000000),
              msrs[i].name, "does not keep a good one");
        write_msr(msrs[i].msr, old);
    }
    tally_end("MSRs that hold addresses");
    struct trap frame;
    frame_flat(&frame);
    frame.rip = NOT_CANONICAL;
    int got = frame_call(&frame);
    check(got == GP && trap.error == 0, "#GP iretq to a bad RIP", "got %d error %lx at %lx", got, trap.error, trap.rip);
}

static void frames(void)
{
    uint64_t stack;
    kernel("#DE", div_zero, DE, 0);
    kernel("#DE idiv of the least number by -1", idiv_overflow, DE, 0);
    check(trap.rflags & FLAG_RF, "a fault pushes RF set", "flags %lx", trap.rflags);
    kernel("#BP", int3, BP, 0);
    kernel("#DB int1", int1, DB, 0);
    kernel("int 40", int_40, 0x40, 0);
    kernel("#DB single step", single_step, DB, 0);
    kernel("#GP movaps", movaps_unaligned, GP, 0);
    check(trap.cs == SEL_CODE && trap.ss == SEL_DATA, "SS:RSP is pushed without a change of ring too", "cs %lx ss %lx",
          trap.cs, trap.ss);
    for (unsigned i = 0; i < 16; i++) { /* the frame is aligned to 16, whatever RSP was */
        struct trap frame;
        frame_flat(&frame);
        frame.cs = SEL_CODE;
        frame.ss = SEL_DATA;
        frame.rsp = (uint64_t)ist_stack_top - 256 - i;
        frame.rip = (uint64_t)user_return;
        int got = frame_call(&frame);
        stack = trap_frame + sizeof(struct trap);
        tally(got == NO_TRAP && trap.rsp == frame.rsp && !(stack & 15) && stack == (frame.rsp & ~15ul), "frame",
              "rsp %lx frame up to %lx", trap.rsp, stack);
    }
    tally_end("frames are aligned");
    user("ring 3 int 80", x87_tag, NO_TRAP, 0);
    check(trap.cs == SEL_USER_CODE && trap.ss == SEL_USER_DATA && trap_frame + sizeof trap == tss.rsp[0],
          "ring 3's frame lies at RSP0", "cs %lx ss %lx frame %lx", trap.cs, trap.ss, trap_frame);
    user("ring 3 #UD", ud2, UD, 0);
    user("ring 3 int of a DPL 0 gate", int_dpl0, GP, 0x40 * 8 + 2);
}

static void privileged(void)
{
    user("ring 3 hlt", hlt, GP, 0);
    user("ring 3 cli", cli, GP, 0);
    user("ring 3 in", in, GP, 0);
    user("ring 3 mov from CR0", read_cr0_user, GP, 0);
    user("ring 3 mov from CR8", read_cr8_user, GP, 0);
    user("ring 3 rdmsr", rdmsr_user, GP, 0);
    user("ring 3 swapgs", swapgs_user, GP, 0);
    user("ring 3 lgdt", lgdt_user, GP, 0);
    user("ring 3 sysret", sysret_user, GP, 0);
}

static void segments(void)
{
    kernel("null SS in ring 0", mov_ss_null, NO_TRAP, 0);
    user("#GP null SS in ring 3", mov_ss_null_user, GP, 0);
    kernel("null DS may be used", mov_ds_null, NO_TRAP, 0);
    kernel("#GP selector of an empty descriptor", mov_bad_selector, GP, 0x1f8);
}

static void delivery(void)
{
    idt[UD] = gate(SEL_CODE, 0, 0x0e, 0);
    kernel("#NP for a gate, by an exception", ud2, NP, UD * 8 + 3);
    idt_reset();
    idt[UD] = gate(0, 0, 0x8e, 0);
    kernel("#GP for a gate with a null selector", ud2, GP, 1);
    idt[UD] = gate(SEL_DATA, 0, 0x8e, 0);
    kernel("#GP for a gate to a data segment", ud2, GP, SEL_DATA + 1);
    idt[UD] = gate(SEL_CODE32, 0, 0x8e, 0);
    kernel("#GP for a gate to 32-bit code", ud2, GP, SEL_CODE32 + 1);
    idt[UD] = gate(SEL_CODE, NOT_CANONICAL, 0x8e, 0);
    check(trap_call(ud2, 0) == GP, "#GP for a gate to a bad RIP", "got %ld", (long)trap.vector);
    trap_expected_rip = 0;
    idt_reset();
    idt[UD] = gate(SEL_CODE, 0, 0x86, 0);
    kernel("#GP for a 16-bit gate", ud2, GP, UD * 8 + 3);
    idt_reset();
    idt[DE] = idt[GP] = gate(SEL_CODE, 0, 0x0e, 0);
    idt[NP] = gate(SEL_CODE, 0, 0x0e, 0);
    kernel("#DF from #DE and #NP", div_zero, DF, 0);
    idt_reset();
}

static void interrupt_stack(void)
{
    idt[UD].low |= 1ul << 32;
    kernel("#UD by IST", ud2, UD, 0);
    check_equal("IST 1 is the stack", trap_frame + sizeof trap, (uint64_t)ist_stack_top);
    check_equal("SS stays without a change of ring", trap.ss, SEL_DATA);
    user("ring 3 #UD by IST", ud2, UD, 0);
    check_equal("IST 1 is the stack from ring 3", trap_frame + sizeof trap, (uint64_t)ist_stack_top);
    tss.ist[1] = (uint64_t)ist_stack_top - 2048 - 7;
    idt[UD].low ^= 3ul << 32;
    kernel("#UD by IST 2, misaligned", ud2, UD, 0);
    check_equal("it is aligned", trap_frame + sizeof trap, ((uint64_t)ist_stack_top - 2048 - 7) & ~15ul);
    tss.ist[2] = NOT_CANONICAL;
    idt[UD].low |= 3ul << 32;
    check_trap("#SS for an IST stack that is not canonical", trap_call(ud2, 0), SS, 1);
    idt_reset();
}

static uint64_t ss_seen;
static bool look_at_ss(struct trap *frame)
{
    __asm__ volatile("mov %%ss, %0" : "=r"(ss_seen));
    return true;
}

static void returns(void)
{
    trap_hooks[0x41] = look_at_ss;
    idt_reset();
    idt[0x41].low |= 3ul << 45;
    struct trap frame;
    static const uint8_t code[] = {0xcd, 0x41, 0xcd, 0x80};
    uint8_t *at = page_alloc();
    memcpy(at, code, sizeof code);
    frame_flat(&frame);
    frame.rip = (uint64_t)at;
    frame.rbx = 0x123456789abcdef0;
    check(frame_call(&frame) == NO_TRAP && trap.rbx == frame.rbx && trap.rsp == frame.rsp, "iretq comes back",
          "rip %lx rsp %lx", trap.rip, trap.rsp);
    check_equal("an inner ring's SS is null", ss_seen, 0);
    /* iretq with NT set: #GP in long mode */
    __asm__ volatile("pushf; orq $0x4000, (%rsp); popf");
    int got = frame_call(&frame);
    __asm__ volatile("pushf; andq $~0x4000, (%rsp); popf");
    check(got == GP && trap.error == 0, "#GP iretq with NT", "got %d error %lx", got, trap.error);
    frame.cs = SEL_DATA | 3;
    got = frame_call(&frame);
    check(got == GP && trap.error == SEL_DATA, "#GP iretq to a data segment", "got %d error %lx", got, trap.error);
    frame.cs = SEL_USER_CODE;
    frame.ss = 3;
    got = frame_call(&frame);
    check(got == GP && trap.error == 0, "#GP iretq to ring 3 with a null SS", "got %d error %lx", got, trap.error);
    frame.cs = SEL_CODE;
    frame.ss = 0;
    frame.rip = (uint64_t)user_return;
    check(frame_call(&frame) == NO_TRAP && trap.ss == 0, "iretq to ring 0 with a null SS", "ss %lx", trap.ss);
    gdt_set(SEL_SPARE, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_L | SEG_D));
    frame_flat(&frame);
    frame.cs = SEL_SPARE | 3;
    got = frame_call(&frame);
    check(got == GP && trap.error == SEL_SPARE, "#GP iretq to code with L and D", "got %d error %lx", got, trap.error);
    gdt_set(SEL_SPARE, 0);
}

void guest_main(void)
{
    frames();
    undefined();
    anywhere();
    canonical();
    privileged();
    segments();
    delivery();
    interrupt_stack();
    returns();
}
