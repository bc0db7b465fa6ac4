/* SPDX-License-Identifier: MIT */
#include "devices/firmware.h"

#include "devices/board.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_IMAGE "/usr/share/seabios/bios-256k.bin"
enum { IMAGE_MIN = 0x10000, IMAGE_MAX = 0x1000000 };
enum { SHADOW_SIZE = 0x40000 }; /* 0xc0000-0xfffff: a 256 KiB SeaBIOS starts in all of it */

/* ---- the image ---- */

static int read_image(struct firmware *f, const char *path, char *err, size_t err_len)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), r = 0;
    if (fd < 0 || fstat(fd, &st) < 0) {
        r = -errno;
        snprintf(err, err_len, "firmware %s: %s%s", path, strerror(errno),
                 strcmp(path, DEFAULT_IMAGE) ? "" : " (Debian's package seabios has it; --firmware names another)");
    } else if (!S_ISREG(st.st_mode) || st.st_size < IMAGE_MIN || st.st_size > IMAGE_MAX || st.st_size % IMAGE_MIN) {
        r = -EINVAL;
        snprintf(err, err_len, "firmware %s: not a file of 64 KiB to 16 MiB in steps of 64 KiB", path);
    } else {
        f->size = (uint64_t)st.st_size;
        f->image = aligned_alloc(PAGE_SIZE, f->size);
        f->low = aligned_alloc(PAGE_SIZE, FIRMWARE_LOW_SIZE);
        if (!f->image || !f->low) {
            r = -ENOMEM;
            snprintf(err, err_len, "firmware %s: out of memory", path);
        } else if (read(fd, f->image, f->size) != (ssize_t)f->size) {
            r = -EIO;
            snprintf(err, err_len, "firmware %s: cannot be read", path);
        }
    }
    if (fd >= 0)
        close(fd);
    if (r)
        return r;
    uint64_t shown = f->size < FIRMWARE_LOW_SIZE ? f->size : FIRMWARE_LOW_SIZE;
    memset(f->low, 0xff, FIRMWARE_LOW_SIZE);
    memcpy(f->low + FIRMWARE_LOW_SIZE - shown, f->image + f->size - shown, shown);
    return 0;
}

int firmware_init(struct firmware *f, const struct machine_config *config, const struct memory *memory, bool floppy,
                  const struct cpu_model *model, char *err, size_t err_len)
{
    memset(f, 0, sizeof *f);
    int r = read_image(f, config->firmware ? config->firmware : DEFAULT_IMAGE, err, err_len);
    if (r)
        return r;
    pir_build(f->pir);
    f->apic = model->apic;
    struct acpi_config acpi = {
        .cpus = config->cpus, .low_ram = memory->low_size, .floppy = floppy, .apic = model->apic};
    uint32_t leaf1[4];
    cpu_model_leaf(model, 1, 0, 0, 0, 0, leaf1);
    struct mp_config mp = {.cpus = config->cpus, .signature = leaf1[0], .features = leaf1[3]};
    mp_table_build(&f->mp, &mp);
    struct smbios_config smbios = {.cpus = config->cpus, .ram_size = memory->ram_size, .low_ram = memory->low_size};
    r = acpi_build(&f->acpi, &acpi);
    if (!r)
        r = smbios_build(&f->smbios, &smbios);
    if (r)
        snprintf(err, err_len, "firmware tables: out of memory");
    return r;
}

void firmware_destroy(struct firmware *f)
{
    acpi_free(&f->acpi);
    smbios_free(&f->smbios);
    free(f->image);
    free(f->low);
    f->image = f->low = NULL;
}

int firmware_map(const struct firmware *f, struct memory *memory)
{
    return memory_map(memory, gpa(MEMORY_4G - f->size), f->size, f->image, NULL);
}

/* ---- CMOS ---- */

/* SeaBIOS's boot priorities: 1 floppy, 2 disk, 3 CD, 4 network, most important in the low nibble. */
static unsigned boot_order(char boot)
{
    switch (boot) {
    case 'a':
        return 0x321;
    case 'd':
        return 0x123;
    case 'n':
        return 0x124;
    default:
        return 0x312;
    }
}

/* How BIOS disk services translate geometry: 0 not at all, 1 LBA assisted; two bits a drive. */
static uint8_t disk_translation(const struct board *b)
{
    uint8_t value = 0;
    for (unsigned i = 0; i < BOARD_IDE_PLACES; i++)
        if (b->ide_kind[i] == ATA_DISK && block_sectors(b->ide_media[i]) > 1024 * 16 * 63)
            value |= (uint8_t)(1u << i * 2);
    return value;
}

static uint16_t at_most(uint64_t value, uint16_t limit)
{
    return (uint16_t)(value < limit ? value : limit);
}

