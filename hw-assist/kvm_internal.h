/* SPDX-License-Identifier: MIT */
/* Between the files of hw-assist/. */
#ifndef RINGFOLD_HW_ASSIST_KVM_INTERNAL_H
#define RINGFOLD_HW_ASSIST_KVM_INTERNAL_H

#include "cpu/chips.h"
#include "cpu/engine.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <time.h>

/* ---- kvm_memory.c ---- */

struct kvm_vcpu;

struct kvm_slot {
    uint64_t gfn, count; /* count 0: the slot's number is free */
    uint8_t *hva;
    uint32_t flags; /* KVM_MEM_* */
    bool keep;      /* while slots are made again */
};

/* The pmap as memory slots of one VM. */
struct kvm_memory {
    struct memory *mem;
    int vm_fd;
    bool read_only_slots; /* KVM_CAP_READONLY_MEM */
    unsigned slot_max;
    unsigned ring_page;   /* of kvm_run; 0: none of the ring's writes are asked for */
    bool a20_off;         /* as the slots are now */
    pthread_mutex_t lock; /* everything below; taken inside the machine lock, never around it */
    struct kvm_slot *slots;
    unsigned slot_count; /* numbers in use, with holes */
    unsigned slot_room;
    uint64_t stale_first, stale_last; /* frames whose slots must be made again; first > last: none */
    _Atomic bool stale;
    struct memory_listener listener;
    /* KVM_CAP_COALESCED_MMIO: writes to posted device memory wait here. Emptied by the vCPU's thread. NULL: none. */
    struct kvm_coalesced_mmio_ring *ring;
    struct kvm_vcpu *vcpus; /* get CPU_EVENT_FLUSH after a change */
    uint64_t slot_changes;  /* statistics */
};

/* Follows mem from now on. Slots are made by the first kvm_memory_apply. 0 or -errno. */
int kvm_memory_init(struct kvm_memory *m, struct memory *mem, int vm_fd, bool read_only_slots, unsigned slot_max);
/* Asks KVM to hold writes to posted device memory back. ring_page: what KVM_CAP_COALESCED_MMIO says, 0: it cannot. */
void kvm_memory_post(struct kvm_memory *m, unsigned ring_page);
void kvm_memory_notify(struct kvm_memory *m, struct kvm_vcpu *v);
void kvm_memory_forget(struct kvm_memory *m, struct kvm_vcpu *v);
void kvm_memory_destroy(struct kvm_memory *m);
/* In a vCPU's thread, before it runs guest code: brings the slots up to date. 0 or -errno. */
int kvm_memory_apply(struct kvm_memory *m, uint64_t a20_mask);

/* ---- kvm.c ---- */

#define KVM_KICK_SIGNAL (SIGRTMIN + 1) /* only makes KVM_RUN return */

/* The kernel's interrupt controllers and PIT: kvm_chips.c. The vCPU's thread. */
struct kvm_chips {
    bool present;                           /* the VM was made with them */
    bool pit;                               /* the PIT as well */
    bool deadline;                          /* the local APIC has TSC deadlines */
    bool held;                              /* they do the board's work now */
    struct chips_pit given;                 /* at loaded_at, in ns of CLOCK_MONOTONIC */
    struct kvm_pit_channel_state loaded[3]; /* given, as KVM got it */
    uint64_t loaded_at, bridge_end;         /* 0: no bridge */
    uint64_t bridges;                       /* statistics */
    _Atomic uint64_t line_changes;
};

struct kvm_vm {
    unsigned references;
    struct kvm_vm *next;
    struct memory *mem;
    int kvm_fd, fd;
    struct kvm_memory memory;
    bool has_xsave, has_xcrs, has_debug_registers, has_events, has_msr_exits;
    bool has_sync_regs;      /* general and segment registers and events, in kvm_run */
    bool has_deadline_exits; /* IA32_TSC_DEADLINE comes to the board's local APIC */
    struct kvm_chips chips;
};

enum { KVM_STATE_MSRS = 48 };

struct kvm_vcpu {
    struct cpu cpu; /* first */
    struct kvm_vm *vm;
    int fd;
    struct kvm_run *run;
    size_t run_size;
    int thread_id;         /* of the thread inside run, 0: none yet */
    _Atomic bool in_guest; /* KVM_RUN is near: a kick needs the signal */
    bool loaded;           /* KVM holds the newest state; else struct cpu does */
    bool unfinished;       /* an exit's result waits for the next KVM_RUN */
    bool queued_interrupt; /* handed to KVM since its last exit */
    /* Interrupt windows of a KVM that misses short ones: kvm.c */
    bool windows_known, inexact_windows, stepping, has_slice_timer, slice_running, slice_over;
    unsigned steps_left;
    timer_t slice_timer;
    bool has_tsc_offset;
    uint32_t msrs[KVM_STATE_MSRS]; /* the ones of struct cpu that this KVM knows */
    unsigned msr_count;
    /* engine_options.step: kvm_step.c */
    bool step;
    bool synced; /* kvm_run holds the general state, by KVM_CAP_SYNC_REGS: each ioctl of a vCPU has its price */
    bool has_stop;
    unsigned light_steps;       /* since the whole state was read */
    uint64_t stop_at, stop_set; /* linear; as KVM has it, ~0: no breakpoint */
    char unable[128];
    struct kvm_vcpu *next; /* in kvm_memory.vcpus */
    struct {
        uint64_t runs, io, string_io, mmio, posted, halts, windows, interrupts, nmis, kicks, msr_exits, loads, stores,
            steps;
    } stats;
};

