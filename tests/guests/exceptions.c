/* SPDX-License-Identifier: MIT */
/* Every exception: its vector, error code, and the state it pushes (SDM volume 3, chapter 6). */
#include "lib/guest.h"

#define CLOBBERED "eax", "ecx", "edx", "ebx", "esi", "edi", "memory", "cc"
#define CODE(fn, text)                                                                                                 \
    static void fn(void *arg)                                                                                          \
    {                                                                                                                  \
        __asm__ volatile(text ::: CLOBBERED);                                                                          \
    }

CODE(div_zero, "xor %%ecx, %%ecx; mov $1, %%eax; cltd\n" AT_HERE "div %%ecx")
CODE(div_overflow, "mov $1, %%edx; xor %%eax, %%eax; mov $1, %%ecx\n" AT_HERE "div %%ecx")
CODE(idiv_overflow, "mov $0x80000000, %%eax; cltd; mov $-1, %%ecx\n" AT_HERE "idiv %%ecx")
CODE(idiv8_overflow, "mov $0x8000, %%eax; mov $1, %%ecx\n" AT_HERE "idiv %%cl")
CODE(aam_zero, "mov $1, %%eax\n" AT_HERE ".byte 0xd4, 0")
/* TF takes effect after the instruction that follows popf: the trap points behind the nop. */
CODE(single_step, "movl $772f, trap_expected_eip; pushf; orl $0x100, (%%esp); popf; nop; 772: nop; nop")
CODE(int1, "movl $772f, trap_expected_eip; .byte 0xf1; 772: nop")
CODE(int3, "movl $772f, trap_expected_eip; int3; 772: nop")
CODE(int3_denied, AT_HERE "int3")
CODE(int_3_long, "movl $772f, trap_expected_eip; .byte 0xcd, 3; 772: nop")
CODE(into_taken, "movl $772f, trap_expected_eip; mov $0x7f, %%al; add $1, %%al; into; 772: nop")
CODE(into_not_taken, "xor %%eax, %%eax; into")
CODE(bound_outside, "push $10; push $1; mov $11, %%eax\n" AT_HERE "bound %%eax, (%%esp)")
CODE(bound_below, "push $10; push $1; xor %%eax, %%eax\n" AT_HERE "bound %%eax, (%%esp)")
CODE(bound_inside, "push $10; push $1; mov $10, %%eax; bound %%eax, (%%esp); add $8, %%esp")
CODE(ud2, AT_HERE "ud2")
CODE(lock_nop, AT_HERE ".byte 0xf0, 0x90")
CODE(lock_register, AT_HERE ".byte 0xf0, 0x01, 0xc0")
CODE(lock_mov, AT_HERE ".byte 0xf0, 0x89, 0x04, 0x24")
CODE(lock_cmp, AT_HERE ".byte 0xf0, 0x39, 0x04, 0x24")
CODE(mov_to_cs, AT_HERE ".byte 0x8e, 0xc8")
CODE(mov_segment_7, AT_HERE ".byte 0x8e, 0xf8")
CODE(mov_from_cr1, AT_HERE ".byte 0x0f, 0x20, 0xc8")
CODE(lea_register, AT_HERE ".byte 0x8d, 0xc0")
CODE(cmpxchg8b_register, AT_HERE ".byte 0x0f, 0xc7, 0xc8")
CODE(far_jump_register, AT_HERE ".byte 0xff, 0xe8")
CODE(group5_7, AT_HERE ".byte 0xff, 0xff")
CODE(long_instruction, AT_HERE ".fill 15, 1, 0x26; nop")
CODE(longest_instruction, ".fill 14, 1, 0x26; nop")
CODE(fnop, AT_HERE "fnop")
CODE(fwait, AT_HERE "fwait")
CODE(sse_xorps, AT_HERE "xorps %%xmm0, %%xmm0")
CODE(mmx_emms, AT_HERE "emms")
CODE(push_null_ss, "xor %%eax, %%eax\n" AT_HERE "mov %%eax, %%ss")
CODE(hlt, AT_HERE "hlt")
CODE(cli, AT_HERE "cli")
CODE(sti, AT_HERE "sti")
CODE(in_port, AT_HERE "in $0x61, %%al")
CODE(out_port, "mov $0x80, %%edx\n" AT_HERE "out %%eax, %%dx")
CODE(insb, "mov $0x61, %%edx; mov $trap_cr2, %%edi\n" AT_HERE "insb")
CODE(read_cr0_user, AT_HERE "mov %%cr0, %%eax")
CODE(write_cr0_user, "xor %%eax, %%eax\n" AT_HERE "mov %%eax, %%cr0")
CODE(read_dr7_user, AT_HERE "mov %%db7, %%eax")
CODE(lgdt_user, AT_HERE "lgdt trap_cr2")
CODE(lidt_user, AT_HERE "lidt trap_cr2")
CODE(lldt_user, "xor %%eax, %%eax\n" AT_HERE "lldt %%ax")
CODE(ltr_user, "xor %%eax, %%eax\n" AT_HERE "ltr %%ax")
CODE(lmsw_user, "mov $1, %%eax\n" AT_HERE "lmsw %%ax")
CODE(smsw_user, "smsw %%ax; sgdt -16(%%esp); sidt -16(%%esp); str %%ax; sldt %%ax")
CODE(clts_user, AT_HERE "clts")
CODE(invd_user, AT_HERE "invd")
CODE(wbinvd_user, AT_HERE "wbinvd")
CODE(invlpg_user, AT_HERE "invlpg (%%eax)")
CODE(rdmsr_user, "mov $0x10, %%ecx\n" AT_HERE "rdmsr")
CODE(wrmsr_user, "mov $0x10, %%ecx\n" AT_HERE "wrmsr")
CODE(rdtsc_user, AT_HERE "rdtsc")
CODE(int_dpl0, AT_HERE "int $0x40")
CODE(rdmsr_unknown, "mov $0x12345, %%ecx\n" AT_HERE "rdmsr")
CODE(wrmsr_unknown, "mov $0x12345, %%ecx\n" AT_HERE "wrmsr")
CODE(cr4_reserved, "mov %%cr4, %%eax; or $0x8000, %%eax\n" AT_HERE "mov %%eax, %%cr4")
CODE(cr0_nw_without_cd, "mov %%cr0, %%eax; and $~0x40000000, %%eax; or $0x20000000, %%eax\n" AT_HERE "mov %%eax, %%cr0")
CODE(cr0_pg_without_pe, "mov %%cr0, %%eax; and $~1, %%eax; or $0x80000000, %%eax\n" AT_HERE "mov %%eax, %%cr0")
CODE(far_jump_null, AT_HERE "ljmp $0, $0")
CODE(int_vector_6, AT_HERE "int $6")
CODE(dr7_gd, "mov %%db7, %%eax; or $0x2000, %%eax; mov %%eax, %%db7\n" AT_HERE "mov %%db0, %%eax")
CODE(dr4_with_de, "mov %%cr4, %%eax; or $8, %%eax; mov %%eax, %%cr4\n" AT_HERE ".byte 0x0f, 0x21, 0xe0")
CODE(dr4_without_de, "mov %%cr4, %%eax; and $~8, %%eax; mov %%eax, %%cr4\n" AT_HERE ".byte 0x0f, 0x21, 0xe0")
CODE(user_nop, "nop")
CODE(iret_nt, "pushf; orl $0x4000, (%%esp); popf\n" AT_HERE "iret")
CODE(fdiv_zero, "fninit; push $0x37b; fldcw (%%esp); pop %%eax; fld1; fldz; fdivrp; nop\n" AT_HERE "fwait")
CODE(fdiv_zero_fninit, "fninit; push $0x37b; fldcw (%%esp); pop %%eax; fld1; fldz; fdivrp; fnstsw %%ax; fninit; fwait")
CODE(divps_zero,
     "push $0x1d80; ldmxcsr (%%esp); pop %%eax; xorps %%xmm0, %%xmm0; mov $0x3f800000, %%eax; movd %%eax, %%xmm1; "
     "shufps $0, %%xmm1, %%xmm1\n" AT_HERE "divps %%xmm0, %%xmm1")
