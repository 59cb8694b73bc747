/* SPDX-License-Identifier: MIT */
/* See thread.h. sched_setattr(2) has no wrapper in glibc 2.36, and the kernel's header of its
 * struct cannot stand beside <sched.h>. */
#include "base/thread.h"

#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SLICE_NS      100000u /* the least that Linux gives */
#define TIMERSLACK_NS 1ul     /* the default lets every timer be 50 us late */

struct attributes { /* the first version of struct sched_attr */
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

void thread_prompt(void)
{
    struct attributes a = {.size = sizeof(a)};

    prctl(PR_SET_TIMERSLACK, TIMERSLACK_NS);
    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) != 0)
        return;
    if (a.policy != 0) /* SCHED_OTHER; whoever chose another knows better */
        return;
    a.flags = 0;
    a.runtime = SLICE_NS;
    syscall(SYS_sched_setattr, 0, &a, 0);
}
