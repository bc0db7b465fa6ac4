/* SPDX-License-Identifier: MIT */
#include "devices/aml.h"

#include <stdlib.h>
#include <string.h>

enum {
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXTENDED = 0x5b,
    OP_IF = 0xa0,
    EXT_REGION = 0x80,
    EXT_FIELD = 0x81,
    EXT_DEVICE = 0x82,
    EXT_PROCESSOR = 0x83
};
enum { RANGE_MEMORY = 0, RANGE_IO = 1, RANGE_BUS = 2 };
enum { RANGE_FIXED = 0x0c /* minimum and maximum fixed, positive decode, producer */ };

void aml_bytes(struct aml *a, const void *bytes, size_t count)
{
    if (a->failed)
        return;
    if (a->length + count > a->capacity) {
        size_t capacity = (a->length + count) * 2 + 256;
        uint8_t *data = realloc(a->data, capacity);
        if (!data) {
            a->failed = true;
            return;
        }
        a->data = data;
        a->capacity = capacity;
    }
    memcpy(a->data + a->length, bytes, count);
    a->length += count;
}

void aml_byte(struct aml *a, unsigned byte)
{
    uint8_t b = (uint8_t)byte;
    aml_bytes(a, &b, 1);
}

void aml_word(struct aml *a, unsigned word)
{
    aml_byte(a, word);
    aml_byte(a, word >> 8);
}

void aml_dword(struct aml *a, uint32_t dword)
{
    aml_word(a, dword);
    aml_word(a, dword >> 16);
}

void aml_path(struct aml *a, const char *path)
{
    if (*path == '\\')
        aml_byte(a, (uint8_t)*path++);
    unsigned segments = *path != 0;
    for (const char *c = path; *c; c++)
        segments += *c == '.';
    if (segments == 0) {
        aml_byte(a, 0);
    } else if (segments == 2) {
        aml_byte(a, OP_DUAL_NAME);
    } else if (segments > 2) {
        aml_byte(a, OP_MULTI_NAME);
        aml_byte(a, segments);
    }
    while (*path) {
        char segment[4] = {'_', '_', '_', '_'};
        for (unsigned i = 0; *path && *path != '.'; path++, i++)
            if (i < 4)
                segment[i] = *path;
        aml_bytes(a, segment, 4);
        if (*path == '.')
            path++;
    }
}

void aml_integer(struct aml *a, uint64_t value)
{
    if (value <= 1) {
        aml_byte(a, (unsigned)value);
    } else if (value <= 0xff) {
        aml_byte(a, OP_BYTE);
        aml_byte(a, (unsigned)value);
    } else if (value <= 0xffff) {
        aml_byte(a, OP_WORD);
        aml_word(a, (unsigned)value);
    } else if (value <= 0xffffffff) {
        aml_byte(a, OP_DWORD);
        aml_dword(a, (uint32_t)value);
    } else {
        aml_byte(a, OP_QWORD);
        aml_dword(a, (uint32_t)value);
        aml_dword(a, (uint32_t)(value >> 32));
    }
}

void aml_string(struct aml *a, const char *text)
{
    aml_byte(a, OP_STRING);
    aml_bytes(a, text, strlen(text) + 1);
}

static unsigned hex_digit(char c)
{
    return c >= 'A' ? (unsigned)(c - 'A' + 10) : (unsigned)(c - '0');
}

void aml_eisa_id(struct aml *a, const char *id)
{
    unsigned letters = (unsigned)(id[0] - '@') << 10 | (unsigned)(id[1] - '@') << 5 | (unsigned)(id[2] - '@');
    aml_byte(a, OP_DWORD); /* compressed, big-endian */
    aml_byte(a, letters >> 8);
    aml_byte(a, letters);
    aml_byte(a, hex_digit(id[3]) << 4 | hex_digit(id[4]));
    aml_byte(a, hex_digit(id[5]) << 4 | hex_digit(id[6]));
}

void aml_name(struct aml *a, const char *path)
{
    aml_byte(a, OP_NAME);
    aml_path(a, path);
}

/* ---- package lengths ---- */

static void package_open(struct aml *a)
{
    if (a->depth == AML_DEPTH)
        a->failed = true;
    if (!a->failed)
        a->open[a->depth++] = a->length;
}

/* Chapter 20.2.4: one to four bytes, which count themselves. They are inserted in front of the finished contents. */
void aml_close(struct aml *a)
{
    if (a->failed || !a->depth)
        return;
    size_t at = a->open[--a->depth], contents = a->length - at;
    unsigned extra = contents + 1 <= 0x3f ? 0 : contents + 2 <= 0xfff ? 1 : contents + 3 <= 0xfffff ? 2 : 3;
    size_t total = contents + 1 + extra;
    uint8_t length[4] = {(uint8_t)total};
    if (extra) {
        length[0] = (uint8_t)(extra << 6 | (total & 0x0f));
        for (unsigned i = 0; i < extra; i++)
            length[1 + i] = (uint8_t)(total >> (4 + 8 * i));
    }
    aml_bytes(a, length, 1 + extra); /* makes room */
    if (a->failed)
        return;
    memmove(a->data + at + 1 + extra, a->data + at, contents);
    memcpy(a->data + at, length, 1 + extra);
}

