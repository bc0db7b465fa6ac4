/* SPDX-License-Identifier: MIT */
/* The code cache of one vCPU: memory, blocks, the code map, chains and invalidation.
 *
 * Blocks are keyed by guest frame, mode and the linear page (translations hold absolute guest addresses; bt/move.h
 * changes them): a page record and a byte offset in it. The code map of the current address space is table[linear page]
 * -> page record, and the other way round invalid[page record] is 0 while it is in the code map.
 *
 * A block in host memory:
 *   entry - ENTRY_SAVED  restores the flags from the image (only when the block needs them), falls into
 *   entry                polls cpu->events, falls into
 *   body                 the first instruction
 * Direct jumps inside a linear page are chained (forward ones to the body, backward ones to the poll); everything else
 * comes in by a landing, which looks whether the block is meant (bt/landing.h). But the code map of window code changes
 * seldom: its direct jumps to other pages are chained as well, and unchained when the target's page leaves the code
 * map; and its indirect jumps go by jump maps (bt/jump_map.h). Invalidated code stays in memory until the whole cache
 * is flushed, so a block may invalidate itself and run on to its next exit. */
#ifndef RINGFOLD_BT_CACHE_H
#define RINGFOLD_BT_CACHE_H

#include "bt/vcpu.h"
#include "decoder/cache.h"

enum {
    BT_ENTRY_SAVED = 15,        /* bytes of the flag-restoring entry */
    BT_BLOCK_INSNS = 48,        /* of a block, as they come */
    BT_BLOCK_MAX_INSNS = 13 * 8 /* with several rounds of a loop (bt/translate_unroll.c) */
};

enum bt_record_window {
    BT_RECORD_NONE,
    BT_RECORD_ACCESS,       /* an access through the window, which can also be done by the tables */
    BT_RECORD_TARGET,       /* the look-up of an indirect jump's target in 64-bit code's jump maps (bt/jump_map.h) */
    BT_RECORD_POPPED_TARGET /* the same of a return that has popped it */
};

struct bt_insn_record { /* fault recovery: host offset of the first byte made from a guest instruction */
    uint16_t host_offset;
    uint16_t guest_offset : 14; /* of the instruction in the block */
    uint16_t flags_saved : 1;   /* the arithmetic flags are in the image rather than in EFLAGS */
    uint16_t stack_operand : 1; /* an address that is not canonical is #SS rather than #GP */
    uint16_t window;            /* enum bt_record_window */
};
_Static_assert(BT_BLOCK_MAX_INSNS * 15 < 1 << 14, "guest_offset holds every offset in a block");

/* A constant in translated code that depends on where the guest has the page (bt/move.h). A block's end with
 * BT_CONSTANT_END. */
enum bt_constant_form {
    BT_CONSTANT_END,
    BT_CONSTANT_U32, /* four bytes, zero-extended or used as they are */
    BT_CONSTANT_S32, /* four bytes, sign-extended */
    BT_CONSTANT_64,
    BT_CONSTANT_PINNED /* none: the block can only be made again */
};
enum bt_constant_unit {
    BT_ADDRESS,
    BT_PAGE_INDEX,
    BT_REGION_ENTRY /* address of the region table's entry for the BT_ADDRESS noted before */
};
struct bt_constant {
    uint16_t host_offset; /* from the block's entry */
    uint8_t form, unit;
};

struct bt_exit_record { /* a direct exit */
    uint64_t target_eip;
    uint32_t site;     /* offset in the cache of the rel32 to patch */
    uint32_t stub;     /* where it goes while not linked: an address in the cache, which is below 2 GiB */
    uint32_t block;    /* index of the block it belongs to */
    uint32_t target;   /* index of the block it is linked to, or was when that could be reached; 0: none */
    uint32_t next;     /* next exit with the same target */
    uint32_t far_page; /* the page record in whose far_exits it is, 0: none */
    uint32_t next_far;
    bool linked : 1;
    bool backward : 1, flags_saved : 1;
    bool far : 1;   /* to another page */
    bool plain : 1; /* to a translation in the mode with BT_MODE_PLAIN, which only such exits reach */
};
_Static_assert(sizeof(struct bt_exit_record) == 40, "there are many of them");

