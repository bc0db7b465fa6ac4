/* SPDX-License-Identifier: MIT */
#include "bt/quick.h"

#include "bt/slow.h"

#include <Zydis/Mnemonic.h>

static bool wide_code(const struct bt_vcpu *v)
{
    return (v->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
}

static uint64_t next_rip(const struct bt_vcpu *v, const struct insn *in)
{
    uint64_t next = v->cpu.rip + in->len;
    return wide_code(v) ? next : (uint32_t)next;
}

/* The instruction is done, and translated code goes on behind it. */
static uintptr_t on_in_block(struct bt_vcpu *v)
{
    bt_load_vectors(v);
    return 0;
}

/* It is done, but the block may not go on. */
static uintptr_t on_behind(struct bt_vcpu *v, const struct insn *in)
{
    v->cpu.rip = next_rip(v, in);
    bt_flags_from_image(v);
    return bt_go_on(v);
}

/* Has something come up that the block may not go on over? */
static bool wanted_elsewhere(const struct bt_vcpu *v)
{
    const struct cpu *cpu = &v->cpu;
    return cpu->halted || (atomic_load_explicit(&cpu->events, memory_order_relaxed) & ~(uint32_t)CPU_EVENT_STEP) ||
           (v->held_events && (cpu->rflags & FLAG_IF));
}

/* ---- segment loads ---- */

/* The register that mov or pop loads, or -1: another instruction of the class. */
static int loaded_segment(const struct insn *in)
{
    if (in->map == MAP_PRIMARY && in->opcode == 0x8e)
        return in->modrm_reg < SEG_COUNT ? in->modrm_reg : -1;
    if (in->map == MAP_PRIMARY && in->opcode < 0x20 && (in->opcode & 7) == 7)
        return in->opcode >> 3;
    if (in->map == MAP_0F && (in->opcode == 0xa1 || in->opcode == 0xa9))
        return in->opcode == 0xa1 ? SEG_FS : SEG_GS;
    return -1;
}

/* The data segment that a selector of the GDT names. False: anything that is not quite usual, which the general code
 * looks into. */
static bool usual_data_segment(const struct cpu *cpu, unsigned selector, struct segment *s)
{
    uint32_t off = selector & ~7u;
    if (!off || (selector & 4) || off + 7 > cpu->gdtr.limit)
        return false;
    const uint8_t *at = cpu_known_host(cpu, cpu->gdtr.base + off, 8, MMU_READ | MMU_SUPERVISOR);
    if (!at)
        return false;
    uint64_t raw;
    __builtin_memcpy(&raw, at, 8);
    uint32_t limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000)), attr = (uint32_t)(raw >> 40) & 0xf0ff;
    unsigned rpl = selector & 3, dpl = (attr & SEG_DPL) >> SEG_DPL_SHIFT, privilege = rpl > cpu->cpl ? rpl : cpu->cpl;
    if ((attr & (SEG_P | SEG_S | SEG_CODE | SEG_A)) != (SEG_P | SEG_S | SEG_A) || privilege > dpl)
        return false;
    s->base = (uint32_t)((raw >> 16 & 0xffffff) | (raw >> 56 << 24));
    s->limit = attr & SEG_G ? limit << 12 | 0xfff : limit;
    s->attr = attr;
    s->selector = (uint16_t)selector;
    return true;
}

/* The selector that a pop takes from a flat stack. */
static bool popped_selector(const struct cpu *cpu, const struct insn *in, unsigned *selector)
{
    const uint8_t *at = cpu_known_host(cpu, cpu->gpr[GPR_SP], in->opsize, MMU_READ | cpu_access_rights(cpu));
    if (!at)
        return false;
    *selector = at[0] | at[1] << 8;
    return true;
}

/* mov and pop of DS, ES, FS or GS, which kernels do at every entry and exit. */
static uintptr_t quick_segment(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    const struct insn *in = &site->insn;
    unsigned seg = site->operand;
    struct segment *s = &cpu->seg[seg], now;
    bool pop = in->opcode != 0x8e;
    unsigned selector = cpu->gpr[in->rm.num & 15] & 0xffff;
    if (!cpu_protected(cpu) || (pop && !popped_selector(cpu, in, &selector)))
        return bt_callout(v, site);
    bool null_again = selector < 4 && s->selector == selector && (s->attr & SEG_UNUSABLE) && !cpu_long_mode(cpu);
    if (!null_again) {
        if (!usual_data_segment(cpu, selector, &now))
            return bt_callout(v, site);
        *s = now;
    }
    v->stats.callouts++;
    if (pop)
        cpu->gpr[GPR_SP] = wide_code(v) ? cpu->gpr[GPR_SP] + in->opsize : (uint32_t)(cpu->gpr[GPR_SP] + in->opsize);
    return bt_mode_follow_segment(v, seg) ? on_in_block(v) : on_behind(v, in);
}

