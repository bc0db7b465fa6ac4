/* SPDX-License-Identifier: MIT */
/* The translator against the processor: random instruction sequences run natively by the helper and by engine bt as
 * ring 3 of a flat 32- or 64-bit machine, from the same state on the same memory; then every register, flag, byte of
 * memory and the exception are compared. Where the manual leaves flags open they are left out; so are, at a fault,
 * flags that the code overwrites before it reads them: by design the translator does not keep what is dead, and only a
 * look into the exception's frame shows it. What else the manuals leave to the processor is in tolerance.c.
 *
 * RINGFOLD_DIFF_COUNT: how many cases (default: a bounded run); RINGFOLD_DIFF_SEED: the first seed;
 * RINGFOLD_DIFF_VERIFY: with the code verifier. A failing case is
 * cut down to the shortest sequence that still fails, and printed with its seed, its listing and both states. */
#include "tests/flat_machine.h"
#include "tests/test.h"
#include "tests/tolerance.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>

/* The translator may not be there yet: the test is skipped then. */
#pragma weak engine_bt

enum { DATA_BYTES = NATIVE_DATA_PAGES * NATIVE_PAGE, FAILURES_SHOWN = 12 };

struct pair {
    struct native *native;
    struct flat_machine *machine;
    bool avx;
};

struct outcome {
    struct native_result real, ours;
    const char *differs; /* NULL: equal */
};

static unsigned long setting(const char *name, unsigned long otherwise)
{
    const char *s = getenv(name);
    return s && *s ? strtoul(s, NULL, 0) : otherwise;
}

/* What a fault at an instruction leaves open: dead flags, and those of a repeated comparison, which shows the ones of
 * where it last began; an event, the host's among them, may have moved that on. */
static uint32_t open_at_fault(const struct generator_case *c, int at)
{
    const struct insn *insn = &c->insns[at].insn;
    return c->dead[at] | (insn->cls == INSN_STRING ? insn->flags_maybe : 0u);
}

static const char *compare(struct pair *p, const struct generator_case *c, struct outcome *o)
{
    const uint8_t *real_data = native_data(p->native);
    uint8_t *our_data = flat_machine_data(p->machine);
    bool finished = o->real.vector == VECTOR_BP;
    int at = generator_index(c, finished ? o->real.state.rip - 1 : o->real.state.rip);
    uint32_t ignored = at < 0 ? FLAGS_ARITH : c->undefined[at];

    if (tolerance_apply(c, &o->real, &o->ours, real_data, our_data) == TOLERANCE_ALL)
        return NULL;
    if (at >= 0 && !finished)
        ignored |= open_at_fault(c, at);
    return flat_machine_compare(&o->real, &o->ours, real_data, our_data, ignored, p->avx);
}

static void run_both(struct pair *p, struct generator_case *c, struct outcome *o)
{
    struct flat_machine *m = p->machine;

    o->differs = NULL;
    if (!generator_assemble(c, native_code(p->native)))
        return;
    flat_machine_write_code(m, native_code(p->native));
    generator_fill_memory(c, native_data(p->native));
    memcpy(flat_machine_data(m), native_data(p->native), DATA_BYTES);
    flat_machine_load(m, &c->state);
    if (!native_run(p->native, &c->state, &o->real))
        return; /* stray code was stopped: nothing to compare with */
    if (!flat_machine_run(m, &o->ours)) {
        o->differs = "the end of the run";
        return;
    }
    o->differs = compare(p, c, o);
}

/* The case without instruction i, which is not of a loop's end; branches keep their targets. */
static void without(const struct generator_case *c, unsigned i, struct generator_case *shorter)
{
    *shorter = *c;
    memmove(&shorter->insns[i], &c->insns[i + 1], (c->count - i - 1) * sizeof c->insns[0]);
    shorter->count--;
    for (unsigned k = 0; k < shorter->count; k++)
        if (shorter->insns[k].target > i) /* only some kinds have one */
            shorter->insns[k].target--;
    shorter->loop_head -= c->loop_head > i;
    shorter->loop_end -= c->loop_end > 0;
    for (unsigned k = 0; k < shorter->count; k++) /* no other loops */
        if (shorter->insns[k].branch && shorter->insns[k].target <= k && !(c->loop_end && k + 1 == shorter->count))
            shorter->insns[k].target = (uint8_t)(k + 1);
}

