/* SPDX-License-Identifier: MIT */
/* The schematic. Order: buses, interrupt controller, PCI with the bridges, what hangs on the south bridge, PCI cards.
 */
#include "devices/board.h"

#include <stdio.h>
#include <string.h>

enum { FERR_PORT = 0xf0, FERR_IRQ = 13 };

/* ---- x87 error interrupt: FERR# raises IRQ 13, a write to port 0xf0 lowers it ---- */

void board_set_ferr(struct board *b, int level)
{
    struct irq_line irq13 = piix4_isa_irq(&b->piix4, FERR_IRQ);
    irq_set(&irq13, level);
}

static void ferr_clear(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    board_set_ferr(opaque, 0);
}

/* ---- reset lines ---- */

static void set_cpu_init(void *opaque, int n, int level)
{
    struct board *b = opaque;
    if (level)
        b->signals.power.cpu_init(b->signals.power.opaque);
}

static bool irq0_waiting(void *opaque)
{
    struct board *b = opaque;
    if (b->chips_held)
        return b->holder.pic_waiting(b->holder.opaque, 0);
    return i8259_waiting(&b->pic, 0);
}

static void display_window(void *opaque, bool display)
{
    vga_set_window_enabled(opaque, display);
}

/* ---- interrupts ---- */

/* INTR of the 8259 pair: LINT0 of every processor, and pin 0 of the I/O APIC. */
static void set_intr(void *opaque, int n, int level)
{
    struct board *b = opaque;
    struct irq_line pin0 = ioapic_input(&b->ioapic, 0);
    for (unsigned i = 0; i < BOARD_CPUS; i++)
        lapic_set_lint(&b->lapic[i], 0, level);
    irq_set(&pin0, level);
}

int board_acknowledge(struct board *b, unsigned cpu)
{
    int vector = b->has_apic ? lapic_acknowledge(&b->lapic[cpu % BOARD_CPUS]) : LAPIC_ASK_8259;
    if (vector == LAPIC_ASK_8259)
        vector = i8259_pending(&b->pic) ? i8259_acknowledge(&b->pic) : -1;
    return vector;
}

/* ---- wiring ---- */

static int fail(char *err, size_t err_len, const char *what, int r)
{
    snprintf(err, err_len, "%s: %s", what, strerror(-r));
    return r;
}

#define TRY(call, what)                                                                                                \
    do {                                                                                                               \
        int try_result = (call);                                                                                       \
        if (try_result)                                                                                                \
            return fail(err, err_len, what, try_result);                                                               \
    } while (0)

static int wire_apics(struct board *b, char *err, size_t err_len)
{
    struct irq_line isa[16], pirq[PCI_PIRQ_COUNT];
    for (unsigned i = 0; i < BOARD_CPUS; i++)
        TRY(lapic_init(&b->lapic[i], &b->apic_bus, b->clock, i, CPU_BUS_HZ, &b->signals.lapic), "local APIC");
    TRY(ioapic_init(&b->ioapic, b->memory_bus, &b->apic_bus, PIIX4_SCI_IRQ), "82093AA");
    for (unsigned n = 0; n < 16; n++)
        isa[n] = n == 2 ? (struct irq_line){0} : ioapic_input(&b->ioapic, n ? n : 2);
    for (unsigned n = 0; n < PCI_PIRQ_COUNT; n++)
        pirq[n] = ioapic_input(&b->ioapic, IOAPIC_PIRQ_PIN + n);
    piix4_connect_ioapic(&b->piix4, isa, pirq);
    return 0;
}

static int wire_core(struct board *b, char *err, size_t err_len)
{
    struct irq_line pic_pins[16], pirq[PCI_PIRQ_COUNT];
    TRY(firmware_map(&b->firmware, b->memory), "firmware ROM");
    struct irq_line intr = {set_intr, b, 0};
    TRY(i8259_init(&b->pic, b->ports, b->has_apic ? intr : b->signals.intr), "8259");
    for (unsigned n = 0; n < 16; n++)
        pic_pins[n] = i8259_input(&b->pic, n);
    for (int n = 0; n < PCI_PIRQ_COUNT; n++)
        pirq[n] = piix4_pirq(&b->piix4, n);
    b->pci = pci_bus_create(b->ports, b->memory_bus, b->memory, pirq);
    if (!b->pci)
        return fail(err, err_len, "PCI bus", -12 /* ENOMEM */);
    TRY(i440bx_init(&b->bridge, b->pci, b->memory, b->firmware.low), "440BX");
    TRY(piix4_init(&b->piix4, b->pci, b->ports, b->clock, pic_pins, &b->signals.power), "PIIX4");
    return b->has_apic ? wire_apics(b, err, err_len) : 0;
}

