/* SPDX-License-Identifier: MIT */
/* Two processor states side by side. */
#include "frontend/lockstep_internal.h"

#include "bt/cache.h"

#include <inttypes.h>
#include <string.h>

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

bool state_quick_same(const struct cpu *a, const struct cpu *b, uint64_t ignored)
{
    return a->rip == b->rip && !((a->rflags ^ b->rflags) & ~ignored) && !memcmp(a->gpr, b->gpr, sizeof a->gpr) &&
           a->halted == b->halted && a->shutdown == b->shutdown;
}

struct sheet {
    FILE *out; /* NULL: only the answer */
    const char *name_a, *name_b;
    bool same;
};

static void value(struct sheet *s, const char *name, uint64_t a, uint64_t b)
{
    if (a == b)
        return;
    s->same = false;
    if (s->out)
        fprintf(s->out, "  %-18s %s %016" PRIx64 "   %s %016" PRIx64 "\n", name, s->name_a, a, s->name_b, b);
}

static void segment(struct sheet *s, const char *name, const struct segment *a, const struct segment *b)
{
    char full[24];
    if (a->selector == b->selector && a->base == b->base && a->limit == b->limit && a->attr == b->attr)
        return;
    const struct {
        const char *field;
        uint64_t a, b;
    } fields[] = {{"selector", a->selector, b->selector},
                  {"base", a->base, b->base},
                  {"limit", a->limit, b->limit},
                  {"attributes", a->attr, b->attr}};
    for (unsigned i = 0; i < 4; i++) {
        snprintf(full, sizeof full, "%s %s", name, fields[i].field);
        value(s, full, fields[i].a, fields[i].b);
    }
}

/* ---- x87 and vector state ---- */

/* The standard XSAVE format, SDM vol. 1, 13.4. The x87 instruction and data pointers are the host's doing
 * (cpu/cpu.h). */
enum {
    X87_CONTROL = 0,
    X87_STATUS = 2,
    X87_TAGS = 4,
    X87_OPCODE = 6,
    MXCSR_AT = 24,
    X87_REGISTERS = 32,
    XMM_AT = 160,
    HEADER_AT = 512,
    YMM_HIGH_AT = 576
};
enum { COMPONENT_X87 = 1, COMPONENT_SSE = 2, COMPONENT_AVX = 4 };

