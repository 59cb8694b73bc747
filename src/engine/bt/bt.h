/* SPDX-License-Identifier: MIT */
/*
 * Inside the binary translator: what its files share. docs/translator.md is the essay.
 *
 *  bt.c        the engine: wiring and the run loop          runtime.c  what translated code calls
 *  cache.c     units, links, invalidation                   stubs.c    common code in the cache
 *  translate.c one unit: plan flags, emit                   rewrite.c  one instruction, re-encoded
 *  decode.c    Zydis, with a memory for shapes              classify.c what is to be done with it
 *  address.c   memory operands, checked                     effects.c  what it does with registers
 *  flags.c     where the flags are                          return.c   calls and returns
 *  emit_*.c    the kinds of instructions                    trap.c     host signals in guest code
 *  move.c      units to another linear address             watch.c    --trace and --perf-map
 *  code32.c    what is different in 32-bit code
 *
 * Host registers in translated code:
 *   rsp        the return stack (return.c): the host's half of the guest's calls
 *   gs base    struct vcpu
 *   r10, r11   scratch (S0, S1)
 *   r15        the guest's RSP
 *   the rest   the guest's register of that name; its R10, R11 and R15 are in vcpu.gpr
 *   RFLAGS     the guest's CF PF AF ZF SF OF, or nothing of worth: see emit state in translate.h
 * DF of the host is always 0; the guest's is in vcpu.rflags. Vector registers and MXCSR are the
 * guest's while local->vector_live; the x87 registers while local->x87_live too.
 */
#ifndef DOPPEL_ENGINE_BT_BT_H
#define DOPPEL_ENGINE_BT_BT_H

#include <pthread.h>

#include "engine/engine.h"
#include "engine/host/exec_memory.h"
#include "x86/insn.h"

#define S0        10u
#define S1        11u
#define GUEST_RSP 15u

#define BT_VCPUS_MAX     64
#define BT_JUMPS         4096u /* of each reach */
#define BT_TOKENS        4096u
#define BT_UNIT_INSNS    48u
#define BT_UNIT_BYTES    (32u << 10) /* the most that one unit can need */
#define BT_HASH_BITS     18          /* about as many buckets as there is room for units */
#define BT_HASH          (1u << BT_HASH_BITS)
#define BT_PAGES         (1u << 15)
#define BT_FOUND         (1u << 14)
#define BT_LOG           4096u
#define BT_LOG_TOKEN     0x8000u
#define BT_MISSES_LOOK   64  /* misses between two looks */
#define BT_MISSES_CYCLES 600 /* of the host for each of them: more often is too often */
#define BT_SCATTERED     (1u << 16)
#define BT_UNITS_MAX     (1u << 20)

/* What a translation depends on beside its bytes and addresses (decision 11). */
enum bt_key {
    BT_KEY_REACH = 3,        /* enum tlb_reach of data accesses; user = CPL 3 */
    BT_KEY_VECTOR_SHIFT = 2, /* 2 bits, enum bt_vector_class */
    BT_KEY_VECTOR = 3 << 2,
    BT_KEY_CODE32 = 1 << 4, /* 32-bit code; else 64-bit: code32.c */
};
enum bt_vector_class { BT_VECTOR_NONE, BT_VECTOR_SSE, BT_VECTOR_AVX, BT_VECTOR_AVX512 };

struct bt_unit;
struct bt_page;

/* A direct jump out of a unit: linked to its target, or to code that asks for it. */
struct bt_exit {
    struct bt_unit *from;
    uint64_t target; /* guest RIP */
    uint8_t *patch;  /* rel32, writable alias, within an aligned quadword */
    uint8_t *unlinked;
    bool host_flags; /* flags are in RFLAGS at the jump; else saved */
    bool alone;      /* to the unit made without sharing */
    bool crossing;   /* to another page: through the target's enter_crossing */
    struct bt_unit *to;
    struct bt_exit *next_incoming, **incoming; /* in to->incoming: the next, what leads here */
};

