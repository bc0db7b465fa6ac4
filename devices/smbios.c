/* SPDX-License-Identifier: MIT */
#include "devices/smbios.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TYPE_BIOS = 0,
    TYPE_SYSTEM = 1,
    TYPE_CHASSIS = 3,
    TYPE_PROCESSOR = 4,
    TYPE_MEMORY_ARRAY = 16,
    TYPE_MEMORY_DEVICE = 17,
    TYPE_ARRAY_MAPPED = 19,
    TYPE_BOOT = 32,
    TYPE_END = 127
};
enum { HANDLE_MEMORY_ARRAY = 0x1000, HANDLE_MEMORY_DEVICE = 0x1100, HANDLE_MAPPED = 0x1300 };
enum { ANCHOR_CHECKSUM = 4, ANCHOR_INTERMEDIATE = 16, ANCHOR_MIDDLE_CHECKSUM = 21, ANCHOR_ADDRESS = 24 };
enum { TABLES_MAX = 32768 };

struct writer {
    uint8_t *data;
    size_t size;
    unsigned count, longest;
    size_t start;
};

/* Appends a structure's formatted area: type, handle, then length - 4 bytes. */
static uint8_t *structure(struct writer *w, unsigned type, unsigned handle, unsigned length)
{
    w->start = w->size;
    uint8_t *at = w->data + w->size;
    at[0] = (uint8_t)type;
    at[1] = (uint8_t)length;
    at[2] = (uint8_t)handle;
    at[3] = (uint8_t)(handle >> 8);
    w->size += length;
    w->count++;
    return at;
}

/* Its string set: names up to a NULL; an empty set is two zero bytes. */
static void strings(struct writer *w, const char *const names[])
{
    for (unsigned i = 0; names[i]; i++) {
        size_t length = strlen(names[i]) + 1;
        memcpy(w->data + w->size, names[i], length);
        w->size += length;
    }
    w->size += names[0] ? 1 : 2;
    if (w->size - w->start > w->longest)
        w->longest = (unsigned)(w->size - w->start);
}

