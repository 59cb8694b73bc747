/* SPDX-License-Identifier: MIT */
/* See guest.h. */
#include "guest.h"

#include <stdlib.h>
#include <string.h>

#define CODE64  (0x9bu | ATTR_L | ATTR_G)
#define CODE32  (0x9bu | ATTR_DB | ATTR_G)
#define DATA32  (0x93u | ATTR_DB | ATTR_G)
#define RING(n) ((uint32_t)(n) << 5)

static uint64_t fake_tsc(struct vcpu *v)
{
    return 0;
}

static bool fake_random(struct vcpu *v, bool seed, uint64_t *value)
{
    return false;
}

static uint64_t fake_read(struct vcpu *v, enum bus_space space, uint64_t address, unsigned size)
{
    return UINT64_MAX;
}

static void fake_write(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                       unsigned size)
{
}

static int fake_acknowledge(struct vcpu *v)
{
    struct guest *g = v->platform->gate_context;
    g->acknowledged++;
    return g->interrupt;
}

static const struct gate_ops fake_gate = {
    .tsc = fake_tsc,
    .random = fake_random,
    .read = fake_read,
    .write = fake_write,
    .acknowledge = fake_acknowledge,
};

static uint8_t fake_cr8_read(void *context)
{
    return ((struct guest *)context)->cr8;
}

static void fake_cr8_write(void *context, uint8_t tpr)
{
    ((struct guest *)context)->cr8 = tpr;
}

static uint8_t fake_sipi(void *context)
{
    return ((struct guest *)context)->sipi;
}

static void fake_init(void *context)
{
    ((struct guest *)context)->inits++;
}

static const struct vcpu_irq_ops fake_irq = {
    .cr8_read = fake_cr8_read,
    .cr8_write = fake_cr8_write,
    .sipi_vector = fake_sipi,
    .init = fake_init,
};

uint64_t guest_read(struct guest *g, uint64_t address, unsigned size)
{
    uint64_t value = 0;
    if (mem_read(&g->mem, GPA(address), &value, size) != 0)
        abort();
    return value;
}

void guest_write(struct guest *g, uint64_t address, uint64_t value, unsigned size)
{
    if (mem_write(&g->mem, GPA(address), &value, size) != 0)
        abort();
}

uint64_t guest_descriptor(uint32_t base, uint32_t limit20, uint32_t attributes)
{
    return (limit20 & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)attributes << 40 |
           (uint64_t)(limit20 & 0xf0000) << 32 | (uint64_t)(base & 0xff000000) << 32;
}

void guest_set_gdt(struct guest *g, uint16_t selector, uint64_t low)
{
    guest_write(g, GUEST_GDT + (selector & 0xfff8u), low, 8);
}

