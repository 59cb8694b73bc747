/* SPDX-License-Identifier: MIT */
/*
 * The rules for one instruction of a translation: which there may be, what they may name, and what
 * their memory operands may reach. docs/checker.md lists them by the names used here.
 */
#include "engine/bt/check_state.h"

#define DEPTH_MAX 8u /* pushes; below them the stack is the host's */

/* ---- opcode ---- */

static bool misc_allowed(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
        return true;
    default:
        return false;
    }
}

/* Not STD (the host's DF is 0), nor what reaches TF, IF, AC. */
static bool flag_allowed(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
        return true;
    default:
        return false;
    }
}

/* Zydis counts XBEGIN and its kin among the jumps. LOOP counts in a register of the guest's. */
static bool jump_allowed(const ZydisDecodedInstruction *zi)
{
    if (zi->meta.branch_type != ZYDIS_BRANCH_TYPE_SHORT &&
        zi->meta.branch_type != ZYDIS_BRANCH_TYPE_NEAR)
        return false;
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_JECXZ:
        return true;
    default: /* Jcc */
        return (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (zi->opcode & 0xf0) == 0x70) ||
               (zi->opcode_map == ZYDIS_OPCODE_MAP_0F && (zi->opcode & 0xf0) == 0x80);
    }
}

/* Not what has the pointers in it, which are the host's. */
static bool x87_allowed(const ZydisDecodedInstruction *zi)
{
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FRSTOR:
        return false;
    default:
        return zi->meta.isa_ext == ZYDIS_ISA_EXT_X87;
    }
}

/* Everything that is not named here is refused. */
static bool opcode_allowed(const ZydisDecodedInstruction *zi)
{
    if ((zi->attributes & (ZYDIS_ATTRIB_IS_PRIVILEGED | ZYDIS_ATTRIB_HAS_REP |
                           ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE)) != 0)
        return false;
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_CONVERT:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_ROTATE:
    case ZYDIS_CATEGORY_SEMAPHORE:
    case ZYDIS_CATEGORY_SETCC:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_ADOX_ADCX:
    case ZYDIS_CATEGORY_BMI1:
    case ZYDIS_CATEGORY_BMI2:
    case ZYDIS_CATEGORY_LZCNT:
        return true;
    case ZYDIS_CATEGORY_AES:
    case ZYDIS_CATEGORY_AVX:
    case ZYDIS_CATEGORY_AVX2:
    case ZYDIS_CATEGORY_AVX512:
    case ZYDIS_CATEGORY_AVX512_BITALG:
    case ZYDIS_CATEGORY_AVX512_VBMI:
    case ZYDIS_CATEGORY_AVX512_VP2INTERSECT:
    case ZYDIS_CATEGORY_BLEND:
    case ZYDIS_CATEGORY_BROADCAST:
    case ZYDIS_CATEGORY_COMPRESS:
    case ZYDIS_CATEGORY_CONFLICT:
    case ZYDIS_CATEGORY_EXPAND:
    case ZYDIS_CATEGORY_FP16:
    case ZYDIS_CATEGORY_GFNI:
    case ZYDIS_CATEGORY_IFMA:
    case ZYDIS_CATEGORY_KMASK:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_PCLMULQDQ:
    case ZYDIS_CATEGORY_SHA:
    case ZYDIS_CATEGORY_STTNI:
    case ZYDIS_CATEGORY_VAES:
    case ZYDIS_CATEGORY_VBMI2:
    case ZYDIS_CATEGORY_VFMA:
    case ZYDIS_CATEGORY_VPCLMULQDQ:
        return true;
    case ZYDIS_CATEGORY_SSE: /* among them what loads all of the x87 state too */
        return zi->mnemonic != ZYDIS_MNEMONIC_FXRSTOR && zi->mnemonic != ZYDIS_MNEMONIC_FXRSTOR64 &&
               zi->mnemonic != ZYDIS_MNEMONIC_FXSAVE && zi->mnemonic != ZYDIS_MNEMONIC_FXSAVE64;
    case ZYDIS_CATEGORY_MISC:
        return misc_allowed(zi->mnemonic);
    case ZYDIS_CATEGORY_FLAGOP:
        return flag_allowed(zi->mnemonic);
    case ZYDIS_CATEGORY_PUSH:
        return zi->mnemonic == ZYDIS_MNEMONIC_PUSH || zi->mnemonic == ZYDIS_MNEMONIC_PUSHFQ;
    case ZYDIS_CATEGORY_POP:
        return zi->mnemonic == ZYDIS_MNEMONIC_POP;
    case ZYDIS_CATEGORY_X87_ALU:
    case ZYDIS_CATEGORY_FCMOV:
        return x87_allowed(zi);
    case ZYDIS_CATEGORY_RET:
        return zi->opcode == 0xc3;
    case ZYDIS_CATEGORY_CALL: /* where to is the graph's rule */
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
        return jump_allowed(zi);
    default:
        return false;
    }
}

