/* SPDX-License-Identifier: MIT */
/* The cgroup of the vCPU threads: which directory it is, what is said when the host cannot, and a
 * real one where the host can. */
#include <errno.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "machine/cgroup.h"
#include "skip.h"

static const char mounts[] =
    "25 30 0:23 / /proc rw,nosuid - proc proc rw\n"
    "30 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
static const char inside[] = "30 1 0:26 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

static void directories(void **state)
{
    struct error e = {0};
    char path[64];

    assert_int_equal(cgroup_directory(mounts, "0::/user/me\n", path, sizeof(path), &e), 0);
    assert_string_equal(path, "/sys/fs/cgroup/user/me");
    assert_int_equal(cgroup_directory(mounts, "5:cpu:/a\n0::/\n", path, sizeof(path), &e), 0);
    assert_string_equal(path, "/sys/fs/cgroup");
    assert_int_equal(cgroup_directory(inside, "0::/outer/b\n", path, sizeof(path), &e), 0);
    assert_string_equal(path, "/sys/fs/cgroup/b");
    assert_true(cgroup_directory(inside, "0::/outside\n", path, sizeof(path), &e) < 0);
    assert_true(cgroup_directory(inside, "0::/outer2\n", path, sizeof(path), &e) < 0);
    assert_true(cgroup_directory(mounts, "0::/user/me\n", path, 20, &e) < 0);
    assert_true(cgroup_directory(mounts, "5:cpu:/a\n", path, sizeof(path), &e) < 0);
    assert_true(cgroup_directory("25 30 0:23 / /proc rw - proc proc rw\n", "0::/\n", path,
                                 sizeof(path), &e) < 0);
    assert_non_null(strstr(e.text, "no cgroup v2"));
}

static void put(const char *directory, const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* A directory that is no cgroup: what was made is removed again. */
static void what_fails_leaves_nothing(void **state)
{
    char base[] = "/tmp/cgroup_test.XXXXXX", command[128];
    struct error e = {0};
    struct cgroup *g = NULL;

    assert_non_null(mkdtemp(base));
    assert_true(cgroup_create_in(&g, base, 100, 0, &e) < 0);
    assert_non_null(strstr(e.text, "no cpu controller"));
    put(base, "cgroup.controllers", "cpuset io memory\n");
    assert_true(cgroup_create_in(&g, base, 100, 0, &e) < 0);
    assert_non_null(strstr(e.text, "no cpu controller"));
    put(base, "cgroup.controllers", "cpuset cpu io\n");
    assert_true(cgroup_create_in(&g, base, 100, 50, &e) < 0);
    assert_non_null(strstr(e.text, "cannot set up a cgroup"));
    assert_null(g);
    snprintf(command, sizeof(command), "rm %s/cgroup.controllers && rmdir %s", base, base);
    assert_int_equal(system(command), 0); /* it is empty */
}

static bool here(const char *word)
{
    char line[512];
    FILE *f = fopen("/proc/thread-self/cgroup", "r");
    bool found = false;
    assert_non_null(f);
    while (fgets(line, sizeof(line), f) != NULL)
        found |= strncmp(line, "0::", 3) == 0 && strstr(line, word) != NULL;
    fclose(f);
    return found;
}

static void a_real_one(void **state)
{
    struct error e = {0};
    struct cgroup *g = NULL;
    int rc = cgroup_create(&g, 50, 30, &e);

    if (rc != 0)
        print_message("%s\n", e.text);
    bool lacking = rc == -ENOENT || rc == -ENOTSUP || rc == -EACCES || rc == -EPERM || rc == -EROFS;
    SKIP_WITHOUT(!lacking, "writable cgroup v2 with the cpu controller");
    assert_int_equal(rc, 0);
    assert_false(here("doppel."));
    assert_int_equal(cgroup_enter(g, &e), 0);
    assert_true(here("doppel."));
    assert_int_equal(cgroup_leave(g, &e), 0);
    assert_false(here("doppel."));
    cgroup_destroy(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(directories),
        cmocka_unit_test(what_fails_leaves_nothing),
        cmocka_unit_test(a_real_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
