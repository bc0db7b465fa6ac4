/* SPDX-License-Identifier: MIT */
/* The KVM engine, as far as this host's KVM goes: state, exits, memory slots, interrupts, kicks; and machines that
 * change between it and the translator. */
#include "devices/machine.h"
#include "hw-assist/kvm.h"
#include "hw-assist/kvm_internal.h"
#include "hw-assist/kvm_probe.h"
#include "tests/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CODE_AT = 0x1000, TABLES_AT = 0x8000, RAM = 4 << 20, LOG_MAX = 256, DEVICE_AT = 0xd0000 };

struct access {
    char kind; /* 'i' port read, 'o' port write, 'r' memory read, 'w' memory write */
    uint64_t at, value;
    unsigned size;
};

struct rig {
    struct memory mem;
    struct cpu_model model;
    struct cpu_board board;
    const struct engine *engine;
    struct cpu *cpu;
    struct access log[LOG_MAX];
    unsigned count;
    int vector; /* what interrupt_ack gives */
    void (*on_port)(struct rig *r, uint16_t port, uint64_t value);
};

static void note(struct rig *r, char kind, uint64_t at, uint64_t value, unsigned size)
{
    if (r->count < LOG_MAX)
        r->log[r->count++] = (struct access){kind, at, value, size};
}
static uint64_t port_read(void *opaque, uint16_t port, unsigned size)
{
    note(opaque, 'i', port, 0, size);
    return 0x11223344u + port;
}
static void port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    struct rig *r = opaque;
    note(r, 'o', port, value, size);
    if (r->on_port)
        r->on_port(r, port, value);
}
static uint64_t mem_read(void *opaque, gpa_t addr, unsigned size)
{
    note(opaque, 'r', addr.v, 0, size);
    return 0x8877665544332211ull;
}
static void mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    note(opaque, 'w', addr.v, value, size);
}
static int interrupt_ack(void *opaque)
{
    struct rig *r = opaque;
    cpu_lower(r->cpu, CPU_EVENT_INTR);
    return r->vector;
}
static void rig_kick(void *opaque)
{
    struct rig *r = opaque;
    if (r->cpu && r->engine->kick)
        r->engine->kick(r->cpu);
}

static bool have(enum kvm_mode mode)
{
    const struct kvm_probe *p = kvm_probe();
    if (p->usable && p->works[mode])
        return true;
    test_skip(p->node != KVM_NODE_PRESENT ? p->node_text : !p->usable ? p->reason : kvm_mode_name(mode));
    return false;
}

static struct rig *rig_create(const struct engine *engine, bool long_mode)
{
    char err[256] = "";
    struct rig *r = calloc(1, sizeof *r);
    CU_ASSERT_EQUAL_FATAL(memory_init(&r->mem, RAM, err, sizeof err), 0);
    memory_unmap(&r->mem, gpa(DEVICE_AT), 0x10000);
    cpu_model_init(&r->model, long_mode, false);
    r->engine = engine;
    r->board = (struct cpu_board){.port_read = port_read,
                                  .port_write = port_write,
                                  .mem_read = mem_read,
                                  .mem_write = mem_write,
                                  .interrupt_ack = interrupt_ack,
                                  .kick = rig_kick,
                                  .opaque = r};
    r->cpu = engine->vcpu_create(NULL, &r->mem, &r->model, &r->board, 0, err, sizeof err);
    if (!r->cpu && long_mode)
        test_leave_without_tables();
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_PTR_NOT_NULL_FATAL(r->cpu);
    return r;
}

static void rig_destroy(struct rig *r)
{
    r->engine->vcpu_destroy(r->cpu);
    memory_destroy(&r->mem);
    free(r);
}

