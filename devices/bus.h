/* SPDX-License-Identifier: MIT */
/* Buses: one range type, used for the two maps (ports and memory). A device registers named ranges; handlers get
 * offsets. All access splitting happens here and only here.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_BUS_H
#define RINGFOLD_DEVICES_BUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bus_range {
    const char *name;
    uint64_t base;
    uint64_t size;
    unsigned max_access; /* widest access the handlers take: 1, 2, 4 or 8 bytes; wider ones are split, low part first */
    unsigned min_access; /* narrowest: narrower ones are widened (read: extract; write: replicated read-modify is NOT
                            done, the value is passed zero-extended at the aligned offset). 0 means 1 */
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);              /* NULL: all ones */
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size); /* NULL: dropped */
    void *opaque;
    bool mapped; /* private to bus.c */
};

struct bus;

/* limit: number of addresses (65536 for ports, UINT64_MAX for memory). NULL when out of memory. */
struct bus *bus_create(const char *name, uint64_t limit);
void bus_destroy(struct bus *bus);
/* Maps the range. The caller keeps the struct alive and may not change base/size while it is mapped. -EEXIST: overlaps
 * another range (its name is logged); -ERANGE: outside the bus. bus_remove of an unmapped range does nothing. */
int bus_add(struct bus *bus, struct bus_range *range);
void bus_remove(struct bus *bus, struct bus_range *range);
/* size: 1, 2, 4, 8. Nobody there: all ones. An access that runs over a range's end is split by byte. */
uint64_t bus_read(struct bus *bus, uint64_t addr, unsigned size);
void bus_write(struct bus *bus, uint64_t addr, uint64_t value, unsigned size);
/* The range that covers addr, or NULL. */
struct bus_range *bus_find(struct bus *bus, uint64_t addr);

#endif
