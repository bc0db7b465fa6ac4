/* SPDX-License-Identifier: MIT */
/* Translations that move. They hold absolute guest addresses, but every exec maps the same frames of a program's
 * libraries somewhere else. When a frame is executed at a linear page where it has no translations yet, those of
 * another linear page of the same mode, which nobody seems to use any more, are taken over: the constants in them that
 * depend on the address (struct bt_constant) are changed in place, which costs a small part of translating again, and
 * the dead process's translations do not pile up.
 *
 * Within a page nothing else knows its address: the records count from its start, and blocks are found by their offset.
 * Chains from and to other pages are undone, and made again when both ends have moved by the same distance, as the
 * pages of a library do; landings know the address, which is changed there, too.
 *
 * Two processes that live, each with the frame at an address of its own, would take it from each other with every
 * switch. A page that has entered a code map a short while ago is therefore left alone, and so is every one when the
 * frame is wanted where it moved away from: there is somebody, who gets translations of his own. */
#ifndef RINGFOLD_BT_MOVE_H
#define RINGFOLD_BT_MOVE_H

#include "bt/cache.h"

/* The page record that now is that of the frame at linear page lin, in the vCPU's mode; 0: none was moved. Not while a
 * block runs. */
uint32_t bt_move_page(struct bt_cache *c, uint64_t gfn, uint64_t lin);
/* That page is in the code map now: what led to and from it before does so again as far as it moved with it. */
void bt_move_arrived(struct bt_cache *c, uint32_t page);

#endif