static void set_flat(struct cpu *cpu, bool wide)
{
    uint32_t data = SEG_P | SEG_S | SEG_W | SEG_A | SEG_G | SEG_DB;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        cpu->seg[i] = (struct segment){.limit = 0xffffffff, .attr = data, .selector = 0x10};
    cpu->seg[SEG_CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_W | SEG_A | SEG_G | (wide ? SEG_L : SEG_DB);
    cpu->seg[SEG_CS].selector = 8;
    mmu_set_paging(&cpu->mmu, CR0_PE | CR0_ET, 0, 0);
}

static void load(struct rig *r, const uint8_t *code, size_t len)
{
    struct cpu *cpu = r->cpu;
    cpu_reset(cpu);
    cpu->seg[SEG_CS].base = 0;
    cpu->seg[SEG_CS].selector = 0;
    cpu->rip = cpu->next_rip = CODE_AT;
    cpu->gpr[GPR_SP] = 0x7000;
    memory_write(&r->mem, gpa(CODE_AT), code, len);
    r->count = 0;
    r->engine->state_replaced(cpu);
}
#define LOAD(r, ...)                                                                                                   \
    do {                                                                                                               \
        static const uint8_t code_[] = {__VA_ARGS__};                                                                  \
        load(r, code_, sizeof code_);                                                                                  \
    } while (0)

static bool logged(const struct rig *r, unsigned n, char kind, uint64_t at, uint64_t value, unsigned size)
{
    const struct access *a = &r->log[n];
    bool same = n < r->count && a->kind == kind && a->at == at && a->value == value && a->size == size;
    if (!same)
        fprintf(stderr, "access %u of %u: %c %llx %llx %u\n", n, r->count, a->kind, (unsigned long long)a->at,
                (unsigned long long)a->value, a->size);
    return same;
}

/* ---- probe ---- */

static void probe(void)
{
    char choice[256], all[256];
    bool suffices = kvm_probe_suffices(kvm_probe_choice(true), true, choice, sizeof choice);
    const struct kvm_probe *p = kvm_probe();
    CU_ASSERT_EQUAL(kvm_probe_suffices(p, true, all, sizeof all), suffices);
    CU_ASSERT_EQUAL(kvm_probe_exact_windows(), p->exact_windows);
    if (!p->usable || !p->works[KVM_MODE_PAGING32]) /* else it is the speed, which varies */
        CU_ASSERT_STRING_EQUAL(choice, all);
    double took = p->milliseconds;
    CU_ASSERT(kvm_probe() == p && p->milliseconds == took); /* it is remembered */
    CU_ASSERT(strlen(p->node_text) > 0);
    if (p->node != KVM_NODE_PRESENT || !p->usable) {
        char why[256];
        CU_ASSERT_FALSE(kvm_probe_suffices(p, false, why, sizeof why));
        CU_ASSERT(strlen(why) > 0);
        test_skip(p->node != KVM_NODE_PRESENT ? p->node_text : p->reason);
        return;
    }
    for (enum kvm_mode m = 0; m < KVM_MODE_COUNT; m++)
        CU_ASSERT_EQUAL(p->works[m], !*p->why[m]);
}

/* ---- state ---- */

static void fill_state(struct cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = 0x1111111111111111ull * i + 7;
    cpu->rip = 0x123456;
    cpu->rflags = EFLAGS_FIXED | FLAG_CF | FLAG_IF | FLAG_DF | EFLAGS_ID;
    cpu->cr2 = 0xdeadb000;
    cpu->gdtr = (struct table_register){0x12340, 0x7f};
    cpu->idtr = (struct table_register){0x23450, 0x3ff};
    cpu->dr[0] = 0x1000;
    cpu->dr[3] = 0x4000;
    cpu->msr.sysenter_cs = 8;
    cpu->msr.sysenter_esp = 0x9000;
    cpu->msr.pat = 0x0007010600070106ull;
    for (unsigned i = 0; i < 160; i++)
        cpu->xsave[32 + i] = i % 16 < 10 ? (uint8_t)(i + 1) : 0;
    for (unsigned i = 0; i < 128; i++)
        cpu->xsave[160 + i] = (uint8_t)(i * 3);
    cpu->xsave[512] = 3;
}

static void state_round_trip(void)
{
    if (!have(KVM_MODE_FLAT32))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    struct cpu *cpu = r->cpu;
    struct kvm_vcpu *v = kvm_vcpu_of(cpu);
    const char *step = "";
    set_flat(cpu, false);
    fill_state(cpu);
    struct cpu *want = aligned_alloc(64, (sizeof *want + 63) & ~63ull);
    memcpy(want, cpu, sizeof *want);
    CU_ASSERT_EQUAL(kvm_state_load(v, &step), 0);
    memset(cpu->gpr, 0, sizeof cpu->gpr);
    memset(cpu->seg, 0, sizeof cpu->seg);
    memset(cpu->xsave, 0, sizeof cpu->xsave);
    memset(cpu->dr, 0, sizeof cpu->dr);
    cpu->rip = cpu->rflags = cpu->cr2 = cpu->msr.sysenter_esp = cpu->msr.pat = 0;
    CU_ASSERT_EQUAL(kvm_state_store(v, &step), 0);
    CU_ASSERT_STRING_EQUAL(step, "");
    CU_ASSERT_EQUAL(memcmp(cpu->gpr, want->gpr, sizeof cpu->gpr), 0);
    CU_ASSERT_EQUAL(cpu->rip, want->rip);
    CU_ASSERT_EQUAL(cpu->rflags, want->rflags);
    CU_ASSERT_EQUAL(cpu->cr2, want->cr2);
    CU_ASSERT_EQUAL(cpu->mmu.cr0, want->mmu.cr0);
    CU_ASSERT_EQUAL(cpu->cpl, 0);
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        CU_ASSERT_EQUAL(cpu->seg[i].base, want->seg[i].base);
        CU_ASSERT_EQUAL(cpu->seg[i].limit, want->seg[i].limit);
        CU_ASSERT_EQUAL(cpu->seg[i].attr, want->seg[i].attr);
        CU_ASSERT_EQUAL(cpu->seg[i].selector, want->seg[i].selector);
    }
    CU_ASSERT_EQUAL(cpu->gdtr.base, want->gdtr.base);
    CU_ASSERT_EQUAL(cpu->idtr.limit, want->idtr.limit);
    CU_ASSERT_EQUAL(memcmp(cpu->dr, want->dr, sizeof cpu->dr), 0);
    CU_ASSERT_EQUAL(cpu->msr.sysenter_esp, want->msr.sysenter_esp);
    CU_ASSERT_EQUAL(cpu->msr.pat, want->msr.pat);
    CU_ASSERT_EQUAL(memcmp(cpu->xsave + 32, want->xsave + 32, 256), 0);
    free(want);
    rig_destroy(r);
}

