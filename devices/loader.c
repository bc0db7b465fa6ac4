/* SPDX-License-Identifier: MIT */
#include "devices/loader_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    HEADER_MAX = 8192 + 64, /* the multiboot header lies in the first 8192 bytes */
    COPY_CHUNK = 1 << 20
};

/* Access rights of flat segments, SDM vol. 3, 3.4.5. */
enum { ATTR_CODE32 = 0xc09b, ATTR_CODE64 = 0xa09b, ATTR_DATA = 0xc093 };

int loader_fail(struct loader_job *job, const struct loader_file *file, int code, const char *fmt, ...)
{
    char reason[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    snprintf(job->err, job->err_len, "%s %s: %s", file->role, file->path, reason);
    return code;
}

/* ---- files ---- */

int loader_file_open(struct loader_job *job, struct loader_file *file, const char *role, const char *path)
{
    struct stat st;
    *file = (struct loader_file){.role = role, .path = path, .fd = -1};
    /* O_NONBLOCK: a FIFO must not hang the start-up. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return loader_fail(job, file, -errno, "%s", strerror(errno));
    int code = 0;
    if (fstat(fd, &st) < 0)
        code = loader_fail(job, file, -errno, "%s", strerror(errno));
    else if (S_ISDIR(st.st_mode))
        code = loader_fail(job, file, -EISDIR, "is a directory");
    else if (!S_ISREG(st.st_mode))
        code = loader_fail(job, file, -EINVAL, "not a regular file");
    else if (st.st_size == 0)
        code = loader_fail(job, file, -EINVAL, "the file is empty");
    if (code) {
        close(fd);
        return code;
    }
    file->fd = fd;
    file->size = (uint64_t)st.st_size;
    return 0;
}

void loader_file_close(struct loader_file *file)
{
    if (file->fd >= 0)
        close(file->fd);
    file->fd = -1;
}

int loader_file_read(struct loader_job *job, const struct loader_file *file, uint64_t offset, void *buf, uint64_t len)
{
    if (offset > file->size || len > file->size - offset)
        return loader_fail(job, file, -EINVAL, "truncated: bytes up to %#" PRIx64 " are needed, the file has %#" PRIx64,
                           offset + len, file->size);
    uint8_t *p = buf;
    while (len) {
        ssize_t n = pread(file->fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return loader_fail(job, file, -errno, "%s", strerror(errno));
        if (n == 0)
            return loader_fail(job, file, -EIO, "became shorter while it was read");
        p += n;
        offset += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

int loader_file_copy(struct loader_job *job, const struct loader_file *file, uint64_t offset, uint64_t dest,
                     uint64_t len)
{
    if (offset <= file->size && len <= file->size - offset &&
        memory_load_file(job->mem, gpa(dest), len, file->fd, offset))
        return 0;
    uint8_t *chunk = malloc(COPY_CHUNK);
    if (!chunk)
        return loader_fail(job, file, -ENOMEM, "out of memory");
    int code = 0;
    while (len && !code) {
        uint64_t n = len < COPY_CHUNK ? len : COPY_CHUNK;
        code = loader_file_read(job, file, offset, chunk, n);
        if (!code)
            code = loader_write(job, file, dest, chunk, n);
        offset += n;
        dest += n;
        len -= n;
    }
    free(chunk);
    return code;
}

/* ---- guest memory ---- */

int loader_write(struct loader_job *job, const struct loader_file *file, uint64_t dest, const void *buf, uint64_t len)
{
    if (memory_write(job->mem, gpa(dest), buf, len) != len)
        return loader_fail(job, file, -EFAULT, "guest memory at %#" PRIx64 " is not RAM", dest);
    return 0;
}

int loader_zero(struct loader_job *job, const struct loader_file *file, uint64_t dest, uint64_t len)
{
    static const uint8_t zero[65536];
    while (len) {
        uint64_t n = len < sizeof zero ? len : sizeof zero;
        int code = loader_write(job, file, dest, zero, n);
        if (code)
            return code;
        dest += n;
        len -= n;
    }
    return 0;
}

uint64_t loader_ram_end(const struct loader_board *board, uint64_t base)
{
    /* The map is sorted, so one pass follows adjacent ranges. */
    uint64_t end = base;
    for (unsigned i = 0; i < board->e820_count; i++) {
        const struct loader_e820 *e = &board->e820[i];
        if (e->type == LOADER_E820_RAM && e->base <= end && end - e->base < e->size)
            end = e->base + e->size;
    }
    return end;
}

bool loader_is_ram(const struct loader_board *board, uint64_t base, uint64_t size)
{
    return base + size >= base && (size == 0 || loader_ram_end(board, base) >= base + size);
}

bool loader_use(struct loader_job *job, uint64_t base, uint64_t size)
{
    if (job->used_count == LOADER_USED_MAX)
        return false;
    job->used[job->used_count++] = (struct loader_range){base, base + size};
    return true;
}

/* The taken range that meets [base, base+size), or NULL. */
static const struct loader_range *find_used(const struct loader_job *job, uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < job->used_count; i++)
        if (job->used[i].base < base + size && base < job->used[i].end)
            return &job->used[i];
    return NULL;
}

static uint64_t align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}

