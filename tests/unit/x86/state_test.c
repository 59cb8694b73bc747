/* SPDX-License-Identifier: MIT */
/* The vCPU's saved state, reset, INIT and requests. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "x86_fixture.h"

static int transfer(struct x86_fixture *from, struct x86_fixture *to, struct error *e)
{
    struct field_buffer b = {0};
    assert_int_equal(field_save(&vcpu_state, 3, &from->v, &b), 0);
    const uint8_t *data = b.data;
    size_t size = b.size;
    int err = field_load(&vcpu_state, 3, &to->v, &data, &size, e);
    assert_int_equal(size, err == 0 ? 0 : b.size);
    field_buffer_fini(&b);
    return err;
}

/* A legal state with no register at its reset value. */
static void busy_state(struct vcpu *v)
{
    for (unsigned i = 0; i < 16; i++)
        v->gpr[i] = 0x1111111111111111ull * i;
    v->rip = 0xffffffff81000000;
    v->rflags = FLAG_ONE | FLAG_IF | FLAG_CF;
    v->cpl = 3;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        v->seg[i] = (struct x86_segment){.selector = 8 * i + 8, .attributes = 0xa09b, .limit = i};
    v->seg[SEG_GS].base = 0xffff888000000000;
    v->cr2 = 0xdeadbeef;
    v->cr3 = 0x1234000;
    v->dr[2] = 77;
    v->dr7 = 0x401;
    v->dr6 = DR6_FIXED | 1;
    v->interrupt_shadow = v->nmi_blocked = true;
    v->activity = VCPU_HALTED;
    atomic_store(&v->requests, VCPU_REQUEST_NMI | VCPU_REQUEST_STOP);
    v->gdtr = (struct x86_table_register){.base = 0xfffffe0000001000, .limit = 0x7f};
    v->lstar = v->rip;
    v->tsc_offset = 42;
    v->mtrr_mask[7] = 0x800;
    v->vector.zmm[255] = 9;
    v->vector.k[7] = 5;
    v->counters.instructions = 1000;
}

static void round_trip(void **state)
{
    struct x86_fixture *a = x86_fixture_create(), *b = x86_fixture_create();
    struct error e = {0};
    const char *which = NULL;

    x86_fixture_long_mode(a, false);
    busy_state(&a->v);
    assert_false(field_equal(&vcpu_state, &a->v, &b->v, NULL));
    assert_int_equal(transfer(a, b, &e), 0);
    assert_int_equal(vcpu_requests(&b->v), VCPU_REQUEST_NMI); /* STOP was for another process */
    atomic_store(&a->v.requests, VCPU_REQUEST_NMI);
    if (!field_equal(&vcpu_state, &a->v, &b->v, &which))
        fail_msg("%s differs", which);
    /* What is derived has followed, and what belongs to the process has stayed. */
    assert_true(b->v.long_mode && b->v.code64);
    assert_int_equal(b->v.reach, REACH_USER);
    assert_ptr_equal(b->v.platform, &b->platform);
    x86_fixture_destroy(a);
    x86_fixture_destroy(b);
}

#define BAD(member, value)                                                                \
    {                                                                                     \
#member, offsetof(struct vcpu, member), sizeof(((struct vcpu *)0)->member), value \
    }

static void impossible_states(void **state)
{
    static const struct {
        const char *name;
        size_t offset, size;
        uint64_t value;
    } bad[] = {
        BAD(rip, 0x8000000000000000),
        BAD(rflags, 0),
        BAD(rflags, FLAG_ONE | FLAG_VM),
        BAD(rflags, FLAG_ONE | 1u << 15),
        BAD(cpl, 4),
        BAD(activity, 4),
        BAD(interrupt_shadow, 2),
        BAD(nmi_blocked, 255),
        BAD(requests, 1u << 31),
        BAD(cr0, CR0_PG | CR0_ET),
        BAD(cr0, CR0_PE | CR0_ET | CR0_PG | CR0_NW),
        BAD(cr0, 1ull << 32 | CR0_PE | CR0_PG | CR0_ET),
        BAD(cr0, CR0_PE | CR0_ET), /* LMA without paging */
        BAD(cr3, 1ull << 46),
        BAD(cr4, 0), /* long mode without PAE */
        BAD(cr4, CR4_PAE | 1ull << 22),
        BAD(efer, EFER_LMA),
        BAD(efer, EFER_LME),
        BAD(efer, EFER_LME | EFER_LMA | 2),
        BAD(xcr0, 0),
        BAD(xcr0, XCR0_X87 | XCR0_AVX),
        BAD(xcr0, 1ull << 9 | XCR0_X87),
        BAD(xcr0, XCR0_X87 | XCR0_SSE | XCR0_AVX | 1u << 5),
        BAD(dr6, 0),
        BAD(dr7, 1ull << 32),
        BAD(pat, 2),
        BAD(lstar, 1ull << 63),
        BAD(kernel_gs_base, 1ull << 56),
        BAD(fmask, 1ull << 32),
        BAD(debug_pending, 1ull << 40),
        BAD(vector.mxcsr, 1u << 16),
        BAD(vector.fop, 0xffff),
        BAD(seg[SEG_CS].attributes, ATTR_UNUSABLE),
        BAD(seg[SEG_CS].attributes, 0x9b | ATTR_L | ATTR_DB),
        BAD(seg[SEG_DS].attributes, 1u << 17),
        BAD(seg[SEG_SS].base, 1ull << 32),
        BAD(seg[SEG_FS].base, 1ull << 60),
        BAD(gdtr.base, 1ull << 60),
    };
    struct x86_fixture *a = x86_fixture_create(), *b = x86_fixture_create();
    struct error e = {0};

    x86_fixture_long_mode(a, false);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint64_t good = 0;
        uint8_t *p = (uint8_t *)&a->v + bad[i].offset;
        memcpy(&good, p, bad[i].size);
        memcpy(p, &bad[i].value, bad[i].size);
        if (transfer(a, b, &e) != -EINVAL)
            fail_msg("%s = %#llx was taken", bad[i].name, (unsigned long long)bad[i].value);
        assert_int_equal(b->v.rip, 0xfff0); /* untouched */
        memcpy(p, &good, bad[i].size);
    }
    assert_int_equal(transfer(a, b, &e), 0);
    x86_fixture_destroy(a);
    x86_fixture_destroy(b);
}

