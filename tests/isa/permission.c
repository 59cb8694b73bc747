/* SPDX-License-Identifier: MIT */
/*
 * Paging (SDM 3A chapter 4): the whole table of rights against a model written from 4.6, reserved
 * bits, A and D, and what invalidation must do (4.10.4).
 */
#include "isa.h"

/* An entry of the topmost table of its own; 1 GiB aligned. */
#define TEST_LINEAR (levels == 5 ? 0x127000c0000000ul : 0x7000c0000000ul)
#define ROOT_FLAGS  (PTE_P | PTE_W | PTE_U)

SNIPPET(read_rbx, "mov (%rbx), %eax");
SNIPPET(write_rbx, "mov %eax, (%rbx)");
SNIPPET(jump_rbx, "jmp *%rbx");

enum access { READ, WRITE, FETCH };
static const u8 *const code[] = {read_rbx, write_rbx, jump_rbx};

/* Target of every mapping; at its begin stands INT 0x40. */
static u8 target[4096] __attribute__((aligned(4096)));
static u64 *root = isa_pml4;
static unsigned levels = 4;

struct setting {
    u64 leaf, table; /* flags: P W U NX of the leaf; W U NX of the level above */
    bool wp, smep, smap, ac, nxe;
};

static bool allowed(const struct setting *s, enum access access, bool user_access)
{
    bool user_page = (s->leaf & s->table & PTE_U) != 0;
    bool writable = (s->leaf & s->table & PTE_W) != 0;
    bool nx = ((s->leaf | s->table) & PTE_NX) != 0;

    if (user_access && !user_page)
        return false;
    if (access == FETCH)
        return !nx && (user_access || !user_page || !s->smep);
    if (!user_access && user_page && s->smap && !s->ac)
        return false;
    return access == READ || writable || (!user_access && !s->wp);
}

static u64 error_of(const struct setting *s, enum access access, bool user_access)
{
    return ((s->leaf & PTE_P) ? PF_P : 0) | (access == WRITE ? PF_W : 0) |
           (user_access ? PF_U : 0) | (access == FETCH && (s->nxe || s->smep) ? PF_I : 0);
}

static void set_controls(const struct setting *s)
{
    u64 cr0 = read_cr0() & ~CR0_WP, cr4 = read_cr4() & ~(CR4_SMEP | CR4_SMAP);
    write_cr0(cr0 | (s->wp ? CR0_WP : 0));
    write_cr4(cr4 | (s->smep ? CR4_SMEP : 0) | (s->smap ? CR4_SMAP : 0));
}

static void attempt(struct regs *r, enum access access, bool user_access, bool ac, u64 linear)
{
    *r = (struct regs){.rbx = linear, .rax = 0x9090, .rflags = ac ? FLAG_AC : 0};
    target[0] = 0xcd; /* INT 0x40 */
    target[1] = 0x40;
    if (access == WRITE)
        r->rax = *(u32 *)target; /* the same value: the code must stay */
    if (user_access)
        run_user(r, code[access]);
    else
        run_kernel(r, code[access]);
}

static void want_access(const struct regs *r, const struct setting *s, enum access access,
                        bool user_access, u64 linear)
{
    const u8 *at = code[access];
    if (allowed(s, access, user_access) && (s->leaf & PTE_P)) {
        want("vector", r->vector, VECTOR_DONE);
        if (access == FETCH)
            want("rip", r->rip, linear + 2);
        if (access == READ)
            want("value", r->rax, *(u32 *)target);
        return;
    }
    want_trap(r, VECTOR_PF, error_of(s, access, user_access),
              access == FETCH ? linear
              : user_access   ? user(at)
                              : (u64)at);
    want("cr2", r->cr2, linear);
}

/* One mapping of `level` with one setting: every access, both privileges, with and without the TLB
 * entry of the access before. */
