/* SPDX-License-Identifier: MIT */
/* Descriptors in the GDT and the LDT: reading, decoding, accessed and busy bits. SDM vol. 3, 3.4.5 and 3.5. */
#include "cpu/internal.h"

void descriptor_decode(struct descriptor *d)
{
    uint32_t limit = (d->low & 0xffff) | (d->high & 0xf0000);
    d->seg.attr = (d->high >> 8) & 0xf0ff;
    d->seg.limit = d->seg.attr & SEG_G ? limit << 12 | 0xfff : limit;
    d->seg.base = d->low >> 16 | (d->high & 0xff) << 16 | (d->high & 0xff000000);
}

int descriptor_probe(struct cpu *cpu, uint16_t selector, struct descriptor *d, bool *found)
{
    uint64_t base = cpu->gdtr.base;
    uint32_t limit = cpu->gdtr.limit;
    uint32_t raw[2];
    *found = false;
    if (selector & 4) {
        if (cpu->ldtr.attr & SEG_UNUSABLE)
            return CPU_OK;
        base = cpu->ldtr.base;
        limit = cpu->ldtr.limit;
    }
    if ((selector | 7u) > limit)
        return CPU_OK;
    d->gva = base + (selector & 0xfff8);
    d->upper = d->top = 0;
    if (cpu_read_system(cpu, d->gva, raw, 8))
        return CPU_FAULT;
    d->low = raw[0];
    d->high = raw[1];
    descriptor_decode(d);
    d->seg.selector = selector;
    *found = true;
    return CPU_OK;
}

int descriptor_read(struct cpu *cpu, uint16_t selector, unsigned vector, uint32_t error, struct descriptor *d)
{
    bool found;
    if (descriptor_probe(cpu, selector, d, &found))
        return CPU_FAULT;
    return found ? CPU_OK : fault_error(cpu, vector, error);
}

int descriptor_read_upper(struct cpu *cpu, unsigned vector, uint32_t error, struct descriptor *d)
{
    const struct segment *ldt = &cpu->ldtr;
    uint32_t limit = d->seg.selector & 4 ? ldt->limit : cpu->gdtr.limit;
    uint32_t raw[2];
    if ((d->seg.selector | 7u) + 8 > limit)
        return fault_error(cpu, vector, error);
    if (cpu_read_system(cpu, d->gva + 8, raw, 8))
        return CPU_FAULT;
    d->upper = raw[0];
    d->top = raw[1];
    if (d->top & 0x1f00)
        return fault_error(cpu, vector, error);
    d->seg.base |= (uint64_t)d->upper << 32;
    return CPU_OK;
}

static int descriptor_set_type_bit(struct cpu *cpu, struct descriptor *d, uint32_t bit, bool on)
{
    uint32_t high = on ? d->high | bit << 8 : d->high & ~(bit << 8);
    uint8_t byte = (uint8_t)(high >> 8);
    if (high == d->high)
        return CPU_OK;
    if (cpu_write_system(cpu, d->gva + 5, &byte, 1))
        return CPU_FAULT;
    d->high = high;
    d->seg.attr = (d->seg.attr & ~0xffu) | byte;
    return CPU_OK;
}

int descriptor_set_accessed(struct cpu *cpu, struct descriptor *d)
{
    return descriptor_set_type_bit(cpu, d, SEG_A, true);
}

int descriptor_set_busy(struct cpu *cpu, struct descriptor *d, bool busy)
{
    return descriptor_set_type_bit(cpu, d, 2, busy);
}

int descriptor_read_stack(struct cpu *cpu, uint16_t selector, unsigned cpl, unsigned vector, unsigned ext,
                          struct descriptor *d)
{
    uint32_t error = selector_error(selector, ext);
    if (selector_is_null(selector))
        return fault_error(cpu, vector, ext);
    if (descriptor_read(cpu, selector, vector, error, d))
        return CPU_FAULT;
    if ((selector & 3u) != cpl || attr_dpl(d->seg.attr) != cpl || !attr_is_writable_data(d->seg.attr))
        return fault_error(cpu, vector, error);
    if (!(d->seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_SS, error);
    return CPU_OK;
}

struct segment segment_null(uint16_t selector, unsigned dpl)
{
    return (struct segment){.selector = selector, .attr = SEG_UNUSABLE | dpl << SEG_DPL_SHIFT};
}

struct segment segment_v8086(uint16_t selector)
{
    return (struct segment){.base = (uint32_t)selector << 4,
                            .limit = 0xffff,
                            .attr = SEG_P | SEG_DPL | SEG_S | SEG_W | SEG_A,
                            .selector = selector};
}

void segment_set(struct cpu *cpu, enum seg seg, const struct segment *s)
{
    struct segment *to = &cpu->seg[seg];
    bool same = to->base == s->base && to->limit == s->limit && !((to->attr ^ s->attr) & ~(uint32_t)SEG_A);
    segment_copy(to, s);
    if (!same)
        notify_mode_changed(cpu);
}

void segments_drop_inner(struct cpu *cpu)
{
    static const uint8_t which[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < sizeof which; i++) {
        struct segment *s = &cpu->seg[which[i]];
        if (s->attr & SEG_UNUSABLE) {
            s->selector = 0;
            continue;
        }
        if (!attr_is_conforming(s->attr) && attr_dpl(s->attr) < cpu->cpl)
            *s = (struct segment){.base = s->base, .attr = SEG_UNUSABLE};
    }
}
