/* SPDX-License-Identifier: MIT */
/* Local APICs with fake processors and a stepped clock; the TSC counts the clock's nanoseconds twice. */
#include "devices/lapic.h"
#include "tests/test.h"

#include <string.h>

enum { CPUS = 3, TSC_PER_NS = 2 };

static struct clock *clk;
static struct apic_bus bus;
static struct lapic apic[CPUS];
static int intr[CPUS], nmis[CPUS], smis[CPUS], inits[CPUS], startups[CPUS];
static int eois, last_eoi;
static uint8_t startup_vector;

static void on_intr(void *opaque, unsigned n, int level)
{
    intr[n] = level;
}
static void on_nmi(void *opaque, unsigned n)
{
    nmis[n]++;
}
static void on_smi(void *opaque, unsigned n)
{
    smis[n]++;
}
static void on_init(void *opaque, unsigned n)
{
    inits[n]++;
}
static void on_startup(void *opaque, unsigned n, uint8_t vector)
{
    startups[n]++;
    startup_vector = vector;
}
static uint64_t on_tsc(void *opaque)
{
    return clock_now(clk) * TSC_PER_NS;
}
static uint64_t on_tsc_hz(void *opaque)
{
    return TSC_PER_NS * 1000000000ull;
}
static void on_eoi(void *opaque, uint8_t vector)
{
    eois++;
    last_eoi = vector;
}

static void build(void)
{
    static const struct lapic_signals signals = {on_intr, on_nmi, on_smi, on_init, on_startup, on_tsc, on_tsc_hz, NULL};
    clk = clock_create(true);
    memset(&bus, 0, sizeof bus);
    memset(intr, 0, sizeof intr);
    memset(nmis, 0, sizeof nmis);
    memset(smis, 0, sizeof smis);
    memset(inits, 0, sizeof inits);
    memset(startups, 0, sizeof startups);
    eois = 0;
    for (unsigned i = 0; i < CPUS; i++)
        lapic_init(&apic[i], &bus, clk, i, 1000000000, &signals);
    apic_bus_add_io(&bus, on_eoi, NULL);
}

static void take_apart(void)
{
    for (unsigned i = 0; i < CPUS; i++)
        lapic_destroy(&apic[i]);
    clock_destroy(clk);
}

static uint32_t rd(unsigned reg)
{
    return (uint32_t)lapic_read(&apic[0], reg, 4);
}
static void wr(unsigned reg, uint32_t value)
{
    lapic_write(&apic[0], reg, value, 4);
}
static void enable(unsigned n)
{
    lapic_write(&apic[n], LAPIC_SVR, LAPIC_SVR_ENABLE | 0xff, 4);
}
static bool in_irr(unsigned n, unsigned vector)
{
    return lapic_read(&apic[n], LAPIC_IRR + (vector >> 5) * 16, 4) >> (vector & 31) & 1;
}
static void fixed(unsigned vector)
{
    wr(LAPIC_ICR_LOW, 1u << 18 | vector);
}

