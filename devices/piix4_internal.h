/* SPDX-License-Identifier: MIT */
/* Between piix4.c and piix4_pm.c. */
#ifndef RINGFOLD_DEVICES_PIIX4_INTERNAL_H
#define RINGFOLD_DEVICES_PIIX4_INTERNAL_H

#include "devices/piix4.h"

/* Tells the 8259 pin n its level when it changed. */
void piix4_update_pin(struct piix4 *p, unsigned n);

int piix4_pm_init(struct piix4 *p, struct pci_bus *bus);
void piix4_pm_reset(struct piix4 *p);
void piix4_pm_destroy(struct piix4 *p);
/* IRQ 8 rose. */
void piix4_pm_rtc_alarm(struct piix4 *p);

#endif
