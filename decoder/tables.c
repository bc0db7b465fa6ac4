/* SPDX-License-Identifier: MIT */
#include "decoder/tables.h"

struct decoder_register decoder_registers[ZYDIS_REGISTER_MAX_VALUE + 1];
bool decoder_isa[ZYDIS_ISA_SET_MAX_VALUE + 1];

#define C(mnemonic, class) [ZYDIS_MNEMONIC_##mnemonic] = class
#define SYSTEM(mnemonic) C(mnemonic, INSN_SYSTEM)
#define UNDEFINED(mnemonic) C(mnemonic, DECODER_CLASS_UNDEFINED)

const uint8_t decoder_classes[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    UNDEFINED(INVALID),
    UNDEFINED(UD0),
    UNDEFINED(UD1),
    UNDEFINED(UD2),
    C(MOVZX, INSN_MOVE),
    C(MOVSX, INSN_MOVE),
    C(MOVSXD, INSN_MOVE),
    C(LEA, INSN_MOVE),
    C(XCHG, INSN_MOVE),
    C(PUSHA, INSN_STACK),
    C(PUSHAD, INSN_STACK),
    C(POPA, INSN_STACK),
    C(POPAD, INSN_STACK),
    C(ENTER, INSN_STACK),
    C(LEAVE, INSN_STACK),
    C(PUSHF, INSN_STACK),
    C(PUSHFD, INSN_STACK),
    C(PUSHFQ, INSN_STACK),
    C(POPF, INSN_STACK),
    C(POPFD, INSN_STACK),
    C(POPFQ, INSN_STACK),
    C(XLAT, INSN_STRING),
    C(INT, INSN_FAR),
    C(INT3, INSN_FAR),
    C(INT1, INSN_FAR),
    C(INTO, INSN_FAR),
    C(IRET, INSN_FAR),
    C(IRETD, INSN_FAR),
    C(IRETQ, INSN_FAR),
    C(SYSENTER, INSN_FAR),
    C(SYSEXIT, INSN_FAR),
    C(SYSCALL, INSN_FAR),
    C(SYSRET, INSN_FAR),
    C(LDS, INSN_SEGMENT),
    C(LES, INSN_SEGMENT),
    C(LFS, INSN_SEGMENT),
    C(LGS, INSN_SEGMENT),
    C(LSS, INSN_SEGMENT),
    C(RDFSBASE, INSN_SEGMENT),
    C(RDGSBASE, INSN_SEGMENT),
    C(WRFSBASE, INSN_SEGMENT),
    C(WRGSBASE, INSN_SEGMENT),
    C(CLI, INSN_FLAGS),
    C(STI, INSN_FLAGS),
    C(CLD, INSN_FLAGS),
    C(STD, INSN_FLAGS),
    SYSTEM(CPUID),
    SYSTEM(RDTSC),
    SYSTEM(RDTSCP),
    SYSTEM(RDPMC),
    SYSTEM(IN),
    SYSTEM(OUT),
    SYSTEM(HLT),
    SYSTEM(LGDT),
    SYSTEM(LIDT),
    SYSTEM(SGDT),
    SYSTEM(SIDT),
    SYSTEM(LLDT),
    SYSTEM(SLDT),
    SYSTEM(LTR),
    SYSTEM(STR),
    SYSTEM(LMSW),
    SYSTEM(SMSW),
    SYSTEM(CLTS),
    SYSTEM(INVLPG),
    SYSTEM(INVPCID),
    SYSTEM(INVD),
    SYSTEM(WBINVD),
    SYSTEM(RDMSR),
    SYSTEM(WRMSR),
    SYSTEM(LAR),
    SYSTEM(LSL),
    SYSTEM(VERR),
    SYSTEM(VERW),
    SYSTEM(ARPL),
    SYSTEM(XGETBV),
    SYSTEM(XSETBV),
    SYSTEM(MONITOR),
    SYSTEM(MWAIT),
    SYSTEM(CLAC),
    SYSTEM(STAC),
    SYSTEM(SWAPGS),
    SYSTEM(RSM),
    SYSTEM(BOUND),
    C(FLDENV, INSN_FPU_ENV),
    C(FNSTENV, INSN_FPU_ENV),
    C(FNSAVE, INSN_FPU_ENV),
    C(FRSTOR, INSN_FPU_ENV),
    C(FXSAVE, INSN_FPU_ENV),
    C(FXSAVE64, INSN_FPU_ENV),
    C(FXRSTOR, INSN_FPU_ENV),
    C(FXRSTOR64, INSN_FPU_ENV),
    C(XSAVE, INSN_FPU_ENV),
    C(XSAVE64, INSN_FPU_ENV),
    C(XSAVEOPT, INSN_FPU_ENV),
    C(XSAVEOPT64, INSN_FPU_ENV),
    C(XRSTOR, INSN_FPU_ENV),
    C(XRSTOR64, INSN_FPU_ENV),
};

