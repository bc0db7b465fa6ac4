/* SPDX-License-Identifier: MIT */
/* Segmentation: which descriptors each segment register takes in each ring, limits of both kinds, access rights, 16-bit
 * segments, the LDT, and the instructions that look at descriptors (SDM volume 3, chapter 5). QEMU TCG checks neither
 * limits nor the rights of data segments when they are used; Bochs does. */
#include "lib/guest.h"

enum {
    TEST = SEL_SPARE,
    RING1_CODE = 0x50 | 1,
    RING1_DATA = 0x58 | 1,
    RING2_CODE = 0x60 | 2,
    RING2_DATA = 0x68 | 2,
    TEST2 = 0x70,
    LDT = 0x78,
    SEL_CODE16 = 0x80,
    SEL_DATA16 = 0x88
};
extern char user_return[], user_stack_top[];

static const unsigned code_of[] = {SEL_CODE, RING1_CODE, RING2_CODE, SEL_USER_CODE};
static const unsigned data_of[] = {SEL_DATA, RING1_DATA, RING2_DATA, SEL_USER_DATA};

/* Runs fn(arg) in a ring; ring 0 without a switch. */
static int ring_call(unsigned ring, void (*fn)(void *), void *arg)
{
    if (!ring)
        return trap_call(fn, arg);
    struct trap frame;
    frame_flat(&frame);
    uint32_t *stack = (uint32_t *)frame.esp;
    stack[0] = (uint32_t)user_return;
    stack[1] = (uint32_t)arg;
    frame.eip = (uint32_t)fn;
    frame.cs = code_of[ring];
    frame.ss = frame.ds = frame.es = data_of[ring];
    return frame_call(&frame);
}

static void load_ds(void *arg)
{
    __asm__ volatile("mov %%ds, %%ecx\n" AT_HERE "mov %w0, %%ds; mov %%ecx, %%ds" ::"a"(arg) : "ecx");
}
static void load_ss(void *arg)
{
    __asm__ volatile("mov %%ss, %%ecx\n" AT_HERE "mov %w0, %%ss; mov %%ecx, %%ss" ::"a"(arg) : "ecx");
}
static void load_fs_pop(void *arg)
{
    __asm__ volatile("push %0\n" AT_HERE "pop %%fs" ::"a"(arg));
}
static void load_gs_far(void *arg)
{
    uint32_t pointer[2] = {0x1234, (uint32_t)arg};
    __asm__ volatile(AT_HERE "lgs %0, %%eax" ::"m"(pointer) : "eax");
}
static void load_es_far(void *arg)
{
    uint32_t pointer[2] = {0x1234, (uint32_t)arg};
    __asm__ volatile("mov %%es, %%ecx\n" AT_HERE "les %0, %%eax; mov %%ecx, %%es" ::"m"(pointer) : "eax", "ecx");
}
static void load_ss_far(void *arg)
{
    __asm__ volatile("mov %%esp, %%ecx; mov %%ss, %%edx; push %0; push %%ecx\n" AT_HERE
                     "lss (%%esp), %%esp; mov %%edx, %%ss; mov %%ecx, %%esp" ::"a"(arg)
                     : "ecx", "edx", "memory");
}

static bool is_code(unsigned type)
{
    return type & 8;
}
static bool is_conforming(unsigned type)
{
    return (type & 12) == 12;
}

static int data_expected(unsigned access, unsigned dpl, unsigned rpl, unsigned cpl)
{
    unsigned type = access & 15;
    if (!(access & SEG_S) || (is_code(type) && !(type & 2)))
        return GP;
    if (!is_conforming(type) && (rpl > dpl || cpl > dpl))
        return GP;
    return access & SEG_P ? NO_TRAP : NP;
}

static int stack_expected(unsigned access, unsigned dpl, unsigned rpl, unsigned cpl)
{
    unsigned type = access & 15;
    if (rpl != cpl || !(access & SEG_S) || is_code(type) || !(type & 2) || dpl != cpl)
        return GP;
    return access & SEG_P ? NO_TRAP : SS;
}

