/* SPDX-License-Identifier: MIT */
/* `ringfold bench`: the command line, and the runs in turn. */
#include "frontend/bench.h"

#include "frontend/cleanup.h"
#include "frontend/commands.h"
#include "frontend/options.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

enum { PATH_LEN = 4096, DEFAULT_RUNS = 5, DEFAULT_TIMEOUT = 600 };

static const char help[] =
    "Usage: ringfold bench [OPTIONS]\n"
    "\n"
    "Runs the same guest work natively and under each engine, in turn, and shows the medians, the ratio\n"
    "to native and the ratio of QEMU TCG to bt. Everything a suite measures comes from one boot (or one\n"
    "native process) for each engine and run. What is not here is skipped, with the reason.\n"
    "\n"
    "  --suite compute,vector,kernel,nano\n"
    "                                default: all. compute, vector (SSE2 and AVX2 code) and kernel run inside\n"
    "                                Linux, nano is a bare-metal guest that counts cycles\n"
    "  --engines native,bt,kvm,tcg,bochs\n"
    "                                default: native,bt,kvm,tcg (bochs takes many minutes for each run: it\n"
    "                                always does the whole suite)\n"
    "  --runs N                      runs of each, 1 to 99; default 5 (the vector suite takes minutes under\n"
    "                                tcg, which runs it once)\n"
    "  --items NAME,...              only these items of one suite, not of nano\n"
    "  --bits 32|64                  which guest; default 32\n"
    "  --json FILE                   every sample, medians and ratios\n"
    "  --plot FILE.svg               a chart\n"
    "  --material DIR                programs and images; default: bench/32 or bench/64 beside the\n"
    "                                program ringfold. `make bench-material` makes them\n"
    "  --timeout SECONDS             for each run; default 600\n"
    "  --verbose                     the console of each run on stderr\n"
    "\n"
    "Exit status: 0; 1 when a guest gave a wrong result or an engine failed in mid-work; 64 the command\n"
    "line is wrong; 125 nothing could be measured, or a file could not be written.\n";

struct bench_options {
    struct bench_material material;
    struct bench_results *results;
    const char *json, *plot;
    char folder[PATH_LEN], ringfold[PATH_LEN], items[1024];
    bool help;
};

/* ---- the command line ---- */

/* "a,b,c" out of names: sets wanted. 0, or -1 with the wrong word in *bad (len *bad_len). */
static int parse_list(const char *text, const char *const *names, unsigned count, bool *wanted, const char **bad,
                      int *bad_len)
{
    memset(wanted, 0, count * sizeof *wanted);
    for (;;) {
        size_t len = strcspn(text, ",");
        unsigned i = 0;
        while (i < count && (strlen(names[i]) != len || strncmp(names[i], text, len)))
            i++;
        if (i == count) {
            *bad = text;
            *bad_len = (int)len;
            return -1;
        }
        wanted[i] = true;
        if (!text[len])
            return 0;
        text += len + 1;
    }
}

static int parse_number(const char *text, unsigned low, unsigned high, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || v < low || v > high)
        return -1;
    *out = (unsigned)v;
    return 0;
}

/* Items become words on a kernel's command line. */
static int parse_items(struct bench_options *o, const char *text)
{
    if (!*text || strlen(text) >= sizeof o->items ||
        strspn(text, "abcdefghijklmnopqrstuvwxyz0123456789-,") != strlen(text))
        return -1;
    strcpy(o->items, text);
    for (char *p = o->items; *p; p++)
        if (*p == ',')
            *p = ' ';
    o->material.items = o->items;
    return 0;
}

static int set_list(const char *option, const char *text, const char *const *names, unsigned count, bool *wanted)
{
    const char *bad;
    int bad_len;
    if (parse_list(text, names, count, wanted, &bad, &bad_len) == 0)
        return 0;
    complain("%s %s: \"%.*s\" is none of those there are (see ringfold bench --help)", option, text, bad_len, bad);
    return -1;
}

