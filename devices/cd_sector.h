/* SPDX-License-Identifier: MIT */
/* The 2352 bytes of a mode 1 CD-ROM sector around its 2048 bytes of data (ECMA-130, clause 14 and annex A). */
#ifndef RINGFOLD_DEVICES_CD_SECTOR_H
#define RINGFOLD_DEVICES_CD_SECTOR_H

#include <stdint.h>

enum { CD_SYNC = 0, CD_HEADER = 12, CD_DATA = 16, CD_EDC = 2064, CD_RAW_SIZE = 2352, CD_DATA_SIZE = 2048 };

/* Minute, second, frame of a sector: 75 frames a second, sector 0 at 00:02:00. Binary, not BCD. */
void cd_lba_to_msf(uint32_t lba, uint8_t msf[3]);
/* Fills in everything but the data at sector[CD_DATA]. */
void cd_encode_mode1(uint8_t sector[CD_RAW_SIZE], uint32_t lba);

#endif
