/* SPDX-License-Identifier: MIT */
/* What 32-bit and 64-bit bare-metal guests share: console, exit, findings, interrupt controllers and timer. Compiled
 * for each.
 *
 * A guest defines guest_main(). Every finding is a line "ok NAME" or "FAIL NAME ..."; the guest ends through the
 * debug-exit port 0xf4 with 0, or 1 when a line said FAIL. */
#ifndef GUEST_COMMON_H
#define GUEST_COMMON_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef unsigned long word_t; /* as wide as a register */

void guest_main(void);
/* Brings up the console and the PICs, then set_up, then the guest, and ends. */
void common_start(void (*set_up)(void)) __attribute__((noreturn));

/* Console and end. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2))); /* c s d u x, 0 and a width, l */
void guest_exit(int status) __attribute__((noreturn));
void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);

/* Findings. check prints a line in either case, tally only counts what is right: tally_end prints one line for all. */
void check(bool right, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
void check_equal(const char *name, word_t got, word_t expected);
void tally(bool right, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
void tally_end(const char *name);

/* Ports. */
static inline void outb(uint16_t port, uint8_t v)
{
    __asm__ volatile("outb %0, %1" ::"a"(v), "Nd"(port));
}
static inline void outl(uint16_t port, uint32_t v)
{
    __asm__ volatile("outl %0, %1" ::"a"(v), "Nd"(port));
}
static inline uint8_t inb(uint16_t port)
{
    uint8_t v;
    __asm__ volatile("inb %1, %0" : "=a"(v) : "Nd"(port));
    return v;
}

/* Interrupts: the PICs are at 0x20/0x28 and masked. */
void pic_unmask(unsigned irq);
void pic_mask_all(void);
void pic_eoi(unsigned irq);
void pit_start(unsigned divisor); /* channel 0, mode 2 */

#endif
