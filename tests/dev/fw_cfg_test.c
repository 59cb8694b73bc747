/* SPDX-License-Identifier: MIT */
#include "harness.h"

#include <endian.h>
#include <stdio.h>

#include "dev/fw_cfg.h"

#define REQUEST 0x1000u
#define BUFFER  0x2000u

static const char text[] = "etc text of seventeen";

static struct fw_cfg *create(struct harness *h)
{
    struct fw_cfg *f;
    assert_int_equal(fw_cfg_create(&f, &h->bus, &h->mem, 512u << 20, 3, NULL), 0);
    assert_int_equal(fw_cfg_add_file(f, "etc/first", text, sizeof(text), NULL), 0);
    assert_int_equal(fw_cfg_add_file(f, "etc/empty", "", 0, NULL), 0);
    return f;
}

static void destroy(struct harness *h, struct fw_cfg *f)
{
    fw_cfg_destroy(f);
    harness_destroy(h);
}

static uint64_t item(struct harness *h, uint16_t selector, unsigned n)
{
    uint64_t v = 0;
    out(h, FW_CFG_SELECTOR, selector, 2);
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)inb(h, FW_CFG_SELECTOR + 1) << (8 * i);
    return v;
}

/* Runs one request; returns the control word it leaves. */
static uint32_t dma(struct harness *h, uint64_t at, uint32_t control, uint32_t length,
                    uint64_t address)
{
    struct {
        uint32_t control, length;
        uint64_t address;
    } q = {htobe32(control), htobe32(length), htobe64(address)};
    mem_write(&h->mem, GPA(at), &q, sizeof(q));
    if (at >> 32 != 0)
        out(h, FW_CFG_DMA, htobe32((uint32_t)(at >> 32)), 4);
    out(h, FW_CFG_DMA + 4, htobe32((uint32_t)at), 4);
    assert_int_equal(mem_read(&h->mem, GPA(at), &q, sizeof(q)), 0);
    return be32toh(q.control);
}

static void items(void **state)
{
    struct harness *h = harness_create();
    struct fw_cfg *f = create(h);
    assert_int_equal(item(h, FW_CFG_SIGNATURE, 4), 0x554d4551); /* "QEMU" */
    assert_int_equal(inb(h, FW_CFG_SELECTOR + 1), 0);           /* past the end */
    assert_int_equal(item(h, FW_CFG_ID, 4), 3);
    assert_int_equal(item(h, FW_CFG_RAM_SIZE, 8), 512u << 20);
    assert_int_equal(item(h, FW_CFG_CPUS, 2), 3);
    assert_int_equal(item(h, FW_CFG_MAX_CPUS, 2), 3);
    assert_int_equal(item(h, FW_CFG_IRQ0_OVERRIDE, 1), 1);
    assert_int_equal(item(h, 0x7fff, 4), 0);
    assert_int_equal(in(h, FW_CFG_DMA, 4), 0x554d4551);
    assert_int_equal(in(h, FW_CFG_DMA + 4, 4), 0x47464320); /* " CFG" */
    destroy(h, f);
}

static void directory(void **state)
{
    struct harness *h = harness_create();
    struct fw_cfg *f = create(h);
    char name[FW_CFG_NAME_MAX];
    assert_int_equal(be32toh((uint32_t)item(h, FW_CFG_DIRECTORY, 4)), 2);
    uint32_t size = 0;
    for (unsigned i = 0; i < 4; i++)
        size = size << 8 | inb(h, FW_CFG_SELECTOR + 1);
    assert_int_equal(size, sizeof(text));
    uint16_t selector = (uint16_t)(inb(h, FW_CFG_SELECTOR + 1) << 8);
    selector |= inb(h, FW_CFG_SELECTOR + 1);
    assert_int_equal(selector, FW_CFG_FILES);
    assert_int_equal(inb(h, FW_CFG_SELECTOR + 1) | inb(h, FW_CFG_SELECTOR + 1), 0);
    for (unsigned i = 0; i < FW_CFG_NAME_MAX; i++)
        name[i] = (char)inb(h, FW_CFG_SELECTOR + 1);
    assert_string_equal(name, "etc/first");
    out(h, FW_CFG_SELECTOR, selector, 2);
    for (unsigned i = 0; i < sizeof(text); i++)
        assert_int_equal(inb(h, FW_CFG_SELECTOR + 1), text[i]);
    destroy(h, f);
}

static void adding_files(void **state)
{
    struct harness *h = harness_create();
    struct fw_cfg *f = create(h);
    struct error e;
    char name[64];
    assert_int_equal(fw_cfg_add_file(f, "etc/first", "x", 1, &e), -EINVAL);
    assert_non_null(strstr(e.text, "etc/first"));
    assert_int_equal(fw_cfg_add_file(f, "", "x", 1, &e), -EINVAL);
    memset(name, 'n', sizeof(name));
    name[FW_CFG_NAME_MAX] = 0;
    assert_int_equal(fw_cfg_add_file(f, name, "x", 1, &e), -EINVAL);
    name[FW_CFG_NAME_MAX - 1] = 0;
    assert_int_equal(fw_cfg_add_file(f, name, "x", 1, &e), 0);
    for (unsigned i = 3; i < FW_CFG_FILES_MAX; i++) {
        snprintf(name, sizeof(name), "file %u", i);
        assert_int_equal(fw_cfg_add_file(f, name, name, 8, &e), 0);
    }
    assert_int_equal(fw_cfg_add_file(f, "late", "x", 1, &e), -ENOSPC);
    destroy(h, f);
}

