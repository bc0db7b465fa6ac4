/* SPDX-License-Identifier: MIT */
#include "devices/ide_pci.h"
#include "devices/log.h"

#include <string.h>

enum { IDETIM = 0x40, SIDETIM = 0x44, UDMACTL = 0x48, UDMATIM = 0x4a, IDETIM_DECODE = 0x80 };

static const struct {
    uint16_t command, control;
} legacy[2] = {{0x1f0, 0x3f6}, {0x170, 0x376}};

static void update_decoders(struct ide_controller *c)
{
    for (unsigned n = 0; n < 2; n++) {
        struct ide_channel *ch = &c->channels[n];
        bool on = c->pci.config[IDETIM + 2 * n + 1] & IDETIM_DECODE;
        if (!on)
            ide_channel_unmap(ch, c->ports);
        else if (!ch->command_range.mapped && ide_channel_map(ch, c->ports, legacy[n].command, legacy[n].control))
            log_msg(LOG_DEVICE, "%s: its ports are taken", ch->name);
    }
}

static void config_written(void *opaque, unsigned reg, unsigned size)
{
    struct ide_controller *c = opaque;
    if (reg < IDETIM + 4 && reg + size > IDETIM)
        update_decoders(c);
}

static bool may_master(void *opaque)
{
    const struct ide_controller *c = opaque;
    return pci_is_master(&c->pci);
}

static uint64_t bus_master_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ide_controller *c = opaque;
    return ide_bus_master_read(&c->channels[offset >> 3 & 1], offset & 7, size);
}

static void bus_master_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ide_controller *c = opaque;
    ide_bus_master_write(&c->channels[offset >> 3 & 1], offset & 7, value, size);
}

void ide_controller_init(struct ide_controller *c, struct bus *ports, struct memory *memory, struct irq_line irq14,
                         struct irq_line irq15)
{
    memset(c, 0, sizeof *c);
    c->ports = ports;
    ide_channel_init(&c->channels[0], "ide primary", memory, irq14);
    ide_channel_init(&c->channels[1], "ide secondary", memory, irq15);
    for (unsigned n = 0; n < 2; n++) {
        c->channels[n].may_master = may_master;
        c->channels[n].may_master_opaque = c;
    }
    pci_function_init(&c->pci, "piix4-ide", 0x8086, 0x7111, 0x010180, 0x01);
    c->pci.opaque = c;
    c->pci.config_written = config_written;
    pci_region_handlers(&c->pci, 4, PCI_REGION_IO,
                        &(struct bus_range){.name = "ide bus master",
                                            .size = 16,
                                            .max_access = 4,
                                            .read = bus_master_read,
                                            .write = bus_master_write,
                                            .opaque = c});
    memset(c->pci.write_mask + IDETIM, 0xff, 5);
    c->pci.write_mask[UDMACTL] = 0x0f;
    c->pci.write_mask[UDMATIM] = c->pci.write_mask[UDMATIM + 1] = 0x33;
    c->pci.config[IDETIM + 1] = c->pci.config[IDETIM + 3] = IDETIM_DECODE;
}

int ide_controller_add(struct ide_controller *c, struct pci_bus *bus, unsigned device, unsigned function)
{
    int error = pci_add(bus, &c->pci, device, function);
    if (!error)
        update_decoders(c);
    return error;
}

void ide_controller_reset(struct ide_controller *c)
{
    for (unsigned n = 0; n < 2; n++)
        ide_channel_reset(&c->channels[n]);
    update_decoders(c);
}

void ide_controller_destroy(struct ide_controller *c)
{
    pci_remove(&c->pci);
    for (unsigned n = 0; n < 2; n++) {
        ide_channel_unmap(&c->channels[n], c->ports);
        ide_channel_destroy(&c->channels[n]);
    }
}
