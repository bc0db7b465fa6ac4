/* SPDX-License-Identifier: MIT */
/* The translator on small hand-assembled programs: flat 32-bit protected mode without paging, ended by HLT. */
#include "bt/vcpu.h"
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>

enum { CODE = 0x10000, DATA = 0x20000, STACK = 0x30000 };

struct rig {
    struct memory mem;
    struct cpu *cpu;
};

/* A board may use vector registers; the guest's must not suffer. */
static void use_vectors(void)
{
    __asm__ volatile("pcmpeqd %%xmm0, %%xmm0\n\tmovdqa %%xmm0, %%xmm3" : : : "xmm0", "xmm3");
}

static unsigned device_reads;
static uint64_t no_read(void *opaque, gpa_t addr, unsigned size)
{
    use_vectors();
    device_reads++;
    return 0x1122334455667788ull + addr.v;
}
static uint64_t last_write, last_address;
static void note_write(void *opaque, gpa_t addr, uint64_t value, unsigned size)
{
    last_write = value;
    last_address = addr.v;
}
static uint64_t port_read(void *opaque, uint16_t port, unsigned size)
{
    use_vectors();
    return port;
}
static void port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    last_write = value;
    last_address = port;
}
static int no_interrupt(void *opaque)
{
    return -1;
}
static void no_kick(void *opaque)
{
}
static const struct cpu_board board = {.port_read = port_read,
                                       .port_write = port_write,
                                       .mem_read = no_read,
                                       .mem_write = note_write,
                                       .interrupt_ack = no_interrupt,
                                       .kick = no_kick};

static void flat(struct segment *s, uint32_t attr)
{
    *s = (struct segment){.base = 0, .limit = 0xffffffff, .attr = attr, .selector = 8};
}

static bool rig_open(struct rig *r)
{
    static struct cpu_model model;
    char err[200];
    struct engine_options options = {.verify_code = true, .cache_size = 8 << 20};
    cpu_model_init(&model, false, false);
    if (memory_init(&r->mem, 4 << 20, err, sizeof err))
        return false;
    r->cpu = engine_bt.vcpu_create(&options, &r->mem, &model, &board, 0, err, sizeof err);
    if (!r->cpu)
        return false;
    cpu_reset(r->cpu);
    mmu_set_paging(&r->cpu->mmu, CR0_PE | CR0_ET | CR0_NE, CR4_OSFXSR | CR4_OSXMMEXCPT, 0);
    flat(&r->cpu->seg[SEG_CS], 0x9b | SEG_G | SEG_DB);
    for (int i = 0; i < SEG_COUNT; i++)
        if (i != SEG_CS)
            flat(&r->cpu->seg[i], 0x93 | SEG_G | SEG_DB);
    r->cpu->cpl = 0;
    r->cpu->rip = CODE;
    r->cpu->gpr[GPR_SP] = STACK;
    r->cpu->rflags = 2;
    engine_bt.state_replaced(r->cpu);
    return true;
}

static void rig_close(struct rig *r)
{
    engine_bt.vcpu_destroy(r->cpu);
    memory_destroy(&r->mem);
}

static enum engine_exit rig_run(struct rig *r, const void *code, size_t len)
{
    memcpy(r->mem.ram + CODE, code, len);
    return engine_bt.run(r->cpu);
}

#define RUN(r, ...)                                                                                                    \
    ({                                                                                                                 \
        static const uint8_t code_[] = {__VA_ARGS__, 0xf4};                                                            \
        rig_run(r, code_, sizeof code_);                                                                               \
    })

static void arithmetic(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov eax,5; mov ecx,7; add eax,ecx; mov [0x20000],eax; mov edx,[0x20000]; push edx; pop ebx */
    CU_ASSERT_EQUAL(
        RUN(&r, 0xb8, 5, 0, 0, 0, 0xb9, 7, 0, 0, 0, 0x01, 0xc8, 0xa3, 0, 0, 2, 0, 0x8b, 0x15, 0, 0, 2, 0, 0x52, 0x5b),
        ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], 12);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_BX], 12);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_SP], STACK);
    rig_close(&r);
}

