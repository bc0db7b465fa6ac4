/* SPDX-License-Identifier: MIT */
/* Things that must be undone on every way out of the process: sockets and temporary files to remove, the terminal to
 * restore. cleanup_run is async-signal-safe and does each thing once. */
#ifndef RINGFOLD_FRONTEND_CLEANUP_H
#define RINGFOLD_FRONTEND_CLEANUP_H

#include <stdio.h>

/* Removes path at the end. Returns a handle for cleanup_forget, or -1 when the table is full or the path too long. */
int cleanup_add(const char *path);
/* The file stays (it became what it was meant to be), or is already gone. */
void cleanup_forget(int handle);
/* Restores the terminal and removes the files. */
void cleanup_run(void);

/* One line "ringfold: ..." on stderr, with a carriage return while the terminal is raw. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Writes a file whole or not at all: a temporary file beside it that replaces it at the end. What exists and is no
 * regular file (a terminal, a pipe) is written to directly. 0, or -1 with one line "PATH: reason" in err. */
struct new_file {
    FILE *stream;
    char temporary[4096]; /* empty: written to directly */
    const char *path;
    int cleanup;
};
int new_file_open(struct new_file *f, const char *path, char *err, size_t err_len);
int new_file_commit(struct new_file *f, char *err, size_t err_len); /* closes in any case */
/* Tells before a long run whether new_file_open is likely to work: directory there and writable, path no directory. */
int new_file_check(const char *path, char *err, size_t err_len);

#endif
