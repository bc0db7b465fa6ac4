/* SPDX-License-Identifier: MIT */
/* The VGA's registers, its memory as the CPU sees it, DISPI and the retrace. */
#include "tests/test.h"
#include "tests/vga_rig.h"

#include <string.h>

static uint32_t random_state;

static unsigned random_bits(unsigned bits)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state & ((1u << bits) - 1);
}

static void registers_read_back(void)
{
    static const struct {
        unsigned port, count;
        uint8_t bits[CR_COUNT];
    } files[] = {{0x3c4, SR_COUNT, {3, 0x3d, 0xf, 0x3f, 0xe}},
                 {0x3ce, GR_COUNT, {0xf, 0xf, 0xf, 0x1f, 3, 0x7b, 0xf, 0xf, 0xff}}};
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    for (unsigned f = 0; f < 2; f++) {
        for (unsigned i = 0; i < files[f].count; i++) {
            vga_rig_set(&rig, files[f].port, i, 0xff);
            CU_ASSERT_EQUAL(vga_rig_get(&rig, files[f].port, i), files[f].bits[i]);
            vga_rig_set(&rig, files[f].port, i, 0);
            CU_ASSERT_EQUAL(vga_rig_get(&rig, files[f].port, i), 0);
        }
        vga_rig_set(&rig, files[f].port, 0xff, 0xff);
        CU_ASSERT_EQUAL(vga_rig_get(&rig, files[f].port, 0xff), 0);
    }
    /* Monochrome: 3Bx answers, 3Dx does not; then the other way round. */
    vga_rig_out(&rig, 0x3c2, 0);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3d4), 0xff);
    vga_rig_set(&rig, 0x3b4, CR_OFFSET, 0x55);
    CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3b4, CR_OFFSET), 0x55);
    vga_rig_out(&rig, 0x3c2, 0x63);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3cc), 0x63);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3b4), 0xff);
    CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3d4, CR_OFFSET), 0x55);
    for (unsigned i = 0; i < CR_COUNT; i++) {
        unsigned value = i == CR_VERTICAL_RETRACE_END ? 0x2c : 0xa5 ^ i;
        vga_rig_set(&rig, 0x3d4, i, value);
        CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3d4, i), value);
    }
    vga_rig_out(&rig, 0x3da, 3);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3ca), 3);
    vga_rig_destroy(&rig);
}

static void protect_bit(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 0x12);
    vga_rig_set(&rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0x8c);
    vga_rig_set(&rig, 0x3d4, CR_HORIZONTAL_TOTAL, 1);
    vga_rig_set(&rig, 0x3d4, CR_OVERFLOW, 0);
    CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3d4, CR_HORIZONTAL_TOTAL), 0x5f);
    CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3d4, CR_OVERFLOW), 0x2e);
    vga_rig_set(&rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0x0c);
    vga_rig_set(&rig, 0x3d4, CR_HORIZONTAL_TOTAL, 1);
    CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3d4, CR_HORIZONTAL_TOTAL), 1);
    vga_rig_destroy(&rig);
}

static void attribute_flip_flop(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 3);
    vga_rig_in(&rig, 0x3da);
    vga_rig_out(&rig, 0x3c0, 0x33);
    CU_ASSERT_EQUAL(vga_rig_get(&rig, 0x3d4, CR_ATTRIBUTE_FLIP_FLOP), 0xb3);
    vga_rig_in(&rig, 0x3da); /* the next write is an index again */
    vga_rig_out(&rig, 0x3c0, 0x25);
    vga_rig_out(&rig, 0x3c0, 0xff);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c0), 0x25);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c1), 0x3f);
    vga_rig_out(&rig, 0x3c0, 0x3f); /* no such register */
    vga_rig_out(&rig, 0x3c0, 0x12);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c1), 0);
    vga_rig_destroy(&rig);
}

