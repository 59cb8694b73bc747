/* SPDX-License-Identifier: MIT */
/* See guest.h: the tables, and the system registers. */
#include "guest.h"

#define PTE_P     1u
#define PTE_W     2u
#define PTE_U     4u
#define PTE_LARGE 0x80u
#define PTE_NX    (UINT64_C(1) << 63)

static void make_page_tables(struct guest *g)
{
    const uint64_t table = PTE_P | PTE_W | PTE_U;

    for (unsigned i = 0; i < 4; i++)
        put64(g, GUEST_PDPT_PAE + i * 8,
              i == 0                      ? GUEST_PD_LOW | PTE_P
              : i == GUEST_KERNEL32 >> 30 ? GUEST_PD_TOP | PTE_P
                                          : 0);
    put64(g, GUEST_PML4, GUEST_PDPT_LOW | table);
    put64(g, GUEST_PML4 + 511 * 8, GUEST_PDPT_TOP | table);
    put64(g, GUEST_PDPT_LOW, GUEST_PD_LOW | table);
    put64(g, GUEST_PDPT_TOP + 510 * 8, GUEST_PD_TOP | table);
    put64(g, GUEST_PD_TOP + (g->kernel >> 21 & 511) * 8, PTE_P | PTE_W | PTE_LARGE);
    put64(g, GUEST_PD_LOW + (DIFF_CODE >> 21) * 8, GUEST_PT_CODE | table);
    put64(g, GUEST_PD_LOW + (DIFF_DATA >> 21) * 8, GUEST_PT_DATA | table);
    for (unsigned i = 0; i < DIFF_PAGES; i++) {
        uint32_t linear = diff_pages[i].linear;
        uint8_t access = diff_pages[i].access;
        uint32_t pt = linear >= DIFF_DATA ? GUEST_PT_DATA : GUEST_PT_CODE;
        put64(g, pt + (linear >> 12 & 511) * 8,
              (GUEST_ARENA + i * DIFF_PAGE) | PTE_P | PTE_U | ((access & DIFF_WRITE) ? PTE_W : 0) |
                  ((access & DIFF_EXECUTE) ? 0 : PTE_NX));
    }
}

void guest_set_code_writable(struct guest *g, bool writable)
{
    if (g->code_writable == writable)
        return;
    g->code_writable = writable;
    for (unsigned i = 0; i < DIFF_CODE_PAGES; i++) {
        uint64_t entry = (GUEST_ARENA + i * DIFF_PAGE) | PTE_P | PTE_U | (writable ? PTE_W : 0);
        put64(g, GUEST_PT_CODE + (DIFF_CODE >> 12 & 511) * 8 + i * 8, entry);
        put64(g, GUEST_PT_DATA + (DIFF_ALIAS >> 12 & 511) * 8 + i * 8,
              writable ? entry | PTE_NX : 0);
    }
    tlb_flush_all(g->v);
}

/* A descriptor as LAR and LSL show it: type to G in bits 8 to 23, and the limit in bytes. */
static uint64_t descriptor(uint32_t rights, uint32_t limit)
{
    uint64_t low = (rights & 0x800000) ? limit >> 12 : limit;

    return (low & 0xffff) | (uint64_t)(rights & 0xf0ff00) << 32 | (low & 0xf0000) << 32;
}

/* As Linux fills it in (arch/x86/include/asm/desc.h, fill_ldt): accessed, DPL 3. */
static uint64_t ldt_descriptor(const struct diff_descriptor *d)
{
    uint32_t type = (uint32_t)!d->restricted << 1 | (uint32_t)d->contents << 2 | 1;
    uint32_t high = (d->base & 0xff000000) | (uint32_t)d->pages << 23 | (uint32_t)d->big << 22 |
                    (d->limit & 0xf0000) | (uint32_t)!d->absent << 15 | 3u << 13 | 1u << 12 |
                    type << 8 | (d->base >> 16 & 0xff);

    return (uint64_t)high << 32 | (d->base & 0xffff) << 16 | (d->limit & 0xffff);
}

static void make_ldt(struct guest *g)
{
    for (unsigned i = 0; i < DIFF_LDT; i++)
        g->ldt[i] = ldt_descriptor(&diff_ldt[i]);
    memcpy(g->ram + GUEST_LDT, g->ldt, sizeof(g->ldt));
}

