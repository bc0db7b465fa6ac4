/* SPDX-License-Identifier: MIT */
/* The interrupt controllers and the PIT that KVM has in the kernel, in the place of the board's (cpu/chips.h). Linux
 * Documentation/virt/kvm/api.rst names the structures.
 *
 * Lines. KVM's interrupt numbers ("GSI") 0-15 lead to the pins of the 8259 pair and 16 + n to pin n of the I/O APIC,
 * since the board drives the two apart (a PIRQ that PIIX4 routes to IRQ 11 is not on pin 11 of the I/O APIC). Only
 * number 0, KVM's PIT, leads to both. KVM remembers the level of each number beside the chips' state; loading sets
 * these first, with the I/O APIC masked, so that a line which is high is no edge.
 *
 * The PIT. KVM_SET_PIT2 starts every count anew, and for counter 0 KVM_GET_PIT2 does not say how far it is. So:
 *  - A count that is under way goes in as what is left of it.
 *  - A period that is under way goes in as a single count of what is left ("bridge"), in mode 1, which no guest can use
 *    on counter 0, as its gate is fixed. When it has ended, the vCPU's thread, woken by a timer, sets the real mode and
 *    period.
 *  - A count that has ended, or was never begun, goes in as one that ends in an hour.
 *  - What is left of counter 0 when it comes out is told by the clock, if the guest has not written to it meanwhile.
 * The low byte of a written count stays in write_latch, where a value is left that differs from that of the count. If
 * it has written a count, that starts anew.
 *
 * A one-shot count of the local APIC that has ended goes in as no count, for KVM would let it end again. */
#include "hw-assist/kvm_internal.h"

#include "hw-assist/kvm_probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#ifdef __clang__ /* the kernel's structs end in arrays without a length, and are followed by their entries here */
#pragma clang diagnostic ignored "-Wgnu-variable-sized-type-not-at-end"
#endif
#ifndef KVM_PIT_FLAGS_SPEAKER_DATA_ON /* Linux 5.19 */
#define KVM_PIT_FLAGS_SPEAKER_DATA_ON 2
#endif
enum {
    CAP_APIC_BUS_CYCLES_NS = 237, /* KVM_CAP_X86_APIC_BUS_CYCLES_NS, Linux 6.10 */
    CASCADE = 2,
    RW_LOW = 1,
    RW_HIGH = 2,
    RW_WORD = 3, /* or the first byte of two */
    RW_SECOND = 4,
    BRIDGE_MODE = 1,
    NO_TIMER_MODE = 5,
    AN_HOUR = 0xffff0000, /* ticks of the PIT */
    BRIDGE_PART = 16      /* a period that has lost less than this part is not bridged */
};
#define NS_PER_SECOND 1000000000ull
#define MSR_TSC_DEADLINE 0x6e0u
#define REDIRECTION_MASKED (1ull << 16)
#define IOAPIC_AT 0xfec00000u /* devices/ioapic.h, and the only place KVM knows */
enum {                        /* SDM vol. 3, 10.4.1 */
       REGISTER_ID = 0x20 >> 4,
       REGISTER_LVT_TIMER = 0x320 >> 4,
       REGISTER_INITIAL = 0x380 >> 4,
       REGISTER_CURRENT = 0x390 >> 4,
       LVT_MASKED = 1 << 16
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_SECOND + (uint64_t)t.tv_nsec;
}

static uint64_t to_ticks(uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * CHIPS_PIT_HZ / NS_PER_SECOND);
}

static uint64_t to_ns(uint64_t ticks)
{
    return (uint64_t)(((unsigned __int128)ticks * NS_PER_SECOND + CHIPS_PIT_HZ - 1) / CHIPS_PIT_HZ);
}

/* ---- creation ---- */