static void dac(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_out(&rig, 0x3c8, 0xff);
    for (unsigned i = 0; i < 6; i++)
        vga_rig_out(&rig, 0x3c9, 0xc1 + i);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c7), 0);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c8), 1); /* wrapped */
    vga_rig_out(&rig, 0x3c7, 0xff);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c7), 3);
    for (unsigned i = 0; i < 6; i++)
        CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c9), 1 + i); /* six bits */
    vga_rig_out(&rig, 0x3c8, 7);
    vga_rig_out(&rig, 0x3c9, 9); /* one component alone changes nothing */
    CU_ASSERT_EQUAL(rig.vga.regs.dac[7][0], 0);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_8BIT_DAC);
    CU_ASSERT_EQUAL(rig.vga.regs.dac[0xff][2], 3 << 2); /* colours stay what they were */
    vga_rig_out(&rig, 0x3c8, 7);
    for (unsigned i = 0; i < 3; i++)
        vga_rig_out(&rig, 0x3c9, 0xff);
    CU_ASSERT_EQUAL(rig.vga.regs.dac[7][1], 0xff);
    vga_rig_dispi(&rig, DISPI_ENABLE, 0);
    CU_ASSERT_EQUAL(rig.vga.regs.dac[7][1], 0x3f);
    vga_rig_destroy(&rig);
}

/* ---- memory ---- */

/* The graphics controller bit by bit, after the block diagram in IBM's manual. */
static void reference_write(const struct vga_registers *r, uint8_t planes[4], const uint8_t latch[4], unsigned enabled,
                            uint8_t value)
{
    unsigned mode = r->graphics[GR_MODE] & 3, rotate = r->graphics[GR_DATA_ROTATE] & 7;
    for (unsigned p = 0; p < 4; p++) {
        if (!(enabled >> p & 1))
            continue;
        uint8_t result = 0;
        for (unsigned bit = 0; bit < 8; bit++) {
            bool rotated = value >> ((bit + rotate) & 7) & 1;
            bool set = r->graphics[GR_SET_RESET] >> p & 1, old = latch[p] >> bit & 1;
            bool mask = r->graphics[GR_BIT_MASK] >> bit & 1;
            bool data = rotated;
            if (mode == 0 && r->graphics[GR_ENABLE_SET_RESET] >> p & 1)
                data = set;
            else if (mode == 2)
                data = value >> p & 1;
            else if (mode == 3) {
                data = set;
                mask = mask && rotated;
            }
            switch (r->graphics[GR_DATA_ROTATE] >> 3 & 3) {
            case 1:
                data = data && old;
                break;
            case 2:
                data = data || old;
                break;
            case 3:
                data = data != old;
                break;
            }
            if (!mask || mode == 1)
                data = old;
            result |= (uint8_t)(data << bit);
        }
        planes[p] = result;
    }
}

static void write_modes(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 0x12);
    random_state = 12345;
    unsigned bad = 0;
    for (unsigned step = 0; step < 20000; step++) {
        struct vga *v = &rig.vga;
        uint32_t at = random_bits(4), from = random_bits(4);
        uint8_t latch[4], expected[4], value = (uint8_t)random_bits(8);
        for (unsigned i = 0; i < GR_COUNT; i++) {
            if (i != GR_MODE && i != GR_MISC)
                vga_rig_set(&rig, 0x3ce, i, random_bits(8));
        }
        vga_rig_set(&rig, 0x3ce, GR_MODE, random_bits(2));
        vga_rig_set(&rig, 0x3c4, SR_MAP_MASK, random_bits(4));
        unsigned lane = v->regs.graphics[GR_READ_MAP];
        bad += vga_rig_peek(&rig, 0xa0000 + from) != v->vram[from * 4 + lane];
        bad += vga_rig_get(&rig, 0x3d4, CR_LATCH) != v->vram[from * 4 + lane];
        memcpy(latch, v->vram + from * 4, 4);
        memcpy(expected, v->vram + at * 4, 4);
        reference_write(&v->regs, expected, latch, v->regs.sequencer[SR_MAP_MASK], value);
        vga_rig_poke(&rig, 0xa0000 + at, value);
        bad += memcmp(expected, v->vram + at * 4, 4) != 0;
    }
    CU_ASSERT_EQUAL(bad, 0);
    vga_rig_destroy(&rig);
}

static void read_mode_1(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 0x12);
    random_state = 99;
    unsigned bad = 0;
    vga_rig_set(&rig, 0x3ce, GR_MODE, GR5_READ_MODE);
    for (unsigned step = 0; step < 2000; step++) {
        unsigned color = random_bits(4), care = random_bits(4), expected = 0;
        uint8_t *word = rig.vga.vram + 40;
        for (unsigned p = 0; p < 4; p++)
            word[p] = (uint8_t)random_bits(8);
        for (unsigned bit = 0; bit < 8; bit++) {
            unsigned pixel = 0;
            for (unsigned p = 0; p < 4; p++)
                pixel |= (word[p] >> bit & 1u) << p;
            expected |= (unsigned)(((pixel ^ color) & care) == 0) << bit;
        }
        vga_rig_set(&rig, 0x3ce, GR_COLOR_COMPARE, color);
        vga_rig_set(&rig, 0x3ce, GR_COLOR_DONT_CARE, care);
        bad += vga_rig_peek(&rig, 0xa000a) != expected;
    }
    CU_ASSERT_EQUAL(bad, 0);
    vga_rig_destroy(&rig);
}

