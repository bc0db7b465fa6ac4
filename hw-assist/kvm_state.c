/* SPDX-License-Identifier: MIT */
/* struct cpu <-> a KVM vCPU: general and segment registers, control registers, MSRs, x87 and vector state, debug
 * registers, pending events. Linux Documentation/virt/kvm/api.rst names the structures.
 *
 * struct cpu has no place for an event that is on its way (an interrupt handed to KVM whose delivery has not begun, an
 * exception that KVM broke off). kvm_state_store delivers such an event itself, by cpu/, so that the struct is complete
 * and what it shows is an instruction boundary; KVM's copy is then older than the struct. */
#include "hw-assist/kvm_internal.h"

#include "cpu/internal.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#ifdef __clang__ /* the kernel's structs end in arrays without a length, and are followed by their entries here */
#pragma clang diagnostic ignored "-Wgnu-variable-sized-type-not-at-end"
#endif

#define XSAVE_COMPONENTS 7ull /* x87, SSE, AVX: what struct cpu holds */
enum { XSAVE_USED = 832, XSTATE_BV_AT = 512 };

/* ---- general registers, segments ---- */

static struct kvm_segment segment_to_kvm(const struct segment *s)
{
    uint32_t a = s->attr;
    return (struct kvm_segment){.base = s->base,
                                .limit = s->limit,
                                .selector = s->selector,
                                .type = a & SEG_TYPE,
                                .s = (a & SEG_S) != 0,
                                .dpl = (a & SEG_DPL) >> SEG_DPL_SHIFT,
                                .present = (a & SEG_P) && !(a & SEG_UNUSABLE),
                                .avl = (a & SEG_AVL) != 0,
                                .l = (a & SEG_L) != 0,
                                .db = (a & SEG_DB) != 0,
                                .g = (a & SEG_G) != 0,
                                .unusable = (a & SEG_UNUSABLE) != 0};
}

static void segment_from_kvm(struct segment *s, const struct kvm_segment *k)
{
    s->base = k->base;
    s->limit = k->limit;
    s->selector = k->selector;
    s->attr = (k->type & SEG_TYPE) | (k->s ? SEG_S : 0) | (uint32_t)(k->dpl & 3) << SEG_DPL_SHIFT |
              (k->present ? SEG_P : 0) | (k->avl ? SEG_AVL : 0) | (k->l ? SEG_L : 0) | (k->db ? SEG_DB : 0) |
              (k->g ? SEG_G : 0) | (k->unusable ? SEG_UNUSABLE : 0);
}

/* In struct cpu's order of general registers, which is the encoding's. */
static uint64_t *kvm_gpr(struct kvm_regs *r, unsigned n)
{
    __u64 *const at[16] = {&r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
                           &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15};
    return (uint64_t *)at[n];
}

static int load_regs(struct kvm_vcpu *v)
{
    struct kvm_regs r = {.rip = v->cpu.rip, .rflags = v->cpu.rflags | EFLAGS_FIXED};
    for (unsigned i = 0; i < 16; i++)
        *kvm_gpr(&r, i) = v->cpu.gpr[i];
    return ioctl(v->fd, KVM_SET_REGS, &r);
}

static int store_regs(struct kvm_vcpu *v)
{
    struct kvm_regs r;
    if (v->synced)
        r = v->run->s.regs.regs;
    else if (ioctl(v->fd, KVM_GET_REGS, &r))
        return -1;
    for (unsigned i = 0; i < 16; i++)
        v->cpu.gpr[i] = *kvm_gpr(&r, i);
    v->cpu.rip = v->cpu.next_rip = r.rip;
    v->cpu.rflags = r.rflags;
    return 0;
}

/* KVM shows the APIC in CPUID when the base register enables one. */
static uint64_t apic_base(const struct cpu *cpu)
{
    static const uint64_t enable = 1u << 11;
    return cpu->model->apic ? cpu->msr.apic_base : cpu->msr.apic_base & ~enable;
}

