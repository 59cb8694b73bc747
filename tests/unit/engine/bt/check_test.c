/* SPDX-License-Identifier: MIT */
/* The checker refuses one seeded violation of each rule by its name; check_share_test.c has those
 * of checks that serve several accesses. What it accepts is in check_accept_test.c. */
#include "seed.h"

#define POLL_BYTES 24u /* mov, cmp, jne */
#include "x86_fixture.h"

static void memory_size(void **state)
{
    MAKE(LOAD);
    *FIND(LOAD_HOST) |= 8; /* REX.W */
    refused("memory: 8 bytes where 4 were checked");
}

static void memory_displacement(void **state)
{
    MAKE(0x0f, 0xb6, 0x41, 0); /* movzbl 0(%rcx), %eax */
    memcpy(FIND(0x42, 0x0f, 0xb6, 0x04, 0x19), (uint8_t[]){0x42, 0x8a, 0x44, 0x19, 1}, 5);
    refused("memory: 1 bytes where 0 were checked");
}

static void memory_write(void **state)
{
    MAKE(LOAD);
    FIND(LOAD_HOST)[1] = 0x89;
    refused("memory: a write under the read table");
}

static void memory_other_register(void **state)
{
    MAKE(LOAD);
    FIND(LOAD_HOST)[3] = 0x1a; /* (%rdx, %r11) */
    refused("memory: no check leads here");
}

static void memory_bit_offset(void **state)
{
    MAKE(0x0f, 0xb7, 0x01); /* movzwl (%rcx), %eax */
    FIND(0x42, 0x0f, 0xb7, 0x04, 0x19)[2] = 0xa3;
    refused("memory: a bit offset");
}

static void check_without_branch(void **state)
{
    MAKE(LOAD);
    nops(FIND(0x0f, 0x87), 6); /* ja */
    refused("table: the host address is read before the check");
}

static void check_of_less(void **state)
{
    MAKE(LOAD);
    add32(FIND(COMPARE) + 3, 1); /* $4092 becomes $4093 */
    refused("memory: 4 bytes where 3 were checked");
}

static void slot_of_another_reach(void **state)
{
    MAKE(LOAD);
    add32(FIND(ADD_SLOT) + 5, 2 * SLOTS);
    refused("table: %gs:");
}

/* The tag of one slot, the addend of another. */
static void slot_pair(void **state)
{
    static const uint32_t others[] = {sizeof(struct tlb_fast), -(uint32_t)SLOTS};
    for (unsigned n = 0; n < 2; n++) {
        MAKE(0x89, 0x01); /* mov %eax, (%rcx) */
        add32(FIND(ADD_SLOT) + 5, others[n]);
        add32(FIND(SUB_SLOT) + 5, others[n]);
        refused("table: the host address is read before the check");
    }
    MAKE(0x89, 0x01); /* the address that the stub is given is none */
    add32(FIND(SUB_SLOT) + 5, sizeof(struct tlb_fast));
    refused("memory: no check leads here");
}

static void slot_field(void **state)
{
    MAKE(LOAD);
    add32(FIND(ADD_SLOT) + 5, 8);
    refused("table: the host address is read before the check");
    MAKE(LOAD);
    add32(FIND(ADD_SLOT) + 5, 4);
    refused("table: ");
}

static void slot_of_another_address(void **state)
{
    MAKE(LOAD);
    FIND(0x49, 0x89, 0xca)[2] = 0xd2; /* mov %rcx, %r10 becomes mov %rdx, %r10 */
    refused("memory: no check leads here");
}

static uint8_t *cold_of_load(void)
{
    MAKE(LOAD);
    uint8_t *cold = FIND(0x41, 0xbb); /* mov $what, %r11d; call check; jmp back */
    assert_int_equal(cold[6], 0xe8);
    assert_int_equal(cold[11], 0xe9);
    return cold;
}

