/* SPDX-License-Identifier: MIT */
/* What single privileged operations cost, after Adams and Agesen's nanobenchmarks (ASPLOS 2006, section 6.3), in cycles
 * of the time stamp counter. Prints "nano NAME CYCLES" for each; each number is the median of several rounds, without
 * the cost of the empty loop. The findings only say that the operations did what they should. */
#ifdef __x86_64__ /* as long/nano64.c */
#include "lib64/guest.h"
#define AX "%%rax"
#define BX "%%rbx"
#define DI "%%rdi"
#define ENTRY "8"
#define LOST , "r8", "r9", "r10", "r11"
#else
#include "lib/guest.h"
#define AX "%%eax"
#define BX "%%ebx"
#define DI "%%edi"
#define ENTRY "4" /* bytes of a page table entry */
#define LOST
#endif

/* Macros, because the assembler gets them as text. */
#define WINDOW 0x40000000
#define PAGES 256
enum { ROUNDS = 7, MMIO = 0xb8000 };

static word_t top_table, *window_entries;
extern word_t swap_bits; /* named in asm text */
word_t swap_bits;

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

/* Times a loop of COUNT turns of asm text; BX, DI and the flags belong to the text, eax to edx (and r8 to r11) too. */
#define TIMED_LOOP(count, text, b, d)                                                                                  \
    ({                                                                                                                 \
        uint32_t before_ = cycles();                                                                                   \
        word_t turns_ = (count), b_ = (b), d_ = (d);                                                                   \
        __asm__ volatile(".p2align 4\n 1: " text "\n dec %0\n jnz 1b"                                                  \
                         : "+S"(turns_), "+b"(b_), "+D"(d_)::"eax", "ecx", "edx", "memory", "cc" LOST);                \
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
extern char handler_fault[], handler_divide[], handler_return[], handler_tick[], handler_call[], subroutine[];
extern volatile uint32_t fault_count, divide_count, tick_count; /* named in the handlers */
volatile uint32_t fault_count, divide_count, tick_count;
#ifdef __x86_64__
__asm__(".text\n .p2align 4\n"
        "handler_fault: incl fault_count\n add $8, %rsp\n mov %rbx, (%rsp)\n iretq\n .p2align 4\n"
        "handler_divide: incl divide_count\n mov %rbx, (%rsp)\n iretq\n .p2align 4\n"
        "handler_return: iretq\n .p2align 4\n"
        "handler_tick: push %rax\n incl tick_count\n mov $0x20, %al\n out %al, $0x20\n pop %rax\n iretq\n .p2align 4\n"
        "handler_call: sysretq\n .p2align 4\n"
        "subroutine: ret\n");
#else
__asm__(".text\n .p2align 4\n"
        "handler_fault: incl fault_count\n add $4, %esp\n mov %ebx, (%esp)\n iret\n .p2align 4\n"
        "handler_divide: incl divide_count\n mov %ebx, (%esp)\n iret\n .p2align 4\n"
        "handler_return: iret\n .p2align 4\n"
        "handler_tick: push %eax\n incl tick_count\n mov $0x20, %al\n out %al, $0x20\n pop %eax\n iret\n .p2align 4\n"
        "handler_call: sysexit\n .p2align 4\n" /* the caller put the way back into ecx and edx */
        "subroutine: ret\n");
#endif

static void set_gate(unsigned vector, const void *handler, unsigned access)
{
    idt[vector] = gate(SEL_CODE, (word_t)handler, access, 0);
}

/* Ports, registers, flags. */
static void simple(void)
{
    MEASURE("in", 20000, 1, "inb $0x80, %%al", 0, 0);
    MEASURE("in-pit", 10000, 1, "inb $0x40, %%al", 0, 0);
    MEASURE("out", 20000, 1, "outb %%al, $0x80", 0, 0);
    MEASURE("clts", 20000, 4, FOUR("clts"), 0, 0);
    MEASURE("mov-to-cr0", 20000, 1, "mov " DI ", %%cr0", 0, read_cr0());
    MEASURE("mov-from-cr0", 20000, 4, FOUR("mov %%cr0, " AX), 0, 0);
    MEASURE("call-ret", 40000, 4, FOUR("call subroutine"), 0, 0);
    MEASURE("cli-sti", 40000, 4, FOUR("cli\n sti"), 0, 0);
    __asm__ volatile("cli" ::: "memory");
    MEASURE("pushf-popf", 40000, 4, FOUR("pushf\n popf"), 0, 0);
    MEASURE("cpuid", 2000, 1, "push " BX "\n xor %%eax, %%eax\n cpuid\n pop " BX, 0, 0);
    MEASURE("rdtsc", 20000, 4, FOUR("rdtsc"), 0, 0);
#ifdef __x86_64__
    MEASURE("mov-to-cr8", 20000, 1, "mov " DI ", %%cr8", 0, 0);
    MEASURE("mov-from-cr8", 20000, 4, FOUR("mov %%cr8, " AX), 0, 0);
    MEASURE("swapgs", 20000, 4, FOUR("swapgs"), 0, 0);
    MEASURE("wrmsr-fs-base", 10000, 1, "mov $0xc0000100, %%ecx\n xor %%eax, %%eax\n xor %%edx, %%edx\n wrmsr", 0, 0);
    MEASURE("rdmsr-fs-base", 10000, 1, "mov $0xc0000100, %%ecx\n rdmsr", 0, 0);
#endif
}

/* Exceptions and software interrupts. */
static void traps(void)
{
    set_gate(PF, handler_fault, 0x8e);
    set_gate(DE, handler_divide, 0x8e);
    set_gate(0x81, handler_return, 0xee);
    uint32_t faults = fault_count, divides = divide_count;
    /* The page behind the window's last one is never present. */
    MEASURE("page-fault", 2000, 1, "mov $2f, %%ebx\n mov (" DI "), %%eax\n 2:", 0, WINDOW + PAGES * 4096);
    check_equal("every page fault arrived", fault_count - faults, ROUNDS * 2000);
    MEASURE("divide-error", 2000, 1, "mov $2f, %%ebx\n xor %%ecx, %%ecx\n div %%ecx\n 2:", 0, 0);
    check_equal("every divide error arrived", divide_count - divides, ROUNDS * 2000);
    MEASURE("int-iret", 5000, 1, "int $0x81", 0, 0);
}

/* Page table modification: alone, with INVLPG, with INVLPG and an access. Pages swap their frames. */
static void page_tables(void)
{
    word_t frame[2] = {(word_t)page_alloc() | PTE_P | PTE_W | PTE_A | PTE_D,
                       (word_t)page_alloc() | PTE_P | PTE_W | PTE_A | PTE_D};
    word_t swap = frame[0] ^ frame[1], base = (word_t)window_entries;
    for (unsigned i = 0; i < PAGES; i++)
        window_entries[i] = frame[i & 1];
    write_cr3(read_cr3());
    for (unsigned i = 0; i < PAGES; i++)
        (void)*(volatile uint32_t *)((word_t)WINDOW + i * 4096);
        /* BX walks over the entries, DI over the pages. */
#define NEXT                                                                                                           \
    "\n add $" ENTRY ", " BX "\n add $4096, " DI                                                                       \
    "\n cmp $" TEXT(WINDOW) " + " TEXT(PAGES) " * 4096, " DI "\n jne 2f\n"                                             \
                                              " sub $" TEXT(PAGES) " * " ENTRY ", " BX "\n mov $" TEXT(WINDOW) ", " DI \
                                                                                                               "\n 2:"
#define SWAP "mov swap_bits, " AX "\n xor " AX ", (" BX ")"
    swap_bits = swap;
    MEASURE("ptemod", 5120, 1, SWAP NEXT, base, WINDOW);
    MEASURE("ptemod-invlpg", 5120, 1, SWAP "\n invlpg (" DI ")" NEXT, base, WINDOW);
    MEASURE("ptemod-access", 5120, 1, SWAP "\n invlpg (" DI ")\n mov (" DI "), %%eax" NEXT, base, WINDOW);
    MEASURE("invlpg", 5120, 1, "invlpg (" DI ")", 0, WINDOW);
    MEASURE("cr3-reload", 2000, 1, "mov " DI ", %%cr3", 0, top_table);
    MEASURE("cr3-reload-access", 2000, 1,
            "mov " DI ", %%cr3\n mov " TEXT(WINDOW) ", %%eax\n mov " TEXT(WINDOW) " + 4096, %%eax\n mov " TEXT(
                WINDOW) " + 8192, %%eax",
            0, top_table);
    /* The pages are what their entries say. */
    *(volatile uint32_t *)(frame[0] & ~(word_t)0xfff) = 0x1111;
    *(volatile uint32_t *)(frame[1] & ~(word_t)0xfff) = 0x2222;
    unsigned right = 0;
    for (unsigned i = 0; i < PAGES; i++) {
        invlpg((word_t)WINDOW + i * 4096);
        right += *(volatile uint32_t *)((word_t)WINDOW + i * 4096) ==
                 (window_entries[i] >> 12 == frame[0] >> 12 ? 0x1111 : 0x2222);
    }
    check_equal("every page is where its entry says", right, PAGES);
    MEASURE("mmio-read", 10000, 1, "movb (" DI "), %%al", 0, MMIO);
}

/* Ring 3 to ring 0 and back. */
static uint32_t user_cycles[ROUNDS];

#ifdef __x86_64__
#define CALL "syscall"
#define CALL_NAME "syscall-sysret"
static bool call_init(void)
{
    write_msr(MSR_STAR, (uint64_t)SEL_USER_CODE32 << 48 | (uint64_t)SEL_CODE << 32);
    write_msr(MSR_LSTAR, (uint64_t)handler_call);
    write_msr(MSR_SFMASK, 0x200);
    return true;
}
#else
#define CALL "push %%ebp\n mov %%esp, %%ecx\n mov $2f, %%edx\n sysenter\n 2: pop %%ebp"
#define CALL_NAME "sysenter-sysexit"
static bool call_init(void)
{
    extern char trap_stack_top[];
    uint32_t r[4];
    cpuid(1, 0, r);
    write_msr(0x174, SEL_CODE);
    write_msr(0x175, (uint32_t)trap_stack_top);
    write_msr(0x176, (uint32_t)handler_call);
    return r[3] >> 11 & 1;
}
#endif

static void user_system_call(void *arg)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        user_cycles[i] = TIMED_LOOP(5000, CALL, 0, 0);
}
static void user_interrupt(void *arg)
{
    for (unsigned i = 0; i < ROUNDS; i++)
        user_cycles[i] = TIMED_LOOP(5000, "int $0x81", 0, 0);
}
static void rings(void)
{
    if (call_init()) {
        check_equal(CALL_NAME, (word_t)user_call(user_system_call, NULL), (word_t)NO_TRAP);
        report(CALL_NAME, median(user_cycles, ROUNDS) / (5000 / 10));
    }
    check_equal("int and iret from ring 3", (word_t)user_call(user_interrupt, NULL), (word_t)NO_TRAP);
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
    MEASURE("smc-store-run", 1000, 1, "incl 1(" DI ")\n call *" DI, 0, (word_t)code);
    MEASURE("store-beside-code", 5000, 1, "incl 2048(" DI ")\n call *" DI, 0, (word_t)code);
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

#ifdef __x86_64__
static void tables(void)
{
    *page_entry(WINDOW, 2) = (word_t)page_alloc() | PTE_P | PTE_W;
    top_table = read_cr3();
    window_entries = page_entry(WINDOW, 1);
    write_cr3(top_table);
}
#else
static void tables(void)
{
    uint32_t *directory = paging_identity(16);
    window_entries = (word_t *)paging_entry(directory, WINDOW);
    for (uint32_t a = MMIO; a < MMIO + 0x8000; a += 4096)
        *paging_entry(directory, a) = a | PTE_P | PTE_W | PTE_PCD;
    paging_on(directory);
    top_table = (uint32_t)directory;
}
#endif

void guest_main(void)
{
    tables();
    simple();
    traps();
    page_tables();
    rings();
    self_modifying();
    timer();
    check(tick_count >= 41, "the timer ticks", "%u", tick_count);
}
