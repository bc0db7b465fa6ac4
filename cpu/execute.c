/* SPDX-License-Identifier: MIT */
/* cpu_execute: dispatch by class, operands, moves and near branches. */
#include "cpu/execute_internal.h"

#include <Zydis/Mnemonic.h>

uint64_t cpu_effective_address(const struct cpu *cpu, const struct insn *insn)
{
    const struct insn_mem *mem = &insn->mem;
    uint64_t off = (uint64_t)mem->disp;

    if (mem->base == GPR_IP)
        off += cpu->rip + insn->len;
    else if (mem->base != GPR_NONE)
        off += cpu->gpr[mem->base & 15];
    if (mem->index != GPR_NONE && !mem->vsib)
        off += cpu->gpr[mem->index & 15] * mem->scale;
    return off & execute_size_mask(insn->addrsize);
}

int execute_load_rm(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t *value)
{
    uint64_t v = 0;
    if (!insn->mem.present) {
        *value = execute_read_reg(cpu, &insn->rm) & execute_size_mask(size);
        return CPU_OK;
    }
    if (cpu_read_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), &v, size))
        return CPU_FAULT;
    *value = v;
    return CPU_OK;
}

int execute_store_rm(struct cpu *cpu, const struct insn *insn, unsigned size, uint64_t value)
{
    if (!insn->mem.present) {
        execute_write_reg(cpu, &insn->rm, value);
        return CPU_OK;
    }
    return cpu_write_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), &value, size);
}

int execute_probe_write(struct cpu *cpu, enum seg seg, uint64_t off, unsigned size)
{
    uint64_t gva;
    if (cpu_segment_check(cpu, seg, off, size, true, &gva))
        return CPU_FAULT;
    return cpu_probe_linear(cpu, gva, size, MMU_WRITE | cpu_access_rights(cpu));
}

int execute_push(struct cpu *cpu, uint64_t value, unsigned size)
{
    uint64_t sp = (cpu->gpr[GPR_SP] - size) & cpu_stack_mask(cpu);
    if (cpu_write_seg(cpu, SEG_SS, sp, &value, size))
        return CPU_FAULT;
    stack_pointer_set(cpu, sp);
    return CPU_OK;
}

/* ---- mov, movzx, movsx, lea, xchg ---- */

static int move_xchg(struct cpu *cpu, const struct insn *insn)
{
    const struct insn_reg accumulator = {.cls = REGCLASS_GPR, .num = GPR_AX, .size = insn->opsize};
    uint64_t a, b;

    if (!insn->has_modrm) {
        a = execute_read_reg(cpu, &accumulator);
        b = execute_read_reg(cpu, &insn->opreg);
        execute_write_reg(cpu, &accumulator, b);
        execute_write_reg(cpu, &insn->opreg, a);
        return done(cpu);
    }
    a = execute_read_reg(cpu, &insn->reg);
    if (insn->mem.present && execute_probe_write(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), insn->mem.size))
        return CPU_FAULT;
    if (execute_load_rm(cpu, insn, insn->opsize, &b) || execute_store_rm(cpu, insn, insn->opsize, a))
        return CPU_FAULT;
    execute_write_reg(cpu, &insn->reg, b);
    return done(cpu);
}

/* mov between the accumulator and an absolute address */
static int move_moffs(struct cpu *cpu, const struct insn *insn)
{
    uint64_t off = cpu_effective_address(cpu, insn), v = 0;

    if (insn->opcode >= 0xa2) {
        v = cpu->gpr[GPR_AX];
        if (cpu_write_seg(cpu, insn->mem.seg, off, &v, insn->opsize))
            return CPU_FAULT;
    } else {
        if (cpu_read_seg(cpu, insn->mem.seg, off, &v, insn->opsize))
            return CPU_FAULT;
        execute_write_gpr(cpu, GPR_AX, insn->opsize, v);
    }
    return done(cpu);
}

static int move_mov(struct cpu *cpu, const struct insn *insn)
{
    uint64_t v;

    if (insn->mem.moffs)
        return move_moffs(cpu, insn);
    switch (insn->opcode) {
    case 0x88:
    case 0x89:
        if (execute_store_rm(cpu, insn, insn->opsize, execute_read_reg(cpu, &insn->reg)))
            return CPU_FAULT;
        break;
    case 0x8a:
    case 0x8b:
        if (execute_load_rm(cpu, insn, insn->opsize, &v))
            return CPU_FAULT;
        execute_write_reg(cpu, &insn->reg, v);
        break;
    case 0xc6:
    case 0xc7:
        if (execute_store_rm(cpu, insn, insn->opsize, insn->imm))
            return CPU_FAULT;
        break;
    default: /* b0-bf */
        execute_write_reg(cpu, &insn->opreg, insn->imm);
        break;
    }
    return done(cpu);
}

