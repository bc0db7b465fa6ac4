/* SPDX-License-Identifier: MIT */
/* The machine's life cycle, with an engine that plays a script of port writes instead of running guest code. */
#include "devices/machine.h"
#include "tests/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the "guest" does in one call of run. */
enum step_kind { STEP_OUT, STEP_HALT, STEP_SHUTDOWN, STEP_SPIN };
struct step {
    enum step_kind kind;
    uint16_t port;
    uint32_t value;
    unsigned size;
};

static const struct step *script;
static unsigned step_at;
static _Atomic unsigned runs, replaced;
static struct memory *seen_memory;

static struct cpu *fake_create(const struct engine_options *options, struct memory *mem, const struct cpu_model *model,
                               const struct cpu_board *board, unsigned index, char *err, size_t err_len)
{
    struct cpu *cpu = aligned_alloc(64, (sizeof *cpu + 63) & ~63ull);
    seen_memory = mem;
    if (cpu && cpu_init(cpu, mem, model, board, index)) {
        free(cpu);
        cpu = NULL;
    }
    return cpu;
}

static void fake_destroy(struct cpu *cpu)
{
    cpu_destroy(cpu);
    free(cpu);
}

static enum engine_exit fake_run(struct cpu *cpu)
{
    for (;;) {
        atomic_fetch_add(&runs, 1);
        uint32_t events = atomic_load(&cpu->events);
        if (events & CPU_EVENT_RESET) {
            cpu_lower(cpu, CPU_EVENT_RESET);
            return ENGINE_EXIT_RESET;
        }
        if (events & CPU_EVENT_KICK) {
            cpu_lower(cpu, CPU_EVENT_KICK);
            return ENGINE_EXIT_KICK;
        }
        const struct step *s = &script[step_at];
        switch (s->kind) {
        case STEP_OUT:
            step_at++;
            cpu->board->port_write(cpu->board->opaque, s->port, s->value, s->size);
            break;
        case STEP_HALT:
            cpu->halted = true;
            return ENGINE_EXIT_HALT;
        case STEP_SHUTDOWN:
            cpu->shutdown = true;
            return ENGINE_EXIT_SHUTDOWN;
        case STEP_SPIN:
            usleep(100);
            break;
        }
    }
}

static void fake_replaced(struct cpu *cpu)
{
    atomic_fetch_add(&replaced, 1);
}

static const struct engine fake_engine = {.name = "fake",
                                          .vcpu_create = fake_create,
                                          .vcpu_destroy = fake_destroy,
                                          .run = fake_run,
                                          .state_replaced = fake_replaced};

static struct machine_config plain_config(void)
{
    return (struct machine_config){.ram_size = 8 << 20, .cpus = 1, .engine = &fake_engine};
}

static struct machine *make(const struct machine_config *config, const struct step *steps)
{
    struct machine *m = NULL;
    char err[300] = "";
    script = steps;
    step_at = 0;
    replaced = 0;
    if (access("/usr/share/seabios/bios-256k.bin", R_OK)) {
        test_skip("SeaBIOS is not installed");
        return NULL;
    }
    CU_ASSERT_EQUAL(machine_create(&m, config, err, sizeof err), 0);
    CU_ASSERT_STRING_EQUAL(err, "");
    return m;
}

/* PCI configuration write of one doubleword or byte. */
#define CONFIG(device, function, reg, value, size)                                                                     \
    {STEP_OUT, 0xcf8, 0x80000000u | (device) << 11 | (function) << 8 | ((reg)&0xfc), 4},                               \
    {                                                                                                                  \
        STEP_OUT, 0xcfc + ((reg)&3), (value), (size)                                                                   \
    }

static void power_off(void)
{
    static const struct step steps[] = {
        CONFIG(7, 3, 0x40, 0x601, 4), CONFIG(7, 3, 0x80, 1, 1), {STEP_OUT, 0x604, 0x2000, 2}, {STEP_SPIN, 0, 0, 0}};
    struct machine_config config = plain_config();
    struct machine *m = make(&config, steps);
    if (!m)
        return;
    CU_ASSERT_EQUAL(machine_how(m), MACHINE_RUNNING);
    CU_ASSERT_EQUAL(machine_run(m), 0);
    CU_ASSERT_EQUAL(machine_how(m), MACHINE_POWEROFF);
    machine_end(m, MACHINE_SIGNAL, 2); /* the first one wins */
    CU_ASSERT_EQUAL(machine_how(m), MACHINE_POWEROFF);
    machine_destroy(m);
}