static void loads(void)
{
    static const struct {
        void (*fn)(void *);
        const char *name;
        bool stack;
    } ways[] = {{load_ds, "mov ds", false},  {load_ss, "mov ss", true},   {load_fs_pop, "pop fs", false},
                {load_gs_far, "lgs", false}, {load_es_far, "les", false}, {load_ss_far, "lss", true}};
    for (unsigned way = 0; way < sizeof ways / sizeof ways[0]; way++) {
        for (unsigned low = 0; low < 64; low++)
            for (unsigned n = 0; n < 64; n++) {
                unsigned type = low & 15, s = low & 16 ? SEG_S : 0, p = low & 32 ? SEG_P : 0;
                unsigned dpl = n & 3, rpl = n >> 2 & 3, cpl = n >> 4;
                /* The system types are all alike; one ring does. */
                if (!s && (cpl == 1 || cpl == 2 || rpl != 3))
                    continue;
                unsigned access = type | s | p | SEG_DPL(dpl);
                bool down = s && !is_code(type) && (type & 4);
                gdt_set(TEST, descriptor(0, down ? 0 : 0xfffff, access, SEG_G | SEG_D));
                int got = ring_call(cpl, ways[way].fn, (void *)(TEST | rpl));
                int want =
                    ways[way].stack ? stack_expected(access, dpl, rpl, cpl) : data_expected(access, dpl, rpl, cpl);
                bool right = trap_is(got, want, TEST);
                /* A load sets the accessed bit, a refused one does not. */
                unsigned now = gdt[TEST >> 3] >> 40 & 0xff;
                right = right && now == (want == NO_TRAP ? access | 1 : access);
                tally(right, ways[way].name, "access %x rpl %u cpl %u: got #%d error %x, expected #%d error %x, now %x",
                      access, rpl, cpl, got, trap.error, want, TEST, now);
            }
        tally_end(ways[way].name);
    }
}

static void use_null(void *arg)
{
    __asm__ volatile("mov %%ax, %%gs\n" AT_HERE "mov %%gs:0, %%ecx" ::"a"(0) : "ecx");
}

static void nulls(void)
{
    for (unsigned rpl = 0; rpl < 4; rpl++) {
        check_trap("DS takes null", ring_call(3, load_ds, (void *)rpl), NO_TRAP, 0);
        check_trap("SS does not", ring_call(3, load_ss, (void *)rpl), GP, 0);
    }
    trap_expected_eip = 0;
    check_trap("use of a null segment", trap_call(use_null, 0), GP, 0);
    check_trap("selector beyond the GDT", trap_call(load_ds, (void *)(GDT_ENTRIES * 8 + 1)), GP, GDT_ENTRIES * 8);
    check_trap("LDT selector without an LDT", trap_call(load_ds, (void *)0x0c), GP, 0x0c);
    /* An LDT of two entries. */
    static uint64_t ldt[2] __attribute__((aligned(8)));
    ldt[1] = descriptor(0, 0xfffff, 0x93, SEG_G | SEG_D);
    gdt_set(LDT, descriptor((uint32_t)ldt, sizeof ldt - 1, 0x82, 0));
    __asm__ volatile("lldt %w0" ::"r"(LDT));
    check_trap("LDT selector", trap_call(load_ds, (void *)0x0c), NO_TRAP, 0);
    check_trap("LDT entry 0 is not null", trap_call(load_ds, (void *)0x04), GP, 0x04);
    check_trap("LDT selector beyond its limit", trap_call(load_ds, (void *)0x14), GP, 0x14);
    __asm__ volatile("lldt %w0" ::"r"(0));
}

/* A load takes what the descriptor says now, also of the selector that is in the register already, and what follows in
 * the same run of instructions goes by it: DS turns from flat to based and back. */
