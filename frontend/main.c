/* SPDX-License-Identifier: MIT */
#include "cpu/cpuid.h"
#include "frontend/cleanup.h"
#include "frontend/commands.h"
#include "frontend/options.h"
#include "frontend/terminal.h"
#include "frontend/version.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char usage[] = "Usage: ringfold run [OPTIONS] [IMAGE]          "
                            "run a machine (ringfold run --help)\n"
                            "       ringfold ctl SOCKET COMMAND [ARGS...]   "
                            "talk to a running machine (ringfold ctl --help)\n"
                            "       ringfold doctor                         "
                            "what this host offers, and what to install\n"
                            "       ringfold bench                          "
                            "engines side by side (ringfold bench --help)\n"
                            "       ringfold verify [OPTIONS] [IMAGE]       "
                            "a guest in lockstep with a reference\n"
                            "       ringfold --version\n";

/* Help text went to stdout: a full disk or a closed pipe is worth a status. */
static int printed(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    complain("stdout: %s", strerror(errno));
    return EXIT_HOST;
}

int main(int argc, char **argv)
{
    terminal_reserve_stdio();
    cpu_tsc_begin();
    const char *word = argc > 1 ? argv[1] : "";
    if (!strcmp(word, "run"))
        return command_run(argc - 1, argv + 1);
    if (!strcmp(word, "ctl"))
        return command_ctl(argc - 1, argv + 1);
    if (!strcmp(word, "doctor"))
        return command_doctor(argc - 1, argv + 1);
    if (!strcmp(word, "bench"))
        return command_bench(argc - 1, argv + 1);
    if (!strcmp(word, "verify"))
        return command_verify(argc - 1, argv + 1);
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help")) {
        fputs(usage, stdout);
        return printed();
    }
    if (!strcmp(word, "--version")) {
        printf("ringfold %d.%d.%d\n", VERSION_MAJOR, VERSION_MINOR, VERSION_MICRO);
        return printed();
    }
    if (*word)
        complain("%s: no such command; there are run, ctl, doctor, bench and verify (see ringfold "
                 "--help)",
                 word);
    else
        fputs(usage, stderr);
    return EXIT_USAGE;
}
