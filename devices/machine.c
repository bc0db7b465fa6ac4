/* SPDX-License-Identifier: MIT */
/* The machine: life cycle, locks and the vCPU's way to the board. The thread itself: vcpu_thread.c. */
#include "devices/machine_internal.h"

#include "devices/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t machine_stepped_tsc(const struct machine *m)
{
    return clock_ns_to_ticks(clock_now(m->clock), (uint64_t)cpu_model_tsc_khz(&m->model) * 1000);
}

/* ---- locks and ends ---- */

void machine_lock(struct machine *m)
{
    pthread_mutex_lock(&m->lock);
}

void machine_unlock(struct machine *m)
{
    pthread_mutex_unlock(&m->lock);
}

void machine_end(struct machine *m, enum machine_end how, int status)
{
    int running = MACHINE_RUNNING;
    if (!atomic_compare_exchange_strong(&m->how, &running, (int)how))
        return;
    atomic_store(&m->end_status, status);
    atomic_store(&m->ending, true);
    loop_quit(m->loop);
    if (m->vcpu.cpu)
        cpu_raise(m->vcpu.cpu, CPU_EVENT_KICK);
}

enum machine_end machine_how(const struct machine *m)
{
    return (enum machine_end)atomic_load(&m->how);
}

uint64_t machine_entered_at(const struct machine *m)
{
    return atomic_load(&m->entered_at);
}

uint64_t machine_entered_cpu_ns(const struct machine *m)
{
    return atomic_load(&m->entered_cpu_ns);
}

static int exit_status(const struct machine *m)
{
    switch (machine_how(m)) {
    case MACHINE_DEBUG_EXIT:
        return atomic_load(&m->end_status) & 0xff;
    case MACHINE_TRIPLE_FAULT:
        return 120;
    case MACHINE_TIMEOUT:
        return 124;
    case MACHINE_HOST_ERROR:
        return 125;
    case MACHINE_SIGNAL:
        return 128 + atomic_load(&m->end_status);
    default:
        return 0;
    }
}

/* ---- what the board asks for; under the machine lock ---- */

static void request_reset(struct machine *m, unsigned kind)
{
    m->reset_requests |= kind;
    cpu_raise(m->vcpu.cpu, CPU_EVENT_RESET);
}

static void signal_reset(void *opaque)
{
    request_reset(opaque, MACHINE_REQUEST_GUEST_RESET);
}

/* Without firmware nobody waits at the reset vector: guests that are booted directly mean a reboot by it. */
static void signal_cpu_init(void *opaque)
{
    struct machine *m = opaque;
    request_reset(m, m->config.kernel ? MACHINE_REQUEST_GUEST_RESET : MACHINE_REQUEST_INIT);
}

static void signal_power_off(void *opaque)
{
    machine_end(opaque, MACHINE_POWEROFF, 0);
}

static void signal_debug_exit(void *opaque, int status)
{
    machine_end(opaque, MACHINE_DEBUG_EXIT, status);
}

static void signal_intr(void *opaque, int n, int level)
{
    struct machine *m = opaque;
    if (!m->vcpu.cpu)
        return;
    if (level)
        cpu_raise(m->vcpu.cpu, CPU_EVENT_INTR);
    else
        cpu_lower(m->vcpu.cpu, CPU_EVENT_INTR);
}

/* ---- what a local APIC asks of its processor; under the machine lock ---- */

static void apic_intr(void *opaque, unsigned n, int level)
{
    signal_intr(opaque, 0, level);
}

static void apic_nmi(void *opaque, unsigned n)
{
    struct machine *m = opaque;
    if (m->vcpu.cpu)
        cpu_raise(m->vcpu.cpu, CPU_EVENT_NMI);
}

/* No system management mode on this board. */
static void apic_smi(void *opaque, unsigned n)
{
    log_msg(LOG_GUEST_ERROR, "SMI asked for by a local APIC");
}

static void apic_init_processor(void *opaque, unsigned n)
{
    signal_cpu_init(opaque);
}

