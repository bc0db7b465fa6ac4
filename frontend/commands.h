/* SPDX-License-Identifier: MIT */
/* The sub-commands of the program. argv[0] is the sub-command; each returns the exit status. */
#ifndef RINGFOLD_FRONTEND_COMMANDS_H
#define RINGFOLD_FRONTEND_COMMANDS_H

int command_run(int argc, char **argv);
int command_ctl(int argc, char **argv);
int command_doctor(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_verify(int argc, char **argv);

#endif
