/* SPDX-License-Identifier: MIT */
/* The translator's state of one vCPU. It lies in the low 2 GiB, just below the vCPU's code cache, so that translated
 * code reaches every field relative to RIP.
 *
 * Host registers while translated code of a 16- or 32-bit mode runs:
 *   rax rcx rdx rbx rbp rsi rdi   the guest registers of the same name, upper halves zero
 *   r14                           guest ESP, upper half zero
 *   r8, r9                        read and write shadow table of the current view
 *   r15                           12 (PAGE_SHIFT), the count of the flag-free page index shift; in code of
 *                                 BT_MODE_WINDOW the host address of guest address 0 in the current window
 *   r10, r11, r12                 scratch inside one instruction (address, delta, value)
 *   r13                           the flags image, when the arithmetic flags are saved (see translate.c)
 *   rsp                           the host stack
 * and of 64-bit mode:
 *   rax rcx rdx rbx rsp rbp rsi rdi r8 r9   the guest registers of the same name
 *   r13, r14                      guest R11, R10
 *   r10, r11, r12                 as above; r12 also holds the table's address during a check
 *   r15                           0x240c, the BEXTR control for a page index: 36 bits from bit 12
 * but in code of BT_MODE_WINDOW (translate_window.c)
 *   r10, r11, r12                 guest R12-R15 from one instruction to another (translate_held.c)
 *   rsp                           the host's address of what guest RSP points to
 *   r15                           what leads back: guest RSP is rsp + r15 - 32
 * Guest R12-R15 stay in cpu->gpr; an instruction that names one works on a scratch register or on memory. The flags
 * image is in the vCPU. There is no stack: RSP may hold anything. Calls of the glue take the host's from host_rsp, and
 * every signal handler that may run in this thread has a stack of its own (bt/fault.c).
 * GS is the base of the current window in 32-bit code of BT_MODE_WINDOW, too.
 * The flags image: AH of LAHF in bits 8-15, OF in bit 0. */
#ifndef RINGFOLD_BT_VCPU_H
#define RINGFOLD_BT_VCPU_H

#include "bt/emit.h"
#include "cpu/engine.h"
#include "decoder/insn.h"

#include <pthread.h>
#include <time.h>

/* Why translated code came back to the dispatcher. */
enum bt_exit {
    BT_EXIT_DISPATCH, /* go on at cpu->rip */
    BT_EXIT_CHAIN,    /* a direct exit that is not linked: vcpu->exit_index, which tells cpu->rip */
    BT_EXIT_MISS,     /* an indirect jump to cpu->rip found no block, or something waits */
    BT_EXIT_FAULT,    /* cpu->fault is to be delivered at cpu->rip */
    BT_EXIT_PLAIN,    /* go on at cpu->rip in a translation of BT_MODE_PLAIN */
    BT_EXIT_EVENT,    /* cpu->events is not zero; go on at the start of the block that event_from lies in */
    BT_EXIT_COUNT
};

/* What a translation depends on beside the bytes. */
enum bt_mode_bits {
    BT_MODE_CODE_MASK = 3, /* enum insn_mode */
    BT_MODE_STACK32 = 1 << 2,
    BT_MODE_VIEW_SHIFT = 3, /* enum mmu_view, two bits */
    BT_MODE_FLAT_CS = 1 << 5,
    BT_MODE_FLAT_DS = 1 << 6,
    BT_MODE_FLAT_ES = 1 << 7,
    BT_MODE_FLAT_SS = 1 << 8,
    BT_MODE_NO_X87 = 1 << 9, /* CR0.EM or TS */
    BT_MODE_NO_SSE = 1 << 10,
    BT_MODE_NO_AVX = 1 << 11,
    BT_MODE_SINGLE = 1 << 12, /* one instruction a block, back to the dispatcher after it */
    BT_MODE_WATCH = 1 << 13,  /* data breakpoints: every memory access takes the slow path */
    BT_MODE_ALIGN = 1 << 14,  /* alignment checks are on */
    BT_MODE_CPL0 = 1 << 15,   /* IOPL does not matter */
    BT_MODE_DF = 1 << 16,     /* the direction flag is set: string instructions are done in C */
    BT_MODE_WINDOW = 1 << 17, /* accesses go through the window of the view (bt/window.h) */
    BT_MODE_PLAIN = 1 << 18,  /* of translations, never the vCPU's: each access by the tables, for itself */
    BT_MODE_BITS = 19
};

struct bt_seg_limits {
    int64_t read, write; /* highest offset at which any access of up to 64 bytes is surely good; -1: none */
    uint64_t key;        /* what the limits were made from */
};
struct bt_seg_cache {
    uint64_t base;
    struct bt_seg_limits now, before;
};

