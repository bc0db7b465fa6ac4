/* SPDX-License-Identifier: MIT */
/* Segment registers: loads, limits, descriptor tables, the instructions that look at descriptors. */
#include "tests/cpu_world.h"
#include "tests/test.h"

static void loads_check_rights(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_DS, DATA3), CPU_OK);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].selector, DATA3);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].limit, 0xffffffff);
    CU_ASSERT_EQUAL(peek(w, AT_GDT + (DATA3 & ~3) + 5, 1), 0xf3); /* accessed */
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_CS, DATA0), VECTOR_UD, 0);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_DS, EXECUTE_ONLY), VECTOR_GP, EXECUTE_ONLY);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_DS, TSS_B), VECTOR_GP, TSS_B);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_DS, DATA0 | 3), VECTOR_GP, DATA0);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_DS, GDT_LIMIT + 1), VECTOR_GP, GDT_LIMIT + 1);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_DS, 4), VECTOR_GP, 4); /* no LDT */
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_ES, ABSENT), VECTOR_NP, ABSENT);
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_ES, READ_ONLY), CPU_OK);
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_ES, CODE0), CPU_OK);
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_FS, 3), CPU_OK);
    CU_ASSERT_TRUE(cpu->seg[SEG_FS].attr & SEG_UNUSABLE);
    world_destroy(w);
    w = world_protected(3);
    ASSERT_FAULT(w, cpu_load_segment(w->cpu, SEG_DS, DATA0), VECTOR_GP, DATA0);
    CU_ASSERT_EQUAL(cpu_load_segment(w->cpu, SEG_DS, CONFORMING | 3), CPU_OK);
    world_destroy(w);
}

static void stack_segment_is_strict(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_SS, 0), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_SS, DATA3), VECTOR_GP, DATA3 & ~3);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_SS, READ_ONLY), VECTOR_GP, READ_ONLY);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_SS, CODE0), VECTOR_GP, CODE0);
    world_descriptor(w, AT_GDT + SPARE, 0, 0xfffff, ATTR_DATA32 & ~SEG_P);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_SS, SPARE), VECTOR_SS, SPARE);
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_SS, STACK16), CPU_OK);
    CU_ASSERT_EQUAL(cpu_stack_mask(cpu), 0xffff);
    world_destroy(w);
    w = world_long(0);
    CU_ASSERT_EQUAL(cpu_load_segment(w->cpu, SEG_SS, 0), CPU_OK);
    ASSERT_FAULT(w, cpu_load_segment(w->cpu, SEG_SS, 3), VECTOR_GP, 0);
    world_destroy(w);
}

static int check(struct world *w, enum seg seg, uint64_t off, unsigned size, bool write)
{
    uint64_t gva;
    return cpu_segment_check(w->cpu, seg, off, size, write, &gva);
}

