/* SPDX-License-Identifier: MIT */
/* Jump maps: what one look-up finds for every address, what is forgotten with a page or a slot, that the memory has a
 * bound, and that the verifier takes the look-up and nothing that is nearly so. What code does with them is
 * tests/guests/long/jumps64.c. */
#include "bt/jump_map.h"
#include "bt/landing.h"
#include "bt/verify.h"
#include "shadowmmu/region.h"
#include "shadowmmu/window.h"
#include "tests/test.h"

enum { MODE = INSN_MODE_64 | BT_MODE_STACK32 | MMU_VIEW_USER << BT_MODE_VIEW_SHIFT | BT_MODE_WINDOW };
enum { MODE_KERNEL = INSN_MODE_64 | BT_MODE_STACK32 | MMU_VIEW_SUPERVISOR << BT_MODE_VIEW_SHIFT | BT_MODE_WINDOW };
enum { MODE_32 = INSN_MODE_32 | BT_MODE_STACK32 | MMU_VIEW_USER << BT_MODE_VIEW_SHIFT | BT_MODE_WINDOW };

struct rig {
    struct memory mem;
    struct cpu *cpu;
    struct bt_vcpu *v;
    struct bt_cache *c;
    struct assembler a;
    uint8_t code[512];
};

static const struct cpu_board no_board;

static void select_mode(struct rig *r, uint32_t mode)
{
    r->v->mode = mode;
    r->v->code_limit = ~0ull;
    bt_cache_select(r->c);
}

static bool open_rig(struct rig *r)
{
    static struct cpu_model model;
    char err[200];
    struct engine_options options = {.cache_size = 8 << 20};
    cpu_model_init(&model, true, false);
    if (memory_init(&r->mem, 4 << 20, err, sizeof err))
        return false;
    r->cpu = engine_bt.vcpu_create(&options, &r->mem, &model, &no_board, 0, err, sizeof err);
    if (!r->cpu || !mmu_window_open(&r->cpu->mmu, MMU_WINDOW_USER) || !r->cpu->mmu.window[MMU_WINDOW_USER].regions)
        return false;
    r->v = bt_of(r->cpu);
    r->c = r->v->cache;
    bt_glue_emit_window(r->c, MMU_WINDOW_USER);
    select_mode(r, MODE);
    return r->v->mode == MODE && r->v->jump_regions[MMU_WINDOW_USER];
}

static void close_rig(struct rig *r)
{
    if (r->cpu)
        engine_bt.vcpu_destroy(r->cpu);
    memory_destroy(&r->mem);
}

static bool opened(struct rig *r)
{
    if (open_rig(r))
        return true;
    test_skip("no windows for 64-bit code here");
    close_rig(r);
    return false;
}

/* What translated code fetches. */
static uint32_t look_up(const struct rig *r, uint64_t lin)
{
    uint64_t entry = r->v->jump_regions[bt_mode_window(r->v->mode)][lin >> MMU_REGION_SHIFT];
    return *(const uint32_t *)(uintptr_t)(entry + lin * 4 - MMU_REGION_BIAS);
}

static void enter(struct rig *r, uint64_t lin, uint32_t entry)
{
    uint64_t page = lin >> PAGE_SHIFT;
    bt_cache_map_page(r->c, page, bt_cache_page(r->c, page % 1000, page), false);
    jump_map_enter(r->c, lin, entry);
}

static const uint64_t places[] = {0,
                                  0x401000,
                                  0xfffffffc,
                                  0x555555554123,
                                  0x7fffffffffff,
                                  0xffff800000000000,
                                  0xffffffffff600400,
                                  0xffffffffffffffff};
enum { PLACES = sizeof places / sizeof places[0] };

