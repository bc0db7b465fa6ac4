/* SPDX-License-Identifier: MIT */
#include "decoder/capstone.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

static struct capstone capstone;
static bool loaded;

static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    *(void **)function = symbol;
    return symbol;
}

static void load(void)
{
    char name[32];
    struct capstone *c = &capstone;
    snprintf(name, sizeof name, "libcapstone.so.%d", CS_API_MAJOR);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    loaded = library && find(library, "cs_open", &c->open) && find(library, "cs_close", &c->close) &&
             find(library, "cs_option", &c->option) && find(library, "cs_malloc", &c->alloc) &&
             find(library, "cs_free", &c->release) && find(library, "cs_disasm", &c->disasm) &&
             find(library, "cs_disasm_iter", &c->disasm_iter) && find(library, "cs_insn_group", &c->insn_group) &&
             find(library, "cs_regs_access", &c->regs_access);
}

const struct capstone *capstone_load(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return loaded ? &capstone : NULL;
}
