/* SPDX-License-Identifier: MIT */
/* The block builder, shared by the translate_*.c files. See translate.c for one block from end to end. */
#ifndef RINGFOLD_BT_TRANSLATE_H
#define RINGFOLD_BT_TRANSLATE_H

#include "bt/slow.h"
#include "bt/value.h"

struct builder;

/* Something emitted behind the block's hot path. */
struct cold {
    void (*emit)(struct builder *b, struct cold *c);
    unsigned insn;     /* index of the guest instruction */
    uint8_t *from[3];  /* rel32 places that lead here */
    uintptr_t back[2]; /* executable addresses to return to */
    bool eflags_valid, image_valid;
    uint32_t info; /* slow_info, or an exit index */
    uint64_t eip;
    unsigned address; /* register that holds the address */
    unsigned size;
    bool write;
    uint8_t group;  /* index of the access group */
    int32_t offset; /* of the access from the group's lowest address */
    void (*op)(struct builder *b, struct rm rm);
};

/* See translate_group.c. An address: the sum of two numbers that are unknown but have names, and one that is known. */
struct group_address {
    uint16_t base, index;
    uint8_t scale;
    int64_t offset;
};
struct access_group {
    uint16_t base, index;
    uint8_t scale;
    bool write;   /* one of the accesses writes */
    bool checked; /* the first one has been emitted: vcpu->group[] holds the host address of `low` */
    unsigned members;
    int64_t low, high; /* from the first byte to behind the last one; 512 bytes at most */
};
enum { GROUP_OPERAND, GROUP_STACK }; /* an instruction's accesses: its ModRM operand, the stack */
struct group_member {
    uint8_t group; /* index + 1, 0: none */
    uint8_t size;
    int64_t offset;
};

/* See translate_held.c. Host registers r10, r11, r12 are bits and indices 0, 1, 2. */
struct held_plan {
    bool managed;    /* the instruction leaves what is held alone, or works on it */
    bool loses_r11;  /* by this instruction's operand */
    uint8_t next[4]; /* the next instruction that reads guest R12-R15 while it can still be held; 0xff: none */
    uint8_t lost[2]; /* ... that takes r10 or r11 for itself */
};
struct held {
    bool used;        /* the block names a register that may be held */
    bool on;          /* the current instruction's operands are held */
    uint8_t guest[3]; /* the guest register in each, or GPR_NONE */
    uint8_t dirty;    /* the guest's place in memory has an older value */
    uint8_t busy;     /* part of the current instruction */
    struct held_plan plan[BT_BLOCK_MAX_INSNS];
};

/* See translate_region.c. */
enum region_kind { REGION_NOTHING, REGION_ENTRY, REGION_HOST };
/* A number, and one that was added to it since: what has the same id and the same `at` is equal. */
struct region_exact {
    uint32_t id;
    int64_t at;
};
/* What a scratch register is. */
struct region_fact {
    enum region_kind kind;
    unsigned used;            /* when */
    struct value of;          /* the region is that of this */
    uint64_t constant;        /* REGION_ENTRY: 1 + the region, when it is that of a constant instead */
    struct region_exact base; /* REGION_HOST: the host's address, and the bias, for a guest register with this */
    uint8_t guest;            /* REGION_HOST: that register, when it was made */
};
struct region_facts {
    struct region_fact in[3]; /* r10, r11, r12 */
    unsigned uses, last;      /* last: the block's last instruction that may have an operand here */
    uint32_t ids;
    struct values values;
    struct value value[GPR_COUNT]; /* of the guest registers now */
    struct region_exact exact[GPR_COUNT];
};

/* What is known of parallel regions (translate_parallel.c). */
enum { PARALLEL_FACTS = 6 };
struct parallel_facts {
    bool possible; /* in this block */
    unsigned count;
    struct value near[PARALLEL_FACTS]; /* the last ones that were looked at: in a parallel stretch */
};

/* Which file translates an instruction; WAY_C: a call into C does the whole of it. */
enum insn_way { WAY_PLAIN, WAY_CONTROL, WAY_FLAGS, WAY_STACK, WAY_STRING, WAY_SYSTEM, WAY_C };

