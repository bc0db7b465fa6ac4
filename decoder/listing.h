/* SPDX-License-Identifier: MIT */
/* Listings for people: host code by Capstone, guest code by Zydis (insn_format). Slow; not for the translator's path.
 * Uses libc and vector registers: the guest's vector state must not be live in the host's registers. */
#ifndef RINGFOLD_DECODER_LISTING_H
#define RINGFOLD_DECODER_LISTING_H

#include "decoder/insn.h"

#include <stdio.h>

/* Host (64-bit) code, one instruction a line: address, bytes, Intel syntax. address: what to print for code[0].
 * Bytes that Capstone takes for no instruction are printed as .byte. */
void listing_host(FILE *out, const void *code, size_t len, uint64_t address);
/* The text of one host instruction, or of one byte that is none, without address and bytes. Returns its length. */
size_t listing_host_insn(const void *code, size_t len, uint64_t address, char *text, size_t size);
/* Guest code, decoded anew from bytes; pc: address of bytes[0]. */
void listing_guest(FILE *out, const uint8_t *bytes, size_t len, uint64_t pc, enum insn_mode mode);

#endif