static void debug_exit(void)
{
    static const struct step steps[] = {{STEP_OUT, 0xf4, 7, 1}, {STEP_HALT, 0, 0, 0}};
    struct machine_config config = plain_config();
    config.debug_exit = DEBUG_EXIT_EXACT;
    struct machine *m = make(&config, steps);
    if (!m)
        return;
    CU_ASSERT_EQUAL(machine_run(m), 7);
    machine_destroy(m);
    config.debug_exit = DEBUG_EXIT_QEMU;
    m = make(&config, steps);
    CU_ASSERT_EQUAL(machine_run(m), 15);
    machine_destroy(m);
}

static void triple_fault(void)
{
    static const struct step steps[] = {{STEP_SHUTDOWN, 0, 0, 0}};
    struct machine_config config = plain_config();
    struct machine *m = make(&config, steps);
    if (!m)
        return;
    int saved = dup(2); /* the register dump is not for the test's log */
    FILE *null = fopen("/dev/null", "w");
    dup2(fileno(null), 2);
    int status = machine_run(m);
    dup2(saved, 2);
    close(saved);
    fclose(null);
    CU_ASSERT_EQUAL(status, 120);
    machine_destroy(m);
}

static unsigned guest_resets;

static void on_reset(void *opaque, bool guest)
{
    guest_resets += guest;
}

static void reset(void)
{
    static const struct step steps[] = {{STEP_OUT, 0x70, 0x60, 1}, {STEP_OUT, 0x71, 0x77, 1}, CONFIG(0, 0, 0x59, 0, 1),
                                        {STEP_OUT, 0xcf9, 2, 1},   {STEP_OUT, 0xcf9, 6, 1},   {STEP_OUT, 0xf4, 3, 1},
                                        {STEP_SPIN, 0, 0, 0}};
    struct machine_config config = plain_config();
    config.debug_exit = DEBUG_EXIT_EXACT;
    config.on_reset = on_reset;
    guest_resets = 0;
    struct machine *m = make(&config, steps);
    if (!m)
        return;
    CU_ASSERT_EQUAL(replaced, 1); /* power-on */
    CU_ASSERT_EQUAL(machine_run(m), 3);
    CU_ASSERT_EQUAL(guest_resets, 1);
    CU_ASSERT_EQUAL(replaced, 2);
    CU_ASSERT_EQUAL(machine_cpu(m, 0)->rip, 0xfff0);
    /* The firmware is back in shadow RAM, and writable. */
    CU_ASSERT_EQUAL(memory_read32(machine_memory(m), gpa(0xffff0)) & 0xff, 0xea);
    CU_ASSERT_PTR_EQUAL(memory_page(machine_memory(m), 0xff).read, memory_page(machine_memory(m), 0xff).write);
    machine_destroy(m);

    config.no_reboot = true;
    m = make(&config, steps);
    CU_ASSERT_EQUAL(machine_run(m), 0);
    CU_ASSERT_EQUAL(machine_how(m), MACHINE_RESET_END);
    machine_destroy(m);
}

static void a20_and_init(void)
{
    static const struct step steps[] = {{STEP_OUT, 0x92, 0, 1}, {STEP_HALT, 0, 0, 0}};
    static const struct step init[] = {
        {STEP_OUT, 0x92, 0, 1}, {STEP_OUT, 0x92, 1, 1}, {STEP_OUT, 0xf4, 0, 1}, {STEP_HALT, 0, 0, 0}};
    struct machine_config config = plain_config();
    config.debug_exit = DEBUG_EXIT_EXACT;
    struct machine *m = make(&config, steps);
    if (!m)
        return;
    const struct cpu *cpu = machine_cpu(m, 0);
    const struct cpu_board *board = cpu->board;
    board->port_write(board->opaque, 0x92, 0, 1);
    CU_ASSERT_EQUAL(cpu->mmu.a20_mask, ~(1ull << 20));
    board->port_write(board->opaque, 0x92, 2, 1);
    CU_ASSERT_EQUAL(cpu->mmu.a20_mask, ~0ull);
    machine_destroy(m);
    m = make(&config, init);
    memory_write32(machine_memory(m), gpa(0x5000), 0x1234);
    machine_cpu(m, 0)->msr.star = 5;
    CU_ASSERT_EQUAL(machine_run(m), 0);
    CU_ASSERT_EQUAL(machine_cpu(m, 0)->mmu.a20_mask, ~0ull);
    CU_ASSERT_EQUAL(machine_cpu(m, 0)->msr.star, 5);
    CU_ASSERT_EQUAL(memory_read32(machine_memory(m), gpa(0x5000)), 0x1234);
    machine_destroy(m);
}

