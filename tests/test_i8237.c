/* SPDX-License-Identifier: MIT */
#include "devices/i8237.h"
#include "tests/test.h"

#include <string.h>

static struct i8237 dma;
static struct bus *ports;
static struct memory memory;

static void out(uint16_t port, uint8_t value)
{
    bus_write(ports, port, value, 1);
}

static uint8_t in(uint16_t port)
{
    return (uint8_t)bus_read(ports, port, 1);
}

static bool start(void)
{
    char err[200];
    if (memory_init(&memory, 16 << 20, err, sizeof err)) {
        test_skip(err);
        return false;
    }
    ports = bus_create("ports", 65536);
    CU_ASSERT_EQUAL(i8237_init(&dma, ports, &memory), 0);
    return true;
}

static void stop(void)
{
    bus_destroy(ports);
    memory_destroy(&memory);
}

static void program(uint8_t mode, uint8_t page, uint16_t address, uint16_t count)
{
    out(0x0a, 6), out(0x0c, 0), out(0x0b, mode | 2);
    out(0x04, (uint8_t)address), out(0x04, (uint8_t)(address >> 8));
    out(0x05, (uint8_t)count), out(0x05, (uint8_t)(count >> 8));
    out(0x81, page), out(0x0a, 2);
}

static void bytes(void)
{
    if (!start())
        return;
    uint8_t data[1024], back[1024];
    bool tc;
    for (unsigned i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7 + 1);
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 4, &tc), 0); /* masked */
    program(0x44, 0x12, 0x3400, 511);
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 100, &tc), 100);
    CU_ASSERT_FALSE(tc);
    CU_ASSERT_EQUAL(i8237_left(&dma, 2), 412);
    out(0x0c, 0);
    CU_ASSERT_EQUAL(in(0x04), 0x64);
    CU_ASSERT_EQUAL(in(0x04), 0x34);
    CU_ASSERT_EQUAL(in(0x05), (511 - 100) & 0xff);
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data + 100, 924, &tc), 412);
    CU_ASSERT_TRUE(tc);
    CU_ASSERT_EQUAL(memory_read(&memory, gpa(0x123400), back, 512), 512);
    CU_ASSERT_EQUAL(memcmp(data, back, 512), 0);
    CU_ASSERT_EQUAL(in(0x08) & 0x0f, 4);
    CU_ASSERT_EQUAL(in(0x08) & 0x0f, 0);                    /* cleared by the read */
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 1, &tc), 0); /* masked itself */
    CU_ASSERT_EQUAL(in(0x0f), 0xff);
    /* Memory to device, with autoinit. */
    program(0x58, 0x12, 0x3400, 15);
    CU_ASSERT_EQUAL(i8237_read(&dma, 2, back, 100, &tc), 16);
    CU_ASSERT_TRUE(tc);
    CU_ASSERT_EQUAL(memcmp(back, data, 16), 0);
    CU_ASSERT_EQUAL(i8237_read(&dma, 2, back + 16, 10, &tc), 10);
    CU_ASSERT_EQUAL(memcmp(back + 16, data, 10), 0);
    stop();
}

static void wraps_and_modes(void)
{
    if (!start())
        return;
    uint8_t data[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, back[16];
    bool tc;
    program(0x44, 0x05, 0xfff8, 15); /* wraps inside 64K */
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 16, &tc), 16);
    memory_read(&memory, gpa(0x5fff8), back, 8);
    memory_read(&memory, gpa(0x50000), back + 8, 8);
    CU_ASSERT_EQUAL(memcmp(back, data, 16), 0);
    program(0x64, 0x05, 0x0007, 15); /* downwards, wraps to the top */
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 16, &tc), 16);
    memory_read(&memory, gpa(0x50000), back, 8);
    CU_ASSERT_EQUAL(back[7], 1);
    CU_ASSERT_EQUAL(back[0], 8);
    memory_read(&memory, gpa(0x5fff8), back, 8);
    CU_ASSERT_EQUAL(back[7], 9);
    CU_ASSERT_EQUAL(back[0], 16);
    program(0x40, 0x05, 0x0000, 7); /* verify: counts only */
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, (uint8_t[8]){99}, 8, &tc), 8);
    CU_ASSERT_TRUE(tc);
    memory_read(&memory, gpa(0x50000), back, 1);
    CU_ASSERT_EQUAL(back[0], 8);
    program(0xc4, 0x05, 0, 7); /* cascade */
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 8, &tc), 0);
    program(0x44, 0x05, 0, 7);
    out(0x08, 4); /* controller off */
    CU_ASSERT_FALSE(i8237_ready(&dma, 2));
    out(0x0d, 0);
    out(0x0e, 0);
    CU_ASSERT_TRUE(i8237_ready(&dma, 2));
    /* Past the end of memory: dropped, and all ones. */
    program(0x44, 0xff, 0xfff0, 0xffff);
    CU_ASSERT_EQUAL(i8237_write(&dma, 2, data, 16, &tc), 16);
    program(0x48, 0xff, 0xfff0, 0xffff);
    CU_ASSERT_EQUAL(i8237_read(&dma, 2, back, 0, &tc), 0);
    CU_ASSERT_EQUAL(i8237_read(&dma, 2, back, 16, &tc), 16);
    stop();
}

static void words(void)
{
    if (!start())
        return;
    uint16_t data[8] = {0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888}, back[8];
    bool tc;
    out(0xd8, 0), out(0xd6, 0x44 | 1);
    out(0xc4, 0x00), out(0xc4, 0x10), out(0xc6, 3), out(0xc6, 0);
    out(0x8b, 0x03), out(0xd4, 1); /* page bit 0 is not used: 0x020000 + 0x1000 * 2 */
    CU_ASSERT_EQUAL(i8237_left(&dma, 5), 8);
    CU_ASSERT_EQUAL(i8237_write(&dma, 5, data, 3, &tc), 2); /* the odd byte is left over */
    CU_ASSERT_EQUAL(i8237_write(&dma, 5, data + 1, 14, &tc), 6);
    CU_ASSERT_TRUE(tc);
    memory_read(&memory, gpa(0x22000), back, 8);
    CU_ASSERT_EQUAL(memcmp(back, data, 8), 0);
    CU_ASSERT_EQUAL(in(0xd0), 0x02);
    i8237_request(&dma, 6, true);
    CU_ASSERT_EQUAL(in(0xd0), 0x40);
    out(0x80, 0xa5);
    CU_ASSERT_EQUAL(in(0x80), 0xa5);
    stop();
}

TEST_SUITE(i8237, {"bytes, terminal count, autoinit", bytes}, {"64K wrap, decrement, verify, cascade", wraps_and_modes},
           {"words, pages, requests", words})
