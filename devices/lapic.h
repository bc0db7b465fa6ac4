/* SPDX-License-Identifier: MIT */
/* The local APIC of one virtual CPU: xAPIC with memory-mapped registers (SDM vol. 3, chapter 10). Version 14h, six LVT
 * entries, no x2APIC, no EOI-broadcast suppression. One struct per vCPU.
 *
 * The processor of the board that boots comes out of reset and INIT in virtual wire mode (MP
 * specification 1.4, 3.6.2.2): LINT0 passes the 8259s' INTR on, LINT1 is NMI, although SVR says that the APIC is
 * disabled by software. On real boards the firmware does that; here a guest without any must get its 8259 interrupts
 * too. Switching the APIC off by SVR afterwards masks both, as the manual has it; switching it off by IA32_APIC_BASE
 * connects the pins to the processor.
 *
 * Time: the timer counts at the rate given to lapic_init on the machine's clock, read exactly; a TSC deadline is
 * compared with the TSC and never early. Masked timers arm nothing; a periodic timer faster than LAPIC_SHORTEST_NS
 * loses ticks instead of keeping the host busy.
 *
 * Registers are read and written with aligned 32-bit accesses. Narrower reads inside a register's first four bytes get
 * their part; other reads give 0 and other writes are dropped (undefined by the manual) and logged.
 *
 * Threads: under the machine lock, but lapic_tpr and lapic_maps, which the vCPU's own thread may call without. */
#ifndef RINGFOLD_DEVICES_LAPIC_H
#define RINGFOLD_DEVICES_LAPIC_H

#include "cpu/chips.h"
#include "devices/apic_bus.h"
#include "devices/clock.h"

#include <stdatomic.h>

enum { LAPIC_PAGE_SIZE = 4096, LAPIC_SHORTEST_NS = 10000 };
#define LAPIC_DEFAULT_BASE 0xfee00000u

enum lapic_register {
    LAPIC_ID = 0x20,
    LAPIC_VERSION = 0x30,
    LAPIC_TPR = 0x80,
    LAPIC_APR = 0x90,
    LAPIC_PPR = 0xa0,
    LAPIC_EOI = 0xb0,
    LAPIC_RRD = 0xc0,
    LAPIC_LDR = 0xd0,
    LAPIC_DFR = 0xe0,
    LAPIC_SVR = 0xf0,
    LAPIC_ISR = 0x100, /* 8 registers each */
    LAPIC_TMR = 0x180,
    LAPIC_IRR = 0x200,
    LAPIC_ESR = 0x280,
    LAPIC_ICR_LOW = 0x300,
    LAPIC_ICR_HIGH = 0x310,
    LAPIC_LVT_TIMER = 0x320, /* the LVT: 6 registers */
    LAPIC_LVT_THERMAL = 0x330,
    LAPIC_LVT_PERFORMANCE = 0x340,
    LAPIC_LVT_LINT0 = 0x350,
    LAPIC_LVT_LINT1 = 0x360,
    LAPIC_LVT_ERROR = 0x370,
    LAPIC_INITIAL_COUNT = 0x380,
    LAPIC_CURRENT_COUNT = 0x390,
    LAPIC_DIVIDE = 0x3e0
};
enum { LAPIC_BASE_BOOT = 1 << 8, LAPIC_BASE_ENABLE = 1 << 11, LAPIC_SVR_ENABLE = 1 << 8, LAPIC_LVT_MASKED = 1 << 16 };
enum { LAPIC_ERROR_SEND_ILLEGAL = 1 << 5, LAPIC_ERROR_RECEIVE_ILLEGAL = 1 << 6, LAPIC_ERROR_REGISTER = 1 << 7 };
/* What lapic_acknowledge gives when it is no vector. */
enum { LAPIC_NONE = -1, LAPIC_ASK_8259 = -2 };

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

/* What the APIC does to its processor, n: the one of lapic_init. */
struct lapic_signals {
    void (*intr)(void *opaque, unsigned n, int level);
    void (*nmi)(void *opaque, unsigned n);
    void (*smi)(void *opaque, unsigned n);
    void (*init)(void *opaque, unsigned n); /* has to call lapic_reset_by_init once the processor carries it out */
    void (*startup)(void *opaque, unsigned n, uint8_t vector);
    uint64_t (*tsc)(void *opaque);    /* the host's TSC, or what stands for it */
    uint64_t (*tsc_hz)(void *opaque); /* its rate; asked for when the guest arms a deadline */
    void *opaque;
};

struct lapic {
    struct apic_bus *bus;
    struct lapic_signals signals;
    unsigned n; /* of the vCPU, and the initial APIC id */
    bool boot_processor;
    uint32_t timer_hz;

