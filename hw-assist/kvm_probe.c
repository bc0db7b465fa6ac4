/* SPDX-License-Identifier: MIT */
/* One VM; for each mode a vCPU with its registers set for the mode and a few bytes of code that store a number, load it
 * and write it to port 80h. A vCPU that did as it should is used for the next mode as well: they cost most of the time.
 * Only what is asked for is tried, and only once. A timer that signals this thread bounds each: should the signal come
 * just before KVM_RUN, the handler's immediate_exit makes that return. */
#include "hw-assist/kvm_probe.h"

#include "hw-assist/kvm.h"
#include "hw-assist/kvm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifdef __clang__ /* the kernel's structs end in arrays without a length, and are followed by their entries here */
#pragma clang diagnostic ignored "-Wgnu-variable-sized-type-not-at-end"
#endif

#define LIMIT_SIGNAL (SIGRTMIN + 2)
enum {
    GUEST_SIZE = 0x20000,
    CODE_AT = 0x1000,
    DATA_AT = 0x2000,
    GDT_AT = 0x3000,
    STACK_AT = 0x5000,
    TABLES_AT = 0x8000, /* up to four pages */
    RESULT_PORT = 0x80,
    RESULT = 0x5a,
    LIMIT_MS = 60,
    LOOPS = 200,
    SOFTWARE_NS = 20 /* for an instruction of a loop; a processor needs less than one */
};
enum { CODE0 = 0x08, DATA0 = 0x10, CODE3 = 0x1b, DATA3 = 0x23 };

/* The processor's bits, by the manual's names (SDM vol. 3, 2.5, 4.1). */
#define PROBE_PE 1u
#define PROBE_ET 0x10u
#define PROBE_PG 0x80000000u
enum { PROBE_PSE = 0x10, PROBE_PAE = 0x20, PROBE_LME = 0x100, PROBE_LMA = 0x400 };
enum { ENTRY_TABLE = 7, ENTRY_LARGE = 0x87 }; /* present, writable, user */

struct guest {
    int kvm, vm, vcpu;
    unsigned vcpu_count;
    struct kvm_run *run;
    size_t run_size;
    uint8_t *memory;
    struct kvm_sregs start; /* a new vCPU's registers */
    timer_t limit;
    sigset_t old_mask;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct kvm_probe result;
/* What of it was tried already; under the lock. */
static struct {
    bool guest, mode[KVM_MODE_COUNT], windows, speed, steps, chips;
} tried;
/* For the signal handler, which runs in the probing thread only. */
static _Thread_local struct kvm_run *volatile limited;

const char *kvm_mode_name(enum kvm_mode mode)
{
    static const char *const names[] = {
        [KVM_MODE_REAL] = "real mode",         [KVM_MODE_FLAT32] = "32-bit protected mode",
        [KVM_MODE_PAGING32] = "32-bit paging", [KVM_MODE_PAE] = "PAE paging",
        [KVM_MODE_LONG] = "64-bit mode",       [KVM_MODE_RING3] = "64-bit mode, ring 3"};
    return names[mode];
}

/* ---- the device node ---- */

enum kvm_node kvm_probe_node(char *text, size_t len)
{
    struct stat st;
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        close(fd);
        snprintf(text, len, "/dev/kvm is there");
        return KVM_NODE_PRESENT;
    }
    int error = errno;
    if (error == ENOENT) {
        snprintf(text, len, "no /dev/kvm");
        return KVM_NODE_MISSING;
    }
    if ((error == EACCES || error == EPERM) && stat("/dev/kvm", &st) == 0) {
        char buf[1024];
        struct group entry, *g = NULL;
        getgrgid_r(st.st_gid, &entry, buf, sizeof buf, &g);
        if ((st.st_mode & 060) == 060 && st.st_gid != 0)
            snprintf(text, len, "no permission for /dev/kvm, become a member of group %s", g ? g->gr_name : "kvm");
        else
            snprintf(text, len, "no permission for /dev/kvm");
        return KVM_NODE_FORBIDDEN;
    }
    snprintf(text, len, "/dev/kvm: %s", strerror(error));
    return KVM_NODE_BROKEN;
}

/* ---- the time limit ---- */

static void on_limit(int signal)
{
    struct kvm_run *run = limited;
    if (run)
        run->immediate_exit = 1;
}

