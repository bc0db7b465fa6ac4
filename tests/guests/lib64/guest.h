/* SPDX-License-Identifier: MIT */
/* What the 64-bit bare-metal guests share beside common/common.h; the sibling of ../lib/guest.h. They run in ring 0,
 * 64-bit mode, interrupts off; the first 4 GiB are mapped one to one, open to ring 3. */
#ifndef GUEST_H
#define GUEST_H

#include "common/common.h"

/* Registers. */
#define READ_REGISTER(name)                                                                                            \
    static inline uint64_t read_##name(void)                                                                           \
    {                                                                                                                  \
        uint64_t v;                                                                                                    \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(v)::"memory");                                                   \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_##name(uint64_t v)                                                                        \
    {                                                                                                                  \
        __asm__ volatile("mov %0, %%" #name ::"r"(v) : "memory");                                                      \
    }
READ_REGISTER(cr0)
READ_REGISTER(cr2)
READ_REGISTER(cr3)
READ_REGISTER(cr4)
READ_REGISTER(cr8)
READ_REGISTER(dr6)
READ_REGISTER(dr7)
static inline uint64_t read_flags(void)
{
    uint64_t v;
    __asm__ volatile("pushf; pop %0" : "=r"(v));
    return v;
}
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline uint64_t read_msr(uint32_t msr)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
    return (uint64_t)high << 32 | low;
}
static inline void write_msr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((uint32_t)v), "d"((uint32_t)(v >> 32)) : "memory");
}
/* As write_msr; the vector of what it raised, or NO_TRAP. */
int write_msr_trap(uint32_t msr, uint64_t v);
int read_msr_trap(uint32_t msr);
int write_cr_trap(unsigned n, uint64_t v); /* 0, 3, 4, 8 */

enum {
    MSR_EFER = 0xc0000080,
    MSR_STAR,
    MSR_LSTAR,
    MSR_CSTAR,
    MSR_SFMASK,
    MSR_FS_BASE = 0xc0000100,
    MSR_GS_BASE,
    MSR_KERNEL_GS_BASE,
    MSR_TSC_AUX
};
enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };
enum { CR0_PE = 1, CR0_MP = 2, CR0_EM = 4, CR0_TS = 8, CR0_NE = 32, CR0_WP = 1 << 16, CR0_AM = 1 << 18 };
#define CR0_PG 0x80000000ul
enum {
    CR4_TSD = 4,
    CR4_PAE = 32,
    CR4_PGE = 128,
    CR4_OSFXSR = 512,
    CR4_OSXMMEXCPT = 1024,
    CR4_UMIP = 1 << 11,
    CR4_FSGSBASE = 1 << 16,
    CR4_PCIDE = 1 << 17,
    CR4_OSXSAVE = 1 << 18,
    CR4_SMEP = 1 << 20,
    CR4_SMAP = 1 << 21
};
enum {
    FLAG_CF = 1,
    FLAG_PF = 4,
    FLAG_AF = 16,
    FLAG_ZF = 64,
    FLAG_SF = 128,
    FLAG_TF = 256,
    FLAG_IF = 512,
    FLAG_DF = 1024,
    FLAG_OF = 2048,
    FLAG_IOPL = 3 << 12,
    FLAG_NT = 1 << 14,
    FLAG_RF = 1 << 16,
    FLAG_AC = 1 << 18
};
enum vector {
    NO_TRAP = -1,
    DE = 0,
    DB = 1,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    MF = 16,
    AC = 17,
    XM = 19,
    USER_DONE = 0x80
};
#define NOT_CANONICAL 0x800000000000ul

/* Segments. USER_CODE32, USER_DATA, USER_CODE lie as SYSRET wants them. From SEL_SPARE on the tests'. */
enum {
    SEL_CODE = 0x08,
    SEL_DATA = 0x10,
    SEL_USER_CODE32 = 0x18 | 3,
    SEL_USER_DATA = 0x20 | 3,
    SEL_USER_CODE = 0x28 | 3,
    SEL_TSS = 0x30,
    SEL_CODE32 = 0x40,
    SEL_SPARE = 0x48,
    GDT_ENTRIES = 64
};
/* Access byte: present 0x80, DPL << 5, code/data 0x10, type. Flags: granularity 8, D/B 4, L 2. */
enum { SEG_G = 8, SEG_D = 4, SEG_L = 2 };
extern uint64_t gdt[GDT_ENTRIES];
struct gate64 {
    uint64_t low, high;
};
extern struct gate64 idt[256];
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
/* type 0xc call, 0xe interrupt, 0xf trap, with present and DPL. */
struct gate64 gate(unsigned selector, uint64_t offset, unsigned access, unsigned ist);
void gdt_set(unsigned selector, uint64_t d);
void idt_reset(void);
struct tss64 {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, io_map;
} __attribute__((packed));
extern struct tss64 tss; /* without an I/O map: everything is denied */

/* Traps. */
struct trap {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax, vector, error, rip, cs, rflags,
        rsp, ss;
};
extern struct trap trap;              /* the last trap that ended a trap_call */
extern uint64_t trap_cr2, trap_frame; /* CR2 and the frame's address then */
extern uint64_t trap_dr6;
extern char trap_stack_top[], ist_stack_top[], user_stack_top[], start_pml4[], user_return[], guest_end[],
    enter_frame_iret[];
typedef bool trap_hook(struct trap *frame); /* sees a trap first; true: resume with what is in *frame */
extern trap_hook *trap_hooks[256];
int trap_call(void (*fn)(void *), void *arg); /* runs fn; NO_TRAP or the vector */
void trap_leave(int vector) __attribute__((noreturn));
void enter_frame(const struct trap *frame) __attribute__((noreturn));
/* The same in ring 3. */
int user_call_flags(void (*fn)(void *), void *arg, uint64_t flags);
int user_call(void (*fn)(void *), void *arg);
int frame_call(const struct trap *frame); /* runs a frame; the vector that ended it, NO_TRAP for USER_DONE */
void frame_flat(struct trap *frame);      /* ring 3, 64-bit, on the user stack */

/* Put AT_HERE in front of the instruction that shall fault: the trap's RIP must then be that instruction's. */
extern uint64_t trap_expected_rip;
#define AT_HERE "movq $771f, trap_expected_rip\n771: "
/* A function that runs this text; ends in ud2-free straight code. All registers but RSP may be used. */
#define CODE(name, text)                                                                                               \
    static void name(void *arg __attribute__((unused)))                                                                \
    {                                                                                                                  \
        __asm__ volatile(text ::                                                                                       \
                             : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",       \
                               "r14", "r15", "memory", "cc");                                                          \
    }
void check_trap(const char *name, int got, int expected, uint32_t error);
bool trap_is(int got, int expected, uint32_t error);

/* Pages: 4 KiB aligned, zeroed, never freed. */
void *page_alloc(void);
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PCD = 16, PTE_A = 32, PTE_D = 64, PTE_PS = 128, PTE_G = 256 };
#define PTE_NX (1ul << 63)
#define PTE_ADDRESS 0xffffffffff000ul
/* The entry of an address at a level (4: PML4 ... 1: page table) of the tables at start_pml4; makes what is missing. */
uint64_t *page_entry(uint64_t address, unsigned level);
/* n bytes, little-endian. */
static inline uint64_t number(const uint8_t *p, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}
static inline void invlpg(uint64_t address)
{
    __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory");
}
static inline void flush_all(void)
{
    write_cr3(read_cr3());
}

#endif
