/* SPDX-License-Identifier: MIT */
/* insn_decode with what decoder/cache.c must know beside the answer. Private to decoder/. */
#ifndef RINGFOLD_DECODER_SHAPE_H
#define RINGFOLD_DECODER_SHAPE_H

#include "decoder/insn.h"

/* An instruction's bytes are its head (prefixes, opcode, ModRM, SIB) and its tail: a displacement and one immediate.
 * fixed: the head alone decides everything in struct insn but mem.disp, imm and the tail in bytes[]. */
struct insn_shape {
    uint8_t head;     /* bytes */
    uint8_t disp_len; /* bytes; the displacement is always sign-extended */
    uint8_t imm_len;
    bool imm_signed;
    bool shift; /* an immediate that is zero when masked leaves the flags alone: the head does not decide that */
    bool fixed;
};

int insn_decode_shape(struct insn *out, struct insn_shape *shape, const uint8_t *bytes, size_t avail,
                      enum insn_mode mode);

#endif
