/* SPDX-License-Identifier: MIT */
#include "lib/guest.h"

extern char trap_stubs[], user_return[], start_stack_top[], trap_stack_top[], user_stack_top[], guest_end[];

/* Console: the first serial port, and the debug console of other machines. */

static void put(char c)
{
    if (c == '\n')
        put('\r');
    for (unsigned i = 0; i < 100000 && !(inb(0x3fd) & 0x20); i++)
        ;
    outb(0x3f8, c);
    outb(0xe9, c);
}

static void put_number(uint32_t v, unsigned base, bool negative, unsigned width, char fill)
{
    char digits[12];
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
        f++;
        if (*f == '0')
            fill = *f++;
        while (*f >= '0' && *f <= '9')
            width = width * 10 + (*f++ - '0');
        while (*f == 'l')
            f++;
        switch (*f) {
        case 'c':
            put(va_arg(args, int));
            break;
        case 's':
            for (const char *s = va_arg(args, const char *); *s; s++)
                put(*s);
            break;
        case 'd': {
            int v = va_arg(args, int);
            put_number(v < 0 ? -(uint32_t)v : (uint32_t)v, 10, v < 0, width, fill);
            break;
        }
        case 'u':
            put_number(va_arg(args, uint32_t), 10, false, width, fill);
            break;
        case 'x':
        case 'p':
            put_number(va_arg(args, uint32_t), 16, false, width, fill);
            break;
        default:
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
    outb(0xf4, status);
    for (const char *s = "Shutdown"; *s; s++) /* Bochs */
        outb(0x8900, *s);
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

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
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

void check_equal(const char *name, uint32_t got, uint32_t expected)
{
    check(got == expected, name, "got %x, expected %x", got, expected);
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
uint64_t idt[256] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(4096)));

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    uint32_t low = (limit & 0xffff) | base << 16;
    uint32_t high = (base >> 16 & 0xff) | access << 8 | (limit & 0xf0000) | (flags & 15) << 20 | (base & 0xff000000);
    return (uint64_t)high << 32 | low;
}

uint64_t gate(unsigned selector, uint32_t offset, unsigned access, unsigned parameters)
{
    uint32_t low = (offset & 0xffff) | selector << 16;
    uint32_t high = (offset & 0xffff0000) | access << 8 | (parameters & 31);
    return (uint64_t)high << 32 | low;
}

void gdt_set(unsigned selector, uint64_t d)
{
    gdt[(selector >> 3) % GDT_ENTRIES] = d;
}

void idt_reset(void)
{
    for (unsigned i = 0; i < 256; i++)
        idt[i] = gate(SEL_CODE, (uint32_t)trap_stubs + 16 * i, i == USER_DONE ? 0xee : 0x8e, 0);
}

static void segments_init(void)
{
    static struct {
        uint16_t limit;
        uint32_t base;
    } __attribute__((packed)) table;
    gdt_set(SEL_CODE, descriptor(0, 0xfffff, 0x9b, SEG_G | SEG_D));
    gdt_set(SEL_DATA, descriptor(0, 0xfffff, 0x93, SEG_G | SEG_D));
    gdt_set(SEL_USER_CODE, descriptor(0, 0xfffff, 0xfb, SEG_G | SEG_D));
    gdt_set(SEL_USER_DATA, descriptor(0, 0xfffff, 0xf3, SEG_G | SEG_D));
    gdt_set(SEL_TSS, descriptor((uint32_t)&tss, sizeof tss - 1, 0x89, 0));
    tss.ss0 = SEL_DATA;
    tss.esp0 = (uint32_t)trap_stack_top;
    tss.io_map = offsetof(struct tss, map);
    memset(tss.map, 0xff, sizeof tss.map);
    table.limit = sizeof gdt - 1;
    table.base = (uint32_t)gdt;
    __asm__ volatile("lgdt %0; ljmp %1, $1f; 1:" ::"m"(table), "i"(SEL_CODE));
    __asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss; mov %1, %%fs; mov %1, %%gs" ::"r"(SEL_DATA), "r"(0));
    idt_reset();
    table.limit = sizeof idt - 1;
    table.base = (uint32_t)idt;
    __asm__ volatile("lidt %0; lldt %w1; ltr %w2" ::"m"(table), "r"(0), "r"(SEL_TSS));
}

/* Traps. */

struct trap trap;
uint32_t trap_cr2, trap_dr6, trap_frame, trap_expected_eip;
trap_hook *trap_hooks[256];
extern uint32_t trap_saved_esp;

