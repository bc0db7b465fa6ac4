/* SPDX-License-Identifier: MIT */
#include "devices/block_store.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- raw files and block devices ---- */

struct file_store {
    struct block_store store;
    int fd;
    uint64_t size; /* bytes, as the file was opened */
};

/* A file that shrinks under us gives -EIO for what is missing; only what never was there (the rest of a partial last
 * sector) reads as zeros. */
static int file_read(struct block_store *s, uint64_t sector, uint32_t count, uint8_t *buf)
{
    struct file_store *f = (struct file_store *)s;
    uint64_t at = sector * BLOCK_SECTOR_SIZE, end = at + (uint64_t)count * BLOCK_SECTOR_SIZE;
    while (at < end) {
        ssize_t n = pread(f->fd, buf, end - at, (off_t)at);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (n == 0) {
            if (at < f->size)
                return -EIO;
            memset(buf, 0, end - at);
            return 0;
        }
        at += (uint64_t)n;
        buf += n;
    }
    return 0;
}

static int write_all(int fd, const uint8_t *buf, uint64_t len, uint64_t at)
{
    while (len) {
        ssize_t n = pwrite(fd, buf, len, (off_t)at);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (n == 0)
            return -EIO;
        buf += n;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

static int file_write(struct block_store *s, uint64_t sector, uint32_t count, const uint8_t *buf)
{
    struct file_store *f = (struct file_store *)s;
    return write_all(f->fd, buf, (uint64_t)count * BLOCK_SECTOR_SIZE, sector * BLOCK_SECTOR_SIZE);
}

static int file_flush(struct block_store *s)
{
    struct file_store *f = (struct file_store *)s;
    return fdatasync(f->fd) ? -errno : 0;
}

static void file_close(struct block_store *s)
{
    struct file_store *f = (struct file_store *)s;
    close(f->fd);
    free(f);
}

static const struct block_store_ops file_ops = {file_read, file_write, file_flush, file_close};

/* ---- what a file is, by its first and last bytes ---- */

struct magic {
    const char *format;
    unsigned offset;
    unsigned len;
    const char *bytes;
    bool at_end; /* offset counts from the start of the last 512 bytes */
};

static const struct magic magics[] = {
    {"qcow2", 0, 4, "QFI\xfb", false},
    {"vmdk", 0, 4, "KDMV", false},
    {"vmdk", 0, 4, "COWD", false},
    {"vmdk", 0, 21, "# Disk DescriptorFile", false},
    {"vdi", 0x40, 4, "\x7f\x10\xda\xbe", false},
    {"vhd", 0, 8, "conectix", false},
    {"vhd", 0, 8, "conectix", true},
    {"vhdx", 0, 8, "vhdxfile", false},
    {"qed", 0, 4, "QED\0", false},
    {"parallels", 0, 16, "WithoutFreeSpace", false},
    {"parallels", 0, 16, "WithouFreSpacExt", false},
    {"bochs", 0, 22, "Bochs Virtual HD Image", false},
    {"dmg", 0, 4, "koly", true},
    {"gzip", 0, 3, "\x1f\x8b\x08", false},
    {"xz", 0, 6,
     "\xfd"
     "7zXZ\0",
     false},
    {"zstd", 0, 4, "\x28\xb5\x2f\xfd", false},
    {"bzip2", 4, 6, "1AY&SY", false},
    {"zip", 0, 4, "PK\3\4", false},
};

/* The name of a foreign format, or NULL for raw contents (or what cannot be read, which the guest will find out). */
static const char *foreign_format(int fd, uint64_t size)
{
    uint8_t head[512] = {0}, tail[512] = {0};
    if (pread(fd, head, sizeof head, 0) < 0)
        return NULL;
    if (size >= 1024 && pread(fd, tail, sizeof tail, (off_t)(size - 512)) < 0)
        return NULL;
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
        const struct magic *m = &magics[i];
        if (!memcmp((m->at_end ? tail : head) + m->offset, m->bytes, m->len))
            return m->format;
    }
    return NULL;
}

static int check_format(int fd, uint64_t size, const char *path, const char *format, char *err, size_t err_len)
{
    const char *found = format;
    if (format && !strcmp(format, "raw"))
        return 0;
    if (!format && !(found = foreign_format(fd, size)))
        return 0;
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++)
        if (!strcmp(found, magics[i].format)) {
            snprintf(err, err_len, "%s: format %s is not supported yet", path, found);
            return -ENOTSUP;
        }
    snprintf(err, err_len, "%s: unknown disk format \"%s\"", path, found);
    return -EINVAL;
}

/* Open file description locks: they hold against other processes and against a second drive of this machine, and
 * vanish with the file descriptor. Readers share. File systems without locks are used without. */
static int lock_file(int fd, bool writable, const char *path, char *err, size_t err_len)
{
    struct flock lock = {.l_type = writable ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES))
        return 0;
    snprintf(err, err_len, "%s: in use by another drive or another running machine (locked)", path);
    return -EBUSY;
}

