/* SPDX-License-Identifier: MIT */
/* /tmp/perf-PID.map: the names by which perf(1) shows translated code. One symbol for each block, guest:ADDRESS (the
 * offset in CS of its first instruction), and ringfold-glue.
 *
 * perf reads the file when it reports, not when it records: the file holds the translations since the last flush of the
 * code cache, and stays when the machine ends. Uses libc: the guest's vector state must not be live in the host's
 * registers. */
#ifndef RINGFOLD_BT_PERF_MAP_H
#define RINGFOLD_BT_PERF_MAP_H

#include "bt/cache.h"

/* Opens the file. Without one (it cannot be written, somebody else's file is there) there are no names: no error. */
void bt_perf_map_open(struct bt_vcpu *v);
void bt_perf_map_close(struct bt_vcpu *v);
/* A block was published. */
void bt_perf_map_add(struct bt_vcpu *v, const struct bt_block *b);
/* The code cache was flushed: addresses will be used again. */
void bt_perf_map_flushed(struct bt_vcpu *v);

#endif