static void reset_values(void)
{
    static const struct {
        unsigned reg;
        uint32_t value, after_ones;
    } registers[] = {
        {LAPIC_ID, 0, 0xff000000},
        {LAPIC_VERSION, 0x50014, 0x50014},
        {LAPIC_TPR, 0, 0xff},
        {LAPIC_RRD, 0, 0},
        {LAPIC_LDR, 0, 0xff000000},
        {LAPIC_DFR, 0xffffffff, 0xffffffff},
        {LAPIC_SVR, 0xff, 0x3ff},
        {LAPIC_ESR, 0, 0},
        {LAPIC_ICR_HIGH, 0, 0xff000000},
        {LAPIC_LVT_TIMER, 0x10000, 0x700ff},
        {LAPIC_LVT_THERMAL, 0x10000, 0x107ff},
        {LAPIC_LVT_PERFORMANCE, 0x10000, 0x107ff},
        {LAPIC_LVT_LINT0, 0x700, 0x1a7ff},
        {LAPIC_LVT_LINT1, 0x400, 0x1a7ff},
        {LAPIC_LVT_ERROR, 0x10000, 0x100ff},
        {LAPIC_INITIAL_COUNT, 0, 0},
        {LAPIC_CURRENT_COUNT, 0, 0},
        {LAPIC_DIVIDE, 0, 0xb},
    };
    build();
    CU_ASSERT_EQUAL(lapic_base(&apic[0]), 0xfee00900);
    CU_ASSERT_EQUAL(lapic_base(&apic[1]), 0xfee00800);
    CU_ASSERT_EQUAL(lapic_read(&apic[2], LAPIC_ID, 4), 2u << 24);
    CU_ASSERT_EQUAL(lapic_read(&apic[1], LAPIC_LVT_LINT0, 4), 0x10000);
    for (size_t i = 0; i < sizeof registers / sizeof registers[0]; i++)
        CU_ASSERT_EQUAL(rd(registers[i].reg), registers[i].value);
    for (unsigned reg = LAPIC_ISR; reg < LAPIC_ESR; reg += 16)
        CU_ASSERT_EQUAL(rd(reg), 0);
    enable(0);
    for (size_t i = 0; i < sizeof registers / sizeof registers[0]; i++) {
        wr(registers[i].reg, 0xffffffff);
        CU_ASSERT_EQUAL(rd(registers[i].reg), registers[i].reg == LAPIC_INITIAL_COUNT   ? 0xffffffff
                                              : registers[i].reg == LAPIC_CURRENT_COUNT ? 0xffffffff
                                                                                        : registers[i].after_ones);
        if (registers[i].reg == LAPIC_LVT_TIMER)
            wr(LAPIC_LVT_TIMER, 0x10000);
        if (registers[i].reg == LAPIC_ID)
            wr(LAPIC_ID, 0);
    }
    wr(LAPIC_DFR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_DFR), 0x0fffffff);
    lapic_reset_by_init(&apic[0]);
    CU_ASSERT_EQUAL(rd(LAPIC_SVR), 0xff);
    CU_ASSERT_EQUAL(rd(LAPIC_TPR), 0);
    CU_ASSERT_EQUAL(rd(LAPIC_LVT_LINT0), 0x700);
    take_apart();
}

static void priorities(void)
{
    build();
    enable(0);
    fixed(0x41);
    CU_ASSERT_TRUE(intr[0]);
    fixed(0x52);
    fixed(0x51);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x52);
    CU_ASSERT_FALSE(intr[0]); /* same class and lower ones wait */
    CU_ASSERT_EQUAL(rd(LAPIC_PPR), 0x50);
    CU_ASSERT_EQUAL(lapic_processor_priority(&apic[0]), 0x50);
    fixed(0x61);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x61);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_FALSE(intr[0]);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_TRUE(intr[0]);
    wr(LAPIC_TPR, 0x50);
    CU_ASSERT_FALSE(intr[0]);
    CU_ASSERT_EQUAL(rd(LAPIC_PPR), 0x50);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0xff); /* spurious; nothing in service */
    CU_ASSERT_EQUAL(rd(LAPIC_ISR + 7 * 16), 0);
    wr(LAPIC_TPR, 0x4f);
    CU_ASSERT_TRUE(intr[0]);
    CU_ASSERT_EQUAL(rd(LAPIC_PPR), 0x4f);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x51);
    lapic_set_tpr(&apic[0], 0x10);
    CU_ASSERT_EQUAL(rd(LAPIC_TPR), 0x10);
    wr(LAPIC_EOI, 0x12345678);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x41);
    CU_ASSERT_EQUAL(rd(LAPIC_APR), 0x40);
    wr(LAPIC_EOI, 0);
    wr(LAPIC_EOI, 0); /* one too many */
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_NONE);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), 0);
    /* The same vector twice is kept once in IRR and once in service. */
    fixed(0x99);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x99);
    fixed(0x99);
    fixed(0x99);
    CU_ASSERT_TRUE(in_irr(0, 0x99));
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x99);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_NONE);
    take_apart();
}