static int limit_create(timer_t *timer)
{
    struct sigaction act = {.sa_handler = on_limit, .sa_flags = SA_ONSTACK};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = LIMIT_SIGNAL};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    sigaction(LIMIT_SIGNAL, &act, NULL);
    return timer_create(CLOCK_MONOTONIC, &event, timer);
}

static void limit_set(timer_t timer, unsigned milliseconds)
{
    struct itimerspec t = {.it_value.tv_nsec = milliseconds * 1000000l, .it_interval.tv_nsec = milliseconds * 1000000l};
    timer_settime(timer, 0, &t, NULL);
}

/* ---- the guest ---- */

static bool cannot(const char *what)
{
    snprintf(result.reason, sizeof result.reason, "%s: %s", what, strerror(errno));
    return false;
}

static bool guest_create(struct guest *g)
{
    g->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (g->kvm < 0)
        return cannot("opening it");
    if (kvm_lacks(g->kvm, result.reason, sizeof result.reason))
        return false;
    g->vm = ioctl(g->kvm, KVM_CREATE_VM, 0);
    if (g->vm < 0)
        return cannot("creating a VM");
    ioctl(g->vm, KVM_SET_TSS_ADDR, 0xfeffd000); /* needed by older Intel processors, an error elsewhere is none */
    g->memory = mmap(NULL, GUEST_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (g->memory == MAP_FAILED)
        return cannot("memory");
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_SIZE, .userspace_addr = (uintptr_t)g->memory};
    if (ioctl(g->vm, KVM_SET_USER_MEMORY_REGION, &region))
        return cannot("giving it memory");
    int size = ioctl(g->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    g->run_size = size > 0 ? (size_t)size : 4096;
    return true;
}

/* The next run sets all registers: an access that the last one ended with must not be completed after that. */
static void finish_access(struct guest *g)
{
    g->run->immediate_exit = 1;
    ioctl(g->vcpu, KVM_RUN, 0);
    g->run->immediate_exit = 0;
}

static void vcpu_close(struct guest *g)
{
    limited = NULL;
    if (g->run != MAP_FAILED)
        munmap(g->run, g->run_size);
    if (g->vcpu >= 0)
        close(g->vcpu);
    g->run = MAP_FAILED;
    g->vcpu = -1;
}

static void guest_destroy(struct guest *g)
{
    vcpu_close(g);
    if (g->memory != MAP_FAILED)
        munmap(g->memory, GUEST_SIZE);
    if (g->vm >= 0)
        close(g->vm);
    if (g->kvm >= 0)
        close(g->kvm);
}

/* A vCPU that knows every feature this KVM has (long mode must be in CPUID). */
static bool vcpu_open(struct guest *g)
{
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entry[256];
    } table;
    if (g->vcpu >= 0)
        return true; /* the last one is as good as new */
    g->vcpu = ioctl(g->vm, KVM_CREATE_VCPU, (unsigned long)g->vcpu_count++);
    if (g->vcpu < 0)
        return false;
    g->run = mmap(NULL, g->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, g->vcpu, 0);
    if (g->run == MAP_FAILED)
        return false;
    if (!table.head.nent) {
        table.head.nent = sizeof table.entry / sizeof *table.entry;
        if (ioctl(g->kvm, KVM_GET_SUPPORTED_CPUID, &table))
            table.head.nent = 0;
    }
    if (table.head.nent && ioctl(g->vcpu, KVM_SET_CPUID2, &table))
        return false;
    limited = g->run;
    return ioctl(g->vcpu, KVM_GET_SREGS, &g->start) == 0;
}

/* ---- what each mode starts with ---- */

static void put64(struct guest *g, uint32_t at, uint64_t value)
{
    memcpy(g->memory + at, &value, sizeof value);
}

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool wide)
{
    return (struct kvm_segment){.limit = 0xffffffff,
                                .selector = selector,
                                .type = type,
                                .present = 1,
                                .dpl = selector & 3,
                                .db = !wide,
                                .l = wide,
                                .s = 1,
                                .g = 1};
}

static void set_flat(struct kvm_sregs *s, bool wide)
{
    s->cs = flat(CODE0, 0xb, wide);
    s->ds = s->es = s->fs = s->gs = s->ss = flat(DATA0, 3, false);
    s->cr0 = PROBE_PE | PROBE_ET;
}

