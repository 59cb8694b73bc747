/* SPDX-License-Identifier: MIT */
/*
 * Decoded pages: each guest-physical page is decoded once per mode into runs of records, found by
 * the offset of their first byte. A run ends at its page, after an unconditional transfer, or after
 * RUN_MAX instructions, with a pseudo-instruction that looks further.
 *
 * Invalidation (decision 9): before a page is decoded its MEM_PAGE_CODE flag is set and the fast
 * write tags go, so that whoever writes it later comes through mem's listener. The vCPU's own
 * thread then turns every record of the page into op_stale at once: a store into the running run
 * takes effect at the next instruction. Other threads post the page and request the vCPU. Memory is
 * freed between instructions, when no handler holds a record.
 *
 * The cache of copied instructions is bounded; when it calls itself full, all decoded pages go with
 * it, also between instructions.
 *
 * An instruction that crosses into the next page is not kept by page, for that page may be mapped
 * elsewhere tomorrow: its record compares the bytes each time. Nor is anything kept of the page in
 * which the limit of CS lies: there each instruction is checked against it as it is fetched.
 */
#include "engine/interp/code.h"
#include "engine/interp/sync.h"

#include <errno.h>
#include <stdlib.h>

#define PAGES_MAX   4096u /* bounds the memory: then everything goes and is decoded afresh */
#define BUCKETS     4096u
#define CHUNK       128u /* records */
#define CHUNKS_MAX  64u  /* a page has at most 4096 starts, plus the run ends */
#define RUN_MAX     64u
#define PENDING_MAX 64u

struct crossing {
    struct insn insn[2]; /* the instruction and room for the "next" that it names */
    uint8_t bytes[INSN_LENGTH_MAX];
    struct crossing *next;
};

struct code_page {
    uint64_t physical;
    enum insn_mode mode;
    struct code_page *next; /* in its bucket or on the dead list */
    struct crossing *crossings;
    unsigned chunk_count, used; /* used: records of the last chunk */
    struct insn *chunks[CHUNKS_MAX];
    uint16_t slot[MEM_PAGE_SIZE]; /* of the record that starts there, plus 1; 0 = none */
};

struct code_cache {
    struct code_page *buckets[BUCKETS];
    struct code_page *dead;
    unsigned page_count;
    struct crossing uncached; /* code outside RAM: decoded at each execution */
    pthread_mutex_t lock;     /* the pending list: written by other threads */
    uint64_t pending[PENDING_MAX];
    unsigned pending_count;
    bool pending_all; /* the list was too short */
};

int code_cache_create(struct code_cache **out)
{
    struct code_cache *c = calloc(1, sizeof(*c));
    if (c == NULL)
        return -ENOMEM;
    pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return 0;
}

static void page_free(struct code_page *p)
{
    while (p->crossings != NULL) {
        struct crossing *next = p->crossings->next;
        free(p->crossings);
        p->crossings = next;
    }
    for (unsigned n = 0; n < p->chunk_count; n++)
        free(p->chunks[n]);
    free(p);
}

static void free_dead(struct code_cache *c)
{
    while (c->dead != NULL) {
        struct code_page *next = c->dead->next;
        page_free(c->dead);
        c->dead = next;
    }
}

