/* SPDX-License-Identifier: MIT */
/* The cgroup of the vCPU threads; see cgroup.h. */
#include "machine/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (64u << 10) /* of what is read from /proc and the cgroup */

/* cpu.max in us. The kernel wants a quota of at least 1 ms, and a short period spares the guest
 * long gaps. */
#define QUOTA_MIN_US    1000u
#define PERIOD_SHORT_US 10000u
#define PERIOD_LONG_US  100000u

#define REMOVE_TRIES 1000 /* of 1 ms: a joined thread may still be on its way out */

struct cgroup {
    char parent[PATH_MAX];
    char path[PATH_MAX];
};

static int read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t n = 0;
    ssize_t got = fd < 0 ? -1 : 1;

    while (got > 0 && n < size - 1) {
        got = read(fd, text + n, size - 1 - n);
        n += got > 0 ? (size_t)got : 0;
    }
    int rc = got < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    text[n] = '\0';
    return rc;
}

static int write_file(const char *directory, const char *name, const char *text)
{
    char path[PATH_MAX + 32];
    int rc = 0;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) < 0)
        rc = -errno;
    close(fd);
    return rc;
}

static bool has_word(const char *directory, const char *name, const char *word)
{
    char path[PATH_MAX + 32], text[1024], *rest = text, *w;

    snprintf(path, sizeof(path), "%s/%s", directory, name);
    if (read_file(path, text, sizeof(text)) != 0)
        return false;
    while ((w = strsep(&rest, " \n")) != NULL) {
        if (strcmp(w, word) == 0)
            return true;
    }
    return false;
}

/* A line of mountinfo: "36 35 98:0 ROOT POINT OPTIONS [FIELD]... - TYPE SOURCE OPTIONS" (proc(5)).
 */
static bool is_cgroup2(const char *line, char *root, char *point)
{
    const char *type = strstr(line, " - ");

    return type != NULL && strncmp(type + 3, "cgroup2 ", 8) == 0 &&
           sscanf(line, "%*s %*s %*s %4095s %4095s", root, point) == 2;
}

static bool find_mount(const char *mountinfo, char *root, char *point)
{
    char line[2 * PATH_MAX];

    for (const char *p = mountinfo; *p != '\0';) {
        size_t n = strcspn(p, "\n");
        if (n < sizeof(line)) {
            memcpy(line, p, n);
            line[n] = '\0';
            if (is_cgroup2(line, root, point))
                return true;
        }
        p += n + (p[n] == '\n');
    }
    return false;
}

int cgroup_directory(const char *mountinfo, const char *self, char *path, uint64_t size,
                     struct error *e)
{
    char root[PATH_MAX], point[PATH_MAX], own[PATH_MAX];
    const char *line = strncmp(self, "0::", 3) == 0 ? self : strstr(self, "\n0::");

    if (!find_mount(mountinfo, root, point) || line == NULL ||
        sscanf(line + (*line == '\n'), "0::%4095[^\n]", own) != 1)
        return error_set(e, ENOENT, "this host has no cgroup v2 mounted");
    size_t skip = strcmp(root, "/") != 0 ? strlen(root) : 0;
    if (strncmp(own, root, skip) != 0 || (skip > 0 && own[skip] != '\0' && own[skip] != '/'))
        return error_set(e, ENOENT, "the cgroup of this process is not under %s", point);
    const char *below = strcmp(own + skip, "/") == 0 ? "" : own + skip;
    if ((uint64_t)snprintf(path, size, "%s%s", point, below) >= size)
        return error_set(e, ENAMETOOLONG, "the name of this process's cgroup is too long");
    return 0;
}

static int set_share(const char *path, uint64_t weight, uint64_t cap)
{
    uint64_t period =
        cap * PERIOD_SHORT_US / 100 >= QUOTA_MIN_US ? PERIOD_SHORT_US : PERIOD_LONG_US;
    char text[64];
    int rc = 0;

    if (weight != 0) {
        snprintf(text, sizeof(text), "%llu", (unsigned long long)weight);
        rc = write_file(path, "cpu.weight", text);
    }
    if (rc == 0 && cap != 0) {
        snprintf(text, sizeof(text), "%llu %llu", (unsigned long long)(cap * period / 100),
                 (unsigned long long)period);
        rc = write_file(path, "cpu.max", text);
    }
    return rc;
}

int cgroup_create_in(struct cgroup **out, const char *parent, uint64_t weight, uint64_t cap,
                     struct error *e)
{
    if (!has_word(parent, "cgroup.controllers", "cpu"))
        return error_set(e, ENOTSUP, "the cgroup %s has no cpu controller", parent);
    struct cgroup *g = calloc(1, sizeof(*g));
    if (g == NULL)
        return error_set(e, ENOMEM, "no memory for the cgroup");
    snprintf(g->parent, sizeof(g->parent), "%s", parent);
    int n = snprintf(g->path, sizeof(g->path), "%s/doppel.XXXXXX", parent);
    int rc = n >= (int)sizeof(g->path) ? -ENAMETOOLONG : mkdtemp(g->path) == NULL ? -errno : 0;
    if (rc != 0) {
        free(g);
        return error_set(e, -rc, "cannot make a cgroup below %s: %s", parent, strerror(-rc));
    }
    rc = write_file(g->path, "cgroup.type", "threaded");
    if (rc == 0 && !has_word(parent, "cgroup.subtree_control", "cpu"))
        rc = write_file(parent, "cgroup.subtree_control", "+cpu");
    if (rc == 0)
        rc = set_share(g->path, weight, cap);
    if (rc != 0) {
        cgroup_destroy(g);
        return error_set(e, -rc, "cannot set up a cgroup below %s: %s", parent, strerror(-rc));
    }
    *out = g;
    return 0;
}

int cgroup_create(struct cgroup **out, uint64_t weight, uint64_t cap, struct error *e)
{
    char parent[PATH_MAX], self[2 * PATH_MAX];
    char *mountinfo = malloc(FILE_MAX);

    if (mountinfo == NULL)
        return error_set(e, ENOMEM, "no memory for the cgroup");
    int rc = read_file("/proc/self/mountinfo", mountinfo, FILE_MAX);
    if (rc == 0)
        rc = read_file("/proc/self/cgroup", self, sizeof(self));
    if (rc != 0)
        error_set(e, -rc, "cannot read /proc/self/cgroup: %s", strerror(-rc));
    else
        rc = cgroup_directory(mountinfo, self, parent, sizeof(parent), e);
    free(mountinfo);
    return rc == 0 ? cgroup_create_in(out, parent, weight, cap, e) : rc;
}

/* "0" is the thread that writes. */
static int move_to(const char *path, struct error *e)
{
    int rc = write_file(path, "cgroup.threads", "0");

    return rc == 0 ? 0 : error_set(e, -rc, "cannot go into cgroup %s: %s", path, strerror(-rc));
}

int cgroup_enter(struct cgroup *g, struct error *e)
{
    return move_to(g->path, e);
}

int cgroup_leave(struct cgroup *g, struct error *e)
{
    return move_to(g->parent, e);
}

void cgroup_destroy(struct cgroup *g)
{
    if (g == NULL)
        return;
    int tries = 0;
    while (rmdir(g->path) != 0 && errno == EBUSY && tries++ < REMOVE_TRIES)
        usleep(1000);
    free(g);
}
