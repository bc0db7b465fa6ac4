/* SPDX-License-Identifier: MIT */
#include "bt/jump_map.h"

#include "shadowmmu/region.h"
#include "shadowmmu/reserve.h"

enum {
    REGIONS = 1 << 16,
    REGION_PAGES = 1 << 20,
    /* Host pages of a slot's maps: so many are given back when user code's are empty; so many there are at most. */
    TRIM_PARTS = 512,
    PARTS_MAX = 4096
};
static const uint64_t MAP_SIZE = 4ull << 32;

static bool is_wide(const struct bt_exec_slot *s)
{
    return (s->mode & BT_MODE_CODE_MASK) == INSN_MODE_64;
}

/* ---- the region table ---- */

/* region: bits 32-47 of an address, as everywhere here. The table is indexed with bits 32-63. */
static void show(const struct bt_cache *c, enum mmu_window_kind kind, unsigned region, const uint32_t *map)
{
    int64_t number = (int16_t)region;
    uint64_t first = (uint64_t)number << MMU_REGION_SHIFT;
    c->vcpu->jump_regions[kind][(uint32_t)number] = (uint64_t)(uintptr_t)map - first * sizeof *map + MMU_REGION_BIAS;
}

static bool open_none(struct bt_cache *c)
{
    if (c->jump_none)
        return true;
    void *none = mmap(NULL, MAP_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    c->jump_none = none == MAP_FAILED ? NULL : none;
    return c->jump_none;
}

static bool open_table(struct bt_cache *c, enum mmu_window_kind kind)
{
    uint64_t **table = &c->vcpu->jump_regions[kind];
    if (*table)
        return true;
    if (!open_none(c) || !(*table = mmu_regions_create()))
        return false;
    for (unsigned region = 0; region < REGIONS; region++)
        show(c, kind, region, c->jump_none);
    return true;
}

/* ---- maps ---- */

static bool open_map(struct bt_jump_map *m)
{
    if (!m->entry)
        m->entry = reserve(MAP_SIZE);
    if (!m->parts)
        m->parts = reserve(REGION_PAGES);
    return m->entry && m->parts;
}

bool jump_map_open(struct bt_cache *c, struct bt_exec_slot *s)
{
    return is_wide(s) ? open_table(c, bt_mode_window(s->mode)) : open_map(&s->maps[0]);
}

void jump_map_close(struct bt_cache *c)
{
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++)
        for (unsigned k = 0; k < BT_JUMP_MAPS; k++) {
            unreserve(c->slots[i].maps[k].entry, MAP_SIZE);
            unreserve(c->slots[i].maps[k].parts, REGION_PAGES);
        }
    for (int kind = 0; kind < 2; kind++)
        mmu_regions_destroy(c->vcpu->jump_regions[kind]);
    unreserve(c->jump_none, MAP_SIZE);
}

/* The regions of the slot that the table is for are the table's, or nobody's. */
static void show_all(struct bt_cache *c, enum mmu_window_kind kind, bool maps)
{
    const struct bt_exec_slot *s = c->jump_slot[kind];
    for (unsigned i = 0; s && i < s->map_count; i++)
        show(c, kind, s->maps[i].region, maps ? s->maps[i].entry : c->jump_none);
}

void jump_map_use(struct bt_cache *c, struct bt_exec_slot *s)
{
    c->vcpu->jump_map = s->maps[0].entry;
    enum mmu_window_kind kind = bt_mode_window(s->mode);
    if (!is_wide(s) || c->jump_slot[kind] == s)
        return;
    show_all(c, kind, false);
    c->jump_slot[kind] = s;
    show_all(c, kind, true);
}

static void release_all(struct bt_cache *c, struct bt_exec_slot *s)
{
    enum mmu_window_kind kind = bt_mode_window(s->mode);
    if (c->jump_slot[kind] == s)
        show_all(c, kind, false);
    s->map_count = 0;
}

/* Everything that a map holds goes. */
static void map_empty(struct bt_exec_slot *s, struct bt_jump_map *m)
{
    if (!m->part_count)
        return;
    madvise(m->entry, MAP_SIZE, MADV_DONTNEED);
    madvise(m->parts, REGION_PAGES, MADV_DONTNEED);
    s->part_count -= m->part_count;
    m->part_count = 0;
}

