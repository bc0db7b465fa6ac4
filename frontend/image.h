/* SPDX-License-Identifier: MIT */
/* What an image file is: disk, CD or floppy, told from content and size. */
#ifndef RINGFOLD_FRONTEND_IMAGE_H
#define RINGFOLD_FRONTEND_IMAGE_H

#include "devices/machine.h"

/* 0, or -1 with one line "PATH: reason" in err. */
int image_kind(const char *path, enum drive_kind *kind, char *err, size_t err_len);

/* path, NULL: none, becomes the first drive of its kind, so that it is what boots. 0, or -1 with a reason. */
int image_add(struct machine_config *config, const char *path, char *err, size_t err_len);

#endif