/* A place in translated code where the interpreter's handler runs one instruction. */
struct bt_site {
    struct bt_unit *from;
    struct insn insn; /* exec NULL: by interp_execute, all state written back */
    uint64_t rip;
    const uint8_t *resume; /* exec alias; NULL: the unit ends here */
    uint8_t key;           /* the unit's, with the reach of this place */
    bool string;           /* what the string stub did not serve */
    uint8_t *patch;        /* where the code holds the site's address */
};

/* Which guest instruction a host address belongs to. */
struct bt_mark {
    uint16_t host; /* bt_unit_offset */
    int16_t rsp;   /* what has not been added to RSP yet */
    uint16_t rip;  /* offset from unit->rip */
    uint8_t count; /* instructions retired before it and not counted yet */
    bool host_flags;
};

struct bt_unit {
    uint64_t rip, physical; /* physical: of the first byte */
    uint8_t key;            /* as it is entered: STAC and CLAC change the reach on the way */
    bool alone;             /* each access has its own check: where those of several cross pages */
    _Atomic bool dead; /* no way leads to it any more; set before bt_vm.generation moves, if it must
                          go at once */
    /* What runs, and what is seldom run: apart, so that the first is dense. Writable alias. */
    uint8_t *code, *code_end, *cold, *cold_end;
    uint8_t *enter_saved, *enter_host; /* with flags saved, or in RFLAGS */
    uint8_t *enter_crossing; /* with flags saved, from a page that does not know this mapping */
    struct bt_mark *marks;
    unsigned mark_count;
    uint16_t *linears; /* bt_unit_offset of each linear address of 64 bits: move.c */
    unsigned linear_count;
    bool movable;
    struct bt_exit *exits;
    unsigned exit_count;
    struct bt_site *sites;
    unsigned site_count;
    struct bt_exit *incoming;
    struct bt_page *page;
    /* Of one instruction that crosses into the next page: that page. Every entry looks whether this
     * vCPU has seen it mapped there. */
    struct bt_page *second;
    struct bt_unit *hash_next, *page_next, *second_next;
};

/* Units of one page as it is mapped in one place under one key. */
struct bt_page {
    uint64_t physical, linear;
    uint8_t key;
    uint32_t token;                   /* never 0; the same for all keys that fetch alike */
    uint64_t generation;              /* moves with each write, and when it is moved */
    bool marked;                      /* MEM_PAGE_CODE was set for it since */
    _Atomic bool global;              /* was, to a vCPU: which may know it beyond a MOV CR3 */
    struct bt_unit *units, *crossers; /* that begin here; whose second page it is */
    struct bt_page *next;
    /* bt_local.fetch_generation of each vCPU when it last entered the page: in another generation
     * it has no way into it. */
    uint64_t entered[];
};

enum bt_string { BT_STOS, BT_MOVS, BT_STRINGS };

/* Common code, exec alias. */
struct bt_stubs {
    void (*enter)(struct vcpu *v, const uint8_t *code);
    void (*vector_save[4])(struct vcpu *v); /* by enum bt_vector_class */
    void (*vector_load[4])(struct vcpu *v);
    /* writable alias, for emitters: jumped to, but check, which is called */
    uint8_t *leave, *link, *site, *indirect, *find, *fault;
    uint8_t *unpaired[TLB_FAST_REACHES];  /* a RET to S0 that its CALL does not expect */
    uint8_t *underflow[TLB_FAST_REACHES]; /* a RET to S0 without a CALL on the return stack */
    uint8_t *check[TLB_FAST_REACHES][2];  /* by reach and write */
    uint8_t *x87;                         /* called: loads the x87 state; RFLAGS survive */
    /* REP STOS and MOVS, called with S1 = the site, by log2 of the element's size: within a page
     * of each operand at once; or the site's way. */
    uint8_t *strings[2][TLB_FAST_REACHES][BT_STRINGS][4]; /* first by whether it is 32-bit code */
};

