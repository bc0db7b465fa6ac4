/* SPDX-License-Identifier: MIT */
#include "tests/insn_generator.h"

#include <Zydis/Mnemonic.h>
#include <string.h>

uint64_t generator_random(uint64_t *state)
{
    /* splitmix64: any seed is good, neighbouring ones too */
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static unsigned below(uint64_t *r, unsigned n)
{
    return (unsigned)(generator_random(r) >> 33) % n;
}

static bool chance(uint64_t *r, unsigned percent)
{
    return below(r, 100) < percent;
}

/* ---- values ---- */

static uint32_t random_value(uint64_t *r)
{
    static const uint32_t edges[] = {0,          1,          2,          0x7f,       0x80,
                                     0xff,       0x7fff,     0x8000,     0xffff,     0x7fffffff,
                                     0x80000000, 0xfffffffe, 0xffffffff, 0x55555555, 0x00010001};
    switch (below(r, 4)) {
    case 0:
        return edges[below(r, sizeof edges / sizeof edges[0])];
    case 1:
        return below(r, 64);
    default:
        return (uint32_t)generator_random(r);
    }
}

/* In 64-bit cases as wide as may be. */
static uint64_t random_wide(const struct generator_case *c, uint64_t *r)
{
    uint32_t v = random_value(r);
    if (c->bits == 32)
        return v;
    switch (below(r, 4)) {
    case 0:
        return (uint64_t)(int32_t)v;
    case 1:
        return (uint64_t)v << 32 | random_value(r);
    case 2:
        return generator_random(r);
    default:
        return v;
    }
}

/* An address in or at the edge of the data pages: aligned, anywhere, or around a page boundary. */
static uint32_t random_low_pointer(uint64_t *r)
{
    uint32_t page = NATIVE_DATA + below(r, 3) * NATIVE_PAGE;
    switch (below(r, 16)) {
    case 0: /* around any boundary: read-only, hole, the end */
        return NATIVE_DATA + (1 + below(r, NATIVE_DATA_PAGES)) * NATIVE_PAGE - below(r, 40);
    case 1: /* any page */
        return NATIVE_DATA + below(r, NATIVE_DATA_PAGES * NATIVE_PAGE);
    case 2:
    case 3: /* a boundary inside the writable pages */
        return NATIVE_DATA + (1 + below(r, 2)) * NATIVE_PAGE - below(r, 40);
    case 4: /* far from everything */
        return 0x30000000 + below(r, 0x10000000);
    case 5:
    case 6:
    case 7:
        return page + below(r, NATIVE_PAGE);
    default:
        return page + below(r, NATIVE_PAGE / 64) * 64;
    }
}

static uint64_t random_pointer(const struct generator_case *c, uint64_t *r)
{
    uint64_t p = random_low_pointer(r);
    if (c->bits == 32)
        return p;
    switch (below(r, 40)) {
    case 0: /* not canonical */
        return p ^ 1ull << (47 + below(r, 17));
    case 1: /* the last bytes of the user half, and of everything */
        return (chance(r, 50) ? 0x800000000000ull : 0) - 1 - below(r, 70);
    case 2: /* the other half */
        return generator_random(r) | 0xffff800000000000ull;
    case 3:
    case 4:
    case 5:
    case 6:
        return p + (NATIVE_HIGH - c->base);
    default:
        return p + c->base;
    }
}

static double random_double(uint64_t *r)
{
    static const double some[] = {0.0, -0.0, 1.0, -1.5, 3.25e10, 1e-310, 1e308, 0.1, 255.5, -2147483648.0};
    return some[below(r, sizeof some / sizeof some[0])];
}

static void random_element(uint64_t *r, uint8_t *to)
{
    uint64_t v = generator_random(r);
    double d = random_double(r);
    float f = (float)random_double(r);

    switch (below(r, 5)) {
    case 0:
        v = below(r, 256);
        break;
    case 1:
        memcpy(&v, &d, 8);
        break;
    case 2:
        memcpy(&v, &f, 4);
        memcpy((uint8_t *)&v + 4, &f, 4);
        break;
    case 3:
        v = (uint64_t)random_value(r) << 32 | random_value(r);
        break;
    default:
        break;
    }
    memcpy(to, &v, 8);
}

static void put16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}

