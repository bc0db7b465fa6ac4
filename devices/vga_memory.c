/* SPDX-License-Identifier: MIT */
/* Video memory as the CPU sees it at A0000-BFFFF: by way of the sequencer and the graphics controller, one byte at a
 * time; or mapped directly, while those would not change anything. */
#include "devices/vga_internal.h"

#include <string.h>

/* Where a byte of the window lands. */
struct target {
    uint32_t offset; /* of the plane word's first byte in video memory */
    unsigned planes; /* that the address selects */
    unsigned lane;   /* the one that a plain read sees, when the address chooses it */
    bool linear;     /* offset is that of the byte itself */
};

/* By the memory map bits of GR6: offset from A0000, size. */
static const struct {
    uint32_t base, size;
} window_maps[4] = {{0, 0x20000}, {0, 0x10000}, {0x10000, 0x8000}, {0x18000, 0x8000}};

static unsigned window_map(const struct vga *v)
{
    if (vga_dispi_enabled(v))
        return 1;
    return v->regs.graphics[GR_MISC] >> GR6_MAP_SHIFT & GR6_MAP_MASK;
}

/* The bank register may hold anything: the result is checked where it is used. */
static uint32_t bank_offset(const struct vga *v)
{
    return vga_dispi_enabled(v) ? (uint32_t)v->regs.dispi[DISPI_BANK] << 16 : 0;
}

/* Plane offsets are wider than 16 bits only in the 4-bit modes of DISPI, by the bank. */
static bool find_target(const struct vga *v, uint32_t offset, bool writing, struct target *t)
{
    const struct vga_registers *r = &v->regs;
    unsigned map = window_map(v);
    if (!(r->misc_output & MISC_RAM_ENABLE) && !vga_dispi_enabled(v))
        return false;
    if (offset < window_maps[map].base || offset - window_maps[map].base >= window_maps[map].size)
        return false;
    offset -= window_maps[map].base;
    uint32_t high = offset >> 16;
    uint64_t at = offset & VGA_PLANE_MASK;

    *t = (struct target){.planes = 0xf, .lane = r->graphics[GR_READ_MAP]};
    if (vga_dispi_linear(v)) {
        at += bank_offset(v);
        t->linear = true;
        t->offset = (uint32_t)at;
        return at < VGA_MEMORY_SIZE;
    }
    if (r->sequencer[SR_MEMORY_MODE] & SR4_CHAIN4) {
        t->lane = at & 3;
        t->planes = 1u << t->lane;
        at >>= 2;
    } else {
        bool odd_even =
            writing ? !(r->sequencer[SR_MEMORY_MODE] & SR4_ODD_EVEN_OFF) : r->graphics[GR_MODE] & GR5_ODD_EVEN;
        if (odd_even) {
            t->planes = at & 1 ? 0xa : 0x5;
            t->lane = (t->lane & 2) | (at & 1);
        }
        /* A0 chose the plane; its place is taken by A16, which only the 128K map has. The page bit of the
         * miscellaneous output register is for diagnostics and not modelled. */
        if (r->graphics[GR_MISC] & GR6_CHAIN_ODD_EVEN)
            at = (at & ~1ull) | high;
    }
    at += bank_offset(v);
    t->offset = (uint32_t)(at * 4);
    return at * 4 < VGA_MEMORY_SIZE;
}

static uint32_t load_word(const struct vga *v, uint32_t offset)
{
    uint32_t word;
    memcpy(&word, v->vram + offset, 4);
    return word;
}

/* Bit p of a 4-bit register as byte p of a word. */
static uint32_t spread(unsigned bits)
{
    static const uint32_t bytes[16] = {0x00000000, 0x000000ff, 0x0000ff00, 0x0000ffff, 0x00ff0000, 0x00ff00ff,
                                       0x00ffff00, 0x00ffffff, 0xff000000, 0xff0000ff, 0xff00ff00, 0xff00ffff,
                                       0xffff0000, 0xffff00ff, 0xffffff00, 0xffffffff};
    return bytes[bits & 15];
}