static bool lack(int kvm_fd, char *reason, size_t len)
{
    static const struct {
        int capability;
        const char *name;
    } needed[] = {{KVM_CAP_IRQCHIP, "interrupt controllers"},
                  {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
                  {KVM_CAP_MP_STATE, "the processor's HLT state"},
                  {CAP_APIC_BUS_CYCLES_NS, "a choice of the local APIC's rate (Linux 6.10)"}};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0) {
            snprintf(reason, len, "it lacks %s", needed[i].name);
            return true;
        }
    }
    return false;
}

static int set_routing(struct kvm_vm *vm)
{
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entry[CHIPS_PIC_PINS + CHIPS_IOAPIC_PINS];
    } table = {0};
    struct kvm_irq_routing_entry *e = table.entry;
    for (unsigned pin = 0; pin < CHIPS_PIC_PINS; pin++, e++) {
        *e = (struct kvm_irq_routing_entry){.gsi = pin, .type = KVM_IRQ_ROUTING_IRQCHIP};
        e->u.irqchip.irqchip = pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE;
        e->u.irqchip.pin = pin & 7;
    }
    for (unsigned pin = 0; pin < CHIPS_IOAPIC_PINS; pin++, e++) {
        bool timer = vm->chips.pit && pin == CHIPS_PIT_IOAPIC_PIN;
        *e = (struct kvm_irq_routing_entry){.gsi = timer ? 0 : KVM_IOAPIC_GSI + pin, .type = KVM_IRQ_ROUTING_IRQCHIP};
        e->u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
        e->u.irqchip.pin = pin;
    }
    table.head.nr = (uint32_t)(e - table.entry);
    return ioctl(vm->fd, KVM_SET_GSI_ROUTING, &table);
}

int kvm_chips_create(struct kvm_vm *vm, char *err, size_t err_len)
{
    struct kvm_enable_cap rate = {.cap = CAP_APIC_BUS_CYCLES_NS, .args[0] = NS_PER_SECOND / CPU_BUS_HZ};
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    const char *what = "interrupt controllers";
    char reason[128];
    if (lack(vm->kvm_fd, reason, sizeof reason)) {
        snprintf(err, err_len, "kvm: the kernel's %s: %s", what, reason);
        return -ENOTSUP;
    }
    vm->chips.pit = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PIT2) > 0 &&
                    ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_PIT_STATE2) > 0;
    int r = ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0);
    if (!r) {
        what = "local APIC's rate";
        r = ioctl(vm->fd, KVM_ENABLE_CAP, &rate);
    }
    if (!r && vm->chips.pit) {
        what = "PIT";
        r = ioctl(vm->fd, KVM_CREATE_PIT2, &pit);
    }
    if (!r) {
        what = "interrupt routing";
        r = set_routing(vm);
    }
    if (r) {
        r = -errno;
        snprintf(err, err_len, "kvm: the kernel's %s: %s", what, strerror(-r));
        return r;
    }
    vm->chips.present = true;
    vm->chips.deadline = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
    return 0;
}

/* ---- lines ---- */

static int set_line(struct kvm_vm *vm, unsigned gsi, int level)
{
    struct kvm_irq_level line = {.irq = gsi, .level = level != 0};
    return ioctl(vm->fd, KVM_IRQ_LINE, &line);
}

static void pic_pin(void *opaque, unsigned pin, int level)
{
    struct kvm_vcpu *v = opaque;
    atomic_fetch_add_explicit(&v->vm->chips.line_changes, 1, memory_order_relaxed);
    set_line(v->vm, pin, level);
}

static void ioapic_pin(void *opaque, unsigned pin, int level)
{
    struct kvm_vcpu *v = opaque;
    atomic_fetch_add_explicit(&v->vm->chips.line_changes, 1, memory_order_relaxed);
    set_line(v->vm, KVM_IOAPIC_GSI + pin, level);
}