struct builder {
    struct bt_vcpu *v;
    struct bt_cache *c;
    struct assembler a;
    const struct bt_glue *glue;
    uint32_t mode;
    bool wide;                     /* 64-bit code */
    uint64_t gfn, lin, second_gfn; /* of the block's first byte */
    uint64_t eip;                  /* of the block */
    struct insn insns[BT_BLOCK_MAX_INSNS];
    /* Of each instruction. A number made from this, or from eip or lin, that goes into host code is noted with
     * builder_constant, so that the translation can move to another address with its page (bt/move.h), or the block is
     * pinned with builder_pin. */
    uint64_t eip_at[BT_BLOCK_MAX_INSNS + 1]; /* and behind the last one */
    uint16_t live_out[BT_BLOCK_MAX_INSNS];
    enum insn_way way[BT_BLOCK_MAX_INSNS];
    unsigned count;
    unsigned rounds_end; /* instructions before this one are of rounds that another one follows (translate_unroll.c) */
    uint16_t live_in;
    struct bt_block *block;
    struct access_group groups[BT_GROUPS];
    unsigned group_count;
    struct group_member members[BT_BLOCK_MAX_INSNS][2];

    /* emission state */
    unsigned cur;
    const struct insn *in; /* insns[cur] */
    bool eflags_valid;     /* the guest's live flags are in EFLAGS */
    bool image_valid;      /* ... in the flags image; neither: nobody needs them */
    bool ended;            /* control cannot fall out of the last instruction */
    struct cold cold[BT_BLOCK_MAX_INSNS * 5 + 8];
    unsigned cold_count;
    struct held held;
    uint16_t narrow; /* guest registers that hold 32 bits, extended (translate_narrow.c) */
    struct region_facts region;
    struct parallel_facts parallel;
    uint32_t stack_drift; /* bytes that RSP may be away from where it was in its slot for sure (translate_window.c) */
};

/* translate.c */
/* Translates the block at cpu->rip, which is at `at` in guest-physical memory; page: its page record. bt_cache_full is
 * false. Returns the block, or NULL with cpu->fault set (fetch fault). Unloads the FPU now and then. */
struct bt_block *bt_translate(struct bt_vcpu *v, gpa_t at, uint32_t page);
/* Links the exits of a new block, of the current mode, that lead to what is there already, rather than when they are
 * first taken. */
void bt_link_known(struct bt_vcpu *v, const struct bt_block *b);
enum insn_way insn_way_of(const struct builder *b, const struct insn *in);
struct cold *builder_cold(struct builder *b, void (*emit)(struct builder *, struct cold *));
/* EFLAGS are about to be overwritten by the translator's own code before or inside the current instruction. */
void flags_clobber(struct builder *b);
/* The current instruction is about to run on the host: bring in the flags it reads or leaves partly alone. */
void flags_prepare(struct builder *b);
/* It has run. */
void flags_after(struct builder *b);
/* Flags live before the current instruction's effect but not written by it, or read by it. */
uint16_t flags_needed(const struct builder *b);
/* Calls glue, which keeps all registers but those that it says. In 64-bit code guest RSP goes to cpu->gpr for that. */
void call_glue(struct builder *b, uintptr_t glue);
/* The last bytes that were emitted, 8 of BT_CONSTANT_64, else 4, are a number that depends on the page's address. */
void builder_constant(struct builder *b, enum bt_constant_form form, enum bt_constant_unit unit);
/* The block holds such a number in a form that builder_constant has no word for. */
void builder_pin(struct builder *b);
/* mov reg, n and mov [rip of the vCPU], eip, noted. r11 may be lost by the latter. */
void guest_mov(struct builder *b, unsigned reg, uint64_t n, enum bt_constant_unit unit);
void guest_store_rip(struct builder *b, uint64_t eip);
void builder_record(struct builder *b);
/* The same for an access to the stack that the instruction implies. */
void builder_record_stack(struct builder *b);

/* The flags image in memory, or NULL: it is in r13. */
static inline uint32_t *flags_image(const struct builder *b)
{
    return b->wide ? &b->v->flags_image : NULL;
}

