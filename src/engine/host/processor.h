/* SPDX-License-Identifier: MIT */
/*
 * What the host's processor does in its own way where the manuals of the vendors differ or leave it
 * open, as far as doppel does it by hand: user code is to see what it would see on this processor
 * (decision 4). Any thread.
 */
#ifndef DOPPEL_ENGINE_HOST_PROCESSOR_H
#define DOPPEL_ENGINE_HOST_PROCESSOR_H

#include <stdbool.h>

struct host_processor {
    /* FXSAVE and the XSAVE family store FIP, FDP and FOP whether or not an exception is pending.
     * AMD's: zeros if none is (APM 5 FXSAVE, XSAVE; APM 3 CPUID 80000008 EBX[2], RstrFpErrPtrs). */
    bool saves_pointers;
    /* A store of x87, of MMX, or by VCVTPS2PH faults by its operand before it finds exceptions of
     * its value or enters MMX state. AMD's. */
    bool stores_fault_first;
    /* Operands are checked part by part: 80 bits as 8 bytes and 2 (in every mode), a store of 64
     * bytes as two halves, a masked or compressing one element by element. The page of one part may
     * fault before another is found beyond the limit or not canonical. AMD's. */
    bool parts_in_order;
    /* #AC for operands of 16 bytes and more that are not at a multiple of 16 (APM 2, 8.2.18), and
     * for those masked by an opmask that are not at a multiple of their elements. AMD's; Intel's
     * raise none for these, and let a masked operand of up to 8 bytes be at a multiple of its size.
     */
    bool aligns_vectors;
    /* The gathers and scatters of AVX-512 raise no #AC, as those of AVX2 do not. AMD's. */
    bool gathers_unaligned;
    /* The SHA instructions take operands that are not aligned. AMD's. */
    bool sha_unaligned;
    /* An AVX2 gather (not one of AVX-512) that faults leaves the mask's elements from the one that
     * faulted as they were, those before it zero, and what lies above VL alone. AMD's; Intel's has
     * made all elements ones or zeros, and zeroed above VL. */
    bool gathers_in_order;
    /* A REP CMPS or SCAS that is stopped by a fault or an event between two iterations has the
     * flags of the last. AMD's; Intel's has those from before it. */
    bool repeats_show_flags;
    /* REPE CMPSB reads the source first; REPNE CMPSB, the other sizes, and CMPS without a prefix
     * read the destination first, as all do on other processors. Zen 4's. */
    bool cmpsb_source_first;
    /* Flags that the manuals call undefined stay as they were: of MUL and IMUL; of BSF and BSR; of
     * LZCNT and TZCNT. Probed; so it is on AMD's. On Intel's they depend on the operands alone. */
    bool multiply_keeps_flags, scan_keeps_flags, count_keeps_flags;
    /* PUSH of a segment register writes, and POP reads, the whole operand, not the selector alone.
     * AMD's. */
    bool whole_selectors;
    /* MOVSXD with 16 bits reads 32 from memory; BOUND reads both limits before it compares. AMD's.
     */
    bool movsxd_reads_32, bound_reads_both;
    /* The undefined flags of AAA, AAS, DAA and DAS: see op_legacy.c. AMD's are those of the sum. */
    bool bcd_flags_of_sum;
    /* The XSAVE family must be able to write the legacy region though it stores none of it, and
     * XRSTOR to read it. AMD's. */
    bool xsave_touches_legacy;
    /* MASKMOVDQU looks at its lower half first. AMD's. */
    bool maskmov_upwards;
    /* XRSTOR of a compact image reads to the end of the last component that it loads, not of the
     * last asked for. AMD's. */
    bool xrstor_reads_loaded;
    /* XSAVE outside 64-bit mode takes ZMM16 to ZMM31 for what they are, not for initial. AMD's. */
    bool upper_registers_in_use;
    /* XSAVE and its kin find an area misaligned (#GP) before they find it in SS and not canonical
     * (#SS). AMD's. */
    bool alignment_first;
    /* XRSTOR refuses bit 63 of XSTATE_BV in the compact format too, where XCOMP_BV has it. AMD's.
     */
    bool refuses_state_63;
    /* Instructions of AVX, and of AVX-512 F and BW, can be run: doppel's own moves are among them.
     */
    bool avx, avx512;
};

/* A constant once host_processor_find has been called, which copy_cache_create does, so that code
 * with the guest's vector state in its registers may look. */
extern struct host_processor host_processor;
void host_processor_find(void);

#endif
