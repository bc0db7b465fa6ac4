/* SPDX-License-Identifier: MIT */
#include "bt/perf_map.h"

#include <fcntl.h>
#include <unistd.h>

static void begin(struct bt_vcpu *v)
{
    fprintf(v->perf_map, "%lx %zx ringfold-glue\n", (unsigned long)v->cache->exec_view, v->cache->glue_size);
}

void bt_perf_map_open(struct bt_vcpu *v)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
    /* A folder that everyone writes to: never through a link that somebody put there. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    v->perf_map = fd < 0 ? NULL : fdopen(fd, "w");
    if (!v->perf_map) {
        if (fd >= 0)
            close(fd);
        return;
    }
    setvbuf(v->perf_map, NULL, _IOLBF, 0); /* whole lines, for a perf that looks while the machine runs */
    begin(v);
}

void bt_perf_map_close(struct bt_vcpu *v)
{
    if (v->perf_map)
        fclose(v->perf_map);
    v->perf_map = NULL;
}

void bt_perf_map_add(struct bt_vcpu *v, const struct bt_block *b)
{
    fprintf(v->perf_map, "%lx %x guest:%llx\n", (unsigned long)(b->entry - BT_ENTRY_SAVED), b->size + BT_ENTRY_SAVED,
            (unsigned long long)b->eip);
}

void bt_perf_map_flushed(struct bt_vcpu *v)
{
    fflush(v->perf_map);
    rewind(v->perf_map);
    if (ftruncate(fileno(v->perf_map), 0) == 0)
        begin(v);
}
