/* SPDX-License-Identifier: MIT */
/*
 * From the multiboot entry (flat 32-bit protected mode; Multiboot 0.6.96, 3.2) to long mode, the
 * tables of the test guests, and the way into and out of the code under test: isa_enter loads a
 * whole register state by IRETQ, and whatever vector comes next brings a whole state back.
 *
 * Memory: the first GiB is identity-mapped for supervisors by 2 MiB pages, and again for users at
 * USER_BASE; the GiB of the APICs is identity-mapped uncached. See isa.h for the selectors.
 */
#define DONE_VECTOR 0x40

        .section .multiboot, "ax"
        .balign 4
        .long   0x1badb002, 0, -0x1badb002

        .text
        .code32
        .globl  _start
_start:
        cli
        cld
        mov     $boot_stack_top, %esp
        mov     16(%ebx), %edi          /* cmdline of the information (3.3) */
        mov     $isa_pml4, %eax
        mov     %eax, %cr3
        mov     $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x901, %eax            /* SCE, LME, NXE */
        wrmsr
        mov     $0x80010033, %eax       /* PG, WP, NE, ET, MP, PE */
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $0x08, $long_mode

        .code64
long_mode:
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $boot_stack_top, %rsp
        fninit
        mov     %edi, %edi
        call    isa_start
1:      hlt
        jmp     1b

/* void isa_enter(struct regs *r) */
        .globl  isa_enter
isa_enter:
        push    %rbx
        push    %rbp
        push    %r12
        push    %r13
        push    %r14
        push    %r15
        mov     %rsp, isa_return_stack
        mov     %rdi, isa_current
        pushq   0x98(%rdi)              /* SS */
        pushq   0x20(%rdi)              /* RSP */
        pushq   0x88(%rdi)              /* RFLAGS */
        pushq   0x90(%rdi)              /* CS */
        pushq   0x80(%rdi)              /* RIP */
        mov     0x00(%rdi), %rax
        mov     0x08(%rdi), %rcx
        mov     0x10(%rdi), %rdx
        mov     0x18(%rdi), %rbx
        mov     0x28(%rdi), %rbp
        mov     0x30(%rdi), %rsi
        mov     0x40(%rdi), %r8
        mov     0x48(%rdi), %r9
        mov     0x50(%rdi), %r10
        mov     0x58(%rdi), %r11
        mov     0x60(%rdi), %r12
        mov     0x68(%rdi), %r13
        mov     0x70(%rdi), %r14
        mov     0x78(%rdi), %r15
        mov     0x38(%rdi), %rdi
        .globl  isa_iret
isa_iret:
        iretq

/* Stack: vector, error code or 0, RIP, CS, RFLAGS, RSP, SS. */
        .globl  isa_leave
isa_leave:
        push    %rax
        mov     isa_current, %rax
        test    %rax, %rax
        jz      unexpected
        mov     %rcx, 0x08(%rax)
        mov     %rdx, 0x10(%rax)
        mov     %rbx, 0x18(%rax)
        mov     %rbp, 0x28(%rax)
        mov     %rsi, 0x30(%rax)
        mov     %rdi, 0x38(%rax)
        mov     %r8, 0x40(%rax)
        mov     %r9, 0x48(%rax)
        mov     %r10, 0x50(%rax)
        mov     %r11, 0x58(%rax)
        mov     %r12, 0x60(%rax)
        mov     %r13, 0x68(%rax)
        mov     %r14, 0x70(%rax)
        mov     %r15, 0x78(%rax)
        popq    0x00(%rax)
        popq    0xa0(%rax)              /* vector */
        popq    0xa8(%rax)              /* error code */
        mov     %rsp, 0xc0(%rax)        /* of the frame, where RIP is */
        popq    0x80(%rax)
        popq    0x90(%rax)
        popq    0x88(%rax)
        popq    0x20(%rax)
        popq    0x98(%rax)
        mov     %cr2, %rcx
        mov     %rcx, 0xb0(%rax)
        mov     %dr6, %rcx
        mov     %rcx, 0xb8(%rax)
        pushfq
        popq    0xc8(%rax)              /* RFLAGS of the handler */
        movw    %ss, 0xd0(%rax)
        movq    $0, isa_current
        mov     isa_return_stack, %rsp
        push    $2
        popfq
        mov     $0x10, %ecx
        mov     %ecx, %ss
        pop     %r15
        pop     %r14
        pop     %r13
        pop     %r12
        pop     %rbp
        pop     %rbx
        ret