struct bt_vm {
    struct x86_platform *platform;
    void *interp;
    const struct gate_ops *gate; /* the one below ours */
    struct insn_decoder decoder;
    struct exec_memory memory;
    struct bt_stubs stubs;
    struct vcpu *vcpus[BT_VCPUS_MAX];
    unsigned vcpu_count;

    pthread_mutex_t translating; /* before the interpreter's code lock */
    struct bt_scratch *scratch;  /* of the translation under way */
    struct bt_chunk *chunks;     /* what bt_allocate gives out */

    /* Under the interpreter's code lock. */
    struct bt_unit *hash[BT_HASH];
    struct bt_page *pages[BT_PAGES];
    struct bt_unit **units; /* all since the last flush, by ascending code */
    unsigned unit_count, unit_room;
    /* Code memory: of units, and not in use yet; and of their seldom run parts, behind. */
    uint8_t *first, *free, *cold, *cold_free;
    uint8_t *huge; /* huge pages have been asked for up to here */
    uint32_t next_token, next_slot;
    uint64_t
        scattered[BT_SCATTERED / 64]; /* accesses, by hash of their RIP, that go by the table */
    _Atomic uint64_t generation;      /* moves when any unit has gone */
    uint64_t flushes;
    FILE *trace, *perf_map; /* or NULL */
    bool checking;          /* every translation goes through check.h */
    _Atomic bool failed;    /* one was refused: nothing runs any more */
    bool counting;          /* instructions retired are counted: exact positions, at a price */
};

/* How a slot does: when it misses too often, the access goes by the table instead. */
struct bt_misses {
    int32_t left; /* until it is looked at */
    uint32_t unused;
    uint64_t since; /* TSC of the host */
};

struct bt_jump {
    uint64_t rip;
    const uint8_t *code; /* entry with flags saved */
};

/* Where it is in its table: by offset, and by number. */
#define BT_JUMP_FACTOR 0x9e3779b1u
#define BT_JUMP_SHIFT  16u
#define BT_JUMP_MASK   ((BT_JUMPS - 1) * 16u)

static inline unsigned bt_jump_index(uint64_t rip)
{
    return ((uint32_t)rip * BT_JUMP_FACTOR >> BT_JUMP_SHIFT & BT_JUMP_MASK) / 16;
}

/* A unit that bt_find has found. It is named by its physical page too, so unlike jumps and tokens
 * it stays good when mappings change, and another process that runs the same page finds it. */
struct bt_found {
    uint64_t rip;
    uint64_t where; /* physical page | key | BT_FOUND_VALID */
    struct bt_page *page;
    uint32_t code;       /* entry with flags saved, from the start of the code memory */
    uint32_t generation; /* good only under this one */
};
#define BT_FOUND_VALID 0x800u