/* See bt/window.h. Times in cycles of the time stamp counter. */
struct bt_window {
    bool active, unavailable;
    uint64_t flushes, fills;   /* of the mmu, as they were at since */
    uint64_t since;            /* the address space has not changed since then, as far as is known */
    uint64_t wait;             /* how long that must be */
    uint64_t cr3;              /* of the process that the wait is about */
    uint64_t began;            /* when it was taken into use */
    uint64_t credit;           /* what loading what is in use may take before it is judged */
    uint64_t signals, spent;   /* host page faults since, and the mmu's cycles for its pages as they were then */
    uint64_t entered, refused; /* host page faults that entered pages, and that met pages of the tables, ever */
};

struct bt_window_watch {
    bool has_timer, armed;
    timer_t timer; /* looks at the guest when no interrupt of its own does */
};

/* A page fault in user window code that the guest now deals with. */
struct bt_window_refault {
    bool pending, writes;
    uint64_t gva;
};

/* An instruction whose access met another region than it was made for, and how often. */
struct bt_window_stray {
    uintptr_t at; /* host address; 0: none */
    unsigned count;
};

enum { BT_BOUNCE_SIZE = 64, BT_GROUPS = 8, BT_STRAYS = 16 };
enum { BT_PAGE_INDEX_CONTROL = 36 << 8 | PAGE_SHIFT }; /* of BEXTR, for 48-bit addresses */

struct bt_block;
struct bt_exit_record;
struct bt_page;
struct bt_cache;

struct bt_stats {
    uint64_t blocks, insns, host_bytes, chains, misses, map_fills, dispatches, resumes, enters, slow_reads, slow_writes,
        bounces, device_accesses, callouts, exceptions, interrupts, host_signals, window_detours, smc_writes,
        smc_blocks, moved_pages, moved_blocks, cache_flushes, translate_cycles,
        exits[BT_EXIT_COUNT] /* by enum bt_exit */;
};

struct bt_vcpu {
    struct cpu cpu; /* must be first */

    /* --- reached by translated code --- */
    uint32_t *jump;                        /* the mode's jump table (bt/landing.h) */
    uint32_t *jump_map;                    /* 32-bit window code: the mode's jump map (bt/jump_map.h) */
    uint64_t *read_table, *write_table;    /* the current view's */
    uint64_t *jump_regions[2];             /* 64-bit window code: by enum mmu_window_kind, once there is any */
    struct mmu_table_set ac_clear, ac_set; /* the supervisor's tables with EFLAGS.AC clear and set: CLAC, STAC */
    struct bt_seg_cache seg[SEG_COUNT];
    uint64_t host_rsp;
    uint64_t window_rsp; /* what RSP is to be in 64-bit window code that comes back from a call of the glue */
    uint64_t r15;        /* what r15 is to be in 16- and 32-bit code of the current mode */
    uint64_t resume_to;  /* where the resume glue goes */
    uint32_t flags_image;
    uint32_t exit_reason, exit_index;
    uint64_t event_from; /* BT_EXIT_EVENT: an address in the block */
    uint64_t slow_addr, slow_delta;
    uint32_t slow_info, post_pending;
    uint64_t scratch[2];
    uint64_t group[BT_GROUPS]; /* host addresses of a block's access groups (translate_group.c) */

    /* --- the rest --- */
    uint32_t mode; /* enum bt_mode_bits, current */
    bool mode_stale;
    bool want_single;     /* the next block is one instruction: interrupt shadow with something pending */
    bool int_delivered;   /* the instruction was INT n: no single-step trap after it */
    uint32_t held_events; /* INTR while IF is clear: kept out of the poll word */
    uint64_t code_base;   /* CS base that linear = eip + code_base uses */
    uint64_t code_limit;
    gpa_t remake;        /* translations of this byte are to be made again; 0: none */
    bool smc_hit;        /* a block was invalidated since the flag was cleared */
    uint64_t watch_hits; /* DR6 bits of data breakpoints met by the current instruction */
    struct bt_bounce {
        uint64_t gva[2];
        uint8_t *hva[2];
        gpa_t addr[2];
        uint32_t len[2];
        bool device[2];
        bool pending;
        _Alignas(64) uint8_t data[BT_BOUNCE_SIZE];
    } bounce;
    struct bt_window window[2]; /* enum mmu_window_kind */
    bool no_regions;            /* there are no windows for 64-bit code */
    struct bt_window_watch watch;
    struct bt_window_refault refault;
    struct bt_window_stray stray[BT_STRAYS];
    uintptr_t gs;      /* the thread's GS base: that of a window, or not known yet */
    bool can_write_gs; /* by an instruction */
    bool wide_user;    /* 64-bit user code has used its window since 32-bit code did */
    bool no_gs;        /* nor by a system call: somebody forbids it */
    /* The page of a device that was read and written last: as a TLB entry, it goes when the tables are flushed. */
    struct {
        uint64_t key; /* guest-virtual page, rights, DEVICE_PAGE_VALID; 0: none */
        gpa_t addr;
    } device_page[2];
    struct bt_cache *cache;
    struct memory *mem;
    struct memory_listener listener;
    struct engine_options options;
    struct bt_stats stats;
    FILE *perf_map;                       /* for perf(1), or NULL */
    struct bt_profile *profile;           /* or NULL */
    volatile bool in_blocks, translating; /* for the profile's signal handler: inside glue.enter, bt_translate */
    /* DMA writes to code pages, from other threads */
    pthread_mutex_t dma_lock;
    struct {
        gpa_t addr;
        uint64_t len;
    } dma_writes[64];
    unsigned dma_count;
    bool dma_overflow, map_dirty;
    uint64_t map_first, map_last; /* gfns whose mapping changed */
    uint64_t log_first, log_last; /* gfns whose writes must be noticed again */
    pthread_t thread;
};

