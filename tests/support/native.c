/* SPDX-License-Identifier: MIT */
/* See native.h. */
#include "native.h"

#include <cpuid.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "engine/host/processor.h"
#include "vectors.h"

#define FSW_ES     0x80u
#define COMPONENTS 10u

_Alignas(64) uint8_t native_xsave[4096];
uint64_t native_gpr[16] __attribute__((used)), native_flags __attribute__((used));
uint64_t native_code __attribute__((used)), native_host_rsp __attribute__((used));
uint32_t native_mask __attribute__((used)), native_environment[7] __attribute__((used));
void native_enter(void);
void native_exit(void);

static uint8_t *code_page;
static volatile bool inside;
static volatile struct native_fault fault;
static uint32_t component_offset[COMPONENTS]; /* 0: the processor does not have it */

__asm__(".text\n"
        "native_enter:\n"
        "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, native_host_rsp(%rip)\n"
        "mov native_mask(%rip), %eax; xor %edx, %edx; xrstor64 native_xsave(%rip)\n"
        "pushq native_flags(%rip); popfq\n"
        ".irp r, rax,rcx,rdx,rbx,rsp,rbp,rsi,rdi,r8,r9,r10,r11,r12,r13,r14,r15\n"
        "mov native_gpr + 8 * native_n_\\r(%rip), %\\r\n"
        ".endr\n"
        "jmp *native_code(%rip)\n"
        "native_exit:\n"
        ".irp r, rax,rcx,rdx,rbx,rsp,rbp,rsi,rdi,r8,r9,r10,r11,r12,r13,r14,r15\n"
        "mov %\\r, native_gpr + 8 * native_n_\\r(%rip)\n"
        ".endr\n"
        "mov native_host_rsp(%rip), %rsp\n"
        "pushfq; popq native_flags(%rip)\n"
        "pushq $2; popfq\n"
        "mov native_mask(%rip), %eax; xor %edx, %edx; xsave64 native_xsave(%rip)\n"
        "fnstenv native_environment(%rip)\n"
        "fninit; pushq $0x1f80; ldmxcsr (%rsp); pop %rax; vzeroupper\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
        "ret\n"
        ".set native_n_rax, 0; .set native_n_rcx, 1; .set native_n_rdx, 2\n"
        ".set native_n_rbx, 3; .set native_n_rsp, 4; .set native_n_rbp, 5\n"
        ".set native_n_rsi, 6; .set native_n_rdi, 7; .set native_n_r8, 8\n"
        ".set native_n_r9, 9; .set native_n_r10, 10; .set native_n_r11, 11\n"
        ".set native_n_r12, 12; .set native_n_r13, 13; .set native_n_r14, 14\n"
        ".set native_n_r15, 15\n");

#define SIGNALS 4u
static const int numbers[SIGNALS] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction kept[SIGNALS];

static void on_signal(int number, siginfo_t *info, void *context)
{
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    (void)info;
    if (!inside || (uint64_t)r[REG_RIP] != native_code) {
        signal(number, SIG_DFL);
        return;
    }
    fault.vector = (int)r[REG_TRAPNO];
    fault.error = (uint64_t)r[REG_ERR];
    fault.address = (uint64_t)r[REG_CR2];
    r[REG_RIP] = (greg_t)(uintptr_t)native_exit;
}

void native_init(void)
{
    host_processor_find();
    static uint8_t stack[65536];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    sigaltstack(&alternate, NULL);
    struct sigaction a = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (unsigned i = 0; i < SIGNALS; i++)
        sigaction(numbers[i], &a, NULL);
    /* FNSTENV stores 32 bits of FIP */
    code_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (code_page == MAP_FAILED)
        abort();
    unsigned high;
    __asm__("xgetbv" : "=a"(native_mask), "=d"(high) : "c"(0));
    native_mask &= (uint32_t)(XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512);
    for (unsigned i = 2; i < COMPONENTS; i++) {
        unsigned c, d, size, offset;
        __cpuid_count(13, i, size, offset, c, d);
        component_offset[i] = native_mask >> i & 1 ? offset : 0;
    }
}

void native_keep_handlers(void)
{
    for (unsigned i = 0; i < SIGNALS; i++)
        sigaction(numbers[i], NULL, &kept[i]);
}

void native_restore_handlers(void)
{
    for (unsigned i = 0; i < SIGNALS; i++)
        sigaction(numbers[i], &kept[i], NULL);
}

uint64_t native_rip(void)
{
    return (uint64_t)(uintptr_t)code_page + 256;
}

