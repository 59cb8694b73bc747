/* SPDX-License-Identifier: MIT */
/* The child's signal entry: the case may have left RFLAGS.AC set, which C code does not bear. */
        .text
        .globl  oracle_entry
        .type   oracle_entry, @function
oracle_entry:
        pushfq
        andl    $~0x40000, (%rsp)
        popfq
        jmp     oracle_handler
        .size   oracle_entry, . - oracle_entry
        .section .note.GNU-stack, "", @progbits
