/* SPDX-License-Identifier: MIT */
/* The page walk over tables made of the input, in every paging mode, and the software TLB's answers
 * to it: two walks agree, and what is translated lies where the tables may point (libFuzzer). */
#include "machine.h"
#include "x86/mmu.h"

#define TABLES 16 /* pages that the input may fill; every entry points into them */

static struct fuzz_machine machine;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fuzz_machine_init(&machine);
    return 0;
}

/* Ten bytes of input: an entry's place, and itself, its address cut to the tables or left. */
static void put_entries(const uint8_t *data, size_t size)
{
    for (; size >= 11; data += 11, size -= 11) {
        uint64_t entry;
        uint32_t at = (data[0] | data[1] << 8) & (TABLES * MEM_PAGE_SIZE - 1) & ~7u;
        memcpy(&entry, data + 3, 8);
        if (data[2] & 1)
            entry = (entry & 0xfff0000000000fffu) | (entry & (TABLES - 1) << 12);
        fuzz_must(mem_write(&machine.mem, GPA(at), &entry, 8));
    }
}

static void set_mode(struct vcpu *v, const uint8_t *data)
{
    vcpu_reset(v);
    v->cr0 = CR0_PE | CR0_ET | CR0_PG | (data[0] & 1 ? CR0_WP : 0);
    v->cr4 = (data[0] & 2 ? CR4_PAE : 0) | (data[0] & 4 ? CR4_PSE : 0) |
             (data[0] & 8 ? CR4_SMEP : 0) | (data[0] & 16 ? CR4_SMAP : 0);
    v->efer = data[0] & 32 ? EFER_NXE : 0;
    if (data[0] & 64) {
        v->cr4 |= CR4_PAE | (data[0] & 128 ? CR4_LA57 : 0);
        v->efer |= EFER_LME | EFER_LMA;
    }
    v->cr3 = (uint64_t)(data[1] & (TABLES - 1)) << 12;
    for (unsigned i = 0; i < 4; i++)
        v->pae_pdpte[i] = (uint64_t)(data[2 + i] & (TABLES - 1)) << 12 | (data[2 + i] >> 7);
    vcpu_update_mode(v);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vcpu *v = machine.vcpus[0];
    struct mmu_page first, second;
    uint32_t code[2] = {0, 0};
    uint64_t linear;

    if (size < 16)
        return 0;
    fuzz_must(mem_fill(&machine.mem, GPA(0), 0, TABLES * MEM_PAGE_SIZE));
    put_entries(data + 16, size - 16);
    set_mode(v, data);
    memcpy(&linear, data + 6, 8);
    if (!(v->efer & EFER_LMA))
        linear = (uint32_t)linear;
    enum mmu_access access = data[14] % 3;
    bool user = data[14] & 0x80, ac = data[14] & 0x40;
    bool ok = mmu_walk(v, linear, access, user, ac, &first, &code[0]);
    if (ok != mmu_walk(v, linear, access, user, ac, &second, &code[1]))
        abort();
    if (!ok) {
        if (code[0] != code[1])
            abort();
        return 0;
    }
    if (first.physical != second.physical || first.physical % MEM_PAGE_SIZE != 0 ||
        first.physical >> v->platform->physical_address_bits != 0 || first.user != second.user ||
        (access == MMU_WRITE && !second.dirty))
        abort();
    return 0;
}
