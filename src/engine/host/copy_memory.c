/* SPDX-License-Identifier: MIT */
/* Guest memory operands of copied instructions: addresses, alignment, and access to chosen bytes
 * only. On the vCPU's thread; the guest controls addresses and masks. */
#include "engine/host/copy_code.h"

#include "engine/host/processor.h"
#include "x86/segment.h"

/* Natural alignment of an operand for #AC (SDM 3A table 6-7). */
static unsigned natural(unsigned size)
{
    switch (size) {
    case 14: /* x87 environments, alone or with the registers */
    case 94:
        return 2;
    case 28:
    case 108:
        return 4;
    case 10:
        return 8;
    default:
        return size <= 8 ? size : host_processor.aligns_vectors ? 16 : 1;
    }
}

uint64_t copy_linear(struct vcpu *v, uint8_t segment, uint64_t offset, unsigned size, bool write)
{
    uint64_t linear = offset;
    if (!v->code64 || segment >= SEG_FS || !x86_canonical(v, offset) ||
        !x86_canonical(v, offset + size - 1))
        linear = x86_linear(v, (enum x86_sreg)segment, offset, size, write);
    return linear;
}

void copy_check_natural(struct vcpu *v, uint64_t linear, unsigned size)
{
    if ((v->rflags & FLAG_AC) && v->cpl == 3 && (v->cr0 & CR0_AM) && (linear & (natural(size) - 1)))
        x86_raise_error(v, VECTOR_AC, 0);
}

/* Takes the lowest run of ones off *bytes; false when there is none. */
static bool next_run(uint64_t *bytes, unsigned *first, unsigned *length)
{
    if (!*bytes)
        return false;
    *first = (unsigned)__builtin_ctzll(*bytes);
    uint64_t rest = ~(*bytes >> *first);
    *length = rest ? (unsigned)__builtin_ctzll(rest) : 64;
    if (*first + *length > 64)
        *length = 64 - *first;
    uint64_t run = *length == 64 ? UINT64_MAX : ((uint64_t)1 << *length) - 1;
    *bytes &= ~(run << *first);
    return true;
}

void copy_load_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes, uint8_t *to)
{
    unsigned first, length;
    while (next_run(&bytes, &first, &length)) {
        uint64_t linear = copy_linear(v, segment, offset + first, length, false);
        tlb_read_bytes(v, (enum tlb_reach)v->reach, linear, to + first, length);
    }
}

void copy_check_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes, bool write)
{
    unsigned first, length;
    while (next_run(&bytes, &first, &length))
        copy_linear(v, segment, offset + first, length, write);
}

void copy_probe_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes)
{
    unsigned first, length;
    while (next_run(&bytes, &first, &length)) {
        uint64_t linear = copy_linear(v, segment, offset + first, length, true);
        tlb_probe(v, (enum tlb_reach)v->reach, linear, length, true);
    }
}

void copy_store_bytes(struct vcpu *v, uint8_t segment, uint64_t offset, uint64_t bytes,
                      const uint8_t *from)
{
    unsigned first, length;
    copy_probe_bytes(v, segment, offset, bytes);
    while (next_run(&bytes, &first, &length)) {
        uint64_t linear = copy_linear(v, segment, offset + first, length, true);
        tlb_write_bytes(v, (enum tlb_reach)v->reach, linear, from + first, length);
    }
}

static uint64_t sign_bits(const struct vcpu *v, const struct copy_memory *m)
{
    const uint8_t *r = (const uint8_t *)&v->vector.zmm[m->mask * X86_ZMM_QWORDS];
    uint64_t k = 0;
    for (unsigned i = 0; i < m->elements; i++)
        k |= (uint64_t)(r[(i + 1) * m->element - 1] >> 7) << i;
    return k;
}

static uint64_t low_ones(unsigned n)
{
    return n >= 64 ? UINT64_MAX : ((uint64_t)1 << n) - 1;
}

uint64_t copy_whole_bytes(const struct copy_memory *m)
{
    return low_ones(m->size);
}

uint64_t copy_active_bytes(const struct vcpu *v, const struct copy_memory *m)
{
    if (m->access == ACCESS_PLAIN)
        return low_ones(m->size);
    uint64_t k = m->access == ACCESS_VECTOR ? sign_bits(v, m)
                 : m->mask                  ? v->vector.k[m->mask]
                                            : UINT64_MAX;
    k &= low_ones(m->repeat);
    if (m->access == ACCESS_COMPRESS)
        return low_ones((unsigned)__builtin_popcountll(k) * m->element);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < m->repeat; i++)
        if (k >> i & 1)
            bytes |= low_ones(m->element) << (i % m->elements * m->element);
    return bytes;
}

void copy_probe_elements(struct vcpu *v, const struct copy_memory *m, uint64_t offset)
{
    uint64_t bytes = copy_active_bytes(v, m);
    for (unsigned at = 0; at < m->size; at += m->element) {
        if (!(bytes >> at & 1))
            continue;
        uint64_t linear = copy_linear(v, m->segment, offset + at, m->element, m->store);
        tlb_probe(v, (enum tlb_reach)v->reach, linear, m->element, m->store);
    }
}
