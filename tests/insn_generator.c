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

/* An address in or at the edge of the data pages: aligned, anywhere, or around a page boundary. */
static uint32_t random_pointer(uint64_t *r)
{
    uint32_t page = NATIVE32_DATA + below(r, 3) * NATIVE32_PAGE;
    switch (below(r, 16)) {
    case 0: /* around any boundary: read-only, hole, the end */
        return NATIVE32_DATA + (1 + below(r, NATIVE32_DATA_PAGES)) * NATIVE32_PAGE - below(r, 40);
    case 1: /* any page */
        return NATIVE32_DATA + below(r, NATIVE32_DATA_PAGES * NATIVE32_PAGE);
    case 2:
    case 3: /* a boundary inside the writable pages */
        return NATIVE32_DATA + (1 + below(r, 2)) * NATIVE32_PAGE - below(r, 40);
    case 4: /* far from everything */
        return 0x30000000 + below(r, 0x10000000);
    case 5:
    case 6:
    case 7:
        return page + below(r, NATIVE32_PAGE);
    default:
        return page + below(r, NATIVE32_PAGE / 64) * 64;
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
    struct native32_state *s = &c->state;
    uint32_t mxcsr = 0x1f80;

    memset(s, 0, sizeof *s);
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = chance(r, 50) ? random_pointer(r) : random_value(r);
    s->gpr[GPR_SP] = NATIVE32_DATA + NATIVE32_PAGE + below(r, NATIVE32_PAGE / 4) * 4;
    s->eflags = EFLAGS_USER | ((uint32_t)generator_random(r) & (FLAGS_ARITH | (chance(r, 15) ? FLAG_DF : 0)));
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
    for (unsigned i = 0; i < 8 * 16; i += 8) {
        random_element(r, s->xsave + 160 + i);
        random_element(r, s->xsave + 576 + i);
    }
    s->xsave[512] = 7;
}

void generator_fill_memory(const struct generator_case *c, uint8_t *data)
{
    uint64_t r = c->memory_seed;
    for (unsigned i = 0; i < NATIVE32_DATA_PAGES * NATIVE32_PAGE; i += 8)
        random_element(&r, data + i);
}

/* ---- one instruction ---- */

static uint8_t random_modrm(uint64_t *r)
{
    uint8_t v = (uint8_t)generator_random(r);
    return chance(r, 40) ? v | 0xc0 : v;
}

/* Opcode and prefixes; what follows is random and its length is the decoder's business. */
static unsigned random_opcode(uint64_t *r, uint8_t *b)
{
    static const uint8_t segments[] = {0x26, 0x2e, 0x36, 0x3e};
    static const uint8_t mandatory[] = {0x66, 0xf2, 0xf3};
    unsigned n = 0, kind = below(r, 100);

    if (kind >= 75) { /* VEX */
        uint8_t map = (uint8_t)(1 + below(r, 3)), vvvv = chance(r, 35) ? 15 : (uint8_t)generator_random(r) & 15;
        uint8_t pp = chance(r, 60) ? 1 : (uint8_t)below(r, 4), l = (uint8_t)below(r, 2), w = chance(r, 20);
        if (chance(r, 5))
            b[n++] = segments[below(r, 4)];
        if (map == 1 && chance(r, 60)) {
            b[n++] = 0xc5;
            b[n++] = (uint8_t)(0x80 | (vvvv | 8) << 3 | l << 2 | pp);
        } else {
            b[n++] = 0xc4;
            b[n++] = (uint8_t)(0xe0 | map);
            b[n++] = (uint8_t)(w << 7 | vvvv << 3 | l << 2 | pp);
        }
        b[n++] = (uint8_t)generator_random(r);
        return n;
    }
    if (chance(r, 15))
        b[n++] = 0x66;
    if (chance(r, 2))
        b[n++] = 0x67;
    if (chance(r, 4))
        b[n++] = 0xf0;
    if (chance(r, 4))
        b[n++] = segments[below(r, 4)];
    if (kind < 30) {
        if (chance(r, 8))
            b[n++] = 0xf2 | (uint8_t)below(r, 2);
        b[n++] = (uint8_t)generator_random(r);
    } else if (kind < 38) { /* x87 */
        b[n++] = (uint8_t)(0xd8 | below(r, 8));
    } else if (kind < 42) { /* strings */
        if (chance(r, 60))
            b[n++] = 0xf2 | (uint8_t)below(r, 2);
        b[n++] = (uint8_t)(0xa4 + below(r, 12));
    } else {
        if (chance(r, 60))
            b[n++] = mandatory[below(r, 3)];
        b[n++] = 0x0f;
        if (kind >= 66)
            b[n++] = kind < 71 ? 0x38 : 0x3a;
        b[n++] = (uint8_t)generator_random(r);
    }
    return n;
}

/* Not the same twice, or not the same here and there. */
static bool unsteady(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_RDRAND:
    case ZYDIS_MNEMONIC_RDSEED:
        return true;
    default:
        return insn->cls == INSN_SEGMENT && insn->ends_block;
    }
}

static bool acceptable(const struct insn *insn, const struct generator_options *options)
{
    const uint32_t possible = 1u << INSN_GENERIC | 1u << INSN_MOVE | 1u << INSN_STACK | 1u << INSN_STRING |
                              1u << INSN_JCC | 1u << INSN_JMP | 1u << INSN_CALL | 1u << INSN_SEGMENT | 1u << INSN_FLAGS;
    uint32_t classes = options->classes ? options->classes & possible : possible;

    if (options->state_only)
        return (insn->cls == INSN_FPU_ENV || (insn->cls == INSN_GENERIC && insn->mem.masked)) && insn->mem.seg < SEG_FS;
    if (!(classes >> insn->cls & 1) || unsteady(insn))
        return false;
    if (insn->cls >= INSN_JCC && insn->cls <= INSN_CALL) {
        /* A 16-bit target would leave the code; the manual leaves open what repeat prefixes do to branches (AMD's loops
         * look at them). */
        bool repeat = memchr(insn->bytes, 0xf2, insn->len - insn->imm_len) ||
                      memchr(insn->bytes, 0xf3, insn->len - insn->imm_len);
        return insn->opsize == 4 && !options->no_branches && !repeat;
    }
    if (insn->cls == INSN_STRING)
        return insn->opcode < 0x6c || insn->opcode > 0x6f; /* ins, outs */
    if (insn->cls == INSN_FLAGS)
        return insn->mnemonic == ZYDIS_MNEMONIC_CLD || insn->mnemonic == ZYDIS_MNEMONIC_STD;
    if (insn->mnemonic == ZYDIS_MNEMONIC_POPF || insn->mnemonic == ZYDIS_MNEMONIC_POPFD)
        return false; /* TF, AC, NT from random memory: tested on their own */
    /* FS and GS are null: every access is #GP, nothing to learn. */
    return !(insn->mem.present && insn->mem.seg >= SEG_FS);
}

static bool append(struct generator_case *c, const uint8_t *bytes, unsigned len)
{
    struct generator_insn *g = &c->insns[c->count];
    if (c->count == GENERATOR_MAX_INSNS || insn_decode(&g->insn, bytes, len, INSN_MODE_32) != (int)len)
        return false;
    g->branch = false;
    c->count++;
    return true;
}

static void append_mov(struct generator_case *c, unsigned reg, uint32_t value)
{
    uint8_t b[5] = {(uint8_t)(0xb8 | reg)};
    memcpy(b + 1, &value, 4);
    append(c, b, 5);
}

/* Loads registers so that the operand comes to lie in the test's pages. */
static void steer(struct generator_case *c, uint64_t *r, struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;
    uint32_t pointer = random_pointer(r);

    if (insn->cls == INSN_STRING) {
        bool xlat = insn->opcode == 0xd7;
        if (xlat)
            append_mov(c, GPR_BX, pointer);
        else
            append_mov(c, GPR_SI, pointer);
        if (!xlat)
            append_mov(c, GPR_DI, chance(r, 40) ? pointer + below(r, 16) - 8 : random_pointer(r));
        if (insn->rep || insn->repne)
            append_mov(c, GPR_CX, chance(r, 20) ? below(r, 6000) : below(r, 40));
        return;
    }
    if (mem->bit_string && insn->reg.num != mem->base)
        append_mov(c, insn->reg.num, (uint32_t)(below(r, 4096) - 2048));
    if (mem->index != GPR_NONE && !mem->vsib && mem->index != mem->base) {
        uint32_t index = below(r, 64) - 16;
        append_mov(c, mem->index, index);
        pointer -= index * mem->scale;
    }
    if (mem->base != GPR_NONE && mem->base < 8)
        append_mov(c, mem->base, pointer - (uint32_t)mem->disp);
}

/* An absolute address is in the bytes themselves: put it where the decoder found the displacement. */
static void steer_absolute(uint64_t *r, struct insn *insn, uint8_t *bytes)
{
    uint32_t pointer = random_pointer(r);
    if (!insn->mem.present || insn->mem.base != GPR_NONE || insn->addrsize != 4 ||
        (insn->mem.index != GPR_NONE && !insn->mem.vsib))
        return;
    memcpy(bytes + insn->len - insn->imm_len - 4, &pointer, 4);
    insn_decode(insn, bytes, insn->len, INSN_MODE_32);
}

static bool random_insn(struct generator_case *c, uint64_t *r, const struct generator_options *options)
{
    uint8_t bytes[16];
    struct insn insn;
    unsigned n;

    for (unsigned tries = 0; tries < 1000; tries++) {
        n = random_opcode(r, bytes);
        bytes[n++] = random_modrm(r);
        while (n < 15)
            bytes[n++] = chance(r, 50) ? (uint8_t)generator_random(r) : (uint8_t)random_value(r);
        if (insn_decode(&insn, bytes, 15, INSN_MODE_32) <= 0 || !acceptable(&insn, options))
            continue;
        steer_absolute(r, &insn, bytes);
        if (chance(r, 90) && (insn.mem.present || insn.cls == INSN_STRING))
            steer(c, r, &insn);
        if (insn.opreg.cls == REGCLASS_GPR && insn.opreg.num == GPR_SP && insn.opreg.write && chance(r, 80))
            continue;
        if (!append(c, insn.bytes, insn.len))
            return false;
        c->insns[c->count - 1].branch = insn.cls >= INSN_JCC && insn.cls <= INSN_CALL;
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

void generator_make(struct generator_case *c, uint64_t seed, const struct generator_options *options)
{
    uint64_t r = seed;
    unsigned undefined = 0;

    memset(c, 0, sizeof *c);
    c->seed = seed;
    random_state(c, &r);
    c->memory_seed = generator_random(&r);
    c->start = chance(&r, 20) ? NATIVE32_PAGE - below(&r, 24) : below(&r, 256);
    c->state.eip = NATIVE32_CODE + c->start;
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
        if (undefined && last.branch) { /* ways that meet again would carry different open flags */
            last = c->insns[c->count - 1];
            c->count--;
            settle_flags(c);
            c->insns[c->count++] = last;
            undefined = 0;
        }
    }
    for (unsigned i = 0; i < c->count; i++)
        if (c->insns[i].branch)
            c->insns[i].target = (uint8_t)(i + 1 + below(&r, c->count - i));
}

/* ---- assembly ---- */

static void compute_undefined(struct generator_case *c)
{
    uint16_t undefined = 0;
    bool branches = false;

    for (unsigned i = 0; i < c->count; i++) {
        const struct insn *insn = &c->insns[i].insn;
        c->undefined[i] = undefined;
        branches |= c->insns[i].branch;
        if (!branches) /* behind a branch nothing is sure to have been executed */
            undefined &= (uint16_t)~insn->flags_written;
        undefined |= insn->flags_undefined;
    }
    c->undefined[c->count] = undefined;
}

/* Backwards; all branches go forward. Everything counts as read at the end. */
static void compute_dead(struct generator_case *c)
{
    uint16_t live[GENERATOR_MAX_INSNS + 1];

    live[c->count] = FLAGS_ARITH;
    c->dead[c->count] = 0;
    for (unsigned i = c->count; i-- > 0;) {
        const struct insn *insn = &c->insns[i].insn;
        unsigned after = live[i + 1];
        if (c->insns[i].branch)
            after |= live[c->insns[i].target > c->count ? c->count : c->insns[i].target];
        live[i] = (uint16_t)(insn->flags_read | (after & ~(unsigned)insn->flags_written));
        c->dead[i] = FLAGS_ARITH & ~live[i];
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
    if (c->start + at + 1 > NATIVE32_CODE_PAGES * NATIVE32_PAGE)
        return false;
    memset(code, 0xcc, NATIVE32_CODE_PAGES * NATIVE32_PAGE);
    for (unsigned i = 0; i < c->count; i++) {
        struct generator_insn *g = &c->insns[i];
        uint8_t *to = code + c->start + c->offset[i];
        memcpy(to, g->insn.bytes, g->insn.len);
        if (!g->branch)
            continue;
        uint32_t target = g->target > c->count ? c->count : g->target;
        int32_t distance = (int32_t)c->offset[target] - (int32_t)c->offset[i] - g->insn.len;
        if (g->insn.imm_len == 1 && (distance > 127 || distance < -128))
            distance = 0; /* too far for the short form: the next instruction */
        memcpy(to + g->insn.len - g->insn.imm_len, &distance, g->insn.imm_len);
    }
    compute_undefined(c);
    compute_dead(c);
    return true;
}

int generator_index(const struct generator_case *c, uint32_t eip)
{
    for (unsigned i = 0; i <= c->count; i++)
        if (eip == NATIVE32_CODE + c->start + c->offset[i])
            return (int)i;
    return -1;
}

bool generator_leaves_traces(const struct generator_case *c, unsigned index)
{
    if (index >= c->count)
        return false;
    unsigned mnemonic = c->insns[index].insn.mnemonic;
    return mnemonic == ZYDIS_MNEMONIC_POPA || mnemonic == ZYDIS_MNEMONIC_POPAD || mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
}
