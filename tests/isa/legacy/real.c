/* SPDX-License-Identifier: MIT */
/*
 * Real mode: segments, interrupts by the table at 0, limits of 64 KiB and of 4 GiB ("big real"),
 * the A20 gate, x87 environments (SDM 3A chapter 21; SDM 1 8.1.10).
 */
#include "legacy.h"

#define SCRATCH 0x9000u

SNIPPET16(load_ds, "mov $0x1234, %ax\nmov %ax, %ds\nmov (0x10), %ebx");
SNIPPET16(at_end, "mov (0xffff), %ax");
SNIPPET16(stack_end, "mov $0xffff, %bp\nmov (%bp), %ax");
SNIPPET16(wide, "mov 0x10000(%esi), %eax");
SNIPPET16(soft, "int $0x55");
SNIPPET16(flags, "std\nstc\npushf\npop %bx\npushfl\npopl %ecx\ncld");
SNIPPET16(divide, "xor %cx, %cx\ndiv %cx");
SNIPPET16(protected_only, "lldt %ax");
SNIPPET16(far_call, "push %cs\ncall 1f\n1: pop %cx\nlcallw $0x900, $0x10\nmov %ax, %dx");
SNIPPET16(ip_wraps, "jmp *%bx");
SNIPPET16(over_limit, "jmpl *%ebx");
SNIPPET16(string, "rep movsb");
SNIPPET16(msw, "smsw %ax\nmov %cr0, %ecx");
SNIPPET16(environment, "fninit\nfldpi\nfnstenv (%bx)\nmov 2(%bx), %ax");
SNIPPET16(environment32, "fninit\nfldpi\n.byte 0x66\nfnstenv (%bx)\nmov 4(%bx), %eax");
SNIPPET16(save_restore, "fninit\nfld1\nfldpi\nfnsave (%bx)\nfld1\nfld1\nfrstor (%bx)\nfcompp\n"
                        "fnstsw %ax");
/* ES:DI is 0xffff:0x510, DS:SI 0:0x500. Leaves AX = what is there with the gate closed by the port
 * whose value is in DL, CX with it open. */
SNIPPET16(a20_92, "movw $0x1111, (%si)\nmovw $0x2222, %es:(%di)\n"
                  "mov $0, %al\nout %al, $0x92\nmov %es:(%di), %bx\nmovw $0x3333, %es:(%di)\n"
                  "in $0x92, %al\nmov %al, %dl\n"
                  "mov $2, %al\nout %al, $0x92\nmov %es:(%di), %cx\nmov (%si), %bp");
SNIPPET16(a20_8042, "movw $0x1111, (%si)\nmovw $0x2222, %es:(%di)\n"
                    "mov $0xd1, %al\nout %al, $0x64\nmov $0xdd, %al\nout %al, $0x60\n"
                    "mov %es:(%di), %bx\nmov $0xdf, %al\nout %al, $0x64\nmov %es:(%di), %cx");

static void segments(void)
{
    struct regs r = {0};
    poke(0x12350, 0xfeedbeef);
    REAL(&r, load_ds, false);
    want_done(&r);
    want("ds", r.ds, 0x1234);
    want("ebx", r.ebx, 0xfeedbeef);
    verdict("real/segment");

    r = (struct regs){0};
    REAL(&r, at_end, false);
    want_trap(&r, VECTOR_GP, 0, 0);
    verdict("real/limit");
    r = (struct regs){0};
    REAL(&r, stack_end, false);
    want_trap(&r, VECTOR_SS, 0, 3);
    verdict("real/stack-limit");
    r = (struct regs){0};
    REAL(&r, wide, false);
    want_trap(&r, VECTOR_GP, 0, 0);
    verdict("real/limit-64k");
    poke(0x200000, 0xb16b00b5);
    r = (struct regs){.esi = 0x1f0000};
    REAL(&r, wide, true);
    want_done(&r);
    want("eax", r.eax, 0xb16b00b5);
    verdict("big-real/limit-4g");
    r = (struct regs){.ebx = 0x10000};
    REAL(&r, over_limit, false);
    want_trap(&r, VECTOR_GP, 0, 0);
    verdict("real/jump-beyond-limit");
    poke(SCRATCH, 0x64636261);
    r = (struct regs){.ecx = 0xabcd0004,
                      .esi = 0x55550000,
                      .edi = 0x77770008,
                      .ds = SCRATCH >> 4,
                      .es = SCRATCH >> 4};
    REAL(&r, string, false);
    want_done(&r);
    want("copied", peek(SCRATCH + 8), 0x64636261);
    want("ecx", r.ecx, 0xabcd0000);
    want("esi", r.esi, 0x55550004);
    want("edi", r.edi, 0x7777000c);
    verdict("real/string-16");
}

