/* SPDX-License-Identifier: MIT */
/* Linux kernels by the 32- or 64-bit entry of the x86 boot protocol (Documentation/arch/x86/boot.rst, zero-page.rst):
 * no real-mode code runs, so the loader fills in what setup would have asked the BIOS for.
 *
 * Guest memory below 1 MiB:
 *   00001000  a zImage's protected-mode code (its link address)
 *   00080000  page tables of the 64-bit entry: PML4, PDPT, four page directories (4 GiB, one to one)
 *   0008f000  GDT
 *   00090000  boot parameters ("zero page"): kernels before 2.6 look for them just here
 *   00091000  command line */
#include "devices/loader_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
    ZIMAGE_ADDR = 0x1000,
    PAGE_TABLES_ADDR = 0x80000,
    PAGE_TABLES_COUNT = 6,
    GDT_ADDR = 0x8f000,
    BOOT_PARAMS_ADDR = 0x90000,
    CMDLINE_ADDR = 0x91000,
    CMDLINE_MAX = 0x8000,
    BZIMAGE_ADDR = 0x100000
};

/* Offsets of the setup header in the file, the same as in the boot parameters. */
enum {
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_JUMP_LENGTH = 0x201,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_START = 0x1f1,
    HDR_END = 0x290
};
enum { LOADFLAGS_LOADED_HIGH = 1, XLF_KERNEL_64 = 1, TYPE_OF_LOADER_UNDEFINED = 0xff };

/* Offsets in the boot parameters. */
enum {
    BP_EXT_MEM_K = 0x02,
    BP_VIDEO_MODE = 0x06,
    BP_VIDEO_COLS = 0x07,
    BP_VIDEO_EGA_BX = 0x0a,
    BP_VIDEO_LINES = 0x0e,
    BP_VIDEO_IS_VGA = 0x0f,
    BP_VIDEO_POINTS = 0x10,
    BP_CL_MAGIC = 0x20,
    BP_CL_OFFSET = 0x22,
    BP_ACPI_RSDP_ADDR = 0x70,
    BP_ALT_MEM_K = 0x1e0,
    BP_E820_ENTRIES = 0x1e8,
    BP_E820_TABLE = 0x2d0,
    BP_E820_ENTRY_SIZE = 20,
    BP_SIZE = 4096
};

struct linux_image {
    uint16_t version;
    bool high;    /* bzImage */
    bool entry64; /* enter at the 64-bit entry */
    uint64_t setup_size, load_addr, load_size;
    uint64_t run_addr, run_end; /* what the kernel overwrites while it unpacks itself */
    uint32_t initrd_addr_max;
    uint32_t cmdline_max; /* without the terminating 0 */
};

static int parse_header(struct loader_job *job, const struct loader_file *kernel, const uint8_t *h,
                        struct linux_image *k)
{
    unsigned setup_sects = h[HDR_SETUP_SECTS] ? h[HDR_SETUP_SECTS] : 4;
    k->version = loader_get16(h + HDR_VERSION);
    if (k->version < 0x200)
        return loader_fail(job, kernel, -ENOEXEC, "boot protocol %x.%02x is not known", k->version >> 8,
                           k->version & 0xff);
    k->high = h[HDR_LOADFLAGS] & LOADFLAGS_LOADED_HIGH;
    k->setup_size = (setup_sects + 1) * 512;
    k->load_addr = k->high ? BZIMAGE_ADDR : ZIMAGE_ADDR;
    if (kernel->size <= k->setup_size)
        return loader_fail(job, kernel, -ENOEXEC,
                           "truncated: the setup code alone has %" PRIu64 " bytes, the file %" PRIu64, k->setup_size,
                           kernel->size);
    k->load_size = kernel->size - k->setup_size;
    /* Before 2.04 the field has 16 bits and does not hold for a bzImage. */
    uint64_t syssize = k->version >= 0x204 ? loader_get32(h + HDR_SYSSIZE) * 16ull : 0;
    if (syssize > k->load_size + 15)
        return loader_fail(job, kernel, -ENOEXEC, "truncated: %" PRIu64 " bytes are needed, the file has %" PRIu64,
                           k->setup_size + syssize, kernel->size);

    bool kernel64 = k->version >= 0x20c && (loader_get16(h + HDR_XLOADFLAGS) & XLF_KERNEL_64);
    if (kernel64 && !job->config->long_mode)
        return loader_fail(job, kernel, -ENOEXEC, "a 64-bit kernel, and this machine has no long mode");
    k->entry64 = kernel64;
    k->initrd_addr_max = k->version >= 0x203 ? loader_get32(h + HDR_INITRD_ADDR_MAX) : 0x37ffffff;
    k->cmdline_max = k->version >= 0x206 ? loader_get32(h + HDR_CMDLINE_SIZE) : 255;
    if (k->cmdline_max >= CMDLINE_MAX)
        k->cmdline_max = CMDLINE_MAX - 1;
    return 0;
}

