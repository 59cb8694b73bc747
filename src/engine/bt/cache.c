/* SPDX-License-Identifier: MIT */
/*
 * The cache of units: one per VM, found by (RIP, physical page, key).
 *
 * Who may run what. A vCPU gets into a unit by bt_find, which walks the page tables for the fetch;
 * by its own jump table and tokens, which are forgotten whenever its mappings may have changed or
 * any unit has gone (bt_refresh); or by a direct jump within one page, whose mapping cannot have
 * changed since the page was entered. A direct jump to another page goes by a token: the target
 * looks whether this vCPU has seen its page mapped there.
 *
 * A written page's units are unlinked at once; other vCPUs leave them at their next poll, which
 * VCPU_REQUEST_CODE makes take notice. Their memory is taken back only with all of the cache, while
 * every other vCPU is quiet (interp/sync.h).
 */
#include "engine/bt/bt.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/bt/check.h"
#include "engine/bt/emit.h"
#include "engine/interp/step.h"
#include "x86/access.h"

/* To be taken modulo a power of two. */
static uint64_t hash_of(uint64_t a, uint64_t b, uint8_t key)
{
    uint64_t h = (a ^ b << 7 ^ (uint64_t)key << 3) * 0x9e3779b97f4a7c15u;
    return h >> (64 - BT_HASH_BITS);
}

struct bt_page **bt_pages_of(struct bt_vm *vm, uint64_t physical)
{
    return &vm->pages[hash_of(physical, 0, 0) % BT_PAGES];
}

/* What vector instructions the mode allows; others are the interpreter's, which raises. */
static unsigned vector_class(const struct vcpu *v)
{
    if ((v->cr0 & (CR0_EM | CR0_TS)) != 0 || !(v->cr4 & CR4_OSFXSR))
        return BT_VECTOR_NONE;
    if (!(v->cr4 & CR4_OSXSAVE) || (v->xcr0 & (XCR0_SSE | XCR0_AVX)) != (XCR0_SSE | XCR0_AVX))
        return BT_VECTOR_SSE;
    return (v->xcr0 & XCR0_AVX512) == XCR0_AVX512 ? BT_VECTOR_AVX512 : BT_VECTOR_AVX;
}

uint8_t bt_key(const struct vcpu *v)
{
    return (uint8_t)(v->reach | vector_class(v) << BT_KEY_VECTOR_SHIFT | bt_key_mode(v));
}

/* ---- a vCPU's own tables ---- */

/* 0 is not looked for there, but at index 0, where 1 is not. */
static inline void jump_empty(struct bt_jump *j, unsigned index)
{
    j->rip = index == 0;
}

static void forget_all(struct bt_local *l)
{
    memset(l->tokens, 0, sizeof(l->tokens));
    for (unsigned reach = 0; reach < 3; reach++)
        for (unsigned i = 0; i < BT_JUMPS; i++)
            jump_empty(&l->jumps[reach][i], i);
}

static unsigned noted_bit(unsigned what)
{
    return what & BT_LOG_TOKEN ? 3 * BT_JUMPS + (what & (BT_TOKENS - 1)) : what;
}

static void forget_log(struct bt_local *l, bool global)
{
    for (unsigned n = 0; n < l->filled[global]; n++) {
        unsigned i = l->log[global][n] & (BT_JUMPS - 1);
        if (l->log[global][n] & BT_LOG_TOKEN)
            l->tokens[i] = 0;
        else
            jump_empty(&l->jumps[l->log[global][n] / BT_JUMPS][i], i);
        l->noted[global][noted_bit(l->log[global][n]) / 64] = 0;
    }
    l->filled[global] = 0;
}

/* All, or what is not on global pages. */
static void forget(struct bt_local *l, bool global)
{
    if (l->filled[0] > BT_LOG || l->filled[1] > BT_LOG) {
        forget_all(l);
        memset(l->noted, 0, sizeof(l->noted));
        l->filled[0] = l->filled[1] = 0;
        return;
    }
    forget_log(l, false);
    if (global)
        forget_log(l, true);
}

/* Once is enough. */
static void note(struct bt_local *l, unsigned what, bool global)
{
    uint64_t *word = &l->noted[global][noted_bit(what) / 64];
    uint64_t bit = (uint64_t)1 << noted_bit(what) % 64;
    if (*word & bit)
        return;
    *word |= bit;
    if (l->filled[global] < BT_LOG)
        l->log[global][l->filled[global]] = (uint16_t)what;
    if (l->filled[global] <= BT_LOG)
        l->filled[global]++;
}

