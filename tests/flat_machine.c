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
    DATA = 0x20000,
    PML4 = 0x40000,
    PDPT_USER = 0x41000,
    PDPT_KERNEL = 0x42000,
    DIRECTORY_USER = 0x43000,
    DIRECTORY_KERNEL = 0x44000
};
#define KERNEL64 0xffffffffb5400000u
enum { KERNEL_CS = 0x08, KERNEL_DS = 0x10, TSS_SELECTOR = 0x40 };
enum { PTE_P = 1, PTE_W = 2, PTE_U = 4 };
#define PTE_NX (1ull << 63)

static uint64_t kernel(const struct flat_machine *m)
{
    return m->bits == 64 ? KERNEL64 : FLAT_MACHINE_KERNEL32;
}

static void put32(struct flat_machine *m, uint32_t addr, uint32_t value)
{
    memory_write32(&m->mem, gpa(addr), value);
}

static void put64(struct flat_machine *m, uint32_t addr, uint64_t value)
{
    put32(m, addr, (uint32_t)value);
    put32(m, addr + 4, (uint32_t)(value >> 32));
}

static void write_descriptor(struct flat_machine *m, unsigned selector, uint32_t low, uint32_t high)
{
    put32(m, GDT + (selector & ~7u), low);
    put32(m, GDT + (selector & ~7u) + 4, high);
}

/* An entry of a paging structure, of the size that the mode has. */
static void put_entry(struct flat_machine *m, uint32_t table, unsigned index, uint64_t value)
{
    if (m->bits == 64)
        put64(m, table + 8 * index, value);
    else
        put32(m, table + 4 * index, (uint32_t)value);
}

static void write_upper_tables(struct flat_machine *m)
{
    uint32_t all = PTE_P | PTE_W | PTE_U, low = (uint32_t)KERNEL64;

    if (m->bits == 32) {
        put_entry(m, PAGE_DIRECTORY, NATIVE_CODE >> 22, TABLE_CODE | all);
        put_entry(m, PAGE_DIRECTORY, NATIVE_DATA >> 22, TABLE_DATA | all);
        put_entry(m, PAGE_DIRECTORY, FLAT_MACHINE_KERNEL32 >> 22, TABLE_KERNEL | all);
        return;
    }
    put_entry(m, PML4, 0, PDPT_USER | all);
    put_entry(m, PML4, NATIVE_HIGH >> 39, PDPT_USER | all);
    put_entry(m, PML4, 511, PDPT_KERNEL | all);
    put_entry(m, PDPT_USER, 0, DIRECTORY_USER | all);
    put_entry(m, PDPT_KERNEL, 508 | low >> 30, DIRECTORY_KERNEL | all);
    put_entry(m, DIRECTORY_USER, NATIVE_CODE >> 21, TABLE_CODE | all);
    put_entry(m, DIRECTORY_USER, NATIVE_DATA >> 21, TABLE_DATA | all);
    put_entry(m, DIRECTORY_KERNEL, low >> 21 & 511, TABLE_KERNEL | all);
}

static void write_tables(struct flat_machine *m)
{
    static const uint8_t protection[NATIVE_DATA_PAGES] = NATIVE_DATA_PROTECTION;
    uint32_t all = PTE_P | PTE_W | PTE_U;

    write_upper_tables(m);
    for (unsigned i = 0; i < NATIVE_CODE_PAGES; i++)
        put_entry(m, TABLE_CODE, i, (CODE + i * PAGE_SIZE) | PTE_P | PTE_U);
    for (unsigned i = 0; i < NATIVE_DATA_PAGES; i++) {
        uint32_t bits = protection[i] == NATIVE_NONE ? 0 : protection[i] == NATIVE_WRITE ? all : PTE_P | PTE_U;
        put_entry(m, TABLE_DATA, i, (DATA + i * PAGE_SIZE) | bits | (m->bits == 64 ? PTE_NX : 0));
    }
    for (unsigned i = 0; i < FLAT_MACHINE_KERNEL_PAGES; i++)
        put_entry(m, TABLE_KERNEL, i, i * PAGE_SIZE | PTE_P | PTE_W);
}

static void write_gate(struct flat_machine *m, unsigned v)
{
    uint64_t stub = kernel(m) + STUBS + v * STUB_SIZE;
    uint32_t type = v == VECTOR_BP || v == VECTOR_OF ? 0xee00 : 0x8e00, at = IDT + v * (m->bits == 64 ? 16 : 8);

    put32(m, at, (uint32_t)KERNEL_CS << 16 | (stub & 0xffff));
    put32(m, at + 4, (stub & 0xffff0000) | type);
    if (m->bits == 64)
        put64(m, at + 8, stub >> 32);
    put32(m, STUBS + v * STUB_SIZE, 0xf4f4f4f4); /* hlt */
}

