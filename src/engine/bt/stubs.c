/* SPDX-License-Identifier: MIT */
/*
 * Common code at the start of the cache, made once and never thrown away: the way in, the way out,
 * and the calls from translated code into runtime.c.
 *
 * A call writes every guest register back to struct vcpu, for the function may look at them, change
 * them, or jump away (x86_raise). It returns where to go on.
 */
#include "engine/bt/translate.h"

#include "engine/host/copy.h"

#define HOST_MXCSR 0x1f80u

static const uint8_t host_registers[] = {RAX, RCX, RDX, RBX, RBP, RSI, RDI,
                                         R8,  R9,  R12, R13, R14, RSP};
#define HOST_REGISTERS (sizeof(host_registers))

static void put_write_back(struct emit *e)
{
    for (unsigned n = 0; n < HOST_REGISTERS; n++)
        emit_store(e, (unsigned)host_of(host_registers[n]), gpr_offset(host_registers[n]));
}

static void put_reload(struct emit *e)
{
    for (unsigned n = 0; n < HOST_REGISTERS; n++)
        emit_load(e, (unsigned)host_of(host_registers[n]), gpr_offset(host_registers[n]));
}

/* rsp is an operand that the emitters of the guest's code have no use for. */
static void put_rsp(struct emit *e, uint8_t opcode, uint32_t offset)
{
    EMIT(e, 0x65, 0x48, opcode, 0x24, 0x25);
    emit_u32(e, offset);
}

/* On the stack of C. */
static void put_call(struct emit *e, const void *function)
{
    put_rsp(e, 0x89, LOCAL_OFFSET(returns));
    put_rsp(e, 0x8b, LOCAL_OFFSET(c_stack));
    emit_load(e, RDI, LOCAL_OFFSET(self));
    emit_mov_constant(e, RAX, (uintptr_t)function);
    EMIT(e, 0xff, 0xd0); /* call *%rax */
    put_rsp(e, 0x8b, LOCAL_OFFSET(returns));
}

/* jmp *%r10 */
static void put_jump_s0(struct emit *e)
{
    EMIT(e, 0x41, 0xff, 0xe2);
}

/* Jumped to; function(v, S0 or S1) says where to go on. */
static uint8_t *make_call(struct emit *e, const void *function, unsigned argument)
{
    uint8_t *start = e->at;
    put_write_back(e);
    emit_mov(e, RSI, argument);
    put_call(e, function);
    emit_mov(e, S0, RAX);
    put_reload(e);
    put_jump_s0(e);
    return start;
}

/* The host stopped at an instruction of the guest's: RFLAGS are as they were there. */
static uint8_t *make_fault(struct emit *e)
{
    uint8_t *start = e->at;
    put_write_back(e);
    EMIT(e, 0x9c, 0x5e, 0xfc); /* pushfq; pop %rsi; cld */
    put_call(e, (const void *)bt_do_fault);
    emit_mov(e, S0, RAX);
    put_reload(e);
    put_jump_s0(e);
    return start;
}

/*
 * Called with S0 = linear address, S1 = what: looks into the table by address, and makes the slot a
 * copy of the entry. Returns with S1 = addend, S0 as it was.
 */
