/* SPDX-License-Identifier: MIT */
/* SMBIOS tables (DMTF DSP0134, version 2.8): BIOS, system, chassis, processors, memory. */
#ifndef RINGFOLD_DEVICES_SMBIOS_H
#define RINGFOLD_DEVICES_SMBIOS_H

#include "devices/fwcfg.h"

enum { SMBIOS_ANCHOR_SIZE = 31 };

struct smbios_config {
    unsigned cpus;
    uint64_t ram_size, low_ram;
};

struct smbios_tables {
    uint8_t *data; /* owned */
    size_t size;
    uint8_t anchor[SMBIOS_ANCHOR_SIZE]; /* table address 0, checksums for that */
};

int smbios_build(struct smbios_tables *t, const struct smbios_config *config); /* 0 or -ENOMEM */
void smbios_free(struct smbios_tables *t);
/* etc/smbios/smbios-tables and smbios-anchor; SeaBIOS fills in the address. 0 or -errno. */
int smbios_add_to_fwcfg(const struct smbios_tables *t, struct fwcfg *f);
/* Direct kernel boot: tables at base (RAM below 4 GiB), the anchor at a multiple of 16 in 0xf0000-0xfffff. */
void smbios_write(const struct smbios_tables *t, struct memory *memory, gpa_t base, gpa_t anchor);

#endif