/* The struct is the same for every engine. */
static void state_copy(void)
{
    struct rig *a = rig_create(&engine_bt, false), *b = rig_create(&engine_bt, false);
    set_flat(a->cpu, false);
    fill_state(a->cpu);
    cpu_state_copy(b->cpu, a->cpu);
    CU_ASSERT_EQUAL(memcmp(b->cpu->gpr, a->cpu->gpr, sizeof a->cpu->gpr), 0);
    CU_ASSERT_EQUAL(memcmp(b->cpu->xsave, a->cpu->xsave, sizeof a->cpu->xsave), 0);
    CU_ASSERT_EQUAL(memcmp(&b->cpu->msr, &a->cpu->msr, sizeof a->cpu->msr), 0);
    CU_ASSERT_EQUAL(b->cpu->mmu.cr0, a->cpu->mmu.cr0);
    CU_ASSERT_EQUAL(b->cpu->rip, 0x123456);
    CU_ASSERT_PTR_EQUAL(b->cpu->board, &b->board);
    rig_destroy(a);
    rig_destroy(b);
}

/* ---- exits ---- */

static void real_mode(void)
{
    if (!have(KVM_MODE_REAL))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    /* in al,40h; out 41h,al; mov dx,1f0h; in eax,dx; out dx,eax; mov si,20h; mov cx,2; rep outsw;
     * mov ax,0d000h; mov ds,ax; mov bx,[10h]; mov [12h],bl; hlt */
    LOAD(r, 0xe4, 0x40, 0xe6, 0x41, 0xba, 0xf0, 0x01, 0x66, 0xed, 0x66, 0xef, 0xbe, 0x00, 0x10, 0xb9, 0x02, 0x00, 0xf3,
         0x6f, 0xb8, 0x00, 0xd0, 0x8e, 0xd8, 0x8b, 0x1e, 0x10, 0x00, 0x88, 0x1e, 0x12, 0x00, 0xf4);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
    CU_ASSERT(r->cpu->halted);
    CU_ASSERT_EQUAL(r->cpu->rip, CODE_AT + 33);
    CU_ASSERT(logged(r, 0, 'i', 0x40, 0, 1));
    CU_ASSERT(logged(r, 1, 'o', 0x41, 0x84, 1));
    CU_ASSERT(logged(r, 2, 'i', 0x1f0, 0, 4));
    CU_ASSERT(logged(r, 3, 'o', 0x1f0, 0x11223534, 4));
    CU_ASSERT(logged(r, 4, 'o', 0x1f0, 0x40e4, 2)); /* the code itself */
    CU_ASSERT(logged(r, 5, 'o', 0x1f0, 0x41e6, 2));
    CU_ASSERT(logged(r, 6, 'r', 0xd0010, 0, 2));
    CU_ASSERT(logged(r, 7, 'w', 0xd0012, 0x11, 1));
    CU_ASSERT_EQUAL(r->count, 8);
    rig_destroy(r);
}

