/* SPDX-License-Identifier: MIT */
/*
 * From the multiboot entry to legacy_start, the tables, and the ways into and out of the code under
 * test: legacy_enter (protected and virtual-8086 mode, by IRET) and legacy_enter_real. The structure
 * of registers is legacy.h's.
 */
        .section .multiboot, "ax"
        .balign 4
        .long   0x1badb002, 0, -0x1badb002

        .text
        .code32
        .globl  _start
_start: cli
        cld
        mov     $boot_stack_top, %esp
        lgdt    gdt_pointer
        ljmp    $0x08, $1f
1:      mov     $0x10, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %fs
        mov     %eax, %gs
        fninit
        call    legacy_start
2:      hlt
        jmp     2b

/* void legacy_enter(struct regs *r) */
        .globl  legacy_enter
legacy_enter:
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        mov     %esp, return_stack
        mov     20(%esp), %edi
        mov     %edi, current
        testl   $0x20000, 36(%edi)
        jz      1f
        pushl   60(%edi)                /* GS FS DS ES, then as from any inner ring */
        pushl   56(%edi)
        pushl   48(%edi)
        pushl   52(%edi)
        jmp     2f
1:      testl   $3, 40(%edi)
        jz      3f
2:      pushl   44(%edi)
        pushl   16(%edi)
        jmp     4f
3:      mov     44(%edi), %ss
        mov     16(%edi), %esp
4:      pushl   36(%edi)
        pushl   40(%edi)
        pushl   32(%edi)
        testl   $0x20000, 36(%edi)
        jnz     5f
        mov     52(%edi), %es
        mov     56(%edi), %fs
        mov     60(%edi), %gs
        mov     48(%edi), %ds
5:      mov     %cs:0(%edi), %eax
        mov     %cs:4(%edi), %ecx
        mov     %cs:8(%edi), %edx
        mov     %cs:12(%edi), %ebx
        mov     %cs:20(%edi), %ebp
        mov     %cs:24(%edi), %esi
        mov     %cs:28(%edi), %edi
        iret

/* Stack: vector, error code or 0, EIP, CS, EFLAGS and perhaps ESP, SS, ES, DS, FS, GS. */
legacy_leave:
        push    %eax
        push    %ds
        push    $0x10
        pop     %ds
        mov     current, %eax
        mov     %ecx, 4(%eax)
        mov     %edx, 8(%eax)
        mov     %ebx, 12(%eax)
        mov     %ebp, 20(%eax)
        mov     %esi, 24(%eax)
        mov     %edi, 28(%eax)
        mov     %es, 52(%eax)
        mov     %fs, 56(%eax)
        mov     %gs, 60(%eax)
        popl    48(%eax)
        popl    0(%eax)
        popl    64(%eax)
        popl    68(%eax)
        mov     %esp, 76(%eax)
        popl    32(%eax)
        popl    40(%eax)
        popl    36(%eax)
        testl   $0x20000, 36(%eax)
        jz      1f
        popl    16(%eax)
        popl    44(%eax)
        popl    52(%eax)
        popl    48(%eax)
        popl    56(%eax)
        popl    60(%eax)
        jmp     3f
1:      testl   $3, 40(%eax)
        jz      2f
        popl    16(%eax)
        popl    44(%eax)
        jmp     3f
2:      mov     %esp, 16(%eax)
        mov     %ss, 44(%eax)
3:      mov     %cr2, %ecx
        mov     %ecx, 72(%eax)
back:   mov     $0x10, %ecx
        mov     %ecx, %ss
        mov     return_stack, %esp
        mov     %ecx, %es
        mov     %ecx, %fs
        mov     %ecx, %gs
        push    $2
        popf
        pop     %edi
        pop     %esi
        pop     %ebp
        pop     %ebx
        ret

        .globl  legacy_vectors
        .balign 16
legacy_vectors:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     vector != 8 && (vector < 10 || vector > 14) && vector != 17
        push    $0
        .endif
        pushl   $vector
        jmp     legacy_leave
        .set    vector, vector + 1
        .endr

/*
 * Real mode. What is between low_start and low_end is copied to LOW_CODE, and LOW_REGS is the
 * structure of registers there. void legacy_enter_real(bool big): LOW_REGS in and out.
 */
