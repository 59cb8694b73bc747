/* SPDX-License-Identifier: MIT */
/*
 * 32-bit paging of 4 KiB and 4 MiB pages, and PAE paging (SDM 3A 4.3, 4.4, 4.6 to 4.8):
 * translation, rights, A and D, error codes, reserved bits, the PDPTEs in the processor,
 * execute-disable.
 */
#include "legacy.h"

#define P  0x1u
#define W  0x2u
#define U  0x4u
#define A  0x20u
#define D  0x40u
#define PS 0x80u
#define NX ((u64)1 << 63)

#define MSR_EFER 0xc0000080u
#define EFER_NXE 0x800u

#define TEST  0x40000000u /* linear, what the tests map */
#define LARGE 0x80000000u

static u32 directory[1024] __attribute__((aligned(4096)));
static u32 table[1024] __attribute__((aligned(4096)));
static u64 pdpt[4] __attribute__((aligned(32)));
static u64 pae_directory[4][512] __attribute__((aligned(4096)));
static u64 pae_table[512] __attribute__((aligned(4096)));
static u8 page[2][4096] __attribute__((aligned(4096)));

SNIPPET(load, "mov (%ebx), %eax");
SNIPPET(store, "mov %eax, (%ebx)");
SNIPPET(jump, "jmp *%ebx");
SNIPPET(set_cr3, "mov %eax, %cr3");

static void flush(void)
{
    u32 cr3;
    __asm__ volatile("mov %%cr3, %0\nmov %0, %%cr3" : "=r"(cr3)::"memory");
}

/* The lower GiB as it is, for all; TEST by the table. */
static void enable_32(void)
{
    for (u32 i = 0; i < 256; i++)
        directory[i] = i << 22 | PS | U | W | P;
    directory[TEST >> 22] = (u32)table | U | W | P;
    directory[LARGE >> 22] = PS | U | W | P;
    write_cr4(CR4_PSE);
    write_cr3((u32)directory);
    write_cr0(read_cr0() | CR0_PG);
}

static void enable_pae(void)
{
    for (u32 i = 0; i < 4; i++)
        pdpt[i] = (u32)pae_directory[i] | P;
    for (u32 i = 0; i < 512; i++)
        pae_directory[0][i] = i << 21 | PS | U | W | P;
    pae_directory[TEST >> 30][0] = (u32)pae_table | U | W | P;
    pae_directory[LARGE >> 30][0] = PS | U | W | P;
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr4(CR4_PAE);
    write_cr3((u32)pdpt);
    write_cr0(read_cr0() | CR0_PG);
}

static void touch(const char *name, const u8 *code, u32 linear, bool user, u32 error)
{
    struct regs r = {.ebx = linear, .eax = 0x600dda7a};
    if (user)
        run_user(&r, code);
    else
        run(&r, code);
    if (error == 0) {
        want_done(&r);
    } else {
        want_trap(&r, VECTOR_PF, error & 0xff, code == jump ? linear : (u32)code);
        want("cr2", r.cr2, linear);
    }
    verdict(name);
}
#define ABSENT 0x100u /* so that "not present, read, supervisor" is not 0 */

static void two_levels(void)
{
    enable_32();
    memset(page[0], 0x11, 4096);
    table[0] = (u32)page[0] | W | P;
    table[1] = (u32)page[1] | U | P;
    table[2] = 0;
    flush();
    struct regs r = {.ebx = TEST + 8};
    run(&r, load);
    want_done(&r);
    want("eax", r.eax, 0x11111111);
    want("pde a", directory[TEST >> 22] & A, A);
    want("pte", table[0] & (A | D), A);
    verdict("32/read");
    touch("32/write", store, TEST + 16, false, 0);
    want("pte", table[0] & (A | D), A | D);
    want("data", peek((u32)page[0] + 16), 0x600dda7a);
    verdict("32/dirty");
    touch("32/user-of-supervisor", load, TEST, true, PF_P | PF_U);
    touch("32/user-read", load, TEST + 4096, true, 0);
    touch("32/user-write", store, TEST + 4096, true, PF_P | PF_W | PF_U);
    touch("32/supervisor-write", store, TEST + 4096, false, 0);
    write_cr0(read_cr0() | CR0_WP);
    touch("32/write-protect", store, TEST + 4096, false, PF_P | PF_W);
    write_cr0(read_cr0() & ~CR0_WP);
    touch("32/absent", load, TEST + 8192, false, ABSENT);
    touch("32/absent-write-user", store, TEST + 8192, true, PF_W | PF_U);
    touch("32/absent-directory", load, TEST + (4u << 20), false, ABSENT);
    directory[TEST >> 22] &= ~U;
    flush();
    touch("32/directory-supervisor", load, TEST + 4096, true, PF_P | PF_U);
    directory[TEST >> 22] |= U;
    directory[TEST >> 22] &= ~W;
    flush();
    touch("32/directory-read-only", store, TEST + 4096, true, PF_P | PF_W | PF_U);
    directory[TEST >> 22] |= W;
    poke((u32)page[0], 0x9040cd90); /* NOP, INT 0x40 */
    touch("32/execute", jump, TEST, false, 0);
}