/* Writes to posted device memory come late, but in order, and before any other access. */
static void posted_writes(void)
{
    if (!have(KVM_MODE_REAL))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    struct cpu *cpu = r->cpu;
    memory_post_writes(&r->mem, gpa(DEVICE_AT), 0x1000);
    r->engine->vcpu_destroy(cpu); /* the ranges are looked at when the VM is made */
    char err[256] = "";
    r->cpu = r->engine->vcpu_create(NULL, &r->mem, &r->model, &r->board, 0, err, sizeof err);
    CU_ASSERT_PTR_NOT_NULL_FATAL(r->cpu);
    /* mov ax,0d000h; mov ds,ax; mov [10h],al; mov [12h],ax; inc ax; mov [11h],ax; out 80h,al; mov [10h],al; hlt */
    LOAD(r, 0xb8, 0x00, 0xd0, 0x8e, 0xd8, 0xa2, 0x10, 0x00, 0xa3, 0x12, 0x00, 0x40, 0xa3, 0x11, 0x00, 0xe6, 0x80, 0xa2,
         0x10, 0x00, 0xf4);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
    CU_ASSERT(logged(r, 0, 'w', 0xd0010, 0, 1));
    CU_ASSERT(logged(r, 1, 'w', 0xd0012, 0xd000, 2));
    CU_ASSERT(logged(r, 2, 'w', 0xd0011, 0xd001, 2));
    CU_ASSERT(logged(r, 3, 'o', 0x80, 1, 1));
    CU_ASSERT(logged(r, 4, 'w', 0xd0010, 1, 1));
    CU_ASSERT_EQUAL(r->count, 5);
    const struct kvm_vcpu *v = kvm_vcpu_of(r->cpu);
    if (v->vm->memory.ring) {
        CU_ASSERT_EQUAL(v->stats.posted, 4);
        CU_ASSERT_EQUAL(v->stats.mmio, 0);
    }
    rig_destroy(r);
}

static void flat32(void)
{
    if (!have(KVM_MODE_FLAT32))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    /* mov ecx,1000; xor eax,eax; L: add eax,ecx; dec ecx; jnz L; mov [2000h],eax; out 80h,eax; hlt */
    LOAD(r, 0xb9, 0xe8, 0x03, 0, 0, 0x31, 0xc0, 0x01, 0xc8, 0x49, 0x75, 0xfb, 0xa3, 0x00, 0x20, 0, 0, 0xe7, 0x80, 0xf4);
    set_flat(r->cpu, false);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
    CU_ASSERT(logged(r, 0, 'o', 0x80, 500500, 4));
    CU_ASSERT_EQUAL(memory_read32(&r->mem, gpa(0x2000)), 500500);
    rig_destroy(r);
}

