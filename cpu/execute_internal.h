/* SPDX-License-Identifier: MIT */
/* Shared by the files of cpu_execute: operands and the functions of each subject. */
#ifndef RINGFOLD_CPU_EXECUTE_INTERNAL_H
#define RINGFOLD_CPU_EXECUTE_INTERNAL_H

#include "cpu/execute.h"
#include "cpu/internal.h"

int execute_stack(struct cpu *cpu, const struct insn *insn);
int execute_string(struct cpu *cpu, const struct insn *insn);
int execute_segment(struct cpu *cpu, const struct insn *insn);
int execute_system(struct cpu *cpu, const struct insn *insn);
int execute_fpu_env(struct cpu *cpu, const struct insn *insn);
int execute_masked_move(struct cpu *cpu, const struct insn *insn);

/* cpu->xsave, unloaded, with every component written out and marked as present. */
uint8_t *execute_explicit_image(struct cpu *cpu);
/* Turns the x87 registers of an image so that they keep their places under a new top of the stack, and sets FSW.TOP. */
void execute_set_x87_top(uint8_t *image, unsigned top);

static inline uint64_t execute_size_mask(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}

/* A general register as an operand or address of size bytes; 4-byte writes clear the upper half. */
static inline uint64_t execute_read_gpr(const struct cpu *cpu, unsigned num, unsigned size)
{
    return cpu->gpr[num & 15] & execute_size_mask(size);
}
static inline void execute_write_gpr(struct cpu *cpu, unsigned num, unsigned size, uint64_t value)
{
    uint64_t *r = &cpu->gpr[num & 15];
    uint64_t mask = execute_size_mask(size);
    *r = size >= 4 ? value & mask : (*r & ~mask) | (value & mask);
}

static inline uint64_t execute_read_reg(const struct cpu *cpu, const struct insn_reg *reg)
{
    if (reg->cls == REGCLASS_GPR8H)
        return cpu->gpr[reg->num & 3] >> 8 & 0xff;
    return execute_read_gpr(cpu, reg->num, reg->size);
}
static inline void execute_write_reg(struct cpu *cpu, const struct insn_reg *reg, uint64_t value)
{
    if (reg->cls == REGCLASS_GPR8H)
        cpu->gpr[reg->num & 3] = (cpu->gpr[reg->num & 3] & ~0xff00ull) | (value & 0xff) << 8;
    else
        execute_write_gpr(cpu, reg->num, reg->size, value);
}

/* The ModRM.rm operand, register or memory, zero-extended from size bytes. */
int execute_load_rm(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t *value);
int execute_store_rm(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value);
/* Would a write succeed? For instructions that must not have done anything else when it does not. */
int execute_probe_write(struct cpu *cpu, enum seg seg, uint64_t off, unsigned size);
int execute_push(struct cpu *cpu, uint64_t value, unsigned size);
/* A near branch: truncated to the operand size, checked against the limit or for canonical form. */
int execute_check_target(struct cpu *cpu, const struct insn *insn, uint64_t *target);

/* Sign extension from size bytes. */
static inline int64_t execute_signed(uint64_t value, unsigned size)
{
    unsigned shift = 64 - size * 8;
    return (int64_t)(value << shift) >> shift;
}

#endif
