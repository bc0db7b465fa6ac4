/* SPDX-License-Identifier: MIT */
/* Instructions that move x87/SSE/AVX state between the registers and guest memory: done on the saved image, because the
 * host's own instructions would show host addresses (x87 instruction and operand pointers) and host formats.
 * SDM vol. 1, 8.1.10 (environment formats), 10.5 (FXSAVE), 13.4 to 13.8 (XSAVE).
 *
 * The pointers, the last opcode and their selectors always read as zero, as on processors that keep them only for a
 * pending exception; with them zero the real-mode and protected-mode formats are the same. What a guest loads into them
 * is dropped. */
#include "cpu/execute_internal.h"

#include <Zydis/Mnemonic.h>

/* Offsets in the image (and in guest memory, for FXSAVE and XSAVE). */
enum {
    IMAGE_FCW = 0,
    IMAGE_FSW = 2,
    IMAGE_FTW = 4,
    IMAGE_FOP = 6,
    IMAGE_FIP = 8,
    IMAGE_FDP = 16,
    IMAGE_MXCSR = 24,
    IMAGE_MXCSR_MASK = 28,
    IMAGE_ST = 32,
    IMAGE_XMM = 160,
    IMAGE_LEGACY_END = 512,
    IMAGE_XSTATE_BV = 512,
    IMAGE_YMM = 576
};
enum { FSW_SUMMARY = 0x80, FSW_BUSY = 0x8000, FSW_EXCEPTIONS = 0x3f };
enum { XSTATE_X87 = 1, XSTATE_SSE = 2, XSTATE_AVX = 4 };

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    __builtin_memcpy(&v, p, 2);
    return v;
}
static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    __builtin_memcpy(&v, p, 4);
    return v;
}
static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, 8);
    return v;
}
static void put16(uint8_t *p, uint16_t v)
{
    __builtin_memcpy(p, &v, 2);
}
static void put32(uint8_t *p, uint32_t v)
{
    __builtin_memcpy(p, &v, 4);
}
static void put64(uint8_t *p, uint64_t v)
{
    __builtin_memcpy(p, &v, 8);
}

/* Components that the image holds. */
static uint64_t image_components(const struct cpu *cpu)
{
    return XSTATE_X87 | XSTATE_SSE | (cpu->model->xcr0_mask & XSTATE_AVX);
}

/* memset by hand: the image is small, and general registers are all this folder has. */
static void clear(uint8_t *p, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(0) : "memory");
}

static void copy(uint8_t *to, const uint8_t *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void init_x87(uint8_t *image)
{
    clear(image, IMAGE_MXCSR);
    clear(image + IMAGE_ST, IMAGE_XMM - IMAGE_ST);
    put16(image + IMAGE_FCW, 0x37f);
}

/* The image with every component written out: the host leaves components in their initial state unwritten. */
uint8_t *execute_explicit_image(struct cpu *cpu)
{
    uint8_t *image = cpu->xsave;
    uint64_t present, all = image_components(cpu);

    cpu_fpu_unload(cpu);
    present = get64(image + IMAGE_XSTATE_BV);
    if (!(present & XSTATE_X87))
        init_x87(image);
    if (!(present & XSTATE_SSE))
        clear(image + IMAGE_XMM, 256);
    if ((all & XSTATE_AVX) && !(present & XSTATE_AVX))
        clear(image + IMAGE_YMM, 256);
    put64(image + IMAGE_XSTATE_BV, present | all);
    return image;
}

static void forget_pointers(uint8_t *image)
{
    put16(image + IMAGE_FOP, 0);
    put64(image + IMAGE_FIP, 0);
    put64(image + IMAGE_FDP, 0);
}

/* FSW.ES and B follow from the flags and the masks. */
static uint16_t with_summary(uint16_t fsw, uint16_t fcw)
{
    fsw &= (uint16_t) ~(FSW_SUMMARY | FSW_BUSY);
    return fsw & ~fcw & FSW_EXCEPTIONS ? (uint16_t)(fsw | FSW_SUMMARY | FSW_BUSY) : fsw;
}

/* The two tag bits of a register, from its contents. SDM vol. 1, figure 8-7. */
static unsigned full_tag(const uint8_t *st)
{
    uint64_t mantissa = get64(st);
    unsigned exponent = get16(st + 8) & 0x7fffu;

    if (exponent == 0x7fff)
        return 2;
    if (!exponent)
        return mantissa ? 2 : 1;
    return mantissa >> 63 ? 0 : 2;
}

static uint16_t full_tags(const uint8_t *image)
{
    unsigned top = get16(image + IMAGE_FSW) >> 11 & 7u, tags = 0;

    for (unsigned i = 0; i < 8; i++) {
        bool used = image[IMAGE_FTW] >> i & 1;
        unsigned tag = used ? full_tag(image + IMAGE_ST + 16 * ((i - top) & 7u)) : 3;
        tags |= tag << (2 * i);
    }
    return (uint16_t)tags;
}

static uint8_t abridged_tags(uint16_t full)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++)
        tags |= ((full >> (2 * i) & 3u) != 3) << i;
    return (uint8_t)tags;
}

