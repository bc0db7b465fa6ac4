/* SPDX-License-Identifier: MIT */
/* PAE paging: permutations of present, writable, user and no-execute over directory and table entries, 4 KiB and 2 MiB
 * pages, with the error codes; reserved bits; the four directory pointers (SDM volume 3, 4.4). */
#include "lib/guest.h"

enum { VIRTUAL = 0x40000000, LARGE = 0x40200000, OFFSET = 0x248, MSR_EFER = 0xc0000080, EFER_NXE = 1 << 11 };
enum access { READ, WRITE, EXECUTE, ACCESSES };
#define NX (1ull << 63)

static uint64_t *pointers, *low, *high, *table;
static uint32_t *page;
static uint8_t *large_page;
static bool has_nx;

static void do_read(void *arg)
{
    __asm__ volatile(AT_HERE "movl (%0), %%eax" ::"r"(arg) : "eax", "memory");
}
static void do_write(void *arg)
{
    __asm__ volatile(AT_HERE "movl %1, (%0)" ::"r"(arg), "r"(0x600df00d) : "memory");
}
static void do_execute(void *arg)
{
    trap_expected_eip = (uint32_t)arg;
    __asm__ volatile("call *%0" ::"r"(arg) : "memory");
}
static void (*const accesses[])(void *) = {do_read, do_write, do_execute};

