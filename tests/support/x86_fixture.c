/* SPDX-License-Identifier: MIT */
/* See x86_fixture.h. */
#include "x86_fixture.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static struct x86_fixture *fixture_of(struct vcpu *v)
{
    return v->platform->gate_context;
}

static void note(struct vcpu *v, uint64_t address, uint64_t value, unsigned size, bool write)
{
    struct x86_fixture *f = fixture_of(v);
    unsigned at = f->io_count++ % 64;
    f->io[at].address = address;
    f->io[at].value = value;
    f->io[at].size = size;
    f->io[at].write = write;
}

static uint64_t gate_test_tsc(struct vcpu *v)
{
    return fixture_of(v)->tsc;
}

static bool gate_test_random(struct vcpu *v, bool seed, uint64_t *value)
{
    *value = 4;
    return true;
}

/* Each byte of a device reads as the low byte of its own address. */
static uint64_t gate_test_read(struct vcpu *v, enum bus_space space, uint64_t address,
                               unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= ((address + i) & 0xff) << (8 * i);
    note(v, address, value, size, false);
    return value;
}

static void gate_test_write(struct vcpu *v, enum bus_space space, uint64_t address, uint64_t value,
                            unsigned size)
{
    note(v, address, value, size, true);
}

static int gate_test_acknowledge(struct vcpu *v)
{
    return -1;
}

static const struct gate_ops gate_test = {
    .tsc = gate_test_tsc,
    .random = gate_test_random,
    .read = gate_test_read,
    .write = gate_test_write,
    .acknowledge = gate_test_acknowledge,
};

static void code_written(void *context, gpa_t page)
{
    struct x86_fixture *f = context;
    f->code_writes++;
    f->code_page = page.v;
}

static void must(int err, const struct error *e)
{
    if (err != 0) {
        fprintf(stderr, "fixture: %s\n", e->text);
        exit(1);
    }
}

void x86_fixture_model(struct x86_fixture *f, const char *spec)
{
    struct error e = {0};
    must(cpuid_model_build(&f->cpuid, spec, 1000000000, 1, &e), &e);
}

struct x86_fixture *x86_fixture_create(void)
{
    struct error e = {0};
    struct x86_fixture *f = aligned_alloc(64, (sizeof(*f) + 63) & ~(size_t)63);

    memset(f, 0, sizeof(*f));
    mem_init(&f->mem);
    must(mem_add(&f->mem, "ram", GPA(0), FIXTURE_RAM, MEM_ANONYMOUS, false, &e), &e);
    must(mem_add(&f->mem, "rom", GPA(FIXTURE_ROM), MEM_PAGE_SIZE, MEM_ANONYMOUS, true, &e), &e);
    must(mem_add_listener(&f->mem, (struct mem_listener){code_written, f}), &e);
    x86_fixture_model(f, "max,vendor=intel");
    msr_table_init(&f->msrs);
    f->platform = (struct x86_platform){.mem = &f->mem,
                                        .cpuid = &f->cpuid,
                                        .msrs = &f->msrs,
                                        .gate = &gate_test,
                                        .gate_context = f,
                                        .physical_address_bits = 46};
    f->v.platform = &f->platform;
    f->next_table = FIXTURE_RAM;
    vcpu_reset(&f->v);
    return f;
}

void x86_fixture_destroy(struct x86_fixture *f)
{
    mem_fini(&f->mem);
    free(f);
}

uint64_t *x86_fixture_ram(struct x86_fixture *f, uint64_t physical)
{
    return (uint64_t *)(mem_page(&f->mem, GPA(physical), NULL) + (physical & 0xfff));
}

uint64_t x86_fixture_table(struct x86_fixture *f)
{
    f->next_table -= MEM_PAGE_SIZE;
    memset(x86_fixture_ram(f, f->next_table), 0, MEM_PAGE_SIZE);
    return f->next_table;
}

void x86_fixture_long_mode(struct x86_fixture *f, bool la57)
{
    struct vcpu *v = &f->v;
    v->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    v->cr4 = CR4_PAE | CR4_PGE | (la57 ? CR4_LA57 : 0);
    v->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    v->seg[SEG_CS].attributes = 0x9b | ATTR_L | ATTR_G;
    v->seg[SEG_CS].base = 0;
    v->cr3 = x86_fixture_table(f);
    v->rip = 0;
    vcpu_update_mode(v);
    tlb_flush_all(v);
}

uint64_t *x86_fixture_entry(struct x86_fixture *f, uint64_t root, uint64_t linear, unsigned level)
{
    uint64_t table = root;
    for (unsigned l = (f->v.cr4 & CR4_LA57) ? 5 : 4;; l--) {
        uint64_t *entry = x86_fixture_ram(f, table) + ((linear >> (12 + 9 * (l - 1))) & 511);
        if (l == level)
            return entry;
        if (!(*entry & PTE_P))
            *entry = x86_fixture_table(f) | PTE_P | PTE_RW | PTE_US;
        table = *entry & 0xffffffffff000;
    }
}

void x86_fixture_map(struct x86_fixture *f, uint64_t linear, uint64_t physical, uint64_t bits)
{
    *x86_fixture_entry(f, f->v.cr3 & ~0xfffull, linear, 1) = physical | bits;
}

int try_load(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, unsigned size,
             uint64_t *value)
{
    jmp_buf unwind;
    f->v.unwind = &unwind;
    if (setjmp(unwind) != 0)
        return f->v.fault.vector;
    uint64_t got = x86_load_reach(&f->v, reach, linear, size);
    if (value != NULL)
        *value = got;
    return -1;
}

int try_store(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, uint64_t value,
              unsigned size)
{
    jmp_buf unwind;
    f->v.unwind = &unwind;
    if (setjmp(unwind) != 0)
        return f->v.fault.vector;
    x86_store_reach(&f->v, reach, linear, value, size);
    return -1;
}

int try_write_bytes(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, const void *bytes,
                    unsigned n)
{
    jmp_buf unwind;
    f->v.unwind = &unwind;
    if (setjmp(unwind) != 0)
        return f->v.fault.vector;
    tlb_write_bytes(&f->v, reach, linear, bytes, n);
    return -1;
}

int try_probe(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, unsigned n, bool write)
{
    jmp_buf unwind;
    f->v.unwind = &unwind;
    if (setjmp(unwind) != 0)
        return f->v.fault.vector;
    tlb_probe(&f->v, reach, linear, n, write);
    return -1;
}

int try_rmw(struct x86_fixture *f, enum tlb_reach reach, uint64_t linear, unsigned size,
            void **host)
{
    jmp_buf unwind;
    f->v.unwind = &unwind;
    if (setjmp(unwind) != 0)
        return f->v.fault.vector;
    void *p = tlb_pointer_rmw(&f->v, reach, linear, size);
    if (host != NULL)
        *host = p;
    return -1;
}

int try_fetch(struct x86_fixture *f, uint64_t linear, const uint8_t **host, uint64_t *physical)
{
    jmp_buf unwind;
    f->v.unwind = &unwind;
    if (setjmp(unwind) != 0)
        return f->v.fault.vector;
    const uint8_t *p = tlb_fetch_page(&f->v, linear, physical);
    if (host != NULL)
        *host = p;
    return -1;
}
