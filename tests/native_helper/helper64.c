/* SPDX-License-Identifier: MIT */
/* The 64-bit side of tests/native.h; see helper32.c, which this one follows. */
#define NATIVE_HELPER
#include "tests/native.h"

enum {
    SYS_READ = 0,
    SYS_WRITE = 1,
    SYS_MMAP = 9,
    SYS_MUNMAP = 11,
    SYS_RT_SIGACTION = 13,
    SYS_EXIT = 60,
    SYS_SIGALTSTACK = 131,
    SYS_PRCTL = 157
};
enum { PROT_READ_BIT = 1, PROT_WRITE_BIT = 2, PROT_EXEC_BIT = 4, MAP_SHARED_FIXED_POPULATE = 0x8011 };
enum { SIGNAL_ILL = 4, SIGNAL_TRAP = 5, SIGNAL_BUS = 7, SIGNAL_FPE = 8, SIGNAL_SEGV = 11 };
enum {
    ACTION_FLAGS = 0x4 /* SIGINFO */ | 0x04000000 /* RESTORER */ | 0x08000000 /* ONSTACK */ | 0x40000000 /* NODEFER */
};
#define USER_END 0x7ffffffff000l
enum { ABOVE_OWN = 0x60000000, AUXV_HWCAP2 = 26, HWCAP2_FSGSBASE = 2 };

/* The kernel's frame of a 64-bit signal: only what is needed of it. */
struct sigcontext64 {
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
    uint16_t cs, gs, fs, ss;
    uint64_t err, trapno, oldmask, cr2, fpstate;
};
struct ucontext64 {
    uint64_t flags, link;
    uint64_t stack[3];
    struct sigcontext64 mcontext;
};

#define mailbox ((volatile struct native_mailbox *)NATIVE_MAILBOX)

static char signal_stack[32768] __attribute__((aligned(64)));
char own_stack[16384] __attribute__((aligned(64)));

static long system_call(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void leave(int status)
{
    for (;;)
        system_call(SYS_EXIT, status, 0, 0, 0, 0, 0);
}

static void copy(volatile void *to, const volatile void *from, uint64_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

__attribute__((noreturn)) void helper_resume(void);
__attribute__((noreturn)) void helper_enter(void);
__attribute__((noreturn)) void _start(void);

static void on_signal(int number, void *info __attribute__((unused)), struct ucontext64 *context)
{
    const struct sigcontext64 *c = &context->mcontext;
    volatile struct native_result *out = &mailbox->out;
    const uint64_t gpr[16] = {c->rax, c->rcx, c->rdx, c->rbx, c->rsp, c->rbp, c->rsi, c->rdi,
                              c->r8,  c->r9,  c->r10, c->r11, c->r12, c->r13, c->r14, c->r15};
    uint64_t base;

    out->signal = (uint32_t)number;
    out->vector = (uint32_t)c->trapno;
    out->error = (uint32_t)c->err;
    out->cr2 = c->cr2;
    copy(out->state.gpr, gpr, sizeof gpr);
    out->state.rip = c->rip;
    out->state.rflags = c->rflags;
    __asm__ volatile("rdfsbase %0" : "=r"(base));
    out->state.fs_base = base;
    __asm__ volatile("rdgsbase %0" : "=r"(base));
    out->state.gs_base = base;
    copy(out->state.xsave, (const void *)c->fpstate, mailbox->components & 4 ? NATIVE_XSAVE_SIZE : 576);
    helper_resume();
}

static void map(uint64_t at, unsigned pages, unsigned protection, unsigned file_page)
{
    if (system_call(SYS_MMAP, (long)at, (long)pages * NATIVE_PAGE, (long)protection, MAP_SHARED_FIXED_POPULATE, 3,
                    (long)file_page * NATIVE_PAGE) != (long)at)
        leave(2);
}

static void map_at(uint64_t base)
{
    static const uint8_t protection[NATIVE_DATA_PAGES] = NATIVE_DATA_PROTECTION;
    unsigned page = NATIVE_MAILBOX_PAGES;

    map(base + NATIVE_CODE, NATIVE_CODE_PAGES, PROT_READ_BIT | PROT_EXEC_BIT, page);
    page += NATIVE_CODE_PAGES;
    for (unsigned i = 0; i < NATIVE_DATA_PAGES; i++, page++) {
        if (protection[i] == NATIVE_NONE)
            continue;
        map(base + NATIVE_DATA + i * NATIVE_PAGE, 1,
            PROT_READ_BIT | (protection[i] == NATIVE_WRITE ? PROT_WRITE_BIT : 0), page);
        (void)*(volatile uint8_t *)(base + NATIVE_DATA + i * NATIVE_PAGE);
    }
}

static void catch_signals(void)
{
    static const uint8_t signals[] = {SIGNAL_ILL, SIGNAL_TRAP, SIGNAL_BUS, SIGNAL_FPE, SIGNAL_SEGV};
    const uint64_t stack[3] = {(uint64_t)signal_stack, 0, sizeof signal_stack};
    const uint64_t action[4] = {(uint64_t)on_signal, ACTION_FLAGS, (uint64_t)helper_resume, 0};

    if (system_call(SYS_SIGALTSTACK, (long)stack, 0, 0, 0, 0, 0))
        leave(3);
    for (unsigned i = 0; i < sizeof signals; i++)
        if (system_call(SYS_RT_SIGACTION, signals[i], (long)action, 0, 8, 0, 0))
            leave(4);
}

/* Loads the state from the mailbox and goes. Only a signal brings control back. */
__attribute__((noreturn, naked)) void helper_enter(void)
{
    __asm__ volatile("mov %c[components], %%eax\n\t"
                     "xor %%edx, %%edx\n\t"
                     "xrstor %c[xsave]\n\t"
                     "mov %c[rip] + 16, %%rax\n\t"
                     "wrfsbase %%rax\n\t"
                     "mov %c[rip] + 24, %%rax\n\t"
                     "wrgsbase %%rax\n\t"
                     "pushq %c[rip] + 8\n\t"
                     "popfq\n\t"
                     "mov %c[gpr] + 8, %%rcx\n\t"
                     "mov %c[gpr] + 16, %%rdx\n\t"
                     "mov %c[gpr] + 24, %%rbx\n\t"
                     "mov %c[gpr] + 40, %%rbp\n\t"
                     "mov %c[gpr] + 48, %%rsi\n\t"
                     "mov %c[gpr] + 56, %%rdi\n\t"
                     "mov %c[gpr] + 64, %%r8\n\t"
                     "mov %c[gpr] + 72, %%r9\n\t"
                     "mov %c[gpr] + 80, %%r10\n\t"
                     "mov %c[gpr] + 88, %%r11\n\t"
                     "mov %c[gpr] + 96, %%r12\n\t"
                     "mov %c[gpr] + 104, %%r13\n\t"
                     "mov %c[gpr] + 112, %%r14\n\t"
                     "mov %c[gpr] + 120, %%r15\n\t"
                     "mov %c[gpr] + 32, %%rsp\n\t"
                     "mov %c[gpr] + 0, %%rax\n\t"
                     "jmp *%c[rip]"
                     :
                     : [components] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, components)),
                       [xsave] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.xsave)),
                       [gpr] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.gpr)),
                       [rip] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.rip)));
}