static bool segment_is_quick(const struct insn *in, uint32_t mode, uint32_t *operand)
{
    int seg = loaded_segment(in);
    bool pop = in->opcode != 0x8e;
    if (seg < 0 || seg == SEG_CS || seg == SEG_SS || in->mem.present || (mode & BT_MODE_CODE_MASK) == INSN_MODE_16 ||
        (mode & (BT_MODE_SINGLE | BT_MODE_WATCH | BT_MODE_ALIGN)))
        return false;
    *operand = (uint32_t)seg;
    return !pop || (in->opsize >= 4 && (mode & BT_MODE_STACK32) && (mode & BT_MODE_FLAT_SS));
}

/* ---- repeated MOVS and STOS ---- */

typedef uint32_t unaligned32 __attribute__((aligned(1), may_alias));

static void copy_up(uint8_t *to, const uint8_t *from, uint64_t n, unsigned size)
{
    switch (size) {
    case 1:
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    case 2:
        __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    case 4:
        for (; n && n <= 24; n--, to += 4, from += 4) { /* the stack frames that kernels copy */
            uint32_t element = *(const volatile unaligned32 *)from;
            *(volatile unaligned32 *)to = element;
        }
        if (n)
            __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    default:
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
        break;
    }
}

static void fill_up(uint8_t *to, uint64_t value, uint64_t n, unsigned size)
{
    switch (size) {
    case 1:
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    case 2:
        __asm__ volatile("rep stosw" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    case 4:
        __asm__ volatile("rep stosl" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(value) : "memory");
        break;
    }
}

/* Upwards, in flat segments, within one page that the shadow tables know on each side. */
static uintptr_t quick_string(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    const struct insn *in = &site->insn;
    bool copies = (in->opcode & 0xfe) == 0xa4;
    uint64_t n = cpu->gpr[GPR_CX], *si = &cpu->gpr[GPR_SI], *di = &cpu->gpr[GPR_DI];
    unsigned size = in->opsize, rights = cpu_access_rights(cpu);
    if (n > PAGE_SIZE / size)
        return bt_callout(v, site);
    v->stats.callouts++;
    if (!n)
        return on_in_block(v);
    unsigned bytes = (unsigned)n * size;
    uint8_t *to = cpu_known_host(cpu, *di, bytes, MMU_WRITE | rights);
    const uint8_t *from = copies ? cpu_known_host(cpu, *si, bytes, MMU_READ | rights) : to;
    if (!to || !from)
        return bt_callout(v, site);
    if (copies)
        copy_up(to, from, n, size);
    else
        fill_up(to, cpu->gpr[GPR_AX], n, size);
    *di = wide_code(v) ? *di + bytes : (uint32_t)(*di + bytes);
    if (copies)
        *si = wide_code(v) ? *si + bytes : (uint32_t)(*si + bytes);
    cpu->gpr[GPR_CX] = 0;
    return on_in_block(v);
}

static bool flat_data(const struct insn *in, uint32_t mode, unsigned seg)
{
    if ((mode & BT_MODE_CODE_MASK) == INSN_MODE_64)
        return seg != SEG_FS && seg != SEG_GS && in->addrsize == 8;
    uint32_t bit = seg == SEG_DS   ? BT_MODE_FLAT_DS
                   : seg == SEG_ES ? BT_MODE_FLAT_ES
                   : seg == SEG_SS ? BT_MODE_FLAT_SS
                                   : 0;
    return (mode & bit) && in->addrsize == 4;
}

static bool string_is_quick(const struct insn *in, uint32_t mode)
{
    bool copies = (in->opcode & 0xfe) == 0xa4, fills = (in->opcode & 0xfe) == 0xaa;
    if (!in->rep || in->map != MAP_PRIMARY || !(copies || fills) || !flat_data(in, mode, SEG_ES) ||
        (mode & (BT_MODE_DF | BT_MODE_SINGLE | BT_MODE_WATCH | BT_MODE_ALIGN)))
        return false;
    return fills || flat_data(in, mode, in->mem.seg);
}

/* ---- ports ---- */

/* IN and OUT where IOPL allows them and no I/O breakpoint waits. */
static uintptr_t quick_port(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    const struct insn *in = &site->insn;
    unsigned iopl = (cpu->rflags & EFLAGS_IOPL) >> EFLAGS_IOPL_SHIFT, size = site->operand;
    uint16_t port = in->opcode & 8 ? (uint16_t)cpu->gpr[GPR_DX] : (uint8_t)in->imm;
    bool allowed = cpu->cpl <= iopl && !cpu_v8086(cpu);
    if (!allowed || (cpu->dr[7] & 0xff) || (v->mode & BT_MODE_SINGLE))
        return bt_callout(v, site);
    v->stats.callouts++;
    v->smc_hit = false;
    if (in->opcode & 2)
        cpu_out_allowed(cpu, port, size);
    else
        cpu_in_allowed(cpu, port, size);
    return v->mode_stale || v->smc_hit || wanted_elsewhere(v) ? on_behind(v, in) : on_in_block(v);
}

/* ---- CR8 ---- */

/* mov to and from CR8 at CPL 0 with a local APIC. Written with what it holds, it does nothing. */
static uintptr_t quick_cr8(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    const struct insn *in = &site->insn;
    uint64_t *reg = &cpu->gpr[in->rm.num & 15];
    const _Atomic uint8_t *tpr = cpu->board ? cpu->board->tpr : NULL;
    if (!tpr || !cpu->wide || (in->reg.write && *reg > 15))
        return bt_callout(v, site);
    v->stats.callouts++;
    unsigned now = atomic_load_explicit(tpr, memory_order_relaxed);
    if (!in->reg.write) {
        *reg = cpu->cr8 = (uint8_t)(now >> 4);
        return on_in_block(v);
    }
    cpu->cr8 = (uint8_t)*reg;
    if (now != *reg << 4) {
        cpu_fpu_park(cpu);
        cpu->board->cr8_write(cpu->board->opaque, (unsigned)*reg);
        cpu_fpu_unpark(cpu);
    }
    return wanted_elsewhere(v) ? on_behind(v, in) : on_in_block(v);
}

/* ---- between rings ---- */

enum { TO_SYSENTER, TO_SYSEXIT, TO_SYSCALL, TO_SYSRET, TO_IRET, TO_INT };

static int transfer(struct cpu *cpu, const struct insn *in, unsigned what)
{
    switch (what) {
    case TO_SYSENTER:
        return cpu_sysenter(cpu);
    case TO_SYSEXIT:
        return cpu_sysexit(cpu, in->opsize);
    case TO_SYSCALL:
        return cpu_syscall(cpu);
    case TO_SYSRET:
        return cpu_sysret(cpu, in->opsize);
    case TO_IRET:
        return cpu_iret(cpu, in->opsize);
    default:
        return cpu_int(cpu, (uint8_t)in->imm, false);
    }
}

static uintptr_t quick_transfer(struct bt_vcpu *v, const struct bt_site *site)
{
    struct cpu *cpu = &v->cpu;
    v->stats.callouts++;
    bt_flags_from_image(v);
    cpu->next_rip = next_rip(v, &site->insn);
    if (transfer(cpu, &site->insn, site->operand))
        return bt_go_on_fault(v);
    v->mode_stale = true;
    return bt_go_on(v);
}

static bool transfer_is_quick(const struct insn *in, uint32_t mode, uint32_t *operand)
{
    static const struct {
        uint16_t mnemonic;
        uint8_t what;
    } known[] = {{ZYDIS_MNEMONIC_SYSENTER, TO_SYSENTER}, {ZYDIS_MNEMONIC_SYSEXIT, TO_SYSEXIT},
                 {ZYDIS_MNEMONIC_SYSCALL, TO_SYSCALL},   {ZYDIS_MNEMONIC_SYSRET, TO_SYSRET},
                 {ZYDIS_MNEMONIC_IRET, TO_IRET},         {ZYDIS_MNEMONIC_IRETD, TO_IRET},
                 {ZYDIS_MNEMONIC_IRETQ, TO_IRET},        {ZYDIS_MNEMONIC_INT, TO_INT}};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (in->mnemonic == known[i].mnemonic) {
            *operand = known[i].what;
            return !(mode & BT_MODE_SINGLE);
        }
    return false;
}

bt_run_fn *bt_quick_run(const struct insn *in, uint32_t mode, uint32_t *operand)
{
    *operand = 0;
    switch (in->cls) {
    case INSN_SEGMENT:
        return segment_is_quick(in, mode, operand) ? quick_segment : bt_callout;
    case INSN_FAR:
        return transfer_is_quick(in, mode, operand) ? quick_transfer : bt_callout;
    case INSN_STRING:
        return string_is_quick(in, mode) ? quick_string : bt_callout;
    case INSN_SYSTEM:
        if (in->reg.cls == REGCLASS_CONTROL && in->reg.num == 8 && in->rm.cls == REGCLASS_GPR &&
            (mode & BT_MODE_CPL0) && (mode & BT_MODE_CODE_MASK) == INSN_MODE_64)
            return quick_cr8;
        if (in->mnemonic != ZYDIS_MNEMONIC_IN && in->mnemonic != ZYDIS_MNEMONIC_OUT)
            return bt_callout;
        *operand = !(in->opcode & 1) ? 1 : in->opsize > 4 ? 4 : in->opsize;
        return quick_port;
    default:
        return bt_callout;
    }
}

bool bt_quick_modal(const struct insn *in)
{
    switch (in->cls) {
    case INSN_FAR:
    case INSN_SEGMENT:
    case INSN_STACK:
    case INSN_FLAGS:
        return true;
    case INSN_SYSTEM:
        break;
    default:
        return false;
    }
    switch (in->mnemonic) { /* all others say so themselves (cpu->mode_changed), but who will count on that? */
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDMSR:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_HLT:
        return false;
    case ZYDIS_MNEMONIC_MOV:
        return in->reg.write && !(in->reg.cls == REGCLASS_CONTROL && in->reg.num == 8);
    default:
        return true;
    }
}
