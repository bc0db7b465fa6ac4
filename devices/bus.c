/* SPDX-License-Identifier: MIT */
/* Ports are found by one load from a table of 64K pointers; memory ranges by binary search in a sorted array, after a
 * look at the range that was hit last. */
#include "devices/bus.h"

#include "devices/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { DIRECT_LIMIT = 65536 };

struct bus {
    const char *name;
    uint64_t limit;
    struct bus_range **direct; /* one entry per address, on small buses */
    struct bus_range **sorted; /* by base */
    size_t count, room;
    struct bus_range *last; /* the range hit last, on large buses */
};

struct bus *bus_create(const char *name, uint64_t limit)
{
    struct bus *bus = calloc(1, sizeof *bus);
    if (!bus)
        return NULL;
    bus->name = name;
    bus->limit = limit;
    if (limit <= DIRECT_LIMIT) {
        bus->direct = calloc(limit ? limit : 1, sizeof *bus->direct);
        if (!bus->direct) {
            free(bus);
            return NULL;
        }
    }
    return bus;
}

void bus_destroy(struct bus *bus)
{
    if (!bus)
        return;
    for (size_t i = 0; i < bus->count; i++)
        bus->sorted[i]->mapped = false;
    free(bus->direct);
    free(bus->sorted);
    free(bus);
}

/* The index of the first range whose last address is at or above addr. */
static size_t lower_bound(const struct bus *bus, uint64_t addr)
{
    size_t low = 0, high = bus->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct bus_range *r = bus->sorted[mid];
        if (r->base + (r->size - 1) < addr)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

int bus_add(struct bus *bus, struct bus_range *range)
{
    if (!range->size || range->base >= bus->limit || range->size > bus->limit - range->base)
        return -ERANGE;
    size_t at = lower_bound(bus, range->base);
    if (range->mapped || (at < bus->count && bus->sorted[at]->base <= range->base + (range->size - 1))) {
        log_msg(LOG_DEVICE, "bus %s: %s at 0x%llx overlaps %s", bus->name, range->name, (unsigned long long)range->base,
                range->mapped ? "itself" : bus->sorted[at]->name);
        return -EEXIST;
    }
    if (bus->count == bus->room) {
        size_t room = bus->room ? bus->room * 2 : 32;
        struct bus_range **grown = realloc(bus->sorted, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        bus->sorted = grown;
        bus->room = room;
    }
    memmove(&bus->sorted[at + 1], &bus->sorted[at], (bus->count - at) * sizeof *bus->sorted);
    bus->sorted[at] = range;
    bus->count++;
    for (uint64_t i = 0; bus->direct && i < range->size; i++)
        bus->direct[range->base + i] = range;
    range->mapped = true;
    return 0;
}

void bus_remove(struct bus *bus, struct bus_range *range)
{
    if (!range->mapped)
        return;
    size_t at = lower_bound(bus, range->base);
    if (at == bus->count || bus->sorted[at] != range)
        return; /* mapped on another bus */
    bus->count--;
    memmove(&bus->sorted[at], &bus->sorted[at + 1], (bus->count - at) * sizeof *bus->sorted);
    for (uint64_t i = 0; bus->direct && i < range->size; i++)
        bus->direct[range->base + i] = NULL;
    bus->last = NULL;
    range->mapped = false;
}

struct bus_range *bus_find(struct bus *bus, uint64_t addr)
{
    if (addr >= bus->limit)
        return NULL;
    if (bus->direct)
        return bus->direct[addr];
    struct bus_range *r = bus->last;
    if (r && addr - r->base < r->size)
        return r;
    size_t at = lower_bound(bus, addr);
    if (at == bus->count || bus->sorted[at]->base > addr)
        return NULL;
    return bus->last = bus->sorted[at];
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << (size * 8)) - 1;
}

static unsigned widest(const struct bus_range *r)
{
    return r->max_access ? r->max_access : 1;
}

/* A narrow access to a chip that only knows wide ones: the aligned register that contains it. A write arrives with its
 * bytes in their lanes and zeros in the others; at the aligned offset that is the value zero-extended. */
static uint64_t read_narrow(struct bus_range *r, uint64_t off, unsigned size)
{
    unsigned lane = off & (r->min_access - 1);
    return r->read(r->opaque, off - lane, r->min_access) >> (lane * 8) & ones(size);
}

static void write_narrow(struct bus_range *r, uint64_t off, uint64_t value, unsigned size)
{
    unsigned lane = off & (r->min_access - 1);
    r->write(r->opaque, off - lane, (value & ones(size)) << (lane * 8), r->min_access);
}

uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size)
{
    struct bus_range *r = bus_find(bus, addr);
    uint64_t value = 0;
    if (!r || r->size - (addr - r->base) < size) {
        if (size <= 1)
            return 0xff;
        for (unsigned i = 0; i < size; i++)
            value |= (addr + i < addr ? 0xff : bus_read(bus, addr + i, 1)) << (i * 8);
        return value;
    }
    uint64_t off = addr - r->base;
    if (!r->read)
        return ones(size);
    if (r->min_access > 1 && (size < r->min_access || (off & (r->min_access - 1)))) {
        if ((off & (r->min_access - 1)) + size <= r->min_access)
            return read_narrow(r, off, size);
        for (unsigned i = 0; i < size; i++)
            value |= read_narrow(r, off + i, 1) << (i * 8);
        return value;
    }
    unsigned step = size < widest(r) ? size : widest(r);
    for (unsigned i = 0; i < size; i += step)
        value |= (r->read(r->opaque, off + i, step) & ones(step)) << (i * 8);
    return value;
}

void bus_write(struct bus *bus, uint64_t addr, uint64_t value, unsigned size)
{
    struct bus_range *r = bus_find(bus, addr);
    if (!r || r->size - (addr - r->base) < size) {
        for (unsigned i = 0; size > 1 && i < size && addr + i >= addr; i++)
            bus_write(bus, addr + i, value >> (i * 8) & 0xff, 1);
        return;
    }
    uint64_t off = addr - r->base;
    if (!r->write)
        return;
    if (r->min_access > 1 && (size < r->min_access || (off & (r->min_access - 1)))) {
        if ((off & (r->min_access - 1)) + size <= r->min_access) {
            write_narrow(r, off, value, size);
            return;
        }
        for (unsigned i = 0; i < size; i++)
            write_narrow(r, off + i, value >> (i * 8), 1);
        return;
    }
    unsigned step = size < widest(r) ? size : widest(r);
    /* A handler may unmap or move its own range (a BAR, a bank): what is left of a wide access still belongs to it. */
    void (*write)(void *, uint64_t, uint64_t, unsigned) = r->write;
    void *opaque = r->opaque;
    for (unsigned i = 0; i < size; i += step)
        write(opaque, off + i, value >> (i * 8) & ones(step), step);
}