static void random_state(struct generator_case *c, uint64_t *r)
{
    struct native_state *s = &c->state;
    uint32_t mxcsr = 0x1f80;

    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < (c->bits == 64 ? 16 : 8); i++)
        s->gpr[i] = chance(r, 50) ? random_pointer(c, r) : random_wide(c, r);
    s->gpr[GPR_SP] = c->base + NATIVE_DATA + NATIVE_PAGE + below(r, NATIVE_PAGE / 4) * 4;
    if (c->bits == 64) {
        if (chance(r, 70))
            s->gpr[GPR_SP] &= ~7ull;
        if (chance(r, 3)) /* not canonical */
            s->gpr[GPR_SP] ^= 1ull << (47 + below(r, 17));
        uint64_t *const bases[] = {&s->fs_base, &s->gs_base};
        for (unsigned i = 0; i < 2; i++) { /* canonical */
            uint64_t v = chance(r, 50) ? below(r, NATIVE_PAGE) : random_low_pointer(r);
            *bases[i] = chance(r, 20) ? 0 : chance(r, 10) ? ~0ull << 47 | v : chance(r, 30) ? v : c->base + v;
        }
    }
    s->rflags = EFLAGS_USER | ((uint32_t)generator_random(r) & (FLAGS_ARITH | (chance(r, 15) ? FLAG_DF : 0)));
    /* x87: usually all exceptions masked, some registers in use */
    put16(s->xsave, (uint16_t)(chance(r, 80) ? 0x37f : 0x340 | (generator_random(r) & 0xf3f)));
    put16(s->xsave + 2, (uint16_t)(below(r, 8) << 11 | (generator_random(r) & 0x4700)));
    s->xsave[4] = chance(r, 30) ? 0 : (uint8_t)generator_random(r);
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *st = s->xsave + 32 + 16 * i;
        random_element(r, st);
        if (chance(r, 80)) { /* a normal number */
            st[7] |= 0x80;
            put16(st + 8, (uint16_t)(0x3fff - 20 + below(r, 60)));
        } else {
            put16(st + 8, (uint16_t)generator_random(r));
        }
    }
    if (chance(r, 15)) /* rounding, flush to zero, some exceptions unmasked */
        mxcsr = (uint32_t)generator_random(r) & 0xffc0;
    memcpy(s->xsave + 24, &mxcsr, 4);
    for (unsigned i = 0; i < (c->bits == 64 ? 16 : 8) * 16; i += 8) {
        random_element(r, s->xsave + 160 + i);
        random_element(r, s->xsave + 576 + i);
    }
    s->xsave[512] = 7;
}

void generator_fill_memory(const struct generator_case *c, uint8_t *data)
{
    uint64_t r = c->memory_seed;
    for (unsigned i = 0; i < NATIVE_DATA_PAGES * NATIVE_PAGE; i += 8)
        random_element(&r, data + i);
}

/* ---- one instruction ---- */

static uint8_t random_modrm(uint64_t *r)
{
    uint8_t v = (uint8_t)generator_random(r);
    return chance(r, 40) ? v | 0xc0 : v;
}

static unsigned random_vex(const struct generator_case *c, uint64_t *r, uint8_t *b)
{
    bool wide = c->bits == 64;
    uint8_t map = (uint8_t)(1 + below(r, 3)), vvvv = chance(r, 35) ? 15 : (uint8_t)generator_random(r) & 15;
    uint8_t pp = chance(r, 60) ? 1 : (uint8_t)below(r, 4), l = (uint8_t)below(r, 2), w = chance(r, 20);
    uint8_t extensions = wide ? (uint8_t)generator_random(r) & 0xe0 : 0xe0; /* inverted R, X, B */
    unsigned n = 0;

    if (map == 1 && chance(r, 60)) {
        b[n++] = 0xc5;
        b[n++] = (uint8_t)((extensions & 0x80) | (wide ? vvvv : vvvv | 8) << 3 | l << 2 | pp);
    } else {
        b[n++] = 0xc4;
        b[n++] = (uint8_t)(extensions | map);
        b[n++] = (uint8_t)(w << 7 | vvvv << 3 | l << 2 | pp);
    }
    b[n++] = (uint8_t)generator_random(r);
    return n;
}

static unsigned random_rex(const struct generator_case *c, uint64_t *r, uint8_t *b)
{
    if (c->bits == 32 || chance(r, 35))
        return 0;
    b[0] = 0x40 | ((uint8_t)generator_random(r) & 15);
    return 1;
}

