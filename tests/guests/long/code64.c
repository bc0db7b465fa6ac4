/* SPDX-License-Identifier: MIT */
/* 64-bit code that is not about protection: self-modifying code, strings with 64-bit counts and addresses, interrupts
 * that stop and resume code in every register, x87, SSE and AVX state. */
#include "lib64/guest.h"

/* ---- self-modifying code ---- */

typedef uint64_t function(uint64_t);

static void self_modifying(void)
{
    uint8_t *code = page_alloc(), *second = page_alloc();
    /* mov rax, imm64; ret */
    static const uint8_t load[] = {0x48, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0xc3};
    memcpy(code, load, sizeof load);
    for (uint64_t i = 0; i < 300; i++) {
        uint64_t v = i * 0x0101010101010101;
        memcpy(code + 2, &v, 8);
        tally(((function *)(uint64_t)code)(0) == v, "patched constant", "%lx", v);
    }
    /* code that patches itself a few bytes ahead: mov byte [rip+1], dil; mov al, 0; movzx eax, al; ret */
    static const uint8_t ahead[] = {0x40, 0x88, 0x3d, 1, 0, 0, 0, 0xb0, 0, 0x0f, 0xb6, 0xc0, 0xc3};
    memcpy(code, ahead, sizeof ahead);
    for (uint64_t i = 0; i < 300; i++)
        tally(((function *)(uint64_t)code)(i & 0xff) == (i & 0xff), "patched ahead", "%lx", i);
    /* across a page: the constant lies in the second page */
    uint8_t *at = second - 5;
    if (second == code + 4096) {
        memcpy(at, load, sizeof load);
        for (uint64_t i = 0; i < 100; i++) {
            at[9] = (uint8_t)i;
            tally(((function *)(uint64_t)at)(0) == i << 56, "patched across pages", "%lx", i);
        }
    }
    /* through another address of the same page */
    const uint64_t alias = 0x20000000000;
    *page_entry(alias, 1) = (uint64_t)code | PTE_P | PTE_W;
    memcpy(code, load, sizeof load);
    for (uint64_t i = 0; i < 100; i++) {
        *(volatile uint64_t *)(alias + 2) = i;
        tally(((function *)(uint64_t)code)(0) == i && ((function *)alias)(0) == i, "patched by an alias", "%lx", i);
    }
    tally_end("self-modifying code");
}

/* ---- strings ---- */

static void strings(void)
{
    uint8_t *a = page_alloc(), *b = page_alloc();
    uint64_t count, from, to;

    for (unsigned i = 0; i < 4096; i++)
        a[i] = (uint8_t)(i * 7);
    count = 512, from = (uint64_t)a, to = (uint64_t)b;
    __asm__ volatile("rep movsq" : "+c"(count), "+S"(from), "+D"(to)::"memory");
    check(!count && from == (uint64_t)a + 4096 && to == (uint64_t)b + 4096 && !memcmp(a, b, 4096), "rep movsq",
          "rcx %lx rsi %lx rdi %lx", count, from, to);
    /* a 32-bit address size: ECX counts, and the upper halves go */
    count = 0xffffffff00000010, from = 0xdead00000000 | (uint64_t)a, to = 0xbeef00000000 | (uint64_t)b;
    memset(b, 0, 4096);
    __asm__ volatile("addr32 rep movsb" : "+c"(count), "+S"(from), "+D"(to)::"memory");
    check(count == 0 && from == (uint64_t)a + 16 && to == (uint64_t)b + 16 && !memcmp(a, b, 16) && !b[16],
          "addr32 rep movsb", "rcx %lx rsi %lx rdi %lx", count, from, to);
    count = 100, to = (uint64_t)a;
    __asm__ volatile("repne scasb" : "+c"(count), "+D"(to) : "a"(7 * 20) : "cc");
    check(count == 79 && to == (uint64_t)a + 21, "repne scasb", "rcx %lx rdi %lx", count, to);
    memcpy(b, a, 4096);
    b[1000] ^= 1;
    count = 512, from = (uint64_t)a, to = (uint64_t)b;
    __asm__ volatile("repe cmpsq" : "+c"(count), "+S"(from), "+D"(to)::"cc");
    check(count == 512 - 126 && from == (uint64_t)a + 1008, "repe cmpsq", "rcx %lx rsi %lx", count, from);
    /* stopped by a fault in the middle: the registers say how far it came */
    const uint64_t base = 0x30000000000;
    *page_entry(base, 1) = (uint64_t)b | PTE_P | PTE_W;
    *page_entry(base + 4096, 1) = 0;
    struct trap frame;
    static const uint8_t code[] = {0xf3, 0x48, 0xab, 0xcd, 0x80}; /* rep stosq; int 80 */
    uint8_t *text = page_alloc();
    memcpy(text, code, sizeof code);
    frame_flat(&frame);
    frame.cs = SEL_CODE;
    frame.ss = SEL_DATA;
    frame.rip = (uint64_t)text;
    frame.rcx = 1ul << 40;
    frame.rdi = base + 8;
    frame.rax = 0x1122334455667788;
    int got = frame_call(&frame);
    check(got == PF && trap_cr2 == base + 4096 && trap.rdi == base + 4096 && trap.rcx == (1ul << 40) - 511 &&
              trap.rip == frame.rip,
          "rep stosq with a count of 2^40 up to a hole", "#%d rcx %lx rdi %lx", got, trap.rcx, trap.rdi);
    /* downwards, to high addresses */
    const uint64_t high = 0xffffffffc0000000;
    *page_entry(high, 1) = (uint64_t)b | PTE_P | PTE_W;
    count = 4096, to = high + 4095;
    __asm__ volatile("std; rep stosb; cld" : "+c"(count), "+D"(to) : "a"(0x5a) : "memory");
    check(to == high - 1 && b[0] == 0x5a && b[4095] == 0x5a, "std; rep stosb in the upper half", "rdi %lx", to);
}

