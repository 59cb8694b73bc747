/* SPDX-License-Identifier: MIT */
/*
 * Lockstep: one engine checks another (decisions 12 and 13). docs/lockstep.md is the essay.
 *
 *  lockstep.c  the engine: wiring, slices     record.c   the leader's side of the gate
 *  compare.c   states and memory              replay.c   the follower's side, and its run
 *  report.c    what is said of a difference   inject.c   a seeded fault
 *
 * The leader runs the machine's vCPU a slice at a time. What its own state does not determine is
 * logged with its position; the follower, the reference engine on a vCPU and RAM of its own, then
 * runs to the same position with the same answers, and all is compared.
 *
 * Threads: everything on the vCPU's, but for guest memory that the controller's thread writes while
 * the vCPU stands still.
 */
#ifndef DOPPEL_ENGINE_LOCKSTEP_LOCKSTEP_H
#define DOPPEL_ENGINE_LOCKSTEP_LOCKSTEP_H

#include <pthread.h>

#include "engine/engine.h"
#include "x86/msr.h"

/* ORDER kinds in report.c */
enum entry_kind {
    ENTRY_TSC,
    ENTRY_RANDOM,
    ENTRY_READ,
    ENTRY_WRITE,
    ENTRY_MSR_READ,
    ENTRY_MSR_WRITE,
    ENTRY_CR8_READ,
    ENTRY_CR8_WRITE,
    ENTRY_APIC_ENABLED,
    /* From here on they come from outside, at an instruction boundary. */
    ENTRY_INTERRUPT,
    ENTRY_NMI,
    ENTRY_INIT,
    ENTRY_SIPI,
    /* A device has written guest memory, in the course of the entry before. */
    ENTRY_COPIED,
    ENTRY_SLICE, /* only among the recent ones: a slice begins */
    ENTRY_KINDS
};

/* Position: instructions retired, and exceptions delivered, for one that faults retires nothing. */
struct entry {
    uint8_t kind, space, size;
    bool ok; /* RANDOM, MSR: the result; of what comes from outside: RFLAGS.RF */
    uint64_t instructions, exceptions, rip;
    uint64_t address; /* of what comes from outside: RFLAGS */
    uint64_t value;   /* of COPIED: the length */
    uint64_t offset;  /* of COPIED: in `bytes` */
};

#define LOCKSTEP_RECENT 24u /* entries that a report shows */
#define LOCKSTEP_NAME   48u
#define LOCKSTEP_PAGES  (1u << 16) /* dirty pages remembered; more: all of RAM is compared */

struct page_list {
    struct lockstep *lockstep;
    uint64_t *pages;
    unsigned count;
    bool overflow;
};

struct lockstep {
    struct engine_config config;

    /* The leader: the machine's own vCPU and platform, whose hooks lead through record.c. */
    struct x86_platform *machine;
    const struct engine_ops *leader;
    void *leader_vm;
    struct vcpu *v;
    const struct gate_ops *gate; /* what the hooks were before */
    void *gate_context;
    const struct vcpu_irq_ops *irq;
    void *irq_context;
    struct msr_link {
        struct lockstep *lockstep;
        struct msr_entry before;
    } msr_links[MSR_ENTRIES_MAX];

    /* The follower. */
    struct x86_platform platform;
    struct mem mem;
    struct msr_table msrs;
    void *follower_vm;
    struct vcpu *follower;

    /* What the leader met in this slice. The areas are reserved once: nothing may be allocated
     * while the guest's vector state is in the host's registers. */
    struct entry *log;
    uint64_t count, room, next; /* next: not replayed yet */
    uint8_t *bytes;             /* of ENTRY_COPIED */
    uint64_t bytes_used, bytes_room;
    bool full;
    _Atomic bool running; /* the leader's run, on `thread` */
    _Atomic bool foreign; /* another thread wrote guest memory meanwhile */
    pthread_t thread;
    bool replaying;

    struct page_list leader_pages, follower_pages; /* that each may have written */
    struct entry recent[LOCKSTEP_RECENT];
    uint64_t recent_count;
    uint64_t slices, start; /* start: position of this slice */
    char why[256];          /* what differs; empty = nothing */
};

/* ---- record.c: runs while the guest's vector state may be in the host's registers ---- */

extern const struct gate_ops lockstep_record_gate;
extern const struct vcpu_irq_ops lockstep_record_irq;
void lockstep_record_msrs(struct lockstep *l); /* puts itself before the machine's entries */
void lockstep_unrecord_msrs(struct lockstep *l);
void lockstep_page_dirtied(void *page_list, gpa_t page);
void lockstep_copied(void *page_list, gpa_t a, uint64_t n);

/* ---- replay.c ---- */

extern const struct gate_ops lockstep_replay_gate;
extern const struct vcpu_irq_ops lockstep_replay_irq;
void lockstep_replay_msrs(struct lockstep *l); /* fills l->msrs */
/* Runs the follower through the log to where the leader is. false: l->why says what differs. */
bool lockstep_follow(struct lockstep *l);

/* ---- compare.c ---- */

struct difference {
    const struct field *field;
    unsigned index;
    uint64_t leader, follower;
};

/* Calls `found` (may be NULL) for each register element that differs; returns how many do. */
unsigned lockstep_registers(const struct lockstep *l,
                            void (*found)(void *context, const struct difference *d),
                            void *context);
/* The first page that may have been written and differs. */
bool lockstep_memory(const struct lockstep *l, gpa_t *page);
/* Of such a page, the address of the first 8 bytes that differ. */
uint64_t lockstep_first_word(const struct lockstep *l, gpa_t page);
/* Makes the follower's registers the leader's. */
void lockstep_copy_registers(struct lockstep *l);
/* Forgets which pages were written; both engines must ask again before they write one. */
void lockstep_clean(struct lockstep *l);
/* Registers and memory. false: l->why says what differs. */
bool lockstep_compare(struct lockstep *l);

/* ---- report.c ---- */

/* Says in l->why, unless it says something already, that the two did this; NULL: nothing. */
void lockstep_entry_differs(struct lockstep *l, const struct entry *leader,
                            const struct entry *follower);
/* "rbx", "cr3", "vector.zmm[9]" */
void lockstep_field_name(const struct difference *d, char name[LOCKSTEP_NAME]);
/* The differences side by side, the recent entries, and last the one line that names l->why. */
void lockstep_report(struct lockstep *l);

/* ---- inject.c ---- */

/* Flips one bit of the leader's state, chosen by the seed. */
void lockstep_inject(struct lockstep *l, uint64_t seed);

static inline uint64_t lockstep_random(uint64_t *state)
{
    /* Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (SplitMix64). */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
