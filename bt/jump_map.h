/* SPDX-License-Identifier: MIT */
/* The jump map: where indirect jumps of window code (bt/window.h) go, by guest address in one look-up.
 *
 * Exact where a jump table (bt/landing.h) has to ask the target: map[eip] is the target's polling entry less the miss
 * glue, 0: not known. Flags in the image: BT_ENTRY_SAVED bytes before either. 16 GiB of address space for a 4 GiB one,
 * with host memory only where code is jumped to. It holds only blocks of pages in the code map of its slot: a block is
 * entered when a jump has missed here and was found by that, and whatever drops a page from the code map forgets it
 * here. Mapping and forgetting cost more than in the code map, which is why only code that runs long in one address
 * space has a jump map. */
#ifndef RINGFOLD_BT_JUMP_MAP_H
#define RINGFOLD_BT_JUMP_MAP_H

#include "bt/cache.h"

/* Makes the slot's map, once. False: no address space. */
bool jump_map_open(struct bt_exec_slot *s);
void jump_map_close(struct bt_exec_slot *s);

/* The target at linear address lin, which the slot's code map holds, is entered at `entry` (as in the page maps). */
void jump_map_enter(struct bt_exec_slot *s, uint32_t lin, uint32_t entry);
/* Forgets one address, or a page (its index). */
void jump_map_forget(struct bt_exec_slot *s, uint32_t lin);
void jump_map_forget_page(struct bt_exec_slot *s, uint64_t page);
/* Everything has been forgotten: gives memory back to the host when it is much. */
void jump_map_trim(struct bt_exec_slot *s);

#endif