static void one(uint64_t pde_bits, uint64_t pte_bits, enum access access, bool user, bool wp)
{
    bool large = pde_bits & PTE_PS;
    uint32_t address = (large ? LARGE : VIRTUAL) + OFFSET;
    uint64_t *pde = &high[address >> 21 & 511], *pte = &table[address >> 12 & 511];
    uint32_t *target = large ? (uint32_t *)(large_page + OFFSET) : page + OFFSET / 4;
    *pde = (large ? (uint32_t)large_page : (uint32_t)table) | pde_bits;
    *pte = (uint32_t)page | pte_bits;
    uint64_t pde_before = *pde, pte_before = *pte;
    *target = 0xc3c3c3c3;
    write_cr0(wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
    invlpg(address);

    uint64_t all = large ? pde_bits : pde_bits & pte_bits, any = large ? pde_bits : pde_bits | pte_bits;
    uint32_t error = (access == WRITE ? 2 : 0) | (user ? 4 : 0) | (access == EXECUTE && has_nx ? 16 : 0);
    bool fault = !(all & PTE_P);
    if (!fault && ((user && !(all & PTE_U)) || (access == WRITE && !(all & PTE_W) && (user || wp)) ||
                   (access == EXECUTE && (any & NX)))) {
        fault = true;
        error |= 1;
    }
    int got = user ? user_call(accesses[access], (void *)address) : trap_call(accesses[access], (void *)address);
    trap_expected_eip = 0;
    bool right = fault ? got == PF && trap.error == error && trap_cr2 == address : got == NO_TRAP;
    right = right && *target == (!fault && access == WRITE ? 0x600df00d : 0xc3c3c3c3);
    if (!fault) {
        right = right && *pde == (pde_before | PTE_A | (large && access == WRITE ? PTE_D : 0));
        if (!large)
            right = right && *pte == (pte_before | PTE_A | (access == WRITE ? PTE_D : 0));
    } else {
        right = right && !((*pde | *pte) & PTE_D);
    }
    tally(right, "pae", "access %u ring %d wp %d pde %x:%x pte %x:%x: got #%d error %x cr2 %x, expected #%d error %x",
          access, user ? 3 : 0, wp, (uint32_t)(pde_before >> 32), (uint32_t)pde_before, (uint32_t)(pte_before >> 32),
          (uint32_t)pte_before, got, trap.error, trap_cr2, fault ? PF : NO_TRAP, error);
}

static void permutations(void)
{
    unsigned nx_values = has_nx ? 2 : 1;
    for (unsigned pde = 0; pde < 8 * nx_values; pde++)
        for (unsigned pte = 0; pte < 8 * nx_values; pte++)
            for (unsigned access = 0; access < ACCESSES; access++)
                for (unsigned m = 0; m < 4; m++)
                    one((pde & 7) | (pde & 8 ? NX : 0), (pte & 7) | (pte & 8 ? NX : 0), access, m & 1, m & 2);
    tally_end("PAE 4 KiB pages");
    for (unsigned pde = 0; pde < 8 * nx_values; pde++)
        for (unsigned access = 0; access < ACCESSES; access++)
            for (unsigned m = 0; m < 4; m++)
                one((pde & 7) | (pde & 8 ? NX : 0) | PTE_PS, 0, access, m & 1, m & 2);
    tally_end("PAE 2 MiB pages");
    write_cr0(read_cr0() & ~CR0_WP);
}

static void load_cr3(void *arg)
{
    __asm__ volatile(AT_HERE "mov %0, %%cr3" ::"r"(arg) : "memory");
}

static void reserved(void)
{
    high[VIRTUAL >> 21 & 511] = (uint32_t)table | 7;
    table[0] = (uint32_t)page | 7 | 1ull << 62;
    invlpg(VIRTUAL);
    check_trap("reserved bit 62 of an entry", trap_call(do_read, (void *)VIRTUAL), PF, 9);
    trap_expected_eip = 0;
    check_trap("reserved bit 62 of an entry, ring 3 write", user_call(do_write, (void *)VIRTUAL), PF, 15);
    high[LARGE >> 21 & 511] = (uint32_t)large_page | 7 | PTE_PS | 1 << 13;
    invlpg(LARGE);
    check_trap("reserved bit 13 of a 2 MiB entry", trap_call(do_read, (void *)LARGE), PF, 9);
    high[LARGE >> 21 & 511] = 0;
    invlpg(LARGE);
    if (has_nx) {
        write_msr(MSR_EFER, read_msr(MSR_EFER) & ~EFER_NXE);
        table[0] = (uint32_t)page | 7 | NX;
        write_cr3(read_cr3());
        check_trap("NX is reserved without EFER.NXE", trap_call(do_read, (void *)VIRTUAL), PF, 9);
        write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
        write_cr3(read_cr3());
        check_trap("NX page, read", trap_call(do_read, (void *)VIRTUAL), NO_TRAP, 0);
    }
    table[0] = (uint32_t)page | 7;
    write_cr3(read_cr3());
    /* The pointers are loaded, and checked, with CR3. */
    pointers[2] = (uint32_t)low | 1 | 2;
    check_trap("#GP for a reserved bit of a directory pointer", trap_call(load_cr3, pointers), GP, 0);
    pointers[2] = 0;
}

static void directory_pointers(void)
{
    page[0] = 0x12121212;
    check_equal("third gigabyte through the second pointer", *(volatile uint32_t *)VIRTUAL, 0x12121212);
    check_trap("absent pointer", trap_call(do_read, (void *)0x80000000), PF, 0);
    check_equal("CR2 of the absent pointer", trap_cr2, 0x80000000);
    pointers[2] = (uint32_t)high | 1;
    write_cr3(read_cr3());
    check_equal("a pointer takes effect with CR3", *(volatile uint32_t *)0x80000000, 0x12121212);
    pointers[2] = 0;
    write_cr3(read_cr3());
    check_trap("and its removal too", trap_call(do_read, (void *)0x80000000), PF, 0);
    /* The directory pointers sit on 32 bytes, anywhere below 4 GiB. */
    uint64_t *second = (uint64_t *)page_alloc() + 4 * 5;
    memcpy(second, pointers, 32);
    second[3] = (uint32_t)high | 1;
    write_cr3((uint32_t)second);
    check_equal("pointers at an odd multiple of 32", *(volatile uint32_t *)0xc0000000, 0x12121212);
    write_cr3((uint32_t)pointers);
}

void guest_main(void)
{
    uint32_t r[4];
    cpuid(1, 0, r);
    if (!(r[3] & 1 << 6)) {
        check(false, "PAE", "this processor has none");
        return;
    }
    cpuid(0x80000000, 0, r);
    if (r[0] >= 0x80000001) {
        cpuid(0x80000001, 0, r);
        has_nx = r[3] & 1 << 20;
    }
    printf("   NX: %s\n", has_nx ? "yes" : "no");
    if (has_nx)
        write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
    pointers = page_alloc();
    low = page_alloc();
    high = page_alloc();
    table = page_alloc();
    page = page_alloc();
    large_page = (uint8_t *)(12 << 20);
    for (unsigned i = 0; i < 8; i++)
        low[i] = (uint64_t)i << 21 | PTE_P | PTE_W | PTE_U | PTE_PS;
    pointers[0] = (uint32_t)low | 1;
    pointers[1] = (uint32_t)high | 1;
    write_cr4(read_cr4() | CR4_PAE);
    paging_on((uint32_t *)pointers);
    permutations();
    reserved();
    directory_pointers();
    paging_off();
    write_cr4(read_cr4() & ~CR4_PAE);
}
