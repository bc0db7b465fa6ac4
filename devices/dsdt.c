/* SPDX-License-Identifier: MIT */
/* The DSDT: what the board is made of, in ACPI's namespace.
 *
 *   \_S5                    soft off
 *   \_PIC                   the system says whether it uses the I/O APIC
 *   \_PR.CPUn               processors
 *   \_SB.PCI0               the root bridge: windows (_CRS) and interrupt routing (_PRT)
 *   \_SB.PCI0.ISA           PIIX4 function 0, with LNKA-LNKD on its registers 0x60-0x63 and the legacy devices below it
 *   \_SB.MBRD               ports of the board that nobody else may have */
#include "devices/acpi.h"

#include "devices/aml.h"
#include "devices/ioapic.h"
#include "devices/piix4.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum { REGION_IO = 1, REGION_PCI_CONFIG = 2 };
enum { STA_PRESENT = 0x0f, STA_LINK_ENABLED = 0x0b, STA_LINK_DISABLED = 0x09 };
enum { LINK_CHOICES = 1 << 5 | 1 << 10 | 1 << 11 };

static void eisa_device_open(struct aml *a, const char *name, const char *id)
{
    aml_device_open(a, name);
    aml_name(a, "_HID");
    aml_eisa_id(a, id);
}

/* ---- interrupt links ---- */

/* One PNP0C0F: reg names the field of its PIRQRC register. */
static void add_link(struct aml *a, unsigned n)
{
    char name[5] = {'L', 'N', 'K', (char)('A' + n)}, reg[5] = {'P', 'R', 'Q', (char)('A' + n)};
    eisa_device_open(a, name, "PNP0C0F");
    aml_name(a, "_UID");
    aml_integer(a, n + 1);

    aml_name(a, "_PRS");
    aml_resources_open(a);
    aml_irq_level_shared(a, LINK_CHOICES);
    aml_resources_close(a);

    /* If (reg & 0x80) { Return (disabled) } Return (enabled) */
    aml_method_open(a, "_STA", 0, false);
    aml_if_open(a);
    aml_byte(a, AML_AND);
    aml_path(a, reg);
    aml_integer(a, 0x80);
    aml_byte(a, AML_ZERO);
    aml_byte(a, AML_RETURN);
    aml_integer(a, STA_LINK_DISABLED);
    aml_close(a);
    aml_byte(a, AML_RETURN);
    aml_integer(a, STA_LINK_ENABLED);
    aml_close(a);

    /* reg = reg | 0x80 */
    aml_method_open(a, "_DIS", 0, false);
    aml_byte(a, AML_OR);
    aml_path(a, reg);
    aml_integer(a, 0x80);
    aml_path(a, reg);
    aml_close(a);

    /* Local0 = a template; IRQW, its mask, = (reg & 0x80) ? 0 : 1 << (reg & 15) */
    aml_method_open(a, "_CRS", 0, true);
    aml_byte(a, AML_STORE);
    aml_resources_open(a);
    aml_irq_level_shared(a, 0);
    aml_resources_close(a);
    aml_byte(a, AML_LOCAL0);
    aml_byte(a, AML_CREATE_WORD_FIELD);
    aml_byte(a, AML_LOCAL0);
    aml_integer(a, 1);
    aml_path(a, "IRQW");
    aml_byte(a, AML_SHIFT_LEFT);
    aml_integer(a, 1);
    aml_byte(a, AML_AND);
    aml_path(a, reg);
    aml_integer(a, 0x0f);
    aml_byte(a, AML_ZERO);
    aml_path(a, "IRQW");
    aml_if_open(a);
    aml_byte(a, AML_AND);
    aml_path(a, reg);
    aml_integer(a, 0x80);
    aml_byte(a, AML_ZERO);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_ZERO);
    aml_path(a, "IRQW");
    aml_close(a);
    aml_byte(a, AML_RETURN);
    aml_byte(a, AML_LOCAL0);
    aml_close(a);

    /* reg = number of the mask's lowest set bit */
    aml_method_open(a, "_SRS", 1, true);
    aml_byte(a, AML_CREATE_WORD_FIELD);
    aml_byte(a, AML_ARG0);
    aml_integer(a, 1);
    aml_path(a, "IRQW");
    aml_byte(a, AML_FIND_SET_RIGHT_BIT);
    aml_path(a, "IRQW");
    aml_byte(a, AML_LOCAL0);
    aml_if_open(a);
    aml_byte(a, AML_LOCAL0);
    aml_byte(a, AML_SUBTRACT);
    aml_byte(a, AML_LOCAL0);
    aml_integer(a, 1);
    aml_path(a, reg);
    aml_close(a);
    aml_close(a);

    aml_close(a);
}