/* The first 2 or 4 MiB one to one. */
static void set_paging(struct guest *g, enum kvm_mode mode, struct kvm_sregs *s)
{
    memset(g->memory + TABLES_AT, 0, 0x4000);
    s->cr0 |= PROBE_PG;
    s->cr3 = TABLES_AT;
    switch (mode) {
    case KVM_MODE_PAGING32:
        s->cr4 = PROBE_PSE;
        put64(g, TABLES_AT, ENTRY_LARGE);
        break;
    case KVM_MODE_PAE:
        s->cr4 = PROBE_PAE;
        put64(g, TABLES_AT, (TABLES_AT + 0x1000) | 1);
        put64(g, TABLES_AT + 0x1000, ENTRY_LARGE);
        break;
    default:
        s->cr4 = PROBE_PAE;
        s->efer = PROBE_LME | PROBE_LMA;
        put64(g, TABLES_AT, (TABLES_AT + 0x1000) | ENTRY_TABLE);
        put64(g, TABLES_AT + 0x1000, (TABLES_AT + 0x2000) | ENTRY_TABLE);
        put64(g, TABLES_AT + 0x2000, ENTRY_LARGE);
        break;
    }
}

static void set_gdt(struct guest *g, struct kvm_sregs *s)
{
    put64(g, GDT_AT + CODE0, 0x00af9b000000ffff);
    put64(g, GDT_AT + DATA0, 0x00cf93000000ffff);
    put64(g, GDT_AT + (CODE3 & ~7), 0x00affb000000ffff);
    put64(g, GDT_AT + (DATA3 & ~7), 0x00cff3000000ffff);
    s->gdt.base = GDT_AT;
    s->gdt.limit = 0x27;
}

/* dec ecx; jnz, as often as ecx says; then store RESULT at DATA_AT, load it, write it to the port, stop. */
static const uint8_t code16[] = {0x66,   0x49, 0x75, 0xfc, 0xc6, 0x06,        0x00, 0x20,
                                 RESULT, 0xa0, 0x00, 0x20, 0xe6, RESULT_PORT, 0xf4};
static const uint8_t code32[] = {0x49,   0x75, 0xfd, 0xc6, 0x05, 0x00, 0x20, 0,           0,
                                 RESULT, 0xa0, 0x00, 0x20, 0,    0,    0xe6, RESULT_PORT, 0xf4};
static const uint8_t code64[] = {0xff,   0xc9, 0x75, 0xfc, 0xc6, 0x04, 0x25, 0x00, 0x20, 0,           0,
                                 RESULT, 0x8a, 0x04, 0x25, 0x00, 0x20, 0,    0,    0xe6, RESULT_PORT, 0xf4};
/* push ss, rsp, rflags with IOPL 3, cs, rip; iretq. The rest of the code follows, in ring 3. */
static const uint8_t to_ring3[] = {0x6a, DATA3, 0x68,  0x00, 0x50, 0,    0, 0x68, 0x02, 0x30, 0,
                                   0,    0x6a,  CODE3, 0x68, 0x15, 0x10, 0, 0,    0x48, 0xcf};
_Static_assert(sizeof to_ring3 == 0x15, "the pushed rip leads behind it");

static bool set_up(struct guest *g, enum kvm_mode mode, uint64_t loops)
{
    struct kvm_sregs s = g->start;
    struct kvm_regs regs = {.rip = CODE_AT, .rsp = STACK_AT, .rcx = loops, .rflags = 2};
    uint8_t *at = g->memory + CODE_AT;
    memset(g->memory + DATA_AT, 0, 16);
    switch (mode) {
    case KVM_MODE_REAL:
        s.cs.base = s.cs.selector = 0;
        memcpy(at, code16, sizeof code16);
        break;
    case KVM_MODE_FLAT32:
    case KVM_MODE_PAGING32:
    case KVM_MODE_PAE:
        set_flat(&s, false);
        memcpy(at, code32, sizeof code32);
        break;
    default:
        set_flat(&s, true);
        if (mode == KVM_MODE_RING3) {
            memcpy(at, to_ring3, sizeof to_ring3);
            at += sizeof to_ring3;
        }
        memcpy(at, code64, sizeof code64);
        break;
    }
    if (mode >= KVM_MODE_PAGING32)
        set_paging(g, mode, &s);
    set_gdt(g, &s);
    return !ioctl(g->vcpu, KVM_SET_SREGS, &s) && !ioctl(g->vcpu, KVM_SET_REGS, &regs);
}