/* The host register that holds a guest general register, or NO_REG: it stays in cpu->gpr. RSP of 64-bit window code is
 * an address of the host's there, and not for those who want a guest register. The registers that compilers
 * give to a leaf function's values first (R8-R11) come before those that its callers want kept. */
static inline unsigned bt_host_gpr(bool wide, unsigned guest)
{
    static const uint8_t host[2][16] = {
        {RAX, RCX, RDX, RBX, R14, RBP, RSI, RDI, NO_REG, NO_REG, NO_REG, NO_REG, NO_REG, NO_REG, NO_REG, NO_REG},
        {RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R14, R13, NO_REG, NO_REG, NO_REG, NO_REG}};
    return host[wide][guest];
}

/* Code of this mode jumps by jump maps (bt/jump_map.h): that of a window. */
static inline bool bt_mode_jump_map(uint32_t mode)
{
    return mode & BT_MODE_WINDOW;
}

/* Code of this mode has the rights of user code. */
static inline bool bt_mode_user(uint32_t mode)
{
    return (mode >> BT_MODE_VIEW_SHIFT & 3) == MMU_VIEW_USER;
}

/* The window that a mode's code uses. */
static inline enum mmu_window_kind bt_mode_window(uint32_t mode)
{
    return bt_mode_user(mode) ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR;
}

/* The region table of the mode's window, of 64-bit code; NULL: none yet. */
static inline const uint64_t *bt_regions(const struct bt_vcpu *v, uint32_t mode)
{
    return v->cpu.mmu.window[bt_mode_window(mode)].regions;
}

/* Does 64-bit window code look up the region of the register alone for an access at this displacement from it? Else
 * that of the sum. */
static inline bool bt_region_near(int64_t disp)
{
    enum { NEAR = 1 << 20 };
    return disp > -NEAR && disp < NEAR;
}

static inline struct bt_vcpu *bt_of(struct cpu *cpu)
{
    return (struct bt_vcpu *)cpu;
}

/* The linear address of an instruction pointer in the current mode. */
static inline uint64_t bt_linear(const struct bt_vcpu *v, uint64_t rip)
{
    return (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64 ? rip : (uint32_t)(rip + v->code_base);
}
/* May the instruction pointer be this? Within CS's limit, or canonical. */
static inline bool bt_target_good(const struct bt_vcpu *v, uint64_t rip)
{
    if ((v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64)
        return (uint64_t)((int64_t)(rip << 16) >> 16) == rip;
    return rip <= v->code_limit;
}

/* memset to 0 and memcpy for where the guest's vector state may be live: the library's use vector registers, and
 * compilers make calls of them out of large assignments. */
static inline void bt_clear(void *to, size_t n)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(0) : "memory");
}
static inline void bt_copy(void *to, const void *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* run.c */
/* From a C function that translated code called, at the end of an instruction that cpu->rip leads away from, or after a
 * fault was raised: what that function returns so that execution goes on in translated code at cpu->rip without the
 * dispatcher if possible. bt_go_on_fault delivers cpu->fault before. */
uintptr_t bt_go_on(struct bt_vcpu *v);
uintptr_t bt_go_on_fault(struct bt_vcpu *v);
void bt_mode_update(struct bt_vcpu *v);
/* The same when nothing but one data segment register was loaded. False: the mode is stale now, and with it the block.
 */
bool bt_mode_follow_segment(struct bt_vcpu *v, unsigned seg);

#endif
