/* SPDX-License-Identifier: MIT */
/* What the model's vendor decides (cpu/cpuid.h), as both vendors on any host. */
#include "cpu/execute.h"
#include "tests/cpu_world.h"
#include "tests/test.h"

static int run(struct world *w, const char *bytes, unsigned len, enum insn_mode mode)
{
    struct insn insn;
    w->cpu->rip = AT_CODE;
    CU_ASSERT_EQUAL(insn_decode(&insn, (const uint8_t *)bytes, len, mode), (int)len);
    return cpu_execute(w->cpu, &insn);
}

static void pushed_selector(void)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct world *w = world_protected(0);
        w->model.amd = amd;
        w->cpu->gpr[GPR_SP] = AT_SCRATCH + 16;
        poke(w, AT_SCRATCH + 8, ~0ull, 8);
        CU_ASSERT_EQUAL(run(w, "\x1e", 1, INSN_MODE_32), CPU_OK); /* push ds */
        CU_ASSERT_EQUAL(w->cpu->gpr[GPR_SP], AT_SCRATCH + 12);
        CU_ASSERT_EQUAL(peek(w, AT_SCRATCH + 12, 4), amd ? DATA0 : 0xffff0000 | DATA0);
        CU_ASSERT_EQUAL(peek(w, AT_SCRATCH + 8, 4), 0xffffffff);
        world_destroy(w);
    }
    for (unsigned amd = 0; amd < 2; amd++) { /* a 64-bit slot is always filled */
        struct world *w = world_long(0);
        w->model.amd = amd;
        w->cpu->gpr[GPR_SP] = AT_SCRATCH + 16;
        poke(w, AT_SCRATCH + 8, ~0ull, 8);
        uint16_t selector = w->cpu->seg[SEG_FS].selector;
        CU_ASSERT_EQUAL(run(w, "\x0f\xa0", 2, INSN_MODE_64), CPU_OK); /* push fs */
        CU_ASSERT_EQUAL(peek(w, AT_SCRATCH + 8, 8), selector);
        world_destroy(w);
    }
}

static void flags_of_a_faulting_compare(void)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct world *w = world_protected(0);
        struct cpu *cpu = w->cpu;
        w->model.amd = amd;
        cpu->seg[SEG_ES].limit = AT_SCRATCH + 3;
        cpu->seg[SEG_ES].attr &= ~SEG_G;
        poke(w, AT_SCRATCH, 0x01010101, 4);
        cpu->gpr[GPR_AX] = 0;
        cpu->gpr[GPR_CX] = 10;
        cpu->gpr[GPR_DI] = AT_SCRATCH;
        cpu->rflags |= FLAG_ZF;
        cpu->rflags &= ~(uint64_t)FLAG_CF;
        CU_ASSERT_EQUAL(run(w, "\xf2\xae", 2, INSN_MODE_32), CPU_FAULT); /* repne scasb */
        CU_ASSERT_EQUAL(cpu->gpr[GPR_CX], 6);
        CU_ASSERT_EQUAL(cpu->gpr[GPR_DI], AT_SCRATCH + 4);
        CU_ASSERT_EQUAL(cpu->rflags & (FLAG_ZF | FLAG_CF), amd ? FLAG_CF : FLAG_ZF);
        world_destroy(w);
    }
}

static void upper_halves_before_a_string(void)
{
    static const struct {
        const char *bytes;
        bool si, di;                             /* Intel's clear the upper half */
    } forms[] = {{"\x67\xf3\xa4", true, true},   /* movsb */
                 {"\x67\xf3\xaa", false, true},  /* stosb */
                 {"\x67\xf3\xac", false, false}, /* lodsb */
                 {"\x67\xf3\xa6", false, false}, /* cmpsb */
                 {"\x67\xf3\xae", false, false} /* scasb */};
    const uint64_t high = 0x1234567800000000;

    for (unsigned i = 0; i < 2 * sizeof forms / sizeof forms[0]; i++) {
        struct world *w = world_long(0);
        struct cpu *cpu = w->cpu;
        bool amd = i & 1;
        w->model.amd = amd;
        cpu->gpr[GPR_CX] = high;
        cpu->gpr[GPR_SI] = cpu->gpr[GPR_DI] = high | AT_SCRATCH;
        CU_ASSERT_EQUAL(run(w, forms[i / 2].bytes, 3, INSN_MODE_64), CPU_OK);
        CU_ASSERT_EQUAL(cpu->gpr[GPR_CX], amd ? high : 0);
        CU_ASSERT_EQUAL(cpu->gpr[GPR_SI], (!amd && forms[i / 2].si ? 0 : high) | AT_SCRATCH);
        CU_ASSERT_EQUAL(cpu->gpr[GPR_DI], (!amd && forms[i / 2].di ? 0 : high) | AT_SCRATCH);
        world_destroy(w);
    }
}

TEST_SUITE(cpu_vendor, {"push of a selector with a 32-bit operand", pushed_selector},
           {"flags after a fault in a repeated compare", flags_of_a_faulting_compare},
           {"upper halves of RCX, RSI, RDI with 32-bit addresses", upper_halves_before_a_string})