void bt_refresh(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    uint64_t generation = atomic_load(&l->vm->generation);
    unsigned class = vector_class(v);
    uint8_t mode = bt_key_mode(v), *known = &l->mode[v->reach == REACH_USER];

    if (X86_LIKELY(l->generation == generation && l->fetch_generation == v->tlb.fetch_generation &&
                   l->vector_class == class && *known == mode))
        return;
    if (l->vector_class != class && l->vector_live)
        bt_vector_save(v);
    bt_returns_forget(v);
    forget(l, l->generation != generation || l->vector_class != class || *known != mode ||
                  l->global_generation != v->tlb.global_generation);
    l->vector_class = (uint8_t) class;
    *known = mode;
    l->generation = generation;
    l->fetch_generation = v->tlb.fetch_generation;
    l->global_generation = v->tlb.global_generation;
}

void bt_jump_enter(struct vcpu *v, uint64_t rip, const uint8_t *code)
{
    struct bt_local *l = bt_local(v);
    if (l->vm->trace != NULL)
        return;
    unsigned i = bt_jump_index(rip);
    l->jumps[v->reach][i] = (struct bt_jump){rip, code};
    note(l, v->reach * BT_JUMPS + i, tlb_fetch_is_global(v, rip));
}

void bt_jump_forget(struct vcpu *v, uint64_t rip)
{
    unsigned i = bt_jump_index(rip);
    jump_empty(&bt_local(v)->jumps[v->reach][i], i);
}

/* The vCPU has found the page mapped where it is. */
static void token_enter(struct vcpu *v, struct bt_page *p)
{
    struct bt_local *l = bt_local(v);
    unsigned i = (p->linear >> 12) & (BT_TOKENS - 1);
    p->entered[l->number] = l->fetch_generation;
    if (l->tokens[i] == p->token)
        return;
    l->tokens[i] = p->token;
    bool global = tlb_fetch_is_global(v, p->linear);
    if (global)
        atomic_store(&p->global, true);
    note(l, BT_LOG_TOKEN | i, global);
}

/* ---- look-up; the code lock is held ---- */

static struct bt_unit *look_up(struct bt_vm *vm, uint64_t rip, uint64_t physical, uint8_t key,
                               bool alone)
{
    struct bt_unit *u = vm->hash[hash_of(rip, physical, key)];
    while (u != NULL &&
           (u->rip != rip || u->physical != physical || u->key != key || u->alone != alone))
        u = u->hash_next;
    return u;
}

/* What a fetch may reach is the same with AC and without: one token says that the page is mapped
 * there, whichever its units are for. */
static bool fetches_alike(uint8_t key, uint8_t other)
{
    return ((key & BT_KEY_REACH) == REACH_USER) == ((other & BT_KEY_REACH) == REACH_USER);
}

uint32_t bt_token_of(struct bt_vm *vm, uint64_t physical, uint64_t linear, uint8_t key)
{
    for (struct bt_page *p = *bt_pages_of(vm, physical); p != NULL; p = p->next)
        if (p->physical == physical && p->linear == linear && fetches_alike(p->key, key))
            return p->token;
    return ++vm->next_token;
}

static struct bt_page *page_of(struct bt_vm *vm, uint64_t physical, uint64_t linear, uint8_t key)
{
    struct bt_page **bucket = bt_pages_of(vm, physical);
    for (struct bt_page *p = *bucket; p != NULL; p = p->next)
        if (p->physical == physical && p->linear == linear && p->key == key)
            return p;
    struct bt_page *p = calloc(1, sizeof(*p) + vm->vcpu_count * sizeof(p->entered[0]));
    if (p == NULL)
        return NULL;
    p->physical = physical;
    p->linear = linear;
    p->key = key;
    p->token = bt_token_of(vm, physical, linear, key);
    p->next = *bucket;
    *bucket = p;
    return p;
}

void bt_unlink(struct bt_exit *x)
{
    emit_patch_atomic(x->patch, x->unlinked);
    *x->incoming = x->next_incoming;
    if (x->next_incoming != NULL)
        x->next_incoming->incoming = x->incoming;
    x->to = NULL;
}

void bt_hash(struct bt_vm *vm, struct bt_unit *u)
{
    struct bt_unit **bucket = &vm->hash[hash_of(u->rip, u->physical, u->key)];
    u->hash_next = *bucket;
    *bucket = u;
}

