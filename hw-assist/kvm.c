/* SPDX-License-Identifier: MIT */
/* The vCPU loop of the KVM engine.
 *
 * One turn: look at cpu->events (a request ends run; a changed memory map is carried out; an interrupt is handed to KVM
 * if the guest can take one, else KVM is asked to come back when it can), KVM_RUN, serve the exit.
 *
 * The kick. Another thread sets an event, then calls kick, which sets kvm_run.immediate_exit and, when the vCPU thread
 * says that it is at KVM_RUN, sends it a signal. The vCPU thread says so, clears immediate_exit, and only then looks at
 * the events a last time. So either it sees the event, or immediate_exit is set after it was cleared and KVM_RUN
 * returns at once, or the signal finds it inside KVM_RUN.
 *
 * An access that left the guest is completed by the next KVM_RUN: before the state is read that one is made, with
 * immediate_exit set. */
#include "hw-assist/kvm.h"

#include "hw-assist/kvm_internal.h"
#include "hw-assist/kvm_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- virtual machines: one for each guest memory ---- */

static pthread_mutex_t vm_lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_vm *vms;

bool kvm_lacks(int kvm_fd, char *reason, size_t len)
{
    static const struct {
        int capability;
        const char *name;
    } needed[] = {{KVM_CAP_USER_MEMORY, "memory slots"},
                  {KVM_CAP_IMMEDIATE_EXIT, "immediate exit (Linux 4.11)"},
                  {KVM_CAP_EXT_CPUID, "CPUID tables"},
                  {KVM_CAP_READONLY_MEM, "read-only memory"}};
    int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        snprintf(reason, len, "its interface has version %d instead of %d", version, KVM_API_VERSION);
        return true;
    }
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, needed[i].capability) <= 0) {
            snprintf(reason, len, "it lacks %s", needed[i].name);
            return true;
        }
    }
    return false;
}

/* KVM would keep IA32_TSC_DEADLINE to itself although it has no local APIC here. */
static bool pass_deadline_msr(struct kvm_vm *vm)
{
    struct kvm_enable_cap msrs = {.cap = KVM_CAP_X86_USER_SPACE_MSR,
                                  .args[0] = KVM_MSR_EXIT_REASON_UNKNOWN | KVM_MSR_EXIT_REASON_FILTER};
    uint8_t denied = 0;
    struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
    filter.ranges[0].flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    filter.ranges[0].nmsrs = 1;
    filter.ranges[0].base = 0x6e0;
    filter.ranges[0].bitmap = &denied;
    return ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_MSR_FILTER) > 0 &&
           ioctl(vm->fd, KVM_ENABLE_CAP, &msrs) == 0 && ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &filter) == 0;
}

static void find_capabilities(struct kvm_vm *vm)
{
    vm->has_xsave = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) > 0;
    vm->has_xcrs = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XCRS) > 0;
    vm->has_debug_registers = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_DEBUGREGS) > 0;
    vm->has_events = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_VCPU_EVENTS) > 0;
    int sync = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SYNC_REGS);
    vm->has_sync_regs = sync > 0 && (sync & KVM_SYNC_X86_VALID_FIELDS) == KVM_SYNC_X86_VALID_FIELDS;
    struct kvm_enable_cap msrs = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args[0] = KVM_MSR_EXIT_REASON_UNKNOWN};
    vm->has_msr_exits = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_X86_USER_SPACE_MSR) > 0 &&
                        ioctl(vm->fd, KVM_ENABLE_CAP, &msrs) == 0;
    vm->has_deadline_exits = !vm->chips.present && vm->has_msr_exits && pass_deadline_msr(vm);
}

/* Intel processors without "unrestricted guest" run real mode with the help of three pages of guest-physical space that
 * nothing else uses, here below the firmware as every PC-like monitor has them. */
static int set_helper_pages(struct kvm_vm *vm)
{
    uint64_t identity_map = 0xfeffc000;
    if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map))
        return -errno;
    if (ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
        ioctl(vm->fd, KVM_SET_TSS_ADDR, identity_map + 0x1000))
        return -errno;
    return 0;
}