static int load_sregs(struct kvm_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    struct kvm_sregs s = {.cs = segment_to_kvm(&cpu->seg[SEG_CS]),
                          .ds = segment_to_kvm(&cpu->seg[SEG_DS]),
                          .es = segment_to_kvm(&cpu->seg[SEG_ES]),
                          .fs = segment_to_kvm(&cpu->seg[SEG_FS]),
                          .gs = segment_to_kvm(&cpu->seg[SEG_GS]),
                          .ss = segment_to_kvm(&cpu->seg[SEG_SS]),
                          .tr = segment_to_kvm(&cpu->tr),
                          .ldt = segment_to_kvm(&cpu->ldtr),
                          .gdt = {.base = cpu->gdtr.base, .limit = cpu->gdtr.limit},
                          .idt = {.base = cpu->idtr.base, .limit = cpu->idtr.limit},
                          .cr0 = cpu->mmu.cr0,
                          .cr2 = cpu->cr2,
                          .cr3 = cpu->mmu.cr3,
                          .cr4 = cpu->mmu.cr4,
                          .cr8 = cpu->cr8,
                          .efer = cpu->mmu.efer,
                          .apic_base = apic_base(cpu)};
    /* KVM takes the CPL from SS.DPL. */
    s.ss.dpl = cpu->cpl;
    v->run->cr8 = cpu->cr8;
    v->run->apic_base = s.apic_base;
    return ioctl(v->fd, KVM_SET_SREGS, &s);
}

static int store_sregs(struct kvm_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    struct kvm_sregs s;
    if (v->synced)
        s = v->run->s.regs.sregs;
    else if (ioctl(v->fd, KVM_GET_SREGS, &s))
        return -1;
    segment_from_kvm(&cpu->seg[SEG_CS], &s.cs);
    segment_from_kvm(&cpu->seg[SEG_DS], &s.ds);
    segment_from_kvm(&cpu->seg[SEG_ES], &s.es);
    segment_from_kvm(&cpu->seg[SEG_FS], &s.fs);
    segment_from_kvm(&cpu->seg[SEG_GS], &s.gs);
    segment_from_kvm(&cpu->seg[SEG_SS], &s.ss);
    segment_from_kvm(&cpu->tr, &s.tr);
    segment_from_kvm(&cpu->ldtr, &s.ldt);
    cpu->gdtr = (struct table_register){.base = s.gdt.base, .limit = s.gdt.limit};
    cpu->idtr = (struct table_register){.base = s.idt.base, .limit = s.idt.limit};
    cpu->cr2 = s.cr2;
    cpu->cr8 = (uint8_t)s.cr8;
    if (cpu->model->apic)
        cpu->msr.apic_base = s.apic_base;
    cpu->mmu.cr0 = s.cr0;
    cpu->mmu.cr3 = s.cr3;
    cpu->mmu.cr4 = s.cr4;
    cpu->mmu.efer = s.efer;
    /* The PDPTE registers as far as they can be had: what is in memory now. */
    if ((s.cr0 & CR0_PG) && (s.cr4 & CR4_PAE) && !(s.efer & EFER_LMA))
        mmu_load_pdptes(&cpu->mmu, s.cr3);
    cpu->cpl = cpu->rflags & EFLAGS_VM ? 3 : !(s.cr0 & CR0_PE) ? 0 : s.ss.dpl;
    mmu_flush(&cpu->mmu, true);
    return 0;
}

/* ---- events ---- */

static int load_events(struct kvm_vcpu *v)
{
    struct kvm_vcpu_events e = {.interrupt.shadow = v->cpu.interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0,
                                .nmi.masked = v->cpu.nmi_blocked,
                                .flags = KVM_VCPUEVENT_VALID_SHADOW};
    return v->vm->has_events ? ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e) : 0;
}

static int acknowledge_queued(void *opaque)
{
    return *(const int *)opaque;
}

/* Delivers a hardware interrupt whose INTA cycle is over: cpu/ is told that its vector comes from the board. */
static void deliver_interrupt(struct cpu *cpu, int vector)
{
    const struct cpu_board *board = cpu->board;
    struct cpu_board queued = {.interrupt_ack = acknowledge_queued, .opaque = &vector};
    uint32_t before = atomic_fetch_and(&cpu->events, ~(uint32_t)(CPU_EVENT_NMI | CPU_EVENT_INIT | CPU_EVENT_SMI));
    bool pin = atomic_fetch_or(&cpu->events, CPU_EVENT_INTR) & CPU_EVENT_INTR;
    cpu->board = &queued;
    cpu->interrupt_shadow = false;
    cpu->rflags |= FLAG_IF; /* it was set when KVM took the vector */
    cpu_take_interrupt(cpu);
    cpu->board = board;
    if (!pin)
        atomic_fetch_and(&cpu->events, ~(uint32_t)CPU_EVENT_INTR);
    atomic_fetch_or(&cpu->events, before & (CPU_EVENT_NMI | CPU_EVENT_INIT | CPU_EVENT_SMI));
}

