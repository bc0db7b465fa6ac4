/* SPDX-License-Identifier: MIT */
/* `ringfold run`: options become a machine with its back ends, the machine
 * runs, and what was asked for at its end is written. Every way out restores
 * the terminal and removes the sockets (frontend/cleanup.h). */
#include "frontend/backend.h"
#include "frontend/cleanup.h"
#include "frontend/commands.h"
#include "frontend/engines.h"
#include "frontend/image.h"
#include "frontend/options.h"
#include "frontend/qmp.h"
#include "frontend/supervisor.h"
#include "frontend/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { SCREEN_TEXT_MAX = 256 << 10, PATIENCE_MS = 30000, PATIENCE_IMPATIENT_MS = 1000, ERROR_MAX = 512 };

struct run {
    struct options options;
    struct machine_config config;
    struct machine *machine;
    struct backend *serial[MACHINE_SERIAL_PORTS];
    struct qmp *qmp;
    uint64_t started_at; /* the process: ns of CLOCK_MONOTONIC */
    long startup_waits;  /* how often set-up gave the processor up by itself */
    char err[ERROR_MAX];
    _Atomic bool said_end;    /* one line about the end is enough */
    _Atomic int output_error; /* errno of the first output that failed */
};

/* The beginning of the process, as far as it can be told: what it has computed until now is the dynamic linker's. */
static uint64_t process_start(void)
{
    struct timespec now, used;
    clock_gettime(CLOCK_MONOTONIC, &now);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (uint64_t)(now.tv_sec - used.tv_sec) * NS_PER_SEC + (uint64_t)now.tv_nsec - (uint64_t)used.tv_nsec;
}

/* ---- what the machine and its back ends report ---- */

static void on_timeout(void *opaque)
{
    struct run *r = opaque;
    if (!atomic_exchange(&r->said_end, true))
        complain("--timeout: the time is over");
    machine_end(r->machine, MACHINE_TIMEOUT, 0);
}

static void on_signal(void *opaque, int signal)
{
    struct run *r = opaque;
    if (!atomic_exchange(&r->said_end, true))
        complain("ended by signal %d (%s)", signal, strsignal(signal));
    machine_end(r->machine, MACHINE_SIGNAL, signal);
}

/* SIGCONT: back in the foreground, perhaps. */
static void on_continue(void *opaque)
{
    struct run *r = opaque;
    bool stdio = false;
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++)
        stdio |= r->serial[i] && r->serial[i]->continued;
    if (!stdio)
        return;
    terminal_enter_raw();
    machine_lock(r->machine);
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++)
        if (r->serial[i] && r->serial[i]->continued)
            r->serial[i]->continued(r->serial[i]);
    machine_unlock(r->machine);
}

static void on_output_failed(void *opaque, const char *what, int error)
{
    struct run *r = opaque;
    r->output_error = error;
    if (!atomic_exchange(&r->said_end, true))
        complain("%s: %s", what, strerror(error));
    if (error == EPIPE)
        machine_end(r->machine, MACHINE_SIGNAL, SIGPIPE);
    else
        machine_end(r->machine, MACHINE_HOST_ERROR, 0);
}

static void on_quit_key(void *opaque)
{
    struct run *r = opaque;
    machine_end(r->machine, MACHINE_QUIT, 0);
}

static void on_reset(void *opaque, bool guest)
{
    struct run *r = opaque;
    cJSON *data = cJSON_CreateObject();
    cJSON_AddBoolToObject(data, "guest", guest);
    cJSON_AddStringToObject(data, "reason", guest ? "guest-reset" : "host-qmp-system-reset");
    qmp_event(r->qmp, "RESET", data);
}

/* ---- the control socket's view of the machine ---- */

static struct machine *machine_of(void *opaque)
{
    return ((struct run *)opaque)->machine;
}
static bool target_running(void *opaque)
{
    return machine_running(machine_of(opaque));
}
static void target_stop(void *opaque)
{
    machine_stop(machine_of(opaque));
}
static void target_cont(void *opaque)
{
    machine_continue(machine_of(opaque));
}
static void target_reset(void *opaque)
{
    machine_reset(machine_of(opaque));
}
static void target_powerdown(void *opaque)
{
    machine_powerdown(machine_of(opaque));
}
static void target_quit(void *opaque)
{
    machine_end(machine_of(opaque), MACHINE_QUIT, 0);
}
static void target_key(void *opaque, unsigned key, bool down)
{
    machine_key(machine_of(opaque), key, down);
}
static void target_mouse(void *opaque, int dx, int dy, int dz, unsigned buttons)
{
    machine_mouse(machine_of(opaque), dx, dy, dz, buttons);
}
static const struct display_source *target_display(void *opaque)
{
    return machine_display(machine_of(opaque));
}
static int target_change_medium(void *opaque, const struct qmp_medium *medium, char *err, size_t err_len)
{
    return machine_change_medium(machine_of(opaque), medium->floppy ? DRIVE_FLOPPY : DRIVE_CDROM, medium->slot,
                                 medium->options, err, err_len);
}

