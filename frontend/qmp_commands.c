/* SPDX-License-Identifier: MIT */
/* The commands of the control socket. Names and arguments are QMP's, but for those that begin with "x-". */
#include "frontend/qmp.h"
#include "frontend/version.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEYS_MAX = 16, SCREEN_TEXT_MAX = 256 << 10, HOLD_DEFAULT_MS = 100, HOLD_MAX_MS = 4000 };

static enum qmp_outcome fail(struct qmp_call *call, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static enum qmp_outcome fail(struct qmp_call *call, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(call->error, sizeof call->error, fmt, args);
    va_end(args);
    return QMP_FAILED;
}

/* A string argument; NULL when it is not there or no string (then the error is set). */
static const char *string_argument(struct qmp_call *call, const char *name, bool needed)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(call->arguments, name);
    if (cJSON_IsString(item))
        return item->valuestring;
    if (item)
        fail(call, "Invalid parameter type for '%s', expected: string", name);
    else if (needed)
        fail(call, "Parameter '%s' is missing", name);
    return NULL;
}

/* ---- the machine ---- */

static enum qmp_outcome query_status(struct qmp_call *call)
{
    bool running = call->target->running(call->target->opaque);
    call->result = cJSON_CreateObject();
    cJSON_AddStringToObject(call->result, "status", running ? "running" : "paused");
    cJSON_AddBoolToObject(call->result, "singlestep", false);
    cJSON_AddBoolToObject(call->result, "running", running);
    return QMP_DONE;
}

static enum qmp_outcome query_version(struct qmp_call *call)
{
    call->result = cJSON_CreateObject();
    version_add_json(call->result);
    return QMP_DONE;
}

static enum qmp_outcome stop(struct qmp_call *call)
{
    if (call->target->running(call->target->opaque)) {
        call->target->stop(call->target->opaque);
        /* Time stands still now: whoever waits for the typist would wait for ever. */
        typist_cancel(call->typist);
        qmp_event(call->qmp, "STOP", NULL);
    }
    return QMP_DONE;
}

static enum qmp_outcome cont(struct qmp_call *call)
{
    if (!call->target->running(call->target->opaque)) {
        call->target->cont(call->target->opaque);
        qmp_event(call->qmp, "RESUME", NULL);
    }
    return QMP_DONE;
}

static enum qmp_outcome system_reset(struct qmp_call *call)
{
    typist_cancel(call->typist);
    call->target->reset(call->target->opaque);
    return QMP_DONE;
}

static enum qmp_outcome system_powerdown(struct qmp_call *call)
{
    call->target->powerdown(call->target->opaque);
    qmp_event(call->qmp, "POWERDOWN", NULL);
    return QMP_DONE;
}

static enum qmp_outcome quit(struct qmp_call *call)
{
    call->target->quit(call->target->opaque);
    return QMP_DONE;
}

static enum qmp_outcome stats(struct qmp_call *call)
{
    call->result = call->target->stats(call->target->opaque);
    return call->result ? QMP_DONE : fail(call, "out of memory");
}

static enum qmp_outcome hot_blocks(struct qmp_call *call)
{
    enum { DEFAULT_COUNT = 20, MOST = 1000 };
    const cJSON *count = cJSON_GetObjectItemCaseSensitive(call->arguments, "count");
    double n = count ? count->valuedouble : DEFAULT_COUNT;
    if (count && !(cJSON_IsNumber(count) && n >= 1 && n <= MOST))
        return fail(call, "Parameter 'count' expects a number from 1 to %d", MOST);
    if (!call->target->hot_blocks)
        return fail(call, "this machine has no translated blocks");
    char *text = call->target->hot_blocks(call->target->opaque, (unsigned)n, call->error, sizeof call->error);
    if (!text)
        return QMP_FAILED;
    call->result = cJSON_CreateObject();
    cJSON_AddStringToObject(call->result, "text", text);
    free(text);
    return QMP_DONE;
}

/* ---- the screen ---- */

