/* SPDX-License-Identifier: MIT */
/* Architectural constants under the manuals' names (SDM 3A chapters 2-6, SDM 4). */
#ifndef DOPPEL_X86_REGS_H
#define DOPPEL_X86_REGS_H

#include <stdint.h>

enum x86_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* In the order of the encoding of Sreg (SDM 2B table B-8), then the system segments. */
enum x86_sreg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

/* RFLAGS (SDM 1, 3.4.3) */
#define FLAG_CF          (1u << 0)
#define FLAG_ONE         (1u << 1)
#define FLAG_PF          (1u << 2)
#define FLAG_AF          (1u << 4)
#define FLAG_ZF          (1u << 6)
#define FLAG_SF          (1u << 7)
#define FLAG_TF          (1u << 8)
#define FLAG_IF          (1u << 9)
#define FLAG_DF          (1u << 10)
#define FLAG_OF          (1u << 11)
#define FLAG_IOPL        (3u << 12)
#define FLAG_NT          (1u << 14)
#define FLAG_RF          (1u << 16)
#define FLAG_VM          (1u << 17)
#define FLAG_AC          (1u << 18)
#define FLAG_VIF         (1u << 19)
#define FLAG_VIP         (1u << 20)
#define FLAG_ID          (1u << 21)
#define FLAGS_ARITHMETIC (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF | FLAG_OF)

#define CR0_PE (1u << 0)
#define CR0_MP (1u << 1)
#define CR0_EM (1u << 2)
#define CR0_TS (1u << 3)
#define CR0_ET (1u << 4)
#define CR0_NE (1u << 5)
#define CR0_WP (1u << 16)
#define CR0_AM (1u << 18)
#define CR0_NW (1u << 29)
#define CR0_CD (1u << 30)
#define CR0_PG (1u << 31)

#define CR4_VME        (1u << 0)
#define CR4_PVI        (1u << 1)
#define CR4_TSD        (1u << 2)
#define CR4_DE         (1u << 3)
#define CR4_PSE        (1u << 4)
#define CR4_PAE        (1u << 5)
#define CR4_MCE        (1u << 6)
#define CR4_PGE        (1u << 7)
#define CR4_PCE        (1u << 8)
#define CR4_OSFXSR     (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)
#define CR4_UMIP       (1u << 11)
#define CR4_LA57       (1u << 12)
#define CR4_FSGSBASE   (1u << 16)
#define CR4_PCIDE      (1u << 17)
#define CR4_OSXSAVE    (1u << 18)
#define CR4_SMEP       (1u << 20)
#define CR4_SMAP       (1u << 21)

#define EFER_SCE    (1u << 0)
#define EFER_LME    (1u << 8)
#define EFER_LMA    (1u << 10)
#define EFER_NXE    (1u << 11)
#define EFER_AIBRSE (1u << 21) /* AMD's automatic IBRS; kept, switches nothing */

/* Exception vectors (SDM 3A table 6-1) */
enum x86_exception {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_NMI = 2,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_MC = 18,
    VECTOR_XM = 19,
};

/* Page-fault error code (SDM 3A 4.7) */
#define PF_PRESENT  (1u << 0)
#define PF_WRITE    (1u << 1)
#define PF_USER     (1u << 2)
#define PF_RESERVED (1u << 3)
#define PF_FETCH    (1u << 4)

/* DR6, DR7 (SDM 3B 17.2) */
#define DR6_FIXED   0xffff0ff0u
#define DR6_BS      (1u << 14)
#define DR6_BD      (1u << 13)
#define DR7_FIXED   0x400u
#define DR7_GD      (1u << 13)
#define DR7_ENABLED 0xffu

/* XCR0 */
#define XCR0_X87    (1u << 0)
#define XCR0_SSE    (1u << 1)
#define XCR0_AVX    (1u << 2)
#define XCR0_AVX512 (7u << 5)

/* Segment attributes as in bytes 5 and 6 of a descriptor (and the VMCS access rights, SDM 3C
 * 24.4.1): type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D/B 14, G 15; bit 16 = unusable. */
#define ATTR_TYPE       0x000fu
#define ATTR_S          0x0010u
#define ATTR_DPL        0x0060u
#define ATTR_P          0x0080u
#define ATTR_L          0x2000u
#define ATTR_DB         0x4000u
#define ATTR_G          0x8000u
#define ATTR_UNUSABLE   0x10000u
#define ATTR_GET_DPL(a) (((a) >> 5) & 3)

/* MSRs (SDM 4, chapter 2) */
#define MSR_TSC                 0x10u
#define MSR_APIC_BASE           0x1bu
#define MSR_TSC_ADJUST          0x3bu
#define MSR_SYSENTER_CS         0x174u
#define MSR_SYSENTER_ESP        0x175u
#define MSR_SYSENTER_EIP        0x176u
#define MSR_MISC_ENABLE         0x1a0u
#define MSR_PAT                 0x277u
#define MSR_MTRR_DEF_TYPE       0x2ffu
#define MSR_TSC_DEADLINE        0x6e0u
#define MSR_X2APIC_FIRST        0x800u
#define MSR_X2APIC_LAST         0x8ffu
#define MSR_EFER                0xc0000080u
#define MSR_STAR                0xc0000081u
#define MSR_LSTAR               0xc0000082u
#define MSR_CSTAR               0xc0000083u
#define MSR_FMASK               0xc0000084u
#define MSR_FS_BASE             0xc0000100u
#define MSR_GS_BASE             0xc0000101u
#define MSR_KERNEL_GS_BASE      0xc0000102u
#define MSR_TSC_AUX             0xc0000103u
#define MSR_KVM_WALL_CLOCK_NEW  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_NEW 0x4b564d01u

#endif
