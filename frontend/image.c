/* SPDX-License-Identifier: MIT */
#include "frontend/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VOLUME_DESCRIPTOR = 0x8001 /* ISO 9660 and UDF: sector 16, behind the type byte */ };

static bool floppy_size(uint64_t size)
{
    static const unsigned kilobytes[] = {160, 180, 320, 360, 640, 720, 800, 1200, 1440, 1680, 1722, 2880};
    for (unsigned i = 0; i < sizeof kilobytes / sizeof *kilobytes; i++)
        if (size == kilobytes[i] * 1024ull)
            return true;
    return false;
}

static int fail(char *err, size_t err_len, const char *path, const char *reason)
{
    snprintf(err, err_len, "%s: %s", path, reason);
    return -1;
}

int image_kind(const char *path, enum drive_kind *kind, char *err, size_t err_len)
{
    struct stat st;
    char magic[5] = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return fail(err, err_len, path, strerror(errno));
    if (fstat(fd, &st))
        st.st_mode = 0;
    off_t size = lseek(fd, 0, SEEK_END); /* block devices have no st_size */
    ssize_t n = pread(fd, magic, sizeof magic, VOLUME_DESCRIPTOR);
    close(fd);
    if (S_ISDIR(st.st_mode))
        return fail(err, err_len, path, "is a directory");
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        return fail(err, err_len, path, "neither a file nor a block device");
    if (size <= 0)
        return fail(err, err_len, path, "the file is empty");
    if (n == sizeof magic && (!memcmp(magic, "CD001", 5) || !memcmp(magic, "BEA01", 5)))
        *kind = DRIVE_CDROM;
    else
        *kind = floppy_size((uint64_t)size) ? DRIVE_FLOPPY : DRIVE_DISK;
    return 0;
}

int image_add(struct machine_config *c, const char *path, char *err, size_t err_len)
{
    enum drive_kind kind;
    if (!path)
        return 0;
    if (image_kind(path, &kind, err, err_len))
        return -1;
    memmove(c->drives + 1, c->drives, c->drive_count * sizeof *c->drives);
    c->drives[0] = (struct drive_config){.kind = kind, .block.path = path, .block.readonly = kind == DRIVE_CDROM};
    c->drive_count++;
    return 0;
}
