/* SPDX-License-Identifier: MIT */
/* Between the files of `ringfold doctor`. */
#ifndef RINGFOLD_FRONTEND_DOCTOR_H
#define RINGFOLD_FRONTEND_DOCTOR_H

#include <stdbool.h>
#include <stdio.h>

/* One line of the report: a mark, the subject, what was found. */
enum mark { MARK_OK, MARK_NOTE, MARK_BAD };
void doctor_line(enum mark mark, const char *subject, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The KVM part. */
void doctor_check_kvm(void);

#endif
