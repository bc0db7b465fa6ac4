/* SPDX-License-Identifier: MIT */
/* Two-level paging, every permutation of: PDE and PTE present, writable, user; access read, write or execute from ring
 * 0 or 3; CR0.WP; 4 KiB and 4 MiB pages. Checked for each: fault or not, CR2, error code, what was read or written, and
 * the accessed and dirty bits (SDM volume 3, 4.3, 4.6, 4.7, 4.8). Then TLB rules that the architecture guarantees. */
#include "lib/guest.h"

enum { VIRTUAL = 0x40000000, LARGE = 0x80000000, OFFSET = 0x124 };
enum access { READ, WRITE, EXECUTE, MODIFY, ACCESSES };
static const char *const access_names[] = {"read", "write", "execute", "read-modify-write"};

static uint32_t *directory, *table, *page;
static uint8_t *large_page;

static void do_read(void *arg)
{
    __asm__ volatile(AT_HERE "movl (%0), %%eax" ::"r"(arg) : "eax", "memory");
}
static void do_write(void *arg)
{
    __asm__ volatile(AT_HERE "movl %1, (%0)" ::"r"(arg), "r"(0x600df00d) : "memory");
}
static void do_modify(void *arg)
{
    __asm__ volatile(AT_HERE "addl $1, (%0)" ::"r"(arg) : "memory", "cc");
}
/* The page holds a ret. */
static void do_execute(void *arg)
{
    trap_expected_eip = (uint32_t)arg;
    __asm__ volatile("call *%0" ::"r"(arg) : "memory");
}
static void (*const accesses[])(void *) = {do_read, do_write, do_execute, do_modify};

struct outcome {
    bool fault;
    uint32_t error;
};

/* What the manual says. */
static struct outcome expected(uint32_t pde, uint32_t pte, enum access access, bool user, bool wp)
{
    bool large = pde & PTE_PS;
    bool write = access == WRITE || access == MODIFY;
    uint32_t error = (write ? 2 : 0) | (user ? 4 : 0);
    if (!(pde & PTE_P) || (!large && !(pte & PTE_P)))
        return (struct outcome){true, error};
    uint32_t rights = large ? pde : pde & pte;
    if (user && !(rights & PTE_U))
        return (struct outcome){true, error | 1};
    if (write && !(rights & PTE_W) && (user || wp))
        return (struct outcome){true, error | 1};
    return (struct outcome){false, 0};
}

