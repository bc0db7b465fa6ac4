/* SPDX-License-Identifier: MIT */
/* The state of one virtual CPU, for 16-, 32- and 64-bit modes, and the operations on it that are not plain user
 * instructions: segmentation, exceptions and interrupt delivery, control registers, MSRs, CPUID, task switch.
 *
 * Calling convention of every operation that carries out an instruction ("int cpu_...(struct cpu *, ...)"):
 *   on entry  cpu->rip is the instruction's address, cpu->next_rip the following one (both truncated to the mode)
 *   0         done; cpu->rip is the next instruction to run (next_rip or the target)
 *   CPU_FAULT nothing has changed; cpu->fault says what to deliver (cpu_deliver_fault does it)
 * General registers, rip and all of rflags are in the struct while C code runs; the vector and x87 state may still be
 * in the host's registers (fpu_live), so this folder is built without vector registers, those of memcpy and its like
 * included (general_memory.h), and whoever needs more of libc or the state itself calls cpu_fpu_unload first.
 *
 * Threads: a struct cpu belongs to its vCPU thread; others only use cpu_raise / cpu_lower (atomic events + kick). */
#ifndef RINGFOLD_CPU_CPU_H
#define RINGFOLD_CPU_CPU_H

#include "decoder/insn.h" /* FLAG_*, enum gpr, enum seg */
#include "shadowmmu/mmu.h"

#include <stdatomic.h>

enum {
    CR0_PE = 1u << 0,
    CR0_MP = 1u << 1,
    CR0_EM = 1u << 2,
    CR0_TS = 1u << 3,
    CR0_ET = 1u << 4,
    CR0_NE = 1u << 5,
    CR0_WP = 1u << 16,
    CR0_AM = 1u << 18,
    CR0_NW = 1u << 29,
    CR0_CD = 1u << 30
};
#define CR0_PG (1u << 31)
enum {
    CR4_VME = 1u << 0,
    CR4_PVI = 1u << 1,
    CR4_TSD = 1u << 2,
    CR4_DE = 1u << 3,
    CR4_PSE = 1u << 4,
    CR4_PAE = 1u << 5,
    CR4_MCE = 1u << 6,
    CR4_PGE = 1u << 7,
    CR4_PCE = 1u << 8,
    CR4_OSFXSR = 1u << 9,
    CR4_OSXMMEXCPT = 1u << 10,
    CR4_UMIP = 1u << 11,
    CR4_FSGSBASE = 1u << 16,
    CR4_PCIDE = 1u << 17,
    CR4_OSXSAVE = 1u << 18,
    CR4_SMEP = 1u << 20,
    CR4_SMAP = 1u << 21
};
enum { EFER_SCE = 1u << 0, EFER_LME = 1u << 8, EFER_LMA = 1u << 10, EFER_NXE = 1u << 11 };
enum {
    EFLAGS_FIXED = 1u << 1,
    EFLAGS_IOPL_SHIFT = 12,
    EFLAGS_IOPL = 3u << 12,
    EFLAGS_NT = 1u << 14,
    EFLAGS_RF = 1u << 16,
    EFLAGS_VM = 1u << 17,
    EFLAGS_AC = 1u << 18,
    EFLAGS_VIF = 1u << 19,
    EFLAGS_VIP = 1u << 20,
    EFLAGS_ID = 1u << 21
};
enum vector {
    VECTOR_DE,
    VECTOR_DB,
    VECTOR_NMI,
    VECTOR_BP,
    VECTOR_OF,
    VECTOR_BR,
    VECTOR_UD,
    VECTOR_NM,
    VECTOR_DF,
    VECTOR_TS = 10,
    VECTOR_NP,
    VECTOR_SS,
    VECTOR_GP,
    VECTOR_PF,
    VECTOR_MF = 16,
    VECTOR_AC,
    VECTOR_MC,
    VECTOR_XM
};

/* Access rights as in the second descriptor doubleword bits 8-23, shifted down by 8 (the VMX format). */
enum {
    SEG_TYPE = 0xf,
    SEG_A = 1,
    SEG_W = 2 /* data: writable; code: readable */,
    SEG_E = 4 /* expand down / conforming */,
    SEG_CODE = 8,
    SEG_S = 0x10,
    SEG_DPL_SHIFT = 5,
    SEG_DPL = 0x60,
    SEG_P = 0x80,
    SEG_AVL = 1 << 12,
    SEG_L = 1 << 13,
    SEG_DB = 1 << 14,
    SEG_G = 1 << 15,
    SEG_UNUSABLE = 1 << 16 /* null selector loaded */
};