/* Only a processor that waits for it after INIT takes a startup message; the boot processor never does. */
static void apic_startup(void *opaque, unsigned n, uint8_t vector)
{
    log_msg(LOG_GUEST_ERROR, "startup message with vector 0x%02x to the boot processor", vector);
}

static uint64_t apic_tsc(void *opaque)
{
    struct machine *m = opaque;
    return m->config.stepped ? machine_stepped_tsc(m) : __builtin_ia32_rdtsc();
}

static uint64_t apic_tsc_hz(void *opaque)
{
    struct machine *m = opaque;
    return cpu_model_tsc_khz(&m->model) * 1000ull;
}

/* The vCPU's thread applies it: right after the port write that moved it, or when it enters the engine. */
static void signal_a20(void *opaque, int n, int level)
{
    struct machine *m = opaque;
    atomic_store(&m->a20, level != 0);
}

/* ---- what the vCPU asks for; in its thread ---- */

static uint64_t vcpu_port_read(void *opaque, uint16_t port, unsigned size)
{
    struct machine *m = ((struct vcpu *)opaque)->machine;
    pthread_mutex_lock(&m->lock);
    uint64_t value = bus_read(m->board.ports, port, size);
    pthread_mutex_unlock(&m->lock);
    return value;
}

static void vcpu_port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    struct vcpu *v = opaque;
    struct machine *m = v->machine;
    pthread_mutex_lock(&m->lock);
    bus_write(m->board.ports, port, value, size);
    pthread_mutex_unlock(&m->lock);
    vcpu_apply_a20(v);
}

/* The vCPU's own local APIC; without one it answers nowhere, as its base is 0. */
static struct lapic *vcpu_lapic(struct vcpu *v)
{
    return &v->machine->board.lapic[0];
}

static uint64_t vcpu_mem_read(void *opaque, gpa_t addr, unsigned size)
{
    struct vcpu *v = opaque;
    struct machine *m = v->machine;
    struct lapic *lapic = vcpu_lapic(v);
    bool mine = lapic_maps(lapic, addr.v);
    if (mine && (addr.v & PAGE_MASK) == LAPIC_TPR && size == 4)
        return lapic_tpr(lapic); /* without the lock */
    pthread_mutex_lock(&m->lock);
    uint64_t value = mine ? lapic_read(lapic, addr.v & PAGE_MASK, size) : bus_read(m->board.memory_bus, addr.v, size);
    pthread_mutex_unlock(&m->lock);
    return value;
}

static void vcpu_mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    struct vcpu *v = opaque;
    struct machine *m = v->machine;
    struct lapic *lapic = vcpu_lapic(v);
    pthread_mutex_lock(&m->lock);
    if (lapic_maps(lapic, addr.v))
        lapic_write(lapic, addr.v & PAGE_MASK, value, size);
    else
        bus_write(m->board.memory_bus, addr.v, value, size);
    pthread_mutex_unlock(&m->lock);
}

static int vcpu_interrupt_ack(void *opaque)
{
    struct machine *m = ((struct vcpu *)opaque)->machine;
    pthread_mutex_lock(&m->lock);
    int vector = board_acknowledge(&m->board, 0);
    if (vector < 0)
        cpu_lower(m->vcpu.cpu, CPU_EVENT_INTR); /* the engine held on to an event while the line dropped */
    pthread_mutex_unlock(&m->lock);
    return vector;
}

static uint64_t vcpu_apic_base_read(void *opaque)
{
    return lapic_base(vcpu_lapic(opaque));
}

static int vcpu_apic_base_write(void *opaque, uint64_t value)
{
    struct machine *m = ((struct vcpu *)opaque)->machine;
    pthread_mutex_lock(&m->lock);
    int r = lapic_set_base(vcpu_lapic(opaque), value);
    if (!r && memory_page(&m->memory, value >> PAGE_SHIFT).read)
        log_msg(LOG_GUEST_ERROR, "local APIC moved onto memory at 0x%llx: the memory stays in front",
                (unsigned long long)value);
    pthread_mutex_unlock(&m->lock);
    return r;
}

static int vcpu_cr8_read(void *opaque)
{
    return lapic_tpr(vcpu_lapic(opaque)) >> 4;
}