static inline struct kvm_vcpu *kvm_vcpu_of(struct cpu *cpu)
{
    return (struct kvm_vcpu *)cpu;
}

/* ---- kvm_state.c ---- */

/* At creation: which MSRs and attributes there are, and CPUID. 0 or -errno with a reason. */
int kvm_state_init(struct kvm_vcpu *v, bool host_cpu, char *err, size_t err_len);
/* struct cpu -> KVM, and back. 0, or -errno with the failing step in *step. */
int kvm_state_load(struct kvm_vcpu *v, const char **step);
int kvm_state_store(struct kvm_vcpu *v, const char **step);
/* Only what a sleeping HLT needs: general registers, segments, control registers, interrupt shadow. */
int kvm_state_store_core(struct kvm_vcpu *v, const char **step);
/* As kvm_state_store, but for x87 and vector state, XCR0, MSRs, the time stamp counter and the debug registers. */
int kvm_state_store_general(struct kvm_vcpu *v, const char **step);

/* 0 or -1 with errno. */
int kvm_state_get_msr(struct kvm_vcpu *v, uint32_t index, uint64_t *value);
int kvm_state_set_msr(struct kvm_vcpu *v, uint32_t index, uint64_t value);

/* ---- kvm_chips.c ---- */

enum { KVM_IOAPIC_GSI = 16 }; /* of pin 0; 0-15 are the 8259s' pins */

/* Before the first vCPU. 0 or -errno with one line in err: the VM is spoilt then. */
int kvm_chips_create(struct kvm_vm *vm, char *err, size_t err_len);
/* In the vCPU's thread, the processor's state being in KVM: they take over the board's work. 0 or -errno. */
int kvm_chips_enter(struct kvm_vcpu *v, const char **step);
/* The processor's state being in the struct: the board does its work again, whatever is returned. Nothing if it does.
 */
int kvm_chips_leave(struct kvm_vcpu *v, const char **step);
/* Before each KVM_RUN while they do it. 0 or -errno. */
int kvm_chips_before_run(struct kvm_vcpu *v);
/* While they do it: an interrupt waits for the guest to let it in (or, seldom, for one of higher priority to end). */
bool kvm_chips_request(struct kvm_vcpu *v);
/* Between single steps, for a KVM that misses the moment in which the guest lets interrupts in. True: now, and KVM has
 * been made to see it. */
bool kvm_chips_window(struct kvm_vcpu *v);
/* State, one way and the other. from: chips' structs hold what was handed over before. first: counter 0. loaded: the
 * counter as KVM_GET_PIT2 showed it after loading, ticks ago; ticks_written: since a count was written, if one was. */
void kvm_chips_pic_to_kvm(const struct chips_pic *c, bool slave, struct kvm_pic_state *k);
void kvm_chips_pic_from_kvm(struct chips_pic *c, const struct kvm_pic_state *k);
void kvm_chips_ioapic_to_kvm(const struct chips_ioapic *c, struct kvm_ioapic_state *k);
void kvm_chips_ioapic_from_kvm(struct chips_ioapic *c, const struct kvm_ioapic_state *k);
void kvm_chips_lapic_to_kvm(const struct chips_lapic *c, struct kvm_lapic_state *k);
void kvm_chips_lapic_from_kvm(struct chips_lapic *c, const struct kvm_lapic_state *k);
void kvm_chips_counter_to_kvm(const struct chips_counter *c, bool first, struct kvm_pit_channel_state *k);
void kvm_chips_counter_from_kvm(struct chips_counter *c, const struct kvm_pit_channel_state *k,
                                const struct kvm_pit_channel_state *loaded, uint64_t ticks, uint64_t ticks_written);

/* ---- kvm.c: timers ---- */

/* The vCPU's thread is made to leave KVM_RUN in so many ns, and every millisecond from then on; 0: no more. 0 or -1. */
int kvm_set_wake(struct kvm_vcpu *v, uint64_t ns);

/* ---- kvm_exit.c ---- */

/* As linux/kvm.h's KVM_COALESCED_MMIO_MAX, which needs the kernel's own PAGE_SIZE. */
#define KVM_RING_ENTRIES ((4096 - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

void kvm_exit_io(struct kvm_vcpu *v);
void kvm_exit_mmio(struct kvm_vcpu *v);
/* Writes that KVM held back; before anything else of an exit is looked at. */
void kvm_exit_posted(struct kvm_vcpu *v);
void kvm_exit_msr(struct kvm_vcpu *v, bool write);
/* One line about an exit that the engine cannot go on after. */
void kvm_exit_describe(struct kvm_vcpu *v, char *buf, size_t len);
/* A shutdown that this host's KVM makes because it cannot do the guest's paging mode, not the guest by itself. */
bool kvm_exit_is_missing_mode(struct kvm_vcpu *v);
/* Bytes at CS:RIP as the struct has it. How many could be read. */
unsigned kvm_code_at_rip(struct cpu *cpu, uint8_t *code, unsigned max);

/* ---- kvm_step.c ---- */

/* One instruction, or the delivery of one interrupt. */
enum engine_exit kvm_step(struct kvm_vcpu *v);

#endif
