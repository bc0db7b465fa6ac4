/* SPDX-License-Identifier: MIT */
/* The interrupt controllers and the PIT of the host's kernel in the board's place, as far as this host's KVM goes:
 * state there and back, lines, what is pending or held at a hand-over, counting across it, HLT, stop, reset. */
#include "devices/clock.h"
#include "devices/machine.h"
#include "hw-assist/kvm_internal.h"
#include "hw-assist/kvm_probe.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool have_chips(void)
{
    const struct kvm_probe *p = kvm_probe();
    if (p->usable && p->works[KVM_MODE_REAL] && p->chips_work)
        return true;
    test_skip(p->node != KVM_NODE_PRESENT ? p->node_text : !p->usable ? p->reason : p->chips_why);
    return false;
}

/* ---- state, without KVM ---- */

static uint32_t *reg(struct chips *c, unsigned offset)
{
    return &c->lapic.registers[offset >> 4];
}

/* As after a reset, with the local APIC enabled. */
static void reset_chips(struct chips *c)
{
    memset(c, 0, sizeof *c);
    for (unsigned i = 0; i < 2; i++)
        c->pic[i] = (struct chips_pic){.imr = 0xff, .vector_base = i ? 0x28 : 0x20, .lowest = 7};
    for (unsigned i = 0; i < CHIPS_IOAPIC_PINS; i++)
        c->ioapic.redirection[i] = 1 << 16;
    c->lapic.base = 0xfee00900;
    *reg(c, 0x30) = 0x50014;
    *reg(c, 0xe0) = ~0u;
    *reg(c, 0xf0) = 0x1ff;
    for (unsigned at = 0x320; at <= 0x370; at += 16)
        *reg(c, at) = 1 << 16;
    *reg(c, 0x350) = 0x700; /* LINT0: ExtINT */
    for (unsigned i = 0; i < 3; i++)
        c->pit.counter[i] = (struct chips_counter){.mode = 3, .access = 3, .gate = i != 2, .count = 65536};
}

static void pic_there_and_back(void)
{
    const struct chips_pic samples[] = {
        {.irr = 0x21, .isr = 0x42, .imr = 0x84, .lines = 0x21, .elcr = 0x28, .vector_base = 0x70, .lowest = 3},
        {.imr = 0xff, .lowest = 7, .icw_expected = 2, .icw4_needed = true},
        {.lowest = 0, .icw_expected = 4, .auto_eoi = true, .rotate_on_auto_eoi = true, .poll = true},
        {.special_fully_nested = true, .special_mask = true, .read_isr = true, .icw_expected = 3}};
    for (unsigned i = 0; i < sizeof samples / sizeof *samples; i++) {
        struct kvm_pic_state k;
        struct chips_pic back;
        kvm_chips_pic_to_kvm(&samples[i], i & 1, &k);
        CU_ASSERT_EQUAL(k.elcr_mask, i & 1 ? 0xde : 0xf8);
        CU_ASSERT_EQUAL(k.priority_add, (samples[i].lowest + 1) & 7);
        kvm_chips_pic_from_kvm(&back, &k);
        CU_ASSERT_EQUAL(memcmp(&back, &samples[i], sizeof back), 0);
    }
}

static void ioapic_there_and_back(void)
{
    struct chips c, back;
    struct kvm_ioapic_state k;
    reset_chips(&c);
    c.ioapic = (struct chips_ioapic){.index = 0x13, .id = 2, .lines = 0x30004};
    for (unsigned i = 0; i < CHIPS_IOAPIC_PINS; i++)
        c.ioapic.redirection[i] = 0x0300000000000030ull + i + (i == 16 ? 0xc000 : 0); /* 16: level, remote IRR */
    kvm_chips_ioapic_to_kvm(&c.ioapic, &k);
    CU_ASSERT_EQUAL(k.irr, 0x10000); /* edges that are high have been sent */
    CU_ASSERT_EQUAL(k.base_address, 0xfec00000);
    back.ioapic.lines = c.ioapic.lines;
    kvm_chips_ioapic_from_kvm(&back.ioapic, &k);
    CU_ASSERT_EQUAL(back.ioapic.index, 0x13);
    CU_ASSERT_EQUAL(back.ioapic.id, 2);
    CU_ASSERT_EQUAL(memcmp(back.ioapic.redirection, c.ioapic.redirection, sizeof c.ioapic.redirection), 0);
}

