/* SPDX-License-Identifier: MIT */
/* Hardware tasks: switches by far jump, far call, task gate, interrupt and IRET; what is saved and loaded; busy bits,
 * the link, NT and CR0.TS; the debug trap bit; a double fault through a task gate; and the I/O permission map. */
#include "lib/guest.h"

enum { TASK = 0x50, TASK_GATE = 0x58, MAIN = SEL_TSS, BAD = 0x60 };

static struct tss task;
static uint8_t task_stack[8192] __attribute__((aligned(16)));
static volatile uint32_t task_runs, task_flags, task_tr, task_cr0, task_link, task_error;

#define BUSY(selector) ((gdt[(selector) >> 3] >> 40 & 0xf) == 0xb)

static void task_set(void (*entry)(void))
{
    memset(&task, 0, sizeof task);
    task.eip = (uint32_t)entry;
    task.eflags = 2;
    task.cs = SEL_CODE;
    task.ds = task.es = task.ss = task.fs = task.gs = SEL_DATA;
    task.esp = (uint32_t)task_stack + sizeof task_stack - 16;
    task.ss0 = SEL_DATA;
    task.esp0 = (uint32_t)task_stack + 4096;
    task.io_map = sizeof task;
    task.eax = 0x11111111;
    task.ebx = 0x22222222;
    task.esi = 0x33333333;
    gdt_set(TASK, descriptor((uint32_t)&task, sizeof task - 1, 0x89, 0));
    gdt_set(TASK_GATE, gate(TASK, 0, 0x85, 0));
    gdt_set(MAIN, (gdt[MAIN >> 3] & ~(0x2ull << 40)) | 0x2ull << 40);
}

static void note(void)
{
    uint16_t tr;
    task_runs++;
    task_flags = read_flags();
    __asm__ volatile("str %0" : "=r"(tr));
    task_tr = tr;
    task_cr0 = read_cr0();
    task_link = task.link & 0xffff;
}

/* A task that notes what it sees and goes back, each time it is entered. */
static void returning_task(void)
{
    for (;;) {
        note();
        __asm__ volatile("clts; iret" ::: "memory");
    }
}
static void jumping_task(void)
{
    for (;;) {
        note();
        __asm__ volatile("clts; ljmp %0, $0" ::"i"(MAIN) : "memory");
    }
}
/* Registers across a switch. */
#define SWITCH(insn)                                                                                                   \
    ({                                                                                                                 \
        uint32_t a = 0xaaaa0001, b = 0xbbbb0002, s = 0xcccc0003, d = 0xdddd0004, f;                                    \
        __asm__ volatile("push %%ebp; mov $0xeeee0005, %%ebp; stc\n" insn                                              \
                         "\npushf; cmp $0xeeee0005, %%ebp; pop %4; pop %%ebp; jne 1f; jmp 2f; 1: xor %0, %0; 2:"       \
                         : "+a"(a), "+b"(b), "+S"(s), "+D"(d), "=d"(f)::"ecx", "memory", "cc");                        \
        bool same = a == 0xaaaa0001 && b == 0xbbbb0002 && s == 0xcccc0003 && d == 0xdddd0004 && (f & 1);               \
        check(same, "registers come back", "%x %x %x %x flags %x", a, b, s, d, f);                                     \
    })

static void jumps(void)
{
    task_set(jumping_task);
    task_runs = 0;
    SWITCH("ljmp $0x50, $0");
    check_equal("the task ran", task_runs, 1);
    check_equal("TR in the task", task_tr, TASK);
    check(!(task_flags & FLAG_NT), "a jump leaves NT clear", "%x", task_flags);
    check(task_cr0 & CR0_TS, "a switch sets CR0.TS", "%x", task_cr0);
    check_equal("a jump writes no link", task_link, 0);
    check(BUSY(MAIN) && !BUSY(TASK), "busy bits after the jump back", "main %d task %d", BUSY(MAIN), BUSY(TASK));
    check_equal("the outgoing EAX was saved", task.eax != 0x11111111, 1);
    SWITCH("ljmp $0x50, $0");
    check_equal("the task went on where it left", task_runs, 2);
    SWITCH("ljmp $0x58, $0");
    check_equal("jump through a task gate", task_runs, 3);
    __asm__ volatile("clts");
}

