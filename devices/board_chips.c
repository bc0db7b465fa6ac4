/* SPDX-License-Identifier: MIT */
/* The chips that an engine may run in the board's place: giving them away and taking them back. While they are away the
 * 8259s and the I/O APIC here only remember the levels of their pins and pass changes on. */
#include "devices/board.h"

static void pic_pin(void *opaque, int n, int level)
{
    const struct chip_holder *h = &((struct board *)opaque)->holder;
    h->pic_pin(h->opaque, (unsigned)n, level);
}

static void ioapic_pin(void *opaque, int n, int level)
{
    const struct chip_holder *h = &((struct board *)opaque)->holder;
    h->ioapic_pin(h->opaque, (unsigned)n, level);
}

/* The 8254 comes before the controllers: its line moves, which they are not to take for an edge. */
static void take_all(struct board *b, uint64_t tsc_offset)
{
    if (b->holder.pit)
        i8254_take(&b->pit, &b->chips.pit);
    b->chips_held = false;
    lapic_take(&b->lapic[0], &b->chips.lapic, tsc_offset);
    ioapic_take(&b->ioapic, &b->chips.ioapic);
    i8259_take(&b->pic, b->chips.pic);
}

int board_chips_hold(struct board *b, const struct chip_holder *holder)
{
    uint64_t tsc_offset = b->lapic[0].tsc_offset;
    b->holder = *holder;
    i8259_give(&b->pic, b->chips.pic);
    ioapic_give(&b->ioapic, &b->chips.ioapic);
    lapic_give(&b->lapic[0], &b->chips.lapic);
    if (holder->pit) {
        i8254_give(&b->pit, &b->chips.pit);
        b->chips.pic[0].lines &= (uint8_t) ~(1u << CHIPS_PIT_PIC_PIN);
        b->chips.ioapic.lines &= ~(1u << CHIPS_PIT_IOAPIC_PIN);
    }
    b->chips_held = true;
    int r = holder->load(holder->opaque, &b->chips);
    if (r) {
        take_all(b, tsc_offset);
        return r;
    }
    i8259_forward(&b->pic, (struct irq_line){pic_pin, b, 0});
    ioapic_forward(&b->ioapic, (struct irq_line){ioapic_pin, b, 0});
    return 0;
}

int board_chips_release(struct board *b, uint64_t tsc_offset)
{
    i8259_forward(&b->pic, (struct irq_line){0});
    ioapic_forward(&b->ioapic, (struct irq_line){0});
    int r = b->holder.store(b->holder.opaque, &b->chips);
    take_all(b, tsc_offset);
    return r;
}