static void check_stub(void **state)
{
    add32(cold_of_load() + 2, 1); /* what: 4093 */
    refused("memory: 4 bytes where 3 were checked");
    add32(cold_of_load() + 2, TLB_SLOTS << 16);
    refused("check: the slot to be filled is another table's");
    add32(cold_of_load() + 2, BT_CHECK_WRITE);
    refused("check: a read for a write");
    memcpy(cold_of_load(), (uint8_t[]){0x45, 0x89, 0xd3, NOP, NOP, NOP}, 6); /* mov %r10d, %r11d */
    refused("check: the stub is not told what");
    uint8_t *cold = cold_of_load();
    add32(cold + 7, (uint32_t)(rig->vm.stubs.check[0][1] - rig->vm.stubs.check[0][0]));
    refused("check: the slot to be filled is another table's");
    cold = cold_of_load();
    add32(cold + 7, (uint32_t)(rig->vm.stubs.check[1][0] - rig->vm.stubs.check[0][0]));
    refused("flow: a call of something else than the check stub");
}

static void table_mask(void **state)
{
    by_table(true);
    MAKE(LOAD);
    FIND(AND_INDEX)[5] |= 1;
    refused("table: the index is not masked");
    MAKE(LOAD);
    FIND(AND_INDEX)[4] &= 0x1f; /* stays inside, but is another entry than the address's */
    refused("table: the host address is read before the check");
    by_table(false);
}

static void table_of_another_reach(void **state)
{
    by_table(true);
    MAKE(LOAD);
    add32(FIND(ADD_ENTRY) + 5, 2 * FAST);
    refused("table: %gs:");
    by_table(false);
}

static void table_pair(void **state)
{
    by_table(true);
    MAKE(0x89, 0x01); /* mov %eax, (%rcx): tag of the read table, addend of the write table */
    add32(FIND(ADD_ENTRY) + 5, -(uint32_t)FAST);
    refused("table: the host address is read before the check");
    by_table(false);
}

static void table_without_branch(void **state)
{
    by_table(true);
    MAKE(LOAD);
    nops(FIND(0x0f, 0x87), 6);
    refused("table: the host address is read before the check");
    MAKE(LOAD);
    add32(FIND(0x49, 0x81, 0xfa) + 3, 1); /* cmp $4092, %r10 */
    refused("memory: 4 bytes where 3 were checked");
    by_table(false);
}

static void table_of_jumps(void **state)
{
    MAKE(JMP_RAX);
    uint8_t *compare = FIND(0x65, 0x4e, 0x3b, 0x14, 0x1d);
    nops(compare + 9, 6); /* jne */
    refused("table: the code of a jump that was not compared");
}

static void vcpu_outside(void **state)
{
    MAKE(0x41, 0xba, 1, 0, 0, 0); /* mov $1, %r10d */
    uint32_t end = sizeof(struct vcpu) - 7;
    memcpy(FIND(0x65, 0x4c, 0x89, 0x14, 0x25) + 5, &end, 4);
    refused("vcpu: %gs:");
    assert_non_null(strstr(rig->why, "lies outside"));
}

static void vcpu_not_writable(void **state)
{
    static const size_t fields[] = {offsetof(struct vcpu, tlb),    offsetof(struct vcpu, requests),
                                    offsetof(struct vcpu, unwind), LOCAL_OFFSET(self),
                                    LOCAL_OFFSET(jumps),           LOCAL_OFFSET(held),
                                    LOCAL_OFFSET(not_held)};
    for (unsigned n = 0; n < sizeof(fields) / sizeof(fields[0]); n++) {
        uint32_t field = (uint32_t)fields[n];
        MAKE(0x41, 0xba, 1, 0, 0, 0);
        memcpy(FIND(0x65, 0x4c, 0x89, 0x14, 0x25) + 5, &field, 4);
        refused("vcpu: %gs:");
        assert_non_null(strstr(rig->why, "not to be written"));
    }
}

static void vcpu_not_readable(void **state)
{
    static const size_t fields[] = {offsetof(struct vcpu, unwind), offsetof(struct vcpu, platform),
                                    LOCAL_OFFSET(self), LOCAL_OFFSET(jumps) + 8,
                                    LOCAL_OFFSET(miss_pc) + 4};
    for (unsigned n = 0; n < sizeof(fields) / sizeof(fields[0]); n++) {
        uint32_t field = (uint32_t)fields[n];
        MAKE(0x44, 0x89, 0xd0); /* mov %r10d, %eax */
        memcpy(FIND(0x65, 0x4c, 0x8b, 0x14, 0x25) + 5, &field, 4);
        refused("vcpu: %gs:");
        assert_non_null(strstr(rig->why, "holds a host address"));
    }
}

