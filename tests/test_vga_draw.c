/* SPDX-License-Identifier: MIT */
/* What the VGA shows: every kind of mode, scrolling, the text screen, screenshots; and random programs. */
#include "devices/vga_pci.h"
#include "tests/test.h"
#include "tests/vga_rig.h"

#include <errno.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t random_state;

static unsigned random_bits(unsigned bits)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state & ((1u << bits) - 1);
}

/* FNV-1a over the pixels. */
static uint32_t surface_hash(const struct surface *s)
{
    uint32_t hash = 2166136261u;
    for (unsigned y = 0; y < s->height; y++) {
        for (unsigned x = 0; x < s->width; x++)
            hash = (hash ^ vga_rig_pixel(s, x, y)) * 16777619u;
    }
    return hash;
}

static void put_font_row(struct vga_rig *rig, unsigned font, unsigned code, unsigned row, unsigned bits)
{
    rig->vga.vram[(font + code * 32 + row) * 4 + 2] = (uint8_t)bits;
}

static void put_cell(struct vga_rig *rig, unsigned cell, unsigned code, unsigned attribute)
{
    vga_rig_poke(rig, 0xb8000 + cell * 2, code);
    vga_rig_poke(rig, 0xb8001 + cell * 2, attribute);
}

static void text_mode(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 3);
    vga_rig_set(&rig, 0x3d4, CR_CURSOR_LOW, 3);
    put_font_row(&rig, 0, 'A', 2, 0x81);
    put_font_row(&rig, 0, 0xc4, 7, 0xff); /* a line: its ninth dot is drawn too */
    put_font_row(&rig, 0, 0xe0, 7, 0xff);
    put_cell(&rig, 0, 'A', 0x1e);
    put_cell(&rig, 1, 0xc4, 0x24);
    put_cell(&rig, 2, 0xe0, 0x24);
    put_cell(&rig, 3, ' ', 0x05);
    put_cell(&rig, 80, 'A', 0x4f);
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 720);
    CU_ASSERT_EQUAL(s->height, 400);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 2), vga_rig_grey(14));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 1, 2), vga_rig_grey(1));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 7, 2), vga_rig_grey(14));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 8, 2), vga_rig_grey(1));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 17, 7), vga_rig_grey(4));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 26, 7), vga_rig_grey(2));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 25, 7), vga_rig_grey(4));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 18), vga_rig_grey(15));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 27, 13), vga_rig_grey(5)); /* the cursor, rows 13 and 14 */
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 27, 12), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 27, 15), vga_rig_grey(0));
    CU_ASSERT_EQUAL(surface_hash(s), 0xf1dc2d29);
    clock_advance(rig.clock, 9 * 14300 * NS_PER_US); /* nine frames on: the cursor is off */
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 27, 13), vga_rig_grey(0));
    vga_rig_set(&rig, 0x3d4, CR_START_LOW, 80);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 2), vga_rig_grey(15));
    vga_rig_set(&rig, 0x3c4, SR_CLOCKING, SR1_DOTS_8);
    CU_ASSERT_EQUAL(vga_rig_draw(&rig)->width, 640);
    vga_rig_set(&rig, 0x3c4, SR_CLOCKING, SR1_SCREEN_OFF);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 2), 0);
    vga_rig_destroy(&rig);
}

