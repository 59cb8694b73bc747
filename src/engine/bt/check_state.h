/* SPDX-License-Identifier: MIT */
/*
 * What the checker knows at one place of a translation: of each register, of RFLAGS, of the stack.
 * Knowledge is only lost where two paths meet. To teach it a new way of proving an address, add a
 * kind of value here, the instruction that makes one in check_state.c, and the access that it
 * allows in check_rules.c.
 */
#ifndef DOPPEL_ENGINE_BT_CHECK_STATE_H
#define DOPPEL_ENGINE_BT_CHECK_STATE_H

#include "engine/bt/check.h"

#include <Zydis/Zydis.h>

enum check_kind {
    CHECK_ANY,
    CHECK_CONSTANT,    /* n, of 32 bits */
    CHECK_COPY,        /* of register `of` */
    CHECK_INDEX,       /* register `of` rotated right by ror, & n, << shl; of NONE: any such bits */
    CHECK_SUM,         /* a linear address + negative_page of its table entry, at index `of` */
    CHECK_OFFSET,      /* the same, and at most n: so it is the offset in the entry's page */
    CHECK_LINEAR,      /* the linear address again: the entry at index `of` serves it */
    CHECK_SLOT_SUM,    /* register `of` + negative_page of the slot */
    CHECK_SLOT_OFFSET, /* the same, and at most n: so the slot serves the address in `of` */
    CHECK_ADDEND,      /* with register `of` it makes the host address of n bytes of the guest's */
    CHECK_HOST,        /* host address of n bytes of the guest's */
    CHECK_REQUESTS,    /* vcpu.requests, 32 bits */
    CHECK_JUMP,        /* CHECK_INDEX of the entry of `jumps` that has the target */
    CHECK_EXIT,        /* &unit->exits[n] */
    CHECK_SITE,        /* &unit->sites[n] */
};

#define CHECK_NONE 0xffu

struct check_value {
    uint8_t kind, of, ror, shl;
    bool write; /* of the write table or slots; what may be written */
    uint32_t n;
    uint32_t slot; /* offset in struct vcpu */
};

/* What RFLAGS say. */
enum check_condition {
    CHECK_FLAGS_ANY,
    CHECK_FLAGS_REQUESTS, /* ZF: nothing is requested */
    CHECK_FLAGS_BELOW,    /* register `reg` was compared with n, 64 bits */
    CHECK_FLAGS_JUMP,     /* ZF: the entry of `jumps` at index `reg` has the target */
    CHECK_FLAGS_TOKEN,    /* ZF: the pages n (bits as `mapped`) are mapped where they were */
};

struct check_state {
    struct check_value r[16];
    uint8_t flags, flags_reg; /* enum check_condition */
    uint32_t flags_n;
    uint16_t exit;  /* 1 + number of the exit whose unlinked code this is; 0: of none */
    uint8_t depth;  /* of the stack, in pushes of 8 bytes */
    bool polled;    /* requests were looked at since the entry, and there were none */
    uint8_t mapped; /* pages that are known to be mapped where they were: CHECK_PAGE_… */
    bool marked;    /* a mark has been passed since the last jump */
};

#define CHECK_PAGE_FIRST  1u
#define CHECK_PAGE_SECOND 2u /* of a unit that has one */

struct check_insn {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t *at; /* writable alias */
};

struct check {
    const struct bt_vm *vm;
    const struct bt_unit *u;
    char *why;
    size_t why_size;
    const struct check_insn *i; /* under way */
    bool failed;
};

/* A table in struct vcpu that translated code reads by an index: 16-byte entries. */
struct check_table {
    uint32_t base, size;
    bool fast, write; /* of the fast TLB (else `jumps`); its write table */
};

/* One of tlb.slots: a table of one entry. */
struct check_slot {
    uint32_t base, field;
    bool write;
};

/* The broken rule; the first one stays. Returns false. */
bool check_fail(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- check_state.c ---- */

/* The unit's pages are all mapped where they were. */
bool check_mapped(const struct check *c, const struct check_state *s);
/* The number of a general register, of whichever part; CHECK_NONE for others. */
unsigned check_gpr(ZydisRegister r);
/* The largest value there can be. */
uint64_t check_bound(const struct check_value *v);
bool check_is_host(const struct check_value *v);
/* The table of the unit's reach that [base + disp] lies in; false if in none. */
bool check_table_at(const struct check *c, int64_t disp, struct check_table *t);
/* Whether %gs:disp lies in the slots of the unit's reach, and then in which, and which field. */
bool check_slot_at(const struct check *c, int64_t disp, struct check_slot *slot);
/* The register whose address the entry at index register `of` serves, or CHECK_NONE. */
unsigned check_served_by_entry(const struct check_state *s, unsigned of, bool write);
/* The register whose value says the same of a slot. */
unsigned check_served_by_slot(const struct check_state *s, uint32_t slot);
/* The addend that makes a host address of this operand; NULL = it is none. */
const struct check_value *check_addend_of(const struct check_state *s,
                                          const ZydisDecodedOperandMem *m);
/* Effect of an instruction that has kept the rules and does not jump. */
void check_step(const struct check *c, const struct check_insn *i, struct check_state *s);
/* Effect of a conditional jump on its two ways out. */
void check_branch(const struct check_insn *i, const struct check_state *s,
                  struct check_state *taken, struct check_state *next);
/* Keeps in *into what is true of both. true if it changed. */
bool check_join(struct check_state *into, const struct check_state *from);
/* Nothing is known of registers and flags: at an entry, and after a call. */
void check_forget(struct check_state *s);
/* What the check stub leaves: it returns when S0 is served for what S1 said. */
void check_called(struct check_state *s, bool write);

/* ---- check_rules.c ---- */

/* Whether the instruction, jumps aside, may stand here. */
bool check_rules(struct check *c, const struct check_insn *i, const struct check_state *s);
bool check_has_mark(const struct check *c, const struct check_insn *i);

#endif
