/* SPDX-License-Identifier: MIT */
/* Short loops of user code, of which one translation is several rounds (bt/translate_unroll.c): every number of rounds,
 * every way out, and what the guest and the machine see in the middle. */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <signal.h>
#include <string.h>
#include <sys/time.h>

#pragma weak engine_bt

enum {
    ROUNDS = 10 /* more than one translation has */,
    LONG_ROUND = 24 /* instructions, of which it has several */,
    HOLE = NATIVE_DATA + 4 * NATIVE_PAGE,
    VALUE = 0x01010101
};

static struct flat_machine *open_machine(unsigned bits)
{
    const struct engine_options options = {.verify_code = true, .window = WINDOW_ALWAYS};
    const char *why = "the translator is not built in";
    struct flat_machine *m = &engine_bt ? flat_machine_create(bits, &engine_bt, &options, &why) : NULL;
    if (!m)
        test_skip(why);
    return m;
}

/* Code to the code pages, int3 behind it, and a state that begins there. */
static struct native_state begin(struct flat_machine *m, const char *code, size_t len)
{
    uint8_t page[NATIVE_CODE_PAGES * NATIVE_PAGE];
    memset(page, 0xcc, sizeof page);
    memcpy(page, code, len);
    flat_machine_write_code(m, page);
    for (unsigned i = 0; i < 4 * NATIVE_PAGE; i++)
        flat_machine_data(m)[i] = 1;
    struct native_state in = {.rip = NATIVE_CODE, .rflags = EFLAGS_USER};
    in.xsave[0] = 0x7f; /* FCW */
    in.xsave[1] = 3;
    in.gpr[GPR_SP] = NATIVE_DATA + 0x800;
    return in;
}
#define BEGIN(m, code) begin(m, code, sizeof(code) - 1)

static struct native_result run(struct flat_machine *m, const struct native_state *in)
{
    struct native_result r = {0};
    flat_machine_load(m, in);
    CU_ASSERT(flat_machine_run(m, &r));
    return r;
}

/* again: add eax, 3; sub ecx, 1; jnz again */
static const char counting[] = "\x83\xc0\x03\x83\xe9\x01\x75\xf8";

/* The same with so many additions in each round. */
static void counts_of(unsigned bits, unsigned additions)
{
    struct flat_machine *m = open_machine(bits);
    char code[100];
    size_t len = 3 * additions + 5;
    for (unsigned i = 0; i < additions; i++)
        memcpy(code + 3 * i, counting, 3);
    memcpy(code + 3 * additions, counting + 3, 4);
    code[len - 1] = (char)-len;
    for (unsigned n = 1; m && n < ROUNDS; n++) {
        struct native_state in = begin(m, code, len);
        in.gpr[GPR_CX] = n;
        struct native_result r = run(m, &in);
        CU_ASSERT_EQUAL(r.vector, 3);
        CU_ASSERT_EQUAL(r.state.rip, NATIVE_CODE + len + 1);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], 3 * additions * n);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_CX], 0);
        CU_ASSERT_EQUAL(r.state.rflags & FLAGS_ARITH, FLAG_ZF | FLAG_PF);
        const struct mmu_window *w = &m->cpu->mmu.window[MMU_WINDOW_USER];
        bool windows = bits == 64 ? w->regions != NULL : w->base != NULL; /* without them there is one round */
        if (n == 1 && windows) /* the kernel's stub, int3, and more than one round */
            CU_ASSERT(flat_machine_statistic(m, "instructions_translated") >= 2 + 2 * (additions + 2));
    }
    if (m)
        flat_machine_destroy(m);
}

static void counts(void)
{
    counts_of(32, 1);
    counts_of(64, 1);
    counts_of(32, LONG_ROUND - 2);
    counts_of(64, LONG_ROUND - 2);
}

