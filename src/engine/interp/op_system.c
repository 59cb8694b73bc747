/* SPDX-License-Identifier: MIT */
/* Segments, descriptor tables, far transfers, interrupts and flags at every privilege (SDM 2,
 * SDM 3A chapters 2, 5, 6). The rules are in x86/; here each instruction names its own. */
#include "engine/host/processor.h"
#include "engine/interp/interp.h"
#include "x86/cpuid.h"

/* Most of these change what the run loop depends on: leave it, look up again. */

static void require_cpl0(struct vcpu *v)
{
    if (v->cpl != 0)
        x86_raise_gp0(v);
}

/* SGDT, SIDT, SLDT, STR, SMSW at CPL > 0 under CR4.UMIP (SDM 3A 2.5). */
static void check_umip(struct vcpu *v)
{
    if (v->cpl != 0 && (v->cr4 & CR4_UMIP))
        x86_raise_gp0(v);
}

/* LLDT, LTR, SLDT, STR, LAR, LSL, VERR, VERW. */
static void require_protected(struct vcpu *v)
{
    if (!(v->cr0 & CR0_PE) || (v->rflags & FLAG_VM))
        x86_raise(v, VECTOR_UD);
}

static unsigned iopl(const struct vcpu *v)
{
    return (v->rflags >> 12) & 3;
}

/* ---- segment registers ---- */

static const struct insn *mov_from_segment(struct vcpu *v, const struct insn *i)
{
    uint16_t selector = v->seg[i->src].selector;
    if (i->form == FORM_RS)
        reg_write(v, i->dst, selector, i->size);
    else
        mem_store(v, i, selector, 2);
    return insn_next(v, i);
}

static const struct insn *load_segment(struct vcpu *v, const struct insn *i, unsigned sreg,
                                       uint16_t selector)
{
    if (sreg == SEG_CS)
        x86_raise(v, VECTOR_UD);
    x86_load_segment(v, (enum x86_sreg)sreg, selector);
    if (sreg == SEG_SS) {
        v->interrupt_shadow = true;
        v->shadow_blocks_debug = true;
    }
    return sreg == SEG_SS ? insn_next_slow(v, i) : insn_next(v, i);
}

static const struct insn *mov_to_segment(struct vcpu *v, const struct insn *i)
{
    uint16_t selector = (uint16_t)(i->form == FORM_SR ? reg_read(v, i->src, 2) : mem_load(v, i, 2));
    return load_segment(v, i, i->dst, selector);
}

static unsigned selector_bytes(unsigned size)
{
    return size == 4 && !host_processor.whole_selectors ? 2 : size;
}

/* A 64-bit push writes zeros above the selector; a 32-bit one of Intel's processors leaves what is
 * there, since long (SDM 2B, PUSH allows both). */
static const struct insn *push_segment(struct vcpu *v, const struct insn *i)
{
    uint64_t sp = stack_wrap(v, v->gpr[RSP] - i->stack_size);
    stack_store(v, sp, v->seg[i->dst].selector, selector_bytes(i->stack_size));
    stack_set(v, sp);
    return insn_next(v, i);
}

static const struct insn *pop_segment(struct vcpu *v, const struct insn *i)
{
    uint64_t before = v->gpr[RSP], sp = stack_wrap(v, before);
    unsigned size = host_processor.whole_selectors ? i->stack_size : 2;
    uint16_t selector = (uint16_t)stack_load(v, sp, size);
    stack_set(v, stack_wrap(v, sp + i->stack_size)); /* by the width of the SS before it */
    uint64_t after = v->gpr[RSP];
    v->gpr[RSP] = before; /* the load may raise */
    const struct insn *next = load_segment(v, i, i->dst, selector);
    v->gpr[RSP] = after;
    return next;
}

/* Far pointers in memory have an offset of 64 bits under REX.W on Intel's processors alone (SDM 2A
 * CALL, JMP, LDS; AMD 24594 knows m16:16 and m16:32). */
static unsigned far_offset_size(const struct vcpu *v, unsigned size)
{
    return size == 8 && cpuid_is_amd(v) ? 4 : size;
}

