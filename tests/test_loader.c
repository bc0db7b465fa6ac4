/* SPDX-License-Identifier: MIT */
/* The kernel loader on synthetic images: what is placed where, and every malformed file that others fell into. */
#include "devices/loader_internal.h"
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RAM = 64 << 20 };

static struct memory mem;
static struct machine_config config;
static struct loader_board board;
static struct loader_entry entry;
static char err[512];
static char kernel_path[64], initrd_path[64];

static void put_file(char *path, const void *data, size_t len)
{
    strcpy(path, "/tmp/ringfold-loader-XXXXXX");
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0);
    CU_ASSERT(write(fd, data, len) == (ssize_t)len);
    close(fd);
}

static void set_up(const void *kernel, size_t len)
{
    CU_ASSERT_FATAL(memory_init(&mem, RAM, err, sizeof err) == 0);
    *err = 0;
    put_file(kernel_path, kernel, len);
    config = (struct machine_config){.ram_size = RAM, .kernel = kernel_path, .append = "a=b console=ttyS0"};
    board = (struct loader_board){.e820 = {{0, 0x9fc00, LOADER_E820_RAM},
                                           {0x9fc00, 0x400, LOADER_E820_RESERVED},
                                           {0xf0000, 0x10000, LOADER_E820_RESERVED},
                                           {0x100000, RAM - 0x100000 - 0x10000, LOADER_E820_RAM},
                                           {RAM - 0x10000, 0x10000, LOADER_E820_ACPI}},
                                  .e820_count = 5,
                                  .rsdp = 0xf1234,
                                  .vga_text_mode = true};
}

static int load(void)
{
    *err = 0;
    return loader_load(&mem, &config, &board, &entry, err, sizeof err);
}

static void tear_down(void)
{
    unlink(kernel_path);
    if (config.initrd)
        unlink(initrd_path);
    memory_destroy(&mem);
}

/* Loads data as the kernel, expects a refusal whose line holds text. */
static void refuse(const void *data, size_t len, const char *text)
{
    set_up(data, len);
    CU_ASSERT(load() < 0);
    CU_ASSERT(strstr(err, kernel_path) != NULL);
    CU_ASSERT(strchr(err, '\n') == NULL);
    if (!strstr(err, text))
        printf("expected \"%s\" in \"%s\"\n", text, err);
    CU_ASSERT(strstr(err, text) != NULL);
    tear_down();
}

static uint8_t peek8(uint64_t addr)
{
    uint8_t v = 0;
    memory_read(&mem, gpa(addr), &v, 1);
    return v;
}

/* ---- Linux ---- */

enum { SETUP_SECTS = 3, SETUP_SIZE = (SETUP_SECTS + 1) * 512, PAYLOAD = 10000, BZIMAGE_SIZE = SETUP_SIZE + PAYLOAD };
static uint8_t bzimage[BZIMAGE_SIZE];

static void make_bzimage(unsigned version, bool high)
{
    memset(bzimage, 0, SETUP_SIZE);
    for (int i = 0; i < PAYLOAD; i++)
        bzimage[SETUP_SIZE + i] = (uint8_t)(i * 7 + 1);
    bzimage[0x1f1] = SETUP_SECTS;
    loader_put32(bzimage + 0x1f4, PAYLOAD / 16);
    loader_put16(bzimage + 0x1fe, 0xaa55);
    bzimage[0x200] = 0xeb;
    bzimage[0x201] = 0x66;
    memcpy(bzimage + 0x202, "HdrS", 4);
    loader_put16(bzimage + 0x206, (uint16_t)version);
    bzimage[0x211] = high;
    loader_put32(bzimage + 0x214, 0x100000);
    loader_put32(bzimage + 0x22c, 0x37ffffff);
    loader_put32(bzimage + 0x230, 0x1000000);
    bzimage[0x234] = 1;
    loader_put32(bzimage + 0x238, 2047);
    loader_put64(bzimage + 0x258, 0x1000000);
    loader_put32(bzimage + 0x260, 0x800000);
}