uint64_t loader_find_low(const struct loader_job *job, uint64_t size, uint64_t align, uint64_t min, uint64_t max)
{
    const struct loader_range *used;
    for (unsigned i = 0; i < job->board->e820_count; i++) {
        const struct loader_e820 *e = &job->board->e820[i];
        if (e->type != LOADER_E820_RAM)
            continue;
        uint64_t end = e->base + e->size < max ? e->base + e->size : max;
        uint64_t at = align_up(e->base > min ? e->base : min, align);
        while (at < end && size <= end - at && (used = find_used(job, at, size)))
            at = align_up(used->end, align);
        if (at < end && size <= end - at)
            return at;
    }
    return UINT64_MAX;
}

uint64_t loader_find_high(const struct loader_job *job, uint64_t size, uint64_t align, uint64_t min, uint64_t max)
{
    const struct loader_range *used;
    for (unsigned i = job->board->e820_count; i-- > 0;) {
        const struct loader_e820 *e = &job->board->e820[i];
        if (e->type != LOADER_E820_RAM)
            continue;
        uint64_t low = e->base > min ? e->base : min;
        uint64_t end = e->base + e->size < max ? e->base + e->size : max;
        while (end > low && size <= end - low) {
            uint64_t at = (end - size) & ~(align - 1);
            if (at < low)
                break;
            used = find_used(job, at, size);
            if (!used)
                return at;
            end = used->base;
        }
    }
    return UINT64_MAX;
}

/* ---- entry ---- */

int loader_enter_flat(struct loader_job *job, const struct loader_file *file, unsigned mode, uint64_t gdt_base,
                      uint16_t code_selector)
{
    uint32_t code_attr = mode == 64 ? ATTR_CODE64 : ATTR_CODE32;
    uint8_t gdt[0x20] = {0};
    /* limit 0xfffff pages, base 0; the attributes' low byte and high nibble go to bytes 5 and 6 */
    static const uint8_t flat[8] = {0xff, 0xff, 0, 0, 0, 0, 0x0f, 0};
    const uint32_t attr[2] = {code_attr, ATTR_DATA};
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *d = gdt + code_selector + 8 * i;
        memcpy(d, flat, sizeof flat);
        d[5] = (uint8_t)attr[i];
        d[6] |= (uint8_t)(attr[i] >> 8 & 0xf0);
    }
    struct loader_entry *e = job->entry;
    uint16_t data_selector = (uint16_t)(code_selector + 8);
    e->mode = mode;
    e->cs = (struct loader_segment){code_selector, 0, 0xffffffff, code_attr};
    e->data = e->ss = (struct loader_segment){data_selector, 0, 0xffffffff, ATTR_DATA};
    e->gdt_base = gdt_base;
    e->gdt_limit = (uint16_t)(data_selector + 7);
    return loader_write(job, file, gdt_base, gdt, e->gdt_limit + 1u);
}

/* Says what the file looks like when it is nothing that can be loaded. */
static int refuse_unknown(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header, size_t len)
{
    if (len >= 4 && !memcmp(header, "\177ELF", 4))
        return loader_fail(job, kernel, -ENOEXEC, "an ELF file without a multiboot header");
    if (len >= 2 && header[0] == 0x1f && header[1] == 0x8b)
        return loader_fail(job, kernel, -ENOEXEC, "compressed with gzip; neither a bzImage nor a multiboot kernel");
    if (len >= 0x200 && header[0x1fe] == 0x55 && header[0x1ff] == 0xaa)
        return loader_fail(job, kernel, -ENOEXEC,
                           "a boot sector without a Linux setup header (boot protocol 2.00 or later is needed)");
    return loader_fail(job, kernel, -ENOEXEC, "neither a bzImage nor a multiboot kernel");
}

int loader_load(struct memory *mem, const struct machine_config *config, const struct loader_board *board,
                struct loader_entry *out, char *err, size_t err_len)
{
    struct loader_job job = {
        .mem = mem, .config = config, .board = board, .entry = out, .err = err, .err_len = err_len};
    struct loader_file kernel;
    *out = (struct loader_entry){0};
    int code = loader_file_open(&job, &kernel, "kernel", config->kernel);
    if (code)
        return code;

    static const size_t header_max = HEADER_MAX;
    uint8_t *header = calloc(1, header_max);
    size_t len = kernel.size < header_max ? (size_t)kernel.size : header_max;
    uint32_t offset;
    if (!header)
        code = loader_fail(&job, &kernel, -ENOMEM, "out of memory");
    else
        code = loader_file_read(&job, &kernel, 0, header, len);
    if (!code) {
        if (len >= 0x250 && !memcmp(header + 0x202, "HdrS", 4) && loader_get16(header + 0x1fe) == 0xaa55)
            code = loader_load_linux(&job, &kernel, header, len);
        else if (loader_find_multiboot(header, len, &offset))
            code = loader_load_multiboot(&job, &kernel, header, len, offset);
        else
            code = refuse_unknown(&job, &kernel, header, len);
    }
    free(header);
    loader_file_close(&kernel);
    return code;
}
