/* SPDX-License-Identifier: MIT */
#include "devices/cd_sector.h"

#include <string.h>

enum { EDC_POLYNOMIAL = 0xd8018001, FIELD_POLYNOMIAL = 0x11d };

void cd_lba_to_msf(uint32_t lba, uint8_t msf[3])
{
    lba += 150;
    msf[0] = (uint8_t)(lba / 75 / 60);
    msf[1] = (uint8_t)(lba / 75 % 60);
    msf[2] = (uint8_t)(lba % 75);
}

static uint8_t bcd(uint8_t v)
{
    return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

static uint8_t twice(uint8_t v)
{
    return (uint8_t)(v << 1 ^ (v & 0x80 ? FIELD_POLYNOMIAL : 0));
}

/* Two parity bytes for each of `vectors` code words of `length` bytes, which lie step bytes apart and wrap at the end.
 * The words interleave by 16-bit halves: word 2n and 2n+1 start side by side, `stride` bytes after the pair before. The
 * parity p, q of the bytes v[0..] solves p + q = sum(v[i]), a*p + q = sum(a^k * v[i]) over GF(256), hence the division
 * by a + 1 = 3. */
static void parity(const uint8_t *in, unsigned vectors, unsigned length, unsigned stride, unsigned step, uint8_t *out,
                   const uint8_t third[256])
{
    unsigned size = vectors * length;
    for (unsigned v = 0; v < vectors; v++) {
        unsigned at = (v >> 1) * stride + (v & 1);
        uint8_t weighted = 0, sum = 0;
        for (unsigned i = 0; i < length; i++) {
            weighted = twice((uint8_t)(weighted ^ in[at]));
            sum ^= in[at];
            at += step;
            if (at >= size)
                at -= size;
        }
        uint8_t p = third[(uint8_t)(twice(weighted) ^ sum)];
        out[v] = p;
        out[v + vectors] = p ^ sum;
    }
}

void cd_encode_mode1(uint8_t sector[CD_RAW_SIZE], uint32_t lba)
{
    uint8_t third[256];
    for (unsigned i = 0; i < 256; i++)
        third[(uint8_t)(i ^ twice((uint8_t)i))] = (uint8_t)i;
    memset(sector, 0xff, CD_HEADER);
    sector[0] = sector[11] = 0;
    cd_lba_to_msf(lba, sector + CD_HEADER);
    for (unsigned i = 0; i < 3; i++)
        sector[CD_HEADER + i] = bcd(sector[CD_HEADER + i]);
    sector[CD_HEADER + 3] = 1;
    uint32_t edc = 0;
    for (unsigned i = 0; i < CD_EDC; i++) {
        edc ^= sector[i];
        for (unsigned bit = 0; bit < 8; bit++)
            edc = edc >> 1 ^ (edc & 1 ? EDC_POLYNOMIAL : 0);
    }
    memset(sector + CD_EDC, 0, CD_RAW_SIZE - CD_EDC);
    for (unsigned i = 0; i < 4; i++)
        sector[CD_EDC + i] = (uint8_t)(edc >> (8 * i));
    parity(sector + CD_HEADER, 86, 24, 2, 86, sector + 2076, third);
    parity(sector + CD_HEADER, 52, 43, 86, 88, sector + 2248, third);
}
