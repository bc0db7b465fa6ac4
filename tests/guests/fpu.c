/* SPDX-License-Identifier: MIT */
/* x87 and SSE state: what an operating system's lazy switching relies on (#NM with CR0.TS, fnsave/frstor,
 * fxsave/fxrstor), control words, and that the state lives through interrupts, ring changes and emulated instructions.
 */
#include "lib/guest.h"

struct fx {
    uint16_t control, status;
    uint8_t tags, reserved;
    uint16_t opcode;
    uint32_t ip;
    uint16_t cs, reserved2;
    uint32_t dp;
    uint16_t ds, reserved3;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16], xmm[16][16], rest[96];
} __attribute__((aligned(16)));

static struct fx task_a, task_b, now;
static unsigned switches;
static struct fx *owner, *wanted;

/* The textbook's lazy switch. */
static bool on_not_available(struct trap *frame)
{
    switches++;
    __asm__ volatile("clts");
    if (owner != wanted) {
        __asm__ volatile("fxsave %0" : "=m"(*owner));
        __asm__ volatile("fxrstor %0" ::"m"(*wanted));
        owner = wanted;
    }
    return true;
}

static void to_task(struct fx *task)
{
    wanted = task;
    write_cr0(read_cr0() | CR0_TS);
}

static void lazy(void)
{
    __asm__ volatile("fninit; fxsave %0" : "=m"(task_a));
    task_b = task_a;
    owner = &task_a;
    trap_hooks[NM] = on_not_available;
    uint32_t a = 0, b = 1000, out;
    to_task(&task_a);
    __asm__ volatile("fildl %0; movd %0, %%xmm3" ::"m"(a));
    to_task(&task_b);
    __asm__ volatile("fildl %0; movd %0, %%xmm3" ::"m"(b));
    for (unsigned i = 0; i < 100; i++) {
        to_task(&task_a);
        __asm__ volatile("fld1; faddp; movd %%xmm3, %%eax; inc %%eax; movd %%eax, %%xmm3" ::: "eax");
        to_task(&task_b);
        __asm__ volatile("fld1; fsubrp; fchs; fchs" ::: "eax");
        __asm__ volatile("movd %%xmm3, %%eax; dec %%eax; movd %%eax, %%xmm3" ::: "eax");
    }
    to_task(&task_a);
    __asm__ volatile("fistl %0" : "=m"(out));
    check_equal("x87 of the first task", out, 100);
    __asm__ volatile("movd %%xmm3, %0" : "=r"(out));
    check_equal("SSE of the first task", out, 100);
    to_task(&task_b);
    __asm__ volatile("movd %%xmm3, %0" : "=r"(out));
    check_equal("SSE of the second task", out, 900);
    /* Without another task's turn in between, TS costs one trap and no switch. */
    unsigned before = switches;
    to_task(&task_b);
    __asm__ volatile("fnop; fnop; xorps %%xmm0, %%xmm0" :::);
    check_equal("one #NM for each setting of TS", switches - before, 1);
    trap_hooks[NM] = NULL;
    __asm__ volatile("clts; fninit");
}

