/* SPDX-License-Identifier: MIT */
/* What the vga*.c files share. */
#ifndef RINGFOLD_DEVICES_VGA_INTERNAL_H
#define RINGFOLD_DEVICES_VGA_INTERNAL_H

#include "devices/vga.h"

/* Plane offsets are 16 bits wide in all modes but those of DISPI. */
#define VGA_PLANE_MASK 0xffffu

enum {
    VGA_MAX_COLUMNS = 256,
    VGA_MAX_DOTS = 9, /* of a character cell */
    VGA_MAX_PANNING = 8
};

enum vga_picture {
    VGA_PICTURE_BLANK,
    VGA_PICTURE_TEXT,
    VGA_PICTURE_PLANAR,     /* 8 pixels of 4 bits a fetch, a plane each */
    VGA_PICTURE_INTERLEAVE, /* CGA: 8 pixels of 2 bits a fetch out of two planes */
    VGA_PICTURE_256,        /* 4 pixels a fetch, two dots each */
    VGA_PICTURE_DISPI
};

/* The registers of one frame, decoded. */
struct vga_frame {
    enum vga_picture picture;
    unsigned width, height; /* dots on the monitor: half-rate dot clocks and lines are doubled */
    unsigned columns, dots; /* characters a line, dots a character */
    unsigned dot_repeat;    /* 2 with the half-rate dot clock */
    unsigned line_repeat;   /* 2 with CR17_HALF_LINES */
    unsigned start, pitch;  /* of the address counter */
    unsigned scan_lines;    /* of a character row */
    unsigned scan_repeat;   /* 2 with double scan */
    unsigned preset_row, line_compare, panning, byte_panning;
    unsigned count_shift; /* the counter counts every 2nd or 4th character clock */
    bool chain4, panning_compatible;
    uint8_t underline, mode_control;
};

/* Where the CRT controller is, line by line. */
struct vga_scan {
    unsigned line;    /* of the CRT controller */
    unsigned counter; /* address counter at the line's first character */
    unsigned row;     /* scan line in the character row */
    unsigned repeat;
    unsigned panning;
    bool row_start; /* the first line of a character row */
};

void vga_frame_decode(const struct vga *v, struct vga_frame *f);
void vga_scan_first(const struct vga_frame *f, struct vga_scan *s);
void vga_scan_next(const struct vga_frame *f, struct vga_scan *s);
/* The plane offset that the address counter stands for on a scan line of a row. */
unsigned vga_scan_address(const struct vga_frame *f, unsigned counter, unsigned row);

/* Retraces begun since the clock's zero, the number of the frame (for blinking), and input status 1. */
uint64_t vga_retrace_count(const struct vga *v);
uint8_t vga_read_status1(struct vga *v);
unsigned vga_blink_phase(const struct vga *v);

/* One scan line as DAC indexes, columns + 1 characters wide. */
void vga_text_line(const struct vga *v, const struct vga_frame *f, const struct vga_scan *s, unsigned phase,
                   uint8_t *dots);
bool vga_text(void *vga, char *buf, size_t len);
/* The DAC index of a 4-bit pixel. */
uint8_t vga_attribute_color(const struct vga *v, unsigned pixel);

const struct surface *vga_draw(void *vga, bool full, bool *changed);

static inline bool vga_dispi_enabled(const struct vga *v)
{
    return v->regs.dispi[DISPI_ENABLE] & DISPI_ENABLED;
}

/* DISPI modes of 8 bits a pixel and more see video memory as a line of bytes, not as planes. */
static inline bool vga_dispi_linear(const struct vga *v)
{
    return vga_dispi_enabled(v) && v->regs.dispi[DISPI_BPP] > 4;
}

static inline void vga_mark_dirty(struct vga *v, uint32_t offset)
{
    v->dirty[(offset >> PAGE_SHIFT) & (VGA_MEMORY_PAGES - 1)] = 1;
}

/* Bytes from one line of a DISPI mode to the next, in one plane for 4 bits a pixel. */
uint32_t vga_dispi_pitch(const struct vga *v);

/* Maps or unmaps the window at A0000 by what the registers say now; called after each change of one of them. */
void vga_update_window(struct vga *v);
/* Moves the dirty bits of mapped memory into v->dirty. */
void vga_collect_dirty(struct vga *v);

#endif
