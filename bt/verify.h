/* SPDX-License-Identifier: MIT */
/* The safety verifier: disassembles an emitted block with Capstone, a library that had no part in making it, and checks
 * it against the grammar of the safe subset. */
#ifndef RINGFOLD_BT_VERIFY_H
#define RINGFOLD_BT_VERIFY_H

#include "bt/cache.h"

/* Ends the process with a listing on stderr when the block leaves the safe subset: the monitor's own mistake, after
 * which nothing may run. Heavy: the FPU must be unloaded. */
void bt_verify_block(struct bt_cache *c, const struct bt_block *b);
/* The same for code at `start` that leads to the block. */
void bt_verify_landing(struct bt_cache *c, const struct bt_block *b, uintptr_t start, size_t size);
/* The same as a question, for tests: NULL when good, else the reason; *where: offset of the bad instruction. */
const char *bt_verify_code(struct bt_cache *c, uint32_t mode, const uint8_t *code, size_t size, uintptr_t address,
                           size_t *where);

#endif
