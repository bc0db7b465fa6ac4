/* SPDX-License-Identifier: MIT */
/* Memory operands: one guest load, `mov eax, [ebx+8]`, in flat 32-bit code becomes
 *
 *     lea  r10d, [rbx+8]            the linear address
 *     shrx r11d, r10d, r15d         page index
 *     mov  r11, [r8 + r11*8]        read table: host delta or 0
 *     test r10b, 3 ; jnz unaligned  may it cross a page?
 *     test r11, r11 ; jz slow
 *  L: mov  eax, [r11 + r10]
 *
 * and behind the block
 *
 *  unaligned: does it cross? no: back to the second test
 *  slow: mov [rip], eip ; mov r11d, info ; call glue.slow ; jmp L
 *
 * The slow path gives a delta that makes the same host instruction work: the page itself, or a bounce buffer for
 * devices and page crossings. A write therefore has its own copy of the instruction in the cold part, followed by a
 * call that brings the bounce buffer to its place and drops translations of written code. */
#include "bt/translate.h"

#include <Zydis/Zydis.h>

unsigned host_gpr(const struct builder *b, unsigned guest)
{
    if (guest == GPR_SP && has_regions(b))
        return NO_REG;
    return bt_host_gpr(b->wide, guest & (b->wide ? 15 : 7));
}

struct rm gpr_rm(const struct builder *b, unsigned guest)
{
    return rm_absolute(&b->v->cpu.gpr[guest & 15]);
}

void gpr_load(struct builder *b, unsigned host, unsigned guest)
{
    if (guest == GPR_SP && has_regions(b)) {
        bt_emit_stack_pointer(&b->a, host, 0);
        return;
    }
    asm_op(&b->a, OP_MOV | OP_W, host, gpr_rm(b, guest), 0);
}

void gpr_store(struct builder *b, unsigned guest, unsigned host)
{
    if (guest == GPR_SP && has_regions(b)) {
        window_set_stack(b, host);
        return;
    }
    asm_op(&b->a, OP_MOV_TO | OP_W, host, gpr_rm(b, guest), 0);
}

void gpr_store_sized(struct builder *b, unsigned guest, unsigned host, unsigned size)
{
    if (size == 2) {
        gpr_load(b, R12, guest);
        asm_op(&b->a, OP_MOV | OP_66, R12, rm_reg(host), 0);
        host = R12;
    }
    gpr_store(b, guest, host);
}

#define SCRATCH_ADDRESS R10
#define SCRATCH_DELTA R11

struct rm checked_operand(unsigned address)
{
    if (address == RSP) /* it cannot be an index */
        return rm_sib(RSP, SCRATCH_DELTA, 1, 0);
    return rm_sib(SCRATCH_DELTA, (uint8_t)address, 1, 0);
}

/* Data accesses through CS are rare and never writable: they take the checked form. */
bool segment_is_flat(const struct builder *b, unsigned seg)
{
    if (b->wide)
        return seg != SEG_FS && seg != SEG_GS;
    switch (seg) {
    case SEG_DS:
        return b->mode & BT_MODE_FLAT_DS;
    case SEG_ES:
        return b->mode & BT_MODE_FLAT_ES;
    case SEG_SS:
        return b->mode & BT_MODE_FLAT_SS;
    default:
        return false;
    }
}

/* A register of the address: where it is, fetched to scratch when it stays in memory. */
static uint8_t address_register(struct builder *b, uint8_t guest, unsigned scratch)
{
    if (guest == GPR_NONE)
        return NO_REG;
    unsigned host = host_gpr(b, guest);
    if (host != NO_REG)
        return (uint8_t)host;
    if (b->held.on)
        return (uint8_t)held_use(b, guest, true, false, HELD_ANY);
    gpr_load(b, scratch, guest);
    return (uint8_t)scratch;
}

static void constant_address(struct builder *b, unsigned reg, uint64_t address)
{
    unsigned size = b->in->addrsize;
    address = size == 2 ? address & 0xffff : size == 4 ? address & 0xffffffff : address;
    if (b->in->mem.base != GPR_IP) {
        asm_mov_imm64(&b->a, reg, address);
        return;
    }
    guest_mov(b, reg, address, BT_ADDRESS);
    if (size != 8)
        builder_pin(b);
}