static void vm_destroy(struct kvm_vm *vm)
{
    if (vm->mem)
        kvm_memory_destroy(&vm->memory);
    if (vm->fd >= 0)
        close(vm->fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    free(vm);
}

static struct kvm_vm *vm_create(struct memory *mem, bool with_chips, char *err, size_t err_len)
{
    char reason[128];
    struct kvm_vm *vm = calloc(1, sizeof *vm);
    if (!vm) {
        snprintf(err, err_len, "kvm: out of memory");
        return NULL;
    }
    vm->fd = -1;
    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0) {
        kvm_probe_node(reason, sizeof reason);
        snprintf(err, err_len, "kvm: %s", reason);
        goto fail;
    }
    if (kvm_lacks(vm->kvm_fd, reason, sizeof reason)) {
        snprintf(err, err_len, "kvm: /dev/kvm cannot be used: %s", reason);
        goto fail;
    }
    do
        vm->fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    while (vm->fd < 0 && errno == EINTR);
    if (vm->fd < 0 || set_helper_pages(vm)) {
        snprintf(err, err_len, "kvm: cannot make a virtual machine: %s", strerror(errno));
        goto fail;
    }
    if (with_chips && kvm_chips_create(vm, err, err_len))
        goto fail;
    find_capabilities(vm);
    int slots = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
    int ring_page = ioctl(vm->kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
    vm->mem = mem;
    kvm_memory_init(&vm->memory, mem, vm->fd, true, slots > 0 ? (unsigned)slots : 32);
    kvm_memory_post(&vm->memory, ring_page > 0 ? (unsigned)ring_page : 0);
    return vm;
fail:
    vm_destroy(vm);
    return NULL;
}

/* Whether the machine's interrupt controllers are to be the kernel's: because that is asked for, or by "auto" on a KVM
 * that has shown that it works like a processor. 1, 0, or -1 with one line in err. */
static int choose_chips(const struct engine_options *options, const struct cpu_model *model,
                        const struct cpu_board *board, char *err, size_t err_len)
{
    char why[256];
    bool asked = options && options->kernel_irqchip == KERNEL_IRQCHIP_ON;
    if (!options || options->kernel_irqchip == KERNEL_IRQCHIP_OFF || options->step)
        return 0;
    if (!board->chips_hold) {
        if (asked)
            snprintf(err, err_len, "kvm: --kernel-irqchip on: this board keeps its interrupt controllers");
        return asked ? -1 : 0;
    }
    if (asked)
        return 1;
    if (!kvm_probe_suffices(kvm_probe_choice(model->long_mode), model->long_mode, why, sizeof why))
        return 0;
    const struct kvm_probe *p = kvm_probe_chips();
    return p->chips_work && p->lapic_works;
}

static struct kvm_vm *vm_get(struct memory *mem, bool with_chips, char *err, size_t err_len)
{
    pthread_mutex_lock(&vm_lock);
    struct kvm_vm *vm = vms;
    while (vm && vm->mem != mem)
        vm = vm->next;
    if (!vm && (vm = vm_create(mem, with_chips, err, err_len))) {
        vm->next = vms;
        vms = vm;
    }
    if (vm)
        vm->references++;
    pthread_mutex_unlock(&vm_lock);
    return vm;
}

static void vm_put(struct kvm_vm *vm)
{
    pthread_mutex_lock(&vm_lock);
    if (--vm->references == 0) {
        struct kvm_vm **p = &vms;
        while (*p != vm)
            p = &(*p)->next;
        *p = vm->next;
        vm_destroy(vm);
    }
    pthread_mutex_unlock(&vm_lock);
}

/* ---- kicks ---- */

static void on_signal(int signal)
{
    (void)signal; /* only makes KVM_RUN return */
}

static void install_signal(void)
{
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART | SA_ONSTACK}; /* bt shares the thread */
    sigaction(KVM_KICK_SIGNAL, &act, NULL);
}

static void attach_thread(struct kvm_vcpu *v)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, KVM_KICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    v->thread_id = (int)syscall(SYS_gettid);
}

static void kick(struct cpu *cpu)
{
    struct kvm_vcpu *v = kvm_vcpu_of(cpu);
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (atomic_load(&v->in_guest))
        syscall(SYS_tgkill, getpid(), v->thread_id, KVM_KICK_SIGNAL);
}

/* ---- life cycle ---- */