void bt_unhash(struct bt_vm *vm, struct bt_unit *u)
{
    struct bt_unit **link = &vm->hash[hash_of(u->rip, u->physical, u->key)];
    while (*link != u)
        link = &(*link)->hash_next;
    *link = u->hash_next;
}

void bt_kill(struct bt_vm *vm, struct bt_unit *u)
{
    if (u->dead)
        return;
    u->dead = true;
    while (u->incoming != NULL)
        bt_unlink(u->incoming);
    bt_unhash(vm, u);
}

void bt_code_written(void *context, gpa_t page)
{
    struct bt_vm *vm = context;
    bool any = false;

    for (struct bt_page *p = *bt_pages_of(vm, page.v); p != NULL; p = p->next) {
        if (p->physical != page.v)
            continue;
        p->generation++;
        p->marked = false;
        any |= p->units != NULL || p->crossers != NULL;
        for (struct bt_unit *u = p->units; u != NULL; u = u->page_next)
            bt_kill(vm, u);
        for (struct bt_unit *u = p->crossers; u != NULL; u = u->second_next)
            bt_kill(vm, u);
        p->units = p->crossers = NULL;
    }
    if (any)
        atomic_fetch_add(&vm->generation, 1);
}

static unsigned scattered_index(uint64_t rip)
{
    return (unsigned)((rip * 0x9e3779b97f4a7c15u) >> 48);
}
_Static_assert(BT_SCATTERED == 1u << 16, "the index has 16 bits");

bool bt_is_scattered(const struct bt_vm *vm, uint64_t rip)
{
    unsigned i = scattered_index(rip);
    return vm->scattered[i / 64] >> i % 64 & 1;
}

void bt_link(struct bt_vm *vm, struct bt_exit *x, struct bt_unit *to)
{
    interp_lock_code(vm->interp);
    if (!x->from->dead && !to->dead && x->to == NULL && x->target == to->rip && vm->trace == NULL) {
        emit_patch_atomic(x->patch, x->crossing     ? to->enter_crossing
                                    : x->host_flags ? to->enter_host
                                                    : to->enter_saved);
        x->to = to;
        x->incoming = &to->incoming;
        x->next_incoming = to->incoming;
        if (x->next_incoming != NULL)
            x->next_incoming->incoming = &x->next_incoming;
        to->incoming = x;
    }
    interp_unlock_code(vm->interp);
}

/* ---- units come and go ---- */

#define CHUNK (256u << 10)

struct bt_chunk {
    struct bt_chunk *next;
    size_t used;
    _Alignas(16) uint8_t bytes[CHUNK];
};

void *bt_allocate(struct bt_vm *vm, size_t size)
{
    struct bt_chunk *c = vm->chunks;
    size = (size + 15) & ~(size_t)15;
    if (c == NULL || CHUNK - c->used < size) {
        c = size <= CHUNK ? malloc(sizeof(*c)) : NULL;
        if (c == NULL)
            return NULL;
        c->next = vm->chunks;
        c->used = 0;
        vm->chunks = c;
    }
    c->used += size;
    return c->bytes + c->used - size;
}

void bt_allocations_drop(struct bt_vm *vm, struct bt_chunk *chunk, size_t used)
{
    while (vm->chunks != chunk) {
        struct bt_chunk *c = vm->chunks;
        vm->chunks = c->next;
        free(c);
    }
    if (chunk != NULL)
        chunk->used = used;
}

static void drop_all(struct bt_vm *vm)
{
    bt_allocations_drop(vm, NULL, 0);
    vm->unit_count = 0;
    memset(vm->hash, 0, sizeof(vm->hash));
    for (unsigned b = 0; b < BT_PAGES; b++) {
        while (vm->pages[b] != NULL) {
            struct bt_page *next = vm->pages[b]->next;
            free(vm->pages[b]);
            vm->pages[b] = next;
        }
    }
    vm->free = vm->first;
    vm->cold_free = vm->cold;
}

void bt_cache_fini(struct bt_vm *vm)
{
    drop_all(vm);
    free(vm->units);
    vm->units = NULL;
    vm->unit_room = 0;
}

/* The cache is full: everything goes. The caller returns into no unit. */
static void flush(struct vcpu *v, struct bt_vm *vm)
{
    bt_local(v)->counters.flushes++;
    interp_exclusive_begin(v);
    interp_lock_code(vm->interp);
    drop_all(vm);
    vm->flushes++;
    atomic_fetch_add(&vm->generation, 1);
    interp_unlock_code(vm->interp);
    interp_exclusive_end(v);
}

