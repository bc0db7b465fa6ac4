/* SPDX-License-Identifier: MIT */
/* Boot sector of a floppy that holds a bare-metal guest as a flat binary from its second sector on: loads it by the
 * BIOS, sector by sector, to 64 KiB, copies it to 1 MiB in protected mode, and starts it as a multiboot loader would.
 * The guest's entry and its number of sectors come with -DGUEST_ENTRY and -DGUEST_SECTORS. */
        .code16
        .globl _start
_start:
        ljmp $0, $1f
1:      xor %ax, %ax
        mov %ax, %ds
        mov %ax, %ss
        mov $0x7c00, %sp
        mov %dl, drive
        mov $0x1000, %di /* segment the next sector goes to */
        mov $1, %si      /* its number */
read:   mov %si, %ax
        xor %dx, %dx
        mov $18, %cx
        div %cx
        inc %dx
        mov %dl, %cl /* sector */
        xor %dx, %dx
        mov $2, %bx
        div %bx
        mov %al, %ch /* cylinder */
        mov %dl, %dh /* head */
        mov drive, %dl
        mov %di, %es
        xor %bx, %bx
        mov $0x0201, %ax
        int $0x13
        jc failed
        add $0x20, %di
        inc %si
        cmp $(GUEST_SECTORS + 1), %si
        jne read
        in $0x92, %al /* A20 */
        or $2, %al
        and $0xfe, %al
        out %al, $0x92
        cli
        lgdt table
        mov %cr0, %eax
        or $1, %al
        mov %eax, %cr0
        ljmp $8, $protected
failed: mov $0xe46, %ax /* F */
        int $0x10
        cli
        hlt
        .code32
protected:
        mov $16, %ax
        mov %ax, %ds
        mov %ax, %es
        mov %ax, %ss
        mov $0x10000, %esi
        mov $0x100000, %edi
        mov $(GUEST_SECTORS * 128), %ecx
        cld
        rep movsl
        xor %eax, %eax
        mov $(1024 * 1024), %ecx /* a multiboot loader clears the bss */
        rep stosl
        mov $0x2badb002, %eax
        xor %ebx, %ebx
        mov $GUEST_ENTRY, %ecx
        jmp *%ecx
        .balign 8
gdt:    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
table:  .word 23
        .long gdt
drive:  .byte 0
        .org 510
        .word 0xaa55
