/* SPDX-License-Identifier: MIT */
#include "devices/acpi.h"

#include "devices/ioapic.h"
#include "devices/lapic.h"
#include "devices/piix4.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_SIZE = 36, FACS_SIZE = 64, FADT_SIZE = 244, HEADER_LENGTH = 4, HEADER_CHECKSUM = 9 };
enum { RSDP_CHECKSUM = 8, RSDP_RSDT = 16 };

/* FADT fields, specification 5.2.9 */
enum {
    FADT_FACS = 36,
    FADT_DSDT = 40,
    FADT_SCI = 46,
    FADT_SMI_CMD = 48,
    FADT_ACPI_ENABLE = 52,
    FADT_ACPI_DISABLE = 53,
    FADT_PM1A_EVT = 56,
    FADT_PM1A_CNT = 64,
    FADT_PM_TMR = 76,
    FADT_GPE0 = 80,
    FADT_PM1_EVT_LEN = 88,
    FADT_PM1_CNT_LEN = 89,
    FADT_PM_TMR_LEN = 91,
    FADT_GPE0_LEN = 92,
    FADT_C2_LATENCY = 96,
    FADT_C3_LATENCY = 98,
    FADT_CENTURY = 108,
    FADT_BOOT_ARCH = 109,
    FADT_FLAGS = 112,
    FADT_RESET_REG = 116,
    FADT_RESET_VALUE = 128,
    FADT_X_DSDT = 140,
    FADT_X_PM1A_EVT = 148,
    FADT_X_PM1A_CNT = 172,
    FADT_X_PM_TMR = 208,
    FADT_X_GPE0 = 220
};
enum { BOOT_ARCH_LEGACY_DEVICES = 1, BOOT_ARCH_8042 = 2 };
enum { FLAG_WBINVD = 1 << 0, FLAG_PROC_C1 = 1 << 2, FLAG_NO_SLEEP_BUTTON = 1 << 5, FLAG_RESET_REG = 1 << 10 };

static void put16(uint8_t *at, uint16_t v)
{
    v = htole16(v);
    memcpy(at, &v, sizeof v);
}

static void put32(uint8_t *at, uint32_t v)
{
    v = htole32(v);
    memcpy(at, &v, sizeof v);
}

static uint8_t sum_of(const uint8_t *at, uint32_t size)
{
    uint8_t sum = 0;
    while (size--)
        sum = (uint8_t)(sum + *at++);
    return sum;
}

/* Generic address structure in I/O space. */
static void put_io(uint8_t *at, unsigned bits, unsigned access, uint16_t port)
{
    at[0] = 1;
    at[1] = (uint8_t)bits;
    at[3] = (uint8_t)access;
    put32(at + 4, port);
}

static void add_pointer(struct acpi_tables *t, uint32_t offset, unsigned size)
{
    t->pointers[t->pointer_count].offset = offset;
    t->pointers[t->pointer_count++].size = (uint8_t)size;
}

static uint8_t *add_header(struct acpi_tables *t, uint32_t offset, const char *signature, unsigned revision,
                           uint32_t size)
{
    uint8_t *at = t->data + offset;
    memcpy(at, signature, 4);
    put32(at + HEADER_LENGTH, size);
    at[8] = (uint8_t)revision;
    memcpy(at + 10, "RNGFLDRF440BX ", 14);
    put32(at + 24, 1);
    memcpy(at + 28, "RNGF", 4);
    put32(at + 32, 1);
    t->sums[t->sum_count].offset = offset;
    t->sums[t->sum_count++].size = size;
    return at;
}

