/* SPDX-License-Identifier: MIT */
/*
 * Composition of the CPUID model from the table in features.c, and CPUID as a vCPU executes it
 * (SDM 2A CPUID, AMD manual volume 3 appendix E). The model is built at wiring time and only read
 * afterwards. The guest controls leaf and subleaf.
 */
#include "x86/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define LEAF_MAX            0xdu /* 0x15 would offer a crystal that the local APIC does not have */
#define LEAF_EXTENDED_MAX   0x80000008u
#define LEAF_HYPERVISOR     0x40000000u
#define LEAF_HYPERVISOR_MAX 0x40000010u
#define LINEAR_BITS         57u
#define CACHE_LINE          64u
#define XSAVE_LEGACY        576u /* legacy region and header (SDM 1 13.4) */
#define FREQUENCY_BUS_KHZ   1000000u

/* Signatures of "base": Haswell, and Zen for AMD: the first with all of x86-64-v3. */
#define SIGNATURE_BASE_INTEL 0x000306c1u
#define SIGNATURE_BASE_AMD   0x00800f12u

const struct cpuid_model_name cpuid_model_names[] = {
    {"max", "all that the host and doppel can do"},
    {"base", "x86-64-v3: the same on every host"},
    {NULL, NULL},
};

static struct cpuid_entry host_cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid_entry e = {.leaf = leaf, .subleaf = subleaf};
    /* Out of range the processor may repeat its highest leaf: bits of another meaning. */
    if (leaf <= (uint32_t)__get_cpuid_max(leaf & 0x80000000u, NULL))
        __cpuid_count(leaf, subleaf, e.eax, e.ebx, e.ecx, e.edx);
    return e;
}

static const uint32_t *entry_reg(const struct cpuid_entry *e, unsigned reg)
{
    const uint32_t *const regs[4] = {&e->eax, &e->ebx, &e->ecx, &e->edx};
    return regs[reg & 3];
}

static const struct cpuid_entry *find(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf)
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct cpuid_entry *e = &m->entries[i];
        if (e->leaf == leaf && (!e->indexed || e->subleaf == subleaf))
            return e;
    }
    return NULL;
}

/* The table of entries has room for all that this file adds: a fixed number. */
static struct cpuid_entry *entry_of(struct cpuid_model *m, uint32_t leaf, uint32_t subleaf,
                                    bool indexed)
{
    struct cpuid_entry *e = (struct cpuid_entry *)find(m, leaf, subleaf);
    if (e == NULL) {
        e = &m->entries[m->count++];
        *e = (struct cpuid_entry){.leaf = leaf, .subleaf = subleaf, .indexed = indexed};
    }
    return e;
}

static bool leaf_indexed(uint32_t leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd;
}

static bool host_has(const struct cpuid_feature *f)
{
    struct cpuid_entry e = host_cpuid(f->leaf, f->subleaf);
    return (*entry_reg(&e, f->reg) >> f->bit) & 1;
}

