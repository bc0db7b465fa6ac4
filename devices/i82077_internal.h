/* SPDX-License-Identifier: MIT */
/* Between i82077.c (registers, phases, control commands) and i82077_transfer.c (what moves data). */
#ifndef RINGFOLD_DEVICES_I82077_INTERNAL_H
#define RINGFOLD_DEVICES_I82077_INTERNAL_H

#include "devices/i82077.h"

enum i82077_st0 {
    ST0_ABNORMAL = 0x40,
    ST0_INVALID = 0x80,
    ST0_POLLING = 0xc0,
    ST0_SEEK_END = 0x20,
    ST0_EQUIPMENT = 0x10
};
enum i82077_st1 {
    ST1_MISSING_ADDRESS = 0x01,
    ST1_NOT_WRITABLE = 0x02,
    ST1_NO_DATA = 0x04,
    ST1_OVERRUN = 0x10,
    ST1_DATA_ERROR = 0x20,
    ST1_END_OF_CYLINDER = 0x80
};
enum i82077_st2 { ST2_BAD_CYLINDER = 0x02, ST2_WRONG_CYLINDER = 0x10, ST2_DATA_ERROR = 0x20, ST2_CONTROL_MARK = 0x40 };

enum { COMMAND_MT = 0x80, COMMAND_MFM = 0x40, COMMAND_SK = 0x20 };
enum { CONFIGURE_EIS = 0x40, CONFIGURE_EFIFO = 0x20, CONFIGURE_NO_POLL = 0x10 };
enum { DOR_RESET = 0x04, DOR_DMAGATE = 0x08 };

struct i82077_operation {
    uint8_t mask, code; /* of the command byte */
    uint8_t length;     /* bytes of the command */
    bool timed;         /* runs a moment after its last byte */
    void (*run)(struct i82077 *fdc);
};

/* The result phase with n bytes of fdc->result; interrupt: those of transfers. */
void i82077_give_result(struct i82077 *fdc, unsigned n, bool interrupt);
void i82077_update_irq(struct i82077 *fdc);
bool i82077_uses_dma(const struct i82077 *fdc);
/* Moves the head and clears DSKCHG when it really moved. */
void i82077_step(struct i82077_drive *d, uint8_t track);

void i82077_run_transfer(struct i82077 *fdc); /* READ, WRITE, VERIFY and their kin */
void i82077_run_read_id(struct i82077 *fdc);
void i82077_run_format(struct i82077 *fdc);
/* The host has moved buffer[pos, end) through the FIFO port. */
void i82077_data_exhausted(struct i82077 *fdc);
/* A transfer ends with the seven result bytes. */
void i82077_end_transfer(struct i82077 *fdc, uint8_t st0, uint8_t st1, uint8_t st2);

#endif
