/* SPDX-License-Identifier: MIT */
#include "devices/block.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64];

static const char *in_directory(const char *name)
{
    static char path[2][128];
    static unsigned n;
    if (!directory[0]) {
        strcpy(directory, "/tmp/ringfold-test-XXXXXX");
        if (!mkdtemp(directory))
            CU_FAIL_FATAL("mkdtemp");
    }
    n ^= 1;
    snprintf(path[n], sizeof path[n], "%s/%s", directory, name);
    return path[n];
}

static const char *make_file(const char *name, const void *start, size_t len, off_t size)
{
    const char *path = in_directory(name);
    int fd = open(path, O_CREAT | O_TRUNC | O_RDWR, 0600);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT(write(fd, start, len) == (ssize_t)len);
    CU_ASSERT(ftruncate(fd, size) == 0);
    close(fd);
    return path;
}

static void cleanup(const char *path)
{
    unlink(path);
    rmdir(directory); /* fails while files are left */
    if (access(directory, F_OK))
        directory[0] = 0;
}

static int last_error;
static unsigned completions;

static void on_done(void *opaque, int error)
{
    last_error = error;
    completions++;
}

static int transfer(struct block *b, enum block_op op, uint64_t sector, uint32_t count, uint8_t *buf)
{
    struct block_request r = {.op = op, .sector = sector, .count = count, .buf = buf, .done = on_done};
    last_error = -1000;
    block_submit(b, &r);
    return last_error;
}

static struct block *open_path(const char *path, bool readonly, bool snapshot, char *err)
{
    struct block *b = NULL;
    struct block_options options = {.path = path, .readonly = readonly, .snapshot = snapshot};
    err[0] = 0;
    int error = block_open(&b, &options, NULL, err, 256);
    CU_ASSERT((error == 0) == (b != NULL));
    CU_ASSERT((error == 0) == (err[0] == 0));
    CU_ASSERT(strchr(err, '\n') == NULL);
    return b;
}

static void refuse(const char *path, const char *reason)
{
    char err[256];
    struct block *b = open_path(path, false, false, err);
    CU_ASSERT(b == NULL);
    CU_ASSERT(*path == 0 || strstr(err, path) != NULL);
    CU_ASSERT(strstr(err, reason) != NULL);
    if (!strstr(err, reason))
        printf("got: %s\n", err);
    block_close(b);
}

static void raw_file(void)
{
    char err[256];
    uint8_t buf[1024], back[1024];
    const char *path = make_file("raw", "hello", 5, 4096 + 100);
    struct block *b = open_path(path, false, false, err);
    CU_ASSERT_FATAL(b != NULL);
    CU_ASSERT(block_sectors(b) == 9);
    CU_ASSERT(!block_readonly(b) && !strcmp(block_path(b), path));
    CU_ASSERT(transfer(b, BLOCK_READ, 0, 1, buf) == 0 && !memcmp(buf, "hello", 6));
    memset(buf, 0x5a, sizeof buf);
    CU_ASSERT(transfer(b, BLOCK_WRITE, 2, 2, buf) == 0);
    CU_ASSERT(transfer(b, BLOCK_READ, 2, 2, back) == 0 && !memcmp(buf, back, sizeof buf));
    memset(back, 1, sizeof back);
    CU_ASSERT(transfer(b, BLOCK_READ, 8, 1, back) == 0 && back[0] == 0 && back[511] == 0); /* the partial sector */
    CU_ASSERT(transfer(b, BLOCK_FLUSH, 0, 0, NULL) == 0);
    CU_ASSERT(transfer(b, BLOCK_READ, 9, 1, back) == -EINVAL);
    CU_ASSERT(transfer(b, BLOCK_READ, 8, 2, back) == -EINVAL);
    CU_ASSERT(transfer(b, BLOCK_READ, UINT64_MAX, 2, back) == -EINVAL);
    CU_ASSERT(transfer(b, BLOCK_WRITE, 0, UINT32_MAX, back) == -EINVAL);
    block_close(b);
    cleanup(path);
}

static void read_only(void)
{
    char err[256];
    uint8_t buf[512] = {1};
    const char *path = make_file("ro", "", 0, 4096);
    struct block *b = open_path(path, true, false, err);
    CU_ASSERT_FATAL(b != NULL);
    CU_ASSERT(block_readonly(b));
    CU_ASSERT(transfer(b, BLOCK_WRITE, 0, 1, buf) == -EROFS);
    CU_ASSERT(transfer(b, BLOCK_READ, 0, 1, buf) == 0 && buf[0] == 0);
    block_close(b);
    cleanup(path);
}

