/* SPDX-License-Identifier: MIT */
/* String instructions that fault half-way: every instruction, element size, repeat prefix, direction and address size.
 * Registers must show what is done, EIP the instruction itself; after the page is there it goes on and ends as if
 * nothing had been (SDM volume 2, REP). */
#include "lib/guest.h"

enum { SOURCE = 0x40000000, TARGET = 0x40010000, PAGES = 3 };
static uint8_t *source_page[PAGES], *target_page[PAGES];
static uint32_t *directory;

enum operation { MOVS, STOS, LODS, CMPS, SCAS, OPERATIONS };
static const char *const names[] = {"movs", "stos", "lods", "cmps", "scas"};
static const uint8_t opcodes[] = {0xa4, 0xaa, 0xac, 0xa6, 0xae};
static const bool uses_source[] = {true, false, true, true, false}, uses_target[] = {true, true, false, true, true};

static uint8_t stub[32];
struct registers {
    uint32_t esi, edi, ecx, eax, flags;
} in, out;

/* Runs the stub with in's registers, and leaves the registers in out. */
static void run_stub(void *arg)
{
    __asm__ volatile(
        "push %%ebp; push in+16; popf; mov in, %%esi; mov in+4, %%edi; mov in+8, %%ecx; mov in+12, %%eax\n"
        "call *%0\n"
        "mov %%esi, out; mov %%edi, out+4; mov %%ecx, out+8; mov %%eax, out+12; pushf; popl out+16; cld; pop %%ebp" ::
            "r"(arg)
        : "eax", "ecx", "esi", "edi", "memory", "cc");
}

static void map(uint32_t base, uint8_t **pages, unsigned absent)
{
    for (unsigned i = 0; i < PAGES; i++) {
        *paging_entry(directory, base + i * 4096) = (uint32_t)pages[i] | (i == absent ? 6 : 7);
        invlpg(base + i * 4096);
    }
}

static void fill(void)
{
    for (unsigned i = 0; i < PAGES; i++)
        for (unsigned b = 0; b < 4096; b++) {
            source_page[i][b] = b * 7 + i;
            target_page[i][b] = b * 7 + i; /* equal, so that cmps and repe run through */
        }
}

/* The middle page is absent on one side; the run starts in front of its edge, goes over it, and faults there. */
static void one(enum operation op, unsigned size, bool backwards, bool target_absent, unsigned misalign)
{
    if (target_absent ? !uses_target[op] : !uses_source[op])
        return;
    unsigned n = 0;
    bool scan = op == SCAS;
    stub[n++] = scan ? 0xf2 : 0xf3; /* repne scas: the value is not there */
    if (size == 2)
        stub[n++] = 0x66;
    stub[n++] = opcodes[op] | (size != 1);
    stub[n++] = 0xc3;
    fill();
    if (op == STOS || op == SCAS)
        in.eax = 0xfdfdfdfd;
    if (op == SCAS)
        for (unsigned i = 0; i < PAGES; i++)
            memset(target_page[i], 0, 4096);
    /* Elements before the fault: those that do not touch the absent page. */
    enum { BEFORE = 10, COUNT = 30 };
    uint32_t edge = backwards ? 0x2000 : 0x1000; /* of the absent page [0x1000, 0x2000) */
    uint32_t first = backwards ? edge + (BEFORE - 1) * size + misalign : edge - BEFORE * size - misalign;
    uint32_t step = backwards ? -size : size;
    unsigned done = 0;
    for (uint32_t at = first; at + size <= 0x1000 || at >= 0x2000; at += step)
        done++;
    in.esi = SOURCE + first;
    in.edi = TARGET + first;
    in.ecx = COUNT;
    in.flags = 2 | (backwards ? FLAG_DF : 0);
    map(SOURCE, source_page, target_absent ? PAGES : 1);
    map(TARGET, target_page, target_absent ? 1 : PAGES);

    int got = trap_call(run_stub, stub);
    bool write = target_absent && (op == MOVS || op == STOS);
    uint32_t fault_at = first + done * step;
    uint32_t touched = fault_at < 0x1000 ? 0x1000 : fault_at;
    bool right = got == PF && trap.eip == (uint32_t)stub && trap.error == (write ? 2 : 0) && trap.ecx == COUNT - done &&
                 trap_cr2 == (target_absent ? TARGET : SOURCE) + touched;
    right = right && trap.esi == in.esi + (uses_source[op] ? done * step : 0);
    right = right && trap.edi == in.edi + (uses_target[op] ? done * step : 0);
    tally(right, "fault", "%s%u %s %s misaligned %u: #%d error %x cr2 %x eip %x (%x) ecx %u of %u esi %x edi %x",
          names[op], size * 8, backwards ? "down" : "up", target_absent ? "target" : "source", misalign, got,
          trap.error, trap_cr2, trap.eip, (uint32_t)stub, trap.ecx, COUNT - done, trap.esi, trap.edi);

    /* The page comes, and the instruction goes on from the saved state. */
    map(SOURCE, source_page, PAGES);
    map(TARGET, target_page, PAGES);
    in.esi = trap.esi;
    in.edi = trap.edi;
    in.ecx = trap.ecx;
    got = trap_call(run_stub, stub);
    right = got == NO_TRAP && out.ecx == 0;
    if (op == MOVS || op == STOS)
        for (unsigned i = 0; i < COUNT * size; i++) {
            uint32_t at = (backwards ? first - (COUNT - 1) * size : first) + i;
            uint8_t want = op == STOS ? 0xfd : source_page[at >> 12][at & 4095];
            right = right && target_page[at >> 12][at & 4095] == want;
        }
    tally(right, "resume", "%s%u %s: #%d ecx %u", names[op], size * 8, backwards ? "down" : "up", got, out.ecx);
}

