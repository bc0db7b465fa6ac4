/* SPDX-License-Identifier: MIT */
/* The Bochs display interface: a few 16-bit registers that describe a packed-pixel mode. A guest may write anything at
 * any time; vga_dispi_clamp makes every combination fit the video memory before anything else looks at it. */
#include "devices/vga_internal.h"

#include "devices/log.h"

#include <string.h>

static bool depth_is_known(unsigned bpp)
{
    return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32;
}

/* Bits that a pixel takes. */
static unsigned depth_bits(unsigned bpp)
{
    return bpp == 15 ? 16 : bpp;
}

uint32_t vga_dispi_pitch(const struct vga *v)
{
    const uint16_t *d = v->regs.dispi;
    return d[DISPI_BPP] == 4 ? d[DISPI_VIRT_WIDTH] / 8u : d[DISPI_VIRT_WIDTH] * depth_bits(d[DISPI_BPP]) / 8u;
}

static uint16_t clamp(unsigned value, unsigned low, unsigned high)
{
    return (uint16_t)(value < low ? low : value > high ? high : value);
}

/* The bytes of a line in all planes together; what the limits are computed from. */
static uint32_t line_bytes(const struct vga *v)
{
    return v->regs.dispi[DISPI_VIRT_WIDTH] * depth_bits(v->regs.dispi[DISPI_BPP]) / 8u;
}

/* After this: XRES <= VIRT_WIDTH, both multiples of 8; X_OFFSET + XRES <= VIRT_WIDTH; Y_OFFSET + YRES <= VIRT_HEIGHT;
 * VIRT_HEIGHT lines fit the video memory. */
static void vga_dispi_clamp(struct vga *v)
{
    uint16_t *d = v->regs.dispi;
    if (!vga_dispi_enabled(v))
        return;
    if (!depth_is_known(d[DISPI_BPP]))
        d[DISPI_BPP] = 8;
    d[DISPI_XRES] = clamp(d[DISPI_XRES] & ~7u, 8, DISPI_MAX_XRES);
    d[DISPI_VIRT_WIDTH] = clamp(d[DISPI_VIRT_WIDTH] & ~7u, d[DISPI_XRES], DISPI_MAX_XRES);
    unsigned lines = VGA_MEMORY_SIZE / line_bytes(v);
    if (lines > UINT16_MAX)
        lines = UINT16_MAX;
    d[DISPI_VIRT_HEIGHT] = (uint16_t)lines;
    d[DISPI_YRES] = clamp(d[DISPI_YRES], 1, lines < DISPI_MAX_YRES ? lines : DISPI_MAX_YRES);
    d[DISPI_X_OFFSET] = clamp(d[DISPI_X_OFFSET], 0, d[DISPI_VIRT_WIDTH] - d[DISPI_XRES]);
    d[DISPI_Y_OFFSET] = clamp(d[DISPI_Y_OFFSET], 0, lines - d[DISPI_YRES]);
}

/* The palette keeps its colours when the width of the DAC changes. */
static void convert_dac(struct vga *v, bool wide)
{
    for (unsigned i = 0; i < 256; i++) {
        for (unsigned c = 0; c < 3; c++) {
            uint8_t *value = &v->regs.dac[i][c];
            *value = wide ? (uint8_t)(*value << 2 | *value >> 4) : *value >> 2;
        }
    }
}

static void write_enable(struct vga *v, uint16_t value)
{
    uint16_t *d = v->regs.dispi;
    bool was_enabled = vga_dispi_enabled(v);
    if ((value ^ d[DISPI_ENABLE]) & DISPI_8BIT_DAC)
        convert_dac(v, value & DISPI_8BIT_DAC);
    d[DISPI_ENABLE] = value & (DISPI_ENABLED | DISPI_GETCAPS | DISPI_8BIT_DAC | DISPI_LFB_ENABLED | DISPI_NOCLEARMEM);
    if (!(value & DISPI_ENABLED)) {
        d[DISPI_BANK] = 0;
        return;
    }
    if (!was_enabled) {
        d[DISPI_VIRT_WIDTH] = d[DISPI_XRES];
        d[DISPI_X_OFFSET] = 0;
        d[DISPI_Y_OFFSET] = 0;
    }
    vga_dispi_clamp(v);
    if (!was_enabled && !(value & DISPI_NOCLEARMEM)) {
        memset(v->vram, 0, (size_t)line_bytes(v) * d[DISPI_YRES]);
        memset(v->dirty, 1, sizeof v->dirty);
    }
}

void vga_dispi_write(struct vga *v, unsigned index, uint16_t value)
{
    uint16_t *d = v->regs.dispi;
    switch (index) {
    case DISPI_ID:
        if (value >= DISPI_ID0 && value <= DISPI_ID5)
            d[index] = value;
        break;
    case DISPI_ENABLE:
        write_enable(v, value);
        break;
    case DISPI_BPP:
        d[index] = value ? value : 8;
        break;
    case DISPI_BANK:
        d[index] = value & (VGA_MEMORY_SIZE / 0x10000 - 1);
        break;
    case DISPI_XRES:
    case DISPI_YRES:
    case DISPI_VIRT_WIDTH:
    case DISPI_X_OFFSET:
    case DISPI_Y_OFFSET:
        d[index] = value;
        break;
    case DISPI_VIRT_HEIGHT: /* follows from the width */
    case DISPI_VIDEO_MEMORY_64K:
        break;
    default:
        log_msg(LOG_GUEST_ERROR, "vga: write of %04x to DISPI register %04x", value, index);
        return;
    }
    vga_dispi_clamp(v);
    v->redraw = true;
    vga_update_window(v);
}

uint16_t vga_dispi_read(const struct vga *v, unsigned index)
{
    const uint16_t *d = v->regs.dispi;
    bool capabilities = d[DISPI_ENABLE] & DISPI_GETCAPS;
    switch (index) {
    case DISPI_XRES:
        return capabilities ? DISPI_MAX_XRES : d[index];
    case DISPI_YRES:
        return capabilities ? DISPI_MAX_YRES : d[index];
    case DISPI_BPP:
        return capabilities ? DISPI_MAX_BPP : d[index];
    case DISPI_VIDEO_MEMORY_64K:
        return VGA_MEMORY_SIZE / 0x10000;
    default:
        return index < DISPI_COUNT ? d[index] : 0;
    }
}
