/* SPDX-License-Identifier: MIT */
/* The script for firmware, run as SeaBIOS runs it, gives what acpi_build gives. */
#include "boot/acpi_loader.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct file {
    const char *name;
    uint8_t *bytes;
    size_t size;
    uint64_t at; /* 0 = not allocated yet */
    uint32_t zone;
};

static struct file files[2];

static struct file *find(const char *name)
{
    for (unsigned i = 0; i < 2; i++)
        if (strcmp(files[i].name, name) == 0)
            return &files[i];
    fail_msg("no file '%s'", name);
    return NULL;
}

static void run(const struct acpi_command *c)
{
    struct file *f, *source;
    uint64_t value = 0;

    switch (c->command) {
    case 1:
        f = find(c->allocate.file);
        assert_int_equal(f->at, 0);
        f->zone = c->allocate.zone;
        f->at = f->zone == 2 ? 0xf5000 : 0x1ffe0000;
        assert_int_equal(f->at % c->allocate.align, 0);
        break;
    case 2:
        f = find(c->pointer.destination);
        source = find(c->pointer.source);
        assert_true(f->at != 0 && source->at != 0);
        assert_true(c->pointer.offset + c->pointer.size <= f->size);
        memcpy(&value, f->bytes + c->pointer.offset, c->pointer.size);
        assert_true(value < source->size);
        value += source->at;
        memcpy(f->bytes + c->pointer.offset, &value, c->pointer.size);
        break;
    case 3:
        f = find(c->checksum.file);
        assert_true(c->checksum.offset < f->size);
        assert_true(c->checksum.start + c->checksum.length <= f->size);
        for (uint32_t i = 0; i < c->checksum.length; i++)
            value += f->bytes[c->checksum.start + i];
        f->bytes[c->checksum.offset] = (uint8_t)(f->bytes[c->checksum.offset] - value);
        break;
    default:
        fail_msg("command %u", c->command);
    }
}

static void *copy(const void *bytes, size_t n)
{
    void *p = malloc(n);
    assert_non_null(p);
    return memcpy(p, bytes, n);
}

static void same_as_in_memory(void **state)
{
    static const unsigned cpus[] = {1, 16, ACPI_CPUS_MAX};
    struct acpi_files f;

    for (unsigned i = 0; i < 3; i++) {
        struct acpi_config config = acpi_config_default(cpus[i]);
        config.hpet = i == 1 ? 0 : config.hpet;
        assert_int_equal(acpi_files_init(&f, &config, NULL), 0);
        size_t size;
        const void *tables = acpi_files_tables(&f, &size);
        files[0] = (struct file){ACPI_FILE_RSDP, copy(acpi_files_rsdp(&f), 36), 36, 0, 0};
        files[1] = (struct file){ACPI_FILE_TABLES, copy(tables, size), size, 0, 0};
        for (unsigned n = 0; n < f.commands; n++)
            run(&f.script[n]);
        assert_int_equal(files[0].zone, 2); /* where an OS looks for the RSDP */
        assert_int_equal(files[1].zone, 1);

        struct acpi_image *image =
            acpi_image_create(&config, files[1].at - ACPI_IMAGE_TABLES, NULL);
        assert_non_null(image);
        assert_memory_equal(files[0].bytes, image->bytes, 36);
        assert_int_equal(size, image->size - ACPI_IMAGE_TABLES);
        assert_memory_equal(files[1].bytes, image->bytes + ACPI_IMAGE_TABLES, size);
        free(image);
        free(files[0].bytes);
        free(files[1].bytes);
        acpi_files_fini(&f);
    }
}

static void refused(void **state)
{
    struct acpi_config config = acpi_config_default(ACPI_CPUS_MAX + 1);
    struct acpi_files f;
    struct error e = {0};
    assert_int_equal(acpi_files_init(&f, &config, &e), -EINVAL);
    assert_non_null(strstr(e.text, "processors"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_as_in_memory),
        cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
