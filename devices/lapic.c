/* SPDX-License-Identifier: MIT */
/* Registers, priorities and interrupt messages. The timer: lapic_timer.c. */
#include "devices/lapic.h"

#include "devices/log.h"

#include <errno.h>
#include <string.h>

enum { VERSION = 0x14 | (LVT_COUNT - 1) << 16, SVR_WRITABLE = 0x3ff, ICR_WRITABLE = 0xccfff };
enum { DESTINATION_FLAT = 0xf, DESTINATION_CLUSTER = 0x0 };
enum { SHORTHAND_NONE, SHORTHAND_SELF, SHORTHAND_ALL, SHORTHAND_OTHERS };
enum {
    ICR_LOGICAL = 1 << 11,
    ICR_ASSERT = 1 << 14,
    ICR_LEVEL = 1 << 15,
    LVT_ACTIVE_LOW = 1 << 13,
    LVT_REMOTE_IRR = 1 << 14,
    LVT_LEVEL = 1 << 15
};
enum { FIRST_VECTOR = 16, BASE_X2APIC = 1 << 10 };

/* What a guest can write in each LVT entry. */
static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x700ff, [LVT_THERMAL] = 0x107ff, [LVT_PERFORMANCE] = 0x107ff,
    [LVT_LINT0] = 0x1a7ff, [LVT_LINT1] = 0x1a7ff,   [LVT_ERROR] = 0x100ff,
};

/* ---- bit sets of 256 vectors ---- */

static bool test_bit(const uint32_t set[8], unsigned vector)
{
    return set[vector >> 5 & 7] >> (vector & 31) & 1;
}

static void set_bit(uint32_t set[8], unsigned vector)
{
    set[vector >> 5 & 7] |= 1u << (vector & 31);
}

static void clear_bit(uint32_t set[8], unsigned vector)
{
    set[vector >> 5 & 7] &= ~(1u << (vector & 31));
}

static int highest(const uint32_t set[8])
{
    for (int i = 7; i >= 0; i--)
        if (set[i])
            return i * 32 + 31 - __builtin_clz(set[i]);
    return -1;
}

/* ---- priorities and the INTR line ---- */

static bool switched_on(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed) & LAPIC_BASE_ENABLE;
}

bool lapic_enabled(const struct lapic *l)
{
    return switched_on(l) && (l->svr & LAPIC_SVR_ENABLE);
}

uint8_t lapic_processor_priority(const struct lapic *l)
{
    int serving = highest(l->isr);
    unsigned tpr = lapic_tpr(l), in_service = serving < 0 ? 0 : (unsigned)serving & 0xf0;
    return (uint8_t)((tpr & 0xf0) >= in_service ? tpr : in_service);
}

/* As the P6 family computed it. */
static uint8_t arbitration_priority(const struct lapic *l)
{
    int serving = highest(l->isr), waiting = highest(l->irr);
    unsigned tpr = lapic_tpr(l), s = serving < 0 ? 0 : (unsigned)serving & 0xf0;
    unsigned w = waiting < 0 ? 0 : (unsigned)waiting & 0xf0, most = s > w ? s : w;
    return (uint8_t)((tpr & 0xf0) >= w && (tpr & 0xf0) > s ? tpr : most);
}

/* The vector that may interrupt now, or -1. A software-disabled APIC keeps its IRR but requests nothing. */
static int deliverable(const struct lapic *l)
{
    int waiting = highest(l->irr);
    if (waiting < 0 || !lapic_enabled(l))
        return -1;
    return (waiting & 0xf0) > (lapic_processor_priority(l) & 0xf0) ? waiting : -1;
}

static bool lint_asserted(const struct lapic *l, unsigned pin)
{
    return l->lint_level[pin] != !!(l->lvt[LVT_LINT0 + pin] & LVT_ACTIVE_LOW);
}

static unsigned lvt_delivery(uint32_t entry)
{
    return entry >> 8 & 7;
}

static bool lint_is(const struct lapic *l, unsigned pin, enum apic_delivery delivery)
{
    uint32_t entry = l->lvt[LVT_LINT0 + pin];
    return !(entry & LAPIC_LVT_MASKED) && lvt_delivery(entry) == delivery;
}

