/* SPDX-License-Identifier: MIT */
/* The guest's CPU: "ringfold virtual CPU".
 *
 * Vendor: the host's. Guest user instructions run on the host as they are, so everything in which the vendors differ
 * without telling (FXSAVE's error pointers, undefined flags, BSF on zero) is the host vendor's way; and SYSCALL,
 * SYSENTER and null segment loads follow the vendor string in cpu/. Hygon's hosts are shown as AMD, others as Intel.
 *
 * Family and model are fixed, so that a guest meets the same processor on every host of that vendor. They are ones for
 * which kernels have no errata with costly workarounds to apply: Intel 06_2AH stepping 7 (Sandy Bridge), AMD 12H model
 * 1 stepping 0 (Llano). Features are newer than these names where the host has them; software is asked to look at the
 * feature bits, and does.
 *
 * IA32_ARCH_CAPABILITIES (Intel) says that the processor is immune to Meltdown, MDS, TAA and kin. That holds for the
 * translator: the guest kernel's memory is not mapped where guest user code could reach it by a speculative access, as
 * every address is looked up in a per-privilege table first. It saves guests a page table switch per system call.
 *
 * The hypervisor bit (leaf 1, ECX bit 31) is clear and there is no 0x40000000 leaf: there is no paravirtual interface
 * to announce, and the bit alone only makes systems skip set-up that works here.
 *
 * Not offered: MONITOR, VMX, SVM, performance counters, XSAVEOPT and XSAVEC/XSAVES (their optimisations track the last
 * XRSTOR of the processor, which may be the monitor's), RTM, PKU, AVX-512, SPEC_CTRL. */
#include "cpu/cpuid.h"

#include "cpu/internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/* Index into host_features, which hold the features after masking. */
enum feature_word { F_1_ECX, F_1_EDX, F_7_EBX, F_7_ECX, F_7_EDX, F_X1_ECX, F_X1_EDX, F_X8_EBX, F_WORDS };

#define BIT(n) (1u << (n))

enum {
    ECX1_PCID = 17,
    ECX1_TSC_DEADLINE = 24,
    ECX1_XSAVE = 26,
    ECX1_OSXSAVE = 27,
    ECX1_AVX = 28,
    ECX1_CX16 = 13,
    ECX1_FMA = 12,
    ECX1_F16C = 29,
    ECX1_RDRAND = 30,
    EDX1_APIC = 9,
    EBX7_FSGSBASE = 0,
    EBX7_BMI1 = 3,
    EBX7_AVX2 = 5,
    EBX7_SMEP = 7,
    EBX7_BMI2 = 8,
    EBX7_INVPCID = 10,
    EBX7_RDSEED = 18,
    EBX7_SMAP = 20,
    ECX7_UMIP = 2,
    EDX7_ARCH_CAPABILITIES = 29,
    X1_EDX_SYSCALL = 11,
    X1_EDX_NX = 20,
    X1_EDX_PAGE1GB = 26,
    X1_EDX_RDTSCP = 27,
    X1_EDX_LM = 29,
    X1_ECX_LAHF64 = 0
};

