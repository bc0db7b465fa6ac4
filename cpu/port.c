/* SPDX-License-Identifier: MIT */
/* IN and OUT with the I/O permission bit map. SDM vol. 1, 19.5; vol. 3, 17.2.4 (I/O breakpoints). */
#include "cpu/internal.h"

int cpu_port_check(struct cpu *cpu, uint16_t port, unsigned size)
{
    uint16_t map, bits;
    if (cpu_real_mode(cpu) || (!cpu_v8086(cpu) && cpu->cpl <= cpu_iopl(cpu)))
        return CPU_OK;
    if ((cpu->tr.attr & SEG_TYPE) < SYS_TSS32 || cpu->tr.limit < 103)
        return fault_gp(cpu, 0);
    if (cpu_read_system(cpu, cpu->tr.base + 102, &map, 2))
        return CPU_FAULT;
    /* Two bytes are read even for one port, so the map needs a byte of ones at its end. */
    uint32_t at = (uint32_t)map + port / 8;
    if (at + 1 > cpu->tr.limit)
        return fault_gp(cpu, 0);
    if (cpu_read_system(cpu, cpu->tr.base + at, &bits, 2))
        return CPU_FAULT;
    return (bits >> (port & 7)) & ((1u << size) - 1) ? fault_gp(cpu, 0) : CPU_OK;
}

/* DR6 bits of the I/O breakpoints an access hits. */
static uint64_t breakpoint_hits(const struct cpu *cpu, uint16_t port, unsigned size)
{
    static const uint8_t lengths[] = {1, 2, 8, 4};
    uint64_t dr7 = cpu->dr[7], hits = 0;
    if (!(cpu->mmu.cr4 & CR4_DE))
        return 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned length = lengths[dr7 >> (18 + i * 4) & 3];
        uint64_t base = cpu->dr[i] & ~(uint64_t)(length - 1);
        bool enabled = (dr7 >> (i * 2) & 3) && (dr7 >> (16 + i * 4) & 3) == 2;
        if (enabled && port < base + length && base < (uint64_t)port + size)
            hits |= 1u << i;
    }
    return hits;
}

static int finish(struct cpu *cpu, uint16_t port, unsigned size)
{
    cpu->rip = cpu->next_rip;
    if (__builtin_expect(cpu->dr[7] & 0xff, 0)) {
        uint64_t hits = breakpoint_hits(cpu, port, size);
        if (hits)
            cpu_deliver_debug_trap(cpu, hits);
    }
    return CPU_OK;
}

void cpu_in_allowed(struct cpu *cpu, uint16_t port, unsigned size)
{
    uint64_t value = ~0ull, *a = &cpu->gpr[GPR_AX];
    if (cpu->board && cpu->board->port_read) {
        cpu_fpu_park(cpu);
        value = cpu->board->port_read(cpu->board->opaque, port, size);
        cpu_fpu_unpark(cpu);
    }
    if (size == 1)
        *a = (*a & ~0xffull) | (value & 0xff);
    else if (size == 2)
        *a = (*a & ~0xffffull) | (value & 0xffff);
    else
        *a = (uint32_t)value;
}

void cpu_out_allowed(struct cpu *cpu, uint16_t port, unsigned size)
{
    static const uint64_t masks[] = {0, 0xff, 0xffff, 0, 0xffffffff};
    if (cpu->board && cpu->board->port_write) {
        cpu_fpu_park(cpu);
        cpu->board->port_write(cpu->board->opaque, port, cpu->gpr[GPR_AX] & masks[size], size);
        cpu_fpu_unpark(cpu);
    }
}

int cpu_in(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (cpu_port_check(cpu, port, size))
        return CPU_FAULT;
    cpu_in_allowed(cpu, port, size);
    return finish(cpu, port, size);
}

int cpu_out(struct cpu *cpu, uint16_t port, unsigned size)
{
    if (cpu_port_check(cpu, port, size))
        return CPU_FAULT;
    cpu_out_allowed(cpu, port, size);
    return finish(cpu, port, size);
}
