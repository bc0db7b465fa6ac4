/* SPDX-License-Identifier: MIT */
/* Memory operands through a window (shadowmmu/window.h). `mov eax, [ebx+8]` of flat 32-bit code becomes
 *
 *     mov  eax, gs:[ebx+8]
 *
 * with the 32-bit address size, and `mov eax, [esi*4+table]` and `movzx eax, byte [esi]`
 *
 *     mov  eax, [r15+rsi*4+table]
 *     movzx eax, byte [r15+rsi]
 *
 * r15 and GS are the same address. A segment with a base makes a load's latency two cycles longer (7 instead of 5), but
 * the processor forwards what was just stored without any latency when the address is one register and a displacement,
 * which is what variables of i386 code have and arrays have not (both measured). Guest registers have no upper halves
 * here and the window has wide guards, so that neither form reaches anything else; what wraps at 4 GiB ends in a guard
 * or where it should. No flag is touched and nothing is tested: a page that is not there is a host page fault
 * (bt/fault.c), which enters it and runs the instruction again, or raises the guest's #PF, or, for a page that is not
 * for windows (a device, one with translated code, the user's in the kernel), takes a detour: the instruction begins
 * again in a translation of the rest of the block that goes by the tables (BT_MODE_PLAIN), which is made when it is
 * first needed. An access that keeps taking it gets a jump to that in place of the instruction, which is why one
 * through the window is never shorter than a jump.
 *
 * 64-bit code has a window for each region of 4 GiB (shadowmmu/region.h). `mov eax, [rbx+8]` becomes
 *
 *     shrx r11, rbx, r15            the region of rbx; the count, r15's low six bits, is always 32
 *     mov  r11, [regions + r11*8]   what leads from there to the region's slot, and 32
 *     mov  eax, [rbx + r11 - 24]
 *
 * The register decides on the region: a displacement that leads out of it leads into the slot's guard, which is wider
 * than displacements reach on either side. So no address that the guest makes up leads anywhere but to its own slots.
 * The next access near that one finds r11 as it was (translate_region.c). User code knows a way that needs no r11
 * (translate_parallel.c); what follows is for kernels, for what that way is not for, and of constant addresses.
 *
 * Of an operand with an index, or a large displacement (bt_region_near), the sum decides, which is computed to a
 * scratch register before. Where one of the two registers is known to hold 32 bits (translate_narrow.c), the other
 * one's region is taken for that of the sum, `mov eax, [rbx+rcx*8]`
 *
 *     shrx r11, rbx, r15 ; mov r11, [regions + r11*8]
 *     lea  r10, [rbx + r11]         the host's address for rbx, and 32
 *     mov  eax, [r10 + rcx*8 - 32]
 *
 * so that what rcx comes from is not followed by two loads but by one: in most loops rbx was there long before. The
 * next access by rbx finds r10 so. The sum stays within the guards, where it is a host page fault, and the access is
 * done by the tables. Beside RSP such an index is part of the operand; with a constant below 2 GiB, a table's address,
 * it is `[r11 + rcx*8 + constant - 32]`, r11 being the entry of the lowest region, the host's address for 0.
 * r11 is a value without a slot where the address's region has none: the access is then not canonical, a
 * general-protection fault for the host, and bt/fault_window.c gives the region a slot. An access that keeps meeting
 * another region than it was made for becomes the tables'.
 *
 * The stack: RSP is the host's address of the guest's stack, so that `mov eax, [rsp+8]`, push and pop are what they are
 * for the guest. (What is stored at an address of one register and a displacement and loaded again soon takes no time,
 * by the region table's entry as an index it takes four cycles, as measured; and a variable that the compiler spilled
 * is what this happens to.) r15 leads back: it is 64 less the entry of RSP's region, whose low six bits are 32 as well,
 * and the guest's RSP is
 *
 *     lea  rax, [rsp + r15 - 32]
 *
 * always, also where its region has no slot: host RSP is not canonical then. The slot must be that of the region that
 * RSP is in, or was in shortly before: pushes, pops, calls and returns, and additions of small constants behind which
 * the block touches the stack, run into the guard before they could reach another slot, and the fault handler then sets
 * both registers right. Any other value given to RSP, here from rbx, is looked up:
 *
 *     shrx r15, rbx, r15 ; mov r15, [regions + r15*8]
 *     lea  rsp, [rbx + r15 - 32]
 *     not  r15 ; lea r15, [r15 + 65]
 *
 * (with a value that is not canonical the load faults, and the handler makes r15 an entry that leads nowhere). Glue
 * does the same whenever it comes back from C, and gives C the guest's RSP. Slots begin at a page, so that `and rsp,
 * -16` is what it is for the guest, but for the flags. */
