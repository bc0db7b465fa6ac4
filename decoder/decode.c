/* SPDX-License-Identifier: MIT */
/* insn_decode: Zydis decodes, and this file turns its answer into struct insn. Called once for each translated
 * instruction, so nothing is formatted and everything that can be looked up lies in tables (decoder/tables.c). */
#include "decoder/insn.h"
#include "decoder/shape.h"
#include "decoder/tables.h"

#include <Zydis/Zydis.h>
#include <string.h>

static ZydisDecoder decoders[3];

/* AMD's processors honour an operand-size prefix on near branches in 64-bit mode. */
static bool host_is_amd(void)
{
    uint32_t a, b, c, d;
    __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
    return b == 0x68747541 || b == 0x6f677948; /* "Auth"enticAMD, "Hygo"nGenuine */
}

static bool amd;

__attribute__((constructor)) static void decoders_init(void)
{
    static const struct {
        ZydisMachineMode machine;
        ZydisStackWidth stack;
    } modes[3] = {
        [INSN_MODE_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
        [INSN_MODE_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
        [INSN_MODE_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
    };
    decoder_tables_init();
    amd = host_is_amd();
    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoderInit(&decoders[i], modes[i].machine, modes[i].stack);
        /* What the model does not have is what an older processor makes of it: a hint (no operation), or the plain
         * instruction without its prefix. */
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_LZCNT, decoder_isa[ZYDIS_ISA_SET_LZCNT]);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_TZCNT, decoder_isa[ZYDIS_ISA_SET_BMI1]);
        ZydisDecoderEnableMode(&decoders[i], ZYDIS_DECODER_MODE_AMD_BRANCHES, amd);
    }
}

static inline bool reads(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
}

static inline bool writes(const ZydisDecodedOperand *op)
{
    return op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
}

/* Notes a general register in the masks. A write that leaves bits or may not happen depends on the old value. */
static void note_gpr(struct insn *out, const struct decoder_register *r, const ZydisDecodedOperand *op)
{
    uint16_t bit = (uint16_t)(1u << (r->num & 15));
    if (reads(op))
        out->gpr_read |= bit;
    if (writes(op)) {
        out->gpr_write |= bit;
        if (r->size < 4 || (op->actions & ZYDIS_OPERAND_ACTION_CONDWRITE))
            out->gpr_read |= bit;
    }
}

static void take_register(struct insn *out, const ZydisDecodedOperand *op, uint8_t num_mask)
{
    const struct decoder_register *r = &decoder_registers[op->reg.value];
    struct insn_reg reg = {
        .cls = r->cls, .num = r->num & num_mask, .size = r->size, .read = reads(op), .write = writes(op)};

    switch (r->cls) {
    case REGCLASS_GPR:
    case REGCLASS_GPR8H:
        note_gpr(out, r, op);
        break;
    case REGCLASS_X87:
        out->x87 = true;
        break;
    case REGCLASS_MMX:
        out->mmx = true;
        break;
    case REGCLASS_VECTOR:
        out->vector = true;
        break;
    default:
        break;
    }
    switch (op->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        out->reg = reg;
        break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        out->rm = reg;
        break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        out->vvvv = reg;
        break;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        out->opreg = reg;
        break;
    case ZYDIS_OPERAND_ENCODING_IS4:
        out->bytes[out->len - 1] &= (uint8_t)(num_mask << 4 | 0xf);
        break;
    default:
        break;
    }
}

static void note_address_register(struct insn *out, ZydisRegister reg)
{
    const struct decoder_register *r = &decoder_registers[reg];
    if (r->cls == REGCLASS_GPR)
        out->gpr_read |= (uint16_t)(1u << (r->num & 15));
}

static uint8_t address_register(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return GPR_IP;
    return decoder_registers[reg].cls == REGCLASS_GPR ? decoder_registers[reg].num : (uint8_t)GPR_NONE;
}