struct bt_block {
    uint64_t eip;            /* guest address of the first instruction (offset in CS) */
    uint64_t second_gfn;     /* a page-crossing instruction's other frame, or ~0 */
    uint32_t first_constant; /* numbers to change when the page moves */
    uint32_t entry;          /* executable address of the polling entry, which is below 2 GiB */
    uint16_t size;           /* host bytes from entry to the end of the cold part */
    uint16_t offset;         /* guest byte offset in the page */
    uint16_t length;         /* guest bytes */
    uint16_t record_count;
    uint8_t exit_count;
    uint8_t body;      /* offset of the body from entry */
    bool flags_in : 1; /* the arithmetic flags on entry matter */
    bool dead : 1;
    bool fits : 1;        /* the page behind a page-crossing instruction is that other frame, as far as is known */
    bool jump_target : 1; /* of an indirect jump, ever */
    uint32_t page;        /* index of its page record */
    uint32_t first_record, first_exit;
    uint32_t incoming;      /* first exit whose target this is */
    uint32_t next;          /* next block of the page */
    uint32_t next_near;     /* next one that begins in the same BT_NEAR bytes of the page */
    uint32_t landing;       /* index of its landings, 0: none */
    uint32_t next_crossing; /* next of the page's blocks whose instruction crosses into the following page */
};
_Static_assert(sizeof(struct bt_block) == 72, "there are many of them");

struct bt_page {
    uint64_t gfn;
    uint64_t lin; /* linear page number */
    uint64_t code_base;
    uint64_t code_limit;
    uint32_t mode;
    uint32_t blocks;   /* first block */
    uint32_t crossing; /* first block that is one page-crossing instruction: found only while its second page is the
                          one it was made from, which is looked at whenever the page enters the code map */
    uint32_t next_hash, next_frame;
    uint32_t far_exits; /* first exit of another page that is linked to a block here as if it were its own: window code.
                           Some may be linked no longer. Unlinked when the page leaves the code map. */
    uint64_t used;      /* time stamp counter when it last entered a code map */
    uint64_t lin_before; /* where it moved away from, or BT_NOWHERE */
    uint32_t frame;      /* index of its frame's record */
    /* By enum mmu_side, the one in force; bit: code in this BT_NEAR bytes of the page does not find parallel regions
     * (bt/translate_parallel.c). */
    uint64_t by_entries[2];
};
#define BT_NOWHERE (~0ull)

/* One guest frame with translations. */
struct bt_frame {
    uint64_t gfn;
    uint32_t pages; /* first page record */
    uint32_t next_hash;
    uint32_t live;      /* blocks that touch it */
    uint64_t bytes[64]; /* bitmap of the bytes translations were made from */
};

enum { BT_HASH = 1 << 13, BT_NEAR = 64 };

struct bt_glue {
    uintptr_t enter;              /* void (*)(uintptr_t host_code): C to translated code */
    uintptr_t exit;               /* flags in EFLAGS, reason in r11d */
    uintptr_t exit_saved;         /* flags in the image */
    uintptr_t chain, chain_saved; /* direct exit: r11d exit index, which tells rip */
    uintptr_t miss;  /* no such landing: r10 guest address; flags in the image: enter at miss + LANDING_SAVED, or as
                        a block at miss - BT_ENTRY_SAVED */
    uintptr_t event; /* a block's poll hit: r11 an address in the block */
    uintptr_t fault; /* exit with BT_EXIT_FAULT after a host signal, flags in EFLAGS */
    uintptr_t fault_saved;
    uintptr_t plain, plain_saved; /* the same with BT_EXIT_PLAIN */
    /* called, on the host stack (call_glue in bt/translate.h) */
    uintptr_t slow;                   /* memory: r10 address, r11d info; gives r10, r11 */
    uintptr_t post, post_saved;       /* after a write that went through the slow path */
    uintptr_t callout, callout_saved; /* r11 site */
    /* not called */
    uintptr_t resume; /* C, called by translated code, goes on at vcpu->resume_to */
};

/* bt/jump_map.h: where code of one region is. */
struct bt_jump_map {
    uint32_t *entry;     /* by bits 0-31 of the address; NULL: not made yet */
    uint8_t *parts;      /* by page: which parts of it have entries */
    uint32_t part_count; /* parts entered since its memory was last given back */
    uint16_t region;     /* bits 32-47 of its addresses */
};
enum { BT_JUMP_MAPS = 8 };

struct bt_site;
typedef uintptr_t bt_run_fn(struct bt_vcpu *v, const struct bt_site *site);