static void fill_fadt(uint8_t *at, uint32_t facs, uint32_t dsdt)
{
    put32(at + FADT_FACS, facs);
    put32(at + FADT_DSDT, dsdt);
    put16(at + FADT_SCI, PIIX4_SCI_IRQ);
    put32(at + FADT_SMI_CMD, PIIX4_SMI_COMMAND_PORT);
    at[FADT_ACPI_ENABLE] = PIIX4_ACPI_ENABLE;
    at[FADT_ACPI_DISABLE] = PIIX4_ACPI_DISABLE;
    put32(at + FADT_PM1A_EVT, PIIX4_PM_PORT);
    put32(at + FADT_PM1A_CNT, PIIX4_PM_PORT + 4);
    put32(at + FADT_PM_TMR, PIIX4_PM_PORT + 8);
    put32(at + FADT_GPE0, PIIX4_PM_PORT + 0x0c);
    at[FADT_PM1_EVT_LEN] = 4;
    at[FADT_PM1_CNT_LEN] = 2;
    at[FADT_PM_TMR_LEN] = 4;
    at[FADT_GPE0_LEN] = 4;
    put16(at + FADT_C2_LATENCY, 0xfff); /* over 100 and 1000: not supported */
    put16(at + FADT_C3_LATENCY, 0xfff);
    at[FADT_CENTURY] = 0x32;
    put16(at + FADT_BOOT_ARCH, BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_8042);
    put32(at + FADT_FLAGS, FLAG_WBINVD | FLAG_PROC_C1 | FLAG_NO_SLEEP_BUTTON | FLAG_RESET_REG);
    put_io(at + FADT_RESET_REG, 8, 1, PIIX4_RESET_PORT);
    at[FADT_RESET_VALUE] = 0x06;
    put32(at + FADT_X_DSDT, dsdt);
    put_io(at + FADT_X_PM1A_EVT, 32, 2, PIIX4_PM_PORT);
    put_io(at + FADT_X_PM1A_CNT, 16, 2, PIIX4_PM_PORT + 4);
    put_io(at + FADT_X_PM_TMR, 32, 3, PIIX4_PM_PORT + 8);
    put_io(at + FADT_X_GPE0, 32, 1, PIIX4_PM_PORT + 0x0c);
}

/* ---- MADT, specification 5.2.12 ---- */

enum { MADT_LOCAL = 0, MADT_IO = 1, MADT_OVERRIDE = 2, MADT_LOCAL_NMI = 4 };
enum { MADT_HEADER_SIZE = 44, MADT_PCAT_COMPAT = 1, MADT_ENABLED = 1, MADT_LOW_LEVEL = 0xf, MADT_ALL_CPUS = 0xff };
enum { MADT_LOCAL_SIZE = 8, MADT_IO_SIZE = 12, MADT_OVERRIDE_SIZE = 10, MADT_LOCAL_NMI_SIZE = 6 };

static uint32_t madt_size(const struct acpi_config *config)
{
    return MADT_HEADER_SIZE + config->cpus * MADT_LOCAL_SIZE + MADT_IO_SIZE + 2 * MADT_OVERRIDE_SIZE +
           MADT_LOCAL_NMI_SIZE;
}

static uint8_t *put_override(uint8_t *at, unsigned irq, uint32_t pin, unsigned flags)
{
    at[0] = MADT_OVERRIDE;
    at[1] = MADT_OVERRIDE_SIZE;
    at[3] = (uint8_t)irq;
    put32(at + 4, pin);
    put16(at + 8, (uint16_t)flags);
    return at + MADT_OVERRIDE_SIZE;
}

static void fill_madt(uint8_t *at, const struct acpi_config *config)
{
    put32(at + HEADER_SIZE, LAPIC_DEFAULT_BASE);
    put32(at + HEADER_SIZE + 4, MADT_PCAT_COMPAT);
    at += MADT_HEADER_SIZE;
    for (unsigned i = 0; i < config->cpus; i++, at += MADT_LOCAL_SIZE) {
        at[0] = MADT_LOCAL;
        at[1] = MADT_LOCAL_SIZE;
        at[2] = at[3] = (uint8_t)i;
        put32(at + 4, MADT_ENABLED);
    }
    at[0] = MADT_IO;
    at[1] = MADT_IO_SIZE;
    at[2] = (uint8_t)config->cpus;
    put32(at + 4, IOAPIC_BASE);
    at += MADT_IO_SIZE;
    at = put_override(at, 0, 2, 0);
    at = put_override(at, PIIX4_SCI_IRQ, PIIX4_SCI_IRQ, MADT_LOW_LEVEL);
    at[0] = MADT_LOCAL_NMI;
    at[1] = MADT_LOCAL_NMI_SIZE;
    at[2] = MADT_ALL_CPUS;
    at[5] = 1; /* LINT1 */
}