CODE(mxcsr_reserved, "push $0x80000000\n" AT_HERE "ldmxcsr (%%esp)")
CODE(movaps_unaligned, "lea -64(%%esp), %%eax; and $~15, %%eax\n" AT_HERE "movaps %%xmm0, 4(%%eax)")
CODE(unaligned_dword, "movl trap_frame+1, %%eax")
CODE(unaligned_dword_here, AT_HERE "movl trap_frame+1, %%eax")
CODE(unaligned_word, AT_HERE "movw trap_frame+1, %%ax")
CODE(unaligned_qword, AT_HERE "fldl gdt+4")
CODE(aligned_dword, "movl trap_frame, %%eax; movb trap_frame+1, %%al; movw trap_frame+2, %%ax")

static void kernel(const char *name, void (*fn)(void *), int vector, uint32_t error)
{
    check_trap(name, trap_call(fn, 0), vector, error);
}

static void user(const char *name, void (*fn)(void *), int vector, uint32_t error)
{
    check_trap(name, user_call(fn, 0), vector, error);
}

static void arithmetic(void)
{
    kernel("#DE by zero", div_zero, DE, 0);
    kernel("#DE quotient too large", div_overflow, DE, 0);
    kernel("#DE idiv 80000000/-1", idiv_overflow, DE, 0);
    kernel("#DE idiv of 8000 by 1, 8 bits", idiv8_overflow, DE, 0);
    kernel("#DE aam 0", aam_zero, DE, 0);
    kernel("#OF", into_taken, OF, 0);
    kernel("into without OF", into_not_taken, NO_TRAP, 0);
    kernel("#BR above", bound_outside, BR, 0);
    kernel("#BR below", bound_below, BR, 0);
    kernel("bound inside", bound_inside, NO_TRAP, 0);
}