static void vcpu_cr8_write(void *opaque, unsigned tpr)
{
    struct machine *m = ((struct vcpu *)opaque)->machine;
    if (lapic_tpr(vcpu_lapic(opaque)) == tpr << 4)
        return;
    pthread_mutex_lock(&m->lock);
    lapic_set_tpr(vcpu_lapic(opaque), (uint8_t)(tpr << 4));
    pthread_mutex_unlock(&m->lock);
}

static int vcpu_tsc_deadline(void *opaque, uint64_t tsc)
{
    struct vcpu *v = opaque;
    pthread_mutex_lock(&v->machine->lock);
    lapic_set_tsc_deadline(vcpu_lapic(v), tsc, v->cpu->tsc_offset);
    pthread_mutex_unlock(&v->machine->lock);
    return 0;
}

static uint64_t vcpu_tsc_deadline_read(void *opaque)
{
    struct vcpu *v = opaque;
    pthread_mutex_lock(&v->machine->lock);
    uint64_t tsc = lapic_tsc_deadline(vcpu_lapic(v));
    pthread_mutex_unlock(&v->machine->lock);
    return tsc;
}

static int vcpu_chips_hold(void *opaque, const struct chip_holder *holder)
{
    struct machine *m = ((struct vcpu *)opaque)->machine;
    pthread_mutex_lock(&m->lock);
    int r = board_chips_hold(&m->board, holder);
    pthread_mutex_unlock(&m->lock);
    return r;
}

static int vcpu_chips_release(void *opaque)
{
    struct vcpu *v = opaque;
    pthread_mutex_lock(&v->machine->lock);
    int r = board_chips_release(&v->machine->board, v->cpu->tsc_offset);
    pthread_mutex_unlock(&v->machine->lock);
    return r;
}

static void vcpu_ferr(void *opaque, int level)
{
    struct machine *m = ((struct vcpu *)opaque)->machine;
    pthread_mutex_lock(&m->lock);
    board_set_ferr(&m->board, level);
    pthread_mutex_unlock(&m->lock);
}

static uint64_t vcpu_tsc(void *opaque)
{
    return machine_stepped_tsc(((struct vcpu *)opaque)->machine);
}

/* ---- creation ---- */

/* The vCPU as engine makes it becomes the one that runs. */
static int add_part(struct machine *m, const struct engine *engine, char *err, size_t err_len)
{
    struct vcpu *v = &m->vcpu;
    unsigned n = v->part_count;
    err[0] = 0;
    if (n == VCPU_MAX_PARTS) {
        snprintf(err, err_len, "engine %s: too many engines", engine->name);
        return -EINVAL;
    }
    struct cpu *cpu =
        engine->vcpu_create(&m->config.engine_options, &m->memory, &m->model, &v->callbacks, 0, err, err_len);
    if (!cpu) {
        if (!err[0])
            snprintf(err, err_len, "engine %s: cannot make a virtual CPU", engine->name);
        return -ENOMEM;
    }
    v->parts[n] = (struct vcpu_part){engine, cpu};
    atomic_store(&v->part_count, n + 1);
    if (!v->cpu) {
        v->cpu = cpu;
        v->engine = engine;
    }
    return 0;
}

static int create_vcpu(struct machine *m, char *err, size_t err_len)
{
    struct vcpu *v = &m->vcpu;
    v->machine = m;
    sem_init(&v->wake, 0, 0);
    v->callbacks = (struct cpu_board){.port_read = vcpu_port_read,
                                      .port_write = vcpu_port_write,
                                      .mem_read = vcpu_mem_read,
                                      .mem_write = vcpu_mem_write,
                                      .interrupt_ack = vcpu_interrupt_ack,
                                      .kick = vcpu_kick,
                                      .ferr = vcpu_ferr,
                                      .opaque = v};
    if (m->config.stepped)
        v->callbacks.tsc = vcpu_tsc;
    if (m->model.apic) {
        v->callbacks.apic_base_read = vcpu_apic_base_read;
        v->callbacks.apic_base_write = vcpu_apic_base_write;
        v->callbacks.cr8_read = vcpu_cr8_read;
        v->callbacks.cr8_write = vcpu_cr8_write;
        v->callbacks.tpr = &vcpu_lapic(v)->tpr;
        v->callbacks.tsc_deadline = vcpu_tsc_deadline;
        v->callbacks.tsc_deadline_read = vcpu_tsc_deadline_read;
        v->callbacks.chips_hold = m->config.stepped ? NULL : vcpu_chips_hold;
        v->callbacks.chips_release = vcpu_chips_release;
    }
    return add_part(m, m->config.engine, err, err_len);
}

