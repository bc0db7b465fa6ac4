/* SPDX-License-Identifier: MIT */
/* Capstone, loaded when it is first needed: its tables take half a millisecond to relocate, and a machine that runs
 * without --verify-code and writes no listing never asks for it. */
#ifndef RINGFOLD_DECODER_CAPSTONE_H
#define RINGFOLD_DECODER_CAPSTONE_H

#include <capstone/capstone.h>

struct capstone {
    __typeof__(cs_open) *open;
    __typeof__(cs_close) *close;
    __typeof__(cs_option) *option;
    __typeof__(cs_malloc) *alloc;
    __typeof__(cs_free) *release;
    __typeof__(cs_disasm) *disasm;
    __typeof__(cs_disasm_iter) *disasm_iter;
    __typeof__(cs_insn_group) *insn_group;
    __typeof__(cs_regs_access) *regs_access;
};

/* NULL: this host has no Capstone of the version that this was built with. Any thread. */
const struct capstone *capstone_load(void);

#endif
