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

TEST_SUITE(window, {"a scaled index beyond 4 GiB", scaled_index_wraps},
           {"a displacement across 0 and 4 GiB", displacement_wraps}, {"a wrap in a loop", wraps_in_a_loop})
