/* SPDX-License-Identifier: MIT */
/* What single privileged operations cost, after Adams and Agesen's nanobenchmarks (ASPLOS 2006, section 6.3), in cycles
 * of the time stamp counter. Prints "nano NAME CYCLES" for each; each number is the median of several rounds, without
 * the cost of the empty loop. The findings only say that the operations did what they should. */
#include "lib/guest.h"

/* Macros, because the assembler gets them as text. */
#define WINDOW 0x40000000
#define PAGES 256
enum { ROUNDS = 7, MMIO = 0xb8000 };

static uint32_t *directory, *window_entries;
extern uint32_t swap_bits; /* named in asm text */
uint32_t swap_bits;

static void report(const char *name, uint32_t tenths)
{
    printf("nano %s %u.%u\n", name, tenths / 10, tenths % 10);
}

static uint32_t median(uint32_t *v, unsigned n)
{
    for (unsigned i = 1; i < n; i++)
        for (unsigned k = i; k && v[k - 1] > v[k]; k--) {
            uint32_t t = v[k];
            v[k] = v[k - 1];
            v[k - 1] = t;
        }
    return v[n / 2];
}

/* The low halves are enough: no loop takes a second. */
static inline uint32_t cycles(void)
{
    uint32_t low;
    __asm__ volatile("rdtsc" : "=a"(low)::"edx", "memory");
    return low;
}

#define TEXT_2(x) #x
#define TEXT(x) TEXT_2(x)

/* Times a loop of COUNT turns of asm text; ebx, edi and the flags belong to the text, eax to edx too. */
#define TIMED_LOOP(count, text, b, d)                                                                                  \
    ({                                                                                                                 \
        uint32_t before_ = cycles(), turns_ = (count), b_ = (b), d_ = (d);                                             \
        __asm__ volatile(".p2align 4\n 1: " text "\n dec %0\n jnz 1b"                                                  \
                         : "+S"(turns_), "+b"(b_), "+D"(d_)::"eax", "ecx", "edx", "memory", "cc");                     \
        cycles() - before_;                                                                                            \
    })

/* In tenths of cycles for one operation; the text holds `each` of them. */
#define MEASURE(name, count, each, text, b, d)                                                                         \
    do {                                                                                                               \
        uint32_t v_[ROUNDS], empty_[ROUNDS];                                                                           \
        for (unsigned i_ = 0; i_ < ROUNDS; i_++) {                                                                     \
            empty_[i_] = TIMED_LOOP(count, "", b, d);                                                                  \
            v_[i_] = TIMED_LOOP(count, text, b, d);                                                                    \
        }                                                                                                              \
        uint32_t all_ = median(v_, ROUNDS), none_ = median(empty_, ROUNDS);                                            \
        report(name, all_ > none_ ? (all_ - none_) / (((count) * (each)) / 10) : 0);                                   \
    } while (0)

#define FOUR(text) text "\n" text "\n" text "\n" text "\n"

/* Handlers: the address to go on at is in ebx. */
extern char handler_fault[], handler_divide[], handler_return[], handler_tick[], handler_sysenter[], subroutine[];
extern volatile uint32_t fault_count, divide_count, tick_count; /* named in the handlers */
volatile uint32_t fault_count, divide_count, tick_count;
__asm__(".text\n .p2align 4\n"
        "handler_fault: incl fault_count\n add $4, %esp\n mov %ebx, (%esp)\n iret\n .p2align 4\n"
        "handler_divide: incl divide_count\n mov %ebx, (%esp)\n iret\n .p2align 4\n"
        "handler_return: iret\n .p2align 4\n"
        "handler_tick: push %eax\n incl tick_count\n mov $0x20, %al\n out %al, $0x20\n pop %eax\n iret\n .p2align 4\n"
        "handler_sysenter: sysexit\n .p2align 4\n" /* the caller put the way back into ecx and edx */
        "subroutine: ret\n");

static void set_gate(unsigned vector, const void *handler, unsigned access)
{
    idt[vector] = gate(SEL_CODE, (uint32_t)handler, access, 0);
}