static int set_lines(struct kvm_vm *vm, const struct chips *c)
{
    int r = 0;
    for (unsigned pin = 0; pin < CHIPS_PIC_PINS; pin++)
        if (pin != CASCADE)
            r |= set_line(vm, pin, c->pic[pin >> 3].lines >> (pin & 7) & 1);
    for (unsigned pin = 0; pin < CHIPS_IOAPIC_PINS; pin++)
        if (!vm->chips.pit || pin != CHIPS_PIT_IOAPIC_PIN)
            r |= set_line(vm, KVM_IOAPIC_GSI + pin, c->ioapic.lines >> pin & 1);
    return r;
}

/* ---- 8259 pair ---- */

void kvm_chips_pic_to_kvm(const struct chips_pic *c, bool slave, struct kvm_pic_state *k)
{
    *k = (struct kvm_pic_state){.last_irr = c->lines,
                                .irr = c->irr,
                                .imr = c->imr,
                                .isr = c->isr,
                                .priority_add = (c->lowest + 1) & 7,
                                .irq_base = c->vector_base,
                                .read_reg_select = c->read_isr,
                                .poll = c->poll,
                                .special_mask = c->special_mask,
                                .init_state = c->icw_expected ? c->icw_expected - 1 : 0,
                                .auto_eoi = c->auto_eoi,
                                .rotate_on_auto_eoi = c->rotate_on_auto_eoi,
                                .special_fully_nested_mode = c->special_fully_nested,
                                .init4 = c->icw4_needed,
                                .elcr = c->elcr,
                                .elcr_mask = slave ? 0xde : 0xf8};
}

void kvm_chips_pic_from_kvm(struct chips_pic *c, const struct kvm_pic_state *k)
{
    *c = (struct chips_pic){.irr = k->irr,
                            .isr = k->isr,
                            .imr = k->imr,
                            .lines = k->last_irr,
                            .elcr = k->elcr,
                            .vector_base = k->irq_base,
                            .lowest = (k->priority_add - 1) & 7,
                            .icw_expected = k->init_state ? k->init_state + 1 : 0,
                            .icw4_needed = k->init4,
                            .auto_eoi = k->auto_eoi,
                            .rotate_on_auto_eoi = k->rotate_on_auto_eoi,
                            .special_fully_nested = k->special_fully_nested_mode,
                            .special_mask = k->special_mask,
                            .poll = k->poll,
                            .read_isr = k->read_reg_select};
}

static int load_pic(struct kvm_vm *vm, const struct chips *c)
{
    for (unsigned i = 0; i < 2; i++) {
        struct kvm_irqchip chip = {.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER};
        kvm_chips_pic_to_kvm(&c->pic[i], i, &chip.chip.pic);
        if (ioctl(vm->fd, KVM_SET_IRQCHIP, &chip))
            return -1;
    }
    return 0;
}

static int store_pic(struct kvm_vm *vm, struct chips *c)
{
    for (unsigned i = 0; i < 2; i++) {
        struct kvm_irqchip chip = {.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER};
        if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip))
            return -1;
        kvm_chips_pic_from_kvm(&c->pic[i], &chip.chip.pic);
    }
    return 0;
}

static bool pic_waiting(void *opaque, unsigned pin)
{
    struct kvm_vcpu *v = opaque;
    struct kvm_irqchip chip = {.chip_id = pin < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE};
    return !ioctl(v->vm->fd, KVM_GET_IRQCHIP, &chip) && (chip.chip.pic.irr & ~chip.chip.pic.imr) >> (pin & 7) & 1;
}

/* ---- 82093AA ---- */

void kvm_chips_ioapic_to_kvm(const struct chips_ioapic *c, struct kvm_ioapic_state *k)
{
    static const uint64_t level = 1u << 15;
    *k = (struct kvm_ioapic_state){.base_address = IOAPIC_AT, .ioregsel = c->index, .id = c->id};
    for (unsigned pin = 0; pin < CHIPS_IOAPIC_PINS; pin++) {
        k->redirtbl[pin].bits = c->redirection[pin];
        /* KVM lets the pins in irr request at once: of edges there is nothing to be made up. */
        if (c->redirection[pin] & level)
            k->irr |= c->lines & 1u << pin;
    }
}