static void try_setting(unsigned level, const struct setting *s)
{
    u64 size = 1ul << (12 + 9 * (level - 1));
    u64 linear = TEST_LINEAR + ((u64)target & (size - 1));
    u64 *leaf = page_entry(root, levels, linear, level, ROOT_FLAGS);
    u64 *above = page_entry(root, levels, linear, level + 1, ROOT_FLAGS);
    u64 leaf_value = ((u64)target & ~(size - 1)) | s->leaf | (level > 1 ? PTE_PS : 0);
    u64 above_value = (*above & 0xffffffffff000) | PTE_P | s->table;
    struct regs r;

    for (unsigned n = 0; n < 12; n++) {
        enum access access = n >> 1 & 3;
        bool user_access = n & 1;
        if (access > FETCH)
            continue;
        *leaf = leaf_value;
        *above = above_value;
        invlpg(linear);
        for (unsigned round = 0; round < 2; round++) {
            attempt(&r, access, user_access, s->ac, linear);
            want_access(&r, s, access, user_access, linear);
        }
        bool fine = allowed(s, access, user_access) && (s->leaf & PTE_P);
        want("dirty", *leaf & PTE_D, fine && access == WRITE ? PTE_D : 0);
        if (fine) {
            want("accessed", *leaf & PTE_A, PTE_A);
            want("table accessed", *above & PTE_A, PTE_A);
        } else {
            want("leaf", *leaf & ~PTE_A, leaf_value);
        }
        want("dirty bit of a table", *above & PTE_D, 0);
    }
    *leaf = 0;
    *above = (*above & 0xffffffffff000) | ROOT_FLAGS;
    invlpg(linear);
}

static u64 page_flags(unsigned bits)
{
    return ((bits & 1) ? PTE_W : 0) | ((bits & 2) ? PTE_U : 0) | ((bits & 4) ? PTE_NX : 0);
}

static void test_table(const char *name, unsigned level)
{
    static const char *const controls[8] = {"none", "wp",      "smep",      "wp-smep",
                                            "smap", "wp-smap", "smep-smap", "wp-smep-smap"};
    for (unsigned c = 0; c < 8; c++) {
        struct setting s = {.wp = c & 1, .smep = c & 2, .smap = c & 4, .nxe = true};
        set_controls(&s);
        for (unsigned n = 0; n < 256; n++) {
            s.leaf = ((n & 1) ? PTE_P : 0) | page_flags(n >> 1);
            s.table = page_flags(n >> 4);
            s.ac = n >> 7;
            try_setting(level, &s);
        }
        verdict2(name, controls[c]);
    }
    set_controls(&(struct setting){.wp = true});
}

/* Rights of each higher table count as well (4.6): one that takes a right away, at each level. */
static void test_upper_levels(void)
{
    struct setting s = {.leaf = PTE_P | PTE_W | PTE_U, .wp = true, .nxe = true};
    for (unsigned level = 2; level <= levels; level++) {
        u64 *entry = page_entry(root, levels, TEST_LINEAR, level, ROOT_FLAGS);
        *page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS) = (u64)target | s.leaf;
        u64 whole = (*entry & 0xffffffffff000) | ROOT_FLAGS;
        for (unsigned n = 0; n < 8; n++) {
            s.table = page_flags(n);
            for (unsigned access = READ; access <= FETCH; access++) {
                for (unsigned u = 0; u < 2; u++) {
                    struct regs r;
                    *entry = (whole & ~(PTE_W | PTE_U)) | s.table;
                    write_cr3(read_cr3());
                    attempt(&r, access, u, false, TEST_LINEAR);
                    want_access(&r, &s, access, u, TEST_LINEAR);
                }
            }
        }
        *entry = 0; /* not present at this level: P = 0 in the error code */
        write_cr3(read_cr3());
        struct regs r;
        attempt(&r, WRITE, true, false, TEST_LINEAR);
        want_trap(&r, VECTOR_PF, PF_W | PF_U, user(write_rbx));
        *entry = whole;
        write_cr3(read_cr3());
        verdict2("table-rights-at-level-", (const char *[]){"2", "3", "4", "5"}[level - 2]);
    }
}

static unsigned physical_bits(void)
{
    u32 r[4];
    cpuid(0x80000008, 0, r);
    return r[0] & 0xff;
}

