/* SPDX-License-Identifier: MIT */
/* Self-modifying code: in the same block ahead of itself, in the same page, in another page, across a page edge,
 * through an alias, by string instructions, and code pages that change under a fixed address. A jump stands between the
 * write and the changed code only where the manual asks for one (SDM volume 3, 8.1.3: on the same linear address none
 * is). */
#include "lib/guest.h"

enum { WINDOW = 0x40000000, ALIAS = 0x40400000 };
static uint8_t *code; /* two pages */
static uint32_t *directory;

static uint32_t call(const void *at)
{
    uint32_t v;
    __asm__ volatile("call *%1" : "=a"(v) : "r"(at) : "ecx", "edx", "memory", "cc");
    return v;
}

/* mov $v, %eax; ret */
static void put_return(volatile uint8_t *at, uint32_t v)
{
    at[0] = 0xb8;
    for (unsigned i = 0; i < 4; i++)
        at[1 + i] = v >> 8 * i;
    at[5] = 0xc3;
}

static void ahead_in_the_block(void)
{
    /* The store changes the immediate of an instruction a few bytes further on, with no branch in between. */
    uint32_t v;
    for (unsigned i = 1; i < 50; i++) {
        __asm__ volatile("movl %1, 1f+1\n nop\n 1: movl $0, %%eax\n" : "=a"(v) : "r"(i) : "memory");
        tally(v == i, "ahead in the block", "round %u: %u", i, v);
    }
    /* It changes the very next opcode: inc becomes dec and back. */
    for (unsigned i = 0; i < 50; i++) {
        uint32_t opcode = i & 1 ? 0x48 : 0x40; /* inc eax / dec eax */
        __asm__ volatile("mov $100, %%eax; movb %b1, 1f\n 1: inc %%eax\n" : "=&a"(v) : "q"(opcode) : "memory", "cc");
        tally(v == (i & 1 ? 99u : 101u), "next instruction", "round %u: %u", i, v);
    }
    /* A loop that patches its own body each time round. */
    __asm__ volatile("xor %%eax, %%eax; mov $100, %%ecx\n"
                     "1: addl $1, 2f+2\n"
                     "2: lea 0(%%eax), %%eax\n"
                     "loop 1b\n"
                     : "=&a"(v)::"ecx", "memory", "cc");
    (void)v;
    tally_end("writes ahead in the running block");
}

static void loop_patch(void)
{
    /* add $imm8, %eax; the immediate grows by one each time: 1 + 2 + ... + 100. */
    uint32_t v;
    __asm__ volatile("movb $0, 2f+2; xor %%eax, %%eax; mov $100, %%ecx\n"
                     "1: incb 2f+2\n"
                     "2: addl $0, %%eax\n"
                     "loop 1b\n"
                     : "=&a"(v)::"ecx", "memory", "cc");
    check_equal("a loop that patches its body", v, 5050);
}

static void other_page(void)
{
    for (uint32_t i = 0; i < 2000; i++) {
        put_return(code + 64, i);
        tally(call(code + 64) == i, "other page", "round %u", i);
    }
    /* Data next to code in one page: the code must go on running right. */
    put_return(code, 77);
    volatile uint32_t *data = (uint32_t *)(code + 2048);
    for (uint32_t i = 0; i < 2000; i++) {
        *data = i;
        tally(call(code) == 77 && *data == i, "data beside code", "round %u", i);
    }
    /* Many small functions in a page, one of them changed at a time. */
    for (unsigned f = 0; f < 64; f++)
        put_return(code + 16 * f, f);
    for (unsigned i = 0; i < 1000; i++) {
        unsigned f = i * 7 % 64, g = i * 13 % 64;
        put_return(code + 16 * f, f + (i << 8));
        tally(call(code + 16 * f) == f + (i << 8) && (call(code + 16 * g) & 0xff) == g, "one of many", "round %u", i);
    }
    tally_end("code in another page");
}

static void across_pages(void)
{
    for (unsigned n = 1; n < 6; n++) {
        uint8_t *at = code + 4096 - n;
        put_return(at, 0x01020304);
        tally(call(at) == 0x01020304, "edge", "at -%u", n);
        for (unsigned b = 0; b < 4; b++) {
            at[1 + b] = 0xee; /* on either side of the edge */
            uint32_t want = (0x01020304 & ~(0xffu << 8 * b)) | 0xeeu << 8 * b;
            tally(call(at) == want, "edge", "at -%u byte %u: %x", n, b, call(at));
            at[1 + b] = 0x01020304 >> 8 * b;
        }
    }
    tally_end("an instruction across a page edge");
}

static void by_strings(void)
{
    uint8_t from[2][16];
    put_return(from[0], 0x11111111);
    put_return(from[1], 0x22222222);
    for (unsigned i = 0; i < 200; i++) {
        __asm__ volatile("rep movsb" ::"S"(from[i & 1]), "D"(code + 200), "c"(6) : "memory");
        tally(call(code + 200) == (i & 1 ? 0x22222222 : 0x11111111), "rep movsb", "round %u", i);
    }
    /* rep stos over the rest of its own function: the bytes behind become nops, and a ret was put there before. */
    static const uint8_t self[] = {0xb8, 0x90, 0x90, 0x90, 0x90, /* mov $0x90909090, %eax */
                                   0xf3, 0xaa,                   /* rep stosb */
                                   0xb8, 1,    0,    0,    0,    /* mov $1, %eax: overwritten */
                                   0xc3};
    memcpy(code + 300, self, sizeof self);
    uint32_t v, to = (uint32_t)code + 307, count = 5;
    __asm__ volatile("call *%3" : "=a"(v), "+D"(to), "+c"(count) : "r"(code + 300) : "memory", "cc");
    check_equal("rep stosb over the next instruction", v, 0x90909090);
    tally_end("code written by string instructions");
}

