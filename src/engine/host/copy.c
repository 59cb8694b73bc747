/* SPDX-License-Identifier: MIT */
/*
 * Preparing copied instructions: which may be copied, what they need, how they reach memory; and
 * the cache of their stubs. See copy.h. Any vCPU thread may prepare: a mutex per cache. The guest
 * controls the bytes, hence how many different stubs there are: the cache is bounded.
 */
#include "engine/host/copy_code.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "engine/host/exec_memory.h"
#include "engine/host/processor.h"

#define CACHE_BYTES   (16u << 20)
#define CACHE_RESERVE (2u << 20) /* what is left when the cache calls itself full */
#define CACHE_BUCKETS 4096u
/* What is done by hand takes no executable memory, so the number is bounded too. */
#define CODES_MAX     65536u
#define CODES_RESERVE 8192u

struct copy_cache {
    pthread_mutex_t lock;
    struct exec_memory memory;
    struct copy_code *buckets[CACHE_BUCKETS];
    unsigned codes;       /* in all buckets */
    struct vcpu *scratch; /* for trials */
};

int copy_cache_create(struct copy_cache **out, struct error *e)
{
    int r = copy_trap_install(e);
    if (r < 0)
        return r;
    struct copy_cache *c = calloc(1, sizeof *c);
    if (!c)
        return error_set(e, ENOMEM, "no memory for the cache of copied instructions");
    c->scratch = aligned_alloc(64, (sizeof *c->scratch + 63) & ~(size_t)63);
    r = c->scratch ? exec_memory_create(&c->memory, CACHE_BYTES, e)
                   : error_set(e, ENOMEM, "no memory for the trial of copied instructions");
    if (r < 0) {
        free(c->scratch);
        free(c);
        return r;
    }
    memset(c->scratch, 0, sizeof *c->scratch);
    pthread_mutex_init(&c->lock, NULL);
    *out = c;
    return 0;
}

void copy_cache_clear(struct copy_cache *c)
{
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < CACHE_BUCKETS; i++) {
        while (c->buckets[i]) {
            struct copy_code *code = c->buckets[i];
            c->buckets[i] = code->next;
            free(code);
        }
    }
    c->codes = 0;
    exec_memory_clear(&c->memory);
    pthread_mutex_unlock(&c->lock);
}

void copy_cache_destroy(struct copy_cache *c)
{
    if (!c)
        return;
    copy_cache_clear(c);
    exec_memory_destroy(&c->memory);
    pthread_mutex_destroy(&c->lock);
    free(c->scratch);
    free(c);
}

bool copy_cache_full(struct copy_cache *c)
{
    pthread_mutex_lock(&c->lock);
    bool full =
        c->memory.size - c->memory.used < CACHE_RESERVE || CODES_MAX - c->codes < CODES_RESERVE;
    pthread_mutex_unlock(&c->lock);
    return full;
}

/* SSE instructions that may touch no vector register: their source is memory. */
static bool is_vector_to_integer(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_CVTSS2SI || m == ZYDIS_MNEMONIC_CVTTSS2SI ||
           m == ZYDIS_MNEMONIC_CVTSD2SI || m == ZYDIS_MNEMONIC_CVTTSD2SI;
}

/* Integer instructions outside VEX that are copied too: pure functions of registers, memory and
 * flags. */
static bool is_integer(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_MOVNTI || m == ZYDIS_MNEMONIC_POPCNT || m == ZYDIS_MNEMONIC_LZCNT ||
           m == ZYDIS_MNEMONIC_TZCNT || m == ZYDIS_MNEMONIC_ADCX || m == ZYDIS_MNEMONIC_ADOX ||
           m == ZYDIS_MNEMONIC_CRC32;
}

/* What reads or writes FIP, FDP and FOP itself is done by hand (environment.c). */
static bool is_environment(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_FNSTENV || m == ZYDIS_MNEMONIC_FLDENV ||
           m == ZYDIS_MNEMONIC_FNSAVE || m == ZYDIS_MNEMONIC_FRSTOR;
}