static void put_check_by_table(struct emit *e, uint32_t table, uint8_t **miss)
{
    emit_store(e, RAX, LOCAL_OFFSET(temp[3]));
    emit_store(e, RCX, LOCAL_OFFSET(temp[4]));
    emit_store(e, RDX, LOCAL_OFFSET(temp[5]));
    EMIT(e, 0xc4, 0xc3, 0xfb, 0xf0, 0xc2, 8, 0x25); /* rorx $8, %r10, %rax; and $…, %eax */
    emit_u32(e, (TLB_FAST_ENTRIES - 1) << 4);
    emit_gs_index(e, true, 0x8b, RDX, RAX, table); /* negative page */
    emit_lea(e, true, RCX, RDX, S0, 0, 0);
    emit_gs_index(e, true, 0x8b, RAX, RAX, table + 8); /* addend */
    EMIT(e, 0x45, 0x89, 0xdb);                         /* mov %r11d, %r11d */
    emit_store(e, S1, LOCAL_OFFSET(temp[6]));
    EMIT(e, 0x41, 0x81, 0xe3); /* and $…, %r11d */
    emit_u32(e, BT_CHECK_LIMIT);
    EMIT(e, 0x4c, 0x39, 0xd9); /* cmp %r11, %rcx */
    miss[0] = emit_jcc(e, 7);  /* ja */
    emit_load(e, S1, LOCAL_OFFSET(temp[6]));
    EMIT(e, 0x41, 0xc1, 0xeb, 12, 0x41, 0x81, 0xe3); /* shr $12, %r11d; and $…, %r11d */
    emit_u32(e, bt_check_slot(UINT32_MAX) << 4);
    EMIT(e, 0x65, 0x42, 0xff, 0x0c, 0x1d); /* decl %gs:slots(%r11) */
    emit_u32(e, LOCAL_OFFSET(slots));
    miss[1] = emit_jcc(e, 8); /* js */
    emit_gs_index(e, true, 0x89, RDX, S1, VCPU_OFFSET(tlb.slots));
    emit_gs_index(e, true, 0x89, RAX, S1, VCPU_OFFSET(tlb.slots) + 8);
    emit_gs(e, false, 0x8b, RCX, VCPU_OFFSET(tlb.slots_filled)); /* note it in the log */
    emit_lea(e, false, RDX, RCX, EMIT_NO_INDEX, 0, 4);
    emit_gs(e, false, 0x89, RDX, VCPU_OFFSET(tlb.slots_filled));
    EMIT(e, 0x81, 0xe1); /* and $…, %ecx */
    emit_u32(e, (TLB_SLOT_LOG - 1) * 4);
    emit_gs_index(e, false, 0x89, S1, RCX, VCPU_OFFSET(tlb.slot_log));
    emit_mov(e, S1, RAX);
    emit_load(e, RAX, LOCAL_OFFSET(temp[3]));
    emit_load(e, RCX, LOCAL_OFFSET(temp[4]));
    emit_load(e, RDX, LOCAL_OFFSET(temp[5]));
    EMIT(e, 0xc3);
}

/* Registers, S0 and S1 (temp[6]) as they were, and the return address where it was. */
static void put_restore_and_push(struct emit *e, const uint8_t *clobbered, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        emit_load(e, clobbered[k], gpr_offset(clobbered[k]));
    emit_load(e, S0, LOCAL_OFFSET(temp[1]));
    emit_load(e, S1, LOCAL_OFFSET(temp[6]));
    EMIT(e, 0x65, 0xff, 0x34, 0x25); /* push %gs:miss_pc */
    emit_u32(e, LOCAL_OFFSET(miss_pc));
}

/*
 * REP STOS or MOVS, called with S1 = the site; the flags are saved. When DF is clear and all of
 * each operand is in a page that the table serves, it is done here, on the host's addresses,
 * element by element as the processor does it. Else the site's way, and from there to the same
 * place.
 */
static void put_string_operand(struct emit *e, unsigned reg, unsigned size, uint32_t table,
                               uint8_t **miss)
{
    emit_mov(e, S0, reg);
    EMIT(e, 0xc4, 0xe3, 0xfb, 0xf0, (uint8_t)(0xd0 | reg), 8); /* rorx $8, reg, %rdx */
    EMIT(e, 0x81, 0xe2);                                       /* and $…, %edx */
    emit_u32(e, (TLB_FAST_ENTRIES - 1) << 4);
    emit_gs_index(e, true, 0x03, S0, RDX, table); /* the offset in the page, if it is that */
    EMIT(e, 0x49, 0x81, 0xfa);                    /* cmp $4096, %r10 */
    emit_u32(e, MEM_PAGE_SIZE);
    miss[0] = emit_jcc(e, 3); /* jae */
    emit_lea(e, true, S0, S0, RCX, size, 0);
    EMIT(e, 0x49, 0x81, 0xfa);
    emit_u32(e, MEM_PAGE_SIZE);
    miss[1] = emit_jcc(e, 7);                         /* ja */
    emit_gs_index(e, true, 0x8b, S0, RDX, table + 8); /* addend */
}