static void aliases(void)
{
    *paging_entry(directory, WINDOW) = (uint32_t)code | 7;
    *paging_entry(directory, ALIAS) = (uint32_t)code | 7;
    invlpg(WINDOW);
    invlpg(ALIAS);
    for (uint32_t i = 0; i < 500; i++) {
        put_return((uint8_t *)WINDOW + 128, i);
        tally(call((void *)(ALIAS + 128)) == i, "alias", "round %u", i);
        put_return((uint8_t *)ALIAS + 128, ~i);
        tally(call((void *)(WINDOW + 128)) == ~i && call(code + 128) == ~i, "alias back", "round %u", i);
    }
    tally_end("code written through another virtual address");

    /* Other pages behind one address. */
    uint8_t *pages[4];
    for (unsigned i = 0; i < 4; i++)
        put_return((pages[i] = page_alloc()) + 32, i);
    for (unsigned i = 0; i < 1000; i++) {
        *paging_entry(directory, WINDOW) = (uint32_t)pages[i * 3 % 4] | 7;
        invlpg(WINDOW);
        tally(call((void *)(WINDOW + 32)) == i * 3 % 4, "remapped", "round %u", i);
    }
    tally_end("other pages behind one address");

    /* The same code at two addresses, position-dependent: call pushes where it was. */
    static const uint8_t where[] = {0xe8, 0, 0, 0, 0, 0x58, 0xc3}; /* call .+5; pop %eax; ret */
    memcpy(pages[0] + 64, where, sizeof where);
    *paging_entry(directory, WINDOW) = (uint32_t)pages[0] | 7;
    *paging_entry(directory, ALIAS) = (uint32_t)pages[0] | 7;
    invlpg(WINDOW);
    invlpg(ALIAS);
    check_equal("code at one address", call((void *)(WINDOW + 64)), WINDOW + 69);
    check_equal("the same page at another", call((void *)(ALIAS + 64)), ALIAS + 69);

    /* A code page that becomes read-only and writable again, and one that goes away. */
    *paging_entry(directory, WINDOW) = (uint32_t)pages[1] | 5;
    invlpg(WINDOW);
    check_equal("read-only code", call((void *)(WINDOW + 32)), 1);
    put_return(pages[1] + 32, 9);
    check_equal("changed through its writable alias", call((void *)(WINDOW + 32)), 9);
    *paging_entry(directory, WINDOW) = 0;
    invlpg(WINDOW);
    check_trap("code that is gone", trap_call((void (*)(void *))(WINDOW + 32), 0), PF, 0);
    check_equal("EIP of the fetch", trap.eip, WINDOW + 32);
}

/* A function that writes over the page it runs in, by every store size. */
static void sizes(void)
{
    static const struct {
        const char *name;
        uint8_t bytes[8], n;
    } stores[] = {{"movb", {0x88, 0x0f}, 2}, {"movw", {0x66, 0x89, 0x0f}, 3},
                  {"movl", {0x89, 0x0f}, 2}, {"xchg", {0x87, 0x0f}, 2},
                  {"orl", {0x09, 0x0f}, 2},  {"lock xadd", {0xf0, 0x0f, 0xc1, 0x0f}, 4},
                  {"push", {0x51}, 1},       {"stosl", {0xab}, 1}};
    for (unsigned i = 0; i < sizeof stores / sizeof stores[0]; i++)
        for (unsigned round = 0; round < 4; round++) {
            /* store; mov $0, %eax; ret: the store changes the immediate. */
            uint8_t *p = code + 1024;
            memcpy(p, stores[i].bytes, stores[i].n);
            uint8_t *imm = p + stores[i].n + 1;
            put_return(imm - 1, 0);
            uint32_t v, value = 0x55 + round, to = (uint32_t)imm, a = value;
            uint32_t saved_esp;
            if (stores[i].bytes[0] == 0x51) {
                /* push: ESP points behind the immediate; afterwards the old one comes back by the caller. */
                static const uint8_t restore[] = {0x89, 0xf4, 0xc3}; /* mov %esi, %esp; ret */
                memcpy(imm + 4, restore, sizeof restore);
                __asm__ volatile("call 1f; jmp 2f; 1: mov %%esp, %%esi; lea 4(%%edi), %%esp; jmp *%4; 2:"
                                 : "=a"(v), "+D"(to), "=S"(saved_esp)
                                 : "c"(value), "d"(p)
                                 : "memory", "cc");
            } else {
                __asm__ volatile("call *%4" : "+a"(a), "+D"(to), "+c"(value) : "m"(stores), "d"(p) : "memory", "cc");
                v = a;
            }
            tally(v == 0x55 + round, stores[i].name, "round %u: %x", round, v);
        }
    tally_end("stores of every kind into the next instruction");
}

/* Code in low memory, as boot loaders move themselves: copied, run, overwritten, run again. */
static void moved(void)
{
    for (unsigned i = 0; i < 20; i++) {
        uint8_t *p = (uint8_t *)0x8000 + i * 512;
        put_return(p, i);
        memcpy(p + 256, p, 16);
        tally(call(p + 256) == i, "moved", "%u", i);
        memset(p, 0x90, 256); /* slide into the copy */
        tally(call(p) == i, "slide", "%u", i);
    }
    tally_end("moved code");
}

void guest_main(void)
{
    code = page_alloc_many(2);
    ahead_in_the_block();
    loop_patch();
    other_page();
    across_pages();
    by_strings();
    sizes();
    moved();
    directory = paging_identity(16);
    paging_on(directory);
    ahead_in_the_block();
    loop_patch();
    other_page();
    across_pages();
    by_strings();
    aliases();
    paging_off();
}