static void take_memory(struct insn *out, const ZydisDecodedOperand *op)
{
    struct insn_mem *mem = &out->mem;
    bool moffs = op->encoding >= ZYDIS_OPERAND_ENCODING_DISP8 && op->encoding <= ZYDIS_OPERAND_ENCODING_DISP16_32_32;
    bool maskmov = out->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || out->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
                   out->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;

    note_address_register(out, op->mem.base);
    note_address_register(out, op->mem.index);
    if (op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM && !moffs && !maskmov)
        return; /* the stack, a string: implied by the class */
    mem->present = true;
    mem->moffs = moffs;
    mem->implicit = maskmov;
    mem->seg = decoder_registers[op->mem.segment].cls == REGCLASS_SEGMENT ? decoder_registers[op->mem.segment].num
                                                                          : (uint8_t)SEG_DS;
    mem->base = address_register(op->mem.base);
    mem->index = address_register(op->mem.index);
    mem->scale = op->mem.scale ? op->mem.scale : 1;
    mem->disp = op->mem.disp.has_displacement ? op->mem.disp.value : 0;
    if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
        mem->vsib = true;
        mem->index = decoder_registers[op->mem.index].num;
    }
    if (op->mem.type == ZYDIS_MEMOP_TYPE_AGEN || op->mem.type == ZYDIS_MEMOP_TYPE_MIB)
        return;
    mem->size = op->size / 8;
    mem->read = reads(op);
    mem->write = writes(op);
    if (mem->vsib)
        mem->size = op->element_size / 8;
}

static void take_operands(struct insn *out, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    uint8_t num_mask = out->mode == INSN_MODE_64 ? 15 : 7;

    out->mem.base = out->mem.index = GPR_NONE;
    for (unsigned i = 0; i < zi->operand_count; i++) {
        if (ops[i].type == ZYDIS_OPERAND_TYPE_REGISTER)
            take_register(out, &ops[i], num_mask);
        else if (ops[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
            take_memory(out, &ops[i]);
    }
    /* A SIB byte with base 5 and mod 0 has a displacement instead of a base, whatever REX.B says: the library shows
     * R13 there. */
    if (out->mode == INSN_MODE_64 && out->mem.present && zi->raw.modrm.mod == 0 && zi->raw.modrm.rm == 4 &&
        zi->raw.sib.base == 5) {
        out->mem.base = GPR_NONE;
        out->mem.disp = zi->raw.disp.value;
    }
}

static void take_immediates(struct insn *out, const ZydisDecodedInstruction *zi)
{
    out->imm_len = (uint8_t)((zi->raw.imm[0].size + zi->raw.imm[1].size) / 8);
    out->imm = zi->raw.imm[0].value.u;
    if (zi->raw.imm[0].is_signed) {
        unsigned shift = 64u - zi->raw.imm[0].size;
        out->imm = (uint64_t)((int64_t)(out->imm << shift) >> shift);
    }
    if (zi->raw.imm[1].size)
        out->imm2 = (uint16_t)zi->raw.imm[1].value.u;
}

static void take_prefixes(struct insn *out, const ZydisDecodedInstruction *zi)
{
    uint8_t repeat = 0;

    out->lock = zi->attributes & ZYDIS_ATTRIB_HAS_LOCK;
    for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
        uint8_t value = zi->raw.prefixes[i].value;
        if (zi->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_MANDATORY)
            out->mandatory = value;
        else if (value == 0x66 && zi->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_EFFECTIVE)
            out->has_66 = true;
        if (value == 0xf2 || value == 0xf3)
            repeat = value;
    }
    if (zi->meta.category == ZYDIS_CATEGORY_STRINGOP || zi->meta.category == ZYDIS_CATEGORY_IOSTRINGOP) {
        bool compares = (zi->opcode & 0xf6) == 0xa6; /* a6, a7 cmps, ae, af scas */
        out->mandatory = 0;
        out->repne = repeat == 0xf2 && compares;
        out->rep = repeat && !out->repne; /* f2 repeats the others just as well */
    }
}

/* Which instructions ignore VEX.W outside 64-bit mode, where 64-bit code would take it for an operand size. */
static bool vex_w_ignored(const struct insn *out, const ZydisDecodedInstruction *zi)
{
    if (zi->meta.isa_set == ZYDIS_ISA_SET_BMI1 || zi->meta.isa_set == ZYDIS_ISA_SET_BMI2)
        return true;
    if (out->map == MAP_0F)
        return out->opcode == 0x2a || out->opcode == 0x2c || out->opcode == 0x2d ||
               ((out->opcode == 0x6e || out->opcode == 0x7e) && out->mandatory == 0x66);
    if (out->map != MAP_0F3A)
        return false;
    return out->opcode == 0x16 || out->opcode == 0x22 || out->opcode == 0x60 ||
           out->opcode == 0x61; /* vpcmpestrm, vpcmpestri: lengths in EAX and EDX */
}

static void take_encoding(struct insn *out, const ZydisDecodedInstruction *zi)
{
    static const uint8_t pp_prefix[4] = {0, 0x66, 0xf3, 0xf2};

    out->opcode = zi->opcode;
    switch (zi->opcode_map) {
    case ZYDIS_OPCODE_MAP_DEFAULT:
        out->map = MAP_PRIMARY;
        break;
    case ZYDIS_OPCODE_MAP_0F38:
        out->map = MAP_0F38;
        break;
    case ZYDIS_OPCODE_MAP_0F3A:
        out->map = MAP_0F3A;
        break;
    default:
        out->map = MAP_0F;
        break;
    }
    out->has_modrm = zi->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    out->modrm_mod = zi->raw.modrm.mod;
    out->modrm_reg = zi->raw.modrm.reg;
    out->modrm_rm = zi->raw.modrm.rm;
    take_prefixes(out, zi);
    if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        out->encoding = ENCODING_VEX;
        out->mandatory = pp_prefix[zi->raw.vex.pp & 3];
        out->vex_l = zi->raw.vex.L;
        out->rex_w = zi->raw.vex.W && (out->mode == INSN_MODE_64 || !vex_w_ignored(out, zi));
        out->has_66 = false;
    } else {
        out->encoding = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW ? ENCODING_3DNOW : ENCODING_LEGACY;
        out->rex_w = (zi->attributes & ZYDIS_ATTRIB_HAS_REX) && zi->raw.rex.W;
    }
}

