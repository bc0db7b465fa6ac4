/* SPDX-License-Identifier: MIT */
/* The VGA as a PCI function: 1234:1111, BAR 0 the video memory, BAR 2 its registers, and the VGA BIOS as expansion ROM.
 */
#ifndef RINGFOLD_DEVICES_VGA_PCI_H
#define RINGFOLD_DEVICES_VGA_PCI_H

#include "devices/pci.h"
#include "devices/vga.h"

struct vga_pci {
    struct vga vga;
    struct pci_function pci;
};

/* Puts the adapter into a slot. rom: file name of the VGA BIOS, NULL for Debian's, "" for none. Returns 0 or -errno
 * with one line in err that names the file and the reason. */
int vga_pci_init(struct vga_pci *p, struct pci_bus *bus, unsigned device, unsigned function, struct bus *ports,
                 struct bus *memory_bus, struct memory *memory, struct clock *clock, const char *rom, char *err,
                 size_t err_len);
/* vga_set_text_mode with the font of the adapter's own ROM. */
bool vga_pci_set_text_mode(struct vga_pci *p);
void vga_pci_destroy(struct vga_pci *p);

#endif