static uint32_t fast_table(unsigned reach, bool write)
{
    return (uint32_t)(VCPU_OFFSET(tlb.fast) +
                      (reach * 2 + write) * sizeof(((struct tlb *)0)->fast[0][0]));
}

/* One element, RCX times; the host's own string instruction takes long to begin. */
static void put_string_few(struct emit *e, bool moves, unsigned size)
{
    static const uint8_t prefix[4][2] = {{0, 0x88}, {0x66, 0x89}, {0, 0x89}, {0x48, 0x89}};
    uint8_t *loop = e->at;
    for (unsigned load = moves; load < 2; load--) { /* mov (%rsi), %rax; mov %rax, (%rdi) */
        if (prefix[size][0] != 0)
            EMIT(e, prefix[size][0]);
        EMIT(e, (uint8_t)(prefix[size][1] | load << 1), load ? 6 : 7);
    }
    if (moves)
        emit_lea(e, true, RSI, RSI, EMIT_NO_INDEX, 0, 1 << size);
    emit_lea(e, true, RDI, RDI, EMIT_NO_INDEX, 0, 1 << size);
    EMIT(e, 0xff, 0xc9); /* dec %ecx */
    emit_patch(emit_jcc(e, 5), loop);
}

static void put_string_many(struct emit *e, bool moves, unsigned size)
{
    if (size == 1)
        EMIT(e, 0x66);
    EMIT(e, 0xf3);
    if (size == 3)
        EMIT(e, 0x48);
    EMIT(e, (uint8_t)((moves ? 0xa4 : 0xaa) | (size != 0)));
}

#define STRING_FEW 12u

/* In 32-bit code no upper half of the registers counts. */
static uint8_t *put_string_narrow(struct emit *e, bool moves)
{
    emit_mov(e, S0, RCX);
    EMIT(e, 0x49, 0x09, 0xfa); /* or %rdi, %r10 */
    if (moves)
        EMIT(e, 0x49, 0x09, 0xf2);   /* or %rsi, %r10 */
    EMIT(e, 0x49, 0xc1, 0xea, 0x20); /* shr $32, %r10 */
    return emit_jcc(e, 5);           /* jne */
}

static uint8_t *make_string(struct emit *e, const struct bt_stubs *stubs, bool code32,
                            unsigned reach, bool moves, unsigned size)
{
    uint8_t *start = e->at, *miss[5];
    unsigned misses = 1;
    uint8_t *wide = code32 ? put_string_narrow(e, moves) : NULL;
    EMIT(e, 0x65, 0xf6, 0x04, 0x25); /* testb $DF, %gs:rflags + 1 */
    emit_u32(e, VCPU_OFFSET(rflags) + 1);
    EMIT(e, FLAG_DF >> 8);
    miss[0] = emit_jcc(e, 5);
    EMIT(e, 0x48, 0x81, 0xf9); /* cmp $…, %rcx */
    emit_u32(e, MEM_PAGE_SIZE >> size);
    uint8_t *large = emit_jcc(e, 7); /* ja */
    emit_store(e, RDX, LOCAL_OFFSET(temp[3]));
    emit_store(e, RAX, LOCAL_OFFSET(temp[4]));
    if (moves) {
        put_string_operand(e, RSI, size, fast_table(reach, false), &miss[misses]);
        misses += 2;
        emit_mov(e, RAX, S0);
    }
    put_string_operand(e, RDI, size, fast_table(reach, true), &miss[misses]);
    misses += 2;
    EMIT(e, 0x4c, 0x01, 0xd7); /* add %r10, %rdi */
    if (moves)
        EMIT(e, 0x48, 0x01, 0xc6, 0x48, 0x89, 0xc2); /* add %rax, %rsi; mov %rax, %rdx */
    EMIT(e, 0x83, 0xf9, STRING_FEW);                 /* cmp $…, %ecx */
    uint8_t *many = emit_jcc(e, 3);                  /* jae */
    EMIT(e, 0x85, 0xc9);                             /* test %ecx, %ecx */
    uint8_t *none = emit_jcc(e, 4);
    put_string_few(e, moves, size);
    uint8_t *done = emit_jmp(e);
    emit_patch(many, e->at);
    put_string_many(e, moves, size);
    emit_patch(none, e->at);
    emit_patch(done, e->at);
    EMIT(e, 0x4c, 0x29, 0xd7); /* sub %r10, %rdi */
    if (moves)
        EMIT(e, 0x48, 0x29, 0xd6); /* sub %rdx, %rsi */
    if (code32)
        EMIT(e, 0x89, 0xff, 0x89, 0xf6); /* mov %edi, %edi; mov %esi, %esi: the end may be 0 */
    emit_load(e, RDX, LOCAL_OFFSET(temp[3]));
    emit_load(e, RAX, LOCAL_OFFSET(temp[4]));
    EMIT(e, 0xc3);
    for (unsigned n = 1; n < misses; n++)
        emit_patch(miss[n], e->at);
    emit_load(e, RDX, LOCAL_OFFSET(temp[3]));
    emit_load(e, RAX, LOCAL_OFFSET(temp[4]));
    emit_patch(miss[0], e->at);
    emit_patch(large, e->at);
    if (wide != NULL)
        emit_patch(wide, e->at);
    EMIT(e, 0x48, 0x8d, 0x64, 0x24, 8); /* lea 8(%rsp), %rsp: not back there */
    emit_jmp_to(e, stubs->site);
    return start;
}