static void limits(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    uint64_t gva = 0;
    cpu_load_segment(cpu, SEG_DS, DOWN);
    ASSERT_FAULT(w, check(w, SEG_DS, 0xfff, 1, false), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(check(w, SEG_DS, 0x1000, 4, true), CPU_OK);
    CU_ASSERT_EQUAL(check(w, SEG_DS, 0xfffffffc, 4, true), CPU_OK);
    ASSERT_FAULT(w, check(w, SEG_DS, 0xfffffffd, 4, true), VECTOR_GP, 0);
    cpu->seg[SEG_DS].attr &= ~(uint32_t)SEG_DB;
    ASSERT_FAULT(w, check(w, SEG_DS, 0xffff, 2, true), VECTOR_GP, 0);
    cpu_load_segment(cpu, SEG_SS, STACK16);
    ASSERT_FAULT(w, check(w, SEG_SS, 0xffff, 2, true), VECTOR_SS, 0);
    CU_ASSERT_EQUAL(cpu_segment_check(cpu, SEG_SS, 0xfffe, 2, true, &gva), CPU_OK);
    CU_ASSERT_EQUAL(gva, AT_STACK0 + 0xfffe);
    cpu_load_segment(cpu, SEG_ES, READ_ONLY);
    ASSERT_FAULT(w, check(w, SEG_ES, 0, 1, true), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(check(w, SEG_ES, 0, 1, false), CPU_OK);
    ASSERT_FAULT(w, check(w, SEG_CS, 0, 1, true), VECTOR_GP, 0);
    cpu_load_segment(cpu, SEG_GS, 0);
    ASSERT_FAULT(w, check(w, SEG_GS, 0, 1, false), VECTOR_GP, 0);
    world_destroy(w);
}

static void canonical_addresses(void)
{
    struct world *w = world_long(0);
    uint64_t gva = 0;
    CU_ASSERT_EQUAL(check(w, SEG_DS, 0x7ffffffffff8, 8, true), CPU_OK);
    ASSERT_FAULT(w, check(w, SEG_DS, 0x7ffffffffff9, 8, true), VECTOR_GP, 0);
    ASSERT_FAULT(w, check(w, SEG_SS, 0x800000000000, 1, true), VECTOR_SS, 0);
    w->cpu->seg[SEG_GS].base = 0xffff888000000000;
    CU_ASSERT_EQUAL(cpu_segment_check(w->cpu, SEG_GS, 0x10, 8, true, &gva), CPU_OK);
    CU_ASSERT_EQUAL(gva, 0xffff888000000010);
    w->cpu->seg[SEG_DS].base = 0x1000; /* ignored in 64-bit mode */
    CU_ASSERT_EQUAL(cpu_segment_check(w->cpu, SEG_DS, 0x10, 8, true, &gva), CPU_OK);
    CU_ASSERT_EQUAL(gva, 0x10);
    world_destroy(w);
}

static void alignment_check(void)
{
    struct world *w = world_protected(3);
    w->cpu->rflags |= EFLAGS_AC;
    CU_ASSERT_EQUAL(check(w, SEG_DS, 1, 4, false), CPU_OK);
    mmu_set_paging(&w->cpu->mmu, w->cpu->mmu.cr0 | CR0_AM, 0, 0);
    ASSERT_FAULT(w, check(w, SEG_DS, 1, 4, false), VECTOR_AC, 0);
    CU_ASSERT_EQUAL(check(w, SEG_DS, 1, 1, false), CPU_OK);
    CU_ASSERT_EQUAL(check(w, SEG_DS, 4, 4, false), CPU_OK);
    world_destroy(w);
}

static void accesses_cross_pages_whole(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    uint32_t v = 0x11223344;
    for (unsigned i = 0; i < 1024; i++)
        poke(w, AT_PAGES + 0x1000 + i * 4, i << 12 | 7, 4);
    poke(w, AT_PAGES, (AT_PAGES + 0x1000) | 7, 4);
    poke(w, AT_PAGES + 0x1000 + 0x42 * 4, 0x42000 | 5, 4); /* page 42 is read-only */
    mmu_set_cr3(&cpu->mmu, AT_PAGES);
    mmu_set_paging(&cpu->mmu, cpu->mmu.cr0 | CR0_PG, 0, 0);
    CU_ASSERT_EQUAL(cpu_write_seg(cpu, SEG_DS, 0x40ffe, &v, 4), CPU_OK);
    CU_ASSERT_EQUAL(peek(w, 0x40ffe, 4), 0x11223344);
    ASSERT_FAULT(w, cpu_write_seg(cpu, SEG_DS, 0x41ffe, &v, 4), VECTOR_PF, 7);
    CU_ASSERT_EQUAL(cpu->fault.cr2, 0x42000);
    CU_ASSERT_EQUAL(peek(w, 0x41ffe, 4), 0);
    CU_ASSERT_EQUAL(cpu_read_seg(cpu, SEG_DS, 0x41ffe, &v, 4), CPU_OK);
    world_destroy(w);
}

static unsigned code_writes;
static uint64_t code_written_at;
static void count_code_write(struct cpu *cpu, gpa_t addr, unsigned len)
{
    code_writes += len;
    code_written_at = addr.v;
}

static void devices_and_translated_pages(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    uint32_t v = 0xcafef00d;
    void (*saved)(struct cpu *, gpa_t, unsigned) = cpu_code_written_hook;
    cpu_code_written_hook = count_code_write;
    atomic_fetch_or(&w->mem.flags[AT_SCRATCH >> 12], MEMORY_PAGE_CODE);
    code_writes = 0;
    CU_ASSERT_EQUAL(cpu_write_seg(cpu, SEG_DS, AT_SCRATCH + 4, &v, 4), CPU_OK);
    CU_ASSERT_EQUAL(code_writes, 4);
    CU_ASSERT_EQUAL(code_written_at, AT_SCRATCH + 4);
    CU_ASSERT_EQUAL(cpu_read_seg(cpu, SEG_DS, AT_SCRATCH + 4, &v, 4), CPU_OK);
    CU_ASSERT_EQUAL(code_writes, 4);
    cpu_code_written_hook = saved;
    CU_ASSERT_EQUAL(cpu_write_seg(cpu, SEG_DS, 0xfee00000, &v, 4), CPU_OK);
    CU_ASSERT_EQUAL(w->device_size, 4);
    CU_ASSERT_EQUAL(w->device_value, 0xcafef00d);
    w->device_value = 0x55;
    CU_ASSERT_EQUAL(cpu_read_seg(cpu, SEG_DS, 0xfee00000, &v, 1), CPU_OK);
    CU_ASSERT_EQUAL(v & 0xff, 0x55);
    world_destroy(w);
}

static void tables(void)
{
    struct world *w = world_protected(0);
    struct cpu *cpu = w->cpu;
    ASSERT_FAULT(w, cpu_lldt(cpu, TSS_B), VECTOR_GP, TSS_B);
    ASSERT_FAULT(w, cpu_lldt(cpu, LDT_A | 4), VECTOR_GP, LDT_A | 4);
    CU_ASSERT_EQUAL(cpu_lldt(cpu, LDT_A), CPU_OK);
    CU_ASSERT_EQUAL(cpu->rip, AT_CODE + 2);
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_DS, 4), CPU_OK);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].base, 0x100);
    ASSERT_FAULT(w, cpu_load_segment(cpu, SEG_DS, 0x24), VECTOR_GP, 0x24);
    ASSERT_FAULT(w, cpu_ltr(cpu, 0), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_ltr(cpu, TSS_A), VECTOR_GP, TSS_A); /* busy */
    CU_ASSERT_EQUAL(cpu_ltr(cpu, TSS_B), CPU_OK);
    CU_ASSERT_EQUAL(peek(w, AT_GDT + TSS_B + 5, 1), SEG_P | 11);
    CU_ASSERT_EQUAL(cpu->tr.base, AT_TSS_B);
    CU_ASSERT_EQUAL(cpu_lgdt(cpu, 0x7000, 0x17), CPU_OK);
    CU_ASSERT_EQUAL(cpu->gdtr.limit, 0x17);
    world_destroy(w);
    w = world_protected(3);
    ASSERT_FAULT(w, cpu_ltr(w->cpu, TSS_B), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_lidt(w->cpu, 0, 0), VECTOR_GP, 0);
    world_destroy(w);
    w = world_long(0);
    ASSERT_FAULT(w, cpu_lgdt(w->cpu, 0x800000000000, 0), VECTOR_GP, 0);
    ASSERT_FAULT(w, cpu_ltr(w->cpu, TSS_16), VECTOR_GP, TSS_16);
    poke(w, AT_GDT + TSS_B + 8, 0xffff8000, 4);
    CU_ASSERT_EQUAL(cpu_ltr(w->cpu, TSS_B), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->tr.base, 0xffff800000000000 | AT_TSS_B);
    world_destroy(w);
    w = world_real();
    ASSERT_FAULT(w, cpu_lldt(w->cpu, 0), VECTOR_UD, 0);
    world_destroy(w);
}

