/* SPDX-License-Identifier: MIT */
/* Translations that move to another address (bt/move.h): what led from one page to another before does so again without
 * asking the dispatcher, and leads to the right place. That they do the same is the differential suites' business. */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <string.h>

enum { FUNCTIONS = 8, ROUNDS = 3, FUNCTION_BYTES = 64, QUIET = 1200000 /* cycles: bt/move.c */ };
static const uint32_t HIGHER_32 = 0x23400000;

/* One page calls functions of the next one, and each adds 1 to EAX; the same bytes in both modes. */
static void make_code(uint8_t *code)
{
    memset(code, 0xcc, NATIVE_CODE_PAGES * NATIVE_PAGE);
    uint8_t *p = code;
    *p++ = 0xb9; /* mov ecx, ROUNDS */
    *p++ = ROUNDS;
    p = memset(p, 0, 3);
    p += 3;
    uint8_t *loop = p;
    for (int i = 0; i < FUNCTIONS; i++) {
        uint8_t *function = code + NATIVE_PAGE + i * FUNCTION_BYTES;
        int32_t distance = (int32_t)(function - (p + 5));
        memcpy(function, "\xff\xc0\xc3", 3); /* inc eax; ret */
        *p = 0xe8;
        memcpy(p + 1, &distance, 4);
        p += 5;
    }
    memcpy(p, "\xff\xc9\x75", 3); /* dec ecx; jnz loop */
    p[3] = (uint8_t)(loop - (p + 4));
}

/* The same sum by a loop whose branch crosses the page's end and leads back into the page. */
static void make_crossing_code(uint8_t *code)
{
    static const uint8_t start[] = {0xb9, FUNCTIONS * ROUNDS, 0, 0, 0, 0xe9}; /* mov ecx, n ; jmp loop */
    static const uint8_t loop[] = {0xff, 0xc0, 0xff, 0xc9, 0x75, 0xfa};       /* inc eax ; dec ecx ; jnz loop */
    int32_t at = NATIVE_PAGE - (int32_t)sizeof loop + 1, distance = at - (int32_t)sizeof start - 4;
    memset(code, 0xcc, NATIVE_CODE_PAGES * NATIVE_PAGE);
    memcpy(code, start, sizeof start);
    memcpy(code + sizeof start, &distance, 4);
    memcpy(code + at, loop, sizeof loop);
}

/* How often the dispatcher and the miss glue were asked about a jump. */
static unsigned long questions(const struct flat_machine *m)
{
    return flat_machine_statistic(m, "jump_not_chained") + flat_machine_statistic(m, "code_map_misses");
}

static unsigned long run_at(struct flat_machine *m, uint64_t higher)
{
    struct native_state in = {.rip = NATIVE_CODE + higher, .rflags = 0x202, .gpr[4] = NATIVE_DATA + NATIVE_PAGE};
    struct native_result out;
    in.xsave[0] = 0x7f; /* FCW */
    in.xsave[1] = 0x03;
    in.xsave[24] = 0x80; /* MXCSR */
    in.xsave[25] = 0x1f;
    unsigned long before = questions(m);
    flat_machine_load_again(m, &in);
    CU_ASSERT(flat_machine_run(m, &out));
    CU_ASSERT(out.vector == 3);
    CU_ASSERT((uint32_t)out.state.gpr[0] == FUNCTIONS * ROUNDS);
    for (uint64_t start = __builtin_ia32_rdtsc(); __builtin_ia32_rdtsc() - start < QUIET;)
        ;
    return questions(m) - before;
}

/* How much higher than NATIVE_CODE the code is run, first there and then here. */
struct place {
    uint64_t first, second;
};

/* A machine with that code in two places; NULL: the case is skipped. */
static struct flat_machine *open_machine(unsigned bits, int window, void (*make)(uint8_t *code), struct place *place)
{
    static uint8_t code[NATIVE_CODE_PAGES * NATIVE_PAGE];
    const struct engine_options options = {.verify_code = true, .window = window};
    const char *why = "";
    struct flat_machine *m = flat_machine_create(bits, &engine_bt, &options, &why);
    if (!m) {
        test_skip(why);
        return NULL;
    }
    /* in 64-bit code the far place comes first: a number that moves needs room for its new value (bt/move.c) */
    *place = bits == 32 ? (struct place){0, HIGHER_32} : (struct place){NATIVE_HIGH, 0};
    if (bits == 32)
        flat_machine_map_code_again(m, HIGHER_32);
    make(code);
    flat_machine_write_code(m, code);
    return m;
}

static void crossing(unsigned bits, int window)
{
    struct place place;
    struct flat_machine *m = open_machine(bits, window, make_crossing_code, &place);
    if (!m)
        return;
    run_at(m, place.first);
    run_at(m, place.second);
    CU_ASSERT(flat_machine_statistic(m, "pages_moved") > 0);
    run_at(m, place.second);
    run_at(m, place.first);
    flat_machine_destroy(m);
}

static void links(unsigned bits, int window)
{
    struct place place;
    struct flat_machine *m = open_machine(bits, window, make_code, &place);
    if (!m)
        return;
    CU_ASSERT(run_at(m, place.first) >= 2 * FUNCTIONS); /* each call and each return for the first time */
    unsigned long again = run_at(m, place.second);
    CU_ASSERT(flat_machine_statistic(m, "pages_moved") == 2);
    CU_ASSERT(again <= 3); /* the first call, before its target has moved */
    run_at(m, place.second);
    CU_ASSERT(run_at(m, place.first) >= 2 * FUNCTIONS); /* somebody is still there: translations of its own */
    run_at(m, place.second);
    CU_ASSERT(flat_machine_statistic(m, "pages_moved") == 2);
    flat_machine_destroy(m);
}

static void links32(void)
{
    links(32, WINDOW_NEVER);
    links(32, WINDOW_ALWAYS);
}

static void links64(void)
{
    links(64, WINDOW_NEVER);
    links(64, WINDOW_ALWAYS);
}

static void crossing_branches(void)
{
    for (unsigned bits = 32; bits <= 64; bits += 32) {
        crossing(bits, WINDOW_NEVER);
        crossing(bits, WINDOW_ALWAYS);
    }
}

TEST_SUITE(move, {"links and targets of moved 32-bit code", links32},
           {"links and targets of moved 64-bit code", links64},
           {"branches across the end of a moved page", crossing_branches})