/* RSP has to be computed, where the index may not be held. */
static void held_indexed_stack(struct builder *b, unsigned reg)
{
    const struct insn_mem *m = &b->in->mem;
    unsigned index = host_gpr(b, m->index);
    if (index == NO_REG)
        index = held_use(b, m->index, true, false, 1 << R11 | 1 << R12);
    held_lose(b, R10);
    bt_emit_stack_pointer(&b->a, R10, 0);
    asm_op(&b->a, OP_LEA | OP_W, reg, rm_sib(R10, (uint8_t)index, m->scale, (int32_t)m->disp), 0);
}

void memory_offset(struct builder *b, unsigned reg)
{
    const struct insn_mem *m = &b->in->mem;
    bool low_half = b->in->mnemonic == ZYDIS_MNEMONIC_LEA && b->in->opsize == 4;
    uint32_t wide = b->in->addrsize == 8 && !low_half ? OP_W : 0;
    if (m->base == GPR_IP) {
        constant_address(b, reg, builder_next(b, b->cur) + (uint64_t)m->disp);
        return;
    }
    if (m->base == GPR_SP && m->index == GPR_NONE && b->in->addrsize == 8 && window_stack_offset(b, reg))
        return;
    if (b->held.on && m->base == GPR_SP) {
        held_indexed_stack(b, reg);
        return;
    }
    uint8_t base = address_register(b, m->base, R10), index = m->vsib ? NO_REG : address_register(b, m->index, R11);
    if (base == NO_REG && index == NO_REG) {
        constant_address(b, reg, (uint64_t)m->disp);
        return;
    }
    if (index == NO_REG && m->disp == 0)
        asm_op(&b->a, OP_MOV | wide, reg, rm_reg(base), 0);
    else
        asm_op(&b->a, OP_LEA | wide, reg, rm_sib(base, index, index == NO_REG ? 1 : m->scale, (int32_t)m->disp), 0);
    if (b->in->addrsize == 2)
        asm_op(&b->a, OP_MOVZX16, reg, rm_reg(reg), 0);
}

/* Behind the hot path: unaligned test, then the slow call. from[0]: the null test, from[1]: the alignment test,
 * from[2]: the segment limit. back[0]: the null test, back[1]: the operation (reads) or what follows it (writes). */
static void emit_slow_call(struct builder *b, const struct cold *c, uint32_t info)
{
    if (c->address != SCRATCH_ADDRESS)
        asm_op(&b->a, OP_MOV | OP_W, SCRATCH_ADDRESS, rm_reg(c->address), 0);
    guest_store_rip(b, b->eip_at[b->cur]);
    asm_mov_imm32(&b->a, SCRATCH_DELTA, info);
    call_glue(b, b->glue->slow);
}

void page_index(struct builder *b, unsigned to, unsigned address)
{
    bool window = b->mode & BT_MODE_WINDOW; /* r15 is something else */
    if (window)
        asm_mov_imm32(&b->a, R12, BT_PAGE_INDEX_CONTROL);
    asm_bextr(&b->a, to, address, window ? R12 : R15);
}

/* The table's entry for an address to r11. 64-bit code fetches the table's own address to r12. */
void table_load(struct builder *b, unsigned address, bool write)
{
    if (b->wide) {
        page_index(b, SCRATCH_DELTA, address);
        asm_op(&b->a, OP_MOV | OP_W, R12, rm_at(write ? &b->v->write_table : &b->v->read_table), 0);
        asm_op(&b->a, OP_MOV | OP_W, SCRATCH_DELTA, rm_sib(R12, SCRATCH_DELTA, 8, 0), 0);
        return;
    }
    if (b->mode & BT_MODE_WINDOW) { /* r15 is the window's */
        asm_op(&b->a, OP_MOV, SCRATCH_DELTA, rm_reg(address), 0);
        asm_op(&b->a, OP_SHIFT_IMM, 5, rm_reg(SCRATCH_DELTA), 1);
        asm_byte(&b->a, PAGE_SHIFT);
    } else {
        asm_shrx(&b->a, false, SCRATCH_DELTA, address, R15);
    }
    asm_op(&b->a, OP_MOV | OP_W, SCRATCH_DELTA, rm_sib(write ? R9 : R8, SCRATCH_DELTA, 8, 0), 0);
}

