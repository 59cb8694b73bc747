/* SPDX-License-Identifier: MIT */
/* See processor.h. Probed where that needs no fault, else by the vendor: seen on Cascade Lake, Zen
 * 3 and Zen 4. */
#include "engine/host/processor.h"

#include <cpuid.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "engine/host/alu.h"

#define FXSAVE_BYTES 512u
#define FXSAVE_FIP   8u
#define ZEN_3_AND_4  0x19u /* family */

struct host_processor host_processor;

/* FLD1 sets FIP. A processor that shows it always does, whatever the kernel runs meanwhile. */
static bool find_saved_pointers(void)
{
    _Alignas(16) uint8_t image[FXSAVE_BYTES] = {0};
    uint64_t fip;
    __asm__ volatile("fninit\n\tfld1\n\tfxsave64 %0\n\tfninit"
                     : "+m"(image)
                     :
                     : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    memcpy(&fip, image + FXSAVE_FIP, sizeof fip);
    return fip != 0;
}

typedef uint64_t (*binary)(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size);

static uint64_t multiply(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size)
{
    return alu_imul(rflags, a, b, size);
}

static uint64_t scan(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size)
{
    return alu_bsf(rflags, a, b, size);
}

static uint64_t count(uint64_t *rflags, uint64_t a, uint64_t b, unsigned size)
{
    return alu_tzcnt(rflags, a, b, size);
}

static bool keeps_flags(binary f)
{
    uint64_t clear = 0, set = FLAGS_ARITHMETIC;
    f(&clear, 3, 5, sizeof(uint64_t));
    f(&set, 3, 5, sizeof(uint64_t));
    return clear != set;
}

static bool is_amd(void)
{
    unsigned max, vendor[3];
    __cpuid(0, max, vendor[0], vendor[2], vendor[1]);
    return memcmp(vendor, "AuthenticAMD", sizeof vendor) == 0 ||
           memcmp(vendor, "HygonGenuine", sizeof vendor) == 0;
}

/* By family and model, as Linux's bsp_init_amd tells them apart: hypervisors hide the CPUID bits
 * of the strings and may hide AVX-512. Families 17h and 18h are Zen 1 and 2. */
static bool since_zen4(void)
{
    unsigned eax, ebx, ecx, edx;
    __cpuid(1, eax, ebx, ecx, edx);
    unsigned family = (eax >> 8 & 0xf) + (eax >> 20 & 0xff);
    unsigned model = (eax >> 4 & 0xf) | (eax >> 12 & 0xf0);
    if (family != ZEN_3_AND_4)
        return family > ZEN_3_AND_4;
    return (model >= 0x10 && model <= 0x1f) || (model >= 0x60 && model <= 0xaf);
}

static void find(void)
{
    struct host_processor *p = &host_processor;
    bool amd = is_amd();
    p->saves_pointers = find_saved_pointers();
    p->stores_fault_first = amd;
    p->parts_in_order = amd;
    p->aligns_vectors = amd;
    p->gathers_unaligned = amd;
    p->sha_unaligned = amd;
    p->gathers_in_order = amd;
    p->repeats_show_flags = amd;
    p->cmpsb_source_first = amd && since_zen4();
    p->multiply_keeps_flags = keeps_flags(multiply);
    p->scan_keeps_flags = keeps_flags(scan);
    p->count_keeps_flags = keeps_flags(count);
    p->whole_selectors = amd;
    p->movsxd_reads_32 = amd;
    p->bound_reads_both = amd;
    p->bcd_flags_of_sum = amd;
    p->xsave_touches_legacy = amd;
    p->maskmov_upwards = amd;
    p->xrstor_reads_loaded = amd;
    p->upper_registers_in_use = amd;
    p->alignment_first = amd;
    p->refuses_state_63 = amd;
    p->avx = __builtin_cpu_supports("avx");
    p->avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

void host_processor_find(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find);
}