/* Opcode and prefixes; what follows is random and its length is the decoder's business. */
static unsigned random_opcode(const struct generator_case *c, uint64_t *r, uint8_t *b)
{
    static const uint8_t segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};
    static const uint8_t mandatory[] = {0x66, 0xf2, 0xf3};
    bool wide = c->bits == 64;
    unsigned n = 0, kind = below(r, 100);

    if (chance(r, wide ? 8 : 4))
        b[n++] = segments[below(r, wide ? 6 : 4)];
    if (chance(r, wide ? 6 : 2))
        b[n++] = 0x67;
    if (kind >= 75)
        return n + random_vex(c, r, b + n);
    if (chance(r, 15))
        b[n++] = 0x66;
    if (chance(r, 4))
        b[n++] = 0xf0;
    if (kind < 30) {
        if (chance(r, 8))
            b[n++] = 0xf2 | (uint8_t)below(r, 2);
        n += random_rex(c, r, b + n);
        b[n++] = (uint8_t)generator_random(r);
    } else if (kind < 38) { /* x87 */
        n += random_rex(c, r, b + n);
        b[n++] = (uint8_t)(0xd8 | below(r, 8));
    } else if (kind < 42) { /* strings */
        if (chance(r, 60))
            b[n++] = 0xf2 | (uint8_t)below(r, 2);
        n += random_rex(c, r, b + n);
        b[n++] = (uint8_t)(0xa4 + below(r, 12));
    } else {
        if (chance(r, 60))
            b[n++] = mandatory[below(r, 3)];
        n += random_rex(c, r, b + n);
        b[n++] = 0x0f;
        if (kind >= 66)
            b[n++] = kind < 71 ? 0x38 : 0x3a;
        b[n++] = (uint8_t)generator_random(r);
    }
    return n;
}

static bool base_access(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_RDFSBASE || insn->mnemonic == ZYDIS_MNEMONIC_RDGSBASE ||
           insn->mnemonic == ZYDIS_MNEMONIC_WRFSBASE || insn->mnemonic == ZYDIS_MNEMONIC_WRGSBASE;
}

/* Not the same twice, or not the same here and there. */
static bool unsteady(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        return true;
    default:
        return insn->cls == INSN_SEGMENT && insn->ends_block && !base_access(insn);
    }
}

static bool acceptable(const struct insn *insn, const struct generator_options *options)
{
    const uint32_t possible = 1u << INSN_GENERIC | 1u << INSN_MOVE | 1u << INSN_STACK | 1u << INSN_STRING |
                              1u << INSN_JCC | 1u << INSN_JMP | 1u << INSN_CALL | 1u << INSN_SEGMENT | 1u << INSN_FLAGS;
    uint32_t classes = options->classes ? options->classes & possible : possible;

    if (options->state_only)
        return (insn->cls == INSN_FPU_ENV || (insn->cls == INSN_GENERIC && insn->mem.masked)) &&
               (options->bits == 64 || insn->mem.seg < SEG_FS);
    if (!(classes >> insn->cls & 1) || unsteady(insn))
        return false;
    if (insn->cls >= INSN_JCC && insn->cls <= INSN_CALL) {
        /* A 16-bit target would leave the code; the manual leaves open what repeat prefixes do to branches (AMD's loops
         * look at them). */
        bool repeat = memchr(insn->bytes, 0xf2, insn->len - insn->imm_len) ||
                      memchr(insn->bytes, 0xf3, insn->len - insn->imm_len);
        return insn->opsize == options->bits / 8 && !options->no_branches && !repeat;
    }
    if (insn->cls == INSN_STRING)
        return insn->opcode < 0x6c || insn->opcode > 0x6f; /* ins, outs */
    if (insn->cls == INSN_FLAGS)
        return insn->mnemonic == ZYDIS_MNEMONIC_CLD || insn->mnemonic == ZYDIS_MNEMONIC_STD;
    if (insn->mnemonic == ZYDIS_MNEMONIC_POPF || insn->mnemonic == ZYDIS_MNEMONIC_POPFD ||
        insn->mnemonic == ZYDIS_MNEMONIC_POPFQ)
        return false; /* TF, AC, NT from random memory: tested on their own */
    /* FS and GS of 32-bit code are null: every access is #GP, nothing to learn. */
    return options->bits == 64 || !(insn->mem.present && insn->mem.seg >= SEG_FS);
}

static enum insn_mode mode_of(const struct generator_case *c)
{
    return c->bits == 64 ? INSN_MODE_64 : INSN_MODE_32;
}

static bool append(struct generator_case *c, const uint8_t *bytes, unsigned len)
{
    struct generator_insn *g = &c->insns[c->count];
    if (c->count == GENERATOR_MAX_INSNS || insn_decode(&g->insn, bytes, len, mode_of(c)) != (int)len)
        return false;
    g->branch = g->code_address = g->indirect = false;
    g->address = 0;
    c->count++;
    return true;
}