static void linux_enters_flat_protected_mode(void)
{
    make_bzimage(0x20f, true);
    set_up(bzimage, sizeof bzimage);
    CU_ASSERT_EQUAL(load(), 0);
    CU_ASSERT_EQUAL(entry.mode, 32);
    CU_ASSERT_EQUAL(entry.rip, 0x100000);
    CU_ASSERT_EQUAL(entry.cs.selector, 0x10);
    CU_ASSERT_EQUAL(entry.data.selector, 0x18);
    CU_ASSERT_EQUAL(entry.cs.attr, 0xc09b);
    CU_ASSERT_EQUAL(entry.gpr[GPR_BX], 0);
    CU_ASSERT_EQUAL(peek8(0x100000), 1);
    CU_ASSERT_EQUAL(peek8(0x100000 + PAYLOAD - 1), (uint8_t)((PAYLOAD - 1) * 7 + 1));
    uint64_t params = entry.gpr[GPR_SI];
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(params + 0x202)), 0x53726448);
    CU_ASSERT_EQUAL(peek8(params + 0x210), 0xff);
    CU_ASSERT_EQUAL(peek8(params + 0x1e8), 5);
    CU_ASSERT_EQUAL(peek8(params + 0x06), 3);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(params + 0x70)), 0xf1234);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(params + 0x2d0 + 20 + 8)), 0x400);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(params + 0x1e0)), (RAM - 0x110000) >> 10);
    char line[32] = "";
    memory_read(&mem, gpa(memory_read32(&mem, gpa(params + 0x228))), line, sizeof line - 1);
    CU_ASSERT_STRING_EQUAL(line, "a=b console=ttyS0");
    uint8_t gdt[32];
    memory_read(&mem, gpa(entry.gdt_base), gdt, sizeof gdt);
    CU_ASSERT_EQUAL(loader_get64(gdt + 0x10), 0x00cf9b000000ffff);
    CU_ASSERT_EQUAL(loader_get64(gdt + 0x18), 0x00cf93000000ffff);
    tear_down();
}

static void linux_initrd_lies_high_and_is_whole(void)
{
    static uint8_t ramdisk[5000];
    memset(ramdisk, 0x5a, sizeof ramdisk);
    make_bzimage(0x20f, true);
    set_up(bzimage, sizeof bzimage);
    put_file(initrd_path, ramdisk, sizeof ramdisk);
    config.initrd = initrd_path;
    CU_ASSERT_EQUAL(load(), 0);
    uint64_t at = memory_read32(&mem, gpa(entry.gpr[GPR_SI] + 0x218));
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(entry.gpr[GPR_SI] + 0x21c)), sizeof ramdisk);
    CU_ASSERT_EQUAL(at, (RAM - 0x10000 - sizeof ramdisk) & ~0xfffull);
    CU_ASSERT_EQUAL(peek8(at), 0x5a);
    CU_ASSERT_EQUAL(peek8(at + sizeof ramdisk - 1), 0x5a);
    /* initrd_addr_max */
    loader_put32(bzimage + 0x22c, 0x1ffffff);
    unlink(kernel_path);
    put_file(kernel_path, bzimage, sizeof bzimage);
    CU_ASSERT_EQUAL(load(), 0);
    at = memory_read32(&mem, gpa(entry.gpr[GPR_SI] + 0x218));
    CU_ASSERT_EQUAL(at, (0x2000000 - sizeof ramdisk) & ~0xfffull);
    tear_down();
}

