/* SPDX-License-Identifier: MIT */
/* Process-context identifiers: two address spaces that the processor switches between without dropping what it knows of
 * them. Only what is architecturally sure: entries that never changed, and those that were invalidated since. SDM vol.
 * 3, 4.10; vol. 2, INVPCID. */
#include "lib64/guest.h"

#define PROBE 0x8000000000ul /* a PML4 entry of its own, which differs between the spaces */
#define NO_FLUSH (1ul << 63)
enum { A, B, SPACES, PAGES = 8, LARGE = 2 << 20 };

static uint64_t root[SPACES], *directory[SPACES], *entries[SPACES];
static const uint64_t all = PTE_P | PTE_W;
static bool invpcid;

static void go(unsigned space)
{
    write_cr3(root[space] | (space + 1) | NO_FLUSH);
}
static void go_flush(unsigned space)
{
    write_cr3(root[space] | (space + 1));
}
static volatile uint64_t *at(unsigned page)
{
    return (volatile uint64_t *)(PROBE + page * 4096);
}
static uint64_t call(uint64_t address)
{
    return ((uint64_t(*)(void))address)();
}
static void do_invpcid(uint64_t type, uint64_t id, uint64_t address)
{
    struct {
        uint64_t id, address;
    } d = {id, address};
    __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

/* mov eax, value; ret */
static void put_code(uint8_t *to, uint32_t value)
{
    to[0] = 0xb8;
    memcpy(to + 1, &value, 4);
    to[5] = 0xc3;
}

static void build(unsigned space)
{
    uint64_t *pml4 = page_alloc(), *pdpt = page_alloc();
    memcpy(pml4, start_pml4, 4096);
    directory[space] = page_alloc();
    entries[space] = page_alloc();
    pml4[PROBE >> 39 & 511] = (uint64_t)pdpt | all;
    pdpt[0] = (uint64_t)directory[space] | all;
    directory[space][0] = (uint64_t)entries[space] | all;
    for (unsigned i = 0; i < PAGES; i++)
        entries[space][i] = (uint64_t)page_alloc() | all;
    root[space] = (uint64_t)pml4;
}
static uint8_t *frame(unsigned space, unsigned page)
{
    return (uint8_t *)(entries[space][page] & PTE_ADDRESS);
}

static void alternate(void)
{
    unsigned data = 0, code = 0, crossing = 0;
    for (unsigned s = 0; s < SPACES; s++) {
        *(uint64_t *)frame(s, 0) = 0x100 + s;
        put_code(frame(s, 1), 0x200 + s);
        /* mov eax, 0xN0300 over the end of page 2; ret */
        memcpy(frame(s, 3), s ? "\x03\x0b\0\xc3" : "\x03\x0a\0\xc3", 4);
    }
    /* The page in front is one frame for both: only what follows differs. */
    entries[B][2] = entries[A][2];
    memcpy(frame(A, 2) + 4094, "\xb8\0", 2);
    go_flush(A);
    go_flush(B);
    for (unsigned i = 0; i < 200; i++) {
        unsigned s = i & 1;
        go(s);
        data += *at(0) == 0x100 + s;
        *at(4) = i;
        code += call(PROBE + 0x1000) == 0x200 + s;
        crossing += call(PROBE + 0x2ffe) == (s ? 0x0b0300u : 0x0a0300u);
    }
    check_equal("data of two spaces in turn", data, 200);
    check_equal("code of two spaces in turn", code, 200);
    check_equal("an instruction whose second page differs", crossing, 200);
    check_equal("what was written in one", *(uint64_t *)frame(A, 4), 198);
    check_equal("and in the other", *(uint64_t *)frame(B, 4), 199);
    unsigned right = 0;
    for (unsigned i = 0; i < 100; i++) {
        uint64_t id = i % 20 + 3;
        write_cr3(root[i & 1] | id | (i >= 20 ? NO_FLUSH : 0)); /* 20 is even: each has one root */
        right += *at(0) == 0x100 + (i & 1);
    }
    check_equal("twenty of them in turn", right, 100);
}

/* Changes a page of B while A runs (or B itself), invalidates, and looks from B. */
static void invalidate(void)
{
    uint64_t *x = page_alloc(), *y = page_alloc();
    put_code((uint8_t *)x, 0xaaaa);
    put_code((uint8_t *)y, 0xbbbb);
    enum { ELSEWHERE = -1, LOAD = -2, PAGE = -3, LOAD_SAME = -4 };
    static const struct {
        const char *name;
        int type; /* of INVPCID, or one of the above */
        uint64_t bits;
    } ways[] = {{"invpcid of an address", 0, 0},
                {"invpcid of a PCID", 1, 0},
                {"invpcid of all", 2, 0},
                {"invpcid of all but global ones", 3, 0},
                {"invpcid of all, a global page", 2, PTE_G},
                {"a load of CR3", LOAD, 0},
                {"a load of the same CR3", LOAD_SAME, 0},
                {"invlpg", PAGE, 0},
                {"invlpg of a global page elsewhere", ELSEWHERE, PTE_G}};
    for (unsigned i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (ways[i].type >= 0 && !invpcid)
            continue;
        entries[B][5] = (uint64_t)x | all | ways[i].bits;
        go_flush(B);
        invlpg(PROBE + 0x5000);
        uint64_t before = *at(5), code = call(PROBE + 0x5000);
        if (ways[i].type != PAGE && ways[i].type != LOAD_SAME)
            go(A);
        entries[B][5] = (uint64_t)y | all | ways[i].bits;
        if (ways[i].type >= 0)
            do_invpcid((uint64_t)ways[i].type, ways[i].type < 2 ? B + 1 : 0, PROBE + 0x5000);
        else if (ways[i].type == ELSEWHERE)
            invlpg(PROBE + 0x5000);
        if (ways[i].type == LOAD || ways[i].type == LOAD_SAME)
            go_flush(B);
        else if (ways[i].type != PAGE)
            go(B);
        if (ways[i].type == PAGE)
            invlpg(PROBE + 0x5000);
        check(before == *x && code == 0xaaaa && *at(5) == *y && call(PROBE + 0x5000) == 0xbbbb, ways[i].name,
              "%lx %lx, then %lx", before, code, *at(5));
        invlpg(PROBE + 0x5000);
    }
}

/* A page that is global later than it was not, or the other way round, with INVLPG between. */
static void becomes_global(void)
{
    uint64_t *x = page_alloc(), *y = page_alloc();
    put_code((uint8_t *)x, 0xaaaa);
    put_code((uint8_t *)y, 0xbbbb);
    entries[A][6] = entries[B][6] = (uint64_t)x | all;
    go_flush(A);
    uint64_t sum = call(PROBE + 0x6000);
    entries[A][6] = entries[B][6] = (uint64_t)x | all | PTE_G;
    invlpg(PROBE + 0x6000);
    sum += call(PROBE + 0x6000);
    go(B);
    sum += call(PROBE + 0x6000);
    entries[A][6] = entries[B][6] = (uint64_t)y | all | PTE_G;
    invlpg(PROBE + 0x6000);
    sum += call(PROBE + 0x6000);
    go(A);
    check_equal("invlpg of a page that became global", call(PROBE + 0x6000), 0xbbbb);
    check_equal("data there", *at(6), *y);
    check_equal("on the way", sum, 3 * 0xaaaa + 0xbbbb);
    invlpg(PROBE + 0x6000);
    entries[A][6] = (uint64_t)x | all;
    invlpg(PROBE + 0x6000);
    check_equal("not global any more", call(PROBE + 0x6000), 0xaaaa);
    entries[A][6] = (uint64_t)y | all;
    go_flush(A);
    check_equal("a load of CR3 drops it", call(PROBE + 0x6000), 0xbbbb);
}

/* One space's data page is the other's code page. */
static void code_elsewhere(void)
{
    uint8_t *shared = page_alloc();
    entries[A][7] = entries[B][7] = (uint64_t)shared | all;
    go_flush(A);
    go_flush(B);
    unsigned right = 0;
    for (uint32_t i = 0; i < 50; i++) {
        go(B);
        *at(7) = 0xc300000000b8ul | (uint64_t)i << 8;
        go(A);
        right += call(PROBE + 0x7000) == i;
    }
    check_equal("code that another space writes", right, 50);
}

/* INVLPG of one address in a large page is for all of it. */
static void large(void)
{
    uint8_t *x = (uint8_t *)(32ul << 20), *y = x + LARGE;
    for (unsigned i = 0; i < 4; i++) {
        put_code(x + i * 0x5000, 0xa0 + i);
        put_code(y + i * 0x5000, 0xb0 + i);
    }
    for (unsigned g = 0; g < 2; g++) {
        unsigned before = 0, after = 0;
        uint64_t bits = all | PTE_PS | (g ? PTE_G : 0), base = PROBE + LARGE;
        directory[A][1] = (uint64_t)x | bits;
        go_flush(A);
        invlpg(base);
        for (unsigned i = 0; i < 4; i++)
            before += *(volatile uint8_t *)(base + i * 0x5000 + 1) == 0xa0 + i && call(base + i * 0x5000) == 0xa0 + i;
        go(B);
        go(A);
        directory[A][1] = (uint64_t)y | bits;
        invlpg(base + 0x1234);
        for (unsigned i = 0; i < 4; i++)
            after += *(volatile uint8_t *)(base + i * 0x5000 + 1) == 0xb0 + i && call(base + i * 0x5000) == 0xb0 + i;
        check_equal("a large page", before, 4);
        check_equal(g ? "invlpg somewhere in a global large page" : "invlpg somewhere in a large page", after, 4);
    }
    directory[A][1] = 0;
    invlpg(PROBE + LARGE);
}

void guest_main(void)
{
    uint32_t r[4];
    cpuid(7, 0, r);
    invpcid = r[1] & 1 << 10;
    cpuid(1, 0, r);
    uint64_t cr4 = read_cr4();
    for (unsigned s = 0; s < SPACES; s++)
        build(s);
    write_cr4(cr4 | CR4_PGE);
    if (!(r[2] & 1 << 17)) {
        printf("   no PCID\n");
        write_cr3(root[A]);
        write_cr3(root[B]);
        return;
    }
    write_cr4(cr4 | CR4_PGE | CR4_PCIDE);
    alternate();
    invalidate();
    becomes_global();
    code_elsewhere();
    large();
    write_cr3((uint64_t)start_pml4);
    write_cr4(cr4);
}
