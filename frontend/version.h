/* SPDX-License-Identifier: MIT */
/* The program's version. */
#ifndef RINGFOLD_FRONTEND_VERSION_H
#define RINGFOLD_FRONTEND_VERSION_H

#include <cjson/cJSON.h>

enum { VERSION_MAJOR = 0, VERSION_MINOR = 1, VERSION_MICRO = 0 };

/* QMP's version object; the member "qemu" is how clients find the numbers. */
static inline void version_add_json(cJSON *object)
{
    cJSON *numbers = cJSON_AddObjectToObject(object, "qemu");
    cJSON_AddNumberToObject(numbers, "major", VERSION_MAJOR);
    cJSON_AddNumberToObject(numbers, "minor", VERSION_MINOR);
    cJSON_AddNumberToObject(numbers, "micro", VERSION_MICRO);
    cJSON_AddStringToObject(object, "package", "ringfold");
}

#endif
