/* SPDX-License-Identifier: MIT */
/* Runs 32- or 64-bit user code natively, in a helper process, from a given register state to a given one: the judge of
 * the translator. The helpers are freestanding programs ($(BUILD)/tests/native_helper32 and 64); one shares code, data
 * and a mailbox with the test through a memfd and does what it is told through a pipe. Whatever the code does ends in a
 * signal (int3 is the usual end), whose frame holds the whole state. The helper runs under strict seccomp, so stray
 * code cannot do harm.
 *
 * This header is also read by the helpers, which are compiled without libc. */
#ifndef RINGFOLD_TESTS_NATIVE_H
#define RINGFOLD_TESTS_NATIVE_H

#include <stdint.h>

/* Linear addresses of the helper. All else but the helper's image is unmapped. */
enum {
    NATIVE_CODE = 0x10000000,
    NATIVE_CODE_PAGES = 4,
    NATIVE_DATA = 0x20000000,
    NATIVE_DATA_PAGES = 8,
    NATIVE_HELPER_IMAGE = 0x5a000000,
    NATIVE_MAILBOX = 0x5b000000,
    NATIVE_MAILBOX_PAGES = 2,
    NATIVE_PAGE = 4096
};
/* The 64-bit helper has the code and data pages a second time, this much higher: the last 512 GiB of the user half. */
#define NATIVE_HIGH 0x7f8000000000ull

/* Protection of each data page: the first three writable, then read-only, then a hole, two writable ones, a hole. */
enum { NATIVE_NONE, NATIVE_READ, NATIVE_WRITE };
#define NATIVE_DATA_PROTECTION                                                                                         \
    {                                                                                                                  \
        NATIVE_WRITE, NATIVE_WRITE, NATIVE_WRITE, NATIVE_READ, NATIVE_NONE, NATIVE_WRITE, NATIVE_WRITE, NATIVE_NONE    \
    }

/* Selectors, as Linux gives them to its processes. FS and GS are null; so are DS and ES in 64-bit ones. */
enum { NATIVE_CS32 = 0x23, NATIVE_CS64 = 0x33, NATIVE_DS = 0x2b };

enum { NATIVE_XSAVE_SIZE = 832 };

struct native_state {
    _Alignas(64) uint8_t xsave[NATIVE_XSAVE_SIZE]; /* standard format: legacy, header, AVX */
    uint64_t gpr[16];
    uint64_t rip, rflags, fs_base, gs_base; /* the bases only of 64-bit code */
};

struct native_result {
    struct native_state state;
    uint64_t cr2;
    uint32_t signal;
    uint32_t vector, error; /* of the exception, as the kernel saw them */
};

struct native_mailbox {
    struct native_state in;
    struct native_result out;
    uint32_t components; /* XCR0 bits to load and save */
};

#ifndef NATIVE_HELPER
struct native;

/* bits: 32 or 64. NULL with a reason in *why when such code cannot be run here. */
struct native *native_start(unsigned bits, const char **why);
void native_stop(struct native *n);
/* The shared pages, writable here whatever their protection over there. */
uint8_t *native_code(struct native *n);
uint8_t *native_data(struct native *n);
/* Runs from in->rip until the first signal. False: it did not end in time, or the helper was killed; it is started
 * anew, and the pages are as the code left them. */
_Bool native_run(struct native *n, const struct native_state *in, struct native_result *out);
#endif

#endif
