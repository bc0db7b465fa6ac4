/* SPDX-License-Identifier: MIT */
/* The 32-bit side of tests/native.h. Freestanding: no libc, system calls by int 0x80. File 3 is the shared memfd
 * (mailbox, code, data one behind the other), 0 and 1 are the pipes: a byte in means run, a byte out means done. */
#define NATIVE_HELPER
#include "tests/native.h"

enum {
    SYS_EXIT = 1,
    SYS_READ = 3,
    SYS_WRITE = 4,
    SYS_MUNMAP = 91,
    SYS_PRCTL = 172,
    SYS_RT_SIGACTION = 174,
    SYS_SIGALTSTACK = 186,
    SYS_MMAP2 = 192
};
enum { PROT_READ_BIT = 1, PROT_WRITE_BIT = 2, PROT_EXEC_BIT = 4, MAP_SHARED_FIXED_POPULATE = 0x8011 };
enum { SIGNAL_ILL = 4, SIGNAL_TRAP = 5, SIGNAL_BUS = 7, SIGNAL_FPE = 8, SIGNAL_SEGV = 11 };
enum { ACTION_FLAGS = 0x4 /* SIGINFO */ | 0x08000000 /* ONSTACK */ | 0x40000000 /* NODEFER */ };

/* The kernel's frame of a 32-bit signal: only what is needed of it. */
struct sigcontext32 {
    uint32_t gs, fs, es, ds;
    uint32_t edi, esi, ebp, esp, ebx, edx, ecx, eax;
    uint32_t trapno, err, rip, cs, flags, sp_at_signal, ss;
    uint32_t fpstate, oldmask, cr2;
};
struct ucontext32 {
    uint32_t flags, link;
    uint32_t stack[3];
    struct sigcontext32 mcontext;
};
enum { FPSTATE_LEGACY = 112 }; /* bytes of the old format in front of the FXSAVE image */

#define mailbox ((volatile struct native_mailbox *)NATIVE_MAILBOX)

static char signal_stack[32768] __attribute__((aligned(64)));
char own_stack[16384] __attribute__((aligned(64)));
uint32_t helper_stack;

static long system_call(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    __asm__ volatile("pushl %[f]\n\tpushl %%ebp\n\tmov 4(%%esp), %%ebp\n\tint $0x80\n\tpop %%ebp\n\tadd $4, %%esp"
                     : "=a"(result)
                     : "a"(n), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "m"(f)
                     : "memory");
    return result;
}

static void leave(int status)
{
    for (;;)
        system_call(SYS_EXIT, status, 0, 0, 0, 0, 0);
}

static void copy(volatile void *to, const volatile void *from, unsigned n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* Back to the loop with its own stack; the frame of the signal is simply left behind. */
__attribute__((noreturn)) void helper_resume(void);
__attribute__((noreturn)) void helper_enter(void);
__attribute__((noreturn)) void _start(void);

static void on_signal(int number, void *info __attribute__((unused)), struct ucontext32 *context)
{
    const struct sigcontext32 *c = &context->mcontext;
    volatile struct native_result *out = &mailbox->out;

    out->signal = (uint32_t)number;
    out->vector = c->trapno;
    out->error = c->err;
    out->cr2 = c->cr2;
    out->state.gpr[0] = c->eax;
    out->state.gpr[1] = c->ecx;
    out->state.gpr[2] = c->edx;
    out->state.gpr[3] = c->ebx;
    out->state.gpr[4] = c->esp;
    out->state.gpr[5] = c->ebp;
    out->state.gpr[6] = c->esi;
    out->state.gpr[7] = c->edi;
    out->state.rip = c->rip;
    out->state.rflags = c->flags;
    copy(out->state.xsave, (const void *)(c->fpstate + FPSTATE_LEGACY),
         mailbox->components & 4 ? NATIVE_XSAVE_SIZE : 576);
    helper_resume();
}

static void map(uint32_t at, unsigned pages, unsigned protection, unsigned file_page)
{
    if (system_call(SYS_MMAP2, (long)at, (long)pages * NATIVE_PAGE, (long)protection, MAP_SHARED_FIXED_POPULATE, 3,
                    (long)file_page) != (long)at)
        leave(2);
}

static void map_all(void)
{
    static const uint8_t protection[NATIVE_DATA_PAGES] = NATIVE_DATA_PROTECTION;
    unsigned page = 0;

    map(NATIVE_MAILBOX, NATIVE_MAILBOX_PAGES, PROT_READ_BIT | PROT_WRITE_BIT, page);
    page += NATIVE_MAILBOX_PAGES;
    map(NATIVE_CODE, NATIVE_CODE_PAGES, PROT_READ_BIT | PROT_EXEC_BIT, page);
    page += NATIVE_CODE_PAGES;
    for (unsigned i = 0; i < NATIVE_DATA_PAGES; i++, page++) {
        if (protection[i] == NATIVE_NONE)
            continue;
        map(NATIVE_DATA + i * NATIVE_PAGE, 1, PROT_READ_BIT | (protection[i] == NATIVE_WRITE ? PROT_WRITE_BIT : 0),
            page);
        (void)*(volatile uint8_t *)(NATIVE_DATA + i * NATIVE_PAGE);
    }
}

static void catch_signals(void)
{
    static const uint8_t signals[] = {SIGNAL_ILL, SIGNAL_TRAP, SIGNAL_BUS, SIGNAL_FPE, SIGNAL_SEGV};
    const uint32_t stack[3] = {(uint32_t)signal_stack, 0, sizeof signal_stack};
    const uint32_t action[5] = {(uint32_t)on_signal, ACTION_FLAGS, 0, 0, 0};

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
                     "pushl %c[rflags]\n\t"
                     "popfl\n\t"
                     "mov %c[gpr] + 8, %%ecx\n\t"
                     "mov %c[gpr] + 16, %%edx\n\t"
                     "mov %c[gpr] + 24, %%ebx\n\t"
                     "mov %c[gpr] + 40, %%ebp\n\t"
                     "mov %c[gpr] + 48, %%esi\n\t"
                     "mov %c[gpr] + 56, %%edi\n\t"
                     "mov %c[gpr] + 32, %%esp\n\t"
                     "mov %c[gpr] + 0, %%eax\n\t"
                     "jmp *%c[rip]"
                     :
                     : [components] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, components)),
                       [xsave] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.xsave)),
                       [gpr] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.gpr)),
                       [rip] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.rip)),
                       [rflags] "i"(NATIVE_MAILBOX + __builtin_offsetof(struct native_mailbox, in.rflags)));
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
    __asm__ volatile("mov helper_stack, %esp\n\tjmp serve");
}

__attribute__((noreturn, used)) static void begin(void)
{
    /* The stack the kernel gave and its vdso: tests must not meet them by accident. */
    system_call(SYS_MUNMAP, (long)0x80000000, 0x7fffe000, 0, 0, 0, 0);
    map_all();
    catch_signals();
    system_call(SYS_PRCTL, 22 /* PR_SET_SECCOMP */, 1 /* strict */, 0, 0, 0, 0);
    serve();
}

__attribute__((noreturn, naked)) void _start(void)
{
    __asm__ volatile("mov $own_stack + 16384, %esp\n\tmov %esp, helper_stack\n\tcall begin");
}