static void loops_and_calls(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov ecx,100000; xor eax,eax; L: call f; dec ecx; jnz L; hlt; f: add eax,ecx; ret */
    CU_ASSERT_EQUAL(
        RUN(&r, 0xb9, 0xa0, 0x86, 1, 0, 0x31, 0xc0, 0xe8, 4, 0, 0, 0, 0x49, 0x75, 0xf8, 0xf4, 0x01, 0xc8, 0xc3),
        ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], (uint32_t)(100000ull * 100001 / 2));
    rig_close(&r);
}

static void flags_survive_memory(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* stc; mov [0x20001],eax (unaligned); adc eax,0; cmp eax,1; push eax; mov edx,[esp]; sete bl; pop eax */
    CU_ASSERT_EQUAL(RUN(&r, 0x31, 0xc0, 0xf9, 0xa3, 1, 0, 2, 0, 0x83, 0xd0, 0, 0x83, 0xf8, 1, 0x50, 0x8b, 0x14, 0x24,
                        0x0f, 0x94, 0xc3, 0x58),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], 1);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_BX] & 0xff, 1);
    CU_ASSERT(r.cpu->rflags & FLAG_ZF);
    rig_close(&r);
}

static void page_crossing(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov dword [0x20ffe], 0x44332211; mov eax,[0x20ffe]; add dword [0x20ffd], 0x100 */
    CU_ASSERT_EQUAL(RUN(&r, 0xc7, 5, 0xfe, 0x0f, 2, 0, 0x11, 0x22, 0x33, 0x44, 0xa1, 0xfe, 0x0f, 2, 0, 0x81, 5, 0xfd,
                        0x0f, 2, 0, 0, 1, 0, 0),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], 0x44332211);
    CU_ASSERT_EQUAL(r.mem.ram[0x20ffe], 0x12);
    CU_ASSERT_EQUAL(r.mem.ram[0x21001], 0x44);
    rig_close(&r);
}

static void device_memory(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov eax,[0x800000]; mov [0x800004], eax; in al,0x60; out 0x61,al */
    CU_ASSERT_EQUAL(RUN(&r, 0xa1, 0, 0, 0x80, 0, 0xa3, 4, 0, 0x80, 0), ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], 0x55667788 + 0x800000);
    CU_ASSERT_EQUAL(last_write, 0x55667788 + 0x800000);
    CU_ASSERT_EQUAL(last_address, 0x800004);
    rig_close(&r);
}

static void self_modifying(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov byte [next+1], 0x42; next: mov al, 0x11 -- the same block ahead of itself */
    CU_ASSERT_EQUAL(RUN(&r, 0xc6, 0x05, 0x08, 0, 1, 0, 0x42, 0xb0, 0x11), ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX] & 0xff, 0x42);
    rig_close(&r);
}

/* Accesses that share a look-up (bt/translate_group.c) where that look-up may not serve: a page's end between them,
 * device memory, code that the block itself runs next. */
