/* SPDX-License-Identifier: MIT */
#include "frontend/cleanup.h"

#include "frontend/terminal.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS = 8 };
static struct {
    char path[PATH_MAX];
    _Atomic bool used;
} slots[SLOTS];

int cleanup_add(const char *path)
{
    /* Absolute, so that a later change of directory does no harm. */
    char full[2 * PATH_MAX];
    char cwd[PATH_MAX];
    if (*path == '/' || !getcwd(cwd, sizeof cwd))
        snprintf(full, sizeof full, "%s", path);
    else
        snprintf(full, sizeof full, "%s/%s", cwd, path);
    if (strlen(full) >= PATH_MAX)
        return -1;
    for (int i = 0; i < SLOTS; i++) {
        if (!slots[i].used) {
            strcpy(slots[i].path, full);
            slots[i].used = true;
            return i;
        }
    }
    return -1;
}

void cleanup_forget(int handle)
{
    if (handle >= 0)
        slots[handle].used = false;
}

void cleanup_run(void)
{
    terminal_restore();
    for (int i = 0; i < SLOTS; i++)
        if (atomic_exchange(&slots[i].used, false))
            unlink(slots[i].path);
}

void complain(const char *fmt, ...)
{
    char line[1024];
    int len = snprintf(line, sizeof line, "ringfold: ");
    va_list args;
    va_start(args, fmt);
    vsnprintf(line + len, sizeof line - (size_t)len - 2, fmt, args);
    va_end(args);
    strcat(line, terminal_is_raw() ? "\r\n" : "\n");
    ssize_t n = write(STDERR_FILENO, line, strlen(line));
    (void)n; /* there is nowhere left to complain to */
}

static int fail(char *err, size_t err_len, const char *path, int error)
{
    snprintf(err, err_len, "%s: %s", path, strerror(error));
    return -1;
}

int new_file_open(struct new_file *f, const char *path, char *err, size_t err_len)
{
    struct stat st;
    *f = (struct new_file){.path = path, .cleanup = -1};
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        f->stream = fopen(path, "we");
        return f->stream ? 0 : fail(err, err_len, path, errno);
    }
    if (snprintf(f->temporary, sizeof f->temporary, "%s.XXXXXX", path) >= (int)sizeof f->temporary)
        return fail(err, err_len, path, ENAMETOOLONG);
    int fd = mkstemp(f->temporary);
    if (fd < 0)
        return fail(err, err_len, path, errno);
    f->cleanup = cleanup_add(f->temporary);
    mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, 0666 & ~mask);
    f->stream = fdopen(fd, "w");
    if (f->stream)
        return 0;
    int error = errno;
    close(fd);
    unlink(f->temporary);
    cleanup_forget(f->cleanup);
    return fail(err, err_len, path, error);
}

int new_file_commit(struct new_file *f, char *err, size_t err_len)
{
    int error = 0;
    errno = EIO;
    if (ferror(f->stream) || fflush(f->stream))
        error = errno;
    if (fclose(f->stream) && !error)
        error = errno;
    if (*f->temporary) {
        if (!error && rename(f->temporary, f->path))
            error = errno;
        if (error)
            unlink(f->temporary);
        cleanup_forget(f->cleanup);
    }
    return error ? fail(err, err_len, f->path, error) : 0;
}

int new_file_check(const char *path, char *err, size_t err_len)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return fail(err, err_len, path, EISDIR);
        if (!S_ISREG(st.st_mode))
            return access(path, W_OK) ? fail(err, err_len, path, errno) : 0;
    } else if (errno != ENOENT) {
        return fail(err, err_len, path, errno);
    }
    char *copy = strdup(path);
    if (!copy)
        return fail(err, err_len, path, ENOMEM);
    int error = access(dirname(copy), W_OK | X_OK) ? errno : 0;
    free(copy);
    return error ? fail(err, err_len, path, error) : 0;
}
