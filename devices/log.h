/* SPDX-License-Identifier: MIT */
/* Log messages by category, to stderr. Guest mistakes never end the process: they are logged once per call site and
 * the chip behaves as the hardware would. --log CATEGORY[,...] switches categories on ("all" for every one). */
#ifndef RINGFOLD_DEVICES_LOG_H
#define RINGFOLD_DEVICES_LOG_H

#include <stdbool.h>

enum log_category {
    LOG_GUEST_ERROR,
    LOG_STUB,
    LOG_CPU,
    LOG_BT,
    LOG_MMU,
    LOG_DEVICE,
    LOG_DISK,
    LOG_NET,
    LOG_FIRMWARE,
    LOG_KVM,
    LOG_COUNT
};

extern bool log_enabled[LOG_COUNT];

/* "guest_error,disk" -> switches on; -1 and the bad name in *bad on an unknown name. */
int log_parse(const char *list, const char **bad);
void log_write(enum log_category c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_msg(c, ...)                                                                                                \
    do {                                                                                                               \
        if (__builtin_expect(log_enabled[c], 0))                                                                       \
            log_write(c, __VA_ARGS__);                                                                                 \
    } while (0)

#endif
