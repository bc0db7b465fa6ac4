/* SPDX-License-Identifier: MIT */
/* One instruction at a time (engine_options.step), as a reference for lockstep: KVM_GUESTDBG_SINGLESTEP.
 *
 * A step begins and ends with the whole state in the struct. KVM runs the instruction and its accesses to the board,
 * and nothing else: interrupts that are due are delivered here by cpu/, since KVM would run the handler's first
 * instruction with them. The same would happen with an exception; there step_stop names the place where the step is to
 * end, and a breakpoint stops KVM in front of it.
 *
 * Where an instruction is completed after its access (KVM_EXIT_IO, KVM_EXIT_MMIO), the trap behind it comes with the
 * KVM_RUN that completes it, or never (OUT): that one is made with immediate_exit set, and either end of it is the
 * step's.
 *
 * What KVM shows otherwise than the processor does is put right: RFLAGS.RF is set behind a repeated string instruction
 * that KVM has emulated, and RFLAGS.TF in the image that PUSHF and SYSCALL leave is KVM's own where the processor runs
 * them. The time stamp counter goes by the host's clock, so its offset is not read back. */
#include "hw-assist/kvm_internal.h"

#include "cpu/internal.h"
#include "decoder/insn.h"
#include "hw-assist/kvm_probe.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

enum {
    PATIENCE_NS = 50 * 1000 * 1000,
    PATIENCE_TICKS = 4,
    DR7_L0 = 2 | 1 << 10 /* as the processor has it: LE, bit 10 */
};

enum kvm_mode kvm_mode_of(const struct cpu *cpu)
{
    return cpu_long_mode(cpu)      ? cpu->cpl == 3 ? KVM_MODE_RING3 : KVM_MODE_LONG
           : cpu->mmu.cr0 & CR0_PG ? cpu->mmu.cr4 & CR4_PAE ? KVM_MODE_PAE : KVM_MODE_PAGING32
           : cpu->mmu.cr0 & CR0_PE ? KVM_MODE_FLAT32
                                   : KVM_MODE_REAL;
}

/* The mode, or the guest's own use of the debug registers, is more than KVM can step through. */
static bool beyond(struct kvm_vcpu *v)
{
    enum { DR7_ENABLED = 0xff };
    const struct cpu *cpu = &v->cpu;
    enum kvm_mode mode = kvm_mode_of(cpu);
    const struct kvm_probe *p = kvm_probe_steps();
    if (!p->works[mode])
        snprintf(v->unable, sizeof v->unable, "this host's KVM has no %s", kvm_mode_name(mode));
    else if (!p->steps[mode])
        snprintf(v->unable, sizeof v->unable, "this host's KVM does not step through %s", kvm_mode_name(mode));
    else if (cpu_v8086(cpu) && !p->steps[KVM_MODE_PAGING32])
        snprintf(v->unable, sizeof v->unable, "this host's KVM has no virtual-8086 mode");
    else if (cpu->rflags & FLAG_TF)
        snprintf(v->unable, sizeof v->unable, "the guest steps by itself");
    else if (cpu->dr[7] & DR7_ENABLED)
        snprintf(v->unable, sizeof v->unable, "the guest has breakpoints of its own");
    else
        return false;
    return true;
}

static uint64_t linear(const struct cpu *cpu, uint64_t rip)
{
    return cpu_code64(cpu) ? rip : (uint32_t)(cpu->seg[SEG_CS].base + rip);
}

static int set_debug(struct kvm_vcpu *v)
{
    bool stop = v->has_stop && v->stop_at != linear(&v->cpu, v->cpu.rip);
    struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
    uint64_t wanted = stop ? v->stop_at : ~0ull;
    if (v->stepping && v->stop_set == wanted)
        return 0;
    if (stop) {
        debug.control |= KVM_GUESTDBG_USE_HW_BP;
        debug.arch.debugreg[0] = v->stop_at;
        debug.arch.debugreg[7] = DR7_L0;
    }
    v->stepping = true;
    v->stop_set = wanted;
    return ioctl(v->fd, KVM_SET_GUEST_DEBUG, &debug) ? -errno : 0;
}

