/* SPDX-License-Identifier: MIT */
/* What insn_decode said about instructions seen before.
 *
 * Everything in struct insn but the values of the displacement and the immediate follows from the bytes before them:
 * prefixes, opcode, ModRM and SIB. A hash of those bytes leads to the answer for them, which is copied and completed.
 * Instructions whose meaning lies in the bytes behind are not kept. The memory is bounded: a cache that is full starts
 * anew.
 *
 * A cache belongs to one thread at a time. */
#ifndef RINGFOLD_DECODER_CACHE_H
#define RINGFOLD_DECODER_CACHE_H

#include "decoder/insn.h"

struct insn_cache;

/* NULL: out of memory. */
struct insn_cache *insn_cache_create(void);
void insn_cache_destroy(struct insn_cache *c);

/* The same as insn_decode when the instruction's head is known and all its bytes are there, else 0: ask
 * insn_cache_decode. Uses general registers only, so the guest's vector state may be live. */
int insn_cache_find(const struct insn_cache *c, struct insn *out, const uint8_t *bytes, size_t avail,
                    enum insn_mode mode);
/* Where the answer for an instruction is looked for: made by insn_cache_look_ahead only. */
struct insn_head {
    uint64_t low, high; /* the head's bytes */
    uint32_t slot;
    uint16_t check;
    uint8_t length;
    uint8_t at; /* offset of the instruction from where the look began */
};
enum { INSN_AHEAD_MAX = 255 / 15 };

/* What the instructions at bytes are looked for by, as many as can be told apart (count, INSN_AHEAD_MAX at most; avail
 * bytes can be read), with what is known of them on its way into the processor's caches. Returns how many. */
unsigned insn_cache_look_ahead(const struct insn_cache *c, const uint8_t *bytes, size_t avail, enum insn_mode mode,
                               struct insn_head *heads, unsigned count);
/* insn_cache_find of an instruction whose head is known from there. The bytes are the same as they were. */
int insn_cache_find_head(const struct insn_cache *c, struct insn *out, const struct insn_head *head,
                         const uint8_t *bytes, size_t avail, enum insn_mode mode);
/* insn_decode, and remembers the answer if possible. Uses vector registers, as insn_decode does. */
int insn_cache_decode(struct insn_cache *c, struct insn *out, const uint8_t *bytes, size_t avail, enum insn_mode mode);

#endif