static void minimise(struct pair *p, struct generator_case *c, struct outcome *o)
{
    bool shorter_found = true;
    while (shorter_found) {
        shorter_found = false;
        for (unsigned i = c->loop_end ? c->loop_end : c->count; i-- > 0;) {
            struct generator_case shorter;
            struct outcome result;
            without(c, i, &shorter);
            run_both(p, &shorter, &result);
            if (result.differs) {
                *c = shorter;
                shorter_found = true;
            }
        }
    }
    run_both(p, c, o);
}

static void print_memory_difference(struct pair *p)
{
    const uint8_t *a = native_data(p->native), *b = flat_machine_data(p->machine);
    for (unsigned i = 0, shown = 0; i < DATA_BYTES && shown < 16; i++) {
        if (a[i] == b[i])
            continue;
        printf("    [%08x] processor %02x, bt %02x\n", NATIVE_DATA + i, a[i], b[i]);
        shown++;
    }
}

static void report(struct pair *p, struct generator_case *c, const char *first)
{
    struct outcome o;
    minimise(p, c, &o);
    printf("differential, %u bits: %s differs (%s at first)\n", c->bits, o.differs ? o.differs : "nothing", first);
    flat_machine_print_case(c);
    struct native_result start = {.state = c->state};
    flat_machine_print("start", &start, p->avx);
    flat_machine_print("processor", &o.real, p->avx);
    flat_machine_print("bt", &o.ours, p->avx);
    print_memory_difference(p);
}

static bool pair_open(struct pair *p, unsigned bits, bool window)
{
    /* The verifier ends the process at the first block it does not like: asked for, not by default. */
    const struct engine_options options = {.verify_code = getenv("RINGFOLD_DIFF_VERIFY") != NULL,
                                           .window = window ? WINDOW_ALWAYS : WINDOW_AUTO};
    const char *why = "the translator is not built in";

    if (!&engine_bt) {
        test_skip(why);
        return false;
    }
    p->native = native_start(bits, &why);
    if (!p->native) {
        test_skip(why);
        return false;
    }
    p->machine = flat_machine_create(bits, &engine_bt, &options, &why);
    if (!p->machine && bits == 64 && TEST_UNDER_TSAN) {
        native_stop(p->native);
        test_leave_without_tables();
    }
    CU_ASSERT(p->machine != NULL);
    if (!p->machine) {
        printf("differential: %s\n", why);
        native_stop(p->native);
        return false;
    }
    p->avx = p->machine->model.xcr0_mask & 4;
    return true;
}

static void compare_through(const struct generator_options *options, unsigned long count, bool window)
{
    unsigned long seed = setting("RINGFOLD_DIFF_SEED", 1), n = setting("RINGFOLD_DIFF_COUNT", count);
    unsigned failures = 0;
    struct pair p;

    if (!pair_open(&p, options->bits, window))
        return;
    for (unsigned long i = 0; i < n && failures < FAILURES_SHOWN; i++) {
        struct generator_case c;
        struct outcome o;
        generator_make(&c, seed + i, options);
        run_both(&p, &c, &o);
        if (!o.differs)
            continue;
        failures++;
        report(&p, &c, o.differs);
    }
    CU_ASSERT(failures == 0);
    flat_machine_destroy(p.machine);
    native_stop(p.native);
}

static void compare_many(const struct generator_options *options, unsigned long count)
{
    compare_through(options, count, false);
}

/* ---- translations that move ---- */

/* The second leads to where an address in 64 bits is another one with its sign extended than without. */
static const uint32_t moved_higher_32[] = {0x23400000, 0x93400000};
enum { LONG_ENOUGH = 1200000 /* cycles: bt/move.c */ };

/* Ends a run that does not end by itself. */
static struct cpu *kicked;
static void kick(int sig)
{
    cpu_raise(kicked, CPU_EVENT_KICK);
}

/* From the data as it was generated. again: the translations of the run before stay. */
static bool run_at(struct flat_machine *m, const struct generator_case *c, uint64_t higher, bool again,
                   struct native_result *out, uint8_t *data)
{
    struct native_state in = c->state;
    in.rip += higher;
    generator_fill_memory(c, flat_machine_data(m));
    if (again)
        flat_machine_load_again(m, &in);
    else
        flat_machine_load(m, &in);
    kicked = m->cpu;
    /* not on the stack of 64-bit code, which is the guest's */
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = kick, .sa_flags = SA_ONSTACK | SA_RESTART}, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 300000}, NULL);
    bool ended = flat_machine_run(m, out);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    memcpy(data, flat_machine_data(m), DATA_BYTES);
    return ended;
}