static enum qmp_outcome screendump(struct qmp_call *call)
{
    const char *path = string_argument(call, "filename", true), *format = string_argument(call, "format", false);
    const struct display_source *d = call->target->display(call->target->opaque);
    if (!path || *call->error)
        return QMP_FAILED;
    if (format && strcmp(format, "png"))
        return fail(call, "Parameter 'format' does not accept value '%.40s', only png", format);
    if (!d || !d->draw)
        return fail(call, "the machine has no display");
    bool changed;
    const struct surface *s = d->draw(d->chip, true, &changed);
    if (!s || !s->width || !s->height)
        return fail(call, "the display shows nothing yet");
    int code = png_write(path, s);
    return code ? fail(call, "%.300s: %s", path, strerror(-code)) : QMP_DONE;
}

static enum qmp_outcome screen_text(struct qmp_call *call)
{
    const struct display_source *d = call->target->display(call->target->opaque);
    if (!d || !d->text)
        return fail(call, "the machine has no display");
    char *text = calloc(1, SCREEN_TEXT_MAX);
    enum qmp_outcome outcome = QMP_DONE;
    if (!text)
        outcome = fail(call, "out of memory");
    else if (!d->text(d->chip, text, SCREEN_TEXT_MAX))
        outcome = fail(call, "the screen is in a graphics mode (screendump shows it)");
    else {
        call->result = cJSON_CreateObject();
        cJSON_AddStringToObject(call->result, "text", text);
    }
    free(text);
    return outcome;
}

/* ---- input ---- */

/* A KeyValue ({"type": "qcode", "data": "ret"} or number) or a bare name; 0 with the error set. */
static unsigned key_value(struct qmp_call *call, const cJSON *value)
{
    const cJSON *data = cJSON_IsObject(value) ? cJSON_GetObjectItemCaseSensitive(value, "data") : value;
    unsigned key = 0;
    if (cJSON_IsString(data)) {
        key = key_by_name(data->valuestring, strlen(data->valuestring));
        if (!key)
            fail(call, "'%.60s' is no key (the names are those of QKeyCode, such as ret, ctrl, f1)", data->valuestring);
    } else if (cJSON_IsNumber(data) && data->valuedouble >= 1 && data->valuedouble <= 255) {
        key = key_by_number((unsigned)data->valuedouble);
    }
    if (!key && !*call->error)
        fail(call, "a key is {\"type\": \"qcode\", \"data\": NAME} or {\"type\": \"number\", \"data\": 1-255}");
    return key;
}

static enum qmp_outcome send_key(struct qmp_call *call)
{
    const cJSON *keys = cJSON_GetObjectItemCaseSensitive(call->arguments, "keys"), *item;
    const cJSON *hold = cJSON_GetObjectItemCaseSensitive(call->arguments, "hold-time");
    unsigned codes[KEYS_MAX];
    size_t count = 0;
    double hold_ms = HOLD_DEFAULT_MS;
    if (!cJSON_IsArray(keys) || !keys->child)
        return fail(call, "Parameter 'keys' is missing or no array");
    if (hold) {
        if (!cJSON_IsNumber(hold) || !(hold->valuedouble >= 1 && hold->valuedouble <= HOLD_MAX_MS))
            return fail(call, "Parameter 'hold-time' expects milliseconds from 1 to %d", HOLD_MAX_MS);
        hold_ms = hold->valuedouble;
    }
    cJSON_ArrayForEach(item, keys)
    {
        if (count == KEYS_MAX)
            return fail(call, "more than %d keys", KEYS_MAX);
        codes[count] = key_value(call, item);
        if (!codes[count++])
            return QMP_FAILED;
    }
    int code = typist_chord(call->typist, codes, count, (uint64_t)(hold_ms * NS_PER_MS));
    return code ? fail(call, "too many keys are waiting to be pressed") : QMP_DONE;
}

/* Collects the events of one input-send-event before anything is sent, so that a bad one leaves no half. */
struct motion {
    int dx, dy, dz;
    unsigned buttons;
    bool moved;
};

static int add_button(struct qmp_call *call, const cJSON *data, struct motion *m)
{
    static const char *const names[] = {"left", "right", "middle"};
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(data, "button");
    bool down = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(data, "down"));
    m->moved = true;
    for (unsigned i = 0; cJSON_IsString(name) && i < 3; i++) {
        if (!strcmp(name->valuestring, names[i])) {
            m->buttons = down ? m->buttons | 1u << i : m->buttons & ~(1u << i);
            return 0;
        }
    }
    if (cJSON_IsString(name) && !strncmp(name->valuestring, "wheel-", 6)) {
        if (down && !strcmp(name->valuestring, "wheel-up"))
            m->dz--;
        else if (down && !strcmp(name->valuestring, "wheel-down"))
            m->dz++;
        return 0;
    }
    fail(call, "button is left, middle, right, wheel-up or wheel-down");
    return -1;
}

