/* SPDX-License-Identifier: MIT */
/* The states that a first processor starts in; see image.h. */
#include "boot/image.h"
#include "boot/memmap.h"

enum { SELECTOR_CODE = 0x10, SELECTOR_DATA = 0x18 };

/* Descriptors as in memory (SDM 3A 3.4.5): 64-bit or flat 32-bit code, flat data. */
const uint64_t boot_gdt[BOOT_GDT_SIZE / 8] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
const uint64_t boot_gdt_32[BOOT_GDT_SIZE / 8] = {0, 0, 0x00cf9b000000ffff, 0x00cf93000000ffff};

#define TYPE_CODE     0x0bu /* execute, read, accessed */
#define TYPE_DATA     0x03u /* read, write, accessed */
#define TYPE_BUSY_TSS 0x0bu
#define TYPE_LDT      0x02u

static void set_segments(struct vcpu *v, uint32_t code_size)
{
    const struct x86_segment data = {
        .selector = SELECTOR_DATA,
        .attributes = TYPE_DATA | ATTR_S | ATTR_P | ATTR_DB | ATTR_G,
        .limit = 0xffffffff,
    };
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        v->seg[i] = data;
    v->seg[SEG_CS] = (struct x86_segment){
        .selector = SELECTOR_CODE,
        .attributes = TYPE_CODE | ATTR_S | ATTR_P | ATTR_G | code_size,
        .limit = 0xffffffff,
    };
    v->seg[SEG_LDTR] = (struct x86_segment){.attributes = TYPE_LDT | ATTR_UNUSABLE};
    v->seg[SEG_TR] = (struct x86_segment){.attributes = TYPE_BUSY_TSS | ATTR_P, .limit = 0x67};
    v->cpl = 0;
}

#define MTRR_WRITE_BACK 6u
#define MTRR_FIX        (1u << 10) /* the fixed ranges count */
#define MTRR_ENABLE     (1u << 11)
#define MTRR_VALID      (1u << 11) /* in a PHYSMASK */
#define ALL_WRITE_BACK  (0x0101010101010101u * MTRR_WRITE_BACK)

/* Memory types as firmware leaves them (SDM 3A 11.11): RAM write-back, the rest uncached. The
 * engines do not look at them, but Linux keeps its hands off the PAT while the MTRRs are off. */
void boot_cpu_mtrrs(struct vcpu *v)
{
    const uint64_t bits = ((uint64_t)1 << v->platform->physical_address_bits) - 1;
    const unsigned first_4k = 3; /* eight registers of 32 KiB each from 0xc0000 */

    v->mtrr_def_type = MTRR_ENABLE | MTRR_FIX | MTRR_WRITE_BACK;
    memset(v->mtrr_fixed, 0, sizeof(v->mtrr_fixed));
    v->mtrr_fixed[0] = v->mtrr_fixed[1] = ALL_WRITE_BACK; /* up to 0xa0000 */
    for (uint64_t at = MEMMAP_SHADOW; at < MEMMAP_BIOS_END; at += 0x8000)
        v->mtrr_fixed[first_4k + (at - 0xc0000) / 0x8000] = ALL_WRITE_BACK;
    memset(v->mtrr_base, 0, sizeof(v->mtrr_base));
    memset(v->mtrr_mask, 0, sizeof(v->mtrr_mask));
    v->mtrr_base[0] = MEMMAP_HOLE; /* type 0: uncached */
    v->mtrr_mask[0] = (bits & ~(MEMMAP_HOLE_END - MEMMAP_HOLE - 1)) | MTRR_VALID;
}
_Static_assert((MEMMAP_HOLE & (MEMMAP_HOLE_END - MEMMAP_HOLE - 1)) == 0,
               "one MTRR covers the hole");

static void set_common(struct vcpu *v, uint64_t rip)
{
    boot_cpu_mtrrs(v);
    memset(v->gpr, 0, sizeof(v->gpr));
    v->rip = rip;
    v->rflags = FLAG_ONE;
    v->cr2 = 0;
    v->gdtr = v->idtr = (struct x86_table_register){0, 0};
    v->activity = VCPU_ACTIVE;
}

void boot_cpu_protected(struct vcpu *v, uint32_t eip)
{
    set_common(v, eip);
    v->cr0 = CR0_PE | CR0_ET;
    v->cr3 = 0;
    v->cr4 = 0;
    v->efer = 0;
    set_segments(v, ATTR_DB);
    vcpu_update_mode(v);
}

void boot_cpu_long(struct vcpu *v, uint64_t rip, uint64_t gdt, uint64_t cr3)
{
    set_common(v, rip);
    v->cr0 = CR0_PE | CR0_ET | CR0_PG;
    v->cr3 = cr3;
    v->cr4 = CR4_PAE;
    v->efer = EFER_LME | EFER_LMA;
    v->gdtr = (struct x86_table_register){gdt, BOOT_GDT_SIZE - 1};
    set_segments(v, ATTR_L);
    vcpu_update_mode(v);
}