static int execute_move(struct cpu *cpu, const struct insn *insn)
{
    unsigned source = insn->mem.present ? insn->mem.size : insn->rm.size;
    uint64_t v;

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return move_mov(cpu, insn);
    case ZYDIS_MNEMONIC_XCHG:
        return move_xchg(cpu, insn);
    case ZYDIS_MNEMONIC_LEA:
        execute_write_reg(cpu, &insn->reg, cpu_effective_address(cpu, insn));
        return done(cpu);
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        if (execute_load_rm(cpu, insn, source, &v))
            return CPU_FAULT;
        if (insn->mnemonic != ZYDIS_MNEMONIC_MOVZX)
            v = (uint64_t)execute_signed(v, source);
        execute_write_reg(cpu, &insn->reg, v);
        return done(cpu);
    default:
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}

/* ---- near branches ---- */

int execute_check_target(struct cpu *cpu, const struct insn *insn, uint64_t *target)
{
    *target &= execute_size_mask(insn->opsize);
    if (cpu_code64(cpu) ? !canonical(*target) : *target > cpu->seg[SEG_CS].limit)
        return fault_gp(cpu, 0);
    return CPU_OK;
}

static bool condition(uint64_t flags, unsigned cc)
{
    bool sign_differs = !(flags & FLAG_SF) != !(flags & FLAG_OF);
    bool v = false;

    switch (cc >> 1) {
    case 0:
        v = flags & FLAG_OF;
        break;
    case 1:
        v = flags & FLAG_CF;
        break;
    case 2:
        v = flags & FLAG_ZF;
        break;
    case 3:
        v = flags & (FLAG_CF | FLAG_ZF);
        break;
    case 4:
        v = flags & FLAG_SF;
        break;
    case 5:
        v = flags & FLAG_PF;
        break;
    case 6:
        v = sign_differs;
        break;
    case 7:
        v = sign_differs || (flags & FLAG_ZF);
        break;
    }
    return v != (cc & 1);
}

static int branch_conditional(struct cpu *cpu, const struct insn *insn)
{
    bool counts = insn->map == MAP_PRIMARY && insn->opcode >= 0xe0 && insn->opcode <= 0xe3;
    uint64_t count = execute_read_gpr(cpu, GPR_CX, insn->addrsize);
    uint64_t target = cpu->next_rip + insn->imm;
    bool zero = cpu->rflags & FLAG_ZF;
    bool taken;

    if (!counts) {
        taken = condition(cpu->rflags, insn->cc);
    } else if (insn->opcode == 0xe3) { /* jcxz */
        taken = !count;
    } else { /* loopne, loope, loop */
        count = (count - 1) & execute_size_mask(insn->addrsize);
        taken = count && (insn->opcode == 0xe2 || zero == (insn->opcode == 0xe1));
    }
    if (!taken)
        target = cpu->next_rip;
    else if (execute_check_target(cpu, insn, &target))
        return CPU_FAULT;
    if (counts && insn->opcode != 0xe3)
        execute_write_gpr(cpu, GPR_CX, insn->addrsize, count);
    cpu->rip = target;
    return CPU_OK;
}

static int branch_to(struct cpu *cpu, const struct insn *insn, uint64_t target, bool call)
{
    if (execute_check_target(cpu, insn, &target) || (call && execute_push(cpu, cpu->next_rip, insn->opsize)))
        return CPU_FAULT;
    cpu->rip = target;
    return CPU_OK;
}

static int branch_indirect(struct cpu *cpu, const struct insn *insn)
{
    uint64_t target;
    if (execute_load_rm(cpu, insn, insn->opsize, &target))
        return CPU_FAULT;
    return branch_to(cpu, insn, target, insn->cls == INSN_CALL_IND);
}

static int branch_return(struct cpu *cpu, const struct insn *insn)
{
    uint64_t target;
    if (stack_read(cpu, 0, insn->opsize, &target) || execute_check_target(cpu, insn, &target))
        return CPU_FAULT;
    stack_pointer_set(cpu, cpu->gpr[GPR_SP] + insn->opsize + (insn->imm_len ? (uint16_t)insn->imm : 0));
    cpu->rip = target;
    return CPU_OK;
}

/* ---- far transfers ---- */

