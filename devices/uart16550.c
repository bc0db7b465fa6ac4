/* SPDX-License-Identifier: MIT */
#include "devices/uart16550.h"

#include <string.h>

enum { RBR_THR_DLL, IER_DLM, IIR_FCR, LCR, MCR, LSR, MSR, SCR };
enum { IER_RECEIVE = 1, IER_THRE = 2, IER_LINE_STATUS = 4, IER_MODEM_STATUS = 8 };
enum { IIR_NONE = 1, IIR_MODEM_STATUS = 0, IIR_THRE = 2, IIR_RECEIVE = 4, IIR_LINE_STATUS = 6, IIR_TIMEOUT = 0xc };
enum { FCR_ENABLE = 1, FCR_CLEAR_RECEIVE = 2, FCR_CLEAR_TRANSMIT = 4 };
enum { LCR_DLAB = 0x80, LCR_PARITY = 8, LCR_STOP = 4, LCR_LENGTH = 3 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10 };
enum {
    LSR_DR = 1,
    LSR_OE = 2,
    LSR_PE = 4,
    LSR_FE = 8,
    LSR_BI = 0x10,
    LSR_THRE = 0x20,
    LSR_TEMT = 0x40,
    LSR_FIFO_ERROR = 0x80
};
enum {
    MSR_DCTS = 1,
    MSR_DDSR = 2,
    MSR_TERI = 4,
    MSR_DDCD = 8,
    MSR_CTS = 0x10,
    MSR_DSR = 0x20,
    MSR_RI = 0x40,
    MSR_DCD = 0x80
};
enum { LSR_ERRORS = LSR_OE | LSR_PE | LSR_FE | LSR_BI };

#define BASE_HZ 115200ull /* 1.8432 MHz / 16 */
/* So many reads of the line status in a row are a program that waits for input without interrupts; one that waits to
 * send finds the transmitter empty at once. */
enum { POLLS_OF_A_READER = 8 };

static bool fifo_on(const struct uart16550 *u)
{
    return u->fcr & FCR_ENABLE;
}

static unsigned capacity(const struct uart16550 *u)
{
    return fifo_on(u) ? UART16550_FIFO : 1;
}

static unsigned trigger(const struct uart16550 *u)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return fifo_on(u) ? levels[u->fcr >> 6] : 1;
}

static uint8_t identify(const struct uart16550 *u)
{
    if ((u->ier & IER_LINE_STATUS) && (u->lsr & LSR_ERRORS))
        return IIR_LINE_STATUS;
    if ((u->ier & IER_RECEIVE) && u->count >= trigger(u))
        return IIR_RECEIVE;
    if ((u->ier & IER_RECEIVE) && u->timeout_pending)
        return IIR_TIMEOUT;
    if ((u->ier & IER_THRE) && u->thre_pending)
        return IIR_THRE;
    if ((u->ier & IER_MODEM_STATUS) && (u->msr & 0x0f))
        return IIR_MODEM_STATUS;
    return IIR_NONE;
}

static void update_irq(struct uart16550 *u)
{
    /* In loop-back the OUT2 pin is inactive. */
    bool connected = (u->mcr & MCR_OUT2) && !(u->mcr & MCR_LOOP);
    irq_set(&u->irq, connected && identify(u) != IIR_NONE);
}

/* Four character times, at most 10 ms: a guest may leave any divisor behind, 0 and 65535 among them. */
static uint64_t timeout_ns(const struct uart16550 *u)
{
    uint64_t bits = 1 + 5 + (u->lcr & LCR_LENGTH) + (u->lcr & LCR_PARITY ? 1 : 0) + (u->lcr & LCR_STOP ? 2 : 1);
    uint64_t ns = clock_ticks_to_ns(4 * bits * (u->divisor ? u->divisor : 1), BASE_HZ);
    return ns > 10 * NS_PER_MS ? 10 * NS_PER_MS : ns;
}

static void restart_timeout(struct uart16550 *u)
{
    u->timeout_pending = false;
    if (fifo_on(u) && u->count)
        timer_arm(&u->timeout, clock_now(u->clock) + timeout_ns(u));
    else
        timer_cancel(&u->timeout);
}