static void try_reserved(u64 *entry, u64 bit, u64 base)
{
    struct regs r;
    u64 whole = *entry;
    *entry = base | bit;
    write_cr3(read_cr3());
    attempt(&r, READ, true, false, TEST_LINEAR);
    want_trap(&r, VECTOR_PF, PF_P | PF_U | PF_RSVD, user(read_rbx));
    want("cr2", r.cr2, TEST_LINEAR);
    attempt(&r, WRITE, false, false, TEST_LINEAR);
    want_trap(&r, VECTOR_PF, PF_P | PF_W | PF_RSVD, (u64)write_rbx);
    if (r.vector != VECTOR_PF || r.error != (PF_P | PF_W | PF_RSVD))
        want("bit", bit, 0);
    *entry = base & ~PTE_P ? (base & ~PTE_P) | bit : 0; /* not present: nothing is reserved */
    write_cr3(read_cr3());
    attempt(&r, READ, true, false, TEST_LINEAR);
    want("error when not present", r.error, PF_U);
    *entry = whole;
    write_cr3(read_cr3());
}

static void test_reserved(void)
{
    static const char *const names[] = {"1", "2", "3", "4", "5"};
    unsigned width = physical_bits();
    *page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS) = (u64)target | ROOT_FLAGS;
    for (unsigned level = 1; level <= levels; level++) {
        u64 *entry = page_entry(root, levels, TEST_LINEAR, level, ROOT_FLAGS);
        for (unsigned bit = width; bit < 52; bit++)
            try_reserved(entry, 1ul << bit, *entry);
        if (level >= 4)
            try_reserved(entry, PTE_PS, *entry);
        if (level == 2 || level == 3)
            for (unsigned bit = 13; bit < (level == 2 ? 21 : 30); bit++)
                try_reserved(entry, 1ul << bit, ROOT_FLAGS | PTE_PS);
        verdict2("reserved-bits-at-level-", names[level - 1]);
        write_msr(MSR_EFER, read_msr(MSR_EFER) & ~(1ul << 11));
        try_reserved(entry, PTE_NX, *entry);
        write_msr(MSR_EFER, read_msr(MSR_EFER) | 1ul << 11);
        verdict2("nx-without-nxe-at-level-", names[level - 1]);
    }
}

/* The I bit of the error code says fetch only under NXE or SMEP (4.7). */
static void test_fetch_bit(void)
{
    struct regs r;
    u64 *leaf = page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS);
    *leaf = 0;
    write_cr3(read_cr3());
    for (unsigned n = 0; n < 4; n++) {
        struct setting s = {.wp = true, .nxe = n & 1, .smep = n & 2};
        set_controls(&s);
        write_msr(MSR_EFER, (read_msr(MSR_EFER) & ~(1ul << 11)) | (s.nxe ? 1ul << 11 : 0));
        attempt(&r, FETCH, true, false, TEST_LINEAR);
        want_trap(&r, VECTOR_PF, PF_U | (s.nxe || s.smep ? PF_I : 0), TEST_LINEAR);
    }
    set_controls(&(struct setting){.wp = true});
    write_msr(MSR_EFER, read_msr(MSR_EFER) | 1ul << 11);
    verdict("fetch-bit-of-the-error-code");
}

/* A read leaves D clear; a later write through the cached translation sets it (4.8). */
static void test_dirty(void)
{
    struct regs r;
    for (unsigned level = 1; level <= 3; level++) {
        u64 size = 1ul << (12 + 9 * (level - 1));
        u64 linear = TEST_LINEAR + ((u64)target & (size - 1));
        u64 *leaf = page_entry(root, levels, linear, level, ROOT_FLAGS);
        *leaf = ((u64)target & ~(size - 1)) | ROOT_FLAGS | (level > 1 ? PTE_PS : 0);
        write_cr3(read_cr3());
        attempt(&r, READ, true, false, linear);
        want("after a read", *leaf & (PTE_A | PTE_D), PTE_A);
        attempt(&r, WRITE, true, false, linear);
        want("after a write", *leaf & (PTE_A | PTE_D), PTE_A | PTE_D);
        *leaf &= ~(PTE_A | PTE_D);
        invlpg(linear);
        attempt(&r, WRITE, false, false, linear);
        want("after invlpg and a write", *leaf & (PTE_A | PTE_D), PTE_A | PTE_D);
        *leaf &= ~(PTE_A | PTE_D);
        invlpg(linear);
        attempt(&r, FETCH, true, false, linear);
        want("after a fetch", *leaf & (PTE_A | PTE_D), PTE_A);
        *leaf = 0;
    }
    verdict("accessed-and-dirty");
}