/* What is virtualised, of what the host may have. */
static const uint32_t virtualised[F_WORDS] = {
    /* SSE3 PCLMUL SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE AVX F16C RDRAND */
    [F_1_ECX] = BIT(0) | BIT(1) | BIT(9) | BIT(ECX1_FMA) | BIT(ECX1_CX16) | BIT(ECX1_PCID) | BIT(19) | BIT(20) |
                BIT(22) | BIT(23) | BIT(25) | BIT(ECX1_XSAVE) | BIT(ECX1_AVX) | BIT(ECX1_F16C) | BIT(ECX1_RDRAND),
    /* FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2 */
    [F_1_EDX] = 0x1ff | BIT(EDX1_APIC) | BIT(11) | BIT(12) | BIT(13) | BIT(14) | BIT(15) | BIT(16) | BIT(17) | BIT(19) |
                BIT(23) | BIT(24) | BIT(25) | BIT(26),
    /* FSGSBASE BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT SHA */
    [F_7_EBX] = BIT(EBX7_FSGSBASE) | BIT(EBX7_BMI1) | BIT(EBX7_AVX2) | BIT(EBX7_SMEP) | BIT(EBX7_BMI2) | BIT(9) |
                BIT(EBX7_INVPCID) | BIT(EBX7_RDSEED) | BIT(19) | BIT(EBX7_SMAP) | BIT(23) | BIT(29),
    [F_7_ECX] = BIT(ECX7_UMIP),
    /* LAHF64 LZCNT PREFETCHW */
    [F_X1_ECX] = BIT(X1_ECX_LAHF64) | BIT(5) | BIT(8),
    /* SYSCALL NX MMXEXT 1 GiB pages RDTSCP LM; the copies of leaf 1 are added for AMD */
    [F_X1_EDX] =
        BIT(X1_EDX_SYSCALL) | BIT(X1_EDX_NX) | BIT(22) | BIT(X1_EDX_PAGE1GB) | BIT(X1_EDX_RDTSCP) | BIT(X1_EDX_LM),
    /* error pointers are always saved */
    [F_X8_EBX] = BIT(2),
};

/* Only of use in 64-bit mode. */
static const uint32_t long_mode_only[F_WORDS] = {
    [F_1_ECX] = BIT(ECX1_CX16) | BIT(ECX1_PCID),
    [F_7_EBX] = BIT(EBX7_FSGSBASE) | BIT(EBX7_INVPCID),
    [F_X1_ECX] = BIT(X1_ECX_LAHF64),
    [F_X1_EDX] = BIT(X1_EDX_SYSCALL) | BIT(X1_EDX_PAGE1GB) | BIT(X1_EDX_LM),
};

enum { AMD_COPIES = 0x0183f3ff }; /* leaf 80000001H EDX bits that repeat leaf 1 */

static void host_cpuid(uint32_t leaf, uint32_t subleaf, uint32_t out[4])
{
    __asm__ volatile("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "a"(leaf), "c"(subleaf));
}

void cpu_model_make_repeatable(struct cpu_model *model)
{
    model->host_features[F_1_ECX] &= ~BIT(ECX1_RDRAND);
    model->host_features[F_7_EBX] &= ~BIT(EBX7_RDSEED);
    model->tsc_khz = 1000000;
}

uint64_t cpu_host_tsc(void)
{
    uint32_t lo, hi;
    __asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
    return lo | (uint64_t)hi << 32;
}

/* ---- TSC rate ---- */

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* A pair of readings as close together as a few tries give. */
static void sample(uint64_t *tsc, uint64_t *ns)
{
    uint64_t best = ~0ull;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t before = cpu_host_tsc(), now = monotonic_ns(), after = cpu_host_tsc();
        if (after - before >= best)
            continue;
        best = after - before;
        *tsc = before + best / 2;
        *ns = now;
    }
}

static uint64_t first_tsc, first_ns;

void cpu_tsc_begin(void)
{
    if (!first_ns)
        sample(&first_tsc, &first_ns);
}

/* Over the time since the beginning, 0: none. */
static uint32_t measure_since_begin(void)
{
    uint64_t tsc, ns;
    sample(&tsc, &ns);
    if (ns <= first_ns)
        return 0;
    return (uint32_t)(((unsigned __int128)(tsc - first_tsc) * 1000000 + (ns - first_ns) / 2) / (ns - first_ns));
}

static uint32_t measure_tsc_khz(void)
{
    cpu_tsc_begin();
    while (monotonic_ns() - first_ns < 2000000) /* the readings are good to some 30 ns: 20 ppm at the worst */
        __builtin_ia32_pause();
    return measure_since_begin();
}

