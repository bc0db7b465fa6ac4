/* SPDX-License-Identifier: MIT */
#include "devices/port92.h"

#include <string.h>

enum { FAST_RESET = 1, A20 = 2 };

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct port92 *p = opaque;
    return p->value;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct port92 *p = opaque;
    uint8_t before = p->value;
    p->value = (uint8_t)value;
    irq_set(&p->a20, (value & A20) != 0);
    if ((value & FAST_RESET) && !(before & FAST_RESET)) {
        irq_set(&p->reset, 1);
        irq_set(&p->reset, 0);
    }
}

static void on_keyboard_a20(void *opaque, int n, int level)
{
    struct port92 *p = opaque;
    p->value = (uint8_t)(level ? p->value | A20 : p->value & ~A20);
    irq_set(&p->a20, level != 0);
}

struct irq_line port92_keyboard_a20(struct port92 *p)
{
    return (struct irq_line){.set = on_keyboard_a20, .opaque = p, .n = 0};
}

void port92_reset(struct port92 *p)
{
    p->value = A20;
    irq_set(&p->a20, 1);
}

int port92_init(struct port92 *p, struct bus *ports, struct irq_line a20, struct irq_line reset)
{
    memset(p, 0, sizeof *p);
    p->a20 = a20;
    p->reset = reset;
    p->port = (struct bus_range){"port 92", 0x92, 1, 1, 1, port_read, port_write, p, false};
    port92_reset(p);
    return bus_add(ports, &p->port);
}
