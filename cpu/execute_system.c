/* SPDX-License-Identifier: MIT */
/* Privileged and virtualised instructions: operands here, the operation itself in the files of its subject. */
#include "cpu/execute_internal.h"

#include <Zydis/Mnemonic.h>

/* The result of an operation that does not move rip. */
static int finished(struct cpu *cpu, int result)
{
    return result == CPU_OK ? done(cpu) : result;
}

static int system_in_out(struct cpu *cpu, const struct insn *insn)
{
    unsigned size = !(insn->opcode & 1) ? 1 : insn->opsize > 4 ? 4 : insn->opsize;
    uint16_t port = insn->opcode & 8 ? (uint16_t)cpu->gpr[GPR_DX] : (uint8_t)insn->imm;

    return finished(cpu, insn->opcode & 2 ? cpu_out(cpu, port, size) : cpu_in(cpu, port, size));
}

static int system_mov(struct cpu *cpu, const struct insn *insn)
{
    bool debug = insn->reg.cls == REGCLASS_DEBUG;
    unsigned n = insn->reg.num;
    uint64_t v = execute_read_reg(cpu, &insn->rm);

    if (insn->reg.write)
        return finished(cpu, debug ? cpu_write_dr(cpu, n, v) : cpu_write_cr(cpu, n, v));
    if (debug ? cpu_read_dr(cpu, n, &v) : cpu_read_cr(cpu, n, &v))
        return CPU_FAULT;
    execute_write_reg(cpu, &insn->rm, v);
    return done(cpu);
}

static int system_load_table(struct cpu *cpu, const struct insn *insn)
{
    unsigned base_size = cpu_code64(cpu) ? 8 : 4;
    uint8_t image[10] = {0};
    uint16_t limit;
    uint64_t base;

    if (cpu->cpl)
        return fault_gp(cpu, 0);
    if (cpu_read_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), image, base_size + 2))
        return CPU_FAULT;
    __builtin_memcpy(&limit, image, 2);
    __builtin_memcpy(&base, image + 2, 8);
    if (base_size == 4 && insn->opsize == 2)
        base &= 0xffffff;
    return finished(cpu,
                    insn->mnemonic == ZYDIS_MNEMONIC_LGDT ? cpu_lgdt(cpu, base, limit) : cpu_lidt(cpu, base, limit));
}

static int system_store_table(struct cpu *cpu, const struct insn *insn, const struct table_register *t)
{
    uint8_t image[10];

    if (cpu_umip_check(cpu))
        return CPU_FAULT;
    __builtin_memcpy(image, &t->limit, 2);
    __builtin_memcpy(image + 2, &t->base, 8);
    return finished(
        cpu, cpu_write_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), image, cpu_code64(cpu) ? 10 : 6));
}

/* sldt, str, smsw: memory gets 16 bits, a register the operand size. */
static int system_store_word(struct cpu *cpu, const struct insn *insn, uint64_t value)
{
    if (cpu_umip_check(cpu))
        return CPU_FAULT;
    return finished(cpu, execute_store_rm(cpu, insn, 2, value));
}

static int system_load_selector(struct cpu *cpu, const struct insn *insn)
{
    uint64_t selector;

    if (cpu->cpl)
        return fault_gp(cpu, 0);
    if (execute_load_rm(cpu, insn, 2, &selector))
        return CPU_FAULT;
    return finished(cpu, insn->mnemonic == ZYDIS_MNEMONIC_LLDT ? cpu_lldt(cpu, (uint16_t)selector)
                                                               : cpu_ltr(cpu, (uint16_t)selector));
}

static int system_lmsw(struct cpu *cpu, const struct insn *insn)
{
    uint64_t value;

    if (cpu->cpl)
        return fault_gp(cpu, 0);
    if (execute_load_rm(cpu, insn, 2, &value))
        return CPU_FAULT;
    return finished(cpu, cpu_lmsw(cpu, (uint16_t)value));
}

static int system_lar_lsl(struct cpu *cpu, const struct insn *insn)
{
    uint64_t selector;
    uint32_t value = 0;

    if (execute_load_rm(cpu, insn, 2, &selector))
        return CPU_FAULT;
    if (insn->mnemonic == ZYDIS_MNEMONIC_LAR ? cpu_lar(cpu, (uint16_t)selector, &value)
                                             : cpu_lsl(cpu, (uint16_t)selector, &value))
        return CPU_FAULT;
    if (cpu->rflags & FLAG_ZF)
        execute_write_reg(cpu, &insn->reg, value);
    return done(cpu);
}

static int system_verify(struct cpu *cpu, const struct insn *insn)
{
    uint64_t selector;
    if (execute_load_rm(cpu, insn, 2, &selector))
        return CPU_FAULT;
    return finished(cpu, cpu_verify(cpu, (uint16_t)selector, insn->mnemonic == ZYDIS_MNEMONIC_VERW));
}

static int system_arpl(struct cpu *cpu, const struct insn *insn)
{
    uint64_t selector, other = execute_read_reg(cpu, &insn->reg);

    if (execute_load_rm(cpu, insn, 2, &selector))
        return CPU_FAULT;
    if ((selector & 3) < (other & 3)) {
        if (execute_store_rm(cpu, insn, 2, (selector & ~3ull) | (other & 3)))
            return CPU_FAULT;
        cpu->rflags |= FLAG_ZF;
    } else {
        cpu->rflags &= ~(uint64_t)FLAG_ZF;
    }
    return done(cpu);
}

