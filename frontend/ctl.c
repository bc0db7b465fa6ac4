/* SPDX-License-Identifier: MIT */
/* `ringfold ctl`: one command to a running machine's control socket. */
#include "frontend/cleanup.h"
#include "frontend/commands.h"
#include "frontend/json_stream.h"
#include "frontend/options.h"
#include "frontend/unix_socket.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { GREETING_TIMEOUT_MS = 10000 };

static const char help[] =
    "Usage: ringfold ctl SOCKET COMMAND [ARGUMENTS]\n"
    "\n"
    "Sends one command to a machine that was started with --qmp unix:SOCKET and prints its result.\n"
    "\n"
    "  query-status                 is it running?\n"
    "  stop, cont                   stand still, go on\n"
    "  system_reset                 the reset button\n"
    "  system_powerdown             the power button, which the guest may act on\n"
    "  quit                         end the machine\n"
    "  screendump FILE              the screen as PNG\n"
    "  x-screen-text                the text on the screen\n"
    "  x-type TEXT                  type on the guest's keyboard; \\n is Enter, \\t \\b \\e \\\\ \\xHH also work.\n"
    "                               Returns when all is typed\n"
    "  send-key KEY[-KEY...]        press keys together: ctrl-alt-delete, f1, ret\n"
    "  input-send-event EVENTS      as JSON: '[{\"type\":\"rel\",\"data\":{\"axis\":\"x\",\"value\":5}}]'\n"
    "  eject DRIVE                  cdrom0, floppy0, ...\n"
    "  blockdev-change-medium DRIVE FILE\n"
    "  x-stats                      the engine's counters\n"
    "  x-hot-blocks [COUNT]         the hottest code so far, guest and host side by side; for a machine that was\n"
    "                               started with --stats or --hot-blocks\n"
    "  x-engine bt|kvm              another engine runs the machine from here on\n"
    "  query-version, query-commands\n"
    "\n"
    "Further arguments are NAME=VALUE (VALUE: JSON, or a word). A COMMAND that begins with { is sent as it is.\n"
    "Exit status: 0 done, 1 the machine refused or is not there, 64 the command line is wrong.\n";

/* The argument that a bare word stands for, by position. */
static const struct {
    const char *command;
    const char *names[2];
} positions[] = {
    {"screendump", {"filename", "format"}},
    {"x-type", {"text", NULL}},
    {"send-key", {"keys", NULL}},
    {"input-send-event", {"events", NULL}},
    {"eject", {"device", NULL}},
    {"x-engine", {"name", NULL}},
    {"x-hot-blocks", {"count", NULL}},
    {"blockdev-change-medium", {"device", "filename"}},
};

static const char *position_name(const char *command, int position)
{
    for (size_t i = 0; i < sizeof positions / sizeof *positions && position < 2; i++)
        if (!strcmp(positions[i].command, command))
            return positions[i].names[position];
    return NULL;
}

/* "ctrl-alt-delete" as QMP's list of keys; names may hold '_' but no '-'. */
static cJSON *key_list(const char *word)
{
    cJSON *list = cJSON_CreateArray();
    for (;;) {
        size_t len = strcspn(word, "-");
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(len > 63 ? 63 : len), word);
        cJSON *key = cJSON_CreateObject();
        cJSON_AddStringToObject(key, "type", "qcode");
        cJSON_AddStringToObject(key, "data", name);
        cJSON_AddItemToArray(list, key);
        if (!word[len])
            return list;
        word += len + 1;
    }
}

/* A file name for the machine's process, which may have another working directory. */
static cJSON *absolute_path(const char *path)
{
    char cwd[PATH_MAX], full[2 * PATH_MAX];
    if (*path == '/' || !*path || !getcwd(cwd, sizeof cwd))
        return cJSON_CreateString(path);
    snprintf(full, sizeof full, "%s/%s", cwd, path);
    return cJSON_CreateString(full);
}

static cJSON *make_value(const char *name, const char *word)
{
    if (!strcmp(name, "filename"))
        return absolute_path(word);
    if (!strcmp(name, "text") || !strcmp(name, "device") || !strcmp(name, "id"))
        return cJSON_CreateString(word);
    if (!strcmp(name, "keys") && *word != '[')
        return key_list(word);
    cJSON *value = cJSON_ParseWithOpts(word, NULL, true);
    return value ? value : cJSON_CreateString(word);
}

/* The request of a command in words; NULL with one line on stderr. */
static cJSON *make_request(int count, char **words)
{
    cJSON *request = cJSON_CreateObject();
    cJSON_AddStringToObject(request, "execute", words[0]);
    cJSON *arguments = cJSON_AddObjectToObject(request, "arguments");
    int position = 0;
    for (int i = 1; i < count; i++) {
        const char *equals = strchr(words[i], '=');
        const char *name = position_name(words[0], position);
        char given[64];
        const char *value = words[i];
        bool simple = equals && equals > words[i] &&
                      strspn(words[i], "abcdefghijklmnopqrstuvwxyz-_") == (size_t)(equals - words[i]);
        /* What is to be typed, and a first file name, may hold a '='. */
        if (simple &&
            !(name && (!strcmp(name, "text") || !strcmp(name, "filename")) && strncmp(value, name, strlen(name)))) {
            snprintf(given, sizeof given, "%.*s", (int)(equals - words[i] > 63 ? 63 : equals - words[i]), words[i]);
            name = given;
            value = equals + 1;
        } else {
            position++;
        }
        if (!name) {
            complain("ctl: %s: unexpected argument \"%s\" (NAME=VALUE is possible)", words[0], words[i]);
            cJSON_Delete(request);
            return NULL;
        }
        cJSON_AddItemToObject(arguments, name, make_value(name, value));
    }
    const char *missing = position_name(words[0], 0);
    if (missing && !arguments->child) {
        complain("ctl: %s: an argument is missing (%s)", words[0], missing);
        cJSON_Delete(request);
        return NULL;
    }
    if (!arguments->child)
        cJSON_DeleteItemFromObjectCaseSensitive(request, "arguments");
    return request;
}

