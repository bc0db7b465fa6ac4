/* SPDX-License-Identifier: MIT */
/* The PIIX4's power management function: ACPI registers, PM timer, SMI command port, SMBus host controller without
 * anything on its bus. Data sheet 290562, chapters 7 and 11. */
#include "devices/log.h"
#include "devices/piix4_internal.h"

#include <string.h>

#define PM_TIMER_HZ 3579545ull
#define PM_TIMER_HALF (1ull << 23) /* TMROF_STS: bit 23 toggles */

enum { PMBA = 0x40, PMREGMISC = 0x80, SMBBA = 0x90, SMBHSTCFG = 0xd2 };
enum {
    PMSTS_TMROF = 1 << 0,
    PMSTS_GBL = 1 << 5,
    PMSTS_PWRBTN = 1 << 8,
    PMSTS_RTC = 1 << 10,
    PMSTS_RESUME = 1 << 15,
    PMSTS_ALL = PMSTS_TMROF | 1 << 4 | PMSTS_GBL | PMSTS_PWRBTN | PMSTS_RTC | PMSTS_RESUME,
    PMEN_ALL = PMSTS_TMROF | PMSTS_GBL | PMSTS_PWRBTN | PMSTS_RTC
};
enum { PMCNTRL_SCI_EN = 1, PMCNTRL_KEPT = 0x1c03, PMCNTRL_SUS_EN = 1 << 13 };
enum { PM_STS = 0x00, PM_EN = 0x02, PM_CNTRL = 0x04, PM_TMR = 0x08, GP_STS = 0x0c, GP_EN = 0x0e, PM_GLBCTL = 0x28 };
enum { GLBCTL_BIOS_RLS = 2 };
enum {
    SMB_HSTSTS = 0,
    SMB_SLVSTS,
    SMB_HSTCNT,
    SMB_HSTCMD,
    SMB_HSTADD,
    SMB_HSTDAT0,
    SMB_HSTDAT1,
    SMB_BLKDAT,
    SMB_SLVCNT
};
enum { SMB_DEV_ERR = 0x04, SMB_STATUS_CLEAR = 0x1e, SMB_START = 0x40, SMB_INTEREN = 0x01 };

/* ---- PM timer and SCI ---- */

static uint64_t pm_ticks(const struct piix4 *p)
{
    return clock_ns_to_ticks(clock_now(p->clock), PM_TIMER_HZ);
}

static void latch_overflow(struct piix4 *p)
{
    uint64_t now = pm_ticks(p);
    if (now >= p->timer_overflow) {
        p->pmsts |= PMSTS_TMROF;
        p->timer_overflow = (now / PM_TIMER_HALF + 1) * PM_TIMER_HALF;
    }
}

static void update_sci(struct piix4 *p)
{
    latch_overflow(p);
    bool sci = p->pmcntrl & PMCNTRL_SCI_EN && ((p->pmsts & p->pmen & PMEN_ALL) || (p->gpsts & p->gpen));
    if (p->pmen & PMSTS_TMROF && !(p->pmsts & PMSTS_TMROF))
        timer_arm(&p->overflow_timer, clock_ticks_to_ns(p->timer_overflow, PM_TIMER_HZ));
    else
        timer_cancel(&p->overflow_timer);
    if (sci == p->sci)
        return;
    p->sci = sci;
    piix4_update_pin(p, PIIX4_SCI_IRQ);
}

static void overflow_fired(void *opaque)
{
    update_sci(opaque);
}

void piix4_pm_rtc_alarm(struct piix4 *p)
{
    p->pmsts |= PMSTS_RTC;
    update_sci(p);
}

void piix4_power_button(struct piix4 *p)
{
    p->pmsts |= PMSTS_PWRBTN;
    update_sci(p);
}

/* ---- registers in I/O space, byte by byte ---- */

static uint8_t pm_read_byte(struct piix4 *p, unsigned at)
{
    switch (at & ~1u) {
    case PM_STS:
        return (uint8_t)(p->pmsts >> (at & 1) * 8);
    case PM_EN:
        return (uint8_t)(p->pmen >> (at & 1) * 8);
    case PM_CNTRL:
        return (uint8_t)(p->pmcntrl >> (at & 1) * 8);
    case PM_TMR:
    case PM_TMR + 2:
        return (uint8_t)((pm_ticks(p) & 0xffffff) >> (at & 3) * 8);
    case GP_STS:
        return (uint8_t)(p->gpsts >> (at & 1) * 8);
    case GP_EN:
        return (uint8_t)(p->gpen >> (at & 1) * 8);
    default:
        return p->pm_plain[at];
    }
}