/* ---- registers ---- */

static bool is_stack_move(const ZydisDecodedInstruction *zi)
{
    return zi->meta.category == ZYDIS_CATEGORY_PUSH || zi->meta.category == ZYDIS_CATEGORY_POP ||
           zi->meta.category == ZYDIS_CATEGORY_CALL || zi->meta.category == ZYDIS_CATEGORY_RET;
}

/* A host address may be moved between scratch registers and used as an address, no more. */
static bool keeps_host_address(const struct check_insn *i, const struct check_state *s,
                               const ZydisDecodedOperand *o)
{
    unsigned n = check_gpr(o->reg.value);
    bool reads = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0 || o->size < 32;
    if (!check_is_host(&s->r[n]) || !reads)
        return true;
    const ZydisDecodedOperand *to = &i->operands[0];
    return i->insn.mnemonic == ZYDIS_MNEMONIC_MOV && to->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           to->size == 64 && check_is_scratch(check_gpr(to->reg.value));
}

/* The instructions of the emitter that name RSP: is there room for a call; else it is emptied; and
 * the other reach's stack in its place. */
static bool is_returns_move(const struct check *c, const struct check_insn *i,
                            const struct check_state *s)
{
    enum check_turn next;
    if (check_turn(c, i, s, &next))
        return s->depth == 0 && next <= CHECK_TURN_RETURN;
    const ZydisDecodedOperand *o = i->operands;
    if (!check_is_register(&o[0], 64) || check_gpr(o[0].reg.value) != RSP || s->depth != 0)
        return false;
    return (i->insn.mnemonic == ZYDIS_MNEMONIC_CMP &&
            check_is_field(&o[1], BT_RETURNS_OFFSET(s->reach, limit), 64)) ||
           (i->insn.mnemonic == ZYDIS_MNEMONIC_MOV &&
            check_is_field(&o[1], BT_RETURNS_OFFSET(s->reach, base), 64));
}

static bool is_x87_control(ZydisRegister r)
{
    return r == ZYDIS_REGISTER_X87CONTROL || r == ZYDIS_REGISTER_X87STATUS ||
           r == ZYDIS_REGISTER_X87TAG;
}

static bool register_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                          const ZydisDecodedOperand *o)
{
    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        break;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM:
    case ZYDIS_REGCLASS_MASK:
    case ZYDIS_REGCLASS_FLAGS:
    case ZYDIS_REGCLASS_IP:
    case ZYDIS_REGCLASS_X87:
        return true;
    default:
        return o->reg.value == ZYDIS_REGISTER_MXCSR || is_x87_control(o->reg.value) ||
               check_fail(c, "register: %s", ZydisRegisterGetString(o->reg.value));
    }
    if (check_gpr(o->reg.value) == RSP &&
        !(is_stack_move(&i->insn) && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) &&
        !is_returns_move(c, i, s))
        return check_fail(c, "rsp: named");
    return keeps_host_address(i, s, o) || check_fail(c, "host address: used as data");
}

/* ---- memory ---- */

struct range {
    uint32_t from, to;
};

/* What translated code may write in struct vcpu: the guest's registers, and its own scratch. Not
 * the requests (others set them), the TLB, nor what holds host addresses. */
