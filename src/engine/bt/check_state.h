/* SPDX-License-Identifier: MIT */
/*
 * What the checker knows at one place of a translation: of each register, of the slots, of RFLAGS,
 * of the stack. Knowledge is only lost where two paths meet. To teach it a new way of proving an
 * address, add a kind of value here, the instruction that makes one in check_step.c, and the access
 * that it allows in check_rules.c.
 */
#ifndef DOPPEL_ENGINE_BT_CHECK_STATE_H
#define DOPPEL_ENGINE_BT_CHECK_STATE_H

#include "engine/bt/check.h"

#include <Zydis/Zydis.h>

#define CHECK_NONE  0xffu
#define CHECK_PARTS 8u

/* What addresses are made of, by numbers. 0 to 15: what a general register holds; of S0 and S1, the
 * last value put there that is not made of others. */
enum check_variable {
    CHECK_CELL = 16, /* the guest's R10, R11 and R15, in vcpu.gpr */
    CHECK_BASE = 19, /* of FS, of GS */
    CHECK_TEMP = 24, /* local->temp[…], where the translator keeps a register for a while */
    CHECK_TEMPS = 8,
    CHECK_VARIABLES = CHECK_TEMP + CHECK_TEMPS,
};

/* A linear address: the sum of variables, each << 0 to 3, and `at`. Of none: a constant. In 32-bit
 * code the low 32 bits of that, and a register holds it only if its value says `low`. */
struct check_address {
    uint64_t at;
    uint8_t part[CHECK_PARTS]; /* variable | shift << 5, ascending; CHECK_NONE: no more */
};

enum check_kind {
    CHECK_ANY,
    CHECK_STALE,    /* anything, and perhaps a host address */
    CHECK_SYM,      /* `address` */
    CHECK_INDEX,    /* register `of` rotated right by ror, & n, << shl; of NONE: any such bits */
    CHECK_SUM,      /* `address` + negative_page of its table entry, at index `of` */
    CHECK_OFFSET,   /* the same, and at most n: so it is the offset in the entry's page */
    CHECK_LINEAR,   /* `address` again: the entry at index `of` serves it */
    CHECK_SLOT_SUM, /* `address` + negative_page of the slot */
    CHECK_SPAN,     /* `address` ^ (`address` + n - 1) */
    CHECK_ADDEND,   /* with an address of the n from `address` on it makes the host's */
    CHECK_HOST,     /* host address of n bytes of the guest's */
    CHECK_REQUESTS, /* vcpu.requests, 32 bits */
    CHECK_NOT_HELD, /* local->not_held, 32 bits */
    CHECK_NEWS,     /* 0: requests are what is held */
    CHECK_JUMP,     /* CHECK_INDEX of the entry of `jumps` that has the target */
    CHECK_EXIT,     /* &unit->exits[n] */
    CHECK_SITE,     /* &unit->sites[n] */
};

/* Compared byte by byte: no padding. Addresses are known of S0 and S1 alone; what any other
 * register holds is a variable. */
struct check_value {
    uint8_t kind, of, ror, shl;
    uint8_t write; /* of the write table or slots; what may be written */
    uint8_t low;   /* in 32-bit code: it is all of 32 bits that `address` has, and no more */
    uint8_t unused[2];
    uint32_t n;
    uint32_t slot; /* offset in struct vcpu */
    struct check_address address;
};

/* The slot holds the page of each of the n addresses from `from` on. Slot 0: they are of one page.
 */
struct check_fact {
    struct check_address from;
    uint32_t slot, n;
};

/* The translator keeps 8, and ends the oldest when there are more; when it forgets one it has noted
 * at most 14 since that may hold still, and one is of the check under way. */
#define CHECK_FACTS 16u

