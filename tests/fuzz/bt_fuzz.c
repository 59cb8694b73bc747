/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as guest code (libFuzzer): each translation keeps the rules of docs/checker.md. The
 * first two bytes choose the place in the page, the third the mode, the fourth whether instructions
 * are counted and whether accesses go by the table.
 */
#include "../support/translation.h"

#define HEAD 4u
#define KEYS 12u /* reaches by vector classes */

static struct translation_rig *rig;

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    rig = translation_create();
    return 0;
}

static bool crosses(unsigned offset)
{
    struct insn in;
    struct insn_full full;
    unsigned left = MEM_PAGE_SIZE - offset;
    return left < INSN_LENGTH_MAX && insn_decode(&rig->vm.decoder, INSN_MODE_64, rig->page + offset,
                                                 left, &in, &full) == INSN_PARTIAL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size <= HEAD)
        return 0;
    unsigned offset = (data[0] | data[1] << 8) & (MEM_PAGE_SIZE - 1);
    uint8_t mode = data[2] % KEYS;
    uint8_t key = (uint8_t)(mode % 3 | (mode / 3) << BT_KEY_VECTOR_SHIFT);
    size_t n = size - HEAD, room = sizeof(rig->page) - offset;

    memset(rig->page, 0x90, sizeof(rig->page));
    memcpy(rig->page + offset, data + HEAD, n < room ? n : room);
    rig->vm.counting = data[3] & 1;
    memset(rig->vm.scattered, data[3] & 2 ? 0xff : 0, sizeof(rig->vm.scattered));
    if (translation_try(rig, offset, key, crosses(offset)) != 0)
        abort();
    return 0;
}
