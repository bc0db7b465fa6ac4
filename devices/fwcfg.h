/* SPDX-License-Identifier: MIT */
/* The firmware configuration device (QEMU's docs/specs/fw_cfg): numbered items that firmware reads through a selector
 * at port 0x510, a data byte at 0x511 and a DMA interface at 0x514. Named files have items from 0x20 on and a
 * directory. Everything is read-only for the guest.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_FWCFG_H
#define RINGFOLD_DEVICES_FWCFG_H

#include "devices/bus.h"
#include "shadowmmu/memory.h"

enum fwcfg_key {
    FWCFG_SIGNATURE = 0x00,
    FWCFG_ID = 0x01,
    FWCFG_UUID = 0x02,
    FWCFG_RAM_SIZE = 0x03,
    FWCFG_NOGRAPHIC = 0x04,
    FWCFG_CPU_COUNT = 0x05,
    FWCFG_NUMA = 0x0d,
    FWCFG_BOOT_MENU = 0x0e,
    FWCFG_MAX_CPUS = 0x0f,
    FWCFG_FILE_DIRECTORY = 0x19,
    FWCFG_FILE_FIRST = 0x20,
    FWCFG_ARCH_LOCAL = 0x8000, /* + 0 ACPI tables, + 1 SMBIOS entries, + 2 IRQ 0 override, + 3 E820 */
};

enum { FWCFG_SELECT_PORT = 0x510, FWCFG_DMA_PORT = 0x514 };
enum { FWCFG_DMA_ERROR = 1, FWCFG_DMA_READ = 2, FWCFG_DMA_SKIP = 4, FWCFG_DMA_SELECT = 8, FWCFG_DMA_WRITE = 16 };
enum { FWCFG_FILE_MAX = 32, FWCFG_ITEM_COUNT = FWCFG_FILE_FIRST + FWCFG_FILE_MAX, FWCFG_LOCAL_COUNT = 4 };
enum { FWCFG_NAME_SIZE = 56 };

struct fwcfg_item {
    uint8_t *data; /* owned */
    uint32_t size;
};

struct fwcfg {
    struct bus *ports;
    struct memory *memory;
    struct bus_range select_range, dma_range;
    struct fwcfg_item items[FWCFG_ITEM_COUNT], local[FWCFG_LOCAL_COUNT];
    char names[FWCFG_FILE_MAX][FWCFG_NAME_SIZE];
    unsigned file_count;
    uint16_t selector;
    uint32_t offset; /* of the next byte in the selected item */
    uint64_t dma_address;
};

/* Signature, id and an empty directory. 0 or -errno. */
int fwcfg_init(struct fwcfg *f, struct bus *ports, struct memory *memory);
void fwcfg_reset(struct fwcfg *f);
void fwcfg_destroy(struct fwcfg *f);
/* Sets an item; the data is copied. -EINVAL for a key that does not exist, -ENOMEM. */
int fwcfg_set(struct fwcfg *f, unsigned key, const void *data, size_t size);
/* Sets item key to a little-endian number of size bytes. */
int fwcfg_set_number(struct fwcfg *f, unsigned key, uint64_t value, unsigned size);
/* Adds a file, or replaces the one of that name. -ENOSPC, -ENAMETOOLONG, -ENOMEM. */
int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, size_t size);

#endif