static bool may_copy(const struct encode_plan *p, const ZydisDecodedInstruction *insn)
{
    if (is_environment(insn->mnemonic))
        return false;
    switch (insn->meta.isa_ext) {
    case ZYDIS_ISA_EXT_KEYLOCKER:
    case ZYDIS_ISA_EXT_KEYLOCKER_WIDE:
    case ZYDIS_ISA_EXT_AMX_BF16:
    case ZYDIS_ISA_EXT_AMX_INT8:
    case ZYDIS_ISA_EXT_AMX_TILE:
        return false;
    default:
        break;
    }
    if (p->form != ENCODE_LEGACY)
        return p->vectors || p->mask_used || p->gprs;
    return p->vectors || p->x87 || is_vector_to_integer(insn->mnemonic) ||
           is_integer(insn->mnemonic);
}

/* FNINIT and the like look at no pending exception (SDM 1, 8.3.12). */
static bool is_waiting(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
        return false;
    default:
        return true;
    }
}

/* The control instructions leave the pointers alone (SDM 1, 8.1.8; APM 1, 6.2.5), as MMX does. */
static enum copy_pointers find_pointers(ZydisMnemonic m, uint8_t need)
{
    switch (m) {
    case ZYDIS_MNEMONIC_FNINIT:
        return POINTERS_CLEARED;
    case ZYDIS_MNEMONIC_FLDCW:
        return POINTERS_KEPT;
    default:
        return (need & NEED_X87) && is_waiting(m) ? POINTERS_SET : POINTERS_KEPT;
    }
}

static uint8_t find_need(const struct encode_plan *p, const ZydisDecodedInstruction *insn)
{
    if (p->form == ENCODE_EVEX || p->mask_used)
        return NEED_EVEX;
    if (p->form == ENCODE_VEX)
        return p->vectors ? NEED_VEX : 0;
    uint8_t need = p->vectors || is_vector_to_integer(insn->mnemonic) ? NEED_SSE : 0;
    if (p->x87 &&
        (insn->meta.isa_ext == ZYDIS_ISA_EXT_X87 || insn->mnemonic == ZYDIS_MNEMONIC_FISTTP))
        need |= insn->mnemonic == ZYDIS_MNEMONIC_FWAIT ? NEED_FWAIT : NEED_X87;
    else if (p->x87)
        need |= NEED_MMX;
    if ((insn->mnemonic == ZYDIS_MNEMONIC_CVTPI2PD || insn->mnemonic == ZYDIS_MNEMONIC_CVTPI2PS) &&
        p->memory)
        return need; /* no MMX register, and no look at pending exceptions */
    if (p->x87 && is_waiting(insn->mnemonic))
        need |= NEED_NOTHING_PENDING;
    return need;
}

/* Which 128-bit and wider operands must be aligned (SDM 1, 14.9; 2A tables 2-17, 2-46). */
static uint8_t find_alignment(const ZydisDecodedInstruction *insn, unsigned size)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
        return (uint8_t)size;
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return 1;
    default:
        if (insn->meta.isa_ext == ZYDIS_ISA_EXT_SHA && host_processor.sha_unaligned)
            return 1;
        return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && size == 16 ? 16 : 1;
    }
}

/* The classes whose name ends in NF have no fault suppression: the operand is read whole. */
static bool suppresses_faults(const ZydisDecodedInstruction *insn)
{
    switch (insn->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E1NF:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E4NF:
    case ZYDIS_EXCEPTION_CLASS_E5NF:
    case ZYDIS_EXCEPTION_CLASS_E6NF:
    case ZYDIS_EXCEPTION_CLASS_E9NF:
    case ZYDIS_EXCEPTION_CLASS_E10NF:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return false;
    default:
        break;
    }
    switch (
        insn->mnemonic) { /* a mask bit of the result does not stand for one element of memory */
    case ZYDIS_MNEMONIC_VDBPSADBW:
    case ZYDIS_MNEMONIC_VCVTNE2PS2BF16:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEQB:
    case ZYDIS_MNEMONIC_VGF2P8AFFINEINVQB:
        return false;
    default:
        return true;
    }
}