static void message_to(uint8_t destination, bool logical, enum apic_delivery delivery, uint8_t vector, bool level)
{
    struct apic_message m = {
        .vector = vector, .destination = destination, .logical = logical, .level = level, .delivery = delivery};
    apic_bus_send(&bus, &m, NULL);
}

static void level_and_eoi(void)
{
    build();
    enable(0);
    message_to(0, false, APIC_FIXED, 0x71, true);
    CU_ASSERT_EQUAL(rd(LAPIC_TMR + 3 * 16), 1u << 17);
    message_to(0, false, APIC_FIXED, 0x82, false);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x82);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(eois, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x71);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(eois, 1);
    CU_ASSERT_EQUAL(last_eoi, 0x71);
    message_to(0, false, APIC_FIXED, 0x71, false); /* TMR follows the last one */
    CU_ASSERT_EQUAL(rd(LAPIC_TMR + 3 * 16), 0);
    take_apart();
}

static void destinations(void)
{
    build();
    for (unsigned i = 0; i < CPUS; i++) {
        enable(i);
        lapic_write(&apic[i], LAPIC_LDR, 1u << (24 + i), 4);
    }
    message_to(1, false, APIC_FIXED, 0x30, false);
    CU_ASSERT(!in_irr(0, 0x30) && in_irr(1, 0x30) && !in_irr(2, 0x30));
    message_to(5, true, APIC_FIXED, 0x31, false); /* flat */
    CU_ASSERT(in_irr(0, 0x31) && !in_irr(1, 0x31) && in_irr(2, 0x31));
    message_to(0xff, false, APIC_FIXED, 0x32, false);
    CU_ASSERT(in_irr(0, 0x32) && in_irr(1, 0x32) && in_irr(2, 0x32));
    message_to(9, false, APIC_FIXED, 0x33, false); /* nobody */
    for (unsigned i = 0; i < CPUS; i++) {          /* cluster model: clusters 0, 0, 1 */
        lapic_write(&apic[i], LAPIC_DFR, 0, 4);
        lapic_write(&apic[i], LAPIC_LDR, (i < 2 ? 1u << i : 0x11u) << 24, 4);
    }
    message_to(0x03, true, APIC_FIXED, 0x34, false);
    CU_ASSERT(in_irr(0, 0x34) && in_irr(1, 0x34) && !in_irr(2, 0x34));
    message_to(0x11, true, APIC_FIXED, 0x35, false);
    CU_ASSERT(!in_irr(0, 0x35) && !in_irr(1, 0x35) && in_irr(2, 0x35));
    /* Lowest priority: the one with the lowest PPR; among equals in turn. */
    lapic_set_tpr(&apic[0], 0x80);
    lapic_set_tpr(&apic[1], 0x20);
    lapic_set_tpr(&apic[2], 0x90);
    message_to(0xff, true, APIC_LOWEST_PRIORITY, 0xa0, false);
    CU_ASSERT(!in_irr(0, 0xa0) && in_irr(1, 0xa0) && !in_irr(2, 0xa0));
    lapic_set_tpr(&apic[0], 0x20);
    message_to(3, true, APIC_LOWEST_PRIORITY, 0xa1, false);
    message_to(3, true, APIC_LOWEST_PRIORITY, 0xa2, false);
    CU_ASSERT(in_irr(0, 0xa1) != in_irr(0, 0xa2) && in_irr(1, 0xa1) != in_irr(1, 0xa2));
    take_apart();
}

