/* SPDX-License-Identifier: MIT */
/* Mode 3 without running the VGA BIOS: the state that a directly booted kernel expects its loader's firmware to have
 * left (80x25 text, 9x16 cells, the 64 colours of the EGA). Values of the IBM VGA BIOS's mode table. */
#include "devices/vga_internal.h"

#include <string.h>

static const uint8_t mode3_sequencer[SR_COUNT] = {0x03, 0x00, 0x03, 0x00, 0x02};
static const uint8_t mode3_crtc[CR_COUNT] = {0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00,
                                             0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00, 0x9c, 0x8e,
                                             0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff};
static const uint8_t mode3_graphics[GR_COUNT] = {0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x00, 0xff};
static const uint8_t mode3_attribute[AR_COUNT] = {0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a,
                                                  0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0x00, 0x0f, 0x08, 0x00};

enum { MODE3_MISC_OUTPUT = 0x67, FONT_HEIGHT = 16, FONT_SIZE = 256 * FONT_HEIGHT, FONT_SLOT = 32 };

/* The first two characters of every VGA's 8x16 font: a blank and a smiling face. */
static const uint8_t font_start[] = {0, 0, 0,    0,    0,    0,    0,    0,    0,    0,    0,    0,    0, 0, 0, 0,
                                     0, 0, 0x7e, 0x81, 0xa5, 0x81, 0x81, 0xbd, 0x99, 0x81, 0x81, 0x7e, 0, 0, 0, 0};

static const uint8_t *find_font(const uint8_t *rom, size_t size)
{
    for (size_t at = 0; at + FONT_SIZE <= size; at++) {
        if (!memcmp(rom + at, font_start, sizeof font_start))
            return rom + at;
    }
    return NULL;
}

static void load_font(struct vga *v, const uint8_t *font)
{
    for (unsigned code = 0; code < 256; code++) {
        for (unsigned row = 0; row < FONT_SLOT; row++)
            v->vram[(code * FONT_SLOT + row) * 4 + 2] = row < FONT_HEIGHT ? font[code * FONT_HEIGHT + row] : 0;
    }
}

static void load_palette(struct vga_registers *r)
{
    for (unsigned i = 0; i < 256; i++) {
        for (unsigned c = 0; c < 3; c++) { /* bits rgbRGB: a third and two thirds */
            unsigned low = i >> (5 - c) & 1, high = i >> (2 - c) & 1;
            r->dac[i][c] = i < 64 ? (uint8_t)(low * 0x15 + high * 0x2a) : 0;
        }
    }
}

static void clear_screen(struct vga *v)
{
    for (unsigned at = 0; at < 0x8000; at += 2) {
        v->vram[at * 4] = ' ';
        v->vram[at * 4 + 1] = 0x07;
    }
}

bool vga_set_text_mode(struct vga *v, const uint8_t *rom, size_t size)
{
    struct vga_registers *r = &v->regs;
    const uint8_t *font = find_font(rom, size);
    vga_reset(v);
    r->misc_output = MODE3_MISC_OUTPUT;
    memcpy(r->sequencer, mode3_sequencer, sizeof r->sequencer);
    memcpy(r->crtc, mode3_crtc, sizeof r->crtc);
    memcpy(r->graphics, mode3_graphics, sizeof r->graphics);
    memcpy(r->attribute, mode3_attribute, sizeof r->attribute);
    r->attribute_index = AR_INDEX_PALETTE_SOURCE;
    load_palette(r);
    clear_screen(v);
    if (font)
        load_font(v, font);
    vga_restored(v);
    return font;
}
