/* SPDX-License-Identifier: MIT */
/* The guest's x87, XMM and YMM registers outlive every way from translated code into the monitor's C and back, in
 * builds with a sanitizer, too (BT_VECTORS_STAY in bt/slow.h). User code changes them all, takes one such way, and ends
 * with INT3. What goes through a gate does so twice: what is known of memory the second time is read in another way. */
#include "tests/flat_machine.h"
#include "tests/test.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#pragma weak engine_bt

enum { PAGE = NATIVE_PAGE, HOLE = 4 /* data page */, INTERRUPT = 30, PORT_INTERRUPT = 0x80, EFLAGS_IOPL_3 = 3 << 12 };
enum { X87_REGS = 32, XMM_REGS = 160, YMM_HALVES = 576, REG_BYTES = 16 };
enum { UNTOUCHED = 2 * PAGE + 0x100 }; /* where RDI points to in the data */

/* RBX is the address of a RET in a page of its own, RSI two bytes before a page's end, RBP in a page that the handler
 * of the page fault maps; RCX, RAX and the data are 0. The same bytes serve for both widths. */
struct way {
    const char *name, *code;
    unsigned len;
    bool narrow;      /* 32-bit code only: there data can be run */
    bool interrupted; /* by another thread (interrupt_twice) */
};
#define WAY(name, code)                                                                                                \
    {                                                                                                                  \
        name, code, sizeof(code) - 1, false, false                                                                     \
    }
static const struct way ways[] = {
    WAY("nothing", ""),
    WAY("a page's first access", "\x8b\x07"),                 /* mov eax, [rdi] */
    WAY("an access across a page's end", "\x89\x06\x8b\x06"), /* mov [rsi], eax; mov eax, [rsi] */
    WAY("an instruction in C", "\x0f\xa2"),                   /* cpuid */
    WAY("the time stamp counter", "\x0f\x31"),                /* rdtsc */
    WAY("a segment load", "\x8c\xd8\x8e\xd8"),                /* mov eax, ds; mov ds, eax */
    WAY("a repeated store", "\xb1\x08\xf3\xaa"),              /* mov cl, 8; rep stosb */
    WAY("a repeated move", "\xb1\x08\xf3\xa4"),               /* mov cl, 8; rep movsb, across a page's end */
    WAY("an instruction on the state's image", "\xd9\x37"),   /* fnstenv [rdi] */
    WAY("a jump to another page", "\xff\xd3\xff\xd3"),        /* call rbx, twice */
    WAY("ports", "\xe4\x80\xe4\x80"),                         /* in al, 0x80, twice */
    WAY("a device's interrupts", "\xe6\x80\xe6\x80"),         /* out 0x80, al, twice */
    WAY("divide errors", "\xf7\xf1\x31\xc9\xf7\xf1"),         /* div ecx; xor ecx, ecx; div ecx */
    /* mov eax, [rdi]; movaps xmm1, [rdi + 1]; movaps xmm1, [rdi + 1] */
    WAY("protection errors of the host's", "\x8b\x07\x0f\x28\x4f\x01\x0f\x28\x4f\x01"),
    WAY("invalid opcodes", "\x0f\x0b\x0f\x0b"), /* ud2, twice */
    WAY("a page fault", "\x8b\x45\x00"),        /* mov eax, [rbp] */
    /* mov byte [edi], 0xc3; call edi; mov byte [edi], 0xc3; call edi */
    {"code that is written", "\xc6\x07\xc3\xff\xd7\xc6\x07\xc3\xff\xd7", 10, true, false},
    /* mov byte [rdi], 1; wait: cmp byte [rdi], 1; je wait; the same with 3 */
    {"interrupts", "\xc6\x07\x01\x80\x3f\x01\x74\xfb\xc6\x07\x03\x80\x3f\x03\x74\xfb", 16, false, true},
};

static void write_handlers(struct flat_machine *m)
{
    flat_machine_write_handler(m, 0, "\xb9\x01\x00\x00\x00", 5);  /* mov ecx, 1 */
    flat_machine_write_handler(m, 6, "\x83\x04\x24\x02", 4);      /* add dword [rsp], 2 */
    flat_machine_write_handler(m, 13, "\x58\x83\x04\x24\x04", 5); /* pop rax; add dword [rsp], 4 */
    flat_machine_write_handler(m, 14, "\x58\xe6\x81", 3);         /* pop rax; out 0x81, al */
    flat_machine_write_handler(m, INTERRUPT, "\xfe\x07", 2);      /* inc byte [rdi] */
}