int acpi_build(struct acpi_tables *t, const struct acpi_config *config)
{
    memset(t, 0, sizeof *t);
    uint8_t *code;
    size_t code_size;
    if (acpi_build_dsdt(config, &code, &code_size))
        return -ENOMEM;
    uint32_t dsdt = FACS_SIZE, dsdt_size = HEADER_SIZE + (uint32_t)code_size;
    uint32_t fadt = (dsdt + dsdt_size + 15) & ~15u, madt = fadt + 256;
    uint32_t rsdt = madt + (config->apic ? (madt_size(config) + 15) & ~15u : 0);
    uint32_t rsdt_size = HEADER_SIZE + (config->apic ? 8 : 4);
    t->size = (rsdt + rsdt_size + 63) & ~63u;
    t->data = calloc(1, t->size);
    if (!t->data) {
        free(code);
        return -ENOMEM;
    }
    memcpy(t->data, "FACS", 4);
    put32(t->data + HEADER_LENGTH, FACS_SIZE);
    memcpy(add_header(t, dsdt, "DSDT", 1, dsdt_size) + HEADER_SIZE, code, code_size);
    free(code);
    fill_fadt(add_header(t, fadt, "FACP", 3, FADT_SIZE), 0, dsdt);
    add_pointer(t, fadt + FADT_FACS, 4);
    add_pointer(t, fadt + FADT_DSDT, 4);
    add_pointer(t, fadt + FADT_X_DSDT, 8);
    uint8_t *root = add_header(t, rsdt, "RSDT", 1, rsdt_size);
    put32(root + HEADER_SIZE, fadt);
    add_pointer(t, rsdt + HEADER_SIZE, 4);
    if (config->apic) {
        fill_madt(add_header(t, madt, "APIC", 1, madt_size(config)), config);
        put32(root + HEADER_SIZE + 4, madt);
        add_pointer(t, rsdt + HEADER_SIZE + 4, 4);
    }

    memcpy(t->rsdp, "RSD PTR \0RNGFLD\0", 16);
    put32(t->rsdp + RSDP_RSDT, rsdt);
    return 0;
}

void acpi_free(struct acpi_tables *t)
{
    free(t->data);
    memset(t, 0, sizeof *t);
}

/* ---- SeaBIOS's table loader: 128-byte commands ---- */

#define TABLES_FILE "etc/acpi/tables"
#define RSDP_FILE "etc/acpi/rsdp"
#define PIR_FILE "etc/pir"
#define MP_FILE "etc/mp"

enum { COMMAND_ALLOCATE = 1, COMMAND_ADD_POINTER = 2, COMMAND_ADD_CHECKSUM = 3 };
enum { ZONE_HIGH = 1, ZONE_BIOS_SEGMENT = 2 };
enum { COMMAND_MAX = 32 };

struct loader_command {
    uint32_t command;
    union {
        struct {
            char file[FWCFG_NAME_SIZE];
            uint32_t align;
            uint8_t zone;
        } __attribute__((packed)) allocate;
        struct {
            char file[FWCFG_NAME_SIZE], target[FWCFG_NAME_SIZE];
            uint32_t offset;
            uint8_t size;
        } __attribute__((packed)) pointer;
        struct {
            char file[FWCFG_NAME_SIZE];
            uint32_t result, start, length;
        } __attribute__((packed)) checksum;
        uint8_t padding[124];
    };
} __attribute__((packed));
_Static_assert(sizeof(struct loader_command) == 128, "table loader commands have 128 bytes");

struct script {
    struct loader_command commands[COMMAND_MAX];
    unsigned count;
};

static struct loader_command *script_add(struct script *s, uint32_t command)
{
    struct loader_command *c = &s->commands[s->count++ % COMMAND_MAX];
    c->command = htole32(command);
    return c;
}

static void script_allocate(struct script *s, const char *file, uint32_t align, uint8_t zone)
{
    struct loader_command *c = script_add(s, COMMAND_ALLOCATE);
    strcpy(c->allocate.file, file);
    c->allocate.align = htole32(align);
    c->allocate.zone = zone;
}