static void debug_traps(void)
{
    write_dr6(0xffff0ff0);
    kernel("#DB single step", single_step, DB, 0);
    check((trap_dr6 & 0xe00f) == 0x4000, "DR6.BS after a single step", "dr6 %x", trap_dr6);
    check(!(trap.eflags & FLAG_RF), "a trap pushes RF clear", "flags %x", trap.eflags);
    check(trap.eflags & FLAG_TF, "the pushed flags keep TF", "flags %x", trap.eflags);
    write_dr6(0xffff0ff0);
    kernel("#DB int1", int1, DB, 0);
    check(!(trap_dr6 & 0x4000), "int1 leaves DR6.BS", "dr6 %x", trap_dr6);
    kernel("#BP int3", int3, BP, 0);
    kernel("#BP int 3 of two bytes", int_3_long, BP, 0);
    write_dr6(0xffff0ff0);
    kernel("#DB general detect", dr7_gd, DB, 0);
    check((trap_dr6 & 0xe00f) == 0x2000, "DR6.BD", "dr6 %x", trap_dr6);
    write_dr7(0x400);
    kernel("DR4 with CR4.DE", dr4_with_de, UD, 0);
    kernel("DR4 without CR4.DE", dr4_without_de, NO_TRAP, 0);
}

static void undefined(void)
{
    kernel("#UD ud2", ud2, UD, 0);
    /* QEMU TCG pushes RF clear here; SDM 17.3.1.1: faults push it set. */
    check(trap.eflags & FLAG_RF, "a fault pushes RF set", "flags %x", trap.eflags);
    check((trap.cs & 0xffff) == SEL_CODE, "pushed CS", "cs %x", trap.cs);
    kernel("#UD lock nop", lock_nop, UD, 0);
    kernel("#UD lock add of registers", lock_register, UD, 0);
    kernel("#UD lock mov", lock_mov, UD, 0);
    kernel("#UD lock cmp", lock_cmp, UD, 0);
    kernel("#UD mov to CS", mov_to_cs, UD, 0);
    kernel("#UD mov to segment register 7", mov_segment_7, UD, 0);
    kernel("#UD mov from CR1", mov_from_cr1, UD, 0);
    kernel("#UD lea of a register", lea_register, UD, 0);
    kernel("#UD cmpxchg8b of a register", cmpxchg8b_register, UD, 0);
    kernel("#UD far jump to a register", far_jump_register, UD, 0);
    kernel("#UD ff /7", group5_7, UD, 0);
    kernel("#GP instruction of 16 bytes", long_instruction, GP, 0);
    kernel("instruction of 15 bytes", longest_instruction, NO_TRAP, 0);
}

