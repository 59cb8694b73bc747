/* SPDX-License-Identifier: MIT */
/* See values.h. */
#include "values.h"

#include <string.h>

#include "advertised.h"
#include "vectors.h"

uint64_t value_integer(struct random *r)
{
    uint64_t x = random_next(r);
    unsigned bit = random_below(r, 64);

    switch (random_below(r, 16)) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return UINT64_MAX;
    case 3:
        return UINT64_C(1) << bit;
    case 4:
        return (UINT64_C(1) << bit) - 1;
    case 5:
        return ~(UINT64_C(1) << bit);
    case 6:
        return x & 0xff;
    case 7:
        return (uint64_t)(int64_t)(int8_t)x;
    case 8:
        return (uint64_t)(int64_t)(int16_t)x;
    case 9:
        return (uint64_t)(int64_t)(int32_t)x;
    case 10:
        return x & UINT32_MAX;
    case 11:
        return DIFF_DATA + x % (DIFF_DATA_PAGES * DIFF_PAGE);
    case 12: /* the limits of every width at once: 0x80, 0x7f, 0x8000… below one another */
        return (UINT64_C(0x8000000080008080) << (x & 1)) - (x >> 1 & 1);
    default:
        return x;
    }
}

/* Where the access begins, relative to the end of DIFF_DATA page `page`: within or across it. */
static uint64_t near_end(struct random *r, unsigned page, unsigned size, bool across)
{
    uint64_t end = DIFF_DATA + (page + 1) * DIFF_PAGE;

    if (!across || size < 2)
        return end - size;
    return end - 1 - random_below(r, size - 1);
}

static uint64_t inside(struct random *r, unsigned page, unsigned size)
{
    uint32_t room = DIFF_PAGE - (size < DIFF_PAGE ? size : DIFF_PAGE - 1);
    uint32_t at = random_below(r, room + 1);

    if (random_chance(r, 60) && size && (size & (size - 1)) == 0)
        at &= ~(size - 1);
    return DIFF_DATA + page * DIFF_PAGE + at;
}

static uint64_t wild_address(struct random *r, unsigned size)
{
    uint64_t x = random_next(r);

    switch (random_below(r, 8)) {
    case 0: /* the first byte that is not canonical, or just before: the host's last page is free */
        return UINT64_C(0x7ffffffff000) + (x & 0xfff);
    case 1:
        return UINT64_C(0x800000000000) - random_below(r, size + 1);
    case 2:
        return UINT64_C(0xffff7fffffffffff) - (x & 0xff);
    case 3:
        return UINT64_C(0xffff800000000000) + (x & 0xffffff);
    case 4:
        return (uint64_t)0 - random_below(r, size + 2);
    case 5:
        return x & 0xffff;
    default:
        return x | UINT64_C(1) << 62;
    }
}

uint64_t value_address(struct random *r, unsigned size)
{
    static const uint8_t rw[] = {1, 2, 4, 8}, ro[] = {5, 7}, none[] = {0, 3, 6, 9};
    unsigned way = random_below(r, 100);

    if (size == 0 || size > DIFF_PAGE)
        size = 1;
    if (way < 58)
        return inside(r, rw[random_below(r, sizeof(rw))], size);
    if (way < 65)
        return inside(r, ro[random_below(r, sizeof(ro))], size);
    if (way < 69)
        return inside(r, none[random_below(r, sizeof(none))], size);
    if (way < 77)
        return near_end(r, 1, size, true);
    if (way < 92)
        return near_end(r, random_below(r, DIFF_DATA_PAGES - 1), size, true);
    if (way < 96)
        return near_end(r, rw[random_below(r, sizeof(rw))], size, false);
    return wild_address(r, size);
}