void kvm_chips_ioapic_from_kvm(struct chips_ioapic *c, const struct kvm_ioapic_state *k)
{
    c->index = (uint8_t)k->ioregsel;
    c->id = (uint8_t)k->id;
    for (unsigned pin = 0; pin < CHIPS_IOAPIC_PINS; pin++)
        c->redirection[pin] = k->redirtbl[pin].bits;
}

static int load_ioapic(struct kvm_vm *vm, const struct chips *c)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    kvm_chips_ioapic_to_kvm(&c->ioapic, &chip.chip.ioapic);
    return ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
}

static int mask_ioapic(struct kvm_vm *vm)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC, .chip.ioapic.base_address = IOAPIC_AT};
    for (unsigned pin = 0; pin < CHIPS_IOAPIC_PINS; pin++)
        chip.chip.ioapic.redirtbl[pin].bits = REDIRECTION_MASKED;
    return ioctl(vm->fd, KVM_SET_IRQCHIP, &chip);
}

static int store_ioapic(struct kvm_vm *vm, struct chips *c)
{
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
    if (ioctl(vm->fd, KVM_GET_IRQCHIP, &chip))
        return -1;
    kvm_chips_ioapic_from_kvm(&c->ioapic, &chip.chip.ioapic);
    return 0;
}

/* ---- local APIC ---- */

static bool one_shot_ended(const struct chips_lapic *c)
{
    return !(c->registers[REGISTER_LVT_TIMER] >> 17 & 3) && c->registers[REGISTER_INITIAL] &&
           !c->registers[REGISTER_CURRENT];
}

void kvm_chips_lapic_to_kvm(const struct chips_lapic *c, struct kvm_lapic_state *k)
{
    memset(k, 0, sizeof *k);
    for (unsigned i = 0; i < CHIPS_LAPIC_REGISTERS; i++)
        memcpy(k->regs + 16 * i, &c->registers[i], 4);
    if (one_shot_ended(c))
        memset(k->regs + 16 * REGISTER_INITIAL, 0, 4);
}

void kvm_chips_lapic_from_kvm(struct chips_lapic *c, const struct kvm_lapic_state *k)
{
    bool ended = one_shot_ended(c);
    uint32_t initial = c->registers[REGISTER_INITIAL];
    for (unsigned i = 0; i < CHIPS_LAPIC_REGISTERS; i++)
        memcpy(&c->registers[i], k->regs + 16 * i, 4);
    if (ended && !c->registers[REGISTER_INITIAL])
        c->registers[REGISTER_INITIAL] = initial;
}

static int load_lapic(struct kvm_vcpu *v, const struct chips *c)
{
    struct kvm_lapic_state k;
    kvm_chips_lapic_to_kvm(&c->lapic, &k);
    if (ioctl(v->fd, KVM_SET_LAPIC, &k))
        return -1;
    return v->vm->chips.deadline ? kvm_state_set_msr(v, MSR_TSC_DEADLINE, c->lapic.tsc_deadline) : 0;
}

/* Out of the kernel its timer stands still. */
static int store_lapic(struct kvm_vcpu *v, struct chips *c)
{
    struct kvm_lapic_state k;
    const uint32_t none = 0, masked = LVT_MASKED;
    c->lapic.tsc_deadline = 0;
    if (ioctl(v->fd, KVM_GET_LAPIC, &k) ||
        (v->vm->chips.deadline && kvm_state_get_msr(v, MSR_TSC_DEADLINE, &c->lapic.tsc_deadline)))
        return -1;
    kvm_chips_lapic_from_kvm(&c->lapic, &k);
    c->lapic.base = v->cpu.msr.apic_base;
    memcpy(k.regs + 16 * REGISTER_LVT_TIMER, &masked, 4);
    memcpy(k.regs + 16 * REGISTER_INITIAL, &none, 4);
    return ioctl(v->fd, KVM_SET_LAPIC, &k);
}

