/* SPDX-License-Identifier: MIT */
/* How an interrupt or exception reaches its handler, mode by mode. SDM vol. 2, INT n (its pseudo code gives the order
 * of the checks), vol. 3, chapter 6, 20.3 (virtual-8086 mode), 6.14 (64-bit mode).
 *
 * Everything is read and checked first, the frame is written as the last thing that can fault, and only then the
 * registers change. */
#include "cpu/internal.h"

enum { IDT_BIT = 2 };

struct gate {
    uint16_t selector;
    uint64_t offset;
    unsigned size; /* of a stack slot: 2, 4, 8 */
    unsigned ist;
    bool keeps_if;  /* trap gate */
    uint32_t error; /* names the gate */
};

static void leave_halt(struct cpu *cpu)
{
    cpu->halted = false;
    cpu->interrupt_shadow = false;
}

static int fault_idt(struct cpu *cpu, unsigned vector, const struct event *e)
{
    return fault_error(cpu, vector, (uint32_t)e->vector << 3 | IDT_BIT | event_ext(e));
}

/* Flags, CS, IP as words on the current stack, then CS:IP from an interrupt vector table entry. */
static int enter_8086(struct cpu *cpu, uint32_t entry, const struct event *e, uint16_t flags_image)
{
    struct stack_frame f;
    frame_begin(cpu, &f, 2);
    frame_push(&f, flags_image);
    frame_push(&f, cpu->seg[SEG_CS].selector);
    frame_push(&f, e->rip & 0xffff);
    if (frame_check(cpu, &f) || frame_write(cpu, &f))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = f.sp;
    cpu->rip = entry & 0xffff;
    cpu_load_segment_real(cpu, SEG_CS, (uint16_t)(entry >> 16));
    return CPU_OK;
}

static int deliver_real(struct cpu *cpu, const struct event *e)
{
    uint32_t entry, at = (uint32_t)e->vector * 4;
    if (at + 3 > cpu->idtr.limit)
        return fault_idt(cpu, VECTOR_GP, e);
    if (cpu_read_system(cpu, cpu->idtr.base + at, &entry, 4) || enter_8086(cpu, entry, e, (uint16_t)e->flags))
        return CPU_FAULT;
    cpu->rflags &= ~(uint64_t)(FLAG_IF | FLAG_TF | EFLAGS_AC | EFLAGS_RF);
    leave_halt(cpu);
    notify_mode_changed(cpu);
    return CPU_OK;
}

/* CR4.VME: is this vector's bit in the TSS's redirection bitmap clear, so that the 8086 program handles it itself? */
static int vme_redirected(struct cpu *cpu, unsigned vector, bool *redirected)
{
    uint16_t io_map;
    uint8_t bits;
    if (cpu->tr.limit < 103 || (cpu->tr.attr & SEG_TYPE) < SYS_TSS32)
        return fault_gp(cpu, 0);
    if (cpu_read_system(cpu, cpu->tr.base + 102, &io_map, 2))
        return CPU_FAULT;
    uint32_t at = io_map - 32u + (vector >> 3);
    if (io_map < 32 || at > cpu->tr.limit)
        return fault_gp(cpu, 0);
    if (cpu_read_system(cpu, cpu->tr.base + at, &bits, 1))
        return CPU_FAULT;
    *redirected = !(bits >> (vector & 7) & 1);
    return CPU_OK;
}

/* SDM vol. 3, table 20-2, methods 5 (IOPL 3) and 6. */
static int deliver_by_8086_program(struct cpu *cpu, const struct event *e)
{
    uint32_t entry;
    uint64_t flags = e->flags;
    bool virtual_if = cpu_iopl(cpu) < 3;
    if (virtual_if) {
        flags |= EFLAGS_IOPL;
        flags = flags & EFLAGS_VIF ? flags | FLAG_IF : flags & ~(uint64_t)FLAG_IF;
    }
    if (cpu_read_system(cpu, (uint32_t)e->vector * 4, &entry, 4) || enter_8086(cpu, entry, e, (uint16_t)flags))
        return CPU_FAULT;
    cpu->rflags &= ~(uint64_t)(FLAG_TF | EFLAGS_RF | EFLAGS_NT | (virtual_if ? EFLAGS_VIF : FLAG_IF));
    leave_halt(cpu);
    notify_mode_changed(cpu);
    return CPU_OK;
}

