/* SPDX-License-Identifier: MIT */
/* Who runs the follower's instructions: KVM by single steps, as far as this host's goes, else the translator with
 * blocks of one instruction. Both are vCPUs over the follower's memory and see the replayed board; the state moves from
 * one to the other where needed.
 *
 * With KVM the translator still runs
 * - what does not follow from registers and memory: the time stamp counter (which stands still here, but not in KVM),
 *   random numbers, CPUID and the bits of CR4 (user code's CPUID may be the host's), MSRs and CR8, of which KVM keeps
 *   some and the board others,
 *   and what shows the x87 instruction and data pointers;
 * - what uses RFLAGS.TF or the debug registers, which are KVM's stepping's: POPF and IRET with TF in the image, MOV DR;
 * - of a KVM that lacks modes, what leads to them, and far transfers in protected mode.
 * Hidden attributes of segments in real mode are nothing that a program sees: the translator's are taken. A software
 * KVM clears the upper half of ESP with an exception in real mode, and sets RFLAGS.TF, which is its own, in the image
 * that an exception pushes: likewise. */
#include "frontend/lockstep_internal.h"

#include "hw-assist/kvm_probe.h"

#include <inttypes.h>
#include <string.h>

static bool has_kvm(const struct lockstep *l)
{
    return l->reference.kvm;
}

static const struct engine *engine_of(const struct lockstep *l, const struct cpu *cpu)
{
    return cpu == l->reference.kvm ? &engine_kvm : &engine_bt;
}

/* ---- creation ---- */

static struct cpu *make(struct lockstep *l, const struct engine *engine)
{
    struct engine_options options = {.step = true, .one_insn_blocks = true};
    return engine->vcpu_create(&options, &l->mirror, machine_step_model(l->machine), &l->replaying, 0, l->err,
                               l->err_len);
}

/* Is there a mode that it can step through? False with the reason. */
static bool kvm_steps(char *why, size_t len)
{
    const struct kvm_probe *p = kvm_probe_steps();
    for (enum kvm_mode mode = 0; mode < KVM_MODE_COUNT; mode++)
        if (p->usable && p->steps[mode])
            return true;
    if (p->usable)
        snprintf(why, len, "this host's KVM steps through no mode");
    else
        kvm_probe_suffices(p, false, why, len);
    return false;
}

int reference_create(struct lockstep *l)
{
    char why[256];
    enum lockstep_reference choice = l->config->reference;
    l->follower = l->reference.bt = make(l, &engine_bt);
    if (!l->follower)
        return -1;
    if (choice == LOCKSTEP_REFERENCE_BT)
        return 0;
    if (!kvm_steps(why, sizeof why)) {
        if (choice == LOCKSTEP_REFERENCE_KVM) {
            snprintf(l->err, l->err_len, "--reference kvm: %s", why);
            return -1;
        }
        fprintf(l->config->report, "ringfold: verify: the reference is bt: %s\n", why);
        return 0;
    }
    l->reference.kvm = make(l, &engine_kvm);
    return l->reference.kvm ? 0 : -1;
}

void reference_destroy(struct lockstep *l)
{
    if (l->reference.bt)
        engine_bt.vcpu_destroy(l->reference.bt);
    if (l->reference.kvm)
        engine_kvm.vcpu_destroy(l->reference.kvm);
    l->follower = NULL;
}

/* ---- whose turn it is ---- */

void reference_replaced(struct lockstep *l)
{
    engine_of(l, l->follower)->state_replaced(l->follower);
}

static void use(struct lockstep *l, struct cpu *cpu)
{
    if (l->follower == cpu)
        return;
    cpu_state_copy(cpu, l->follower);
    l->follower = cpu;
    reference_replaced(l);
}

/* ---- what KVM is not asked for ---- */

static bool is(const struct insn *in, enum insn_map map, unsigned first, unsigned last)
{
    return in->encoding == ENCODING_LEGACY && in->map == map && in->opcode >= first && in->opcode <= last;
}

