/* SPDX-License-Identifier: MIT */
/* Indirect jumps, calls and returns all over the address space: between more regions of 4 GiB than anybody has places
 * for, in both halves; to addresses that are not canonical, which fault at the branch (SDM vol. 2, CALL, JMP, RET); to
 * code that is written, mapped elsewhere, or gone. In ring 0 and ring 3. */
#include "lib64/guest.h"

#define REGION (1ul << 32)
enum { PAGE = 4096, MANY = 24, FEW = 5, ROUNDS = 3 };

typedef int caller(void (*fn)(void *), void *arg);

static uint8_t *frame[MANY];
static uint64_t value;

static void map(uint64_t address, const void *to)
{
    *page_entry(address, 1) = (uint64_t)to | PTE_P | PTE_W | PTE_U;
    for (unsigned level = 2; level <= 4; level++)
        *page_entry(address, level) |= PTE_U;
    invlpg(address);
}

/* Every third one is in the upper half. They have the same low 32 bits. */
static uint64_t address_of(unsigned i)
{
    uint64_t base = i % 3 == 2 ? 0xffff900000000000ul : 0x10000000000ul;
    return base + i * 5 * REGION + 37 * PAGE;
}

/* adc $number, %rax ; call *%rdx ; stc ; ret, or for odd ones: ret $16 */
static uint64_t write_adder(unsigned i, uint32_t number)
{
    static const uint8_t code[] = {0x48, 0x15, 0, 0, 0, 0, 0xff, 0xd2, 0xf9, 0xc3};
    static const uint8_t ret_16[] = {0xc2, 16, 0};
    uint8_t *at = frame[i] + 24;
    memcpy(at, code, sizeof code);
    memcpy(at + 2, &number, sizeof number);
    if (i & 1)
        memcpy(at + sizeof code - 1, ret_16, sizeof ret_16);
    return address_of(i) + 24;
}

/* RDI: addresses of adders, up to 0. Carry goes into each call and comes back. */
#define RUNNER(name, before, branch, after)                                                                            \
    static void __attribute__((naked)) name(void *a)                                                                   \
    {                                                                                                                  \
        __asm__("mov %rdi, %rbx; lea 9f(%rip), %rdx; xor %eax, %eax; mov %rsp, %rbp;"                                  \
                "1: mov (%rbx), %rcx; jrcxz 2f; push %rax; push %rax; lea 3f(%rip), %rsi; " before "stc; " branch      \
                " 3: " after "adc $0, %rax; mov %rbp, %rsp; lea 8(%rbx), %rbx; jmp 1b;"                                \
                "2: mov %rax, value; ret;"                                                                             \
                "9: lea 1(%rax,%rax), %rax; ret");                                                                     \
    }
RUNNER(call_register, "", "call *%rcx;", "")
RUNNER(call_memory, "", "call *(%rbx);", "")
RUNNER(jump_register, "push %rsi; ", "jmp *%rcx;", "")
RUNNER(jump_memory, "push %rsi; ", "jmp *(%rbx);", "")
RUNNER(return_to, "push %rsi; push %rcx; ", "ret;", "")
RUNNER(return_far_up, "push %rsi; push %rax; push %rcx; ", "ret $8;", "")
RUNNER(call_r13, "mov %rcx, %r13; ", "call *%r13;", "")
RUNNER(call_indexed, "mov $-1, %r12d; movslq %r12d, %r12; lea 8(%rbx), %r14; ", "call *(%r14,%r12,8);", "")
RUNNER(call_backwards, "std; ", "call *%rcx;", "cld; ") /* another mode of the CPU */

static void (*const runners[])(void *) = {call_register, call_memory, jump_register, jump_memory,   return_to,
                                          return_far_up, call_r13,    call_indexed,  call_backwards};
enum { RUNNERS = sizeof runners / sizeof runners[0] };

/* What adders of these numbers, each 1 more by its carry, the doubling and the carry that comes back make. */
static uint64_t sum(const uint32_t *numbers, unsigned count)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < count; i++)
        n = 2 * (n + numbers[i] + 1) + 2;
    return n;
}

static void regions(const char *name, caller *call, unsigned count)
{
    uint64_t targets[MANY + 1] = {0};
    uint32_t numbers[MANY];
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < count; i++) {
            numbers[i] = 100 * i + round;
            targets[i] = write_adder(i, numbers[i]);
        }
        for (unsigned r = 0; r < 2 * RUNNERS; r++) {
            value = 0;
            int got = call(runners[r / 2], targets);
            tally(got == NO_TRAP && value == sum(numbers, count), name, "round %u way %u: #%d %lx", round, r, got,
                  value);
        }
    }
    tally_end(name);
}

/* ---- not canonical ---- */

