/* SPDX-License-Identifier: MIT */
/* The CPUID model (decision 18): what the guest is told, composed from a table. User-mode features
 * = host and decoder and tested; system features = what the software implements; vendor = the
 * host's, or what the user says. */
#ifndef DOPPEL_X86_CPUID_H
#define DOPPEL_X86_CPUID_H

#include "x86/vcpu.h"

struct cpuid_entry {
    uint32_t leaf, subleaf;
    bool indexed; /* subleaf matters */
    uint32_t eax, ebx, ecx, edx;
};

#define CPUID_ENTRIES_MAX 128
struct cpuid_model {
    struct cpuid_entry entries[CPUID_ENTRIES_MAX];
    unsigned count;
    uint64_t xcr0_supported;
    uint32_t xsave_size; /* of all supported components */
    uint32_t tsc_khz;
    bool amd; /* vendor AMD or Hygon, else treated as Intel; asked for by cpuid_is_amd */
    uint32_t max_basic, max_extended;
};

/* The models, for --help; ends with a NULL name. */
struct cpuid_model_name {
    const char *name, *summary;
};
extern const struct cpuid_model_name cpuid_model_names[];
extern const char *const cpuid_vendor_names[]; /* for vendor=; ends with NULL */

/* What IA32_ARCH_CAPABILITIES says (SDM 4): the immunity bits of decision 20. */
#define CPUID_ARCH_CAPABILITIES                                                                \
    (1ull << 0 /* RDCL_NO */ | 1ull << 1 /* IBRS_ALL */ | 1ull << 3 /* SKIP_L1DFL_VMENTRY */ | \
     1ull << 4 /* SSB_NO */ | 1ull << 5 /* MDS_NO */ | 1ull << 6 /* IF_PSCHANGE_MC_NO */ |     \
     1ull << 8 /* TAA_NO */ | 1ull << 13 /* SBDR_SSDP_NO */ | 1ull << 14 /* FBSDP_NO */ |      \
     1ull << 15 /* PSDP_NO */ | 1ull << 20 /* BHI_NO */ | 1ull << 24 /* PBRSB_NO */ |          \
     1ull << 26 /* GDS_NO */ | 1ull << 27 /* RFDS_NO */ | 1ull << 62 /* ITS_NO */)

/* spec: "max" (all that host and software have) or "base" (x86-64-v3), then in any order
 *   ",vendor=intel" or ",vendor=amd", at most once: whose manual decides where the two differ.
 *        Without it the host's;
 *   ",-FEATURE" by the names of the table; what stands on such a feature goes with it.
 * Both are read in either case. -EINVAL names the word that is unknown. */
int cpuid_spec_check(const char *spec, struct error *e);

/* -EINVAL as above; -ENOTSUP names what a model needs and the host lacks. */
int cpuid_model_build(struct cpuid_model *m, const char *spec, uint64_t tsc_hz, unsigned cpus,
                      struct error *e);

/* CPUID as executed by v: with APIC ID, OSXSAVE, XSAVE size by XCR0, out-of-range leaf rules. */
void cpuid_execute(const struct vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t regs[4]);

/* One feature bit of the model: cpuid_has(m, 7, 0, 1, 5) = leaf 7.0 EBX bit 5 (register 0…3). */
bool cpuid_has(const struct cpuid_model *m, uint32_t leaf, uint32_t subleaf, unsigned reg,
               unsigned bit);

/* Where the manuals differ: AMD's or Hygon's processor, else as Intel's. */
static inline bool cpuid_is_amd(const struct vcpu *v)
{
    return v->platform->cpuid->amd;
}

/* One row of the table of features (x86/features.c) that the model is composed from. */
enum cpuid_feature_kind {
    FEATURE_HOST,     /* runs on the host processor: offered when the host has it */
    FEATURE_SOFTWARE, /* done by doppel on every host */
};
enum cpuid_feature_vendor { FEATURE_ANY, FEATURE_INTEL, FEATURE_AMD };
struct cpuid_feature {
    const char *name; /* the manual's */
    uint32_t leaf;
    uint8_t subleaf, reg, bit; /* reg: 0…3 = EAX, EBX, ECX, EDX */
    uint8_t kind;              /* enum cpuid_feature_kind */
    bool base;                 /* of the model "base" */
    uint8_t vendor;            /* enum cpuid_feature_vendor: whose processors have the bit */
};
extern const struct cpuid_feature cpuid_features[];
extern const unsigned cpuid_feature_count;

struct cpuid_need {
    const char *feature, *on;
};
extern const struct cpuid_need cpuid_needs[];
extern const unsigned cpuid_need_count;

#endif
