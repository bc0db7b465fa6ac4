/* SPDX-License-Identifier: MIT */
/* `ringfold verify`: a machine in lockstep with a reference (frontend/lockstep.h). */
#include "devices/machine_step.h"
#include "frontend/backend.h"
#include "frontend/cleanup.h"
#include "frontend/commands.h"
#include "frontend/engines.h"
#include "frontend/image.h"
#include "frontend/lockstep.h"
#include "frontend/options.h"
#include "frontend/supervisor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_DIVERGED = 1, EXIT_TIMEOUT = 124, EXIT_SIGNAL = 128, DEFAULT_NS_PER_INSN = 20, SERIAL_PATIENCE_MS = 1000 };

static const char help[] =
    "Usage: ringfold verify [OPTIONS OF run] [--reference WHO] [--count N] [--ns-per-insn N] [IMAGE]\n"
    "\n"
    "Runs the guest twice at once: translated in blocks of full size, as `ringfold run --engine bt` does, and by a\n"
    "reference, one instruction at a time. Registers are compared after each block, and the memory that either wrote.\n"
    "The first divergence is described on stderr: the guest instruction, what differs, the host code made for it, and\n"
    "the states of both.\n"
    "\n"
    "Devices exist once: what they tell the guest is recorded and given to the reference at the same instruction.\n"
    "Time goes by instructions, not by the clock, so a run can be repeated exactly (but for disk workers).\n"
    "\n"
    "  --reference kvm        this host's KVM, by single steps; what it cannot do ends the run\n"
    "              bt         the translator itself with blocks of one instruction\n"
    "              auto       (the default) KVM as far as it goes; a line on stderr says where bt takes its place\n"
    "  --skip N               the first N blocks run without a reference\n"
    "  --count N              end after N instructions\n"
    "  --ns-per-insn N        how much time an instruction takes for the guest's timers; default 20\n"
    "  -m, --cpu, --kernel, --initrd, --append, --disk, --cdrom, --floppy, --boot, --firmware, --serial,\n"
    "  --debug-exit, --no-reboot, --timeout, --log, --verify-code, --cache-size: as for ringfold run\n"
    "\n"
    "Exit status\n"
    "  0      no divergence until the guest ended (in whatever way), or N instructions were run\n"
    "  1      a divergence\n"
    "  64     the command line is wrong\n"
    "  124    --timeout, without a divergence until then\n"
    "  125    the host side failed\n"
    "  128+N  ended by signal N\n";

struct verify {
    struct options options;
    struct lockstep_config config;
    struct machine *machine;
    struct backend *serial[MACHINE_SERIAL_PORTS];
    char err[512];
};

static int parse_number(const char *option, const char *text, uint64_t *out, char *err, size_t err_len)
{
    char *end;
    errno = 0;
    unsigned long long n = text ? strtoull(text, &end, 10) : 0;
    if (!text || text[0] < '0' || text[0] > '9' || *end || errno || !n) {
        snprintf(err, err_len, "%s %s: a number greater than 0 is expected", option, text ? text : "");
        return -1;
    }
    *out = n;
    return 0;
}

static int parse_reference(const char *text, enum lockstep_reference *out, char *err, size_t err_len)
{
    static const char *const names[] = {
        [LOCKSTEP_REFERENCE_AUTO] = "auto", [LOCKSTEP_REFERENCE_KVM] = "kvm", [LOCKSTEP_REFERENCE_BT] = "bt"};
    for (unsigned i = 0; text && i < sizeof names / sizeof *names; i++)
        if (!strcmp(text, names[i])) {
            *out = (enum lockstep_reference)i;
            return 0;
        }
    snprintf(err, err_len, "--reference %.40s: auto, kvm or bt is expected", text ? text : "");
    return -1;
}

/* argv[*i] is an option of verify's own, name, with its value in it or behind it. */
static bool is_option(const char *name, int argc, char **argv, int *i, const char **value)
{
    size_t len = strlen(name);
    const char *arg = argv[*i];
    if (strncmp(arg, name, len) || (arg[len] && arg[len] != '='))
        return false;
    *value = arg[len] ? arg + len + 1 : *i + 1 < argc ? argv[++*i] : NULL;
    return true;
}

/* Takes the options that run does not know out of argv. */
static int parse(struct verify *v, int *argc, char **argv)
{
    int kept = 1, r = 0;
    const char *text;
    v->config.ns_per_insn = DEFAULT_NS_PER_INSN;
    for (int i = 1; i < *argc && !r; i++) {
        if (is_option("--count", *argc, argv, &i, &text))
            r = parse_number("--count", text, &v->config.count, v->err, sizeof v->err);
        else if (is_option("--ns-per-insn", *argc, argv, &i, &text))
            r = parse_number("--ns-per-insn", text, &v->config.ns_per_insn, v->err, sizeof v->err);
        else if (is_option("--skip", *argc, argv, &i, &text))
            r = parse_number("--skip", text, &v->config.skip, v->err, sizeof v->err);
        else if (is_option("--reference", *argc, argv, &i, &text))
            r = parse_reference(text, &v->config.reference, v->err, sizeof v->err);
        else
            argv[kept++] = argv[i];
    }
    if (r)
        return r;
    argv[ *argc = kept] = NULL;
    if (options_parse(&v->options, *argc, argv, v->err, sizeof v->err))
        return -1;
    const struct options *o = &v->options;
    const char *useless = o->engine == ENGINE_CHOICE_KVM              ? "--engine kvm"
                          : o->machine.engine_options.one_insn_blocks ? "--one-insn-blocks"
                          : o->machine.engine_options.host_cpu        ? "--cpu-model host"
                          : o->machine.engine_options.kernel_irqchip  ? "--kernel-irqchip"
                          : o->qmp                                    ? "--qmp"
                          : o->stats                                  ? "--stats"
                          : o->screenshot                             ? "--screenshot"
                          : o->screen_text                            ? "--screen-text"
                                                                      : NULL;
    if (useless)
        snprintf(v->err, sizeof v->err, "%s: not with verify (see ringfold verify --help)", useless);
    return useless ? -1 : 0;
}

