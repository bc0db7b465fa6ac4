/* SPDX-License-Identifier: MIT */
/* The two 8237A DMA controllers of a PC: channels 0-3 move bytes (ports 0x00-0x0f), 5-7 words (0xc0-0xdf); channel 4 is
 * the cascade. Page registers at 0x80-0x8f; port 0x80 is also where BIOSes show their POST codes, which go to the log
 * category firmware. Intel 8237A data sheet (order 231466); PIIX4 data sheet, "DMA controller registers".
 *
 * A chip does not raise DREQ and wait for DACK: it calls i8237_write / i8237_read with the bytes it has, which runs the
 * channel as far as it goes. Memory-to-memory transfers are not wired on a PC and not done.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_I8237_H
#define RINGFOLD_DEVICES_I8237_H

#include "devices/bus.h"
#include "shadowmmu/memory.h"

struct i8237_channel {
    uint16_t base_address, base_count;
    uint16_t address, count; /* current; in words on channels 5-7 */
    uint8_t mode;
};

struct i8237_chip {
    struct i8237_channel channel[4];
    uint8_t command, mask, terminal_count; /* one bit per channel */
    uint8_t software_request, request;     /* request: DREQ pins, for the status register */
    bool high_byte;                        /* the flip-flop */
};

struct i8237 {
    struct i8237_chip chip[2];
    uint8_t page[16];
    struct memory *memory;
    struct bus_range ports[2], page_ports;
};

int i8237_init(struct i8237 *dma, struct bus *ports, struct memory *memory);
void i8237_reset(struct i8237 *dma);
/* The level of a channel's DREQ pin, which only the status register shows. */
void i8237_request(struct i8237 *dma, unsigned channel, bool level);
/* True when the channel would take a transfer now: unmasked, controller enabled, not a cascade. */
bool i8237_ready(const struct i8237 *dma, unsigned channel);
/* From the device to memory (i8237_write) and from memory to the device (i8237_read). Return how many of the len bytes
 * the channel took, which is less when terminal count came (*terminal_count is then true) or the channel is not ready.
 * On channels 5-7 an odd last byte is left over. In verify mode, or when the channel is programmed for the other
 * direction, addresses and counts run on without data: i8237_read then gives 0xff bytes.
 * With autoinit the channel is ready again after terminal count; otherwise it masks itself. */
size_t i8237_write(struct i8237 *dma, unsigned channel, const void *buf, size_t len, bool *terminal_count);
size_t i8237_read(struct i8237 *dma, unsigned channel, void *buf, size_t len, bool *terminal_count);
/* Bytes left until terminal count. */
size_t i8237_left(const struct i8237 *dma, unsigned channel);

#endif