static void looking_at_descriptors(void)
{
    struct world *w = world_protected(3);
    struct cpu *cpu = w->cpu;
    uint32_t v = 0x1234;
    CU_ASSERT_EQUAL(cpu_lar(cpu, DATA3, &v), CPU_OK);
    CU_ASSERT_EQUAL(v & 0xf0ff00, 0xc0f200);
    CU_ASSERT_TRUE(cpu->rflags & FLAG_ZF);
    v = 0x1234;
    CU_ASSERT_EQUAL(cpu_lar(cpu, DATA0, &v), CPU_OK); /* not visible */
    CU_ASSERT_EQUAL(v, 0x1234);
    CU_ASSERT_FALSE(cpu->rflags & FLAG_ZF);
    CU_ASSERT_EQUAL(cpu_lsl(cpu, CONFORMING, &v), CPU_OK);
    CU_ASSERT_EQUAL(v, 0xffffffff);
    CU_ASSERT_EQUAL(cpu_lsl(cpu, 0, &v), CPU_OK);
    CU_ASSERT_FALSE(cpu->rflags & FLAG_ZF);
    CU_ASSERT_EQUAL(cpu_verify(cpu, DATA3, true), CPU_OK);
    CU_ASSERT_TRUE(cpu->rflags & FLAG_ZF);
    CU_ASSERT_EQUAL(cpu_verify(cpu, CODE3, true), CPU_OK);
    CU_ASSERT_FALSE(cpu->rflags & FLAG_ZF);
    CU_ASSERT_EQUAL(cpu_verify(cpu, CODE3, false), CPU_OK);
    CU_ASSERT_TRUE(cpu->rflags & FLAG_ZF);
    CU_ASSERT_EQUAL(cpu_verify(cpu, TSS_B, false), CPU_OK);
    CU_ASSERT_FALSE(cpu->rflags & FLAG_ZF);
    world_destroy(w);
    w = world_v8086(3, false);
    ASSERT_FAULT(w, cpu_lar(w->cpu, DATA3, &v), VECTOR_UD, 0);
    world_destroy(w);
}

