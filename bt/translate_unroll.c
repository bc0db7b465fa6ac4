/* SPDX-License-Identifier: MIT */
/* A short loop, several rounds of it in its block. Of
 *
 *     L: mov [rdi], eax ; add rdi, 4 ; cmp rdi, rdx ; jne L
 *
 * becomes, with two rounds,
 *
 *     anything to do? ; mov [rdi], eax ; add rdi, 4 ; cmp rdi, rdx ; je behind ; mov [rdi], eax ; add rdi, 4 ;
 *     cmp rdi, rdx ; jne L ; jmp behind
 *
 * Each round but the last leaves the block when the guest's branch is not taken, and the last one's branch leads to the
 * block's entry, which looks for events. A block is straight-line code for all that follows, so that what is known and
 * held in one round (regions, narrow indices, registers) is so in the next.
 *
 * What is behind the loop is a block of its own: every round leads there. eip_at goes back with each round; a fault in
 * any of them is one of the same guest instruction. */
#include "bt/translate.h"

/* Instructions of a round, rounds. Vector code has loops of 17 to 23 (a dot product, a blend of bytes). Longer ones
 * gained nothing (measured), and half as many rounds less. */
enum { ROUND_MAX = 24, ROUNDS_MAX = 8 };

static bool runs_long(const struct builder *b)
{
    const struct engine_options *o = &b->v->options;
    return (b->mode & BT_MODE_WINDOW) && !(b->mode & (BT_MODE_SINGLE | BT_MODE_PLAIN)) && b->second_gfn == ~0ull &&
           !o->one_insn_blocks && !o->block_insns;
}

/* Instructions up to the last short way back to the block's first one; 0: there is none. */
static unsigned round_of(const struct builder *b)
{
    unsigned n = 0;
    for (unsigned i = 0; i < b->count && i < ROUND_MAX; i++) {
        const struct insn *in = &b->insns[i];
        if ((in->cls == INSN_JMP || in->cls == INSN_JCC) && branch_target(b, i) == b->eip)
            n = i + 1;
    }
    return n;
}

/* Beside a call into C or a string instruction the way back takes no time. */
static bool pays(const struct builder *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        enum insn_way way = insn_way_of(b, &b->insns[i]);
        if (way != WAY_PLAIN && way != WAY_STACK && way != WAY_CONTROL)
            return false;
    }
    return !branch_is_counted(&b->insns[n - 1]);
}

void unroll_loop(struct builder *b)
{
    unsigned n = runs_long(b) ? round_of(b) : 0;
    if (n < 2 || !pays(b, n)) /* a branch to itself is no loop */
        return;
    unsigned rounds = BT_BLOCK_MAX_INSNS / n < ROUNDS_MAX ? BT_BLOCK_MAX_INSNS / n : ROUNDS_MAX;
    b->count = rounds * n;
    b->rounds_end = b->count - n;
    for (unsigned i = n; i < b->count; i++) {
        b->insns[i] = b->insns[i - n];
        b->eip_at[i] = b->eip_at[i - n];
    }
    b->eip_at[b->count] = builder_next(b, b->count - 1);
}
