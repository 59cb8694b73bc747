/* SPDX-License-Identifier: MIT */
/* One unit under translation: what translate.c and the emit_*.c files share. */
#ifndef DOPPEL_ENGINE_BT_TRANSLATE_H
#define DOPPEL_ENGINE_BT_TRANSLATE_H

#include "engine/bt/bt.h"
#include "engine/bt/emit.h"

enum bt_kind {
    KIND_SITE_END, /* the interpreter runs it, and the unit ends */
    KIND_SITE,     /* the interpreter runs it, and the unit goes on */
    KIND_SKIP,     /* no effect: NOP, ENDBR, PREFETCH */
    KIND_COPY,     /* re-encoded */
    KIND_LEA,
    KIND_PUSH,
    KIND_POP,
    KIND_LEAVE,
    KIND_JMP,
    KIND_JCC,
    KIND_CALL,
    KIND_JMP_INDIRECT,
    KIND_CALL_INDIRECT,
    KIND_RET,
    KIND_CLI,
    KIND_STI,
    KIND_SWAPGS,
    KIND_PUSHF,
    KIND_CLD,
};

struct bt_insn {
    struct insn_full full;
    struct insn in;
    uint8_t copy[INSN_LENGTH_MAX + 1];
    const uint8_t *bytes;
    uint16_t offset; /* from unit->rip */
    uint8_t kind;
    bool flags_in;  /* depends on arithmetic flags */
    bool flags_all; /* writes all of them, whatever they were */
    bool flags_out; /* writes some */
    bool may_fault; /* beyond its memory operand: divide, alignment */
    int8_t memory;  /* index of the memory operand, or -1 */
};

enum bt_cold_kind { COLD_CHECK, COLD_EXIT, COLD_INDIRECT };

struct bt_cold {
    enum bt_cold_kind kind;
    uint8_t *patch;         /* rel32 that leads here */
    uint8_t *more[3];       /* of COLD_INDIRECT */
    int32_t undo;           /* of COLD_INDIRECT: what the jump has added to RSP */
    uint8_t *after, *stub;  /* of a check */
    uint32_t what, table;   /* table: that has been added to S0, or 0 */
    bool host, saved, poll; /* of an exit, as in struct translation */
    uint64_t target;
    uint16_t rip;
    uint8_t count;
};

/* An instruction but for the values of its displacement and immediate; see decode.c. */
struct bt_shape {
    uint64_t key;                     /* 0: none */
    int8_t disp_operand, imm_operand; /* -1: none */
    struct bt_insn insn;
};

#define BT_SHAPES 4096u
#define COLD_MAX  (6 * BT_UNIT_INSNS)

struct bt_scratch {
    struct bt_insn insns[BT_UNIT_INSNS + 1];
    unsigned count;
    bool ends; /* the last instruction does not fall through */
    struct bt_cold cold[COLD_MAX];
    struct bt_exit exits[BT_UNIT_INSNS + 3];
    struct bt_site sites[BT_UNIT_INSNS + 3];
    struct bt_mark marks[COLD_MAX + BT_UNIT_INSNS + 4];
    struct bt_shape shapes[BT_SHAPES];
};

struct translation {
    struct bt_vm *vm;
    struct bt_unit *u;
    struct bt_scratch *s;
    struct emit e;
    unsigned cold_count, exit_count, site_count, mark_count;
    const struct bt_insn *i; /* under way */
    /* Where the guest's arithmetic flags are: in RFLAGS, in local->flags, or both. Neither: nobody
     * will ask, for the next thing that touches them writes them all. */
    bool host, saved;
    uint16_t slots[16]; /* of accesses by each register; 0 = none yet */
    unsigned uncounted; /* instructions retired since the count was brought up to date */
    bool poll;          /* a way out here must poll: the instruction before was STI */
    bool done;          /* the unit has been ended */
};

static inline uint64_t insn_rip(const struct translation *t, const struct bt_insn *i)
{
    return t->u->rip + i->offset;
}
static inline uint64_t insn_next_rip(const struct translation *t, const struct bt_insn *i)
{
    return t->u->rip + i->offset + i->in.length;
}

/* The host register of a guest's, or -1: in vcpu.gpr. */
static inline int host_of(unsigned guest)
{
    static const int8_t host[16] = {0, 1, 2, 3, GUEST_RSP, 5, 6, 7, 8, 9, -1, -1, 12, 13, 14, -1};
    return host[guest];
}
static inline uint32_t gpr_offset(unsigned guest)
{
    return VCPU_OFFSET(gpr) + 8 * guest;
}

/* ---- translate.c ---- */
void tr_mark(struct translation *t);
void tr_save_flags(struct translation *t); /* flags saved, if they are anywhere */
void tr_host_flags(struct translation *t); /* in RFLAGS; registers and scratch are kept */
void tr_count(struct translation *t, unsigned extra);
void tr_exit(struct translation *t, uint64_t target); /* ends here */
void tr_side_exit(struct translation *t, unsigned condition, uint64_t target);
/* To S0; undo = what has been added to RSP. */
void tr_indirect(struct translation *t, int32_t undo);
void tr_site(struct translation *t, const struct bt_insn *i, bool ends);
/* Guest register into a host register, and back. */
void tr_get(struct translation *t, unsigned host, unsigned guest);
void tr_put(struct translation *t, unsigned guest, unsigned host);

/* ---- address.c ---- */
/* S0 = linear address of the memory operand; S1 is lost. RFLAGS too when FS or GS is its segment.
 */
void tr_address(struct translation *t, const struct bt_insn *i);
/* S0 = the linear address of i's operand, or of the stack (i NULL) -> S1 = what must be added for
 * the host's; leaves when it cannot be served. The flags have been saved. */
void tr_check(struct translation *t, const struct bt_insn *i, unsigned size, bool write,
              bool quiet);
/* Before tr_check, of a locked access at S0 of at most 64 bytes: the processor locks a line; across
 * two of them it stops the whole machine, or the host's kernel the process. S1 is lost. */
void tr_check_line(struct translation *t, unsigned size);
/* The same as tr_check, with the host address in S0 and S1 free. */
void tr_check_fold(struct translation *t, const struct bt_insn *i, unsigned size, bool write);

/* ---- rewrite.c ---- */
enum rewrite_memory { REWRITE_NONE, REWRITE_PAIR, REWRITE_S0 };
/* Whether the instruction can be re-encoded at all: operand classes, encodings. */
bool rewrite_possible(const struct bt_insn *i);
/* Writes it with map[guest register] in place of its registers and the memory operand at S0 + S1 or
 * S0. */
void rewrite_emit(struct emit *e, const struct bt_insn *i, enum rewrite_memory memory,
                  const uint8_t map[16]);

/* ---- decode.c ---- */
/* Decodes and classifies what begins at `bytes`, n of them; they are read once, for the guest may
 * change them. All of i but its offset. False: no such instruction there. */
bool bt_decode(struct bt_vm *vm, uint8_t key, const uint8_t *bytes, unsigned n, struct bt_insn *i);

/* ---- classify.c ---- */
void classify(const struct bt_vm *vm, uint8_t key, struct bt_insn *i);

/* ---- emit_*.c ---- */
void emit_copy(struct translation *t);
void emit_lea_insn(struct translation *t);
void emit_stack(struct translation *t);
void emit_branch(struct translation *t);
void emit_system(struct translation *t);

#endif