static void vcpu_destroy(struct cpu *cpu)
{
    struct kvm_vcpu *v = kvm_vcpu_of(cpu);
    if (v->vm)
        kvm_memory_forget(&v->vm->memory, v);
    if (v->has_slice_timer)
        timer_delete(v->slice_timer);
    if (v->vm) /* the ring was in this mapping; there is one vCPU */
        v->vm->memory.ring = NULL;
    if (v->run)
        munmap(v->run, v->run_size);
    if (v->fd >= 0)
        close(v->fd);
    if (v->cpu.mmu.mem)
        cpu_destroy(cpu);
    if (v->vm)
        vm_put(v->vm);
    free(v);
}

static int map_run(struct kvm_vcpu *v)
{
    int size = ioctl(v->vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof *v->run)
        return -1;
    void *p = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (p == MAP_FAILED)
        return -1;
    v->run = p;
    v->run_size = (size_t)size;
    unsigned page = v->vm->memory.ring_page;
    if (page && (page + 1) * (size_t)PAGE_SIZE <= v->run_size)
        v->vm->memory.ring = (void *)((uint8_t *)p + page * (size_t)PAGE_SIZE);
    return 0;
}

static struct cpu *vcpu_create(const struct engine_options *options, struct memory *mem, const struct cpu_model *model,
                               const struct cpu_board *board, unsigned index, char *err, size_t err_len)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_signal);
    struct kvm_vcpu *v = aligned_alloc(64, (sizeof *v + 63) & ~63ull);
    if (!v) {
        snprintf(err, err_len, "kvm: out of memory");
        return NULL;
    }
    memset(v, 0, sizeof *v);
    v->fd = -1;
    int with_chips = choose_chips(options, model, board, err, err_len);
    v->vm = with_chips < 0 ? NULL : vm_get(mem, with_chips, err, err_len);
    if (!v->vm)
        goto fail;
    v->fd = ioctl(v->vm->fd, KVM_CREATE_VCPU, (unsigned long)index);
    if (v->fd < 0 || map_run(v)) {
        snprintf(err, err_len, "kvm: vCPU %u: %s", index, strerror(errno));
        goto fail;
    }
    int r = cpu_init(&v->cpu, mem, model, board, index);
    if (r) {
        snprintf(err, err_len, "kvm: vCPU %u: %s", index, strerror(-r));
        goto fail;
    }
    v->cpu.engine = v;
    v->step = options && options->step;
    if (kvm_state_init(v, options && options->host_cpu, err, err_len))
        goto fail;
    kvm_memory_notify(&v->vm->memory, v);
    return &v->cpu;
fail:
    vcpu_destroy(&v->cpu);
    return NULL;
}

static void state_replaced(struct cpu *cpu)
{
    struct kvm_vcpu *v = kvm_vcpu_of(cpu);
    v->loaded = false;
    v->queued_interrupt = false;
    mmu_flush(&cpu->mmu, true);
}

/* ---- one turn ---- */

static enum engine_exit fail(struct kvm_vcpu *v, const char *what, int error)
{
    fprintf(stderr, "ringfold: kvm: %s: %s\n", what, strerror(error < 0 ? -error : error));
    return ENGINE_EXIT_ERROR;
}

/* Hands an interrupt over, or asks for a window. */
static int inject(struct kvm_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    uint32_t events = atomic_load(&cpu->events);
    v->run->request_interrupt_window = 0;
    if (events & CPU_EVENT_NMI) {
        cpu_lower(cpu, CPU_EVENT_NMI);
        v->stats.nmis++;
        if (ioctl(v->fd, KVM_NMI))
            return -errno;
    }
    if (!(events & CPU_EVENT_INTR) || v->vm->chips.held)
        return 0;
    if (v->run->ready_for_interrupt_injection && !v->queued_interrupt) {
        int vector = cpu->board->interrupt_ack ? cpu->board->interrupt_ack(cpu->board->opaque) : -1;
        struct kvm_interrupt irq = {.irq = (uint32_t)vector & 0xff};
        if (vector >= 0) {
            if (ioctl(v->fd, KVM_INTERRUPT, &irq))
                return -errno;
            v->stats.interrupts++;
            v->queued_interrupt = true;
        }
    }
    v->run->request_interrupt_window = (atomic_load(&cpu->events) & CPU_EVENT_INTR) != 0;
    return 0;
}

/* CR8 and IA32_APIC_BASE are the local APIC's; if it is on the board, they are told. */
static void take_task_priority(struct kvm_vcpu *v)
{
    const struct cpu_board *board = v->cpu.board;
    if (board->cr8_read && !v->vm->chips.held)
        v->run->cr8 = v->cpu.cr8 = (uint8_t)board->cr8_read(board->opaque);
}

