/* SPDX-License-Identifier: MIT */
/* Memory all over the address space: accesses and stacks that cross a multiple of 4 GiB, more such regions in use than
 * anybody has places for, addresses that are not canonical, FS and GS bases, in ring 0 and ring 3, with and without
 * global pages. */
#include "lib64/guest.h"

#define BORDER 0x8200000000ul /* between two regions */
#define REGION (1ul << 32)
#define TOP 0x7ffffffff000ul /* the last page of the lower half */
enum { PAGE = 4096, AROUND = 4 /* pages on either side of the border */, MANY = 40 };

static uint8_t *around; /* the frames of the pages around the border, one behind the other */
static uint8_t *many[MANY];

static uint8_t *frames(unsigned count)
{
    uint8_t *first = page_alloc();
    for (unsigned i = 1; i < count; i++)
        if ((uint8_t *)page_alloc() != first + (uint64_t)i * PAGE)
            guest_exit(2);
    return first;
}

static void map(uint64_t address, const void *frame)
{
    *page_entry(address, 1) = (uint64_t)frame | PTE_P | PTE_W | PTE_U | PTE_G;
    for (unsigned level = 2; level <= 4; level++)
        *page_entry(address, level) |= PTE_U;
    invlpg(address);
}

static uint64_t many_address(unsigned i)
{
    return 0x10000000000ul + i * 3 * REGION + (i * 37 % 100) * PAGE;
}

static void set_up(void)
{
    around = frames(2 * AROUND);
    for (unsigned i = 0; i < 2 * AROUND; i++)
        map(BORDER + ((uint64_t)i - AROUND) * PAGE, around + (uint64_t)i * PAGE);
    for (unsigned i = 0; i < MANY; i++) {
        many[i] = page_alloc();
        map(many_address(i), many[i]);
    }
    map(TOP, page_alloc());
}

/* ---- accesses across the border ---- */

