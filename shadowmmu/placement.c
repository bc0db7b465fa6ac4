/* SPDX-License-Identifier: MIT */
#include "shadowmmu/placement.h"

#include <ctype.h>
#include <dlfcn.h>
#include <errno.h>
#include <numa.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE (2ull << 20)

/* ---- the words of the command line ---- */

static int read_number(const char **text, unsigned *value)
{
    char *end;
    if (!isdigit((unsigned char)**text))
        return -1;
    errno = 0;
    unsigned long n = strtoul(*text, &end, 10);
    if (errno || n > 65535)
        return -1;
    *text = end;
    *value = (unsigned)n;
    return 0;
}

static int add_cpu(struct placement *p, unsigned n, const cpu_set_t *allowed, char *err, size_t err_len)
{
    if (n >= CPU_SETSIZE || !CPU_ISSET(n, allowed)) {
        snprintf(err, err_len, "processor %u is not there, or not for this process (nproc tells how many are)", n);
        return -1;
    }
    if (p->cpu_count == PLACEMENT_MAX_CPUS) {
        snprintf(err, err_len, "more than %d processors", PLACEMENT_MAX_CPUS);
        return -1;
    }
    p->cpus[p->cpu_count++] = (uint16_t)n;
    return 0;
}

int placement_parse_cpus(struct placement *p, const char *list, char *err, size_t err_len)
{
    cpu_set_t allowed;
    unsigned first, last;
    CPU_ZERO(&allowed);
    sched_getaffinity(0, sizeof allowed, &allowed);
    p->cpu_count = 0;
    for (;;) {
        if (read_number(&list, &first))
            break;
        last = first;
        if (*list == '-' && (list++, read_number(&list, &last) || last < first))
            break;
        for (unsigned n = first; n <= last; n++)
            if (add_cpu(p, n, &allowed, err, err_len))
                return -1;
        if (!*list)
            return 0;
        if (*list++ != ',')
            break;
    }
    snprintf(err, err_len, "a list of host processors is expected, like 2 or 0,2,4-7");
    return -1;
}

/* libnuma, loaded when --numa asks for it: its initialisation reads the nodes from /sys and /proc. Names as in numa.h,
 * without numa_. */
static struct {
    __typeof__(numa_available) *available;
    __typeof__(numa_max_node) *max_node;
    __typeof__(numa_get_mems_allowed) *get_mems_allowed;
    __typeof__(numa_bitmask_isbitset) *bitmask_isbitset;
    __typeof__(numa_node_size64) *node_size64;
    __typeof__(numa_node_of_cpu) *node_of_cpu;
    __typeof__(numa_set_bind_policy) *set_bind_policy;
    __typeof__(numa_tonode_memory) *tonode_memory;
    __typeof__(numa_allocate_cpumask) *allocate_cpumask;
    __typeof__(numa_node_to_cpus) *node_to_cpus;
    __typeof__(numa_bitmask_free) *bitmask_free;
} numa;

static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    *(void **)function = symbol;
    return symbol;
}

static bool load_numa(void)
{
    void *library = dlopen("libnuma.so.1", RTLD_NOW | RTLD_LOCAL);
    return library && find(library, "numa_available", &numa.available) &&
           find(library, "numa_max_node", &numa.max_node) &&
           find(library, "numa_get_mems_allowed", &numa.get_mems_allowed) &&
           find(library, "numa_bitmask_isbitset", &numa.bitmask_isbitset) &&
           find(library, "numa_node_size64", &numa.node_size64) &&
           find(library, "numa_node_of_cpu", &numa.node_of_cpu) &&
           find(library, "numa_set_bind_policy", &numa.set_bind_policy) &&
           find(library, "numa_tonode_memory", &numa.tonode_memory) &&
           find(library, "numa_allocate_cpumask", &numa.allocate_cpumask) &&
           find(library, "numa_node_to_cpus", &numa.node_to_cpus) &&
           find(library, "numa_bitmask_free", &numa.bitmask_free);
}

static int check_numa(char *err, size_t err_len)
{
    if (!load_numa())
        snprintf(err, err_len, "libnuma.so.1 is missing (Debian: libnuma1)");
    else if (numa.available() < 0)
        snprintf(err, err_len, "this host has no NUMA support");
    else
        return 0;
    return -1;
}

