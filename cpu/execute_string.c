/* SPDX-License-Identifier: MIT */
/* movs, cmps, stos, lods, scas, ins, outs with and without repeat prefixes, and xlat. SDM vol. 2, REP.
 *
 * A repeated instruction is done in runs: as many elements as lie in one page on either side, within the segment's
 * limit and without wrapping the address size. When both sides are host memory, a run is one string instruction of the
 * host, which has the same element order and therefore the same result for overlapping operands. What does not fit
 * (devices, page crossings, anything that is going to fault) goes element by element through cpu_read_seg and
 * cpu_write_seg, which also find the exact fault. Registers are brought up to date after every run, so a fault shows
 * the completed part.
 *
 * No libc and no vector registers: the guest's vector state may be live. */
#include "cpu/execute_internal.h"

enum {
    BYTES_PER_CALL = 64 * 1024, /* then interrupts get their chance */
    ELEMENTS_PER_CALL = 1024    /* the same for element by element work */
};

struct string_op {
    struct cpu *cpu;
    const struct insn *insn;
    uint64_t mask;  /* of the address size */
    unsigned size;  /* of an element */
    unsigned width; /* address size in bytes */
    bool down;      /* DF */
    bool repeated;
    bool use_si, use_di;
    enum seg source;
    unsigned rights;
    uint64_t bytes_done;
    unsigned elements_done;
};

/* One side of a run. */
struct string_side {
    uint8_t *host; /* first element to be handled */
    gpa_t addr;    /* of the lowest byte, for code */
    bool code;     /* a write must be reported */
};

enum run_result { RUN_FAULT, RUN_MORE, RUN_FINISHED };

static uint64_t si(const struct string_op *s)
{
    return s->cpu->gpr[GPR_SI] & s->mask;
}

static uint64_t di(const struct string_op *s)
{
    return s->cpu->gpr[GPR_DI] & s->mask;
}

static uint64_t count(const struct string_op *s)
{
    return s->cpu->gpr[GPR_CX] & s->mask;
}

/* n elements are done. */
static void advance(struct string_op *s, uint64_t n)
{
    uint64_t step = n * s->size;
    if (s->down)
        step = 0 - step;
    if (s->use_si)
        execute_write_gpr(s->cpu, GPR_SI, s->width, s->cpu->gpr[GPR_SI] + step);
    if (s->use_di)
        execute_write_gpr(s->cpu, GPR_DI, s->width, s->cpu->gpr[GPR_DI] + step);
    if (s->repeated)
        execute_write_gpr(s->cpu, GPR_CX, s->width, s->cpu->gpr[GPR_CX] - n);
    s->bytes_done += n * s->size;
}

/* ---- runs ---- */

/* How many elements from off on stay in the page of gva (the first element's address) and in the address space. */
static uint64_t room(const struct string_op *s, uint64_t off, uint64_t gva)
{
    uint64_t in_page = gva & PAGE_MASK, bytes, wrap;

    if (in_page + s->size > PAGE_SIZE)
        return 0;
    if (s->down) {
        bytes = in_page + s->size;
        wrap = off + s->size;
        if (wrap < off || wrap - 1 > s->mask)
            return 0;
    } else {
        bytes = PAGE_SIZE - in_page;
        wrap = s->mask - off + 1; /* 0: the whole 64-bit space is left */
        if (!wrap)
            wrap = bytes;
    }
    return (bytes < wrap ? bytes : wrap) / s->size;
}

/* Limits n to what one side can do at once; 0: not this way. A fault that turns up is none yet: the element-by-element
 * way meets it again when, and only when, it really happens. */
