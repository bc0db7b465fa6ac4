/* SPDX-License-Identifier: MIT */
#include "tests/flat_machine.h"

#include "cpu/execute.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RAM_SIZE = 4 << 20,
    PAGE_DIRECTORY = 0x1000,
    TABLE_CODE = 0x2000,
    TABLE_DATA = 0x3000,
    TABLE_KERNEL = 0x4000,
    GDT = 0x5000,
    IDT = 0x6000,
    TSS = 0x7000,
    KERNEL_STACK = 0xa000 /* top */,
    STUBS = 0xa000,
    STUB_SIZE = 16,
    CODE = 0x10000,
    DATA = 0x20000
};
#define KERNEL 0xf5400000u /* no multiple of the data address, which random scaled addresses would hit */
enum { KERNEL_CS = 0x08, KERNEL_DS = 0x10, TSS_SELECTOR = 0x30 };
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4 };

static void put32(struct flat_machine *m, uint32_t addr, uint32_t value)
{
    memory_write32(&m->mem, gpa(addr), value);
}

static void write_descriptor(struct flat_machine *m, unsigned selector, uint32_t low, uint32_t high)
{
    put32(m, GDT + (selector & ~7u), low);
    put32(m, GDT + (selector & ~7u) + 4, high);
}

static void write_tables(struct flat_machine *m)
{
    static const uint8_t protection[NATIVE32_DATA_PAGES] = NATIVE32_DATA_PROTECTION;
    uint32_t pd = PAGE_DIRECTORY, all = PTE_P | PTE_W | PTE_U;

    put32(m, pd + 4 * (NATIVE32_CODE >> 22), TABLE_CODE | all);
    put32(m, pd + 4 * (NATIVE32_DATA >> 22), TABLE_DATA | all);
    put32(m, pd + 4 * (KERNEL >> 22), TABLE_KERNEL | all);
    for (unsigned i = 0; i < NATIVE32_CODE_PAGES; i++)
        put32(m, TABLE_CODE + 4 * i, (CODE + i * PAGE_SIZE) | PTE_P | PTE_U);
    for (unsigned i = 0; i < NATIVE32_DATA_PAGES; i++) {
        uint32_t bits = protection[i] == NATIVE32_NONE ? 0 : protection[i] == NATIVE32_WRITE ? all : PTE_P | PTE_U;
        put32(m, TABLE_DATA + 4 * i, (DATA + i * PAGE_SIZE) | bits);
    }
    for (unsigned i = 0; i < 16; i++)
        put32(m, TABLE_KERNEL + 4 * i, i * PAGE_SIZE | PTE_P | PTE_W);
}

static void write_descriptors(struct flat_machine *m)
{
    uint32_t tss = KERNEL + TSS;

    write_descriptor(m, KERNEL_CS, 0x0000ffff, 0x00cf9b00);
    write_descriptor(m, KERNEL_DS, 0x0000ffff, 0x00cf9300);
    write_descriptor(m, NATIVE32_CS, 0x0000ffff, 0x00cffb00);
    write_descriptor(m, NATIVE32_DS, 0x0000ffff, 0x00cff300);
    write_descriptor(m, TSS_SELECTOR, (tss << 16) | 0x67, (tss & 0xff000000) | 0x8b00 | (tss >> 16 & 0xff));
    put32(m, TSS + 4, KERNEL + KERNEL_STACK);
    put32(m, TSS + 8, KERNEL_DS);
    for (unsigned v = 0; v < 32; v++) {
        uint32_t stub = KERNEL + STUBS + v * STUB_SIZE;
        uint32_t gate = v == VECTOR_BP || v == VECTOR_OF ? 0xee00 : 0x8e00;
        put32(m, IDT + 8 * v, (uint32_t)KERNEL_CS << 16 | (stub & 0xffff));
        put32(m, IDT + 8 * v + 4, (stub & 0xffff0000) | gate);
        put32(m, STUBS + v * STUB_SIZE, 0xf4f4f4f4); /* hlt */
    }
}