/* What CPUID says, 0: nothing. */
static uint32_t host_tsc_khz(void)
{
    uint32_t r[4], max;
    host_cpuid(0, 0, r);
    max = r[0];
    if (max >= 0x15) {
        host_cpuid(0x15, 0, r);
        if (r[0] && r[1] && r[2])
            return (uint32_t)((uint64_t)r[2] * r[1] / r[0] / 1000);
    }
    host_cpuid(1, 0, r);
    if (r[2] >> 31) {
        host_cpuid(0x40000000, 0, r);
        if (r[0] >= 0x40000010 && r[0] < 0x40000100) {
            host_cpuid(0x40000010, 0, r); /* VMware's and KVM's timing leaf */
            if (r[0])
                return r[0];
        }
    }
    return 0;
}

static _Atomic uint32_t told_khz;

void cpu_tsc_told(uint32_t khz)
{
    cpu_tsc_begin();
    uint32_t measured = measure_since_begin();
    if (measured && khz > measured - measured / 50 && khz < measured + measured / 50)
        atomic_store(&told_khz, khz);
}

uint32_t cpu_model_tsc_khz(const struct cpu_model *model)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static _Atomic uint32_t known; /* once told to somebody it stays */
    if (model->tsc_khz)
        return model->tsc_khz;
    uint32_t khz = atomic_load(&known);
    if (khz)
        return khz;
    pthread_mutex_lock(&lock);
    khz = atomic_load(&known);
    if (!khz && !(khz = host_tsc_khz()) && !(khz = atomic_load(&told_khz)))
        khz = measure_tsc_khz();
    atomic_store(&known, khz);
    pthread_mutex_unlock(&lock);
    return khz;
}

/* ---- the model ---- */

static void probe_features(struct cpu_model *model)
{
    uint32_t r[4], *f = model->host_features;
    host_cpuid(0, 0, r);
    uint32_t max = r[0];
    model->amd = r[1] == 0x68747541 || r[1] == 0x6f677948; /* "Auth", "Hygo": Hygon's are AMD's */
    host_cpuid(1, 0, r);
    f[F_1_ECX] = r[2];
    f[F_1_EDX] = r[3] | BIT(EDX1_APIC);
    bool os_xsave = r[2] & BIT(ECX1_OSXSAVE);
    if (max >= 7) {
        host_cpuid(7, 0, r);
        f[F_7_EBX] = r[1];
        f[F_7_ECX] = r[2];
    }
    host_cpuid(0x80000000, 0, r);
    uint32_t extended = r[0];
    host_cpuid(0x80000001, 0, r);
    f[F_X1_ECX] = r[2];
    f[F_X1_EDX] = r[3] | BIT(X1_EDX_SYSCALL); /* Intel shows it in 64-bit mode only; we are in it, but be sure */
    if (extended >= 0x80000008 && model->amd) {
        host_cpuid(0x80000008, 0, r);
        f[F_X8_EBX] = r[1];
    }
    uint32_t xcr0 = 0, high;
    if (os_xsave)
        __asm__ volatile("xgetbv" : "=a"(xcr0), "=d"(high) : "c"(0));
    model->xcr0_mask = (xcr0 & 6) == 6 ? 7 : os_xsave ? 3 : 0;
}

static void mask_features(struct cpu_model *model)
{
    uint32_t *f = model->host_features;
    for (unsigned i = 0; i < F_WORDS; i++) {
        f[i] &= virtualised[i];
        if (!model->long_mode)
            f[i] &= ~long_mode_only[i];
    }
    if (!model->apic)
        f[F_1_EDX] &= ~BIT(EDX1_APIC);
    if (!model->xcr0_mask)
        f[F_1_ECX] &= ~BIT(ECX1_XSAVE);
    if (model->xcr0_mask != 7 || !(f[F_1_ECX] & BIT(ECX1_AVX))) {
        f[F_1_ECX] &= ~(BIT(ECX1_AVX) | BIT(ECX1_FMA) | BIT(ECX1_F16C));
        f[F_7_EBX] &= ~BIT(EBX7_AVX2);
        model->xcr0_mask &= 3;
    }
    f[F_X1_EDX] &= model->amd ? ~0u : ~BIT(22);
    f[F_X1_EDX] |= model->amd ? f[F_1_EDX] & AMD_COPIES : 0;
    f[F_7_EDX] = model->amd ? 0 : BIT(EDX7_ARCH_CAPABILITIES);
}

