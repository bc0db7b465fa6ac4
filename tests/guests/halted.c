/* SPDX-License-Identifier: MIT */
/* Never ends: HLT with interrupts off, from which only the host can wake it. */
#include "lib/guest.h"

void guest_main(void)
{
    printf("ok halted\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}