/* Behind a byte, and behind an instruction: not always where the next one of the block is (translate_unroll.c). */
static inline uint64_t next_eip(const struct builder *b, uint64_t eip, unsigned len)
{
    return b->wide ? eip + len : (uint32_t)(eip + len);
}
static inline uint64_t builder_next(const struct builder *b, unsigned n)
{
    return next_eip(b, b->eip_at[n], b->insns[n].len);
}

/* translate_unroll.c: when the block is a short loop, several rounds of it. */
void unroll_loop(struct builder *b);
/* Does a round of it end with the current instruction, and another one follow? */
static inline bool ends_round(const struct builder *b)
{
    return b->cur < b->rounds_end && b->eip_at[b->cur + 1] == b->eip;
}

/* translate_memory.c */
/* A guest operand whose address is in a register, with the table's delta in r11. */
struct rm checked_operand(unsigned address);
/* The host register that holds a guest general register, or NO_REG: it stays in cpu->gpr (some of 64-bit code's). */
unsigned host_gpr(const struct builder *b, unsigned guest);
/* Where such a one stays. */
struct rm gpr_rm(const struct builder *b, unsigned guest);
/* Whole registers between cpu->gpr and a scratch register; for guest registers that stay in memory. */
void gpr_load(struct builder *b, unsigned host, unsigned guest);
void gpr_store(struct builder *b, unsigned guest, unsigned host);
/* The same of the low two bytes, if size says so; r12 is lost then. */
void gpr_store_sized(struct builder *b, unsigned guest, unsigned host, unsigned size);
/* Code of a 64-bit window, BT_MODE_PLAIN's too: RSP is the host address of the guest's stack, so that host_gpr says
 * NO_REG for it, and the two above take the guest's from there and put it there (translate_window.c). */
static inline bool has_regions(const struct builder *b)
{
    return b->wide && (b->mode & BT_MODE_WINDOW);
}
/* OP_W in 64-bit code. */
static inline uint32_t wide_op(const struct builder *b)
{
    return b->wide ? OP_W : 0;
}
/* The offset (effective address) of the current instruction's operand into reg, truncated to the address size, or for
 * LEA with a smaller operand size perhaps to that. */
void memory_offset(struct builder *b, unsigned reg);
/* Emits address, check and table load for the ModRM operand, then op, then the cold part. size 0: insn's own. */
void memory_operand(struct builder *b, unsigned size, bool read, bool write, void (*op)(struct builder *, struct rm));
/* Stack access of size bytes at the linear address of ESP + delta. Write: the whole instruction is done in C when the
 * fast path fails, and goes on at the returned record's back[1], which the caller sets behind the instruction with
 * stack_done (else it ends the block). NULL: there is nothing to go on from. */
struct cold *stack_access(struct builder *b, int delta, unsigned size, bool write,
                          void (*op)(struct builder *, struct rm));
static inline void stack_done(const struct builder *b, struct cold *c)
{
    if (c)
        c->back[1] = asm_here(&b->a);
}
/* ESP += n by the stack's width, flag-free; r11 is lost. */
void stack_adjust(struct builder *b, int n);
/* bt, bts, btr, btc with a memory operand and a register: the bit number inside the element is in r12. */
bool memory_is_bit_string(const struct insn *in);
bool segment_is_flat(const struct builder *b, unsigned seg);

/* translate_held.c: guest registers that stay in memory, held in r10-r12 across instructions. All of these emit nothing
 * that touches flags, and do nothing in code that is not of a 64-bit window. */
/* Before the block's first instruction: what comes when. */
void held_plan(struct builder *b);
/* Before each instruction: stores what was written, where somebody may look. */
void held_before_insn(struct builder *b);
/* Before the block is left: nothing is held from here on. */
void held_end(struct builder *b);
/* The scratch register (r10-r12) is about to be written by the current instruction's own work. */
void held_lose(struct builder *b, unsigned host);
/* The registers of a memory operand keep their values until the current instruction has run. */
void held_keep(struct builder *b, struct rm rm);
/* Does the scratch register hold a guest register? */
static inline bool held_is(const struct builder *b, unsigned host)
{
    return b->held.on && b->held.guest[host - R10] != GPR_NONE;
}
/* Where a guest register is now: its host register, a scratch register, or NO_REG. */
unsigned held_host(const struct builder *b, unsigned guest);
/* While b->held.on: is it in a scratch register now? Or worth it? */
bool held_has(const struct builder *b, unsigned guest);
bool held_wants(const struct builder *b, unsigned guest);
/* The scratch register, of the host registers in the mask `allowed`, that has a guest register from here on. load: its
 * value is needed; write: the instruction writes it. */