void cpu_model_init(struct cpu_model *model, bool long_mode, bool apic)
{
    uint32_t r[4];
    *model = (struct cpu_model){.long_mode = long_mode, .apic = apic, .tsc_deadline = apic};
    probe_features(model);
    mask_features(model);
    model->avx = model->host_features[F_1_ECX] & BIT(ECX1_AVX);
    model->fma = model->host_features[F_1_ECX] & BIT(ECX1_FMA);
    model->avx2 = model->host_features[F_7_EBX] & BIT(EBX7_AVX2);
    model->bmi =
        (model->host_features[F_7_EBX] & (BIT(EBX7_BMI1) | BIT(EBX7_BMI2))) == (BIT(EBX7_BMI1) | BIT(EBX7_BMI2));
    host_cpuid(0x80000008, 0, r);
    unsigned wanted = long_mode ? 40 : 36, host = r[0] & 0xff;
    model->phys_bits = host && host < wanted ? host : wanted;
}

uint32_t cpu_model_signature(const struct cpu_model *model)
{
    return model->amd ? 0x00300f10 : 0x000206a7;
}

bool cpu_model_has_smap(const struct cpu_model *model)
{
    return model->host_features[F_7_EBX] & BIT(EBX7_SMAP);
}

bool cpu_model_has_invpcid(const struct cpu_model *model)
{
    return model->host_features[F_7_EBX] & BIT(EBX7_INVPCID);
}

bool cpu_model_has_rdtscp(const struct cpu_model *model)
{
    return model->host_features[F_X1_EDX] & BIT(X1_EDX_RDTSCP);
}

uint64_t cpu_model_cr4_mask(const struct cpu_model *model)
{
    const uint32_t *f = model->host_features;
    uint64_t mask = CR4_VME | CR4_PVI | CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_PCE |
                    CR4_OSFXSR | CR4_OSXMMEXCPT;
    mask |= f[F_1_ECX] & BIT(ECX1_XSAVE) ? CR4_OSXSAVE : 0;
    mask |= f[F_1_ECX] & BIT(ECX1_PCID) ? CR4_PCIDE : 0;
    mask |= f[F_7_EBX] & BIT(EBX7_FSGSBASE) ? CR4_FSGSBASE : 0;
    mask |= f[F_7_EBX] & BIT(EBX7_SMEP) ? CR4_SMEP : 0;
    mask |= f[F_7_EBX] & BIT(EBX7_SMAP) ? CR4_SMAP : 0;
    mask |= f[F_7_ECX] & BIT(ECX7_UMIP) ? CR4_UMIP : 0;
    return mask;
}

uint64_t cpu_model_efer_mask(const struct cpu_model *model)
{
    uint64_t mask = model->host_features[F_X1_EDX] & BIT(X1_EDX_NX) ? EFER_NXE : 0;
    return model->long_mode ? mask | EFER_SCE | EFER_LME | EFER_LMA : mask;
}

/* ---- leaves ---- */

static void set(uint32_t out[4], uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}

static uint32_t text32(const char *s)
{
    return (uint32_t)(uint8_t)s[0] | (uint32_t)(uint8_t)s[1] << 8 | (uint32_t)(uint8_t)s[2] << 16 |
           (uint32_t)(uint8_t)s[3] << 24;
}

static void vendor_leaf(const struct cpu_model *model, uint32_t max, uint32_t out[4])
{
    const char *v = model->amd ? "AuthenticAMD" : "GenuineIntel";
    set(out, max, text32(v), text32(v + 8), text32(v + 4));
}