/* The shortest form that loads all of the register. */
static void append_mov(struct generator_case *c, unsigned reg, uint64_t value)
{
    uint8_t b[10];
    unsigned n = 0;
    bool wide = c->bits == 64 && value >> 32;

    if (reg >= 8 || wide)
        b[n++] = (uint8_t)(0x40 | (wide ? 8 : 0) | reg >> 3);
    b[n++] = (uint8_t)(0xb8 | (reg & 7));
    memcpy(b + n, &value, wide ? 8 : 4);
    append(c, b, n + (wide ? 8 : 4));
}

/* An address that an operand with this address size and segment reaches: the part of it in front of the segment. A
 * 32-bit address gets garbage above, which must not matter. */
static uint64_t steered(const struct generator_case *c, uint64_t *r, const struct insn *insn, uint64_t pointer)
{
    uint64_t high = chance(r, 50) ? generator_random(r) << 32 : 0;

    if (c->bits == 32)
        return pointer;
    pointer -= insn->mem.seg == SEG_FS ? c->state.fs_base : insn->mem.seg == SEG_GS ? c->state.gs_base : 0;
    return insn->addrsize == 4 ? (uint32_t)pointer | high : pointer;
}

/* Repeated moves between two linear addresses of the same memory: processors look at the linear ones when they decide
 * in what pieces and order to move. */
static bool repeated_move(const struct insn *insn)
{
    return insn->cls == INSN_STRING && (insn->opcode & 0xfe) == 0xa4 && (insn->rep || insn->repne);
}

static void steer_string(struct generator_case *c, uint64_t *r, const struct insn *insn)
{
    uint64_t source = random_pointer(c, r), high = generator_random(r) << 32;
    uint64_t destination = chance(r, 40) ? source + below(r, 16) - 8 : random_pointer(c, r);

    if (insn->opcode == 0xd7) {
        append_mov(c, GPR_BX, steered(c, r, insn, source));
        return;
    }
    append_mov(c, GPR_SI, steered(c, r, insn, source));
    if (c->bits == 64 && repeated_move(insn))
        destination = (source & ~0xffffffffull) | (uint32_t)destination;
    if (insn->addrsize == 4 && c->bits == 64)
        destination = (uint32_t)destination | high;
    append_mov(c, GPR_DI, destination);
    if (insn->rep || insn->repne)
        append_mov(c, GPR_CX,
                   (chance(r, 20) ? below(r, 6000) : below(r, 40)) |
                       (insn->addrsize == 4 && c->bits == 64 && chance(r, 50) ? high : 0));
}

/* Loads registers so that the operand comes to lie in the test's pages. */
static void steer(struct generator_case *c, uint64_t *r, struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;

    if (insn->cls == INSN_STRING) {
        steer_string(c, r, insn);
        return;
    }
    uint64_t pointer = steered(c, r, insn, random_pointer(c, r));
    if (mem->bit_string && insn->reg.num != mem->base) {
        uint64_t number = (uint64_t)below(r, 4096) - 2048, high = 0;
        /* a bit number beyond the reach of 32-bit addresses: the sum wraps back */
        if (insn->opsize == 8 && insn->addrsize == 4 && insn->reg.num != mem->index && mem->base < GPR_COUNT)
            high = generator_random(r) << 32;
        append_mov(c, insn->reg.num, number + high);
        pointer -= high >> 3;
    }
    if (mem->index != GPR_NONE && !mem->vsib && mem->index != mem->base) {
        uint64_t index = (uint64_t)below(r, 64) - 16;
        append_mov(c, mem->index, index);
        pointer -= index * mem->scale;
    }
    if (mem->base < GPR_COUNT)
        append_mov(c, mem->base, pointer - (uint64_t)mem->disp);
}

/* EDX:EAX choose among the components. The host may have more of them than the machine: none but those it has. */
static bool chooses_components(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return true;
    default:
        return false;
    }
}

static bool steer_components(struct generator_case *c, uint64_t *r, const struct insn *insn)
{
    const unsigned used = 1u << GPR_AX | 1u << GPR_DX;
    const struct insn_mem *mem = &insn->mem;

    if ((mem->base < GPR_COUNT && (used >> mem->base & 1)) || (mem->index < GPR_COUNT && (used >> mem->index & 1)))
        return false;
    append_mov(c, GPR_AX, below(r, 8));
    append_mov(c, GPR_DX, 0);
    return true;
}

