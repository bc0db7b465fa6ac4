/* SPDX-License-Identifier: MIT */
/* Screenshots as PNG files. */
#include "devices/display.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* libpng tells of an error by longjmp: what has to be cleaned up lives here, outside the frame that is left. */
struct writer {
    FILE *file;
    uint8_t *row;
    png_structp png;
    png_infop info;
    int error; /* errno of the write that failed */
};

static void write_bytes(png_structp png, png_bytep data, size_t length)
{
    struct writer *w = png_get_io_ptr(png);
    errno = 0;
    if (fwrite(data, 1, length, w->file) != length) {
        w->error = errno ? errno : EIO;
        png_error(png, "write");
    }
}

static void flush_bytes(png_structp png)
{
}

static void quiet(png_structp png, png_const_charp message)
{
}

static void fail(png_structp png, png_const_charp message)
{
    longjmp(png_jmpbuf(png), 1);
}

static void write_rows(struct writer *w, const struct surface *s)
{
    png_set_IHDR(w->png, w->info, s->width, s->height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(w->png, w->info);
    for (unsigned y = 0; y < s->height; y++) {
        const uint32_t *from = s->pixels + (size_t)y * s->stride;
        for (unsigned x = 0; x < s->width; x++) {
            w->row[x * 3] = (uint8_t)(from[x] >> 16);
            w->row[x * 3 + 1] = (uint8_t)(from[x] >> 8);
            w->row[x * 3 + 2] = (uint8_t)from[x];
        }
        png_write_row(w->png, w->row);
    }
    png_write_end(w->png, w->info);
}

/* 0 or -errno. The writer is the caller's: libpng jumps back into this function. */
static int write_image(struct writer *w, const struct surface *s)
{
    int result = -ENOMEM;
    w->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, fail, quiet);
    if (w->png)
        w->info = png_create_info_struct(w->png);
    if (w->info) {
        png_set_write_fn(w->png, w, write_bytes, flush_bytes);
        if (setjmp(png_jmpbuf(w->png)) != 0)
            return w->error ? -w->error : -EINVAL;
        write_rows(w, s);
        result = 0;
    }
    return result;
}

static int write_file(FILE *file, const struct surface *s)
{
    struct writer w = {.file = file, .row = malloc((size_t)s->width * 3)};
    int result = w.row ? write_image(&w, s) : -ENOMEM;
    if (w.png)
        png_destroy_write_struct(&w.png, &w.info);
    free(w.row);
    if (fclose(file) != 0 && !result)
        result = -errno;
    return result;
}

/* A new file with the rights that open() would give it. name: the template, replaced by the name. */
static int open_temporary(char *name, FILE **file)
{
    int fd = mkstemp(name);
    if (fd < 0)
        return -errno;
    mode_t mask = umask(0);
    umask(mask);
    *file = fchmod(fd, 0666 & ~mask) == 0 ? fdopen(fd, "wb") : NULL;
    if (*file)
        return 0;
    int error = errno;
    close(fd);
    unlink(name);
    return -error;
}

static int write_beside(const char *path, const struct surface *s)
{
    FILE *file = NULL;
    size_t size = strlen(path) + sizeof ".XXXXXX";
    char *name = malloc(size);
    if (!name)
        return -ENOMEM;
    snprintf(name, size, "%s.XXXXXX", path);
    int result = open_temporary(name, &file);
    if (!result) {
        result = write_file(file, s);
        if (!result && rename(name, path) != 0)
            result = -errno;
        if (result)
            unlink(name);
    }
    free(name);
    return result;
}

int png_write(const char *path, const struct surface *s)
{
    struct stat st;
    if (!s->width || !s->height)
        return -EINVAL;
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        /* A pipe or /dev/stdout: not to be replaced by a file. */
        FILE *file = fopen(path, "wb");
        return file ? write_file(file, s) : -errno;
    }
    return write_beside(path, s);
}