static void put16(uint8_t *at, unsigned v)
{
    at[0] = (uint8_t)v;
    at[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *at, uint32_t v)
{
    put16(at, v & 0xffff);
    put16(at + 2, v >> 16);
}

static const char *const no_strings[] = {NULL};

static void add_bios_and_system(struct writer *w)
{
    uint8_t *s = structure(w, TYPE_BIOS, 0, 24);
    s[4] = 1;
    s[5] = 2;
    put16(s + 6, 0xe800); /* starting segment */
    s[8] = 3;
    s[9] = 1;             /* 128 KiB: 64 * (n + 1) */
    put32(s + 10, 0x90);  /* PCI and selectable boot are supported */
    s[19] = 0x10;         /* a virtual machine */
    s[22] = s[23] = 0xff; /* no embedded controller */
    strings(w, (const char *const[]){"ringfold", "1.0", "01/01/2026", NULL});

    s = structure(w, TYPE_SYSTEM, 0x100, 27);
    s[4] = 1;
    s[5] = 2;
    s[6] = 3;
    s[24] = 6; /* power switch */
    strings(w, (const char *const[]){"ringfold", "440BX virtual machine", "1", NULL});

    s = structure(w, TYPE_CHASSIS, 0x300, 21);
    s[4] = 1;
    s[5] = 1;                 /* other */
    s[9] = s[10] = s[11] = 3; /* states: safe */
    s[12] = 2;                /* security: unknown */
    strings(w, (const char *const[]){"ringfold", NULL});
}

static void add_processor(struct writer *w, unsigned n)
{
    uint8_t *s = structure(w, TYPE_PROCESSOR, 0x400 + n, 42);
    s[4] = 1;
    s[5] = 3; /* central processor */
    s[6] = 1; /* family: other */
    s[7] = 2;
    s[24] = 0x41; /* populated, enabled */
    s[25] = 1;    /* upgrade: other */
    put16(s + 26, 0xffff);
    put16(s + 28, 0xffff);
    put16(s + 30, 0xffff);
    s[35] = s[36] = s[37] = 1;
    put16(s + 40, 1);
    strings(w, (const char *const[]){"CPU", "ringfold", NULL});
}

static void add_mapped(struct writer *w, unsigned n, uint64_t base, uint64_t size)
{
    uint8_t *s = structure(w, TYPE_ARRAY_MAPPED, HANDLE_MAPPED + n, 31);
    put32(s + 4, (uint32_t)(base >> 10));
    put32(s + 8, (uint32_t)((base + size - 1) >> 10));
    put16(s + 12, HANDLE_MEMORY_ARRAY);
    s[14] = 1;
    strings(w, no_strings);
}

static void add_memory(struct writer *w, const struct smbios_config *config)
{
    uint64_t kib = config->ram_size >> 10, mib = (config->ram_size + 0xfffff) >> 20;
    uint8_t *s = structure(w, TYPE_MEMORY_ARRAY, HANDLE_MEMORY_ARRAY, 23);
    s[4] = 3; /* on the board */
    s[5] = 3; /* system memory */
    s[6] = 3; /* no error correction */
    put32(s + 7, kib < 0x80000000 ? (uint32_t)kib : 0x80000000);
    put16(s + 11, 0xfffe);
    put16(s + 13, 1);
    strings(w, no_strings);

    s = structure(w, TYPE_MEMORY_DEVICE, HANDLE_MEMORY_DEVICE, 40);
    put16(s + 4, HANDLE_MEMORY_ARRAY);
    put16(s + 6, 0xfffe);
    put16(s + 8, 0xffff);
    put16(s + 10, 0xffff);
    put16(s + 12, mib < 0x7fff ? (unsigned)mib : 0x7fff);
    s[14] = 9; /* DIMM */
    s[16] = 1;
    s[18] = 7; /* RAM */
    put16(s + 19, 2);
    put32(s + 28, mib < 0x7fff ? 0 : (uint32_t)mib);
    strings(w, (const char *const[]){"DIMM 0", NULL});

    add_mapped(w, 0, 0, config->low_ram);
    if (config->ram_size > config->low_ram)
        add_mapped(w, 1, MEMORY_4G, config->ram_size - config->low_ram);
}

static uint8_t sum_of(const uint8_t *at, size_t size)
{
    uint8_t sum = 0;
    while (size--)
        sum = (uint8_t)(sum + *at++);
    return sum;
}

static void finish_anchor(uint8_t anchor[SMBIOS_ANCHOR_SIZE], uint32_t address)
{
    put32(anchor + ANCHOR_ADDRESS, address);
    anchor[ANCHOR_MIDDLE_CHECKSUM] = 0;
    anchor[ANCHOR_MIDDLE_CHECKSUM] =
        (uint8_t)-sum_of(anchor + ANCHOR_INTERMEDIATE, SMBIOS_ANCHOR_SIZE - ANCHOR_INTERMEDIATE);
    anchor[ANCHOR_CHECKSUM] = 0;
    anchor[ANCHOR_CHECKSUM] = (uint8_t)-sum_of(anchor, SMBIOS_ANCHOR_SIZE);
}

int smbios_build(struct smbios_tables *t, const struct smbios_config *config)
{
    memset(t, 0, sizeof *t);
    struct writer w = {.data = calloc(1, TABLES_MAX)};
    if (!w.data)
        return -ENOMEM;
    add_bios_and_system(&w);
    for (unsigned i = 0; i < config->cpus && i < 255; i++)
        add_processor(&w, i);
    add_memory(&w, config);
    structure(&w, TYPE_BOOT, 0x2000, 11);
    strings(&w, no_strings);
    structure(&w, TYPE_END, 0x7f00, 4);
    strings(&w, no_strings);
    t->data = w.data;
    t->size = w.size;

    uint8_t *a = t->anchor;
    memcpy(a, "_SM_", 4);
    a[5] = SMBIOS_ANCHOR_SIZE;
    a[6] = 2;
    a[7] = 8;
    put16(a + 8, w.longest);
    memcpy(a + ANCHOR_INTERMEDIATE, "_DMI_", 5);
    put16(a + 22, (unsigned)w.size);
    put16(a + 28, w.count);
    a[30] = 0x28;
    finish_anchor(a, 0);
    return 0;
}

void smbios_free(struct smbios_tables *t)
{
    free(t->data);
    memset(t, 0, sizeof *t);
}

int smbios_add_to_fwcfg(const struct smbios_tables *t, struct fwcfg *f)
{
    int r = fwcfg_add_file(f, "etc/smbios/smbios-tables", t->data, t->size);
    return r ? r : fwcfg_add_file(f, "etc/smbios/smbios-anchor", t->anchor, sizeof t->anchor);
}

void smbios_write(const struct smbios_tables *t, struct memory *memory, gpa_t base, gpa_t anchor)
{
    uint8_t a[SMBIOS_ANCHOR_SIZE];
    memcpy(a, t->anchor, sizeof a);
    finish_anchor(a, (uint32_t)base.v);
    memory_write(memory, base, t->data, t->size);
    memory_write(memory, anchor, a, sizeof a);
}