uint8_t vga_memory_read(struct vga *v, uint32_t offset)
{
    struct vga_registers *r = &v->regs;
    struct target t;
    if (!find_target(v, offset, false, &t))
        return 0xff;
    if (t.linear)
        return v->vram[t.offset];
    r->latch = load_word(v, t.offset);
    if (!(r->graphics[GR_MODE] & GR5_READ_MODE))
        return r->latch >> (t.lane * 8);
    /* Read mode 1: a bit is set where all planes that matter equal the colour. */
    uint32_t differ = (r->latch ^ spread(r->graphics[GR_COLOR_COMPARE])) & spread(r->graphics[GR_COLOR_DONT_CARE]);
    differ |= differ >> 16;
    return ~(differ | differ >> 8);
}

static uint32_t logical_function(const struct vga *v, uint32_t data)
{
    switch (v->regs.graphics[GR_DATA_ROTATE] >> 3) {
    case 1:
        return data & v->regs.latch;
    case 2:
        return data | v->regs.latch;
    case 3:
        return data ^ v->regs.latch;
    default:
        return data;
    }
}

/* What the graphics controller makes of a byte, for all four planes. */
static uint32_t write_data(const struct vga *v, uint8_t value)
{
    const struct vga_registers *r = &v->regs;
    unsigned rotate = r->graphics[GR_DATA_ROTATE] & 7;
    uint8_t rotated = (uint8_t)(value >> rotate | value << (8 - rotate));
    uint8_t bit_mask = r->graphics[GR_BIT_MASK];
    uint32_t data;
    switch (r->graphics[GR_MODE] & GR5_WRITE_MODE) {
    case 0: {
        uint32_t set = spread(r->graphics[GR_ENABLE_SET_RESET]);
        data = (rotated * 0x01010101u & ~set) | (spread(r->graphics[GR_SET_RESET]) & set);
        data = logical_function(v, data);
        break;
    }
    case 1:
        return r->latch;
    case 2:
        data = logical_function(v, spread(value));
        break;
    default:
        data = logical_function(v, spread(r->graphics[GR_SET_RESET]));
        bit_mask &= rotated;
        break;
    }
    uint32_t mask = bit_mask * 0x01010101u;
    return (data & mask) | (r->latch & ~mask);
}

void vga_memory_write(struct vga *v, uint32_t offset, uint8_t value)
{
    struct target t;
    if (!find_target(v, offset, true, &t))
        return;
    vga_mark_dirty(v, t.offset);
    if (t.linear) {
        v->vram[t.offset] = value;
        return;
    }
    uint32_t planes = spread(t.planes & v->regs.sequencer[SR_MAP_MASK]);
    uint32_t word = (load_word(v, t.offset) & ~planes) | (write_data(v, value) & planes);
    memcpy(v->vram + t.offset, &word, 4);
}

/* ---- the window, mapped ---- */

/* While chain 4 is on and the graphics controller passes data through, a byte of the window is a byte of video memory
 * and nothing else happens, but that a read fills the latches; a guest that changes to a mode which uses the latches
 * and writes without reading first would see that. */
static bool passes_through(const struct vga_registers *r)
{
    return r->misc_output & MISC_RAM_ENABLE && r->sequencer[SR_MEMORY_MODE] & SR4_CHAIN4 &&
           r->sequencer[SR_MAP_MASK] == 0xf && !(r->graphics[GR_MODE] & (GR5_WRITE_MODE | GR5_READ_MODE)) &&
           !r->graphics[GR_ENABLE_SET_RESET] && !r->graphics[GR_DATA_ROTATE] && r->graphics[GR_BIT_MASK] == 0xff;
}