static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct piix4 *p = opaque;
    latch_overflow(p);
    if (offset == PM_TMR && size == 4)
        return pm_ticks(p) & 0xffffff;
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)pm_read_byte(p, (offset + i) & 63) << i * 8;
    return value;
}

/* SUS_EN: enter the state SUS_TYP names. Only soft off is wired on this board; the ACPI tables offer nothing else. */
static void suspend(struct piix4 *p)
{
    unsigned type = p->pmcntrl >> 10 & 7;
    if (type == 0)
        p->signals.power_off(p->signals.opaque);
    else
        log_msg(LOG_GUEST_ERROR, "piix4: suspend type %u is not supported by the board", type);
}

/* One byte of a 16-bit register: the new register with that byte replaced. */
static uint16_t with_byte(uint16_t reg, unsigned at, uint8_t value)
{
    unsigned shift = (at & 1) * 8;
    return (uint16_t)((reg & ~(0xffu << shift)) | (unsigned)value << shift);
}

static void pm_write_byte(struct piix4 *p, unsigned at, uint8_t value)
{
    uint16_t ones = with_byte(0, at, value);
    switch (at & ~1u) {
    case PM_STS:
        p->pmsts &= (uint16_t) ~(ones & PMSTS_ALL);
        break;
    case PM_EN:
        p->pmen = with_byte(p->pmen, at, value) & PMEN_ALL;
        break;
    case PM_CNTRL:
        p->pmcntrl = with_byte(p->pmcntrl, at, value) & PMCNTRL_KEPT;
        if (ones & PMCNTRL_SUS_EN)
            suspend(p);
        break;
    case PM_TMR:
    case PM_TMR + 2:
        break;
    case GP_STS:
        p->gpsts &= (uint16_t)~ones;
        break;
    case GP_EN:
        p->gpen = with_byte(p->gpen, at, value);
        break;
    default:
        p->pm_plain[at] = value;
        if (at == PM_GLBCTL && value & GLBCTL_BIOS_RLS) {
            p->pm_plain[at] &= (uint8_t)~GLBCTL_BIOS_RLS;
            p->pmsts |= PMSTS_GBL;
        }
    }
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct piix4 *p = opaque;
    latch_overflow(p);
    for (unsigned i = 0; i < size; i++)
        pm_write_byte(p, (offset + i) & 63, (uint8_t)(value >> i * 8));
    update_sci(p);
}

/* ---- APM control and status (SMI command port) ---- */

static uint64_t apm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct piix4 *p = opaque;
    return offset ? p->apms : p->apmc;
}

static void apm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct piix4 *p = opaque;
    if (offset) {
        p->apms = (uint8_t)value;
        return;
    }
    p->apmc = (uint8_t)value;
    if (p->apmc == PIIX4_ACPI_ENABLE)
        p->pmcntrl |= PMCNTRL_SCI_EN;
    else if (p->apmc == PIIX4_ACPI_DISABLE)
        p->pmcntrl &= (uint16_t)~PMCNTRL_SCI_EN;
    update_sci(p);
}

/* ---- SMBus ---- */

static void update_smbus_interrupt(struct piix4 *p)
{
    bool to_irq9 = (p->pm.config[SMBHSTCFG] & 0x0e) == 0x08;
    bool level = to_irq9 && p->smbus.control & SMB_INTEREN && p->smbus.status & SMB_STATUS_CLEAR;
    if (level == p->smbus.interrupt)
        return;
    p->smbus.interrupt = level;
    piix4_update_pin(p, PIIX4_SCI_IRQ);
}

static uint64_t smbus_read(void *opaque, uint64_t offset, unsigned size)
{
    struct piix4 *p = opaque;
    switch (offset) {
    case SMB_HSTSTS:
        return p->smbus.status;
    case SMB_SLVSTS:
        return p->smbus.slave_status;
    case SMB_HSTCNT:
        p->smbus.block_index = 0;
        return p->smbus.control;
    case SMB_HSTCMD:
        return p->smbus.command;
    case SMB_HSTADD:
        return p->smbus.address;
    case SMB_HSTDAT0:
        return p->smbus.data0;
    case SMB_HSTDAT1:
        return p->smbus.data1;
    case SMB_BLKDAT:
        return p->smbus.block[p->smbus.block_index++ & 31];
    case SMB_SLVCNT:
        return p->smbus.slave_control;
    default:
        return 0;
    }
}

