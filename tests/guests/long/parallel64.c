/* SPDX-License-Identifier: MIT */
/* Ring 3 and memory near and far: below 4 GiB, at 768 GiB, where programs and libraries are, across multiples of 2 TiB
 * and at the end of the lower half; the same code for all of them in turn, registers that were good for one address and
 * lead to another, what faults there, every kind of operand, and GS bases of the guest's own. Everything twice: when
 * the address space in use has known high addresses only, and low ones. */
#include "lib64/guest.h"

#define TIB (1ul << 40)
#define HALF_END 0x800000000000ul
enum { PAGE = 4096, AROUND = 2 /* pages on either side of a spot */, LOW_PAGES = 400 };

/* A place with pages on both sides, but above the last one. */
static struct spot {
    uint64_t at;
    uint8_t *frames; /* of the pages around it */
} spots[] = {{.at = 0x90000000},     {.at = 768ul << 30},    {.at = 2 * TIB},        {.at = 0x555555555000},
             {.at = 0x560000000000}, {.at = 0x7f0000000000}, {.at = 0x7f1234567000}, {.at = HALF_END}};
enum { SPOTS = 8, LAST = SPOTS - 1 };

static uint8_t *frames(unsigned count)
{
    uint8_t *first = page_alloc();
    for (unsigned i = 1; i < count; i++)
        if ((uint8_t *)page_alloc() != first + (uint64_t)i * PAGE)
            guest_exit(2);
    return first;
}

static void map_with(uint64_t address, const void *frame, uint64_t bits)
{
    *page_entry(address, 1) = (uint64_t)frame | bits;
    for (unsigned level = 2; level <= 4; level++)
        *page_entry(address, level) |= PTE_U;
    invlpg(address);
}

static void map(uint64_t address, const void *frame)
{
    map_with(address, frame, PTE_P | PTE_W | PTE_U);
}

static uint8_t *byte_at(const struct spot *s, int64_t at)
{
    return s->frames + AROUND * PAGE + at;
}

static void set_up(void)
{
    *page_entry(spots[0].at, 2) = 0; /* the first 4 GiB are mapped by large pages */
    *page_entry(spots[0].at - PAGE, 2) = 0;
    flush_all();
    for (unsigned s = 0; s < SPOTS; s++) {
        unsigned count = s == LAST ? AROUND : 2 * AROUND;
        spots[s].frames = frames(2 * AROUND);
        for (unsigned i = 0; i < count; i++)
            map(spots[s].at + ((uint64_t)i - AROUND) * PAGE, spots[s].frames + (uint64_t)i * PAGE);
    }
}

static void fill(void)
{
    for (unsigned s = 0; s < SPOTS; s++)
        for (unsigned i = 0; i < 2 * AROUND * PAGE; i++)
            spots[s].frames[i] = (uint8_t)(i * 7 + (i >> 8) + s * 29);
}

/* ---- accesses ---- */

/* RDI: where. Each form has it in registers in another way. */
#define FORM(name, text)                                                                                               \
    static void __attribute__((naked)) name(void *a)                                                                   \
    {                                                                                                                  \
        __asm__(text "ret");                                                                                           \
    }