/* LDS LES LFS LGS LSS: offset, then selector. */
static const struct insn *load_far_pointer(struct vcpu *v, const struct insn *i)
{
    static const uint8_t sregs[5] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS, SEG_SS};
    static const uint16_t ops[5] = {ZYDIS_MNEMONIC_LDS, ZYDIS_MNEMONIC_LES, ZYDIS_MNEMONIC_LFS,
                                    ZYDIS_MNEMONIC_LGS, ZYDIS_MNEMONIC_LSS};
    uint8_t bytes[10] = {0};
    uint64_t offset = 0;
    uint16_t selector;
    unsigned n = 0, size = far_offset_size(v, i->size);

    while (ops[n] != i->op)
        n++;
    mem_read_bytes(v, i->seg, effective_address(v, i), bytes, size + 2u);
    memcpy(&offset, bytes, size);
    memcpy(&selector, bytes + size, 2);
    x86_load_segment(v, (enum x86_sreg)sregs[n], selector);
    reg_write(v, i->dst, offset, size);
    return insn_next_slow(v, i);
}

/* ---- far transfers ---- */

static const struct insn *far_jump_or_call(struct vcpu *v, const struct insn *i)
{
    uint64_t offset = 0, next_rip = v->rip + i->length;
    uint16_t selector;
    unsigned size = i->stack_size;

    if (i->form == FORM_M) {
        uint64_t ea = effective_address(v, i);
        unsigned n = far_offset_size(v, i->size - 2u);
        size = i->size - 2u;                       /* of what CALL pushes */
        mem_read_bytes(v, i->seg, ea, &offset, n); /* two accesses, as CR2 shows */
        mem_read_bytes(v, i->seg, ea + n, &selector, 2);
    } else { /* ptr16:16, ptr16:32; see bind.c for where the resolver put them */
        offset = (uint32_t)i->imm;
        selector = (uint16_t)(i->imm >> 32);
    }
    if (i->op == ZYDIS_MNEMONIC_JMP)
        x86_far_jump(v, selector, offset, size, next_rip);
    else
        x86_far_call(v, selector, offset, size, next_rip);
    return NULL;
}

static const struct insn *far_return(struct vcpu *v, const struct insn *i)
{
    x86_far_return(v, i->stack_size, i->form == FORM_I ? (uint16_t)i->imm : 0);
    return NULL;
}

static const struct insn *iret(struct vcpu *v, const struct insn *i)
{
    x86_iret(v,
             i->op == ZYDIS_MNEMONIC_IRETQ   ? 8
             : i->op == ZYDIS_MNEMONIC_IRETD ? 4
                                             : 2,
             v->rip + i->length);
    return NULL;
}

/* Entering a handler by an instruction is no single step (SDM 3B 17.3.1.4). */
static void no_trap(struct vcpu *v)
{
    ((struct interp *)v->engine_state)->own_trap = true;
}

/* SYSCALL and SYSRET trap by the TF that they leave: IA32_FMASK can hide SYSCALL's, and SYSRET's
 * #DB is as if SYSCALL had just completed. */
static const struct insn *trap_by_new_flag(struct vcpu *v)
{
    no_trap(v);
    if (v->rflags & FLAG_TF)
        v->debug_pending |= DR6_BS;
    return NULL;
}

static const struct insn *syscall_op(struct vcpu *v, const struct insn *i)
{
    x86_syscall(v, v->rip + i->length);
    return trap_by_new_flag(v);
}

static const struct insn *sysret_op(struct vcpu *v, const struct insn *i)
{
    x86_sysret(v, i->stack_size);
    return trap_by_new_flag(v);
}

static const struct insn *sysenter_op(struct vcpu *v, const struct insn *i)
{
    x86_sysenter(v);
    no_trap(v);
    return NULL;
}

static const struct insn *sysexit_op(struct vcpu *v, const struct insn *i)
{
    x86_sysexit(v, i->stack_size);
    return NULL;
}

/* INT n, PUSHF, POPF in virtual-8086 mode (SDM 3B 20.2.7). */
static void check_v86_iopl(struct vcpu *v)
{
    if ((v->rflags & FLAG_VM) && iopl(v) < 3)
        x86_raise_gp0(v);
}

