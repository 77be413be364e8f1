/* norms.c - see norms.h. */
#include "model/norms.h"

#include <math.h>
#include <string.h>

/* Adds the squares of row c of a convolution's weights [O][I][taps]. */
static double row_square(const graph *g, const op *o, uint32_t row) {
    const size_t inputs = g->values[o->input[0]].c, taps = (size_t)o->kernel_h * o->kernel_w;
    const float *w = o->weight + row * inputs * taps;
    double sum = 0;
    for (size_t i = 0; i < inputs * taps; i++) sum += (double)w[i] * w[i];
    return sum;
}

static double column_square(const graph *g, const op *o, uint32_t column) {
    const size_t rows = g->values[o->output].c, inputs = g->values[o->input[0]].c;
    const size_t taps = (size_t)o->kernel_h * o->kernel_w;
    double sum = 0;
    for (size_t r = 0; r < rows; r++) {
        const float *w = o->weight + (r * inputs + column) * taps;
        for (size_t i = 0; i < taps; i++) sum += (double)w[i] * w[i];
    }
    return sum;
}

/* What is zeroed for channel c of the value that the op makes. */
static double channel_square(const graph *g, const op *o, uint32_t channel) {
    if (o->mask.place != PLACE_OUT) return row_square(g, o, channel);
    double sum = 0;
    for (size_t r = 0; r < g->op_count; r++)
        if (g->ops[r].kind == OP_CONV && g->ops[r].input[0] == o->output) sum += column_square(g, &g->ops[r], channel);
    return sum;
}

void model_row_norms(const graph *g, double *norms) {
    memset(norms, 0, g->components * sizeof *norms);
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        if (o->mask.place == PLACE_NONE) continue;
        for (uint32_t c = 0; c < o->mask.count * o->mask.width; c++)
            norms[o->mask.first + c / o->mask.width] += channel_square(g, o, c);
    }
    for (uint32_t j = 0; j < g->components; j++) norms[j] = sqrt(norms[j]);
}