static void give_task_priority(struct kvm_vcpu *v)
{
    const struct cpu_board *board = v->cpu.board;
    if (v->vm->chips.held)
        return;
    if (board->cr8_write && v->run->cr8 != v->cpu.cr8) {
        v->cpu.cr8 = v->run->cr8 & 15;
        board->cr8_write(board->opaque, v->cpu.cr8);
    }
    if (board->apic_base_write && v->run->apic_base != v->cpu.msr.apic_base) {
        v->cpu.msr.apic_base = v->run->apic_base;
        board->apic_base_write(board->opaque, v->run->apic_base);
    }
}

/* ---- windows that a software KVM misses ----
 *
 * Such a KVM looks for interrupts only now and then, and may miss a window of a few instructions ("sti; nop; cli" in a
 * loop, as firmware waits) for seconds. While an interrupt waits there, the guest runs freely for a slice of time, then
 * by single steps for a burst, then freely again: a window in a short loop is found by the first burst, and a long
 * stretch with interrupts off is not slowed down much. Where the kernel has the interrupt controllers, they are asked
 * after each slice whether an interrupt waits. */

enum { SLICE_NS = 1000000, BURST_STEPS = 64 };

static int set_stepping(struct kvm_vcpu *v, bool on)
{
    struct kvm_guest_debug debug = {.control = on ? KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP : 0};
    if (v->stepping == on)
        return 0;
    v->stepping = on;
    v->steps_left = BURST_STEPS;
    return ioctl(v->fd, KVM_SET_GUEST_DEBUG, &debug) ? -errno : 0;
}

static int set_timer(struct kvm_vcpu *v, uint64_t ns)
{
    struct itimerspec t = {.it_value = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)},
                           .it_interval.tv_nsec = ns ? SLICE_NS : 0};
    if (!ns && !v->has_slice_timer)
        return 0;
    if (!v->has_slice_timer) {
        struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
        event._sigev_un._tid = v->thread_id;
        if (timer_create(CLOCK_MONOTONIC, &event, &v->slice_timer))
            return -1;
        v->has_slice_timer = true;
    }
    return timer_settime(v->slice_timer, 0, &t, NULL);
}

/* A periodic signal to this thread, so that one which comes just before KVM_RUN is followed by another. */
static int set_slice_timer(struct kvm_vcpu *v, bool on)
{
    v->slice_running = on;
    v->slice_over = false;
    return set_timer(v, on ? SLICE_NS : 0) ? -errno : 0;
}

int kvm_set_wake(struct kvm_vcpu *v, uint64_t ns)
{
    return v->slice_running ? 0 : set_timer(v, ns);
}

static int look_for_window(struct kvm_vcpu *v)
{
    bool held = v->vm->chips.held, waiting = held || v->run->request_interrupt_window;
    int r = 0;
    if (waiting && !v->windows_known) {
        v->inexact_windows = !kvm_probe_exact_windows();
        v->windows_known = true;
    }
    if (!v->inexact_windows)
        return 0;
    bool step = waiting && (v->stepping ? v->steps_left > 0 : v->slice_over && (!held || kvm_chips_request(v)));
    /* Not by a step into the handler: the trap flag would stay in the flags that are pushed. */
    if (step && held && kvm_chips_window(v))
        step = false;
    bool slice = waiting && !step;
    if (slice)
        v->slice_over = false;
    if (slice != v->slice_running)
        r = set_slice_timer(v, slice);
    return r ? r : set_stepping(v, step);
}

/* 0: an exit is there; 1: none, look at the events; negative: failed. */
static int enter(struct kvm_vcpu *v, bool only_finish)
{
    struct cpu *cpu = &v->cpu;
    atomic_store(&v->in_guest, true);
    __atomic_store_n(&v->run->immediate_exit, only_finish, __ATOMIC_SEQ_CST);
    uint32_t ignored = v->run->request_interrupt_window ? CPU_EVENT_INTR : 0;
    if (!only_finish && (atomic_load(&cpu->events) & ~ignored)) {
        atomic_store(&v->in_guest, false);
        return 1;
    }
    v->stats.runs++;
    take_task_priority(v);
    int r = ioctl(v->fd, KVM_RUN, 0), error = errno;
    atomic_store(&v->in_guest, false);
    kvm_exit_posted(v);
    give_task_priority(v);
    v->queued_interrupt = false;
    v->unfinished = false;
    if (!r)
        return 0;
    v->stats.kicks++;
    v->slice_over = v->slice_running;
    return error == EINTR || error == EAGAIN ? 1 : -error;
}