void code_cache_destroy(struct code_cache *c)
{
    for (unsigned b = 0; b < BUCKETS; b++) {
        while (c->buckets[b] != NULL) {
            struct code_page *next = c->buckets[b]->next;
            page_free(c->buckets[b]);
            c->buckets[b] = next;
        }
    }
    free_dead(c);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static struct code_page **bucket_of(struct code_cache *c, uint64_t physical)
{
    return &c->buckets[(physical >> 12) & (BUCKETS - 1)];
}

/* Takes *link out of its bucket; its records lead to op_stale from now on. */
static void page_kill(struct interp *t, struct code_page **link)
{
    struct code_page *p = *link;
    for (unsigned n = 0; n < p->chunk_count; n++) {
        unsigned used = n + 1 == p->chunk_count ? p->used : CHUNK;
        for (unsigned k = 0; k < used; k++)
            p->chunks[n][k].exec = op_stale;
    }
    *link = p->next;
    p->next = t->code->dead;
    t->code->dead = p;
    t->code->page_count--;
    t->code_generation++;
    t->vcpu->counters.code_pages_invalidated++;
}

static void kill_all(struct interp *t)
{
    for (unsigned b = 0; b < BUCKETS; b++) {
        while (t->code->buckets[b] != NULL)
            page_kill(t, &t->code->buckets[b]);
    }
}

static void kill_page(struct interp *t, uint64_t physical)
{
    struct code_page **link = bucket_of(t->code, physical);
    while (*link != NULL) {
        if ((*link)->physical == physical)
            page_kill(t, link);
        else
            link = &(*link)->next;
    }
}

void code_page_written(struct interp *t, gpa_t page)
{
    kill_page(t, page.v);
    vcpu_request(t->vcpu, VCPU_REQUEST_CODE); /* leave the run of records; free what is dead */
}

void code_page_post(struct interp *t, gpa_t page)
{
    struct code_cache *c = t->code;
    pthread_mutex_lock(&c->lock);
    if (c->pending_count < PENDING_MAX)
        c->pending[c->pending_count++] = page.v;
    else
        c->pending_all = true;
    pthread_mutex_unlock(&c->lock);
    vcpu_request(t->vcpu, VCPU_REQUEST_CODE);
}

/* After bind_handler: the cache of copies may have got full. What is being decoded still has room
 * (copy.h), and no more than RUN_MAX records are decoded before the request is served. */
static void request_room(struct interp *t)
{
    if (X86_UNLIKELY(copy_cache_full(t->vm->copies)))
        vcpu_request(t->vcpu, VCPU_REQUEST_CODE);
}

/* Every decoded page goes, because its records hold prepared copies; then the copies can. The other
 * vCPUs are quiet meanwhile: none runs a copy, and what records they hold lead to op_stale. */
static void drop_copies(struct interp *t)
{
    struct interp_vm *vm = t->vm;

    sync_exclusive_begin(t);
    for (unsigned n = 0; copy_cache_full(vm->copies) && n < vm->vcpu_count; n++) {
        kill_all(vm->vcpus[n]);
        vm->vcpus[n]->code->uncached.insn[0] = (struct insn){0};
        vcpu_request(vm->vcpus[n]->vcpu, VCPU_REQUEST_CODE);
    }
    if (copy_cache_full(vm->copies))
        copy_cache_clear(vm->copies);
    sync_exclusive_end(t);
}

void code_reclaim(struct interp *t)
{
    struct code_cache *c = t->code;
    /* Before the list is read, and not again: what is posted from here on asks anew. */
    vcpu_request_clear(t->vcpu, VCPU_REQUEST_CODE);
    pthread_mutex_lock(&c->lock);
    unsigned count = c->pending_count;
    bool all = c->pending_all;
    uint64_t pages[PENDING_MAX];
    memcpy(pages, c->pending, count * sizeof(pages[0]));
    c->pending_count = 0;
    c->pending_all = false;
    pthread_mutex_unlock(&c->lock);

    if (all)
        kill_all(t);
    for (unsigned n = 0; n < count; n++)
        kill_page(t, pages[n]);
    sync_serve_protect(t);
    if (copy_cache_full(t->vm->copies))
        drop_copies(t);
    free_dead(c);
}

void code_mark(struct interp *t, gpa_t page, const uint8_t *host)
{
    _Atomic uint8_t *flags;
    if (mem_page(t->vm->platform->mem, page, &flags) == NULL)
        return;
    pthread_mutex_lock(&t->vm->code_lock);
    bool first = !(atomic_fetch_or(flags, MEM_PAGE_CODE) & MEM_PAGE_CODE);
    pthread_mutex_unlock(&t->vm->code_lock);
    if (first || t->vm->vcpu_count > 1)
        tlb_protect_page(t->vcpu, host);
    sync_protect(t, page);
}

static struct code_page *page_create(struct interp *t, uint64_t physical, enum insn_mode mode,
                                     const uint8_t *host)
{
    struct code_cache *c = t->code;

    if (c->page_count >= PAGES_MAX) {
        kill_all(t);
        vcpu_request(t->vcpu, VCPU_REQUEST_CODE); /* to free them */
    }
    struct code_page *p = calloc(1, sizeof(*p));
    if (p == NULL)
        return NULL;
    p->physical = physical;
    p->mode = mode;
    p->next = *bucket_of(c, physical);
    *bucket_of(c, physical) = p;
    c->page_count++;
    code_mark(t, GPA(physical), host);
    t->vcpu->counters.code_pages_decoded++;
    return p;
}

static struct code_page *page_find(struct interp *t, uint64_t physical, enum insn_mode mode,
                                   const uint8_t *host)
{
    for (struct code_page *p = *bucket_of(t->code, physical); p != NULL; p = p->next) {
        if (p->physical == physical && p->mode == mode)
            return p;
    }
    return page_create(t, physical, mode, host);
}

/* Room for `n` records side by side; NULL when memory or the page's slots are exhausted. */
static struct insn *page_room(struct code_page *p, unsigned n)
{
    if (p->chunk_count == 0 || p->used + n > CHUNK) {
        if (p->chunk_count == CHUNKS_MAX)
            return NULL;
        struct insn *chunk = calloc(CHUNK, sizeof(*chunk));
        if (chunk == NULL)
            return NULL;
        p->chunks[p->chunk_count++] = chunk;
        p->used = 0;
    }
    return &p->chunks[p->chunk_count - 1][p->used];
}

static const struct insn *page_record(const struct code_page *p, unsigned offset)
{
    unsigned s = p->slot[offset];
    return s == 0 ? NULL : &p->chunks[(s - 1) / CHUNK][(s - 1) % CHUNK];
}

/* After these the next instruction is not the following one. */
static bool ends_run(const struct insn *i)
{
    switch (i->op) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSEXIT:
    case ZYDIS_MNEMONIC_UD2:
        return true;
    default:
        return false;
    }
}