/* ---- the conversation ---- */

struct conversation {
    const char *path;
    int fd;
    struct json_stream stream;
    char buf[4096];
    size_t start, end;
};

static bool send_request(struct conversation *c, const cJSON *request)
{
    char *text = cJSON_PrintUnformatted(request);
    size_t len = text ? strlen(text) : 0, done = 0;
    while (done < len) {
        ssize_t n = send(c->fd, text + done, len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    cJSON_free(text);
    if (len && done == len)
        return true;
    complain("ctl: %s: %s", c->path, strerror(errno));
    return false;
}

/* The next object; NULL with one line on stderr. */
static cJSON *receive(struct conversation *c, int timeout_ms)
{
    for (;;) {
        while (c->start < c->end) {
            enum json_stream_result r = json_stream_put(&c->stream, c->buf[c->start++]);
            if (r == JSON_STREAM_OBJECT) {
                cJSON *object = cJSON_ParseWithLength(c->stream.buf, c->stream.len);
                json_stream_next(&c->stream);
                if (object)
                    return object;
            }
            if (r != JSON_STREAM_MORE) {
                complain("ctl: %s: does not speak QMP", c->path);
                return NULL;
            }
        }
        struct pollfd p = {.fd = c->fd, .events = POLLIN};
        int ready = poll(&p, 1, timeout_ms);
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t n = ready > 0 ? recv(c->fd, c->buf, sizeof c->buf, 0) : -1;
        if (n <= 0) {
            complain("ctl: %s: %s", c->path, ready == 0 ? "no answer" : n == 0 ? "the machine ended" : strerror(errno));
            return NULL;
        }
        c->start = 0;
        c->end = (size_t)n;
    }
}

/* The reply to a request, events left out. */
static cJSON *ask(struct conversation *c, const cJSON *request)
{
    if (!send_request(c, request))
        return NULL;
    for (;;) {
        cJSON *reply = receive(c, -1);
        if (!reply || cJSON_HasObjectItem(reply, "return") || cJSON_HasObjectItem(reply, "error"))
            return reply;
        cJSON_Delete(reply);
    }
}

/* Prints a reply; the exit status. */
static int show(const char *command, const cJSON *reply)
{
    const cJSON *error = cJSON_GetObjectItemCaseSensitive(reply, "error");
    const cJSON *result = cJSON_GetObjectItemCaseSensitive(reply, "return");
    if (error) {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(error, "desc");
        complain("ctl: %s: %s", command, cJSON_IsString(text) ? text->valuestring : "refused");
        return 1;
    }
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(result, "text");
    bool plain = !strcmp(command, "x-screen-text") || !strcmp(command, "x-hot-blocks");
    if (plain && cJSON_IsString(text)) {
        fputs(text->valuestring, stdout);
    } else if (result && (result->child || !cJSON_IsObject(result))) {
        char *json = cJSON_Print(result);
        puts(json ? json : "");
        cJSON_free(json);
    }
    if (fflush(stdout) == 0)
        return 0;
    complain("ctl: stdout: %s", strerror(errno));
    return 1;
}

static int converse(struct conversation *c, const char *command, const cJSON *request)
{
    int status = 1;
    cJSON *greeting = receive(c, GREETING_TIMEOUT_MS), *reply = NULL, *negotiation = cJSON_CreateObject();
    cJSON_AddStringToObject(negotiation, "execute", "qmp_capabilities");
    if (greeting && !cJSON_HasObjectItem(greeting, "QMP"))
        complain("ctl: %s: does not speak QMP", c->path);
    else if (greeting)
        reply = ask(c, negotiation);
    if (reply) {
        cJSON_Delete(reply);
        reply = ask(c, request);
        if (reply)
            status = show(command, reply);
    }
    cJSON_Delete(reply);
    cJSON_Delete(negotiation);
    cJSON_Delete(greeting);
    return status;
}

int command_ctl(int argc, char **argv)
{
    char reason[160];
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))) {
        fputs(help, stdout);
        return fflush(stdout) ? EXIT_HOST : 0;
    }
    if (argc < 3) {
        complain("ctl: SOCKET and COMMAND are expected (see ringfold ctl --help)");
        return EXIT_USAGE;
    }
    bool as_is = argv[2][0] == '{';
    if (as_is && argc > 3) {
        complain("ctl: unexpected argument \"%s\" behind the JSON", argv[3]);
        return EXIT_USAGE;
    }
    cJSON *request = as_is ? cJSON_ParseWithOpts(argv[2], NULL, true) : make_request(argc - 2, argv + 2);
    if (!request) {
        if (as_is)
            complain("ctl: %s: not JSON", argv[2]);
        return EXIT_USAGE;
    }
    const cJSON *execute = cJSON_GetObjectItemCaseSensitive(request, "execute");
    const char *path = strncmp(argv[1], "unix:", 5) ? argv[1] : argv[1] + 5;
    struct conversation c = {.path = path, .fd = unix_connect(path, reason, sizeof reason)};
    int status = 1;
    if (c.fd < 0)
        complain("ctl: %s: %s", path, reason);
    else
        status = converse(&c, cJSON_IsString(execute) ? execute->valuestring : "command", request);
    if (c.fd >= 0)
        close(c.fd);
    json_stream_free(&c.stream);
    cJSON_Delete(request);
    return status;
}