static const struct insn *software_interrupt(struct vcpu *v, const struct insn *i)
{
    uint64_t next_rip = v->rip + i->length;
    switch (i->op) {
    case ZYDIS_MNEMONIC_INT3:
        x86_software_interrupt(v, VECTOR_BP, next_rip, false);
        break;
    case ZYDIS_MNEMONIC_INT1:
        x86_software_interrupt(v, VECTOR_DB, next_rip, true);
        break;
    case ZYDIS_MNEMONIC_INTO:
        if (!(v->rflags & FLAG_OF))
            return insn_next(v, i);
        x86_software_interrupt(v, VECTOR_OF, next_rip, false);
        break;
    default: /* INT n */
        check_v86_iopl(v);
        x86_software_interrupt(v, (uint8_t)i->imm, next_rip, false);
        break;
    }
    no_trap(v);
    return NULL;
}

/* ---- flags ---- */

static const struct insn *pushf(struct vcpu *v, const struct insn *i)
{
    check_v86_iopl(v);
    /* RF and VM are pushed as 0 (SDM 2B PUSHF). */
    push(v, v->rflags & ~(uint64_t)(FLAG_RF | FLAG_VM), i->stack_size);
    return insn_next(v, i);
}

static const struct insn *popf(struct vcpu *v, const struct insn *i)
{
    uint64_t writable = FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
    check_v86_iopl(v);
    uint64_t value = stack_top(v, i->stack_size);

    if (v->cpl <= iopl(v))
        writable |= FLAG_IF;
    if (v->cpl == 0)
        writable |= FLAG_IOPL;
    if (i->stack_size == 2)
        writable &= 0xffff;
    stack_set(v, stack_wrap(v, v->gpr[RSP] + i->stack_size));
    v->rflags = (v->rflags & ~writable & ~(uint64_t)FLAG_RF) | (value & writable) | FLAG_ONE;
    vcpu_update_mode(v);
    return insn_next_slow(v, i);
}

static const struct insn *cli(struct vcpu *v, const struct insn *i)
{
    if (v->cpl > iopl(v))
        x86_raise_gp0(v);
    v->rflags &= ~(uint64_t)FLAG_IF;
    return insn_next(v, i);
}

/* Interrupts stay off for one more instruction if they were off (SDM 2B STI). */
static const struct insn *sti(struct vcpu *v, const struct insn *i)
{
    if (v->cpl > iopl(v))
        x86_raise_gp0(v);
    if (!(v->rflags & FLAG_IF)) {
        v->rflags |= FLAG_IF;
        v->interrupt_shadow = true;
    }
    return insn_next_slow(v, i);
}

static const struct insn *smap_flag(struct vcpu *v, const struct insn *i)
{
    if (v->cpl != 0)
        x86_raise(v, VECTOR_UD);
    if (i->op == ZYDIS_MNEMONIC_STAC)
        v->rflags |= FLAG_AC;
    else
        v->rflags &= ~(uint64_t)FLAG_AC;
    vcpu_update_mode(v);
    return insn_next(v, i);
}

/* ---- descriptor tables and task register ---- */

static const struct insn *store_table(struct vcpu *v, const struct insn *i)
{
    check_umip(v);
    const struct x86_table_register *t = i->op == ZYDIS_MNEMONIC_SGDT ? &v->gdtr : &v->idtr;
    uint8_t bytes[10];
    memcpy(bytes, &t->limit, 2);
    memcpy(bytes + 2, &t->base, 8);
    mem_write_bytes(v, i->seg, effective_address(v, i), bytes, v->code64 ? 10 : 6);
    return insn_next(v, i);
}

static const struct insn *load_table(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    uint8_t bytes[10] = {0};
    struct x86_table_register t;
    mem_read_bytes(v, i->seg, effective_address(v, i), bytes, v->code64 ? 10 : 6);
    memcpy(&t.limit, bytes, 2);
    memcpy(&t.base, bytes + 2, 8);
    if (!v->code64 && i->stack_size == 2)
        t.base &= 0xffffff; /* SDM 2A LGDT: 24 bits with a 16-bit operand */
    if (!x86_canonical_register(v, t.base))
        x86_raise_gp0(v);
    *(i->op == ZYDIS_MNEMONIC_LGDT ? &v->gdtr : &v->idtr) = t;
    return insn_next_slow(v, i);
}

