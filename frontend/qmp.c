/* SPDX-License-Identifier: MIT */
#include "frontend/qmp.h"

#include "frontend/json_stream.h"
#include "frontend/unix_socket.h"
#include "frontend/version.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CLIENTS_MAX = 16, OUTPUT_MAX = 8 << 20, INPUT_CHUNK = 4096, CLOSE_PATIENCE_MS = 200 };

struct qmp_client {
    struct qmp *qmp;
    int fd; /* -1: a free slot */
    bool negotiated;
    bool waiting; /* a command is under way: no more input is handled */
    bool closing; /* no more input; goes when the output is out */
    cJSON *id;    /* of the command under way */
    struct json_stream stream;
    char input[INPUT_CHUNK]; /* read, not yet handled: [input_start, input_end) */
    size_t input_start, input_end;
    char *output;
    size_t output_len, output_room;
};

struct qmp {
    struct unix_listener listener;
    struct loop *loop;
    struct qmp_target target;
    struct typist *typist;
    unsigned buttons;
    struct qmp_client clients[CLIENTS_MAX];
};

unsigned *qmp_buttons(struct qmp *q)
{
    return &q->buttons;
}

/* ---- output ---- */

static void client_ready(void *opaque, int fd, unsigned events);

static void update_watch(struct qmp_client *c)
{
    unsigned events = (c->waiting || c->closing ? 0u : LOOP_READ) | (c->output_len ? LOOP_WRITE : 0u);
    if (c->fd >= 0 && c->qmp->loop)
        loop_watch(c->qmp->loop, c->fd, events, client_ready, c);
}

static void client_close(struct qmp_client *c)
{
    if (c->fd < 0)
        return;
    if (c->qmp->loop)
        loop_watch(c->qmp->loop, c->fd, 0, NULL, NULL);
    if (c->qmp->typist)
        typist_forget(c->qmp->typist, c);
    close(c->fd);
    cJSON_Delete(c->id);
    json_stream_free(&c->stream);
    free(c->output);
    *c = (struct qmp_client){.qmp = c->qmp, .fd = -1};
}

/* False when the client has gone (and was closed). */
static bool client_flush(struct qmp_client *c)
{
    size_t done = 0;
    while (done < c->output_len) {
        ssize_t n = send(c->fd, c->output + done, c->output_len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            client_close(c);
            return false;
        }
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (done)
        memmove(c->output, c->output + done, c->output_len - done);
    c->output_len -= done;
    return true;
}

/* Queues one JSON text and its line end; obj is consumed. A client that does not read is thrown out. */
static void client_send(struct qmp_client *c, cJSON *obj)
{
    char *text = obj ? cJSON_PrintUnformatted(obj) : NULL;
    size_t len = text ? strlen(text) : 0;
    cJSON_Delete(obj);
    if (text && c->fd >= 0 && !c->closing) {
        if (c->output_len + len + 2 > c->output_room) {
            size_t room = (c->output_len + len + 2) * 2;
            char *grown = room > OUTPUT_MAX ? NULL : realloc(c->output, room);
            if (!grown)
                c->closing = true;
            else {
                c->output = grown;
                c->output_room = room;
            }
        }
        if (!c->closing) {
            memcpy(c->output + c->output_len, text, len);
            memcpy(c->output + c->output_len + len, "\r\n", 2);
            c->output_len += len + 2;
        }
        update_watch(c);
    }
    cJSON_free(text);
}

static void send_error(struct qmp_client *c, const char *class, const char *text, cJSON *id)
{
    cJSON *reply = cJSON_CreateObject(), *error = cJSON_AddObjectToObject(reply, "error");
    cJSON_AddStringToObject(error, "class", class);
    cJSON_AddStringToObject(error, "desc", text);
    if (id)
        cJSON_AddItemToObject(reply, "id", id);
    client_send(c, reply);
}

static void send_return(struct qmp_client *c, cJSON *result, cJSON *id)
{
    cJSON *reply = cJSON_CreateObject();
    cJSON_AddItemToObject(reply, "return", result ? result : cJSON_CreateObject());
    if (id)
        cJSON_AddItemToObject(reply, "id", id);
    client_send(c, reply);
}

static void send_greeting(struct qmp_client *c)
{
    cJSON *greeting = cJSON_CreateObject(), *qmp = cJSON_AddObjectToObject(greeting, "QMP");
    cJSON *version = cJSON_AddObjectToObject(qmp, "version");
    version_add_json(version);
    cJSON_AddArrayToObject(qmp, "capabilities");
    client_send(c, greeting);
}

void qmp_event(struct qmp *q, const char *name, cJSON *data)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    cJSON *event = cJSON_CreateObject(), *stamp = cJSON_AddObjectToObject(event, "timestamp");
    cJSON_AddNumberToObject(stamp, "seconds", (double)ts.tv_sec);
    cJSON_AddNumberToObject(stamp, "microseconds", (double)(ts.tv_nsec / 1000));
    cJSON_AddStringToObject(event, "event", name);
    if (data)
        cJSON_AddItemToObject(event, "data", data);
    for (int i = 0; q && i < CLIENTS_MAX; i++)
        if (q->clients[i].fd >= 0 && q->clients[i].negotiated)
            client_send(&q->clients[i], cJSON_Duplicate(event, true));
    cJSON_Delete(event);
}