void bt_count(struct vcpu *v)
{
    struct bt_vm *vm = bt_local(v)->vm;
    if (vm->counting)
        return;
    vm->counting = true;
    flush(v, vm);
}

static bool room(const struct bt_vm *vm)
{
    return vm->cold - vm->free >= (ptrdiff_t)BT_UNIT_BYTES &&
           vm->memory.write + vm->memory.size - vm->cold_free >= (ptrdiff_t)BT_UNIT_BYTES &&
           vm->unit_count < BT_UNITS_MAX;
}

static bool units_room(struct bt_vm *vm)
{
    if (vm->unit_count < vm->unit_room)
        return true;
    unsigned more = vm->unit_room == 0 ? 1024 : vm->unit_room * 2;
    struct bt_unit **p = realloc(vm->units, more * sizeof(struct bt_unit *));
    if (p == NULL)
        return false;
    vm->units = p;
    vm->unit_room = more;
    return true;
}

/* A page of the unit to be, marked as code: the caller may read its bytes, and knows by
 * `generation` whether they were written since. NULL: serve requests first, or no memory. */
static struct bt_page *prepare_page(struct vcpu *v, uint64_t physical, uint64_t linear, uint8_t key,
                                    const uint8_t *host, uint64_t *generation)
{
    struct bt_vm *vm = bt_local(v)->vm;
    bool marked = false;
    uint64_t before = 0;

    for (;;) {
        interp_lock_code(vm->interp);
        struct bt_page *p = page_of(vm, physical, linear, key);
        if (p != NULL && marked && p->generation == before)
            p->marked = true;
        if (p != NULL)
            before = *generation = p->generation;
        bool ready = p == NULL || p->marked;
        interp_unlock_code(vm->interp);
        if (ready)
            return p;
        uint64_t flushes = vm->flushes;
        interp_mark_code(v, GPA(physical), host);
        if (vcpu_requests(v) & VCPU_REQUEST_CODE)
            return NULL;
        marked = vm->flushes == flushes;
    }
}

/* Enters it where it is found; false when a page of it was written meanwhile. */
static bool publish(struct bt_vm *vm, struct bt_unit *u, const uint64_t generation[2])
{
    interp_lock_code(vm->interp);
    bool good =
        u->page->generation == generation[0] && u->page->marked && units_room(vm) &&
        (u->second == NULL || (u->second->generation == generation[1] && u->second->marked));
    if (good) {
        bt_hash(vm, u);
        u->page_next = u->page->units;
        u->page->units = u;
        if (u->second != NULL) {
            u->second_next = u->second->crossers;
            u->second->crossers = u;
        }
        vm->units[vm->unit_count++] = u;
        vm->free = (uint8_t *)(((uintptr_t)u->code_end + 15) & ~(uintptr_t)15);
        vm->cold_free = (uint8_t *)(((uintptr_t)u->cold_end + 15) & ~(uintptr_t)15);
        bt_watch_made(vm, u);
    }
    interp_unlock_code(vm->interp);
    return good;
}

/* Where a unit's bytes are: the second page only when its first instruction goes on there. */
struct source {
    uint64_t physical[2]; /* of the pages; second: valid if host[1] is not NULL */
    const uint8_t *host[2];
};

static bool crosses(const struct bt_vm *vm, uint8_t key, uint64_t rip, const uint8_t *page)
{
    unsigned offset = rip & (MEM_PAGE_SIZE - 1), left = MEM_PAGE_SIZE - offset;
    struct insn in;
    struct insn_full full;
    return left < INSN_LENGTH_MAX && insn_decode(&vm->decoder, bt_key_decodes(key), page + offset,
                                                 left, &in, &full) == INSN_PARTIAL;
}

/* A translation that breaks a rule is a bug of doppel's, and the VM's end. */
bool bt_passes(struct bt_vm *vm, const struct bt_unit *u)
{
    char why[BT_CHECK_WHY];
    if (!vm->checking)
        return true;
    int rc = bt_check(vm, u, why, sizeof(why));
    if (rc == -EINVAL) {
        log_error("engine bt: a translation breaks a rule (a bug of doppel): %s", why);
        bt_check_report(u, stderr);
        atomic_store(&vm->failed, true);
    }
    return rc == 0;
}