/* An interrupt of the 8259 pair waits. */
static bool extint_waits(const struct lapic *l)
{
    if (!switched_on(l))
        return l->lint_level[0];
    return l->extint_message || (lint_is(l, 0, APIC_EXTINT) && lint_asserted(l, 0)) ||
           (lint_is(l, 1, APIC_EXTINT) && lint_asserted(l, 1));
}

static void update(struct lapic *l)
{
    if (atomic_load_explicit(&l->held, memory_order_relaxed))
        return;
    int level = deliverable(l) >= 0 || extint_waits(l);
    if (level == l->intr_level)
        return;
    l->intr_level = level;
    l->signals.intr(l->signals.opaque, l->n, level);
}

int lapic_acknowledge(struct lapic *l)
{
    int vector = deliverable(l);
    if (vector >= 0) {
        clear_bit(l->irr, (unsigned)vector);
        set_bit(l->isr, (unsigned)vector);
    } else if (extint_waits(l)) {
        l->extint_message = false;
        vector = LAPIC_ASK_8259;
    } else if (lapic_enabled(l) && highest(l->irr) >= 0) {
        vector = (int)(l->svr & 0xff);
    }
    update(l);
    return vector;
}

void lapic_set_tpr(struct lapic *l, uint8_t tpr)
{
    atomic_store_explicit(&l->tpr, tpr, memory_order_relaxed);
    update(l);
}

/* ---- errors ---- */

/* An error whose bit is already waiting to be read brings no further interrupt. */
static void report_error(struct lapic *l, uint32_t error)
{
    bool again = l->errors & error;
    l->errors |= error;
    if (!again)
        lapic_deliver_local(l, LVT_ERROR);
}

/* ---- taking interrupts ---- */

static bool request(struct lapic *l, unsigned vector, bool level)
{
    if (vector < FIRST_VECTOR) {
        log_msg(LOG_GUEST_ERROR, "lapic %u: vector %u received", l->n, vector);
        report_error(l, LAPIC_ERROR_RECEIVE_ILLEGAL);
        return false;
    }
    set_bit(l->irr, vector);
    if (level)
        set_bit(l->tmr, vector);
    else
        clear_bit(l->tmr, vector);
    update(l);
    return true;
}

bool lapic_accept(struct lapic *l, const struct apic_message *message)
{
    if (!switched_on(l))
        return false;
    switch (message->delivery) {
    case APIC_FIXED:
    case APIC_LOWEST_PRIORITY:
        return (l->svr & LAPIC_SVR_ENABLE) && request(l, message->vector, message->level);
    case APIC_SMI:
        l->signals.smi(l->signals.opaque, l->n);
        return true;
    case APIC_NMI:
        l->signals.nmi(l->signals.opaque, l->n);
        return true;
    case APIC_INIT:
        l->signals.init(l->signals.opaque, l->n);
        return true;
    case APIC_STARTUP:
        l->signals.startup(l->signals.opaque, l->n, message->vector);
        return true;
    case APIC_EXTINT:
        l->extint_message = true;
        update(l);
        return true;
    case APIC_RESERVED_3:
        break;
    }
    return false;
}

static bool logical_match(const struct lapic *l, uint8_t destination)
{
    uint8_t mine = (uint8_t)(l->ldr >> 24);
    switch (l->dfr >> 28) {
    case DESTINATION_FLAT:
        return mine & destination;
    case DESTINATION_CLUSTER:
        return ((mine ^ destination) & 0xf0) == 0 && (mine & destination & 0xf);
    default:
        return false;
    }
}

bool lapic_addressed(const struct lapic *l, const struct apic_message *message)
{
    if (message->destination == APIC_BROADCAST)
        return true;
    return message->logical ? logical_match(l, message->destination) : message->destination == l->id;
}

/* ---- local sources ---- */