static void faults(void)
{
    for (unsigned op = 0; op < OPERATIONS; op++) {
        for (unsigned size = 1; size <= 4; size *= 2)
            for (unsigned backwards = 0; backwards < 2; backwards++)
                for (unsigned side = 0; side < 2; side++)
                    for (unsigned misalign = 0; misalign < size; misalign++)
                        one(op, size, backwards, side, misalign);
        tally_end(names[op]);
    }
}

/* How repeats end, and what they leave in the flags and registers. */
static void ends(void)
{
    static uint8_t a[16] = "aaaaXaaaYYYYYYYY", b[16] = "aaaaZaaaYYYYYYYY";
    uint32_t esi = (uint32_t)a, edi = (uint32_t)b, ecx = 8;
    bool zf;
    __asm__ volatile("repe cmpsb; setz %3" : "+S"(esi), "+D"(edi), "+c"(ecx), "=q"(zf)::"memory", "cc");
    check(!zf && ecx == 3 && esi == (uint32_t)a + 5, "repe cmpsb stops behind the difference", "zf %d ecx %u", zf, ecx);
    edi = (uint32_t)a;
    ecx = 16;
    __asm__ volatile("repne scasb; setz %2" : "+D"(edi), "+c"(ecx), "=q"(zf) : "a"('Y') : "memory", "cc");
    check(zf && ecx == 7 && edi == (uint32_t)a + 9, "repne scasb stops behind the match", "zf %d ecx %u", zf, ecx);
    /* A count of 0 touches neither memory nor flags. */
    esi = edi = 0xfffff000;
    ecx = 0;
    uint32_t flags;
    __asm__ volatile("stc; repe cmpsl; pushf; pop %3" : "+S"(esi), "+D"(edi), "+c"(ecx), "=r"(flags)::"memory", "cc");
    check(ecx == 0 && esi == 0xfffff000 && (flags & FLAG_CF), "count 0", "ecx %u flags %x", ecx, flags);
    /* Overlap: movsb up by one byte repeats the first byte; movsl up by one byte does not. */
    static uint8_t o[40];
    for (unsigned i = 0; i < sizeof o; i++)
        o[i] = i;
    esi = (uint32_t)o;
    edi = (uint32_t)o + 1;
    ecx = 20;
    __asm__ volatile("rep movsb" : "+S"(esi), "+D"(edi), "+c"(ecx)::"memory");
    bool same = true;
    for (unsigned i = 0; i < 21; i++)
        same = same && o[i] == 0;
    check(same && o[21] == 21, "overlapping rep movsb", "%u %u", o[1], o[21]);
    for (unsigned i = 0; i < sizeof o; i++)
        o[i] = i;
    esi = (uint32_t)o;
    edi = (uint32_t)o + 2;
    ecx = 5;
    __asm__ volatile("rep movsl" : "+S"(esi), "+D"(edi), "+c"(ecx)::"memory");
    static const uint8_t want[] = {0, 1, 0, 1, 2, 3, 2, 3, 6, 7, 6, 7, 10, 11, 10, 11, 14, 15, 14, 15, 18, 19};
    check(!memcmp(o, want, sizeof want), "overlapping rep movsl", "%u %u %u %u %u %u %u %u", o[2], o[3], o[4], o[5],
          o[6], o[7], o[8], o[9]);
    /* 16-bit addresses: SI, DI and CX alone count, and wrap. */
    uint8_t *low = (uint8_t *)0x10000 - 4;
    memcpy(low, "abcd", 4);
    memcpy((void *)0, "efgh", 4);
    memset((void *)0x2000, 0, 16);
    esi = 0x1234fffc;
    edi = 0x56782000;
    ecx = 0x9abc0008;
    __asm__ volatile("addr16 rep movsb" : "+S"(esi), "+D"(edi), "+c"(ecx)::"memory");
    check(esi == 0x12340004 && edi == 0x56782008 && ecx == 0x9abc0000 && !memcmp((void *)0x2000, "abcdefgh", 8),
          "16-bit addresses", "esi %x edi %x ecx %x", esi, edi, ecx);
    /* jecxz and loop with a 16-bit counter. */
    ecx = 0x10000;
    uint32_t took;
    __asm__ volatile("mov $1, %0; addr16 jecxz 1f; mov $0, %0; 1:" : "=&r"(took) : "c"(ecx));
    check_equal("jcxz looks at CX", took, 1);
    /* The segment override is on the source only. */
    gdt_set(SEL_SPARE, descriptor((uint32_t)o, 39, 0x93, SEG_D));
    __asm__ volatile("mov %w0, %%fs" ::"r"(SEL_SPARE));
    edi = (uint32_t)a;
    esi = 4;
    __asm__ volatile("fs movsb" : "+S"(esi), "+D"(edi)::"memory");
    check_equal("fs movsb", a[0], o[4]);
}