static void command_register(void)
{
    build();
    for (unsigned i = 0; i < CPUS; i++)
        enable(i);
    fixed(0x40);
    CU_ASSERT(in_irr(0, 0x40) && !in_irr(1, 0x40));
    CU_ASSERT_EQUAL(rd(LAPIC_ICR_LOW), 1u << 18 | 0x40); /* idle */
    wr(LAPIC_ICR_LOW, 2u << 18 | 0x41);
    CU_ASSERT(in_irr(0, 0x41) && in_irr(1, 0x41) && in_irr(2, 0x41));
    wr(LAPIC_ICR_LOW, 3u << 18 | 0x42);
    CU_ASSERT(!in_irr(0, 0x42) && in_irr(1, 0x42) && in_irr(2, 0x42));
    wr(LAPIC_ICR_HIGH, 2u << 24);
    wr(LAPIC_ICR_LOW, 0x43);
    CU_ASSERT(!in_irr(0, 0x43) && !in_irr(1, 0x43) && in_irr(2, 0x43));
    wr(LAPIC_ICR_LOW, 4u << 8);
    wr(LAPIC_ICR_LOW, 2u << 8);
    CU_ASSERT(nmis[2] == 1 && smis[2] == 1 && !nmis[0]);
    wr(LAPIC_ICR_LOW, 0xc4500); /* what firmware sends at first: INIT and startup to all others */
    wr(LAPIC_ICR_LOW, 0xc4610);
    CU_ASSERT(!inits[0] && inits[1] == 1 && inits[2] == 1 && !startups[0] && startups[1] == 1);
    CU_ASSERT_EQUAL(startup_vector, 0x10);
    wr(LAPIC_ICR_LOW, 0xc8500); /* INIT level de-assert: nothing */
    CU_ASSERT_EQUAL(inits[1], 1);
    wr(LAPIC_ICR_LOW, 1u << 18 | 4u << 8);
    CU_ASSERT_EQUAL(nmis[0], 1);
    wr(LAPIC_ICR_LOW, 1u << 18 | 5u << 8); /* INIT to itself: no such thing */
    CU_ASSERT_EQUAL(inits[0], 0);
    lapic_write(&apic[1], LAPIC_SVR, 0xff, 4); /* a software-disabled one takes NMI and INIT, nothing else */
    wr(LAPIC_ICR_HIGH, 1u << 24);
    wr(LAPIC_ICR_LOW, 0x44);
    wr(LAPIC_ICR_LOW, 4u << 8);
    CU_ASSERT(!in_irr(1, 0x44) && nmis[1] == 1);
    for (uint32_t i = 0; i < 0x100000; i += 0xff) /* wild ones */
        wr(LAPIC_ICR_LOW, i * 2654435761u);
    take_apart();
}

static void errors(void)
{
    build();
    enable(0);
    wr(LAPIC_LVT_ERROR, 0xfe);
    fixed(3);
    CU_ASSERT_TRUE(in_irr(0, 0xfe));
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), 0); /* latched by a write */
    wr(LAPIC_ESR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), LAPIC_ERROR_SEND_ILLEGAL);
    wr(LAPIC_ESR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), 0);
    message_to(0, false, APIC_FIXED, 15, false);
    wr(LAPIC_ESR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), LAPIC_ERROR_RECEIVE_ILLEGAL);
    rd(0x40);
    wr(0x3f0, 1);
    wr(LAPIC_ESR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), LAPIC_ERROR_REGISTER);
    wr(LAPIC_VERSION, 1); /* read-only ones are no error */
    wr(LAPIC_ISR, 1);
    wr(LAPIC_ESR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), 0);
    wr(LAPIC_LVT_ERROR, 2); /* an illegal vector for the error interrupt itself */
    fixed(0);
    wr(LAPIC_ESR, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_ESR), LAPIC_ERROR_SEND_ILLEGAL | LAPIC_ERROR_RECEIVE_ILLEGAL);
    /* Accesses of other shapes. */
    wr(LAPIC_LDR, 0x12000000);
    CU_ASSERT_EQUAL(lapic_read(&apic[0], LAPIC_LDR + 3, 1), 0x12);
    CU_ASSERT_EQUAL(lapic_read(&apic[0], LAPIC_LDR + 2, 2), 0x1200);
    CU_ASSERT_EQUAL(lapic_read(&apic[0], LAPIC_LDR + 4, 4), 0);
    CU_ASSERT_EQUAL(lapic_read(&apic[0], LAPIC_LDR, 8), 0x12000000);
    lapic_write(&apic[0], LAPIC_TPR, 0x55, 1);
    lapic_write(&apic[0], LAPIC_TPR + 1, 0x55, 4);
    lapic_write(&apic[0], LAPIC_TPR, 0x55, 8);
    CU_ASSERT_EQUAL(rd(LAPIC_TPR), 0);
    for (unsigned offset = 0; offset < LAPIC_PAGE_SIZE; offset++)
        for (unsigned size = 1; size <= 8; size *= 2) {
            lapic_read(&apic[0], offset, size);
            lapic_write(&apic[0], offset, 0xa5a5a5a5a5a5a5a5ull * offset, size);
        }
    take_apart();
}