/* Vector features stand on the state that XCR0 lets the host's kernel switch. */
static uint64_t host_xcr0(void)
{
    struct cpuid_entry e = host_cpuid(1, 0);
    uint32_t low, high;
    if (!(e.ecx & bit_OSXSAVE))
        return XCR0_X87 | XCR0_SSE;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low & (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
}

/* The XCR0 bits a feature needs, by the family its name says. */
static uint64_t needs_state(const struct cpuid_feature *f)
{
    static const char *const avx[] = {"AVX", "FMA", "F16C", "VAES", "VPCLMULQDQ"};
    if (strncmp(f->name, "AVX512", 6) == 0)
        return XCR0_AVX512 | XCR0_AVX;
    for (unsigned i = 0; i < sizeof(avx) / sizeof(avx[0]); i++)
        if (strncmp(f->name, avx[i], strlen(avx[i])) == 0)
            return XCR0_AVX;
    return 0;
}

static bool word_is(const char *word, size_t length, const char *name)
{
    return strncasecmp(word, name, length) == 0 && name[length] == '\0';
}

static const struct cpuid_feature *feature_named(const char *name, size_t length)
{
    for (unsigned i = 0; i < cpuid_feature_count; i++)
        if (word_is(name, length, cpuid_features[i].name))
            return &cpuid_features[i];
    return NULL;
}

static bool taken_away(const char *spec, const char *name)
{
    for (const char *word = strchr(spec, ','); word != NULL; word = strchr(word, ',')) {
        word += 2; /* ",-", as cpuid_spec_check has seen */
        if (word_is(word, strcspn(word, ","), name))
            return true;
    }
    return false;
}

int cpuid_spec_check(const char *spec, struct error *e)
{
    size_t length = strcspn(spec, ",");
    unsigned i = 0;
    while (cpuid_model_names[i].name != NULL &&
           (strncmp(spec, cpuid_model_names[i].name, length) != 0 ||
            cpuid_model_names[i].name[length] != '\0'))
        i++;
    if (cpuid_model_names[i].name == NULL)
        return error_set(e, EINVAL, "unknown CPU model '%.*s'; give max or base", (int)length,
                         spec);
    for (const char *word = spec + length; *word != '\0'; word += length) {
        word++;
        length = strcspn(word, ",");
        if (*word != '-')
            return error_set(e, EINVAL, "'%.*s' is not -FEATURE; give for example -x2APIC",
                             (int)length, word);
        if (feature_named(word + 1, length - 1) == NULL)
            return error_set(e, EINVAL, "no CPU model has the feature '%.*s'; see doppel --man",
                             (int)length - 1, word + 1);
    }
    return 0;
}

static int add_features(struct cpuid_model *m, const char *spec, bool base, struct error *e)
{
    uint64_t state = host_xcr0();
    for (unsigned i = 0; i < cpuid_feature_count; i++) {
        const struct cpuid_feature *f = &cpuid_features[i];
        if ((base && !f->base) || taken_away(spec, f->name))
            continue;
        if (f->kind == FEATURE_HOST &&
            (!host_has(f) || (needs_state(f) & state) != needs_state(f))) {
            if (base)
                return error_set(e, ENOTSUP,
                                 "CPU model 'base' needs %s, which this host does not have; use "
                                 "--cpu max",
                                 f->name);
            continue;
        }
        struct cpuid_entry *entry = entry_of(m, f->leaf, f->subleaf, leaf_indexed(f->leaf));
        *(uint32_t *)entry_reg(entry, f->reg) |= (uint32_t)1 << f->bit;
    }
    return 0;
}

static bool model_has(const struct cpuid_model *m, const struct cpuid_feature *f)
{
    return cpuid_has(m, f->leaf, f->subleaf, f->reg, f->bit);
}

static void drop_needy(struct cpuid_model *m)
{
    bool again = true;
    while (again) {
        again = false;
        for (unsigned i = 0; i < cpuid_need_count; i++) {
            const char *name = cpuid_needs[i].feature, *on = cpuid_needs[i].on;
            const struct cpuid_feature *f = feature_named(name, strlen(name));
            if (!model_has(m, f) || model_has(m, feature_named(on, strlen(on))))
                continue;
            struct cpuid_entry *entry = entry_of(m, f->leaf, f->subleaf, leaf_indexed(f->leaf));
            *(uint32_t *)entry_reg(entry, f->reg) &= ~((uint32_t)1 << f->bit);
            again = true;
        }
    }
}

/* On AMD processors leaf 0x80000001 EDX repeats leaf 1 EDX (volume 3, E.4.2). */
static void add_amd_mirror(struct cpuid_model *m)
{
    if (m->amd)
        entry_of(m, 0x80000001, 0, false)->edx |= entry_of(m, 1, 0, false)->edx & 0x0183f3ff;
}

/* Of the base model 46, as x86-64-v3 processors of either vendor have at least. */
static uint32_t physical_bits(bool base)
{
    if (base || host_cpuid(0x80000000, 0).eax < 0x80000008)
        return 46;
    return host_cpuid(0x80000008, 0).eax & 0xff;
}

static void add_identity(struct cpuid_model *m, bool base, unsigned cpus)
{
    struct cpuid_entry host = host_cpuid(0, 0);
    struct cpuid_entry *e = entry_of(m, 0, 0, false);
    *e = host;
    e->eax = m->max_basic = LEAF_MAX;
    m->amd = host.ebx == signature_AMD_ebx || host.ebx == 0x6f677948 /* "Hygo" */;

    e = entry_of(m, 1, 0, false);
    e->eax = base ? (m->amd ? SIGNATURE_BASE_AMD : SIGNATURE_BASE_INTEL) : host_cpuid(1, 0).eax;
    e->ebx = cpus << 16 | (CACHE_LINE / 8) << 8;
    if (cpus > 1)
        e->edx |= 1u << 28; /* HTT: the count in EBX is valid */

    e = entry_of(m, 0x80000000, 0, false);
    *e = host;
    e->leaf = 0x80000000;
    e->eax = m->max_extended = LEAF_EXTENDED_MAX;
    if (!m->amd)
        e->ebx = e->ecx = e->edx = 0;
    e = entry_of(m, 0x80000008, 0, false);
    e->eax = LINEAR_BITS << 8 | physical_bits(base);
    if (m->amd)
        e->ecx = cpus - 1;
}

static void add_brand(struct cpuid_model *m, bool base)
{
    char text[49] = "doppel base (x86-64-v3)";
    char host[49] = "";
    for (uint32_t i = 0; i < 3; i++) {
        struct cpuid_entry h = host_cpuid(0x80000002 + i, 0);
        memcpy(host + 16 * i, &h.eax, 16);
    }
    if (!base)
        snprintf(text, sizeof(text), "doppel on %.38s", host + strspn(host, " "));
    for (uint32_t i = 0; i < 3; i++)
        memcpy(&entry_of(m, 0x80000002 + i, 0, false)->eax, text + 16 * i, 16);
}

/* Caches that no guest can measure: the same on all hosts. type 1 data, 2 code, 3 unified. */
static void add_caches(struct cpuid_model *m, unsigned cpus)
{
    static const struct {
        uint8_t type, level, ways;
        uint16_t sets;
        bool shared;
    } caches[] = {{1, 1, 8, 64, false},
                  {2, 1, 8, 64, false},
                  {3, 2, 16, 1024, false},
                  {3, 3, 16, 8192, true}};
    if (m->amd) {
        entry_of(m, 0x80000005, 0, false)->ecx = 32u << 24 | 8u << 16 | 1u << 8 | CACHE_LINE;
        entry_of(m, 0x80000005, 0, false)->edx = 32u << 24 | 8u << 16 | 1u << 8 | CACHE_LINE;
        entry_of(m, 0x80000006, 0, false)->edx = 16u << 18 | 8u << 12 | 1u << 8 | CACHE_LINE;
    } else {
        entry_of(m, 2, 0, false)->eax = 0x00f0ff01; /* caches: see leaf 4; prefetch of 64 bytes */
        for (unsigned i = 0; i < sizeof(caches) / sizeof(caches[0]); i++) {
            struct cpuid_entry *e = entry_of(m, 4, i, true);
            unsigned sharing = caches[i].shared ? cpus : 1;
            e->eax = (cpus - 1) << 26 | (sharing - 1) << 14 | 1u << 8 /* self-initializing */ |
                     (uint32_t)caches[i].level << 5 | caches[i].type;
            e->ebx = (uint32_t)(caches[i].ways - 1) << 22 | (CACHE_LINE - 1);
            e->ecx = caches[i].sets - 1;
        }
    }
    entry_of(m, 0x80000006, 0, false)->ecx = 1024u << 16 | 8u << 12 | CACHE_LINE;
}

/* Leaf 0xb: one thread a core, all cores in one package. The APIC ID is put in when executed. */
static void add_topology(struct cpuid_model *m, unsigned cpus)
{
    unsigned shift = 0;
    while (1u << shift < cpus)
        shift++;
    struct cpuid_entry *e = entry_of(m, 0xb, 0, true);
    e->ebx = 1;
    e->ecx = 1u << 8; /* SMT */
    e = entry_of(m, 0xb, 1, true);
    e->eax = shift;
    e->ebx = cpus;
    e->ecx = 2u << 8 | 1; /* core */
}

/* Leaf 0xd, with the host's layout of the standard format. */
static void add_xsave(struct cpuid_model *m)
{
    m->xcr0_supported = XCR0_X87 | XCR0_SSE;
    if (cpuid_has(m, 1, 0, 2, 28))
        m->xcr0_supported |= XCR0_AVX;
    if (cpuid_has(m, 7, 0, 1, 16))
        m->xcr0_supported |= XCR0_AVX512;
    m->xsave_size = XSAVE_LEGACY;
    if (!cpuid_has(m, 1, 0, 2, 26))
        return;
    for (unsigned i = 2; i < 63; i++) {
        if (!((m->xcr0_supported >> i) & 1))
            continue;
        struct cpuid_entry *e = entry_of(m, 0xd, i, true);
        struct cpuid_entry host = host_cpuid(0xd, i);
        e->eax = host.eax;
        e->ebx = host.ebx;
        e->ecx = host.ecx & 2; /* aligned to 64 bytes when compacted; user state */
        if (e->eax + e->ebx > m->xsave_size)
            m->xsave_size = e->eax + e->ebx;
    }
    struct cpuid_entry *e = entry_of(m, 0xd, 0, true);
    e->eax = (uint32_t)m->xcr0_supported;
    e->ecx = m->xsave_size;
}

static void add_hypervisor(struct cpuid_model *m)
{
    struct cpuid_entry *e = entry_of(m, LEAF_HYPERVISOR, 0, false);
    e->eax = LEAF_HYPERVISOR_MAX;
    memcpy(&e->ebx, "KVMK", 4);
    memcpy(&e->ecx, "VMKV", 4);
    memcpy(&e->edx, "M\0\0\0", 4);
    e = entry_of(m, LEAF_HYPERVISOR_MAX, 0, false);
    e->eax = m->tsc_khz;
    e->ebx = FREQUENCY_BUS_KHZ;
}

int cpuid_model_build(struct cpuid_model *m, const char *spec, uint64_t tsc_hz, unsigned cpus,
                      struct error *e)
{
    int err = cpuid_spec_check(spec, e);
    if (err != 0)
        return err;
    bool base = word_is(spec, strcspn(spec, ","), "base");
    *m = (struct cpuid_model){.tsc_khz = (uint32_t)(tsc_hz / 1000)};
    add_identity(m, base, cpus);
    err = add_features(m, spec, base, e);
    if (err != 0)
        return err;
    drop_needy(m);
    /* Subleaf 0 of leaf 7 names the highest. */
    if (find(m, 7, 1) != NULL)
        entry_of(m, 7, 0, true)->eax = 1;
    add_amd_mirror(m);
    add_brand(m, base);
    add_caches(m, cpus);
    add_topology(m, cpus);
    add_xsave(m);
    add_hypervisor(m);
    return 0;
}

bool cpuid_has(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf, unsigned reg,
               unsigned bit)
{
    const struct cpuid_entry *e = find(m, leaf, subleaf);
    return e != NULL && ((*entry_reg(e, reg) >> bit) & 1);
}

bool x86_canonical_register(const struct vcpu *v, uint64_t a)
{
    unsigned shift = cpuid_has(v->platform->cpuid, 7, 0, 2, 16) ? 7 : 16; /* LA57 */
    return (uint64_t)((int64_t)(a << shift) >> shift) == a;
}

/* Size of an XSAVE area with the components of mask (SDM 1 13.4.2 and 13.4.3). */
static uint32_t xsave_area(const struct cpuid_model *m, uint64_t mask, bool compact)
{
    uint32_t size = XSAVE_LEGACY;
    for (unsigned i = 2; i < 63; i++) {
        const struct cpuid_entry *e = (mask >> i) & 1 ? find(m, 0xd, i) : NULL;
        if (e == NULL)
            continue;
        if (!compact)
            size = e->ebx + e->eax > size ? e->ebx + e->eax : size;
        else
            size = ((e->ecx & 2) ? (size + 63) & ~63u : size) + e->eax;
    }
    return size;
}

/* Beyond the highest leaf Intel's processors answer with the highest basic one, AMD's with zero.
 * false = zero. */
static bool leaf_in_range(const struct cpuid_model *m, uint32_t *leaf)
{
    if (*leaf >> 28 == LEAF_HYPERVISOR >> 28)
        return *leaf <= LEAF_HYPERVISOR_MAX;
    if (*leaf <= m->max_basic || (*leaf >= 0x80000000 && *leaf <= m->max_extended))
        return true;
    *leaf = m->max_basic;
    return !m->amd;
}

/* SDM 3A 10.4.3: a disabled local APIC is as none. */
static bool apic_hidden(const struct vcpu *v)
{
    return v->irq != NULL && v->irq->apic_enabled != NULL && !v->irq->apic_enabled(v->irq_context);
}

/* What depends on the vCPU and its control registers. */
static void adjust(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    const struct cpuid_model *m = v->platform->cpuid;
    switch (leaf) {
    case 1:
        regs[1] |= (uint32_t)v->id << 24;
        if (apic_hidden(v))
            regs[3] &= ~(1u << 9);
        if (v->cr4 & CR4_OSXSAVE)
            regs[2] |= bit_OSXSAVE;
        break;
    case 0xb:
        regs[2] |= subleaf & 0xff;
        regs[3] = v->id;
        break;
    case 0xd:
        if (subleaf == 0)
            regs[1] = xsave_area(m, v->xcr0, false);
        else if (subleaf == 1 && (regs[0] & 2)) /* XSAVEC */
            regs[1] = xsave_area(m, v->xcr0, true);
        break;
    case 0x80000001: /* Intel's say SYSCALL in 64-bit mode only */
        if (!m->amd && !v->code64)
            regs[3] &= ~(1u << 11);
        break;
    }
}

void cpuid_execute(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t regs[4])
{
    const struct cpuid_model *m = v->platform->cpuid;
    memset(regs, 0, 4 * sizeof(regs[0]));
    if (!leaf_in_range(m, &leaf))
        return;
    const struct cpuid_entry *e = find(m, leaf, subleaf);
    if (e != NULL)
        for (unsigned i = 0; i < 4; i++)
            regs[i] = *entry_reg(e, i);
    adjust(v, leaf, subleaf, regs);
}