/* In 16-bit code the operand-size prefix means the opposite; say what 32-bit code would need. */
static void normalise_operand_size(struct insn *out)
{
    if (out->mode != INSN_MODE_16)
        return;
    bool fixed = out->encoding != ENCODING_LEGACY || out->mandatory == 0x66 || out->vector || out->mmx || out->x87 ||
                 (out->map == MAP_0F &&
                  (out->opcode == 0xae || out->opcode == 0xc3 || (out->opcode == 0xc7 && out->mem.present)));
    out->has_66 = !fixed && out->opsize == 2;
}

static void take_state(struct insn *out, const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.isa_set) {
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_SSE3X87:
    case ZYDIS_ISA_SET_FCMOV:
        out->x87 = true;
        break;
    case ZYDIS_ISA_SET_PENTIUMMMX:
        out->mmx = true;
        break;
    case ZYDIS_ISA_SET_SSEMXCSR:
        out->vector = true;
        break;
    case ZYDIS_ISA_SET_AVX:
    case ZYDIS_ISA_SET_AVX2:
    case ZYDIS_ISA_SET_AVX2GATHER:
        out->vector = true;
        break;
    default:
        break;
    }
    /* conversions from memory to general or MMX registers: nothing else shows that they belong to SSE */
    out->vector |= (decoder_traits[zi->mnemonic] & TRAIT_SSE) != 0;
    out->vex = out->encoding == ENCODING_VEX && out->vector;
}

/* SDM vol. 2, 2.4: which vector accesses fault when they are not aligned, and which instructions have numeric
 * exceptions. */