static void deliver_exception(struct cpu *cpu, const struct kvm_vcpu_events *e)
{
    cpu->fault = (struct cpu_fault){.vector = e->exception.nr,
                                    .has_error = e->exception.has_error_code,
                                    .error = e->exception.error_code,
                                    .cr2 = cpu->cr2};
    if (e->exception.nr == VECTOR_DB) /* DR6 has its bits already */
        cpu->fault.dr6 = 0;
    cpu_deliver_fault(cpu);
}

/* deliver: what is on its way arrives now. */
static int store_events(struct kvm_vcpu *v, bool deliver)
{
    struct cpu *cpu = &v->cpu;
    struct kvm_vcpu_events e = {0};
    if (!v->vm->has_events)
        return 0;
    if (v->synced)
        e = v->run->s.regs.events;
    else if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e))
        return -1;
    cpu->interrupt_shadow = e.interrupt.shadow != 0;
    cpu->nmi_blocked = e.nmi.masked;
    cpu->smm = false;
    if (!deliver)
        return 0;
    if (e.nmi.injected || e.nmi.pending) {
        cpu->nmi_blocked = cpu->nmi_blocked && !e.nmi.injected;
        atomic_fetch_or(&cpu->events, CPU_EVENT_NMI);
        v->loaded = false;
    }
    if (e.exception.injected) {
        deliver_exception(cpu, &e);
        v->loaded = false;
    } else if (e.interrupt.injected && !e.interrupt.soft) {
        deliver_interrupt(cpu, e.interrupt.nr);
        v->loaded = false;
    }
    return 0;
}

/* ---- MSRs ---- */

#define MSR_AT(field) offsetof(struct cpu, field)
static const struct {
    uint32_t index;
    uint16_t at; /* of a uint64_t in struct cpu */
    bool wide;   /* only of a model with long mode */
} state_msrs[] = {
    {0x174, MSR_AT(msr.sysenter_cs), false},        {0x175, MSR_AT(msr.sysenter_esp), false},
    {0x176, MSR_AT(msr.sysenter_eip), false},       {0x277, MSR_AT(msr.pat), false},
    {0x1a0, MSR_AT(msr.misc_enable), false},        {0x17a, MSR_AT(msr.mcg_status), false},
    {0x2ff, MSR_AT(msr.mtrr_def_type), false},      {0x250, MSR_AT(msr.mtrr_fixed[0]), false},
    {0x258, MSR_AT(msr.mtrr_fixed[1]), false},      {0x259, MSR_AT(msr.mtrr_fixed[2]), false},
    {0x268, MSR_AT(msr.mtrr_fixed[3]), false},      {0x269, MSR_AT(msr.mtrr_fixed[4]), false},
    {0x26a, MSR_AT(msr.mtrr_fixed[5]), false},      {0x26b, MSR_AT(msr.mtrr_fixed[6]), false},
    {0x26c, MSR_AT(msr.mtrr_fixed[7]), false},      {0x26d, MSR_AT(msr.mtrr_fixed[8]), false},
    {0x26e, MSR_AT(msr.mtrr_fixed[9]), false},      {0x26f, MSR_AT(msr.mtrr_fixed[10]), false},
    {0x200, MSR_AT(msr.mtrr_phys[0]), false},       {0x201, MSR_AT(msr.mtrr_phys[1]), false},
    {0x202, MSR_AT(msr.mtrr_phys[2]), false},       {0x203, MSR_AT(msr.mtrr_phys[3]), false},
    {0x204, MSR_AT(msr.mtrr_phys[4]), false},       {0x205, MSR_AT(msr.mtrr_phys[5]), false},
    {0x206, MSR_AT(msr.mtrr_phys[6]), false},       {0x207, MSR_AT(msr.mtrr_phys[7]), false},
    {0x208, MSR_AT(msr.mtrr_phys[8]), false},       {0x209, MSR_AT(msr.mtrr_phys[9]), false},
    {0x20a, MSR_AT(msr.mtrr_phys[10]), false},      {0x20b, MSR_AT(msr.mtrr_phys[11]), false},
    {0x20c, MSR_AT(msr.mtrr_phys[12]), false},      {0x20d, MSR_AT(msr.mtrr_phys[13]), false},
    {0x20e, MSR_AT(msr.mtrr_phys[14]), false},      {0x20f, MSR_AT(msr.mtrr_phys[15]), false},
    {0xc0000081, MSR_AT(msr.star), true},           {0xc0000082, MSR_AT(msr.lstar), true},
    {0xc0000083, MSR_AT(msr.cstar), true},          {0xc0000084, MSR_AT(msr.sfmask), true},
    {0xc0000102, MSR_AT(msr.kernel_gs_base), true}, {0xc0000103, MSR_AT(msr.tsc_aux), false},
};
#define STATE_MSR_COUNT (sizeof state_msrs / sizeof *state_msrs)
#define MSR_TSC 0x10u
_Static_assert(STATE_MSR_COUNT <= (size_t)KVM_STATE_MSRS, "room for every MSR");

