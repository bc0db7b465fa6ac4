/* SPDX-License-Identifier: MIT */
/* Four-level paging: every permutation of rights at two levels with WP, SMEP, SMAP and AC, accessed and dirty bits,
 * large pages, reserved bits, the upper half, PCID and INVPCID. SDM vol. 3, 4.5, 4.6, 4.10. */
#include "lib64/guest.h"

#define ALIAS 0x8000000000ul  /* the first GiB once more, for ring 3 */
#define PROBE 0x10000000000ul /* what is tested */
enum { READ, WRITE, EXECUTE, ACCESSES };
enum { ERROR_P = 1, ERROR_W = 2, ERROR_U = 4, ERROR_RSVD = 8, ERROR_I = 16 };

static bool smep, smap, pcid, invpcid, gigabyte;
static unsigned physical_bits;

/* Position-independent: they also run at ALIAS. The address is in RDI. */
static void __attribute__((naked)) do_read(void *a)
{
    __asm__("mov 8(%rdi), %al; ret");
}
static void __attribute__((naked)) do_write(void *a)
{
    __asm__("movb $1, 8(%rdi); ret");
}
static void __attribute__((naked)) do_execute(void *a)
{
    __asm__("jmp *%rdi");
}
static void __attribute__((naked)) do_read_ac(void *a)
{
    __asm__("stac; mov 8(%rdi), %al; clac; ret");
}
static void __attribute__((naked)) do_write_ac(void *a)
{
    __asm__("stac; movb $1, 8(%rdi); clac; ret");
}
static void __attribute__((naked)) do_execute_ac(void *a)
{
    __asm__("stac; call *%rdi; clac; ret");
}
static void (*const plain[ACCESSES])(void *) = {do_read, do_write, do_execute};
static void (*const with_ac[ACCESSES])(void *) = {do_read_ac, do_write_ac, do_execute_ac};

/* The identity map becomes the supervisor's; ring 3 has its own copy at ALIAS. */
static void split(void)
{
    for (uint64_t a = 0; a < 1ul << 30; a += 1ul << 21) {
        *page_entry(ALIAS + a, 2) = a | PTE_PS | PTE_P | PTE_W | PTE_U;
        *page_entry(a, 2) &= ~(uint64_t)PTE_U;
    }
    flush_all();
}

static int user_access(unsigned access, uint64_t address)
{
    struct trap frame;
    frame_flat(&frame);
    frame.rsp -= 8;
    *(uint64_t *)frame.rsp = (uint64_t)user_return + ALIAS;
    frame.rsp += ALIAS;
    frame.rip = (uint64_t)plain[access] + ALIAS;
    frame.rdi = address;
    return frame_call(&frame);
}

static void set_control(bool wp, bool with_smep, bool with_smap)
{
    write_cr0((read_cr0() & ~(uint64_t)CR0_WP) | (wp ? CR0_WP : 0));
    write_cr4((read_cr4() & ~(uint64_t)(CR4_SMEP | CR4_SMAP)) | (with_smep ? CR4_SMEP : 0) |
              (with_smap ? CR4_SMAP : 0));
}

struct rights {
    bool present, write, user, no_execute;
};

static struct rights rights_of(uint64_t upper, uint64_t lower)
{
    return (struct rights){lower & PTE_P, upper & lower & PTE_W, upper & lower & PTE_U, (upper | lower) & PTE_NX};
}

/* -1, or the error code. */
static int expected(struct rights r, unsigned access, bool user, bool wp, bool with_smep, bool with_smap, bool ac)
{
    int error = (r.present ? ERROR_P : 0) | (access == WRITE ? ERROR_W : 0) | (user ? ERROR_U : 0) |
                (access == EXECUTE ? ERROR_I : 0);
    if (!r.present)
        return error;
    if (access == EXECUTE && r.no_execute)
        return error;
    if (user)
        return !r.user || (access == WRITE && !r.write) ? error : -1;
    if (access == EXECUTE)
        return r.user && with_smep ? error : -1;
    if (r.user && with_smap && !ac)
        return error;
    return access == WRITE && wp && !r.write ? error : -1;
}