static uint64_t no_read(void *opaque, uint16_t port, unsigned size)
{
    return ~0ull;
}
static void no_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
}
static uint64_t no_mem_read(void *opaque, gpa_t addr, unsigned size)
{
    return ~0ull;
}
static void no_mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
}
static int no_ack(void *opaque)
{
    return -1;
}
static void no_kick(void *opaque)
{
}

struct flat_machine *flat_machine_create(const struct engine *engine, const struct engine_options *options,
                                         const char **why)
{
    static char err[200];
    struct flat_machine *m = calloc(1, sizeof *m);

    *why = err;
    if (!m)
        return NULL;
    if (memory_init(&m->mem, RAM_SIZE, err, sizeof err)) {
        free(m);
        return NULL;
    }
    cpu_model_init(&m->model, false, false);
    m->board = (struct cpu_board){.port_read = no_read,
                                  .port_write = no_write,
                                  .mem_read = no_mem_read,
                                  .mem_write = no_mem_write,
                                  .interrupt_ack = no_ack,
                                  .kick = no_kick};
    m->engine = engine;
    if (engine) {
        m->cpu = engine->vcpu_create(options, &m->mem, &m->model, &m->board, 0, err, sizeof err);
    } else if (!posix_memalign((void **)&m->cpu, 64, (sizeof *m->cpu + 63) & ~(size_t)63)) {
        memset(m->cpu, 0, sizeof *m->cpu);
        if (cpu_init(m->cpu, &m->mem, &m->model, &m->board, 0)) {
            free(m->cpu);
            m->cpu = NULL;
        }
    }
    if (!m->cpu) {
        memory_destroy(&m->mem);
        free(m);
        return NULL;
    }
    write_tables(m);
    write_descriptors(m);
    return m;
}

void flat_machine_destroy(struct flat_machine *m)
{
    if (m->engine) {
        m->engine->vcpu_destroy(m->cpu);
    } else {
        cpu_destroy(m->cpu);
        free(m->cpu);
    }
    memory_destroy(&m->mem);
    free(m);
}

static const uint8_t *code_pages(struct flat_machine *m)
{
    return memory_ram_hva(&m->mem, gpa(CODE));
}

void flat_machine_write_code(struct flat_machine *m, const uint8_t *code)
{
    memory_write(&m->mem, gpa(CODE), code, NATIVE32_CODE_PAGES * NATIVE32_PAGE);
}

uint8_t *flat_machine_data(struct flat_machine *m)
{
    return memory_ram_hva(&m->mem, gpa(DATA));
}

static struct segment flat_segment(uint16_t selector, bool code)
{
    uint32_t attr = SEG_S | SEG_DPL | SEG_P | SEG_DB | SEG_G | SEG_A | SEG_W | (code ? SEG_CODE : 0);
    return (struct segment){.limit = 0xffffffff, .attr = attr, .selector = selector};
}

void flat_machine_load(struct flat_machine *m, const struct native32_state *in)
{
    struct cpu *cpu = m->cpu;
    uint32_t cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;

    cpu_reset(cpu);
    mmu_set_paging(&cpu->mmu, cr0, CR4_OSFXSR | CR4_OSXMMEXCPT | (m->model.xcr0_mask ? CR4_OSXSAVE : 0), 0);
    mmu_set_cr3(&cpu->mmu, PAGE_DIRECTORY);
    cpu->xcr0 = m->model.xcr0_mask & 7;
    cpu->gdtr = (struct table_register){KERNEL + GDT, 0x37};
    cpu->idtr = (struct table_register){KERNEL + IDT, 32 * 8 - 1};
    cpu->tr = (struct segment){.base = KERNEL + TSS, .limit = 0x67, .attr = 0x8b, .selector = TSS_SELECTOR};
    cpu->seg[SEG_CS] = flat_segment(NATIVE32_CS, true);
    cpu->seg[SEG_DS] = cpu->seg[SEG_ES] = cpu->seg[SEG_SS] = flat_segment(NATIVE32_DS, false);
    cpu->seg[SEG_FS] = cpu->seg[SEG_GS] = (struct segment){.attr = SEG_UNUSABLE};
    cpu->cpl = 3;
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = in->gpr[i];
    cpu->rip = in->eip;
    cpu->rflags = in->eflags;
    cpu->fpu_live = false;
    memcpy(cpu->xsave, in->xsave, m->model.xcr0_mask & 4 ? NATIVE32_XSAVE_SIZE : 576);
    uint64_t components = 3 | (m->model.xcr0_mask & 4);
    memcpy(cpu->xsave + 512, &components, 8);
    if (m->engine)
        m->engine->state_replaced(cpu);
}

