/* SPDX-License-Identifier: MIT */
/*
 * The way of an application processor from its SIPI (real mode, SDM 3A 8.4.4) to long mode with
 * the tables of tests/isa/lib. smp_place_trampoline copies ap_begin…ap_end to the page that the
 * SIPI names.
 */
        .text
        .code16
        .globl  ap_begin, ap_end
ap_begin:
        cli
        cld
        mov     %cs, %ax
        mov     %ax, %ds
        lgdtl   ap_gdt_pointer - ap_begin
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmpl   $0x38, $ap_protected
        .balign 8
ap_gdt_pointer:
        .word   32 * 8 - 1
        .long   isa_gdt
ap_end:

        .code32
ap_protected:
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
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
        ljmp    $0x08, $ap_long

        .code64
ap_long:
        xor     %eax, %eax
        mov     %eax, %fs
        mov     %eax, %gs
        mov     $1, %edi
        lock xadd %edi, smp_next
        mov     %edi, %eax
        shl     $14, %eax               /* SMP_STACK bytes each */
        lea     smp_stack + 0x4000(%rax), %rsp
        fninit
        mov     smp_entry, %rax
        call    *%rax
        .section .note.GNU-stack, "", @progbits