/* A signal now and then, for a KVM that does not come back. */
static int set_patience(struct kvm_vcpu *v)
{
    struct itimerspec t = {.it_value.tv_nsec = PATIENCE_NS, .it_interval.tv_nsec = PATIENCE_NS};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = KVM_KICK_SIGNAL};
    if (v->has_slice_timer)
        return 0;
    event._sigev_un._tid = v->thread_id;
    if (timer_create(CLOCK_MONOTONIC, &event, &v->slice_timer))
        return -errno;
    v->has_slice_timer = true;
    return timer_settime(v->slice_timer, 0, &t, NULL) ? -errno : 0;
}

/* ---- one instruction ---- */

enum outcome { DONE, HALTED, UNABLE };
enum { SYNCED = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS };

static enum outcome cannot(struct kvm_vcpu *v)
{
    const struct kvm_run *run = v->run;
    if (run->exit_reason == KVM_EXIT_SHUTDOWN)
        snprintf(v->unable, sizeof v->unable, "KVM shuts the guest down");
    else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR && run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        snprintf(v->unable, sizeof v->unable, "KVM cannot emulate an instruction");
    else
        snprintf(v->unable, sizeof v->unable, "KVM gives up with reason %u", run->exit_reason);
    return UNABLE;
}

/* Tells the board what the instruction did to the registers that are the local APIC's. */
static void give_cr8(struct kvm_vcpu *v)
{
    const struct cpu_board *board = v->cpu.board;
    if (board->cr8_write && v->run->cr8 != v->cpu.cr8)
        board->cr8_write(board->opaque, v->run->cr8 & 15);
}

static enum outcome run_one(struct kvm_vcpu *v)
{
    bool finishing = false;
    unsigned ticks = 0;
    v->run->request_interrupt_window = 0;
    for (;;) {
        v->run->immediate_exit = finishing;
        v->run->cr8 = v->cpu.cr8;
        v->run->kvm_valid_regs = v->vm->has_sync_regs ? SYNCED : 0;
        v->stats.runs++;
        int r = ioctl(v->fd, KVM_RUN, 0);
        v->synced = v->vm->has_sync_regs;
        if (r && errno != EINTR && errno != EAGAIN) {
            snprintf(v->unable, sizeof v->unable, "KVM_RUN: %s", strerror(errno));
            return UNABLE;
        }
        kvm_exit_posted(v);
        give_cr8(v);
        if (r && finishing)
            return DONE;
        if (r && ++ticks == PATIENCE_TICKS) {
            snprintf(v->unable, sizeof v->unable, "KVM does not come back from a step");
            return UNABLE;
        }
        if (r)
            continue;
        switch (v->run->exit_reason) {
        case KVM_EXIT_IO:
            kvm_exit_io(v);
            finishing = true;
            break;
        case KVM_EXIT_MMIO:
            kvm_exit_mmio(v);
            finishing = true;
            break;
        case KVM_EXIT_DEBUG:
            v->stats.steps++;
            return DONE;
        case KVM_EXIT_HLT:
            v->stats.halts++;
            return HALTED;
        case KVM_EXIT_INTR:
        case KVM_EXIT_SET_TPR:
        case KVM_EXIT_IRQ_WINDOW_OPEN:
            break;
        default: /* MSRs that KVM does not know among them: lockstep does not ask it for MSRs */
            return cannot(v);
        }
    }
}

/* ---- what the processor would not show ---- */

/* The instruction at hand. Class undefined: it cannot be read. */
static void look(struct kvm_vcpu *v, struct insn *in)
{
    struct cpu *cpu = &v->cpu;
    enum insn_mode mode = cpu_code64(cpu) ? INSN_MODE_64 : cpu->seg[SEG_CS].attr & SEG_DB ? INSN_MODE_32 : INSN_MODE_16;
    uint8_t code[15];
    unsigned n = kvm_code_at_rip(cpu, code, sizeof code);
    if (insn_decode(in, code, n, mode) <= 0)
        *in = (struct insn){.cls = INSN_UNDEFINED};
}

static bool is(const struct insn *in, enum insn_map map, uint8_t opcode)
{
    return in->cls != INSN_UNDEFINED && in->encoding == ENCODING_LEGACY && in->map == map && in->opcode == opcode;
}

