/* SPDX-License-Identifier: MIT */
#include "lib/guest.h"

extern char trap_stubs[], user_return[], start_stack_top[], trap_stack_top[], user_stack_top[], guest_end[];

/* Segments and the IDT. */

uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(16)));
uint64_t idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(4096)));

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    uint32_t low = (limit & 0xffff) | base << 16;
    uint32_t high = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | (flags & 15) << 20 | (base & 0xff000000);
    return (uint64_t)high << 32 | low;
}

uint64_t gate(unsigned selector, uint32_t offset, unsigned access, unsigned parameters)
{
    uint32_t low = (offset & 0xffff) | selector << 16;
    uint32_t high = (offset & 0xffff0000) | access << 8 | (parameters & 31);
    return (uint64_t)high << 32 | low;
}

void gdt_set(unsigned selector, uint64_t d)
{
    gdt[(selector >> 3) % GDT_ENTRIES] = d;
}

void idt_reset(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt[i] = gate(SEL_CODE, (uint32_t)trap_stubs + 16 * i, i == USER_DONE ? 0xee : 0x8e, 0);
}

static void segments_init(void)
{
    static struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) table;
    gdt_set(SEL_CODE, descriptor(0, 0xfffff, 0x9b, SEG_G | SEG_D));
    gdt_set(SEL_DATA, descriptor(0, 0xfffff, 0x93, SEG_G | SEG_D));
    gdt_set(SEL_USER_CODE, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_D));
    gdt_set(SEL_USER_DATA, descriptor(0, 0xfffff, 0xf3, SEG_G | SEG_D));
    gdt_set(SEL_TSS, descriptor((uint32_t)&tss, sizeof tss - 1, 0x89, 0));
    tss.ss0 = SEL_DATA;
    tss.esp0 = (uint32_t)trap_stack_top;
    tss.io_map = offsetof(struct tss, map);
    memset(tss.map, 0xff, sizeof tss.map);
    table.limit = sizeof gdt - 1;
    table.base = (uint32_t)gdt;
    __asm__ volatile("lgdt %0; ljmp %1, $1f; 1:" ::"m"(table), "i"(SEL_CODE));
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(0));
    idt_reset();
    table.limit = sizeof idt - 1;
    table.base = (uint32_t)idt;
    __asm__ volatile("lidt %0; lldt %w1; ltr %w2" ::"m"(table), "r"(0), "r"(SEL_TSS));
}

/* Traps. */

struct trap trap;
uint32_t trap_cr2, trap_dr6, trap_frame, trap_expected_eip;
trap_hook *trap_hooks[256];
extern uint32_t trap_saved_esp;

void trap_handle(struct trap *frame);
void trap_handle(struct trap *frame)
{
    uint32_t cr2 = read_cr2();
    unsigned vector = frame->vector & 0xff;
    if (trap_hooks[vector] && trap_hooks[vector](frame))
        return;
    bool outer = (frame->cs & 3) || (frame->eflags & FLAG_VM);
    if (!trap_saved_esp) {
        printf("FAIL unexpected trap %u error %x at %x:%08x flags %x cr2 %x\n", vector, frame->error,
               frame->cs & 0xffff, frame->eip, frame->eflags, cr2);
        printf("     eax %08x ebx %08x ecx %08x edx %08x esi %08x edi %08x ebp %08x esp %08x\n", frame->eax, frame->ebx,
               frame->ecx, frame->edx, frame->esi, frame->edi, frame->ebp, (uint32_t)&frame->esp);
        guest_exit(1);
    }
    memset(&trap, 0, sizeof trap);
    memcpy(&trap, frame,
           frame->eflags & FLAG_VM ? sizeof trap
           : outer                 ? offsetof(struct trap, v86_es)
                                   : offsetof(struct trap, esp));
    trap_cr2 = cr2;
    trap_dr6 = read_dr6();
    trap_frame = (uint32_t)frame;
    trap_leave(vector);
}

void frame_flat(struct trap *frame)
{
    memset(frame, 0, sizeof *frame);
    frame->cs = SEL_USER_CODE;
    frame->ds = frame->es = frame->ss = SEL_USER_DATA;
    frame->eflags = 2;
    frame->esp = (uint32_t)user_stack_top - 64;
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

int user_call_flags(void (*fn)(void *), void *arg, uint32_t flags)
{
    struct trap frame;
    frame_flat(&frame);
    uint32_t *stack = (uint32_t *)frame.esp;
    stack[0] = (uint32_t)user_return;
    stack[1] = (uint32_t)arg;
    frame.eip = (uint32_t)fn;
    frame.eflags = flags | 2;
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
    uint32_t eip = trap_expected_eip;
    trap_expected_eip = 0;
    return got == expected &&
           (expected == NO_TRAP || ((!has_error(expected) || trap.error == error) && (!eip || trap.eip == eip)));
}

void check_trap(const char *name, int got, int expected, uint32_t error)
{
    uint32_t eip = trap_expected_eip;
    if (got == NO_TRAP)
        trap.error = trap.eip = 0;
    check(trap_is(got, expected, error), name, "got #%d error %x at %x, expected #%d error %x at %x", got, trap.error,
          trap.eip, expected, error, eip);
}

/* Pages. */

static uint32_t page_next;

void *page_alloc_many(unsigned n)
{
    if (!page_next)
        page_next = ((uint32_t)guest_end + 0xfff) & ~0xfffu;
    void *p = (void *)page_next;
    page_next += n * 4096;
    return memset(p, 0, n * 4096);
}

void *page_alloc(void)
{
    return page_alloc_many(1);
}

uint32_t *paging_entry(uint32_t *directory, uint32_t address)
{
    uint32_t *pde = &directory[address >> 22];
    if (!(*pde & PTE_P))
        *pde = (uint32_t)page_alloc() | PTE_P | PTE_W | PTE_U;
    return (uint32_t *)(*pde & ~0xfffu) + (address >> 12 & 1023);
}

uint32_t *paging_identity(unsigned megabytes)
{
    uint32_t *directory = page_alloc();
    for (uint32_t a = 0; a < megabytes << 20; a += 4096)
        *paging_entry(directory, a) = a | PTE_P | PTE_W | PTE_U;
    return directory;
}

void paging_on(uint32_t *directory)
{
    write_cr3((uint32_t)directory);
    write_cr0(read_cr0() | CR0_PG);
}

void paging_off(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr3(0);
}

void guest_start(uint32_t magic, uint32_t info);
void guest_start(uint32_t magic, uint32_t info)
{
    common_start(segments_init);
}
