/* SPDX-License-Identifier: MIT */
#include "devices/i440bx.h"

#include <string.h>

enum { SEGMENT_READ = 1, SEGMENT_WRITE = 2, SEGMENT_UNKNOWN = 0xff };

/* Registers of the host bridge: reset value and writable bits (data sheet, chapter 3.3), byte by byte. */
static const struct {
    uint8_t reg, value, mask;
} host_registers[] = {
    {PCI_COMMAND, 0x06, 0x00},
    {PCI_COMMAND + 1, 0x00, 0x01},
    {PCI_STATUS, 0x10, 0x00},
    {PCI_STATUS + 1, 0x02, 0x00},
    {0x0c, 0x00, 0x00},
    {0x0d, 0x00, 0xf8},
    {0x10, 0x08, 0x00}, /* APBASE */
    {0x12, 0x00, 0x00},
    {0x13, 0x00, 0xf0},
    {PCI_CAPABILITY_POINTER, 0xa0, 0x00},
    {PCI_INTERRUPT_LINE, 0x00, 0x00},
    {0x50, 0x0c, 0xff}, /* NBXCFG */
    {0x51, 0xa0, 0xff},
    {0x52, 0x00, 0xff},
    {0x53, 0x00, 0xff},
    {0x57, 0x01, 0x3f}, /* DRAMC */
    {0x58, 0x03, 0xff}, /* DRAMT */
    {0x59, 0x00, 0x30}, /* PAM0 */
    {0x5a, 0x00, 0x33},
    {0x5b, 0x00, 0x33},
    {0x5c, 0x00, 0x33},
    {0x5d, 0x00, 0x33},
    {0x5e, 0x00, 0x33},
    {0x5f, 0x00, 0x33},
    {0x60, 0x01, 0xff}, /* DRB0-7 */
    {0x61, 0x01, 0xff},
    {0x62, 0x01, 0xff},
    {0x63, 0x01, 0xff},
    {0x64, 0x01, 0xff},
    {0x65, 0x01, 0xff},
    {0x66, 0x01, 0xff},
    {0x67, 0x01, 0xff},
    {0x68, 0x00, 0xc0}, /* FDHC */
    {0x69, 0x00, 0xff}, /* MBSC */
    {0x6a, 0x00, 0xff},
    {0x6b, 0x00, 0xff},
    {0x6c, 0x00, 0xff},
    {0x6d, 0x00, 0xff},
    {0x6e, 0x00, 0xff},
    {0x72, 0x02, 0x78}, /* SMRAM */
    {0x73, 0x38, 0x87}, /* ESMRAMC */
    {0x74, 0x00, 0xff}, /* RPS */
    {0x75, 0x00, 0xff},
    {0x76, 0x00, 0xff}, /* SDRAMC */
    {0x77, 0x00, 0x1f},
    {0x78, 0x00, 0xff}, /* PGPOL */
    {0x79, 0x00, 0xff},
    {0x7a, 0x00, 0xf7}, /* PMCR */
    {0x7b, 0x38, 0xff}, /* SCRR */
    {0x7c, 0x00, 0xff},
    {0x90, 0x80, 0xff}, /* ERRCMD */
    {0xa0, 0x02, 0x00}, /* AGP capability 1.0 */
    {0xa2, 0x10, 0x00},
    {0xa4, 0x03, 0x00}, /* AGPSTAT: 1x, 2x, SBA, 32 requests */
    {0xa5, 0x02, 0x00},
    {0xa7, 0x1f, 0x00},
    {0xa8, 0x00, 0x03}, /* AGPCMD */
    {0xa9, 0x00, 0x03},
    {0xb0, 0x00, 0xff}, /* AGPCTRL */
    {0xb1, 0x00, 0xff},
    {0xb4, 0x00, 0x3f}, /* APSIZE */
    {0xb9, 0x00, 0xf0}, /* ATTBASE */
    {0xba, 0x00, 0xff},
    {0xbb, 0x00, 0xff},
    {0xbc, 0x00, 0xff}, /* AMTT */
    {0xbd, 0x00, 0xf8}, /* LPTT */
    {0xf0, 0x00, 0xc0}, /* BUFFC */
    {0xf1, 0x00, 0xff},
};

