/* SPDX-License-Identifier: MIT */
/* Ports by which a guest talks to whoever runs it: the debug exit at 0xf4-0xf7 and the debug console at 0x402. Not
 * hardware: a convention of Bochs and QEMU, which SeaBIOS and test guests use.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_DEBUGPORT_H
#define RINGFOLD_DEVICES_DEBUGPORT_H

#include "devices/bus.h"
#include "devices/chardev.h"

enum debugport_exit {
    DEBUGPORT_EXIT_OFF,   /* the port is not there */
    DEBUGPORT_EXIT_EXACT, /* a write of N: status N */
    DEBUGPORT_EXIT_QEMU   /* a write of N: status (N << 1) | 1 */
};

struct debugport {
    enum debugport_exit exit_mode;
    void (*exit)(void *opaque, int status);
    void *exit_opaque;
    struct chardev *console;
    char line[200]; /* what the console has of a line, when it goes to the log */
    unsigned length;
    struct bus_range exit_port, console_port;
};

/* exit is called with the status (0-255) when the guest writes the exit port. console NULL: the console's lines go to
 * the log category firmware. */
int debugport_init(struct debugport *d, struct bus *ports, enum debugport_exit exit_mode,
                   void (*exit)(void *opaque, int status), void *exit_opaque, struct chardev *console);
void debugport_reset(struct debugport *d);

#endif