/* ---- running ---- */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* Empty when the guest did what it should. */
static void judge(struct guest *g, enum kvm_mode mode, int code, int error, char *why, size_t len)
{
    const struct kvm_run *run = g->run;
    struct kvm_sregs s;
    *why = 0;
    if (code && (error == EINTR || error == EAGAIN))
        snprintf(why, len, "no end within %d ms", LIMIT_MS);
    else if (code)
        snprintf(why, len, "%s", strerror(error));
    else if (run->exit_reason == KVM_EXIT_SHUTDOWN)
        snprintf(why, len, "ends in shutdown");
    else if (run->exit_reason == KVM_EXIT_INTERNAL_ERROR)
        snprintf(why, len, "ends in KVM's internal error %u", run->internal.suberror);
    else if (run->exit_reason != KVM_EXIT_IO)
        snprintf(why, len, "ends with exit reason %u", run->exit_reason);
    else if (run->io.port != RESULT_PORT || *((const uint8_t *)run + run->io.data_offset) != RESULT)
        snprintf(why, len, "gives a wrong result");
    else if (mode == KVM_MODE_RING3 && (ioctl(g->vcpu, KVM_GET_SREGS, &s) || (s.cs.selector & 3) != 3))
        snprintf(why, len, "does not get there");
}

static bool try_mode(struct guest *g, enum kvm_mode mode, uint64_t loops, double *ns)
{
    char *why = result.why[mode];
    if (!vcpu_open(g) || !set_up(g, mode, loops)) {
        snprintf(why, KVM_PROBE_TEXT, "registers refused: %s", strerror(errno));
        vcpu_close(g);
        return false;
    }
    limit_set(g->limit, LIMIT_MS);
    double start = now_ns();
    int code = ioctl(g->vcpu, KVM_RUN, 0), error = errno;
    *ns = now_ns() - start;
    limit_set(g->limit, 0);
    judge(g, mode, code, error, why, KVM_PROBE_TEXT);
    if (*why)
        vcpu_close(g);
    else
        finish_access(g);
    return !*why;
}

/* One instruction of a loop, 0: cannot be told. A long and a short run are compared, so that the way in and out does
 * not count; a slow result that a busy host may have made is tried once more. */
static double measure(struct guest *g, enum kvm_mode mode)
{
    double one, many, best = 0;
    for (int i = 0; i < 2; i++) {
        if (!result.works[mode] || !try_mode(g, mode, 1, &one) || !try_mode(g, mode, LOOPS, &many))
            return best;
        double ns = (many - one) / (2.0 * LOOPS);
        ns = ns > 0.01 ? ns : 0.01;
        best = best > 0 && best < ns ? best : ns;
        if (best <= SOFTWARE_NS || best > 20 * SOFTWARE_NS)
            break;
    }
    return best;
}

/* Interrupts are let in for two instructions of each pass: does KVM stop in the first? */
static bool try_window(struct guest *g)
{
    static const uint8_t code[] = {0xfb, 0x90, 0x90, 0xfa, 0x66, 0x49, 0x75, 0xf8, 0xf4};
    struct kvm_regs regs;
    if (!vcpu_open(g) || !set_up(g, KVM_MODE_REAL, 64))
        return false;
    memcpy(g->memory + CODE_AT, code, sizeof code);
    g->run->request_interrupt_window = 1;
    limit_set(g->limit, LIMIT_MS);
    int r = ioctl(g->vcpu, KVM_RUN, 0);
    limit_set(g->limit, 0);
    bool exact =
        !r && g->run->exit_reason == KVM_EXIT_IRQ_WINDOW_OPEN && !ioctl(g->vcpu, KVM_GET_REGS, &regs) && regs.rcx == 64;
    vcpu_close(g);
    return exact;
}