uint64_t value_code_address(struct random *r)
{
    switch (random_below(r, 8)) {
    case 0:
        return wild_address(r, 8);
    case 1:
        return value_integer(r);
    case 2:
        return value_address(r, 1);
    case 3:
        return random_next(r) >> 17; /* anywhere in the lower half */
    default:
        return DIFF_CODE + random_below(r, DIFF_CODE_PAGES * DIFF_PAGE);
    }
}

uint16_t value_selector(struct random *r)
{
    /* Linux' user segments, null, ones of the kernel, beyond the limit, of the absent LDT */
    static const uint16_t selectors[] = {0x2b, 0x33, 0x23, 0x00, 0x03, 0x10, 0x18, 0x08,
                                         0x43, 0x83, 0xff, 0x07, 0x2f, 0x28, 0x2a, 0x30};

    return random_chance(r, 95) ? selectors[random_below(r, 16)] : (uint16_t)random_next(r);
}

static uint32_t value_float(struct random *r)
{
    static const uint32_t special[] = {
        0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000,
        0xffc00000, 0x7f800001, 0xff812345, 1,          0x807fffff, 0x00800000, 0x7f7fffff,
        0x4f000000, 0xcf000000, 0x4effffff, 0x3f000000, 0x4b800001, 0x5f000000,
    };
    uint32_t x = (uint32_t)random_next(r);

    if (random_chance(r, 40))
        return special[random_below(r, sizeof(special) / sizeof(special[0]))];
    if (random_chance(r, 50)) /* near one, so that sums and products meet */
        return (x & 0x80ffffff) | (0x3c + (x >> 24 & 7)) << 24;
    return x;
}

static uint64_t value_double(struct random *r)
{
    static const uint64_t special[] = {
        0,
        UINT64_C(0x8000000000000000),
        UINT64_C(0x3ff0000000000000),
        UINT64_C(0xbff0000000000000),
        UINT64_C(0x7ff0000000000000),
        UINT64_C(0xfff0000000000000),
        UINT64_C(0x7ff8000000000000),
        UINT64_C(0x7ff0000000000001),
        UINT64_C(0xfff4567800000000),
        1,
        UINT64_C(0x800fffffffffffff),
        UINT64_C(0x0010000000000000),
        UINT64_C(0x7fefffffffffffff),
        UINT64_C(0x41dfffffffc00000),
        UINT64_C(0x41e0000000000000),
        UINT64_C(0xc1e0000000000000),
        UINT64_C(0x43e0000000000000),
        UINT64_C(0xc3e0000000000000),
        UINT64_C(0x36a0000000000000),
        UINT64_C(0x47efffffe0000000),
    };
    uint64_t x = random_next(r);

    if (random_chance(r, 40))
        return special[random_below(r, sizeof(special) / sizeof(special[0]))];
    if (random_chance(r, 50))
        return (x & UINT64_C(0x801fffffffffffff)) | (UINT64_C(0x3fc) + (x >> 60)) << 52;
    return x;
}

void value_bytes(struct random *r, uint8_t *out, unsigned n)
{
    unsigned kind = random_below(r, 6);

    for (unsigned at = 0; at < n; at += 8) {
        uint64_t x = kind == 0   ? (uint64_t)value_float(r) << 32 | value_float(r)
                     : kind == 1 ? value_double(r)
                     : kind == 2 ? value_integer(r)
                     : kind == 3 ? value_integer(r) * UINT64_C(0x0001000100010001)
                                 : random_next(r);
        memcpy(out + at, &x, n - at < 8 ? n - at : 8);
    }
}

