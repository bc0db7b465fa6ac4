/* SPDX-License-Identifier: MIT */
/* Ends with the status 7 through the debug-exit port. */
#include "lib/guest.h"

void guest_main(void)
{
    printf("ok exit\n");
    guest_exit(7);
}
