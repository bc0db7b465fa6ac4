/* SPDX-License-Identifier: MIT */
/* One run of one suite under one engine: a process, its console on a pipe, its lines with their time of arrival. */
#include "frontend/bench.h"

#include "hw-assist/kvm_probe.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATH_LEN = 4096, MAX_WORDS = 64, LINE_LEN = 1024, GRACE_MS = 5000 };

struct command {
    const char *argv[MAX_WORDS];
    unsigned argc;
    char strings[16384]; /* what the words point into */
    size_t used;
    bool full;
    bool terminal; /* Bochs wants one for its standard streams; its console comes on COM1 */
};

struct run {
    pid_t child;
    int console, terminal, errors; /* the terminal's master side: drained; -1: none */
    uint64_t started, first_item;  /* 0: none yet */
    uint64_t mark, marked;         /* host time of the last bench-start; what passed until bench-stop, 0: no marks */
    char line[LINE_LEN];
    size_t len;
    struct bench_parsed items[BENCH_MAX_ITEMS];
    unsigned count;
    bool ended, error;
    char error_line[128];
};

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool can_run(const char *program)
{
    char path[PATH_LEN];
    for (const char *p = getenv("PATH"); p && *p;) {
        size_t len = strcspn(p, ":");
        if (snprintf(path, sizeof path, "%.*s/%s", (int)len, p, program) < (int)sizeof path && access(path, X_OK) == 0)
            return true;
        p += len + (p[len] == ':');
    }
    return false;
}

static bool file_missing(const struct bench_material *m, const char *name, char *why, size_t why_len)
{
    char path[PATH_LEN];
    snprintf(path, sizeof path, "%s/%s", m->folder, name);
    if (access(path, R_OK) == 0)
        return false;
    snprintf(why, why_len, "%s: %s (make bench-material%s makes it)", path, strerror(errno),
             m->bits == 64 ? "-64" : "");
    return true;
}

static const char *qemu_name(const struct bench_material *m)
{
    return m->bits == 64 ? "qemu-system-x86_64" : "qemu-system-i386";
}

/* Only the compute suite needs Debian's packages. */
static const char *archive_of(enum bench_suite suite)
{
    return bench_suite_names[suite == BENCH_COMPUTE ? BENCH_COMPUTE : BENCH_KERNEL];
}

const char *bench_missing(const struct bench_material *m, enum bench_engine engine, enum bench_suite suite, char *why,
                          size_t why_len)
{
    char initrd[64];
    if (suite == BENCH_NANO) {
        if (engine == BENCH_NATIVE)
            return "a bare-metal guest does not run on the host itself";
        if (engine == BENCH_BOCHS)
            return "its time stamp counter counts instructions, not cycles";
        if (file_missing(m, "nano.elf", why, why_len))
            return why;
    } else if (engine == BENCH_NATIVE) {
        if (file_missing(m, "program", why, why_len))
            return why;
    } else {
        snprintf(initrd, sizeof initrd, "%s.initrd", archive_of(suite));
        if (file_missing(m, "vmlinuz", why, why_len) || file_missing(m, initrd, why, why_len))
            return why;
    }
    if (engine == BENCH_TCG && !can_run(qemu_name(m))) {
        snprintf(why, why_len, "%s is not installed (package qemu-system-x86)", qemu_name(m));
        return why;
    }
    if (engine == BENCH_KVM && !kvm_probe_suffices(kvm_probe_choice(m->bits == 64), m->bits == 64, why, why_len))
        return why;
    if (engine == BENCH_BOCHS) {
        if (!can_run("bochs"))
            return "bochs is not installed (packages bochs and bochs-term)";
        snprintf(initrd, sizeof initrd, "bochs/%s.iso", bench_suite_names[suite]);
        if (file_missing(m, initrd, why, why_len)) {
            if (!can_run("xorriso"))
                return "xorriso is not installed, which make bench-material needs to make Bochs' CDs (package xorriso)";
            return why;
        }
    }
    return NULL;
}

/* ---- the command line ---- */