static void coprocessor(void)
{
    uint32_t cr0 = read_cr0() | CR0_NE | CR0_MP;
    cr0 &= ~(CR0_EM | CR0_TS);
    uint32_t cr4 = read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT;
    write_cr4(cr4);
    write_cr0(cr0);
    kernel("fnop", fnop, NO_TRAP, 0);
    kernel("xorps", sse_xorps, NO_TRAP, 0);
    write_cr0(cr0 | CR0_TS);
    kernel("#NM x87 with TS", fnop, NM, 0);
    kernel("#NM fwait with TS and MP", fwait, NM, 0);
    kernel("#NM SSE with TS", sse_xorps, NM, 0);
    kernel("#NM MMX with TS", mmx_emms, NM, 0);
    write_cr0((cr0 | CR0_TS) & ~CR0_MP);
    kernel("fwait with TS, without MP", fwait, NO_TRAP, 0);
    write_cr0(cr0 | CR0_EM);
    kernel("#NM x87 with EM", fnop, NM, 0);
    kernel("fwait with EM", fwait, NO_TRAP, 0);
    kernel("#UD SSE with EM", sse_xorps, UD, 0);
    kernel("#UD MMX with EM", mmx_emms, UD, 0);
    write_cr0(cr0);
    write_cr4(cr4 & ~CR4_OSFXSR);
    kernel("#UD SSE without OSFXSR", sse_xorps, UD, 0);
    write_cr4(cr4);
    kernel("#MF at the next waiting instruction", fdiv_zero, MF, 0);
    __asm__ volatile("fninit");
    kernel("no #MF after fninit", fdiv_zero_fninit, NO_TRAP, 0);
    /* QEMU 7.2 TCG never raises #XM. */
    kernel("#XM", divps_zero, XM, 0);
    write_cr4(cr4 & ~CR4_OSXMMEXCPT);
    kernel("#UD for #XM without OSXMMEXCPT", divps_zero, UD, 0);
    write_cr4(cr4);
    uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
    kernel("#GP reserved MXCSR bit", mxcsr_reserved, GP, 0);
    /* QEMU 7.2 TCG does not check the alignment. */
    kernel("#GP movaps unaligned", movaps_unaligned, GP, 0);
}

static void privileged(void)
{
    user("ring 3 runs", user_nop, NO_TRAP, 0);
    user("ring 3 hlt", hlt, GP, 0);
    check((trap.cs & 0xffff) == SEL_USER_CODE && (trap.ss & 0xffff) == SEL_USER_DATA, "pushed CS and SS of ring 3",
          "cs %x ss %x", trap.cs, trap.ss);
    user("ring 3 cli", cli, GP, 0);
    user("ring 3 sti", sti, GP, 0);
    user("ring 3 in", in_port, GP, 0);
    user("ring 3 out", out_port, GP, 0);
    user("ring 3 insb", insb, GP, 0);
    user("ring 3 mov from CR0", read_cr0_user, GP, 0);
    user("ring 3 mov to CR0", write_cr0_user, GP, 0);
    user("ring 3 mov from DR7", read_dr7_user, GP, 0);
    user("ring 3 lgdt", lgdt_user, GP, 0);
    user("ring 3 lidt", lidt_user, GP, 0);
    user("ring 3 lldt", lldt_user, GP, 0);
    user("ring 3 ltr", ltr_user, GP, 0);
    user("ring 3 lmsw", lmsw_user, GP, 0);
    user("ring 3 smsw sgdt sidt str sldt", smsw_user, NO_TRAP, 0);
    user("ring 3 clts", clts_user, GP, 0);
    user("ring 3 invd", invd_user, GP, 0);
    user("ring 3 wbinvd", wbinvd_user, GP, 0);
    user("ring 3 invlpg", invlpg_user, GP, 0);
    user("ring 3 rdmsr", rdmsr_user, GP, 0);
    user("ring 3 wrmsr", wrmsr_user, GP, 0);
    user("ring 3 rdtsc", rdtsc_user, NO_TRAP, 0);
    write_cr4(read_cr4() | CR4_TSD);
    user("ring 3 rdtsc with CR4.TSD", rdtsc_user, GP, 0);
    check_trap("ring 0 rdtsc with CR4.TSD", trap_call(rdtsc_user, 0), NO_TRAP, 0);
    write_cr4(read_cr4() & ~CR4_TSD);
    user("ring 3 int of a DPL 0 gate", int_dpl0, GP, 0x40 * 8 + 2);
    user("ring 3 int3 of a DPL 0 gate", int3_denied, GP, BP * 8 + 2);
    check_trap("ring 3 int1 checks no DPL", user_call(int1, 0), DB, 0);
    /* IOPL 3 gives ring 3 cli, sti and ports. */
    check_trap("ring 3 cli with IOPL 3", user_call_flags(cli, 0, FLAG_IOPL), NO_TRAP, 0);
    check_trap("ring 3 in with IOPL 3", user_call_flags(in_port, 0, FLAG_IOPL), NO_TRAP, 0);
    check_trap("ring 3 hlt with IOPL 3", user_call_flags(hlt, 0, FLAG_IOPL), GP, 0);
}