#define T(mnemonic, traits) [ZYDIS_MNEMONIC_##mnemonic] = traits

const uint16_t decoder_traits[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    T(POPF, TRAIT_ENDS_BLOCK),
    T(POPFD, TRAIT_ENDS_BLOCK),
    T(POPFQ, TRAIT_ENDS_BLOCK),
    T(STI, TRAIT_ENDS_BLOCK),
    T(HLT, TRAIT_ENDS_BLOCK),
    T(LMSW, TRAIT_ENDS_BLOCK),
    T(CLTS, TRAIT_ENDS_BLOCK),
    T(INVLPG, TRAIT_ENDS_BLOCK),
    T(INVPCID, TRAIT_ENDS_BLOCK),
    T(WRMSR, TRAIT_ENDS_BLOCK),
    T(XSETBV, TRAIT_ENDS_BLOCK),
    T(MWAIT, TRAIT_ENDS_BLOCK),
    T(CLAC, TRAIT_ENDS_BLOCK),
    T(STAC, TRAIT_ENDS_BLOCK),
    T(SWAPGS, TRAIT_ENDS_BLOCK),
    T(RSM, TRAIT_ENDS_BLOCK),
    T(NOP, TRAIT_HINT),
    T(PREFETCH, TRAIT_HINT),
    T(PREFETCHNTA, TRAIT_HINT),
    T(PREFETCHT0, TRAIT_HINT),
    T(PREFETCHT1, TRAIT_HINT),
    T(PREFETCHT2, TRAIT_HINT),
    T(PREFETCHW, TRAIT_HINT),
    T(PREFETCHWT1, TRAIT_HINT),
    T(CLFLUSH, TRAIT_CACHE_LINE),
    T(CLFLUSHOPT, TRAIT_CACHE_LINE),
    T(CLWB, TRAIT_CACHE_LINE),
    T(SHL, TRAIT_SHIFT),
    T(SHR, TRAIT_SHIFT),
    T(SAR, TRAIT_SHIFT),
    T(ROL, TRAIT_SHIFT),
    T(ROR, TRAIT_SHIFT),
    T(RCL, TRAIT_SHIFT),
    T(RCR, TRAIT_SHIFT),
    T(SHLD, TRAIT_SHIFT),
    T(SHRD, TRAIT_SHIFT),
    T(DIV, TRAIT_FAULTS),
    T(IDIV, TRAIT_FAULTS),
    T(AAM, TRAIT_FAULTS),
    T(BOUND, TRAIT_FAULTS),
    T(LDMXCSR, TRAIT_FAULTS),
    T(VLDMXCSR, TRAIT_FAULTS),
    T(MOVUPS, TRAIT_UNALIGNED),
    T(MOVUPD, TRAIT_UNALIGNED),
    T(MOVDQU, TRAIT_UNALIGNED),
    T(LDDQU, TRAIT_UNALIGNED),
    T(PCMPESTRI, TRAIT_UNALIGNED),
    T(PCMPESTRM, TRAIT_UNALIGNED),
    T(PCMPISTRI, TRAIT_UNALIGNED),
    T(PCMPISTRM, TRAIT_UNALIGNED),
    T(VMOVAPS, TRAIT_ALIGNED),
    T(VMOVAPD, TRAIT_ALIGNED),
    T(VMOVDQA, TRAIT_ALIGNED),
    T(VMOVNTDQ, TRAIT_ALIGNED),
    T(VMOVNTPS, TRAIT_ALIGNED),
    T(VMOVNTPD, TRAIT_ALIGNED),
    T(VMOVNTDQA, TRAIT_ALIGNED),
    T(CVTPS2PI, TRAIT_SSE),
    T(CVTTPS2PI, TRAIT_SSE),
    T(CVTPD2PI, TRAIT_SSE),
    T(CVTTPD2PI, TRAIT_SSE),
    T(CVTSS2SI, TRAIT_SSE),
    T(CVTTSS2SI, TRAIT_SSE),
    T(CVTSD2SI, TRAIT_SSE),
    T(CVTTSD2SI, TRAIT_SSE),
    T(MASKMOVQ, TRAIT_MASKED),
    T(MASKMOVDQU, TRAIT_MASKED),
    T(VMASKMOVDQU, TRAIT_MASKED),
    T(VMASKMOVPS, TRAIT_MASKED),
    T(VMASKMOVPD, TRAIT_MASKED),
    T(VPMASKMOVD, TRAIT_MASKED),
    T(VPMASKMOVQ, TRAIT_MASKED),
};