static void long_mode(void)
{
    if (!have(KVM_MODE_LONG))
        return;
    struct rig *r = rig_create(&engine_kvm, true);
    /* mov rax,123456789abcdef0h; mov [2000h],rax; mov r9,rax; shr r9,32; mov eax,r9d; out 80h,eax;
     * mov rbx,[0d0008h]; hlt */
    LOAD(r, 0x48, 0xb8, 0xf0, 0xde, 0xbc, 0x9a, 0x78, 0x56, 0x34, 0x12, 0x48, 0x89, 0x04, 0x25, 0x00, 0x20, 0, 0, 0x49,
         0x89, 0xc1, 0x49, 0xc1, 0xe9, 0x20, 0x44, 0x89, 0xc8, 0xe7, 0x80, 0x48, 0x8b, 0x1c, 0x25, 0x08, 0x00, 0x0d, 0,
         0xf4);
    set_flat(r->cpu, true);
    static const uint64_t tables[3] = {(TABLES_AT + 0x1000) | 7, (TABLES_AT + 0x2000) | 7, 0x87};
    for (unsigned i = 0; i < 3; i++)
        memory_write(&r->mem, gpa(TABLES_AT + i * 0x1000), &tables[i], 8);
    mmu_set_paging(&r->cpu->mmu, CR0_PE | CR0_ET | CR0_PG, CR4_PAE, EFER_LME | EFER_LMA);
    mmu_set_cr3(&r->cpu->mmu, TABLES_AT);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
    CU_ASSERT(logged(r, 0, 'o', 0x80, 0x12345678, 4));
    CU_ASSERT(logged(r, 1, 'r', 0xd0008, 0, 8));
    CU_ASSERT_EQUAL(r->cpu->gpr[GPR_BX], 0x8877665544332211ull);
    CU_ASSERT_EQUAL(r->cpu->gpr[9], 0x12345678);
    CU_ASSERT_EQUAL(memory_read32(&r->mem, gpa(0x2004)), 0x12345678);
    rig_destroy(r);
}

static void shutdown(void)
{
    if (!have(KVM_MODE_FLAT32))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    LOAD(r, 0x0f, 0x0b);
    set_flat(r->cpu, false);
    r->cpu->idtr = (struct table_register){0, 0};
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_SHUTDOWN);
    CU_ASSERT(r->cpu->shutdown);
    rig_destroy(r);
}

/* ---- memory ---- */

static void remap_on_port(struct rig *r, uint16_t port, uint64_t value)
{
    if (port == 0x60) /* C8000h: reads from what was written to 300000h, writes to the bus */
        memory_map(&r->mem, gpa(0xc8000), 0x4000, r->mem.ram + 0x300000, NULL);
    if (port == 0x61) /* reads from there, writes to the RAM below */
        memory_map(&r->mem, gpa(0xc8000), 0x4000, r->mem.ram + 0x300000, r->mem.ram + 0xc8000);
    if (port == 0x62)
        mmu_set_a20(&r->cpu->mmu, value & 1);
}

static void slots(void)
{
    if (!have(KVM_MODE_FLAT32))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    r->on_port = remap_on_port;
    memory_write32(&r->mem, gpa(0x300000), 0xfeedface);
    /* out 60h,al; mov eax,[c8000]; out 80h,eax; mov [c8000],eax; out 61h,al; mov dword [c8004],5; out 62h,0;
     * mov eax,[102000]; out 80h,eax; out 62h,1; mov eax,[102000]; out 80h,eax; hlt */
    memory_write32(&r->mem, gpa(0x2000), 0xaaaa);
    memory_write32(&r->mem, gpa(0x102000), 0xbbbb);
    LOAD(r, 0xe6, 0x60, 0xa1, 0x00, 0x80, 0x0c, 0, 0xe7, 0x80, 0xa3, 0x00, 0x80, 0x0c, 0, 0xe6, 0x61, 0xc7, 0x05, 0x04,
         0x80, 0x0c, 0, 5, 0, 0, 0, 0xb0, 0, 0xe6, 0x62, 0xa1, 0x00, 0x20, 0x10, 0, 0xe7, 0x80, 0xb0, 1, 0xe6, 0x62,
         0xa1, 0x00, 0x20, 0x10, 0, 0xe7, 0x80, 0xf4);
    set_flat(r->cpu, false);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
    CU_ASSERT(logged(r, 1, 'o', 0x80, 0xfeedface, 4));
    CU_ASSERT(logged(r, 2, 'w', 0xc8000, 0xfeedface, 4));
    CU_ASSERT(logged(r, 5, 'o', 0x80, 0xaaaa, 4)); /* A20 closed */
    CU_ASSERT(logged(r, 7, 'o', 0x80, 0xbbbb, 4));
    CU_ASSERT_EQUAL(*(uint32_t *)(r->mem.ram + 0xc8004), 5);
    CU_ASSERT_EQUAL(*(uint32_t *)(r->mem.ram + 0x300004), 0);
    rig_destroy(r);
}