struct segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint32_t attr;  /* SEG_* */
    uint16_t selector;
};

struct table_register {
    uint64_t base;
    uint16_t limit;
};

/* What is to be delivered. */
struct cpu_fault {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2; /* VECTOR_PF: goes to CR2 at delivery */
    uint64_t dr6; /* VECTOR_DB: bits to set at delivery */
};

enum { CPU_OK = 0, CPU_FAULT = 1 };

/* cpu->events: why translated code must leave its chain of blocks. */
enum cpu_event {
    CPU_EVENT_INTR = 1, /* the interrupt controller's INTR pin is up */
    CPU_EVENT_NMI = 2,
    CPU_EVENT_SMI = 4,
    CPU_EVENT_INIT = 8,
    CPU_EVENT_KICK = 16,  /* leave the engine's run function: somebody wants the vCPU thread */
    CPU_EVENT_FLUSH = 32, /* the memory map changed: flush derived state */
    CPU_EVENT_RESET = 64,
    CPU_EVENT_CODE = 128, /* DMA wrote to pages with translated code (the engine's queue says which) */
    CPU_EVENT_STEP = 256  /* the engine's own, while a stepped block runs: each polling entry ends it */
};

struct chip_holder; /* cpu/chips.h */

/* How the vCPU reaches the board. All take the machine lock themselves. Sizes in bytes: 1, 2, 4 (8 for memory). */
struct cpu_board {
    uint64_t (*port_read)(void *opaque, uint16_t port, unsigned size);
    void (*port_write)(void *opaque, uint16_t port, uint64_t value, unsigned size);
    uint64_t (*mem_read)(void *opaque, gpa_t addr, unsigned size);
    void (*mem_write)(void *opaque, gpa_t addr, uint64_t value, unsigned size);
    int (*interrupt_ack)(void *opaque);       /* INTA cycle: vector, or -1 when the request has gone away */
    void (*kick)(void *opaque);               /* wake a halted vCPU */
    uint64_t (*apic_base_read)(void *opaque); /* NULL without a local APIC */
    int (*apic_base_write)(void *opaque, uint64_t value);
    int (*cr8_read)(void *opaque);
    void (*cr8_write)(void *opaque, unsigned tpr);
    void (*ferr)(void *opaque, int level); /* FERR#: x87 error with CR0.NE clear, to IRQ 13 */
    const _Atomic uint8_t *tpr; /* the local APIC's TPR, to be read by the vCPU's thread; NULL: ask cr8_read */
    int (*tsc_deadline)(void *opaque, uint64_t tsc);
    uint64_t (*tsc_deadline_read)(void *opaque); /* 0: none waits */
    /* What the guest's time stamp counter is made from instead of the host's; NULL: the host's. */
    uint64_t (*tsc)(void *opaque);
    /* An engine that runs the interrupt controllers itself takes them and gives them back, in the vCPU's thread inside
     * run: cpu/chips.h. The holder is copied. 0 or -errno. NULL: the board keeps them. */
    int (*chips_hold)(void *opaque, const struct chip_holder *holder);
    int (*chips_release)(void *opaque);
    void *opaque;
};

struct cpu_model; /* cpu/cpuid.h */

#define CPU_XSAVE_SIZE 1088 /* legacy 512 + header 64 + AVX 256, rounded up */

struct cpu {
    /* --- hot: addressed by translated code, offsets checked in bt/ --- */
    uint64_t gpr[16];
    uint64_t rip;
    uint64_t next_rip;
    uint64_t rflags;         /* complete whenever C code runs; DF and the system flags are always here */
    _Atomic uint32_t events; /* enum cpu_event */
    uint8_t cpl;
    bool fpu_live;         /* the guest's vector/x87 state is in the host's registers */
    bool fpu_parked;       /* its vector state is in parked, its x87 state in the host's registers */
    bool interrupt_shadow; /* one instruction after STI or a load of SS */
    bool halted;
    uint64_t tsc_offset; /* guest TSC = host TSC + tsc_offset */
    struct segment seg[SEG_COUNT];
    struct mmu mmu; /* holds the live copies of cr0, cr3, cr4, efer */

