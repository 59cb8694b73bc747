/* SPDX-License-Identifier: MIT */
/*
 * A fault on purpose (--check-inject): one bit of what the leader has computed in a slice, in a
 * register, a flag, a vector lane, or a page of guest memory that it may have written. On the
 * vCPU's thread, between the leader's run and the comparison.
 */
#include "engine/lockstep/lockstep.h"

static void flip_register(struct vcpu *v, uint64_t *seed)
{
    unsigned r = lockstep_random(seed) % 16, bit = lockstep_random(seed) % 64;
    v->gpr[r] ^= (uint64_t)1 << bit;
    log_warn("injected: bit %u of general register %u", bit, r);
}

static void flip_flag(struct vcpu *v, uint64_t *seed)
{
    static const uint32_t flags[] = {FLAG_CF, FLAG_PF, FLAG_AF, FLAG_ZF, FLAG_SF,
                                     FLAG_IF, FLAG_DF, FLAG_OF, FLAG_NT, FLAG_ID};
    uint32_t flag = flags[lockstep_random(seed) % (sizeof(flags) / sizeof(flags[0]))];
    v->rflags ^= flag;
    log_warn("injected: RFLAGS bit %d", __builtin_ctz(flag));
}

static void flip_vector(struct vcpu *v, uint64_t *seed)
{
    unsigned lane = lockstep_random(seed) % (32 * X86_ZMM_QWORDS);
    unsigned bit = lockstep_random(seed) % 64;
    v->vector.zmm[lane] ^= (uint64_t)1 << bit;
    log_warn("injected: bit %u of lane %u of vector register %u", bit, lane % X86_ZMM_QWORDS,
             lane / X86_ZMM_QWORDS);
}

static void flip_memory(struct lockstep *l, uint64_t *seed)
{
    const struct page_list *list = &l->leader_pages;
    uint64_t page = list->pages[lockstep_random(seed) % list->count];
    unsigned at = lockstep_random(seed) % MEM_PAGE_SIZE, bit = lockstep_random(seed) % 8;
    mem_page(l->machine->mem, GPA(page), NULL)[at] ^= (uint8_t)(1u << bit);
    log_warn("injected: bit %u of the byte at %#llx", bit, (unsigned long long)page + at);
}

void lockstep_inject(struct lockstep *l, uint64_t seed)
{
    switch (lockstep_random(&seed) % 4) {
    case 0:
        flip_flag(l->v, &seed);
        break;
    case 1:
        flip_vector(l->v, &seed);
        break;
    case 2:
        if (l->leader_pages.count > 0) {
            flip_memory(l, &seed);
            break;
        }
        /* fall through */
    default:
        flip_register(l->v, &seed);
        break;
    }
}