static void feature_leaf(const struct cpu_model *model, uint64_t cr4, unsigned index, uint32_t out[4])
{
    uint32_t ecx = model->host_features[F_1_ECX];
    if ((ecx & BIT(ECX1_XSAVE)) && (cr4 & CR4_OSXSAVE))
        ecx |= BIT(ECX1_OSXSAVE);
    if (model->tsc_deadline)
        ecx |= BIT(ECX1_TSC_DEADLINE);
    set(out, cpu_model_signature(model), index << 24 | 1u << 16 | 8u << 8, ecx, model->host_features[F_1_EDX]);
}

/* Deterministic cache parameters (Intel): 32K L1s, 256K L2, 8M L3. */
static void cache_leaf(uint32_t subleaf, uint32_t out[4])
{
    static const struct {
        uint8_t type, level;
        uint16_t ways, sets;
    } caches[] = {{1, 1, 8, 64}, {2, 1, 8, 64}, {3, 2, 8, 512}, {3, 3, 16, 8192}};
    if (subleaf >= 4) {
        set(out, 0, 0, 0, 0);
        return;
    }
    set(out, caches[subleaf].type | (uint32_t)caches[subleaf].level << 5 | 1u << 8,
        (caches[subleaf].ways - 1u) << 22 | 63, caches[subleaf].sets - 1u, 0);
}

static void xsave_leaf(const struct cpu_model *model, uint32_t subleaf, uint64_t xcr0, uint32_t out[4])
{
    uint32_t full = model->xcr0_mask & 4 ? 832 : 576;
    set(out, 0, 0, 0, 0);
    if (!(model->host_features[F_1_ECX] & BIT(ECX1_XSAVE)))
        return;
    if (subleaf == 0)
        set(out, (uint32_t)model->xcr0_mask, xcr0 & 4 ? 832 : 576, full, 0);
    else if (subleaf == 2 && (model->xcr0_mask & 4))
        set(out, 256, 576, 0, 0);
}

/* The TSC's rate over the crystal's as EBX/EAX. 32-bit kernels multiply EBX by the crystal's kHz in 32 bits: of the
 * fractions that leave room for it, the nearest one (at most 1.4 ppm off). */
static void tsc_leaf(const struct cpu_model *model, uint32_t out[4])
{
    const uint64_t crystal_khz = CPU_BUS_HZ / 1000, most = UINT32_MAX / crystal_khz, tsc = cpu_model_tsc_khz(model);
    uint64_t best_p = 0, best_q = 1, best_error = tsc;
    for (uint64_t q = 1;; q++) {
        uint64_t p = (tsc * q + crystal_khz / 2) / crystal_khz, x = p * crystal_khz, y = tsc * q;
        uint64_t error = x > y ? x - y : y - x;
        if (p > most || q > crystal_khz)
            break;
        if (error * best_q < best_error * q)
            best_p = p, best_q = q, best_error = error;
    }
    set(out, (uint32_t)best_q, (uint32_t)best_p, CPU_BUS_HZ, 0);
}

static void basic_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint64_t cr4, uint64_t xcr0,
                       unsigned index, uint32_t out[4])
{
    const uint32_t *f = model->host_features;
    set(out, 0, 0, 0, 0);
    switch (leaf) {
    case 0:
        vendor_leaf(model, 0x16, out);
        break;
    case 1:
        feature_leaf(model, cr4, index, out);
        break;
    case 2:
        if (!model->amd)
            set(out, 0x76035a01, 0x00f0b2ff, 0, 0x00ca0000);
        break;
    case 4:
        if (!model->amd)
            cache_leaf(subleaf, out);
        break;
    case 6:
        set(out, model->apic ? BIT(2) : 0, 0, 0, 0); /* ARAT: the local APIC's timer never stops */
        break;
    case 7:
        if (subleaf == 0)
            set(out, 0, f[F_7_EBX], f[F_7_ECX], f[F_7_EDX]);
        break;
    case 0xd:
        xsave_leaf(model, subleaf, xcr0, out);
        break;
    case 0x15:
        tsc_leaf(model, out);
        break;
    case 0x16:
        set(out, cpu_model_tsc_khz(model) / 1000, cpu_model_tsc_khz(model) / 1000, 100, 0);
        break;
    }
}

