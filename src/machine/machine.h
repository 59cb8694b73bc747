/* SPDX-License-Identifier: MIT */
/*
 * A virtual machine and its life: created, running, paused, reset, ended.
 *
 * Threads: one thread per vCPU, the clock's, the console's, and the *controller*: the one thread
 * that calls the functions below. Devices and vCPU threads never change the life cycle themselves;
 * they post an event (machine_post), which stops every vCPU at an instruction boundary and makes
 * machine_fd readable; the controller then acts on it in machine_service, while nothing of the
 * guest runs. A process may have any number of machines.
 *
 * Lock order: device lock -> machine lock (a leaf; held for a few instructions only).
 */
#ifndef DOPPEL_MACHINE_MACHINE_H
#define DOPPEL_MACHINE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "clock/clock.h"
#include "engine/engine.h"

/* Exit statuses of doppel (decision 21): its own are even, the debug exit port's are odd. */
enum machine_status {
    MACHINE_POWERED_OFF = 0, /* or it reset under --on-reset exit, or the user quit */
    MACHINE_BAD_INPUT = 2,
    MACHINE_FAILED = 4, /* the monitor failed, or was told to end by a signal */
    MACHINE_DIED = 6,   /* triple fault */
};

#define MACHINE_CPUS_MAX 16

/* ORDER cli on_names */
enum machine_action { MACHINE_ON_EXIT, MACHINE_ON_RESET };
/* Strings are the caller's and outlive the machine. */
struct machine_config {
    const struct engine_ops *engine;
    const char *trace; /* a file, "-" = stdout, or NULL */
    bool perf_map;
    uint64_t bt_cache; /* bytes; 0 = the engine's default */
    const char *cpu;   /* the CPUID model, as cpuid_model_build takes it */
    uint64_t cpus;
    uint64_t cpu_weight; /* as cgroup_create takes them */
    uint64_t cpu_cap;
    uint64_t mem;         /* bytes of RAM, a multiple of 4 KiB */
    const char *firmware; /* or NULL; then kernel is NULL */
    const char *kernel;
    const char *initrd;  /* or NULL */
    const char *append;  /* kernel command line, "" for none */
    const char *console; /* as console_create takes it */
    enum clock_source clock;
    unsigned checks;                    /* enum engine_check */
    uint64_t check_inject, check_slice; /* as engine_config has them */
    bool debug_exit;
    bool test_device;
    enum machine_action on_reset, on_triple_fault;
};

struct machine;

/* Wires the machine and loads the kernel; nothing runs yet. Returns 0, or the status to end with
 * (MACHINE_BAD_INPUT or MACHINE_FAILED) and the sentence in *e. */
int machine_create(const struct machine_config *config, struct machine **out, struct error *e);
/* Ends the threads first when need be, and writes out what the console still holds: -errno with the
 * sentence when that failed. */
int machine_destroy(struct machine *m, struct error *e);

/* Starts, or goes on after machine_pause. */
void machine_resume(struct machine *m);
/* Returns when every vCPU has stopped at an instruction boundary and the clock stands still. */
void machine_pause(struct machine *m);

/* Readable when machine_service has something to do. */
int machine_fd(const struct machine *m);
/* Acts on what was posted. true = the machine goes on; false = it has ended, with *status. */
bool machine_service(struct machine *m, int *status);
/* The controller's loop, for a process that waits for nothing else. Returns the status. */
int machine_run(struct machine *m);

/* What a device, a vCPU thread or the console tells the controller. Any thread; never blocks. When
 * several are posted, the first that ends the machine wins. */
enum machine_event {
    MACHINE_EVENT_POWER_OFF,
    MACHINE_EVENT_RESET,
    MACHINE_EVENT_TRIPLE_FAULT,
    MACHINE_EVENT_DEBUG_EXIT, /* value = what was written to the port */
    MACHINE_EVENT_QUIT,       /* Ctrl-A x */
    MACHINE_EVENT_FAILED,     /* the sentence was logged */
    MACHINE_EVENTS
};
void machine_post(struct machine *m, enum machine_event event, uint32_t value);

/* The statistics as one JSON object (stats.c). The machine has ended or is paused. -errno when
 * writing fails. */
int machine_stats_write(struct machine *m, FILE *out);

#endif
