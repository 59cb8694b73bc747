/* SPDX-License-Identifier: MIT */
/* Files that cannot be read or are not what they should be: one line that names the file and says
 * what to do. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "boot_images.h"

static char directory[PATH_MAX];

/* A path in our own directory; good until the eighth call from here. */
static const char *path(const char *name)
{
    static char paths[8][PATH_MAX + 64];
    static unsigned next;
    char *p = paths[next++ % 8];
    snprintf(p, sizeof(paths[0]), "%s/%s", directory, name);
    return p;
}

static void make(const char *name, const void *bytes, size_t n, off_t size)
{
    int fd = open(path(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), n);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
}

static int set_up(void **state)
{
    static struct image image;
    const char *tmp = getenv("TMPDIR");
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    snprintf(directory, sizeof(directory), "%s/boot-file-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(directory) == NULL || chdir(directory) != 0)
        return -1;
    image_bzimage(&image);
    make("good", image.bytes, image.size, (off_t)image.size);
    make("short", image.bytes, 2000, 2000);
    make("empty", "", 0, 0);
    make("initrd", "initrd", 6, 6);
    make("huge", "x", 1, (off_t)BOOT_KERNEL_MAX + 1);
    make("initrd-65M", "x", 1, 65 << 20);
    make("initrd-60M", "x", 1, 60 << 20);
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "socket"); /* the whole path could be too long */
    if (mkfifo(path("fifo"), 0600) != 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) != 0 ||
        symlink("nowhere", path("dangling")) != 0)
        return -1;
    close(s);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"good",       "short",      "empty", "initrd", "huge",
                                        "initrd-65M", "initrd-60M", "fifo",  "socket", "dangling"};
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unlink(path(names[i]));
    return chdir("/") != 0 || rmdir(directory) != 0;
}

static int load(struct boot_bench *b, const char *kernel, const char *initrd)
{
    memset(&b->e, 0, sizeof(b->e));
    b->config.kernel_path = kernel;
    b->config.initrd_path = initrd;
    int r = boot_load(&b->mem, b->v, &b->config, &b->e);
    assert_int_equal(r, -b->e.code);
    assert_null(strchr(b->e.text, '\n'));
    return r;
}

static void test_refused(void **state)
{
    static const struct {
        const char *name;
        int error;
        const char *word;
    } cases[] = {
        {"missing", ENOENT, "--kernel"}, {"dangling", ENOENT, "--kernel"},
        {".", EISDIR, "a directory"},    {"fifo", EINVAL, "a pipe"},
        {"socket", EINVAL, "a socket"},  {"empty", EINVAL, "is empty"},
        {"good/x", ENOTDIR, "--kernel"}, {"short", EINVAL, "cut short"},
        {"huge", EFBIG, "1024 MiB"},     {"initrd", ENOEXEC, "not a kernel"},
    };
    struct boot_bench b;
    bench_init(&b, 64u << 20);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int r = load(&b, path(cases[i].name), NULL);
        if (r != -cases[i].error || !strstr(b.e.text, cases[i].word) ||
            !strstr(b.e.text, cases[i].name))
            fail_msg("%s: %d, \"%s\"", cases[i].name, r, b.e.text);
        if (cases[i].error == ENOEXEC)
            continue;
        if (strcmp(cases[i].name, "short") != 0 && cases[i].error != EFBIG) {
            r = load(&b, path("good"), path(cases[i].name)); /* the same as an initrd */
            assert_int_equal(r, -cases[i].error);
            assert_non_null(strstr(b.e.text, cases[i].name));
        }
    }
    assert_int_equal(load(&b, "/dev/zero", NULL), -EINVAL);
    assert_non_null(strstr(b.e.text, "/dev/zero is a device"));
    assert_int_equal(load(&b, NULL, NULL), -EINVAL);
    assert_non_null(strstr(b.e.text, "--kernel"));
    bench_fini(&b);
}

static void test_initrd_sizes(void **state)
{
    struct boot_bench b;
    bench_init(&b, 64u << 20);
    assert_int_equal(load(&b, path("good"), path("initrd")), 0);
    assert_int_equal(load(&b, path("good"), path("initrd-65M")), -EFBIG);
    assert_non_null(strstr(b.e.text, "initrd-65M has 65 MiB, more than the 64 MiB"));
    assert_int_equal(load(&b, path("good"), path("initrd-60M")), -ENOSPC);
    assert_non_null(strstr(b.e.text, "initrd-60M: no room for the initrd"));
    assert_non_null(strstr(b.e.text, "--mem"));
    bench_fini(&b);
}

/* A file that the kernel says has no size (as in /proc) is read to its end. */
static void test_no_size(void **state)
{
    struct boot_bench b;
    struct boot_config c = {.kernel_path = "/proc/self/maps", .ram_size = 64u << 20};
    bench_init(&b, 64u << 20);
    assert_int_equal(boot_files_read(&b.files, &c, &b.e), 0);
    assert_true(b.files.kernel.size > 100);
    assert_int_equal(boot_place(&b.mem, b.v, &b.files, &c, &b.e), -ENOEXEC);
    bench_fini(&b);
}

/* What was read stays what it was, and starts a second time. */
static void test_reset(void **state)
{
    static struct image image;
    struct boot_bench b;
    bench_init(&b, 64u << 20);
    b.config.kernel_path = path("good");
    assert_int_equal(boot_files_read(&b.files, &b.config, &b.e), 0);
    make("good", "gone", 4, 4);
    for (unsigned i = 0; i < 2; i++) {
        memset(b.v, 0xff, sizeof(b.v->gpr));
        assert_int_equal(boot_place(&b.mem, b.v, &b.files, &b.config, &b.e), 0);
        assert_int_equal(b.v->rip, BZIMAGE_PREFERRED + 0x200);
        assert_int_equal(b.v->gpr[RAX], 0);
    }
    image_bzimage(&image);
    make("good", image.bytes, image.size, (off_t)image.size);
    bench_fini(&b);
}

static void test_bad_ram(void **state)
{
    struct boot_bench b;
    bench_init(&b, 64u << 20);
    b.config.ram_size = 12345;
    assert_int_equal(load(&b, path("good"), NULL), -EINVAL);
    b.config.ram_size = 128u << 20; /* more than there is: an error, not a crash */
    assert_int_equal(load(&b, path("good"), path("initrd")), -EFAULT);
    bench_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused), cmocka_unit_test(test_initrd_sizes),
        cmocka_unit_test(test_no_size), cmocka_unit_test(test_reset),
        cmocka_unit_test(test_bad_ram),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