struct one_msr {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
};
struct all_msrs {
    struct kvm_msrs head;
    struct kvm_msr_entry entry[STATE_MSR_COUNT];
};

int kvm_state_get_msr(struct kvm_vcpu *v, uint32_t index, uint64_t *value)
{
    struct one_msr m = {.head.nmsrs = 1, .entry.index = index};
    if (ioctl(v->fd, KVM_GET_MSRS, &m) != 1)
        return -1;
    *value = m.entry.data;
    return 0;
}

int kvm_state_set_msr(struct kvm_vcpu *v, uint32_t index, uint64_t value)
{
    struct one_msr m = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};
    return ioctl(v->fd, KVM_SET_MSRS, &m) == 1 ? 0 : -1;
}

static uint64_t *msr_field(struct cpu *cpu, unsigned entry)
{
    return (uint64_t *)((uint8_t *)cpu + state_msrs[entry].at);
}

/* An MSR that can be read and written back is one that this KVM keeps. */
static void find_msrs(struct kvm_vcpu *v)
{
    v->msr_count = 0;
    for (unsigned i = 0; i < STATE_MSR_COUNT; i++) {
        uint64_t value;
        if (state_msrs[i].wide && !v->cpu.wide)
            continue;
        if (kvm_state_get_msr(v, state_msrs[i].index, &value) == 0 &&
            kvm_state_set_msr(v, state_msrs[i].index, value) == 0)
            v->msrs[v->msr_count++] = i;
    }
}

static int load_msrs(struct kvm_vcpu *v)
{
    struct all_msrs m = {.head.nmsrs = v->msr_count};
    for (unsigned i = 0; i < v->msr_count; i++)
        m.entry[i] =
            (struct kvm_msr_entry){.index = state_msrs[v->msrs[i]].index, .data = *msr_field(&v->cpu, v->msrs[i])};
    /* A value that KVM refuses (a model's reset value it does not like) must not keep the others out. */
    for (unsigned done = 0; done < v->msr_count;) {
        struct all_msrs rest = {.head.nmsrs = v->msr_count - done};
        memcpy(rest.entry, m.entry + done, (v->msr_count - done) * sizeof *m.entry);
        int n = ioctl(v->fd, KVM_SET_MSRS, &rest);
        if (n < 0)
            return -1;
        done += (unsigned)n + 1;
    }
    return 0;
}

static int store_msrs(struct kvm_vcpu *v)
{
    struct all_msrs m = {.head.nmsrs = v->msr_count};
    for (unsigned i = 0; i < v->msr_count; i++)
        m.entry[i].index = state_msrs[v->msrs[i]].index;
    int n = ioctl(v->fd, KVM_GET_MSRS, &m);
    if (n < 0)
        return -1;
    for (int i = 0; i < n; i++)
        *msr_field(&v->cpu, v->msrs[i]) = m.entry[i].data;
    return 0;
}

/* ---- time stamp counter ---- */

static struct kvm_device_attr tsc_attribute(uint64_t *offset)
{
    return (struct kvm_device_attr){.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)offset};
}

static int load_tsc(struct kvm_vcpu *v)
{
    if (v->has_tsc_offset) {
        struct kvm_device_attr a = tsc_attribute(&v->cpu.tsc_offset);
        return ioctl(v->fd, KVM_SET_DEVICE_ATTR, &a);
    }
    return kvm_state_set_msr(v, MSR_TSC, cpu_host_tsc() + v->cpu.tsc_offset);
}

