/* SPDX-License-Identifier: MIT */
/* Intel 82443BX host bridge (8086:7190) and its AGP bridge (8086:7191), Intel 440BX AGPset data sheet 290633.
 *
 * What acts: PAM0-6 (who answers 0xc0000-0xfffff), SMRAM (RAM or the display behind 0xa0000), FDHC (the fixed DRAM
 * hole). The DRAM row registers, timing, ECC, AGP and power registers keep what is written, with the data sheet's reset
 * values and read-only bits. The graphics aperture has no device behind it and is never decoded.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_I440BX_H
#define RINGFOLD_DEVICES_I440BX_H

#include "devices/pci.h"

enum { I440BX_PAM0 = 0x59, I440BX_DRB0 = 0x60, I440BX_FDHC = 0x68, I440BX_SMRAM = 0x72 };
enum { I440BX_SMRAM_D_OPEN = 0x40, I440BX_SMRAM_D_CLS = 0x20, I440BX_SMRAM_D_LCK = 0x10, I440BX_SMRAM_G_SMRAME = 0x08 };
enum { I440BX_SEGMENTS = 13 }; /* twelve of 16 KiB from 0xc0000, then 0xf0000 of 64 KiB */

struct i440bx {
    struct pci_function host, agp;
    struct memory *memory;
    uint8_t *rom;                     /* 128 KiB that answer 0xe0000-0xfffff where shadow RAM is not read */
    uint8_t segment[I440BX_SEGMENTS]; /* mapped now: bit 0 reads, bit 1 writes go to RAM */
    bool smram_open;                  /* 0xa0000-0xbffff is RAM now */
    uint8_t hole;                     /* FDHC bits 7:6 in force */
    /* The display's window at 0xa0000 becomes RAM (called before) and the display's again (called after). May be NULL.
     */
    void (*window_changed)(void *opaque, bool display);
    void *window_opaque;
};

/* Adds the bridges as devices 0 and 1. rom: the last 128 KiB of the firmware, owned by the caller, never written.
 * Returns 0 or -errno. */
int i440bx_init(struct i440bx *bx, struct pci_bus *bus, struct memory *memory, uint8_t *rom);
/* Call after pci_bus_reset: the memory map follows the reset registers (ROM visible, shadow RAM off). */
void i440bx_reset(struct i440bx *bx);
void i440bx_destroy(struct i440bx *bx);

#endif
