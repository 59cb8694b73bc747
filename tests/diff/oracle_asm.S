/* SPDX-License-Identifier: MIT */
/* The child's signal entry. The case may have left RFLAGS.AC set, which C code does not bear, and
 * NT and ID, which sigreturn does not restore: they would be the next case's. */
        .text
        .globl  oracle_entry
        .type   oracle_entry, @function
oracle_entry:
        pushfq
        andl    $~(1 << 18 | 1 << 14 | 1 << 21), (%rsp)
        popfq
        jmp     oracle_handler
        .size   oracle_entry, . - oracle_entry
        .section .note.GNU-stack, "", @progbits
