/* SPDX-License-Identifier: MIT */
/* The VGA's register files and the ports that lead to them. */
#include "devices/vga_internal.h"

#include "devices/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Bits that exist; the others read as zero. */
static const uint8_t sequencer_bits[SR_COUNT] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
static const uint8_t graphics_bits[GR_COUNT] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
static const uint8_t attribute_bits[AR_COUNT] = {0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                                 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};

static void sequencer_write(struct vga *v, uint8_t value)
{
    unsigned index = v->regs.sequencer_index;
    if (index >= SR_COUNT) {
        log_msg(LOG_GUEST_ERROR, "vga: write of %02x to sequencer register %02x", value, index);
        return;
    }
    v->regs.sequencer[index] = value & sequencer_bits[index];
    vga_update_window(v);
}

static void graphics_write(struct vga *v, uint8_t value)
{
    unsigned index = v->regs.graphics_index;
    if (index >= GR_COUNT) {
        log_msg(LOG_GUEST_ERROR, "vga: write of %02x to graphics controller register %02x", value, index);
        return;
    }
    v->regs.graphics[index] = value & graphics_bits[index];
    vga_update_window(v);
}

static void crtc_write(struct vga *v, uint8_t value)
{
    struct vga_registers *r = &v->regs;
    unsigned index = r->crtc_index;
    if (index >= CR_COUNT) {
        log_msg(LOG_GUEST_ERROR, "vga: write of %02x to CRT controller register %02x", value, index);
        return;
    }
    if (r->crtc[CR_VERTICAL_RETRACE_END] & CR11_PROTECT && index <= CR_OVERFLOW) {
        if (index != CR_OVERFLOW)
            return;
        value = (r->crtc[index] & ~CR7_LINE_COMPARE_8) | (value & CR7_LINE_COMPARE_8);
    }
    r->crtc[index] = value;
    if (index == CR_VERTICAL_RETRACE_END && !(value & CR11_CLEAR_INTERRUPT_NOT))
        r->retrace_cleared = vga_retrace_count(v);
}

static uint8_t crtc_read(const struct vga *v)
{
    const struct vga_registers *r = &v->regs;
    switch (r->crtc_index) {
    case CR_LATCH:
        return r->latch >> (r->graphics[GR_READ_MAP] * 8);
    case CR_ATTRIBUTE_FLIP_FLOP:
        return (r->attribute_data ? 0x80 : 0) | r->attribute_index;
    default:
        return r->crtc_index < CR_COUNT ? r->crtc[r->crtc_index] : 0;
    }
}

static void attribute_write(struct vga *v, uint8_t value)
{
    struct vga_registers *r = &v->regs;
    r->attribute_data = !r->attribute_data;
    if (r->attribute_data) {
        r->attribute_index = value & 0x3f;
        return;
    }
    unsigned index = r->attribute_index & 0x1f;
    if (index >= AR_COUNT) {
        log_msg(LOG_GUEST_ERROR, "vga: write of %02x to attribute controller register %02x", value, index);
        return;
    }
    r->attribute[index] = value & attribute_bits[index];
}

static uint8_t attribute_read(const struct vga *v)
{
    unsigned index = v->regs.attribute_index & 0x1f;
    return index < AR_COUNT ? v->regs.attribute[index] : 0;
}

/* The three components take effect together, when the third arrives. */
static void dac_write(struct vga *v, uint8_t value)
{
    struct vga_registers *r = &v->regs;
    uint8_t bits = r->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC ? 0xff : 0x3f;
    r->dac_latch[r->dac_component++] = value & bits;
    if (r->dac_component < 3)
        return;
    r->dac_component = 0;
    memcpy(r->dac[r->dac_index++], r->dac_latch, 3);
}

static uint8_t dac_read(struct vga *v)
{
    struct vga_registers *r = &v->regs;
    uint8_t value = r->dac[r->dac_index][r->dac_component++];
    if (r->dac_component == 3) {
        r->dac_component = 0;
        r->dac_index++;
    }
    return value;
}