static const struct range writable[] = {
    {0, VCPU_OFFSET(reach)},
    {VCPU_OFFSET(long_mode), VCPU_OFFSET(requests)},
    {VCPU_OFFSET(cr0), VCPU_OFFSET(tlb)},
    {VCPU_OFFSET(counters), VCPU_OFFSET(unsupported)},
    {LOCAL_OFFSET(flags), LOCAL_OFFSET(flags) + sizeof(uint16_t)},
    {LOCAL_OFFSET(temp), LOCAL_OFFSET(bounce)},
    {LOCAL_OFFSET(branch), LOCAL_OFFSET(c_stack)},
};

/* Host addresses: not even to be read. */
static const struct range hidden[] = {
    {VCPU_OFFSET(unwind), VCPU_OFFSET(fault)},
    {VCPU_OFFSET(platform), VCPU_OFFSET(engine_local)},
    {LOCAL_OFFSET(self), LOCAL_OFFSET(branch)},
    {LOCAL_OFFSET(c_stack), LOCAL_OFFSET(generation)},
    {LOCAL_OFFSET(jumps), LOCAL_OFFSET(jumps) + sizeof(((struct bt_local *)0)->jumps)},
};

static bool may_write(int64_t from, int64_t to)
{
    for (unsigned n = 0; n < sizeof(writable) / sizeof(writable[0]); n++)
        if (from >= writable[n].from && to <= writable[n].to)
            return true;
    return false;
}

static bool may_read(int64_t from, int64_t to)
{
    for (unsigned n = 0; n < sizeof(hidden) / sizeof(hidden[0]); n++)
        if (to > hidden[n].from && from < hidden[n].to)
            return false;
    return true;
}

/* movl $0 and movl $-1: nothing is held, so that any request leads out. */
static bool holds_nothing(const struct check_insn *i, int64_t disp, unsigned size)
{
    const ZydisDecodedOperand *from = &i->operands[1];
    return i->insn.mnemonic == ZYDIS_MNEMONIC_MOV && size == 4 &&
           from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           ((disp == LOCAL_OFFSET(held) && (uint32_t)from->imm.value.u == 0) ||
            (disp == LOCAL_OFFSET(not_held) && (uint32_t)from->imm.value.u == UINT32_MAX));
}

/* The host address in an entry goes to a scratch register, and nowhere else. */
static bool is_addend_load(const struct check_insn *i)
{
    const ZydisDecodedOperand *to = &i->operands[0];
    return i->insn.mnemonic == ZYDIS_MNEMONIC_MOV && to->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           to->size == 64 && check_is_scratch(check_gpr(to->reg.value));
}

/* The TLB is read through its slots, as table_rule does it through an index. */
static bool slot_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                      int64_t disp, unsigned size)
{
    struct check_slot slot;
    if (!check_slot_at(c, disp, &slot) || size != 8)
        return check_fail(c, "table: %%gs:%#llx is no slot of this reach",
                          (unsigned long long)disp);
    if (slot.field == 0)
        return true;
    if (slot.field != 8 || check_fact_of(s, slot.base, NULL) == NULL)
        return check_fail(c, "table: the host address is read before the check");
    return is_addend_load(i) || check_fail(c, "host address: used as data");
}

static bool field_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                       int64_t disp, unsigned size, bool write)
{
    enum check_turn next;
    if (disp < 0 || disp + size > (int64_t)sizeof(struct vcpu))
        return check_fail(c, "vcpu: %%gs:%#llx lies outside", (unsigned long long)disp);
    if (write && !may_write(disp, disp + size) && !holds_nothing(i, disp, size) &&
        !check_turn(c, i, s, &next))
        return check_fail(c, "vcpu: %%gs:%#llx is not to be written", (unsigned long long)disp);
    if (!write && !may_read(disp, disp + size) && !is_returns_move(c, i, s))
        return check_fail(c, "vcpu: %%gs:%#llx holds a host address", (unsigned long long)disp);
    if (disp + size > (int64_t)VCPU_OFFSET(tlb) &&
        disp < (int64_t)(VCPU_OFFSET(tlb) + sizeof(struct tlb)))
        return slot_rule(c, i, s, disp, size);
    return true;
}