static bool stood_still;

static void *outside(void *opaque)
{
    struct machine *m = opaque;
    usleep(20000);
    machine_lock(m);
    machine_stop(m);
    machine_stop(m);
    uint64_t then = clock_now(machine_clock(m));
    unsigned before = runs;
    machine_unlock(m);
    usleep(20000);
    machine_lock(m);
    stood_still = runs == before && clock_now(machine_clock(m)) == then && !machine_running(m);
    machine_continue(m);
    machine_reset(m);
    machine_unlock(m);
    usleep(20000);
    machine_end(m, MACHINE_QUIT, 0);
    return NULL;
}

static void stop_and_continue(void)
{
    static const struct step spin[] = {{STEP_SPIN, 0, 0, 0}}, halt[] = {{STEP_HALT, 0, 0, 0}};
    struct machine_config config = plain_config();
    for (unsigned i = 0; i < 2; i++) {
        struct machine *m = make(&config, i ? halt : spin);
        pthread_t thread;
        if (!m)
            return;
        stood_still = false;
        pthread_create(&thread, NULL, outside, m);
        CU_ASSERT_EQUAL(machine_run(m), 0);
        pthread_join(thread, NULL);
        CU_ASSERT_TRUE(stood_still);
        CU_ASSERT_EQUAL(replaced, 2);
        machine_destroy(m);
    }
}

static void interrupt_wakes(void)
{
    struct machine_config config = plain_config();
    static const struct step halt[] = {{STEP_HALT, 0, 0, 0}};
    struct machine *m = make(&config, halt);
    if (!m)
        return;
    /* PIC as a BIOS sets it up; only the timer unmasked, counter 0 at 1 kHz. */
    static const uint16_t out[][2] = {{0x20, 0x11}, {0x21, 0x20}, {0x21, 4},    {0x21, 1},
                                      {0x21, 0xfe}, {0x43, 0x34}, {0x40, 0xa9}, {0x40, 4}};
    const struct cpu_board *board = machine_cpu(m, 0)->board;
    for (unsigned i = 0; i < sizeof out / sizeof out[0]; i++)
        board->port_write(board->opaque, out[i][0], out[i][1], 1);
    if (board->interrupt_ack(board->opaque) >= 0) /* OUT0 rose as its mode was set */
        board->port_write(board->opaque, 0x20, 0x20, 1);
    CU_ASSERT_EQUAL(board->interrupt_ack(board->opaque), -1);
    usleep(3000);
    machine_lock(m);
    clock_run(machine_clock(m));
    machine_unlock(m);
    CU_ASSERT(atomic_load(&machine_cpu(m, 0)->events) & CPU_EVENT_INTR);
    CU_ASSERT_EQUAL(board->interrupt_ack(board->opaque), 0x20);
    machine_destroy(m);
}

static void refused(void)
{
    struct machine *m;
    char err[300];
    struct machine_config config = plain_config();
    config.cpus = 2;
    CU_ASSERT(machine_create(&m, &config, err, sizeof err) < 0);
    CU_ASSERT_PTR_NULL(m);
    config = plain_config();
    config.firmware = "/nonexistent/bios";
    CU_ASSERT(machine_create(&m, &config, err, sizeof err) < 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "/nonexistent/bios"));
    config.firmware = "/";
    CU_ASSERT(machine_create(&m, &config, err, sizeof err) < 0);
    config = plain_config();
    config.kernel = "/nonexistent/kernel";
    CU_ASSERT(machine_create(&m, &config, err, sizeof err) < 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "/nonexistent/kernel"));
    config = plain_config();
    config.drive_count = 1;
    config.drives[0] = (struct drive_config){.kind = DRIVE_DISK, .block = {.path = "/nonexistent/disk"}};
    CU_ASSERT(machine_create(&m, &config, err, sizeof err) < 0);
    CU_ASSERT_PTR_NOT_NULL(strstr(err, "/nonexistent/disk"));
    config.drives[0].bus = DRIVE_BUS_SCSI;
    CU_ASSERT_EQUAL(machine_create(&m, &config, err, sizeof err), -ENOTSUP);
}

TEST_SUITE(machine, {"soft off", power_off}, {"debug exit", debug_exit}, {"triple fault", triple_fault},
           {"reset and --no-reboot", reset}, {"A20 and INIT", a20_and_init}, {"stop and continue", stop_and_continue},
           {"timer interrupt reaches the processor", interrupt_wakes}, {"what cannot be built is refused", refused})