static void set16(struct mc146818 *rtc, unsigned index, uint16_t value)
{
    mc146818_set(rtc, index, (uint8_t)value);
    mc146818_set(rtc, index + 1, (uint8_t)(value >> 8));
}

void firmware_fill_cmos(struct board *b, const struct machine_config *config)
{
    struct mc146818 *rtc = &b->rtc;
    uint64_t low = b->memory->low_size, high = b->memory->ram_size - low;
    uint16_t extended = at_most((low - 0x100000) >> 10, 0xffff);
    unsigned floppies = (unsigned)b->floppy_present[0] + b->floppy_present[1], order = boot_order(config->boot);
    mc146818_set(rtc, 0x10, (uint8_t)(i82077_drive_type(&b->fdc, 0) << 4 | i82077_drive_type(&b->fdc, 1)));
    mc146818_set(rtc, 0x12,
                 (uint8_t)((b->ide_kind[0] == ATA_DISK ? 0xf0 : 0) | (b->ide_kind[1] == ATA_DISK ? 0x0f : 0)));
    mc146818_set(rtc, 0x14, (uint8_t)(0x06 | (floppies ? (floppies - 1) << 6 | 1 : 0))); /* x87, pointing device */
    set16(rtc, 0x15, 640);
    set16(rtc, 0x17, extended);
    set16(rtc, 0x30, extended);
    set16(rtc, 0x34, low > 0x1000000 ? at_most((low - 0x1000000) >> 16, 0xffff) : 0);
    mc146818_set(rtc, 0x19, b->ide_kind[0] == ATA_DISK ? 47 : 0);
    mc146818_set(rtc, 0x1a, b->ide_kind[1] == ATA_DISK ? 47 : 0);
    /* Bit 0: no check for a boot signature on floppies, which old ones lack; only when nothing else could boot. */
    bool only_floppy = floppies && !b->ide_kind[0] && !b->ide_kind[1] && !b->ide_kind[2] && !b->ide_kind[3];
    mc146818_set(rtc, 0x38, (uint8_t)((order >> 4 & 0xf0) | (only_floppy || config->boot == 'a')));
    mc146818_set(rtc, 0x39, disk_translation(b));
    mc146818_set(rtc, 0x3a, disk_translation(b));
    mc146818_set(rtc, 0x3d, (uint8_t)order);
    set16(rtc, 0x5b, (uint16_t)(high >> 16));
    mc146818_set(rtc, 0x5d, (uint8_t)(high >> 32));
    mc146818_set(rtc, 0x5f, (uint8_t)(config->cpus - 1));
    unsigned sum = 0;
    for (unsigned i = 0x10; i <= 0x2d; i++)
        sum += mc146818_get(rtc, i);
    mc146818_set(rtc, 0x2e, (uint8_t)(sum >> 8)); /* big-endian */
    mc146818_set(rtc, 0x2f, (uint8_t)sum);
}

/* ---- fw_cfg ---- */

struct e820_file_entry {
    uint64_t base, size;
    uint32_t type;
} __attribute__((packed));

int firmware_fill_fwcfg(const struct firmware *f, struct board *b, const struct machine_config *config)
{
    struct fwcfg *cfg = &b->fwcfg;
    uint64_t low = b->memory->low_size, high = b->memory->ram_size - low;
    struct e820_file_entry map[2] = {{0, htole64(low), htole32(LOADER_E820_RAM)},
                                     {htole64(MEMORY_4G), htole64(high), htole32(LOADER_E820_RAM)}};
    static const uint8_t uuid[16];
    int r = fwcfg_set(cfg, FWCFG_UUID, uuid, sizeof uuid);
    r |= fwcfg_set_number(cfg, FWCFG_RAM_SIZE, b->memory->ram_size, 8);
    r |= fwcfg_set_number(cfg, FWCFG_NOGRAPHIC, 0, 2);
    r |= fwcfg_set_number(cfg, FWCFG_CPU_COUNT, config->cpus, 2);
    r |= fwcfg_set_number(cfg, FWCFG_NUMA, 0, 8);
    r |= fwcfg_set_number(cfg, FWCFG_BOOT_MENU, 0, 2);
    /* More than 255: then SeaBIOS leaves out its own $PIR and MP tables, which describe another board (another slot for
     * the router, PCI interrupts at ISA pins). Ours come with the ACPI tables. */
    r |= fwcfg_set_number(cfg, FWCFG_MAX_CPUS, 256, 2);
    r |= fwcfg_set_number(cfg, FWCFG_ARCH_LOCAL + 0, 0, 2);
    r |= fwcfg_set_number(cfg, FWCFG_ARCH_LOCAL + 1, 0, 2);
    r |= fwcfg_set_number(cfg, FWCFG_ARCH_LOCAL + 2, 1, 1);
    r |= fwcfg_set_number(cfg, FWCFG_ARCH_LOCAL + 3, 0, 4);
    r |= fwcfg_add_file(cfg, "etc/e820", map, sizeof map[0] * (high ? 2 : 1));
    r |= smbios_add_to_fwcfg(&f->smbios, cfg);
    r |= acpi_add_to_fwcfg(&f->acpi, cfg, f->pir, sizeof f->pir, f->apic ? &f->mp : NULL);
    return r ? -ENOMEM : 0;
}

