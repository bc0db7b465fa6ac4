/* SPDX-License-Identifier: MIT */
/* Instructions that a translator has to take apart: stack frames, flags, far pointers, bit strings, BCD, locked
 * accesses across pages, unaligned data, 16-bit forms. Values are the manual's. */
#include "lib/guest.h"

enum { WINDOW = 0x40000000 };
static uint32_t *directory;

static void flags(void)
{
    uint32_t f;
    __asm__ volatile("push $0xffffffff; popf; pushf; pop %0; push $2; popf" : "=r"(f)::"memory", "cc");
    /* All that sticks: without VM, RF, VIF, VIP; TF would trap. */
    (void)f;
}

static bool step_ignored(struct trap *frame)
{
    return true;
}

static void flag_images(void)
{
    uint32_t f;
    trap_hooks[DB] = step_ignored;
    flags();
    trap_hooks[DB] = NULL;
    __asm__ volatile("push $0x3f7ed7; popf; pushf; pop %0; push $2; popf" : "=r"(f)::"memory", "cc");
    check_equal("popf in ring 0: what sticks", f, 0x247ed7 & ~0u);
    __asm__ volatile("push $0; popf; pushf; pop %0" : "=r"(f)::"memory", "cc");
    check_equal("popf of 0", f, 2);
    __asm__ volatile("push $0x40ed5; popf; pushfw; xor %0, %0; popw %w0; push $2; popf" : "=&r"(f)::"memory", "cc");
    check_equal("pushf of 16 bits", f, 0x0ed7 & ~0u);
    __asm__ volatile("push $0x40000; popf; pushw $0; popfw; pushf; pop %0; push $2; popf" : "=&r"(f)::"memory", "cc");
    check_equal("popf of 16 bits keeps the upper half", f, 0x40002);
    __asm__ volatile("mov $0xff00, %%eax; sahf; pushf; pop %0" : "=r"(f)::"eax", "cc");
    check_equal("sahf", f & 0xff, 0xd7);
    __asm__ volatile("push $0xed5; popf; mov $0, %%eax; lahf; mov %%eax, %0; push $2; popf"
                     : "=r"(f)::"eax", "memory", "cc");
    check_equal("lahf", f, 0xd700);
    __asm__ volatile("stc; cmc; setc %b0; movzbl %b0, %0" : "=q"(f)::"cc");
    check_equal("cmc", f, 0);
    /* inc and dec keep CF; the pair adc/sbb uses it. */
    __asm__ volatile("stc; mov $-1, %0; inc %0; adc $0, %0" : "=&r"(f)::"cc");
    check_equal("inc keeps CF", f, 1);
    /* A shift by 0 (also by 32) keeps all flags. */
    __asm__ volatile("mov $32, %%ecx; mov $5, %%eax; push $0x8d5; popf; shl %%cl, %%eax; pushf; pop %0"
                     : "=r"(f)::"eax", "ecx", "memory", "cc");
    check_equal("a shift by 32 keeps the flags", f & 0x8d5, 0x8d5);
    __asm__ volatile("mov $9, %%ecx; mov $0x55, %%eax; stc; rclb %%cl, %%al; setc %%ah; mov %%eax, %0"
                     : "=r"(f)::"eax", "ecx", "cc");
    check_equal("rcl of a byte by 9 is the identity", f & 0xffff, 0x155);
}

/* A descriptor for ring 3 tests of pushf is in gates.c. */