SNIPPET(stac_read_clac, "stac; mov (%rbx), %eax; clac");
SNIPPET(stac_clac_read, "stac; mov (%rbx), %eax; clac" AT(behind_clac) "mov (%rbx), %ecx");
SNIPPET(clac_read, "clac" AT(first_clac) "mov (%rbx), %eax");
SNIPPET(twice, "stac; stac; mov (%rbx), %eax; clac; clac; stac; mov (%rbx), %ecx");
SNIPPET(callees, "call 1f; mov (%rbx), %eax; call 2f; jmp 3f;"
                 "1: stac; ret;"
                 "2: mov (%rbx), %ecx; clac; ret; 3:" AT(behind_callees) "mov (%rbx), %edx");
SNIPPET(calls_within, "stac; call 1f; clac; call 2f; jmp 3f;"
                      "1: mov (%rbx), %eax; ret;"
                      "2:" AT(behind_calls) "mov (%rbx), %ecx; ret; 3:");
SNIPPET(by_popf, "stac; pushf; andl $~0x40000, (%rsp); popf" AT(behind_popf) "mov (%rbx), %eax");
SNIPPET(flags_kept, "mov $-1, %eax; add $1, %eax; stac; clac; setc %cl; setz %dl; stac; jc 1f;"
                    "xor %ecx, %ecx; 1: mov (%rbx), %eax; clac");
PLACE(behind_clac);
PLACE(first_clac);
PLACE(behind_callees);
PLACE(behind_calls);
PLACE(behind_popf);

/* STAC and CLAC on every way that code can go between them: `fault` is where the access comes that
 * SMAP stops; NULL: nowhere. */
static void test_smap_flag(void)
{
    static const struct {
        const char *name;
        const u8 *code, *fault;
        bool ac; /* after all of it, without SMAP */
    } t[] = {
        {"stac-clac", stac_read_clac, NULL, 0},  {"behind-clac", stac_clac_read, behind_clac, 0},
        {"clac", clac_read, first_clac, 0},      {"twice", twice, NULL, 1},
        {"callees", callees, behind_callees, 0}, {"calls", calls_within, behind_calls, 0},
        {"popf", by_popf, behind_popf, 0},       {"flags", flags_kept, NULL, 0}};
    *page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS) = (u64)target | ROOT_FLAGS;
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        for (unsigned round = 0; round < 8; round++) {
            bool smap = round & 1, ac = round & 2;
            set_controls(&(struct setting){.wp = true, .smap = smap});
            struct regs r = {.rbx = TEST_LINEAR, .rflags = ac ? FLAG_AC : 0};
            run_kernel(&r, t[n].code);
            if (smap && t[n].fault != NULL) {
                want_trap(&r, VECTOR_PF, PF_P, (u64)t[n].fault);
                want("cr2", r.cr2, TEST_LINEAR);
                want("ac", r.rflags & FLAG_AC, 0);
            } else {
                want("vector", r.vector, VECTOR_DONE);
                want("ac", r.rflags & FLAG_AC, t[n].ac ? FLAG_AC : 0);
            }
            if (t[n].code == flags_kept)
                want("flags", (r.rcx & r.rdx & 1), 1);
        }
        verdict2("smap-flag/", t[n].name);
    }
    set_controls(&(struct setting){.wp = true});
}

SNIPPET(rmw_rbx, "lock incl (%rbx)");
SNIPPET(cmpxchg_rbx, "cmpxchg %ecx, (%rbx)");
SNIPPET(cross_store, "mov %rax, (%rbx)");