static int check_room(struct loader_job *job, const struct loader_file *kernel, const uint8_t *h, struct linux_image *k)
{
    if (!loader_is_ram(job->board, PAGE_TABLES_ADDR, CMDLINE_ADDR + CMDLINE_MAX - PAGE_TABLES_ADDR))
        return loader_fail(job, kernel, -ENOMEM, "no free memory below 640K for the boot parameters");
    if (!k->high && k->load_size > PAGE_TABLES_ADDR - ZIMAGE_ADDR)
        return loader_fail(job, kernel, -EFBIG, "a zImage of %" PRIu64 " bytes does not fit below 640K", k->load_size);
    if (!loader_is_ram(job->board, k->load_addr, k->load_size))
        return loader_fail(job, kernel, -ENOMEM,
                           "the kernel (%" PRIu64 "K) does not fit into the machine's %" PRIu64 "M of memory",
                           k->load_size >> 10, job->mem->ram_size >> 20);
    k->run_addr = k->load_addr;
    k->run_end = k->load_addr + k->load_size;
    if (k->version >= 0x20a && k->high) {
        uint64_t pref = loader_get64(h + HDR_PREF_ADDRESS), align = loader_get32(h + HDR_KERNEL_ALIGNMENT);
        uint64_t init_size = loader_get32(h + HDR_INIT_SIZE), start = pref;
        /* A relocatable kernel runs where it was loaded, but not below its preferred address (head_32.S, head_64.S). */
        if (h[HDR_RELOCATABLE] && align && !(align & (align - 1)) && pref < k->load_addr)
            start = (k->load_addr + align - 1) & ~(align - 1);
        if (start >= MEMORY_4G || !loader_is_ram(job->board, start, init_size))
            return loader_fail(job, kernel, -ENOMEM,
                               "the kernel needs memory up to %" PRIu64 "M, the machine has %" PRIu64 "M",
                               (start + init_size + 0xfffff) >> 20, job->mem->ram_size >> 20);
        if (start + init_size > k->run_end)
            k->run_end = start + init_size;
    }
    loader_use(job, k->run_addr, k->run_end - k->run_addr);
    return 0;
}

static int load_initrd(struct loader_job *job, const struct linux_image *k, uint8_t *params)
{
    struct loader_file initrd;
    int code = loader_file_open(job, &initrd, "initrd", job->config->initrd);
    if (code)
        return code;
    uint64_t limit = (uint64_t)k->initrd_addr_max + 1;
    uint64_t at = UINT64_MAX;
    /* Above everything that the kernel overwrites while it unpacks itself. */
    if (initrd.size <= limit)
        at =
            loader_find_high(job, initrd.size, PAGE_SIZE, k->run_end > BZIMAGE_ADDR ? k->run_end : BZIMAGE_ADDR, limit);
    if (at == UINT64_MAX)
        code =
            loader_fail(job, &initrd, -ENOMEM,
                        "kernel (up to %" PRIu64 "M) and initrd (%" PRIu64 "K) do not fit into %" PRIu64 "M of memory",
                        (k->run_end + 0xfffff) >> 20, initrd.size >> 10, job->mem->ram_size >> 20);
    else
        code = loader_file_copy(job, &initrd, 0, at, initrd.size);
    loader_put32(params + HDR_RAMDISK_IMAGE, (uint32_t)at);
    loader_put32(params + HDR_RAMDISK_SIZE, (uint32_t)initrd.size);
    loader_file_close(&initrd);
    return code;
}

static int put_cmdline(struct loader_job *job, const struct loader_file *kernel, const struct linux_image *k,
                       uint8_t *params)
{
    const char *line = job->config->append ? job->config->append : "";
    size_t len = strlen(line);
    if (len > k->cmdline_max)
        return loader_fail(job, kernel, -E2BIG, "the command line (--append) has %zu characters, the kernel takes %u",
                           len, k->cmdline_max);
    if (k->version >= 0x202) {
        loader_put32(params + HDR_CMD_LINE_PTR, CMDLINE_ADDR);
    } else {
        loader_put16(params + BP_CL_MAGIC, 0xa33f);
        loader_put16(params + BP_CL_OFFSET, CMDLINE_ADDR - BOOT_PARAMS_ADDR);
    }
    return loader_write(job, kernel, CMDLINE_ADDR, line, len + 1);
}