/* An absolute address is in the bytes themselves: put it where the decoder found the displacement. */
static void steer_absolute(const struct generator_case *c, uint64_t *r, struct insn *insn, uint8_t *bytes)
{
    uint64_t pointer = steered(c, r, insn, random_pointer(c, r));
    unsigned size = insn->mem.moffs ? insn->addrsize : 4;

    if (!insn->mem.present || insn->mem.base != GPR_NONE || insn->addrsize == 2 ||
        (insn->mem.index != GPR_NONE && !insn->mem.vsib))
        return;
    memcpy(bytes + insn->len - insn->imm_len - size, &pointer, size);
    insn_decode(insn, bytes, insn->len, mode_of(c));
}

/* A jump or call through a register or through memory below the stack pointer, or a return. */
static bool append_indirect(struct generator_case *c, uint64_t *r)
{
    unsigned reg = below(r, c->bits == 64 ? 16 : 8), ext = reg >> 3, low = reg & 7, kind = below(r, 5);
    uint64_t any = (c->base + NATIVE_CODE) | (c->base ? 0 : chance(r, 50));
    const uint8_t rex = (uint8_t)(0x40 | ext), rex_reg = (uint8_t)(0x48 | ext << 2);
    const uint8_t through[] = {rex, 0xff, (uint8_t)((kind ? 0xe0 : 0xd0) | low)}; /* call, jmp */
    const uint8_t push[] = {rex, (uint8_t)(0x50 | low)};
    const uint8_t store[] = {rex_reg, 0x89, (uint8_t)(0x44 | low << 3), 0x24, 0xe8}; /* mov [rsp - 24], reg */
    static const uint8_t jump[] = {0xff, 0x64, 0x24, 0xe8}, ret[] = {0xc3}, ret_more[] = {0xc2, 0x10, 0x00};
    unsigned skip = c->bits == 32; /* no REX */

    if (reg == GPR_SP || c->count + 4 > GENERATOR_MAX_INSNS)
        return false;
    append_mov(c, reg, any);
    c->insns[c->count - 1].code_address = true;
    if (kind < 2) {
        append(c, through + skip, sizeof through - skip);
    } else if (kind == 2) {
        append(c, store + skip, sizeof store - skip);
        append(c, jump, sizeof jump);
    } else {
        append(c, push + skip, sizeof push - skip);
        append(c, kind == 3 ? ret : ret_more, kind == 3 ? sizeof ret : sizeof ret_more);
    }
    c->insns[c->count - 1].indirect = true;
    return true;
}

/* What compilers and kernels do with RSP, and what reads the flags of it. 64-bit code. The last byte is at random where
 * it is zero here, in small steps of eight. */
