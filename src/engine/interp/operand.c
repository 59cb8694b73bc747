/* SPDX-License-Identifier: MIT */
/* Slow paths of memory operands: misses, page crossings, devices, faults. The guest controls every
 * address. */
#include "engine/interp/sync.h"

/* 64-bit mode: an access with any non-canonical byte raises #GP(0), or #SS(0) through SS
 * (SDM 1 3.3.7.1). Other modes were checked by x86_linear. */
static void check_canonical(struct vcpu *v, unsigned seg, uint64_t linear, unsigned size)
{
    if (v->code64 && !(x86_canonical(v, linear) && x86_canonical(v, linear + size - 1)))
        x86_raise_error(v, seg == SEG_SS ? VECTOR_SS : VECTOR_GP, 0);
}

uint64_t interp_load_slow(struct vcpu *v, unsigned seg, uint64_t linear, unsigned size)
{
    check_canonical(v, seg, linear, size);
    return tlb_load_slow(v, (enum tlb_reach)v->reach, linear, size);
}

void interp_store_slow(struct vcpu *v, unsigned seg, uint64_t linear, uint64_t value, unsigned size)
{
    check_canonical(v, seg, linear, size);
    tlb_store_slow(v, (enum tlb_reach)v->reach, linear, value, size);
}

/* SDM 3A table 6-7: a far pointer as its offset's size; a pseudo-descriptor (SGDT, SIDT) belongs at
 * an odd word (SDM 3A 3.5.1), where its limit and base are aligned. INVPCID's is privileged. */
static void check_alignment(struct vcpu *v, uint64_t linear, unsigned n, bool pseudo_descriptor)
{
    if (pseudo_descriptor)
        tlb_check_alignment(v, (enum tlb_reach)v->reach, linear + 2, 4);
    else if (n <= 10)
        tlb_check_alignment(v, (enum tlb_reach)v->reach, linear, n - 2);
}

void mem_read_bytes(struct vcpu *v, unsigned seg, uint64_t offset, void *out, unsigned n)
{
    uint64_t linear = segment_linear(v, seg, offset, n, false);
    check_canonical(v, seg, linear, n);
    check_alignment(v, linear, n, false);
    tlb_read_bytes(v, (enum tlb_reach)v->reach, linear, out, n);
}

void mem_write_bytes(struct vcpu *v, unsigned seg, uint64_t offset, const void *bytes, unsigned n)
{
    uint64_t linear = segment_linear(v, seg, offset, n, true);
    check_canonical(v, seg, linear, n);
    check_alignment(v, linear, n, true);
    tlb_write_bytes(v, (enum tlb_reach)v->reach, linear, bytes, n);
}

uint64_t mem_linear(struct vcpu *v, const struct insn *i, unsigned n, bool write)
{
    uint64_t linear = segment_linear(v, i->seg, effective_address(v, i), n, write);
    check_canonical(v, i->seg, linear, n);
    return linear;
}

/* Whether the host's processor would lock: CMPXCHG8B is the host's LOCK CMPXCHG with or without. */
static bool host_locks(const struct insn *i)
{
    return (i->prefixes & INSN_LOCK) || i->op == ZYDIS_MNEMONIC_XCHG ||
           i->op == ZYDIS_MNEMONIC_CMPXCHG8B;
}

/*
 * LOCK across cache lines is not left to the host: its kernel or hypervisor may delay each one
 * (Linux's split_lock_mitigate by 10 ms, KVM's limit of bus locks; 0.1 to 0.8 ms measured), hold
 * all processors meanwhile, or send SIGBUS (split_lock_detect=fatal), by which a guest would end
 * us.
 */
struct rmw rmw_begin_slow(struct vcpu *v, const struct insn *i, uint64_t linear, unsigned size)
{
    check_canonical(v, i->seg, linear, size);
    enum tlb_reach reach = (enum tlb_reach)v->reach;
    struct rmw m = {.linear = linear, .wrote_slow = true};
    bool split = (linear & (CACHE_LINE - 1)) > CACHE_LINE - size;
    if (split && host_locks(i))
        tlb_check_alignment(v, reach, linear, size);
    else
        m.host = tlb_pointer_rmw(v, reach, linear, size);
    if (m.host == NULL) {
        tlb_probe(v, reach, linear, size, true);
        m.exclusive = (i->prefixes & INSN_LOCK) || i->op == ZYDIS_MNEMONIC_XCHG;
        if (m.exclusive) {
            v->counters.split_locks++;
            sync_exclusive_begin(v->engine_state);
        }
    }
    return m;
}

uint64_t rmw_load_slow(struct vcpu *v, const struct rmw *m, unsigned size)
{
    return tlb_load_slow(v, (enum tlb_reach)v->reach, m->linear, size);
}

void rmw_store_slow(struct vcpu *v, const struct rmw *m, uint64_t value, unsigned size)
{
    tlb_store_slow(v, (enum tlb_reach)v->reach, m->linear, value, size);
    if (m->exclusive)
        sync_exclusive_end(v->engine_state);
}

#define CAS_CASE(type, suffix, constraint)                                        \
    {                                                                             \
        type old = (type)*expected;                                               \
        __asm__ volatile("lock cmpxchg" suffix " %[new], %[mem]"                  \
                         : "=@ccz"(done), "+a"(old), [mem] "+m"(*(type *)m->host) \
                         : [new] constraint((type)value)                          \
                         : "memory");                                             \
        *expected = old;                                                          \
    }

bool rmw_cas(struct vcpu *v, const struct rmw *m, uint64_t *expected, uint64_t value, unsigned size)
{
    bool done;

    if (m->host == NULL) {
        uint64_t present = rmw_load_slow(v, m, size);
        done = present == *expected;
        *expected = present;
        rmw_store_slow(v, m, done ? value : present, size);
        return done;
    }
    switch (size) {
    case 1:
        CAS_CASE(uint8_t, "b", "q");
        break;
    case 2:
        CAS_CASE(x86_u16, "w", "r");
        break;
    case 4:
        CAS_CASE(x86_u32, "l", "r");
        break;
    default:
        CAS_CASE(x86_u64, "q", "r");
        break;
    }
    if (done && m->wrote_slow)
        tlb_pointer_wrote(v, m->host, size);
    return done;
}
