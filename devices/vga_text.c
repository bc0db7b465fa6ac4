/* SPDX-License-Identifier: MIT */
/* Text modes: character cells out of planes 0 (code) and 1 (attribute), fonts in plane 2; and the screen as UTF-8. */
#include "devices/vga_internal.h"

#include <string.h>

/* Code page 437 as it looks on the screen, so with the pictures at 01-1F and 7F. */
static const uint16_t code_page_437[256] = {
    0x0020, 0x263a, 0x263b, 0x2665, 0x2666, 0x2663, 0x2660, 0x2022, 0x25d8, 0x25cb, 0x25d9, 0x2642, 0x2640, 0x266a,
    0x266b, 0x263c, 0x25ba, 0x25c4, 0x2195, 0x203c, 0x00b6, 0x00a7, 0x25ac, 0x21a8, 0x2191, 0x2193, 0x2192, 0x2190,
    0x221f, 0x2194, 0x25b2, 0x25bc, ' ',    '!',    '"',    '#',    '$',    '%',    '&',    '\'',   '(',    ')',
    '*',    '+',    ',',    '-',    '.',    '/',    '0',    '1',    '2',    '3',    '4',    '5',    '6',    '7',
    '8',    '9',    ':',    ';',    '<',    '=',    '>',    '?',    '@',    'A',    'B',    'C',    'D',    'E',
    'F',    'G',    'H',    'I',    'J',    'K',    'L',    'M',    'N',    'O',    'P',    'Q',    'R',    'S',
    'T',    'U',    'V',    'W',    'X',    'Y',    'Z',    '[',    '\\',   ']',    '^',    '_',    '`',    'a',
    'b',    'c',    'd',    'e',    'f',    'g',    'h',    'i',    'j',    'k',    'l',    'm',    'n',    'o',
    'p',    'q',    'r',    's',    't',    'u',    'v',    'w',    'x',    'y',    'z',    '{',    '|',    '}',
    '~',    0x2302, 0x00c7, 0x00fc, 0x00e9, 0x00e2, 0x00e4, 0x00e0, 0x00e5, 0x00e7, 0x00ea, 0x00eb, 0x00e8, 0x00ef,
    0x00ee, 0x00ec, 0x00c4, 0x00c5, 0x00c9, 0x00e6, 0x00c6, 0x00f4, 0x00f6, 0x00f2, 0x00fb, 0x00f9, 0x00ff, 0x00d6,
    0x00dc, 0x00a2, 0x00a3, 0x00a5, 0x20a7, 0x0192, 0x00e1, 0x00ed, 0x00f3, 0x00fa, 0x00f1, 0x00d1, 0x00aa, 0x00ba,
    0x00bf, 0x2310, 0x00ac, 0x00bd, 0x00bc, 0x00a1, 0x00ab, 0x00bb, 0x2591, 0x2592, 0x2593, 0x2502, 0x2524, 0x2561,
    0x2562, 0x2556, 0x2555, 0x2563, 0x2551, 0x2557, 0x255d, 0x255c, 0x255b, 0x2510, 0x2514, 0x2534, 0x252c, 0x251c,
    0x2500, 0x253c, 0x255e, 0x255f, 0x255a, 0x2554, 0x2569, 0x2566, 0x2560, 0x2550, 0x256c, 0x2567, 0x2568, 0x2564,
    0x2565, 0x2559, 0x2558, 0x2552, 0x2553, 0x256b, 0x256a, 0x2518, 0x250c, 0x2588, 0x2584, 0x258c, 0x2590, 0x2580,
    0x03b1, 0x00df, 0x0393, 0x03c0, 0x03a3, 0x03c3, 0x00b5, 0x03c4, 0x03a6, 0x0398, 0x03a9, 0x03b4, 0x221e, 0x03c6,
    0x03b5, 0x2229, 0x2261, 0x00b1, 0x2265, 0x2264, 0x2320, 0x2321, 0x00f7, 0x2248, 0x00b0, 0x2219, 0x00b7, 0x221a,
    0x207f, 0x00b2, 0x25a0, 0x0020};

uint8_t vga_attribute_color(const struct vga *v, unsigned pixel)
{
    const uint8_t *ar = v->regs.attribute;
    uint8_t color = ar[pixel & ar[AR_PLANE_ENABLE] & 15];
    if (ar[AR_MODE] & AR10_P54_SELECT)
        color = (color & 0x0f) | (ar[AR_COLOR_SELECT] & 3) << 4;
    return (color & 0x3f) | (ar[AR_COLOR_SELECT] & 0x0c) << 4;
}

/* Where in plane 2 the font of a character begins: two maps, chosen by attribute bit 3. */
static unsigned font_offset(const struct vga *v, uint8_t attribute)
{
    if (!(v->regs.sequencer[SR_MEMORY_MODE] & SR4_EXTENDED))
        return 0;
    uint8_t maps = v->regs.sequencer[SR_CHARACTER_MAP];
    unsigned map = attribute & 8 ? (maps >> 2 & 3) | (maps >> 3 & 4) : (maps & 3) | (maps >> 2 & 4);
    return (map & 3) << 14 | (map & 4) << 11;
}