static uint64_t limit_run(struct string_op *s, enum seg seg, uint64_t off, bool write, uint64_t n, uint64_t *gva)
{
    uint64_t first, low = off, fit;

    if (cpu_segment_check(s->cpu, seg, off, s->size, write, &first))
        return 0;
    fit = room(s, off, first);
    if (n > fit)
        n = fit;
    if (!n)
        return 0;
    if (s->down)
        low = off - (n - 1) * s->size;
    if (n > 1 && cpu_segment_check(s->cpu, seg, low, (unsigned)(n * s->size), write, gva)) {
        n = 1;
        low = off;
    }
    *gva = first - (off - low);
    return n;
}

/* The host memory behind a run that starts (lowest byte) at gva. */
static bool find_host(struct string_op *s, uint64_t gva, uint64_t n, bool write, struct string_side *side)
{
    struct mmu *mmu = &s->cpu->mmu;
    struct mmu_fault fault;
    unsigned access = s->rights | (write ? MMU_WRITE : MMU_READ);

    if (s->cpu->accessed)
        return false; /* data breakpoints see every element */
    if (!cpu_long_mode(s->cpu))
        gva = (uint32_t)gva;
    const struct mmu_table_set *t = &mmu->view[mmu_view(mmu, access)];
    const uint64_t *table = write ? t->write : t->read;
    uint64_t delta = table[mmu_table_index(mmu, gva)];
    side->code = false;
    if (delta) {
        side->host = (uint8_t *)(uintptr_t)(gva + delta);
    } else {
        if (mmu_access(mmu, gva, access, &side->host, &side->addr, &fault) != MMU_OK)
            return false;
        uint64_t gfn = gpa_gfn(side->addr);
        side->code = write && gfn < mmu->mem->page_count && (mmu->mem->flags[gfn] & MEMORY_PAGE_CODE);
    }
    if (s->down)
        side->host += (n - 1) * s->size;
    return true;
}

static void report_code(struct string_op *s, const struct string_side *side, uint64_t n)
{
    if (side->code && cpu_code_written_hook)
        cpu_code_written_hook(s->cpu, side->addr, (unsigned)(n * s->size));
}

/* The host's string instruction with the guest's direction. */
#define HOST_STRING(s, instruction, ...)                                                                               \
    do {                                                                                                               \
        if ((s)->down)                                                                                                 \
            __asm__ volatile("std\n\t" instruction "\n\tcld" __VA_ARGS__);                                             \
        else                                                                                                           \
            __asm__ volatile(instruction __VA_ARGS__);                                                                 \
    } while (0)

#define BY_SIZE(s, prefix, name, ...)                                                                                  \
    do {                                                                                                               \
        switch ((s)->size) {                                                                                           \
        case 1:                                                                                                        \
            HOST_STRING(s, prefix name "b", __VA_ARGS__);                                                              \
            break;                                                                                                     \
        case 2:                                                                                                        \
            HOST_STRING(s, prefix name "w", __VA_ARGS__);                                                              \
            break;                                                                                                     \
        case 4:                                                                                                        \
            HOST_STRING(s, prefix name "l", __VA_ARGS__);                                                              \
            break;                                                                                                     \
        default:                                                                                                       \
            HOST_STRING(s, prefix name "q", __VA_ARGS__);                                                              \
            break;                                                                                                     \
        }                                                                                                              \
    } while (0)

static void host_movs(const struct string_op *s, uint8_t *to, const uint8_t *from, uint64_t n)
{
    BY_SIZE(s, "rep ", "movs", : "+D"(to), "+S"(from), "+c"(n) : : "memory", "cc");
}

static void host_stos(const struct string_op *s, uint8_t *to, uint64_t value, uint64_t n)
{
    BY_SIZE(s, "rep ", "stos", : "+D"(to), "+c"(n) : "a"(value) : "memory", "cc");
}

/* Compares up to n elements; *left: how many were not looked at. The result is AH and AL as lahf and seto leave them.
 */