/* Without the attribute each way costs the time between the two readings; guest time never goes back by it, since the
 * guest stands still. */
static int store_tsc(struct kvm_vcpu *v)
{
    uint64_t tsc;
    if (v->has_tsc_offset) {
        struct kvm_device_attr a = tsc_attribute(&v->cpu.tsc_offset);
        return ioctl(v->fd, KVM_GET_DEVICE_ATTR, &a);
    }
    if (kvm_state_get_msr(v, MSR_TSC, &tsc))
        return -1;
    v->cpu.tsc_offset = tsc - cpu_host_tsc();
    return 0;
}

/* ---- x87 and vector state ---- */

static int load_fpu(struct kvm_vcpu *v)
{
    struct kvm_xsave x = {0};
    struct kvm_fpu f = {0};
    uint8_t *image = v->cpu.xsave;
    cpu_fpu_unload(&v->cpu);
    if (v->vm->has_xsave) {
        memcpy(x.region, image, XSAVE_USED);
        uint64_t *present = (uint64_t *)((uint8_t *)x.region + XSTATE_BV_AT);
        *present &= XSAVE_COMPONENTS;
        return ioctl(v->fd, KVM_SET_XSAVE, &x);
    }
    /* The layout of FXSAVE, with other borders. */
    memcpy(&f.fcw, image, 2);
    memcpy(&f.fsw, image + 2, 2);
    f.ftwx = image[4];
    memcpy(&f.last_opcode, image + 6, 2);
    memcpy(&f.last_ip, image + 8, 8);
    memcpy(&f.last_dp, image + 16, 8);
    memcpy(&f.mxcsr, image + 24, 4);
    memcpy(f.fpr, image + 32, sizeof f.fpr);
    memcpy(f.xmm, image + 160, sizeof f.xmm);
    return ioctl(v->fd, KVM_SET_FPU, &f);
}

static int store_fpu(struct kvm_vcpu *v)
{
    struct kvm_xsave x;
    struct kvm_fpu f;
    uint8_t *image = v->cpu.xsave;
    if (v->vm->has_xsave) {
        if (ioctl(v->fd, KVM_GET_XSAVE, &x))
            return -1;
        memcpy(image, x.region, XSAVE_USED);
        uint64_t present;
        memcpy(&present, image + XSTATE_BV_AT, 8);
        present &= XSAVE_COMPONENTS;
        memset(image + XSTATE_BV_AT, 0, 64); /* the rest of the header is reserved in the standard format */
        memcpy(image + XSTATE_BV_AT, &present, 8);
        return 0;
    }
    if (ioctl(v->fd, KVM_GET_FPU, &f))
        return -1;
    memcpy(image, &f.fcw, 2);
    memcpy(image + 2, &f.fsw, 2);
    image[4] = f.ftwx;
    memcpy(image + 6, &f.last_opcode, 2);
    memcpy(image + 8, &f.last_ip, 8);
    memcpy(image + 16, &f.last_dp, 8);
    memcpy(image + 24, &f.mxcsr, 4);
    memcpy(image + 32, f.fpr, sizeof f.fpr);
    memcpy(image + 160, f.xmm, sizeof f.xmm);
    image[XSTATE_BV_AT] |= 3;
    return 0;
}

static int load_xcr0(struct kvm_vcpu *v)
{
    struct kvm_xcrs x = {.nr_xcrs = 1, .xcrs[0] = {.xcr = 0, .value = v->cpu.xcr0}};
    return v->vm->has_xcrs && v->cpu.model->xcr0_mask ? ioctl(v->fd, KVM_SET_XCRS, &x) : 0;
}

static int store_xcr0(struct kvm_vcpu *v)
{
    struct kvm_xcrs x;
    if (!v->vm->has_xcrs || !v->cpu.model->xcr0_mask)
        return 0;
    if (ioctl(v->fd, KVM_GET_XCRS, &x))
        return -1;
    for (unsigned i = 0; i < x.nr_xcrs && i < KVM_MAX_XCRS; i++)
        if (x.xcrs[i].xcr == 0)
            v->cpu.xcr0 = x.xcrs[i].value;
    return 0;
}

/* ---- debug registers ---- */

