/* SPDX-License-Identifier: MIT */
/* The checker and 32-bit code, whose addresses wrap: it accepts what the translator writes, and
 * refuses a host address that is made of a sum that may not have wrapped. */
#include "seed.h"

#define LOAD_4    0x8b, 0x41, 4       /* mov 4(%ecx), %eax */
#define LOAD_8    0x8b, 0x51, 8       /* mov 8(%ecx), %edx */
#define LEA_4     0x44, 0x8d, 0x51, 4 /* lea 4(%rcx), %r10d */
#define LEA_8     0x44, 0x8d, 0x51, 8
#define SHARED_8  0x43, 0x8b, 0x14, 0x1a       /* mov (%r10, %r11), %edx */
#define HOST_4    0x43, 0x8b, 0x04, 0x1a       /* mov (%r10, %r11), %eax */
#define LOAD_BASE 0x65, 0x44, 0x8b, 0x14, 0x25 /* mov %gs:base, %r10d */
#define LEA_SPAN  0x45, 0x8d, 0x5a             /* lea n(%r10), %r11d */
#define LEA_20    0x45, 0x8d, 0x52, 0x14       /* lea 20(%r10), %r10d */

static void make32(const void *guest, size_t n)
{
    memset(rig->page, NOP, sizeof(rig->page));
    memcpy(rig->page, guest, n);
    translation_make(rig, 0, KEY(REACH_USER, BT_VECTOR_AVX) | BT_KEY_CODE32, false);
    assert_int_equal(translation_check(rig), 0);
}
#define MAKE32(...) make32((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void sum_of_64_bits(void **state)
{
    MAKE32(LOAD_4);
    *FIND(LEA_4) |= 8; /* REX.W */
    refused("check: of no address");
    MAKE32(LOAD_4, LOAD_8);
    *FIND_LAST(LEA_8) |= 8; /* of the access that needs no check of its own */
    refused("memory: no check leads here");
    MAKE32(LOAD_4, LOAD_8);
    *FIND(LEA_SPAN) |= 8; /* where the span ends */
    refused("memory: 4 bytes where 0 were checked");
}

static void register_of_the_guest(void **state)
{
    MAKE32(0x8b, 0x01, LOAD_8); /* mov (%ecx), %eax */
    FIND(HOST_4)[3] = 0x19;     /* (%rcx, %r11): its upper half is not known */
    *FIND(0x43, 0x8b, 0x04, 0x19) = 0x42;
    refused("memory: no check leads here");
}

static void displacement_of_the_host(void **state)
{
    MAKE32(LOAD_4, LOAD_8);
    uint8_t *at = FIND_LAST(LEA_8);
    at[3] = 4;
    memcpy(FIND(SHARED_8), (uint8_t[]){0x43, 0x8b, 0x14, 0x1a}, 4);
    assert_int_equal(translation_check(rig), 0); /* another access of those checked */
    MAKE32(0x8b, 0x41, 4, 0x0f, 0xb6, 0x51, 8);  /* movzbl 8(%ecx), %edx */
    memcpy(FIND(0x43, 0x0f, 0xb6, 0x14, 0x1a), (uint8_t[]){0x43, 0x8a, 0x54, 0x1a, 1}, 5);
    refused("memory: no check leads here");
}

static void segment_of_64_bits(void **state)
{
    uint32_t base = (uint32_t)(VCPU_OFFSET(seg[0].base) + SEG_GS * sizeof(struct x86_segment));
    MAKE32(0x65, 0xa1, 0x14, 0, 0, 0); /* mov %gs:0x14, %eax */
    uint8_t *at = find(&base, sizeof(base));
    assert_memory_equal(at - 5, ((uint8_t[]){LOAD_BASE}), 5);
    assert_memory_equal(at + 4, ((uint8_t[]){LEA_20}), 4);
    at[-4] |= 8;
    assert_int_equal(translation_check(rig), 0); /* for it is cut off by the sum */
    at[4] |= 8;
    refused("check: of no address");
}

static void copied_by_64_bits(void **state)
{
    MAKE32(0x8b, 0x01);                                               /* mov (%ecx), %eax */
    memcpy(FIND(0x44, 0x8d, 0x11), (uint8_t[]){0x49, 0x89, 0xca}, 3); /* mov %rcx, %r10 */
    refused("check: of no address");
}

static void string_of_the_other_mode(void **state)
{
    MAKE32(0xf3, 0xaa); /* rep stosb */
    const struct bt_stubs *s = &rig->vm.stubs;
    uint8_t *at = FIND(0x49, 0xbb) + 10; /* mov $site, %r11; call */
    int32_t by =
        (int32_t)(s->strings[0][REACH_USER][BT_STOS][0] - s->strings[1][REACH_USER][BT_STOS][0]);
    add32(at + 1, (uint32_t)by);
    refused("flow: a call of something else than the check stub");
}

/* ---- what must pass ---- */

static uint8_t *put(uint8_t *to, const uint8_t *bytes, unsigned n)
{
    memcpy(to, bytes, n);
    return to + n;
}
#define PUT(to, ...) put(to, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

/* By few registers, so that they meet again: disp8(base), with an index at times, by FS or GS at
 * times. */