static void lapic_there_and_back(void)
{
    struct chips c, back;
    struct kvm_lapic_state k;
    reset_chips(&c);
    *reg(&c, 0x100) = 0x80000000;
    *reg(&c, 0x320) = 0x20030; /* periodic */
    *reg(&c, 0x380) = 1000;
    *reg(&c, 0x390) = 600;
    back = c;
    kvm_chips_lapic_to_kvm(&c.lapic, &k);
    kvm_chips_lapic_from_kvm(&back.lapic, &k);
    CU_ASSERT_EQUAL(memcmp(&back, &c, sizeof c), 0);
    *reg(&c, 0x320) = 0x30; /* a single count that has ended must not end again */
    *reg(&c, 0x390) = 0;
    back = c;
    kvm_chips_lapic_to_kvm(&c.lapic, &k);
    CU_ASSERT_EQUAL(*(uint32_t *)(k.regs + 0x380), 0);
    kvm_chips_lapic_from_kvm(&back.lapic, &k);
    CU_ASSERT_EQUAL(memcmp(&back, &c, sizeof c), 0);
}

/* c goes to KVM as counter 0 or another, where ticks pass, and comes back. */
static struct chips_counter passes(struct chips_counter c, bool first, uint64_t ticks)
{
    struct kvm_pit_channel_state k, loaded;
    kvm_chips_counter_to_kvm(&c, first, &k);
    loaded = k;
    kvm_chips_counter_from_kvm(&c, &k, &loaded, ticks, 0);
    return c;
}

static void counters(void)
{
    struct chips_counter c = {.mode = 2,
                              .access = 3,
                              .gate = true,
                              .count = 1000,
                              .programmed = true,
                              .running = true,
                              .loaded = 1000,
                              .left = 300};
    CU_ASSERT_EQUAL(passes(c, true, 100).left, 200);
    CU_ASSERT_EQUAL(passes(c, true, 300).left, 1000);
    CU_ASSERT_EQUAL(passes(c, true, 2350).left, 950);
    CU_ASSERT_EQUAL(passes(c, true, 2350).mode, 2);
    CU_ASSERT_EQUAL(passes(c, true, 2350).loaded, 1000);
    struct kvm_pit_channel_state k, loaded;
    kvm_chips_counter_to_kvm(&c, true, &k); /* the rest of a period is a single count */
    CU_ASSERT_EQUAL(k.mode, 1);
    CU_ASSERT_EQUAL(k.count, 300);
    c.left = 999; /* it might as well begin now */
    kvm_chips_counter_to_kvm(&c, true, &k);
    CU_ASSERT_EQUAL(k.mode, 2);
    CU_ASSERT_EQUAL(k.count, 1000);
    c.mode = 0; /* a single count: under way, ended, long ago */
    c.left = 300;
    CU_ASSERT_EQUAL(passes(c, true, 299).left, 1);
    CU_ASSERT_EQUAL(passes(c, true, 299).count, 1000);
    CU_ASSERT_EQUAL(passes(c, true, 305).left, 0);
    CU_ASSERT_EQUAL(passes(c, true, 305).past, 5);
    c.left = 0;
    c.past = 5;
    CU_ASSERT_EQUAL(passes(c, true, 10).past, 15);
    kvm_chips_counter_to_kvm(&c, true, &k);
    CU_ASSERT(k.count > 1000000); /* nothing to interrupt for */
    CU_ASSERT_EQUAL(k.count & 0xffff, 0xfffb);
    kvm_chips_counter_to_kvm(&c, false, &k);
    CU_ASSERT_EQUAL(k.count, 1); /* counter 2: its output is polled */
    c.running = c.programmed = false;
    struct chips_counter idle = passes(c, true, 100);
    CU_ASSERT_FALSE(idle.running || idle.programmed);
    /* The guest writes the count that is there already; then only a control word. */
    kvm_chips_counter_to_kvm(&c, true, &loaded);
    c.running = c.programmed = true, c.mode = 2, c.left = c.loaded = 1000;
    kvm_chips_counter_to_kvm(&c, true, &loaded);
    k = loaded;
    k.write_latch = 1000 & 0xff;
    struct chips_counter again = c;
    kvm_chips_counter_from_kvm(&again, &k, &loaded, 400, 0);
    CU_ASSERT_EQUAL(again.left, 1000);
    k = loaded;
    k.mode = 4;
    again = c;
    kvm_chips_counter_from_kvm(&again, &k, &loaded, 400, 0);
    CU_ASSERT(again.mode == 4 && !again.running && !again.programmed);
    k.mode = 0; /* and a count, in BCD */
    k.bcd = 1;
    k.count = 0x1234;
    again = c;
    kvm_chips_counter_from_kvm(&again, &k, &loaded, 400, 34);
    CU_ASSERT(again.mode == 0 && again.running && again.count == 1234 && again.left == 1200);
}

