/* SPDX-License-Identifier: MIT */
/* A VGA on buses of its own with a clock stepped by hand, driven by port accesses like a guest's. */
#ifndef RINGFOLD_TESTS_VGA_RIG_H
#define RINGFOLD_TESTS_VGA_RIG_H

#include "devices/vga.h"

struct vga_rig {
    struct bus *ports, *memory_bus;
    struct memory memory; /* with_memory only */
    bool with_memory;
    struct clock *clock;
    struct vga vga;
};

/* with_memory: 1 MiB of guest RAM, A0000-BFFFF left to the memory bus. False when the host cannot. */
bool vga_rig_create(struct vga_rig *rig, bool with_memory);
void vga_rig_destroy(struct vga_rig *rig);

void vga_rig_out(struct vga_rig *rig, unsigned port, unsigned value);
unsigned vga_rig_in(struct vga_rig *rig, unsigned port);
/* An indexed register: index to port, value to port + 1. */
void vga_rig_set(struct vga_rig *rig, unsigned port, unsigned index, unsigned value);
unsigned vga_rig_get(struct vga_rig *rig, unsigned port, unsigned index);
void vga_rig_set_attribute(struct vga_rig *rig, unsigned index, unsigned value);
void vga_rig_dispi(struct vga_rig *rig, unsigned index, unsigned value);
unsigned vga_rig_dispi_get(struct vga_rig *rig, unsigned index);
void vga_rig_poke(struct vga_rig *rig, uint32_t addr, unsigned value);
unsigned vga_rig_peek(struct vga_rig *rig, uint32_t addr);

/* Programs a BIOS mode: 3, 4, 6, 0xd, 0x12, 0x13, and 'x' (320x240 unchained); and a palette with a colour of its own
 * for each DAC entry up to 251. */
void vga_rig_mode(struct vga_rig *rig, unsigned mode);
/* The colour that DAC entry i shows as then. */
uint32_t vga_rig_grey(unsigned index);

const struct surface *vga_rig_draw(struct vga_rig *rig);
uint32_t vga_rig_pixel(const struct surface *s, unsigned x, unsigned y);

#endif
