/* SPDX-License-Identifier: MIT */
#include "devices/i8042.h"

#include "devices/log.h"

#include <string.h>

enum { STATUS_OBF = 0x01, STATUS_SYSTEM = 0x04, STATUS_COMMAND = 0x08, STATUS_UNLOCKED = 0x10, STATUS_AUX = 0x20 };
enum {
    MODE_IRQ1 = 0x01,
    MODE_IRQ12 = 0x02,
    MODE_SYSTEM = 0x04,
    MODE_KEYBOARD_OFF = 0x10,
    MODE_AUX_OFF = 0x20,
    MODE_TRANSLATE = 0x40
};
enum { PORT_RESET = 0x01, PORT_A20 = 0x02, PORT_IRQ1 = 0x10, PORT_IRQ12 = 0x20 };
enum {
    READ_RAM = 0x20,
    WRITE_RAM = 0x60,
    TEST_PASSWORD = 0xa4,
    AUX_OFF = 0xa7,
    AUX_ON = 0xa8,
    TEST_AUX = 0xa9,
    SELF_TEST = 0xaa,
    TEST_KEYBOARD = 0xab,
    KEYBOARD_OFF = 0xad,
    KEYBOARD_ON = 0xae,
    READ_INPUT_PORT = 0xc0,
    READ_OUTPUT_PORT = 0xd0,
    WRITE_OUTPUT_PORT = 0xd1,
    WRITE_KEYBOARD_BUFFER = 0xd2,
    WRITE_AUX_BUFFER = 0xd3,
    WRITE_AUX = 0xd4,
    A20_OFF = 0xdd,
    A20_ON = 0xdf,
    READ_TEST_INPUTS = 0xe0,
    PULSE = 0xf0
};

#define BYTE_NS (700 * NS_PER_US)

static void update_irqs(struct i8042 *k)
{
    bool full = k->status & STATUS_OBF, aux = k->status & STATUS_AUX;
    irq_set(&k->irq1, full && !aux && (k->ram[0] & MODE_IRQ1));
    irq_set(&k->irq12, full && aux && (k->ram[0] & MODE_IRQ12));
}

static void fill(struct i8042 *k, uint8_t byte, bool aux)
{
    /* Overwriting a byte nobody read has to make an edge as well. */
    k->status &= (uint8_t) ~(STATUS_OBF | STATUS_AUX);
    update_irqs(k);
    k->output = byte;
    k->status |= STATUS_OBF | (aux ? STATUS_AUX : 0);
    update_irqs(k);
}

/* Set 2 to set 1; false: the byte was only a prefix. */
static bool translate(struct i8042 *k, uint8_t *byte)
{
    if (!(k->ram[0] & MODE_TRANSLATE)) {
        k->break_seen = false;
        return true;
    }
    if (*byte == 0xf0) {
        k->break_seen = true;
        return false;
    }
    *byte = (uint8_t)(ps2_set2_to_set1[*byte] | (k->break_seen ? 0x80 : 0));
    k->break_seen = false;
    return true;
}

/* Moves the next byte of a device into the output buffer, when that is empty and the wire's time is over. */
static void deliver(struct i8042 *k)
{
    if ((k->status & STATUS_OBF) || k->delivering)
        return;
    bool keyboard = !(k->ram[0] & MODE_KEYBOARD_OFF) && ps2_keyboard_has_data(&k->keyboard);
    bool mouse = !(k->ram[0] & MODE_AUX_OFF) && ps2_mouse_has_data(&k->mouse);
    if (!keyboard && !mouse)
        return;
    if (clock_now(k->clock) < k->next_byte) {
        if (!timer_armed(&k->deliver))
            timer_arm(&k->deliver, k->next_byte);
        return;
    }
    k->delivering = true;
    while (keyboard && !(k->status & STATUS_OBF)) {
        uint8_t byte = ps2_keyboard_read(&k->keyboard);
        if (translate(k, &byte))
            fill(k, byte, false);
        keyboard = ps2_keyboard_has_data(&k->keyboard);
    }
    if (mouse && !(k->status & STATUS_OBF))
        fill(k, ps2_mouse_read(&k->mouse), true);
    k->delivering = false;
}

static void on_deliver(void *opaque)
{
    deliver(opaque);
}

static void write_output_port(struct i8042 *k, uint8_t value)
{
    k->output_port = value & (uint8_t) ~(PORT_IRQ1 | PORT_IRQ12);
    irq_set(&k->a20, (value & PORT_A20) != 0);
    if (!(value & PORT_RESET)) {
        irq_set(&k->reset, 1);
        irq_set(&k->reset, 0);
    }
}

static uint8_t read_output_port(const struct i8042 *k)
{
    bool full = k->status & STATUS_OBF, aux = k->status & STATUS_AUX;
    return (uint8_t)(k->output_port | (full && !aux ? PORT_IRQ1 : 0) | (full && aux ? PORT_IRQ12 : 0));
}

static void write_ram(struct i8042 *k, unsigned index, uint8_t value)
{
    k->ram[index & 31] = value;
    if (index & 31)
        return;
    k->status = (uint8_t)((k->status & ~STATUS_SYSTEM) | (value & MODE_SYSTEM ? STATUS_SYSTEM : 0));
    update_irqs(k);
    deliver(k);
}

static void self_test(struct i8042 *k)
{
    k->status |= STATUS_SYSTEM;
    k->ram[0] |= MODE_SYSTEM;
    fill(k, 0x55, false);
}

