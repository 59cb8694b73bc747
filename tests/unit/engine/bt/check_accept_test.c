/* SPDX-License-Identifier: MIT */
/*
 * The checker accepts what the translator writes: a list of forms, the opcode space, random bytes,
 * instructions across pages, and programs whose accesses share checks. check_test.c has what it
 * refuses.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "translation.h"

#define KEY(reach, vector) ((uint8_t)((reach) | (vector) << BT_KEY_VECTOR_SHIFT))
#define KEYS               12u
#define NOP                0x90

static struct translation_rig *rig;

static int setup(void **state)
{
    rig = translation_create();
    return 0;
}

static int teardown(void **state)
{
    translation_destroy(rig);
    return 0;
}

/* Machine code of 64-bit mode under a name, from name to name_end. */
#define CODE64(name, text)                                                                   \
    __asm__(".pushsection .rodata.code." #name ",\"a\"\n.globl " #name "\n" #name ":\n" text \
            "\n" #name "_end:\n.globl " #name "_end\n.popsection");                          \
    extern const uint8_t name[], name##_end[]

/* ---- what must pass ---- */

CODE64(
    check_forms,
    "mov %rax, %rcx; mov (%rax), %ecx; mov %r10, (%r11); mov %rsp, %rbp; mov 8(%rsp), %r15\n"
    "mov $1, %r11; movb $1, (%rdi); movw $2, 2(%rdi, %rcx, 4); movq $-1, %fs:0x28\n"
    "mov %gs:0x10, %rax; mov 0x1000(%rip), %rdx; lea 8(%rsp, %rbx), %r10; lea (%r11), %ax\n"
    "add %r10, %r11; sub %r15, (%rsp); lock xadd %rcx, (%rdx); lock cmpxchg16b (%rsi)\n"
    "xchg %r15, (%rax); adc $1, %r10d; mul %r11; div %rcx; idivl (%rdi); imul $3, (%rax), %r9\n"
    "shl %cl, %r10; shrl $3, (%rdi); rol $1, %r15b; btl $3, (%rax); bts $4, %ecx; bsf %r10, %r11\n"
    "btl %eax, (%rdi); btcq %r10, 8(%rax); setc %r10b; setnz (%rdi); cmovs (%rax), %r11\n"
    "push %rax; push %r10; push $77; pushq (%rax); pushq 8(%rsp); pop %rbx; pop %r11; pop %rsp\n"
    "leave; pushfq; popfq; sahf; lahf; cmc; cld; std; bswap %r10; movbe (%rax), %r11d\n"
    "movzbl %ah, %eax; mov %ah, %bl; mov %ah, (%rdi); movsbq (%r10), %r15; cdq; cqo; cwtl\n"
    "crc32b (%rax), %r10d; popcnt %r11, %r10; lzcnt (%rax), %ecx; andn %r10, %r11, %rax\n"
    "bextr %rax, (%rcx), %r10; mulx (%rdi), %r10, %r11; rorx $3, %r15, %rax; pdep %r10, %rax, "
    "%rbx\n"
    "adcx %r10, %r11; adox (%rax), %rcx; lfence; mfence; sfence; prefetcht0 (%rax)\n"
    "movaps (%rax), %xmm1; movups %xmm9, (%r10); pxor %xmm1, %xmm2; cvtsi2sd %r10, %xmm1\n"
    "movq %xmm1, %r11; movd (%rax), %xmm3; pinsrw $1, (%rdi), %xmm0; pextrb $3, %xmm1, (%rdi)\n"
    "divsd (%rax), %xmm1; aesenc (%rax), %xmm2; pclmulqdq $1, %xmm1, %xmm2; ucomisd %xmm1, %xmm2\n"
    "ldmxcsr (%rdi); stmxcsr 4(%rsp); movnti %r10, (%rax); movntdq %xmm1, (%rdi); maskmovdqu "
    "%xmm1, %xmm2\n"
    "vmovups (%rax), %ymm1; vaddps (%r10, %r11, 8), %ymm1, %ymm2; vpmaskmovd (%rax), %ymm1, %ymm2\n"
    "vbroadcastsd (%rsp), %ymm5; vpgatherdd %ymm1, (%rax, %ymm2, 4), %ymm3; vzeroupper; vzeroall\n"
    "vfmadd231pd (%rax), %ymm1, %ymm2; vcvtph2ps (%rdi), %ymm1; vextracti128 $1, %ymm1, (%rdi)\n"
    "vmovdqu64 (%rax), %zmm17; vmovdqu8 %zmm1, (%rdi){%k1}; vaddpd (%rax){1to8}, %zmm1, %zmm2\n"
    "vpcompressd %zmm1, (%rdi){%k2}; vscatterdps %zmm1, (%rax, %zmm2, 4){%k1}; kmovq (%rax), %k3\n"
    "vpmovqb %zmm1, (%rdi); vpbroadcastq %r10, %zmm3; kmovw %k1, %r11d; vcmpps $1, (%rax), %zmm1, "
    "%k2\n"
    "flds (%rax); fstpt 2(%r10, %rcx, 4); fnstsw %ax; fcomi %st(2), %st; fcmovb %st(3), %st\n"
    "fninit; fsin; fildll 8(%rsp); fbstp 0x404010; fnstcw (%r11); fwait; fnstenv (%rdi); emms; "
    "movq %mm1, (%rax); fxsave (%rdi); xsave (%rdi); rep movsb; lodsq\n"
    "rdtsc; cpuid; rdfsbase %rax; wrgsbase %r10; swapgs; cli; sti; nop; rdrand %rax; pause\n"
    "mov %cr3, %rax; mov %rax, %cr8; invlpg (%rax); rdmsr; in %dx, %al; mov %ds, %eax; mov %eax, "
    "%fs\n"
    "sti; 1: mov %eax, (%rdi); jnz 1b; jz 2f; jmp 1b; 2: jc .+5000; call 1b; call .+90000\n"
    "jmp *%rax; jmp *8(%rsp); call *%r10; call *(%r11, %rcx, 8); ret; ret $24; syscall\n"
    "sysretq; iretq; lretq; hlt; ud2; int $0x80; int3; loop 1b; jrcxz 1b; enter $8, $1; xlat\n"
    "mov %eax, %gs:(%rdi, %rcx); addl $1, %fs:(%r10d); mov (%esp), %eax; lea (%edi, %ecx), %rax\n"
    "movabs 0x123456789abc, %al; movabs %eax, 0xffff800000000000; mov $0x123456789abcdef, %r10\n");

/* From each instruction on, in every mode; with checks shared, and without. */
static void listed_forms(void **state)
{
    size_t n = (size_t)(check_forms_end - check_forms);
    struct insn in;
    struct insn_full full;

    assert_in_range(n, 600, MEM_PAGE_SIZE - 16);
    memcpy(rig->page, check_forms, n);
    memset(rig->page + n, 0xcc, sizeof(rig->page) - n);
    for (rig->vm.counting = 0;; rig->vm.counting = 1) {
        for (unsigned at = 0; at < n; at += in.length) {
            assert_int_equal(insn_decode(&rig->vm.decoder, INSN_MODE_64, rig->page + at, 15, &in,
                                         &full) == INSN_PARTIAL,
                             false);
            if (in.length == 0 || in.length > 15)
                in.length = 1;
            for (unsigned key = 0; key < KEYS; key++) {
                rig->alone = key & 1;
                assert_int_equal(translation_try(rig, at, KEY(key % 3, key / 3), false), 0);
            }
        }
        if (rig->vm.counting)
            break;
    }
    rig->vm.counting = rig->alone = false;
}

static unsigned try_bytes(const uint8_t *bytes, unsigned n, uint8_t key)
{
    memset(rig->page, NOP, 64);
    memcpy(rig->page, bytes, n);
    return translation_try(rig, 0, key, false) != 0;
}

static const uint8_t modrms[][6] = {
    {0xc1},
    {0xe7},
    {0x01},
    {0x14, 0x24},
    {0x55, 0x10},
    {0x84, 0xc8, 1, 2, 3, 4},
    {0x35, 1, 2, 3, 4},
};
#define MODRMS (sizeof(modrms) / sizeof(modrms[0]))

/* Every opcode of the legacy maps under the prefixes that change it. */
static void legacy_opcodes(void **state)
{
    static const uint8_t prefixes[][3] = {{0},    {0x66}, {0xf2},       {0xf3},       {0x48},
                                          {0x4d}, {0xf0}, {0xf3, 0x48}, {0x66, 0x45}, {0x65, 0x47}};
    static const uint8_t maps[][3] = {{0}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a}};
    unsigned refused = 0;
    for (unsigned n = 0; n < 4 * 256 * 10 * MODRMS; n++) {
        const uint8_t *p = prefixes[n % 10], *map = maps[n / 10 % 4], *m = modrms[n / 40 % MODRMS];
        uint8_t bytes[16] = {0};
        unsigned k = 0;
        for (unsigned j = 0; j < 3 && p[j] != 0; j++)
            bytes[k++] = p[j];
        for (unsigned j = 0; j < 3 && map[j] != 0; j++)
            bytes[k++] = map[j];
        bytes[k++] = (uint8_t)(n / (40 * MODRMS));
        memcpy(bytes + k, m, 6);
        refused += try_bytes(bytes, sizeof(bytes), KEY(n % 3, BT_VECTOR_AVX512));
    }
    assert_int_equal(refused, 0);
}