/* Does the result come from elsewhere than registers, memory and the accesses that are replayed? */
static bool from_elsewhere(const struct insn *in)
{
    bool registers = in->has_modrm && in->modrm_mod == 3;
    return is(in, MAP_0F, 0x30, 0x33) ||                       /* MSRs, RDTSC, RDPMC */
           (is(in, MAP_0F, 0x22, 0x22) && in->reg.num == 4) || /* the bits of CR4 are the model's */
           is(in, MAP_0F, 0xa2, 0xa2) ||                       /* CPUID */
           (is(in, MAP_0F, 0x01, 0x01) && registers && in->modrm_reg == 7 && in->modrm_rm == 1) || /* RDTSCP */
           (is(in, MAP_0F, 0xc7, 0xc7) && registers && in->modrm_reg >= 6) ||                      /* RDRAND, RDSEED */
           (is(in, MAP_0F, 0x20, 0x22) && in->reg.cls == REGCLASS_CONTROL && in->reg.num == 8) ||
           in->cls == INSN_FPU_ENV; /* x87 instruction and data pointers are the host's */
}

/* KVM's stepping uses RFLAGS.TF and the debug registers: does the instruction, too? */
static bool uses_debugging(struct lockstep *l, const struct insn *in)
{
    enum { POPF = 0x9d, IRET = 0xcf, TF_BYTE = 1 };
    const struct cpu *cpu = l->follower;
    bool iret = is(in, MAP_PRIMARY, IRET, IRET);
    if (is(in, MAP_0F, 0x21, 0x21) || is(in, MAP_0F, 0x23, 0x23))
        return true;
    if (!iret && !is(in, MAP_PRIMARY, POPF, POPF))
        return false;
    uint64_t sp = cpu->gpr[GPR_SP] + TF_BYTE + (iret ? 2u * in->opsize : 0);
    if (!cpu_code64(cpu))
        sp = (uint32_t)(cpu->seg[SEG_SS].base + (cpu->seg[SEG_SS].attr & SEG_DB ? (uint32_t)sp : (uint16_t)sp));
    uint8_t byte;
    return code_peek_byte(l, cpu, sp, &byte) && (byte & FLAG_TF >> 8);
}

/* Of a KVM that lacks modes: does the instruction lead to one, or is it one of the far transfers whose system
 * descriptors (gates, task states) the emulator behind such a KVM does not know, and takes for mistakes of the guest?
 */
static bool leads_astray(const struct lockstep *l, const struct insn *in)
{
    const struct kvm_probe *p = kvm_probe_steps();
    const struct cpu *cpu = l->follower;
    bool protected_mode = cpu->mmu.cr0 & CR0_PE;
    if (in->cls == INSN_FAR && protected_mode)
        return !p->steps[KVM_MODE_PAGING32] || (cpu_long_mode(cpu) && !p->steps[KVM_MODE_RING3]);
    if (!is(in, MAP_0F, 0x22, 0x22) || in->reg.num != 0 || !(cpu->gpr[in->rm.num] & CR0_PG))
        return false;
    return !p->steps[cpu->mmu.efer & EFER_LME ? KVM_MODE_LONG
                     : cpu->mmu.cr4 & CR4_PAE ? KVM_MODE_PAE
                                              : KVM_MODE_PAGING32];
}

static bool not_for_kvm(struct lockstep *l)
{
    uint8_t bytes[15];
    struct insn in;
    const struct cpu *cpu = l->follower;
    if (insn_decode(&in, bytes, code_peek(l, cpu, cpu->rip, bytes), code_mode(cpu)) <= 0 || in.cls == INSN_UNDEFINED)
        return false;
    return from_elsewhere(&in) || uses_debugging(l, &in) || leads_astray(l, &in);
}

static const char *listing(struct lockstep *l, const struct cpu *cpu, char *text, size_t len)
{
    uint8_t bytes[15];
    struct insn in;
    snprintf(text, len, "(bytes that cannot be read)");
    if (insn_decode(&in, bytes, code_peek(l, cpu, cpu->rip, bytes), code_mode(cpu)) > 0)
        insn_format(&in, cpu->rip, text, len);
    return text;
}