static void one_case(uint64_t *upper, uint64_t *lower, unsigned access, bool user, unsigned control)
{
    bool wp = control & 1, with_smep = control & 2, with_smap = control & 4, ac = control & 8;
    uint64_t before = *lower;
    int want = expected(rights_of(*upper, *lower), access, user, wp, with_smep, with_smap, ac);
    int got = user ? user_access(access, PROBE) : trap_call((ac ? with_ac : plain)[access], (void *)PROBE);
    bool right = want < 0
                     ? got == NO_TRAP
                     : got == PF && trap.error == (unsigned)want && trap_cr2 == PROBE + (access == EXECUTE ? 0 : 8);
    tally(right, "rights", "upper %lx lower %lx access %u user %d control %x: got #%d error %lx cr2 %lx, expected %d",
          *upper, before, access, user, control, got, trap.error, trap_cr2, want);
    if (want < 0)
        tally((*lower & PTE_A) && (*upper & PTE_A) && !(*lower & PTE_D) == (access != WRITE), "A and D",
              "upper %lx lower %lx access %u", *upper, *lower, access);
    else
        tally(!(*lower & PTE_D), "D after a fault", "lower %lx access %u", *lower, access);
}

/* entry: the leaf's address bits; level: of the leaf. */
static void permutations(const char *name, unsigned level, uint64_t leaf)
{
    static const uint64_t bits[4] = {PTE_W, PTE_U, PTE_NX, PTE_P};
    uint64_t *upper = page_entry(PROBE, level + 1), *lower = page_entry(PROBE, level), keep = *upper & PTE_ADDRESS;

    for (unsigned control = 0; control < 16; control++) {
        if ((control & 2 && !smep) || (control & 4 && !smap) || (control & 8 && !smap))
            continue;
        set_control(control & 1, control & 2, control & 4);
        for (unsigned p = 0; p < 128; p++)
            for (unsigned access = 0; access < ACCESSES; access++)
                for (unsigned user = 0; user < (control & 8 ? 1u : 2u); user++) {
                    uint64_t u = keep | PTE_P, l = leaf;
                    for (unsigned i = 0; i < 4; i++) {
                        u |= i < 3 && p >> i & 1 ? bits[i] : 0;
                        l |= p >> (3 + i) & 1 ? bits[i] : 0;
                    }
                    *upper = u;
                    *lower = l;
                    invlpg(PROBE);
                    one_case(upper, lower, access, user, control);
                }
    }
    set_control(true, false, false);
    *upper = keep | PTE_P | PTE_W | PTE_U;
    tally_end(name);
}

static void check_fault(const char *name, int got, uint64_t error, uint64_t cr2)
{
    check(got == PF && trap.error == error && trap_cr2 == cr2, name, "got #%d error %lx cr2 %lx, expected %lx %lx", got,
          trap.error, trap_cr2, error, cr2);
}

static int read_at(uint64_t address)
{
    return trap_call(do_read, (void *)address);
}

static void reserved_bits(uint64_t page)
{
    const uint64_t all = PTE_P | PTE_W | PTE_U;
    uint64_t *pte = page_entry(PROBE, 1), *pde = page_entry(PROBE, 2), *pdpte = page_entry(PROBE, 3),
             *pml4e = page_entry(PROBE, 4);
    uint64_t old[3] = {*pde, *pdpte, *pml4e};

    if (physical_bits < 52) {
        *pte = page | all | 1ul << 51;
        invlpg(PROBE);
        check_fault("physical address too wide", read_at(PROBE), ERROR_P | ERROR_RSVD, PROBE + 8);
    }
    *pte = page | all;
    *pde = PTE_PS | all | 1 << 13;
    invlpg(PROBE);
    check_fault("bit 13 of a 2 MiB page", read_at(PROBE), ERROR_P | ERROR_RSVD, PROBE + 8);
    *pde = old[0];
    *pml4e = old[2] | PTE_PS;
    flush_all();
    check_fault("PS in a PML4 entry", read_at(PROBE), ERROR_P | ERROR_RSVD, PROBE + 8);
    *pml4e = old[2];
    *pdpte = PTE_PS | all;
    flush_all();
    if (gigabyte) {
        int got = read_at(PROBE);
        check(got == NO_TRAP, "1 GiB page", "got #%d error %lx", got, trap.error);
        *pdpte |= 1 << 13;
        flush_all();
        check_fault("bit 13 of a 1 GiB page", read_at(PROBE), ERROR_P | ERROR_RSVD, PROBE + 8);
    }
    *pdpte = old[1];
    write_msr(MSR_EFER, read_msr(MSR_EFER) & ~(uint64_t)EFER_NXE);
    *pte = page | all | PTE_NX;
    flush_all();
    check_fault("NX without EFER.NXE", read_at(PROBE), ERROR_P | ERROR_RSVD, PROBE + 8);
    *pte = 0;
    invlpg(PROBE);
    check_fault("no I bit without EFER.NXE", trap_call(do_execute, (void *)PROBE), 0, PROBE);
    write_msr(MSR_EFER, read_msr(MSR_EFER) | EFER_NXE);
    *pte = page | all;
    flush_all();
}