/* again: test ecx, ecx; jz out; add eax, 3; sub ecx, 1; jmp again; out: */
static void condition_first_of(unsigned bits)
{
    struct flat_machine *m = open_machine(bits);
    for (unsigned n = 0; m && n < ROUNDS; n++) {
        struct native_state in = BEGIN(m, "\x85\xc9\x74\x08\x83\xc0\x03\x83\xe9\x01\xeb\xf4");
        in.gpr[GPR_CX] = n;
        struct native_result r = run(m, &in);
        CU_ASSERT_EQUAL(r.vector, 3);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], 3 * n);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_CX], 0);
    }
    if (m)
        flat_machine_destroy(m);
}

static void condition_first(void)
{
    condition_first_of(32);
    condition_first_of(64);
}

/* Out of the middle of a round: again: add eax, 1; cmp eax, edx; je out; sub ecx, 1; jnz again; mov bl, 7; out: */
static void way_out_of(unsigned bits)
{
    struct flat_machine *m = open_machine(bits);
    for (unsigned n = 1; m && n < ROUNDS + 2; n++) {
        struct native_state in = BEGIN(m, "\x83\xc0\x01\x39\xd0\x74\x07\x83\xe9\x01\x75\xf4\xb3\x07");
        in.gpr[GPR_CX] = ROUNDS;
        in.gpr[GPR_DX] = n;
        struct native_result r = run(m, &in);
        bool out = n <= ROUNDS;
        CU_ASSERT_EQUAL(r.vector, 3);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], out ? n : ROUNDS);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_CX], out ? ROUNDS + 1 - n : 0);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_BX], out ? 0 : 7);
    }
    if (m)
        flat_machine_destroy(m);
}

static void way_out(void)
{
    way_out_of(32);
    way_out_of(64);
}

/* The n-th round's load meets a page that is not there: again: add eax, [ebx]; add ebx, 4; sub ecx, 1; jnz again */
static void faults_of(unsigned bits)
{
    struct flat_machine *m = open_machine(bits);
    for (unsigned n = 0; m && n < ROUNDS; n++) {
        struct native_state in = BEGIN(m, "\x03\x03\x83\xc3\x04\x83\xe9\x01\x75\xf6");
        in.gpr[GPR_BX] = HOLE - 4 * n;
        in.gpr[GPR_CX] = 100;
        struct native_result r = run(m, &in);
        CU_ASSERT_EQUAL(r.vector, 14);
        CU_ASSERT_EQUAL(r.cr2, HOLE);
        CU_ASSERT_EQUAL(r.state.rip, NATIVE_CODE);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], n * VALUE);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_BX], HOLE);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_CX], 100 - n);
    }
    if (m)
        flat_machine_destroy(m);
}

/* With registers that are held from one round to the next: again: add r12d, [r13]; add r13, 4; sub r14d, 1; jnz again
 */
static void faults_held(void)
{
    struct flat_machine *m = open_machine(64);
    for (unsigned n = 0; m && n < ROUNDS; n++) {
        struct native_state in = BEGIN(m, "\x45\x03\x65\x00\x49\x83\xc5\x04\x41\x83\xee\x01\x75\xf2");
        in.gpr[13] = HOLE - 4 * n;
        in.gpr[14] = 100;
        struct native_result r = run(m, &in);
        CU_ASSERT_EQUAL(r.vector, 14);
        CU_ASSERT_EQUAL(r.state.rip, NATIVE_CODE);
        CU_ASSERT_EQUAL(r.state.gpr[12], n * VALUE);
        CU_ASSERT_EQUAL(r.state.gpr[13], HOLE);
        CU_ASSERT_EQUAL(r.state.gpr[14], 100 - n);
    }
    if (m)
        flat_machine_destroy(m);
}

static void faults(void)
{
    faults_of(32);
    faults_of(64);
    faults_held();
}

/* What is known of rax in one round is so in the next one: again: add ecx, [rax]; cdq; sub ebx, 1; jnz again. (For the
 * verifier's disassembler CDQ writes eax.) */