static void make_gdt(struct guest *g)
{
    for (unsigned i = 1; i < GDT_ENTRIES; i++) {
        uint32_t selector = i * 8 + 3, rights = 0, limit = 0;
        bool seen;

        __asm__("lar %2, %0; setz %1" : "+r"(rights), "=q"(seen) : "r"(selector) : "cc");
        if (seen)
            __asm__("lsl %1, %0" : "+r"(limit) : "r"(selector) : "cc");
        g->gdt[i] = seen ? descriptor(rights, limit) : 0;
    }
    g->gdt[SELECTOR_KERNEL_CODE / 8] = descriptor(g->code32 ? 0xc09b00 : 0xa09b00, UINT32_MAX);
    g->gdt[SELECTOR_KERNEL_DATA / 8] = descriptor(0xc09300, UINT32_MAX);
    g->gdt[1] = descriptor(0xc09b00, UINT32_MAX);
    memcpy(g->ram + GUEST_GDT, g->gdt, sizeof(g->gdt));
    put64(g, GUEST_GDT + SELECTOR_TSS,
          descriptor(0x008b00, 0x67) | (GUEST_TSS | (g->kernel & 0xffffff)) << 16 |
              (g->kernel >> 24 & 0xff) << 56);
    put64(g, GUEST_GDT + SELECTOR_TSS + 8, g->kernel >> 32);
    put64(g, GUEST_TSS + 4, g->kernel + GUEST_STACK); /* RSP0, or ESP0 and SS0 */
    if (g->code32)
        g->ram[GUEST_TSS + 8] = SELECTOR_KERNEL_DATA;
    g->ram[GUEST_TSS + 0x66] = 0xff; /* the I/O bitmap: beyond the limit */
}

static void make_idt(struct guest *g)
{
    for (unsigned i = 0; i < GUEST_VECTORS; i++) {
        uint64_t handler = g->kernel + GUEST_HANDLERS + i * GUEST_HANDLER;
        uint64_t dpl = i == VECTOR_BP || i == VECTOR_OF ? 3 : 0;

        put64(g, GUEST_IDT + i * (g->code32 ? 8 : 16),
              (handler & 0xffff) | SELECTOR_KERNEL_CODE << 16 | (0x8e00 | dpl << 13) << 32 |
                  (handler >> 16 & 0xffff) << 48);
        if (!g->code32)
            put64(g, GUEST_IDT + i * 16 + 8, handler >> 32);
    }
    memset(g->ram + GUEST_HANDLERS, 0xf4, GUEST_VECTORS * GUEST_HANDLER);
}

/* System registers; cases do not change them. */
static void make_system(struct guest *g)
{
    struct vcpu *v = g->v;

    vcpu_reset(v);
    v->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    v->cr3 = g->code32 ? GUEST_PDPT_PAE : GUEST_PML4;
    for (unsigned i = 0; i < 4; i++)
        v->pae_pdpte[i] = get64(g, GUEST_PDPT_PAE + i * 8);
    v->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE | CR4_FSGSBASE |
             CR4_UMIP | CR4_DE | CR4_MCE;
    v->efer = EFER_SCE | EFER_NXE | (g->code32 ? 0 : EFER_LME | EFER_LMA);
    v->xcr0 = g->model.xcr0_supported;
    v->gdtr = (struct x86_table_register){g->kernel + GUEST_GDT, sizeof(g->gdt) - 1};
    v->idtr = (struct x86_table_register){g->kernel + GUEST_IDT,
                                          GUEST_VECTORS * (g->code32 ? 8 : 16) - 1};
    v->seg[SEG_LDTR] = (struct x86_segment){.attributes = ATTR_UNUSABLE | 0x82};
    if (g->code32)
        v->seg[SEG_LDTR] = (struct x86_segment){.selector = SELECTOR_LDT,
                                                .attributes = 0x82,
                                                .limit = sizeof(g->ldt) - 1,
                                                .base = g->kernel + GUEST_LDT};
    v->seg[SEG_TR] = (struct x86_segment){
        .selector = SELECTOR_TSS, .attributes = 0x8b, .limit = 0x67, .base = g->kernel + GUEST_TSS};
    v->instruction_limit = UINT64_MAX;
}

void guest_make_machine(struct guest *g)
{
    g->kernel = g->code32 ? GUEST_KERNEL32 : GUEST_KERNEL64;
    make_page_tables(g);
    make_gdt(g);
    make_ldt(g);
    make_idt(g);
    make_system(g);
}

static uint32_t limit_of(uint64_t d)
{
    uint32_t limit = (d & 0xffff) | (d >> 32 & 0xf0000);
    return (d >> 55 & 1) ? limit << 12 | 0xfff : limit;
}

struct x86_segment guest_segment(const struct guest *g, uint16_t selector, uint64_t base)
{
    if ((selector & ~3u) == 0)
        return (struct x86_segment){
            .selector = selector, .attributes = ATTR_UNUSABLE, .base = base};
    uint64_t d = (selector & 4) ? g->ldt[selector / 8] : g->gdt[selector / 8];
    return (struct x86_segment){.selector = selector,
                                .attributes = d >> 40 & 0xf0ff,
                                .limit = g->code32 ? limit_of(d) : UINT32_MAX,
                                .base = base};
}
