/* SPDX-License-Identifier: MIT */
#include "shadowmmu/region.h"

#include "shadowmmu/reserve.h"

#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>

enum { TABLES = 16, HALF_BYTES = 256 << 10 /* 2^15 entries */ };
static const uint64_t TABLE_SIZE = 32ull << 30, TABLE_STEP = 2 << 20;
/* The lower end of the address space is left to the code caches. */
static const uintptr_t HIGHEST = 0x7e000000, LOWEST = 0x40000000, STEP = 0x1000000;

/* Address space that the process keeps once it has been found. */
static struct {
    pthread_mutex_t lock;
    uint8_t *base;
    bool used[TABLES];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint8_t *reserve_pool(void)
{
    uint64_t size = TABLE_SIZE + TABLES * TABLE_STEP;
    uint8_t *p = NULL;
    for (uintptr_t at = HIGHEST; !p && at >= LOWEST; at -= STEP)
        p = reserve_at(at, size);
    return p;
}

static uint8_t *take(void)
{
    uint8_t *table = NULL;
    pthread_mutex_lock(&pool.lock);
    if (!pool.base)
        pool.base = reserve_pool();
    for (unsigned i = 0; pool.base && i < TABLES && !table; i++)
        if (!pool.used[i]) {
            pool.used[i] = true;
            table = pool.base + i * TABLE_STEP;
        }
    pthread_mutex_unlock(&pool.lock);
    return table;
}

/* No entry may ever be seen as 0, which is a host address. */
static bool open_half(uint8_t *at)
{
    uint64_t *p = mmap(at, HALF_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (p == MAP_FAILED)
        return false;
    for (volatile uint64_t *e = p; e < p + HALF_BYTES / sizeof *p; e++)
        *e = MMU_REGION_NONE;
    return true;
}

static uint8_t *upper(uint64_t *table)
{
    return (uint8_t *)table + TABLE_SIZE - HALF_BYTES;
}

static bool close_half(uint8_t *at)
{
    return mmap(at, HALF_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
}

void mmu_regions_destroy(uint64_t *table)
{
    if (!table || !close_half((uint8_t *)table) || !close_half(upper(table)))
        return;
    pthread_mutex_lock(&pool.lock);
    pool.used[(size_t)((uint8_t *)table - pool.base) / TABLE_STEP] = false;
    pthread_mutex_unlock(&pool.lock);
}

uint64_t *mmu_regions_create_closed(void)
{
    return (uint64_t *)(void *)take();
}

uint64_t *mmu_regions_create(void)
{
    uint64_t *table = mmu_regions_create_closed();
    if (!table)
        return NULL;
    if (open_half((uint8_t *)table) && open_half(upper(table)))
        return table;
    mmu_regions_destroy(table);
    return NULL;
}

bool mmu_regions_hold(const uint64_t *table, uintptr_t host)
{
    return table && host - (uintptr_t)table < TABLE_SIZE;
}
