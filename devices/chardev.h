/* SPDX-License-Identifier: MIT */
/* A byte stream between a chip (UART, debug console) and the outside (stdio, file, socket, pty, the QMP socket).
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_CHARDEV_H
#define RINGFOLD_DEVICES_CHARDEV_H

#include <stddef.h>
#include <stdint.h>

/* Back end side fills write; front end (chip) side fills receive / can_receive. Either side may be missing. */
struct chardev {
    /* Takes len bytes from the guest; must not block for long and never fails (what cannot be written is dropped). */
    void (*write)(void *backend, const uint8_t *buf, size_t len);
    void *backend;
    /* Set by the chip. can_receive: how many bytes it would take now. The chip calls accept_input when room appears. */
    size_t (*can_receive)(void *chip);
    void (*receive)(void *chip, const uint8_t *buf, size_t len);
    void *chip;
    void (*accept_input)(void *backend);
};

static inline void chardev_write(struct chardev *c, const uint8_t *buf, size_t len)
{
    if (c && c->write)
        c->write(c->backend, buf, len);
}

#endif