static bool has(unsigned component)
{
    return native_mask >> component & 1;
}

static const uint8_t *part(const uint8_t *base, unsigned component)
{
    return base + component_offset[component];
}

void native_clip(struct x86_vector *s)
{
    vectors_clip(s, native_mask);
}

static bool any_set(const uint8_t *p, unsigned n)
{
    uint8_t any = 0;
    for (unsigned i = 0; i < n; i++)
        any |= p[i];
    return any;
}

/* XSTATE_BV: the components that are not as after INIT. The x87 one: FCW is 37Fh then. */
static uint8_t in_use(const uint8_t *image)
{
    bool x87 =
        image[0] != 0x7f || image[1] != 3 || any_set(image + 2, 22) || any_set(image + 32, 128);
    static const uint16_t sizes[COMPONENTS] = {[2] = 256, [5] = 64, [6] = 512, [7] = 1024};
    unsigned bv = (unsigned)x87 | (unsigned)any_set(image + 160, 256) << 1;
    for (unsigned i = 2; i < COMPONENTS; i++)
        if (has(i))
            bv |= (unsigned)any_set(part(image, i), sizes[i]) << i;
    return (uint8_t)bv;
}

void native_image_from(uint8_t *image, const struct x86_vector *s)
{
    memset(image, 0, 4096);
    memcpy(image, s, 160);
    memset(image + 28, 0, 4);
    for (unsigned n = 0; n < 32; n++) {
        const uint8_t *z = (const uint8_t *)&s->zmm[8 * n];
        if (n < 16) {
            memcpy(image + 160 + 16 * n, z, 16);
            if (has(2))
                memcpy((uint8_t *)part(image, 2) + 16 * n, z + 16, 16);
            if (has(6))
                memcpy((uint8_t *)part(image, 6) + 32 * n, z + 32, 32);
        } else if (has(7)) {
            memcpy((uint8_t *)part(image, 7) + 64 * (n - 16), z, 64);
        }
    }
    if (has(5))
        memcpy((uint8_t *)part(image, 5), s->k, 64);
    image[512] = in_use(image);
}

void native_image_to(const uint8_t *image, struct x86_vector *s)
{
    memset(s, 0, sizeof *s);
    memcpy(s, image, 160);
    s->mxcsr_mask = 0;
    uint8_t bv = image[512];
    for (unsigned n = 0; n < 32; n++) {
        uint8_t *z = (uint8_t *)&s->zmm[8 * n];
        if (n < 16) {
            if (bv & 2)
                memcpy(z, image + 160 + 16 * n, 16);
            if (bv & 4)
                memcpy(z + 16, part(image, 2) + 16 * n, 16);
            if (bv & 0x40)
                memcpy(z + 32, part(image, 6) + 32 * n, 32);
        } else if (bv & 0x80) {
            memcpy(z, part(image, 7) + 64 * (n - 16), 64);
        }
    }
    if (bv & 0x20)
        memcpy(s->k, part(image, 5), 64);
}

bool native_pointers_whole(const struct x86_vector *s)
{
    return host_processor.saves_pointers || (s->fsw & FSW_ES);
}

struct native_fault native_run(struct native_state *s, const uint8_t *bytes, unsigned length)
{
    static const uint8_t jump[] = {0xff, 0x25}; /* through an aligned pointer, because of #AC */
    uint64_t exit_at = (uint64_t)(uintptr_t)native_exit;
    uint8_t *at = code_page + 256;
    int32_t distance = -(int32_t)(256 + length + 6);
    memcpy(code_page, &exit_at, 8);
    memcpy(at, bytes, length);
    memcpy(at + length, jump, sizeof jump);
    memcpy(at + length + sizeof jump, &distance, 4);
    native_image_from(native_xsave, &s->vector);
    memcpy(native_gpr, s->gpr, sizeof native_gpr);
    native_flags = s->rflags;
    native_code = native_rip();
    fault.vector = -1;
    fault.error = fault.address = 0;
    unsigned a = 0, b, c, d;
    __cpuid(a, a, b, c, d); /* the code was changed: serialise */
    inside = true;
    native_enter();
    inside = false;
    memcpy(s->gpr, native_gpr, sizeof native_gpr);
    s->rflags = native_flags;
    native_image_to(native_xsave, &s->vector);
    if (!native_pointers_whole(&s->vector)) {
        s->vector.fip = native_environment[3];
        s->vector.fop = native_environment[4] >> 16 & 0x7ff;
        s->vector.fdp = native_environment[5];
    }
    return (struct native_fault){fault.vector, fault.error, fault.address};
}