static void dac_set_index(struct vga *v, uint8_t value, bool reading)
{
    v->regs.dac_index = value;
    v->regs.dac_component = 0;
    v->regs.dac_reading = reading;
}

static uint8_t status0_read(const struct vga *v)
{
    uint8_t control = v->regs.crtc[CR_VERTICAL_RETRACE_END];
    uint8_t value = STATUS0_SWITCH_SENSE; /* a colour monitor is there */
    if (control & CR11_CLEAR_INTERRUPT_NOT && !(control & CR11_DISABLE_INTERRUPT) &&
        vga_retrace_count(v) != v->regs.retrace_cleared)
        value |= STATUS0_INTERRUPT;
    return value;
}

/* 3B4, 3B5, 3BA answer in monochrome emulation, 3D4, 3D5, 3DA in colour. */
static bool port_decoded(const struct vga *v, unsigned *port)
{
    bool color = v->regs.misc_output & MISC_IO_COLOR;
    if (*port < VGA_PORT_ATTRIBUTE) {
        *port += VGA_PORT_CRTC_INDEX - 0x3b4;
        return !color && *port >= VGA_PORT_CRTC_INDEX;
    }
    return *port < VGA_PORT_CRTC_INDEX - 4 || color;
}

uint8_t vga_port_read(struct vga *v, unsigned port)
{
    struct vga_registers *r = &v->regs;
    if (!port_decoded(v, &port))
        return 0xff;
    switch (port) {
    case VGA_PORT_ATTRIBUTE:
        return r->attribute_index;
    case VGA_PORT_ATTRIBUTE_READ:
        return attribute_read(v);
    case VGA_PORT_MISC_WRITE:
        return status0_read(v);
    case VGA_PORT_SUBSYSTEM_ENABLE:
        return r->subsystem_enable;
    case VGA_PORT_SEQUENCER_INDEX:
        return r->sequencer_index;
    case VGA_PORT_SEQUENCER_DATA:
        return r->sequencer_index < SR_COUNT ? r->sequencer[r->sequencer_index] : 0;
    case VGA_PORT_PEL_MASK:
        return r->pel_mask;
    case VGA_PORT_DAC_READ_INDEX:
        return r->dac_reading ? 3 : 0;
    case VGA_PORT_DAC_WRITE_INDEX:
        return r->dac_index;
    case VGA_PORT_DAC_DATA:
        return dac_read(v);
    case VGA_PORT_FEATURE_READ:
        return r->feature_control;
    case VGA_PORT_MISC_READ:
        return r->misc_output;
    case VGA_PORT_GRAPHICS_INDEX:
        return r->graphics_index;
    case VGA_PORT_GRAPHICS_DATA:
        return r->graphics_index < GR_COUNT ? r->graphics[r->graphics_index] : 0;
    case VGA_PORT_CRTC_INDEX:
        return r->crtc_index;
    case VGA_PORT_CRTC_DATA:
        return crtc_read(v);
    case VGA_PORT_STATUS1:
        r->attribute_data = false;
        return vga_read_status1(v);
    default:
        return 0xff;
    }
}