static void memory_maps(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 0x12);
    rig.vga.vram[0] = 0x5a;
    static const uint32_t bases[4] = {0xa0000, 0xa0000, 0xb0000, 0xb8000};
    static const uint32_t sizes[4] = {0x20000, 0x10000, 0x8000, 0x8000};
    for (unsigned map = 0; map < 4; map++) {
        vga_rig_set(&rig, 0x3ce, GR_MISC, 1 | map << 2);
        for (uint32_t at = 0xa0000; at < 0xc0000; at += 0x8000) {
            bool inside = at >= bases[map] && at < bases[map] + sizes[map];
            bool first = ((at - bases[map]) & 0xffff) == 0;
            CU_ASSERT_EQUAL(vga_rig_peek(&rig, at), !inside ? 0xff : first ? 0x5a : 0);
        }
        vga_rig_poke(&rig, bases[map] == 0xa0000 ? 0xb8000 : 0xa0000,
                     0x77); /* outside: dropped, or plane offset 8000 */
        CU_ASSERT_EQUAL(rig.vga.vram[0], 0x5a);
        memset(rig.vga.vram + 0x20000, 0, 4);
    }
    vga_rig_out(&rig, 0x3c2, 0x61); /* RAM disabled */
    CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xb8000), 0xff);
    vga_rig_destroy(&rig);
}

static void odd_even_and_chain_4(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 3);
    vga_rig_poke(&rig, 0xb8002, 'A');
    vga_rig_poke(&rig, 0xb8003, 0x1e);
    CU_ASSERT_EQUAL(rig.vga.vram[2 * 4], 'A'); /* plane 0, offset 2 */
    CU_ASSERT_EQUAL(rig.vga.vram[2 * 4 + 1], 0x1e);
    CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xb8002), 'A');
    CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xb8003), 0x1e);
    CU_ASSERT_EQUAL(bus_read(rig.memory_bus, 0xb8002, 2), 0x1e41);
    vga_rig_mode(&rig, 0x13);
    for (unsigned i = 0; i < 8; i++)
        vga_rig_poke(&rig, 0xa0010 + i, 0x30 + i);
    CU_ASSERT_EQUAL(memcmp(rig.vga.vram + 0x10, "01234567", 8), 0);
    CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xa0013), '3');
    vga_rig_set(&rig, 0x3c4, SR_MAP_MASK, 5); /* planes 0 and 2 only */
    for (unsigned i = 0; i < 4; i++)
        vga_rig_poke(&rig, 0xa0010 + i, 'x');
    CU_ASSERT_EQUAL(memcmp(rig.vga.vram + 0x10, "x1x34567", 8), 0);
    vga_rig_destroy(&rig);
}

/* The direct mapping shows and takes the same bytes as the traps, and goes when a register makes the window non-linear.
 */
