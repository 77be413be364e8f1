/*
 * buffers.c - which buffer every value lives in.
 *
 * Ops run in order, so a value lives from the op that makes it to the last op that reads it. Buffers are handed out
 * greedily in that order; the smallest free one that is large enough is taken, else the largest free one grows.
 */
#include <stdlib.h>

#include "graph/graph.h"

/* last[v] = index of the last op that reads value v. The maker's own index when nobody does; op_count (never dies) for
 * the logits, and for the input, which stays for the next mask of the same examples. */
static void last_reads(const graph *g, size_t *last) {
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        last[o->output] = i;
        for (int k = 0; k < 3; k++)
            if (o->input[k] >= 0) last[o->input[k]] = i;
        if (o->residual >= 0) last[o->residual] = i;
    }
    last[0] = g->op_count;
    if (g->logits >= 0) last[g->logits] = g->op_count;
}

/* A convolution may write over the value it adds when this is that value's last use: each element is read just before
 * the same element is written. Not when the convolution also reads it as its input (at other positions). */
static bool takes_over_residual(const op *o, size_t i, const size_t *last) {
    return o->residual >= 0 && last[o->residual] == i && o->residual != o->input[0];
}

/* Index of the best free buffer for `need` elements, or -1. */
static int best_free(const buffer_plan *plan, const bool *busy, size_t need) {
    int best = -1;
    for (size_t b = 0; b < plan->buffers; b++) {
        if (busy[b]) continue;
        size_t size = plan->size[b], chosen = best < 0 ? 0 : plan->size[best];
        bool better = size >= need ? chosen < need || size < chosen : size > chosen;
        if (best < 0 || better) best = (int)b;
    }
    return best;
}

static void assign(const graph *g, bool keep_all, const size_t *last, bool *busy, buffer_plan *plan) {
    plan->buffer[0] = 0;
    plan->size[0] = shape_positions(g->values[0]) * g->values[0].c;
    plan->buffers = 1;
    busy[0] = true;
    for (size_t i = 0; i < g->op_count; i++) {
        const op *o = &g->ops[i];
        size_t need = shape_positions(g->values[o->output]) * g->values[o->output].c;
        int b = -1;
        if (!keep_all) b = takes_over_residual(o, i, last) ? plan->buffer[o->residual] : best_free(plan, busy, need);
        if (b < 0) b = (int)plan->buffers++;
        if (plan->size[b] < need) plan->size[b] = need;
        plan->buffer[o->output] = b;
        /* First what dies here is freed, then the output (which may have taken a dying residual's buffer) is marked. */
        for (int k = 0; k < 3; k++)
            if (o->input[k] >= 0 && last[o->input[k]] == i) busy[plan->buffer[o->input[k]]] = false;
        if (o->residual >= 0 && last[o->residual] == i) busy[plan->buffer[o->residual]] = false;
        busy[b] = last[o->output] > i;
    }
}

coar_status buffer_plan_create(const graph *g, bool keep_all, buffer_plan *out) {
    coar_status status = COAR_OK;
    buffer_plan plan = {0};
    size_t *last = NULL;
    bool *busy = NULL;
    *out = plan;
    TRY_GOTO(memory_new(g->value_count, sizeof *plan.buffer, "buffer plan", &plan.buffer));
    TRY_GOTO(memory_new(g->value_count, sizeof *plan.size, "buffer plan", &plan.size));
    TRY_GOTO(memory_new(g->value_count, sizeof *last, "buffer plan", &last));
    TRY_GOTO(memory_new(g->value_count, sizeof *busy, "buffer plan", &busy));
    last_reads(g, last);
    assign(g, keep_all, last, busy, &plan);
    for (size_t b = 0; b < plan.buffers; b++)
        if (!size_add(plan.total, plan.size[b], &plan.total)) {
            status = status_set(COAR_ERROR_MEMORY, "the values of this model are more than this machine can address");
            goto done;
        }
    *out = plan;
    plan = (buffer_plan){0};
done:
    free(busy);
    free(last);
    buffer_plan_free(&plan);
    return status;
}

void buffer_plan_free(buffer_plan *plan) {
    free(plan->buffer);
    free(plan->size);
    *plan = (buffer_plan){0};
}
