/* SPDX-License-Identifier: MIT */
/*
 * See compare.h. Not compared:
 *  - RFLAGS.TF: the oracle steps with it.
 *  - The P bit of a page fault's error code from HOST_TASK_SIZE on: Linux sets it for every such
 *    address so that user code cannot find out what the kernel maps (arch/x86/mm/fault.c).
 *  - The same bit where the guest of 32-bit code has its own tables (DIFF_KERNEL32).
 *  - The error code and CR2 of a vector that has none.
 *  - Which word of an operand marked unordered (special.c) faults, and stores before that fault.
 *  - Under AddressSanitizer, accesses to its shadow: the oracle's child inherits that mapping,
 * where the guest has nothing.
 *  - Registers that XRSTOR had loaded before a fault (diff.h, partial_load).
 *  - The upper half of RSP after a far transfer to compatibility mode: undefined (SDM 1 3.4.1.1).
 *  - x87 pointers when no exception is pending, on processors that do not save them then: the frame
 *    has zeros. FNSTENV in a block shows them (tests/blocks), and tests/unit/engine/host/copy_test.
 *  - RPL of null selectors in DS, ES, FS, GS: the oracle's IRET to its handler makes them 0.
 */
#include "compare.h"

#include <string.h>

#include "engine/host/processor.h"

#define FSW_ES         0x80u
#define HOST_TASK_SIZE UINT64_C(0x7ffffffff000)

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const segment_names[6] = {"es", "cs", "ss", "ds", "fs", "gs"};

const char *compare_vector_name(uint8_t vector)
{
    static const char *const names[] = {
        [VECTOR_DE] = "#DE", [VECTOR_DB] = "#DB", [VECTOR_NMI] = "NMI", [VECTOR_BP] = "#BP",
        [VECTOR_OF] = "#OF", [VECTOR_BR] = "#BR", [VECTOR_UD] = "#UD",  [VECTOR_NM] = "#NM",
        [VECTOR_DF] = "#DF", [VECTOR_TS] = "#TS", [VECTOR_NP] = "#NP",  [VECTOR_SS] = "#SS",
        [VECTOR_GP] = "#GP", [VECTOR_PF] = "#PF", [VECTOR_MF] = "#MF",  [VECTOR_AC] = "#AC",
        [VECTOR_MC] = "#MC", [VECTOR_XM] = "#XM",
    };

    if (vector == DIFF_NO_VECTOR)
        return "none";
    return vector < sizeof(names) / sizeof(names[0]) && names[vector] ? names[vector] : "other";
}

struct comparison {
    FILE *out;
    const char *engine_name;
    bool equal;
};

static void differ(struct comparison *c, const char *field, uint64_t processor, uint64_t engine)
{
    c->equal = false;
    if (c->out)
        fprintf(c->out, "    %-10s processor %016llx  %s %016llx\n", field,
                (unsigned long long)processor, c->engine_name, (unsigned long long)engine);
}

static void check(struct comparison *c, const char *field, uint64_t processor, uint64_t engine)
{
    if (processor != engine)
        differ(c, field, processor, engine);
}

static void check_indexed(struct comparison *c, const char *name, unsigned i, uint64_t processor,
                          uint64_t engine)
{
    char field[32];

    if (processor == engine)
        return;
    snprintf(field, sizeof(field), "%s%u", name, i);
    differ(c, field, processor, engine);
}

/* A fault of the operand's own: a page fault on one of its words or, where it lies across the end
 * of the canonical addresses, the general protection of another. */
static bool fault_within(const struct diff_case *c, const struct diff_outcome *o)
{
    uint64_t last = c->unordered + c->unordered_size - 1;

    if (o->vector == VECTOR_PF)
        return ((o->address - c->unordered) & c->unordered_mask) < c->unordered_size;
    /* XRSTOR's header may be judged before or after the components are touched, a far CALL's target
     * before or after the stack. */
    if ((c->partial_load || c->partial_store) && o->vector == VECTOR_GP && o->error == 0)
        return true;
    if (c->partial_store && o->vector == VECTOR_SS && o->error == 0)
        return true;
    /* The segment's limit may cut it short of its absent page, or the other way round. */
    if (c->code32 && (o->vector == VECTOR_GP || o->vector == VECTOR_SS) && o->error == 0)
        return true;
    return (o->vector == VECTOR_GP || o->vector == VECTOR_SS) && o->error == 0 &&
           (c->unordered >> 47) != (last >> 47);
}

/* Both faulted on some word of an operand whose order of accesses is the processor's own. */
static bool unordered_fault(const struct diff_case *c, const struct diff_outcome *p,
                            const struct diff_outcome *e)
{
    return c->unordered_size && fault_within(c, p) && fault_within(c, e);
}

static uint16_t data_selector(uint16_t selector)
{
    return selector < 4 ? 0 : selector;
}

static bool is_present_on_one_side(const struct diff_case *c, uint64_t address)
{
    return address >= HOST_TASK_SIZE || (c->code32 && address - DIFF_KERNEL32 < DIFF_KERNEL32_SIZE);
}

