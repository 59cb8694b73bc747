/* SPDX-License-Identifier: MIT */
/* Real-address mode on the reference engine: machine code and what it must leave behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "runner.h"

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* ---- what each instruction raises ---- */

CODE16(op_hlt, "hlt");
CODE16(op_divide, "xor %cx, %cx\n div %cx\n hlt");
CODE16(op_data_limit, "mov 0xffff, %ax\n hlt");
CODE16(op_data_last, "mov 0xfffe, %ax\n movb 0xffff, %al\n hlt");
CODE16(op_data_32, "mov $0x10000, %ebx\n mov (%ebx), %al\n hlt");
CODE16(op_stack_limit, "mov $0xffff, %bp\n mov (%bp), %ax\n hlt");
CODE16(op_pop_limit, "mov $0xffff, %bp\n mov %sp, %bx\n mov %bp, %sp\n xor %bp, %bp\n"
                     "mov %bx, %sp\n hlt");
CODE16(op_int, "int $0x42\n hlt");
CODE16(op_int3, "int3\n hlt");
CODE16(op_into, "mov $0x7f, %al\n inc %al\n into\n hlt");
CODE16(op_into_not, "xor %ax, %ax\n into\n hlt");
CODE16(op_bound, "mov $5, %ax\n movw $1, 0x5000\n movw $4, 0x5002\n bound %ax, 0x5000\n hlt");
CODE16(op_bound_in, "mov $4, %ax\n movw $1, 0x5000\n movw $4, 0x5002\n bound %ax, 0x5000\n hlt");
CODE16(op_sldt, "sldt %ax\n hlt");
CODE16(op_str, "str %ax\n hlt");
CODE16(op_lldt, "lldt %ax\n hlt");
CODE16(op_ltr, "ltr %ax\n hlt");
CODE16(op_lar, "lar %ax, %ax\n hlt");
CODE16(op_lsl, "lsl %ax, %ax\n hlt");
CODE16(op_verr, "verr %ax\n hlt");
CODE16(op_verw, "verw 0xffff\n hlt"); /* before its operand is touched */
CODE16(op_arpl, "arpl %ax, %ax\n hlt");
CODE16(op_smsw, "smsw %ax\n hlt");
CODE16(op_sysenter, "sysenter\n hlt");
CODE16(op_sysexit, "sysexit\n hlt");
CODE16(op_syscall, "syscall\n hlt");
CODE16(op_vex, ".byte 0xc5, 0xf8, 0x57, 0xc0\n hlt");        /* VXORPS */
CODE16(op_evex, ".byte 0x62, 0xf1, 0x7c, 0x48, 0x57, 0xc0"); /* BOUND with a register */
CODE16(op_bmi, ".byte 0xc4, 0xe2, 0x78, 0xf2, 0xc0\n hlt");  /* ANDN */
CODE16(op_mov_cs, ".byte 0x8e, 0xc8\n hlt");
CODE16(op_far_limit, "ljmpl $0x1000, $0x10000\n hlt");
CODE16(op_near_limit, "mov $0x10000, %eax\n jmpl *%eax\n hlt");
CODE16(op_call_limit, "lcalll $0x1000, $0x10000\n hlt");
CODE16(op_lock, ".byte 0xf0, 0x89, 0xc0\n hlt");
CODE16(op_long, ".fill 15, 1, 0x66\n nop\n hlt");

static const struct {
    const char *name;
    const uint8_t *from, *to;
    int vector;
} raised[] = {
#define ROW(name, vector)               \
    {                                   \
#name, name, name##_end, vector \
    }
    ROW(op_hlt, -1),
    ROW(op_divide, VECTOR_DE),
    ROW(op_data_limit, VECTOR_GP),
    ROW(op_data_last, -1),
    ROW(op_data_32, VECTOR_GP),
    ROW(op_stack_limit, VECTOR_SS),
    ROW(op_pop_limit, -1),
    ROW(op_int, 0x42),
    ROW(op_int3, VECTOR_BP),
    ROW(op_into, VECTOR_OF),
    ROW(op_into_not, -1),
    ROW(op_bound, VECTOR_BR),
    ROW(op_bound_in, -1),
    ROW(op_sldt, VECTOR_UD),
    ROW(op_str, VECTOR_UD),
    ROW(op_lldt, VECTOR_UD),
    ROW(op_ltr, VECTOR_UD),
    ROW(op_lar, VECTOR_UD),
    ROW(op_lsl, VECTOR_UD),
    ROW(op_verr, VECTOR_UD),
    ROW(op_verw, VECTOR_UD),
    ROW(op_arpl, VECTOR_UD),
    ROW(op_smsw, -1),
    ROW(op_sysenter, VECTOR_GP),
    ROW(op_sysexit, VECTOR_GP),
    ROW(op_syscall, VECTOR_UD),
    ROW(op_vex, VECTOR_UD),
    ROW(op_evex, VECTOR_UD),
    ROW(op_bmi, VECTOR_UD),
    ROW(op_mov_cs, VECTOR_UD),
    ROW(op_far_limit, VECTOR_GP),
    ROW(op_near_limit, VECTOR_GP),
    ROW(op_call_limit, VECTOR_GP),
    ROW(op_lock, VECTOR_UD),
    ROW(op_long, VECTOR_GP),
};