/* What places in translated code call C with. */
struct bt_site {
    bt_run_fn *run; /* bt_callout, or a quicker way (bt/quick.h) */
    uint32_t flags, operand;
    struct insn insn;
    uint32_t next_hash;
};
struct builder; /* bt/translate.h */
struct bt_cache {
    struct bt_vcpu *vcpu;
    struct builder *builder; /* the translator's, of one block at a time: too much for a thread's own */
    uint8_t *exec_view, *write_view;
    size_t size, used, glue_size;
    uint64_t allocated; /* the host has memory for so much of it */
    struct {
        uint64_t blocks, exits, records, constants, starts;
    } allocated_of;         /* the same of the tables below */
    uint32_t *invalid;      /* by page record: 1, or 0 while it is in the code map; in the low 2 GiB */
    struct bt_glue glue[4]; /* of 16/32-bit, of 64-bit code; of 64-bit code by enum mmu_window_kind's window */
    size_t glue_used;       /* of glue_size */
    struct bt_block *blocks;
    uint32_t block_count, block_max;
    struct bt_page *pages;
    uint32_t page_count, page_max;
    uint32_t (*starts)[PAGE_SIZE / BT_NEAR]; /* by page record: the first block that begins in each part of the page */
    struct bt_frame *frames;
    uint32_t frame_count, frame_max;
    struct bt_landing *landings; /* bt/landing.h */
    uint32_t landing_count;      /* at most one for each block */
    struct bt_exit_record *exits;
    uint32_t exit_count, exit_max;
    struct bt_insn_record *records;
    uint32_t record_count, record_max;
    struct bt_constant *constants;
    uint32_t constant_count, constant_max;
    struct insn_cache *decoded;
    struct bt_site *sites; /* what callouts carry out: one for each instruction that differs */
    uint32_t site_count, site_max;
    struct bt_site miss_site; /* what the miss glue calls C with */
    uint32_t page_hash[BT_HASH], frame_hash[BT_HASH], site_hash[BT_HASH];
    struct bt_exec_slot {
        uint32_t mode;
        uint64_t code_base;
        uint64_t code_limit;
        uint32_t *table;           /* page records, indexed as the shadow tables are (mmu_table_index) */
        uint64_t *filled, *global; /* linear pages with an entry: of the current address space, of all */
        uint32_t filled_count, global_count;
        uint32_t entered;    /* pages, since table had no memory */
        uint32_t generation; /* counts what it was used for */
        uint64_t used;       /* for replacement */
        uint32_t *jump;      /* its jump table (bt/landing.h) */
        uint16_t *jump_used; /* indices entered */
        uint32_t jump_count;
        uint32_t part_count;      /* of all maps */
        uint32_t next_map;        /* for replacement */
        uint32_t map_count;       /* of the maps, those that belong to a region: the first ones */
        struct bt_jump_map *maps; /* BT_JUMP_MAPS of them (bt/jump_map.h) */
    } slots[16];
    struct bt_jump_map maps[16][BT_JUMP_MAPS]; /* by slot */
    struct bt_exec_slot *jump_slot[2];         /* whose maps vcpu->jump_regions leads to, or NULL */
    uint32_t *jump_none;                       /* what it leads to else: a map without entries */
    struct bt_exec_slot *slot_hints[32];       /* by mode: where its slot was last */
    struct bt_parked *parked[MMU_PARKED + 1];  /* the last one is spare */
    bool wide;
    uint64_t slot_tick;
    struct bt_exec_slot *slot; /* the current mode's */
};

/* Code map entries of an address space that is not the current one. */
struct bt_parked {
    uint32_t count;
    struct bt_parked_entry {
        uint64_t page;
        uint32_t record, slot, generation;
    } entry[2048];
};

enum {
    BT_SITE_FPU_CHECK = 1,
    BT_SITE_ENDS_BLOCK = 2,
    BT_SITE_DIVIDE_ERROR = 4, /* raise #DE */
    BT_SITE_MODAL = 8         /* the mode may change without anybody saying so */
};

/* Allocates the vCPU and its cache in the low 2 GiB. wide: the guest may enter long mode. NULL with a reason in err. */
struct bt_vcpu *bt_cache_create(size_t cache_size, bool wide, char *err, size_t err_len);

/* The glue for translations of a mode (enum bt_mode_bits). */
static inline const struct bt_glue *bt_glue_of(const struct bt_cache *c, uint32_t mode)
{
    if ((mode & BT_MODE_CODE_MASK) != INSN_MODE_64)
        return &c->glue[0];
    if (!(mode & BT_MODE_WINDOW))
        return &c->glue[1];
    return &c->glue[bt_mode_user(mode) ? 2 : 3];
}

void bt_cache_destroy(struct bt_vcpu *v);
size_t bt_builder_size(void); /* in bytes; translate.c */