static void write_command(struct i8042 *k, uint8_t command)
{
    k->status |= STATUS_COMMAND;
    k->pending = 0;
    switch (command) {
    case READ_RAM ... READ_RAM + 31:
        fill(k, k->ram[command & 31], false);
        break;
    case WRITE_RAM ... WRITE_RAM + 31:
    case WRITE_OUTPUT_PORT ... WRITE_AUX:
        k->pending = command;
        break;
    case TEST_PASSWORD:
        fill(k, 0xf1, false); /* none installed */
        break;
    case AUX_OFF:
        write_ram(k, 0, k->ram[0] | MODE_AUX_OFF);
        break;
    case AUX_ON:
        write_ram(k, 0, k->ram[0] & (uint8_t)~MODE_AUX_OFF);
        break;
    case TEST_AUX:
    case TEST_KEYBOARD:
        fill(k, 0, false);
        break;
    case SELF_TEST:
        self_test(k);
        break;
    case KEYBOARD_OFF:
        write_ram(k, 0, k->ram[0] | MODE_KEYBOARD_OFF);
        break;
    case KEYBOARD_ON:
        write_ram(k, 0, k->ram[0] & (uint8_t)~MODE_KEYBOARD_OFF);
        break;
    case READ_INPUT_PORT:
        fill(k, 0x80, false); /* keyboard not inhibited */
        break;
    case READ_OUTPUT_PORT:
        fill(k, read_output_port(k), false);
        break;
    case A20_OFF:
    case A20_ON:
        write_output_port(k, (uint8_t)((k->output_port & ~PORT_A20) | (command & PORT_A20)));
        break;
    case READ_TEST_INPUTS:
        fill(k, 0, false);
        break;
    case PULSE ... PULSE + 15:
        if (!(command & PORT_RESET)) { /* a 0 bit is pulsed low */
            irq_set(&k->reset, 1);
            irq_set(&k->reset, 0);
        }
        break;
    default:
        log_msg(LOG_GUEST_ERROR, "8042: unknown command 0x%02x", command);
        break;
    }
}

static void write_data(struct i8042 *k, uint8_t value)
{
    uint8_t command = k->pending;
    k->status &= (uint8_t)~STATUS_COMMAND;
    k->pending = 0;
    switch (command) {
    case WRITE_RAM ... WRITE_RAM + 31:
        write_ram(k, command & 31, value);
        break;
    case WRITE_OUTPUT_PORT:
        write_output_port(k, value);
        break;
    case WRITE_KEYBOARD_BUFFER:
        fill(k, value, false);
        break;
    case WRITE_AUX_BUFFER:
        fill(k, value, true);
        break;
    case WRITE_AUX:
        k->ram[0] &= (uint8_t)~MODE_AUX_OFF;
        ps2_mouse_write(&k->mouse, value);
        deliver(k);
        break;
    default:
        /* Sending to a device turns its line on. */
        k->ram[0] &= (uint8_t)~MODE_KEYBOARD_OFF;
        ps2_keyboard_write(&k->keyboard, value);
        deliver(k);
        break;
    }
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *k = opaque;
    if (k->status & STATUS_OBF) {
        k->status &= (uint8_t) ~(STATUS_OBF | STATUS_AUX);
        update_irqs(k);
        k->next_byte = clock_now(k->clock) + BYTE_NS;
        uint8_t value = k->output;
        deliver(k);
        return value;
    }
    return k->output;
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    write_data(opaque, (uint8_t)value);
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *k = opaque;
    return k->status;
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    write_command(opaque, (uint8_t)value);
}

static void on_device_data(void *opaque, int n, int level)
{
    if (level)
        deliver(opaque);
}

void i8042_reset(struct i8042 *k)
{
    timer_cancel(&k->deliver);
    memset(k->ram, 0, sizeof k->ram);
    k->ram[0] = MODE_IRQ1 | MODE_IRQ12 | MODE_TRANSLATE;
    k->status = STATUS_UNLOCKED;
    k->output = 0;
    k->output_port = 0xcc | PORT_RESET | PORT_A20;
    k->pending = 0;
    k->break_seen = false;
    k->next_byte = 0;
    ps2_keyboard_reset(&k->keyboard);
    ps2_mouse_reset(&k->mouse);
    update_irqs(k);
    irq_set(&k->a20, 1);
}

int i8042_init(struct i8042 *k, struct bus *ports, struct clock *clock, struct irq_line irq1, struct irq_line irq12,
               struct irq_line a20, struct irq_line reset)
{
    memset(k, 0, sizeof *k);
    k->clock = clock;
    k->irq1 = irq1;
    k->irq12 = irq12;
    k->a20 = a20;
    k->reset = reset;
    timer_init(&k->deliver, clock, on_deliver, k);
    struct irq_line data = {.set = on_device_data, .opaque = k, .n = 0};
    ps2_keyboard_init(&k->keyboard, clock, data);
    ps2_mouse_init(&k->mouse, clock, data);
    k->data_port = (struct bus_range){"8042 data", 0x60, 1, 1, 1, data_read, data_write, k, false};
    k->command_port = (struct bus_range){"8042 command", 0x64, 1, 1, 1, status_read, command_write, k, false};
    i8042_reset(k);
    int err = bus_add(ports, &k->data_port);
    return err ? err : bus_add(ports, &k->command_port);
}