static int target_set_engine(void *opaque, const char *name, char *err, size_t err_len)
{
    const struct engine *engine = engines_find(name);
    struct machine *m = machine_of(opaque);
    if (!engine) {
        snprintf(err, err_len, "%.40s: no such engine; there are bt and kvm", name);
        return -1;
    }
    if (((struct run *)opaque)->config.engine_options.host_cpu && engine != &engine_kvm) {
        snprintf(err, err_len, "the guest sees the host's processor (--cpu-model host), which only kvm can show");
        return -1;
    }
    if (engines_refuse_now(engine, machine_cpu(m, 0), err, err_len))
        return -1;
    return machine_set_engine(m, engine, err, err_len);
}

/* One CPU's counters as an object. */
static cJSON *cpu_stats(struct machine *m, unsigned n)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    if (!out)
        return NULL;
    fputc('{', out);
    if (machine_engine(m)->stats)
        machine_engine(m)->stats(machine_cpu(m, n), out);
    fputc('}', out);
    fclose(out);
    cJSON *object = text ? cJSON_ParseWithLength(text, len) : NULL;
    free(text);
    return object ? object : cJSON_CreateObject();
}

static cJSON *target_stats(void *opaque)
{
    struct run *r = opaque;
    cJSON *stats = cJSON_CreateObject();
    cJSON_AddStringToObject(stats, "engine", machine_engine(r->machine)->name);
    cJSON_AddNumberToObject(stats, "seconds", (double)clock_now(machine_clock(r->machine)) / 1e9);
    uint64_t entered = machine_entered_at(r->machine);
    if (entered)
        cJSON_AddNumberToObject(stats, "startup_us", (double)((entered - r->started_at) / NS_PER_US));
    if (entered)
        cJSON_AddNumberToObject(stats, "startup_cpu_us", (double)(machine_entered_cpu_ns(r->machine) / NS_PER_US));
    cJSON_AddNumberToObject(stats, "startup_waits", (double)r->startup_waits);
    cJSON_AddNumberToObject(stats, "memory", (double)r->config.ram_size);
    cJSON *cpus = cJSON_AddArrayToObject(stats, "cpus");
    for (unsigned i = 0; i < r->config.cpus; i++)
        cJSON_AddItemToArray(cpus, cpu_stats(r->machine, i));
    return stats;
}

/* The vCPU stands still meanwhile. */
static char *target_hot_blocks(void *opaque, unsigned count, char *err, size_t err_len)
{
    struct run *r = opaque;
    const struct engine *engine = machine_engine(r->machine);
    bool was_running = machine_running(r->machine);
    char *text = NULL;
    size_t len = 0;
    if (!engine->hot_blocks || !r->config.engine_options.profile) {
        snprintf(err, err_len,
                 engine->hot_blocks ? "nothing was counted: start the machine with --stats or --hot-blocks"
                                    : "engine %s has no translated blocks",
                 engine->name);
        return NULL;
    }
    FILE *out = open_memstream(&text, &len);
    if (!out) {
        snprintf(err, err_len, "out of memory");
        return NULL;
    }
    machine_stop(r->machine);
    engine->hot_blocks(machine_cpu(r->machine, 0), out, count);
    if (was_running)
        machine_continue(r->machine);
    fclose(out);
    return text;
}

static const struct qmp_target target = {
    .running = target_running,
    .stop = target_stop,
    .cont = target_cont,
    .reset = target_reset,
    .powerdown = target_powerdown,
    .quit = target_quit,
    .key = target_key,
    .mouse = target_mouse,
    .display = target_display,
    .stats = target_stats,
    .hot_blocks = target_hot_blocks,
    .change_medium = target_change_medium,
    .set_engine = target_set_engine,
};

/* ---- set-up ---- */

/* Files that will be written at the end must not turn out impossible after an
 * hour. */
static int check_outputs(struct run *r)
{
    const struct {
        const char *option, *path;
    } outputs[] = {{"--screenshot", r->options.screenshot},
                   {"--screen-text", r->options.screen_text},
                   {"--stats", r->options.stats},
                   {"--hot-blocks", r->options.hot_blocks}};
    char reason[ERROR_MAX - 32];
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) {
        if (outputs[i].path && new_file_check(outputs[i].path, reason, sizeof reason)) {
            snprintf(r->err, sizeof r->err, "%s %s", outputs[i].option, reason);
            return -1;
        }
    }
    return 0;
}