static void access_groups(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov ebx,0x20ff8; mov dword [ebx],1; mov dword [ebx+8],2; add ebx,4; mov dword [ebx],3; mov eax,[ebx+4] */
    CU_ASSERT_EQUAL(RUN(&r, 0xbb, 0xf8, 0x0f, 2, 0, 0xc7, 3, 1, 0, 0, 0, 0xc7, 0x43, 8, 2, 0, 0, 0, 0x83, 0xc3, 4, 0xc7,
                        3, 3, 0, 0, 0, 0x8b, 0x43, 4),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], 2);
    CU_ASSERT_EQUAL(r.mem.ram[0x20ff8], 1);
    CU_ASSERT_EQUAL(r.mem.ram[0x20ffc], 3);
    CU_ASSERT_EQUAL(r.mem.ram[0x21000], 2);
    rig_close(&r);

    CU_ASSERT_FATAL(rig_open(&r));
    device_reads = 0;
    /* mov ebx,0x800000; push eax; pop eax; push dword [ebx]; mov [ebx+4],eax; pop ecx; mov edx,[ebx+8] */
    CU_ASSERT_EQUAL(RUN(&r, 0xbb, 0, 0, 0x80, 0, 0x50, 0x58, 0xff, 0x33, 0x89, 0x43, 4, 0x59, 0x8b, 0x53, 8),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(device_reads, 2);
    CU_ASSERT_EQUAL(last_address, 0x800004);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_CX], 0x55667788 + 0x800000);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_DX], 0x55667788 + 0x800008);
    rig_close(&r);

    CU_ASSERT_FATAL(rig_open(&r));
    /* mov ebx,next; mov byte [ebx+1],0x42; mov byte [ebx+3],0x43; next: mov al,0x11; mov ah,0x12 */
    CU_ASSERT_EQUAL(RUN(&r, 0xbb, 0x0d, 0, 1, 0, 0xc6, 0x43, 1, 0x42, 0xc6, 0x43, 3, 0x43, 0xb0, 0x11, 0xb4, 0x12),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX] & 0xffff, 0x4342);
    rig_close(&r);

    CU_ASSERT_FATAL(rig_open(&r)); /* the group ends with what these read */
    /* mov ebx,0x20000; mov eax,[ebx]; comisd xmm0,[ebx+8]; mov eax,[ebx+0x400]; comiss xmm0,[ebx+0x404] */
    CU_ASSERT_EQUAL(RUN(&r, 0xbb, 0, 0, 2, 0, 0x8b, 3, 0x66, 0x0f, 0x2f, 0x43, 8, 0x8b, 0x83, 0, 4, 0, 0, 0x0f, 0x2f,
                        0x83, 4, 4, 0, 0),
                    ENGINE_EXIT_HALT);
    rig_close(&r);
}

/* Two absolute addresses of 64-bit code whose difference overflows are no group: mov rax, [0x20000000];
 * mov rax, [0x8000000020000008] */
static void access_groups_far_apart(void)
{
    static const uint8_t code[] = {0x48, 0xa1, 0, 0, 0, 0x20, 0, 0, 0, 0, 0x48, 0xa1, 8, 0, 0, 0x20, 0, 0, 0, 0x80};
    const struct engine_options options = {.verify_code = true, .window = WINDOW_NEVER};
    const struct native_state in = {.rip = NATIVE_CODE, .rflags = EFLAGS_USER};
    uint8_t page[NATIVE_CODE_PAGES * NATIVE_PAGE] = {0};
    struct native_result r;
    const char *why;
    struct flat_machine *m = flat_machine_create(64, &engine_bt, &options, &why);
    if (!m) {
        test_skip(why);
        return;
    }
    memcpy(page, code, sizeof code);
    flat_machine_write_code(m, page);
    flat_machine_load(m, &in);
    CU_ASSERT(flat_machine_run(m, &r));
    CU_ASSERT_EQUAL(r.vector, 13);
    CU_ASSERT_EQUAL(r.state.rip, NATIVE_CODE + 10);
    flat_machine_destroy(m);
}

static void triple_fault(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    cpu_lidt(r.cpu, 0, 0);
    r.cpu->idtr.limit = 0;
    CU_ASSERT_EQUAL(RUN(&r, 0x31, 0xc9, 0xf7, 0xf1), ENGINE_EXIT_SHUTDOWN); /* xor ecx,ecx; div ecx */
    CU_ASSERT_EQUAL(r.cpu->rip, CODE + 2);
    rig_close(&r);
}

static void board_and_vectors(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov ecx,0x1234; movd xmm3,ecx; in al,0x10; out 0x11,al; mov eax,[0xfe000000]; movd ebx,xmm3 */
    CU_ASSERT_EQUAL(RUN(&r, 0xb9, 0x34, 0x12, 0, 0, 0x66, 0x0f, 0x6e, 0xd9, 0xe4, 0x10, 0xe6, 0x11, 0xa1, 0, 0, 0, 0xfe,
                        0x66, 0x0f, 0x7e, 0xdb),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_BX], 0x1234);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_AX], (uint32_t)(0x55667788 + 0xfe000000));
    CU_ASSERT_EQUAL(last_address, 0x11);
    CU_ASSERT_EQUAL(last_write, 0x10);
    rig_close(&r);
}

