/* SPDX-License-Identifier: MIT */
/* The control socket against a fake machine: a client on a socket pair, the loop driven for a few milliseconds at a
 * time. */
#include "frontend/qmp.h"
#include "tests/test.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct clock *clock_;
static struct loop *loop;
static struct qmp *qmp;
static int client = -1;
static char answer[1 << 16];

static struct {
    bool running, quit;
    int resets, powerdowns, keys, dx, dy, dz;
    unsigned last_key, buttons;
    struct qmp_medium medium;
    char path[64];
    bool graphics;
} fake;

static bool running(void *opaque)
{
    return fake.running;
}
static void stop(void *opaque)
{
    fake.running = false;
}
static void cont(void *opaque)
{
    fake.running = true;
}
static void reset(void *opaque)
{
    fake.resets++;
}
static void powerdown(void *opaque)
{
    fake.powerdowns++;
}
static void quit(void *opaque)
{
    fake.quit = true;
}
static void key(void *opaque, unsigned code, bool down)
{
    fake.keys++;
    if (down)
        fake.last_key = code;
}
static void mouse(void *opaque, int dx, int dy, int dz, unsigned buttons)
{
    fake.dx += dx;
    fake.dy += dy;
    fake.dz += dz;
    fake.buttons = buttons;
}
static const struct surface *draw(void *chip, bool full, bool *changed)
{
    static uint32_t pixels[4] = {0xff0000, 0xff00, 0xff, 0};
    static const struct surface s = {2, 2, 2, pixels};
    *changed = true;
    return &s;
}
static bool text(void *chip, char *buf, size_t len)
{
    snprintf(buf, len, "A:\\>\n");
    return !fake.graphics;
}
static const struct display_source *display(void *opaque)
{
    static const struct display_source d = {draw, text, NULL};
    return &d;
}
static cJSON *stats(void *opaque)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "blocks", 42);
    return o;
}
static int change(void *opaque, const struct qmp_medium *medium, char *err, size_t err_len)
{
    fake.medium = *medium;
    snprintf(fake.path, sizeof fake.path, "%s", medium->options ? medium->options->path : "");
    if (medium->slot > 1) {
        snprintf(err, err_len, "no such drive");
        return -ENODEV;
    }
    return 0;
}