#include "bt/translate.h"

#include "shadowmmu/region.h"
#include "shadowmmu/window.h"

#include <Zydis/Zydis.h>

static bool window_mode(const struct builder *b)
{
    return b->mode & BT_MODE_WINDOW;
}

bool window_takes_operand(const struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    return window_mode(b) && !(b->mode & BT_MODE_PLAIN) && (b->wide || segment_is_flat(b, m->seg)) && !m->vsib &&
           !m->implicit && !m->masked && !memory_is_bit_string(b->in);
}

bool window_takes_stack(const struct builder *b)
{
    return window_mode(b) && !(b->mode & BT_MODE_PLAIN) && (b->mode & BT_MODE_STACK32) && segment_is_flat(b, SEG_SS);
}

/* One register, scaled or for a narrow operand: no variable in memory. The displacement ends in the window or its
 * guards. */
static bool by_r15(const struct insn_mem *m)
{
    if (m->base != GPR_NONE && m->index != GPR_NONE)
        return false;
    bool array = m->index != GPR_NONE, narrow = m->base != GPR_NONE && m->base != GPR_SP && m->size < 4;
    return (array || narrow) && (int32_t)m->disp >= -MMU_WINDOW_BELOW;
}

static struct rm window_rm(struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    if (b->in->addrsize != 4) {
        memory_offset(b, R10);
        return rm_window(R10, 1, 0);
    }
    uint8_t base = m->base == GPR_NONE ? NO_REG : (uint8_t)host_gpr(b, m->base);
    uint8_t index = m->index == GPR_NONE ? NO_REG : (uint8_t)host_gpr(b, m->index);
    if (by_r15(m))
        return base == NO_REG ? rm_window(index, m->scale, (int32_t)m->disp) : rm_window(base, 1, (int32_t)m->disp);
    return rm_window_gs(base, index, index == NO_REG ? 1 : m->scale, (int32_t)m->disp);
}

/* ---- regions ---- */

/* What is added to a displacement here still fits. */
static bool fits(int64_t disp)
{
    enum { ADDED = 1 << 22 };
    return disp >= INT32_MIN + ADDED && disp <= INT32_MAX - ADDED;
}

static bool is_stack_operand(const struct builder *b, const struct insn *in)
{
    const struct insn_mem *m = &in->mem;
    return m->present && m->base == GPR_SP && m->index == GPR_NONE && in->addrsize == 8 && bt_region_near(m->disp) &&
           segment_is_flat(b, m->seg);
}

/* ---- the stack ---- */

enum { DRIFT_MAX = 64 << 10, DRIFT_UNKNOWN = 1 << 30 };

/* An access at RSP + disp, in its slot: it would fault in the guard. */
static struct rm stack_rm(struct builder *b, int32_t disp)
{
    uint32_t away = (uint32_t)(disp < 0 ? -disp : disp);
    if (away < b->stack_drift)
        b->stack_drift = away;
    return rm_stack(disp);
}

static void stack_drifts(struct builder *b, int64_t n)
{
    uint32_t by = (uint32_t)(n < 0 ? -n : n);
    b->stack_drift = b->stack_drift + by < DRIFT_UNKNOWN ? b->stack_drift + by : DRIFT_UNKNOWN;
}

/* A constant address: its region's entry is at one, too; and in the lowest region that is the host's address for 0. */
static struct rm constant_rm(struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    uint64_t address = (uint64_t)m->disp + (m->base == GPR_IP ? builder_next(b, b->cur) : 0);
    if (m->base != GPR_IP && address <= INT32_MAX && region_load_constant(b, address))
        return rm_based(R11, NO_REG, 1, (int32_t)address - MMU_REGION_BIAS);
    held_lose(b, R10);
    memory_offset(b, R10);
    if (!region_load_constant(b, address))
        return region_passing(b, 0);
    return rm_region(R10, R11, -MMU_REGION_BIAS);
}

/* RSP and an index that is known to be near: in the stack's slot. */
static bool indexed_stack_rm(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    if (m->base != GPR_SP || m->index == GPR_NONE || !(b->narrow >> m->index & 1))
        return false;
    unsigned by = region_index(b, m->index);
    if (by == NO_REG)
        return false;
    *rm = rm_stack((int32_t)m->disp);
    rm->index = (uint8_t)by;
    rm->scale = m->scale;
    return true;
}

static bool indexed_rm(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    if (!fits(m->disp))
        return false;
    return indexed_stack_rm(b, rm) || region_indexed(b, rm);
}

