/* SPDX-License-Identifier: MIT */
/*
 * Copied instructions against the processor itself: every opcode of the x87, MMX, SSE, VEX and EVEX
 * maps that copy_prepare accepts, with random registers, state, and memory operands at page
 * crossings, absent and read-only pages. The guest's page tables give it the same addresses that
 * the native run uses, so all registers, flags, memory, fault vectors, error codes and addresses
 * must be equal. COPY_SEED and COPY_ROUNDS in the environment choose another run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "engine/gate.h"
#include "engine/host/copy.h"
#include "native.h"
#include "skip.h"
#include "x86/segment.h"

#define LINEAR   0x10000000u
#define PHYSICAL 0x100000u
#define TABLES   0x10000u
#define PAGES    6u
#define ATTEMPTS 5u
/* Of the pages at LINEAR: absent, and read-only. */
#define PAGE_ABSENT   2u
#define PAGE_READONLY 4u

static struct mem mem;
static struct x86_platform platform;
static struct vcpu *v;
static struct copy_cache *cache;
static uint64_t seed = 1;
static uint8_t *native_pages;

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned n)
{
    return (unsigned)(rnd() >> 33) % n;
}

/* A value that is interesting as an integer, a float or a double. */
static uint64_t interesting(void)
{
    static const uint64_t some[] = {0,
                                    ~0ull,
                                    0x3f8000003f800000ull,
                                    0x3ff0000000000000ull,
                                    0x7f800000ff800000ull,
                                    0x7ff0000000000000ull,
                                    0x7fc000007fa00000ull,
                                    0x7ff8000000000000ull,
                                    0x0000000100000001ull,
                                    0x0010000000000000ull,
                                    0x00800000007fffffull,
                                    0x8000000080000000ull,
                                    0x7fffffff7fffffffull,
                                    0x7fefffffffffffffull,
                                    0x7f7fffff00800001ull,
                                    0x4330000000000000ull,
                                    0x0001020304050607ull};
    return below(2) ? rnd() : some[below(sizeof some / 8)];
}

static void pte(uint64_t at, uint64_t value)
{
    assert_int_equal(mem_write(&mem, GPA(at), &value, 8), 0);
}

static void map_pages(void)
{
    pte(TABLES, (TABLES + 0x1000) | 7);
    pte(TABLES + 0x1000, (TABLES + 0x2000) | 7);
    pte(TABLES + 0x2000 + 8 * (LINEAR >> 21), (TABLES + 0x3000) | 7);
    native_pages = mmap((void *)(uintptr_t)LINEAR, PAGES * 4096, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_equal(native_pages, (void *)(uintptr_t)LINEAR);
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t rights = i == PAGE_ABSENT ? 0 : i == PAGE_READONLY ? 5 : 7;
        pte(TABLES + 0x3000 + 8 * i, (PHYSICAL + 4096 * i) | rights);
    }
}

static int setup(void **state)
{
    struct error e = {0};
    native_init();
    mem_init(&mem);
    assert_int_equal(mem_add(&mem, "ram", GPA(0), 4u << 20, MEM_ANONYMOUS, false, &e), 0);
    map_pages();
    platform = (struct x86_platform){.mem = &mem, .gate = &gate_live, .physical_address_bits = 46};
    v = aligned_alloc(64, (sizeof *v + 63) & ~63ul);
    memset(v, 0, sizeof *v);
    v->platform = &platform;
    tlb_init(&v->tlb);
    x86_vector_reset(&v->vector);
    v->efer = EFER_LMA | EFER_LME | EFER_NXE;
    v->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG | CR0_AM;
    v->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    v->cr3 = TABLES;
    v->xcr0 = native_mask;
    v->seg[SEG_CS].attributes = ATTR_P | ATTR_S | ATTR_L | 11 | 3 << 5;
    v->cpl = 3;
    vcpu_update_mode(v);
    assert_int_equal(copy_cache_create(&cache, &e), 0);
    native_keep_handlers();
    if (getenv("COPY_SEED"))
        seed = strtoull(getenv("COPY_SEED"), NULL, 0) | 1;
    return 0;
}

static int teardown(void **state)
{
    copy_cache_destroy(cache);
    mem_fini(&mem);
    munmap(native_pages, PAGES * 4096);
    free(v);
    return 0;
}