/* Ports, registers, flags. */
static void simple(void)
{
    MEASURE("in", 20000, 1, "inb $0x80, %%al", 0, 0);
    MEASURE("in-pit", 10000, 1, "inb $0x40, %%al", 0, 0);
    MEASURE("out", 20000, 1, "outb %%al, $0x80", 0, 0);
    MEASURE("clts", 20000, 4, FOUR("clts"), 0, 0);
    MEASURE("mov-to-cr0", 20000, 1, "mov %%edi, %%cr0", 0, read_cr0());
    MEASURE("mov-from-cr0", 20000, 4, FOUR("mov %%cr0, %%eax"), 0, 0);
    MEASURE("call-ret", 40000, 4, FOUR("call subroutine"), 0, 0);
    MEASURE("cli-sti", 40000, 4, FOUR("cli\n sti"), 0, 0);
    __asm__ volatile("cli" ::: "memory");
    MEASURE("pushf-popf", 40000, 4, FOUR("pushf\n popf"), 0, 0);
    MEASURE("cpuid", 2000, 1, "push %%ebx\n xor %%eax, %%eax\n cpuid\n pop %%ebx", 0, 0);
    MEASURE("rdtsc", 20000, 4, FOUR("rdtsc"), 0, 0);
}

/* Exceptions and software interrupts. */
static void traps(void)
{
    set_gate(PF, handler_fault, 0x8e);
    set_gate(DE, handler_divide, 0x8e);
    set_gate(0x81, handler_return, 0xee);
    uint32_t faults = fault_count, divides = divide_count;
    /* The page behind the window's last one is never present. */
    MEASURE("page-fault", 2000, 1, "mov $2f, %%ebx\n mov (%%edi), %%eax\n 2:", 0, WINDOW + PAGES * 4096);
    check_equal("every page fault arrived", fault_count - faults, ROUNDS * 2000);
    MEASURE("divide-error", 2000, 1, "mov $2f, %%ebx\n xor %%ecx, %%ecx\n div %%ecx\n 2:", 0, 0);
    check_equal("every divide error arrived", divide_count - divides, ROUNDS * 2000);
    MEASURE("int-iret", 5000, 1, "int $0x81", 0, 0);
}

/* Page table modification: alone, with INVLPG, with INVLPG and an access. Pages swap their frames. */
static void page_tables(void)
{
    uint32_t frame[2] = {(uint32_t)page_alloc() | PTE_P | PTE_W | PTE_A | PTE_D,
                         (uint32_t)page_alloc() | PTE_P | PTE_W | PTE_A | PTE_D};
    uint32_t swap = frame[0] ^ frame[1], base = (uint32_t)window_entries;
    for (unsigned i = 0; i < PAGES; i++)
        window_entries[i] = frame[i & 1];
    write_cr3(read_cr3());
    for (unsigned i = 0; i < PAGES; i++)
        (void)*(volatile uint32_t *)(WINDOW + i * 4096);
        /* ebx walks over the entries, edi over the pages. */
#define NEXT                                                                                                           \
    "\n add $4, %%ebx\n add $4096, %%edi\n cmp $" TEXT(WINDOW) " + " TEXT(                                             \
        PAGES) " * 4096, %%edi\n jne 2f\n"                                                                             \
               " sub $" TEXT(PAGES) " * 4, %%ebx\n mov $" TEXT(WINDOW) ", %%edi\n 2:"
    swap_bits = swap;
    MEASURE("ptemod", 5120, 1, "mov swap_bits, %%eax\n xor %%eax, (%%ebx)" NEXT, base, WINDOW);
    MEASURE("ptemod-invlpg", 5120, 1, "mov swap_bits, %%eax\n xor %%eax, (%%ebx)\n invlpg (%%edi)" NEXT, base, WINDOW);
    MEASURE("ptemod-access", 5120, 1,
            "mov swap_bits, %%eax\n xor %%eax, (%%ebx)\n invlpg (%%edi)\n mov (%%edi), %%eax" NEXT, base, WINDOW);
    MEASURE("invlpg", 5120, 1, "invlpg (%%edi)", 0, WINDOW);
    MEASURE("cr3-reload", 2000, 1, "mov %%edi, %%cr3", 0, (uint32_t)directory);
    MEASURE("cr3-reload-access", 2000, 1,
            "mov %%edi, %%cr3\n mov " TEXT(WINDOW) ", %%eax\n mov " TEXT(WINDOW) " + 4096, %%eax\n mov " TEXT(
                WINDOW) " + 8192, %%eax",
            0, (uint32_t)directory);
    /* The pages are what their entries say. */
    *(volatile uint32_t *)(frame[0] & ~0xfffu) = 0x1111;
    *(volatile uint32_t *)(frame[1] & ~0xfffu) = 0x2222;
    unsigned right = 0;
    for (unsigned i = 0; i < PAGES; i++) {
        invlpg(WINDOW + i * 4096);
        right += *(volatile uint32_t *)(WINDOW + i * 4096) ==
                 ((window_entries[i] & ~0xfffu) == (frame[0] & ~0xfffu) ? 0x1111 : 0x2222);
    }
    check_equal("every page is where its entry says", right, PAGES);
    MEASURE("mmio-read", 10000, 1, "movb (%%edi), %%al", 0, MMIO);
}