#define CAPTURE "\n\tlahf\n\tseto %%al"
#define COMPARE_BY_SIZE(s, prefix, name, ...)                                                                          \
    do {                                                                                                               \
        switch ((s)->size) {                                                                                           \
        case 1:                                                                                                        \
            HOST_STRING(s, prefix name "b" CAPTURE, __VA_ARGS__);                                                      \
            break;                                                                                                     \
        case 2:                                                                                                        \
            HOST_STRING(s, prefix name "w" CAPTURE, __VA_ARGS__);                                                      \
            break;                                                                                                     \
        case 4:                                                                                                        \
            HOST_STRING(s, prefix name "l" CAPTURE, __VA_ARGS__);                                                      \
            break;                                                                                                     \
        default:                                                                                                       \
            HOST_STRING(s, prefix name "q" CAPTURE, __VA_ARGS__);                                                      \
            break;                                                                                                     \
        }                                                                                                              \
    } while (0)

/* Of n elements, how many of the first ones surely do not end a comparison upwards, by eight bytes at a time; less than
 * n. a is a string, or eight bytes to compare each eight with (`fixed`). Eight bytes take less than three cycles here,
 * and two an element by the host's own instruction, or half a one for bytes where it has fast ones
 * (CPUID.(EAX=7,ECX=1):EAX[12]), as measured on such a core. */
static uint64_t skip_alike(const struct string_op *s, const uint8_t *a, const uint8_t *b, uint64_t n, bool fixed)
{
    static const uint64_t ones[9] = {[1] = 0x0101010101010101, [2] = 0x0001000100010001, [4] = 0x100000001, [8] = 1};
    uint64_t low = ones[s->size], high = low << (s->size * 8 - 1), bytes = 0, end = (n - 1) * s->size;
    for (; bytes + 8 <= end; bytes += 8) {
        uint64_t x, y;
        __builtin_memcpy(&x, a + (fixed ? 0 : bytes), 8);
        __builtin_memcpy(&y, b + bytes, 8);
        x ^= y;
        if (s->insn->repne ? (x - low) & ~x & high /* one of the elements is zero */ : x)
            break;
    }
    return bytes / s->size;
}

static uint64_t host_cmps(const struct string_op *s, const uint8_t *a, const uint8_t *b, uint64_t *left)
{
    uint64_t skip = s->down ? 0 : skip_alike(s, a, b, *left, false);
    uint64_t result = 0, n = *left - skip;
    a += skip * s->size;
    b += skip * s->size;
    if (s->insn->repne)
        COMPARE_BY_SIZE(s, "repne ", "cmps", : "+S"(a), "+D"(b), "+c"(n), "+a"(result) : : "memory", "cc");
    else
        COMPARE_BY_SIZE(s, "repe ", "cmps", : "+S"(a), "+D"(b), "+c"(n), "+a"(result) : : "memory", "cc");
    *left = n;
    return result;
}

static uint64_t host_scas(const struct string_op *s, uint64_t value, const uint8_t *b, uint64_t *left)
{
    uint64_t all = value;
    for (unsigned bytes = s->size; bytes < 8; bytes *= 2)
        all = (all & (~0ull >> (64 - bytes * 8))) | all << bytes * 8;
    uint64_t skip = s->down ? 0 : skip_alike(s, (const uint8_t *)&all, b, *left, true);
    uint64_t result = value, n = *left - skip;
    b += skip * s->size;
    if (s->insn->repne)
        COMPARE_BY_SIZE(s, "repne ", "scas", : "+D"(b), "+c"(n), "+a"(result) : : "memory", "cc");
    else
        COMPARE_BY_SIZE(s, "repe ", "scas", : "+D"(b), "+c"(n), "+a"(result) : : "memory", "cc");
    *left = n;
    return result;
}

static void set_compare_flags(struct string_op *s, uint64_t captured)
{
    uint64_t flags = captured >> 8 & (FLAG_SF | FLAG_ZF | FLAG_AF | FLAG_PF | FLAG_CF);
    if (captured & 1)
        flags |= FLAG_OF;
    s->cpu->rflags = (s->cpu->rflags & ~(uint64_t)FLAGS_ARITH) | flags;
}

