/* SPDX-License-Identifier: MIT */
#include "devices/pir.h"

#include "devices/piix4.h"

#include <string.h>

enum { PIR_IRQS = 1 << 5 | 1 << 10 | 1 << 11 };

void pir_build(uint8_t table[PIR_SIZE])
{
    memset(table, 0, PIR_SIZE);
    memcpy(table, "$PIR", 4);
    table[5] = 1; /* version 1.0 */
    table[6] = (uint8_t)(PIR_SIZE & 0xff);
    table[7] = PIR_SIZE >> 8;
    table[9] = PIIX4_DEVICE << 3;              /* the router's bus is 0 */
    memcpy(table + 12, "\x86\x80\x10\x71", 4); /* 8086:7110 */
    for (unsigned device = 1; device <= PIR_SLOTS; device++) {
        uint8_t *slot = table + PIR_HEADER_SIZE + (device - 1) * PIR_SLOT_SIZE;
        slot[1] = (uint8_t)(device << 3);
        for (unsigned pin = 1; pin <= 4; pin++) {
            uint8_t *link = slot + 2 + (pin - 1) * 3;
            link[0] = (uint8_t)(PIIX4_PIRQRC + pci_pirq_of(device, pin));
            link[1] = PIR_IRQS & 0xff;
            link[2] = PIR_IRQS >> 8;
        }
        /* Devices on the board have slot number 0, the others are "slots". */
        slot[14] = (uint8_t)(device == 1 || device == PIIX4_DEVICE ? 0 : device);
    }
    uint8_t sum = 0;
    for (unsigned i = 0; i < PIR_SIZE; i++)
        sum = (uint8_t)(sum + table[i]);
    table[31] = (uint8_t)-sum;
}
