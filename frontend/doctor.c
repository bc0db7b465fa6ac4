/* SPDX-License-Identifier: MIT */
/* `ringfold doctor`: what this host offers, and what to install for the rest. */
#include "frontend/cleanup.h"
#include "frontend/commands.h"
#include "frontend/doctor.h"
#include "frontend/options.h"

#include <cpuid.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static bool bt_can_run = true;

void doctor_line(enum mark mark, const char *subject, const char *fmt, ...)
{
    static const char *const marks[] = {"ok  ", "note", "BAD "};
    printf("  %s %-22s ", marks[mark], subject);
    va_list args;
    va_start(args, fmt);
    vprintf(fmt, args);
    va_end(args);
    putchar('\n');
}

static void need(bool have, const char *feature, const char *why)
{
    doctor_line(have ? MARK_OK : MARK_BAD, feature, "%s", have ? "present" : why);
    if (!have)
        bt_can_run = false;
}

static void check_cpu(void)
{
    unsigned a, b, c, d;
    char brand[49] = {0};
    for (unsigned i = 0; i < 3; i++)
        if (__get_cpuid(0x80000002 + i, &a, &b, &c, &d)) {
            const unsigned words[4] = {a, b, c, d};
            memcpy(brand + 16 * i, words, 16);
        }
    printf("CPU: %s\n", *brand ? brand : "unknown");
    a = b = c = d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    need(b & bit_BMI2, "BMI2", "missing; the translator needs it (Haswell, Zen or newer)");
    doctor_line(b & bit_AVX2 ? MARK_OK : MARK_NOTE, "AVX2", "%s",
                b & bit_AVX2 ? "present" : "missing; guests do without it");
    __get_cpuid(0x80000001, &a, &b, &c, &d);
    need(c & bit_LAHF_LM, "LAHF in 64-bit mode", "missing; the translator needs it");
    __get_cpuid(1, &a, &b, &c, &d);
    if (c & 1u << 31)
        doctor_line(MARK_NOTE, "hypervisor", "this host is itself a virtual machine");
}

static void check_file(const char *what, const char *package, const char *const *paths, bool needed)
{
    for (; *paths; paths++) {
        if (access(*paths, R_OK) == 0) {
            doctor_line(MARK_OK, what, "%s", *paths);
            return;
        }
    }
    doctor_line(needed ? MARK_BAD : MARK_NOTE, what, "not found; apt install %s", package);
}

static void check_firmware(void)
{
    static const char *const bios[] = {"/usr/share/seabios/bios-256k.bin", NULL};
    static const char *const vga[] = {"/usr/share/seabios/vgabios-stdvga.bin", NULL};
    static const char *const bochs[] = {"/usr/share/bochs/BIOS-bochs-latest", NULL};
    static const char *const ipxe[] = {"/usr/lib/ipxe/qemu/pxe-pcnet.rom", NULL};
    printf("Firmware (--kernel needs none):\n");
    check_file("SeaBIOS", "seabios", bios, true);
    check_file("VGA BIOS", "seabios", vga, true);
    check_file("Bochs BIOS", "bochsbios", bochs, false);
    check_file("iPXE for PCnet", "ipxe-qemu", ipxe, false);
}

static void check_limit(int which, const char *name, uint64_t enough, const char *why)
{
    struct rlimit limit;
    if (getrlimit(which, &limit))
        return;
    if (limit.rlim_cur == RLIM_INFINITY)
        doctor_line(MARK_OK, name, "unlimited");
    else
        doctor_line(limit.rlim_cur >= enough ? MARK_OK : MARK_NOTE, name, "%" PRIu64 "M%s%s",
                    (uint64_t)limit.rlim_cur >> 20, limit.rlim_cur >= enough ? "" : "; ",
                    limit.rlim_cur >= enough ? "" : why);
}