/* Reads the gate. *task: it is a task gate (then only selector is filled). */
static int read_gate(struct cpu *cpu, const struct event *e, struct gate *g, bool *task)
{
    bool wide = cpu_long_mode(cpu);
    unsigned entry_size = wide ? 16 : 8;
    uint32_t at = (uint32_t)e->vector * entry_size, raw[4] = {0};
    if (at + entry_size - 1 > cpu->idtr.limit)
        return fault_idt(cpu, VECTOR_GP, e);
    if (wide ? cpu_read_system(cpu, cpu->idtr.base + at, raw, 16) : cpu_read_system(cpu, cpu->idtr.base + at, raw, 8))
        return CPU_FAULT;
    unsigned type = raw[1] >> 8 & 0x1f, dpl = raw[1] >> 13 & 3;
    bool trap_or_interrupt =
        type == SYS_INT32 || type == SYS_TRAP32 || (!wide && (type == SYS_INT16 || type == SYS_TRAP16));
    *task = !wide && type == SYS_TASK_GATE;
    if (!trap_or_interrupt && !*task)
        return fault_idt(cpu, VECTOR_GP, e);
    if (!event_ext(e) && dpl < cpu->cpl)
        return fault_idt(cpu, VECTOR_GP, e);
    if (!(raw[1] & 0x8000))
        return fault_idt(cpu, VECTOR_NP, e);
    *g = (struct gate){.selector = (uint16_t)(raw[0] >> 16), .keeps_if = type & 1};
    g->size = wide ? 8 : type >= SYS_INT32 ? 4 : 2;
    g->offset = (raw[0] & 0xffff) | (g->size > 2 ? raw[1] & 0xffff0000 : 0);
    if (wide) {
        g->offset |= (uint64_t)raw[2] << 32;
        g->ist = raw[1] & 7;
    }
    return CPU_OK;
}

/* The handler's code segment. *level: the CPL it runs at. */
static int read_handler_segment(struct cpu *cpu, const struct gate *g, unsigned ext, struct descriptor *cs,
                                unsigned *level)
{
    uint32_t error = selector_error(g->selector, ext);
    if (selector_is_null(g->selector))
        return fault_gp(cpu, ext);
    if (descriptor_read(cpu, g->selector, VECTOR_GP, error, cs))
        return CPU_FAULT;
    uint32_t attr = cs->seg.attr;
    if (!attr_is_code(attr) || attr_dpl(attr) > cpu->cpl)
        return fault_gp(cpu, error);
    if (cpu_long_mode(cpu) && (attr & (SEG_L | SEG_DB)) != SEG_L)
        return fault_gp(cpu, error);
    if (cpu_v8086(cpu) && (attr_is_conforming(attr) || attr_dpl(attr) != 0))
        return fault_gp(cpu, error);
    if (!(attr & SEG_P))
        return fault_error(cpu, VECTOR_NP, error);
    *level = attr_is_conforming(attr) ? cpu->cpl : attr_dpl(attr);
    return CPU_OK;
}

static void push_common(struct cpu *cpu, struct stack_frame *f, const struct event *e)
{
    frame_push(f, e->flags);
    frame_push(f, cpu->seg[SEG_CS].selector);
    frame_push(f, e->rip);
    if (e->has_error)
        frame_push(f, e->error);
}

/* Prepares the 64-bit frame: always SS:RSP, RSP aligned down to 16. */
static int frame_64(struct cpu *cpu, const struct event *e, const struct gate *g, unsigned level, struct stack_frame *f)
{
    uint64_t sp = cpu->gpr[GPR_SP];
    unsigned ext = event_ext(e);
    if (g->ist || level != cpu->cpl) {
        /* IST n lies where the stack of "privilege level" n + 3 would: 36 + 8 (n - 1). */
        if (tss_read_stack(cpu, g->ist ? g->ist + 3 : level, ext, NULL, &sp))
            return CPU_FAULT;
        if (!canonical(sp))
            return fault_error(cpu, VECTOR_SS, ext);
    }
    frame_begin_on(cpu, f, &cpu->seg[SEG_SS], sp & ~15ull, true, level, 8);
    f->ss_error = ext;
    frame_push(f, cpu->seg[SEG_SS].selector);
    frame_push(f, cpu->gpr[GPR_SP]);
    push_common(cpu, f, e);
    return frame_check(cpu, f);
}

