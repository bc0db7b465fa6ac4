/* SPDX-License-Identifier: MIT */
/* Virtual-8086 mode: the 16-bit machine it shows, what traps at each IOPL, interrupts out of it and IRET back into it,
 * ports by the permission map, and address wrap (SDM volume 3, chapter 20). CR4.VME is off. */
#include "lib/guest.h"

enum { SEGMENT = 0x1000, BASE = SEGMENT << 4, STACK = 0x2000 };

static uint8_t *const code = (uint8_t *)BASE;

static void frame_v86(struct trap *frame, unsigned iopl)
{
    memset(frame, 0, sizeof *frame);
    frame->cs = SEGMENT;
    frame->eip = 0;
    frame->eflags = FLAG_VM | 2 | iopl << 12;
    frame->ss = STACK;
    frame->esp = 0xfff0;
    frame->v86_ds = 0x3000;
    frame->v86_es = 0x3100;
    frame->v86_fs = 0x3200;
    frame->v86_gs = 0x3300;
}

/* Enters v8086 mode at the bytes given; they must end in a trap. The last byte run is always int 0x80 after them. */
static int run_frame(const void *bytes, size_t n, struct trap *frame)
{
    memcpy(code, bytes, n);
    code[n] = 0xcd;
    code[n + 1] = 0x80;
    return trap_call((void (*)(void *))enter_frame, frame);
}

/* With IOPL < 3 an int is #GP(0), so that marks the end there: the byte offset tells which it was. */
static bool run_ends(const char *name, const void *bytes, size_t n, unsigned iopl, int want, uint32_t error,
                     uint32_t ip)
{
    struct trap frame;
    frame_v86(&frame, iopl);
    int got = run_frame(bytes, n, &frame);
    bool right = got == want && (want == USER_DONE || trap.error == error) && trap.eip == ip &&
                 (trap.cs & 0xffff) == SEGMENT && (trap.eflags & FLAG_VM);
    check(right, name, "IOPL %u: got #%d error %x at %x:%x flags %x, expected #%d error %x at %x", iopl, got,
          trap.error, trap.cs & 0xffff, trap.eip, trap.eflags, want, error, ip);
    return right;
}

#define BYTES(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

