/* SPDX-License-Identifier: MIT */
#include "tests/cpu_world.h"

#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t peek(struct world *w, uint64_t at, unsigned size)
{
    uint64_t v = 0;
    memory_read(&w->mem, gpa(at), &v, size);
    return v;
}

void poke(struct world *w, uint64_t at, uint64_t value, unsigned size)
{
    memory_write(&w->mem, gpa(at), &value, size);
}

static uint64_t port_read(void *opaque, uint16_t port, unsigned size)
{
    struct world *w = opaque;
    w->port = port;
    w->port_size = size;
    return w->port_value;
}

static void port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    struct world *w = opaque;
    w->port = port;
    w->port_value = value;
    w->port_size = size;
}

static uint64_t device_read(void *opaque, gpa_t addr, unsigned size)
{
    struct world *w = opaque;
    w->device_size = size;
    return w->device_value;
}

static void device_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    struct world *w = opaque;
    w->device_size = size;
    w->device_value = value;
}

static int interrupt_ack(void *opaque)
{
    struct world *w = opaque;
    w->acks++;
    return w->ack;
}

static void ferr(void *opaque, int level)
{
    struct world *w = opaque;
    w->ferr += level;
}

struct world *world_create(bool long_mode)
{
    char err[200];
    struct world *w = calloc(1, sizeof *w);
    w->cpu = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~(size_t)63);
    if (memory_init(&w->mem, 4 << 20, err, sizeof err)) {
        printf("memory_init: %s\n", err);
        abort();
    }
    cpu_model_init(&w->model, long_mode, false);
    w->board = (struct cpu_board){.port_read = port_read,
                                  .port_write = port_write,
                                  .mem_read = device_read,
                                  .mem_write = device_write,
                                  .interrupt_ack = interrupt_ack,
                                  .ferr = ferr,
                                  .opaque = w};
    if (cpu_init(w->cpu, &w->mem, &w->model, &w->board, 0)) {
        if (!long_mode)
            abort();
        test_leave_without_tables();
    }
    return w;
}

void world_destroy(struct world *w)
{
    cpu_destroy(w->cpu);
    memory_destroy(&w->mem);
    free(w->cpu);
    free(w);
}

/* limit in units of the granularity in attr. */
void world_descriptor(struct world *w, uint32_t at, uint32_t base, uint32_t limit, uint32_t attr)
{
    poke(w, at, (limit & 0xffff) | base << 16, 4);
    poke(w, at + 4, (base >> 16 & 0xff) | attr << 8 | (limit & 0xf0000) | (base & 0xff000000), 4);
}

void world_gate(struct world *w, uint32_t at, uint16_t selector, uint64_t offset, uint32_t attr, unsigned parameters)
{
    poke(w, at, (offset & 0xffff) | (uint32_t)selector << 16, 4);
    poke(w, at + 4, (offset & 0xffff0000) | attr << 8 | parameters, 4);
}

void world_idt(struct world *w, unsigned vector, uint16_t selector, uint64_t offset, uint32_t attr)
{
    bool wide = cpu_long_mode(w->cpu);
    uint32_t at = AT_IDT + vector * (wide ? 16 : 8);
    world_gate(w, at, selector, offset, attr, 0);
    if (wide)
        poke(w, at + 8, offset >> 32, 8);
}

