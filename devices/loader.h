/* SPDX-License-Identifier: MIT */
/* Direct kernel boot (--kernel): places the kernel, the initial RAM disk and the boot parameters in guest memory, as a
 * boot loader would, and says in which state the CPU enters. bzImage (Documentation/arch/x86/boot.rst) and multiboot
 * ELF (Multiboot Specification 0.6.96).
 *
 * The board has already written its tables (ACPI, SMBIOS, $PIR) and describes memory by an E820 map; the loader stays
 * inside the map's usable ranges.
 *
 * Threads: called in machine_create and, because the last run changed guest memory, again at each reset, with the vCPUs
 * standing still. */
#ifndef RINGFOLD_DEVICES_LOADER_H
#define RINGFOLD_DEVICES_LOADER_H

#include "cpu/cpu.h"
#include "devices/machine.h"

enum loader_e820_type { LOADER_E820_RAM = 1, LOADER_E820_RESERVED = 2, LOADER_E820_ACPI = 3, LOADER_E820_NVS = 4 };

struct loader_e820 {
    uint64_t base, size;
    uint32_t type; /* enum loader_e820_type */
};

enum { LOADER_E820_MAX = 16 };

/* What the board tells the loader. */
struct loader_board {
    struct loader_e820 e820[LOADER_E820_MAX]; /* sorted, without overlaps; covers 0-640K, the BIOS area and all RAM */
    unsigned e820_count;
    uint64_t rsdp;      /* guest-physical address of the ACPI RSDP, for boot_params.acpi_rsdp_addr; 0: none */
    bool vga_text_mode; /* the display shows 80x25 colour text (mode 3), for boot_params.screen_info */
};

/* A segment register at entry. Flat 32-/64-bit segments: base 0, limit 0xffffffff. attr as in struct segment. */
struct loader_segment {
    uint16_t selector;
    uint64_t base;
    uint32_t limit;
    uint32_t attr;
};

/* The CPU state at entry. Everything not named here is as after a CPU reset (interrupts off). */
struct loader_entry {
    unsigned
        mode; /* 16: real mode; 32: protected mode, paging off; 64: long mode, paging on (the loader placed tables) */
    uint64_t rip;
    uint64_t gpr[16]; /* indexed by enum gpr */
    struct loader_segment cs, data /* DS, ES, FS, GS */, ss;
    uint64_t gdt_base; /* mode 32 and 64: the GDT that the loader placed in guest memory */
    uint16_t gdt_limit;
    uint64_t cr3; /* mode 64: four-level tables that map at least the kernel and the boot parameters one to one */
};

/* Returns 0, or -errno with one line in err that names the file and the reason. A 64-bit entry is only given when
 * config->long_mode. On failure guest memory may be partly written. */
int loader_load(struct memory *mem, const struct machine_config *config, const struct loader_board *board,
                struct loader_entry *out, char *err, size_t err_len);

#endif