static void upper_half(uint64_t page)
{
    static const uint64_t places[] = {0xffff800000000000, 0xffffffff80000000, 0xfffffffffffff000,
                                      0x00007ffffffff000, 0x00007fff80000000, 0xffff888000001000};
    for (unsigned i = 0; i < 6; i++) {
        uint64_t at = places[i];
        *page_entry(at, 1) = 0;
        invlpg(at);
        int got = read_at(at);
        tally(got == PF && trap.error == 0 && trap_cr2 == at + 8, "absent", "%lx: #%d cr2 %lx", at, got, trap_cr2);
        *page_entry(at, 1) = page | PTE_P | PTE_W | PTE_U;
        tally(read_at(at) == NO_TRAP && user_access(READ, at) == NO_TRAP && user_access(WRITE, at) == NO_TRAP,
              "present", "%lx", at);
        *(volatile uint64_t *)(at + 16) = at;
        tally(*(volatile uint64_t *)(page + 16) == at, "contents", "%lx: %lx", at, *(volatile uint64_t *)(page + 16));
        tally(user_access(EXECUTE, at) == NO_TRAP, "code", "%lx", at);
    }
    tally_end("both halves and their edges");
    uint64_t last = 0xffffffffffffffff;
    check(read_at(last - 7 - 8) == NO_TRAP, "the last quadword", "#%ld", (long)trap.vector);
}

static void crossing(uint64_t page)
{
    uint64_t at = PROBE + 0x1000 - 3;
    *page_entry(PROBE, 1) = page | PTE_P | PTE_W | PTE_U;
    *page_entry(PROBE + 0x1000, 1) = 0;
    flush_all();
    memset((void *)page, 0x11, 4096);
    *(uint8_t *)page = 0xc3;
    int got = trap_call(do_read, (void *)(at - 8));
    check(got == NO_TRAP, "a byte in front of the hole", "#%d", got);
    static const uint8_t code[] = {0x48, 0x89, 0x07, 0xc3}; /* mov [rdi], rax; ret */
    uint8_t *text = page_alloc();
    memcpy(text, code, sizeof code);
    got = trap_call((void (*)(void *))(uint64_t)text, (void *)at);
    check_fault("a quadword that reaches into it", got, ERROR_W, PROBE + 0x1000);
    check(*(uint8_t *)(page + 0xffd) == 0x11, "nothing of it was stored", "%x", *(uint8_t *)(page + 0xffd));
}

static void do_invpcid(uint64_t type, uint64_t id, uint64_t address)
{
    struct {
        uint64_t id, address;
    } d = {id, address};
    __asm__ volatile("invpcid %0, %1" ::"m"(d), "r"(type) : "memory");
}

struct invpcid_call {
    uint64_t type, id, address;
};
static void call_invpcid(void *arg)
{
    struct invpcid_call *c = arg;
    do_invpcid(c->type, c->id, c->address);
}
static int invpcid_trap(uint64_t type, uint64_t id, uint64_t address)
{
    return trap_call(call_invpcid, &(struct invpcid_call){type, id, address});
}

