/* SPDX-License-Identifier: MIT */
/* XSAVE, XRSTOR and their kin on v->vector against the processor's own instructions: the same
 * state, masks and areas must give the same bytes and the same state. Guest memory is mapped one to
 * one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/gate.h"
#include "engine/host/copy.h"
#include "native.h"

#define AREA      0x4000u
#define AREA_SIZE 4096u

static const uint32_t offered_mask = (uint32_t)~MXCSR_RESERVED;

static struct mem mem;
static struct x86_platform platform;
static struct vcpu *v;
static uint64_t seed = 3, last_mask;
_Alignas(64) static uint8_t area[AREA_SIZE], expected[AREA_SIZE], got[AREA_SIZE];

static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed * 0x2545f4914f6cdd1dull;
}

static int setup(void **state)
{
    struct error e = {0};
    native_init();
    native_keep_handlers();
    mem_init(&mem);
    assert_int_equal(mem_add(&mem, "ram", GPA(0), 1u << 20, MEM_ANONYMOUS, false, &e), 0);
    platform = (struct x86_platform){.mem = &mem, .gate = &gate_live, .physical_address_bits = 46};
    v = aligned_alloc(64, (sizeof *v + 63) & ~63ul);
    memset(v, 0, sizeof *v);
    v->platform = &platform;
    tlb_init(&v->tlb);
    v->cr0 = CR0_PE | CR0_ET | CR0_NE; /* no paging: linear = physical */
    v->cr4 = CR4_OSFXSR | CR4_OSXSAVE;
    v->xcr0 = native_mask;
    vcpu_update_mode(v);
    v->code64 = true;
    return 0;
}

static int teardown(void **state)
{
    mem_fini(&mem);
    free(v);
    return 0;
}

static void random_vector(struct x86_vector *s)
{
    memset(s, 0, sizeof *s);
    unsigned parts = (unsigned)(rnd() >> 20);
    for (unsigned n = 0; n < 32; n++)
        for (unsigned q = 0; q < 8; q++)
            if (parts >> (n >= 16 ? 3 : q < 2 ? 0 : q < 4 ? 1 : 2) & 1)
                s->zmm[8 * n + q] = rnd();
    for (unsigned i = 0; i < 8 && (parts & 16); i++)
        s->k[i] = rnd();
    native_clip(s);
    s->mxcsr = parts & 32 ? 0x1f80 : (uint32_t)(rnd() & 0xffff);
    s->fcw = 0x37f;
    if (!(parts & 64))
        return;
    s->fsw = (uint16_t)(rnd() & 0x7f00);
    s->ftw = (uint8_t)rnd();
    s->fop = (uint16_t)(rnd() & 0x7ff);
    s->fip = rnd() >> 17;
    s->fdp = rnd() >> 17;
    for (unsigned i = 0; i < 8; i++) {
        s->st[2 * i] = rnd();
        s->st[2 * i + 1] = rnd() & 0xffff;
    }
}

enum kind {
    XSAVE,
    XSAVE64,
    XSAVEOPT64,
    XSAVEC64,
    FXSAVE,
    FXSAVE64,
    XRSTOR,
    XRSTOR64,
    FXRSTOR,
    FXRSTOR64,
    KINDS
};

static const struct {
    uint8_t bytes[5], length;
    const char *name;
} forms[KINDS] = {
    {{0x0f, 0xae, 0x27}, 3, "xsave"},
    {{0x48, 0x0f, 0xae, 0x27}, 4, "xsave64"},
    {{0x48, 0x0f, 0xae, 0x37}, 4, "xsaveopt64"},
    {{0x48, 0x0f, 0xc7, 0x27}, 4, "xsavec64"},
    {{0x0f, 0xae, 0x07}, 3, "fxsave"},
    {{0x48, 0x0f, 0xae, 0x07}, 4, "fxsave64"},
    {{0x0f, 0xae, 0x2f}, 3, "xrstor"},
    {{0x48, 0x0f, 0xae, 0x2f}, 4, "xrstor64"},
    {{0x0f, 0xae, 0x0f}, 3, "fxrstor"},
    {{0x48, 0x0f, 0xae, 0x0f}, 4, "fxrstor64"},
};

