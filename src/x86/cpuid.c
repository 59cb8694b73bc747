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
#define LEAF_AMD_MAX        0x80000021u
#define LEAF_AMD_CACHES     0x8000001du
#define LEAF_AMD_TOPOLOGY   0x8000001eu
#define LEAF_HYPERVISOR     0x40000000u
#define LEAF_HYPERVISOR_MAX 0x40000010u
#define LINEAR_BITS         57u
#define CACHE_LINE          64u
#define XSAVE_LEGACY        576u /* legacy region and header (SDM 1 13.4) */
#define FREQUENCY_BUS_KHZ   1000000u

const struct cpuid_model_name cpuid_model_names[] = {
    {"max", "all that the host and doppel can do"},
    {"base", "x86-64-v3: the same on every host"},
    {NULL, NULL},
};

/* ORDER cpuid_vendor_names. Signatures of "base": Haswell, the first with all of x86-64-v3, and Zen
 * 3, for Linux works around faults of the earlier ones at each return to user mode. Of "max" on a
 * host of the other vendor: Cascade Lake and Zen 3, whose features are about those of doppel. */
static const struct vendor {
    char id[13];
    uint32_t base, max;
} vendors[] = {
    {"GenuineIntel", 0x000306c1, 0x00050657},
    {"AuthenticAMD", 0x00a00f11, 0x00a00f11},
};
const char *const cpuid_vendor_names[] = {"intel", "amd", NULL};

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
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == LEAF_AMD_CACHES;
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
        word++;
        if (*word == '-' && word_is(word + 1, strcspn(word + 1, ","), name))
            return true;
    }
    return false;
}

/* The name that vendor=NAME gives, or NULL for another word. */
static const char *vendor_word(const char *word)
{
    static const char key[] = "vendor=";
    return strncasecmp(word, key, strlen(key)) == 0 ? word + strlen(key) : NULL;
}

static const struct vendor *vendor_named(const char *name)
{
    for (unsigned i = 0; cpuid_vendor_names[i] != NULL; i++)
        if (word_is(name, strcspn(name, ","), cpuid_vendor_names[i]))
            return &vendors[i];
    return NULL;
}

/* NULL = the host's. */
static const struct vendor *spec_vendor(const char *spec)
{
    for (const char *word = strchr(spec, ','); word != NULL; word = strchr(word, ',')) {
        word++;
        if (vendor_word(word) != NULL)
            return vendor_named(vendor_word(word));
    }
    return NULL;
}

static int check_word(const char *word, bool *vendor_given, struct error *e)
{
    int length = (int)strcspn(word, ",");
    const char *vendor = vendor_word(word);
    if (vendor != NULL) {
        if (vendor_named(vendor) == NULL)
            return error_set(e, EINVAL, "unknown vendor '%.*s'; give intel or amd",
                             length - (int)(vendor - word), vendor);
        if (*vendor_given)
            return error_set(e, EINVAL, "vendor= is given twice; give it once");
        *vendor_given = true;
        return 0;
    }
    if (*word != '-')
        return error_set(e, EINVAL,
                         "'%.*s' is neither -FEATURE nor vendor=; give for example -x2APIC", length,
                         word);
    if (feature_named(word + 1, (size_t)length - 1) == NULL)
        return error_set(e, EINVAL, "no CPU model has the feature '%.*s'; see doppel --man",
                         length - 1, word + 1);
    return 0;
}

int cpuid_spec_check(const char *spec, struct error *e)
{
    size_t length = strcspn(spec, ",");
    bool vendor_given = false;
    unsigned i = 0;
    while (cpuid_model_names[i].name != NULL &&
           (strncmp(spec, cpuid_model_names[i].name, length) != 0 ||
            cpuid_model_names[i].name[length] != '\0'))
        i++;
    if (cpuid_model_names[i].name == NULL)
        return error_set(e, EINVAL, "unknown CPU model '%.*s'; give max or base", (int)length,
                         spec);
    for (const char *word = spec + length; *word != '\0'; word += strcspn(word, ",")) {
        word++;
        int err = check_word(word, &vendor_given, e);
        if (err != 0)
            return err;
    }
    return 0;
}

