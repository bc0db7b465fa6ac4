/* SPDX-License-Identifier: MIT */
/* The architectural state of a vCPU from one struct to another: an engine allocates its own, so a machine that changes
 * engines has two. What an engine derived (shadow tables, hooks) and the requests of other threads (events) stay. */
#include "cpu/internal.h"

static void copy_paging(struct mmu *to, const struct mmu *from)
{
    to->cr0 = from->cr0;
    to->cr3 = from->cr3;
    to->cr4 = from->cr4;
    to->efer = from->efer;
    for (unsigned i = 0; i < 4; i++)
        to->pdpte[i] = from->pdpte[i];
    to->a20_mask = from->a20_mask;
    mmu_flush(to, true);
}

void cpu_state_copy(struct cpu *to, struct cpu *from)
{
    cpu_fpu_unload(to);
    cpu_fpu_unload(from);
    __builtin_memcpy(to->gpr, from->gpr, sizeof to->gpr);
    to->rip = from->rip;
    to->next_rip = from->next_rip;
    to->rflags = from->rflags;
    to->cpl = from->cpl;
    to->interrupt_shadow = from->interrupt_shadow;
    to->halted = from->halted;
    to->tsc_offset = from->tsc_offset;
    __builtin_memcpy(to->seg, from->seg, sizeof to->seg);
    to->ldtr = from->ldtr;
    to->tr = from->tr;
    to->gdtr = from->gdtr;
    to->idtr = from->idtr;
    to->cr2 = from->cr2;
    to->cr8 = from->cr8;
    __builtin_memcpy(to->dr, from->dr, sizeof to->dr);
    to->fault = from->fault;
    to->shutdown = from->shutdown;
    to->nmi_blocked = from->nmi_blocked;
    to->smm = from->smm;
    to->msr = from->msr;
    to->xcr0 = from->xcr0;
    __builtin_memcpy(to->xsave, from->xsave, sizeof to->xsave);
    copy_paging(&to->mmu, &from->mmu);
    notify_mode_changed(to);
}