static void sensitive(void)
{
    static const struct {
        const char *name;
        uint8_t bytes[6], n;
        bool iopl; /* sensitive to IOPL; otherwise always #GP(0) */
        bool always_ud;
    } cases[] = {
        {"cli", {0xfa}, 1, true, false},
        {"sti", {0xfb}, 1, true, false},
        {"pushf", {0x9c}, 1, true, false},
        {"pushfd", {0x66, 0x9c}, 2, true, false},
        {"popf", {0x9d}, 1, true, false},
        {"int 0x80", {0xcd, 0x80}, 2, true, false},
        {"hlt", {0xf4}, 1, false, false},
        {"mov cr0", {0x0f, 0x20, 0xc0}, 3, false, false},
        {"mov dr0", {0x0f, 0x21, 0xc0}, 3, false, false},
        {"lgdt", {0x0f, 0x01, 0x16, 0, 0}, 5, false, false},
        {"clts", {0x0f, 0x06}, 2, false, false},
        {"lmsw", {0x0f, 0x01, 0xf0}, 3, false, false},
        {"rdmsr", {0x0f, 0x32}, 2, false, false},
        {"lldt", {0x0f, 0x00, 0xd0}, 3, false, true},
        {"ltr", {0x0f, 0x00, 0xd8}, 3, false, true},
        {"str", {0x0f, 0x00, 0xc8}, 3, false, true},
        {"lar", {0x0f, 0x02, 0xc0}, 3, false, true},
        {"verr", {0x0f, 0x00, 0xe0}, 3, false, true},
        {"arpl", {0x63, 0xc0}, 2, false, true},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (unsigned iopl = 0; iopl < 4; iopl += 3) {
            if (cases[i].always_ud)
                run_ends(cases[i].name, cases[i].bytes, cases[i].n, iopl, UD, 0, 0);
            else if (!cases[i].iopl || iopl < 3)
                run_ends(cases[i].name, cases[i].bytes, cases[i].n, iopl, GP, 0, 0);
            else
                run_ends(cases[i].name, cases[i].bytes, cases[i].n, iopl, USER_DONE, 0,
                         cases[i].bytes[0] == 0xcd ? 2 : cases[i].n + 2);
        }
    run_ends("nop, then int", BYTES(0x90), 3, USER_DONE, 0, 3);
    run_ends("int3 goes through the IDT", BYTES(0xcc), 3, GP, BP * 8 + 2, 0);
    run_ends("smsw is allowed", BYTES(0x0f, 0x01, 0xe0), 3, USER_DONE, 0, 5);
}

static uint32_t pushed_word(struct trap *t, unsigned n)
{
    return *(uint16_t *)(((t->ss & 0xffff) << 4) + ((t->esp + 2 * n) & 0xffff));
}

static void machine16(void)
{
    struct trap frame;
    /* mov ax,0x1234; mov ds,ax; mov bx,ds; mov [0x10],ax; mov si,[0x10]; push cs; pop dx */
    frame_v86(&frame, 3);
    int got = run_frame(BYTES(0xb8, 0x34, 0x12, 0x8e, 0xd8, 0x8c, 0xdb, 0xa3, 0x10, 0, 0x8b, 0x36, 0x10, 0, 0x0e, 0x5a),
                        &frame);
    check(got == USER_DONE && (trap.ebx & 0xffff) == 0x1234 && (trap.esi & 0xffff) == 0x1234 &&
              (trap.edx & 0xffff) == SEGMENT && (trap.v86_ds & 0xffff) == 0x1234,
          "segment registers are paragraphs", "#%d bx %x si %x dx %x ds %x", got, trap.ebx, trap.esi, trap.edx,
          trap.v86_ds);
    check_equal("a store landed at segment * 16", *(uint16_t *)(0x12340 + 0x10), 0x1234);
    check((trap.v86_es & 0xffff) == 0x3100 && (trap.v86_fs & 0xffff) == 0x3200 && (trap.v86_gs & 0xffff) == 0x3300 &&
              (trap.ss & 0xffff) == STACK && (trap.esp & 0xffff) == 0xfff0,
          "the frame holds all segments", "es %x fs %x gs %x ss %x esp %x", trap.v86_es, trap.v86_fs, trap.v86_gs,
          trap.ss, trap.esp);
    /* The handler runs with null data segments; its own pushes are checked by the library having worked at all. */

    /* pushf at IOPL 3 shows IOPL 3 and no VM. */
    frame_v86(&frame, 3);
    run_frame(BYTES(0x9c), &frame);
    check_equal("pushf", pushed_word(&trap, 0) & 0x7fd5 & ~0xd5, 0x3000);
    /* popf at IOPL 3 changes IF, never IOPL or VM: push 0; popf; pushf. */
    frame_v86(&frame, 3);
    run_frame(BYTES(0x6a, 0x00, 0x9d, 0x9c), &frame);
    check_equal("popf keeps IOPL", pushed_word(&trap, 0), 0x3002);
    check(trap.eflags & FLAG_VM, "popf keeps VM", "%x", trap.eflags);
    frame_v86(&frame, 3);
    run_frame(BYTES(0x68, 0x00, 0x02, 0x9d, 0x9c, 0xfa), &frame);
    check_equal("popf sets IF", pushed_word(&trap, 0), 0x3202);

    /* A far call and return, a loop, a string move. */
    frame_v86(&frame, 3);
    /* 0: call far SEGMENT:000c; 5: mov cx,3; 8: loop 8; a: jmp 0010; c: mov bp,0x77; f: retf */
    got = run_frame(
        BYTES(0x9a, 0x0c, 0, SEGMENT & 0xff, SEGMENT >> 8, 0xb9, 3, 0, 0xe2, 0xfe, 0xeb, 0x04, 0xbd, 0x77, 0, 0xcb),
        &frame);
    check(got == USER_DONE && (trap.ebp & 0xffff) == 0x77 && (trap.ecx & 0xffff) == 0, "far call, loop",
          "#%d bp %x cx %x", got, trap.ebp, trap.ecx);
    frame_v86(&frame, 3);
    memcpy((void *)0x30000, "sixteen bits of text", 20);
    frame.ecx = 10;
    run_frame(BYTES(0xf3, 0xa5), &frame);
    check(!memcmp((void *)0x31000, "sixteen bits of text", 20) && (trap.ecx & 0xffff) == 0 && (trap.esi & 0xffff) == 20,
          "rep movsw", "cx %x si %x", trap.ecx, trap.esi);

    /* A word at offset ffff: #GP(0), or #SS(0) on the stack segment, as for any 64 KiB segment. */
    frame_v86(&frame, 3);
    run_ends("word at ffff", BYTES(0xa1, 0xff, 0xff), 3, GP, 0, 0);
    frame.ebp = 0xffff;
    got = run_frame(BYTES(0x8b, 0x46, 0x00), &frame);
    check(got == SS && trap.error == 0, "word at SS:ffff", "#%d", got);
    /* A 32-bit offset beyond ffff. */
    frame_v86(&frame, 3);
    frame.ebx = 0x10000;
    got = run_frame(BYTES(0x67, 0x8a, 0x03), &frame);
    check(got == GP && trap.error == 0, "32-bit offset beyond ffff", "#%d", got);
    /* ffff:0010 is 1 MiB (the A20 gate is open). */
    frame_v86(&frame, 3);
    frame.v86_ds = 0xffff;
    frame.ebx = 0x10;
    run_frame(BYTES(0x8b, 0x07), &frame);
    check_equal("ffff:0010 is 1 MiB", trap.eax & 0xffff, *(uint16_t *)0x100000);
    /* The stack wraps inside its segment. */
    frame_v86(&frame, 3);
    frame.esp = 0;
    run_frame(BYTES(0x68, 0x34, 0x12), &frame);
    check(*(uint16_t *)(STACK * 16 + 0xfffe) == 0x1234 && (trap.esp & 0xffff) == 0xfffe, "push at SP 0", "%x",
          trap.esp);
}

/* iret inside v8086 mode, at IOPL 3. */
static void iret16(void)
{
    struct trap frame;
    frame_v86(&frame, 3);
    /* push 0x3203; push cs; push 0x0009; iret; hlt; 9: cli (so that the int below is not interrupted) */
    int got = run_frame(BYTES(0x68, 0x03, 0x32, 0x0e, 0x6a, 0x08, 0xcf, 0xf4, 0xfa), &frame);
    check(got == USER_DONE && trap.eip == 11 && (trap.eflags & FLAG_CF), "iret in v8086 mode", "#%d at %x flags %x",
          got, trap.eip, trap.eflags);
    check_equal("iret keeps IOPL", trap.eflags >> 12 & 3, 3);
    frame_v86(&frame, 0);
    run_ends("iret with IOPL 0", BYTES(0xcf), 0, GP, 0, 0);
}

/* A monitor that emulates what the guest may not do: resumes v8086 mode from a handler, many times. */
static unsigned emulated;
static bool monitor(struct trap *frame)
{
    if (!(frame->eflags & FLAG_VM))
        return false;
    uint8_t *at = (uint8_t *)(((frame->cs & 0xffff) << 4) + (frame->eip & 0xffff));
    if (*at == 0xfa || *at == 0xfb) {
        emulated++;
        frame->eip++;
        return true;
    }
    if (*at == 0xcd && at[1] == 0x21) { /* reflect: a call of the guest's own handler at SEGMENT:0040 */
        uint32_t sp = (frame->esp - 6) & 0xffff, stack = (frame->ss & 0xffff) << 4;
        *(uint16_t *)(stack + sp) = frame->eip + 2;
        *(uint16_t *)(stack + sp + 2) = frame->cs;
        *(uint16_t *)(stack + sp + 4) = frame->eflags;
        frame->esp = (frame->esp & 0xffff0000) | sp;
        frame->eip = 0x40;
        return true;
    }
    if (*at == 0xcf) {
        uint32_t sp = frame->esp & 0xffff, stack = (frame->ss & 0xffff) << 4;
        frame->eip = *(uint16_t *)(stack + sp);
        frame->cs = *(uint16_t *)(stack + sp + 2);
        frame->esp = (frame->esp & 0xffff0000) | ((sp + 6) & 0xffff);
        return true;
    }
    return false;
}

static void monitored(void)
{
    struct trap frame;
    frame_v86(&frame, 0);
    frame.ecx = 1000;
    emulated = 0;
    static const uint8_t handler[] = {0x43, 0xcf}; /* inc bx; iret */
    memcpy(code + 0x40, handler, sizeof handler);
    trap_hooks[GP] = monitor;
    /* 0: cli; sti; int 0x21; loop 0; then int 0x80, which the monitor leaves alone */
    int got = run_frame(BYTES(0xfa, 0xfb, 0xcd, 0x21, 0xe2, 0xfa), &frame);
    trap_hooks[GP] = NULL;
    check(got == GP && emulated == 2000 && (trap.ebx & 0xffff) == 1000, "a monitor resumes the guest",
          "#%d emulated %u bx %x", got, emulated, trap.ebx);
}

static void ports(void)
{
    memset(tss.map, 0xff, sizeof tss.map);
    tss.map[0x80 / 8] = 0xfe;
    /* The map rules at every IOPL. */
    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        run_ends("port that the map denies", BYTES(0xe4, 0x81), iopl, GP, 0, 0);
        struct trap frame;
        frame_v86(&frame, iopl);
        int got = run_frame(BYTES(0xe4, 0x80, 0xf4), &frame);
        check(got == GP && trap.eip == 2, "port that the map allows", "IOPL %u: #%d at %x", iopl, got, trap.eip);
    }
    run_ends("word port that the map denies half", BYTES(0xe5, 0x80), 3, GP, 0, 0);
    memset(tss.map, 0xff, sizeof tss.map);
}

