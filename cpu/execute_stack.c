/* SPDX-License-Identifier: MIT */
/* push, pop, pusha, popa, pushf, popf, enter, leave, and the segment registers: mov, push, pop, lds..lgs, FS/GS base.
 * SDM vol. 2, the instructions' pages; vol. 1, 6.2.3 for which width counts where: addresses and the stack pointer go
 * by SS.B, what is moved by the operand size. */
#include "cpu/execute_internal.h"

#include <Zydis/Mnemonic.h>

static int stack_push(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    if (insn->has_modrm) {
        if (execute_load_rm(cpu, insn, insn->opsize, &value))
            return CPU_FAULT;
    } else if (insn->opreg.cls) {
        value = execute_read_reg(cpu, &insn->opreg); /* push sp: the old value */
    } else {
        value = insn->imm;
    }
    return execute_push(cpu, value, insn->opsize) ? CPU_FAULT : done(cpu);
}

/* The stack pointer has moved before the address of a memory operand is computed, and before pop sp writes it. */
static int stack_pop(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value, old = cpu->gpr[GPR_SP];

    if (stack_read(cpu, 0, insn->opsize, &value))
        return CPU_FAULT;
    stack_pointer_set(cpu, old + insn->opsize);
    if (!insn->has_modrm) {
        execute_write_reg(cpu, &insn->opreg, value);
    } else if (execute_store_rm(cpu, insn, insn->opsize, value)) {
        cpu->gpr[GPR_SP] = old;
        return CPU_FAULT;
    }
    return done(cpu);
}

/* One by one from the top, as the processor does it: a fault leaves stored values below the stack pointer. */
static int stack_pusha(struct cpu *cpu, const struct insn *insn)
{
    uint64_t mask = cpu_stack_mask(cpu), sp = cpu->gpr[GPR_SP];

    for (unsigned i = 0; i < 8; i++) {
        sp = (sp - insn->opsize) & mask;
        if (cpu_write_seg(cpu, SEG_SS, sp, &cpu->gpr[i], insn->opsize))
            return CPU_FAULT;
    }
    stack_pointer_set(cpu, sp);
    return done(cpu);
}

static int stack_popa(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value[8];

    for (unsigned i = 0; i < 8; i++)
        if (stack_read(cpu, i * insn->opsize, insn->opsize, &value[i]))
            return CPU_FAULT;
    for (unsigned i = 0; i < 8; i++)
        if (7 - i != GPR_SP)
            execute_write_gpr(cpu, 7 - i, insn->opsize, value[i]);
    stack_pointer_set(cpu, cpu->gpr[GPR_SP] + 8u * insn->opsize);
    return done(cpu);
}

static int stack_pushf(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (cpu_pushf_value(cpu, insn->opsize, &value) || execute_push(cpu, value, insn->opsize))
        return CPU_FAULT;
    return done(cpu);
}

static int stack_popf(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (stack_read(cpu, 0, insn->opsize, &value) || cpu_popf_value(cpu, insn->opsize, value))
        return CPU_FAULT;
    stack_pointer_set(cpu, cpu->gpr[GPR_SP] + insn->opsize);
    return done(cpu);
}

/* Copies the display of the enclosing frames. Values are stored one by one, and the new top of the stack is tried at
 * the end, as the processor does it: after a fault memory below the stack pointer has changed, registers have not. */
static int stack_enter(struct cpu *cpu, const struct insn *insn)
{
    uint64_t mask = cpu_stack_mask(cpu), bp = cpu->gpr[GPR_BP], sp = cpu->gpr[GPR_SP], frame, value = bp;
    unsigned level = insn->imm2 & 31, size = insn->opsize;

    sp = frame = (sp - size) & mask;
    if (cpu_write_seg(cpu, SEG_SS, sp, &value, size))
        return CPU_FAULT;
    for (unsigned i = 1; i <= level; i++) {
        value = frame;
        bp -= size;
        if (i < level && cpu_read_seg(cpu, SEG_SS, bp & mask, &value, size))
            return CPU_FAULT;
        sp = (sp - size) & mask;
        if (cpu_write_seg(cpu, SEG_SS, sp, &value, size))
            return CPU_FAULT;
    }
    sp = (sp - (uint16_t)insn->imm) & mask;
    if (execute_probe_write(cpu, SEG_SS, sp, size))
        return CPU_FAULT;
    execute_write_gpr(cpu, GPR_BP, size, frame);
    stack_pointer_set(cpu, sp);
    return done(cpu);
}

static int stack_leave(struct cpu *cpu, const struct insn *insn)
{
    uint64_t mask = cpu_stack_mask(cpu), at = cpu->gpr[GPR_BP] & mask, value = 0;

    if (cpu_read_seg(cpu, SEG_SS, at, &value, insn->opsize))
        return CPU_FAULT;
    stack_pointer_set(cpu, at + insn->opsize);
    execute_write_gpr(cpu, GPR_BP, insn->opsize, value);
    return done(cpu);
}