/* What RFLAGS say. */
enum check_condition {
    CHECK_FLAGS_ANY,
    CHECK_FLAGS_REQUESTS, /* ZF: nothing is requested but what is held */
    CHECK_FLAGS_BELOW,    /* register `reg` was compared with n, 64 bits */
    CHECK_FLAGS_JUMP,     /* ZF: the entry of `jumps` at index `reg` has the target */
    CHECK_FLAGS_TOKEN,    /* ZF: the pages n (bits as `mapped`) are mapped where they were */
    CHECK_FLAGS_SLOT,     /* ZF: the slot n holds the page at flags_at */
    CHECK_FLAGS_SPAN,     /* ZF: what `reg` is the CHECK_SPAN of lies in one page */
    CHECK_FLAGS_ROOM,     /* CF: the return stack is full */
    CHECK_FLAGS_RETURN,   /* ZF: S0, where a RET went, is flags_at */
    CHECK_FLAGS_X87,      /* ZF: the x87 registers are not the guest's */
};

struct check_state {
    struct check_value r[16];
    struct check_fact facts[CHECK_FACTS]; /* oldest first */
    uint8_t fact_count;
    uint8_t kept[CHECK_TEMPS]; /* the variable that temp[…] holds, or its own */
    uint8_t flags, flags_reg;  /* enum check_condition */
    uint32_t flags_n;
    uint64_t flags_at;
    uint16_t exit;    /* 1 + number of the exit whose unlinked code this is; 0: of none */
    uint8_t depth;    /* of the stack, in pushes of 8 bytes */
    bool polled;      /* requests were looked at since the entry, and there were none */
    uint8_t mapped;   /* pages that are known to be mapped where they were: CHECK_PAGE_… */
    bool marked;      /* a mark has been passed since the last jump */
    bool room;        /* for a call on the return stack */
    bool x87;         /* the x87 registers are the guest's */
    bool said_ret;    /* where in the code the RET is that comes now */
    uint8_t returned; /* enum check_return */
    uint8_t reach;    /* enum tlb_reach, of accesses and the return stack */
    uint8_t turning;  /* enum check_turn: the reach is being changed */
    uint64_t return_to;
};

/* Behind a CALL of the guest's: a RET came here, and nobody knows from where; or with S0 =
 * return_to.
 */
enum check_return { CHECK_NOT_RETURNED, CHECK_RETURNED, CHECK_RETURNED_TO };