/* C keeps RBX, RBP and R12 up. */
static uint8_t *make_check(struct emit *e, unsigned reach, bool write)
{
    static const uint8_t clobbered[] = {RAX, RCX, RDX, RSI, RDI, R8, R9};
    uint8_t *start = e->at, *miss[2];
    put_check_by_table(e,
                       (uint32_t)(VCPU_OFFSET(tlb.fast) +
                                  (reach * 2 + write) * sizeof(((struct tlb *)0)->fast[0][0])),
                       miss);
    emit_patch(miss[0], e->at);
    emit_patch(miss[1], e->at);
    emit_load(e, RAX, LOCAL_OFFSET(temp[3]));
    emit_load(e, RCX, LOCAL_OFFSET(temp[4]));
    emit_load(e, RDX, LOCAL_OFFSET(temp[5]));
    put_write_back(e);
    emit_store(e, S0, LOCAL_OFFSET(temp[1]));
    EMIT(e, 0x58); /* pop %rax: the return address */
    emit_store(e, RAX, LOCAL_OFFSET(miss_pc));
    emit_mov(e, RSI, S0);
    emit_load(e, RDX, LOCAL_OFFSET(temp[6]));
    put_call(e, (const void *)bt_do_miss);
    EMIT(e, 0x48, 0x85, 0xc0); /* test %rax, %rax */
    uint8_t *not_again = emit_jcc(e, 5);
    put_restore_and_push(e, clobbered, sizeof(clobbered));
    emit_jmp_to(e, start);
    emit_patch(not_again, e->at);
    EMIT(e, 0x48, 0x83, 0xf8, (uint8_t)(uintptr_t)BT_SERVED); /* cmp $BT_SERVED, %rax */
    uint8_t *elsewhere = emit_jcc(e, 5);
    put_restore_and_push(e, clobbered, sizeof(clobbered));
    EMIT(e, 0xc3);
    emit_patch(elsewhere, e->at);
    emit_mov(e, S0, RAX);
    put_reload(e);
    put_jump_s0(e);
    return start;
}