static void text_attributes(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 3);
    vga_rig_set(&rig, 0x3d4, CR_CURSOR_START, CR10_CURSOR_OFF);
    put_font_row(&rig, 0, 'B', 0, 0x80);      /* map B, attribute bit 3 clear */
    put_font_row(&rig, 0x2000, 'B', 0, 0x40); /* map 4 as A */
    put_cell(&rig, 0, 'B', 0x87);
    put_cell(&rig, 1, 'B', 0x0f);
    put_cell(&rig, 2, ' ', 0x01);
    vga_rig_set(&rig, 0x3c4, SR_CHARACTER_MAP, 0x20);
    vga_rig_set_attribute(&rig, AR_MODE, 0x04);
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 0), vga_rig_grey(7));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 1, 0), vga_rig_grey(8)); /* bright background while blinking is off */
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 9, 0), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 10, 0), vga_rig_grey(15));
    vga_rig_set_attribute(&rig, AR_MODE, 0x0c);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 1, 0), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 0), vga_rig_grey(7));
    clock_advance(rig.clock, 17 * 14300 * NS_PER_US);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 0), vga_rig_grey(0)); /* blinked away */
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 10, 0), vga_rig_grey(15));
    vga_rig_set_attribute(&rig, AR_MODE, AR10_MONO);
    vga_rig_set(&rig, 0x3d4, CR_UNDERLINE, 12);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 20, 12), vga_rig_grey(1));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 20, 11), vga_rig_grey(0));
    vga_rig_set_attribute(&rig, AR_MODE, AR10_P54_SELECT); /* DAC index bits 4-7 from the colour select register */
    vga_rig_set_attribute(&rig, AR_COLOR_SELECT, 0x0b);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 10, 0), vga_rig_grey(0xbf));
    vga_rig_destroy(&rig);
}

static void text_output(void)
{
    struct vga_rig rig;
    char buf[32768], small[8];
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    struct display_source source = vga_display(&rig.vga);
    vga_rig_mode(&rig, 3);
    for (unsigned i = 0; i < 80 * 50; i++)
        put_cell(&rig, i, ' ', 7);
    static const char line[] = "A:\\>dir \xc9\xcd\xbb\x01";
    for (unsigned i = 0; i < sizeof line - 1; i++)
        put_cell(&rig, 80 + i, (uint8_t)line[i], 7);
    put_cell(&rig, 80 * 25, 'z', 7);
    CU_ASSERT_TRUE(source.text(source.chip, buf, sizeof buf));
    CU_ASSERT_EQUAL(strncmp(buf, "\nA:\\>dir ╔═╗☺\n\n", 20), 0);
    unsigned lines = 0;
    for (const char *p = buf; *p; p++)
        lines += *p == '\n';
    CU_ASSERT_EQUAL(lines, 25);
    vga_rig_set(&rig, 0x3d4, CR_START_LOW, 80);
    CU_ASSERT_TRUE(source.text(source.chip, buf, sizeof buf));
    CU_ASSERT_EQUAL(strncmp(buf, "A:", 2), 0);
    CU_ASSERT_STRING_EQUAL(buf + strlen(buf) - 3, "\nz\n");
    CU_ASSERT_TRUE(source.text(source.chip, small, sizeof small));
    CU_ASSERT(strlen(small) < sizeof small);
    for (size_t len = 0; len < 40; len++) {
        memset(buf, 'x', 64);
        source.text(source.chip, buf, len);
        CU_ASSERT_EQUAL(buf[len], 'x');
    }
    vga_rig_mode(&rig, 0x13);
    CU_ASSERT_FALSE(source.text(source.chip, buf, sizeof buf));
    vga_rig_destroy(&rig);
}

static void mode_13h(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, true));
    vga_rig_mode(&rig, 0x13);
    for (unsigned i = 0; i < 64000; i++)
        vga_rig_poke(&rig, 0xa0000 + i, i % 251);
    struct display_source source = vga_display(&rig.vga);
    bool changed = false;
    const struct surface *s = source.draw(source.chip, false, &changed);
    CU_ASSERT_TRUE(changed);
    CU_ASSERT_EQUAL(s->width, 640);
    CU_ASSERT_EQUAL(s->height, 400);
    unsigned bad = 0;
    for (unsigned y = 0; y < 400; y++) {
        for (unsigned x = 0; x < 640; x++)
            bad += vga_rig_pixel(s, x, y) != vga_rig_grey((y / 2 * 320 + x / 2) % 251);
    }
    CU_ASSERT_EQUAL(bad, 0);
    source.draw(source.chip, false, &changed);
    CU_ASSERT_FALSE(changed);
    vga_rig_poke(&rig, 0xa0000, 77); /* by way of the mapping: the log tells */
    s = source.draw(source.chip, false, &changed);
    CU_ASSERT_TRUE(changed);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 1, 1), vga_rig_grey(77));
    vga_rig_out(&rig, 0x3c6, 0x0f); /* pel mask */
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 0), vga_rig_grey(77 & 0x0f));
    vga_rig_destroy(&rig);
}