/* Steps through the mode's code until it is in the mode, and one further: does each stop behind an instruction? */
static bool try_steps(struct guest *g, enum kvm_mode mode)
{
    enum { MOST = 12 }; /* the way into ring 3 is the longest */
    struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    bool stepped = false;
    if (!vcpu_open(g) || !set_up(g, mode, LOOPS) || ioctl(g->vcpu, KVM_SET_GUEST_DEBUG, &debug)) {
        vcpu_close(g);
        return false;
    }
    limit_set(g->limit, LIMIT_MS);
    for (unsigned i = 0; i < MOST && !stepped; i++) {
        bool there = !ioctl(g->vcpu, KVM_GET_SREGS, &sregs) && (mode != KVM_MODE_RING3 || (sregs.cs.selector & 3) == 3);
        if (ioctl(g->vcpu, KVM_RUN, 0) || g->run->exit_reason != KVM_EXIT_DEBUG || ioctl(g->vcpu, KVM_GET_REGS, &regs))
            break;
        stepped = there && regs.rcx == LOOPS - 1; /* its first instruction counts down */
    }
    limit_set(g->limit, 0);
    vcpu_close(g);
    return stepped;
}

/* ---- interrupt controllers and PIT in the kernel; in a VM of their own, since they come before the first vCPU ---- */

enum { PIC_VECTOR = 0x20, APIC_VECTOR = 0x41, APIC_PIN = 19, SVR_AT = 0xf0, ISR_AT = 0x100, LVT_LINT0_AT = 0x350 };

static void put_lapic(struct kvm_lapic_state *k, unsigned at, uint32_t value)
{
    memcpy(k->regs + at, &value, 4);
}

/* Real mode, asleep, with interrupts on; any of the two that comes ends in a write of RESULT. */
static bool set_up_sleeper(struct guest *g)
{
    static const uint8_t code[] = {0xf4, 0xeb, 0xfd};                   /* L: hlt; jmp L */
    static const uint8_t handler[] = {0xb0, RESULT, 0xe6, RESULT_PORT}; /* mov al,RESULT; out RESULT_PORT,al */
    enum { IF = 0x200 };
    const uint32_t vector = CODE_AT + 0x100;
    struct kvm_regs regs;
    struct kvm_lapic_state lapic;
    if (!vcpu_open(g) || !set_up(g, KVM_MODE_REAL, 0) || ioctl(g->vcpu, KVM_GET_REGS, &regs) ||
        ioctl(g->vcpu, KVM_GET_LAPIC, &lapic))
        return false;
    memcpy(g->memory + CODE_AT, code, sizeof code);
    memcpy(g->memory + vector, handler, sizeof handler);
    memcpy(g->memory + PIC_VECTOR * 4, &vector, 4);
    memcpy(g->memory + APIC_VECTOR * 4, &vector, 4);
    regs.rflags |= IF;
    put_lapic(&lapic, SVR_AT, 0x1ff);
    put_lapic(&lapic, LVT_LINT0_AT, 0x700); /* ExtINT */
    return !ioctl(g->vcpu, KVM_SET_REGS, &regs) && !ioctl(g->vcpu, KVM_SET_LAPIC, &lapic);
}

static bool run_sleeper(struct guest *g, const char *what, char *why, size_t len)
{
    char how[KVM_PROBE_TEXT - 40];
    limit_set(g->limit, LIMIT_MS);
    int code = ioctl(g->vcpu, KVM_RUN, 0), error = errno;
    limit_set(g->limit, 0);
    judge(g, KVM_MODE_REAL, code, error, how, sizeof how);
    if (*how)
        snprintf(why, len, "%s %s", what, how);
    return !*how;
}

/* A count of the PIT ends HLT by way of the 8259 and the local APIC. Without a PIT, whose place is the board's then, an
 * interrupt line does. */
static bool try_pic(struct guest *g, bool pit)
{
    enum { HALF_MS = 600 };
    struct kvm_irqchip pic = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
    struct kvm_irq_level line = {.irq = 0, .level = 1};
    struct kvm_pit_state2 k;
    bool set = set_up_sleeper(g) && !ioctl(g->vm, KVM_GET_IRQCHIP, &pic);
    pic.chip.pic.irq_base = PIC_VECTOR;
    pic.chip.pic.imr = 0xfe;
    set = set && !ioctl(g->vm, KVM_SET_IRQCHIP, &pic);
    if (set && pit) {
        set = !ioctl(g->vm, KVM_GET_PIT2, &k);
        k.channels[0].mode = 0;
        k.channels[0].count = HALF_MS;
        set = set && !ioctl(g->vm, KVM_SET_PIT2, &k);
    } else if (set) {
        set = !ioctl(g->vm, KVM_IRQ_LINE, &line);
    }
    if (!set) {
        snprintf(result.chips_why, sizeof result.chips_why, "its interrupt controllers refuse their state");
        return false;
    }
    double start = now_ns();
    bool works = run_sleeper(g, "an interrupt of the PIT", result.chips_why, sizeof result.chips_why);
    result.chips_ms = (now_ns() - start) / 1e6;
    return works;
}

