/* SPDX-License-Identifier: MIT */
/* From a decoded instruction to its handler: ours by hand, else a copy run on the host, else #UD,
 * counted and named. */
#include "engine/interp/interp.h"
#include "engine/interp/step.h"

static insn_exec (*const resolvers[])(const struct insn *i) = {
    alu_resolve,    move_resolve,    branch_resolve, bits_resolve,   string_resolve,
    system_resolve, machine_resolve, fpu_resolve,    legacy_resolve,
};

/* i->imm is the mnemonic's name: a constant of Zydis. */
static const struct insn *unsupported(struct vcpu *v, const struct insn *i)
{
    vcpu_count_unsupported(v, (const char *)(uintptr_t)i->imm);
    x86_raise(v, VECTOR_UD);
}

/* A prepared copy: its code is in imm. */
static const struct insn *copied(struct vcpu *v, const struct insn *i)
{
    copy_run(v, (const struct copy_code *)(uintptr_t)i->imm, effective_address(v, i));
    return insn_next(v, i);
}

/* Far pointers in the instruction have the offset first, then the selector: both in imm. */
static void bind_far_pointer(struct insn *i, const ZydisDecodedOperand *o)
{
    if (o->type == ZYDIS_OPERAND_TYPE_POINTER)
        i->imm = o->ptr.offset | (uint64_t)o->ptr.segment << 32;
}

/* Those whose handlers do not run copies: all but fpu_resolve's. ORDER resolvers. */
insn_exec interp_handler(struct insn *i, const struct insn_full *full)
{
    for (unsigned n = 0; n < sizeof(resolvers) / sizeof(resolvers[0]); n++) {
        insn_exec exec = resolvers[n] == fpu_resolve ? NULL : resolvers[n](i);
        if (exec == NULL)
            continue;
        if ((i->prefixes & INSN_FAR) && full->insn.operand_count_visible > 0)
            bind_far_pointer(i, &full->operands[0]);
        return exec;
    }
    return NULL;
}

insn_exec bind_handler(struct interp_vm *vm, struct insn *i, const struct insn_full *full,
                       const uint8_t *bytes)
{
    for (unsigned n = 0; n < sizeof(resolvers) / sizeof(resolvers[0]); n++) {
        insn_exec exec = resolvers[n](i);
        if (exec == NULL)
            continue;
        if ((i->prefixes & INSN_FAR) && full->insn.operand_count_visible > 0)
            bind_far_pointer(i, &full->operands[0]);
        return exec;
    }
    const struct copy_code *code = copy_prepare(vm->copies, &full->insn, full->operands, bytes);
    if (code != NULL) {
        i->imm = (uintptr_t)code;
        return copied;
    }
    i->imm = (uintptr_t)ZydisMnemonicGetString(full->insn.mnemonic);
    return unsupported;
}
