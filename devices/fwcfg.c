/* SPDX-License-Identifier: MIT */
#include "devices/fwcfg.h"

#include "devices/log.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { ID_TRADITIONAL = 1, ID_DMA = 2 };
enum {
    SELECTOR_KEY = 0xbfff,
    SELECTOR_LOCAL = 0x8000
};                                          /* bit 14 selects the obsolete write channel of the same item */
#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */

struct dma_access {
    uint32_t control;
    uint32_t length;
    uint64_t address;
} __attribute__((packed));

struct directory_entry {
    uint32_t size;
    uint16_t key;
    uint16_t reserved;
    char name[FWCFG_NAME_SIZE];
} __attribute__((packed));

/* ---- items ---- */

static struct fwcfg_item *item_of(struct fwcfg *f, unsigned key)
{
    key &= SELECTOR_KEY;
    if (key & SELECTOR_LOCAL)
        return (key & ~(unsigned)SELECTOR_LOCAL) < FWCFG_LOCAL_COUNT ? &f->local[key & ~(unsigned)SELECTOR_LOCAL]
                                                                     : NULL;
    return key < FWCFG_ITEM_COUNT ? &f->items[key] : NULL;
}

int fwcfg_set(struct fwcfg *f, unsigned key, const void *data, size_t size)
{
    struct fwcfg_item *item = item_of(f, key);
    if (!item || size > UINT32_MAX)
        return -EINVAL;
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, size);
    free(item->data);
    item->data = copy;
    item->size = (uint32_t)size;
    return 0;
}

int fwcfg_set_number(struct fwcfg *f, unsigned key, uint64_t value, unsigned size)
{
    value = htole64(value);
    return size <= sizeof value ? fwcfg_set(f, key, &value, size) : -EINVAL;
}

static int update_directory(struct fwcfg *f)
{
    struct {
        uint32_t count;
        struct directory_entry entries[FWCFG_FILE_MAX];
    } directory;
    memset(&directory, 0, sizeof directory);
    directory.count = htobe32(f->file_count);
    for (unsigned i = 0; i < f->file_count; i++) {
        directory.entries[i].size = htobe32(f->items[FWCFG_FILE_FIRST + i].size);
        directory.entries[i].key = htobe16((uint16_t)(FWCFG_FILE_FIRST + i));
        memcpy(directory.entries[i].name, f->names[i], FWCFG_NAME_SIZE);
    }
    return fwcfg_set(f, FWCFG_FILE_DIRECTORY, &directory, 4 + f->file_count * sizeof directory.entries[0]);
}

int fwcfg_add_file(struct fwcfg *f, const char *name, const void *data, size_t size)
{
    if (strlen(name) >= FWCFG_NAME_SIZE)
        return -ENAMETOOLONG;
    unsigned i = 0;
    while (i < f->file_count && strcmp(f->names[i], name))
        i++;
    if (i == FWCFG_FILE_MAX)
        return -ENOSPC;
    int r = fwcfg_set(f, FWCFG_FILE_FIRST + i, data, size);
    if (r)
        return r;
    if (i == f->file_count) {
        strcpy(f->names[i], name);
        f->file_count++;
    }
    return update_directory(f);
}

/* ---- selector and data ports ---- */

static void select_item(struct fwcfg *f, uint16_t key)
{
    f->selector = key;
    f->offset = 0;
}

/* Copies up to len bytes of the selected item from the current position; returns how many there were. */
static uint32_t take(struct fwcfg *f, const uint8_t **at, uint32_t len)
{
    const struct fwcfg_item *item = item_of(f, f->selector);
    uint32_t left = item && f->offset < item->size ? item->size - f->offset : 0;
    uint32_t count = len < left ? len : left;
    *at = count ? item->data + f->offset : NULL;
    f->offset += count;
    return count;
}

static uint64_t select_read(void *opaque, uint64_t offset, unsigned size)
{
    struct fwcfg *f = opaque;
    const uint8_t *at;
    if (offset != 1)
        return size == 1 ? 0xff : 0xffff; /* the selector cannot be read */
    return take(f, &at, 1) ? *at : 0;
}

static void select_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == 0 && size == 2)
        select_item(opaque, (uint16_t)value);
}

/* ---- DMA ---- */

