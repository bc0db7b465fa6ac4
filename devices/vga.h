/* SPDX-License-Identifier: MIT */
/* The graphics adapter: an IBM VGA with 16 MiB of video memory and the Bochs display interface (DISPI, id B0C5), as
 * Debian's vgabios-stdvga.bin and the stock bochs driver of guests expect it. Manuals: IBM PS/2 Hardware Interface
 * Technical Reference, Video Subsystem (1987); VBE DISPI by the Bochs project (vbe_display_api).
 *
 * Video memory is one plain allocation; byte p of the 32-bit word at plane offset a is plane p's byte a. Chain 4 is
 * linear in it: the byte at window offset A is byte A of the memory. (The real chip leaves three of four plane offsets
 * unused there; here the plane offset of a chain-4 access is rotated right by two bits, for the CPU and the display
 * alike, so nothing shows but to a guest that changes chain 4 and keeps its picture.)
 *
 * The linear frame buffer is mapped into guest memory; so is the window at A0000 while it is linear, see
 * vga_update_window. All else is trapped.
 *
 * Threads: all under the machine lock. */
#ifndef RINGFOLD_DEVICES_VGA_H
#define RINGFOLD_DEVICES_VGA_H

#include "devices/bus.h"
#include "devices/clock.h"
#include "devices/display.h"
#include "devices/vga_regs.h"
#include "shadowmmu/memory.h"

enum {
    VGA_MEMORY_SIZE = 16 << 20,
    VGA_MEMORY_PAGES = VGA_MEMORY_SIZE >> PAGE_SHIFT,
    VGA_WINDOW_BASE = 0xa0000,
    VGA_WINDOW_SIZE = 0x20000,
    VGA_MMIO_SIZE = 0x1000,
    VGA_MMIO_PORTS = 0x400, /* 3c0-3df */
    VGA_MMIO_DISPI = 0x500,
    VGA_MMIO_EXTENSION = 0x600 /* size and byte order, from revision 2 of the PCI function on */
};

/* What the guest can set: with the video memory, all that a snapshot has to keep. */
struct vga_registers {
    uint8_t misc_output, feature_control, subsystem_enable;
    uint8_t sequencer_index, sequencer[SR_COUNT];
    uint8_t crtc_index, crtc[CR_COUNT];
    uint8_t graphics_index, graphics[GR_COUNT];
    uint8_t attribute_index, attribute[AR_COUNT]; /* index: with the palette address source bit */
    bool attribute_data;                          /* the flip-flop: the next write to 3c0 is data */
    uint8_t pel_mask, dac_index, dac_component;
    bool dac_reading;
    uint8_t dac_latch[3], dac[256][3]; /* as written: 6 bits, or 8 while the DAC is in 8-bit mode */
    uint32_t latch;                    /* plane p in bits 8p..8p+7 */
    uint16_t dispi_index, dispi[DISPI_COUNT];
    uint64_t retrace_cleared; /* retraces that had begun when the retrace interrupt was last cleared */
    uint64_t retrace_polled;  /* and when status 1 was last read, and when that was, in ns */
    uint64_t retrace_polled_at;
};

/* A part of guest memory that shows video memory directly. It repeats after 64 KiB (window) or not at all. */
struct vga_mapping {
    bool mapped;
    uint64_t base, size; /* guest-physical */
    uint32_t offset;     /* of video memory */
};

struct vga {
    struct vga_registers regs;
    uint8_t *vram;

    struct bus *ports, *memory_bus;
    struct memory *memory;
    struct clock *clock;
    struct bus_range mono_ports, color_ports, dispi_ports, window_range;

    bool window_enabled; /* false: the chipset shows something else at A0000 (SMRAM) */
    struct vga_mapping window, lfb;

    /* What drawing keeps between two calls. */
    struct surface surface;
    uint32_t *line;  /* one line of the surface */
    size_t capacity; /* pixels allocated */
    bool redraw;     /* a register changed that may change the picture */
    unsigned blink_phase;
    uint8_t dirty[VGA_MEMORY_PAGES]; /* pages of video memory written since the last draw */
};

/* Allocates the video memory, claims the ports and A0000-BFFFF. memory may be NULL (unit tests): then nothing is mapped
 * and every access is trapped. Returns 0 or -errno. */
int vga_init(struct vga *v, struct bus *ports, struct bus *memory_bus, struct memory *memory, struct clock *clock);
void vga_destroy(struct vga *v);
/* Power-on state of the registers. The video memory keeps its contents. */
void vga_reset(struct vga *v);
/* Sets 80x25 text mode with a cleared screen, as the VGA BIOS would have: for kernels that are booted without it. The
 * font is looked for in the ROM image; false when it is not there and nothing will be readable on the screen. */
bool vga_set_text_mode(struct vga *v, const uint8_t *rom, size_t size);
/* After struct vga_registers was restored from a snapshot. */
void vga_restored(struct vga *v);
/* The host bridge calls this when A0000-BFFFF becomes SMRAM and when it becomes the adapter's again. */
void vga_set_window_enabled(struct vga *v, bool enabled);

/* The whole video memory was mapped into guest memory at base (BAR 0; the caller maps it), or is mapped no longer. */
void vga_set_lfb(struct vga *v, bool enabled, gpa_t base);

/* One register by its port number (3b0-3df), one byte. */
uint8_t vga_port_read(struct vga *v, unsigned port);
void vga_port_write(struct vga *v, unsigned port, uint8_t value);
/* BAR 2 of the PCI function: the same registers in memory. Accesses of 1 or 2 bytes. */
uint64_t vga_mmio_read(void *vga, uint64_t offset, unsigned size);
void vga_mmio_write(void *vga, uint64_t offset, uint64_t value, unsigned size);
/* DISPI registers by index. */
uint16_t vga_dispi_read(const struct vga *v, unsigned index);
void vga_dispi_write(struct vga *v, unsigned index, uint16_t value);

/* One byte at an offset from A0000. */
uint8_t vga_memory_read(struct vga *v, uint32_t offset);
void vga_memory_write(struct vga *v, uint32_t offset, uint8_t value);

/* The side of the console. The source's chip is v. */
struct display_source vga_display(struct vga *v);

#endif