static void run_ours(enum kind k, uint64_t linear, uint64_t mask)
{
    bool w = k != XSAVE && k != FXSAVE && k != XRSTOR && k != FXRSTOR;
    if (k <= XSAVEC64)
        fpu_xsave(v, linear, mask, k == XSAVEC64, k == XSAVEOPT64, w);
    else if (k <= FXSAVE64)
        fpu_fxsave(v, linear, w);
    else if (k <= XRSTOR64)
        fpu_xrstor(v, linear, mask, w);
    else
        fpu_fxrstor(v, linear, w);
}

/* The vector raised, or -1. */
static int run_guest(enum kind k, uint64_t mask, unsigned shift)
{
    jmp_buf out;
    v->unwind = &out;
    if (setjmp(out))
        return v->fault.vector;
    run_ours(k, AREA + shift, mask);
    return -1;
}

static bool same_pointers(const struct x86_vector *a, const struct x86_vector *b)
{
    uint64_t stored = native_pointers_whole(b) ? UINT64_MAX : UINT32_MAX;
    return a->fop == b->fop && !((a->fip ^ b->fip) & stored) && !((a->fdp ^ b->fdp) & stored);
}

static void same_state(const struct x86_vector *a, const struct x86_vector *b, const char *name)
{
    if (memcmp(a->zmm, b->zmm, sizeof a->zmm) || memcmp(a->k, b->k, sizeof a->k) ||
        memcmp(a->st, b->st, sizeof a->st) || a->mxcsr != b->mxcsr || a->fcw != b->fcw ||
        a->fsw != b->fsw || a->ftw != b->ftw || !same_pointers(a, b))
        fail_msg("%s mask %llx bv %x/%llx leaves another state: mxcsr %x %x fcw %x %x fsw %x %x "
                 "ftw %x %x fop %x %x "
                 "fip %llx %llx",
                 name, (unsigned long long)last_mask, area[512],
                 (unsigned long long)*(uint64_t *)(area + 520), a->mxcsr, b->mxcsr, a->fcw, b->fcw,
                 a->fsw, b->fsw, a->ftw, b->ftw, a->fop, b->fop, (unsigned long long)a->fip,
                 (unsigned long long)b->fip);
}

static uint32_t host_mxcsr_mask(void)
{
    _Alignas(16) uint32_t image[128] = {0};
    __asm__ volatile("fxsave64 %0" : "+m"(image));
    return image[7];
}

static struct native_fault run_natively(enum kind k, uint64_t mask, unsigned shift,
                                        const struct x86_vector *before, struct native_state *s)
{
    *s = (struct native_state){.rflags = 2, .vector = *before};
    s->gpr[0] = (uint32_t)mask;
    s->gpr[2] = mask >> 32;
    s->gpr[7] = (uint64_t)(uintptr_t)expected + shift;
    memcpy(expected, area, sizeof expected);
    return native_run(s, forms[k].bytes, forms[k].length);
}

/* MXCSR_MASK says whether there is MISALIGNSSE, which the CPUID model has not (AMD's have it). */
static void offer_mask(void)
{
    uint32_t mask;
    memcpy(&mask, expected + 28, sizeof mask);
    if (mask == host_mxcsr_mask())
        memcpy(expected + 28, &offered_mask, sizeof offered_mask);
}

/* The processor keeps for itself which components it takes to be in their initial state (SDM 1,
 * 13.6), and a host that switches tasks at the wrong moment makes it think otherwise: XSTATE_BV of
 * one run in thousands has a bit more. So it may try again. */
#define ATTEMPTS 5