static void on_timeout(void *opaque)
{
    struct uart16550 *u = opaque;
    u->timeout_pending = fifo_on(u) && u->count;
    update_irq(u);
}

/* DR and the error bits that belong to the byte at the head. */
static void show_head(struct uart16550 *u)
{
    u->lsr &= (uint8_t) ~(LSR_DR | LSR_FIFO_ERROR);
    if (!u->count)
        return;
    u->lsr |= LSR_DR | u->fifo_errors[u->head];
    u->fifo_errors[u->head] = 0; /* reported once */
    for (unsigned i = 0; fifo_on(u) && i < u->count; i++)
        if (u->fifo_errors[(u->head + i) % UART16550_FIFO])
            u->lsr |= LSR_FIFO_ERROR;
}

static void clear_receive(struct uart16550 *u)
{
    u->head = u->count = 0;
    memset(u->fifo_errors, 0, sizeof u->fifo_errors);
    u->lsr &= (uint8_t) ~(LSR_DR | LSR_FIFO_ERROR);
    restart_timeout(u);
}

static void push(struct uart16550 *u, uint8_t byte, uint8_t errors)
{
    if (u->count == capacity(u)) {
        u->lsr |= LSR_OE;
        if (fifo_on(u))
            return; /* the shift register is overwritten, the FIFO is not */
        u->count = 0;
    }
    unsigned at = (u->head + u->count++) % UART16550_FIFO;
    u->fifo[at] = byte;
    u->fifo_errors[at] = errors;
    if (u->count == 1)
        show_head(u);
    else if (errors)
        u->lsr |= LSR_FIFO_ERROR;
    restart_timeout(u);
}

static bool listens(const struct uart16550 *u)
{
    return !(u->mcr & MCR_LOOP) &&
           ((u->mcr & MCR_RTS) || (u->ier & IER_RECEIVE) || u->status_polls >= POLLS_OF_A_READER);
}

static size_t on_can_receive(void *opaque)
{
    struct uart16550 *u = opaque;
    return listens(u) && u->count < capacity(u) ? capacity(u) - u->count : 0;
}

static void on_receive(void *opaque, const uint8_t *buf, size_t len)
{
    struct uart16550 *u = opaque;
    for (size_t i = 0; i < len; i++)
        push(u, buf[i], 0);
    update_irq(u);
}

void uart16550_receive_break(struct uart16550 *u)
{
    if (u->mcr & MCR_LOOP)
        return;
    push(u, 0, LSR_BI);
    update_irq(u);
}

static void ask_for_input(struct uart16550 *u)
{
    if (u->chardev && u->chardev->accept_input && on_can_receive(u))
        u->chardev->accept_input(u->chardev->backend);
}

/* The modem inputs: in loop-back they are the outputs, otherwise whoever is plugged in is ready. */
static void update_modem(struct uart16550 *u)
{
    uint8_t level = u->chardev ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
    if (u->mcr & MCR_LOOP)
        level = (uint8_t)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) |
                          (u->mcr & MCR_OUT1 ? MSR_RI : 0) | (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
    uint8_t changed = (u->msr ^ level) & 0xf0;
    uint8_t delta = changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
    if ((changed & MSR_RI) && !(level & MSR_RI))
        delta |= MSR_TERI;
    u->msr = level | (u->msr & 0x0f) | delta;
}

static void transmit(struct uart16550 *u, uint8_t byte)
{
    static const uint8_t length_mask[4] = {0x1f, 0x3f, 0x7f, 0xff};
    byte &= length_mask[u->lcr & LCR_LENGTH];
    u->thre_pending = false;
    update_irq(u);
    if (u->mcr & MCR_LOOP)
        push(u, byte, 0);
    else
        chardev_write(u->chardev, &byte, 1);
    u->thre_pending = true;
    update_irq(u);
}

static uint8_t read_receive_buffer(struct uart16550 *u)
{
    uint8_t byte = u->fifo[u->head];
    if (u->count) {
        u->count--;
        if (fifo_on(u))
            u->head = (u->head + 1) % UART16550_FIFO;
        show_head(u);
        restart_timeout(u);
    }
    update_irq(u);
    ask_for_input(u);
    return byte;
}

