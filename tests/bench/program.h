/* SPDX-License-Identifier: MIT */
/* The program that `ringfold bench` runs natively and as /init of its Linux guest: raw system calls, no library, one
 * source for i386 and x86-64.
 *
 *     program [--root DIR] [--mark] ITEM|SUITE...
 *
 * Each item prints "bench NAME NANOSECONDS CHECKSUM" (CLOCK_MONOTONIC); the checksum is the same wherever it runs
 * right. "bench-skip NAME REASON" stands for an item that this processor (or its system) has not the instructions for.
 * As process 1 it first prints "bench kernel-to-userland NANOSECONDS 0", mounts what the items need, and powers
 * off when done. --root: the folder that holds bin/, lib/ and configure; default /.
 * --mark: lines "bench-start" and "bench-stop" around each measured part, for a host that trusts its own clock more. */
#ifndef BENCH_PROGRAM_H
#define BENCH_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

struct item {
    const char *name;
    uint32_t (*run)(void); /* prepares, measures between timer_start and timer_stop, returns a checksum */
};
/* They end with a NULL name. */
extern const struct item compute_items[], kernel_items[], package_items[], vector_sse2_items[], vector_avx2_items[];

void timer_start(void);
void timer_stop(void);

extern const char *root;
const char *root_path(const char *name); /* root + name, in a static buffer of four */

void fail(const char *what) __attribute__((noreturn));
void *memory_map(size_t size); /* zeroed pages; fails rather than return NULL */
void memory_unmap(void *p, size_t size);
uint32_t checksum(const void *data, size_t size); /* CRC-32 */
void fill_random(uint8_t *data, size_t size);
void copy_text(char **to, const char *from); /* leaves *to at the terminating NUL */

/* System calls. Results are the kernel's: negative errno on error. */
long system_call(long number, long a, long b, long c, long d, long e);
#ifdef __x86_64__
enum {
    SYS_READ = 0,
    SYS_WRITE = 1,
    SYS_OPEN = 2,
    SYS_CLOSE = 3,
    SYS_LSEEK = 8,
    SYS_MMAP = 9,
    SYS_MUNMAP = 11,
    SYS_IOCTL = 16,
    SYS_PIPE = 22,
    SYS_DUP2 = 33,
    SYS_GETPID = 39,
    SYS_FORK = 57,
    SYS_EXECVE = 59,
    SYS_EXIT = 60,
    SYS_WAIT4 = 61,
    SYS_FTRUNCATE = 77,
    SYS_MKDIR = 83,
    SYS_UNLINK = 87,
    SYS_MOUNT = 165,
    SYS_REBOOT = 169,
    SYS_CLOCK_GETTIME = 228,
    SYS_MEMFD_CREATE = 319,
};
#else
enum {
    SYS_EXIT = 1,
    SYS_FORK = 2,
    SYS_READ = 3,
    SYS_WRITE = 4,
    SYS_OPEN = 5,
    SYS_CLOSE = 6,
    SYS_UNLINK = 10,
    SYS_EXECVE = 11,
    SYS_LSEEK = 19,
    SYS_GETPID = 20,
    SYS_MOUNT = 21,
    SYS_MKDIR = 39,
    SYS_PIPE = 42,
    SYS_IOCTL = 54,
    SYS_DUP2 = 63,
    SYS_REBOOT = 88,
    SYS_MMAP = 90,
    SYS_MUNMAP = 91,
    SYS_FTRUNCATE = 93,
    SYS_WAIT4 = 114,
    SYS_CLOCK_GETTIME = 265,
    SYS_MEMFD_CREATE = 356,
};
/* getpid the way the C library asks: through the kernel's own entry code (sysenter or syscall). */
extern uint32_t kernel_entry; /* AT_SYSINFO, 0: none */
long getpid_fast(void);
#endif

static inline long system_call3(long number, long a, long b, long c)
{
    return system_call(number, a, b, c, 0, 0);
}

/* Runs a program and waits for it. in, out: descriptors for its standard input and output, -1: as ours; errors go where
 * ours do. Fails unless it ends with status 0. */
void run_program(const char *path, const char *const *argv, const char *const *environment, int in, int out);

#endif