/* Is the cursor in this row of the cell at the address counter's value? */
static bool cursor_at(const struct vga *v, unsigned counter, unsigned row, unsigned phase)
{
    const uint8_t *cr = v->regs.crtc;
    unsigned skew = cr[CR_CURSOR_END] >> 5 & 3;
    unsigned location = cr[CR_CURSOR_HIGH] << 8 | cr[CR_CURSOR_LOW];
    if (phase & 1 || cr[CR_CURSOR_START] & CR10_CURSOR_OFF)
        return false;
    return ((counter ^ (location + skew)) & VGA_PLANE_MASK) == 0 && row >= (cr[CR_CURSOR_START] & 0x1fu) &&
           row <= (cr[CR_CURSOR_END] & 0x1fu);
}

/* One row of one cell, leftmost dot in bit 8. */
static unsigned cell_bits(const struct vga *v, const struct vga_frame *f, const struct vga_scan *s, uint8_t code,
                          uint8_t attribute)
{
    uint8_t mode = v->regs.attribute[AR_MODE];
    unsigned at = (font_offset(v, attribute) + code * 32u + (s->row & 31)) & VGA_PLANE_MASK;
    unsigned bits = v->vram[at * 4 + 2] << 1;
    if (mode & AR10_LINE_GRAPHICS && code >= 0xc0 && code <= 0xdf)
        bits |= bits >> 1 & 1; /* line-drawing characters reach into the ninth dot */
    if (mode & AR10_MONO && (attribute & 7) == 1 && s->row == (f->underline & 0x1fu))
        bits = 0x1ff;
    return bits;
}

void vga_text_line(const struct vga *v, const struct vga_frame *f, const struct vga_scan *s, unsigned phase,
                   uint8_t *dots)
{
    bool blink = v->regs.attribute[AR_MODE] & AR10_BLINK;
    uint8_t colors[16];
    for (unsigned i = 0; i < 16; i++)
        colors[i] = vga_attribute_color(v, i);
    for (unsigned column = 0; column <= f->columns; column++) {
        unsigned counter = s->counter + (column >> f->count_shift);
        const uint8_t *cell = v->vram + vga_scan_address(f, counter, s->row) * 4;
        uint8_t attribute = cell[1];
        unsigned bits = cell_bits(v, f, s, cell[0], attribute);
        if (blink && attribute & 0x80 && phase & 2)
            bits = 0;
        if (cursor_at(v, counter, s->row, phase))
            bits = 0x1ff;
        uint8_t fore = colors[attribute & 15];
        uint8_t back = colors[attribute >> 4 & (blink ? 7 : 15)];
        for (unsigned dot = 0; dot < f->dots; dot++)
            *dots++ = bits & 0x100 >> dot ? fore : back;
    }
}

/* Appends one character if it fits, with room for the final zero. */
static size_t put_utf8(char *buf, size_t at, size_t len, unsigned code)
{
    char bytes[3];
    size_t count = code < 0x80 ? 1 : code < 0x800 ? 2 : 3;
    if (count == 1) {
        bytes[0] = (char)code;
    } else if (count == 2) {
        bytes[0] = (char)(0xc0 | code >> 6);
        bytes[1] = (char)(0x80 | (code & 0x3f));
    } else {
        bytes[0] = (char)(0xe0 | code >> 12);
        bytes[1] = (char)(0x80 | (code >> 6 & 0x3f));
        bytes[2] = (char)(0x80 | (code & 0x3f));
    }
    if (len - at <= count)
        return at;
    memcpy(buf + at, bytes, count);
    return at + count;
}

static size_t put_row(const struct vga *v, const struct vga_frame *f, const struct vga_scan *s, char *buf, size_t at,
                      size_t len)
{
    size_t end = at; /* after the last character that is not blank */
    for (unsigned column = 0; column < f->columns; column++) {
        unsigned counter = s->counter + (column >> f->count_shift);
        unsigned code = code_page_437[v->vram[vga_scan_address(f, counter, s->row) * 4]];
        at = put_utf8(buf, at, len, code);
        if (code != ' ')
            end = at;
    }
    return put_utf8(buf, end, len, '\n');
}

bool vga_text(void *vga, char *buf, size_t len)
{
    const struct vga *v = vga;
    struct vga_frame f;
    struct vga_scan s;
    vga_frame_decode(v, &f);
    if (len)
        buf[0] = 0;
    if (!len || f.picture == VGA_PICTURE_DISPI || v->regs.graphics[GR_MISC] & GR6_GRAPHICS)
        return false;
    size_t at = 0;
    vga_scan_first(&f, &s);
    for (unsigned line = 0; line < f.height / f.line_repeat; line++) {
        if (s.row_start)
            at = put_row(v, &f, &s, buf, at, len);
        vga_scan_next(&f, &s);
    }
    buf[at] = 0;
    return true;
}
