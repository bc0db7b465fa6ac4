/* SPDX-License-Identifier: MIT */
#include "tests/vga_rig.h"

#include <string.h>

struct mode_registers {
    unsigned mode;
    uint8_t misc_output, sequencer[SR_COUNT], crtc[CR_COUNT], graphics[GR_COUNT], attribute[AR_COUNT];
};

#define IDENTITY 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

static const struct mode_registers modes[] = {
    {3,
     0x67,
     {3, 0, 3, 0, 2},
     {0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0,    0x4f, 0x0d, 0x0e, 0,
      0,    0,    0,    0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff},
     {0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff},
     {IDENTITY, 0x0c, 0, 0x0f, 8, 0}},
    {4,
     0x63,
     {3, 9, 3, 0, 2},
     {0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0,    0xc1, 0,    0,   0,
      0,    0,    0,    0x9c, 0x8e, 0x8f, 0x14, 0,    0x96, 0xb9, 0xa2, 0xff},
     {0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff},
     {IDENTITY, 1, 0, 3, 0, 0}},
    {6,
     0x63,
     {3, 1, 1, 0, 6},
     {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0,    0xc1, 0,    0,   0,
      0,    0,    0,    0x9c, 0x8e, 0x8f, 0x28, 0,    0x96, 0xb9, 0xc2, 0xff},
     {0, 0, 0, 0, 0, 0, 0x0d, 0, 0xff},
     {IDENTITY, 1, 0, 1, 0, 0}},
    {0xd,
     0x63,
     {3, 9, 0xf, 0, 6},
     {0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0,    0xc0, 0,    0,   0,
      0,    0,    0,    0x9c, 0x8e, 0x8f, 0x14, 0,    0x96, 0xb9, 0xe3, 0xff},
     {0, 0, 0, 0, 0, 0, 5, 0xf, 0xff},
     {IDENTITY, 1, 0, 0xf, 0, 0}},
    {0x12,
     0xe3,
     {3, 1, 0xf, 0, 6},
     {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0,    0x40, 0,    0,   0,
      0,    0,    0,    0xea, 0x8c, 0xdf, 0x28, 0,    0xe7, 0x04, 0xe3, 0xff},
     {0, 0, 0, 0, 0, 0, 5, 0xf, 0xff},
     {IDENTITY, 1, 0, 0xf, 0, 0}},
    {0x13,
     0x63,
     {3, 1, 0xf, 0, 0xe},
     {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0,    0x41, 0,    0,   0,
      0,    0,    0,    0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff},
     {0, 0, 0, 0, 0, 0x40, 5, 0xf, 0xff},
     {IDENTITY, 0x41, 0, 0xf, 0, 0}},
    {'x',
     0xe3,
     {3, 1, 0xf, 0, 6},
     {0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0d, 0x3e, 0,    0x41, 0,    0,   0,
      0,    0,    0,    0xea, 0xac, 0xdf, 0x28, 0,    0xe7, 0x06, 0xe3, 0xff},
     {0, 0, 0, 0, 0, 0x40, 5, 0xf, 0xff},
     {IDENTITY, 0x41, 0, 0xf, 0, 0}},
};

bool vga_rig_create(struct vga_rig *rig, bool with_memory)
{
    char err[128];
    memset(rig, 0, sizeof *rig);
    rig->ports = bus_create("ports", 65536);
    rig->memory_bus = bus_create("memory", UINT64_MAX);
    rig->clock = clock_create(true);
    if (with_memory) {
        if (memory_init(&rig->memory, 1 << 20, err, sizeof err) != 0)
            return false;
        memory_unmap(&rig->memory, gpa(VGA_WINDOW_BASE), VGA_WINDOW_SIZE);
        rig->with_memory = true;
    }
    return rig->ports && rig->memory_bus && rig->clock &&
           vga_init(&rig->vga, rig->ports, rig->memory_bus, with_memory ? &rig->memory : NULL, rig->clock) == 0;
}

void vga_rig_destroy(struct vga_rig *rig)
{
    vga_destroy(&rig->vga);
    if (rig->with_memory)
        memory_destroy(&rig->memory);
    clock_destroy(rig->clock);
    bus_destroy(rig->memory_bus);
    bus_destroy(rig->ports);
}

