/* SPDX-License-Identifier: MIT */
#include "bt/stats.h"

#include "bt/profile.h"
#include "cpu/cpuid.h"

struct named {
    const char *name;
    uint64_t value;
};

static void print_object(FILE *out, const char *name, const struct named *members, unsigned count)
{
    fprintf(out, ", \"%s\": {", name);
    for (unsigned i = 0; i < count; i++)
        fprintf(out, "%s\"%s\": %llu", i ? ", " : "", members[i].name, (unsigned long long)members[i].value);
    fputc('}', out);
}

/* Why translated code came back to the dispatcher. */
static void print_exits(const struct bt_stats *s, FILE *out)
{
    const struct named exits[] = {
        {"to_dispatcher", s->exits[BT_EXIT_DISPATCH]}, {"jump_not_chained", s->exits[BT_EXIT_CHAIN]},
        {"code_map_miss", s->exits[BT_EXIT_MISS]},     {"exception", s->exits[BT_EXIT_FAULT]},
        {"access_by_tables", s->exits[BT_EXIT_PLAIN]}, {"event", s->exits[BT_EXIT_EVENT]}};
    print_object(out, "exits", exits, sizeof exits / sizeof *exits);
}

/* Which accesses found the shadow tables empty. */
static void print_fills(const struct mmu *mmu, FILE *out)
{
    const uint64_t(*n)[2] = mmu->stats.fill_kinds;
    const struct named fills[] = {
        {"user_read", n[MMU_VIEW_USER][0]},
        {"user_write", n[MMU_VIEW_USER][1]},
        {"supervisor_read", n[MMU_VIEW_SUPERVISOR][0] + n[MMU_VIEW_SMAP][0]},
        {"supervisor_write", n[MMU_VIEW_SUPERVISOR][1] + n[MMU_VIEW_SMAP][1]},
    };
    print_object(out, "shadow_fills_by_access", fills, sizeof fills / sizeof *fills);
}

static void print_flushes(const struct mmu *mmu, FILE *out)
{
    uint64_t all = mmu->stats.flush_all, known = mmu->stats.flush_paging + mmu->stats.flush_a20 + mmu->stats.flush_full;
    const struct named flushes[] = {{"cr3_load", mmu->stats.flush_cr3},
                                    {"paging_mode", mmu->stats.flush_paging},
                                    {"a20", mmu->stats.flush_a20},
                                    {"fills_full", mmu->stats.flush_full},
                                    {"memory_map_and_reset", all > known ? all - known : 0},
                                    {"one_page_invlpg", mmu->stats.invlpg},
                                    {"one_frame_code_or_dirty", mmu->stats.gfn_drops}};
    print_object(out, "shadow_flushes_by_cause", flushes, sizeof flushes / sizeof *flushes);
}

void bt_stats_print(const struct cpu *cpu, FILE *out)
{
    const struct bt_vcpu *v = (const struct bt_vcpu *)cpu;
    const struct bt_stats *s = &v->stats;
#define STAT(name, value) fprintf(out, ", \"" name "\": %llu", (unsigned long long)(value))
    fprintf(out, "\"blocks\": %llu", (unsigned long long)s->blocks);
    STAT("instructions_translated", s->insns);
    STAT("host_bytes", s->host_bytes);
    STAT("translate_ns", (unsigned __int128)s->translate_cycles * 1000000 / cpu_model_tsc_khz(cpu->model));
    STAT("dispatches", s->dispatches);
    STAT("resumes", s->resumes);
    STAT("chains", s->chains);
    STAT("code_map_misses", s->misses);
    STAT("code_map_fills", s->map_fills);
    STAT("slow_reads", s->slow_reads);
    STAT("slow_writes", s->slow_writes);
    STAT("bounced_accesses", s->bounces);
    STAT("device_memory_accesses", s->device_accesses);
    STAT("calls_to_c", s->callouts);
    STAT("exceptions", s->exceptions);
    STAT("interrupts", s->interrupts);
    STAT("host_signals", s->host_signals);
    STAT("window_fills", cpu->mmu.stats.window_fills);
    STAT("window_drops", cpu->mmu.stats.window_drops);
    STAT("window_clears", cpu->mmu.stats.window_clears);
    STAT("window_detours", s->window_detours);
    STAT("writes_to_code_pages", s->smc_writes);
    STAT("blocks_dropped", s->smc_blocks);
    STAT("pages_moved", s->moved_pages);
    STAT("blocks_moved", s->moved_blocks);
    STAT("cache_flushes", s->cache_flushes);
    STAT("shadow_fills", cpu->mmu.stats.fills);
    STAT("guest_walks", cpu->mmu.stats.walks);
    STAT("shadow_flushes_cr3", cpu->mmu.stats.flush_cr3);
    STAT("shadow_flushes_all", cpu->mmu.stats.flush_all);
    STAT("invlpg", cpu->mmu.stats.invlpg);
    STAT("invlpg_of_large_pages", cpu->mmu.stats.invlpg_large);
    STAT("address_space_switches", cpu->mmu.stats.switches);
    STAT("address_spaces_resumed", cpu->mmu.stats.resumed);
#undef STAT
    print_exits(s, out);
    print_fills(&cpu->mmu, out);
    print_flushes(&cpu->mmu, out);
    bt_profile_stats(((const struct bt_vcpu *)cpu)->profile, out);
}