/* Prepares the frame of 16- and 32-bit gates; ss is the new stack segment when the privilege level changes. */
static int frame_32(struct cpu *cpu, const struct event *e, const struct gate *g, unsigned level, struct stack_frame *f,
                    struct descriptor *ss)
{
    static const uint8_t saved[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    unsigned ext = event_ext(e);
    uint16_t selector;
    uint64_t sp;
    if (level == cpu->cpl) {
        frame_begin(cpu, f, g->size);
        f->ss_error = ext;
        push_common(cpu, f, e);
        return frame_check(cpu, f);
    }
    if (tss_read_stack(cpu, level, ext, &selector, &sp) ||
        descriptor_read_stack(cpu, selector, level, VECTOR_TS, ext, ss))
        return CPU_FAULT;
    frame_begin_on(cpu, f, &ss->seg, sp, false, level, g->size);
    f->ss_error = selector_error(selector, ext);
    for (unsigned i = 0; cpu_v8086(cpu) && i < sizeof saved; i++)
        frame_push(f, cpu->seg[saved[i]].selector);
    frame_push(f, cpu->seg[SEG_SS].selector);
    frame_push(f, cpu->gpr[GPR_SP]);
    push_common(cpu, f, e);
    return frame_check(cpu, f);
}

static void enter_handler(struct cpu *cpu, const struct gate *g, const struct descriptor *cs, const struct segment *ss,
                          unsigned level, uint64_t sp)
{
    uint64_t clear = FLAG_TF | EFLAGS_VM | EFLAGS_RF | EFLAGS_NT | (g->keeps_if ? 0 : FLAG_IF);
    if (cpu_v8086(cpu))
        cpu->seg[SEG_ES] = cpu->seg[SEG_DS] = cpu->seg[SEG_FS] = cpu->seg[SEG_GS] = segment_null(0, 0);
    if (level != cpu->cpl)
        segment_copy(&cpu->seg[SEG_SS], ss);
    segment_copy(&cpu->seg[SEG_CS], &cs->seg);
    cpu->seg[SEG_CS].selector = (uint16_t)((g->selector & ~3u) | level);
    cpu->cpl = (uint8_t)level;
    cpu->gpr[GPR_SP] = sp;
    cpu->rip = g->offset;
    cpu->rflags &= ~clear;
    leave_halt(cpu);
    notify_mode_changed(cpu);
}

static int deliver_protected(struct cpu *cpu, const struct event *e)
{
    struct gate g = {0};
    struct descriptor cs, ss;
    struct stack_frame f;
    unsigned level = 0, ext = event_ext(e);
    bool task = false;
    if (read_gate(cpu, e, &g, &task))
        return CPU_FAULT;
    if (task) {
        struct task_switch t = {TASK_INT, ext, e->has_error, e->error, e->rip, e->flags};
        return task_switch_by_gate(cpu, g.selector, &t);
    }
    if (read_handler_segment(cpu, &g, ext, &cs, &level))
        return CPU_FAULT;
    if (cpu_long_mode(cpu)) {
        ss.seg = segment_null((uint16_t)level, level);
        if (frame_64(cpu, e, &g, level, &f))
            return CPU_FAULT;
        if (!canonical(g.offset))
            return fault_gp(cpu, ext);
    } else {
        if (frame_32(cpu, e, &g, level, &f, &ss))
            return CPU_FAULT;
        if (g.offset > cs.seg.limit)
            return fault_gp(cpu, ext);
        if (level != cpu->cpl && descriptor_set_accessed(cpu, &ss))
            return CPU_FAULT;
    }
    if (descriptor_set_accessed(cpu, &cs) || frame_write(cpu, &f))
        return CPU_FAULT;
    enter_handler(cpu, &g, &cs, &ss.seg, level, f.sp);
    return CPU_OK;
}

int event_deliver(struct cpu *cpu, const struct event *e)
{
    if (cpu_real_mode(cpu))
        return deliver_real(cpu, e);
    if (cpu_v8086(cpu) && e->kind == EVENT_INT_N) {
        bool redirected = false;
        if ((cpu->mmu.cr4 & CR4_VME) && vme_redirected(cpu, e->vector, &redirected))
            return CPU_FAULT;
        if (redirected)
            return deliver_by_8086_program(cpu, e);
        if (cpu_iopl(cpu) < 3)
            return fault_gp(cpu, 0);
    }
    return deliver_protected(cpu, e);
}
