/* SPDX-License-Identifier: MIT */
/* Repeated SCAS and CMPS over long runs of alike elements, against the processor: where they end, and with which flags.
 */
#include "cpu/execute.h"
#include "tests/cpu_world.h"
#include "tests/test.h"

#include <string.h>

enum { BYTES = 200, A = AT_SCRATCH + 64, B = AT_SCRATCH + 1024 };

struct outcome {
    uint64_t cx, si, di, flags;
};

#define HOST(prefix, name)                                                                                             \
    __asm__ volatile("cld\n\t" prefix name "\n\tpushfq\n\tpop %3"                                                      \
                     : "+S"(a), "+D"(b), "+c"(n), "=r"(flags)                                                          \
                     : "a"(value)                                                                                      \
                     : "memory", "cc")
#define HOST_BY_SIZE(prefix, name)                                                                                     \
    do {                                                                                                               \
        if (size == 1)                                                                                                 \
            HOST(prefix, name "b");                                                                                    \
        else if (size == 2)                                                                                            \
            HOST(prefix, name "w");                                                                                    \
        else if (size == 4)                                                                                            \
            HOST(prefix, name "l");                                                                                    \
        else                                                                                                           \
            HOST(prefix, name "q");                                                                                    \
    } while (0)

static struct outcome by_the_processor(bool scans, bool repne, unsigned size, uint64_t value, const uint8_t *a0,
                                       const uint8_t *b0, uint64_t n)
{
    const uint8_t *a = a0, *b = b0;
    uint64_t flags;
    if (scans && repne)
        HOST_BY_SIZE("repne ", "scas");
    else if (scans)
        HOST_BY_SIZE("repe ", "scas");
    else if (repne)
        HOST_BY_SIZE("repne ", "cmps");
    else
        HOST_BY_SIZE("repe ", "cmps");
    return (struct outcome){n, (uint64_t)(a - a0), (uint64_t)(b - b0), flags & FLAGS_ARITH};
}

static struct outcome by_cpu_execute(struct world *w, bool scans, bool repne, unsigned size, uint64_t value, uint64_t n)
{
    uint8_t code[4], *p = code;
    struct insn insn;
    *p++ = repne ? 0xf2 : 0xf3;
    if (size == 2)
        *p++ = 0x66;
    if (size == 8)
        *p++ = 0x48;
    *p++ = (uint8_t)((scans ? 0xae : 0xa6) | (size > 1));
    CU_ASSERT(insn_decode(&insn, code, (size_t)(p - code), INSN_MODE_64) > 0);
    w->cpu->gpr[GPR_AX] = value;
    w->cpu->gpr[GPR_CX] = n;
    w->cpu->gpr[GPR_SI] = A;
    w->cpu->gpr[GPR_DI] = B;
    w->cpu->rip = AT_CODE;
    while (w->cpu->rip == AT_CODE) {
        w->cpu->next_rip = AT_CODE + insn.len;
        CU_ASSERT_EQUAL_FATAL(cpu_execute(w->cpu, &insn), CPU_OK);
    }
    return (struct outcome){w->cpu->gpr[GPR_CX], w->cpu->gpr[GPR_SI] - A, w->cpu->gpr[GPR_DI] - B,
                            w->cpu->rflags & FLAGS_ARITH};
}

/* n elements, all alike but that at `odd`, where one byte differs (n or more: none does). */
static bool agrees(struct world *w, bool scans, bool repne, unsigned size, uint64_t n, uint64_t odd)
{
    static const uint8_t pattern[8] = {0x80, 0x01, 0x7f, 0x00, 0xff, 0x80, 0x00, 0x01};
    uint8_t a[BYTES + 8], b[BYTES + 8];
    uint64_t value;
    memcpy(&value, pattern, 8);
    for (unsigned i = 0; i < sizeof a; i++)
        a[i] = b[i] = pattern[i % size];
    if (repne) /* alike: none is what is looked for */
        for (unsigned i = 0; i < sizeof b; i += size)
            b[i + (i / size) % size] ^= 0x01;
    if (odd < n && repne)
        memcpy(b + odd * size, pattern, size);
    else if (odd < n)
        b[odd * size + odd % size] ^= 0x80;
    for (unsigned i = 0; i < sizeof a; i++) {
        poke(w, A + i, a[i], 1);
        poke(w, B + i, b[i], 1);
    }
    struct outcome real = by_the_processor(scans, repne, size, value, a, b, n);
    struct outcome ours = by_cpu_execute(w, scans, repne, size, value, n);
    return real.cx == ours.cx && (scans || real.si == ours.si) && real.di == ours.di && real.flags == ours.flags;
}

static void long_runs(void)
{
    struct world *w = world_long(3);
    unsigned failures = 0;
    for (unsigned size = 1; size <= 8; size *= 2)
        for (unsigned kind = 0; kind < 4; kind++)
            for (uint64_t n = 1; n <= BYTES / size; n += n < 20 ? 1 : 7)
                for (uint64_t odd = 0; odd <= n; odd++)
                    failures += !agrees(w, kind & 1, kind & 2, size, n, odd);
    CU_ASSERT_EQUAL(failures, 0);
    world_destroy(w);
}

TEST_SUITE(string_runs, {"scans and comparisons end where the processor's do", long_runs})