/* What the BIOS would have told the real-mode setup code. */
static void put_machine_facts(const struct loader_job *job, uint8_t *params)
{
    const struct loader_board *board = job->board;
    if (board->vga_text_mode) {
        params[BP_VIDEO_MODE] = 3;
        params[BP_VIDEO_COLS] = 80;
        loader_put16(params + BP_VIDEO_EGA_BX, 3); /* 256K of display memory */
        params[BP_VIDEO_LINES] = 25;
        params[BP_VIDEO_IS_VGA] = 1;
        loader_put16(params + BP_VIDEO_POINTS, 16);
    }
    uint64_t above_1m = loader_ram_end(board, BZIMAGE_ADDR) - BZIMAGE_ADDR;
    uint64_t kilobytes = above_1m >> 10;
    loader_put16(params + BP_EXT_MEM_K, kilobytes < 0xfc00 ? (uint16_t)kilobytes : 0xfc00);
    loader_put32(params + BP_ALT_MEM_K, (uint32_t)kilobytes);
    loader_put64(params + BP_ACPI_RSDP_ADDR, board->rsdp);
    params[BP_E820_ENTRIES] = (uint8_t)board->e820_count;
    for (unsigned i = 0; i < board->e820_count; i++) {
        uint8_t *e = params + BP_E820_TABLE + BP_E820_ENTRY_SIZE * i;
        loader_put64(e, board->e820[i].base);
        loader_put64(e + 8, board->e820[i].size);
        loader_put32(e + 16, board->e820[i].type);
    }
}

static int put_page_tables(struct loader_job *job, const struct loader_file *kernel)
{
    enum { PRESENT_WRITABLE = 3, LARGE = 0x80 };
    uint8_t *tables = calloc(PAGE_TABLES_COUNT, PAGE_SIZE);
    if (!tables)
        return loader_fail(job, kernel, -ENOMEM, "out of memory");
    loader_put64(tables, (PAGE_TABLES_ADDR + PAGE_SIZE) | PRESENT_WRITABLE);
    for (uint64_t i = 0; i < 4; i++)
        loader_put64(tables + PAGE_SIZE + 8 * i, (PAGE_TABLES_ADDR + PAGE_SIZE * (2 + i)) | PRESENT_WRITABLE);
    for (uint64_t i = 0; i < 4 * 512; i++)
        loader_put64(tables + 2 * PAGE_SIZE + 8 * i, i << 21 | PRESENT_WRITABLE | LARGE);
    int code = loader_write(job, kernel, PAGE_TABLES_ADDR, tables, PAGE_TABLES_COUNT * PAGE_SIZE);
    free(tables);
    job->entry->cr3 = PAGE_TABLES_ADDR;
    return code;
}

static int enter(struct loader_job *job, const struct loader_file *kernel, const struct linux_image *k)
{
    int code = loader_enter_flat(job, kernel, k->entry64 ? 64 : 32, GDT_ADDR, 0x10);
    if (!code && k->entry64)
        code = put_page_tables(job, kernel);
    job->entry->rip = k->load_addr + (k->entry64 ? 0x200 : 0);
    job->entry->gpr[GPR_SI] = BOOT_PARAMS_ADDR;
    job->entry->gpr[GPR_SP] = GDT_ADDR; /* undefined by the protocol; a page or two below are free */
    return code;
}

int loader_load_linux(struct loader_job *job, const struct loader_file *kernel, const uint8_t *header,
                      size_t header_len)
{
    struct linux_image k = {0};
    int code = parse_header(job, kernel, header, &k);
    if (!code)
        code = check_room(job, kernel, header, &k);
    if (code)
        return code;
    uint8_t *params = calloc(1, BP_SIZE);
    if (!params)
        return loader_fail(job, kernel, -ENOMEM, "out of memory");

    /* The header ends where its first instruction jumps to. */
    size_t header_end = 0x202u + header[HDR_JUMP_LENGTH];
    if (header_end > HDR_END)
        header_end = HDR_END;
    memcpy(params + HDR_START, header + HDR_START, header_end - HDR_START);
    params[HDR_TYPE_OF_LOADER] = TYPE_OF_LOADER_UNDEFINED;
    loader_put32(params + HDR_CODE32_START, (uint32_t)k.load_addr);
    loader_put32(params + HDR_RAMDISK_IMAGE, 0);
    loader_put32(params + HDR_RAMDISK_SIZE, 0);
    put_machine_facts(job, params);

    code = loader_file_copy(job, kernel, k.setup_size, k.load_addr, k.load_size);
    if (!code && job->config->initrd)
        code = load_initrd(job, &k, params);
    if (!code)
        code = put_cmdline(job, kernel, &k, params);
    if (!code)
        code = loader_write(job, kernel, BOOT_PARAMS_ADDR, params, BP_SIZE);
    if (!code)
        code = enter(job, kernel, &k);
    free(params);
    return code;
}
