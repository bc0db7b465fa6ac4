/* SPDX-License-Identifier: MIT */
#include "tests/tolerance.h"

#include "cpu/cpu.h"
#include "cpu/execute_internal.h"
#include "tests/flat_machine.h"

#include <Zydis/Mnemonic.h>
#include <string.h>

/* Offsets in an XSAVE image. */
enum { FCW = 0, FSW = 2, TAGS = 4, MXCSR = 24, XMM = 160, XSTATE_BV = 512, YMM_HIGH = 576 };
enum { X87_MASKS = 0x3f, FSW_SUMMARY = 0x80, MXCSR_FLAGS = 0x3f };

#define NONCANONICAL 0x800000000000ull /* the first such address */
#define CANONICAL_AGAIN 0xffff800000000000ull

struct pair {
    const struct generator_case *c;
    const struct native_result *real;
    struct native_result *ours;
    const uint8_t *real_data;
    uint8_t *our_data;
    const struct insn *insn;     /* where the processor faulted; NULL: it did not, or not at an instruction */
    uint64_t ip_relative;        /* of its RIP-relative operand, in front of the segment */
    const struct insn *our_insn; /* the same of ours */
    bool same_place;             /* both faulted, at the same instruction */
    bool same_fault;             /* and with the same vector */
};

static bool segment_fault(uint32_t vector)
{
    return vector == VECTOR_GP || vector == VECTOR_SS;
}

static bool memory_fault(uint32_t vector)
{
    return vector == VECTOR_PF || segment_fault(vector);
}

/* What the operand's address is in front of the segment. */
static uint64_t effective_address(const struct insn *insn, const struct native_state *s)
{
    const struct insn_mem *m = &insn->mem;
    uint64_t ea = (uint64_t)m->disp;
    if (m->base < GPR_COUNT)
        ea += s->gpr[m->base];
    if (m->index < GPR_COUNT && !m->vsib)
        ea += s->gpr[m->index] * m->scale;
    return insn->addrsize == 2 ? (uint16_t)ea : insn->addrsize == 4 ? (uint32_t)ea : ea;
}

/* ---- which of two faults is first: SDM vol. 3, 6.9, and APM vol. 2, 8.5, order them by class only ---- */

static bool large_operand(const struct insn *insn)
{
    return insn->cls == INSN_FPU_ENV || insn->mem.masked;
}

static enum tolerance operand_at_the_end(struct pair *p)
{
    const struct native_result *page = p->real->vector == VECTOR_PF ? p->real : p->ours;
    const struct native_result *limit = page == p->real ? p->ours : p->real;

    if (!p->same_place || page->vector != VECTOR_PF || !segment_fault(limit->vector))
        return TOLERANCE_NONE;
    if (p->c->bits == 32)
        return page->cr2 >= 0xfffff000 || page->cr2 < 0x1000 ? TOLERANCE_ALL : TOLERANCE_NONE;
    uint64_t reach = large_operand(p->insn) ? PAGE_SIZE : p->insn->mem.size;
    return NONCANONICAL - page->cr2 < reach || page->cr2 - CANONICAL_AGAIN < reach ? TOLERANCE_ALL : TOLERANCE_NONE;
}

static enum tolerance fs_gs_offset(struct pair *p)
{
    if (p->c->bits == 32 || !p->insn || !segment_fault(p->real->vector) || p->insn->mem.seg < SEG_FS)
        return TOLERANCE_NONE;
    uint64_t source = p->real->state.gpr[p->insn->opcode == 0xd7 ? GPR_BX : GPR_SI];
    if (p->insn->cls == INSN_STRING)
        return canonical(source) ? TOLERANCE_NONE : TOLERANCE_ALL;
    return p->insn->mem.present && !canonical(effective_address(p->insn, &p->real->state)) ? TOLERANCE_ALL
                                                                                           : TOLERANCE_NONE;
}

static enum tolerance misaligned_stack_operand(struct pair *p)
{
    return p->c->bits == 64 && p->same_place && p->insn->mem.seg == SEG_SS &&
                   (p->insn->mem.aligned || p->insn->vector) && segment_fault(p->real->vector) &&
                   segment_fault(p->ours->vector)
               ? TOLERANCE_ALL
               : TOLERANCE_NONE;
}

static enum tolerance call_with_two_faults(struct pair *p)
{
    return p->c->bits == 64 && p->same_place && p->insn->cls == INSN_CALL_IND && p->ours->vector == VECTOR_GP &&
                   (p->real->vector == VECTOR_PF || p->real->vector == VECTOR_SS)
               ? TOLERANCE_ALL
               : TOLERANCE_NONE;
}

