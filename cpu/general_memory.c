/* SPDX-License-Identifier: MIT */
#include "cpu/general_memory.h"

#include <stdint.h>

void *general_memcpy(void *restrict to, const void *restrict from, size_t n)
{
    void *p = to;
    __asm__ volatile("rep movsb" : "+D"(p), "+S"(from), "+c"(n) : : "memory");
    return to;
}

void *general_memmove(void *to, const void *from, size_t n)
{
    if ((uintptr_t)to - (uintptr_t)from >= n) /* below it, or behind its end */
        return general_memcpy(to, from, n);
    uint8_t *p = (uint8_t *)to + n - 1;
    const uint8_t *q = (const uint8_t *)from + n - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld" : "+D"(p), "+S"(q), "+c"(n) : : "memory");
    return to;
}

void *general_memset(void *to, int byte, size_t n)
{
    void *p = to;
    __asm__ volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(byte) : "memory");
    return to;
}

int general_memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}
