/* SPDX-License-Identifier: MIT */
/* The PIIX4's ISA bridge function: PIRQ routing, ISA interrupt lines, reset control. Power management: piix4_pm.c. */
#include "devices/piix4.h"

#include "devices/piix4_internal.h"

#include <string.h>

enum { PIRQ_DISABLED = 0x80 };
enum { TRC_SYSTEM_RESET = 2, TRC_RESET_CPU = 4 };

/* ---- interrupts ---- */

/* IRQ 0, 1, 2, 8 and 13 are reserved: a PIRQ cannot be routed there. */
static int pirq_target(const struct piix4 *p, unsigned n)
{
    uint8_t route = p->isa.config[PIIX4_PIRQRC + n];
    unsigned irq = route & 15;
    return route & PIRQ_DISABLED || !(0xdef8 >> irq & 1) ? -1 : (int)irq;
}

static void update_irq9out(struct piix4 *p)
{
    bool level = p->isa_level[PIIX4_SCI_IRQ] || p->sci || p->smbus.interrupt;
    if (level == p->irq9out)
        return;
    p->irq9out = level;
    irq_set(&p->apic_isa[PIIX4_SCI_IRQ], level);
}

void piix4_update_pin(struct piix4 *p, unsigned n)
{
    bool level = p->isa_level[n] || (n == PIIX4_SCI_IRQ && (p->sci || p->smbus.interrupt));
    for (unsigned i = 0; i < PCI_PIRQ_COUNT; i++)
        level |= p->pirq_level[i] && pirq_target(p, i) == (int)n;
    if (n == PIIX4_SCI_IRQ)
        update_irq9out(p);
    if (level == p->pin_level[n])
        return;
    p->pin_level[n] = level;
    irq_set(&p->pic[n], level);
}

static void set_pirq(void *opaque, int n, int level)
{
    struct piix4 *p = opaque;
    p->pirq_level[n & 3] = level != 0;
    irq_set(&p->apic_pirq[n & 3], level);
    int irq = pirq_target(p, (unsigned)n & 3);
    if (irq >= 0)
        piix4_update_pin(p, (unsigned)irq);
}

static void set_isa(void *opaque, int n, int level)
{
    struct piix4 *p = opaque;
    bool rises = level && !p->isa_level[n & 15];
    p->isa_level[n & 15] = level != 0;
    if ((n & 15) == 8 && rises)
        piix4_pm_rtc_alarm(p);
    if ((n & 15) != PIIX4_SCI_IRQ)
        irq_set(&p->apic_isa[n & 15], level);
    piix4_update_pin(p, (unsigned)n & 15);
}

struct irq_line piix4_isa_irq(struct piix4 *p, int n)
{
    return (struct irq_line){set_isa, p, n};
}

void piix4_connect_ioapic(struct piix4 *p, const struct irq_line isa[16], const struct irq_line pirq[PCI_PIRQ_COUNT])
{
    memcpy(p->apic_isa, isa, sizeof p->apic_isa);
    memcpy(p->apic_pirq, pirq, sizeof p->apic_pirq);
}

struct irq_line piix4_pirq(struct piix4 *p, int n)
{
    return (struct irq_line){set_pirq, p, n};
}

static void isa_written(void *opaque, unsigned reg, unsigned size)
{
    struct piix4 *p = opaque;
    if (reg < PIIX4_PIRQRC + 4 && reg + size > PIIX4_PIRQRC)
        for (unsigned n = 0; n < 16; n++)
            piix4_update_pin(p, n);
}

/* ---- reset control register, port 0xcf9 (data sheet 4.2.8) ---- */

static uint8_t passed_read(void *opaque, unsigned offset)
{
    struct piix4 *p = opaque;
    return offset == 1 ? p->reset_control : 0xff;
}

