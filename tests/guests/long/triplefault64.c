/* SPDX-License-Identifier: MIT */
/* An exception that cannot be delivered, nor what comes of it: the processor shuts down. */
#include "lib64/guest.h"

void guest_main(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) none = {0, 0};
    printf("no IDT from here\n");
    __asm__ volatile("lidt %0; ud2" ::"m"(none));
    printf("FAIL went on\n");
}