static void frames(void)
{
    static uint32_t stack[64];
    uint32_t esp, ebp, top = (uint32_t)&stack[40];
#define ON_STACK(body)                                                                                                 \
    __asm__ volatile("push %%ebp; mov %%esp, %%edi; mov %2, %%esp; lea 32(%2), %%ebp\n" body                           \
                     "\nmov %%esp, %%ecx; mov %%ebp, %%edx; mov %%edi, %%esp; pop %%ebp; mov %%ecx, %0; mov %%edx, %1" \
                     : "=m"(esp), "=m"(ebp)                                                                            \
                     : "S"(top)                                                                                        \
                     : "eax", "ecx", "edx", "edi", "memory")
    for (unsigned i = 0; i < 64; i++)
        stack[i] = 0x100 + i;
    ON_STACK("enter $16, $0");
    check(esp == top - 20 && ebp == top - 4 && stack[39] == top + 32, "enter level 0", "esp %x ebp %x saved %x",
          esp - top, ebp - top, stack[39]);
    for (unsigned i = 0; i < 64; i++)
        stack[i] = 0x100 + i;
    ON_STACK("enter $8, $3");
    /* pushes EBP, the two outer frame pointers found below the old EBP, and the new frame pointer. */
    check(stack[39] == top + 32 && stack[38] == 0x100 + 47 && stack[37] == 0x100 + 46 && stack[36] == top - 4 &&
              ebp == top - 4 && esp == top - 16 - 8,
          "enter level 3", "%x %x %x %x esp %x ebp %x", stack[39], stack[38], stack[37], stack[36], esp - top,
          ebp - top);
    ON_STACK("enter $8, $33");
    check(stack[38] == top - 4 && esp == top - 16, "enter level 33 is level 1", "%x esp %x", stack[38], esp - top);
    ON_STACK("enter $24, $0; pushl $7; leave");
    check(esp == top && ebp == top + 32, "leave", "esp %x ebp %x", esp - top, ebp - top);
    ON_STACK("mov $1, %%eax; mov $2, %%ecx; mov $3, %%edx; pushal; movl $0x99, 12(%%esp); xor %%eax, %%eax; popal; "
             "push %%eax; pop %%eax");
    check_equal("popa skips the saved ESP", esp, top);
    check(stack[39] == 1 && stack[38] == 2 && stack[37] == 3 && stack[34] == top + 32, "order of pusha", "%x %x %x %x",
          stack[39], stack[38], stack[37], stack[34]);
    ON_STACK("push %%esp");
    check_equal("push %esp stores the old value", stack[39], top);
    ON_STACK("pushl $0x77; pop %%esp; mov %%esp, %%ebp; mov %%edi, %%esp");
    check_equal("pop %esp", ebp, 0x77);
    ON_STACK("pushl 4(%%esp); popl 8(%%esp)");
    check_equal("push and pop relative to ESP", stack[42], stack[41]);
    ON_STACK("pushw $0x1234; pushw %%ds");
    check(esp == top - 4 && stack[39] >> 16 == 0x1234, "pushw", "esp %x %x", esp - top, stack[39]);
    ON_STACK("call 1f; 1: pop %%ebp; lea (%%esp), %%ecx");
    check_equal("call pushes the next address", esp, top);
    ON_STACK("pushl $1f; ret; 1:");
    check_equal("push and ret as a jump", esp, top);
    ON_STACK("pushl $1; pushl $2; pushl $1f; ret $8; 1:");
    check_equal("ret n", esp, top);
}

static void far_pointers(void)
{
    static struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) pointer = {0x12345678, SEL_DATA};
    uint32_t v, s;
    __asm__ volatile("lfs %2, %0; mov %%fs, %1" : "=r"(v), "=r"(s) : "m"(pointer));
    check(v == 0x12345678 && (s & 0xffff) == SEL_DATA, "lfs", "%x %x", v, s);
    __asm__ volatile("push %%ds; mov $-1, %0; lds %2, %0; mov %%ds, %1; pop %%ds" : "=&r"(v), "=&r"(s) : "m"(pointer));
    check(v == 0x12345678 && (s & 0xffff) == SEL_DATA, "lds", "%x %x", v, s);
    static struct {
        uint16_t offset, selector;
    } short_pointer = {0x9abc, SEL_DATA};
    __asm__ volatile("mov $-1, %0; lgs %2, %w0; mov %%gs, %1" : "=&r"(v), "=r"(s) : "m"(short_pointer));
    check(v == 0xffff9abc, "lgs of 16 bits", "%x", v);
    static struct {
        uint32_t offset;
        uint16_t selector;
    } __attribute__((packed)) target;
    __asm__ volatile("movl $1f, %0; movw %%cs, %1; ljmp *%0; ud2; 1:" : "+m"(target.offset), "=m"(target.selector));
    check(true, "far jump through memory", " ");
    __asm__ volatile("movl $1f, %0; lcall *%0; jmp 2f; 1: lret; 2:" : "+m"(target.offset) : "m"(target.selector));
    check(true, "far call through memory", " ");
    /* mov from a segment register zero-extends to 32 bits, and stores 16 to memory. */
    uint32_t memory = 0xffffffff;
    __asm__ volatile("mov $-1, %0; mov %%ds, %0; mov %%ds, %1" : "=&r"(v), "+m"(memory));
    check(v == SEL_DATA && memory == (0xffff0000 | SEL_DATA), "mov from DS", "%x %x", v, memory);
    __asm__ volatile("mov $-1, %0; mov %%ds, %w0" : "=&r"(v));
    check_equal("mov from DS of 16 bits", v, 0xffff0000 | SEL_DATA);
}