static struct flat_machine *machine;
static struct cpu *interrupted;
static atomic_bool ended;

static void port_write(void *opaque, uint16_t port, uint64_t value, unsigned size)
{
    if (port == PORT_INTERRUPT)
        cpu_raise(interrupted, CPU_EVENT_INTR);
    else
        flat_machine_map_data(machine, HOLE, true);
}

static int acknowledge(void *opaque)
{
    cpu_lower(interrupted, CPU_EVENT_INTR);
    return INTERRUPT;
}

/* Beside the guest, which says in its data when it waits for an interrupt. */
static void *interrupt_twice(void *data)
{
    volatile uint8_t *waits = data;
    for (uint8_t n = 1; n <= 3; n += 2) {
        while (*waits != n && !atomic_load(&ended))
            sched_yield();
        cpu_raise(interrupted, CPU_EVENT_INTR);
    }
    return NULL;
}

/* fchs, and the doublewords of every XMM or YMM register's halves in reverse order. */
static uint8_t *emit_change(uint8_t *p, unsigned registers, bool avx)
{
    p = (uint8_t *)memcpy(p, "\xd9\xe0", 2) + 2;
    for (unsigned i = 0; i < registers; i++) {
        uint8_t low = i & 7, modrm = 0xc0 | low << 3 | low;
        if (avx) /* vpermilps ymm, ymm, 0x1b */
            p = (uint8_t *)memcpy(p, (uint8_t[]){0xc4, i < 8 ? 0xe3 : 0x43, 0x7d, 4, modrm, 0x1b}, 6) + 6;
        else if (i < 8) /* pshufd xmm, xmm, 0x1b */
            p = (uint8_t *)memcpy(p, (uint8_t[]){0x66, 0x0f, 0x70, modrm, 0x1b}, 5) + 5;
        else
            p = (uint8_t *)memcpy(p, (uint8_t[]){0x66, 0x45, 0x0f, 0x70, modrm, 0x1b}, 6) + 6;
    }
    return p;
}

static void change(uint8_t *xsave, unsigned registers, bool avx)
{
    xsave[X87_REGS + 9] ^= 0x80;
    for (unsigned at = 0; at < registers * REG_BYTES; at += REG_BYTES)
        for (unsigned i = 0; i < (avx ? 2 : 1); i++) {
            uint32_t *r = (uint32_t *)(xsave + (i ? YMM_HALVES : XMM_REGS) + at);
            uint32_t was[4] = {r[0], r[1], r[2], r[3]};
            for (unsigned k = 0; k < 4; k++)
                r[k] = was[3 - k];
        }
}

static void fill(uint8_t *xsave, bool avx)
{
    static const uint8_t control[] = {0x7f, 0x02 /* FCW */, 0, 0, 0xff /* tags: all valid */};
    static const uint8_t mxcsr[] = {0xc0, 0x9f}; /* FTZ, DAZ */
    memcpy(xsave, control, sizeof control);
    memcpy(xsave + 24, mxcsr, sizeof mxcsr);
    for (unsigned i = 0; i < 8 * REG_BYTES; i++)
        xsave[X87_REGS + i] = i % REG_BYTES < 10 ? (uint8_t)(i * 5 + 1) : 0;
    for (unsigned i = 0; i < 16 * REG_BYTES; i++) {
        xsave[XMM_REGS + i] = (uint8_t)(i * 7 + 3);
        xsave[YMM_HALVES + i] = avx ? (uint8_t)(i * 11 + 5) : 0;
    }
}

/* What differs, or NULL. */
static const char *compare(const uint8_t *a, const uint8_t *b)
{
    if (memcmp(a, b, 5) || memcmp(a + X87_REGS, b + X87_REGS, 8 * REG_BYTES))
        return "x87";
    if (memcmp(a + 24, b + 24, 4))
        return "MXCSR";
    if (memcmp(a + XMM_REGS, b + XMM_REGS, 16 * REG_BYTES))
        return "XMM";
    return memcmp(a + YMM_HALVES, b + YMM_HALVES, 16 * REG_BYTES) ? "YMM" : NULL;
}

