/* SPDX-License-Identifier: MIT */
/* Between the files of hw-assist/. */
#ifndef RINGFOLD_HW_ASSIST_KVM_INTERNAL_H
#define RINGFOLD_HW_ASSIST_KVM_INTERNAL_H

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

struct kvm_vm {
    unsigned references;
    struct kvm_vm *next;
    struct memory *mem;
    int kvm_fd, fd;
    struct kvm_memory memory;
    bool has_xsave, has_xcrs, has_debug_registers, has_events, has_msr_exits;
    bool has_sync_regs;      /* general and segment registers and events, in kvm_run */
    bool has_deadline_exits; /* IA32_TSC_DEADLINE comes to the board's local APIC */
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
