/* SPDX-License-Identifier: MIT */
/* Interrupts: the timer wakes HLT, STI and MOV SS hold off for one instruction, a busy loop is interrupted, priorities
 * and masks of the PICs, the RTC and keyboard lines. */
#include "lib/guest.h"

static volatile unsigned ticks, rtc_ticks;
static volatile uint32_t tick_eip;

static bool on_tick(struct trap *frame)
{
    ticks++;
    tick_eip = frame->eip;
    pic_eoi(0);
    return true;
}

static bool on_rtc(struct trap *frame)
{
    rtc_ticks++;
    outb(0x70, 0x0c); /* reading register C acknowledges */
    inb(0x71);
    pic_eoi(8);
    return true;
}

static void sti(void)
{
    __asm__ volatile("sti" ::: "memory");
}
static void cli(void)
{
    __asm__ volatile("cli" ::: "memory");
}

static void wait_for_pending(void)
{
    /* OCW3: read the request register; IRQ 0 is up while interrupts are off. */
    outb(0x20, 0x0a);
    for (unsigned i = 0; i < 10000000 && !(inb(0x20) & 1); i++)
        ;
}

static void halts(void)
{
    for (unsigned i = 0; i < 20; i++) {
        unsigned before = ticks;
        __asm__ volatile("sti; hlt; cli" ::: "memory");
        tally(ticks > before, "hlt", "round %u", i);
    }
    tally_end("the timer wakes HLT");
    /* A loop without any I/O is interrupted. */
    unsigned before = ticks;
    uint64_t start = read_tsc();
    sti();
    while (ticks < before + 5 && read_tsc() - start < 20000000000ull)
        ;
    cli();
    check(ticks >= before + 5, "a busy loop is interrupted", "%u ticks", ticks - before);
    /* And a tight one of a single jump, which the handler leads out of: it changes the loop's condition. */
    before = ticks;
    __asm__ volatile("sti; 1: cmpl %0, %1; je 1b; cli" ::"r"(before), "m"(ticks) : "memory", "cc");
    check(ticks != before, "a loop of two instructions is interrupted", "%u", ticks);
    before = ticks;
    start = read_tsc();
    for (volatile unsigned i = 0; i < 200000; i++)
        ;
    check_equal("no interrupt with IF clear", ticks, before);
}

static void shadows(void)
{
    uint32_t after;
    for (unsigned i = 0; i < 10; i++) {
        cli();
        wait_for_pending();
        /* The interrupt comes after the instruction that follows STI. */
        __asm__ volatile("movl $1f, %0; sti; nop; 1: nop; nop; cli" : "=r"(after)::"memory");
        tally(tick_eip == after, "sti", "at %x, expected %x", tick_eip, after);
        wait_for_pending();
        /* STI; CLI: the CLI is inside the shadow, so nothing comes. */
        unsigned before = ticks;
        __asm__ volatile("sti; cli; nop; nop" ::: "memory");
        tally(ticks == before, "sti cli", "%u", ticks - before);
        /* POPF has no shadow. */
        __asm__ volatile("movl $1f, %0; pushf; orl $0x200, (%%esp); popf; 1: nop; nop; cli"
                         : "=r"(after)::"memory", "cc");
        tally(tick_eip == after, "popf", "at %x, expected %x", tick_eip, after);
        wait_for_pending();
        /* MOV SS: popf sets IF in front of it? then the interrupt comes at once; so IF is set by STI, whose shadow
         * covers the MOV SS, whose own covers the next. */
        __asm__ volatile("movl $1f, %0; mov %%ss, %%ecx; sti; mov %%ecx, %%ss; nop; 1: nop; nop; cli"
                         : "=r"(after)::"ecx", "memory");
        tally(tick_eip == after || tick_eip == after - 1, "mov ss", "at %x, expected %x", tick_eip, after);
        wait_for_pending();
        /* IRET that sets IF: the interrupt comes before the next instruction. */
        __asm__ volatile("movl $1f, %0; pushf; orl $0x200, (%%esp); push %%cs; push $1f; iret; 1: nop; cli"
                         : "=r"(after)::"memory", "cc");
        tally(tick_eip == after, "iret", "at %x, expected %x", tick_eip, after);
    }
    tally_end("interrupt shadows");
}

static void masks(void)
{
    cli();
    pic_mask_all();
    unsigned before = ticks;
    sti();
    for (volatile unsigned i = 0; i < 1000000; i++)
        ;
    cli();
    check_equal("a masked line does not interrupt", ticks, before);
    pic_unmask(0);
    sti();
    for (unsigned i = 0; i < 3; i++)
        __asm__ volatile("hlt");
    cli();
    check(ticks > before, "unmasked again", "%u", ticks - before);
}

static void rtc(void)
{
    cli();
    outb(0x70, 0x0a);
    outb(0x71, 0x26); /* 1024 Hz */
    outb(0x70, 0x0b);
    outb(0x71, 0x42); /* periodic, 24 hours */
    outb(0x70, 0x0c);
    inb(0x71);
    pic_unmask(8);
    rtc_ticks = 0;
    sti();
    for (unsigned i = 0; i < 200 && rtc_ticks < 5; i++)
        __asm__ volatile("hlt");
    cli();
    check(rtc_ticks >= 5, "the RTC's periodic interrupt", "%u", rtc_ticks);
    outb(0x70, 0x0b);
    outb(0x71, 0x02);
    outb(0x70, 0x0c);
    inb(0x71);
}

static void user_loop(void *arg)
{
    volatile unsigned *t = arg;
    unsigned before = *t;
    while (*t == before)
        ;
}

static void from_user(void)
{
    unsigned before = ticks;
    int got = user_call_flags(user_loop, (void *)&ticks, FLAG_IF);
    cli();
    check(got == NO_TRAP && ticks > before, "ring 3 is interrupted", "#%d", got);
}

/* The channel counts down at 1.193182 MHz: two reads differ, and never go up within a period. */
static void counting(void)
{
    unsigned last = 0xffff, changes = 0;
    bool down = true;
    outb(0x43, 0x34);
    outb(0x40, 0xff);
    outb(0x40, 0xff);
    for (unsigned i = 0; i < 100; i++) {
        outb(0x43, 0);
        unsigned v = inb(0x40);
        v |= inb(0x40) << 8;
        if (v > last && last > 0x1000)
            down = false;
        changes += v != last;
        last = v;
    }
    check(down && changes > 2, "the counter counts down", "%u changes, now %x", changes, last);
}

void guest_main(void)
{
    trap_hooks[0x20] = on_tick;
    trap_hooks[0x28] = on_rtc;
    counting();
    pit_start(1193); /* 1 kHz */
    pic_unmask(0);
    halts();
    shadows();
    masks();
    from_user();
    rtc();
    pic_mask_all();
}
