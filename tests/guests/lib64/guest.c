/* SPDX-License-Identifier: MIT */
#include "lib64/guest.h"

extern char trap_stubs[];

/* Console: the first serial port, and the debug console of other machines. */

static void put(char c)
{
    if (c == '\n')
        put('\r');
    for (unsigned i = 0; i < 100000 && !(inb(0x3fd) & 0x20); i++)
        ;
    outb(0x3f8, (uint8_t)c);
    outb(0xe9, (uint8_t)c);
}

static void put_number(uint64_t v, unsigned base, bool negative, unsigned width, char fill)
{
    char digits[24];
    unsigned n = 0;
    do
        digits[n++] = "0123456789abcdef"[v % base];
    while (v /= base);
    if (negative)
        digits[n++] = '-';
    while (width > n) {
        put(fill);
        width--;
    }
    while (n)
        put(digits[--n]);
}

static void put_formatted(const char *f, va_list args)
{
    for (; *f; f++) {
        if (*f != '%') {
            put(*f);
            continue;
        }
        char fill = ' ';
        unsigned width = 0;
        bool wide = false;
        f++;
        if (*f == '0')
            fill = *f++;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + (unsigned)(*f++ - '0');
        for (; *f == 'l'; f++)
            wide = true;
        if (*f == 'c') {
            put((char)va_arg(args, int));
        } else if (*f == 's') {
            for (const char *s = va_arg(args, const char *); *s; s++)
                put(*s);
        } else if (*f == 'd') {
            int64_t v = wide ? va_arg(args, long) : va_arg(args, int);
            put_number(v < 0 ? -(uint64_t)v : (uint64_t)v, 10, v < 0, width, fill);
        } else if (*f == 'u' || *f == 'x') {
            put_number(wide ? va_arg(args, unsigned long) : va_arg(args, unsigned), *f == 'x' ? 16 : 10, false, width,
                       fill);
        } else {
            put(*f);
        }
    }
}

void printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    put_formatted(format, args);
    va_end(args);
}

void guest_exit(int status)
{
    /* The last character has to leave the shift register. */
    for (unsigned i = 0; i < 100000 && !(inb(0x3fd) & 0x40); i++)
        ;
    outb(0xf4, (uint8_t)status);
    for (const char *s = "Shutdown"; *s; s++) /* Bochs */
        outb(0x8900, (uint8_t)*s);
    for (;;)
        __asm__ volatile("cli; hlt");
}

void *memset(void *to, int byte, size_t n)
{
    void *start = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(byte) : "memory");
    return start;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *start = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
    return start;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *p = a, *q = b;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

/* Findings. */

static unsigned right_count, wrong_count, tally_right, tally_wrong;

static void finding(bool right, const char *name, const char *format, va_list args)
{
    printf(right ? "ok %s" : "FAIL %s", name);
    if (!right && *format) {
        printf(": ");
        put_formatted(format, args);
    }
    printf("\n");
    if (!right)
        wrong_count++;
}

void check(bool right, const char *name, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding(right, name, format, args);
    right_count += right;
    va_end(args);
}

void check_equal(const char *name, uint64_t got, uint64_t expected)
{
    check(got == expected, name, "got %lx, expected %lx", got, expected);
}

void tally(bool right, const char *name, const char *format, ...)
{
    enum { SHOWN = 20 };
    if (right) {
        tally_right++;
        return;
    }
    if (tally_wrong++ < SHOWN) {
        va_list args;
        va_start(args, format);
        finding(false, name, format, args);
        va_end(args);
    }
}

void tally_end(const char *name)
{
    check(!tally_wrong, name, "%u of %u cases are wrong", tally_wrong, tally_wrong + tally_right);
    printf("   %s: %u cases\n", name, tally_wrong + tally_right);
    tally_right = tally_wrong = 0;
}

/* Segments and the IDT. */

uint64_t gdt[GDT_ENTRIES] __attribute__((aligned(16)));
struct gate64 idt[256] __attribute__((aligned(16)));
struct tss64 tss __attribute__((aligned(4096)));

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    uint32_t low = (limit & 0xffff) | base << 16;
    uint32_t high = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | (flags & 15) << 20 | (base & 0xff000000);
    return (uint64_t)high << 32 | low;
}