/* Translates under the lock, unless another vCPU was first. */
static struct bt_unit *make_locked(struct bt_vm *vm, const struct bt_unit *wanted,
                                   const struct source *from, const uint64_t generation[2])
{
    struct bt_chunk *chunk = vm->chunks;
    size_t used = chunk != NULL ? chunk->used : 0;
    interp_lock_code(vm->interp);
    struct bt_unit *other = look_up(vm, wanted->rip, wanted->physical, wanted->key, wanted->alone);
    interp_unlock_code(vm->interp);
    if (other != NULL || !room(vm))
        return other;
    struct bt_unit *u = bt_allocate(vm, sizeof(*u));
    if (u != NULL) {
        *u = *wanted;
        u->code = vm->free;
        u->cold = vm->cold_free;
        if (u->code + BT_UNIT_BYTES > vm->huge)
            vm->huge = exec_memory_huge(&vm->memory, vm->huge);
        if (bt_translate(vm, u, from->host[0], from->host[1]) == 0 && bt_passes(vm, u) &&
            publish(vm, u, generation))
            return u;
    }
    bt_allocations_drop(vm, chunk, used);
    return NULL;
}

static struct bt_unit *make(struct vcpu *v, uint8_t key, bool alone, struct source *from)
{
    struct bt_vm *vm = bt_local(v)->vm;
    uint64_t linear = v->rip & MEM_PAGE_MASK, generation[2] = {0};

    bt_vector_save(v);                    /* the decoder and malloc know nothing of the rule */
    pthread_mutex_lock(&vm->translating); /* who may be using some of it up */
    bool full = !room(vm);
    pthread_mutex_unlock(&vm->translating);
    if (full)
        flush(v, vm);
    if (crosses(vm, key, v->rip, from->host[0])) {
        if (!x86_canonical(v, linear + MEM_PAGE_SIZE) ||
            bt_key_wrap(key, linear + MEM_PAGE_SIZE) == 0)
            return NULL;
        from->host[1] = tlb_fetch_page(v, linear + MEM_PAGE_SIZE, &from->physical[1]);
        if (from->host[1] == NULL)
            return NULL;
    }
    uint64_t flushes = vm->flushes;
    struct bt_page *second = NULL;
    struct bt_page *page =
        prepare_page(v, from->physical[0], linear, key, from->host[0], &generation[0]);
    if (page != NULL && from->host[1] != NULL)
        second = prepare_page(v, from->physical[1], linear + MEM_PAGE_SIZE, key, from->host[1],
                              &generation[1]);
    if (page == NULL || (from->host[1] != NULL && second == NULL) || vm->flushes != flushes)
        return NULL;
    struct bt_unit wanted = {.rip = v->rip,
                             .physical = from->physical[0] | (v->rip & (MEM_PAGE_SIZE - 1)),
                             .key = key,
                             .alone = alone,
                             .page = page,
                             .second = second};
    pthread_mutex_lock(&vm->translating);
    struct bt_unit *u = make_locked(vm, &wanted, from, generation);
    pthread_mutex_unlock(&vm->translating);
    bt_local(v)->counters.units += u != NULL;
    return u;
}

/* Whether the second page is still where it was; enters its token. Raises what the fetch raises. */
static bool second_holds(struct vcpu *v, struct bt_unit *u)
{
    struct bt_local *l = bt_local(v);
    uint64_t physical;
    struct bt_page *p = u->second;
    if (tlb_fetch_page(v, p->linear, &physical) == NULL)
        return false;
    bt_refresh(v);
    if (physical == p->physical) {
        token_enter(v, p);
        return true;
    }
    interp_lock_code(l->vm->interp);
    bt_kill(l->vm, u);
    atomic_fetch_add(&l->vm->generation, 1);
    interp_unlock_code(l->vm->interp);
    return false;
}

/* The page of the code at RIP; false: none that units can be made from. Raises. */
static bool fetch(struct vcpu *v, struct source *from)
{
    if (!x86_canonical(v, v->rip))
        x86_raise_gp0(v);
    from->host[0] = tlb_fetch_page(v, v->rip, &from->physical[0]);
    if (from->host[0] == NULL)
        return false;
    bt_refresh(v); /* the walk may have thrown out mappings */
    return true;
}

static struct bt_unit *look_up_locked(struct bt_vm *vm, uint64_t rip, const struct source *from,
                                      uint8_t key, bool alone)
{
    interp_lock_code(vm->interp);
    struct bt_unit *u =
        look_up(vm, rip, from->physical[0] | (rip & (MEM_PAGE_SIZE - 1)), key, alone);
    interp_unlock_code(vm->interp);
    return u;
}