static int add_features(struct cpuid_model *m, const char *spec, bool base, struct error *e)
{
    uint64_t state = host_xcr0();
    for (unsigned i = 0; i < cpuid_feature_count; i++) {
        const struct cpuid_feature *f = &cpuid_features[i];
        if ((base && !f->base) || f->vendor == (m->amd ? FEATURE_INTEL : FEATURE_AMD) ||
            taken_away(spec, f->name))
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

/* On AMD processors leaf 0x80000001 repeats the signature and much of EDX (volume 3, E.4.2). */
static void add_amd_mirror(struct cpuid_model *m)
{
    if (!m->amd)
        return;
    const struct cpuid_entry *basic = entry_of(m, 1, 0, false);
    struct cpuid_entry *e = entry_of(m, 0x80000001, 0, false);
    e->eax = basic->eax;
    e->edx |= basic->edx & 0x0183f3ff;
}

/* Of the base model 46, as x86-64-v3 processors of either vendor have at least. */
static uint32_t physical_bits(bool base)
{
    if (base || host_cpuid(0x80000000, 0).eax < 0x80000008)
        return 46;
    return host_cpuid(0x80000008, 0).eax & 0xff;
}

/* Leaf 0, and the signature of leaf 1. vendor: NULL = the host's. */
static void add_vendor(struct cpuid_model *m, bool base, const struct vendor *vendor)
{
    struct cpuid_entry host = host_cpuid(0, 0);
    struct cpuid_entry *e = entry_of(m, 0, 0, false);
    *e = host;
    if (vendor != NULL) {
        memcpy(&e->ebx, vendor->id, 4);
        memcpy(&e->edx, vendor->id + 4, 4);
        memcpy(&e->ecx, vendor->id + 8, 4);
    }
    e->eax = m->max_basic = LEAF_MAX;
    m->amd = e->ebx == signature_AMD_ebx || e->ebx == 0x6f677948 /* "Hygo" */;

    const struct vendor *model = &vendors[m->amd];
    struct cpuid_entry *signature = entry_of(m, 1, 0, false);
    if (base)
        signature->eax = model->base;
    else
        signature->eax = e->ebx == host.ebx ? host_cpuid(1, 0).eax : model->max;
}

static void add_identity(struct cpuid_model *m, bool base, const struct vendor *vendor,
                         unsigned cpus)
{
    add_vendor(m, base, vendor);
    struct cpuid_entry *e = entry_of(m, 1, 0, false);
    e->ebx = cpus << 16 | (CACHE_LINE / 8) << 8;
    if (cpus > 1)
        e->edx |= 1u << 28; /* HTT: the count in EBX is valid */

    m->max_extended = m->amd ? LEAF_AMD_MAX : LEAF_EXTENDED_MAX;
    e = entry_of(m, 0x80000000, 0, false);
    if (m->amd)
        *e = *find(m, 0, 0);
    e->leaf = 0x80000000;
    e->eax = m->max_extended;
    e = entry_of(m, 0x80000008, 0, false);
    e->eax = LINEAR_BITS << 8 | physical_bits(base);
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

/* Caches that no guest can measure: the same on all hosts. Leaf 4, and AMD's that is made alike
 * (volume 3, E.4.15). type 1 data, 2 code, 3 unified. */
static void add_cache_leaves(struct cpuid_model *m, uint32_t leaf, unsigned cpus)
{
    static const struct {
        uint8_t type, level, ways;
        uint16_t sets;
        bool shared;
    } caches[] = {{1, 1, 8, 64, false},
                  {2, 1, 8, 64, false},
                  {3, 2, 16, 1024, false},
                  {3, 3, 16, 8192, true}};
    for (unsigned i = 0; i < sizeof(caches) / sizeof(caches[0]); i++) {
        struct cpuid_entry *e = entry_of(m, leaf, i, true);
        unsigned sharing = caches[i].shared ? cpus : 1;
        e->eax = (sharing - 1) << 14 | 1u << 8 /* self-initializing */ |
                 (uint32_t)caches[i].level << 5 | caches[i].type;
        if (leaf == 4)
            e->eax |= (cpus - 1) << 26;
        e->ebx = (uint32_t)(caches[i].ways - 1) << 22 | (CACHE_LINE - 1);
        e->ecx = caches[i].sets - 1;
    }
}

static bool topology_extensions(const struct cpuid_model *m)
{
    return cpuid_has(m, 0x80000001, 0, 2, 22);
}

static void add_caches(struct cpuid_model *m, unsigned cpus)
{
    if (m->amd) {
        entry_of(m, 0x80000005, 0, false)->ecx = 32u << 24 | 8u << 16 | 1u << 8 | CACHE_LINE;
        entry_of(m, 0x80000005, 0, false)->edx = 32u << 24 | 8u << 16 | 1u << 8 | CACHE_LINE;
        entry_of(m, 0x80000006, 0, false)->edx = 16u << 18 | 8u << 12 | 1u << 8 | CACHE_LINE;
        if (topology_extensions(m))
            add_cache_leaves(m, LEAF_AMD_CACHES, cpus);
    } else {
        entry_of(m, 2, 0, false)->eax = 0x00f0ff01; /* caches: see leaf 4; prefetch of 64 bytes */
        add_cache_leaves(m, 4, cpus);
    }
    entry_of(m, 0x80000006, 0, false)->ecx = 1024u << 16 | 8u << 12 | CACHE_LINE;
}

/* One thread a core, all cores in one package: leaf 0xb, and AMD's ways to say so (volume 3, E.5).
 * The APIC ID is put in when executed. */
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
    if (!m->amd)
        return;
    entry_of(m, 0x80000008, 0, false)->ecx = shift << 12 | (cpus - 1);
    if (cpus > 1)
        entry_of(m, 0x80000001, 0, false)->ecx |= 1u << 1; /* CmpLegacy: HTT's count is of cores */
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
    add_identity(m, base, spec_vendor(spec), cpus);
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
    case LEAF_AMD_TOPOLOGY: /* one thread a core, one node (volume 3, E.4.16) */
        if (topology_extensions(m)) {
            regs[0] = v->id;
            regs[1] = v->id & 0xff;
        }
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