/* A package of routes: to the links, or to pins of the I/O APIC. */
static void add_routes(struct aml *a, bool apic)
{
    aml_package_open(a, (PCI_DEVICE_COUNT - 1) * 4);
    for (unsigned device = 1; device < PCI_DEVICE_COUNT; device++)
        for (unsigned pin = 1; pin <= 4; pin++) {
            unsigned pirq = pci_pirq_of(device, pin);
            char link[] = "\\_SB.PCI0.ISA.LNKA";
            link[sizeof link - 2] = (char)('A' + pirq);
            aml_package_open(a, 4);
            aml_integer(a, device << 16 | 0xffff);
            aml_integer(a, pin - 1);
            if (apic)
                aml_integer(a, 0);
            else
                aml_path(a, link);
            aml_integer(a, apic ? IOAPIC_PIRQ_PIN + pirq : 0);
            aml_close(a);
        }
    aml_close(a);
}

static void add_routing(struct aml *a, bool apic)
{
    aml_name(a, apic ? "PRTP" : "_PRT");
    add_routes(a, false);
    if (!apic)
        return;
    aml_name(a, "PRTA");
    add_routes(a, true);
    aml_method_open(a, "_PRT", 0, false);
    aml_if_open(a);
    aml_path(a, "\\PICM");
    aml_byte(a, AML_RETURN);
    aml_path(a, "PRTA");
    aml_close(a);
    aml_byte(a, AML_RETURN);
    aml_path(a, "PRTP");
    aml_close(a);
}

/* \_PIC(1): the system uses the I/O APIC. */
static void add_interrupt_model(struct aml *a)
{
    aml_name(a, "\\PICM");
    aml_integer(a, 0);
    aml_method_open(a, "\\_PIC", 1, false);
    aml_byte(a, AML_STORE);
    aml_byte(a, AML_ARG0);
    aml_path(a, "\\PICM");
    aml_close(a);
}

/* ---- legacy devices ---- */

struct legacy_device {
    const char *name, *id;
    struct {
        uint16_t base;
        uint8_t length;
    } io[4];
    int irq, dma; /* -1: none */
    unsigned uid;
};

static const struct legacy_device legacy_devices[] = {
    {"PIC_", "PNP0000", {{0x20, 2}, {0xa0, 2}, {0x4d0, 2}}, 2, -1, 0},
    {"TIMR", "PNP0100", {{0x40, 4}}, 0, -1, 0},
    {"DMAC", "PNP0200", {{0x00, 16}, {0x81, 15}, {0xc0, 32}}, -1, 4, 0},
    {"SPKR", "PNP0800", {{0x61, 1}}, -1, -1, 0},
    {"RTC_", "PNP0B00", {{0x70, 2}}, 8, -1, 0},
    {"COPR", "PNP0C04", {{0xf0, 16}}, 13, -1, 0},
    {"KBD_", "PNP0303", {{0x60, 1}, {0x64, 1}}, 1, -1, 0},
    {"MOU_", "PNP0F13", {{0}}, 12, -1, 0},
    {"COM1", "PNP0501", {{0x3f8, 8}}, 4, -1, 1},
    {"COM2", "PNP0501", {{0x2f8, 8}}, 3, -1, 2},
    {"FDC0", "PNP0700", {{0x3f2, 4}, {0x3f7, 1}}, 6, 2, 0},
};