static void large(void)
{
    poke(0x9008, 0xabad1dea);
    directory[LARGE >> 22] = PS | U | W | P;
    flush();
    struct regs r = {.ebx = LARGE + 0x9008};
    run(&r, load);
    want_done(&r);
    want("eax", r.eax, 0xabad1dea);
    want("pde", directory[LARGE >> 22] & (A | D), A);
    verdict("pse/read");
    directory[LARGE >> 22] |= 1u << 21; /* reserved */
    flush();
    touch("pse/reserved", load, LARGE, false, PF_RSVD | PF_P);
    directory[LARGE >> 22] &= ~(1u << 21);
    flush();
}

static void pae(void)
{
    enable_pae();
    memset(page[0], 0x22, 4096);
    pae_table[0] = (u32)page[0] | W | P;
    pae_table[1] = (u32)page[1] | U | P;
    pae_table[511] = (u32)page[1] | U | W | P;
    flush();
    struct regs r = {.ebx = TEST + 4};
    run(&r, load);
    want_done(&r);
    want("eax", r.eax, 0x22222222);
    want("pde a", (u32)pae_directory[1][0] & A, A);
    want("pte", (u32)pae_table[0] & (A | D), A);
    verdict("pae/read");
    touch("pae/write", store, TEST + 511 * 4096, true, 0);
    want("pte", (u32)pae_table[511] & (A | D), A | D);
    verdict("pae/dirty");
    touch("pae/user-write", store, TEST + 4096, true, PF_P | PF_W | PF_U);
    touch("pae/absent", load, TEST + 8192, false, ABSENT);
    r = (struct regs){.ebx = LARGE + 0x9008};
    run(&r, load);
    want_done(&r);
    want("eax", r.eax, 0xabad1dea);
    verdict("pae/2m");
    pae_directory[2][0] |= 1u << 13; /* reserved in a large page */
    flush();
    touch("pae/reserved", load, LARGE, false, PF_RSVD | PF_P);
    pae_directory[2][0] &= ~(1u << 13);
    pae_table[1] |= NX; /* reserved until EFER.NXE */
    flush();
    touch("pae/nx-reserved", load, TEST + 4096, false, PF_RSVD | PF_P);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
    flush();
    touch("pae/nx-read", load, TEST + 4096, true, 0);
    touch("pae/nx-fetch", jump, TEST + 4096, true, PF_P | PF_U | PF_I);
    /* The processor holds the PDPTEs: memory counts at MOV CR3 only. */
    pdpt[1] = 0;
    touch("pae/pdpte-held", load, TEST, false, 0);
    flush();
    touch("pae/pdpte-absent", load, TEST, false, ABSENT);
    pdpt[1] = (u32)pae_directory[1] | W | P; /* bit 1 is reserved there */
    r = (struct regs){.eax = (u32)pdpt};
    run(&r, set_cr3);
    want_trap(&r, VECTOR_GP, 0, (u32)set_cr3);
    verdict("pae/pdpte-reserved");
    pdpt[1] = (u32)pae_directory[1] | P;
    flush();
}

void legacy_main(void)
{
    two_levels();
    large();
    pae();
}
