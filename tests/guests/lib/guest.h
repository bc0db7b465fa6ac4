/* SPDX-License-Identifier: MIT */
/* What the 32-bit bare-metal guests share beside common/common.h: segments, traps that a test expects, pages. They run
 * in ring 0, flat, paging off, interrupts off. */
#ifndef GUEST_H
#define GUEST_H

#include "common/common.h"

/* Registers. */
#define READ_REGISTER(name, reg)                                                                                       \
    static inline uint32_t read_##name(void)                                                                           \
    {                                                                                                                  \
        uint32_t v;                                                                                                    \
        __asm__ volatile("mov %%" #reg ", %0" : "=r"(v)::"memory");                                                    \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline void write_##name(uint32_t v)                                                                        \
    {                                                                                                                  \
        __asm__ volatile("mov %0, %%" #reg ::"r"(v) : "memory");                                                       \
    }
READ_REGISTER(cr0, cr0)
READ_REGISTER(cr2, cr2)
READ_REGISTER(cr3, cr3)
READ_REGISTER(cr4, cr4)
READ_REGISTER(dr0, db0)
READ_REGISTER(dr1, db1)
READ_REGISTER(dr2, db2)
READ_REGISTER(dr3, db3)
READ_REGISTER(dr6, db6)
READ_REGISTER(dr7, db7)
static inline uint32_t read_flags(void)
{
    uint32_t v;
    __asm__ volatile("pushf; pop %0" : "=r"(v));
    return v;
}
static inline void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
static inline uint64_t read_msr(uint32_t msr)
{
    uint64_t v;
    __asm__ volatile("rdmsr" : "=A"(v) : "c"(msr));
    return v;
}
static inline void write_msr(uint32_t msr, uint64_t v)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "A"(v));
}
static inline uint64_t read_tsc(void)
{
    uint64_t v;
    __asm__ volatile("rdtsc" : "=A"(v));
    return v;
}

enum {
    CR0_PE = 1,
    CR0_MP = 2,
    CR0_EM = 4,
    CR0_TS = 8,
    CR0_ET = 16,
    CR0_NE = 32,
    CR0_WP = 1 << 16,
    CR0_AM = 1 << 18,
    CR4_VME = 1,
    CR4_PVI = 2,
    CR4_TSD = 4,
    CR4_DE = 8,
    CR4_PSE = 16,
    CR4_PAE = 32,
    CR4_PGE = 128,
    CR4_OSFXSR = 512,
    CR4_OSXMMEXCPT = 1024,
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
    FLAG_VM = 1 << 17,
    FLAG_AC = 1 << 18,
    FLAG_VIF = 1 << 19,
    FLAG_VIP = 1 << 20,
    FLAG_ID = 1 << 21,
};
#define CR0_PG 0x80000000u
#define CR0_CD 0x40000000u
#define CR0_NW 0x20000000u

enum vector {
    NO_TRAP = -1,
    DE = 0,
    DB = 1,
    NMI = 2,
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
    USER_DONE = 0x80,
};

/* Segments. The GDT is gdt[]; these are taken, the rest from SEL_SPARE on is the tests'. */
enum {
    SEL_CODE = 0x08,
    SEL_DATA = 0x10,
    SEL_USER_CODE = 0x18 | 3,
    SEL_USER_DATA = 0x20 | 3,
    SEL_TSS = 0x28,
    SEL_SPARE = 0x40,
    GDT_ENTRIES = 64,
};
/* Access byte: present 0x80, DPL << 5, code/data 0x10, type. Flags: granularity 8, D/B 4. */
enum { SEG_G = 8, SEG_D = 4, SEG_P = 0x80, SEG_S = 0x10 };
#define SEG_DPL(n) ((n) << 5)
extern uint64_t gdt[GDT_ENTRIES];
extern uint64_t idt[256];
uint64_t descriptor(uint32_t base, uint32_t limit, unsigned access, unsigned flags);
/* A gate descriptor; type 0xc call, 0xe interrupt, 0xf trap, 5 task, 4/6/7 the 16-bit ones, with present and DPL. */
uint64_t gate(unsigned selector, uint32_t offset, unsigned access, unsigned parameters);
void gdt_set(unsigned selector, uint64_t d);
void idt_reset(void);

struct tss {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs,
        ss, ds, fs, gs, ldt;
    uint16_t trap, io_map;
    uint8_t map[8192 + 1];
} __attribute__((packed));
extern struct tss tss; /* its I/O map denies everything */

/* Traps. */
struct trap {
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp_here, ebx, edx, ecx, eax, vector, error, eip, cs, eflags;
    uint32_t esp, ss;                        /* only from an outer ring */
    uint32_t v86_es, v86_ds, v86_fs, v86_gs; /* only from v8086 mode */
};
extern struct trap trap;                        /* the last trap that ended a trap_call */
extern uint32_t trap_cr2, trap_dr6, trap_frame; /* CR2, DR6 and the frame's address then */
/* A hook sees a trap first; true: resume with what is in *frame. */
typedef bool trap_hook(struct trap *frame);
extern trap_hook *trap_hooks[256];
/* Runs fn; returns NO_TRAP or the vector. Registers, stack and segments are as before afterwards. */
int trap_call(void (*fn)(void *), void *arg);
void trap_leave(int vector) __attribute__((noreturn));
void enter_frame(const struct trap *frame) __attribute__((noreturn));
/* The same in ring 3, with these flags. trap.eax is what fn returned when the result is NO_TRAP. */
int user_call_flags(void (*fn)(void *), void *arg, uint32_t flags);
int user_call(void (*fn)(void *), void *arg);
/* Runs a frame (v8086 code, a ring, odd segments); the vector that ended it. */
int frame_call(const struct trap *frame);
void frame_flat(struct trap *frame); /* ring 3, flat, on the user stack */

/* Put AT_HERE in front of the instruction that shall fault: the trap's EIP must then be that instruction's. */
extern uint32_t trap_expected_eip;
#define AT_HERE "movl $771f, trap_expected_eip\n771: "
/* The trap must be this one; error codes are compared where the vector has one. */
void check_trap(const char *name, int got, int expected, uint32_t error);
bool trap_is(int got, int expected, uint32_t error);

/* Pages: 4 KiB aligned, zeroed, never freed. */
void *page_alloc(void);
void *page_alloc_many(unsigned n);
/* Two-level paging. paging_identity: a directory that maps the first megabytes 4 KiB-wise, user and writable. */
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_PWT = 8, PTE_PCD = 16, PTE_A = 32, PTE_D = 64, PTE_PS = 128, PTE_G = 256 };
uint32_t *paging_identity(unsigned megabytes);
/* The entry for an address; makes its page table when there is none. */
uint32_t *paging_entry(uint32_t *directory, uint32_t address);
void paging_on(uint32_t *directory);
void paging_off(void);
static inline void invlpg(uint32_t address)
{
    __asm__ volatile("invlpg (%0)" ::"r"(address) : "memory");
}

#endif