/* ---- interrupts ---- */

static volatile uint64_t ticks;
static bool tick(struct trap *frame)
{
    ticks++;
    pic_eoi(0);
    return true;
}

/* Sixteen registers change with every turn; whoever loses one is found out. */
static uint64_t churn(uint64_t turns)
{
    uint64_t wrong;
    __asm__ volatile("push %%rbp\n"
                     "mov $1, %%rax; mov $2, %%rbx; mov $3, %%rdx; mov $4, %%rsi; mov $5, %%rdi; mov $6, %%rbp\n"
                     "mov $7, %%r8; mov $8, %%r9; mov $9, %%r10; mov $10, %%r11; mov $11, %%r12; mov $12, %%r13\n"
                     "mov $13, %%r14; xor %%r15d, %%r15d\n"
                     "1: rol $1, %%rax; rol $1, %%rbx; rol $1, %%rdx; rol $1, %%rsi; rol $1, %%rdi; rol $1, %%rbp\n"
                     "rol $1, %%r8; rol $1, %%r9; rol $1, %%r10; rol $1, %%r11; rol $1, %%r12; rol $1, %%r13\n"
                     "rol $1, %%r14\n"
                     "stc; inc %%r15; jnc 3f\n" /* CF survives inc, and interrupts */
                     "dec %%rcx; jnz 1b\n"
                     "2: sub $1, %%rax; sub $2, %%rbx; sub $3, %%rdx; sub $4, %%rsi; sub $5, %%rdi; sub $6, %%rbp\n"
                     "sub $7, %%r8; sub $8, %%r9; sub $9, %%r10; sub $10, %%r11; sub $11, %%r12; sub $12, %%r13\n"
                     "sub $13, %%r14\n"
                     "or %%rbx, %%rax; or %%rdx, %%rax; or %%rsi, %%rax; or %%rdi, %%rax; or %%rbp, %%rax\n"
                     "or %%r8, %%rax; or %%r9, %%rax; or %%r10, %%rax; or %%r11, %%rax; or %%r12, %%rax\n"
                     "or %%r13, %%rax; or %%r14, %%rax; jmp 4f\n"
                     "3: mov $-1, %%rax\n"
                     "4: pop %%rbp"
                     : "=a"(wrong), "+c"(turns)::"rbx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
                       "r14", "r15", "memory", "cc");
    return wrong;
}

static void interrupts(void)
{
    trap_hooks[0x20] = tick;
    pit_start(1193); /* a thousand a second */
    pic_unmask(0);
    uint64_t rounds = 0, wrong = 0;
    __asm__ volatile("sti");
    while (ticks < 100 && rounds < 200000) {
        wrong |= churn(64 * 50);
        rounds++;
    }
    __asm__ volatile("cli");
    check(ticks >= 100 && !wrong, "100 timer interrupts into a loop", "%lu ticks, %lx", ticks, wrong);
    uint64_t before = ticks;
    for (unsigned i = 0; i < 10; i++)
        __asm__ volatile("sti; hlt; cli");
    check(ticks >= before + 10, "sti; hlt", "%lu", ticks - before);
    pic_mask_all();
    trap_hooks[0x20] = NULL;
}

/* ---- x87, SSE, AVX ---- */

static uint8_t area[2][1024] __attribute__((aligned(64)));

