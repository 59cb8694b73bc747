/* SPDX-License-Identifier: MIT */
/* The MSR table and what WRMSR refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on
#include <errno.h>

#include "x86_fixture.h"

/* Values taken and refused. */
struct rule {
    uint32_t index;
    uint64_t value;
    bool good;
};

static void check_rules(struct x86_fixture *f, const struct rule *rules, size_t count)
{
    for (const struct rule *r = rules; r < rules + count; r++) {
        uint64_t before = 0, after = 0;
        bool readable = msr_read(&f->v, r->index, &before);
        if (msr_write(&f->v, r->index, r->value) != r->good)
            fail_msg("MSR %#x = %#llx", r->index, (unsigned long long)r->value);
        if (!readable)
            continue;
        assert_true(msr_read(&f->v, r->index, &after));
        if (!r->good)
            assert_int_equal(after, before);
        else if (r->index != 0x8b)
            assert_int_equal(after, r->value);
    }
}

/* Every register with a rule. */
static void rules(void **state)
{
    static const struct rule cases[] = {
        {MSR_LSTAR, 0xffffffff81000000, true},
        {MSR_LSTAR, 0x00ffffffffffffff, true}, /* canonical in 57 bits */
        {MSR_LSTAR, 0x01ffffffffffffff, false},
        {MSR_CSTAR, 0x8000000000000000, false},
        {MSR_FS_BASE, 0xff00000000000000, true},
        {MSR_FS_BASE, 0xfe00000000000000, false},
        {MSR_GS_BASE, 0x7fffffffffffffff, false},
        {MSR_KERNEL_GS_BASE, 0x0100000000000000, false},
        {MSR_SYSENTER_ESP, 0x0100000000000000, false},
        {MSR_SYSENTER_EIP, 0xffffffff81000000, true},
        {MSR_STAR, UINT64_MAX, true},
        {MSR_FMASK, 0x47700, true},
        {MSR_FMASK, 1ull << 32, false},
        {MSR_TSC_AUX, 1ull << 32, false},
        {MSR_TSC_AUX, 0xffffffff, true},
        {MSR_PAT, 0x0407050600070106, true},
        {MSR_PAT, 0x0007040600070402, false},
        {MSR_PAT, 0x0807040600070406, false},
        {MSR_MTRR_DEF_TYPE, 0xc06, true},
        {MSR_MTRR_DEF_TYPE, 0xc02, false},
        {MSR_MTRR_DEF_TYPE, 0x1c06, false},
        {0x200, 0x80000000 | 6, true},
        {0x200, 0x80000000 | 7, false},
        {0x200, 0x100, false},
        {0x201, 0x3fff80000800, true},
        {0x201, 0x400000000800, false}, /* above MAXPHYADDR = 46 */
        {0x201, 0x801, false},
        {0x250, 0x0606060606060606, true},
        {0x26f, 0x0606060606060602, false},
        {0xfe, 0, false}, /* MTRRCAP */
        {0x48, 1, true},  /* SPEC_CTRL: IBRS */
        {0x48, 8, false},
        {0x49, 1, true}, /* PRED_CMD: IBPB */
        {0x49, 2, false},
        {0x8b, 0, true},   /* microcode revision */
        {0x10a, 0, false}, /* ARCH_CAPABILITIES */
        {0x17a, 8, false}, /* MCG_STATUS */
        {0x1d9, 0, true},  /* DEBUGCTL */
        {0x1d9, 2, false},
        {MSR_MISC_ENABLE, 1 | 1 << 11 | 1 << 12, true},
        {MSR_MISC_ENABLE, 1 << 11 | 1 << 12, true},
        {MSR_MISC_ENABLE, 1 | 1 << 11 | 1 << 12 | 1 << 18 | 1ull << 34, true},
        {MSR_MISC_ENABLE, 1 | 1 << 11 | 1 << 12 | 1 << 17, false}, /* reserved */
        {MSR_MISC_ENABLE, 1 | 1 << 12, false},                     /* BTS is not available */
        {MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE, true},
        {MSR_EFER, 1u << 12, false}, /* SVME */
        {MSR_EFER, 1u << 1, false},
        {0xc0010000, 0, false},
        {0x12345, 0, false},
    };
    struct x86_fixture *f = x86_fixture_create();
    check_rules(f, cases, sizeof(cases) / sizeof(cases[0]));
    assert_int_equal(f->msrs.unknown_writes, 2);
    assert_int_equal(f->msrs.unknown_reads, 2);
    x86_fixture_destroy(f);
}

