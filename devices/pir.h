/* SPDX-License-Identifier: MIT */
/* The PCI IRQ routing table "$PIR" (Microsoft, PCI IRQ Routing Table Specification 1.0), for systems without ACPI:
 * which PIIX4 link each interrupt pin of each slot is wired to, and which IRQs a link may take. */
#ifndef RINGFOLD_DEVICES_PIR_H
#define RINGFOLD_DEVICES_PIR_H

#include <stddef.h>
#include <stdint.h>

enum {
    PIR_HEADER_SIZE = 32,
    PIR_SLOT_SIZE = 16,
    PIR_SLOTS = 31,
    PIR_SIZE = PIR_HEADER_SIZE + PIR_SLOTS * PIR_SLOT_SIZE
};

/* Devices 1-31 of bus 0. The table belongs on a 16-byte boundary in 0xf0000-0xfffff. */
void pir_build(uint8_t table[PIR_SIZE]);

#endif