/* STAC and CLAC: the instruction that must come next, if one must. */
enum check_turn {
    CHECK_TURN_NONE,
    CHECK_TURN_STACK,  /* mov %gs:top, %rsp of the other reach, for the old one's has been stored */
    CHECK_TURN_RETURN, /* movb $reach, %gs:return_reach */
    CHECK_TURN_REACH,  /* movb $reach, %gs:reach */
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
    unsigned reach;             /* there */
    bool code32;                /* the guest's code is of 32 bits */
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

/* ---- check_facts.c: addresses, and what is known of them ---- */

static inline bool check_is_scratch(unsigned gpr)
{
    return gpr == S0 || gpr == S1;
}

static inline bool check_is_host(const struct check_value *v)
{
    return v->kind == CHECK_ADDEND || v->kind == CHECK_HOST || v->kind == CHECK_STALE;
}

struct check_address check_constant(uint64_t at);
struct check_address check_of(unsigned variable);
/* *a += b << shift. false: too many parts. */
bool check_sum(struct check_address *a, const struct check_address *b, unsigned shift);
/* The same but for `at`. */
bool check_is_near(const struct check_address *a, const struct check_address *b);
bool check_is_constant(const struct check_address *a);
/* The address that a register holds. false: it is another kind of value. */
bool check_address_of(const struct check_state *s, unsigned reg, struct check_address *a);
/* The same, and it holds all of the address: a host address may be made of it. */
bool check_exact(const struct check *c, const struct check_state *s, unsigned reg,
                 struct check_address *a);
/* Puts a value into a register: what was known by the old one ends, or is known by a copy of it. */
void check_set(struct check_state *s, unsigned reg, struct check_value v);
/* The variable, a general register or a cell, was added to. */
void check_move(struct check_state *s, unsigned variable, uint64_t by);
/* `reg` was loaded from another register, or from temp[…]. */
void check_copied(struct check_state *s, unsigned reg, unsigned from);
/* Register `from` (CHECK_NONE: something else) was stored at %gs:disp, of `size` bytes. */
void check_stored(struct check_state *s, int64_t disp, unsigned size, unsigned from);
/* The variable that lies at %gs:disp, of 8 bytes, or CHECK_NONE. */
unsigned check_variable_at(int64_t disp);
void check_add_fact(struct check_state *s, uint32_t slot, const struct check_address *from,
                    uint32_t n);
void check_end_slot(struct check_state *s, uint32_t slot);
/* What is known of the slot; 0: of the address. NULL: nothing. */
const struct check_fact *check_fact_of(const struct check_state *s, uint32_t slot,
                                       const struct check_address *a);
/* Whether n bytes at `a` are among those that the range has, and how many follow from there on. */
bool check_has(const struct check_address *from, uint32_t length, const struct check_address *a,
               uint32_t n);
uint32_t check_left(const struct check_address *from, uint32_t length,
                    const struct check_address *a);
/* Nothing is known of registers, slots and flags: at an entry. */
void check_forget(struct check_state *s);
/* Keeps in *into what is true of both. true if it changed. */
bool check_join(struct check_state *into, const struct check_state *from);

/* ---- check_operand.c ---- */

/* The number of a general register, of whichever part; CHECK_NONE for others. */
unsigned check_gpr(ZydisRegister r);
/* The largest value there can be. */
uint64_t check_bound(const struct check_value *v);
/* The table of the unit's reach that [base + disp] lies in; false if in none. */
bool check_table_at(const struct check *c, int64_t disp, struct check_table *t);
/* Whether %gs:disp lies in the slots of the unit's reach, and then in which, and which field. */
bool check_slot_at(const struct check *c, int64_t disp, struct check_slot *slot);
/* The register whose address the entry at index register `of` serves, or CHECK_NONE. */
unsigned check_served_by_entry(const struct check_state *s, unsigned of, bool write);
/* The addend or host pointer that the operand goes by, and how many bytes it has there. NULL = the
 * operand is none of the guest's. */
const struct check_value *check_guest(const struct check *c, const struct check_state *s,
                                      const ZydisDecodedOperandMem *m, uint32_t *n);
/* The address that the operand has if `but`, one of its registers, is not counted. */
bool check_operand_address(const struct check_state *s, const ZydisDecodedOperandMem *m,
                           unsigned but, struct check_address *a);
bool check_is_register(const ZydisDecodedOperand *o, unsigned bits); /* a general one */
bool check_is_immediate(const ZydisDecodedOperand *o);
bool check_is_gs(const ZydisDecodedOperand *o);
/* %gs:field, without index. */
bool check_is_field(const ZydisDecodedOperand *o, uint32_t field, unsigned bits);
/* %gs:table + field(index): the index register, or CHECK_NONE. */
unsigned check_table_index(const struct check *c, const ZydisDecodedOperand *o, unsigned field,
                           struct check_table *t);
/* %gs:slot + field. */
bool check_is_slot(const struct check *c, const ZydisDecodedOperand *o, unsigned field,
                   struct check_slot *slot);
bool check_is_index(const struct check_state *s, unsigned index, unsigned of, unsigned ror,
                    uint32_t mask, unsigned shl);

/* ---- check_step.c ---- */

/* The unit's pages are all mapped where they were. */
bool check_mapped(const struct check *c, const struct check_state *s);
/* Whether the instruction is one of those that change the reach, and what is due after it. */
bool check_turn(const struct check *c, const struct check_insn *i, const struct check_state *s,
                enum check_turn *next);
/* Effect of an instruction that has kept the rules and does not jump. */
void check_step(const struct check *c, const struct check_insn *i, struct check_state *s);
/* Effect of a conditional jump on its two ways out. */
void check_branch(const struct check_insn *i, const struct check_state *s,
                  struct check_state *taken, struct check_state *next);
/* What the check stub leaves: it returns when S0 is served for what S1 said. */
void check_called(struct check_state *s, bool write);

/* ---- check_rules.c ---- */

/* Whether the instruction, jumps aside, may stand here. */
bool check_rules(struct check *c, const struct check_insn *i, const struct check_state *s);
bool check_has_mark(const struct check *c, const struct check_insn *i);

#endif
