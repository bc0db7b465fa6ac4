/* SPDX-License-Identifier: MIT */
/* The grammar of the safe subset, checked instruction by instruction:
 *
 *   memory    [rip + d]            a field of the vCPU; is a page in the code map?
 *             [d]                  a field of the vCPU
 *             [r8|r9 + r11*8 or d] a shadow table, loaded to r11; in 64-bit code [r12 + r11*8], with r12 just loaded
 *                                  from the vCPU's table pointer, and r8 and r9 are the guest's
 *             [r11 + r10*4]        the jump map, just loaded to r11; in 64-bit code [r11 + r10*4 - 32], behind
 *                                  shrx r11, r10, r15 ; mov r11, [jump_regions + r11*8]
 *             [r12 + r11*4 or d]   the jump table, just loaded to r12; r11 holds sixteen bits of r10
 *             [r11 + reg], [rsp + r11]  a guest operand: only after r11 came from a table and was tested, or from the
 *                                  slow path; a store only with an entry of the write table
 *             [r11 + d]            an access group's operand: only after r11 became the host address of bytes that a
 *                                  test found in one page, or was fetched again from the slot that keeps it
 *             gs:[any 32-bit address]   the window, in 32-bit blocks of its mode
 *             [r15 + reg*s + d]    the same; its guards allow any s, and any d but one far downwards; the reg is a
 *                                  guest's, or r10 when that was written as r10d
 *             for the window of 64-bit blocks see bt/verify_window.h
 *   branches  to this block, to the glue, to an entry of another block; indirect ones only through r11, to what
 *             the entry of a jump table or a jump map is for; between that of a map and the jump there may be other
 *             work, but no label
 *   registers rsp (64-bit code's is the guest's, but for `call`, which has the host's before it and the guest's again
 *             behind it), r8 and r9 (the same) are never written, r15 only with its constant; for rsp and r15 of the
 *             window of 64-bit blocks see bt/verify_window.h
 *   nothing that is privileged (reading the time stamp counter is not), touches segments or the host stack, or calls
 *   the host kernel */
#include "bt/verify.h"
#include "bt/verify_window.h"

#include "bt/landing.h"
#include "decoder/capstone.h"
#include "shadowmmu/region.h"
#include "shadowmmu/window.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static const struct capstone *capstone; /* loaded with the first handle */

struct scan {
    struct bt_cache *c;
    uintptr_t start, end;
    uint32_t mode;                                                     /* enum bt_mode_bits */
    enum { TABLE_NONE, TABLE_READ, TABLE_WRITE } table;                /* what r12 holds, in 64-bit mode's form */
    enum { DELTA_NONE, DELTA_LOADED, DELTA_TESTED, DELTA_GOOD } delta; /* what r11 holds */
    bool delta_writes;                                                 /* it came from the write table */
    bool map_loaded, table_loaded;                                     /* r11 holds the jump map, r12 the jump table */
    enum {
        JUMP_NONE,
        JUMP_INDEX,
        JUMP_ENTRY,
        JUMP_REGION,
        JUMP_MAP_ENTRY,
        JUMP_TARGET
    } jump; /* r11: an index of the table, its entry, of r10's region in the map's, an entry of a map, an address */
    bool host_stack; /* rsp is the host's, in 64-bit code */
    bool tested;     /* `test r11, r11` was the last instruction */
    struct host_bytes {
        unsigned count; /* 0: none */
        bool writes;
    } host, slot[BT_GROUPS]; /* access groups: what r11 points to, and what each slot does */
    bool short_r10;          /* r10 has no upper half */
    unsigned in_page;        /* r10 and this many bytes from there on were seen to lie in one page */
    enum { RANGE_NONE, RANGE_END, RANGE_MASKED, RANGE_COMPARED } range; /* how far that test has come */
    unsigned range_bytes;
    struct verify_window window;
};