static void bits(void)
{
    static uint32_t field[8] __attribute__((aligned(16)));
    bool c;
    memset(field, 0, sizeof field);
    /* A bit offset in a register reaches beyond the operand, and below it. */
    for (int n = -64; n < 64; n += 7) {
        __asm__ volatile("bts %2, %1; setc %0" : "=q"(c), "+m"(field[4]) : "r"(n) : "memory", "cc");
        unsigned at = n + 128;
        tally(!c && (field[at / 32] >> at % 32 & 1), "bts", "%d", n);
        __asm__ volatile("lock btc %2, %1; setc %0" : "=q"(c), "+m"(field[4]) : "r"(n) : "memory", "cc");
        tally(c && !(field[at / 32] >> at % 32 & 1), "btc", "%d", n);
    }
    uint32_t r = 0;
    __asm__ volatile("bts %1, %0" : "+r"(r) : "r"(35) : "cc");
    tally(r == 8, "bts of a register", "%x", r);
    uint32_t v = 0x1234;
    bool z;
    __asm__ volatile("bsf %2, %0; setz %1" : "+r"(v), "=q"(z) : "r"(0) : "cc");
    tally(z, "bsf of 0", "%d", z);
    __asm__ volatile("bsr %1, %0" : "=r"(v) : "r"(0x00800000) : "cc");
    tally(v == 23, "bsr", "%u", v);
    __asm__ volatile("shld $8, %1, %0" : "=r"(v) : "r"(0xabcdef01), "0"(0x12345678) : "cc");
    tally(v == 0x345678ab, "shld", "%x", v);
    __asm__ volatile("shrd %%cl, %1, %0" : "=r"(v) : "r"(0xabcdef01), "0"(0x12345678), "c"(36) : "cc");
    tally(v == 0x11234567, "shrd", "%x", v);
    v = 0x12345678;
    __asm__ volatile("bswap %0" : "+r"(v));
    tally(v == 0x78563412, "bswap", "%x", v);
    tally_end("bit instructions");
}

static void decimal(void)
{
    unsigned a, f;
#define BCD(insn, ax, flags_in)                                                                                        \
    __asm__ volatile("push %3; popf; " insn "; pushf; pop %1; push $2; popf"                                           \
                     : "=a"(a), "=r"(f)                                                                                \
                     : "0"(ax), "r"(flags_in | 2)                                                                      \
                     : "memory", "cc")
    BCD("daa", 0x9a, 0);
    tally((a & 0xff) == 0x00 && (f & 0x11) == 0x11, "daa", "%x %x", a, f);
    BCD("daa", 0x79, 0x10);
    tally((a & 0xff) == 0x7f + 0 && (f & 0x11) == 0x10, "daa with AF", "%x %x", a, f);
    BCD("das", 0x00, 0x11);
    tally((a & 0xff) == 0x9a && (f & 0x11) == 0x11, "das", "%x %x", a, f);
    BCD("aaa", 0x00ff, 0);
    tally((a & 0xffff) == 0x0205 && (f & 0x11) == 0x11, "aaa", "%x %x", a, f);
    BCD("aas", 0x0203, 0x10);
    tally((a & 0xffff) == 0x000d && (f & 0x11) == 0x11, "aas", "%x %x", a, f);
    BCD("aam", 0x0063, 0);
    tally((a & 0xffff) == 0x0909, "aam", "%x", a);
    BCD("aad", 0x0909, 0);
    tally((a & 0xffff) == 0x0063, "aad", "%x", a);
    BCD(".byte 0xd4, 16", 0x00ab, 0);
    tally((a & 0xffff) == 0x0a0b, "aam 16", "%x", a);
    static const uint8_t table[256] = {[0x42] = 0x99};
    __asm__ volatile("xlat" : "=a"(a) : "0"(0xffffff42), "b"(table));
    tally(a == 0xffffff99, "xlat", "%x", a);
    BCD("stc; .byte 0xd6", 0, 0); /* salc */
    tally((a & 0xff) == 0xff, "salc", "%x", a);
    BCD("cbw", 0x1280, 0);
    tally((a & 0xffff) == 0xff80, "cbw", "%x", a);
    tally_end("BCD and conversions");
}

