/* SPDX-License-Identifier: MIT */
/* Multiboot 1 kernels (Multiboot Specification 0.6.96): ELF, or any file whose header gives addresses. All sizes come
 * from the file, so every sum is made in 64 bits of 32-bit values and checked against the file and the E820 map before
 * use. */
#include "devices/loader_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    MAGIC_HEADER = 0x1badb002,
    MAGIC_ENTRY = 0x2badb002,
    SEARCH_LIMIT = 8192,
    FLAG_REQUIRED = 0xffff,
    FLAG_KNOWN = 7, /* page-aligned modules, memory information, video mode */
    FLAG_ADDRESSES = 1 << 16,
    MODULES_MAX = 64,
    MODULE_ENTRY_SIZE = 16,
    MMAP_ENTRY_SIZE = 24,
    INFO_SIZE = 120,
    GDT_SIZE = 32,
    COMMAND_LINE_MAX = 65536
};

/* Bits of the information structure's flags. */
enum { INFO_MEMORY = 1, INFO_CMDLINE = 4, INFO_MODULES = 8, INFO_MMAP = 0x40, INFO_LOADER_NAME = 0x200 };

static const char loader_name[] = "ringfold";

bool loader_find_multiboot(const uint8_t *header, size_t len, uint32_t *offset)
{
    for (uint32_t at = 0; at + 12 <= len && at + 12 <= SEARCH_LIMIT; at += 4) {
        if (loader_get32(header + at) != MAGIC_HEADER)
            continue;
        uint32_t sum = MAGIC_HEADER + loader_get32(header + at + 4) + loader_get32(header + at + 8);
        if (sum == 0) {
            *offset = at;
            return true;
        }
    }
    return false;
}

/* One piece of the kernel: file bytes, then zeroes up to mem_size. */
static int load_segment(struct loader_job *job, const struct loader_file *kernel, uint64_t file_offset,
                        uint64_t file_size, uint64_t dest, uint64_t mem_size)
{
    if (file_offset > kernel->size || file_size > kernel->size - file_offset)
        return loader_fail(job, kernel, -ENOEXEC,
                           "truncated: the segment for %#" PRIx64 " lies beyond the end of the file", dest);
    if (file_size > mem_size)
        return loader_fail(job, kernel, -ENOEXEC, "the segment for %#" PRIx64 " is larger in the file than in memory",
                           dest);
    if (dest >= MEMORY_4G || mem_size > MEMORY_4G - dest || !loader_is_ram(job->board, dest, mem_size))
        return loader_fail(job, kernel, -ENOMEM,
                           "the segment at %#" PRIx64 " (%#" PRIx64
                           " bytes) is outside the machine's memory of %" PRIu64 "M",
                           dest, mem_size, job->mem->ram_size >> 20);
    if (!loader_use(job, dest, mem_size))
        return loader_fail(job, kernel, -ENOEXEC, "too many segments");
    int code = loader_file_copy(job, kernel, file_offset, dest, file_size);
    return code ? code : loader_zero(job, kernel, dest + file_size, mem_size - file_size);
}

/* The header's own addresses ("a.out kludge"), section 3.1.3. */
static int load_by_addresses(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header,
                             size_t len, uint32_t offset)
{
    if (offset + 32 > len)
        return loader_fail(job, kernel, -ENOEXEC, "truncated in the multiboot header");
    const uint8_t *h = header + offset;
    uint64_t header_addr = loader_get32(h + 12), load_addr = loader_get32(h + 16);
    uint64_t load_end = loader_get32(h + 20), bss_end = loader_get32(h + 24);
    job->entry->rip = loader_get32(h + 28);
    if (load_addr > header_addr || header_addr - load_addr > offset)
        return loader_fail(job, kernel, -ENOEXEC,
                           "multiboot header: load_addr %#" PRIx64 " does not fit header_addr %#" PRIx64, load_addr,
                           header_addr);
    uint64_t file_offset = offset - (header_addr - load_addr);
    if (load_end == 0)
        load_end = load_addr + (kernel->size - file_offset);
    if (load_end < load_addr)
        return loader_fail(job, kernel, -ENOEXEC,
                           "multiboot header: load_end_addr %#" PRIx64 " is below load_addr %#" PRIx64, load_end,
                           load_addr);
    if (bss_end == 0)
        bss_end = load_end;
    if (bss_end < load_end)
        return loader_fail(job, kernel, -ENOEXEC,
                           "multiboot header: bss_end_addr %#" PRIx64 " is below load_end_addr %#" PRIx64, bss_end,
                           load_end);
    return load_segment(job, kernel, file_offset, load_end - load_addr, load_addr, bss_end - load_addr);
}