static void value_st(struct random *r, uint64_t *significand, uint64_t *sign_exponent)
{
    uint16_t se = (uint16_t)random_next(r);
    uint64_t m = random_next(r) | UINT64_C(1) << 63;

    switch (random_below(r, 10)) {
    case 0:
        se &= 0x8000, m = 0;
        break;
    case 1: /* infinity, quiet and signalling NaN */
        se |= 0x7fff;
        m = random_chance(r, 50) ? UINT64_C(1) << 63 : m;
        break;
    case 2: /* denormal and pseudo-denormal */
        se &= 0x8000;
        m = random_chance(r, 70) ? m & INT64_MAX : m;
        break;
    case 3: /* unsupported: unnormal, pseudo-infinity */
        m &= INT64_MAX;
        break;
    case 4:
        se = (se & 0x8000) | 0x3fff, m = UINT64_C(1) << 63;
        break;
    case 5: /* an integer */
        se = (se & 0x8000) | (0x3fff + (se & 0x3f));
        m = UINT64_MAX << (63 - ((se - 0x3fff) & 0x3f));
        break;
    case 6:
    case 7:
        se = (se & 0x8000) | (0x3ff0 + (se & 0x1f));
        break;
    default:
        break;
    }
    *significand = m;
    *sign_exponent = se;
}

static void value_x87(struct random *r, struct x86_vector *v)
{
    uint64_t x = random_next(r);
    bool pending = random_chance(r, 6);

    v->fcw = (uint16_t)(0x40 | (x & 0xf00)) | 0x3f;
    if (random_chance(r, 20))
        v->fcw &= (uint16_t) ~(x >> 16 & 0x3f);
    v->fsw = (uint16_t)(x >> 24) & 0x7f7f; /* TOP, C0 to C3, flags */
    if (!pending)
        v->fsw &= (uint16_t)(v->fcw & 0x3f) | 0xffc0;
    if (v->fsw & ~v->fcw & 0x3f)
        v->fsw |= 0x8080;
    v->ftw = random_chance(r, 60) ? 0xff : random_chance(r, 30) ? 0 : (uint8_t)(x >> 40);
    v->fop = x >> 48 & 0x7ff;
    v->fip = DIFF_CODE + (random_next(r) & 0xfff);
    v->fdp = DIFF_DATA + (random_next(r) & 0xfff);
    for (unsigned i = 0; i < 8; i++)
        value_st(r, &v->st[2 * i], &v->st[2 * i + 1]);
}

static void value_vector(struct random *r, struct x86_vector *v)
{
    uint64_t x = random_next(r);

    memset(v, 0, sizeof(*v));
    value_x87(r, v);
    v->mxcsr = 0x1f80 | (x & 0x6000);
    if (random_chance(r, 20))
        v->mxcsr |= x >> 16 & 0x8040; /* FZ, DAZ */
    if (random_chance(r, 15))
        v->mxcsr &= ~(uint32_t)(x >> 32 & 0x1f80);
    if (random_chance(r, 50))
        v->mxcsr |= x >> 48 & 0x3f;
    for (unsigned i = 0; i < 8; i++)
        v->k[i] = value_integer(r);
    for (unsigned i = 0; i < 32; i++)
        value_bytes(r, (uint8_t *)&v->zmm[X86_ZMM_QWORDS * i], 64);
    vectors_clip(v, features_host_xcr0());
}

void value_clip(struct diff_state *s)
{
    vectors_clip(&s->vector, features_host_xcr0());
}

void value_state(struct random *r, struct diff_state *s)
{
    static const uint16_t selectors[6] = {0, 0x33, 0x2b, 0, 0, 0};

    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = value_integer(r);
    s->gpr[RSP] = DIFF_DATA + 2 * DIFF_PAGE + random_below(r, 512) * 8;
    s->rflags = FLAG_ONE | FLAG_IF | (random_next(r) & FLAGS_ARITHMETIC);
    if (random_chance(r, 15))
        s->rflags |= FLAG_DF;
    s->fs_base = random_chance(r, 50) ? DIFF_DATA : value_integer(r) >> 20;
    s->gs_base = random_chance(r, 50) ? DIFF_DATA + DIFF_PAGE : 0 - (value_integer(r) >> 20);
    memcpy(s->selector, selectors, sizeof(selectors));
    value_vector(r, &s->vector);
}
