/* SPDX-License-Identifier: MIT */
#include "decoder/listing.h"

#include "decoder/capstone.h"

#include <inttypes.h>

static void print_bytes(FILE *out, uint64_t address, const uint8_t *bytes, size_t len)
{
    fprintf(out, "  %8" PRIx64 "  ", address);
    for (size_t i = 0; i < 10; i++)
        fprintf(out, i < len ? "%02x" : "  ", i < len ? bytes[i] : 0);
    if (len > 10) /* the rest would push the text out of its column */
        fputc('+', out);
    fprintf(out, len > 10 ? " " : "  ");
}

void listing_host(FILE *out, const void *code, size_t len, uint64_t address)
{
    const struct capstone *cs = capstone_load();
    const uint8_t *p = code;
    csh handle;
    cs_insn *insn;

    if (!cs || cs->open(CS_ARCH_X86, CS_MODE_64, &handle) != CS_ERR_OK) {
        fprintf(out, "  (no disassembler)\n");
        return;
    }
    insn = cs->alloc(handle);
    while (len && insn) {
        uint64_t start = address;
        const uint8_t *first = p;
        if (cs->disasm_iter(handle, &p, &len, &address, insn)) {
            print_bytes(out, start, first, insn->size);
            fprintf(out, "%s %s\n", insn->mnemonic, insn->op_str);
        } else {
            print_bytes(out, start, first, 1);
            fprintf(out, ".byte 0x%02x\n", *first);
            p++, len--, address++;
        }
    }
    if (insn)
        cs->release(insn, 1);
    cs->close(&handle);
}

size_t listing_host_insn(const void *code, size_t len, uint64_t address, char *text, size_t size)
{
    const struct capstone *cs = capstone_load();
    csh handle;
    cs_insn *insn;
    size_t n = 0;

    if (cs && cs->open(CS_ARCH_X86, CS_MODE_64, &handle) == CS_ERR_OK) {
        if (cs->disasm(handle, code, len, address, 1, &insn) == 1) {
            n = insn->size;
            snprintf(text, size, insn->op_str[0] ? "%s %s" : "%s", insn->mnemonic, insn->op_str);
            cs->release(insn, 1);
        }
        cs->close(&handle);
    }
    if (n == 0)
        snprintf(text, size, ".byte 0x%02x", *(const uint8_t *)code);
    return n ? n : 1;
}

void listing_guest(FILE *out, const uint8_t *bytes, size_t len, uint64_t pc, enum insn_mode mode)
{
    for (size_t at = 0; at < len;) {
        struct insn insn;
        char text[128];
        int n = insn_decode(&insn, bytes + at, len - at, mode);
        if (n <= 0) {
            print_bytes(out, pc + at, bytes + at, len - at > 15 ? 15 : len - at);
            fprintf(out, n ? "(too long)\n" : "(cut off)\n");
            return;
        }
        print_bytes(out, pc + at, insn.bytes, insn.len);
        fprintf(out, "%s\n", insn_format(&insn, pc + at, text, sizeof text));
        at += (size_t)n;
    }
}