static void linux_that_does_not_fit_is_refused(void)
{
    make_bzimage(0x20f, true);
    loader_put32(bzimage + 0x260, RAM);
    refuse(bzimage, sizeof bzimage, "the kernel needs memory up to");
    loader_put32(bzimage + 0x260, 0xffffffff);
    refuse(bzimage, sizeof bzimage, "the kernel needs memory up to");
    loader_put64(bzimage + 0x258, UINT64_MAX - 5);
    refuse(bzimage, sizeof bzimage, "the kernel needs memory up to");
    /* the initrd has no place above the kernel */
    make_bzimage(0x20f, true);
    loader_put32(bzimage + 0x22c, 0x17fffff);
    set_up(bzimage, sizeof bzimage);
    put_file(initrd_path, "x", 1);
    config.initrd = initrd_path;
    CU_ASSERT(load() < 0);
    CU_ASSERT(strstr(err, "do not fit") != NULL);
    CU_ASSERT(strstr(err, initrd_path) != NULL);
    tear_down();
}

static void linux_command_line_has_a_limit(void)
{
    static char line[5000];
    make_bzimage(0x20f, true);
    set_up(bzimage, sizeof bzimage);
    memset(line, 'x', 2047);
    config.append = line;
    CU_ASSERT_EQUAL(load(), 0);
    line[2047] = 'x';
    CU_ASSERT(load() < 0);
    CU_ASSERT(strstr(err, "--append") != NULL);
    tear_down();
}

static void linux_zimage_and_old_protocol(void)
{
    make_bzimage(0x201, false);
    set_up(bzimage, sizeof bzimage);
    CU_ASSERT_EQUAL(load(), 0);
    CU_ASSERT_EQUAL(entry.rip, 0x1000);
    CU_ASSERT_EQUAL(peek8(0x1000), 1);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(0x90020)) & 0xffff, 0xa33f);
    uint32_t offset = memory_read32(&mem, gpa(0x90020)) >> 16;
    CU_ASSERT_EQUAL(peek8(0x90000 + offset), 'a');
    tear_down();
    make_bzimage(0x100, true);
    refuse(bzimage, sizeof bzimage, "boot protocol");
}

static void linux_long_mode_entry(void)
{
    make_bzimage(0x20f, true);
    loader_put16(bzimage + 0x236, 1);
    refuse(bzimage, sizeof bzimage, "64-bit kernel");
    set_up(bzimage, sizeof bzimage);
    config.long_mode = true;
    CU_ASSERT_EQUAL(load(), 0);
    CU_ASSERT_EQUAL(entry.mode, 64);
    CU_ASSERT_EQUAL(entry.rip, 0x100200);
    CU_ASSERT_EQUAL(entry.cs.attr, 0xa09b);
    uint32_t pdpt = memory_read32(&mem, gpa(entry.cr3)) & ~0xfffu, pd = memory_read32(&mem, gpa(pdpt + 24)) & ~0xfffu;
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(pd + 8 * 511)), 0xffe00083);
    tear_down();
}

static void files_that_are_no_kernels(void)
{
    static uint8_t junk[20000];
    make_bzimage(0x20f, true);
    refuse(bzimage, 100, "neither a bzImage nor");
    refuse(bzimage, SETUP_SIZE - 1, "truncated");
    refuse(bzimage, SETUP_SIZE, "truncated");
    refuse(bzimage, BZIMAGE_SIZE - 600, "truncated");
    refuse("", 0, "empty");
    srandom(7);
    for (size_t i = 0; i < sizeof junk; i++)
        junk[i] = (uint8_t)random();
    refuse(junk, sizeof junk, "neither a bzImage nor");
    set_up("x", 1);
    config.kernel = "/tmp";
    CU_ASSERT(load() < 0);
    CU_ASSERT_STRING_EQUAL(err, "kernel /tmp: is a directory");
    config.kernel = "/nonexistent/k";
    CU_ASSERT(load() < 0);
    CU_ASSERT_STRING_EQUAL(err, "kernel /nonexistent/k: No such file or directory");
    config.kernel = "/dev/zero";
    CU_ASSERT(load() < 0);
    CU_ASSERT_STRING_EQUAL(err, "kernel /dev/zero: not a regular file");
    tear_down();
    /* a bad initrd */
    make_bzimage(0x20f, true);
    set_up(bzimage, sizeof bzimage);
    put_file(initrd_path, "", 0);
    config.initrd = initrd_path;
    CU_ASSERT(load() < 0);
    CU_ASSERT(strstr(err, initrd_path) && strstr(err, "empty"));
    tear_down();
}

