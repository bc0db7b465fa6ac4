/* SPDX-License-Identifier: MIT */
/* Writes ACPI machine language (ACPI Specification 6.4, chapter 20) front to back into a growing buffer. Objects with a
 * package length nest by aml_..._open / aml_close; everything else is appended where the last thing ended:
 *
 *     aml_device_open(&a, "PCI0");
 *     aml_name(&a, "_HID"); aml_eisa_id(&a, "PNP0A03");
 *     aml_close(&a);
 *
 * A failed allocation sets failed and later calls do nothing; check it once at the end. */
#ifndef RINGFOLD_DEVICES_AML_H
#define RINGFOLD_DEVICES_AML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { AML_DEPTH = 16 };

struct aml {
    uint8_t *data; /* owned by the caller after the end: free() */
    size_t length, capacity;
    size_t open[AML_DEPTH]; /* where the package lengths belong */
    unsigned depth;
    bool failed;
};

/* Single-byte and two-byte opcodes used by hand in methods. */
enum aml_opcode {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_LOCAL0 = 0x60,
    AML_ARG0 = 0x68,
    AML_STORE = 0x70,
    AML_SUBTRACT = 0x74,
    AML_SHIFT_LEFT = 0x79,
    AML_AND = 0x7b,
    AML_OR = 0x7d,
    AML_FIND_SET_RIGHT_BIT = 0x82,
    AML_CREATE_WORD_FIELD = 0x8b,
    AML_RETURN = 0xa4
};

void aml_bytes(struct aml *a, const void *bytes, size_t count);
void aml_byte(struct aml *a, unsigned byte);
void aml_word(struct aml *a, unsigned word);
void aml_dword(struct aml *a, uint32_t dword);
/* A name path: segments of up to four characters, '\' in front for the root, '.' between them. */
void aml_path(struct aml *a, const char *path);
/* The smallest integer object. */
void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
/* An EISA id such as PNP0A03 as an integer. */
void aml_eisa_id(struct aml *a, const char *id);
/* Name(path, ...): the object follows. */
void aml_name(struct aml *a, const char *path);

void aml_scope_open(struct aml *a, const char *path);
void aml_device_open(struct aml *a, const char *path);
/* arguments 0-7 */
void aml_method_open(struct aml *a, const char *path, unsigned arguments, bool serialized);
void aml_package_open(struct aml *a, unsigned elements);
void aml_if_open(struct aml *a);
void aml_field_open(struct aml *a, const char *region); /* byte access, no lock, preserve */
void aml_field_bits(struct aml *a, const char *name, unsigned bits);
void aml_close(struct aml *a);
/* space: 1 I/O, 2 PCI configuration */
void aml_operation_region(struct aml *a, const char *name, unsigned space, uint32_t offset, uint32_t length);
void aml_processor(struct aml *a, const char *path, unsigned id);

/* ResourceTemplate(): a Buffer of descriptors, chapter 6.4. */
void aml_resources_open(struct aml *a);
void aml_resources_close(struct aml *a);
void aml_io(struct aml *a, uint16_t base, uint8_t length);
void aml_irq(struct aml *a, unsigned irq);                   /* edge, high, exclusive */
void aml_irq_level_shared(struct aml *a, uint16_t irq_mask); /* level, low, shared */
void aml_dma(struct aml *a, unsigned channel);
void aml_word_bus_range(struct aml *a, uint16_t first, uint16_t last);
void aml_word_io_range(struct aml *a, uint16_t first, uint16_t last);
void aml_dword_memory_range(struct aml *a, uint32_t first, uint32_t last, bool cacheable);

#endif