static void check_sysctl(const char *path, const char *name, long low, const char *why)
{
    long value;
    FILE *f = fopen(path, "re");
    if (!f)
        return;
    if (fscanf(f, "%ld", &value) == 1)
        doctor_line(value < low ? MARK_NOTE : MARK_OK, name, "%ld%s%s", value, value < low ? "; " : "",
                    value < low ? why : "");
    fclose(f);
}

static void check_memory(void)
{
    printf("Limits:\n");
    check_limit(RLIMIT_AS, "ulimit -v", 8ull << 30, "guests larger than that will not start");
    check_limit(RLIMIT_MEMLOCK, "ulimit -l", 0, "");
    check_sysctl("/proc/sys/vm/max_map_count", "vm.max_map_count", 65530, "lower than usual");
    FILE *f = fopen("/proc/sys/vm/overcommit_memory", "re");
    int mode = 0;
    if (f && fscanf(f, "%d", &mode) == 1)
        doctor_line(mode == 2 ? MARK_NOTE : MARK_OK, "vm.overcommit_memory", "%d%s", mode,
                    mode == 2 ? "; strict: large sparse tables may be refused" : "");
    if (f)
        fclose(f);
    /* The translator's tables: reserved, never all used; and code that is written and executed through two mappings. */
    void *p = mmap(NULL, 1ull << 32, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    need(p != MAP_FAILED, "reserve 4G of addresses", "refused; the translator needs address space");
    if (p != MAP_FAILED)
        munmap(p, 1ull << 32);
    p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    void *twice = p == MAP_FAILED ? MAP_FAILED : mremap(p, 0, 4096, MREMAP_MAYMOVE);
    bool executable = twice != MAP_FAILED && !mprotect(twice, 4096, PROT_READ | PROT_EXEC);
    need(executable, "code mapped twice", "refused by this system's policy; the translator needs it");
    if (twice != MAP_FAILED)
        munmap(twice, 4096);
    if (p != MAP_FAILED)
        munmap(p, 4096);
}

static bool in_path(const char *program)
{
    char path[4096];
    const char *p = getenv("PATH");
    while (p && *p) {
        size_t len = strcspn(p, ":");
        if (snprintf(path, sizeof path, "%.*s/%s", (int)len, p, program) < (int)sizeof path && access(path, X_OK) == 0)
            return true;
        p += len + (p[len] == ':');
    }
    return false;
}

static void check_programs(void)
{
    static const struct {
        const char *program, *package, *use;
    } programs[] = {{"qemu-system-i386", "qemu-system-x86", "comparisons"},
                    {"bochs", "bochs", "comparisons"},
                    {"mformat", "mtools", "floppy images of the tests"},
                    {"xorriso", "xorriso", "CD images of the tests"},
                    {"cpio", "cpio", "the test guest's initramfs"}};
    printf("Programs for comparing and testing (none is needed to run machines):\n");
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        bool have = in_path(programs[i].program);
        doctor_line(have ? MARK_OK : MARK_NOTE, programs[i].program, "%s%s", have ? "present" : "apt install ",
                    have ? "" : programs[i].package);
    }
}

int command_doctor(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        puts("Usage: ringfold doctor\n\nShows what this host offers: KVM and what it can run, CPU features, firmware, "
             "limits,\n"
             "and what to install for the rest. Exit status: 0 when the bt engine can run here, else 1.");
        return fflush(stdout) ? EXIT_HOST : 0;
    }
    if (argc > 1) {
        complain("doctor: %s: no such option", argv[1]);
        return EXIT_USAGE;
    }
    check_cpu();
    doctor_check_kvm();
    check_firmware();
    check_memory();
    check_programs();
    printf("\n%s\n",
           bt_can_run ? "The bt engine can run here." : "The bt engine can NOT run here, see the lines marked BAD.");
    if (fflush(stdout)) {
        complain("doctor: stdout: %s", strerror(errno));
        return EXIT_HOST;
    }
    return bt_can_run ? 0 : 1;
}