void aml_scope_open(struct aml *a, const char *path)
{
    aml_byte(a, OP_SCOPE);
    package_open(a);
    aml_path(a, path);
}

void aml_device_open(struct aml *a, const char *path)
{
    aml_byte(a, OP_EXTENDED);
    aml_byte(a, EXT_DEVICE);
    package_open(a);
    aml_path(a, path);
}

void aml_method_open(struct aml *a, const char *path, unsigned arguments, bool serialized)
{
    aml_byte(a, OP_METHOD);
    package_open(a);
    aml_path(a, path);
    aml_byte(a, (arguments & 7) | (serialized ? 8 : 0));
}

void aml_package_open(struct aml *a, unsigned elements)
{
    aml_byte(a, OP_PACKAGE);
    package_open(a);
    aml_byte(a, elements);
}

void aml_if_open(struct aml *a)
{
    aml_byte(a, OP_IF);
    package_open(a);
}

void aml_field_open(struct aml *a, const char *region)
{
    aml_byte(a, OP_EXTENDED);
    aml_byte(a, EXT_FIELD);
    package_open(a);
    aml_path(a, region);
    aml_byte(a, 1); /* ByteAcc, NoLock, Preserve */
}

void aml_field_bits(struct aml *a, const char *name, unsigned bits)
{
    aml_path(a, name);
    aml_byte(a, bits & 0x3f);
}

void aml_operation_region(struct aml *a, const char *name, unsigned space, uint32_t offset, uint32_t length)
{
    aml_byte(a, OP_EXTENDED);
    aml_byte(a, EXT_REGION);
    aml_path(a, name);
    aml_byte(a, space);
    aml_integer(a, offset);
    aml_integer(a, length);
}

void aml_processor(struct aml *a, const char *path, unsigned id)
{
    aml_byte(a, OP_EXTENDED);
    aml_byte(a, EXT_PROCESSOR);
    package_open(a);
    aml_path(a, path);
    aml_byte(a, id);
    aml_dword(a, 0); /* no P_BLK: neither throttling nor C2, C3 */
    aml_byte(a, 0);
    aml_close(a);
}

/* ---- resources ---- */

/* The buffer's size is an integer object inside the package; a word is always enough and has a fixed place. */
void aml_resources_open(struct aml *a)
{
    aml_byte(a, OP_BUFFER);
    package_open(a);
    aml_byte(a, OP_WORD);
    aml_word(a, 0);
}

void aml_resources_close(struct aml *a)
{
    aml_byte(a, 0x79); /* end tag, checksum not used */
    aml_byte(a, 0);
    if (a->failed || !a->depth)
        return;
    size_t at = a->open[a->depth - 1];
    size_t size = a->length - at - 3;
    a->data[at + 1] = (uint8_t)size;
    a->data[at + 2] = (uint8_t)(size >> 8);
    aml_close(a);
}

void aml_io(struct aml *a, uint16_t base, uint8_t length)
{
    aml_byte(a, 0x47);
    aml_byte(a, 1); /* decodes 16 bits */
    aml_word(a, base);
    aml_word(a, base);
    aml_byte(a, 1);
    aml_byte(a, length);
}

void aml_irq(struct aml *a, unsigned irq)
{
    aml_byte(a, 0x22);
    aml_word(a, 1u << irq);
}

void aml_irq_level_shared(struct aml *a, uint16_t irq_mask)
{
    aml_byte(a, 0x23);
    aml_word(a, irq_mask);
    aml_byte(a, 0x18);
}

void aml_dma(struct aml *a, unsigned channel)
{
    aml_byte(a, 0x2a);
    aml_byte(a, 1u << channel);
    aml_byte(a, 0); /* compatibility, 8 bits */
}

static void word_range(struct aml *a, unsigned type, unsigned flags, uint16_t first, uint16_t last)
{
    aml_byte(a, 0x88);
    aml_word(a, 13);
    aml_byte(a, type);
    aml_byte(a, RANGE_FIXED);
    aml_byte(a, flags);
    aml_word(a, 0);
    aml_word(a, first);
    aml_word(a, last);
    aml_word(a, 0);
    aml_word(a, (unsigned)last - first + 1);
}

void aml_word_bus_range(struct aml *a, uint16_t first, uint16_t last)
{
    word_range(a, RANGE_BUS, 0, first, last);
}

void aml_word_io_range(struct aml *a, uint16_t first, uint16_t last)
{
    word_range(a, RANGE_IO, 3 /* entire range */, first, last);
}

void aml_dword_memory_range(struct aml *a, uint32_t first, uint32_t last, bool cacheable)
{
    aml_byte(a, 0x87);
    aml_word(a, 23);
    aml_byte(a, RANGE_MEMORY);
    aml_byte(a, RANGE_FIXED);
    aml_byte(a, cacheable ? 3 : 1); /* read-write */
    aml_dword(a, 0);
    aml_dword(a, first);
    aml_dword(a, last);
    aml_dword(a, 0);
    aml_dword(a, last - first + 1);
}
