/* SPDX-License-Identifier: MIT */
/* Vector operands by RBP at an address that is not canonical, whose low 48 bits name a page that the tables hold: #SS.
 */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <string.h>

#pragma weak engine_bt

/* mov eax, [rdi], which brings the page into the tables, and the instruction */
static struct native_result run(struct flat_machine *m, const char *insn, size_t len, uint64_t rbp)
{
    uint8_t code[NATIVE_CODE_PAGES * NATIVE_PAGE];
    memset(code, 0xcc, sizeof code);
    memcpy(code, "\x8b\x07", 2);
    memcpy(code + 2, insn, len);
    flat_machine_write_code(m, code);
    struct native_state in = {.rip = NATIVE_CODE, .rflags = EFLAGS_USER};
    in.xsave[0] = 0x7f; /* FCW */
    in.xsave[1] = 3;
    in.gpr[GPR_SP] = NATIVE_DATA + 0x800;
    in.gpr[GPR_DI] = NATIVE_DATA;
    in.gpr[GPR_BP] = rbp;
    struct native_result r = {0};
    flat_machine_load(m, &in);
    CU_ASSERT(flat_machine_run(m, &r));
    CU_ASSERT_EQUAL(r.state.rip, NATIVE_CODE + 2);
    return r;
}

static void vector_operands(void)
{
    static const uint64_t NOWHERE = NATIVE_DATA + (1ull << 48);
    for (int always = 0; always < 2; always++) {
        const struct engine_options options = {.verify_code = true, .window = always ? WINDOW_ALWAYS : WINDOW_NEVER};
        const char *why = "the translator is not built in";
        struct flat_machine *m = &engine_bt ? flat_machine_create(64, &engine_bt, &options, &why) : NULL;
        if (!m) {
            test_skip(why);
            return;
        }
        /* comisd xmm1, [rbp] ; movdqu xmm1, [rbp] */
        CU_ASSERT_EQUAL(run(m, "\x66\x0f\x2f\x4d\x00", 5, NOWHERE).vector, VECTOR_SS);
        CU_ASSERT_EQUAL(run(m, "\xf3\x0f\x6f\x4d\x00", 5, NOWHERE + 1).vector, VECTOR_SS);
        flat_machine_destroy(m);
    }
}

TEST_SUITE(noncanonical, {"vector operands by RBP", vector_operands})