extern const uint32_t *words_at; /* named in asm text */
const uint32_t *words_at;
static void reloads(void)
{
    static const uint32_t words[3] = {0x11, 0x22, 0x33};
    words_at = words;
    for (unsigned round = 0; round < 12; round++) {
        unsigned which = round % 3;
        uint32_t by_mov, by_pop, again;
        gdt_set(TEST, descriptor((uint32_t)&words[which], 0xfffff, 0x93, SEG_G | SEG_D));
        __asm__ volatile("mov %%ds, %%ecx\n mov %w3, %%ds\n mov %%ds:0, %0\n mov %%ecx, %%ds\n mov words_at, %2\n"
                         "mov %%ds:(%2), %2\n push %3\n pop %%fs\n mov %%fs:0, %1"
                         : "=&r"(by_mov), "=&r"(by_pop), "=&r"(again)
                         : "r"(TEST)
                         : "ecx", "memory");
        tally(by_mov == words[which] && by_pop == words[which] && again == words[0], "reloaded descriptor",
              "round %u: %x %x %x", round, by_mov, by_pop, again);
    }
    tally_end("reloaded descriptor");
}

/* Limits. Offsets around the limit, sizes 1, 2, 4, 8; the buffer surrounds the segment so that nothing is lost if the
 * check is missing. */
static uint8_t buffer[0x22000] __attribute__((aligned(4096)));

struct reference {
    uint32_t offset;
    unsigned size;
    bool write, stack;
};

static void refer(void *arg)
{
    struct reference r = *(struct reference *)arg;
    uint32_t o = r.offset;
#define REFER(seg)                                                                                                     \
    switch (r.size * 2 + r.write) {                                                                                    \
    case 2:                                                                                                            \
        __asm__ volatile(AT_HERE "movb %%" seg ":(%0), %%cl" ::"r"(o) : "ecx");                                        \
        break;                                                                                                         \
    case 3:                                                                                                            \
        __asm__ volatile(AT_HERE "movb %%cl, %%" seg ":(%0)" ::"r"(o) : "ecx", "memory");                              \
        break;                                                                                                         \
    case 4:                                                                                                            \
        __asm__ volatile(AT_HERE "movw %%" seg ":(%0), %%cx" ::"r"(o) : "ecx");                                        \
        break;                                                                                                         \
    case 5:                                                                                                            \
        __asm__ volatile(AT_HERE "movw %%cx, %%" seg ":(%0)" ::"r"(o) : "ecx", "memory");                              \
        break;                                                                                                         \
    case 8:                                                                                                            \
        __asm__ volatile(AT_HERE "movl %%" seg ":(%0), %%ecx" ::"r"(o) : "ecx");                                       \
        break;                                                                                                         \
    case 9:                                                                                                            \
        __asm__ volatile(AT_HERE "movl %%ecx, %%" seg ":(%0)" ::"r"(o) : "ecx", "memory");                             \
        break;                                                                                                         \
    case 16:                                                                                                           \
        __asm__ volatile(AT_HERE "bound %%ecx, %%" seg ":(%0)" ::"r"(o), "c"(0));                                      \
        break;                                                                                                         \
    case 17:                                                                                                           \
        __asm__ volatile(AT_HERE "lock cmpxchg8b %%" seg ":(%0)" ::"r"(o), "a"(1), "d"(1), "b"(0), "c"(0));            \
        break;                                                                                                         \
    }
    if (r.stack) {
        __asm__ volatile("mov %%ss, %%edx; mov %w0, %%ss; mov %%edx, %%ss" ::"a"(TEST | 3) : "edx");
        return;
    }
    __asm__ volatile("mov %w0, %%fs" ::"a"(TEST | 3));
    REFER("fs")
}