static void known_register(void)
{
    struct flat_machine *m = open_machine(64);
    for (unsigned n = 1; m && n < ROUNDS; n++) {
        struct native_state in = BEGIN(m, "\x03\x08\x99\x83\xeb\x01\x75\xf8");
        in.gpr[GPR_AX] = NATIVE_DATA;
        in.gpr[GPR_BX] = n;
        in.gpr[GPR_DX] = 7;
        struct native_result r = run(m, &in);
        CU_ASSERT_EQUAL(r.vector, 3);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], NATIVE_DATA);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_CX], n * VALUE);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_DX], 0);
    }
    if (m)
        flat_machine_destroy(m);
}

static struct cpu *kicked;
static void kick(int sig)
{
    cpu_raise(kicked, CPU_EVENT_KICK);
}

/* A loop without an end still sees events, at its beginning. */
static void endless_of(unsigned bits, const char *code, size_t len)
{
    struct flat_machine *m = open_machine(bits);
    if (!m)
        return;
    struct native_state in = begin(m, code, len);
    flat_machine_load(m, &in);
    kicked = m->cpu;
    /* not on the stack of 64-bit code, which is the guest's */
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = kick, .sa_flags = SA_ONSTACK | SA_RESTART}, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 20000}, NULL);
    CU_ASSERT_NOT_EQUAL(engine_bt.run(m->cpu), ENGINE_EXIT_HALT);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    CU_ASSERT_EQUAL(m->cpu->rip, NATIVE_CODE);
    CU_ASSERT(m->cpu->gpr[GPR_AX] > ROUNDS);
    flat_machine_destroy(m);
}

static void endless(void)
{
    /* again: add eax, 1; test ecx, ecx; jz again */
    static const char jz[] = "\x83\xc0\x01\x85\xc9\x74\xf9", jmp[] = "\x83\xc0\x01\xeb\xfb";
    if (TEST_UNDER_TSAN) {
        test_skip("TSan holds back the signal that ends loops without an end");
        return;
    }
    for (unsigned bits = 32; bits <= 64; bits += 32) {
        endless_of(bits, jz, sizeof jz - 1);
        endless_of(bits, jmp, sizeof jmp - 1); /* again: add eax, 1; jmp again */
    }
}

static void single_step(void)
{
    for (unsigned bits = 32; bits <= 64; bits += 32) {
        struct flat_machine *m = open_machine(bits);
        if (!m)
            return;
        struct native_state in = BEGIN(m, counting);
        in.gpr[GPR_CX] = ROUNDS;
        run(m, &in); /* the loop has been translated */
        in.rflags |= FLAG_TF;
        for (unsigned n = 0; n < 7; n++) {
            struct native_result r = run(m, &in);
            static const uint8_t next[] = {3, 6, 0};
            CU_ASSERT_EQUAL(r.vector, 1);
            CU_ASSERT_EQUAL(r.state.rip, NATIVE_CODE + next[n % 3]);
            CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], 3 * (n / 3 + 1));
            in = r.state;
        }
        flat_machine_destroy(m);
    }
}

/* The loop changes itself: again: add eax, 1; inc byte [again + 2]; sub ecx, 1; jnz again */
static void self_modifying(void)
{
    struct flat_machine *m = open_machine(32);
    for (unsigned n = 1; m && n < ROUNDS; n++) {
        static const char code[] = "\x83\xc0\x01\xfe\x05\x02\x00\x00\x20\x83\xe9\x01\x75\xf2\xcc";
        struct native_state in = BEGIN(m, counting);
        memcpy(flat_machine_data(m), code, sizeof code - 1);
        in.rip = NATIVE_DATA;
        in.gpr[GPR_CX] = n;
        struct native_result r = run(m, &in);
        CU_ASSERT_EQUAL(r.vector, 3);
        CU_ASSERT_EQUAL(r.state.gpr[GPR_AX], n * (n + 1) / 2);
    }
    if (m)
        flat_machine_destroy(m);
}

TEST_SUITE(unroll, {"loops of one to nine rounds", counts}, {"and with the condition first", condition_first},
           {"ways out of the middle of a round", way_out}, {"a fault in each of the rounds", faults},
           {"a register that is known from the round before", known_register},
           {"events in a loop without an end", endless}, {"single steps through a loop", single_step},
           {"a loop that changes itself", self_modifying})