#define LOW_CODE 0x1000
#define LOW_REGS 0x600
#define LOW(label) (label - low_start + LOW_CODE)

        .globl  legacy_enter_real
legacy_enter_real:
        push    %ebx
        push    %ebp
        push    %esi
        push    %edi
        mov     %esp, return_stack
        mov     20(%esp), %eax
        sidt    old_idt
        lidt    real_idt
        mov     $0x38, %ecx
        test    %al, %al
        jz      1f
        mov     $0x10, %ecx             /* limits of 4 GiB stay */
1:      mov     $0x38, %eax
        mov     %eax, %ss
        mov     %ecx, %ds
        mov     %ecx, %es
        mov     %ecx, %fs
        mov     %ecx, %gs
        ljmp    $0x30, $LOW(enter_16)
        .globl  legacy_left_real
legacy_left_real:
        mov     $0x10, %ecx
        mov     %ecx, %ds
        mov     %ecx, %ss
        lidt    old_idt
        jmp     back

        .globl  low_start, low_end, low_vectors
low_start:
        .code16
enter_16:
        mov     %cr0, %eax
        and     $~1, %al
        mov     %eax, %cr0
        ljmp    $0, $LOW(enter_real)
enter_real:
        xor     %ax, %ax
        mov     %ax, %ds
        lssl    LOW_REGS + 80, %esp     /* ESP and SS once more, side by side */
        pushw   LOW_REGS + 36
        pushw   LOW_REGS + 40
        pushw   LOW_REGS + 32
        mov     LOW_REGS + 52, %es
        mov     LOW_REGS + 56, %fs
        mov     LOW_REGS + 60, %gs
        mov     LOW_REGS + 0, %eax
        mov     LOW_REGS + 4, %ecx
        mov     LOW_REGS + 8, %edx
        mov     LOW_REGS + 12, %ebx
        mov     LOW_REGS + 20, %ebp
        mov     LOW_REGS + 24, %esi
        mov     LOW_REGS + 28, %edi
        mov     LOW_REGS + 48, %ds
        iretw

/* Stack: vector, IP, CS, FLAGS, words. */
leave_real:
        pushl   %eax
        pushw   %ds
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ecx, LOW_REGS + 4
        mov     %edx, LOW_REGS + 8
        mov     %ebx, LOW_REGS + 12
        mov     %ebp, LOW_REGS + 20
        mov     %esi, LOW_REGS + 24
        mov     %edi, LOW_REGS + 28
        mov     %es, LOW_REGS + 52
        mov     %fs, LOW_REGS + 56
        mov     %gs, LOW_REGS + 60
        popw    LOW_REGS + 48
        popl    LOW_REGS + 0
        popw    LOW_REGS + 64
        mov     %esp, LOW_REGS + 76
        popw    LOW_REGS + 32
        popw    LOW_REGS + 40
        popw    LOW_REGS + 36
        mov     %esp, LOW_REGS + 16
        mov     %ss, LOW_REGS + 44
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $0x08, $legacy_left_real
        .balign 8
low_vectors:
        .set    vector, 0
        .rept   256
        .balign 8
        pushw   $vector
        jmp     leave_real
        .set    vector, vector + 1
        .endr
low_end:
        .code32

        .data
        .balign 16
        .globl  legacy_gdt
legacy_gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* 08 code */
        .quad   0x00cf93000000ffff      /* 10 data */
        .quad   0x00cffb000000ffff      /* 18 code, DPL 3 */
        .quad   0x00cff3000000ffff      /* 20 data, DPL 3 */
        .quad   0                       /* 28 the TSS */
        .quad   0x00009b000000ffff      /* 30 code, 16-bit, 64 KiB */
        .quad   0x000093000000ffff      /* 38 data, 64 KiB */
        .fill   24, 8, 0
gdt_pointer:
        .word   . - legacy_gdt - 1
        .long   legacy_gdt
real_idt:
        .word   0x3ff
        .long   0
old_idt:
        .word   0
        .long   0
        .globl  current
current:
        .long   0
return_stack:
        .long   0

        .bss
        .balign 16
        .skip   16384
boot_stack_top:
        .section .note.GNU-stack, "", @progbits
