/* SPDX-License-Identifier: MIT */
/* Plain instructions that have no 64-bit host form or more than one memory access: the decimal adjusts, SALC, gathers.
 */
#ifndef RINGFOLD_BT_LEGACY_H
#define RINGFOLD_BT_LEGACY_H

#include "cpu/cpu.h"
#include "decoder/insn.h"

/* By cpu.h's convention for instructions. */
int bt_legacy_execute(struct cpu *cpu, const struct insn *in);

#endif