/* v->engine_local */
struct bt_local {
    uint16_t flags; /* the guest's arithmetic flags: bt_flags_of */
    /* vcpu.requests as they were when C code found nothing to do about them: an interrupt while IF
     * is clear. A poll leads out when they are others; STI makes it none. */
    uint32_t held, not_held; /* its complement */
    uint64_t temp[8];
    uint8_t bounce[64]; /* what a load across pages reads */
    struct vcpu *self;
    struct bt_vm *vm;
    unsigned number;  /* in vm->vcpus */
    uint64_t miss_pc; /* return address of the miss stub */
    uint64_t fault_pc;
    uint64_t branch; /* RIP of an indirect jump that was not served, and what it did to RSP */
    int32_t undo;
    uint32_t last_ret; /* where in the code memory the last RET was */
    /* The C stack while translated code runs; rsp of translated code while C does: return.c. */
    uint64_t c_stack, returns;
    struct bt_return_stack {
        uint64_t top, base, limit; /* top: of those that are not in use; the first and last place */
    } return_stacks[3];            /* by reach */
    uint8_t return_reach;          /* whose is in use */
    uint8_t *return_memory;
    /* That jumps and tokens were filled under. */
    uint64_t generation, fetch_generation, global_generation;
    uint8_t vector_live; /* host registers hold the guest's vector state */
    uint8_t x87_live;    /* … of the x87 state: vcpu.vector holds FIP, FDP and FOP alone */
    uint8_t vector_class;
    uint8_t mode[2]; /* BT_KEY_CODE32 of the code that they are of, by whether CPL is 3 */
    uint8_t whole;   /* in 32-bit code: BT_WHOLE_… */
    bool in_miss;    /* what raises now is the access at miss_pc */
    uint32_t tokens[BT_TOKENS];
    struct bt_jump jumps[3][BT_JUMPS];
    struct bt_found *found; /* BT_FOUND of them, by hash */
    struct bt_misses slots[TLB_FAST_REACHES * 2 * TLB_SLOTS];
    unsigned filled[2];      /* entries of the two, in the logs: by whether their page is global */
    uint16_t log[2][BT_LOG]; /* reach * BT_JUMPS + index, or BT_LOG_TOKEN | index */
    uint64_t noted[2]
                  [(3 * BT_JUMPS + BT_TOKENS) / 64]; /* what the logs have, by the same numbers */
    uint64_t count_limit;                            /* counting: polls leave above it */
    struct bt_counters {
        uint64_t units, moved, links, lookups, found, misses, misses_elsewhere, scattered, faults,
            flushes;
        uint64_t slot_misses; /* a multiple of BT_MISSES_LOOK */
        uint64_t interpreted[ZYDIS_MNEMONIC_MAX_VALUE + 1], light; /* light: of all these */
    } counters;
};

#define LOCAL_OFFSET(member) \
    ((uint32_t)(offsetof(struct vcpu, engine_local) + offsetof(struct bt_local, member)))
#define VCPU_OFFSET(member) ((uint32_t)offsetof(struct vcpu, member))
#define BT_RETURNS_OFFSET(reach, member)                                                 \
    ((uint32_t)(LOCAL_OFFSET(return_stacks) + (reach) * sizeof(struct bt_return_stack) + \
                offsetof(struct bt_return_stack, member)))

_Static_assert(sizeof(struct bt_jump) == 16, "BT_JUMP_MASK is of offsets");
_Static_assert(BT_TOKENS <= BT_JUMPS, "forget_log takes the index of either by one mask");
_Static_assert(sizeof(struct bt_local) <= VCPU_ENGINE_LOCAL, "bt_local has outgrown its place");

/* Arithmetic flags as LAHF and SETO AL leave them in AX. */
static inline uint16_t bt_flags_of(uint64_t rflags)
{
    return (uint16_t)((rflags & (FLAGS_ARITHMETIC & 0xff)) << 8 | (rflags / FLAG_OF & 1));
}
static inline uint64_t bt_rflags_of(uint16_t flags)
{
    return (flags >> 8 & FLAGS_ARITHMETIC) | (flags & 1) * FLAG_OF;
}

static inline struct bt_local *bt_local(struct vcpu *v)
{
    return (struct bt_local *)v->engine_local;
}

static inline const uint8_t *bt_exec(const struct bt_vm *vm, const uint8_t *writable)
{
    return exec_memory_code(&vm->memory, writable);
}

#define BT_NOWHERE UINT32_MAX

/* Where in the unit a place of either part is, the seldom run one behind the other; and back. */
static inline uint32_t bt_unit_offset(const struct bt_unit *u, const uint8_t *at)
{
    if (at >= u->code && at < u->code_end)
        return (uint32_t)(at - u->code);
    if (at >= u->cold && at < u->cold_end)
        return (uint32_t)(u->code_end - u->code + (at - u->cold));
    return BT_NOWHERE;
}
static inline uint8_t *bt_unit_place(const struct bt_unit *u, uint32_t offset)
{
    uint32_t size = (uint32_t)(u->code_end - u->code);
    return offset < size ? u->code + offset : u->cold + (offset - size);
}

/* ---- cache.c ---- */