/* Called; all registers survive, but the x87's. XRSTOR64 with a mask of 1. */
static uint8_t *make_x87(struct emit *e)
{
    uint8_t *start = e->at;
    emit_store(e, RAX, LOCAL_OFFSET(temp[3]));
    emit_store(e, RDX, LOCAL_OFFSET(temp[4]));
    EMIT(e, 0x65, 0x48, 0xc7, 0x04, 0x25); /* movq $XCR0_X87, %gs:xsave_header */
    emit_u32(e, VCPU_OFFSET(vector.xsave_header));
    emit_u32(e, XCR0_X87);
    emit_mov_constant(e, RAX, XCR0_X87);
    emit_mov_constant(e, RDX, 0);
    EMIT(e, 0x65, 0x48, 0x0f, 0xae, 0x2c, 0x25); /* xrstor64 %gs:vector */
    emit_u32(e, VCPU_OFFSET(vector));
    EMIT(e, 0x65, 0xc6, 0x04, 0x25); /* movb $1, %gs:x87_live */
    emit_u32(e, LOCAL_OFFSET(x87_live));
    EMIT(e, 1);
    emit_load(e, RAX, LOCAL_OFFSET(temp[3]));
    emit_load(e, RDX, LOCAL_OFFSET(temp[4]));
    EMIT(e, 0xc3);
    return start;
}

/* enter(v, code): rsp is 8 off a multiple of 16 here; c_stack is to be aligned. */
static const uint8_t callee_saved[] = {RBX, RBP, R12, R13, R14, R15};

static uint8_t *make_enter(struct emit *e)
{
    uint8_t *start = e->at;
    for (unsigned n = 0; n < sizeof(callee_saved); n++) {
        if (callee_saved[n] >= 8)
            EMIT(e, 0x41);
        EMIT(e, (uint8_t)(0x50 | (callee_saved[n] & 7)));
    }
    EMIT(e, 0x48, 0x83, 0xec, 8); /* sub $8, %rsp */
    put_rsp(e, 0x89, LOCAL_OFFSET(c_stack));
    put_rsp(e, 0x8b, LOCAL_OFFSET(returns));
    emit_mov(e, S0, RSI);
    put_reload(e);
    put_jump_s0(e);
    return start;
}

static uint8_t *make_leave(struct emit *e)
{
    uint8_t *start = e->at;
    put_rsp(e, 0x8b, LOCAL_OFFSET(c_stack));
    EMIT(e, 0x48, 0x83, 0xc4, 8); /* add $8, %rsp */
    for (unsigned n = sizeof(callee_saved); n-- > 0;) {
        if (callee_saved[n] >= 8)
            EMIT(e, 0x41);
        EMIT(e, (uint8_t)(0x58 | (callee_saved[n] & 7)));
    }
    EMIT(e, 0xc3);
    return start;
}

/* The flags are saved. */
static uint8_t *make_unpaired(struct emit *e, const struct bt_stubs *stubs, unsigned reach)
{
    uint8_t *start = e->at;
    uint8_t *miss = emit_jump_table(e, reach);
    EMIT(e, 0x65, 0x42, 0xff, 0x24, 0x1d); /* jmp *%gs:jumps+8(%r11) */
    emit_u32(e, bt_jumps_offset(reach) + 8);
    emit_patch(miss, stubs->indirect);
    return start;
}

/* The RET has taken the address of this away. */
static uint8_t *make_underflow(struct emit *e, const struct bt_stubs *stubs, unsigned reach)
{
    uint8_t *start = e->at;
    put_rsp(e, 0x8b, BT_RETURNS_OFFSET(reach, base));
    emit_jmp_to(e, stubs->unpaired[reach]);
    return start;
}

/* ---- vector state: (v in rdi) ---- */

static void put_vector_register(struct emit *e, enum bt_vector_class class, bool load, unsigned n)
{
    uint32_t at = VCPU_OFFSET(vector.zmm) + 64 * n;
    uint8_t r = n & 8 ? 0 : 0x80, r2 = n & 16 ? 0 : 0x10,
            modrm = (uint8_t)(0x80 | (n & 7) << 3 | RDI);
    switch (class) {
    case BT_VECTOR_AVX512: { /* vmovdqu64, disp32 */
        EMIT(e, 0x62, (uint8_t)(r | 0x60 | r2 | 1), 0xfe, 0x48, load ? 0x6f : 0x7f, modrm);
        break;
    }
    case BT_VECTOR_AVX: /* vmovdqu ymm */
        EMIT(e, 0xc5, (uint8_t)(r | 0x7e), load ? 0x6f : 0x7f, modrm);
        break;
    default: /* movdqu */
        EMIT(e, 0xf3, emit_rex(false, n, 0, RDI), 0x0f, load ? 0x6f : 0x7f, modrm);
        break;
    }
    emit_u32(e, at);
}