/* Half-read and half-written counts, and latches. */
static void counter_latches(void)
{
    for (unsigned i = 0; i < 32; i++) {
        struct chips_counter c = {.mode = 3, .access = 3, .gate = true, .count = 500, .latched_count = 0x1234};
        c.read_high = i & 1, c.write_high = i >> 1 & 1, c.write_low = i & 2 ? 0x56 : 0;
        c.count_latched = i >> 2 & 1, c.status_latched = i >> 3 & 1, c.latched_status = 0x36;
        struct chips_counter back = passes(c, i & 16, 77);
        CU_ASSERT_EQUAL(back.read_high, c.read_high);
        CU_ASSERT_EQUAL(back.write_high, c.write_high);
        CU_ASSERT(!c.write_high || back.write_low == 0x56);
        CU_ASSERT_EQUAL(back.count_latched, c.count_latched);
        CU_ASSERT_EQUAL(back.latched_count, 0x1234);
        CU_ASSERT_EQUAL(back.status_latched, c.status_latched);
        CU_ASSERT_EQUAL(back.latched_status, 0x36);
        CU_ASSERT_EQUAL(back.access, 3);
    }
}

/* ---- one vCPU, its chips given by hand ---- */

enum { CODE_AT = 0x1000, HANDLER_AT = 0x1800, RAM = 1 << 20, KICK_PORT = 0x60, LOG_MAX = 16 };

struct rig {
    struct memory mem;
    struct cpu_model model;
    struct cpu_board board;
    struct cpu *cpu;
    struct chips chips;
    struct chip_holder holder;
    _Atomic bool held;
    unsigned holds;
    _Atomic unsigned count;
    uint8_t vectors[LOG_MAX];
};

static uint64_t port_read(void *opaque, uint16_t port, unsigned size)
{
    return 0;
}
static void port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    struct rig *r = opaque;
    CU_ASSERT(r->held);
    if (port == KICK_PORT)
        cpu_raise(r->cpu, CPU_EVENT_KICK);
    else if (r->count < LOG_MAX)
        r->vectors[r->count++] = (uint8_t)value;
}
static uint64_t mem_read(void *opaque, gpa_t addr, unsigned size)
{
    return 0;
}
static void mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
}
static void rig_kick(void *opaque)
{
    struct rig *r = opaque;
    if (r->cpu)
        engine_kvm.kick(r->cpu);
}
static int hold(void *opaque, const struct chip_holder *holder)
{
    struct rig *r = opaque;
    r->holder = *holder;
    r->holds++;
    int result = holder->load(holder->opaque, &r->chips);
    r->held = true;
    return result;
}
static int release(void *opaque)
{
    struct rig *r = opaque;
    r->held = false;
    return r->holder.store(r->holder.opaque, &r->chips);
}

