/* SPDX-License-Identifier: MIT */
/* Landings: the ways into a block from other pages and from indirect jumps, of code without a window (which has chains
 * and jump maps, bt/jump_map.h).
 *
 * An indirect jump, call or return goes by the jump table of its mode (one for each exec slot): the low 16 bits of the
 * guest address select an entry, the target landing's host address less that of the miss glue, so that 0 is a miss. A
 * table is a cache without tags, and it is not cleared when the guest's address space changes: the landing itself
 * looks whether the block is meant (the whole guest address), whether its page is in the code map now (c->invalid), and
 * whether something waits (cpu->events); if not so, it goes on to the miss glue, which asks bt_landing_miss.
 *
 * A direct jump to another page is linked to a landing that looks at the page only, and goes on to the poll when the
 * jump goes backward.
 *
 * Guest flags may be live, and what the jump really leads to may need them even where this block does not, so a landing
 * has two forms: flags in EFLAGS, where all tests become one sum in RCX for JRCXZ, which leaves the flags alone (the
 * low 16 bits of both addresses are equal, so that their difference cannot make up for the other summands); and flags
 * saved, LANDING_SAVED bytes behind.
 *
 * A landing is made when it is first needed. It goes with its block: the table's entry when the block dies, links as
 * all links to it. */
#ifndef RINGFOLD_BT_LANDING_H
#define RINGFOLD_BT_LANDING_H

#include "bt/cache.h"

enum {
    LANDING_SAVED = 64, /* from a landing, or the miss glue, to its form for saved flags */
    LANDING_INDICES = 1 << 16,
    LANDING_BYTES_MAX = 192 /* of code */
};

/* Where a landing has its block's address as a number: bytes of it (0: in a form that has no room for others) at an
 * offset from the landing. */
struct bt_landing_address {
    uint8_t offset, bytes;
};

struct bt_landing {                              /* host addresses, 0: not made yet */
    uint32_t jump;                               /* of the table */
    uint32_t direct[4];                          /* by LANDING_* below */
    struct bt_landing_address difference, saved; /* of jump: 0 less it; and it, in the form for saved flags */
    struct bt_landing_address missed[4];         /* of direct */
};
enum { LANDING_DIRECT_SAVED = 1, LANDING_DIRECT_BACKWARD = 2 };

/* Allocates a slot's jump table, once. False: no memory. */
bool landing_open(struct bt_exec_slot *s);
void landing_close(struct bt_exec_slot *s);
/* Forgets all entries: the slot is for another mode now, or the cache is flushed. */
void landing_clear(struct bt_exec_slot *s);

/* An indirect jump leads to the block, whose page is in the code map: enters it into the current mode's jump table or
 * jump map. */
void landing_enter_target(struct bt_cache *c, struct bt_block *b);
/* The block is dead, or must not be found. */
void landing_forget(struct bt_cache *c, const struct bt_block *b);
/* The block's page moves (bt/move.h) and its address becomes eip: its landings, which nothing is linked to, are changed
 * in place, or thrown away where there is no room. No table leads to them any more. */
void landing_move(struct bt_cache *c, const struct bt_block *b, uint64_t eip);
/* Where a far exit to the block goes; 0: no room. */
uintptr_t landing_direct(struct bt_cache *c, struct bt_block *b, bool flags_saved, bool backward);

/* run.c: called by the miss glue, cpu->rip is the jump's target. Goes on there if it can. */
uintptr_t bt_landing_miss(struct bt_vcpu *v, const struct bt_site *site);

#endif
