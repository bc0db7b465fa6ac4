/* SPDX-License-Identifier: MIT */
/* Finds the JSON objects in a byte stream that arrives in arbitrary pieces, as QMP sends them: one after another, with
 * any white space between. Only brackets and strings are looked at; what is inside is for the JSON parser. */
#ifndef RINGFOLD_FRONTEND_JSON_STREAM_H
#define RINGFOLD_FRONTEND_JSON_STREAM_H

#include <stdbool.h>
#include <stddef.h>

enum { JSON_STREAM_MAX = 1 << 20, JSON_STREAM_DEPTH_MAX = 64 };

struct json_stream {
    char *buf; /* the object under way */
    size_t len, room;
    unsigned depth;
    bool in_string, escaped;
    bool skipping; /* after an error: until the line's end */
};

enum json_stream_result {
    JSON_STREAM_MORE,   /* the byte was taken, nothing is complete */
    JSON_STREAM_OBJECT, /* buf holds one object, terminated by 0; json_stream_next before the next byte */
    JSON_STREAM_BAD,    /* no object begins here, or it nests too deeply; the rest of the line is skipped */
    JSON_STREAM_TOO_LONG
};

enum json_stream_result json_stream_put(struct json_stream *s, char byte);
void json_stream_next(struct json_stream *s);
void json_stream_free(struct json_stream *s);

#endif