/* Memory elements, and the elements they are repeated to. ORDER ZydisBroadcastMode. */
static void find_broadcast(struct copy_memory *m, ZydisBroadcastMode mode)
{
    static const uint8_t shape[][2] = {{0, 0}, {1, 2}, {1, 4},  {1, 8}, {1, 16}, {1, 32}, {1, 64},
                                       {2, 4}, {2, 8}, {2, 16}, {4, 8}, {4, 16}, {8, 16}};
    if (mode == ZYDIS_BROADCAST_MODE_INVALID || mode >= sizeof shape / sizeof shape[0])
        return;
    m->elements = shape[mode][0];
    m->repeat = shape[mode][1];
    m->element = m->size / m->elements;
}

static bool is_masked(const ZydisDecodedInstruction *insn)
{
    return insn->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX &&
           insn->avx.mask.reg != ZYDIS_REGISTER_NONE && insn->avx.mask.reg != ZYDIS_REGISTER_K0;
}

static bool is_vector_masked(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VMASKMOVPD ||
           m == ZYDIS_MNEMONIC_VPMASKMOVD || m == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* One mask bit stands for four bytes of memory although the elements are smaller. */
static bool is_dot_product(ZydisMnemonic m)
{
    return m == ZYDIS_MNEMONIC_VPDPBUSD || m == ZYDIS_MNEMONIC_VPDPBUSDS ||
           m == ZYDIS_MNEMONIC_VPDPWSSD || m == ZYDIS_MNEMONIC_VPDPWSSDS ||
           m == ZYDIS_MNEMONIC_VDPBF16PS;
}

/* What one mask bit stands for. Zydis gives the whole operand for the extracts, and the elements of
 * the source for the dot products. */
static uint8_t masked_element(const ZydisDecodedInstruction *insn, const ZydisDecodedOperand *o)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_VEXTRACTF32X4:
    case ZYDIS_MNEMONIC_VEXTRACTF32X8:
    case ZYDIS_MNEMONIC_VEXTRACTI32X4:
    case ZYDIS_MNEMONIC_VEXTRACTI32X8:
        return 4;
    case ZYDIS_MNEMONIC_VEXTRACTF64X2:
    case ZYDIS_MNEMONIC_VEXTRACTF64X4:
    case ZYDIS_MNEMONIC_VEXTRACTI64X2:
    case ZYDIS_MNEMONIC_VEXTRACTI64X4:
        return 8;
    default:
        return is_dot_product(insn->mnemonic) ? 4 : (uint8_t)(o->element_size / 8);
    }
}

enum x86_sreg copy_segment(ZydisRegister r)
{
    switch (r) {
    case ZYDIS_REGISTER_ES:
        return SEG_ES;
    case ZYDIS_REGISTER_CS:
        return SEG_CS;
    case ZYDIS_REGISTER_SS:
        return SEG_SS;
    case ZYDIS_REGISTER_FS:
        return SEG_FS;
    case ZYDIS_REGISTER_GS:
        return SEG_GS;
    default:
        return SEG_DS;
    }
}

/* How much of an operand is checked before the rest is, where the processor works by parts. */
static uint8_t find_first(const struct copy_memory *m)
{
    if (!host_processor.parts_in_order || m->access != ACCESS_PLAIN)
        return 0;
    if (m->size == 10)
        return 8;
    return m->size == 64 && m->store ? 32 : 0;
}

static bool is_element_wise(const ZydisDecodedInstruction *insn, const struct copy_memory *m)
{
    return host_processor.parts_in_order && m->store &&
           insn->meta.category == ZYDIS_CATEGORY_COMPRESS;
}