static void calls(void)
{
    task_set(returning_task);
    task_runs = 0;
    SWITCH("lcall $0x50, $0");
    check_equal("the called task ran", task_runs, 1);
    check(task_flags & FLAG_NT, "a call sets NT in the new task", "%x", task_flags);
    check_equal("a call writes the link", task_link, MAIN);
    check(BUSY(MAIN) && !BUSY(TASK), "busy bits after the return", "main %d task %d", BUSY(MAIN), BUSY(TASK));
    check(!(task.eflags & FLAG_NT), "IRET saves the flags with NT clear", "%x", task.eflags);
    SWITCH("lcall $0x58, $0");
    check_equal("call through a task gate", task_runs, 2);
    idt[0x41] = gate(TASK, 0, 0x85, 0);
    SWITCH("int $0x41");
    check_equal("interrupt through a task gate", task_runs, 3);
    check_equal("link of the interrupted task", task_link, MAIN);
    check(!(read_flags() & FLAG_NT), "NT is clear after all", "%x", read_flags());
    __asm__ volatile("clts");
}

static void jump_busy(void *arg)
{
    __asm__ volatile(AT_HERE "ljmp $0x28, $0" ::: "memory");
}
static void jump_bad(void *arg)
{
    __asm__ volatile(AT_HERE "ljmp $0x60, $0" ::: "memory");
}
static void jump_task(void *arg)
{
    __asm__ volatile(AT_HERE "ljmp $0x50, $0" ::: "memory");
}

static void errors(void)
{
    task_set(jumping_task);
    check_trap("#GP for a jump to a busy task", trap_call(jump_busy, 0), GP, MAIN);
    gdt_set(BAD, descriptor((uint32_t)&task, sizeof task - 1, 0x09, 0));
    check_trap("#NP for a task that is not present", trap_call(jump_bad, 0), NP, BAD);
    gdt_set(BAD, descriptor((uint32_t)&task, 0x66, 0x89, 0));
    check_trap("#TS for a TSS that is too small", trap_call(jump_bad, 0), TS, BAD);
    gdt_set(BAD, gate(SEL_DATA, 0, 0x85, 0));
    check_trap("#GP for a task gate to no TSS", trap_call(jump_bad, 0), GP, SEL_DATA);
    check_trap("#GP for a ring 3 jump to a task of DPL 0", user_call(jump_task, 0), GP, TASK);
    trap_expected_eip = 0;
}

/* An error code is pushed on the new task's stack. The task goes behind the faulting instruction by changing the saved
 * EIP: a mov to a segment register of two bytes, and a nop. */
static void skipping_task(void)
{
    for (;;) {
        note();
        __asm__ volatile("pop %0" : "=r"(task_error));
        tss.eip += 3;
        __asm__ volatile("clts; iret" ::: "memory");
    }
}

static void faults(void)
{
    task_set(skipping_task);
    idt[GP] = gate(TASK, 0, 0x85, 0);
    task_runs = 0;
    __asm__ volatile(".byte 0x8e, 0xe0; nop" ::"a"(GDT_ENTRIES * 8) : "memory");
    check_equal("a fault through a task gate", task_runs, 1);
    check_equal("its error code is on the new stack", task_error, GDT_ENTRIES * 8);
    idt_reset();
    /* A double fault with no usable #GP gate: only a task gate sees it with the old state intact. */
    task_set(skipping_task);
    task_runs = 0;
    idt[DF] = gate(TASK, 0, 0x85, 0);
    idt[GP] = 0;
    __asm__ volatile(".byte 0x8e, 0xe0; nop" ::"a"(GDT_ENTRIES * 8) : "memory");
    check_equal("a double fault through a task gate", task_runs, 1);
    check_equal("error code of the double fault", task_error, 0);
    idt_reset();
    __asm__ volatile("clts");
}

/* The T bit of the TSS: a debug trap before the first instruction of the task. */
static uint32_t trap_bit_eip, trap_bit_dr6;
static bool on_debug(struct trap *frame)
{
    trap_bit_eip = frame->eip;
    trap_bit_dr6 = read_dr6();
    write_dr6(0xffff0ff0);
    return true;
}