/* A read-modify-write of a read-only page faults as a write, also when it would store nothing. */
static void test_rmw(void)
{
    struct regs r = {.rbx = TEST_LINEAR, .rax = 1};
    u64 *leaf = page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS);
    *leaf = (u64)target | PTE_P | PTE_U;
    write_cr3(read_cr3());
    run_user(&r, rmw_rbx);
    want_trap(&r, VECTOR_PF, PF_P | PF_W | PF_U, user(rmw_rbx));
    r = (struct regs){.rbx = TEST_LINEAR, .rax = ~*(u32 *)target};
    run_user(&r, cmpxchg_rbx);
    want_trap(&r, VECTOR_PF, PF_P | PF_W | PF_U, user(cmpxchg_rbx));
    verdict("read-modify-write-faults-as-write");
    /* A cached read of a read-only page that is dirty already gives no right to write. */
    for (unsigned u = 0; u < 2; u++) {
        *leaf = (u64)target | PTE_P | PTE_A | PTE_D | (u ? PTE_U : 0);
        write_cr3(read_cr3());
        attempt(&r, READ, u, false, TEST_LINEAR);
        want_done(&r);
        attempt(&r, WRITE, u, false, TEST_LINEAR);
        want_trap(&r, VECTOR_PF, PF_P | PF_W | (u ? PF_U : 0),
                  u ? user(write_rbx) : (u64)write_rbx);
    }
    verdict("read-only-though-dirty");
}

/* A store that crosses into a missing page changes nothing and names the second page. */
static void test_crossing(void)
{
    struct regs r = {.rbx = TEST_LINEAR + 4093, .rax = 0x1122334455667788};
    u64 *leaf = page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS);
    *leaf = (u64)target | ROOT_FLAGS;
    page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS)[1] = 0;
    write_cr3(read_cr3());
    memset(target + 4090, 0x5a, 6);
    run_user(&r, cross_store);
    want_trap(&r, VECTOR_PF, PF_W | PF_U, user(cross_store));
    want("cr2", r.cr2, TEST_LINEAR + 4096);
    want("memory", *(u32 *)(target + 4092), 0x5a5a5a5a);
    leaf[1] = (u64)target | PTE_P | PTE_U;
    invlpg(TEST_LINEAR + 4096);
    r = (struct regs){.rbx = TEST_LINEAR + 4093, .rax = 0x1122334455667788};
    run_user(&r, cross_store);
    want_trap(&r, VECTOR_PF, PF_P | PF_W | PF_U, user(cross_store));
    want("memory", *(u32 *)(target + 4092), 0x5a5a5a5a);
    leaf[1] = 0;
    invlpg(TEST_LINEAR + 4096);
    r = (struct regs){.rbx = TEST_LINEAR + 4093};
    run_user(&r, read_rbx);
    want_trap(&r, VECTOR_PF, PF_U, user(read_rbx));
    want("cr2", r.cr2, TEST_LINEAR + 4096);
    verdict("store-across-pages");
}

/* ---- invalidation ---- */

static u8 other[4096] __attribute__((aligned(4096)));

static u64 see(u64 linear)
{
    return *(volatile u64 *)linear;
}

struct __attribute__((packed)) invpcid_operand {
    u64 pcid, linear;
};

static void invpcid(u64 type, u64 pcid, u64 linear)
{
    struct invpcid_operand o = {pcid, linear};
    __asm__ volatile("invpcid %0, %1" ::"m"(o), "r"(type) : "memory");
}

enum { BY_INVLPG, BY_CR3, BY_PGE, BY_INVPCID0, BY_INVPCID1, BY_INVPCID2, BY_INVPCID3 };

static bool has_invpcid(void)
{
    u32 r[4];
    cpuid(7, 0, r);
    return want("CPUID.INVPCID", r[1] >> 10 & 1, 1);
}

static void invalidate(unsigned how, u64 linear)
{
    u64 cr4 = read_cr4();
    switch (how) {
    case BY_INVLPG:
        invlpg(linear);
        break;
    case BY_CR3:
        write_cr3(read_cr3());
        break;
    case BY_PGE:
        write_cr4(cr4 ^ CR4_PGE);
        write_cr4(cr4);
        break;
    default:
        invpcid(how - BY_INVPCID0, 0, linear);
        break;
    }
}