static void real_mode_keeps_limits(void)
{
    struct world *w = world_real();
    struct cpu *cpu = w->cpu;
    cpu->seg[SEG_DS].limit = 0xffffffff; /* as protected mode left it */
    CU_ASSERT_EQUAL(cpu_load_segment(cpu, SEG_DS, 0x1234), CPU_OK);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].base, 0x12340);
    CU_ASSERT_EQUAL(cpu->seg[SEG_DS].limit, 0xffffffff);
    ASSERT_FAULT(w, check(w, SEG_ES, 0xffff, 2, false), VECTOR_GP, 0);
    CU_ASSERT_EQUAL(check(w, SEG_CS, 0, 2, true), CPU_OK);
    world_destroy(w);
    w = world_v8086(3, false);
    w->cpu->seg[SEG_DS].limit = 0xffffffff;
    CU_ASSERT_EQUAL(cpu_load_segment(w->cpu, SEG_DS, 0x1234), CPU_OK);
    CU_ASSERT_EQUAL(w->cpu->seg[SEG_DS].limit, 0xffff);
    world_destroy(w);
}

TEST_SUITE(cpu_segment, {"loads check type, rights and presence", loads_check_rights},
           {"SS is loaded by stricter rules", stack_segment_is_strict}, {"limits, up and down", limits},
           {"canonical addresses in 64-bit mode", canonical_addresses}, {"alignment check at CPL 3", alignment_check},
           {"page-crossing writes happen whole or not at all", accesses_cross_pages_whole},
           {"devices and pages with translated code", devices_and_translated_pages},
           {"LDTR, TR, GDTR and their checks", tables}, {"LAR, LSL, VERR, VERW", looking_at_descriptors},
           {"real mode keeps limits, v8086 mode does not", real_mode_keeps_limits})
