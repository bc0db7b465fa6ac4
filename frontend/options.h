/* SPDX-License-Identifier: MIT */
/* The command line of `ringfold run`. Values are checked here as far as they can be without opening a file; what a file
 * holds is checked by who opens it.
 *
 * Every bad value gives one line "OPTION VALUE: reason". */
#ifndef RINGFOLD_FRONTEND_OPTIONS_H
#define RINGFOLD_FRONTEND_OPTIONS_H

#include "devices/machine.h"

#include <stdio.h>

/* Exit statuses of the contract that are not an end of the machine. */
enum { EXIT_USAGE = 64, EXIT_HOST = 125 };

enum engine_choice { ENGINE_CHOICE_AUTO, ENGINE_CHOICE_BT, ENGINE_CHOICE_KVM };

enum { OPTIONS_MIN_RAM = 1 << 20 };
/* 36 physical address bits, less the hole below 4 GiB that RAM continues behind. */
#define OPTIONS_MAX_RAM (63ull << 30)

struct options {
    struct machine_config machine; /* without engine, serial ports and on_reset: run.c fills them in */
    enum engine_choice engine;
    const char *image;                        /* positional IMAGE, NULL: none */
    const char *serial[MACHINE_SERIAL_PORTS]; /* as given; NULL: the default */
    unsigned serial_count;
    const char *qmp; /* path of the control socket */
    const char *screenshot, *screen_text, *stats;
    const char *hot_blocks;
    unsigned hot_block_count;
    uint64_t timeout_ns; /* 0: none */
    bool help;
    char *strings[4 * MACHINE_MAX_DRIVES]; /* private: what options_free frees */
    unsigned string_count;
};

/* argv[0] is "run". 0, or -1 with one line in err. The strings point into argv or belong to the struct. */
int options_parse(struct options *o, int argc, char **argv, char *err, size_t err_len);
void options_free(struct options *o);
void options_print_help(FILE *out);

/* "256M", "1g", "4096", "2GiB": bytes by powers of 1024. 0, or -1 with the reason in *reason. */
int size_parse(const char *text, uint64_t *bytes, const char **reason);
/* Seconds with at most nine decimals, greater than 0. 0, or -1 with the reason in *reason. */
int seconds_parse(const char *text, uint64_t *ns, const char **reason);
/* "user[,hostfwd=tcp:HOSTADDR:PORT-:GUESTPORT]..." or "none". NULL when right, else what is wrong. */
const char *net_check(const char *text);

#endif
