/* SPDX-License-Identifier: MIT */
#include "bt/jump_map.h"

#include "shadowmmu/reserve.h"

enum { PAGES = 1 << 20, TRIM_PAGES = 256 };
static const uint64_t MAP_SIZE = 4ull << 32;

bool jump_map_open(struct bt_exec_slot *s)
{
    if (s->map)
        return true;
    s->map = reserve(MAP_SIZE);
    s->map_pages = reserve(PAGES);
    if (s->map && s->map_pages)
        return true;
    jump_map_close(s);
    return false;
}

void jump_map_close(struct bt_exec_slot *s)
{
    unreserve(s->map, MAP_SIZE);
    unreserve(s->map_pages, PAGES);
    s->map = NULL;
    s->map_pages = NULL;
}

void jump_map_enter(struct bt_exec_slot *s, uint32_t lin, uint32_t entry)
{
    s->map[lin] = entry;
    s->map_count += !s->map_pages[lin >> PAGE_SHIFT];
    s->map_pages[lin >> PAGE_SHIFT] = 1;
}

void jump_map_forget(struct bt_exec_slot *s, uint32_t lin)
{
    if (s->map && s->map_pages[lin >> PAGE_SHIFT])
        s->map[lin] = 0;
}

void jump_map_forget_page(struct bt_exec_slot *s, uint64_t page)
{
    if (!s->map || page >= PAGES || !s->map_pages[page])
        return;
    void *at = s->map + (page << PAGE_SHIFT);
    uint64_t n = PAGE_SIZE * sizeof *s->map;
    __asm__ volatile("rep stosb"
                     : "+D"(at), "+c"(n)
                     : "a"(0)
                     : "memory"); /* the guest's vector registers may be live */
    s->map_pages[page] = 0;
}

void jump_map_trim(struct bt_exec_slot *s)
{
    if (s->map_count < TRIM_PAGES)
        return;
    madvise(s->map, MAP_SIZE, MADV_DONTNEED);
    s->map_count = 0;
}
