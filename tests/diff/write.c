/* SPDX-License-Identifier: MIT */
/* Writes the bytes of a form (SDM 2A chapter 2). */
#include <string.h>

#include "forms.h"

static unsigned write_prefixes(const struct form_template *t, const struct form_choice *c,
                               uint8_t *out)
{
    unsigned n = 0;

    if (c->address32)
        out[n++] = 0x67;
    if (c->segment)
        out[n++] = c->segment;
    if (t->prefixes & FORM_LOCK)
        out[n++] = 0xf0;
    if (t->prefixes & FORM_66)
        out[n++] = 0x66;
    if (t->prefixes & FORM_F2)
        out[n++] = 0xf2;
    if (t->prefixes & FORM_F3)
        out[n++] = 0xf3;
    return n;
}

/* The fifth (and fourth) bits of register numbers, by what ModRM holds. */
struct extensions {
    uint8_t r, x, b, r2, v2;
};

static struct extensions extensions_of(const struct form_template *t, const struct form_choice *c)
{
    struct extensions e = {0};

    if (t->reg_free) {
        e.r = c->reg >> 3 & 1;
        e.r2 = c->reg >> 4 & 1;
    }
    e.v2 = c->vvvv >> 4 & 1;
    if (t->has_modrm && t->memory) {
        bool based = !c->rip_relative && !c->absolute;
        e.b = based ? c->base >> 3 & 1 : 0;
        e.x = c->sib && !c->absolute ? c->index >> 3 & 1 : 0;
        if (t->vsib)
            e.v2 = c->index >> 4 & 1;
    } else if (t->rm_free || t->opcode_free) {
        e.b = c->rm >> 3 & 1;
        e.x = t->encoding == FORM_EVEX ? c->rm >> 4 & 1 : 0;
    }
    return e;
}

static unsigned write_legacy(const struct form_template *t, const struct form_choice *c,
                             uint8_t *out)
{
    struct extensions e = extensions_of(t, c);
    uint8_t rex = (uint8_t)(t->w << 3 | e.r << 2 | e.x << 1 | e.b);
    unsigned n = 0;

    if (!t->code32 && (rex || c->force_rex))
        out[n++] = 0x40 | rex;
    if (t->map)
        out[n++] = 0x0f;
    if (t->map == 2)
        out[n++] = 0x38;
    if (t->map == 3)
        out[n++] = 0x3a;
    return n;
}

static unsigned write_vex(const struct form_template *t, const struct form_choice *c, uint8_t *out)
{
    struct extensions e = extensions_of(t, c);
    uint8_t v = (uint8_t)(~c->vvvv & 15);
    uint8_t low = (uint8_t)(v << 3 | t->l << 2 | t->pp);

    if (t->map == 1 && !t->w && !e.x && !e.b && !c->force_rex) {
        out[0] = 0xc5;
        out[1] = (uint8_t)(!e.r << 7 | low);
        return 2;
    }
    out[0] = 0xc4;
    out[1] = (uint8_t)(!e.r << 7 | !e.x << 6 | !e.b << 5 | t->map);
    out[2] = (uint8_t)(t->w << 7 | low);
    return 3;
}

static unsigned write_evex(const struct form_template *t, const struct form_choice *c, uint8_t *out)
{
    struct extensions e = extensions_of(t, c);
    uint8_t v = (uint8_t)(~c->vvvv & 15);
    uint8_t l = t->rounding_free ? c->rounding : t->l;

    out[0] = 0x62;
    out[1] = (uint8_t)(!e.r << 7 | !e.x << 6 | !e.b << 5 | !e.r2 << 4 | t->map);
    out[2] = (uint8_t)(t->w << 7 | v << 3 | 4 | t->pp);
    out[3] = (uint8_t)(c->zeroing << 7 | l << 5 | t->b << 4 | !e.v2 << 3 | c->mask);
    return 4;
}

static unsigned write_disp(uint8_t *out, int32_t disp, unsigned size)
{
    memcpy(out, &disp, size);
    return size;
}

static unsigned write_memory(const struct form_choice *c, uint8_t reg, uint8_t *out)
{
    uint8_t base = c->base & 7;
    bool sib = c->sib || base == 4;
    uint8_t mod = c->mod;
    unsigned n = 0;

    if (c->rip_relative) {
        out[n++] = (uint8_t)(reg << 3 | 5);
        return n + write_disp(out + n, c->disp, 4);
    }
    if (c->absolute) {
        out[n++] = (uint8_t)(reg << 3 | 4);
        out[n++] = (uint8_t)(c->scale << 6 | (c->sib ? (c->index & 7) : 4) << 3 | 5);
        return n + write_disp(out + n, c->disp, 4);
    }
    if (mod == 0 && base == 5)
        mod = 1;
    out[n++] = (uint8_t)(mod << 6 | reg << 3 | (sib ? 4 : base));
    if (sib)
        out[n++] = (uint8_t)(c->scale << 6 | (c->sib ? (c->index & 7) : 4) << 3 | base);
    return n + write_disp(out + n, c->disp, mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

unsigned form_write(const struct form_template *t, const struct form_choice *c, uint8_t *out)
{
    unsigned n = write_prefixes(t, c, out);

    if (t->encoding == FORM_LEGACY)
        n += write_legacy(t, c, out + n);
    else if (t->encoding == FORM_VEX)
        n += write_vex(t, c, out + n);
    else
        n += write_evex(t, c, out + n);
    out[n++] = t->opcode_free ? (uint8_t)((t->opcode & 0xf8) | (c->rm & 7)) : t->opcode;
    if (!t->has_modrm)
        return n;

    uint8_t reg = t->reg_free ? c->reg & 7 : t->reg;
    uint8_t rm = t->rm_free ? c->rm & 7 : t->rm;
    if (t->memory)
        return n + write_memory(c, reg, out + n);
    out[n++] = (uint8_t)(0xc0 | reg << 3 | rm);
    return n;
}
