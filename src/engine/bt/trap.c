/* SPDX-License-Identifier: MIT */
/*
 * Host signals that guest instructions raise in translated code: divide errors and SIMD exceptions
 * (SIGFPE), misaligned vector operands (SIGSEGV), what this processor does not have (SIGILL), a
 * memory failure (SIGBUS). The handler only moves the thread on to the stub, with all registers as
 * they were; the interpreter then runs the instruction and raises the guest's exception. A signal
 * from anywhere else goes to the handler before us.
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

static __thread struct vcpu *volatile current;

static const int numbers[] = {SIGSEGV, SIGFPE, SIGILL, SIGBUS};
static struct sigaction previous[4];
static int install_result;

static void pass_on(int number, siginfo_t *info, void *context)
{
    const struct sigaction *other = NULL;
    for (unsigned n = 0; n < 4; n++)
        if (numbers[n] == number)
            other = &previous[n];
    if (other->sa_flags & SA_SIGINFO)
        other->sa_sigaction(number, info, context);
    else if (other->sa_handler != SIG_DFL && other->sa_handler != SIG_IGN)
        other->sa_handler(number);
    else
        sigaction(number, other, NULL); /* it happens again, and ends the process */
}

static void on_trap(int number, siginfo_t *info, void *context)
{
    greg_t *rip = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    struct vcpu *v = current;
    if (v != NULL) {
        struct bt_local *l = bt_local(v);
        const struct bt_vm *vm = l->vm;
        uint64_t pc = (uint64_t)*rip;
        if (pc >= (uintptr_t)bt_exec(vm, vm->first) &&
            pc < (uintptr_t)vm->memory.exec + vm->memory.size) {
            l->fault_pc = pc;
            *rip = (greg_t)(uintptr_t)bt_exec(vm, vm->stubs.fault);
            return;
        }
    }
    pass_on(number, info, context);
}

static void install(void)
{
    struct sigaction a = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&a.sa_mask);
    for (unsigned n = 0; n < 4; n++)
        if (sigaction(numbers[n], &a, &previous[n]) < 0)
            install_result = errno;
}

int bt_trap_install(struct error *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    if (install_result != 0)
        return error_set(e, install_result, "engine bt: cannot catch signals: %s",
                         strerror(install_result));
    return 0;
}

void bt_trap_enter(struct vcpu *v)
{
    current = v;
}