/* KVM could not do the step at hand. Says so, once for each reason. False: then nobody does it. */
static bool fall_back(struct lockstep *l)
{
    struct reference *r = &l->reference;
    const char *why = engine_kvm.unable(r->kvm);
    char text[96];
    listing(l, l->follower, text, sizeof text);
    if (l->config->reference == LOCKSTEP_REFERENCE_KVM && !l->leader->shutdown) {
        snprintf(l->err, l->err_len, "--reference kvm: %s, at %04x:%" PRIx64 ", %s", why,
                 l->follower->seg[SEG_CS].selector, l->follower->rip, text);
        l->refused = true;
        return false;
    }
    unsigned i = 0;
    while (i < r->reason_count && strcmp(r->reasons[i], why))
        i++;
    if (i == r->reason_count && i < REFERENCE_REASONS) {
        snprintf(r->reasons[r->reason_count++], sizeof r->reasons[0], "%s", why);
        fprintf(l->config->report, "ringfold: verify: bt is the reference where %s (first at %04x:%" PRIx64 ", %s)\n",
                why, l->follower->seg[SEG_CS].selector, l->follower->rip, text);
    }
    return true;
}

/* What KVM's refusal of more than the one instruction hangs on. */
static struct reference_key key_of(const struct cpu *cpu)
{
    return (struct reference_key){.flags = cpu->rflags & (FLAG_TF | EFLAGS_VM),
                                  .dr7 = cpu->dr[7],
                                  .cr4 = cpu->mmu.cr4,
                                  .mode = (uint64_t)kvm_mode_of(cpu)};
}

/* It refused already in such a state: the way there and back need not be gone again. */
static bool refused_before(const struct lockstep *l)
{
    struct reference_key key = key_of(l->follower);
    return l->reference.has_refused && !memcmp(&key, &l->reference.refused, sizeof key);
}

static void remember_refusal(struct lockstep *l)
{
    static const char by_instruction[] = "KVM "; /* as the engine begins when it has tried */
    if (!strncmp(engine_kvm.unable(l->reference.kvm), by_instruction, sizeof by_instruction - 1))
        return;
    l->reference.has_refused = true;
    l->reference.refused = key_of(l->follower);
}

static enum engine_exit run(struct lockstep *l, struct cpu *cpu, uint32_t events)
{
    use(l, cpu);
    if (events)
        cpu_raise(cpu, events);
    enum engine_exit how = engine_of(l, cpu)->run(cpu);
    if (events)
        cpu_lower(cpu, CPU_EVENT_INTR | CPU_EVENT_NMI);
    return how;
}

bool reference_run(struct lockstep *l, uint32_t events, enum engine_exit *how)
{
    if (has_kvm(l) && !l->reference.off && !refused_before(l) && !not_for_kvm(l)) {
        size_t met = l->record.next;
        l->reference.uncollected = l->reference.by_kvm = true;
        *how = run(l, l->reference.kvm, events);
        if (*how != ENGINE_EXIT_UNABLE) {
            l->outcome->by_kvm++;
            return true;
        }
        l->record.next = met;
        l->mismatch[0] = 0;
        if (!fall_back(l))
            return false;
        remember_refusal(l);
    }
    *how = run(l, l->reference.bt, events);
    return true;
}

void reference_even_out_stack(struct lockstep *l)
{
    const uint64_t leader = l->leader->gpr[GPR_SP];
    struct cpu *cpu = l->follower;
    uint64_t *sp = &cpu->gpr[GPR_SP];
    if (!has_kvm(l) || (cpu->mmu.cr0 & CR0_PE) || cpu->rip != l->leader->rip || *sp != (leader & 0xffff) ||
        *sp == leader)
        return;
    *sp = leader;
    reference_replaced(l);
}

void reference_even_out(struct lockstep *l)
{
    const struct cpu *leader = l->leader;
    struct cpu *cpu = l->follower;
    bool changed = false;
    if (!has_kvm(l) || (cpu->mmu.cr0 & CR0_PE))
        return;
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        changed |= cpu->seg[i].attr != leader->seg[i].attr;
        cpu->seg[i].attr = leader->seg[i].attr;
    }
    if (changed)
        reference_replaced(l);
}

uint64_t reference_undefined_flags(struct lockstep *l, uint64_t before)
{
    uint8_t bytes[15];
    struct insn in;
    const struct cpu *cpu = l->follower;
    if (!has_kvm(l) || insn_decode(&in, bytes, code_peek(l, cpu, cpu->rip, bytes), code_mode(cpu)) <= 0)
        return 0;
    return in.flags_undefined | (before & ~(uint64_t)in.flags_written);
}