static void register_write(struct vga *v, unsigned port, uint8_t value)
{
    struct vga_registers *r = &v->regs;
    switch (port) {
    case VGA_PORT_ATTRIBUTE:
        attribute_write(v, value);
        break;
    case VGA_PORT_MISC_WRITE:
        r->misc_output = value;
        vga_update_window(v);
        break;
    case VGA_PORT_SUBSYSTEM_ENABLE:
        r->subsystem_enable = value & 1;
        break;
    case VGA_PORT_SEQUENCER_INDEX:
        r->sequencer_index = value;
        break;
    case VGA_PORT_SEQUENCER_DATA:
        sequencer_write(v, value);
        break;
    case VGA_PORT_PEL_MASK:
        r->pel_mask = value;
        break;
    case VGA_PORT_DAC_READ_INDEX:
        dac_set_index(v, value, true);
        break;
    case VGA_PORT_DAC_WRITE_INDEX:
        dac_set_index(v, value, false);
        break;
    case VGA_PORT_DAC_DATA:
        dac_write(v, value);
        break;
    case VGA_PORT_GRAPHICS_INDEX:
        r->graphics_index = value;
        break;
    case VGA_PORT_GRAPHICS_DATA:
        graphics_write(v, value);
        break;
    case VGA_PORT_CRTC_INDEX:
        r->crtc_index = value;
        break;
    case VGA_PORT_CRTC_DATA:
        crtc_write(v, value);
        break;
    case VGA_PORT_STATUS1:
        r->feature_control = value;
        break;
    default:
        log_msg(LOG_GUEST_ERROR, "vga: write of %02x to port %x", value, port);
    }
}

void vga_port_write(struct vga *v, unsigned port, uint8_t value)
{
    if (!port_decoded(v, &port))
        return;
    register_write(v, port, value);
    v->redraw = true;
}

static uint64_t mono_read(void *vga, uint64_t offset, unsigned size)
{
    return vga_port_read(vga, VGA_PORT_MONO + (unsigned)offset);
}

static void mono_write(void *vga, uint64_t offset, uint64_t value, unsigned size)
{
    vga_port_write(vga, VGA_PORT_MONO + (unsigned)offset, (uint8_t)value);
}

static uint64_t color_read(void *vga, uint64_t offset, unsigned size)
{
    return vga_port_read(vga, VGA_PORT_ATTRIBUTE + (unsigned)offset);
}

static void color_write(void *vga, uint64_t offset, uint64_t value, unsigned size)
{
    vga_port_write(vga, VGA_PORT_ATTRIBUTE + (unsigned)offset, (uint8_t)value);
}

static uint64_t dispi_port_read(void *vga, uint64_t offset, unsigned size)
{
    struct vga *v = vga;
    return offset ? vga_dispi_read(v, v->regs.dispi_index) : v->regs.dispi_index;
}

static void dispi_port_write(void *vga, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = vga;
    if (offset)
        vga_dispi_write(v, v->regs.dispi_index, (uint16_t)value);
    else
        v->regs.dispi_index = (uint16_t)value;
}

static uint64_t window_read(void *vga, uint64_t offset, unsigned size)
{
    return vga_memory_read(vga, (uint32_t)offset);
}

static void window_write(void *vga, uint64_t offset, uint64_t value, unsigned size)
{
    vga_memory_write(vga, (uint32_t)offset, (uint8_t)value);
}

uint64_t vga_mmio_read(void *vga, uint64_t offset, unsigned size)
{
    struct vga *v = vga;
    uint64_t value = 0;
    if (offset >= VGA_MMIO_DISPI && offset + size <= VGA_MMIO_DISPI + DISPI_COUNT * 2 && !(offset & 1)) {
        value = vga_dispi_read(v, (unsigned)(offset - VGA_MMIO_DISPI) / 2);
        return size == 1 ? value & 0xff : value;
    }
    for (unsigned i = 0; i < size; i++) {
        static const uint8_t extension[8] = {8, 0, 0, 0, 0x1e, 0x1e, 0x1e, 0x1e}; /* length; little-endian */
        uint64_t at = offset + i;
        uint8_t byte = 0xff;
        if (at >= VGA_MMIO_PORTS && at < VGA_MMIO_PORTS + 0x20)
            byte = vga_port_read(v, VGA_PORT_ATTRIBUTE + (unsigned)(at - VGA_MMIO_PORTS));
        else if (at >= VGA_MMIO_EXTENSION && at < VGA_MMIO_EXTENSION + sizeof extension)
            byte = extension[at - VGA_MMIO_EXTENSION];
        value |= (uint64_t)byte << (i * 8);
    }
    return value;
}