static void take_faults(struct insn *out, const ZydisDecodedInstruction *zi)
{
    uint16_t traits = decoder_traits[zi->mnemonic];

    if (out->mem.present && !out->mem.vsib && out->mem.size >= 16 && out->vector) {
        /* The manual has the SHA instructions among them; AMD's processors do not mind. */
        bool sha = amd && zi->meta.isa_set == ZYDIS_ISA_SET_SHA;
        bool legacy = out->encoding == ENCODING_LEGACY && out->mem.size == 16 && !(traits & TRAIT_UNALIGNED) && !sha;
        out->mem.aligned = legacy || (traits & TRAIT_ALIGNED);
    }
    if (zi->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
        out->mem.aligned = true;
    if (out->mem.implicit)
        out->mem.aligned = false;
    out->mem.masked = out->mem.present && (traits & TRAIT_MASKED);
    out->may_fault = (traits & TRAIT_FAULTS) || out->x87 || out->mmx || out->mem.aligned;
    switch (zi->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        out->may_fault = true;
        break;
    default:
        break;
    }
}

/* Shifts and rotates write no flags when the masked count is zero. */
static void correct_shift_flags(struct insn *out, const ZydisDecodedInstruction *zi)
{
    bool double_shift = zi->mnemonic == ZYDIS_MNEMONIC_SHLD || zi->mnemonic == ZYDIS_MNEMONIC_SHRD;
    bool by_cl = double_shift ? out->imm_len == 0 : (out->opcode & 0xfe) == 0xd2;

    if (by_cl) {
        out->flags_maybe |= out->flags_written;
        out->flags_written = 0;
    } else if (out->imm_len && !(out->imm & (out->opsize == 8 ? 0x3f : 0x1f))) {
        out->flags_written = out->flags_undefined = 0;
    }
}

static void take_flags(struct insn *out, const ZydisDecodedInstruction *zi)
{
    enum { ALL = FLAGS_ARITH | FLAG_TF | FLAG_IF | FLAG_DF };
    const ZydisAccessedFlags *f = zi->cpu_flags;

    if (f) {
        out->flags_read = (uint16_t)(f->tested & ALL);
        out->flags_written = (uint16_t)((f->modified | f->set_0 | f->set_1 | f->undefined) & ALL);
        out->flags_undefined = (uint16_t)(f->undefined & ALL);
    }
    if (decoder_traits[zi->mnemonic] & TRAIT_SHIFT)
        correct_shift_flags(out, zi);
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
        out->flags_read |= FLAG_CF;
        break;
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
        out->flags_read |= FLAG_CF | FLAG_AF;
        out->flags_written |= FLAGS_ARITH;
        break;
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
        out->flags_read |= FLAG_AF;
        out->flags_written |= FLAGS_ARITH;
        break;
    case ZYDIS_MNEMONIC_PTEST:
    case ZYDIS_MNEMONIC_VPTEST:
    case ZYDIS_MNEMONIC_VTESTPS:
    case ZYDIS_MNEMONIC_VTESTPD:
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
        out->flags_written |= FLAGS_ARITH;
        break;
    default:
        break;
    }
    if (out->cls == INSN_STRING && (out->rep || out->repne)) {
        out->flags_maybe |= out->flags_written;
        out->flags_written = 0;
    }
    if (out->cls == INSN_FAR)
        out->flags_read |= ALL; /* an interrupt saves them, a far transfer may be one in disguise */
}

