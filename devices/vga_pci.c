/* SPDX-License-Identifier: MIT */
#include "devices/vga_pci.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_ROM "/usr/share/seabios/vgabios-stdvga.bin"

enum { BAR_MEMORY = 0, BAR_REGISTERS = 2, ROM_LIMIT = 256 << 10 };

static void region_changed(void *opaque, unsigned index)
{
    struct vga_pci *p = opaque;
    const struct pci_region *region = &p->pci.regions[index];
    if (index == BAR_MEMORY)
        vga_set_lfb(&p->vga, region->mapped, gpa(region->base));
}

static int read_rom(struct pci_function *f, const char *name)
{
    FILE *file = fopen(name, "rb");
    if (!file)
        return -errno;
    uint8_t *image = malloc(ROM_LIMIT + 1);
    size_t size = image ? fread(image, 1, ROM_LIMIT + 1, file) : 0;
    int result = !image ? -ENOMEM : ferror(file) ? -EIO : 0;
    fclose(file);
    if (!result && size > ROM_LIMIT)
        result = -EFBIG;
    if (!result && (size < 512 || image[0] != 0x55 || image[1] != 0xaa))
        result = -ENOEXEC;
    if (!result)
        result = pci_region_rom(f, image, size);
    free(image);
    return result;
}

static int add_function(struct vga_pci *p, struct pci_bus *bus, unsigned device, unsigned function, const char *rom,
                        char *err, size_t err_len)
{
    struct bus_range registers = {.name = "vga-registers",
                                  .size = VGA_MMIO_SIZE,
                                  .max_access = 2,
                                  .read = vga_mmio_read,
                                  .write = vga_mmio_write,
                                  .opaque = &p->vga};
    pci_function_init(&p->pci, "vga", 0x1234, 0x1111, 0x030000, 2);
    pci_set_subsystem(&p->pci, 0x1af4, 0x1100);
    p->pci.opaque = p;
    p->pci.region_changed = region_changed;
    p->pci.write_mask[PCI_COMMAND] |= PCI_COMMAND_IO;
    pci_region_host(&p->pci, BAR_MEMORY, PCI_REGION_PREFETCH, p->vga.vram, VGA_MEMORY_SIZE);
    pci_region_handlers(&p->pci, BAR_REGISTERS, PCI_REGION_MEMORY, &registers);
    if (!rom)
        rom = DEFAULT_ROM;
    int result = *rom ? read_rom(&p->pci, rom) : 0;
    if (result) {
        snprintf(err, err_len, "%s: %s", rom, result == -ENOEXEC ? "not an expansion ROM" : strerror(-result));
        return result;
    }
    result = pci_add(bus, &p->pci, device, function);
    if (result)
        snprintf(err, err_len, "vga: PCI slot %u.%u: %s", device, function, strerror(-result));
    return result;
}

int vga_pci_init(struct vga_pci *p, struct pci_bus *bus, unsigned device, unsigned function, struct bus *ports,
                 struct bus *memory_bus, struct memory *memory, struct clock *clock, const char *rom, char *err,
                 size_t err_len)
{
    int result = vga_init(&p->vga, ports, memory_bus, memory, clock);
    if (result) {
        snprintf(err, err_len, "vga: %s", strerror(-result));
        return result;
    }
    result = add_function(p, bus, device, function, rom, err, err_len);
    if (result)
        vga_destroy(&p->vga);
    return result;
}

bool vga_pci_set_text_mode(struct vga_pci *p)
{
    const struct pci_region *rom = &p->pci.regions[PCI_REGION_ROM];
    return vga_set_text_mode(&p->vga, rom->host, rom->host ? rom->size : 0);
}

void vga_pci_destroy(struct vga_pci *p)
{
    pci_remove(&p->pci);
    vga_destroy(&p->vga);
}