/* The parts of ELF that both classes have, widened. */
struct elf_header {
    bool wide; /* ELFCLASS64 */
    uint64_t entry, phoff;
    unsigned phentsize, phnum;
};
struct elf_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz;
};

static int parse_elf(struct loader_job *job, const struct loader_file *kernel, const uint8_t *h, size_t len,
                     struct elf_header *elf)
{
    enum { EM_I386 = 3, EM_AMD64 = 62, MIN_HEADER = 64 };
    if (len < MIN_HEADER)
        return loader_fail(job, kernel, -ENOEXEC, "truncated in the ELF header");
    elf->wide = h[4] == 2;
    unsigned machine = loader_get16(h + 18);
    if ((h[4] != 1 && h[4] != 2) || h[5] != 1 || machine != (elf->wide ? EM_AMD64 : EM_I386))
        return loader_fail(job, kernel, -ENOEXEC, "an ELF file for another kind of machine (class %u, machine %u)",
                           h[4], machine);
    elf->entry = elf->wide ? loader_get64(h + 24) : loader_get32(h + 24);
    elf->phoff = elf->wide ? loader_get64(h + 32) : loader_get32(h + 28);
    elf->phentsize = loader_get16(h + (elf->wide ? 54 : 42));
    elf->phnum = loader_get16(h + (elf->wide ? 56 : 44));
    if (elf->phnum == 0)
        return loader_fail(job, kernel, -ENOEXEC, "an ELF file without program headers");
    if (elf->phentsize < (elf->wide ? 56 : 32))
        return loader_fail(job, kernel, -ENOEXEC, "ELF program headers of %u bytes are too small", elf->phentsize);
    return 0;
}

static int read_segment(struct loader_job *job, const struct loader_file *kernel, const struct elf_header *elf,
                        unsigned n, struct elf_segment *s)
{
    uint8_t p[56] = {0};
    uint64_t offset = elf->phoff + (uint64_t)n * elf->phentsize;
    if (offset < elf->phoff)
        return loader_fail(job, kernel, -ENOEXEC, "ELF program headers beyond the end of the file");
    int code = loader_file_read(job, kernel, offset, p, elf->wide ? 56 : 32);
    if (code)
        return code;
    if (elf->wide)
        *s = (struct elf_segment){loader_get32(p),      loader_get64(p + 8),  loader_get64(p + 16),
                                  loader_get64(p + 24), loader_get64(p + 32), loader_get64(p + 40)};
    else
        *s = (struct elf_segment){loader_get32(p),      loader_get32(p + 4),  loader_get32(p + 8),
                                  loader_get32(p + 12), loader_get32(p + 16), loader_get32(p + 20)};
    return 0;
}

static int load_elf(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header, size_t len)
{
    enum { PT_LOAD = 1 };
    struct elf_header elf = {0};
    bool loaded = false;
    int code = parse_elf(job, kernel, header, len, &elf);
    if (code)
        return code;
    job->entry->rip = elf.entry;
    for (unsigned n = 0; n < elf.phnum; n++) {
        struct elf_segment s = {0};
        code = read_segment(job, kernel, &elf, n, &s);
        if (code)
            return code;
        if (s.type != PT_LOAD || s.memsz == 0)
            continue;
        code = load_segment(job, kernel, s.offset, s.filesz, s.paddr, s.memsz);
        if (code)
            return code;
        loaded = true;
        /* The entry point of a kernel linked high is a virtual address; paging is off, so make it physical. */
        if (elf.entry >= s.vaddr && elf.entry - s.vaddr < s.memsz)
            job->entry->rip = elf.entry - s.vaddr + s.paddr;
    }
    if (!loaded)
        return loader_fail(job, kernel, -ENOEXEC, "an ELF file without anything to load");
    if (job->entry->rip >= MEMORY_4G)
        return loader_fail(job, kernel, -ENOEXEC, "the entry point %#" PRIx64 " is above 4 GiB", job->entry->rip);
    return 0;
}