static void window_mapping(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, true));
    uint8_t *vram = rig.vga.vram;
    vga_rig_mode(&rig, 0x12);
    CU_ASSERT_FALSE(rig.vga.window.mapped);
    CU_ASSERT_PTR_NULL(memory_page(&rig.memory, 0xa0).read);
    vga_rig_mode(&rig, 0x13);
    CU_ASSERT_TRUE(rig.vga.window.mapped);
    CU_ASSERT_PTR_EQUAL(memory_page(&rig.memory, 0xa3).write, vram + 0x3000);
    CU_ASSERT_PTR_NULL(memory_page(&rig.memory, 0xb0).read);
    static const struct {
        unsigned port, index, value;
    } changes[] = {{0x3c4, SR_MAP_MASK, 7},    {0x3c4, SR_MEMORY_MODE, 6},    {0x3ce, GR_ENABLE_SET_RESET, 1},
                   {0x3ce, GR_DATA_ROTATE, 1}, {0x3ce, GR_DATA_ROTATE, 0x18}, {0x3ce, GR_MODE, 0x41},
                   {0x3ce, GR_MODE, 0x48},     {0x3ce, GR_BIT_MASK, 0xfe},    {0x3ce, GR_MISC, 0x0d}};
    for (unsigned i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        unsigned old = vga_rig_get(&rig, changes[i].port, changes[i].index);
        vga_rig_set(&rig, changes[i].port, changes[i].index, changes[i].value);
        CU_ASSERT_PTR_NULL(memory_page(&rig.memory, 0xa0).read);
        vga_rig_set(&rig, changes[i].port, changes[i].index, old);
        CU_ASSERT_PTR_EQUAL(memory_page(&rig.memory, 0xa0).read, vram);
        CU_ASSERT_PTR_NULL(memory_page(&rig.memory, 0xb8).read);
    }
    vga_rig_out(&rig, 0x3c2, 0x61);
    CU_ASSERT_FALSE(rig.vga.window.mapped);
    vga_rig_out(&rig, 0x3c2, 0x63);
    CU_ASSERT_TRUE(rig.vga.window.mapped);
    vga_rig_set(&rig, 0x3ce, GR_MISC, 1); /* 128K: the second half repeats the first */
    CU_ASSERT_PTR_EQUAL(memory_page(&rig.memory, 0xb1).read, vram + 0x1000);
    vga_set_window_enabled(&rig.vga, false);
    CU_ASSERT_PTR_NULL(memory_page(&rig.memory, 0xa0).read);
    memory_map(&rig.memory, gpa(0xa0000), 0x20000, rig.memory.ram + 0xa0000, rig.memory.ram + 0xa0000);
    vga_set_window_enabled(&rig.vga, true); /* SMRAM is still there: it stays */
    CU_ASSERT_PTR_EQUAL(memory_page(&rig.memory, 0xa0).read, rig.memory.ram + 0xa0000);
    vga_rig_destroy(&rig);
}

static void dispi_banks(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, true));
    vga_rig_dispi(&rig, DISPI_XRES, 800);
    vga_rig_dispi(&rig, DISPI_YRES, 600);
    vga_rig_dispi(&rig, DISPI_BPP, 32);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED | DISPI_LFB_ENABLED);
    for (unsigned bank = 0; bank < 256; bank += 51) {
        vga_rig_dispi(&rig, DISPI_BANK, bank);
        CU_ASSERT_PTR_EQUAL(memory_page(&rig.memory, 0xaf).write, rig.vga.vram + bank * 0x10000 + 0xf000);
        vga_rig_poke(&rig, 0xaffff, bank + 1);
        CU_ASSERT_EQUAL(rig.vga.vram[bank * 0x10000 + 0xffff], (uint8_t)(bank + 1));
    }
    vga_rig_dispi(&rig, DISPI_BANK, 0xffff); /* only eight bits count */
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_BANK), 0xff);
    vga_rig_dispi(&rig, DISPI_ENABLE, 0);
    CU_ASSERT_FALSE(rig.vga.window.mapped);
    vga_rig_destroy(&rig);
}

/* CVE-2016-3710: a bank set in one mode, used in another that multiplies the address. */
static void bank_after_mode_change(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_dispi(&rig, DISPI_BPP, 8);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED);
    vga_rig_dispi(&rig, DISPI_BANK, 0xff);
    vga_rig_out(&rig, 0x3c2, 0x63);
    vga_rig_dispi(&rig, DISPI_BPP, 4);
    for (unsigned mode = 0; mode < 16; mode += 2) {
        vga_rig_set(&rig, 0x3c4, SR_MEMORY_MODE, mode);
        vga_rig_set(&rig, 0x3c4, SR_MAP_MASK, 0xf);
        vga_rig_set(&rig, 0x3ce, GR_MISC, 2); /* 128K, chained: DISPI has its own window */
        vga_rig_poke(&rig, 0xaffff, 1);
        vga_rig_poke(&rig, 0xbffff, 1);
        CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xbffff), 0xff);
        if (!(mode & SR4_CHAIN4))
            CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xaffff), 0xff); /* past the end of the planes */
    }
    vga_rig_dispi(&rig, DISPI_BANK, 63); /* the last that four planes fill */
    vga_rig_set(&rig, 0x3c4, SR_MEMORY_MODE, 6);
    vga_rig_set(&rig, 0x3ce, GR_BIT_MASK, 0xff);
    vga_rig_set(&rig, 0x3ce, GR_MISC, 1);
    vga_rig_poke(&rig, 0xaffff, 0xa5);
    CU_ASSERT_EQUAL(rig.vga.vram[VGA_MEMORY_SIZE - 1], 0xa5);
    vga_rig_dispi(&rig, DISPI_ENABLE, 0);
    vga_rig_poke(&rig, 0xa0000, 0x11); /* VGA modes do not see the bank */
    CU_ASSERT_EQUAL(rig.vga.vram[0], 0x11);
    vga_rig_destroy(&rig);
}

