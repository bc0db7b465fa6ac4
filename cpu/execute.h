/* SPDX-License-Identifier: MIT */
/* Carries out one instruction in C on the saved state: what translated code does not do itself. Works in every mode.
 *
 * Classes: MOVE, STACK, STRING, JCC, JMP, CALL, JMP_IND, CALL_IND, RET, FAR, SEGMENT, FLAGS, SYSTEM, FPU_ENV,
 * UNDEFINED. An INSN_GENERIC instruction belongs on the host; given one, cpu_execute raises #UD.
 *
 * The convention is cpu.h's: cpu->rip is the instruction; after CPU_OK it is the next one to run, after CPU_FAULT
 * nothing has changed and cpu->fault tells what to deliver. The exception is a repeated string instruction, which does
 * a bounded part of its work a call: registers show what is done, and rip stays at the instruction until all is (also
 * at a fault), so that it is entered again after an interrupt. */
#ifndef RINGFOLD_CPU_EXECUTE_H
#define RINGFOLD_CPU_EXECUTE_H

#include "cpu/cpu.h"

int cpu_execute(struct cpu *cpu, const struct insn *insn);

/* The offset of the ModRM, moffs or implicit memory operand within its segment, truncated to the address size.
 * cpu->rip is the instruction's address. For VSIB forms the index is left out. */
uint64_t cpu_effective_address(const struct cpu *cpu, const struct insn *insn);

#endif
