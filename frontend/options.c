/* SPDX-License-Identifier: MIT */
#include "frontend/options.h"

#include "devices/log.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

enum option_id {
    OPTION_ENGINE = 256,
    OPTION_CPU,
    OPTION_KERNEL,
    OPTION_INITRD,
    OPTION_APPEND,
    OPTION_DISK,
    OPTION_CDROM,
    OPTION_FLOPPY,
    OPTION_BOOT,
    OPTION_FIRMWARE,
    OPTION_NET,
    OPTION_DISPLAY,
    OPTION_HEADLESS,
    OPTION_SERIAL,
    OPTION_QMP,
    OPTION_SCREENSHOT,
    OPTION_SCREEN_TEXT,
    OPTION_TIMEOUT,
    OPTION_STATS,
    OPTION_LOG,
    OPTION_DEBUG_EXIT,
    OPTION_NO_REBOOT,
    OPTION_CPU_MODEL,
    OPTION_KERNEL_IRQCHIP,
    OPTION_PIN,
    OPTION_NUMA,
    OPTION_HUGEPAGES,
    OPTION_VERIFY_CODE,
    OPTION_PERF_MAP,
    OPTION_WINDOW,
    OPTION_ONE_INSN_BLOCKS,
    OPTION_CACHE_SIZE,
    OPTION_HOT_BLOCKS
};

