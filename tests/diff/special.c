/* SPDX-License-Identifier: MIT */
/* What random operands would almost never hit: counts that end, divisions that do not overflow,
 * comparisons that are equal, selectors, branch targets, stack frames, XSAVE images. */
#include <cpuid.h>
#include <string.h>

#include "advertised.h"
#include "generate.h"
#include "legacy.h"
#include "values.h"

#define IMAGE_MAX 2688 /* of XSAVE: all components up to AVX-512's */

static int memory_operand(const struct generator *g, bool hidden)
{
    for (unsigned i = 0; i < g->insn.operand_count; i++)
        if (g->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (g->operands[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) == hidden)
            return (int)i;
    return -1;
}

/* The general register that holds visible operand i, or -1. */
static int register_operand(const struct generator *g, unsigned i)
{
    const ZydisDecodedOperand *o = &g->operands[i];

    if (i >= g->insn.operand_count || o->type != ZYDIS_OPERAND_TYPE_REGISTER)
        return -1;
    switch (ZydisRegisterGetClass(o->reg.value)) {
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64:
        return ZydisRegisterGetId(o->reg.value);
    default:
        return -1;
    }
}

static uint16_t selector(struct generator *g)
{
    return g->c->code32 ? legacy_selector(&g->r) : value_selector(&g->r);
}

static void patch_target(struct generator *g, int operand, const void *bytes, unsigned n)
{
    if (operand >= 0)
        generate_patch(g, g->target[operand], bytes, n);
}

static void counts(struct generator *g)
{
    uint64_t *rcx = &g->c->in.gpr[RCX];

    if (!random_chance(&g->r, 92))
        return; /* the window ends it */
    *rcx = random_chance(&g->r, 85) ? random_below(&g->r, 24) : random_below(&g->r, 600);
    if (g->insn.address_width == 32 && random_chance(&g->r, 80))
        *rcx |= random_next(&g->r) << 32;
}

/* REPE and REPNE: runs of equal bytes. */
static void strings(struct generator *g)
{
    uint8_t run[64];

    if (g->insn.attributes &
        (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
        counts(g);
    if (random_chance(&g->r, 40))
        g->c->in.rflags ^= FLAG_DF;
    if (random_chance(&g->r, 50))
        return;
    memset(run, (int)(g->c->in.gpr[RAX] & 0xff), sizeof(run));
    for (unsigned i = 0; i < g->insn.operand_count; i++)
        if (g->operands[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            generate_patch(g, g->target[i] - 32, run, 32 + random_below(&g->r, 32));
}

static void divide(struct generator *g)
{
    uint64_t *gpr = g->c->in.gpr;
    bool is_signed = g->form->mnemonic == ZYDIS_MNEMONIC_IDIV;

    if (random_chance(&g->r, 15))
        return;
    if (g->insn.operand_width == 8) /* AX by a byte */
        gpr[RAX] = (gpr[RAX] & ~UINT64_C(0xff00)) | random_below(&g->r, 16) << 8;
    else
        gpr[RDX] = is_signed ? (uint64_t)((int64_t)gpr[RAX] >> 63) + (random_next(&g->r) & 1)
                             : random_below(&g->r, 4);
}

static void exchange(struct generator *g)
{
    uint64_t *gpr = g->c->in.gpr;
    uint64_t pair[2] = {gpr[RAX], gpr[RDX]};
    uint32_t half[2] = {(uint32_t)gpr[RAX], (uint32_t)gpr[RDX]};
    int memory = memory_operand(g, false);

    if (random_chance(&g->r, 40))
        return;
    if (g->form->mnemonic == ZYDIS_MNEMONIC_CMPXCHG8B)
        patch_target(g, memory, half, 8);
    else if (g->form->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
        patch_target(g, memory, pair, 16);
    else if (memory >= 0)
        patch_target(g, memory, pair, g->operands[memory].size / 8);
    else if (register_operand(g, 0) >= 0)
        gpr[register_operand(g, 0)] = gpr[RAX];
}

static void bit_offset(struct generator *g)
{
    int reg = register_operand(g, 1);

    if (reg >= 0 && memory_operand(g, false) >= 0 && random_chance(&g->r, 90))
        g->c->in.gpr[reg] = (uint64_t)((int64_t)random_below(&g->r, 4096) - 2048);
}

/* WRFSBASE, WRGSBASE: the model has LA57, so it takes bases of 57 bits; a host without takes 48 and
 * could not say more of what lies between. */
static void fit_host_width(struct generator *g)
{
    uint32_t eax, ebx, ecx, edx;
    int reg = register_operand(g, 0);
    bool host_la57 = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx >> 16 & 1);

    if (reg < 0 || host_la57)
        return;
    uint64_t value = g->c->in.gpr[reg];
    if (value ==
        (uint64_t)((int64_t)(value << 7) >> 7)) /* canonical with 57 bits: make it so with 48 */
        g->c->in.gpr[reg] = (uint64_t)((int64_t)(value << 16) >> 16);
}

static void selector_operand(struct generator *g)
{
    uint16_t first = selector(g), second = selector(g);

    for (unsigned i = 0; i < g->insn.operand_count_visible; i++) {
        int reg = register_operand(g, i);
        if (reg >= 0 && (g->operands[i].actions & ZYDIS_OPERAND_ACTION_MASK_READ))
            g->c->in.gpr[reg] = (g->c->in.gpr[reg] & ~UINT64_C(0xffff)) | first;
    }
    patch_target(g, memory_operand(g, false), &first, 2);
    patch_target(g, memory_operand(g, true), &second, 2); /* POP FS, POP GS */
}

static void near_branch(struct generator *g)
{
    uint64_t target = value_code_address(&g->r);
    int reg = register_operand(g, 0);

    if (reg >= 0 && (g->operands[0].actions & ZYDIS_OPERAND_ACTION_MASK_READ))
        g->c->in.gpr[reg] = target;
    patch_target(g, memory_operand(g, false), &target, 8);
    if (g->form->mnemonic == ZYDIS_MNEMONIC_RET)
        patch_target(g, memory_operand(g, true), &target, 8);
    if (random_chance(&g->r, 60))
        g->c->in.gpr[RCX] =
            random_below(&g->r, 3) + (g->insn.address_width == 32 ? random_next(&g->r) << 32 : 0);
}

/* Builds the words that a far transfer takes from memory. */
struct frame {
    uint8_t bytes[48];
    unsigned n;
};

static void frame_put(struct frame *f, uint64_t value, unsigned size)
{
    memcpy(f->bytes + f->n, &value, size);
    f->n += size;
}

static uint16_t user_code(const struct generator *g)
{
    return g->c->code32 ? DIFF_SELECTOR_CODE : 0x33;
}

/* JMP, CALL, LFS … m16:16/32/64: offset, selector. */
static void far_pointer(struct generator *g, uint16_t usual)
{
    struct frame f = {.n = 0};
    unsigned size = g->insn.operand_width / 8;
    int memory = memory_operand(g, false);
    bool direct = g->operands[0].type == ZYDIS_OPERAND_TYPE_POINTER;

    if (memory >= 0 && g->operands[memory].size >= 32)
        size = g->operands[memory].size / 8 - 2;
    frame_put(&f, value_code_address(&g->r), size);
    frame_put(&f, random_chance(&g->r, 50) ? usual : selector(g), 2);
    if (direct)
        memcpy(g->c->bytes + g->insn.raw.imm[0].offset, f.bytes, f.n);
    patch_target(g, memory, f.bytes, f.n);
}

/* RETF, IRET: the stack holds RIP, CS and, for IRET, RFLAGS, RSP, SS. */
static void far_return(struct generator *g, bool iret)
{
    struct frame f = {.n = 0};
    unsigned size = g->insn.operand_width / 8;
    struct random *r = &g->r;
    bool int3 = iret || random_chance(r, 80); /* IRET must meet the int3 */
    uint64_t flags = (random_next(r) & (FLAGS_ARITHMETIC | FLAG_DF | FLAG_IF)) | FLAG_ONE;
    uint64_t target;

    do
        target =
            int3 ? DIFF_CODE + random_below(r, DIFF_CODE_PAGES * DIFF_PAGE) : value_code_address(r);
    while (iret && target - (g->c->in.rip - 16) < 32);
    if (!iret && random_chance(r, 10)) /* for compatibility code, which has 32 bits */
        target |= random_next(r) << 32;
    frame_put(&f, target, size);
    frame_put(&f, random_chance(r, 60) ? user_code(g) : selector(g), size);
    if (iret) {
        if (random_chance(r, 10))
            flags |= FLAG_ID | FLAG_IOPL;
        frame_put(&f, flags, size);
        frame_put(&f, value_integer(r), size);
        frame_put(&f, random_chance(r, 60) ? 0x2b : selector(g), size);
    }
    uint64_t stack = value_address(r, f.n);
    g->c->in.gpr[RSP] = stack - diff_segment_base(g->c, SEG_SS);
    generate_patch(g, stack, f.bytes, f.n);
}

static void pop_flags(struct generator *g)
{
    uint64_t flags = random_next(&g->r) & ~(uint64_t)(FLAG_TF | FLAG_AC);

    patch_target(g, memory_operand(g, true), &flags, g->insn.operand_width / 8);
}

static void segment_base_write(struct generator *g)
{
    int reg = register_operand(g, 0);

    if (reg >= 0 && random_chance(&g->r, 70))
        g->c->in.gpr[reg] = random_next(&g->r) >> 17;
}

static void load_mxcsr(struct generator *g)
{
    uint32_t mxcsr = (uint32_t)(random_next(&g->r) & 0xffff);

    if (random_chance(&g->r, 10))
        mxcsr |= 1u << (18 + random_below(&g->r, 14)); /* 17 is AMD's MISALIGNSSE, not offered */
    patch_target(g, memory_operand(g, false), &mxcsr, 4);
}

/* An FXSAVE image: the legacy region (SDM 1, 10.5.1). */
static void fx_image(struct generator *g, uint8_t image[512])
{
    struct diff_state other;

    value_state(&g->r, &other);
    memcpy(image, &other.vector, 160);
    for (unsigned i = 0; i < 16; i++)
        memcpy(image + 160 + 16 * i, &other.vector.zmm[X86_ZMM_QWORDS * i], 16);
    memset(image + 416, 0, 96);
    if (random_chance(&g->r, 5))
        image[26] = 1; /* a reserved bit of MXCSR */
}

static uint64_t align_target(struct generator *g, unsigned alignment)
{
    int memory = memory_operand(g, false);
    const ZydisDecodedOperand *o = &g->operands[memory];
    uint64_t *gpr = g->c->in.gpr;

    if (memory >= 0 && random_chance(&g->r, 80) && o->mem.base != ZYDIS_REGISTER_NONE &&
        (g->c->code32 || ZydisRegisterGetClass(o->mem.base) == ZYDIS_REGCLASS_GPR64) &&
        o->mem.index == ZYDIS_REGISTER_NONE) {
        gpr[ZydisRegisterGetId(o->mem.base)] -= g->target[memory] % alignment;
        g->target[memory] -= g->target[memory] % alignment;
    }
    return memory >= 0 ? g->target[memory] : 0;
}

static void fx_area(struct generator *g)
{
    uint8_t image[512];
    uint64_t at = align_target(g, 16);

    fx_image(g, image);
    generate_patch(g, at, image, sizeof(image));
}

/* XRSTOR: legacy region, header, and noise for the rest. XSAVE: the area's old content. */
static void xsave_area(struct generator *g)
{
    static const uint64_t masks[] = {7, 3, 1, 2, 4, 0xe7, 0xe0, 0xe6, 0};
    uint8_t image[IMAGE_MAX];
    struct random *r = &g->r;
    uint64_t foreign = features_host_xcr0() & ~features_xcr0();
    uint64_t mask = random_chance(r, 60) ? UINT64_MAX : random_next(r);
    uint64_t header[8] = {masks[random_below(r, 9)]};
    uint64_t at = align_target(g, 64);

    fx_image(g, image);
    value_bytes(r, image + 512, sizeof(image) - 512);
    if (random_chance(r, 5))
        header[random_below(r, 3)] ^= value_integer(r) & ~foreign;
    if (random_chance(r, 30)) /* the compacted format */
        header[1] = UINT64_C(1) << 63 | (header[0] | masks[random_below(r, 9)]);
    memcpy(image + 512, header, sizeof(header));
    generate_patch(g, at, image, sizeof(image));
    mask &= ~foreign; /* components that the host has and the guest has not */
    g->c->in.gpr[RAX] = mask & UINT32_MAX;
    g->c->in.gpr[RDX] = mask >> 32;
}

/* FLDENV, FRSTOR: a 28-byte environment and eight registers. */
static void x87_image(struct generator *g)
{
    struct diff_state other;
    uint8_t image[108] = {0};
    uint16_t tags = (uint16_t)random_next(&g->r);

    value_state(&g->r, &other);
    if (g->insn.operand_width == 16) {
        memcpy(image, &other.vector.fcw, 2);
        memcpy(image + 2, &other.vector.fsw, 2);
        memcpy(image + 4, &tags, 2);
    } else {
        memcpy(image, &other.vector.fcw, 2);
        memcpy(image + 4, &other.vector.fsw, 2);
        memcpy(image + 8, &tags, 2);
        memcpy(image + 12, &other.vector.fip, 4);
        memcpy(image + 18, &other.vector.fop, 2);
        memcpy(image + 20, &other.vector.fdp, 4);
    }
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + 28 + 10 * i, &other.vector.st[2 * i], 10);
    patch_target(g, memory_operand(g, false), image, sizeof(image));
}

/* INT n is no system call. */
static void software_interrupt(struct generator *g)
{
    uint8_t *n = &g->c->bytes[g->insn.raw.imm[0].offset];

    if (random_chance(&g->r, 60))
        *n = (uint8_t)random_below(&g->r, 32);
    if (*n == 0x80)
        *n = 0x81;
}

static void load_x87_memory(struct generator *g)
{
    struct diff_state other;
    int memory = memory_operand(g, false);

    if (memory < 0 || g->operands[memory].size != 80 || random_chance(&g->r, 20))
        return;
    value_state(&g->r, &other);
    if (g->form->mnemonic == ZYDIS_MNEMONIC_FBLD) /* mostly decimal digits */
        for (unsigned i = 0; i < 72; i += 8)
            other.vector.st[i / 64] &= ~(UINT64_C(0x88) << i % 64);
    patch_target(g, memory, other.vector.st, 10);
}

static bool has_segment_register(const struct generator *g)
{
    for (unsigned i = 0; i < g->insn.operand_count_visible; i++)
        if (g->operands[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(g->operands[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
            return true;
    return false;
}

static void special_by_mnemonic(struct generator *g)
{
    switch (g->form->mnemonic) {
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        divide(g);
        break;
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        exchange(g);
        break;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
        bit_offset(g);
        break;
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        selector_operand(g);
        break;
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
        far_pointer(g, 0x2b);
        break;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        far_return(g, true);
        break;
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        pop_flags(g);
        break;
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
        segment_base_write(g);
        fit_host_width(g);
        break;
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
        load_mxcsr(g);
        break;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        fx_area(g);
        break;
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        xsave_area(g);
        break;
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        x87_image(g);
        break;
    case ZYDIS_MNEMONIC_CLFLUSH:
    case ZYDIS_MNEMONIC_CLFLUSHOPT:
    case ZYDIS_MNEMONIC_CLWB: /* AMD's do not mind a segment that is execute-only */
        if (features_amd() && g->c->code32)
            g->c->in.selector[SEG_CS] = DIFF_SELECTOR_CODE;
        break;
    case ZYDIS_MNEMONIC_FLD:
    case ZYDIS_MNEMONIC_FBLD:
        load_x87_memory(g);
        break;
    case ZYDIS_MNEMONIC_INT:
        software_interrupt(g);
        break;
    default:
        break;
    }
}

/* Where the operand really is: special cases may have moved its registers. */
static uint64_t linear_of(const struct generator *g, int memory)
{
    const struct diff_state *s = &g->c->in;
    uint64_t base = diff_segment_base(g->c, generate_segment(&g->operands[memory]));
    ZydisRegisterContext context = {0};
    ZydisDecodedOperand operand = g->operands[memory], *o = &operand;
    ZyanU64 offset;
    unsigned bits = g->insn.raw.disp.size;

    if (bits > 8) { /* it has been patched */
        uint64_t disp = 0;
        memcpy(&disp, g->c->bytes + g->insn.raw.disp.offset, bits / 8);
        o->mem.disp.value = (int64_t)(disp << (64 - bits)) >> (64 - bits);
    }
    for (unsigned i = 0; i < 16; i++)
        context.values[ZYDIS_REGISTER_RAX + i] = context.values[ZYDIS_REGISTER_EAX + i] = s->gpr[i];
    for (unsigned i = 0; i < 16; i++)
        context.values[ZYDIS_REGISTER_EAX + i] &= UINT32_MAX;
    for (unsigned i = 0; i < 8; i++)
        context.values[ZYDIS_REGISTER_AX + i] = s->gpr[i] & UINT16_MAX;
    if (ZYAN_FAILED(ZydisCalcAbsoluteAddressEx(&g->insn, o, s->rip, &context, &offset)))
        return g->target[memory];
    return offset + base;
}

/* A store of some elements: CR2 is any byte of the operand (the processor reports now an element's
 * first byte, now its last). AMD's processors may find a load's page absent before they find that
 * the rest is not canonical or beyond a limit. */
static bool is_masked_access(const struct generator *g, int memory)
{
    bool store = memory >= 0 && (g->operands[memory].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE);
    if (memory < 0 || !(store || features_amd()))
        return false;
    switch (g->form->mnemonic) {
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return g->insn.avx.mask.reg > ZYDIS_REGISTER_K0 && !g->form->t.vsib;
    }
}

/* A far pointer across the end of the canonical addresses: processors read it in one access or two,
 * by its size, and fault accordingly. */
static bool mark_far_pointer(struct generator *g, int memory)
{
    bool loads =
        g->form->mnemonic == ZYDIS_MNEMONIC_LSS || g->form->mnemonic == ZYDIS_MNEMONIC_LFS ||
        g->form->mnemonic == ZYDIS_MNEMONIC_LGS || g->form->mnemonic == ZYDIS_MNEMONIC_LDS ||
        g->form->mnemonic == ZYDIS_MNEMONIC_LES ||
        g->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
    if (!loads || memory < 0)
        return false;
    uint64_t linear = linear_of(g, memory);
    unsigned size = g->operands[memory].size / 8;
    bool call = g->form->mnemonic == ZYDIS_MNEMONIC_CALL;
    if ((!g->c->code32 || call) && linear >> 47 == (linear + size - 1) >> 47)
        return false;
    g->c->unordered = linear;
    g->c->unordered_size = size;
    return true;
}

/* Instructions that move many words: no manual says in which order, so a fault's CR2 may be any
 * absent word's, and stores before it may or may not be seen. */
static void mark_unordered(struct generator *g)
{
    struct diff_case *c = g->c;
    int memory = memory_operand(g, false);
    bool stack = false;

    if (is_masked_access(g, memory)) {
        c->unordered = linear_of(g, memory);
        c->unordered_size = g->operands[memory].size / 8;
        return;
    }
    if (mark_far_pointer(g, memory))
        return;
    switch (g->form->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU: /* the operand at RDI is hidden */
        for (memory = 0; g->operands[memory].type != ZYDIS_OPERAND_TYPE_MEMORY;)
            memory++;
        c->unordered = linear_of(g, memory);
        c->unordered_size = 16;
        return;
    case ZYDIS_MNEMONIC_RET:
        stack = g->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR;
        break;
    case ZYDIS_MNEMONIC_CALL:
        /* Two words pushed, by the stack width of the mode it leads to. */
        if (g->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
            c->unordered_size = g->insn.operand_width / 8 * 2;
            c->unordered_mask = UINT32_MAX;
            c->unordered = legacy_stack(c, -(int64_t)c->unordered_size);
            c->partial_store = true;
        } else if (features_amd()) { /* they look at the target before they store */
            c->unordered_size = g->insn.operand_width / 8;
            c->unordered = legacy_stack(c, -(int64_t)c->unordered_size);
            c->partial_store = true;
        }
        return;
    case ZYDIS_MNEMONIC_PUSH: /* of a segment register, across two pages, in two parts */
        if (features_amd() && has_segment_register(g)) {
            c->unordered_size = g->insn.operand_width / 8;
            c->unordered_mask = UINT32_MAX;
            c->unordered = legacy_stack(c, -(int64_t)c->unordered_size);
        }
        return;
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        stack = true;
        break;
    case ZYDIS_MNEMONIC_FBSTP: /* eight bytes and two, of which a limit may cut off some */
    case ZYDIS_MNEMONIC_FSTP:
        if (!c->code32 || memory < 0 || g->operands[memory].size != 80)
            return;
        c->unordered = linear_of(g, memory);
        c->unordered_size = 10;
        c->partial_store = true;
        return;
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        break;
    default:
        return;
    }
    if (stack) {
        c->unordered = legacy_stack(c, 0);
        c->unordered_size = 5 * 8;
    } else if (memory >= 0) {
        c->unordered = linear_of(g, memory);
        c->unordered_size = IMAGE_MAX;
    }
}

static bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

/* AMD's processors refuse an offset in FS or GS that is not canonical though the sum with the base
 * is; the translator looks at the sum only (docs/quirks.md). */
static void keep_offset_canonical(struct generator *g)
{
    for (unsigned i = 0; i < g->insn.operand_count && features_amd() && !g->c->code32; i++) {
        if (g->operands[i].type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        unsigned segment = generate_segment(&g->operands[i]);
        uint64_t *base = segment == SEG_FS   ? &g->c->in.fs_base
                         : segment == SEG_GS ? &g->c->in.gs_base
                                             : NULL;
        if (base && g->form->t.vsib) { /* an offset for each element */
            *base = 0;
            continue;
        }
        uint64_t offset = base ? linear_of(g, (int)i) - *base : 0;
        uint64_t last = offset + g->operands[i].size / 8 - (g->operands[i].size != 0);
        if (base && !(is_canonical(offset) && is_canonical(last)))
            *base = 0;
    }
}

/* The CPUID model has no MISALIGNSSE, so MXCSR_MASK differs from the host's that has it. */
static void mark_mxcsr_mask(struct generator *g)
{
    int memory = memory_operand(g, false);
    g->c->mxcsr_mask_at = 0;
    switch (g->form->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        g->c->mxcsr_mask_at = linear_of(g, memory) + 28;
        break;
    default:
        break;
    }
}

void generate_special(struct generator *g)
{
    g->c->unordered = g->c->unordered_size = 0;
    g->c->partial_store = false;
    g->c->unordered_mask = g->insn.address_width == 16   ? UINT16_MAX
                           : g->insn.address_width == 32 ? UINT32_MAX
                                                         : UINT64_MAX;
    g->c->partial_load =
        g->form->mnemonic == ZYDIS_MNEMONIC_XRSTOR || g->form->mnemonic == ZYDIS_MNEMONIC_XRSTOR64;
    if (g->insn.meta.category == ZYDIS_CATEGORY_STRINGOP)
        strings(g);
    if (has_segment_register(g))
        selector_operand(g);
    if (g->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) {
        if (g->form->mnemonic == ZYDIS_MNEMONIC_RET)
            far_return(g, false);
        else
            far_pointer(g, user_code(g));
    } else if (g->insn.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) {
        near_branch(g);
    }
    special_by_mnemonic(g);
    keep_offset_canonical(g);
    mark_unordered(g);
    mark_mxcsr_mask(g);
}