static void plot_x(struct vga_rig *rig, unsigned page, unsigned x, unsigned y, unsigned color)
{
    vga_rig_set(rig, 0x3c4, SR_MAP_MASK, 1u << (x & 3));
    vga_rig_poke(rig, 0xa0000 + page + y * 80 + x / 4, color);
}

static void mode_x(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, true));
    vga_rig_mode(&rig, 'x');
    for (unsigned y = 0; y < 240; y++) {
        for (unsigned x = 0; x < 320; x++)
            plot_x(&rig, 0x4b00, x, y, (x * 3 + y * 7) % 251);
    }
    vga_rig_set(&rig, 0x3d4, CR_START_HIGH, 0x4b); /* the second page */
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 640);
    CU_ASSERT_EQUAL(s->height, 480);
    unsigned bad = 0;
    for (unsigned y = 0; y < 480; y++) {
        for (unsigned x = 0; x < 640; x++)
            bad += vga_rig_pixel(s, x, y) != vga_rig_grey((x / 2 * 3 + y / 2 * 7) % 251);
    }
    CU_ASSERT_EQUAL(bad, 0);
    vga_rig_set_attribute(&rig, AR_PEL_PANNING, 6); /* three pixels to the left */
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 0), vga_rig_grey(9));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 100, 2), vga_rig_grey(53 * 3 + 7));
    /* Split screen from line 200 on: address 0, and without the panning. */
    plot_x(&rig, 0, 0, 0, 200);
    vga_rig_set(&rig, 0x3d4, CR_LINE_COMPARE, 199);
    vga_rig_set(&rig, 0x3d4, CR_OVERFLOW, 0x2e);
    vga_rig_set(&rig, 0x3d4, CR_MAXIMUM_SCAN_LINE, 0x01);
    vga_rig_set_attribute(&rig, AR_MODE, 0x41 | AR10_PANNING_COMPATIBLE);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 199), vga_rig_grey((9 + 99 * 7) % 251));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 200), vga_rig_grey(200));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 2, 200), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 202), vga_rig_grey(0));
    vga_rig_destroy(&rig);
}

static void planar_mode(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 0x12);
    vga_rig_set(&rig, 0x3ce, GR_MODE, 2);
    for (unsigned i = 0; i < 38400; i++) {
        vga_rig_set(&rig, 0x3ce, GR_BIT_MASK, 0xff);
        vga_rig_poke(&rig, 0xa0000 + i, i % 16);
    }
    vga_rig_set(&rig, 0x3ce, GR_BIT_MASK, 0x20);
    vga_rig_peek(&rig, 0xa0000);
    vga_rig_poke(&rig, 0xa0000, 9);
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 640);
    CU_ASSERT_EQUAL(s->height, 480);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 2, 0), vga_rig_grey(9));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 3, 0), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 639, 479), vga_rig_grey(38399 % 16));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 16, 1), vga_rig_grey(82 % 16));
    vga_rig_set_attribute(&rig, AR_PLANE_ENABLE, 7);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 2, 0), vga_rig_grey(1));
    vga_rig_set(&rig, 0x3d4, CR_PRESET_ROW_SCAN, 0x20); /* byte panning */
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 0), vga_rig_grey(1));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 8, 0), vga_rig_grey(2));
    /* 320x200: every dot twice across and down. */
    vga_rig_mode(&rig, 0xd);
    vga_rig_set(&rig, 0x3ce, GR_MODE, 2);
    vga_rig_poke(&rig, 0xa0000 + 40, 0xb);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 640);
    CU_ASSERT_EQUAL(s->height, 400);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 15, 2), vga_rig_grey(0xb));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 16, 3), vga_rig_grey(41 % 16));
    vga_rig_destroy(&rig);
}

