/* SPDX-License-Identifier: MIT */
/* Stack frames of far calls, interrupts and returns: several values that are stored together or not at all, and the
 * stack pointers a TSS holds. SDM vol. 3, 6.12 and 8.2. */
#include "cpu/internal.h"

uint64_t cpu_stack_mask(const struct cpu *cpu)
{
    if (cpu_code64(cpu))
        return ~0ull;
    return cpu->seg[SEG_SS].attr & SEG_DB ? 0xffffffffull : 0xffffull;
}

uint64_t stack_pointer_add(const struct cpu *cpu, uint64_t off)
{
    uint64_t mask = cpu_stack_mask(cpu), sp = cpu->gpr[GPR_SP];
    return (sp & ~mask) | ((sp + off) & mask);
}

void stack_pointer_set(struct cpu *cpu, uint64_t sp)
{
    uint64_t mask = cpu_stack_mask(cpu), *reg = &cpu->gpr[GPR_SP];
    *reg = mask == 0xffff ? (*reg & ~mask) | (sp & mask) : sp & mask;
}

int stack_read(struct cpu *cpu, uint64_t off, unsigned size, uint64_t *value)
{
    uint64_t v = 0;
    uint64_t at = (cpu->gpr[GPR_SP] + off) & cpu_stack_mask(cpu);
    if (cpu_read_seg(cpu, SEG_SS, at, &v, size))
        return CPU_FAULT;
    *value = v;
    return CPU_OK;
}

const uint8_t *stack_known(const struct cpu *cpu, unsigned bytes)
{
    uint64_t mask = cpu_stack_mask(cpu), at = cpu->gpr[GPR_SP] & mask;
    const struct segment *s = &cpu->seg[SEG_SS];
    bool aligned = cpu->cpl == 3 && (cpu->rflags & EFLAGS_AC);
    if (cpu->accessed || aligned)
        return NULL;
    if (mask != ~0ull) {
        if ((s->attr & SEG_UNUSABLE) || !segment_limit_ok(s, at, bytes) || at + bytes - 1 > mask)
            return NULL;
        at = (uint32_t)(at + s->base);
    }
    return cpu_known_host(cpu, at, bytes, MMU_READ | cpu_access_rights(cpu));
}

void frame_begin_on(struct cpu *cpu, struct stack_frame *f, const struct segment *ss, uint64_t sp, bool flat64,
                    unsigned cpl, unsigned size)
{
    segment_copy(&f->ss, ss);
    f->sp = sp;
    f->mask = flat64 ? ~0ull : ss->attr & SEG_DB ? 0xffffffffull : 0xffffull;
    f->flat64 = flat64;
    f->access = MMU_WRITE | access_rights_at(cpu, cpl);
    f->size = size;
    f->ss_error = 0;
    f->count = 0;
}

void frame_begin(struct cpu *cpu, struct stack_frame *f, unsigned size)
{
    frame_begin_on(cpu, f, &cpu->seg[SEG_SS], cpu->gpr[GPR_SP], cpu_code64(cpu), cpu->cpl, size);
}

void frame_push(struct stack_frame *f, uint64_t value)
{
    f->sp = (f->sp & ~f->mask) | ((f->sp - f->size) & f->mask);
    f->offset[f->count] = f->sp & f->mask;
    f->value[f->count++] = value;
}

static bool frame_usable(struct cpu *cpu, const struct stack_frame *f)
{
    if (f->ss.attr & SEG_UNUSABLE)
        return false;
    return cpu_real_mode(cpu) || attr_is_writable_data(f->ss.attr);
}

int frame_check(struct cpu *cpu, const struct stack_frame *f)
{
    bool ok = f->flat64 || frame_usable(cpu, f);
    for (unsigned i = 0; ok && i < f->count; i++) {
        if (f->flat64)
            ok = canonical(f->offset[i]) && canonical(f->offset[i] + f->size - 1);
        else
            ok = segment_limit_ok(&f->ss, f->offset[i], f->size);
    }
    return ok ? CPU_OK : fault_error(cpu, VECTOR_SS, f->ss_error);
}

static uint64_t frame_linear(const struct stack_frame *f, unsigned i)
{
    return f->flat64 ? f->offset[i] : (uint32_t)(f->ss.base + f->offset[i]);
}

/* The frame as one run of bytes, lowest address first. */
static void frame_pack(const struct stack_frame *f, uint8_t *bytes)
{
    for (unsigned i = 0; i < f->count; i++) {
        uint8_t *at = bytes + (f->count - 1 - i) * f->size;
        if (f->size == 2)
            __builtin_memcpy(at, &f->value[i], 2);
        else if (f->size == 4)
            __builtin_memcpy(at, &f->value[i], 4);
        else
            __builtin_memcpy(at, &f->value[i], 8);
    }
}

int frame_write(struct cpu *cpu, const struct stack_frame *f)
{
    uint8_t bytes[FRAME_MAX * 8];
    if (!f->count)
        return CPU_OK;
    unsigned total = f->count * f->size;
    uint64_t low = frame_linear(f, f->count - 1), high = frame_linear(f, 0);
    if (low + total - f->size == high) {
        uint8_t *known = cpu_known_host(cpu, low, total, f->access);
        if (known) {
            frame_pack(f, known);
            return CPU_OK;
        }
        frame_pack(f, bytes);
        return cpu_write_linear(cpu, low, bytes, total, f->access);
    }
    for (unsigned i = 0; i < f->count; i++)
        if (cpu_probe_linear(cpu, frame_linear(f, i), f->size, f->access))
            return CPU_FAULT;
    for (unsigned i = 0; i < f->count; i++)
        if (cpu_write_linear(cpu, frame_linear(f, i), &f->value[i], f->size, f->access))
            return CPU_FAULT;
    return CPU_OK;
}

static int tss_fault(struct cpu *cpu, unsigned ext)
{
    return fault_error(cpu, VECTOR_TS, selector_error(cpu->tr.selector, ext));
}

int tss_read_stack(struct cpu *cpu, unsigned level, unsigned ext, uint16_t *ss, uint64_t *sp)
{
    uint64_t base = cpu->tr.base, value = 0;
    uint16_t selector = 0;
    if (cpu_long_mode(cpu)) {
        uint32_t at = level * 8 + 4;
        if (at + 7 > cpu->tr.limit)
            return tss_fault(cpu, ext);
        return cpu_read_system(cpu, base + at, sp, 8);
    }
    bool wide = (cpu->tr.attr & SEG_TYPE) >= SYS_TSS32;
    uint32_t at = wide ? level * 8 + 4 : level * 4 + 2;
    if (at + (wide ? 5 : 3) > cpu->tr.limit)
        return tss_fault(cpu, ext);
    if (wide ? cpu_read_system(cpu, base + at, &value, 4) || cpu_read_system(cpu, base + at + 4, &selector, 2)
             : cpu_read_system(cpu, base + at, &value, 2) || cpu_read_system(cpu, base + at + 2, &selector, 2))
        return CPU_FAULT;
    *sp = value;
    *ss = selector;
    return CPU_OK;
}