/* Decodes the instruction at bytes into *i. false: the run ends here with *i. */
static bool decode_one(struct interp *t, struct code_page *p, const uint8_t *bytes, unsigned left,
                       struct insn *i)
{
    struct insn_full full;
    unsigned n = left < INSN_LENGTH_MAX ? left : INSN_LENGTH_MAX;

    t->vcpu->counters.instructions_decoded++;
    switch (insn_decode(&t->vm->decoder, p->mode, bytes, n, i, &full)) {
    case INSN_OK:
        i->exec = bind_handler(t->vm, i, &full, bytes);
        request_room(t);
        return !ends_run(i);
    case INSN_PARTIAL: {
        struct crossing *c = calloc(1, sizeof(*c));
        *i = (struct insn){.exec = op_crossing, .imm = (uintptr_t)c}; /* NULL: no memory */
        if (c != NULL) {
            c->next = p->crossings;
            p->crossings = c;
        }
        return false;
    }
    case INSN_TOO_LONG:
        *i = (struct insn){.exec = op_too_long};
        return false;
    default:
        *i = (struct insn){.exec = op_invalid};
        return false;
    }
}

/* Decodes a run that starts at offset and returns its first record. */
static const struct insn *decode_run(struct interp *t, struct code_page *p, const uint8_t *host,
                                     unsigned offset)
{
    struct insn *first = page_room(p, RUN_MAX + 1), *i = first;
    if (first == NULL)
        return NULL;
    unsigned base = (p->chunk_count - 1) * CHUNK + p->used;
    bool more = true;

    while (more && i < first + RUN_MAX && offset < MEM_PAGE_SIZE && p->slot[offset] == 0) {
        more = decode_one(t, p, host + offset, MEM_PAGE_SIZE - offset, i);
        p->slot[offset] = (uint16_t)(base + (unsigned)(i - first) + 1);
        offset += i->length;
        i++;
    }
    *i = (struct insn){.exec = op_look_up};
    if (offset < MEM_PAGE_SIZE)
        i->link = page_record(p, offset);
    p->used += (unsigned)(i - first) + 1;
    return first;
}

const struct insn *code_find(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    uint64_t linear = v->rip, physical;

    bool limited = false;
    if (!v->code64) {
        if (v->rip > v->seg[SEG_CS].limit)
            x86_raise_gp0(v);
        linear = (uint32_t)(v->rip + v->code_base);
        limited = v->rip + (~linear & 0xfff) > v->seg[SEG_CS].limit;
    } else if (!x86_canonical(v, linear)) { /* ran off the end of the lower half (SDM 1 3.3.7.1) */
        x86_raise_gp0(v);
    }
    const uint8_t *host = tlb_fetch_page(v, linear, &physical);
    if (host == NULL || limited)
        return code_uncached(v);
    struct code_page *p = page_find(t, physical, insn_mode_of(v), host);
    if (vcpu_requests(v) & VCPU_REQUEST_CODE)
        return NULL; /* p may be about to go */
    unsigned offset = linear & 0xfff;
    const struct insn *i = p == NULL ? NULL : page_record(p, offset);
    if (p != NULL && i == NULL) {
        i = decode_run(t, p, host, offset);
        if (i == NULL) { /* the page's slots are used up by overlapping runs: begin afresh */
            kill_page(t, physical);
            p = page_find(t, physical, insn_mode_of(v), host);
            if (vcpu_requests(v) & VCPU_REQUEST_CODE)
                return NULL;
            i = p == NULL ? NULL : decode_run(t, p, host, offset);
        }
    }
    if (i == NULL)
        return code_uncached(v); /* no memory for records */
    struct jump_entry *e = jump_entry_of(t, v->rip + v->code_base);
    *e = (struct jump_entry){
        .linear = v->rip + v->code_base, .context = code_context(v, t), .insn = i};
    return i;
}