/* ---- modules and the information structure ---- */

struct module {
    uint64_t start, size;
    char *text; /* "FILE ARGUMENTS" */
};

/* One module: "FILE" or "FILE ARGUMENTS" (when no file has the whole name). */
static int load_module(struct loader_job *job, char *text, struct module *m)
{
    struct loader_file file;
    char *path = strdup(text);
    if (!path) {
        snprintf(job->err, job->err_len, "initrd %s: out of memory", text);
        return -ENOMEM;
    }
    char *space = strchr(path, ' ');
    if (space && access(path, F_OK) != 0)
        *space = 0;
    int code = loader_file_open(job, &file, "initrd", path);
    if (!code) {
        m->size = file.size;
        m->text = text;
        m->start = loader_find_low(job, file.size, PAGE_SIZE, 0x100000, MEMORY_4G);
        if (m->start == UINT64_MAX || !loader_use(job, m->start, file.size))
            code =
                loader_fail(job, &file, -ENOMEM, "the module (%" PRIu64 "K) does not fit into %" PRIu64 "M of memory",
                            file.size >> 10, job->mem->ram_size >> 20);
        else
            code = loader_file_copy(job, &file, 0, m->start, file.size);
        loader_file_close(&file);
    }
    free(path);
    return code;
}

/* --initrd FILE[ ARGUMENTS][,FILE...]: several modules unless a file has just that name. list is cut up. */
static int load_modules(struct loader_job *job, const struct loader_file *kernel, char *list, struct module *modules,
                        unsigned *count)
{
    bool whole = access(list, F_OK) == 0;
    *count = 0;
    while (list) {
        char *comma = whole ? NULL : strchr(list, ',');
        if (comma)
            *comma = 0;
        if (*count == MODULES_MAX)
            return loader_fail(job, kernel, -E2BIG, "more than %d modules", MODULES_MAX);
        int code = load_module(job, list, &modules[*count]);
        if (code)
            return code;
        ++*count;
        list = comma ? comma + 1 : NULL;
    }
    return 0;
}

/* A block of guest memory that is filled front to back. */
struct info_block {
    uint8_t *buf;
    uint64_t base;
    size_t used;
};

static uint32_t info_add(struct info_block *b, const void *data, size_t len)
{
    uint32_t addr = (uint32_t)(b->base + b->used);
    memcpy(b->buf + b->used, data, len);
    b->used = (b->used + len + 7) & ~(size_t)7;
    return addr;
}

static uint32_t info_add_mmap(struct info_block *b, const struct loader_board *board)
{
    uint32_t first = (uint32_t)(b->base + b->used);
    for (unsigned i = 0; i < board->e820_count; i++) {
        uint8_t e[MMAP_ENTRY_SIZE] = {0};
        loader_put32(e, MMAP_ENTRY_SIZE - 4);
        loader_put64(e + 4, board->e820[i].base);
        loader_put64(e + 12, board->e820[i].size);
        loader_put32(e + 20, board->e820[i].type);
        info_add(b, e, sizeof e);
    }
    return first;
}

static uint32_t info_add_modules(struct info_block *b, const struct module *modules, unsigned count)
{
    uint8_t table[MODULES_MAX * MODULE_ENTRY_SIZE] = {0};
    for (unsigned i = 0; i < count; i++) {
        uint8_t *e = table + i * MODULE_ENTRY_SIZE;
        loader_put32(e, (uint32_t)modules[i].start);
        loader_put32(e + 4, (uint32_t)(modules[i].start + modules[i].size));
        loader_put32(e + 8, info_add(b, modules[i].text, strlen(modules[i].text) + 1));
    }
    return info_add(b, table, count * MODULE_ENTRY_SIZE);
}