static void check_fault(struct comparison *c, const struct diff_case *input,
                        const struct diff_outcome *p, const struct diff_outcome *e)
{
    uint32_t ignored = is_present_on_one_side(input, p->address) ? PF_PRESENT : 0;

    if (p->failure != e->failure) {
        static const char *const names[] = {"ran", "died", "hung", "strange"};
        c->equal = false;
        if (c->out)
            fprintf(c->out, "    %-10s processor %s  %s %s\n", "ending", names[p->failure],
                    c->engine_name, names[e->failure]);
    }
    if (p->vector != e->vector) {
        c->equal = false;
        if (c->out)
            fprintf(c->out, "    %-10s processor %s(%x) cr2 %llx  %s %s(%x) cr2 %llx\n", "vector",
                    compare_vector_name(p->vector), p->error, (unsigned long long)p->address,
                    c->engine_name, compare_vector_name(e->vector), e->error,
                    (unsigned long long)e->address);
        return;
    }
    switch (p->vector) {
    case VECTOR_PF:
        check(c, "cr2", p->address, e->address);
        check(c, "error", p->error & ~ignored, e->error & ~ignored);
        break;
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP:
    case VECTOR_AC:
        check(c, "error", p->error, e->error);
        break;
    default:
        break;
    }
}

static void check_vector(struct comparison *c, const struct x86_vector *p,
                         const struct x86_vector *e)
{
    static const char *const parts[] = {".0", ".1", ".2", ".3", ".4", ".5", ".6", ".7"};
    char field[16];

    check(c, "fcw", p->fcw, e->fcw);
    check(c, "fsw", p->fsw, e->fsw);
    check(c, "ftw", p->ftw, e->ftw);
    if (host_processor.saves_pointers || (p->fsw & FSW_ES)) {
        check(c, "fop", p->fop, e->fop);
        check(c, "fip", p->fip, e->fip);
        check(c, "fdp", p->fdp, e->fdp);
    }
    check(c, "mxcsr", p->mxcsr, e->mxcsr);
    for (unsigned i = 0; i < 8; i++) {
        check_indexed(c, "st", i, p->st[2 * i], e->st[2 * i]);
        check_indexed(c, "st.se", i, p->st[2 * i + 1] & 0xffff, e->st[2 * i + 1] & 0xffff);
        check_indexed(c, "k", i, p->k[i], e->k[i]);
    }
    for (unsigned i = 0; i < 256; i++) {
        if (p->zmm[i] == e->zmm[i])
            continue;
        snprintf(field, sizeof(field), "zmm%u%s", i / 8, parts[i % 8]);
        differ(c, field, p->zmm[i], e->zmm[i]);
    }
}

static void print_line(FILE *out, const char *who, uint32_t offset, const uint8_t *bytes)
{
    fprintf(out, "    %08x %-9s ", diff_pages[offset / DIFF_PAGE].linear + offset % DIFF_PAGE, who);
    for (unsigned i = 0; i < DIFF_LINE; i++)
        fprintf(out, "%02x%s", bytes[i], i % 8 == 7 ? " " : "");
    fputc('\n', out);
}

static void check_memory(struct comparison *c, const struct diff_outcome *p,
                         const struct diff_outcome *e)
{
    if (p->lines == e->lines && p->lines_sum == e->lines_sum)
        return;
    c->equal = false;
    if (!c->out)
        return;
    fprintf(c->out, "    memory     processor changed %u lines, %s %u\n", p->lines, c->engine_name,
            e->lines);
    for (unsigned i = 0; i < DIFF_LINES_MAX && (i < p->lines || i < e->lines); i++) {
        bool both = i < p->lines && i < e->lines;
        if (both && !memcmp(&p->line[i], &e->line[i], sizeof(p->line[i])))
            continue;
        if (i < p->lines)
            print_line(c->out, "processor", p->line[i].offset, p->line[i].bytes);
        if (i < e->lines)
            print_line(c->out, c->engine_name, e->line[i].offset, e->line[i].bytes);
        if (i > 8)
            break;
    }
}

#if defined(__SANITIZE_ADDRESS__)
#define SHADOW_MAPPED 1
#elif defined(__has_feature)
#define SHADOW_MAPPED __has_feature(address_sanitizer)
#else
#define SHADOW_MAPPED 0
#endif
#define SHADOW_FIRST UINT64_C(0x7fff8000)
#define SHADOW_LAST  UINT64_C(0x10007fff7fff)

static bool met_the_shadow(const struct diff_outcome *engine)
{
    return SHADOW_MAPPED && engine->vector == VECTOR_PF && engine->address >= SHADOW_FIRST &&
           engine->address <= SHADOW_LAST;
}