void guest_set_idt(struct guest *g, uint8_t vector, uint16_t selector, uint64_t offset,
                   uint32_t attributes, unsigned ist)
{
    unsigned size = (g->v->efer & EFER_LMA) ? 16 : 8;
    uint64_t low = (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 |
                   (uint64_t)attributes << 40 | (offset & 0xffff0000) << 32;
    guest_write(g, GUEST_IDT + vector * size, low, 8);
    if (size == 16)
        guest_write(g, GUEST_IDT + vector * size + 8, offset >> 32, 8);
}

void guest_set_page(struct guest *g, uint64_t address, uint64_t bits)
{
    guest_write(g, GUEST_PT + (address >> 12) * 8, (address & ~0xfffull) | bits, 8);
    tlb_flush_all(g->v);
}

void guest_ring(struct guest *g, unsigned cpl, unsigned bits)
{
    struct vcpu *v = g->v;
    uint32_t code = (bits == 64 ? CODE64 : CODE32) | RING(cpl);
    uint16_t cs = cpl == 0 ? (bits == 64 ? SEL_CODE64 : SEL_CODE32)
                           : (bits == 64 ? SEL_USER_CODE64 : SEL_USER_CODE32);
    uint16_t ss = cpl == 0 ? SEL_DATA : SEL_USER_DATA;
    v->cpl = (uint8_t)cpl;
    v->seg[SEG_CS] = (struct x86_segment){(uint16_t)((cs & ~3u) | cpl), code, UINT32_MAX, 0};
    v->seg[SEG_SS] =
        (struct x86_segment){(uint16_t)((ss & ~3u) | cpl), DATA32 | RING(cpl), UINT32_MAX, 0};
    v->gpr[RSP] = cpl == 0 ? GUEST_STACK : GUEST_USER;
    v->rip = 0x5000;
    vcpu_update_mode(v);
}

static void build_cpuid(struct cpuid_model *m)
{
    m->entries[0] = (struct cpuid_entry){
        .leaf = 0, .eax = 7, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69};
    m->entries[1] = (struct cpuid_entry){
        .leaf = 1, .ecx = 1u << 17 | 1u << 26, .edx = 0x3f8bfbff & ~2u}; /* all but VME */
    m->entries[2] = (struct cpuid_entry){
        .leaf = 7, .indexed = true, .ebx = 1u << 0 | 1u << 7 | 1u << 20, .ecx = 1u << 2 | 1u << 16};
    m->count = 3;
    m->xcr0_supported = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
}

static void build_page_tables(struct guest *g)
{
    guest_write(g, GUEST_PML4, (GUEST_PML4 + 0x1000) | 7, 8);
    guest_write(g, GUEST_PML4 + 0x1000, (GUEST_PML4 + 0x2000) | 7, 8);
    guest_write(g, GUEST_PML4 + 0x2000, GUEST_PT | 7, 8);
    for (uint64_t page = 0; page < GUEST_RAM; page += 4096)
        guest_write(g, GUEST_PT + page / 512, page | 7, 8);
}

static void build_tables(struct guest *g, bool long_mode)
{
    guest_set_gdt(g, SEL_CODE64, guest_descriptor(0, 0xfffff, long_mode ? CODE64 : CODE32));
    guest_set_gdt(g, SEL_DATA, guest_descriptor(0, 0xfffff, DATA32));
    guest_set_gdt(g, SEL_USER_CODE32, guest_descriptor(0, 0xfffff, CODE32 | RING(3)));
    guest_set_gdt(g, SEL_USER_DATA, guest_descriptor(0, 0xfffff, DATA32 | RING(3)));
    guest_set_gdt(g, SEL_USER_CODE64, guest_descriptor(0, 0xfffff, CODE64 | RING(3)));
    guest_set_gdt(g, SEL_TSS, guest_descriptor(GUEST_TSS, 0xfff, 0x89));
    guest_set_gdt(g, SEL_LDT, guest_descriptor(GUEST_LDT, 0xff, 0x82));
    guest_set_gdt(g, SEL_CODE32, guest_descriptor(0, 0xfffff, CODE32));
    guest_set_gdt(g, SEL_CONFORMING,
                  guest_descriptor(0, 0xfffff, (long_mode ? CODE64 : CODE32) | 0x4u));
    if (long_mode) {
        guest_write(g, GUEST_TSS + 4, GUEST_RSP0, 8);
        guest_write(g, GUEST_TSS + 12, GUEST_RSP1, 8);
        guest_write(g, GUEST_TSS + 36, GUEST_IST1, 8);
    } else {
        guest_write(g, GUEST_TSS + 4, GUEST_RSP0, 4);
        guest_write(g, GUEST_TSS + 8, SEL_DATA, 2);
    }
}

static int setup(void **state, bool long_mode)
{
    struct guest *g = calloc(1, sizeof(*g));
    struct error e;
    mem_init(&g->mem);
    if (mem_add(&g->mem, "ram", GPA(0), GUEST_RAM, MEM_ANONYMOUS, false, &e) != 0)
        return -1;
    build_cpuid(&g->cpuid);
    g->interrupt = -1;
    g->platform = (struct x86_platform){.mem = &g->mem,
                                        .cpuid = &g->cpuid,
                                        .gate = &fake_gate,
                                        .gate_context = g,
                                        .physical_address_bits = 46};
    size_t size = (sizeof(struct vcpu) + 63) / 64 * 64;
    g->v = aligned_alloc(64, size);
    g->before = aligned_alloc(64, size);
    g->ram_before = malloc(GUEST_RAM);
    struct vcpu *v = g->v;
    memset(v, 0, size);
    v->platform = &g->platform;
    v->irq = &fake_irq;
    v->irq_context = g;
    tlb_init(&v->tlb);
    v->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP;
    v->rflags = FLAG_ONE;
    v->dr6 = DR6_FIXED;
    v->dr7 = DR7_FIXED;
    v->xcr0 = XCR0_X87;
    if (long_mode) {
        v->cr0 |= CR0_PG;
        v->cr3 = GUEST_PML4;
        v->cr4 = CR4_PAE;
        v->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
        build_page_tables(g);
    }
    build_tables(g, long_mode);
    v->gdtr = (struct x86_table_register){GUEST_GDT, GUEST_GDT_SIZE - 1};
    v->idtr = (struct x86_table_register){GUEST_IDT, long_mode ? 0xfff : 0x7ff};
    v->seg[SEG_TR] = (struct x86_segment){SEL_TSS, 0x8b, 0xfff, GUEST_TSS};
    v->seg[SEG_LDTR] = (struct x86_segment){SEL_LDT, 0x82, 0xff, GUEST_LDT};
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        v->seg[i] = (struct x86_segment){SEL_DATA, DATA32, UINT32_MAX, 0};
    guest_ring(g, 0, long_mode ? 64 : 32);
    *state = g;
    return 0;
}

int guest_setup_long(void **state)
{
    return setup(state, true);
}

int guest_setup_protected(void **state)
{
    return setup(state, false);
}

int guest_teardown(void **state)
{
    struct guest *g = *state;
    mem_fini(&g->mem);
    free(g->v);
    free(g->before);
    free(g->ram_before);
    free(g);
    return 0;
}

void guest_mark(struct guest *g)
{
    memcpy(g->before, g->v, sizeof(*g->v));
    if (mem_read(&g->mem, GPA(0), g->ram_before, GUEST_RAM) != 0)
        abort();
}

bool guest_unchanged(const struct guest *g)
{
    static uint8_t now[GUEST_RAM];
    if (mem_read(&g->mem, GPA(0), now, GUEST_RAM) != 0)
        return false;
    return memcmp(g->v, g->before, offsetof(struct vcpu, vector)) == 0 &&
           memcmp(now + GUEST_GDT, g->ram_before + GUEST_GDT, GUEST_RAM - GUEST_GDT) == 0;
}