static void word(struct command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void word(struct command *c, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(c->strings + c->used, sizeof c->strings - c->used, fmt, args);
    va_end(args);
    if (c->argc >= MAX_WORDS - 1 || n < 0 || (size_t)n >= sizeof c->strings - c->used) {
        c->full = true;
        return;
    }
    c->argv[c->argc++] = c->strings + c->used;
    c->used += (size_t)n + 1;
}

static void words(struct command *c, const char *const *list)
{
    for (; *list; list++)
        word(c, "%s", *list);
}
#define WORDS(c, ...) words(c, (const char *const[]){__VA_ARGS__, NULL})

static void boot_linux(struct command *c, const struct bench_material *m, enum bench_suite suite, const char *dash)
{
    const char *items = m->items ? m->items : bench_suite_names[suite];
    word(c, "%skernel", dash);
    word(c, "%s/vmlinuz", m->folder);
    word(c, "%sinitrd", dash);
    word(c, "%s/%s.initrd", m->folder, archive_of(suite));
    word(c, "%sappend", dash);
    word(c, "console=ttyS0 quiet -- %s", items);
}

static void native_command(struct command *c, const struct bench_material *m, enum bench_suite suite)
{
    word(c, "%s/program", m->folder);
    WORDS(c, "--root");
    word(c, "%s/root", m->folder);
    if (!m->items) {
        word(c, "%s", bench_suite_names[suite]);
        return;
    }
    for (const char *p = m->items; *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        word(c, "%.*s", (int)len, p);
        p += len;
    }
}

static void ringfold_command(struct command *c, const struct bench_material *m, enum bench_engine engine,
                             enum bench_suite suite)
{
    word(c, "%s", m->ringfold);
    WORDS(c, "run", "--headless", "--no-reboot", "--debug-exit", "exact", "-m", "256M", "--cpu",
          m->bits == 64 ? "64" : "32");
    word(c, "--engine=%s", bench_engine_names[engine]);
    if (suite == BENCH_NANO) {
        WORDS(c, "--kernel");
        word(c, "%s/nano.elf", m->folder);
    } else {
        boot_linux(c, m, suite, "--");
    }
}

static void qemu_command(struct command *c, const struct bench_material *m, enum bench_suite suite)
{
    word(c, "%s", qemu_name(m));
    WORDS(c, "-accel", "tcg", "-M", "pc", "-m", "256", "-display", "none", "-serial", "stdio", "-monitor", "none",
          "-no-reboot", "-net", "none");
    if (suite == BENCH_VECTOR) /* its default processor has nothing newer than SSE3 */
        WORDS(c, "-cpu", "max");
    if (suite == BENCH_NANO) {
        WORDS(c, "-device", "isa-debug-exit,iobase=0xf4", "-kernel");
        word(c, "%s/nano.elf", m->folder);
    } else {
        boot_linux(c, m, suite, "-");
    }
}

/* The pipe's end that the child inherits is named by its number. */
static void bochs_command(struct command *c, const struct bench_material *m, enum bench_suite suite, int console)
{
    c->terminal = true;
    WORDS(c, "bochs", "-q", "-f");
    word(c, "%s/bochs/bochsrc", m->folder);
    WORDS(c, "-rc");
    word(c, "%s/bochs/go", m->folder);
    word(c, "com1: enabled=1, mode=file, dev=/dev/fd/%d", console);
    word(c, "ata0-master: type=cdrom, path=%s/bochs/%s.iso, status=inserted", m->folder, bench_suite_names[suite]);
}

static void build_command(struct command *c, const struct bench_material *m, enum bench_engine engine,
                          enum bench_suite suite, int console)
{
    memset(c, 0, sizeof *c);
    switch (engine) {
    case BENCH_NATIVE:
        native_command(c, m, suite);
        break;
    case BENCH_TCG:
        qemu_command(c, m, suite);
        break;
    case BENCH_BOCHS:
        bochs_command(c, m, suite, console);
        break;
    default:
        ringfold_command(c, m, engine, suite);
    }
}

/* ---- the process ---- */

static int open_terminal(char *name, size_t name_len)
{
    struct winsize size = {.ws_row = 40, .ws_col = 100};
    int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || grantpt(fd) || unlockpt(fd) || ptsname_r(fd, name, name_len) || ioctl(fd, TIOCSWINSZ, &size)) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

static void become(const struct command *c, int console, int errors, const char *terminal, pid_t parent)
{
    int input = open("/dev/null", O_RDONLY);
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(127);
    setsid();
    if (c->terminal) {
        input = open(terminal, O_RDWR);
        fcntl(console, F_SETFD, 0);
        dup2(input, 1);
        dup2(input, 2);
        setenv("TERM", "xterm", 1);
    } else {
        dup2(console, 1);
        dup2(errors, 2);
    }
    dup2(input, 0);
    execvp(c->argv[0], (char *const *)c->argv);
    dprintf(errors, "%s: %s\n", c->argv[0], strerror(errno));
    _exit(127);
}

static int start(struct run *r, struct command *c, int console_end)
{
    char terminal[64] = "";
    r->terminal = c->terminal ? open_terminal(terminal, sizeof terminal) : -1;
    if (c->terminal && r->terminal < 0)
        return -1;
    pid_t parent = getpid();
    r->started = now_ns();
    r->child = fork();
    if (r->child == 0)
        become(c, console_end, r->errors, terminal, parent);
    return r->child < 0 ? -1 : 0;
}

static void take_line(struct run *r, const struct bench_material *m)
{
    struct bench_parsed parsed;
    r->line[r->len] = 0;
    r->len = 0;
    if (m->verbose)
        fprintf(stderr, "    %s\n", r->line);
    switch (bench_parse_line(r->line, &parsed)) {
    case BENCH_LINE_ITEM:
        if (!r->first_item)
            r->first_item = now_ns();
        if (r->marked)
            parsed.value = (double)r->marked;
        r->marked = 0;
        if (r->count < BENCH_MAX_ITEMS)
            r->items[r->count++] = parsed;
        break;
    case BENCH_LINE_SKIP:
        if (r->count < BENCH_MAX_ITEMS)
            r->items[r->count++] = parsed;
        break;
    case BENCH_LINE_START:
        r->mark = now_ns();
        break;
    case BENCH_LINE_STOP:
        r->marked = now_ns() - r->mark;
        break;
    case BENCH_LINE_ERROR:
        r->error = true;
        snprintf(r->error_line, sizeof r->error_line, "%.127s", strstr(r->line, "bench-error ") + 12);
        break;
    case BENCH_LINE_END:
        r->ended = true;
        break;
    default:
        break;
    }
}

static void take(struct run *r, const struct bench_material *m, const char *data, ssize_t n)
{
    for (ssize_t i = 0; i < n; i++) {
        if (data[i] == '\n')
            take_line(r, m);
        else if (r->len < LINE_LEN - 1 && data[i] && data[i] != '\r')
            r->line[r->len++] = data[i];
    }
}

/* Reads until the console closes, the program says that it is done (and some time passed), or the time is up. */
static bool collect(struct run *r, const struct bench_material *m)
{
    uint64_t deadline = r->started + m->timeout_ns;
    struct pollfd fds[2] = {{.fd = r->console, .events = POLLIN}, {.fd = r->terminal, .events = POLLIN}};
    bool grace = false;
    for (;;) {
        char data[4096];
        uint64_t now = now_ns();
        if (r->ended && !grace) {
            deadline = now + GRACE_MS * 1000000ull;
            grace = true;
        }
        if (now >= deadline)
            return grace;
        int ready = poll(fds, 2, (int)((deadline - now) / 1000000 + 1));
        if (ready < 0 && errno != EINTR)
            return false;
        if (ready <= 0)
            continue;
        if (fds[1].revents && read(r->terminal, data, sizeof data) <= 0) {
            fds[1].fd = -1; /* Bochs has gone; what it sent is still in the pipe */
        }
        if (fds[0].revents) {
            ssize_t n = read(r->console, data, sizeof data);
            if (n == 0)
                return true;
            if (n > 0)
                take(r, m, data, n);
        }
    }
}

/* The last line on the child's standard error. */
static void last_words(int fd, char *text, size_t text_len)
{
    char data[4096];
    off_t size = lseek(fd, 0, SEEK_END);
    ssize_t n = pread(fd, data, sizeof data - 1, size > (off_t)sizeof data - 1 ? size - (off_t)sizeof data + 1 : 0);
    while (n > 0 && (data[n - 1] == '\n' || data[n - 1] == '\r'))
        n--;
    data[n > 0 ? n : 0] = 0;
    char *p = strrchr(data, '\n');
    snprintf(text, text_len, "%s", p ? p + 1 : data);
}

static int end(struct run *r, bool in_time, const struct bench_material *m, enum bench_suite suite, char *why,
               size_t why_len)
{
    int status = 0;
    kill(-r->child, SIGKILL); /* whoever is left; a child that has ended keeps its status */
    kill(r->child, SIGKILL);
    while (waitpid(r->child, &status, 0) < 0 && errno == EINTR)
        ;
    /* The nano guest ends with its library's line. */
    bool done = suite == BENCH_NANO ? r->count > 0 : r->ended;
    if (done && !r->error)
        return 0;
    if (r->error) {
        snprintf(why, why_len, "failed: %s", r->error_line);
    } else if (!in_time) {
        snprintf(why, why_len, "not done within %.0f s", (double)m->timeout_ns / 1e9);
    } else {
        last_words(r->errors, why, why_len);
        if (!*why)
            snprintf(why, why_len, "ended with status %d before it was done",
                     WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
    }
    return -1;
}

static void keep(const struct run *r, enum bench_engine engine, enum bench_suite suite,
                 struct bench_suite_results *results)
{
    for (unsigned i = 0; i < r->count; i++) {
        bool boot = !strcmp(r->items[i].name, "kernel-to-userland");
        if (boot && suite != BENCH_KERNEL)
            continue;
        struct bench_item *item = bench_item(results, r->items[i].name);
        if (!item)
            continue;
        if (*r->items[i].reason) {
            strcpy(item->skipped[engine], r->items[i].reason);
            continue;
        }
        bench_add(item, engine, r->items[i].value);
        if (r->items[i].have_checksum)
            bench_check(item, engine, r->items[i].checksum);
        if (boot && (item = bench_item(results, "start-to-userland"))) {
            item->wall = true;
            bench_add(item, engine, (double)(r->first_item - r->started));
        }
    }
}

int bench_run(const struct bench_material *m, enum bench_engine engine, enum bench_suite suite,
              struct bench_suite_results *results, char *why, size_t why_len)
{
    struct run *r = calloc(1, sizeof *r);
    struct command *c = malloc(sizeof *c);
    int fds[2] = {-1, -1}, status = -1;
    snprintf(why, why_len, "out of memory");
    if (!r || !c)
        goto out;
    r->terminal = -1;
    r->errors = memfd_create("errors", MFD_CLOEXEC);
    if (r->errors < 0 || pipe2(fds, O_CLOEXEC)) {
        snprintf(why, why_len, "%s", strerror(errno));
        goto out;
    }
    r->console = fds[0];
    build_command(c, m, engine, suite, fds[1]);
    if (c->full) {
        snprintf(why, why_len, "the command line is too long");
        goto out;
    }
    if (start(r, c, fds[1])) {
        snprintf(why, why_len, "%s", strerror(errno));
        goto out;
    }
    close(fds[1]);
    fds[1] = -1;
    bool in_time = collect(r, m);
    status = end(r, in_time, m, suite, why, why_len);
    if (status == 0)
        keep(r, engine, suite, results);
out:
    for (unsigned i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (r && r->terminal >= 0)
        close(r->terminal);
    if (r && r->errors > 0)
        close(r->errors);
    free(c);
    free(r);
    return status;
}