/* Chooses the exec slot for the vCPU's current mode. */
void bt_cache_select(struct bt_cache *c);
/* Forgets code map entries of all slots, as the TLB does: all, those of pages that are not global, or one page's. */
void bt_cache_unmap(struct bt_cache *c, enum mmu_flush_kind kind, uint64_t gva);
/* Another address space: see mmu->switched. */
void bt_cache_switch(struct bt_cache *c, int parked, int resumed);
/* Throws away every translation. Not while a block runs. */
void bt_cache_flush(struct bt_cache *c);
/* True when a translation might not find room any more. */
bool bt_cache_full(const struct bt_cache *c);

/* The page record for a frame in the vCPU's current mode: moved here from another linear page (bt/move.h) or made when
 * missing (0 when out of room). */
uint32_t bt_cache_page(struct bt_cache *c, uint64_t gfn, uint64_t lin);
/* The page record that the code map has for a linear address in the current mode, 0: none. */
static inline uint32_t bt_cache_mapped(const struct bt_cache *c, uint64_t lin)
{
    return c->slot->table[mmu_table_index(&c->vcpu->cpu.mmu, lin)];
}
/* The block of page p at a byte offset, or NULL; of page-crossing ones, one that fits. */
struct bt_block *bt_cache_find(struct bt_cache *c, uint32_t page, unsigned offset);
/* Makes the page what the code map has at lin. */
void bt_cache_map_page(struct bt_cache *c, uint64_t lin, uint32_t page, bool global);
/* For code at the end of what there is. */
static inline struct assembler bt_assembler(const struct bt_cache *c)
{
    return (struct assembler){
        .p = c->write_view + c->used, .end = c->write_view + c->size, .to_exec = c->exec_view - c->write_view};
}
/* Translated code was written up to end (writable view). */
void bt_cache_written_to(struct bt_cache *c, const uint8_t *end);
/* The site with these fields, made when there is none. The caller sees to it that there is room. */
struct bt_site *bt_cache_site(struct bt_cache *c, const struct bt_site *fields);
/* Enters a finished block: hash table, frame bitmaps, code flags of the guest's pages. */
void bt_cache_publish(struct bt_cache *c, struct bt_block *b);
/* The same for code that belongs to a block which nobody is to find: it goes and moves with the block's bytes. */
void bt_cache_attach(struct bt_cache *c, struct bt_block *b);
/* Not of page-crossing blocks. */
void bt_cache_link(struct bt_cache *c, uint32_t exit, struct bt_block *target);
/* The exit goes to its stub again; bt_cache_link_again links it to its target if that is where it leads, and may be. */
void bt_cache_unlink(struct bt_cache *c, uint32_t exit);
void bt_cache_link_again(struct bt_cache *c, uint32_t exit);
/* Nothing leads to the block any more. */
void bt_cache_kill(struct bt_cache *c, struct bt_block *b);
/* The frame's translations, or NULL. */
struct bt_frame *bt_cache_frame(struct bt_cache *c, uint64_t gfn);
/* Files a page record under another linear page. */
void bt_cache_refile(struct bt_cache *c, uint32_t page, uint64_t lin);
/* The guest's bytes changed: drops the blocks made from them. Returns true when any was dropped. */
bool bt_cache_written(struct bt_cache *c, uint64_t gfn, unsigned offset, unsigned len);
/* Drops all blocks of frames [first, last]. */
void bt_cache_drop_frames(struct bt_cache *c, uint64_t first, uint64_t last);
/* The block that a host address lies in, or NULL. */
struct bt_block *bt_cache_block_at(struct bt_cache *c, uintptr_t host);

/* glue.c: the flags image -> EFLAGS in exactly BT_ENTRY_SAVED bytes; scratch (r10-r12) is lost. image: where it is, for
 * 64-bit code; NULL: in r13. */
void bt_emit_restore_flags(struct assembler *a, const uint32_t *image, unsigned scratch);
/* EFLAGS -> the flags image. EFLAGS stay what they are, r11 is lost. */
void bt_emit_save_flags(struct assembler *a, const uint32_t *image);
/* glue.c: emits the fixed code at the start of the cache. */
void bt_glue_emit(struct bt_cache *c);
/* The same for 64-bit code of a window, which is open. Idempotent. */
void bt_glue_emit_window(struct bt_cache *c, enum mmu_window_kind kind);
/* 64-bit code of a window; flag-free, all of them. The entry of an address's region to a register; r15 has a count of
 * 32 in its low bits. */
void bt_emit_region(struct assembler *a, const uint64_t *regions, unsigned to, unsigned address);
/* The guest's RSP + n to a register. */
void bt_emit_stack_pointer(struct assembler *a, unsigned to, int32_t n);
/* The guest's RSP is to be what register `from` holds: the host's address for it to register `to`, and r15. */
void bt_emit_stack(struct assembler *a, const uint64_t *regions, unsigned to, unsigned from);

#endif