/* RDI: where the access is. Each form has another base register's region, or an index. */
#define FORMS(name, body, disp)                                                                                        \
    static void __attribute__((naked)) name##_plain(void *a)                                                           \
    {                                                                                                                  \
        __asm__("mov %rdi, %rbx; " body("(%rbx)") "ret");                                                              \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_up(void *a)                                                              \
    {                                                                                                                  \
        __asm__("lea -" disp "(%rdi), %rbx; " body(disp "(%rbx)") "ret");                                              \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_down(void *a)                                                            \
    {                                                                                                                  \
        __asm__("lea " disp "(%rdi), %rbx; " body("-" disp "(%rbx)") "ret");                                           \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_index(void *a)                                                           \
    {                                                                                                                  \
        __asm__("mov $-1, %r12; lea 8(%rdi), %rbx; " body("(%rbx,%r12,8)") "ret");                                     \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_memory_base(void *a)                                                     \
    {                                                                                                                  \
        __asm__("mov %rdi, %r14; " body("(%r14)") "ret");                                                              \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_far(void *a)                                                             \
    {                                                                                                                  \
        __asm__("lea -0x40000000(%rdi), %rbp; " body("0x40000000(%rbp)") "ret");                                       \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_narrow(void *a) /* the index has 32 bits */                              \
    {                                                                                                                  \
        __asm__("mov $-1, %ecx; movslq %ecx, %rcx; lea 8(%rdi), %rbx; " body("(%rbx,%rcx,8)") "ret");                  \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_narrow_up(void *a) /* and leads over regions */                          \
    {                                                                                                                  \
        __asm__("mov $0x180000000, %rax; mov %rdi, %rbx; sub %rax, %rbx; mov $0x30000000, %ecx; " body(                \
            "(%rbx,%rcx,8)") "ret");                                                                                   \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_narrow_down(void *a)                                                     \
    {                                                                                                                  \
        __asm__("mov $0x400000000, %rax; lea (%rdi,%rax), %r14; mov $0x80000000, %ecx; movslq %ecx, %r12; " body(      \
            "(%r14,%r12,8)") "ret");                                                                                   \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_narrow_base(void *a)                                                     \
    {                                                                                                                  \
        __asm__("mov $0xfffffff0, %ecx; mov %rdi, %rbx; sub %rcx, %rbx; " body("(%rcx,%rbx)") "ret");                  \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_stack(void *a)                                                           \
    {                                                                                                                  \
        __asm__("mov %rsp, %rdx; lea -0x30(%rdi), %rsp; mov $4, %ecx; " body("0x10(%rsp,%rcx,8)") "mov %rdx, %rsp;"    \
                                                                                                  "ret");              \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_sum(void *a) /* two numbers of which neither is near the address */      \
    {                                                                                                                  \
        __asm__("mov $0x123456789a, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; " body(                                      \
            "(%rbx,%rcx)") "test %al, (%rbx,%rcx); ret");                                                              \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_sum_scaled(void *a)                                                      \
    {                                                                                                                  \
        __asm__("mov $0x1234567890, %rcx; lea (,%rcx,8), %rax; mov %rdi, %r14; sub %rax, %r14; "                       \
                "test %al, -3(%r14,%rcx,8);" body("(%r14,%rcx,8)") "ret");                                             \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_sum_moved(void *a)                                                       \
    {                                                                                                                  \
        __asm__("mov $0x123456789a, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; test %al, -3(%rbx,%rcx); mov %rcx, %rsi;"    \
                "add $0x10, %rbx; sub $8, %rsi; mov %rsi, %rcx; " body("-8(%rbx,%rcx)") "ret");                        \
    }                                                                                                                  \
    static void __attribute__((naked)) name##_sum_turned(void *a)                                                      \
    {                                                                                                                  \
        __asm__("mov $0x123456789a, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; test %al, -3(%rbx,%rcx);"                    \
                "test %al, -4(%rbx,%rcx); add $5, %rbx; sub $5, %rcx; " body("(%rcx,%rbx)") "ret");                    \
    }                                                                                                                  \
    static void (*const name##_forms[])(void *) = {                                                                    \
        name##_plain, name##_up,     name##_down,       name##_index,       name##_memory_base,                        \
        name##_far,   name##_narrow, name##_narrow_up,  name##_narrow_down, name##_narrow_base,                        \
        name##_stack, name##_sum,    name##_sum_scaled, name##_sum_moved,   name##_sum_turned};
enum { FORM_COUNT = 15 };
static uint64_t value;
#define BODY_READ8(m) "mov " m ", %rax; mov %rax, value; "
#define BODY_WRITE8(m) "mov value, %rax; mov %rax, " m "; "
#define BODY_ADD4(m) "mov value, %rax; add %eax, " m "; "
#define BODY_READ2(m) "movzwl " m ", %eax; mov %rax, value; "
FORMS(read8, BODY_READ8, "0x20")
FORMS(write8, BODY_WRITE8, "0x7c")
FORMS(add4, BODY_ADD4, "0x10")
FORMS(read2, BODY_READ2, "0x1")

typedef int caller(void (*fn)(void *), void *arg);

static void fill(void)
{
    for (unsigned i = 0; i < 2 * AROUND * PAGE; i++)
        around[i] = (uint8_t)(i * 7 + (i >> 8));
}

static void crossing(const char *name, caller *call)
{
    uint8_t *border = around + AROUND * PAGE;
    fill();
    for (int round = 0; round < 3; round++)
        for (int at = -17; at < 10; at++)
            for (unsigned f = 0; f < FORM_COUNT; f++) {
                void *address = (void *)(BORDER + (uint64_t)(int64_t)at);
                bool right = call(read8_forms[f], address) == NO_TRAP && value == number(border + at, 8);
                right &= call(read2_forms[f], address) == NO_TRAP && value == number(border + at, 2);
                value = 0x1122334455667788 * (uint64_t)(at + 20 + round);
                right &= call(write8_forms[f], address) == NO_TRAP && number(border + at, 8) == value;
                uint32_t sum = (uint32_t)(number(border + at, 4) + value);
                right &= call(add4_forms[f], address) == NO_TRAP && number(border + at, 4) == sum;
                tally(right, name, "round %d at %d form %u", round, at, f);
            }
    tally_end(name);
}

/* An array across the border, and beside it its first elements. */
static void __attribute__((naked)) walk(void *a)
{
    __asm__("xor %ecx, %ecx; xor %eax, %eax;"
            "1: mov %ecx, %edx; add (%rdi,%rdx,8), %rax; add 8(%rdi), %rax; mov %ecx, %r13d; xor -8(%rdi,%r13,8), %rax;"
            "add $1, %ecx; cmp $300, %ecx; jb 1b; mov %rax, value; ret");
}

static void arrays(const char *name, caller *call)
{
    fill();
    for (int at = -2400; at <= 0; at += 797) {
        const uint8_t *p = around + AROUND * PAGE + at;
        uint64_t sum = 0;
        for (unsigned i = 0; i < 300; i++)
            sum = (sum + number(p + (uint64_t)i * 8, 8) + number(p + 8, 8)) ^ number(p + (uint64_t)i * 8 - 8, 8);
        value = 0;
        tally(call(walk, (void *)(BORDER + (uint64_t)(int64_t)at)) == NO_TRAP && value == sum, name, "at %d: %lx", at,
              value);
    }
    tally_end(name);
}

/* Nothing behind the border. */
static void guarded(const char *name, caller *call, uint32_t error)
{
    uint64_t *entry = page_entry(BORDER, 1), keep = *entry;
    *entry = 0;
    invlpg(BORDER);
    for (int at = -9; at < 3; at++)
        for (unsigned f = 0; f < FORM_COUNT; f++) {
            uint64_t address = BORDER + (uint64_t)(int64_t)at;
            int got = call(read8_forms[f], (void *)address);
            bool faults = at > -8;
            bool right =
                faults ? got == PF && trap.error == error && trap_cr2 == (at < 0 ? BORDER : address) : got == NO_TRAP;
            got = call(write8_forms[f], (void *)address);
            right &= faults ? got == PF && trap.error == (error | 2) && trap_cr2 == (at < 0 ? BORDER : address)
                            : got == NO_TRAP;
            tally(right, name, "at %d form %u: #%d error %lx cr2 %lx", at, f, got, trap.error, trap_cr2);
        }
    *entry = keep;
    invlpg(BORDER);
    tally_end(name);
}

/* ---- stacks ---- */

/* Pushes numbers from RDI downwards, reads them at RSP, pops their sum. */
static void __attribute__((naked)) stack_pushes(void *top)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; xor %ebx, %ebx; mov $1000, %ecx; 1: push %rcx; add (%rsp), %rbx; dec "
            "%ecx; jnz 1b;"
            "mov $1000, %ecx; xor %eax, %eax; 2: pop %rdx; add %rdx, %rax; dec %ecx; jnz 2b;"
            "cmp %rdi, %rsp; mov %r15, %rsp; jne 3f; cmp %rax, %rbx; jne 3f; mov %rax, value; 3: ret");
}
/* Frames of a kilobyte, with every way to make and leave one. */
static void __attribute__((naked)) stack_frames(void *top)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; mov $7, %ecx; xor %ebx, %ebx; call 1f; mov %rbx, value; cmp %rdi, %rsp;"
            "mov %r15, %rsp; je 9f; movq $0, value; 9: ret;"
            "1: push %rbp; mov %rsp, %rbp; sub $1000, %rsp; mov %rcx, 16(%rsp); lea 40(%rsp), %rsp; push $5; pop %rax;"
            "add %rax, -1000+16(%rbp); lea -40(%rsp), %rsp; add 16(%rsp), %rbx; dec %ecx; jz 2f; call 1b;"
            "2: mov 16(%rsp), %rax; add %rax, %rbx; leave; ret $0");
}
/* RSP from everywhere. */
static void __attribute__((naked)) stack_moves(void *top)
{
    __asm__(
        "mov %rsp, %r15; mov %rdi, %rsp; push %rdi; mov %rsp, %rax; lea -0x1800(%rdi), %rbx; xchg %rbx, %rsp; push $11;"
        "xchg %rbx, %rsp; cmp %rsp, %rax; jne 9f; pop %rsp; cmp %rsp, %rdi; jne 9f; mov $-0x1000, %rax; lea "
        "(%rsp,%rax), %rsp;"
        "push $22; mov $0x1008, %eax; add %rax, %rsp; cmp %rsp, %rdi; jne 9f; mov $0x100000000, %rax; sub %rax, %rsp;"
        "add %rax, %rsp; push $33; pop %rdx; and $-0x1000, %rsp; mov %rsp, %rcx; mov $0x8000000000000000, %rsp;"
        "mov %rcx, %rsp; push $44; add (%rsp), %rdx; add -0x1808(%rdi), %rdx; add -0x1008(%rdi), %rdx; mov %rdx, value;"
        "9: mov %r15, %rsp; ret");
}

static void stacks(const char *name, caller *call)
{
    for (int at = -2; at <= 2; at++)
        for (unsigned shift = 0; shift < 24; shift += 8) {
            char *top = (char *)(BORDER + (uint64_t)(int64_t)at * 0x800 + shift + 0x1000);
            value = 0;
            bool right = call(stack_pushes, top) == NO_TRAP && value == 500500;
            value = 0;
            right &= call(stack_frames, top) == NO_TRAP && value == 2 * (28 + 35);
            value = 0;
            right &= call(stack_moves, top) == NO_TRAP && value == 11 + 22 + 33 + 44;
            tally(right, name, "at %d + %u: value %lu", at, shift, value);
        }
    tally_end(name);
}

/* ---- more regions than places ---- */

static void __attribute__((naked)) increment(void *a)
{
    __asm__("incq (%rdi); ret");
}
static void __attribute__((naked)) increment_on_stack(void *a)
{
    __asm__("mov %rsp, %rax; mov %rdi, %rsp; pop %rbx; inc %rbx; push %rbx; mov %rax, %rsp; ret");
}

static void many_regions(const char *name, caller *call)
{
    for (unsigned i = 0; i < MANY; i++)
        *(uint64_t *)many[i] = 1000 * i;
    for (unsigned round = 0; round < 6; round++)
        for (unsigned i = 0; i < MANY; i++) {
            bool right = call(increment, (void *)many_address(i)) == NO_TRAP;
            right &= call(increment_on_stack, (void *)many_address(i)) == NO_TRAP;
            right &= *(volatile uint64_t *)many[i] == 1000 * i + 2 * (round + 1);
            tally(right, name, "round %u region %u: %lu", round, i, *(uint64_t *)many[i]);
        }
    tally_end(name);
}

/* A page that is another one from now on. */
static void remapped(const char *name, caller *call, bool by_cr3)
{
    uint64_t address = many_address(1);
    for (unsigned i = 0; i < 20; i++) {
        *page_entry(address, 1) = (uint64_t)many[i] | PTE_P | PTE_W | PTE_U | (by_cr3 ? 0 : PTE_G);
        if (by_cr3)
            flush_all();
        else
            invlpg(address);
        *(uint64_t *)many[i] = i;
        bool right = call(increment, (void *)address) == NO_TRAP && *(volatile uint64_t *)many[i] == i + 1;
        tally(right, name, "page %u: %lu", i, *(uint64_t *)many[i]);
    }
    map(address, many[1]);
    flush_all();
    tally_end(name);
}

/* ---- not canonical ---- */

static void __attribute__((naked)) bad_read(void *a)
{
    __asm__("mov %rdi, %rbx; " AT_HERE "mov (%rbx), %al; ret");
}
static void __attribute__((naked)) bad_read_disp(void *a)
{
    __asm__("lea -0x40(%rdi), %rsi; " AT_HERE "mov 0x40(%rsi), %al; ret");
}
static void __attribute__((naked)) bad_read_index(void *a)
{
    __asm__("mov $2, %ecx; lea -8(%rdi), %rsi; " AT_HERE "addl $1, (%rsi,%rcx,4); ret");
}
static void __attribute__((naked)) bad_read_narrow(void *a)
{
    __asm__("mov $2, %ecx; lea -8(%rdi), %rbx; " AT_HERE "mov -8(%rbx,%rcx,8), %rax; ret");
}
static void __attribute__((naked)) bad_stack_narrow(void *a)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; mov $2, %ecx; " AT_HERE "incl 8(%rsp,%rcx,8); mov %r15, %rsp; ret");
}
static void __attribute__((naked)) bad_by_rbp(void *a)
{
    __asm__("mov %rdi, %rbp; " AT_HERE "mov %rax, (%rbp); ret");
}
static void __attribute__((naked)) bad_vector(void *a)
{
    __asm__(AT_HERE "movups (%rdi), %xmm0; ret");
}
static void __attribute__((naked)) bad_push(void *a)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; " AT_HERE "push %rax; mov %r15, %rsp; ret");
}
static void __attribute__((naked)) bad_pop(void *a)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; " AT_HERE "pop %rax; mov %r15, %rsp; ret");
}
static void __attribute__((naked)) bad_at_rsp(void *a)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; " AT_HERE "incl 8(%rsp); mov %r15, %rsp; ret");
}
static void __attribute__((naked)) bad_call(void *a)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; " AT_HERE "call 1f; 1: mov %r15, %rsp; ret");
}
static void __attribute__((naked)) harmless(void *a)
{
    __asm__("mov %rsp, %r15; mov %rdi, %rsp; add $8, %rsp; lea -8(%rsp), %rsp; mov %r15, %rsp; ret");
}

static void not_canonical(const char *name, caller *call)
{
    static const struct {
        void (*fn)(void *);
        int vector;
    } ways[] = {{bad_read, GP},   {bad_read_disp, GP}, {bad_read_index, GP},  {bad_by_rbp, SS},
                {bad_vector, GP}, {bad_push, SS},      {bad_pop, SS},         {bad_at_rsp, SS},
                {bad_call, SS},   {harmless, NO_TRAP}, {bad_read_narrow, GP}, {bad_stack_narrow, SS}};
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
                int got = call(ways[w].fn, (void *)bad);
                tally(trap_is(got, ways[w].vector, 0), name, "%lx way %u: #%d error %lx rip %lx", bad, w, got,
                      trap.error, trap.rip);
            }
    tally_end(name);
}

/* Where the lower half ends. */
static void half_end(const char *name, caller *call)
{
    static const struct {
        uint64_t at;
        void (*fn)(void *);
        int vector;
    } cases[] = {{TOP + PAGE - 8, read8_plain, NO_TRAP},
                 {TOP + PAGE - 8, read8_down, NO_TRAP},
                 {TOP + PAGE - 8, read8_up, NO_TRAP},
                 {TOP + PAGE - 8, read8_index, NO_TRAP},
                 {TOP + PAGE - 7, read8_plain, GP},
                 {TOP + PAGE - 1, write8_down, GP},
                 {TOP + PAGE, read8_up, GP},
                 {TOP + PAGE, read2_plain, GP},
                 {TOP + PAGE - 1, read2_index, GP},
                 {TOP + PAGE, bad_at_rsp, SS},
                 {TOP + PAGE - 8, read8_narrow, NO_TRAP},
                 {TOP + PAGE - 8, read8_narrow_up, NO_TRAP},
                 {TOP + PAGE - 8, read8_stack, NO_TRAP},
                 {TOP + PAGE - 7, read8_narrow, GP},
                 {TOP + PAGE, read8_narrow_up, GP},
                 {TOP + PAGE, read8_stack, SS},
                 {TOP + PAGE - 4, bad_pop, SS},
                 {TOP + PAGE + 8, bad_push, SS}};
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            int got = call(cases[i].fn, (void *)cases[i].at);
            trap_expected_rip = 0;
            tally(trap_is(got, cases[i].vector, 0), name, "case %u: #%d error %lx", i, got, trap.error);
        }
    tally_end(name);
}

/* ---- segment bases, address size, devices, code ---- */

static void __attribute__((naked)) by_fs(void *a)
{
    __asm__(
        "mov %fs:0x10, %rax; mov $8, %ecx; add %fs:(%rdi), %rax; add %fs:8(%rdi,%rcx,2), %rax; mov %rax, value; ret");
}
static void __attribute__((naked)) by_gs(void *a)
{
    __asm__(
        "mov %gs:0x10, %rax; mov $8, %ecx; add %gs:(%rdi), %rax; add %gs:8(%rdi,%rcx,2), %rax; mov %rax, value; ret");
}

static void segment_bases(const char *name, caller *call)
{
    fill();
    for (int at = -64; at <= 16; at += 5) {
        const uint8_t *p = around + AROUND * PAGE + at;
        uint64_t sum = number(p + 0x10, 8) + number(p + 0x20, 8) + number(p + 0x38, 8);
        write_msr(MSR_FS_BASE, BORDER + (uint64_t)(int64_t)at);
        write_msr(MSR_GS_BASE, BORDER + (uint64_t)(int64_t)at);
        value = 0;
        bool right = call(by_fs, (void *)0x20) == NO_TRAP && value == sum;
        value = 0;
        right &= call(by_gs, (void *)0x20) == NO_TRAP && value == sum;
        tally(right, name, "base %d: %lx", at, value);
    }
    write_msr(MSR_FS_BASE, NOT_CANONICAL - 0x10 - 1);
    tally(trap_is(call(by_fs, (void *)0x20), GP, 0), name, "base at the end of the lower half");
    write_msr(MSR_FS_BASE, 0);
    write_msr(MSR_GS_BASE, 0);
    tally_end(name);
}

static uint64_t low_word = 5;
static void __attribute__((naked)) narrow_address(void *a)
{
    __asm__(
        "mov $0x1234567800000000, %rbx; or %rdi, %rbx; addl $2, (%ebx); xor %ecx, %ecx; not %rcx; lea 4(%rdi), %rbx;"
        "addl $3, (%ebx,%ecx,4); ret");
}

static void odds_and_ends(const char *name, caller *call, bool ring0)
{
    low_word = 5;
    tally(call(narrow_address, &low_word) == NO_TRAP && low_word == 10, name, "32-bit addresses: %lu", low_word);
    /* code that is written through one address and runs at another */
    uint8_t *code = many[2];
    for (unsigned i = 0; i < 30; i++) {
        code[64] = 0x48, code[65] = 0xc7, code[66] = 0x07; /* movq $i, (%rdi); ret */
        *(uint32_t *)(code + 67) = i;
        code[71] = 0xc3;
        value = ~0ul;
        bool right = call((void (*)(void *))(many_address(2) + 64), &value) == NO_TRAP && value == i;
        value = 0;
        right &= call(increment, (void *)(many_address(2) + 67 - 64 + 64)) == NO_TRAP && code[67] == (uint8_t)(i + 1);
        right &= call((void (*)(void *))(many_address(2) + 64), &value) == NO_TRAP && value == i + 1;
        tally(right, name, "written code %u: %lu", i, value);
    }
    if (ring0) { /* the I/O APIC: its index register keeps what is written, and is not memory */
        volatile uint32_t *apic = (volatile uint32_t *)0xfec00000;
        for (unsigned i = 0; i < 20; i++) {
            apic[0] = i & 1;
            uint32_t v = apic[4];
            tally(apic[0] == (i & 1) && (i & 1 ? (v & 0xff) != 0 : !(v & 0xffffff)), name, "device %u: %x", i, v);
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
    set_up();
    tss.ist[0] = (uint64_t)ist_stack_top; /* faults come on any stack */
    for (unsigned i = 0; i < 32; i++)
        idt[i] = gate(SEL_CODE, idt[i].high << 32 | (idt[i].low >> 32 & 0xffff0000) | (idt[i].low & 0xffff), 0x8e, 1);
    write_cr4(read_cr4() | CR4_OSFXSR);
    for (unsigned global = 0; global < 2; global++) {
        write_cr4((read_cr4() & ~(uint64_t)CR4_PGE) | (global ? CR4_PGE : 0));
        crossing("crossing", ring0_call);
        arrays("arrays", ring0_call);
        guarded("guarded", ring0_call, 0);
        stacks("stacks", ring0_call);
        many_regions("many regions", ring0_call);
        remapped("remapped, INVLPG", ring0_call, false);
        remapped("remapped, CR3", ring0_call, true);
        not_canonical("not canonical", ring0_call);
        half_end("end of the half", ring0_call);
        segment_bases("segment bases", ring0_call);
        odds_and_ends("odds and ends", ring0_call, true);
        crossing("crossing, ring 3", user_call);
        arrays("arrays, ring 3", user_call);
        guarded("guarded, ring 3", user_call, 4);
        stacks("stacks, ring 3", user_call);
        many_regions("many regions, ring 3", user_call);
        remapped("remapped, INVLPG, ring 3", user_call, false);
        remapped("remapped, CR3, ring 3", user_call, true);
        not_canonical("not canonical, ring 3", user_call);
        half_end("end of the half, ring 3", user_call);
        segment_bases("segment bases, ring 3", user_call);
        odds_and_ends("odds and ends, ring 3", user_call, false);
    }
}
