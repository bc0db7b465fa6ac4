/* SPDX-License-Identifier: MIT */
/* A 16-bit program on a floppy, by way of the BIOS: loads its second part by INT 13h, then tries the BIOS services a boot
 * loader uses, the timer tick, and protected mode. Findings go to the first serial port; the end is port f4h. */
        .code16
        .globl _start
_start:
        ljmp $0, $1f
1:      cli
        xor %ax, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x7c00, %sp
        sti
        cld
        mov %dl, drive
        mov $5, %bp /* tries */
load:   mov $0x0208, %ax /* read 8 sectors */
        mov $0x0002, %cx
        mov drive, %dl
        mov $0, %dh
        mov $0x7e00, %bx
        int $0x13
        jnc part2
        xor %ax, %ax
        int $0x13
        dec %bp
        jnz load
        mov $0xf4, %dx
        mov $2, %al
        out %al, %dx
        hlt
drive:  .byte 0
        .org 510
        .word 0xaa55

/* check CONDITION-FOR-RIGHT, "name" */
        .macro right jump, name
        \jump 8f
        call wrong
        jmp 9f
8:      call good
9:      call print
        jmp 7f
        .asciz "\name\n"
7:
        .endm

part2:
        mov $0x00e3, %ax /* the first serial port: 9600 8N1 */
        xor %dx, %dx
        int $0x14
        right jmp, "boot sector loads the rest"
        cmpb $0, drive
        right je, "DL is the floppy"

        mov $0x0e2e, %ax
        xor %bx, %bx
        int $0x10
        right jmp, "int 10h teletype comes back"
        mov $0x0f00, %ax
        int $0x10
        cmp $80, %ah
        right je, "80 columns"

        int $0x12
        cmp $512, %ax
        right jae, "int 12h: at least 512 KiB"
        mov $0x88, %ah
        int $0x15
        cmp $1024, %ax
        right jae, "int 15h 88h: extended memory"

        /* E820: entries until EBX is 0, one of them usable at 1 MiB. */
        xor %ebx, %ebx
        xor %bp, %bp
1:      mov $0xe820, %eax
        mov $0x534d4150, %edx
        mov $24, %ecx
        mov $0x6000, %di
        int $0x15
        jc 2f
        cmp $0x534d4150, %eax
        jne 2f
        cmpl $0x100000, 0x6000
        jne 3f
        cmpl $1, 0x6010
        jne 3f
        mov $1, %bp
3:      test %ebx, %ebx
        jnz 1b
2:      cmp $1, %bp
        right je, "int 15h e820: usable memory at 1 MiB"

        /* The BIOS's clock: 18.2 ticks a second by IRQ 0. */
        mov 0x46c, %ax
        mov $0xffff, %cx
1:      hlt
        cmp 0x46c, %ax
        loope 1b
        cmp 0x46c, %ax
        right jne, "the tick at 46ch counts"
        mov $0x0200, %ax
        int $0x1a
        right jnc, "int 1ah reads the clock"

        /* A sector far out: head 1, cylinder 79, sector 18; it holds zeroes. */
        movl $0x11223344, 0x6000
        mov $0x0201, %ax
        mov $0x4f12, %cx
        mov $0x0100, %dx
        mov drive, %dl
        mov $0x6000, %bx
        int $0x13
        right jnc, "int 13h reads the last sector"
        cmpl $0, 0x6000
        right je, "and it is what the image holds"
        mov $0x0201, %ax
        mov $0x0001, %cx
        mov $0x0001, %dx
        mov $0x6000, %bx
        int $0x13
        right jc, "int 13h refuses a drive that is not there"
        mov $0x0800, %ax
        mov drive, %dl
        push %es
        xor %di, %di
        int $0x13
        pop %es
        and $0x3f, %cl
        cmp $18, %cl
        right je, "int 13h 08h: 18 sectors"

        /* Own interrupt vectors. */
        movw $on_divide, 0
        movw %cs, 2
        xor %cx, %cx
        mov $1, %ax
        xor %dx, %dx
        movw $0, seen
        div %cx
        cmpw $1, seen
        right je, "own handler for #DE"
        movw $on_timer, 0x1c * 4
        movw %cs, 0x1c * 4 + 2
        movw $0, seen
        sti