    /* --- cold --- */
    struct segment ldtr, tr;
    struct table_register gdtr, idtr;
    uint64_t cr2;
    uint8_t cr8;
    uint64_t dr[8];
    bool wide; /* the model has long mode */
    struct cpu_fault fault;
    bool shutdown; /* triple fault */
    bool nmi_blocked;
    bool smm;
    struct {
        uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
        uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat, misc_enable, apic_base;
        uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_phys[16], mcg_status, tsc_deadline;
        uint64_t amd_hwcr, amd_de_cfg;
    } msr;
    uint64_t xcr0;
    /* x87 instruction and operand pointers of the guest are kept by the host in the xsave image */
    _Alignas(64) uint8_t xsave[CPU_XSAVE_SIZE]; /* standard format; valid while neither live nor parked */
    _Alignas(32) uint8_t parked[16 * 32];
    uint32_t parked_mxcsr;
    bool parked_halves; /* some upper half of a YMM register was not zero */

    const struct cpu_model *model;
    const struct cpu_board *board;
    unsigned index; /* vCPU number, APIC id */
    /* Set by the engine. mode_changed: CS, CPL, CR0, CR4, EFER, RFLAGS.VM/TF/AC or a segment's flatness may have
     * changed. Called by cpu/ after such a change. */
    void (*mode_changed)(struct cpu *cpu);
    /* Set by the engine while data breakpoints are enabled: told of explicit accesses that C code makes. */
    void (*accessed)(struct cpu *cpu, uint64_t gva, unsigned size, bool write);
    void *engine; /* the engine's own state of this vCPU */
};

/* ---- life cycle (cpu/reset.c) ---- */
int cpu_init(struct cpu *cpu, struct memory *mem, const struct cpu_model *model, const struct cpu_board *board,
             unsigned index);
void cpu_destroy(struct cpu *cpu);
void cpu_reset(struct cpu *cpu); /* SDM vol. 3, table 10-1: power-up state */
/* The architectural state from one vCPU of the same model to another (events are not part of it); the engine of to must
 * be told by its state_replaced. Neither may be running. */
void cpu_state_copy(struct cpu *to, struct cpu *from);
/* The registers, as text of several lines, for the triple-fault report. */
void cpu_dump(const struct cpu *cpu, char *buf, size_t len);

/* ---- events ---- */
/* From any thread. Sets event bits and wakes the vCPU. */
void cpu_raise(struct cpu *cpu, uint32_t events);
void cpu_lower(struct cpu *cpu, uint32_t events);
/* Delivers what is pending and deliverable now (in the SDM's order, vol. 3 table 6-2): NMI, INTR. Returns true when
 * something was delivered or the CPU left HLT. */
bool cpu_take_interrupt(struct cpu *cpu);
/* True when an interrupt could be taken now or would end HLT. */
bool cpu_has_work(const struct cpu *cpu);

/* ---- fpu (cpu/fpu.c) ---- */
void cpu_fpu_unload(struct cpu *cpu); /* host registers -> cpu->xsave, when live; host gets clean MXCSR/x87 control */
void cpu_fpu_load(struct cpu *cpu);   /* cpu->xsave -> host registers */
/* Around a call of the board: the vector registers are free in between, at a tenth of the cost of unload and load, but
 * the x87 registers stay the guest's (devices/ is compiled without x87). Code in between may call cpu_fpu_unload;
 * unpark does nothing then. */
void cpu_fpu_park(struct cpu *cpu);
void cpu_fpu_unpark(struct cpu *cpu);
/* Checks before an x87/MMX/SSE/AVX instruction: CR0.EM/TS/MP, CR4.OSFXSR, OSXSAVE, XCR0. CPU_OK or CPU_FAULT. */
int cpu_fpu_check(struct cpu *cpu, const struct insn *insn);
/* An x87 error waits (FSW.ES): #MF, or FERR# when CR0.NE is clear. CPU_OK: go on with the instruction. */
int cpu_fpu_pending_error(struct cpu *cpu);

/* ---- raising (cpu/exception.c) ---- */
int cpu_raise_fault(struct cpu *cpu, unsigned vector);                       /* returns CPU_FAULT */
int cpu_raise_fault_error(struct cpu *cpu, unsigned vector, uint32_t error); /* returns CPU_FAULT */
int cpu_raise_page_fault(struct cpu *cpu, const struct mmu_fault *f);        /* returns CPU_FAULT */
/* Delivers cpu->fault as an exception at cpu->rip (benign/contributory/page-fault rules to #DF, then shutdown). After
 * it cpu->rip is the handler, or cpu->shutdown is set. */