/* ---- commands ---- */

static void run_command(struct qmp_client *c, const char *name, const cJSON *arguments, cJSON *id)
{
    struct qmp *q = c->qmp;
    bool negotiation = !strcmp(name, "qmp_capabilities");
    if (!c->negotiated && !negotiation)
        return send_error(c, "CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'", id);
    if (negotiation) {
        if (c->negotiated)
            return send_error(c, "CommandNotFound", "Capabilities negotiation is already complete, command ignored",
                              id);
        c->negotiated = true;
        return send_return(c, NULL, id);
    }
    struct qmp_call call = {.qmp = q,
                            .client = c,
                            .target = &q->target,
                            .typist = q->typist,
                            .arguments = arguments,
                            .error_class = "GenericError"};
    c->id = id; /* a command may end inside the call already */
    c->waiting = true;
    enum qmp_outcome outcome = qmp_command_run(&call, name);
    if (outcome == QMP_LATER)
        return;
    c->waiting = false;
    c->id = NULL;
    if (outcome == QMP_DONE)
        send_return(c, call.result, id);
    else
        send_error(c, call.error_class, call.error, id);
}

static void handle_object(struct qmp_client *c, const char *text, size_t len)
{
    cJSON *request = cJSON_ParseWithLength(text, len);
    cJSON *empty = NULL;
    if (!cJSON_IsObject(request)) {
        send_error(c, "GenericError", "Invalid JSON syntax", NULL);
        cJSON_Delete(request);
        return;
    }
    cJSON *id = cJSON_DetachItemFromObjectCaseSensitive(request, "id");
    const cJSON *execute = cJSON_GetObjectItemCaseSensitive(request, "execute");
    const cJSON *arguments = cJSON_GetObjectItemCaseSensitive(request, "arguments"), *item;
    const char *wrong = NULL;
    char text_buf[160];
    cJSON_ArrayForEach(item, request) if (strcmp(item->string, "execute") && strcmp(item->string, "arguments"))
    {
        snprintf(text_buf, sizeof text_buf, "QMP input member '%.80s' is unexpected", item->string);
        wrong = text_buf;
    }
    if (!execute)
        wrong = "QMP input lacks member 'execute'";
    else if (!cJSON_IsString(execute))
        wrong = "QMP input member 'execute' must be a string";
    else if (arguments && !cJSON_IsObject(arguments))
        wrong = "QMP input member 'arguments' must be an object";
    if (wrong)
        send_error(c, "GenericError", wrong, id);
    else
        run_command(c, execute->valuestring, arguments ? arguments : (empty = cJSON_CreateObject()), id);
    cJSON_Delete(empty);
    cJSON_Delete(request);
}

/* Handles what was read until it is used up or a command has to be waited for. */
static void handle_input(struct qmp_client *c)
{
    while (c->input_start < c->input_end && !c->waiting && !c->closing) {
        switch (json_stream_put(&c->stream, c->input[c->input_start++])) {
        case JSON_STREAM_MORE:
            break;
        case JSON_STREAM_OBJECT: {
            size_t len = c->stream.len;
            /* The command may close the client, and with it the buffer: the text is used before anything else happens.
             */
            handle_object(c, c->stream.buf, len);
            json_stream_next(&c->stream);
            break;
        }
        case JSON_STREAM_BAD:
            send_error(c, "GenericError", "JSON parse error: an object is expected", NULL);
            break;
        case JSON_STREAM_TOO_LONG:
            send_error(c, "GenericError", "JSON object is too long", NULL);
            c->closing = true;
            break;
        }
    }
}

