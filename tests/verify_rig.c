/* SPDX-License-Identifier: MIT */
#include "tests/verify_rig.h"

#include "bt/verify.h"
#include "cpu/engine.h"
#include "shadowmmu/window.h"

bool open_bench(struct bench *b)
{
    static struct cpu_model model;
    static const struct cpu_board no_board;
    char err[200];
    struct engine_options options = {.cache_size = 8 << 20};
    cpu_model_init(&model, true, false);
    if (memory_init(&b->mem, 4 << 20, err, sizeof err))
        return false;
    b->cpu = engine_bt.vcpu_create(&options, &b->mem, &model, &no_board, 0, err, sizeof err);
    if (!b->cpu || !mmu_window_open(&b->cpu->mmu, MMU_WINDOW_USER) || !window_of(b)->regions)
        return false;
    bt_glue_emit_window(bt_of(b->cpu)->cache, MMU_WINDOW_USER);
    return true;
}

void close_bench(struct bench *b)
{
    if (b->cpu)
        engine_bt.vcpu_destroy(b->cpu);
    memory_destroy(&b->mem);
}

struct mmu_window *window_of(const struct bench *b)
{
    return &b->cpu->mmu.window[MMU_WINDOW_USER];
}

const struct bt_glue *glue_of(const struct bench *b)
{
    return bt_glue_of(bt_of(b->cpu)->cache, MODE);
}

void begin(struct bench *b)
{
    const struct bt_cache *c = bt_of(b->cpu)->cache;
    uint8_t *at = c->exec_view + c->glue_size + (64 << 10);
    b->a = (struct assembler){.p = b->code, .end = b->code + sizeof b->code, .to_exec = at - b->code};
}

bool good(struct bench *b)
{
    size_t where;
    asm_mov_imm32(&b->a, R11, 0);
    asm_jmp32(&b->a, glue_of(b)->exit);
    return !bt_verify_code(bt_of(b->cpu)->cache, MODE, b->code, (size_t)(b->a.p - b->code),
                           (uintptr_t)b->code + (uintptr_t)b->a.to_exec, &where);
}
