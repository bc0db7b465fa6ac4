/* SPDX-License-Identifier: MIT */
/* Jump maps: where indirect jumps of window code (bt/window.h) go, by guest address in one look-up.
 *
 * Exact where a jump table (bt/landing.h) has to ask the target: map[eip] is the target's polling entry less the miss
 * glue, 0: not known. Flags in the image: BT_ENTRY_SAVED bytes before either. A map is 16 GiB of address space for a
 * region, 4 GiB of guest addresses, with host memory only where code is jumped to. It holds only blocks of pages in the
 * code map of its slot: a block is entered when a jump has missed here and was found by that, and whatever drops a page
 * from the code map forgets it here. Mapping and forgetting cost more than in the code map, which is why only code that
 * runs long in one address space has jump maps.
 *
 * 32-bit code has one map, vcpu->jump_map. 64-bit code has one for each of the regions that it jumps to, and a region
 * table (shadowmmu/region.h) to find it by, vcpu->jump_regions by the kind of its window: an entry is the host address
 * of the region's map less four times the region's own, and MMU_REGION_BIAS, so that
 *
 *     shrx r11, r10, r15 ; mov r11, [jump_regions + r11*8] ; mov r11d, [r11 + r10*4 - 32]
 *
 * fetches map[r10]. A region that nobody has jumped to has a map of zeroes, the same for all; the first miss gives it
 * one. An address that is not canonical is a host page fault at the second instruction, or, where tables overlap, #GP
 * at the third one. A table holds what the last slot of its kind has. */
#ifndef RINGFOLD_BT_JUMP_MAP_H
#define RINGFOLD_BT_JUMP_MAP_H

#include "bt/cache.h"

/* For a slot of a mode with jump maps: makes what its code needs, once. False: no address space. */
bool jump_map_open(struct bt_cache *c, struct bt_exec_slot *s);
void jump_map_close(struct bt_cache *c);
/* The slot, which is open, is the current mode's. */
void jump_map_use(struct bt_cache *c, struct bt_exec_slot *s);

/* The target at linear address lin, which the current slot's code map holds, is entered at `entry` (as above). It may
 * go unnoticed when the host has no room. */
void jump_map_enter(struct bt_cache *c, uint64_t lin, uint32_t entry);
/* Forgets one address of translations of a mode, in all slots, or a slot's page (its index). */
void jump_map_forget(struct bt_cache *c, uint32_t mode, uint64_t lin);
void jump_map_forget_page(struct bt_exec_slot *s, uint64_t page);
/* Every page is about to be forgotten: when user code's are many they are now, and the memory goes back to the host. */
void jump_map_empty(struct bt_exec_slot *s);
/* Every page has been forgotten: so are the regions, when they are many. */
void jump_map_release(struct bt_cache *c, struct bt_exec_slot *s);
/* Forgets everything: the slot will be another mode's. */
void jump_map_reset(struct bt_cache *c, struct bt_exec_slot *s);

#endif