    _Atomic uint64_t base; /* IA32_APIC_BASE */
    _Atomic uint8_t tpr;
    uint8_t id, divide;
    uint32_t ldr, dfr, svr, icr_low, icr_high, initial_count;
    uint32_t esr, errors; /* as read, and collected since the last write */
    uint32_t isr[8], tmr[8], irr[8];
    uint32_t lvt[LVT_COUNT];
    uint8_t lint_level[2]; /* of the pins */
    uint8_t lint_remote_irr;
    bool extint_message; /* an ExtINT by an I/O APIC waits */
    _Atomic bool held;   /* somebody else does the work */
    int intr_level;

    /* The count was start_count at start_ns (in ticks of timer_hz before the divider: no remainder is lost). */
    struct timer timer;
    uint64_t start_ns;
    uint32_t start_count;
    uint64_t deadline, tsc_offset; /* deadline in the guest's TSC, 0: not armed; guest's TSC minus the host's */
};

/* n: number of the vCPU; vCPU 0 is the boot processor. Adds it to the bus. 0 or -errno. */
int lapic_init(struct lapic *l, struct apic_bus *bus, struct clock *clock, unsigned n, uint32_t timer_hz,
               const struct lapic_signals *signals);
void lapic_destroy(struct lapic *l);
void lapic_reset(struct lapic *l);         /* power-up, IA32_APIC_BASE included */
void lapic_reset_by_init(struct lapic *l); /* keeps IA32_APIC_BASE and the id */

/* ---- the processor's side ---- */

/* True when addr is in the register page, for an APIC that is on. */
bool lapic_maps(const struct lapic *l, uint64_t addr);
uint64_t lapic_read(struct lapic *l, unsigned offset, unsigned size); /* offset in the page */
void lapic_write(struct lapic *l, unsigned offset, uint64_t value, unsigned size);
static inline uint8_t lapic_tpr(const struct lapic *l)
{
    return atomic_load_explicit(&l->tpr, memory_order_relaxed);
}
void lapic_set_tpr(struct lapic *l, uint8_t tpr); /* CR8 is its upper half */
/* IA32_APIC_BASE. -EINVAL: #GP. */
uint64_t lapic_base(const struct lapic *l);
int lapic_set_base(struct lapic *l, uint64_t value);
/* IA32_TSC_DEADLINE; offset: the guest's TSC minus the host's. Reads 0 when none waits or in other timer modes. */
uint64_t lapic_tsc_deadline(const struct lapic *l);
void lapic_set_tsc_deadline(struct lapic *l, uint64_t guest_tsc, uint64_t offset);
/* The interrupt acknowledge: a vector, which is in service from now on; LAPIC_ASK_8259: the 8259 pair has it;
 * LAPIC_NONE. Its own vectors come before the 8259s'. When all that waits has meanwhile fallen under the task priority,
 * it is the spurious vector. */
int lapic_acknowledge(struct lapic *l);

/* ---- the bus's side ---- */

/* The levels of LINT0 and LINT1. */
void lapic_set_lint(struct lapic *l, unsigned pin, int level);
bool lapic_addressed(const struct lapic *l, const struct apic_message *message);
/* On and not disabled by SVR. */
bool lapic_enabled(const struct lapic *l);
uint8_t lapic_processor_priority(const struct lapic *l);
/* True: taken. */
bool lapic_accept(struct lapic *l, const struct apic_message *message);

/* ---- hand-over of the APIC's work (cpu/chips.h) ---- */

/* give: the state; intr is low from now on, and the register page is nowhere. */
void lapic_give(struct lapic *l, struct chips_lapic *chips);
/* To work again from that state. tsc_offset: as in lapic_set_tsc_deadline. LINT0 is low until its driver says more. */
void lapic_take(struct lapic *l, const struct chips_lapic *chips, uint64_t tsc_offset);

/* ---- between lapic.c and lapic_timer.c ---- */

void lapic_deliver_local(struct lapic *l, enum lapic_lvt entry);
void lapic_timer_init(struct lapic *l, struct clock *clock);
void lapic_timer_reset(struct lapic *l);
uint32_t lapic_timer_count(const struct lapic *l);
void lapic_timer_set_initial(struct lapic *l, uint32_t count);
void lapic_timer_set_divide(struct lapic *l, uint8_t divide);
/* After a write of its LVT entry. */
void lapic_timer_lvt_written(struct lapic *l, uint32_t before);
/* Goes on from that count, or from a TSC deadline, as the registers say. */
void lapic_timer_resume(struct lapic *l, uint32_t initial, uint32_t count, uint64_t deadline, uint64_t tsc_offset);

#endif