static uint64_t load(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

/* A field as XRSTOR would load it: initial when its component is absent. */
static uint64_t field(const struct cpu *cpu, unsigned component, unsigned at, unsigned size, uint64_t initial)
{
    return load(cpu->xsave + HEADER_AT, 8) & component ? load(cpu->xsave + at, size) : initial;
}

static void fpu(struct sheet *s, const struct cpu *a, const struct cpu *b)
{
    char name[24];
    if (!memcmp(a->xsave, b->xsave, X87_OPCODE) &&
        !memcmp(a->xsave + MXCSR_AT, b->xsave + MXCSR_AT, CPU_XSAVE_SIZE - MXCSR_AT))
        return; /* as nearly always */
    value(s, "x87 control", field(a, COMPONENT_X87, X87_CONTROL, 2, 0x37f),
          field(b, COMPONENT_X87, X87_CONTROL, 2, 0x37f));
    value(s, "x87 status", field(a, COMPONENT_X87, X87_STATUS, 2, 0), field(b, COMPONENT_X87, X87_STATUS, 2, 0));
    value(s, "x87 tags", field(a, COMPONENT_X87, X87_TAGS, 1, 0), field(b, COMPONENT_X87, X87_TAGS, 1, 0));
    for (unsigned i = 0; i < 8; i++) {
        unsigned at = X87_REGISTERS + 16 * i;
        snprintf(name, sizeof name, "st%u", i);
        value(s, name, field(a, COMPONENT_X87, at, 8, 0), field(b, COMPONENT_X87, at, 8, 0));
        snprintf(name, sizeof name, "st%u exponent", i);
        value(s, name, field(a, COMPONENT_X87, at + 8, 2, 0), field(b, COMPONENT_X87, at + 8, 2, 0));
    }
    value(s, "mxcsr", load(a->xsave + MXCSR_AT, 4), load(b->xsave + MXCSR_AT, 4));
    for (unsigned i = 0; i < 32; i++) {
        snprintf(name, sizeof name, "xmm%u %s", i / 2, i & 1 ? "high" : "low");
        value(s, name, field(a, COMPONENT_SSE, XMM_AT + 8 * i, 8, 0), field(b, COMPONENT_SSE, XMM_AT + 8 * i, 8, 0));
        snprintf(name, sizeof name, "ymm%u %s", i / 2, i & 1 ? "bits 192-255" : "bits 128-191");
        value(s, name, field(a, COMPONENT_AVX, YMM_HIGH_AT + 8 * i, 8, 0),
              field(b, COMPONENT_AVX, YMM_HIGH_AT + 8 * i, 8, 0));
    }
}

/* ---- all of it ---- */

static void control(struct sheet *s, const struct cpu *a, const struct cpu *b)
{
    value(s, "cpl", a->cpl, b->cpl);
    value(s, "cr0", a->mmu.cr0, b->mmu.cr0);
    value(s, "cr2", a->cr2, b->cr2);
    value(s, "cr3", a->mmu.cr3, b->mmu.cr3);
    value(s, "cr4", a->mmu.cr4, b->mmu.cr4);
    value(s, "cr8", a->cr8, b->cr8);
    value(s, "efer", a->mmu.efer, b->mmu.efer);
    value(s, "xcr0", a->xcr0, b->xcr0);
    value(s, "gdtr base", a->gdtr.base, b->gdtr.base);
    value(s, "gdtr limit", a->gdtr.limit, b->gdtr.limit);
    value(s, "idtr base", a->idtr.base, b->idtr.base);
    value(s, "idtr limit", a->idtr.limit, b->idtr.limit);
    value(s, "tsc offset", a->tsc_offset, b->tsc_offset);
    value(s, "nmi blocked", a->nmi_blocked, b->nmi_blocked);
    for (unsigned i = 0; i < 8 && memcmp(a->dr, b->dr, sizeof a->dr); i++) {
        char name[8];
        snprintf(name, sizeof name, "dr%u", i);
        value(s, name, a->dr[i], b->dr[i]);
    }
}

static void msrs(struct sheet *s, const struct cpu *a, const struct cpu *b)
{
    const struct {
        const char *name;
        uint64_t a, b;
    } list[] = {
#define MSR(field) {#field, a->msr.field, b->msr.field}
        MSR(sysenter_cs),   MSR(sysenter_esp), MSR(sysenter_eip),   MSR(star),     MSR(lstar),       MSR(cstar),
        MSR(sfmask),        MSR(tsc_aux),      MSR(kernel_gs_base), MSR(pat),      MSR(misc_enable), MSR(apic_base),
        MSR(mtrr_def_type), MSR(mcg_status),   MSR(tsc_deadline),   MSR(amd_hwcr), MSR(amd_de_cfg)
#undef MSR
    };
    for (unsigned i = 0; i < sizeof list / sizeof *list; i++)
        value(s, list[i].name, list[i].a, list[i].b);
}

bool state_same(const struct cpu *a, const struct cpu *b, uint64_t ignored, FILE *out, const char *name_a,
                const char *name_b)
{
    static const char *const segments[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    struct sheet s = {.out = out, .name_a = name_a, .name_b = name_b, .same = true};
    value(&s, "rip", a->rip, b->rip);
    for (unsigned i = 0; i < 16; i++)
        value(&s, gpr_names[i], a->gpr[i], b->gpr[i]);
    value(&s, "rflags", a->rflags & ~ignored, b->rflags & ~ignored);
    value(&s, "halted", a->halted, b->halted);
    value(&s, "shutdown", a->shutdown, b->shutdown);
    for (unsigned i = 0; i < SEG_COUNT && memcmp(a->seg, b->seg, sizeof a->seg); i++)
        segment(&s, segments[i], &a->seg[i], &b->seg[i]);
    segment(&s, "ldtr", &a->ldtr, &b->ldtr);
    segment(&s, "tr", &a->tr, &b->tr);
    control(&s, a, b);
    msrs(&s, a, b);
    fpu(&s, a, b);
    return s.same;
}

/* ---- code ---- */

enum insn_mode code_mode(const struct cpu *cpu)
{
    return cpu_code64(cpu) ? INSN_MODE_64 : cpu->seg[SEG_CS].attr & SEG_DB ? INSN_MODE_32 : INSN_MODE_16;
}

unsigned code_peek(struct lockstep *l, const struct cpu *cpu, uint64_t rip, uint8_t bytes[15])
{
    struct mmu walker = cpu->mmu; /* a walk needs only the paging state */
    unsigned n = 0;
    walker.mem = &l->mirror;
    const uint8_t *page = NULL;
    for (; n < 15; n++) {
        uint64_t lin = cpu_code64(cpu) ? rip + n : (uint32_t)(cpu->seg[SEG_CS].base + rip + n);
        struct mmu_fault fault;
        gpa_t at;
        if (!page || !(lin & PAGE_MASK)) {
            if (mmu_translate(&walker, lin, MMU_EXEC | MMU_SUPERVISOR | MMU_PROBE, &at, &fault))
                break;
            page = memory_page(&l->mirror, gpa_gfn(at)).read;
        }
        if (!page)
            break;
        bytes[n] = page[lin & PAGE_MASK];
    }
    return n;
}

bool code_peek_byte(struct lockstep *l, const struct cpu *cpu, uint64_t at, uint8_t *byte)
{
    struct mmu walker = cpu->mmu;
    struct mmu_fault fault;
    gpa_t where;
    walker.mem = &l->mirror;
    if (mmu_translate(&walker, at, MMU_READ | MMU_SUPERVISOR | MMU_PROBE, &where, &fault))
        return false;
    const uint8_t *page = memory_page(&l->mirror, gpa_gfn(where)).read;
    if (page)
        *byte = page[where.v & PAGE_MASK];
    return page;
}

uint64_t code_dead_flags(struct lockstep *l, const struct cpu *cpu)
{
    uint64_t rip = cpu->rip, dead = 0, live = 0;
    for (unsigned i = 0; i < BT_BLOCK_MAX_INSNS && (dead | live) != FLAGS_ARITH; i++) {
        uint8_t bytes[15];
        struct insn in;
        int len = insn_decode(&in, bytes, code_peek(l, cpu, rip, bytes), code_mode(cpu));
        if (len <= 0 || in.cls == INSN_UNDEFINED)
            break;
        live |= in.flags_read & FLAGS_ARITH & ~dead;
        dead |= in.flags_written & FLAGS_ARITH & ~live;
        if (insn_transfers(&in)) /* STI ends blocks, too, but need not end the translator's */
            break;
        rip += (unsigned)len;
    }
    return dead;
}