static int open_file(const char *path, bool writable, char *err, size_t err_len)
{
    /* Not blocking: a FIFO must not hang us. It has no effect on files and block devices. */
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd >= 0)
        return fd;
    int error = errno;
    if (writable && (error == EACCES || error == EROFS || error == EPERM || error == ETXTBSY) &&
        !faccessat(AT_FDCWD, path, R_OK, AT_EACCESS))
        snprintf(err, err_len, "%s: no write access (%s); readonly or snapshot would do without", path,
                 strerror(error));
    else if (error == EISDIR)
        snprintf(err, err_len, "%s: is a directory, not a disk image", path);
    else
        snprintf(err, err_len, "%s: %s", path, strerror(error));
    return -error;
}

static int measure_file(int fd, const char *path, uint64_t *size, char *err, size_t err_len)
{
    struct stat st;
    const char *why = NULL;
    int error = EINVAL;
    if (fstat(fd, &st)) {
        error = errno;
        why = strerror(error);
    } else if (S_ISDIR(st.st_mode)) {
        error = EISDIR;
        why = "is a directory, not a disk image";
    } else if (S_ISBLK(st.st_mode)) {
        if (ioctl(fd, BLKGETSIZE64, size)) {
            error = errno;
            why = strerror(error);
        }
    } else if (S_ISREG(st.st_mode)) {
        *size = (uint64_t)st.st_size;
    } else {
        why = "is neither a file nor a block device";
    }
    if (!why && *size == 0)
        why = "is empty";
    if (!why && *size < BLOCK_SECTOR_SIZE)
        why = "is too small for a disk image (less than one sector of 512 bytes)";
    if (!why)
        return 0;
    snprintf(err, err_len, "%s: %s", path, why);
    return -error;
}

/* A block device that the host has mounted must not be written behind the file system's back: O_EXCL asks the kernel.
 */
static int claim_device(int *fd, const char *path, char *err, size_t err_len)
{
    struct stat st;
    if (fstat(*fd, &st) || !S_ISBLK(st.st_mode))
        return 0;
    int claimed = open(path, O_RDWR | O_CLOEXEC | O_EXCL);
    if (claimed < 0) {
        int error = errno;
        snprintf(err, err_len, "%s: %s", path, error == EBUSY ? "in use by the host (mounted?)" : strerror(error));
        return -error;
    }
    close(*fd);
    *fd = claimed;
    return 0;
}

int block_store_open_file(struct block_store **out, const char *path, const char *format, bool writable, char *err,
                          size_t err_len)
{
    uint64_t size = 0;
    int fd = open_file(path, writable, err, err_len);
    if (fd < 0)
        return fd;
    int error = measure_file(fd, path, &size, err, err_len);
    if (!error)
        error = check_format(fd, size, path, format, err, err_len);
    if (!error && writable)
        error = claim_device(&fd, path, err, err_len);
    if (!error)
        error = lock_file(fd, writable, path, err, err_len);
    uint8_t probe[1];
    if (!error && pread(fd, probe, 1, 0) < 0) {
        error = -errno;
        snprintf(err, err_len, "%s: cannot be read (%s)", path, strerror(-error));
    }
    struct file_store *f = error ? NULL : calloc(1, sizeof *f);
    if (!f) {
        close(fd);
        if (!error)
            snprintf(err, err_len, "%s: out of memory", path);
        return error ? error : -ENOMEM;
    }
    f->store.ops = &file_ops;
    f->store.sectors = (size + BLOCK_SECTOR_SIZE - 1) / BLOCK_SECTOR_SIZE;
    f->fd = fd;
    f->size = size;
    *out = &f->store;
    return 0;
}

/* ---- overlay ---- */

/* A written sector lies at its own offset of a sparse temporary file, and has its bit set in a demand-zero bitmap. Data
 * goes to the file before the bit is set, so that a reader never meets a hole. */
struct overlay_store {
    struct block_store store;
    struct block_store *base;
    int fd;
    pthread_mutex_t mutex; /* guards the bitmap */
    uint8_t *written;
    size_t written_len;
};

static bool overlay_has(const struct overlay_store *o, uint64_t sector)
{
    return o->written[sector >> 3] >> (sector & 7) & 1;
}

static int overlay_read(struct block_store *s, uint64_t sector, uint32_t count, uint8_t *buf)
{
    struct overlay_store *o = (struct overlay_store *)s;
    while (count) {
        pthread_mutex_lock(&o->mutex);
        bool here = overlay_has(o, sector);
        uint32_t run = 1;
        while (run < count && overlay_has(o, sector + run) == here)
            run++;
        pthread_mutex_unlock(&o->mutex);
        int error;
        if (here) {
            struct file_store f = {.fd = o->fd, .size = UINT64_MAX};
            error = file_read(&f.store, sector, run, buf);
        } else {
            error = o->base->ops->read(o->base, sector, run, buf);
        }
        if (error)
            return error;
        sector += run;
        count -= run;
        buf += (size_t)run * BLOCK_SECTOR_SIZE;
    }
    return 0;
}

