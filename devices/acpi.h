/* SPDX-License-Identifier: MIT */
/* ACPI tables of the board (ACPI Specification 6.4, chapter 5): RSDP, RSDT, FADT, FACS, MADT and the DSDT.
 *
 * With APICs: PIRQ A-D arrive at pins 16-19 of the I/O APIC, active low and level, as on 440BX boards with an 82093AA;
 * the SCI at pin 9, also low and level (PIIX4's IRQ9OUT#); the 8254 at pin 2. A system that says \_PIC(1) is told these
 * by _PRT, any other one the link devices of the PIIX4, which route to the 8259s. Without APICs there is no MADT.
 *
 * The tables are built once without addresses; pointers and checksums are a list, which either becomes a script for
 * SeaBIOS's table loader or is carried out here for direct kernel boot. */
#ifndef RINGFOLD_DEVICES_ACPI_H
#define RINGFOLD_DEVICES_ACPI_H

#include "devices/fwcfg.h"
#include "devices/mp_table.h"

enum { ACPI_MAX_POINTERS = 8, ACPI_MAX_TABLES = 8, ACPI_RSDP_SIZE = 20, ACPI_TABLES_ALIGN = 64 };

struct acpi_config {
    unsigned cpus;
    uint64_t low_ram; /* bytes of RAM below 4 GiB: the PCI memory window starts there */
    bool floppy;
    bool apic; /* local APICs and an I/O APIC, whose id is the number of cpus */
};

struct acpi_tables {
    uint8_t *data; /* FACS, DSDT, FADT, MADT, RSDT; owned */
    uint32_t size;
    uint8_t rsdp[ACPI_RSDP_SIZE];
    /* Little-endian fields of data to which the address of data is to be added. */
    struct {
        uint32_t offset;
        uint8_t size;
    } pointers[ACPI_MAX_POINTERS];
    unsigned pointer_count;
    /* Tables whose checksum (byte 9) is to be made once the addresses are in. */
    struct {
        uint32_t offset, size;
    } sums[ACPI_MAX_TABLES];
    unsigned sum_count;
};

/* 0 or -ENOMEM. */
int acpi_build(struct acpi_tables *t, const struct acpi_config *config);
void acpi_free(struct acpi_tables *t);
/* Offers them to SeaBIOS: etc/acpi/tables, etc/acpi/rsdp and the etc/table-loader script. The script also places the
 * files etc/pir ($PIR) and etc/mp (the MP table) below 1 MiB when pir and mp are not NULL. 0 or -errno. */
int acpi_add_to_fwcfg(const struct acpi_tables *t, struct fwcfg *f, const void *pir, size_t pir_size,
                      const struct mp_table *mp);
/* Writes them where a kernel that is booted directly finds them: the tables at base (a multiple of 64, t->size bytes of
 * RAM), the RSDP at rsdp (a multiple of 16 in 0xe0000-0xfffff). */
void acpi_write(const struct acpi_tables *t, struct memory *memory, gpa_t base, gpa_t rsdp);

/* The DSDT's contents behind its header (dsdt.c). *code is malloced. 0 or -ENOMEM. */
int acpi_build_dsdt(const struct acpi_config *config, uint8_t **code, size_t *size);

#endif
