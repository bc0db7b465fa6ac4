/* SPDX-License-Identifier: MIT */
/* What a vCPU left the guest for: port and memory accesses, MSRs that KVM does not know, and failures. */
#include "hw-assist/kvm_internal.h"

#include "cpu/internal.h"
#include "hw-assist/kvm_probe.h"

#include <stdio.h>
#include <string.h>

/* ---- ports ---- */

void kvm_exit_io(struct kvm_vcpu *v)
{
    const struct cpu_board *board = v->cpu.board;
    struct kvm_run *run = v->run;
    unsigned size = run->io.size;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    v->stats.io++;
    v->stats.string_io += run->io.count > 1;
    for (uint32_t i = 0; i < run->io.count; i++, data += size) {
        uint64_t value = 0;
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            memcpy(&value, data, size);
            board->port_write(board->opaque, run->io.port, value, size);
        } else {
            value = board->port_read(board->opaque, run->io.port, size);
            memcpy(data, &value, size);
        }
    }
}

/* ---- memory ---- */

/* The widest access a device gets, as cpu/access.c splits them. */
static unsigned chunk(uint64_t addr, unsigned left)
{
    if (left >= 8 && !(addr & 7))
        return 8;
    if (left >= 4 && (left == 4 || !(addr & 3)))
        return 4;
    if (left >= 2 && (left == 2 || !(addr & 1)))
        return 2;
    return 1;
}

static void write_part(struct kvm_vcpu *v, gpa_t addr, const uint8_t *data, unsigned size)
{
    const struct cpu_board *board = v->cpu.board;
    uint64_t value = 0;
    if (memory_page(v->vm->mem, gpa_gfn(addr)).write) { /* shadow RAM behind ROM */
        memory_write(v->vm->mem, addr, data, size);
        return;
    }
    memcpy(&value, data, size);
    board->mem_write(board->opaque, addr, value, size);
}

static void read_part(struct kvm_vcpu *v, gpa_t addr, uint8_t *data, unsigned size)
{
    const struct cpu_board *board = v->cpu.board;
    if (memory_page(v->vm->mem, gpa_gfn(addr)).read) { /* a page that could not become a slot */
        memory_read(v->vm->mem, addr, data, size);
        return;
    }
    uint64_t value = board->mem_read(board->opaque, addr, size);
    memcpy(data, &value, size);
}

void kvm_exit_mmio(struct kvm_vcpu *v)
{
    struct kvm_run *run = v->run;
    uint64_t addr = run->mmio.phys_addr;
    unsigned len = run->mmio.len > 8 ? 8 : run->mmio.len;
    v->stats.mmio++;
    for (unsigned at = 0, n; at < len; at += n) {
        n = chunk(addr + at, len - at);
        gpa_t masked = gpa((addr + at) & v->cpu.mmu.a20_mask);
        if (run->mmio.is_write)
            write_part(v, masked, run->mmio.data + at, n);
        else
            read_part(v, masked, run->mmio.data + at, n);
    }
}

void kvm_exit_posted(struct kvm_vcpu *v)
{
    struct kvm_coalesced_mmio_ring *ring = v->vm->memory.ring;
    if (!ring)
        return;
    unsigned at = ring->first;
    while (at < KVM_RING_ENTRIES && at != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
        const struct kvm_coalesced_mmio *w = &ring->coalesced_mmio[at];
        unsigned len = w->len > 8 ? 8 : w->len;
        v->stats.posted++;
        for (unsigned i = 0, n; i < len; i += n) {
            n = chunk(w->phys_addr + i, len - i);
            write_part(v, gpa((w->phys_addr + i) & v->cpu.mmu.a20_mask), w->data + i, n);
        }
        at = (at + 1) % KVM_RING_ENTRIES;
        __atomic_store_n(&ring->first, at, __ATOMIC_RELEASE);
    }
}

/* ---- MSRs ---- */

/* KVM asks about registers that it does not have; cpu/msr.c knows what the model has. It works on general registers,
 * which are not valid here, so they may be used. */
void kvm_exit_msr(struct kvm_vcpu *v, bool write)
{
    struct cpu *cpu = &v->cpu;
    struct kvm_run *run = v->run;
    uint8_t cpl = cpu->cpl;
    v->stats.msr_exits++;
    cpu->gpr[GPR_CX] = run->msr.index;
    cpu->gpr[GPR_AX] = (uint32_t)run->msr.data;
    cpu->gpr[GPR_DX] = run->msr.data >> 32;
    cpu->cpl = 0; /* KVM has checked it */
    int r = write ? cpu_wrmsr(cpu) : cpu_rdmsr(cpu);
    cpu->cpl = cpl;
    run->msr.error = r != CPU_OK;
    if (r == CPU_OK && !write)
        run->msr.data = (uint32_t)cpu->gpr[GPR_AX] | cpu->gpr[GPR_DX] << 32;
}