static const struct {
    uint8_t reg, value, mask;
} agp_registers[] = {
    {PCI_COMMAND, 0x00, 0x07},
    {PCI_COMMAND + 1, 0x00, 0x01},
    {PCI_STATUS, 0x20, 0x00},
    {PCI_STATUS + 1, 0x02, 0x00},
    {0x0c, 0x00, 0x00},
    {0x0d, 0x00, 0xf8},
    {PCI_HEADER_TYPE, 0x01, 0x00},
    {0x19, 0x00, 0xff}, /* secondary, subordinate bus */
    {0x1a, 0x00, 0xff},
    {0x1b, 0x00, 0xf8},
    {0x1c, 0xf0, 0xf0}, /* I/O base and limit */
    {0x1d, 0x00, 0xf0},
    {0x1e, 0xa0, 0x00},
    {0x1f, 0x02, 0x00},
    {0x20, 0xf0, 0xf0}, /* memory base and limit */
    {0x21, 0xff, 0xff},
    {0x22, 0x00, 0xf0},
    {0x23, 0x00, 0xff},
    {0x24, 0xf0, 0xf0}, /* prefetchable memory base and limit */
    {0x25, 0xff, 0xff},
    {0x26, 0x00, 0xf0},
    {0x27, 0x00, 0xff},
    {PCI_INTERRUPT_LINE, 0x00, 0x00},
    {0x3e, 0x80, 0x0f}, /* bridge control */
};

/* ---- the memory map ---- */

static void map_segment(struct i440bx *bx, unsigned n, uint8_t state)
{
    if (bx->segment[n] == state)
        return;
    bx->segment[n] = state;
    uint64_t base = 0xc0000 + n * 0x4000ull, size = n == 12 ? 0x10000 : 0x4000;
    uint8_t *ram = memory_ram_hva(bx->memory, gpa(base));
    uint8_t *rom = base >= 0xe0000 ? bx->rom + (base - 0xe0000) : NULL;
    memory_map(bx->memory, gpa(base), size, state & SEGMENT_READ ? ram : rom, state & SEGMENT_WRITE ? ram : NULL);
}

static void update_pam(struct i440bx *bx)
{
    const uint8_t *pam = &bx->host.config[I440BX_PAM0];
    for (unsigned n = 0; n < 12; n++)
        map_segment(bx, n, pam[1 + n / 2] >> (n & 1) * 4 & 3);
    map_segment(bx, 12, pam[0] >> 4 & 3);
}

static void map_ram(struct i440bx *bx, uint64_t base, uint64_t size, bool ram)
{
    uint8_t *host = memory_ram_hva(bx->memory, gpa(base));
    if (!host || !memory_ram_hva(bx->memory, gpa(base + size - 1)))
        return;
    if (ram)
        memory_map(bx->memory, gpa(base), size, host, host);
    else
        memory_unmap(bx->memory, gpa(base), size);
}

/* There is no SMM, so the window is RAM only while D_OPEN shows it to everybody. */
static void update_smram(struct i440bx *bx)
{
    uint8_t *reg = &bx->host.config[I440BX_SMRAM];
    if (*reg & I440BX_SMRAM_D_LCK)
        *reg &= (uint8_t)~I440BX_SMRAM_D_OPEN;
    bool open = (*reg & I440BX_SMRAM_D_OPEN) && (*reg & I440BX_SMRAM_G_SMRAME) && !(*reg & I440BX_SMRAM_D_CLS);
    /* Locked until reset: only D_CLS still moves. */
    bx->host.write_mask[I440BX_SMRAM] = *reg & I440BX_SMRAM_D_LCK ? I440BX_SMRAM_D_CLS : 0x78;
    if (open == bx->smram_open)
        return;
    bx->smram_open = open;
    if (open && bx->window_changed)
        bx->window_changed(bx->window_opaque, false);
    map_ram(bx, 0xa0000, 0x20000, open);
    if (!open && bx->window_changed)
        bx->window_changed(bx->window_opaque, true);
}