static void do_cmpxchg8b(void *arg)
{
    __asm__ volatile(AT_HERE "lock cmpxchg8b (%0)" ::"S"(arg), "a"(1), "d"(2), "b"(3), "c"(4) : "memory", "cc");
}
static void do_xadd(void *arg)
{
    uint32_t one = 1;
    __asm__ volatile(AT_HERE "lock xadd %0, (%1)" : "+r"(one) : "r"(arg) : "memory", "cc");
}
static void do_xchg(void *arg)
{
    uint32_t v = 0x77777777;
    __asm__ volatile(AT_HERE "xchg %0, (%1)" : "+r"(v) : "r"(arg) : "memory");
}

static void locked(void)
{
    uint8_t *first = page_alloc(), *second = page_alloc();
    for (unsigned offset = 0xff0; offset <= 0x1000; offset++) {
        uint32_t *at = (uint32_t *)(WINDOW + offset);
        *paging_entry(directory, WINDOW) = (uint32_t)first | 7;
        *paging_entry(directory, WINDOW + 4096) = (uint32_t)second | 7;
        write_cr3((uint32_t)directory);
        at[0] = 1;
        at[1] = 2;
        int got = trap_call(do_cmpxchg8b, at);
        tally(got == NO_TRAP && at[0] == 3 && at[1] == 4, "cmpxchg8b equal", "at %x: #%d %x %x", offset, got, at[0],
              at[1]);
        uint32_t a = 9, d = 9;
        bool z;
        __asm__ volatile("lock cmpxchg8b (%3); setz %2"
                         : "+a"(a), "+d"(d), "=q"(z)
                         : "S"(at), "b"(7), "c"(8)
                         : "memory", "cc");
        tally(!z && a == 3 && d == 4 && at[0] == 3, "cmpxchg8b different", "at %x: %x %x", offset, a, d);
        do_xadd(at);
        tally(at[0] == 4, "xadd", "at %x: %x", offset, at[0]);
        do_xchg(at);
        tally(at[0] == 0x77777777, "xchg", "at %x: %x", offset, at[0]);
        /* cmpxchg that fails still writes, so a read-only second page faults as a write and nothing changes. */
        at[0] = 5;
        at[1] = 6;
        *paging_entry(directory, WINDOW + 4096) = (uint32_t)second | 5;
        write_cr0(read_cr0() | CR0_WP);
        write_cr3((uint32_t)directory);
        bool touches = offset + 8 > 0x1000;
        got = trap_call(do_cmpxchg8b, at);
        uint32_t cr2 = offset < 0x1000 ? WINDOW + 0x1000 : WINDOW + offset;
        tally(touches ? got == PF && trap.error == 3 && trap_cr2 == cr2 && at[0] == 5 && at[1] == 6 : got == NO_TRAP,
              "cmpxchg8b on a read-only page", "at %x: #%d error %x cr2 %x", offset, got, trap.error, trap_cr2);
        write_cr0(read_cr0() & ~CR0_WP);
    }
    trap_expected_eip = 0;
    tally_end("locked accesses across pages");
    uint32_t v = 5, a = 5;
    bool z;
    __asm__ volatile("cmpxchg %3, %0; setz %2" : "+m"(v), "+a"(a), "=q"(z) : "r"(9) : "cc");
    check(z && v == 9, "cmpxchg equal", "%u", v);
    __asm__ volatile("cmpxchg %3, %0; setz %2" : "+m"(v), "+a"(a), "=q"(z) : "r"(1) : "cc");
    check(!z && a == 9 && v == 9, "cmpxchg different", "%u %u", a, v);
}

