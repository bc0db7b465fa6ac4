/* SPDX-License-Identifier: MIT */
/* What passes between the leader and the board, recorded; and the board that the follower sees, which is the record. */
#include "frontend/lockstep_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- the record ---- */

void record_free(struct record *r)
{
    free(r->items);
    free(r->data);
}

void record_reset(struct record *r)
{
    r->count = r->next = r->data_len = 0;
}

static bool grow(void **p, size_t *room, size_t need, size_t each)
{
    if (need <= *room)
        return true;
    size_t n = need * 2;
    void *q = realloc(*p, n * each);
    if (!q)
        return false;
    *p = q;
    *room = n;
    return true;
}

static void add(struct lockstep *l, struct record_item item)
{
    struct record *r = &l->record;
    item.a20 = machine_step_a20(l->machine);
    if (grow((void **)&r->items, &r->room, r->count + 1, sizeof *r->items))
        r->items[r->count++] = item;
    else
        r->failed = true;
}

/* ---- recording: the leader's view of the board ---- */

static uint64_t rec_port_read(void *opaque, uint16_t port, unsigned size)
{
    struct lockstep *l = opaque;
    uint64_t value = l->inner->port_read(l->inner->opaque, port, size);
    add(l, (struct record_item){.kind = RECORD_PORT_READ, .addr = port, .size = size, .result = value});
    return value;
}

static void rec_port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    struct lockstep *l = opaque;
    l->inner->port_write(l->inner->opaque, port, value, size);
    add(l, (struct record_item){.kind = RECORD_PORT_WRITE, .addr = port, .size = size, .value = value});
}

static uint64_t rec_mem_read(void *opaque, gpa_t addr, unsigned size)
{
    struct lockstep *l = opaque;
    uint64_t value = l->inner->mem_read(l->inner->opaque, addr, size);
    add(l, (struct record_item){.kind = RECORD_MEM_READ, .addr = addr.v, .size = size, .result = value});
    return value;
}

static void rec_mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    struct lockstep *l = opaque;
    l->inner->mem_write(l->inner->opaque, addr, value, size);
    add(l, (struct record_item){.kind = RECORD_MEM_WRITE, .addr = addr.v, .size = size, .value = value});
}

static int rec_interrupt_ack(void *opaque)
{
    struct lockstep *l = opaque;
    int vector = l->inner->interrupt_ack(l->inner->opaque);
    if (vector >= 0) /* else nothing happened */
        add(l, (struct record_item){.kind = RECORD_ACK, .result = (uint64_t)vector});
    return vector;
}

static void rec_kick(void *opaque)
{
    struct lockstep *l = opaque;
    l->inner->kick(l->inner->opaque);
}

static uint64_t rec_apic_base_read(void *opaque)
{
    struct lockstep *l = opaque;
    uint64_t value = l->inner->apic_base_read(l->inner->opaque);
    add(l, (struct record_item){.kind = RECORD_APIC_BASE_READ, .result = value});
    return value;
}

static int rec_apic_base_write(void *opaque, uint64_t value)
{
    struct lockstep *l = opaque;
    int r = l->inner->apic_base_write(l->inner->opaque, value);
    add(l, (struct record_item){.kind = RECORD_APIC_BASE_WRITE, .value = value, .result = (uint64_t)(int64_t)r});
    return r;
}

static int rec_cr8_read(void *opaque)
{
    struct lockstep *l = opaque;
    int value = l->inner->cr8_read(l->inner->opaque);
    add(l, (struct record_item){.kind = RECORD_CR8_READ, .result = (uint64_t)value});
    return value;
}

static void rec_cr8_write(void *opaque, unsigned tpr)
{
    struct lockstep *l = opaque;
    l->inner->cr8_write(l->inner->opaque, tpr);
    add(l, (struct record_item){.kind = RECORD_CR8_WRITE, .value = tpr});
}

static void rec_ferr(void *opaque, int level)
{
    struct lockstep *l = opaque;
    l->inner->ferr(l->inner->opaque, level);
    add(l, (struct record_item){.kind = RECORD_FERR, .value = (uint64_t)level});
}

static int rec_tsc_deadline(void *opaque, uint64_t tsc)
{
    struct lockstep *l = opaque;
    int r = l->inner->tsc_deadline(l->inner->opaque, tsc);
    add(l, (struct record_item){.kind = RECORD_DEADLINE, .value = tsc, .result = (uint64_t)(int64_t)r});
    return r;
}