static int load_debug(struct kvm_vcpu *v)
{
    struct kvm_debugregs d = {.dr6 = v->cpu.dr[6], .dr7 = v->cpu.dr[7]};
    for (unsigned i = 0; i < 4; i++)
        d.db[i] = v->cpu.dr[i];
    return v->vm->has_debug_registers ? ioctl(v->fd, KVM_SET_DEBUGREGS, &d) : 0;
}

static int store_debug(struct kvm_vcpu *v)
{
    struct kvm_debugregs d;
    if (!v->vm->has_debug_registers)
        return 0;
    if (ioctl(v->fd, KVM_GET_DEBUGREGS, &d))
        return -1;
    for (unsigned i = 0; i < 4; i++)
        v->cpu.dr[i] = d.db[i];
    v->cpu.dr[6] = d.dr6;
    v->cpu.dr[7] = d.dr7;
    return 0;
}

/* ---- all of it ---- */

struct step {
    const char *name;
    int (*fn)(struct kvm_vcpu *v);
};

static int take_steps(struct kvm_vcpu *v, const struct step *steps, unsigned count, const char **step)
{
    for (unsigned i = 0; i < count; i++) {
        if (steps[i].fn(v)) {
            *step = steps[i].name;
            return errno ? -errno : -EIO;
        }
    }
    return 0;
}

int kvm_state_load(struct kvm_vcpu *v, const char **step)
{
    /* EFER and the control registers come before what depends on them; XCR0 before the vector state. */
    static const struct step steps[] = {{"setting the segment and control registers", load_sregs},
                                        {"setting the general registers", load_regs},
                                        {"setting XCR0", load_xcr0},
                                        {"setting the x87 and vector state", load_fpu},
                                        {"setting MSRs", load_msrs},
                                        {"setting the time stamp counter", load_tsc},
                                        {"setting the debug registers", load_debug},
                                        {"setting pending events", load_events}};
    v->stats.loads++;
    int r = take_steps(v, steps, sizeof steps / sizeof *steps, step);
    if (!r)
        v->loaded = true;
    return r;
}

int kvm_state_store_core(struct kvm_vcpu *v, const char **step)
{
    static const struct step steps[] = {{"reading the general registers", store_regs},
                                        {"reading the segment and control registers", store_sregs}};
    int r = take_steps(v, steps, sizeof steps / sizeof *steps, step);
    if (!r && store_events(v, false)) {
        *step = "reading pending events";
        r = -errno;
    }
    return r;
}

int kvm_state_store_general(struct kvm_vcpu *v, const char **step)
{
    int r = kvm_state_store_core(v, step);
    if (!r && store_events(v, true)) {
        *step = "reading pending events";
        r = -errno;
    }
    return r;
}

int kvm_state_store(struct kvm_vcpu *v, const char **step)
{
    static const struct step steps[] = {{"reading XCR0", store_xcr0},
                                        {"reading the x87 and vector state", store_fpu},
                                        {"reading MSRs", store_msrs},
                                        {"reading the time stamp counter", store_tsc},
                                        {"reading the debug registers", store_debug}};
    v->stats.stores++;
    int r = kvm_state_store_core(v, step);
    if (!r)
        r = take_steps(v, steps, sizeof steps / sizeof *steps, step);
    if (!r && store_events(v, true)) {
        *step = "reading pending events";
        r = -errno;
    }
    return r;
}

/* ---- CPUID ---- */

enum { CPUID_MAX = 256 };
struct cpuid_table {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entry[CPUID_MAX];
};

static void add_leaf(struct cpuid_table *t, const struct kvm_vcpu *v, uint32_t leaf, uint32_t subleaf, uint32_t flags)
{
    uint32_t out[4];
    if (t->head.nent == CPUID_MAX)
        return;
    /* KVM keeps OSXSAVE and the XSAVE size up to date from the guest's CR4 and XCR0. */
    cpu_model_leaf(v->cpu.model, leaf, subleaf, 0, v->cpu.model->xcr0_mask, v->cpu.index, out);
    if (leaf == 0x80000008 && !v->cpu.model->long_mode)
        out[0] = (out[0] & 0xff) | 48u << 8; /* KVM takes no other number of linear address bits than 48 and 57 */
    if (leaf == 1 && !(v->vm->chips.present ? v->vm->chips.deadline : v->vm->has_deadline_exits))
        out[2] &= ~(1u << 24); /* TSC deadline */
    t->entry[t->head.nent++] = (struct kvm_cpuid_entry2){
        .function = leaf, .index = subleaf, .flags = flags, .eax = out[0], .ebx = out[1], .ecx = out[2], .edx = out[3]};
}