static int add_motion(struct qmp_call *call, const cJSON *data, struct motion *m)
{
    const cJSON *axis = cJSON_GetObjectItemCaseSensitive(data, "axis");
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(data, "value");
    if (!cJSON_IsString(axis) || !cJSON_IsNumber(value) ||
        (strcmp(axis->valuestring, "x") && strcmp(axis->valuestring, "y"))) {
        fail(call, "rel has an axis x or y and a value");
        return -1;
    }
    if (!(value->valuedouble >= -32768 && value->valuedouble <= 32767)) {
        fail(call, "value is out of range");
        return -1;
    }
    int *sum = axis->valuestring[0] == 'x' ? &m->dx : &m->dy;
    *sum += (int)value->valuedouble;
    if (*sum > 65535 || *sum < -65536)
        *sum = *sum < 0 ? -65536 : 65535;
    m->moved = true;
    return 0;
}

static enum qmp_outcome input_send_event(struct qmp_call *call)
{
    struct {
        unsigned key;
        bool down;
    } keys[64];
    size_t key_count = 0;
    struct motion m = {.buttons = *qmp_buttons(call->qmp)};
    const cJSON *events = cJSON_GetObjectItemCaseSensitive(call->arguments, "events"), *event;
    if (!cJSON_IsArray(events))
        return fail(call, "Parameter 'events' is missing or no array");
    cJSON_ArrayForEach(event, events)
    {
        const cJSON *type = cJSON_GetObjectItemCaseSensitive(event, "type");
        const cJSON *data = cJSON_GetObjectItemCaseSensitive(event, "data");
        const char *name = cJSON_IsString(type) && cJSON_IsObject(data) ? type->valuestring : "";
        if (!strcmp(name, "key")) {
            if (key_count == sizeof keys / sizeof *keys)
                return fail(call, "more than 64 key events at once");
            keys[key_count].key = key_value(call, cJSON_GetObjectItemCaseSensitive(data, "key"));
            keys[key_count].down = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(data, "down"));
            if (!keys[key_count++].key)
                return QMP_FAILED;
        } else if (!strcmp(name, "btn")) {
            if (add_button(call, data, &m))
                return QMP_FAILED;
        } else if (!strcmp(name, "rel")) {
            if (add_motion(call, data, &m))
                return QMP_FAILED;
        } else {
            return fail(call, "an event has a type key, btn or rel, and data");
        }
    }
    for (size_t i = 0; i < key_count; i++)
        call->target->key(call->target->opaque, keys[i].key, keys[i].down);
    *qmp_buttons(call->qmp) = m.buttons;
    if (m.moved)
        call->target->mouse(call->target->opaque, m.dx, m.dy, m.dz, m.buttons);
    return QMP_DONE;
}

static void typed(void *opaque, bool cancelled)
{
    qmp_finish(opaque, cancelled ? "the machine was stopped or reset before all was typed" : NULL);
}

static enum qmp_outcome type_text(struct qmp_call *call)
{
    const char *text = string_argument(call, "text", true);
    if (!text)
        return QMP_FAILED;
    if (!call->target->running(call->target->opaque))
        return fail(call, "the machine is stopped");
    char *keys = keys_unescape(text, call->error, sizeof call->error);
    if (!keys)
        return QMP_FAILED;
    int code = typist_type(call->typist, keys, typed, call->client);
    free(keys);
    return code ? fail(call, "too many keys are waiting to be pressed") : QMP_LATER;
}

/* ---- removable media ---- */

/* "cdrom0", "floppy1", without number for the first, or QEMU's "ide1-cd0". */
static int drive_name(struct qmp_call *call, struct qmp_medium *medium)
{
    const char *name = string_argument(call, "device", false);
    if (!name && !*call->error)
        name = string_argument(call, "id", false);
    if (!name) {
        if (!*call->error)
            fail(call, "Parameter 'device' is missing");
        return -1;
    }
    size_t len = strcspn(name, "0123456789");
    const char *digits = name + len;
    if (!strcmp(name, "ide1-cd0")) {
        len = 5;
        digits = "0";
        name = "cdrom";
    }
    medium->floppy = len == 6 && !memcmp(name, "floppy", 6);
    if ((!medium->floppy && !(len == 5 && !memcmp(name, "cdrom", 5))) || (*digits && digits[1])) {
        fail(call, "Device '%.60s' not found; there are cdrom0, cdrom1, ... and floppy0, floppy1", name);
        return -1;
    }
    medium->slot = *digits ? (unsigned)(*digits - '0') : 0;
    return 0;
}

