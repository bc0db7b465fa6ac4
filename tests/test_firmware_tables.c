/* SPDX-License-Identifier: MIT */
/* fw_cfg, ACPI, SMBIOS and $PIR. */
#include "devices/acpi.h"
#include "devices/pir.h"
#include "devices/smbios.h"
#include "tests/test.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct world {
    struct bus *ports;
    struct memory memory;
    struct fwcfg f;
};

static void build(struct world *w)
{
    char err[200];
    memset(w, 0, sizeof *w);
    w->ports = bus_create("ports", 65536);
    CU_ASSERT_EQUAL_FATAL(memory_init(&w->memory, 4 << 20, err, sizeof err), 0);
    CU_ASSERT_EQUAL_FATAL(fwcfg_init(&w->f, w->ports, &w->memory), 0);
}

static void take_apart(struct world *w)
{
    fwcfg_destroy(&w->f);
    bus_destroy(w->ports);
    memory_destroy(&w->memory);
}

static void select_key(struct world *w, unsigned key)
{
    bus_write(w->ports, 0x510, key, 2);
}

static uint64_t take(struct world *w, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= bus_read(w->ports, 0x511, 1) << i * 8;
    return v;
}

static void fwcfg_ports(void)
{
    struct world w;
    build(&w);
    select_key(&w, FWCFG_SIGNATURE);
    CU_ASSERT_EQUAL(take(&w, 4), 0x554d4551); /* "QEMU" */
    CU_ASSERT_EQUAL(take(&w, 1), 0);          /* past the end */
    select_key(&w, FWCFG_ID);
    CU_ASSERT_EQUAL(take(&w, 4), 3);
    CU_ASSERT_EQUAL(fwcfg_add_file(&w.f, "etc/one", "hello", 5), 0);
    CU_ASSERT_EQUAL(fwcfg_add_file(&w.f, "etc/two", "xy", 2), 0);
    CU_ASSERT_EQUAL(fwcfg_add_file(&w.f, "etc/one", "HELLO!", 6), 0); /* replaces */
    CU_ASSERT_EQUAL(fwcfg_add_file(&w.f, "a-name-that-is-longer-than-the-fifty-five-characters-allowed", "", 0),
                    -ENAMETOOLONG);
    select_key(&w, FWCFG_FILE_DIRECTORY);
    CU_ASSERT_EQUAL(be32toh((uint32_t)take(&w, 4)), 2);
    CU_ASSERT_EQUAL(be32toh((uint32_t)take(&w, 4)), 6);
    CU_ASSERT_EQUAL(be16toh((uint16_t)take(&w, 2)), FWCFG_FILE_FIRST);
    take(&w, 2);
    CU_ASSERT_EQUAL(take(&w, 7), 0x656e6f2f637465); /* "etc/one" */
    select_key(&w, FWCFG_FILE_FIRST);
    CU_ASSERT_EQUAL(take(&w, 6), 0x214f4c4c4548);
    for (unsigned key = 0; key < 0x10000; key += 7) { /* any selector */
        select_key(&w, key);
        take(&w, 2);
    }
    bus_read(w.ports, 0x510, 2);
    bus_read(w.ports, 0x510, 4);
    take_apart(&w);
}

static uint32_t dma(struct world *w, uint64_t at, uint32_t control, uint32_t length, uint64_t address)
{
    uint32_t words[4] = {htobe32(control), htobe32(length), htobe32((uint32_t)(address >> 32)),
                         htobe32((uint32_t)address)};
    memory_write(&w->memory, gpa(at), words, sizeof words);
    bus_write(w->ports, 0x514, htobe32((uint32_t)(at >> 32)), 4);
    bus_write(w->ports, 0x518, htobe32((uint32_t)at), 4);
    return be32toh(memory_read32(&w->memory, gpa(at)));
}