/* The unit at v->rip, translated if need be. Raises #PF, #GP. NULL: requests must be served first,
 * or the code is not for this engine (then it is the interpreter's). */
struct bt_unit *bt_find(struct vcpu *v, bool alone);
/* The same: its entry with flags saved, exec alias. */
const uint8_t *bt_find_code(struct vcpu *v);
/* The unit that holds this address of the cache, or NULL. */
struct bt_unit *bt_unit_at(struct bt_vm *vm, const uint8_t *exec);
const struct bt_mark *bt_mark_at(const struct bt_vm *vm, const struct bt_unit *u,
                                 const uint8_t *exec);
void bt_link(struct bt_vm *vm, struct bt_exit *x, struct bt_unit *to);
void bt_code_written(void *context, gpa_t page);
/* Forgets jumps and tokens of the vCPU if units or mappings have changed. */
void bt_refresh(struct vcpu *v);
void bt_jump_enter(struct vcpu *v, uint64_t rip, const uint8_t *code);
void bt_jump_forget(struct vcpu *v, uint64_t rip);
/* From now on translated code counts the instructions retired. Between instructions. */
void bt_count(struct vcpu *v);
void bt_cache_fini(struct bt_vm *vm);
/* Memory for what belongs to units: it comes back when all of them go. NULL: none. Under the lock
 * `translating`. */
void *bt_allocate(struct bt_vm *vm, size_t size);
/* Gives back what was allocated since `chunk` was the last one and `used` of it; NULL: all. */
void bt_allocations_drop(struct bt_vm *vm, struct bt_chunk *chunk, size_t used);
uint8_t bt_key(const struct vcpu *v);

/* The access at RIP has no place of its own: whether that is so; from now on. */
bool bt_is_scattered(const struct bt_vm *vm, uint64_t rip);
void bt_scatter(struct vcpu *v, struct bt_unit *u, uint64_t rip);

/* What move.c needs; under the code lock. */
struct bt_page **bt_pages_of(struct bt_vm *vm, uint64_t physical);
uint32_t bt_token_of(struct bt_vm *vm, uint64_t physical, uint64_t linear, uint8_t key);
void bt_unlink(struct bt_exit *x);
void bt_unhash(struct bt_vm *vm, struct bt_unit *u);
void bt_hash(struct bt_vm *vm, struct bt_unit *u);
/* Nothing new leads to it, but what vCPUs know already. */
void bt_kill(struct bt_vm *vm, struct bt_unit *u);
void bt_found_drop(struct vcpu *v, const struct bt_unit *u);
/* The checker's word, if it is asked; a violation ends the VM. */
bool bt_passes(struct bt_vm *vm, const struct bt_unit *u);

/* ---- move.c ---- */

/* Makes units of the same page at another linear address, where no vCPU has been for long, units of
 * this one. False: there were none. Waits for the other vCPUs to be quiet. */
bool bt_move_page(struct vcpu *v, uint64_t physical, uint64_t linear, uint8_t key);
/* Whether bt_move_page could ever serve the unit: of its address alone. */
bool bt_may_move(uint64_t rip);

/* ---- code32.c ---- */

/* Whether it is 32-bit code of flat segments. */
bool bt_is_flat32(const struct vcpu *v);
/* Which of FS and GS are flat but for their base. */
#define BT_WHOLE_FS 1u
#define BT_WHOLE_GS 2u
uint8_t bt_whole32(const struct vcpu *v);

/* The key's bit for the mode. */
static inline uint8_t bt_key_mode(const struct vcpu *v)
{
    return v->code64 ? 0 : BT_KEY_CODE32;
}
/* How wide RIP, RSP and addresses are. */
static inline uint64_t bt_key_wrap(uint8_t key, uint64_t a)
{
    return key & BT_KEY_CODE32 ? (uint32_t)a : a;
}
static inline enum insn_mode bt_key_decodes(uint8_t key)
{
    return key & BT_KEY_CODE32 ? INSN_MODE_32 : INSN_MODE_64;
}