/* R15: RSP as it must be in the fault's frame. RDI: the target. */
static void __attribute__((naked)) bad_return(void *a)
{
    __asm__("push %rdi; mov %rsp, %r15; " AT_HERE "ret");
}
static void __attribute__((naked)) bad_return_16(void *a)
{
    __asm__("push %rdi; mov %rsp, %r15; " AT_HERE "ret $16");
}
static void __attribute__((naked)) bad_call(void *a)
{
    __asm__("mov %rsp, %r15; " AT_HERE "call *%rdi; ret");
}
static void __attribute__((naked)) bad_call_memory(void *a)
{
    __asm__("push %rdi; mov %rsp, %rbx; lea -64(%rsp), %rsp; mov %rsp, %r15; " AT_HERE "call *(%rbx); ret");
}
static void __attribute__((naked)) bad_jump(void *a)
{
    __asm__("mov %rdi, %r12; mov %rsp, %r15; " AT_HERE "jmp *%r12");
}
static void __attribute__((naked)) bad_jump_memory(void *a)
{
    __asm__("push %rdi; mov %rsp, %r15; " AT_HERE "jmp *(%rsp)");
}

static void not_canonical(const char *name, caller *call)
{
    static void (*const ways[])(void *) = {bad_return,      bad_return_16, bad_call,
                                           bad_call_memory, bad_jump,      bad_jump_memory};
    for (unsigned bit = 47; bit < 64; bit++)
        for (unsigned kind = 0; kind < 4; kind++)
            for (unsigned w = 0; w < sizeof ways / sizeof ways[0]; w++) {
                uint64_t bad = kind == 0   ? (1ul << bit) + 0x12340
                               : kind == 1 ? ~(1ul << bit) - 0x56780
                               : kind == 2 ? -(1ul << bit) + 0x7f1234567890
                                           : -(1ul << bit) + 0x7e000000 + 0x1000;
                if ((uint64_t)((int64_t)(bad << 16) >> 16) == bad)
                    continue;
                trap_expected_rip = 0;
                int got = call(ways[w], (void *)bad);
                bool stack = trap.rsp == trap.r15;
                tally(trap_is(got, GP, 0) && stack, name, "%lx way %u: #%d error %lx rip %lx rsp %lx, not %lx", bad, w,
                      got, trap.error, trap.rip, trap.rsp, trap.r15);
            }
    tally_end(name);
}

/* ---- code that changes ---- */

/* mov $number, %eax ; mov %rax, (%rdi) ; ret */
static void write_number(uint8_t *at, uint32_t number)
{
    static const uint8_t code[] = {0xb8, 0, 0, 0, 0, 0x48, 0x89, 0x07, 0xc3};
    memcpy(at, code, sizeof code);
    memcpy(at + 1, &number, sizeof number);
}

static void __attribute__((naked)) call_rsi(void *a)
{
    __asm__("mov 8(%rdi), %rsi; mov $5, %ebx; 1: call *%rsi; dec %ebx; jnz 1b; ret");
}

static void changes(const char *name, caller *call, uint32_t error, bool by_cr3)
{
    for (unsigned i = 0; i < FEW; i++) {
        uint64_t at = address_of(i) + 0x100, cell[2] = {0, at};
        for (unsigned n = 0; n < 2; n++) /* the frames of this page and of the next one */
            write_number(frame[i + n] + 0x100, i * 10 + n);
        for (unsigned n = 0; n < 12; n++) {
            uint64_t *entry = page_entry(at, 1), keep = *entry;
            unsigned shown = n / 2 & 1;
            if (n & 1)
                *entry = 0;
            else
                *entry = (uint64_t)frame[i + shown] | PTE_P | PTE_W | PTE_U;
            if (by_cr3)
                flush_all();
            else
                invlpg(at);
            cell[0] = 77;
            int got = call(call_rsi, cell);
            if (n & 1)
                tally(got == PF && (trap.error & ~16ul) == error && trap_cr2 == at && trap.rip == at, name,
                      "%u absent: #%d error %lx rip %lx", i, got, trap.error, trap.rip);
            else
                tally(got == NO_TRAP && cell[0] == i * 10 + shown, name, "%u: #%d %lu", i, got, cell[0]);
            *entry = keep;
            invlpg(at);
        }
        for (unsigned n = 0; n < 10; n++) {
            write_number(frame[i] + 0x100, n + 1000);
            map(at, frame[i]);
            int got = call(call_rsi, cell);
            tally(got == NO_TRAP && cell[0] == n + 1000, name, "%u written %u: #%d %lu", i, n, got, cell[0]);
        }
    }
    tally_end(name);
}

static int ring0_call(void (*fn)(void *), void *arg)
{
    return trap_call(fn, arg);
}

void guest_main(void)
{
    for (unsigned i = 0; i < MANY; i++) {
        frame[i] = page_alloc();
        map(address_of(i), frame[i]);
    }
    regions("a few regions", ring0_call, FEW);
    regions("many regions", ring0_call, MANY);
    not_canonical("not canonical", ring0_call);
    changes("changes, INVLPG", ring0_call, 0, false);
    changes("changes, CR3", ring0_call, 0, true);
    regions("a few regions, ring 3", user_call, FEW);
    regions("many regions, ring 3", user_call, MANY);
    not_canonical("not canonical, ring 3", user_call);
    changes("changes, INVLPG, ring 3", user_call, 4, false);
    changes("changes, CR3, ring 3", user_call, 4, true);
    regions("a few regions again, ring 3", user_call, FEW);
}
