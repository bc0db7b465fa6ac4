/* SPDX-License-Identifier: MIT */
/* Intel 82371AB PIIX4: the PCI-to-ISA bridge (8086:7110) with the interrupt router and the reset control port, and the
 * power management function (8086:7113) with ACPI registers and an SMBus controller on an empty bus. Data sheet 290562.
 * Its IDE function (8086:7111) is devices/ide.h; the USB function is not built in. The 8259s, the 8254, the RTC and the
 * 8237s that share the die are chips of their own here.
 *
 * All ISA interrupts pass through it, because a pin of the 8259s may be driven by an ISA device, by PIRQs and by SCI.
 *
 * There is no SMM: what firmware's SMI handler would do for ACPI, enabling and disabling it by the SMI command port, is
 * done here directly.
 *
 * Threads: under the machine lock. */
#ifndef RINGFOLD_DEVICES_PIIX4_H
#define RINGFOLD_DEVICES_PIIX4_H

#include "devices/clock.h"
#include "devices/pci.h"

enum { PIIX4_DEVICE = 7 };                                /* on the board's PCI bus */
enum { PIIX4_PM_PORT = 0x600, PIIX4_SMBUS_PORT = 0x700 }; /* where firmware puts them; the ACPI tables say so */
enum { PIIX4_ACPI_ENABLE = 0xf1, PIIX4_ACPI_DISABLE = 0xf0, PIIX4_SMI_COMMAND_PORT = 0xb2 };
enum { PIIX4_PIRQRC = 0x60, PIIX4_RESET_PORT = 0xcf9, PIIX4_SCI_IRQ = 9 };

/* What the chip asks of the machine. */
struct piix4_signals {
    void (*reset)(void *opaque);     /* hard reset: PCIRST#, RSTDRV, CPURST */
    void (*cpu_init)(void *opaque);  /* INIT */
    void (*power_off)(void *opaque); /* soft off */
    void *opaque;
};

struct piix4 {
    struct pci_function isa, pm;
    struct clock *clock;
    struct bus *ports;
    struct irq_line pic[16];
    struct irq_line apic_isa[16], apic_pirq[PCI_PIRQ_COUNT];
    bool irq9out;
    struct piix4_signals signals;

    uint8_t isa_level[16]; /* driven by ISA devices */
    uint8_t pin_level[16]; /* as last told to the 8259s */
    uint8_t pirq_level[PCI_PIRQ_COUNT];
    uint8_t reset_control;
    uint8_t apmc, apms;

    struct bus_range pm_range, smbus_range, apm_range;
    uint16_t pmsts, pmen, pmcntrl, gpsts, gpen;
    uint8_t pm_plain[64];    /* registers that keep what is written */
    uint64_t timer_overflow; /* PM timer tick at which bit 23 toggles next */
    struct timer overflow_timer;
    bool sci;

    struct {
        uint8_t status, control, command, address, data0, data1, slave_status, slave_control;
        uint8_t block[32];
        unsigned block_index;
        bool interrupt;
    } smbus;
};

/* Adds functions 0 and 3 of device 7. pic: the 16 pins of the 8259 pair. Returns 0 or -errno. */
int piix4_init(struct piix4 *p, struct pci_bus *bus, struct bus *ports, struct clock *clock,
               const struct irq_line pic[16], const struct piix4_signals *signals);
/* After pci_bus_reset. */
void piix4_reset(struct piix4 *p);
void piix4_destroy(struct piix4 *p);
/* The line an ISA device drives, n 0-15; and the PIRQ lines for pci_bus_create, which may be asked for before
 * piix4_init. */
struct irq_line piix4_isa_irq(struct piix4 *p, int n);
struct irq_line piix4_pirq(struct piix4 *p, int n);
/* Once, on a board with an I/O APIC, which sits beside the PIIX4: isa, the 16 lines as ISA devices drive them (without
 * PIRQs; IRQ 9 is the chip's IRQ9OUT#, SCI and SMBus), and the PIRQs. */
void piix4_connect_ioapic(struct piix4 *p, const struct irq_line isa[16], const struct irq_line pirq[PCI_PIRQ_COUNT]);
/* PWRBTN# pressed. */
void piix4_power_button(struct piix4 *p);

#endif
