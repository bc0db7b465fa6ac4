/* SPDX-License-Identifier: MIT */
#include "common/common.h"

/* Console: the first serial port, and the debug console of other machines. */

static void put(char c)
{
    if (c == '\n')
        put('\r');
    for (unsigned i = 0; i < 100000 && !(inb(0x3fd) & 0x20); i++)
        ;
    outb(0x3f8, (uint8_t)c);
    outb(0xe9, (uint8_t)c);
}

static void put_number(word_t v, unsigned base, bool negative, unsigned width, char fill)
{
    char digits[24];
    unsigned n = 0;
    do
        digits[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    if (negative)
        digits[n++] = '-';
    while (width > n) {
        put(fill);
        width--;
    }
    while (n)
        put(digits[--n]);
}

static void put_formatted(const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        char fill = ' ';
        unsigned width = 0;
        bool wide = false;
        f++;
        if (*f == '0')
            fill = *f++;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + (unsigned)(*f++ - '0');
        for (; *f == 'l'; f++)
            wide = true;
        if (*f == 'c') {
            put((char)va_arg(args, int));
        } else if (*f == 's') {
            for (const char *s = va_arg(args, const char *); *s; s++)
                put(*s);
        } else if (*f == 'd') {
            long v = wide ? va_arg(args, long) : va_arg(args, int);
            put_number(v < 0 ? -(word_t)v : (word_t)v, 10, v < 0, width, fill);
        } else if (*f == 'u' || *f == 'x') {
            put_number(wide ? va_arg(args, unsigned long) : va_arg(args, unsigned), *f == 'x' ? 16 : 10, false, width,
                       fill);
        } else {
            put(*f);
        }
    }
}

void printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    put_formatted(format, args);
    va_end(args);
}

void guest_exit(int status)
{
    /* The last character has to leave the shift register. */
    for (unsigned i = 0; i < 100000 && !(inb(0x3fd) & 0x40); i++)
        ;
    outb(0xf4, (uint8_t)status);
    for (const char *s = "Shutdown"; *s; s++) /* Bochs */
        outb(0x8900, (uint8_t)*s);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void *memset(void *to, int byte, size_t n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

/* Findings. */

static unsigned right_count, wrong_count, tally_right, tally_wrong;

static void finding(bool right, const char *name, const char *format, va_list args)
{
    printf(right ? "ok %s" : "FAIL %s", name);
    if (!right && *format) {
        printf(": ");
        put_formatted(format, args);
    }
    printf("\n");
    if (!right)
        wrong_count++;
}

void check(bool right, const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding(right, name, format, args);
    right_count += right;
    va_end(args);
}

void check_equal(const char *name, word_t got, word_t expected)
{
    check(got == expected, name, "got %lx, expected %lx", got, expected);
}

void tally(bool right, const char *name, const char *format, ...)
{
    enum { SHOWN = 20 };
    if (right) {
        tally_right++;
        return;
    }
    if (tally_wrong++ < SHOWN) {
        va_list args;
        va_start(args, format);
        finding(false, name, format, args);
        va_end(args);
    }
}

void tally_end(const char *name)
{
    check(!tally_wrong, name, "%u of %u cases are wrong", tally_wrong, tally_wrong + tally_right);
    printf("   %s: %u cases\n", name, tally_wrong + tally_right);
    tally_right = tally_wrong = 0;
}

/* Interrupt controllers and timer. */

static uint16_t pic_masks;

static void pic_write_masks(void)
{
    outb(0x21, (uint8_t)pic_masks);
    outb(0xa1, (uint8_t)(pic_masks >> 8));
}

void pic_mask_all(void)
{
    pic_masks = 0xffff;
    pic_write_masks();
}

void pic_unmask(unsigned irq)
{
    pic_masks &= (uint16_t) ~(1u << irq);
    if (irq >= 8)
        pic_masks &= (uint16_t)~4u;
    pic_write_masks();
}

void pic_eoi(unsigned irq)
{
    if (irq >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

static void pic_init(void)
{
    static const uint8_t words[][2] = {{0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, 0x28},
                                       {0x21, 0x04}, {0xa1, 0x02}, {0x21, 0x01}, {0xa1, 0x01}};
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
        outb(words[i][0], words[i][1]);
    pic_mask_all();
}

void pit_start(unsigned divisor)
{
    outb(0x43, 0x34);
    outb(0x40, (uint8_t)divisor);
    outb(0x40, (uint8_t)(divisor >> 8));
}

/* From the first instruction in C to the last. */

void common_start(void (*set_up)(void))
{
    outb(0x3f9, 0);    /* no serial interrupts */
    outb(0x3fb, 0x83); /* 8N1, divisor follows */
    outb(0x3f8, 1);
    outb(0x3f9, 0);
    outb(0x3fb, 0x03);
    outb(0x3fa, 0x07);
    pic_init();
    set_up();
    guest_main();
    printf("end: %u right, %u wrong\n", right_count, wrong_count);
    guest_exit(wrong_count ? 1 : 0);
}