static bool append_stack_insn(struct generator_case *c, uint64_t *r)
{
    static const struct {
        uint8_t len, bytes[7];
    } some[] = {{4, {0x48, 0x83, 0xec, 0}},                   /* sub rsp, n */
                {4, {0x48, 0x83, 0xc4, 0}},                   /* add rsp, n */
                {7, {0x48, 0x81, 0xc4, 0, 0xff, 0xff, 0xff}}, /* add rsp, -256 */
                {7, {0x48, 0x81, 0xec, 0x10, 1, 0, 0}},       /* sub rsp, 0x110 */
                {4, {0x48, 0x83, 0xe4, 0xf0}},                /* and rsp, -16 */
                {4, {0x48, 0x83, 0xcc, 0}},                   /* or rsp, n */
                {5, {0x48, 0x8d, 0x64, 0x24, 0}},             /* lea rsp, [rsp + n] */
                {4, {0x48, 0x8d, 0x65, 0}},                   /* lea rsp, [rbp + n] */
                {5, {0x48, 0x8d, 0x44, 0x24, 0}},             /* lea rax, [rsp + n] */
                {4, {0x8d, 0x44, 0x24, 0}},                   /* lea eax, [rsp + n] */
                {5, {0x4c, 0x8d, 0x74, 0x94, 0}},             /* lea r14, [rsp + rdx*4 + n] */
                {3, {0x48, 0x89, 0xe5}},                      /* mov rbp, rsp */
                {3, {0x48, 0x8b, 0xec}},                      /* mov rbp, rsp */
                {3, {0x49, 0x89, 0xe5}},                      /* mov r13, rsp */
                {3, {0x4c, 0x89, 0xec}},                      /* mov rsp, r13 */
                {3, {0x48, 0x89, 0xec}},                      /* mov rsp, rbp */
                {2, {0x89, 0xe5}},                            /* mov ebp, esp */
                {1, {0x54}},                                  /* push rsp */
                {1, {0x5c}},                                  /* pop rsp */
                {2, {0x66, 0x54}},                            /* push sp */
                {2, {0x66, 0x5c}},                            /* pop sp */
                {1, {0x55}},                                  /* push rbp */
                {1, {0x5d}},                                  /* pop rbp */
                {2, {0x41, 0x57}},                            /* push r15 */
                {2, {0x41, 0x5c}},                            /* pop r12 */
                {2, {0x6a, 0}},                               /* push n */
                {4, {0xff, 0x74, 0x24, 0}},                   /* push [rsp + n] */
                {4, {0x8f, 0x44, 0x24, 0}},                   /* pop [rsp + n] */
                {1, {0xc9}},                                  /* leave */
                {4, {0xc8, 0x20, 0, 0}},                      /* enter 32, n */
                {2, {0x48, 0x94}},                            /* xchg rax, rsp */
                {5, {0x48, 0x87, 0x64, 0x24, 0}},             /* xchg [rsp + n], rsp */
                {3, {0x48, 0x39, 0xe0}},                      /* cmp rax, rsp */
                {5, {0x48, 0x3b, 0x64, 0x24, 0}},             /* cmp rsp, [rsp + n] */
                {5, {0x48, 0x89, 0x64, 0x24, 0}},             /* mov [rsp + n], rsp */
                {5, {0x48, 0x03, 0x64, 0x24, 0}},             /* add rsp, [rsp + n] */
                {4, {0x48, 0x0f, 0x44, 0xe5}},                /* cmove rsp, rbp */
                {3, {0x48, 0xff, 0xc4}},                      /* inc rsp */
                {3, {0x48, 0x11, 0xe0}},                      /* adc rax, rsp */
                {3, {0x0f, 0x94, 0xc1}},                      /* sete cl */
                {3, {0x0f, 0x98, 0xc5}},                      /* sets ch */
                {1, {0x9c}}};                                 /* pushfq */
    unsigned n = below(r, sizeof some / sizeof some[0]), len = some[n].len;
    uint8_t bytes[7];
    memcpy(bytes, some[n].bytes, sizeof bytes);
    if (len > 1 && !bytes[len - 1])
        bytes[len - 1] = (uint8_t)(len == 7 ? 0 : chance(r, 90) ? 8 * below(r, 16) : below(r, 256));
    if (bytes[0] == 0xc8)
        bytes[3] &= 1;
    return append(c, bytes, len);
}

/* Or does what steers it. */
static bool uses(const struct insn *insn, unsigned reg)
{
    return ((insn->gpr_read | insn->gpr_write) >> reg & 1) ||
           (insn->cls == INSN_STRING && (reg == GPR_SI || reg == GPR_DI));
}

/* Moves an instruction's base register, by what an array's elements have, or a page. */
static void append_stride(struct generator_case *c, uint64_t *r, const struct insn *insn)
{
    static const int32_t strides[] = {1, 4, 8, -8, 64, -128, 4096};
    unsigned reg = insn->mem.base, n = 0;
    uint8_t b[8];
    int32_t by = strides[below(r, sizeof strides / sizeof strides[0])];
    if (!insn->mem.present || reg >= GPR_COUNT || reg == GPR_SP || !chance(r, 40))
        return;
    if (c->bits == 64)
        b[n++] = (uint8_t)(0x48 | (reg >> 3) * 5);
    b[n++] = 0x8d; /* lea reg, [reg + by]: as add, but for the flags, which stay defined or not */
    b[n++] = (uint8_t)(0x80 | (reg & 7) << 3 | (reg & 7));
    if ((reg & 7) == GPR_SP)
        b[n++] = 0x24;
    memcpy(b + n, &by, 4);
    append(c, b, n + 4);
}