void lapic_deliver_local(struct lapic *l, enum lapic_lvt entry)
{
    uint32_t value = l->lvt[entry];
    if (value & LAPIC_LVT_MASKED || !switched_on(l))
        return;
    bool lint = entry == LVT_LINT0 || entry == LVT_LINT1;
    unsigned delivery = entry == LVT_TIMER || entry == LVT_ERROR ? APIC_FIXED : lvt_delivery(value);
    switch (delivery) {
    case APIC_FIXED:
        /* Only LINT0 can be level-triggered (SDM: LINT1 is always edge). */
        request(l, value & 0xff, lint && entry == LVT_LINT0 && (value & LVT_LEVEL));
        break;
    case APIC_SMI:
        l->signals.smi(l->signals.opaque, l->n);
        break;
    case APIC_NMI:
        l->signals.nmi(l->signals.opaque, l->n);
        break;
    case APIC_INIT:
        l->signals.init(l->signals.opaque, l->n);
        break;
    case APIC_EXTINT:
        break; /* a level, which update() looks at */
    default:
        log_msg(LOG_GUEST_ERROR, "lapic %u: LVT entry %u has delivery mode %u", l->n, entry, delivery);
        break;
    }
}

/* LINT0 as a fixed, level-triggered interrupt: asked for again after each EOI while the pin is up. */
static void resend_lint0(struct lapic *l)
{
    if (!lint_is(l, 0, APIC_FIXED) || !(l->lvt[LVT_LINT0] & LVT_LEVEL) || l->lint_remote_irr || !lint_asserted(l, 0) ||
        !lapic_enabled(l))
        return;
    l->lint_remote_irr = 1;
    lapic_deliver_local(l, LVT_LINT0);
}

void lapic_set_lint(struct lapic *l, unsigned pin, int level)
{
    pin &= 1;
    if (l->lint_level[pin] == !!level || atomic_load_explicit(&l->held, memory_order_relaxed))
        return;
    l->lint_level[pin] = level != 0;
    uint32_t entry = l->lvt[LVT_LINT0 + pin];
    if (!switched_on(l)) {
        if (pin == 1 && level)
            l->signals.nmi(l->signals.opaque, l->n);
    } else if (lint_asserted(l, pin)) {
        if (pin == 0 && lvt_delivery(entry) == APIC_FIXED && (entry & LVT_LEVEL))
            resend_lint0(l);
        else
            lapic_deliver_local(l, LVT_LINT0 + pin);
    }
    update(l);
}

/* ---- writes with an effect ---- */

static void end_of_interrupt(struct lapic *l)
{
    int serving = highest(l->isr);
    if (serving < 0)
        return;
    clear_bit(l->isr, (unsigned)serving);
    if (test_bit(l->tmr, (unsigned)serving)) {
        if (l->lint_remote_irr && (l->lvt[LVT_LINT0] & 0xff) == (uint32_t)serving) {
            l->lint_remote_irr = 0;
            resend_lint0(l);
        }
        apic_bus_end_of_interrupt(l->bus, (uint8_t)serving);
    }
    update(l);
}

static void write_lvt(struct lapic *l, enum lapic_lvt entry, uint32_t value)
{
    uint32_t before = l->lvt[entry];
    value &= lvt_writable[entry];
    if (!(l->svr & LAPIC_SVR_ENABLE))
        value |= LAPIC_LVT_MASKED;
    l->lvt[entry] = value;
    if (entry == LVT_TIMER)
        lapic_timer_lvt_written(l, before);
    if (entry == LVT_LINT0) {
        if (!(value & LVT_LEVEL))
            l->lint_remote_irr = 0;
        resend_lint0(l);
    }
    update(l);
}

static void write_svr(struct lapic *l, uint32_t value)
{
    l->svr = value & SVR_WRITABLE;
    if (!(value & LAPIC_SVR_ENABLE))
        for (unsigned i = 0; i < LVT_COUNT; i++)
            write_lvt(l, i, l->lvt[i]);
    update(l);
}

/* Which deliveries each shorthand takes, SDM table 10-3. NMI to oneself is not in it, yet processors do it and kernels
 * rely on that. */
static bool valid_shorthand(unsigned shorthand, enum apic_delivery delivery)
{
    switch (shorthand) {
    case SHORTHAND_NONE:
    case SHORTHAND_OTHERS:
        return true;
    default:
        return delivery == APIC_FIXED || delivery == APIC_NMI;
    }
}