static uint8_t branch_class(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return INSN_FAR;
    if (zi->mnemonic == ZYDIS_MNEMONIC_RET)
        return INSN_RET;
    bool direct = ops[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (zi->mnemonic == ZYDIS_MNEMONIC_CALL)
        return direct ? INSN_CALL : INSN_CALL_IND;
    return direct ? INSN_JMP : INSN_JMP_IND;
}

/* What AMD's processors do not have although the tables do: the register form of prefetchw (a hint for Intel), and W
 * with vpinsrd and vpextrd outside 64-bit mode (ignored by Intel). */
static bool amd_refuses(const struct insn *out, const ZydisDecodedInstruction *zi)
{
    if (!amd)
        return false;
    if (out->encoding == ENCODING_LEGACY)
        return out->map == MAP_0F && out->opcode == 0x0d && out->modrm_mod == 3;
    return out->mode != INSN_MODE_64 && out->encoding == ENCODING_VEX && zi->raw.vex.W && out->map == MAP_0F3A &&
           (out->opcode == 0x16 || out->opcode == 0x22);
}

static uint8_t classify(const struct insn *out, const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *ops)
{
    if (!decoder_isa[zi->meta.isa_set] || zi->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX ||
        zi->encoding == ZYDIS_INSTRUCTION_ENCODING_XOP || zi->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX ||
        zi->encoding == ZYDIS_INSTRUCTION_ENCODING_3DNOW || (out->lock && !out->mem.present) || amd_refuses(out, zi))
        return INSN_UNDEFINED;
    switch (zi->meta.category) {
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_IOSTRINGOP:
        return INSN_STRING;
    case ZYDIS_CATEGORY_COND_BR:
        return INSN_JCC;
    default:
        break;
    }
    switch (zi->mnemonic) {
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_RET:
        return branch_class(zi, ops);
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        for (unsigned i = 0; i < zi->operand_count_visible; i++) {
            if (ops[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
                continue;
            if (decoder_registers[ops[i].reg.value].cls == REGCLASS_SEGMENT)
                return INSN_SEGMENT;
            if (decoder_registers[ops[i].reg.value].cls >= REGCLASS_CONTROL)
                return INSN_SYSTEM;
            if (decoder_registers[ops[i].reg.value].cls == REGCLASS_NONE)
                return INSN_UNDEFINED; /* the test registers of the 80486 */
        }
        return zi->mnemonic == ZYDIS_MNEMONIC_MOV ? INSN_MOVE : INSN_STACK;
    default:
        break;
    }
    uint8_t cls = decoder_classes[zi->mnemonic];
    return cls == DECODER_CLASS_GENERIC     ? (uint8_t)INSN_GENERIC
           : cls == DECODER_CLASS_UNDEFINED ? (uint8_t)INSN_UNDEFINED
                                            : cls;
}

bool insn_transfers(const struct insn *in)
{
    switch (in->cls) {
    case INSN_JCC:
    case INSN_JMP:
    case INSN_CALL:
    case INSN_JMP_IND:
    case INSN_CALL_IND:
    case INSN_RET:
    case INSN_FAR:
        return true;
    default:
        return false;
    }
}

static bool class_ends_block(const struct insn *out)
{
    if (insn_transfers(out))
        return true;
    switch (out->cls) {
    case INSN_UNDEFINED:
        return true;
    case INSN_SEGMENT:
        /* pushes and stores of a segment register change nothing; all else loads one */
        return !(out->mnemonic == ZYDIS_MNEMONIC_PUSH || out->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ||
                 out->mnemonic == ZYDIS_MNEMONIC_RDGSBASE ||
                 (out->mnemonic == ZYDIS_MNEMONIC_MOV && out->opcode == 0x8c));
    case INSN_SYSTEM:
        if (out->mnemonic == ZYDIS_MNEMONIC_MOV)
            return out->reg.write; /* to a control or debug register */
        /* fall through */
    default:
        return decoder_traits[out->mnemonic] & TRAIT_ENDS_BLOCK;
    }
}

/* LSS loads both halves of the stack pointer at once and has no shadow. */
static bool loads_ss(const struct insn *out)
{
    if (out->cls != INSN_SEGMENT)
        return false;
    return (out->mnemonic == ZYDIS_MNEMONIC_MOV && out->opcode == 0x8e && out->modrm_reg == SEG_SS) ||
           (out->mnemonic == ZYDIS_MNEMONIC_POP && out->map == MAP_PRIMARY && out->opcode == 0x17);
}

/* Segment of the source operand. Only FS and GS count in 64-bit mode. */
static uint8_t source_segment(const struct insn *out, const ZydisDecodedInstruction *zi)
{
    bool all = out->mode != INSN_MODE_64;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_FS)
        return SEG_FS;
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_GS)
        return SEG_GS;
    if (all && (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_CS))
        return SEG_CS;
    if (all && (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_SS))
        return SEG_SS;
    if (all && (zi->attributes & ZYDIS_ATTRIB_HAS_SEGMENT_ES))
        return SEG_ES;
    return SEG_DS;
}

/* The index registers move although they appear as addresses only. */
static void string_registers(struct insn *out)
{
    enum { SI = 1 << GPR_SI, DI = 1 << GPR_DI };
    uint16_t moved;

    switch (out->opcode & 0xfe) {
    case 0xa4: /* movs */
    case 0xa6: /* cmps */
        moved = SI | DI;
        break;
    case 0x6c: /* ins */
    case 0xaa: /* stos */
    case 0xae: /* scas */
        moved = DI;
        break;
    case 0x6e: /* outs */
    case 0xac: /* lods */
        moved = SI;
        break;
    default: /* xlat */
        out->opsize = 1;
        return;
    }
    out->gpr_read |= moved;
    out->gpr_write |= moved;
}

/* The rest once the class is known. */
static void finish(struct insn *out, const ZydisDecodedInstruction *zi)
{
    normalise_operand_size(out);
    if (out->cls == INSN_STRING) {
        out->mem.seg = source_segment(out, zi);
        string_registers(out);
    }
    if (decoder_traits[zi->mnemonic] & TRAIT_HINT)
        out->mem.size = 0, out->mem.read = out->mem.write = false;
    if (decoder_traits[zi->mnemonic] & TRAIT_CACHE_LINE)
        out->mem.size = 1, out->mem.read = true, out->mem.write = false;
    /* The manual's MOVSXD r16, r/m16 (SDM vol. 2); AMD's processors read 32 bits for it. */
    if (zi->mnemonic == ZYDIS_MNEMONIC_MOVSXD && out->opsize == 2 && out->mem.present && !amd)
        out->mem.size = 2;
    if (zi->mnemonic == ZYDIS_MNEMONIC_BSF || zi->mnemonic == ZYDIS_MNEMONIC_BSR)
        out->gpr_read |= out->gpr_write; /* the destination stays as it is for a zero source */
    if (out->map == MAP_0F && out->mem.present && out->encoding == ENCODING_LEGACY &&
        (out->opcode == 0xa3 || out->opcode == 0xab || out->opcode == 0xb3 || out->opcode == 0xbb))
        out->mem.bit_string = true;
    if (out->encoding == ENCODING_LEGACY &&
        ((out->map == MAP_PRIMARY && (out->opcode & 0xf0) == 0x70) ||
         (out->map == MAP_0F && ((out->opcode & 0xe0) == 0x80 || (out->opcode & 0xf0) == 0x40))))
        out->cc = out->opcode & 15;
    take_flags(out, zi);
    take_faults(out, zi);
    out->ends_block = class_ends_block(out);
    if (out->map == MAP_0F && out->opcode == 0xae && out->modrm_mod == 3 && !out->mandatory)
        out->modrm_rm = 0; /* the fences ignore it, disassemblers do not */
    out->interrupt_shadow = zi->mnemonic == ZYDIS_MNEMONIC_STI || loads_ss(out);
}

/* Bytes that were looked at before an encoding was found to be none: prefixes, opcode, ModRM. */
static unsigned undefined_length(const uint8_t *bytes, size_t avail, enum insn_mode mode)
{
    unsigned n = 0;
    for (; n < avail && n < 14; n++) {
        uint8_t b = bytes[n];
        bool prefix = b == 0x66 || b == 0x67 || b == 0xf0 || b == 0xf2 || b == 0xf3 || (b & 0xe7) == 0x26 ||
                      b == 0x64 || b == 0x65 || (mode == INSN_MODE_64 && (b & 0xf0) == 0x40);
        if (!prefix)
            break;
    }
    if (n < avail && bytes[n] == 0x0f) {
        n++;
        if (n < avail && (bytes[n] == 0x38 || bytes[n] == 0x3a))
            n++;
    }
    n += 2;
    if (n > avail)
        n = (unsigned)avail;
    return n > 15 ? 15 : n;
}

/* The library takes F3 90 for PAUSE whatever REX.B says; with it, the processor exchanges R8 and rAX. */
static bool is_exchange(const ZydisDecodedInstruction *zi)
{
    return zi->mnemonic == ZYDIS_MNEMONIC_PAUSE && zi->raw.rex.B;
}

/* The same bytes without effect of the F3: as a DS prefix, which 64-bit mode ignores. */
static int decode_exchange(struct insn *out, struct insn_shape *shape, const uint8_t *bytes, unsigned len)
{
    uint8_t copy[15];
    memcpy(copy, bytes, len);
    for (unsigned i = 0; i < len; i++)
        if (copy[i] == 0xf3)
            copy[i] = 0x3e;
    return insn_decode_shape(out, shape, copy, len, INSN_MODE_64);
}

/* A near branch with an operand-size prefix in 64-bit mode: AMD truncates RIP to 16 bits. The library knows it of the
 * forms with a long displacement only. */
static bool is_narrow_branch(const struct insn *out, const ZydisDecodedInstruction *zi)
{
    return amd && out->mode == INSN_MODE_64 && (out->cls == INSN_JCC || out->cls == INSN_JMP) &&
           (zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE);
}

/* Encodings with an opcode byte behind the displacement, or a scaled displacement, and two immediates: not fixed. */
static void take_shape(struct insn_shape *s, const struct insn *out, const ZydisDecodedInstruction *zi)
{
    bool plain = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
    s->disp_len = zi->raw.disp.size / 8;
    s->imm_len = zi->raw.imm[0].size / 8;
    s->imm_signed = zi->raw.imm[0].is_signed;
    s->head = (uint8_t)(zi->length - s->disp_len - s->imm_len);
    s->shift = s->imm_len && (decoder_traits[zi->mnemonic] & TRAIT_SHIFT);
    s->fixed = plain && !zi->raw.imm[1].size && (!s->disp_len || zi->raw.disp.offset == s->head) &&
               (!s->imm_len || zi->raw.imm[0].offset == s->head + s->disp_len) && (!s->disp_len || out->mem.present);
}

int insn_decode_shape(struct insn *out, struct insn_shape *shape, const uint8_t *bytes, size_t avail,
                      enum insn_mode mode)
{
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZyanStatus status = ZydisDecoderDecodeFull(&decoders[mode], bytes, avail, &zi, ops);

    memset(out, 0, sizeof *out);
    shape->fixed = false;
    out->mode = (uint8_t)mode;
    out->mem.base = out->mem.index = GPR_NONE;
    if (status == ZYDIS_STATUS_NO_MORE_DATA)
        return 0;
    if (status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return -1;
    if (!ZYAN_SUCCESS(status)) {
        out->len = (uint8_t)undefined_length(bytes, avail, mode);
        memcpy(out->bytes, bytes, out->len);
        out->ends_block = true;
        return out->len;
    }
    if (is_exchange(&zi))
        return decode_exchange(out, shape, bytes, zi.length);
    out->len = zi.length;
    memcpy(out->bytes, bytes, zi.length);
    out->mnemonic = (uint16_t)zi.mnemonic;
    out->opsize = zi.operand_width / 8;
    out->addrsize = zi.address_width / 8;
    take_encoding(out, &zi);
    take_immediates(out, &zi);
    take_operands(out, &zi, ops);
    take_state(out, &zi);
    out->cls = classify(out, &zi, ops);
    if (is_narrow_branch(out, &zi))
        out->opsize = 2;
    finish(out, &zi);
    take_shape(shape, out, &zi);
    return out->len;
}

int insn_decode(struct insn *out, const uint8_t *bytes, size_t avail, enum insn_mode mode)
{
    struct insn_shape shape;
    return insn_decode_shape(out, &shape, bytes, avail, mode);
}

const char *insn_format(const struct insn *insn, uint64_t pc, char *buf, size_t len)
{
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand ops[ZYDIS_MAX_OPERAND_COUNT];
    ZydisFormatter formatter;

    if (!len)
        return buf;
    buf[0] = 0;
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoders[insn->mode], insn->bytes, insn->len, &zi, ops)) ||
        !ZYAN_SUCCESS(
            ZydisFormatterFormatInstruction(&formatter, &zi, ops, zi.operand_count_visible, buf, len, pc, NULL))) {
        strncpy(buf, "(undefined)", len - 1);
        buf[len - 1] = 0;
    }
    return buf;
}