/* Ring 3 to ring 0 and back. */
static uint32_t user_cycles[ROUNDS];

static void user_sysenter(void *arg)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        user_cycles[i] =
            TIMED_LOOP(5000, "push %%ebp\n mov %%esp, %%ecx\n mov $2f, %%edx\n sysenter\n 2: pop %%ebp", 0, 0);
}
static void user_interrupt(void *arg)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        user_cycles[i] = TIMED_LOOP(5000, "int $0x81", 0, 0);
}
static void rings(void)
{
    extern char trap_stack_top[];
    uint32_t r[4];
    cpuid(1, 0, r);
    if (r[3] >> 11 & 1) {
        write_msr(0x174, SEL_CODE);
        write_msr(0x175, (uint32_t)trap_stack_top);
        write_msr(0x176, (uint32_t)handler_sysenter);
        check_equal("sysenter and sysexit", user_call(user_sysenter, NULL), NO_TRAP);
        report("sysenter-sysexit", median(user_cycles, ROUNDS) / (5000 / 10));
    }
    check_equal("int and iret from ring 3", user_call(user_interrupt, NULL), NO_TRAP);
    report("int-iret-user", median(user_cycles, ROUNDS) / (5000 / 10));
}

/* Self-modifying code: a store to a page that holds code, and one that changes code which then runs. */
static void self_modifying(void)
{
    uint8_t *code = page_alloc();
    code[0] = 0xb8; /* mov $imm, %eax; ret */
    memcpy(code + 1, "\0\0\0\0\xc3", 5);
    uint32_t v, wrong = 0;
    __asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
    for (uint32_t i = 1; i < 100; i++) {
        *(volatile uint32_t *)(code + 1) = i;
        __asm__ volatile("call *%1" : "=a"(v) : "r"(code) : "memory");
        wrong += v != i;
    }
    check_equal("the changed code runs", wrong, 0);
    MEASURE("smc-store-run", 1000, 1, "incl 1(%%edi)\n call *%%edi", 0, (uint32_t)code);
    MEASURE("store-beside-code", 5000, 1, "incl 2048(%%edi)\n call *%%edi", 0, (uint32_t)code);
}

/* A timer interrupt as the interrupted loop sees it: the gap between two readings around a tick, less the usual one.
 * The tick may come on either side of where the loop looks at the counter, so the larger of two gaps is it. */
static void timer(void)
{
    enum { TICKS = 41 };
    uint32_t gaps[TICKS], usual = ~0u, n = 0;
    set_gate(0x20, handler_tick, 0x8e);
    pit_start(1193);
    pic_unmask(0);
    __asm__ volatile("sti" ::: "memory");
    uint32_t last = cycles(), before = 0, ticks = tick_count;
    for (bool ticked = false; n < TICKS;) {
        uint32_t now = cycles(), gap = now - last, t = tick_count;
        if (ticked)
            gaps[n++] = gap > before ? gap : before;
        else if (t == ticks && gap < usual)
            usual = gap;
        ticked = t != ticks;
        ticks = t;
        before = gap;
        last = now;
    }
    __asm__ volatile("cli" ::: "memory");
    pic_mask_all();
    uint32_t cost = median(gaps, TICKS);
    report("timer-interrupt", cost > usual ? (cost - usual) * 10 : 0);
}

void guest_main(void)
{
    directory = paging_identity(16);
    window_entries = paging_entry(directory, WINDOW);
    for (uint32_t a = MMIO; a < MMIO + 0x8000; a += 4096)
        *paging_entry(directory, a) = a | PTE_P | PTE_W | PTE_PCD;
    paging_on(directory);
    simple();
    traps();
    page_tables();
    rings();
    self_modifying();
    timer();
    check(tick_count >= 41, "the timer ticks", "%u", tick_count);
}