#define FORMS(name, body)                                                                                              \
    FORM(name##_plain, body("(%rdi)"))                                                                                 \
    FORM(name##_disp, "lea -0x78(%rdi), %rbx; " body("0x78(%rbx)"))                                                    \
    FORM(name##_far, "lea -0x70000000(%rdi), %rbp; " body("0x70000000(%rbp)"))                                         \
    FORM(name##_memory, "lea 0x1234(%rdi), %r14; " body("-0x1234(%r14)"))                                              \
    /* checked a page below, and on from there */                                                                      \
    FORM(name##_near, "lea -0x1000(%rdi), %rbx; mov (%rbx), %al; " body("0x1000(%rbx)"))                               \
    FORM(name##_steps, "lea -0x1000(%rdi), %rbx; mov (%rbx), %al; mov %rbx, %rsi; add $0x7ff0, %rsi; mov %rsi, %r13;"  \
                       "sub $0x6ff0, %r13; " body("(%r13)"))                                                           \
    /* indices of 32 bits */                                                                                           \
    FORM(name##_narrow, "mov $-1, %ecx; movslq %ecx, %rcx; lea 8(%rdi), %rbx; " body("(%rbx,%rcx,8)"))                 \
    FORM(name##_narrow_up,                                                                                             \
         "mov $0x180000000, %rax; mov %rdi, %rbx; sub %rax, %rbx; mov $0x30000000, %ecx; " body("(%rbx,%rcx,8)"))      \
    FORM(name##_narrow_down, "mov $0x400000000, %rax; lea (%rdi,%rax), %r14; mov $0x80000000, %ecx; movslq %ecx, "     \
                             "%r12; " body("(%r14,%r12,8)"))                                                           \
    FORM(name##_narrow_base, "mov $0xfffffff0, %ecx; mov %rdi, %rbx; sub %rcx, %rbx; " body("(%rcx,%rbx)"))            \
    FORM(name##_narrow_near, "lea -0x1000(%rdi), %rbx; mov $0x200, %ecx; mov (%rbx), %al; mov -0x1000(%rbx,%rcx,8), "  \
                             "%al; " body("(%rbx,%rcx,8)"))                                                            \
    /* of 64 bits */                                                                                                   \
    FORM(name##_sum, "mov $0x123456789a, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; " body("(%rbx,%rcx)"))                  \
    FORM(name##_sum_down, "mov $-0x345678901234, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; " body("(%rbx,%rcx)"))          \
    FORM(name##_sum_scaled, "mov $0x1234567890, %rcx; lea (,%rcx,8), %rax; mov %rdi, %r14; sub %rax, %r14;"            \
                            "test %al, -0x1000(%r14,%rcx,8); " body("(%r14,%rcx,8)"))                                  \
    FORM(name##_sum_turned, "mov $0x123456789a, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; test %al, -0x800(%rbx,%rcx);"    \
                            "test %al, -0x900(%rbx,%rcx); add $5, %rbx; sub $5, %rcx; " body("(%rcx,%rbx)"))           \
    static void (*const name##_forms[])(void *) = {                                                                    \
        name##_plain,       name##_disp,   name##_far,       name##_memory,      name##_near,                          \
        name##_steps,       name##_narrow, name##_narrow_up, name##_narrow_down, name##_narrow_base,                   \
        name##_narrow_near, name##_sum,    name##_sum_down,  name##_sum_scaled,  name##_sum_turned};
enum { FORM_COUNT = 15, BY_RBP = 2 };
static uint64_t value;
#define BODY_READ8(m) "mov " m ", %rax; mov %rax, value; "
#define BODY_WRITE8(m) "mov value, %rax; mov %rax, " m "; "
#define BODY_READ2(m) "movzwl " m ", %eax; mov %rax, value; "
#define BODY_ADD4(m) "mov value, %rax; add %eax, " m "; "
#define BODY_LOCK(m) "mov value, %rax; lock xadd %rax, " m "; mov %rax, value; "
#define BODY_SSE(m) "movups " m ", %xmm3; movq %xmm3, value; "
#define BODY_SSE_WRITE(m) "movq value, %xmm11; movq %xmm11, " m "; "
#define BODY_MMX(m) "fninit; movq " m ", %mm1; movq %mm1, value; emms; "
#define BODY_X87(m) "fninit; fildll " m "; fistpll value; "
#define BODY_X87_WRITE(m) "fninit; fildll value; fistpll " m "; "
#define BODY_AVX(m) "vmovups " m ", %ymm12; vmovq %xmm12, value; vzeroupper; "
#define BODY_PUSH(m) "pushq " m "; popq value; "
FORMS(read8, BODY_READ8)
FORMS(write8, BODY_WRITE8)
FORMS(read2, BODY_READ2)
FORMS(add4, BODY_ADD4)
FORMS(lock8, BODY_LOCK)
FORMS(sse16, BODY_SSE)
FORMS(sse8, BODY_SSE_WRITE)
FORMS(mmx8, BODY_MMX)
FORMS(x87r8, BODY_X87)
FORMS(x87w8, BODY_X87_WRITE)
FORMS(avx32, BODY_AVX)
FORMS(push8, BODY_PUSH)

enum effect { READS, WRITES, ADDS, EXCHANGES };
static const struct kind {
    const char *name;
    void (*const *forms)(void *);
    int bytes, checked; /* of the access; that are compared */
    enum effect effect;
} kinds[] = {{"mov", read8_forms, 8, 8, READS},           {"mov to", write8_forms, 8, 8, WRITES},
             {"movzx", read2_forms, 2, 2, READS},         {"add", add4_forms, 4, 4, ADDS},
             {"lock xadd", lock8_forms, 8, 8, EXCHANGES}, {"movups", sse16_forms, 16, 8, READS},
             {"movq to", sse8_forms, 8, 8, WRITES},       {"movq mm", mmx8_forms, 8, 8, READS},
             {"fild", x87r8_forms, 8, 8, READS},          {"fistp", x87w8_forms, 8, 8, WRITES},
             {"push", push8_forms, 8, 8, READS},          {"vmovups", avx32_forms, 32, 8, READS}};
static unsigned kind_count = sizeof kinds / sizeof kinds[0] - 1; /* with AVX one more */

/* Runs one and looks at what it has done. */
static bool works(const struct kind *k, unsigned form, const struct spot *s, int at, uint64_t seed)
{
    uint8_t *p = byte_at(s, at);
    uint64_t before = number(p, (unsigned)k->checked), was = number(p - 8, 8);
    value = seed;
    if (user_call(k->forms[form], (void *)(s->at + (uint64_t)(int64_t)at)) != NO_TRAP || number(p - 8, 8) != was)
        return false;
    uint64_t after = number(p, (unsigned)k->checked);
    switch (k->effect) {
    case READS:
        return value == before && after == before;
    case WRITES:
        return after == seed;
    case ADDS:
        return after == (uint32_t)(before + seed);
    default:
        return value == before && after == before + seed;
    }
}

static void accesses(void)
{
    static const int offsets[] = {-0x800, -33, -17, -9, -8, -7, -5, -4, -3, -1, 0, 1, 8, 0x700};
    fill();
    for (unsigned k = 0; k < kind_count; k++) {
        for (unsigned round = 0; round < 2; round++)
            for (unsigned i = 0; i < sizeof offsets / sizeof offsets[0]; i++)
                for (unsigned f = 0; f < FORM_COUNT; f++)
                    for (unsigned n = 0; n < SPOTS; n++) { /* the same code at all of them in turn */
                        const struct kind *kind = &kinds[k];
                        int at = offsets[i];
                        if (n == LAST && at > -kind->bytes)
                            continue;
                        bool right = works(kind, f, &spots[n], at, 0x1122334455667788 * (k + i + f + n + 1));
                        tally(right, "accesses", "%s form %u at %lx%d round %u: #%u error %lx cr2 %lx", kind->name, f,
                              spots[n].at, at, round, (unsigned)trap.vector, trap.error, trap_cr2);
                    }
    }
    tally_end("accesses");
}

/* ---- faults ---- */

/* Does it fault so, and leave the memory as it was? */
static bool faults(const struct kind *k, unsigned form, const struct spot *s, int at, int vector, uint64_t cr2)
{
    uint8_t before[16], *p = byte_at(s, -16);
    uint32_t error = vector != PF ? 0 : k->effect == READS ? 4 : 6;
    memcpy(before, p, sizeof before);
    value = 0x5a5a5a5a5a5a5a5a;
    int got = user_call(k->forms[form], (void *)(s->at + (uint64_t)(int64_t)at));
    bool right = got == vector && trap.error == error && (vector != PF || trap_cr2 == cr2);
    return right && !memcmp(before, p, sizeof before);
}

/* The last page of the lower half is not there: what leads beyond it is #GP still. */
static void last_page(void)
{
    const struct spot *s = &spots[LAST];
    uint64_t keep = *page_entry(s->at - PAGE, 1);
    for (unsigned k = 0; k < kind_count; k++)
        for (int at = -40; at < 0; at += at < -9 ? 8 : 1)
            for (unsigned f = 0; f < FORM_COUNT - 1; f++) { /* the last one begins on that page */
                bool inside = at <= -kinds[k].bytes;
                int vector = inside ? PF : f == BY_RBP ? SS : GP;
                *page_entry(s->at - PAGE, 1) = 0;
                invlpg(s->at - PAGE);
                bool right = faults(&kinds[k], f, s, at, vector, s->at + (uint64_t)(int64_t)at);
                tally(right, "ends", "%s form %u at the last page%d: #%d error %lx cr2 %lx", kinds[k].name, f, at,
                      (int)trap.vector, trap.error, trap_cr2);
                *page_entry(s->at - PAGE, 1) = keep;
                right = !inside || works(&kinds[k], f, s, at, 77777); /* and comes back */
                tally(right, "ends", "%s form %u at the last page%d again", kinds[k].name, f, at);
            }
}

/* Nothing behind the spot: page faults, or at the lower half's end, #GP. */
static void ends(void)
{
    fill();
    for (unsigned n = 0; n < SPOTS; n++) {
        struct spot *s = &spots[n];
        uint64_t keep = 0;
        if (n != LAST) {
            keep = *page_entry(s->at, 1);
            *page_entry(s->at, 1) = 0;
            invlpg(s->at);
        }
        for (unsigned k = 0; k < kind_count; k++)
            for (int at = -33; at < 3; at += at < -10 ? 8 : 1)
                for (unsigned f = 0; f < FORM_COUNT; f++) {
                    bool inside = at <= -kinds[k].bytes;
                    uint64_t cr2 = at < 0 ? s->at : s->at + (uint64_t)at;
                    bool right = inside ? works(&kinds[k], f, s, at, at + f + 77777)
                                        : faults(&kinds[k], f, s, at,
                                                 n == LAST && f != BY_RBP ? GP
                                                 : n == LAST              ? SS
                                                                          : PF,
                                                 cr2);
                    tally(right, "ends", "%s form %u at %lx%d: #%d error %lx cr2 %lx", kinds[k].name, f, s->at, at,
                          (int)trap.vector, trap.error, trap_cr2);
                }
        if (n != LAST) {
            *page_entry(s->at, 1) = keep;
            invlpg(s->at);
        }
    }
    last_page();
    tally_end("ends");
}

/* Pages that are not there, not for ring 3, or not to be written. Form 0 and 13 know nothing of the address before. */
static void rights(void)
{
    uint8_t *frame = page_alloc();
    static const uint64_t at[] = {0x180000000,        0x8000001000,       0x1fffff00000,     0x20000100000,
                                  0x555500000000,     0x7f0f00000000,     0x7fffff000000,    0xffff800000000000,
                                  0xffff888012345000, 0xffffffff81000000, 0xfffffffffffff000};
    static const struct {
        uint64_t bits;
        uint32_t read, write; /* error codes, 0: none */
    } pages[] = {{0, 4, 6}, {PTE_P | PTE_W, 5, 7}, {PTE_P | PTE_U, 0, 7}, {PTE_P | PTE_W | PTE_U, 0, 0}, {0, 4, 6}};
    static const unsigned forms[] = {0, 1, 11, 12};
    for (unsigned i = 0; i < sizeof at / sizeof at[0]; i++)
        for (unsigned p = 0; p < sizeof pages / sizeof pages[0]; p++) {
            map_with(at[i], frame, (pages[p].bits ? (uint64_t)frame : 0) | pages[p].bits);
            for (unsigned k = 0; k < kind_count; k++)
                for (unsigned f = 0; f < sizeof forms / sizeof forms[0]; f++) {
                    uint64_t address = at[i] + 0x128;
                    uint32_t error = kinds[k].effect == READS ? pages[p].read : pages[p].write;
                    value = 0;
                    int got = user_call(kinds[k].forms[forms[f]], (void *)address);
                    bool right = error ? got == PF && trap.error == error && trap_cr2 == address : got == NO_TRAP;
                    tally(right, "rights", "%s form %u at %lx bits %lx: #%d error %lx cr2 %lx", kinds[k].name, forms[f],
                          address, pages[p].bits, got, trap.error, trap_cr2);
                }
            map_with(at[i], NULL, 0);
        }
    tally_end("rights");
}

static void not_canonical(void)
{
    static const unsigned forms[] = {0, 1, 3, 6, 11, 12};
    for (unsigned bit = 47; bit < 64; bit++)
        for (unsigned way = 0; way < 5; way++)
            for (unsigned n = 0; n < SPOTS - 1; n++) {
                uint64_t good = spots[n].at + 0x100;
                uint64_t bad = way == 0   ? good + (1ul << bit)
                               : way == 1 ? good - (1ul << bit)
                               : way == 2 ? good ^ ~((1ul << bit) - 1)
                               : way == 3 ? good + (uint64_t)(bit - 46) * (1ul << 50)
                                          : good - (uint64_t)(bit - 46) * (1ul << 50);
                if ((uint64_t)((int64_t)(bad << 16) >> 16) == bad)
                    continue;
                for (unsigned k = 0; k < kind_count; k++) {
                    unsigned f = forms[(bit + way + n + k) % (sizeof forms / sizeof forms[0])];
                    int got = user_call(kinds[k].forms[f], (void *)bad);
                    tally(got == GP && trap.error == 0, "not canonical", "%s form %u at %lx: #%d error %lx",
                          kinds[k].name, f, bad, got, trap.error);
                }
            }
    tally_end("not canonical");
}

/* Operands that must be aligned. */
FORM(aligned_plain, "movaps (%rdi), %xmm0; ")
FORM(aligned_to, "movaps %xmm9, (%rdi); ")
FORM(aligned_add, "paddd (%rdi), %xmm0; ")
FORM(aligned_near, "mov -0x800(%rdi), %al; movaps (%rdi), %xmm8; ")
FORM(aligned_index, "mov $-1, %ecx; movslq %ecx, %rcx; lea 8(%rdi), %rbx; movaps (%rbx,%rcx,8), %xmm0; ")
FORM(aligned_index_again,
     "mov $3, %ecx; lea -24(%rdi), %rbx; movups (%rbx,%rcx,8), %xmm1; movaps (%rbx,%rcx,8), %xmm0; ")
FORM(aligned_sum, "mov $0x123456789a, %rcx; mov %rdi, %rbx; sub %rcx, %rbx; movaps (%rbx,%rcx), %xmm0; ")

static void alignment(void)
{
    static void (*const ways[])(void *) = {aligned_plain, aligned_to,          aligned_add, aligned_near,
                                           aligned_index, aligned_index_again, aligned_sum};
    for (unsigned round = 0; round < 2; round++)
        for (int at = -40; at < 20; at += 4)
            for (unsigned w = 0; w < sizeof ways / sizeof ways[0]; w++)
                for (unsigned n = 0; n < SPOTS; n++) {
                    if (n == LAST && at > -16)
                        continue;
                    int got = user_call(ways[w], (void *)(spots[n].at + (uint64_t)(int64_t)at));
                    bool right = at % 16 ? got == GP && trap.error == 0 : got == NO_TRAP;
                    tally(right, "alignment", "way %u at %lx%d: #%d error %lx", w, spots[n].at, at, got, trap.error);
                }
    tally_end("alignment");
}

/* ---- the same code for both sides ---- */

struct node {
    struct node *next;
    uint64_t count;
};
FORM(follow, "mov $1000, %ecx; 1: incq 8(%rdi); mov (%rdi), %rdi; dec %ecx; jz 2f; test %rdi, %rdi; jnz 1b; 2: ")
FORM(follow_in_turn, /* two of one side, two of the other, by one register */
     "mov $250, %ecx; 1: incq 8(%rdi); mov (%rdi), %rdi; addq $1, 8(%rdi); mov (%rdi), %rdi; lock incq 8(%rdi);"
     "mov (%rdi), %rdi; mov 8(%rdi), %rax; lea 1(%rax), %rax; mov %rax, 8(%rdi); mov (%rdi), %rdi; dec %ecx; jnz 1b; ")

static struct node *node_of(unsigned n)
{
    return (struct node *)byte_at(&spots[n], -0x400);
}

/* A ring of nodes at the spots, in the order given by a step. */
static void both_sides(void)
{
    static void (*const walks[])(void *) = {follow, follow_in_turn};
    for (unsigned w = 0; w < 2; w++)
        for (unsigned step = 1; step < SPOTS; step += 2) {
            for (unsigned n = 0; n < SPOTS; n++) {
                node_of(n)->count = 0;
                node_of(n)->next = (struct node *)(spots[(n + step) % SPOTS].at - 0x400);
            }
            bool right = true;
            for (unsigned n = 0; n < SPOTS; n++)
                right &= user_call(walks[w], (void *)(spots[n].at - 0x400)) == NO_TRAP;
            for (unsigned n = 0; n < SPOTS; n++)
                right &= node_of(n)->count == 1000;
            tally(right, "both sides", "walk %u step %u: %lu %lu %lu", w, step, node_of(0)->count, node_of(3)->count,
                  node_of(LAST)->count);
        }
    tally_end("both sides");
}

/* ---- code here and there ---- */

static const uint8_t increments[] = {0x48, 0xff, 0x07, 0xc3};            /* incq (%rdi); ret */
static const uint8_t sets[] = {0x48, 0xc7, 0x07, 0x05, 0x00, 0x00, 0x00, /* movq $5, (%rdi) */
                               0xfe, 0x87, 0x00, 0x01, 0x00, 0x00,       /* incb 0x100(%rdi) */
                               0xc3};

/* Across a page's end and just behind it, for data on all sides; and beside data that is written. */
static void code(void)
{
    uint8_t *pages = frames(2);
    static const uint64_t where[] = {0xa0000000, 0x555566660000, 0x7f5500000000};
    memset(pages, 0x90, 2 * PAGE);
    for (int start = -4; start < 12; start++) {
        memset(pages + PAGE - 40, 0x90, 80);
        memcpy(pages + PAGE + start, increments, sizeof increments);
        *page_entry(where[0], 2) = 0;
        for (unsigned i = 0; i < 3; i++) {
            map(where[i], pages);
            map(where[i] + PAGE, pages + PAGE);
        }
        for (unsigned turn = 0; turn < 3 * SPOTS; turn++)
            for (unsigned i = 0; i < 3; i++)
                for (unsigned entry = 0; entry < 3; entry++) { /* from before it, too */
                    const struct spot *s = &spots[turn % SPOTS];
                    uint64_t before = number(byte_at(s, -0x200), 8);
                    void (*fn)(void *) = (void (*)(void *))(where[i] + PAGE + (uint64_t)(int64_t)start - 16 * entry);
                    bool right = user_call(fn, (void *)(s->at - 0x200)) == NO_TRAP &&
                                 number(byte_at(s, -0x200), 8) == before + 1;
                    tally(right, "code", "start %d at %lx entry %u data %lx: #%d", start, where[i], entry, s->at,
                          (int)trap.vector);
                }
    }
    for (unsigned n = 0; n < SPOTS; n++) { /* it writes the constant of what it does, and beside it */
        const struct spot *s = &spots[n];
        memcpy(byte_at(s, -0x600), sets, sizeof sets);
        for (unsigned i = 0; i < 20; i++) {
            void (*fn)(void *) = (void (*)(void *))(s->at - 0x600);
            uint64_t to = s->at - 0x600 + 0x80;
            bool right = user_call(fn, (void *)to) == NO_TRAP && number(byte_at(s, -0x600 + 0x80), 8) == 5 + i;
            value = 6 + i;
            right &= user_call(write8_plain, (void *)(s->at - 0x600 + 3)) == NO_TRAP; /* incb becomes add [rax], al */
            memcpy(byte_at(s, -0x600 + 7), sets + 7, sizeof sets - 7);
            tally(right, "code", "written code at %lx, %u: %lu", s->at, i, number(byte_at(s, -0x600 + 0x80), 8));
        }
    }
    tally_end("code");
}

/* ---- GS and FS of the guest's own ---- */

FORM(by_gs, "mov (%rdi), %rax; add %gs:0x10, %rax; mov $0x10, %esi; add %gs:(%rsi), %rax; add 8(%rdi), %rax;"
            "add %gs:8(%rsi), %rax; add %fs:0x10, %rax; mov %rax, value; ")
FORM(writes_gs, "mov (%rdi), %rax; mov %rax, %gs:0x20; mov 8(%rdi), %rax; lock add %rax, %gs:0x20; ")
FORM(swaps, "mov (%rdi), %rax; swapgs; ")
FORM(reads_base, "mov (%rdi), %rcx; rdgsbase %rax; mov %rax, value; mov (%rdi), %rcx; ")
FORM(sets_base, "mov (%rdi), %rcx; wrgsbase %rdi; mov %gs:8, %rax; add (%rdi), %rax; mov %rax, value; ")

static void segment_bases(bool has_base)
{
    fill();
    for (unsigned n = 0; n < SPOTS; n++)
        for (unsigned m = 0; m < SPOTS; m++) {
            const struct spot *s = &spots[n], *g = &spots[m], *f = &spots[(m + 1) % SPOTS];
            uint8_t *p = byte_at(s, -0x300), *q = byte_at(g, -0x500), *r = byte_at(f, -0x500);
            uint64_t own = number(p, 8) + number(p + 8, 8);
            write_msr(MSR_GS_BASE, g->at - 0x500);
            write_msr(MSR_KERNEL_GS_BASE, f->at - 0x500);
            write_msr(MSR_FS_BASE, f->at - 0x500);
            bool right = user_call(by_gs, (void *)(s->at - 0x300)) == NO_TRAP &&
                         value == own + 2 * number(q + 0x10, 8) + number(q + 0x18, 8) + number(r + 0x10, 8);
            right &= user_call(writes_gs, (void *)(s->at - 0x300)) == NO_TRAP && number(q + 0x20, 8) == own;
            int got = user_call(swaps, (void *)(s->at - 0x300));
            right &= got == GP && trap.error == 0 && read_msr(MSR_GS_BASE) == g->at - 0x500;
            __asm__ volatile("swapgs");
            right &= user_call(by_gs, (void *)(s->at - 0x300)) == NO_TRAP &&
                     value == own + 2 * number(r + 0x10, 8) + number(r + 0x18, 8) + number(r + 0x10, 8);
            if (has_base) {
                right &= user_call(reads_base, (void *)(s->at - 0x300)) == NO_TRAP && value == f->at - 0x500;
                right &= user_call(sets_base, (void *)(s->at - 0x300)) == NO_TRAP && value == own;
                right &= read_msr(MSR_GS_BASE) == s->at - 0x300;
            }
            tally(right, "segment bases", "data %lx GS %lx: %lx", s->at, g->at, value);
        }
    write_msr(MSR_GS_BASE, 0);
    write_msr(MSR_KERNEL_GS_BASE, 0);
    write_msr(MSR_FS_BASE, 0);
    tally_end("segment bases");
}

/* ---- all of it ---- */

FORM(touch, "mov $400, %ecx; 1: mov (%rdi), %al; add $0x1000, %rdi; dec %ecx; jnz 1b; ")
_Static_assert(LOW_PAGES == 400, "touch");

static void enable_avx(void)
{
    uint32_t r[4];
    enum { AVX = 1 << 28, XSAVE = 1 << 26 };
    cpuid(1, 0, r);
    if (!(r[2] & AVX) || !(r[2] & XSAVE))
        return;
    write_cr4(read_cr4() | CR4_OSXSAVE);
    __asm__ volatile("xsetbv" ::"c"(0), "a"(7), "d"(0));
    kind_count++;
}

static bool enable_base(void)
{
    uint32_t r[4];
    cpuid(0, 0, r);
    if (r[0] < 7)
        return false;
    cpuid(7, 0, r);
    if (r[1] & 1)
        write_cr4(read_cr4() | CR4_FSGSBASE);
    return r[1] & 1;
}

static bool enable_pcid(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[2] >> 17 & 1))
        return false;
    write_cr4(read_cr4() | CR4_PCIDE);
    return true;
}

static void all(bool has_base)
{
    accesses();
    both_sides();
    ends();
    rights();
    not_canonical();
    alignment();
    code();
    segment_bases(has_base);
}

void guest_main(void)
{
    set_up();
    tss.ist[0] = (uint64_t)ist_stack_top;
    write_cr4(read_cr4() | CR4_OSFXSR);
    enable_avx();
    bool has_base = enable_base(), has_pcid = enable_pcid();
    all(has_base);
    /* many pages at low addresses, and the address space is left and comes again */
    uint8_t *low = frames(LOW_PAGES);
    tally(user_call(touch, low) == NO_TRAP, "low pages", "#%d", (int)trap.vector);
    tally_end("low pages");
    if (has_pcid) {
        uint64_t cr3 = read_cr3();
        write_cr3((cr3 + 1) | 1ul << 63);
        write_cr3(cr3 | 1ul << 63);
    }
    all(has_base);
}