static void test_invalidation(void)
{
    static const struct {
        const char *name;
        u8 how;
        bool global;
    } t[] = {{"invlpg", BY_INVLPG, 0},
             {"invlpg-global", BY_INVLPG, 1},
             {"mov-cr3", BY_CR3, 0},
             {"cr4-pge", BY_PGE, 0},
             {"cr4-pge-global", BY_PGE, 1},
             {"invpcid-address", BY_INVPCID0, 0},
             {"invpcid-space", BY_INVPCID1, 0},
             {"invpcid-all-global", BY_INVPCID2, 1},
             {"invpcid-all", BY_INVPCID3, 0}};
    write_cr4(read_cr4() | CR4_PGE);
    *(u64 *)target = 0x1111;
    *(u64 *)other = 0x2222;
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        if (t[n].how >= BY_INVPCID0 && !has_invpcid()) {
            verdict2("stale/", t[n].name);
            continue;
        }
        u64 global = t[n].global ? PTE_G : 0;
        u64 *leaf = page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS);
        *leaf = (u64)target | PTE_P | PTE_W | global;
        invlpg(TEST_LINEAR);
        want("before", see(TEST_LINEAR), 0x1111);
        *(volatile u64 *)TEST_LINEAR = 0x1111;
        *leaf = (u64)other | PTE_P | PTE_W | global;
        invalidate(t[n].how, TEST_LINEAR + 8);
        want("after", see(TEST_LINEAR), 0x2222);
        *(volatile u64 *)TEST_LINEAR = 0x2222;
        want("memory written", *(u64 *)target, 0x1111);
        /* a missing page is seen at once, and a page that appears needs no invalidation */
        *leaf = 0;
        invalidate(t[n].how, TEST_LINEAR);
        struct regs r = {.rbx = TEST_LINEAR};
        run_kernel(&r, read_rbx);
        want_trap(&r, VECTOR_PF, 0, (u64)read_rbx);
        *leaf = (u64)target | PTE_P | PTE_W | global;
        want("after it appeared", see(TEST_LINEAR), 0x1111);
        *leaf = 0;
        invlpg(TEST_LINEAR);
        verdict2("stale/", t[n].name);
    }
}

/* INVLPG anywhere in a large page forgets all of it (4.10.4.1). */
static void test_large_invlpg(void)
{
    u64 *leaf = page_entry(root, levels, TEST_LINEAR, 2, ROOT_FLAGS);
    u64 whole = *leaf, page = 0x1000000; /* 16 MiB and 18 MiB: free memory */
    *(u64 *)(page + 0x5000) = 0x11;
    *(u64 *)(page + 0x200000 + 0x5000) = 0x22;
    *leaf = page | PTE_P | PTE_W | PTE_PS;
    write_cr3(read_cr3());
    want("before", see(TEST_LINEAR + 0x5000), 0x11);
    want("before, elsewhere", see(TEST_LINEAR + 0x1ff000), *(u64 *)(page + 0x1ff000));
    *leaf = (page + 0x200000) | PTE_P | PTE_W | PTE_PS;
    invlpg(TEST_LINEAR + 0x1ff000);
    want("after", see(TEST_LINEAR + 0x5000), 0x22);
    *leaf = whole;
    write_cr3(read_cr3());
    verdict("stale/invlpg-in-a-large-page");
}

/* More rights need no invalidation but may fault once; the fault forgets the entry (4.10.4.3). */
static void test_spurious(void)
{
    u64 *leaf = page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS);
    struct regs r = {.rbx = TEST_LINEAR, .rax = 7};
    *leaf = (u64)other | PTE_P | PTE_U;
    invlpg(TEST_LINEAR);
    run_user(&r, read_rbx);
    want_done(&r);
    *leaf = (u64)other | PTE_P | PTE_U | PTE_W;
    r = (struct regs){.rbx = TEST_LINEAR, .rax = 7};
    run_user(&r, write_rbx);
    if (r.vector == VECTOR_PF) {
        r = (struct regs){.rbx = TEST_LINEAR, .rax = 7};
        run_user(&r, write_rbx);
    }
    want_done(&r);
    want("memory", *(u32 *)other, 7);
    verdict("stale/more-rights");
}