static void dirty_log(void)
{
    if (!have(KVM_MODE_FLAT32))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    memory_log_start(&r->mem, gpa(0x200000), 0x4000);
    for (unsigned i = 0; i < 4; i++)
        memory_log_test_clear(&r->mem, 0x200 + i);
    /* mov byte [202010h],1; hlt; mov byte [203010h],1; hlt */
    LOAD(r, 0xc6, 0x05, 0x10, 0x20, 0x20, 0, 1, 0xf4, 0xc6, 0x05, 0x10, 0x30, 0x20, 0, 1, 0xf4);
    set_flat(r->cpu, false);
    for (unsigned round = 0; round < 2; round++) {
        CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
        memory_log_sync(&r->mem, gpa(0x200000), 0x4000);
        for (unsigned i = 0; i < 4; i++)
            CU_ASSERT_EQUAL(memory_log_test_clear(&r->mem, 0x200 + i), i == 2 + round);
        r->cpu->halted = false;
    }
    rig_destroy(r);
}

/* ---- events ---- */

static void raise_on_port(struct rig *r, uint16_t port, uint64_t value)
{
    if (port == 0x60)
        cpu_raise(r->cpu, CPU_EVENT_INTR);
}

static void interrupts(void)
{
    if (!have(KVM_MODE_REAL))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    r->on_port = raise_on_port;
    r->vector = 0x21;
    memory_write32(&r->mem, gpa(0x21 * 4), 0x1800);      /* 0000:1800 */
    static const uint8_t handler[] = {0xe6, 0x81, 0xcf}; /* out 81h,al; iret */
    memory_write(&r->mem, gpa(0x1800), handler, sizeof handler);
    /* out 60h,al (interrupts are off); out 82h,al; sti; hlt; out 83h,al; cli; hlt */
    LOAD(r, 0xe6, 0x60, 0xe6, 0x82, 0xfb, 0xf4, 0xe6, 0x83, 0xfa, 0xf4);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r->cpu->rip, CODE_AT + 10);
    CU_ASSERT(logged(r, 1, 'o', 0x82, 0, 1));
    CU_ASSERT(logged(r, 2, 'o', 0x81, 0, 1));
    CU_ASSERT(logged(r, 3, 'o', 0x83, 0, 1));
    CU_ASSERT_EQUAL(r->count, 4);
    rig_destroy(r);
}

static void *kick_later(void *opaque)
{
    struct rig *r = opaque;
    usleep(5000);
    cpu_raise(r->cpu, CPU_EVENT_KICK);
    return NULL;
}

static void kick(void)
{
    if (!have(KVM_MODE_REAL))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    pthread_t thread;
    LOAD(r, 0x40, 0xeb, 0xfd); /* inc ax; jmp */
    for (unsigned i = 0; i < 20; i++) {
        pthread_create(&thread, NULL, kick_later, r);
        CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_KICK);
        pthread_join(thread, NULL);
        CU_ASSERT(r->cpu->rip == CODE_AT || r->cpu->rip == CODE_AT + 1);
        CU_ASSERT_EQUAL(atomic_load(&r->cpu->events), 0);
    }
    cpu_raise(r->cpu, CPU_EVENT_KICK | CPU_EVENT_RESET);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_RESET);
    CU_ASSERT_EQUAL(r->engine->run(r->cpu), ENGINE_EXIT_KICK);
    rig_destroy(r);
}

/* ---- hand-over ---- */

static void kick_on_port(struct rig *r, uint16_t port, uint64_t value)
{
    if (port == 0x60)
        cpu_raise(r->cpu, CPU_EVENT_KICK);
}

/* The guest computes x = x * 1103515245 + 12345 with x in memory, in a register and on the x87 stack's side (a counter
 * in st0), and reports every hundredth step; each report is a change of engines. */
