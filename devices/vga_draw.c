/* SPDX-License-Identifier: MIT */
/* Draws what the registers and the video memory show into the surface.
 *
 * A VGA mode is drawn whenever a register, the visible memory or the blink phase changed: line by line, as DAC indexes
 * one byte a dot, shifted by the panning, then looked up and compared with what the surface has. DISPI modes can be
 * large: of these only lines with written pages are drawn. */
#include "devices/vga_internal.h"

#include <stdlib.h>
#include <string.h>

enum { DOTS_MAX = (VGA_MAX_COLUMNS + 1) * VGA_MAX_DOTS, VGA_MODE_PAGES = 0x40000 >> PAGE_SHIFT };

/* Sets the surface's size. When the host has no memory for it the old surface stays, 0 x 0 at worst. */
static bool resize(struct vga *v, unsigned width, unsigned height)
{
    struct surface *s = &v->surface;
    if (s->width == width && s->height == height)
        return false;
    size_t count = (size_t)width * height;
    if (count > v->capacity || count < v->capacity / 4) {
        uint32_t *pixels = malloc(count * sizeof *pixels);
        if (!pixels)
            return false;
        free(s->pixels);
        s->pixels = pixels;
        v->capacity = count;
    }
    uint32_t *line = realloc(v->line, width * sizeof *line);
    if (!line) {
        s->width = s->height = 0;
        return false;
    }
    v->line = line;
    s->width = s->stride = width;
    s->height = height;
    memset(s->pixels, 0, count * sizeof *s->pixels);
    return true;
}

static uint8_t widen6(uint8_t value)
{
    return (uint8_t)(value << 2 | value >> 4);
}

static void make_palette(const struct vga *v, uint32_t palette[256])
{
    bool wide = v->regs.dispi[DISPI_ENABLE] & DISPI_8BIT_DAC;
    for (unsigned i = 0; i < 256; i++) {
        const uint8_t *c = v->regs.dac[i & v->regs.pel_mask];
        palette[i] = wide ? (uint32_t)c[0] << 16 | c[1] << 8 | c[2]
                          : (uint32_t)widen6(c[0]) << 16 | widen6(c[1]) << 8 | widen6(c[2]);
    }
}

/* Puts v->line into the surface; true if that changed anything. */
static bool put_line(struct vga *v, unsigned y)
{
    uint32_t *row = v->surface.pixels + (size_t)y * v->surface.stride;
    size_t size = v->surface.width * sizeof *row;
    if (!memcmp(row, v->line, size))
        return false;
    memcpy(row, v->line, size);
    return true;
}

/* ---- VGA modes ---- */

/* Eight 4-bit pixels of a plane word. */
static void planar_dots(uint32_t word, const uint8_t colors[16], uint8_t *dots)
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t bits = word >> (7 - i) & 0x01010101;
        dots[i] = colors[(bits | bits >> 7 | bits >> 14 | bits >> 21) & 15];
    }
}

/* Planes 0 and 2 hold the first four pixels, 1 and 3 the others: two bits of each byte a pixel. */
static void interleave_dots(uint32_t word, const uint8_t colors[16], uint8_t *dots)
{
    for (unsigned i = 0; i < 8; i++) {
        uint32_t pair = word >> (i & 4 ? 8 : 0) >> (6 - (i & 3) * 2);
        dots[i] = colors[(pair & 3) | (pair >> 14 & 0xc)];
    }
}

static void graphics_line(const struct vga *v, const struct vga_frame *f, const struct vga_scan *s, uint8_t *dots)
{
    uint8_t colors[16];
    for (unsigned i = 0; i < 16; i++)
        colors[i] = vga_attribute_color(v, i);
    for (unsigned column = 0; column <= f->columns; column++, dots += 8) {
        unsigned at = vga_scan_address(f, s->counter + (column >> f->count_shift), s->row);
        uint32_t word;
        memcpy(&word, v->vram + at * 4, 4);
        switch (f->picture) {
        case VGA_PICTURE_256:
            for (unsigned i = 0; i < 8; i++)
                dots[i] = (uint8_t)(word >> (i / 2 * 8));
            break;
        case VGA_PICTURE_INTERLEAVE:
            interleave_dots(word, colors, dots);
            break;
        default:
            planar_dots(word, colors, dots);
            break;
        }
    }
}

static bool draw_vga(struct vga *v, const struct vga_frame *f, unsigned phase)
{
    uint32_t palette[256];
    uint8_t dots[DOTS_MAX];
    struct vga_scan s;
    bool changed = false;
    make_palette(v, palette);
    vga_scan_first(f, &s);
    for (unsigned y = 0; y < f->height; y += f->line_repeat) {
        if (f->picture == VGA_PICTURE_TEXT)
            vga_text_line(v, f, &s, phase, dots);
        else
            graphics_line(v, f, &s, dots);
        for (unsigned x = 0; x < f->width; x++)
            v->line[x] = palette[dots[s.panning + x / f->dot_repeat]];
        for (unsigned i = 0; i < f->line_repeat; i++)
            changed |= put_line(v, y + i);
        vga_scan_next(f, &s);
    }
    return changed;
}