/* An operand of a flat segment, with addresses of 64 bits. False: there is no better way than to compute it. */
static bool flat_rm(struct builder *b, struct rm *rm)
{
    const struct insn_mem *m = &b->in->mem;
    bool constant = m->index == GPR_NONE && (m->base == GPR_NONE || m->base == GPR_IP);
    if (is_stack_operand(b, b->in))
        *rm = stack_rm(b, (int32_t)m->disp);
    else if (constant)
        *rm = constant_rm(b);
    else if (m->index != GPR_NONE)
        return indexed_rm(b, rm);
    else
        return m->base != GPR_SP && fits(m->disp) && region_single(b, m->base, (int32_t)m->disp, rm);
    return true;
}

static struct rm region_rm(struct builder *b)
{
    struct rm found;
    const struct insn_mem *m = &b->in->mem;
    bool flat = segment_is_flat(b, m->seg), whole = b->in->addrsize == 8;
    if (flat && whole && flat_rm(b, &found))
        return found;
    if (!flat && whole && m->base == GPR_NONE && m->index == GPR_NONE && bt_region_near(m->disp)) {
        held_lose(b, R10);
        asm_op(&b->a, OP_MOV | OP_W, R10, rm_at(&b->v->seg[m->seg].base), 0);
        return region_passing(b, (int32_t)m->disp);
    }
    memory_offset(b, R10);
    held_lose(b, R10);
    if (!flat) {
        held_lose(b, R11);
        asm_op(&b->a, OP_MOV | OP_W, R11, rm_at(&b->v->seg[m->seg].base), 0);
        asm_op(&b->a, OP_LEA | OP_W, R10, rm_sib(R10, R11, 1, 0), 0);
    }
    return region_passing(b, 0);
}

void window_set_stack(struct builder *b, unsigned host)
{
    bt_emit_stack(&b->a, bt_regions(b->v, b->mode), RSP, host);
    b->stack_drift = 0;
}

bool window_stack_offset(struct builder *b, unsigned reg)
{
    int64_t disp = b->in->mem.disp;
    if (!has_regions(b) || disp != (int32_t)disp || disp < INT32_MIN + MMU_REGION_BIAS)
        return false;
    bt_emit_stack_pointer(&b->a, reg, (int32_t)disp);
    return true;
}

enum { LITTLE = 4096 };

/* RSP plus or minus a small constant, or aligned downwards. */
static bool moves_stack_a_little(const struct insn *in)
{
    int64_t n = (int64_t)in->imm;
    if (in->mnemonic == ZYDIS_MNEMONIC_LEA)
        return in->opsize == 8 && in->addrsize == 8 && in->mem.base == GPR_SP && in->mem.index == GPR_NONE &&
               in->mem.disp >= -LITTLE && in->mem.disp <= LITTLE;
    if (in->mem.present || !in->imm_len || in->opsize != 8 || in->rm.cls != REGCLASS_GPR)
        return false;
    if (in->mnemonic == ZYDIS_MNEMONIC_AND)
        return n < 0 && n >= -LITTLE;
    return (in->mnemonic == ZYDIS_MNEMONIC_ADD || in->mnemonic == ZYDIS_MNEMONIC_SUB) && n >= -LITTLE && n <= LITTLE;
}

/* Does the rest of the block touch the stack near RSP, or look it up, before control can go anywhere else? */
static bool stack_is_touched(const struct builder *b)
{
    for (unsigned i = b->cur + 1; i < b->count; i++) {
        const struct insn *in = &b->insns[i];
        switch (b->way[i]) {
        case WAY_C:
        case WAY_STACK:
            return true;
        case WAY_CONTROL:
            return in->cls == INSN_CALL || in->cls == INSN_CALL_IND || in->cls == INSN_RET;
        case WAY_PLAIN:
            if (is_stack_operand(b, in) && in->mem.size && in->mnemonic != ZYDIS_MNEMONIC_LEA &&
                in->mnemonic != ZYDIS_MNEMONIC_NOP && !in->mem.vsib && !in->mem.implicit && !in->mem.masked &&
                !memory_is_bit_string(in))
                return true;
            if ((in->gpr_write >> GPR_SP & 1) && !moves_stack_a_little(in))
                return true;
            break;
        default:
            break;
        }
    }
    return false;
}

/* RSP + n; and where the flags are wanted, those of the operation on the guest's value, in r10. */
static void step_stack(struct builder *b, int32_t n, bool wants_flags)
{
    const struct insn *in = b->in;
    if (wants_flags)
        bt_emit_stack_pointer(&b->a, R10, 0);
    stack_drifts(b, n);
    asm_op(&b->a, OP_LEA | OP_W, RSP, rm_mem(RSP, n), 0);
    if (wants_flags)
        asm_group1_imm(&b->a, true, in->mnemonic == ZYDIS_MNEMONIC_ADD ? GROUP1_ADD : GROUP1_SUB, rm_reg(R10),
                       (int32_t)in->imm);
    flags_after(b);
}

