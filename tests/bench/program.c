/* SPDX-License-Identifier: MIT */
/* Start, output, the list of items and life as process 1. */
#include "program.h"

#include <cpuid.h>

struct timespec {
    long seconds, nanoseconds;
};
enum { CLOCK_MONOTONIC = 1, AT_NULL = 0, AT_SYSINFO = 32, MAP_PRIVATE_ANONYMOUS = 0x22, PROT_READ_WRITE = 3 };

/* System calls. */

#ifdef __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call program_start\n");

long system_call(long number, long a, long b, long c, long d, long e)
{
    long r;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    __asm__ volatile("syscall"
                     : "=a"(r)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return r;
}

static long map_pages(size_t size)
{
    long r;
    register long r10 __asm__("r10") = MAP_PRIVATE_ANONYMOUS;
    register long r8 __asm__("r8") = -1;
    register long r9 __asm__("r9") = 0;
    __asm__ volatile("syscall"
                     : "=a"(r)
                     : "0"((long)SYS_MMAP), "D"(0l), "S"(size), "d"((long)PROT_READ_WRITE), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return r;
}
#else
__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call program_start\n");

long system_call(long number, long a, long b, long c, long d, long e)
{
    long r;
    __asm__ volatile("int $0x80" : "=a"(r) : "0"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
    return r;
}

static long map_pages(size_t size)
{
    long args[6] = {0, (long)size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0};
    return system_call3(SYS_MMAP, (long)args, 0, 0);
}

uint32_t kernel_entry;
long getpid_fast(void)
{
    long r;
    __asm__ volatile("call *kernel_entry" : "=a"(r) : "0"(SYS_GETPID) : "memory");
    return r;
}
#endif

void *memory_map(size_t size)
{
    long r = map_pages(size);
    if ((unsigned long)r > -4096ul)
        fail("mmap");
    return (void *)r;
}

void memory_unmap(void *p, size_t size)
{
    system_call3(SYS_MUNMAP, (long)p, (long)size, 0);
}

/* What the compiler may call. */
void *memset(void *to, int byte, size_t n);
void *memset(void *to, int byte, size_t n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}
void *memcpy(void *to, const void *from, size_t n);
void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return start;
}

/* Output: a line is one write. */

static char line[256];
static unsigned length;

static void put(const char *s)
{
    while (*s && length < sizeof line - 1)
        line[length++] = *s++;
}

/* Without the compiler's library there is no 64-bit division on i386. */
static uint32_t divide_by_ten(uint64_t *v)
{
    uint32_t high = *v >> 32, low = (uint32_t)*v, high_quotient = high / 10, rest = high % 10;
    __asm__("divl %2" : "+a"(low), "+d"(rest) : "r"(10u));
    *v = (uint64_t)high_quotient << 32 | low;
    return rest;
}

static void put_number(uint64_t v)
{
    char digits[20];
    unsigned n = 0;
    do
        digits[n++] = '0' + divide_by_ten(&v);
    while (v);
    while (n && length < sizeof line - 1)
        line[length++] = digits[--n];
}

static void put_hexadecimal(uint32_t v)
{
    for (int shift = 28; shift >= 0 && length < sizeof line - 1; shift -= 4)
        line[length++] = "0123456789abcdef"[v >> shift & 15];
}

static void put_line(void)
{
    line[length++] = '\n';
    system_call3(SYS_WRITE, 1, (long)line, length);
    length = 0;
}

void copy_text(char **to, const char *from)
{
    while (*from)
        *(*to)++ = *from++;
    **to = 0;
}

static long power_off(void)
{
    enum {
        MAGIC = (int)0xfee1dead,
        MAGIC_2 = 0x28121969,
        POWER_OFF = 0x4321fedc,
        RESTART = 0x01234567,
        TCSBRK = 0x5409
    };
    system_call3(SYS_IOCTL, 1, TCSBRK, 1); /* a serial line that takes its time (Bochs) has the last lines (tcdrain) */
    system_call(SYS_REBOOT, MAGIC, MAGIC_2, POWER_OFF, 0, 0);
    return system_call(SYS_REBOOT, MAGIC, MAGIC_2, RESTART, 0, 0);
}

static void leave(int status)
{
    if (system_call3(SYS_GETPID, 0, 0, 0) == 1)
        power_off();
    system_call3(SYS_EXIT, status, 0, 0);
}

void fail(const char *what)
{
    length = 0;
    put("bench-error ");
    put(what);
    put_line();
    leave(1);
    __builtin_unreachable();
}

/* Time. */

static uint64_t started, elapsed;

static uint64_t now(void)
{
    struct timespec t;
    system_call3(SYS_CLOCK_GETTIME, CLOCK_MONOTONIC, (long)&t, 0);
    return (uint64_t)(uint32_t)t.seconds * 1000000000u + (uint32_t)t.nanoseconds;
}

static int marking;

static void mark(const char *text)
{
    if (!marking)
        return;
    put(text);
    put_line();
}

void timer_start(void)
{
    mark("bench-start");
    started = now();
}

void timer_stop(void)
{
    elapsed = now() - started;
    mark("bench-stop");
}

/* Helpers of the items. */

uint32_t checksum(const void *data, size_t size)
{
    static uint32_t table[256];
    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (unsigned k = 0; k < 8; k++)
                c = c & 1 ? 0xedb88320 ^ c >> 1 : c >> 1;
            table[i] = c;
        }
    uint32_t c = 0xffffffff;
    for (const uint8_t *p = data; size; size--)
        c = table[(c ^ *p++) & 255] ^ c >> 8;
    return ~c;
}

void fill_random(uint8_t *data, size_t size)
{
    uint32_t x = 1;
    for (size_t i = 0; i < size; i++) {
        x = x * 1664525 + 1013904223;
        data[i] = x >> 24;
    }
}

const char *root = "";

const char *root_path(const char *name)
{
    static char paths[4][512];
    static unsigned next;
    char *path = paths[next++ % 4], *to = path;
    copy_text(&to, root);
    copy_text(&to, name);
    return path;
}

void run_program(const char *path, const char *const *argv, const char *const *environment, int in, int out)
{
    long child = system_call3(SYS_FORK, 0, 0, 0);
    if (child == 0) {
        if (in >= 0)
            system_call3(SYS_DUP2, in, 0, 0);
        if (out >= 0)
            system_call3(SYS_DUP2, out, 1, 0);
        system_call3(SYS_EXECVE, (long)path, (long)argv, (long)environment);
        system_call3(SYS_EXIT, 127, 0, 0);
    }
    int status = -1;
    if (child < 0 || system_call(SYS_WAIT4, child, (long)&status, 0, 0, 0) != child || status)
        fail(path);
}

/* The list. */

/* AVX2 and FMA: the processor has them (CPUID), and the system keeps their registers (XCR0; SDM volume 1, 14.3 and
 * 14.7.1). */
static int avx2_works(void)
{
    enum { OSXSAVE_AVX_FMA = 1 << 27 | 1 << 28 | 1 << 12, AVX2 = 1 << 5, XMM_YMM = 6 };
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & OSXSAVE_AVX_FMA) != OSXSAVE_AVX_FMA)
        return 0;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (a & XMM_YMM) == XMM_YMM && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & AVX2);
}

static const struct {
    const char *suite;
    const struct item *items;
    int avx2; /* they need it */
} groups[] = {{"compute", compute_items, 0},
              {"compute", package_items, 0},
              {"vector", vector_sse2_items, 0},
              {"vector", vector_avx2_items, 1},
              {"kernel", kernel_items, 0}};

static int equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

static void run_item(const struct item *item)
{
    elapsed = 0;
    uint32_t sum = item->run();
    put("bench ");
    put(item->name);
    put(" ");
    put_number(elapsed);
    put(" ");
    put_hexadecimal(sum);
    put_line();
}

static void skip_item(const struct item *item, const char *reason)
{
    put("bench-skip ");
    put(item->name);
    put(" ");
    put(reason);
    put_line();
}

static int run_named(const char *name)
{
    /* become_init has been asked for these, and the host's side measures the second */
    int found = equal(name, "kernel-to-userland") || equal(name, "start-to-userland");
    for (unsigned g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct item *item = groups[g].items; item->name; item++)
            if (equal(name, groups[g].suite) || equal(name, item->name)) {
                if (groups[g].avx2 && !avx2_works())
                    skip_item(item, "no AVX2 with FMA");
                else
                    run_item(item);
                found = 1;
            }
    return found;
}

static void become_init(void)
{
    uint64_t t = now();
    put("bench kernel-to-userland ");
    put_number(t);
    put(" 00000000");
    put_line();
    system_call(SYS_MOUNT, (long)"proc", (long)"/proc", (long)"proc", 0, 0);
    system_call(SYS_MOUNT, (long)"dev", (long)"/dev", (long)"devtmpfs", 0, 0);
    system_call(SYS_MOUNT, (long)"tmp", (long)"/tmp", (long)"tmpfs", 0, 0);
}

void program_start(long *stack);
void program_start(long *stack)
{
    long argc = *stack;
    char **argv = (char **)(stack + 1);
    int first = 1;
#ifndef __x86_64__
    long *p = stack + argc + 2;
    while (*p)
        p++;
    for (p++; *p != AT_NULL; p += 2)
        if (*p == AT_SYSINFO)
            kernel_entry = (uint32_t)p[1];
#endif
    if (system_call3(SYS_GETPID, 0, 0, 0) == 1)
        become_init();
    if (argc > 2 && equal(argv[1], "--root")) {
        root = argv[2];
        first = 3;
    }
    if (argc > first && equal(argv[first], "--mark")) {
        marking = 1;
        first++;
    }
    if (argc == 2 && equal(argv[1], "nothing")) /* what fork-exec-wait executes */
        leave(0);
    for (int i = first; i < argc; i++)
        if (!run_named(argv[i]))
            fail(argv[i]);
    put("bench-end");
    put_line();
    leave(0);
}