void vga_rig_out(struct vga_rig *rig, unsigned port, unsigned value)
{
    bus_write(rig->ports, port, value, 1);
}

unsigned vga_rig_in(struct vga_rig *rig, unsigned port)
{
    return (unsigned)bus_read(rig->ports, port, 1);
}

void vga_rig_set(struct vga_rig *rig, unsigned port, unsigned index, unsigned value)
{
    bus_write(rig->ports, port, index | value << 8, 2);
}

unsigned vga_rig_get(struct vga_rig *rig, unsigned port, unsigned index)
{
    vga_rig_out(rig, port, index);
    return vga_rig_in(rig, port + 1);
}

void vga_rig_set_attribute(struct vga_rig *rig, unsigned index, unsigned value)
{
    vga_rig_in(rig, 0x3da);
    vga_rig_out(rig, 0x3c0, index | AR_INDEX_PALETTE_SOURCE);
    vga_rig_out(rig, 0x3c0, value);
}

void vga_rig_dispi(struct vga_rig *rig, unsigned index, unsigned value)
{
    bus_write(rig->ports, 0x1ce, index, 2);
    bus_write(rig->ports, 0x1cf, value, 2);
}

unsigned vga_rig_dispi_get(struct vga_rig *rig, unsigned index)
{
    bus_write(rig->ports, 0x1ce, index, 2);
    return (unsigned)bus_read(rig->ports, 0x1d0, 2);
}

void vga_rig_poke(struct vga_rig *rig, uint32_t addr, unsigned value)
{
    uint8_t byte = (uint8_t)value;
    if (rig->with_memory && memory_write(&rig->memory, gpa(addr), &byte, 1))
        return;
    bus_write(rig->memory_bus, addr, value, 1);
}

unsigned vga_rig_peek(struct vga_rig *rig, uint32_t addr)
{
    uint8_t byte;
    if (rig->with_memory && memory_read(&rig->memory, gpa(addr), &byte, 1))
        return byte;
    return (unsigned)bus_read(rig->memory_bus, addr, 1);
}

void vga_rig_mode(struct vga_rig *rig, unsigned mode)
{
    const struct mode_registers *m = modes;
    while (m->mode != mode)
        m++;
    vga_rig_dispi(rig, DISPI_ENABLE, 0);
    vga_rig_out(rig, 0x3c2, m->misc_output);
    for (unsigned i = 0; i < SR_COUNT; i++)
        vga_rig_set(rig, 0x3c4, i, m->sequencer[i]);
    vga_rig_set(rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0);
    for (unsigned i = 0; i < CR_COUNT; i++)
        vga_rig_set(rig, 0x3d4, i, m->crtc[i]);
    for (unsigned i = 0; i < GR_COUNT; i++)
        vga_rig_set(rig, 0x3ce, i, m->graphics[i]);
    for (unsigned i = 0; i < AR_COUNT; i++)
        vga_rig_set_attribute(rig, i, m->attribute[i]);
    vga_rig_out(rig, 0x3c6, 0xff);
    vga_rig_out(rig, 0x3c8, 0);
    for (unsigned i = 0; i < 3 * 256; i++)
        vga_rig_out(rig, 0x3c9, i / 3 / 4 + (i % 3 == 2 ? i / 3 % 4 : 0));
}

uint32_t vga_rig_grey(unsigned index)
{
    unsigned grey = (index & 0xff) / 4, blue = (grey + (index & 3)) & 0x3f;
    grey = grey << 2 | grey >> 4;
    return grey << 16 | grey << 8 | (blue << 2 | blue >> 4);
}

const struct surface *vga_rig_draw(struct vga_rig *rig)
{
    struct display_source source = vga_display(&rig->vga);
    bool changed;
    return source.draw(source.chip, false, &changed);
}

uint32_t vga_rig_pixel(const struct surface *s, unsigned x, unsigned y)
{
    return x < s->width && y < s->height ? s->pixels[(size_t)y * s->stride + x] : 0xffffffff;
}