void qmp_finish(struct qmp_client *c, const char *error)
{
    cJSON *id = c->id;
    c->id = NULL;
    c->waiting = false;
    if (error)
        send_error(c, "GenericError", error, id);
    else
        send_return(c, NULL, id);
    update_watch(c);
    /* The rest of what was read is handled when the loop comes round: LOOP_WRITE is pending now. */
}

static void client_ready(void *opaque, int fd, unsigned events)
{
    struct qmp_client *c = opaque;
    if (c->fd != fd)
        return;
    if ((events & LOOP_WRITE) && !client_flush(c))
        return;
    if ((events & LOOP_READ) && !c->waiting && !c->closing && c->input_start == c->input_end) {
        ssize_t n = recv(fd, c->input, sizeof c->input, 0);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return client_close(c);
        c->closing = n == 0; /* the client may still read: what is queued goes out first */
        c->input_start = 0;
        c->input_end = n > 0 ? (size_t)n : 0;
    } else if ((events & LOOP_READ) && c->closing) {
        return client_close(c); /* hang-up while the last words are being sent */
    }
    handle_input(c);
    if (c->closing && !c->output_len)
        return client_close(c);
    update_watch(c);
}

/* ---- clients ---- */

int qmp_add_client(struct qmp *q, int fd)
{
    for (int i = 0; i < CLIENTS_MAX; i++) {
        struct qmp_client *c = &q->clients[i];
        if (c->fd >= 0)
            continue;
        *c = (struct qmp_client){.qmp = q, .fd = fd};
        send_greeting(c);
        return 0;
    }
    return -EMFILE;
}

static void listener_ready(void *opaque, int fd, unsigned events)
{
    struct qmp *q = opaque;
    int client = unix_accept(&q->listener);
    if (client >= 0 && qmp_add_client(q, client))
        close(client);
}

struct qmp *qmp_open(const char *path, char *err, size_t err_len)
{
    char reason[160];
    struct qmp *q = calloc(1, sizeof *q);
    if (!q) {
        snprintf(err, err_len, "--qmp unix:%s: %s", path ? path : "", strerror(ENOMEM));
        return NULL;
    }
    q->listener.fd = -1;
    for (int i = 0; i < CLIENTS_MAX; i++)
        q->clients[i] = (struct qmp_client){.qmp = q, .fd = -1};
    if (path && unix_listen(&q->listener, path, reason, sizeof reason)) {
        snprintf(err, err_len, "--qmp unix:%s: %s", path, reason);
        free(q);
        return NULL;
    }
    return q;
}

static void press_key(void *opaque, unsigned key, bool down)
{
    struct qmp *q = opaque;
    q->target.key(q->target.opaque, key, down);
}

int qmp_attach(struct qmp *q, struct loop *loop, struct clock *clock, const struct qmp_target *target)
{
    q->loop = loop;
    q->target = *target;
    q->typist = typist_create(clock, press_key, q);
    if (!q->typist)
        return -ENOMEM;
    return q->listener.fd >= 0 ? loop_watch(loop, q->listener.fd, LOOP_READ, listener_ready, q) : 0;
}

void qmp_close(struct qmp *q)
{
    if (!q)
        return;
    for (int i = 0; i < CLIENTS_MAX; i++) {
        struct qmp_client *c = &q->clients[i];
        while (c->fd >= 0 && c->output_len) {
            struct pollfd p = {.fd = c->fd, .events = POLLOUT};
            if (poll(&p, 1, CLOSE_PATIENCE_MS) <= 0 || !client_flush(c))
                break;
        }
        client_close(c);
    }
    if (q->loop && q->listener.fd >= 0)
        loop_watch(q->loop, q->listener.fd, 0, NULL, NULL);
    unix_listener_close(&q->listener);
    typist_destroy(q->typist);
    free(q);
}
