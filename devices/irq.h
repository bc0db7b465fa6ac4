/* SPDX-License-Identifier: MIT */
/* An interrupt (or any signal) line: who drives it calls irq_set, who listens gave the function. Copied by value; a
 * zeroed line is not connected. */
#ifndef RINGFOLD_DEVICES_IRQ_H
#define RINGFOLD_DEVICES_IRQ_H

struct irq_line {
    void (*set)(void *opaque, int n, int level);
    void *opaque;
    int n;
};

static inline void irq_set(const struct irq_line *line, int level)
{
    if (line->set)
        line->set(line->opaque, line->n, level);
}

#endif