/* Every opcode of the VEX and EVEX maps, with each pp, W and length; registers and memory. */
static void vector_opcodes(void **state)
{
    unsigned refused = 0;
    for (unsigned n = 0; n < 3 * 256 * 4 * 2 * 3 * 2; n++) {
        unsigned map = 1 + n % 3, pp = n / 3 % 4, w = n / 12 % 2, l = n / 24 % 3;
        uint8_t opcode = (uint8_t)(n / 144);
        const uint8_t *m = modrms[n / 72 % 2 ? 2 + (opcode + n) % (MODRMS - 2) : 0];
        uint8_t vex[16] = {0xc4, (uint8_t)(0xe0 | map),
                           (uint8_t)(w << 7 | 0x68 | (l & 1) << 2 | pp), opcode};
        uint8_t evex[16] = {0x62, (uint8_t)(0xf0 | map), (uint8_t)(w << 7 | 0x6c | pp),
                            (uint8_t)(l << 5 | 8 | n % 2), opcode};
        memcpy(vex + 4, m, 6);
        memcpy(evex + 5, m, 6);
        refused += try_bytes(vex, sizeof(vex), KEY(REACH_USER, BT_VECTOR_AVX512));
        refused += try_bytes(evex, sizeof(evex), KEY(REACH_SUPERVISOR, BT_VECTOR_AVX512));
    }
    assert_int_equal(refused, 0);
}