static void host_address_stored(void **state)
{
    MAKE(0x41, 0x52);                             /* push %r10: mov %r10, -8(%r15, %r11) */
    FIND(0x4f, 0x89, 0x54, 0x1f, 0xf8)[2] = 0x5c; /* mov %r11, … */
    refused("host address: used as data");
    MAKE(0x65, 0x4c, 0x89, 0x10);                /* mov %r10, %gs:(%rax) */
    FIND_LAST(0x4f, 0x8d, 0x14, 0x1a)[0] = 0x4b; /* lea (%r10, %r11), %rdx */
    refused("host address: used as data");
    MAKE(0x65, 0x4c, 0x89, 0x10);
    FIND_LAST(0x4f, 0x8d, 0x14, 0x1a)[3] = 0x19; /* lea (%r9, %r11), %r10 */
    refused("host address: used as data");
}

/* Or kept in a register of the guest's. */
static void host_address_kept(void **state)
{
    MAKE(LOAD);
    FIND(LOAD_SLOT)[1] = 0x48; /* mov %gs:slot + 8, %rbx */
    refused("host address: used as data");
    by_table(true);
    MAKE(LOAD);
    FIND(0x65, 0x4e, 0x8b, 0x1c, 0x1d)[1] = 0x4a;
    refused("host address: used as data");
    by_table(false);
    MAKE(MOV_REG);
    memcpy(FIND(MOV_REG), (uint8_t[]){0x4c, 0x89, 0xd9}, 3); /* mov %r11, %rcx: as C left it */
    refused("host address: used as data");
}