/* %gs:disp(index): a field of an entry, and the index within the table. */
static bool table_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                       const ZydisDecodedOperand *o, unsigned index, bool write)
{
    struct check_table t;
    const struct check_value *v = &s->r[index];
    int64_t disp = o->mem.disp.value;
    if (!check_table_at(c, disp, &t))
        return check_fail(c, "table: %%gs:%#llx is in none of this reach",
                          (unsigned long long)disp);
    int64_t field = disp - t.base;
    if ((field != 0 && field != 8) || o->size != 64 || write)
        return check_fail(c, "table: not a read of a field");
    if ((v->kind != CHECK_INDEX && v->kind != CHECK_JUMP) || (((uint64_t)v->n << v->shl) & 15) ||
        check_bound(v) + 16 > t.size)
        return check_fail(c, "table: the index is not masked");
    if (field == 0)
        return true;
    if (t.fast && check_served_by_entry(s, index, t.write) == CHECK_NONE)
        return check_fail(c, "table: the host address is read before the check");
    if (t.fast)
        return is_addend_load(i) || check_fail(c, "host address: used as data");
    return ((i->insn.mnemonic == ZYDIS_MNEMONIC_JMP || i->insn.mnemonic == ZYDIS_MNEMONIC_CALL) &&
            v->kind == CHECK_JUMP) ||
           check_fail(c, "table: the code of a jump that was not compared");
}

static bool gs_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                    const ZydisDecodedOperand *o, bool write)
{
    const ZydisDecodedOperandMem *m = &o->mem;
    if (m->base == ZYDIS_REGISTER_NONE && m->index == ZYDIS_REGISTER_NONE)
        return field_rule(c, i, s, m->disp.value, o->size / 8, write);
    unsigned base = check_gpr(m->base), index = check_gpr(m->index);
    if (m->base == ZYDIS_REGISTER_NONE && m->scale == 1 && index != CHECK_NONE)
        return table_rule(c, i, s, o, index, write);
    if (m->index == ZYDIS_REGISTER_NONE && base != CHECK_NONE)
        return table_rule(c, i, s, o, base, write);
    return check_fail(c, "vcpu: neither a field nor a table");
}

static bool guest_rule(struct check *c, const struct check_state *s, const ZydisDecodedOperand *o,
                       bool write)
{
    uint32_t n;
    const struct check_value *v = check_guest(c, s, &o->mem, &n);
    if (v == NULL)
        return check_fail(c, "memory: no check leads here");
    if (o->size / 8 > n)
        return check_fail(c, "memory: %u bytes where %u were checked", o->size / 8, n);
    if (write && !v->write)
        return check_fail(c, "memory: a write under the read table");
    return check_mapped(c, s) || check_fail(c, "crossing: the page's mapping was not compared");
}

/* LEA of a host address makes a pointer of it, in a scratch register. */
static bool lea_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                     const ZydisDecodedOperandMem *m)
{
    unsigned base = check_gpr(m->base), index = check_gpr(m->index);
    if (base == RSP || m->base == ZYDIS_REGISTER_RIP)
        return check_fail(c, "rsp: named");
    if ((base == CHECK_NONE || !check_is_host(&s->r[base])) &&
        (index == CHECK_NONE || !check_is_host(&s->r[index])))
        return true;
    uint32_t n;
    const struct check_value *v = check_guest(c, s, m, &n);
    return (v != NULL && v->kind == CHECK_ADDEND && n > 0 && i->operands[0].size == 64 &&
            check_is_scratch(check_gpr(i->operands[0].reg.value))) ||
           check_fail(c, "host address: used as data");
}