/* A vector of the I/O APIC has the same effect, and is in service from then on. */
static bool try_lapic(struct guest *g)
{
    struct kvm_irqchip io = {.chip_id = KVM_IRQCHIP_IOAPIC}, pic = {.chip_id = KVM_IRQCHIP_PIC_MASTER};
    struct kvm_irq_level line = {.irq = KVM_IOAPIC_GSI + APIC_PIN, .level = 1};
    struct kvm_lapic_state lapic;
    uint32_t in_service = 0;
    finish_access(g);
    bool set = !ioctl(g->vm, KVM_GET_IRQCHIP, &pic) && !ioctl(g->vm, KVM_GET_IRQCHIP, &io);
    pic.chip.pic.imr = 0xff;
    io.chip.ioapic.redirtbl[APIC_PIN].bits = APIC_VECTOR;
    if (!set || ioctl(g->vm, KVM_SET_IRQCHIP, &pic) || !set_up_sleeper(g) || ioctl(g->vm, KVM_SET_IRQCHIP, &io) ||
        ioctl(g->vm, KVM_IRQ_LINE, &line)) {
        snprintf(result.lapic_why, sizeof result.lapic_why, "they refuse their state");
        return false;
    }
    if (!run_sleeper(g, "an interrupt of the I/O APIC", result.lapic_why, sizeof result.lapic_why))
        return false;
    if (ioctl(g->vcpu, KVM_GET_LAPIC, &lapic) == 0)
        memcpy(&in_service, lapic.regs + ISR_AT + (APIC_VECTOR >> 5) * 16, 4);
    if (in_service == 1u << (APIC_VECTOR & 31))
        return true;
    snprintf(result.lapic_why, sizeof result.lapic_why, "the local APIC does not keep what is in service");
    return false;
}

static void try_chips(struct guest *g)
{
    struct kvm_vm vm = {.kvm_fd = g->kvm, .fd = g->vm};
    result.chips_work = !kvm_chips_create(&vm, result.chips_why, sizeof result.chips_why) && try_pic(g, vm.chips.pit);
    result.lapic_works = result.chips_work && try_lapic(g);
}

static void try_speed(struct guest *g)
{
    result.real_ns = measure(g, KVM_MODE_REAL);
    result.protected_ns = measure(g, KVM_MODE_FLAT32);
    result.software = result.real_ns > SOFTWARE_NS || result.protected_ns > SOFTWARE_NS;
}

/* ---- once for the process ---- */

static bool begin(struct guest *g)
{
    sigset_t set;
    *g = (struct guest){.kvm = -1, .vm = -1, .vcpu = -1, .run = MAP_FAILED, .memory = MAP_FAILED};
    if (tried.guest && !result.usable)
        return false;
    if (!tried.guest)
        result.node = kvm_probe_node(result.node_text, sizeof result.node_text);
    bool first = !tried.guest;
    tried.guest = true;
    if (result.node != KVM_NODE_PRESENT)
        return false;
    if (limit_create(&g->limit)) {
        cannot("a timer");
        return false;
    }
    sigemptyset(&set);
    sigaddset(&set, LIMIT_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, &g->old_mask);
    bool made = guest_create(g);
    if (first)
        result.usable = made;
    if (!made) {
        timer_delete(g->limit);
        guest_destroy(g);
        pthread_sigmask(SIG_SETMASK, &g->old_mask, NULL);
    }
    return made;
}

/* The host takes half a millisecond to take a VM apart: nobody needs to wait for that. */
static void *destroy_in_background(void *opaque)
{
    guest_destroy(opaque);
    free(opaque);
    return NULL;
}

static void end(struct guest *g)
{
    pthread_t thread;
    timer_delete(g->limit);
    vcpu_close(g);
    pthread_sigmask(SIG_SETMASK, &g->old_mask, NULL);
    struct guest *rest = malloc(sizeof *rest);
    if (rest)
        *rest = *g;
    if (rest && pthread_create(&thread, NULL, destroy_in_background, rest) == 0) {
        pthread_detach(thread);
        return;
    }
    free(rest);
    guest_destroy(g);
}