static bool wide(const struct scan *s)
{
    return (s->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
}

static bool in_glue(const struct scan *s, uintptr_t at)
{
    return at >= (uintptr_t)s->c->exec_view && at < (uintptr_t)s->c->exec_view + s->c->glue_size;
}

static bool is_entry(const struct scan *s, uintptr_t at)
{
    const struct bt_block *b = bt_cache_block_at(s->c, at);
    return b && (at == b->entry || at == b->entry + b->body || at == b->entry - BT_ENTRY_SAVED);
}

static const char *check_group(struct scan *s, const cs_insn *i)
{
    if (i->id == X86_INS_RDTSC || i->id == X86_INS_RDTSCP) /* Capstone counts the latter as privileged */
        return NULL;
    for (int g = 0; g < i->detail->groups_count; g++) {
        uint8_t group = i->detail->groups[g];
        if (group == CS_GRP_PRIVILEGE || group == CS_GRP_INT || group == CS_GRP_IRET || group == CS_GRP_RET ||
            group == X86_GRP_VM)
            return "forbidden instruction group";
    }
    switch (i->id) {
    case X86_INS_PUSH:
    case X86_INS_POP:
        return !s->host_stack && verify_window_pushes(&s->window, i) ? NULL : "forbidden push or pop";
    case X86_INS_SYSCALL:
    case X86_INS_SYSENTER:
    case X86_INS_IN:
    case X86_INS_OUT:
    case X86_INS_INSB:
    case X86_INS_OUTSB:
    case X86_INS_PUSHFQ:
    case X86_INS_POPFQ:
    case X86_INS_ENTER:
    case X86_INS_LEAVE:
    case X86_INS_LCALL:
    case X86_INS_LJMP:
    case X86_INS_CPUID:
    case X86_INS_WRFSBASE:
    case X86_INS_WRGSBASE:
    case X86_INS_XSETBV:
    case X86_INS_XRSTOR:
    case X86_INS_FXRSTOR:
    case X86_INS_STD:
    case X86_INS_XLATB:
        return "forbidden instruction";
    default:
        return NULL;
    }
}

static const char *check_guest_operand(struct scan *s, const cs_insn *i, const cs_x86_op *op)
{
    if (op->mem.scale != 1 || op->mem.disp != 0)
        return "guest operand with displacement or scale";
    if (i->id == X86_INS_LEA)
        return NULL; /* maskmov's host address; used only by the next instructions of the same emission */
    if (s->delta != DELTA_GOOD)
        return "guest operand without a checked delta";
    if ((op->access & CS_AC_WRITE) && !s->delta_writes && !verify_only_compares(i->id))
        return "store with an entry of the read table";
    return NULL;
}

/* No register is in the address, but for the name that Capstone 4 may give to none. */
static bool is_absolute(const x86_op_mem *m)
{
    return m->base == X86_REG_INVALID && (m->index == X86_REG_INVALID || m->index == X86_REG_RIZ) &&
           m->segment == X86_REG_INVALID;
}

static bool in_state(const struct scan *s, uintptr_t at)
{
    uintptr_t state = (uintptr_t)s->c->vcpu;
    return at >= state && at < state + sizeof(struct bt_vcpu);
}

static bool is_load_to(const cs_insn *i, x86_reg reg)
{
    const cs_x86 *x = &i->detail->x86;
    return i->id == X86_INS_MOV && x->op_count == 2 && x->operands[0].type == X86_OP_REG && x->operands[0].reg == reg;
}

/* The access group whose slot a RIP-relative operand is, or BT_GROUPS. */
static unsigned slot_of(const struct scan *s, const cs_insn *i, const cs_x86_op *op)
{
    const uint64_t *slots = s->c->vcpu->group;
    if (op->type != X86_OP_MEM || op->mem.base != X86_REG_RIP)
        return BT_GROUPS;
    uintptr_t at = (uintptr_t)(i->address + i->size + (uint64_t)op->mem.disp);
    return at >= (uintptr_t)slots && at < (uintptr_t)(slots + BT_GROUPS) ? (unsigned)((at - (uintptr_t)slots) / 8)
                                                                         : BT_GROUPS;
}

/* Bytes of a memory operand, of some of which Capstone takes more. */
static unsigned operand_size(const cs_insn *i, const cs_x86_op *op)
{
    switch (i->id) {
    case X86_INS_PUNPCKLBW:
    case X86_INS_PUNPCKLWD:
    case X86_INS_PUNPCKLDQ:
        return op->size == 8 ? 4 : op->size;
    case X86_INS_COMISS:
    case X86_INS_VCOMISS:
        return 4;
    case X86_INS_COMISD:
    case X86_INS_VCOMISD:
        return 8;
    default:
        return op->size;
    }
}

static const char *check_group_operand(struct scan *s, const cs_insn *i, const cs_x86_op *op)
{
    bool x87 = i->detail->x86.opcode[0] >= 0xd8 && i->detail->x86.opcode[0] <= 0xdf;
    unsigned size = x87 ? 2 : operand_size(i, op); /* FNSTSW's is four bytes for Capstone */
    if (op->mem.disp < 0 || (uint64_t)op->mem.disp + size > s->host.count)
        return "operand beyond what its group's test covers";
    if ((op->access & CS_AC_WRITE) && !s->host.writes && !verify_only_compares(i->id))
        return "store with an entry of the read table";
    return NULL;
}

static const char *check_window(const struct scan *s, const x86_op_mem *m)
{
    if (!(s->mode & BT_MODE_WINDOW) || wide(s))
        return "window operand in another mode's block";
    if (m->disp < -MMU_WINDOW_BELOW)
        return "window operand with a displacement beyond the guard";
    switch (m->index) {
    case X86_REG_R10:
        return s->short_r10 ? NULL : "window operand with an address that may have an upper half";
    case X86_REG_RAX:
    case X86_REG_RCX:
    case X86_REG_RDX:
    case X86_REG_RBX:
    case X86_REG_RBP:
    case X86_REG_RSI:
    case X86_REG_RDI:
    case X86_REG_R14:
        return NULL;
    default:
        return "window operand with a register that is not the guest's";
    }
}

/* [jump_regions + r11*8] */
static bool is_jump_region(const struct scan *s, const x86_op_mem *m)
{
    return m->base == X86_REG_INVALID && m->index == X86_REG_R11 && m->scale == 8 &&
           m->disp == (intptr_t)s->c->vcpu->jump_regions[bt_mode_window(s->mode)];
}

static const char *check_memory(struct scan *s, const cs_insn *i, const cs_x86_op *op)
{
    const x86_op_mem *m = &op->mem;
    if (verify_window_accepts(&s->window, i, op))
        return NULL;
    if (m->segment == X86_REG_GS && (s->mode & BT_MODE_WINDOW) && !wide(s) && i->detail->x86.addr_size == 4)
        return NULL;
    if (m->segment != X86_REG_INVALID)
        return "segment override";
    if (m->base == X86_REG_RIP) {
        uintptr_t at = (uintptr_t)(i->address + i->size + (uint64_t)m->disp);
        uintptr_t invalid = (uintptr_t)s->c->invalid;
        if (at >= invalid && at < invalid + s->c->page_max * sizeof *s->c->invalid &&
            (!(op->access & CS_AC_WRITE) || verify_only_compares(i->id)))
            return NULL;
        return in_state(s, at) ? NULL : "RIP-relative access outside the vCPU";
    }
    if (is_absolute(m) && in_state(s, (uintptr_t)m->disp))
        return NULL;
    if (m->base == X86_REG_R11 && m->index == X86_REG_INVALID && s->host.count && i->id != X86_INS_LEA)
        return check_group_operand(s, i, op);
    if (i->id == X86_INS_LEA || i->id == X86_INS_NOP)
        return m->base == X86_REG_R11 && m->index != X86_REG_INVALID && m->disp == 0 && m->scale == 1
                   ? check_guest_operand(s, i, op)
                   : NULL;
    bool entry = m->index == X86_REG_R11 ? m->scale == 8 && m->disp == 0
                                         : m->index == X86_REG_INVALID && m->disp >= 0 && m->disp < 8 << 20;
    if (!wide(s) && (m->base == X86_REG_R8 || m->base == X86_REG_R9) && entry && is_load_to(i, X86_REG_R11)) {
        s->delta = DELTA_LOADED;
        s->delta_writes = m->base == X86_REG_R9;
        return NULL;
    }
    if (wide(s) && m->base == X86_REG_R12 && m->index == X86_REG_R11 && m->scale == 8 && m->disp == 0 &&
        is_load_to(i, X86_REG_R11) && s->table != TABLE_NONE) {
        s->delta = DELTA_LOADED;
        s->delta_writes = s->table == TABLE_WRITE;
        return NULL;
    }
    if (is_load_to(i, X86_REG_R11) && s->jump == JUMP_REGION && is_jump_region(s, m))
        return NULL;
    if (is_load_to(i, X86_REG_R11D) && s->map_loaded && m->base == X86_REG_R11 && m->index == X86_REG_R10 &&
        m->scale == 4 && m->disp == (wide(s) ? -MMU_REGION_BIAS : 0))
        return NULL;
    if (is_load_to(i, X86_REG_R11D) && s->table_loaded && m->base == X86_REG_R12 &&
        (m->index == X86_REG_R11 ? s->jump == JUMP_INDEX && m->scale == 4 && m->disp == 0
                                 : m->index == X86_REG_INVALID && m->disp >= 0 && m->disp < 4 * LANDING_INDICES))
        return NULL;
    if (m->base == X86_REG_R15)
        return check_window(s, m);
    if ((m->base == X86_REG_R11 && m->index != X86_REG_INVALID) ||
        (wide(s) && m->base == X86_REG_RSP && m->index == X86_REG_R11))
        return check_guest_operand(s, i, op);
    if ((m->base == X86_REG_RDI || m->base == X86_REG_INVALID) &&
        (i->id == X86_INS_MASKMOVQ || i->id == X86_INS_MASKMOVDQU || i->id == X86_INS_VMASKMOVDQU))
        return NULL;
    return "memory operand outside the grammar";
}

static const char *check_branch(struct scan *s, const cs_insn *i)
{
    const cs_x86_op *op = &i->detail->x86.operands[0];
    if (op->type == X86_OP_REG)
        return i->id == X86_INS_JMP && op->reg == X86_REG_R11 && s->jump == JUMP_TARGET ? NULL : "indirect branch";
    if (op->type != X86_OP_IMM)
        return "branch through memory";
    uintptr_t to = (uintptr_t)op->imm;
    if (i->id == X86_INS_CALL)
        return !in_glue(s, to)             ? "call outside the glue"
               : wide(s) && !s->host_stack ? "call on the guest's stack"
                                           : NULL;
    if (s->host_stack)
        return "branch on the host stack";
    if ((to >= s->start && to <= s->end) || in_glue(s, to) || is_entry(s, to))
        return NULL;
    return "branch to nowhere";
}

static bool is_family(x86_reg r, x86_reg r64, x86_reg r32, x86_reg r16, x86_reg r8)
{
    return r == r64 || r == r32 || r == r16 || r == r8;
}

/* mov r12, [rip -> read_table or write_table] */
static int table_loaded(const struct scan *s, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    if (i->id != X86_INS_MOV || x->operands[1].type != X86_OP_MEM || x->operands[1].mem.base != X86_REG_RIP)
        return TABLE_NONE;
    uintptr_t at = (uintptr_t)(i->address + i->size + (uint64_t)x->operands[1].mem.disp);
    const struct bt_vcpu *v = s->c->vcpu;
    return at == (uintptr_t)&v->read_table ? TABLE_READ : at == (uintptr_t)&v->write_table ? TABLE_WRITE : TABLE_NONE;
}

/* mov reg, [rip -> a field of the vCPU] */
static bool loads_field(const cs_insn *i, x86_reg reg, const void *field)
{
    const cs_x86 *x = &i->detail->x86;
    return is_load_to(i, reg) && x->operands[1].type == X86_OP_MEM && x->operands[1].mem.base == X86_REG_RIP &&
           (uintptr_t)(i->address + i->size + (uint64_t)x->operands[1].mem.disp) == (uintptr_t)field;
}

/* CLAC and STAC: mov r8, [rip -> the read table of the new rights], or mov r9, [the write table]. */
static bool loads_rights(const struct scan *s, const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    const struct bt_vcpu *v = s->c->vcpu;
    if (i->id != X86_INS_MOV || x->operands[1].type != X86_OP_MEM || x->operands[1].mem.base != X86_REG_RIP)
        return false;
    uintptr_t at = (uintptr_t)(i->address + i->size + (uint64_t)x->operands[1].mem.disp);
    bool reads = at == (uintptr_t)&v->ac_set.read || at == (uintptr_t)&v->ac_clear.read;
    bool writes = at == (uintptr_t)&v->ac_set.write || at == (uintptr_t)&v->ac_clear.write;
    return (reads && x->operands[0].reg == X86_REG_R8) || (writes && x->operands[0].reg == X86_REG_R9);
}

/* rsp is written. True in 64-bit code where that is the guest's, or goes from one to the other. */
static bool follow_stack_pointer(struct scan *s, const cs_insn *i)
{
    const struct bt_vcpu *v = s->c->vcpu;
    bool on_host_stack = s->host_stack;
    if (!wide(s))
        return false;
    s->host_stack = loads_field(i, X86_REG_RSP, &v->host_rsp);
    return !on_host_stack || loads_field(i, X86_REG_RSP, s->window.regions ? &v->window_rsp : &v->cpu.gpr[GPR_SP]);
}

static const char *check_writes(struct scan *s, csh h, const cs_insn *i)
{
    cs_regs read, written;
    uint8_t nread, nwritten;
    if (capstone->regs_access(h, i, read, &nread, written, &nwritten))
        return NULL;
    for (int k = 0; k < nwritten; k++) {
        x86_reg r = written[k];
        if (is_family(r, X86_REG_RSP, X86_REG_ESP, X86_REG_SP, X86_REG_SPL) && i->id != X86_INS_CALL &&
            !follow_stack_pointer(s, i))
            return "writes the host stack pointer";
        if (is_family(r, X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B))
            s->short_r10 = r == X86_REG_R10D;
        if (is_family(r, X86_REG_R12, X86_REG_R12D, X86_REG_R12W, X86_REG_R12B))
            s->table = table_loaded(s, i);
        if (wide(s) && (is_family(r, X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B) ||
                        is_family(r, X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B)))
            continue;
        if (is_family(r, X86_REG_R8, X86_REG_R8D, X86_REG_R8W, X86_REG_R8B) ||
            is_family(r, X86_REG_R9, X86_REG_R9D, X86_REG_R9W, X86_REG_R9B)) {
            if (loads_rights(s, i))
                continue;
            return "writes a table register";
        }
        if (is_family(r, X86_REG_R15, X86_REG_R15D, X86_REG_R15W, X86_REG_R15B) && i->id != X86_INS_MOV &&
            i->id != X86_INS_MOVABS && !s->window.regions) /* else its own part looks at it */
            return "writes r15";
        if (is_family(r, X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B) && s->delta != DELTA_LOADED)
            s->delta = DELTA_NONE;
    }
    return NULL;
}

static bool is_delta_test(const cs_insn *i)
{
    const cs_x86 *x = &i->detail->x86;
    return i->id == X86_INS_TEST && x->op_count == 2 && x->operands[0].type == X86_OP_REG &&
           x->operands[0].reg == X86_REG_R11 && x->operands[1].type == X86_OP_REG && x->operands[1].reg == X86_REG_R11;
}

static bool is_branch(const cs_insn *i)
{
    for (int g = 0; g < i->detail->groups_count; g++)
        if (i->detail->groups[g] == CS_GRP_JUMP || i->detail->groups[g] == CS_GRP_CALL)
            return true;
    return false;
}

static bool writes_family(csh h, const cs_insn *i, x86_reg r64, x86_reg r32, x86_reg r16, x86_reg r8)
{
    cs_regs read, written;
    uint8_t nread, nwritten;
    if (capstone->regs_access(h, i, read, &nread, written, &nwritten))
        return true;
    for (int k = 0; k < nwritten; k++)
        if (is_family(written[k], r64, r32, r16, r8))
            return true;
    return false;
}

static bool writes_r11(csh h, const cs_insn *i)
{
    return writes_family(h, i, X86_REG_R11, X86_REG_R11D, X86_REG_R11W, X86_REG_R11B);
}

static bool is_reg(const cs_x86_op *op, x86_reg reg)
{
    return op->type == X86_OP_REG && op->reg == reg;
}

/* lea r12d, [r10 + n-1] ; and r12d, 0xfff ; cmp r12d, n-1 ; jb: do r10 and n bytes from there on lie in one page? */
static void track_range(struct scan *s, csh h, const cs_insn *i)
{
    const cs_x86_op *o = i->detail->x86.operands;
    int seen = s->range;
    s->range = RANGE_NONE;
    if (writes_family(h, i, X86_REG_R10, X86_REG_R10D, X86_REG_R10W, X86_REG_R10B))
        s->in_page = 0;
    if (i->id == X86_INS_LEA && is_reg(&o[0], X86_REG_R12D) && o[1].mem.base == X86_REG_R10 &&
        o[1].mem.index == X86_REG_INVALID && o[1].mem.disp >= 0 && o[1].mem.disp < PAGE_SIZE) {
        s->range = RANGE_END;
        s->range_bytes = (unsigned)o[1].mem.disp + 1;
    } else if (seen == RANGE_END && i->id == X86_INS_AND && is_reg(&o[0], X86_REG_R12D) && o[1].imm == PAGE_MASK) {
        s->range = RANGE_MASKED;
    } else if (seen == RANGE_MASKED && i->id == X86_INS_CMP && is_reg(&o[0], X86_REG_R12D) &&
               o[1].imm == s->range_bytes - 1) {
        s->range = RANGE_COMPARED;
    } else if (seen == RANGE_COMPARED && i->id == X86_INS_JB) {
        s->in_page = s->range_bytes;
    }
}

/* Follows the host addresses of access groups; before track_delta. */
static void track_groups(struct scan *s, csh h, const cs_insn *i, int delta)
{
    const cs_x86 *x = &i->detail->x86;
    unsigned n;
    track_range(s, h, i);
    if (is_branch(i)) {
        if (i->id == X86_INS_CALL || i->id == X86_INS_JMP)
            s->host.count = 0;
        return;
    }
    if (x->op_count == 2 && is_reg(&x->operands[0], X86_REG_R11)) {
        s->host.count = 0;
        if (i->id == X86_INS_MOV && (n = slot_of(s, i, &x->operands[1])) < BT_GROUPS) {
            s->host = s->slot[n];
        } else if (i->id == X86_INS_ADD && is_reg(&x->operands[1], X86_REG_R10) && delta == DELTA_GOOD) {
            s->host.count = s->in_page;
            s->host.writes = s->delta_writes;
        }
    } else if (x->op_count == 2 && is_reg(&x->operands[1], X86_REG_R11) &&
               (n = slot_of(s, i, &x->operands[0])) < BT_GROUPS) {
        s->slot[n] = s->host;
    } else if (writes_r11(h, i)) {
        s->host.count = 0;
    }
}

/* Follows what r11 holds across the instruction. */
static void track_delta(struct scan *s, const cs_insn *i)
{
    if (i->id == X86_INS_CALL && (uintptr_t)i->detail->x86.operands[0].imm == bt_glue_of(s->c, s->mode)->slow) {
        s->delta = DELTA_GOOD;
        s->delta_writes = true; /* the access kind is the slow path's business */
    } else if (i->id == X86_INS_JMP) {
        s->delta = DELTA_GOOD; /* what follows is reached by branches only, each checked where it starts */
    } else if (s->tested && s->delta == DELTA_LOADED && i->id == X86_INS_JE) {
        s->delta = DELTA_GOOD;
    }
    s->tested = is_delta_test(i);
}

/* shrx r11, r10, r15 */
static bool is_jump_index(const struct scan *s, const cs_insn *i)
{
    const cs_x86_op *o = i->detail->x86.operands;
    return wide(s) && bt_mode_jump_map(s->mode) && i->id == X86_INS_SHRX && is_reg(&o[0], X86_REG_R11) &&
           is_reg(&o[1], X86_REG_R10) && is_reg(&o[2], X86_REG_R15);
}

/* What loads the map itself. */
static bool loads_map(const struct scan *s, const cs_insn *i)
{
    if (!bt_mode_jump_map(s->mode))
        return false;
    if (!wide(s))
        return loads_field(i, X86_REG_R11, &s->c->vcpu->jump_map);
    const cs_x86_op *o = i->detail->x86.operands;
    return s->jump == JUMP_REGION && is_load_to(i, X86_REG_R11) && o[1].type == X86_OP_MEM &&
           is_jump_region(s, &o[1].mem);
}

/* movzx r11d, r10w ; mov r12, [jump] ; mov r11d, [r12 + r11*4] ; lea r11d, [r11 + miss, or its other form] ; jmp r11
 * or mov r11, [jump_map] ; mov r11d, [r11 + r10*4] ; lea ; jmp
 * or shrx r11, r10, r15 ; mov r11, [jump_regions + r11*8] ; mov r11d, [r11 + r10*4 - 32] ; lea ; jmp */
static void track_jump(struct scan *s, csh h, const cs_insn *i)
{
    const cs_x86_op *o = i->detail->x86.operands;
    int64_t miss = (int64_t)bt_glue_of(s->c, s->mode)->miss;
    bool table = s->table_loaded, map = s->map_loaded;
    const struct bt_vcpu *v = s->c->vcpu;
    s->table_loaded = loads_field(i, X86_REG_R12, &v->jump);
    s->map_loaded = loads_map(s, i);
    if (is_jump_index(s, i))
        s->jump = JUMP_REGION;
    else if (i->id == X86_INS_MOVZX && is_reg(&o[0], X86_REG_R11D) && is_reg(&o[1], X86_REG_R10W))
        s->jump = JUMP_INDEX;
    else if (table && is_load_to(i, X86_REG_R11D) && o[1].type == X86_OP_MEM && o[1].mem.base == X86_REG_R12)
        s->jump = JUMP_ENTRY;
    else if (map && is_load_to(i, X86_REG_R11D) && o[1].type == X86_OP_MEM && o[1].mem.base == X86_REG_R11)
        s->jump = JUMP_MAP_ENTRY;
    else if ((s->jump == JUMP_ENTRY || s->jump == JUMP_MAP_ENTRY) && i->id == X86_INS_LEA &&
             is_reg(&o[0], X86_REG_R11D) && o[1].mem.base == X86_REG_R11 && o[1].mem.index == X86_REG_INVALID &&
             (o[1].mem.disp == miss ||
              o[1].mem.disp == miss + (s->jump == JUMP_ENTRY ? LANDING_SAVED : -BT_ENTRY_SAVED)))
        s->jump = JUMP_TARGET;
    else if (!s->table_loaded && !(wide(s) && s->jump == JUMP_MAP_ENTRY && !is_branch(i) && !writes_r11(h, i)))
        s->jump = JUMP_NONE;
}

static const char *check_insn(struct scan *s, csh h, const cs_insn *i)
{
    const char *bad = verify_window_before(&s->window, i);
    if (s->window.regions && s->window.label[i->address - s->start])
        s->jump = JUMP_NONE;
    if (!bad)
        bad = check_group(s, i);
    const cs_x86 *x = &i->detail->x86;
    bool loading = false;
    int before = s->delta;
    if (!bad && is_branch(i))
        bad = check_branch(s, i);
    else
        for (int k = 0; !bad && k < x->op_count; k++)
            if (x->operands[k].type == X86_OP_MEM) {
                bad = check_memory(s, i, &x->operands[k]);
                loading = s->delta == DELTA_LOADED && before != DELTA_LOADED;
            }
    if (!bad) {
        int delta = s->delta;
        bad = check_writes(s, h, i);
        if (loading)
            s->delta = delta;
    }
    track_groups(s, h, i, before);
    track_delta(s, i);
    track_jump(s, h, i);
    return bad ? bad : verify_window_after(&s->window, h, i);
}

/* Each thread has its own Capstone handle; it goes when the thread does. */
static _Thread_local csh handle;
static pthread_key_t handle_key;
static pthread_once_t handle_once = PTHREAD_ONCE_INIT;

static void close_handle(void *value)
{
    capstone->close(&handle);
}

static void load_capstone(void)
{
    capstone = capstone_load();
    pthread_key_create(&handle_key, close_handle);
}

static bool open_handle(void)
{
    if (handle)
        return true;
    pthread_once(&handle_once, load_capstone);
    if (!capstone || capstone->open(CS_ARCH_X86, CS_MODE_64, &handle))
        return false;
    capstone->option(handle, CS_OPT_DETAIL, CS_OPT_ON);
    pthread_setspecific(handle_key, &handle);
    return true;
}

/* The code from its start to its end, or to what is wrong. */
static const char *scan_code(struct scan *s, cs_insn *insn, const uint8_t *code, size_t *where)
{
    const uint8_t *p = code;
    size_t size = s->end - s->start, left = size;
    uint64_t at = s->start;
    const char *bad = NULL;
    verify_window_pass(&s->window);
    while (left && !bad) {
        *where = size - left;
        if (!capstone->disasm_iter(handle, &p, &left, &at, insn))
            bad = "undecodable";
        else
            bad = check_insn(s, handle, insn);
    }
    return bad;
}

const char *bt_verify_code(struct bt_cache *c, uint32_t mode, const uint8_t *code, size_t size, uintptr_t address,
                           size_t *where)
{
    struct verify_window window;
    if (!open_handle() || !verify_window_begin(&window, c, mode, address, size))
        return "the verifier could not start";
    cs_insn *insn = capstone->alloc(handle);
    const char *bad;
    do {
        struct scan s = {.c = c, .mode = mode, .start = address, .end = address + size, .window = window};
        bad = scan_code(&s, insn, code, where);
        window = s.window;
    } while (!bad && !verify_window_settled(&window));
    verify_window_end(&window);
    capstone->release(insn, 1);
    return bad;
}

static void verify(struct bt_cache *c, const struct bt_block *b, const char *what, uintptr_t start, size_t size)
{
    size_t where = 0;
    const uint8_t *code = (const uint8_t *)start;
    const char *bad = bt_verify_code(c, c->pages[b->page].mode, code, size, start, &where);
    if (!bad)
        return;
    fprintf(stderr, "ringfold: bt: %s for guest %#" PRIx64 " violates the safe subset at +%#zx: %s\n  bytes:", what,
            b->eip, where, bad);
    for (size_t i = where; i < size && i < where + 16; i++)
        fprintf(stderr, " %02x", code[i]);
    fprintf(stderr, "\n");
    abort();
}

void bt_verify_block(struct bt_cache *c, const struct bt_block *b)
{
    verify(c, b, "block", b->entry - BT_ENTRY_SAVED, b->size + BT_ENTRY_SAVED);
}

void bt_verify_landing(struct bt_cache *c, const struct bt_block *b, uintptr_t start, size_t size)
{
    verify(c, b, "landing", start, size);
}
