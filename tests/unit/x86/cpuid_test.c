/* SPDX-License-Identifier: MIT */
/* The CPUID model: composition, what depends on the vCPU, leaves out of range. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
// clang-format off
#include <cmocka.h>
// clang-format on
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

#include "x86_fixture.h"

struct regs {
    uint32_t r[4];
};

static struct regs execute(struct x86_fixture *f, uint32_t leaf, uint32_t subleaf)
{
    struct regs out;
    cpuid_execute(&f->v, leaf, subleaf, out.r);
    return out;
}

static void names(void **state)
{
    struct cpuid_model m;
    struct error e = {0};
    for (unsigned i = 0; cpuid_model_names[i].name != NULL; i++) {
        int err = cpuid_model_build(&m, cpuid_model_names[i].name, 1000000000, 1, &e);
        assert_true(err == 0 || err == -ENOTSUP);
        assert_true(m.count < CPUID_ENTRIES_MAX);
    }
    assert_int_equal(cpuid_model_build(&m, "pentium", 1000000000, 1, &e), -EINVAL);
    assert_non_null(strstr(e.text, "pentium"));
    assert_int_equal(cpuid_spec_check("", &e), -EINVAL);
    assert_int_equal(cpuid_spec_check("max,", &e), -EINVAL);
    assert_int_equal(cpuid_spec_check("max,+x2apic", &e), -EINVAL);
    assert_int_equal(cpuid_spec_check("max,-x2api", &e), -EINVAL);
    assert_non_null(strstr(e.text, "'x2api'"));
    assert_int_equal(cpuid_spec_check("max,Vendor=AMD,-LA57", &e), 0);
    assert_int_equal(cpuid_spec_check("max,-LA57,vendor=intel", &e), 0);
    assert_int_equal(cpuid_spec_check("max,vendor=via,-LA57", &e), -EINVAL);
    assert_non_null(strstr(e.text, "'via'"));
    assert_int_equal(cpuid_spec_check("max,vendor=", &e), -EINVAL);
    assert_int_equal(cpuid_spec_check("max,vendor", &e), -EINVAL);
    assert_int_equal(cpuid_spec_check("max,vendor=amd,vendor=amd", &e), -EINVAL);
    assert_non_null(strstr(e.text, "twice"));
}

/* Leaves 0 and 1, and what only one vendor has. */
static void intel(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    struct regs r = execute(f, 0, 0);
    assert_memory_equal(&r.r[1], "GenuntelineI", 12); /* EBX, ECX, EDX */
    assert_int_equal(execute(f, 1, 0).r[0] >> 8 & 0xf, 6);
    assert_int_equal(execute(f, 4, 0).r[0] & 0x1f, 1);
    r = execute(f, 0x80000000, 0);
    assert_int_equal(r.r[0], 0x80000008);
    assert_int_equal(r.r[1] | r.r[2] | r.r[3], 0);
    assert_int_equal(execute(f, 0x80000001, 0).r[0], 0);
    assert_true(cpuid_has(&f->cpuid, 7, 0, 3, 26) && cpuid_has(&f->cpuid, 7, 0, 3, 29));
    x86_fixture_destroy(f);
}