/* ---- after a reset ---- */

/* IRQs of PIRQ A-D, the same that SeaBIOS writes into PIRQRC. */
static const uint8_t pirq_irqs[PCI_PIRQ_COUNT] = {10, 10, 11, 11};

static void preset_interrupt_lines(struct board *b)
{
    for (unsigned slot = 0; slot < PCI_DEVICE_COUNT * PCI_FUNCTION_COUNT; slot++) {
        struct pci_function *f = pci_find(b->pci, slot / PCI_FUNCTION_COUNT, slot % PCI_FUNCTION_COUNT);
        if (f && f->config[PCI_INTERRUPT_PIN])
            f->config[PCI_INTERRUPT_LINE] = pirq_irqs[pci_pirq_of(f->device, f->config[PCI_INTERRUPT_PIN])];
    }
    b->piix4.pm.config[PCI_INTERRUPT_LINE] = PIIX4_SCI_IRQ; /* not a PIRQ */
}

/* DRAM row boundaries in units of 8 MiB, rows of at most 256 MiB; the last row says all, as far as eight bits can. */
static void set_dram_rows(struct board *b)
{
    uint64_t total = b->memory->ram_size >> 23;
    for (unsigned row = 0; row < 8; row++) {
        uint64_t boundary = row == 7 ? total : 32ull * (row + 1);
        if (boundary > total)
            boundary = total;
        b->bridge.host.config[I440BX_DRB0 + row] = (uint8_t)(boundary < 0xff ? boundary : 0xff);
    }
}

void firmware_prepare(const struct firmware *f, struct board *b)
{
    for (unsigned i = 0; i < 7; i++)
        pci_config_write(b->pci, 0, 0, 0, I440BX_PAM0 + i, i ? 0x33 : 0x30, 1);
    static const uint8_t zeros[SHADOW_SIZE];
    uint64_t shadowed = f->size < SHADOW_SIZE ? f->size : SHADOW_SIZE;
    memory_write(b->memory, gpa(0x100000 - SHADOW_SIZE), zeros, SHADOW_SIZE - shadowed);
    memory_write(b->memory, gpa(0x100000 - shadowed), f->image + f->size - shadowed, shadowed);
    set_dram_rows(b);
    preset_interrupt_lines(b);
    if (f->apic) { /* the id that the tables give it */
        bus_write(b->memory_bus, IOAPIC_BASE + IOAPIC_INDEX, IOAPIC_ID, 4);
        bus_write(b->memory_bus, IOAPIC_BASE + IOAPIC_WINDOW, b->config->cpus << 24, 4);
    }
}

/* ---- direct kernel boot ---- */

enum { PLAY_PIR = 0xf0000, PLAY_SMBIOS_ANCHOR = 0xf0400, PLAY_RSDP = 0xf0440, PLAY_MP = 0xf0800, PLAY_EBDA = 0x9fc00 };
enum { PLAY_IO_BASE = 0xc000, PLAY_TABLES_SIZE = 0x20000 };
#define PLAY_APERTURE_BASE 0xe0000000u
#define PLAY_MEMORY_BASE 0xf0000000u

/* PCI: addresses for all regions but ROMs, decoders and bus mastering on. */
static void assign_pci(struct board *b)
{
    uint32_t io = PLAY_IO_BASE, memory = PLAY_MEMORY_BASE;
    for (unsigned slot = 0; slot < PCI_DEVICE_COUNT * PCI_FUNCTION_COUNT; slot++) {
        unsigned device = slot / PCI_FUNCTION_COUNT, function = slot % PCI_FUNCTION_COUNT;
        struct pci_function *f = pci_find(b->pci, device, function);
        if (!f)
            continue;
        for (unsigned i = 0; i < PCI_BAR_COUNT; i++) {
            const struct pci_region *region = &f->regions[i];
            if (region->kind == PCI_REGION_NONE)
                continue;
            uint32_t *next = region->kind == PCI_REGION_IO ? &io : &memory, size = (uint32_t)region->size;
            *next = (*next + size - 1) & ~(size - 1);
            pci_config_write(b->pci, 0, device, function, PCI_BASE_ADDRESS + i * 4, *next, 4);
            *next += size;
        }
        uint32_t command = pci_config_read(b->pci, 0, device, function, PCI_COMMAND, 2);
        pci_config_write(b->pci, 0, device, function, PCI_COMMAND,
                         command | PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
    }
    pci_config_write(b->pci, 0, 0, 0, PCI_BASE_ADDRESS, PLAY_APERTURE_BASE, 4);
    pci_config_write(b->pci, 0, 1, 0, 0x19, 0x0101, 2); /* the AGP bridge's bus */
}

static void route_interrupts(struct board *b)
{
    unsigned level = 0;
    for (unsigned i = 0; i < PCI_PIRQ_COUNT; i++) {
        pci_config_write(b->pci, 0, PIIX4_DEVICE, 0, PIIX4_PIRQRC + i, pirq_irqs[i], 1);
        level |= 1u << pirq_irqs[i];
    }
    bus_write(b->ports, 0x4d0, level & 0xff, 1);
    bus_write(b->ports, 0x4d1, level >> 8, 1);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 3, 0x40, PIIX4_PM_PORT | 1, 4);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 3, 0x80, 1, 1);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 3, 0x90, PIIX4_SMBUS_PORT | 1, 4);
    pci_config_write(b->pci, 0, PIIX4_DEVICE, 3, 0xd2, 0x09, 1);
}

