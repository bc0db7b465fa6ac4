/* SPDX-License-Identifier: MIT */
/* The MP configuration table (Intel MultiProcessor Specification 1.4) for systems without ACPI: processors, buses, the
 * I/O APIC and where each interrupt arrives.
 *
 * PIC mode is not built in (no IMCR): the board starts in virtual wire mode. */
#ifndef RINGFOLD_DEVICES_MP_TABLE_H
#define RINGFOLD_DEVICES_MP_TABLE_H

#include <stddef.h>
#include <stdint.h>

enum {
    MP_FLOATING_SIZE = 16,
    MP_FLOATING_POINTER = 4,   /* a little-endian address in the floating structure: that of the table */
    MP_FLOATING_CHECKSUM = 10, /* over the floating structure */
    MP_TABLE_MAX = 4096
};

struct mp_table {
    uint8_t data[MP_TABLE_MAX]; /* the floating structure, then the table */
    unsigned size;
};

struct mp_config {
    unsigned cpus;                /* at most 16 */
    uint32_t signature, features; /* CPUID leaf 1, EAX and EDX */
};

/* The pointer is relative to data, its checksum not made; mp_table_place does both for an address of data. */
void mp_table_build(struct mp_table *t, const struct mp_config *config);
void mp_table_place(struct mp_table *t, uint32_t address);

#endif
