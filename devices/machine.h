/* SPDX-License-Identifier: MIT */
/* A whole machine: the 440BX board, its memory, its CPUs and the engine that runs them. The board is wired in board.c,
 * which reads like a schematic.
 *
 * Threads: each vCPU has a thread; the I/O thread runs the loop (files, sockets, and timers unless the vCPU goes in and
 * out of HLT: devices/vcpu_alarm.h). The machine lock guards every device, the buses, the memory map and the clock's
 * queue. A vCPU thread holds it only inside an access to a device and while it runs timers. */
#ifndef RINGFOLD_DEVICES_MACHINE_H
#define RINGFOLD_DEVICES_MACHINE_H

#include "cpu/engine.h"
#include "devices/block.h"
#include "devices/chardev.h"
#include "devices/display.h"
#include "devices/loop.h"
#include "shadowmmu/placement.h"

enum { MACHINE_MAX_DRIVES = 8, MACHINE_SERIAL_PORTS = 2, MACHINE_MAX_NETS = 4 };

enum drive_kind { DRIVE_DISK, DRIVE_CDROM, DRIVE_FLOPPY };

struct drive_config {
    enum drive_kind kind;
    enum { DRIVE_BUS_DEFAULT, DRIVE_BUS_IDE, DRIVE_BUS_SCSI } bus;
    struct block_options block;
};

enum debug_exit_mode { DEBUG_EXIT_OFF, DEBUG_EXIT_EXACT, DEBUG_EXIT_QEMU };

struct machine_config {
    uint64_t ram_size;
    unsigned cpus;
    bool long_mode;
    const struct engine *engine;
    struct engine_options engine_options;
    struct placement placement; /* on the host */
    struct drive_config drives[MACHINE_MAX_DRIVES];
    unsigned drive_count;
    char boot;                            /* 'c', 'd', 'a', 'n', or 0: by what is there */
    const char *kernel, *initrd, *append; /* direct boot; NULL: firmware */
    const char *firmware;                 /* NULL: Debian's SeaBIOS */
    /* NULL: nothing plugged in; owned by the caller, and not looked at any more once machine_run has returned. */
    struct chardev *serial[MACHINE_SERIAL_PORTS];
    struct chardev *debug_console; /* port 0x402, NULL: the log category firmware */
    enum debug_exit_mode debug_exit;
    bool no_reboot;
    /* Time moves only by clock_advance, the time stamp counter with it, and who made the machine runs it by
     * machine_step (devices/machine_step.h) instead of machine_run. */
    bool stepped;
    bool no_apic; /* a board with the 8259 pair only */
    /* Told after each reset that went through (QMP's RESET event); under the machine lock, any thread. May be NULL.
     * guest: the guest asked for it, else machine_reset. */
    void (*on_reset)(void *opaque, bool guest);
    void *on_reset_opaque;
};

/* How a machine ended. */
enum machine_end {
    MACHINE_RUNNING,
    MACHINE_POWEROFF,     /* the guest powered off: 0 */
    MACHINE_DEBUG_EXIT,   /* the guest chose a status */
    MACHINE_RESET_END,    /* a reset with --no-reboot: 0 */
    MACHINE_TRIPLE_FAULT, /* 120 */
    MACHINE_TIMEOUT,      /* 124 */
    MACHINE_HOST_ERROR,   /* 125 */
    MACHINE_SIGNAL,       /* 128+n */
    MACHINE_QUIT          /* QMP quit, Ctrl-A x: 0 */
};

struct machine;

/* Builds the machine; nothing runs yet. On failure err holds one line that names the thing and the reason. The loop
 * and clock exist afterwards, so that back ends can be attached before machine_run. */
int machine_create(struct machine **out, const struct machine_config *config, char *err, size_t err_len);
void machine_destroy(struct machine *m);

/* Starts the vCPU threads and runs the loop in the calling thread until the machine ends. Returns the exit status of
 * the contract. */
int machine_run(struct machine *m);
/* From any thread: ends the machine. status: only for DEBUG_EXIT and SIGNAL. The first call wins. */
void machine_end(struct machine *m, enum machine_end how, int status);
enum machine_end machine_how(const struct machine *m);
/* When the vCPU first entered its engine, in ns of CLOCK_MONOTONIC; 0: not yet. Any thread. */
uint64_t machine_entered_at(const struct machine *m);
/* Processor time that the process had used by then, in ns. */
uint64_t machine_entered_cpu_ns(const struct machine *m);

/* Under the lock (QMP commands, console). */
void machine_stop(struct machine *m); /* vCPUs stand still when it returns */
void machine_continue(struct machine *m);
bool machine_running(const struct machine *m);
void machine_reset(struct machine *m);     /* asynchronous: the vCPU threads do it */
void machine_powerdown(struct machine *m); /* ACPI power button */

void machine_lock(struct machine *m);
void machine_unlock(struct machine *m);
struct loop *machine_loop(struct machine *m);
struct clock *machine_clock(struct machine *m);
struct memory *machine_memory(struct machine *m);
struct cpu *machine_cpu(struct machine *m, unsigned n);
const struct engine *machine_engine(struct machine *m);
const struct display_source *machine_display(struct machine *m);

/* Under the lock: another engine runs the machine from the next instruction on. Returns 0, or -errno with one line in
 * err and nothing changed. */
int machine_set_engine(struct machine *m, const struct engine *engine, char *err, size_t err_len);

/* Input devices. key: the PS/2 set-1 make code (0xe0xx for extended keys, 0xe11d45 for Pause is sent by key 0xe1). */
void machine_key(struct machine *m, unsigned key, bool down);
/* Relative motion in mickeys (y grows downwards), wheel, buttons bit 0 left, 1 right, 2 middle. */
void machine_mouse(struct machine *m, int dx, int dy, int dz, unsigned buttons);

/* Removable media: opens and inserts, or ejects with options NULL. slot: index of the drive of that kind. */
int machine_change_medium(struct machine *m, enum drive_kind kind, unsigned slot, const struct block_options *options,
                          char *err, size_t err_len);

#endif