/* ---- multiboot ---- */

enum { MB_OFFSET = 0x40, MB_SIZE = 0x300 };
static uint8_t mb[MB_SIZE];

static void put_mb_header(uint32_t flags)
{
    loader_put32(mb + MB_OFFSET, 0x1badb002);
    loader_put32(mb + MB_OFFSET + 4, flags);
    loader_put32(mb + MB_OFFSET + 8, 0u - 0x1badb002 - flags);
}

/* A kernel by header addresses: header_addr, load_addr, load_end, bss_end, entry. */
static void make_kludge(uint32_t header_addr, uint32_t load_addr, uint32_t load_end, uint32_t bss_end, uint32_t start)
{
    const uint32_t fields[] = {header_addr, load_addr, load_end, bss_end, start};
    memset(mb, 0x90, sizeof mb);
    put_mb_header(0x10003);
    for (int i = 0; i < 5; i++)
        loader_put32(mb + MB_OFFSET + 12 + 4 * i, fields[i]);
}

static void multiboot_by_addresses(void)
{
    make_kludge(0x200040, 0x200000, 0x200100, 0x200200, 0x200080);
    set_up(mb, sizeof mb);
    uint8_t dirty = 0xee;
    memory_write(&mem, gpa(0x2001ff), &dirty, 1);
    memory_write(&mem, gpa(0x200200), &dirty, 1);
    CU_ASSERT_EQUAL(load(), 0);
    CU_ASSERT_EQUAL(entry.mode, 32);
    CU_ASSERT_EQUAL(entry.rip, 0x200080);
    CU_ASSERT_EQUAL(entry.gpr[GPR_AX], 0x2badb002);
    CU_ASSERT_EQUAL(peek8(0x2000ff), 0x90);
    CU_ASSERT_EQUAL(peek8(0x200100), 0);
    CU_ASSERT_EQUAL(peek8(0x2001ff), 0);
    CU_ASSERT_EQUAL(peek8(0x200200), 0xee);
    tear_down();
    /* load_end and bss_end 0: the rest of the file, no bss */
    make_kludge(0x200010, 0x200000, 0, 0, 0x200000);
    set_up(mb, sizeof mb);
    CU_ASSERT_EQUAL(load(), 0);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(0x200010)), 0x1badb002);
    CU_ASSERT_EQUAL(peek8(0x200000 + MB_SIZE - 0x31), 0x90);
    tear_down();
}

static void multiboot_bad_addresses(void)
{
    make_kludge(0x1fffff, 0x200000, 0, 0, 0x200000);
    refuse(mb, sizeof mb, "load_addr"); /* load_addr above header_addr */
    make_kludge(0x200041, 0x200000, 0, 0, 0x200000);
    refuse(mb, sizeof mb, "load_addr"); /* would begin before the file (2017-14167) */
    make_kludge(0xffffffff, 0, 0, 0, 0);
    refuse(mb, sizeof mb, "load_addr");
    make_kludge(0x200040, 0x200000, 0x1fffff, 0, 0x200000);
    refuse(mb, sizeof mb, "load_end_addr");
    make_kludge(0x200040, 0x200000, 0x200200, 0x200100, 0x200000);
    refuse(mb, sizeof mb, "bss_end_addr"); /* load_end beyond bss_end (2018-7550) */
    make_kludge(0x200040, 0x200000, 0x200301, 0, 0x200000);
    refuse(mb, sizeof mb, "beyond the end of the file");
    make_kludge(0x200040, 0x200000, 0x200100, 0xffffffff, 0x200000);
    refuse(mb, sizeof mb, "outside the machine's memory");
    make_kludge(0xffffff40, 0xffffff00, 0, 0, 0);
    refuse(mb, sizeof mb, "outside the machine's memory"); /* wraps 4G */
    make_kludge(0x9fb40, 0x9fb00, 0, 0, 0);
    refuse(mb, sizeof mb, "outside the machine's memory"); /* runs into the EBDA */
    make_kludge(0x200040, 0x200000, 0, 0, 0x200000);
    put_mb_header(0x10008);
    refuse(mb, sizeof mb, "features");
    put_mb_header(0x3);
    refuse(mb, sizeof mb, "not an ELF file");
    make_kludge(0x200040, 0x200000, 0, 0, 0x200000);
    refuse(mb, MB_OFFSET + 20, "truncated");
}