static bool draw_blank(struct vga *v)
{
    bool changed = false;
    memset(v->line, 0, v->surface.width * sizeof *v->line);
    for (unsigned y = 0; y < v->surface.height; y++)
        changed |= put_line(v, y);
    return changed;
}

/* ---- DISPI modes ---- */

static uint32_t color15(unsigned p)
{
    unsigned r = p >> 10 & 31, g = p >> 5 & 31, b = p & 31;
    return (r << 3 | r >> 2) << 16 | (g << 3 | g >> 2) << 8 | (b << 3 | b >> 2);
}

static uint32_t color16(unsigned p)
{
    unsigned r = p >> 11 & 31, g = p >> 5 & 63, b = p & 31;
    return (r << 3 | r >> 2) << 16 | (g << 2 | g >> 4) << 8 | (b << 3 | b >> 2);
}

static void dispi_line_4(struct vga *v, uint32_t offset, unsigned x_offset, unsigned width, const uint32_t *palette)
{
    uint8_t colors[16], dots[8];
    for (unsigned i = 0; i < 16; i++)
        colors[i] = vga_attribute_color(v, i);
    for (unsigned x = 0; x < width; x++) {
        unsigned at = x_offset + x;
        uint32_t word;
        if (x == 0 || (at & 7) == 0) {
            memcpy(&word, v->vram + offset + at / 8 * 4, 4);
            planar_dots(word, colors, dots);
        }
        v->line[x] = palette[dots[at & 7]];
    }
}

static void dispi_line_packed(struct vga *v, const uint8_t *from, unsigned bpp, unsigned width, const uint32_t *palette)
{
    for (unsigned x = 0; x < width; x++) {
        switch (bpp) {
        case 8:
            v->line[x] = palette[from[x]];
            break;
        case 15:
            v->line[x] = color15(from[x * 2] | from[x * 2 + 1] << 8);
            break;
        case 16:
            v->line[x] = color16(from[x * 2] | from[x * 2 + 1] << 8);
            break;
        case 24:
            v->line[x] = from[x * 3] | from[x * 3 + 1] << 8 | (uint32_t)from[x * 3 + 2] << 16;
            break;
        default:
            v->line[x] = from[x * 4] | from[x * 4 + 1] << 8 | (uint32_t)from[x * 4 + 2] << 16;
            break;
        }
    }
}

static bool pages_dirty(const struct vga *v, uint64_t offset, uint64_t size)
{
    for (uint64_t page = offset >> PAGE_SHIFT; page <= (offset + size - 1) >> PAGE_SHIFT; page++) {
        if (v->dirty[page])
            return true;
    }
    return false;
}

static bool draw_dispi(struct vga *v, bool whole)
{
    const uint16_t *d = v->regs.dispi;
    unsigned bpp = d[DISPI_BPP], width = v->surface.width;
    bool planar = bpp == 4;
    uint64_t pitch = vga_dispi_pitch(v) * (planar ? 4 : 1);
    uint64_t skip = planar ? 0 : d[DISPI_X_OFFSET] * ((bpp + 7) / 8);
    uint64_t size = planar ? pitch : width * ((bpp + 7) / 8);
    uint32_t palette[256];
    bool changed = false;
    make_palette(v, palette);
    for (unsigned y = 0; y < v->surface.height; y++) {
        uint64_t offset = (y + d[DISPI_Y_OFFSET]) * pitch + skip;
        if (offset + size > VGA_MEMORY_SIZE)
            break; /* vga_dispi_clamp does not let this happen */
        if (!whole && !pages_dirty(v, offset, size))
            continue;
        if (planar)
            dispi_line_4(v, (uint32_t)offset, d[DISPI_X_OFFSET], width, palette);
        else
            dispi_line_packed(v, v->vram + offset, bpp, width, palette);
        changed |= put_line(v, y);
    }
    return changed;
}

/* ---- */

const struct surface *vga_draw(void *vga, bool full, bool *changed)
{
    struct vga *v = vga;
    struct vga_frame f;
    vga_frame_decode(v, &f);
    if (f.picture == VGA_PICTURE_BLANK) {
        /* The monitor stays in the mode it was in. */
        f.width = v->surface.width ? v->surface.width : 720;
        f.height = v->surface.width ? v->surface.height : 400;
    }
    bool resized = resize(v, f.width, f.height);
    unsigned phase = f.picture == VGA_PICTURE_TEXT ? vga_blink_phase(v) : 0;
    bool whole = full || resized || v->redraw || phase != v->blink_phase;
    bool any = resized;
    vga_collect_dirty(v);
    if (v->surface.width != f.width || v->surface.height != f.height)
        ; /* no memory for it */
    else if (f.picture == VGA_PICTURE_DISPI)
        any |= draw_dispi(v, whole);
    else if (f.picture == VGA_PICTURE_BLANK)
        any |= whole && draw_blank(v);
    else if (whole || memchr(v->dirty, 1, VGA_MODE_PAGES))
        any |= draw_vga(v, &f, phase);
    v->blink_phase = phase;
    v->redraw = false;
    memset(v->dirty, 0, sizeof v->dirty);
    if (changed)
        *changed = any;
    return &v->surface;
}

struct display_source vga_display(struct vga *v)
{
    return (struct display_source){vga_draw, vga_text, v};
}