static void one(uint32_t pde_bits, uint32_t pte_bits, enum access access, bool user, bool wp, bool dirty_before)
{
    bool large = pde_bits & PTE_PS;
    uint32_t address = (large ? LARGE : VIRTUAL) + OFFSET;
    uint32_t *pde = &directory[address >> 22], *pte = &table[address >> 12 & 1023];
    uint32_t *target = large ? (uint32_t *)(large_page + OFFSET) : page + OFFSET / 4;
    uint32_t before_bits = dirty_before ? PTE_A | PTE_D : 0;
    *pde = (large ? (uint32_t)large_page | before_bits : (uint32_t)table) | pde_bits;
    *pte = (uint32_t)page | pte_bits | before_bits;
    uint32_t pde_before = *pde, pte_before = *pte;
    *target = 0xc3c3c3c3; /* ret */
    write_cr0(wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
    invlpg(address);

    struct outcome want = expected(pde_bits, pte_bits, access, user, wp);
    bool write = access == WRITE || access == MODIFY;
    int got = user ? user_call(accesses[access], (void *)address) : trap_call(accesses[access], (void *)address);
    uint32_t got_eip = trap.eip, want_eip = trap_expected_eip;
    trap_expected_eip = 0;

    bool right = want.fault ? got == PF && trap.error == want.error && trap_cr2 == address && got_eip == want_eip
                            : got == NO_TRAP;
    uint32_t value = want.fault || !write ? 0xc3c3c3c3 : access == WRITE ? 0x600df00d : 0xc3c3c3c4;
    right = right && *target == value;
    /* Accessed: in every entry of a walk that led to a page. A walk that faults may set it in the directory entry or
     * not; the dirty bit comes with a permitted write only. */
    uint32_t pde_want = pde_before, pte_want = pte_before, pde_free = 0, pte_free = 0;
    if (!want.fault) {
        pde_want |= PTE_A;
        if (large)
            pde_want |= write ? PTE_D : 0;
        else
            pte_want |= PTE_A | (write ? PTE_D : 0);
    } else {
        pde_free = pde_bits & PTE_P ? PTE_A : 0;
        pte_free = pte_bits & PTE_P ? PTE_A : 0;
    }
    right = right && ((*pde ^ pde_want) & ~pde_free) == 0 && (large || ((*pte ^ pte_want) & ~pte_free) == 0);
    tally(right, "paging",
          "%s ring %d wp %d pde %x pte %x: got #%d error %x cr2 %x, expected #%d error %x; pde %x pte %x value %x",
          access_names[access], user ? 3 : 0, wp, pde_before, pte_before, got, trap.error, trap_cr2,
          want.fault ? PF : NO_TRAP, want.error, *pde, *pte, *target);
}

static void permutations(void)
{
    for (unsigned pde = 0; pde < 8; pde++)
        for (unsigned pte = 0; pte < 8; pte++)
            for (unsigned access = 0; access < ACCESSES; access++)
                for (unsigned m = 0; m < 8; m++)
                    one(pde, pte | (m & 4 ? PTE_G : 0), access, m & 1, m & 2, m & 4);
    tally_end("4 KiB pages");
    for (unsigned pde = 0; pde < 8; pde++)
        for (unsigned access = 0; access < ACCESSES; access++)
            for (unsigned m = 0; m < 8; m++)
                one(pde | PTE_PS | (m & 4 ? PTE_G : 0), 0, access, m & 1, m & 2, m & 4);
    tally_end("4 MiB pages");
    write_cr0(read_cr0() & ~CR0_WP);
}

static uint32_t read_at(uint32_t address)
{
    return *(volatile uint32_t *)address;
}

/* What stays guaranteed although entries may be cached. */
static void tlb(void)
{
    uint32_t *other = page_alloc();
    directory[VIRTUAL >> 22] = (uint32_t)table | 7;
    table[0] = (uint32_t)page | 7;
    invlpg(VIRTUAL);
    page[0] = 0x11111111;
    other[0] = 0x22222222;
    check_equal("a page is read", read_at(VIRTUAL), 0x11111111);
    table[0] = (uint32_t)other | 7;
    invlpg(VIRTUAL + 0x123);
    check_equal("INVLPG of any byte of the page", read_at(VIRTUAL), 0x22222222);
    table[0] = (uint32_t)page | 7;
    write_cr3(read_cr3());
    check_equal("CR3 load drops entries", read_at(VIRTUAL), 0x11111111);

    /* Global pages survive CR3 loads as a permission, not as a duty; dropping PGE drops them in any case. */
    write_cr4(read_cr4() | CR4_PGE);
    table[0] = (uint32_t)page | 7 | PTE_G;
    invlpg(VIRTUAL);
    read_at(VIRTUAL);
    table[0] = (uint32_t)other | 7 | PTE_G;
    invlpg(VIRTUAL);
    check_equal("INVLPG drops a global entry", read_at(VIRTUAL), 0x22222222);
    table[0] = (uint32_t)page | 7 | PTE_G;
    write_cr4(read_cr4() & ~CR4_PGE);
    check_equal("a change of CR4.PGE drops global entries", read_at(VIRTUAL), 0x11111111);

    /* Absent to present needs no flush: absence is never cached. */
    table[1] = 0;
    invlpg(VIRTUAL + 0x1000);
    check_trap("absent", trap_call(do_read, (void *)(VIRTUAL + 0x1000)), PF, 0);
    table[1] = (uint32_t)other | 7;
    check_equal("absent to present without a flush", read_at(VIRTUAL + 0x1000), 0x22222222);

    /* More rights need no flush either: the processor walks again before it faults. */
    table[2] = (uint32_t)page | 1;
    write_cr0(read_cr0() | CR0_WP);
    invlpg(VIRTUAL + 0x2000);
    read_at(VIRTUAL + 0x2000);
    check_trap("read-only", trap_call(do_write, (void *)(VIRTUAL + 0x2000)), PF, 3);
    table[2] = (uint32_t)page | 7;
    check_trap("read-only to writable without a flush", trap_call(do_write, (void *)(VIRTUAL + 0x2000)), NO_TRAP, 0);
    check_trap("supervisor to user without a flush", user_call(do_read, (void *)(VIRTUAL + 0x2000)), NO_TRAP, 0);

    /* CR0.WP takes effect at once. */
    table[3] = (uint32_t)page | 1;
    invlpg(VIRTUAL + 0x3000);
    write_cr0(read_cr0() & ~CR0_WP);
    check_trap("write with WP clear", trap_call(do_write, (void *)(VIRTUAL + 0x3000)), NO_TRAP, 0);
    write_cr0(read_cr0() | CR0_WP);
    check_trap("write after WP was set", trap_call(do_write, (void *)(VIRTUAL + 0x3000)), PF, 3);
    write_cr0(read_cr0() & ~CR0_WP);

    /* The dirty bit after a read filled the entry. */
    table[4] = (uint32_t)page | 7;
    invlpg(VIRTUAL + 0x4000);
    read_at(VIRTUAL + 0x4000);
    check(!(table[4] & PTE_D) && (table[4] & PTE_A), "a read sets A, not D", "%x", table[4]);
    *(volatile uint32_t *)(VIRTUAL + 0x4000) = 1;
    check(table[4] & PTE_D, "a write after the read sets D", "%x", table[4]);
    table[4] = (uint32_t)page | 7;
    invlpg(VIRTUAL + 0x4000);
    *(volatile uint32_t *)(VIRTUAL + 0x4000) = 1;
    check(table[4] & PTE_D, "D again after it was cleared and flushed", "%x", table[4]);

    /* A page directory that maps itself: the tables are data like any other. */
    directory[1023] = (uint32_t)directory | 7;
    write_cr3(read_cr3());
    uint32_t *self = (uint32_t *)(0xffc00000 + (VIRTUAL >> 12) * 4);
    self[5] = (uint32_t)other | 7;
    check_equal("an entry written through the recursive mapping", read_at(VIRTUAL + 0x5000), 0x22222222);
    self[5] = (uint32_t)page | 7;
    invlpg(VIRTUAL + 0x5000);
    page[0] = 0x33333333;
    check_equal("and changed through it", read_at(VIRTUAL + 0x5000), 0x33333333);
    directory[1023] = 0;
    write_cr3(read_cr3());

    /* Another directory, as a task switch between processes loads it. */
    uint32_t *second = page_alloc(), *second_table = page_alloc();
    memcpy(second, directory, 4096);
    second[VIRTUAL >> 22] = (uint32_t)second_table | 7;
    second_table[0] = (uint32_t)other | 7;
    table[0] = (uint32_t)page | 7;
    write_cr3(read_cr3());
    for (unsigned i = 0; i < 100; i++) {
        write_cr3((uint32_t)second);
        tally(read_at(VIRTUAL) == 0x22222222, "second directory", "round %u", i);
        write_cr3((uint32_t)directory);
        tally(read_at(VIRTUAL) == 0x33333333, "first directory", "round %u", i);
    }
    tally_end("two address spaces");

    /* A changed directory entry. */
    directory[VIRTUAL >> 22] = (uint32_t)second_table | 7;
    invlpg(VIRTUAL);
    check_equal("INVLPG after a directory entry changed", read_at(VIRTUAL), 0x22222222);
    directory[VIRTUAL >> 22] = (uint32_t)table | 7;
    write_cr3(read_cr3());
}

/* Accesses that span two pages. */
static void crossing(void)
{
    uint32_t edge = VIRTUAL + 0x11000;
    table[0x10] = (uint32_t)page | 7;
    for (unsigned second = 0; second < 2; second++)
        for (unsigned first = 0; first < 2; first++)
            for (unsigned n = 1; n < 4; n++)
                for (unsigned access = 0; access < 2; access++) {
                    uint32_t *next = page_alloc();
                    table[0x10] = (uint32_t)page | (first ? 7 : 6);
                    table[0x11] = (uint32_t)next | (second ? 7 : 6);
                    invlpg(edge - 1);
                    invlpg(edge);
                    memset(page, 0x55, 4096);
                    int got = trap_call(accesses[access], (void *)(edge - n));
                    uint32_t cr2 = first ? edge : edge - n;
                    bool right = first && second ? got == NO_TRAP
                                                 : got == PF && trap.error == (access ? 2 : 0) && trap_cr2 == cr2;
                    /* Nothing is written when one half faults. */
                    if (!(first && second))
                        right = right && ((uint8_t *)page)[4095] == 0x55 && *(uint8_t *)next == 0;
                    else if (access)
                        right = right && ((uint8_t *)page)[4096 - n] == 0x0d &&
                                *(uint8_t *)next == (0x600df00d >> 8 * n & 0xff);
                    tally(right, "crossing", "%s first %u second %u at -%u: got #%d error %x cr2 %x",
                          access_names[access], first, second, n, got, trap.error, trap_cr2);
                }
    tally_end("accesses across a page edge");
    trap_expected_eip = 0;

    /* An instruction whose second half is on an absent page: CR2 is the first absent byte, EIP the instruction. */
    uint8_t *code = (uint8_t *)page;
    uint32_t *next = page_alloc();
    static const uint8_t mov_ret[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3};
    for (unsigned n = 1; n < 6; n++) {
        for (unsigned i = 0; i < sizeof mov_ret; i++)
            *(i < n ? code + 4096 - n + i : (uint8_t *)next + i - n) = mov_ret[i];
        table[0x10] = (uint32_t)page | 7;
        table[0x11] = 0;
        invlpg(edge - 1);
        invlpg(edge);
        int got = trap_call(do_execute, (void *)(edge - n));
        uint32_t want_eip = n < 5 ? edge - n : edge;
        tally(got == PF && trap.error == 0 && trap_cr2 == edge && trap.eip == want_eip, "absent half",
              "at -%u: got #%d error %x cr2 %x eip %x", n, got, trap.error, trap_cr2, trap.eip);
        table[0x11] = (uint32_t)next | 7;
        got = trap_call(do_execute, (void *)(edge - n));
        tally(got == NO_TRAP, "both halves", "at -%u: got #%d", n, got);
        /* The second half changes: other bytes in another page. Bochs keeps the old instruction here. */
        uint32_t value, *again = page_alloc();
        memcpy(again, next, 4096);
        if (n < 5) {
            ((uint8_t *)again)[4 - n] = 0x99;
            table[0x11] = (uint32_t)again | 7;
            invlpg(edge);
            __asm__ volatile("call *%1" : "=a"(value) : "r"(edge - n) : "memory");
            tally(value == 0x99345678, "other second half", "at -%u: %x", n, value);
        }
    }
    trap_expected_eip = 0;
    tally_end("instructions across a page edge");
}

/* A fault while a fault is pushed: the stack page is absent, so a double fault, which needs a task gate to survive;
 * here only that the ring 3 stack may be absent without harm. */
static void touch_stack(void *arg)
{
    __asm__ volatile("mov %%esp, %%ecx; mov %0, %%esp\n" AT_HERE "push %%eax; mov %%ecx, %%esp" ::"r"(arg)
                     : "ecx", "memory");
}

static void stacks(void)
{
    table[0x20] = 0;
    invlpg(VIRTUAL + 0x20000);
    check_trap("push to an absent page", user_call(touch_stack, (void *)(VIRTUAL + 0x20004)), PF, 6);
    check_equal("CR2 of the push", trap_cr2, VIRTUAL + 0x20000);
    check_equal("ESP is unchanged by a push that faults", trap.esp, VIRTUAL + 0x20004);
}

/* PSE clear: bit 7 of a directory entry is ignored. */
static void without_pse(void)
{
    directory[VIRTUAL >> 22] = (uint32_t)table | 7 | PTE_PS;
    table[0] = (uint32_t)page | 7;
    page[0] = 0x44444444;
    write_cr4(read_cr4() & ~CR4_PSE);
    write_cr3(read_cr3());
    check_equal("PS is ignored with CR4.PSE clear", read_at(VIRTUAL), 0x44444444);
    directory[VIRTUAL >> 22] = (uint32_t)table | 7;
    write_cr4(read_cr4() | CR4_PSE);
    write_cr3(read_cr3());
}

void guest_main(void)
{
    directory = paging_identity(16);
    table = page_alloc();
    page = page_alloc();
    large_page = (uint8_t *)(12 << 20); /* beyond what the allocator reaches */
    write_cr4(read_cr4() | CR4_PSE);
    paging_on(directory);
    permutations();
    tlb();
    crossing();
    stacks();
    without_pse();
    paging_off();
}