/* Accesses go by the table of the TLB, not by a slot of their own. */
static void random_bytes(void **state)
{
    assert_int_equal(translation_try_random(rig, 0), 0);
}

/* Prefixes that mean nothing, as many as fit. */
static void repeated_prefixes(void **state)
{
    static const uint8_t full[] = {0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3, 0xf3,
                                   0xf7, 0x47, 0xf3, 0x90, 0x90, 0x90, 0x90};
    assert_false(try_bytes(full, sizeof(full), KEY(REACH_USER, BT_VECTOR_SSE)));
}

/* One instruction, its bytes in two pages. */
static void across_pages(void **state)
{
    static const uint8_t kinds[][8] = {
        {0x48, 0x8b, 0x84, 0xc8, 1, 2, 3, 4},
        {0xe8, 0, 0, 0, 0},
        {0xff, 0x25, 0, 0, 0, 0},
        {0x0f, 0x84, 9, 9, 0, 0},
        {0x48, 0xc7, 0, 1, 0, 0, 0},
        {0x48, 0x89, 0xc1},
        {0xc2, 8, 0},
    };
    for (unsigned n = 0; n < sizeof(kinds) / sizeof(kinds[0]); n++) {
        for (unsigned before = 1; before < 3; before++) {
            memset(rig->page, NOP, sizeof(rig->page));
            memcpy(rig->page + MEM_PAGE_SIZE - before, kinds[n], 8);
            assert_int_equal(
                translation_try(rig, MEM_PAGE_SIZE - before, KEY(REACH_USER, BT_VECTOR_AVX), true),
                0);
        }
    }
}

/* ---- programs that share checks ---- */

