/* SPDX-License-Identifier: MIT */
/* The pmap: whole MiB of RAM without entries, what is mapped inside them, and files loaded by the host's kernel. */
#include "shadowmmu/memory.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RAM = (8 << 20) + 3 * PAGE_SIZE, MIB = 1 << 20 };

static struct memory mem;
static unsigned changes;
static uint64_t change_gfn, change_count;

static void map_changed(void *opaque, uint64_t gfn, uint64_t count)
{
    changes++;
    change_gfn = gfn;
    change_count = count;
}

static struct memory_listener listener = {.map_changed = map_changed};

static void create(void)
{
    char err[256] = "";
    CU_ASSERT_EQUAL_FATAL(memory_init(&mem, RAM, err, sizeof err), 0);
    memory_add_listener(&mem, &listener);
    changes = 0;
}

static bool is_ram(uint64_t gfn)
{
    struct memory_page p = memory_page(&mem, gfn);
    return p.read == mem.ram + (gfn << PAGE_SHIFT) && p.write == p.read;
}

static void ram_from_the_start(void)
{
    create();
    for (uint64_t gfn = 0; gfn < RAM >> PAGE_SHIFT; gfn++)
        CU_ASSERT_FATAL(is_ram(gfn));
    CU_ASSERT_PTR_NULL(memory_page(&mem, RAM >> PAGE_SHIFT).read);
    CU_ASSERT_PTR_NULL(memory_page(&mem, mem.page_count).read);
    memory_destroy(&mem);
}

/* One page of a MiB changes: the others of it stay what they were, and only the change is told. */
static void page_inside_ram(void)
{
    static uint8_t rom[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
    const uint64_t gfn = (3 * MIB >> PAGE_SHIFT) + 7;
    create();
    CU_ASSERT_EQUAL(memory_map(&mem, gpa(gfn << PAGE_SHIFT), PAGE_SIZE, mem.ram + (gfn << PAGE_SHIFT),
                               mem.ram + (gfn << PAGE_SHIFT)),
                    0);
    CU_ASSERT_EQUAL(changes, 0);
    CU_ASSERT_EQUAL(memory_map(&mem, gpa(gfn << PAGE_SHIFT), PAGE_SIZE, rom, NULL), 0);
    CU_ASSERT_EQUAL(changes, 1);
    CU_ASSERT_EQUAL(change_gfn, gfn);
    CU_ASSERT_EQUAL(change_count, 1);
    for (uint64_t i = 0; i < RAM >> PAGE_SHIFT; i++)
        CU_ASSERT_EQUAL_FATAL(is_ram(i), i != gfn);
    CU_ASSERT_PTR_EQUAL(memory_page(&mem, gfn).read, rom);
    CU_ASSERT_PTR_NULL(memory_page(&mem, gfn).write);
    memory_unmap(&mem, gpa(gfn << PAGE_SHIFT), 2 * PAGE_SIZE);
    CU_ASSERT_PTR_NULL(memory_page(&mem, gfn + 1).read);
    CU_ASSERT_TRUE(is_ram(gfn + 2));
    memory_destroy(&mem);
}

/* A change that reaches from one MiB into the next. */
static void change_across_blocks(void)
{
    const uint64_t first = (2 * MIB >> PAGE_SHIFT) - 2;
    create();
    memory_unmap(&mem, gpa(first << PAGE_SHIFT), 4 * PAGE_SIZE);
    for (uint64_t i = first - 3; i < first + 8; i++)
        CU_ASSERT_EQUAL(is_ram(i), i < first || i >= first + 4);
    memory_destroy(&mem);
}

static void file_is_loaded(void)
{
    enum { SIZE = 3 * PAGE_SIZE + 100 };
    static uint8_t data[SIZE], got[SIZE + 2];
    int fd = memfd_create("file", MFD_CLOEXEC);
    for (unsigned i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 7 + (i >> 8));
    CU_ASSERT_EQUAL_FATAL(write(fd, data, SIZE), SIZE);
    create();
    /* neither the place in the file nor the one in memory at the start of a page */
    CU_ASSERT_TRUE(memory_load_file(&mem, gpa(MIB + 50), SIZE - 13, fd, 13));
    memory_read(&mem, gpa(MIB + 49), got, sizeof got);
    CU_ASSERT_EQUAL(got[0], 0);
    CU_ASSERT_EQUAL(memcmp(got + 1, data + 13, SIZE - 13), 0);
    CU_ASSERT_EQUAL(got[1 + SIZE - 13], 0);
    CU_ASSERT_TRUE(mem.flags[MIB >> PAGE_SHIFT] & MEMORY_PAGE_DIRTY);
    /* a file that ends too early, memory that is not there, a page with translations */
    CU_ASSERT_FALSE(memory_load_file(&mem, gpa(MIB), SIZE, fd, 13));
    CU_ASSERT_FALSE(memory_load_file(&mem, gpa(RAM - PAGE_SIZE), SIZE, fd, 0));
    mem.flags[(2 * MIB >> PAGE_SHIFT) + 1] |= MEMORY_PAGE_CODE;
    CU_ASSERT_FALSE(memory_load_file(&mem, gpa(2 * MIB), SIZE, fd, 0));
    close(fd);
    memory_destroy(&mem);
}

TEST_SUITE(memory, {"RAM from the start, to the last page", ram_from_the_start},
           {"one page inside a MiB of RAM", page_inside_ram}, {"a change across two MiB", change_across_blocks},
           {"a file is loaded, or refused", file_is_loaded})
