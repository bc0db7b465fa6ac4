/* SPDX-License-Identifier: MIT */
#include "devices/debugport.h"

#include "devices/log.h"

#include <string.h>

static uint64_t exit_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void exit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct debugport *d = opaque;
    if (offset || !d->exit)
        return;
    uint64_t status = d->exit_mode == DEBUGPORT_EXIT_QEMU ? value << 1 | 1 : value;
    d->exit(d->exit_opaque, (int)(status & 0xff));
}

static uint64_t console_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0xe9; /* "there is a debug console" */
}

static void flush_line(struct debugport *d)
{
    if (d->length)
        log_msg(LOG_FIRMWARE, "%.*s", (int)d->length, d->line);
    d->length = 0;
}

static void console_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct debugport *d = opaque;
    uint8_t byte = (uint8_t)value;
    if (d->console) {
        chardev_write(d->console, &byte, 1);
        return;
    }
    if (byte == '\n') {
        flush_line(d);
        return;
    }
    /* A guest's bytes do not get at the terminal that the log goes to. */
    d->line[d->length++] = byte >= 0x20 && byte < 0x7f ? (char)byte : byte == '\r' || byte == '\t' ? ' ' : '?';
    if (d->length == sizeof d->line)
        flush_line(d);
}

void debugport_reset(struct debugport *d)
{
    flush_line(d);
}

int debugport_init(struct debugport *d, struct bus *ports, enum debugport_exit exit_mode,
                   void (*exit)(void *opaque, int status), void *exit_opaque, struct chardev *console)
{
    memset(d, 0, sizeof *d);
    d->exit_mode = exit_mode;
    d->exit = exit;
    d->exit_opaque = exit_opaque;
    d->console = console;
    d->exit_port = (struct bus_range){"debug exit", 0xf4, 4, 4, 1, exit_read, exit_write, d, false};
    d->console_port = (struct bus_range){"debug console", 0x402, 1, 1, 1, console_read, console_write, d, false};
    int err = exit_mode != DEBUGPORT_EXIT_OFF ? bus_add(ports, &d->exit_port) : 0;
    return err ? err : bus_add(ports, &d->console_port);
}
