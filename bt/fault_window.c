/* SPDX-License-Identifier: MIT */
/* One fault from end to end: `mov eax, [rbx + r11 - 24]` meets a page that its slot does not hold. The host's page
 * fault arrives here with the registers as they were before the instruction. The instruction's operand says that the
 * guest's address is rbx + 8; what the host could not reach (CR2) may be another page of the same access. If r11 is
 * what the region table holds for rbx now, the page is entered (mmu_window_fill); else r11 is set right. Either way the
 * instruction runs again, unless the page is not for windows or is not there: then the detour by the tables, or the
 * guest's page fault. `mov eax, [r10 + rcx*8 - 32]` says nothing of what r10 was made from: there the guest's address
 * is that of the slot's place that was met, or, where the region has no slot, the host's less what leads nowhere. For
 * `mov eax, [rsp + 8]` the guest's address is rsp + r15 - 32 + 8 likewise, and both registers are set.
 *
 * Nothing of this is a matter of safety: whatever the registers hold, the host address was one that the guest may not
 * reach, or there would have been no fault. */
#include "bt/fault_window.h"

#include "bt/cache.h"
#include "shadowmmu/parallel.h"
#include "shadowmmu/region.h"

static const uint8_t context_index[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                          REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

/* [base + index + disp], or [RSP + disp]: `push` says -8 for that, `pop` 0; or [RSP + index << shift + disp] */
struct host_operand {
    bool stack;
    unsigned base, index, shift;
    int32_t disp;
};
enum { NO_INDEX = RSP };

/* push and pop of a register, push of a constant. p: behind prefixes. */
static bool decode_push(const uint8_t *p, struct host_operand *o)
{
    bool pushes = (*p & 0xf8) == 0x50 || *p == 0x68, pops = (*p & 0xf8) == 0x58;
    *o = (struct host_operand){.stack = true, .index = NO_INDEX, .disp = pushes ? -8 : 0};
    return pushes || pops;
}

/* The operand of an instruction made by asm_op, asm_vex, asm_push or asm_pop. False: it is of another form. */
static bool decode_operand(const uint8_t *p, struct host_operand *o)
{
    unsigned x, b;
    while (*p == 0xf0 || *p == 0x66 || *p == 0xf2 || *p == 0xf3 || *p == 0x3e)
        p++;
    if (decode_push((*p & 0xf0) == 0x40 ? p + 1 : p, o))
        return true;
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
    if ((p[0] & 7) != 4 || mod == 0 || mod == 3)
        return false;
    o->base = (sib & 7) | b << 3;
    o->index = (sib >> 3 & 7) | x << 3;
    o->shift = sib >> 6;
    o->stack = o->base == RSP;
    if (mod == 1)
        o->disp = (int8_t)p[2];
    else
        __builtin_memcpy(&o->disp, p + 2, sizeof o->disp);
    return true;
}

/* What the table holds for an address. False: its page is not there. */
static bool region_entry(const uint64_t *regions, uint64_t gva, uint64_t *entry)
{
    if (!mmu_canonical(gva))
        return false;
    *entry = regions[gva >> MMU_REGION_SHIFT];
    return true;
}

/* ---- the guest's stack: the host's address for it is in RSP, and in r15 what leads back ---- */

static uint64_t stack_pointer(const greg_t *g)
{
    return (uint64_t)g[REG_RSP] + (uint64_t)g[REG_R15] - MMU_REGION_BIAS;
}

static uint64_t stack_entry(const greg_t *g)
{
    return 2 * MMU_REGION_BIAS - (uint64_t)g[REG_R15];
}

static void set_stack_entry(greg_t *g, uint64_t entry)
{
    g[REG_RSP] += (greg_t)(entry - stack_entry(g));
    g[REG_R15] = (greg_t)(2 * MMU_REGION_BIAS - entry);
}

static void refresh_stack(const uint64_t *regions, greg_t *g)
{
    uint64_t sp = stack_pointer(g), entry = mmu_region_nowhere(sp);
    region_entry(regions, sp, &entry);
    set_stack_entry(g, entry);
}

/* ---- one access ---- */

struct access {
    struct host_operand operand;
    uint64_t base;  /* the guest's address */
    uint64_t entry; /* the one that it was made with */
    int64_t disp;   /* the host's address is base + entry + disp */
    uint64_t asked; /* what of the guest's address decided on the region: without a small displacement */
};

static bool is_scratch(unsigned reg)
{
    return reg >= R10 && reg <= R12;
}

/* By a register and r11 or r12, which is its region's entry? */
static bool is_region(const struct host_operand *o)
{
    bool by_r12 = o->index == R12 && !is_scratch(o->base); /* else it is an index */
    return !o->stack && o->shift == 0 && (o->index == R11 || by_r12);
}

/* By a scratch register that is the host's address for something? */
static bool is_based(const struct host_operand *o)
{
    return !o->stack && !is_region(o) && is_scratch(o->base);
}

/* False: it is no access through a window. */
static bool decode_access(const greg_t *g, struct access *a)
{
    struct host_operand *o = &a->operand;
    if (!decode_operand((const uint8_t *)(uintptr_t)g[REG_RIP], o))
        return false;
    bool based = is_based(o), indexed = (o->stack || based) && o->index != NO_INDEX;
    uint64_t base = (uint64_t)g[context_index[o->base]];
    if (!o->stack && !based && !is_region(o))
        return false;
    a->base = o->stack ? stack_pointer(g) : base;
    a->entry = o->stack ? stack_entry(g) : based ? 0 : (uint64_t)g[context_index[o->index]];
    a->disp = o->stack ? o->disp - MMU_REGION_BIAS : o->disp;
    if (indexed)
        a->disp += (int64_t)((uint64_t)g[context_index[o->index]] << o->shift);
    int64_t disp = a->disp + MMU_REGION_BIAS;
    a->asked = a->base + (o->stack || bt_region_near(disp) ? 0 : (uint64_t)disp);
    return true;
}

static void set_entry(greg_t *g, const struct access *a, uint64_t entry)
{
    if (a->operand.stack)
        set_stack_entry(g, entry);
    else
        g[context_index[a->operand.index]] = (greg_t)entry;
}

/* Has the instruction met another region than it was made for so often that it belongs to the tables? */
static bool keeps_straying(struct bt_vcpu *v, const greg_t *g)
{
    enum { STRAYS_MAX = 64 };
    uintptr_t at = (uintptr_t)g[REG_RIP];
    struct bt_window_stray *s = &v->stray[at / 8 % BT_STRAYS];
    if (s->at != at)
        *s = (struct bt_window_stray){.at = at};
    if (++s->count < STRAYS_MAX)
        return false;
    s->at = 0;
    return true;
}

/* The access by another register's region, or an older entry of its own, is at fault: set it right. One that does not
 * stop belongs to the tables: an array that goes on in the next region, or a register that was near another one and is
 * not in its region. */
static enum bt_window_action set_right(struct bt_vcpu *v, greg_t *g, const struct access *a, uint64_t entry)
{
    bool strays = !a->operand.stack && a->entry != MMU_REGION_NONE; /* else it has got a slot since */
    set_entry(g, a, entry);
    return strays && keeps_straying(v, g) ? BT_WINDOW_DETOUR_ALWAYS : BT_WINDOW_RETRY;
}

/* By the host's address for something: RETRY behind which that is right. */
static enum bt_window_action resolve_based(struct bt_vcpu *v, enum mmu_window_kind kind, const siginfo_t *info,
                                           greg_t *g, const struct access *a)
{
    const uint64_t *regions = v->cpu.mmu.window[kind].regions;
    uint64_t gva, entry;
    if (g[REG_TRAPNO] == TRAP_PAGE_FAULT) {
        if (!mmu_window_owns(&v->cpu.mmu, kind, (uintptr_t)info->si_addr))
            return BT_WINDOW_NOT;
        if (!mmu_window_guest_address(&v->cpu.mmu, kind, (uintptr_t)info->si_addr, &gva)) /* in a guard */
            return keeps_straying(v, g) ? BT_WINDOW_DETOUR_ALWAYS : BT_WINDOW_DETOUR;
        return bt_window_fault(v, kind, gva, g[REG_ERR] & ERROR_WRITE);
    }
    gva = a->base + (uint64_t)a->disp - (MMU_REGION_NONE - MMU_REGION_BIAS);
    if (!region_entry(regions, gva, &entry))
        return mmu_canonical(a->base + (uint64_t)a->disp) ? BT_WINDOW_NOT : BT_WINDOW_DETOUR;
    enum bt_window_action action =
        entry == MMU_REGION_NONE ? bt_window_take_region(v, kind, gva) : BT_WINDOW_RETRY; /* it has one since */
    if (action == BT_WINDOW_RETRY && region_entry(regions, gva, &entry))
        g[context_index[a->operand.base]] += (greg_t)(entry - MMU_REGION_NONE);
    return action;
}

/* *a is set with all but BT_WINDOW_NOT and DETOUR. */
static enum bt_window_action resolve(struct bt_vcpu *v, enum mmu_window_kind kind, const siginfo_t *info, greg_t *g,
                                     struct access *a)
{
    const struct mmu_window *w = &v->cpu.mmu.window[kind];
    uint64_t entry;
    bool page_fault = g[REG_TRAPNO] == TRAP_PAGE_FAULT;
    uintptr_t met = (uintptr_t)info->si_addr;
    if (page_fault && mmu_regions_hold(w->regions, met))
        return BT_WINDOW_DETOUR; /* the address is not canonical */
    if (!decode_access(g, a))
        return BT_WINDOW_NOT;
    if (is_based(&a->operand))
        return resolve_based(v, kind, info, g, a);
    uint64_t gva = a->base + (uint64_t)a->disp + MMU_REGION_BIAS;
    if (!region_entry(w->regions, a->asked, &entry))
        return BT_WINDOW_DETOUR;
    if (entry != a->entry)
        return set_right(v, g, a, entry);
    if (page_fault && !mmu_window_owns(&v->cpu.mmu, kind, met))
        return BT_WINDOW_NOT;
    if (page_fault)
        gva += met - (a->base + entry + (uint64_t)a->disp);
    else if (entry != MMU_REGION_NONE)
        return BT_WINDOW_NOT; /* an operand that must be aligned */
    if ((gva ^ a->asked) >> MMU_REGION_SHIFT)
        return keeps_straying(v, g) ? BT_WINDOW_DETOUR_ALWAYS : BT_WINDOW_DETOUR; /* in another than its register's */
    if (page_fault)
        return bt_window_fault(v, kind, gva, g[REG_ERR] & ERROR_WRITE);
    return bt_window_take_region(v, kind, gva);
}

/* ---- parallel regions (translate_parallel.c) ---- */

/* mov r11d, [r11*8 + the table] */
static bool is_look(const uint8_t *p, const uint64_t *table)
{
    static const uint8_t opcode[4] = {0x46, 0x8b, 0x1c, 0xdd};
    uint32_t disp;
    __builtin_memcpy(&disp, p + sizeof opcode, sizeof disp);
    return !__builtin_memcmp(p, opcode, sizeof opcode) && disp == (uintptr_t)table;
}

/* NOT: no such access, or an operand that must be aligned. */
static enum bt_window_action resolve_parallel(struct bt_vcpu *v, const struct bt_block *b,
                                              const struct bt_insn_record *r, const siginfo_t *info, const greg_t *g)
{
    enum { GS_PREFIX = 0x65 };
    const struct mmu_window *w = &v->cpu.mmu.window[MMU_WINDOW_USER];
    const uint8_t *at = (const uint8_t *)(uintptr_t)g[REG_RIP];
    uint64_t gva;
    if (is_look(at, w->parallel.table))
        return bt_window_take_stretch(v, b, r, (uint64_t)g[REG_R11]);
    if (*at != GS_PREFIX || g[REG_TRAPNO] != TRAP_PAGE_FAULT)
        return BT_WINDOW_NOT;
    if (!mmu_parallel_address(w, (uintptr_t)info->si_addr, &gva)) /* in a guard */
        return mmu_parallel_owns(w, (uintptr_t)info->si_addr) ? BT_WINDOW_DETOUR : BT_WINDOW_NOT;
    return bt_window_fault(v, MMU_WINDOW_USER, gva, g[REG_ERR] & ERROR_WRITE);
}

enum bt_window_action bt_fault_in_region(struct bt_vcpu *v, enum mmu_window_kind kind, const struct bt_block *b,
                                         const struct bt_insn_record *r, const siginfo_t *info, ucontext_t *uc)
{
    enum { TRAP_STACK = VECTOR_SS, TRAP_PROTECTION = VECTOR_GP };
    greg_t *g = uc->uc_mcontext.gregs, trap = g[REG_TRAPNO];
    const uint64_t *regions = v->cpu.mmu.window[kind].regions;
    if (!regions || (trap != TRAP_PAGE_FAULT && trap != TRAP_STACK && trap != TRAP_PROTECTION))
        return BT_WINDOW_NOT;
    uint64_t releases = v->cpu.mmu.window[kind].releases, entry;
    struct access a = {0};
    enum bt_window_action action = kind == MMU_WINDOW_USER && v->cpu.mmu.window[kind].parallel.table
                                       ? resolve_parallel(v, b, r, info, g)
                                       : BT_WINDOW_NOT;
    bool parallel = action != BT_WINDOW_NOT;
    if (!parallel)
        action = resolve(v, kind, info, g, &a);
    if (action == BT_WINDOW_NOT)
        return action;
    if (action == BT_WINDOW_RETRY) {
        if (!parallel && !is_based(&a.operand) && region_entry(regions, a.asked, &entry))
            set_entry(g, &a, entry);
        /* r10 and r11 may be kept for accesses to come, by registers that nobody knows here */
        if (releases != v->cpu.mmu.window[kind].releases)
            action = BT_WINDOW_DETOUR;
    }
    refresh_stack(regions, g); /* slots may belong to other regions now */
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
        bt_window_signal(v, (enum mmu_window_kind)kind);
        g[REG_R15] = (greg_t)mmu_region_nowhere((uint64_t)g[REG_R15] << MMU_REGION_SHIFT);
        g[REG_RIP] += STACK_LOAD_BYTES;
        return true;
    }
    return false;
}