void cpu_deliver_fault(struct cpu *cpu);
/* Software interrupts: int n (also int3 and into by their vectors). next_rip is pushed. */
int cpu_int(struct cpu *cpu, unsigned vector, bool int3_or_into);
int cpu_int1(struct cpu *cpu);
/* A trap after an instruction (single step, data breakpoint): rip is already the next instruction. */
void cpu_deliver_debug_trap(struct cpu *cpu, uint64_t dr6_bits);

/* ---- guest memory by linear address with the current CPL's rights (cpu/access.c) ---- */
/* size: 1, 2, 4, 8 or any length up to PAGE_SIZE for the buffer forms; page crossings and devices are handled.
 * access: MMU_READ/MMU_WRITE plus MMU_SUPERVISOR for implicit accesses; a write checks both pages before it stores. */
int cpu_read_linear(struct cpu *cpu, uint64_t gva, void *buf, unsigned size, unsigned access);
int cpu_write_linear(struct cpu *cpu, uint64_t gva, const void *buf, unsigned size, unsigned access);
/* Would the access succeed? Sets A/D bits as the access would. */
int cpu_probe_linear(struct cpu *cpu, uint64_t gva, unsigned size, unsigned access);
/* The rights of an explicit access by the current instruction stream. */
unsigned cpu_access_rights(const struct cpu *cpu);
/* The host address of size bytes inside one page that the shadow tables already know for such an access, or NULL: then
 * the functions above find out. access: as above, MMU_WRITE or MMU_READ. */
static inline uint8_t *cpu_known_host(const struct cpu *cpu, uint64_t gva, unsigned size, unsigned access)
{
    uint64_t at = cpu->mmu.efer & EFER_LMA ? gva : (uint32_t)gva;
    if ((uint64_t)((int64_t)(at << 16) >> 16) != at || (at & PAGE_MASK) > PAGE_SIZE - size)
        return NULL;
    const struct mmu_table_set *t = &cpu->mmu.view[mmu_view(&cpu->mmu, access)];
    uint64_t delta = ((access & MMU_WRITE) ? t->write : t->read)[mmu_table_index(&cpu->mmu, at)];
    return delta ? (uint8_t *)(uintptr_t)(at + delta) : NULL;
}
/* By segment: checks presence, type, limit, canonical form (#GP(0), #SS(0)) and adds the base. On success *gva is
 * the linear address. off is truncated by the caller to the address size. */
int cpu_segment_check(struct cpu *cpu, enum seg seg, uint64_t off, unsigned size, bool write, uint64_t *gva);
int cpu_read_seg(struct cpu *cpu, enum seg seg, uint64_t off, void *buf, unsigned size);
int cpu_write_seg(struct cpu *cpu, enum seg seg, uint64_t off, const void *buf, unsigned size);
/* Called after a write to a page with translated code, with the guest-physical range. Set by the engine; may be NULL.
 */
extern void (*cpu_code_written_hook)(struct cpu *cpu, gpa_t addr, unsigned len);