CODE64(
    check_shared,
    "push %rbp; mov %rsp, %rbp; push %rbx; push %r12; and $-16, %rsp; sub $0x40, %rsp\n"
    "mov %rdi, -8(%rbp); mov -8(%rbp), %rax; mov (%rax), %rcx; mov 8(%rax), %rdx\n"
    "mov %rcx, 16(%rax); add $8, %rax; mov (%rax), %rsi; mov %rsi, 8(%rsp); incq 24(%rax)\n"
    "mov 8(%rsp), %r10; mov (%r10), %r11; mov 8(%r10), %rbx; add $24, %r10; mov -8(%r10), %r15\n"
    "mov %fs:0x28, %rax; mov %fs:0x30, %rcx; mov %gs:0x1000, %rdx; mov %gs:0x1008, %rsi\n"
    "mov 0x404000, %eax; mov 0x404ff8, %rdx; mov %rdx, 0x404ff8; mov 0x404ffc, %rbx\n"
    "movzbl (%rdi, %rcx, 4), %eax; adc 3(%rdi, %rcx, 4), %al; movb $1, 1(%rdi, %rcx, 4)\n"
    "mov %eax, 8(%rax); adc 12(%rax), %ecx; mov 16(%rax), %edx; sbb 20(%rax), %edx\n"
    "pushf; mov 24(%rax), %ecx; lea 0x40(%rax), %rax; mov -64(%rax), %ecx; mov %al, -1(%rax)\n"
    "lea -24(%rbp), %rsp; pop %rbx; pop %r12; pop %r15; mov (%rsp), %rbp; leave; ret\n"
    "pop %rsp; pop %rax; pop %rcx; push %rcx; push (%rsp); push 8(%rsp); pop %r10; pop %r11\n"
    "mov 2(%rsi), %eax; mov %rax, %rsi; mov 2(%rsi), %eax; mov 6(%rsi), %eax; xadd %rsi, (%rsi)\n"
    "mov 2(%rsi), %eax; mov 6(%rsi), %eax; swapgs; mov %gs:0x1000, %rdx; mov %gs:(%rax), %ecx\n"
    "mov %gs:4(%rax), %ecx; movups (%rdi), %xmm0; movups 16(%rdi), %xmm1; movaps %xmm0, "
    "32(%rdi)\n"
    "lock cmpxchg16b (%rdi); mov %rax, 8(%rdi); mov 240(%rdi), %rax; mov 260(%rdi), %rax\n"
    "sti; mov (%rdi), %rax; mov 8(%rdi), %rax; cli; mov 16(%rdi), %rax; fninit; mov (%rdi), %rax\n"
    "mov 8(%rdi), %rax; mov 4(%rdi), %rax; jz 1f; mov 12(%rdi), %rax; 1: mov (%rdi), %rdi\n"
    "mov (%rdi), %rcx; mov 8(%rdi), %rdi; mov (%rdi), %rdi; call *16(%rax); nop\n");

/* With checks shared, and without. */
static void try_both(unsigned at, uint8_t key)
{
    for (unsigned alone = 0; alone < 2; alone++) {
        rig->alone = alone;
        assert_int_equal(translation_try(rig, at, key, false), 0);
    }
    rig->alone = false;
}

static void listed_sharing(void **state)
{
    size_t n = (size_t)(check_shared_end - check_shared);
    memset(rig->page, 0xcc, sizeof(rig->page));
    memcpy(rig->page, check_shared, n);
    for (unsigned at = 0; at < n; at++)
        for (unsigned key = 0; key < 3; key++)
            try_both(at, KEY(key, BT_VECTOR_AVX));
}

static uint8_t *put(uint8_t *to, const uint8_t *bytes, unsigned n)
{
    memcpy(to, bytes, n);
    return to + n;
}
#define PUT(to, ...) put(to, (const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

/* Opcode reg, disp8(base) or disp8(base, index, scale), of 8 bytes; few registers, so that they
 * meet again. */
static uint8_t *put_access(uint8_t *to, uint8_t opcode, uint64_t x)
{
    static const uint8_t bases[] = {RAX, RSP, RBP, RDI, R8 + 2, R8 + 4, R8 + 7, RSP};
    static const uint8_t segments[] = {0x64, 0x65};
    unsigned base = bases[x & 7], index = bases[x >> 3 & 7], reg = x >> 6 & 15;
    bool indexed = (x >> 10 & 3) == 0 && index != RSP;
    uint8_t disp = (uint8_t)(x >> 12 & 0xf8) / 2;
    if ((x >> 24 & 7) == 0)
        *to++ = segments[x >> 27 & 1];
    to = PUT(to, emit_rex(true, reg, indexed ? index : 0, base), opcode,
             (uint8_t)(0x44 | (reg & 7) << 3));
    return PUT(to, (uint8_t)((x >> 28 & 3) << 6 | (indexed ? (index & 7) : 4) << 3 | (base & 7)),
               disp);
}

