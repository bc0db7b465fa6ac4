/* SPDX-License-Identifier: MIT */
/* The kernel items: system calls, processes, pages, files. */
#include "program.h"

enum { PAGE = 4096, O_CREATE_WRITE = 0101 };

static uint32_t run_getpid(void)
{
    long first = system_call3(SYS_GETPID, 0, 0, 0);
    uint32_t same = 0;
    timer_start();
    for (unsigned i = 0; i < 200000; i++)
#ifdef __x86_64__
        same += system_call3(SYS_GETPID, 0, 0, 0) == first;
#else
        same += (kernel_entry ? getpid_fast() : system_call3(SYS_GETPID, 0, 0, 0)) == first;
#endif
    timer_stop();
    return same;
}

#ifndef __x86_64__
static uint32_t run_getpid_int80(void)
{
    long first = system_call3(SYS_GETPID, 0, 0, 0);
    uint32_t same = 0;
    timer_start();
    for (unsigned i = 0; i < 100000; i++)
        same += system_call3(SYS_GETPID, 0, 0, 0) == first;
    timer_stop();
    return same;
}
#endif

static uint32_t run_fork(void)
{
    uint32_t right = 0;
    timer_start();
    for (unsigned i = 0; i < 300; i++) {
        long child = system_call3(SYS_FORK, 0, 0, 0);
        if (child == 0)
            system_call3(SYS_EXIT, i & 63, 0, 0);
        int status = 0;
        system_call(SYS_WAIT4, child, (long)&status, 0, 0, 0);
        right += status == (int)(i & 63) << 8;
    }
    timer_stop();
    return right;
}

static uint32_t run_exec(void)
{
    const char *argv[] = {"/proc/self/exe", "nothing", NULL}, *environment[] = {NULL};
    timer_start();
    for (unsigned i = 0; i < 150; i++)
        run_program(argv[0], argv, environment, -1, -1);
    timer_stop();
    return 150;
}

static uint32_t run_pipe(void)
{
    int there[2], back[2];
    char byte = 0;
    enum { ROUNDS = 5000 };
    uint32_t sum = 0;
    if (system_call3(SYS_PIPE, (long)there, 0, 0) || system_call3(SYS_PIPE, (long)back, 0, 0))
        fail("pipe");
    long child = system_call3(SYS_FORK, 0, 0, 0);
    if (child == 0) {
        system_call3(SYS_CLOSE, there[1], 0, 0);
        while (system_call3(SYS_READ, there[0], (long)&byte, 1) == 1) {
            byte++;
            system_call3(SYS_WRITE, back[1], (long)&byte, 1);
        }
        system_call3(SYS_EXIT, 0, 0, 0);
    }
    timer_start();
    for (unsigned i = 0; i < ROUNDS; i++) {
        byte = (char)i;
        system_call3(SYS_WRITE, there[1], (long)&byte, 1);
        system_call3(SYS_READ, back[0], (long)&byte, 1);
        sum += (uint8_t)byte;
    }
    timer_stop();
    for (unsigned i = 0; i < 2; i++) {
        system_call3(SYS_CLOSE, there[i], 0, 0);
        system_call3(SYS_CLOSE, back[i], 0, 0);
    }
    system_call(SYS_WAIT4, child, 0, 0, 0, 0);
    return sum;
}

static uint32_t run_faults(void)
{
    enum { SIZE = 16 << 20 };
    uint32_t sum = 0;
    timer_start();
    for (unsigned round = 0; round < 4; round++) {
        volatile uint8_t *pages = memory_map(SIZE);
        for (unsigned i = 0; i < SIZE; i += PAGE)
            pages[i] = 1, sum += pages[i + 1] + 1;
        memory_unmap((void *)pages, SIZE);
    }
    timer_stop();
    return sum;
}

static uint32_t run_map(void)
{
    uint32_t sum = 0;
    timer_start();
    for (unsigned i = 0; i < 10000; i++) {
        uint8_t *page = memory_map(4 * PAGE);
        sum += ++page[PAGE];
        memory_unmap(page, 4 * PAGE);
    }
    timer_stop();
    return sum;
}

static uint32_t run_files(void)
{
    /* A tmpfs in the guest, and on the usual host. */
    char path[64] = "/dev/shm/bench-file-", *end = path;
    uint32_t sum = 0;
    if (!*root)
        copy_text(&end, "/tmp/bench-file-");
    else
        copy_text(&end, path);
    end[1] = 0;
    timer_start();
    for (unsigned i = 0; i < 3000; i++) {
        *end = 'a' + i % 26;
        long file = system_call3(SYS_OPEN, (long)path, O_CREATE_WRITE, 0600);
        sum += system_call3(SYS_WRITE, file, (long)path, 16) == 16;
        system_call3(SYS_CLOSE, file, 0, 0);
        sum += system_call3(SYS_UNLINK, (long)path, 0, 0) == 0;
    }
    timer_stop();
    return sum;
}

static uint32_t run_shell(void)
{
    char path_variable[600] = "PATH=", *end = path_variable + 5;
    copy_text(&end, root_path("/bin"));
    const char *argv[] = {"sh", root_path("/configure"), NULL};
    const char *environment[] = {path_variable, *root ? "TMPDIR=/dev/shm" : "TMPDIR=/tmp", NULL};
    const char *shell = root_path("/bin/sh");
    timer_start();
    run_program(shell, argv, environment, -1, -1);
    timer_stop();
    return 0;
}

const struct item kernel_items[] = {{"getpid", run_getpid},
#ifndef __x86_64__
                                    {"getpid-int80", run_getpid_int80},
#endif
                                    {"fork-exit-wait", run_fork},
                                    {"fork-exec-wait", run_exec},
                                    {"pipe-ping-pong", run_pipe},
                                    {"page-faults", run_faults},
                                    {"mmap-munmap", run_map},
                                    {"file-create-unlink", run_files},
                                    {"shell-configure", run_shell},
                                    {NULL, NULL}};