/* Did the element that was compared last end the repetition? */
static bool compare_ends(const struct string_op *s)
{
    if (!s->repeated)
        return true;
    return !(s->cpu->rflags & FLAG_ZF) != s->insn->repne;
}

/* ---- the instructions: each tries a run of at most n elements; what it did is in *did (0: element by element) ---- */

static void run_movs(struct string_op *s, uint64_t n, uint64_t *did)
{
    struct string_side from, to;
    uint64_t a, b;

    n = limit_run(s, s->source, si(s), false, n, &a);
    if (!n)
        return;
    uint64_t m = limit_run(s, SEG_ES, di(s), true, n, &b);
    if (!m)
        return;
    if (m != n && limit_run(s, s->source, si(s), false, m, &a) != m)
        return;
    if (!find_host(s, a, m, false, &from) || !find_host(s, b, m, true, &to))
        return;
    host_movs(s, to.host, from.host, m);
    report_code(s, &to, m);
    *did = m;
}

static void run_stos(struct string_op *s, uint64_t n, uint64_t *did)
{
    struct string_side to;
    uint64_t gva;

    n = limit_run(s, SEG_ES, di(s), true, n, &gva);
    if (!n || !find_host(s, gva, n, true, &to))
        return;
    host_stos(s, to.host, s->cpu->gpr[GPR_AX], n);
    report_code(s, &to, n);
    *did = n;
}

static void run_cmps(struct string_op *s, uint64_t n, uint64_t *did)
{
    struct string_side a, b;
    uint64_t ga, gb;

    n = limit_run(s, s->source, si(s), false, n, &ga);
    if (!n)
        return;
    uint64_t m = limit_run(s, SEG_ES, di(s), false, n, &gb);
    if (!m || (m != n && limit_run(s, s->source, si(s), false, m, &ga) != m))
        return;
    if (!find_host(s, ga, m, false, &a) || !find_host(s, gb, m, false, &b))
        return;
    uint64_t left = m;
    set_compare_flags(s, host_cmps(s, a.host, b.host, &left));
    *did = m - left;
}

static void run_scas(struct string_op *s, uint64_t n, uint64_t *did)
{
    struct string_side b;
    uint64_t gva;

    n = limit_run(s, SEG_ES, di(s), false, n, &gva);
    if (!n || !find_host(s, gva, n, false, &b))
        return;
    uint64_t left = n;
    set_compare_flags(s, host_scas(s, s->cpu->gpr[GPR_AX], b.host, &left));
    *did = n - left;
}

/* Port transfers: an element may change anything, so the run ends when the board has asked for attention. */
static bool board_wants_attention(const struct string_op *s)
{
    uint32_t events = atomic_load_explicit(&s->cpu->events, memory_order_relaxed);
    return events & (CPU_EVENT_KICK | CPU_EVENT_FLUSH | CPU_EVENT_RESET | CPU_EVENT_CODE);
}

static void store_element(uint8_t *to, uint64_t value, unsigned size)
{
    switch (size) {
    case 1:
        __builtin_memcpy(to, &value, 1);
        break;
    case 2:
        __builtin_memcpy(to, &value, 2);
        break;
    default:
        __builtin_memcpy(to, &value, 4);
        break;
    }
}

static uint64_t port_read(struct string_op *s)
{
    const struct cpu_board *board = s->cpu->board;
    uint16_t port = (uint16_t)s->cpu->gpr[GPR_DX];
    return board && board->port_read ? board->port_read(board->opaque, port, s->size) : ~0ull;
}

static void port_write(struct string_op *s, uint64_t value)
{
    const struct cpu_board *board = s->cpu->board;
    if (board && board->port_write)
        board->port_write(board->opaque, (uint16_t)s->cpu->gpr[GPR_DX], value, s->size);
}