enum outcome { GO_ON, HALTED, SHUT_DOWN, FAILED };

static enum outcome serve(struct kvm_vcpu *v)
{
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO:
        v->unfinished = true;
        kvm_exit_io(v);
        return GO_ON;
    case KVM_EXIT_MMIO:
        v->unfinished = true;
        kvm_exit_mmio(v);
        return GO_ON;
    case KVM_EXIT_X86_RDMSR:
    case KVM_EXIT_X86_WRMSR:
        v->unfinished = true;
        kvm_exit_msr(v, v->run->exit_reason == KVM_EXIT_X86_WRMSR);
        return GO_ON;
    case KVM_EXIT_IRQ_WINDOW_OPEN:
        v->stats.windows++;
        return GO_ON;
    case KVM_EXIT_INTR:
    case KVM_EXIT_SET_TPR: /* give_task_priority has told the board */
        return GO_ON;
    case KVM_EXIT_DEBUG:
        v->stats.steps++;
        v->steps_left -= v->steps_left > 0;
        return GO_ON;
    case KVM_EXIT_HLT:
        v->stats.halts++;
        return HALTED;
    case KVM_EXIT_SHUTDOWN:
        return SHUT_DOWN;
    default:
        return FAILED;
    }
}

/* Completes an access under way and brings the whole state into the struct. */
static int leave(struct kvm_vcpu *v, const char **step)
{
    int stop = v->slice_running ? set_slice_timer(v, false) : 0;
    *step = "stopping the window search";
    if (stop || (stop = set_stepping(v, false)))
        return stop;
    if (!v->loaded)
        return 0;
    while (v->unfinished) {
        int r = enter(v, true);
        if (r < 0) {
            *step = "completing an access";
            return r;
        }
        if (r == 0 && serve(v) != GO_ON)
            break; /* what it was shows again at the next KVM_RUN */
    }
    return kvm_state_store(v, step);
}

static enum engine_exit report_failure(struct kvm_vcpu *v)
{
    char text[512];
    kvm_exit_describe(v, text, sizeof text);
    fprintf(stderr, "ringfold: %s\n", text);
    return ENGINE_EXIT_ERROR;
}

/* KVM gave up, or the guest shut down: the struct gets what there is to see. */
static enum engine_exit end(struct kvm_vcpu *v, enum outcome outcome)
{
    const char *step = "";
    int r = kvm_state_store(v, &step);
    v->loaded = false;
    if (r)
        return fail(v, step, r);
    if (outcome == FAILED || kvm_exit_is_missing_mode(v))
        return report_failure(v);
    v->cpu.shutdown = true;
    return ENGINE_EXIT_SHUTDOWN;
}

/* Requests of other threads; true: run returns *how. */
static bool handle_requests(struct kvm_vcpu *v, enum engine_exit *how)
{
    struct cpu *cpu = &v->cpu;
    const char *step = "";
    uint32_t events = atomic_load(&cpu->events);
    if (events & (CPU_EVENT_RESET | CPU_EVENT_KICK)) {
        int r = leave(v, &step);
        uint32_t which = atomic_load(&cpu->events) & CPU_EVENT_RESET ? CPU_EVENT_RESET : CPU_EVENT_KICK;
        cpu_lower(cpu, which);
        *how = which == CPU_EVENT_RESET ? ENGINE_EXIT_RESET : ENGINE_EXIT_KICK;
        if (r)
            *how = fail(v, step, r);
        return true;
    }
    /* One vCPU and no system management mode: nobody sends these two but a guest mistake. */
    static const uint32_t done = CPU_EVENT_FLUSH | CPU_EVENT_CODE | CPU_EVENT_SMI | CPU_EVENT_INIT;
    if (events & done)
        cpu_lower(cpu, done);
    int r = kvm_memory_apply(&v->vm->memory, cpu->mmu.a20_mask);
    if (!r)
        return false;
    *how = fail(v, "cannot map guest memory", r);
    return true;
}