/* ---- the 14- and 28-byte environment, with or without the registers behind it ---- */

static unsigned environment_size(const struct insn *insn)
{
    return insn->opsize == 2 ? 14 : 28;
}

static void environment_store(const uint8_t *image, uint8_t *to, unsigned size)
{
    const uint16_t word[3] = {get16(image + IMAGE_FCW), get16(image + IMAGE_FSW), full_tags(image)};

    clear(to, size);
    for (unsigned i = 0; i < 3; i++) {
        if (size == 14)
            put16(to + 2 * i, word[i]);
        else
            put32(to + 4 * i, 0xffff0000u | word[i]);
    }
    if (size == 28)
        put32(to + 24, 0xffff0000u);
}

/* The registers keep their places; the image numbers them from the top of the stack. */
void execute_set_x87_top(uint8_t *image, unsigned top)
{
    uint16_t fsw = get16(image + IMAGE_FSW);
    unsigned turn = (top - (fsw >> 11 & 7u)) & 7u;
    uint8_t turned[128];

    put16(image + IMAGE_FSW, (uint16_t)((fsw & ~0x3800u) | top << 11));
    if (!turn)
        return;
    for (unsigned i = 0; i < 8; i++)
        copy(turned + 16 * i, image + IMAGE_ST + 16 * ((i + turn) & 7u), 16);
    copy(image + IMAGE_ST, turned, sizeof turned);
}

static void environment_load(uint8_t *image, const uint8_t *from, unsigned size)
{
    unsigned step = size == 14 ? 2 : 4;
    uint16_t fcw = get16(from), fsw = get16(from + step);

    fcw = (uint16_t)((fcw & 0x1f3f) | 0x40);
    put16(image + IMAGE_FCW, fcw);
    execute_set_x87_top(image, fsw >> 11 & 7u);
    put16(image + IMAGE_FSW, with_summary(fsw, fcw));
    put16(image + IMAGE_FTW, abridged_tags(get16(from + 2 * step)));
    forget_pointers(image);
}

static int env_fnstenv(struct cpu *cpu, const struct insn *insn)
{
    uint8_t *image = execute_explicit_image(cpu), out[28];
    unsigned size = environment_size(insn);

    environment_store(image, out, size);
    if (cpu_write_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), out, size))
        return CPU_FAULT;
    uint16_t fcw = get16(image + IMAGE_FCW) | FSW_EXCEPTIONS;
    put16(image + IMAGE_FCW, fcw);
    put16(image + IMAGE_FSW, with_summary(get16(image + IMAGE_FSW), fcw));
    return done(cpu);
}

static int env_fnsave(struct cpu *cpu, const struct insn *insn)
{
    uint8_t *image = execute_explicit_image(cpu), out[108];
    unsigned size = environment_size(insn);

    environment_store(image, out, size);
    for (unsigned i = 0; i < 8; i++)
        copy(out + size + 10 * i, image + IMAGE_ST + 16 * i, 10);
    if (cpu_write_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), out, size + 80))
        return CPU_FAULT;
    /* FNINIT empties the registers, their contents stay; with the top at 0 they are numbered anew. */
    execute_set_x87_top(image, 0);
    put16(image + IMAGE_FCW, 0x37f);
    put16(image + IMAGE_FSW, 0);
    put16(image + IMAGE_FTW, 0);
    forget_pointers(image);
    return done(cpu);
}

static int env_load(struct cpu *cpu, const struct insn *insn, bool registers)
{
    uint8_t *image = execute_explicit_image(cpu), in[108];
    unsigned size = environment_size(insn);

    if (cpu_read_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), in, registers ? size + 80 : size))
        return CPU_FAULT;
    environment_load(image, in, size);
    for (unsigned i = 0; registers && i < 8; i++) {
        clear(image + IMAGE_ST + 16 * i, 16);
        copy(image + IMAGE_ST + 16 * i, in + size + 10 * i, 10);
    }
    return done(cpu);
}

/* ---- FXSAVE, FXRSTOR ---- */

