/* SPDX-License-Identifier: MIT */
/*
 * A guest of one page for tests of the machine's life: a multiboot 1 kernel that does what the
 * first letter of its command line says. Flat 32-bit protected mode (Multiboot 0.6.96, 3.2).
 *
 *   p  prints "hello", then powers off (ACPI S5)
 *   r  prints "ready", then resets by port 0xcf9 the first time, powers off the second: RAM survives a reset
 *   i  the same by INIT to itself
 *   j  the same by a jump to FFFF:0000 in real mode
 *   t  triple fault
 *   d  writes 5 to the debug exit port
 *   f  prints for ever
 *   c  counts instructions for a fixed loop, prints, powers off
 *   w  prints "ready", then resets the processor with a shutdown code in CMOS: real mode goes on at
 *      40:67, prints "W" and powers off
 *   h  prints "ready", then halts with interrupts off, for ever
 */
        .section .text.header, "ax"
        .balign 4
        .long 0x1badb002, 0, -0x1badb002

        .text
        .globl _start
_start:
        mov     $stack, %esp
        mov     16(%ebx), %esi          /* cmdline of the information (3.3) */
        mov     (%esi), %al
        cmp     $'p', %al
        je      power_off
        cmp     $'r', %al
        je      reset
        mov     $init, %edi
        cmp     $'i', %al
        je      reset_by
        mov     $jump, %edi
        cmp     $'j', %al
        je      reset_by
        cmp     $'t', %al
        je      triple_fault
        cmp     $'d', %al
        je      debug_exit
        cmp     $'f', %al
        je      forever
        cmp     $'c', %al
        je      count
        cmp     $'w', %al
        je      shutdown_code
        mov     $ready, %esi
        call    print
halt:
        cli
        hlt
        jmp     halt

power_off:
        mov     $hello, %esi
        call    print
        mov     $0x604, %dx             /* PM1a control: SLP_TYP 5, SLP_EN */
        mov     $(5 << 10 | 1 << 13), %ax
        out     %ax, %dx
        jmp     halt

shutdown_code:
        mov     $ready, %esi
        call    print
        mov     $real, %esi
        mov     $0x7010, %edi
        mov     $real_end - real, %ecx
        rep movsb
        movl    $0x07000010, 0x467      /* 0700:0010 */
        mov     $0x8f, %al
        out     %al, $0x70
        mov     $0x0a, %al
        out     %al, $0x71
        mov     $0xfe, %al              /* the keyboard controller pulses reset */
        out     %al, $0x64
        jmp     halt

        .code16
real:                                   /* CS is 0700, the other segments 0 */
        cmpl    $0x07000010, 0x467
        jne     1f
        mov     %cs, %bx
        cmp     $0x0700, %bx
        jne     1f
        mov     $0x8f, %al
        out     %al, $0x70
        in      $0x71, %al              /* the code was taken */
        test    %al, %al
        jnz     1f
        mov     $0x3f8, %dx
        mov     $'W', %al
        out     %al, %dx
        mov     $0x604, %dx
        mov     $(5 << 10 | 1 << 13), %ax
        out     %ax, %dx
1:      hlt
        jmp     1b
real_end:
        .code32

reset:
        mov     $control, %edi
reset_by:                               /* the code at %edi, the first time */
        mov     $ready, %esi
        call    print
        cmpl    $0x600d, 0x200000
        je      power_off
        movl    $0x600d, 0x200000
        jmp     *%edi

control:
        mov     $0xcf9, %dx
        mov     $2, %al
        out     %al, %dx
        mov     $6, %al
        out     %al, %dx
        jmp     halt

init:                                   /* physical destination 0; assert, INIT */
        movl    $0, 0xfee00310
        movl    $0x4500, 0xfee00300
        jmp     halt

jump:                                   /* through 16-bit protected mode (SDM 3A 9.9.2) */
        mov     $real_jump, %esi
        mov     $0x7000, %edi
        mov     $real_jump_end - real_jump, %ecx
        rep movsb
        lgdt    gdt_pointer
        ljmp    $8, $0x7000
        .code16
real_jump:
        mov     %cr0, %eax
        and     $~1, %al
        mov     %eax, %cr0
        ljmp    $0xffff, $0
real_jump_end:
        .code32

triple_fault:
        mov     $0xdeadbeef, %ecx
        lidt    no_table
        ud2

debug_exit:
        mov     $5, %eax
        mov     $0xf4, %dx
        out     %eax, %dx
        jmp     halt

forever:
        mov     $hello, %esi
        call    print
        jmp     forever

count:
        mov     $1000000, %ecx
1:      dec     %ecx
        jnz     1b
        jmp     power_off

print:                                  /* the string at %esi to COM1, waiting for THRE */
        mov     $0x3fd, %dx
1:      in      %dx, %al
        test    $0x20, %al
        jz      1b
        mov     $0x3f8, %dx
        lodsb
        test    %al, %al
        jz      2f
        out     %al, %dx
        jmp     print
2:      ret

        .section .rodata
hello:  .asciz  "hello\n"
ready:  .asciz  "ready\n"
        .balign 8
gdt:    .quad   0, 0x00009a000000ffff   /* 16-bit code */
gdt_pointer:
        .word   15
        .long   gdt
no_table:
        .word   0
        .long   0

        .bss
        .balign 16
        .skip   256
stack:
        .section .note.GNU-stack, "", @progbits
