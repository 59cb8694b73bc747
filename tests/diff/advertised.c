/* SPDX-License-Identifier: MIT */
/* See advertised.h. */
#include "advertised.h"

#include "engine/host/processor.h"
#include "x86/insn.h"
#include "x86/isa.h"

static struct cpuid_model model;
static struct insn_decoder model_decoder;

int features_init(struct error *e)
{
    host_processor_find();
    int err = cpuid_model_build(&model, "max", 1000000000, 1, e);
    if (err == 0)
        insn_decoder_init(&model_decoder, &model);
    return err;
}

bool features_advertise(ZydisISASet set)
{
    return isa_offered(&model, set);
}

void features_decoder(ZydisDecoder *decoder, bool code32)
{
    *decoder = model_decoder.modes[code32 ? INSN_MODE_32 : INSN_MODE_64];
}

bool features_amd(void)
{
    return model.amd;
}

uint64_t features_xcr0(void)
{
    return model.xcr0_supported;
}

uint64_t features_host_xcr0(void)
{
    uint32_t low, high;

    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