/* Those of one vendor, and of both with other rules. */
static void rules_of_amd(void **state)
{
    static const struct rule cases[] = {
        {0x48, 1, true}, /* SPEC_CTRL: IBRS */
        {0x48, 8, false},
        {0x49, 1, true},                  /* PRED_CMD: IBPB */
        {0x8b, 0, true},                  /* PATCH_LEVEL */
        {0xc0010010, 0, true},            /* SYSCFG */
        {0xc0010010, 1u << 21, false},    /* MtrrTom2En */
        {0xc0010015, 1u << 24 | 1, true}, /* HWCR: TscFreqSel, SmmLock */
        {0xc0010015, 0, false},           /* ... are as firmware has left them */
        {0xc001001a, 0, true},            /* TOP_MEM */
        {0xc001001d, 0, true},            /* TOP_MEM2 */
        {0xc001001f, 1ull << 46, true},   /* NB_CFG: EnableCf8ExtCfg */
        {0xc001001f, 0, false},           /* ... always */
        {0xc0011029, 1u << 1, true},      /* DE_CFG: LFENCE serializes */
        {0xc0011029, 0, false},           /* ... always */
        {MSR_EFER, EFER_AIBRSE, true},    /* automatic IBRS */
        {MSR_EFER, 1u << 13, false},      /* LMSLE */
        {MSR_SYSENTER_EIP, 0x1234, true}, /* of 32 bits: see below */
        {MSR_MISC_ENABLE, 1, false},      /* from here on Intel's alone */
        {0x10a, CPUID_ARCH_CAPABILITIES, false},
    };
    static const uint32_t absent[] = {0x17, 0x3a, 0x10a, MSR_MISC_ENABLE};
    static const uint32_t absent_on_intel[] = {0xc0010010, 0xc0010015, 0xc001001a,
                                               0xc001001d, 0xc001001f, 0xc0011029};
    struct x86_fixture *f = x86_fixture_create();
    uint64_t value;
    for (unsigned i = 0; i < 6; i++)
        assert_false(msr_read(&f->v, absent_on_intel[i], &value));
    for (unsigned i = 0; i < 4; i++)
        assert_true(msr_read(&f->v, absent[i], &value));
    assert_false(msr_write(&f->v, MSR_EFER, EFER_AIBRSE));
    assert_false(msr_write(&f->v, MSR_SYSENTER_ESP, 1ull << 63));
    assert_false(msr_write(&f->v, MSR_TSC_AUX, 1ull << 32));
    x86_fixture_model(f, "max,vendor=amd");
    for (unsigned i = 0; i < 4; i++)
        assert_false(msr_read(&f->v, absent[i], &value));
    check_rules(f, cases, sizeof(cases) / sizeof(cases[0]));
    /* Upper halves that the processor does not have are not looked at. */
    static const uint32_t halves[] = {MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_TSC_AUX};
    for (unsigned i = 0; i < 3; i++) {
        assert_true(msr_write(&f->v, halves[i], 0x8000000012345678));
        assert_true(msr_read(&f->v, halves[i], &value) && value == 0x12345678);
    }
    x86_fixture_destroy(f);
}

static void efer_rules(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    uint64_t value;
    x86_fixture_long_mode(f, false);
    assert_false(msr_write(&f->v, MSR_EFER, EFER_LMA | EFER_NXE)); /* LME while paging */
    assert_int_equal(f->v.efer, EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
    uint64_t asid = f->v.tlb.asid;
    assert_true(msr_write(&f->v, MSR_EFER, EFER_LME)); /* LMA is not software's */
    assert_true(msr_read(&f->v, MSR_EFER, &value));
    assert_int_equal(value, EFER_LME | EFER_LMA);
    assert_int_not_equal(f->v.tlb.asid, asid); /* NXE has changed */
    x86_fixture_destroy(f);
}

static void tsc_and_adjust(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    uint64_t value;
    f->tsc = 1000;
    assert_true(msr_write(&f->v, MSR_TSC, 5000));
    assert_true(msr_read(&f->v, MSR_TSC_ADJUST, &value) && value == 4000);
    assert_true(msr_write(&f->v, MSR_TSC_ADJUST, 0));
    f->tsc = 1001;
    assert_true(msr_read(&f->v, MSR_TSC, &value) && value == 1001);
    x86_fixture_destroy(f);
}

static bool seven(void *context, struct vcpu *v, uint32_t index, uint64_t *value)
{
    *value = 7;
    return true;
}

static void registration(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct error e = {0};
    uint64_t value;
    struct msr_entry x = {0x800, 0x8ff, "x", seven, NULL, NULL};
    assert_int_equal(msr_register(&f->msrs, x, &e), 0);
    assert_int_equal(msr_register(&f->msrs, x, &e), -EBUSY);
    for (uint32_t i = 0x800; i <= 0x8ff; i++)
        assert_true(msr_read(&f->v, i, &value) && value == 7);
    assert_false(msr_read(&f->v, 0x7ff, &value));
    assert_false(msr_read(&f->v, 0x900, &value));
    assert_false(msr_write(&f->v, 0x800, 7)); /* read-only */
    x.first = 5;
    x.last = 0x20; /* over others */
    assert_int_equal(msr_register(&f->msrs, x, &e), -EBUSY);
    x.last = 4;
    assert_int_equal(msr_register(&f->msrs, x, &e), -EINVAL);
    for (unsigned i = 1; i < f->msrs.count; i++)
        assert_true(f->msrs.entries[i - 1].last < f->msrs.entries[i].first);
    for (uint32_t i = 0;
         msr_register(
             &f->msrs,
             (struct msr_entry){.first = 0x50000000 + i, .last = 0x50000000 + i, .name = "more"},
             &e) == 0;
         i++)
        ;
    assert_int_equal(e.code, ENOSPC);
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules),        cmocka_unit_test(rules_of_amd),
        cmocka_unit_test(efer_rules),   cmocka_unit_test(tsc_and_adjust),
        cmocka_unit_test(registration),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