static void emit_unaligned(struct builder *b, struct cold *c)
{
    asm_land32(&b->a, c->from[1]);
    asm_op(&b->a, OP_LEA, SCRATCH_DELTA, rm_mem(c->address, (int32_t)c->size - 1), 0);
    asm_op(&b->a, OP_XOR, SCRATCH_DELTA, rm_reg(c->address), 0);
    asm_op(&b->a, OP_TEST_IMM, 0, rm_reg(SCRATCH_DELTA), 4);
    asm_u32(&b->a, ~(uint32_t)PAGE_MASK);
    uint8_t *crosses = asm_jcc8(&b->a, CC_NZ);
    table_load(b, c->address, c->write);
    asm_jmp32(&b->a, c->back[0]);
    asm_land8(&b->a, crosses);
}

static void cold_memory(struct builder *b, struct cold *c)
{
    uint8_t *skip = NULL;
    if (c->from[2]) {
        asm_land32(&b->a, c->from[2]);
        emit_slow_call(b, c, c->info | BT_INFO_OFFSET);
        skip = asm_jmp32(&b->a, 0);
    }
    if (c->from[1] && c->back[0])
        emit_unaligned(b, c);
    else if (c->from[1])
        asm_land32(&b->a, c->from[1]);
    if (c->from[0])
        asm_land32(&b->a, c->from[0]);
    emit_slow_call(b, c, c->info);
    if (skip)
        asm_land32(&b->a, skip);
    if (!c->write) {
        asm_jmp32(&b->a, c->back[1]);
        return;
    }
    builder_record(b);
    flags_prepare(b);
    c->op(b, rm_sib(SCRATCH_DELTA, SCRATCH_ADDRESS, 1, 0));
    flags_after(b);
    guest_store_rip(b, builder_next(b, b->cur));
    call_glue(b, b->eflags_valid ? b->glue->post : b->glue->post_saved);
    asm_jmp32(&b->a, c->back[1]);
}

/* Tests on the linear address in `address`; fills in the cold record. EFLAGS are clobbered. */
static void emit_checks(struct builder *b, struct cold *c, bool must_align)
{
    table_load(b, c->address, c->write);
    if (b->mode & BT_MODE_WATCH) {
        c->from[0] = asm_jmp32(&b->a, 0);
        return;
    }
    if (c->size > 1) {
        unsigned mask = 1;
        while (mask < c->size)
            mask <<= 1;
        mask = mask > 64 ? 63 : mask - 1;
        asm_op(&b->a, OP_TEST_IMM8 | OP_BYTE_RM, 0, rm_reg(c->address), 1);
        asm_byte(&b->a, (uint8_t)mask);
        c->from[1] = asm_jcc32(&b->a, CC_NZ, 0);
        c->back[0] = must_align || (b->mode & BT_MODE_ALIGN) ? 0 : asm_here(&b->a);
    }
    asm_op(&b->a, OP_TEST | OP_W, SCRATCH_DELTA, rm_reg(SCRATCH_DELTA), 0);
    c->from[0] = asm_jcc32(&b->a, CC_Z, 0);
}

static void segment_base_and_limit(struct builder *b, struct cold *c, unsigned seg)
{
    struct bt_seg_cache *s = &b->v->seg[seg];
    if (b->wide) { /* FS, GS: no limit */
        asm_op(&b->a, OP_ADD | OP_W, SCRATCH_ADDRESS, rm_at(&s->base), 0);
        return;
    }
    asm_op(&b->a, OP_CMP | OP_W, SCRATCH_ADDRESS, rm_at(c->write ? &s->now.write : &s->now.read), 0);
    c->from[2] = asm_jcc32(&b->a, CC_G, 0);
    asm_op(&b->a, OP_ADD, SCRATCH_ADDRESS, rm_at(&s->base), 0);
}

bool memory_is_bit_string(const struct insn *in)
{
    return in->mem.present && in->reg.cls == REGCLASS_GPR &&
           (in->mnemonic == ZYDIS_MNEMONIC_BT || in->mnemonic == ZYDIS_MNEMONIC_BTS ||
            in->mnemonic == ZYDIS_MNEMONIC_BTR || in->mnemonic == ZYDIS_MNEMONIC_BTC);
}

/* bt [mem], reg reaches bits beyond the operand (SDM vol. 2, BT): moves the address to the element that holds the bit,
 * and keeps the bit's number in the vCPU, because the check may use every scratch register. */
