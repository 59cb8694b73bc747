/* SPDX-License-Identifier: MIT */
/*
 * The checker accepts what the translator writes (a list of forms, the opcode space, random bytes,
 * instructions across pages), and refuses one seeded violation of each rule by its name.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "translation.h"
#include "x86_fixture.h"

#define KEY(reach, vector) ((uint8_t)((reach) | (vector) << BT_KEY_VECTOR_SHIFT))
#define KEYS               12u
#define SLOTS              sizeof(((struct tlb *)0)->slots[0][0])
#define FAST               sizeof(((struct tlb *)0)->fast[0][0])
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
    "flds (%rax); fsin; emms; movq %mm1, (%rax); fxsave (%rdi); xsave (%rdi); rep movsb; lodsq\n"
    "rdtsc; cpuid; rdfsbase %rax; wrgsbase %r10; swapgs; cli; sti; nop; rdrand %rax; pause\n"
    "mov %cr3, %rax; mov %rax, %cr8; invlpg (%rax); rdmsr; in %dx, %al; mov %ds, %eax; mov %eax, "
    "%fs\n"
    "sti; 1: mov %eax, (%rdi); jnz 1b; jz 2f; jmp 1b; 2: jc .+5000; call 1b; call .+90000\n"
    "jmp *%rax; jmp *8(%rsp); call *%r10; call *(%r11, %rcx, 8); ret; ret $24; syscall\n"
    "sysretq; iretq; lretq; hlt; ud2; int $0x80; int3; loop 1b; jrcxz 1b; enter $8, $1; xlat\n"
    "mov %eax, %gs:(%rdi, %rcx); addl $1, %fs:(%r10d); mov (%esp), %eax; lea (%edi, %ecx), %rax\n"
    "movabs 0x123456789abc, %al; movabs %eax, 0xffff800000000000; mov $0x123456789abcdef, %r10\n");

/* From each instruction on, in every mode. */
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
            for (unsigned key = 0; key < KEYS; key++)
                assert_int_equal(translation_try(rig, at, KEY(key % 3, key / 3), false), 0);
        }
        if (rig->vm.counting)
            break;
    }
    rig->vm.counting = false;
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
static void by_table(bool all)
{
    memset(rig->vm.scattered, all ? 0xff : 0, sizeof(rig->vm.scattered));
}