static int add_client(void)
{
    int fds[2];
    CU_ASSERT_FATAL(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    CU_ASSERT_FATAL(qmp_add_client(qmp, fds[1]) == 0);
    return fds[0];
}

static void turn(unsigned ms)
{
    struct timer t;
    timer_init(&t, clock_, (void (*)(void *))loop_quit, loop);
    timer_arm(&t, clock_now(clock_) + ms * NS_PER_MS);
    loop_run(loop);
}

/* Answers are waited for as long as a very busy machine may need. */
enum { PATIENCE_MS = 20000 };

/* Adds what has come to fd to the answer. False: the other side has closed it. */
static bool receive(int fd, size_t *got)
{
    ssize_t n = recv(fd, answer + *got, sizeof answer - 1 - *got, 0);
    *got += n > 0 ? (size_t)n : 0;
    answer[*got] = 0;
    return n != 0;
}

/* Sends len bytes and gives what came back until part is in it or the connection is closed. */
static const char *talk_bytes(int fd, const char *bytes, size_t len, const char *part)
{
    size_t sent = 0, got = 0;
    unsigned waited = 0;
    bool open;
    answer[0] = 0;
    do {
        ssize_t n = len > sent ? send(fd, bytes + sent, len - sent, MSG_NOSIGNAL) : 0;
        sent += n > 0 ? (size_t)n : 0;
        turn(1);
        open = receive(fd, &got);
    } while (open && (sent < len || !strstr(answer, part)) && waited++ < PATIENCE_MS);
    return answer;
}

static const char *talk(const char *line, const char *part)
{
    return talk_bytes(client, line, strlen(line), part);
}

static void wait_for_keys(int keys)
{
    for (unsigned waited = 0; fake.keys < keys && waited < PATIENCE_MS; waited++)
        turn(1);
    CU_ASSERT_EQUAL(fake.keys, keys);
}

static char *hot_blocks(void *opaque, unsigned count, char *err, size_t err_len)
{
    char *text;
    if (count == 13) {
        snprintf(err, err_len, "not thirteen");
        return NULL;
    }
    return asprintf(&text, "%u hot\n", count) < 0 ? NULL : text;
}

static void set_up(void)
{
    static const struct qmp_target target = {.running = running,
                                             .stop = stop,
                                             .cont = cont,
                                             .reset = reset,
                                             .powerdown = powerdown,
                                             .quit = quit,
                                             .key = key,
                                             .mouse = mouse,
                                             .display = display,
                                             .stats = stats,
                                             .hot_blocks = hot_blocks,
                                             .change_medium = change};
    char err[256];
    memset(&fake, 0, sizeof fake);
    fake.running = true;
    clock_ = clock_create(false);
    loop = loop_create(clock_, &lock);
    qmp = qmp_open(NULL, err, sizeof err);
    CU_ASSERT_FATAL(qmp && qmp_attach(qmp, loop, clock_, &target) == 0);
    client = add_client();
    CU_ASSERT(strstr(talk("", "\r\n"), "{\"QMP\":{\"version\":{\"qemu\":{\"major\":") != NULL);
}

static void negotiate(void)
{
    set_up();
    CU_ASSERT_STRING_EQUAL(talk("{\"execute\":\"qmp_capabilities\"}", "\r\n"), "{\"return\":{}}\r\n");
}

static void tear_down(void)
{
    close(client);
    qmp_close(qmp);
    loop_destroy(loop);
    clock_destroy(clock_);
}

#define EXPECT(line, part)                                                                                             \
    do {                                                                                                               \
        if (!strstr(talk(line, part), part))                                                                           \
            printf("%s gave %s\n", line, answer);                                                                      \
        CU_ASSERT(strstr(answer, part) != NULL);                                                                       \
    } while (0)

static void negotiation_comes_first(void)
{
    set_up();
    EXPECT("{\"execute\":\"query-status\"}", "CommandNotFound");
    EXPECT("{\"execute\":\"qmp_capabilities\",\"id\":[1,\"x\"]}", "\"id\":[1,\"x\"]");
    EXPECT("{\"execute\":\"qmp_capabilities\"}", "already complete");
    EXPECT("{\"execute\":\"query-status\",\"id\":7}", "\"running\":true");
    CU_ASSERT(strstr(answer, "\"id\":7") != NULL);
    tear_down();
}

static void requests_in_pieces_and_many_at_once(void)
{
    negotiate();
    EXPECT("{\"execu", "");
    CU_ASSERT_STRING_EQUAL(answer, "");
    EXPECT("te\": \"query-version\"", "");
    EXPECT("}", "ringfold");
    EXPECT("{\"execute\":\"query-status\",\"id\":1}{\"execute\":\"query-status\",\"id\":2}\n", "\"id\":2");
    CU_ASSERT(strstr(answer, "\"id\":1") != NULL);
    tear_down();
}

static void malformed_requests(void)
{
    negotiate();
    EXPECT("garbage\n", "\"error\"");
    EXPECT("{]}\n", "Invalid JSON");
    EXPECT("{\"execute\":5}", "must be a string");
    EXPECT("{\"exec\":\"x\"}", "lacks member");
    EXPECT("{\"execute\":\"stop\",\"arguments\":[]}", "must be an object");
    EXPECT("{\"execute\":\"stop\",\"other\":1}", "unexpected");
    EXPECT("{\"execute\":\"stop\",\"arguments\":{\"x\":1}}", "'x' is unexpected");
    EXPECT("{\"execute\":\"no-such\"}", "CommandNotFound");
    CU_ASSERT(fake.running);
    EXPECT("{\"execute\":\"query-status\"}", "\"running\":true");
    /* larger than is taken: an error, and the connection ends; the machine and other clients go on */
    int other = add_client();
    char *large = malloc(2 << 20);
    memset(large, 'x', 2 << 20);
    memcpy(large, "{\"a\":\"", 6);
    talk_bytes(other, large, 2 << 20, "\"error\"");
    CU_ASSERT(strstr(answer, "\"error\"") != NULL);
    free(large);
    close(other);
    EXPECT("{\"execute\":\"query-status\"}", "\"running\":true");
    tear_down();
}

static void machine_commands_and_events(void)
{
    negotiate();
    EXPECT("{\"execute\":\"stop\"}", "\"event\":\"STOP\"");
    CU_ASSERT(!fake.running);
    EXPECT("{\"execute\":\"query-status\"}", "\"paused\"");
    EXPECT("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"a\"}}", "stopped");
    EXPECT("{\"execute\":\"cont\"}", "\"event\":\"RESUME\"");
    EXPECT("{\"execute\":\"system_powerdown\"}", "\"event\":\"POWERDOWN\"");
    EXPECT("{\"execute\":\"system_reset\"}", "\"return\":{}");
    CU_ASSERT(fake.resets == 1 && fake.powerdowns == 1);
    EXPECT("{\"execute\":\"x-stats\"}", "\"blocks\":42");
    EXPECT("{\"execute\":\"x-hot-blocks\"}", "20 hot");
    EXPECT("{\"execute\":\"x-hot-blocks\",\"arguments\":{\"count\":3}}", "3 hot");
    EXPECT("{\"execute\":\"x-hot-blocks\",\"arguments\":{\"count\":13}}", "not thirteen");
    EXPECT("{\"execute\":\"x-hot-blocks\",\"arguments\":{\"count\":0}}", "1 to 1000");
    EXPECT("{\"execute\":\"x-hot-blocks\",\"arguments\":{\"count\":\"x\"}}", "1 to 1000");
    EXPECT("{\"execute\":\"query-commands\"}", "\"x-screen-text\"");
    EXPECT("{\"execute\":\"x-screen-text\"}", "A:\\\\>");
    fake.graphics = true;
    EXPECT("{\"execute\":\"x-screen-text\"}", "graphics mode");
    EXPECT("{\"execute\":\"quit\"}", "\"return\":{}");
    CU_ASSERT(fake.quit);
    tear_down();
}

static void screendump(void)
{
    char line[200], path[64];
    negotiate();
    snprintf(path, sizeof path, "/tmp/ringfold-dump-%d.png", getpid());
    snprintf(line, sizeof line, "{\"execute\":\"screendump\",\"arguments\":{\"filename\":\"%s\"}}", path);
    EXPECT(line, "\"return\":{}");
    CU_ASSERT_EQUAL(unlink(path), 0);
    EXPECT("{\"execute\":\"screendump\",\"arguments\":{\"filename\":\"/nonexistent/x.png\"}}",
           "/nonexistent/x.png: No such file");
    EXPECT("{\"execute\":\"screendump\"}", "'filename' is missing");
    EXPECT("{\"execute\":\"screendump\",\"arguments\":{\"filename\":5}}", "expected: string");
    EXPECT("{\"execute\":\"screendump\",\"arguments\":{\"filename\":\"x\",\"format\":\"ppm\"}}", "only png");
    tear_down();
}

static void input(void)
{
    negotiate();
    EXPECT("{\"execute\":\"send-key\",\"arguments\":{\"keys\":[{\"type\":\"qcode\",\"data\":\"ctrl\"},"
           "{\"type\":\"number\",\"data\":211}],\"hold-time\":1}}",
           "\"return\":{}");
    wait_for_keys(4);
    CU_ASSERT_EQUAL(fake.last_key, 0xe053);
    EXPECT("{\"execute\":\"send-key\",\"arguments\":{\"keys\":[{\"type\":\"qcode\",\"data\":\"xx\"}]}}", "is no key");
    EXPECT("{\"execute\":\"send-key\",\"arguments\":{\"keys\":[]}}", "\"error\"");
    EXPECT("{\"execute\":\"send-key\",\"arguments\":{\"keys\":[5.5,{}]}}", "\"error\"");
    EXPECT("{\"execute\":\"send-key\",\"arguments\":{\"keys\":[\"a\"],\"hold-time\":-1}}", "hold-time");
    fake.keys = 0;
    EXPECT("{\"execute\":\"input-send-event\",\"arguments\":{\"events\":["
           "{\"type\":\"rel\",\"data\":{\"axis\":\"x\",\"value\":5}},{\"type\":\"rel\",\"data\":{\"axis\":\"y\","
           "\"value\":-3}},"
           "{\"type\":\"btn\",\"data\":{\"button\":\"right\",\"down\":true}},"
           "{\"type\":\"btn\",\"data\":{\"button\":\"wheel-up\",\"down\":true}},"
           "{\"type\":\"key\",\"data\":{\"down\":true,\"key\":{\"type\":\"qcode\",\"data\":\"ret\"}}}]}}",
           "\"return\":{}");
    CU_ASSERT(fake.dx == 5 && fake.dy == -3 && fake.dz == -1 && fake.buttons == 2 && fake.keys == 1);
    EXPECT("{\"execute\":\"input-send-event\",\"arguments\":{\"events\":[{\"type\":\"rel\",\"data\":{\"axis\":\"x\","
           "\"value\":1}},"
           "{\"type\":\"abs\",\"data\":{}}]}}",
           "\"error\"");
    CU_ASSERT_EQUAL(fake.dx, 5);
    EXPECT("{\"execute\":\"input-send-event\",\"arguments\":{\"events\":[{\"type\":\"rel\",\"data\":{\"axis\":\"x\","
           "\"value\":1e300}}]}}",
           "out of range");
    tear_down();
}

static void typing(void)
{
    negotiate();
    /* answered when it is typed; what comes behind waits */
    EXPECT("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"ab\\n\"},\"id\":1}", "\"id\":1");
    CU_ASSERT_EQUAL(fake.keys, 6);
    EXPECT("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"c\"},\"id\":2}"
           "{\"execute\":\"query-status\",\"id\":3}",
           "\"id\":3");
    CU_ASSERT_EQUAL(fake.keys, 8);
    const char *first = strstr(answer, "{\"return\":{},\"id\":2}");
    CU_ASSERT(first && first < strstr(answer, "\"id\":3"));
    EXPECT("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"\\u00e4\"}}", "no key of a US keyboard");
    EXPECT("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"\"}}", "\"return\":{}");
    /* another client stops the machine in the middle */
    EXPECT("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"a long text that takes a while\"},\"id\":4}", "");
    int other = add_client();
    static const char both[] = "{\"execute\":\"qmp_capabilities\"}{\"execute\":\"stop\"}";
    talk_bytes(other, both, sizeof both - 1, "\"event\":\"STOP\"");
    EXPECT("", "stopped or reset");
    close(other);
    /* the client leaves while its text is being typed */
    fake.running = true;
    fake.keys = 0;
    talk("{\"execute\":\"x-type\",\"arguments\":{\"text\":\"abc\"}}", "");
    close(client);
    wait_for_keys(6);
    client = -1;
    tear_down();
}

static void media(void)
{
    negotiate();
    EXPECT("{\"execute\":\"blockdev-change-medium\",\"arguments\":{\"device\":\"cdrom1\",\"filename\":\"/x.iso\"}}",
           "\"return\"");
    CU_ASSERT(!fake.medium.floppy && fake.medium.slot == 1 && !strcmp(fake.path, "/x.iso"));
    EXPECT("{\"execute\":\"eject\",\"arguments\":{\"id\":\"floppy0\"}}", "\"return\"");
    CU_ASSERT(fake.medium.floppy && fake.medium.slot == 0 && !fake.medium.options);
    EXPECT("{\"execute\":\"eject\",\"arguments\":{\"device\":\"cdrom9\"}}", "no such drive");
    EXPECT("{\"execute\":\"eject\",\"arguments\":{\"device\":\"hda\"}}", "not found");
    EXPECT("{\"execute\":\"eject\",\"arguments\":{\"device\":\"cdrom99999999999\"}}", "not found");
    EXPECT("{\"execute\":\"eject\"}", "missing");
    tear_down();
}

TEST_SUITE(qmp, {"negotiation comes first", negotiation_comes_first},
           {"requests in pieces, several at once", requests_in_pieces_and_many_at_once},
           {"malformed and oversized requests", malformed_requests},
           {"commands and events", machine_commands_and_events}, {"screendump", screendump}, {"keys and mouse", input},
           {"typing", typing}, {"removable media", media})