/* Any of these in place of a move between registers. */
static void foreign_instructions(void **state)
{
    static const struct {
        uint8_t bytes[8], length;
        const char *rule;
    } foreign[] = {
        {{0x0f, 0x05}, 2, "opcode: SYSCALL"},
        {{0x0f, 0x34}, 2, "opcode: "},
        {{0xcd, 0x80}, 2, "opcode: INTERRUPT"},
        {{0xcc}, 1, "opcode: INTERRUPT"},
        {{0xe4, 0x60}, 2, "opcode: IO"},
        {{0xee}, 1, "opcode: IO"},
        {{0xf4}, 1, "opcode: "},
        {{0xfa}, 1, "opcode: FLAGOP"},
        {{0xfb}, 1, "opcode: FLAGOP"},
        {{0xfd}, 1, "opcode: FLAGOP"},
        {{0xfc}, 1, "opcode: FLAGOP"},
        {{0x9d}, 1, "opcode: POP"},
        {{0x48, 0xcf}, 2, "opcode: RET"},
        {{0xc3}, 1, "return: does not say where it is"},
        {{0xc2, 8, 0}, 3, "opcode: RET"},
        {{0xcb}, 1, "opcode: RET"},
        {{0x0f, 0x01, 0xef}, 3, "opcode: PKU"},
        {{0x0f, 0x01, 0xd1}, 3, "opcode: XSAVE"},
        {{0x0f, 0xae, 0x29}, 3, "opcode: XSAVE"},
        {{0x0f, 0xae, 0x09}, 3, "opcode: SSE"},
        {{0x0f, 0x30}, 2, "opcode: SYSTEM"},
        {{0x0f, 0x32}, 2, "opcode: SYSTEM"},
        {{0x0f, 0x22, 0xd8}, 3, "opcode: DATAXFER"},
        {{0x0f, 0x23, 0xf8}, 3, "opcode: DATAXFER"},
        {{0x0f, 0x01, 0xf8}, 3, "opcode: SYSTEM"},
        {{0xf3, 0x48, 0x0f, 0xae, 0xd0}, 5, "opcode: RDWRFSGS"},
        {{0xf3, 0x48, 0x0f, 0xae, 0xd8}, 5, "opcode: RDWRFSGS"},
        {{0xa4}, 1, "opcode: STRINGOP"},
        {{0xf3, 0xa4}, 2, "opcode: STRINGOP"},
        {{0x0f, 0xa2}, 2, "opcode: MISC"},
        {{0xd7}, 1, "opcode: MISC"},
        {{0xd9, 0xfe}, 2, "x87: the registers may be the host's"},
        {{0xd9, 0x30}, 2, "opcode: X87_ALU"},
        {{0x9b}, 1, "x87: the registers may be the host's"},
        {{0x0f, 0x77}, 2, "opcode: MMX"},
        {{0x0f, 0x6f, 0xc1}, 3, "register: mm"},
        {{0x8e, 0xe8}, 2, "register: gs"},
        {{0x8e, 0xe0}, 2, "register: fs"},
        {{0x8c, 0xd8}, 2, "register: ds"},
        {{0x89, 0xcc}, 2, "rsp: named"},
        {{0x89, 0xe1}, 2, "rsp: named"},
        {{0x48, 0x8d, 0x0c, 0x24}, 4, "rsp: named"},
        {{0x54}, 1, "rsp: named"},
        {{0x5c}, 1, "rsp: named"},
        {{0x8b, 0x0c, 0x24}, 3, "rsp: a base"},
        {{0x48, 0x83, 0xec, 8}, 4, "rsp: named"},
        {{0x58}, 1, "rsp: a pop without a push"},
        {{0x66, 0x50}, 2, "rsp: not 8 bytes"},
        {{0x48, 0x8b, 0x01}, 3, "memory: no check"},
        {{0x48, 0x89, 0x01}, 3, "memory: no check"},
        {{0x0f, 0xae, 0x11}, 3, "memory: no check"},
        {{0x41, 0x8b, 0x07}, 3, "memory: no check"},
        {{0x8b, 0x05, 0, 0, 0, 0}, 6, "memory: no"},
        {{0x64, 0x8b, 0x01}, 3, "memory: segment fs"},
        {{0x65, 0x8b, 0x01}, 3, "table: "},
        {{0x65, 0x67, 0x8b, 0x04, 0x25, 0, 0, 0}, 8, "memory: not a plain"},
        {{0xc4, 0xe2, 0x75, 0x90, 0x04, 0x10}, 6, "opcode: AVX2GATHER"},
        {{0xff, 0xd0}, 2, "flow: an indirect jump"},
        {{0xff, 0xe0}, 2, "flow: an indirect"},
        {{0xe8, 0, 0, 0, 0}, 5, "flow: a call"},
        {{0xeb, 0x80}, 2, "flow: to no known stub"},
        {{0x0f, 0xff}, 2, "opcode: "},
        {{0xff, 0x2f}, 2, "opcode: UNCOND_BR"},
        {{0xc7, 0xf8, 0, 0, 0, 0}, 6, "opcode: COND_BR"},
        {{0x0f, 0x01, 0xd5}, 3, "opcode: "},
        {{0xe2, 0}, 2, "opcode: COND_BR"},
        {{0x06}, 1, "flow: no instruction"},
    };
    for (unsigned n = 0; n < sizeof(foreign) / sizeof(foreign[0]); n++) {
        MAKE(MOV_REG, MOV_REG, MOV_REG, MOV_REG);
        uint8_t *at = FIND(MOV_REG, MOV_REG, MOV_REG, MOV_REG);
        nops(at, 12);
        memcpy(at, foreign[n].bytes, foreign[n].length);
        if (foreign[n].length == 8)
            at[8] = 0;
        refused(foreign[n].rule);
    }
}

static void stack_unbalanced(void **state)
{
    MAKE(MOV_REG);
    memcpy(FIND(MOV_REG), (uint8_t[]){0x50, NOP, NOP}, 3);
    refused("rsp: pushes at an exit");
    MAKE(MOV_REG, JMP_RAX);
    memcpy(FIND(MOV_REG), (uint8_t[]){0x9c, NOP, NOP}, 3);
    refused("rsp: pushes at an exit");
    MAKE(MOV_REG, LOAD);
    memcpy(FIND(MOV_REG), (uint8_t[]){0x50, NOP, NOP}, 3);
    refused("rsp: pushes at a call");
    MAKE(MOV_REG, MOV_REG, MOV_REG);
    memset(FIND(MOV_REG, MOV_REG, MOV_REG), 0x50, 9);
    refused("rsp: too many pushes");
    MAKE(0x74, 0, MOV_REG, LOAD); /* on one of two paths: over the push */
    memcpy(FIND(MOV_REG), (uint8_t[]){0x75, 1, 0x50}, 3);
    refused("rsp: pushes differ");
}