static void process_ids(void)
{
    const uint64_t no_flush = 1ul << 63, all = PTE_P | PTE_W | PTE_U;
    uint64_t *a = page_alloc(), *b = page_alloc(), *pte = page_entry(PROBE, 1), root = (uint64_t)start_pml4;
    volatile uint64_t *probe = (volatile uint64_t *)PROBE;

    *a = 0xa;
    *b = 0xb;
    if (!pcid) {
        check_equal("#GP CR4.PCIDE where there is no PCID", (uint64_t)write_cr_trap(4, read_cr4() | CR4_PCIDE), GP);
        return;
    }
    write_cr4(read_cr4() | CR4_PCIDE);
    *pte = (uint64_t)a | all;
    write_cr3(root | 1);
    check_equal("PCID 1", *probe, 0xa);
    check_equal("CR3 shows it", read_cr3(), root | 1);
    write_cr3(root | 2 | no_flush);
    check_equal("CR3 does not show bit 63", read_cr3(), root | 2);
    *pte = (uint64_t)b | all;
    check_equal("PCID 2 had no entry yet", *probe, 0xb);
    write_cr3(root | 1);
    check_equal("PCID 1, flushed by the load", *probe, 0xb);
    *pte = (uint64_t)a | all;
    invlpg(PROBE);
    check_equal("invlpg", *probe, 0xa);
    write_cr3(root | 2 | no_flush);
    (void)*probe;
    if (invpcid) {
        static const struct {
            const char *name;
            uint64_t type, id;
        } kinds[] = {{"invpcid of an address", 0, 2},
                     {"invpcid of a PCID", 1, 2},
                     {"invpcid of all", 2, 0},
                     {"invpcid of all but global ones", 3, 0}};
        for (unsigned i = 0; i < 4; i++) {
            *pte = (uint64_t)(i & 1 ? a : b) | all;
            do_invpcid(kinds[i].type, kinds[i].id, PROBE);
            check_equal(kinds[i].name, *probe, i & 1 ? 0xa : 0xb);
        }
        *pte = (uint64_t)b | all | PTE_G;
        write_cr4(read_cr4() | CR4_PGE);
        do_invpcid(2, 0, 0);
        check_equal("a global page", *probe, 0xb);
        *pte = (uint64_t)a | all | PTE_G;
        do_invpcid(2, 0, 0);
        check_equal("invpcid of all takes global ones", *probe, 0xa);
        check_equal("#GP invpcid type 4", (uint64_t)invpcid_trap(4, 0, 0), GP);
        check_equal("#GP invpcid reserved bits", (uint64_t)invpcid_trap(1, 0x1000, 0), GP);
        check_equal("#GP invpcid bad address", (uint64_t)invpcid_trap(0, 1, NOT_CANONICAL), GP);
    }
    write_cr3(root);
    write_cr4(read_cr4() & ~(uint64_t)(CR4_PCIDE | CR4_PGE));
    if (invpcid)
        check_equal("#GP invpcid of a PCID without CR4.PCIDE", (uint64_t)invpcid_trap(0, 1, 0), GP);
    check_equal("#GP bit 63 of CR3 without CR4.PCIDE", (uint64_t)write_cr_trap(3, root | no_flush), GP);
}

static void global_pages(void)
{
    const uint64_t all = PTE_P | PTE_W | PTE_U;
    uint64_t *a = page_alloc(), *b = page_alloc(), *pte = page_entry(PROBE, 1);
    volatile uint64_t *probe = (volatile uint64_t *)PROBE;

    *a = 0xa;
    *b = 0xb;
    write_cr4(read_cr4() | CR4_PGE);
    *pte = (uint64_t)a | all | PTE_G;
    invlpg(PROBE);
    check_equal("global page", *probe, 0xa);
    *pte = (uint64_t)b | all;
    invlpg(PROBE);
    check_equal("invlpg drops it", *probe, 0xb);
    *pte = (uint64_t)a | all | PTE_G;
    write_cr4(read_cr4() & ~(uint64_t)CR4_PGE);
    check_equal("a change of CR4.PGE drops everything", *probe, 0xa);
}

void guest_main(void)
{
    uint32_t r[4];
    cpuid(7, 0, r);
    smep = r[1] & 1 << 7;
    smap = r[1] & 1 << 20;
    invpcid = r[1] & 1 << 10;
    cpuid(1, 0, r);
    pcid = r[2] & 1 << 17;
    cpuid(0x80000001, 0, r);
    gigabyte = r[3] & 1 << 26;
    cpuid(0x80000008, 0, r);
    physical_bits = r[0] & 0xff;
    printf("   smep %d smap %d pcid %d invpcid %d 1G %d, %u bits\n", smep, smap, pcid, invpcid, gigabyte,
           physical_bits);
    split();
    uint8_t *page = page_alloc(), *large = (uint8_t *)(8ul << 20);
    page[0] = large[0] = 0xc3;
    *page_entry(PROBE, 1) = (uint64_t)page | PTE_P | PTE_W | PTE_U;
    permutations("4 KiB pages", 1, (uint64_t)page);
    uint64_t table = *page_entry(PROBE, 2);
    permutations("2 MiB pages", 2, (uint64_t)large | PTE_PS);
    *page_entry(PROBE, 2) = table;
    flush_all();
    reserved_bits((uint64_t)page);
    upper_half((uint64_t)page);
    crossing((uint64_t)page);
    global_pages();
    process_ids();
}