struct elf_fields {
    uint32_t entry, phoff, phentsize, phnum, offset, vaddr, paddr, filesz, memsz;
};
static const struct elf_fields good_elf = {0xc0200080, 0x34, 32, 1, 0x100, 0xc0200000, 0x200000, 0x200, 0x400};

static void make_elf(const struct elf_fields *f)
{
    memset(mb, 0, sizeof mb);
    memset(mb + 0x100, 0x90, 0x200);
    memcpy(mb, "\177ELF\1\1\1", 7);
    loader_put16(mb + 16, 2);
    loader_put16(mb + 18, 3);
    loader_put32(mb + 24, f->entry);
    loader_put32(mb + 28, f->phoff);
    loader_put16(mb + 42, (uint16_t)f->phentsize);
    loader_put16(mb + 44, (uint16_t)f->phnum);
    const uint32_t ph[] = {1, f->offset, f->vaddr, f->paddr, f->filesz, f->memsz, 7, 0x1000};
    for (int i = 0; i < 8; i++)
        loader_put32(mb + 0x34 + 4 * i, ph[i]);
    loader_put32(mb + 0x80, 0x1badb002);
    loader_put32(mb + 0x84, 7); /* with the video flag */
    loader_put32(mb + 0x88, 0u - 0x1badb002 - 7);
}

static void multiboot_elf_with_modules(void)
{
    char string[128] = "";
    make_elf(&good_elf);
    set_up(mb, sizeof mb);
    put_file(initrd_path, "module", 6);
    char list[256];
    snprintf(list, sizeof list, "%s first args,%s", initrd_path, initrd_path);
    config.initrd = list;
    CU_ASSERT_EQUAL(load(), 0);
    CU_ASSERT_EQUAL(entry.rip, 0x200080);
    CU_ASSERT_EQUAL(entry.cs.selector, 8);
    CU_ASSERT_EQUAL(peek8(0x2001ff), 0x90);
    CU_ASSERT_EQUAL(peek8(0x200200), 0);
    uint64_t info = entry.gpr[GPR_BX];
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(info)), 0x24d);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(info + 4)), 639);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(info + 8)), (RAM - 0x110000) >> 10);
    memory_read(&mem, gpa(memory_read32(&mem, gpa(info + 16))), string, sizeof string - 1);
    CU_ASSERT(!strncmp(string, kernel_path, strlen(kernel_path)) && strstr(string, " a=b console=ttyS0"));
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(info + 20)), 2);
    uint64_t mods = memory_read32(&mem, gpa(info + 24)), start = memory_read32(&mem, gpa(mods));
    CU_ASSERT_EQUAL(start & 0xfff, 0);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(mods + 4)), start + 6);
    CU_ASSERT_EQUAL(peek8(start), 'm');
    memory_read(&mem, gpa(memory_read32(&mem, gpa(mods + 8))), string, sizeof string - 1);
    CU_ASSERT(strstr(string, " first args") != NULL);
    CU_ASSERT_NOT_EQUAL(memory_read32(&mem, gpa(mods + 16)), start);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(info + 44)), 5 * 24);
    uint64_t map = memory_read32(&mem, gpa(info + 48));
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(map)), 20);
    CU_ASSERT_EQUAL(memory_read32(&mem, gpa(map + 12)), 0x9fc00);
    config.initrd = initrd_path;
    tear_down();
}

