/* SPDX-License-Identifier: MIT */
#include "devices/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool log_enabled[LOG_COUNT];

static const char *const names[LOG_COUNT] = {
    [LOG_GUEST_ERROR] = "guest_error",
    [LOG_STUB] = "stub",
    [LOG_CPU] = "cpu",
    [LOG_BT] = "bt",
    [LOG_MMU] = "mmu",
    [LOG_DEVICE] = "device",
    [LOG_DISK] = "disk",
    [LOG_NET] = "net",
    [LOG_FIRMWARE] = "firmware",
    [LOG_KVM] = "kvm",
};

int log_parse(const char *list, const char **bad)
{
    bool chosen[LOG_COUNT] = {false};
    static char bad_name[64];
    while (*list) {
        size_t len = strcspn(list, ",");
        bool found = len == 3 && !memcmp(list, "all", 3);
        for (int c = 0; c < LOG_COUNT; c++) {
            if (found && len == 3 && !memcmp(list, "all", 3)) {
                chosen[c] = true;
            } else if (strlen(names[c]) == len && !memcmp(list, names[c], len)) {
                chosen[c] = true;
                found = true;
            }
        }
        if (!found) {
            snprintf(bad_name, sizeof bad_name, "%.*s", (int)(len > 60 ? 60 : len), list);
            if (bad)
                *bad = bad_name;
            return -1;
        }
        list += len;
        if (*list == ',')
            list++;
    }
    for (int c = 0; c < LOG_COUNT; c++)
        log_enabled[c] |= chosen[c];
    return 0;
}

/* A guest that makes a mistake makes it a million times: what it does wrong is said once per call site, which the
 * address of the format string names. The set is process-wide because it is about stderr, not about a machine. */
enum { SEEN_SLOTS = 4096 };
static const char *seen[SEEN_SLOTS];
static pthread_mutex_t log_mutex = PTHREAD_MUTEX_INITIALIZER;

static bool seen_before(const char *fmt)
{
    size_t h = ((uintptr_t)fmt * 0x9e3779b97f4a7c15ull) >> 52;
    for (size_t i = 0; i < SEEN_SLOTS; i++) {
        size_t slot = (h + i) % SEEN_SLOTS;
        if (seen[slot] == fmt)
            return true;
        if (!seen[slot]) {
            seen[slot] = fmt;
            return false;
        }
    }
    return false;
}

void log_write(enum log_category c, const char *fmt, ...)
{
    char line[1024];
    int off = snprintf(line, sizeof line, "ringfold: %s: ", names[c]);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line + off, sizeof line - (size_t)off - 1, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    size_t len = strlen(line);
    if (line[len - 1] != '\n')
        line[len++] = '\n';
    pthread_mutex_lock(&log_mutex);
    bool quiet = (c == LOG_GUEST_ERROR || c == LOG_STUB) && seen_before(fmt);
    if (!quiet) {
        /* One write per line, so that lines of several threads and processes do not mix. */
        ssize_t written = write(STDERR_FILENO, line, len);
        (void)written;
    }
    pthread_mutex_unlock(&log_mutex);
}
