/* SPDX-License-Identifier: MIT */
/* Which engine runs the machine. */
#ifndef RINGFOLD_FRONTEND_ENGINES_H
#define RINGFOLD_FRONTEND_ENGINES_H

#include "frontend/options.h"

/* Takes the engine of choice. note: why, in a few words, for the line on stderr. NULL with one line in err when it
 * cannot be had. */
const struct engine *engines_choose(enum engine_choice choice, const struct machine_config *config, char *note,
                                    size_t note_len, char *err, size_t err_len);
/* Is this engine known not to carry the mode the guest is in? Then true with one line in err. */
bool engines_refuse_now(const struct engine *engine, const struct cpu *cpu, char *err, size_t err_len);
/* By name, NULL: there is none. */
const struct engine *engines_find(const char *name);

#endif