static void empty_all(struct bt_exec_slot *s)
{
    for (unsigned i = 0; i < BT_JUMP_MAPS; i++)
        map_empty(s, &s->maps[i]);
}

static struct bt_jump_map *map_of(struct bt_exec_slot *s, uint64_t region)
{
    for (unsigned i = 0; i < s->map_count; i++)
        if (s->maps[i].region == region)
            return &s->maps[i];
    return NULL;
}

/* A map for another region: an unused one, which is empty, or in turn one of those in use. NULL: no address space. */
static struct bt_jump_map *map_for_new_region(struct bt_cache *c, struct bt_exec_slot *s, uint16_t region)
{
    enum mmu_window_kind kind = bt_mode_window(s->mode);
    bool unused = s->map_count < BT_JUMP_MAPS, shown = c->jump_slot[kind] == s;
    struct bt_jump_map *m = &s->maps[unused ? s->map_count : s->next_map++ % BT_JUMP_MAPS];
    if (!open_map(m))
        return NULL;
    if (!unused) {
        map_empty(s, m);
        if (shown)
            show(c, kind, m->region, c->jump_none);
    }
    s->map_count += unused;
    m->region = region;
    if (shown)
        show(c, kind, region, m->entry);
    return m;
}

/* ---- entries ---- */

static uint64_t region_of(uint64_t lin)
{
    return lin >> MMU_REGION_SHIFT & (REGIONS - 1);
}

static uint8_t *parts_of(const struct bt_jump_map *m, uint64_t lin)
{
    return &m->parts[(uint32_t)lin >> PAGE_SHIFT];
}

/* The part of its page that an address is in, as a bit of its parts: what lies in one host page of the map. */
static uint8_t part_bit(uint64_t lin)
{
    return (uint8_t)(1 << (lin & PAGE_MASK) / (PAGE_SIZE / sizeof(uint32_t)));
}

void jump_map_enter(struct bt_cache *c, uint64_t lin, uint32_t entry)
{
    struct bt_exec_slot *s = c->slot;
    if (s->part_count >= PARTS_MAX)
        empty_all(s);
    struct bt_jump_map *m = map_of(s, region_of(lin));
    if (!m)
        m = map_for_new_region(c, s, (uint16_t)region_of(lin));
    if (!m)
        return;
    uint8_t *parts = parts_of(m, lin), bit = part_bit(lin);
    m->entry[(uint32_t)lin] = entry;
    if (*parts & bit)
        return;
    *parts |= bit;
    m->part_count++;
    s->part_count++;
}

void jump_map_forget(struct bt_cache *c, uint32_t mode, uint64_t lin)
{
    for (size_t i = 0; i < sizeof c->slots / sizeof c->slots[0]; i++) {
        struct bt_exec_slot *s = &c->slots[i];
        const struct bt_jump_map *m = s->map_count && s->mode == mode ? map_of(s, region_of(lin)) : NULL;
        if (m && (*parts_of(m, lin) & part_bit(lin)))
            m->entry[(uint32_t)lin] = 0;
    }
}

void jump_map_forget_page(struct bt_exec_slot *s, uint64_t page)
{
    const struct bt_jump_map *m = s->map_count ? map_of(s, page / REGION_PAGES) : NULL;
    if (!m)
        return;
    uint8_t *parts = &m->parts[page % REGION_PAGES];
    if (!*parts)
        return;
    uint8_t *at = (uint8_t *)(m->entry + (page % REGION_PAGES << PAGE_SHIFT));
    for (unsigned left = *parts; left; left >>= 1, at += PAGE_SIZE)
        if (left & 1) /* the others have no memory yet */
            bt_clear(at, PAGE_SIZE);
    *parts = 0;
}

void jump_map_empty(struct bt_exec_slot *s)
{
    bool user = bt_mode_window(s->mode) == MMU_WINDOW_USER; /* a kernel will be where it was */
    if (user && s->part_count >= TRIM_PARTS)
        empty_all(s);
}

void jump_map_release(struct bt_cache *c, struct bt_exec_slot *s)
{
    if (s->map_count > BT_JUMP_MAPS / 2)
        release_all(c, s);
}

void jump_map_reset(struct bt_cache *c, struct bt_exec_slot *s)
{
    empty_all(s);
    release_all(c, s);
    for (int kind = 0; kind < 2; kind++)
        if (c->jump_slot[kind] == s)
            c->jump_slot[kind] = NULL;
}