static struct native_result moved, fresh;

/* May the fault of this instruction leave other things behind, in a window or by the tables? A store of a number with
 * an unmasked error writes nothing, so that its page fault comes by the tables only; one of an MMX register has set TOP
 * by then on processors that were tried, by the tables it has not begun. */
static bool store_differs(const struct insn *in)
{
    enum { FSW_ES = 0x80 };
    bool same = moved.state.rip == fresh.state.rip;
    if (!in->mem.present)
        return false;
    return same ? in->mmx && memcmp(&moved.state.xsave[2], &fresh.state.xsave[2], sizeof(uint16_t))
                : in->x87 && (moved.state.xsave[2] & FSW_ES);
}

/* The code runs, then at its other address, where it has the translations moved to; then there with new ones. */
static const char *run_moved(struct flat_machine *m, struct generator_case *c)
{
    static uint8_t code[NATIVE_CODE_PAGES * NATIVE_PAGE], data[3][DATA_BYTES];
    struct native_result first;
    uint64_t higher = c->bits == 32 ? moved_higher_32[c->seed % 4 == 0] : c->base ? -NATIVE_HIGH : NATIVE_HIGH;

    if (!generator_assemble(c, code))
        return NULL;
    flat_machine_write_code(m, code);
    if (!run_at(m, c, 0, false, &first, data[0]))
        return NULL;
    for (uint64_t start = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - start < LONG_ENOUGH;)
        ;
    bool moved_ended = run_at(m, c, higher, true, &moved, data[1]);
    bool fresh_ended = run_at(m, c, higher, false, &fresh, data[2]);
    if (!moved_ended || !fresh_ended) /* a loop that takes about as long as the timer */
        return NULL;
    int at = generator_index(c, fresh.state.rip - higher);
    if (at < 0) /* an indirect jump led to the first address */
        at = generator_index(c, fresh.state.rip);
    bool finished = fresh.vector == VECTOR_BP;
    uint32_t ignored = finished ? c->undefined[c->count]
                       : at < 0 ? FLAGS_ARITH
                                : c->undefined[at] | open_at_fault(c, at);
    /* a pending x87 error and a page fault of the operand: either may be first, by a window or by the tables */
    if (at >= 0 && moved.state.rip == fresh.state.rip && (c->insns[at].insn.mmx || c->insns[at].insn.x87) &&
        c->insns[at].insn.mem.present && (moved.vector == VECTOR_MF) != (fresh.vector == VECTOR_MF))
        return NULL;
    if (at >= 0 && !finished && store_differs(&c->insns[at].insn))
        return NULL;
    return flat_machine_compare(&moved, &fresh, data[1], data[2], ignored, m->model.xcr0_mask & 4);
}

/* Cases without an end are ended by a signal, which TSan holds back until the thread asks the system for something. */
static bool skip_under_tsan(void)
{
    if (TEST_UNDER_TSAN)
        test_skip("TSan holds back the signal that ends loops without an end");
    return TEST_UNDER_TSAN;
}

static void moved_code(unsigned bits, bool window, unsigned long count)
{
    const struct engine_options options = {.verify_code = getenv("RINGFOLD_DIFF_VERIFY") != NULL,
                                           .window = window ? WINDOW_ALWAYS : WINDOW_NEVER}; /* both runs alike */
    const struct generator_options kind = {.bits = bits, .length = 12};
    unsigned long seed = setting("RINGFOLD_DIFF_SEED", 1), n = setting("RINGFOLD_DIFF_COUNT", count);
    unsigned failures = 0;
    const char *why = "the translator is not built in";
    if (skip_under_tsan())
        return;
    struct flat_machine *m = &engine_bt ? flat_machine_create(bits, &engine_bt, &options, &why) : NULL;

    if (!m) {
        test_skip(why);
        return;
    }
    for (unsigned i = 0; bits == 32 && i < 2; i++)
        flat_machine_map_code_again(m, moved_higher_32[i]);
    for (unsigned long i = 0; i < n && failures < FAILURES_SHOWN; i++) {
        struct generator_case c;
        generator_make(&c, seed + i, &kind);
        const char *differs = run_moved(m, &c);
        if (!differs)
            continue;
        failures++;
        printf("moved code, %u bits: %s differs\n", bits, differs);
        flat_machine_print_case(&c);
        flat_machine_print("moved", &moved, true);
        flat_machine_print("anew", &fresh, true);
    }
    CU_ASSERT(failures == 0);
    CU_ASSERT(flat_machine_statistic(m, "blocks_moved") > n / 4);
    flat_machine_destroy(m);
}