void vga_mmio_write(void *vga, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = vga;
    if (offset >= VGA_MMIO_DISPI && offset + size <= VGA_MMIO_DISPI + DISPI_COUNT * 2 && !(offset & 1)) {
        vga_dispi_write(v, (unsigned)(offset - VGA_MMIO_DISPI) / 2, (uint16_t)value);
        return;
    }
    for (unsigned i = 0; i < size; i++) {
        uint64_t at = offset + i;
        if (at >= VGA_MMIO_PORTS && at < VGA_MMIO_PORTS + 0x20)
            vga_port_write(v, VGA_PORT_ATTRIBUTE + (unsigned)(at - VGA_MMIO_PORTS), (uint8_t)(value >> (i * 8)));
    }
}

static int add_ranges(struct vga *v)
{
    v->mono_ports = (struct bus_range){"vga", VGA_PORT_MONO, 12, 1, 1, mono_read, mono_write, v, false};
    v->color_ports = (struct bus_range){"vga", VGA_PORT_ATTRIBUTE, 0x20, 1, 1, color_read, color_write, v, false};
    v->dispi_ports =
        (struct bus_range){"vga-dispi", VGA_PORT_DISPI, 4, 2, 1, dispi_port_read, dispi_port_write, v, false};
    v->window_range =
        (struct bus_range){"vga-memory", VGA_WINDOW_BASE, VGA_WINDOW_SIZE, 1, 1, window_read, window_write, v, false};
    int error = bus_add(v->ports, &v->mono_ports);
    if (!error)
        error = bus_add(v->ports, &v->color_ports);
    if (!error)
        error = bus_add(v->ports, &v->dispi_ports);
    if (!error)
        error = bus_add(v->memory_bus, &v->window_range);
    return error;
}

int vga_init(struct vga *v, struct bus *ports, struct bus *memory_bus, struct memory *memory, struct clock *clock)
{
    memset(v, 0, sizeof *v);
    v->ports = ports;
    v->memory_bus = memory_bus;
    v->memory = memory;
    v->clock = clock;
    v->window_enabled = true;
    /* fresh pages are zero and cost nothing until the guest uses them, which is a few of the 16 MiB */
    uint8_t *vram = mmap(NULL, VGA_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vram == MAP_FAILED)
        return -ENOMEM;
    v->vram = vram;
    int error = add_ranges(v);
    if (error) {
        vga_destroy(v);
        return error;
    }
    if (memory)
        memory_post_writes(memory, gpa(VGA_WINDOW_BASE), VGA_WINDOW_SIZE);
    vga_reset(v);
    return 0;
}

void vga_destroy(struct vga *v)
{
    if (!v->vram)
        return;
    vga_set_window_enabled(v, false);
    bus_remove(v->ports, &v->mono_ports);
    bus_remove(v->ports, &v->color_ports);
    bus_remove(v->ports, &v->dispi_ports);
    bus_remove(v->memory_bus, &v->window_range);
    free(v->surface.pixels);
    free(v->line);
    munmap(v->vram, VGA_MEMORY_SIZE);
    v->surface = (struct surface){0};
    v->line = NULL;
    v->vram = NULL;
}

void vga_reset(struct vga *v)
{
    memset(&v->regs, 0, sizeof v->regs);
    v->regs.pel_mask = 0xff;
    v->regs.subsystem_enable = 1;
    v->regs.dispi[DISPI_ID] = DISPI_ID5;
    v->regs.dispi[DISPI_BPP] = 8;
    vga_restored(v);
}

void vga_restored(struct vga *v)
{
    struct vga_registers *r = &v->regs;
    if (r->dac_component > 2)
        r->dac_component = 0;
    if (vga_dispi_enabled(v))
        vga_dispi_write(v, DISPI_ENABLE, r->dispi[DISPI_ENABLE]); /* clamps what was restored */
    memset(v->dirty, 1, sizeof v->dirty);
    v->redraw = true;
    vga_update_window(v);
}
