/* SPDX-License-Identifier: MIT */
/* The IDE function of the PIIX4 (82371AB data sheet 290562, chapter 5): PCI 8086:7111, function 1 of the south bridge,
 * two channels at their legacy ports and interrupts, bus-master registers behind base address register 4.
 *
 * IDETIM (40h, 42h), bit 15, switches a channel's ports on. After a reset they are on: a kernel that is booted without
 * firmware finds its disks. */
#ifndef RINGFOLD_DEVICES_IDE_PCI_H
#define RINGFOLD_DEVICES_IDE_PCI_H

#include "devices/ide.h"
#include "devices/pci.h"

struct ide_controller {
    struct pci_function pci;
    struct ide_channel channels[2]; /* 1f0h/3f6h IRQ 14, 170h/376h IRQ 15 */
    struct bus *ports;
};

/* Attach drives with ide_channel_attach(&c->channels[n], ...), then ide_controller_add. irq14, irq15: the lines. */
void ide_controller_init(struct ide_controller *c, struct bus *ports, struct memory *memory, struct irq_line irq14,
                         struct irq_line irq15);
/* Puts it into its slot and its ports on the bus. -errno. */
int ide_controller_add(struct ide_controller *c, struct pci_bus *bus, unsigned device, unsigned function);
/* RESET#. After pci_bus_reset, which restores the configuration space. */
void ide_controller_reset(struct ide_controller *c);
/* Takes it off PCI and the bus, cancels what is under way, frees the drives (not their blocks). */
void ide_controller_destroy(struct ide_controller *c);

#endif