unexpected:
        mov     8(%rsp), %rdi
        mov     16(%rsp), %rsi
        mov     24(%rsp), %rdx
        mov     %cr2, %rcx
        and     $-16, %rsp
        call    isa_unexpected

/* 256 entries of 16 bytes. */
        .globl  isa_vectors
        .balign 16
isa_vectors:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21
        push    $0
        .endif
        pushq   $vector
        jmp     isa_leave
        .set    vector, vector + 1
        .endr

/* void isa_set_paging(u64 cr3, u64 cr4): through 32-bit code with paging off, as a change of
 * CR4.LA57 needs (SDM 3A 4.1.1). Interrupts are off; CR3 lies below 4 GiB. */
        .globl  isa_set_paging
isa_set_paging:
        push    %rbx
        push    %rbp
        mov     %rsp, %rbp
        mov     %rdi, %rcx
        mov     %rsi, %rbx
        pushq   $0x38
        pushq   $1f
        lretq
        .code32
1:      mov     %cr0, %eax
        btr     $31, %eax
        mov     %eax, %cr0
        mov     %ebx, %cr4
        mov     %ecx, %cr3
        bts     $31, %eax
        mov     %eax, %cr0
        ljmp    $0x08, $2f
        .code64
2:      mov     %rbp, %rsp
        pop     %rbp
        pop     %rbx
        ret

        .data
        .balign 4096
        .globl  isa_pml4, isa_pdpt, isa_pd, isa_user_pd
isa_pml4:
        .quad   isa_pdpt + 7
        .fill   511, 8, 0
isa_pdpt:
        .quad   isa_pd + 7, isa_user_pd + 7, 0, apic_pd + 7
        .fill   508, 8, 0
isa_pd:
        .set    page, 0
        .rept   512
        .quad   page << 21 | 0xe3
        .set    page, page + 1
        .endr
isa_user_pd:
        .set    page, 0
        .rept   512
        .quad   page << 21 | 0xe7
        .set    page, page + 1
        .endr
apic_pd:
        .set    page, 0
        .rept   512
        .quad   0xc0000000 | page << 21 | 0xfb
        .set    page, page + 1
        .endr

        .balign 16
        .globl  isa_gdt
isa_gdt:
        .quad   0
        .quad   0x00209b0000000000      /* 08 code, 64-bit, DPL 0 */
        .quad   0x00cf93000000ffff      /* 10 data, DPL 0 */
        .quad   0x00cffb000000ffff      /* 18 code, 32-bit, DPL 3 */
        .quad   0x00cff3000000ffff      /* 20 data, DPL 3 */
        .quad   0x0020fb0000000000      /* 28 code, 64-bit, DPL 3 */
        .quad   0x00cff3000000ffff      /* 30 data, DPL 3: where SYSEXIT has its SS */
        .quad   0x00cf9b000000ffff      /* 38 code, 32-bit, DPL 0 */
        .fill   24, 8, 0                /* 40 TSS, 50 LDT, 60… free */
gdt_pointer:
        .word   . - isa_gdt - 1
        .quad   isa_gdt

        .globl  isa_current, isa_return_stack
isa_current:
        .quad   0
isa_return_stack:
        .quad   0

        .bss
        .balign 16
        .skip   16384
boot_stack_top:
        .section .note.GNU-stack, "", @progbits
