/* SPDX-License-Identifier: MIT */
/* Names of the VGA's registers and bits, as in IBM's VGA technical reference (1987), and of the Bochs display interface
 * (DISPI). Private to the vga*.c files and their tests. */
#ifndef RINGFOLD_DEVICES_VGA_REGS_H
#define RINGFOLD_DEVICES_VGA_REGS_H

/* Ports. The CRT controller, status 1 and feature control answer at 3Bx or 3Dx, by MISC_IO_COLOR. */
enum {
    VGA_PORT_MONO = 0x3b0,
    VGA_PORT_ATTRIBUTE = 0x3c0,
    VGA_PORT_ATTRIBUTE_READ = 0x3c1,
    VGA_PORT_MISC_WRITE = 0x3c2, /* read: input status 0 */
    VGA_PORT_SUBSYSTEM_ENABLE = 0x3c3,
    VGA_PORT_SEQUENCER_INDEX = 0x3c4,
    VGA_PORT_SEQUENCER_DATA = 0x3c5,
    VGA_PORT_PEL_MASK = 0x3c6,
    VGA_PORT_DAC_READ_INDEX = 0x3c7, /* read: DAC state */
    VGA_PORT_DAC_WRITE_INDEX = 0x3c8,
    VGA_PORT_DAC_DATA = 0x3c9,
    VGA_PORT_FEATURE_READ = 0x3ca,
    VGA_PORT_MISC_READ = 0x3cc,
    VGA_PORT_GRAPHICS_INDEX = 0x3ce,
    VGA_PORT_GRAPHICS_DATA = 0x3cf,
    VGA_PORT_CRTC_INDEX = 0x3d4,
    VGA_PORT_CRTC_DATA = 0x3d5,
    VGA_PORT_STATUS1 = 0x3da, /* write: feature control */
    VGA_PORT_DISPI = 0x1ce    /* index; data at 1cf and 1d0 */
};

/* Miscellaneous output. */
enum { MISC_IO_COLOR = 1, MISC_RAM_ENABLE = 2, MISC_CLOCK_SHIFT = 2, MISC_CLOCK_MASK = 3 };

enum sequencer_register { SR_RESET, SR_CLOCKING, SR_MAP_MASK, SR_CHARACTER_MAP, SR_MEMORY_MODE, SR_COUNT };
enum { SR1_DOTS_8 = 0x01, SR1_DOT_CLOCK_HALF = 0x08, SR1_SCREEN_OFF = 0x20 };
enum { SR4_EXTENDED = 0x02, SR4_ODD_EVEN_OFF = 0x04, SR4_CHAIN4 = 0x08 };

enum graphics_register {
    GR_SET_RESET,
    GR_ENABLE_SET_RESET,
    GR_COLOR_COMPARE,
    GR_DATA_ROTATE,
    GR_READ_MAP,
    GR_MODE,
    GR_MISC,
    GR_COLOR_DONT_CARE,
    GR_BIT_MASK,
    GR_COUNT
};
enum { GR5_WRITE_MODE = 0x03, GR5_READ_MODE = 0x08, GR5_ODD_EVEN = 0x10, GR5_INTERLEAVE = 0x20, GR5_COLOR_256 = 0x40 };
enum { GR6_GRAPHICS = 0x01, GR6_CHAIN_ODD_EVEN = 0x02, GR6_MAP_SHIFT = 2, GR6_MAP_MASK = 3 };

enum crtc_register {
    CR_HORIZONTAL_TOTAL,
    CR_HORIZONTAL_DISPLAY_END,
    CR_HORIZONTAL_BLANK_START,
    CR_HORIZONTAL_BLANK_END,
    CR_HORIZONTAL_RETRACE_START,
    CR_HORIZONTAL_RETRACE_END,
    CR_VERTICAL_TOTAL,
    CR_OVERFLOW,
    CR_PRESET_ROW_SCAN,
    CR_MAXIMUM_SCAN_LINE,
    CR_CURSOR_START,
    CR_CURSOR_END,
    CR_START_HIGH,
    CR_START_LOW,
    CR_CURSOR_HIGH,
    CR_CURSOR_LOW,
    CR_VERTICAL_RETRACE_START,
    CR_VERTICAL_RETRACE_END,
    CR_VERTICAL_DISPLAY_END,
    CR_OFFSET,
    CR_UNDERLINE,
    CR_VERTICAL_BLANK_START,
    CR_VERTICAL_BLANK_END,
    CR_MODE_CONTROL,
    CR_LINE_COMPARE,
    CR_COUNT,
    CR_LATCH = 0x22,              /* not in IBM's manual, but every VGA has them: the latch of the read map, */
    CR_ATTRIBUTE_FLIP_FLOP = 0x24 /* and the attribute controller's flip-flop */
};
enum { CR7_LINE_COMPARE_8 = 0x10 };
enum { CR9_SCAN_LINES = 0x1f, CR9_LINE_COMPARE_9 = 0x40, CR9_DOUBLE_SCAN = 0x80 };
enum { CR10_CURSOR_OFF = 0x20 };
enum { CR11_CLEAR_INTERRUPT_NOT = 0x10, CR11_DISABLE_INTERRUPT = 0x20, CR11_PROTECT = 0x80 };
enum { CR14_COUNT_BY_4 = 0x20, CR14_DWORD = 0x40 };
enum {
    CR17_NOT_ROW_SCAN_0 = 0x01, /* clear: row scan bit 0 is address bit 13 (CGA) */
    CR17_NOT_ROW_SCAN_1 = 0x02, /* clear: row scan bit 1 is address bit 14 (Hercules) */
    CR17_HALF_LINES = 0x04,
    CR17_COUNT_BY_2 = 0x08,
    CR17_WRAP_15 = 0x20,
    CR17_BYTE_MODE = 0x40
};

enum attribute_register { AR_MODE = 0x10, AR_OVERSCAN, AR_PLANE_ENABLE, AR_PEL_PANNING, AR_COLOR_SELECT, AR_COUNT };
enum { AR_INDEX_PALETTE_SOURCE = 0x20 };
enum {
    AR10_MONO = 0x02,
    AR10_LINE_GRAPHICS = 0x04,
    AR10_BLINK = 0x08,
    AR10_PANNING_COMPATIBLE = 0x20,
    AR10_COLOR_256 = 0x40,
    AR10_P54_SELECT = 0x80
};

enum { STATUS1_DISPLAY_DISABLE = 0x01, STATUS1_VERTICAL_RETRACE = 0x08 };
enum { STATUS0_SWITCH_SENSE = 0x10, STATUS0_INTERRUPT = 0x80 };

enum dispi_register {
    DISPI_ID,
    DISPI_XRES,
    DISPI_YRES,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRT_WIDTH,
    DISPI_VIRT_HEIGHT,
    DISPI_X_OFFSET,
    DISPI_Y_OFFSET,
    DISPI_VIDEO_MEMORY_64K,
    DISPI_COUNT
};
enum { DISPI_ID0 = 0xb0c0, DISPI_ID5 = 0xb0c5, DISPI_MAX_XRES = 16000, DISPI_MAX_YRES = 12000, DISPI_MAX_BPP = 32 };
enum {
    DISPI_ENABLED = 0x01,
    DISPI_GETCAPS = 0x02,
    DISPI_8BIT_DAC = 0x20,
    DISPI_LFB_ENABLED = 0x40,
    DISPI_NOCLEARMEM = 0x80
};

#endif
