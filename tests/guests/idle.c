/* SPDX-License-Identifier: MIT */
/* Never ends: spins with interrupts off. What stops it is the host: a time limit, a signal, the control socket. */
#include "lib/guest.h"

void guest_main(void)
{
    printf("ok idle\n");
    for (;;)
        __asm__ volatile("" ::: "memory");
}