static enum qmp_outcome change(struct qmp_call *call, struct qmp_medium *medium)
{
    int code = call->target->change_medium(call->target->opaque, medium, call->error, sizeof call->error);
    if (code && !*call->error)
        fail(call, "%s", strerror(code < 0 ? -code : EIO));
    return code ? QMP_FAILED : QMP_DONE;
}

static enum qmp_outcome eject(struct qmp_call *call)
{
    struct qmp_medium medium = {0};
    return drive_name(call, &medium) ? QMP_FAILED : change(call, &medium);
}

static enum qmp_outcome change_medium(struct qmp_call *call)
{
    struct qmp_medium medium = {0};
    if (drive_name(call, &medium))
        return QMP_FAILED;
    const char *path = string_argument(call, "filename", true), *mode = string_argument(call, "read-only-mode", false);
    struct block_options options = {.path = path, .format = string_argument(call, "format", false)};
    if (!path || *call->error)
        return QMP_FAILED;
    options.readonly = !medium.floppy || (mode && !strcmp(mode, "read-only"));
    medium.options = &options;
    return change(call, &medium);
}

static enum qmp_outcome engine(struct qmp_call *call)
{
    const char *name = string_argument(call, "name", true);
    if (!name)
        return QMP_FAILED;
    if (!call->target->set_engine)
        return fail(call, "the engine cannot be changed");
    return call->target->set_engine(call->target->opaque, name, call->error, sizeof call->error) ? QMP_FAILED
                                                                                                 : QMP_DONE;
}

/* ---- the table ---- */

static enum qmp_outcome query_commands(struct qmp_call *call);

static const struct command {
    const char *name;
    enum qmp_outcome (*run)(struct qmp_call *call);
    const char *arguments; /* the names that are accepted, each followed by a blank */
} commands[] = {
    {"query-status", query_status, ""},
    {"query-version", query_version, ""},
    {"query-commands", query_commands, ""},
    {"stop", stop, ""},
    {"cont", cont, ""},
    {"system_reset", system_reset, ""},
    {"system_powerdown", system_powerdown, ""},
    {"quit", quit, ""},
    {"screendump", screendump, "filename format device head "},
    {"send-key", send_key, "keys hold-time "},
    {"input-send-event", input_send_event, "events device head "},
    {"eject", eject, "device id force "},
    {"blockdev-change-medium", change_medium, "device id filename format read-only-mode force "},
    {"x-screen-text", screen_text, ""},
    {"x-stats", stats, ""},
    {"x-hot-blocks", hot_blocks, "count "},
    {"x-engine", engine, "name "},
    {"x-type", type_text, "text "},
};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static enum qmp_outcome query_commands(struct qmp_call *call)
{
    call->result = cJSON_CreateArray();
    for (int i = -1; i < COMMAND_COUNT; i++) {
        cJSON *entry = cJSON_CreateObject();
        cJSON_AddStringToObject(entry, "name", i < 0 ? "qmp_capabilities" : commands[i].name);
        cJSON_AddItemToArray(call->result, entry);
    }
    return QMP_DONE;
}

/* True when name is one of the accepted arguments. */
static bool accepted(const struct command *c, const char *name)
{
    size_t len = strlen(name);
    for (const char *p = c->arguments; *p; p += strcspn(p, " ") + 1)
        if (strcspn(p, " ") == len && !memcmp(p, name, len))
            return true;
    return false;
}

enum qmp_outcome qmp_command_run(struct qmp_call *call, const char *name)
{
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const cJSON *item;
        if (strcmp(commands[i].name, name))
            continue;
        cJSON_ArrayForEach(item, call->arguments) if (!accepted(&commands[i], item->string)) return fail(
            call, "Parameter '%.60s' is unexpected", item->string);
        return commands[i].run(call);
    }
    call->error_class = "CommandNotFound";
    return fail(call, "The command %.60s has not been found", name);
}