/* SLDT, STR, SMSW: to a register of the operand size, to memory always 16 bits. */
static const struct insn *store_word(struct vcpu *v, const struct insn *i)
{
    if (i->op != ZYDIS_MNEMONIC_SMSW)
        require_protected(v);
    check_umip(v);
    uint64_t value = i->op == ZYDIS_MNEMONIC_SLDT  ? v->seg[SEG_LDTR].selector
                     : i->op == ZYDIS_MNEMONIC_STR ? v->seg[SEG_TR].selector
                                                   : v->cr0;
    if (i->form == FORM_R)
        reg_write(v, i->dst, value, i->size);
    else
        mem_store(v, i, value, 2);
    return insn_next(v, i);
}

static uint16_t word_operand(struct vcpu *v, const struct insn *i)
{
    if (i->form == FORM_R)
        return (uint16_t)reg_read(v, i->dst, 2);
    if (i->form == FORM_RR)
        return (uint16_t)reg_read(v, i->src, 2);
    return (uint16_t)mem_load(v, i, 2);
}

static const struct insn *load_system_segment(struct vcpu *v, const struct insn *i)
{
    require_protected(v);
    require_cpl0(v);
    uint16_t selector = word_operand(v, i);
    if (i->op == ZYDIS_MNEMONIC_LLDT)
        x86_load_ldtr(v, selector);
    else
        x86_load_tr(v, selector);
    return insn_next_slow(v, i);
}

static const struct insn *lmsw(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    x86_lmsw(v, word_operand(v, i));
    return insn_next_slow(v, i);
}

static const struct insn *lar_lsl(struct vcpu *v, const struct insn *i)
{
    require_protected(v);
    uint16_t selector = word_operand(v, i);
    uint32_t value = 0;
    bool seen =
        i->op == ZYDIS_MNEMONIC_LAR ? x86_lar(v, selector, &value) : x86_lsl(v, selector, &value);
    if (seen) {
        reg_write(v, i->dst, value, i->size);
        v->rflags |= FLAG_ZF;
    } else {
        v->rflags &= ~(uint64_t)FLAG_ZF;
    }
    return insn_next(v, i);
}

static const struct insn *verify(struct vcpu *v, const struct insn *i)
{
    require_protected(v);
    if (x86_verify(v, word_operand(v, i), i->op == ZYDIS_MNEMONIC_VERW))
        v->rflags |= FLAG_ZF;
    else
        v->rflags &= ~(uint64_t)FLAG_ZF;
    return insn_next(v, i);
}

static const struct insn *swapgs(struct vcpu *v, const struct insn *i)
{
    require_cpl0(v);
    uint64_t base = v->seg[SEG_GS].base;
    v->seg[SEG_GS].base = v->kernel_gs_base;
    v->kernel_gs_base = base;
    return insn_next(v, i);
}

static const struct insn *fs_gs_base(struct vcpu *v, const struct insn *i)
{
    if (!(v->cr4 & CR4_FSGSBASE))
        x86_raise(v, VECTOR_UD);
    bool fs = i->op == ZYDIS_MNEMONIC_RDFSBASE || i->op == ZYDIS_MNEMONIC_WRFSBASE;
    uint64_t *base = &v->seg[fs ? SEG_FS : SEG_GS].base;
    if (i->op == ZYDIS_MNEMONIC_RDFSBASE || i->op == ZYDIS_MNEMONIC_RDGSBASE) {
        reg_write(v, i->dst, *base, i->size);
    } else {
        uint64_t value = reg_read(v, i->dst, i->size);
        if (!x86_canonical(v, value)) /* by the paging in force, unlike WRMSR (tests/diff) */
            x86_raise_gp0(v);
        *base = value;
    }
    return insn_next(v, i);
}