static bool random_insn(struct generator_case *c, uint64_t *r, const struct generator_options *options)
{
    if (options->stack && chance(r, 60))
        return append_stack_insn(c, r);
    uint8_t bytes[16];
    struct insn insn;
    unsigned n;

    if (!options->no_branches && !options->classes && !options->loop && chance(r, 4) && append_indirect(c, r))
        return true;
    for (unsigned tries = 0; tries < 1000; tries++) {
        n = random_opcode(c, r, bytes);
        bytes[n++] = random_modrm(r);
        while (n < 15)
            bytes[n++] = chance(r, 50) ? (uint8_t)generator_random(r) : (uint8_t)random_value(r);
        if (insn_decode(&insn, bytes, 15, mode_of(c)) <= 0 || !acceptable(&insn, options))
            continue;
        if (options->loop && uses(&insn, c->counter))
            continue;
        if (options->registers && !((insn.gpr_read | insn.gpr_write) & options->registers) && chance(r, 90))
            continue;
        if (chooses_components(&insn) && !steer_components(c, r, &insn))
            continue;
        steer_absolute(c, r, &insn, bytes);
        bool aliases = c->bits == 64 && repeated_move(&insn);
        if (aliases && insn.addrsize == 4 && insn.mem.seg >= SEG_FS)
            continue;
        if ((aliases || chance(r, 90)) && (insn.mem.present || insn.cls == INSN_STRING))
            steer(c, r, &insn);
        if (insn.opreg.cls == REGCLASS_GPR && insn.opreg.num == GPR_SP && insn.opreg.write && chance(r, 80))
            continue;
        if (!append(c, insn.bytes, insn.len))
            return false;
        struct generator_insn *g = &c->insns[c->count - 1];
        g->branch = insn.cls >= INSN_JCC && insn.cls <= INSN_CALL;
        if (insn.mem.present && insn.mem.base == GPR_IP && chance(r, 95))
            g->address = steered(c, r, &insn, c->base + random_low_pointer(r));
        return true;
    }
    return false;
}

/* cmp ecx, edx: gives every flag a value the manual defines. */
static bool settle_flags(struct generator_case *c)
{
    static const uint8_t cmp[] = {0x39, 0xd1};
    return append(c, cmp, sizeof cmp);
}

/* A register that the instructions of a loop leave alone, and the rounds that are left. */
static void choose_counter(struct generator_case *c, uint64_t *r, const struct generator_options *options)
{
    static const uint8_t some[] = {GPR_BX, GPR_SI, GPR_DI, GPR_BP, 8, 9, 10, 11, 12, 13, 14, 15};
    unsigned n = c->bits == 32 ? 4 : 12;
    do
        c->counter = some[below(r, n)];
    while ((options->registers >> c->counter & 1) || (options->stack && (c->counter == GPR_BP || c->counter >= 12)));
    c->state.gpr[c->counter] = 1 + below(r, 12);
}

/* sub counter, 1 ; jnz head (or ja, or jg), or jz end ; jmp head */
static void append_loop(struct generator_case *c, uint64_t *r)
{
    static const uint8_t conditions[] = {5, 7, 15};
    const uint8_t sub[] = {0x41, 0x83, (uint8_t)(0xe8 | (c->counter & 7)), 1}, end[6] = {0x0f, 0x84}, jump[5] = {0xe9};
    uint8_t back[6] = {0x0f, (uint8_t)(0x80 | conditions[below(r, 3)])};
    unsigned skip = c->counter < 8;
    c->loop_head = (uint8_t)below(r, c->count);
    c->loop_end = (uint8_t)c->count;
    append(c, sub + skip, sizeof sub - skip);
    if (chance(r, 75)) {
        append(c, back, sizeof back);
    } else {
        append(c, end, sizeof end);
        c->insns[c->count - 1].branch = true;
        append(c, jump, sizeof jump);
    }
    c->insns[c->count - 1].branch = true;
}

/* Forward, so that every case ends, and back to a loop's head. */
static void choose_targets(struct generator_case *c, uint64_t *r)
{
    uint8_t *load = NULL;

    for (unsigned i = 0; i < c->count; i++) {
        struct generator_insn *g = &c->insns[i];
        if (g->code_address)
            load = &g->target;
        if (g->branch || g->indirect)
            g->target = (uint8_t)(i + 1 + below(r, c->count - i));
        if (g->indirect && load)
            *load = g->target;
        if (c->loop_end && g->target > c->loop_end && g->target < c->count && i < c->loop_end)
            g->target = c->loop_end; /* not past the counting */
    }
    if (c->loop_end) {
        c->insns[c->loop_end + 1].target = (uint8_t)c->count;
        c->insns[c->count - 1].target = c->loop_head;
    }
}