static void flow_middle(void **state)
{
    uint8_t *cold = cold_of_load();
    emit_patch(cold + 12, cold + 1);
    refused("flow: into the middle");
}

static void flow_stub(void **state)
{
    add32(cold_of_load() + 7, 1);
    refused("flow: a call of something else than the check stub");
    MAKE(0x0f, 0xa2); /* cpuid: a site */
    uint8_t *at = FIND(0x49, 0xbb);
    assert_int_equal(at[10], 0xe9);
    add32(at + 11, 1);
    refused("flow: to no known stub");
}

static void flow_end(void **state)
{
    MAKE(LOAD);
    rig->u.code_end -= 5;  /* the jump after the last look at the token */
    rig->u.mark_count = 0; /* of places that the cut moves */
    refused("flow: leaves the unit");
}

static void exit_records(void **state)
{
    MAKE(0x74, 4, JMP_BACK); /* je, jmp */
    assert_int_equal(rig->u.exit_count, 2);
    uint64_t other = (uintptr_t)&rig->u.exits[1];
    memcpy(rig->u.exits[0].unlinked + (rig->u.exits[0].host_flags ? 19 : 0) + 2, &other, 8);
    refused("exit: another's record");
    MAKE(0x74, 4, JMP_BACK);
    rig->u.exits[1].unlinked++;
    refused("exit: neither");
    MAKE(0x74, 4, JMP_BACK);
    rig->u.exits[1].patch++; /* its jump is one like any other */
    refused("exit: another's record");
    MAKE(JMP_FAR_AWAY);
    rig->u.exits[0].crossing = false;
    refused("exit: crosses pages");
}

/* Of two instructions that swap places one is where it cannot be patched. */
static void exit_misaligned(void **state)
{
    for (unsigned n = 0;; n++) {
        uint8_t guest[] = {0x89, 0xc1, 0x89, 0xc1, 0x89, 0xc1, 0x74, 4};
        assert_in_range(n, 0, 3);
        make(guest + 2 * n, sizeof(guest) - 2 * n);
        struct bt_exit *x = &rig->u.exits[0];
        if (x->patch[-3] != NOP)
            continue;
        memmove(x->patch - 3, x->patch - 2, 6);
        x->patch[3] = NOP;
        x->patch--;
        add32(x->patch, 1);
        refused("exit: its place");
        return;
    }
}

static void exit_of_exit(void **state)
{
    MAKE(MOV_REG, MOV_REG);
    rig->u.exits[0].alone = rig->u.alone = true;
    refused("exit: from a unit made without sharing");
}

static void exit_linked(void **state)
{
    MAKE(JMP_BACK);
    struct bt_exit *x = &rig->u.exits[0];
    x->to = &rig->u;
    emit_patch(x->patch, x->host_flags ? rig->u.enter_host : rig->u.enter_saved);
    assert_int_equal(translation_check(rig), 0);
    emit_patch(x->patch, rig->u.enter_crossing);
    refused("exit: neither");
}

static void site_record(void **state)
{
    MAKE(0x0f, 0xa2);
    FIND(0x49, 0xbb)[2] ^= 8;
    refused("site: no record of this unit");
    MAKE(0xdb, 0xe3); /* fninit: a site that resumes */
    assert_non_null(rig->u.sites[0].resume);
    rig->u.sites[0].resume -= 2;
    refused("flow: ");
    MAKE(0x0f, 0xa2);
    rig->u.sites[0].from = NULL;
    refused("site: of another unit");
}

#define FSIN     0xd9, 0xfe
#define CMP_LIVE 0x65, 0x80, 0x3c, 0x25 /* cmpb $0, %gs:x87_live */