static void send(struct lapic *l)
{
    uint32_t icr = l->icr_low;
    unsigned shorthand = icr >> 18 & 3;
    struct apic_message message = {
        .vector = (uint8_t)icr,
        .destination = shorthand == SHORTHAND_NONE ? (uint8_t)(l->icr_high >> 24) : APIC_BROADCAST,
        .logical = icr & ICR_LOGICAL,
        .delivery = icr >> 8 & 7,
    };
    if (message.delivery == APIC_RESERVED_3 || message.delivery == APIC_EXTINT ||
        !valid_shorthand(shorthand, message.delivery)) {
        log_msg(LOG_GUEST_ERROR, "lapic %u: ICR 0x%x has no meaning", l->n, icr);
        return;
    }
    if (message.delivery == APIC_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
        return; /* INIT level de-assert: only sets arbitration ids, which this bus has no use for */
    if (message.delivery <= APIC_LOWEST_PRIORITY && message.vector < FIRST_VECTOR) {
        log_msg(LOG_GUEST_ERROR, "lapic %u: vector %u sent", l->n, message.vector);
        report_error(l, LAPIC_ERROR_SEND_ILLEGAL);
        return;
    }
    if (shorthand == SHORTHAND_SELF)
        lapic_accept(l, &message);
    else
        apic_bus_send(l->bus, &message, shorthand == SHORTHAND_OTHERS ? l : NULL);
}

/* ---- the register page ---- */

static uint32_t read_register(struct lapic *l, unsigned reg)
{
    unsigned lvt = (reg - LAPIC_LVT_TIMER) >> 4;
    if (reg >= LAPIC_ISR && reg < LAPIC_ESR) {
        const uint32_t *set = reg < LAPIC_TMR ? l->isr : reg < LAPIC_IRR ? l->tmr : l->irr;
        return set[reg >> 4 & 7];
    }
    if (reg >= LAPIC_LVT_TIMER && lvt < LVT_COUNT)
        return l->lvt[lvt] | (lvt == LVT_LINT0 && l->lint_remote_irr ? LVT_REMOTE_IRR : 0);
    switch (reg) {
    case LAPIC_ID:
        return (uint32_t)l->id << 24;
    case LAPIC_VERSION:
        return VERSION;
    case LAPIC_TPR:
        return lapic_tpr(l);
    case LAPIC_APR:
        return arbitration_priority(l);
    case LAPIC_PPR:
        return lapic_processor_priority(l);
    case LAPIC_EOI: /* write only */
    case LAPIC_RRD:
        return 0;
    case LAPIC_LDR:
        return l->ldr;
    case LAPIC_DFR:
        return l->dfr;
    case LAPIC_SVR:
        return l->svr;
    case LAPIC_ESR:
        return l->esr;
    case LAPIC_ICR_LOW:
        return l->icr_low;
    case LAPIC_ICR_HIGH:
        return l->icr_high;
    case LAPIC_INITIAL_COUNT:
        return l->initial_count;
    case LAPIC_CURRENT_COUNT:
        return lapic_timer_count(l);
    case LAPIC_DIVIDE:
        return l->divide;
    }
    log_msg(LOG_GUEST_ERROR, "lapic %u: read of reserved register 0x%x", l->n, reg);
    report_error(l, LAPIC_ERROR_REGISTER);
    return 0;
}

static bool read_only(unsigned reg)
{
    return reg == LAPIC_VERSION || reg == LAPIC_APR || reg == LAPIC_PPR || reg == LAPIC_RRD ||
           reg == LAPIC_CURRENT_COUNT || (reg >= LAPIC_ISR && reg < LAPIC_ESR);
}

static void write_register(struct lapic *l, unsigned reg, uint32_t value)
{
    unsigned lvt = (reg - LAPIC_LVT_TIMER) >> 4;
    if (reg >= LAPIC_LVT_TIMER && lvt < LVT_COUNT) {
        write_lvt(l, lvt, value);
        return;
    }
    switch (reg) {
    case LAPIC_ID:
        l->id = (uint8_t)(value >> 24);
        return;
    case LAPIC_TPR:
        lapic_set_tpr(l, (uint8_t)value);
        return;
    case LAPIC_EOI:
        end_of_interrupt(l);
        return;
    case LAPIC_LDR:
        l->ldr = value & 0xff000000;
        return;
    case LAPIC_DFR:
        l->dfr = value | 0x0fffffff;
        return;
    case LAPIC_SVR:
        write_svr(l, value);
        return;
    case LAPIC_ESR:
        l->esr = l->errors;
        l->errors = 0;
        return;
    case LAPIC_ICR_LOW:
        l->icr_low = value & ICR_WRITABLE;
        send(l);
        return;
    case LAPIC_ICR_HIGH:
        l->icr_high = value & 0xff000000;
        return;
    case LAPIC_INITIAL_COUNT:
        lapic_timer_set_initial(l, value);
        return;
    case LAPIC_DIVIDE:
        lapic_timer_set_divide(l, value & 0xb);
        return;
    }
    log_msg(LOG_GUEST_ERROR, "lapic %u: write of 0x%x to register 0x%x", l->n, value, reg);
    if (!read_only(reg))
        report_error(l, LAPIC_ERROR_REGISTER);
}

uint64_t lapic_read(struct lapic *l, unsigned offset, unsigned size)
{
    unsigned lane = offset & 15;
    if (lane >= 4) {
        log_msg(LOG_GUEST_ERROR, "lapic %u: read between registers at 0x%x", l->n, offset);
        return 0;
    }
    uint64_t value = (uint64_t)read_register(l, offset & 0xff0) >> (lane * 8);
    return size >= 4 ? value : value & ((1u << (size * 8)) - 1);
}

void lapic_write(struct lapic *l, unsigned offset, uint64_t value, unsigned size)
{
    if (size != 4 || (offset & 15)) {
        log_msg(LOG_GUEST_ERROR, "lapic %u: write of %u bytes at 0x%x dropped", l->n, size, offset);
        return;
    }
    write_register(l, offset & 0xff0, (uint32_t)value);
}

/* ---- IA32_APIC_BASE ---- */

bool lapic_maps(const struct lapic *l, uint64_t addr)
{
    uint64_t base = atomic_load_explicit(&l->base, memory_order_relaxed);
    return (addr ^ base) < LAPIC_PAGE_SIZE && (base & LAPIC_BASE_ENABLE) &&
           !atomic_load_explicit(&l->held, memory_order_relaxed);
}

uint64_t lapic_base(const struct lapic *l)
{
    return atomic_load_explicit(&l->base, memory_order_relaxed);
}

/* ---- hand-over ---- */

static uint32_t *given(struct chips_lapic *chips, unsigned reg)
{
    return &chips->registers[reg >> 4];
}

void lapic_give(struct lapic *l, struct chips_lapic *chips)
{
    static const uint16_t plain[] = {LAPIC_ID,       LAPIC_VERSION,       LAPIC_TPR,           LAPIC_LDR,
                                     LAPIC_DFR,      LAPIC_SVR,           LAPIC_ESR,           LAPIC_ICR_LOW,
                                     LAPIC_ICR_HIGH, LAPIC_INITIAL_COUNT, LAPIC_CURRENT_COUNT, LAPIC_DIVIDE};
    *chips = (struct chips_lapic){.base = lapic_base(l), .tsc_deadline = lapic_tsc_deadline(l)};
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        *given(chips, plain[i]) = read_register(l, plain[i]);
    for (unsigned reg = LAPIC_ISR; reg < LAPIC_ESR; reg += 16)
        *given(chips, reg) = read_register(l, reg);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        *given(chips, LAPIC_LVT_TIMER + 16 * i) = read_register(l, LAPIC_LVT_TIMER + 16 * i);
    timer_cancel(&l->timer);
    if (l->intr_level)
        l->signals.intr(l->signals.opaque, l->n, 0);
    l->intr_level = 0;
    atomic_store(&l->held, true);
}

static void take_vectors(uint32_t set[8], const struct chips_lapic *chips, unsigned reg)
{
    for (unsigned i = 0; i < 8; i++)
        set[i] = chips->registers[(reg >> 4) + i];
}

void lapic_take(struct lapic *l, const struct chips_lapic *chips, uint64_t tsc_offset)
{
    struct chips_lapic from = *chips;
    uint64_t fixed = atomic_load(&l->base) & LAPIC_BASE_BOOT;
    atomic_store(&l->held, false);
    atomic_store(&l->base, (from.base & ~(uint64_t)(LAPIC_PAGE_SIZE - 1)) | (from.base & LAPIC_BASE_ENABLE) | fixed);
    atomic_store_explicit(&l->tpr, (uint8_t)*given(&from, LAPIC_TPR), memory_order_relaxed);
    l->id = (uint8_t)(*given(&from, LAPIC_ID) >> 24);
    l->ldr = *given(&from, LAPIC_LDR) & 0xff000000;
    l->dfr = *given(&from, LAPIC_DFR) | 0x0fffffff;
    l->svr = *given(&from, LAPIC_SVR) & SVR_WRITABLE;
    l->esr = *given(&from, LAPIC_ESR);
    l->errors = 0;
    l->icr_low = *given(&from, LAPIC_ICR_LOW) & ICR_WRITABLE;
    l->icr_high = *given(&from, LAPIC_ICR_HIGH) & 0xff000000;
    l->divide = *given(&from, LAPIC_DIVIDE) & 0xb;
    take_vectors(l->isr, &from, LAPIC_ISR);
    take_vectors(l->tmr, &from, LAPIC_TMR);
    take_vectors(l->irr, &from, LAPIC_IRR);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = *given(&from, LAPIC_LVT_TIMER + 16 * i) & lvt_writable[i];
    l->lint_remote_irr = (*given(&from, LAPIC_LVT_LINT0) & LVT_REMOTE_IRR) != 0;
    l->lint_level[0] = 0;
    l->extint_message = false;
    lapic_timer_resume(l, *given(&from, LAPIC_INITIAL_COUNT), *given(&from, LAPIC_CURRENT_COUNT), from.tsc_deadline,
                       tsc_offset);
    update(l);
}

/* ---- reset ---- */

static void reset_registers(struct lapic *l)
{
    atomic_store_explicit(&l->tpr, 0, memory_order_relaxed);
    l->ldr = l->icr_low = l->icr_high = l->esr = l->errors = 0;
    l->dfr = 0xffffffff;
    l->svr = 0xff;
    memset(l->isr, 0, sizeof l->isr);
    memset(l->tmr, 0, sizeof l->tmr);
    memset(l->irr, 0, sizeof l->irr);
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LAPIC_LVT_MASKED;
    if (l->boot_processor) {
        l->lvt[LVT_LINT0] = APIC_EXTINT << 8;
        l->lvt[LVT_LINT1] = APIC_NMI << 8;
    }
    l->lint_remote_irr = 0;
    l->extint_message = false;
    lapic_timer_reset(l);
    update(l);
}

void lapic_reset_by_init(struct lapic *l)
{
    reset_registers(l);
}

void lapic_reset(struct lapic *l)
{
    atomic_store(&l->base, LAPIC_DEFAULT_BASE | LAPIC_BASE_ENABLE | (l->boot_processor ? LAPIC_BASE_BOOT : 0u));
    l->id = (uint8_t)l->n;
    reset_registers(l);
}

/* Switching it off and on again resets it; off, the pins go to the processor. BSP is read-only. */
int lapic_set_base(struct lapic *l, uint64_t value)
{
    uint64_t before = lapic_base(l);
    if (value & BASE_X2APIC)
        return -EINVAL;
    value = (value & ~(uint64_t)(LAPIC_PAGE_SIZE - 1)) | (value & LAPIC_BASE_ENABLE) | (before & LAPIC_BASE_BOOT);
    atomic_store(&l->base, value);
    if ((before ^ value) & LAPIC_BASE_ENABLE)
        reset_registers(l);
    if ((before ^ value) >> 12)
        log_msg(LOG_DEVICE, "lapic %u: registers at 0x%llx", l->n, (unsigned long long)(value & ~0xfffull));
    return 0;
}

int lapic_init(struct lapic *l, struct apic_bus *bus, struct clock *clock, unsigned n, uint32_t timer_hz,
               const struct lapic_signals *signals)
{
    memset(l, 0, sizeof *l);
    l->bus = bus;
    l->signals = *signals;
    l->n = n;
    l->boot_processor = n == 0;
    l->timer_hz = timer_hz ? timer_hz : 1;
    lapic_timer_init(l, clock);
    lapic_reset(l);
    return apic_bus_add_local(bus, l);
}

void lapic_destroy(struct lapic *l)
{
    if (l->timer.clock)
        timer_cancel(&l->timer);
}