static void smbus_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct piix4 *p = opaque;
    uint8_t v = (uint8_t)value;
    switch (offset) {
    case SMB_HSTSTS:
        p->smbus.status &= (uint8_t) ~(v & SMB_STATUS_CLEAR);
        break;
    case SMB_HSTCNT:
        p->smbus.control = v & 0x1f; /* START and KILL read as 0 */
        if (v & SMB_START)
            p->smbus.status |= SMB_DEV_ERR; /* nobody acknowledges the address */
        break;
    case SMB_HSTCMD:
        p->smbus.command = v;
        break;
    case SMB_HSTADD:
        p->smbus.address = v;
        break;
    case SMB_HSTDAT0:
        p->smbus.data0 = v;
        break;
    case SMB_HSTDAT1:
        p->smbus.data1 = v;
        break;
    case SMB_BLKDAT:
        p->smbus.block[p->smbus.block_index++ & 31] = v;
        break;
    case SMB_SLVCNT:
        p->smbus.slave_control = v & 0x0f;
        break;
    default:
        break;
    }
    update_smbus_interrupt(p);
}

/* ---- configuration space ---- */

static void place(struct piix4 *p, struct bus_range *range, bool enabled, uint16_t base)
{
    if (range->mapped && enabled && range->base == base)
        return;
    bus_remove(p->ports, range);
    range->base = base;
    if (enabled && base)
        bus_add(p->ports, range); /* a place that is taken: the registers do not answer */
}

static void pm_config_written(void *opaque, unsigned reg, unsigned size)
{
    struct piix4 *p = opaque;
    const uint8_t *config = p->pm.config;
    place(p, &p->pm_range, config[PMREGMISC] & 1, pci_get16(&p->pm, PMBA) & 0xffc0);
    place(p, &p->smbus_range, config[SMBHSTCFG] & 1, pci_get16(&p->pm, SMBBA) & 0xfff0);
    update_smbus_interrupt(p);
}

/* ---- life cycle ---- */

int piix4_pm_init(struct piix4 *p, struct pci_bus *bus)
{
    timer_init(&p->overflow_timer, p->clock, overflow_fired, p);
    struct bus_range pm = {.name = "piix4-pm", .size = 64, .max_access = 4, .read = pm_read, .write = pm_write};
    struct bus_range smbus = {
        .name = "piix4-smbus", .size = 16, .max_access = 1, .read = smbus_read, .write = smbus_write};
    struct bus_range apm = {
        .name = "piix4-apm", .base = 0xb2, .size = 2, .max_access = 1, .read = apm_read, .write = apm_write};
    pm.opaque = smbus.opaque = apm.opaque = p;
    p->pm_range = pm;
    p->smbus_range = smbus;
    p->apm_range = apm;
    int r = bus_add(p->ports, &p->apm_range);
    if (r)
        return r;

    struct pci_function *f = &p->pm;
    pci_function_init(f, "piix4-pm", 0x8086, 0x7113, 0x068000, 0x02);
    pci_set_interrupt_pin(f, 1);
    f->write_mask[PCI_COMMAND] = 0x01;
    f->config[PCI_STATUS] = 0x80;
    f->config[PCI_STATUS + 1] = 0x02;
    f->clear_mask[PCI_STATUS + 1] = 0x78;
    f->config[PMBA] = f->config[SMBBA] = 1;
    pci_put16(f->write_mask, PMBA, 0xffc0);
    pci_put16(f->write_mask, SMBBA, 0xfff0);
    memset(f->write_mask + 0x44, 0xff, 0x80 - 0x44); /* CNTA, CNTB, GPICTL, DEVRESA-J */
    f->write_mask[PMREGMISC] = 0x01;
    f->write_mask[SMBHSTCFG] = 0x0f;
    f->write_mask[0xd3] = f->write_mask[0xd4] = f->write_mask[0xd5] = 0xff;
    f->config_written = pm_config_written;
    f->opaque = p;
    r = pci_add(bus, f, PIIX4_DEVICE, 3);
    if (r)
        bus_remove(p->ports, &p->apm_range);
    return r;
}

void piix4_pm_reset(struct piix4 *p)
{
    p->pmsts = p->pmen = p->pmcntrl = p->gpsts = p->gpen = 0;
    p->apmc = p->apms = 0;
    memset(p->pm_plain, 0, sizeof p->pm_plain);
    memset(&p->smbus, 0, sizeof p->smbus);
    p->timer_overflow = (pm_ticks(p) / PM_TIMER_HALF + 1) * PM_TIMER_HALF;
    update_sci(p);
    pm_config_written(p, 0, 0);
}

void piix4_pm_destroy(struct piix4 *p)
{
    timer_cancel(&p->overflow_timer);
    bus_remove(p->ports, &p->pm_range);
    bus_remove(p->ports, &p->smbus_range);
    bus_remove(p->ports, &p->apm_range);
    pci_remove(&p->pm);
}