/* Two address spaces under PCIDs see their own pages; NOFLUSH keeps, its absence forgets. */
static void test_pcid(void)
{
    u64 *second = page_alloc(), *old_root = root;
    u64 *leaf1 = page_entry(root, levels, TEST_LINEAR, 1, ROOT_FLAGS);
    memcpy(second, root, 4096);
    second[TEST_LINEAR >> 39 & 511] = 0;
    u64 *leaf2 = page_entry(second, levels, TEST_LINEAR, 1, ROOT_FLAGS);
    u64 cr3_1 = (u64)root | 1, cr3_2 = (u64)second | 2, noflush = 1ul << 63;

    *(u64 *)target = 0x1111;
    *(u64 *)other = 0x2222;
    *leaf1 = (u64)target | PTE_P | PTE_W;
    *leaf2 = (u64)other | PTE_P | PTE_W;
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(cr3_1);
    want("first", see(TEST_LINEAR), 0x1111);
    write_cr3(cr3_2);
    want("second", see(TEST_LINEAR), 0x2222);
    write_cr3(cr3_1 | noflush);
    want("first again", see(TEST_LINEAR), 0x1111);
    want("cr3 hides bit 63", read_cr3(), cr3_1);
    verdict("pcid/spaces-apart");

    *leaf2 = (u64)target | PTE_P | PTE_W;
    write_cr3(cr3_2); /* forgets PCID 2 */
    want("after a flushing mov", see(TEST_LINEAR), 0x1111);
    verdict("pcid/mov-cr3-forgets");

    if (has_invpcid()) {
        *leaf2 = (u64)other | PTE_P | PTE_W;
        write_cr3(cr3_1 | noflush);
        invpcid(0, 2, TEST_LINEAR);
        write_cr3(cr3_2 | noflush);
        want("after invpcid 0", see(TEST_LINEAR), 0x2222);
        *leaf2 = (u64)target | PTE_P | PTE_W;
        write_cr3(cr3_1 | noflush);
        invpcid(1, 2, 0);
        write_cr3(cr3_2 | noflush);
        want("after invpcid 1", see(TEST_LINEAR), 0x1111);
        *leaf2 = (u64)other | PTE_P | PTE_W;
        write_cr3(cr3_1 | noflush);
        invpcid(3, 0, 0);
        write_cr3(cr3_2 | noflush);
        want("after invpcid 3", see(TEST_LINEAR), 0x2222);
    }
    verdict("pcid/invpcid-forgets");

    /* Many more spaces than anybody remembers by name. */
    for (unsigned n = 3; n < 40; n++) {
        *leaf2 = (u64)((n & 1) ? target : other) | PTE_P | PTE_W;
        write_cr3((u64)second | n);
        want("of many", see(TEST_LINEAR), (n & 1) ? 0x1111 : 0x2222);
    }
    verdict("pcid/many");
    write_cr3((u64)old_root);
    write_cr4(read_cr4() & ~CR4_PCIDE);
    *leaf1 = 0;
    invlpg(TEST_LINEAR);
}

SNIPPET(invpcid_op, "invpcid (%rbx), %rcx");
SNIPPET(invlpg_op, "invlpg (%rbx)");
SNIPPET(mov_cr4_op, "mov %rax, %cr4");
SNIPPET(mov_cr3_op, "mov %rax, %cr3");