static void overlay(void)
{
    char err[256];
    uint8_t buf[2048], back[2048];
    struct stat before, after;
    const char *path = make_file("base", "base", 4, 1 << 20);
    stat(path, &before);
    struct block *b = open_path(path, false, true, err), *second = open_path(path, false, true, err);
    CU_ASSERT_FATAL(b != NULL && second != NULL); /* snapshots share their base */
    CU_ASSERT(!block_readonly(b));
    memset(buf, 0x77, sizeof buf);
    CU_ASSERT(transfer(b, BLOCK_WRITE, 1, 1, buf) == 0);
    CU_ASSERT(transfer(b, BLOCK_WRITE, 3, 1, buf) == 0);
    CU_ASSERT(transfer(b, BLOCK_READ, 0, 4, back) == 0);
    CU_ASSERT(!memcmp(back, "base", 4) && back[512] == 0x77 && back[1023] == 0x77 && back[1024] == 0 &&
              back[1535] == 0 && back[1536] == 0x77);
    CU_ASSERT(transfer(b, BLOCK_WRITE, 2047, 1, buf) == 0);
    CU_ASSERT(transfer(second, BLOCK_READ, 0, 4, back) == 0 && back[512] == 0);
    CU_ASSERT(transfer(b, BLOCK_FLUSH, 0, 0, NULL) == 0);
    block_close(b);
    block_close(second);
    b = open_path(path, true, false, err);
    CU_ASSERT_FATAL(b != NULL);
    CU_ASSERT(transfer(b, BLOCK_READ, 0, 4, back) == 0 && back[512] == 0);
    block_close(b);
    stat(path, &after);
    CU_ASSERT(before.st_mtim.tv_sec == after.st_mtim.tv_sec && before.st_mtim.tv_nsec == after.st_mtim.tv_nsec);
    cleanup(path);
}

static void locked(void)
{
    char err[256];
    const char *path = make_file("locked", "", 0, 4096);
    struct block *b = open_path(path, false, false, err);
    CU_ASSERT_FATAL(b != NULL);
    refuse(path, "in use");
    CU_ASSERT(open_path(path, true, false, err) == NULL);
    block_close(b);
    b = open_path(path, true, false, err);
    struct block *second = open_path(path, true, false, err); /* readers share */
    CU_ASSERT(b && second);
    refuse(path, "in use");
    block_close(b);
    block_close(second);
    cleanup(path);
}

static void bad_files(void)
{
    refuse("", "file name");
    refuse(in_directory("missing"), "No such file");
    const char *path = make_file("empty", "", 0, 0);
    refuse(path, "is empty");
    unlink(path);
    path = make_file("small", "x", 1, 100);
    refuse(path, "too small");
    unlink(path);
    refuse("/tmp", "is a directory");
    refuse("/dev/null", "neither a file nor a block device");
    path = in_directory("fifo");
    CU_ASSERT(mkfifo(path, 0600) == 0);
    refuse(path, "neither a file nor a block device");
    cleanup(path);
    char err[256];
    CU_ASSERT(open_path("/tmp", true, false, err) == NULL && strstr(err, "directory"));
}

static void no_access(void)
{
    uid_t me = geteuid();
    const char *path = make_file("noaccess", "", 0, 4096);
    chmod(directory, 0755);
    chmod(path, 0444);
    if (me == 0 && seteuid(65534)) { /* root may read and write everything */
        test_skip("cannot give up root's rights");
        return;
    }
    refuse(path, "no write access");
    CU_ASSERT(seteuid(me) == 0);
    chmod(path, 0);
    CU_ASSERT(me != 0 || seteuid(65534) == 0);
    refuse(path, "Permission denied");
    CU_ASSERT(seteuid(me) == 0);
    cleanup(path);
}

static void foreign_formats(void)
{
    static const struct {
        const char *bytes;
        size_t len, offset;
        const char *format;
    } heads[] = {
        {"QFI\xfb\0\0\0\3", 8, 0, "qcow2"}, {"KDMV\1", 5, 0, "vmdk"},       {"# Disk DescriptorFile\n", 22, 0, "vmdk"},
        {"conectix", 8, 0, "vhd"},          {"vhdxfile", 8, 0, "vhdx"},     {"\x7f\x10\xda\xbe", 4, 0x40, "vdi"},
        {"conectix", 8, 4096 - 512, "vhd"}, {"\x1f\x8b\x08", 3, 0, "gzip"},
    };
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        char expected[64];
        uint8_t bytes[4096] = {0};
        memcpy(bytes + heads[i].offset, heads[i].bytes, heads[i].len);
        const char *path = make_file("foreign", bytes, sizeof bytes, sizeof bytes);
        snprintf(expected, sizeof expected, "format %s is not supported yet", heads[i].format);
        refuse(path, expected);
        struct block *b = NULL;
        char err[256];
        struct block_options options = {.path = path, .format = "raw"};
        CU_ASSERT(block_open(&b, &options, NULL, err, sizeof err) == 0);
        block_close(b);
        options.format = "nonsense";
        CU_ASSERT(block_open(&b, &options, NULL, err, sizeof err) == -EINVAL && strstr(err, "nonsense"));
        cleanup(path);
    }
}