static void *make_vector(struct bt_vm *vm, struct emit *e, enum bt_vector_class class, bool load)
{
    const uint8_t *start = bt_exec(vm, e->at);
    for (unsigned n = 0; class != BT_VECTOR_NONE && n < (class == BT_VECTOR_AVX512 ? 32u : 16u);
         n++)
        put_vector_register(e, class, load, n);
    for (unsigned k = 0; class == BT_VECTOR_AVX512 && k < 8; k++) { /* kmovq */
        EMIT(e, 0xc4, 0xe1, 0xf8, load ? 0x90 : 0x91, (uint8_t)(0x80 | k << 3 | RDI));
        emit_u32(e, VCPU_OFFSET(vector.k) + 8 * k);
    }
    if (class >= BT_VECTOR_AVX && !load)
        EMIT(e, 0xc5, 0xf8, 0x77); /* vzeroupper */
    if (class != BT_VECTOR_NONE) {
        EMIT(e, 0x0f, 0xae, (uint8_t)(0x80 | (load ? 2 : 3) << 3 | RDI)); /* ldmxcsr, stmxcsr */
        emit_u32(e, VCPU_OFFSET(vector.mxcsr));
    }
    if (class != BT_VECTOR_NONE && !load) { /* push $HOST_MXCSR; ldmxcsr (%rsp); pop %rax */
        EMIT(e, 0x68);
        emit_u32(e, HOST_MXCSR);
        EMIT(e, 0x0f, 0xae, 0x14, 0x24, 0x58);
    }
    EMIT(e, 0xc3);
    return (void *)(uintptr_t)start;
}

static void *function_at(const struct bt_vm *vm, const uint8_t *writable)
{
    return (void *)(uintptr_t)bt_exec(vm, writable);
}

void bt_stubs_make(struct bt_vm *vm)
{
    struct emit e = {.at = vm->memory.write};
    struct bt_stubs *s = &vm->stubs;

    s->enter = (void (*)(struct vcpu *, const uint8_t *))function_at(vm, make_enter(&e));
    s->leave = make_leave(&e);
    s->link = make_call(&e, (const void *)bt_do_link, S1);
    s->site = make_call(&e, (const void *)bt_do_site, S1);
    s->indirect = make_call(&e, (const void *)bt_do_indirect, S0);
    s->find = make_call(&e, (const void *)bt_do_find, S0);
    for (unsigned reach = 0; reach < TLB_FAST_REACHES; reach++) {
        for (unsigned write = 0; write < 2; write++)
            s->check[reach][write] = make_check(&e, reach, write);
        for (unsigned size = 0; size < 4; size++) {
            for (unsigned code32 = 0; code32 < 2; code32++) {
                uint8_t *(*strings)[4] = s->strings[code32][reach];
                strings[BT_STOS][size] = make_string(&e, s, code32, reach, false, size);
                strings[BT_MOVS][size] = make_string(&e, s, code32, reach, true, size);
            }
        }
        s->unpaired[reach] = make_unpaired(&e, s, reach);
        s->underflow[reach] = make_underflow(&e, s, reach);
    }
    s->fault = make_fault(&e);
    s->x87 = make_x87(&e);
    for (unsigned class = 0; class < 4; class ++) {
        if (class == BT_VECTOR_AVX512 && !__builtin_cpu_supports("avx512f"))
            break;
        if (class == BT_VECTOR_AVX && !__builtin_cpu_supports("avx"))
            break;
        s->vector_save[class] = (void (*)(struct vcpu *))make_vector(vm, &e, class, false);
        s->vector_load[class] = (void (*)(struct vcpu *))make_vector(vm, &e, class, true);
    }
    vm->free = vm->memory.write + (((size_t)(e.at - vm->memory.write) + 63) & ~(size_t)63);
    vm->first = vm->free;
    size_t left = (size_t)(vm->memory.write + vm->memory.size - vm->first);
    vm->cold = vm->cold_free = vm->first + (left / 2 & ~(size_t)63);
    vm->huge = vm->memory.write;
}