static void fwcfg_dma(void)
{
    struct world w;
    build(&w);
    CU_ASSERT_EQUAL(bus_read(w.ports, 0x514, 4), 0x554d4551);
    fwcfg_add_file(&w.f, "etc/one", "0123456789", 10);
    uint32_t select = FWCFG_FILE_FIRST << 16 | FWCFG_DMA_SELECT;
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_READ, 4, 0x2000), 0);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0x2000)), 0x33323130);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, FWCFG_DMA_SKIP, 2, 0), 0);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, FWCFG_DMA_READ, 8, 0x2000), 0); /* four bytes, four zeros */
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0x2000)), 0x39383736);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0x2004)), 0);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_WRITE, 4, 0x2000), FWCFG_DMA_ERROR);
    /* Bad lengths and addresses. */
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_READ, 0, 0x2000), 0);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_READ, 0xffffffff, 0x300000), FWCFG_DMA_ERROR);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_READ, 10, 0x3ffffa), FWCFG_DMA_ERROR); /* RAM's end */
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_READ, 10, 0xfffffffffffffffe), FWCFG_DMA_ERROR);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_SKIP, 0xffffffff, 0), 0);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, FWCFG_DMA_READ, 4, 0x2000), 0);
    CU_ASSERT_EQUAL(memory_read32(&w.memory, gpa(0x2000)), 0);
    CU_ASSERT_EQUAL(dma(&w, 0x1000, 0xdead0000 | FWCFG_DMA_SELECT | FWCFG_DMA_READ, 4, 0x2000), 0); /* no such item */
    CU_ASSERT_EQUAL(dma(&w, 0x1000, select | FWCFG_DMA_READ, 10, 0x1000), 0); /* onto its own descriptor */
    bus_write(w.ports, 0x518, 0xffffffff, 4);                                 /* descriptor where nothing is */
    bus_write(w.ports, 0x514, ~0ull, 8);
    take_apart(&w);
}

static uint8_t sum(const uint8_t *at, size_t size)
{
    uint8_t s = 0;
    while (size--)
        s = (uint8_t)(s + *at++);
    return s;
}

/* The table at addr, checked by length and checksum. */
static const uint8_t *table(struct world *w, uint32_t addr, const char *signature)
{
    const uint8_t *t = memory_ram_hva(&w->memory, gpa(addr));
    uint32_t length;
    CU_ASSERT_PTR_NOT_NULL_FATAL(t);
    CU_ASSERT_EQUAL(memcmp(t, signature, 4), 0);
    memcpy(&length, t + 4, 4);
    CU_ASSERT(length >= 36 && length < 65536);
    CU_ASSERT_EQUAL(sum(t, length), 0);
    return t;
}

static uint32_t get32(const uint8_t *at)
{
    uint32_t v;
    memcpy(&v, at, 4);
    return le32toh(v);
}