static uint64_t rec_tsc_deadline_read(void *opaque)
{
    struct lockstep *l = opaque;
    uint64_t value = l->inner->tsc_deadline_read(l->inner->opaque);
    add(l, (struct record_item){.kind = RECORD_DEADLINE_READ, .result = value});
    return value;
}

/* It stands still while either runs. */
static uint64_t any_tsc(void *opaque)
{
    struct lockstep *l = opaque;
    return l->inner->tsc(l->inner->opaque);
}

/* ---- what the board does to memory ---- */

static void memory_written(void *opaque, gpa_t addr, const void *buf, uint64_t len)
{
    struct lockstep *l = opaque;
    struct record *r = &l->record;
    if (!grow((void **)&r->data, &r->data_room, r->data_len + len, 1)) {
        r->failed = true;
        return;
    }
    memcpy(r->data + r->data_len, buf, len);
    add(l, (struct record_item){.kind = RECORD_DMA, .addr = addr.v, .size = len, .data = r->data_len});
    r->data_len += len;
}

static void map_changed(void *opaque, uint64_t gfn, uint64_t count)
{
    struct lockstep *l = opaque;
    struct record *r = &l->record;
    struct record_item *last = r->count ? &r->items[r->count - 1] : NULL;
    if (last && last->kind == RECORD_MAP && last->addr + last->value == gfn)
        last->value += count;
    else
        add(l, (struct record_item){.kind = RECORD_MAP, .addr = gfn, .value = count});
}

/* ---- replaying: the follower's view ---- */

void record_drain(struct lockstep *l)
{
    struct record *r = &l->record;
    for (; r->next < r->count; r->next++) {
        const struct record_item *i = &r->items[r->next];
        if (i->kind == RECORD_DMA)
            memory_write(&l->mirror, gpa(i->addr), r->data + i->data, i->size);
        else if (i->kind == RECORD_MAP)
            mirror_map(l, i->addr, i->value);
        else
            break;
    }
}

bool record_used_up(const struct lockstep *l)
{
    const struct record *r = &l->record;
    size_t n = r->next;
    while (n < r->count && (r->items[n].kind == RECORD_DMA || r->items[n].kind == RECORD_MAP))
        n++;
    return n == r->count;
}

int record_next_interrupt(const struct lockstep *l)
{
    const struct record *r = &l->record;
    return r->next < r->count && r->items[r->next].kind == RECORD_ACK ? (int)r->items[r->next].result : -1;
}

static const char *const names[] = {[RECORD_PORT_READ] = "a read of port",
                                    [RECORD_PORT_WRITE] = "a write to port",
                                    [RECORD_MEM_READ] = "a read of device memory at",
                                    [RECORD_MEM_WRITE] = "a write to device memory at",
                                    [RECORD_ACK] = "an interrupt",
                                    [RECORD_APIC_BASE_READ] = "a read of IA32_APIC_BASE",
                                    [RECORD_APIC_BASE_WRITE] = "a write to IA32_APIC_BASE",
                                    [RECORD_CR8_READ] = "a read of CR8",
                                    [RECORD_CR8_WRITE] = "a write to CR8",
                                    [RECORD_FERR] = "a change of FERR#",
                                    [RECORD_DEADLINE] = "a write to IA32_TSC_DEADLINE",
                                    [RECORD_DEADLINE_READ] = "a read of IA32_TSC_DEADLINE"};

static void describe(char *buf, size_t len, const struct record_item *i)
{
    if (!i)
        snprintf(buf, len, "nothing more");
    else
        snprintf(buf, len, "%s 0x%" PRIx64 ", %" PRIu64 " bytes, value 0x%" PRIx64, names[i->kind], i->addr, i->size,
                 i->value);
}

/* The next item, which has to be this one. Its result. */
static uint64_t next(struct lockstep *l, struct record_item want, uint64_t otherwise)
{
    struct record *r = &l->record;
    record_drain(l);
    const struct record_item *i = r->next < r->count ? &r->items[r->next] : NULL;
    if (i && i->kind == want.kind && i->addr == want.addr && i->size == want.size && i->value == want.value) {
        r->next++;
        if ((l->follower->mmu.a20_mask == ~0ull) != i->a20)
            mmu_set_a20(&l->follower->mmu, i->a20);
        return i->result;
    }
    if (!l->mismatch[0]) {
        char wanted[100], is[100];
        describe(wanted, sizeof wanted, &want);
        describe(is, sizeof is, i);
        snprintf(l->mismatch, sizeof l->mismatch, "the reference made %s; the translated code made %s", wanted, is);
    }
    return otherwise;
}

static uint64_t rep_port_read(void *opaque, uint16_t port, unsigned size)
{
    return next(opaque, (struct record_item){.kind = RECORD_PORT_READ, .addr = port, .size = size}, ~0ull);
}