static void test_raised(void **state)
{
    for (unsigned n = 0; n < COUNT(raised); n++) {
        print_message("  %s\n", raised[n].name);
        struct runner *r;
        assert_int_equal(runner_setup((void **)&r), 0);
        runner_put(r, RUNNER_CODE, raised[n].from, (size_t)(raised[n].to - raised[n].from));
        assert_int_equal(runner_vector(r), raised[n].vector);
        if (raised[n].vector >= 0) /* FLAGS, CS, IP and no error code */
            assert_int_equal(r->v->gpr[RSP], 0x7000 - 6);
        assert_int_equal(runner_teardown((void **)&r), 0);
    }
}

/* ---- interrupts and returns ---- */

CODE16(frame, "mov $0x1234, %ax\n mov %ax, %ss\n mov $0x100, %sp\n push $0x3246\n popf\n"
              "int $0x55\n nop\n hlt");

static void test_interrupt_frame(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, frame);
    r->v->rflags |= FLAG_AC;
    assert_int_equal(runner_vector(r), 0x55);
    assert_int_equal(r->v->gpr[RSP], 0xfa);
    assert_int_equal(runner_get(r, 0x12340 + 0xfa, 2), RUNNER_CODE + 14);
    assert_int_equal(runner_get(r, 0x12340 + 0xfc, 2), 0);
    assert_int_equal(runner_get(r, 0x12340 + 0xfe, 2), 0x3246);
    assert_int_equal(r->v->rflags & (FLAG_IF | FLAG_TF | FLAG_AC), 0);
    assert_int_equal(r->v->rflags & FLAG_IOPL, FLAG_IOPL);
}

CODE16(call_iret, "sti\n push $0\n popf\n int $0x60\n pushf\n pop %bx\n hlt");
CODE16(handler_iret, "mov %sp, %bp\n orw $0x7ad5, 4(%bp)\n mov $7, %dx\n iret");
CODE16(call_iretd, "pushfl\n pop %eax\n mov %eax, %ecx\n or $0x250000, %eax\n push %eax\n"
                   "pushl $0\n pushl $iretd_target - call_iretd + 0x7c00\n iretl\n hlt\n"
                   "iretd_target: pushfl\n pop %ebx\n hlt");

static void test_iret(void **state)
{
    struct runner *r = *state;
    uint32_t entry = 0x01008000;
    PUT(r, RUNNER_CODE, call_iret);
    PUT(r, 0x9000, handler_iret);
    runner_put(r, 4 * 0x60, &entry, 4);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(r->v->gpr[RDX] & 0xffff, 7);
    assert_int_equal(r->v->gpr[RBX] & 0xffff, 0x7ad7);
    assert_int_equal(r->v->gpr[RSP], 0x7000);
}

static void test_iretd(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, call_iretd);
    assert_int_equal(runner_vector(r), -1);
    /* AC and ID (bits 18, 21) came in; RF (16) is never pushed by PUSHF */
    assert_int_equal(r->v->gpr[RBX] ^ r->v->gpr[RCX], 0x240000);
}

CODE16(short_idt, "lidt 0x5000\n int $0x20\n hlt");

static void test_vector_limit(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, short_idt);
    runner_put(r, 0x5000, "\x37\x00\x00\x00\x00\x00", 6); /* 14 vectors: up to #GP */
    assert_int_equal(runner_vector(r), VECTOR_GP);
}

static void test_triple_fault(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, short_idt);
    runner_put(r, 0x5000, "\x00\x00\x00\x00\x00\x00", 6);
    assert_int_equal(runner_run(r, 1000), EXIT_SHUTDOWN);
}