static uint64_t next_random(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

static void random_bytes(void **state)
{
    uint64_t x = 0x9e3779b97f4a7c15;
    for (unsigned n = 0; n < 20000; n++) {
        for (unsigned k = 0; k < 64; k += 8) {
            uint64_t bytes = next_random(&x);
            memcpy(rig->page + n % 1000 + k, &bytes, 8);
        }
        rig->vm.counting = n & 1;
        by_table(n & 2);
        assert_int_equal(translation_try(rig, n % 1000, KEY(x % 3, x / 3 % 4), false), 0);
    }
    rig->vm.counting = false;
    by_table(false);
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

/* ---- what must not pass ---- */

static uint8_t *find(const void *bytes, size_t n)
{
    uint8_t *at = memmem(rig->u.code, (size_t)(rig->u.code_end - rig->u.code), bytes, n);
    if (at == NULL) {
        bt_check_report(&rig->u, stderr);
        fail_msg("the translation has not the bytes that the violation starts from");
    }
    return at;
}
#define FIND(...) find((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void make(const void *guest, size_t n)
{
    memset(rig->page, NOP, sizeof(rig->page));
    memcpy(rig->page, guest, n);
    translation_make(rig, 0, KEY(REACH_USER, BT_VECTOR_AVX), false);
    assert_int_equal(translation_check(rig), 0);
}
#define MAKE(...) make((const uint8_t[]){__VA_ARGS__}, sizeof((uint8_t[]){__VA_ARGS__}))

static void refused(const char *rule)
{
    if (translation_check(rig) == 0)
        fail_msg("accepted, though it breaks '%s'", rule);
    if (strncmp(rig->why, rule, strlen(rule)) != 0)
        fail_msg("refused by '%s', not by '%s'", rig->why, rule);
}

static void nops(uint8_t *at, size_t n)
{
    memset(at, NOP, n);
}

static void add32(uint8_t *at, uint32_t by)
{
    uint32_t value;
    memcpy(&value, at, 4);
    value += by;
    memcpy(at, &value, 4);
}

#define LOAD             0x8b, 0x01                   /* mov (%rcx), %eax */
#define LOAD_HOST        0x43, 0x8b, 0x04, 0x1a       /* mov (%r10, %r11), %eax */
#define ADD_SLOT         0x65, 0x4c, 0x03, 0x1c, 0x25 /* add %gs:slot, %r11 */
#define COMPARE          0x49, 0x81, 0xfb             /* cmp $…, %r11 */
#define AND_INDEX        0x41, 0x81, 0xe3             /* and $…, %r11d */
#define ADD_ENTRY        0x65, 0x4e, 0x03, 0x14, 0x1d /* add %gs:…(%r11), %r10 */
#define PUSH_R10         0x41, 0x52
#define STORE_HOST       0x4d, 0x89, 0x1a /* mov %r11, (%r10) */
#define JMP_BACK         0xeb, 0xfe
#define JMP_RAX          0xff, 0xe0
#define JMP_FAR_AWAY     0xe9, 0, 0x20, 0, 0
#define MOV_REG          0x48, 0x89, 0xc1 /* mov %rax, %rcx */
#define COMPARE_REQUESTS 0x65, 0x83, 0x3c, 0x25

static void memory_size(void **state)
{
    MAKE(LOAD);
    *FIND(LOAD_HOST) |= 8; /* REX.W */
    refused("memory: 8 bytes where 4 were checked");
}

static void memory_displacement(void **state)
{
    MAKE(0x0f, 0xb6, 0x41, 0); /* movzbl 0(%rcx), %eax */
    memcpy(FIND(0x43, 0x0f, 0xb6, 0x04, 0x1a), (uint8_t[]){0x43, 0x8a, 0x44, 0x1a, 1}, 5);
    refused("memory: 1 bytes where 1 were checked");
}

static void memory_write(void **state)
{
    MAKE(LOAD);
    FIND(LOAD_HOST)[1] = 0x89;
    refused("memory: a write under the read table");
}

static void memory_other_register(void **state)
{
    MAKE(LOAD);
    FIND(LOAD_HOST)[3] = 0x19; /* (%r9, %r11) */
    refused("memory: no check leads here");
}

static void memory_bit_offset(void **state)
{
    MAKE(0x0f, 0xb7, 0x01); /* movzwl (%rcx), %eax */
    FIND(0x43, 0x0f, 0xb7, 0x04, 0x1a)[2] = 0xa3;
    refused("memory: a bit offset");
}

static void check_without_branch(void **state)
{
    MAKE(LOAD);
    nops(FIND(0x0f, 0x87), 6); /* ja */
    refused("table: the host address is read before the check");
}

static void check_of_less(void **state)
{
    MAKE(LOAD);
    add32(FIND(COMPARE) + 3, 1); /* $4092 becomes $4093 */
    refused("memory: 4 bytes where 3 were checked");
}

static void slot_of_another_reach(void **state)
{
    MAKE(LOAD);
    add32(FIND(ADD_SLOT) + 5, 2 * SLOTS);
    refused("table: %gs:");
}

static void slot_pair(void **state)
{
    MAKE(0x89, 0x01); /* mov %eax, (%rcx): the tag of one slot, the addend of another */
    add32(FIND(ADD_SLOT) + 5, sizeof(struct tlb_fast));
    refused("table: the host address is read before the check");
    MAKE(0x89, 0x01);
    add32(FIND(ADD_SLOT) + 5, -(uint32_t)SLOTS); /* of the read slots */
    refused("table: the host address is read before the check");
}

static void slot_field(void **state)
{
    MAKE(LOAD);
    add32(FIND(ADD_SLOT) + 5, 8);
    refused("table: the host address is read before the check");
    MAKE(LOAD);
    add32(FIND(ADD_SLOT) + 5, 4);
    refused("table: ");
}

/* The address changes between the check and the access. */
static void slot_of_another_address(void **state)
{
    MAKE(LOAD);
    uint8_t *copy = FIND(0x4d, 0x89, 0xd3); /* mov %r10, %r11 */
    copy[0] = 0x49;
    copy[1] = 0x89;
    copy[2] = 0xcb; /* mov %rcx, %r11 */
    refused("memory: no check leads here");
}

static uint8_t *cold_of_load(void)
{
    MAKE(LOAD);
    uint8_t *cold = FIND(0x41, 0xbb); /* mov $what, %r11d; call check; jmp back */
    assert_int_equal(cold[6], 0xe8);
    assert_int_equal(cold[11], 0xe9);
    return cold;
}

static void check_stub(void **state)
{
    add32(cold_of_load() + 2, 1); /* what: 4093 */
    refused("memory: 4 bytes where 3 were checked");
    add32(cold_of_load() + 2, SLOTS << 16);
    refused("check: the slot to be filled is another table's");
    add32(cold_of_load() + 2, 8 << 16);
    refused("check: the slot to be filled is another table's");
    add32(cold_of_load() + 2, BT_CHECK_WRITE);
    refused("check: a read for a write");
    memcpy(cold_of_load(), (uint8_t[]){0x45, 0x89, 0xd3, NOP, NOP, NOP}, 6); /* mov %r10d, %r11d */
    refused("check: the stub is not told what");
    uint8_t *cold = cold_of_load();
    add32(cold + 7, (uint32_t)(rig->vm.stubs.check[0][1] - rig->vm.stubs.check[0][0]));
    refused("check: the slot to be filled is another table's");
    cold = cold_of_load();
    add32(cold + 7, (uint32_t)(rig->vm.stubs.check[1][0] - rig->vm.stubs.check[0][0]));
    refused("flow: a call of something else than the check stub");
}

static void table_mask(void **state)
{
    by_table(true);
    MAKE(LOAD);
    FIND(AND_INDEX)[4] |= 0x40;
    refused("table: the index is not masked");
    MAKE(LOAD);
    FIND(AND_INDEX)[4] &= 0x1f; /* stays inside, but is another entry than the address's */
    refused("table: the host address is read before the check");
    by_table(false);
}

static void table_of_another_reach(void **state)
{
    by_table(true);
    MAKE(LOAD);
    add32(FIND(ADD_ENTRY) + 5, 2 * FAST);
    refused("table: %gs:");
    by_table(false);
}

static void table_pair(void **state)
{
    by_table(true);
    MAKE(0x89, 0x01); /* mov %eax, (%rcx): tag of the read table, addend of the write table */
    add32(FIND(ADD_ENTRY) + 5, -(uint32_t)FAST);
    refused("table: the host address is read before the check");
    by_table(false);
}

static void table_without_branch(void **state)
{
    by_table(true);
    MAKE(LOAD);
    nops(FIND(0x0f, 0x87), 6);
    refused("table: the host address is read before the check");
    MAKE(LOAD);
    add32(FIND(0x49, 0x81, 0xfa) + 3, 1); /* cmp $4092, %r10 */
    refused("memory: 4 bytes where 3 were checked");
    by_table(false);
}

static void table_of_jumps(void **state)
{
    MAKE(JMP_RAX);
    uint8_t *compare = FIND(0x65, 0x4e, 0x3b, 0x14, 0x1d);
    nops(compare + 9, 6); /* jne */
    refused("table: the code of a jump that was not compared");
}

static void vcpu_outside(void **state)
{
    MAKE(0x41, 0xba, 1, 0, 0, 0); /* mov $1, %r10d */
    uint32_t end = sizeof(struct vcpu) - 7;
    memcpy(FIND(0x65, 0x4c, 0x89, 0x14, 0x25) + 5, &end, 4);
    refused("vcpu: %gs:");
    assert_non_null(strstr(rig->why, "lies outside"));
}

static void vcpu_not_writable(void **state)
{
    static const size_t fields[] = {offsetof(struct vcpu, tlb), offsetof(struct vcpu, requests),
                                    offsetof(struct vcpu, unwind), LOCAL_OFFSET(self),
                                    LOCAL_OFFSET(jumps)};
    for (unsigned n = 0; n < sizeof(fields) / sizeof(fields[0]); n++) {
        uint32_t field = (uint32_t)fields[n];
        MAKE(0x41, 0xba, 1, 0, 0, 0);
        memcpy(FIND(0x65, 0x4c, 0x89, 0x14, 0x25) + 5, &field, 4);
        refused("vcpu: %gs:");
        assert_non_null(strstr(rig->why, "not to be written"));
    }
}

static void vcpu_not_readable(void **state)
{
    static const size_t fields[] = {offsetof(struct vcpu, unwind), offsetof(struct vcpu, platform),
                                    LOCAL_OFFSET(self), LOCAL_OFFSET(jumps) + 8,
                                    LOCAL_OFFSET(miss_pc) + 4};
    for (unsigned n = 0; n < sizeof(fields) / sizeof(fields[0]); n++) {
        uint32_t field = (uint32_t)fields[n];
        MAKE(0x44, 0x89, 0xd0); /* mov %r10d, %eax */
        memcpy(FIND(0x65, 0x4c, 0x8b, 0x14, 0x25) + 5, &field, 4);
        refused("vcpu: %gs:");
        assert_non_null(strstr(rig->why, "holds a host address"));
    }
}

static void host_address_stored(void **state)
{
    MAKE(PUSH_R10);
    FIND(STORE_HOST)[2] = 0x12; /* mov %r10, (%r10) */
    refused("host address: used as data");
    MAKE(PUSH_R10);
    FIND(0x4f, 0x8d, 0x14, 0x1a)[0] = 0x4b; /* lea (%r10, %r11), %rdx */
    refused("host address: used as data");
    MAKE(PUSH_R10);
    FIND(0x4f, 0x8d, 0x14, 0x1a)[3] = 0x19; /* lea (%r9, %r11), %r10 */
    refused("host address: used as data");
}

/* Any of these in place of a move between registers. */
static void foreign_instructions(void **state)
{
    static const struct {
        uint8_t bytes[8], length;
        const char *rule;
    } foreign[] = {
        {{0x0f, 0x05}, 2, "opcode: SYSCALL"},
        {{0x0f, 0x34}, 2, "opcode: "},
        {{0xcd, 0x80}, 2, "opcode: INTERRUPT"},
        {{0xcc}, 1, "opcode: INTERRUPT"},
        {{0xe4, 0x60}, 2, "opcode: IO"},
        {{0xee}, 1, "opcode: IO"},
        {{0xf4}, 1, "opcode: "},
        {{0xfa}, 1, "opcode: FLAGOP"},
        {{0xfb}, 1, "opcode: FLAGOP"},
        {{0xfd}, 1, "opcode: FLAGOP"},
        {{0xfc}, 1, "opcode: FLAGOP"},
        {{0x9d}, 1, "opcode: POP"},
        {{0x48, 0xcf}, 2, "opcode: RET"},
        {{0xc3}, 1, "opcode: RET"},
        {{0xcb}, 1, "opcode: RET"},
        {{0x0f, 0x01, 0xef}, 3, "opcode: PKU"},
        {{0x0f, 0x01, 0xd1}, 3, "opcode: XSAVE"},
        {{0x0f, 0xae, 0x29}, 3, "opcode: XSAVE"},
        {{0x0f, 0xae, 0x09}, 3, "opcode: SSE"},
        {{0x0f, 0x30}, 2, "opcode: SYSTEM"},
        {{0x0f, 0x32}, 2, "opcode: SYSTEM"},
        {{0x0f, 0x22, 0xd8}, 3, "opcode: DATAXFER"},
        {{0x0f, 0x23, 0xf8}, 3, "opcode: DATAXFER"},
        {{0x0f, 0x01, 0xf8}, 3, "opcode: SYSTEM"},
        {{0xf3, 0x48, 0x0f, 0xae, 0xd0}, 5, "opcode: RDWRFSGS"},
        {{0xf3, 0x48, 0x0f, 0xae, 0xd8}, 5, "opcode: RDWRFSGS"},
        {{0xa4}, 1, "opcode: STRINGOP"},
        {{0xf3, 0xa4}, 2, "opcode: STRINGOP"},
        {{0x0f, 0xa2}, 2, "opcode: MISC"},
        {{0xd7}, 1, "opcode: MISC"},
        {{0xd9, 0xfe}, 2, "opcode: X87_ALU"},
        {{0x0f, 0x77}, 2, "opcode: MMX"},
        {{0x0f, 0x6f, 0xc1}, 3, "register: mm"},
        {{0x8e, 0xe8}, 2, "register: gs"},
        {{0x8e, 0xe0}, 2, "register: fs"},
        {{0x8c, 0xd8}, 2, "register: ds"},
        {{0x89, 0xcc}, 2, "rsp: named"},
        {{0x89, 0xe1}, 2, "rsp: named"},
        {{0x48, 0x8d, 0x0c, 0x24}, 4, "rsp: named"},
        {{0x54}, 1, "rsp: named"},
        {{0x5c}, 1, "rsp: named"},
        {{0x8b, 0x0c, 0x24}, 3, "rsp: a base"},
        {{0x48, 0x83, 0xec, 8}, 4, "rsp: named"},
        {{0x58}, 1, "rsp: a pop without a push"},
        {{0x66, 0x50}, 2, "rsp: not 8 bytes"},
        {{0x48, 0x8b, 0x01}, 3, "memory: no check"},
        {{0x48, 0x89, 0x01}, 3, "memory: no check"},
        {{0x0f, 0xae, 0x11}, 3, "memory: no check"},
        {{0x41, 0x8b, 0x07}, 3, "memory: no check"},
        {{0x8b, 0x05, 0, 0, 0, 0}, 6, "memory: no"},
        {{0x64, 0x8b, 0x01}, 3, "memory: segment fs"},
        {{0x65, 0x8b, 0x01}, 3, "table: "},
        {{0x65, 0x67, 0x8b, 0x04, 0x25, 0, 0, 0}, 8, "memory: not a plain"},
        {{0xc4, 0xe2, 0x75, 0x90, 0x04, 0x10}, 6, "opcode: AVX2GATHER"},
        {{0xff, 0xd0}, 2, "flow: a call"},
        {{0xff, 0xe0}, 2, "flow: an indirect"},
        {{0xe8, 0, 0, 0, 0}, 5, "flow: a call"},
        {{0xeb, 0x80}, 2, "flow: to no known stub"},
        {{0x0f, 0xff}, 2, "opcode: "},
        {{0xff, 0x2f}, 2, "opcode: UNCOND_BR"},
        {{0xc7, 0xf8, 0, 0, 0, 0}, 6, "opcode: COND_BR"},
        {{0x0f, 0x01, 0xd5}, 3, "opcode: "},
        {{0xe2, 0}, 2, "opcode: COND_BR"},
        {{0x06}, 1, "flow: no instruction"},
    };
    for (unsigned n = 0; n < sizeof(foreign) / sizeof(foreign[0]); n++) {
        MAKE(MOV_REG, MOV_REG, MOV_REG, MOV_REG);
        uint8_t *at = FIND(MOV_REG, MOV_REG, MOV_REG, MOV_REG);
        nops(at, 12);
        memcpy(at, foreign[n].bytes, foreign[n].length);
        if (foreign[n].length == 8)
            at[8] = 0;
        refused(foreign[n].rule);
    }
}

static void stack_unbalanced(void **state)
{
    MAKE(0x83, 0xc0, 1, JMP_RAX); /* add $1, %eax: its flags are saved */
    nops(FIND(0x9c, 0x65, 0x8f) + 1, 8);
    refused("rsp: pushes at an exit");
    MAKE(0x83, 0xc0, 1, JMP_RAX);
    nops(FIND(0x9c, 0x65, 0x8f), 1);
    refused("rsp: a pop without a push");
}

static void flow_middle(void **state)
{
    add32(cold_of_load() + 12, 1);
    refused("flow: ");
}

static void flow_stub(void **state)
{
    add32(cold_of_load() + 7, 1);
    refused("flow: a call of something else than the check stub");
    MAKE(0x0f, 0xa2); /* cpuid: a site */
    uint8_t *at = FIND(0x49, 0xbb);
    assert_int_equal(at[10], 0xe9);
    add32(at + 11, 1);
    refused("flow: to no known stub");
}

static void flow_end(void **state)
{
    MAKE(LOAD);
    rig->u.code_end -= 5; /* the jump after the last look at the token */
    refused("flow: leaves the unit");
}

static void exit_records(void **state)
{
    MAKE(0x74, 4, JMP_BACK); /* je, jmp */
    assert_int_equal(rig->u.exit_count, 2);
    uint64_t other = (uintptr_t)&rig->u.exits[1];
    memcpy(rig->u.exits[0].unlinked + (rig->u.exits[0].host_flags ? 9 : 0) + 2, &other, 8);
    refused("exit: another's record");
    MAKE(0x74, 4, JMP_BACK);
    rig->u.exits[1].unlinked++;
    refused("exit: neither");
    MAKE(0x74, 4, JMP_BACK);
    rig->u.exits[1].patch++; /* its jump is one like any other */
    refused("exit: another's record");
    MAKE(JMP_FAR_AWAY);
    rig->u.exits[0].crossing = false;
    refused("exit: crosses pages");
}

static void exit_linked(void **state)
{
    MAKE(JMP_BACK);
    struct bt_exit *x = &rig->u.exits[0];
    x->to = &rig->u;
    emit_patch(x->patch, x->host_flags ? rig->u.enter_host : rig->u.enter_saved);
    assert_int_equal(translation_check(rig), 0);
    emit_patch(x->patch, rig->u.enter_crossing);
    refused("exit: neither");
}

static void site_record(void **state)
{
    MAKE(0x0f, 0xa2);
    FIND(0x49, 0xbb)[2] ^= 8;
    refused("site: no record of this unit");
    MAKE(0xd9, 0xfe); /* fsin: a site that resumes */
    assert_non_null(rig->u.sites[0].resume);
    rig->u.sites[0].resume -= 2;
    refused("flow: into the middle");
    MAKE(0x0f, 0xa2);
    rig->u.sites[0].from = NULL;
    refused("site: of another unit");
}

static void crossing_token(void **state)
{
    MAKE(LOAD);
    add32(rig->u.enter_crossing + 8, 1); /* cmpl $token, %gs:tokens[…] */
    refused("crossing: ");
    MAKE(LOAD);
    add32(rig->u.enter_crossing + 4, 4);
    refused("crossing: ");
}

static void crossing_second(void **state)
{
    memset(rig->page, NOP, sizeof(rig->page));
    memcpy(rig->page + MEM_PAGE_SIZE - 1, (uint8_t[]){LOAD}, 2);
    translation_make(rig, MEM_PAGE_SIZE - 1, KEY(REACH_USER, BT_VECTOR_AVX), true);
    assert_int_equal(translation_check(rig), 0);
    add32(rig->u.enter_saved + 8, 1);
    refused("crossing: ");
}

static void poll_backward(void **state)
{
    MAKE(JMP_BACK);
    uint8_t *at = FIND(COMPARE_REQUESTS);
    assert_int_equal(at[9], 0x74);
    at[9] = 0xeb; /* jmp for je */
    refused("poll: a jump back");
}

static void poll_with_flags(void **state)
{
    MAKE(0xff, 0xc8, 0x75, 0xfc); /* dec %eax; jnz: the form with jecxz */
    uint8_t *at = FIND(0x67, 0xe3);
    at[0] = NOP;
    at[1] = 0xeb; /* jmp */
    refused("poll: a jump back");
}

static void poll_other_field(void **state)
{
    MAKE(JMP_BACK);
    add32(FIND(COMPARE_REQUESTS) + 4, 8);
    refused("poll: a jump back");
}

static void poll_crossing(void **state)
{
    MAKE(JMP_FAR_AWAY);
    nops(FIND(COMPARE_REQUESTS), 9); /* the jump is decided by old flags */
    refused("poll: ");
}

static void poll_indirect(void **state)
{
    MAKE(JMP_RAX);
    nops(FIND(COMPARE_REQUESTS) + 9, 6); /* jne */
    refused("poll: an indirect jump");
}

static void marks(void **state)
{
    MAKE(LOAD);
    assert_int_equal(rig->u.mark_count, 2);
    rig->u.marks[0].host++;
    refused("mark: the host may stop here");
    MAKE(LOAD);
    rig->u.mark_count = 1;
    refused("mark: a miss");
    MAKE(LOAD, LOAD);
    rig->u.marks[0].host = rig->u.marks[1].host + 1;
    refused("mark: out of order");
}

static void place(void **state)
{
    MAKE(LOAD);
    rig->vm.first += 16;
    refused("place: ");
    rig->vm.first -= 16;
}

static struct x86_fixture *machine(void **engine_vm, const uint8_t *code, size_t n)
{
    struct x86_fixture *f = x86_fixture_create();
    struct error e = {0};
    f->platform.checks = ENGINE_CHECK_TRANSLATIONS;
    if (engine_bt.vm_init(&f->platform, engine_vm, &e) != 0 ||
        engine_bt.vcpu_init(*engine_vm, &f->v, &e) != 0)
        fail_msg("%s", e.text);
    x86_fixture_long_mode(f, false);
    x86_fixture_map(f, 0x1000, 0x1000, PTE_P | PTE_RW);
    assert_int_equal(mem_write(&f->mem, GPA(0x1000), code, n), 0);
    f->v.rip = 0x1000;
    return f;
}

/* The engine asks the checker before it runs a unit, and ends when one is refused. */
static void refusal_ends_the_run(void **state)
{
    static const uint8_t code[] = {JMP_BACK, JMP_BACK};
    void *engine_vm;
    struct x86_fixture *f = machine(&engine_vm, code, sizeof(code));
    struct bt_vm *vm = engine_vm;

    assert_int_equal(engine_bt.run(&f->v, 1000), EXIT_NONE);
    assert_int_equal(f->v.counters.instructions, 1000);
    f->v.rip = 0x1002;
    vm->first = vm->memory.write + vm->memory.size; /* so no unit is in its place */
    assert_int_equal(engine_bt.run(&f->v, 2000), EXIT_ERROR);
    assert_int_equal(f->v.counters.instructions, 1000);
    assert_int_equal(engine_bt.run(&f->v, 2000), EXIT_ERROR);
    engine_bt.vcpu_fini(&f->v);
    engine_bt.vm_fini(engine_vm);
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(listed_forms),
        cmocka_unit_test(legacy_opcodes),
        cmocka_unit_test(vector_opcodes),
        cmocka_unit_test(random_bytes),
        cmocka_unit_test(repeated_prefixes),
        cmocka_unit_test(across_pages),
        cmocka_unit_test(memory_size),
        cmocka_unit_test(memory_displacement),
        cmocka_unit_test(memory_write),
        cmocka_unit_test(memory_other_register),

        cmocka_unit_test(memory_bit_offset),
        cmocka_unit_test(check_without_branch),
        cmocka_unit_test(check_of_less),
        cmocka_unit_test(slot_of_another_reach),
        cmocka_unit_test(slot_pair),
        cmocka_unit_test(slot_field),
        cmocka_unit_test(slot_of_another_address),
        cmocka_unit_test(check_stub),
        cmocka_unit_test(table_without_branch),
        cmocka_unit_test(table_mask),
        cmocka_unit_test(table_of_another_reach),
        cmocka_unit_test(table_pair),
        cmocka_unit_test(table_of_jumps),
        cmocka_unit_test(vcpu_outside),
        cmocka_unit_test(vcpu_not_writable),
        cmocka_unit_test(vcpu_not_readable),
        cmocka_unit_test(host_address_stored),
        cmocka_unit_test(foreign_instructions),
        cmocka_unit_test(stack_unbalanced),
        cmocka_unit_test(flow_middle),
        cmocka_unit_test(flow_stub),
        cmocka_unit_test(flow_end),
        cmocka_unit_test(exit_records),
        cmocka_unit_test(exit_linked),
        cmocka_unit_test(site_record),
        cmocka_unit_test(crossing_token),
        cmocka_unit_test(crossing_second),
        cmocka_unit_test(poll_backward),
        cmocka_unit_test(poll_with_flags),
        cmocka_unit_test(poll_other_field),
        cmocka_unit_test(poll_crossing),
        cmocka_unit_test(poll_indirect),
        cmocka_unit_test(marks),
        cmocka_unit_test(place),
        cmocka_unit_test(refusal_ends_the_run),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
