/* SPDX-License-Identifier: MIT */
/* The memory functions of the folders that are compiled without vector registers (GENERAL_REGS in the Makefile, which
 * includes this in each of their files). The compiler calls memcpy and memset of its own accord, for a loop or a copy
 * of a struct, and libc's use vector registers, of which some are YMM0 and YMM1 on hosts without AVX-512: the guest's.
 * So in these files the names mean functions by general registers. Contracts as in C17, 7.24.
 *
 * In builds with a sanitizer they stay libc's, which it checks; there the guest's vector state is not in the registers
 * while C runs (bt/slow.h). */
#ifndef RINGFOLD_CPU_GENERAL_MEMORY_H
#define RINGFOLD_CPU_GENERAL_MEMORY_H

#include <stddef.h>

void *general_memcpy(void *restrict to, const void *restrict from, size_t n);
void *general_memmove(void *to, const void *from, size_t n);
void *general_memset(void *to, int byte, size_t n);
int general_memcmp(const void *a, const void *b, size_t n);

#ifndef RINGFOLD_SANITIZE
__asm__("memcpy = general_memcpy\n\t"
        "memmove = general_memmove\n\t"
        "memset = general_memset\n\t"
        "memcmp = general_memcmp\n\t"
        "bcmp = general_memcmp");
#endif

#endif