static void vectors(void)
{
    uint32_t r[4];
    uint64_t pattern[4];
    uint8_t *before = area[0], *after = area[1];

    cpuid(1, 0, r);
    __asm__ volatile("fninit; fld1; fldpi\n"
                     "mov $0x1122334455667788, %%rax; movq %%rax, %%xmm0; movq %%rax, %%xmm8; movq %%rax, %%xmm15\n"
                     "fxsave64 %0\n"
                     "pxor %%xmm0, %%xmm0; pxor %%xmm8, %%xmm8; pxor %%xmm15, %%xmm15; fninit\n"
                     "fxrstor64 %0; fxsave64 %1"
                     : "+m"(area[0]), "+m"(area[1])::"rax", "memory");
    check(!memcmp(before + 160, after + 160, 256) && !memcmp(before + 32, after + 32, 128) && after[4] == before[4],
          "fxsave64 and fxrstor64", "%s", "");
    memcpy(pattern, after + 160 + 16 * 15, 8);
    check_equal("XMM15", pattern[0], 0x1122334455667788);
    memset(after, 0xee, 512);
    __asm__ volatile("fxsave %0" : "+m"(area[1])::"memory");
    check(after[160 + 16 * 8] == 0x88, "fxsave saves XMM8 in 64-bit mode", "%x", after[160 + 16 * 8]);
    if (!(r[2] & 1 << 26))
        return;
    write_cr4(read_cr4() | CR4_OSXSAVE);
    __asm__ volatile("xsetbv" ::"c"(0), "a"(r[2] & 1 << 28 ? 7 : 3), "d"(0));
    if (!(r[2] & 1 << 28))
        return;
    for (unsigned i = 0; i < 4; i++)
        pattern[i] = 0x0101010101010101 * (i + 1);
    memset(area, 0, sizeof area);
    __asm__ volatile("vmovdqu %2, %%ymm9; vpaddd %%ymm9, %%ymm9, %%ymm10\n"
                     "mov $7, %%eax; xor %%edx, %%edx; xsave64 %0\n"
                     "vzeroall\n"
                     "xrstor64 %0\n"
                     "vmovdqu %%ymm10, %1"
                     : "+m"(area[0]), "=m"(area[1])
                     : "m"(pattern)
                     : "rax", "rdx", "memory");
    memcpy(pattern, after, 32);
    check(pattern[0] == 0x0202020202020202 && pattern[3] == 0x0808080808080808, "xsave64 keeps YMM10", "%lx %lx",
          pattern[0], pattern[3]);
    __asm__ volatile("vzeroupper");
}

/* ---- 64-bit arithmetic and addressing ---- */

static uint64_t words[4] = {1, 0x8000000000000000, 0xffffffff, 0x123456789abcdef0};

static void arithmetic(void)
{
    uint64_t low, high, v;

    __asm__("mulq %3" : "=a"(low), "=d"(high) : "a"(words[3]), "m"(words[3]));
    check(low == 0xa5e20890f2a52100 && high == 0x14b66dc33f6acdc, "mul", "%lx:%lx", high, low);
    __asm__("divq %4" : "=a"(low), "=d"(high) : "a"(5), "d"(1), "r"(3ul));
    check(low == 0x5555555555555557 && high == 0, "div of 128 bits", "%lx rest %lx", low, high);
    __asm__("mov %1, %0" : "=r"(v) : "m"(words[3]));
    check_equal("RIP-relative", v, 0x123456789abcdef0);
    __asm__("movslq %1, %0" : "=r"(v) : "m"(words[1]));
    check_equal("movsxd", v, 0);
    __asm__("mov $-1, %0; mov %k0, %k0" : "=r"(v));
    check_equal("a move of 32 bits clears the rest", v, 0xffffffff);
    __asm__("mov $-1, %0; movw $0, %w0" : "=r"(v));
    check_equal("a move of 16 bits does not", v, 0xffffffffffff0000);
    __asm__("xor %%r12d, %%r12d; mov $0x1234, %%r12w; mov %%r12, %0" : "=r"(v)::"r12");
    check_equal("R12W", v, 0x1234);
    __asm__("bswap %0" : "=r"(v) : "0"(words[3]));
    check_equal("bswap", v, 0xf0debc9a78563412);
    __asm__("mov $0x123456789, %%rcx; jrcxz 1f; mov $1, %k0; jmp 2f; 1: mov $2, %k0; 2:" : "=&r"(v)::"rcx");
    check_equal("jrcxz", v, 1);
    __asm__("mov $0x100000000, %%rcx; jecxz 1f; mov $1, %k0; jmp 2f; 1: mov $2, %k0; 2:" : "=&r"(v)::"rcx");
    check_equal("jecxz", v, 2);
    __asm__("mov $0x100000003, %%rcx; xor %k0, %k0; 1: inc %k0; addr32 loop 1b" : "=&r"(v)::"rcx");
    check_equal("loop by ECX", v, 3);
    __asm__(".byte 0x48, 0xa1; .quad %c1; mov %%rax, %0" /* mov rax, [moffs64] */ : "=r"(v) : "i"(&words[3]) : "rax");
    check_equal("moffs", v, 0x123456789abcdef0);
    uint64_t pair[2] __attribute__((aligned(16))) = {5, 6};
    bool equal;
    __asm__("cmpxchg16b %1" : "=@ccz"(equal), "+m"(pair) : "a"(5), "d"(6), "b"(7), "c"(8));
    check(equal && pair[0] == 7 && pair[1] == 8, "cmpxchg16b", "%lx %lx", pair[0], pair[1]);
}

void guest_main(void)
{
    arithmetic();
    self_modifying();
    strings();
    interrupts();
    vectors();
}