int execute_stack(struct cpu *cpu, const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return stack_push(cpu, insn);
    case ZYDIS_MNEMONIC_POP:
        return stack_pop(cpu, insn);
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        return stack_pusha(cpu, insn);
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
        return stack_popa(cpu, insn);
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFD:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return stack_pushf(cpu, insn);
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
        return stack_popf(cpu, insn);
    case ZYDIS_MNEMONIC_ENTER:
        return stack_enter(cpu, insn);
    case ZYDIS_MNEMONIC_LEAVE:
        return stack_leave(cpu, insn);
    default:
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}

/* ---- segment registers ---- */

static int segment_mov(struct cpu *cpu, const struct insn *insn)
{
    enum seg seg = insn->modrm_reg;
    uint64_t selector;

    if (insn->modrm_reg >= SEG_COUNT)
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (insn->opcode == 0x8c) {
        /* a register gets it zero-extended to the operand size, memory always 16 bits */
        if (execute_store_rm(cpu, insn, 2, cpu->seg[seg].selector))
            return CPU_FAULT;
        return done(cpu);
    }
    if (seg == SEG_CS)
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (execute_load_rm(cpu, insn, 2, &selector) || cpu_load_segment(cpu, seg, (uint16_t)selector))
        return CPU_FAULT;
    if (seg == SEG_SS)
        cpu->interrupt_shadow = true;
    return done(cpu);
}

/* Which register push and pop name by their opcode. */
static enum seg segment_of_opcode(const struct insn *insn)
{
    if (insn->map == MAP_0F)
        return insn->opcode & 8 ? SEG_GS : SEG_FS; /* a0, a1; a8, a9 */
    return insn->opcode >> 3 & 3;
}

static int segment_push(struct cpu *cpu, const struct insn *insn)
{
    uint16_t selector = cpu->seg[segment_of_opcode(insn)].selector;
    uint64_t sp = (cpu->gpr[GPR_SP] - insn->opsize) & cpu_stack_mask(cpu), value = selector;

    if (cpu_write_seg(cpu, SEG_SS, sp, &value, cpu_model_pushed_selector_size(cpu->model, insn->opsize)))
        return CPU_FAULT;
    stack_pointer_set(cpu, sp);
    return done(cpu);
}

static int segment_pop(struct cpu *cpu, const struct insn *insn)
{
    enum seg seg = segment_of_opcode(insn);
    uint64_t selector, sp = stack_pointer_add(cpu, insn->opsize);

    if (stack_read(cpu, 0, insn->opsize, &selector) || cpu_load_segment(cpu, seg, (uint16_t)selector))
        return CPU_FAULT;
    cpu->gpr[GPR_SP] = sp; /* in the width of the old SS */
    if (seg == SEG_SS)
        cpu->interrupt_shadow = true;
    return done(cpu);
}

static int segment_far_pointer(struct cpu *cpu, const struct insn *insn, enum seg seg)
{
    uint8_t pointer[10] = {0};
    uint64_t off;
    uint16_t selector;

    if (cpu_read_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), pointer, insn->opsize + 2u))
        return CPU_FAULT;
    __builtin_memcpy(&off, pointer, 8);
    __builtin_memcpy(&selector, pointer + insn->opsize, 2);
    if (cpu_load_segment(cpu, seg, selector))
        return CPU_FAULT;
    execute_write_reg(cpu, &insn->reg, off);
    return done(cpu);
}

static int segment_base(struct cpu *cpu, const struct insn *insn, enum seg seg, bool write)
{
    if (!cpu_code64(cpu) || !(cpu->mmu.cr4 & CR4_FSGSBASE))
        return cpu_raise_fault(cpu, VECTOR_UD);
    if (!write) {
        execute_write_reg(cpu, &insn->rm, cpu->seg[seg].base);
        return done(cpu);
    }
    uint64_t base = execute_read_reg(cpu, &insn->rm);
    if (!canonical(base))
        return fault_gp(cpu, 0);
    cpu->seg[seg].base = base;
    notify_mode_changed(cpu);
    return done(cpu);
}

int execute_segment(struct cpu *cpu, const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return segment_mov(cpu, insn);
    case ZYDIS_MNEMONIC_PUSH:
        return segment_push(cpu, insn);
    case ZYDIS_MNEMONIC_POP:
        return segment_pop(cpu, insn);
    case ZYDIS_MNEMONIC_LDS:
        return segment_far_pointer(cpu, insn, SEG_DS);
    case ZYDIS_MNEMONIC_LES:
        return segment_far_pointer(cpu, insn, SEG_ES);
    case ZYDIS_MNEMONIC_LFS:
        return segment_far_pointer(cpu, insn, SEG_FS);
    case ZYDIS_MNEMONIC_LGS:
        return segment_far_pointer(cpu, insn, SEG_GS);
    case ZYDIS_MNEMONIC_LSS:
        return segment_far_pointer(cpu, insn, SEG_SS);
    case ZYDIS_MNEMONIC_RDFSBASE:
        return segment_base(cpu, insn, SEG_FS, false);
    case ZYDIS_MNEMONIC_RDGSBASE:
        return segment_base(cpu, insn, SEG_GS, false);
    case ZYDIS_MNEMONIC_WRFSBASE:
        return segment_base(cpu, insn, SEG_FS, true);
    case ZYDIS_MNEMONIC_WRGSBASE:
        return segment_base(cpu, insn, SEG_GS, true);
    default:
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}