struct gate64 gate(unsigned selector, uint64_t offset, unsigned access, unsigned ist)
{
    uint32_t low = ((uint32_t)offset & 0xffff) | selector << 16;
    uint32_t high = ((uint32_t)offset & 0xffff0000) | access << 8 | ist;
    return (struct gate64){(uint64_t)high << 32 | low, offset >> 32};
}

void gdt_set(unsigned selector, uint64_t d)
{
    gdt[(selector >> 3) % GDT_ENTRIES] = d;
}

void idt_reset(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt[i] = gate(SEL_CODE, (uint64_t)trap_stubs + 16 * i, i == USER_DONE ? 0xee : 0x8e, 0);
}

static void segments_init(void)
{
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) table;
    gdt_set(SEL_CODE, descriptor(0, 0xfffff, 0x9b, SEG_G | SEG_L));
    gdt_set(SEL_DATA, descriptor(0, 0xfffff, 0x93, SEG_G | SEG_D));
    gdt_set(SEL_USER_CODE32, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_D));
    gdt_set(SEL_USER_DATA, descriptor(0, 0xfffff, 0xf3, SEG_G | SEG_D));
    gdt_set(SEL_USER_CODE, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_L));
    gdt_set(SEL_CODE32, descriptor(0, 0xfffff, 0x9b, SEG_G | SEG_D));
    gdt_set(SEL_TSS, descriptor((uint32_t)(uintptr_t)&tss, sizeof tss - 1, 0x89, 0));
    gdt_set(SEL_TSS + 8, 0);
    tss.rsp[0] = (uint64_t)trap_stack_top;
    tss.ist[0] = (uint64_t)ist_stack_top;
    tss.io_map = sizeof tss;
    table.limit = sizeof gdt - 1;
    table.base = (uint64_t)gdt;
    __asm__ volatile("lgdt %0" ::"m"(table));
    __asm__ volatile("pushq %q0; pushq $1f; lretq; 1:" ::"r"(SEL_CODE) : "memory");
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(0));
    idt_reset();
    table.limit = sizeof idt - 1;
    table.base = (uint64_t)idt;
    __asm__ volatile("lidt %0; lldt %w1; ltr %w2" ::"m"(table), "r"(0), "r"(SEL_TSS));
}

/* Traps. */

struct trap trap;
uint64_t trap_cr2, trap_dr6, trap_frame, trap_expected_rip;
trap_hook *trap_hooks[256];
extern uint64_t trap_saved_rsp;

void trap_handle(struct trap *frame);
void trap_handle(struct trap *frame)
{
    uint64_t cr2 = read_cr2();
    unsigned vector = frame->vector & 0xff;
    if (trap_hooks[vector] && trap_hooks[vector](frame))
        return;
    if (!trap_saved_rsp) {
        printf("FAIL unexpected trap %u error %lx at %lx:%08lx flags %lx cr2 %lx rsp %lx\n", vector, frame->error,
               frame->cs, frame->rip, frame->rflags, cr2, frame->rsp);
        guest_exit(1);
    }
    trap = *frame;
    trap_cr2 = cr2;
    trap_dr6 = read_dr6();
    trap_frame = (uint64_t)frame;
    trap_leave((int)vector);
}