static void test_operands(void)
{
    static struct invpcid_operand o;
    struct regs r;
    static const struct {
        u64 type, pcid, linear;
        unsigned vector;
    } t[] = {
        {4, 0, 0, VECTOR_GP},           {~0ul, 0, 0, VECTOR_GP},
        {0, 0x1000, 0, VECTOR_GP},      {1, 1ul << 63, 0, VECTOR_GP},
        {0, 0, 1ul << 63, VECTOR_GP},   {0, 1, 0, VECTOR_GP}, /* PCID not 0 without PCIDE */
        {1, 1, 0, VECTOR_GP},           {2, 0, 0, VECTOR_DONE},
        {3, 0, 1ul << 63, VECTOR_DONE}, {1, 0, 1ul << 63, VECTOR_DONE},
    };
    for (unsigned n = 0; n < sizeof(t) / sizeof(t[0]); n++) {
        o = (struct invpcid_operand){t[n].pcid, t[n].linear};
        r = (struct regs){.rbx = (u64)&o, .rcx = t[n].type};
        run_kernel(&r, invpcid_op);
        if (!want("vector", r.vector, t[n].vector))
            want("row", n, ~0ul);
    }
    o = (struct invpcid_operand){0, 0};
    r = (struct regs){.rbx = user(&o), .rcx = 2};
    run_user(&r, invpcid_op);
    want_trap(&r, VECTOR_GP, 0, user(invpcid_op));
    verdict("invpcid-operands");

    r = (struct regs){.rbx = 1ul << 63};
    run_kernel(&r, invlpg_op);
    want_done(&r); /* SDM 2A INVLPG: a non-canonical address is no fault */
    r = (struct regs){0};
    run_user(&r, invlpg_op);
    want_trap(&r, VECTOR_GP, 0, user(invlpg_op));
    verdict("invlpg-operands");

    r = (struct regs){.rax = read_cr4() | CR4_PCIDE};
    write_cr3(read_cr3() | 8); /* PCIDE may not be set while CR3[11:0] is not 0 */
    run_kernel(&r, mov_cr4_op);
    want_trap(&r, VECTOR_GP, 0, (u64)mov_cr4_op);
    write_cr3(read_cr3() & ~8ul);
    r = (struct regs){.rax = read_cr3() | 1ul << 63};
    run_kernel(&r, mov_cr3_op);
    want_trap(&r, VECTOR_GP, 0, (u64)mov_cr3_op);
    r = (struct regs){.rax = read_cr3() | 1ul << physical_bits()};
    run_kernel(&r, mov_cr3_op);
    want_trap(&r, VECTOR_GP, 0, (u64)mov_cr3_op);
    verdict("mov-cr3-cr4-operands");
}

/* Under 5-level paging bit 56 is the sign (SDM 3A 4.5): the same tests below a PML5 table. */
static void test_five_levels(void)
{
    u64 *pml5 = page_alloc();
    struct regs r;
    u64 high = 0x00fe7000c0000000ul; /* canonical with 57 bits only */

    pml5[0] = (u64)isa_pml4 | ROOT_FLAGS;
    r = (struct regs){.rbx = high};
    run_kernel(&r, read_rbx);
    want_trap(&r, VECTOR_GP, 0, (u64)read_rbx);
    verdict("la57/non-canonical-before");
    r = (struct regs){.rax = read_cr4() | CR4_LA57};
    run_kernel(&r, mov_cr4_op); /* not while in long mode */
    want_trap(&r, VECTOR_GP, 0, (u64)mov_cr4_op);
    verdict("la57/not-in-long-mode");

    isa_set_paging((u64)pml5, read_cr4() | CR4_LA57);
    root = pml5;
    levels = 5;
    test_table("la57/4k/", 1);
    test_upper_levels();
    test_reserved();
    u64 *leaf = page_entry(root, levels, high, 1, ROOT_FLAGS);
    *leaf = (u64)target | PTE_P | PTE_W;
    *(u64 *)target = 0x4711;
    want("through the PML5", see(high), 0x4711);
    r = (struct regs){.rbx = 1ul << 56};
    run_kernel(&r, read_rbx);
    want_trap(&r, VECTOR_GP, 0, (u64)read_rbx);
    verdict("la57/canonical");
    isa_set_paging((u64)isa_pml4, read_cr4() & ~CR4_LA57);
    root = isa_pml4;
    levels = 4;
    r = (struct regs){.rbx = high};
    run_kernel(&r, read_rbx);
    want_trap(&r, VECTOR_GP, 0, (u64)read_rbx);
    verdict("la57/back");
}

void isa_main(const char *command_line)
{
    test_table("4k/", 1);
    test_table("2m/", 2);
    test_table("1g/", 3);
    test_upper_levels();
    test_reserved();
    test_fetch_bit();
    test_dirty();
    test_smap_flag();
    test_rmw();
    test_crossing();
    test_invalidation();
    test_large_invlpg();
    test_spurious();
    test_pcid();
    test_operands();
    test_five_levels();
}
