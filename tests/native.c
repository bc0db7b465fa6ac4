/* SPDX-License-Identifier: MIT */
#include "tests/native.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGES = NATIVE_MAILBOX_PAGES + NATIVE_CODE_PAGES + NATIVE_DATA_PAGES, TIMEOUT_MS = 2000 };

_Static_assert(sizeof(struct native_mailbox) <= NATIVE_MAILBOX_PAGES * NATIVE_PAGE, "mailbox too small");

struct native {
    unsigned bits;
    int memfd;
    uint8_t *pages;
    pid_t pid;
    int to, from; /* pipe ends */
};

uint8_t *native_code(struct native *n)
{
    return n->pages + NATIVE_MAILBOX_PAGES * NATIVE_PAGE;
}

uint8_t *native_data(struct native *n)
{
    return n->pages + (NATIVE_MAILBOX_PAGES + NATIVE_CODE_PAGES) * NATIVE_PAGE;
}

static bool helper_path(unsigned bits, char *path, size_t len)
{
    ssize_t n = readlink("/proc/self/exe", path, len - 1);
    if (n < 0)
        return false;
    path[n] = 0;
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) + sizeof "/native_helper32" > len)
        return false;
    strcpy(slash, bits == 64 ? "/native_helper64" : "/native_helper32");
    return access(path, X_OK) == 0;
}

static void helper_exec(struct native *n, const char *path, int in, int out)
{
    /* Keep clear of 0, 1 and 3 before they are given their meaning. */
    int memfd = fcntl(n->memfd, F_DUPFD, 10), from = fcntl(in, F_DUPFD, 10), to = fcntl(out, F_DUPFD, 10);
    if (dup2(from, 0) < 0 || dup2(to, 1) < 0 || dup2(memfd, 3) < 0)
        _exit(5);
    for (int fd = 4; fd < 64; fd++)
        close(fd);
    execl(path, path, (char *)NULL);
    _exit(6);
}

/* One byte from the helper, or a timeout, or its death. */
static bool wait_done(struct native *n)
{
    struct pollfd p = {.fd = n->from, .events = POLLIN};
    char byte;
    int r;
    do {
        r = poll(&p, 1, TIMEOUT_MS);
    } while (r < 0 && errno == EINTR);
    return r == 1 && read(n->from, &byte, 1) == 1;
}

static bool helper_start(struct native *n, const char **why)
{
    char path[PATH_MAX];
    int in[2], out[2];

    if (!helper_path(n->bits, path, sizeof path)) {
        *why = "the native helper is not beside the test program";
        return false;
    }
    if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC)) {
        *why = "no pipes";
        return false;
    }
    n->pid = fork();
    if (!n->pid)
        helper_exec(n, path, in[0], out[1]);
    close(in[0]);
    close(out[1]);
    n->to = in[1];
    n->from = out[0];
    if (n->pid < 0 || !wait_done(n)) {
        *why = n->bits == 64 ? "the host lets no program set its FS base" : "the host runs no 32-bit programs";
        return false;
    }
    return true;
}

static void helper_stop(struct native *n)
{
    if (n->pid > 0) {
        kill(n->pid, SIGKILL);
        waitpid(n->pid, NULL, 0);
    }
    close(n->to);
    close(n->from);
    n->pid = 0;
}

static uint32_t host_components(void)
{
    uint32_t a = 1, b, c = 0, d, low, high;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if (!(c & 1u << 27))
        return 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low & 7;
}

struct native *native_start(unsigned bits, const char **why)
{
    struct native *n = calloc(1, sizeof *n);
    size_t size = (size_t)PAGES * NATIVE_PAGE;
    uint32_t components = host_components();

    *why = "no memory";
    if (!n)
        return NULL;
    n->bits = bits;
    *why = "the host has no XSAVE";
    n->memfd = memfd_create("native", 0);
    n->pages = n->memfd < 0 || ftruncate(n->memfd, (off_t)size)
                   ? MAP_FAILED
                   : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, n->memfd, 0);
    if (!components || n->pages == MAP_FAILED || !helper_start(n, why)) {
        native_stop(n);
        return NULL;
    }
    ((struct native_mailbox *)n->pages)->components = components;
    signal(SIGPIPE, SIG_IGN);
    return n;
}

void native_stop(struct native *n)
{
    if (!n)
        return;
    if (n->pid)
        helper_stop(n);
    if (n->pages != MAP_FAILED)
        munmap(n->pages, (size_t)PAGES * NATIVE_PAGE);
    close(n->memfd);
    free(n);
}

bool native_run(struct native *n, const struct native_state *in, struct native_result *out)
{
    struct native_mailbox *mailbox = (struct native_mailbox *)n->pages;
    const char *why;
    char byte = 0;

    mailbox->in = *in;
    if (write(n->to, &byte, 1) == 1 && wait_done(n)) {
        *out = mailbox->out;
        return true;
    }
    helper_stop(n);
    if (!helper_start(n, &why))
        fprintf(stderr, "native: %s\n", why);
    return false;
}
