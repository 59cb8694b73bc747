/* SPDX-License-Identifier: MIT */
/*
 * --cpu-weight and --cpu-cap: the host's share of a VM's vCPU threads, by a cgroup of its own
 * (Linux Documentation/admin-guide/cgroup-v2.rst).
 *
 * The cgroup is *threaded* and lies below that of the process: then only the vCPU threads are in
 * it, so that a capped guest does not slow the console, timers and the controller; and the cgroup
 * above may keep its processes, which one with a child of the ordinary kind may not.
 *
 * Called by the controller's thread.
 */
#ifndef DOPPEL_MACHINE_CGROUP_H
#define DOPPEL_MACHINE_CGROUP_H

#include <stdint.h>

#include "base/error.h"

#define CGROUP_WEIGHT_MAX 10000u /* cpu.weight; 100 is the host's default */

struct cgroup;

/* The directory of the calling process's cgroup in the v2 hierarchy. -ENOENT with the sentence when
 * there is none. The texts are those of /proc/self/mountinfo and /proc/self/cgroup. */
int cgroup_directory(const char *mountinfo, const char *self, char *path, uint64_t size,
                     struct error *e);

/* Makes the cgroup. weight: 1 to CGROUP_WEIGHT_MAX, 0 = as it is; cap: percent of one processor,
 * 0 = none. -errno with the sentence that says what the host lacks. */
int cgroup_create(struct cgroup **out, uint64_t weight, uint64_t cap, struct error *e);
/* As above, below the directory `parent`. */
int cgroup_create_in(struct cgroup **out, const char *parent, uint64_t weight, uint64_t cap,
                     struct error *e);

/* The calling thread goes in, or back: threads that it starts between the two are in the cgroup. */
int cgroup_enter(struct cgroup *g, struct error *e);
int cgroup_leave(struct cgroup *g, struct error *e);

/* Removes it, once its threads have ended. NULL is nothing. */
void cgroup_destroy(struct cgroup *g);

#endif
