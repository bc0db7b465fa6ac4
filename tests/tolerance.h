/* SPDX-License-Identifier: MIT */
/* In what a result may differ from the processor's without being wrong: where the manuals leave the choice to the
 * processor, makers and generations choose differently. One rule for each such choice, in one table; none asks which
 * processor the host has, so a host may do either, at any time. What ringfold follows its model's vendor in
 * (cpu/cpuid.h) needs no rule. Flags that an instruction leaves undefined are the generator's (insn_generator.h). */
#ifndef RINGFOLD_TESTS_TOLERANCE_H
#define RINGFOLD_TESTS_TOLERANCE_H

#include "tests/insn_generator.h"

enum tolerance {
    TOLERANCE_NONE,    /* compare what there is */
    TOLERANCE_SETTLED, /* ours was brought to real's in what is open: compare the rest */
    TOLERANCE_ALL      /* both are right, and nothing else can be compared */
};

/* Looks for an open choice in which the two results differ. ours and our_data (the data pages) are changed to what the
 * processor chose. */
enum tolerance tolerance_apply(const struct generator_case *c, const struct native_result *real,
                               struct native_result *ours, const uint8_t *real_data, uint8_t *our_data);

#endif