static void virtual_wire(void)
{
    build();
    lapic_set_lint(&apic[0], 0, 1); /* before anybody has touched it */
    CU_ASSERT_TRUE(intr[0]);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_ASK_8259);
    lapic_set_lint(&apic[0], 0, 0);
    CU_ASSERT_FALSE(intr[0]);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_NONE);
    lapic_set_lint(&apic[0], 1, 1);
    CU_ASSERT_EQUAL(nmis[0], 1);
    lapic_set_lint(&apic[0], 1, 0);
    lapic_set_lint(&apic[1], 0, 1); /* masked on the others */
    CU_ASSERT_FALSE(intr[1]);
    enable(0);
    wr(LAPIC_LVT_LINT0, 0x8700); /* as SeaBIOS writes it */
    lapic_set_lint(&apic[0], 0, 1);
    fixed(0x50);
    wr(LAPIC_TPR, 0xff); /* ExtINT does not know priorities */
    CU_ASSERT_TRUE(intr[0]);
    wr(LAPIC_TPR, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x50); /* its own first */
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_ASK_8259);
    wr(LAPIC_LVT_LINT0, 0x10700);
    CU_ASSERT_FALSE(intr[0]);
    lapic_set_lint(&apic[0], 0, 0);
    wr(LAPIC_EOI, 0);
    /* LINT0 as an ordinary interrupt: edge, then level with Remote IRR. */
    wr(LAPIC_LVT_LINT0, 0x31);
    lapic_set_lint(&apic[0], 0, 1);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x31);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_NONE);
    wr(LAPIC_LVT_LINT0, 0x8031);
    CU_ASSERT_EQUAL(rd(LAPIC_LVT_LINT0), 0xc031);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x31);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), 0x31); /* still up */
    lapic_set_lint(&apic[0], 0, 0);
    wr(LAPIC_EOI, 0);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_NONE);
    CU_ASSERT_EQUAL(rd(LAPIC_LVT_LINT0), 0x8031);
    message_to(0, false, APIC_EXTINT, 0, false); /* by an I/O APIC */
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_ASK_8259);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_NONE);
    take_apart();
}

