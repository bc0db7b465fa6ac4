/* SPDX-License-Identifier: MIT */
/* What firmware needs from the board and what the board does in its place: the BIOS image in ROM and shadow RAM, the
 * CMOS contents, fw_cfg, the preset interrupt routing; and for direct kernel boot everything a BIOS would have set up.
 *
 * Threads: under the machine lock, vCPUs standing still. */
#ifndef RINGFOLD_DEVICES_FIRMWARE_H
#define RINGFOLD_DEVICES_FIRMWARE_H

#include "devices/acpi.h"
#include "devices/loader.h"
#include "devices/pir.h"
#include "devices/smbios.h"

struct board;

enum { FIRMWARE_LOW_SIZE = 0x20000 }; /* what shows at 0xe0000 */

struct firmware {
    uint8_t *image; /* page-aligned; the whole ROM, mapped so that it ends at 4 GiB */
    uint64_t size;
    uint8_t *low; /* 128 KiB: its end, as it shows at 0xe0000-0xfffff */
    struct acpi_tables acpi;
    struct smbios_tables smbios;
    uint8_t pir[PIR_SIZE];
    struct mp_table mp;
    bool apic; /* the board has APICs */
};

/* Reads the image (path NULL: Debian's SeaBIOS) and makes the tables. 0 or -errno with one line in err. */
int firmware_init(struct firmware *f, const struct machine_config *config, const struct memory *memory, bool floppy,
                  const struct cpu_model *model, char *err, size_t err_len);
void firmware_destroy(struct firmware *f);
/* Maps the ROM below 4 GiB. 0 or -errno. */
int firmware_map(const struct firmware *f, struct memory *memory);
/* Fills fw_cfg, once. 0 or -errno. */
int firmware_fill_fwcfg(const struct firmware *f, struct board *b, const struct machine_config *config);
/* The battery-backed memory, once. */
void firmware_fill_cmos(struct board *b, const struct machine_config *config);
/* After each reset: shadow RAM holds the image and is writable, DRAM rows and interrupt lines are set, as the boot
 * block does on real boards. */
void firmware_prepare(const struct firmware *f, struct board *b);
/* Direct kernel boot, after firmware_prepare: assigns and enables PCI devices, routes interrupts, writes the tables and
 * describes memory. */
void firmware_play(const struct firmware *f, struct board *b, struct loader_board *out);

#endif