static int open_backends(struct run *r)
{
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++) {
        const char *spec = r->options.serial[i];
        if (!spec)
            spec = i == 0 ? "stdio" : "none";
        if (backend_open(&r->serial[i], spec, r->err, sizeof r->err))
            return -1;
        r->config.serial[i] = r->serial[i] ? &r->serial[i]->chardev : NULL;
    }
    if (r->options.qmp) {
        r->qmp = qmp_open(r->options.qmp, r->err, sizeof r->err);
        if (!r->qmp)
            return -1;
    }
    return 0;
}

static int attach_backends(struct run *r)
{
    struct backend_events events = {.failed = on_output_failed, .quit = on_quit_key, .opaque = r};
    struct qmp_target t = target;
    int code = 0;
    t.opaque = r;
    machine_lock(r->machine);
    for (int i = 0; i < MACHINE_SERIAL_PORTS && !code; i++)
        if (r->serial[i])
            code = backend_attach(r->serial[i], machine_loop(r->machine), &events);
    if (r->qmp && !code)
        code = qmp_attach(r->qmp, machine_loop(r->machine), machine_clock(r->machine), &t);
    machine_unlock(r->machine);
    if (code)
        snprintf(r->err, sizeof r->err, "cannot watch files: %s", strerror(-code));
    return code;
}

static int build(struct run *r)
{
    char note[256];
    r->config = r->options.machine;
    r->config.on_reset = on_reset;
    r->config.on_reset_opaque = r;
    r->config.engine = engines_choose(r->options.engine, &r->config, note, sizeof note, r->err, sizeof r->err);
    if (r->config.engine && r->options.hot_blocks && !r->config.engine->hot_blocks) {
        snprintf(r->err, sizeof r->err, "--hot-blocks %.200s: engine %s has no translated blocks",
                 r->options.hot_blocks, r->config.engine->name);
        return -1;
    }
    if (!r->config.engine || check_outputs(r) || image_add(&r->config, r->options.image, r->err, sizeof r->err) ||
        open_backends(r))
        return -1;
    complain("engine %s (%s)", r->config.engine->name, note);
    if (machine_create(&r->machine, &r->config, r->err, sizeof r->err)) {
        r->machine = NULL;
        return -1;
    }
    return attach_backends(r);
}

/* ---- the end ---- */

static int write_screenshot(struct run *r, const struct display_source *d)
{
    bool changed;
    const struct surface *s = d && d->draw ? d->draw(d->chip, true, &changed) : NULL;
    if (!s || !s->width || !s->height) {
        complain("--screenshot %s: the machine's display shows nothing", r->options.screenshot);
        return -1;
    }
    int code = png_write(r->options.screenshot, s);
    if (code)
        complain("--screenshot %s: %s", r->options.screenshot, strerror(-code));
    return code;
}

static int write_text_file(struct run *r, const char *option, const char *path, const char *text)
{
    struct new_file f;
    int code = new_file_open(&f, path, r->err, sizeof r->err);
    if (!code) {
        fputs(text, f.stream);
        code = new_file_commit(&f, r->err, sizeof r->err);
    }
    if (code)
        complain("%s %s", option, r->err);
    return code;
}

static int write_screen_text(struct run *r, const struct display_source *d)
{
    char *text = calloc(1, SCREEN_TEXT_MAX);
    int code = 0;
    if (!text || !d || !d->text || !d->text(d->chip, text, SCREEN_TEXT_MAX))
        complain("--screen-text %s: not written, the screen is in a graphics mode", r->options.screen_text);
    else
        code = write_text_file(r, "--screen-text", r->options.screen_text, text);
    free(text);
    return code;
}

static const char *end_name(enum machine_end how)
{
    static const char *const names[] = {[MACHINE_RUNNING] = "running",
                                        [MACHINE_POWEROFF] = "poweroff",
                                        [MACHINE_DEBUG_EXIT] = "debug-exit",
                                        [MACHINE_RESET_END] = "reset",
                                        [MACHINE_TRIPLE_FAULT] = "triple-fault",
                                        [MACHINE_TIMEOUT] = "timeout",
                                        [MACHINE_HOST_ERROR] = "host-error",
                                        [MACHINE_SIGNAL] = "signal",
                                        [MACHINE_QUIT] = "quit"};
    return names[how];
}

static int write_stats(struct run *r, int status)
{
    cJSON *stats = target_stats(r);
    cJSON_AddStringToObject(stats, "end", end_name(machine_how(r->machine)));
    cJSON_AddNumberToObject(stats, "status", status);
    char *text = cJSON_Print(stats), *line;
    int code = -1;
    if (text && asprintf(&line, "%s\n", text) >= 0) {
        code = write_text_file(r, "--stats", r->options.stats, line);
        free(line);
    }
    cJSON_free(text);
    cJSON_Delete(stats);
    return code;
}