/* Bytes of the XMM area that the current mode sees: XMM8 and up exist in 64-bit mode only. */
static unsigned vector_bytes(const struct cpu *cpu)
{
    return cpu_code64(cpu) ? 256 : 128;
}

/* Address and alignment of a save area. */
static int area_address(struct cpu *cpu, const struct insn *insn, unsigned align, uint64_t *off)
{
    uint64_t gva;

    *off = cpu_effective_address(cpu, insn);
    if (cpu_segment_check(cpu, insn->mem.seg, *off, 1, false, &gva))
        return CPU_FAULT;
    return gva & (align - 1) ? fault_gp(cpu, 0) : CPU_OK;
}

/* MXCSR bits that exist: the host's, since ldmxcsr runs there. */
static uint32_t mxcsr_mask(void)
{
    static uint32_t mask;
    if (!mask) {
        _Alignas(16) uint8_t area[512];
        put32(area + IMAGE_MXCSR_MASK, 0);
        __asm__ volatile("fxsave %0" : "=m"(area));
        mask = get32(area + IMAGE_MXCSR_MASK) ? get32(area + IMAGE_MXCSR_MASK) : 0xffbf;
    }
    return mask;
}

static int env_fxsave(struct cpu *cpu, const struct insn *insn)
{
    uint8_t *image, out[416];
    unsigned len = IMAGE_XMM + vector_bytes(cpu);
    uint64_t off;

    if (area_address(cpu, insn, 16, &off) || execute_probe_write(cpu, insn->mem.seg, off, 512))
        return CPU_FAULT;
    image = execute_explicit_image(cpu);
    copy(out, image, len);
    forget_pointers(out);
    put32(out + IMAGE_MXCSR_MASK, mxcsr_mask());
    if (cpu_write_seg(cpu, insn->mem.seg, off, out, len))
        return CPU_FAULT;
    return done(cpu);
}

static void load_x87(uint8_t *image, const uint8_t *from)
{
    copy(image, from, IMAGE_MXCSR);
    image[IMAGE_FTW + 1] = 0;
    uint16_t fcw = (uint16_t)((get16(from + IMAGE_FCW) & 0x1f3f) | 0x40);
    put16(image + IMAGE_FCW, fcw);
    put16(image + IMAGE_FSW, with_summary(get16(from + IMAGE_FSW), fcw));
    forget_pointers(image);
    for (unsigned i = 0; i < 8; i++) {
        clear(image + IMAGE_ST + 16 * i, 16);
        copy(image + IMAGE_ST + 16 * i, from + IMAGE_ST + 16 * i, 10);
    }
}

static int env_fxrstor(struct cpu *cpu, const struct insn *insn)
{
    uint8_t *image, in[512];
    uint64_t off;

    if (area_address(cpu, insn, 16, &off) || cpu_read_seg(cpu, insn->mem.seg, off, in, sizeof in))
        return CPU_FAULT;
    image = execute_explicit_image(cpu);
    if (get32(in + IMAGE_MXCSR) & ~mxcsr_mask())
        return fault_gp(cpu, 0);
    load_x87(image, in);
    put32(image + IMAGE_MXCSR, get32(in + IMAGE_MXCSR));
    copy(image + IMAGE_XMM, in + IMAGE_XMM, vector_bytes(cpu));
    return done(cpu);
}

/* ---- XSAVE, XSAVEOPT, XRSTOR ---- */

/* What EDX:EAX and XCR0 select. */
static uint64_t requested_components(const struct cpu *cpu)
{
    uint64_t mask = (cpu->gpr[GPR_AX] & 0xffffffff) | cpu->gpr[GPR_DX] << 32;
    return mask & cpu->xcr0 & image_components(cpu);
}

static int write_part(struct cpu *cpu, const struct insn *insn, uint64_t off, const uint8_t *image, unsigned at,
                      unsigned len)
{
    uint64_t to = (off + at) & execute_size_mask(insn->addrsize);
    return cpu_write_seg(cpu, insn->mem.seg, to, image + at, len);
}

static int read_part(struct cpu *cpu, const struct insn *insn, uint64_t off, uint8_t *image, unsigned at, unsigned len)
{
    uint64_t from = (off + at) & execute_size_mask(insn->addrsize);
    return cpu_read_seg(cpu, insn->mem.seg, from, image + at, len);
}

