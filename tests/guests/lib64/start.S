/* SPDX-License-Identifier: MIT */
/* Entry from a multiboot loader (flat 32-bit segments, paging and interrupts off): builds tables that map the first
 * 4 GiB one to one in 2 MiB pages, for everybody, and switches to long mode by the manual's steps (SDM vol. 3, 9.8.5).
 * Then the interrupt stubs, and the way back out of a trap that a test provoked. */
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x00000002 /* memory sizes, please */

        .section .multiboot, "ax"
        .balign 4
multiboot_header:
        .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .text
        .code32
        .globl _start
_start:
        cli
        cld
        mov $start_stack_top, %esp
        mov %eax, %esi
        mov %ebx, %edi
        mov $0x80000000, %eax
        cpuid
        cmp $0x80000001, %eax
        jb no_long_mode
        mov $0x80000001, %eax
        cpuid
        bt $29, %edx
        jnc no_long_mode

        movl $start_pdpt + 7, start_pml4
        xor %ecx, %ecx
1:      mov %ecx, %eax                     /* four directories */
        shl $12, %eax
        add $start_directories + 7, %eax
        mov %eax, start_pdpt(,%ecx,8)
        inc %ecx
        cmp $4, %ecx
        jb 1b
        xor %ecx, %ecx
2:      mov %ecx, %eax
        shl $21, %eax
        or $0x87, %eax
        mov %eax, start_directories(,%ecx,8)
        inc %ecx
        cmp $2048, %ecx
        jb 2b

        mov %cr4, %eax
        or $0x620, %eax                    /* PAE, OSFXSR, OSXMMEXCPT */
        mov %eax, %cr4
        mov $start_pml4, %eax
        mov %eax, %cr3
        mov $0xc0000080, %ecx
        rdmsr
        or $0x901, %eax                    /* SCE, LME, NXE */
        wrmsr
        mov %cr0, %eax
        and $~0x0c, %eax                   /* EM, TS */
        or $0x80010022, %eax               /* PG, WP, NE, MP */
        mov %eax, %cr0
        lgdt start_gdt_register
        ljmp $0x08, $start64

no_long_mode:
        mov $3, %al
        out %al, $0xf4
3:      hlt
        jmp 3b

        .balign 8
start_gdt_register:
        .word 0x17
        .long start_gdt, 0
        .balign 8
start_gdt:
        .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff

        .code64
start64:
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        mov %eax, %ss
        xor %eax, %eax
        mov %eax, %fs
        mov %eax, %gs
        mov $start_stack_top, %rsp
        xor %ebp, %ebp
        call guest_start
4:      hlt
        jmp 4b

/* One stub for each vector. The processor pushes an error code for 8, 10-14, 17 and 21; the others push a 0. */
        .balign 16
        .globl trap_stubs
trap_stubs:
        .set vector, 0
        .rept 256
        .balign 16
        .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
        push $0
        .endif
        push $vector
        jmp trap_common
        .set vector, vector + 1
        .endr

trap_common:
        push %rax
        push %rcx
        push %rdx
        push %rbx
        push %rbp
        push %rsi
        push %rdi
        push %r8
        push %r9
        push %r10
        push %r11
        push %r12
        push %r13
        push %r14
        push %r15
        cld
        mov %rsp, %rdi
        call trap_handle
        mov %rsp, %rdi
/* void enter_frame(const struct trap *frame): loads a complete frame, of any ring. */
        .globl enter_frame
enter_frame:
        mov %rdi, %rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %r11
        pop %r10
        pop %r9
        pop %r8
        pop %rdi
        pop %rsi
        pop %rbp
        pop %rbx
        pop %rdx
        pop %rcx
        pop %rax
        add $16, %rsp
        .globl enter_frame_iret
enter_frame_iret:
        iretq

/* int trap_call(void (*fn)(void *), void *arg): -1, or the vector of the trap that ended fn. May be nested. */
        .globl trap_call
trap_call:
        push %rbp
        push %rbx
        push %r12
        push %r13
        push %r14
        push %r15
        pushq trap_saved_rsp
        mov %rsp, trap_saved_rsp
        mov %rdi, %rax
        mov %rsi, %rdi
        call *%rax
        mov $-1, %eax
trap_call_end:
        popq trap_saved_rsp
        pop %r15
        pop %r14
        pop %r13
        pop %r12
        pop %rbx
        pop %rbp
        ret

/* void trap_leave(int vector): back to the innermost trap_call, with flat segments and plain flags. */
        .globl trap_leave
trap_leave:
        mov %edi, %eax
        mov $0x10, %edx
        mov %edx, %ss
        mov trap_saved_rsp, %rsp
        mov %edx, %ds
        mov %edx, %es
        push $2
        popf
        jmp trap_call_end

/* Where a ring 3 function returns to. */
        .globl user_return
user_return:
        int $0x80

        .bss
        .globl trap_saved_rsp
        .balign 16
trap_saved_rsp:
        .quad 0
        .balign 4096
        .globl start_pml4
start_pml4:
        .skip 4096
start_pdpt:
        .skip 4096
start_directories:
        .skip 16384
        .skip 65536
        .globl start_stack_top
start_stack_top:
        .skip 16384
        .globl trap_stack_top
trap_stack_top:
        .skip 16384
        .globl ist_stack_top
ist_stack_top:
        .skip 16384
        .globl user_stack_top
user_stack_top:
