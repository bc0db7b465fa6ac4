/* SPDX-License-Identifier: MIT */
/* The native runner against results known from the manual; and the decoder's claims about registers and flags, on which
 * the translator's liveness rests, against the processor: what is not written stays, what is not read does not matter.
 */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DATA_BYTES = NATIVE_DATA_PAGES * NATIVE_PAGE };

static struct native_state plain_state(void)
{
    struct native_state s = {.rip = NATIVE_CODE, .rflags = EFLAGS_USER};
    static const uint8_t fcw[2] = {0x7f, 0x03}, mxcsr[4] = {0x80, 0x1f};
    memcpy(s.xsave, fcw, 2);
    memcpy(s.xsave + 24, mxcsr, 4);
    s.xsave[512] = 7;
    s.gpr[GPR_SP] = NATIVE_DATA + NATIVE_PAGE;
    return s;
}

static struct native_result run_bytes(struct native *n, const struct native_state *s, const uint8_t *code, size_t len)
{
    struct native_result r = {0};
    memset(native_code(n), 0xcc, NATIVE_PAGE);
    memcpy(native_code(n), code, len);
    CU_ASSERT(native_run(n, s, &r));
    return r;
}

static void known_results(void)
{
    static const uint8_t add[] = {0x01, 0xd8};                       /* add eax, ebx */
    static const uint8_t load[] = {0x8b, 0x01};                      /* mov eax, [ecx] */
    static const uint8_t store[] = {0x89, 0x01};                     /* mov [ecx], eax */
    static const uint8_t divide[] = {0xf7, 0xf1};                    /* div ecx */
    static const uint8_t undefined[] = {0x0f, 0x0b};                 /* ud2 */
    static const uint8_t fpu[] = {0xd9, 0xe8, 0xd8, 0xc0};           /* fld1; fadd st0, st0 */
    static const uint8_t forever[] = {0xeb, 0xfe};                   /* jmp . */
    static const uint8_t escape[] = {0xb8, 20, 0, 0, 0, 0xcd, 0x80}; /* getpid: not allowed there */
    struct native_state s = plain_state();
    struct native_result r;
    const char *why;
    struct native *n = native_start(32, &why);

    if (!n) {
        test_skip(why);
        return;
    }
    s.gpr[GPR_AX] = 0x7fffffff;
    s.gpr[GPR_BX] = 1;
    r = run_bytes(n, &s, add, sizeof add);
    CU_ASSERT(r.vector == 3 && r.state.gpr[GPR_AX] == 0x80000000 && r.state.rip == NATIVE_CODE + 3);
    CU_ASSERT((r.state.rflags & FLAGS_ARITH) == (FLAG_OF | FLAG_SF | FLAG_AF | FLAG_PF));
    s.gpr[GPR_CX] = NATIVE_DATA + 4 * NATIVE_PAGE;
    r = run_bytes(n, &s, load, sizeof load);
    CU_ASSERT(r.vector == 14 && r.cr2 == s.gpr[GPR_CX] && r.error == 4 && r.state.rip == NATIVE_CODE);
    s.gpr[GPR_CX] = NATIVE_DATA + 3 * NATIVE_PAGE;
    r = run_bytes(n, &s, store, sizeof store);
    CU_ASSERT(r.vector == 14 && r.cr2 == s.gpr[GPR_CX] && r.error == 7);
    s.gpr[GPR_CX] = 0;
    r = run_bytes(n, &s, divide, sizeof divide);
    CU_ASSERT(r.vector == 0 && r.state.rip == NATIVE_CODE);
    r = run_bytes(n, &s, undefined, sizeof undefined);
    CU_ASSERT(r.vector == 6);
    r = run_bytes(n, &s, fpu, sizeof fpu);
    CU_ASSERT(r.vector == 3 && r.state.xsave[4] == 0x80 && r.state.xsave[32 + 9] == 0x40 && r.state.xsave[32 + 8] == 0);
    memcpy(native_code(n), escape, sizeof escape);
    CU_ASSERT(!native_run(n, &s, &r)); /* killed, and started again */
    memcpy(native_code(n), forever, sizeof forever);
    CU_ASSERT(!native_run(n, &s, &r));
    r = run_bytes(n, &s, fpu, sizeof fpu);
    CU_ASSERT(r.vector == 3);
    native_stop(n);
}

/* ---- the decoder's claims ---- */

/* What a steering mov loads. */
static uint64_t load_value(const struct insn *insn)
{
    return insn->opsize == 8 ? insn->imm : (uint32_t)insn->imm;
}

/* Puts what the steering movs load into the initial state and leaves the last instruction alone. */
static bool fold(struct generator_case *c)
{
    if (!c->count)
        return false;
    for (unsigned i = 0; i + 1 < c->count; i++)
        c->state.gpr[c->insns[i].insn.opreg.num & 15] = load_value(&c->insns[i].insn);
    c->insns[0] = c->insns[c->count - 1];
    c->count = 1;
    return true;
}

static bool run_from(struct native *n, const struct generator_case *c, const struct native_state *s,
                     struct native_result *out, uint8_t *data)
{
    generator_fill_memory(c, native_data(n));
    if (!native_run(n, s, out))
        return false;
    memcpy(data, native_data(n), DATA_BYTES);
    return true;
}

/* What must be equal although the inputs differ: everything but preserved registers and flags. */
static const char *same_outputs(const struct insn *insn, const struct native_result *a, const struct native_result *b)
{
    struct native_result x = *a, y = *b;
    for (unsigned i = 0; i < 16; i++)
        if (!(insn->gpr_write >> i & 1))
            x.state.gpr[i] = y.state.gpr[i] = 0;
    uint32_t ignored = FLAGS_ARITH & ~(insn->flags_written & ~insn->flags_undefined);
    static const uint8_t none[DATA_BYTES];
    return flat_machine_compare(&x, &y, none, none, ignored, true);
}

static const char *check_claims(struct native *n, struct generator_case *c, uint64_t *random)
{
    static uint8_t data[3][DATA_BYTES];
    const struct insn *insn = &c->insns[0].insn;
    struct native_state other;
    struct native_result base, r;
    uint32_t may = (uint32_t)(insn->flags_written | insn->flags_maybe), untouched = FLAGS_ARITH & ~may;
    uint32_t unread = FLAGS_ARITH & ~(uint32_t)insn->flags_read;

    if (!run_from(n, c, &c->state, &base, data[0]))
        return "no result";
    if ((base.state.rflags ^ c->state.rflags) & untouched)
        return "flags change that are said not to be written";
    for (unsigned i = 0; i < 16; i++)
        if (!(insn->gpr_write >> i & 1) && base.state.gpr[i] != c->state.gpr[i])
            return "a register changes that is said not to be written";
    other = c->state;
    other.rflags ^= unread;
    if (!run_from(n, c, &other, &r, data[1]))
        return "no result";
    const char *differs = base.vector == 3 ? same_outputs(insn, &base, &r) : NULL;
    if (differs || memcmp(data[0], data[1], DATA_BYTES))
        return "flags matter that are said not to be read";
    other = c->state;
    for (unsigned i = 0; i < 16; i++)
        if (!(insn->gpr_read >> i & 1))
            other.gpr[i] = c->bits == 64 ? generator_random(random) : (uint32_t)generator_random(random);
    if (!run_from(n, c, &other, &r, data[2]))
        return "no result";
    differs = same_outputs(insn, &base, &r);
    if ((differs && base.vector == 3) || base.vector != r.vector || memcmp(data[0], data[2], DATA_BYTES))
        return "a register matters that is said not to be read";
    return NULL;
}

static void decoder_claims(unsigned bits)
{
    const struct generator_options options = {.bits = bits,
                                              .length = 1,
                                              .classes = 1u << INSN_GENERIC | 1u << INSN_MOVE | 1u << INSN_STRING,
                                              .no_branches = true};
    const char *count = getenv("RINGFOLD_DIFF_COUNT"), *seed = getenv("RINGFOLD_DIFF_SEED"), *why;
    unsigned long cases = count ? strtoul(count, NULL, 0) : 1500, first = seed ? strtoul(seed, NULL, 0) : 1;
    struct native *n = native_start(bits, &why);
    uint64_t random = first;
    unsigned failures = 0;

    if (!n) {
        test_skip(why);
        return;
    }
    for (unsigned long i = 0; i < cases && failures < 10; i++) {
        struct generator_case c;
        generator_make(&c, first + i, &options);
        if (!fold(&c) || !generator_assemble(&c, native_code(n)))
            continue;
        const char *wrong = check_claims(n, &c, &random);
        if (!wrong)
            continue;
        const struct insn *insn = &c.insns[0].insn;
        printf("decoder: %s (gpr read %x written %x, flags read %x written %x maybe %x)\n", wrong, insn->gpr_read,
               insn->gpr_write, insn->flags_read, insn->flags_written, insn->flags_maybe);
        flat_machine_print_case(&c);
        failures++;
    }
    CU_ASSERT(failures == 0);
    native_stop(n);
}

static void decoder_claims32(void)
{
    decoder_claims(32);
}

static void decoder_claims64(void)
{
    decoder_claims(64);
}

TEST_SUITE(native, {"known results, faults, and a helper that is lost", known_results},
           {"the decoder's register and flag masks hold on the processor", decoder_claims32},
           {"the decoder's register and flag masks hold on the processor, 64 bits", decoder_claims64})