static void amd(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    assert_int_equal(cpuid_model_build(&f->cpuid, "max,vendor=amd", 1000000000, 3, NULL), 0);
    assert_true(f->cpuid.amd && f->cpuid.count < CPUID_ENTRIES_MAX);
    struct regs r = execute(f, 0, 0);
    assert_memory_equal(&r.r[1], "AuthcAMDenti", 12); /* EBX, ECX, EDX */
    assert_memory_equal(execute(f, 0x80000000, 0).r + 1, r.r + 1, 12);
    assert_int_equal(execute(f, 0x80000000, 0).r[0], 0x80000021);
    assert_int_equal(execute(f, 1, 0).r[0] >> 8 & 0xf, 0xf); /* an extended family */
    assert_int_equal(execute(f, 0x80000001, 0).r[0], execute(f, 1, 0).r[0]);
    assert_int_equal(execute(f, 4, 0).r[0] | execute(f, 2, 0).r[0], 0);
    assert_int_equal(execute(f, 7, 0).r[3] & (1u << 26 | 1u << 29), 0);
    /* Three cores in a package of four APIC IDs; the L3 is theirs together. */
    assert_int_equal(execute(f, 0x80000008, 0).r[2], 2u << 12 | 2);
    assert_true(cpuid_has(&f->cpuid, 0x80000001, 0, 2, 1)); /* CmpLegacy */
    f->v.id = 2;
    r = execute(f, 0x8000001e, 0);
    assert_int_equal(r.r[0], 2);
    assert_int_equal(r.r[1], 2);
    assert_int_equal(r.r[2] | r.r[3], 0);
    for (unsigned i = 0; i < 4; i++) {
        static const uint64_t sizes[] = {32 << 10, 32 << 10, 1 << 20, 8 << 20};
        r = execute(f, 0x8000001d, i);
        uint64_t ways = (r.r[1] >> 22) + 1, line = (r.r[1] & 0xfff) + 1;
        assert_int_equal(ways * line * (r.r[2] + 1), sizes[i]);
        assert_int_equal(r.r[0] >> 14, i == 3 ? 2 : 0); /* those who share it, less one */
    }
    assert_int_equal(execute(f, 0x8000001d, 4).r[0], 0);
    assert_int_equal(execute(f, 0x8000000a, 0).r[0], 0); /* SVM */
    x86_fixture_model(f, "max,vendor=amd,-TopologyExtensions");
    assert_int_equal(execute(f, 0x8000001d, 0).r[0] | execute(f, 0x8000001e, 0).r[0], 0);
    x86_fixture_destroy(f);
}

/* Without vendor= the model is of the host's, and its signature the host's; "base" has its own. */
static void host_vendor(void **state)
{
    struct cpuid_model m, same;
    struct regs host;
    __cpuid(0, host.r[0], host.r[1], host.r[2], host.r[3]);
    assert_int_equal(cpuid_model_build(&m, "max", 1000000000, 1, NULL), 0);
    assert_int_equal(m.entries[0].leaf, 0);
    assert_memory_equal(&m.entries[0].ebx, &host.r[1], 12);
    for (unsigned other = 0; other < 2; other++) {
        const char *spec = other ? "max,vendor=amd" : "max,vendor=intel";
        assert_int_equal(cpuid_model_build(&same, spec, 1000000000, 1, NULL), 0);
        assert_int_equal(same.amd, other);
        if (same.entries[0].ebx == host.r[1])
            assert_memory_equal(same.entries, m.entries, sizeof(m.entries[0]) * m.count);
    }
}

static void without(void **state)
{
    struct cpuid_model m;
    struct error e = {0};
    assert_int_equal(cpuid_model_build(&m, "max", 1000000000, 1, &e), 0);
    assert_true(cpuid_has(&m, 1, 0, 2, 21) && cpuid_has(&m, 7, 0, 2, 16));
    assert_int_equal(cpuid_model_build(&m, "max,-LA57,-x2apic", 1000000000, 1, &e), 0);
    assert_false(cpuid_has(&m, 1, 0, 2, 21) || cpuid_has(&m, 7, 0, 2, 16));
    assert_true(cpuid_has(&m, 1, 0, 2, 17)); /* PCID stays */
    /* What stands on a feature goes with it. */
    assert_int_equal(cpuid_model_build(&m, "max,-AVX", 1000000000, 1, &e), 0);
    assert_false(cpuid_has(&m, 1, 0, 2, 12) || cpuid_has(&m, 7, 0, 1, 5));  /* FMA, AVX2 */
    assert_false(cpuid_has(&m, 7, 0, 1, 16) || cpuid_has(&m, 7, 0, 1, 31)); /* AVX512F, AVX512VL */
    assert_true(cpuid_has(&m, 1, 0, 2, 26));
    assert_int_equal(m.xcr0_supported, XCR0_X87 | XCR0_SSE);
    assert_int_equal(m.xsave_size, 576);
    assert_int_equal(cpuid_model_build(&m, "max,-apic", 1000000000, 1, &e), 0);
    assert_false(cpuid_has(&m, 1, 0, 2, 21) || cpuid_has(&m, 1, 0, 2, 24));
}

