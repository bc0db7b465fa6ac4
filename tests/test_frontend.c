/* SPDX-License-Identifier: MIT */
/* The command line, sizes, image kinds, keys and the typist, JSON framing, output that must not get lost. */
#include "frontend/backend.h"
#include "frontend/cleanup.h"
#include "frontend/image.h"
#include "frontend/json_stream.h"
#include "frontend/keys.h"
#include "frontend/options.h"
#include "frontend/stream.h"
#include "frontend/unix_socket.h"
#include "frontend/writer.h"
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- options ---- */

static struct options options;
static char err[512];

/* Parses "run" and the words of line. */
static int parse(const char *line)
{
    static char words[512];
    char *argv[32] = {"run"}, *save = NULL;
    int argc = 1;
    options_free(&options);
    snprintf(words, sizeof words, "%s", line);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = strcmp(w, "''") ? w : "";
    *err = 0;
    return options_parse(&options, argc, argv, err, sizeof err);
}

static void sizes(void)
{
    static const struct {
        const char *text;
        uint64_t bytes; /* 0: refused */
    } cases[] = {{"1", 1},
                 {"4096", 4096},
                 {"1k", 1024},
                 {"256M", 256 << 20},
                 {"3G", 3ull << 30},
                 {"2GiB", 2ull << 30},
                 {"1tB", 1ull << 40},
                 {"", 0},
                 {"M", 0},
                 {"-1", 0},
                 {" 1", 0},
                 {"1x", 0},
                 {"1MM", 0},
                 {"0x10", 0},
                 {"1.5G", 0},
                 {"99999999999999999999", 0},
                 {"18446744073709551615", UINT64_MAX},
                 {"18446744073709551615K", 0},
                 {"16777216T", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t bytes = 0;
        const char *reason = NULL;
        int code = size_parse(cases[i].text, &bytes, &reason);
        CU_ASSERT_EQUAL(code, cases[i].bytes ? 0 : -1);
        CU_ASSERT_EQUAL(bytes, cases[i].bytes);
        CU_ASSERT((code == 0) == (reason == NULL));
    }
}

static void seconds(void)
{
    const char *reason;
    uint64_t ns = 0;
    CU_ASSERT(seconds_parse("2", &ns, &reason) == 0 && ns == 2000000000);
    CU_ASSERT(seconds_parse("0.25", &ns, &reason) == 0 && ns == 250000000);
    CU_ASSERT(seconds_parse(".5", &ns, &reason) == 0 && ns == 500000000);
    static const char *const wrong[] = {"", "0", "0.0", ".", "-1", "x", "1s", "1e3", "nan", "99999999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CU_ASSERT(seconds_parse(wrong[i], &ns, &reason) == -1);
}

static void good_lines(void)
{
    CU_ASSERT_EQUAL(parse(""), 0);
    CU_ASSERT(options.machine.ram_size == 256 << 20 && options.machine.cpus == 1 && options.machine.long_mode);
    CU_ASSERT_EQUAL(parse("-m 64M -c 1 --engine=bt --headless --kernel k --initrd i --append console=ttyS0"), 0);
    CU_ASSERT(options.engine == ENGINE_CHOICE_BT && options.machine.ram_size == 64 << 20);
    CU_ASSERT_STRING_EQUAL(options.machine.append, "console=ttyS0");
    CU_ASSERT_EQUAL(parse("disk.img --disk a,,b.img,bus=ide,format=raw,readonly,snapshot --cdrom c.iso --boot d"), 0);
    CU_ASSERT_STRING_EQUAL(options.image, "disk.img");
    CU_ASSERT_EQUAL(options.machine.drive_count, 2);
    CU_ASSERT_STRING_EQUAL(options.machine.drives[0].block.path, "a,b.img");
    CU_ASSERT(options.machine.drives[0].bus == DRIVE_BUS_IDE && options.machine.drives[0].block.snapshot);
    CU_ASSERT(options.machine.drives[1].kind == DRIVE_CDROM && options.machine.boot == 'd');
    CU_ASSERT_EQUAL(
        parse("--serial stdio --serial file:x --qmp unix:/tmp/s --debug-exit qemu --timeout 1.5 --no-reboot"), 0);
    CU_ASSERT(options.serial_count == 2 && options.machine.debug_exit == DEBUG_EXIT_QEMU && options.machine.no_reboot);
    CU_ASSERT_STRING_EQUAL(options.qmp, "/tmp/s");
    CU_ASSERT_EQUAL(parse("--cpu 32 --net none --display none -- -odd-name"), 0);
    CU_ASSERT_STRING_EQUAL(options.image, "-odd-name");
    for (int i = 0; i < 3; i++) {
        static const char *const lines[] = {"", "--kernel-irqchip on", "--kernel-irqchip off"};
        CU_ASSERT_EQUAL(parse(lines[i]), 0);
        CU_ASSERT_EQUAL((int)options.machine.engine_options.kernel_irqchip, i);
    }
    options_free(&options);
}

static void bad_lines(void)
{
    static const struct {
        const char *line, *names, *reason;
    } cases[] = {
        {"-m 0", "-m 0:", "less than 1M"},
        {"-m 1", "-m 1:", "less than 1M"},
        {"--memory 100T", "--memory 100T:", "more than"},
        {"--memory=x", "--memory x:", "not a size"},
        {"-m ''", "-m \"\":", "not a size"},
        {"-m 1000001", "-m 1000001:", "less than 1M"},
        {"-m 2000001", "-m 2000001:", "multiple of 4K"},
        {"-c 0", "-c 0:", "not a number"},
        {"-c 2", "-c 2:", "not supported yet"},
        {"--cpus two", "--cpus two:", "not a number"},
        {"--cpu 16", "--cpu 16:", "32 or 64"},
        {"--engine tcg", "--engine tcg:", "auto, bt or kvm"},
        {"--disk a.img,bus=usb", "--disk", "scsi or ide"},
        {"--disk a.img,what", "--disk", "settings"},
        {"--disk a.img,format=zip", "--disk", "format"},
        {"--disk ,readonly", "--disk", "file name"},
        {"--boot x", "--boot x:", "expected"},
        {"--net tap", "--net tap:", "user or none"},
        {"--net user", "--net user:", "not supported yet"},
        {"--net user,hostfwd=tcp:127.0.0.1:80-:22", "--net", "not supported yet"},
        {"--net user,hostfwd=tcp:1.2.3:80-:22", "--net", "IPv4"},
        {"--net user,hostfwd=tcp::99999-:22", "--net", "PORT"},
        {"--net user,hostfwd=tcp::80-:0", "--net", "GUESTPORT"},
        {"--net user,hostfwd=udp::80-:22", "--net", "tcp:"},
        {"--display sdl", "--display sdl:", "not supported yet"},
        {"--display x", "--display x:", "sdl or none"},
        {"--serial tcp:1", "--serial tcp:1:", "expected"},
        {"--serial unix:", "--serial unix::", "path"},
        {"--serial stdio --serial stdio", "--serial stdio:", "taken"},
        {"--serial none --serial none --serial none", "--serial none:", "two serial ports"},
        {"--qmp tcp:1", "--qmp tcp:1:", "unix:PATH"},
        {"--timeout 0", "--timeout 0:", "more than 0"},
        {"--timeout soon", "--timeout soon:", "seconds"},
        {"--log nothing", "--log nothing:", "no category"},
        {"--debug-exit yes", "--debug-exit yes:", "exact or qemu"},
        {"--kernel-irqchip split", "--kernel-irqchip split:", "auto, on or off"},
        {"--frobnicate", "--frobnicate", "no such option"},
        {"-z", "-z", "no such option"},
        {"-zm 5", "-z", "no such option"},
        {"--headless=1", "--headless=1", "no value"},
        {"--help=1", "--help=1", "no value"},
        {"--memory", "--memory", "value is expected"},
        {"-m", "-m", "value is expected"},
        {"--initrd i", "--initrd", "--kernel"},
        {"--append x", "--append", "--kernel"},
        {"a.img b.img", "IMAGE b.img:", "only one"},
        {"--screenshot ''", "--screenshot", "file name"},
        {"--cache-size 1K", "--cache-size 1K:", "1M to 1G"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        CU_ASSERT_EQUAL(parse(cases[i].line), -1);
        bool ok =
            !strncmp(err, cases[i].names, strlen(cases[i].names)) && strstr(err, cases[i].reason) && !strchr(err, '\n');
        if (!ok)
            printf("\"%s\" gave \"%s\"\n", cases[i].line, err);
        CU_ASSERT(ok);
    }
    CU_ASSERT_EQUAL(
        parse("--floppy a --floppy a --floppy a --floppy a --floppy a --floppy a --floppy a --floppy a --cdrom b"), -1);
    CU_ASSERT(strstr(err, "more than 8 drives") != NULL);
    options_free(&options);
}

/* ---- images ---- */

static enum drive_kind kind_of(off_t size, const char *magic)
{
    char path[] = "/tmp/ringfold-image-XXXXXX";
    enum drive_kind kind = (enum drive_kind)99;
    int fd = mkstemp(path);
    CU_ASSERT_FATAL(fd >= 0 && ftruncate(fd, size) == 0);
    if (magic)
        CU_ASSERT(pwrite(fd, magic, strlen(magic), 0x8001) == (ssize_t)strlen(magic));
    close(fd);
    image_kind(path, &kind, err, sizeof err);
    unlink(path);
    return kind;
}

static void image_kinds(void)
{
    enum drive_kind kind;
    CU_ASSERT_EQUAL(kind_of(1474560, NULL), DRIVE_FLOPPY);
    CU_ASSERT_EQUAL(kind_of(737280, NULL), DRIVE_FLOPPY);
    CU_ASSERT_EQUAL(kind_of(1474560 + 512, NULL), DRIVE_DISK);
    CU_ASSERT_EQUAL(kind_of(1474560, "CD001"), DRIVE_CDROM);
    CU_ASSERT_EQUAL(kind_of(10 << 20, "CD001"), DRIVE_CDROM);
    CU_ASSERT_EQUAL(kind_of(512, NULL), DRIVE_DISK);
    CU_ASSERT_EQUAL((int)kind_of(0, NULL), 99);
    CU_ASSERT(strstr(err, "empty") != NULL);
    CU_ASSERT(image_kind("/tmp", &kind, err, sizeof err) == -1 && strstr(err, "is a directory"));
    CU_ASSERT(image_kind("/dev/null", &kind, err, sizeof err) == -1);
    CU_ASSERT(image_kind("/nonexistent", &kind, err, sizeof err) == -1 && strstr(err, "No such file"));
}

/* ---- keys ---- */

static void key_names(void)
{
    CU_ASSERT_EQUAL(key_by_name("ret", 3), 0x1c);
    CU_ASSERT_EQUAL(key_by_name("delete", 6), 0xe053);
    CU_ASSERT_EQUAL(key_by_name("pause", 5), 0xe1);
    CU_ASSERT_EQUAL(key_by_name("f12", 3), 0x58);
    CU_ASSERT_EQUAL(key_by_name("nokey", 5), 0);
    CU_ASSERT_EQUAL(key_by_name("", 0), 0);
    CU_ASSERT_EQUAL(key_by_number(0x1c), 0x1c);
    CU_ASSERT_EQUAL(key_by_number(0xd3), 0xe053);
    CU_ASSERT_EQUAL(key_by_number(0x100), 0);
    static const struct {
        char c;
        unsigned key;
        bool shift;
    } cases[] = {{'a', 0x1e, false},  {'Z', 0x2c, true},  {'1', 2, false},   {'!', 2, true},    {'/', 0x35, false},
                 {'?', 0x35, true},   {'|', 0x2b, true},  {'~', 0x29, true}, {'"', 0x28, true}, {'\'', 0x28, false},
                 {'\n', 0x1c, false}, {' ', 0x39, false}, {'}', 0x1b, true}, {'_', 0x0c, true}, {'.', 0x34, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool shift;
        CU_ASSERT_EQUAL(key_by_char((unsigned char)cases[i].c, &shift), cases[i].key);
        CU_ASSERT_EQUAL(shift, cases[i].shift);
    }
    for (unsigned c = 0x20; c < 0x7f; c++) {
        bool shift;
        CU_ASSERT_NOT_EQUAL(key_by_char((unsigned char)c, &shift), 0);
    }
}

static void escapes(void)
{
    static const struct {
        const char *text, *keys; /* NULL: refused */
    } cases[] = {{"dir\\n", "dir\n"},
                 {"a\\tb\\\\c", "a\tb\\c"},
                 {"\\x41\\x7a", "Az"},
                 {"C:\\DOS", "C:\\DOS"},
                 {"end\\", "end\\"},
                 {"\\x4", "\\x4"},
                 {"one\r\ntwo", "one\ntwo"},
                 {"\\e", "\x1b"},
                 {"\xc3\xa4", NULL},
                 {"\\x80", NULL},
                 {"\\x00", NULL},
                 {"", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *keys = keys_unescape(cases[i].text, err, sizeof err);
        CU_ASSERT_EQUAL(keys == NULL, cases[i].keys == NULL);
        if (keys && cases[i].keys)
            CU_ASSERT_STRING_EQUAL(keys, cases[i].keys);
        free(keys);
    }
}

static unsigned pressed[64], press_count;
static int done_count, cancel_count;

static void press(void *opaque, unsigned key, bool down)
{
    if (press_count < 64)
        pressed[press_count++] = key | (down ? 0u : 0x80000u);
}

static void done(void *opaque, bool cancelled)
{
    done_count++;
    cancel_count += cancelled;
}

static void typist_keeps_pace(void)
{
    struct clock *clock = clock_create(true);
    struct typist *t = typist_create(clock, press, NULL);
    press_count = 0;
    done_count = cancel_count = 0;
    CU_ASSERT_EQUAL(typist_type(t, "aB\n", done, NULL), 0);
    CU_ASSERT_EQUAL(press_count, 1); /* one key at a time */
    clock_advance(clock, KEYS_HOLD_NS);
    CU_ASSERT_EQUAL(press_count, 2);
    CU_ASSERT_EQUAL(done_count, 0);
    clock_advance(clock, NS_PER_SEC);
    static const unsigned expected[] = {0x1e, 0x8001e, 0x2a, 0x30, 0x80030, 0x8002a, 0x1c, 0x8001c};
    CU_ASSERT_EQUAL_FATAL(press_count, 8);
    CU_ASSERT(!memcmp(pressed, expected, sizeof expected));
    CU_ASSERT_EQUAL(done_count, 1);
    /* a chord is released in reverse order */
    press_count = 0;
    const unsigned chord[] = {0x1d, 0x38, 0xe053};
    CU_ASSERT_EQUAL(typist_chord(t, chord, 3, 100 * NS_PER_MS), 0);
    clock_advance(clock, NS_PER_SEC);
    static const unsigned keys[] = {0x1d, 0x38, 0xe053, 0x8e053, 0x80038, 0x8001d};
    CU_ASSERT_EQUAL_FATAL(press_count, 6);
    CU_ASSERT(!memcmp(pressed, keys, sizeof keys));
    /* cancelled in the middle: nothing stays down */
    press_count = 0;
    typist_type(t, "XY", done, NULL);
    clock_advance(clock, KEYS_MODIFIER_NS + 1);
    typist_cancel(t);
    CU_ASSERT_EQUAL(press_count, 4);
    CU_ASSERT_EQUAL(cancel_count, 1);
    clock_advance(clock, NS_PER_SEC);
    CU_ASSERT_EQUAL(press_count, 4);
    typist_type(t, "", done, NULL);
    CU_ASSERT_EQUAL(done_count, 3);
    typist_destroy(t);
    clock_destroy(clock);
}

/* ---- JSON framing ---- */

/* Feeds text; the results but MORE as letters: o object, b bad, l too long. */
static const char *frames(const char *text, size_t len)
{
    static char out[64];
    struct json_stream s = {0};
    size_t n = 0;
    for (size_t i = 0; i < len && n < sizeof out - 1; i++) {
        enum json_stream_result r = json_stream_put(&s, text[i]);
        if (r == JSON_STREAM_OBJECT)
            json_stream_next(&s);
        if (r != JSON_STREAM_MORE)
            out[n++] = r == JSON_STREAM_OBJECT ? 'o' : r == JSON_STREAM_BAD ? 'b' : 'l';
    }
    out[n] = 0;
    json_stream_free(&s);
    return out;
}

static void json_framing(void)
{
#define FRAMES(text) frames(text, sizeof text - 1)
    CU_ASSERT_STRING_EQUAL(FRAMES("{}"), "o");
    CU_ASSERT_STRING_EQUAL(FRAMES("{\"a\":1}\r\n {\"b\":[{}]}{}"), "ooo");
    CU_ASSERT_STRING_EQUAL(FRAMES("{\"a\":\"}\\\"}\"}"), "o");
    CU_ASSERT_STRING_EQUAL(FRAMES("{\"a\":"), "");
    CU_ASSERT_STRING_EQUAL(FRAMES("nonsense {}\n{}"), "bo");
    CU_ASSERT_STRING_EQUAL(FRAMES("[1]\n}\n{}"), "bbo");
    CU_ASSERT_STRING_EQUAL(FRAMES("{\"a\":\xff{}"), "o");
    CU_ASSERT_STRING_EQUAL(FRAMES("{\0}\n{}"), "bo");
    static char deep[1000];
    memset(deep, '[', sizeof deep);
    deep[0] = '{';
    CU_ASSERT_STRING_EQUAL(frames(deep, sizeof deep), "b");
    char *large = malloc(JSON_STREAM_MAX + 100);
    memset(large, 'x', JSON_STREAM_MAX + 100);
    memcpy(large, "{\"", 2);
    CU_ASSERT_STRING_EQUAL(frames(large, JSON_STREAM_MAX + 100), "l");
    free(large);
    srandom(5);
    for (int i = 0; i < 200; i++) { /* whatever comes, the stream survives */
        static const char letters[] = "{}[]\"\\ \n\xff:a";
        for (size_t k = 0; k < sizeof deep; k++)
            deep[k] = letters[(size_t)random() % (sizeof letters - 1)];
        frames(deep, sizeof deep);
    }
}

/* ---- output ---- */

static int failed_with;

static void failed(void *opaque, int error)
{
    failed_with = error;
}

static void writer_loses_nothing(void)
{
    int fds[2];
    enum { TOTAL = 300000 };
    CU_ASSERT_FATAL(pipe(fds) == 0);
    struct writer *w = writer_create(fds[1], failed, NULL);
    uint8_t block[1000];
    for (int i = 0; i < TOTAL; i += 1000) {
        for (int k = 0; k < 1000; k++)
            block[k] = (uint8_t)((i + k) % 251);
        writer_put(w, block, sizeof block);
    }
    int got = 0, wrong = 0;
    static uint8_t buf[65536];
    while (got < TOTAL) {
        ssize_t n = read(fds[0], buf, sizeof buf);
        if (n <= 0)
            break;
        for (ssize_t k = 0; k < n; k++, got++)
            wrong += buf[k] != got % 251;
    }
    CU_ASSERT_EQUAL(got, TOTAL);
    CU_ASSERT_EQUAL(wrong, 0);
    writer_put(w, (const uint8_t *)"end", 3);
    CU_ASSERT_EQUAL(writer_destroy(w, 1000), 0);
    CU_ASSERT_EQUAL(read(fds[0], buf, sizeof buf), 3);
    /* nobody reads: the end comes all the same */
    w = writer_create(fds[1], failed, NULL);
    for (int i = 0; i < 200; i++)
        writer_put(w, block, sizeof block);
    CU_ASSERT(writer_destroy(w, 50) > 0);
    close(fds[0]);
    /* the reader has gone */
    struct sigaction ignore = {.sa_handler = SIG_IGN}, old;
    sigaction(SIGPIPE, &ignore, &old);
    failed_with = 0;
    w = writer_create(fds[1], failed, NULL);
    writer_put(w, block, 10);
    CU_ASSERT_EQUAL(writer_destroy(w, 1000), 10);
    CU_ASSERT_EQUAL(failed_with, EPIPE);
    sigaction(SIGPIPE, &old, NULL);
    close(fds[1]);
}

static void sockets(void)
{
    char path[64];
    struct unix_listener a, b;
    snprintf(path, sizeof path, "/tmp/ringfold-socket-%d", getpid());
    CU_ASSERT_EQUAL(unix_listen(&a, path, err, sizeof err), 0);
    CU_ASSERT_EQUAL(unix_listen(&b, path, err, sizeof err), -1);
    CU_ASSERT(strstr(err, "in use") != NULL);
    close(a.fd); /* as if the process had died: the file stays */
    CU_ASSERT_EQUAL(access(path, F_OK), 0);
    CU_ASSERT_EQUAL(unix_listen(&b, path, err, sizeof err), 0);
    unix_listener_close(&b);
    cleanup_forget(a.cleanup);
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0);
    FILE *f = fopen(path, "w");
    fclose(f);
    CU_ASSERT_EQUAL(unix_listen(&b, path, err, sizeof err), -1);
    CU_ASSERT(strstr(err, "not a socket") != NULL);
    unlink(path);
    char long_path[200];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[sizeof long_path - 1] = 0;
    CU_ASSERT_EQUAL(unix_listen(&b, long_path, err, sizeof err), -1);
    CU_ASSERT(strstr(err, "too long") != NULL);
}

static void files_whole_or_not(void)
{
    char path[64], line[16] = "";
    struct new_file f;
    snprintf(path, sizeof path, "/tmp/ringfold-new-%d", getpid());
    CU_ASSERT_EQUAL(new_file_open(&f, path, err, sizeof err), 0);
    fputs("text", f.stream);
    CU_ASSERT_NOT_EQUAL(access(path, F_OK), 0); /* not before it is whole */
    CU_ASSERT_EQUAL(new_file_commit(&f, err, sizeof err), 0);
    FILE *in = fopen(path, "r");
    CU_ASSERT(in && fgets(line, sizeof line, in) && !strcmp(line, "text"));
    fclose(in);
    unlink(path);
    CU_ASSERT_EQUAL(new_file_open(&f, "/nonexistent/x", err, sizeof err), -1);
    CU_ASSERT_EQUAL(new_file_check("/nonexistent/x", err, sizeof err), -1);
    CU_ASSERT_STRING_EQUAL(err, "/nonexistent/x: No such file or directory");
    CU_ASSERT_EQUAL(new_file_check("/tmp", err, sizeof err), -1);
    CU_ASSERT_EQUAL(new_file_check(path, err, sizeof err), 0);
    CU_ASSERT_EQUAL(new_file_open(&f, "/dev/null", err, sizeof err), 0);
    CU_ASSERT_EQUAL(new_file_commit(&f, err, sizeof err), 0);
    struct stat st;
    CU_ASSERT(stat("/dev/null", &st) == 0 && S_ISCHR(st.st_mode));
}

/* ---- serial back ends ---- */

static char taken[16];
static size_t taken_len, room;

static size_t chip_room(void *chip)
{
    return room;
}

static void chip_take(void *chip, const uint8_t *buf, size_t len)
{
    CU_ASSERT(len <= room && taken_len + len < sizeof taken);
    memcpy(taken + taken_len, buf, len);
    taken_len += len;
    room -= len;
}

static void unix_serial_port(void)
{
    char spec[80];
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct clock *clock = clock_create(false);
    struct loop *loop = loop_create(clock, &lock);
    struct backend *b, *c;
    const struct backend_events events = {0};
    snprintf(spec, sizeof spec, "unix:/tmp/ringfold-serial-%d", getpid());
    CU_ASSERT_FATAL(backend_open(&b, spec, err, sizeof err) == 0);
    CU_ASSERT_EQUAL(backend_open(&c, spec, err, sizeof err), -1);
    CU_ASSERT(strstr(err, spec) && strstr(err, "in use"));
    b->chardev.can_receive = chip_room;
    b->chardev.receive = chip_take;
    CU_ASSERT_EQUAL(backend_attach(b, loop, &events), 0);
    chardev_write(&b->chardev, (const uint8_t *)"early ", 6); /* before anybody listens */
    int fd = unix_connect(spec + 5, err, sizeof err);
    CU_ASSERT_FATAL(fd >= 0);
    struct timer stop;
    taken_len = 0;
    room = 2;
    CU_ASSERT(write(fd, "hello", 5) == 5);
    timer_init(&stop, clock, (void (*)(void *))loop_quit, loop);
    timer_arm(&stop, clock_now(clock) + 50 * NS_PER_MS);
    loop_run(loop);
    CU_ASSERT_EQUAL(taken_len, 2); /* no more than the chip has room for */
    room = 10;
    b->chardev.accept_input(b->chardev.backend);
    CU_ASSERT(taken_len == 5 && !memcmp(taken, "hello", 5));
    chardev_write(&b->chardev, (const uint8_t *)"late", 4);
    CU_ASSERT_EQUAL(backend_close(b, 100), 0);
    char got[16] = "";
    size_t len = 0;
    for (ssize_t n; len < sizeof got - 1 && (n = read(fd, got + len, sizeof got - 1 - len)) > 0;)
        len += (size_t)n;
    if (strcmp(got, "early late"))
        printf("got \"%s\"\n", got);
    CU_ASSERT_STRING_EQUAL(got, "early late");
    CU_ASSERT_NOT_EQUAL(access(spec + 5, F_OK), 0);
    close(fd);
    loop_destroy(loop);
    clock_destroy(clock);
}

static void file_serial_port(void)
{
    struct backend *b;
    char spec[80], line[16] = "";
    snprintf(spec, sizeof spec, "file:/tmp/ringfold-serial-file-%d", getpid());
    CU_ASSERT_FATAL(backend_open(&b, spec, err, sizeof err) == 0);
    chardev_write(&b->chardev, (const uint8_t *)"hello", 5);
    CU_ASSERT_EQUAL(backend_close(b, 1000), 0);
    FILE *in = fopen(spec + 5, "r");
    CU_ASSERT(in && fgets(line, sizeof line, in) && !strcmp(line, "hello"));
    fclose(in);
    unlink(spec + 5);
    CU_ASSERT_EQUAL(backend_open(&b, "file:/nonexistent/x", err, sizeof err), -1);
    CU_ASSERT_STRING_EQUAL(err, "--serial file:/nonexistent/x: No such file or directory");
    CU_ASSERT_EQUAL(backend_open(&b, "none", err, sizeof err), 0);
    CU_ASSERT_PTR_NULL(b);
}

TEST_SUITE(frontend, {"sizes", sizes}, {"seconds", seconds}, {"command lines that are right", good_lines},
           {"every bad value is named with its reason", bad_lines}, {"kinds of images", image_kinds},
           {"key names and characters", key_names}, {"escapes in typed text", escapes},
           {"the typist keeps a pace and leaves no key down", typist_keeps_pace}, {"JSON framing", json_framing},
           {"output is written whole, or given up at the end", writer_loses_nothing},
           {"sockets: busy, stale, not a socket", sockets}, {"files are whole or not there", files_whole_or_not},
           {"serial port on a socket", unix_serial_port}, {"serial port into a file", file_serial_port})
