/* SPDX-License-Identifier: MIT */
/* What machine.c, vcpu_thread.c and stats.c share. */
#ifndef DOPPEL_MACHINE_INTERNAL_H
#define DOPPEL_MACHINE_INTERNAL_H

#include <pthread.h>

#include "machine/cgroup.h"
#include "machine/pc.h"

struct machine_thread {
    struct machine *machine;
    struct vcpu *vcpu;
    pthread_t thread;
    bool started;
};

struct machine {
    struct machine_config config;
    struct pc pc;
    int fd; /* eventfd: the queue is not empty */
    uint64_t created_ns;

    pthread_mutex_t lock; /* all below */
    pthread_cond_t go, stopped;
    bool running;    /* the controller wants guest code to run */
    bool quit;       /* the threads shall end */
    unsigned parked; /* threads that stand still */
    struct {
        enum machine_event event;
        uint32_t value;
    } queue[MACHINE_EVENTS]; /* each event at most once, in the order posted */
    unsigned queued;

    struct cgroup *cgroup; /* of the vCPU threads, or NULL */
    struct machine_thread threads[MACHINE_CPUS_MAX];
};

/* Starts the thread, which stands still until machine_resume. */
int machine_thread_start(struct machine_thread *t, struct error *e);

/* The vCPU's thread, between two runs: stands still while the machine is paused or has an event to
 * serve. false = the thread shall end. */
bool machine_thread_may_run(struct machine_thread *t);

/* Hooks of the instruction clock; context is the machine. */
uint64_t machine_instructions(void *context);
void machine_rearmed(void *context);

uint64_t machine_host_ns(void);

#endif