static void registers_range(ZydisRegister first, unsigned count, uint8_t cls, uint8_t size)
{
    for (unsigned i = 0; i < count; i++)
        decoder_registers[first + i] = (struct decoder_register){.cls = cls, .num = (uint8_t)i, .size = size};
}

static void registers_init(void)
{
    registers_range(ZYDIS_REGISTER_AL, 4, REGCLASS_GPR, 1);
    registers_range(ZYDIS_REGISTER_AH, 4, REGCLASS_GPR8H, 1);
    for (unsigned i = 0; i < 12; i++) /* spl, bpl, sil, dil, r8b.. */
        decoder_registers[ZYDIS_REGISTER_SPL + i] = (struct decoder_register){REGCLASS_GPR, (uint8_t)(4 + i), 1};
    registers_range(ZYDIS_REGISTER_AX, 16, REGCLASS_GPR, 2);
    registers_range(ZYDIS_REGISTER_EAX, 16, REGCLASS_GPR, 4);
    registers_range(ZYDIS_REGISTER_RAX, 16, REGCLASS_GPR, 8);
    registers_range(ZYDIS_REGISTER_ST0, 8, REGCLASS_X87, 10);
    registers_range(ZYDIS_REGISTER_MM0, 8, REGCLASS_MMX, 8);
    registers_range(ZYDIS_REGISTER_XMM0, 16, REGCLASS_VECTOR, 16);
    registers_range(ZYDIS_REGISTER_YMM0, 16, REGCLASS_VECTOR, 32);
    registers_range(ZYDIS_REGISTER_ES, 6, REGCLASS_SEGMENT, 2);
    registers_range(ZYDIS_REGISTER_CR0, 16, REGCLASS_CONTROL, 8);
    registers_range(ZYDIS_REGISTER_DR0, 16, REGCLASS_DEBUG, 8);
}

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t r[4])
{
    __asm__("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(subleaf));
}

static bool host_saves_avx(uint32_t leaf1_ecx)
{
    uint32_t low, high;
    if (!(leaf1_ecx & 1u << 27))
        return false;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

/* Every 64-bit processor has these, or cpu/ carries them out in C. */
static const uint8_t isa_always[] = {
    ZYDIS_ISA_SET_I86,          ZYDIS_ISA_SET_I186,        ZYDIS_ISA_SET_I286PROTECTED, ZYDIS_ISA_SET_I286REAL,
    ZYDIS_ISA_SET_I386,         ZYDIS_ISA_SET_I486,        ZYDIS_ISA_SET_I486REAL,      ZYDIS_ISA_SET_PENTIUMREAL,
    ZYDIS_ISA_SET_PPRO,         ZYDIS_ISA_SET_AMD,         ZYDIS_ISA_SET_CMOV,          ZYDIS_ISA_SET_CLFSH,
    ZYDIS_ISA_SET_FAT_NOP,      ZYDIS_ISA_SET_FCMOV,       ZYDIS_ISA_SET_FXSAVE,        ZYDIS_ISA_SET_FXSAVE64,
    ZYDIS_ISA_SET_LAHF,         ZYDIS_ISA_SET_LONGMODE,    ZYDIS_ISA_SET_PAUSE,         ZYDIS_ISA_SET_PENTIUMMMX,
    ZYDIS_ISA_SET_PREFETCH_NOP, ZYDIS_ISA_SET_RDPMC,       ZYDIS_ISA_SET_RDTSCP,        ZYDIS_ISA_SET_SSE,
    ZYDIS_ISA_SET_SSE2,         ZYDIS_ISA_SET_SSE2MMX,     ZYDIS_ISA_SET_SSEMXCSR,      ZYDIS_ISA_SET_SSE_PREFETCH,
    ZYDIS_ISA_SET_X87,          ZYDIS_ISA_SET_MONITOR,     ZYDIS_ISA_SET_SMAP,          ZYDIS_ISA_SET_RDWRFSGS,
    ZYDIS_ISA_SET_INVPCID,      ZYDIS_ISA_SET_PREFETCHWT1, ZYDIS_ISA_SET_XSAVE,         ZYDIS_ISA_SET_XSAVEOPT,
};

/* What the host must show for the rest. Sets that are not listed are not offered to guests: AVX-512, XOP, TBM, 3DNow!,
 * SSE4a, TSX, VMX, SVM, SGX, key locker, user interrupts, GFNI, VAES and other latecomers that
 * cpu/cpuid.c does not offer, protection keys, rdpid, xsavec/xsaves, ... */
enum { CPUID_1_ECX, CPUID_7_EBX, CPUID_EXT_ECX, CPUID_WORDS };
static const struct {
    uint8_t isa, word, bit;
    bool avx;
} isa_by_host[] = {
    {ZYDIS_ISA_SET_SSE3, CPUID_1_ECX, 0, false},        {ZYDIS_ISA_SET_SSE3X87, CPUID_1_ECX, 0, false},
    {ZYDIS_ISA_SET_PCLMULQDQ, CPUID_1_ECX, 1, false},   {ZYDIS_ISA_SET_SSSE3, CPUID_1_ECX, 9, false},
    {ZYDIS_ISA_SET_SSSE3MMX, CPUID_1_ECX, 9, false},    {ZYDIS_ISA_SET_FMA, CPUID_1_ECX, 12, true},
    {ZYDIS_ISA_SET_CMPXCHG16B, CPUID_1_ECX, 13, false}, {ZYDIS_ISA_SET_SSE4, CPUID_1_ECX, 19, false},
    {ZYDIS_ISA_SET_SSE42, CPUID_1_ECX, 20, false},      {ZYDIS_ISA_SET_MOVBE, CPUID_1_ECX, 22, false},
    {ZYDIS_ISA_SET_POPCNT, CPUID_1_ECX, 23, false},     {ZYDIS_ISA_SET_AES, CPUID_1_ECX, 25, false},
    {ZYDIS_ISA_SET_AVXAES, CPUID_1_ECX, 25, true},      {ZYDIS_ISA_SET_AVX, CPUID_1_ECX, 28, true},
    {ZYDIS_ISA_SET_F16C, CPUID_1_ECX, 29, true},        {ZYDIS_ISA_SET_RDRAND, CPUID_1_ECX, 30, false},
    {ZYDIS_ISA_SET_BMI1, CPUID_7_EBX, 3, false},        {ZYDIS_ISA_SET_AVX2, CPUID_7_EBX, 5, true},
    {ZYDIS_ISA_SET_AVX2GATHER, CPUID_7_EBX, 5, true},   {ZYDIS_ISA_SET_BMI2, CPUID_7_EBX, 8, false},
    {ZYDIS_ISA_SET_RDSEED, CPUID_7_EBX, 18, false},     {ZYDIS_ISA_SET_ADOX_ADCX, CPUID_7_EBX, 19, false},
    {ZYDIS_ISA_SET_CLFLUSHOPT, CPUID_7_EBX, 23, false}, {ZYDIS_ISA_SET_SHA, CPUID_7_EBX, 29, false},
    {ZYDIS_ISA_SET_LZCNT, CPUID_EXT_ECX, 5, false},
};

static void isa_init(void)
{
    uint32_t max[4], leaf1[4], leaf7[4] = {0}, extended[4];

    for (size_t i = 0; i < sizeof isa_always; i++)
        decoder_isa[isa_always[i]] = true;
    host_cpuid(0, 0, max);
    host_cpuid(1, 0, leaf1);
    if (max[0] >= 7)
        host_cpuid(7, 0, leaf7);
    host_cpuid(0x80000001, 0, extended);
    const uint32_t words[CPUID_WORDS] = {leaf1[2], leaf7[1], extended[2]};
    bool avx = host_saves_avx(leaf1[2]);
    for (size_t i = 0; i < sizeof isa_by_host / sizeof isa_by_host[0]; i++)
        decoder_isa[isa_by_host[i].isa] =
            (words[isa_by_host[i].word] >> isa_by_host[i].bit & 1) && (avx || !isa_by_host[i].avx);
}

void decoder_tables_init(void)
{
    registers_init();
    isa_init();
}