/* What a call wants, beside the modes up to the last in order. */
struct wish {
    enum kvm_mode last;
    bool all_modes; /* also behind one that does not work */
    bool speed;     /* when all those modes work */
    bool windows, steps, chips;
};

/* The first mode that is still to be tried, KVM_MODE_COUNT: none. */
static enum kvm_mode next_mode(const struct wish *w)
{
    for (enum kvm_mode mode = 0; mode <= w->last; mode++) {
        if (!tried.mode[mode])
            return mode;
        if (!result.works[mode] && !w->all_modes)
            break;
    }
    return KVM_MODE_COUNT;
}

static bool speed_wanted(const struct wish *w)
{
    for (enum kvm_mode mode = 0; mode <= w->last && !w->all_modes; mode++)
        if (!result.works[mode])
            return false;
    return w->speed && !tried.speed;
}

static const struct kvm_probe *fulfil(struct wish w)
{
    struct guest g;
    enum kvm_mode mode;
    double ns, start = now_ns();
    pthread_mutex_lock(&lock);
    if (w.chips && !tried.chips && begin(&g)) {
        try_chips(&g);
        end(&g);
        result.milliseconds += (now_ns() - start) / 1e6;
        start = now_ns();
    }
    if (w.chips && !tried.chips && !result.usable)
        snprintf(result.chips_why, sizeof result.chips_why, "/dev/kvm cannot be used");
    tried.chips |= w.chips;
    if ((next_mode(&w) < KVM_MODE_COUNT || speed_wanted(&w) || (w.windows && !tried.windows) ||
         (w.steps && !tried.steps)) &&
        begin(&g)) {
        for (; (mode = next_mode(&w)) < KVM_MODE_COUNT; tried.mode[mode] = true)
            result.works[mode] = try_mode(&g, mode, 1, &ns);
        if (w.windows && !tried.windows) {
            result.exact_windows = try_window(&g);
            tried.windows = true;
        }
        for (mode = 0; w.steps && !tried.steps && mode < KVM_MODE_COUNT; mode++)
            result.steps[mode] = result.works[mode] && try_steps(&g, mode);
        tried.steps |= w.steps;
        if (speed_wanted(&w)) {
            try_speed(&g);
            tried.speed = true;
        }
        end(&g);
        result.milliseconds += (now_ns() - start) / 1e6;
    }
    pthread_mutex_unlock(&lock);
    return &result;
}

const struct kvm_probe *kvm_probe(void)
{
    return fulfil((struct wish){
        .last = KVM_MODE_COUNT - 1, .all_modes = true, .speed = true, .windows = true, .steps = true, .chips = true});
}

const struct kvm_probe *kvm_probe_steps(void)
{
    return fulfil((struct wish){.last = KVM_MODE_COUNT - 1, .all_modes = true, .steps = true});
}

static enum kvm_mode last_mode(bool long_mode)
{
    return long_mode ? KVM_MODE_RING3 : KVM_MODE_PAE;
}

const struct kvm_probe *kvm_probe_choice(bool long_mode)
{
    return fulfil((struct wish){.last = last_mode(long_mode), .speed = true});
}

const struct kvm_probe *kvm_probe_chips(void)
{
    return fulfil((struct wish){.last = KVM_MODE_REAL, .chips = true});
}

bool kvm_probe_exact_windows(void)
{
    return fulfil((struct wish){.last = KVM_MODE_REAL, .windows = true})->exact_windows;
}

bool kvm_probe_suffices(const struct kvm_probe *p, bool long_mode, char *why, size_t len)
{
    if (p->node != KVM_NODE_PRESENT) {
        snprintf(why, len, "%s", p->node_text);
        return false;
    }
    if (!p->usable) {
        snprintf(why, len, "/dev/kvm cannot be used: %s", p->reason);
        return false;
    }
    for (enum kvm_mode mode = 0; mode <= last_mode(long_mode); mode++) {
        if (!p->works[mode]) {
            snprintf(why, len, "/dev/kvm is a KVM without %s (it %s)", kvm_mode_name(mode), p->why[mode]);
            return false;
        }
    }
    if (p->software) {
        snprintf(why, len, "/dev/kvm is a software KVM, slower than bt (%.0f ns for an instruction)",
                 p->real_ns > p->protected_ns ? p->real_ns : p->protected_ns);
        return false;
    }
    snprintf(why, len, "/dev/kvm works");
    return true;
}