/* v8086 code behind paging: its addresses go through the page tables, as a DOS box's do. */
static void paged(void)
{
    uint32_t *directory = paging_identity(8);
    uint8_t *elsewhere = page_alloc();
    *paging_entry(directory, 0x30000) = (uint32_t)elsewhere | 7;
    *paging_entry(directory, 0x31000) = 0;
    *paging_entry(directory, BASE + 0x1000) = *paging_entry(directory, BASE) & ~PTE_U;
    paging_on(directory);
    struct trap frame;
    frame_v86(&frame, 3);
    frame.eax = 0x5678;
    run_frame(BYTES(0xa3, 0x20, 0), &frame);
    check_equal("a store goes through the page tables", *(uint16_t *)(elsewhere + 0x20), 0x5678);
    frame_v86(&frame, 3);
    int got = run_frame(BYTES(0x26, 0xa3, 0x20, 0), &frame);
    check(got == PF && trap.error == 6 && trap_cr2 == 0x31020 && trap.eip == 0, "page fault", "#%d error %x cr2 %x",
          got, trap.error, trap_cr2);
    frame_v86(&frame, 3);
    frame.eip = 0x1000;
    got = run_frame(BYTES(0x90), &frame);
    check(got == PF && (trap.error & ~16u) == 5, "supervisor page", "#%d error %x", got, trap.error);
    paging_off();
}

void guest_main(void)
{
    sensitive();
    machine16();
    iret16();
    monitored();
    ports();
    paged();
}
