/* SPDX-License-Identifier: MIT */
/*
 * XSAVE, XSAVEOPT, XSAVEC, XRSTOR, FXSAVE and FXRSTOR on v->vector (SDM 1, chapters 10.5 and 13).
 * Component offsets are the host's (CPUID leaf 0Dh), which the CPUID model passes on. XINUSE is
 * found by comparing with the initial state, so the init optimisation is exact; the modified
 * optimisation of XSAVEOPT is not made. On the vCPU's thread; the guest controls the area, the
 * mask, and all that is loaded: MXCSR and headers are checked before anything is replaced.
 *
 * FIP, FDP and FOP are stored as the host stores them. AMD's processors do so only while an
 * unmasked exception is pending, do not count them as in use, and keep 48 bits of them.
 */
#include "engine/host/copy.h"

#include <cpuid.h>
#include <string.h>

#include "engine/host/processor.h"
#include "x86/access.h"

#define LEGACY_BYTES  416u /* of the legacy region, up to the last XMM register */
#define HEADER_OFFSET 512u
#define AREA_OFFSET   576u
#define COMPACT       (1ull << 63)
#define MXCSR_INITIAL 0x1f80u
#define FCW_INITIAL   0x37fu
#define FSW_ZE        0x4u
#define FSW_ES        0x80u
#define FSW_B         0x8000u

enum component { X87, SSE, AVX, OPMASK = 5, ZMM_HI256, HI16_ZMM, COMPONENTS };

struct image {
    uint8_t legacy[HEADER_OFFSET];
    uint64_t header[8];
    uint8_t component[COMPONENTS][1024];
};

static uint32_t component_size(unsigned i)
{
    static const uint32_t sizes[COMPONENTS] = {0, 0, 256, 0, 0, 64, 512, 1024};
    return sizes[i];
}

/* Where component i lies in the standard format. CPUID traps under a hypervisor, so the answers
 * are kept. */
static uint32_t standard_offset(unsigned i)
{
    static _Atomic uint32_t known[COMPONENTS];
    uint32_t offset = atomic_load_explicit(&known[i], memory_order_relaxed);
    if (offset)
        return offset;
    unsigned size, ebx, ecx, edx;
    __cpuid_count(13, i, size, ebx, ecx, edx);
    atomic_store_explicit(&known[i], ebx, memory_order_relaxed);
    return ebx;
}

/* Compact format: packed in order; bit 1 of ECX (64-byte alignment) is not set for these. */
static uint32_t offset_of(unsigned i, uint64_t compact_bv)
{
    if (!(compact_bv & COMPACT))
        return standard_offset(i);
    uint32_t offset = AREA_OFFSET;
    for (unsigned n = AVX; n < i; n++)
        if (compact_bv >> n & 1)
            offset += component_size(n);
    return offset;
}

/* Bytes of component i that the present mode reaches: registers 8 and up only in 64-bit mode. */
static uint32_t reached(const struct vcpu *v, unsigned i)
{
    if (v->code64 || i == OPMASK)
        return component_size(i);
    return i == HI16_ZMM ? 0 : component_size(i) / 2;
}

/* The registers of component i, in its layout; `store` = from the image to v. */
static void move_component(struct vcpu *v, unsigned i, uint8_t *image, bool store)
{
    static const struct {
        uint8_t first, offset, bytes;
    } part[COMPONENTS] = {[AVX] = {0, 16, 16}, [ZMM_HI256] = {0, 32, 32}, [HI16_ZMM] = {16, 0, 64}};
    uint32_t size = reached(v, i);
    if (i == OPMASK) {
        memcpy(store ? (void *)v->vector.k : image, store ? image : (void *)v->vector.k, size);
        return;
    }
    for (unsigned n = 0; n * part[i].bytes < size; n++) {
        uint8_t *z = (uint8_t *)&v->vector.zmm[(part[i].first + n) * X86_ZMM_QWORDS];
        uint8_t *in_image = image + n * part[i].bytes;
        memcpy(store ? z + part[i].offset : in_image, store ? in_image : z + part[i].offset,
               part[i].bytes);
    }
}

static unsigned xmm_count(const struct vcpu *v)
{
    return v->code64 ? 16 : 8;
}

static void put_x87(const struct vcpu *v, uint8_t *o, bool rex_w)
{
    const struct x86_vector *s = &v->vector;
    memset(o, 0, 24);
    memcpy(o, &s->fcw, 2);
    memcpy(o + 2, &s->fsw, 2);
    o[4] = s->ftw;
    memcpy(o + 32, s->st, 128);
    if (!host_processor.saves_pointers && !(s->fsw & FSW_ES))
        return;
    memcpy(o + 6, &s->fop, 2);
    memcpy(o + 8, &s->fip, rex_w ? 8 : 4);
    memcpy(o + 16, &s->fdp, rex_w ? 8 : 4);
}