static void run_ins(struct string_op *s, uint64_t n, uint64_t *did)
{
    struct string_side to;
    uint64_t gva;

    n = limit_run(s, SEG_ES, di(s), true, n, &gva);
    if (!n || !find_host(s, gva, n, true, &to))
        return;
    cpu_fpu_unload(s->cpu);
    while (*did < n) {
        store_element(to.host, port_read(s), s->size);
        to.host += s->down ? -(intptr_t)s->size : (intptr_t)s->size;
        ++*did;
        if (board_wants_attention(s))
            break;
    }
    report_code(s, &to, n);
}

static void run_outs(struct string_op *s, uint64_t n, uint64_t *did)
{
    struct string_side from;
    uint64_t gva;

    n = limit_run(s, s->source, si(s), false, n, &gva);
    if (!n || !find_host(s, gva, n, false, &from))
        return;
    cpu_fpu_unload(s->cpu);
    while (*did < n) {
        uint32_t value = 0;
        if (s->size == 1)
            __builtin_memcpy(&value, from.host, 1);
        else if (s->size == 2)
            __builtin_memcpy(&value, from.host, 2);
        else
            __builtin_memcpy(&value, from.host, 4);
        port_write(s, value);
        from.host += s->down ? -(intptr_t)s->size : (intptr_t)s->size;
        ++*did;
        if (board_wants_attention(s))
            break;
    }
}

/* ---- one element, in any circumstances ---- */

static int element_compare(struct string_op *s, uint64_t a, uint64_t b)
{
    uint64_t left = 1;
    const struct string_op up = {.insn = s->insn, .size = s->size};
    set_compare_flags(s, host_cmps(&up, (const uint8_t *)&a, (const uint8_t *)&b, &left));
    return CPU_OK;
}

static int element_ins(struct string_op *s)
{
    uint64_t v;
    /* The port must not be read when the store is going to fault. */
    if (execute_probe_write(s->cpu, SEG_ES, di(s), s->size))
        return CPU_FAULT;
    cpu_fpu_unload(s->cpu);
    v = port_read(s);
    return cpu_write_seg(s->cpu, SEG_ES, di(s), &v, s->size);
}

static int element(struct string_op *s)
{
    uint64_t a = 0, b = 0;

    unsigned kind = s->insn->opcode & 0xfe;

    /* cmps looks at ES:DI first: it shows when both operands fault. */
    if (kind == 0xa6 && cpu_read_seg(s->cpu, SEG_ES, di(s), &b, s->size))
        return CPU_FAULT;
    if (s->use_si && cpu_read_seg(s->cpu, s->source, si(s), &a, s->size))
        return CPU_FAULT;
    switch (kind) {
    case 0xa4: /* movs */
        return cpu_write_seg(s->cpu, SEG_ES, di(s), &a, s->size);
    case 0xa6: /* cmps */
        return element_compare(s, a, b);
    case 0xaa: /* stos */
        return cpu_write_seg(s->cpu, SEG_ES, di(s), &s->cpu->gpr[GPR_AX], s->size);
    case 0xac: /* lods */
        execute_write_gpr(s->cpu, GPR_AX, s->size, a);
        return CPU_OK;
    case 0xae: /* scas */
        if (cpu_read_seg(s->cpu, SEG_ES, di(s), &b, s->size))
            return CPU_FAULT;
        return element_compare(s, s->cpu->gpr[GPR_AX], b);
    case 0x6c:
        return element_ins(s);
    default: /* outs */
        cpu_fpu_unload(s->cpu);
        port_write(s, a);
        return CPU_OK;
    }
}

/* Single step and data breakpoints trap after each element. */
static bool traps_each_element(const struct cpu *cpu)
{
    return (cpu->rflags & FLAG_TF) || cpu->accessed;
}

/* A run, or one element. */
static enum run_result step(struct string_op *s)
{
    uint64_t n = s->repeated ? count(s) : 1, did = 0;
    bool compares = false;