static int far_memory(struct cpu *cpu, const struct insn *insn, bool call)
{
    uint8_t pointer[10] = {0};
    uint64_t off = 0;
    uint16_t selector;

    if (cpu_read_seg(cpu, insn->mem.seg, cpu_effective_address(cpu, insn), pointer, insn->opsize + 2u))
        return CPU_FAULT;
    __builtin_memcpy(&selector, pointer + insn->opsize, 2);
    __builtin_memcpy(&off, pointer, 8);
    off &= execute_size_mask(insn->opsize);
    return call ? cpu_far_call(cpu, selector, off, insn->opsize) : cpu_far_jmp(cpu, selector, off, insn->opsize);
}

static int execute_far(struct cpu *cpu, const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return insn->mem.present ? far_memory(cpu, insn, false) : cpu_far_jmp(cpu, insn->imm2, insn->imm, insn->opsize);
    case ZYDIS_MNEMONIC_CALL:
        return insn->mem.present ? far_memory(cpu, insn, true) : cpu_far_call(cpu, insn->imm2, insn->imm, insn->opsize);
    case ZYDIS_MNEMONIC_RET:
        return cpu_far_ret(cpu, insn->opsize, insn->imm_len ? (uint16_t)insn->imm : 0);
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
        return cpu_iret(cpu, insn->opsize);
    case ZYDIS_MNEMONIC_INT:
        return cpu_int(cpu, (uint8_t)insn->imm, false);
    case ZYDIS_MNEMONIC_INT3:
        return cpu_int(cpu, VECTOR_BP, true);
    case ZYDIS_MNEMONIC_INTO:
        return cpu->rflags & FLAG_OF ? cpu_int(cpu, VECTOR_OF, true) : done(cpu);
    case ZYDIS_MNEMONIC_INT1:
        return cpu_int1(cpu);
    case ZYDIS_MNEMONIC_SYSENTER:
        return cpu_sysenter(cpu);
    case ZYDIS_MNEMONIC_SYSEXIT:
        return cpu_sysexit(cpu, insn->opsize);
    case ZYDIS_MNEMONIC_SYSCALL:
        return cpu_syscall(cpu);
    case ZYDIS_MNEMONIC_SYSRET:
        return cpu_sysret(cpu, insn->opsize);
    default:
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}

static int execute_flags(struct cpu *cpu, const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        return cpu_cli(cpu);
    case ZYDIS_MNEMONIC_STI:
        return cpu_sti(cpu);
    case ZYDIS_MNEMONIC_CLD:
        cpu->rflags &= ~(uint64_t)FLAG_DF;
        return done(cpu);
    case ZYDIS_MNEMONIC_STD:
        cpu->rflags |= FLAG_DF;
        return done(cpu);
    default:
        return cpu_raise_fault(cpu, VECTOR_UD);
    }
}

static int dispatch(struct cpu *cpu, const struct insn *insn)
{
    switch ((enum insn_class)insn->cls) {
    case INSN_MOVE:
        return execute_move(cpu, insn);
    case INSN_STACK:
        return execute_stack(cpu, insn);
    case INSN_STRING:
        return execute_string(cpu, insn);
    case INSN_JCC:
        return branch_conditional(cpu, insn);
    case INSN_JMP:
    case INSN_CALL:
        return branch_to(cpu, insn, cpu->next_rip + insn->imm, insn->cls == INSN_CALL);
    case INSN_JMP_IND:
    case INSN_CALL_IND:
        return branch_indirect(cpu, insn);
    case INSN_RET:
        return branch_return(cpu, insn);
    case INSN_FAR:
        return execute_far(cpu, insn);
    case INSN_SEGMENT:
        return execute_segment(cpu, insn);
    case INSN_FLAGS:
        return execute_flags(cpu, insn);
    case INSN_SYSTEM:
        return execute_system(cpu, insn);
    case INSN_FPU_ENV:
        return execute_fpu_env(cpu, insn);
    case INSN_GENERIC:
        if (insn->mem.masked)
            return execute_masked_move(cpu, insn);
        break;
    case INSN_UNDEFINED:
        break;
    }
    return cpu_raise_fault(cpu, VECTOR_UD);
}

int cpu_execute(struct cpu *cpu, const struct insn *insn)
{
    cpu->next_rip = cpu->rip + insn->len;
    if (insn->mode != INSN_MODE_64)
        cpu->next_rip = (uint32_t)cpu->next_rip;
    int result = dispatch(cpu, insn);
    if (result == CPU_OK && !insn->interrupt_shadow)
        cpu->interrupt_shadow = false;
    return result;
}
