/* SPDX-License-Identifier: MIT */
/* What a graphics chip shows: a surface of 32-bit pixels in memory, drawn on request, and the text screen as text. */
#ifndef RINGFOLD_DEVICES_DISPLAY_H
#define RINGFOLD_DEVICES_DISPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct surface {
    unsigned width, height; /* pixels */
    unsigned stride;        /* pixels a row */
    uint32_t *pixels;       /* 0x00rrggbb; owned by the chip, valid until the next draw */
};

/* The side of the chip that the console, screenshots and QMP use. Under the machine lock. */
struct display_source {
    /* Brings the surface up to date (whole if full) and returns it. changed: set when any pixel may have changed. */
    const struct surface *(*draw)(void *chip, bool full, bool *changed);
    /* The text screen as UTF-8, one line a row with trailing blanks cut; false in graphics modes. */
    bool (*text)(void *chip, char *buf, size_t len);
    void *chip;
};

/* Writes a surface as PNG by way of a temporary file beside path. 0 or -errno. */
int png_write(const char *path, const struct surface *s);

#endif