static uint8_t *put_absolute(uint8_t *to, uint8_t opcode, uint64_t x)
{
    static const uint8_t low[] = {0, 8, 0xf0, 0xf8, 0xfc, 0xff};
    uint8_t n = low[x % 6];
    if (x >> 8 & 1)
        *to++ = x >> 9 & 1 ? 0x64 : 0x65;
    return PUT(to, 0x48, opcode, 0x0c, 0x25, n, n > 8 ? 0x3f : 0x30, (uint8_t)(x >> 10 & 1), 0);
}

/* One that is likely to leave what is known, or to end it in its own way. */
static uint8_t *put_other(uint8_t *to, uint64_t x)
{
    static const uint8_t registers[] = {RAX, RSP, RBP, RDI, R8 + 2, R8 + 4, R8 + 7, RCX};
    unsigned r = registers[x & 7], high = r >> 3;
    uint8_t n = (uint8_t)(x >> 8), w = (uint8_t)(0x48 | high), low = r & 7;
    switch (x >> 4 & 15) {
    case 0:
        return PUT(to, w, 0x83, (uint8_t)(0xc0 | low), n); /* add, sub, and, xor */
    case 1:
        return PUT(to, w, 0x83, (uint8_t)(0xe8 | low), n);
    case 2:
        return PUT(to, w, 0x83, (uint8_t)(0xe0 | low), n);
    case 3:
        return PUT(to, (uint8_t)(0x40 | high), 0x83, (uint8_t)(0xc0 | low), n); /* of 32 bits */
    case 4:
        return PUT(to, w, 0xff, (uint8_t)(0xc0 | low)); /* inc, dec */
    case 5:
        return PUT(to, w, 0xff, (uint8_t)(0xc8 | low));
    case 6:
        return PUT(to, (uint8_t)(0x48 | high * 5), 0x8d, (uint8_t)(0x44 | low << 3),
                   (uint8_t)(0x20 | low), n); /* lea n(r), r */
    case 7:
    case 8:
        return PUT(to, (uint8_t)(0x40 | high), (uint8_t)(0x50 | low)); /* push, pop */
    case 9:
    case 10:
        return PUT(to, (uint8_t)(0x40 | high), (uint8_t)(0x58 | low));
    case 11:
        return PUT(to, (uint8_t)(0x48 | high | (n & 1) << 2), 0x89,
                   (uint8_t)(0xc0 | (n & 0x38) | low)); /* mov */
    case 12:
        return PUT(to, 0x74, 0); /* je */
    case 13:
        return PUT(to, 0x9c); /* pushf */
    case 14:
        return n & 1 ? PUT(to, 0x0f, 0x01, 0xf8) : PUT(to, 0xdb, 0xe3); /* swapgs, fninit */
    default:
        return n & 2   ? PUT(to, 0xdd, (uint8_t)(0x40 | (n & 0x18)), 0x20 | RSP, n & 0xf8)
               : n & 1 ? PUT(to, 0xfb)
                       : PUT(to, 0x6a, n); /* x87 by RSP, sti, push */
    }
}

static void random_sharing(void **state)
{
    static const uint8_t opcodes[] = {0x8b, 0x89, 0x03, 0x13, 0x11, 0x39, 0x87, 0x8b};
    uint64_t x = 0x2545f4914f6cdd1d;
    for (unsigned n = 0; n < 4000; n++) {
        uint8_t *to = rig->page;
        memset(rig->page, NOP, 1024);
        while (to < rig->page + 300) {
            uint64_t r = translation_random(&x);
            uint8_t opcode = opcodes[r >> 40 & 7];
            to = (r & 15) < 8    ? put_access(to, opcode, r >> 4)
                 : (r & 15) < 10 ? put_absolute(to, opcode, r >> 4)
                                 : put_other(to, r >> 4);
        }
        rig->vm.counting = n % 5 == 0;
        try_both(0, KEY(x % 3, BT_VECTOR_SSE));
    }
    rig->vm.counting = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listed_forms),      cmocka_unit_test(legacy_opcodes),
        cmocka_unit_test(vector_opcodes),    cmocka_unit_test(random_bytes),
        cmocka_unit_test(repeated_prefixes), cmocka_unit_test(across_pages),
        cmocka_unit_test(listed_sharing),    cmocka_unit_test(random_sharing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