static void put_mxcsr(const struct vcpu *v, uint8_t *o)
{
    uint32_t words[2] = {v->vector.mxcsr, (uint32_t)~MXCSR_RESERVED};
    memcpy(o + 24, words, 8);
}

static void put_xmm(const struct vcpu *v, uint8_t *o)
{
    for (unsigned n = 0; n < xmm_count(v); n++)
        memcpy(o + 160 + 16 * n, &v->vector.zmm[n * X86_ZMM_QWORDS], 16);
}

static void through_processor(struct x86_vector *s)
{
    s->xsave_header[0] = XCR0_X87;
    __asm__ volatile("xrstor64 %0\n\txsave64 %0\n\tfninit"
                     : "+m"(*s)
                     : "a"(XCR0_X87), "d"(0)
                     : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
}

/* A pointer as such a host keeps it, which it shows while an exception is pending. */
static uint64_t hidden_pointer(uint64_t pointer)
{
    if (pointer <= INT64_MAX >> 17)
        return pointer;
    struct x86_vector trial = {
        .fcw = FCW_INITIAL & ~FSW_ZE, .fsw = FSW_B | FSW_ES | FSW_ZE, .fip = pointer};
    through_processor(&trial);
    return trial.fip;
}

/* The processor itself says what of a loaded image stays: reserved bits, and FSW.ES and B, which
 * follow from the flags and masks. */
void fpu_settle_x87(struct x86_vector *s)
{
    uint64_t fip = s->fip, fdp = s->fdp;
    uint16_t fop = s->fop;
    through_processor(s);
    if (host_processor.saves_pointers)
        return;
    s->fip = hidden_pointer(fip);
    s->fdp = hidden_pointer(fdp);
    s->fop = fop;
}

static void get_x87(struct vcpu *v, const uint8_t *o, bool rex_w)
{
    struct x86_vector *s = &v->vector;
    memcpy(&s->fcw, o, 2);
    memcpy(&s->fsw, o + 2, 2);
    s->ftw = o[4];
    s->ftw_reserved = 0;
    memcpy(&s->fop, o + 6, 2);
    s->fop &= 0x7ff;
    s->fip = s->fdp = 0;
    memcpy(&s->fip, o + 8, rex_w ? 8 : 4);
    memcpy(&s->fdp, o + 16, rex_w ? 8 : 4);
    memcpy(s->st, o + 32, 128);
    for (unsigned i = 0; i < 8; i++)
        s->st[2 * i + 1] &= 0xffff;
    fpu_settle_x87(s);
}

static void initial_x87(struct x86_vector *s)
{
    s->fcw = FCW_INITIAL;
    s->fsw = s->fop = 0;
    s->ftw = 0;
    s->fip = s->fdp = 0;
    memset(s->st, 0, sizeof s->st);
}

static bool x87_in_use(const struct x86_vector *s)
{
    uint64_t any = s->fsw | s->ftw;
    if (host_processor.saves_pointers)
        any |= s->fop | s->fip | s->fdp;
    for (unsigned i = 0; i < 16; i++)
        any |= s->st[i];
    return any || s->fcw != FCW_INITIAL;
}

static bool any_set(const struct vcpu *v, unsigned first, unsigned count, unsigned from,
                    unsigned to)
{
    uint64_t any = 0;
    for (unsigned n = first; n < first + count; n++)
        for (unsigned q = from; q < to; q++)
            any |= v->vector.zmm[n * X86_ZMM_QWORDS + q];
    return any != 0;
}

static uint64_t in_use(const struct vcpu *v)
{
    uint64_t bv = 0, k = 0;
    for (unsigned i = 0; i < 8; i++)
        k |= v->vector.k[i];
    bv |= (uint64_t)x87_in_use(&v->vector) << X87;
    bv |= (uint64_t)any_set(v, 0, 16, 0, 2) << SSE;
    bv |= (uint64_t)any_set(v, 0, 16, 2, 4) << AVX;
    bv |= (uint64_t)(k != 0) << OPMASK;
    bv |= (uint64_t)any_set(v, 0, 16, 4, 8) << ZMM_HI256;
    if (v->code64 || host_processor.upper_registers_in_use)
        bv |= (uint64_t)any_set(v, 16, 16, 0, 8) << HI16_ZMM;
    return bv;
}

static void check_xsave(struct vcpu *v, uint64_t linear)
{
    if (!(v->cr4 & CR4_OSXSAVE))
        x86_raise(v, VECTOR_UD);
    if (v->cr0 & CR0_TS)
        x86_raise(v, VECTOR_NM);
    if (linear & 63)
        x86_raise_gp0(v);
}

static void read_guest(struct vcpu *v, uint64_t linear, void *to, unsigned n)
{
    tlb_read_bytes(v, (enum tlb_reach)v->reach, linear, to, n);
}

static void write_guest(struct vcpu *v, uint64_t linear, const void *from, unsigned n)
{
    tlb_write_bytes(v, (enum tlb_reach)v->reach, linear, from, n);
}

static void probe_guest(struct vcpu *v, uint64_t linear, unsigned n)
{
    tlb_probe(v, (enum tlb_reach)v->reach, linear, n, true);
}

static void write_legacy(struct vcpu *v, uint64_t linear, uint64_t written, uint64_t rfbm,
                         bool rex_w)
{
    uint8_t o[LEGACY_BYTES];
    if (written >> X87 & 1) {
        put_x87(v, o, rex_w);
        write_guest(v, linear, o, 24);
        write_guest(v, linear + 32, o + 32, 128);
    }
    if (rfbm & (XCR0_SSE | XCR0_AVX)) {
        put_mxcsr(v, o);
        write_guest(v, linear + 24, o + 24, 8);
    }
    if (written >> SSE & 1) {
        put_xmm(v, o);
        write_guest(v, linear + 160, o + 160, 16 * xmm_count(v));
    }
}

static bool legacy_touched(uint64_t written, uint64_t mxcsr)
{
    return (written & (XCR0_X87 | XCR0_SSE)) || (mxcsr & (XCR0_SSE | XCR0_AVX));
}

/* To the end of the last component asked for, even of registers that only 64-bit mode has. */
static unsigned extent(uint64_t rfbm, uint64_t compact_bv)
{
    for (unsigned i = COMPONENTS; i-- > AVX;)
        if (rfbm >> i & 1)
            return offset_of(i, compact_bv) + component_size(i);
    return AREA_OFFSET;
}

unsigned fpu_xsave_extent(const struct vcpu *v, uint64_t mask, bool compact)
{
    uint64_t rfbm = mask & v->xcr0;
    return extent(rfbm, compact ? rfbm | COMPACT : 0);
}

unsigned fpu_xrstor_extent(struct vcpu *v, uint64_t linear, uint64_t mask)
{
    uint64_t compact_bv;
    if (linear & 63)
        return AREA_OFFSET; /* fpu_xrstor refuses it */
    read_guest(v, linear + HEADER_OFFSET + 8, &compact_bv, 8);
    if (!(compact_bv & COMPACT))
        compact_bv = 0;
    return extent(mask & v->xcr0 & (compact_bv ? compact_bv : UINT64_MAX), compact_bv);
}

void fpu_xsave(struct vcpu *v, uint64_t linear, uint64_t mask, bool compact, bool optimized,
               bool rex_w)
{
    check_xsave(v, linear);
    uint64_t rfbm = mask & v->xcr0, used = in_use(v);
    if (compact && v->vector.mxcsr != MXCSR_INITIAL)
        used |= XCR0_SSE; /* SDM 1, 13.10 */
    uint64_t written = compact || optimized ? rfbm & used : rfbm;
    uint64_t compact_bv = compact ? rfbm | COMPACT : 0;
    if (host_processor.xsave_touches_legacy ||
        legacy_touched(written, compact ? written & XCR0_SSE : rfbm))
        probe_guest(v, linear, HEADER_OFFSET);
    probe_guest(v, linear + HEADER_OFFSET, AREA_OFFSET - HEADER_OFFSET);
    for (unsigned i = AVX; i < COMPONENTS; i++)
        if ((written >> i & 1) && reached(v, i))
            probe_guest(v, linear + offset_of(i, compact_bv), reached(v, i));

    if (!v->code64) /* processors touch the last byte, written or not */
        probe_guest(v, linear + extent(rfbm, compact_bv) - 1, 1);

    uint64_t header[2] = {used & rfbm, compact_bv};
    if (!compact) {
        uint64_t old;
        read_guest(v, linear + HEADER_OFFSET, &old, 8);
        header[0] |= old & ~rfbm;
    }
    /* XSAVEC leaves MXCSR alone where it saves no SSE state. */
    write_legacy(v, linear, written, compact ? written & XCR0_SSE : rfbm, rex_w);
    for (unsigned i = AVX; i < COMPONENTS; i++) {
        uint8_t registers[1024];
        if (!(written >> i & 1) || !reached(v, i))
            continue;
        move_component(v, i, registers, false);
        write_guest(v, linear + offset_of(i, compact_bv), registers, reached(v, i));
    }
    write_guest(v, linear + HEADER_OFFSET, header, compact ? 16 : 8);
}

/* SDM 1, 13.8 and 13.12: what of a header raises #GP(0). */
static void check_header(struct vcpu *v, const uint64_t header[8])
{
    uint64_t reserved = 0, compact_bv = header[1];
    for (unsigned i = 2; i < 8; i++)
        if (i == 2 || (compact_bv & COMPACT))
            reserved |= header[i];
    bool bad = compact_bv & COMPACT
                   ? (compact_bv & ~COMPACT & ~v->xcr0) || (header[0] & ~compact_bv)
                   : compact_bv || (header[0] & ~v->xcr0);
    bad |= header[0] >> 63 && host_processor.refuses_state_63;
    if (bad || reserved)
        x86_raise_gp0(v);
}

/* XRSTOR reaches to the end of the last component that is asked for and that the area has room for,
 * loaded or not; of a compact area, AMD's processors to the end of the last that is loaded. */
static void probe_extent(struct vcpu *v, uint64_t linear, uint64_t rfbm, const uint64_t header[2])
{
    uint8_t byte;
    uint64_t compact_bv = header[1];
    if (compact_bv & COMPACT)
        rfbm &= host_processor.xrstor_reads_loaded ? header[0] & compact_bv : compact_bv;
    read_guest(v, linear + extent(rfbm, compact_bv) - 1, &byte, 1);
}

void fpu_xrstor(struct vcpu *v, uint64_t linear, uint64_t mask, bool rex_w)
{
    struct image im;
    check_xsave(v, linear);
    uint64_t rfbm = mask & v->xcr0;
    read_guest(v, linear + HEADER_OFFSET, im.header, sizeof im.header);
    probe_extent(v, linear, rfbm, im.header);
    uint64_t in_legacy = im.header[1] & COMPACT ? im.header[1] & (XCR0_X87 | XCR0_SSE)
                                                : XCR0_X87 | XCR0_SSE | XCR0_AVX;
    /* the processor touches it, loaded or not */
    if ((rfbm & in_legacy) || host_processor.xsave_touches_legacy)
        read_guest(v, linear, im.legacy, LEGACY_BYTES);
    check_header(v, im.header);
    uint64_t compact_bv = im.header[1], loaded = rfbm & im.header[0];
    bool compact = compact_bv & COMPACT;
    bool load_mxcsr = compact ? loaded & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
    uint32_t mxcsr = MXCSR_INITIAL;
    if (load_mxcsr)
        memcpy(&mxcsr, im.legacy + 24, 4);
    if (mxcsr & MXCSR_RESERVED)
        x86_raise_gp0(v);
    for (unsigned i = AVX; i < COMPONENTS; i++) {
        memset(im.component[i], 0, component_size(i));
        if ((loaded >> i & 1) && reached(v, i))
            read_guest(v, linear + offset_of(i, compact_bv), im.component[i], reached(v, i));
    }

    if (loaded & XCR0_X87)
        get_x87(v, im.legacy, rex_w);
    else if (rfbm & XCR0_X87)
        initial_x87(&v->vector);
    if (load_mxcsr || (rfbm & XCR0_SSE))
        v->vector.mxcsr = mxcsr;
    if (!(loaded & XCR0_SSE))
        memset(im.legacy + 160, 0, 256);
    for (unsigned n = 0; (rfbm & XCR0_SSE) && n < xmm_count(v); n++)
        memcpy(&v->vector.zmm[n * X86_ZMM_QWORDS], im.legacy + 160 + 16 * n, 16);
    for (unsigned i = AVX; i < COMPONENTS; i++)
        if ((rfbm >> i & 1) && component_size(i))
            move_component(v, i, im.component[i], true);
}

static void check_fxsave(struct vcpu *v, uint64_t linear)
{
    if (v->cr0 & (CR0_EM | CR0_TS))
        x86_raise(v, VECTOR_NM);
    if (linear & 15)
        x86_raise_gp0(v);
}

void fpu_fxsave(struct vcpu *v, uint64_t linear, bool rex_w)
{
    check_fxsave(v, linear);
    probe_guest(v, linear, 512);
    write_legacy(v, linear, XCR0_X87 | XCR0_SSE, XCR0_SSE, rex_w);
}

void fpu_fxrstor(struct vcpu *v, uint64_t linear, bool rex_w)
{
    uint8_t image[HEADER_OFFSET];
    uint32_t mxcsr;
    check_fxsave(v, linear);
    read_guest(v, linear, image, sizeof image);
    memcpy(&mxcsr, image + 24, 4);
    if (mxcsr & MXCSR_RESERVED)
        x86_raise_gp0(v);
    get_x87(v, image, rex_w);
    v->vector.mxcsr = mxcsr;
    for (unsigned n = 0; n < xmm_count(v); n++)
        memcpy(&v->vector.zmm[n * X86_ZMM_QWORDS], image + 160 + 16 * n, 16);
}
