/* SPDX-License-Identifier: MIT */
/* Runs 32-bit user code natively, in a helper process, from a given register state to a given one: the judge of the
 * translator. The helper is a freestanding 32-bit program ($(BUILD)/tests/native32_helper); it shares code, data and a
 * mailbox with the test through a memfd and does what it is told through a pipe. Whatever the code does ends in a
 * signal (int3 is the usual end), whose frame holds the whole state. The helper runs under strict seccomp, so stray
 * code cannot do harm.
 *
 * This header is also read by the helper, which is compiled for 32 bits without libc. */
#ifndef RINGFOLD_TESTS_NATIVE32_H
#define RINGFOLD_TESTS_NATIVE32_H

#include <stdint.h>

/* Linear addresses of the helper. All else but the helper itself, at 0x5a000000, is unmapped. */
enum {
    NATIVE32_CODE = 0x10000000,
    NATIVE32_CODE_PAGES = 4,
    NATIVE32_DATA = 0x20000000,
    NATIVE32_DATA_PAGES = 8,
    NATIVE32_MAILBOX = 0x5b000000,
    NATIVE32_MAILBOX_PAGES = 2,
    NATIVE32_PAGE = 4096
};

/* Protection of each data page: the first three writable, then read-only, then a hole, two writable ones, a hole. */
enum { NATIVE32_NONE, NATIVE32_READ, NATIVE32_WRITE };
#define NATIVE32_DATA_PROTECTION                                                                                       \
    {                                                                                                                  \
        NATIVE32_WRITE, NATIVE32_WRITE, NATIVE32_WRITE, NATIVE32_READ, NATIVE32_NONE, NATIVE32_WRITE, NATIVE32_WRITE,  \
            NATIVE32_NONE                                                                                              \
    }

/* Selectors, as Linux gives them to 32-bit processes. FS and GS are null. */
enum { NATIVE32_CS = 0x23, NATIVE32_DS = 0x2b };

enum { NATIVE32_XSAVE_SIZE = 832 };

struct native32_state {
    _Alignas(64) uint8_t xsave[NATIVE32_XSAVE_SIZE]; /* standard format: legacy, header, AVX */
    uint32_t gpr[8];
    uint32_t eip, eflags;
};

struct native32_result {
    struct native32_state state;
    uint32_t signal;
    uint32_t vector, error, cr2; /* of the exception, as the kernel saw them */
};

struct native32_mailbox {
    struct native32_state in;
    struct native32_result out;
    uint32_t components; /* XCR0 bits to load and save */
};

#ifdef __x86_64__
struct native32;

/* NULL with a reason in *why when 32-bit code cannot be run here. */
struct native32 *native32_start(const char **why);
void native32_stop(struct native32 *n);
/* The shared pages, writable here whatever their protection over there. */
uint8_t *native32_code(struct native32 *n);
uint8_t *native32_data(struct native32 *n);
/* Runs from in->eip until the first signal. False: it did not end in time, or the helper was killed; it is started
 * anew, and the pages are as the code left them. */
_Bool native32_run(struct native32 *n, const struct native32_state *in, struct native32_result *out);
#endif

#endif