/* ---- failures ---- */

static const char *mode_name(const struct cpu *cpu)
{
    return cpu_real_mode(cpu)      ? "real mode"
           : cpu_v8086(cpu)        ? "virtual-8086 mode"
           : cpu_code64(cpu)       ? "64-bit mode"
           : cpu_long_mode(cpu)    ? "compatibility mode"
           : cpu->mmu.cr0 & CR0_PG ? "protected mode with paging"
                                   : "protected mode without paging";
}

static void describe_reason(const struct kvm_run *run, char *buf, size_t len)
{
    switch (run->exit_reason) {
    case KVM_EXIT_INTERNAL_ERROR:
        if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
            snprintf(buf, len, "this KVM cannot emulate an instruction");
        else
            snprintf(buf, len, "internal error %u of KVM", run->internal.suberror);
        break;
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(buf, len, "the processor refuses the guest's state (reason %llx)",
                 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        break;
    case KVM_EXIT_UNKNOWN:
        snprintf(buf, len, "the guest left for a reason unknown to KVM (%llx)",
                 (unsigned long long)run->hw.hardware_exit_reason);
        break;
    case KVM_EXIT_SHUTDOWN:
        snprintf(buf, len,
                 "this host's KVM has no 32-bit paging and the guest has switched it on; --engine=bt runs it");
        break;
    default:
        snprintf(buf, len, "exit reason %u is not known here", run->exit_reason);
        break;
    }
}

unsigned kvm_code_at_rip(struct cpu *cpu, uint8_t *code, unsigned max)
{
    uint64_t at = cpu->rip + (cpu_code64(cpu) ? 0 : cpu->seg[SEG_CS].base);
    unsigned n = 0;
    for (; n < max; n++) {
        struct mmu_fault fault;
        gpa_t a;
        uint64_t gva = cpu_long_mode(cpu) ? at + n : (uint32_t)(at + n);
        if (mmu_translate(&cpu->mmu, gva, MMU_EXEC | MMU_SUPERVISOR | MMU_PROBE, &a, &fault))
            break;
        uint8_t *page = memory_page(cpu->mmu.mem, gpa_gfn(a)).read;
        if (!page)
            break;
        code[n] = page[a.v & PAGE_MASK];
    }
    return n;
}

void kvm_exit_describe(struct kvm_vcpu *v, char *buf, size_t len)
{
    struct cpu *cpu = &v->cpu;
    char reason[160], bytes[3 * 15 + 1] = "";
    uint8_t code[15];
    unsigned n = kvm_code_at_rip(cpu, code, sizeof code);
    for (unsigned i = 0; i < n; i++)
        snprintf(bytes + 3 * i, sizeof bytes - 3 * i, " %02x", code[i]);
    describe_reason(v->run, reason, sizeof reason);
    snprintf(buf, len, "kvm: %s; %s, cs:rip %04x:%llx, cr0 %llx, cr3 %llx, cr4 %llx, efer %llx, code%s", reason,
             mode_name(cpu), cpu->seg[SEG_CS].selector, (unsigned long long)cpu->rip, (unsigned long long)cpu->mmu.cr0,
             (unsigned long long)cpu->mmu.cr3, (unsigned long long)cpu->mmu.cr4, (unsigned long long)cpu->mmu.efer,
             n ? bytes : " not there");
}

/* True when the instruction at rip is MOV CR0 that would switch paging on. */
static bool at_paging_switch(struct cpu *cpu)
{
    uint8_t code[4];
    unsigned n = kvm_code_at_rip(cpu, code, sizeof code);
    return n >= 3 && code[0] == 0x0f && code[1] == 0x22 && (code[2] & 0xf8) == 0xc0 && (cpu->gpr[code[2] & 7] & CR0_PG);
}

bool kvm_exit_is_missing_mode(struct kvm_vcpu *v)
{
    struct cpu *cpu = &v->cpu;
    const struct kvm_probe *p = kvm_probe();
    bool pae = cpu->mmu.cr4 & CR4_PAE;
    if (p->works[pae ? KVM_MODE_PAE : KVM_MODE_PAGING32] || cpu_real_mode(cpu) || (cpu->mmu.efer & EFER_LME))
        return false;
    return (cpu->mmu.cr0 & CR0_PG) || at_paging_switch(cpu);
}