/* Everything that must be so before guest code runs. */
static int prepare(struct kvm_vcpu *v, const char **step)
{
    struct cpu *cpu = &v->cpu;
    if (!v->loaded) {
        int r = kvm_state_load(v, step);
        if (r)
            return r;
        v->queued_interrupt = false;
        v->run->ready_for_interrupt_injection = (cpu->rflags & FLAG_IF) && !cpu->interrupt_shadow;
        if (v->vm->chips.present && (r = kvm_chips_enter(v, step)))
            return r;
    }
    *step = "handing an interrupt over";
    int r = inject(v);
    if (!r && v->vm->chips.held)
        r = kvm_chips_before_run(v);
    return r ? r : look_for_window(v);
}

static enum engine_exit run_guest(struct kvm_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    enum engine_exit how;
    const char *step = "";
    for (;;) {
        if (handle_requests(v, &how))
            return how;
        if (cpu->shutdown)
            return ENGINE_EXIT_SHUTDOWN;
        if (cpu->halted && !v->vm->chips.present) {
            if (!cpu_has_work(cpu))
                return ENGINE_EXIT_HALT;
            cpu->halted = false;
        }
        int r = prepare(v, &step);
        if (!r) {
            step = "running the guest";
            r = enter(v, false);
        }
        if (r < 0)
            return fail(v, step, r);
        if (r > 0)
            continue;
        enum outcome outcome = serve(v);
        if (outcome == HALTED) {
            if ((r = kvm_state_store_core(v, &step)))
                return fail(v, step, r);
            cpu->halted = true;
            cpu->interrupt_shadow = false; /* that of an STI before it ended with HLT */
        } else if (outcome != GO_ON) {
            return end(v, outcome);
        }
    }
}

static enum engine_exit run(struct cpu *cpu)
{
    struct kvm_vcpu *v = kvm_vcpu_of(cpu);
    const char *step = "";
    if (!v->step || !v->thread_id)
        attach_thread(v);
    if (v->step)
        return kvm_step(v);
    enum engine_exit how = run_guest(v);
    int r = kvm_chips_leave(v, &step);
    return r ? fail(v, step, r) : how;
}

static void step_stop(struct cpu *cpu, const struct cpu *at)
{
    struct kvm_vcpu *v = kvm_vcpu_of(cpu);
    v->has_stop = at != NULL;
    if (at)
        v->stop_at = cpu_code64(at) ? at->rip : (uint32_t)(at->seg[SEG_CS].base + at->rip);
}

static const char *unable(const struct cpu *cpu)
{
    return ((const struct kvm_vcpu *)cpu)->unable;
}

static void stats(const struct cpu *cpu, FILE *out)
{
    const struct kvm_vcpu *v = (const struct kvm_vcpu *)cpu;
#define STAT(name, value) fprintf(out, ", \"" name "\": %llu", (unsigned long long)(value))
    fprintf(out, "\"kvm_runs\": %llu", (unsigned long long)v->stats.runs);
    STAT("exits_io", v->stats.io);
    STAT("exits_string_io", v->stats.string_io);
    STAT("exits_mmio", v->stats.mmio);
    STAT("posted_writes", v->stats.posted);
    STAT("exits_halt", v->stats.halts);
    STAT("exits_interrupt_window", v->stats.windows);
    STAT("single_steps", v->stats.steps);
    STAT("exits_msr", v->stats.msr_exits);
    STAT("interrupts", v->stats.interrupts);
    STAT("nmis", v->stats.nmis);
    STAT("kicks", v->stats.kicks);
    STAT("state_loads", v->stats.loads);
    STAT("state_stores", v->stats.stores);
    STAT("kernel_irqchip", v->vm->chips.present);
    STAT("kernel_pit", v->vm->chips.pit);
    STAT("irq_line_changes", atomic_load(&v->vm->chips.line_changes));
    STAT("pit_bridges", v->vm->chips.bridges);
    STAT("memory_slot_changes", v->vm->memory.slot_changes);
#undef STAT
}

const struct engine engine_kvm = {.name = "kvm",
                                  .costly_exit = true,
                                  .vcpu_create = vcpu_create,
                                  .vcpu_destroy = vcpu_destroy,
                                  .run = run,
                                  .state_replaced = state_replaced,
                                  .stats = stats,
                                  .step_stop = step_stop,
                                  .unable = unable,
                                  .kick = kick};