/* SDM 3A table 9-1. */
static void reset_and_init(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct vcpu *v = &f->v;

    for (unsigned init = 0; init < 2; init++) {
        x86_fixture_long_mode(f, false);
        busy_state(v);
        v->cr0 |= CR0_CD;
        v->pat = 0;
        if (init)
            vcpu_init_signal(v);
        else
            vcpu_reset(v);
        assert_int_equal(v->rip, 0xfff0);
        assert_int_equal(v->rflags, 2);
        assert_int_equal(v->cr0, init ? CR0_CD | CR0_ET : 0x60000010);
        assert_int_equal(v->cr2 | v->cr3 | v->cr4 | v->efer, 0);
        assert_int_equal(v->seg[SEG_CS].base, 0xffff0000);
        assert_int_equal(v->seg[SEG_CS].selector, 0xf000);
        assert_int_equal(v->seg[SEG_DS].limit, 0xffff);
        assert_int_equal(v->gdtr.limit, 0xffff);
        assert_int_equal(v->gpr[RAX], 0);
        uint32_t signature[4];
        cpuid_execute(v, 1, 0, signature);
        assert_int_equal(v->gpr[RDX], signature[0]);
        assert_int_equal(v->dr6, 0xffff0ff0);
        assert_int_equal(v->dr7, 0x400);
        assert_false(v->long_mode || v->code64 || v->nmi_blocked);
        assert_int_equal(v->pat, init ? 0 : 0x0007040600070406);
        assert_int_equal(v->mtrr_mask[7], init ? 0x800 : 0);
        assert_int_equal(v->vector.zmm[255], init ? 9 : 0);
        assert_int_equal(v->activity, VCPU_ACTIVE);
    }
    v->id = 1;
    vcpu_init_signal(v);
    assert_int_equal(v->activity, VCPU_WAIT_FOR_SIPI);
    x86_fixture_destroy(f);
}

static void reach_follows_mode(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    for (unsigned i = 0; i < 8; i++) {
        f->v.cpl = (i & 1) ? 3 : 0;
        f->v.cr4 = (i & 2) ? CR4_SMAP : 0;
        f->v.rflags = FLAG_ONE | ((i & 4) ? FLAG_AC : 0);
        vcpu_update_mode(&f->v);
        int want = (i & 1) ? REACH_USER : i == 2 ? REACH_SUPERVISOR : REACH_SUPERVISOR_AC;
        assert_int_equal(f->v.reach, want);
    }
    x86_fixture_destroy(f);
}

static void *ask_later(void *context)
{
    struct vcpu *v = context;
    usleep(20000);
    vcpu_request(v, VCPU_REQUEST_LIMIT); /* not the one waited for */
    usleep(20000);
    vcpu_request(v, VCPU_REQUEST_INTR);
    return NULL;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void waiting(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    pthread_t other;
    uint64_t start = now_ns();
    vcpu_wait(&f->v, VCPU_REQUEST_INTR, 30000000);
    assert_true(now_ns() - start >= 30000000);
    assert_int_equal(vcpu_requests(&f->v), 0);

    pthread_create(&other, NULL, ask_later, &f->v);
    vcpu_wait(&f->v, VCPU_REQUEST_INTR, UINT64_MAX);
    assert_int_equal(vcpu_requests(&f->v), VCPU_REQUEST_INTR | VCPU_REQUEST_LIMIT);
    pthread_join(other, NULL);
    vcpu_wait(&f->v, VCPU_REQUEST_INTR, UINT64_MAX); /* is there already */
    vcpu_request_clear(&f->v, VCPU_REQUEST_INTR);
    assert_int_equal(vcpu_requests(&f->v), VCPU_REQUEST_LIMIT);
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip),     cmocka_unit_test(impossible_states),
        cmocka_unit_test(reset_and_init), cmocka_unit_test(reach_follows_mode),
        cmocka_unit_test(waiting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