static void hand_over(void)
{
    enum { ROUNDS = 2000, STEPS = 20 };
    if (!have(KVM_MODE_FLAT32))
        return;
    struct rig *r = rig_create(&engine_kvm, false);
    char err[256] = "";
    struct cpu *cpus[2] = {r->cpu, engine_bt.vcpu_create(NULL, &r->mem, &r->model, &r->board, 0, err, sizeof err)};
    const struct engine *engines[2] = {&engine_kvm, &engine_bt};
    CU_ASSERT_PTR_NOT_NULL_FATAL(cpus[1]);
    r->on_port = kick_on_port;
    /* L: mov ecx,STEPS; M: imul eax,[2000h],1103515245; add eax,12345; mov [2000h],eax; dec ecx; jnz M;
     * out 60h,eax; jmp L */
    LOAD(r, 0xb9, STEPS, 0, 0, 0, 0x69, 0x05, 0x00, 0x20, 0, 0, 0x6d, 0x4e, 0xc6, 0x41, 0x05, 0x39, 0x30, 0, 0, 0xa3,
         0x00, 0x20, 0, 0, 0x49, 0x75, 0xe9, 0xe7, 0x60, 0xeb, 0xe0);
    set_flat(r->cpu, false);
    uint32_t x = 0;
    unsigned wrong = 0;
    for (unsigned round = 0; round < ROUNDS && !wrong; round++) {
        unsigned now = round & 1;
        r->count = 0;
        r->cpu = cpus[now];
        r->engine = engines[now];
        wrong += r->engine->run(r->cpu) != ENGINE_EXIT_KICK;
        for (unsigned i = 0; i < STEPS; i++)
            x = x * 1103515245u + 12345;
        wrong += r->count != 1 || r->log[0].value != x || memory_read32(&r->mem, gpa(0x2000)) != x;
        cpu_state_copy(cpus[!now], cpus[now]);
        engines[now]->state_replaced(cpus[now]);
        engines[!now]->state_replaced(cpus[!now]);
    }
    CU_ASSERT_EQUAL(wrong, 0);
    engine_bt.vcpu_destroy(cpus[1]);
    r->cpu = cpus[0];
    r->engine = engines[0];
    rig_destroy(r);
}

/* A whole machine: a multiboot guest that computes, checks itself and counts, while another thread changes its engine.
 */
enum { MACHINE_ROUNDS = 2000, LOADED_AT = 0x100000, COUNT_AT = 0x200000, STOP_AT = 0x200004, PASSES = 200 };

static const char *write_guest(char *path)
{
    uint32_t x = 1;
    for (unsigned i = 0; i < PASSES; i++)
        x = x * 1103515245u + 12345;
    const uint32_t header[8] = {0x1badb002, 0x10000, 0 - (0x1badb002u + 0x10000), LOADED_AT, LOADED_AT,
                                0,          0,       LOADED_AT + sizeof header};
    /* L: mov ecx,PASSES; mov eax,1; M: imul eax,eax,1103515245; add eax,12345; dec ecx; jnz M; cmp eax,x; jne bad;
     * inc dword [COUNT_AT]; cmp dword [STOP_AT],0; je L; mov al,7; out f4h,al; bad: mov al,1; out f4h,al; hlt */
    uint8_t code[] = {0xb9, PASSES, 0,    0,    0,    0xb8, 1,    0,    0,    0,    0x69, 0xc0, 0x6d, 0x4e,
                      0xc6, 0x41,   0x05, 0x39, 0x30, 0,    0,    0x49, 0x75, 0xf2, 0x3d, 0,    0,    0,
                      0,    0x75,   0x13, 0xff, 0x05, 0x00, 0x00, 0x20, 0,    0x83, 0x3d, 0x04, 0x00, 0x20,
                      0,    0,      0x74, 0xd2, 0xb0, 7,    0xe6, 0xf4, 0xb0, 1,    0xe6, 0xf4, 0xf4};
    memcpy(code + 25, &x, 4);
    int fd = mkstemp(path);
    bool ok = fd >= 0 && write(fd, header, sizeof header) == (ssize_t)sizeof header &&
              write(fd, code, sizeof code) == (ssize_t)sizeof code;
    close(fd);
    return ok ? path : NULL;
}

static struct {
    unsigned failed, rounds;
    uint32_t counts[2];
    char err[256];
} changes;

