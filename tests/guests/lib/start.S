/* SPDX-License-Identifier: MIT */
/* Entry from a multiboot loader (flat 32-bit segments, paging and interrupts off), the 256 interrupt stubs, and the
 * way back out of a trap that a test provoked. */
#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x00000002 /* memory sizes, please */

        .section .multiboot, "ax"
        .balign 4
        .globl multiboot_header
multiboot_header:
        .long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .text
        .globl _start
_start:
        cli
        cld
        mov $start_stack_top, %esp
        xor %ebp, %ebp
        push %ebx
        push %eax
        call guest_start
1:      hlt
        jmp 1b

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
        pushal
        push %ds
        push %es
        push %fs
        push %gs
        mov $0x10, %eax
        mov %eax, %ds
        mov %eax, %es
        cld
        push %esp
        call trap_handle
        add $4, %esp
        pop %gs
        pop %fs
        pop %es
        pop %ds
        popal
        add $8, %esp
        iret

/* int trap_call(void (*fn)(void *), void *arg): -1, or the vector of the trap that ended fn. May be nested. */
        .globl trap_call
trap_call:
        push %ebp
        push %ebx
        push %esi
        push %edi
        pushl trap_saved_esp
        mov %esp, trap_saved_esp
        pushl 28(%esp)
        call *28(%esp)
        add $4, %esp
        mov $-1, %eax
trap_call_end:
        popl trap_saved_esp
        pop %edi
        pop %esi
        pop %ebx
        pop %ebp
        ret

/* void trap_leave(int vector): back to the innermost trap_call, with flat segments and plain flags. */
        .globl trap_leave
trap_leave:
        mov 4(%esp), %eax
        mov $0x10, %edx
        mov %edx, %ss
        mov trap_saved_esp, %esp
        mov %edx, %ds
        mov %edx, %es
        xor %edx, %edx
        mov %edx, %fs
        mov %edx, %gs
        push $2
        popf
        jmp trap_call_end

/* void enter_frame(const struct trap *frame): loads a complete frame, of any ring or of v8086 mode. */
        .globl enter_frame
enter_frame:
        mov 4(%esp), %esp
        pop %gs
        pop %fs
        pop %es
        pop %ds
        popal
        add $8, %esp
        iret

/* Where a ring 3 function returns to. */
        .globl user_return
user_return:
        int $0x80

        .bss
        .globl trap_saved_esp
        .balign 16
trap_saved_esp:
        .long 0
        .balign 4096
        .skip 65536
        .globl start_stack_top
start_stack_top:
        .skip 16384
        .globl trap_stack_top
trap_stack_top:
        .skip 16384
        .globl user_stack_top
user_stack_top:
