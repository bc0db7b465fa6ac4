/* SPDX-License-Identifier: MIT */
/* Debian's own gzip, xz, bzip2 and openssl, run by their own dynamic linker and libraries: the same binaries natively
 * and in the guest. What they write is checked. */
#include "program.h"

#ifdef __x86_64__
#define LOADER "/lib64/ld-linux-x86-64.so.2"
#else
#define LOADER "/lib/ld-linux.so.2"
#endif

static int new_file(void)
{
    long fd = system_call3(SYS_MEMFD_CREATE, (long)"bench", 0, 0);
    if (fd < 0)
        fail("memfd_create");
    return (int)fd;
}

static void rewind_file(int fd)
{
    system_call3(SYS_LSEEK, fd, 0, 0);
}

/* Text of words from a small vocabulary: compresses like text does. */
static int text_file(uint32_t size)
{
    static const char *const words[] = {
        "the ",    "translator ", "of ",  "machine ",   "code ",  "a ",        "register ", "and ",
        "memory ", "is ",         "in ",  "page\n",     "to ",    "block ",    "jump ",     "return(x);\n",
        "0x1f ",   "while ",      "not ", "fault ",     "that ",  "boundary ", "if (y) ",   "segment ",
        "it ",     "was ",        "12 ",  "privilege ", "cache ", "by ",       "shadow ",   "table. "};
    char *text = memory_map(size + 64), *to = text;
    uint32_t x = 7;
    while (to < text + size) {
        x = x * 1664525 + 1013904223;
        copy_text(&to, words[x >> 27]);
        if (!(x >> 20 & 15)) { /* now and then something that was not there before */
            *to++ = 'a' + (x >> 8) % 26;
            *to++ = 'a' + (x >> 13) % 26;
            *to++ = '0' + (x >> 5) % 10;
        }
    }
    int fd = new_file();
    if (system_call3(SYS_WRITE, fd, (long)text, size) != (long)size)
        fail("write");
    memory_unmap(text, size + 64);
    rewind_file(fd);
    return fd;
}

static uint32_t file_checksum(int fd)
{
    uint8_t buffer[4096];
    uint32_t sum = 0;
    long n;
    rewind_file(fd);
    while ((n = system_call3(SYS_READ, fd, (long)buffer, sizeof buffer)) > 0)
        sum = sum * 31 + checksum(buffer, (size_t)n);
    return sum;
}

/* words: program and arguments. */
static void run_package(const char *const *words, int in, int out)
{
    const char *argv[16] = {root_path(LOADER), "--library-path", root_path("/lib/packages")};
    /* The same code paths of libcrypto, whatever processor the engine shows: SSE2 and nothing newer. */
    const char *environment[] = {"PATH=/bin", "OPENSSL_ia32cap=0x07808111:0", "OPENSSL_CONF=/dev/null", "LC_ALL=C",
                                 NULL};
    unsigned n = 3;
    argv[n++] = root_path(words[0]);
    for (words++; *words; words++)
        argv[n++] = *words;
    run_program(argv[0], argv, environment, in, out);
}

/* Runs the program over size bytes of text; before, when not NULL, prepares its input from the text. */
static uint32_t filter(uint32_t size, const char *const *before, const char *const *words)
{
    int in = text_file(size), out = new_file();
    if (before) {
        int prepared = new_file();
        run_package(before, in, prepared);
        system_call3(SYS_CLOSE, in, 0, 0);
        in = prepared;
        rewind_file(in);
    }
    timer_start();
    run_package(words, in, out);
    timer_stop();
    uint32_t sum = file_checksum(out);
    system_call3(SYS_CLOSE, in, 0, 0);
    system_call3(SYS_CLOSE, out, 0, 0);
    return sum;
}

#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define GZIP WORDS("/bin/gzip", "-c", "-n")
#define XZ WORDS("/bin/xz", "-c", "-2", "-T1")
#define BZIP2 WORDS("/bin/bzip2", "-c")

static uint32_t run_gzip(void)
{
    return filter(2 << 20, NULL, GZIP);
}
static uint32_t run_gunzip(void)
{
    return filter(6 << 20, GZIP, WORDS("/bin/gzip", "-d", "-c"));
}
static uint32_t run_xz(void)
{
    return filter(1 << 20, NULL, XZ);
}
static uint32_t run_unxz(void)
{
    return filter(6 << 20, XZ, WORDS("/bin/xz", "-d", "-c", "-T1"));
}
static uint32_t run_bzip2(void)
{
    return filter(1 << 20, NULL, BZIP2);
}
static uint32_t run_bunzip2(void)
{
    return filter(2 << 20, BZIP2, WORDS("/bin/bzip2", "-d", "-c"));
}
static uint32_t run_openssl_sha(void)
{
    return filter(8 << 20, NULL, WORDS("/bin/openssl", "dgst", "-sha256"));
}
static uint32_t run_openssl_aes(void)
{
    return filter(6 << 20, NULL,
                  WORDS("/bin/openssl", "enc", "-aes-128-cbc", "-K", "000102030405060708090a0b0c0d0e0f", "-iv",
                        "0f0e0d0c0b0a09080706050403020100"));
}
/* The Mersenne prime 2^607 - 1: Miller-Rabin, big number multiplications. */
static uint32_t run_openssl_prime(void)
{
    static char number[160];
    unsigned n = 0;
    number[n++] = '7';
    while (n < 152)
        number[n++] = 'f';
    return filter(16, NULL, WORDS("/bin/openssl", "prime", "-hex", number));
}

const struct item package_items[] = {{"gzip", run_gzip},
                                     {"gunzip", run_gunzip},
                                     {"xz", run_xz},
                                     {"unxz", run_unxz},
                                     {"bzip2", run_bzip2},
                                     {"bunzip2", run_bunzip2},
                                     {"openssl-sha256", run_openssl_sha},
                                     {"openssl-aes", run_openssl_aes},
                                     {"openssl-prime", run_openssl_prime},
                                     {NULL, NULL}};