static struct vga_mapping wanted_window(const struct vga *v)
{
    struct vga_mapping m = {0};
    unsigned map = window_map(v);
    if (!v->memory || !v->window_enabled)
        return m;
    if (vga_dispi_linear(v) ? bank_offset(v) < VGA_MEMORY_SIZE : !vga_dispi_enabled(v) && passes_through(&v->regs))
        m = (struct vga_mapping){true, VGA_WINDOW_BASE + window_maps[map].base, window_maps[map].size, bank_offset(v)};
    return m;
}

static uint8_t *mapped_page(const struct vga *v, const struct vga_mapping *m, uint64_t at)
{
    return v->vram + m->offset + (at & 0xffff);
}

/* Page by page, and never over a page that is not ours: the chipset may have put SMRAM there. */
static void window_unmap(struct vga *v)
{
    struct vga_mapping *m = &v->window;
    vga_collect_dirty(v);
    for (uint64_t at = 0; m->mapped && at < m->size; at += PAGE_SIZE) {
        if (memory_page(v->memory, (m->base + at) >> PAGE_SHIFT).read == mapped_page(v, m, at))
            memory_unmap(v->memory, gpa(m->base + at), PAGE_SIZE);
    }
    m->mapped = false;
}

static bool window_is_free(const struct vga *v, const struct vga_mapping *m)
{
    for (uint64_t at = 0; at < m->size; at += PAGE_SIZE) {
        struct memory_page page = memory_page(v->memory, (m->base + at) >> PAGE_SHIFT);
        if (page.read || page.write)
            return false;
    }
    return true;
}

static void window_map_pages(struct vga *v, const struct vga_mapping *m)
{
    if (!window_is_free(v, m))
        return; /* stays with the traps, if the chipset lets any through */
    for (uint64_t at = 0; at < m->size; at += 0x10000) {
        uint64_t size = m->size - at < 0x10000 ? m->size - at : 0x10000;
        uint8_t *host = mapped_page(v, m, at);
        if (memory_map(v->memory, gpa(m->base + at), size, host, host) == 0)
            memory_log_start(v->memory, gpa(m->base + at), size);
    }
    v->window = *m;
}

void vga_update_window(struct vga *v)
{
    struct vga_mapping wanted = wanted_window(v);
    const struct vga_mapping *now = &v->window;
    if (wanted.mapped == now->mapped &&
        (!wanted.mapped || (wanted.base == now->base && wanted.size == now->size && wanted.offset == now->offset)))
        return;
    if (now->mapped)
        window_unmap(v);
    if (wanted.mapped)
        window_map_pages(v, &wanted);
}

void vga_set_window_enabled(struct vga *v, bool enabled)
{
    v->window_enabled = enabled;
    vga_update_window(v);
}

void vga_set_lfb(struct vga *v, bool enabled, gpa_t base)
{
    v->lfb = (struct vga_mapping){enabled && v->memory, base.v, VGA_MEMORY_SIZE, 0};
    if (v->lfb.mapped)
        memory_log_start(v->memory, base, VGA_MEMORY_SIZE);
    memset(v->dirty, 1, sizeof v->dirty); /* what was written through the old mapping is no longer known */
}

void vga_collect_dirty(struct vga *v)
{
    if (v->window.mapped)
        memory_log_sync(v->memory, gpa(v->window.base), v->window.size);
    else if (v->memory) /* writes to it may be on their way */
        memory_log_sync(v->memory, gpa(VGA_WINDOW_BASE), VGA_WINDOW_SIZE);
    if (v->lfb.mapped)
        memory_log_sync(v->memory, gpa(v->lfb.base), v->lfb.size);
    for (uint64_t at = 0; v->window.mapped && at < v->window.size; at += PAGE_SIZE) {
        if (memory_log_test_clear(v->memory, (v->window.base + at) >> PAGE_SHIFT))
            vga_mark_dirty(v, v->window.offset + (at & 0xffff));
    }
    for (uint64_t at = 0; v->lfb.mapped && at < v->lfb.size; at += PAGE_SIZE) {
        if (memory_log_test_clear(v->memory, (v->lfb.base + at) >> PAGE_SHIFT))
            vga_mark_dirty(v, (uint32_t)at);
    }
}