static void make_gdt(struct world *w)
{
    const uint32_t flat = 0xfffff;
    world_descriptor(w, AT_GDT + CODE0, 0, flat, ATTR_CODE32);
    world_descriptor(w, AT_GDT + DATA0, 0, flat, ATTR_DATA32);
    world_descriptor(w, AT_GDT + (CODE3 & ~3), 0, flat, ATTR_CODE32 | DPL3);
    world_descriptor(w, AT_GDT + (DATA3 & ~3), 0, flat, ATTR_DATA32 | DPL3);
    world_descriptor(w, AT_GDT + TSS_A, AT_TSS, 0x3ff, SEG_P | 9);
    world_descriptor(w, AT_GDT + TSS_B, AT_TSS_B, 0x67, SEG_P | 9);
    world_descriptor(w, AT_GDT + TSS_16, AT_TSS_16, 0x2b, SEG_P | 1);
    world_descriptor(w, AT_GDT + LDT_A, AT_LDT, 0x1f, SEG_P | 2);
    world_descriptor(w, AT_GDT + CONFORMING, 0, flat, ATTR_CODE32 | SEG_E);
    world_descriptor(w, AT_GDT + ABSENT, 0, flat, (ATTR_DATA32 | DPL3) & ~SEG_P);
    world_descriptor(w, AT_GDT + DOWN, 0, 0xfff, (ATTR_DATA32 | SEG_E) & ~SEG_G);
    world_descriptor(w, AT_GDT + CODE16, 0, 0xffff, SEG_P | SEG_S | SEG_CODE | SEG_W);
    world_descriptor(w, AT_GDT + STACK16, AT_STACK0, 0xffff, SEG_P | SEG_S | SEG_W);
    world_descriptor(w, AT_GDT + EXECUTE_ONLY, 0, flat, ATTR_CODE32 & ~SEG_W);
    world_descriptor(w, AT_GDT + READ_ONLY, 0, flat, ATTR_DATA32 & ~SEG_W);
    world_descriptor(w, AT_GDT + (CODE1 & ~3), 0, flat, ATTR_CODE32 | DPL1);
    world_descriptor(w, AT_GDT + (DATA1 & ~3), 0, flat, ATTR_DATA32 | DPL1);
    world_descriptor(w, AT_GDT + WIDE0, 0, flat, ATTR_CODE64);
    world_descriptor(w, AT_GDT + (WIDE3 & ~3), 0, flat, ATTR_CODE64 | DPL3);
    world_descriptor(w, AT_GDT + ABSENT_CODE, 0, flat, ATTR_CODE32 & ~SEG_P);
    world_descriptor(w, AT_LDT, 0x100, 0xfff, ATTR_DATA32 & ~SEG_G);
    w->cpu->gdtr = (struct table_register){.base = AT_GDT, .limit = GDT_LIMIT};
    w->cpu->idtr = (struct table_register){.base = AT_IDT, .limit = 0x7ff};
}

static void make_tss(struct world *w)
{
    poke(w, AT_TSS + 4, AT_STACK0 + 0x1000, 4);
    poke(w, AT_TSS + 8, DATA0, 4);
    poke(w, AT_TSS + 12, AT_STACK1 + 0x1000, 4);
    poke(w, AT_TSS + 16, DATA1, 4);
    poke(w, AT_TSS + 102, 0x88, 2); /* 32 bytes of redirection map, then the ports */
    w->cpu->tr = (struct segment){.base = AT_TSS, .limit = 0x3ff, .attr = SEG_P | 11, .selector = TSS_A};
    poke(w, AT_GDT + TSS_A + 5, SEG_P | 11, 1);
    w->cpu->ldtr = (struct segment){.attr = SEG_UNUSABLE};
}

static struct segment cached(struct world *w, uint16_t selector, uint32_t attr)
{
    uint32_t limit = attr & SEG_G ? 0xffffffff : 0xffff;
    return (struct segment){.limit = limit, .attr = attr | SEG_A, .selector = selector};
}