/* Port strings. */
static void ports(void)
{
    static uint8_t bytes[8];
    outb(0x21, 0x5a); /* the first PIC's mask reads back */
    uint32_t edi = (uint32_t)bytes, ecx = 8;
    __asm__ volatile("rep insb" : "+D"(edi), "+c"(ecx) : "d"(0x21) : "memory");
    bool same = true;
    for (unsigned i = 0; i < 8; i++)
        same = same && bytes[i] == 0x5a;
    check(same && ecx == 0 && edi == (uint32_t)bytes + 8, "rep insb", "%x ecx %u", bytes[0], ecx);
    static const uint8_t masks[] = {1, 2, 3, 0xc3};
    uint32_t esi = (uint32_t)masks;
    ecx = 4;
    __asm__ volatile("rep outsb" : "+S"(esi), "+c"(ecx) : "d"(0x21) : "memory");
    check_equal("rep outsb", inb(0x21), 0xc3);
    /* insb to an absent page: the port is not to be read before the write is known to work; the count stays. */
    *paging_entry(directory, TARGET) = 0;
    invlpg(TARGET);
    stub[0] = 0xf3;
    stub[1] = 0x6c;
    stub[2] = 0xc3;
    in.edi = TARGET;
    in.ecx = 5;
    in.flags = 2;
    /* EDX for the port: run_stub leaves it alone, so it is set here and kept by the call. */
    int got;
    __asm__ volatile("" ::"d"(0x21));
    got = trap_call(run_stub, stub);
    check(got == PF && trap.ecx == 5 && trap.error == 2, "rep insb to an absent page", "#%d ecx %u error %x", got,
          trap.ecx, trap.error);
    outb(0x21, 0xff);
}

void guest_main(void)
{
    for (unsigned i = 0; i < PAGES; i++) {
        source_page[i] = page_alloc();
        target_page[i] = page_alloc();
    }
    ends();
    directory = paging_identity(8);
    paging_on(directory);
    faults();
    ports();
    paging_off();
}
