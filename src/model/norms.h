/*
 * norms.h - how large the weights are that belong to a component.
 * Must not know: runs, what the norms are for.
 */
#ifndef COAR_MODEL_NORMS_H
#define COAR_MODEL_NORMS_H

#include "graph/graph.h"

/* norms[n]: the Euclidean norm of what an edited weight file has zeros for (docs/design.md, section 2), without what is
 * folded into scale and shift: the component's rows; where it acts on a value that others read (heads, GPT-2's input
 * rows), the columns that they read it by. */
void model_row_norms(const graph *g, double *norms);

#endif