int placement_parse_node(struct placement *p, const char *text, char *err, size_t err_len)
{
    unsigned n;
    if (!strcmp(text, "auto")) {
        p->node = PLACEMENT_AUTO_NODE;
    } else {
        if (read_number(&text, &n) || *text) {
            snprintf(err, err_len, "auto or the number of a node is expected");
            return -1;
        }
        p->node = (int)n;
    }
    if (check_numa(err, err_len))
        return -1;
    if (p->node > numa.max_node() || (p->node >= 0 && !numa.bitmask_isbitset(numa.get_mems_allowed(), n))) {
        snprintf(err, err_len, "there is no such node with memory for this process; the last is %d", numa.max_node());
        return -1;
    }
    p->numa = true;
    return 0;
}

/* ---- memory ---- */

static void read_line(const char *path, char *buf, size_t len)
{
    FILE *f = fopen(path, "re");
    buf[0] = 0;
    if (!f)
        return;
    if (!fgets(buf, (int)len, f))
        buf[0] = 0;
    fclose(f);
}

/* Memory from the pool of huge pages (vm.nr_hugepages) in place of the ordinary pages. */
static int use_reserved_pages(struct memory *m)
{
    uint64_t size = (m->ram_size + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    int fd = memfd_create("ringfold-ram", MFD_CLOEXEC | MFD_HUGETLB | (21u << 26) /* MFD_HUGE_2MB */);
    if (fd < 0)
        return -errno;
    void *p = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0)
        p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) {
        int error = errno;
        close(fd);
        return -error;
    }
    memory_replace_pool(m, p, size, fd);
    return 0;
}

/* Transparent huge pages: only where the host gives them to shared memory. */
static bool use_transparent_pages(struct memory *m)
{
    char mode[128];
    read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", mode, sizeof mode);
    if (!*mode || strstr(mode, "[never]") || strstr(mode, "[deny]"))
        return false;
    return madvise(m->ram, m->ram_size, MADV_HUGEPAGE) == 0;
}

static int apply_huge_pages(struct memory *m, char *err, size_t err_len)
{
    char line[64];
    int r = use_reserved_pages(m);
    if (!r || use_transparent_pages(m))
        return 0;
    read_line("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", line, sizeof line);
    line[strcspn(line, "\n")] = 0;
    snprintf(
        err, err_len,
        "--hugepages: %llu pages of 2 MiB are needed, %s are free (sysctl vm.nr_hugepages reserves some), and this "
        "host gives no transparent huge pages to shared memory",
        (unsigned long long)((m->ram_size + HUGE_PAGE - 1) / HUGE_PAGE), *line ? line : "none");
    return r;
}

static int roomiest_node(void)
{
    int best = 0;
    long long most = -1;
    for (int n = 0; n <= numa.max_node(); n++) {
        long long free_bytes = 0;
        if (!numa.bitmask_isbitset(numa.get_mems_allowed(), (unsigned)n) || numa.node_size64(n, &free_bytes) < 0)
            continue;
        if (free_bytes > most) {
            most = free_bytes;
            best = n;
        }
    }
    return best;
}

int placement_apply_memory(struct placement *p, struct memory *m, char *err, size_t err_len)
{
    if (p->huge_pages) {
        int r = apply_huge_pages(m, err, err_len);
        if (r)
            return r;
    }
    if (!p->numa)
        return 0;
    if (p->node == PLACEMENT_AUTO_NODE)
        p->node = p->cpu_count ? numa.node_of_cpu(p->cpus[0]) : roomiest_node();
    long long free_bytes = 0;
    numa.node_size64(p->node, &free_bytes);
    if (free_bytes < (long long)m->ram_size) {
        snprintf(err, err_len, "--numa: node %d has %lld MiB free, the guest's memory is %llu MiB", p->node,
                 free_bytes >> 20, (unsigned long long)m->ram_size >> 20);
        return -ENOMEM;
    }
    numa.set_bind_policy(1);
    numa.tonode_memory(m->ram, m->ram_size, p->node);
    return 0;
}

/* ---- threads ---- */

int placement_apply_thread(const struct placement *p, unsigned vcpu, pthread_t thread)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (p->cpu_count) {
        CPU_SET(p->cpus[vcpu % p->cpu_count], &set);
    } else if (p->numa && p->node >= 0) {
        struct bitmask *cpus = numa.allocate_cpumask();
        if (numa.node_to_cpus(p->node, cpus) == 0)
            for (unsigned n = 0; n < CPU_SETSIZE && n < cpus->size; n++)
                if (numa.bitmask_isbitset(cpus, n))
                    CPU_SET(n, &set);
        numa.bitmask_free(cpus);
    }
    return CPU_COUNT(&set) ? -pthread_setaffinity_np(thread, sizeof set, &set) : 0;
}
