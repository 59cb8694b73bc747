/* SPDX-License-Identifier: MIT */
/*
 * FNSTENV, FLDENV, FNSAVE, FRSTOR in their four formats (SDM 1 8.1.10, figures 8-9 to 8-12). By
 * hand, because the pointers are the guest's (copy_run.c), which the host's processor may not load
 * or may lose. FCS and FDS are zero on every host: the CPUID model says so (CPUID.7.EBX[13]).
 * On the vCPU's thread; the guest controls the area and all that is loaded.
 */
#include <string.h>

#include "engine/host/copy_code.h"

#define TAG_EMPTY   3u
#define MASKS       0x3fu
#define FCW_INITIAL 0x37fu
#define FSW_TOP     11
#define AREA_MAX    28u
#define REGISTERS   80u
#define FSW_ES      0x80u

static unsigned top_of(const struct x86_vector *s)
{
    return (s->fsw >> FSW_TOP) & 7;
}

/* The tag of ST(i) (SDM 1 8.1.7). */
static unsigned tag_of(const struct x86_vector *s, unsigned i)
{
    uint64_t significand = s->st[2 * i];
    unsigned exponent = s->st[2 * i + 1] & 0x7fff;
    if (!(s->ftw >> ((top_of(s) + i) & 7) & 1))
        return TAG_EMPTY;
    if (exponent == 0 && significand == 0)
        return 1;
    return exponent == 0 || exponent == 0x7fff || !(significand >> 63) ? 2 : 0;
}

static uint16_t full_tags(const struct x86_vector *s)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++)
        tags |= tag_of(s, i) << (2 * ((top_of(s) + i) & 7));
    return (uint16_t)tags;
}

static bool real_format(const struct vcpu *v)
{
    return !(v->cr0 & CR0_PE) || (v->rflags & FLAG_VM);
}

/* The seven fields of the image, each of a word or a doubleword. */
static void put_environment(const struct vcpu *v, unsigned size, uint8_t *o)
{
    const struct x86_vector *s = &v->vector;
    bool wide = size == 4, real = real_format(v);
    uint32_t ip = (uint32_t)s->fip, dp = (uint32_t)s->fdp, unused = wide ? 0xffff0000u : 0;
    uint32_t f[7] = {s->fcw | unused, s->fsw | unused, full_tags(s) | unused, ip, 0, dp, unused};
    if (real) {
        uint32_t high = wide ? 0xffffu : 0xfu; /* how much there is of bits 31:16 */
        f[3] = (ip & 0xffff) | unused;
        f[4] = (ip >> 16 & high) << 12 | (s->fop & 0x7ffu);
        f[5] = (dp & 0xffff) | unused;
        f[6] = (dp >> 16 & high) << 12;
    } else if (wide) {
        f[4] = (uint32_t)(s->fop & 0x7ff) << 16;
    }
    for (unsigned i = 0; i < 7; i++)
        memcpy(o + i * size, &f[i], size);
}

/* TOP changes, the registers stay where they are: ST is put into the order of the new TOP. */
static void set_status(struct x86_vector *s, uint16_t fsw)
{
    uint64_t physical[16];
    for (unsigned i = 0; i < 8; i++)
        memcpy(&physical[2 * ((top_of(s) + i) & 7)], &s->st[2 * i], 16);
    s->fsw = fsw;
    for (unsigned i = 0; i < 8; i++)
        memcpy(&s->st[2 * i], &physical[2 * ((top_of(s) + i) & 7)], 16);
}

static void get_environment(struct vcpu *v, unsigned size, const uint8_t *o)
{
    struct x86_vector *s = &v->vector;
    uint32_t f[7] = {0};
    for (unsigned i = 0; i < 7; i++)
        memcpy(&f[i], o + i * size, size);
    s->fcw = (uint16_t)f[0];
    set_status(s, (uint16_t)f[1]);
    s->ftw = 0;
    for (unsigned i = 0; i < 8; i++)
        if ((f[2] >> (2 * i) & 3) != TAG_EMPTY)
            s->ftw |= (uint8_t)(1u << i);
    s->fip = f[3];
    s->fdp = f[5];
    if (real_format(v)) {
        s->fip = (f[3] & 0xffff) | (uint64_t)(f[4] >> 12 & 0xffff) << 16;
        s->fdp = (f[5] & 0xffff) | (uint64_t)(f[6] >> 12 & 0xffff) << 16;
        s->fop = f[4] & 0x7ff;
    } else {
        s->fop = size == 4 ? f[4] >> 16 & 0x7ff : 0;
    }
}

void fpu_check_environment(struct vcpu *v, bool waits)
{
    if (v->cr0 & (CR0_EM | CR0_TS))
        x86_raise(v, VECTOR_NM);
    if (waits && (v->vector.fsw & FSW_ES) && (v->cr0 & CR0_NE))
        x86_raise(v, VECTOR_MF);
}

void fpu_store_environment(struct vcpu *v, uint64_t linear, unsigned size, bool registers)
{
    uint8_t o[AREA_MAX + REGISTERS];
    struct x86_vector *s = &v->vector;
    unsigned n = 7 * size;
    copy_check_natural(v, linear, n);
    put_environment(v, size, o);
    for (unsigned i = 0; i < 8 && registers; i++, n += 10)
        memcpy(o + n, &s->st[2 * i], 10);
    tlb_write_bytes(v, (enum tlb_reach)v->reach, linear, o, n);
    if (!registers) {
        s->fcw |= MASKS;
    } else { /* as FNINIT */
        s->fcw = FCW_INITIAL;
        set_status(s, 0);
        s->fop = 0;
        s->ftw = 0;
        s->fip = s->fdp = 0;
    }
    fpu_settle_x87(s);
}

void fpu_load_environment(struct vcpu *v, uint64_t linear, unsigned size, bool registers)
{
    uint8_t o[AREA_MAX + REGISTERS];
    struct x86_vector *s = &v->vector;
    unsigned n = 7 * size;
    copy_check_natural(v, linear, n);
    tlb_read_bytes(v, (enum tlb_reach)v->reach, linear, o, n + (registers ? REGISTERS : 0));
    get_environment(v, size, o);
    for (unsigned i = 0; i < 8 && registers; i++, n += 10) {
        s->st[2 * i + 1] = 0;
        memcpy(&s->st[2 * i], o + n, 10);
    }
    fpu_settle_x87(s);
}