static struct rig *rig_create(void)
{
    static const struct engine_options options = {.kernel_irqchip = KERNEL_IRQCHIP_ON};
    char err[256] = "";
    struct rig *r = calloc(1, sizeof *r);
    CU_ASSERT_EQUAL_FATAL(memory_init(&r->mem, RAM, err, sizeof err), 0);
    cpu_model_init(&r->model, false, true);
    r->board = (struct cpu_board){.port_read = port_read,
                                  .port_write = port_write,
                                  .mem_read = mem_read,
                                  .mem_write = mem_write,
                                  .kick = rig_kick,
                                  .chips_hold = hold,
                                  .chips_release = release,
                                  .opaque = r};
    r->cpu = engine_kvm.vcpu_create(&options, &r->mem, &r->model, &r->board, 0, err, sizeof err);
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_PTR_NOT_NULL_FATAL(r->cpu);
    for (unsigned vector = 0x20; vector < 0x40; vector++) {
        const uint8_t handler[] = {0xb0, (uint8_t)vector, 0xe6, 0x81, 0xcf}; /* mov al,vector; out 81h,al; iret */
        memory_write(&r->mem, gpa(HANDLER_AT + 16 * vector), handler, sizeof handler);
        memory_write32(&r->mem, gpa(vector * 4), HANDLER_AT + 16 * vector);
    }
    reset_chips(&r->chips);
    return r;
}

static void rig_destroy(struct rig *r)
{
    engine_kvm.vcpu_destroy(r->cpu);
    memory_destroy(&r->mem);
    free(r);
}

static void load(struct rig *r, const uint8_t *code, size_t len)
{
    cpu_reset(r->cpu);
    r->cpu->seg[SEG_CS].base = 0;
    r->cpu->seg[SEG_CS].selector = 0;
    r->cpu->rip = r->cpu->next_rip = CODE_AT;
    r->cpu->gpr[GPR_SP] = 0x7000;
    memory_write(&r->mem, gpa(CODE_AT), code, len);
    r->count = 0;
    engine_kvm.state_replaced(r->cpu);
}
#define LOAD(r, ...)                                                                                                   \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        load(r, code_, sizeof code_);                                                                                  \
    } while (0)

static enum engine_exit run(struct rig *r)
{
    enum engine_exit how = engine_kvm.run(r->cpu);
    CU_ASSERT_FALSE(r->held);
    return how;
}

/* All chips, through KVM. */
static void kvm_there_and_back(void)
{
    if (!have_chips())
        return;
    struct rig *r = rig_create();
    struct chips *c = &r->chips, want;
    c->pic[0] = (struct chips_pic){
        .irr = 0x20, .isr = 0x40, .imr = 0xfa, .lines = 0x28, .elcr = 0x08, .vector_base = 0x50, .lowest = 5};
    c->pic[0].irr |= 0x08; /* level */
    c->pic[1] = (struct chips_pic){.imr = 0xff, .isr = 0x02, .vector_base = 0x58, .lowest = 7, .read_isr = true};
    c->ioapic.redirection[16] = 0x010000000000c041ull; /* level, remote IRR */
    c->ioapic.redirection[20] = 0x0100000000010042ull;
    c->ioapic.lines = 1 << 16 | 1 << 20;
    c->ioapic.index = 0x11;
    c->ioapic.id = 1;
    *reg(c, 0x20) = 0;
    *reg(c, 0xd0) = 0x01000000;
    *reg(c, 0x80) = 0x20;
    *reg(c, 0x120) = 2; /* vector 41h is in service, level triggered */
    *reg(c, 0x1a0) = 2;
    *reg(c, 0x3e0) = 0xb;
    *reg(c, 0x320) = 0x30 | 1 << 17;
    *reg(c, 0x380) = 4000000000u;
    *reg(c, 0x390) = 3000000000u;
    c->pit.counter[0] = (struct chips_counter){.mode = 2, .access = 3, .gate = true, .count = 60000};
    c->pit.counter[0].programmed = c->pit.counter[0].running = true;
    c->pit.counter[0].loaded = 60000;
    c->pit.counter[0].left = 50000;
    c->pit.port61 = 3;
    c->pit.counter[2].gate = true;
    want = *c;
    LOAD(r, 0xe6, KICK_PORT, 0xeb, 0xfc); /* L: out 60h,al; jmp L */
    for (unsigned i = 0; i < 3; i++)
        CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT_EQUAL(r->holds, 3);
    for (unsigned i = 0; i < 2; i++) {
        CU_ASSERT_EQUAL(c->pic[i].irr & ~4, want.pic[i].irr);
        CU_ASSERT_EQUAL(c->pic[i].isr, want.pic[i].isr);
        CU_ASSERT_EQUAL(c->pic[i].imr, want.pic[i].imr);
        CU_ASSERT_EQUAL(c->pic[i].elcr, want.pic[i].elcr);
        CU_ASSERT_EQUAL(c->pic[i].vector_base, want.pic[i].vector_base);
        CU_ASSERT_EQUAL(c->pic[i].lowest, want.pic[i].lowest);
        CU_ASSERT_EQUAL(c->pic[i].read_isr, want.pic[i].read_isr);
    }
    CU_ASSERT_EQUAL(memcmp(&c->ioapic, &want.ioapic, sizeof c->ioapic), 0);
    CU_ASSERT_EQUAL(c->lapic.base, 0xfee00900);
    CU_ASSERT(*reg(c, 0x390) < 3000000000u && *reg(c, 0x390) > 2900000000u); /* it has counted: 25 MHz */
    *reg(c, 0x390) = *reg(&want, 0x390);
    *reg(c, 0xa0) = *reg(&want, 0xa0); /* PPR */
    CU_ASSERT_EQUAL(memcmp(c->lapic.registers, want.lapic.registers, sizeof want.lapic.registers), 0);
    CU_ASSERT(c->pit.counter[0].mode == 2 && c->pit.counter[0].loaded == 60000 && c->pit.counter[0].running);
    CU_ASSERT_EQUAL(c->pit.counter[0].left < 50000, r->holder.pit);
    CU_ASSERT_EQUAL(c->pit.port61, 3);
    CU_ASSERT_FALSE(c->pit.counter[1].running);
    rig_destroy(r);
}

