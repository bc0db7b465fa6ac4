/* SPDX-License-Identifier: MIT */
/* 32-bit code through a window, where the host's 64-bit address arithmetic and the guest's differ. */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <string.h>

#pragma weak engine_bt

enum { VALUE = 0x11223344, DATA_AT = 0x40 };

/* Runs code with int3 behind it in a machine of its own. False: there is none. */
static bool run(const char *code, size_t len, uint32_t ebx, uint32_t ecx, struct native_result *out)
{
    const struct engine_options options = {.verify_code = true, .window = WINDOW_ALWAYS};
    const char *why = "the translator is not built in";
    struct flat_machine *m = &engine_bt ? flat_machine_create(32, &engine_bt, &options, &why) : NULL;
    if (!m) {
        test_skip(why);
        return false;
    }
    uint8_t page[NATIVE_CODE_PAGES * NATIVE_PAGE];
    memset(page, 0xcc, sizeof page);
    memcpy(page, code, len);
    flat_machine_write_code(m, page);
    uint32_t value = VALUE;
    memcpy(flat_machine_data(m) + DATA_AT, &value, sizeof value);
    struct native_state in = {.rip = NATIVE_CODE, .rflags = 0x202};
    in.xsave[0] = 0x7f; /* FCW */
    in.xsave[1] = 3;
    in.gpr[3] = ebx;
    in.gpr[1] = ecx;
    in.gpr[4] = NATIVE_DATA + 0x800;
    flat_machine_load(m, &in);
    CU_ASSERT(flat_machine_run(m, out));
    flat_machine_destroy(m);
    return true;
}

#define RUN(code, ebx, ecx, out) run(code, sizeof(code) - 1, ebx, ecx, out)

static void scaled_index_wraps(void)
{
    struct native_result r;
    /* mov eax, [ecx*8 + 0x40]: ecx*8 is 0x1'2000'0000 and 0x7'2000'0000 */
    if (!RUN("\x8b\x04\xcd\x40\x00\x00\x00", 0, 0x24000000, &r))
        return;
    CU_ASSERT_EQUAL(r.state.gpr[0], VALUE);
    RUN("\x8b\x04\xcd\x40\x00\x00\x00", 0, 0xe4000000, &r);
    CU_ASSERT_EQUAL(r.state.gpr[0], VALUE);
    /* with a displacement in the upper half: mov eax, [ecx*4 + 0x90000040], ecx*4 = 0x9000'0000 */
    RUN("\x8b\x04\x8d\x40\x00\x00\x90", 0, 0x24000000, &r);
    CU_ASSERT_EQUAL(r.state.gpr[0], VALUE);
}

static void displacement_wraps(void)
{
    struct native_result r;
    /* movzx eax, byte [ebx + 0x20000042] with ebx = -2; movzx eax, word [ebx - 0x10] from below 0 */
    if (!RUN("\x0f\xb6\x83\x42\x00\x00\x20", 0xfffffffe, 0, &r))
        return;
    CU_ASSERT_EQUAL(r.state.gpr[0], VALUE & 0xff);
    RUN("\x0f\xb7\x43\xf0", 4, 0, &r);
    CU_ASSERT_EQUAL(r.vector, 14);
    CU_ASSERT_EQUAL(r.cr2, 0xfffffff4);
}

/* Many times, so that the access is taken out of the window for good. */
static void wraps_in_a_loop(void)
{
    struct native_result r;
    /* mov esi, 100; again: add edi, [ecx*8 + 0x40]; dec esi; jnz again */
    if (!RUN("\xbe\x64\x00\x00\x00\x03\x3c\xcd\x40\x00\x00\x00\x4e\x75\xf6", 0, 0x24000000, &r))
        return;
    CU_ASSERT_EQUAL(r.state.gpr[7], (uint32_t)(100u * VALUE));
}

/* Two branches that are not taken, one that is, and a loop whose head is within what was decoded before it. */
static void branches_inside_blocks(void)
{
    struct native_result r;
    /* xor eax, eax; cmp ecx, 5; je x; add eax, 1; cmp ecx, 6; je x; add eax, 2; again: add eax, 16; dec ecx; jnz again;
     * add eax, 4; x: add eax, 8 */
    static const char code[] = "\x31\xc0\x83\xf9\x05\x74\x16\x83\xc0\x01\x83\xf9\x06\x74\x0e\x83\xc0\x02"
                               "\x83\xc0\x10\x49\x75\xfa\x83\xc0\x04\x90\x90\x83\xc0\x08";
    static const uint32_t expected[][2] = {{5, 8}, {6, 9}, {1, 31}, {100, 15 + 1600}};
    for (unsigned i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        if (!RUN(code, 0, expected[i][0], &r))
            return;
        CU_ASSERT_EQUAL(r.state.gpr[0], expected[i][1]);
        CU_ASSERT_EQUAL(r.vector, 3);
    }
}

TEST_SUITE(window, {"a scaled index beyond 4 GiB", scaled_index_wraps},
           {"a displacement across 0 and 4 GiB", displacement_wraps}, {"a wrap in a loop", wraps_in_a_loop},
           {"branches inside blocks", branches_inside_blocks})