static void on_timeout(void *opaque)
{
    machine_end(((struct verify *)opaque)->machine, MACHINE_TIMEOUT, 0);
}

static void on_signal(void *opaque, int signal)
{
    machine_end(((struct verify *)opaque)->machine, MACHINE_SIGNAL, signal);
}

static void on_continue(void *opaque)
{
}

static int build(struct verify *v)
{
    struct machine_config *c = &v->options.machine;
    const char *damage = getenv("RINGFOLD_VERIFY_DAMAGE"); /* for the test that it is found */
    c->engine = &engine_bt;
    c->stepped = true;
    c->engine_options.step = true;
    if (damage) {
        c->engine_options.damage = true;
        c->engine_options.damage_at = strtoull(damage, NULL, 0);
    }
    if (image_add(c, v->options.image, v->err, sizeof v->err))
        return -1;
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++) {
        const char *spec = v->options.serial[i] ? v->options.serial[i] : i == 0 ? "stdio" : "none";
        if (backend_open(&v->serial[i], spec, v->err, sizeof v->err))
            return -1;
        c->serial[i] = v->serial[i] ? &v->serial[i]->chardev : NULL;
    }
    if (machine_create(&v->machine, c, v->err, sizeof v->err)) {
        v->machine = NULL;
        return -1;
    }
    struct backend_events events = {.opaque = v};
    int code = 0;
    machine_lock(v->machine);
    for (int i = 0; i < MACHINE_SERIAL_PORTS && !code; i++)
        if (v->serial[i])
            code = backend_attach(v->serial[i], machine_loop(v->machine), &events);
    machine_unlock(v->machine);
    if (code)
        snprintf(v->err, sizeof v->err, "cannot watch files: %s", strerror(-code));
    return code;
}

static const char *end_text(enum machine_end how)
{
    switch (how) {
    case MACHINE_POWEROFF:
        return "the guest powered off";
    case MACHINE_DEBUG_EXIT:
        return "the guest ended by its debug exit";
    case MACHINE_RESET_END:
        return "the guest was reset";
    default:
        return "the guest shut down by a triple fault or stands still for ever";
    }
}

static int run(struct verify *v)
{
    struct lockstep_outcome o;
    v->config.report = stderr;
    enum lockstep_result result = lockstep_run(v->machine, &v->config, &o, v->err, sizeof v->err);
    enum machine_end how = machine_how(v->machine);
    if (result == LOCKSTEP_FAILED) {
        complain("verify: %s", v->err);
        return EXIT_HOST;
    }
    char by_kvm[160] = "";
    if (o.by_kvm)
        snprintf(by_kvm, sizeof by_kvm,
                 ", %" PRIu64 " undefined flags; %" PRIu64 " instructions by KVM, which differs alone in %" PRIu64
                 " steps",
                 o.undefined_flags, o.by_kvm, o.kvm_differs);
    const char *end = result == LOCKSTEP_DIVERGED  ? "a divergence"
                      : result == LOCKSTEP_COUNT   ? "no divergence until --count"
                      : result == LOCKSTEP_STOPPED ? "no divergence until it was stopped"
                                                   : end_text(how);
    complain("verify: %s%s; %" PRIu64 " instructions, %" PRIu64 " steps, %" PRIu64 " interrupts, %" PRIu64
             " exceptions; tolerated: %" PRIu64 " accessed/dirty bits, %" PRIu64 " dead flags%s",
             result == LOCKSTEP_ENDED ? "no divergence, " : "", end, o.instructions, o.steps, o.interrupts,
             o.exceptions, o.accessed_bits, o.dead_flags, by_kvm);
    if (result == LOCKSTEP_DIVERGED)
        return EXIT_DIVERGED;
    if (result != LOCKSTEP_STOPPED)
        return 0;
    return how == MACHINE_TIMEOUT ? EXIT_TIMEOUT : EXIT_SIGNAL + machine_step_status(v->machine);
}

int command_verify(int argc, char **argv)
{
    static struct verify verify; /* the supervisor thread sees it until the very end */
    struct verify *v = &verify;
    if (parse(v, &argc, argv)) {
        complain("%s", v->err);
        options_free(&v->options);
        return EXIT_USAGE;
    }
    if (v->options.help) {
        options_free(&v->options);
        fputs(help, stdout);
        return fflush(stdout) == 0 ? 0 : EXIT_HOST;
    }
    supervisor_block_signals();
    struct supervisor_hooks hooks = {
        .timed_out = on_timeout, .signalled = on_signal, .continued = on_continue, .opaque = v};
    int status = EXIT_HOST, code = 0;
    if (build(v))
        complain("%s", v->err);
    else if ((code = supervisor_start(v->options.timeout_ns, &hooks)))
        complain("cannot start a thread: %s", strerror(-code));
    else
        status = run(v);
    supervisor_machine_ended();
    for (int i = 0; i < MACHINE_SERIAL_PORTS; i++)
        backend_close(v->serial[i], SERIAL_PATIENCE_MS);
    supervisor_stop();
    if (v->machine)
        machine_destroy(v->machine);
    options_free(&v->options);
    cleanup_run();
    return status;
}