1:      hlt
        cmpw $2, seen
        jb 1b
        right jae, "own handler for int 1ch"

        /* Keyboard: nothing was typed. */
        mov $0x0100, %ax
        int $0x16
        right jz, "int 16h: no key waits"

        /* A graphics mode and back. */
        mov $0x0013, %ax
        int $0x10
        push $0xa000
        pop %es
        movb $0x5a, %es:1000
        cmpb $0x5a, %es:1000
        right je, "mode 13h holds a byte"
        mov $0x0003, %ax
        int $0x10
        push $0xb800
        pop %es
        movw $0x0741, %es:0
        cmpw $0x0741, %es:0
        right je, "text memory holds a cell"
        xor %ax, %ax
        mov %ax, %es

        /* Protected mode and back, with the BIOS in use afterwards. */
        cli
        in $0x92, %al
        or $2, %al
        and $0xfe, %al
        out %al, $0x92
        lgdt table
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmp $8, $1f
1:      mov $16, %ax
        mov %ax, %ds
        mov $0x300000, %ebx
        movl $0x13572468, %ds:(%ebx)
        mov %ds:(%ebx), %esi
        mov $24, %ax
        mov %ax, %ds
        mov %cr0, %eax
        and $0xfe, %al
        mov %eax, %cr0
        ljmp $0, $2f
2:      xor %ax, %ax
        mov %ax, %ds
        sti
        cmp $0x13572468, %esi
        right je, "protected mode reaches 3 MiB"
        mov $0x0e2e, %ax
        xor %bx, %bx
        int $0x10
        right jmp, "and the BIOS works on"
        mov $0x2400, %ax
        int $0x15
        mov $0x2401, %ax
        int $0x15
        right jnc, "int 15h 2401h opens A20"

        cmpw $0, failures
        jne 1f
        call print
        jmp 2f
        .asciz "end: all right, 0 wrong\n"
2:      xor %al, %al
        jmp leave
1:      mov $1, %al
leave:  mov %al, %bl
        mov $0x3fd, %dx /* the last character has to leave */
1:      in %dx, %al
        test $0x40, %al
        jz 1b
        mov %bl, %al
        mov $0xf4, %dx
        out %al, %dx
        mov $shutdown, %si
        mov $0x8900, %dx
        mov $8, %cx
        rep outsb
1:      cli
        hlt
        jmp 1b

on_divide:
        incw seen
        push %bp
        mov %sp, %bp
        addw $2, 2(%bp)
        pop %bp
        iret
on_timer:
        incw %cs:seen
        iret

good:   call print
        jmp 1f
        .asciz "ok "
1:      ret
wrong:  incw failures
        call print
        jmp 1f
        .asciz "FAIL "
1:      ret

/* Prints the text behind the jump that follows the call. */
print:  pop %bx
        push %bx
        mov %bx, %si
        add $2, %si /* a short jump */
        cmpb $0xe9, (%bx)
        jne 1f
        inc %si
1:      lodsb
        test %al, %al
        jz 3f
        mov %al, %ah
        mov $0x3fd, %dx
2:      in %dx, %al
        test $0x20, %al
        jz 2b
        mov $0x3f8, %dx
        mov %ah, %al
        out %al, %dx
        jmp 1b
3:      ret

seen:   .word 0
failures: .word 0
shutdown: .ascii "Shutdown"
        .balign 8
gdt:    .quad 0, 0x00009b000000ffff, 0x00cf93000000ffff, 0x000093000000ffff
table:  .word 31
        .long gdt
        .org 9 * 512