bool kvm_chips_request(struct kvm_vcpu *v)
{
    enum { IRR = 0x200 >> 4 };
    struct kvm_lapic_state k;
    uint32_t waiting = 0, part;
    struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
    if (!ioctl(v->vm->fd, KVM_GET_IRQCHIP, &chip) && (chip.chip.pic.irr & ~chip.chip.pic.imr))
        return true; /* a request of the slave shows as the master's pin 2 */
    if (ioctl(v->fd, KVM_GET_LAPIC, &k))
        return false;
    for (unsigned i = 0; i < 8; i++) {
        memcpy(&part, k.regs + 16 * (IRR + i), 4);
        waiting |= part;
    }
    return waiting;
}

bool kvm_chips_window(struct kvm_vcpu *v)
{
    struct kvm_vcpu_events e;
    struct kvm_mp_state mp;
    return v->run->if_flag && !ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e) && !e.interrupt.shadow &&
           !ioctl(v->fd, KVM_GET_MP_STATE, &mp) && !ioctl(v->fd, KVM_SET_MP_STATE, &mp);
}

/* ---- 8254 ---- */

static bool periodic(const struct chips_counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

/* c, ticks later. */
static void count_on(struct chips_counter *c, uint64_t ticks)
{
    if (!c->running)
        return;
    if (ticks < c->left)
        c->left -= (uint32_t)ticks;
    else if (periodic(c))
        c->left = c->loaded - (uint32_t)((ticks - c->left) % c->loaded);
    else
        c->past += ticks - c->left, c->left = 0;
}

/* A period that has only just begun, so that it may as well begin now. */
static bool just_begun(const struct chips_counter *c)
{
    return c->left >= c->loaded || (c->loaded - c->left) * BRIDGE_PART < c->loaded;
}

static void set_count(const struct chips_counter *c, bool first, struct kvm_pit_channel_state *k)
{
    if (!c->running) {
        k->count = first || !c->programmed ? AN_HOUR : c->count;
    } else if (!periodic(c)) {
        k->count = c->left ? c->left : first ? AN_HOUR + (uint16_t)(0 - c->past) : 1;
    } else if (first && !just_begun(c)) {
        k->mode = BRIDGE_MODE;
        k->count = c->left;
    } else {
        k->count = c->loaded;
    }
}

void kvm_chips_counter_to_kvm(const struct chips_counter *c, bool first, struct kvm_pit_channel_state *k)
{
    bool word = c->access == RW_WORD;
    *k = (struct kvm_pit_channel_state){.latched_count = c->latched_count,
                                        .count_latched = !c->count_latched ? 0
                                                         : word            ? (c->read_high ? RW_HIGH : RW_WORD)
                                                                           : c->access,
                                        .status_latched = c->status_latched,
                                        .status = c->latched_status,
                                        .read_state = word && c->read_high && !c->count_latched ? RW_SECOND : c->access,
                                        .write_state = word && c->write_high ? RW_SECOND : c->access,
                                        .write_latch = c->write_low,
                                        .rw_mode = c->access,
                                        .mode = c->mode,
                                        .bcd = c->bcd,
                                        .gate = c->gate};
    set_count(c, first, k);
    if (!c->write_high)
        k->write_latch = (uint8_t)~k->count;
}

static uint32_t written_count(const struct kvm_pit_channel_state *k)
{
    uint32_t n = k->count & 0xffff;
    if (k->bcd)
        n = (n & 15) + (n >> 4 & 15) * 10 + (n >> 8 & 15) * 100 + (n >> 12) * 1000;
    return n ? n : k->bcd ? 10000 : 65536;
}

/* The guest has loaded the counter since. */
static bool counter_written(const struct kvm_pit_channel_state *k, const struct kvm_pit_channel_state *loaded)
{
    return k->count != loaded->count || k->count_load_time != loaded->count_load_time ||
           (k->write_state != RW_SECOND && k->write_latch != loaded->write_latch);
}

void kvm_chips_counter_from_kvm(struct chips_counter *c, const struct kvm_pit_channel_state *k,
                                const struct kvm_pit_channel_state *loaded, uint64_t ticks, uint64_t ticks_written)
{
    bool written = counter_written(k, loaded);
    struct chips_counter to = *c;
    to.mode = k->mode == loaded->mode ? c->mode : k->mode % 6;
    to.access = k->rw_mode & 3;
    to.bcd = k->bcd;
    to.gate = k->gate;
    to.count_latched = k->count_latched != 0;
    to.latched_count = k->latched_count;
    to.status_latched = k->status_latched;
    to.latched_status = k->status;
    to.write_high = k->write_state == RW_SECOND;
    to.write_low = k->write_latch;
    to.read_high = k->count_latched ? to.access == RW_WORD && k->count_latched == RW_HIGH : k->read_state == RW_SECOND;
    if (written) {
        to.count = to.loaded = to.left = written_count(k);
        to.past = 0;
        to.programmed = to.running = true;
        count_on(&to, ticks_written);
    } else if (k->mode != loaded->mode) { /* a control word, and no count yet */
        to.programmed = to.running = false;
    } else {
        count_on(&to, ticks);
    }
    *c = to;
}

/* Whole periods that a bridge was too long by. */
static unsigned missed(const struct kvm_chips *chips, uint64_t ticks)
{
    const struct chips_counter *c = &chips->given.counter[0];
    return chips->bridge_end && ticks > c->left ? (unsigned)((ticks - c->left) / c->loaded) : 0;
}

/* What k says, with the time that has gone by until now; the guest stands still. */
static void read_pit(const struct kvm_vm *vm, const struct kvm_pit_state2 *k, struct chips_pit *pit)
{
    const struct kvm_chips *chips = &vm->chips;
    const struct kvm_pit_channel_state *first = &k->channels[0];
    uint64_t now = now_ns(), ticks = to_ticks(now - chips->loaded_at);
    *pit = chips->given;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t since = now - (uint64_t)k->channels[i].count_load_time;
        kvm_chips_counter_from_kvm(&pit->counter[i], &k->channels[i], &chips->loaded[i], ticks,
                                   i ? to_ticks(since) : 0);
    }
    bool own = counter_written(first, &chips->loaded[0]) || first->mode != chips->loaded[0].mode;
    pit->missed = own ? 0 : pit->missed + missed(chips, ticks);
    pit->port61 = (uint8_t)((k->channels[2].gate & 1) | (k->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? 2 : 0));
}