static void trap_bit(void)
{
    task_set(jumping_task);
    task.trap = 1;
    task_runs = 0;
    trap_hooks[DB] = on_debug;
    SWITCH("ljmp $0x50, $0");
    trap_hooks[DB] = NULL;
    /* SDM volume 3, 17.3.1.5; QEMU TCG ignores the bit. */
    check_equal("the T bit traps before the first instruction", trap_bit_eip, (uint32_t)jumping_task);
    check(trap_bit_dr6 & 0x8000, "DR6.BT", "%x", trap_bit_dr6);
    check_equal("the task ran after the trap", task_runs, 1);
    __asm__ volatile("clts");
}

/* A task with its own page directory. */
static void address_spaces(void)
{
    uint32_t *first = paging_identity(8), *second = paging_identity(8), *page = page_alloc(), *other = page_alloc();
    page[0] = 1;
    other[0] = 2;
    *paging_entry(first, 0x40000000) = (uint32_t)page | 7;
    *paging_entry(second, 0x40000000) = (uint32_t)other | 7;
    task_set(jumping_task);
    task.cr3 = (uint32_t)second;
    paging_on(first);
    volatile uint32_t *here = (uint32_t *)0x40000000;
    uint32_t before = *here;
    task_runs = 0;
    tss.cr3 = (uint32_t)first;
    __asm__ volatile("ljmp $0x50, $0" ::: "memory", "eax", "ecx", "edx");
    check(before == 1 && *here == 1 && task_runs == 1, "CR3 comes back with the task", "%u %u", before, *here);
    paging_off();
    __asm__ volatile("clts");
}

/* The I/O permission map, for ring 3 with IOPL 0. */
struct io {
    uint16_t port;
    uint8_t size;
};
static void do_in(void *arg)
{
    struct io *io = arg;
    switch (io->size) {
    case 1:
        __asm__ volatile(AT_HERE "in %%dx, %%al" ::"d"(io->port) : "eax");
        break;
    case 2:
        __asm__ volatile(AT_HERE "in %%dx, %%ax" ::"d"(io->port) : "eax");
        break;
    case 4:
        __asm__ volatile(AT_HERE "in %%dx, %%eax" ::"d"(io->port) : "eax");
        break;
    }
}

static void io_map(void)
{
    static const uint16_t open[] = {0x80, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0xffff};
    memset(tss.map, 0xff, sizeof tss.map);
    for (unsigned i = 0; i < sizeof open / sizeof open[0]; i++)
        tss.map[open[i] / 8] &= ~(1u << open[i] % 8);
    for (uint32_t port = 0x7c; port < 0x90; port++)
        for (unsigned size = 1; size <= 4; size *= 2) {
            bool allowed = true;
            for (unsigned i = 0; i < size; i++)
                allowed = allowed && !(tss.map[(port + i) / 8] >> (port + i) % 8 & 1);
            struct io io = {port, size};
            int got = user_call(do_in, &io);
            int want = allowed ? NO_TRAP : GP;
            tally(trap_is(got, want, 0), "io map", "port %x size %u: got #%d", port, size, got);
        }
    tally_end("I/O permission map");
    struct io last = {0xffff, 1};
    check_trap("the last port", user_call(do_in, &last), NO_TRAP, 0);
    /* A map that the TSS limit cuts off denies what lies behind. The two bytes of a port are always read. */
    gdt_set(SEL_TSS, descriptor((uint32_t)&tss, offsetof(struct tss, map) + 0x80 / 8, 0x89, 0));
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    struct io io = {0x80, 1};
    check_trap("a map that ends one byte too early", user_call(do_in, &io), GP, 0);
    gdt_set(SEL_TSS, descriptor((uint32_t)&tss, offsetof(struct tss, map) + 0x80 / 8 + 1, 0x89, 0));
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
    check_trap("a map that is just long enough", user_call(do_in, &io), NO_TRAP, 0);
    gdt_set(SEL_TSS, descriptor((uint32_t)&tss, sizeof tss - 1, 0x89, 0));
    __asm__ volatile("ltr %w0" ::"r"(SEL_TSS));
}

void guest_main(void)
{
    jumps();
    calls();
    errors();
    faults();
    address_spaces();
    io_map();
    trap_bit();
}