bool compare_outcomes(const struct diff_case *input, const struct diff_outcome *processor,
                      const struct diff_outcome *engine, const char *engine_name, FILE *out)
{
    struct comparison c = {.out = out, .engine_name = engine_name, .equal = true};
    bool unordered = unordered_fault(input, processor, engine);
    const struct diff_state *p = &processor->out, *e = &engine->out;
    uint64_t flags = ~(uint64_t)FLAG_TF;

    if (met_the_shadow(engine))
        return true;
    if (!unordered)
        check_fault(&c, input, processor, engine);
    if (processor->failure != DIFF_RAN || engine->failure != DIFF_RAN)
        return false;
    bool to_compatibility = p->selector[SEG_CS] != input->in.selector[SEG_CS] &&
                            p->selector[SEG_CS] == e->selector[SEG_CS];
    for (unsigned i = 0; i < (input->code32 ? 8 : 16); i++) {
        uint64_t mask = (i == RSP && to_compatibility) || input->code32 ? UINT32_MAX : UINT64_MAX;
        check(&c, gpr_names[i], p->gpr[i] & mask, e->gpr[i] & mask);
    }
    check(&c, "rip", p->rip, e->rip);
    check(&c, "rflags", p->rflags & flags, e->rflags & flags);
    for (unsigned i = 0; i < 6; i++)
        check(&c, segment_names[i], data_selector(p->selector[i]), data_selector(e->selector[i]));
    check(&c, "fs_base", p->fs_base, e->fs_base);
    check(&c, "gs_base", p->gs_base, e->gs_base);
    if (!input->partial_load || processor->vector == DIFF_NO_VECTOR)
        check_vector(&c, &p->vector, &e->vector);
    if (!unordered && (!input->partial_store || processor->vector == DIFF_NO_VECTOR))
        check_memory(&c, processor, engine);
    return c.equal;
}

static void print_vector(const struct diff_case *c, FILE *out)
{
    const struct x86_vector *v = &c->in.vector;

    fprintf(out, "    fcw %04x fsw %04x ftw %02x fop %03x fip %llx fdp %llx mxcsr %08x\n", v->fcw,
            v->fsw, v->ftw, v->fop, (unsigned long long)v->fip, (unsigned long long)v->fdp,
            v->mxcsr);
    for (unsigned i = 0; i < 8; i++)
        fprintf(out, "    st%u %04llx:%016llx  k%u %016llx\n", i,
                (unsigned long long)v->st[2 * i + 1], (unsigned long long)v->st[2 * i], i,
                (unsigned long long)v->k[i]);
    for (unsigned i = 0; i < 32; i++) {
        fprintf(out, "    zmm%-2u", i);
        for (unsigned q = 8; q-- > 0;)
            fprintf(out, " %016llx", (unsigned long long)v->zmm[8 * i + q]);
        fputc('\n', out);
    }
}

/* Which of the input's registers matter is Zydis' affair: vector state only where one is named. */
static bool uses_vectors(const struct forms *forms, const struct diff_case *c)
{
    const struct form *f = &forms->form[c->form];

    return f->t.encoding != FORM_LEGACY || strstr(f->name, "mm") || strstr(f->name, "st") ||
           f->name[0] == 'f' || f->name[0] == 'x';
}

void compare_print_case(const struct forms *forms, const struct diff_case *c, FILE *out)
{
    const struct form *f = &forms->form[c->form];
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;
    char text[128] = "?";

    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(&forms->decoder, c->bytes, c->length, &insn, operands)))
        ZydisFormatterFormatInstruction(&formatter, &insn, operands, insn.operand_count_visible,
                                        text, sizeof(text), c->in.rip, NULL);
    fprintf(out, "  %s\n    %s\n   ", f->name, text);
    for (unsigned i = 0; i < c->length; i++)
        fprintf(out, " %02x", c->bytes[i]);
    fprintf(out, "\n    again: diff%s --seed %llu --case %08x.%u\n",
            c->flat     ? " --engine bt32"
            : c->code32 ? " --engine interp32"
                        : "",
            (unsigned long long)c->seed, f->id, c->number);
    for (unsigned i = 0; i < 16; i++)
        fprintf(out, "%s%-3s %016llx%s", i % 4 ? "  " : "    ", gpr_names[i],
                (unsigned long long)c->in.gpr[i], i % 4 == 3 ? "\n" : "");
    if (c->code32)
        fprintf(out, "    es %02x cs %02x ss %02x ds %02x fs %02x gs %02x\n",
                c->in.selector[SEG_ES], c->in.selector[SEG_CS], c->in.selector[SEG_SS],
                c->in.selector[SEG_DS], c->in.selector[SEG_FS], c->in.selector[SEG_GS]);
    fprintf(out, "    rip %llx rflags %llx fs_base %llx gs_base %llx\n",
            (unsigned long long)c->in.rip, (unsigned long long)c->in.rflags,
            (unsigned long long)c->in.fs_base, (unsigned long long)c->in.gs_base);
    for (unsigned i = 0; i < c->patch_count; i++) {
        uint32_t at = c->patch[i].offset;
        fprintf(out, "    %08x:", diff_pages[at / DIFF_PAGE].linear + at % DIFF_PAGE);
        for (unsigned n = 0; n < c->patch[i].size && n < 80; n++)
            fprintf(out, " %02x", c->bytes_of_patches[c->patch[i].start + n]);
        fprintf(out, "%s\n", c->patch[i].size > 80 ? " …" : "");
    }
    if (uses_vectors(forms, c))
        print_vector(c, out);
}