/* CVE-2016-3712: registers that do not fit together. Whatever is written, what is read back fits the memory. */
static void dispi_clamps(void)
{
    static const unsigned values[] = {0, 1, 7, 8, 24, 640, 1024, 4095, 8191, 16000, 16001, 32767, 32768, 65535};
    static const unsigned depths[] = {0, 1, 4, 8, 15, 16, 24, 32, 33, 0xffff};
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    random_state = 4711;
    unsigned bad = 0;
    for (unsigned step = 0; step < 20000; step++) {
        unsigned index = DISPI_XRES + random_bits(16) % 9;
        unsigned value = values[random_bits(16) % 14];
        if (index == DISPI_BPP)
            value = depths[random_bits(16) % 10];
        else if (index == DISPI_ENABLE)
            value = random_bits(8) & ~(step % 64 ? 0 : DISPI_ENABLED) & ~DISPI_GETCAPS;
        if (index == DISPI_ENABLE && step % 50)
            value |= DISPI_NOCLEARMEM; /* clearing is slow */
        vga_rig_dispi(&rig, index, value);
        const uint16_t *d = rig.vga.regs.dispi;
        if (!(d[DISPI_ENABLE] & DISPI_ENABLED))
            continue;
        uint64_t bits = d[DISPI_BPP] == 15 ? 16 : d[DISPI_BPP];
        uint64_t lines = d[DISPI_Y_OFFSET] + (uint64_t)d[DISPI_YRES];
        bad += !d[DISPI_XRES] || !d[DISPI_YRES] || d[DISPI_X_OFFSET] + d[DISPI_XRES] > d[DISPI_VIRT_WIDTH];
        bad += d[DISPI_VIRT_WIDTH] * bits / 8 * lines > VGA_MEMORY_SIZE || lines > d[DISPI_VIRT_HEIGHT];
    }
    CU_ASSERT_EQUAL(bad, 0);
    vga_rig_destroy(&rig);
}

static void dispi_registers(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_ID), 0xb0c5);
    vga_rig_dispi(&rig, DISPI_ID, 0xb0c0);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_ID), 0xb0c0);
    vga_rig_dispi(&rig, DISPI_ID, 0xb0c6);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_ID), 0xb0c0);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_VIDEO_MEMORY_64K), 256);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_GETCAPS);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_XRES), DISPI_MAX_XRES);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_BPP), 32);
    vga_rig_dispi(&rig, DISPI_ENABLE, 0);
    vga_rig_dispi(&rig, DISPI_XRES, 1024);
    vga_rig_dispi(&rig, DISPI_YRES, 768);
    vga_rig_dispi(&rig, DISPI_BPP, 16);
    rig.vga.vram[100] = 1;
    rig.vga.vram[1024 * 768 * 2] = 1;
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED);
    CU_ASSERT_EQUAL(rig.vga.vram[100], 0);
    CU_ASSERT_EQUAL(rig.vga.vram[1024 * 768 * 2], 1);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_VIRT_WIDTH), 1024);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_VIRT_HEIGHT), 8192);
    rig.vga.vram[100] = 1;
    vga_rig_dispi(&rig, DISPI_ENABLE, 0);
    vga_rig_dispi(&rig, DISPI_ENABLE, DISPI_ENABLED | DISPI_NOCLEARMEM);
    CU_ASSERT_EQUAL(rig.vga.vram[100], 1);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, 0xfff0), 0);
    vga_rig_dispi(&rig, 0xfff0, 1);
    /* The same registers in BAR 2. */
    CU_ASSERT_EQUAL(vga_mmio_read(&rig.vga, 0x502, 2), 1024);
    vga_mmio_write(&rig.vga, 0x506, 32, 2);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_BPP), 32);
    vga_mmio_write(&rig.vga, 0x404, 0x0402, 2);
    CU_ASSERT_EQUAL(rig.vga.regs.sequencer[SR_MAP_MASK], 4);
    CU_ASSERT_EQUAL(vga_mmio_read(&rig.vga, 0x405, 1), 4);
    CU_ASSERT_EQUAL(vga_mmio_read(&rig.vga, 0x600, 2), 8);
    CU_ASSERT_EQUAL(vga_mmio_read(&rig.vga, 0x606, 2), 0x1e1e);
    CU_ASSERT_EQUAL(vga_mmio_read(&rig.vga, 0xfff, 1), 0xff);
    vga_rig_destroy(&rig);
}