static bool find_memory(struct copy_memory *m, const ZydisDecodedInstruction *insn,
                        const ZydisDecodedOperand *operands)
{
    const ZydisDecodedOperand *o = operands;
    while (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
        o++;
    if (o->size % 8 || o->size / 8 > sizeof((struct x86_vector *)0)->scratch)
        return false;
    m->access = ACCESS_PLAIN;
    m->segment = copy_segment(o->mem.segment);
    m->size = (uint8_t)(o->size / 8);
    m->alignment = find_alignment(insn, m->size);
    m->store = o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    m->element = masked_element(insn, o);
    if (is_vector_masked(insn->mnemonic)) {
        m->access = ACCESS_VECTOR;
        m->mask = (uint8_t)ZydisRegisterGetId(operands[1].reg.value);
    } else if (is_masked(insn) && (m->store || suppresses_faults(insn))) {
        m->whole = !suppresses_faults(insn);
        m->access = insn->meta.category == ZYDIS_CATEGORY_COMPRESS ||
                            insn->meta.category == ZYDIS_CATEGORY_EXPAND
                        ? ACCESS_COMPRESS
                        : ACCESS_OPMASK;
        m->mask = (uint8_t)ZydisRegisterGetId(insn->avx.mask.reg);
    } else if (is_element_wise(insn, m)) {
        m->access = ACCESS_COMPRESS;
    }
    if (m->access == ACCESS_PLAIN) {
        m->element = 0;
        m->first = find_first(m);
        return m->size != 0;
    }
    if (!m->element || m->size % m->element)
        return false;
    m->elements = m->repeat = m->size / m->element;
    find_broadcast(m, insn->avx.broadcast.mode);
    return true;
}

static bool find_key(struct copy_key *k, const ZydisDecodedInstruction *insn,
                     const ZydisDecodedOperand *operands, const uint8_t *bytes)
{
    if (!encode_plan(&k->plan, insn, operands, bytes) || !may_copy(&k->plan, insn))
        return false;
    k->need = find_need(&k->plan, insn);
    if (k->plan.memory && !find_memory(&k->memory, insn, operands))
        return false;
    if (k->plan.x87 && (k->need & NEED_X87) && insn->raw.modrm.offset)
        k->fop = (uint16_t)((insn->opcode & 7) << 8 | bytes[insn->raw.modrm.offset]);
    k->pointers = (uint8_t)find_pointers(insn->mnemonic, k->need);
    return true;
}

static unsigned hash(const struct copy_key *k)
{
    const uint8_t *p = (const uint8_t *)k;
    uint32_t h = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < sizeof *k; i++)
        h = (h ^ p[i]) * 16777619u;
    return (h ^ h >> 16) % CACHE_BUCKETS;
}

/* The stub's own moves of vectors and masks must be of the host's processor, or the trial would end
 * at one of them. */
static bool can_load(const struct encode_plan *p)
{
    if (p->form == ENCODE_EVEX || p->mask_used)
        return host_processor.avx512;
    return p->form != ENCODE_VEX || p->vectors == 0 || host_processor.avx;
}

static struct copy_code *make(struct copy_cache *c, const struct copy_key *k, copy_hand hand)
{
    struct copy_code *code = c->codes < CODES_MAX ? calloc(1, sizeof *code) : NULL;
    if (!code)
        return NULL;
    code->key = *k;
    code->hand = hand;
    if (hand)
        return code;
    uint8_t bytes[ENCODE_STUB_MAX];
    size_t at, resume, n = encode_stub(&k->plan, bytes, &at, &resume);
    uint8_t *place = exec_memory_alloc(&c->memory, n);
    if (!place) {
        free(code);
        return NULL;
    }
    memcpy(place, bytes, n);
    const uint8_t *exec = exec_memory_code(&c->memory, place);
    code->stub = (uint64_t(*)(struct vcpu *, void *, uint64_t))(uintptr_t)exec;
    code->at = exec + at;
    code->resume = exec + resume;
    code->undefined = !can_load(&k->plan) || !copy_trial(c->scratch, code);
    return code;
}

const struct copy_code *copy_prepare(struct copy_cache *c, const ZydisDecodedInstruction *insn,
                                     const ZydisDecodedOperand *operands, const uint8_t *bytes)
{
    struct copy_key k;
    memset(&k, 0, sizeof k);
    copy_hand hand = copy_hand_prepare(&k, insn, operands);
    if (!hand) {
        memset(&k, 0, sizeof k);
        if (!find_key(&k, insn, operands, bytes))
            return NULL;
    }
    pthread_mutex_lock(&c->lock);
    struct copy_code **bucket = &c->buckets[hash(&k)];
    struct copy_code *code = *bucket;
    while (code && (code->hand != hand || memcmp(&code->key, &k, sizeof k) != 0))
        code = code->next;
    if (!code) {
        code = make(c, &k, hand);
        if (code) {
            code->next = *bucket;
            *bucket = code;
            c->codes++;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return code;
}