/* ---- translate.c ---- */

/* Writes the code and all lists; u has rip, physical, key, code, cold, pages. `page` holds its
 * bytes; of a unit with a second page, `second` those that follow. 0, or -ENOMEM. */
int bt_translate(struct bt_vm *vm, struct bt_unit *u, const uint8_t *page, const uint8_t *second);
struct bt_scratch *bt_scratch_create(void);
/* The page's token and its place in the comparison at `at`. */
void bt_put_token(uint8_t *at, const struct bt_page *p);

/* ---- stubs.c ---- */
void bt_stubs_make(struct bt_vm *vm);

/* ---- runtime.c: called by stubs; each returns where to go on, exec alias ---- */
const uint8_t *bt_do_link(struct vcpu *v, struct bt_exit *x);
const uint8_t *bt_do_site(struct vcpu *v, struct bt_site *s);
const uint8_t *bt_do_indirect(struct vcpu *v, uint64_t target);
const uint8_t *bt_do_find(struct vcpu *v, uint64_t target); /* trusting no table of jumps */
const uint8_t *bt_do_miss(struct vcpu *v, uint64_t linear, uint32_t what); /* or: */
#define BT_SERVED ((const uint8_t *)1) /* temp[6] is the addend; NULL: look again */
const uint8_t *bt_do_fault(struct vcpu *v, uint64_t flags);
/* After a raise: v->rip as it was at the miss that raised. */
void bt_settle(struct vcpu *v);
/* Whether an instruction boundary has something to do. */
bool bt_pending(const struct vcpu *v);
/* Nothing of that, and translated code may run next: it will not be led out by what is held. */
bool bt_may_run(struct vcpu *v);
void bt_vector_save(struct vcpu *v);
void bt_vector_load(struct vcpu *v);
extern const struct gate_ops bt_gate;

/* `what` of a check that was not served: 4096 - size, flags, number of the slot << 16, flags */
#define BT_CHECK_LIMIT   0xfffu
#define BT_CHECK_WRITE   0x1000u
#define BT_CHECK_QUIET   0x2000u /* masked: only what is cached is looked at */
#define BT_CHECK_ALIGNED 0x8000u /* misaligned is #GP, before any #PF (SDM 3A 6.9) */
/* LOCK across cache lines, for which the interpreter stops the other vCPUs; wrapping in a segment
 */
#define BT_CHECK_SPLIT     0x4000u
#define BT_CHECK_SCATTERED 0x80000000u /* it has looked in the table by address already */

/* Of all, by reach and write. */
static inline uint32_t bt_check_slot(uint32_t what)
{
    return what >> 16 & 0x7fff;
}
_Static_assert(TLB_FAST_REACHES * 2 * TLB_SLOTS <= 0x8000, "slots have 15 bits of `what`");

/* ---- return.c ---- */
int bt_returns_create(struct bt_local *l, struct error *e);
void bt_returns_destroy(struct bt_local *l);
/* All calls under way are forgotten: each of their returns will look its target up. */
void bt_returns_forget(struct vcpu *v);
/* Before translated code is entered elsewhere than where it was left: the stack of v->reach. */
void bt_returns_choose(struct vcpu *v);

/* ---- watch.c ---- */

/* --trace and --perf-map, as the platform has them. */
int bt_watch_open(struct bt_vm *vm, struct error *e);
void bt_watch_close(struct bt_vm *vm);
/* Names code for perf: "guest_" and the RIP. */
void bt_watch_code(struct bt_vm *vm, const uint8_t *code, const uint8_t *end, const char *name,
                   uint64_t rip);
/* Names a unit. */
void bt_watch_made(struct bt_vm *vm, const struct bt_unit *u);
/* What begins at v->rip is executed now. */
void bt_watch_unit(struct vcpu *v);

/* ---- trap.c ---- */
int bt_trap_install(struct error *e);
void bt_trap_enter(struct vcpu *v); /* this thread runs v from now on; NULL: none */

#endif