static void *change_engines(void *opaque)
{
    static const struct engine *const engines[2] = {&engine_bt, &engine_kvm};
    struct machine *m = opaque;
    for (changes.rounds = 0; changes.rounds < MACHINE_ROUNDS; changes.rounds++) {
        machine_lock(m);
        const struct engine *e = engines[changes.rounds & 1];
        changes.failed += machine_set_engine(m, e, changes.err, sizeof changes.err) != 0 || machine_engine(m) != e;
        machine_unlock(m);
        if (changes.rounds % 100 < 2) { /* long enough for each to get somewhere */
            uint32_t before = memory_read32(machine_memory(m), gpa(COUNT_AT));
            usleep(3000);
            changes.counts[changes.rounds & 1] += memory_read32(machine_memory(m), gpa(COUNT_AT)) - before;
        }
    }
    memory_write32(machine_memory(m), gpa(STOP_AT), 1);
    return NULL;
}

static void change_machine(int irqchip)
{
    char path[] = "/tmp/ringfold-test-XXXXXX", err[300] = "";
    struct machine_config config = {
        .ram_size = 8 << 20, .cpus = 1, .engine = &engine_kvm, .debug_exit = DEBUG_EXIT_EXACT, .kernel = path};
    struct machine *m = NULL;
    pthread_t thread;
    config.engine_options.kernel_irqchip = irqchip;
    CU_ASSERT_PTR_NOT_NULL_FATAL(write_guest(path));
    memset(&changes, 0, sizeof changes);
    CU_ASSERT_EQUAL(machine_create(&m, &config, err, sizeof err), 0);
    CU_ASSERT_STRING_EQUAL(err, "");
    CU_ASSERT_PTR_NOT_NULL_FATAL(m);
    pthread_create(&thread, NULL, change_engines, m);
    CU_ASSERT_EQUAL(machine_run(m), 7);
    pthread_join(thread, NULL);
    CU_ASSERT_EQUAL(changes.failed, 0);
    CU_ASSERT_STRING_EQUAL(changes.err, "");
    CU_ASSERT_EQUAL(changes.rounds, MACHINE_ROUNDS);
    CU_ASSERT(changes.counts[0] > 0 && changes.counts[1] > 0);
    machine_destroy(m);
    unlink(path);
}

static void machine_changes_engines(void)
{
    if (!have(KVM_MODE_FLAT32))
        return;
    change_machine(KERNEL_IRQCHIP_OFF);
    if (kvm_probe()->chips_work) /* with them each change is one of the interrupt controllers' and the PIT's as well */
        change_machine(KERNEL_IRQCHIP_ON);
    else
        test_skip(kvm_probe()->chips_why);
}

/* ---- placement ---- */

static void placement_words(void)
{
    struct placement p = {0};
    char err[200];
    CU_ASSERT_EQUAL(placement_parse_cpus(&p, "0", err, sizeof err), 0);
    CU_ASSERT(p.cpu_count == 1 && p.cpus[0] == 0);
    static const char *const bad[] = {"", "x", "0-", "0,", "3-1", "0 ", "-1", "65535", "99999999999"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        *err = 0;
        CU_ASSERT_EQUAL(placement_parse_cpus(&p, bad[i], err, sizeof err), -1);
        CU_ASSERT(*err);
    }
    static const char *const nodes[] = {"", "x", "1x", "-1", "60000"};
    for (unsigned i = 0; i < sizeof nodes / sizeof *nodes; i++) {
        *err = 0;
        CU_ASSERT_EQUAL(placement_parse_node(&p, nodes[i], err, sizeof err), -1);
        CU_ASSERT(*err);
    }
    CU_ASSERT_FALSE(p.numa);
}

TEST_SUITE(kvm, {"a machine changes its engine 2,000 times", machine_changes_engines},
           {"--pin and --numa", placement_words}, {"the probe ends, is remembered and says why", probe},
           {"state goes to KVM and back", state_round_trip}, {"state from one vCPU to another", state_copy},
           {"real mode: ports, string output, a device's memory, HLT", real_mode}, {"32-bit protected mode", flat32},
           {"writes to posted device memory", posted_writes}, {"64-bit mode", long_mode}, {"shutdown", shutdown},
           {"memory slots follow the map: ROM, shadow RAM, A20", slots}, {"the dirty log", dirty_log},
           {"an interrupt waits for its window", interrupts}, {"kick from another thread, reset", kick},
           {"2,000 hand-overs to and from the translator", hand_over})
