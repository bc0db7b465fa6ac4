/* SPDX-License-Identifier: MIT */
/* Instructions in C that kernels run all the time, without the general machinery of bt_callout: no decoding of the
 * instruction's parts, flags left where they are, no look at the mode. What is not quite usual falls back to
 * bt_callout.
 *
 * A bt_run_fn carries out the instruction of its site; it is what translated code calls. Result: see bt_callout. */
#ifndef RINGFOLD_BT_QUICK_H
#define RINGFOLD_BT_QUICK_H

#include "bt/cache.h"

/* The function for an instruction in blocks of a mode (enum bt_mode_bits), and the site's operand for it. */
bt_run_fn *bt_quick_run(const struct insn *in, uint32_t mode, uint32_t *operand);
/* Must bt_callout look whether the mode has changed, even if nobody said so? */
bool bt_quick_modal(const struct insn *in);

#endif