static void passed_write(void *opaque, unsigned offset, uint8_t value)
{
    struct piix4 *p = opaque;
    if (offset != 1)
        return;
    /* RCPU going from 0 to 1 starts the reset that SRST chose before or chooses now. */
    bool rises = value & TRC_RESET_CPU && !(p->reset_control & TRC_RESET_CPU);
    p->reset_control = value & (TRC_SYSTEM_RESET | TRC_RESET_CPU);
    if (!rises)
        return;
    if (value & TRC_SYSTEM_RESET) {
        p->signals.reset(p->signals.opaque);
    } else {
        p->reset_control &= (uint8_t)~TRC_RESET_CPU;
        p->signals.cpu_init(p->signals.opaque);
    }
}

/* ---- life cycle ---- */

/* Data sheet chapter 4.1: reset value and writable bits. */
static const struct {
    uint8_t reg, value, mask;
} isa_registers[] = {
    {PCI_COMMAND, 0x07, 0x08},
    {PCI_COMMAND + 1, 0x00, 0x01},
    {PCI_STATUS, 0x80, 0x00},
    {PCI_STATUS + 1, 0x02, 0x00},
    {0x0c, 0x00, 0x00},
    {0x0d, 0x00, 0x00},
    {PCI_HEADER_TYPE, 0x80, 0x00},
    {PCI_INTERRUPT_LINE, 0x00, 0x00},
    {0x4c, 0x4d, 0xff}, /* IORT */
    {0x4e, 0x03, 0xff},
    {0x4f, 0x00, 0x07}, /* XBCS */
    {0x60, 0x80, 0x8f},
    {0x61, 0x80, 0x8f},
    {0x62, 0x80, 0x8f},
    {0x63, 0x80, 0x8f},
    {0x64, 0x10, 0xff}, /* SERIRQC */
    {0x69, 0x02, 0xfe}, /* TOM */
    {0x6a, 0x00, 0x80},
    {0x6b, 0x00, 0x80}, /* MSTAT */
    {0x76, 0x0c, 0x8f},
    {0x77, 0x0c, 0x8f}, /* MBDMA */
    {0x80, 0x00, 0x7f}, /* APICBASE */
    {0x82, 0x00, 0x0f}, /* DLC */
    {0x90, 0x00, 0xff},
    {0x91, 0x00, 0xff}, /* PDMACFG */
    {0x92, 0x00, 0xc0},
    {0x93, 0x00, 0xff}, /* DDMABP */
    {0x94, 0x00, 0xc0},
    {0x95, 0x00, 0xff},
    {0xb0, 0x00, 0xff},
    {0xb1, 0x00, 0xff}, /* GENCFG */
    {0xb2, 0x00, 0xff},
    {0xb3, 0x00, 0xff},
    {0xcb, 0x21, 0x3d}, /* RTCCFG */
};

int piix4_init(struct piix4 *p, struct pci_bus *bus, struct bus *ports, struct clock *clock,
               const struct irq_line pic[16], const struct piix4_signals *signals)
{
    memset(p, 0, sizeof *p);
    p->clock = clock;
    p->ports = ports;
    p->signals = *signals;
    memcpy(p->pic, pic, sizeof p->pic);
    pci_function_init(&p->isa, "piix4-isa", 0x8086, 0x7110, 0x060100, 0x02);
    for (size_t i = 0; i < sizeof isa_registers / sizeof isa_registers[0]; i++) {
        p->isa.config[isa_registers[i].reg] = isa_registers[i].value;
        p->isa.write_mask[isa_registers[i].reg] = isa_registers[i].mask;
    }
    p->isa.clear_mask[PCI_STATUS + 1] = 0x78;
    p->isa.config_written = isa_written;
    p->isa.opaque = p;
    int r = pci_add(bus, &p->isa, PIIX4_DEVICE, 0);
    if (!r)
        r = piix4_pm_init(p, bus);
    if (r) {
        pci_remove(&p->isa);
        return r;
    }
    pci_set_passed_ports(bus, passed_read, passed_write, p);
    piix4_reset(p);
    return 0;
}

void piix4_reset(struct piix4 *p)
{
    p->reset_control = 0;
    piix4_pm_reset(p);
    for (unsigned n = 0; n < 16; n++)
        piix4_update_pin(p, n);
}

void piix4_destroy(struct piix4 *p)
{
    piix4_pm_destroy(p);
    pci_remove(&p->isa);
}
