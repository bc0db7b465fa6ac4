/* SPDX-License-Identifier: MIT */
#include "lib64/guest.h"

extern char trap_stubs[];

/* Segments and the IDT. */

uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(16)));
struct gate64 idt[256] __attribute__((aligned(16)));
struct tss64 tss __attribute__((aligned(4096)));

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    uint32_t low = (limit & 0xffff) | base << 16;
    uint32_t high = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | (flags & 15) << 20 | (base & 0xff000000);
    return (uint64_t)high << 32 | low;
}

struct gate64 gate(unsigned selector, uint64_t offset, unsigned access, unsigned ist)
{
    uint32_t low = ((uint32_t)offset & 0xffff) | selector << 16;
    uint32_t high = ((uint32_t)offset & 0xffff0000) | access << 8 | ist;
    return (struct gate64){(uint64_t)high << 32 | low, offset >> 32};
}

void gdt_set(unsigned selector, uint64_t d)
{
    gdt[(selector >> 3) % GDT_ENTRIES] = d;
}

void idt_reset(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt[i] = gate(SEL_CODE, (uint64_t)trap_stubs + 16 * i, i == USER_DONE ? 0xee : 0x8e, 0);
}

static void segments_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) table;
    gdt_set(SEL_CODE, descriptor(0, 0xfffff, 0x9b, SEG_G | SEG_L));
    gdt_set(SEL_DATA, descriptor(0, 0xfffff, 0x93, SEG_G | SEG_D));
    gdt_set(SEL_USER_CODE32, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_D));
    gdt_set(SEL_USER_DATA, descriptor(0, 0xfffff, 0xf3, SEG_G | SEG_D));
    gdt_set(SEL_USER_CODE, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_L));
    gdt_set(SEL_CODE32, descriptor(0, 0xfffff, 0x9b, SEG_G | SEG_D));
    gdt_set(SEL_TSS, descriptor((uint32_t)(uintptr_t)&tss, sizeof tss - 1, 0x89, 0));
    gdt_set(SEL_TSS + 8, 0);
    tss.rsp[0] = (uint64_t)trap_stack_top;
    tss.ist[0] = (uint64_t)ist_stack_top;
    tss.io_map = sizeof tss;
    table.limit = sizeof gdt - 1;
    table.base = (uint64_t)gdt;
    __asm__ volatile("lgdt %0" ::"m"(table));
    __asm__ volatile("pushq %q0; pushq $1f; lretq; 1:" ::"r"(SEL_CODE) : "memory");
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(0));
    idt_reset();
    table.limit = sizeof idt - 1;
    table.base = (uint64_t)idt;
    __asm__ volatile("lidt %0; lldt %w1; ltr %w2" ::"m"(table), "r"(0), "r"(SEL_TSS));
}

/* Traps. */

struct trap trap;
uint64_t trap_cr2, trap_dr6, trap_frame, trap_expected_rip;
trap_hook *trap_hooks[256];
extern uint64_t trap_saved_rsp;

void trap_handle(struct trap *frame);
void trap_handle(struct trap *frame)
{
    uint64_t cr2 = read_cr2();
    unsigned vector = frame->vector & 0xff;
    if (trap_hooks[vector] && trap_hooks[vector](frame))
        return;
    if (!trap_saved_rsp) {
        printf("FAIL unexpected trap %u error %lx at %lx:%08lx flags %lx cr2 %lx rsp %lx\n", vector, frame->error,
               frame->cs, frame->rip, frame->rflags, cr2, frame->rsp);
        guest_exit(1);
    }
    trap = *frame;
    trap_cr2 = cr2;
    trap_dr6 = read_dr6();
    trap_frame = (uint64_t)frame;
    trap_leave((int)vector);
}

void frame_flat(struct trap *frame)
{
    memset(frame, 0, sizeof *frame);
    frame->cs = SEL_USER_CODE;
    frame->ss = SEL_USER_DATA;
    frame->rflags = 2;
    frame->rsp = (uint64_t)user_stack_top - 64;
}

static void frame_enter(void *arg)
{
    enter_frame(arg);
}

int frame_call(const struct trap *frame)
{
    static struct trap copies[4];
    static unsigned depth;
    struct trap *copy = &copies[depth++ % 4];
    *copy = *frame;
    int vector = trap_call(frame_enter, copy);
    depth--;
    return vector == USER_DONE ? NO_TRAP : vector;
}

int user_call_flags(void (*fn)(void *), void *arg, uint64_t flags)
{
    struct trap frame;
    frame_flat(&frame);
    frame.rsp -= 8;
    *(uint64_t *)frame.rsp = (uint64_t)user_return;
    frame.rdi = (uint64_t)arg;
    frame.rip = (uint64_t)fn;
    frame.rflags = flags | 2;
    return frame_call(&frame);
}

int user_call(void (*fn)(void *), void *arg)
{
    return user_call_flags(fn, arg, 0);
}

static bool has_error(int vector)
{
    return vector == DF || (vector >= TS && vector <= PF) || vector == AC;
}

bool trap_is(int got, int expected, uint32_t error)
{
    uint64_t rip = trap_expected_rip;
    trap_expected_rip = 0;
    return got == expected &&
           (expected == NO_TRAP || ((!has_error(expected) || trap.error == error) && (!rip || trap.rip == rip)));
}

void check_trap(const char *name, int got, int expected, uint32_t error)
{
    uint64_t rip = trap_expected_rip;
    if (got == NO_TRAP)
        trap.error = trap.rip = 0;
    check(trap_is(got, expected, error), name, "got #%d error %lx at %lx, expected #%d error %x at %lx", got,
          trap.error, trap.rip, expected, error, rip);
}

struct register_access {
    unsigned number;
    uint64_t value;
};

static void do_write_msr(void *arg)
{
    struct register_access *a = arg;
    write_msr(a->number, a->value);
}

static void do_read_msr(void *arg)
{
    struct register_access *a = arg;
    a->value = read_msr(a->number);
}

static void do_write_cr(void *arg)
{
    struct register_access *a = arg;
    switch (a->number) {
    case 0:
        write_cr0(a->value);
        break;
    case 3:
        write_cr3(a->value);
        break;
    case 4:
        write_cr4(a->value);
        break;
    default:
        write_cr8(a->value);
    }
}

int write_msr_trap(uint32_t msr, uint64_t v)
{
    return trap_call(do_write_msr, &(struct register_access){msr, v});
}

int read_msr_trap(uint32_t msr)
{
    return trap_call(do_read_msr, &(struct register_access){msr, 0});
}

int write_cr_trap(unsigned n, uint64_t v)
{
    return trap_call(do_write_cr, &(struct register_access){n, v});
}

/* Pages. */

void *page_alloc(void)
{
    static uint64_t page_next;
    if (!page_next)
        page_next = ((uint64_t)guest_end + 0xfff) & ~0xffful;
    void *p = (void *)page_next;
    page_next += 4096;
    return memset(p, 0, 4096);
}

uint64_t *page_entry(uint64_t address, unsigned level)
{
    uint64_t *table = (uint64_t *)start_pml4;
    for (unsigned at = 4;; at--) {
        uint64_t *entry = &table[address >> (3 + 9 * at) & 511];
        if (at == level)
            return entry;
        if (!(*entry & PTE_P))
            *entry = (uint64_t)page_alloc() | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*entry & PTE_ADDRESS);
    }
}

void guest_start(void);
void guest_start(void)
{
    common_start(segments_init);
}