void generator_make(struct generator_case *c, uint64_t seed, const struct generator_options *options)
{
    uint64_t r = seed;
    unsigned undefined = 0;

    memset(c, 0, sizeof *c);
    c->seed = seed;
    c->bits = options->bits;
    if (c->bits == 64 && chance(&r, 60))
        c->base = NATIVE_HIGH;
    random_state(c, &r);
    c->memory_seed = generator_random(&r);
    c->start = chance(&r, 20) ? NATIVE_PAGE - below(&r, 24) : below(&r, 256);
    c->state.rip = c->base + NATIVE_CODE + c->start;
    if (options->loop)
        choose_counter(c, &r, options);
    for (unsigned i = 0; i < options->length && c->count + 8 < GENERATOR_MAX_INSNS; i++) {
        unsigned first = c->count;
        if (!random_insn(c, &r, options))
            break;
        struct generator_insn last = c->insns[c->count - 1];
        if (last.insn.flags_read & undefined) { /* what it would read is open */
            c->count--;
            settle_flags(c);
            c->insns[c->count++] = last;
        }
        for (unsigned k = first; k < c->count; k++)
            undefined = (undefined & ~(unsigned)c->insns[k].insn.flags_written) | c->insns[k].insn.flags_undefined;
        if (undefined && (last.branch || last.indirect)) { /* ways that meet again would carry different open flags */
            last = c->insns[c->count - 1];
            c->count--;
            settle_flags(c);
            c->insns[c->count++] = last;
            undefined = 0;
        }
        if (options->loop && !last.branch)
            append_stride(c, &r, &last.insn);
    }
    if (options->loop && c->count)
        append_loop(c, &r);
    choose_targets(c, &r);
}

/* ---- assembly ---- */

static void compute_undefined(struct generator_case *c)
{
    uint16_t undefined = 0;
    bool branches = false;

    for (unsigned i = 0; i < c->count; i++) {
        const struct insn *insn = &c->insns[i].insn;
        c->undefined[i] = undefined;
        branches |= c->insns[i].branch || c->insns[i].indirect;
        if (!branches) /* behind a branch nothing is sure to have been executed */
            undefined &= (uint16_t)~insn->flags_written;
        undefined |= insn->flags_undefined;
    }
    c->undefined[c->count] = undefined;
}

/* Backwards; all branches go forward but a loop's. Everything counts as read there and at the end. */
static void compute_dead(struct generator_case *c)
{
    uint16_t live[GENERATOR_MAX_INSNS + 1];

    live[c->count] = FLAGS_ARITH;
    c->dead[c->count] = 0;
    for (unsigned i = c->count; i-- > 0;) {
        const struct insn *insn = &c->insns[i].insn;
        unsigned after = live[i + 1];
        if (c->loop_end && i + 1 == c->count)
            after = FLAGS_ARITH;
        else if (c->insns[i].branch || c->insns[i].indirect)
            after |= live[c->insns[i].target > c->count ? c->count : c->insns[i].target];
        live[i] = (uint16_t)(insn->flags_read | (after & ~(unsigned)insn->flags_written));
        c->dead[i] = FLAGS_ARITH & ~live[i];
    }
}

/* Fills in what depends on where the instruction lies. */
static void place(const struct generator_case *c, unsigned i, uint8_t *to)
{
    const struct generator_insn *g = &c->insns[i];
    unsigned len = g->insn.len, target = g->target > c->count ? c->count : g->target;
    uint64_t start = c->base + NATIVE_CODE + c->start;

    memcpy(to, g->insn.bytes, len);
    if (g->address) {
        uint32_t distance = (uint32_t)(g->address - (start + c->offset[i] + len));
        memcpy(to + len - g->insn.imm_len - 4, &distance, 4);
    }
    if (g->code_address) {
        uint64_t address = start + c->offset[target];
        memcpy(to + len - g->insn.imm_len, &address, g->insn.imm_len);
    }
    if (g->branch) {
        int32_t distance = (int32_t)c->offset[target] - (int32_t)c->offset[i] - (int32_t)len;
        if (g->insn.imm_len == 1 && (distance > 127 || distance < -128))
            distance = 0; /* too far for the short form: the next instruction */
        memcpy(to + len - g->insn.imm_len, &distance, g->insn.imm_len);
    }
}

bool generator_assemble(struct generator_case *c, uint8_t *code)
{
    unsigned at = 0;

    for (unsigned i = 0; i < c->count; i++) {
        c->offset[i] = (uint16_t)at;
        at += c->insns[i].insn.len;
    }
    c->offset[c->count] = (uint16_t)at;
    if (c->start + at + 1 > NATIVE_CODE_PAGES * NATIVE_PAGE)
        return false;
    memset(code, 0xcc, NATIVE_CODE_PAGES * NATIVE_PAGE);
    for (unsigned i = 0; i < c->count; i++)
        place(c, i, code + c->start + c->offset[i]);
    compute_undefined(c);
    compute_dead(c);
    return true;
}

int generator_index(const struct generator_case *c, uint64_t rip)
{
    for (unsigned i = 0; i <= c->count; i++)
        if (rip == c->base + NATIVE_CODE + c->start + c->offset[i])
            return (int)i;
    return -1;
}