__attribute__((noreturn, used)) static void serve(void)
{
    char byte = 1;
    system_call(SYS_WRITE, 1, (long)&byte, 1, 0, 0, 0);
    if (system_call(SYS_READ, 0, (long)&byte, 1, 0, 0, 0) != 1)
        leave(0);
    helper_enter();
}

/* Out of the signal stack: a signal that meets the stack pointer outside of it starts at its top again. */
__attribute__((noreturn, naked)) void helper_resume(void)
{
    __asm__ volatile("mov $own_stack + 16384, %rsp\n\tcall serve");
}

/* May a program write its FS base? The kernel says so in the auxiliary vector, behind the arguments. */
static _Bool bases_writable(const uint64_t *stack)
{
    stack += 1 + *stack + 1; /* argc, argv, NULL */
    while (*stack++)
        ;
    for (; stack[0]; stack += 2)
        if (stack[0] == AUXV_HWCAP2)
            return stack[1] & HWCAP2_FSGSBASE;
    return 0;
}

__attribute__((noreturn, used)) static void begin(const uint64_t *stack)
{
    if (!bases_writable(stack))
        leave(5);
    /* The stack the kernel gave and its vdso: tests must not meet them by accident. */
    system_call(SYS_MUNMAP, ABOVE_OWN, USER_END - ABOVE_OWN, 0, 0, 0, 0);
    map(NATIVE_MAILBOX, NATIVE_MAILBOX_PAGES, PROT_READ_BIT | PROT_WRITE_BIT, 0);
    map_at(0);
    map_at(NATIVE_HIGH);
    catch_signals();
    system_call(SYS_PRCTL, 22 /* PR_SET_SECCOMP */, 1 /* strict */, 0, 0, 0, 0);
    serve();
}

__attribute__((noreturn, naked)) void _start(void)
{
    __asm__ volatile("mov %rsp, %rdi\n\tmov $own_stack + 16384, %rsp\n\tcall begin");
}