static void build_cpuid(const struct kvm_vcpu *v, struct cpuid_table *t)
{
    uint32_t out[4];
    cpu_model_leaf(v->cpu.model, 0, 0, 0, 0, 0, out);
    uint32_t last = out[0];
    for (uint32_t leaf = 0; leaf <= last; leaf++) {
        unsigned subleaves = leaf == 4 ? 5 : leaf == 0xd ? 3 : 1;
        uint32_t flags = leaf == 4 || leaf == 7 || leaf == 0xd ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
        for (uint32_t i = 0; i < subleaves; i++)
            add_leaf(t, v, leaf, i, flags);
    }
    cpu_model_leaf(v->cpu.model, 0x80000000, 0, 0, 0, 0, out);
    for (uint32_t leaf = 0x80000000; leaf <= out[0]; leaf++)
        if (leaf <= 0x80000008 || leaf == 0x80000021) /* nothing between */
            add_leaf(t, v, leaf, 0, 0);
}

/* --cpu-model host: what this KVM offers, less what struct cpu has no place for (AVX-512, protection keys, AMX,
 * five-level paging) and x2APIC, which the board's local APIC has not. TSC deadlines are said to be there by who has
 * the local APIC in the kernel. */
static void trim_host_leaf(const struct kvm_vcpu *v, struct kvm_cpuid_entry2 *e)
{
    switch (e->function) {
    case 1:
        e->ebx = (e->ebx & 0xffffff) | v->cpu.index << 24;
        e->ecx &= ~(1u << 3 | 1u << 21 | 1u << 24); /* MONITOR, x2APIC, TSC deadline */
        if (v->vm->chips.present && v->vm->chips.deadline)
            e->ecx |= 1u << 24;
        if (!v->cpu.model->apic)
            e->edx &= ~(1u << 9);
        break;
    case 7:
        if (e->index == 0) {
            e->ebx &= ~(1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
            e->ecx &= ~(1u << 1 | 1u << 3 | 1u << 4 | 1u << 6 | 1u << 7 | 1u << 11 | 1u << 12 | 1u << 14 | 1u << 16);
            e->edx &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 20 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25);
        } else {
            e->eax = e->ebx = e->ecx = e->edx = 0;
        }
        break;
    case 0xd:
        if (e->index == 0) {
            e->eax &= (uint32_t)XSAVE_COMPONENTS;
            e->edx = 0;
            e->ecx = XSAVE_USED;
        } else if (e->index == 1) {
            e->eax &= 1; /* XSAVEOPT */
            e->ecx = e->edx = 0;
        } else if (e->index > 2) {
            e->eax = e->ebx = e->ecx = e->edx = 0;
        }
        break;
    case 0x80000001:
        if (!v->cpu.model->long_mode)
            e->edx &= ~(1u << 29);
        break;
    }
}

static int host_cpuid(struct kvm_vcpu *v, struct cpuid_table *t)
{
    t->head.nent = CPUID_MAX;
    if (ioctl(v->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, t))
        return -errno;
    for (unsigned i = 0; i < t->head.nent; i++)
        trim_host_leaf(v, &t->entry[i]);
    return 0;
}

int kvm_state_init(struct kvm_vcpu *v, bool host_cpu, char *err, size_t err_len)
{
    struct cpuid_table t = {0};
    int r = 0, khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
    if (khz > 0)
        cpu_tsc_told((uint32_t)khz);
    if (host_cpu)
        r = host_cpuid(v, &t);
    else
        build_cpuid(v, &t);
    if (r) {
        snprintf(err, err_len, "kvm: the host's CPU features: %s", strerror(-r));
        return r;
    }
    if (ioctl(v->fd, KVM_SET_CPUID2, &t)) {
        int error = errno;
        snprintf(err, err_len, "kvm: the CPU model is refused: %s", strerror(error));
        return -error;
    }
    struct kvm_device_attr a = tsc_attribute(NULL);
    v->has_tsc_offset = ioctl(v->fd, KVM_HAS_DEVICE_ATTR, &a) == 0;
    find_msrs(v);
    return 0;
}