static void switched_off(void)
{
    build();
    enable(0);
    wr(LAPIC_LVT_TIMER, 0x20040);
    wr(LAPIC_SVR, 0xff); /* by software: everything masked, and stays so */
    CU_ASSERT_EQUAL(rd(LAPIC_LVT_TIMER), 0x30040);
    wr(LAPIC_LVT_LINT0, 0x700);
    CU_ASSERT_EQUAL(rd(LAPIC_LVT_LINT0), 0x10700);
    lapic_set_lint(&apic[0], 0, 1);
    CU_ASSERT_FALSE(intr[0]);
    fixed(0x40);
    CU_ASSERT_FALSE(in_irr(0, 0x40));
    /* By the MSR: LINT0 is INTR, LINT1 is NMI, no register page. */
    CU_ASSERT_TRUE(lapic_maps(&apic[0], 0xfee00ffc));
    CU_ASSERT_EQUAL(lapic_set_base(&apic[0], 0xfee00000), 0);
    CU_ASSERT_FALSE(lapic_maps(&apic[0], 0xfee00000));
    CU_ASSERT_EQUAL(lapic_base(&apic[0]), 0xfee00100); /* BSP is read-only */
    CU_ASSERT_TRUE(intr[0]);
    CU_ASSERT_EQUAL(lapic_acknowledge(&apic[0]), LAPIC_ASK_8259);
    lapic_set_lint(&apic[0], 1, 1);
    CU_ASSERT_EQUAL(nmis[0], 1);
    message_to(0, false, APIC_NMI, 0, false); /* it is not on the bus */
    CU_ASSERT_EQUAL(nmis[0], 1);
    /* And elsewhere. */
    CU_ASSERT_EQUAL(lapic_set_base(&apic[0], 0xd0000800), 0);
    CU_ASSERT_TRUE(lapic_maps(&apic[0], 0xd0000020));
    CU_ASSERT_FALSE(lapic_maps(&apic[0], 0xfee00020));
    CU_ASSERT_EQUAL(rd(LAPIC_SVR), 0xff);
    CU_ASSERT_NOT_EQUAL(lapic_set_base(&apic[0], 0xfee00c00), 0); /* x2APIC */
    take_apart();
}

static bool ticked(unsigned vector)
{
    if (lapic_acknowledge(&apic[0]) != (int)vector)
        return false;
    wr(LAPIC_EOI, 0);
    return true;
}

static void counting(void)
{
    static const struct {
        uint8_t code;
        unsigned divisor;
    } dividers[] = {{0, 2}, {1, 4}, {2, 8}, {3, 16}, {8, 32}, {9, 64}, {10, 128}, {11, 1}};
    build();
    enable(0);
    for (size_t i = 0; i < sizeof dividers / sizeof dividers[0]; i++) {
        wr(LAPIC_LVT_TIMER, 0x40);
        wr(LAPIC_DIVIDE, dividers[i].code);
        wr(LAPIC_INITIAL_COUNT, 1000);
        clock_advance(clk, 400 * dividers[i].divisor);
        CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 600);
        clock_advance(clk, 600 * dividers[i].divisor - 1);
        CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 1);
        CU_ASSERT_FALSE(intr[0]);
        clock_advance(clk, 1);
        CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 0);
        CU_ASSERT_TRUE(ticked(0x40));
        clock_advance(clk, 1000000);
        CU_ASSERT_FALSE(intr[0]);
    }
    /* Periodic. */
    wr(LAPIC_LVT_TIMER, 0x20041);
    wr(LAPIC_INITIAL_COUNT, 1000000);
    for (unsigned i = 0; i < 5; i++) {
        clock_advance(clk, 999999);
        CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 1);
        CU_ASSERT_FALSE(intr[0]);
        clock_advance(clk, 1);
        CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 1000000);
        CU_ASSERT_TRUE(ticked(0x41));
    }
    /* Masked it counts on, armed nowhere. */
    wr(LAPIC_LVT_TIMER, 0x30041);
    CU_ASSERT_EQUAL(clock_next_deadline(clk), CLOCK_NEVER);
    clock_advance(clk, 1500000);
    CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 500000);
    CU_ASSERT_FALSE(intr[0]);
    wr(LAPIC_LVT_TIMER, 0x20041);
    clock_advance(clk, 500000);
    CU_ASSERT_TRUE(ticked(0x41));
    /* A new divider goes on from the count. */
    clock_advance(clk, 400000);
    wr(LAPIC_DIVIDE, 0);
    CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 600000);
    clock_advance(clk, 1200000);
    CU_ASSERT_TRUE(ticked(0x41));
    /* Zero stops; the fastest there is does not hang the host. */
    wr(LAPIC_INITIAL_COUNT, 0);
    clock_advance(clk, 10000000);
    CU_ASSERT_FALSE(intr[0]);
    wr(LAPIC_DIVIDE, 11);
    wr(LAPIC_INITIAL_COUNT, 1);
    clock_advance(clk, 1000000);
    CU_ASSERT_TRUE(ticked(0x41));
    /* The full range. */
    wr(LAPIC_LVT_TIMER, 0x42);
    wr(LAPIC_DIVIDE, 10);
    wr(LAPIC_INITIAL_COUNT, 0xffffffff);
    clock_advance(clk, 128ull * 0xfffffffe);
    CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 1);
    clock_advance(clk, 128);
    CU_ASSERT_TRUE(ticked(0x42));
    take_apart();
}