static const struct option long_options[] = {
    {"engine", required_argument, NULL, OPTION_ENGINE},
    {"memory", required_argument, NULL, 'm'},
    {"cpus", required_argument, NULL, 'c'},
    {"cpu", required_argument, NULL, OPTION_CPU},
    {"kernel", required_argument, NULL, OPTION_KERNEL},
    {"initrd", required_argument, NULL, OPTION_INITRD},
    {"append", required_argument, NULL, OPTION_APPEND},
    {"disk", required_argument, NULL, OPTION_DISK},
    {"cdrom", required_argument, NULL, OPTION_CDROM},
    {"floppy", required_argument, NULL, OPTION_FLOPPY},
    {"boot", required_argument, NULL, OPTION_BOOT},
    {"firmware", required_argument, NULL, OPTION_FIRMWARE},
    {"net", required_argument, NULL, OPTION_NET},
    {"display", required_argument, NULL, OPTION_DISPLAY},
    {"headless", no_argument, NULL, OPTION_HEADLESS},
    {"serial", required_argument, NULL, OPTION_SERIAL},
    {"qmp", required_argument, NULL, OPTION_QMP},
    {"screenshot", required_argument, NULL, OPTION_SCREENSHOT},
    {"screen-text", required_argument, NULL, OPTION_SCREEN_TEXT},
    {"timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"stats", required_argument, NULL, OPTION_STATS},
    {"log", required_argument, NULL, OPTION_LOG},
    {"debug-exit", required_argument, NULL, OPTION_DEBUG_EXIT},
    {"no-reboot", no_argument, NULL, OPTION_NO_REBOOT},
    {"cpu-model", required_argument, NULL, OPTION_CPU_MODEL},
    {"kernel-irqchip", required_argument, NULL, OPTION_KERNEL_IRQCHIP},
    {"pin", required_argument, NULL, OPTION_PIN},
    {"numa", required_argument, NULL, OPTION_NUMA},
    {"hugepages", no_argument, NULL, OPTION_HUGEPAGES},
    {"verify-code", no_argument, NULL, OPTION_VERIFY_CODE},
    {"perf-map", no_argument, NULL, OPTION_PERF_MAP},
    {"window", required_argument, NULL, OPTION_WINDOW},
    {"one-insn-blocks", no_argument, NULL, OPTION_ONE_INSN_BLOCKS},
    {"cache-size", required_argument, NULL, OPTION_CACHE_SIZE},
    {"hot-blocks", required_argument, NULL, OPTION_HOT_BLOCKS},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* ---- values ---- */

/* The power of 1024 that a suffix stands for, or -1: "", k, m, g, t, each with or without "B" or "iB". */
static int suffix_power(const char *s)
{
    static const char letters[] = "kmgt";
    if (!*s)
        return 0;
    const char *found = strchr(letters, tolower((unsigned char)*s));
    if (!found)
        return -1;
    s++;
    if (*s && strcmp(s, "B") && strcmp(s, "iB"))
        return -1;
    return (int)(found - letters) + 1;
}

int size_parse(const char *text, uint64_t *bytes, const char **reason)
{
    char *end;
    if (!isdigit((unsigned char)*text)) {
        *reason = "not a size; a number with K, M, G or T is";
        return -1;
    }
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    int power = suffix_power(end);
    if (power < 0) {
        *reason = "not a size; a number with K, M, G or T is";
        return -1;
    }
    if (errno == ERANGE || n > UINT64_MAX >> 10 * power) {
        *reason = "too large";
        return -1;
    }
    *bytes = n << 10 * power;
    return 0;
}

int seconds_parse(const char *text, uint64_t *ns, const char **reason)
{
    uint64_t value = 0, unit = NS_PER_SEC;
    bool digits = false;
    const char *p = text;
    *reason = "not a number of seconds";
    for (; isdigit((unsigned char)*p); p++, digits = true) {
        value = value * 10 + (uint64_t)(*p - '0') * NS_PER_SEC;
        if (value > 1000000000 * NS_PER_SEC) {
            *reason = "more than 1000000000 seconds";
            return -1;
        }
    }
    if (*p == '.') {
        for (p++; isdigit((unsigned char)*p); p++, digits = true) {
            unit /= 10;
            value += (uint64_t)(*p - '0') * unit;
        }
    }
    if (*p || !digits)
        return -1;
    if (!value) {
        *reason = "must be more than 0";
        return -1;
    }
    *ns = value;
    return 0;
}

/* A decimal port number up to stop; NULL when it is none, else behind it. */
static const char *skip_port(const char *s, char stop)
{
    char *end;
    if (!isdigit((unsigned char)*s))
        return NULL;
    unsigned long port = strtoul(s, &end, 10);
    return port >= 1 && port <= 65535 && *end == stop ? end + (stop != 0) : NULL;
}

static const char *hostfwd_check(const char *rule)
{
    char address[64];
    if (strncmp(rule, "tcp:", 4))
        return "hostfwd is tcp:HOSTADDR:PORT-:GUESTPORT";
    rule += 4;
    size_t len = strcspn(rule, ":");
    if (rule[len] != ':' || len >= sizeof address)
        return "hostfwd is tcp:HOSTADDR:PORT-:GUESTPORT";
    memcpy(address, rule, len);
    address[len] = 0;
    struct in_addr in;
    if (len && inet_pton(AF_INET, address, &in) != 1)
        return "hostfwd: HOSTADDR is not an IPv4 address";
    rule = skip_port(rule + len + 1, '-');
    if (!rule)
        return "hostfwd: PORT is not a port number";
    if (*rule != ':' || !skip_port(rule + 1, 0))
        return "hostfwd: GUESTPORT is not a port number";
    return NULL;
}

const char *net_check(const char *text)
{
    if (!strcmp(text, "none"))
        return NULL;
    if (strncmp(text, "user", 4) || (text[4] && text[4] != ','))
        return "user or none is expected";
    const char *wrong = NULL;
    char *copy = strdup(text), *save = NULL;
    if (!copy)
        return "out of memory";
    for (char *part = strtok_r(copy + 4, ",", &save); part && !wrong; part = strtok_r(NULL, ",", &save))
        wrong = strncmp(part, "hostfwd=", 8) ? "the only setting of user is hostfwd" : hostfwd_check(part + 8);
    free(copy);
    return wrong;
}

/* ---- the parser ---- */

struct parser {
    struct options *o;
    const char *name; /* the option under way, as the user knows it */
    const char *value;
    char *err;
    size_t err_len;
};

static int bad(struct parser *p, const char *reason)
{
    snprintf(p->err, p->err_len, "%s %s: %s", p->name, *p->value ? p->value : "\"\"", reason);
    return -1;
}

/* The index of value in names (NULL-terminated), or -1. */
static int word_index(const char *value, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(value, names[i]))
            return i;
    return -1;
}

static int set_memory(struct parser *p)
{
    const char *reason;
    uint64_t bytes;
    if (size_parse(p->value, &bytes, &reason))
        return bad(p, reason);
    if (bytes < OPTIONS_MIN_RAM)
        return bad(p, "less than 1M (a number without K, M, G or T counts bytes)");
    if (bytes > OPTIONS_MAX_RAM)
        return bad(p, "more than 63G, which is all that the machine can address");
    if (bytes % PAGE_SIZE)
        return bad(p, "not a multiple of 4K");
    p->o->machine.ram_size = bytes;
    return 0;
}

static int set_cpus(struct parser *p)
{
    char *end;
    errno = 0;
    unsigned long n = strtoul(p->value, &end, 10);
    if (!isdigit((unsigned char)*p->value) || *end || errno || n == 0 || n > 255)
        return bad(p, "not a number of CPUs");
    if (n > 1)
        return bad(p, "machines with several CPUs are not supported yet, only 1");
    p->o->machine.cpus = 1;
    return 0;
}

static int set_cpu_model(struct parser *p)
{
    bool wide = !strcmp(p->value, "64");
    if (!wide && strcmp(p->value, "32"))
        return bad(p, "32 or 64 is expected");
    p->o->machine.long_mode = wide;
    return 0;
}

/* Keeps s until options_free. */
static const char *own(struct options *o, char *s)
{
    if (s && o->string_count < sizeof o->strings / sizeof *o->strings)
        o->strings[o->string_count++] = s;
    return s;
}

/* One comma-separated part of *s into out (",," stands for a comma); moves *s behind it, to NULL at the end. */
static void next_part(const char **s, char *out)
{
    const char *p = *s;
    for (; *p; p++) {
        if (*p == ',' && p[1] != ',')
            break;
        if (*p == ',')
            p++;
        *out++ = *p;
    }
    *out = 0;
    *s = *p ? p + 1 : NULL;
}

static int set_disk_property(struct parser *p, struct drive_config *d, const char *part)
{
    static const char *const formats[] = {"raw", "qcow2", "vmdk", "vdi", "vhd", "vhdx", NULL};
    if (!strcmp(part, "readonly"))
        d->block.readonly = true;
    else if (!strcmp(part, "snapshot"))
        d->block.snapshot = true;
    else if (!strcmp(part, "bus=ide"))
        d->bus = DRIVE_BUS_IDE;
    else if (!strcmp(part, "bus=scsi"))
        d->bus = DRIVE_BUS_SCSI;
    else if (!strncmp(part, "bus=", 4))
        return bad(p, "bus is scsi or ide");
    else if (!strncmp(part, "format=", 7)) {
        int i = word_index(part + 7, formats);
        if (i < 0)
            return bad(p, "this format is not known");
        d->block.format = formats[i];
    } else
        return bad(p,
                   "settings behind FILE are bus=, format=, readonly and snapshot (a comma in a name is written ,,)");
    return 0;
}

static struct drive_config *add_drive(struct parser *p, enum drive_kind kind)
{
    struct machine_config *m = &p->o->machine;
    if (m->drive_count == MACHINE_MAX_DRIVES) {
        bad(p, "more than 8 drives");
        return NULL;
    }
    if (!*p->value) {
        bad(p, "a file name is expected");
        return NULL;
    }
    struct drive_config *d = &m->drives[m->drive_count++];
    *d = (struct drive_config){.kind = kind, .block.path = p->value, .block.readonly = kind == DRIVE_CDROM};
    return d;
}

static int add_disk(struct parser *p)
{
    struct drive_config *d = add_drive(p, DRIVE_DISK);
    if (!d)
        return -1;
    char *path = malloc(strlen(p->value) + 1), *part = malloc(strlen(p->value) + 1);
    const char *rest = p->value;
    int code = 0;
    if (!path || !part) {
        free(path);
        code = bad(p, "out of memory");
    } else {
        next_part(&rest, path);
        d->block.path = own(p->o, path);
        if (!*path)
            code = bad(p, "a file name is expected");
        while (rest && !code) {
            next_part(&rest, part);
            code = set_disk_property(p, d, part);
        }
    }
    free(part);
    return code;
}

static int set_net(struct parser *p)
{
    const char *wrong = net_check(p->value);
    if (wrong)
        return bad(p, wrong);
    return strcmp(p->value, "none") ? bad(p, "network cards are not supported yet; only none is") : 0;
}

static int add_serial(struct parser *p)
{
    struct options *o = p->o;
    bool path = !strncmp(p->value, "file:", 5) || !strncmp(p->value, "unix:", 5);
    if (path && !p->value[5])
        return bad(p, "a path is expected behind the colon");
    if (!path && strcmp(p->value, "stdio") && strcmp(p->value, "none") && strcmp(p->value, "pty"))
        return bad(p, "stdio, none, file:PATH, unix:PATH or pty is expected");
    if (o->serial_count == MACHINE_SERIAL_PORTS)
        return bad(p, "the machine has two serial ports");
    if (!strcmp(p->value, "stdio") && o->serial_count && !strcmp(o->serial[0], "stdio"))
        return bad(p, "stdio is taken by the first serial port");
    o->serial[o->serial_count++] = p->value;
    return 0;
}

static int set_log(struct parser *p)
{
    char reason[160];
    const char *name = "";
    if (!log_parse(p->value, &name))
        return 0;
    snprintf(reason, sizeof reason,
             "no category \"%.40s\"; there are guest_error, stub, cpu, bt, mmu, device, disk, net, firmware, kvm, all",
             name ? name : "");
    return bad(p, reason);
}

static int set_cache_size(struct parser *p)
{
    const char *reason;
    uint64_t bytes;
    if (size_parse(p->value, &bytes, &reason))
        return bad(p, reason);
    if (bytes < 1 << 20 || bytes > 1ull << 30)
        return bad(p, "from 1M to 1G is possible");
    p->o->machine.engine_options.cache_size = bytes;
    return 0;
}

static int set_path(struct parser *p, const char **where)
{
    if (!*p->value)
        return bad(p, "a file name is expected");
    *where = p->value;
    return 0;
}

/* FILE[,COUNT]; a comma in FILE is written ",,". */
static int set_hot_blocks(struct parser *p)
{
    enum { DEFAULT_COUNT = 20, MOST = 100000 };
    struct options *o = p->o;
    const char *rest = p->value;
    char *end, *path = malloc(strlen(p->value) + 1);
    unsigned long count = DEFAULT_COUNT;
    if (!path)
        return bad(p, "out of memory");
    next_part(&rest, path);
    o->hot_blocks = own(o, path);
    if (rest) {
        count = strtoul(rest, &end, 10);
        if (!isdigit((unsigned char)*rest) || *end || !count || count > MOST)
            return bad(p, "behind the comma a number of blocks is expected, 1 to 100000");
    }
    if (!*path)
        return bad(p, "a file name is expected");
    o->hot_block_count = (unsigned)count;
    o->machine.engine_options.profile = true;
    return 0;
}

static int set_word(struct parser *p, const char *const *names, const char *expected, int *out)
{
    int i = word_index(p->value, names);
    if (i < 0)
        return bad(p, expected);
    *out = i;
    return 0;
}

static int set_choice(struct parser *p, int id)
{
    static const char *const engines[] = {"auto", "bt", "kvm", NULL};
    static const char *const models[] = {"ringfold", "host", NULL};
    static const char *const boots[] = {"c", "d", "a", "n", NULL};
    static const char *const exits[] = {"exact", "qemu", NULL};
    static const char *const windows[] = {"auto", "always", "never", NULL};
    static const char *const irqchips[] = {"auto", "on", "off", NULL};
    static const char *const displays[] = {"none", "sdl", NULL};
    int i = 0;
    switch (id) {
    case OPTION_ENGINE:
        if (set_word(p, engines, "auto, bt or kvm is expected", &i))
            return -1;
        p->o->engine = (enum engine_choice)i;
        return 0;
    case OPTION_CPU_MODEL:
        if (set_word(p, models, "ringfold or host is expected", &i))
            return -1;
        p->o->machine.engine_options.host_cpu = i == 1;
        return 0;
    case OPTION_BOOT:
        if (set_word(p, boots, "c (disk), d (CD), a (floppy) or n (network) is expected", &i))
            return -1;
        p->o->machine.boot = *boots[i];
        return 0;
    case OPTION_DEBUG_EXIT:
        if (set_word(p, exits, "exact or qemu is expected", &i))
            return -1;
        p->o->machine.debug_exit = i ? DEBUG_EXIT_QEMU : DEBUG_EXIT_EXACT;
        return 0;
    case OPTION_WINDOW:
        if (set_word(p, windows, "auto, always or never is expected", &i))
            return -1;
        p->o->machine.engine_options.window = i;
        return 0;
    case OPTION_KERNEL_IRQCHIP:
        if (set_word(p, irqchips, "auto, on or off is expected", &i))
            return -1;
        p->o->machine.engine_options.kernel_irqchip = i;
        return 0;
    default: /* OPTION_DISPLAY */
        if (set_word(p, displays, "sdl or none is expected", &i))
            return -1;
        return i ? bad(p, "a window is not supported yet; only none is") : 0;
    }
}

static int set_placement(struct parser *p, int id)
{
    char reason[160];
    struct placement *where = &p->o->machine.placement;
    int r = id == OPTION_PIN ? placement_parse_cpus(where, p->value, reason, sizeof reason)
                             : placement_parse_node(where, p->value, reason, sizeof reason);
    return r ? bad(p, reason) : 0;
}

static int set_timeout(struct parser *p)
{
    const char *reason;
    return seconds_parse(p->value, &p->o->timeout_ns, &reason) ? bad(p, reason) : 0;
}

static int set_qmp(struct parser *p)
{
    if (strncmp(p->value, "unix:", 5) || !p->value[5])
        return bad(p, "unix:PATH is expected");
    p->o->qmp = p->value + 5;
    return 0;
}

static int set_option(struct parser *p, int id)
{
    struct machine_config *m = &p->o->machine;
    switch (id) {
    case 'm':
        return set_memory(p);
    case 'c':
        return set_cpus(p);
    case 'h':
        p->o->help = true;
        return 0;
    case OPTION_CPU:
        return set_cpu_model(p);
    case OPTION_KERNEL:
        return set_path(p, &m->kernel);
    case OPTION_INITRD:
        return set_path(p, &m->initrd);
    case OPTION_APPEND:
        m->append = p->value;
        return 0;
    case OPTION_DISK:
        return add_disk(p);
    case OPTION_CDROM:
        return add_drive(p, DRIVE_CDROM) ? 0 : -1;
    case OPTION_FLOPPY:
        return add_drive(p, DRIVE_FLOPPY) ? 0 : -1;
    case OPTION_FIRMWARE:
        return set_path(p, &m->firmware);
    case OPTION_NET:
        return set_net(p);
    case OPTION_HEADLESS:
        return 0; /* until there is a window, every machine is */
    case OPTION_SERIAL:
        return add_serial(p);
    case OPTION_QMP:
        return set_qmp(p);
    case OPTION_SCREENSHOT:
        return set_path(p, &p->o->screenshot);
    case OPTION_SCREEN_TEXT:
        return set_path(p, &p->o->screen_text);
    case OPTION_TIMEOUT:
        return set_timeout(p);
    case OPTION_HOT_BLOCKS:
        return set_hot_blocks(p);
    case OPTION_STATS:
        m->engine_options.profile = true;
        return set_path(p, &p->o->stats);
    case OPTION_LOG:
        return set_log(p);
    case OPTION_NO_REBOOT:
        m->no_reboot = true;
        return 0;
    case OPTION_PIN:
    case OPTION_NUMA:
        return set_placement(p, id);
    case OPTION_HUGEPAGES:
        m->placement.huge_pages = true;
        return 0;
    case OPTION_VERIFY_CODE:
        m->engine_options.verify_code = true;
        return 0;
    case OPTION_PERF_MAP:
        m->engine_options.perf_map = true;
        return 0;
    case OPTION_ONE_INSN_BLOCKS:
        m->engine_options.one_insn_blocks = true;
        return 0;
    case OPTION_CACHE_SIZE:
        return set_cache_size(p);
    default:
        return set_choice(p, id);
    }
}

/* What the user typed for the option that getopt has just returned. */
static const char *option_name(int id, int long_index, char *buf, size_t len)
{
    if (long_index >= 0)
        snprintf(buf, len, "--%s", long_options[long_index].name);
    else
        snprintf(buf, len, "-%c", id);
    return buf;
}

/* getopt has returned '?'. optopt: 0 for an unknown long option, the option for a long one that takes no value, else
 * the unknown letter (possibly inside a group like -xyz, so word may be something else). */
static int unknown_option(struct parser *p, const char *word)
{
    if (!optopt)
        snprintf(p->err, p->err_len, "%s: no such option, or not a unique beginning of one (see ringfold run --help)",
                 word);
    else if (optopt >= OPTION_ENGINE || optopt == 'h')
        snprintf(p->err, p->err_len, "%s: this option takes no value", word);
    else
        snprintf(p->err, p->err_len, "-%c: no such option (see ringfold run --help)", optopt);
    return -1;
}

static int check_together(struct parser *p)
{
    const struct machine_config *m = &p->o->machine;
    const char *orphan = m->kernel ? NULL : m->initrd ? "--initrd" : m->append ? "--append" : NULL;
    if (m->engine_options.host_cpu && p->o->engine == ENGINE_CHOICE_BT) {
        snprintf(p->err, p->err_len, "--cpu-model host: only the kvm engine shows the guest the host's processor");
        return -1;
    }
    if (!orphan)
        return 0;
    snprintf(p->err, p->err_len, "%s: only works together with --kernel", orphan);
    return -1;
}

static int take_images(struct parser *p, int argc, char **argv)
{
    p->name = "IMAGE";
    for (int i = optind; i < argc; i++) {
        p->value = argv[i];
        if (p->o->image)
            return bad(p, "only one IMAGE is possible; further drives are added with --disk, --cdrom and --floppy");
        if (!*argv[i])
            return bad(p, "a file name is expected");
        if (p->o->machine.drive_count == MACHINE_MAX_DRIVES)
            return bad(p, "more than 8 drives");
        p->o->image = argv[i];
    }
    return 0;
}

int options_parse(struct options *o, int argc, char **argv, char *err, size_t err_len)
{
    char name[32];
    struct parser p = {.o = o, .err = err, .err_len = err_len};
    *o = (struct options){.machine = {.ram_size = 256 << 20, .cpus = 1, .long_mode = true}};
    optind = 0; /* glibc: start afresh */
    opterr = 0;
    for (;;) {
        int long_index = -1;
        int id = getopt_long(argc, argv, ":m:c:h", long_options, &long_index);
        if (id < 0)
            break;
        if (id == '?')
            return unknown_option(&p, argv[optind - 1]);
        if (id == ':') {
            snprintf(err, err_len, "%s: a value is expected behind it", argv[optind - 1]);
            return -1;
        }
        p.name = option_name(id, long_index, name, sizeof name);
        p.value = optarg ? optarg : "";
        if (set_option(&p, id))
            return -1;
        if (o->help)
            return 0;
    }
    if (take_images(&p, argc, argv))
        return -1;
    return check_together(&p);
}

void options_free(struct options *o)
{
    while (o->string_count)
        free(o->strings[--o->string_count]);
}
