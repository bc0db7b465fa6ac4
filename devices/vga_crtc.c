/* SPDX-License-Identifier: MIT */
/* The CRT controller: what the registers say about one frame, how its address counter runs, and when it retraces. */
#include "devices/vga_internal.h"

/* A 10-bit vertical value: eight bits in a register of its own, two in the overflow registers. */
static unsigned ten_bits(unsigned low, unsigned bit8, unsigned bit9)
{
    return low | (bit8 ? 0x100 : 0) | (bit9 ? 0x200 : 0);
}

static unsigned display_lines(const struct vga *v)
{
    const uint8_t *cr = v->regs.crtc;
    return ten_bits(cr[CR_VERTICAL_DISPLAY_END], cr[CR_OVERFLOW] & 0x02, cr[CR_OVERFLOW] & 0x40) + 1;
}

static enum vga_picture picture(const struct vga *v)
{
    const struct vga_registers *r = &v->regs;
    if (vga_dispi_enabled(v))
        return VGA_PICTURE_DISPI;
    if (!(r->attribute_index & AR_INDEX_PALETTE_SOURCE) || r->sequencer[SR_CLOCKING] & SR1_SCREEN_OFF)
        return VGA_PICTURE_BLANK;
    if (!(r->graphics[GR_MISC] & GR6_GRAPHICS))
        return VGA_PICTURE_TEXT;
    if (r->graphics[GR_MODE] & GR5_COLOR_256)
        return VGA_PICTURE_256;
    return r->graphics[GR_MODE] & GR5_INTERLEAVE ? VGA_PICTURE_INTERLEAVE : VGA_PICTURE_PLANAR;
}

/* In nine-dot text 8 means no shift and 0-7 shift by 1-8. */
static unsigned panning(const struct vga *v, unsigned dots)
{
    unsigned value = v->regs.attribute[AR_PEL_PANNING];
    if (dots == 9)
        return value >= 8 ? 0 : value + 1;
    return value & 7;
}

void vga_frame_decode(const struct vga *v, struct vga_frame *f)
{
    const struct vga_registers *r = &v->regs;
    const uint8_t *cr = r->crtc;
    *f = (struct vga_frame){.picture = picture(v), .dots = 8, .dot_repeat = 1, .line_repeat = 1};
    if (f->picture == VGA_PICTURE_DISPI) {
        f->width = r->dispi[DISPI_XRES];
        f->height = r->dispi[DISPI_YRES];
        return;
    }
    if (!(r->graphics[GR_MISC] & GR6_GRAPHICS) && !(r->sequencer[SR_CLOCKING] & SR1_DOTS_8))
        f->dots = 9;
    if (r->sequencer[SR_CLOCKING] & SR1_DOT_CLOCK_HALF)
        f->dot_repeat = 2;
    if (cr[CR_MODE_CONTROL] & CR17_HALF_LINES)
        f->line_repeat = 2;
    f->columns = cr[CR_HORIZONTAL_DISPLAY_END] + 1u;
    f->width = f->columns * f->dots * f->dot_repeat;
    f->height = display_lines(v) * f->line_repeat;
    f->start = cr[CR_START_HIGH] << 8 | cr[CR_START_LOW];
    f->pitch = cr[CR_OFFSET] * 2u;
    f->scan_lines = (cr[CR_MAXIMUM_SCAN_LINE] & CR9_SCAN_LINES) + 1u;
    f->scan_repeat = cr[CR_MAXIMUM_SCAN_LINE] & CR9_DOUBLE_SCAN ? 2 : 1;
    f->preset_row = cr[CR_PRESET_ROW_SCAN] & 0x1f;
    f->byte_panning = cr[CR_PRESET_ROW_SCAN] >> 5 & 3;
    f->line_compare = ten_bits(cr[CR_LINE_COMPARE], cr[CR_OVERFLOW] & CR7_LINE_COMPARE_8,
                               cr[CR_MAXIMUM_SCAN_LINE] & CR9_LINE_COMPARE_9);
    f->panning = panning(v, f->dots);
    f->panning_compatible = r->attribute[AR_MODE] & AR10_PANNING_COMPATIBLE;
    f->count_shift = cr[CR_UNDERLINE] & CR14_COUNT_BY_4 ? 2 : cr[CR_MODE_CONTROL] & CR17_COUNT_BY_2 ? 1 : 0;
    f->chain4 = r->sequencer[SR_MEMORY_MODE] & SR4_CHAIN4;
    f->underline = cr[CR_UNDERLINE];
    f->mode_control = cr[CR_MODE_CONTROL];
}

void vga_scan_first(const struct vga_frame *f, struct vga_scan *s)
{
    *s = (struct vga_scan){0, f->start + f->byte_panning, f->preset_row, 0, f->panning, true};
}

void vga_scan_next(const struct vga_frame *f, struct vga_scan *s)
{
    s->row_start = false;
    if (s->line++ == f->line_compare) {
        /* The split screen: shows from address 0, and without panning if the attribute controller says so. */
        s->counter = f->panning_compatible ? 0 : f->byte_panning;
        s->panning = f->panning_compatible ? 0 : s->panning;
        s->row = 0;
        s->repeat = 0;
        s->row_start = true;
        return;
    }
    if (++s->repeat < f->scan_repeat)
        return;
    s->repeat = 0;
    if (s->row == f->scan_lines - 1) {
        s->row = 0;
        s->counter += f->pitch;
        s->row_start = true;
    } else {
        s->row = (s->row + 1) & 0x1f; /* a five-bit counter: a preset row beyond the last wraps */
    }
}