static void cga_modes(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 4);
    vga_rig_poke(&rig, 0xb8000, 0x1b); /* 0 1 2 3 */
    vga_rig_poke(&rig, 0xb8001, 0xe4); /* 3 2 1 0 */
    vga_rig_poke(&rig, 0xba000, 0xff); /* the odd lines are 8 KiB further */
    vga_rig_poke(&rig, 0xb8050, 0x55); /* line 2 */
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 640);
    CU_ASSERT_EQUAL(s->height, 400);
    for (unsigned x = 0; x < 8; x++)
        CU_ASSERT_EQUAL(vga_rig_pixel(s, x * 2 + 1, 1), vga_rig_grey(x < 4 ? x : 7 - x));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 2), vga_rig_grey(3));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 8, 3), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 0, 4), vga_rig_grey(1));
    vga_rig_mode(&rig, 6);
    memset(rig.vga.vram, 0, 0x40000);
    vga_rig_poke(&rig, 0xb8001, 0x82);
    vga_rig_poke(&rig, 0xba000, 0x01);
    s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 640);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 8, 0), vga_rig_grey(1));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 9, 0), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 14, 1), vga_rig_grey(1));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 7, 2), vga_rig_grey(1));
    vga_rig_destroy(&rig);
}

static void dispi_modes(void)
{
    static const struct {
        unsigned bpp, bytes;
        uint32_t pixel, color;
    } depths[] = {{8, 1, 200, 0},
                  {15, 2, 0x7c1f, 0xff00ff},
                  {16, 2, 0x07e1, 0x00ff08},
                  {24, 3, 0x123456, 0x123456},
                  {32, 4, 0xff654321, 0x654321}};
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 0x13);
    for (unsigned i = 0; i < 5; i++) {
        vga_rig_dispi(&rig, DISPI_ENABLE, 0);
        vga_rig_dispi(&rig, DISPI_XRES, 320);
        vga_rig_dispi(&rig, DISPI_YRES, 200);
        vga_rig_dispi(&rig, DISPI_BPP, depths[i].bpp);
        vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED | DISPI_LFB_ENABLED);
        vga_rig_dispi(&rig, DISPI_VIRT_WIDTH, 400);
        vga_rig_dispi(&rig, DISPI_X_OFFSET, 13);
        vga_rig_dispi(&rig, DISPI_Y_OFFSET, 300);
        vga_rig_draw(&rig);
        memcpy(rig.vga.vram + ((300 + 7) * 400 + 13 + 319) * depths[i].bytes, &depths[i].pixel, depths[i].bytes);
        memset(rig.vga.dirty, 1, sizeof rig.vga.dirty);
        const struct surface *s = vga_rig_draw(&rig);
        CU_ASSERT_EQUAL(s->width, 320);
        CU_ASSERT_EQUAL(s->height, 200);
        CU_ASSERT_EQUAL(vga_rig_pixel(s, 319, 7), depths[i].bpp == 8 ? vga_rig_grey(200) : depths[i].color);
        CU_ASSERT_EQUAL(vga_rig_pixel(s, 318, 7), 0);
        CU_ASSERT_EQUAL(vga_rig_pixel(s, 319, 8), 0);
    }
    vga_rig_dispi(&rig, DISPI_ENABLE, 0);
    vga_rig_dispi(&rig, DISPI_BPP, 4);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED);
    vga_rig_dispi(&rig, DISPI_VIRT_WIDTH, 640);
    vga_rig_dispi(&rig, DISPI_X_OFFSET, 3);
    vga_rig_set(&rig, 0x3c4, SR_MEMORY_MODE, 6);
    vga_rig_set(&rig, 0x3ce, GR_MODE, 2);
    vga_rig_poke(&rig, 0xa0000 + 80 + 1, 5);
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 4, 1), vga_rig_grey(0));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 5, 1), vga_rig_grey(5));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 12, 1), vga_rig_grey(5));
    CU_ASSERT_EQUAL(vga_rig_pixel(s, 13, 1), vga_rig_grey(0));
    vga_rig_destroy(&rig);
}

