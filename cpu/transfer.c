/* SPDX-License-Identifier: MIT */
/* Far jumps, calls and returns, call gates. SDM vol. 2, JMP, CALL, RET (whose pseudo code gives the order of the
 * checks); vol. 3, 5.8. */
#include "cpu/internal.h"

bool code_offset_ok(const struct cpu *cpu, const struct segment *cs, uint64_t off)
{
    if (cpu_long_mode(cpu) && (cs->attr & SEG_L))
        return canonical(off);
    return off <= cs->limit;
}

static bool bad_long_code(const struct cpu *cpu, uint32_t attr)
{
    return cpu_long_mode(cpu) && (attr & SEG_L) && (attr & SEG_DB);
}

static uint64_t truncate_offset(uint64_t off, unsigned opsize)
{
    return opsize == 2 ? off & 0xffff : opsize == 4 ? off & 0xffffffff : off;
}

static void load_code(struct cpu *cpu, const struct descriptor *cs, unsigned cpl, uint64_t off)
{
    struct segment s = cs->seg;
    s.selector = (uint16_t)((s.selector & ~3u) | cpl);
    cpu->rip = off;
    if (cpu->cpl != cpl) {
        cpu->cpl = (uint8_t)cpl;
        cpu->seg[SEG_CS] = s;
        notify_mode_changed(cpu);
    } else {
        segment_set(cpu, SEG_CS, &s);
    }
}

/* ---- real and virtual-8086 mode ---- */

static int real_transfer(struct cpu *cpu, uint16_t selector, uint64_t off, unsigned opsize, bool call)
{
    struct stack_frame f;
    off = truncate_offset(off, opsize);
    frame_begin(cpu, &f, opsize);
    if (call) {
        frame_push(&f, cpu->seg[SEG_CS].selector);
        frame_push(&f, cpu->next_rip);
        if (frame_check(cpu, &f))
            return CPU_FAULT;
    }
    if (off > cpu->seg[SEG_CS].limit)
        return fault_gp(cpu, 0);
    if (frame_write(cpu, &f))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = f.sp;
    cpu->rip = off;
    cpu_load_segment_real(cpu, SEG_CS, selector);
    return CPU_OK;
}

static int real_return(struct cpu *cpu, unsigned opsize, uint16_t pop_bytes)
{
    uint64_t off, selector;
    if (stack_read(cpu, 0, opsize, &off) || stack_read(cpu, opsize, opsize, &selector))
        return CPU_FAULT;
    if (off > cpu->seg[SEG_CS].limit)
        return fault_gp(cpu, 0);
    cpu->gpr[GPR_SP] = stack_pointer_add(cpu, 2 * opsize + pop_bytes);
    cpu->rip = off;
    cpu_load_segment_real(cpu, SEG_CS, (uint16_t)selector);
    return CPU_OK;
}

/* ---- direct transfers to code ---- */