/* XSAVEOPT may leave out what has not changed; it does not have to, so the two are one. */
static int env_xsave(struct cpu *cpu, const struct insn *insn)
{
    uint64_t off, wanted = requested_components(cpu), header = 0;
    unsigned size = wanted & XSTATE_AVX ? IMAGE_YMM + vector_bytes(cpu) : IMAGE_YMM;
    uint8_t *image, out[CPU_XSAVE_SIZE];

    if (area_address(cpu, insn, 64, &off) || execute_probe_write(cpu, insn->mem.seg, off, size) ||
        cpu_read_seg(cpu, insn->mem.seg, (off + IMAGE_XSTATE_BV) & execute_size_mask(insn->addrsize), &header, 8))
        return CPU_FAULT;
    image = execute_explicit_image(cpu);
    copy(out, image, CPU_XSAVE_SIZE);
    forget_pointers(out);
    put32(out + IMAGE_MXCSR_MASK, mxcsr_mask());
    put64(out + IMAGE_XSTATE_BV, (header & ~wanted) | wanted);
    if ((wanted & XSTATE_X87) && (write_part(cpu, insn, off, out, 0, IMAGE_MXCSR) ||
                                  write_part(cpu, insn, off, out, IMAGE_ST, IMAGE_XMM - IMAGE_ST)))
        return CPU_FAULT;
    if ((wanted & (XSTATE_SSE | XSTATE_AVX)) && write_part(cpu, insn, off, out, IMAGE_MXCSR, 8))
        return CPU_FAULT;
    if ((wanted & XSTATE_SSE) && write_part(cpu, insn, off, out, IMAGE_XMM, vector_bytes(cpu)))
        return CPU_FAULT;
    if ((wanted & XSTATE_AVX) && write_part(cpu, insn, off, out, IMAGE_YMM, vector_bytes(cpu)))
        return CPU_FAULT;
    if (write_part(cpu, insn, off, out, IMAGE_XSTATE_BV, 8))
        return CPU_FAULT;
    return done(cpu);
}

static void restore_components(struct cpu *cpu, const uint8_t *in, uint64_t wanted, uint64_t present)
{
    uint8_t *image = execute_explicit_image(cpu);
    unsigned len = vector_bytes(cpu);

    if (wanted & present & XSTATE_X87)
        load_x87(image, in);
    else if (wanted & XSTATE_X87)
        init_x87(image);
    if (wanted & (XSTATE_SSE | XSTATE_AVX))
        put32(image + IMAGE_MXCSR, get32(in + IMAGE_MXCSR));
    if (wanted & present & XSTATE_SSE)
        copy(image + IMAGE_XMM, in + IMAGE_XMM, len);
    else if (wanted & XSTATE_SSE)
        clear(image + IMAGE_XMM, len);
    if (wanted & present & XSTATE_AVX)
        copy(image + IMAGE_YMM, in + IMAGE_YMM, len);
    else if (wanted & XSTATE_AVX)
        clear(image + IMAGE_YMM, len);
}

/* Only the standard format: the model has no XSAVEC, so a compacted area is a reserved-bit error. */
static int env_xrstor(struct cpu *cpu, const struct insn *insn)
{
    uint64_t off, present, wanted = requested_components(cpu);
    uint8_t in[CPU_XSAVE_SIZE];

    if (area_address(cpu, insn, 64, &off) || read_part(cpu, insn, off, in, 0, IMAGE_YMM))
        return CPU_FAULT;
    present = get64(in + IMAGE_XSTATE_BV);
    if ((present & ~cpu->xcr0) || get64(in + IMAGE_XSTATE_BV + 8) || get64(in + IMAGE_XSTATE_BV + 16))
        return fault_gp(cpu, 0);
    if ((wanted & present & XSTATE_AVX) && read_part(cpu, insn, off, in, IMAGE_YMM, vector_bytes(cpu)))
        return CPU_FAULT;
    cpu_fpu_unload(cpu);
    if ((wanted & (XSTATE_SSE | XSTATE_AVX)) && (get32(in + IMAGE_MXCSR) & ~mxcsr_mask()))
        return fault_gp(cpu, 0);
    restore_components(cpu, in, wanted, present);
    return done(cpu);
}

int execute_fpu_env(struct cpu *cpu, const struct insn *insn)
{
    if (cpu_fpu_check(cpu, insn)) /* #NM, #UD, a pending #MF */
        return CPU_FAULT;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
        return env_fnstenv(cpu, insn);
    case ZYDIS_MNEMONIC_FNSAVE:
        return env_fnsave(cpu, insn);
    case ZYDIS_MNEMONIC_FLDENV:
        return env_load(cpu, insn, false);
    case ZYDIS_MNEMONIC_FRSTOR:
        return env_load(cpu, insn, true);
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return env_fxsave(cpu, insn);
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
        return env_fxrstor(cpu, insn);
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        return env_xsave(cpu, insn);
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return env_xrstor(cpu, insn);
    default:
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}