static int build(struct machine *m, char *err, size_t err_len)
{
    if (m->config.cpus != 1) {
        snprintf(err, err_len, "%u virtual CPUs asked for: only one works so far", m->config.cpus);
        return -ENOTSUP;
    }
    m->clock = clock_create(m->config.stepped);
    m->loop = m->clock ? loop_create(m->clock, &m->lock) : NULL;
    if (!m->loop) {
        snprintf(err, err_len, "event loop: %s", strerror(errno ? errno : ENOMEM));
        return -ENOMEM;
    }
    int r = memory_init(&m->memory, m->config.ram_size, err, err_len);
    if (r)
        return r;
    m->has_memory = true;
    r = placement_apply_memory(&m->config.placement, &m->memory, err, err_len);
    if (r)
        return r;
    struct board_signals signals = {
        .intr = {signal_intr, m, 0},
        .a20 = {signal_a20, m, 0},
        .power = {signal_reset, signal_cpu_init, signal_power_off, m},
        .lapic = {apic_intr, apic_nmi, apic_smi, apic_init_processor, apic_startup, apic_tsc, apic_tsc_hz, m},
        .debug_exit = signal_debug_exit,
        .opaque = m,
    };
    cpu_model_init(&m->model, m->config.long_mode, !m->config.no_apic);
    if (m->config.stepped)
        cpu_model_make_repeatable(&m->model);
    r = board_init(&m->board, &m->config, &m->model, &m->memory, m->clock, m->loop, &signals, err, err_len);
    if (r)
        return r;
    m->has_board = true;
    r = create_vcpu(m, err, err_len);
    return r ? r : machine_power_on(m, err, err_len);
}

int machine_create(struct machine **out, const struct machine_config *config, char *err, size_t err_len)
{
    struct machine *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m) {
        snprintf(err, err_len, "machine: out of memory");
        return -ENOMEM;
    }
    m->config = *config;
    atomic_store(&m->a20, true);
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->state_changed, NULL);
    pthread_mutex_lock(&m->lock);
    int r = build(m, err, err_len);
    pthread_mutex_unlock(&m->lock);
    if (r)
        machine_destroy(m);
    else
        *out = m;
    return r;
}