/* KVM reads the time inside. Should the host have held us up around that, the count is set again: what is told by the
 * clock later must be what KVM's timer does. */
static int set_pit(struct kvm_vm *vm, const struct kvm_pit_state2 *k)
{
    enum { ATTEMPTS = 4, SOON_NS = 50000 };
    for (unsigned i = 0; i < ATTEMPTS; i++) {
        uint64_t before = now_ns();
        if (ioctl(vm->fd, KVM_SET_PIT2, k))
            return -1;
        vm->chips.loaded_at = now_ns(); /* KVM's is not later: when a bridge has ended by this, it has ended there */
        if (vm->chips.loaded_at - before < SOON_NS)
            break;
    }
    return 0;
}

static int load_pit(struct kvm_vcpu *v, const struct chips_pit *pit)
{
    struct kvm_vm *vm = v->vm;
    struct kvm_chips *chips = &vm->chips;
    struct kvm_pit_state2 k = {.flags = pit->port61 & 2 ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0};
    chips->given = *pit;
    struct chips_counter *first = &chips->given.counter[0];
    for (unsigned i = 0; i < 3; i++)
        kvm_chips_counter_to_kvm(&pit->counter[i], i == 0, &k.channels[i]);
    bool bridge = first->running && periodic(first) && k.channels[0].mode == BRIDGE_MODE;
    if (first->running && periodic(first) && !bridge)
        first->left = first->loaded;
    if (set_pit(vm, &k) || ioctl(vm->fd, KVM_GET_PIT2, &k))
        return -1;
    memcpy(chips->loaded, k.channels, sizeof chips->loaded);
    chips->bridge_end = bridge ? chips->loaded_at + to_ns(first->left) : 0;
    return kvm_set_wake(v, bridge ? to_ns(first->left) : 0);
}

