/* SPDX-License-Identifier: MIT */
#include "frontend/backend.h"

#include <string.h>

int backend_open(struct backend **out, const char *spec, char *err, size_t err_len)
{
    *out = NULL;
    if (!strcmp(spec, "none"))
        return 0;
    if (!strcmp(spec, "pty"))
        *out = backend_open_pty(err, err_len);
    else if (!strncmp(spec, "file:", 5))
        *out = backend_open_file(spec + 5, err, err_len);
    else if (!strncmp(spec, "unix:", 5))
        *out = backend_open_unix(spec + 5, err, err_len);
    else
        *out = backend_open_stdio(err, err_len);
    return *out ? 0 : -1;
}

int backend_attach(struct backend *b, struct loop *loop, const struct backend_events *events)
{
    b->loop = loop;
    b->events = *events;
    return b->attach ? b->attach(b) : 0;
}

size_t backend_close(struct backend *b, unsigned patience_ms)
{
    return b ? b->close(b, patience_ms) : 0;
}