struct trial {
    uint8_t bytes[15];
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    const ZydisDecodedOperand *memory;
    const struct copy_code *code;
    uint64_t target;
    struct native_state before, native;
    struct native_fault native_fault;
    uint8_t pages[PAGES * 4096], native_after[PAGES * 4096];
    struct native_fault fault;
};
static struct trial t;

static void random_vector(struct x86_vector *s)
{
    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < 256; i++)
        s->zmm[i] = interesting();
    for (unsigned i = 0; i < 8; i++)
        s->k[i] = below(8) ? rnd() : 0;
    s->mxcsr = 0x1f80;
    if (!below(2))
        s->mxcsr |= (uint32_t)rnd() & 0xe07f;
    if (!below(6))
        s->mxcsr = (uint32_t)rnd() & 0xffff;
    s->fcw = below(3) ? 0x37f : (uint16_t)((rnd() & 0xf00) | 0x7f);
    if (!below(6))
        s->fcw = (uint16_t)((rnd() & 0xf3f) | 0x40);
    s->fsw = (uint16_t)(rnd() & 0x7f00);
    if (!below(8)) {
        s->fsw |= (uint16_t)(rnd() & 0x7f);
        if (s->fsw & ~s->fcw & 0x3f)
            s->fsw |= 0x8080;
    }
    s->ftw = below(2) ? 0xff : (uint8_t)rnd();
    s->fop = (uint16_t)(rnd() & 0x7ff);
    s->fip = rnd() >> 17;
    s->fdp = rnd() >> 17;
    for (unsigned i = 0; i < 8; i++) {
        static const uint16_t exponents[] = {0x3fff, 0xbfff, 0, 0x7fff, 0x4010, 0x3ff0, 0xffff};
        s->st[2 * i] = below(3) ? interesting() | 1ull << 63 : interesting();
        s->st[2 * i + 1] = below(2) ? exponents[below(7)] : (uint16_t)rnd();
    }
    native_clip(s);
}

static void random_state(void)
{
    for (unsigned i = 0; i < 16; i++)
        t.before.gpr[i] = interesting();
    t.before.rflags = (rnd() & FLAGS_ARITHMETIC) | FLAG_ONE | FLAG_IF;
    if (!below(24))
        t.before.rflags |= FLAG_AC;
    random_vector(&t.before.vector);
    for (unsigned i = 0; i < sizeof t.pages; i += 8) {
        uint64_t x = (i & 0xf8) ? rnd() : interesting();
        memcpy(t.pages + i, &x, 8);
    }
}

static uint64_t random_target(void)
{
    switch (below(8)) {
    case 0:
    case 1:
        return LINEAR + 4096 - 64 + below(64); /* between two good pages */
    case 2:
        return LINEAR + 2 * 4096 - 64 + below(64); /* into the absent one */
    case 3:
        return LINEAR + 3 * 4096 - 64 + below(64); /* out of it */
    case 4:
        return LINEAR + 4 * 4096 - 64 + below(64); /* into the read-only one */
    default:
        return LINEAR + 64 + below(4096 - 256);
    }
}

/* Address registers for the memory operand, so that it stands at t.target. */
static void aim(void)
{
    const ZydisDecodedOperand *m = t.memory;
    t.target = random_target();
    if (below(3))
        t.target &= ~63ull;
    uint64_t base = t.target - (uint64_t)m->mem.disp.value;
    if (m->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        unsigned index = (unsigned)ZydisRegisterGetId(m->mem.index);
        bool wide = strstr(ZydisMnemonicGetString(t.insn.mnemonic), "erq") != NULL;
        for (unsigned i = 0; i < 16; i++) {
            int32_t x = (int32_t)below(below(4) ? 600 : 3000) - 300;
            if (!wide)
                ((int32_t *)&t.before.vector.zmm[8 * index])[i] = x;
            else if (i < 8)
                t.before.vector.zmm[8 * index + i] = (uint64_t)(int64_t)x;
        }
        native_clip(&t.before.vector);
    }
    unsigned reg = RDI;
    if (m->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM)
        reg = (unsigned)ZydisRegisterGetId(m->mem.base);
    t.before.gpr[reg] = base;
}