/* The timer is stopped before the time is read: what it has not done by then is left to do. */
static int store_pit(struct kvm_vcpu *v, struct chips_pit *pit)
{
    struct kvm_vm *vm = v->vm;
    struct kvm_pit_state2 k, still;
    if (ioctl(vm->fd, KVM_GET_PIT2, &k))
        return -1;
    still = k;
    still.channels[0].mode = NO_TIMER_MODE;
    if (ioctl(vm->fd, KVM_SET_PIT2, &still))
        return -1;
    read_pit(vm, &k, pit);
    vm->chips.bridge_end = 0;
    return kvm_set_wake(v, 0);
}

int kvm_chips_before_run(struct kvm_vcpu *v)
{
    struct chips_pit pit;
    struct kvm_pit_state2 k;
    uint64_t end = v->vm->chips.bridge_end;
    if (!end || now_ns() < end)
        return 0;
    v->vm->chips.bridges++;
    if (ioctl(v->vm->fd, KVM_GET_PIT2, &k))
        return -errno;
    read_pit(v->vm, &k, &pit);
    return load_pit(v, &pit) ? -errno : 0;
}

/* ---- all of them ---- */

static int load(void *opaque, const struct chips *c)
{
    struct kvm_vcpu *v = opaque;
    struct kvm_vm *vm = v->vm;
    /* The I/O APIC's levels go to the local APIC at once, so that is there before. */
    if (mask_ioapic(vm) || set_lines(vm, c) || load_lapic(v, c) || load_pic(vm, c) || load_ioapic(vm, c) ||
        (vm->chips.pit && load_pit(v, &c->pit)))
        return errno ? -errno : -EIO;
    return 0;
}

static int store(void *opaque, struct chips *c)
{
    struct kvm_vcpu *v = opaque;
    struct kvm_vm *vm = v->vm;
    if ((vm->chips.pit && store_pit(v, &c->pit)) || store_pic(vm, c) || store_ioapic(vm, c) || store_lapic(v, c))
        return errno ? -errno : -EIO;
    return 0;
}

int kvm_chips_enter(struct kvm_vcpu *v, const char **step)
{
    const struct cpu_board *board = v->cpu.board;
    struct kvm_mp_state mp = {.mp_state = v->cpu.halted ? KVM_MP_STATE_HALTED : KVM_MP_STATE_RUNNABLE};
    const struct chip_holder holder = {.pit = v->vm->chips.pit,
                                       .load = load,
                                       .store = store,
                                       .pic_pin = pic_pin,
                                       .ioapic_pin = ioapic_pin,
                                       .pic_waiting = pic_waiting,
                                       .opaque = v};
    *step = "setting the interrupt controllers";
    int r = board->chips_hold(board->opaque, &holder);
    if (r)
        return r;
    v->vm->chips.held = true;
    cpu_lower(&v->cpu, CPU_EVENT_INTR); /* nobody would: the board's INTR has no say now */
    if (ioctl(v->fd, KVM_SET_MP_STATE, &mp))
        return -errno;
    v->cpu.halted = false;
    return 0;
}

int kvm_chips_leave(struct kvm_vcpu *v, const char **step)
{
    const struct cpu_board *board = v->cpu.board;
    struct kvm_mp_state mp;
    if (!v->vm->chips.held)
        return 0;
    *step = "reading the interrupt controllers";
    v->vm->chips.held = false;
    v->loaded = false;
    int r = ioctl(v->fd, KVM_GET_MP_STATE, &mp) ? -errno : 0;
    if (!r && mp.mp_state == KVM_MP_STATE_HALTED)
        v->cpu.halted = true;
    int released = board->chips_release(board->opaque);
    return r ? r : released;
}