CODE16(no_stack, "mov $1, %sp\n push %ax\n hlt");

static void test_no_stack(void **state)
{
    struct runner *r = *state; /* #SS needs a frame: no room for any (SDM 3B 20.1.4) */
    PUT(r, RUNNER_CODE, no_stack);
    assert_int_equal(runner_run(r, 1000), EXIT_SHUTDOWN);
}

CODE16(stack_wraps, "xor %sp, %sp\n push $0x1111\n push $0x2222\n pop %ax\n pop %bx\n hlt");

static void test_stack_wraps(void **state)
{
    struct runner *r = *state;
    r->v->gpr[RSP] = 0xabcd0000;
    PUT(r, RUNNER_CODE, stack_wraps);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(runner_get(r, 0xfffe, 2), 0x1111);
    assert_int_equal(r->v->gpr[RAX] & 0xffff, 0x2222);
    assert_int_equal(r->v->gpr[RSP], 0xabcd0000);
}

CODE16(single, "push $0x102\n popf\n nop\n nop\n hlt");

static void test_single_step(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, single);
    assert_int_equal(runner_vector(r), VECTOR_DB);
    assert_int_equal(runner_get(r, 0x7000 - 6, 2), RUNNER_CODE + 5);
    assert_int_equal(r->v->dr6, DR6_FIXED | DR6_BS);
}

/* ---- far transfers, segments ---- */

CODE16(far_calls, "lcall $0x1000, $0x10\n mov %ax, %bx\n lcalll $0x1000, $0x20\n"
                  "lcall *0x5000\n ljmp $0x1000, $0x30");
CODE16(far_targets, ".org 0x10\n mov %cs, %ax\n lret\n .org 0x20\n mov %sp, %cx\n lretl\n"
                    ".org 0x30\n hlt\n .org 0x40\n pop %si\n push %si\n lret $2");

static void test_far(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, far_calls);
    PUT(r, 0x10000, far_targets);
    runner_put(r, 0x5000, "\x40\x00\x00\x10", 4);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(r->v->gpr[RBX], 0x1000);
    assert_int_equal(r->v->gpr[RCX], 0x7000 - 8);
    assert_int_equal(r->v->gpr[RSI], RUNNER_CODE + 19);
    assert_int_equal(r->v->gpr[RSP], 0x7002);
    assert_int_equal(r->v->seg[SEG_CS].selector, 0x1000);
    assert_int_equal(r->v->rip, 0x31);
}

CODE16(segments, "mov $0xf000, %ax\n mov %ax, %es\n movw $0x1234, %es:8\n push %es\n pop %fs\n"
                 "movl $0xbeef0010, 0x5000\n lgs 0x5000, %di\n movb $1, %gs:(%di)\n"
                 "mov $0xffff, %ax\n mov %ax, %ds\n movb $9, 0x20\n hlt");

static void test_segments(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, segments);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(runner_get(r, 0xf0008, 2), 0x1234);
    assert_int_equal(runner_get(r, 0xbef00, 1), 1);
    assert_int_equal(runner_get(r, 0x100010, 1), 9); /* A20 is open */
    assert_int_equal(r->v->seg[SEG_FS].base, 0xf0000);
    assert_int_equal(r->v->seg[SEG_ES].limit, 0xffff);
}

/* Protected mode for the length of one load: the limit stays in real mode. */
CODE16(big, "lgdtl 0x5000\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n mov $8, %bx\n"
            "mov %bx, %ds\n and $0xfe, %al\n mov %eax, %cr0\n xor %bx, %bx\n mov %bx, %ds\n"
            "mov $0x123456, %edi\n movl $0x600df00d, (%edi)\n hlt");

static void test_big_real_mode(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, big);
    runner_put(r, 0x5000, "\x0f\x00\x00\x60\x00\x00", 6);
    runner_put(r, 0x6008, "\xff\xff\x00\x00\x00\x92\xcf\x00", 8);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(runner_get(r, 0x123456, 4), 0x600df00d);
    assert_int_equal(r->v->seg[SEG_DS].base, 0);
    assert_int_equal(r->v->seg[SEG_DS].limit, 0xffffffff);
    assert_int_equal(r->v->cr0 & CR0_PE, 0);
}

CODE16(tables, "lgdt 0x5000\n lidtl 0x5000\n smsw %bx\n lmsw %ax\n hlt");