void frame_flat(struct trap *frame)
{
    memset(frame, 0, sizeof *frame);
    frame->cs = SEL_USER_CODE;
    frame->ss = SEL_USER_DATA;
    frame->rflags = 2;
    frame->rsp = (uint64_t)user_stack_top - 64;
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

int user_call_flags(void (*fn)(void *), void *arg, uint64_t flags)
{
    struct trap frame;
    frame_flat(&frame);
    frame.rsp -= 8;
    *(uint64_t *)frame.rsp = (uint64_t)user_return;
    frame.rdi = (uint64_t)arg;
    frame.rip = (uint64_t)fn;
    frame.rflags = flags | 2;
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
    uint64_t rip = trap_expected_rip;
    trap_expected_rip = 0;
    return got == expected &&
           (expected == NO_TRAP || ((!has_error(expected) || trap.error == error) && (!rip || trap.rip == rip)));
}

void check_trap(const char *name, int got, int expected, uint32_t error)
{
    uint64_t rip = trap_expected_rip;
    if (got == NO_TRAP)
        trap.error = trap.rip = 0;
    check(trap_is(got, expected, error), name, "got #%d error %lx at %lx, expected #%d error %x at %lx", got,
          trap.error, trap.rip, expected, error, rip);
}

struct register_access {
    unsigned number;
    uint64_t value;
};

static void do_write_msr(void *arg)
{
    struct register_access *a = arg;
    write_msr(a->number, a->value);
}

static void do_read_msr(void *arg)
{
    struct register_access *a = arg;
    a->value = read_msr(a->number);
}

static void do_write_cr(void *arg)
{
    struct register_access *a = arg;
    switch (a->number) {
    case 0:
        write_cr0(a->value);
        break;
    case 3:
        write_cr3(a->value);
        break;
    case 4:
        write_cr4(a->value);
        break;
    default:
        write_cr8(a->value);
    }
}

int write_msr_trap(uint32_t msr, uint64_t v)
{
    return trap_call(do_write_msr, &(struct register_access){msr, v});
}

int read_msr_trap(uint32_t msr)
{
    return trap_call(do_read_msr, &(struct register_access){msr, 0});
}

int write_cr_trap(unsigned n, uint64_t v)
{
    return trap_call(do_write_cr, &(struct register_access){n, v});
}

/* Pages. */

void *page_alloc(void)
{
    static uint64_t page_next;
    if (!page_next)
        page_next = ((uint64_t)guest_end + 0xfff) & ~0xffful;
    void *p = (void *)page_next;
    page_next += 4096;
    return memset(p, 0, 4096);
}

uint64_t *page_entry(uint64_t address, unsigned level)
{
    uint64_t *table = (uint64_t *)start_pml4;
    for (unsigned at = 4;; at--) {
        uint64_t *entry = &table[address >> (3 + 9 * at) & 511];
        if (at == level)
            return entry;
        if (!(*entry & PTE_P))
            *entry = (uint64_t)page_alloc() | PTE_P | PTE_W | PTE_U;
        table = (uint64_t *)(*entry & PTE_ADDRESS);
    }
}

/* Interrupt controllers and timer. */

static uint16_t pic_masks;

static void pic_write_masks(void)
{
    outb(0x21, (uint8_t)pic_masks);
    outb(0xa1, (uint8_t)(pic_masks >> 8));
}

void pic_mask_all(void)
{
    pic_masks = 0xffff;
    pic_write_masks();
}

void pic_unmask(unsigned irq)
{
    pic_masks &= (uint16_t) ~(1u << irq);
    if (irq >= 8)
        pic_masks &= (uint16_t)~4u;
    pic_write_masks();
}

void pic_eoi(unsigned irq)
{
    if (irq >= 8)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

static void pic_init(void)
{
    static const uint8_t words[][2] = {{0x20, 0x11}, {0xa0, 0x11}, {0x21, 0x20}, {0xa1, 0x28},
                                       {0x21, 0x04}, {0xa1, 0x02}, {0x21, 0x01}, {0xa1, 0x01}};
    for (unsigned i = 0; i < sizeof words / sizeof words[0]; i++)
        outb(words[i][0], words[i][1]);
    pic_mask_all();
}

void pit_start(unsigned divisor)
{
    outb(0x43, 0x34);
    outb(0x40, (uint8_t)divisor);
    outb(0x40, (uint8_t)(divisor >> 8));
}

void guest_start(void);
void guest_start(void)
{
    outb(0x3f9, 0);    /* no serial interrupts */
    outb(0x3fb, 0x83); /* 8N1, divisor follows */
    outb(0x3f8, 1);
    outb(0x3f9, 0);
    outb(0x3fb, 0x03);
    outb(0x3fa, 0x07);
    pic_init();
    segments_init();
    guest_main();
    printf("end: %u right, %u wrong\n", right_count, wrong_count);
    guest_exit(wrong_count ? 1 : 0);
}
