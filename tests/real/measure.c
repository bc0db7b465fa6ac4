/* SPDX-License-Identifier: MIT */
/* CRC-32 and quicksort as a plain Linux i386 program on raw system calls, so that the same file runs natively on the
 * host and inside the guest. Prints, for each program, the times of five runs in microseconds of CLOCK_MONOTONIC:
 *     measure NAME T1 T2 T3 T4 T5 checksum
 * Started without arguments; needs no library. */
#include <stdint.h>

enum { SYS_EXIT = 1, SYS_WRITE = 4, SYS_CLOCK_GETTIME = 265, CLOCK_MONOTONIC = 1, RUNS = 5 };

static long system_call(long n, long a, long b, long c)
{
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "0"(n), "b"(a), "c"(b), "d"(c) : "memory");
    return r;
}

static uint32_t microseconds(void)
{
    long t[2];
    system_call(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)t, 0);
    return (uint32_t)t[0] * 1000000u + (uint32_t)t[1] / 1000u;
}

static char line[256];
static unsigned length;

static void put(const char *s)
{
    while (*s)
        line[length++] = *s++;
}

static void put_number(uint32_t v)
{
    char digits[10];
    unsigned n = 0;
    do
        digits[n++] = '0' + v % 10;
    while (v /= 10);
    while (n)
        line[length++] = digits[--n];
}

/* CRC-32, a table look-up for each byte, over 1 MiB, sixteen times. */
static uint8_t data[1 << 20];
static uint32_t crc_table[256];

static void crc_prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (unsigned k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
        crc_table[i] = c;
    }
    uint32_t x = 1;
    for (unsigned i = 0; i < sizeof data; i++) {
        x = x * 1664525 + 1013904223;
        data[i] = x >> 24;
    }
}

static uint32_t crc(void)
{
    uint32_t c = 0xffffffff;
    for (unsigned round = 0; round < 16; round++)
        for (unsigned i = 0; i < sizeof data; i++)
            c = crc_table[(c ^ data[i]) & 255] ^ c >> 8;
    return ~c;
}

/* Quicksort of a million integers, recursive. */
enum { COUNT = 1000000 };
static uint32_t numbers[COUNT];

static void quicksort(uint32_t *a, int low, int high)
{
    while (low < high) {
        uint32_t pivot = a[low + (high - low) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                uint32_t t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (j - low < high - i) {
            quicksort(a, low, j);
            low = i;
        } else {
            quicksort(a, i, high);
            high = j;
        }
    }
}

static uint32_t sort(void)
{
    uint32_t x = 7, sum = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        x = x * 1664525 + 1013904223;
        numbers[i] = x;
    }
    quicksort(numbers, 0, COUNT - 1);
    for (unsigned i = 0; i < COUNT; i++)
        sum = sum * 31 + numbers[i];
    return sum;
}

static void measure(const char *name, uint32_t (*fn)(void))
{
    uint32_t sum = 0;
    length = 0;
    put("measure ");
    put(name);
    fn(); /* pages and caches */
    for (unsigned i = 0; i < RUNS; i++) {
        uint32_t start = microseconds();
        sum = fn();
        put(" ");
        put_number(microseconds() - start);
    }
    put(" ");
    put_number(sum);
    put("\n");
    system_call(SYS_WRITE, 1, (long)line, length);
}

void _start(void);
__attribute__((force_align_arg_pointer)) void _start(void)
{
    crc_prepare();
    measure("crc-32", crc);
    measure("quicksort", sort);
    system_call(SYS_EXIT, 0, 0, 0);
    for (;;)
        ;
}
