/* SPDX-License-Identifier: MIT */
/* Reset and check of the vector state; see vector.h. Any thread that owns the struct. */
#include "x86/vector.h"

#include <string.h>

void x86_vector_reset(struct x86_vector *s)
{
    memset(s, 0, sizeof *s);
    s->fcw = 0x40;
    s->ftw = 0xff; /* tag word 5555h: every register holds a zero */
    s->mxcsr = 0x1f80;
    s->mxcsr_mask = 0xffff;
}

const char *x86_vector_check(const struct x86_vector *s)
{
    if (s->mxcsr & MXCSR_RESERVED)
        return "mxcsr";
    if (s->fop & ~0x7ffu)
        return "fop";
    for (unsigned i = 0; i < 8; i++)
        if (s->st[2 * i + 1] >> 16)
            return "st";
    return NULL;
}