static const struct {
    uint16_t op;
    insn_exec exec;
} handlers[] = {
    {ZYDIS_MNEMONIC_LDS, load_far_pointer},
    {ZYDIS_MNEMONIC_LES, load_far_pointer},
    {ZYDIS_MNEMONIC_LFS, load_far_pointer},
    {ZYDIS_MNEMONIC_LGS, load_far_pointer},
    {ZYDIS_MNEMONIC_LSS, load_far_pointer},
    {ZYDIS_MNEMONIC_IRET, iret},
    {ZYDIS_MNEMONIC_IRETD, iret},
    {ZYDIS_MNEMONIC_IRETQ, iret},
    {ZYDIS_MNEMONIC_SYSCALL, syscall_op},
    {ZYDIS_MNEMONIC_SYSRET, sysret_op},
    {ZYDIS_MNEMONIC_SYSENTER, sysenter_op},
    {ZYDIS_MNEMONIC_SYSEXIT, sysexit_op},
    {ZYDIS_MNEMONIC_INT, software_interrupt},
    {ZYDIS_MNEMONIC_INT3, software_interrupt},
    {ZYDIS_MNEMONIC_INT1, software_interrupt},
    {ZYDIS_MNEMONIC_INTO, software_interrupt},
    {ZYDIS_MNEMONIC_PUSHF, pushf},
    {ZYDIS_MNEMONIC_PUSHFD, pushf},
    {ZYDIS_MNEMONIC_PUSHFQ, pushf},
    {ZYDIS_MNEMONIC_POPF, popf},
    {ZYDIS_MNEMONIC_POPFD, popf},
    {ZYDIS_MNEMONIC_POPFQ, popf},
    {ZYDIS_MNEMONIC_CLI, cli},
    {ZYDIS_MNEMONIC_STI, sti},
    {ZYDIS_MNEMONIC_CLAC, smap_flag},
    {ZYDIS_MNEMONIC_STAC, smap_flag},
    {ZYDIS_MNEMONIC_SGDT, store_table},
    {ZYDIS_MNEMONIC_SIDT, store_table},
    {ZYDIS_MNEMONIC_LGDT, load_table},
    {ZYDIS_MNEMONIC_LIDT, load_table},
    {ZYDIS_MNEMONIC_SLDT, store_word},
    {ZYDIS_MNEMONIC_STR, store_word},
    {ZYDIS_MNEMONIC_SMSW, store_word},
    {ZYDIS_MNEMONIC_LLDT, load_system_segment},
    {ZYDIS_MNEMONIC_LTR, load_system_segment},
    {ZYDIS_MNEMONIC_LMSW, lmsw},
    {ZYDIS_MNEMONIC_LAR, lar_lsl},
    {ZYDIS_MNEMONIC_LSL, lar_lsl},
    {ZYDIS_MNEMONIC_VERR, verify},
    {ZYDIS_MNEMONIC_VERW, verify},
    {ZYDIS_MNEMONIC_SWAPGS, swapgs},
    {ZYDIS_MNEMONIC_RDFSBASE, fs_gs_base},
    {ZYDIS_MNEMONIC_RDGSBASE, fs_gs_base},
    {ZYDIS_MNEMONIC_WRFSBASE, fs_gs_base},
    {ZYDIS_MNEMONIC_WRGSBASE, fs_gs_base},
};

/* The forms of common mnemonics that name a segment or are far. */
static insn_exec by_form(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_MOV:
        if (i->form == FORM_RS || i->form == FORM_MS)
            return mov_from_segment;
        return i->form == FORM_SR || i->form == FORM_SM ? mov_to_segment : NULL;
    case ZYDIS_MNEMONIC_PUSH:
        return i->form == FORM_S ? push_segment : NULL;
    case ZYDIS_MNEMONIC_POP:
        return i->form == FORM_S ? pop_segment : NULL;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
        return i->prefixes & INSN_FAR ? far_jump_or_call : NULL;
    case ZYDIS_MNEMONIC_RET:
        return i->prefixes & INSN_FAR ? far_return : NULL;
    default:
        return NULL;
    }
}

insn_exec system_resolve(const struct insn *i)
{
    for (unsigned n = 0; n < sizeof(handlers) / sizeof(handlers[0]); n++) {
        if (handlers[n].op == i->op)
            return handlers[n].exec;
    }
    return by_form(i);
}