    if (traps_each_element(s->cpu))
        n = 1;
    switch (s->insn->opcode & 0xfe) {
    case 0xa4:
        run_movs(s, n, &did);
        break;
    case 0xa6:
        run_cmps(s, n, &did);
        compares = true;
        break;
    case 0xaa:
        run_stos(s, n, &did);
        break;
    case 0xae:
        run_scas(s, n, &did);
        compares = true;
        break;
    case 0x6c:
        run_ins(s, n, &did);
        break;
    case 0x6e:
        run_outs(s, n, &did);
        break;
    default:
        break;
    }
    if (!did) {
        if (element(s))
            return RUN_FAULT;
        did = 1;
        s->elements_done++;
    }
    advance(s, did);
    if (!s->repeated || !count(s) || (compares && compare_ends(s)))
        return RUN_FINISHED;
    return RUN_MORE;
}

static int execute_xlat(struct cpu *cpu, const struct insn *insn)
{
    uint64_t off = (cpu->gpr[GPR_BX] + (cpu->gpr[GPR_AX] & 0xff)) & execute_size_mask(insn->addrsize);
    uint8_t value;

    if (cpu_read_seg(cpu, insn->mem.seg, off, &value, 1))
        return CPU_FAULT;
    execute_write_gpr(cpu, GPR_AX, 1, value);
    return done(cpu);
}

static void clear_upper_halves(struct string_op *s)
{
    unsigned kind = s->insn->opcode & 0xfe;
    bool stores = kind == 0xa4 || kind == 0xaa;

    execute_write_gpr(s->cpu, GPR_CX, 4, s->cpu->gpr[GPR_CX]);
    if (stores)
        execute_write_gpr(s->cpu, GPR_DI, 4, s->cpu->gpr[GPR_DI]);
    if (stores && s->use_si)
        execute_write_gpr(s->cpu, GPR_SI, 4, s->cpu->gpr[GPR_SI]);
}

int execute_string(struct cpu *cpu, const struct insn *insn)
{
    unsigned kind = insn->opcode & 0xfe;
    bool port = kind == 0x6c || kind == 0x6e;
    struct string_op s = {
        .cpu = cpu,
        .insn = insn,
        .mask = execute_size_mask(insn->addrsize),
        .size = port && insn->opsize > 4 ? 4 : insn->opsize,
        .width = insn->addrsize,
        .down = cpu->rflags & FLAG_DF,
        .repeated = insn->rep || insn->repne,
        .use_si = kind == 0xa4 || kind == 0xa6 || kind == 0xac || kind == 0x6e,
        .use_di = kind == 0xa4 || kind == 0xa6 || kind == 0xaa || kind == 0xae || kind == 0x6c,
        .source = insn->mem.seg,
        .rights = cpu_access_rights(cpu),
    };
    enum run_result result;
    uint64_t flags = cpu->rflags;

    if (insn->opcode == 0xd7)
        return execute_xlat(cpu, insn);
    if (port && cpu_port_check(cpu, (uint16_t)cpu->gpr[GPR_DX], s.size))
        return CPU_FAULT;
    if (s.repeated && s.width == 4 && cpu_code64(cpu) && cpu_model_string_start_clears_upper(cpu->model))
        clear_upper_halves(&s);
    if (s.repeated && !count(&s))
        return done(cpu);
    do {
        result = step(&s);
    } while (result == RUN_MORE && s.bytes_done < BYTES_PER_CALL && s.elements_done < ELEMENTS_PER_CALL &&
             !traps_each_element(cpu) && !board_wants_attention(&s));
    if (result == RUN_FAULT) {
        if (cpu_model_string_fault_restores_flags(cpu->model))
            cpu->rflags = flags; /* only comparisons have changed them */
        return CPU_FAULT;
    }
    return result == RUN_FINISHED ? done(cpu) : CPU_OK;
}