static void truncated_under_us(void)
{
    char err[256];
    uint8_t buf[1024];
    const char *path = make_file("shrinks", "", 0, 8192);
    struct block *b = open_path(path, false, false, err);
    CU_ASSERT_FATAL(b != NULL);
    CU_ASSERT(truncate(path, 1024) == 0);
    CU_ASSERT(transfer(b, BLOCK_READ, 0, 2, buf) == 0);
    CU_ASSERT(transfer(b, BLOCK_READ, 1, 2, buf) == -EIO);
    CU_ASSERT(transfer(b, BLOCK_READ, 8, 1, buf) == -EIO);
    block_close(b);
    cleanup(path);
}

/* ---- with a loop ---- */

static struct loop *loop;
static unsigned wanted;

static void on_async_done(void *opaque, int error)
{
    CU_ASSERT(error == 0);
    if (++completions == wanted)
        loop_quit(loop);
}

static void asynchronous(void)
{
    enum { COUNT = 64 };
    static uint8_t buffers[COUNT][512];
    static struct block_request requests[COUNT];
    char err[256];
    struct block *b = NULL;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct clock *clock = clock_create(true);
    loop = loop_create(clock, &lock);
    const char *path = make_file("async", "", 0, COUNT * 512);
    struct block_options options = {.path = path};
    CU_ASSERT_FATAL(block_open(&b, &options, loop, err, sizeof err) == 0);
    for (int pass = 0; pass < 2; pass++) {
        completions = 0;
        wanted = COUNT;
        pthread_mutex_lock(&lock);
        for (unsigned i = 0; i < COUNT; i++) {
            memset(buffers[i], pass ? 0 : (int)i, 512);
            requests[i] = (struct block_request){.op = pass ? BLOCK_READ : BLOCK_WRITE,
                                                 .sector = i,
                                                 .count = 1,
                                                 .buf = buffers[i],
                                                 .done = on_async_done};
            block_submit(b, &requests[i]);
        }
        CU_ASSERT(completions == 0); /* never from inside submit */
        pthread_mutex_unlock(&lock);
        loop_run(loop);
        CU_ASSERT(completions == COUNT);
    }
    for (unsigned i = 0; i < COUNT; i++)
        CU_ASSERT(buffers[i][0] == i && buffers[i][511] == i);
    block_close(b);
    loop_destroy(loop);
    clock_destroy(clock);
    cleanup(path);
}

static void cancel_and_close(void)
{
    enum { COUNT = 200 };
    static uint8_t buffer[COUNT][4096];
    static struct block_request requests[COUNT];
    char err[256];
    struct block *b = NULL;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct clock *clock = clock_create(true);
    loop = loop_create(clock, &lock);
    const char *path = make_file("cancel", "", 0, COUNT * 4096);
    struct block_options options = {.path = path};
    CU_ASSERT_FATAL(block_open(&b, &options, loop, err, sizeof err) == 0);
    completions = 0;
    wanted = 0;
    for (unsigned i = 0; i < COUNT; i++) {
        requests[i] = (struct block_request){
            .op = BLOCK_READ, .sector = i * 8, .count = 8, .buf = buffer[i], .done = on_async_done};
        block_submit(b, &requests[i]);
    }
    for (unsigned i = 0; i < COUNT; i += 2) {
        block_cancel(&requests[i]);
        block_cancel(&requests[i]); /* twice is harmless */
        memset(buffer[i], 0xcc, sizeof buffer[i]);
    }
    block_close(b); /* completes the other half */
    CU_ASSERT(completions == COUNT / 2);
    for (unsigned i = 0; i < COUNT; i += 2)
        CU_ASSERT(buffer[i][0] == 0xcc && buffer[i][4095] == 0xcc);
    loop_destroy(loop);
    clock_destroy(clock);
    cleanup(path);
}

static void memory_disk(void)
{
    uint8_t buf[512] = {9};
    struct block *b = block_open_memory(1000);
    CU_ASSERT_FATAL(b != NULL);
    CU_ASSERT(block_sectors(b) == 2);
    CU_ASSERT(transfer(b, BLOCK_WRITE, 1, 1, buf) == 0);
    buf[0] = 0;
    CU_ASSERT(transfer(b, BLOCK_READ, 1, 1, buf) == 0 && buf[0] == 9);
    CU_ASSERT(transfer(b, BLOCK_READ, 2, 1, buf) == -EINVAL);
    block_close(b);
}

TEST_SUITE(block, {"raw file: read, write, flush, range", raw_file}, {"read-only disk refuses writes", read_only},
           {"snapshot overlay leaves the base alone", overlay}, {"a disk in use is refused", locked},
           {"bad files: one line with name and reason", bad_files}, {"no access", no_access},
           {"foreign formats are named", foreign_formats},
           {"a file truncated under us gives I/O errors", truncated_under_us},
           {"requests complete in the loop", asynchronous},
           {"cancel, and close with requests under way", cancel_and_close}, {"memory disk", memory_disk})