static void general_protection(void)
{
    kernel("#GP rdmsr unknown", rdmsr_unknown, GP, 0);
    kernel("#GP wrmsr unknown", wrmsr_unknown, GP, 0);
    kernel("#GP CR0.NW without CD", cr0_nw_without_cd, GP, 0);
    kernel("#GP null SS", push_null_ss, GP, 0);
    kernel("#GP far jump to null", far_jump_null, GP, 0);
}

static void alignment(void)
{
    write_cr0(read_cr0() | CR0_AM);
    /* QEMU 7.2 TCG has no #AC. */
    check_trap("#AC dword", user_call_flags(unaligned_dword_here, 0, FLAG_AC), AC, 0);
    check_trap("#AC word", user_call_flags(unaligned_word, 0, FLAG_AC), AC, 0);
    check_trap("#AC x87 qword", user_call_flags(unaligned_qword, 0, FLAG_AC), AC, 0);
    check_trap("no #AC when aligned", user_call_flags(aligned_dword, 0, FLAG_AC), NO_TRAP, 0);
    check_trap("no #AC without EFLAGS.AC", user_call_flags(unaligned_dword, 0, 0), NO_TRAP, 0);
    write_cr0(read_cr0() & ~CR0_AM);
    check_trap("no #AC without CR0.AM", user_call_flags(unaligned_dword, 0, FLAG_AC), NO_TRAP, 0);
}

static void delivery(void)
{
    /* A gate that is not present: #NP with the vector, IDT bit, and EXT when no INT instruction was the cause. */
    idt[UD] = gate(SEL_CODE, 0, 0x0e, 0);
    kernel("#NP for a gate, by an exception", ud2, NP, UD * 8 + 3);
    kernel("#NP for a gate, by int n", int_vector_6, NP, UD * 8 + 2);
    idt[UD] = gate(0, 0, 0x8e, 0);
    kernel("#GP for a gate with a null selector, by an exception", ud2, GP, 1);
    kernel("#GP for a gate with a null selector, by int n", int_vector_6, GP, 0);
    idt[UD] = gate(SEL_DATA, 0, 0x8e, 0);
    kernel("#GP for a gate to a data segment", ud2, GP, SEL_DATA + 1);
    idt_reset();
    idt[UD] = 0;
    kernel("#GP for a gate of type 0", ud2, GP, UD * 8 + 3);
    /* A contributory exception while one is delivered. */
    idt_reset();
    idt[GP] = 0;
    kernel("#DF from #GP and #GP", push_null_ss, DF, 0);
    idt_reset();
    idt[DE] = 0;
    idt[GP] = gate(SEL_CODE, 0, 0x0e, 0);
    kernel("#DF from #DE and #GP", div_zero, DF, 0);
    idt_reset();
    tss.link = 0;
    kernel("#TS for iret of a nested task without a link", iret_nt, TS, 0);
    tss.link = SEL_DATA;
    kernel("#TS for iret to a link that is no TSS", iret_nt, TS, SEL_DATA);
    tss.link = 0;
}

static bool gate_flags_seen(struct trap *frame)
{
    uint32_t flags = read_flags();
    frame->eax = flags;
    return true;
}

static void gate_types(void)
{
    uint32_t flags;
    trap_hooks[0x40] = gate_flags_seen;
    __asm__ volatile("pushf; orl $0x200, (%%esp); popf; int $0x40; cli" : "=a"(flags));
    check(!(flags & FLAG_IF), "an interrupt gate clears IF", "flags %x", flags);
    idt[0x40] |= 1ull << 40; /* type 0xf */
    __asm__ volatile("pushf; orl $0x200, (%%esp); popf; int $0x40; cli" : "=a"(flags));
    check(flags & FLAG_IF, "a trap gate keeps IF", "flags %x", flags);
    __asm__ volatile("pushf; orl $0x4000, (%%esp); popf; int $0x40; pushf; andl $~0x4000, (%%esp); popf" : "=a"(flags));
    check(!(flags & FLAG_NT), "delivery clears NT", "flags %x", flags);
    idt_reset();
    trap_hooks[0x40] = NULL;
}

void guest_main(void)
{
    arithmetic();
    debug_traps();
    undefined();
    general_protection();
    coprocessor();
    privileged();
    alignment();
    delivery();
    gate_types();
    /* Last, because QEMU 7.2 TCG hangs in the first and lets the second pass. */
    kernel("#GP reserved bit of CR4", cr4_reserved, GP, 0);
    kernel("#GP CR0.PG without PE", cr0_pg_without_pe, GP, 0);
}