static void fill_info(struct loader_job *job, struct info_block *b, const char *cmdline, const struct module *modules,
                      unsigned module_count)
{
    uint8_t info[INFO_SIZE] = {0};
    uint32_t flags = INFO_MEMORY | INFO_CMDLINE | INFO_MMAP | INFO_LOADER_NAME;
    b->used = INFO_SIZE; /* filled in at the end */
    job->entry->gpr[GPR_BX] = b->base;
    uint64_t lower = loader_ram_end(job->board, 0), upper = loader_ram_end(job->board, 0x100000) - 0x100000;
    loader_put32(info + 4, (uint32_t)(lower < 0xa0000 ? lower >> 10 : 640));
    loader_put32(info + 8, (uint32_t)(upper >> 10));
    loader_put32(info + 16, info_add(b, cmdline, strlen(cmdline) + 1));
    if (module_count) {
        flags |= INFO_MODULES;
        loader_put32(info + 20, module_count);
        loader_put32(info + 24, info_add_modules(b, modules, module_count));
    }
    loader_put32(info + 44, job->board->e820_count * MMAP_ENTRY_SIZE);
    loader_put32(info + 48, info_add_mmap(b, job->board));
    loader_put32(info + 64, info_add(b, loader_name, sizeof loader_name));
    loader_put32(info, flags);
    memcpy(b->buf, info, sizeof info);
}

static int put_info(struct loader_job *job, const struct loader_file *kernel, const char *cmdline,
                    const struct module *modules, unsigned module_count)
{
    size_t size = INFO_SIZE + strlen(cmdline) + sizeof loader_name + 64 + (LOADER_E820_MAX + 1) * MMAP_ENTRY_SIZE;
    for (unsigned i = 0; i < module_count; i++)
        size += MODULE_ENTRY_SIZE + strlen(modules[i].text) + 16;
    /* As high below 640K as there is room, where few kernels put anything; else wherever it is free. */
    uint64_t base = loader_find_high(job, GDT_SIZE + size, 16, 0x10000, 0x9f000);
    if (base == UINT64_MAX)
        base = loader_find_low(job, GDT_SIZE + size, 16, 0x100000, MEMORY_4G);
    if (base == UINT64_MAX)
        return loader_fail(job, kernel, -ENOMEM, "no free memory for the multiboot information");
    struct info_block block = {.buf = calloc(1, size), .base = base + GDT_SIZE};
    if (!block.buf)
        return loader_fail(job, kernel, -ENOMEM, "out of memory");
    fill_info(job, &block, cmdline, modules, module_count);
    int code = loader_write(job, kernel, block.base, block.buf, block.used);
    free(block.buf);
    return code ? code : loader_enter_flat(job, kernel, 32, base, 0x08);
}

/* "FILE ARGUMENTS", as the kernels' argv[0] and the rest; NULL when out of memory. */
static char *make_cmdline(const struct machine_config *config)
{
    char *line;
    const char *append = config->append ? config->append : "";
    return asprintf(&line, "%s%s%s", config->kernel, *append ? " " : "", append) < 0 ? NULL : line;
}

int loader_load_multiboot(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header, size_t len,
                          uint32_t offset)
{
    uint32_t flags = loader_get32(header + offset + 4);
    if (flags & FLAG_REQUIRED & ~FLAG_KNOWN)
        return loader_fail(job, kernel, -ENOEXEC, "multiboot header asks for features that are not known (flags %#x)",
                           flags);
    int code;
    if (flags & FLAG_ADDRESSES)
        code = load_by_addresses(job, kernel, header, len, offset);
    else if (!memcmp(header, "\177ELF", 4))
        code = load_elf(job, kernel, header, len);
    else
        code = loader_fail(job, kernel, -ENOEXEC, "a multiboot header without addresses, and not an ELF file");
    if (code)
        return code;

    struct module modules[MODULES_MAX];
    unsigned module_count = 0;
    char *list = job->config->initrd ? strdup(job->config->initrd) : NULL;
    char *cmdline = make_cmdline(job->config);
    if (!cmdline || (job->config->initrd && !list))
        code = loader_fail(job, kernel, -ENOMEM, "out of memory");
    else if (strlen(cmdline) > COMMAND_LINE_MAX)
        code = loader_fail(job, kernel, -E2BIG, "the command line (--append) is longer than %d characters",
                           COMMAND_LINE_MAX);
    if (!code && list)
        code = load_modules(job, kernel, list, modules, &module_count);
    if (!code)
        code = put_info(job, kernel, cmdline, modules, module_count);
    job->entry->gpr[GPR_AX] = MAGIC_ENTRY;
    free(list);
    free(cmdline);
    return code;
}
