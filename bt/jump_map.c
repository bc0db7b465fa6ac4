/* SPDX-License-Identifier: MIT */
#include "bt/jump_map.h"

#include "shadowmmu/reserve.h"

enum { PAGES = 1 << 20, TRIM_PAGES = 256 };
static const uint64_t MAP_SIZE = 4ull << 32;

bool jump_map_open(struct bt_exec_slot *s)
{
    if (s->jump)
        return true;
    s->jump = reserve(MAP_SIZE);
    s->jump_pages = reserve(PAGES);
    if (s->jump && s->jump_pages)
        return true;
    jump_map_close(s);
    return false;
}

void jump_map_close(struct bt_exec_slot *s)
{
    unreserve(s->jump, MAP_SIZE);
    unreserve(s->jump_pages, PAGES);
    s->jump = NULL;
    s->jump_pages = NULL;
}

void jump_map_enter(struct bt_exec_slot *s, uint32_t lin, uint32_t entry)
{
    s->jump[lin] = entry;
    s->jump_count += !s->jump_pages[lin >> PAGE_SHIFT];
    s->jump_pages[lin >> PAGE_SHIFT] = 1;
}

void jump_map_forget(struct bt_exec_slot *s, uint32_t lin)
{
    if (s->jump && s->jump_pages[lin >> PAGE_SHIFT])
        s->jump[lin] = 0;
}

void jump_map_forget_page(struct bt_exec_slot *s, uint64_t page)
{
    if (!s->jump || page >= PAGES || !s->jump_pages[page])
        return;
    void *at = s->jump + (page << PAGE_SHIFT);
    uint64_t n = PAGE_SIZE * sizeof *s->jump;
    __asm__ volatile("rep stosb"
                     : "+D"(at), "+c"(n)
                     : "a"(0)
                     : "memory"); /* the guest's vector registers may be live */
    s->jump_pages[page] = 0;
}

void jump_map_trim(struct bt_exec_slot *s)
{
    if (s->jump_count < TRIM_PAGES)
        return;
    madvise(s->jump, MAP_SIZE, MADV_DONTNEED);
    s->jump_count = 0;
}