static void control_and_time(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    uint64_t cr0 = r.cpu->mmu.cr0;
    r.cpu->tsc_offset = 1ull << 40;
    /* mov eax,cr0; or eax,8; mov cr0,eax; mov esi,cr0; clts; mov edi,cr0; clts; mov cr0,edi; rdtsc; movd xmm3,ecx */
    CU_ASSERT_EQUAL(RUN(&r, 0x0f, 0x20, 0xc0, 0x83, 0xc8, 8, 0x0f, 0x22, 0xc0, 0x0f, 0x20, 0xc6, 0x0f, 0x06, 0x0f, 0x20,
                        0xc7, 0x0f, 0x06, 0x0f, 0x22, 0xc7, 0x0f, 0x31, 0x66, 0x0f, 0x6e, 0xd9),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_SI], cr0 | CR0_TS);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_DI], cr0);
    CU_ASSERT_EQUAL(r.cpu->mmu.cr0, cr0);
    uint64_t tsc = r.cpu->gpr[GPR_DX] << 32 | r.cpu->gpr[GPR_AX], now = __builtin_ia32_rdtsc() + (1ull << 40);
    CU_ASSERT(tsc <= now && now - tsc < 1ull << 40);
    rig_close(&r);
}

static void repeated_moves(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    for (unsigned i = 0; i < 64; i++)
        r.mem.ram[DATA + i] = (uint8_t)(i * 3 + 1);
    /* mov esi,DATA; mov edi,DATA+64; mov ecx,8; rep movsd; mov ecx,300; mov eax,0x5a; rep stosb */
    CU_ASSERT_EQUAL(RUN(&r, 0xbe, 0, 0, 2, 0, 0xbf, 64, 0, 2, 0, 0xb9, 8, 0, 0, 0, 0xf3, 0xa5, 0xb9, 0x2c, 1, 0, 0,
                        0xb8, 0x5a, 0, 0, 0, 0xf3, 0xaa),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_FALSE(memcmp(r.mem.ram + DATA, r.mem.ram + DATA + 64, 32));
    CU_ASSERT_EQUAL(r.mem.ram[DATA + 96], 0x5a);
    CU_ASSERT_EQUAL(r.mem.ram[DATA + 395], 0x5a);
    CU_ASSERT_EQUAL(r.mem.ram[DATA + 396], 0);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_SI], DATA + 32);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_DI], DATA + 396);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_CX], 0);
    rig_close(&r);
}

static void put(struct rig *r, uint32_t at, const char *code, size_t len)
{
    memcpy(r->mem.ram + at, code, len);
}
#define PUT(r, at, code) put(r, at, code, sizeof(code) - 1)

/* Two targets whose addresses differ above bit 15 only: jumps to one find the way to the other first. */
static void alike_targets(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    PUT(&r, 0x18000, "\x83\xc2\x01\xc3");             /* add edx,1; ret: needs no flags */
    PUT(&r, 0x28000, "\x9c\x58\x21\xc7\x09\xc6\xc3"); /* pushfd; pop eax; and edi,eax; or esi,eax; ret */
    /* mov ebp,1000; mov edi,-1; mov edx,0; mov esi,0
     * L: mov eax,0x18000; call eax; mov eax,0x28000; push next; mov cl,0x80; add cl,0x80; jmp eax
     * next: mov eax,0x18000; call eax; mov eax,0x28000; mov cl,0x80; add cl,0x80; mov [0x20000],edx; call eax
     * dec ebp; jnz L */
    CU_ASSERT_EQUAL(RUN(&r, 0xbd, 0xe8, 3, 0, 0, 0xbf, 0xff, 0xff, 0xff, 0xff, 0xba, 0, 0, 0, 0, 0xbe, 0, 0, 0, 0, 0xb8,
                        0, 0x80, 1, 0, 0xff, 0xd0, 0xb8, 0, 0x80, 2, 0, 0x68, 0x2c, 0, 1, 0, 0xb1, 0x80, 0x80, 0xc1,
                        0x80, 0xff, 0xe0, 0xb8, 0, 0x80, 1, 0, 0xff, 0xd0, 0xb8, 0, 0x80, 2, 0, 0xb1, 0x80, 0x80, 0xc1,
                        0x80, 0x89, 0x15, 0, 0, 2, 0, 0xff, 0xd0, 0x4d, 0x75, 0xcc),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_DX], 2000);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_DI] & FLAGS_ARITH, FLAG_CF | FLAG_PF | FLAG_ZF | FLAG_OF);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_SI] & FLAGS_ARITH, FLAG_CF | FLAG_PF | FLAG_ZF | FLAG_OF);
    rig_close(&r);
}