/* Components in their initial state are not written by the processor: write them out. */
static void normalise_xsave(uint8_t *xsave)
{
    if (!(xsave[512] & 1)) {
        memset(xsave, 0, 24);
        memset(xsave + 32, 0, 128);
        xsave[0] = 0x7f;
        xsave[1] = 0x03;
    }
    if (!(xsave[512] & 2))
        memset(xsave + 160, 0, 256);
    if (!(xsave[512] & 4))
        memset(xsave + 576, 0, 256);
}

static void read_state(struct flat_machine *m, struct native32_result *out)
{
    const struct cpu *cpu = m->cpu;

    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < 8; i++)
        out->state.gpr[i] = (uint32_t)cpu->gpr[i];
    out->state.eip = (uint32_t)cpu->rip;
    out->state.eflags = (uint32_t)cpu->rflags;
    memcpy(out->state.xsave, cpu->xsave, NATIVE32_XSAVE_SIZE);
}

bool flat_machine_run(struct flat_machine *m, struct native32_result *out)
{
    struct cpu *cpu = m->cpu;
    enum engine_exit why = m->engine->run(cpu);
    uint32_t frame[6], stub = (uint32_t)cpu->rip - (KERNEL + STUBS);

    read_state(m, out);
    if (why != ENGINE_EXIT_HALT || stub >= 32 * STUB_SIZE) {
        fprintf(stderr, "flat machine: exit %d at %08lx\n", why, (unsigned long)cpu->rip);
        return false;
    }
    memcpy(frame, memory_ram_hva(&m->mem, gpa((uint32_t)cpu->gpr[GPR_SP] - KERNEL)), sizeof frame);
    bool has_error = KERNEL + KERNEL_STACK - (uint32_t)cpu->gpr[GPR_SP] == 24;
    const uint32_t *f = has_error ? frame + 1 : frame;
    out->vector = stub / STUB_SIZE;
    out->error = has_error ? frame[0] : 0;
    out->cr2 = (uint32_t)cpu->cr2;
    out->state.eip = f[0];
    out->state.eflags = f[2];
    out->state.gpr[GPR_SP] = f[3];
    return true;
}

bool flat_machine_execute(struct flat_machine *m, const struct generator_case *c, struct native32_result *out)
{
    struct cpu *cpu = m->cpu;
    int result = CPU_OK;

    for (unsigned steps = 0; steps < 100000; steps++) {
        struct insn insn;
        int i = generator_index(c, (uint32_t)cpu->rip);
        if (i < 0)
            return false;
        if (i == (int)c->count)
            break;
        insn_decode(&insn, code_pages(m) + (cpu->rip - NATIVE32_CODE), 15, INSN_MODE_32);
        if ((result = cpu_execute(cpu, &insn)))
            break;
    }
    cpu_fpu_unload(cpu);
    read_state(m, out);
    if (result == CPU_OK) { /* the int3 at the end */
        out->vector = VECTOR_BP;
        out->state.eip++;
    } else {
        out->vector = cpu->fault.vector;
        out->error = cpu->fault.has_error ? cpu->fault.error : 0;
        out->cr2 = (uint32_t)cpu->fault.cr2;
    }
    return true;
}

/* ---- comparison ---- */

