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
    KIND_SMAP,   /* STAC, CLAC */
    KIND_X87,    /* emit_x87.c */
    KIND_STRING, /* REP STOS, REP MOVS: a stub, or the interpreter; and the unit goes on */
};

enum bt_add { ADD_FIXED, ADD_IMMEDIATE, ADD_NEGATIVE, ADD_DISPLACEMENT };

/* Registers of its own that live in vcpu.gpr, for which it needs scratch registers. */
struct bt_plan {
    bool possible; /* there are enough */
    uint8_t count, spilled[2];
    bool reads[2], writes[2];
};

struct bt_insn {
    /* Of its shape: the values of displacement and immediate are in `in` alone. */
    const struct insn_full *full;
    struct insn in;
    uint8_t kind;
    bool flags_in;   /* depends on arithmetic flags */
    bool flags_all;  /* writes all of them, whatever they were */
    bool flags_out;  /* writes some */
    bool flags_read; /* does something that depends on them, beside leaving some as they were */
    bool may_fault;  /* beyond its memory operand: divide, alignment */
    bool pushes;     /* in.stack_size bytes */
    bool has_rsp;    /* as a register, beside what is implied */
    int8_t memory;   /* index of the memory operand, or -1 */
    uint16_t writes; /* general registers, by bits */
    uint8_t adds_to; /* the one of these that it only adds a constant to, or BT_NO_GPR */
    uint8_t add_is;  /* enum bt_add: where the constant is from */
    int32_t add;
    struct bt_plan plan;
    uint8_t rotated; /* rewrite_rotated */
    /* Its own, and what is above with its own values put in. */
    const uint8_t *bytes;
    uint16_t offset; /* from unit->rip */
    uint8_t copy[INSN_LENGTH_MAX + 1];
};

/* A guest address: registers as byte offsets in struct vcpu, like those of struct insn. */
struct tr_address {
    uint8_t seg; /* SEG_FS, SEG_GS, or SEG_DS: no base */
    uint8_t base, index, scale;
    bool wide;   /* of the mode's whole width: 64 bits, or 32 in 32-bit code */
    bool by_rip; /* a constant that moves with the code */
    int64_t disp;
};

/* Where it is in the host; index may be EMIT_NO_INDEX. */
struct tr_operand {
    uint8_t base, index;
    int32_t disp;
};

/* The slot serves all of `of` with displacements from low to below high; slot 0: no fact. */
struct tr_fact {
    struct tr_address of; /* but for disp */
    int64_t low, high;
    uint32_t slot; /* offset in struct vcpu */
    bool write;
};

#define TR_FACTS 8u

/* What S0 holds when a check fails: the linear address; the same with the slot's page taken off; or
 * nothing, for the address is a constant. */
enum bt_check_form { CHECK_OF_LINEAR, CHECK_OF_OFFSET, CHECK_OF_CONSTANT };

enum bt_cold_kind {
    COLD_CHECK,
    COLD_EXIT,
    COLD_UNLINKED,
    COLD_INDIRECT,
    COLD_RETURNS,
    COLD_POLL,
    COLD_NO_SMAP,
    COLD_X87,
};

struct bt_cold {
    enum bt_cold_kind kind;
    uint8_t *patch;        /* rel32 that leads here */
    int32_t undo;          /* of COLD_INDIRECT: what the jump has added to RSP */
    uint8_t *after, *stub; /* where it goes on; of a check */
    uint8_t form;          /* enum bt_check_form */
    uint8_t reach;         /* of COLD_RETURNS */
    uint32_t what, slot;
    uint32_t table; /* that has been added to S0, or 0 */
    uint32_t span;  /* bytes that must be in one page, from `back` below the access; or 0 */
    int32_t back;
    int16_t rsp;                 /* as in struct translation */
    bool host, saved;            /* of an exit, as in struct translation */
    const struct bt_insn *maker; /* of the flags, which are to be saved; or NULL */
    uint16_t exit;               /* COLD_UNLINKED: its number */
    uint64_t target;
    uint16_t rip;
    uint8_t count;
};

/* An instruction but for the values of its displacement and immediate; see decode.c. */
struct bt_shape {
    uint64_t key;  /* 0: none */
    uint64_t used; /* by the unit of that number: it must stay until that is made */
    bool imm_is_signed;
    int32_t disp; /* as encoded */
    struct bt_insn insn;
};

#define BT_SHAPES   4096u
#define COLD_MAX    (6 * BT_UNIT_INSNS)
#define LINEARS_MAX (8 * BT_UNIT_INSNS)