static void entries(void)
{
    struct rig r = {0};
    if (!opened(&r))
        return;
    for (unsigned i = 0; i < PLACES; i++)
        CU_ASSERT_EQUAL(look_up(&r, places[i]), 0);
    for (unsigned i = 0; i < PLACES; i++)
        enter(&r, places[i], 100 + i);
    for (unsigned i = 0; i < PLACES; i++) {
        CU_ASSERT_EQUAL(look_up(&r, places[i]), 100 + i);
        CU_ASSERT_EQUAL(look_up(&r, places[i] ^ 1), 0);
    }
    bt_cache_unmap(r.c, MMU_FLUSH_PAGE, places[3] & ~(uint64_t)PAGE_MASK);
    jump_map_forget(r.c, MODE, places[1]);
    jump_map_forget(r.c, MODE | BT_MODE_DF, places[2]);
    for (unsigned i = 0; i < PLACES; i++)
        CU_ASSERT_EQUAL(look_up(&r, places[i]), i == 1 || i == 3 ? 0 : 100 + i);
    bt_cache_unmap(r.c, MMU_FLUSH_NONGLOBAL, 0);
    for (unsigned i = 0; i < PLACES; i++)
        CU_ASSERT_EQUAL(look_up(&r, places[i]), 0);
    CU_ASSERT_EQUAL(r.c->slot->map_count, 0);
    close_rig(&r);
}

/* More regions than there are maps. */
static void many_regions(void)
{
    enum { REGIONS = 3 * BT_JUMP_MAPS };
    struct rig r = {0};
    unsigned found = 0;
    if (!opened(&r))
        return;
    for (uint64_t i = 0; i < REGIONS; i++) {
        enter(&r, (i << 32) + 0x5678, (uint32_t)(2 * i + 1));
        if (i % 3 == 0)
            enter(&r, (i << 32) + 0x5688, (uint32_t)(2 * i + 2));
        for (uint64_t k = 0; k < REGIONS; k++) {
            uint32_t first = look_up(&r, (k << 32) + 0x5678), second = look_up(&r, (k << 32) + 0x5688);
            CU_ASSERT(!first || (k <= i && first == 2 * k + 1));
            CU_ASSERT(!second || (k <= i && k % 3 == 0 && second == 2 * k + 2));
            found += i == REGIONS - 1 && first;
        }
        CU_ASSERT_EQUAL(look_up(&r, (i << 32) + 0x5678), 2 * i + 1);
    }
    CU_ASSERT_EQUAL(found, BT_JUMP_MAPS);
    close_rig(&r);
}

/* A table is that of the last slot of its kind. */
static void modes(void)
{
    struct rig r = {0};
    if (!opened(&r))
        return;
    for (unsigned round = 0; round < 3; round++) {
        select_mode(&r, MODE);
        if (!round) {
            enter(&r, places[1], 11);
            enter(&r, places[3], 13);
        }
        CU_ASSERT(look_up(&r, places[1]) == 11 && look_up(&r, places[3]) == 13 && look_up(&r, places[6]) == 0);
        select_mode(&r, MODE | BT_MODE_DF);
        if (!round) {
            enter(&r, places[6], 26);
            enter(&r, places[1], 21);
        }
        CU_ASSERT(look_up(&r, places[1]) == 21 && look_up(&r, places[3]) == 0 && look_up(&r, places[6]) == 26);
        select_mode(&r, MODE_KERNEL);
        if (!round) {
            enter(&r, places[1], 41);
            enter(&r, places[5], 45);
        }
        CU_ASSERT(look_up(&r, places[1]) == 41 && look_up(&r, places[3]) == 0 && look_up(&r, places[5]) == 45);
        select_mode(&r, MODE_32);
        if (!round)
            enter(&r, 0x401000, 31);
        CU_ASSERT(r.v->jump_map[0x401000] == 31 && r.v->jump_map[0x5000] == 0);
    }
    bt_cache_unmap(r.c, MMU_FLUSH_PAGE, 0x401000);
    CU_ASSERT(r.v->jump_map[0x401000] == 0);
    select_mode(&r, MODE);
    CU_ASSERT(look_up(&r, places[1]) == 0 && look_up(&r, places[3]) == 13);
    close_rig(&r);
}

static void bounds(void)
{
    enum { ENTRIES = 30000, MOST = 4096, MUCH = 512 };
    struct rig r = {0};
    if (!opened(&r))
        return;
    for (uint64_t i = 0; i < ENTRIES; i++)
        jump_map_enter(r.c, places[3] + i * 1024, (uint32_t)i + 1);
    CU_ASSERT(r.c->slot->part_count <= MOST);
    CU_ASSERT_EQUAL(look_up(&r, places[3] + (ENTRIES - 1) * 1024ull), ENTRIES);
    CU_ASSERT_EQUAL(look_up(&r, places[3]), 0);
    enter(&r, places[3], 5);
    bt_cache_unmap(r.c, MMU_FLUSH_ALL, 0);
    CU_ASSERT(r.c->slot->part_count < MUCH);
    CU_ASSERT_EQUAL(look_up(&r, places[3]), 0);
    close_rig(&r);
}