static bool decode(unsigned length)
{
    ZydisDecoder d;
    ZydisDecoderInit(&d, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&d, t.bytes, length, &t.insn, t.operands)))
        return false;
    t.memory = NULL;
    for (unsigned i = 0; i < t.insn.operand_count; i++) {
        const ZydisDecodedOperand *o = &t.operands[i];
        if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
            continue;
        t.memory = o;
        if (o->mem.segment == ZYDIS_REGISTER_FS || o->mem.segment == ZYDIS_REGISTER_GS)
            return false;
        if (o->mem.type == ZYDIS_MEMOP_TYPE_MEM && o->mem.index != ZYDIS_REGISTER_NONE)
            return false; /* the address is the caller's business */
        if (ZydisRegisterGetClass(o->mem.base) != ZYDIS_REGCLASS_GPR64)
            return false;
    }
    t.code = copy_prepare(cache, &t.insn, t.operands, t.bytes);
    return t.code != NULL;
}

static void run_copy(void)
{
    jmp_buf out;
    memcpy(v->gpr, t.before.gpr, sizeof v->gpr);
    v->rflags = t.before.rflags;
    v->vector = t.before.vector;
    v->rip = native_rip();
    assert_int_equal(mem_write(&mem, GPA(PHYSICAL), t.pages, sizeof t.pages), 0);
    if (!below(3))
        tlb_flush_all(v);
    t.fault.vector = -1;
    v->unwind = &out;
    if (setjmp(out) == 0) {
        copy_run(v, t.code, t.target);
        return;
    }
    t.fault.vector = v->fault.vector;
    t.fault.error = v->fault.has_error ? v->fault.error : 0;
    t.fault.address = v->fault.address;
}

static void run_native(void)
{
    t.native = t.before;
    mprotect(native_pages, sizeof t.pages, PROT_READ | PROT_WRITE);
    memcpy(native_pages, t.pages, sizeof t.pages);
    mprotect(native_pages + PAGE_ABSENT * 4096, 4096, PROT_NONE);
    mprotect(native_pages + PAGE_READONLY * 4096, 4096, PROT_READ);
    t.native_fault = native_run(&t.native, t.bytes, t.insn.length);
    mprotect(native_pages, sizeof t.pages, PROT_READ | PROT_WRITE);
    memcpy(t.native_after, native_pages, sizeof t.pages);
}

static bool report(const char *what, uint64_t ours, uint64_t native)
{
    static unsigned lines;
    char text[128] = "?";
    ZydisFormatter f;
    if (lines++ > 200)
        return false;
    ZydisFormatterInit(&f, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&f, &t.insn, t.operands, t.insn.operand_count_visible, text,
                                    sizeof text, 0, NULL);
    print_message("%s:", text);
    for (unsigned i = 0; i < t.insn.length; i++)
        print_message(" %02x", t.bytes[i]);
    print_message(": %s is %#llx, natively %#llx (target %#llx mxcsr %#x fcw %#x fsw %#x)\n", what,
                  (unsigned long long)ours, (unsigned long long)native,
                  (unsigned long long)t.target, t.before.vector.mxcsr, t.before.vector.fcw,
                  t.before.vector.fsw);
    return false;
}

static bool compare_vectors(void)
{
    const struct x86_vector *a = &v->vector, *b = &t.native.vector;
    char name[32];
    for (unsigned i = 0; i < 256; i++) {
        snprintf(name, sizeof name, "zmm%u[%u]", i / 8, i % 8);
        if (a->zmm[i] != b->zmm[i])
            return report(name, a->zmm[i], b->zmm[i]);
    }
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof name, "k%u", i);
        if (a->k[i] != b->k[i])
            return report(name, a->k[i], b->k[i]);
        snprintf(name, sizeof name, "st%u", i);
        if (a->st[2 * i] != b->st[2 * i] || a->st[2 * i + 1] != b->st[2 * i + 1])
            return report(name, a->st[2 * i], b->st[2 * i]);
    }
    if (a->mxcsr != b->mxcsr)
        return report("mxcsr", a->mxcsr, b->mxcsr);
    if (a->fcw != b->fcw)
        return report("fcw", a->fcw, b->fcw);
    if (a->fsw != b->fsw)
        return report("fsw", a->fsw, b->fsw);
    if (a->ftw != b->ftw)
        return report("ftw", a->ftw, b->ftw);
    if (!native_pointers_whole(b) && t.native_fault.vector >= 0)
        return true; /* lost in the signal's frame */
    if (a->fop != b->fop)
        return report("fop", a->fop, b->fop);
    uint64_t stored = native_pointers_whole(b) ? UINT64_MAX : UINT32_MAX;
    if ((a->fip ^ b->fip) & stored)
        return report("fip", a->fip, b->fip);
    return !((a->fdp ^ b->fdp) & stored) || report("fdp", a->fdp, b->fdp);
}