static int overlay_write(struct block_store *s, uint64_t sector, uint32_t count, const uint8_t *buf)
{
    struct overlay_store *o = (struct overlay_store *)s;
    int error = write_all(o->fd, buf, (uint64_t)count * BLOCK_SECTOR_SIZE, sector * BLOCK_SECTOR_SIZE);
    if (error)
        return error;
    pthread_mutex_lock(&o->mutex);
    for (uint64_t i = sector; i < sector + count; i++)
        o->written[i >> 3] |= (uint8_t)(1u << (i & 7));
    pthread_mutex_unlock(&o->mutex);
    return 0;
}

static int overlay_flush(struct block_store *s)
{
    return 0; /* what disappears with the process need not survive the host */
}

static void overlay_close(struct block_store *s)
{
    struct overlay_store *o = (struct overlay_store *)s;
    o->base->ops->close(o->base);
    munmap(o->written, o->written_len);
    pthread_mutex_destroy(&o->mutex);
    close(o->fd);
    free(o);
}

static const struct block_store_ops overlay_ops = {overlay_read, overlay_write, overlay_flush, overlay_close};

/* An unlinked file in the first directory that takes one; *where names the last one tried. */
static int open_temporary(const char **where)
{
    const char *directories[] = {getenv("TMPDIR"), "/var/tmp", "/tmp"};
    int error = ENOENT;
    for (size_t i = 0; i < sizeof directories / sizeof directories[0]; i++) {
        char name[4096];
        if (!directories[i] || !*directories[i])
            continue;
        *where = directories[i];
        int fd = open(directories[i], O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
        if (fd >= 0)
            return fd;
        if (snprintf(name, sizeof name, "%s/ringfold-XXXXXX", directories[i]) >= (int)sizeof name)
            continue;
        fd = mkostemp(name, O_CLOEXEC);
        if (fd >= 0) {
            unlink(name);
            return fd;
        }
        error = errno;
    }
    return -error;
}

int block_store_open_overlay(struct block_store **out, struct block_store *base, char *err, size_t err_len)
{
    const char *where = "/tmp";
    struct overlay_store *o = calloc(1, sizeof *o);
    if (!o) {
        snprintf(err, err_len, "snapshot: out of memory");
        return -ENOMEM;
    }
    o->written_len = base->sectors / 8 + 1;
    o->fd = open_temporary(&where);
    if (o->fd < 0) {
        int error = o->fd;
        snprintf(err, err_len, "%s: no temporary file for the snapshot (%s)", where, strerror(-error));
        free(o);
        return error;
    }
    o->written = mmap(NULL, o->written_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (o->written == MAP_FAILED) {
        int error = -errno;
        snprintf(err, err_len, "snapshot: %zu bytes of bitmap: %s", o->written_len, strerror(-error));
        close(o->fd);
        free(o);
        return error;
    }
    pthread_mutex_init(&o->mutex, NULL);
    o->store.ops = &overlay_ops;
    o->store.sectors = base->sectors;
    o->base = base;
    *out = &o->store;
    return 0;
}

/* ---- memory ---- */

struct memory_store {
    struct block_store store;
    uint8_t *bytes;
};

static int memory_store_read(struct block_store *s, uint64_t sector, uint32_t count, uint8_t *buf)
{
    struct memory_store *m = (struct memory_store *)s;
    memcpy(buf, m->bytes + sector * BLOCK_SECTOR_SIZE, (size_t)count * BLOCK_SECTOR_SIZE);
    return 0;
}

static int memory_store_write(struct block_store *s, uint64_t sector, uint32_t count, const uint8_t *buf)
{
    struct memory_store *m = (struct memory_store *)s;
    memcpy(m->bytes + sector * BLOCK_SECTOR_SIZE, buf, (size_t)count * BLOCK_SECTOR_SIZE);
    return 0;
}

static int memory_store_flush(struct block_store *s)
{
    return 0;
}

static void memory_store_close(struct block_store *s)
{
    struct memory_store *m = (struct memory_store *)s;
    free(m->bytes);
    free(m);
}

static const struct block_store_ops memory_store_ops = {memory_store_read, memory_store_write, memory_store_flush,
                                                        memory_store_close};

struct block_store *block_store_open_memory(uint64_t size)
{
    struct memory_store *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    m->store.ops = &memory_store_ops;
    m->store.sectors = (size + BLOCK_SECTOR_SIZE - 1) / BLOCK_SECTOR_SIZE;
    m->bytes = calloc(m->store.sectors ? m->store.sectors : 1, BLOCK_SECTOR_SIZE);
    if (!m->bytes) {
        free(m);
        return NULL;
    }
    return &m->store;
}