static void test_table_registers(void **state)
{
    struct runner *r = *state;
    PUT(r, RUNNER_CODE, tables);
    runner_put(r, 0x5000, "\xff\x03\x78\x56\x34\x12", 6);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(r->v->gdtr.base, 0x345678);
    assert_int_equal(r->v->idtr.base, 0x12345678);
    assert_int_equal(r->v->gdtr.limit, 0x3ff);
}

/* ---- the instruction pointer ---- */

CODE16(same_offset_a, "mov $1, %al\n ljmp $0x2000, $0\n");
CODE16(same_offset_b, "mov $2, %ah\n ljmp $0x1000, $0x100\n .org 0x100\n add $1, %cx\n"
                      "cmp $3, %cx\n je 1f\n ljmp $0x1000, $0\n 1: hlt");

/* The same IP under other bases is other code. */
static void test_same_offset(void **state)
{
    struct runner *r = *state;
    PUT(r, 0x10000, same_offset_a);
    PUT(r, 0x20000, same_offset_b);
    runner_put(r, 0x10100, same_offset_b + 0x100,
               (size_t)(same_offset_b_end - same_offset_b - 0x100));
    r->v->seg[SEG_CS].selector = 0x1000;
    r->v->seg[SEG_CS].base = 0x10000;
    r->v->rip = 0;
    vcpu_update_mode(r->v);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(r->v->gpr[RAX], 0x201);
    assert_int_equal(r->v->gpr[RCX], 3);
}

static void start_at(struct runner *r, uint16_t cs, uint16_t ip)
{
    r->v->seg[SEG_CS].selector = cs;
    r->v->seg[SEG_CS].base = (uint64_t)cs << 4;
    r->v->rip = ip;
    vcpu_update_mode(r->v);
}

/* IP 0xffff goes on at 0x10000, outside the limit: #GP with what IP has of it. */
static void test_ip_end(void **state)
{
    static const uint16_t segments[] = {0x1000, 0x1001, 0x10ff};
    for (unsigned n = 0; n < COUNT(segments); n++) {
        struct runner *r;
        assert_int_equal(runner_setup((void **)&r), 0);
        runner_put(r, segments[n] * 16u + 0xfffd, "\x90\x90\x90\x90", 4);
        start_at(r, segments[n], 0xfffd);
        assert_int_equal(runner_vector(r), VECTOR_GP);
        assert_int_equal(runner_get(r, 0x7000 - 6, 2), 0);
        assert_int_equal(runner_get(r, 0x7000 - 4, 2), segments[n]);
        runner_put(r, segments[n] * 16u + 0xfffd, "\x90\xb8\x34\x12\xf4", 5); /* cut in half */
        start_at(r, segments[n], 0xfffd);
        r->v->gpr[RSP] = 0x7000;
        r->v->activity = VCPU_ACTIVE;
        assert_int_equal(runner_vector(r), VECTOR_GP);
        assert_int_equal(runner_get(r, 0x7000 - 6, 2), 0xfffe);
        assert_int_equal(runner_teardown((void **)&r), 0);
    }
}

/* A short jump wraps within 64 KiB, and a link made under one base is no use under another. */
static void test_jump_wraps(void **state)
{
    struct runner *r = *state;
    runner_put(r, 0x11010, "\xeb\xf0", 2);     /* 14 bytes back */
    runner_put(r, 0x11002, "\xb0\x11\xf4", 3); /* there */
    runner_put(r, 0x21002, "\xb0\x22\xf4", 3);
    start_at(r, 0x1000, 0x1010);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(r->v->gpr[RAX], 0x11);
    start_at(r, 0x1101, 0); /* the same record: IP 2 - 16 wraps to 0xfff2 */
    r->v->activity = VCPU_ACTIVE;
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(r->v->gpr[RAX], 0x22);
}

CODE16(strings, "xor %si, %si\n mov $0x1000, %ax\n mov %ax, %ds\n mov $0x2000, %ax\n mov %ax, %es\n"
                "mov $0xfffe, %di\n mov $4, %cx\n cld\n rep movsb\n mov $0x4000, %cx\n std\n"
                "mov $1, %si\n lodsb\n lodsb\n hlt");