static void set_level(struct world *w, uint16_t code, uint32_t code_attr, unsigned cpl)
{
    static const uint16_t data[] = {DATA0, DATA1, 0, DATA3};
    static const uint32_t stack[] = {AT_STACK0, AT_STACK1, 0, AT_STACK3};
    struct cpu *cpu = w->cpu;
    cpu->cpl = (uint8_t)cpl;
    cpu->seg[SEG_CS] = cached(w, code, code_attr | cpl << SEG_DPL_SHIFT);
    for (unsigned i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            cpu->seg[i] = cached(w, data[cpl], ATTR_DATA32 | cpl << SEG_DPL_SHIFT);
    cpu->gpr[GPR_SP] = stack[cpl] + 0x800;
    cpu->rip = AT_CODE;
    cpu->next_rip = AT_CODE + 2;
}

struct world *world_protected(unsigned cpl)
{
    struct world *w = world_create(false);
    make_gdt(w);
    make_tss(w);
    mmu_set_paging(&w->cpu->mmu, CR0_PE | CR0_ET, 0, 0);
    set_level(w, cpl == 0 ? CODE0 : cpl == 1 ? CODE1 : CODE3, ATTR_CODE32, cpl);
    return w;
}

struct world *world_long(unsigned cpl)
{
    struct world *w = world_create(true);
    make_gdt(w);
    make_tss(w);
    poke(w, AT_PAGES, (AT_PAGES + 0x1000) | 7, 8);
    poke(w, AT_PAGES + 0x1000, (AT_PAGES + 0x2000) | 7, 8);
    poke(w, AT_PAGES + 0x2000, 0x87, 8);
    poke(w, AT_PAGES + 0x2008, 0x200087, 8);
    mmu_set_cr3(&w->cpu->mmu, AT_PAGES);
    mmu_set_paging(&w->cpu->mmu, CR0_PE | CR0_ET | CR0_PG | CR0_WP, CR4_PAE, EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE);
    poke(w, AT_TSS + 4, AT_STACK0 + 0x1008, 8); /* not 16-byte aligned: interrupts must align it */
    poke(w, AT_TSS + 36, AT_STACK1 + 0x1000, 8);
    w->cpu->idtr.limit = 0xfff;
    set_level(w, cpl ? WIDE3 : WIDE0, ATTR_CODE64, cpl);
    return w;
}

struct world *world_real(void)
{
    struct world *w = world_create(false);
    struct cpu *cpu = w->cpu;
    cpu->idtr = (struct table_register){.limit = 0x3ff};
    cpu_load_segment_real(cpu, SEG_CS, AT_CODE >> 4);
    cpu_load_segment_real(cpu, SEG_SS, AT_STACK0 >> 4);
    cpu->gpr[GPR_SP] = 0xabcd0800;
    cpu->rip = 0x10;
    cpu->next_rip = 0x12;
    return w;
}

struct world *world_v8086(unsigned iopl, bool vme)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    if (vme)
        mmu_set_paging(&cpu->mmu, cpu->mmu.cr0, CR4_VME, 0);
    cpu->rflags |= EFLAGS_VM | iopl << EFLAGS_IOPL_SHIFT;
    cpu_load_segment_real(cpu, SEG_CS, AT_CODE >> 4);
    cpu_load_segment_real(cpu, SEG_SS, AT_STACK3 >> 4);
    cpu_load_segment_real(cpu, SEG_DS, 0x1111);
    cpu_load_segment_real(cpu, SEG_ES, 0x2222);
    cpu_load_segment_real(cpu, SEG_FS, 0x3333);
    cpu_load_segment_real(cpu, SEG_GS, 0x4444);
    cpu->gpr[GPR_SP] = 0x800;
    cpu->rip = 0x10;
    cpu->next_rip = 0x12;
    return w;
}

bool world_unchanged(const struct world *w, const struct cpu *before)
{
    const struct cpu *c = w->cpu;
    return !memcmp(c->gpr, before->gpr, sizeof c->gpr) && c->rip == before->rip && c->rflags == before->rflags &&
           c->cpl == before->cpl && !memcmp(c->seg, before->seg, sizeof c->seg) &&
           !memcmp(&c->ldtr, &before->ldtr, sizeof c->ldtr) && !memcmp(&c->tr, &before->tr, sizeof c->tr) &&
           c->mmu.cr0 == before->mmu.cr0 && c->mmu.cr3 == before->mmu.cr3 && c->mmu.cr4 == before->mmu.cr4 &&
           c->mmu.efer == before->mmu.efer && c->cr2 == before->cr2 && !memcmp(c->dr, before->dr, sizeof c->dr) &&
           c->halted == before->halted && c->xcr0 == before->xcr0 && !memcmp(&c->msr, &before->msr, sizeof c->msr);
}