/* Both names of a need are in the table of features; each feature can be given to --cpu. */
static void needs(void **state)
{
    for (unsigned i = 0; i < cpuid_need_count; i++) {
        unsigned found = 0;
        for (unsigned k = 0; k < cpuid_feature_count; k++)
            found += (strcmp(cpuid_features[k].name, cpuid_needs[i].feature) == 0) +
                     (strcmp(cpuid_features[k].name, cpuid_needs[i].on) == 0);
        if (found != 2)
            fail_msg("%s needs %s", cpuid_needs[i].feature, cpuid_needs[i].on);
    }
    for (unsigned i = 0; i < cpuid_feature_count; i++)
        if (strpbrk(cpuid_features[i].name, " ,") != NULL)
            fail_msg("'%s' cannot be given to --cpu", cpuid_features[i].name);
}

/* Without the feature its MSRs raise #GP(0); TSC_AUX has two. */
static void msrs(void **state)
{
    static const struct {
        uint32_t index;
        const char *with, *without;
    } cases[] = {
        {MSR_TSC_ADJUST, "max", "max,-TSC_ADJUST"},
        {MSR_PAT, "max", "max,-PAT"},
        {0x48, "max,vendor=intel", "max,vendor=intel,-IBRS/IBPB"},
        {0x48, "max,vendor=amd", "max,-ibrs,vendor=amd"},
        {0x10a, "max,vendor=intel", "max,vendor=intel,-ARCH_CAPABILITIES"},
        {MSR_SYSENTER_EIP, "max", "max,-SEP"},
        {MSR_MTRR_DEF_TYPE, "max", "max,-MTRR"},
        {0x179, "max", "max,-MCA"},
        {MSR_TSC_AUX, "max", "max,-RDTSCP,-RDPID"},
    };
    struct x86_fixture *f = x86_fixture_create();
    uint64_t value;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        x86_fixture_model(f, cases[i].with);
        assert_true(msr_read(&f->v, cases[i].index, &value));
        x86_fixture_model(f, cases[i].without);
        assert_false(msr_read(&f->v, cases[i].index, &value));
        assert_false(msr_write(&f->v, cases[i].index, value));
    }
    x86_fixture_model(f, "max,-RDTSCP");
    assert_true(msr_read(&f->v, MSR_TSC_AUX, &value));
    x86_fixture_destroy(f);
}

static void check_features(struct x86_fixture *f)
{
    static const struct {
        uint32_t leaf, subleaf;
        unsigned reg;
        uint32_t other; /* bits that are no feature of the table */
    } words[] = {{1, 0, 2, 0},          {1, 0, 3, 1u << 28},   {7, 0, 1, 0},
                 {7, 0, 2, 0},          {7, 0, 3, 0},          {7, 1, 0, 0},
                 {0xd, 1, 0, 0},        {0x80000001, 0, 2, 0}, {0x80000001, 0, 3, 0x0183f3ff},
                 {0x80000007, 0, 3, 0}, {0x80000008, 0, 1, 0}, {0x40000001, 0, 0, 0}};
    for (unsigned w = 0; w < sizeof(words) / sizeof(words[0]); w++) {
        uint32_t left = execute(f, words[w].leaf, words[w].subleaf).r[words[w].reg];
        struct regs host = {{0}};
        __get_cpuid_count(words[w].leaf, words[w].subleaf, &host.r[0], &host.r[1], &host.r[2],
                          &host.r[3]);
        for (unsigned i = 0; i < cpuid_feature_count; i++) {
            const struct cpuid_feature *c = &cpuid_features[i];
            uint32_t bit = 1u << c->bit;
            if (c->leaf != words[w].leaf || c->subleaf != words[w].subleaf ||
                c->reg != words[w].reg || !(left & bit))
                continue;
            if (c->kind == FEATURE_HOST && !(host.r[c->reg] & bit))
                fail_msg("%s is offered, but not the host's", c->name);
            left &= ~bit;
        }
        assert_int_equal(left & ~words[w].other, 0);
    }
}