static void multiboot_bad_elf(void)
{
    struct elf_fields f = good_elf;
#define BAD(field, value, text)                                                                                        \
    f = good_elf;                                                                                                      \
    f.field = value;                                                                                                   \
    make_elf(&f);                                                                                                      \
    refuse(mb, sizeof mb, text)
    BAD(phoff, 0xfffffff0, "truncated");
    BAD(phoff, MB_SIZE - 31, "truncated");
    BAD(phentsize, 31, "too small");
    BAD(phnum, 0, "without program headers");
    BAD(phnum, 0xffff, "");
    BAD(offset, 0xffffff00, "beyond the end of the file");
    BAD(filesz, 0xffffffff, "beyond the end of the file");
    BAD(filesz, 0x201, "beyond the end of the file");
    BAD(memsz, 0x1ff, "larger in the file than in memory");
    BAD(memsz, 0xffffffff, "outside the machine's memory");
    BAD(paddr, 0xffffff00, "outside the machine's memory");
    BAD(paddr, 0xa0000, "outside the machine's memory");
    BAD(memsz, 0, "without anything to load");
#undef BAD
    make_elf(&good_elf);
    mb[18] = 8;
    refuse(mb, sizeof mb, "another kind of machine");
    make_elf(&good_elf);
    loader_put32(mb + 0x80, 0);
    refuse(mb, sizeof mb, "without a multiboot header");
}

/* Random changes to good images: any result will do as long as it is one line or success. */
static void fuzz(const uint8_t *image, size_t len, unsigned seed)
{
    uint8_t *copy = malloc(len);
    srandom(seed);
    set_up("x", 1);
    for (int round = 0; round < 300; round++) {
        memcpy(copy, image, len);
        size_t header = len < 0x300 ? len : 0x300;
        for (long n = 1 + random() % 6; n > 0; n--)
            loader_put32(copy + (size_t)random() % (header - 4),
                         (const uint32_t[]){0, 1, 0x7fffffff, 0xffffffff, (uint32_t)random(), 0x100000}[random() % 6]);
        FILE *out = fopen(kernel_path, "w");
        fwrite(copy, 1, random() % 8 ? len : (size_t)random() % len, out);
        fclose(out);
        int code = load();
        CU_ASSERT(code <= 0 && (code == 0) == (*err == 0) && !strchr(err, '\n'));
    }
    tear_down();
    free(copy);
}

static void random_changes_do_no_harm(void)
{
    make_bzimage(0x20f, true);
    fuzz(bzimage, sizeof bzimage, 1);
    make_elf(&good_elf);
    fuzz(mb, sizeof mb, 2);
    make_kludge(0x200040, 0x200000, 0x200100, 0x200200, 0x200080);
    fuzz(mb, sizeof mb, 3);
}

TEST_SUITE(loader, {"Linux enters flat protected mode with its boot parameters", linux_enters_flat_protected_mode},
           {"the initrd lies as high as the kernel allows", linux_initrd_lies_high_and_is_whole},
           {"a kernel or initrd without room is refused", linux_that_does_not_fit_is_refused},
           {"the command line has the kernel's limit", linux_command_line_has_a_limit},
           {"zImage and protocol 2.01", linux_zimage_and_old_protocol},
           {"64-bit entry only with long mode", linux_long_mode_entry},
           {"files that are no kernels get one line", files_that_are_no_kernels},
           {"multiboot by header addresses", multiboot_by_addresses},
           {"multiboot: every bad address is refused", multiboot_bad_addresses},
           {"multiboot ELF with modules and information", multiboot_elf_with_modules},
           {"multiboot: every bad ELF field is refused", multiboot_bad_elf},
           {"random changes of kernel images do no harm", random_changes_do_no_harm})