static void script_pointer(struct script *s, const char *file, const char *target, uint32_t offset, uint8_t size)
{
    struct loader_command *c = script_add(s, COMMAND_ADD_POINTER);
    strcpy(c->pointer.file, file);
    strcpy(c->pointer.target, target);
    c->pointer.offset = htole32(offset);
    c->pointer.size = size;
}

static void script_checksum(struct script *s, const char *file, uint32_t result, uint32_t start, uint32_t length)
{
    struct loader_command *c = script_add(s, COMMAND_ADD_CHECKSUM);
    strcpy(c->checksum.file, file);
    c->checksum.result = htole32(result);
    c->checksum.start = htole32(start);
    c->checksum.length = htole32(length);
}

int acpi_add_to_fwcfg(const struct acpi_tables *t, struct fwcfg *f, const void *pir, size_t pir_size,
                      const struct mp_table *mp)
{
    struct script s;
    memset(&s, 0, sizeof s);
    script_allocate(&s, RSDP_FILE, 16, ZONE_BIOS_SEGMENT);
    script_allocate(&s, TABLES_FILE, ACPI_TABLES_ALIGN, ZONE_HIGH);
    if (pir)
        script_allocate(&s, PIR_FILE, 16, ZONE_BIOS_SEGMENT);
    for (unsigned i = 0; i < t->pointer_count; i++)
        script_pointer(&s, TABLES_FILE, TABLES_FILE, t->pointers[i].offset, t->pointers[i].size);
    for (unsigned i = 0; i < t->sum_count; i++)
        script_checksum(&s, TABLES_FILE, t->sums[i].offset + HEADER_CHECKSUM, t->sums[i].offset, t->sums[i].size);
    script_pointer(&s, RSDP_FILE, TABLES_FILE, RSDP_RSDT, 4);
    script_checksum(&s, RSDP_FILE, RSDP_CHECKSUM, 0, ACPI_RSDP_SIZE);
    if (mp) {
        script_allocate(&s, MP_FILE, 16, ZONE_BIOS_SEGMENT);
        script_pointer(&s, MP_FILE, MP_FILE, MP_FLOATING_POINTER, 4);
        script_checksum(&s, MP_FILE, MP_FLOATING_CHECKSUM, 0, MP_FLOATING_SIZE);
    }
    int r = fwcfg_add_file(f, TABLES_FILE, t->data, t->size);
    if (!r)
        r = fwcfg_add_file(f, RSDP_FILE, t->rsdp, sizeof t->rsdp);
    if (!r && mp)
        r = fwcfg_add_file(f, MP_FILE, mp->data, mp->size);
    if (!r && pir)
        r = fwcfg_add_file(f, PIR_FILE, pir, pir_size);
    if (!r)
        r = fwcfg_add_file(f, "etc/table-loader", s.commands, s.count * sizeof s.commands[0]);
    return r;
}

/* ---- direct kernel boot ---- */

static void relocate(uint8_t *at, unsigned size, uint64_t base)
{
    uint64_t v = 0;
    memcpy(&v, at, size);
    v = htole64(le64toh(v) + base);
    memcpy(at, &v, size);
}

void acpi_write(const struct acpi_tables *t, struct memory *memory, gpa_t base, gpa_t rsdp)
{
    uint8_t *copy = malloc(t->size);
    if (!copy)
        return;
    memcpy(copy, t->data, t->size);
    for (unsigned i = 0; i < t->pointer_count; i++)
        relocate(copy + t->pointers[i].offset, t->pointers[i].size, base.v);
    for (unsigned i = 0; i < t->sum_count; i++) {
        uint8_t *table = copy + t->sums[i].offset;
        table[HEADER_CHECKSUM] = 0;
        table[HEADER_CHECKSUM] = (uint8_t)-sum_of(table, t->sums[i].size);
    }
    memory_write(memory, base, copy, t->size);
    free(copy);

    uint8_t root[ACPI_RSDP_SIZE];
    memcpy(root, t->rsdp, sizeof root);
    relocate(root + RSDP_RSDT, 4, base.v);
    root[RSDP_CHECKSUM] = (uint8_t)-sum_of(root, sizeof root);
    memory_write(memory, rsdp, root, sizeof root);
}