/* Every feature offered is in the table; a host feature is one of the host's. */
static void features_are_of_the_table(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    check_features(f);
    x86_fixture_model(f, "max,vendor=amd");
    check_features(f);
    x86_fixture_destroy(f);
}

/* House decision 18, by bit number. */
static void masked_and_offered(void **state)
{
    static const struct {
        uint32_t leaf;
        uint8_t reg, bit;
        bool offered;
    } bits[] = {
        {1, 2, 3, false},          /* MONITOR */
        {1, 2, 5, false},          /* VMX */
        {7, 1, 2, false},          /* SGX */
        {7, 1, 4, false},          /* HLE */
        {7, 1, 11, false},         /* RTM */
        {7, 1, 14, false},         /* MPX */
        {7, 2, 3, false},          /* PKU */
        {7, 2, 5, false},          /* WAITPKG */
        {7, 2, 7, false},          /* CET_SS */
        {7, 3, 5, false},          /* UINTR */
        {7, 3, 18, false},         /* PCONFIG */
        {7, 3, 20, false},         /* CET_IBT */
        {7, 3, 24, false},         /* AMX-TILE */
        {0x80000001, 2, 2, false}, /* SVM */
        {0x80000008, 1, 3, false}, /* INVLPGB */
        {0x80000008, 1, 4, false}, /* RDPRU */
        {1, 2, 17, true},          /* PCID */
        {1, 2, 21, true},          /* x2APIC */
        {1, 2, 24, true},          /* TSC-deadline */
        {1, 2, 31, true},          /* hypervisor */
        {6, 0, 2, true},           /* ARAT */
        {7, 1, 0, true},           /* FSGSBASE */
        {7, 1, 7, true},           /* SMEP */
        {7, 1, 10, true},          /* INVPCID */
        {7, 1, 20, true},          /* SMAP */
        {7, 2, 2, true},           /* UMIP */
        {7, 2, 16, true},          /* LA57 */
        {0x80000001, 3, 20, true}, /* NX */
        {0x80000001, 3, 26, true}, /* 1 GiB pages */
        {0x80000001, 3, 27, true}, /* RDTSCP */
    };
    struct x86_fixture *f = x86_fixture_create();
    for (unsigned i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        if (cpuid_has(&f->cpuid, bits[i].leaf, 0, bits[i].reg, bits[i].bit) != bits[i].offered)
            fail_msg("leaf %#x register %u bit %u", bits[i].leaf, bits[i].reg, bits[i].bit);
    assert_int_equal(execute(f, 0xd, 1).r[0] & 8, 0); /* XSAVES */
    x86_fixture_destroy(f);
}

static void check_base(const char *spec)
{
    struct cpuid_model m;
    struct error e = {0};
    int err = cpuid_model_build(&m, spec, 1000000000, 1, &e);
    if (err == -ENOTSUP) {
        assert_non_null(strstr(e.text, "base"));
        return;
    }
    assert_int_equal(err, 0);
    static const uint8_t v3_leaf1_ecx[] = {0, 9, 12, 13, 19, 20, 22, 23, 26, 28, 29};
    for (unsigned i = 0; i < sizeof(v3_leaf1_ecx); i++)
        assert_true(cpuid_has(&m, 1, 0, 2, v3_leaf1_ecx[i]));
    assert_true(cpuid_has(&m, 7, 0, 1, 3) && cpuid_has(&m, 7, 0, 1, 5) &&
                cpuid_has(&m, 7, 0, 1, 8));
    assert_false(cpuid_has(&m, 1, 0, 2, 25)); /* AES */
    assert_false(cpuid_has(&m, 1, 0, 2, 30)); /* RDRAND */
    assert_false(cpuid_has(&m, 7, 0, 1, 16)); /* AVX512F */
    assert_false(cpuid_has(&m, 7, 0, 1, 19)); /* ADX */
    assert_int_equal(m.xcr0_supported, XCR0_X87 | XCR0_SSE | XCR0_AVX);
    assert_int_equal(m.xsave_size, 832);
}

static void base_is_x86_64_v3(void **state)
{
    check_base("base");
    check_base("base,vendor=intel");
    check_base("base,vendor=amd");
}

static void xsave_sizes(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    uint32_t offset = 0, size = 0;
    assert_int_equal(execute(f, 0xd, 0).r[0], f->cpuid.xcr0_supported);
    assert_int_equal(execute(f, 0xd, 0).r[2], f->cpuid.xsave_size);
    f->v.xcr0 = XCR0_X87;
    assert_int_equal(execute(f, 0xd, 0).r[1], 576);
    f->v.xcr0 = f->cpuid.xcr0_supported;
    assert_int_equal(execute(f, 0xd, 0).r[1], f->cpuid.xsave_size);
    uint32_t compact = 576;
    for (unsigned i = 2; i < 64; i++) {
        struct regs r = execute(f, 0xd, i), host;
        if (!((f->cpuid.xcr0_supported >> i) & 1)) {
            assert_int_equal(r.r[0] | r.r[1] | r.r[2] | r.r[3], 0);
            continue;
        }
        __cpuid_count(0xd, i, host.r[0], host.r[1], host.r[2], host.r[3]);
        assert_int_equal(r.r[0], host.r[0]);
        assert_int_equal(r.r[1], host.r[1]);
        assert_true(r.r[1] >= offset + size);
        offset = r.r[1];
        size = r.r[0];
        compact = ((r.r[2] & 2) ? (compact + 63) & ~63u : compact) + size;
    }
    assert_int_equal(execute(f, 0xd, 1).r[1], compact);
    x86_fixture_destroy(f);
}

static void what_the_vcpu_changes(void **state)
{
    struct x86_fixture *f = x86_fixture_create();
    f->v.id = 5;
    assert_int_equal(execute(f, 1, 0).r[1] >> 24, 5);
    assert_int_equal(execute(f, 0xb, 0).r[3], 5);
    assert_int_equal(execute(f, 0xb, 7).r[2], 7);
    assert_int_equal(execute(f, 1, 0).r[2] & bit_OSXSAVE, 0);
    f->v.cr4 |= CR4_OSXSAVE;
    assert_true(execute(f, 1, 0).r[2] & bit_OSXSAVE);
    /* The platform's width is taken from the model, not the other way round. */
    assert_int_equal(execute(f, 0x80000008, 0).r[0] >> 8, 57);
    x86_fixture_destroy(f);
}

static void out_of_range(void **state)
{
    static const uint32_t beyond[] = {0xe, 0x15, 0x3fffffff, 0x80000022, 0x8fffffff, 0xffffffff};
    struct x86_fixture *f = x86_fixture_create();
    for (int amd = 0; amd < 2; amd++) {
        if (amd)
            x86_fixture_model(f, "max,vendor=amd");
        struct regs top = execute(f, f->cpuid.max_basic, 0), none = {{0}};
        for (unsigned i = 0; i < sizeof(beyond) / sizeof(beyond[0]); i++) {
            struct regs r = execute(f, beyond[i], 0);
            assert_memory_equal(&r, amd ? &none : &top, sizeof(r));
        }
        struct regs r = execute(f, 0x40000011, 0);
        assert_memory_equal(&r, &none, sizeof(r));
    }
    struct regs kvm = execute(f, 0x40000000, 0);
    assert_memory_equal(&kvm.r[1], "KVMKVMKVM\0\0\0", 12);
    assert_int_equal(kvm.r[0], 0x40000010);
    assert_int_equal(execute(f, 0x40000010, 0).r[0], 1000000);
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(intel),
        cmocka_unit_test(amd),
        cmocka_unit_test(host_vendor),
        cmocka_unit_test(without),
        cmocka_unit_test(needs),
        cmocka_unit_test(msrs),
        cmocka_unit_test(features_are_of_the_table),
        cmocka_unit_test(masked_and_offered),
        cmocka_unit_test(base_is_x86_64_v3),
        cmocka_unit_test(xsave_sizes),
        cmocka_unit_test(what_the_vcpu_changes),
        cmocka_unit_test(out_of_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
