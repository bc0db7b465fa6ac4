/* SPDX-License-Identifier: MIT */
/* A fault without an IDT: #GP, #DF, shutdown. Never returns. */
#include "lib/guest.h"

void guest_main(void)
{
    static const struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) none;
    printf("ok about to fault three times\n");
    /* Registers that the monitor's report can be looked up by. */
    __asm__ volatile("lidt %0; mov $0x12345678, %%ebx; mov $0xcafef00d, %%edi; ud2" ::"m"(none) : "ebx", "edi");
    printf("FAIL still running\n");
    guest_exit(1);
}