/* A gather or scatter under EFLAGS.AC with one element misaligned and another absent: which of the
 * two the processor reports first is its own affair. */
static bool alignment_or_absence(int vector, int native)
{
    return t.memory != NULL && t.memory->mem.type == ZYDIS_MEMOP_TYPE_VSIB &&
           ((vector == VECTOR_AC && native == VECTOR_PF) ||
            (vector == VECTOR_PF && native == VECTOR_AC));
}

static bool compare(void)
{
    static uint8_t after[PAGES * 4096];
    if (alignment_or_absence(t.fault.vector, t.native_fault.vector))
        return true;
    if (t.fault.vector != t.native_fault.vector)
        return report("vector", (uint64_t)t.fault.vector, (uint64_t)t.native_fault.vector);
    if (t.fault.vector == VECTOR_PF) {
        uint64_t differs = t.fault.address ^ t.native_fault.address;
        /* Where in the page a masked access faults is the processor's own affair. */
        if (t.insn.avx.mask.mode > ZYDIS_MASK_MODE_DISABLED ||
            strstr(ZydisMnemonicGetString(t.insn.mnemonic), "maskmov"))
            differs >>= 12;
        if (differs)
            return report("fault address", t.fault.address, t.native_fault.address);
        if (t.fault.error != (t.native_fault.error & 0x1f))
            return report("error code", t.fault.error, t.native_fault.error);
    }
    for (unsigned i = 0; i < 16; i++)
        if (v->gpr[i] != t.native.gpr[i])
            return report("gpr", v->gpr[i], t.native.gpr[i]);
    if ((v->rflags ^ t.native.rflags) & FLAGS_ARITHMETIC)
        return report("rflags", v->rflags, t.native.rflags);
    assert_int_equal(mem_read(&mem, GPA(PHYSICAL), after, sizeof after), 0);
    /* Stores of 80 bits are made in pieces on some processors, the first before the second faults.
     */
    if (t.fault.vector == VECTOR_PF && t.memory->size == 80)
        memcpy(after, t.native_after, sizeof after);
    for (unsigned i = 0; i < sizeof after; i++)
        if (after[i] != t.native_after[i])
            return report("memory", after[i], t.native_after[i]);
    return compare_vectors();
}

/* The host's kernel may have switched tasks before the pointers were stored, or before the
 * instruction, which need not set them all and may leave an exception pending that shows them. */
static bool pointers_lost(void)
{
    const struct x86_vector *n = &t.native.vector, *ours = &v->vector;
    return (!n->fip && ours->fip) || (!n->fdp && ours->fdp) || (!n->fop && ours->fop);
}

static unsigned ran, failed, faults[32];
static uint8_t seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];

/* t.bytes holds an instruction within `length` bytes; random bytes follow it. */
static void attempt(unsigned length)
{
    if (!decode(length))
        return;
    random_state();
    t.target = 0;
    if (t.memory)
        aim();
    run_copy();
    for (unsigned n = 0; n < ATTEMPTS && (n == 0 || pointers_lost()); n++)
        run_native();
    ran++;
    seen[t.insn.mnemonic] = 1;
    if (t.native_fault.vector >= 0)
        faults[t.native_fault.vector & 31]++;
    if (!compare())
        failed++;
}

/* ModRM with a register or [base + disp]; VSIB forms come by chance of SIB. */
static uint8_t *put_modrm(uint8_t *o, uint8_t reg)
{
    uint8_t mod = below(2) ? 3 : (uint8_t)(1 + below(2));
    uint8_t rm = (uint8_t)below(8);
    *o++ = (uint8_t)(mod << 6 | reg << 3 | rm);
    if (mod != 3 && rm == 4)
        *o++ = (uint8_t)(below(2) ? 0x20 | below(8) : rnd()); /* no index, or any */
    return o;
}

static void fill(uint8_t *o)
{
    while (o < t.bytes + sizeof t.bytes)
        *o++ = (uint8_t)rnd();
}