static int system_bound(struct cpu *cpu, const struct insn *insn)
{
    unsigned size = insn->opsize;
    uint64_t off = cpu_effective_address(cpu, insn), low = 0, high = 0;
    int64_t index = execute_signed(execute_read_reg(cpu, &insn->reg), size);

    if (cpu_read_seg(cpu, insn->mem.seg, off, &low, size) ||
        cpu_read_seg(cpu, insn->mem.seg, (off + size) & execute_size_mask(insn->addrsize), &high, size))
        return CPU_FAULT;
    if (index < execute_signed(low, size) || index > execute_signed(high, size))
        return cpu_raise_fault(cpu, VECTOR_BR);
    return done(cpu);
}

/* The linear address without the checks of an access: there is none. */
static int system_invlpg(struct cpu *cpu, const struct insn *insn)
{
    uint64_t gva = cpu_effective_address(cpu, insn);
    enum seg seg = insn->mem.seg;

    if (!cpu_code64(cpu))
        gva = (uint32_t)(gva + cpu->seg[seg].base);
    else if (seg == SEG_FS || seg == SEG_GS)
        gva += cpu->seg[seg].base;
    return finished(cpu, cpu_invlpg(cpu, gva));
}

static int system_invpcid(struct cpu *cpu, const struct insn *insn)
{
    uint64_t descriptor[2];

    if (cpu->cpl)
        return fault_gp(cpu, 0);
    if (cpu_read_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), descriptor, sizeof descriptor))
        return CPU_FAULT;
    return finished(cpu, cpu_invpcid(cpu, execute_read_reg(cpu, &insn->reg), descriptor[0], descriptor[1]));
}

/* Those that real and v8086 modes do not know. */
static int system_descriptor(struct cpu *cpu, const struct insn *insn)
{
    if (!cpu_protected(cpu))
        return cpu_raise_fault(cpu, VECTOR_UD);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
        return system_load_selector(cpu, insn);
    case ZYDIS_MNEMONIC_SLDT:
        return system_store_word(cpu, insn, cpu->ldtr.selector);
    case ZYDIS_MNEMONIC_STR:
        return system_store_word(cpu, insn, cpu->tr.selector);
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
        return system_lar_lsl(cpu, insn);
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
        return system_verify(cpu, insn);
    default:
        return system_arpl(cpu, insn);
    }
}

int execute_system(struct cpu *cpu, const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_OUT:
        return system_in_out(cpu, insn);
    case ZYDIS_MNEMONIC_MOV:
        return system_mov(cpu, insn);
    case ZYDIS_MNEMONIC_CPUID:
        return finished(cpu, cpu_cpuid(cpu));
    case ZYDIS_MNEMONIC_RDTSC:
        return finished(cpu, cpu_rdtsc(cpu, false));
    case ZYDIS_MNEMONIC_RDTSCP:
        return finished(cpu, cpu_rdtsc(cpu, true));
    case ZYDIS_MNEMONIC_RDPMC:
        return finished(cpu, cpu_rdpmc(cpu));
    case ZYDIS_MNEMONIC_RDMSR:
        return finished(cpu, cpu_rdmsr(cpu));
    case ZYDIS_MNEMONIC_WRMSR:
        return finished(cpu, cpu_wrmsr(cpu));
    case ZYDIS_MNEMONIC_HLT:
        return finished(cpu, cpu_hlt(cpu));
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
        return system_load_table(cpu, insn);
    case ZYDIS_MNEMONIC_SGDT:
        return system_store_table(cpu, insn, &cpu->gdtr);
    case ZYDIS_MNEMONIC_SIDT:
        return system_store_table(cpu, insn, &cpu->idtr);
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_ARPL:
        return system_descriptor(cpu, insn);
    case ZYDIS_MNEMONIC_LMSW:
        return system_lmsw(cpu, insn);
    case ZYDIS_MNEMONIC_SMSW:
        return system_store_word(cpu, insn, cpu->mmu.cr0);
    case ZYDIS_MNEMONIC_CLTS:
        return finished(cpu, cpu_clts(cpu));
    case ZYDIS_MNEMONIC_INVLPG:
        return system_invlpg(cpu, insn);
    case ZYDIS_MNEMONIC_INVPCID:
        return system_invpcid(cpu, insn);
    case ZYDIS_MNEMONIC_INVD:
    case ZYDIS_MNEMONIC_WBINVD:
        return finished(cpu, cpu_wbinvd(cpu));
    case ZYDIS_MNEMONIC_XGETBV:
        return finished(cpu, cpu_xgetbv(cpu));
    case ZYDIS_MNEMONIC_XSETBV:
        return finished(cpu, cpu_xsetbv(cpu));
    case ZYDIS_MNEMONIC_MONITOR:
    case ZYDIS_MNEMONIC_MWAIT:
        return finished(cpu, cpu_monitor(cpu));
    case ZYDIS_MNEMONIC_CLAC:
        return finished(cpu, cpu_clac_stac(cpu, false));
    case ZYDIS_MNEMONIC_STAC:
        return finished(cpu, cpu_clac_stac(cpu, true));
    case ZYDIS_MNEMONIC_SWAPGS:
        return finished(cpu, cpu_swapgs(cpu));
    case ZYDIS_MNEMONIC_BOUND:
        return system_bound(cpu, insn);
    default: /* rsm outside of system management mode */
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}