static enum tolerance pending_x87_error(struct pair *p)
{
    return p->same_place && p->real->vector == VECTOR_MF && p->insn->mem.present && memory_fault(p->ours->vector)
               ? TOLERANCE_ALL
               : TOLERANCE_NONE;
}

/* Errors are unmasked at first, and there is FNCLEX, FNINIT, FNSAVE or a load of the whole environment. */
static bool clears_x87_error(const struct generator_case *c)
{
    if ((c->state.xsave[FCW] & X87_MASKS) == X87_MASKS)
        return false;
    for (unsigned i = 0; i < c->count; i++)
        switch (c->insns[i].insn.mnemonic) {
        case ZYDIS_MNEMONIC_FNCLEX:
        case ZYDIS_MNEMONIC_FNINIT:
        case ZYDIS_MNEMONIC_FNSAVE:
        case ZYDIS_MNEMONIC_FLDENV:
        case ZYDIS_MNEMONIC_FRSTOR:
        case ZYDIS_MNEMONIC_FXRSTOR:
            return true;
        default:
            break;
        }
    return false;
}

static enum tolerance unmasked_error_of_store(struct pair *p)
{
    const struct insn *insn = p->our_insn;

    if (!insn || !memory_fault(p->ours->vector))
        return TOLERANCE_NONE;
    if (insn->mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH && p->same_place && p->real->vector == VECTOR_XM)
        return TOLERANCE_ALL;
    /* the error shows in the status word, unless an instruction of the sequence has cleared it again */
    bool raised = ((p->real->state.xsave[FSW] & FSW_SUMMARY) || clears_x87_error(p->c)) &&
                  !(p->ours->state.xsave[FSW] & FSW_SUMMARY);
    return insn->x87 && insn->mem.present && insn->mem.write && raised && !p->same_place ? TOLERANCE_ALL
                                                                                         : TOLERANCE_NONE;
}

/* ---- what a faulting instruction may already have done ---- */

static enum tolerance popa_and_maskmovq(struct pair *p)
{
    unsigned mnemonic = p->insn ? p->insn->mnemonic : 0;
    return mnemonic == ZYDIS_MNEMONIC_POPA || mnemonic == ZYDIS_MNEMONIC_POPAD || mnemonic == ZYDIS_MNEMONIC_MASKMOVQ
               ? TOLERANCE_ALL
               : TOLERANCE_NONE;
}

static enum tolerance mmx_state(struct pair *p)
{
    const uint8_t *real = p->real->state.xsave;
    uint8_t *ours = p->ours->state.xsave;

    if (!p->same_fault || !p->insn->mmx || !(real[XSTATE_BV] & ours[XSTATE_BV] & 1) || (real[FSW + 1] & 0x38))
        return TOLERANCE_NONE;
    execute_set_x87_top(ours, 0);
    if (real[TAGS] == 0xff)
        ours[TAGS] = 0xff;
    return TOLERANCE_SETTLED;
}

static enum tolerance conversion_flags(struct pair *p)
{
    uint32_t real, ours;

    if (!p->same_fault || p->insn->mnemonic != ZYDIS_MNEMONIC_VCVTPS2PH)
        return TOLERANCE_NONE;
    memcpy(&real, p->real->state.xsave + MXCSR, 4);
    memcpy(&ours, p->ours->state.xsave + MXCSR, 4);
    if ((real ^ ours) & ~(uint32_t)MXCSR_FLAGS || ours & ~real)
        return TOLERANCE_NONE;
    memcpy(p->ours->state.xsave + MXCSR, &real, 4);
    return TOLERANCE_SETTLED;
}

static uint8_t *vector_byte(uint8_t *image, unsigned reg, unsigned byte)
{
    return image + (byte < 16 ? XMM + 16 * reg + byte : YMM_HIGH + 16 * reg + byte - 16);
}

/* Takes bytes of a register from the processor's. */
static void take(struct pair *p, unsigned reg, unsigned from, unsigned size)
{
    struct native_state real = p->real->state;
    for (unsigned i = from; i < from + size; i++)
        *vector_byte(p->ours->state.xsave, reg, i) = *vector_byte(real.xsave, reg, i);
}

static bool all_bytes(struct pair *p, unsigned reg, unsigned from, unsigned size, uint8_t value)
{
    struct native_state real = p->real->state;
    for (unsigned i = from; i < from + size; i++)
        if (*vector_byte(real.xsave, reg, i) != value)
            return false;
    return true;
}

static enum tolerance gather_progress(struct pair *p)
{
    const struct insn *in = p->insn;

