/* SPDX-License-Identifier: MIT */
/* Which engine runs the machine. */
#ifndef RINGFOLD_FRONTEND_ENGINES_H
#define RINGFOLD_FRONTEND_ENGINES_H

#include "frontend/options.h"

/* Takes the engine of choice. note: why, in a few words, for the line on stderr. NULL with one line in err when it
 * cannot be had. */
const struct engine *engines_choose(enum engine_choice choice, char *note, size_t note_len, char *err, size_t err_len);

/* What /dev/kvm looks like from here. */
enum kvm_node { KVM_NODE_MISSING, KVM_NODE_FORBIDDEN, KVM_NODE_BROKEN, KVM_NODE_PRESENT };
enum kvm_node engines_kvm_node(char *text, size_t text_len);

#endif