static void x87_live(void **state)
{
    bool saves = host_processor.saves_pointers;
    host_processor.saves_pointers = false; /* only then they are translated */
    MAKE(FSIN);
    FIND(CMP_LIVE)[8] = 1;
    refused("x87: ");
    MAKE(FSIN);
    add32(FIND(CMP_LIVE) + 4, 1);
    refused("x87: ");
    MAKE(FSIN);
    nops(FIND(CMP_LIVE) + 9, 6);
    refused("x87: ");
    MAKE(FSIN);
    emit_patch(FIND(CMP_LIVE) + 11, FIND(FSIN)); /* past the stub */
    refused("x87: ");
    MAKE(0xdb, 0xe3, FSIN); /* looked at after the site */
    assert_true(FIND(CMP_LIVE) >
                rig->vm.memory.write + (rig->u.sites[0].resume - rig->vm.memory.exec) - 1);
    MAKE(FSIN);
    rig->u.mark_count = 0;
    refused("mark: ");
    host_processor.saves_pointers = saves;
}

#define REP_STOS 0xf3, 0x48, 0xab

static void string_stub(void **state)
{
    uint8_t *(*stubs)[BT_STRINGS][4] = rig->vm.stubs.strings[0];
    MAKE(0xf3, 0xa4, 0xf2, 0x66, 0xa5, 0xf3, 0xab, REP_STOS); /* one accepted of each size */
    MAKE(REP_STOS);
    emit_patch(FIND(0x49, 0xbb) + 11, stubs[REACH_SUPERVISOR][BT_STOS][3]);
    refused("flow: a call of something else");
    MAKE(REP_STOS);
    FIND(0x49, 0xbb)[2] ^= 8;
    refused("site: no record of this unit");
    MAKE(REP_STOS);
    rig->u.sites[0].resume = NULL;
    refused("site: a string that goes on elsewhere");
    MAKE(REP_STOS, NOP, LOAD);
    FIND(0x49, 0xbb)[10] = 0xe9; /* jmp */
    refused("flow: to no known stub");
}

static void crossing_token(void **state)
{
    MAKE(LOAD);
    add32(rig->u.enter_crossing + 8, 1); /* cmpl $token, %gs:tokens[…] */
    refused("crossing: ");
    MAKE(LOAD);
    add32(rig->u.enter_crossing + 4, 4);
    refused("crossing: ");
}

static void crossing_second(void **state)
{
    memset(rig->page, NOP, sizeof(rig->page));
    memcpy(rig->page + MEM_PAGE_SIZE - 1, (uint8_t[]){LOAD}, 2);
    translation_make(rig, MEM_PAGE_SIZE - 1, KEY(REACH_USER, BT_VECTOR_AVX), true);
    assert_int_equal(translation_check(rig), 0);
    add32(rig->u.enter_saved + POLL_BYTES + 8, 1);
    refused("crossing: ");
}

/* mov %gs:requests, %r10d; cmp %gs:held, %r10d; jne */
static void poll_with_flags_saved(void **state)
{
    static const struct {
        uint8_t guest[5];
        const char *rule;
    } ways[] = {
        {{JMP_BACK}, "poll: an exit without one"},
        {{JMP_FAR_AWAY}, "poll: an exit without one"},
        {{JMP_RAX}, "poll: an indirect jump without one"},
        {{0x74, 4}, "poll: an exit without one"},
        {{0x7e, 0xfe}, "poll: an exit without one"},
    };
    for (unsigned n = 0; n < sizeof(ways) / sizeof(ways[0]); n++) {
        make(ways[n].guest, sizeof(ways[n].guest));
        nops(rig->u.enter_saved + 18, 6);
        refused(ways[n].rule);
        make(ways[n].guest, sizeof(ways[n].guest));
        add32(rig->u.enter_saved + 5, 8); /* not the requests */
        refused(ways[n].rule);
        make(ways[n].guest, sizeof(ways[n].guest));
        add32(rig->u.enter_saved + 14, 4); /* not what is held */
        refused(ways[n].rule);
        make(ways[n].guest, sizeof(ways[n].guest));
        rig->u.enter_saved[19] = 0x84; /* je */
        refused(ways[n].rule);
    }
}

