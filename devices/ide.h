/* SPDX-License-Identifier: MIT */
/* An IDE channel: the cable with two drives, its ports, its interrupt and its bus-master DMA engine (Intel 82371AB
 * (PIIX4) data sheet, 290562; SFF-8038i for the bus master). ide_pci.h puts two of them into a PCI function.
 *
 * Command block: 8 ports, data at offset 0 (16 or 32 bits wide). Control block: one port (0x3f6, 0x376).
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_IDE_H
#define RINGFOLD_DEVICES_IDE_H

#include "devices/ata.h"
#include "devices/bus.h"
#include "devices/irq.h"
#include "shadowmmu/memory.h"

enum ide_bus_master_register { IDE_BM_COMMAND = 0, IDE_BM_STATUS = 2, IDE_BM_TABLE = 4 };
enum { IDE_BM_START = 0x01, IDE_BM_TO_MEMORY = 0x08 };
enum { IDE_BM_ACTIVE = 0x01, IDE_BM_ERROR = 0x02, IDE_BM_INTERRUPT = 0x04 };

/* A physical region descriptor: base, then byte count (0: 64 KiB) and the end-of-table bit in bit 31. */
struct ide_bus_master {
    uint8_t command, status;
    uint32_t table;
    uint32_t next;    /* address of the next descriptor */
    uint32_t address; /* rest of the region under way */
    uint32_t left;
    bool last;    /* no descriptor follows */
    bool running; /* inside the engine: it is not entered twice */
};

struct ide_channel {
    const char *name;
    struct ata_drive drives[2];
    unsigned selected;
    uint8_t control;
    int irq_level;
    struct irq_line irq;
    struct memory *memory;
    struct ide_bus_master bus_master;
    /* May the function master the bus now? NULL: yes. */
    bool (*may_master)(void *opaque);
    void *may_master_opaque;
    struct bus_range command_range, control_range;
};

/* An empty cable. memory: where the bus master reads and writes; NULL for a channel without. */
void ide_channel_init(struct ide_channel *ch, const char *name, struct memory *memory, struct irq_line irq);
/* Puts a drive on the cable (before the machine runs). block stays the caller's and must outlive the channel or the
 * next medium change. 0 or -ENOMEM, -EBUSY: the place is taken. */
int ide_channel_attach(struct ide_channel *ch, unsigned unit, enum ata_kind kind, struct block *block,
                       const char *serial);
/* Cancels everything under way and frees the drives. Unmap first. */
void ide_channel_destroy(struct ide_channel *ch);
/* RESET#: drives and bus master as after power-on. Nothing under way before touches medium or memory afterwards. */
void ide_channel_reset(struct ide_channel *ch);
/* Puts the ports on a bus and takes them off. -errno as bus_add. */
int ide_channel_map(struct ide_channel *ch, struct bus *ports, uint16_t command_base, uint16_t control_port);
void ide_channel_unmap(struct ide_channel *ch, struct bus *ports);

/* Changes a CD-ROM drive's medium, see atapi_change_medium. -ENODEV: no such drive. */
int ide_channel_change_medium(struct ide_channel *ch, unsigned unit, struct block *medium, bool force);

/* Command block, offset 0-7, and the control port. */
uint64_t ide_channel_read(struct ide_channel *ch, uint64_t offset, unsigned size);
void ide_channel_write(struct ide_channel *ch, uint64_t offset, uint64_t value, unsigned size);
uint8_t ide_channel_read_alternate_status(struct ide_channel *ch);
void ide_channel_write_control(struct ide_channel *ch, uint8_t value);

/* Repeated string I/O on the data port: moves up to len bytes, as so many 16- or 32-bit accesses would, and returns how
 * many; the rest (0 at a phase change) goes through the port one by one. */
size_t ide_channel_read_block(struct ide_channel *ch, void *buf, size_t len);
size_t ide_channel_write_block(struct ide_channel *ch, const void *buf, size_t len);

/* The eight bus-master registers of the channel. */
uint64_t ide_bus_master_read(struct ide_channel *ch, unsigned offset, unsigned size);
void ide_bus_master_write(struct ide_channel *ch, unsigned offset, uint64_t value, unsigned size);

#endif