static void write_fcr(struct uart16550 *u, uint8_t value)
{
    bool toggled = (value ^ u->fcr) & FCR_ENABLE;
    if (!(value & FCR_ENABLE))
        value = 0; /* the other bits are only taken together with bit 0 */
    u->fcr = value & 0xc9;
    if (toggled || (value & FCR_CLEAR_RECEIVE))
        clear_receive(u);
    if (toggled || (value & FCR_CLEAR_TRANSMIT))
        u->thre_pending = true;
    update_irq(u);
    ask_for_input(u);
}

static void write_ier(struct uart16550 *u, uint8_t value)
{
    uint8_t turned_on = value & ~u->ier;
    u->ier = value & 0x0f;
    if (turned_on & IER_THRE)
        u->thre_pending = true; /* the transmitter is empty: it says so when it is asked to */
    update_irq(u);
    ask_for_input(u);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct uart16550 *u = opaque;
    bool dlab = u->lcr & LCR_DLAB;
    uint8_t value;
    if (offset != LSR)
        u->status_polls = 0;
    switch (offset) {
    case RBR_THR_DLL:
        return dlab ? u->divisor & 0xff : read_receive_buffer(u);
    case IER_DLM:
        return dlab ? u->divisor >> 8 : u->ier;
    case IIR_FCR:
        value = identify(u);
        if (value == IIR_THRE) {
            u->thre_pending = false;
            update_irq(u);
        }
        return value | (fifo_on(u) ? 0xc0 : 0);
    case LCR:
        return u->lcr;
    case MCR:
        return u->mcr;
    case LSR:
        if (u->status_polls < POLLS_OF_A_READER)
            u->status_polls++;
        ask_for_input(u);
        value = u->lsr;
        u->lsr &= (uint8_t)~LSR_ERRORS;
        update_irq(u);
        return value;
    case MSR:
        value = u->msr;
        u->msr &= 0xf0;
        update_irq(u);
        return value;
    default:
        return u->scratch;
    }
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct uart16550 *u = opaque;
    bool dlab = u->lcr & LCR_DLAB;
    u->status_polls = 0;
    switch (offset) {
    case RBR_THR_DLL:
        if (dlab)
            u->divisor = (uint16_t)((u->divisor & 0xff00) | (value & 0xff));
        else
            transmit(u, (uint8_t)value);
        break;
    case IER_DLM:
        if (dlab)
            u->divisor = (uint16_t)((u->divisor & 0x00ff) | (value & 0xff) << 8);
        else
            write_ier(u, (uint8_t)value);
        break;
    case IIR_FCR:
        write_fcr(u, (uint8_t)value);
        break;
    case LCR:
        u->lcr = (uint8_t)value;
        break;
    case MCR:
        u->mcr = value & 0x1f;
        update_modem(u);
        update_irq(u);
        ask_for_input(u);
        break;
    case SCR:
        u->scratch = (uint8_t)value;
        break;
    default:
        break; /* LSR and MSR are read-only */
    }
}

void uart16550_reset(struct uart16550 *u)
{
    u->ier = u->fcr = u->lcr = u->mcr = u->scratch = 0;
    u->divisor = 12; /* undefined by the data sheet; 9600 baud, as a BIOS leaves it */
    u->lsr = LSR_THRE | LSR_TEMT;
    u->thre_pending = false;
    u->status_polls = 0;
    clear_receive(u);
    update_modem(u);
    u->msr &= 0xf0;
    update_irq(u);
}

int uart16550_init(struct uart16550 *u, struct bus *ports, uint16_t base, struct clock *clock, struct irq_line irq,
                   struct chardev *chardev)
{
    memset(u, 0, sizeof *u);
    u->clock = clock;
    u->irq = irq;
    u->chardev = chardev;
    if (chardev) {
        chardev->chip = u;
        chardev->can_receive = on_can_receive;
        chardev->receive = on_receive;
    }
    timer_init(&u->timeout, clock, on_timeout, u);
    u->ports = (struct bus_range){"16550", base, 8, 1, 1, port_read, port_write, u, false};
    uart16550_reset(u);
    return bus_add(ports, &u->ports);
}