static int set_option(struct bench_options *o, const char *name, const char *value)
{
    struct bench_results *r = o->results;
    bool suites[BENCH_SUITES];
    if (!strcmp(name, "--suite")) {
        if (set_list(name, value, bench_suite_names, BENCH_SUITES, suites))
            return -1;
        for (int s = 0; s < BENCH_SUITES; s++)
            r->suite[s].wanted = suites[s];
    } else if (!strcmp(name, "--engines")) {
        return set_list(name, value, bench_engine_names, BENCH_ENGINES, r->engine_wanted);
    } else if (!strcmp(name, "--runs")) {
        if (parse_number(value, 1, BENCH_MAX_RUNS, &r->runs)) {
            complain("--runs %s: a number from 1 to %d is needed", value, BENCH_MAX_RUNS);
            return -1;
        }
    } else if (!strcmp(name, "--bits")) {
        if (parse_number(value, 32, 64, &r->bits) || (r->bits != 32 && r->bits != 64)) {
            complain("--bits %s: 32 or 64", value);
            return -1;
        }
    } else if (!strcmp(name, "--timeout")) {
        const char *reason;
        if (seconds_parse(value, &o->material.timeout_ns, &reason)) {
            complain("--timeout %s: %s", value, reason);
            return -1;
        }
    } else if (!strcmp(name, "--items")) {
        if (parse_items(o, value)) {
            complain("--items %s: names of items, with commas between them", value);
            return -1;
        }
    } else if (!strcmp(name, "--json")) {
        o->json = value;
    } else if (!strcmp(name, "--plot")) {
        o->plot = value;
    } else if (!strcmp(name, "--material")) {
        o->material.folder = value;
    } else {
        complain("bench: %s: no such option (see ringfold bench --help)", name);
        return -1;
    }
    return 0;
}

static int parse(struct bench_options *o, int argc, char **argv)
{
    static const char *const with_value[] = {"--suite",   "--engines", "--runs", "--bits",    "--items",
                                             "--timeout", "--json",    "--plot", "--material"};
    for (int i = 1; i < argc; i++) {
        char name[32];
        const char *value = strchr(argv[i], '=');
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            o->help = true;
            continue;
        }
        if (!strcmp(argv[i], "--verbose")) {
            o->material.verbose = true;
            continue;
        }
        snprintf(name, sizeof name, "%.*s", (int)(value ? value - argv[i] : (int)strlen(argv[i])), argv[i]);
        bool known = false;
        for (size_t k = 0; k < sizeof with_value / sizeof *with_value; k++)
            known |= !strcmp(name, with_value[k]);
        if (!known) {
            complain("bench: %s: no such option (see ringfold bench --help)", argv[i]);
            return -1;
        }
        if (value) {
            value++;
        } else if (i + 1 < argc) {
            value = argv[++i];
        } else {
            complain("bench: %s needs a value", name);
            return -1;
        }
        if (set_option(o, name, value))
            return -1;
    }
    const struct bench_results *r = o->results;
    unsigned suites = 0;
    for (int s = 0; s < BENCH_SUITES; s++)
        suites += r->suite[s].wanted;
    if (o->material.items && (r->suite[BENCH_NANO].wanted || suites != 1)) {
        complain("bench: --items goes with one suite, compute, vector or kernel");
        return -1;
    }
    return 0;
}

/* ---- the host ---- */

static int find_material(struct bench_options *o)
{
    ssize_t n = readlink("/proc/self/exe", o->ringfold, sizeof o->ringfold - 1);
    if (n <= 0) {
        complain("/proc/self/exe: %s", strerror(errno));
        return -1;
    }
    o->ringfold[n] = 0;
    o->material.ringfold = o->ringfold;
    o->material.bits = o->results->bits;
    if (o->material.folder)
        return 0;
    int folder = (int)(strrchr(o->ringfold, '/') - o->ringfold);
    if (snprintf(o->folder, sizeof o->folder, "%.*s/bench/%u", folder, o->ringfold, o->results->bits) >=
        (int)sizeof o->folder) {
        complain("%s: the path is too long", o->ringfold);
        return -1;
    }
    o->material.folder = o->folder;
    return 0;
}

static void describe_host(struct bench_results *r)
{
    char brand[49] = "unknown processor";
    unsigned words[12];
    bool have = true;
    for (unsigned i = 0; i < 3; i++)
        have &= __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
    if (have)
        memcpy(brand, words, 48);
    snprintf(r->host, sizeof r->host, "%s, %ld processors", brand + strspn(brand, " "), sysconf(_SC_NPROCESSORS_ONLN));
    struct utsname u;
    if (uname(&u) == 0)
        snprintf(r->kernel, sizeof r->kernel, "%.40s %.60s", u.sysname, u.release);
    time_t now = time(NULL);
    struct tm tm;
    strftime(r->date, sizeof r->date, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &tm));
    if (getloadavg(&r->load_before, 1) != 1)
        r->load_before = -1;
}

/* ---- the runs ---- */

static bool any_numbers(const struct bench_results *r)
{
    for (int s = 0; s < BENCH_SUITES; s++)
        if (r->suite[s].count)
            return true;
    return false;
}