/* lea 1(%rcx, %r10), %ecx; jecxz */
static void poll_with_flags(void **state)
{
    MAKE(0xff, 0xc8, 0x75, 0xfc); /* dec %eax; jnz */
    assert_int_not_equal(rig->u.enter_host[0], 0x9f);
    uint8_t *at = FIND(0x67, 0xe3);
    at[0] = NOP;
    at[1] = 0xeb; /* jmp */
    refused("poll: an exit without one");
    MAKE(0xff, 0xc8, 0x75, 0xfc);
    FIND(0x42, 0x8d, 0x4c, 0x11, 1)[4] = 2;
    refused("poll: an exit without one");
    MAKE(0xff, 0xc8, 0x75, 0xfc);
    add32(FIND(0x65, 0x44, 0x8b, 0x14, 0x25) + 5, -4u); /* held, not its complement */
    refused("poll: an exit without one");
}

static void poll_loop(void **state)
{
    MAKE(MOV_REG, MOV_REG);
    memcpy(FIND(MOV_REG, MOV_REG), (uint8_t[]){0x48, 0x85, 0xc0, 0x75, 0xfb, NOP},
           6); /* test; jnz */
    refused("poll: a loop within the unit");
    MAKE(MOV_REG);
    memcpy(FIND(MOV_REG), (uint8_t[]){0x75, 0xfe, NOP}, 3); /* to itself */
    refused("poll: a loop within the unit");
}

/* C goes on behind the poll, which has its length. */
#define CALL_ON 0xe8, 0x20, 0, 0, 0 /* in the page */
#define RET     0xc3
#define ROOM    0x65, 0x48, 0x3b, 0x24, 0x25 /* cmp %gs:returns_limit, %rsp */
#define CAME    0x49, 0x81, 0xfa             /* cmp $rip, %r10 */

static void return_room(void **state)
{
    MAKE(CALL_ON);
    nops(FIND(ROOM), 9);
    refused("return: a call, and perhaps no room");
    MAKE(CALL_ON);
    add32(FIND(ROOM) + 5, 8); /* another field: it holds a host address */
    refused("rsp: named");
}

static void return_compared(void **state)
{
    MAKE(CALL_ON);
    nops(FIND(CAME, 0x05, 0x10, 0x40, 0x00), 7);
    refused("return: goes on where the RET did not go");
    MAKE(CALL_ON);
    add32(FIND(CAME, 0x05, 0x10, 0x40, 0x00) + 3, 1);
    refused("return: goes on where the RET did not go");
    MAKE(CALL_ON);
    FIND(CAME, 0x05, 0x10, 0x40, 0x00)[8] ^= 1; /* jne, je */
    refused("return: goes on where the RET did not go");
}

static void return_said(void **state)
{
    MAKE(RET);
    add32(FIND(0x65, 0xc7, 0x04, 0x25) + 9, 1);
    refused("return: does not say where it is");
    MAKE(RET);
    memcpy(FIND(0x65, 0xc7, 0x04, 0x25) - 4, (uint8_t[]){0x4d, 0x89, 0xda, NOP}, 4);
    refused("host address: used as data"); /* mov %r11, %r10: a RET to it */
}

/* What is held is for C to say; that nothing is, for anyone. */
static void poll_held(void **state)
{
    static const uint8_t sti[] = {0xfb, NOP};
    uint32_t field = LOCAL_OFFSET(held);
    for (unsigned n = 0; n < 2; n++, field = LOCAL_OFFSET(not_held)) {
        uint8_t store[8] = {0x65, 0xc7, 0x04, 0x25};
        memcpy(store + 4, &field, 4);
        make_for(REACH_SUPERVISOR, sti, sizeof(sti));
        add32(find(store, 8) + 8, 1);
        refused("vcpu: %gs:");
        make_for(REACH_SUPERVISOR, sti, sizeof(sti));
        find(store, 8)[1] = 0x81; /* addl */
        refused("vcpu: %gs:");
    }
}

static void marks(void **state)
{
    MAKE(LOAD);
    assert_int_equal(rig->u.mark_count, 2);
    rig->u.marks[0].host++;
    refused("mark: the host may stop here");
    MAKE(LOAD);
    rig->u.mark_count = 1;
    refused("mark: a miss");
    MAKE(LOAD, LOAD);
    rig->u.marks[0].host = rig->u.marks[1].host + 1;
    refused("mark: out of order");
}