static void moved32(void)
{
    moved_code(32, false, 300);
    moved_code(32, true, 300);
}

static void moved64(void)
{
    moved_code(64, false, 400);
    moved_code(64, true, 400);
}

static void single_instructions(void)
{
    compare_many(&(struct generator_options){.bits = 32, .length = 1, .no_branches = true}, 3000);
}

static void sequences(void)
{
    compare_many(&(struct generator_options){.bits = 32, .length = 12}, 2000);
}

/* Memory through the host's page tables (bt/window.h) instead of the shadow tables. */
static void window_instructions(void)
{
    compare_through(&(struct generator_options){.bits = 32, .length = 1, .no_branches = true}, 2000, true);
}

static void window_sequences(void)
{
    compare_through(&(struct generator_options){.bits = 32, .length = 12}, 2000, true);
}

/* Short loops, of which one block is several rounds (bt/translate_unroll.c). */
static void window_loops(void)
{
    compare_through(&(struct generator_options){.bits = 32, .length = 4, .loop = true}, 4000, true);
}

static void single_instructions64(void)
{
    compare_many(&(struct generator_options){.bits = 64, .length = 1, .no_branches = true}, 6000);
}

static void sequences64(void)
{
    compare_many(&(struct generator_options){.bits = 64, .length = 12}, 3000);
}

static void window_instructions64(void)
{
    compare_through(&(struct generator_options){.bits = 64, .length = 1, .no_branches = true}, 4000, true);
}

static void window_sequences64(void)
{
    compare_through(&(struct generator_options){.bits = 64, .length = 12}, 3000, true);
}

/* The registers that the translator has no host register for. */
static void window_registers64(void)
{
    compare_through(
        &(struct generator_options){.bits = 64,
                                    .length = 24,
                                    .registers = 0xf000,
                                    .classes = 1 << INSN_GENERIC | 1 << INSN_MOVE | 1 << INSN_JCC | 1 << INSN_STACK},
        3000, true);
}

/* RSP, which holds an address of the host's in the translator's window code. */
static void window_stack64(void)
{
    compare_through(
        &(struct generator_options){.bits = 64,
                                    .length = 16,
                                    .stack = true,
                                    .classes = 1 << INSN_GENERIC | 1 << INSN_MOVE | 1 << INSN_JCC | 1 << INSN_STACK},
        4000, true);
}

static void window_loops64(void)
{
    const uint32_t plain = 1 << INSN_GENERIC | 1 << INSN_MOVE | 1 << INSN_JCC | 1 << INSN_STACK;
    compare_through(&(struct generator_options){.bits = 64, .length = 4, .loop = true}, 4000, true);
    compare_through(
        &(struct generator_options){.bits = 64, .length = 6, .loop = true, .registers = 0xf000, .classes = plain}, 3000,
        true);
    compare_through(&(struct generator_options){.bits = 64, .length = 5, .loop = true, .stack = true, .classes = plain},
                    3000, true);
}

TEST_SUITE(differential, {"single instructions, translated and native", single_instructions},
           {"sequences with branches, translated and native", sequences},
           {"single instructions, through the window and native", window_instructions},
           {"sequences with branches, through the window and native", window_sequences},
           {"loops, through the window and native", window_loops},
           {"sequences at another address, moved and translated anew", moved32})
TEST_SUITE(differential64, {"single 64-bit instructions, translated and native", single_instructions64},
           {"64-bit sequences with branches, translated and native", sequences64},
           {"single 64-bit instructions, through the window and native", window_instructions64},
           {"64-bit sequences with branches, through the window and native", window_sequences64},
           {"64-bit sequences of R12 to R15, through the window and native", window_registers64},
           {"64-bit sequences about RSP, through the window and native", window_stack64},
           {"64-bit loops, through the window and native", window_loops64},
           {"64-bit sequences at another address, moved and translated anew", moved64})
