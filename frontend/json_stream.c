/* SPDX-License-Identifier: MIT */
#include "frontend/json_stream.h"

#include <stdlib.h>

static bool append(struct json_stream *s, char byte)
{
    if (s->len + 2 > s->room) {
        size_t room = s->room ? s->room * 2 : 256;
        char *grown = room > 2 * JSON_STREAM_MAX ? NULL : realloc(s->buf, room);
        if (!grown)
            return false;
        s->buf = grown;
        s->room = room;
    }
    s->buf[s->len++] = byte;
    s->buf[s->len] = 0;
    return s->len <= JSON_STREAM_MAX;
}

static enum json_stream_result bad(struct json_stream *s, enum json_stream_result result)
{
    json_stream_next(s);
    s->skipping = true;
    return result;
}

/* A byte inside an object. True when it closed the outermost bracket. */
static bool track(struct json_stream *s, char byte)
{
    if (s->in_string) {
        if (s->escaped)
            s->escaped = false;
        else if (byte == '\\')
            s->escaped = true;
        else if (byte == '"')
            s->in_string = false;
        return false;
    }
    if (byte == '"')
        s->in_string = true;
    else if (byte == '{' || byte == '[')
        s->depth++;
    else if (byte == '}' || byte == ']')
        return --s->depth == 0;
    return false;
}

enum json_stream_result json_stream_put(struct json_stream *s, char byte)
{
    if ((unsigned char)byte == 0xff) { /* never valid UTF-8: QMP clients send it to start afresh */
        json_stream_next(s);
        s->skipping = false;
        return JSON_STREAM_MORE;
    }
    if (s->skipping) {
        s->skipping = byte != '\n';
        return JSON_STREAM_MORE;
    }
    if (s->depth == 0) {
        if (byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n')
            return JSON_STREAM_MORE;
        if (byte != '{') {
            bad(s, JSON_STREAM_BAD);
            return JSON_STREAM_BAD;
        }
    }
    if (byte == 0)
        return bad(s, JSON_STREAM_BAD);
    if (!append(s, byte))
        return bad(s, JSON_STREAM_TOO_LONG);
    if (track(s, byte))
        return JSON_STREAM_OBJECT;
    return s->depth > JSON_STREAM_DEPTH_MAX ? bad(s, JSON_STREAM_BAD) : JSON_STREAM_MORE;
}

void json_stream_next(struct json_stream *s)
{
    s->len = 0;
    s->depth = 0;
    s->in_string = s->escaped = false;
}

void json_stream_free(struct json_stream *s)
{
    free(s->buf);
    *s = (struct json_stream){0};
}
