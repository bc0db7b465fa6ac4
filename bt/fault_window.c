/* SPDX-License-Identifier: MIT */
/* One fault from end to end: `mov eax, [rbx + r11 - 24]` meets a page that its slot does not hold. The host's page
 * fault arrives here with the registers as they were before the instruction. The instruction's operand says that the
 * guest's address is rbx + 8; what the host could not reach (CR2) may be another page of the same access. If r11 is
 * what the region table holds for rbx now, the page is entered (mmu_window_fill); else r11 is set right. Either way the
 * instruction runs again, unless the page is not for windows or is not there: then the detour by the tables, or the
 * guest's page fault.
 *
 * Nothing of this is a matter of safety: whatever the registers hold, the host address was one that the guest may not
 * reach, or there would have been no fault. */
#include "bt/fault_window.h"

#include "bt/cache.h"
#include "shadowmmu/region.h"

static const uint8_t context_index[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                          REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* [base + index + disp] */
struct host_operand {
    unsigned base, index;
    int32_t disp;
};

/* The operand of an instruction made by asm_op or asm_vex. False: it is of another form. */
static bool decode_operand(const uint8_t *p, struct host_operand *o)
{
    unsigned x, b;
    while (*p == 0xf0 || *p == 0x66 || *p == 0xf2 || *p == 0xf3)
        p++;
    if (*p == 0xc4) { /* VEX, three bytes: X and B are inverted */
        x = !(p[1] & 0x40);
        b = !(p[1] & 0x20);
        p += 4;
    } else {
        x = (*p & 0xf0) == 0x40 && (*p & 2);
        b = (*p & 0xf0) == 0x40 && (*p & 1);
        p += (*p & 0xf0) == 0x40;
        if (*p++ == 0x0f)
            p += *p == 0x38 || *p == 0x3a ? 2 : 1;
    }
    unsigned mod = p[0] >> 6, sib = p[1];
    if ((p[0] & 7) != 4 || mod == 0 || mod == 3 || sib >> 6)
        return false;
    o->base = (sib & 7) | b << 3;
    o->index = (sib >> 3 & 7) | x << 3;
    if (mod == 1)
        o->disp = (int8_t)p[2];
    else
        __builtin_memcpy(&o->disp, p + 2, sizeof o->disp);
    return true;
}

/* What the table holds for an address. False: its page is not there. */
static bool region_entry(enum mmu_window_kind kind, const uint64_t *regions, uint64_t gva, uint64_t *entry)
{
    if (!mmu_canonical(gva) || (kind == MMU_WINDOW_USER && gva >> 63))
        return false;
    *entry = regions[gva >> MMU_REGION_SHIFT];
    return true;
}

static void refresh_stack(enum mmu_window_kind kind, const uint64_t *regions, greg_t *g)
{
    uint64_t sp = (uint64_t)g[context_index[bt_host_gpr(true, GPR_SP)]], entry = mmu_region_nowhere(sp);
    region_entry(kind, regions, sp, &entry);
    g[REG_R15] = (greg_t)entry;
}

static enum bt_window_action resolve(struct bt_vcpu *v, enum mmu_window_kind kind, const siginfo_t *info, greg_t *g)
{
    const struct mmu_window *w = &v->cpu.mmu.window[kind];
    struct host_operand o;
    uint64_t entry;
    bool page_fault = g[REG_TRAPNO] == TRAP_PAGE_FAULT;
    uintptr_t met = (uintptr_t)info->si_addr;
    if (page_fault && mmu_regions_hold(w->regions, met))
        return BT_WINDOW_DETOUR; /* the address is not canonical, or the kernel's half in user code */
    if (!decode_operand((const uint8_t *)(uintptr_t)g[REG_RIP], &o) || (o.index != R11 && o.index != R15))
        return BT_WINDOW_NOT;
    greg_t *index = &g[context_index[o.index]];
    uint64_t base = (uint64_t)g[context_index[o.base]];
    uint64_t gva = base + (uint64_t)(int64_t)o.disp + MMU_REGION_BIAS;
    if (!region_entry(kind, w->regions, base, &entry))
        return BT_WINDOW_DETOUR;
    if (entry != (uint64_t)*index) {
        *index = (greg_t)entry;
        return BT_WINDOW_RETRY;
    }
    if (page_fault && !mmu_window_owns(&v->cpu.mmu, kind, met))
        return BT_WINDOW_NOT;
    if (page_fault)
        gva += met - (base + entry + (uint64_t)(int64_t)o.disp);
    else if (entry != MMU_REGION_NONE)
        return BT_WINDOW_NOT; /* an operand that must be aligned */
    if ((gva ^ base) >> MMU_REGION_SHIFT)
        return BT_WINDOW_DETOUR; /* in another region than its register */
    if (page_fault)
        return bt_window_fault(v, kind, gva, g[REG_ERR] & ERROR_WRITE);
    return bt_window_take_region(v, kind, gva);
}

enum bt_window_action bt_fault_in_region(struct bt_vcpu *v, const siginfo_t *info, ucontext_t *uc)
{
    enum { TRAP_STACK = VECTOR_SS, TRAP_PROTECTION = VECTOR_GP };
    greg_t *g = uc->uc_mcontext.gregs, trap = g[REG_TRAPNO];
    enum mmu_window_kind kind = v->cpu.cpl == 3 ? MMU_WINDOW_USER : MMU_WINDOW_SUPERVISOR;
    const uint64_t *regions = v->cpu.mmu.window[kind].regions;
    if (!regions || (trap != TRAP_PAGE_FAULT && trap != TRAP_STACK && trap != TRAP_PROTECTION))
        return BT_WINDOW_NOT;
    uint64_t releases = v->cpu.mmu.window[kind].releases, entry;
    enum bt_window_action action = resolve(v, kind, info, g);
    struct host_operand o;
    if (action == BT_WINDOW_NOT)
        return action;
    if (action == BT_WINDOW_RETRY && decode_operand((const uint8_t *)(uintptr_t)g[REG_RIP], &o)) {
        if (region_entry(kind, regions, (uint64_t)g[context_index[o.base]], &entry))
            g[context_index[o.index]] = (greg_t)entry;
        /* r11 may be kept for an access to come, by a register that nobody knows here */
        if (o.index != R11 && releases != v->cpu.mmu.window[kind].releases)
            action = BT_WINDOW_DETOUR;
    }
    refresh_stack(kind, regions, g); /* slots may belong to other regions now */
    return action;
}

/* mov r15, [r15*8 + the region table] */
static bool is_stack_load(const uint8_t *p, const uint64_t *regions)
{
    static const uint8_t opcode[4] = {0x4e, 0x8b, 0x3c, 0xfd};
    uint32_t disp;
    __builtin_memcpy(&disp, p + sizeof opcode, sizeof disp);
    return !__builtin_memcmp(p, opcode, sizeof opcode) && disp == (uintptr_t)regions;
}

bool bt_fault_in_stack_region(struct bt_vcpu *v, const siginfo_t *info, ucontext_t *uc)
{
    enum { STACK_LOAD_BYTES = 8 };
    greg_t *g = uc->uc_mcontext.gregs;
    const uint8_t *at = (const uint8_t *)(uintptr_t)g[REG_RIP];
    if (g[REG_TRAPNO] != TRAP_PAGE_FAULT)
        return false;
    for (int kind = 0; kind < 2; kind++) {
        const uint64_t *regions = v->cpu.mmu.window[kind].regions;
        if (!mmu_regions_hold(regions, (uintptr_t)info->si_addr) || !is_stack_load(at, regions))
            continue;
        v->stats.host_signals++;
        g[REG_R15] = (greg_t)mmu_region_nowhere((uint64_t)g[REG_R15] << MMU_REGION_SHIFT);
        g[REG_RIP] += STACK_LOAD_BYTES;
        return true;
    }
    return false;
}
