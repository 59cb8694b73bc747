/* SPDX-License-Identifier: MIT */
/* The registers as a readable block, for a guest that died. */
#include <inttypes.h>
#include <stdio.h>

#include "x86/descriptor.h"

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const sreg_names[SEG_COUNT] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
static const char *const activity_names[] = {"active", "halted", "waiting for SIPI", "shut down"};

static void dump_flags(const struct vcpu *v, FILE *f)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } names[] = {{FLAG_CF, "CF"}, {FLAG_PF, "PF"}, {FLAG_AF, "AF"},   {FLAG_ZF, "ZF"},
                 {FLAG_SF, "SF"}, {FLAG_TF, "TF"}, {FLAG_IF, "IF"},   {FLAG_DF, "DF"},
                 {FLAG_OF, "OF"}, {FLAG_NT, "NT"}, {FLAG_RF, "RF"},   {FLAG_VM, "VM"},
                 {FLAG_AC, "AC"}, {FLAG_ID, "ID"}, {FLAG_VIF, "VIF"}, {FLAG_VIP, "VIP"}};
    fprintf(f, "rip  %016" PRIx64 "  rflags %08" PRIx64 " [IOPL%u", v->rip, v->rflags,
            (unsigned)(v->rflags >> 12) & 3);
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (v->rflags & names[i].bit)
            fprintf(f, " %s", names[i].name);
    fprintf(f, "]\n");
}

static const char *mode_name(const struct vcpu *v)
{
    if (x86_real_mode(v))
        return "real mode";
    if (v->code64)
        return "64-bit mode";
    if (v->long_mode)
        return "compatibility mode";
    return x86_virtual_8086(v) ? "virtual-8086 mode" : "protected mode";
}

void vcpu_dump(const struct vcpu *v, FILE *f)
{
    fprintf(f, "vCPU %u: %s, %s, CPL %u, %" PRIu64 " instructions\n", v->id, mode_name(v),
            v->activity <= VCPU_SHUTDOWN ? activity_names[v->activity] : "?", v->cpl,
            v->counters.instructions);
    for (unsigned i = 0; i < 16; i++)
        fprintf(f, "%-4s %016" PRIx64 "%s", gpr_names[i], v->gpr[i], i % 4 == 3 ? "\n" : "  ");
    dump_flags(v, f);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        const struct x86_segment *s = &v->seg[i];
        fprintf(f, "%-4s %04x  base %016" PRIx64 "  limit %08x  attributes %05x%s\n", sreg_names[i],
                s->selector, s->base, s->limit, s->attributes,
                (s->attributes & ATTR_UNUSABLE) ? " (null)" : "");
    }
    fprintf(f, "gdtr base %016" PRIx64 "  limit %04x\n", v->gdtr.base, v->gdtr.limit);
    fprintf(f, "idtr base %016" PRIx64 "  limit %04x\n", v->idtr.base, v->idtr.limit);
    fprintf(f, "cr0  %08" PRIx64 "  cr2 %016" PRIx64 "  cr3 %016" PRIx64 "  cr4 %08" PRIx64 "\n",
            v->cr0, v->cr2, v->cr3, v->cr4);
    fprintf(f, "efer %08" PRIx64 "  xcr0 %08" PRIx64 "  dr6 %08" PRIx64 "  dr7 %08" PRIx64 "\n",
            v->efer, v->xcr0, v->dr6, v->dr7);
    fprintf(f, "last exception: vector %u, error %x, address %016" PRIx64 "\n", v->fault.vector,
            v->fault.error, v->fault.address);
    if (v->unsupported[0])
        fprintf(f, "not supported: %s\n", v->unsupported);
}