/* CVE-2017-13672, CVE-2018-5683: start address, offset, cursor and sizes that lead past the end of video memory. */
static void display_bounds(void)
{
    static const unsigned kinds[] = {3, 4, 6, 0xd, 0x12, 0x13, 'x'};
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        vga_rig_mode(&rig, kinds[i]);
        vga_rig_set(&rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0);
        for (unsigned reg = CR_OVERFLOW; reg < CR_COUNT; reg++)
            vga_rig_set(&rig, 0x3d4, reg, reg == CR_VERTICAL_RETRACE_END ? 0 : 0xff);
        vga_rig_set(&rig, 0x3d4, CR_HORIZONTAL_DISPLAY_END, 0xff);
        vga_rig_set(&rig, 0x3d4, CR_CURSOR_START, 0);
        const struct surface *s = vga_rig_draw(&rig);
        CU_ASSERT(s->width >= 2048 && s->height == 2048);
        vga_rig_set(&rig, 0x3d4, CR_MODE_CONTROL, 0xa3);
        vga_rig_set(&rig, 0x3d4, CR_UNDERLINE, 0);
        vga_rig_draw(&rig);
    }
    vga_rig_dispi(&rig, DISPI_XRES, 0xffff);
    vga_rig_dispi(&rig, DISPI_YRES, 0xffff);
    vga_rig_dispi(&rig, DISPI_BPP, 32);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED);
    vga_rig_dispi(&rig, DISPI_Y_OFFSET, 0xffff);
    const struct surface *s = vga_rig_draw(&rig);
    CU_ASSERT_EQUAL(s->width, 16000);
    CU_ASSERT_EQUAL(s->height, VGA_MEMORY_SIZE / 64000);
    vga_rig_destroy(&rig);
}

/* ---- PCI ---- */