enum { OP_PUSHF = 0x9c, OP_HLT = 0xf4, OP_SYSCALL = 0x05 };

static void put_right(struct kvm_vcpu *v, const struct insn *in)
{
    struct cpu *cpu = &v->cpu;
    uint8_t byte;
    cpu->rflags &= ~(uint64_t)(EFLAGS_RF | FLAG_TF);
    if (is(in, MAP_0F, OP_SYSCALL))
        cpu->gpr[11] &= ~(uint64_t)FLAG_TF;
    if (!is(in, MAP_PRIMARY, OP_PUSHF))
        return;
    uint64_t sp = cpu->gpr[GPR_SP];
    if (!cpu_code64(cpu))
        sp = (uint32_t)(cpu->seg[SEG_SS].base + (cpu->seg[SEG_SS].attr & SEG_DB ? (uint32_t)sp : (uint16_t)sp));
    if (!cpu_read_linear(cpu, sp + 1, &byte, 1, MMU_READ) && (byte & FLAG_TF >> 8)) {
        byte &= (uint8_t) ~(FLAG_TF >> 8);
        cpu_write_linear(cpu, sp + 1, &byte, 1, MMU_WRITE);
    }
}

/* Can it have changed more than the general state? */
static bool touches_more(const struct insn *in)
{
    return in->cls == INSN_UNDEFINED || in->cls == INSN_SYSTEM || in->cls == INSN_FAR || in->cls == INSN_FPU_ENV ||
           in->x87 || in->mmx || in->vector || in->vex;
}

static int read_state(struct kvm_vcpu *v, const struct insn *in, const char **step)
{
    enum { LIGHT_STEPS = 256 };
    bool light = v->synced && !touches_more(in) && ++v->light_steps < LIGHT_STEPS;
    if (!light)
        v->light_steps = 0;
    int r = light ? kvm_state_store_general(v, step) : kvm_state_store(v, step);
    v->synced = false;
    return r;
}

/* ---- a step ---- */

static enum engine_exit failed(struct kvm_vcpu *v, const char *what, int error)
{
    v->loaded = false;
    snprintf(v->unable, sizeof v->unable, "%s: %s", what, strerror(-error));
    return ENGINE_EXIT_UNABLE;
}

enum engine_exit kvm_step(struct kvm_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    const char *step = "guest memory";
    cpu_lower(cpu, CPU_EVENT_FLUSH | CPU_EVENT_CODE | CPU_EVENT_KICK);
    int r = kvm_memory_apply(&v->vm->memory, cpu->mmu.a20_mask);
    if (r || (step = "a timer", r = set_patience(v)))
        return failed(v, step, r);
    if (cpu->shutdown)
        return ENGINE_EXIT_SHUTDOWN;
    if ((atomic_load(&cpu->events) & (CPU_EVENT_INTR | CPU_EVENT_NMI)) && cpu_take_interrupt(cpu)) {
        v->loaded = false;
        return ENGINE_EXIT_KICK;
    }
    if (cpu->halted)
        return ENGINE_EXIT_HALT;
    if (beyond(v)) {
        v->loaded = false;
        return ENGINE_EXIT_UNABLE;
    }
    if (!v->loaded && (r = kvm_state_load(v, &step)))
        return failed(v, step, r);
    if ((r = set_debug(v)))
        return failed(v, "KVM_SET_GUEST_DEBUG", r);
    struct insn in;
    look(v, &in);
    uint64_t tsc_offset = cpu->tsc_offset, rip = cpu->rip;
    enum outcome outcome = run_one(v);
    if (outcome == UNABLE) {
        v->synced = false;
        v->loaded = false; /* the struct is still what it was before the instruction */
        return ENGINE_EXIT_UNABLE;
    }
    r = read_state(v, &in, &step);
    cpu->tsc_offset = tsc_offset;
    if (r)
        return failed(v, step, r);
    put_right(v, &in);
    /* The trap behind HLT comes in place of its own exit. */
    cpu->halted = outcome == HALTED || (is(&in, MAP_PRIMARY, OP_HLT) && cpu->rip == rip + in.len);
    return ENGINE_EXIT_KICK;
}