static bool dma_fill(struct fwcfg *f, uint64_t address, uint32_t length)
{
    static const uint8_t zeros[PAGE_SIZE];
    const uint8_t *at;
    uint32_t count = take(f, &at, length);
    if (memory_write(f->memory, gpa(address), at, count) != count)
        return false;
    address += count;
    length -= count;
    while (length) { /* past the item's end the device gives zeros; stops where memory does */
        uint32_t n = length < PAGE_SIZE ? length : PAGE_SIZE;
        if (memory_write(f->memory, gpa(address), zeros, n) != n)
            return false;
        address += n;
        length -= n;
    }
    return true;
}

static void dma_run(struct fwcfg *f, gpa_t descriptor)
{
    struct dma_access access;
    uint32_t result = FWCFG_DMA_ERROR;
    if (memory_read(f->memory, descriptor, &access, sizeof access) == sizeof access) {
        uint32_t control = be32toh(access.control), length = be32toh(access.length);
        const uint8_t *ignored;
        bool good = true;
        if (control & FWCFG_DMA_SELECT)
            select_item(f, (uint16_t)(control >> 16));
        if (control & FWCFG_DMA_READ)
            good = dma_fill(f, be64toh(access.address), length);
        else if (control & FWCFG_DMA_WRITE)
            good = false; /* no item can be written */
        else if (control & FWCFG_DMA_SKIP)
            take(f, &ignored, length);
        if (good)
            result = 0;
    }
    if (result)
        log_msg(LOG_GUEST_ERROR, "fw_cfg: DMA descriptor at 0x%llx failed", (unsigned long long)descriptor.v);
    result = htobe32(result);
    memory_write(f->memory, descriptor, &result, sizeof result);
}

static uint64_t dma_read(void *opaque, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (DMA_SIGNATURE >> (56 - ((offset + i) & 7) * 8) & 0xff) << i * 8;
    return value;
}

/* The address register is big-endian; writing its last byte starts the transfer. */
static void dma_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fwcfg *f = opaque;
    for (unsigned i = 0; i < size; i++) {
        unsigned shift = 56 - ((unsigned)(offset + i) & 7) * 8;
        f->dma_address = (f->dma_address & ~(0xffull << shift)) | (value >> i * 8 & 0xff) << shift;
    }
    if (offset + size < 8)
        return;
    gpa_t descriptor = gpa(f->dma_address);
    f->dma_address = 0;
    dma_run(f, descriptor);
}

/* ---- life cycle ---- */

int fwcfg_init(struct fwcfg *f, struct bus *ports, struct memory *memory)
{
    memset(f, 0, sizeof *f);
    f->ports = ports;
    f->memory = memory;
    f->select_range = (struct bus_range){.name = "fw-cfg",
                                         .base = FWCFG_SELECT_PORT,
                                         .size = 2,
                                         .max_access = 2,
                                         .read = select_read,
                                         .write = select_write,
                                         .opaque = f};
    f->dma_range = (struct bus_range){.name = "fw-cfg-dma",
                                      .base = FWCFG_DMA_PORT,
                                      .size = 8,
                                      .max_access = 8,
                                      .read = dma_read,
                                      .write = dma_write,
                                      .opaque = f};
    int r = bus_add(ports, &f->select_range);
    if (!r)
        r = bus_add(ports, &f->dma_range);
    if (!r)
        r = fwcfg_set(f, FWCFG_SIGNATURE, "QEMU", 4);
    if (!r)
        r = fwcfg_set_number(f, FWCFG_ID, ID_TRADITIONAL | ID_DMA, 4);
    if (!r)
        r = update_directory(f);
    if (r)
        fwcfg_destroy(f);
    return r;
}

void fwcfg_reset(struct fwcfg *f)
{
    select_item(f, 0);
    f->dma_address = 0;
}

void fwcfg_destroy(struct fwcfg *f)
{
    bus_remove(f->ports, &f->select_range);
    bus_remove(f->ports, &f->dma_range);
    for (unsigned i = 0; i < FWCFG_ITEM_COUNT; i++)
        free(f->items[i].data);
    for (unsigned i = 0; i < FWCFG_LOCAL_COUNT; i++)
        free(f->local[i].data);
    memset(f->items, 0, sizeof f->items);
    memset(f->local, 0, sizeof f->local);
}