/* ---- overlapping tables ---- */

/* An entry for a region that the table of the one or the other kind may have. */
static uint64_t entry_of(bool code, int64_t region, uint64_t host)
{
    return host - ((uint64_t)region << MMU_REGION_SHIFT) * (code ? 4 : 1) + MMU_REGION_BIAS;
}

/* Is every access for the address of a region with this entry far from all that is canonical? */
static bool is_nowhere(bool code, uint64_t gva, uint64_t entry)
{
    static const int64_t beside[] = {0, -(1ll << 36), 1ll << 36};
    for (unsigned i = 0; i < sizeof beside / sizeof beside[0]; i++)
        if (mmu_canonical(gva * (code ? 4 : 1) + entry + (uint64_t)beside[i]))
            return false;
    return true;
}

static void overlaps(void)
{
    enum { TABLES = 16, STEP = 2 << 20 };
    static const uint64_t hosts[] = {0x10000, 0x7e000000, 0x550000000000, 0x7ffffffff000};
    bool right = true;
    uint64_t *a = mmu_regions_create(), *b = mmu_regions_create();
    if (a && b)
        CU_ASSERT_EQUAL((uintptr_t)b - (uintptr_t)a, STEP);
    mmu_regions_destroy(a);
    mmu_regions_destroy(b);
    for (int64_t apart = 1 - TABLES; apart < TABLES; apart++)
        for (int64_t region = -0x8000; apart && region < 0x8000; region += region % 32 == 31 ? 1 : 31)
            for (unsigned kinds = 0; kinds < 4; kinds++) {
                bool code = kinds & 1, meets_code = kinds & 2;
                uint64_t gva = (uint64_t)(region + apart * (STEP / 8)) << MMU_REGION_SHIFT;
                for (unsigned i = 0; i < sizeof hosts / sizeof hosts[0]; i++)
                    right &= is_nowhere(code, gva, entry_of(meets_code, region, hosts[i]));
                right &= is_nowhere(code, gva, MMU_REGION_NONE);
            }
    CU_ASSERT(right);
}

/* ---- the verifier ---- */

static void begin(struct rig *r)
{
    uint8_t *at = r->c->exec_view + r->c->glue_size + (64 << 10);
    r->a = (struct assembler){.p = r->code, .end = r->code + sizeof r->code, .to_exec = at - r->code};
}

static bool good(struct rig *r)
{
    size_t where;
    return !bt_verify_code(r->c, MODE, r->code, (size_t)(r->a.p - r->code),
                           (uintptr_t)r->code + (uintptr_t)r->a.to_exec, &where);
}

static void load_region(struct rig *r, unsigned to, unsigned address)
{
    bt_emit_region(&r->a, r->v->jump_regions[MMU_WINDOW_USER], to, address);
}
static void load_entry(struct rig *r, struct rm rm)
{
    asm_op(&r->a, OP_MOV, R11, rm, 0);
}
static void jump(struct rig *r, int64_t form)
{
    int64_t to = (int64_t)bt_glue_of(r->c, MODE)->miss + form;
    asm_op(&r->a, OP_LEA, R11, rm_mem(R11, (int32_t)to), 0);
    asm_op(&r->a, OP_GROUP5, 4, rm_reg(R11), 0);
}
#define MAP_RM rm_sib(R11, R10, 4, -MMU_REGION_BIAS)

static void verifier_takes(void)
{
    struct rig r = {0};
    if (!opened(&r))
        return;
    begin(&r); /* ret 16 */
    asm_pop(&r.a, R10);
    load_region(&r, R11, R10);
    load_entry(&r, MAP_RM);
    asm_op(&r.a, OP_LEA | OP_W, RSP, rm_mem(RSP, 16), 0);
    jump(&r, 0);
    CU_ASSERT(good(&r));
    begin(&r); /* call rbx, flags in the image */
    asm_op(&r.a, OP_MOV | OP_W, R10, rm_reg(RBX), 0);
    load_region(&r, R11, R10);
    load_entry(&r, MAP_RM);
    asm_mov_imm64(&r.a, R12, 0x555512345678);
    asm_push(&r.a, R12);
    jump(&r, -BT_ENTRY_SAVED);
    CU_ASSERT(good(&r));
    close_rig(&r);
}