static void pci_function(void)
{
    char err[160] = "", text[8192];
    struct bus *ports = bus_create("ports", 65536), *memory_bus = bus_create("memory", UINT64_MAX);
    struct clock *clock = clock_create(true);
    struct memory memory;
    struct irq_line pirq[PCI_PIRQ_COUNT] = {{0}};
    struct vga_pci *p = calloc(1, sizeof *p);
    CU_ASSERT_FATAL(p && memory_init(&memory, 1 << 20, err, sizeof err) == 0);
    memory_unmap(&memory, gpa(VGA_WINDOW_BASE), VGA_WINDOW_SIZE);
    struct pci_bus *bus = pci_bus_create(ports, memory_bus, &memory, pirq);
    int error = vga_pci_init(p, bus, 2, 0, ports, memory_bus, &memory, clock, "/nonexistent/rom", err, sizeof err);
    CU_ASSERT_EQUAL(error, -ENOENT);
    CU_ASSERT_STRING_EQUAL(err, "/nonexistent/rom: No such file or directory");
    error = vga_pci_init(p, bus, 2, 0, ports, memory_bus, &memory, clock, NULL, err, sizeof err);
    if (error == -ENOENT) {
        test_skip("no VGA BIOS (package seabios)");
    } else {
        CU_ASSERT_EQUAL(error, 0);
        CU_ASSERT_EQUAL(pci_config_read(bus, 0, 2, 0, PCI_VENDOR_ID, 4), 0x11111234);
        pci_config_write(bus, 0, 2, 0, PCI_BASE_ADDRESS, 0xe0000000, 4);
        pci_config_write(bus, 0, 2, 0, PCI_BASE_ADDRESS + 8, 0xfebf0000, 4);
        pci_config_write(bus, 0, 2, 0, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
        CU_ASSERT_EQUAL(bus_read(memory_bus, 0xfebf0500, 2), 0xb0c5);
        memory_write32(&memory, gpa(0xe0000004), 0x00abcdef);
        CU_ASSERT_EQUAL(p->vga.vram[4], 0xef);
        vga_dispi_write(&p->vga, DISPI_XRES, 64);
        vga_dispi_write(&p->vga, DISPI_YRES, 64);
        vga_dispi_write(&p->vga, DISPI_BPP, 32);
        vga_dispi_write(&p->vga, DISPI_ENABLE, DISPI_ENABLED);
        struct display_source source = vga_display(&p->vga);
        bool changed;
        source.draw(source.chip, false, &changed);
        source.draw(source.chip, false, &changed);
        CU_ASSERT_FALSE(changed);
        memory_write32(&memory, gpa(0xe0000104), 0x00abcdef);
        const struct surface *s = source.draw(source.chip, false, &changed);
        CU_ASSERT_TRUE(changed);
        CU_ASSERT_EQUAL(vga_rig_pixel(s, 1, 1), 0xabcdef);
        pci_config_write(bus, 0, 2, 0, PCI_COMMAND, 0, 2);
        CU_ASSERT_FALSE(p->vga.lfb.mapped);
        /* What a kernel booted without the BIOS finds. */
        CU_ASSERT_TRUE(vga_pci_set_text_mode(p));
        bus_write(memory_bus, 0xb8000, 0x074d, 2);
        CU_ASSERT_TRUE(source.text(source.chip, text, sizeof text));
        CU_ASSERT_EQUAL(strncmp(text, "M\n\n", 3), 0);
        s = source.draw(source.chip, false, &changed);
        CU_ASSERT_EQUAL(s->width, 720);
        CU_ASSERT_EQUAL(vga_rig_pixel(s, 1, 5), 0xaaaaaa); /* the M's left stroke, light grey */
        vga_pci_destroy(p);
    }
    pci_bus_destroy(bus);
    memory_destroy(&memory);
    clock_destroy(clock);
    bus_destroy(memory_bus);
    bus_destroy(ports);
    free(p);
}

/* ---- PNG ---- */

static void png_round_trip(void)
{
    char directory[] = "/tmp/ringfold-png.XXXXXX", path[64];
    uint32_t pixels[7 * 5], back[5 * 5] = {0};
    for (unsigned i = 0; i < 35; i++)
        pixels[i] = (i * 0x01234567u) & 0xffffff;
    struct surface s = {5, 5, 7, pixels};
    CU_ASSERT_FATAL(mkdtemp(directory) != NULL);
    snprintf(path, sizeof path, "%s/shot.png", directory);
    CU_ASSERT_EQUAL(png_write(path, &s), 0);
    png_image image = {.version = PNG_IMAGE_VERSION};
    CU_ASSERT_FATAL(png_image_begin_read_from_file(&image, path));
    CU_ASSERT_EQUAL(image.width, 5);
    CU_ASSERT_EQUAL(image.height, 5);
    image.format = PNG_FORMAT_BGRA;
    CU_ASSERT_FATAL(png_image_finish_read(&image, NULL, back, 0, NULL));
    unsigned bad = 0;
    for (unsigned i = 0; i < 25; i++)
        bad += back[i] != (pixels[i / 5 * 7 + i % 5] | 0xff000000);
    CU_ASSERT_EQUAL(bad, 0);
    CU_ASSERT_EQUAL(png_write("/nonexistent/shot.png", &s), -ENOENT);
    CU_ASSERT_EQUAL(png_write(directory, &s), -EISDIR);
    CU_ASSERT_EQUAL(png_write("/dev/full", &s), -ENOSPC);
    CU_ASSERT_EQUAL(png_write(path, &(struct surface){0, 0, 0, NULL}), -EINVAL);
    unlink(path);
    CU_ASSERT_EQUAL(rmdir(directory), 0); /* nothing else was left in it */
}

/* ---- random programs ---- */

static void random_step(struct vga_rig *rig)
{
    static const unsigned ports[] = {0x3c4, 0x3ce, 0x3d4, 0x3b4};
    unsigned kind = random_bits(4);
    if (kind < 5) {
        vga_rig_set(rig, ports[random_bits(2)], random_bits(5), random_bits(8));
    } else if (kind == 5) {
        vga_rig_set_attribute(rig, random_bits(5), random_bits(8));
    } else if (kind == 6) {
        bus_write(rig->ports, 0x3b0 + random_bits(8) % 0x30, random_bits(16), 1u << random_bits(2) % 3);
        bus_read(rig->ports, 0x3b0 + random_bits(8) % 0x30, 1u << random_bits(2) % 3);
    } else if (kind == 7) {
        unsigned index = random_bits(4);
        unsigned value = random_bits(random_bits(4) + 1);
        if (index == DISPI_ENABLE && random_bits(1))
            value = 0;
        vga_rig_dispi(rig, index, value);
        vga_rig_dispi_get(rig, index);
    } else if (kind == 8) {
        vga_mmio_write(&rig->vga, random_bits(12), random_bits(16), 1u << random_bits(1));
        vga_mmio_read(&rig->vga, random_bits(12), 1u << random_bits(1));
    } else if (kind < 14) {
        uint32_t at = 0xa0000 + random_bits(17);
        vga_rig_poke(rig, at, random_bits(8));
        vga_rig_peek(rig, at ^ random_bits(4));
        bus_write(rig->memory_bus, at, random_bits(30), 8);
    } else {
        clock_advance(rig->clock, random_bits(24));
        vga_rig_in(rig, 0x3da);
    }
}

/* Keeps the big surfaces rare, so that the run stays short. */
static void random_draw(struct vga_rig *rig)
{
    static char text[65536];
    struct display_source source = vga_display(&rig->vga);
    bool changed;
    const struct surface *s = source.draw(source.chip, random_bits(1), &changed);
    uint32_t sum = 0;
    for (unsigned y = 0; y < s->height; y += 64)
        sum += vga_rig_pixel(s, s->width - 1, y);
    rig->vga.regs.latch ^= sum & 1;
    source.text(source.chip, text, random_bits(16));
}

static void random_programs(void)
{
    static const unsigned kinds[] = {3, 4, 6, 0xd, 0x12, 0x13, 'x'};
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, true));
    random_state = 20260101;
    for (unsigned round = 0; round < 60; round++) {
        vga_rig_mode(&rig, kinds[round % 7]);
        for (unsigned step = 0; step < 120; step++) {
            random_step(&rig);
            if (step % 40 == 39)
                random_draw(&rig);
        }
        for (unsigned i = 0; i < 0x20; i++) { /* nothing but the video memory may ever be mapped there */
            const uint8_t *page = memory_page(&rig.memory, 0xa0 + i).write;
            CU_ASSERT(!page || (page >= rig.vga.vram && page < rig.vga.vram + VGA_MEMORY_SIZE));
        }
        if (round % 16 == 15)
            vga_reset(&rig.vga);
    }
    vga_rig_destroy(&rig);
}

TEST_SUITE(vga_draw, {"text mode", text_mode}, {"text attributes and fonts", text_attributes},
           {"the text screen as UTF-8", text_output}, {"mode 13h", mode_13h},
           {"mode X, panning and split screen", mode_x}, {"16 colours, planar", planar_mode}, {"CGA modes", cga_modes},
           {"DISPI modes", dispi_modes},
           {"nothing is drawn from beyond the memory (2017-13672, 2018-5683)", display_bounds},
           {"the PCI function", pci_function}, {"PNG round trip", png_round_trip}, {"random programs", random_programs})
