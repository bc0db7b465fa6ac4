/* SPDX-License-Identifier: MIT */
#include "frontend/doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
    GUEST_SIZE = 0x10000,
    CODE_ADDR = 0x1000,
    PAGE_DIRECTORY_ADDR = 0x2000,
    LOOPS = 200000,
    TIME_LIMIT_S = 3,
    SOFTWARE_NS = 20 /* for one pass of a two-instruction loop; a CPU needs about one */
};

struct probe {
    int kvm, vm, vcpu;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *memory;
    struct kvm_report *report;
};

static bool fail(struct probe *p, const char *step)
{
    p->report->failed = true;
    snprintf(p->report->text, sizeof p->report->text, "%s: %s", step, strerror(errno));
    return false;
}

static bool create(struct probe *p)
{
    p->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (p->kvm < 0)
        return fail(p, "open");
    int version = ioctl(p->kvm, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        errno = EPROTO;
        return fail(p, "API version");
    }
    p->vm = ioctl(p->kvm, KVM_CREATE_VM, 0);
    if (p->vm < 0)
        return fail(p, "creating a VM");
    p->memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p->memory == MAP_FAILED)
        return fail(p, "memory");
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_SIZE, .userspace_addr = (uintptr_t)p->memory};
    if (ioctl(p->vm, KVM_SET_USER_MEMORY_REGION, &region))
        return fail(p, "giving it memory");
    p->vcpu = ioctl(p->vm, KVM_CREATE_VCPU, 0);
    if (p->vcpu < 0)
        return fail(p, "creating a vCPU");
    int size = ioctl(p->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    p->run_size = size > 0 ? (size_t)size : 4096;
    p->run = mmap(NULL, p->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, p->vcpu, 0);
    return p->run != MAP_FAILED || fail(p, "mapping the vCPU");
}

static bool start_at(struct probe *p, struct kvm_sregs *sregs, uint64_t flags)
{
    struct kvm_regs regs = {.rip = CODE_ADDR, .rflags = 2 | flags};
    if (ioctl(p->vcpu, KVM_SET_SREGS, sregs) || ioctl(p->vcpu, KVM_SET_REGS, &regs))
        return fail(p, "setting registers");
    return true;
}

/* Runs until HLT. */
static bool run(struct probe *p, const char *what)
{
    struct itimerval limit = {.it_value.tv_sec = TIME_LIMIT_S}, off = {0};
    setitimer(ITIMER_REAL, &limit, NULL);
    int code = ioctl(p->vcpu, KVM_RUN, 0), error = errno;
    setitimer(ITIMER_REAL, &off, NULL);
    errno = error == EINTR ? ETIMEDOUT : error;
    if (code)
        return fail(p, what);
    if (p->run->exit_reason == KVM_EXIT_HLT)
        return true;
    p->report->failed = true;
    snprintf(p->report->text, sizeof p->report->text, "%s: ended with exit reason %u instead of HLT", what,
             p->run->exit_reason);
    return false;
}

/* Real mode: a counted loop, then HLT. */
static bool run_real_mode(struct probe *p, double *ns_per_pass)
{
    static const uint8_t code[] = {0x66, 0xb9, LOOPS & 0xff, LOOPS >> 8 & 0xff, LOOPS >> 16 & 0xff,
                                   0,          /* mov ecx, LOOPS */
                                   0x66, 0x49, /* dec ecx */
                                   0x75, 0xfc, /* jnz */
                                   0xf4};      /* hlt */
    struct kvm_sregs sregs;
    struct timespec a, b;
    memcpy(p->memory + CODE_ADDR, code, sizeof code);
    if (ioctl(p->vcpu, KVM_GET_SREGS, &sregs))
        return fail(p, "reading registers");
    sregs.cs.base = sregs.cs.selector = 0;
    if (!start_at(p, &sregs, 0))
        return false;
    clock_gettime(CLOCK_MONOTONIC, &a);
    bool ok = run(p, "a loop in real mode");
    clock_gettime(CLOCK_MONOTONIC, &b);
    *ns_per_pass = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / LOOPS;
    return ok;
}

/* 32-bit protected mode with one 4 MiB page, one to one: store, load, compare, HLT. */
static bool run_paging(struct probe *p)
{
    static const uint8_t code[] = {0xc7, 0x05, 0x00, 0x30, 0, 0, 0x67, 0x45, 0x23, 0x01, /* mov [0x3000], 0x01234567 */
                                   0xa1, 0x00, 0x30, 0,    0,                            /* mov eax, [0x3000] */
                                   0xf4};
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    const uint32_t entry = 0x83;
    memcpy(p->memory + CODE_ADDR, code, sizeof code);
    memcpy(p->memory + PAGE_DIRECTORY_ADDR, &entry, sizeof entry);
    if (ioctl(p->vcpu, KVM_GET_SREGS, &sregs))
        return fail(p, "reading registers");
    sregs.cs =
        (struct kvm_segment){.limit = 0xffffffff, .selector = 8, .type = 0xb, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.ds =
        (struct kvm_segment){.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
    sregs.cr3 = PAGE_DIRECTORY_ADDR;
    sregs.cr4 |= 0x10;
    sregs.cr0 |= 0x80000001u;
    if (!start_at(p, &sregs, 0) || !run(p, "32-bit mode with paging"))
        return false;
    errno = EIO;
    if (ioctl(p->vcpu, KVM_GET_REGS, &regs) || regs.rax != 0x01234567)
        return fail(p, "32-bit mode with paging gave a wrong result");
    return true;
}

static void on_alarm(int signal)
{
    (void)signal; /* only makes KVM_RUN return */
}

void doctor_probe_kvm(struct kvm_report *report)
{
    struct probe p = {.kvm = -1, .vm = -1, .vcpu = -1, .run = MAP_FAILED, .memory = MAP_FAILED, .report = report};
    struct sigaction act = {.sa_handler = on_alarm}, old;
    double ns = 0;
    *report = (struct kvm_report){0};
    sigaction(SIGALRM, &act, &old);
    if (create(&p) && run_real_mode(&p, &ns)) {
        report->software = ns > SOFTWARE_NS;
        report->paging = run_paging(&p);
        char paging[160] = "also in 32-bit mode with paging";
        if (report->failed)
            snprintf(paging, sizeof paging, "but: %.140s", report->text);
        report->failed = false;
        snprintf(report->text, sizeof report->text, "runs, %s; %.1f ns for a loop of two instructions%s", paging, ns,
                 report->software ? ": an emulator, not hardware" : "");
    }
    sigaction(SIGALRM, &old, NULL);
    if (p.run != MAP_FAILED)
        munmap(p.run, p.run_size);
    if (p.memory != MAP_FAILED)
        munmap(p.memory, GUEST_SIZE);
    if (p.vcpu >= 0)
        close(p.vcpu);
    if (p.vm >= 0)
        close(p.vm);
    if (p.kvm >= 0)
        close(p.kvm);
}