static void bit_string_address(struct builder *b)
{
    unsigned guest = b->in->reg.num, reg = host_gpr(b, guest), size = b->in->opsize;
    uint32_t wide = b->in->addrsize == 8 ? OP_W : 0;
    uint32_t number = size == 8 ? OP_W : wide; /* all of a 64-bit bit number counts, with 32-bit addresses too */
    if (reg == NO_REG) {
        gpr_load(b, R12, guest);
        reg = R12;
    }
    if (size == 2)
        asm_op(&b->a, 0x1bf | wide, R11, rm_reg(reg), 0); /* movsx */
    else if (size == 4 && wide)
        asm_op(&b->a, 0x63 | wide, R11, rm_reg(reg), 0); /* movsxd */
    else
        asm_op(&b->a, OP_MOV | number, R11, rm_reg(reg), 0);
    asm_op(&b->a, OP_SHIFT_IMM | number, 7, rm_reg(R11), 1);
    asm_byte(&b->a, size == 2 ? 4 : size == 4 ? 5 : 6);
    asm_op(&b->a, OP_LEA | wide, SCRATCH_ADDRESS, rm_sib(SCRATCH_ADDRESS, R11, (uint8_t)size, 0), 0);
    if (b->in->addrsize == 2)
        asm_op(&b->a, OP_MOVZX16, SCRATCH_ADDRESS, rm_reg(SCRATCH_ADDRESS), 0);
    asm_op(&b->a, OP_MOV, R12, rm_reg(reg), 0);
    asm_group1_imm(&b->a, false, GROUP1_AND, rm_reg(R12), (int32_t)size * 8 - 1);
    asm_op(&b->a, OP_MOV_TO | OP_W, R12, rm_absolute(&b->v->scratch[1]), 0);
}

/* The simplest operand, [reg], needs no address register of its own. */
static bool address_is_register(const struct builder *b)
{
    const struct insn_mem *m = &b->in->mem;
    return b->in->addrsize == (b->wide ? 8 : 4) && m->base != GPR_NONE && m->base != GPR_IP &&
           host_gpr(b, m->base) != NO_REG && (m->index == GPR_NONE && !m->vsib) && m->disp == 0 &&
           segment_is_flat(b, m->seg) && !memory_is_bit_string(b->in);
}

/* A constant address whose access is aligned needs no test but that of the entry, whose index is constant too. */
static bool address_is_known(const struct builder *b, unsigned size, uint64_t *address)
{
    const struct insn_mem *m = &b->in->mem;
    if ((m->base != GPR_NONE && m->base != GPR_IP) || m->index != GPR_NONE || b->in->addrsize != (b->wide ? 8 : 4) ||
        !segment_is_flat(b, m->seg) || memory_is_bit_string(b->in) || (b->mode & BT_MODE_WATCH))
        return false;
    *address = (uint64_t)m->disp + (m->base == GPR_IP ? builder_next(b, b->cur) : 0);
    if (!b->wide)
        *address = (uint32_t)*address;
    return (*address & (size - 1)) == 0 && (size & (size - 1)) == 0;
}

static void emit_known_check(struct builder *b, struct cold *c, uint64_t address)
{
    uint64_t index = mmu_table_index(&b->v->cpu.mmu, address);
    if (b->wide) {
        if (b->in->mem.base == GPR_IP)
            guest_mov(b, SCRATCH_DELTA, index, BT_PAGE_INDEX);
        else
            asm_mov_imm64(&b->a, SCRATCH_DELTA, index);
        asm_op(&b->a, OP_MOV | OP_W, R12, rm_at(c->write ? &b->v->write_table : &b->v->read_table), 0);
        asm_op(&b->a, OP_MOV | OP_W, SCRATCH_DELTA, rm_sib(R12, SCRATCH_DELTA, 8, 0), 0);
    } else {
        asm_op(&b->a, OP_MOV | OP_W, SCRATCH_DELTA, rm_mem(c->write ? R9 : R8, (int32_t)(index * 8)), 0);
    }
    constant_address(b, SCRATCH_ADDRESS, address);
    asm_op(&b->a, OP_TEST | OP_W, SCRATCH_DELTA, rm_reg(SCRATCH_DELTA), 0);
    c->from[0] = asm_jcc32(&b->a, CC_Z, 0);
}