static int wire_isa(struct board *b, char *err, size_t err_len)
{
    static const uint16_t uart_ports[MACHINE_SERIAL_PORTS] = {0x3f8, 0x2f8};
    static const int uart_irqs[MACHINE_SERIAL_PORTS] = {4, 3};
    const struct machine_config *config = b->config;
    struct piix4 *p = &b->piix4;
    struct irq_line cpu_init = {set_cpu_init, b, 0};
    TRY(i8254_init(&b->pit, b->ports, b->clock, piix4_isa_irq(p, 0)), "8254");
    b->pit.irq0_waiting = irq0_waiting;
    b->pit.irq0_waiting_opaque = b;
    TRY(mc146818_init(&b->rtc, b->ports, b->clock, piix4_isa_irq(p, 8)), "MC146818");
    TRY(i8237_init(&b->dma, b->ports, b->memory), "8237");
    TRY(port92_init(&b->port92, b->ports, b->signals.a20, cpu_init), "port 92");
    TRY(i8042_init(&b->keyboard, b->ports, b->clock, piix4_isa_irq(p, 1), piix4_isa_irq(p, 12),
                   port92_keyboard_a20(&b->port92), cpu_init),
        "8042");
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        TRY(uart16550_init(&b->uart[i], b->ports, uart_ports[i], b->clock, piix4_isa_irq(p, uart_irqs[i]),
                           config->serial[i]),
            "16550");
    TRY(i82077_init(&b->fdc, b->ports, piix4_isa_irq(p, 6), b->clock, &b->dma), "82077");
    TRY(fwcfg_init(&b->fwcfg, b->ports, b->memory), "fw_cfg");
    enum debugport_exit mode = config->debug_exit == DEBUG_EXIT_EXACT  ? DEBUGPORT_EXIT_EXACT
                               : config->debug_exit == DEBUG_EXIT_QEMU ? DEBUGPORT_EXIT_QEMU
                                                                       : DEBUGPORT_EXIT_OFF;
    TRY(debugport_init(&b->debug, b->ports, mode, b->signals.debug_exit, b->signals.opaque, config->debug_console),
        "debug ports");
    b->ferr_port = (struct bus_range){
        .name = "ferr", .base = FERR_PORT, .size = 2, .max_access = 1, .write = ferr_clear, .opaque = b};
    TRY(bus_add(b->ports, &b->ferr_port), "port f0");
    return 0;
}

static int wire_pci(struct board *b, char *err, size_t err_len)
{
    struct piix4 *p = &b->piix4;
    ide_controller_init(&b->ide, b->ports, b->memory, piix4_isa_irq(p, 14), piix4_isa_irq(p, 15));
    int r = board_attach_drives(b, err, err_len);
    if (r)
        return r;
    TRY(ide_controller_add(&b->ide, b->pci, PIIX4_DEVICE, 1), "IDE");
    r = vga_pci_init(&b->vga, b->pci, BOARD_VGA_DEVICE, 0, b->ports, b->memory_bus, b->memory, b->clock, NULL, err,
                     err_len);
    if (r)
        return r;
    b->display = vga_display(&b->vga.vga);
    b->bridge.window_changed = display_window;
    b->bridge.window_opaque = &b->vga.vga;
    return 0;
}

int board_init(struct board *b, const struct machine_config *config, const struct cpu_model *model,
               struct memory *memory, struct clock *clock, struct loop *loop, const struct board_signals *signals,
               char *err, size_t err_len)
{
    memset(b, 0, sizeof *b);
    b->config = config;
    b->memory = memory;
    b->clock = clock;
    b->loop = loop;
    b->signals = *signals;
    b->has_apic = model->apic;
    int r = board_open_drives(b, err, err_len);
    if (!r)
        r = firmware_init(&b->firmware, config, memory, b->floppy_present[0], model, err, err_len);
    b->ports = bus_create("ports", 65536);
    b->memory_bus = bus_create("memory", UINT64_MAX);
    if (!r && (!b->ports || !b->memory_bus))
        r = fail(err, err_len, "buses", -12);
    if (!r)
        r = wire_core(b, err, err_len);
    if (!r)
        r = wire_isa(b, err, err_len);
    if (!r)
        r = wire_pci(b, err, err_len);
    if (!r && firmware_fill_fwcfg(&b->firmware, b, config))
        r = fail(err, err_len, "fw_cfg", -12);
    if (r) {
        board_destroy(b);
        return r;
    }
    firmware_fill_cmos(b, config);
    firmware_prepare(&b->firmware, b);
    return 0;
}

/* Also takes apart what board_init left half-built: everything not reached is still zero. */
void board_destroy(struct board *b)
{
    if (b->vga.pci.bus)
        vga_pci_destroy(&b->vga);
    if (b->ide.ports)
        ide_controller_destroy(&b->ide);
    if (b->fdc.ports.mapped)
        i82077_destroy(&b->fdc, b->ports);
    if (b->fwcfg.ports)
        fwcfg_destroy(&b->fwcfg);
    if (b->piix4.ports)
        piix4_destroy(&b->piix4);
    if (b->bridge.memory)
        i440bx_destroy(&b->bridge);
    for (unsigned i = 0; i < BOARD_CPUS; i++)
        lapic_destroy(&b->lapic[i]);
    pci_bus_destroy(b->pci);
    bus_destroy(b->ports);
    bus_destroy(b->memory_bus);
    board_close_drives(b);
    firmware_destroy(&b->firmware);
    memset(b, 0, sizeof *b);
}

void board_reset(struct board *b, struct loader_board *out)
{
    pci_bus_reset(b->pci);
    i440bx_reset(&b->bridge);
    piix4_reset(&b->piix4);
    i8259_reset(&b->pic);
    if (b->has_apic) {
        ioapic_reset(&b->ioapic);
        for (unsigned i = 0; i < BOARD_CPUS; i++)
            lapic_reset(&b->lapic[i]);
    }
    i8254_reset(&b->pit);
    mc146818_reset(&b->rtc);
    i8237_reset(&b->dma);
    i8042_reset(&b->keyboard);
    port92_reset(&b->port92); /* after the keyboard controller: A20 is on */
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        uart16550_reset(&b->uart[i]);
    i82077_reset(&b->fdc);
    fwcfg_reset(&b->fwcfg);
    debugport_reset(&b->debug);
    board_set_ferr(b, 0);
    ide_controller_reset(&b->ide);
    vga_reset(&b->vga.vga);
    firmware_prepare(&b->firmware, b);
    if (b->config->kernel)
        firmware_play(&b->firmware, b, out);
}