/* mov reg, rsp ; mov rsp, reg: the other register. */
static unsigned moved_with_stack(const struct builder *b, bool *to_stack)
{
    const struct insn *in = b->in;
    bool moves = in->mnemonic == ZYDIS_MNEMONIC_MOV && in->encoding == ENCODING_LEGACY && in->map == MAP_PRIMARY;
    if (!moves || in->mem.present || in->opsize != 8 || in->reg.cls != REGCLASS_GPR || in->rm.cls != REGCLASS_GPR)
        return NO_REG;
    const struct insn_reg *to = in->rm.write ? &in->rm : &in->reg, *from = in->rm.write ? &in->reg : &in->rm;
    *to_stack = to->num == GPR_SP;
    return *to_stack ? host_gpr(b, from->num) : from->num == GPR_SP ? host_gpr(b, to->num) : NO_REG;
}

bool window_moves_stack(struct builder *b)
{
    const struct insn *in = b->in;
    bool to_stack, wants_flags = b->live_out[b->cur] & (in->flags_written | in->flags_maybe);
    if (!has_regions(b))
        return false;
    unsigned other = moved_with_stack(b, &to_stack);
    if (other != NO_REG && to_stack)
        window_set_stack(b, other);
    else if (other != NO_REG)
        bt_emit_stack_pointer(&b->a, other, 0);
    if (other != NO_REG)
        return true;
    if (!(in->gpr_write >> GPR_SP & 1) || !moves_stack_a_little(in))
        return false;
    if (b->stack_drift + LITTLE > DRIFT_MAX && !stack_is_touched(b))
        return false;
    if (in->mnemonic == ZYDIS_MNEMONIC_AND) {
        if (wants_flags)
            return false;
        stack_drifts(b, LITTLE);
        flags_prepare(b);
        asm_group1_imm(&b->a, true, GROUP1_AND, rm_reg(RSP), (int32_t)in->imm);
        flags_after(b);
        return true;
    }
    bool up = in->mnemonic == ZYDIS_MNEMONIC_ADD, down = in->mnemonic == ZYDIS_MNEMONIC_SUB;
    int32_t n = up || down ? (int32_t)in->imm : (int32_t)in->mem.disp;
    step_stack(b, down ? -n : n, wants_flags);
    return true;
}

void window_begin(struct builder *b)
{
    parallel_begin(b);
    region_begin(b);
    b->narrow = 0;
    b->stack_drift = DRIFT_UNKNOWN;
}

void window_after_insn(struct builder *b)
{
    if (b->way[b->cur] == WAY_C) /* glue has looked it up */
        b->stack_drift = 0;
    if (!has_regions(b) || b->cur >= b->region.last) /* nobody will ask */
        return;
    bool narrow = narrow_is_made(b);
    region_follow(b, narrow);
    narrow_follow(b, narrow);
}

/* ---- operands ---- */

/* The access that follows may turn out to belong to the tables. */
static void record_access(struct builder *b)
{
    builder_record(b);
    b->c->records[b->c->record_count - 1].window = BT_RECORD_ACCESS;
}

void window_operand(struct builder *b, void (*op)(struct builder *, struct rm))
{
    flags_prepare(b);
    record_access(b); /* of the region table's load, too */
    op(b, b->wide ? region_rm(b) : window_rm(b));
    flags_after(b);
}

void window_stack(struct builder *b, int delta, void (*op)(struct builder *, struct rm))
{
    record_access(b);
    op(b, b->wide ? stack_rm(b, delta) : rm_window_gs(host_gpr(b, GPR_SP), NO_REG, 1, delta));
}

bool window_pushes(const struct builder *b)
{
    return has_regions(b) && !(b->mode & BT_MODE_PLAIN) && b->in->opsize == 8;
}

void window_push(struct builder *b, unsigned host)
{
    record_access(b);
    asm_push(&b->a, host);
    b->stack_drift = 0;
}

void window_push_imm(struct builder *b, int32_t value)
{
    record_access(b);
    asm_push_imm32(&b->a, value);
    b->stack_drift = 0;
}

void window_pop(struct builder *b, unsigned host)
{
    record_access(b);
    asm_pop(&b->a, host);
    b->stack_drift = 0;
}

void window_done_without(struct builder *b)
{
    if (!has_regions(b) || !(b->mode & BT_MODE_PLAIN))
        return;
    bt_emit_stack_pointer(&b->a, R11, 0);
    window_set_stack(b, R11);
}
