/* SPDX-License-Identifier: MIT */
/* Masked moves: vmaskmovps/pd, vpmaskmovd/q, maskmovq, maskmovdqu. Only the selected elements are accessed and can
 * fault, so they do not fit one check of the whole operand. SDM vol. 2, the instructions' pages. Done on the saved
 * image. A store that faults has stored nothing. */
#include "cpu/execute_internal.h"

enum { IMAGE_FSW = 2, IMAGE_FTW = 4, IMAGE_ST = 32, IMAGE_XMM = 160, IMAGE_YMM = 576, LONGEST = 32 };

/* What the three kinds have in common: bytes, in elements, selected by the top bit of the mask's element. */
struct masked_move {
    unsigned element, length;
    uint8_t mask[LONGEST], data[LONGEST];
};

static uint8_t *vector_part(uint8_t *image, unsigned reg, unsigned byte)
{
    return byte < 16 ? image + IMAGE_XMM + 16 * reg + byte : image + IMAGE_YMM + 16 * reg + byte - 16;
}

static void vector_get(uint8_t *image, unsigned reg, uint8_t *to, unsigned length)
{
    for (unsigned i = 0; i < length; i += 8)
        __builtin_memcpy(to + i, vector_part(image, reg & 15, i), 8);
}

/* A VEX instruction clears the register above what it writes. */
static void vector_set(uint8_t *image, unsigned reg, const uint8_t *from, unsigned length)
{
    static const uint64_t zero;
    for (unsigned i = 0; i < LONGEST; i += 8)
        __builtin_memcpy(vector_part(image, reg & 15, i), i < length ? from + i : (const uint8_t *)&zero, 8);
}

static bool selected(const struct masked_move *m, unsigned i)
{
    return m->mask[(i + 1) * m->element - 1] & 0x80;
}

static uint64_t element_offset(const struct masked_move *m, const struct insn *insn, uint64_t off, unsigned i)
{
    return (off + i * m->element) & execute_size_mask(insn->addrsize);
}

static int masked_load(struct cpu *cpu, const struct insn *insn, struct masked_move *m)
{
    uint64_t off = cpu_effective_address(cpu, insn);

    for (unsigned i = 0; i < m->length / m->element; i++) {
        uint64_t value = 0;
        if (selected(m, i) && cpu_read_seg(cpu, insn->mem.seg, element_offset(m, insn, off, i), &value, m->element))
            return CPU_FAULT;
        if (m->element == 4)
            __builtin_memcpy(m->data + 4 * i, &value, 4);
        else
            __builtin_memcpy(m->data + 8 * i, &value, 8);
    }
    return CPU_OK;
}

static int masked_store(struct cpu *cpu, const struct insn *insn, const struct masked_move *m)
{
    uint64_t off = cpu_effective_address(cpu, insn);
    unsigned count = m->length / m->element;

    /* With the old forms, that have no ModRM operand, AMD's processors look at the whole of it: the manual allows both.
     */
    if (insn->mem.implicit && execute_probe_write(cpu, insn->mem.seg, off, m->length))
        return CPU_FAULT;
    for (unsigned i = 0; i < count; i++)
        if (selected(m, i) && execute_probe_write(cpu, insn->mem.seg, element_offset(m, insn, off, i), m->element))
            return CPU_FAULT;
    for (unsigned i = 0; i < count; i++)
        if (selected(m, i) &&
            cpu_write_seg(cpu, insn->mem.seg, element_offset(m, insn, off, i), m->data + i * m->element, m->element))
            return CPU_FAULT;
    return CPU_OK;
}

/* MM registers are the x87 registers by their fixed numbers; using one makes all valid and the top 0. */
static int masked_mmx(struct cpu *cpu, const struct insn *insn, uint8_t *image)
{
    struct masked_move m = {.element = 1, .length = 8};
    unsigned top = image[IMAGE_FSW + 1] >> 3 & 7u;

    __builtin_memcpy(m.data, image + IMAGE_ST + 16 * ((insn->reg.num - top) & 7u), 8);
    __builtin_memcpy(m.mask, image + IMAGE_ST + 16 * ((insn->rm.num - top) & 7u), 8);
    if (masked_store(cpu, insn, &m))
        return CPU_FAULT;
    execute_set_x87_top(image, 0);
    image[IMAGE_FTW] = 0xff;
    return done(cpu);
}

int execute_masked_move(struct cpu *cpu, const struct insn *insn)
{
    struct masked_move m = {.element = 1, .length = insn->vex_l ? 32 : 16};
    uint8_t *image;

    if (cpu_fpu_check(cpu, insn))
        return CPU_FAULT;
    image = execute_explicit_image(cpu);
    if (insn->rm.cls == REGCLASS_MMX)
        return masked_mmx(cpu, insn, image);
    vector_get(image, insn->reg.num, m.data, m.length);
    if (insn->mem.implicit) { /* (v)maskmovdqu */
        vector_get(image, insn->rm.num, m.mask, m.length);
        return masked_store(cpu, insn, &m) ? CPU_FAULT : done(cpu);
    }
    /* 2c, 2d, 2e, 2f: vmaskmovps and pd, load and store; 8c, 8e: vpmaskmov, W gives the element */
    bool wide = insn->opcode & 0x80 ? insn->rex_w : insn->opcode & 1;
    m.element = wide ? 8 : 4;
    vector_get(image, insn->vvvv.num, m.mask, m.length);
    if (insn->mem.write)
        return masked_store(cpu, insn, &m) ? CPU_FAULT : done(cpu);
    if (masked_load(cpu, insn, &m))
        return CPU_FAULT;
    vector_set(execute_explicit_image(cpu), insn->reg.num, m.data, m.length);
    return done(cpu);
}