static struct bt_unit *find(struct vcpu *v, bool alone, struct source *from)
{
    struct bt_local *l = bt_local(v);
    uint8_t key = bt_key(v);

    l->counters.lookups++;
    struct bt_unit *u = look_up_locked(l->vm, v->rip, from, key, alone);
    if (u == NULL && bt_move_page(v, from->physical[0], v->rip & MEM_PAGE_MASK, key))
        u = look_up_locked(l->vm, v->rip, from, key, alone);
    if (u == NULL)
        u = make(v, key, alone, from);
    if (u != NULL && u->second != NULL && !second_holds(v, u))
        u = NULL;
    /* It may have been killed since it was looked up, and this refresh have been the one for it:
     * then nothing would ever take it out of the tables again. Killed later, it moves generation.
     */
    bt_refresh(v);
    if (u != NULL && atomic_load(&u->dead))
        u = NULL;
    if (u != NULL) {
        token_enter(v, u->page);
        bt_watch_unit(v);
    }
    return u;
}

struct bt_unit *bt_find(struct vcpu *v, bool alone)
{
    struct source from = {0};
    return fetch(v, &from) ? find(v, alone, &from) : NULL;
}

static struct bt_found *found_at(struct vcpu *v, uint64_t rip, uint64_t where)
{
    return &bt_local(v)->found[hash_of(rip, where, 0) % BT_FOUND];
}

const uint8_t *bt_find_code(struct vcpu *v)
{
    struct bt_local *l = bt_local(v);
    struct source from = {0};

    if (!fetch(v, &from))
        return NULL;
    uint64_t where = from.physical[0] | bt_key(v) | BT_FOUND_VALID;
    struct bt_found *f = found_at(v, v->rip, where);
    if (f->rip == v->rip && f->where == where && f->generation == (uint32_t)l->generation) {
        l->counters.found++;
        token_enter(v, f->page);
        return l->vm->memory.exec + f->code;
    }
    const struct bt_unit *u = find(v, false, &from);
    if (u == NULL)
        return NULL;
    const uint8_t *code = bt_exec(l->vm, u->enter_saved);
    if (u->second == NULL && l->vm->trace == NULL)
        *f = (struct bt_found){v->rip, where, u->page, (uint32_t)(code - l->vm->memory.exec),
                               (uint32_t)l->generation};
    return code;
}

void bt_found_drop(struct vcpu *v, const struct bt_unit *u)
{
    uint64_t where = (u->physical & MEM_PAGE_MASK) | u->key | BT_FOUND_VALID;
    struct bt_found *f = found_at(v, u->rip, where);
    if (f->rip == u->rip && f->where == where)
        f->where = 0;
}

/* The old unit is as good as before, but for its speed: no other vCPU need hurry, and generation
 * stays. Its page keeps it in its list. */
void bt_scatter(struct vcpu *v, struct bt_unit *u, uint64_t rip)
{
    struct bt_vm *vm = bt_local(v)->vm;
    unsigned i = scattered_index(rip);
    interp_lock_code(vm->interp);
    vm->scattered[i / 64] |= (uint64_t)1 << i % 64;
    bt_kill(vm, u); /* to be made again */
    interp_unlock_code(vm->interp);
    unsigned at = bt_jump_index(u->rip); /* under its own reach, not that of now */
    jump_empty(&bt_local(v)->jumps[u->key & BT_KEY_REACH][at], at);
    bt_found_drop(v, u);
}

/* ---- from host addresses back ---- */

struct bt_unit *bt_unit_at(struct bt_vm *vm, const uint8_t *exec)
{
    const uint8_t *at = vm->memory.write + (exec - vm->memory.exec);
    unsigned low = 0, high = vm->unit_count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        const struct bt_unit *u = vm->units[middle];
        if ((at < vm->cold ? u->code : u->cold) <= at)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || bt_unit_offset(vm->units[low - 1], at) == BT_NOWHERE)
        return NULL;
    return vm->units[low - 1];
}

const struct bt_mark *bt_mark_at(const struct bt_vm *vm, const struct bt_unit *u,
                                 const uint8_t *exec)
{
    uint32_t offset = bt_unit_offset(u, vm->memory.write + (exec - vm->memory.exec));
    const struct bt_mark *best = NULL;
    for (unsigned n = 0; n < u->mark_count && u->marks[n].host <= offset; n++)
        best = &u->marks[n];
    return best;
}