static int transfer_to_code(struct cpu *cpu, struct descriptor *cs, uint64_t off, unsigned opsize, bool call)
{
    struct stack_frame f;
    uint32_t attr = cs->seg.attr, error = selector_error(cs->seg.selector, 0);
    unsigned dpl = attr_dpl(attr), rpl = cs->seg.selector & 3;
    if (attr_is_conforming(attr) ? dpl > cpu->cpl : rpl > cpu->cpl || dpl != cpu->cpl)
        return fault_gp(cpu, error);
    if (bad_long_code(cpu, attr))
        return fault_gp(cpu, error);
    if (!(attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    off = truncate_offset(off, opsize);
    if (!(cpu_long_mode(cpu) && (attr & SEG_L)))
        off &= 0xffffffff;
    frame_begin(cpu, &f, opsize);
    if (call) {
        frame_push(&f, cpu->seg[SEG_CS].selector);
        frame_push(&f, cpu->next_rip);
        if (frame_check(cpu, &f))
            return CPU_FAULT;
    }
    if (!code_offset_ok(cpu, &cs->seg, off))
        return fault_gp(cpu, 0);
    if (descriptor_set_accessed(cpu, cs) || frame_write(cpu, &f))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = f.sp;
    load_code(cpu, cs, cpu->cpl, off);
    return CPU_OK;
}

/* ---- call gates ---- */

struct call_gate {
    uint16_t selector;
    uint64_t offset;
    unsigned size;       /* of a stack slot */
    unsigned parameters; /* slots to copy */
};

static int read_call_gate(struct cpu *cpu, struct descriptor *d, struct call_gate *g)
{
    uint32_t error = selector_error(d->seg.selector, 0);
    unsigned dpl = attr_dpl(d->seg.attr);
    if (dpl < cpu->cpl || (d->seg.selector & 3u) > dpl)
        return fault_gp(cpu, error);
    if (!(d->seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    *g = (struct call_gate){.selector = (uint16_t)(d->low >> 16), .offset = d->low & 0xffff, .size = 2};
    g->parameters = d->high & 31;
    if ((d->seg.attr & SEG_TYPE) == SYS_CALL32) {
        g->size = 4;
        g->offset |= d->high & 0xffff0000;
    }
    if (cpu_long_mode(cpu)) {
        if (descriptor_read_upper(cpu, VECTOR_GP, error, d))
            return CPU_FAULT;
        g->size = 8;
        g->parameters = 0;
        g->offset |= (uint64_t)d->upper << 32;
    }
    return CPU_OK;
}

/* *inner: the call goes to a more privileged level. */
static int read_gate_code(struct cpu *cpu, const struct call_gate *g, bool call, struct descriptor *cs, bool *inner)
{
    uint32_t error = selector_error(g->selector, 0);
    if (selector_is_null(g->selector))
        return fault_gp(cpu, 0);
    if (descriptor_read(cpu, g->selector, VECTOR_GP, error, cs))
        return CPU_FAULT;
    uint32_t attr = cs->seg.attr;
    unsigned dpl = attr_dpl(attr);
    if (!attr_is_code(attr) || dpl > cpu->cpl || (!call && !attr_is_conforming(attr) && dpl != cpu->cpl))
        return fault_gp(cpu, error);
    if (cpu_long_mode(cpu) && (attr & (SEG_L | SEG_DB)) != SEG_L)
        return fault_gp(cpu, error);
    if (!(attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    *inner = call && !attr_is_conforming(attr) && dpl < cpu->cpl;
    return CPU_OK;
}

static int push_parameters(struct cpu *cpu, const struct call_gate *g, struct stack_frame *f)
{
    for (unsigned i = g->parameters; i-- > 0;) {
        uint64_t value;
        if (stack_read(cpu, (uint64_t)i * g->size, g->size, &value))
            return CPU_FAULT;
        frame_push(f, value);
    }
    return CPU_OK;
}

static int call_inner(struct cpu *cpu, const struct call_gate *g, struct descriptor *cs)
{
    unsigned level = attr_dpl(cs->seg.attr);
    bool wide = cpu_long_mode(cpu);
    struct descriptor ss = {.seg = segment_null((uint16_t)level, level)};
    struct stack_frame f;
    uint16_t selector = (uint16_t)level;
    uint64_t sp;
    if (tss_read_stack(cpu, level, 0, &selector, &sp))
        return CPU_FAULT;
    if (!wide && descriptor_read_stack(cpu, selector, level, VECTOR_TS, 0, &ss))
        return CPU_FAULT;
    frame_begin_on(cpu, &f, &ss.seg, sp, wide, level, g->size);
    f.ss_error = wide ? 0 : selector_error(selector, 0);
    frame_push(&f, cpu->seg[SEG_SS].selector);
    frame_push(&f, cpu->gpr[GPR_SP]);
    if (push_parameters(cpu, g, &f))
        return CPU_FAULT;
    frame_push(&f, cpu->seg[SEG_CS].selector);
    frame_push(&f, cpu->next_rip);
    if (frame_check(cpu, &f))
        return CPU_FAULT;
    if (!code_offset_ok(cpu, &cs->seg, g->offset))
        return fault_gp(cpu, 0);
    if ((!wide && descriptor_set_accessed(cpu, &ss)) || descriptor_set_accessed(cpu, cs) || frame_write(cpu, &f))
        return CPU_FAULT;
    segment_copy(&cpu->seg[SEG_SS], &ss.seg);
    cpu->gpr[GPR_SP] = f.sp;
    load_code(cpu, cs, level, g->offset);
    return CPU_OK;
}

static int gate_same_level(struct cpu *cpu, const struct call_gate *g, struct descriptor *cs, bool call)
{
    struct stack_frame f;
    frame_begin(cpu, &f, g->size);
    /* The stack of the handler's mode: 64-bit even when compatibility code calls. */
    if (g->size == 8 && !f.flat64)
        frame_begin_on(cpu, &f, &cpu->seg[SEG_SS], cpu->gpr[GPR_SP], true, cpu->cpl, 8);
    if (call) {
        frame_push(&f, cpu->seg[SEG_CS].selector);
        frame_push(&f, cpu->next_rip);
        if (frame_check(cpu, &f))
            return CPU_FAULT;
    }
    if (!code_offset_ok(cpu, &cs->seg, g->offset))
        return fault_gp(cpu, 0);
    if (descriptor_set_accessed(cpu, cs) || frame_write(cpu, &f))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = f.sp;
    load_code(cpu, cs, cpu->cpl, g->offset);
    return CPU_OK;
}

static int transfer_by_call_gate(struct cpu *cpu, struct descriptor *d, bool call)
{
    struct call_gate g;
    struct descriptor cs;
    bool inner;
    if (read_call_gate(cpu, d, &g) || read_gate_code(cpu, &g, call, &cs, &inner))
        return CPU_FAULT;
    return inner ? call_inner(cpu, &g, &cs) : gate_same_level(cpu, &g, &cs, call);
}

/* ---- task gates and TSSes ---- */

static int transfer_to_task(struct cpu *cpu, struct descriptor *d, bool call)
{
    uint32_t error = selector_error(d->seg.selector, 0);
    unsigned dpl = attr_dpl(d->seg.attr), kind = d->seg.attr & SEG_KIND;
    struct task_switch t = {.reason = call ? TASK_CALL : TASK_JMP, .rip = cpu->next_rip, .flags = cpu->rflags};
    if (dpl < cpu->cpl || (d->seg.selector & 3u) > dpl)
        return fault_gp(cpu, error);
    if (kind == SYS_TSS16_BUSY || kind == SYS_TSS32_BUSY)
        return fault_gp(cpu, error);
    if (!(d->seg.attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    if (kind == SYS_TASK_GATE)
        return task_switch_by_gate(cpu, (uint16_t)(d->low >> 16), &t);
    if (d->seg.selector & 4)
        return fault_gp(cpu, error);
    return task_switch_to(cpu, d, &t);
}

static int far_transfer(struct cpu *cpu, uint16_t selector, uint64_t off, unsigned opsize, bool call)
{
    struct descriptor d;
    uint32_t error = selector_error(selector, 0);
    if (!cpu_protected(cpu))
        return real_transfer(cpu, selector, off, opsize, call);
    if (selector_is_null(selector))
        return fault_gp(cpu, 0);
    if (descriptor_read(cpu, selector, VECTOR_GP, error, &d))
        return CPU_FAULT;
    if (attr_is_code(d.seg.attr))
        return transfer_to_code(cpu, &d, off, opsize, call);
    bool wide = cpu_long_mode(cpu);
    switch (d.seg.attr & SEG_KIND) {
    case SYS_CALL16:
        return wide ? fault_gp(cpu, error) : transfer_by_call_gate(cpu, &d, call);
    case SYS_CALL32:
        return transfer_by_call_gate(cpu, &d, call);
    case SYS_TASK_GATE:
    case SYS_TSS16:
    case SYS_TSS32:
    case SYS_TSS16_BUSY:
    case SYS_TSS32_BUSY:
        return wide ? fault_gp(cpu, error) : transfer_to_task(cpu, &d, call);
    default:
        return fault_gp(cpu, error);
    }
}

int cpu_far_jmp(struct cpu *cpu, uint16_t selector, uint64_t off, unsigned opsize)
{
    return far_transfer(cpu, selector, off, opsize, false);
}

int cpu_far_call(struct cpu *cpu, uint16_t selector, uint64_t off, unsigned opsize)
{
    return far_transfer(cpu, selector, off, opsize, true);
}

/* ---- returns ---- */

int return_check_code(struct cpu *cpu, uint16_t selector, struct descriptor *cs)
{
    uint32_t error = selector_error(selector, 0);
    unsigned rpl = selector & 3;
    if (selector_is_null(selector))
        return fault_gp(cpu, 0);
    if (descriptor_read(cpu, selector, VECTOR_GP, error, cs))
        return CPU_FAULT;
    uint32_t attr = cs->seg.attr;
    unsigned dpl = attr_dpl(attr);
    if (!attr_is_code(attr) || rpl < cpu->cpl || (attr_is_conforming(attr) ? dpl > rpl : dpl != rpl))
        return fault_gp(cpu, error);
    if (bad_long_code(cpu, attr))
        return fault_gp(cpu, error);
    if (!(attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    return CPU_OK;
}

int return_check_stack(struct cpu *cpu, uint16_t selector, const struct descriptor *cs, struct descriptor *ss)
{
    unsigned rpl = cs->seg.selector & 3;
    if (selector_is_null(selector)) {
        if (!cpu_long_mode(cpu) || !(cs->seg.attr & SEG_L) || rpl == 3 || (selector & 3u) != rpl)
            return fault_gp(cpu, 0);
        /* Marked as accessed, so that nobody writes to a descriptor that is not there. */
        struct segment null = segment_null(selector, rpl);
        segment_copy(&ss->seg, &null);
        ss->low = ss->upper = ss->top = 0;
        ss->high = SEG_A << 8;
        ss->gva = 0;
        return CPU_OK;
    }
    return descriptor_read_stack(cpu, selector, rpl, VECTOR_GP, 0, ss);
}

static int return_outer(struct cpu *cpu, struct descriptor *cs, uint64_t off, unsigned opsize, uint16_t pop_bytes)
{
    struct descriptor ss;
    uint64_t sp, selector;
    if (stack_read(cpu, 2 * opsize + pop_bytes, opsize, &sp) ||
        stack_read(cpu, 3 * opsize + pop_bytes, opsize, &selector) ||
        return_check_stack(cpu, (uint16_t)selector, cs, &ss))
        return CPU_FAULT;
    if (!code_offset_ok(cpu, &cs->seg, off))
        return fault_gp(cpu, 0);
    if (descriptor_set_accessed(cpu, cs) || descriptor_set_accessed(cpu, &ss))
        return CPU_FAULT;
    segment_copy(&cpu->seg[SEG_CS], &cs->seg);
    segment_copy(&cpu->seg[SEG_SS], &ss.seg);
    cpu->cpl = cs->seg.selector & 3;
    stack_pointer_set(cpu, sp + pop_bytes);
    cpu->rip = off;
    segments_drop_inner(cpu);
    notify_mode_changed(cpu);
    return CPU_OK;
}

int cpu_far_ret(struct cpu *cpu, unsigned opsize, uint16_t pop_bytes)
{
    struct descriptor cs;
    uint64_t off, selector;
    if (!cpu_protected(cpu))
        return real_return(cpu, opsize, pop_bytes);
    if (stack_read(cpu, 0, opsize, &off) || stack_read(cpu, opsize, opsize, &selector) ||
        return_check_code(cpu, (uint16_t)selector, &cs))
        return CPU_FAULT;
    if ((selector & 3) > cpu->cpl)
        return return_outer(cpu, &cs, off, opsize, pop_bytes);
    if (!code_offset_ok(cpu, &cs.seg, off))
        return fault_gp(cpu, 0);
    if (descriptor_set_accessed(cpu, &cs))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = stack_pointer_add(cpu, 2 * opsize + pop_bytes);
    load_code(cpu, &cs, cpu->cpl, off);
    return CPU_OK;
}