static void test_strings_wrap(void **state)
{
    struct runner *r = *state;
    r->v->gpr[RCX] = 0xaaaa0000;
    r->v->gpr[RDI] = 0xbbbb0000;
    PUT(r, RUNNER_CODE, strings);
    runner_put(r, 0x10000, "abcd", 4);
    assert_int_equal(runner_vector(r), -1);
    assert_int_equal(runner_get(r, 0x2fffe, 2), 'a' | 'b' << 8);
    assert_int_equal(runner_get(r, 0x20000, 2), 'c' | 'd' << 8);
    assert_int_equal(r->v->gpr[RDI], 0xbbbb0002);
    assert_int_equal(r->v->gpr[RCX], 0xaaaa4000);
    assert_int_equal(r->v->gpr[RSI] & 0xffff, 0xffff);
}

/* ---- SIPI ---- */

/* As Linux' trampoline: real mode at the page of the SIPI vector, 32-bit protected mode, PAE and
 * EFER.LME, paging, 64-bit mode. %ebx is the trampoline's linear address. */
CODE16(trampoline,
       "cli\n wbinvd\n mov %cs, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n"
       "mov $0xf00, %sp\n movzwl %ax, %ebx\n shl $4, %ebx\n"
       "lea tr_gdt - trampoline(%ebx), %eax\n mov %eax, tr_gdtr - trampoline + 2\n"
       "lea tr_32 - trampoline(%ebx), %eax\n mov %eax, tr_far - trampoline\n"
       "lea tr_64 - trampoline(%ebx), %eax\n mov %eax, tr_far64 - trampoline\n"
       "lidtl tr_idtr - trampoline\n lgdtl tr_gdtr - trampoline\n"
       "mov $1, %dx\n lmsw %dx\n ljmpl *(tr_far - trampoline)\n"
       ".code32\n tr_32: mov $0x18, %dx\n mov %dx, %ss\n mov %dx, %ds\n"
       "mov $0x20, %eax\n mov %eax, %cr4\n mov $0x9000, %eax\n mov %eax, %cr3\n"
       "mov $0xc0000080, %ecx\n rdmsr\n or $0x100, %eax\n wrmsr\n"
       "mov $0x80000001, %eax\n mov %eax, %cr0\n ljmpl *(tr_far64 - trampoline)(%ebx)\n"
       ".code64\n tr_64: movabs $0x123456789abcdef0, %rax\n mov %rax, 0x5000\n hlt\n"
       ".balign 8\n tr_gdt: .quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff\n"
       "tr_gdtr: .word 31\n .long 0\n tr_idtr: .word 0\n .long 0\n"
       "tr_far: .long 0\n .word 8\n tr_far64: .long 0\n .word 0x10\n");

static void test_sipi_trampoline(void **state)
{
    struct runner *r = *state;
    uint64_t pml4 = 0xa003, pdpt = 0xb003, pd = 0x83;
    PUT(r, 0x9a000, trampoline);
    runner_put(r, 0x9000, &pml4, 8);
    runner_put(r, 0xa000, &pdpt, 8);
    runner_put(r, 0xb000, &pd, 8);
    r->v->id = 1;
    r->sipi = 0x9a;
    vcpu_request(r->v, VCPU_REQUEST_INIT);
    assert_int_equal(runner_run(r, 1000), EXIT_HLT);
    assert_int_equal(r->v->activity, VCPU_WAIT_FOR_SIPI);
    vcpu_request(r->v, VCPU_REQUEST_SIPI);
    assert_int_equal(runner_run(r, 1000), EXIT_HLT);
    assert_true(r->v->code64);
    assert_int_equal(runner_get(r, 0x5000, 8), 0x123456789abcdef0);
    assert_int_equal(r->v->efer & EFER_LMA, EFER_LMA);
    assert_int_equal(r->v->seg[SEG_CS].selector, 0x10);
    assert_int_equal(r->v->rip >> 12, 0x9a);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, runner_setup, runner_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raised),
        TEST(test_interrupt_frame),
        TEST(test_iret),
        TEST(test_iretd),
        TEST(test_vector_limit),
        TEST(test_triple_fault),
        TEST(test_no_stack),
        TEST(test_stack_wraps),
        TEST(test_single_step),
        TEST(test_far),
        TEST(test_segments),
        TEST(test_big_real_mode),
        TEST(test_table_registers),
        TEST(test_same_offset),
        cmocka_unit_test(test_ip_end),
        TEST(test_jump_wraps),
        TEST(test_strings_wrap),
        TEST(test_sipi_trampoline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
