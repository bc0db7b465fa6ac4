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

/* The part of its page that an address is in, as a bit of map_pages: what lies in one host page of the map. */
static uint8_t part_bit(const struct bt_exec_slot *s, uint32_t lin)
{
    return (uint8_t)(1 << (lin & PAGE_MASK) / (PAGE_SIZE / sizeof *s->map));
}

void jump_map_enter(struct bt_exec_slot *s, uint32_t lin, uint32_t entry)
{
    uint8_t *parts = &s->map_pages[lin >> PAGE_SHIFT];
    s->map[lin] = entry;
    s->map_count += !*parts;
    *parts |= part_bit(s, lin);
}

void jump_map_forget(struct bt_exec_slot *s, uint32_t lin)
{
    if (s->map && (s->map_pages[lin >> PAGE_SHIFT] & part_bit(s, lin)))
        s->map[lin] = 0;
}

void jump_map_forget_page(struct bt_exec_slot *s, uint64_t page)
{
    if (!s->map || page >= PAGES || !s->map_pages[page])
        return;
    uint8_t *at = (uint8_t *)(s->map + (page << PAGE_SHIFT));
    for (unsigned parts = s->map_pages[page]; parts; parts >>= 1, at += PAGE_SIZE)
        if (parts & 1) /* the others have no memory yet */
            bt_clear(at, PAGE_SIZE);
    s->map_pages[page] = 0;
}

void jump_map_trim(struct bt_exec_slot *s)
{
    if (s->map_count < TRIM_PAGES)
        return;
    madvise(s->map, MAP_SIZE, MADV_DONTNEED);
    s->map_count = 0;
}