/* SS-relative: the frame's SS is the segment under test, and the code is bare, because it has no stack to use. */
#define BARE(name, insn)                                                                                               \
    void name(void);                                                                                                   \
    __asm__(".globl " #name "\n" #name ":\n" insn "\nint $0x80\n")
BARE(stack_read1, "movb %ss:(%eax), %cl");
BARE(stack_write1, "movb %cl, %ss:(%eax)");
BARE(stack_read2, "movw %ss:(%eax), %cx");
BARE(stack_write2, "movw %cx, %ss:(%eax)");
BARE(stack_read4, "movl %ss:(%eax), %ecx");
BARE(stack_write4, "movl %ecx, %ss:(%eax)");
BARE(stack_ebp, "movl (%ebp), %ecx");
BARE(stack_push, "push %ecx");
BARE(stack_pop, "pop %ecx");
BARE(stack_pusha, "pushal");
BARE(stack_call, "call 1f; 1:");

static bool inside(uint32_t first, unsigned size, uint32_t limit, bool down, bool big)
{
    uint64_t last = (uint64_t)first + size - 1;
    if (down)
        return first > limit && last <= (big ? 0xffffffffu : 0xffffu);
    return last <= limit;
}

static void limits_of(uint32_t field, unsigned access, unsigned flags, const char *name)
{
    uint32_t limit = flags & SEG_G ? field << 12 | 0xfff : field;
    bool down = (access & 12) == 4;
    /* For expand-down the buffer is what follows the limit; the base makes the offsets land in it. */
    uint32_t base = (uint32_t)buffer + 0x1000;
    if (down && (flags & SEG_D))
        base = (uint32_t)buffer + 0x1000 - limit;
    gdt_set(TEST, descriptor(base, field, access, flags));
    static const unsigned sizes[] = {1, 2, 4, 8};
    for (unsigned edge = 0; edge < (down && !(flags & SEG_D) ? 2 : 1); edge++)
        for (int d = -9; d < 10; d++)
            for (unsigned size = 0; size < 4; size++)
                for (unsigned write = 0; write < 2; write++) {
                    uint32_t offset = (edge ? 0x10000 : limit) + d;
                    if (!edge && d < 0 && limit < 16 && offset > limit)
                        continue;
                    bool fits = inside(offset, sizes[size], limit, down, flags & SEG_D);
                    struct reference r = {offset, sizes[size], write, false};
                    memset(buffer + 0x1000, 0, 32);
                    memset((void *)(base + offset), 0, 8);
                    int got = user_call(refer, &r);
                    int want = fits ? NO_TRAP : GP;
                    tally(trap_is(got, want, 0), name, "%s %u at %x, limit %x: got #%d error %x, expected #%d",
                          write ? "write" : "read", sizes[size], offset, limit, got, trap.error, want);
                    void (*const bare[])(void) = {stack_read1,  stack_write1, stack_read2,
                                                  stack_write2, stack_read4,  stack_write4};
                    if (sizes[size] == 8)
                        continue;
                    struct trap frame;
                    frame_flat(&frame);
                    frame.eip = (uint32_t)bare[size * 2 + write];
                    frame.ss = TEST | 3;
                    frame.eax = offset;
                    got = frame_call(&frame);
                    want = fits ? NO_TRAP : SS;
                    tally(trap_is(got, want, 0), name, "SS %s %u at %x, limit %x: got #%d error %x, expected #%d",
                          write ? "write" : "read", sizes[size], offset, limit, got, trap.error, want);
                }
    tally_end(name);
}

static void stack_limits(void)
{
    /* A stack of 0x100 bytes. */
    gdt_set(TEST, descriptor((uint32_t)buffer + 0x1000, 0xff, 0xf3, SEG_D));
    static const struct {
        void (*fn)(void);
        const char *name;
        uint32_t esp, ebp;
        int want;
    } cases[] = {
        {stack_push, "push inside", 0x100, 0, NO_TRAP},   {stack_push, "push at the limit", 0x103, 0, SS},
        {stack_push, "push wraps below 0", 2, 0, SS},     {stack_pop, "pop inside", 0xfc, 0, NO_TRAP},
        {stack_pop, "pop over the limit", 0xfd, 0, SS},   {stack_ebp, "ebp inside", 0, 0xfc, NO_TRAP},
        {stack_ebp, "ebp over the limit", 0, 0xfd, SS},   {stack_pusha, "pusha inside", 0x20, 0, NO_TRAP},
        {stack_pusha, "pusha half outside", 0x10, 0, SS}, {stack_call, "call without room", 0, 0, SS},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct trap frame;
        frame_flat(&frame);
        frame.eip = (uint32_t)cases[i].fn;
        frame.ss = TEST | 3;
        frame.esp = cases[i].esp;
        frame.ebp = cases[i].ebp;
        int got = frame_call(&frame);
        check_trap(cases[i].name, got, cases[i].want, 0);
        if (cases[i].want == SS)
            tally(trap.esp == cases[i].esp && trap.eip == (uint32_t)cases[i].fn, cases[i].name, "esp %x eip %x",
                  trap.esp, trap.eip);
    }
    tally_end("ESP and EIP after a stack fault");
}

static void read_through_fs(void *arg)
{
    __asm__ volatile("mov %w0, %%fs\n" AT_HERE "movl %%fs:0, %%ecx" ::"a"(arg) : "ecx");
}
static void write_through_fs(void *arg)
{
    __asm__ volatile("mov %w0, %%fs\n" AT_HERE "movl %%ecx, %%fs:0" ::"a"(arg) : "memory");
}
BARE(code_read, "movl %cs:buffer_here, %ecx\nint $0x80\nbuffer_here: .long 0");
BARE(code_write, "movl %ecx, %cs:buffer_here2\nint $0x80\nbuffer_here2: .long 0");

static void rights(void)
{
    uint32_t base = (uint32_t)buffer;
    for (unsigned type = 0; type < 16; type++) {
        if (is_code(type) && !(type & 2))
            continue; /* cannot be loaded */
        bool down = !is_code(type) && (type & 4);
        gdt_set(TEST, descriptor(down ? base - 0x1000 : base, down ? 0 : 0xffff, SEG_P | SEG_S | SEG_DPL(3) | type,
                                 down ? SEG_G | SEG_D : SEG_D));
        if (down)
            continue; /* offset 0 is outside; limits_of has these */
        check_trap("read", user_call(read_through_fs, (void *)(TEST | 3)), NO_TRAP, 0);
        bool writable = !is_code(type) && (type & 2);
        check_trap("write", user_call(write_through_fs, (void *)(TEST | 3)), writable ? NO_TRAP : GP, 0);
    }
    trap_expected_eip = 0;
    struct trap frame;
    for (unsigned readable = 0; readable < 2; readable++) {
        gdt_set(TEST, descriptor(0, 0xfffff, SEG_P | SEG_S | SEG_DPL(3) | 8 | (readable ? 2 : 0), SEG_G | SEG_D));
        frame_flat(&frame);
        frame.cs = TEST | 3;
        frame.eip = (uint32_t)code_read;
        check_trap(readable ? "read from readable code" : "read from execute-only code", frame_call(&frame),
                   readable ? NO_TRAP : GP, 0);
        frame.eip = (uint32_t)code_write;
        check_trap("write to code", frame_call(&frame), GP, 0);
    }
}

BARE(code_nops, "nop\nnop\nnop\nnop");

static void code_limits(void)
{
    /* A code segment that ends inside the nops: the fault comes with the EIP of the first instruction outside. */
    uint32_t start = (uint32_t)code_nops;
    gdt_set(TEST, descriptor(start, 1, 0xfb, SEG_D));
    struct trap frame;
    frame_flat(&frame);
    frame.cs = TEST | 3;
    frame.eip = 0;
    check_trap("run over the end of a code segment", frame_call(&frame), GP, 0);
    check_equal("EIP of the run over the end", trap.eip, 2);
    frame.eip = 5;
    /* SDM: IRET to an EIP outside the limit is #GP(0) at the IRET itself. */
    check_trap("iret beyond the limit", frame_call(&frame), GP, 0);
    check_equal("in ring 0", trap.cs & 3, 0);
    /* An instruction of which the last byte is outside. */
    gdt_set(TEST, descriptor((uint32_t)stack_call, 3, 0xfb, SEG_D));
    frame.eip = 0;
    check_trap("an instruction half outside", frame_call(&frame), GP, 0);
    check_equal("EIP of the instruction half outside", trap.eip, 0);
}

/* 16-bit code and stack, called with a far call from 32-bit code. Results go to memory. */
__asm__(".code16\n.globl code16, code16_end\ncode16:\n"
        "mov %sp, %cx\n"
        "xor %sp, %sp\n"
        "push %ax\n" /* wraps to fffe */
        "mov %sp, %dx\n"
        "pop %bx\n"
        "mov %cx, %sp\n"
        "mov $0xffff, %si\n"
        "mov $0x11, %bx\n"
        "movb %es:(%bx,%si), %al\n" /* wraps to 10 */
        "movb %es:0x20(%si), %ah\n" /* wraps to 1f */
        "pushl $0x12345678\n"
        "popl %ebx\n"
        "call 1f\n"
        "jmp 2f\n"
        "1: mov $0x77, %cl\n"
        "ret\n"
        "2: loop 3f\n"
        "3: movzbw %cl, %si\n"
        "data32 lret\n"
        "code16_end:\n.code32\n");
extern char code16[], code16_end[];

static void sixteen_bit(void)
{
    uint32_t stack_base = (uint32_t)buffer, a, b, d, s;
    gdt_set(SEL_CODE16, descriptor((uint32_t)code16, 0xffff, 0x9b, 0));
    gdt_set(SEL_DATA16, descriptor(stack_base, 0xffff, 0x93, 0));
    for (unsigned i = 0; i < 256; i++)
        buffer[i] = i;
    /* The far call pushes to the 16-bit stack, with the high half of ESP left as it is. */
    __asm__ volatile("mov %%esp, %%edi\n"
                     "mov %[data], %%ss\n"
                     "mov $0x5a5a8000, %%esp\n"
                     "push %%es; mov %[data], %%es\n"
                     "mov $0x1234, %%eax\n"
                     "lcall %[code], $0\n"
                     "pop %%es\n"
                     "mov %[flat], %%ecx; mov %%ecx, %%ss; mov %%edi, %%esp\n"
                     : "=a"(a), "=b"(b), "=d"(d), "=S"(s)
                     : [data] "b"(SEL_DATA16), [code] "i"(SEL_CODE16), [flat] "i"(SEL_DATA)
                     : "ecx", "edi", "memory");
    check_equal("16-bit effective addresses wrap", a & 0xffff, 0x1f10);
    check_equal("32-bit operand in 16-bit code", b, 0x12345678);
    check_equal("SP wraps in 16 bits", d & 0xffff, 0xfffe);
    check_equal("16-bit call, ret, loop", s & 0xffff, 0x76);
}

/* LAR, LSL, VERR, VERW for every descriptor. */
struct look {
    unsigned selector;
    uint32_t lar, lsl;
    bool lar_ok, lsl_ok, verr, verw;
};

static void look(void *arg)
{
    struct look *l = arg;
    l->lar = l->lsl = 0;
    __asm__ volatile("lar %2, %0; setz %1" : "+r"(l->lar), "=m"(l->lar_ok) : "r"(l->selector));
    __asm__ volatile("lsl %2, %0; setz %1" : "+r"(l->lsl), "=m"(l->lsl_ok) : "r"(l->selector));
    __asm__ volatile("verr %w1; setz %0" : "=m"(l->verr) : "r"(l->selector));
    __asm__ volatile("verw %w1; setz %0" : "=m"(l->verw) : "r"(l->selector));
}

static void looking(void)
{
    static const uint16_t lar_system = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 11 | 1 << 12;
    static const uint16_t lsl_system = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 9 | 1 << 11;
    for (unsigned low = 0; low < 64; low++)
        for (unsigned n = 0; n < 32; n++) {
            unsigned type = low & 15, s = low & 16 ? SEG_S : 0, p = low & 32 ? SEG_P : 0;
            unsigned dpl = n & 3, rpl = n >> 2 & 3, cpl = n >> 4 ? 3 : 0, access = type | s | p | SEG_DPL(dpl);
            gdt_set(TEST, descriptor(0x12345678, 0x54321, access, SEG_G | SEG_D));
            struct look l = {.selector = TEST | rpl};
            int got = ring_call(cpl, look, &l);
            bool visible = (s && is_conforming(type)) || (rpl <= dpl && cpl <= dpl);
            bool lar_ok = visible && (s || lar_system >> type & 1);
            bool lsl_ok = visible && (s || lsl_system >> type & 1);
            bool verr = visible && s && (!is_code(type) || (type & 2));
            bool verw = visible && s && !is_code(type) && (type & 2);
            bool right = got == NO_TRAP && l.lar_ok == lar_ok && l.lsl_ok == lsl_ok && l.verr == verr &&
                         l.verw == verw &&
                         (l.lar & 0xf0ff00) == (lar_ok ? (uint32_t)(gdt[TEST >> 3] >> 32) & 0xf0ff00 : 0) &&
                         l.lsl == (lsl_ok ? 0x54321fff : 0);
            tally(right, "look", "access %x rpl %u cpl %u: #%d lar %d %x lsl %d %x verr %d verw %d", access, rpl, cpl,
                  got, l.lar_ok, l.lar, l.lsl_ok, l.lsl, l.verr, l.verw);
        }
    tally_end("LAR LSL VERR VERW");
    static const unsigned bad[] = {0, 3, GDT_ENTRIES * 8, 0xc};
    for (unsigned i = 0; i < 4; i++) {
        struct look l = {.selector = bad[i]};
        look(&l);
        check(!l.lar_ok && !l.lsl_ok && !l.verr && !l.verw, "no such descriptor", "selector %x", bad[i]);
    }
    for (unsigned a = 0; a < 4; a++)
        for (unsigned b = 0; b < 4; b++) {
            uint16_t v = 0x70 | a;
            bool zf;
            __asm__ volatile("arpl %w2, %w0; setz %b1" : "+r"(v), "=q"(zf) : "r"(0x30 | b));
            tally(zf == (a < b) && v == (0x70 | (a < b ? b : a)), "arpl", "%u %u: %x %d", a, b, v, zf);
        }
    tally_end("ARPL");
}

void guest_main(void)
{
    gdt_set(RING1_CODE, descriptor(0, 0xfffff, 0xbb, SEG_G | SEG_D));
    gdt_set(RING1_DATA, descriptor(0, 0xfffff, 0xb3, SEG_G | SEG_D));
    gdt_set(RING2_CODE, descriptor(0, 0xfffff, 0xdb, SEG_G | SEG_D));
    gdt_set(RING2_DATA, descriptor(0, 0xfffff, 0xd3, SEG_G | SEG_D));
    loads();
    nulls();
    reloads();
    looking();
    sixteen_bit();
    limits_of(0x7ff, 0xf3, SEG_D, "expand-up, byte limit");
    limits_of(0xf, 0xf3, SEG_D, "expand-up, small limit");
    limits_of(1, 0xf3, SEG_D | SEG_G, "expand-up, page limit");
    limits_of(0xffff, 0xf3, 0, "expand-up, 64 KiB, 16-bit");
    limits_of(0x7ff, 0xf7, SEG_D, "expand-down, byte limit");
    limits_of(1, 0xf7, SEG_D | SEG_G, "expand-down, page limit");
    limits_of(0x7ff, 0xf7, 0, "expand-down, 16-bit");
    stack_limits();
    rights();
    code_limits();
}