bool reference_passes_by(struct lockstep *l)
{
    const struct cpu *cpu = l->leader;
    uint8_t bytes[15];
    struct insn in;
    if (!has_kvm(l) || atomic_load(&cpu->events) || cpu->halted || cpu->shutdown || refused_before(l) ||
        insn_decode(&in, bytes, code_peek(l, cpu, cpu->rip, bytes), code_mode(cpu)) <= 0)
        return false;
    uint64_t left = cpu->gpr[GPR_CX] & (in.addrsize == 8 ? ~0ull : in.addrsize == 4 ? 0xffffffff : 0xffff);
    return in.cls == INSN_STRING && (in.rep || in.repne) && left;
}

bool reference_doubtful(const struct lockstep *l)
{
    const struct reference *r = &l->reference;
    return r->kvm && r->by_kvm && !r->off && l->config->reference == LOCKSTEP_REFERENCE_AUTO &&
           !kvm_probe_steps()->works[KVM_MODE_PAGING32];
}

void reference_begin_again(struct lockstep *l)
{
    l->reference.off = true;
    l->follower = l->reference.bt;
    cpu_state_copy(l->follower, l->start);
    l->follower->interrupt_shadow = l->start->interrupt_shadow;
    reference_replaced(l);
}

void reference_was_wrong(struct lockstep *l)
{
    char text[96];
    if (l->outcome->kvm_differs++ >= REFERENCE_REASONS)
        return;
    fprintf(
        l->config->report,
        "ringfold: verify: this software KVM differs from bt, which agrees with itself, in the step of %04x:%" PRIx64
        ", %s\n",
        l->start->seg[SEG_CS].selector, l->start->rip, listing(l, l->start, text, sizeof text));
}

void reference_step_done(struct lockstep *l)
{
    l->reference.off = l->reference.by_kvm = false;
}

void reference_stop_at(struct lockstep *l, const struct cpu *at)
{
    if (has_kvm(l))
        engine_kvm.step_stop(l->reference.kvm, at);
}

/* ---- what it wrote ---- */

static bool entered(const struct memory_journal *j, uint64_t gfn)
{
    for (uint32_t i = 0; i < j->count && i < j->room; i++)
        if (j->gfns[i] == gfn)
            return true;
    return false;
}

/* A page that KVM wrote: what it held before is what the leader's held then. */
static void enter(struct lockstep *l, uint64_t gfn)
{
    struct memory_journal *j = &l->follower_journal;
    const struct memory_journal *lead = &l->leader_journal;
    const uint8_t *before = memory_page(l->memory, gfn).read;
    if (entered(j, gfn) || !before)
        return;
    for (uint32_t i = 0; i < lead->count && i < lead->room; i++)
        if (lead->gfns[i] == gfn)
            before = lead->before + (size_t)i * PAGE_SIZE;
    if (j->count < j->room) {
        j->gfns[j->count] = gfn;
        memcpy(j->before + (size_t)j->count * PAGE_SIZE, before, PAGE_SIZE);
    }
    j->count++;
}

void reference_collect(struct lockstep *l)
{
    struct memory *m = &l->mirror;
    static const uint64_t dirty = 0x0101010101010101ull * MEMORY_PAGE_DIRTY;
    if (!l->reference.uncollected)
        return;
    l->reference.uncollected = false;
    memory_log_sync(m, gpa(0), m->page_count << PAGE_SHIFT);
    for (uint64_t gfn = 0; gfn < m->page_count; gfn += 8) {
        uint64_t flags;
        if (!(gfn & ((1u << MEMORY_BLOCK_SHIFT) - 1)) && !m->blocks[gfn >> MEMORY_BLOCK_SHIFT]) {
            gfn += (1u << MEMORY_BLOCK_SHIFT) - 8;
            continue;
        }
        memcpy(&flags, (const void *)&m->flags[gfn], 8);
        for (unsigned i = 0; (flags & dirty) && i < 8; i++)
            if (flags >> (8 * i) & MEMORY_PAGE_DIRTY)
                enter(l, gfn + i);
    }
}
