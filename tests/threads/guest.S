/* SPDX-License-Identifier: MIT */
/*
 * A guest of two processors that do all at once what threads of the monitor meet on: interrupts to
 * each other, local timers, the serial port, locked and plain shared memory, code written on one
 * processor and run on the other, and the TSC. Multiboot 1, flat 32-bit protected mode. Prints "ok"
 * when the sums are exact and the TSC never ran backwards from one processor to the other, else
 * "bad" and a letter; then powers off.
 */
#define APIC   0xfee00000
#define ROUNDS 2048
#define AP_AT  0x8000

        .section .text.header, "ax"
        .balign 4
        .long 0x1badb002, 0, -0x1badb002

        .text
        .globl _start
_start:
        mov     $stack0, %esp
        cld
        lgdt    gdt_here                /* the loader's may be gone (Multiboot 3.2) */
        ljmp    $8, $1f
1:      mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $0xff, %al              /* the BIOS leaves the timer's interrupt on, at vector 8 */
        out     %al, $0x21
        out     %al, $0xa1
        mov     $trampoline, %esi
        mov     $AP_AT, %edi
        mov     $trampoline_end - trampoline, %ecx
        rep movsb
        mov     $idt + 0x40 * 8, %edi   /* 0x40: the other's IPI; 0x41: the timer */
        mov     $on_interrupt, %eax
        mov     $2, %ecx
1:      mov     %ax, (%edi)
        movw    $8, 2(%edi)
        movw    $0x8e00, 4(%edi)
        mov     %eax, %edx
        shr     $16, %edx
        mov     %dx, 6(%edi)
        add     $8, %edi
        loop    1b
        mov     $0xff, %al              /* no PIC */
        out     %al, $0x21
        out     %al, $0xa1
        movl    $0xc4500, APIC + 0x300  /* INIT, then SIPI, to all but self */
        call    sent
        movl    $0xc4600 | AP_AT >> 12, APIC + 0x300
        call    sent
        call    work
1:      pause                           /* the other's end */
        cmpl    $2, finished
        jne     1b
        cli
        mov     $'s', %bl
        cmpl    $2 * ROUNDS, locked
        jne     bad
        mov     $'p', %bl
        cmpl    $2 * ROUNDS, in_lock
        jne     bad
        mov     $'t', %bl
        cmpl    $0, backwards
        jne     bad
        mov     $'i', %bl
        cmpl    $0, interrupts
        je      bad
        mov     $'c', %bl
        cmpl    $0, patches_seen
        je      bad
        mov     $ok_text, %esi
        call    print
        jmp     power_off
bad:    mov     %bl, bad_letter
        mov     $bad_text, %esi
        call    print
power_off:
        mov     $0x604, %dx
        mov     $(5 << 10 | 1 << 13), %ax
        out     %ax, %dx
1:      cli
        hlt
        jmp     1b

ap_start:
        mov     $stack1, %esp
        call    work
1:      cli
        hlt
        jmp     1b

sent:   testl   $1 << 12, APIC + 0x300  /* delivery status */
        jnz     sent
        ret

work:   lidt    idt_here
        movl    $0x1ff, APIC + 0xf0     /* enabled */
        movl    $3, APIC + 0x3e0        /* by 16 */
        movl    $0x20041, APIC + 0x320  /* periodic */
        movl    $100000, APIC + 0x380
        lock incl started
1:      pause
        cmpl    $2, started
        jne     1b
        sti
        mov     $ROUNDS, %ebp
round:  lock incl locked
        mov     $1, %eax                /* a spin lock around what is not atomic */
1:      pause
        xchg    %eax, lock
        test    %eax, %eax
        jnz     1b
        incl    in_lock
        rdtsc
        cmp     last_tsc + 4, %edx
        ja      3f
        jb      2f
        cmp     last_tsc, %eax
        jae     3f
2:      incl    backwards
3:      mov     %eax, last_tsc
        mov     %edx, last_tsc + 4
        movl    $0, lock
        test    $0x1f, %ebp
        jnz     4f
        movl    $0xc4040, APIC + 0x300  /* the IPI */
        call    sent
        mov     %ebp, patched + 1       /* MOV's immediate, which both run */
        call    patched
        mov     $0x3fd, %dx
        in      %dx, %al
4:      test    $0xff, %ebp
        jnz     5f
        hlt                             /* until the timer or the other */
5:      dec     %ebp
        jnz     round
        lock incl finished
        ret

        .balign 8, 0x90
        nop; nop; nop
patched:
        mov     $0, %eax                /* the immediate is 4-byte aligned */
        test    %eax, %eax
        jz      1f
        lock incl patches_seen
1:      ret

on_interrupt:
        lock incl interrupts
        movl    $0, APIC + 0xb0         /* EOI */
        iret

print:  mov     $0x3fd, %dx
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

        .code16
trampoline:
        cli
        lgdtl   %cs:gdt_copy - trampoline
        mov     $1, %ax
        lmsw    %ax
        ljmpl   $8, $AP_AT + protected - trampoline
        .balign 4
gdt_copy:
        .word   3 * 8 - 1
        .long   gdt
        .code32
protected:
        mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $ap_start, %eax
        jmp     *%eax
trampoline_end:

        .data
        .balign 4096                    /* no code on the pages that are written */
gdt_here:
        .word   3 * 8 - 1
        .long   gdt
ok_text:        .asciz  "ok\n"
bad_text:       .ascii  "bad "
bad_letter:     .asciz  "?\n"
idt_here:
        .word   0x42 * 8 - 1
        .long   idt
        .balign 64
gdt:            .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
locked:         .long   0
in_lock:        .long   0
lock:           .long   0
last_tsc:       .quad   0
backwards:      .long   0
interrupts:     .long   0
patches_seen:   .long   0
started:        .long   0
finished:       .long   0

        .bss
        .balign 16
idt:    .skip   0x42 * 8
        .skip   256
stack0:
        .skip   256
stack1:
        .section .note.GNU-stack, "", @progbits