static void of_another(struct rig *r)
{
    load_region(r, R11, RBX);
    load_entry(r, MAP_RM);
    jump(r, 0);
}
static void r10_changed(struct rig *r)
{
    load_region(r, R11, R10);
    asm_op(&r->a, OP_MOV | OP_W, R10, rm_reg(RBX), 0);
    load_entry(r, MAP_RM);
    jump(r, 0);
}
static void no_index(struct rig *r)
{
    asm_op(&r->a, OP_MOV | OP_W, R11, rm_sib(NO_REG, R11, 8, (int32_t)(intptr_t)r->v->jump_regions[MMU_WINDOW_USER]),
           0);
    load_entry(r, MAP_RM);
    jump(r, 0);
}
static void data_region(struct rig *r)
{
    bt_emit_region(&r->a, r->cpu->mmu.window[MMU_WINDOW_USER].regions, R11, R10);
    load_entry(r, MAP_RM);
    jump(r, 0);
}
static void code_region_of_data(struct rig *r)
{
    load_region(r, R11, R10);
    asm_op(&r->a, OP_MOV | OP_W, RDX, rm_sib(R10, R11, 1, -MMU_REGION_BIAS), 0);
}
static void beside(struct rig *r)
{
    load_region(r, R11, R10);
    load_entry(r, rm_sib(R11, R10, 4, 0));
    jump(r, 0);
}
static void scaled(struct rig *r)
{
    load_region(r, R11, R10);
    load_entry(r, rm_sib(R11, R10, 8, -MMU_REGION_BIAS));
    jump(r, 0);
}
static void whole_entry(struct rig *r)
{
    load_region(r, R11, R10);
    asm_op(&r->a, OP_MOV | OP_W, R11, MAP_RM, 0);
    jump(r, 0);
}
static void stores(struct rig *r)
{
    load_region(r, R11, R10);
    asm_op(&r->a, OP_MOV_TO, RBX, MAP_RM, 0);
}
static void entry_changed(struct rig *r)
{
    load_region(r, R11, R10);
    load_entry(r, MAP_RM);
    asm_group1_imm(&r->a, true, GROUP1_ADD, rm_reg(R11), 1);
    jump(r, 0);
}
static void entry_is_no_address(struct rig *r)
{
    load_region(r, R11, R10);
    load_entry(r, MAP_RM);
    asm_op(&r->a, OP_GROUP5, 4, rm_reg(R11), 0);
}
static void landing_form(struct rig *r)
{
    load_region(r, R11, R10);
    load_entry(r, MAP_RM);
    jump(r, LANDING_SAVED);
}
static void label_before_jump(struct rig *r)
{
    uint8_t *skip = asm_jcc8(&r->a, CC_Z);
    load_region(r, R11, R10);
    load_entry(r, MAP_RM);
    asm_land8(&r->a, skip);
    jump(r, 0);
}

static void verifier_refuses(void)
{
    static void (*const bad[])(struct rig *) = {
        of_another,  r10_changed, no_index,      data_region,         code_region_of_data, beside,           scaled,
        whole_entry, stores,      entry_changed, entry_is_no_address, landing_form,        label_before_jump};
    struct rig r = {0};
    if (!opened(&r))
        return;
    for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        begin(&r);
        bad[i](&r);
        bool taken = good(&r);
        CU_ASSERT_FALSE(taken);
        if (taken)
            printf("jump map: the verifier takes case %u\n", i);
    }
    close_rig(&r);
}

TEST_SUITE(jump_map, {"one look-up finds what was entered", entries}, {"regions share maps", many_regions},
           {"each mode has its own", modes}, {"the memory has a bound", bounds},
           {"overlapping tables lead nowhere", overlaps}, {"the verifier takes the look-up", verifier_takes},
           {"and nothing that is nearly so", verifier_refuses})