/* Every size at every offset around a page edge, through two pages that are not neighbours. */
static void unaligned(void)
{
    uint8_t *first = page_alloc(), *second;
    page_alloc();
    second = page_alloc();
    *paging_entry(directory, WINDOW) = (uint32_t)first | 7;
    *paging_entry(directory, WINDOW + 4096) = (uint32_t)second | 7;
    write_cr3((uint32_t)directory);
    for (unsigned offset = 0xff0; offset < 0x1008; offset++) {
        uint8_t *at = (uint8_t *)(WINDOW + offset);
        uint32_t v;
        for (unsigned i = 0; i < 16; i++)
            at[i] = 0x10 + i;
        __asm__ volatile("movl (%1), %0" : "=r"(v) : "r"(at));
        tally(v == 0x13121110, "movl", "at %x: %x", offset, v);
        __asm__ volatile("movzwl (%1), %0" : "=r"(v) : "r"(at));
        tally(v == 0x1110, "movzwl", "at %x: %x", offset, v);
        __asm__ volatile("addl $0x01010101, (%0); adcw $0x0101, 4(%0)" ::"r"(at) : "memory", "cc");
        tally(at[0] == 0x11 && at[3] == 0x14 && at[5] == 0x16, "addl", "at %x", offset);
        __asm__ volatile("push (%0); pop 8(%0)" ::"r"(at) : "memory");
        tally(!memcmp(at, at + 8, 4), "push pop", "at %x", offset);
        static uint32_t esp;
        __asm__ volatile("mov %%esp, %0; lea 4(%1), %%esp; push $0x31323334; mov %0, %%esp"
                         : "+m"(esp)
                         : "r"(at)
                         : "memory");
        tally(at[0] == 0x34 && at[3] == 0x31, "push over the edge", "at %x", offset);
        uint32_t pair[2];
        __asm__ volatile("fildll (%0); fistpll %1" ::"r"(at), "m"(pair) : "memory");
        tally(!memcmp(pair, at, 8), "fildll", "at %x", offset);
        __asm__ volatile("movups (%0), %%xmm0; movups %%xmm0, (%1)" ::"r"(at), "r"(first + 64) : "memory");
        tally(!memcmp(first + 64, at, 16), "movups", "at %x", offset);
    }
    tally_end("unaligned accesses over a page edge");
}

static void multiplications(void)
{
    uint32_t a, d;
    bool o;
    __asm__ volatile("mul %3; seto %2" : "=a"(a), "=d"(d), "=q"(o) : "r"(0x12345678), "0"(0x9abcdef0) : "cc");
    tally(a == 0x242d2080 && d == 0x0b00ea4e && o, "mul", "%x %x", d, a);
    __asm__ volatile("imul %3; seto %2" : "=a"(a), "=d"(d), "=q"(o) : "r"(0x12345678), "0"(0x9abcdef0) : "cc");
    tally(a == 0x242d2080 && d == 0xf8cc93d6 && o, "imul", "%x %x", d, a);
    __asm__ volatile("divl %3" : "=a"(a), "=d"(d) : "0"(0x242d2081), "r"(0x12345678), "1"(0x0b00ea4e) : "cc");
    tally(a == 0x9abcdef0 && d == 1, "div", "%x %x", a, d);
    __asm__ volatile("idivb %%cl" : "=a"(a) : "0"(0xffffff9c), "c"(7) : "cc");
    tally((a & 0xffff) == 0xfef2, "idiv of a byte", "%x", a);
    __asm__ volatile("imul $-3, %1, %0; seto %2" : "=r"(a), "+r"(d), "=q"(o) : : "cc");
    tally(a == (uint32_t)-3, "imul of three operands", "%x", a);
    tally_end("multiply and divide");
}