void trap_handle(struct trap *frame);
void trap_handle(struct trap *frame)
{
    uint32_t cr2 = read_cr2();
    unsigned vector = frame->vector & 0xff;
    if (trap_hooks[vector] && trap_hooks[vector](frame))
        return;
    bool outer = (frame->cs & 3) || (frame->eflags & FLAG_VM);
    if (!trap_saved_esp) {
        printf("FAIL unexpected trap %u error %x at %x:%08x flags %x cr2 %x\n", vector, frame->error,
               frame->cs & 0xffff, frame->eip, frame->eflags, cr2);
        printf("     eax %08x ebx %08x ecx %08x edx %08x esi %08x edi %08x ebp %08x esp %08x\n", frame->eax, frame->ebx,
               frame->ecx, frame->edx, frame->esi, frame->edi, frame->ebp, (uint32_t)&frame->esp);
        guest_exit(1);
    }
    memset(&trap, 0, sizeof trap);
    memcpy(&trap, frame,
           frame->eflags & FLAG_VM ? sizeof trap
           : outer                 ? offsetof(struct trap, v86_es)
                                   : offsetof(struct trap, esp));
    trap_cr2 = cr2;
    trap_dr6 = read_dr6();
    trap_frame = (uint32_t)frame;
    trap_leave(vector);
}

void frame_flat(struct trap *frame)
{
    memset(frame, 0, sizeof *frame);
    frame->cs = SEL_USER_CODE;
    frame->ds = frame->es = frame->ss = SEL_USER_DATA;
    frame->eflags = 2;
    frame->esp = (uint32_t)user_stack_top - 64;
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

int user_call_flags(void (*fn)(void *), void *arg, uint32_t flags)
{
    struct trap frame;
    frame_flat(&frame);
    uint32_t *stack = (uint32_t *)frame.esp;
    stack[0] = (uint32_t)user_return;
    stack[1] = (uint32_t)arg;
    frame.eip = (uint32_t)fn;
    frame.eflags = flags | 2;
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
    uint32_t eip = trap_expected_eip;
    trap_expected_eip = 0;
    return got == expected &&
           (expected == NO_TRAP || ((!has_error(expected) || trap.error == error) && (!eip || trap.eip == eip)));
}

void check_trap(const char *name, int got, int expected, uint32_t error)
{
    uint32_t eip = trap_expected_eip;
    if (got == NO_TRAP)
        trap.error = trap.eip = 0;
    check(trap_is(got, expected, error), name, "got #%d error %x at %x, expected #%d error %x at %x", got, trap.error,
          trap.eip, expected, error, eip);
}

/* Pages. */

static uint32_t page_next;

void *page_alloc_many(unsigned n)
{
    if (!page_next)
        page_next = ((uint32_t)guest_end + 0xfff) & ~0xfffu;
    void *p = (void *)page_next;
    page_next += n * 4096;
    return memset(p, 0, n * 4096);
}

void *page_alloc(void)
{
    return page_alloc_many(1);
}

uint32_t *paging_entry(uint32_t *directory, uint32_t address)
{
    uint32_t *pde = &directory[address >> 22];
    if (!(*pde & PTE_P))
        *pde = (uint32_t)page_alloc() | PTE_P | PTE_W | PTE_U;
    return (uint32_t *)(*pde & ~0xfffu) + (address >> 12 & 1023);
}

uint32_t *paging_identity(unsigned megabytes)
{
    uint32_t *directory = page_alloc();
    for (uint32_t a = 0; a < megabytes << 20; a += 4096)
        *paging_entry(directory, a) = a | PTE_P | PTE_W | PTE_U;
    return directory;
}

void paging_on(uint32_t *directory)
{
    write_cr3((uint32_t)directory);
    write_cr0(read_cr0() | CR0_PG);
}

void paging_off(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    write_cr3(0);
}

/* Interrupt controllers and timer. */

static uint16_t pic_masks;

static void pic_write_masks(void)
{
    outb(0x21, pic_masks);
    outb(0xa1, pic_masks >> 8);
}

void pic_mask_all(void)
{
    pic_masks = 0xffff;
    pic_write_masks();
}

void pic_unmask(unsigned irq)
{
    pic_masks &= ~(1u << irq);
    if (irq >= 8)
        pic_masks &= ~4u;
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
    outb(0x40, divisor);
    outb(0x40, divisor >> 8);
}

void guest_start(uint32_t magic, uint32_t info);
void guest_start(uint32_t magic, uint32_t info)
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
