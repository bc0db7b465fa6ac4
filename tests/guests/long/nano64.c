/* SPDX-License-Identifier: MIT */
/* The same for 64-bit code. */
#include "nano.c"
