/* SPDX-License-Identifier: MIT */
/* A vCPU with 4 MiB of memory, descriptor tables and a fake board, for the tests of cpu/. */
#ifndef RINGFOLD_TESTS_CPU_WORLD_H
#define RINGFOLD_TESTS_CPU_WORLD_H

#include "cpu/cpu.h"
#include "cpu/cpuid.h"

/* Where things are in guest-physical memory. */
enum {
    AT_GDT = 0x1000,
    AT_LDT = 0x1800,
    AT_IDT = 0x2000,
    AT_TSS = 0x3000,
    AT_TSS_B = 0x4000,
    AT_TSS_16 = 0x5000,
    AT_PAGES = 0x10000,
    AT_STACK0 = 0x20000,
    AT_STACK3 = 0x28000,
    AT_STACK1 = 0x2c000,
    AT_CODE = 0x30000,
    AT_SCRATCH = 0x40000
};

/* Selectors in the GDT. */
enum {
    CODE0 = 0x08,
    DATA0 = 0x10,
    CODE3 = 0x1b,
    DATA3 = 0x23,
    TSS_A = 0x28,
    TSS_B = 0x38,
    TSS_16 = 0x48,
    LDT_A = 0x58,
    CONFORMING = 0x68,
    CALL_GATE = 0x70 /* 16 bytes */,
    TASK_GATE = 0x80,
    ABSENT = 0x88,
    DOWN = 0x90,
    CODE16 = 0x98,
    STACK16 = 0xa0,
    EXECUTE_ONLY = 0xa8,
    READ_ONLY = 0xb0,
    CODE1 = 0xb9,
    DATA1 = 0xc1,
    WIDE0 = 0xc8,
    WIDE3 = 0xd3,
    ABSENT_CODE = 0xd8,
    SPARE = 0xe0,
    GDT_LIMIT = 0xff
};

struct world {
    struct memory mem;
    struct cpu_model model;
    struct cpu *cpu;
    struct cpu_board board;
    int ack; /* what interrupt_ack gives */
    unsigned acks, ferr, modes, code_writes;
    uint16_t port;
    uint64_t port_value;
    unsigned port_size;
    uint64_t device_value;
    unsigned device_size;
};

struct world *world_create(bool long_mode);
void world_destroy(struct world *w);

/* 32-bit flat protected mode without paging, at the CPL. rip and next_rip are AT_CODE and AT_CODE + 2. */
struct world *world_protected(unsigned cpl);
/* The same with 64-bit code and four-level paging, identity mapped, user pages. */
struct world *world_long(unsigned cpl);
struct world *world_real(void);
/* IOPL as given, CR4.VME as given. */
struct world *world_v8086(unsigned iopl, bool vme);

void world_descriptor(struct world *w, uint32_t at, uint32_t base, uint32_t limit, uint32_t attr);
void world_gate(struct world *w, uint32_t at, uint16_t selector, uint64_t offset, uint32_t attr, unsigned parameters);
void world_idt(struct world *w, unsigned vector, uint16_t selector, uint64_t offset, uint32_t attr);

uint64_t peek(struct world *w, uint64_t at, unsigned size);
void poke(struct world *w, uint64_t at, uint64_t value, unsigned size);

/* Are all registers that a fault may not touch as they were? */
bool world_unchanged(const struct world *w, const struct cpu *before);

#define ASSERT_FAULT(w, call, wanted_vector, wanted_error)                                                             \
    do {                                                                                                               \
        struct cpu before_ = *(w)->cpu;                                                                                \
        CU_ASSERT_EQUAL(call, CPU_FAULT);                                                                              \
        CU_ASSERT_EQUAL((w)->cpu->fault.vector, wanted_vector);                                                        \
        CU_ASSERT_EQUAL((w)->cpu->fault.error, (uint32_t)(wanted_error));                                              \
        CU_ASSERT_TRUE(world_unchanged(w, &before_));                                                                  \
    } while (0)

/* Attributes as in a descriptor, see SEG_* in cpu.h. */
enum {
    ATTR_CODE32 = SEG_P | SEG_S | SEG_CODE | SEG_W | SEG_DB | SEG_G,
    ATTR_DATA32 = SEG_P | SEG_S | SEG_W | SEG_DB | SEG_G,
    ATTR_CODE64 = SEG_P | SEG_S | SEG_CODE | SEG_W | SEG_L | SEG_G,
    DPL3 = 3 << SEG_DPL_SHIFT,
    DPL1 = 1 << SEG_DPL_SHIFT,
    GATE_INT32 = SEG_P | 14,
    GATE_TRAP32 = SEG_P | 15,
    GATE_INT16 = SEG_P | 6,
    GATE_CALL32 = SEG_P | 12,
    GATE_CALL16 = SEG_P | 4,
    GATE_TASK = SEG_P | 5
};

#endif