static void extended_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t out[4])
{
    static const char brand[48] = "ringfold virtual CPU";
    const uint32_t *f = model->host_features;
    const char *b;
    set(out, 0, 0, 0, 0);
    switch (leaf) {
    case 0x80000000:
        if (model->amd)
            vendor_leaf(model, 0x80000021, out);
        else
            out[0] = 0x80000008;
        break;
    case 0x80000001:
        set(out, model->amd ? cpu_model_signature(model) : 0, 0, f[F_X1_ECX], f[F_X1_EDX]);
        break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004:
        b = brand + (leaf - 0x80000002) * 16;
        set(out, text32(b), text32(b + 4), text32(b + 8), text32(b + 12));
        break;
    case 0x80000005: /* L1: 32K, 8 ways, 64-byte lines */
        if (model->amd)
            set(out, 0xff40ff40, 0xff40ff40, 32u << 24 | 8u << 16 | 1u << 8 | 64, 32u << 24 | 8u << 16 | 1u << 8 | 64);
        break;
    case 0x80000006: /* L2: 256K, 8 ways; L3 8M, 16 ways */
        set(out, 0, 0, 256u << 16 | 6u << 12 | 1u << 8 | 64, model->amd ? 16u << 18 | 8u << 12 | 1u << 8 | 64 : 0);
        if (model->amd)
            out[1] = 0x42004200;
        break;
    case 0x80000007:
        out[3] = BIT(8); /* invariant TSC */
        break;
    case 0x80000008:
        set(out, model->phys_bits | (model->long_mode ? 48u : 32u) << 8, f[F_X8_EBX], 0, 0);
        break;
    case 0x80000021:
        if (model->amd)
            out[0] = BIT(2) | BIT(6); /* LFENCE always serializes; a null selector clears the base */
        break;
    }
}

void cpu_model_leaf(const struct cpu_model *model, uint32_t leaf, uint32_t subleaf, uint64_t cr4, uint64_t xcr0,
                    unsigned index, uint32_t out[4])
{
    uint32_t extended = model->amd ? 0x80000021 : 0x80000008;
    if (leaf >= 0x80000000 && leaf <= extended) {
        extended_leaf(model, leaf, out);
        return;
    }
    if (leaf > 0x16) {
        if (model->amd) { /* beyond the last leaf: AMD gives zeros, Intel the last basic leaf */
            set(out, 0, 0, 0, 0);
            return;
        }
        leaf = 0x16;
    }
    basic_leaf(model, leaf, subleaf, cr4, xcr0, index, out);
}

int cpu_cpuid(struct cpu *cpu)
{
    uint32_t out[4];
    cpu_model_leaf(cpu->model, (uint32_t)cpu->gpr[GPR_AX], (uint32_t)cpu->gpr[GPR_CX], cpu->mmu.cr4, cpu->xcr0,
                   cpu->index, out);
    /* A local APIC that is switched off is not there. Leaf 1, and AMD's copy of it. */
    uint32_t leaf = (uint32_t)cpu->gpr[GPR_AX];
    if (!(cpu->msr.apic_base & 1u << 11) && (leaf == 1 || (leaf == 0x80000001 && cpu->model->amd)))
        out[3] &= ~BIT(EDX1_APIC);
    cpu->gpr[GPR_AX] = out[0];
    cpu->gpr[GPR_BX] = out[1];
    cpu->gpr[GPR_CX] = out[2];
    cpu->gpr[GPR_DX] = out[3];
    return done(cpu);
}