static void rep_port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    next(opaque, (struct record_item){.kind = RECORD_PORT_WRITE, .addr = port, .size = size, .value = value}, 0);
}

static uint64_t rep_mem_read(void *opaque, gpa_t addr, unsigned size)
{
    return next(opaque, (struct record_item){.kind = RECORD_MEM_READ, .addr = addr.v, .size = size}, ~0ull);
}

static void rep_mem_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    next(opaque, (struct record_item){.kind = RECORD_MEM_WRITE, .addr = addr.v, .size = size, .value = value}, 0);
}

static int rep_interrupt_ack(void *opaque)
{
    struct lockstep *l = opaque;
    cpu_lower(l->follower, CPU_EVENT_INTR);
    return (int)(int64_t)next(l, (struct record_item){.kind = RECORD_ACK}, ~0ull);
}

static void rep_kick(void *opaque)
{
}

static uint64_t rep_apic_base_read(void *opaque)
{
    return next(opaque, (struct record_item){.kind = RECORD_APIC_BASE_READ}, 0);
}

static int rep_apic_base_write(void *opaque, uint64_t value)
{
    return (int)(int64_t)next(opaque, (struct record_item){.kind = RECORD_APIC_BASE_WRITE, .value = value}, 0);
}

static int rep_cr8_read(void *opaque)
{
    return (int)next(opaque, (struct record_item){.kind = RECORD_CR8_READ}, 0);
}

static void rep_cr8_write(void *opaque, unsigned tpr)
{
    next(opaque, (struct record_item){.kind = RECORD_CR8_WRITE, .value = tpr}, 0);
}

static void rep_ferr(void *opaque, int level)
{
    next(opaque, (struct record_item){.kind = RECORD_FERR, .value = (uint64_t)level}, 0);
}

static int rep_tsc_deadline(void *opaque, uint64_t tsc)
{
    return (int)(int64_t)next(opaque, (struct record_item){.kind = RECORD_DEADLINE, .value = tsc}, 0);
}

static uint64_t rep_tsc_deadline_read(void *opaque)
{
    return next(opaque, (struct record_item){.kind = RECORD_DEADLINE_READ}, 0);
}

void record_init(struct lockstep *l)
{
    static const struct cpu_board recording = {.port_read = rec_port_read,
                                               .port_write = rec_port_write,
                                               .mem_read = rec_mem_read,
                                               .mem_write = rec_mem_write,
                                               .interrupt_ack = rec_interrupt_ack,
                                               .kick = rec_kick,
                                               .apic_base_read = rec_apic_base_read,
                                               .apic_base_write = rec_apic_base_write,
                                               .cr8_read = rec_cr8_read,
                                               .cr8_write = rec_cr8_write,
                                               .ferr = rec_ferr,
                                               .tsc_deadline = rec_tsc_deadline,
                                               .tsc_deadline_read = rec_tsc_deadline_read,
                                               .tsc = any_tsc};
    static const struct cpu_board replaying = {.port_read = rep_port_read,
                                               .port_write = rep_port_write,
                                               .mem_read = rep_mem_read,
                                               .mem_write = rep_mem_write,
                                               .interrupt_ack = rep_interrupt_ack,
                                               .kick = rep_kick,
                                               .apic_base_read = rep_apic_base_read,
                                               .apic_base_write = rep_apic_base_write,
                                               .cr8_read = rep_cr8_read,
                                               .cr8_write = rep_cr8_write,
                                               .ferr = rep_ferr,
                                               .tsc_deadline = rep_tsc_deadline,
                                               .tsc_deadline_read = rep_tsc_deadline_read,
                                               .tsc = any_tsc};
    l->recording = recording;
    l->replaying = replaying;
    l->recording.opaque = l->replaying.opaque = l;
    l->inner = l->leader->board;
    if (!l->inner->apic_base_read) { /* without a local APIC there is nothing to pass on */
        struct cpu_board *both[] = {&l->recording, &l->replaying};
        for (int i = 0; i < 2; i++) {
            both[i]->apic_base_read = NULL;
            both[i]->apic_base_write = NULL;
            both[i]->cr8_read = NULL;
            both[i]->cr8_write = NULL;
            both[i]->tsc_deadline = NULL;
            both[i]->tsc_deadline_read = NULL;
        }
    }
    l->leader->board = &l->recording;
    l->listener = (struct memory_listener){.map_changed = map_changed, .written = memory_written, .opaque = l};
    memory_add_listener(l->memory, &l->listener);
}