static void update_hole(struct i440bx *bx)
{
    uint8_t hole = bx->host.config[I440BX_FDHC] >> 6;
    if (hole == bx->hole)
        return;
    static const struct {
        uint64_t base, size;
    } holes[4] = {{0, 0}, {0x80000, 0x20000}, {0xf00000, 0x100000}, {0, 0}};
    if (holes[bx->hole].size)
        map_ram(bx, holes[bx->hole].base, holes[bx->hole].size, true);
    bx->hole = hole;
    if (holes[hole].size)
        map_ram(bx, holes[hole].base, holes[hole].size, false);
}

static void host_written(void *opaque, unsigned reg, unsigned size)
{
    struct i440bx *bx = opaque;
    if (reg < I440BX_PAM0 + 7 && reg + size > I440BX_PAM0)
        update_pam(bx);
    if (reg <= I440BX_FDHC && reg + size > I440BX_FDHC)
        update_hole(bx);
    if (reg <= I440BX_SMRAM && reg + size > I440BX_SMRAM)
        update_smram(bx);
    /* APSIZE: a zero bit forces the same bit of APBASE (27:22) to zero. */
    uint8_t aperture = bx->host.config[0xb4] & 0x3f;
    bx->host.write_mask[0x13] = (uint8_t)(0xf0 | aperture >> 2);
    bx->host.write_mask[0x12] = (uint8_t)(aperture << 6);
    bx->host.config[0x13] &= bx->host.write_mask[0x13];
    bx->host.config[0x12] &= bx->host.write_mask[0x12];
}

/* ---- life cycle ---- */

int i440bx_init(struct i440bx *bx, struct pci_bus *bus, struct memory *memory, uint8_t *rom)
{
    memset(bx, 0, sizeof *bx);
    bx->memory = memory;
    bx->rom = rom;
    pci_function_init(&bx->host, "i440bx", 0x8086, 0x7190, 0x060000, 0x03);
    memset(bx->host.write_mask, 0, sizeof bx->host.write_mask);
    for (size_t i = 0; i < sizeof host_registers / sizeof host_registers[0]; i++) {
        bx->host.config[host_registers[i].reg] = host_registers[i].value;
        bx->host.write_mask[host_registers[i].reg] = host_registers[i].mask;
    }
    bx->host.clear_mask[PCI_STATUS + 1] = 0x70;
    bx->host.clear_mask[0x91] = 0xff; /* ERRSTS */
    bx->host.clear_mask[0x92] = 0x07;
    bx->host.config_written = host_written;
    bx->host.opaque = bx;

    pci_function_init(&bx->agp, "i440bx-agp", 0x8086, 0x7191, 0x060400, 0x03);
    memset(bx->agp.write_mask, 0, sizeof bx->agp.write_mask);
    for (size_t i = 0; i < sizeof agp_registers / sizeof agp_registers[0]; i++) {
        bx->agp.config[agp_registers[i].reg] = agp_registers[i].value;
        bx->agp.write_mask[agp_registers[i].reg] = agp_registers[i].mask;
    }
    bx->agp.clear_mask[PCI_STATUS + 1] = 0x40;
    bx->agp.clear_mask[0x1f] = 0x70;

    int r = pci_add(bus, &bx->host, 0, 0);
    if (!r)
        r = pci_add(bus, &bx->agp, 1, 0);
    if (r) {
        i440bx_destroy(bx);
        return r;
    }
    memset(bx->segment, SEGMENT_UNKNOWN, sizeof bx->segment);
    bx->smram_open = true; /* memory_init maps everything as RAM */
    i440bx_reset(bx);
    return 0;
}

void i440bx_reset(struct i440bx *bx)
{
    update_pam(bx);
    update_smram(bx);
    update_hole(bx);
    host_written(bx, 0, 0);
}

void i440bx_destroy(struct i440bx *bx)
{
    pci_remove(&bx->host);
    pci_remove(&bx->agp);
}