/* TCG's helpers for AVX are SSE code, called with the upper halves of the host's registers in use: a change that costs
 * some processors a hundred nanoseconds, at every operation. Minutes, and no more to see in the next round. */
static bool once_only(enum bench_suite suite, enum bench_engine engine)
{
    return suite == BENCH_VECTOR && engine == BENCH_TCG;
}

/* One engine's turn. False: it gave up in mid-work. */
static bool take_turn(struct bench_options *o, enum bench_suite suite, enum bench_engine engine, unsigned round)
{
    struct bench_results *r = o->results;
    struct bench_suite_results *s = &r->suite[suite];
    char why[160];
    if (!r->engine_wanted[engine] || *s->skipped[engine] || (round && once_only(suite, engine)))
        return true;
    const char *missing = bench_missing(&o->material, engine, suite, why, sizeof why);
    if (missing) {
        memmove(s->skipped[engine], missing, strnlen(missing, sizeof s->skipped[engine] - 1) + 1);
        s->skipped[engine][sizeof s->skipped[engine] - 1] = 0;
        return true;
    }
    fprintf(stderr, "%s, run %u of %u: %s\n", bench_suite_names[suite], round + 1,
            once_only(suite, engine) ? 1 : r->runs, bench_engine_names[engine]);
    if (bench_run(&o->material, engine, suite, s, why, sizeof why) == 0)
        return true;
    snprintf(s->skipped[engine], sizeof s->skipped[engine], "%s", why);
    /* KVM is optional everywhere: what it says is the reason, not a failure. */
    return engine == BENCH_KVM;
}

static bool measure(struct bench_options *o)
{
    bool well = true;
    for (int s = 0; s < BENCH_SUITES; s++)
        for (unsigned round = 0; round < o->results->runs && o->results->suite[s].wanted; round++)
            for (int e = 0; e < BENCH_ENGINES; e++)
                well &= take_turn(o, s, e, round);
    for (int s = 0; s < BENCH_SUITES; s++)
        for (unsigned i = 0; i < o->results->suite[s].count; i++)
            well &= !o->results->suite[s].items[i].wrong;
    return well;
}

/* ---- the output ---- */

static int write_file(const struct bench_results *r, const char *path, bool svg)
{
    struct new_file f;
    char err[PATH_LEN + 128];
    if (new_file_open(&f, path, err, sizeof err) == 0) {
        char *json = svg ? NULL : bench_json(r);
        if (svg)
            bench_write_svg(r, f.stream);
        else if (json)
            fprintf(f.stream, "%s\n", json);
        free(json);
        if (new_file_commit(&f, err, sizeof err) == 0)
            return 0;
    }
    complain("%s", err);
    return -1;
}

static int run(struct bench_options *o)
{
    struct bench_results *r = o->results;
    char err[PATH_LEN + 128];
    if ((o->json && new_file_check(o->json, err, sizeof err)) ||
        (o->plot && new_file_check(o->plot, err, sizeof err))) {
        complain("%s", err);
        return EXIT_HOST;
    }
    if (find_material(o))
        return EXIT_HOST;
    describe_host(r);
    bool well = measure(o);
    if (getloadavg(&r->load_after, 1) != 1)
        r->load_after = -1;
    bench_print_table(r, stdout);
    if (fflush(stdout)) {
        complain("stdout: %s", strerror(errno));
        return EXIT_HOST;
    }
    if ((o->json && write_file(r, o->json, false)) || (o->plot && write_file(r, o->plot, true)))
        return EXIT_HOST;
    if (!any_numbers(r)) {
        complain("bench: nothing could be measured");
        return EXIT_HOST;
    }
    return well ? 0 : 1;
}

int command_bench(int argc, char **argv)
{
    struct bench_options *o = calloc(1, sizeof *o);
    struct bench_results *r = calloc(1, sizeof *r);
    int status = EXIT_HOST;
    if (!o || !r) {
        complain("bench: out of memory");
        goto out;
    }
    o->results = r;
    r->runs = DEFAULT_RUNS;
    r->bits = 32;
    o->material.timeout_ns = DEFAULT_TIMEOUT * 1000000000ull;
    for (int s = 0; s < BENCH_SUITES; s++)
        r->suite[s].wanted = true;
    for (int e = BENCH_NATIVE; e <= BENCH_TCG; e++)
        r->engine_wanted[e] = true;
    if (parse(o, argc, argv)) {
        status = EXIT_USAGE;
    } else if (o->help) {
        fputs(help, stdout);
        status = fflush(stdout) ? EXIT_HOST : 0;
    } else {
        status = run(o);
    }
out:
    free(r);
    free(o);
    return status;
}