static void table_operand(struct builder *b, unsigned size, bool read, bool write,
                          void (*op)(struct builder *, struct rm))
{
    const struct insn_mem *m = &b->in->mem;
    struct cold *c = builder_cold(b, cold_memory);
    c->size = size ? size : m->size;
    c->write = write;
    c->op = op;
    c->info = c->size | (read ? BT_INFO_READ : 0) | (write ? BT_INFO_WRITE : 0) |
              (unsigned)m->seg << BT_INFO_SEG_SHIFT | (m->aligned ? BT_INFO_ALIGNED : 0);
    c->address = SCRATCH_ADDRESS;
    uint64_t address;
    bool known = address_is_known(b, c->size, &address);
    flags_clobber(b);
    if (known) {
        emit_known_check(b, c, address);
    } else if (address_is_register(b)) {
        c->address = host_gpr(b, m->base);
    } else {
        memory_offset(b, SCRATCH_ADDRESS);
        if (memory_is_bit_string(b->in))
            bit_string_address(b);
        if (!segment_is_flat(b, m->seg))
            segment_base_and_limit(b, c, m->seg);
    }
    if (!known)
        emit_checks(b, c, m->aligned);
    c->eflags_valid = b->eflags_valid;
    c->image_valid = b->image_valid;
    if (!write)
        c->back[1] = asm_here(&b->a);
    builder_record(b);
    flags_prepare(b);
    op(b, checked_operand(c->address));
    flags_after(b);
    if (write)
        c->back[1] = asm_here(&b->a);
}

void memory_operand(struct builder *b, unsigned size, bool read, bool write, void (*op)(struct builder *, struct rm))
{
    if (window_takes_operand(b))
        window_operand(b, op);
    else if (group_has_operand(b, size))
        group_operand(b, size, read, write, op);
    else
        table_operand(b, size, read, write, op);
    window_done_without(b);
}

/* ---- the stack ---- */

/* A stack write that fails is done in C as a whole: nothing has changed yet. back[1]: behind the instruction. */
static void cold_stack_write(struct builder *b, struct cold *c)
{
    if (c->from[1] && c->back[0])
        emit_unaligned(b, c);
    else if (c->from[1])
        asm_land32(&b->a, c->from[1]);
    if (c->from[0])
        asm_land32(&b->a, c->from[0]);
    if (c->from[2])
        asm_land32(&b->a, c->from[2]);
    callout_emit(b, c->back[1] ? 0 : BT_SITE_ENDS_BLOCK);
    if (c->back[1])
        asm_jmp32(&b->a, c->back[1]);
}

static struct cold *table_stack(struct builder *b, int delta, unsigned size, bool write,
                                void (*op)(struct builder *, struct rm))
{
    struct cold *c = builder_cold(b, write ? cold_stack_write : cold_memory);
    unsigned sp = host_gpr(b, GPR_SP);
    bool wide = b->mode & BT_MODE_STACK32, flat = segment_is_flat(b, SEG_SS);
    c->size = size;
    c->write = write;
    c->info = size | (write ? BT_INFO_WRITE : BT_INFO_READ) | SEG_SS << BT_INFO_SEG_SHIFT;
    c->address = SCRATCH_ADDRESS;
    flags_clobber(b);
    if (has_regions(b)) {
        bt_emit_stack_pointer(&b->a, SCRATCH_ADDRESS, delta);
    } else if (wide && flat && delta == 0) {
        c->address = sp;
    } else {
        asm_op(&b->a, OP_LEA | wide_op(b), SCRATCH_ADDRESS, rm_mem(sp, delta), 0);
        if (!wide)
            asm_op(&b->a, OP_MOVZX16, SCRATCH_ADDRESS, rm_reg(SCRATCH_ADDRESS), 0);
        if (!flat)
            segment_base_and_limit(b, c, SEG_SS);
    }
    emit_checks(b, c, false);
    c->eflags_valid = b->eflags_valid;
    c->image_valid = b->image_valid;
    if (!write)
        c->back[1] = asm_here(&b->a);
    builder_record_stack(b);
    op(b, checked_operand(c->address));
    return c;
}

struct cold *stack_access(struct builder *b, int delta, unsigned size, bool write,
                          void (*op)(struct builder *, struct rm))
{
    if (window_takes_stack(b)) {
        window_stack(b, delta, op);
        return NULL;
    }
    if (group_has_stack(b, size)) {
        group_stack(b, delta, size, write, op);
        return NULL;
    }
    struct cold *c = table_stack(b, delta, size, write, op);
    window_done_without(b);
    return c;
}

void stack_adjust(struct builder *b, int n)
{
    unsigned sp = has_regions(b) ? RSP : host_gpr(b, GPR_SP);
    if (b->mode & BT_MODE_STACK32) {
        asm_op(&b->a, OP_LEA | wide_op(b), sp, rm_mem(sp, n), 0);
        return;
    }
    asm_op(&b->a, OP_LEA, R11, rm_mem(sp, n), 0);
    asm_op(&b->a, OP_MOV | OP_66, sp, rm_reg(R11), 0);
}