enum { HELD_ANY = 1 << R10 | 1 << R11 | 1 << R12, HELD_BASE = 1 << R10 | 1 << R12 };
unsigned held_use(struct builder *b, unsigned guest, bool load, bool write, unsigned allowed);

/* translate_narrow.c: does the current instruction make the one register that it writes such a number? */
bool narrow_is_made(const struct builder *b);
/* Behind each instruction of window code, what builder.narrow is then; made: what that said. */
void narrow_follow(struct builder *b, bool made);
/* The first general register that an instruction writes by an operand, rAX of the short forms too. NULL: none. */
const struct insn_reg *written_register(const struct insn *in);

/* translate_region.c: what r10-r12 have to do with regions. Before the block, and when all may have changed: */
void region_begin(struct builder *b);
void region_forget(struct builder *b);
/* The host register gets another value. */
void region_lose(struct builder *b, unsigned host);
/* Does the scratch register hold something of that kind? */
bool region_is(const struct builder *b, unsigned host);
/* The entry of a constant's region to r11. False: that does not encode. */
bool region_load_constant(struct builder *b, uint64_t address);
/* Operands: the address in r10, which nothing needs any more behind the access, and disp; a guest register and disp;
 * the current instruction's, of two registers. The latter two if there is a better way than to compute the sum. */
struct rm region_passing(struct builder *b, int32_t disp);
bool region_single(struct builder *b, unsigned guest, int32_t disp, struct rm *rm);
bool region_indexed(struct builder *b, struct rm *rm);
/* The host register of a guest register that is an index, r12 if it has none of its own; NO_REG: it is in memory. */
unsigned region_index(struct builder *b, unsigned guest);
/* How far an access may be from the value that was looked up, without and with an index of 32 bits, times 8, that is
 * still to be added. */
#define REGION_REACH (56ull << 30)
#define REGION_REACH_BEFORE_INDEX (20ull << 30)
/* The value of base + index * scale + disp; index GPR_NONE: of one register. Neither is RSP. */
struct value region_operand_value(struct builder *b, unsigned base, unsigned index, int scale, int64_t disp);
/* Is a guest register known to be a number that, times scale, is far less than a slot's guards? */
bool region_is_short(const struct builder *b, unsigned guest, int scale);
/* Where a guest register of an address is: in one of the allowed scratch registers if it has no other. NO_REG: in
 * memory, this instruction's operands are not held. */
unsigned region_gpr(struct builder *b, unsigned guest, unsigned allowed);
/* The scratch register that is the host's address, and the bias, for the guest register less *at, by the region of x.
 */
unsigned region_find_host(struct builder *b, unsigned guest, struct value x, uint64_t reach, int64_t *at);
/* Makes one, of what the guest register holds, which is in `base`; entry: where the entry for x is in memory. NO_REG:
 * none is free for that. */
unsigned region_make_host(struct builder *b, unsigned guest, unsigned base, const void *entry, struct value x);
/* The guest register that a scratch register is the host's address for, or GPR_NONE. */
unsigned region_host_of(const struct builder *b, unsigned host);
/* Does an operand of the same registers come again in the block? */
bool region_comes_again(const struct builder *b);
/* Behind each instruction; narrow: narrow_is_made. */
void region_follow(struct builder *b, bool narrow);

/* translate_parallel.c: the same three operands where the current instruction goes by parallel regions. x: what is
 * looked at of the register and disp. */
void parallel_begin(struct builder *b);
bool parallel_is_used(const struct builder *b);
void parallel_forget(struct builder *b);
struct rm parallel_passing(struct builder *b, int32_t disp);
bool parallel_single(struct builder *b, unsigned guest, int32_t disp, struct value x, struct rm *rm);
bool parallel_indexed(struct builder *b, struct rm *rm);