void machine_destroy(struct machine *m)
{
    if (!m)
        return;
    pthread_mutex_lock(&m->lock);
    if (m->has_board)
        board_destroy(&m->board);
    pthread_mutex_unlock(&m->lock);
    for (unsigned i = 0; i < m->vcpu.part_count; i++)
        m->vcpu.parts[i].engine->vcpu_destroy(m->vcpu.parts[i].cpu);
    if (m->has_memory)
        memory_destroy(&m->memory);
    if (m->loop)
        loop_destroy(m->loop);
    clock_destroy(m->clock);
    pthread_cond_destroy(&m->state_changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- running ---- */

int machine_run(struct machine *m)
{
    int r = vcpu_start(&m->vcpu);
    if (r) {
        fprintf(stderr, "ringfold: cannot start the virtual CPU's thread: %s\n", strerror(-r));
        machine_end(m, MACHINE_HOST_ERROR, 0);
        return exit_status(m);
    }
    loop_run(m->loop);
    atomic_store(&m->ending, true);
    pthread_mutex_lock(&m->lock);
    pthread_cond_broadcast(&m->state_changed);
    pthread_mutex_unlock(&m->lock);
    vcpu_join(&m->vcpu);
    /* From here on the back ends' owner may close them. */
    for (unsigned i = 0; i < MACHINE_SERIAL_PORTS; i++)
        if (m->config.serial[i])
            m->config.serial[i]->receive = NULL, m->config.serial[i]->can_receive = NULL;
    return exit_status(m);
}

bool machine_running(const struct machine *m)
{
    return !m->stopped && !atomic_load(&m->ending);
}

void machine_stop(struct machine *m)
{
    if (m->stopped)
        return;
    m->stopped = true;
    cpu_raise(m->vcpu.cpu, CPU_EVENT_KICK);
    /* The vCPU may be waiting for the lock in a device access. */
    while (m->vcpu.started && !m->vcpu.parked && !atomic_load(&m->ending))
        pthread_cond_wait(&m->state_changed, &m->lock);
    /* Not before: until then the guest runs, and what counts time outside of this process with it. */
    if (m->stopped)
        clock_stop(m->clock);
}

void machine_continue(struct machine *m)
{
    if (!m->stopped)
        return;
    m->stopped = false;
    clock_continue(m->clock);
    pthread_cond_broadcast(&m->state_changed);
}

void machine_reset(struct machine *m)
{
    request_reset(m, MACHINE_REQUEST_RESET);
}

void machine_powerdown(struct machine *m)
{
    piix4_power_button(&m->board.piix4);
}

/* ---- hand-over ---- */

static int find_part(struct machine *m, const struct engine *engine, char *err, size_t err_len)
{
    struct vcpu *v = &m->vcpu;
    for (unsigned i = 0; i < v->part_count; i++)
        if (v->parts[i].engine == engine)
            return (int)i;
    int r = add_part(m, engine, err, err_len);
    return r ? r : (int)v->part_count - 1;
}

static void change_part(struct vcpu *v, struct vcpu_part *to)
{
    struct cpu *from = v->cpu;
    const struct engine *engine = v->engine;
    cpu_state_copy(to->cpu, from);
    engine->state_replaced(from); /* its translations will not follow what the guest writes from now on */
    to->engine->state_replaced(to->cpu);
    v->engine = to->engine;
    v->cpu = to->cpu;
    vcpu_gather_events(v);
    /* Changes of memory that happened meanwhile wait in its queues. */
    cpu_raise(to->cpu, CPU_EVENT_FLUSH | CPU_EVENT_CODE);
}

int machine_set_engine(struct machine *m, const struct engine *engine, char *err, size_t err_len)
{
    struct vcpu *v = &m->vcpu;
    if (v->engine == engine)
        return 0;
    bool stopped = m->stopped;
    int n = find_part(m, engine, err, err_len);
    if (n < 0)
        return n;
    machine_stop(m); /* at an instruction boundary, with the whole state in the struct */
    if (v->started && !v->parked) {
        snprintf(err, err_len, "the machine is ending");
        return -EBUSY;
    }
    change_part(v, &v->parts[n]);
    if (!stopped)
        machine_continue(m);
    return 0;
}

/* ---- parts ---- */

struct loop *machine_loop(struct machine *m)
{
    return m->loop;
}

struct clock *machine_clock(struct machine *m)
{
    return m->clock;
}

struct memory *machine_memory(struct machine *m)
{
    return &m->memory;
}

struct cpu *machine_cpu(struct machine *m, unsigned n)
{
    return n == 0 ? m->vcpu.cpu : NULL;
}

const struct engine *machine_engine(struct machine *m)
{
    return m->vcpu.engine;
}

const struct display_source *machine_display(struct machine *m)
{
    return &m->board.display;
}

void machine_key(struct machine *m, unsigned key, bool down)
{
    ps2_keyboard_key(&m->board.keyboard.keyboard, key, down);
}

void machine_mouse(struct machine *m, int dx, int dy, int dz, unsigned buttons)
{
    ps2_mouse_move(&m->board.keyboard.mouse, dx, dy, dz, buttons);
}

int machine_change_medium(struct machine *m, enum drive_kind kind, unsigned slot, const struct block_options *options,
                          char *err, size_t err_len)
{
    return board_change_medium(&m->board, kind, slot, options, err, err_len);
}