/* ---- segmentation (cpu/segment.c, cpu/transfer.c, cpu/task.c) ---- */
static inline bool cpu_real_mode(const struct cpu *cpu)
{
    return !(cpu->mmu.cr0 & CR0_PE);
}
static inline bool cpu_v8086(const struct cpu *cpu)
{
    return cpu->rflags & EFLAGS_VM;
}
static inline bool cpu_protected(const struct cpu *cpu)
{
    return !cpu_real_mode(cpu) && !cpu_v8086(cpu);
}
static inline bool cpu_long_mode(const struct cpu *cpu)
{
    return cpu->mmu.efer & EFER_LMA;
}
static inline bool cpu_code64(const struct cpu *cpu)
{
    return cpu_long_mode(cpu) && (cpu->seg[SEG_CS].attr & SEG_L);
}
/* Stack address mask by SS.B / 64-bit mode. */
uint64_t cpu_stack_mask(const struct cpu *cpu);
/* mov sreg, pop sreg, lds & co.: all checks. Does not move rip. CS is refused with #UD. */
int cpu_load_segment(struct cpu *cpu, enum seg seg, uint16_t selector);
/* Real-mode style load without a descriptor (real and v8086 modes, also used at reset). */
void cpu_load_segment_real(struct cpu *cpu, enum seg seg, uint16_t selector);
int cpu_far_jmp(struct cpu *cpu, uint16_t selector, uint64_t off, unsigned opsize);
int cpu_far_call(struct cpu *cpu, uint16_t selector, uint64_t off, unsigned opsize);
int cpu_far_ret(struct cpu *cpu, unsigned opsize, uint16_t pop_bytes);
int cpu_iret(struct cpu *cpu, unsigned opsize);
enum task_switch_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_INT };
int cpu_task_switch(struct cpu *cpu, uint16_t selector, enum task_switch_reason reason, bool has_error, uint32_t error);
int cpu_sysenter(struct cpu *cpu);
int cpu_sysexit(struct cpu *cpu, unsigned opsize);
int cpu_syscall(struct cpu *cpu);
int cpu_sysret(struct cpu *cpu, unsigned opsize);
int cpu_swapgs(struct cpu *cpu);
int cpu_lldt(struct cpu *cpu, uint16_t selector);
int cpu_ltr(struct cpu *cpu, uint16_t selector);
/* lar, lsl, verr, verw: set ZF; *value only when ZF becomes set. */
int cpu_lar(struct cpu *cpu, uint16_t selector, uint32_t *value);
int cpu_lsl(struct cpu *cpu, uint16_t selector, uint32_t *value);
int cpu_verify(struct cpu *cpu, uint16_t selector, bool write);
int cpu_lgdt(struct cpu *cpu, uint64_t base, uint16_t limit);
int cpu_lidt(struct cpu *cpu, uint64_t base, uint16_t limit);
/* sgdt, sidt, sldt, str, smsw under CR4.UMIP: CPU_FAULT at CPL 3. */
int cpu_umip_check(struct cpu *cpu);

/* ---- control (cpu/control.c) ---- */
int cpu_read_cr(struct cpu *cpu, unsigned n, uint64_t *value);
int cpu_write_cr(struct cpu *cpu, unsigned n, uint64_t value);
int cpu_lmsw(struct cpu *cpu, uint16_t value);
int cpu_clts(struct cpu *cpu);
int cpu_read_dr(struct cpu *cpu, unsigned n, uint64_t *value);
int cpu_write_dr(struct cpu *cpu, unsigned n, uint64_t value);
int cpu_invlpg(struct cpu *cpu, uint64_t gva);
int cpu_invpcid(struct cpu *cpu, uint64_t type, uint64_t pcid, uint64_t gva);
int cpu_wbinvd(struct cpu *cpu);
int cpu_hlt(struct cpu *cpu);     /* sets halted */
int cpu_monitor(struct cpu *cpu); /* and mwait */
int cpu_xsetbv(struct cpu *cpu);
int cpu_xgetbv(struct cpu *cpu);
/* pushf/popf image rules incl. v8086, VME, IOPL. */
int cpu_pushf_value(struct cpu *cpu, unsigned opsize, uint64_t *value);
int cpu_popf_value(struct cpu *cpu, unsigned opsize, uint64_t value);
int cpu_cli(struct cpu *cpu);
int cpu_sti(struct cpu *cpu);
int cpu_clac_stac(struct cpu *cpu, bool ac);

/* ---- msr, cpuid, time (cpu/msr.c, cpu/cpuid.c) ---- */
int cpu_rdmsr(struct cpu *cpu);
int cpu_wrmsr(struct cpu *cpu);
int cpu_cpuid(struct cpu *cpu);
int cpu_rdtsc(struct cpu *cpu, bool with_aux);
int cpu_rdpmc(struct cpu *cpu);

/* ---- port I/O with the permission checks (cpu/port.c) ---- */
int cpu_port_check(struct cpu *cpu, uint16_t port, unsigned size);
int cpu_in(struct cpu *cpu, uint16_t port, unsigned size); /* al/ax/eax */
int cpu_out(struct cpu *cpu, uint16_t port, unsigned size);
/* The same without the permission check and I/O breakpoints. rip stays. */
void cpu_in_allowed(struct cpu *cpu, uint16_t port, unsigned size);
void cpu_out_allowed(struct cpu *cpu, uint16_t port, unsigned size);

#endif