/* A call to another page, direct and by a register, while that page becomes another frame and the first one again. */
static void page_behind_a_call(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    uint32_t *directory = (uint32_t *)(r.mem.ram + 0x60000), *identity = (uint32_t *)(r.mem.ram + 0x61000);
    uint32_t *other = (uint32_t *)(r.mem.ram + 0x62000);
    directory[0] = 0x61003;
    directory[1] = 0x62003;
    for (uint32_t i = 0; i < 1024; i++)
        identity[i] = i << PAGE_SHIFT | 3;
    other[0] = 0x50003;
    PUT(&r, 0x50000, "\x83\xc3\x01\xc3");     /* add ebx,1; ret */
    PUT(&r, 0x51000, "\x81\xc3\0\1\0\0\xc3"); /* add ebx,0x100; ret */
    PUT(&r, 0x11000, "\xb9\3\0\0\0\xe8\xf6\xef\x3e\0\xb8\0\0\x40\0\xff\xd0\x49\x75\xf1\xc3");
    /* mov ecx,3; L: call 0x400000; mov eax,0x400000; call eax; dec ecx; jnz L; ret */
    /* mov ebx,0; mov eax,0x60000; mov cr3,eax; mov eax,cr0; or eax,1<<31; mov cr0,eax; call 0x11000
     * mov dword [0x62000],0x51003; invlpg [0x400000]; call 0x11000
     * mov dword [0x62000],0x50003; mov eax,cr3; mov cr3,eax; call 0x11000 */
    CU_ASSERT_EQUAL(RUN(&r, 0xbb, 0, 0, 0, 0, 0xb8, 0, 0, 6, 0, 0x0f, 0x22, 0xd8, 0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80,
                        0x0f, 0x22, 0xc0, 0xe8, 0xe3, 0x0f, 0, 0, 0xc7, 5, 0, 0x20, 6, 0, 3, 0x10, 5, 0, 0x0f, 1, 0x3d,
                        0, 0, 0x40, 0, 0xe8, 0xcd, 0x0f, 0, 0, 0xc7, 5, 0, 0x20, 6, 0, 3, 0, 5, 0, 0x0f, 0x20, 0xd8,
                        0x0f, 0x22, 0xd8, 0xe8, 0xb8, 0x0f, 0, 0),
                    ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_BX], 0x600 + 12);
    rig_close(&r);
}

/* A loop's jump back leads to what is there already: only the ways in and out are linked when they are first taken. */
static void known_targets(void)
{
    struct rig r;
    CU_ASSERT_FATAL(rig_open(&r));
    /* mov ecx,3; L: add ebx,1; dec ecx; jnz L */
    CU_ASSERT_EQUAL(RUN(&r, 0xb9, 3, 0, 0, 0, 0x83, 0xc3, 1, 0x49, 0x75, 0xfa), ENGINE_EXIT_HALT);
    CU_ASSERT_EQUAL(r.cpu->gpr[GPR_CX], 0);
    CU_ASSERT_EQUAL(bt_of(r.cpu)->stats.exits[BT_EXIT_CHAIN], 2);
    CU_ASSERT_EQUAL(bt_of(r.cpu)->stats.chains, 3);
    rig_close(&r);
}

TEST_SUITE(bt, {"arithmetic, loads, stores, the stack", arithmetic}, {"loops, calls, returns", loops_and_calls},
           {"jumps to what is there already", known_targets},
           {"flags survive the checks of memory accesses", flags_survive_memory},
           {"accesses across a page's end", page_crossing}, {"accesses to device memory", device_memory},
           {"self-modifying code in the running block", self_modifying},
           {"accesses that share a look-up, where it does not serve", access_groups},
           {"accesses whose distance overflows", access_groups_far_apart},
           {"a fault without handlers is a triple fault", triple_fault},
           {"the board's vector registers are its own", board_and_vectors},
           {"control registers and the time stamp counter", control_and_time},
           {"repeated moves and stores", repeated_moves},
           {"targets with equal low halves, and live flags", alike_targets},
           {"a call to a page that is mapped anew", page_behind_a_call})
