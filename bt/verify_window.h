/* SPDX-License-Identifier: MIT */
/* The part of the verifier that knows 64-bit code's accesses through a window (translate_window.c). It accepts
 *
 *   shrx r11, X, r15 ; mov r11, [regions + r11*8]   directly one behind the other: the entry of X's region
 *   mov r11, [regions + d]                          that of a constant
 *   [Y + r11 + d]                                   with a Y whose difference from X is known (bt/value.h) and ends in
 *                                                   the slot's guards, or the constant in r10, and no label between
 *   lea r10, [Z + r11] ; [r10 + d], [r10 + Y*s + d] the host's address of what Z points to, when Z + d, or Z + Y*s + d,
 *                                                   is as near X, r11 being the entry for X
 *   [r11 + d], [r11 + Y*s + d]                      with r11 the lowest region's entry, the host's address for 0, and Y
 *                                                   a number of 32 bits
 *   (r12 may be in r11's place, but with a Y in r10-r12; r10 too, but for the access; r11 and r12 in that of r10; an
 *   index is not r10 or r11)
 *   shrx r11, X, r15 ; mov r11d, [parallel + r11*8] directly one behind the other: X is in a parallel stretch
 *   gs:[Y + d], gs:[Y + Z*s + d]                    with a sum as near such an X, and no label between
 *   lea r10, [Z + r10]                              likewise, with what the region table would say of such an X in r10
 *   shrx r15, X, r15 ; mov r15, [regions + r15*8] ; lea rsp, [X + r15 - 32] ; not r15 ; lea r15, [r15 + 65]
 *                                                   directly one behind the other: another stack
 *   lea rsp, [rsp + r15 - 32] ; mov [guest RSP], rsp ; mov rsp, [the host's]
 *                                                   likewise, then a call of the glue, then
 *   mov rsp, [window_rsp]                           which glue has set, as r15
 *   [rsp + d], [rsp + Y*s + d], push and pop of a register, push of a constant
 *                                                   while RSP cannot have gone far from its region's slot
 *   lea any, [rsp + r15 + d]                        the guest's RSP
 *
 * and nothing else that writes r15, or RSP but for small steps. How far RSP may have gone since it was set, or since an
 * access near it went through its slot, is followed through the block (its *drift*, in bytes); at an exit it may be
 * what it may be at an entry. */
#ifndef RINGFOLD_BT_VERIFY_WINDOW_H
#define RINGFOLD_BT_VERIFY_WINDOW_H

#include "bt/cache.h"
#include "bt/value.h"
#include "decoder/capstone.h"

enum verify_window_step {
    STEP_NONE,
    STEP_INDEX,   /* r15 is the region's number of stack_of */
    STEP_ENTRY,   /* its region's entry */
    STEP_SET,     /* and RSP is set */
    STEP_TURNED,  /* r15 is turned around */
    STEP_LEAVES,  /* RSP is the guest's */
    STEP_LEAVES_2 /* and stored */
};

enum { VERIFY_LOOKS = 2 * BT_BLOCK_MAX_INSNS }; /* as many as a block can have */

struct verify_window {
    const uint64_t *regions; /* NULL: the block is of another mode */
    const struct bt_vcpu *vcpu;
    uintptr_t start;
    size_t size;
    uint32_t *label; /* by offset in the block: 1 + the largest drift that a branch comes with; 0: no branch */
    bool changed;    /* a label's was not known before in this pass */
    /* at the current instruction: */
    x86_reg index_in; /* r10, r11 or r12 is the number of the region of index_of, or INVALID */
    struct value index_of;
    struct verify_fact {
        enum { VERIFY_NOTHING, VERIFY_ENTRY, VERIFY_PARALLEL, VERIFY_HOST } kind;
        struct value of;      /* the region is that of this */
        uint64_t constant;    /* VERIFY_ENTRY: 1 + the region, of a constant; 0: that of a value */
        struct value base;    /* VERIFY_HOST: the host's address for this */
    } fact[3];                /* r10, r11, r12 */
    const uint64_t *parallel; /* the table (shadowmmu/parallel.h), or NULL */
    unsigned looks;
    struct value parallel_near[VERIFY_LOOKS]; /* those that were looked at */
    struct values values;
    struct value value[16], slot[4]; /* of names[], and of guest R12-R15 in cpu->gpr */
    bool called;                     /* the instruction before was a call */
    bool r10_known;
    uint16_t narrow; /* by index in names[]: registers of 32 bits, extended */
    uint64_t r10;
    enum verify_window_step step; /* how far a sequence has come that RSP and r15 are in */
    x86_reg stack_of;             /* the register that it begins with */
    uint64_t drift;
    uint64_t touch; /* the drift that the current instruction's access leaves */
};

/* Capstone 4 calls the operand of these written; they only compare. */
static inline bool verify_only_compares(unsigned id)
{
    return id == X86_INS_TEST || id == X86_INS_CMP || id == X86_INS_BT;
}

/* False: no memory. */
bool verify_window_begin(struct verify_window *w, const struct bt_cache *c, uint32_t mode, uintptr_t start,
                         size_t size);
void verify_window_end(struct verify_window *w);

/* The block is read again from its start, until verify_window_settled. */
void verify_window_pass(struct verify_window *w);
bool verify_window_settled(const struct verify_window *w);

/* Before an instruction's operands are looked at. What is wrong, or NULL. */
const char *verify_window_before(struct verify_window *w, const cs_insn *i);
/* Is the memory operand one of the forms, where it stands? */
bool verify_window_accepts(struct verify_window *w, const cs_insn *i, const cs_x86_op *op);
/* Is it a push or pop that may be, where it stands? */
bool verify_window_pushes(struct verify_window *w, const cs_insn *i);
/* Behind the instruction. What is wrong, or NULL. */
const char *verify_window_after(struct verify_window *w, csh h, const cs_insn *i);

#endif
