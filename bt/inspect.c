/* SPDX-License-Identifier: MIT */
#include "bt/inspect.h"

static unsigned insns_of(const struct bt_cache *c, const struct bt_block *b)
{
    unsigned n = 0;
    /* Records of the hot part come first, in order; those of cold parts repeat them. */
    while (n < b->record_count &&
           (n == 0 || c->records[b->first_record + n].guest_offset > c->records[b->first_record + n - 1].guest_offset))
        n++;
    return n;
}

static bool find_in_block(const struct bt_cache *c, const struct bt_block *b, uint64_t rip, struct bt_translation *out)
{
    unsigned count = insns_of(c, b);
    for (unsigned i = 0; i < count; i++) {
        const struct bt_insn_record *r = &c->records[b->first_record + i];
        if (b->eip + r->guest_offset != rip)
            continue;
        uint32_t end = i + 1 < b->record_count ? r[1].host_offset : b->size;
        *out = (struct bt_translation){.block_eip = b->eip,
                                       .eip = rip,
                                       .block_insns = count,
                                       .code = (const uint8_t *)(uintptr_t)(b->entry + r->host_offset),
                                       .code_len = end - r->host_offset,
                                       .code_at = b->entry + r->host_offset};
        return true;
    }
    return false;
}

bool bt_inspect(struct cpu *cpu, uint64_t rip, struct bt_translation *out)
{
    const struct bt_cache *c = bt_of(cpu)->cache;
    for (uint32_t i = c->block_count; i-- > 1;)
        if (!c->blocks[i].dead && find_in_block(c, &c->blocks[i], rip, out))
            return true;
    return false;
}

/* Host code of one instruction: where its opcode is. */
static uint8_t *opcode_of(uint8_t *p)
{
    while (*p == 0x66 || *p == 0xf2 || *p == 0xf3 || *p == 0xf0 || *p == 0x64 || *p == 0x65)
        p++;
    return (*p & 0xf0) == 0x40 ? p + 1 : p;
}

/* The ModRM-style number of an operation that may be damaged: 0 ADD, 1 OR, 3 SBB, 4 AND, 5 SUB, 6 XOR; not ADC and CMP,
 * which the bits flipped below would turn into each other. */
static bool damageable(unsigned group)
{
    return group != 2 && group != 7;
}

bool bt_damage(uint8_t *start, uint8_t *end)
{
    enum { FLIP = 5 << 3, INC_DEC = 1 << 3 };
    uint8_t *place = NULL, bits = 0;
    for (uint8_t *p = start; p < end;) {
        struct insn in;
        int len = insn_decode(&in, p, (size_t)(end - p), INSN_MODE_64);
        uint8_t *op = opcode_of(p);
        if (len <= 0)
            break;
        unsigned group = op[0] >> 3 & 7, extension = op[1] >> 3 & 7;
        if (op[0] < 0x40 && (op[0] & 7) < 6 && damageable(group))
            place = op, bits = FLIP;
        else if (op[0] >= 0x80 && op[0] <= 0x83 && damageable(extension))
            place = op + 1, bits = FLIP;
        else if ((op[0] == 0xfe || op[0] == 0xff) && extension < 2)
            place = op + 1, bits = INC_DEC;
        p += len;
    }
    if (place)
        *place ^= bits;
    return place;
}