    if (!p->same_fault || !in->mem.vsib || (p->real->state.xsave[XSTATE_BV] & 6) != 6)
        return TOLERANCE_NONE;
    struct native_state real = p->real->state;
    unsigned data = in->rex_w ? 8 : 4, index = in->opcode & 1 ? 8 : 4, wider = data > index ? data : index;
    unsigned used = (in->vex_l ? 32u : 16u) / wider * data, mask = in->vvvv.num;
    for (unsigned i = 0; i < used; i += data) {
        bool to_do = *vector_byte(real.xsave, mask, i + data - 1) & 0x80;
        bool ours_to_do = *vector_byte(p->ours->state.xsave, mask, i + data - 1) & 0x80;
        if (to_do && !ours_to_do)
            return TOLERANCE_NONE;
        if (!to_do && ours_to_do)
            take(p, in->reg.num, i, data);
        if (all_bytes(p, mask, i, data, to_do ? 0xff : 0))
            take(p, mask, i, data);
    }
    for (unsigned i = used; i < 32; i += data) { /* no element of this mask: cleared, or made as one would be */
        bool sign = *vector_byte(p->ours->state.xsave, mask, i + data - 1) & 0x80;
        if (all_bytes(p, mask, i, data, 0) || (sign && all_bytes(p, mask, i, data, 0xff)))
            take(p, mask, i, data);
    }
    for (unsigned i = used; i < 32; i += data)
        if (all_bytes(p, in->reg.num, i, data, 0))
            take(p, in->reg.num, i, data);
    return TOLERANCE_SETTLED;
}

/* Where a linear address lies in the data pages, or -1. */
static int data_offset(uint64_t linear)
{
    uint64_t low = linear >= NATIVE_HIGH ? linear - NATIVE_HIGH : linear;
    return low >= NATIVE_DATA && low < NATIVE_DATA + NATIVE_DATA_PAGES * NATIVE_PAGE ? (int)(low - NATIVE_DATA) : -1;
}

static enum tolerance call_to_bad_address(struct pair *p)
{
    if (!p->same_fault || p->real->vector != VECTOR_GP || p->insn->cls != INSN_CALL_IND)
        return TOLERANCE_NONE;
    uint64_t back = p->real->state.rip + p->insn->len;
    unsigned size = p->insn->opsize;
    for (unsigned i = 0; i < size; i++) {
        int at = data_offset(p->real->state.gpr[GPR_SP] - size + i);
        if (at < 0 || p->real_data[at] != (uint8_t)(back >> 8 * i))
            return TOLERANCE_NONE;
    }
    for (unsigned i = 0; i < size; i++) {
        int at = data_offset(p->real->state.gpr[GPR_SP] - size + i);
        p->our_data[at] = p->real_data[at];
    }
    return TOLERANCE_SETTLED;
}

static enum tolerance part_of_a_store(struct pair *p)
{
    if (!p->same_fault || !p->insn->mem.present || !p->insn->mem.write || p->insn->mem.size <= 8)
        return TOLERANCE_NONE;
    uint64_t from = p->insn->mem.base == GPR_IP ? p->ip_relative : effective_address(p->insn, &p->real->state);
    from += p->insn->mem.seg == SEG_FS ? p->c->state.fs_base : p->insn->mem.seg == SEG_GS ? p->c->state.gs_base : 0;
    for (unsigned i = 0; i < p->insn->mem.size; i++) {
        int at = data_offset(from + i);
        if (at >= 0)
            p->our_data[at] = p->real_data[at];
    }
    return TOLERANCE_SETTLED;
}

/* ---- what is reported ---- */

static enum tolerance page_of_large_operand(struct pair *p)
{
    if (!p->same_fault || p->real->vector != VECTOR_PF || !large_operand(p->insn))
        return TOLERANCE_NONE;
    const uint64_t last = p->insn->addrsize == 8 ? ~0ull >> 12 : 0xfffff; /* page number */
    uint64_t pages = ((p->real->cr2 >> 12) - (p->ours->cr2 >> 12)) & last;
    if (pages > 1 && pages != last) /* it lies in two at most */
        return TOLERANCE_NONE;
    p->ours->cr2 = p->real->cr2;
    if (pages) /* one may be there, the other not */
        p->ours->error = (p->ours->error & ~1u) | (p->real->error & 1);
    return TOLERANCE_SETTLED;
}

static enum tolerance unused_part_of_save_area(struct pair *p)
{
    if (p->c->bits != 32 || !p->insn || p->real->vector != VECTOR_PF || p->insn->cls != INSN_FPU_ENV ||
        !p->insn->mem.present || (p->same_place && p->ours->vector == VECTOR_PF))
        return TOLERANCE_NONE;
    uint32_t high = (uint32_t)effective_address(p->insn, &p->real->state) + YMM_HIGH + 128;
    return (uint32_t)p->real->cr2 - high < 128 ? TOLERANCE_ALL : TOLERANCE_NONE;
}

