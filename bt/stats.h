/* SPDX-License-Identifier: MIT */
/* A vCPU's counters for --stats and x-stats. */
#ifndef RINGFOLD_BT_STATS_H
#define RINGFOLD_BT_STATS_H

#include "bt/vcpu.h"

/* The members of a JSON object, without braces (engine.stats). The vCPU may run; then they are of about now. */
void bt_stats_print(const struct cpu *cpu, FILE *out);

#endif