/* The bytes at v->rip, up to 15, as far as they can be fetched: the second page only when `partial`
 * says that the first page's are not enough. Raises #PF, #GP. */
static unsigned fetch(struct vcpu *v, uint8_t *bytes, unsigned offset, unsigned n)
{
    for (unsigned k = offset; k < n;) {
        uint64_t linear = v->rip + k;
        uint64_t physical;
        if (!v->code64)
            linear = (uint32_t)(linear + v->code_base);
        else if (!x86_canonical(v, linear))
            x86_raise_gp0(v);
        const uint8_t *host = tlb_fetch_page(v, linear, &physical);
        unsigned here = 4096 - (unsigned)(linear & 0xfff);
        if (here > n - k)
            here = n - k;
        if (host != NULL) {
            memcpy(bytes + k, host + (linear & 0xfff), here);
        } else {
            for (unsigned b = 0; b < here; b++)
                bytes[k + b] = (uint8_t)gate_read(v, BUS_MMIO, physical + (linear & 0xfff) + b, 1);
        }
        k += here;
    }
    return n;
}

static void crossing_decode(struct vcpu *v, struct crossing *c, const uint8_t *bytes, unsigned n)
{
    struct interp *t = v->engine_state;
    struct insn_full full;
    struct insn *i = &c->insn[0];

    memcpy(c->bytes, bytes, n);
    switch (insn_decode(&t->vm->decoder, insn_mode_of(v), bytes, n, i, &full)) {
    case INSN_OK:
        i->exec = bind_handler(t->vm, i, &full, bytes);
        request_room(t);
        break;
    case INSN_TOO_LONG:
    case INSN_PARTIAL: /* it goes on beyond the limit of CS: #GP(0) too */
        *i = (struct insn){.exec = op_too_long};
        break;
    default:
        *i = (struct insn){.exec = op_invalid};
        break;
    }
}

/* Bytes from RIP to the limit of CS, as far as an instruction may reach. */
static unsigned within_limit(struct vcpu *v)
{
    uint64_t left = v->code64 ? INSN_LENGTH_MAX : v->seg[SEG_CS].limit - v->rip + 1;
    return left < INSN_LENGTH_MAX ? (unsigned)left : INSN_LENGTH_MAX;
}

/* First with the first page's bytes only: the next page is not touched unless it is needed. */
static void crossing_prepare(struct vcpu *v, struct crossing *c)
{
    uint8_t bytes[INSN_LENGTH_MAX];
    struct insn probe;
    struct insn_full full;
    uint64_t linear = v->rip + v->code_base;
    unsigned n = 4096 - (unsigned)(linear & 0xfff), most = within_limit(v);

    if (n > most)
        n = most;
    fetch(v, bytes, 0, n);
    const struct interp *t = v->engine_state;
    if (insn_decode(&t->vm->decoder, insn_mode_of(v), bytes, n, &probe, &full) == INSN_PARTIAL)
        n = fetch(v, bytes, n, most);
    if (c->insn[0].exec != NULL && c->insn[0].length != 0 && c->insn[0].length <= n &&
        memcmp(c->bytes, bytes, c->insn[0].length) == 0)
        return;
    crossing_decode(v, c, bytes, n);
}

const struct insn *op_crossing(struct vcpu *v, const struct insn *i)
{
    struct crossing *c = (struct crossing *)(uintptr_t)i->imm;
    if (c == NULL) {
        c = &((struct interp *)v->engine_state)->code->uncached;
        c->insn[0].length = 0;
    }
    crossing_prepare(v, c);
    const struct insn *next = c->insn[0].exec(v, &c->insn[0]);
    return next == &c->insn[1] ? code_continue(v) : next;
}

const struct insn *code_uncached(struct vcpu *v)
{
    struct interp *t = v->engine_state;
    struct crossing *c = &t->code->uncached;
    c->insn[0].length = 0;
    crossing_prepare(v, c);
    c->insn[1] = (struct insn){.exec = op_look_up};
    return &c->insn[0];
}

/* The pseudo-instructions retire nothing: the run loop's count is taken back. */
const struct insn *op_look_up(struct vcpu *v, const struct insn *i)
{
    v->counters.instructions--;
    return i->link != NULL && vcpu_requests(v) == 0 ? i->link : code_continue(v);
}

const struct insn *op_stale(struct vcpu *v, const struct insn *i)
{
    v->counters.instructions--;
    return NULL;
}

const struct insn *op_too_long(struct vcpu *v, const struct insn *i)
{
    x86_raise_gp0(v);
}

const struct insn *op_invalid(struct vcpu *v, const struct insn *i)
{
    x86_raise(v, VECTOR_UD);
}