static const char *compare_xsave(const uint8_t *a, const uint8_t *b, bool avx)
{
    if (memcmp(a, b, 2))
        return "x87 control word";
    if (memcmp(a + 2, b + 2, 2))
        return "x87 status word";
    if (a[4] != b[4])
        return "x87 tags";
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10))
            return "x87 registers";
    if (memcmp(a + 24, b + 24, 4))
        return "MXCSR";
    if (memcmp(a + 160, b + 160, 128))
        return "XMM registers";
    if (avx && memcmp(a + 576, b + 576, 128))
        return "upper halves of YMM registers";
    return NULL;
}

const char *flat_machine_compare(const struct native32_result *a, const struct native32_result *b,
                                 const uint8_t *data_a, const uint8_t *data_b, uint32_t undefined, bool avx)
{
    uint32_t flags = (FLAGS_ARITH | FLAG_DF) & ~undefined;
    struct native32_state x = a->state, y = b->state;

    if (a->vector != b->vector)
        return "exception vector";
    if (a->state.eip != b->state.eip)
        return "EIP";
    if (a->vector == VECTOR_PF && (a->cr2 != b->cr2 || (a->error & 7) != (b->error & 7)))
        return "page fault address or error code";
    if (memcmp(x.gpr, y.gpr, sizeof x.gpr))
        return "general registers";
    if ((x.eflags ^ y.eflags) & flags)
        return "flags";
    normalise_xsave(x.xsave);
    normalise_xsave(y.xsave);
    const char *differs = compare_xsave(x.xsave, y.xsave, avx);
    if (differs)
        return differs;
    return memcmp(data_a, data_b, NATIVE32_DATA_PAGES * NATIVE32_PAGE) ? "memory" : NULL;
}

static void print_bytes(const char *name, unsigned n, const uint8_t *p, unsigned len)
{
    printf("    %s%u ", name, n);
    while (len--)
        printf("%02x", p[len]);
    printf("\n");
}

void flat_machine_print(const char *title, const struct native32_result *r, bool avx)
{
    static const char *const names[8] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
    struct native32_state s = r->state;
    uint16_t fcw, fsw;
    uint32_t mxcsr;

    normalise_xsave(s.xsave);
    memcpy(&fcw, s.xsave, 2);
    memcpy(&fsw, s.xsave + 2, 2);
    memcpy(&mxcsr, s.xsave + 24, 4);
    printf("  %s: vector %u error %x cr2 %08x eip %08x eflags %08x\n   ", title, r->vector, r->error, r->cr2, s.eip,
           s.eflags);
    for (unsigned i = 0; i < 8; i++)
        printf(" %s %08x", names[i], s.gpr[i]);
    printf("\n    fcw %04x fsw %04x tags %02x mxcsr %08x\n", fcw, fsw, s.xsave[4], mxcsr);
    for (unsigned i = 0; i < 8; i++)
        print_bytes("st", i, s.xsave + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 8; i++)
        print_bytes("xmm", i, s.xsave + 160 + 16 * i, 16);
    for (unsigned i = 0; avx && i < 8; i++)
        print_bytes("ymm.high", i, s.xsave + 576 + 16 * i, 16);
}

void flat_machine_print_case(const struct generator_case *c)
{
    printf("  seed %#lx, %u instructions\n", (unsigned long)c->seed, c->count);
    for (unsigned i = 0; i < c->count; i++) {
        const struct insn *insn = &c->insns[i].insn;
        uint32_t at = NATIVE32_CODE + c->start + c->offset[i];
        char text[128];
        printf("    %08x  ", at);
        for (unsigned k = 0; k < insn->len; k++)
            printf("%02x", insn->bytes[k]);
        printf("  %s", insn_format(insn, at, text, sizeof text));
        if (c->insns[i].branch) /* the displacement is filled in later */
            printf("  -> %08x", NATIVE32_CODE + c->start + c->offset[c->insns[i].target]);
        printf("\n");
    }
}
