/* SPDX-License-Identifier: MIT */
/* Where a machine's memory and vCPU threads are on the host: processors, NUMA nodes, huge pages. */
#ifndef RINGFOLD_SHADOWMMU_PLACEMENT_H
#define RINGFOLD_SHADOWMMU_PLACEMENT_H

#include "shadowmmu/memory.h"

#include <pthread.h>

enum { PLACEMENT_MAX_CPUS = 256, PLACEMENT_NO_NODE = -1, PLACEMENT_AUTO_NODE = -2 };

struct placement {
    uint16_t cpus[PLACEMENT_MAX_CPUS]; /* vCPU n runs on cpus[n % cpu_count] */
    unsigned cpu_count;                /* 0: wherever the host likes */
    bool numa;                         /* bind memory and vCPUs to node */
    int node;                          /* or PLACEMENT_AUTO_NODE */
    bool huge_pages;
};

/* "0,2,4-7" into cpus. Processors that this process may not use are refused. 0, or -1 with the reason. */
int placement_parse_cpus(struct placement *p, const char *list, char *err, size_t err_len);
/* "auto" or a node's number. 0, or -1 with the reason. */
int placement_parse_node(struct placement *p, const char *text, char *err, size_t err_len);

/* Backs guest memory with huge pages and binds it to its node, as asked for; before anything was written to it. auto
 * becomes the node of the first processor of cpus, else the one with most free memory. 0, or -errno with one line. */
int placement_apply_memory(struct placement *p, struct memory *m, char *err, size_t err_len);
/* Binds the calling vCPU's thread. 0 or -errno. */
int placement_apply_thread(const struct placement *p, unsigned vcpu, pthread_t thread);

#endif