static void acpi(void)
{
    struct world w;
    struct acpi_tables t;
    struct acpi_config config = {.cpus = 1, .low_ram = 4 << 20, .floppy = true};
    build(&w);
    CU_ASSERT_EQUAL_FATAL(acpi_build(&t, &config), 0);
    acpi_write(&t, &w.memory, gpa(0x200000), gpa(0xf0440));
    const uint8_t *rsdp = memory_ram_hva(&w.memory, gpa(0xf0440));
    CU_ASSERT_EQUAL(memcmp(rsdp, "RSD PTR ", 8), 0);
    CU_ASSERT_EQUAL(sum(rsdp, 20), 0);
    const uint8_t *rsdt = table(&w, get32(rsdp + 16), "RSDT");
    CU_ASSERT_EQUAL(get32(rsdt + 4), 40);
    const uint8_t *fadt = table(&w, get32(rsdt + 36), "FACP");
    CU_ASSERT_EQUAL(get32(fadt + 4), 244);
    CU_ASSERT_EQUAL(get32(fadt + 76), 0x608); /* PM timer */
    CU_ASSERT_EQUAL(get32(fadt + 40), get32(fadt + 140));
    const uint8_t *facs = memory_ram_hva(&w.memory, gpa(get32(fadt + 36)));
    CU_ASSERT_EQUAL(memcmp(facs, "FACS", 4), 0);
    CU_ASSERT_EQUAL(get32(fadt + 36) % 64, 0);
    const uint8_t *dsdt = table(&w, get32(fadt + 40), "DSDT");
    /* The first object is \_S5, a package; the next ones' lengths add up to the table's end. */
    const uint8_t *aml = dsdt + 36, *end = dsdt + get32(dsdt + 4);
    CU_ASSERT_EQUAL(memcmp(aml, "\x08\\_S5_\x12\x06\x04", 9), 0);
    aml += 13;
    unsigned scopes = 0;
    while (aml < end && *aml == 0x10) {
        unsigned extra = aml[1] >> 6;
        size_t length = extra ? aml[1] & 15 : aml[1] & 63;
        for (unsigned i = 0; i < extra; i++)
            length |= (size_t)aml[2 + i] << (4 + 8 * i);
        aml += 1 + length;
        scopes++;
    }
    CU_ASSERT_PTR_EQUAL(aml, end);
    CU_ASSERT_EQUAL(scopes, 2);
    /* The same for SeaBIOS. */
    uint8_t pir[PIR_SIZE];
    pir_build(pir);
    CU_ASSERT_EQUAL(acpi_add_to_fwcfg(&t, &w.f, pir, sizeof pir, NULL), 0);
    CU_ASSERT_STRING_EQUAL(w.f.names[3], "etc/table-loader");
    CU_ASSERT_EQUAL(w.f.items[FWCFG_FILE_FIRST + 3].size % 128, 0);
    acpi_free(&t);
    take_apart(&w);
}

static void pir_table(void)
{
    uint8_t pir[PIR_SIZE];
    pir_build(pir);
    CU_ASSERT_EQUAL(memcmp(pir, "$PIR", 4), 0);
    CU_ASSERT_EQUAL(pir[6] | pir[7] << 8, PIR_SIZE);
    CU_ASSERT_EQUAL(sum(pir, sizeof pir), 0);
    CU_ASSERT_EQUAL(pir[9], 7 << 3);
    const uint8_t *slot15 = pir + 32 + 14 * 16;
    CU_ASSERT_EQUAL(slot15[1], 15 << 3);
    CU_ASSERT_EQUAL(slot15[2], 0x63); /* device 15, INTA: PIRQ D */
    CU_ASSERT_EQUAL(slot15[5], 0x60);
}

static void smbios(void)
{
    struct world w;
    struct smbios_tables t;
    struct smbios_config config = {.cpus = 1, .ram_size = 5ull << 30, .low_ram = 3ull << 30};
    build(&w);
    CU_ASSERT_EQUAL_FATAL(smbios_build(&t, &config), 0);
    smbios_write(&t, &w.memory, gpa(0x200000), gpa(0xf0400));
    const uint8_t *anchor = memory_ram_hva(&w.memory, gpa(0xf0400));
    CU_ASSERT_EQUAL(memcmp(anchor, "_SM_", 4), 0);
    CU_ASSERT_EQUAL(sum(anchor, 31), 0);
    CU_ASSERT_EQUAL(sum(anchor + 16, 15), 0);
    CU_ASSERT_EQUAL(get32(anchor + 24), 0x200000);
    /* Structure by structure to the end marker. */
    const uint8_t *at = memory_ram_hva(&w.memory, gpa(0x200000)), *end = at + (anchor[22] | anchor[23] << 8);
    unsigned count = 0, type = 0;
    while (at + 4 <= end) {
        type = at[0];
        at += at[1];
        while (at + 2 <= end && (at[0] || at[1]))
            at++;
        at += 2;
        count++;
    }
    CU_ASSERT_PTR_EQUAL(at, end);
    CU_ASSERT_EQUAL(type, 127);
    CU_ASSERT_EQUAL(count, (unsigned)(anchor[28] | anchor[29] << 8));
    smbios_free(&t);
    take_apart(&w);
}

TEST_SUITE(firmware_tables, {"fw_cfg by its ports", fwcfg_ports}, {"fw_cfg by DMA", fwcfg_dma}, {"ACPI tables", acpi},
           {"$PIR", pir_table}, {"SMBIOS", smbios})