/* A request that waits is delivered; a line that stays high is no new edge after any number of hand-overs. */
static void pending_and_held(void)
{
    if (!have_chips())
        return;
    struct rig *r = rig_create();
    r->chips.pic[0].imr = 0xdf; /* pin 5 */
    r->chips.pic[0].irr = r->chips.pic[0].lines = 0x20;
    /* sti; L: mov cx,0; M: dec cx; jnz M; out 60h,al; jmp L */
    LOAD(r, 0xfb, 0xb9, 0x00, 0x00, 0x49, 0x75, 0xfd, 0xe6, KICK_PORT, 0xeb, 0xf6);
    CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT(r->count == 1 && r->vectors[0] == 0x25);
    CU_ASSERT_EQUAL(r->chips.pic[0].isr, 0x20);
    CU_ASSERT_EQUAL(r->chips.pic[0].irr, 0);
    r->chips.pic[0].isr = 0;
    for (unsigned i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT_EQUAL(r->count, 1);
    r->chips.pic[0].elcr = r->chips.pic[0].irr = 0x20; /* as a level it asks again */
    CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT_EQUAL(r->count, 2);
    rig_destroy(r);
}

/* The same on the I/O APIC: an edge that was sent, then a level that was not. */
static void held_at_ioapic(void)
{
    const struct kvm_probe *p = kvm_probe();
    if (!have_chips())
        return;
    struct rig *r = rig_create();
    r->chips.ioapic.lines = 1 << 17;
    r->chips.ioapic.redirection[17] = 0x31;
    LOAD(r, 0xfb, 0xb9, 0x00, 0x00, 0x49, 0x75, 0xfd, 0xe6, KICK_PORT, 0xeb, 0xf6); /* as above */
    for (unsigned i = 0; i < 10; i++)
        CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT_EQUAL(r->count, 0);
    r->chips.ioapic.redirection[17] = 0x8031;
    CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT(r->count > 0 && r->vectors[0] == 0x31);
    CU_ASSERT_EQUAL(r->chips.ioapic.redirection[17], 0xc031); /* remote IRR, until the EOI */
    if (p->lapic_works) {
        for (unsigned i = 0; i < 10; i++)
            CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
        CU_ASSERT_EQUAL(r->count, 1);
        CU_ASSERT_EQUAL(*reg(&r->chips, 0x110), 0x20000);
    } else {
        test_skip(p->lapic_why);
    }
    rig_destroy(r);
}

static void wait_count(struct rig *r, unsigned n)
{
    for (unsigned i = 0; i < 2000 && atomic_load(&r->count) < n; i++)
        usleep(1000);
    usleep(1000); /* asleep again, most likely */
}

static void *lines_later(void *opaque)
{
    struct rig *r = opaque;
    while (!atomic_load(&r->held))
        usleep(1000);
    for (unsigned i = 0; i < 3; i++) {
        usleep(2000);
        r->holder.pic_pin(r->holder.opaque, 5, 1);
        r->holder.pic_pin(r->holder.opaque, 5, 0);
        wait_count(r, i + 1);
    }
    r->holder.ioapic_pin(r->holder.opaque, 19, 1);
    wait_count(r, 4);
    usleep(20000);
    cpu_raise(r->cpu, CPU_EVENT_KICK);
    return NULL;
}

/* Lines end HLT without an exit, and a kick gets the vCPU out of it. */
static void halt_in_kernel(void)
{
    if (!have_chips())
        return;
    struct rig *r = rig_create();
    pthread_t thread;
    r->chips.pic[0].imr = 0xdf;
    r->chips.pic[0].auto_eoi = true;
    r->chips.ioapic.redirection[19] = 0x33;
    LOAD(r, 0xfb, 0xf4, 0xeb, 0xfd); /* sti; L: hlt; jmp L */
    const struct kvm_vcpu *v = kvm_vcpu_of(r->cpu);
    pthread_create(&thread, NULL, lines_later, r);
    CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(r->count, 4);
    CU_ASSERT(r->cpu->halted);
    CU_ASSERT_EQUAL(r->cpu->rip, CODE_AT + 2);
    CU_ASSERT_EQUAL(v->stats.halts, 0);
    cpu_raise(r->cpu, CPU_EVENT_KICK); /* it goes on sleeping */
    CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    CU_ASSERT(r->cpu->halted);
    rig_destroy(r);
}

static void *kick_later(void *opaque)
{
    struct rig *r = opaque;
    usleep(20000);
    cpu_raise(r->cpu, CPU_EVENT_KICK);
    return NULL;
}

static void sleep_on(struct rig *r)
{
    pthread_t thread;
    pthread_create(&thread, NULL, kick_later, r);
    CU_ASSERT_EQUAL(run(r), ENGINE_EXIT_KICK);
    pthread_join(thread, NULL);
}

/* The local APIC's timer, running when it is handed over: a single count that ends once, and a TSC deadline. */
static void lapic_timer(void)
{
    if (!have_chips())
        return;
    struct rig *r = rig_create();
    LOAD(r, 0xfb, 0xf4, 0xeb, 0xfd); /* sti; L: hlt; jmp L */
    *reg(&r->chips, 0x320) = 0x34;
    *reg(&r->chips, 0x3e0) = 0xb;
    *reg(&r->chips, 0x380) = 250000; /* 10 ms, of which one is left */
    *reg(&r->chips, 0x390) = 25000;
    for (unsigned i = 0; i < 4; i++)
        sleep_on(r);
    CU_ASSERT(r->count == 1 && r->vectors[0] == 0x34);
    CU_ASSERT_EQUAL(*reg(&r->chips, 0x390), 0);
    CU_ASSERT_EQUAL(*reg(&r->chips, 0x380), 250000);
    memset(&r->chips.lapic.registers[0x100 >> 4], 0, 32 * 4); /* its end */
    *reg(&r->chips, 0x320) = 0x35 | 2 << 17;
    r->chips.lapic.tsc_deadline = __builtin_ia32_rdtsc() + r->cpu->tsc_offset + 3000000;
    CU_ASSERT(r->chips.lapic.tsc_deadline != 0);
    for (unsigned i = 0; i < 4; i++)
        sleep_on(r);
    if (kvm_vcpu_of(r->cpu)->vm->chips.deadline) {
        CU_ASSERT(r->count == 2 && r->vectors[1] == 0x35);
        CU_ASSERT_EQUAL(r->chips.lapic.tsc_deadline, 0);
    }
    rig_destroy(r);
}

/* ---- a machine ---- */

enum { TICKS_AT = 0x500, BOOTS_AT = 0x504, PERIOD_MS = 10, IMAGE_SIZE = 65536 };
enum {
    CHANGES = 200,
    PLANNED_MS = 950, /* that the changes take */
    BEHIND = 20       /* ticks that a busy host has not let the guest see when the counting begins */
};

/* Firmware that counts interrupts of the 8254, mode 2 at 100 Hz; halt: sleeping in between. */
static bool write_firmware(char *path, bool halt)
{
    static uint8_t image[IMAGE_SIZE];
    static const uint8_t start[] = {
        0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x70,             /* cli; ds = ss = 0; sp = 7000h */
        0xff, 0x06, 0x04, 0x05,                                                 /* inc word [504h] */
        0xc7, 0x06, 0x80, 0x00, 0x00, 0x01,                                     /* vector 20h: f000:0100 */
        0xc7, 0x06, 0x82, 0x00, 0x00, 0xf0,                                     /* */
        0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, 0xe6, 0x21, /* ICW1-3 */
        0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21,                         /* ICW4, mask */
        0xb0, 0x34, 0xe6, 0x43, 0xb0, 0x9c, 0xe6, 0x40, 0xb0, 0x2e, 0xe6, 0x40, /* counter 0: mode 2, 11932 */
        0xfb};
    static const uint8_t spin[] = {0x66, 0xff, 0x06, 0x08, 0x05, 0xeb, 0xf9}; /* L: inc dword [508h]; jmp L */
    static const uint8_t sleep[] = {0xf4, 0xeb, 0xfd};
    static const uint8_t handler[] = {0x50, 0x66, 0xff, 0x06, 0x00, 0x05,  /* push ax; inc dword [500h] */
                                      0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf}; /* EOI; pop ax; iret */
    static const uint8_t reset[] = {0xea, 0x00, 0x00, 0x00, 0xf0};
    memset(image, 0xf4, sizeof image);
    memcpy(image, start, sizeof start);
    memcpy(image + sizeof start, halt ? sleep : spin, halt ? sizeof sleep : sizeof spin);
    memcpy(image + 0x100, handler, sizeof handler);
    memcpy(image + 0xfff0, reset, sizeof reset);
    int fd = mkstemp(path);
    bool ok = fd >= 0 && write(fd, image, sizeof image) == (ssize_t)sizeof image;
    close(fd);
    return ok;
}

struct subject {
    char path[40];
    struct machine_config config;
    struct machine *m;
    pthread_t thread;
};

static void *run_machine(void *opaque)
{
    machine_run(opaque);
    return NULL;
}

static void subject_start(struct subject *s, const struct engine *engine, bool halt)
{
    char err[300] = "";
    strcpy(s->path, "/tmp/ringfold-test-XXXXXX");
    CU_ASSERT_FATAL(write_firmware(s->path, halt));
    s->config = (struct machine_config){.ram_size = 8 << 20,
                                        .cpus = 1,
                                        .engine = engine,
                                        .firmware = s->path,
                                        .engine_options.kernel_irqchip = KERNEL_IRQCHIP_ON};
    CU_ASSERT_EQUAL(machine_create(&s->m, &s->config, err, sizeof err), 0);
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_PTR_NOT_NULL_FATAL(s->m);
    pthread_create(&s->thread, NULL, run_machine, s->m);
}

static void subject_end(struct subject *s)
{
    machine_end(s->m, MACHINE_QUIT, 0);
    pthread_join(s->thread, NULL);
    machine_destroy(s->m);
    unlink(s->path);
}

static uint32_t ticks(struct subject *s)
{
    return memory_read32(machine_memory(s->m), gpa(TICKS_AT));
}

static uint64_t now_ms(struct subject *s)
{
    return clock_now(machine_clock(s->m)) / NS_PER_MS;
}

static bool ticks_reach(struct subject *s, uint32_t n)
{
    for (unsigned i = 0; i < 5000 && ticks(s) < n; i++)
        usleep(1000);
    return ticks(s) >= n;
}

/* Ticks are the clock's, whichever engine runs it and however often that changes. */
static void counting_across_hand_overs(void)
{
    static const struct engine *const engines[2] = {&engine_bt, &engine_kvm};
    struct subject s;
    char err[256] = "";
    unsigned failed = 0;
    if (!have_chips())
        return;
    subject_start(&s, &engine_kvm, false);
    CU_ASSERT(ticks_reach(&s, 3));
    uint32_t first = ticks(&s);
    uint64_t begin = now_ms(&s);
    for (unsigned i = 0; i < CHANGES; i++) {
        machine_lock(s.m);
        failed += machine_set_engine(s.m, engines[i & 1], err, sizeof err) != 0;
        machine_unlock(s.m);
        usleep(i % 20 * 500); /* shorter and longer than a period */
    }
    CU_ASSERT_EQUAL(failed, 0);
    CU_ASSERT_STRING_EQUAL(err, "");
    uint64_t due = (now_ms(&s) - begin) / PERIOD_MS, seen = ticks(&s) - first;
    bool busy = due * PERIOD_MS > 3 * PLANNED_MS; /* KVM does not tell what it was about to make up for */
    if ((!busy && seen * 2 < due) || seen > due + due / 20 + BEHIND)
        fprintf(stderr, "%llu ticks instead of %llu\n", (unsigned long long)seen, (unsigned long long)due);
    CU_ASSERT(busy || seen * 2 >= due);
    CU_ASSERT(seen <= due + due / 20 + BEHIND);
    uint32_t before = ticks(&s); /* and it goes on */
    CU_ASSERT(ticks_reach(&s, before + 3));
    subject_end(&s);
}

/* A stopped machine's PIT stands still, and its count goes on where it was. */
static void stop_and_continue(void)
{
    struct subject s;
    if (!have_chips())
        return;
    for (unsigned halt = 0; halt < 2; halt++) {
        subject_start(&s, &engine_kvm, halt);
        CU_ASSERT(ticks_reach(&s, 3));
        for (unsigned i = 0; i < 5; i++) {
            machine_lock(s.m);
            machine_stop(s.m);
            uint32_t stopped = ticks(&s);
            usleep(40000);
            CU_ASSERT_EQUAL(ticks(&s), stopped);
            machine_continue(s.m);
            machine_unlock(s.m);
            CU_ASSERT(ticks_reach(&s, stopped + 2));
        }
        subject_end(&s);
    }
}

/* Reset reaches a vCPU that sleeps in the kernel, and puts the chips into their reset state. */
static void reset(void)
{
    struct subject s;
    if (!have_chips())
        return;
    subject_start(&s, &engine_kvm, true);
    for (unsigned i = 1; i <= 5; i++) {
        CU_ASSERT(ticks_reach(&s, 3));
        CU_ASSERT_EQUAL((uint16_t)memory_read32(machine_memory(s.m), gpa(BOOTS_AT)), i);
        machine_lock(s.m);
        machine_reset(s.m);
        machine_unlock(s.m);
        for (unsigned n = 0; n < 2000 && (uint16_t)memory_read32(machine_memory(s.m), gpa(BOOTS_AT)) == i; n++)
            usleep(1000);
        memory_write32(machine_memory(s.m), gpa(TICKS_AT), 0);
    }
    subject_end(&s);
}

TEST_SUITE(kvm_chips, {"the 8259s' state to KVM's form and back", pic_there_and_back},
           {"the I/O APIC's", ioapic_there_and_back}, {"the local APIC's", lapic_there_and_back},
           {"the 8254's counters", counters}, {"half-read and latched counts", counter_latches},
           {"all chips go through KVM", kvm_there_and_back},
           {"requests that wait and lines that stay high at a hand-over", pending_and_held},
           {"the same at the I/O APIC", held_at_ioapic}, {"lines and kicks end HLT in the kernel", halt_in_kernel},
           {"the local APIC's timer", lapic_timer},
           {"the PIT counts on across 200 hand-overs", counting_across_hand_overs},
           {"stop and continue", stop_and_continue}, {"reset", reset})