static void fill(uint32_t seed)
{
    static uint32_t v[4] __attribute__((aligned(16)));
    __asm__ volatile("fninit");
    for (unsigned i = 0; i < 8; i++) {
        uint32_t n = seed + i;
        __asm__ volatile("fildl %0" ::"m"(n));
    }
#define FILL(n)                                                                                                        \
    v[0] = seed * 16 + n, v[1] = ~v[0], v[2] = v[0] * 3, v[3] = v[0] * 5;                                              \
    __asm__ volatile("movaps %0, %%xmm" #n ::"m"(v))
    FILL(0);
    FILL(1);
    FILL(2);
    FILL(3);
    FILL(4);
    FILL(5);
    FILL(6);
    FILL(7);
}

static void same_state(const char *name, const struct fx *a)
{
    __asm__ volatile("fxsave %0" : "=m"(now));
    bool same = now.control == a->control && now.status == a->status && now.tags == a->tags && now.mxcsr == a->mxcsr &&
                !memcmp(now.st, a->st, sizeof now.st) && !memcmp(now.xmm, a->xmm, 128);
    check(same, name, "control %x/%x status %x/%x tags %x/%x mxcsr %x/%x st %d xmm %d", now.control, a->control,
          now.status, a->status, now.tags, a->tags, now.mxcsr, a->mxcsr, !memcmp(now.st, a->st, sizeof now.st),
          !memcmp(now.xmm, a->xmm, 128));
}

static void user_work(void *arg)
{
    __asm__ volatile("nop");
}
static volatile unsigned ticks;
static bool on_tick(struct trap *frame)
{
    ticks++;
    pic_eoi(0);
    return true;
}

static void survives(void)
{
    static struct fx image;
    fill(7);
    __asm__ volatile("fxsave %0" : "=m"(image));
    same_state("fxsave twice", &image);
    uint32_t r[4];
    cpuid(0, 0, r);
    read_cr0();
    outb(0x80, 0);
    inb(0x61);
    write_cr3(read_cr3());
    same_state("after CPUID, CR and port instructions", &image);
    user_call(user_work, 0);
    same_state("after a turn in ring 3", &image);
    trap_hooks[0x20] = on_tick;
    pit_start(1193);
    pic_unmask(0);
    ticks = 0;
    __asm__ volatile("sti" ::: "memory");
    while (ticks < 5)
        ;
    __asm__ volatile("hlt; cli" ::: "memory");
    pic_mask_all();
    same_state("after interrupts and HLT", &image);
    for (unsigned i = 0; i < 1000; i++)
        outb(0x3f9, 0); /* a chip behind a slow path */
    same_state("after a thousand port accesses", &image);
}

static void images(void)
{
    static struct fx image;
    static uint8_t old[108] __attribute__((aligned(16)));
    fill(42);
    __asm__ volatile("fxsave %0" : "=m"(image));
    check_equal("control word after fninit", image.control, 0x37f);
    check_equal("abridged tags, all full", image.tags, 0xff);
    check_equal("MXCSR after reset", image.mxcsr, 0x1f80);
    __asm__ volatile("fnsave %0" : "=m"(old));
    check_equal("fnsave's control word", *(uint16_t *)old, 0x37f);
    check_equal("fnsave's tags", *(uint16_t *)(old + 8), 0);
    check(!memcmp(old + 28, image.st[0], 10), "fnsave's ST(0)", " ");
    uint16_t sw, cw;
    __asm__ volatile("fnstsw %0; fnstcw %1" : "=m"(sw), "=m"(cw));
    check(sw == 0 && cw == 0x37f, "fnsave initialises", "%x %x", sw, cw);
    __asm__ volatile("frstor %0" ::"m"(old));
    same_state("frstor", &image);
    fill(1);
    __asm__ volatile("fxrstor %0" ::"m"(image));
    same_state("fxrstor", &image);
    /* Tags: two values, one of them freed. */
    __asm__ volatile("fninit; fldz; fld1; ffree %%st(0); fxsave %0" : "=m"(image));
    check_equal("tags after fldz, fld1, ffree", image.tags, 0x80);
    __asm__ volatile("fnstenv %0" : "=m"(old));
    check_equal("fnstenv's tags", *(uint16_t *)(old + 8), 0x7fff);
    /* FNSTENV masks all exceptions; FXSAVE does not. */
    uint16_t open = 0x340;
    __asm__ volatile("fninit; fldcw %1; fnstenv %0; fnstcw %2" : "=m"(old) : "m"(open), "m"(cw));
    __asm__ volatile("fnstcw %0" : "=m"(cw));
    check_equal("fnstenv masks", cw & 0x3f, 0x3f);
    __asm__ volatile("fninit");
    /* emms and MMX over the x87 registers. */
    __asm__ volatile("fninit; pxor %%mm0, %%mm0; fxsave %0; emms" : "=m"(image));
    check_equal("MMX marks all full", image.tags, 0xff);
    check_equal("and sets the exponent", *(uint16_t *)(image.st[0] + 8), 0xffff);
    __asm__ volatile("fxsave %0" : "=m"(image));
    check_equal("emms empties", image.tags, 0);
}

static void arithmetic(void)
{
    uint32_t ten = 10, out[3];
    uint16_t modes[] = {0x37f, 0x77f, 0xb7f, 0xf7f};
    static const int32_t want_up[] = {3, 3, 4, 3}, want_down[] = {-3, -4, -3, -3};
    for (unsigned i = 0; i < 4; i++) {
        uint32_t three = 3;
        __asm__ volatile("fninit; fldcw %2; fildl %3; fidivl %4; fistl %0; fchs; fistpl %1"
                         : "=m"(out[0]), "=m"(out[1])
                         : "m"(modes[i]), "m"(ten), "m"(three));
        tally((int32_t)out[0] == want_up[i] && (int32_t)out[1] == want_down[i], "rounding", "%x: %d %d", modes[i],
              out[0], out[1]);
    }
    /* 80-bit precision: (1 + 2^-60) - 1 is not 0 with 64 bits of mantissa, and is with 53. */
    uint16_t double_precision = 0x27f;
    static const uint64_t tiny = 0x3c30000000000000; /* 2^-60 */
    uint64_t left, right;
    __asm__ volatile(
        "fninit; fldl %2; fld1; faddp; fld1; fsubrp; fstpl %0; fldcw %3; fldl %2; fld1; faddp; fld1; fsubrp; fstpl %1"
        : "=m"(left), "=m"(right)
        : "m"(tiny), "m"(double_precision));
    tally((left & 0x7fffffffffffffff) == tiny && (right & 0x7fffffffffffffff) == 0, "precision", "%x %x",
          (uint32_t)(left >> 32), (uint32_t)(right >> 32));
    /* 2^60 + ... through fild/fbstp: packed decimal. */
    static uint8_t packed[10];
    uint64_t number = 123456789012345678ull;
    __asm__ volatile("fninit; fildll %1; fbstp %0" : "=m"(packed) : "m"(number));
    static const uint8_t want[] = {0x78, 0x56, 0x34, 0x12, 0x90, 0x78, 0x56, 0x34, 0x12, 0};
    tally(!memcmp(packed, want, 10), "fbstp", "%x %x", packed[0], packed[8]);
    /* fsin and kin work at all, and fprem gives the remainder. */
    uint32_t seven = 7, seventeen = 17;
    __asm__ volatile("fninit; fildl %1; fildl %2; fprem; fistpl %0" : "=m"(out[0]) : "m"(seven), "m"(seventeen));
    tally(out[0] == 3, "fprem", "%u", out[0]);
    __asm__ volatile("fninit; fldpi; fsin; fld1; fcompp; fnstsw %%ax; mov %%eax, %0" : "=m"(out[0])::"eax");
    tally(!(out[0] & 0x100), "fsin of pi is below 1", "%x", out[0]);
    __asm__ volatile("fninit; fldz; fld1; fcomi %%st(1), %%st; seta %b0; movzbl %b0, %0" : "=q"(out[0])::"cc");
    tally(out[0] == 1, "fcomi", "%u", out[0]);
    __asm__ volatile("fninit; fldz; fld1; fdivp %%st, %%st(1); fnstsw %%ax; movzwl %%ax, %0" : "=r"(out[0])::"eax");
    tally((out[0] & 0x3f) == 0 || (out[0] & 0x3f) == 4, "division status", "%x", out[0]);
    /* Stack overflow: C1 and IE. */
    __asm__ volatile("fninit; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fld1; fnstsw %%ax; movzwl %%ax, %0"
                     : "=r"(out[0])::"eax");
    tally((out[0] & 0x241) == 0x241, "stack overflow", "%x", out[0]);
    __asm__ volatile("fninit");
    /* SSE, with the flags of MXCSR. */
    uint32_t clean = 0x1f80, mxcsr;
    __asm__ volatile("ldmxcsr %1; mov $1, %%eax; cvtsi2ss %%eax, %%xmm0; mov $3, %%eax; cvtsi2ss %%eax, %%xmm1; divss "
                     "%%xmm1, %%xmm0; stmxcsr %0"
                     : "=m"(mxcsr)
                     : "m"(clean)
                     : "eax");
    tally(mxcsr == 0x1fa0, "inexact in MXCSR", "%x", mxcsr);
    __asm__ volatile("ldmxcsr %0" ::"m"(clean));
    tally_end("arithmetic");
}

void guest_main(void)
{
    write_cr0((read_cr0() | CR0_NE | CR0_MP) & ~(CR0_EM | CR0_TS));
    write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    __asm__ volatile("fninit");
    images();
    arithmetic();
    lazy();
    survives();
}