static int write_hot_blocks(struct run *r)
{
    struct new_file f;
    const struct engine *engine = machine_engine(r->machine);
    if (!engine->hot_blocks) {
        complain("--hot-blocks %s: not written, the machine ended under engine %s", r->options.hot_blocks,
                 engine->name);
        return -1;
    }
    int code = new_file_open(&f, r->options.hot_blocks, r->err, sizeof r->err);
    if (!code) {
        engine->hot_blocks(machine_cpu(r->machine, 0), f.stream, r->options.hot_block_count);
        code = new_file_commit(&f, r->err, sizeof r->err);
    }
    if (code)
        complain("--hot-blocks %s", r->err);
    return code;
}

static void tell_shutdown(struct run *r)
{
    enum machine_end how = machine_how(r->machine);
    bool guest =
        how == MACHINE_POWEROFF || how == MACHINE_DEBUG_EXIT || how == MACHINE_RESET_END || how == MACHINE_TRIPLE_FAULT;
    const char *reason = how == MACHINE_RESET_END                          ? "guest-reset"
                         : how == MACHINE_TRIPLE_FAULT                     ? "guest-panic"
                         : guest                                           ? "guest-shutdown"
                         : how == MACHINE_QUIT                             ? "host-qmp-quit"
                         : how == MACHINE_SIGNAL || how == MACHINE_TIMEOUT ? "host-signal"
                                                                           : "host-error";
    cJSON *data = cJSON_CreateObject();
    cJSON_AddBoolToObject(data, "guest", guest);
    cJSON_AddStringToObject(data, "reason", reason);
    qmp_event(r->qmp, "SHUTDOWN", data);
}

/* What was asked for at the end. A file that cannot be written turns success
 * into a host error. */
static int write_results(struct run *r, int status)
{
    int failed = 0;
    machine_lock(r->machine);
    const struct display_source *d = machine_display(r->machine);
    tell_shutdown(r);
    if (r->options.screenshot)
        failed |= write_screenshot(r, d);
    if (r->options.screen_text)
        failed |= write_screen_text(r, d);
    if (r->options.stats)
        failed |= write_stats(r, status);
    if (r->options.hot_blocks)
        failed |= write_hot_blocks(r);
    machine_unlock(r->machine);
    return failed && status == 0 ? EXIT_HOST : status;
}

static void close_all(struct run *r, bool patient)
{
    qmp_close(r->qmp);
    size_t lost = 0;
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++)
        lost += backend_close(r->serial[i], patient ? PATIENCE_MS : PATIENCE_IMPATIENT_MS);
    if (lost && !r->said_end)
        complain("%zu bytes of serial output were lost: nobody read them", lost);
    /* Only now: the supervisor may still be inside machine_end, and until here it has to hear signals. */
    supervisor_stop();
    if (r->machine)
        machine_destroy(r->machine);
    options_free(&r->options);
}

static int run_machine(struct run *r)
{
    struct supervisor_hooks hooks = {
        .timed_out = on_timeout, .signalled = on_signal, .continued = on_continue, .opaque = r};
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++)
        if (r->serial[i] && r->serial[i]->continued) /* stdio */
            terminal_enter_raw();
    int code = supervisor_start(r->options.timeout_ns, &hooks);
    if (code) {
        terminal_restore();
        complain("cannot start a thread: %s", strerror(-code));
        return EXIT_HOST;
    }
    struct rusage used;
    if (!getrusage(RUSAGE_THREAD, &used))
        r->startup_waits = used.ru_nvcsw;
    int status = machine_run(r->machine);
    supervisor_machine_ended();
    return write_results(r, status);
}

int command_run(int argc, char **argv)
{
    static struct run run; /* the supervisor thread sees it until the very end */
    struct run *r = &run;
    r->started_at = process_start();
    if (options_parse(&r->options, argc, argv, r->err, sizeof r->err)) {
        complain("%s", r->err);
        options_free(&r->options);
        return EXIT_USAGE;
    }
    if (r->options.help) {
        options_print_help(stdout);
        options_free(&r->options);
        if (fflush(stdout) == 0)
            return 0;
        complain("stdout: %s", strerror(errno));
        return EXIT_HOST;
    }
    supervisor_block_signals();
    int status = EXIT_HOST;
    bool patient = false;
    if (build(r)) {
        complain("%s", r->err);
    } else {
        status = run_machine(r);
        enum machine_end how = machine_how(r->machine);
        patient = how != MACHINE_SIGNAL && how != MACHINE_TIMEOUT;
    }
    close_all(r, patient);
    cleanup_run();
    if (status == 0 && r->output_error) /* the last words could not be written */
        status = r->output_error == EPIPE ? 128 + SIGPIPE : EXIT_HOST;
    return status;
}