static uint8_t *put_access(uint8_t *to, uint64_t x)
{
    static const uint8_t opcodes[] = {0x8b, 0x89, 0x03, 0x13, 0x11, 0x39, 0x87, 0x8a};
    static const uint8_t bases[] = {RAX, RSP, RBP, RDI};
    unsigned base = bases[x & 3], index = bases[x >> 2 & 3], reg = x >> 4 & 7;
    bool indexed = (x >> 8 & 3) == 0 && index != RSP;
    if ((x >> 10 & 7) == 0)
        *to++ = x >> 13 & 1 ? 0x64 : 0x65;
    return PUT(to, opcodes[x >> 14 & 7], (uint8_t)(0x44 | reg << 3),
               (uint8_t)((x >> 17 & 3) << 6 | (indexed ? index : 4) << 3 | base),
               (uint8_t)(x >> 19 & 0xfc));
}

static uint8_t *put_other(uint8_t *to, uint64_t x)
{
    static const uint8_t registers[] = {RAX, RSP, RBP, RDI};
    uint8_t r = registers[x & 3], n = (uint8_t)(x >> 8), high = (uint8_t)(x >> 16);
    switch (x >> 2 & 15) {
    case 0:
        return PUT(to, 0x83, (uint8_t)(0xc0 | r), n); /* add, sub, and */
    case 1:
        return PUT(to, 0x83, (uint8_t)(0xe8 | r), n);
    case 2:
        return PUT(to, 0x83, (uint8_t)(0xe0 | r), n);
    case 3:
        return PUT(to, (uint8_t)(0x40 | r)); /* inc, dec */
    case 4:
        return PUT(to, (uint8_t)(0x48 | r));
    case 5:
        return PUT(to, 0x8d, (uint8_t)(0x44 | r << 3), (uint8_t)(0x20 | r), n); /* lea n(r), r */
    case 6:
    case 7:
        return PUT(to, (uint8_t)(0x50 | r));
    case 8:
    case 9:
        return PUT(to, (uint8_t)(0x58 | r));
    case 10:
        return PUT(to, 0x89, (uint8_t)(0xc0 | (n & 0x38) | r));
    case 11:
        return PUT(to, 0x74, 0);
    case 12:
        return PUT(to, (uint8_t)(0xa0 | (n & 3)), 0xf8, 0x3f, (uint8_t)(n >> 2), high);
    case 13: /* an address beyond 2 GiB, and one that wraps */
        return PUT(to, 0x8b, 0x0d, 0xfc, 0xff, high, 0xff);
    case 14:
        return PUT(to, 0x66, 0x83, (uint8_t)(0xc0 | r), n);
    default:
        return n & 1 ? PUT(to, 0x60) : PUT(to, 0x6a, n); /* pusha, push */
    }
}

static void random_sharing(void **state)
{
    uint64_t x = 0x2545f4914f6cdd1d;
    for (unsigned n = 0; n < 6000; n++) {
        uint8_t *to = rig->page;
        memset(rig->page, NOP, 1024);
        while (to < rig->page + 300) {
            uint64_t r = translation_random(&x);
            to = (r & 15) < 9 ? put_access(to, r >> 4) : put_other(to, r >> 4);
        }
        rig->vm.counting = n % 5 == 0;
        by_table(n % 7 == 0);
        rig->alone = n & 1;
        assert_int_equal(translation_try(rig, 0, KEY(x % 3, BT_VECTOR_SSE) | BT_KEY_CODE32, false),
                         0);
    }
    rig->vm.counting = rig->alone = false;
    by_table(false);
}

static void random_bytes(void **state)
{
    assert_int_equal(translation_try_random(rig, BT_KEY_CODE32), 0);
}

/* Every opcode of the legacy maps under the prefixes that change it, with and without memory. */
static void every_opcode(void **state)
{
    static const uint8_t prefixes[][2] = {{0},    {0x66}, {0xf2}, {0xf3},      {0xf0},
                                          {0x65}, {0x2e}, {0x67}, {0x66, 0xf3}};
    static const uint8_t maps[][3] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    static const uint8_t modrms[][6] = {{0xc1},
                                        {0xe7},
                                        {0x01},
                                        {0x14, 0x24},
                                        {0x55, 0x10},
                                        {0x84, 0xc8, 1, 2, 3, 4},
                                        {0x35, 1, 2, 3, 4}};
    for (unsigned n = 0; n < 4 * 256 * 9 * 7; n++) {
        const uint8_t *p = prefixes[n % 9], *map = maps[n / 9 % 4], *m = modrms[n / 36 % 7];
        uint8_t *to = rig->page;
        memset(rig->page, NOP, 64);
        for (unsigned j = 0; j < 2 && p[j] != 0; j++)
            *to++ = p[j];
        for (unsigned j = 0; j < 3 && map[j] != 0; j++)
            *to++ = map[j];
        *to++ = (uint8_t)(n / 252);
        memcpy(to, m, 6);
        assert_int_equal(
            translation_try(rig, 0, KEY(n % 3, BT_VECTOR_AVX512) | BT_KEY_CODE32, false), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sum_of_64_bits),
        cmocka_unit_test(register_of_the_guest),
        cmocka_unit_test(displacement_of_the_host),
        cmocka_unit_test(segment_of_64_bits),
        cmocka_unit_test(copied_by_64_bits),
        cmocka_unit_test(string_of_the_other_mode),
        cmocka_unit_test(random_sharing),
        cmocka_unit_test(random_bytes),
        cmocka_unit_test(every_opcode),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