static void place(void **state)
{
    MAKE(LOAD);
    rig->vm.first += 16;
    refused("place: ");
    rig->vm.first -= 16;
}

static struct x86_fixture *machine(void **engine_vm, const uint8_t *code, size_t n)
{
    struct x86_fixture *f = x86_fixture_create();
    struct error e = {0};
    f->platform.checks = ENGINE_CHECK_TRANSLATIONS;
    if (engine_bt.vm_init(&f->platform, engine_vm, &e) != 0 ||
        engine_bt.vcpu_init(*engine_vm, &f->v, &e) != 0)
        fail_msg("%s", e.text);
    x86_fixture_long_mode(f, false);
    x86_fixture_map(f, 0x1000, 0x1000, PTE_P | PTE_RW);
    assert_int_equal(mem_write(&f->mem, GPA(0x1000), code, n), 0);
    f->v.rip = 0x1000;
    return f;
}

/* The engine asks the checker before it runs a unit, and ends when one is refused. */
static void refusal_ends_the_run(void **state)
{
    static const uint8_t code[] = {JMP_BACK, JMP_BACK};
    void *engine_vm;
    struct x86_fixture *f = machine(&engine_vm, code, sizeof(code));
    struct bt_vm *vm = engine_vm;

    assert_int_equal(engine_bt.run(&f->v, 1000), EXIT_NONE);
    assert_int_equal(f->v.counters.instructions, 1000);
    f->v.rip = 0x1002;
    vm->first = vm->memory.write + vm->memory.size; /* so no unit is in its place */
    assert_int_equal(engine_bt.run(&f->v, 2000), EXIT_ERROR);
    assert_int_equal(f->v.counters.instructions, 1000);
    assert_int_equal(engine_bt.run(&f->v, 2000), EXIT_ERROR);
    engine_bt.vcpu_fini(&f->v);
    engine_bt.vm_fini(engine_vm);
    x86_fixture_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_size),
        cmocka_unit_test(memory_displacement),
        cmocka_unit_test(memory_write),
        cmocka_unit_test(memory_other_register),

        cmocka_unit_test(memory_bit_offset),
        cmocka_unit_test(check_without_branch),
        cmocka_unit_test(check_of_less),
        cmocka_unit_test(slot_of_another_reach),
        cmocka_unit_test(slot_pair),
        cmocka_unit_test(slot_field),
        cmocka_unit_test(slot_of_another_address),
        cmocka_unit_test(check_stub),
        cmocka_unit_test(table_without_branch),
        cmocka_unit_test(table_mask),
        cmocka_unit_test(table_of_another_reach),
        cmocka_unit_test(table_pair),
        cmocka_unit_test(table_of_jumps),
        cmocka_unit_test(vcpu_outside),
        cmocka_unit_test(vcpu_not_writable),
        cmocka_unit_test(vcpu_not_readable),
        cmocka_unit_test(host_address_stored),
        cmocka_unit_test(host_address_kept),
        cmocka_unit_test(foreign_instructions),
        cmocka_unit_test(stack_unbalanced),
        cmocka_unit_test(flow_middle),
        cmocka_unit_test(flow_stub),
        cmocka_unit_test(flow_end),
        cmocka_unit_test(exit_records),
        cmocka_unit_test(exit_misaligned),
        cmocka_unit_test(exit_of_exit),
        cmocka_unit_test(exit_linked),
        cmocka_unit_test(site_record),
        cmocka_unit_test(string_stub),
        cmocka_unit_test(x87_live),
        cmocka_unit_test(crossing_token),
        cmocka_unit_test(crossing_second),
        cmocka_unit_test(poll_with_flags_saved),
        cmocka_unit_test(poll_with_flags),
        cmocka_unit_test(poll_loop),
        cmocka_unit_test(return_room),
        cmocka_unit_test(return_compared),
        cmocka_unit_test(return_said),
        cmocka_unit_test(poll_held),
        cmocka_unit_test(marks),
        cmocka_unit_test(place),
        cmocka_unit_test(refusal_ends_the_run),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