/* ---- time ---- */

/* Frames a second by the retrace bit, polled every microsecond. */
static unsigned count_retraces(struct vga_rig *rig, unsigned step_ns)
{
    unsigned count = 0;
    bool before = true;
    for (uint64_t t = 0; t < NS_PER_SEC; t += step_ns) {
        bool now = vga_rig_in(rig, 0x3da) & STATUS1_VERTICAL_RETRACE;
        count += now && !before;
        before = now;
        clock_advance(rig->clock, step_ns);
    }
    return count;
}

static void retrace_rate(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_out(&rig, 0x3c2, MISC_IO_COLOR);
    unsigned count = count_retraces(&rig, 5000); /* not programmed: still goes on */
    CU_ASSERT(count >= 59 && count <= 61);
    vga_rig_mode(&rig, 3);
    count = count_retraces(&rig, 5000);
    CU_ASSERT(count >= 69 && count <= 71);
    vga_rig_mode(&rig, 0x12);
    count = count_retraces(&rig, 5000);
    CU_ASSERT(count >= 59 && count <= 61);
    count = count_retraces(&rig, 700000); /* polls that are farther apart than a retrace is long */
    CU_ASSERT(count >= 58 && count <= 61);
    unsigned visible = 0, hidden = 0;
    for (unsigned i = 0; i < 1000; i++, clock_advance(rig.clock, 1000)) {
        if (vga_rig_in(&rig, 0x3da) & STATUS1_DISPLAY_DISABLE)
            hidden++;
        else
            visible++;
    }
    CU_ASSERT(visible > 100 && hidden > 100);
    vga_rig_destroy(&rig);
}

static void retrace_interrupt_bit(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, false));
    vga_rig_mode(&rig, 3);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c2), 0x10);
    vga_rig_set(&rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0x0e);
    vga_rig_set(&rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0x1e);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c2), 0x10);
    clock_advance(rig.clock, 15 * NS_PER_MS);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c2), 0x90);
    vga_rig_set(&rig, 0x3d4, CR_VERTICAL_RETRACE_END, 0x0e);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3c2), 0x10);
    vga_rig_destroy(&rig);
}

static void reset_state(void)
{
    struct vga_rig rig;
    CU_ASSERT_FATAL(vga_rig_create(&rig, true));
    vga_rig_mode(&rig, 0x13);
    vga_rig_poke(&rig, 0xa0005, 0x42);
    vga_reset(&rig.vga);
    CU_ASSERT_FALSE(rig.vga.window.mapped);
    CU_ASSERT_EQUAL(vga_rig_in(&rig, 0x3cc), 0);
    CU_ASSERT_EQUAL(vga_rig_dispi_get(&rig, DISPI_ID), 0xb0c5);
    CU_ASSERT_EQUAL(rig.vga.vram[5], 0x42);
    CU_ASSERT_EQUAL(vga_rig_peek(&rig, 0xb8000), 0xff);
    vga_rig_destroy(&rig);
}

TEST_SUITE(vga, {"registers read back what they have bits for", registers_read_back},
           {"CR11 protects CR0-7 but for line compare", protect_bit},
           {"the attribute controller's flip-flop", attribute_flip_flop}, {"the DAC", dac},
           {"write modes 0-3 against a bit-by-bit reference", write_modes}, {"read mode 1", read_mode_1},
           {"the four memory maps", memory_maps}, {"odd/even and chain 4", odd_even_and_chain_4},
           {"the window is mapped while it is linear", window_mapping}, {"DISPI banks, mapped", dispi_banks},
           {"a bank is checked after a mode change (2016-3710)", bank_after_mode_change},
           {"DISPI registers always fit the memory (2016-3712)", dispi_clamps}, {"DISPI registers", dispi_registers},
           {"retrace rate", retrace_rate}, {"retrace interrupt bit", retrace_interrupt_bit}, {"reset", reset_state})