static void try_opcode(unsigned form, unsigned map, unsigned pp, unsigned opcode)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};
    uint8_t *o = t.bytes;
    if (form == 0) {
        if (pp)
            *o++ = prefixes[pp];
        if (below(2))
            *o++ = (uint8_t)(0x40 | below(16));
        *o++ = 0x0f;
        if (map > 1)
            *o++ = map == 2 ? 0x38 : 0x3a;
    } else if (form == 1) {
        *o++ = 0xc4;
        *o++ = (uint8_t)(below(8) << 5 | map);
        uint8_t vvvv = below(2) ? 15 : (uint8_t)below(16);
        *o++ = (uint8_t)(below(2) << 7 | vvvv << 3 | below(2) << 2 | pp);
    } else {
        *o++ = 0x62;
        *o++ = (uint8_t)(below(16) << 4 | map);
        uint8_t vvvv = below(2) ? 15 : (uint8_t)below(16);
        *o++ = (uint8_t)(below(2) << 7 | vvvv << 3 | 4 | pp);
        uint8_t mask = below(3) ? (uint8_t)below(8) : 0;
        *o++ =
            (uint8_t)(below(2) << 7 | below(4) << 5 | below(2) << 4 | (below(4) != 0) << 3 | mask);
    }
    *o++ = (uint8_t)opcode;
    o = put_modrm(o, (uint8_t)below(8));
    fill(o);
    attempt(15);
}

static unsigned rounds(unsigned usual)
{
    const char *text = getenv("COPY_ROUNDS");
    return text ? (unsigned)atoi(text) : usual;
}

/* Gathers and scatters are few among the opcodes; this is where elements fault one by one. */
static void gathers(unsigned form, unsigned n)
{
    for (unsigned opcode = 0x90; opcode <= 0xa3; opcode++)
        for (unsigned i = 0; i < n && (opcode < 0x94 || opcode >= 0xa0); i++)
            try_opcode(form, 2, 1, opcode);
}

static void finish(unsigned least_ran, unsigned least_mnemonics)
{
    unsigned mnemonics = 0;
    for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++)
        mnemonics += seen[i];
    print_message("%u cases of %u mnemonics; faults:", ran, mnemonics);
    for (unsigned i = 0; i < 32; i++)
        if (faults[i])
            print_message(" #%u: %u", i, faults[i]);
    print_message("; %u differ\n", failed);
    bool enough = ran >= least_ran && mnemonics >= least_mnemonics, good = failed == 0;
    ran = failed = 0;
    memset(seen, 0, sizeof seen);
    memset(faults, 0, sizeof faults);
    assert_true(good);
    assert_true(enough);
}

static void sweep(unsigned form, unsigned n)
{
    for (unsigned map = 1; map <= 3; map++)
        for (unsigned pp = 0; pp < 4; pp++)
            for (unsigned opcode = 0; opcode < 256; opcode++)
                for (unsigned i = 0; i < n; i++)
                    try_opcode(form, map, pp, opcode);
}

static void x87(void **state)
{
    native_restore_handlers();
    for (unsigned round = 0; round < rounds(6); round++) {
        for (unsigned opcode = 0xd8; opcode <= 0xdf; opcode++) {
            for (unsigned modrm = 0; modrm < 512; modrm++) {
                uint8_t *o = t.bytes;
                if (!below(3))
                    *o++ = (uint8_t)(0x40 | below(16));
                *o++ = (uint8_t)opcode;
                if (modrm < 256)
                    o = put_modrm(o, modrm & 7);
                else
                    *o++ = (uint8_t)(modrm - 256);
                fill(o);
                attempt(15);
            }
        }
        t.bytes[0] = 0x9b;
        attempt(15);
    }
    finish(1000, 80);
}

static void sse(void **state)
{
    native_restore_handlers();
    sweep(0, rounds(12));
    finish(3500, 220);
}

static void avx(void **state)
{
    native_restore_handlers();
    SKIP_WITHOUT(__builtin_cpu_supports("avx2"), "AVX2");
    sweep(1, rounds(16));
    gathers(1, 20 * rounds(16));
    finish(3500, 380);
}

/* All of them are #UD on a host that has none of it. */
static void avx512(void **state)
{
    native_restore_handlers();
    sweep(2, rounds(40));
    gathers(2, 20 * rounds(40));
    finish(1500, 400);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(x87),
        cmocka_unit_test(sse),
        cmocka_unit_test(avx),
        cmocka_unit_test(avx512),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