static void run(struct flat_machine *m, const struct way *w, const uint8_t *expected)
{
    struct native_result out;
    pthread_t thread;
    memset(flat_machine_data(m), 0, 3 * PAGE);
    flat_machine_map_data(m, HOLE, false);
    atomic_store(&ended, false);
    if (w->interrupted)
        CU_ASSERT_FATAL(!pthread_create(&thread, NULL, interrupt_twice, flat_machine_data(m) + UNTOUCHED));
    CU_ASSERT(flat_machine_run(m, &out));
    atomic_store(&ended, true);
    if (w->interrupted)
        pthread_join(thread, NULL);
    cpu_lower(m->cpu, CPU_EVENT_INTR);
    CU_ASSERT_EQUAL(out.vector, 3);
    const char *differs = compare(out.state.xsave, expected);
    if (differs)
        printf("vectors: %u bits, window %d: %s, over %s\n", m->bits, m->cpu->mmu.window[0].base != NULL, differs,
               w->name);
    CU_ASSERT(differs == NULL);
}

static void take(struct flat_machine *m, const struct way *w, bool avx)
{
    static uint8_t code[NATIVE_CODE_PAGES * NATIVE_PAGE];
    unsigned registers = m->bits == 64 ? 16 : 8;
    struct native_state in = {.rip = NATIVE_CODE, .rflags = EFLAGS_USER | EFLAGS_IOPL_3};
    fill(in.xsave, avx);
    uint8_t expected[NATIVE_XSAVE_SIZE];
    memcpy(expected, in.xsave, sizeof expected);
    change(expected, registers, avx);
    memset(code, 0xcc, sizeof code);
    memcpy(emit_change(code, registers, avx), w->code, w->len);
    code[PAGE] = 0xc3;
    flat_machine_write_code(m, code);
    in.gpr[GPR_BX] = NATIVE_CODE + PAGE;
    in.gpr[GPR_SP] = NATIVE_DATA + 0x800;
    in.gpr[GPR_SI] = NATIVE_DATA + PAGE - 2;
    in.gpr[GPR_DI] = NATIVE_DATA + UNTOUCHED;
    in.gpr[GPR_BP] = NATIVE_DATA + HOLE * PAGE;
    for (int again = 0; again < 2; again++) { /* then by the translations of the first time */
        if (again)
            flat_machine_load_again(m, &in);
        else
            flat_machine_load(m, &in);
        run(m, w, expected);
    }
}

static void take_all(unsigned bits, int window)
{
    const struct engine_options options = {.verify_code = true, .window = window};
    const char *why = "the translator is not built in";
    struct flat_machine *m = &engine_bt ? flat_machine_create(bits, &engine_bt, &options, &why) : NULL;
    if (!m) {
        test_skip(why);
        return;
    }
    machine = m;
    interrupted = m->cpu;
    m->board.port_write = port_write;
    m->board.interrupt_ack = acknowledge;
    write_handlers(m);
    for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        if (bits == 64 && ways[i].narrow)
            continue;
        take(m, &ways[i], false);
        if (m->model.xcr0_mask & 4)
            take(m, &ways[i], true);
    }
    flat_machine_destroy(m);
}

static void narrow(void)
{
    take_all(32, WINDOW_NEVER);
    take_all(32, WINDOW_ALWAYS);
}

static void wide(void)
{
    take_all(64, WINDOW_NEVER);
    take_all(64, WINDOW_ALWAYS);
}

/* libc chooses its memory functions by the processor. Those for one with AVX-512 leave alone the registers that the
 * guest has; the suite runs once more with those that do not. */
static void with_older_functions(void)
{
    static const char name[] = "GLIBC_TUNABLES", older[] = "glibc.cpu.hwcaps=-AVX512VL,-AVX512F";
    static char *const arguments[] = {"unit", "vectors", NULL};
    const char *now = getenv(name);
    posix_spawn_file_actions_t quiet;
    pid_t child;
    int status = -1;
    if (now && !strcmp(now, older))
        return;
    posix_spawn_file_actions_init(&quiet);
    posix_spawn_file_actions_addopen(&quiet, 1, "/dev/null", O_WRONLY, 0);
    setenv(name, older, 1);
    if (!posix_spawn(&child, "/proc/self/exe", &quiet, NULL, arguments, environ))
        waitpid(child, &status, 0);
    unsetenv(name);
    posix_spawn_file_actions_destroy(&quiet);
    if (status)
        printf("vectors: %s=%s unit vectors shows what differs\n", name, older);
    CU_ASSERT_EQUAL(status, 0);
}

TEST_SUITE(vectors, {"they outlive what 32-bit code goes to C for", narrow},
           {"they outlive what 64-bit code goes to C for", wide},
           {"and both with other memory functions of libc", with_older_functions})