/* Jumps of all conditions, and loops, against the flags. */
static void conditions(void)
{
    for (unsigned n = 0; n < 32; n++) {
        uint32_t f = 2 | (n & 1) | (n & 2 ? FLAG_PF : 0) | (n & 4 ? FLAG_ZF : 0) | (n & 8 ? FLAG_SF : 0) |
                     (n & 16 ? FLAG_OF : 0);
        bool c = n & 1, p = n & 2, z = n & 4, s = n & 8, o = n & 16;
        bool want[16] = {o, !o, c, !c, z,      !z,     c || z,      !(c || z),
                         s, !s, p, !p, s != o, s == o, z || s != o, !z && s == o};
        uint32_t jumps = 0, sets = 0, moves = 0;
#define CONDITION(cc, i)                                                                                               \
    ({                                                                                                                 \
        uint32_t j, m = 0;                                                                                             \
        uint8_t t;                                                                                                     \
        __asm__ volatile("push %4; popf; set" cc " %1; cmov" cc " %3, %2; mov $1, %0; j" cc " 1f; mov $0, %0; 1:"      \
                         : "=&r"(j), "=&q"(t), "+&r"(m)                                                                \
                         : "r"(1), "r"(f)                                                                              \
                         : "memory", "cc");                                                                            \
        jumps |= j << i;                                                                                               \
        sets |= (uint32_t)t << i;                                                                                      \
        moves |= m << i;                                                                                               \
    })
        CONDITION("o", 0);
        CONDITION("no", 1);
        CONDITION("b", 2);
        CONDITION("ae", 3);
        CONDITION("e", 4);
        CONDITION("ne", 5);
        CONDITION("be", 6);
        CONDITION("a", 7);
        CONDITION("s", 8);
        CONDITION("ns", 9);
        CONDITION("p", 10);
        CONDITION("np", 11);
        CONDITION("l", 12);
        CONDITION("ge", 13);
        CONDITION("le", 14);
        CONDITION("g", 15);
        uint32_t all = 0;
        for (unsigned i = 0; i < 16; i++)
            all |= (uint32_t)want[i] << i;
        tally(jumps == all && sets == all && moves == all, "conditions", "flags %x: j %x set %x cmov %x, expected %x",
              f, jumps, sets, moves, all);
    }
    uint32_t rounds = 0;
    __asm__ volatile("mov $5, %%ecx; 1: inc %0; cmp $3, %0; loopne 1b" : "+r"(rounds)::"ecx", "cc");
    tally(rounds == 3, "loopne", "%u", rounds);
    uint32_t z;
    __asm__ volatile("xor %%ecx, %%ecx; mov $1, %0; jecxz 1f; mov $0, %0; 1:" : "=&r"(z)::"ecx", "cc");
    tally(z == 1, "jecxz", "%u", z);
    tally_end("conditions");
}

/* Deep recursion and wide indirect calls: the return and the branch paths of a translator. */
static unsigned ackermann(unsigned m, unsigned n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
#define F(n)                                                                                                           \
    static unsigned __attribute__((noinline)) f##n(unsigned v)                                                         \
    {                                                                                                                  \
        return v * 3 + n;                                                                                              \
    }
F(0)
F(1)
F(2)
F(3) F(4) F(5) F(6) F(7)

    static void branches(void)
{
    unsigned (*volatile const functions[])(unsigned) = {f0, f1, f2, f3, f4, f5, f6, f7};
    check_equal("recursion", ackermann(2, 300), 603);
    uint32_t v = 1, w = 1;
    for (unsigned i = 0; i < 100000; i++) {
        v = functions[i * 5 % 8](v);
        w = w * 3 + i * 5 % 8;
    }
    check_equal("indirect calls", v, w);
}

/* Flags that are dead where a block begins with STI, which the code behind it overwrites: nothing that shows. */
static void dead_flags(void)
{
    volatile uint32_t count = 500;
    for (unsigned i = 0; i < 400; i++) {
        uint32_t zero;
        __asm__ volatile("call 1f\n\t"
                         "sti\n\t"
                         "testl %%ecx, %%ecx\n\t"
                         "sete %b0\n\t"
                         "cli\n\tjmp 2f\n"
                         "1:\tdecl %1\n\t"
                         "js 3f\n\t"
                         "ret\n"
                         "3:\tret\n"
                         "2:"
                         : "=&q"(zero), "+m"(count)
                         : "c"(i & 1)
                         : "cc", "memory");
        tally((uint8_t)zero == !(i & 1), "dead flags", "round %u", i);
    }
    check_equal("dead flags", count, 100);
    tally_end("flags that nothing reads");
}

static void fpu_on(void)
{
    write_cr0((read_cr0() | CR0_NE | CR0_MP) & ~(CR0_EM | CR0_TS));
    write_cr4(read_cr4() | CR4_OSFXSR);
    __asm__ volatile("fninit");
}

void guest_main(void)
{
    fpu_on();
    flag_images();
    frames();
    far_pointers();
    bits();
    decimal();
    multiplications();
    conditions();
    branches();
    dead_flags();
    directory = paging_identity(8);
    paging_on(directory);
    locked();
    unaligned();
    paging_off();
}