struct bt_scratch {
    struct bt_insn insns[BT_UNIT_INSNS + 1];
    struct insn_full full[BT_UNIT_INSNS + 1]; /* of those that are of no shape */
    unsigned count;
    bool ends; /* the last instruction does not fall through */
    struct bt_cold cold[COLD_MAX];
    struct bt_exit exits[4 * BT_UNIT_INSNS];
    struct bt_site sites[BT_UNIT_INSNS + 3];
    struct bt_mark marks[COLD_MAX + BT_UNIT_INSNS + 4];
    uint16_t linears[LINEARS_MAX];
    /* By order of first use, so that the few that matter lie together; by hash, 1 + their place. */
    struct bt_shape shapes[BT_SHAPES];
    struct insn_full shape_full[BT_SHAPES];
    uint16_t shape_of[BT_SHAPES];
    unsigned shape_count;
    uint64_t number; /* of the unit under way */
};

struct translation {
    struct bt_vm *vm;
    struct bt_unit *u;
    struct bt_scratch *s;
    struct emit e;
    bool code32;   /* 32-bit code */
    bool x87;      /* the x87 registers are in the host's */
    uint8_t whole; /* in 32-bit code: of FS and GS this is known, BT_WHOLE_… */
    uint8_t word;  /* bytes of an address, and of a push */
    unsigned cold_count, exit_count, site_count, mark_count, linear_count;
    const struct bt_insn *i; /* under way */
    uint8_t reach;           /* of its accesses: STAC and CLAC change it */
    bool smap;               /* is on, for certain: so the reach says what AC is */
    /* Where the guest's arithmetic flags are: in RFLAGS, in local->flags, or both. Neither: their
     * maker can make them again; or none has run yet, and nobody will ask before. */
    bool host, saved;
    const struct bt_insn *maker;
    const struct bt_insn *poll_behind;
    struct tr_fact facts[TR_FACTS];
    unsigned next_fact;
    uint32_t in_s1;             /* the slot whose addend S1 holds, or 0 */
    int32_t rsp;                /* the guest's RSP less R15: not added yet */
    unsigned uncounted;         /* instructions retired since the count was brought up to date */
    uint8_t *poll, *poll_saved; /* rel32 of the entries', which lead out */
    uint8_t *body;              /* that wants the flags in RFLAGS; or NULL */
    bool done;                  /* the unit has been ended */
};