static void dma_reads(void **state)
{
    struct harness *h = harness_create();
    struct fw_cfg *f = create(h);
    char got[64];
    memset(got, 0x55, sizeof(got));
    mem_write(&h->mem, GPA(BUFFER), got, sizeof(got));
    uint32_t select = (uint32_t)FW_CFG_FILES << 16 | FW_CFG_DMA_SELECT;
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_READ, 40, BUFFER), 0);
    mem_read(&h->mem, GPA(BUFFER), got, sizeof(got));
    assert_memory_equal(got, text, sizeof(text));
    for (unsigned i = sizeof(text); i < 40; i++)
        assert_int_equal(got[i], 0);
    assert_int_equal(got[40], 0x55);
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_SKIP, 4, 0), 0);
    assert_int_equal(inb(h, FW_CFG_SELECTOR + 1), text[4]);
    assert_int_equal(dma(h, REQUEST, FW_CFG_DMA_READ, 3, BUFFER), 0);
    mem_read(&h->mem, GPA(BUFFER), got, 3);
    assert_memory_equal(got, text + 5, 3);
    assert_int_equal(dma(h, REQUEST, FW_CFG_DMA_READ, 0, UINT64_MAX), 0);
    assert_int_equal(dma(h, REQUEST, FW_CFG_DMA_SKIP, UINT32_MAX, 0), 0);
    assert_int_equal(inb(h, FW_CFG_SELECTOR + 1), 0);
    destroy(h, f);
}

static void dma_refuses(void **state)
{
    struct harness *h = harness_create();
    struct fw_cfg *f = create(h);
    uint32_t select = (uint32_t)FW_CFG_FILES << 16 | FW_CFG_DMA_SELECT;
    uint8_t byte = 0x77;
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_WRITE, 4, BUFFER), FW_CFG_DMA_ERROR);
    assert_int_equal(item(h, FW_CFG_FILES, 1), text[0]);
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_READ, 4, HARNESS_RAM - 3),
                     FW_CFG_DMA_ERROR);
    assert_int_equal(mem_read(&h->mem, GPA(HARNESS_RAM - 3), &byte, 1), 0);
    assert_int_equal(byte, 0); /* nothing was written */
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_READ, UINT32_MAX, BUFFER),
                     FW_CFG_DMA_ERROR);
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_READ, 16, UINT64_MAX - 7),
                     FW_CFG_DMA_ERROR);
    assert_int_equal(dma(h, REQUEST, select | FW_CFG_DMA_READ, 4, 0xfee00000), FW_CFG_DMA_ERROR);
    out(h, FW_CFG_DMA, 0xffffffff, 4); /* a request outside RAM */
    out(h, FW_CFG_DMA + 4, 0xffffffff, 4);
    out(h, FW_CFG_DMA + 4, htobe32(HARNESS_RAM - 8), 4);
    destroy(h, f);
}

static void saved_state(void **state)
{
    struct harness *h = harness_create(), *g = harness_create();
    struct fw_cfg *a = create(h), *b = create(g);
    item(h, FW_CFG_FILES, 5);
    out(h, FW_CFG_DMA, htobe32(1), 4);
    harness_round_trip(&fw_cfg_state, a, b);
    assert_int_equal(inb(g, FW_CFG_SELECTOR + 1), text[5]);
    harness_refused(&fw_cfg_state, a, "offset", 0, sizeof(text) + 1);
    harness_refused(&fw_cfg_state, a, "selector", 0, FW_CFG_FILES + 1);
    uint64_t random = 9;
    for (unsigned i = 0; i < 200000; i++) { /* random requests, some plausible */
        uint64_t x = harness_random(&random);
        dma(h, REQUEST, (uint32_t)(x & 0x001f001f), (uint32_t)(x >> 32) >> (x >> 27 & 31),
            harness_random(&random) >> (x >> 22 & 63));
        if ((x & 0xff00) == 0)
            harness_hostile(h, FW_CFG_SELECTOR - 1, 16, 100, x | 1);
    }
    harness_round_trip(&fw_cfg_state, a, b);
    fw_cfg_reset(a);
    assert_int_equal(inb(h, FW_CFG_SELECTOR + 1), 0);
    destroy(h, a);
    destroy(g, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items),     cmocka_unit_test(directory),   cmocka_unit_test(adding_files),
        cmocka_unit_test(dma_reads), cmocka_unit_test(dma_refuses), cmocka_unit_test(saved_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