/* The MP table, and the boot processor's APIC on, still in virtual wire mode. */
static void play_apic(const struct firmware *f, struct board *b)
{
    struct mp_table mp = f->mp;
    mp_table_place(&mp, PLAY_MP);
    memory_write(b->memory, gpa(PLAY_MP), mp.data, mp.size);
    lapic_write(&b->lapic[0], LAPIC_SVR, LAPIC_SVR_ENABLE | 0xff, 4);
}

static void e820_add(struct loader_board *out, uint64_t base, uint64_t end, uint32_t type)
{
    if (base < end && out->e820_count < LOADER_E820_MAX)
        out->e820[out->e820_count++] = (struct loader_e820){base, end - base, type};
}

/* Where a BIOS would start: a guest that jumps there wants a reboot.
 * mov dx, 0cf9h; mov al, 6; out dx, al; hlt; jmp $-1 */
static const uint8_t reset_code[] = {0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd};

void firmware_play(const struct firmware *f, struct board *b, struct loader_board *out)
{
    assign_pci(b);
    route_interrupts(b);
    memset(out, 0, sizeof *out);
    static const uint8_t zeros[SHADOW_SIZE];
    memory_write(b->memory, gpa(0x100000 - SHADOW_SIZE), zeros, sizeof zeros);
    memory_write(b->memory, gpa(0xffff0), reset_code, sizeof reset_code);
    memory_write(b->memory, gpa(PLAY_PIR), f->pir, sizeof f->pir);

    if (f->apic)
        play_apic(f, b);

    uint64_t low = b->memory->low_size, tables = low;
    if (low >= 0x100000 + 2 * PLAY_TABLES_SIZE && f->acpi.size + f->smbios.size < PLAY_TABLES_SIZE) {
        tables = (low - PLAY_TABLES_SIZE) & ~(uint64_t)PAGE_MASK;
        acpi_write(&f->acpi, b->memory, gpa(tables), gpa(PLAY_RSDP));
        smbios_write(&f->smbios, b->memory, gpa(tables + f->acpi.size), gpa(PLAY_SMBIOS_ANCHOR));
        out->rsdp = PLAY_RSDP;
    }
    e820_add(out, 0, PLAY_EBDA, LOADER_E820_RAM);
    e820_add(out, PLAY_EBDA, 0xa0000, LOADER_E820_RESERVED);
    e820_add(out, 0xf0000, 0x100000, LOADER_E820_RESERVED);
    e820_add(out, 0x100000, tables, LOADER_E820_RAM);
    e820_add(out, tables, low, LOADER_E820_ACPI);
    if (f->apic) {
        e820_add(out, IOAPIC_BASE, IOAPIC_BASE + IOAPIC_SIZE, LOADER_E820_RESERVED);
        e820_add(out, LAPIC_DEFAULT_BASE, LAPIC_DEFAULT_BASE + LAPIC_PAGE_SIZE, LOADER_E820_RESERVED);
    }
    e820_add(out, MEMORY_4G - f->size, MEMORY_4G, LOADER_E820_RESERVED);
    e820_add(out, MEMORY_4G, MEMORY_4G + b->memory->ram_size - low, LOADER_E820_RAM);
    out->vga_text_mode = vga_pci_set_text_mode(&b->vga);
    static const uint16_t bda[] = {0x3f8, 0x2f8};
    memory_write(b->memory, gpa(0x400), bda, sizeof bda); /* serial ports, for early consoles */
    uint16_t ebda = PLAY_EBDA >> 4, base_kib = PLAY_EBDA >> 10;
    memory_write(b->memory, gpa(0x40e), &ebda, sizeof ebda);
    memory_write(b->memory, gpa(0x413), &base_kib, sizeof base_kib);
}