static enum tolerance stray_code(struct pair *p)
{
    return p->c->bits == 32 && p->real->vector == VECTOR_PF && p->real->cr2 == p->real->state.rip ? TOLERANCE_ALL
                                                                                                  : TOLERANCE_NONE;
}

static enum tolerance helper_pages(struct pair *p)
{
    uint64_t end = NATIVE_MAILBOX + NATIVE_MAILBOX_PAGES * NATIVE_PAGE;
    return p->ours->vector == VECTOR_PF && p->ours->cr2 >= NATIVE_HELPER_IMAGE && p->ours->cr2 < end ? TOLERANCE_ALL
                                                                                                     : TOLERANCE_NONE;
}

static enum tolerance kernel_pages(struct pair *p)
{
    if (p->c->bits != 32 || !p->same_fault || p->ours->vector != VECTOR_PF || p->ours->cr2 < FLAT_MACHINE_KERNEL32 ||
        p->ours->cr2 >= FLAT_MACHINE_KERNEL32 + FLAT_MACHINE_KERNEL_PAGES * PAGE_SIZE)
        return TOLERANCE_NONE;
    p->ours->error = (p->ours->error & ~1u) | (p->real->error & 1);
    return TOLERANCE_SETTLED;
}

static const struct rule {
    enum tolerance (*apply)(struct pair *p);
    const char *what;
} rules[] = {
    {stray_code, "code in the data pages: the native process cannot execute it, a 32-bit machine without PAE can"},
    {helper_pages, "an operand in the pages of the native helper itself, which the machine has not"},
    {kernel_pages, "an operand in the pages of the machine's kernel: present there only"},
    {operand_at_the_end,
     "an operand that wraps at 4 GiB: the segment's limit or the page may be found first (and a flat "
     "segment's limit is not checked by translated code); the same with one that runs out of the "
     "canonical addresses"},
    {fs_gs_offset, "an FS or GS operand whose offset is not canonical, but whose linear address is: may be refused"},
    {misaligned_stack_operand, "a stack operand that is misaligned and not canonical: #GP or #SS"},
    {call_with_two_faults, "a call whose push and whose target both fault: either may be first"},
    {pending_x87_error, "a pending x87 error and a fault of the memory operand: either may be first"},
    {unmasked_error_of_store, "a store that an unmasked error of its own conversion keeps from being done: the memory "
                              "operand may be looked at all the same"},
    {popa_and_maskmovq, "popa that faults may have loaded registers, maskmovq may have gone over to MMX state"},
    {mmx_state, "an MMX instruction that faults may have gone over to MMX state (top of stack 0, all tags valid)"},
    {conversion_flags, "vcvtps2ph that faults at its store may have set MXCSR's flags"},
    {gather_progress, "a gather that faults: only the mask's sign bits count; elements behind the faulting one may be "
                      "done, what lies above the vector's length may be cleared (SDM vol. 2, VGATHERDPS)"},
    {call_to_bad_address, "a near call to an address that is not canonical may have written its return address"},
    {part_of_a_store, "a store of more than eight bytes that faults may have written some of them (SDM vol. 3, 8.1.1)"},
    {unused_part_of_save_area,
     "xsave, xrstor: the area's part for registers that only 64-bit code has may be looked at "
     "in other code too"},
    {page_of_large_operand, "a large or masked operand may be gone through in any order: CR2 lies anywhere in it"},
};

static const struct insn *faulting_insn(const struct generator_case *c, const struct native_result *r)
{
    int at = r->vector == VECTOR_BP ? -1 : generator_index(c, r->state.rip);
    return at < 0 || at >= (int)c->count ? NULL : &c->insns[at].insn;
}

enum tolerance tolerance_apply(const struct generator_case *c, const struct native_result *real,
                               struct native_result *ours, const uint8_t *real_data, uint8_t *our_data)
{
    struct pair p = {.c = c, .real = real, .ours = ours, .real_data = real_data, .our_data = our_data};
    enum tolerance result = TOLERANCE_NONE;

    p.insn = faulting_insn(c, real);
    if (p.insn)
        p.ip_relative = c->insns[generator_index(c, real->state.rip)].address;
    p.our_insn = faulting_insn(c, ours);
    p.same_place = p.insn && p.our_insn && real->state.rip == ours->state.rip;
    p.same_fault = p.same_place && real->vector == ours->vector;
    for (unsigned i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        enum tolerance r = rules[i].apply(&p);
        if (r == TOLERANCE_ALL)
            return r;
        if (r == TOLERANCE_SETTLED)
            result = r;
    }
    return result;
}