unsigned vga_scan_address(const struct vga_frame *f, unsigned counter, unsigned row)
{
    unsigned at = counter & VGA_PLANE_MASK;
    if (f->underline & CR14_DWORD)
        at = at << 2 | at >> 14;
    else if (!(f->mode_control & CR17_BYTE_MODE))
        at = at << 1 | (at >> (f->mode_control & CR17_WRAP_15 ? 15 : 13) & 1);
    if (!(f->mode_control & CR17_NOT_ROW_SCAN_0))
        at = (at & ~0x2000u) | (row & 1) << 13;
    if (!(f->mode_control & CR17_NOT_ROW_SCAN_1))
        at = (at & ~0x4000u) | (row & 2) << 13;
    at &= VGA_PLANE_MASK;
    /* See vga.h: with chain 4 plane offsets are kept rotated right by two. */
    return f->chain4 ? (at >> 2 | at << 14) & VGA_PLANE_MASK : at;
}

/* ---- time ---- */

struct timing {
    uint64_t frame, line, display; /* ns: a frame, a scan line, the part of it before the horizontal blank */
    unsigned lines, retrace, retrace_lines;
};

/* Monitors would not follow, and guests that time themselves by the retrace would starve or race. */
enum { SHORTEST_FRAME = 4 * 1000 * 1000, LONGEST_FRAME = 40 * 1000 * 1000, DEFAULT_FRAME = 16683333 };

static void default_timing(unsigned lines, struct timing *t)
{
    t->lines = lines;
    t->retrace = lines + 10;
    t->retrace_lines = 2;
    t->line = DEFAULT_FRAME / (lines + 45);
    t->frame = t->line * (lines + 45);
    t->display = t->line * 4 / 5;
}

static void timing(const struct vga *v, struct timing *t)
{
    const uint8_t *cr = v->regs.crtc;
    if (vga_dispi_enabled(v)) {
        default_timing(v->regs.dispi[DISPI_YRES], t);
        return;
    }
    unsigned clock_select = v->regs.misc_output >> MISC_CLOCK_SHIFT & MISC_CLOCK_MASK;
    uint64_t hz = clock_select == 1 ? 28322000 : 25175000;
    unsigned dots = v->regs.sequencer[SR_CLOCKING] & SR1_DOTS_8 ? 8 : 9;
    if (v->regs.sequencer[SR_CLOCKING] & SR1_DOT_CLOCK_HALF)
        dots *= 2;
    unsigned repeat = cr[CR_MODE_CONTROL] & CR17_HALF_LINES ? 2 : 1;
    unsigned total = ten_bits(cr[CR_VERTICAL_TOTAL], cr[CR_OVERFLOW] & 0x01, cr[CR_OVERFLOW] & 0x20) + 2;
    t->line = (cr[CR_HORIZONTAL_TOTAL] + 5u) * dots * NS_PER_SEC / hz * repeat;
    t->frame = t->line * total;
    t->display = (cr[CR_HORIZONTAL_DISPLAY_END] + 1u) * dots * NS_PER_SEC / hz * repeat;
    t->lines = display_lines(v);
    t->retrace = ten_bits(cr[CR_VERTICAL_RETRACE_START], cr[CR_OVERFLOW] & 0x04, cr[CR_OVERFLOW] & 0x80);
    t->retrace_lines = ((cr[CR_VERTICAL_RETRACE_END] - t->retrace) & 15);
    if (!t->retrace_lines)
        t->retrace_lines = 16;
    if (t->frame < SHORTEST_FRAME || t->frame > LONGEST_FRAME || t->retrace + t->retrace_lines > total)
        default_timing(480, t);
}

static uint64_t retraces(const struct timing *t, uint64_t now)
{
    return (now + t->frame - t->retrace * t->line) / t->frame;
}

uint64_t vga_retrace_count(const struct vga *v)
{
    struct timing t;
    timing(v, &t);
    return retraces(&t, clock_now(v->clock));
}

/* The cursor blinks every 8 frames, characters every 16. */
unsigned vga_blink_phase(const struct vga *v)
{
    return vga_retrace_count(v) >> 3 & 3;
}

uint8_t vga_read_status1(struct vga *v)
{
    struct vga_registers *r = &v->regs;
    struct timing t;
    timing(v, &t);
    uint64_t now = clock_now(v->clock);
    uint64_t line = now % t.frame / t.line;
    uint64_t count = retraces(&t, now);
    bool retrace = line >= t.retrace && line < t.retrace + t.retrace_lines;
    /* A retrace lasts 64 us. A guest that polls for it, but was kept away just then, is told of it late. */
    if (count != r->retrace_polled && now - r->retrace_polled_at < t.frame / 4)
        retrace = true;
    r->retrace_polled = count;
    r->retrace_polled_at = now;
    uint8_t status = 0;
    if (retrace)
        status |= STATUS1_VERTICAL_RETRACE;
    if (retrace || line >= t.lines || now % t.frame % t.line >= t.display)
        status |= STATUS1_DISPLAY_DISABLE;
    return status;
}