static int one(enum kind k, uint64_t mask, unsigned shift)
{
    struct x86_vector before;
    struct native_state s;
    struct native_fault f;

    last_mask = mask;
    random_vector(&before);
    v->vector = before;
    assert_int_equal(mem_write(&mem, GPA(AREA), area, sizeof area), 0);
    int vector = run_guest(k, mask, shift);
    assert_int_equal(mem_read(&mem, GPA(AREA), got, sizeof got), 0);
    for (unsigned n = 0; n < ATTEMPTS; n++) {
        f = run_natively(k, mask, shift, &before, &s);
        offer_mask();
        if (vector == f.vector && memcmp(got, expected, sizeof got) == 0 &&
            same_pointers(&v->vector, vector < 0 ? &s.vector : &before))
            break;
    }
    if (vector != f.vector)
        fail_msg("%s mask %llx bv %x/%llx mxcsr %x: vector %d, natively %d", forms[k].name,
                 (unsigned long long)mask, area[512], (unsigned long long)*(uint64_t *)(area + 520),
                 *(uint32_t *)(area + 24), vector, f.vector);
    for (unsigned i = 0; i < sizeof got; i++)
        if (got[i] != expected[i])
            fail_msg("%s mask %llx: byte %u is %02x, natively %02x", forms[k].name,
                     (unsigned long long)mask, i, got[i], expected[i]);
    /* The processor may have loaded a part when it finds MXCSR bad; here nothing has changed. */
    same_state(&v->vector, vector < 0 ? &s.vector : &before, forms[k].name);
    return vector;
}

static void saves(void **state)
{
    native_restore_handlers();
    for (unsigned i = 0; i < 3000; i++) {
        for (unsigned j = 0; j < AREA_SIZE; j++)
            area[j] = (uint8_t)(rnd() >> 9);
        one((enum kind)(i % XRSTOR), rnd() & 0xe7, i % 50 ? 0 : 8);
    }
}

static void restores(void **state)
{
    native_restore_handlers();
    unsigned good = 0, refused = 0;
    for (unsigned i = 0; i < 3000; i++) {
        struct x86_vector s;
        enum kind k = (enum kind)(XRSTOR + i % 4);
        random_vector(&s);
        native_image_from(area, &s);
        area[512] = (uint8_t)(rnd() & native_mask);
        uint64_t compact = (rnd() & native_mask) | area[512] | 1ull << 63;
        if (rnd() & 1 << 20)
            memcpy(area + 520, &compact, 8);
        unsigned hostile = (unsigned)(rnd() >> 30) % 24;
        /* A reserved bit of the header (beyond the host's XCR0, which has more than ours), or of
         * MXCSR (not MM of AMD's MISALIGNSSE). */
        unsigned reserved = rnd() & 1 << 21 ? 514 + (unsigned)(rnd() >> 40) % 6
                                            : 528 + (unsigned)(rnd() >> 40) % 48;
        if (hostile < 3)
            area[hostile ? reserved : 27] |= (uint8_t)(1 << (rnd() >> 50) % 8);
        int vector = one(k, rnd() & 0xe7, 0);
        good += vector < 0;
        refused += vector == VECTOR_GP;
    }
    print_message("%u restored, %u refused\n", good, refused);
    assert_true(good > 1000 && refused > 50);
}

static void disabled(void **state)
{
    v->cr4 &= ~(uint64_t)CR4_OSXSAVE;
    assert_int_equal(run_guest(XSAVE, 7, 0), VECTOR_UD);
    v->cr4 |= CR4_OSXSAVE;
    v->cr0 |= CR0_TS;
    assert_int_equal(run_guest(XSAVE, 7, 0), VECTOR_NM);
    assert_int_equal(run_guest(FXRSTOR, 7, 0), VECTOR_NM);
    v->cr0 &= ~(uint64_t)CR0_TS;
    assert_int_equal(run_guest(FXSAVE, 7, 8), VECTOR_GP);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saves),
        cmocka_unit_test(restores),
        cmocka_unit_test(disabled),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
