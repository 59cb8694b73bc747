/* SPDX-License-Identifier: MIT */
/*
 * See sync.h. One mutex and condition per VM guard the waiting; the flags that the fast paths read
 * are atomic. The two races are of Dekker's kind and need sequential consistency: a thread stores
 * quiet = false, then loads its requests and `exclusive`; one that waits for it posts the request
 * and stores `exclusive`, then loads quiet.
 */
#include "engine/interp/sync.h"

static void wake_waiters(struct interp_vm *vm)
{
    if (atomic_load(&vm->waiting) == 0)
        return;
    pthread_mutex_lock(&vm->sync_lock);
    pthread_cond_broadcast(&vm->sync_changed);
    pthread_mutex_unlock(&vm->sync_lock);
}

static void become_quiet(struct interp *t)
{
    atomic_store(&t->quiet, true);
    wake_waiters(t->vm);
}

/* Leaves the quiet state once nobody else is exclusive. sync_lock is held. */
static void resume_locked(struct interp *t)
{
    struct interp_vm *vm = t->vm;
    for (;;) {
        atomic_store(&t->quiet, false);
        struct interp *owner = atomic_load(&vm->exclusive);
        if (owner == NULL || owner == t)
            return;
        atomic_store(&t->quiet, true);
        pthread_cond_broadcast(&vm->sync_changed);
        atomic_fetch_add(&vm->waiting, 1);
        pthread_cond_wait(&vm->sync_changed, &vm->sync_lock);
        atomic_fetch_sub(&vm->waiting, 1);
    }
}

void sync_enter_guest(struct interp *t)
{
    atomic_store(&t->quiet, false);
    if (atomic_load(&t->vm->exclusive) == NULL)
        return;
    pthread_mutex_lock(&t->vm->sync_lock);
    resume_locked(t);
    pthread_mutex_unlock(&t->vm->sync_lock);
}

void sync_leave_guest(struct interp *t)
{
    become_quiet(t);
}

void sync_pause(struct interp *t)
{
    struct interp *owner = atomic_load(&t->vm->exclusive);
    if (owner == NULL || owner == t)
        return;
    pthread_mutex_lock(&t->vm->sync_lock);
    resume_locked(t);
    pthread_mutex_unlock(&t->vm->sync_lock);
}

void sync_serve_protect(struct interp *t)
{
    uint64_t pages[PROTECT_MAX];
    pthread_mutex_lock(&t->vm->sync_lock);
    uint64_t posted = t->protect_posted;
    unsigned count = t->protect_count;
    bool all = t->protect_all;
    memcpy(pages, t->protect_pages, count * sizeof(pages[0]));
    t->protect_count = 0;
    t->protect_all = false;
    pthread_mutex_unlock(&t->vm->sync_lock);
    if (posted == atomic_load(&t->protect_served))
        return;

    if (all)
        tlb_flush_all(t->vcpu);
    for (unsigned n = 0; n < count; n++)
        tlb_protect_page(t->vcpu, mem_page(t->vm->platform->mem, GPA(pages[n]), NULL));
    atomic_store(&t->protect_served, posted);
    wake_waiters(t->vm);
}

static uint64_t post_protect_locked(struct interp *other, gpa_t page)
{
    if (other->protect_count < PROTECT_MAX)
        other->protect_pages[other->protect_count++] = page.v;
    else
        other->protect_all = true;
    vcpu_request(other->vcpu, VCPU_REQUEST_CODE);
    return ++other->protect_posted;
}

void sync_protect(struct interp *t, gpa_t page)
{
    struct interp_vm *vm = t->vm;
    uint64_t wanted[INTERP_VCPUS_MAX];

    if (vm->vcpu_count == 1)
        return;
    become_quiet(t);
    pthread_mutex_lock(&vm->sync_lock);
    for (unsigned n = 0; n < vm->vcpu_count; n++) {
        if (vm->vcpus[n] != t)
            wanted[n] = post_protect_locked(vm->vcpus[n], page);
    }
    for (unsigned n = 0; n < vm->vcpu_count; n++) {
        struct interp *other = vm->vcpus[n];
        atomic_fetch_add(&vm->waiting, 1);
        while (other != t && !atomic_load(&other->quiet) &&
               atomic_load(&other->protect_served) < wanted[n])
            pthread_cond_wait(&vm->sync_changed, &vm->sync_lock);
        atomic_fetch_sub(&vm->waiting, 1);
    }
    resume_locked(t);
    pthread_mutex_unlock(&vm->sync_lock);
}

void sync_exclusive_begin(struct interp *t)
{
    struct interp_vm *vm = t->vm;

    if (vm->vcpu_count == 1)
        return;
    pthread_mutex_lock(&vm->sync_lock);
    resume_locked(t); /* waits for another's turn to end */
    atomic_store(&vm->exclusive, t);
    for (unsigned n = 0; n < vm->vcpu_count; n++) {
        if (vm->vcpus[n] != t)
            vcpu_request(vm->vcpus[n]->vcpu, VCPU_REQUEST_CODE);
    }
    for (unsigned n = 0; n < vm->vcpu_count; n++) {
        struct interp *other = vm->vcpus[n];
        atomic_fetch_add(&vm->waiting, 1);
        while (other != t && !atomic_load(&other->quiet))
            pthread_cond_wait(&vm->sync_changed, &vm->sync_lock);
        atomic_fetch_sub(&vm->waiting, 1);
    }
    pthread_mutex_unlock(&vm->sync_lock);
}

void sync_exclusive_end(struct interp *t)
{
    struct interp_vm *vm = t->vm;

    if (atomic_load(&vm->exclusive) != t)
        return;
    pthread_mutex_lock(&vm->sync_lock);
    atomic_store(&vm->exclusive, NULL);
    pthread_cond_broadcast(&vm->sync_changed);
    pthread_mutex_unlock(&vm->sync_lock);
}