static void write_descriptors(struct flat_machine *m)
{
    uint64_t tss = kernel(m) + TSS;
    uint32_t low = (uint32_t)tss;
    bool wide = m->bits == 64;

    write_descriptor(m, KERNEL_CS, 0x0000ffff, wide ? 0x00af9b00 : 0x00cf9b00);
    write_descriptor(m, KERNEL_DS, 0x0000ffff, 0x00cf9300);
    write_descriptor(m, NATIVE_CS32, 0x0000ffff, 0x00cffb00);
    write_descriptor(m, NATIVE_CS64, 0x0000ffff, 0x00affb00);
    write_descriptor(m, NATIVE_DS, 0x0000ffff, 0x00cff300);
    write_descriptor(m, TSS_SELECTOR, (low << 16) | 0x67, (low & 0xff000000) | 0x8b00 | (low >> 16 & 0xff));
    if (wide) {
        put64(m, GDT + TSS_SELECTOR + 8, tss >> 32);
        put64(m, TSS + 4, kernel(m) + KERNEL_STACK);
    } else {
        put32(m, TSS + 4, FLAT_MACHINE_KERNEL32 + KERNEL_STACK);
        put32(m, TSS + 8, KERNEL_DS);
    }
    for (unsigned v = 0; v < 32; v++)
        write_gate(m, v);
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

struct flat_machine *flat_machine_create(unsigned bits, const struct engine *engine,
                                         const struct engine_options *options, const char **why)
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
    m->bits = bits;
    cpu_model_init(&m->model, bits == 64, false);
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

void flat_machine_map_data(struct flat_machine *m, unsigned page, bool present)
{
    put_entry(m, TABLE_DATA, page,
              (DATA + page * PAGE_SIZE) | (present ? PTE_P | PTE_W | PTE_U : 0) | (m->bits == 64 ? PTE_NX : 0));
}

void flat_machine_write_handler(struct flat_machine *m, unsigned vector, const char *code, unsigned len)
{
    uint8_t stub[STUB_SIZE] = {0};
    memcpy(stub, code, len);
    memcpy(stub + len, m->bits == 64 ? "\x48\xcf" : "\xcf", m->bits == 64 ? 2 : 1);
    memory_write(&m->mem, gpa(STUBS + vector * STUB_SIZE), stub, sizeof stub);
}

static const uint8_t *code_pages(struct flat_machine *m)
{
    return memory_ram_hva(&m->mem, gpa(CODE));
}

void flat_machine_write_code(struct flat_machine *m, const uint8_t *code)
{
    memory_write(&m->mem, gpa(CODE), code, NATIVE_CODE_PAGES * NATIVE_PAGE);
}

uint8_t *flat_machine_data(struct flat_machine *m)
{
    return memory_ram_hva(&m->mem, gpa(DATA));
}

static struct segment flat_segment(uint16_t selector, uint32_t attr)
{
    return (struct segment){
        .limit = 0xffffffff, .attr = SEG_S | SEG_DPL | SEG_P | SEG_G | SEG_A | SEG_W | attr, .selector = selector};
}

static void load_system_registers(struct flat_machine *m)
{
    struct cpu *cpu = m->cpu;
    uint32_t cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
    uint32_t cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | (m->model.xcr0_mask ? CR4_OSXSAVE : 0);
    bool wide = m->bits == 64;
    uint64_t base = kernel(m);

    if (wide)
        mmu_set_paging(&cpu->mmu, cr0, cr4 | CR4_PAE | CR4_FSGSBASE, EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE);
    else
        mmu_set_paging(&cpu->mmu, cr0, cr4, 0);
    mmu_set_cr3(&cpu->mmu, wide ? PML4 : PAGE_DIRECTORY);
    cpu->xcr0 = m->model.xcr0_mask & 7;
    cpu->gdtr = (struct table_register){base + GDT, 0x4f};
    cpu->idtr = (struct table_register){base + IDT, wide ? 32 * 16 - 1 : 32 * 8 - 1};
    cpu->tr = (struct segment){.base = base + TSS, .limit = 0x67, .attr = 0x8b, .selector = TSS_SELECTOR};
}

void flat_machine_map_code_again(struct flat_machine *m, uint32_t higher)
{
    put_entry(m, PAGE_DIRECTORY, (NATIVE_CODE + higher) >> 22, TABLE_CODE | PTE_P | PTE_W | PTE_U);
}

void flat_machine_load_again(struct flat_machine *m, const struct native_state *in)
{
    struct cpu *cpu = m->cpu;
    const struct segment null = {.attr = SEG_UNUSABLE};
    bool wide = m->bits == 64;

    cpu_reset(cpu);
    load_system_registers(m);
    cpu->seg[SEG_CS] = flat_segment(wide ? NATIVE_CS64 : NATIVE_CS32, wide ? SEG_CODE | SEG_L : SEG_CODE | SEG_DB);
    cpu->seg[SEG_SS] = flat_segment(NATIVE_DS, SEG_DB);
    cpu->seg[SEG_DS] = cpu->seg[SEG_ES] = wide ? null : cpu->seg[SEG_SS];
    cpu->seg[SEG_FS] = cpu->seg[SEG_GS] = null;
    cpu->seg[SEG_FS].base = in->fs_base;
    cpu->seg[SEG_GS].base = in->gs_base;
    cpu->cpl = 3;
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = in->gpr[i];
    cpu->rip = in->rip;
    cpu->rflags = in->rflags;
    cpu->fpu_live = false;
    memcpy(cpu->xsave, in->xsave, m->model.xcr0_mask & 4 ? NATIVE_XSAVE_SIZE : 576);
    uint64_t components = 3 | (m->model.xcr0_mask & 4);
    memcpy(cpu->xsave + 512, &components, 8);
}

void flat_machine_load(struct flat_machine *m, const struct native_state *in)
{
    flat_machine_load_again(m, in);
    if (m->engine)
        m->engine->state_replaced(m->cpu);
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

static void read_state(struct flat_machine *m, struct native_result *out)
{
    const struct cpu *cpu = m->cpu;
    bool wide = m->bits == 64;

    memset(out, 0, sizeof *out);
    for (unsigned i = 0; i < 16; i++)
        out->state.gpr[i] = wide ? cpu->gpr[i] : i < 8 ? (uint32_t)cpu->gpr[i] : 0;
    out->state.rip = cpu->rip;
    out->state.rflags = cpu->rflags;
    if (wide) {
        out->state.fs_base = cpu->seg[SEG_FS].base;
        out->state.gs_base = cpu->seg[SEG_GS].base;
    }
    memcpy(out->state.xsave, cpu->xsave, NATIVE_XSAVE_SIZE);
}

bool flat_machine_run(struct flat_machine *m, struct native_result *out)
{
    struct cpu *cpu = m->cpu;
    enum engine_exit why = m->engine->run(cpu);
    bool wide = m->bits == 64;
    unsigned word = wide ? 8 : 4;
    uint64_t frame[6] = {0}, stub = cpu->rip - (kernel(m) + STUBS);

    read_state(m, out);
    if (why != ENGINE_EXIT_HALT || stub >= 32 * STUB_SIZE) {
        fprintf(stderr, "flat machine: exit %d at %08lx\n", why, (unsigned long)cpu->rip);
        return false;
    }
    uint64_t sp = wide ? cpu->gpr[GPR_SP] : (uint32_t)cpu->gpr[GPR_SP];
    bool has_error = kernel(m) + KERNEL_STACK - sp == 6 * word;
    const uint8_t *pushed = memory_ram_hva(&m->mem, gpa(sp - kernel(m)));
    for (unsigned i = 0; i < 6; i++)
        memcpy(&frame[i], pushed + i * word, word);
    const uint64_t *f = has_error ? frame + 1 : frame;
    out->vector = (uint32_t)stub / STUB_SIZE;
    out->error = has_error ? (uint32_t)frame[0] : 0;
    out->cr2 = wide ? cpu->cr2 : (uint32_t)cpu->cr2;
    out->state.rip = f[0];
    out->state.rflags = f[2];
    out->state.gpr[GPR_SP] = f[3];
    return true;
}

bool flat_machine_execute(struct flat_machine *m, const struct generator_case *c, struct native_result *out)
{
    struct cpu *cpu = m->cpu;
    int result = CPU_OK;

    for (unsigned steps = 0; steps < 100000; steps++) {
        struct insn insn;
        int i = generator_index(c, cpu->rip);
        if (i < 0)
            return false;
        if (i == (int)c->count)
            break;
        insn_decode(&insn, code_pages(m) + (cpu->rip - c->base - NATIVE_CODE), 15,
                    c->bits == 64 ? INSN_MODE_64 : INSN_MODE_32);
        if ((result = cpu_execute(cpu, &insn)))
            break;
    }
    cpu_fpu_unload(cpu);
    read_state(m, out);
    if (result == CPU_OK) { /* the int3 at the end */
        out->vector = VECTOR_BP;
        out->state.rip++;
    } else {
        out->vector = cpu->fault.vector;
        out->error = cpu->fault.has_error ? cpu->fault.error : 0;
        out->cr2 = cpu->fault.cr2;
    }
    return true;
}

unsigned long flat_machine_statistic(const struct flat_machine *m, const char *name)
{
    char key[80], *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    m->engine->stats(m->cpu, f);
    fclose(f);
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *at = strstr(text, key);
    unsigned long n = at ? strtoul(at + strlen(key), NULL, 10) : 0;
    free(text);
    return n;
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
    if (memcmp(a + 160, b + 160, 256))
        return "XMM registers";
    if (avx && memcmp(a + 576, b + 576, 256))
        return "upper halves of YMM registers";
    return NULL;
}

const char *flat_machine_compare(const struct native_result *a, const struct native_result *b, const uint8_t *data_a,
                                 const uint8_t *data_b, uint32_t undefined, bool avx)
{
    uint32_t flags = (FLAGS_ARITH | FLAG_DF) & ~undefined;
    uint32_t errors = a->cr2 >= 0x7ffffffff000 ? 6 : 7; /* Linux says "present" outside of its user part */
    struct native_state x = a->state, y = b->state;

    if (a->vector != b->vector)
        return "exception vector";
    if (a->state.rip != b->state.rip)
        return "instruction pointer";
    if (a->vector == VECTOR_PF && (a->cr2 != b->cr2 || (a->error & errors) != (b->error & errors)))
        return "page fault address or error code";
    if (memcmp(x.gpr, y.gpr, sizeof x.gpr))
        return "general registers";
    if (x.fs_base != y.fs_base || x.gs_base != y.gs_base)
        return "FS or GS base";
    if ((x.rflags ^ y.rflags) & flags)
        return "flags";
    normalise_xsave(x.xsave);
    normalise_xsave(y.xsave);
    const char *differs = compare_xsave(x.xsave, y.xsave, avx);
    if (differs)
        return differs;
    return memcmp(data_a, data_b, NATIVE_DATA_PAGES * NATIVE_PAGE) ? "memory" : NULL;
}

static void print_bytes(const char *name, unsigned n, const uint8_t *p, unsigned len)
{
    printf("    %s%u ", name, n);
    while (len--)
        printf("%02x", p[len]);
    printf("\n");
}

void flat_machine_print(const char *title, const struct native_result *r, bool avx)
{
    static const char *const names[16] = {"ax", "cx", "dx",  "bx",  "sp",  "bp",  "si",  "di",
                                          "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
    struct native_state s = r->state;
    uint16_t fcw, fsw;
    uint32_t mxcsr;

    normalise_xsave(s.xsave);
    memcpy(&fcw, s.xsave, 2);
    memcpy(&fsw, s.xsave + 2, 2);
    memcpy(&mxcsr, s.xsave + 24, 4);
    printf("  %s: vector %u error %x cr2 %08lx rip %08lx flags %08lx fs %lx gs %lx\n   ", title, r->vector, r->error,
           r->cr2, s.rip, s.rflags, s.fs_base, s.gs_base);
    for (unsigned i = 0; i < 16; i++)
        printf("%s%s %08lx", i == 8 ? "\n    " : " ", names[i], s.gpr[i]);
    printf("\n    fcw %04x fsw %04x tags %02x mxcsr %08x\n", fcw, fsw, s.xsave[4], mxcsr);
    for (unsigned i = 0; i < 8; i++)
        print_bytes("st", i, s.xsave + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 16; i++)
        print_bytes("xmm", i, s.xsave + 160 + 16 * i, 16);
    for (unsigned i = 0; avx && i < 16; i++)
        print_bytes("ymm.high", i, s.xsave + 576 + 16 * i, 16);
}

void flat_machine_print_case(const struct generator_case *c)
{
    printf("  seed %#lx, %u instructions\n", (unsigned long)c->seed, c->count);
    for (unsigned i = 0; i < c->count; i++) {
        const struct insn *insn = &c->insns[i].insn;
        uint64_t at = c->base + NATIVE_CODE + c->start + c->offset[i];
        char text[128];
        printf("    %08lx  ", at);
        for (unsigned k = 0; k < insn->len; k++)
            printf("%02x", insn->bytes[k]);
        printf("  %s", insn_format(insn, at, text, sizeof text));
        if (c->insns[i].address)
            printf("  [%lx]", (unsigned long)c->insns[i].address);
        if (c->insns[i].branch) /* the displacement is filled in later */
            printf("  -> %08lx", c->base + NATIVE_CODE + c->start + c->offset[c->insns[i].target]);
        printf("\n");
    }
}