static void deadlines(void)
{
    enum { OFFSET = 1000000 };
    build();
    enable(0);
    lapic_set_tsc_deadline(&apic[0], 12345, OFFSET); /* not in this mode */
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic[0]), 0);
    wr(LAPIC_LVT_TIMER, 0x40043);
    wr(LAPIC_INITIAL_COUNT, 100); /* and no counts in that one */
    CU_ASSERT_EQUAL(rd(LAPIC_INITIAL_COUNT), 0);
    CU_ASSERT_EQUAL(rd(LAPIC_CURRENT_COUNT), 0);
    uint64_t at = on_tsc(NULL) + OFFSET + 2000;
    lapic_set_tsc_deadline(&apic[0], at, OFFSET);
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic[0]), at);
    clock_advance(clk, 999);
    CU_ASSERT_FALSE(intr[0]);
    clock_advance(clk, 1);
    CU_ASSERT_TRUE(ticked(0x43));
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic[0]), 0);
    lapic_set_tsc_deadline(&apic[0], 5, OFFSET); /* the past: at once */
    CU_ASSERT_TRUE(ticked(0x43));
    lapic_set_tsc_deadline(&apic[0], UINT64_MAX, OFFSET); /* never */
    clock_advance(clk, 1ull << 50);
    CU_ASSERT_FALSE(intr[0]);
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic[0]), UINT64_MAX);
    at = on_tsc(NULL) + OFFSET + 2000;
    lapic_set_tsc_deadline(&apic[0], at, OFFSET);
    lapic_set_tsc_deadline(&apic[0], 0, OFFSET); /* disarmed */
    clock_advance(clk, 5000);
    CU_ASSERT_FALSE(intr[0]);
    lapic_set_tsc_deadline(&apic[0], on_tsc(NULL) + OFFSET + 2000, OFFSET);
    wr(LAPIC_LVT_TIMER, 0x43); /* so is it by another mode */
    wr(LAPIC_LVT_TIMER, 0x40043);
    clock_advance(clk, 5000);
    CU_ASSERT_FALSE(intr[0]);
    lapic_set_tsc_deadline(&apic[0], on_tsc(NULL) + OFFSET + 2000, OFFSET);
    wr(LAPIC_LVT_TIMER, 0x50043); /* masked: it passes unseen */
    clock_advance(clk, 5000);
    CU_ASSERT_FALSE(intr[0]);
    CU_ASSERT_EQUAL(lapic_tsc_deadline(&apic[0]), 0);
    take_apart();
}

TEST_SUITE(lapic, {"reset values and masks", reset_values}, {"priorities", priorities},
           {"level interrupts and EOI", level_and_eoi}, {"destinations", destinations},
           {"interrupt command register", command_register}, {"errors and bad accesses", errors},
           {"virtual wire mode, LINT0 and LINT1", virtual_wire}, {"switched off, moved", switched_off},
           {"timer: one-shot, periodic, dividers", counting}, {"timer: TSC deadline", deadlines})