/* translate_window.c: the same through the window, when the block's mode and the operand allow it. */
bool window_takes_operand(const struct builder *b);
bool window_takes_stack(const struct builder *b);
void window_operand(struct builder *b, void (*op)(struct builder *, struct rm));
void window_stack(struct builder *b, int delta, void (*op)(struct builder *, struct rm));
/* An access by the tables in code that has a window may stand for one that would have seen to r15. */
void window_done_without(struct builder *b);
/* 64-bit window code: the guest's RSP is to be what a register holds. Flag-free. */
void window_set_stack(struct builder *b, unsigned host);
/* Does the current instruction if it is one that moves RSP, or makes it another register's value, in a way of its own.
 */
bool window_moves_stack(struct builder *b);
/* The current instruction's operand, RSP and a displacement, as memory_offset. False: that does not encode. */
bool window_stack_offset(struct builder *b, unsigned reg);
/* push and pop of whole host registers, in place of stack_access and stack_adjust where window_pushes. */
bool window_pushes(const struct builder *b);
void window_push(struct builder *b, unsigned host);
void window_push_imm(struct builder *b, int32_t value);
void window_pop(struct builder *b, unsigned host);
/* Before the block, and behind each instruction: what is known of regions. */
void window_begin(struct builder *b);
void window_after_insn(struct builder *b);
/* The number of an address's page to a register, 64-bit code; flag-free, r12 is lost. */
void page_index(struct builder *b, unsigned to, unsigned address);
/* The table's entry for the address in a register to r11; r12 is lost in 64-bit code. EFLAGS are clobbered. */
void table_load(struct builder *b, unsigned address, bool write);

/* translate_group.c: accesses that share one look-up. */
void groups_find(struct builder *b);
/* Is the current instruction's operand (size 0: insn's own) or stack access one of a group? */
bool group_has_operand(struct builder *b, unsigned size);
bool group_has_stack(struct builder *b, unsigned size);
/* In place of memory_operand and stack_access. There is no cold part to come back from. */
void group_operand(struct builder *b, unsigned size, bool read, bool write, void (*op)(struct builder *, struct rm));
void group_stack(struct builder *b, int delta, unsigned size, bool write, void (*op)(struct builder *, struct rm));

/* translate_insn.c */
void translate_generic(struct builder *b);
bool translate_is_inline(const struct builder *b, const struct insn *in);
/* Calls C for the current instruction. */
void translate_callout(struct builder *b, uint32_t flags);
void callout_emit(struct builder *b, uint32_t flags);

/* translate_flags.c: cli, sti, cld, std, pushf, popf without leaving translated code. in may not be in b->insns yet. */
bool flags_insn_is_inline(const struct builder *b, const struct insn *in);
void translate_flags_insn(struct builder *b);

/* translate_system.c: the same for the time stamp counter, control registers, swapgs. */
bool system_insn_is_inline(const struct builder *b, const struct insn *in);
void translate_system(struct builder *b);

/* translate_string.c: string instructions without repeat, upwards. */
bool string_is_inline(const struct builder *b, const struct insn *in);
void translate_string(struct builder *b);

/* translate_control.c */
void op_store_r12(struct builder *b, struct rm rm);
void op_load_r12(struct builder *b, struct rm rm);
void op_load_kept(struct builder *b, struct rm rm);
void op_store_kept(struct builder *b, struct rm rm);
void translate_control(struct builder *b);
void translate_stack(struct builder *b);
void exit_direct(struct builder *b, uint64_t target);
/* To a translation of the current instruction, and of what follows it, without access groups and windows. */
void exit_plain(struct builder *b);
/* Makes an unlinked direct exit go by the jump table from now on: for targets that may not be linked. */
void bt_exit_by_table(struct bt_vcpu *v, uint32_t exit);
bool control_is_inline(const struct builder *b, const struct insn *in);
bool branch_is_counted(const struct insn *in); /* loop, loope, loopne, jcxz */
/* Where a direct branch, of the block's instructions, leads. */
uint64_t branch_target(const struct builder *b, unsigned n);
/* A branch behind which the block goes on: one of a round that another one follows; a conditional one in user code
 * through a window, which runs long enough for what may be translated in vain behind it. */
bool branch_goes_on(const struct builder *b, const struct insn *in);
bool stack_is_inline(const struct builder *b, const struct insn *in);

#endif
