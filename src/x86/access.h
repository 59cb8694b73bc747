/* SPDX-License-Identifier: MIT */
/* The fast path of guest loads and stores; see tlb.h. One host access of the guest's width
 * (decision 8), through volatile so that the compiler neither splits nor repeats it. */
#ifndef DOPPEL_X86_ACCESS_H
#define DOPPEL_X86_ACCESS_H

#include "x86/vcpu.h"

#define X86_LIKELY(x)   __builtin_expect(!!(x), 1)
#define X86_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Guest operands need not be aligned; the host processor does not mind. UBSan is told so. */
typedef uint16_t __attribute__((aligned(1), may_alias)) x86_u16;
typedef uint32_t __attribute__((aligned(1), may_alias)) x86_u32;
typedef uint64_t __attribute__((aligned(1), may_alias)) x86_u64;

static inline uint64_t host_load(const void *p, unsigned size)
{
    switch (size) {
    case 1:
        return *(const volatile uint8_t *)p;
    case 2:
        return *(const volatile x86_u16 *)p;
    case 4:
        return *(const volatile x86_u32 *)p;
    default:
        return *(const volatile x86_u64 *)p;
    }
}

static inline void host_store(void *p, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        *(volatile uint8_t *)p = (uint8_t)value;
        break;
    case 2:
        *(volatile x86_u16 *)p = (uint16_t)value;
        break;
    case 4:
        *(volatile x86_u32 *)p = (uint32_t)value;
        break;
    default:
        *(volatile x86_u64 *)p = value;
        break;
    }
}

static inline __attribute__((always_inline)) uint64_t
x86_load_reach(struct vcpu *v, enum tlb_reach reach, uint64_t linear, unsigned size)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);
    if (X86_LIKELY(e->read == tlb_tag(&v->tlb, linear) && (linear & 0xfff) <= 4096 - size))
        return host_load((const void *)(e->addend + linear), size);
    return tlb_load_slow(v, reach, linear, size);
}

static inline __attribute__((always_inline)) void x86_store_reach(struct vcpu *v,
                                                                  enum tlb_reach reach,
                                                                  uint64_t linear, uint64_t value,
                                                                  unsigned size)
{
    const struct tlb_entry *e = tlb_entry_of(&v->tlb, reach, linear);
    if (X86_LIKELY(e->write == tlb_tag(&v->tlb, linear) && (linear & 0xfff) <= 4096 - size))
        host_store((void *)(e->addend + linear), value, size);
    else
        tlb_store_slow(v, reach, linear, value, size);
}

/* Explicit accesses of the current privilege. linear is checked (canonical, limit) by the caller.
 */
static inline __attribute__((always_inline)) uint64_t x86_load(struct vcpu *v, uint64_t linear,
                                                               unsigned size)
{
    return x86_load_reach(v, (enum tlb_reach)v->reach, linear, size);
}

static inline __attribute__((always_inline)) void x86_store(struct vcpu *v, uint64_t linear,
                                                            uint64_t value, unsigned size)
{
    x86_store_reach(v, (enum tlb_reach)v->reach, linear, value, size);
}

/* The reach of implicit supervisor accesses: descriptor tables, TSS, frames pushed to an inner
 * ring. SMAP holds for them whatever AC says (SDM 3A 4.6.1). */
static inline enum tlb_reach x86_implicit_reach(const struct vcpu *v)
{
    return (v->cr4 & CR4_SMAP) ? REACH_SUPERVISOR : REACH_SUPERVISOR_AC;
}

#endif