static bool memory_rule(struct check *c, const struct check_insn *i, const struct check_state *s,
                        const ZydisDecodedOperand *o)
{
    const ZydisDecodedInstruction *zi = &i->insn;
    bool write = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;

    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN && zi->mnemonic == ZYDIS_MNEMONIC_LEA)
        return lea_rule(c, i, s, &o->mem);
    if (o->mem.type != ZYDIS_MEMOP_TYPE_MEM || o->size == 0 || o->size % 8 != 0 ||
        zi->address_width != 64)
        return check_fail(c, "memory: not a plain operand");
    if (o->mem.base == ZYDIS_REGISTER_RSP && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN &&
        is_stack_move(zi))
        return o->size == 64 || check_fail(c, "rsp: not 8 bytes");
    if (o->mem.base == ZYDIS_REGISTER_RSP)
        return check_fail(c, "rsp: a base");
    switch (o->mem.segment) {
    case ZYDIS_REGISTER_GS:
        return gs_rule(c, i, s, o, write);
    case ZYDIS_REGISTER_DS:
    case ZYDIS_REGISTER_SS:
        return guest_rule(c, s, o, write);
    default:
        return check_fail(c, "memory: segment %s", ZydisRegisterGetString(o->mem.segment));
    }
}

/* A bit offset in a register reaches beyond the operand (SDM 2A BT). */
static bool has_wild_bit_offset(const struct check_insn *i)
{
    switch (i->insn.mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
        return i->operands[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
               i->operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
        return false;
    }
}

/* ---- stack and traps ---- */

static bool stack_rule(struct check *c, const struct check_insn *i, const struct check_state *s)
{
    if (i->insn.meta.category == ZYDIS_CATEGORY_PUSH && s->depth >= DEPTH_MAX)
        return check_fail(c, "rsp: too many pushes");
    if (i->insn.meta.category == ZYDIS_CATEGORY_POP && s->depth == 0)
        return check_fail(c, "rsp: a pop without a push");
    return true;
}

/* What the host may stop at must tell which guest instruction it is (trap.c). */
static bool may_trap(const struct check_insn *i)
{
    if (i->insn.mnemonic == ZYDIS_MNEMONIC_DIV || i->insn.mnemonic == ZYDIS_MNEMONIC_IDIV ||
        i->insn.meta.isa_ext == ZYDIS_ISA_EXT_X87)
        return true;
    for (unsigned n = 0; n < i->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && o->mem.type == ZYDIS_MEMOP_TYPE_MEM &&
            o->mem.segment != ZYDIS_REGISTER_GS && o->mem.base != ZYDIS_REGISTER_RSP)
            return true;
        if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
            continue;
        ZydisRegisterClass class = ZydisRegisterGetClass(o->reg.value);
        if (class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM ||
            class == ZYDIS_REGCLASS_ZMM || class == ZYDIS_REGCLASS_MASK ||
            o->reg.value == ZYDIS_REGISTER_MXCSR)
            return true;
    }
    return false;
}

bool check_has_mark(const struct check *c, const struct check_insn *i)
{
    unsigned low = 0, high = c->u->mark_count;
    uint32_t at = bt_unit_offset(c->u, i->at);
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (c->u->marks[middle].host < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low < c->u->mark_count && c->u->marks[low].host == at;
}

bool check_rules(struct check *c, const struct check_insn *i, const struct check_state *s)
{
    enum check_turn next;
    if (s->turning != CHECK_TURN_NONE && !check_turn(c, i, s, &next))
        return check_fail(c, "reach: not changed together with its return stack");
    if (i->insn.mnemonic == ZYDIS_MNEMONIC_NOP) /* whatever it names, it reaches nothing */
        return true;
    if (!opcode_allowed(&i->insn))
        return check_fail(c, "opcode: %s", ZydisCategoryGetString(i->insn.meta.category));
    if (i->insn.meta.isa_ext == ZYDIS_ISA_EXT_X87 && !s->x87)
        return check_fail(c, "x87: the registers may be the host's");
    if (has_wild_bit_offset(i))
        return check_fail(c, "memory: a bit offset without bounds");
    for (unsigned n = 0; n < i->insn.operand_count; n++) {
        const ZydisDecodedOperand *o = &i->operands[n];
        if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
            return check_fail(c, "opcode: far pointer");
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && !register_rule(c, i, s, o))
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !memory_rule(c, i, s, o))
            return false;
    }
    if (may_trap(i) && !check_has_mark(c, i))
        return check_fail(c, "mark: the host may stop here, and no mark says where in the guest");
    return stack_rule(c, i, s);
}