static void interrupts(void)
{
    struct regs r = {.eflags = FLAG_CF};
    REAL(&r, soft, false);
    want("vector", r.vector, 0x55);
    want("ip", r.eip, 2);
    want("cs", r.cs, LOW >> 4);
    want("flags", r.eflags & 0x3f, FLAG_CF | 2);
    want("sp", r.frame, 0x7000 - 6);
    verdict("real/int");
    r = (struct regs){0};
    REAL(&r, flags, false);
    want_done(&r);
    want("bx", r.ebx & 0xffff, FLAG_DF | FLAG_CF | 2);
    want("ecx", r.ecx, FLAG_DF | FLAG_CF | 2);
    verdict("real/flags");
    r = (struct regs){0};
    REAL(&r, divide, false);
    want_trap(&r, VECTOR_DE, 0, 2);
    verdict("real/divide");
    r = (struct regs){0};
    REAL(&r, protected_only, false);
    want_trap(&r, VECTOR_UD, 0, 0);
    verdict("real/lldt");
    r = (struct regs){0};
    REAL(&r, msw, false);
    want_done(&r);
    want("pe", r.ecx & 1, 0);
    want("msw", r.eax & 0xffff, r.ecx & 0xffff);
    verdict("real/msw");
}

static void transfers(void)
{
    struct regs r = {.eax = 7};
    poke(SCRATCH + 0x10, 0xcb40cb40); /* INC AX; RETF */
    REAL(&r, far_call, false);
    want_done(&r);
    want("dx", r.edx & 0xffff, 8);
    verdict("real/far-call");
    /* The last byte before the limit, and what follows wraps or faults: an instruction across it.
     */
    poke(LOW + 0xfffc, 0xb8909090); /* NOP, NOP, NOP, MOV AX, … */
    r = (struct regs){.ebx = 0xfffc};
    REAL(&r, ip_wraps, false);
    want_trap(&r, VECTOR_GP, 0, 0xffff);
    verdict("real/fetch-beyond-limit");
}

static void x87(void)
{
    struct regs r = {.ebx = SCRATCH};
    memset((void *)SCRATCH, 0xee, 128);
    REAL(&r, environment, false);
    want_done(&r);
    want("control", peek(SCRATCH) & 0xffff, 0x37f);
    want("status", r.eax & 0xffff, 7 << 11);
    want("tags", peek(SCRATCH + 4) & 0xffff, 0x3fff);
    want("ip", peek(SCRATCH + 6) & 0xffff, 2); /* of FLDPI; its offset (docs/quirks.md) */
    want("past the end", peek(SCRATCH + 14), 0xeeeeeeee);
    verdict("real/environment-14");
    memset((void *)SCRATCH, 0xee, 128);
    r = (struct regs){.ebx = SCRATCH};
    REAL(&r, environment32, false);
    want_done(&r);
    want("status", r.eax & 0xffff, 7 << 11);
    want("tags", peek(SCRATCH + 8) & 0xffff, 0x3fff);
    want("ip", peek(SCRATCH + 12) & 0xffff, 2);
    want("past the end", peek(SCRATCH + 28), 0xeeeeeeee);
    verdict("real/environment-28");
    r = (struct regs){.ebx = SCRATCH};
    REAL(&r, save_restore, false);
    want_done(&r);
    want("pi above 1, both popped", r.eax & 0x7f00, 0);
    want("pi", peek(SCRATCH + 14), 0x2168c235);
    want("one", peek(SCRATCH + 24 + 4), 0x80000000);
    verdict("real/save-94");
}

static void a20(void)
{
    struct regs r = {.ds = 0, .esi = 0x500, .es = 0xffff, .edi = 0x510};
    REAL(&r, a20_92, false);
    want_done(&r);
    want("closed", r.ebx & 0xffff, 0x1111);
    want("port", r.edx & 2, 0);
    want("open", r.ecx & 0xffff, 0x2222);
    want("written at 0", r.ebp & 0xffff, 0x3333);
    verdict("a20/port-92");
    r = (struct regs){.ds = 0, .esi = 0x500, .es = 0xffff, .edi = 0x510};
    REAL(&r, a20_8042, false);
    want_done(&r);
    want("closed", r.ebx & 0xffff, 0x1111);
    want("open", r.ecx & 0xffff, 0x2222);
    verdict("a20/8042");
}

/* What a multiboot kernel finds of the BIOS (Multiboot 0.6.96, 3.2). */
static void bios(void)
{
    u32 timer = peek(8 * 4);
    want("timer's interrupt is masked", legacy_pic_masks & 1, 0);
    want("IRQ 11 is masked", legacy_pic_masks >> 11 & 1, 1);
    want("vector 8", timer, 0xf000fea5);
    want("vector 0x76", peek(0x76 * 4), 0xf000feb0);
    want("vector 0x10", peek(0x10 * 4), 0xf000ff53);
    want("iret", peek(0xfff53) & 0xff, 0xcf);
    verdict("bios/vectors");
    u32 flags = 0;
    for (u32 n = 0; n < 10000000 && flags == 0; n++) { /* the timer's request at the master */
        out8(0x20, 0x0a);
        flags = in8(0x20) & 1;
    }
    want("timer ticks", flags, 1);
    verdict("bios/timer");
}

void legacy_main(void)
{
    bios();
    segments();
    interrupts();
    transfers();
    x87();
    a20();
}
