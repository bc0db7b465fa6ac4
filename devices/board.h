/* SPDX-License-Identifier: MIT */
/* The 440BX board: every chip and how they are wired.
 *
 *   processor -- 82443BX host bridge -- RAM, PAM, firmware ROM
 *                     |  PCI bus 0
 *     00.0 host bridge   01.0 AGP bridge   07.0 ISA bridge   07.1 IDE   07.3 power management   0f.0 VGA
 *                                             |  ISA
 *     8259 pair, 8254, MC146818, 8237 pair, 8042, 16550 x 2, 82077, port 92h, fw_cfg, debug ports
 *
 * Interrupts: ISA lines go through the PIIX4 to the 8259s and, beside it, to the pins of the same number of the 82093AA
 * I/O APIC (IRQ 0 to pin 2); PIRQ A-D to the 8259s as the PIIX4 routes them and to pins 16-19. INTR of the 8259s goes
 * to LINT0 of the local APICs and to pin 0. Without APICs it goes to the processor.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_BOARD_H
#define RINGFOLD_DEVICES_BOARD_H

#include "devices/debugport.h"
#include "devices/firmware.h"
#include "devices/fwcfg.h"
#include "devices/i440bx.h"
#include "devices/i8042.h"
#include "devices/i8237.h"
#include "devices/i8254.h"
#include "devices/i8259.h"
#include "devices/i82077.h"
#include "devices/ide_pci.h"
#include "devices/ioapic.h"
#include "devices/lapic.h"
#include "devices/machine.h"
#include "devices/mc146818.h"
#include "devices/piix4.h"
#include "devices/port92.h"
#include "devices/uart16550.h"
#include "devices/vga_pci.h"

enum { BOARD_CPUS = 1, BOARD_VGA_DEVICE = 15, BOARD_IDE_PLACES = 4, BOARD_FLOPPIES = 2 };

/* What the board asks of the machine and its processor. */
struct board_signals {
    struct irq_line intr;       /* to the processor */
    struct irq_line a20;        /* level 1: address line 20 passes */
    struct piix4_signals power; /* reset, INIT, soft off */
    struct lapic_signals lapic;
    void (*debug_exit)(void *opaque, int status);
    void *opaque;
};

struct board {
    const struct machine_config *config;
    struct memory *memory;
    struct clock *clock;
    struct loop *loop;
    struct board_signals signals;
    struct bus *ports, *memory_bus;

    struct firmware firmware;
    struct pci_bus *pci;
    struct i440bx bridge;
    struct piix4 piix4;
    struct i8259 pic;
    bool has_apic;
    struct apic_bus apic_bus;
    struct lapic lapic[BOARD_CPUS];
    struct ioapic ioapic;
    struct i8254 pit;
    bool chips_held;
    struct chip_holder holder;
    struct chips chips; /* as they were given */
    struct mc146818 rtc;
    struct i8237 dma;
    struct i8042 keyboard;
    struct port92 port92;
    struct uart16550 uart[MACHINE_SERIAL_PORTS];
    struct i82077 fdc;
    struct ide_controller ide;
    struct vga_pci vga;
    struct display_source display;
    struct fwcfg fwcfg;
    struct debugport debug;
    struct bus_range ferr_port;

    /* Media in the drives; NULL: none. */
    struct block *ide_media[BOARD_IDE_PLACES]; /* channel * 2 + unit */
    enum ata_kind ide_kind[BOARD_IDE_PLACES];
    struct block *floppy_media[BOARD_FLOPPIES];
    bool floppy_present[BOARD_FLOPPIES];
};

/* Builds the board; every chip is in its reset state. model: the processor's, which says whether there are APICs. 0 or
 * -errno with one line in err. config must stay. */
int board_init(struct board *b, const struct machine_config *config, const struct cpu_model *model,
               struct memory *memory, struct clock *clock, struct loop *loop, const struct board_signals *signals,
               char *err, size_t err_len);
void board_destroy(struct board *b);
/* Hard reset of everything but the processor; direct boot's out is filled in when config names a kernel. */
void board_reset(struct board *b, struct loader_board *out);
/* The processor's interrupt acknowledge: a vector, or -1 when the request has gone away. */
int board_acknowledge(struct board *b, unsigned cpu);
/* An engine takes the interrupt controllers, and the 8254 if it says so, and gives them back: cpu/chips.h. Boards with
 * APICs only. tsc_offset: the guest's time stamp counter less the host's. 0 or -errno; hold has changed nothing then,
 * and after release the board has its chips in any case. */
int board_chips_hold(struct board *b, const struct chip_holder *holder);
int board_chips_release(struct board *b, uint64_t tsc_offset);
/* FERR#: x87 error. */
void board_set_ferr(struct board *b, int level);

/* ---- drives (board_drives.c) ---- */

/* Opens the configured images and notes where they go; after it the media arrays are valid. */
int board_open_drives(struct board *b, char *err, size_t err_len);
/* Puts them on their cables. */
int board_attach_drives(struct board *b, char *err, size_t err_len);
void board_close_drives(struct board *b);
int board_change_medium(struct board *b, enum drive_kind kind, unsigned slot, const struct block_options *options,
                        char *err, size_t err_len);

#endif