static void add_legacy_devices(struct aml *a, bool floppy)
{
    size_t count = sizeof legacy_devices / sizeof legacy_devices[0] - (floppy ? 0 : 1);
    for (size_t i = 0; i < count; i++) {
        const struct legacy_device *d = &legacy_devices[i];
        eisa_device_open(a, d->name, d->id);
        if (d->uid) {
            aml_name(a, "_UID");
            aml_integer(a, d->uid);
        }
        aml_name(a, "_STA");
        aml_integer(a, STA_PRESENT);
        aml_name(a, "_CRS");
        aml_resources_open(a);
        for (unsigned n = 0; n < 4 && d->io[n].length; n++)
            aml_io(a, d->io[n].base, d->io[n].length);
        if (d->irq >= 0)
            aml_irq(a, (unsigned)d->irq);
        if (d->dma >= 0)
            aml_dma(a, (unsigned)d->dma);
        aml_resources_close(a);
        aml_close(a);
    }
}

static void add_isa_bridge(struct aml *a, bool floppy)
{
    aml_device_open(a, "ISA_");
    aml_name(a, "_ADR");
    aml_integer(a, PIIX4_DEVICE << 16);
    aml_operation_region(a, "PIRQ", REGION_PCI_CONFIG, PIIX4_PIRQRC, 4);
    aml_field_open(a, "PIRQ");
    for (char n = 'A'; n <= 'D'; n++)
        aml_field_bits(a, (char[]){'P', 'R', 'Q', n, 0}, 8);
    aml_close(a);
    for (unsigned n = 0; n < PCI_PIRQ_COUNT; n++)
        add_link(a, n);
    add_legacy_devices(a, floppy);
    aml_close(a);
}

static void add_function(struct aml *a, const char *name, unsigned device, unsigned function)
{
    aml_device_open(a, name);
    aml_name(a, "_ADR");
    aml_integer(a, device << 16 | function);
    aml_close(a);
}

static void add_root_bridge(struct aml *a, const struct acpi_config *config)
{
    eisa_device_open(a, "PCI0", "PNP0A03");
    aml_name(a, "_UID");
    aml_integer(a, 0);
    aml_name(a, "_BBN");
    aml_integer(a, 0);
    aml_name(a, "_CRS");
    aml_resources_open(a);
    aml_word_bus_range(a, 0, 255);
    aml_io(a, 0xcf8, 8);
    aml_word_io_range(a, 0, 0xcf7);
    aml_word_io_range(a, 0xd00, 0xffff);
    aml_dword_memory_range(a, 0xa0000, 0xbffff, true);
    aml_dword_memory_range(a, 0xc0000, 0xdffff, true);
    aml_dword_memory_range(a, (uint32_t)((config->low_ram + 0xfffff) & ~0xfffffull), 0xfebfffff, false);
    aml_resources_close(a);
    add_routing(a, config->apic);
    add_isa_bridge(a, config->floppy);
    add_function(a, "IDE_", PIIX4_DEVICE, 1);
    add_function(a, "PM__", PIIX4_DEVICE, 3);
    add_function(a, "AGP_", 1, 0);
    aml_close(a);
}

static void add_board_ports(struct aml *a)
{
    eisa_device_open(a, "MBRD", "PNP0C02");
    aml_name(a, "_CRS");
    aml_resources_open(a);
    aml_io(a, 0x80, 1);
    aml_io(a, 0x92, 1);
    aml_io(a, 0xb2, 2);
    aml_io(a, 0x402, 1);
    aml_io(a, 0x510, 12);
    aml_io(a, PIIX4_PM_PORT, 64);
    aml_io(a, PIIX4_SMBUS_PORT, 16);
    aml_resources_close(a);
    aml_close(a);
}

int acpi_build_dsdt(const struct acpi_config *config, uint8_t **code, size_t *size)
{
    struct aml a = {0};
    aml_name(&a, "\\_S5_");
    aml_package_open(&a, 4);
    for (unsigned i = 0; i < 4; i++)
        aml_integer(&a, 0); /* SUS_TYP 0: soft off */
    aml_close(&a);

    if (config->apic)
        add_interrupt_model(&a);
    aml_scope_open(&a, "\\_PR_");
    for (unsigned i = 0; i < config->cpus && i < 255; i++) {
        char name[8];
        snprintf(name, sizeof name, "CP%02X", i);
        aml_processor(&a, name, i);
    }
    aml_close(&a);

    aml_scope_open(&a, "\\_SB_");
    add_root_bridge(&a, config);
    add_board_ports(&a);
    aml_close(&a);
    if (a.failed) {
        free(a.data);
        return -ENOMEM;
    }
    *code = a.data;
    *size = a.length;
    return 0;
}