static inline uint64_t insn_rip(const struct translation *t, const struct bt_insn *i)
{
    return t->u->rip + i->offset;
}
static inline uint64_t insn_next_rip(const struct translation *t, const struct bt_insn *i)
{
    return bt_key_wrap(t->u->key, t->u->rip + i->offset + i->in.length);
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

static inline uint32_t bt_jumps_offset(unsigned reach)
{
    return (uint32_t)(LOCAL_OFFSET(jumps) + reach * sizeof(((struct bt_local *)0)->jumps[0]));
}

/* S1 = the index of the entry of `jumps` for S0; goes to the place that is returned if that is
 * another's. */
static inline uint8_t *emit_jump_table(struct emit *e, unsigned reach)
{
    EMIT(e, 0x45, 0x69, 0xda); /* imul $…, %r10d, %r11d */
    emit_u32(e, BT_JUMP_FACTOR);
    EMIT(e, 0x41, 0xc1, 0xeb, BT_JUMP_SHIFT); /* shr $…, %r11d */
    EMIT(e, 0x41, 0x81, 0xe3);                /* and $…, %r11d */
    emit_u32(e, BT_JUMP_MASK);
    emit_gs_index(e, true, 0x3b, S0, S1, bt_jumps_offset(reach));
    return emit_jcc(e, 5); /* jne */
}

/* ---- translate.c ---- */
void tr_mark(struct translation *t);
void tr_count(struct translation *t, unsigned extra);
bool tr_is_shielded(const struct translation *t);     /* by the STI before */
void tr_exit(struct translation *t, uint64_t target); /* ends here */
void tr_side_exit(struct translation *t, unsigned condition, uint64_t target);
/* To S0; undo = what has been added to RSP. */
void tr_indirect(struct translation *t, int32_t undo);
/* A CALL whose return address has been pushed: to `target`, or to S0. */
void tr_call(struct translation *t, uint64_t target);
void tr_call_indirect(struct translation *t);
void tr_ret(struct translation *t); /* to S0; the flags have been saved */
void tr_site(struct translation *t, const struct bt_insn *i, bool ends);
void tr_string(struct translation *t, const struct bt_insn *i);
/* Guest register into a host register, and back. */
void tr_get(struct translation *t, unsigned host, unsigned guest);
void tr_put(struct translation *t, unsigned guest, unsigned host);
/* A linear address that moves with the code. */
void tr_put_linear(struct translation *t, unsigned host, uint64_t linear);

/* ---- address.c ---- */
struct tr_address tr_address_of(const struct translation *t, const struct bt_insn *i);
struct tr_address tr_stack(int32_t disp); /* from RSP */
/* S0 = the linear address; S1 may be lost, RFLAGS survive. */
void tr_linear(struct translation *t, const struct tr_address *a);
/* `to` = the address without its segment's base; of scratch registers, those are lost that hold a
 * register of the guest's. */
void tr_linear_to(struct translation *t, const struct tr_address *a, unsigned to);
/* The operand of an access of `size` bytes by the instruction under way; leaves the unit when it
 * cannot be served. S1 is part of it, and S0 may be. The flags are saved if need be. `flags`: more
 * for BT_CHECK_…. */
struct tr_operand tr_access(struct translation *t, const struct tr_address *a, unsigned size,
                            bool write, uint32_t flags);
/* A scratch register that the operand does not need; it may become another. */
unsigned tr_free_scratch(struct translation *t, struct tr_operand *o);
/* Before tr_access, of a locked access of at most 64 bytes: the processor locks a line; across two
 * of them it stops the whole machine, or the host's kernel the process. */
void tr_check_line(struct translation *t, const struct tr_address *a, unsigned size);
/* Facts that the instruction, now done, has moved or ended; all of them. */
void tr_wrote(struct translation *t, const struct bt_insn *i);
void tr_forget(struct translation *t);

/* ---- rewrite.c ---- */
/* Whether the instruction can be re-encoded at all: operand classes, encodings. */
bool rewrite_possible(const struct bt_insn *i);
/* The register of a high byte beside a memory operand, which takes REX: `map` must lead to a copy
 * of it that is rotated right by 8, for the low byte is used. BT_NO_GPR: none. */
unsigned rewrite_rotated(const struct bt_insn *i);
/* Writes it with map[guest register] in place of its registers and the memory operand at `o`, or
 * NULL. */
void rewrite_emit(struct emit *e, const struct bt_insn *i, const struct tr_operand *o,
                  const uint8_t map[16]);
/* opcode reg, o; w = 64 bits. */
void emit_memory(struct emit *e, bool w, uint8_t opcode, unsigned reg, const struct tr_operand *o);

/* ---- flags.c ---- */
#define TR_SAVE_BYTES 19u
/* From RFLAGS to local->flags: S0 is lost, RFLAGS survive. And back. */
void tr_put_save(struct emit *e);
void tr_put_restore(struct emit *e);
/* Whether the instruction's flags can be made again from registers; does so, by S1. */
bool tr_can_remake(const struct bt_insn *i);
void tr_put_remake(struct emit *e, const struct bt_insn *i);
void tr_put_save_cold(struct emit *e, const struct bt_insn *maker); /* the same, and saves */
void tr_save_flags(struct translation *t); /* flags saved; scratch is lost */
/* Nobody looks at the flags that the instruction under way leaves, if it leaves any. */
bool tr_flags_are_dead(const struct translation *t);
void tr_host_flags(struct translation *t); /* in RFLAGS; scratch is kept by an access's operand */
/* RFLAGS are about to be destroyed by the instruction under way: saved, or left to be made again.
 */
void tr_leave_flags(struct translation *t);
void tr_flags_written(struct translation *t, const struct bt_insn *i); /* in RFLAGS now */
void tr_flags_stay(struct translation *t, const struct bt_insn *i); /* it is done: its registers */

/* ---- effects.c ---- */
#define BT_NO_GPR 16u
/* 0 to 15, of whichever part; BT_NO_GPR for others. */
unsigned bt_gpr_number(ZydisRegister r);
void bt_effects(struct bt_insn *i);
void bt_effects_add(struct bt_insn *i); /* the constant, when `in` has other values */

/* ---- decode.c ---- */
/* Decodes and classifies what begins at `bytes`, n of them; they are read once, for the guest may
 * change them. All of i, one of scratch->insns, but its offset. False: no such instruction there.
 */
bool bt_decode(struct bt_vm *vm, uint8_t key, const uint8_t *bytes, unsigned n, struct bt_insn *i);

/* ---- classify.c ---- */
void classify(const struct bt_vm *vm, uint8_t key, struct bt_insn *i);

/* ---- code32.c ---- */

/* Of an instruction of 32-bit code: whether 64-bit code has the same by the same bytes, but for
 * those that rewrite.c knows; whether the translator can make the address of its operand. */
bool code32_is_same(const struct bt_insn *i);
bool code32_can_address(const struct bt_insn *i);

/* ---- emit_*.c ---- */
/* Makes i->plan and i->rotated. Without registers enough emit_copy leaves the instruction to the
 * interpreter. */
void bt_plan(struct bt_insn *i);
/* Where a push goes; it is done when the value is there and RSP has moved. */
struct tr_operand tr_pushed(struct translation *t);
void tr_store_constant(struct translation *t, struct tr_operand o, uint64_t value);
void tr_store_linear(struct translation *t, struct tr_operand o, uint64_t linear);
void tr_move_rsp(struct translation *t, int32_t by); /* what it moves by is added later: */
void tr_settle_rsp(struct translation *t);           /* now. RFLAGS survive. */
void emit_copy(struct translation *t);
void emit_lea_insn(struct translation *t);
void emit_stack(struct translation *t);
void emit_branch(struct translation *t);
bool tr_is_x87(uint8_t key, const struct bt_insn *i);
void emit_x87(struct translation *t);
void emit_system(struct translation *t);
void tr_put_ac(struct emit *e, bool on); /* RFLAGS are lost */

#endif
